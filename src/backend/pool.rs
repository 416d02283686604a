//! A worker's idle connections to one server, newest first.
//!
//! Only a connection on which both messages ended cleanly comes here (attacks.md row 14), and before
//! it is used again it must still be quiet.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustls_pki_types::ServerName;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::connect::BackendStream;
use super::http1::exchange::Idempotence;
use super::idle_limit::IdleLimit;
use super::permit::{Permit, Permits, QueueFull};
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
    /// Given back after the stream is closed; `None` where connections are not limited.
    _permit: Option<Permit>,
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
    pub fn new(stream: BackendStream, permit: Option<Permit>) -> Box<Self> {
        Box::new(Self {
            stream,
            read: BytesMut::new(),
            write: Vec::with_capacity(1024),
            timer: LazyTimer::new(),
            history: History::Fresh,
            _permit: permit,
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
    /// `None` where connections are not limited.
    queue: Option<Box<Queue>>,
}

/// A worker's requests that wait for connections to a server that has as many as it may.
#[derive(Debug)]
struct Queue {
    permits: Arc<Permits>,
    waiting: Cell<usize>,
    /// A connection has come back to this pool.
    returned: Notify,
}

/// What a request gets that waits for a connection.
#[derive(Debug)]
pub enum Turn {
    /// One that another request has left.
    Reuse(Box<Connection>),
    /// Leave to make one, with what it then holds.
    Dial(Option<Permit>),
}

/// What a request gets that does not wait.
#[derive(Debug)]
pub enum Leave<'a> {
    /// Leave to make a connection, with what it then holds.
    Dial(Option<Permit>),
    /// The server has as many as it may.
    Full(&'a Arc<Permits>),
}

impl Pool {
    /// An empty pool, of a group that ends by `retirement`, for a server with so many `permits`, if they are limited.
    pub fn new(
        server: Arc<Server>,
        keepalive: Keepalive,
        retirement: Rc<Retirement>,
        permits: Option<Arc<Permits>>,
    ) -> Self {
        Self {
            idle: RefCell::new(Vec::new()),
            server,
            keepalive,
            retirement,
            closed: Cell::new(false),
            queue: permits.map(Queue::new),
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

    /// What limits connections to the server, if anything does.
    pub fn permits(&self) -> Option<&Arc<Permits>> {
        self.queue.as_ref().map(|queue| &queue.permits)
    }

    /// Whether requests of this worker wait for connections: whoever comes now is behind them.
    pub fn is_waited_for(&self) -> bool {
        let queue = self.queue.as_ref();
        queue.is_some_and(|queue| queue.waiting.get() > 0)
    }

    /// Leave to make a connection now.
    pub fn leave(&self) -> Leave<'_> {
        match &self.queue {
            None => Leave::Dial(None),
            Some(queue) => match queue.permits.take() {
                Some(permit) => Leave::Dial(Some(permit)),
                None => Leave::Full(&queue.permits),
            },
        }
    }

    /// Waits for a connection as [`Self::take`] has them, or for leave to make one.
    pub async fn turn(
        &self,
        name: Option<&ServerName<'_>>,
        idempotence: Idempotence,
    ) -> Result<Turn, QueueFull> {
        let Some(queue) = &self.queue else {
            return Ok(Turn::Dial(None));
        };
        if !self.is_waited_for() {
            // What is idle here does not suit.
            self.give_up(1);
        }
        let _waiting = Waiting::begin(queue);
        let mut permit = pin!(queue.permits.wait());
        loop {
            tokio::select! {
                biased;
                permit = &mut permit => return permit.map(|permit| Turn::Dial(Some(permit))),
                () = queue.returned.notified() => match self.take(name, idempotence) {
                    Some(connection) => return Ok(Turn::Reuse(connection)),
                    None => self.give_up(1),
                },
            }
        }
    }

    /// Closes up to so many of the connections that have been idle for longest.
    fn give_up(&self, most: usize) {
        let mut idle = self.idle.borrow_mut();
        let count = most.min(idle.len());
        idle.drain(..count);
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
            Keepalive::Idle(_) if !self.closed.get() && !self.is_wanted_elsewhere() => {
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
                if let Some(queue) = self.queue.as_ref().filter(|q| q.waiting.get() > 0) {
                    queue.returned.notify_one();
                }
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

    fn is_wanted_elsewhere(&self) -> bool {
        self.queue
            .as_ref()
            .is_some_and(|q| q.wanting_elsewhere() > 0)
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

impl Queue {
    fn new(permits: Arc<Permits>) -> Box<Self> {
        Box::new(Self {
            permits,
            waiting: Cell::new(0),
            returned: Notify::new(),
        })
    }

    /// How many connections should be given up for others than this worker's requests.
    fn wanting_elsewhere(&self) -> usize {
        self.permits.wanting().saturating_sub(self.waiting.get())
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // Its task finds out.
        self.permits.wanted().notify_waiters();
    }
}

/// A place among this worker's requests that wait.
struct Waiting<'a>(&'a Queue);

impl<'a> Waiting<'a> {
    fn begin(queue: &'a Queue) -> Self {
        queue.waiting.set(queue.waiting.get() + 1);
        Self(queue)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get().saturating_sub(1));
    }
}

/// Gives idle connections up as requests of other workers wait for them, as long as there is the pool.
pub async fn give_up_wanted(pool: Weak<Pool>, permits: Arc<Permits>) {
    loop {
        // Made first: what is wanted from here on is not missed.
        let wanted = permits.wanted().notified();
        let Some(pool) = pool.upgrade() else {
            return;
        };
        if let Some(queue) = &pool.queue {
            pool.give_up(queue.wanting_elsewhere());
        }
        drop(pool);
        wanted.await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::addr::BackendAddr;

    /// A connection that is kept, and the backend's end of it.
    async fn pooled(permits: Option<&Arc<Permits>>) -> (Pool, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await;
        let (backend, _) = listener.accept().await.unwrap();
        let permit = permits.and_then(Permits::take);
        let connection = Connection::new(BackendStream::Tcp(stream.unwrap()), permit);
        let address = BackendAddr::Ip(address);
        let pool = Pool::new(
            Server::new("app".into(), address.clone(), address),
            Keepalive::Idle(Duration::from_secs(60)),
            Rc::new(Retirement::default()),
            permits.cloned(),
        );
        pool.put(connection);
        (pool, backend)
    }

    #[tokio::test]
    async fn an_idle_connection_that_does_not_suit_makes_way_for_one_that_does() {
        let permits = Permits::new(1);
        let (pool, _backend) = pooled(Some(&permits)).await;
        let field = http::HeaderValue::from_static("timeout=0");
        pool.server.idle_limit().announce(&field);
        assert!(pool.take(None, Idempotence::Other).is_none());
        assert!(matches!(pool.leave(), Leave::Full(_)));
        let turn = pool.turn(None, Idempotence::Other).await;
        assert!(matches!(turn, Ok(Turn::Dial(Some(_)))));
        assert!(pool.is_empty() && !pool.is_waited_for());
    }

    #[tokio::test]
    async fn a_connection_beyond_a_limit_that_was_lowered_is_not_kept() {
        let permits = Permits::new(2);
        let (pool, _backend) = pooled(Some(&permits)).await;
        let _other = permits.take();
        permits.set_limit(1);
        let connection = pool.take(None, Idempotence::Other).unwrap();
        pool.put(connection);
        assert!(pool.is_empty());
        assert_eq!(permits.wanting(), 0);
    }

    #[tokio::test]
    async fn a_connection_that_rests_gives_its_buffers_back_and_stays() {
        let (pool, _backend) = pooled(None).await;
        pool.idle.borrow_mut()[0].read.reserve(8 * 1024);
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
