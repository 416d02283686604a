//! One request, from top to bottom.
//!
//! Read aloud, this is the product: a request is judged, cleaned and told who its client is; a backend
//! answers it; the answer is cleaned, perhaps compressed, and sent. Every failure on the way becomes an
//! answer of ours by the one table in `failure`.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Context;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::upgrade::OnUpgrade;

use crate::backend::http1::download::{AnswerBody, Download};
use crate::backend::http1::names::Verbatim;
use crate::backend::http1::request::{BackendVersion, BodyFraming};
use crate::backend::http1::upload::Expectation;
use crate::backend::send::{Answer, AnswerHead, Outgoing, Trace, send};
use crate::config::plan::{CompressionPlan, GroupId, GroupProtocol, Switch};
use crate::config::rule::RequestRule;
use crate::connection::{Connection, Tunnel, View};
use crate::exchange::{Exchange, Ruled, log_refused};
use crate::failure::Failure;
use crate::http::activity::Closing;
use crate::http::http2::{Companion, StreamPace};
use crate::http::reply::{Afterwards, reply};
use crate::http::request::{self, Continue, Host};
use crate::pace::Inflow;
use crate::response_body::{Compression, PlainBody, ResponseBody};
use crate::rule::{self, Course, Site, Taken};
use crate::stay::{Kept, Stay};
use crate::transform::compression::negotiate::{self, Accepted, Decision};
use crate::transform::{hop_by_hop, request_id};
use crate::upgrade;

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
    let site = Site {
        connection: &connection,
        view: &view,
    };
    let mut asked = Asked::of(&parts, &body, &view);
    let mut taken = rule::take(&parts, site, exchange.client_ip());
    let outcome = match &mut taken {
        Ok(taken) => {
            asked.heed(taken.rule);
            exchange.taken_by(taken.id);
            answer(&mut parts, body, taken, site, &mut exchange).await
        }
        Err(failure) => Err(*failure),
    };
    let stream = parts.extensions.remove::<OnUpgrade>();
    let scene = Scene {
        request: parts,
        asked,
        taken: taken.ok(),
        site,
    };
    let mut response = match outcome {
        Ok(Outcome::Asked(Answer::Response(head, body), kept)) => {
            pass_on(head, body, (&scene, kept), exchange, pace)
        }
        Ok(Outcome::Asked(Answer::Reset(reason), _)) => {
            return Err(exchange.reset(Failure::BackendReset, reason));
        }
        // As for a head that there is no room for.
        Err(failure @ Failure::ConnectionMemory) => {
            return Err(exchange.reset(failure, h2::Reason::REFUSED_STREAM));
        }
        Ok(Outcome::Asked(Answer::Switched(mut head, backend, retiree), kept)) => {
            kept.tell(&mut head.headers, view.listener.key.scheme());
            let tunnel = Tunnel::new(backend, exchange, retiree);
            upgrade::open(head, tunnel, pace.zip(stream), &connection)
        }
        Ok(Outcome::Ruled(response, how)) => {
            exchange.ruled(Some(how));
            own(response, Afterwards::Keep, &scene, exchange, pace)
        }
        Err(failure) => refuse(failure, &scene, exchange, pace),
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

/// What an answer has to fit.
struct Scene<'a> {
    /// As it was sent to the backend, if it was.
    request: Parts,
    asked: Asked,
    taken: Option<Taken<'a>>,
    site: Site<'a>,
}

/// What a request asked for, in fields that are cleaned away before the answer comes and in its body.
struct Asked {
    upgrade: Upgrade,
    body: BodyCame,
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
    fn of(request: &Parts, body: &Incoming, view: &View) -> Self {
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
            body: BodyCame::of(body),
            encodings,
            held,
        }
    }

    /// The rule may switch compression off.
    fn heed(&mut self, rule: &RequestRule) {
        match rule.compression {
            Switch::On => {}
            Switch::Off => self.encodings = None,
        }
    }
}

