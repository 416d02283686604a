//! Whether a client takes its answers fast enough: at all within request_timeout, and at min_rate.
//!
//! While something waits to be taken, the client is looked at now and then, and what its system has
//! acknowledged is compared. Bytes that only the kernel has taken do not count, those that it passes on do.

use std::num::NonZeroU64;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::failure::Failure;
use crate::pace::Pace;
use crate::stream::Meter;
use crate::timer::LazyTimer;

/// The longest time between two looks.
const LOOK: Duration = Duration::from_secs(5);
/// How often a client is looked at, at least, before request_timeout has passed.
const LOOKS: u32 = 8;

/// Watches a client that has something to take.
#[derive(Debug)]
pub(super) struct Outflow {
    pace: Pace,
    limit: Duration,
    looked_at: Option<Instant>,
    taken: u64,
    took_at: Option<Instant>,
    timer: LazyTimer,
}

/// Since when there is something to take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    /// The socket takes no more.
    pub(super) blocked: Option<Instant>,
    /// An answer, to which min_rate applies, is not taken.
    pub(super) answers: Option<Instant>,
}

impl Outflow {
    /// For a client that has to take something within `limit`, and `rate` bytes a second.
    pub(super) fn new(limit: Duration, rate: Option<NonZeroU64>) -> Self {
        Self {
            pace: Pace::new(rate),
            limit,
            looked_at: None,
            taken: 0,
            took_at: None,
            timer: LazyTimer::new(),
        }
    }

    /// Ready with the limit that the client has broken.
    pub(super) fn poll(&mut self, due: Due, meter: &Meter, cx: &mut Context<'_>) -> Poll<Failure> {
        let Some(since) = due.blocked.into_iter().chain(due.answers).min() else {
            self.looked_at = None;
            return Poll::Pending;
        };
        loop {
            let from = self.looked_at.map_or(since, |looked| looked.max(since));
            ready!(self.timer.poll(from + LOOK.min(self.limit / LOOKS), cx));
            let now = Instant::now();
            let taken = meter.taken();
            if taken > self.taken {
                self.took_at = Some(now);
            }
            if due.answers.is_some() {
                self.pace.note(now - from, taken.saturating_sub(self.taken));
            }
            self.taken = taken;
            self.looked_at = Some(now);
            let silent_since = |since: Instant| self.took_at.map_or(since, |took| took.max(since));
            if due
                .blocked
                .is_some_and(|since| now - silent_since(since) >= self.limit)
            {
                return Poll::Ready(Failure::ClientStalled);
            }
            if self.pace.is_spent() {
                return Poll::Ready(Failure::ClientBelowRate);
            }
        }
    }
}
