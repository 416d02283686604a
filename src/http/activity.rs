//! What a client connection is doing right now, and since when: the one place its deadlines come from.
//!
//! Shared between the connection's loop, the stream adapter below hyper and the exchanges above it,
//! all on one thread. Marks are cheap; judging them is left to the loop, when a timer fires.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use tokio::time::Instant;

use crate::failure::Failure;
use crate::stream::Meter;

/// Where an HTTP/1 connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Between requests, no byte of the next one seen.
    Idle {
        /// Since when.
        since: Instant,
    },
    /// A head has begun and is not whole.
    Head {
        /// When its first byte came.
        since: Instant,
    },
    /// Requests are being answered.
    Exchange,
}

/// Whether the connection should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Closing {
    /// It may go on.
    No,
    /// It ends after the exchanges in flight.
    Graceful,
    /// It ends now.
    Now,
}

/// The state of one client connection.
#[derive(Debug)]
pub struct Activity {
    phase: Cell<Phase>,
    exchanges: Cell<usize>,
    requests: Cell<u64>,
    closing: Cell<Closing>,
    /// A request was answered although its body was not read to the end.
    unread_body: Cell<bool>,
    tunnel: Cell<bool>,
    cut: Cell<Option<Failure>>,
    meter: OnceCell<Rc<Meter>>,
    waker: RefCell<Option<Waker>>,
    beside: RefCell<Option<Beside>>,
}

/// What is left to do of a request, while its answer waits for the client to take it.
struct Beside(Box<dyn FnMut(&mut Context<'_>)>);

impl std::fmt::Debug for Beside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Beside")
    }
}

impl Default for Activity {
    fn default() -> Self {
        Self::new()
    }
}

impl Activity {
    /// A connection that has just been made: idle from now on.
    pub fn new() -> Self {
        Self {
            phase: Cell::new(Phase::Idle {
                since: Instant::now(),
            }),
            exchanges: Cell::new(0),
            requests: Cell::new(0),
            closing: Cell::new(Closing::No),
            unread_body: Cell::new(false),
            tunnel: Cell::new(false),
            cut: Cell::new(None),
            meter: OnceCell::new(),
            waker: RefCell::new(None),
            beside: RefCell::new(None),
        }
    }

    /// Where the connection stands.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Requests begun so far.
    pub fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Exchanges in flight.
    pub fn exchanges(&self) -> usize {
        self.exchanges.get()
    }

    /// Bytes came from the client.
    pub fn bytes_came(&self) {
        match self.phase.get() {
            Phase::Idle { .. } => self.phase.set(Phase::Head {
                since: Instant::now(),
            }),
            Phase::Head { .. } | Phase::Exchange => {}
        }
    }

    /// The client's pace, once HTTP has begun.
    pub fn meter(&self) -> Option<&Rc<Meter>> {
        self.meter.get()
    }

    /// The client has broken a limit: what was in flight ends for this reason.
    pub fn cut_off(&self, reason: Failure) {
        self.cut.set(Some(reason));
    }

    /// Why the client was cut off, if it was.
    pub fn cut(&self) -> Option<Failure> {
        self.cut.get()
    }

    /// The handshake is over: a connection without a request is idle from now on.
    pub fn begin_idle(&self, meter: &Rc<Meter>) {
        self.meter.get_or_init(|| Rc::clone(meter));
        self.phase.set(Phase::Idle {
            since: Instant::now(),
        });
    }

    /// A head turned out to have begun earlier than was seen.
    pub fn head_began(&self, since: Instant) {
        self.phase.set(Phase::Head { since });
    }

    /// A whole head was read: an exchange begins.
    pub fn exchange_began(&self) {
        self.requests.set(self.requests.get() + 1);
        self.exchanges.set(self.exchanges.get() + 1);
        self.phase.set(Phase::Exchange);
    }

    /// An exchange ended, well or not.
    pub fn exchange_ended(&self) {
        let left = self.exchanges.get().saturating_sub(1);
        self.exchanges.set(left);
        if left == 0 {
            self.phase.set(Phase::Idle {
                since: Instant::now(),
            });
            self.beside.replace(None);
        }
    }

    /// Gives the connection something to do until its exchange has ended, while the client takes nothing.
    pub fn go_beside(&self, work: impl FnMut(&mut Context<'_>) + 'static) {
        self.beside.replace(Some(Beside(Box::new(work))));
    }

    /// Does it.
    pub fn poll_beside(&self, cx: &mut Context<'_>) {
        if let Some(Beside(work)) = self.beside.borrow_mut().as_mut() {
            work(cx);
        }
    }

    /// Whether nothing that the client may still send will be looked at: its last answer is on its way.
    pub fn discards(&self) -> bool {
        self.unread_body.get() && self.exchanges.get() == 0
    }

    /// An answer was given before the request's body was read: what the client still sends must be
    /// drained before the connection is closed, or the answer is lost.
    pub fn body_left_unread(&self) {
        self.unread_body.set(true);
    }

    /// A 101 is on its way: what comes after it is no longer HTTP.
    pub fn becomes_tunnel(&self) {
        self.tunnel.set(true);
    }

    /// Whether [`Self::becomes_tunnel`] was called.
    pub fn is_tunnel(&self) -> bool {
        self.tunnel.get()
    }

    /// Whether [`Self::body_left_unread`] was called.
    pub fn has_unread_body(&self) -> bool {
        self.unread_body.get()
    }

    /// Whether the connection should end.
    pub fn closing(&self) -> Closing {
        self.closing.get()
    }

    /// Asks the connection to end, and wakes it; what was asked for before is never taken back.
    pub fn close(&self, how: Closing) {
        self.closing.set(self.closing.get().max(how));
        self.wake();
    }

    /// Makes the connection look around.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Notes whom [`Self::close`] wakes.
    pub fn register(&self, cx: &Context<'_>) {
        let mut slot = self.waker.borrow_mut();
        match slot.as_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *slot = Some(cx.waker().clone()),
        }
    }
}
