//! The rule that takes a request: what is done instead of asking a backend, on the way to one, and to its
//! answer, in the order of alb.md section 15.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt::Write as _;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use tokio::time::Instant;

use crate::addr::ClientIp;
use crate::backend::balance::Preference;
use crate::backend::mirror::{LONGEST_BODY, Original};
use crate::backend::request_body::RequestBody;
use crate::backend::send::Outgoing;
use crate::config::plan::GroupId;
use crate::config::rule::{Action, RequestRule, Rewrite, RuleId};
use crate::connection::{Connection, View};
use crate::exchange::Ruled;
use crate::failure::Failure;
use crate::http::reply;
use crate::http::request::{self, Host};
use crate::response_body::PlainBody;
use crate::route::limit::Verdict;
use crate::route::router::{Captures, Routed};
use crate::route::split::Split;
use crate::route::template::{self, Given};
use crate::transform::cors::{self, Said};
use crate::transform::edits::{self, Sources};

/// Whose request it is, and what it is served from.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// The client's connection.
    pub connection: &'a Connection,
    /// The listener and its groups.
    pub view: &'a View,
}

/// A request that a rule has taken.
#[derive(Debug)]
pub struct Taken<'a> {
    /// Which rule.
    pub id: RuleId,
    /// The rule.
    pub rule: &'a RequestRule,
    /// Whom the request is for; an HTTP/1.0 request may be for nobody.
    pub host: Option<Host>,
    captures: Captures,
    said: Option<Said>,
    /// Whom the request is attributed to, once somebody has asked.
    client: OnceCell<ClientIp>,
}

/// What becomes of a request that was taken.
#[derive(Debug)]
pub enum Course {
    /// It goes to this group.
    Forward(GroupId),
    /// It is answered by lockgate.
    Answer(Response<Bytes>, Ruled),
}

impl Taken<'_> {
    /// Whom the request is attributed to; asked for the first time before its fields are changed.
    pub fn client_ip(&self, parts: &Parts, site: Site<'_>) -> ClientIp {
        *self.client.get_or_init(|| retrieve(parts, site))
    }
}

/// Judges a request, and finds the rule that takes it, by what was received. Whom it is attributed to may be
/// known already.
pub fn take<'a>(
    parts: &Parts,
    site: Site<'a>,
    known: Option<ClientIp>,
) -> Result<Taken<'a>, Failure> {
    let listener = &site.view.listener;
    let host = request::check(parts, &listener.plan.limits)?;
    // A request without a host, as HTTP/1.0 allows, would get the backend's own default.
    if !site
        .connection
        .is_shown_for(host.as_ref().map_or("", Host::name))
    {
        return Err(Failure::MisdirectedRequest);
    }
    let name = host.as_ref().map(Host::name);
    let client = known.map_or_else(OnceCell::new, OnceCell::from);
    let asked = || client.get_or_init(|| retrieve(parts, site)).ip();
    let Routed { rule: id, captures } = listener.route(parts, name, &asked);
    let rule = listener.plan.rules.rule(id);
    if rule.mirror.is_some() || !listener.plan.rules.response.is_empty() {
        // They ask when the fields are changed.
        asked();
    }
    Ok(Taken {
        id,
        rule,
        host,
        captures,
        said: rule
            .cors
            .as_ref()
            .map(|cors| cors::judge(cors, &parts.headers)),
        client,
    })
}

fn retrieve(parts: &Parts, site: Site<'_>) -> ClientIp {
    site.view
        .listener
        .client_ip(&parts.headers, site.connection.client)
}

