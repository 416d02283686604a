//! One backend server, as all workers and generations know it: where it is reached, what checks have
//! found it to be, and whether it has just failed requests.
//!
//! Requests tell by themselves (passive ejection): a connection that does not come about has its server
//! skipped at once, and so have three requests in a row that came to no answer, for a time that doubles.
//! Skipped or unhealthy, it is asked all the same where its group has no better one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::health::{Health, Outcome, State};
use super::idle_limit::IdleLimit;
use crate::addr::BackendAddr;
use crate::config::health::Thresholds;

/// How long a server that failed is skipped at first; doubled with every further failure.
const FIRST_SKIP: Duration = Duration::from_secs(1);
/// The longest time a server is skipped without being asked again.
const LONGEST_SKIP: Duration = Duration::from_secs(10);
/// So many requests in a row without an answer and the server is skipped. One alone may be the request's own
/// fault, and a client must not take servers out of a group by sending it.
const MOST_UNANSWERED: u32 = 3;

/// It has failed requests.
const FAILING: u8 = 1;
/// Checks have found it unhealthy.
const UNHEALTHY: u8 = 2;
/// Its name has no address.
const UNRESOLVED: u8 = 4;

/// A backend server. What is known of it lives as long as some generation names it.
#[derive(Debug)]
pub struct Server {
    group: Arc<str>,
    address: BackendAddr,
    endpoint: BackendAddr,
    epoch: Instant,
    /// What speaks against asking it, as bits: nothing, mostly, which is one look.
    doubts: AtomicU8,
    health: AtomicU32,
    /// Milliseconds after the epoch at which it last became healthy.
    healthy_since: AtomicU64,
    /// Milliseconds after the epoch until which it is skipped.
    skipped_until: AtomicU64,
    refusals: AtomicU32,
    unanswered: AtomicU32,
    /// Exchanges that it has now, in groups that count them.
    active: AtomicUsize,
    idle_limit: IdleLimit,
}

/// One exchange that a server has, counted as long as this lives.
#[derive(Debug)]
pub struct Active(Arc<Server>);

impl Active {
    /// Counts one more.
    pub fn begin(server: &Arc<Server>) -> Self {
        server.active.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(server))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a server is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Refused,
    Unanswered,
}

impl Server {
    /// A server of `group` nothing is known of yet: what was written of it, and where it is connected to,
    /// which is still a name where that has no address.
    pub fn new(group: Arc<str>, address: BackendAddr, endpoint: BackendAddr) -> Arc<Self> {
        let doubts = match &endpoint {
            BackendAddr::Name { .. } => UNRESOLVED,
            BackendAddr::Ip(_) | BackendAddr::Unix(_) => 0,
        };
        Arc::new(Self {
            group,
            address,
            endpoint,
            epoch: Instant::now(),
            doubts: AtomicU8::new(doubts),
            health: AtomicU32::new(Health::default().pack()),
            healthy_since: AtomicU64::new(0),
            skipped_until: AtomicU64::new(0),
            refusals: AtomicU32::new(0),
            unanswered: AtomicU32::new(0),
            active: AtomicUsize::new(0),
            idle_limit: IdleLimit::default(),
        })
    }

    /// How long it keeps connections that are idle.
    pub fn idle_limit(&self) -> &IdleLimit {
        &self.idle_limit
    }

    /// What was written of it. Servers that share a name share this.
    pub fn address(&self) -> &BackendAddr {
        &self.address
    }

    /// Where it is connected to: for a name, one of its addresses, or the name itself while it has none.
    pub fn endpoint(&self) -> &BackendAddr {
        &self.endpoint
    }

    /// Whether anything speaks against asking it, so that [`Self::may_be_asked`] must be looked at.
    pub fn is_doubtful(&self) -> bool {
        self.doubts.load(Ordering::Relaxed) != 0
    }

    /// Whether requests may go to it: it has an address, is not unhealthy and is not skipped.
    pub fn may_be_asked(&self, now: Instant) -> bool {
        match self.doubts.load(Ordering::Relaxed) {
            0 => true,
            FAILING => !self.is_skipped(now),
            _ => false,
        }
    }

    /// Whether it can be connected to at all.
    pub fn has_address(&self) -> bool {
        self.doubts.load(Ordering::Relaxed) & UNRESOLVED == 0
    }

