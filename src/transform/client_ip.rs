//! Finds the client behind other proxies, from a header that they wrote ("Retrieve Client IP", alb.md
//! section 10 and decision 4).
//!
//! The list is walked from the right, the end that the nearest hops wrote; the first address outside the
//! trusted networks is the client. What is found serves rules, limits and the log, never access lists,
//! and changes nothing of what `forwarded` appends.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::{HeaderMap, HeaderName};
use ipnet::{IpNet, Ipv4Net};

use crate::addr::ClientAddr;
use crate::transform::field::members;

/// How many entries are looked at: no chain of proxies is longer, a forged list may be.
const MAX_ENTRIES: usize = 256;

/// The address that a request is attributed to, and where it was found.
///
/// Not the peer of the socket, which is [`ClientAddr`]: this one is only as true as who wrote the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientIp {
    ip: IpAddr,
    provenance: Provenance,
}

impl ClientIp {
    /// The peer itself, for listeners that do not retrieve the client's address.
    pub fn peer(peer: ClientAddr) -> Self {
        Self {
            ip: peer.ip(),
            provenance: Provenance::Peer,
        }
    }

    /// The address, never an IPv4-mapped one.
    pub fn ip(self) -> IpAddr {
        self.ip
    }

    /// Where it was found.
    pub fn provenance(self) -> Provenance {
        self.provenance
    }
}

impl fmt::Display for ClientIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip.fmt(f)
    }
}

/// Where a client's address was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// It is the socket's peer: the header said nothing that could be used.
    Peer,
    /// It is the rightmost entry that is not trusted.
    Header,
    /// It is the last entry that could be reached, though trusted: the leftmost, or the one to the right
    /// of an entry that is no address.
    Leftmost,
}

/// Which addresses are proxies whose word is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trusted {
    /// All: `0.0.0.0/0`, which by the documents means the leftmost entry, even if that is IPv6.
    Everyone,
    /// These.
    Networks(Vec<IpNet>),
}

impl Trusted {
    /// Reads addresses and networks, one to an entry; `0.0.0.0/0` or `::/0` anywhere means everyone.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, TrustedError> {
        let networks = entries
            .into_iter()
            .map(network)
            .collect::<Result<Vec<_>, _>>()?;
        if networks.is_empty() {
            return Err(TrustedError::Empty);
        }
        if networks.iter().any(|network| network.prefix_len() == 0) {
            return Ok(Self::Everyone);
        }
        Ok(Self::Networks(networks))
    }

    fn has(&self, ip: IpAddr) -> bool {
        match self {
            Self::Everyone => true,
            Self::Networks(networks) => networks.iter().any(|network| network.contains(&ip)),
        }
    }
}

/// Why a list of trusted networks cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustedError {
    /// The list is empty: it is mandatory where the client's address is retrieved.
    Empty,
    /// An entry is neither an address nor a network.
    NotANetwork(String),
}

impl fmt::Display for TrustedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the list of trusted networks is empty"),
            Self::NotANetwork(entry) => {
                write!(f, "`{entry}` is neither an IP address nor a network")
            }
        }
    }
}

impl std::error::Error for TrustedError {}

/// Whether the header is read although the peer is no trusted proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerTrust {
    /// It is: the documented behaviour, which lets a direct client name its own address.
    Assumed,
    /// It is not (`require_trusted_peer = true`).
    Required,
}

/// How one listener finds its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIpPolicy {
    /// The header that holds the list: X-Forwarded-For, or what a product in front sets.
    pub header: HeaderName,
    /// The proxies.
    pub trusted: Trusted,
    /// Whether the peer must be one of them.
    pub peer_trust: PeerTrust,
}

impl ClientIpPolicy {
    /// The address that a request is attributed to; asked before the header is changed.
    ///
    /// Several lines are one list, in order. An entry that is no address ends the walk: to its left
    /// nothing is known.
    pub fn retrieve(&self, headers: &HeaderMap, peer: ClientAddr) -> ClientIp {
        if self.peer_trust == PeerTrust::Required && !self.trusted.has(peer.ip()) {
            return ClientIp::peer(peer);
        }
        let lines = headers.get_all(&self.header).iter();
        if self.trusted == Trusted::Everyone {
            let leftmost = lines.flat_map(|line| members(line.as_bytes())).next();
            return leftmost.and_then(address).map_or_else(
                || ClientIp::peer(peer),
                |ip| ClientIp {
                    ip,
                    provenance: Provenance::Leftmost,
                },
            );
        }
        let mut found = ClientIp::peer(peer);
        for entry in lines
            .rev()
            .flat_map(|line| members(line.as_bytes()).rev())
            .take(MAX_ENTRIES)
        {
            let Some(ip) = address(entry) else { break };
            if !self.trusted.has(ip) {
                return ClientIp {
                    ip,
                    provenance: Provenance::Header,
                };
            }
            found = ClientIp {
                ip,
                provenance: Provenance::Leftmost,
            };
        }
        found
    }
}