/// What the rule does with its request; where that is forwarded, it is rewritten first.
pub fn course(taken: &mut Taken<'_>, parts: &mut Parts, site: Site<'_>) -> Result<Course, Failure> {
    let listener = &site.view.listener;
    if let Some(limiter) = listener.limiter(taken.id) {
        let client = || taken.client_ip(parts, site).ip();
        match limiter.judge(client, Instant::now()) {
            Verdict::Pass => {}
            Verdict::Refuse => return Err(Failure::TrafficLimited),
        }
    }
    if let (Some(cors), Some(said)) = (&taken.rule.cors, &taken.said)
        && let Some(fields) = cors::preflight(cors, said, &parts.method, &parts.headers)
    {
        return Ok(Course::Answer(reply::preflight(fields), Ruled::Preflight));
    }
    match &taken.rule.action {
        Action::Redirect(redirect) => {
            let location = template::location(redirect, &given(taken, parts, site))?;
            if location.len() > listener.plan.limits.header_line_bytes {
                return Err(Failure::TargetTooLong);
            }
            let answer = reply::redirect(redirect.code, location);
            Ok(Course::Answer(answer, Ruled::Redirect))
        }
        Action::FixedResponse(fixed) => {
            check_refusal(&parts.method, fixed.code)?;
            Ok(Course::Answer(reply::fixed(fixed), Ruled::FixedResponse))
        }
        Action::Forward(_) => {
            if let Some(rewrite) = &taken.rule.rewrite {
                apply(rewrite, taken, parts, site)?;
            }
            let split = listener.router.split(taken.id);
            let group = split.and_then(Split::pick).ok_or(Failure::NoServer)?;
            Ok(Course::Forward(group))
        }
    }
}

/// Any 2xx that answers CONNECT opens a tunnel (RFC 9110 9.3.6), here one to nobody.
fn check_refusal(method: &Method, code: StatusCode) -> Result<(), Failure> {
    if *method == Method::CONNECT && code.is_success() {
        return Err(Failure::ProtocolUnknown);
    }
    Ok(())
}

/// What a request gives to templates.
fn given<'a>(taken: &'a Taken<'_>, parts: &'a Parts, site: Site<'_>) -> Given<'a> {
    let key = site.view.listener.key;
    let path = parts.uri.path();
    let capture = |number| readable(taken.captures.of(path.as_bytes(), number));
    Given {
        scheme: key.scheme(),
        host: taken.host.as_ref().map(Host::name),
        port: key.port(),
        path,
        query: parts.uri.query(),
        captures: [capture(1), capture(2), capture(3)],
    }
}

/// A capture as text: one that has cut a character in two has its bytes percent-encoded.
fn readable(capture: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = str::from_utf8(capture) {
        return Cow::Borrowed(text);
    }
    let mut text = String::new();
    for byte in capture {
        if byte.is_ascii() {
            text.push(char::from(*byte));
        } else {
            // A string can always be written to.
            let _infallible = write!(text, "%{byte:02X}");
        }
    }
    Cow::Owned(text)
}

/// Makes a request one for what the rule says. It is judged as if it had come that way (alb.md decision 13).
fn apply(
    rewrite: &Rewrite,
    taken: &mut Taken<'_>,
    parts: &mut Parts,
    site: Site<'_>,
) -> Result<(), Failure> {
    let rewritten = template::rewrite(rewrite, &given(taken, parts, site))?;
    if request::is_unsafe(rewritten.path.as_bytes()) {
        return Err(Failure::PathUnsafe);
    }
    if rewritten.target.len() > site.view.listener.plan.limits.header_line_bytes {
        return Err(Failure::TargetTooLong);
    }
    if let Some(host) = rewritten.host {
        let host = HeaderValue::try_from(host).map_err(|_| Failure::HostInvalid)?;
        let received = taken.host.take().map(|host| host.received);
        let rewritten = request::parse_host(&host)?;
        taken.host = Some(Host {
            // What the client asked for is still told as that.
            received: received.unwrap_or(host),
            ..rewritten
        });
    }
    let target = Uri::try_from(rewritten.target);
    parts.uri = target.map_err(|_| Failure::RequestMalformed)?;
    Ok(())
}

/// Edits the fields of a request from which all is gone that its client may not send, and to which nothing of
/// lockgate's own was added.
pub fn edit(taken: &Taken<'_>, parts: &mut Parts, site: Site<'_>) {
    edits::edit_request(
        &taken.rule.edits,
        &mut parts.headers,
        &sources(taken.host.as_ref(), site),
    );
}

