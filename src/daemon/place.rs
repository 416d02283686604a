//! A connection's place on its worker: by it a drain knows whom it waits for, and limits who is here.

use std::rc::Rc;

use super::admission::Admitted;
use super::workers::Worker;
use crate::addr::ClientAddr;
use crate::http::activity::Activity;
use crate::listener::ListenerKey;
use crate::tls::Terms;

/// A connection's place among those that are served.
#[derive(Debug)]
pub struct Seat {
    /// The listener it came in by.
    pub key: ListenerKey,
    /// What it was admitted under.
    pub terms: Option<Terms>,
    /// What it is doing.
    pub activity: Rc<Activity>,
}

/// A connection's hold on its seat: given back when its life is over, also by a panic.
#[derive(Debug)]
pub struct Place {
    /// The seat.
    pub seat: Rc<Seat>,
    /// The worker.
    pub worker: Rc<Worker>,
    pub(super) number: usize,
    pub(super) admitted: Admitted,
}

impl Place {
    /// Counts the connection by the address of a client that was announced. Whether it may stay.
    pub fn count(&mut self, client: ClientAddr) -> bool {
        let counted = self.admitted.count(client.ip());
        if let Err(refusal) = counted {
            self.worker.overload.refused(refusal);
        }
        counted.is_ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut seats = self.worker.seats.borrow_mut();
        seats.try_remove(self.number);
        self.worker.peers.loads.remove(self.worker.id);
        if seats.is_empty() {
            self.worker.emptied.notify_waiters();
        }
    }
}
