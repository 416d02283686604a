//! One exchange: a request and its response, from the whole head to the last byte or the client's end.
//!
//! The exchange is a guard. It travels with the request, then inside the response body, and when it is
//! dropped, for whatever reason, the exchange is over: the connection knows, and its line is written.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{HOST, HeaderName, HeaderValue, REFERER, USER_AGENT};
use http::request::Parts;
use http::{Method, StatusCode, Uri, Version};
use tokio::time::Instant;

use crate::addr::{ClientAddr, ClientIp};
use crate::backend::http2::link::Window;
use crate::backend::send::Trace;
use crate::backend::server::{Active, Server};
use crate::config::plan::GroupProtocol;
use crate::config::rule::RuleId;
use crate::connection::{Connection, View};
use crate::failure::{Failure, client_closed_request};
use crate::http::http2::StreamPace;
use crate::http::request::head_length;
use crate::listener::Listener;
use crate::scheme::Scheme;
use crate::telemetry::access_log::{Record, RequestFacts};
use crate::telemetry::writer::AccessLogHandle;
use crate::tls::facts::TlsFacts;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Ends an exchange when it is dropped.
#[derive(Debug)]
pub struct Exchange {
    connection: Rc<Connection>,
    /// Absent over HTTP/1.
    pace: Option<Rc<StreamPace>>,
    /// What it has drawn for what a backend may send ahead.
    window: usize,
    /// Absent where no log is kept.
    entry: Option<Box<Entry>>,
    /// Counts as one of its server's, where that matters to others.
    active: Option<Active>,
}

/// What the log will say.
#[derive(Debug)]
struct Entry {
    view: View,
    rule: Option<RuleId>,
    group: Option<Arc<str>>,
    time: SystemTime,
    began: Instant,
    client_ip: ClientIp,
    method: Method,
    uri: Uri,
    version: Version,
    host: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    forwarded_for: Option<HeaderValue>,
    real_ip: Option<HeaderValue>,
    request_id: Option<HeaderValue>,
    head_length: u64,
    body_received: u64,
    body_sent: u64,
    status: Option<StatusCode>,
    failure: Option<Failure>,
    ruled: Option<Ruled>,
    upstream: Option<Upstream>,
    answered: Option<Instant>,
}

/// How a rule answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruled {
    /// By sending the client elsewhere.
    Redirect,
    /// By what the file says.
    FixedResponse,
    /// By saying what another site's page may do.
    Preflight,
}

impl Ruled {
    /// The stable code for the log.
    fn cause(self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
            Self::FixedResponse => "fixed_response",
            Self::Preflight => "cors_preflight",
        }
    }
}

/// What the log will say of the backend.
#[derive(Debug)]
struct Upstream {
    server: Arc<Server>,
    status: Option<StatusCode>,
    took: Duration,
}

impl Exchange {
    /// Begins with a request whose head has been read; over HTTP/2, on a stream.
    pub fn begin(
        connection: &Rc<Connection>,
        view: &View,
        request: &Parts,
        pace: Option<&Rc<StreamPace>>,
    ) -> Self {
        let entry = connection.access_log().enabled().then(|| {
            let field = |name: HeaderName| request.headers.get(name).cloned();
            Box::new(Entry {
                view: view.clone(),
                rule: None,
                group: None,
                time: SystemTime::now(),
                began: Instant::now(),
                client_ip: view.listener.client_ip(&request.headers, connection.client),
                method: request.method.clone(),
                uri: request.uri.clone(),
                version: request.version,
                host: field(HOST),
                referer: field(REFERER),
                user_agent: field(USER_AGENT),
                forwarded_for: field(X_FORWARDED_FOR),
                real_ip: field(X_REAL_IP),
                request_id: None,
                // About as long as it was on the wire: hyper does not tell.
                head_length: head_length(request) as u64,
                body_received: 0,
                body_sent: 0,
                status: None,
                failure: None,
                ruled: None,
                upstream: None,
                answered: None,
            })
        });
        Self {
            connection: Rc::clone(connection),
            pace: pace.map(Rc::clone),
            window: 0,
            entry,
            active: None,
        }
    }

