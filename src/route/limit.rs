//! How many requests a second a rule takes, in all and of each client (`traffic_limit`, alb.md 6.3).
//!
//! The generic cell rate algorithm: a limit is one time, at which the requests so far would have been over
//! had they come evenly. A request moves it on by its share of a second, and is refused if it would lie
//! more than a second ahead: so one second's worth may come at once. All workers share it, without a lock.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

use super::sketch::RuleHash;
pub use super::sketch::Sketch;
use crate::addr::network_of;
use crate::config::rule::TrafficLimit;

/// A second.
const SECOND: u64 = 1_000_000_000;

/// The limit of one rule.
#[derive(Clone, Debug)]
pub struct Limiter {
    plan: TrafficLimit,
    state: Arc<State>,
    each: Option<Each>,
}

/// What single clients have sent to one rule.
#[derive(Clone, Debug)]
struct Each {
    /// Of all rules of the listener.
    sketch: Arc<Sketch>,
    rule: RuleHash,
    rate: u32,
}

/// What survives reloads.
#[derive(Debug)]
struct State {
    began: Instant,
    all: AtomicU64,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is taken.
    Pass,
    /// There are too many.
    Refuse,
}

impl Limiter {
    /// The limit of the rule of that name, which may have had one before and then goes on from where it was;
    /// `sketch` remembers the single clients of its listener, if it limits any.
    pub fn new(
        plan: TrafficLimit,
        name: &str,
        before: Option<&Self>,
        sketch: Option<Arc<Sketch>>,
    ) -> Self {
        let state = before.map_or_else(
            || {
                Arc::new(State {
                    began: Instant::now(),
                    all: AtomicU64::new(0),
                })
            },
            |before| Arc::clone(&before.state),
        );
        let each = plan.per_ip_qps.zip(sketch).map(|(rate, sketch)| Each {
            rule: sketch.rule(name),
            sketch,
            rate,
        });
        Self { plan, state, each }
    }

    /// What remembers the single clients of its listener, if it limits any.
    pub fn sketch(&self) -> Option<&Arc<Sketch>> {
        self.each.as_ref().map(|each| &each.sketch)
    }

    /// Judges a request that comes now. A client is one IPv4 address or one IPv6 /64; its own limit is asked
    /// first, so that what one client sends beyond it takes nothing from the others.
    pub fn judge(&self, client: impl FnOnce() -> IpAddr, now: Instant) -> Verdict {
        if let Some(Each { sketch, rule, rate }) = &self.each {
            let now = nanos(sketch.began, now);
            let client = network_of(client());
            if !sketch.advance(*rule, client, |time| next(time, now, *rate)) {
                return Verdict::Refuse;
            }
        }
        if let Some(rate) = self.plan.qps {
            let now = nanos(self.state.began, now);
            let order = Ordering::Relaxed;
            let moved = self
                .state
                .all
                .fetch_update(order, order, |time| next(time, now, rate));
            if moved.is_err() {
                return Verdict::Refuse;
            }
        }
        Verdict::Pass
    }
}

/// The nanoseconds since `began`.
fn nanos(began: Instant, now: Instant) -> u64 {
    let nanos = now.saturating_duration_since(began).as_nanos();
    u64::try_from(nanos).unwrap_or(u64::MAX / 2)
}

