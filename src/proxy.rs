//! One request, from top to bottom.
//!
//! Read aloud, this is the product: a request is judged, cleaned and told who its client is; a backend
//! answers it; the answer is cleaned, perhaps compressed, and sent. Every failure on the way becomes an
//! answer of ours by the one table in `failure`.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Context;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::upgrade::OnUpgrade;

use crate::backend::http1::download::{AnswerBody, Download};
use crate::backend::http1::request::{BackendVersion, BodyFraming};
use crate::backend::http1::upload::Expectation;
use crate::backend::retirement::Retiree;
use crate::backend::send::{Answer, AnswerHead, Outgoing, Trace, send};
use crate::config::plan::{CompressionPlan, GroupId, GroupProtocol, Switch};
use crate::connection::{Connection, Tunnel, View};
use crate::exchange::{Exchange, log_refused};
use crate::failure::Failure;
use crate::http::activity::Closing;
use crate::http::http2::{Companion, Parting, StreamPace};
use crate::http::reply::{Afterwards, reply};
use crate::http::request::{self, Continue, Host};
use crate::http::taken_over::TakenOver;
use crate::http::tunnel::Ending;
use crate::pace::Inflow;
use crate::response_body::{Compression, PlainBody, ResponseBody};
use crate::route::router::Routed;
use crate::route::split::Split;
use crate::transform::compression::negotiate::{self, Accepted, Decision};
use crate::transform::{hop_by_hop, request_id, websocket};

/// Answers a request; the last one of its connection is also told so.
pub async fn handle(
    request: Request<Incoming>,
    connection: Rc<Connection>,
    pace: Option<Rc<StreamPace>>,
) -> Result<Response<ResponseBody>, h2::Error> {
    let view = connection.view();
    if pace.as_ref().is_some_and(|pace| pace.is_refused()) {
        return Err(refuse_stream(&connection, &view));
    }
    let next = Next::of(&request, &connection, &view);
    let (mut parts, body) = request.into_parts();
    let mut exchange = Exchange::begin(&connection, &view, &parts, pace.as_ref());
    let body_came = BodyCame::of(&body);
    let asked = Asked::of(&parts, &view);
    let mut response = match forward(&mut parts, body, &connection, &view, &mut exchange).await {
        Ok((Answer::Reset(reason), _)) => return Err(exchange.reset(Failure::BackendReset, reason)),
        // As for a head that there is no room for.
        Err(failure @ Failure::ConnectionMemory) => {
            return Err(exchange.reset(failure, h2::Reason::REFUSED_STREAM));
        }
        Ok((Answer::Response(head, body), _)) => {
            let body = plain(body, pace.as_deref(), connection.activity.exchanges());
            let mut response = respond(head, body, &parts, asked.upgrade, &connection);
            let compression = compress(&mut response, &asked, &view, pace.as_deref());
            exchange.answered(response.status());
            response.map(|body| ResponseBody::new(body, compression, exchange, pace))
        }
        Ok((Answer::Switched(head, backend), group)) => {
            let retiree = Retiree::new(&view.live.group(group).retirement);
            let tunnel = Tunnel::new(backend, exchange, retiree);
            match pace.zip(parts.extensions.remove::<OnUpgrade>()) {
                None => switch(head, tunnel, &connection),
                Some((pace, stream)) => {
                    take_over(head, tunnel, stream, pace, Rc::clone(&connection))
                }
            }
        }
        Err(failure) => {
            exchange.failed(failure);
            exchange.answered(failure.status());
            refuse(
                failure,
                &parts,
                after(failure, &parts, body_came, asked.upgrade),
                &connection,
            )
            .map(|body| ResponseBody::new(body, None, exchange, pace))
        }
    };
    match next {
        Next::May => {}
        Next::None => part(&mut response, &connection),
    }
    Ok(response)
}

/// The connection holds as much as it may: its client can send the request again (RFC 9113 section 8.7).
fn refuse_stream(connection: &Connection, view: &View) -> h2::Error {
    let (tls, log) = (connection.tls.as_ref(), connection.access_log());
    let reason = Failure::ConnectionMemory;
    log_refused(connection.client, &view.listener, tls, reason, log);
    connection.activity.exchange_ended();
    h2::Reason::REFUSED_STREAM.into()
}

/// Whether an HTTP/1 connection may have another request after this one (`requests_per_connection`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    May,
    None,
}

