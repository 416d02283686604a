//! A worker's HTTP/2 connections to one server, each shared by many exchanges.
//!
//! One that the server wants to end (GOAWAY), that broke, or on which an exchange waited in vain takes no
//! more of them: the next exchange finds another, or makes one. While one is being made, those who need
//! it wait for it rather than make their own.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::backend::connect::{ConnectError, connect};
use crate::backend::retirement::Retirement;
use crate::backend::server::Server;
use crate::config::plan::Keepalive;
use crate::task::Spawn;
use crate::timer::LazyTimer;

/// Exchanges on one connection at once; a server may allow fewer.
const MOST_STREAMS: u32 = 128;
/// Bytes buffered for one stream that the server does not take.
const SEND_BUFFER: usize = 64 * 1024;
/// The largest head or trailer section of an answer, in bytes, as HTTP/1.1 backends have it.
const MAX_HEAD: u32 = 64 * 1024;
/// Timers kept for the exchanges to come.
const SPARE_TIMERS: usize = 128;

/// The connections to one server.
#[derive(Debug)]
pub struct Links {
    open: RefCell<Vec<Rc<Link>>>,
    dialing: Cell<bool>,
    dialed: Notify,
    /// Attempts to connect that failed so far, and why the last one did.
    failures: Cell<u64>,
    failure: Cell<Failure>,
    timers: RefCell<Vec<LazyTimer>>,
    keepalive: Keepalive,
    retirement: Rc<Retirement>,
    closed: Cell<bool>,
    spawn: Spawn,
}

/// Why an attempt to connect failed, for those who waited for it.
#[derive(Clone, Copy, Debug)]
enum Failure {
    Refused(std::io::ErrorKind),
    Exhausted(std::io::ErrorKind),
    Timeout,
    Unresolved,
}

/// How much a server may send ahead on one stream: what a call of a client that takes nothing holds. It is
/// the same for all streams of a connection, so that there are connections of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// As much as messages need to pass at full speed.
    Wide,
    /// As much as many calls of one client may hold all at once.
    Narrow,
}

impl Window {
    /// In bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Wide => 64 * 1024,
            Self::Narrow => 4 * 1024,
        }
    }
}

/// One connection.
#[derive(Debug)]
struct Link {
    window: Window,
    requests: RefCell<SendRequest<Bytes>>,
    streams: Cell<usize>,
    state: Cell<State>,
    idle_since: Cell<Instant>,
}

/// Whether a connection takes more exchanges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It does.
    Open,
    /// It ends with those that it has.
    Leaving,
}

/// An exchange's place on a connection, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    link: Rc<Link>,
    links: Rc<Links>,
    /// For the deadlines of the exchange.
    pub timer: LazyTimer,
}

impl Links {
    /// No connections yet, of a group that ends by `retirement`; `spawn` runs a connection's task.
    pub fn new(keepalive: Keepalive, retirement: Rc<Retirement>, spawn: Spawn) -> Self {
        Self {
            open: RefCell::default(),
            dialing: Cell::new(false),
            dialed: Notify::new(),
            failures: Cell::new(0),
            failure: Cell::new(Failure::Timeout),
            timers: RefCell::default(),
            keepalive,
            retirement,
            closed: Cell::new(false),
            spawn,
        }
    }

