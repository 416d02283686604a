//! How long a server keeps a connection that is idle: what it announces, and what is seen of it.
//!
//! A request on a connection that its server is just closing is lost; one that is not idempotent cannot be
//! sent again. So connections are not used near their end. What is seen is an interval: idle for so long
//! they were alive, idle for so long one was closed. A restart closes connections of any age and looks like a
//! short limit; the first one that lives longer shows that it was none.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderValue;

use super::http1::exchange::Idempotence;

/// Nothing is known.
const UNKNOWN: u32 = u32::MAX;

/// What is known of one server, in milliseconds.
#[derive(Debug)]
pub struct IdleLimit {
    announced: AtomicU32,
    /// An `Interval`.
    seen: AtomicU64,
}

/// What was seen: the longest that a connection was idle and alive, and the shortest after which one was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Interval {
    alive: u32,
    closed: u32,
}

impl Default for IdleLimit {
    fn default() -> Self {
        Self {
            announced: AtomicU32::new(UNKNOWN),
            seen: AtomicU64::new(Interval::UNKNOWN.pack()),
        }
    }
}

impl IdleLimit {
    /// The server says how long it keeps connections, as it says with every answer: `Keep-Alive: timeout=5`.
    pub fn announce(&self, field: &HeaderValue) {
        if let Some(seconds) = announced(field) {
            let millis = seconds.saturating_mul(1000).min(UNKNOWN - 1);
            if self.announced.load(Ordering::Relaxed) != millis {
                self.announced.store(millis, Ordering::Relaxed);
            }
        }
    }

    /// A connection is alive after so long.
    pub fn alive(&self, idle: Duration) {
        self.see(|seen| seen.alive(millis(idle)));
    }

    /// A connection was alive after so long, and is found closed after so long.
    pub fn closed(&self, alive: Duration, closed: Duration) {
        self.see(|seen| seen.closed(millis(alive), millis(closed)));
    }

    /// The longest that a connection may have been idle to be used for another request; `None`: any time. An
    /// eighth is left for the way to the server and its clock; what cannot be repeated gets no more than half.
    pub fn longest(&self, idempotence: Idempotence) -> Option<Duration> {
        let announced = self.announced.load(Ordering::Relaxed);
        let seen = Interval::unpack(self.seen.load(Ordering::Relaxed));
        let limit = announced.min(seen.limit());
        if limit == UNKNOWN {
            return None;
        }
        Some(Duration::from_millis(u64::from(match idempotence {
            Idempotence::Idempotent => limit - limit / 8,
            Idempotence::Other => limit / 2,
        })))
    }

    /// Workers that see something at the same moment may lose it: they will see it again.
    fn see(&self, change: impl FnOnce(Interval) -> Interval) {
        let before = Interval::unpack(self.seen.load(Ordering::Relaxed));
        let after = change(before);
        if after != before {
            self.seen.store(after.pack(), Ordering::Relaxed);
        }
    }
}

impl Interval {
    const UNKNOWN: Self = Self {
        alive: 0,
        closed: UNKNOWN,
    };

    fn alive(self, idle: u32) -> Self {
        Self {
            alive: self.alive.max(idle),
            // What was closed earlier was not closed for being idle.
            closed: if idle < self.closed {
                self.closed
            } else {
                UNKNOWN
            },
        }
    }

    fn closed(self, alive: u32, closed: u32) -> Self {
        Self {
            // Others that lived longer did so under another limit.
            alive: if self.alive < closed {
                self.alive.max(alive)
            } else {
                alive
            },
            closed: if alive < self.closed {
                self.closed.min(closed)
            } else {
                closed
            },
        }
    }

    /// Not the shortest that was seen alive where that says little.
    fn limit(self) -> u32 {
        match self.closed {
            UNKNOWN => UNKNOWN,
            closed => self.alive.max(closed / 2),
        }
    }

    fn pack(self) -> u64 {
        u64::from(self.closed) << 32 | u64::from(self.alive)
    }

