//! One exchange with a backend: the request goes out, the head of the answer comes back.
//!
//! Both are driven inside the request's own task, at the same time: a backend may answer before it has
//! the whole request. What was sent and what was read when something fails is known exactly, so that a
//! retry is provably safe. The body of the answer is `download`'s.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::StatusCode;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use super::framing::FramingError;
use super::response::{self, Parsed, RequestKind, ResponseError, ResponseHead};
use super::upload::{Upload, UploadError, Uploaded};
use crate::backend::pool::{Connection, History};
use crate::backend::retirement::Retiree;
use crate::pace::Inflow;

/// How long a client waits at most for a backend that does not say whether it wants the body.
pub const PERMISSION_WAIT: Duration = Duration::from_secs(1);
/// Interim responses that are read before one answer.
const MOST_INTERIM: usize = 64;
/// Room made for reading a head.
const HEAD_ROOM: usize = 8 * 1024;

/// Why an exchange failed.
#[derive(Debug)]
pub enum ExchangeError {
    /// The client's body cannot be passed on.
    Upload(UploadError),
    /// The client sent nothing for request_timeout.
    ClientTimeout,
    /// The client sent fewer bytes than min_rate while it was waited for.
    ClientBelowRate,
    /// The backend neither took nor sent anything for request_timeout.
    BackendTimeout,
    /// The backend closed the connection, or it broke, before the answer.
    Closed(Option<io::Error>),
    /// The backend's head is malformed.
    Head(ResponseError),
    /// The backend's body is malformed or was cut off.
    Body(FramingError),
    /// The backend sent more than its answer.
    Excess,
    /// The backend sent interim responses without end.
    TooManyInterim,
    /// The server, or its group, was taken away, and the time to finish has passed.
    Retired,
    /// HTTP/2: the backend reset the stream or gave the connection up, or either broke.
    Stream(h2::Error),
    /// HTTP/2: the request's host cannot be an authority.
    Unsendable,
    /// HTTP/2: the backend switched protocols, which that version has not got.
    Unasked,
}

impl std::fmt::Display for ExchangeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Upload(UploadError::Client(error)) => write!(f, "the client's body: {error}"),
            Self::Upload(UploadError::Length) => {
                f.write_str("the client's body is not as long as announced")
            }
            Self::Upload(UploadError::TooLarge) => f.write_str("the client's body is too large"),
            Self::Upload(UploadError::TooManyTrailers) => {
                f.write_str("too many fields follow the client's body")
            }
            Self::ClientTimeout => f.write_str("the client sent nothing within request_timeout"),
            Self::ClientBelowRate => f.write_str("the client sent less than min_rate"),
            Self::BackendTimeout => f.write_str("the backend did nothing within request_timeout"),
            Self::Closed(None) => {
                f.write_str("the backend closed the connection before it answered")
            }
            Self::Closed(Some(error)) => write!(f, "the connection to the backend broke: {error}"),
            Self::Head(error) => write!(f, "the backend's head: {error}"),
            Self::Body(error) => write!(f, "the backend's body: {error}"),
            Self::Excess => f.write_str("the backend sent more bytes than its answer has"),
            Self::TooManyInterim => f.write_str("the backend sent too many interim responses"),
            Self::Retired => f.write_str("the server was taken away, and its time has passed"),
            Self::Stream(error) => write!(f, "the backend's stream: {error}"),
            Self::Unsendable => f.write_str("the host cannot be an authority"),
            Self::Unasked => f.write_str("the backend answered 101 over HTTP/2"),
        }
    }
}

impl std::error::Error for ExchangeError {
    /// A stream's: an HTTP/2 client is reset for the reason that its backend gave.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if let Self::Stream(error) = self {
            return Some(error);
        }
        None
    }
}

/// What came back.
#[derive(Debug)]
pub enum Answered {
    /// The answer's head; its body follows.
    Final(ResponseHead),
    /// 101: the connection speaks another protocol from here on.
    Switched(ResponseHead),
}

/// An exchange that waits for its answer.
#[derive(Debug)]
pub struct Exchange {
    /// The connection it runs on.
    pub connection: Box<Connection>,
    /// The request on its way.
    pub upload: Upload,
    kind: RequestKind,
    limit: Duration,
    inflow: Inflow,
    /// What ends it if its server is taken away, where that matters before the answer.
    pub retiree: Option<Retiree>,
    /// Since when neither side has done anything; absent while something happens.
    waiting_since: Option<Instant>,
    interim: usize,
    answered: usize,
}

impl Exchange {
    /// Begins an exchange on `connection`, whose write buffer holds the request's head; `limit` is request_timeout,
    /// `inflow` watches the client.
    pub fn new(
        connection: Box<Connection>,
        upload: Upload,
        kind: RequestKind,
        limit: Duration,
        inflow: Inflow,
    ) -> Self {
        Self {
            connection,
            upload,
            kind,
            limit,
            inflow,
            retiree: None,
            waiting_since: None,
            interim: 0,
            answered: 0,
        }
    }

