//! A deadline that costs next to nothing while it does not pass.
//!
//! Deadlines on the request path move with every byte. Re-arming a timer for each would take the
//! timer wheel's lock twice a request; this one stays armed at an earlier time, and looks again when
//! it fires. It is kept with what it guards (a connection), not made anew.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer for a deadline that keeps moving into the future.
#[derive(Debug, Default)]
pub struct LazyTimer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl LazyTimer {
    /// A timer that holds nothing until it is first polled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ready once `deadline` has passed; else the task is woken at the deadline or before.
    pub fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline || Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn fires_at_the_latest_deadline_asked_for() {
        let mut timer = LazyTimer::new();
        let start = Instant::now();
        let early = start + Duration::from_secs(1);
        assert!(
            poll_fn(|cx| Poll::Ready(timer.poll(early, cx)))
                .await
                .is_pending()
        );
        poll_fn(|cx| timer.poll(start + Duration::from_secs(5), cx)).await;
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_deadline_is_kept() {
        let mut timer = LazyTimer::new();
        let start = Instant::now();
        let late = start + Duration::from_secs(60);
        assert!(
            poll_fn(|cx| Poll::Ready(timer.poll(late, cx)))
                .await
                .is_pending()
        );
        poll_fn(|cx| timer.poll(start + Duration::from_secs(1), cx)).await;
        assert_eq!(start.elapsed().as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_fired_serves_the_next_deadline() {
        let mut timer = LazyTimer::new();
        let first = Instant::now() + Duration::from_secs(1);
        poll_fn(|cx| timer.poll(first, cx)).await;
        let second = first + Duration::from_secs(2);
        poll_fn(|cx| timer.poll(second, cx)).await;
        assert_eq!(first.elapsed().as_secs(), 2);
    }
}