/// Where a limit's time goes when a request is taken now; `None`: it is one too many.
fn next(time: u64, now: u64, rate: u32) -> Option<u64> {
    let after = time.max(now) + SECOND / u64::from(rate.max(1));
    (after <= now + SECOND).then_some(after)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limiter(qps: Option<u32>, per_ip_qps: Option<u32>) -> Limiter {
        let plan = TrafficLimit { qps, per_ip_qps };
        Limiter::new(plan, "rule", None, Some(Arc::default()))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn passed(limiter: &Limiter, client: &str, now: Instant, requests: usize) -> usize {
        let client = ip(client);
        let verdicts = (0..requests).map(|_| limiter.judge(|| client, now));
        verdicts.filter(|verdict| *verdict == Verdict::Pass).count()
    }

    #[test]
    fn one_second_s_worth_may_come_at_once() {
        for qps in [1, 2, 3, 7, 10, 1000, 999_999, 1_000_000] {
            let limiter = limiter(Some(qps), None);
            let now = Instant::now();
            let most = qps as usize;
            let passed = passed(&limiter, "192.0.2.1", now, most + 10);
            // A share is cut to whole nanoseconds: at a million it is exact, at 999,999 one more fits.
            assert!((most..=most + 1).contains(&passed), "{qps}: {passed}");
        }
    }

    #[test]
    fn over_time_the_rate_is_met_however_fast_requests_come() {
        let limiter = limiter(Some(100), None);
        let start = Instant::now();
        let mut all = 0;
        for tick in 0..10_000 {
            all += passed(
                &limiter,
                "192.0.2.1",
                start + Duration::from_millis(tick),
                3,
            );
        }
        // Ten seconds, and what may come at once.
        assert!((1099..=1101).contains(&all), "{all}");
    }

    #[test]
    fn requests_at_the_rate_are_never_refused() {
        let limiter = limiter(Some(10), Some(5));
        let start = Instant::now();
        for tick in 0..1000 {
            let now = start + Duration::from_millis(200 * tick);
            assert_eq!(passed(&limiter, "192.0.2.1", now, 1), 1, "{tick}");
            assert_eq!(passed(&limiter, "192.0.2.2", now, 1), 1, "{tick}");
        }
    }

    #[test]
    fn a_client_beyond_its_own_limit_takes_nothing_from_the_others() {
        let limiter = limiter(Some(20), Some(5));
        let now = Instant::now();
        assert_eq!(passed(&limiter, "192.0.2.1", now, 1000), 5);
        assert_eq!(passed(&limiter, "192.0.2.2", now, 1000), 5);
        assert_eq!(passed(&limiter, "2001:db8::1", now, 1000), 5);
        assert_eq!(
            passed(&limiter, "2001:db8::2:1", now, 1000),
            0,
            "the same /64"
        );
        assert_eq!(passed(&limiter, "2001:db8:0:1::1", now, 1000), 5);
        assert_eq!(
            passed(&limiter, "192.0.2.3", now, 1000),
            0,
            "the rule's own"
        );
    }

    #[test]
    fn a_limit_goes_on_from_where_it_was() {
        let plan = |qps, per_ip_qps| TrafficLimit { qps, per_ip_qps };
        let before = limiter(Some(10), None);
        let now = Instant::now();
        assert_eq!(passed(&before, "192.0.2.1", now, 100), 10);
        for next in [plan(Some(10), None), plan(Some(10), Some(3))] {
            let next = Limiter::new(next, "rule", Some(&before), Some(Arc::default()));
            assert_eq!(passed(&next, "192.0.2.1", now, 100), 0);
        }
        let before = limiter(None, Some(5));
        let now = Instant::now();
        assert_eq!(passed(&before, "192.0.2.1", now, 100), 5);
        let sketch = before.sketch().cloned();
        let next = Limiter::new(plan(Some(100), Some(10)), "rule", Some(&before), sketch);
        assert_eq!(passed(&next, "192.0.2.1", now, 100), 0);
        assert_eq!(passed(&next, "192.0.2.2", now, 100), 10);
        // Twice the rate: what was taken counts half.
        let later = now + Duration::from_millis(500);
        assert_eq!(passed(&next, "192.0.2.1", later, 100), 5);
    }

    #[test]
    fn workers_that_meet_take_no_more_than_there_is() {
        let limiter = limiter(Some(1000), None);
        let now = Instant::now();
        let all: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| passed(&limiter, "192.0.2.1", now, 5000)))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(all, 1000);
    }
}