/// What came of a request.
enum Outcome<'a> {
    /// A server was asked.
    Asked(Answer, Kept<'a>),
    /// Its rule answered.
    Ruled(Response<Bytes>, Ruled),
}

/// Answers a request that a rule has taken: by that rule, or by the group that it forwards to.
async fn answer<'a>(
    parts: &mut Parts,
    body: Incoming,
    taken: &mut Taken<'_>,
    site: Site<'a>,
    exchange: &mut Exchange,
) -> Result<Outcome<'a>, Failure> {
    match rule::course(taken, parts, site)? {
        Course::Forward(group) => {
            let (answer, kept) = forward(parts, body, (taken, group), site, exchange).await?;
            Ok(Outcome::Asked(answer, kept))
        }
        Course::Answer(mut response, how) => {
            match how {
                Ruled::Redirect | Ruled::FixedResponse => {
                    rule::say_cors(&mut response, Some(taken));
                }
                // It says all there is to say.
                Ruled::Preflight => {}
            }
            Ok(Outcome::Ruled(response, how))
        }
    }
}

/// Prepares a request, and sends it to a group.
async fn forward<'a>(
    parts: &mut Parts,
    body: Incoming,
    (taken, group): (&Taken<'_>, GroupId),
    site: Site<'a>,
    exchange: &mut Exchange,
) -> Result<(Answer, Kept<'a>), Failure> {
    let Site { connection, view } = site;
    let listener = &view.listener;
    let limits = &listener.plan.limits;
    let group = view.live.group(group);
    exchange.goes_to(&group.shared.name);
    suits(parts, group.shared.protocol)?;
    let expectation = expectation(parts)?;
    let upgrade = upgrade::websocket(parts, &body)?;
    let framing = framing(parts, &body);
    let stay = Stay::of(parts, group);
    let preference = stay.preference(parts, group, || taken.client_ip(parts, site).ip());
    hop_by_hop::clean_request(&mut parts.headers, listener.client_header());
    hop_by_hop::remove_names(&mut parts.headers, listener.own_names());
    rule::edit(taken, parts, site);
    let bridge = upgrade::bridge(parts)?;
    listener.pass(taken.id, &mut parts.headers)?;
    let host = taken.host.as_ref();
    introduce(&mut parts.headers, host, site, exchange);

    let outgoing = Outgoing {
        method: match &bridge {
            Some(_) => &Method::GET,
            None => &parts.method,
        },
        target: &request::target(&parts.uri),
        host: host.map(|Host { canonical, .. }| canonical),
        version: match parts.version {
            Version::HTTP_10 => BackendVersion::Http10,
            _ => BackendVersion::Http11,
        },
        headers: &parts.headers,
        verbatim: Verbatim {
            own: listener.own_names(),
            inserted: &taken.rule.edits.insert,
        },
        upgrade: upgrade.as_ref(),
        framing,
        expectation,
        body_limit: limits.body_bytes,
        clean_trailers: listener.clean_trailers(),
        timeout: listener.plan.timeouts.request,
        window: exchange.window(group.shared.protocol)?,
        inflow: Inflow::new(limits.min_rate, connection.activity.meter()),
        preference,
    };
    let body = rule::mirrored((parts, taken), &outgoing, body, site);
    let mut trace = Trace::begin();
    let answer = send(&outgoing, body, group, &mut trace).await;
    exchange.asked(&mut trace, answer.as_ref().ok().and_then(Answer::status));
    let answer = answer.map_err(|error| {
        tracing::debug!(server = ?trace.server.as_ref().map(|s| s.endpoint()), %error, "a request failed");
        Failure::from(&error)
    })?;
    let answer = upgrade::bridged(answer, bridge.as_ref())?;
    Ok((answer, Kept::new(stay, trace.mark, group)))
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
    Site { connection, view }: Site<'_>,
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
    let received = host.map(|host| &host.received);
    listener
        .forwarded
        .apply(headers, received, &connection.values);
}