    /// Since when it has been serving: it was added then, or became healthy again.
    pub fn serving_since(&self) -> Instant {
        self.epoch + Duration::from_millis(self.healthy_since.load(Ordering::Relaxed))
    }

    /// What checks have found it to be.
    pub fn health(&self) -> State {
        Health::unpack(self.health.load(Ordering::Relaxed)).state
    }

    /// Takes a check's result; what it was before, if that changed. Only ever called by its one checker.
    pub fn checked(&self, outcome: Outcome, thresholds: Thresholds, now: Instant) -> Option<State> {
        let before = Health::unpack(self.health.load(Ordering::Relaxed));
        let after = before.after(outcome, thresholds);
        self.health.store(after.pack(), Ordering::Relaxed);
        match (before.state, after.state) {
            (before, after) if before == after => return None,
            (_, State::Unhealthy) => {
                self.doubts.fetch_or(UNHEALTHY, Ordering::Relaxed);
            }
            (State::Unhealthy, State::Healthy | State::Initial) => {
                self.healthy_since
                    .store(self.millis(now), Ordering::Relaxed);
                self.forget_failures();
                self.doubts.fetch_and(!UNHEALTHY, Ordering::Relaxed);
            }
            (State::Initial | State::Healthy, State::Initial | State::Healthy) => {}
        }
        Some(before.state)
    }

    /// Nobody checks it any more: it is as good as new.
    pub fn unchecked(&self) {
        self.health
            .store(Health::default().pack(), Ordering::Relaxed);
        self.doubts.fetch_and(!UNHEALTHY, Ordering::Relaxed);
    }

    /// It refused a connection, or let the connect time out.
    pub fn refused(&self, now: Instant) {
        self.skip(Fault::Refused, now);
    }

    /// It took a connection.
    pub fn accepted(&self) {
        if self.refusals.load(Ordering::Relaxed) != 0 {
            self.refusals.store(0, Ordering::Relaxed);
            if self.unanswered.load(Ordering::Relaxed) < MOST_UNANSWERED {
                self.forget_failures();
            }
        }
    }

    /// How many exchanges it has, in groups that count them.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// It took a request and gave no answer: it closed the connection instead, or said nothing for too long.
    pub fn left_unanswered(&self, now: Instant) {
        if self.is_skipped(now) {
            return;
        }
        let unanswered = self.unanswered.fetch_add(1, Ordering::Relaxed) + 1;
        if unanswered >= MOST_UNANSWERED {
            self.skip(Fault::Unanswered, now);
        }
    }

    /// It answered a request.
    pub fn answered(&self) {
        if self.unanswered.load(Ordering::Relaxed) != 0 {
            self.forget_failures();
        }
    }

    /// Whether requests should go elsewhere at this moment, because of how the last ones fared.
    pub fn is_skipped(&self, now: Instant) -> bool {
        self.millis(now) < self.skipped_until.load(Ordering::Relaxed)
    }

    fn skip(&self, fault: Fault, now: Instant) {
        // Requests that were under way at the same time say the same thing once.
        if self.is_skipped(now) {
            return;
        }
        let before = match fault {
            Fault::Refused => self.refusals.fetch_add(1, Ordering::Relaxed),
            Fault::Unanswered => {
                let unanswered = self.unanswered.load(Ordering::Relaxed);
                unanswered.saturating_sub(MOST_UNANSWERED)
            }
        };
        let skip = FIRST_SKIP
            .saturating_mul(1 << before.min(8))
            .min(LONGEST_SKIP);
        self.skipped_until
            .store(self.millis(now + skip), Ordering::Relaxed);
        self.doubts.fetch_or(FAILING, Ordering::Relaxed);
        let reason = match fault {
            Fault::Refused => "connect_failed",
            Fault::Unanswered => "unanswered",
        };
        tracing::warn!(target: "lockgate::health", group = &*self.group, server = %self.endpoint,
            reason, pause = ?skip, "requests go elsewhere for a while");
    }

