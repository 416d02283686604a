//! When what still goes on with a server is cut off: because its group is gone from the configuration,
//! or because the server was taken away and its connections are drained (alb.md 7.5).
//!
//! A request, a response that streams, or a tunnel may be silent at that moment, so it leaves its waker
//! here and is told. A server may come back: what begins then is not concerned.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use slab::Slab;
use tokio::time::Instant;

/// The end of a server in one worker, shared by all that goes on with it.
#[derive(Debug, Default)]
pub struct Retirement(RefCell<Rc<Term>>);

/// What ends together.
#[derive(Debug, Default)]
struct Term {
    cut_at: Cell<Option<Instant>>,
    waiting: RefCell<Slab<Waker>>,
}

impl Term {
    fn end(&self, deadline: Instant) {
        if self.cut_at.get().is_none_or(|cut| deadline < cut) {
            self.cut_at.set(Some(deadline));
            for (_, waker) in self.waiting.borrow().iter() {
                waker.wake_by_ref();
            }
        }
    }
}

impl Retirement {
    /// The server is gone: what goes on with it, and what might still begin, gets until `deadline`.
    pub fn begin(&self, deadline: Instant) {
        self.0.borrow().end(deadline);
    }

    /// The server is to be left alone for now: what goes on with it gets until `deadline`, but not what begins
    /// from here on.
    pub fn drain(&self, deadline: Instant) {
        self.0.take().end(deadline);
    }
}

/// One of those that a retirement ends.
#[derive(Debug)]
pub struct Retiree {
    term: Rc<Term>,
    place: Option<usize>,
}

impl Retiree {
    /// One that begins now, and has not waited yet.
    pub fn new(retirement: &Retirement) -> Self {
        Self {
            term: Rc::clone(&retirement.0.borrow()),
            place: None,
        }
    }

    /// Whether its hour has come.
    pub fn is_cut(&self) -> bool {
        let cut_at = self.term.cut_at.get();
        cut_at.is_some_and(|cut| cut <= Instant::now())
    }

    /// When it is cut off; the task that asks is woken if that changes while it is not known.
    pub fn wait(&mut self, cx: &Context<'_>) -> Option<Instant> {
        let known = self.term.cut_at.get();
        if known.is_none() {
            let mut waiting = self.term.waiting.borrow_mut();
            match self.place.and_then(|place| waiting.get_mut(place)) {
                Some(waker) => waker.clone_from(cx.waker()),
                None => self.place = Some(waiting.insert(cx.waker().clone())),
            }
        }
        known
    }
}

impl Drop for Retiree {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.term.waiting.borrow_mut().try_remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_waits_silently_learns_of_its_end_at_once() {
        type End = fn(&Retirement, Instant);
        for end in [Retirement::begin as End, Retirement::drain] {
            let retirement = Retirement::default();
            let mut retiree = Retiree::new(&retirement);
            let deadline = Instant::now() + Duration::from_secs(30);
            let told = poll_fn(|cx| retiree.wait(cx).map_or(Poll::Pending, Poll::Ready));
            let tell = async { end(&retirement, deadline) };
            assert_eq!(tokio::join!(told, tell).0, deadline);
            assert_eq!(Instant::now() + Duration::from_secs(30), deadline);
        }
    }

    #[test]
    fn what_begins_after_its_group_went_learns_of_it_too() {
        let retirement = Retirement::default();
        let deadline = Instant::now();
        retirement.begin(deadline);
        let mut retiree = Retiree::new(&retirement);
        let cx = Context::from_waker(Waker::noop());
        assert!(retiree.is_cut());
        assert_eq!(retiree.wait(&cx), Some(deadline));
    }

    #[test]
    fn what_begins_after_a_drain_is_not_concerned_until_the_next() {
        let retirement = Retirement::default();
        let before = Retiree::new(&retirement);
        retirement.drain(Instant::now());
        let after = Retiree::new(&retirement);
        assert!(before.is_cut());
        assert!(!after.is_cut());
        retirement.drain(Instant::now());
        assert!(after.is_cut());
    }

    #[test]
    fn the_earliest_end_counts() {
        let retirement = Retirement::default();
        let retiree = Retiree::new(&retirement);
        retirement.begin(Instant::now());
        retirement.begin(Instant::now() + Duration::from_secs(30));
        assert!(retiree.is_cut());
    }

    #[test]
    fn what_has_ended_leaves_no_waker_behind() {
        let retirement = Retirement::default();
        let mut retiree = Retiree::new(&retirement);
        let cx = Context::from_waker(Waker::noop());
        retiree.wait(&cx);
        retiree.wait(&cx);
        let term = Rc::clone(&retirement.0.borrow());
        assert_eq!(term.waiting.borrow().len(), 1);
        drop(retiree);
        assert!(term.waiting.borrow().is_empty());
    }
}
