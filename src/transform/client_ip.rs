//! Finds the client behind other proxies, from a header that they wrote ("Retrieve Client IP", alb.md
//! section 10 and decision 4).
//!
//! The list is walked from the right, the end that the nearest hops wrote; the first address outside the
//! trusted networks is the client. What is found serves rules, limits and the log, never access lists,
//! and changes nothing of what `forwarded` appends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::HeaderMap;

use crate::addr::{ClientAddr, ClientIp, Provenance};
use crate::config::client::{ClientIpSettings, PeerTrust, Trusted};
use crate::transform::field::members;

/// How many entries are looked at: no chain of proxies is longer, a forged list may be.
const MAX_ENTRIES: usize = 256;

/// The address that a request is attributed to; asked before the header is changed.
///
/// Several lines are one list, in order. An entry that is no address ends the walk: to its left nothing
/// is known. The last hop itself is looked at only where it must be a trusted one.
pub fn retrieve(settings: &ClientIpSettings, headers: &HeaderMap, client: ClientAddr) -> ClientIp {
    let trusted = &settings.trusted;
    if settings.peer_trust == PeerTrust::Required && !trusted.has(client.ip()) {
        return ClientIp::last_hop(client);
    }
    let lines = headers.get_all(&settings.header).iter();
    if *trusted == Trusted::Everyone {
        let leftmost = lines.flat_map(|line| members(line.as_bytes())).next();
        return leftmost.and_then(address).map_or_else(
            || ClientIp::last_hop(client),
            |ip| ClientIp::found(ip, Provenance::Leftmost),
        );
    }
    let mut found = ClientIp::last_hop(client);
    let entries = lines
        .rev()
        .flat_map(|line| members(line.as_bytes()).rev())
        .take(MAX_ENTRIES);
    for entry in entries {
        let Some(ip) = address(entry) else { break };
        if !trusted.has(ip) {
            return ClientIp::found(ip, Provenance::Header);
        }
        found = ClientIp::found(ip, Provenance::Leftmost);
    }
    found
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

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;
    use crate::network;

    const PEER: &str = "10.0.0.3";
    const CHAIN: &str = "203.0.113.9, 10.0.0.1, 10.0.0.2";

    fn settings(trusted: &str, peer_trust: PeerTrust) -> ClientIpSettings {
        let networks: Vec<_> = trusted
            .split(';')
            .map(|text| network::parse(text).unwrap())
            .collect();
        ClientIpSettings {
            header: HeaderName::from_static("x-forwarded-for"),
            trusted: Trusted::new(&networks),
            peer_trust,
        }
    }

    fn retrieve(trusted: &str, peer_trust: PeerTrust, lines: &[&[u8]]) -> ClientIp {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", HeaderValue::from_bytes(line).unwrap());
        }
        let peer = ClientAddr::new(format!("{PEER}:4711").parse().unwrap());
        super::retrieve(&settings(trusted, peer_trust), &headers, peer)
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
    fn another_header_is_read_in_its_place() {
        let settings = ClientIpSettings {
            header: HeaderName::from_static("ali-cdn-real-ip"),
            ..settings("0.0.0.0/0", PeerTrust::Assumed)
        };
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", HeaderValue::from_static(CHAIN));
        let peer = ClientAddr::new("10.0.0.3:4711".parse().unwrap());
        let found = super::retrieve(&settings, &headers, peer);
        assert_eq!(found, ClientIp::last_hop(peer));
        headers.append("ali-cdn-real-ip", HeaderValue::from_static("198.51.100.7"));
        let found = super::retrieve(&settings, &headers, peer);
        assert_eq!(found.to_string(), "198.51.100.7");
    }

    #[test]
    fn an_announced_client_is_the_last_hop() {
        let relay = ClientAddr::new("192.0.2.200:1".parse().unwrap());
        let client = relay.announced("10.0.0.3:4711".parse().unwrap());
        let mut headers = HeaderMap::new();
        let required = settings("10.0.0.0/8", PeerTrust::Required);
        let found = super::retrieve(&required, &headers, client);
        assert_eq!(found.to_string(), PEER);
        assert_eq!(found.provenance(), Provenance::ProxyProtocol);
        headers.append("x-forwarded-for", HeaderValue::from_static(CHAIN));
        let found = super::retrieve(&required, &headers, client);
        assert_eq!(found.to_string(), "203.0.113.9");
        let found = super::retrieve(&required, &headers, relay);
        assert_eq!(found, ClientIp::last_hop(relay));
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
                prop_assert!(listed || found == ClientIp::last_hop(ClientAddr::new("10.0.0.3:1".parse().unwrap())));
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