    /// Whether the same request may go out again on a fresh connection: this one came from the pool and was
    /// found closed before a byte of an answer, and the backend cannot have acted on what was sent.
    pub fn may_repeat(&self, error: &ExchangeError, idempotent: Idempotence) -> bool {
        matches!(error, ExchangeError::Closed(_))
            && self.connection.history == History::Reused
            && self.answered == 0
            && self.upload.is_unread()
            && (self.upload.is_unsent() || idempotent == Idempotence::Idempotent)
    }

    /// Whether the backend took the request and left it without an answer: it was silent for too long, or closed
    /// a connection that it had just accepted. A pooled one may have been closed for its age.
    pub fn was_ignored(&self, error: &ExchangeError) -> bool {
        let is_fresh = self.connection.history == History::Fresh;
        self.answered == 0
            && (matches!(error, ExchangeError::BackendTimeout)
                || is_fresh && matches!(error, ExchangeError::Closed(_)))
    }

    /// Polls both halves until the answer's head is there.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answered, ExchangeError>> {
        loop {
            let moved = self.upload.moved();
            let uploaded = self
                .upload
                .poll(&mut self.connection, cx)
                .map_err(ExchangeError::Upload)?;
            if self.upload.moved() != moved {
                self.waiting_since = None;
                self.inflow.moved();
            }
            match self.poll_answer(cx)? {
                Poll::Ready(Some(answered)) => return Poll::Ready(Ok(answered)),
                // An interim response: the upload may have been permitted.
                Poll::Ready(None) => {}
                Poll::Pending => match ready!(self.poll_deadline(uploaded, cx)) {
                    Ok(()) => {
                        self.upload.permit();
                        self.waiting_since = None;
                    }
                    Err(error) => return Poll::Ready(Err(error)),
                },
            }
        }
    }

    /// Reads until a head is whole; `None` is an interim response.
    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Result<Poll<Option<Answered>>, ExchangeError> {
        loop {
            if !self.connection.read.is_empty() {
                match response::parse(&mut self.connection.read, self.kind)
                    .map_err(ExchangeError::Head)?
                {
                    Parsed::Partial => {}
                    Parsed::Informational(status) => {
                        self.interim(status)?;
                        return Ok(Poll::Ready(None));
                    }
                    Parsed::SwitchingProtocols(head) => {
                        return Ok(Poll::Ready(Some(Answered::Switched(head))));
                    }
                    Parsed::Final(head) => {
                        self.upload.answered();
                        return Ok(Poll::Ready(Some(Answered::Final(head))));
                    }
                }
            }
            match poll_read(&mut self.connection, HEAD_ROOM, cx) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Ok(0)) => return Err(ExchangeError::Closed(None)),
                Poll::Ready(Ok(n)) => {
                    self.answered += n;
                    self.waiting_since = None;
                }
                Poll::Ready(Err(error)) => return Err(ExchangeError::Closed(Some(error))),
            }
        }
    }

    fn interim(&mut self, status: StatusCode) -> Result<(), ExchangeError> {
        self.interim += 1;
        if self.interim > MOST_INTERIM {
            return Err(ExchangeError::TooManyInterim);
        }
        if status == StatusCode::CONTINUE {
            self.upload.permit();
        }
        Ok(())
    }

    /// Ready with `Ok` once a backend that was asked for permission has been silent for long enough.
    fn poll_deadline(
        &mut self,
        uploaded: Uploaded,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ExchangeError>> {
        let limit = match uploaded {
            Uploaded::AwaitsPermission => PERMISSION_WAIT.min(self.limit),
            Uploaded::All | Uploaded::AwaitsClient | Uploaded::AwaitsBackend => self.limit,
        };
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        if let Some(cut) = self.retiree.as_mut().and_then(|retiree| retiree.wait(cx))
            && cut < since + limit
        {
            ready!(self.connection.timer.poll(cut, cx));
            return Poll::Ready(Err(ExchangeError::Retired));
        }
        if uploaded == Uploaded::AwaitsClient {
            let silent = since + limit;
            while let Some(slow) = self.inflow.wait(since).filter(|slow| *slow < silent) {
                ready!(self.connection.timer.poll(slow, cx));
                if self.inflow.is_too_slow(Instant::now()) {
                    return Poll::Ready(Err(ExchangeError::ClientBelowRate));
                }
            }
        }
        ready!(self.connection.timer.poll(since + limit, cx));
        Poll::Ready(match uploaded {
            Uploaded::AwaitsPermission => Ok(()),
            Uploaded::AwaitsClient => Err(ExchangeError::ClientTimeout),
            Uploaded::All | Uploaded::AwaitsBackend => Err(ExchangeError::BackendTimeout),
        })
    }
}

/// Whether doing a request twice is the same as doing it once (RFC 9110 section 9.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idempotence {
    /// It is.
    Idempotent,
    /// It may not be.
    Other,
}

impl Idempotence {
    /// By the method.
    pub fn of(method: &http::Method) -> Self {
        match *method {
            http::Method::GET
            | http::Method::HEAD
            | http::Method::OPTIONS
            | http::Method::PUT
            | http::Method::DELETE => Self::Idempotent,
            _ => Self::Other,
        }
    }
}

/// Reads into the connection's buffer what the backend has sent, making room for `room` bytes.
pub fn poll_read(
    connection: &mut Connection,
    room: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    connection.read.reserve(room);
    pin!(connection.stream.read_buf(&mut connection.read)).poll(cx)
}