    /// Whom the request is attributed to, where the log has asked already.
    pub fn client_ip(&self) -> Option<ClientIp> {
        self.entry.as_deref().map(|entry| entry.client_ip)
    }

    /// A rule takes the request.
    pub fn taken_by(&mut self, rule: RuleId) {
        if let Some(entry) = self.entry.as_deref_mut() {
            entry.rule = Some(rule);
        }
    }

    /// The request goes to a group.
    pub fn goes_to(&mut self, group: &Arc<str>) {
        if let Some(entry) = self.entry.as_deref_mut() {
            entry.group = Some(Arc::clone(group));
        }
    }

    /// How much a server of this protocol may send ahead, which its connection must have memory for.
    pub fn window(&mut self, protocol: GroupProtocol) -> Result<Window, Failure> {
        let (GroupProtocol::Grpc, Some(pace)) = (protocol, &self.pace) else {
            return Ok(Window::Wide);
        };
        let (wide, narrow) = (Window::Wide.bytes(), Window::Narrow.bytes());
        let drawn = pace.account().draw_window(wide, narrow);
        self.window = drawn.ok_or(Failure::ConnectionMemory)?;
        Ok(if self.window == wide {
            Window::Wide
        } else {
            Window::Narrow
        })
    }

    /// Ends with a reset of its stream.
    pub fn reset(mut self, failure: Failure, reason: h2::Reason) -> h2::Error {
        self.failed(failure);
        self.answered(failure.status());
        reason.into()
    }

    /// The request has a name.
    pub fn identified(&mut self, name: Option<HeaderValue>) {
        if let Some(entry) = self.entry.as_deref_mut() {
            entry.request_id = name;
        }
    }

    /// Which backend was asked, whether or not it answered; one that did has this exchange until its end.
    pub fn asked(&mut self, trace: &mut Trace, status: Option<StatusCode>) {
        if status.is_some() {
            self.active = trace.active.take();
        }
        if let (Some(entry), Some(server)) = (self.entry.as_deref_mut(), &trace.server) {
            entry.body_received += trace.received;
            entry.upstream = Some(Upstream {
                server: Arc::clone(server),
                status,
                took: trace.began.elapsed(),
            });
        }
    }

    /// The answer's head is on its way.
    pub fn answered(&mut self, status: StatusCode) {
        if let Some(entry) = self.entry.as_deref_mut() {
            entry.status = Some(status);
            entry.answered = Some(Instant::now());
        }
    }

    /// Something went wrong; the first cause is the one that counts.
    pub fn failed(&mut self, failure: Failure) {
        if let Some(entry) = self.entry.as_deref_mut() {
            entry.failure.get_or_insert(failure);
        }
    }

    /// A rule has answered, if it has.
    pub fn ruled(&mut self, how: Option<Ruled>) {
        if let Some(entry) = self.entry.as_deref_mut() {
            entry.ruled = how;
        }
    }

    /// The client did not get all of its answer: it was cut off, or it has left.
    pub fn lost(&mut self) {
        let cut = self.connection.activity.cut();
        self.failed(cut.unwrap_or(Failure::ClientGone));
    }

