//! A worker's idle connections to one server, newest first.
//!
//! Only a connection on which both messages ended cleanly comes here (attacks.md row 14), and before
//! it is used again it must still be quiet.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustls_pki_types::ServerName;
use tokio::time::Instant;

use super::connect::BackendStream;
use super::http1::exchange::Idempotence;
use super::idle_limit::IdleLimit;
use super::retirement::Retirement;
use super::server::Server;
use crate::config::plan::Keepalive;
use crate::timer::LazyTimer;

/// Idle connections kept per server and worker.
const MOST_IDLE: usize = 1024;

/// Bytes of buffer that a connection may hold which has just become idle.
const IDLE_ROOM: usize = 16 * 1024;
/// How long a connection is idle before it gives its buffers back.
const RESTED: Duration = Duration::from_secs(1);

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
    /// When it was last seen alive while idle.
    alive_at: Instant,
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
            alive_at: Instant::now(),
        })
    }
}

impl Connection {
    fn idle_at(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.idle_since)
    }

    fn found_closed(&self, limit: &IdleLimit, now: Instant) {
        limit.closed(self.idle_at(self.alive_at), self.idle_at(now));
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
    server: Arc<Server>,
    keepalive: Keepalive,
    retirement: Rc<Retirement>,
    closed: Cell<bool>,
}

impl Pool {
    /// An empty pool, of a group that ends by `retirement`.
    pub fn new(server: Arc<Server>, keepalive: Keepalive, retirement: Rc<Retirement>) -> Self {
        Self {
            idle: RefCell::new(Vec::new()),
            server,
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

    /// The connection used last that is still alive, and will be for this request; of those that are secured,
    /// one that was asked for by `name`.
    pub fn take(
        &self,
        name: Option<&ServerName<'_>>,
        idempotence: Idempotence,
    ) -> Option<Box<Connection>> {
        let limit = self.server.idle_limit();
        // The clock is only looked at where there is something to learn or to heed.
        let longest = limit
            .longest(idempotence)
            .map(|longest| (longest, Instant::now()));
        let mut idle = self.idle.borrow_mut();
        loop {
            let at = match name {
                None => idle.len().checked_sub(1)?,
                Some(name) => idle.iter().rposition(|c| c.stream.was_asked_for(name))?,
            };
            if let Some((longest, now)) = longest
                && idle.get(at)?.idle_at(now) > longest
            {
                // The others have been idle for longer. They stay, to be seen closing.
                return None;
            }
            let mut connection = idle.remove(at);
            if connection.stream.is_quiet() {
                if let Some((_, now)) = longest {
                    limit.alive(connection.idle_at(now));
                }
                connection.history = History::Reused;
                return Some(connection);
            }
            connection.found_closed(limit, Instant::now());
        }
    }

    /// Keeps a connection whose exchange has ended cleanly; closes it where none are kept.
    pub fn put(&self, mut connection: Box<Connection>) {
        let mut idle = self.idle.borrow_mut();
        match self.keepalive {
            Keepalive::Idle(_) if !self.closed.get() => {
                // The one that has waited longest is the least likely to be needed.
                if idle.len() >= MOST_IDLE {
                    idle.remove(0);
                }
                connection.idle_since = Instant::now();
                connection.alive_at = connection.idle_since;
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

    /// Closes what has been idle for too long, and what its server has closed; what stays and has been idle
    /// for a while holds no buffers.
    pub fn sweep(&self, now: Instant) {
        let limit = match self.keepalive {
            Keepalive::Idle(limit) => limit,
            Keepalive::Off => Duration::ZERO,
        };
        self.idle.borrow_mut().retain_mut(|connection| {
            let idle = connection.idle_at(now);
            if idle >= RESTED {
                connection.read = BytesMut::new();
                connection.write = Vec::new();
            }
            if !connection.stream.is_quiet() {
                connection.found_closed(self.server.idle_limit(), now);
                return false;
            }
            connection.alive_at = now;
            self.server.idle_limit().alive(idle);
            idle < limit
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

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::addr::BackendAddr;

    #[tokio::test]
    async fn a_connection_that_rests_gives_its_buffers_back_and_stays() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await;
        let _backend = listener.accept().await.unwrap();
        let mut connection = Connection::new(BackendStream::Tcp(stream.unwrap()));
        connection.read.reserve(8 * 1024);
        let address = BackendAddr::Ip(address);
        let pool = Pool::new(
            Server::new("app".into(), address.clone(), address),
            Keepalive::Idle(Duration::from_secs(60)),
            Rc::new(Retirement::default()),
        );
        pool.put(connection);
        let held = || {
            let idle = pool.idle.borrow();
            idle[0].read.capacity() + idle[0].write.capacity()
        };
        pool.sweep(Instant::now() + RESTED / 2);
        assert!(held() >= 9 * 1024);
        pool.sweep(Instant::now() + RESTED);
        assert_eq!(held(), 0);
        assert_eq!(pool.len(), 1);
    }
}
