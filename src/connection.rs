//! What is known of one client connection: facts that do not change, its state, and the listener and
//! groups that its next request is served from.
//!
//! How a connection lives is `daemon::connection`'s to tell.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::addr::ClientAddr;
use crate::backend::mirror::Mirrors;
use crate::backend::pool;
use crate::backend::retirement::Retiree;
use crate::exchange::Exchange;
use crate::failure::Failure;
use crate::http::activity::{Activity, Closing};
use crate::http::tunnel;
use crate::listener::{Current, Listener, Live};
use crate::telemetry::writer::AccessLogHandle;
use crate::tls::facts::{Client, ClientCertificate, TlsFacts};
use crate::transform::client_cert::CertificateValues;
use crate::transform::forwarded::ClientValues;

/// A client's connection.
#[derive(Debug)]
pub struct Connection {
    /// The last hop: the client's socket, or who was announced on it.
    pub client: ClientAddr,
    /// The same, as field values.
    pub values: ClientValues,
    /// What the handshake agreed on; absent on a plain listener.
    pub tls: Option<TlsFacts>,
    /// What it is doing.
    pub activity: Rc<Activity>,
    home: Rc<Home>,
    view: RefCell<View>,
    tunnel: RefCell<Option<Box<Tunnel>>>,
}

/// What all connections of a worker share.
#[derive(Debug)]
pub struct Home {
    /// What to serve from at this moment.
    pub current: Current,
    /// Where access log lines go.
    pub access_log: Rc<AccessLogHandle>,
    /// Copies of requests.
    pub mirrors: Rc<Mirrors>,
}

/// What a request is served from.
#[derive(Clone, Debug)]
pub struct View {
    /// The generation.
    pub live: Rc<Live>,
    /// The connection's listener in it.
    pub listener: Arc<Listener>,
}

/// A backend connection that has switched protocols, waiting for the client's side to be free.
#[derive(Debug)]
pub struct Tunnel {
    /// The backend's side.
    pub backend: Box<pool::Connection>,
    /// What the backend sent ahead.
    pub early: Bytes,
    /// The exchange that asked for it, for its line in the log.
    pub exchange: Exchange,
    /// What ends it once its group is gone.
    pub retiree: Retiree,
}

impl Connection {
    /// A connection that begins now, with the listener it came in by as one generation has it.
    pub fn new(
        client: ClientAddr,
        tls: Option<TlsFacts>,
        view: View,
        activity: Rc<Activity>,
        home: Rc<Home>,
    ) -> Rc<Self> {
        Rc::new(Self {
            client,
            values: values(client, tls.as_ref()),
            tls,
            activity,
            view: RefCell::new(view),
            home,
            tunnel: RefCell::new(None),
        })
    }

    /// Whether the certificate that the client was shown covers a host, where that counts (alb.md decision 12).
    pub fn is_shown_for(&self, host: &str) -> bool {
        self.tls.as_ref().is_none_or(|tls| tls.is_shown_for(host))
    }

    /// What the next request is served from: the current generation, unless the listener is gone from it, or
    /// has other terms than those that this connection was admitted under.
    pub fn view(&self) -> View {
        let live = self.home.current.get();
        let mut view = self.view.borrow_mut();
        if !Rc::ptr_eq(&view.live, &live)
            && let Some(listener) = live.listener(view.listener.key)
            && listener.terms() == view.listener.terms()
        {
            let listener = Arc::clone(listener);
            *view = View { live, listener };
        }
        view.clone()
    }

    /// Where its lines go.
    pub fn access_log(&self) -> &AccessLogHandle {
        &self.home.access_log
    }

    /// The copies of requests that its worker sends.
    pub fn mirrors(&self) -> &Rc<Mirrors> {
        &self.home.mirrors
    }

    /// Leaves a backend's side of a tunnel for when the client's stream is free.
    pub fn leave_tunnel(&self, tunnel: Tunnel) {
        *self.tunnel.borrow_mut() = Some(Box::new(tunnel));
    }

    /// The backend's side of a tunnel, if there is to be one.
    pub fn take_tunnel(&self) -> Option<Box<Tunnel>> {
        self.tunnel.borrow_mut().take()
    }
}

impl Tunnel {
    /// A tunnel to a backend that has switched protocols.
    pub fn new(mut backend: Box<pool::Connection>, exchange: Exchange, retiree: Retiree) -> Self {
        let early = Bytes::copy_from_slice(&backend.read);
        // A quiet tunnel holds no buffers.
        backend.read = BytesMut::new();
        backend.write = Vec::new();
        Self {
            backend,
            early,
            exchange,
            retiree,
        }
    }

    /// Passes bytes both ways until the tunnel ends; the connection ends it by `Closing::Now`, and
    /// `register` notes whom that wakes.
    pub async fn carry<S>(
        mut self,
        client: &mut S,
        early: Bytes,
        connection: &Connection,
        register: impl Fn(&Context<'_>),
    ) -> tunnel::Ending
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let idle = connection.view().listener.plan.timeouts.request;
        let activity = &connection.activity;
        let retiree = &mut self.retiree;
        let cut_at = |cx: &mut Context<'_>| {
            register(cx);
            match activity.closing() {
                Closing::Now => Some(Instant::now()),
                Closing::No | Closing::Graceful => retiree.wait(cx),
            }
        };
        let backend = &mut self.backend.stream;
        let carried = tunnel::run(client, backend, (early, self.early), idle, cut_at).await;
        self.exchange.carried(carried.received, carried.sent);
        if carried.ending == tunnel::Ending::Cut {
            self.exchange.failed(Failure::Drained);
        }
        carried.ending
    }
}

/// What all requests of a connection say of their client.
fn values(client: ClientAddr, tls: Option<&TlsFacts>) -> ClientValues {
    let values = ClientValues::new(client);
    let Some(tls) = tls else { return values };
    let certificate = match &tls.client {
        Client::Unasked | Client::Anonymous => None,
        Client::Certified(certificate) => {
            let ClientCertificate { chain, verdict } = &**certificate;
            Some(CertificateValues::new(Arc::clone(chain), verdict.text()))
        }
    };
    values.with_tls(tls.protocol, tls.cipher_suite, certificate)
}
