//! When what still goes on with a group that is gone from the configuration is cut off.
//!
//! A response that streams, or a tunnel, outlives its group by drain_timeout. It may be silent when the
//! group goes, so it leaves its waker here and is told.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use slab::Slab;
use tokio::time::Instant;

/// The end of a group in one worker, shared by all that goes on with its servers.
#[derive(Debug, Default)]
pub struct Retirement {
    cut_at: Cell<Option<Instant>>,
    waiting: RefCell<Slab<Waker>>,
}

impl Retirement {
    /// The group is gone: what still goes on gets until `deadline`.
    pub fn begin(&self, deadline: Instant) {
        self.cut_at.set(Some(deadline));
        for (_, waker) in self.waiting.borrow().iter() {
            waker.wake_by_ref();
        }
    }
}

/// One of those that a retirement ends.
#[derive(Debug)]
pub struct Retiree {
    retirement: Rc<Retirement>,
    place: Option<usize>,
}

impl Retiree {
    /// One that has not waited yet.
    pub fn new(retirement: &Rc<Retirement>) -> Self {
        Self {
            retirement: Rc::clone(retirement),
            place: None,
        }
    }

    /// Whether its hour has come.
    pub fn is_cut(&self) -> bool {
        let cut_at = self.retirement.cut_at.get();
        cut_at.is_some_and(|cut| cut <= Instant::now())
    }

    /// When it is cut off; if that is not known, the task that asks is woken once it is.
    pub fn wait(&mut self, cx: &Context<'_>) -> Option<Instant> {
        let known = self.retirement.cut_at.get();
        if known.is_none() {
            let mut waiting = self.retirement.waiting.borrow_mut();
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
            self.retirement.waiting.borrow_mut().try_remove(place);
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
        let retirement = Rc::<Retirement>::default();
        let mut retiree = Retiree::new(&retirement);
        let deadline = Instant::now() + Duration::from_secs(30);
        let told = poll_fn(|cx| retiree.wait(cx).map_or(Poll::Pending, Poll::Ready));
        let tell = async { retirement.begin(deadline) };
        assert_eq!(tokio::join!(told, tell).0, deadline);
        assert_eq!(Instant::now() + Duration::from_secs(30), deadline);
    }

    #[test]
    fn what_begins_after_its_group_went_learns_of_it_too() {
        let retirement = Rc::<Retirement>::default();
        let deadline = Instant::now();
        retirement.begin(deadline);
        let mut retiree = Retiree::new(&retirement);
        let cx = Context::from_waker(Waker::noop());
        assert!(retiree.is_cut());
        assert_eq!(retiree.wait(&cx), Some(deadline));
    }

    #[test]
    fn what_has_ended_leaves_no_waker_behind() {
        let retirement = Rc::<Retirement>::default();
        let mut retiree = Retiree::new(&retirement);
        let cx = Context::from_waker(Waker::noop());
        retiree.wait(&cx);
        retiree.wait(&cx);
        assert_eq!(retirement.waiting.borrow().len(), 1);
        drop(retiree);
        assert!(retirement.waiting.borrow().is_empty());
    }
}