/// Reads one entry: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let entry = str::from_utf8(entry).ok()?;
    if let Some(bracketed) = entry.strip_prefix('[') {
        let (ip, rest) = bracketed.split_once(']')?;
        let port_follows = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
        let ip: Ipv6Addr = ip.parse().ok()?;
        return port_follows.then(|| ip.to_canonical());
    }
    if let Ok(ip) = entry.parse::<IpAddr>() {
        return Some(ip.to_canonical());
    }
    let (ip, port) = entry.split_once(':')?;
    let ip: Ipv4Addr = ip.parse().ok()?;
    is_port(port).then_some(IpAddr::V4(ip))
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// Reads one trusted entry; networks of IPv4-mapped addresses are held as IPv4, as addresses are.
fn network(entry: &str) -> Result<IpNet, TrustedError> {
    let entry = entry.trim();
    let network = entry
        .parse::<IpNet>()
        .or_else(|_| entry.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| TrustedError::NotANetwork(entry.to_owned()))?;
    let mapped = match network.addr() {
        IpAddr::V6(ip) => ip
            .to_ipv4_mapped()
            .zip(network.prefix_len().checked_sub(96)),
        IpAddr::V4(_) => None,
    };
    match mapped {
        Some((ip, prefix)) => Ipv4Net::new(ip, prefix)
            .map(IpNet::V4)
            .map_err(|_| TrustedError::NotANetwork(entry.to_owned())),
        None => Ok(network),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PEER: &str = "10.0.0.3";
    const CHAIN: &str = "203.0.113.9, 10.0.0.1, 10.0.0.2";

    fn retrieve(trusted: &str, peer_trust: PeerTrust, lines: &[&[u8]]) -> ClientIp {
        let policy = ClientIpPolicy {
            header: HeaderName::from_static("x-forwarded-for"),
            trusted: Trusted::parse(trusted.split(';')).unwrap(),
            peer_trust,
        };
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(
                "x-forwarded-for",
                http::HeaderValue::from_bytes(line).unwrap(),
            );
        }
        policy.retrieve(
            &headers,
            ClientAddr::new(format!("{PEER}:4711").parse().unwrap()),
        )
    }

    fn check(trusted: &str, line: &str, ip: &str, provenance: Provenance) {
        let found = retrieve(trusted, PeerTrust::Assumed, &[line.as_bytes()]);
        assert_eq!(
            (found.to_string().as_str(), found.provenance()),
            (ip, provenance),
            "{trusted} / {line}"
        );
    }

    #[test]
    fn the_documented_lists_give_the_documented_clients() {
        use Provenance::{Header, Leftmost, Peer};
        for (trusted, line, ip, provenance) in [
            ("0.0.0.0/0", CHAIN, "203.0.113.9", Leftmost),
            ("::/0", CHAIN, "203.0.113.9", Leftmost),
            (
                "0.0.0.0/0",
                "2001:db8::1, 192.0.2.1",
                "2001:db8::1",
                Leftmost,
            ),
            ("10.0.0.1;10.0.0.2", CHAIN, "203.0.113.9", Header),
            ("10.0.0.2", CHAIN, "10.0.0.1", Header),
            ("192.0.2.1", CHAIN, "10.0.0.2", Header),
            ("10.0.0.0/8;203.0.113.0/24", CHAIN, "203.0.113.9", Leftmost),
            ("10.0.0.0/8", "", PEER, Peer),
            ("0.0.0.0/0", " , ", PEER, Peer),
        ] {
            check(trusted, line, ip, provenance);
        }
        for trusted in ["0.0.0.0/0", "10.0.0.1", "192.0.2.1"] {
            let found = retrieve(trusted, PeerTrust::Assumed, &[]);
            assert_eq!(
                (found.to_string().as_str(), found.provenance()),
                (PEER, Peer)
            );
        }
    }

    #[test]
    fn entries_come_in_many_forms() {
        for (entry, ip) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1:5678", "192.0.2.1"),
            ("2001:DB8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("[::ffff:192.0.2.1]:1", "192.0.2.1"),
        ] {
            check("10.0.0.0/8", entry, ip, Provenance::Header);
        }
    }

    #[test]
    fn what_is_no_address_ends_the_walk() {
        for entry in [
            "unknown",
            "fe80::1%eth0",
            "[fe80::1%1]:80",
            "192.0.2.1:",
            "192.0.2.1:+5",
            "192.0.2.1:65536",
            "192.0.2.01",
            "[192.0.2.1]",
            "[2001:db8::1",
            "[2001:db8::1]x",
            "example.com",
            "1.2.3",
            "\"192.0.2.1\"",
        ] {
            check(
                "10.0.0.0/8",
                &format!("203.0.113.9, {entry}"),
                PEER,
                Provenance::Peer,
            );
            check(
                "10.0.0.0/8",
                &format!("203.0.113.9, {entry}, 10.0.0.7"),
                "10.0.0.7",
                Provenance::Leftmost,
            );
        }
    }

    #[test]
    fn several_lines_are_one_list() {
        let lines: [&[u8]; 3] = [b"203.0.113.9", b"", b"10.0.0.1, 10.0.0.2"];
        assert_eq!(
            retrieve("10.0.0.0/8", PeerTrust::Assumed, &lines).to_string(),
            "203.0.113.9"
        );
        assert_eq!(
            retrieve("0.0.0.0/0", PeerTrust::Assumed, &lines).to_string(),
            "203.0.113.9"
        );
    }

    #[test]
    fn an_untrusted_peer_is_not_believed_where_that_is_required() {
        for (trusted, ip) in [
            ("192.0.2.1", PEER),
            ("10.0.0.3", "10.0.0.2"),
            ("10.0.0.0/8", "203.0.113.9"),
            ("0.0.0.0/0", "203.0.113.9"),
        ] {
            assert_eq!(
                retrieve(trusted, PeerTrust::Required, &[CHAIN.as_bytes()]).to_string(),
                ip,
                "{trusted}"
            );
        }
    }

    #[test]
    fn an_endless_list_is_not_walked_to_its_end() {
        let line = format!("203.0.113.9, {}", vec!["10.0.0.1"; 1000].join(", "));
        check("10.0.0.0/8", &line, "10.0.0.1", Provenance::Leftmost);
    }

    #[test]
    fn trusted_lists_hold_addresses_and_networks() {
        assert_eq!(
            Trusted::parse([
                "10.1.1.0/24",
                " 2001:db8::/32 ",
                "192.0.2.1",
                "::ffff:198.51.100.0/120"
            ]),
            Ok(Trusted::Networks(vec![
                "10.1.1.0/24".parse().unwrap(),
                "2001:db8::/32".parse().unwrap(),
                "192.0.2.1/32".parse().unwrap(),
                "198.51.100.0/24".parse().unwrap(),
            ]))
        );
        assert_eq!(
            Trusted::parse(["10.0.0.0/8", "0.0.0.0/0"]),
            Ok(Trusted::Everyone)
        );
        assert_eq!(Trusted::parse([]), Err(TrustedError::Empty));
        for entry in ["", "proxy.internal", "10.0.0.0/33"] {
            assert_eq!(
                Trusted::parse([entry]),
                Err(TrustedError::NotANetwork(entry.to_owned()))
            );
        }
    }

    fn entry() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<[u8; 4]>().prop_map(|ip| Ipv4Addr::from(ip).to_string()),
            (0_u8..4, any::<u16>()).prop_map(|(last, port)| format!("10.0.0.{last}:{port}")),
            any::<u128>().prop_map(|ip| Ipv6Addr::from(ip).to_string()),
            any::<u128>().prop_map(|ip| format!("[{}]:443", Ipv6Addr::from(ip))),
            "[!-~]{0,12}",
        ]
    }

    proptest! {
        #[test]
        fn the_client_is_the_peer_or_an_entry(entries in prop::collection::vec(entry(), 0..12), required: bool) {
            let line = entries.join(", ");
            let peer_trust = if required { PeerTrust::Required } else { PeerTrust::Assumed };
            for trusted in ["0.0.0.0/0", "10.0.0.0/8", "0.0.0.0/1;8000::/1", "192.0.2.1"] {
                let found = retrieve(trusted, peer_trust, &[line.as_bytes()]);
                let listed = members(line.as_bytes()).filter_map(address).any(|ip| ip == found.ip());
                prop_assert!(listed || found == ClientIp::peer(ClientAddr::new("10.0.0.3:1".parse().unwrap())));
            }
        }

        #[test]
        fn nothing_left_of_the_client_matters(left in prop::collection::vec(entry(), 0..8)) {
            let line = format!("{}, 203.0.113.9, 10.0.0.1", left.join(", "));
            let found = retrieve("10.0.0.0/8", PeerTrust::Required, &[line.as_bytes()]);
            prop_assert_eq!(found.to_string(), "203.0.113.9");
        }

        #[test]
        fn any_bytes_are_survived(line in prop::collection::vec(prop_oneof![0x20_u8..0x7f, 0x80_u8..], 0..64)) {
            retrieve("10.0.0.0/8", PeerTrust::Assumed, &[&line]);
            retrieve("0.0.0.0/0", PeerTrust::Assumed, &[&line]);
        }
    }
}