    /// A place on a connection that has room and this window, or on a new one, within `limit`. Connections that are not kept
    /// serve one exchange each: none waits for another's.
    pub async fn take(
        self: &Rc<Self>,
        server: &Server,
        window: Window,
        limit: Duration,
    ) -> Result<Place, ConnectError> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(link) = self.vacant(window) {
                return Ok(self.place(link));
            }
            if !self.dialing.get() || self.keepalive == Keepalive::Off {
                let link = self.dial(server, window, deadline).await?;
                return Ok(self.place(link));
            }
            let failures = self.failures.get();
            timeout_at(deadline, self.dialed.notified())
                .await
                .map_err(|_| ConnectError::Timeout)?;
            if self.failures.get() != failures {
                return Err(self.failure.get().into());
            }
        }
    }

    /// A connection with room; those that are over are let go on the way.
    fn vacant(&self, window: Window) -> Option<Rc<Link>> {
        let mut open = self.open.borrow_mut();
        open.retain(|link| link.is_open());
        open.iter()
            .find(|link| link.window == window && link.has_room())
            .cloned()
    }

    async fn dial(
        &self,
        server: &Server,
        window: Window,
        deadline: Instant,
    ) -> Result<Rc<Link>, ConnectError> {
        let _dialing = Dialing::begin(self);
        match self.connect(server, window, deadline).await {
            Ok(link) => {
                server.accepted();
                if let (Keepalive::Idle(_), false) = (self.keepalive, self.closed.get()) {
                    self.open.borrow_mut().push(Rc::clone(&link));
                }
                Ok(link)
            }
            Err(error) => {
                if error.is_the_servers() {
                    server.refused(Instant::now());
                }
                self.failures.set(self.failures.get() + 1);
                self.failure.set(Failure::from(&error));
                Err(error)
            }
        }
    }

    async fn connect(
        &self,
        server: &Server,
        window: Window,
        deadline: Instant,
    ) -> Result<Rc<Link>, ConnectError> {
        let limit = deadline.saturating_duration_since(Instant::now());
        let stream = connect(server, limit).await?;
        let handshake = timeout_at(deadline, builder(window).handshake(stream)).await;
        let (requests, connection) = handshake
            .map_err(|_| ConnectError::Timeout)?
            .map_err(|error| ConnectError::Refused(std::io::Error::other(error)))?;
        let link = Rc::new(Link {
            window,
            requests: RefCell::new(requests),
            streams: Cell::new(0),
            state: Cell::new(State::Open),
            idle_since: Cell::new(Instant::now()),
        });
        let served = Rc::downgrade(&link);
        (self.spawn)(Box::pin(async move {
            // Its exchanges learn why by themselves.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an HTTP/2 connection to a backend broke");
            }
            if let Some(link) = served.upgrade() {
                link.state.set(State::Leaving);
            }
        }));
        Ok(link)
    }

    fn place(self: &Rc<Self>, link: Rc<Link>) -> Place {
        link.streams.set(link.streams.get() + 1);
        Place {
            link,
            links: Rc::clone(self),
            timer: self.timers.borrow_mut().pop().unwrap_or_default(),
        }
    }

    /// No group has this server any more: no connection is kept.
    pub fn close(&self) {
        self.closed.set(true);
        self.open.borrow_mut().clear();
    }

    /// Closes what has been idle for too long, and what is over.
    pub fn sweep(&self, now: Instant) {
        let limit = match self.keepalive {
            Keepalive::Idle(limit) => limit,
            Keepalive::Off => Duration::ZERO,
        };
        self.open
            .borrow_mut()
            .retain(|link| link.is_open() && !link.is_idle_for(limit, now));
    }
}

fn builder(window: Window) -> Builder {
    let mut builder = Builder::new();
    let bytes = u32::try_from(window.bytes()).unwrap_or(u32::MAX);
    builder
        .enable_push(false)
        .initial_window_size(bytes)
        // What all streams together may: a client that takes nothing holds up no other client's stream.
        .initial_connection_window_size(bytes * MOST_STREAMS)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEAD);
    builder
}

impl Link {
    fn is_open(&self) -> bool {
        // Ready at once, with an error after a GOAWAY or the connection's end.
        let mut cx = Context::from_waker(Waker::noop());
        self.state.get() == State::Open
            && matches!(
                self.requests.borrow_mut().poll_ready(&mut cx),
                Poll::Ready(Ok(()))
            )
    }

