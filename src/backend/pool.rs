//! A worker's idle connections to one server, newest first.
//!
//! Only a connection on which both messages ended cleanly comes here (attacks.md row 14), and before
//! it is used again it must still be quiet.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

use super::connect::BackendStream;
use super::retirement::Retirement;
use crate::config::plan::Keepalive;
use crate::timer::LazyTimer;

/// Idle connections kept per server and worker.
const MOST_IDLE: usize = 1024;

/// Bytes of buffer that an idle connection may hold.
const IDLE_ROOM: usize = 16 * 1024;

/// A connection to a server, with the buffers that its exchanges share.
#[derive(Debug)]
pub struct Connection {
    /// The byte stream.
    pub stream: BackendStream,
    /// Bytes read and not yet understood.
    pub read: BytesMut,
    /// Bytes to be written: a head, or the frame around a chunk.
    pub write: Vec<u8>,
    /// For the deadlines of its exchanges.
    pub timer: LazyTimer,
    /// Whether it has served an exchange before.
    pub history: History,
    idle_since: Instant,
}

/// Whether a connection has served an exchange before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// It has just been made.
    Fresh,
    /// It comes from the pool.
    Reused,
}

impl Connection {
    /// A connection that has just been made.
    pub fn new(stream: BackendStream) -> Box<Self> {
        Box::new(Self {
            stream,
            read: BytesMut::new(),
            write: Vec::with_capacity(1024),
            timer: LazyTimer::new(),
            history: History::Fresh,
            idle_since: Instant::now(),
        })
    }
}

/// The idle connections to one server.
#[derive(Debug)]
pub struct Pool {
    #[expect(
        clippy::vec_box,
        reason = "connections move between the pool and exchanges: as pointers"
    )]
    idle: RefCell<Vec<Box<Connection>>>,
    keepalive: Keepalive,
    retirement: Rc<Retirement>,
    closed: Cell<bool>,
}

impl Pool {
    /// An empty pool, of a group that ends by `retirement`.
    pub fn new(keepalive: Keepalive, retirement: Rc<Retirement>) -> Self {
        Self {
            idle: RefCell::new(Vec::new()),
            keepalive,
            retirement,
            closed: Cell::new(false),
        }
    }

    /// No group has this pool any more: nothing is kept in it.
    pub fn close(&self) {
        self.closed.set(true);
        self.idle.borrow_mut().clear();
    }

    /// What ends the responses that still stream once the group is gone.
    pub fn retirement(&self) -> &Rc<Retirement> {
        &self.retirement
    }

    /// How long connections are kept.
    pub fn keepalive(&self) -> Keepalive {
        self.keepalive
    }

    /// The connection used last that is still alive.
    pub fn take(&self) -> Option<Box<Connection>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(mut connection) = idle.pop() {
            if connection.stream.is_quiet() {
                connection.history = History::Reused;
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection whose exchange has ended cleanly; closes it where none are kept.
    pub fn put(&self, mut connection: Box<Connection>) {
        let mut idle = self.idle.borrow_mut();
        match self.keepalive {
            Keepalive::Idle(_) if idle.len() < MOST_IDLE && !self.closed.get() => {
                connection.idle_since = Instant::now();
                connection.write.clear();
                // What a large exchange needed is not held while nothing happens.
                if connection.read.capacity() > IDLE_ROOM {
                    connection.read = BytesMut::new();
                }
                connection.write.shrink_to(IDLE_ROOM);
                idle.push(connection);
            }
            Keepalive::Idle(_) | Keepalive::Off => {}
        }
    }

    /// Closes what has been idle for too long, and what its server has closed.
    pub fn sweep(&self, now: Instant) {
        let limit = match self.keepalive {
            Keepalive::Idle(limit) => limit,
            Keepalive::Off => Duration::ZERO,
        };
        self.idle.borrow_mut().retain(|connection| {
            now.saturating_duration_since(connection.idle_since) < limit
                && connection.stream.is_quiet()
        });
    }

    /// How many connections are idle.
    pub fn len(&self) -> usize {
        self.idle.borrow().len()
    }

    /// Whether no connection is idle.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
