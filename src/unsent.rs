//! How much of what was written to a TCP socket its other side has not acknowledged yet.
//!
//! A socket takes what is written long before the client does: megabytes, on a fast connection. So that
//! a slow client can be told from one that has stopped, the kernel is asked, by the socket diagnostics
//! that `ss` uses (sock_diag(7)). This is for the rare moment in which a client is suspected.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Once;

use socket2::{Domain, Protocol, Socket, Type};

/// AF_NETLINK
const NETLINK: i32 = 16;
/// NETLINK_SOCK_DIAG
const SOCK_DIAG: i32 = 4;
/// SOCK_DIAG_BY_FAMILY
const BY_FAMILY: u16 = 20;
/// NLM_F_REQUEST
const REQUEST: u16 = 1;
/// IPPROTO_TCP
const TCP: u8 = 6;
/// INET_DIAG_NOCOOKIE
const NO_COOKIE: [u8; 8] = [0xff; 8];
/// The lengths of `nlmsghdr` and `inet_diag_req_v2`.
const HEADER: usize = 16;
const QUERY: usize = 56;
/// Where `idiag_wqueue` stands in an answer: behind the header, four bytes, the socket's id and two numbers.
const WRITE_QUEUE: usize = HEADER + 4 + 48 + 8;

thread_local! {
    static DIAGNOSTICS: RefCell<Option<Socket>> = const { RefCell::new(None) };
}

/// Bytes written to the socket between these addresses, and not acknowledged. `None`: the system does not say.
pub fn unsent(local: SocketAddr, peer: SocketAddr) -> Option<u64> {
    DIAGNOSTICS.with_borrow_mut(|socket| {
        if socket.is_none() {
            *socket = open().map_err(tell).ok();
        }
        let mut diagnostics: &Socket = socket.as_ref()?;
        // What is left of an earlier question is not the answer to this one.
        let mut answer = [0; 512];
        while matches!(diagnostics.read(&mut answer), Ok(1..)) {}
        diagnostics.write_all(&query(local, peer)).ok()?;
        let length = diagnostics.read(&mut answer).ok()?;
        parse(answer.get(..length)?)
    })
}

/// Says once why the kernel cannot be asked: `min_rate` then goes by what the socket took.
fn tell(error: std::io::Error) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        tracing::warn!(%error, "the kernel does not say what clients acknowledge (sock_diag): \
            slow clients are judged by what their sockets take");
    });
}

fn open() -> std::io::Result<Socket> {
    let kind = Type::RAW.nonblocking().cloexec();
    Socket::new(Domain::from(NETLINK), kind, Some(Protocol::from(SOCK_DIAG)))
}

fn query(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    let family: u8 = if local.is_ipv4() { 2 } else { 10 };
    let length = u32::try_from(HEADER + QUERY).unwrap_or(0);
    let mut query = Vec::with_capacity(HEADER + QUERY);
    query.extend(length.to_ne_bytes());
    query.extend(BY_FAMILY.to_ne_bytes());
    query.extend(REQUEST.to_ne_bytes());
    query.extend([0; 8]);
    query.extend([family, TCP, 0, 0]);
    // In whatever state it is.
    query.extend(u32::MAX.to_ne_bytes());
    query.extend(local.port().to_be_bytes());
    query.extend(peer.port().to_be_bytes());
    query.extend(address(local.ip()));
    query.extend(address(peer.ip()));
    query.extend([0; 4]);
    query.extend(NO_COOKIE);
    query
}

fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let mut bytes = [0; 16];
            for (byte, octet) in bytes.iter_mut().zip(ip.octets()) {
                *byte = octet;
            }
            bytes
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn parse(answer: &[u8]) -> Option<u64> {
    let kind = answer.get(4..6)?.try_into().ok().map(u16::from_ne_bytes)?;
    let queue = answer.get(WRITE_QUEUE..WRITE_QUEUE + 4)?;
    let queue = u32::from_ne_bytes(queue.try_into().ok()?);
    (kind == BY_FAMILY).then_some(u64::from(queue))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    fn check(listen: &str) {
        let listener = TcpListener::bind(listen).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let (local, peer) = (server.local_addr().unwrap(), server.peer_addr().unwrap());
        if unsent(local, peer).is_none() {
            eprintln!("skipped: the system has no socket diagnostics");
            return;
        }
        assert_eq!(unsent(local, peer), Some(0));
        server.set_nonblocking(true).unwrap();
        let mut written = 0;
        loop {
            match server.write(&[0; 65536]) {
                Ok(n) => written += n,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        let before = unsent(local, peer).unwrap();
        assert!(
            before > 0 && before <= written as u64,
            "{before} of {written}"
        );
        let mut taken = vec![0; written / 2];
        client.read_exact(&mut taken).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while unsent(local, peer).unwrap() >= before {
            assert!(Instant::now() < deadline, "nothing is acknowledged");
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_the_other_side_takes_is_no_longer_unsent() {
        check("127.0.0.1:0");
    }

    #[test]
    fn an_ipv4_client_of_an_ipv6_socket_is_found() {
        if TcpListener::bind("[::]:0").is_ok() {
            check("[::]:0");
        }
    }

    #[test]
    fn a_socket_that_is_not_there_has_no_answer() {
        let nowhere = "127.0.0.1:1".parse().unwrap();
        assert_eq!(unsent(nowhere, nowhere), None);
    }
}
