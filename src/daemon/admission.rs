//! How many connections clients may have: in all (`max_connections`) and from one address
//! (`max_connections_per_ip`).
//!
//! Counted when a connection is taken and when it ends, and never in between. Addresses are counted in
//! shards, so that workers seldom meet at one lock, and only where there is a limit.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::Instant;

use crate::addr::network_of;
use crate::config::plan::ServerPlan;
use crate::http::activity::{Activity, Closing, Phase};

/// Shards of the addresses.
const SHARDS: usize = 64;
/// Descriptors that are no connections: files, sockets that listen, pipes.
const RESERVED: u64 = 64;
/// The fewest connections, however few descriptors there are.
const FEWEST: u64 = 16;
/// Idle connections closed at once to make room.
const SHED: usize = 32;
/// How often room is made.
const SHED_PAUSE: Duration = Duration::from_millis(100);

#[expect(
    clippy::disallowed_types,
    reason = "taken when a connection begins and ends, never by a request"
)]
type Shard = std::sync::Mutex<HashMap<IpAddr, usize>>;

/// Who is here, for all workers.
#[derive(Debug)]
pub struct Admission {
    most: AtomicUsize,
    /// 0: no limit.
    most_per_address: AtomicUsize,
    open: AtomicUsize,
    shards: Vec<Shard>,
    hasher: RandomState,
}

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There are `max_connections`.
    Full,
    /// Its address has `max_connections_per_ip`.
    Address,
}

/// A connection that counts until this is dropped.
#[derive(Debug)]
pub struct Admitted {
    admission: Arc<Admission>,
    /// What is counted by address.
    counted: Option<IpAddr>,
}

impl Admission {
    /// Nobody is here, and nobody may come before [`Self::set`].
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            most: AtomicUsize::new(0),
            most_per_address: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            hasher: RandomState::new(),
        })
    }

    /// Takes up what a configuration says. Connections that were not counted by address before stay uncounted.
    pub fn set(&self, server: &ServerPlan) {
        let descriptors = raise_descriptors();
        let fits = (descriptors.saturating_sub(RESERVED) / 2).max(FEWEST);
        let most = match server.max_connections {
            Some(most) => most.get(),
            None => fits,
        };
        if most > fits {
            tracing::warn!(
                descriptors,
                "max_connections = {most} needs {} descriptors, with one for each backend",
                most.saturating_mul(2).saturating_add(RESERVED)
            );
        }
        let per_address = server.max_connections_per_ip.map_or(0, |most| most.get());
        self.most.store(clamp(most), Ordering::Relaxed);
        self.most_per_address
            .store(clamp(per_address), Ordering::Relaxed);
    }

    /// Takes a connection, unless there are too many; its address is counted by [`Admitted::count`].
    pub fn admit(self: &Arc<Self>) -> Result<Admitted, Refusal> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.most.load(Ordering::Relaxed) {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::Full);
        }
        Ok(self.admitted())
    }

    /// Takes one more than there may be: others have been asked to leave.
    pub fn admit_beyond(self: &Arc<Self>) -> Admitted {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.admitted()
    }

    fn admitted(self: &Arc<Self>) -> Admitted {
        Admitted {
            admission: Arc::clone(self),
            counted: None,
        }
    }

    fn with(&self, address: IpAddr, change: impl FnOnce(&mut HashMap<IpAddr, usize>)) {
        let shards = self.shards.len().max(1) as u64;
        let index = usize::try_from(self.hasher.hash_one(address) % shards).unwrap_or(0);
        if let Some(shard) = self.shards.get(index) {
            // Nothing that holds it panics; were it so, the counts would still be counts.
            change(
                &mut shard
                    .lock()
                    .unwrap_or_else(|poisoned| poisoned.into_inner()),
            );
        }
    }
}