    fn has_room(&self) -> bool {
        let most = self.requests.borrow().current_max_send_streams();
        self.streams.get() < most.min(MOST_STREAMS as usize)
    }

    fn is_idle_for(&self, limit: Duration, now: Instant) -> bool {
        self.streams.get() == 0 && now.saturating_duration_since(self.idle_since.get()) >= limit
    }
}

impl Place {
    /// What begins an exchange here.
    pub fn requests(&self) -> SendRequest<Bytes> {
        self.link.requests.borrow().clone()
    }

    /// What ends the exchange if it outlives its group.
    pub fn retirement(&self) -> &Rc<Retirement> {
        &self.links.retirement
    }

    /// The connection gets no more exchanges: it is over, or nobody knows whether its server still lives.
    pub fn give_up(&self) {
        self.link.state.set(State::Leaving);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let left = self.link.streams.get().saturating_sub(1);
        self.link.streams.set(left);
        if left == 0 {
            self.link.idle_since.set(Instant::now());
        }
        let mut timers = self.links.timers.borrow_mut();
        if timers.len() < SPARE_TIMERS {
            timers.push(std::mem::take(&mut self.timer));
        }
    }
}

/// An attempt to connect: when it is over, also because its exchange was, the others go on.
struct Dialing<'a>(&'a Links);

impl<'a> Dialing<'a> {
    fn begin(links: &'a Links) -> Self {
        links.dialing.set(true);
        Self(links)
    }
}

impl Drop for Dialing<'_> {
    fn drop(&mut self) {
        self.0.dialing.set(false);
        self.0.dialed.notify_waiters();
    }
}

impl From<&ConnectError> for Failure {
    fn from(error: &ConnectError) -> Self {
        match error {
            ConnectError::Refused(error) => Self::Refused(error.kind()),
            ConnectError::Exhausted(error) => Self::Exhausted(error.kind()),
            ConnectError::Timeout => Self::Timeout,
            ConnectError::Unresolved => Self::Unresolved,
            // No HTTP/2 connection is secured.
            ConnectError::Handshake(error, _) => Self::Refused(error.kind()),
            ConnectError::Certificate(_) => Self::Refused(std::io::ErrorKind::InvalidData),
        }
    }
}

impl From<Failure> for ConnectError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(kind) => Self::Refused(kind.into()),
            Failure::Exhausted(kind) => Self::Exhausted(kind.into()),
            Failure::Timeout => Self::Timeout,
            Failure::Unresolved => Self::Unresolved,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;
    use crate::addr::BackendAddr;

    /// Links to a server that accepts, one of whose exchanges is connecting and comes to no end.
    async fn occupied(keepalive: Keepalive) -> (TcpListener, std::sync::Arc<Server>, Rc<Links>) {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .await
            .unwrap();
        let address = BackendAddr::Ip(listener.local_addr().unwrap());
        let server = Server::new("app".into(), address.clone(), address);
        let links = Links::new(keepalive, Rc::default(), |_| {});
        links.dialing.set(true);
        (listener, server, Rc::new(links))
    }

    async fn take(links: &Rc<Links>, server: &Server) -> Result<Place, ConnectError> {
        let taken = links.take(server, Window::Wide, Duration::from_millis(500));
        timeout(Duration::from_secs(10), taken)
            .await
            .expect("it waits for ever")
    }

    #[tokio::test]
    async fn who_waits_for_anothers_connection_waits_no_longer_than_the_limit() {
        let (_listener, server, links) = occupied(Keepalive::Idle(Duration::from_secs(60))).await;
        let taken = take(&links, &server).await;
        assert!(matches!(taken, Err(ConnectError::Timeout)), "{taken:?}");
    }

    #[tokio::test]
    async fn where_no_connection_is_kept_none_is_waited_for() {
        let (_listener, server, links) = occupied(Keepalive::Off).await;
        let taken = take(&links, &server).await;
        assert!(taken.is_ok(), "{taken:?}");
    }
}