impl Next {
    /// Over HTTP/2 the client learns at once that it may open no more streams; those that are open go on.
    fn of(request: &Request<Incoming>, connection: &Connection, view: &View) -> Self {
        let limit = view.listener.plan.limits.requests_per_connection;
        if limit.is_none_or(|limit| connection.activity.requests() < limit.get()) {
            return Self::May;
        }
        if request.version() == Version::HTTP_2 {
            connection.activity.close(Closing::Graceful);
            return Self::May;
        }
        Self::None
    }
}

/// Makes an answer the last of an HTTP/1 connection; what the client has sent ahead is not answered.
fn part(response: &mut Response<ResponseBody>, connection: &Connection) {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        connection.activity.body_left_unread();
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// What a request asked for in fields that are cleaned away before the answer comes.
struct Asked {
    upgrade: Upgrade,
    encodings: Option<Accepted>,
    held: Option<HeaderValue>,
}

/// Whether a request asked for another protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upgrade {
    Asked,
    NotAsked,
}

impl Asked {
    fn of(request: &Parts, view: &View) -> Self {
        // A client that offers h2c waits for the answer; others may send ahead.
        let upgrade = match hop_by_hop::upgrade(&request.headers) {
            Some(protocol) if !protocol.as_bytes().eq_ignore_ascii_case(b"h2c") => Upgrade::Asked,
            Some(_) | None => Upgrade::NotAsked,
        };
        let encodings = match &view.listener.plan.compression {
            CompressionPlan::Off => None,
            CompressionPlan::On(_) => Some(Accepted::new(
                &request.method,
                request.version,
                &request.headers,
            )),
        };
        let held = encodings.and_then(|_| negotiate::held(&request.headers));
        Self {
            upgrade,
            encodings,
            held,
        }
    }
}

/// Judges and prepares a request, and sends it to a group of the rule that takes it.
async fn forward(
    parts: &mut Parts,
    body: Incoming,
    connection: &Connection,
    view: &View,
    exchange: &mut Exchange,
) -> Result<(Answer, GroupId), Failure> {
    let limits = &view.listener.plan.limits;
    let host = request::check(parts, limits)?;
    is_for_us(host.as_ref(), connection)?;
    let name = host.as_ref().map(Host::name);
    let Routed { rule, .. } = view.listener.route(parts, name, connection.client);
    exchange.taken_by(rule);
    let split = view.listener.router.split(rule);
    let chosen = split.and_then(Split::pick).ok_or(Failure::NoServer)?;
    let group = view.live.group(chosen);
    exchange.goes_to(&group.shared.name);
    suits(parts, group.shared.protocol)?;
    let expectation = expectation(parts)?;
    let upgrade = websocket(parts, &body)?;
    let framing = framing(parts, &body);
    let client = || {
        view.listener
            .client_ip(&parts.headers, connection.client)
            .ip()
    };
    let preference = group.shared.balance.preference(parts.uri.query(), client);
    hop_by_hop::clean_request(&mut parts.headers, view.listener.client_header());
    hop_by_hop::remove_names(&mut parts.headers, view.listener.own_names());
    let bridge = bridge(parts)?;
    view.listener.pass(rule, &mut parts.headers)?;
    let named = host.as_ref();
    introduce(&mut parts.headers, named, connection, view, exchange);

    let outgoing = Outgoing {
        method: match &bridge {
            Some(_) => &Method::GET,
            None => &parts.method,
        },
        target: &request::target(&parts.uri),
        host: host.as_ref().map(|Host { canonical, .. }| canonical),
        version: match parts.version {
            Version::HTTP_10 => BackendVersion::Http10,
            _ => BackendVersion::Http11,
        },
        headers: &parts.headers,
        verbatim: view.listener.own_names(),
        upgrade: upgrade.as_ref(),
        framing,
        expectation,
        body_limit: limits.body_bytes,
        clean_trailers: view.listener.clean_trailers(),
        timeout: view.listener.plan.timeouts.request,
        window: exchange.window(group.shared.protocol)?,
        inflow: Inflow::new(limits.min_rate, connection.activity.meter()),
        preference,
    };
    let mut trace = Trace::begin();
    let answer = send(&outgoing, body, group, &mut trace).await;
    exchange.asked(&mut trace, answer.as_ref().ok().and_then(Answer::status));
    let answer = answer.map_err(|error| {
        tracing::debug!(server = ?trace.server.as_ref().map(|s| s.endpoint()), %error, "a request failed");
        Failure::from(&error)
    })?;
    let answer = match bridge {
        None => answer,
        Some(expected) => bridged(answer, &expected)?,
    };
    Ok((answer, chosen))
}

/// Whether the client waits for permission to send its body.
fn expectation(parts: &mut Parts) -> Result<Expectation, Failure> {
    let waits = request::expects_continue(parts.version, &mut parts.headers)?;
    Ok(match waits {
        Continue::Yes => Expectation::Continue,
        Continue::No => Expectation::None,
    })
}

