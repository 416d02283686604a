//! Knows the addresses of servers that are reached by name, and asks for them again as they run out.
//!
//! A name that does not resolve keeps the addresses it had; without any, its server is one that nobody
//! can reach. It never keeps lockgate from starting, and is asked for again after a pause that doubles.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::backend::group::Addresses;

/// How long one look-up may take; and for how long a start or a reload waits for its new names.
const LIMIT: Duration = Duration::from_secs(5);
/// How soon a name that did not resolve is asked for again at first; doubled with every further failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest time between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Addresses of one name that are taken.
const MOST_ADDRESSES: usize = 256;

/// The names of a generation's servers.
#[derive(Debug, Default)]
pub struct Names {
    known: HashMap<String, Name>,
    addresses: Addresses,
    lookups: JoinSet<(String, Answer)>,
}

/// How a name stands.
#[derive(Debug)]
struct Name {
    next: Next,
    failures: u32,
}

/// When a name is asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It is being asked for.
    Now,
    /// Then.
    At(Instant),
}

/// What a look-up came to.
type Answer = Result<Found, io::Error>;

/// Addresses, and how long they hold.
#[derive(Debug)]
struct Found {
    addresses: Vec<IpAddr>,
    ttl: Duration,
}

/// Whether addresses are other than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Some,
    None,
}

impl Names {
    /// What the names stand for now.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Asks for `hosts`, and waits until those that are new have been answered for once, but not for long.
    pub async fn learn(&mut self, hosts: HashSet<String>) {
        let mut new = HashSet::new();
        let now = Instant::now();
        for host in hosts {
            match self.known.get_mut(&host) {
                Some(name) if name.next != Next::Now => name.next = Next::At(now),
                Some(_) => {}
                None => {
                    let name = Name {
                        next: Next::At(now),
                        failures: 0,
                    };
                    self.known.insert(host.clone(), name);
                    new.insert(host);
                }
            }
        }
        let answered = async {
            while !new.is_empty() {
                let (host, _) = self.next_answer().await;
                new.remove(&host);
            }
        };
        let _ = timeout(LIMIT, answered).await;
    }

    /// Forgets all others.
    pub fn keep_only(&mut self, hosts: &HashSet<String>) {
        self.known.retain(|host, _| hosts.contains(host));
        self.addresses.retain(|host, _| hosts.contains(host));
    }

    /// Waits until a name stands for other addresses than before.
    pub async fn changed(&mut self) {
        while self.next_answer().await.1 == News::None {}
    }

    /// Asks for every name whose time has come, and waits for the next answer.
    async fn next_answer(&mut self) -> (String, News) {
        loop {
            let now = Instant::now();
            let mut first = None;
            for (host, name) in &mut self.known {
                let Next::At(due) = name.next else { continue };
                if due <= now {
                    name.next = Next::Now;
                    let host = host.clone();
                    self.lookups.spawn(async move {
                        let answer = look_up(&host).await;
                        (host, answer)
                    });
                } else {
                    first = Some(first.map_or(due, |first: Instant| first.min(due)));
                }
            }
            let due = async {
                match first {
                    Some(first) => sleep_until(first).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(Ok((host, answer))) = self.lookups.join_next() => {
                    let news = self.take(&host, answer);
                    return (host, news);
                }
                () = due => {}
            }
        }
    }

    fn take(&mut self, host: &str, answer: Answer) -> News {
        let Some(name) = self.known.get_mut(host) else {
            return News::None;
        };
        let now = Instant::now();
        match answer {
            Ok(mut found) => {
                name.failures = 0;
                name.next = Next::At(now + found.ttl);
                found.addresses.sort_unstable();
                found.addresses.dedup();
                found.addresses.truncate(MOST_ADDRESSES);
                if self.addresses.get(host) == Some(&found.addresses) {
                    return News::None;
                }
                tracing::info!(target: "lockgate::dns", name = host, addresses = ?found.addresses,
                    ttl = ?found.ttl, "resolved");
                self.addresses.insert(host.to_owned(), found.addresses);
                News::Some
            }
            Err(error) => {
                let pause = FIRST_PAUSE
                    .saturating_mul(1 << name.failures.min(8))
                    .min(LONGEST_PAUSE);
                name.next = Next::At(now + pause);
                name.failures = name.failures.saturating_add(1);
                let kept = self.addresses.get(host).map_or(0, Vec::len);
                if name.failures == 1 {
                    tracing::warn!(target: "lockgate::dns", name = host, %error, addresses_kept = kept,
                        "the name does not resolve");
                } else {
                    tracing::debug!(target: "lockgate::dns", name = host, %error, ?pause,
                        "the name still does not resolve");
                }
                News::None
            }
        }
    }
}

async fn look_up(host: &str) -> Answer {
    let found = timeout(LIMIT, lookup_host((host, 0)))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(Found {
        addresses: found.map(|address| address.ip()).collect(),
        ttl: Duration::from_secs(10),
    })
}
