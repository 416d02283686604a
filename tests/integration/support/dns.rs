//! A small DNS server on loopback, over UDP: it says of names what the test says.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What is said of a name.
#[derive(Clone, Debug)]
pub(crate) enum Says {
    /// These are its addresses, for so many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// These are its IPv6 addresses, for a second, and the server cannot say of IPv4.
    OnlyIpv6(Vec<IpAddr>),
    /// There is no such name, nor any that is not spoken of.
    NoSuchName,
    /// The server cannot say.
    Failure,
    /// Nothing.
    Silence,
    /// Bytes that are no answer.
    Garbage,
}

/// A running DNS server; it ends with the test.
pub(crate) struct Dns {
    address: SocketAddr,
    zone: watch::Sender<HashMap<String, Says>>,
    task: JoinHandle<()>,
}

impl Dns {
    /// Listens, and knows no name.
    pub(crate) async fn run() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (zone, seen) = watch::channel(HashMap::new());
        let task = tokio::spawn(async move {
            let mut query = [0; 1500];
            while let Ok((length, client)) = socket.recv_from(&mut query).await {
                let answer = answer(&query[..length], &seen.borrow());
                if let Some(answer) = answer {
                    let _ = socket.send_to(&answer, client).await;
                }
            }
        });
        Self {
            address,
            zone,
            task,
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is said of a name from now on.
    pub(crate) fn say(&self, name: &str, says: Says) {
        self.zone.send_modify(|zone| {
            zone.insert(name.to_owned(), says);
        });
    }

    /// The name has these addresses, for a second.
    pub(crate) fn point(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        self.say(name, Says::Addresses(addresses, 1));
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The answer to a query (RFC 1035 section 4.1): its head and question, and what is said of the name.
fn answer(query: &[u8], zone: &HashMap<String, Says>) -> Option<Vec<u8>> {
    let (name, end) = name(query);
    let kind = u16::from_be_bytes([query[end], query[end + 1]]);
    let (code, addresses, ttl) = match zone.get(&name).unwrap_or(&Says::NoSuchName) {
        Says::Addresses(addresses, ttl) => (0, addresses.as_slice(), *ttl),
        Says::OnlyIpv6(_) if kind == 1 => (2, &[][..], 0),
        Says::OnlyIpv6(addresses) => (0, addresses.as_slice(), 1),
        Says::NoSuchName => (3, &[][..], 0),
        Says::Failure => (2, &[][..], 0),
        Says::Silence => return None,
        Says::Garbage => return Some([&query[..2], &[0xff; 40][..]].concat()),
    };
    let records: Vec<Vec<u8>> = addresses
        .iter()
        .filter_map(|ip| match (ip, kind) {
            (IpAddr::V4(ip), 1) => Some(ip.octets().to_vec()),
            (IpAddr::V6(ip), 28) => Some(ip.octets().to_vec()),
            _ => None,
        })
        .collect();
    let count = u8::try_from(records.len()).unwrap();
    // The query's number; an answer, with recursion; one question, so many answers.
    let mut answer = [
        &query[..2],
        &[0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0],
    ]
    .concat();
    answer.extend_from_slice(&query[12..end + 4]);
    for data in records {
        // The name is the question's.
        answer.extend_from_slice(&[0xc0, 12]);
        answer.extend_from_slice(&kind.to_be_bytes());
        answer.extend_from_slice(&[0, 1]);
        answer.extend_from_slice(&ttl.to_be_bytes());
        answer.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
        answer.extend_from_slice(&data);
    }
    Some(answer)
}

/// The name that is asked for, and where it ends.
fn name(query: &[u8]) -> (String, usize) {
    let mut at = 12;
    let mut labels = Vec::new();
    while query[at] != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..at + 1 + length]).to_lowercase());
        at += 1 + length;
    }
    (labels.join("."), at + 1)
}
