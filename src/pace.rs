//! How slow a client may be (`min_rate`): an account of time.
//!
//! Only time spent waiting for the client counts. Every byte that it moves pays for some of it; a client
//! that is further behind than [`ALLOWANCE`] is too slow. So a pause is forgiven and a trickle is not,
//! whatever was moved before.

use std::num::NonZeroU64;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::stream::Meter;

/// How far a client may fall behind: a pause of so long, or a longer time at less than the rate.
pub const ALLOWANCE: Duration = Duration::from_secs(20);

/// How far a client is behind.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    rate: Option<NonZeroU64>,
    behind: Duration,
}

impl Pace {
    /// A client that has to move `rate` bytes a second; `None`: as slow as it likes.
    pub fn new(rate: Option<NonZeroU64>) -> Self {
        Self {
            rate,
            behind: Duration::ZERO,
        }
    }

    /// The client was waited for, and moved so many bytes meanwhile.
    pub fn note(&mut self, waited: Duration, bytes: u64) {
        if let Some(rate) = self.rate {
            let paid = Duration::from_micros(bytes.saturating_mul(1_000_000) / rate);
            self.behind = (self.behind + waited).saturating_sub(paid);
        }
    }

    /// How much longer the client may move nothing; `None`: for ever.
    pub fn patience(&self) -> Option<Duration> {
        self.rate.map(|_| ALLOWANCE.saturating_sub(self.behind))
    }

    /// Whether the client is too slow.
    pub fn is_spent(&self) -> bool {
        self.patience().is_some_and(|left| left.is_zero())
    }
}

/// The pace of a client that sends a request's body. What its connection moves counts, not the request alone:
/// several share it over HTTP/2.
#[derive(Clone, Debug)]
pub struct Inflow {
    pace: Pace,
    meter: Option<Rc<Meter>>,
    received: u64,
    waiting_since: Option<Instant>,
}

impl Inflow {
    /// Begins to watch a client that has to send `rate` bytes a second while it is waited for.
    pub fn new(rate: Option<NonZeroU64>, meter: Option<&Rc<Meter>>) -> Self {
        Self {
            pace: Pace::new(rate),
            received: meter.map_or(0, |meter| meter.received()),
            meter: meter.map(Rc::clone),
            waiting_since: None,
        }
    }

    /// The client is waited for, since `since` if it was not before: until when, if nothing comes.
    pub fn wait(&mut self, since: Instant) -> Option<Instant> {
        let patience = self.pace.patience()?;
        Some(*self.waiting_since.get_or_insert(since) + patience)
    }

    /// Something came: a wait, if there was one, is over.
    pub fn moved(&mut self) {
        if let Some(since) = self.waiting_since.take() {
            self.note(since.elapsed());
        }
    }

    /// Whether the client, still waited for, is too slow by now.
    pub fn is_too_slow(&mut self, now: Instant) -> bool {
        if let Some(since) = self.waiting_since.replace(now) {
            self.note(now.saturating_duration_since(since));
        }
        self.pace.is_spent()
    }

    fn note(&mut self, waited: Duration) {
        let received = self.meter.as_ref().map_or(0, |meter| meter.received());
        self.pace.note(waited, received - self.received);
        self.received = received;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace(rate: u64) -> Pace {
        Pace::new(NonZeroU64::new(rate))
    }

    #[test]
    fn a_client_at_the_rate_is_never_too_slow_and_one_below_it_is_in_the_end() {
        let (mut exact, mut below) = (pace(256), pace(256));
        let mut seconds = 0;
        while !below.is_spent() {
            exact.note(SECOND, 256);
            below.note(SECOND, 255);
            seconds += 1;
            assert!(seconds < 100_000);
        }
        assert_eq!(exact.patience(), Some(ALLOWANCE));
        assert_eq!(seconds, 20 * 256);
    }

    #[test]
    fn a_pause_is_forgiven_up_to_the_allowance() {
        let mut paused = pace(1000);
        paused.note(ALLOWANCE - SECOND, 0);
        assert!(!paused.is_spent());
        assert_eq!(paused.patience(), Some(SECOND));
        paused.note(SECOND, 0);
        assert!(paused.is_spent());
    }

    #[test]
    fn what_was_moved_before_buys_no_time() {
        let mut rich = pace(1000);
        rich.note(SECOND, u64::MAX);
        rich.note(ALLOWANCE, 0);
        assert!(rich.is_spent());
    }

    #[test]
    fn without_a_rate_there_is_no_end_to_patience() {
        let mut free = pace(0);
        free.note(ALLOWANCE * 1000, 0);
        assert_eq!(free.patience(), None);
        assert!(!free.is_spent());
    }
}
