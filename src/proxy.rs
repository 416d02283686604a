//! One request, from top to bottom.
//!
//! Read aloud, this is the product: a request is judged, cleaned and told who its client is; a backend
//! answers it; the answer is cleaned, perhaps compressed, and sent. Every failure on the way becomes an
//! answer of ours by the one table in `failure`.

use std::borrow::Cow;
use std::convert::Infallible;
use std::rc::Rc;

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;

use crate::backend::http1::download::AnswerBody;
use crate::backend::http1::request::{BackendVersion, BodyFraming};
use crate::backend::http1::response::ResponseHead;
use crate::backend::http1::upload::Expectation;
use crate::backend::pool;
use crate::backend::send::{Answer, Outgoing, Trace, send};
use crate::connection::{Connection, Tunnel, View};
use crate::exchange::{Exchange, PlainBody, ResponseBody};
use crate::failure::Failure;
use crate::http::http2::StreamPace;
use crate::http::reply::{Afterwards, reply};
use crate::http::request::{self, Continue, Host, MAX_BODY};
use crate::transform::hop_by_hop;

/// Answers a request.
pub async fn handle(
    request: Request<Incoming>,
    connection: Rc<Connection>,
    pace: Option<Rc<StreamPace>>,
) -> Result<Response<ResponseBody>, Infallible> {
    let (mut parts, body) = request.into_parts();
    let view = connection.view();
    let mut exchange = Exchange::begin(&connection, &view, &parts);
    let unread = !body.is_end_stream();
    Ok(match forward(&mut parts, body, &connection, &view, &mut exchange).await {
        Ok(Forwarded::Answer(head, body)) => {
            let response = respond(head, body, &parts, &view, &connection);
            exchange.answered(response.status());
            response.map(|body| ResponseBody::new(body, exchange, pace))
        }
        Ok(Forwarded::Switched(head, backend)) => {
            exchange.answered(head.status);
            switch(head, backend, &connection, &view, exchange)
        }
        Err(failure) => {
            exchange.failed(failure);
            exchange.answered(failure.status());
            refuse(failure, &parts, unread, &connection)
                .map(|body| ResponseBody::new(body, exchange, pace))
        }
    })
}

/// What came of forwarding a request.
enum Forwarded {
    Answer(ResponseHead, AnswerBody),
    Switched(ResponseHead, Box<pool::Connection>),
}

/// Judges and prepares a request, and sends it to the listener's group.
async fn forward(
    parts: &mut Parts,
    body: Incoming,
    connection: &Connection,
    view: &View,
    exchange: &mut Exchange,
) -> Result<Forwarded, Failure> {
    let host = request::check(parts)?;
    let expectation = request::expects_continue(parts.version, &mut parts.headers)?;
    let upgrade = websocket(parts, &body)?;
    let framing = framing(parts, &body);
    hop_by_hop::clean_request(&mut parts.headers);
    let received = host.as_ref().map(|host| &host.received);
    view.listener
        .forwarded
        .apply(&mut parts.headers, received, &connection.values);

    let group = view.live.group(view.listener.plan.group);
    let outgoing = Outgoing {
        method: &parts.method,
        target: &target(&parts.uri),
        host: host.as_ref().map(|Host { canonical, .. }| canonical),
        version: match parts.version {
            Version::HTTP_10 => BackendVersion::Http10,
            _ => BackendVersion::Http11,
        },
        headers: &parts.headers,
        upgrade: upgrade.as_ref(),
        framing,
        expectation: match expectation {
            Continue::Yes => Expectation::Continue,
            Continue::No => Expectation::None,
        },
        body_limit: MAX_BODY,
        timeout: view.listener.plan.timeouts.request,
    };
    let mut trace = Trace::begin();
    let answer = send(&outgoing, body, group, &mut trace).await;
    match answer {
        Ok(Answer::Response(head, body)) => {
            exchange.asked(&trace, Some(head.status));
            Ok(Forwarded::Answer(head, body))
        }
        Ok(Answer::Switched(head, backend)) => {
            exchange.asked(&trace, Some(head.status));
            Ok(Forwarded::Switched(head, backend))
        }
        Err(error) => {
            exchange.asked(&trace, None);
            tracing::debug!(server = ?trace.server.as_ref().map(|s| s.address()), %error, "a request failed");
            Err(Failure::from(&error))
        }
    }
}