impl Admitted {
    /// Counts it by its client's address, once that is known, unless there are too many of that address.
    pub fn count(&mut self, client: IpAddr) -> Result<(), Refusal> {
        let most = self.admission.most_per_address.load(Ordering::Relaxed);
        if most == 0 || self.counted.is_some() {
            return Ok(());
        }
        let address = network_of(client);
        let mut refused = false;
        self.admission.with(address, |shard| {
            let count = shard.entry(address).or_insert(0);
            refused = *count >= most;
            *count += usize::from(!refused);
        });
        if refused {
            return Err(Refusal::Address);
        }
        self.counted = Some(address);
        Ok(())
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(address) = self.counted {
            self.admission.with(address, |shard| {
                if let Some(count) = shard.get_mut(&address) {
                    *count -= 1;
                    if *count == 0 {
                        shard.remove(&address);
                    }
                }
            });
        }
    }
}

fn clamp(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Takes as many descriptors as the system grants, and says how many that are.
fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let granted = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    granted.unwrap_or(u64::MAX)
}

/// What one worker does when there are too many, and what its log says of it.
#[derive(Debug, Default)]
pub struct Overload {
    shed_at: Cell<Option<Instant>>,
    shed: Cell<u64>,
    full: Cell<u64>,
    address: Cell<u64>,
}

impl Overload {
    /// Asks the connections to end that have been idle longest, after a request or more. Whether any was.
    pub fn make_room<'a>(&self, connections: impl Iterator<Item = &'a Activity>) -> bool {
        let now = Instant::now();
        if self.shed_at.get().is_some_and(|at| now < at + SHED_PAUSE) {
            return false;
        }
        self.shed_at.set(Some(now));
        let mut idle: Vec<(Instant, &Activity)> = connections
            .filter_map(|activity| match activity.phase() {
                Phase::Idle { since }
                    if activity.requests() > 0 && activity.closing() == Closing::No =>
                {
                    Some((since, activity))
                }
                Phase::Idle { .. } | Phase::Head { .. } | Phase::Exchange => None,
            })
            .collect();
        if idle.len() > SHED {
            idle.select_nth_unstable_by_key(SHED, |(since, _)| *since);
            idle.truncate(SHED);
        }
        for (_, activity) in &idle {
            activity.close(Closing::Graceful);
        }
        self.shed.set(self.shed.get() + idle.len() as u64);
        !idle.is_empty()
    }

    /// A connection was not taken.
    pub fn refused(&self, refusal: Refusal) {
        let count = match refusal {
            Refusal::Full => &self.full,
            Refusal::Address => &self.address,
        };
        count.set(count.get() + 1);
    }

    /// Says in the log what has happened since it last did.
    pub fn tell(&self) {
        let (shed, full, address) = (self.shed.take(), self.full.take(), self.address.take());
        if shed > 0 {
            tracing::warn!(target: "lockgate::accept", connections = shed, key = "max_connections",
                "closed: idle for longest, to make room");
        }
        if full > 0 {
            tracing::warn!(target: "lockgate::accept", connections = full, key = "max_connections",
                "closed: there are too many");
        }
        if address > 0 {
            tracing::warn!(target: "lockgate::accept", connections = address,
                key = "max_connections_per_ip", "closed: too many from one address");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::config::defaults;

    fn admission(most: u64, per_address: u64) -> Arc<Admission> {
        let admission = Admission::new();
        admission.set(&ServerPlan {
            max_connections: NonZeroU64::new(most),
            max_connections_per_ip: NonZeroU64::new(per_address),
            ..defaults::server()
        });
        admission
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn as_many_are_admitted_as_there_may_be_and_each_that_leaves_makes_room() {
        let admission = admission(2, 0);
        let first = admission.admit().unwrap();
        let _second = admission.admit().unwrap();
        assert_eq!(admission.admit().unwrap_err(), Refusal::Full);
        drop(first);
        assert!(admission.admit().is_ok());
    }

    #[test]
    fn an_address_is_counted_in_its_one_form_and_ipv6_by_its_network() {
        for (one, other, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("2001:db8::1", "2001:db8::ffff:2", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            let admission = admission(100, 1);
            let mut first = admission.admit().unwrap();
            first.count(address(one)).unwrap();
            let mut second = admission.admit().unwrap();
            let refused = second.count(address(other)) == Err(Refusal::Address);
            assert_eq!(refused, same, "{one} {other}");
            drop((first, second));
            let mut third = admission.admit().unwrap();
            assert_eq!(third.count(address(one)), Ok(()));
            drop(third);
            assert_eq!(admission.open.load(Ordering::Relaxed), 0, "all have left");
        }
    }
}