/// Tells the backend what it is to know of a request: its name, what the client holds already, who asks and
/// how.
fn introduce(
    headers: &mut HeaderMap,
    host: Option<&Host>,
    connection: &Connection,
    view: &View,
    exchange: &mut Exchange,
) {
    let listener = &view.listener;
    if listener.plan.headers.request_id == Switch::On {
        let name = request_id::identify(headers, listener.sender(connection.client));
        exchange.identified(name);
    }
    if let CompressionPlan::On(_) = &listener.plan.compression {
        negotiate::restore_validators(headers);
    }
    let host = host.map(|host| &host.received);
    listener.forwarded.apply(headers, host, &connection.values);
}

/// Whether a request's host is one that the client was shown a certificate for, where that counts.
fn is_for_us(host: Option<&Host>, connection: &Connection) -> Result<(), Failure> {
    // A request without a host, as HTTP/1.0 allows, would get the backend's own default.
    let name = host.map_or("", Host::name);
    if connection.is_shown_for(name) {
        Ok(())
    } else {
        Err(Failure::MisdirectedRequest)
    }
}

/// A gRPC group is asked by HTTP/2 and knows no WebSocket.
fn suits(parts: &Parts, protocol: GroupProtocol) -> Result<(), Failure> {
    match protocol {
        GroupProtocol::Grpc if parts.version != Version::HTTP_2 => Err(Failure::VersionUnsupported),
        GroupProtocol::Grpc if parts.method == Method::CONNECT => Err(Failure::ProtocolUnknown),
        GroupProtocol::Http | GroupProtocol::Grpc => Ok(()),
    }
}

/// What the backend must answer to a WebSocket that comes over HTTP/2, which it is asked for as HTTP/1.1 does.
fn bridge(parts: &mut Parts) -> Result<Option<websocket::Expected>, Failure> {
    if parts.method != Method::CONNECT {
        return Ok(None);
    }
    let expected = websocket::ask(&mut parts.headers);
    expected.ok_or(Failure::ProtocolUnknown).map(Some)
}

/// An answer that would open a tunnel on HTTP/2 must open one on HTTP/1.1, to a server that knows WebSocket.
fn bridged(answer: Answer, expected: &websocket::Expected) -> Result<Answer, Failure> {
    let is_sound = match &answer {
        Answer::Switched(head, _) => expected.is_met(&head.headers),
        Answer::Response(head, _) => !head.status.is_success(),
        Answer::Reset(_) => true,
    };
    if is_sound {
        Ok(answer)
    } else {
        Err(Failure::BackendUpgrade)
    }
}

