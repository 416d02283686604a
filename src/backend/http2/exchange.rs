//! One exchange with an HTTP/2 backend, up to the head of its answer.
//!
//! When it fails, what the backend says tells whether it has processed the request: a stream that it
//! refused (RST_STREAM with REFUSED_STREAM), or that lies above the last one named by its GOAWAY, was
//! not, and may go out again whatever its method (RFC 9113 section 8.7).

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::header::HOST;
use http::uri::{Scheme, Uri};
use http::{Request, Response, StatusCode, Version};
use tokio::time::Instant;

use super::download::Download;
use super::link::Place;
use super::upload::{Source, Upload};
use crate::backend::group::{Group, Member, Tried};
use crate::backend::http1::download::AnswerBody;
use crate::backend::http1::exchange::ExchangeError;
use crate::backend::request_body::RequestBody;
use crate::backend::retirement::Retiree;
use crate::backend::send::{Answer, AnswerHead, Outgoing, SendError, Trace, own_host};
use crate::backend::server::Server;

/// How one attempt failed.
enum Failed {
    Final(ExchangeError),
    /// The backend has reset the stream.
    Reset(Reason),
    /// The backend has not processed the request, which can go out again.
    Unprocessed(Box<Source>),
}

/// Sends a request to a group of HTTP/2 servers: to the one whose turn it is, and to another only if no
/// connection came about, or where it was provably not processed.
pub async fn send(
    outgoing: &Outgoing<'_>,
    body: RequestBody,
    group: &Group,
    trace: &mut Trace,
) -> Result<Answer, SendError> {
    let mut source = Source::new(body, outgoing);
    let mut tried = Tried::default();
    let mut failed = SendError::NoServer;
    let mut refused = false;
    while tried.len() <= usize::from(group.shared.retries) {
        let Some(member) = group.pick(outgoing.preference, &mut tried) else {
            break;
        };
        trace.ask(member, group);
        // Its connection may be one that it was just leaving: it is asked once more on another.
        for _ in 0..2 {
            let limit = group.shared.connect_timeout;
            let place = match member
                .links
                .take(&member.server, outgoing.window, limit)
                .await
            {
                Ok(place) => place,
                Err(error) => {
                    failed = SendError::Connect(error);
                    break;
                }
            };
            match run(outgoing, source, place, member, trace).await {
                Ok(answer) => return Ok(answer),
                Err(Failed::Final(error)) => return Err(SendError::Exchange(error)),
                Err(Failed::Reset(reason)) => return Ok(Answer::Reset(reason)),
                Err(Failed::Unprocessed(unsent)) => source = *unsent,
            }
            refused = true;
        }
    }
    if refused {
        // As safe to try again for the client as it was here.
        return Ok(Answer::Reset(Reason::REFUSED_STREAM));
    }
    Err(failed)
}

/// One attempt on one connection.
async fn run(
    outgoing: &Outgoing<'_>,
    source: Source,
    place: Place,
    member: &Member,
    trace: &mut Trace,
) -> Result<Answer, Failed> {
    let server = &member.server;
    let request = head(outgoing, server).ok_or(Failed::Final(ExchangeError::Unsendable))?;
    let begun = place.requests().send_request(request, source.is_empty());
    let Ok((answer, stream)) = begun else {
        // Nothing was sent.
        place.give_up();
        return Err(Failed::Unprocessed(Box::new(source)));
    };
    let mut exchange = Exchange::new(source, stream, answer, place, outgoing.timeout);
    exchange.retiree = member.retiree();
    let answered = poll_fn(|cx| exchange.poll(cx)).await;
    trace.received = exchange.upload.received();
    match answered {
        Ok(response) => {
            server.answered();
            exchange.answered(response)
        }
        Err(error) => {
            if exchange.was_ignored(&error) {
                server.left_unanswered(Instant::now());
            }
            Err(exchange.failed(error))
        }
    }
}