fn sources<'a>(host: Option<&'a Host>, site: Site<'a>) -> Sources<'a> {
    Sources {
        host: host.map(|host| &host.received),
        client: &site.connection.values,
        listener: &site.view.listener.forwarded,
    }
}

/// A request's body, copied on its way if the request is copied for another group.
pub fn mirrored(
    (parts, taken): (&Parts, &Taken<'_>),
    outgoing: &Outgoing<'_>,
    body: Incoming,
    site: Site<'_>,
) -> RequestBody {
    let Some(group) = taken.rule.mirror else {
        return RequestBody::Client(body);
    };
    // A tunnel has no copy.
    let is_copied = outgoing.upgrade.is_none();
    let length = body.size_hint().exact();
    let room = is_copied.then(|| site.connection.mirrors().room(length));
    let Some(room) = room.flatten() else {
        return RequestBody::Client(body);
    };
    let listener = &site.view.listener;
    let group = site.view.live.group(group).clone();
    let query = parts.uri.query();
    let preference = taken
        .client
        .get()
        .map_or_else(Preference::default, |client| {
            group.shared.balance.preference(query, || client.ip())
        });
    let own_names = listener.clean_trailers().own_names;
    let original = Original::of(outgoing, own_names, preference);
    if body.is_end_stream() {
        room.send(original, Bytes::new(), group);
        return RequestBody::Client(body);
    }
    RequestBody::copied(body, LONGEST_BODY, move |copy| match copy {
        Some(copy) => room.send(original, copy, group),
        None => room.give_up(),
    })
}

/// Changes a backend's answer as the first response rule whose conditions hold says. Whether it was replaced.
pub fn amend(
    response: &mut Response<PlainBody>,
    parts: &Parts,
    taken: &Taken<'_>,
    site: Site<'_>,
) -> Result<Option<Ruled>, Failure> {
    let listener = &site.view.listener;
    let Some(client) = taken.client.get() else {
        return Ok(None);
    };
    let name = taken.host.as_ref().map(Host::name);
    let request = (parts, name, client.ip());
    let rule = listener.response_rule(request, response.status(), response.headers());
    let Some(rule) = rule else {
        return Ok(None);
    };
    if let Some(fixed) = &rule.fixed_response {
        check_refusal(&parts.method, fixed.code)?;
        let mut answer = reply::fixed(fixed);
        // Over HTTP/2 hyper sends whatever body it is given.
        if parts.version == Version::HTTP_2 && parts.method == Method::HEAD {
            *answer.body_mut() = Bytes::new();
        }
        replace(response, answer);
    }
    let sources = sources(taken.host.as_ref(), site);
    let headers = response.headers_mut();
    edits::edit_response(&rule.edits, headers, &parts.headers, &sources);
    Ok(rule.fixed_response.as_ref().map(|_| Ruled::FixedResponse))
}

/// Puts an answer in place of a backend's, whose connection ends with it unless all of it has come.
fn replace(response: &mut Response<PlainBody>, fixed: Response<Bytes>) {
    let connection = response.headers_mut().remove(CONNECTION);
    if let PlainBody::Streaming(download) = response.body() {
        // The client's body is still read to its end, but not sent on.
        download.borrow_mut().abandon_upload();
    }
    *response = fixed.map(PlainBody::Whole);
    if let Some(value) = connection {
        response.headers_mut().insert(CONNECTION, value);
    }
    response.extensions_mut().remove::<ReasonPhrase>();
}

/// Tells a browser whether the page that asked may have the answer, where the rule has a say in it.
pub fn say_cors<B>(response: &mut Response<B>, taken: Option<&Taken<'_>>) {
    if let Some(Taken { rule, said, .. }) = taken
        && let (Some(cors), Some(said)) = (&rule.cors, said)
    {
        cors::apply(cors, said, response.headers_mut());
    }
}