/// The WebSocket protocol, if a request asks for it. Other protocols are not tunnelled: an unknown tunnel
/// is a way around everything that is judged here.
fn websocket(parts: &Parts, body: &Incoming) -> Result<Option<HeaderValue>, Failure> {
    if parts.method == Method::CONNECT {
        return Ok(Some(HeaderValue::from_static("websocket")));
    }
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

/// An answer's body. What is left of a request over HTTP/2 goes on being sent beside it, by the stream's task.
fn plain(body: AnswerBody, pace: Option<&StreamPace>, exchanges: usize) -> PlainBody {
    match body {
        AnswerBody::Whole(bytes) => PlainBody::Whole(bytes),
        AnswerBody::Streaming(download) => {
            if let Some(pace) = pace {
                download
                    .borrow_mut()
                    .limit_room(pace.account().room(exchanges));
            }
            PlainBody::Streaming(download)
        }
        AnswerBody::Http2(mut download) => {
            if let (Some(upload), Some(pace)) = (download.rest_of_upload(), pace) {
                pace.accompany(Companion::Beside(Box::pin(upload)));
            }
            PlainBody::Http2(download)
        }
    }
}

/// An answer that came before its request was sent whole.
fn early(body: &PlainBody) -> Option<Rc<RefCell<Download>>> {
    match body {
        PlainBody::Streaming(download) if download.borrow().is_early() => Some(Rc::clone(download)),
        PlainBody::Streaming(_) | PlainBody::Whole(_) | PlainBody::Http2(_) => None,
    }
}

/// The response to the client, from a backend's answer.
fn respond(
    head: AnswerHead,
    body: PlainBody,
    request: &Parts,
    upgrade: Upgrade,
    connection: &Connection,
) -> Response<PlainBody> {
    let early = early(&body);
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    if let Some(reason) = head
        .reason
        .and_then(|reason| ReasonPhrase::try_from(reason).ok())
    {
        response.extensions_mut().insert(reason);
    }
    hop_by_hop::clean_response(response.headers_mut());
    if request.version != Version::HTTP_2
        && let Some(download) = early.clone()
    {
        let upload = move |cx: &mut Context<'_>| download.borrow_mut().poll_upload(cx);
        connection.activity.go_beside(upload);
    }
    // Bytes sent after an upgrade that was refused must not be taken for the next request (attacks.md row 10).
    if request.version != Version::HTTP_2 && (early.is_some() || upgrade == Upgrade::Asked) {
        connection.activity.body_left_unread();
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Decides whether the answer is compressed, and makes its fields say so. Where a compressor does not fit
/// into what its connection may hold, the next one is tried.
fn compress<'a>(
    response: &mut Response<PlainBody>,
    asked: &Asked,
    view: &'a View,
    pace: Option<&StreamPace>,
) -> Option<Compression<'a>> {
    let (CompressionPlan::On(settings), Some(mut encodings)) =
        (&view.listener.plan.compression, asked.encodings)
    else {
        return None;
    };
    let (status, length) = (response.status(), response.body().size_hint().exact());
    let (decision, compression) = loop {
        let decision = Decision::new(encodings, status, response.headers(), length, settings);
        let Decision::Compress(algorithm) = decision else {
            break (decision, None);
        };
        let compression = Compression::draw(algorithm, settings, response.body(), pace);
        if compression.is_some() {
            break (decision, compression);
        }
        encodings = encodings.without(algorithm);
    };
    decision.apply(response.headers_mut());
    negotiate::confirm(
        response.status(),
        response.headers_mut(),
        asked.held.as_ref(),
    );
    compression
}

/// Answers 101 and leaves the backend's side for when the client's stream is free.
fn switch(head: AnswerHead, mut tunnel: Tunnel, connection: &Connection) -> Response<ResponseBody> {
    tunnel.exchange.answered(head.status);
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
    connection.activity.becomes_tunnel();
    connection.leave_tunnel(tunnel);
    response
}

/// Answers 200, upon which the HTTP/2 stream's task becomes the tunnel.
fn take_over(
    head: AnswerHead,
    mut tunnel: Tunnel,
    stream: OnUpgrade,
    pace: Rc<StreamPace>,
    connection: Rc<Connection>,
) -> Response<ResponseBody> {
    tunnel.exchange.answered(StatusCode::OK);
    let mut response = Response::new(ResponseBody::none());
    *response.headers_mut() = head.headers;
    hop_by_hop::clean_response(response.headers_mut());
    websocket::translate_answer(response.headers_mut());
    pace.answered();
    let sent = Rc::clone(&pace);
    pace.accompany(Companion::Tunnel(Box::pin(async move {
        let Ok(stream) = stream.await else {
            tunnel.exchange.failed(Failure::ClientGone);
            return Parting::Reset;
        };
        let mut stream = TakenOver::new(stream, sent);
        // The connection's end ends its streams: nobody else is to be woken.
        match tunnel
            .carry(&mut stream, Bytes::new(), &connection, |_| {})
            .await
        {
            Ending::Closed => Parting::Ended,
            Ending::Broken | Ending::Idle | Ending::Cut => Parting::Reset,
        }
    })));
    response
}

/// How much of a request's body had come with its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyCame {
    Whole,
    InPart,
}

impl BodyCame {
    fn of(body: &Incoming) -> Self {
        if body.is_end_stream() {
            Self::Whole
        } else {
            Self::InPart
        }
    }
}

/// What becomes of the connection after an answer of ours. What may follow a request whose body was not
/// read, or that asked for a tunnel and may have used it already, is not another request.
fn after(failure: Failure, request: &Parts, body: BodyCame, upgrade: Upgrade) -> Afterwards {
    if request.version == Version::HTTP_2 {
        Afterwards::Keep
    } else if body == BodyCame::InPart
        || upgrade == Upgrade::Asked
        || request.method == Method::CONNECT
    {
        Afterwards::Close
    } else {
        Afterwards::of(failure)
    }
}

/// The answer of ours to a request that failed.
fn refuse(
    failure: Failure,
    request: &Parts,
    afterwards: Afterwards,
    connection: &Connection,
) -> Response<PlainBody> {
    if afterwards == Afterwards::Close {
        connection.activity.body_left_unread();
    }
    let response = reply(failure, afterwards);
    if request.version == Version::HTTP_2 && request.method == Method::HEAD {
        return response.map(|_| PlainBody::Whole(Bytes::new()));
    }
    response.map(PlainBody::Whole)
}