/// The request's head as HTTP/2 has it; `None` if its host cannot be an authority.
fn head(outgoing: &Outgoing<'_>, server: &Server) -> Option<Request<()>> {
    let own;
    let host = match outgoing.host {
        Some(host) => host,
        None => {
            own = own_host(server);
            &own
        }
    };
    let uri = Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(host.as_bytes())
        .path_and_query(outgoing.target)
        .build()
        .ok()?;
    let mut request = Request::new(());
    *request.method_mut() = outgoing.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = outgoing.headers.clone();
    // `:authority` says it.
    request.headers_mut().remove(HOST);
    Some(request)
}

/// An exchange that waits for its answer.
struct Exchange {
    upload: Upload,
    answer: ResponseFuture,
    place: Place,
    limit: Duration,
    last_progress: Instant,
    /// What ends it if its server is taken away, where that matters before the answer.
    retiree: Option<Retiree>,
}

impl Exchange {
    fn new(
        source: Source,
        stream: SendStream<Bytes>,
        answer: ResponseFuture,
        place: Place,
        limit: Duration,
    ) -> Self {
        Self {
            upload: Upload::new(source, stream),
            answer,
            place,
            limit,
            last_progress: Instant::now(),
            retiree: None,
        }
    }

    /// Polls both halves until the answer's head is there.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<RecvStream>, ExchangeError>> {
        let before = self.upload.moved();
        if let Poll::Ready(Err(error)) = self.upload.poll(cx) {
            return Poll::Ready(Err(ExchangeError::Upload(error)));
        }
        if self.upload.moved() != before {
            self.last_progress = Instant::now();
        }
        if let Poll::Ready(answer) = Pin::new(&mut self.answer).poll(cx) {
            return Poll::Ready(answer.map_err(ExchangeError::Stream));
        }
        let deadline = self.last_progress + self.limit;
        if let Some(cut) = self.retiree.as_mut().and_then(|retiree| retiree.wait(cx))
            && cut < deadline
        {
            let cut_off = self.place.timer.poll(cut, cx);
            return cut_off.map(|()| Err(ExchangeError::Retired));
        }
        self.place
            .timer
            .poll(deadline, cx)
            .map(|()| Err(ExchangeError::BackendTimeout))
    }

    fn answered(mut self, response: Response<RecvStream>) -> Result<Answer, Failed> {
        let (parts, body) = response.into_parts();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Failed::Final(ExchangeError::Unasked));
        }
        self.upload.answered();
        let head = AnswerHead {
            status: parts.status,
            reason: None,
            headers: parts.headers,
        };
        let retiree = Retiree::new(self.place.retirement());
        let download = Download::new(body, self.place, self.upload, retiree, self.limit);
        Ok(Answer::Response(
            head,
            AnswerBody::Http2(Box::new(download)),
        ))
    }

    /// Whether the backend left the request without a word: it was silent for too long, and not because the
    /// client was, or its connection broke.
    fn was_ignored(&self, error: &ExchangeError) -> bool {
        let is_silent = matches!(error, ExchangeError::BackendTimeout);
        is_silent && !self.upload.awaits_client()
            || matches!(error, ExchangeError::Stream(error) if error.is_io())
    }

    /// What can be done about an exchange that failed.
    fn failed(self, error: ExchangeError) -> Failed {
        if matches!(error, ExchangeError::BackendTimeout) {
            // The server may be gone without a word: nobody else is to wait for it on this connection.
            self.place.give_up();
        }
        let ExchangeError::Stream(stream) = &error else {
            return Failed::Final(error);
        };
        if stream.is_go_away() || stream.is_io() {
            self.place.give_up();
        }
        let source = self.upload.into_source();
        if is_unprocessed(stream) {
            match source.is_whole() {
                true => Failed::Unprocessed(Box::new(source)),
                false => Failed::Reset(Reason::REFUSED_STREAM),
            }
        } else if stream.is_remote()
            && let Some(reason) = stream.reason()
        {
            Failed::Reset(reason)
        } else {
            Failed::Final(error)
        }
    }
}

/// Whether the backend says that it has done nothing about the request.
fn is_unprocessed(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}
