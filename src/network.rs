//! Sets of IP networks: which proxies are trusted, who may connect.
//!
//! A set is kept sorted and without overlaps, so that a list of thousands costs a dozen comparisons, and
//! two lists that mean the same are equal.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// A set of IP networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// The set of all addresses that are in one of these.
    pub fn new(networks: &[IpNet]) -> Self {
        let truncated: Vec<IpNet> = networks.iter().map(IpNet::trunc).collect();
        let mut merged = IpNet::aggregate(&truncated);
        merged.sort_unstable();
        Self(merged)
    }

    /// Whether an address is in one of them; an IPv4-mapped one is in none, it must be given as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let after = self.0.partition_point(|network| network.network() <= ip);
        let candidate = after.checked_sub(1).and_then(|at| self.0.get(at));
        candidate.is_some_and(|network| network.contains(&ip))
    }

    /// Whether every address of another set is in this one.
    pub fn covers(&self, other: &Self) -> bool {
        // Networks are merged where they can be, so one that is covered is inside a single other.
        let inside = |network: &IpNet| self.0.iter().any(|own| own.contains(network));
        other.0.iter().all(inside)
    }

    /// Whether it holds no address at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Reads an address, which is a network of its own, or a network in CIDR notation. A network of
/// IPv4-mapped addresses becomes one of IPv4, as addresses do.
pub fn parse(text: &str) -> Option<IpNet> {
    let network = match text.parse::<IpNet>() {
        Ok(network) => network,
        Err(_) => IpNet::from(text.parse::<IpAddr>().ok()?),
    };
    let mapped = match network.addr() {
        IpAddr::V6(ip) => ip
            .to_ipv4_mapped()
            .zip(network.prefix_len().checked_sub(96)),
        IpAddr::V4(_) => None,
    };
    match mapped {
        Some((ip, prefix)) => Ipv4Net::new(ip, prefix).ok().map(IpNet::V4),
        None => Some(network),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(networks: &[&str]) -> Networks {
        let networks: Vec<_> = networks.iter().map(|text| parse(text).unwrap()).collect();
        Networks::new(&networks)
    }

    #[test]
    fn addresses_and_networks_are_read() {
        for (text, network) in [
            ("192.0.2.1", Some("192.0.2.1/32")),
            ("10.1.1.0/24", Some("10.1.1.0/24")),
            ("2001:db8::/32", Some("2001:db8::/32")),
            ("::1", Some("::1/128")),
            ("::ffff:198.51.100.0/120", Some("198.51.100.0/24")),
            ("::ffff:198.51.100.7", Some("198.51.100.7/32")),
            ("", None),
            ("proxy.internal", None),
            ("10.0.0.0/33", None),
            ("10.0.0.1:80", None),
            ("10.0.0.01", None),
        ] {
            let expected = network.map(|text| text.parse().unwrap());
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_set_holds_what_is_in_one_of_its_networks() {
        let networks = set(&["10.0.0.0/8", "192.0.2.7", "10.2.0.0/16", "2001:db8::/32"]);
        for (ip, expected) in [
            ("10.0.0.0", true),
            ("10.2.3.4", true),
            ("10.255.255.255", true),
            ("11.0.0.0", false),
            ("9.255.255.255", false),
            ("192.0.2.7", true),
            ("192.0.2.6", false),
            ("2001:db8::1", true),
            ("2001:db9::", false),
            ("::", false),
        ] {
            assert_eq!(networks.contains(ip.parse().unwrap()), expected, "{ip}");
        }
        assert!(!Networks::default().contains("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_set_covers_what_is_inside_it() {
        let networks = set(&["10.0.0.0/9", "10.128.0.0/9", "192.0.2.0/24"]);
        for (other, expected) in [
            (&["10.0.0.0/8"][..], true),
            (&["10.1.0.0/16", "192.0.2.7"], true),
            (&[], true),
            (&["192.0.0.0/16"], false),
            (&["10.0.0.0/7"], false),
            (&["10.1.0.0/16", "::1"], false),
        ] {
            assert_eq!(networks.covers(&set(other)), expected, "{other:?}");
        }
    }

    #[test]
    fn lists_that_mean_the_same_are_equal() {
        assert_eq!(
            set(&["10.0.0.0/9", "10.128.0.0/9", "10.1.2.3"]),
            set(&["10.9.9.9/8"])
        );
        assert_ne!(set(&["0.0.0.0/0"]), set(&["::/0"]));
    }

    proptest! {
        #[test]
        fn the_order_and_overlaps_of_a_list_change_nothing(
            list in prop::collection::vec((any::<[u8; 4]>(), 0_u8..=32), 0..40),
            ips in prop::collection::vec(any::<[u8; 4]>(), 0..40),
        ) {
            let list: Vec<IpNet> = list
                .into_iter()
                .map(|(ip, prefix)| IpNet::new(IpAddr::from(ip), prefix).unwrap())
                .collect();
            let networks = Networks::new(&list);
            let firsts = list.iter().map(IpNet::network);
            for ip in ips.into_iter().map(IpAddr::from).chain(firsts) {
                let expected = list.iter().any(|network| network.contains(&ip));
                prop_assert_eq!(networks.contains(ip), expected, "{}", ip);
            }
        }
    }
}