    fn forget_failures(&self) {
        self.refusals.store(0, Ordering::Relaxed);
        self.unanswered.store(0, Ordering::Relaxed);
        self.skipped_until.store(0, Ordering::Relaxed);
        self.doubts.fetch_and(!FAILING, Ordering::Relaxed);
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: Thresholds = Thresholds {
        healthy: 2,
        unhealthy: 2,
    };

    fn server() -> Arc<Server> {
        let address = BackendAddr::Ip("127.0.0.1:1".parse().unwrap());
        Server::new("app".into(), address.clone(), address)
    }

    fn after(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_refused_is_skipped_for_a_second_and_then_asked_again() {
        let server = server();
        let now = Instant::now();
        assert!(server.may_be_asked(now));
        server.refused(now);
        assert!(!server.may_be_asked(now + Duration::from_millis(999)));
        assert!(server.may_be_asked(now + Duration::from_millis(1000)));
    }

    /// How many seconds it is skipped after each of six failures, each told as soon as it is asked again.
    fn pauses(server: &Server, fail: impl Fn(Instant)) -> Vec<u64> {
        let mut now = Instant::now();
        (0..6)
            .map(|_| {
                fail(now);
                let pause = (0..).find(|s| server.may_be_asked(now + after(*s)));
                now += after(pause.unwrap());
                pause.unwrap()
            })
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_double_the_pause_up_to_ten_seconds() {
        let refusing = server();
        let refused = pauses(&refusing, |now| refusing.refused(now));
        assert_eq!(refused, [1, 2, 4, 8, 10, 10]);
        refusing.accepted();
        assert!(!refusing.is_doubtful());

        let dying = server();
        let unanswered = pauses(&dying, |now| {
            dying.accepted();
            dying.left_unanswered(now);
        });
        assert_eq!(unanswered, [0, 0, 1, 2, 4, 8]);
        dying.answered();
        assert!(!dying.is_doubtful());
        let again = pauses(&dying, |now| dying.left_unanswered(now));
        assert_eq!(again, [0, 0, 1, 2, 4, 8]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_accepts_and_never_answers_is_not_redeemed_by_accepting() {
        let server = server();
        let now = Instant::now();
        for _ in 0..MOST_UNANSWERED {
            server.accepted();
            server.left_unanswered(now);
        }
        server.accepted();
        assert!(!server.may_be_asked(now));
    }

    #[tokio::test(start_paused = true)]
    async fn single_requests_without_an_answer_do_not_take_a_server_out() {
        let server = server();
        let now = Instant::now();
        for _ in 0..10 {
            server.left_unanswered(now);
            server.left_unanswered(now);
            server.answered();
        }
        assert!(!server.is_doubtful());
    }

    #[tokio::test(start_paused = true)]
    async fn an_unhealthy_server_is_not_asked_until_it_is_healthy_and_serves_anew_from_then() {
        let server = server();
        let began = Instant::now();
        assert_eq!(server.serving_since(), began);
        assert_eq!(server.checked(Outcome::Failed, TWO, began), None);
        assert!(server.may_be_asked(began));
        let changed = server.checked(Outcome::Failed, TWO, began);
        assert_eq!(changed, Some(State::Initial));
        assert!(server.is_doubtful() && !server.may_be_asked(began + after(100)));

        let now = began + after(30);
        server.refused(now);
        assert_eq!(server.checked(Outcome::Passed, TWO, now), None);
        let changed = server.checked(Outcome::Passed, TWO, now);
        assert_eq!(changed, Some(State::Unhealthy));
        // What requests had found is out of date, too.
        assert!(!server.is_doubtful());
        assert_eq!(server.serving_since(), now);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_success_of_a_new_server_does_not_make_it_newer() {
        let server = server();
        let now = Instant::now();
        let changed = server.checked(Outcome::Passed, TWO, now + after(5));
        assert_eq!(changed, Some(State::Initial));
        assert_eq!(server.serving_since(), now);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_checked_no_more_serves() {
        let server = server();
        let now = Instant::now();
        server.checked(Outcome::Failed, TWO, now);
        server.checked(Outcome::Failed, TWO, now);
        server.unchecked();
        assert!(server.may_be_asked(now));
        assert_eq!(server.health(), State::Initial);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_without_an_address_may_not_be_asked() {
        let address = BackendAddr::Name {
            host: "app.internal".into(),
            port: 80,
        };
        let server = Server::new("app".into(), address.clone(), address);
        assert!(server.is_doubtful() && !server.may_be_asked(Instant::now()));
        server.unchecked();
        server.accepted();
        server.answered();
        assert!(!server.may_be_asked(Instant::now()));
    }
}
