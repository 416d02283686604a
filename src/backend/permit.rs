//! At most so many connections to one server (`max_connections_per_server`), in all workers together.
//!
//! A connection holds a permit as long as it is open, idle or not. Where none is left, requests wait for one
//! in the order in which they came, and idle connections that others need more are closed for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, Semaphore};

/// Requests that wait for connections to one server.
pub const LONGEST_QUEUE: usize = 1024;

/// The permits of one server.
#[derive(Debug)]
pub struct Permits {
    free: Semaphore,
    limit: AtomicUsize,
    /// Permits that are out beyond a limit that was lowered: they do not come back.
    excess: AtomicUsize,
    waiting: AtomicUsize,
    wanted: Notify,
}

/// What a connection holds.
#[derive(Debug)]
pub struct Permit(Arc<Permits>);

/// Too many wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

impl Permits {
    /// So many, all of them free.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Semaphore::new(limit),
            limit: AtomicUsize::new(limit),
            excess: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            wanted: Notify::new(),
        })
    }

    /// From now on there are so many. Of those that are out beyond it, the next to be given back are gone.
    pub fn set_limit(&self, limit: usize) {
        let before = self.limit.swap(limit, Ordering::SeqCst);
        let more = limit.saturating_sub(before);
        self.free.add_permits(more - self.settle(more));
        let less = before.saturating_sub(limit);
        let out = less - self.free.forget_permits(less);
        if out > 0 {
            self.excess.fetch_add(out, Ordering::SeqCst);
            self.wanted.notify_waiters();
        }
    }

    /// A permit, if one is free and nobody waits for it.
    pub fn take(self: &Arc<Self>) -> Option<Permit> {
        let permit = self.free.try_acquire().ok()?;
        permit.forget();
        Some(Permit(Arc::clone(self)))
    }

    /// Waits for a permit, behind all who wait already. Who stops waiting has given its place up.
    pub async fn wait(self: &Arc<Self>) -> Result<Permit, QueueFull> {
        let _place = Place::begin(self).ok_or(QueueFull)?;
        // Who holds idle connections looks once this waits, and finds it.
        self.wanted.notify_waiters();
        let permit = self.free.acquire().await.map_err(|_| QueueFull)?;
        permit.forget();
        Ok(Permit(Arc::clone(self)))
    }

    /// How many connections should be given up: for those who wait, and because they are too many.
    pub fn wanting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst) + self.excess.load(Ordering::SeqCst)
    }

    /// What tells that connections are wanted.
    pub fn wanted(&self) -> &Notify {
        &self.wanted
    }

    /// Takes up to so many off what is out in excess; how many those were.
    fn settle(&self, most: usize) -> usize {
        let left = |excess: usize| Some(excess.saturating_sub(most));
        let before = self
            .excess
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, left);
        before.unwrap_or(0).min(most)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.free.add_permits(1 - self.0.settle(1));
    }
}

/// A place among those who wait.
struct Place<'a>(&'a Permits);

impl<'a> Place<'a> {
    fn begin(permits: &'a Permits) -> Option<Self> {
        let place = Self(permits);
        let before = permits.waiting.fetch_add(1, Ordering::SeqCst);
        (before < LONGEST_QUEUE).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Wait = Pin<Box<dyn Future<Output = Result<Permit, QueueFull>>>>;

    /// One that has begun to wait.
    fn waiting(permits: &Arc<Permits>) -> Wait {
        let permits = Arc::clone(permits);
        let mut wait: Wait = Box::pin(async move { permits.wait().await });
        assert!(poll(&mut wait).is_none());
        wait
    }

    fn poll(wait: &mut Wait) -> Option<Result<Permit, QueueFull>> {
        let mut cx = Context::from_waker(Waker::noop());
        match wait.as_mut().poll(&mut cx) {
            Poll::Ready(permit) => Some(permit),
            Poll::Pending => None,
        }
    }

    fn free(permits: &Arc<Permits>) -> usize {
        permits.free.available_permits()
    }

    #[test]
    fn who_waits_is_served_in_turn_and_before_whoever_comes_then() {
        let permits = Permits::new(1);
        let held = permits.take().unwrap();
        let (mut first, mut second) = (waiting(&permits), waiting(&permits));
        drop(held);
        assert!(permits.take().is_none());
        assert!(poll(&mut second).is_none());
        let held = poll(&mut first).unwrap().unwrap();
        assert!(poll(&mut second).is_none());
        drop(held);
        assert!(poll(&mut second).unwrap().is_ok());
        assert_eq!((permits.wanting(), free(&permits)), (0, 1));
    }

    #[test]
    fn who_leaves_gives_its_place_up_even_when_its_turn_has_come() {
        let permits = Permits::new(1);
        let held = permits.take().unwrap();
        let (gone, served, mut last) = (waiting(&permits), waiting(&permits), waiting(&permits));
        drop(gone);
        assert_eq!(permits.wanting(), 2);
        drop(held);
        drop(served);
        assert!(poll(&mut last).unwrap().is_ok());
        assert_eq!((permits.wanting(), free(&permits)), (0, 1));
    }

    #[test]
    fn a_full_queue_takes_nobody() {
        let permits = Permits::new(1);
        let _held = permits.take().unwrap();
        let mut queue: Vec<_> = (0..LONGEST_QUEUE).map(|_| waiting(&permits)).collect();
        let refused = |permits: &Arc<Permits>| {
            let permits = Arc::clone(permits);
            let mut wait: Wait = Box::pin(async move { permits.wait().await });
            matches!(poll(&mut wait), Some(Err(QueueFull)))
        };
        assert!(refused(&permits));
        queue.pop();
        assert!(!refused(&permits));
    }

    #[test]
    fn a_limit_that_changes_holds_once_what_is_out_beyond_it_has_come_back() {
        let permits = Permits::new(3);
        let mut held: Vec<_> = (0..3).map(|_| permits.take().unwrap()).collect();
        permits.set_limit(1);
        permits.set_limit(1);
        assert_eq!(permits.wanting(), 2);
        held.pop();
        assert_eq!((permits.wanting(), free(&permits)), (1, 0));
        permits.set_limit(4);
        assert_eq!((permits.wanting(), free(&permits)), (0, 2));
        held.clear();
        assert_eq!(free(&permits), 4);
        permits.set_limit(2);
        assert_eq!((permits.wanting(), free(&permits)), (0, 2));
    }
}