    /// Bytes of the client's body that have been read, and of the answer's that have been handed on.
    pub fn carried(&mut self, received: u64, sent: u64) {
        if let Some(entry) = self.entry.as_deref_mut() {
            entry.body_received += received;
            entry.body_sent += sent;
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(pace) = &self.pace {
            pace.account().return_answer(self.window);
        }
        self.connection.activity.exchange_ended();
        if let Some(entry) = self.entry.take() {
            entry.write(&self.connection);
        }
    }
}

impl Entry {
    /// Writes the line of an exchange that has ended.
    fn write(&self, connection: &Connection) {
        // A request that was never answered lost its client.
        let failure = match self.status {
            Some(_) => self.failure,
            None => self.failure.or(Some(Failure::ClientGone)),
        };
        let upstream = self.upstream.as_ref();
        let now = Instant::now();
        let Listener { plan, name, .. } = &*self.view.listener;
        connection.access_log().write(&Record {
            time: self.time,
            client_ip: self.client_ip,
            request: self.request(),
            request_length: self.head_length + self.body_received,
            status: self.status.unwrap_or_else(client_closed_request).as_u16(),
            body_bytes_sent: self.body_sent,
            cause: failure
                .map(Failure::cause)
                .or_else(|| self.ruled.map(Ruled::cause)),
            rule: self.rule.map(|rule| plan.rules.rule(rule).name.as_str()),
            server_group: self.group.as_deref(),
            upstream_addr: upstream.map(|upstream| upstream.server.endpoint()),
            upstream_status: upstream
                .and_then(|upstream| upstream.status)
                .map(|status| status.as_u16()),
            request_time: now - self.began,
            upstream_response_time: upstream.map(|upstream| upstream.took),
            read_request_time: self.answered.map(|answered| answered - self.began),
            write_response_time: self.answered.map(|answered| now - answered),
            ..blank(connection.client, name, plan.port, connection.tls.as_ref())
        });
    }

    fn request(&self) -> RequestFacts<'_> {
        let bytes = as_bytes;
        let authority = self
            .uri
            .authority()
            .map(|authority| authority.as_str().as_bytes());
        RequestFacts {
            version: Some(self.version),
            method: Some(self.method.as_str().as_bytes()),
            uri: self
                .uri
                .path_and_query()
                .map(|target| target.as_str().as_bytes()),
            host: authority.or_else(|| as_bytes(&self.host)),
            http_host: bytes(&self.host),
            referer: bytes(&self.referer),
            user_agent: bytes(&self.user_agent),
            x_forwarded_for: bytes(&self.forwarded_for),
            x_real_ip: bytes(&self.real_ip),
            request_id: bytes(&self.request_id),
        }
    }
}

fn as_bytes(value: &Option<HeaderValue>) -> Option<&[u8]> {
    value.as_ref().map(HeaderValue::as_bytes)
}

/// A line that only says who was served where.
fn blank<'a>(
    client: ClientAddr,
    listener: &'a str,
    port: u16,
    tls: Option<&'a TlsFacts>,
) -> Record<'a> {
    Record {
        time: SystemTime::now(),
        listener,
        listener_port: port,
        client_ip: ClientIp::last_hop(client),
        client,
        scheme: if tls.is_some() {
            Scheme::Https
        } else {
            Scheme::Http
        },
        ssl_protocol: tls.map(|tls| tls.protocol),
        ssl_cipher: tls.map(|tls| tls.cipher_suite),
        ssl_session_reused: tls.map(|tls| tls.session.reused()),
        ssl_client_verify: tls.and_then(|tls| tls.client.verify()),
        server_name: tls.and_then(|tls| tls.server_name.as_deref()),
        request: RequestFacts::default(),
        request_length: 0,
        status: 0,
        body_bytes_sent: 0,
        cause: None,
        rule: None,
        server_group: None,
        upstream_addr: None,
        upstream_status: None,
        request_time: Duration::ZERO,
        upstream_response_time: None,
        read_request_time: None,
        write_response_time: None,
    }
}

/// Writes the line of a request that was answered before it was a request: malformed, too slow, or plain
/// HTTP on a TLS port.
pub fn log_refused(
    client: ClientAddr,
    listener: &Listener,
    tls: Option<&TlsFacts>,
    failure: Failure,
    log: &AccessLogHandle,
) {
    if log.enabled() {
        log.write(&Record {
            status: failure.status().as_u16(),
            cause: Some(failure.cause()),
            ..blank(client, &listener.name, listener.plan.port, tls)
        });
    }
}
