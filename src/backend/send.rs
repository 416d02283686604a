//! Sends a request to a group: chooses a server, connects or takes a connection from the pool, and
//! tries again where that is provably safe.
//!
//! Another server is tried only if no connection came about: nothing was sent. The same server is
//! asked a second time only if a pooled connection turned out to be closed (`Exchange::may_repeat`).

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tokio::time::Instant;

use super::balance::Preference;
use super::connect::ConnectError;
use super::group::{Group, Member, Tried};
use super::http1::download::{self, AnswerBody};
use super::http1::exchange::{Answered, Exchange, ExchangeError, Idempotence};
use super::http1::names::Verbatim;
use super::http1::request::{self, BackendVersion, BodyFraming, ConnectionIntent, RequestHead};
use super::http1::response::{RequestKind, ResponseHead};
use super::http1::upload::{CleanTrailers, Expectation, Upload, UploadError};
use super::http2::{self, link::Window};
use super::obtain::{Patience, next, obtain, queue, redial};
use super::pool::Connection;
use super::request_body::RequestBody;
use super::retirement::Retiree;
use super::server::{Active, Server};
use crate::addr::BackendAddr;
use crate::config::plan::{GroupProtocol, Keepalive};
use crate::failure::Failure;
use crate::mark::Mark;
use crate::pace::Inflow;

/// What a server says of its idle connections (RFC 2068 section 19.7.1.1).
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// A request as it leaves.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// The method.
    pub method: &'a Method,
    /// Path and query, as received.
    pub target: &'a [u8],
    /// The `Host` field; absent, the server's own address.
    pub host: Option<&'a HeaderValue>,
    /// The version of the request line.
    pub version: BackendVersion,
    /// All other fields.
    pub headers: &'a HeaderMap,
    /// Names that are written as users have spelt them.
    pub verbatim: Verbatim<'a>,
    /// The protocol that the client wants to change to.
    pub upgrade: Option<&'a HeaderValue>,
    /// How the body is framed.
    pub framing: BodyFraming,
    /// Whether the client waits for permission to send its body.
    pub expectation: Expectation,
    /// The longest body, in bytes.
    pub body_limit: u64,
    /// What trailers of the body go through before they are sent.
    pub clean_trailers: CleanTrailers,
    /// request_timeout
    pub timeout: Duration,
    /// How much an HTTP/2 server may send ahead.
    pub window: Window,
    /// Watches the client's pace.
    pub inflow: Inflow,
    /// What it says about who is to answer it.
    pub preference: Preference,
}

/// A backend's answer.
#[derive(Debug)]
pub enum Answer {
    /// A response.
    Response(AnswerHead, AnswerBody),
    /// 101, as asked for: both sides speak the new protocol from here on.
    Switched(AnswerHead, Box<Connection>, Retiree),
    /// HTTP/2: the stream was reset instead, for this reason.
    Reset(Reason),
}

/// The head of an answer, whatever protocol it came by.
#[derive(Debug)]
pub struct AnswerHead {
    /// The status.
    pub status: StatusCode,
    /// The reason phrase, where it is not the status's usual one.
    pub reason: Option<Bytes>,
    /// All fields, those of this hop too.
    pub headers: HeaderMap,
}

impl From<ResponseHead> for AnswerHead {
    fn from(head: ResponseHead) -> Self {
        Self {
            status: head.status,
            reason: head.reason,
            headers: head.headers,
        }
    }
}

impl Answer {
    /// Its status, if it has one.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Response(head, _) | Self::Switched(head, ..) => Some(head.status),
            Self::Reset(_) => None,
        }
    }
}

/// Why no answer came.
#[derive(Debug)]
pub enum SendError {
    /// No server is left to try, or there was none.
    NoServer,
    /// Every server has as many connections as it may, and too many requests wait for one already.
    QueueFull,
    /// Every server has as many connections as it may, and none became free in time.
    QueueTimeout,
    /// The last server tried could not be connected to.
    Connect(ConnectError),
    /// The exchange failed.
    Exchange(ExchangeError),
    /// 101 although nobody asked.
    Unasked,
    /// 101 to another protocol than the one asked for.
    OtherProtocol,
}

impl std::fmt::Display for SendError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoServer => f.write_str("no server takes requests"),
            Self::QueueFull => f.write_str("too many requests wait for a connection already"),
            Self::QueueTimeout => f.write_str("no connection became free within connect_timeout"),
            Self::Connect(error) => error.fmt(f),
            Self::Exchange(error) => error.fmt(f),
            Self::Unasked => f.write_str("the backend switched protocols without being asked"),
            Self::OtherProtocol => {
                f.write_str("the backend switched to a protocol that was not asked for")
            }
        }
    }
}

impl std::error::Error for SendError {}