/// The WebSocket protocol, if an HTTP/1.1 request asks for it. Other protocols are not tunnelled: an
/// unknown tunnel is a way around everything that is judged here.
fn websocket(parts: &Parts, body: &Incoming) -> Result<Option<HeaderValue>, Failure> {
    if parts.version != Version::HTTP_11 {
        return Ok(None);
    }
    match hop_by_hop::upgrade(&parts.headers) {
        Some(protocol) if protocol.as_bytes().eq_ignore_ascii_case(b"websocket") => {
            if body.is_end_stream() {
                Ok(Some(protocol.clone()))
            } else {
                Err(Failure::RequestMalformed)
            }
        }
        Some(_) | None => Ok(None),
    }
}

fn framing(parts: &Parts, body: &Incoming) -> BodyFraming {
    match (body.is_end_stream(), body.size_hint().exact()) {
        (true, _) if parts.headers.contains_key(CONTENT_LENGTH) => BodyFraming::Length(0),
        (true, _) => BodyFraming::None,
        (false, Some(length)) => BodyFraming::Length(length),
        (false, None) => BodyFraming::Chunked,
    }
}

/// Path and query as received; an absolute target may have an empty path, which stands for `/`.
fn target(uri: &Uri) -> Cow<'_, [u8]> {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    if target.starts_with('?') {
        Cow::Owned(format!("/{target}").into_bytes())
    } else {
        Cow::Borrowed(target.as_bytes())
    }
}

/// The response to the client, from a backend's answer.
fn respond(
    head: ResponseHead,
    body: AnswerBody,
    request: &Parts,
    _view: &View,
    connection: &Connection,
) -> Response<PlainBody> {
    let is_early = matches!(&body, AnswerBody::Streaming(download) if download.is_early());
    let mut response = Response::new(match body {
        AnswerBody::Whole(bytes) => PlainBody::Whole(bytes),
        AnswerBody::Streaming(download) => PlainBody::Streaming(download),
    });
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    if let Some(reason) = head
        .reason
        .and_then(|reason| ReasonPhrase::try_from(reason).ok())
    {
        response.extensions_mut().insert(reason);
    }
    hop_by_hop::clean_response(response.headers_mut());
    // Bytes sent after an Upgrade that was refused must not be taken for the next request (attacks.md row 10).
    let refused_upgrade = hop_by_hop::upgrade(&request.headers).is_some();
    if request.version != Version::HTTP_2 && (is_early || refused_upgrade) {
        connection.activity.body_left_unread();
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Answers 101 and leaves the backend's side for when the client's stream is free.
fn switch(
    head: ResponseHead,
    mut backend: Box<pool::Connection>,
    connection: &Connection,
    view: &View,
    exchange: Exchange,
) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::none());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let protocol = head.headers.get(UPGRADE).cloned();
    *response.headers_mut() = head.headers;
    hop_by_hop::clean_response(response.headers_mut());
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Some(protocol) = protocol {
        response.headers_mut().insert(UPGRADE, protocol);
    }
    let early = backend.read.split().freeze();
    let group = view
        .live
        .group(view.listener.plan.group)
        .shared
        .name
        .clone();
    connection.leave_tunnel(Tunnel {
        backend,
        early,
        exchange,
        group,
    });
    response
}

/// The answer of ours to a request that failed.
fn refuse(
    failure: Failure,
    request: &Parts,
    unread: bool,
    connection: &Connection,
) -> Response<PlainBody> {
    let afterwards = match request.version {
        Version::HTTP_2 => Afterwards::Keep,
        _ if unread => Afterwards::Close,
        _ => Afterwards::of(failure),
    };
    if afterwards == Afterwards::Close {
        connection.activity.body_left_unread();
    }
    let response = reply(failure, afterwards);
    if request.version == Version::HTTP_2 && request.method == Method::HEAD {
        return response.map(|_| PlainBody::Whole(bytes::Bytes::new()));
    }
    response.map(PlainBody::Whole)
}
