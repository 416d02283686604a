//! Whose turn it is in a group: a file for each scheduler, and what a choice depends on.
//!
//! Which servers may be asked at all is the caller's knowledge.

pub mod least;
pub mod ring;
pub mod slow;
pub mod wrr;

use std::net::IpAddr;
use std::sync::Arc;

use self::ring::{Place, Ring};
use super::server::Server;
use crate::config::balance::{Scheduler, SlowStart};

/// What a request says about who is to answer it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Preference {
    /// Where it stands on the ring, where the group has one.
    pub place: Place,
    /// The server that its client stays with, by index.
    pub server: Option<usize>,
}

/// How a group chooses, the same for all workers.
#[derive(Debug)]
pub enum Balance {
    /// `wrr`
    RoundRobin(SlowStart),
    /// `wlc`
    LeastConnections,
    /// `sch`
    SourceHash(Ring),
    /// `uch`, by the parameter of that name.
    QueryHash(Ring, Box<[u8]>),
}

impl Balance {
    /// As planned, among these servers and their weights.
    pub fn new(scheduler: &Scheduler, servers: &[Arc<Server>], weights: &[u8]) -> Self {
        let endpoints = servers.iter().map(|server| server.endpoint());
        let servers = endpoints.zip(weights.iter().copied());
        match scheduler {
            Scheduler::RoundRobin(slow_start) => Self::RoundRobin(*slow_start),
            Scheduler::LeastConnections => Self::LeastConnections,
            Scheduler::SourceHash => Self::SourceHash(Ring::new(servers)),
            Scheduler::QueryHash(parameter) => {
                Self::QueryHash(Ring::new(servers), parameter.as_bytes().into())
            }
        }
    }

    /// How many steps of weighted round robin a weight is.
    pub fn scale(&self) -> i64 {
        match self {
            Self::RoundRobin(SlowStart::Over(_)) => slow::STEPS,
            Self::RoundRobin(SlowStart::Off)
            | Self::LeastConnections
            | Self::SourceHash(_)
            | Self::QueryHash(..) => 1,
        }
    }

    /// What a request with this query, from `client`, prefers; `client` is asked only where it matters.
    pub fn preference(&self, query: Option<&str>, client: impl FnOnce() -> IpAddr) -> Preference {
        let place = match self {
            Self::RoundRobin(_) | Self::LeastConnections => Place::default(),
            Self::SourceHash(_) => Place::of_client(client()),
            Self::QueryHash(_, name) => query
                .and_then(|query| parameter(query.as_bytes(), name))
                .map_or_else(|| Place::of_client(client()), Place::of),
        };
        Preference {
            place,
            server: None,
        }
    }
}

/// The value of a query's first parameter of that name, byte for byte; an empty one is as good as none.
fn parameter<'a>(query: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut values = query
        .split(|byte| *byte == b'&')
        .filter_map(|pair| pair.strip_prefix(name)?.strip_prefix(b"="));
    values.next().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_found_by_its_name_and_taken_byte_for_byte() {
        for (query, expected) in [
            ("user=a", Some("a")),
            ("x=1&user=a%20b&user=c", Some("a%20b")),
            ("user=a=b", Some("a=b")),
            ("user=a;user=b", Some("a;user=b")),
            ("superuser=a", None),
            ("username=a", None),
            ("User=a", None),
            ("user", None),
            ("user=", None),
            ("", None),
            ("&&user=a&", Some("a")),
        ] {
            let found = parameter(query.as_bytes(), b"user");
            assert_eq!(found, expected.map(str::as_bytes), "{query}");
        }
    }

    #[test]
    fn without_the_parameter_the_client_decides() {
        let scheduler = Scheduler::QueryHash("user".into());
        let balance = Balance::new(&scheduler, &[], &[]);
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        for query in [None, Some("user="), Some("x=1")] {
            let preference = balance.preference(query, || ip);
            assert_eq!(preference.place, Place::of_client(ip), "{query:?}");
        }
        let preference = balance.preference(Some("user=a"), || panic!("it does not matter"));
        assert_eq!(preference.place, Place::of(b"a"));
    }
}