impl From<&SendError> for Failure {
    fn from(error: &SendError) -> Self {
        match error {
            SendError::NoServer => Self::NoServer,
            SendError::QueueFull => Self::QueueFull,
            SendError::QueueTimeout => Self::QueueTimeout,
            SendError::Connect(ConnectError::Refused(_)) => Self::ConnectRefused,
            SendError::Connect(ConnectError::Exhausted(_)) => Self::Exhausted,
            SendError::Connect(ConnectError::Timeout) => Self::ConnectTimeout,
            SendError::Connect(ConnectError::Handshake(_, _)) => Self::BackendHandshake,
            SendError::Connect(ConnectError::Certificate(_)) => Self::BackendCertificate,
            SendError::Connect(ConnectError::Unresolved) => Self::NameUnresolved,
            SendError::Unasked | SendError::OtherProtocol => Self::BackendUpgrade,
            SendError::Exchange(error) => Self::from(error),
        }
    }
}

impl From<&ExchangeError> for Failure {
    fn from(error: &ExchangeError) -> Self {
        match error {
            ExchangeError::Upload(UploadError::TooLarge) => Self::BodyTooLarge,
            ExchangeError::Upload(UploadError::TooManyTrailers) => Self::HeadTooLarge,
            ExchangeError::Upload(UploadError::Client(_) | UploadError::Length) => {
                Self::BodyMalformed
            }
            ExchangeError::ClientTimeout => Self::ClientTooSlow,
            ExchangeError::ClientBelowRate => Self::ClientBelowRate,
            ExchangeError::BackendTimeout => Self::ResponseTimeout,
            ExchangeError::Retired => Self::ServerDrained,
            ExchangeError::Unsendable => Self::HostInvalid,
            ExchangeError::Unasked => Self::BackendUpgrade,
            ExchangeError::Stream(error) if error.is_remote() => Self::BackendReset,
            ExchangeError::Stream(error) if error.is_io() => Self::BackendClosed,
            ExchangeError::Stream(_) => Self::BackendMalformed,
            ExchangeError::Closed(_) => Self::BackendClosed,
            ExchangeError::Head(_)
            | ExchangeError::Body(_)
            | ExchangeError::Excess
            | ExchangeError::TooManyInterim => Self::BackendMalformed,
        }
    }
}

/// Which server was asked last, and since when: for the log, also when the request fails.
#[derive(Debug)]
pub struct Trace {
    /// The server.
    pub server: Option<Arc<Server>>,
    /// Counts the exchange as one of that server's, where the group counts them.
    pub active: Option<Active>,
    /// What stands for that server in a client's cookie.
    pub mark: Option<Mark>,
    /// When the first attempt began.
    pub began: Instant,
    /// Bytes of the client's body that had been read when the answer came.
    pub received: u64,
}

impl Trace {
    /// Nothing was asked yet; the clock runs from now.
    pub fn begin() -> Self {
        Self {
            server: None,
            active: None,
            mark: None,
            began: Instant::now(),
            received: 0,
        }
    }

    /// A server of `group` is asked from now on.
    pub fn ask(&mut self, member: &Member, group: &Group) {
        self.server = Some(Arc::clone(&member.server));
        self.active = group.count(member);
        self.mark = member.mark;
    }
}

/// Sends a request to `group`, in the protocol that its servers speak.
pub async fn send(
    outgoing: &Outgoing<'_>,
    body: RequestBody,
    group: &Group,
    trace: &mut Trace,
) -> Result<Answer, SendError> {
    match group.shared.protocol {
        GroupProtocol::Http | GroupProtocol::Https => {
            send_http1(outgoing, body, group, trace).await
        }
        // Boxed: its state is none of what most requests hold.
        GroupProtocol::Grpc => Box::pin(http2::exchange::send(outgoing, body, group, trace)).await,
    }
}

async fn send_http1(
    outgoing: &Outgoing<'_>,
    body: RequestBody,
    group: &Group,
    trace: &mut Trace,
) -> Result<Answer, SendError> {
    let mut body = body;
    let mut tried = Tried::default();
    let mut full = None;
    let mut failures = 0;
    let mut failed = SendError::NoServer;
    while failures <= group.shared.retries {
        let Some((member, patience)) = next(group, outgoing.preference, &mut tried, &mut full)
        else {
            break;
        };
        trace.ask(member, group);
        let obtained = match patience {
            Patience::None => obtain(member, group, outgoing).await,
            // Boxed: its state is none of what most requests hold.
            Patience::Queue => Box::pin(queue(member, group, outgoing)).await.map(Some),
        };
        let connection = match obtained {
            Ok(Some(connection)) => connection,
            Ok(None) => {
                full.get_or_insert(member);
                continue;
            }
            Err(error) => {
                failed = error;
                failures += 1;
                continue;
            }
        };
        match run(outgoing, body, connection, member, trace).await {
            Ok(answer) => return Ok(answer),
            Err(Failed::Final(error)) => return Err(error),
            Err(Failed::Repeat(unsent)) => body = unsent,
        }
        let connection = match redial(member, group, outgoing.host).await {
            Ok(connection) => connection,
            Err(error) => {
                failed = error;
                failures += 1;
                continue;
            }
        };
        return run(outgoing, body, connection, member, trace)
            .await
            .map_err(Failed::into_error);
    }
    Err(failed)
}