    fn unpack(packed: u64) -> Self {
        let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(UNKNOWN);
        Self {
            alive: half(packed),
            closed: half(packed >> 32),
        }
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis())
        .unwrap_or(UNKNOWN)
        .min(UNKNOWN - 1)
}

/// The seconds of `timeout=5, max=100`.
fn announced(field: &HeaderValue) -> Option<u32> {
    let parameters = field.to_str().ok()?.split(',');
    parameters
        .filter_map(|parameter| parameter.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"))
        .and_then(|(_, seconds)| seconds.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn longest(limit: &IdleLimit) -> (Option<u128>, Option<u128>) {
        let [idempotent, other] =
            [Idempotence::Idempotent, Idempotence::Other].map(|idempotence| {
                limit
                    .longest(idempotence)
                    .map(|longest| longest.as_millis())
            });
        (idempotent, other)
    }

    #[test]
    fn nothing_is_limited_by_what_lives() {
        let limit = IdleLimit::default();
        assert_eq!(longest(&limit), (None, None));
        limit.alive(ms(50_000));
        assert_eq!(longest(&limit), (None, None));
    }

    #[test]
    fn an_announced_time_counts_but_for_an_eighth_and_only_half_of_it_for_what_cannot_be_repeated()
    {
        for (field, expected) in [
            ("timeout=5", (Some(4375), Some(2500))),
            ("max=100, Timeout = 2", (Some(1750), Some(1000))),
            ("timeout=0", (Some(0), Some(0))),
            (
                "timeout=4294967295",
                (Some(3_758_096_383), Some(2_147_483_647)),
            ),
            ("timeout=99999999999", (None, None)),
            ("timeout=-1", (None, None)),
            ("max=100", (None, None)),
            ("", (None, None)),
        ] {
            let limit = IdleLimit::default();
            limit.announce(&HeaderValue::from_static(field));
            assert_eq!(longest(&limit), expected, "{field}");
        }
    }

    #[test]
    fn the_shorter_of_what_was_announced_and_what_was_seen_counts() {
        let limit = IdleLimit::default();
        limit.announce(&HeaderValue::from_static("timeout=60"));
        limit.alive(ms(4800));
        limit.closed(ms(4600), ms(5300));
        assert_eq!(longest(&limit), (Some(4200), Some(2400)));
        limit.announce(&HeaderValue::from_static("timeout=4"));
        assert_eq!(longest(&limit), (Some(3500), Some(2000)));
    }

    #[test]
    fn what_is_seen_narrows_down_to_the_server_s_limit() {
        let limit = IdleLimit::default();
        limit.closed(ms(0), ms(800));
        assert_eq!(longest(&limit), (Some(350), Some(200)));
        limit.closed(ms(10), ms(120));
        assert_eq!(longest(&limit), (Some(53), Some(30)));
        limit.alive(ms(96));
        assert_eq!(longest(&limit), (Some(84), Some(48)));
    }

    #[test]
    fn a_restart_is_forgotten_once_a_connection_lives_longer() {
        let limit = IdleLimit::default();
        limit.alive(ms(30_000));
        limit.closed(ms(2), ms(4));
        assert_eq!(longest(&limit), (Some(2), Some(1)));
        limit.alive(ms(3));
        assert_eq!(longest(&limit), (Some(3), Some(1)));
        limit.alive(ms(700));
        assert_eq!(longest(&limit), (None, None));
    }

    #[test]
    fn a_limit_that_changes_is_learned_anew() {
        let limit = IdleLimit::default();
        limit.alive(ms(4900));
        limit.closed(ms(4000), ms(5000));
        limit.closed(ms(1000), ms(2000));
        assert_eq!(longest(&limit), (Some(875), Some(500)));
        limit.closed(ms(9000), ms(10_000));
        assert_eq!(longest(&limit), (Some(7875), Some(4500)));
    }
}
