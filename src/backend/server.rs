//! One backend server, as all workers and generations know it: its address, what its name resolves to,
//! and whether it has just refused connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::addr::BackendAddr;

/// How long a server that refused a connection is skipped at first; doubled with every further refusal.
const FIRST_SKIP: Duration = Duration::from_secs(1);
/// The longest time a server is skipped without being asked again.
const LONGEST_SKIP: Duration = Duration::from_secs(10);

/// A backend server. What is known of it lives as long as some generation names it.
#[derive(Debug)]
pub struct Server {
    address: BackendAddr,
    /// The addresses its name stands for; one for an IP address, none for a unix socket.
    resolved: ArcSwap<Vec<SocketAddr>>,
    /// Which of them the next connection begins with.
    next: AtomicUsize,
    epoch: Instant,
    /// Milliseconds after the epoch until which it is skipped.
    skipped_until: AtomicU64,
    refusals: AtomicU32,
}

impl Server {
    /// A server nothing is known of yet.
    pub fn new(address: BackendAddr) -> Arc<Self> {
        let resolved = match &address {
            BackendAddr::Ip(address) => vec![*address],
            BackendAddr::Name { .. } | BackendAddr::Unix(_) => Vec::new(),
        };
        Arc::new(Self {
            address,
            resolved: ArcSwap::from_pointee(resolved),
            next: AtomicUsize::new(0),
            epoch: Instant::now(),
            skipped_until: AtomicU64::new(0),
            refusals: AtomicU32::new(0),
        })
    }

    /// Where it is reached.
    pub fn address(&self) -> &BackendAddr {
        &self.address
    }

    /// What its name stands for now.
    pub fn resolved(&self) -> Arc<Vec<SocketAddr>> {
        self.resolved.load_full()
    }

    /// Publishes what its name stands for from now on.
    pub fn resolve_to(&self, addresses: Vec<SocketAddr>) {
        self.resolved.store(Arc::new(addresses));
    }

    /// Which of several addresses the next connection begins with.
    pub fn next_start(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// It refused a connection, or let the connect time out: skip it for a moment.
    pub fn refused(&self, now: Instant) {
        // Requests that were under way at the same time say the same thing once.
        if self.is_skipped(now) {
            return;
        }
        let refusals = self.refusals.fetch_add(1, Ordering::Relaxed).min(8);
        let skip = FIRST_SKIP.saturating_mul(1 << refusals).min(LONGEST_SKIP);
        self.skipped_until
            .store(self.millis(now + skip), Ordering::Relaxed);
    }

    /// It took a connection.
    pub fn accepted(&self) {
        if self.refusals.load(Ordering::Relaxed) != 0 {
            self.refusals.store(0, Ordering::Relaxed);
            self.skipped_until.store(0, Ordering::Relaxed);
        }
    }

    /// Whether it has refused a connection, so that [`Self::is_skipped`] must be asked.
    pub fn has_refused(&self) -> bool {
        self.refusals.load(Ordering::Relaxed) != 0
    }

    /// Whether requests should go elsewhere at this moment.
    pub fn is_skipped(&self, now: Instant) -> bool {
        self.millis(now) < self.skipped_until.load(Ordering::Relaxed)
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Arc<Server> {
        Server::new(BackendAddr::Ip("127.0.0.1:1".parse().unwrap()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_refused_is_skipped_for_a_second_and_then_asked_again() {
        let server = server();
        let now = Instant::now();
        assert!(!server.is_skipped(now));
        server.refused(now);
        assert!(server.is_skipped(now + Duration::from_millis(999)));
        assert!(!server.is_skipped(now + Duration::from_millis(1000)));
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_in_a_row_double_the_pause_up_to_ten_seconds() {
        let server = server();
        let now = Instant::now();
        let pauses: Vec<u64> = (0..6)
            .map(|_| {
                server.skipped_until.store(0, Ordering::Relaxed);
                server.refused(now);
                (0..)
                    .find(|s| !server.is_skipped(now + Duration::from_secs(*s)))
                    .unwrap()
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
        server.accepted();
        assert!(!server.is_skipped(now));
        server.refused(now);
        assert!(!server.is_skipped(now + Duration::from_secs(1)));
    }
}