/// A gRPC group is asked by HTTP/2 and knows no WebSocket.
fn suits(parts: &Parts, protocol: GroupProtocol) -> Result<(), Failure> {
    match protocol {
        GroupProtocol::Grpc if parts.version != Version::HTTP_2 => Err(Failure::VersionUnsupported),
        GroupProtocol::Grpc if parts.method == Method::CONNECT => Err(Failure::ProtocolUnknown),
        GroupProtocol::Http | GroupProtocol::Https | GroupProtocol::Grpc => Ok(()),
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

/// Passes a backend's answer on.
fn pass_on(
    head: AnswerHead,
    body: AnswerBody,
    (scene, kept): (&Scene<'_>, Kept<'_>),
    mut exchange: Exchange,
    pace: Option<Rc<StreamPace>>,
) -> Response<ResponseBody> {
    let Scene { site, .. } = scene;
    let body = plain(body, pace.as_deref(), site.connection.activity.exchanges());
    let mut response = respond(head, body, scene);
    if let Some(taken) = &scene.taken {
        match rule::amend(&mut response, &scene.request, taken, *site) {
            Ok(ruled) => exchange.ruled(ruled),
            Err(failure) => return refuse(failure, scene, exchange, pace),
        }
    }
    kept.tell(response.headers_mut(), site.view.listener.key.scheme());
    rule::say_cors(&mut response, scene.taken.as_ref());
    let compression = compress(&mut response, &scene.asked, site.view, pace.as_deref());
    exchange.answered(response.status());
    response.map(|body| ResponseBody::new(body, compression, exchange, pace))
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
fn respond(head: AnswerHead, body: PlainBody, scene: &Scene<'_>) -> Response<PlainBody> {
    let (version, activity) = (scene.request.version, &scene.site.connection.activity);
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
    if version != Version::HTTP_2
        && let Some(download) = early.clone()
    {
        let upload = move |cx: &mut Context<'_>| download.borrow_mut().poll_upload(cx);
        activity.go_beside(upload);
    }
    // Bytes sent after an upgrade that was refused must not be taken for the next request (attacks.md row 10).
    if version != Version::HTTP_2 && (early.is_some() || scene.asked.upgrade == Upgrade::Asked) {
        activity.body_left_unread();
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

/// The answer to a request that failed.
fn refuse(
    failure: Failure,
    scene: &Scene<'_>,
    mut exchange: Exchange,
    pace: Option<Rc<StreamPace>>,
) -> Response<ResponseBody> {
    exchange.failed(failure);
    let mut response = reply(failure);
    rule::say_cors(&mut response, scene.taken.as_ref());
    own(response, Afterwards::of(failure), scene, exchange, pace)
}

/// An answer of ours on its way. `usual` is what becomes of the connection unless something may follow that
/// is not another request: the rest of a body that was not read, or bytes meant for a tunnel.
fn own(
    mut response: Response<Bytes>,
    usual: Afterwards,
    scene: &Scene<'_>,
    mut exchange: Exchange,
    pace: Option<Rc<StreamPace>>,
) -> Response<ResponseBody> {
    let Scene { request, asked, .. } = scene;
    let afterwards = if request.version == Version::HTTP_2 {
        Afterwards::Keep
    } else if asked.body == BodyCame::InPart
        || asked.upgrade == Upgrade::Asked
        || request.method == Method::CONNECT
    {
        Afterwards::Close
    } else {
        usual
    };
    if afterwards == Afterwards::Close {
        scene.site.connection.activity.body_left_unread();
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    exchange.answered(response.status());
    let is_head = request.version == Version::HTTP_2 && request.method == Method::HEAD;
    response.map(|body| {
        let body = if is_head { Bytes::new() } else { body };
        ResponseBody::new(PlainBody::Whole(body), None, exchange, pace)
    })
}