/// How one attempt failed.
enum Failed {
    Final(SendError),
    /// The request can go out again, with its body as it was.
    Repeat(RequestBody),
}

impl Failed {
    /// A fresh connection is never repeated: what it says is final.
    fn into_error(self) -> SendError {
        match self {
            Self::Final(error) => error,
            Self::Repeat(_) => SendError::Exchange(ExchangeError::Closed(None)),
        }
    }
}

/// One attempt on one connection.
async fn run(
    outgoing: &Outgoing<'_>,
    body: RequestBody,
    mut connection: Box<Connection>,
    member: &Member,
    trace: &mut Trace,
) -> Result<Answer, Failed> {
    write_head(outgoing, member, &mut connection.write);
    let upload = Upload::new(
        body,
        outgoing.framing,
        outgoing.expectation,
        outgoing.body_limit,
        outgoing.clean_trailers.clone(),
    );
    let kind = if outgoing.method == Method::HEAD {
        RequestKind::Head
    } else {
        RequestKind::Ordinary
    };
    let mut exchange = Exchange::new(
        connection,
        upload,
        kind,
        outgoing.timeout,
        outgoing.inflow.clone(),
    );
    exchange.retiree = member.retiree();
    let answered = poll_fn(|cx| exchange.poll(cx)).await;
    trace.received = exchange.upload.received();
    match &answered {
        Ok(_) => member.server.answered(),
        Err(error) if exchange.was_ignored(error) => member.server.left_unanswered(Instant::now()),
        Err(_) => {}
    }
    match answered {
        Ok(Answered::Final(head)) => {
            let (framing, reuse) = (head.framing, head.reuse);
            if let Some(field) = head.headers.get(KEEP_ALIVE) {
                member.server.idle_limit().announce(field);
            }
            download::begin(exchange, framing, reuse, &member.pool, outgoing.timeout)
                .map(|body| Answer::Response(head.into(), body))
                .map_err(|error| Failed::Final(SendError::Exchange(error)))
        }
        Ok(Answered::Switched(head)) => match outgoing.upgrade {
            None => Err(Failed::Final(SendError::Unasked)),
            Some(asked) if agrees(&head, asked) => {
                let retiree = Retiree::new(&member.retirement);
                Ok(Answer::Switched(head.into(), exchange.connection, retiree))
            }
            Some(_) => Err(Failed::Final(SendError::OtherProtocol)),
        },
        Err(error) if exchange.may_repeat(&error, Idempotence::of(outgoing.method)) => {
            Err(Failed::Repeat(exchange.upload.into_body()))
        }
        Err(error) => Err(Failed::Final(SendError::Exchange(error))),
    }
}

fn agrees(head: &ResponseHead, asked: &HeaderValue) -> bool {
    let mut named = head.headers.get_all(http::header::UPGRADE).iter();
    named
        .next()
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(asked.as_bytes()))
        && named.next().is_none()
}

fn write_head(outgoing: &Outgoing<'_>, member: &Member, out: &mut Vec<u8>) {
    let address;
    let host = match outgoing.host {
        Some(host) => host,
        None => {
            address = own_host(&member.server);
            &address
        }
    };
    let connection = match (outgoing.upgrade, member.pool.keepalive()) {
        (Some(protocol), _) => ConnectionIntent::Upgrade(protocol),
        (None, Keepalive::Idle(_)) => ConnectionIntent::KeepAlive,
        (None, Keepalive::Off) => ConnectionIntent::Close,
    };
    request::write(
        &RequestHead {
            method: outgoing.method,
            target: outgoing.target,
            host,
            version: outgoing.version,
            verbatim: outgoing.verbatim,
            headers: outgoing.headers,
            framing: outgoing.framing,
            connection,
        },
        out,
    );
}

/// The Host of a request that came without one, as only HTTP/1.0 allows: the server's own address.
pub fn own_host(server: &Server) -> HeaderValue {
    let text = match server.address() {
        BackendAddr::Unix(_) => "localhost".to_owned(),
        address @ (BackendAddr::Ip(_) | BackendAddr::Name { .. }) => address.to_string(),
    };
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("localhost"))
}
