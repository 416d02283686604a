//! Consistent hashing (`sch` and `uch`, alb.md 7.2): every server has points on a ring, as many as its
//! weight asks for, and a key belongs to the server of the next point.
//!
//! A server's points depend on its address and weight alone. So all workers and replicas agree, in whatever
//! order the servers are written; when one goes, only its keys move, and when one comes, only those that it
//! gets. The hash is SHA-256, whose values no version of a library changes.

use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};

use crate::addr::BackendAddr;

/// Points that come of one hash.
const POINTS_PER_HASH: usize = 8;
/// Hashes of a server for each unit of its weight: 40 points, 4000 at the weight 100, whose keys then are
/// within a few percent of its share.
const HASHES_PER_WEIGHT: u32 = 5;

/// A place on the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u32);

impl Place {
    /// Where a key belongs.
    pub fn of(key: &[u8]) -> Self {
        points(key).next().unwrap_or_default()
    }

    /// Where a client belongs.
    pub fn of_client(client: IpAddr) -> Self {
        match client {
            IpAddr::V4(ip) => Self::of(&ip.octets()),
            IpAddr::V6(ip) => Self::of(&ip.octets()),
        }
    }
}

/// The points of a group's servers, in order.
#[derive(Debug, PartialEq, Eq)]
pub struct Ring(Box<[Point]>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    place: Place,
    /// The server's index.
    server: u32,
}

impl Ring {
    /// The ring of these servers, by address and weight.
    pub fn new<'a>(servers: impl Iterator<Item = (&'a BackendAddr, u8)>) -> Self {
        let mut names = Vec::new();
        let mut ring = Vec::new();
        for (server, (address, weight)) in (0..).zip(servers) {
            let name = address.to_string();
            for number in 0..u32::from(weight) * HASHES_PER_WEIGHT {
                let seed = [name.as_bytes(), &[0], &number.to_be_bytes()].concat();
                ring.extend(points(&seed).map(|place| Point { place, server }));
            }
            names.push(name);
        }
        // Two that fall on one place stand in the same order everywhere.
        ring.sort_unstable_by_key(|point| (point.place, names.get(point.server as usize)));
        Self(ring.into())
    }

    /// Picks the server of the first point from `place` on that is `eligible`.
    pub fn pick(&self, place: Place, eligible: impl Fn(usize) -> bool) -> Option<usize> {
        let start = self.0.partition_point(|point| point.place < place);
        let (before, after) = self.0.split_at_checked(start)?;
        let mut servers = after
            .iter()
            .chain(before)
            .map(|point| point.server as usize);
        servers.find(|server| eligible(*server))
    }
}

/// The places that a hash gives.
fn points(seed: &[u8]) -> impl Iterator<Item = Place> {
    let hash = digest(&SHA256, seed);
    let mut bytes = [0; POINTS_PER_HASH * 4];
    bytes.copy_from_slice(hash.as_ref());
    (0..POINTS_PER_HASH).map(move |at| {
        let point = bytes.iter().skip(at * 4).take(4);
        Place(point.fold(0, |place, byte| place << 8 | u32::from(*byte)))
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const KEYS: u32 = 2000;

    fn address(number: usize) -> BackendAddr {
        BackendAddr::Ip(format!("10.0.0.{number}:8080").parse().unwrap())
    }

    fn ring(servers: &[(BackendAddr, u8)]) -> Ring {
        Ring::new(servers.iter().map(|(address, weight)| (address, *weight)))
    }

    /// Whose each key is.
    fn owners(servers: &[(BackendAddr, u8)]) -> Vec<Option<BackendAddr>> {
        let ring = ring(servers);
        (0..KEYS)
            .map(|key| ring.pick(Place::of(&key.to_be_bytes()), |_| true))
            .map(|server| Some(servers[server?].0.clone()))
            .collect()
    }

    fn servers(weights: &[u8]) -> Vec<(BackendAddr, u8)> {
        (1..).map(address).zip(weights.iter().copied()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn when_a_server_goes_or_comes_only_its_keys_move_and_they_are_its_share(
            weights in vec(5_u8..=100, 2..12),
            gone in any::<prop::sample::Index>(),
        ) {
            let all = servers(&weights);
            let gone = gone.index(all.len());
            let mut left = all.clone();
            let (address, weight) = left.remove(gone);
            let (with, without) = (owners(&all), owners(&left));
            let moved = with.iter().zip(&without).filter(|(with, without)| with != without).count();
            let its = with.iter().filter(|owner| owner.as_ref() == Some(&address)).count();
            prop_assert_eq!(moved, its);
            let total: u32 = weights.iter().map(|weight| u32::from(*weight)).sum();
            let share = f64::from(weight) / f64::from(total);
            prop_assert!(moved as f64 <= f64::from(KEYS) * (share * 1.5 + 0.02), "{} of {}", moved, share);
        }

        #[test]
        fn replicas_agree_in_whatever_order_the_servers_are_written(
            order in Just(servers(&[100, 50, 7, 1, 100])).prop_shuffle(),
        ) {
            prop_assert_eq!(owners(&order), owners(&servers(&[100, 50, 7, 1, 100])));
        }
    }

    #[test]
    fn equal_servers_get_about_equally_many_keys() {
        let owners = owners(&servers(&[100; 10]));
        for (address, _) in servers(&[100; 10]) {
            let its = owners.iter().flatten().filter(|owner| **owner == address);
            let its = its.count();
            assert!((140..=260).contains(&its), "{address}: {its} of {KEYS}");
        }
    }

    #[test]
    fn the_next_server_takes_the_keys_of_one_that_is_not_eligible() {
        let all = servers(&[100, 100, 100]);
        let ring = ring(&all);
        let without = owners(&all[1..]);
        for (key, expected) in (0..KEYS).zip(without) {
            let picked = ring.pick(Place::of(&key.to_be_bytes()), |server| server != 0);
            assert_eq!(picked.map(|server| all[server].0.clone()), expected);
        }
        assert_eq!(ring.pick(Place::default(), |_| false), None);
    }

    #[test]
    fn a_server_of_weight_zero_has_no_points() {
        assert_eq!(
            ring(&servers(&[0, 0])).pick(Place::of(b"x"), |_| true),
            None
        );
        assert!(
            owners(&servers(&[0, 1]))
                .iter()
                .all(|owner| *owner == Some(address(2)))
        );
    }

    #[test]
    fn places_are_the_same_in_every_version() {
        assert_eq!(Place::of(b"abc"), Place(0xba78_16bf));
        let v4 = "192.0.2.1".parse().unwrap();
        assert_eq!(Place::of_client(v4), Place::of(&[192, 0, 2, 1]));
    }
}
