//! The part of the plan that says what becomes of requests and answers: `[[listener.rule]]` (alb.md section 6).
//!
//! A rule is its conditions, all of which must hold, what is done on the way, and the one action that ends
//! it. What a pattern or a template means is `route`'s part; here they are only known to be well formed.

use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use regex::bytes::{Regex, RegexBuilder};

use crate::config::plan::{GroupId, Origin, Switch};
use crate::network::Networks;

/// A listener's rules; both lists stand in the order in which they are tried: smaller priority first.
#[derive(Clone, Debug, PartialEq)]
pub struct RulesPlan {
    /// `direction = "request"`; each has a condition at least.
    pub request: Vec<RequestRule>,
    /// What takes the requests that none of these does: the first request rule without conditions (what comes
    /// after it is never reached), else the one that `server_group` stands for.
    pub default: RequestRule,
    /// `direction = "response"`
    pub response: Vec<ResponseRule>,
}

/// Which of a listener's request rules: its place in [`RulesPlan::request`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RuleId(pub u32);

impl RuleId {
    /// The default rule.
    pub const DEFAULT: Self = Self(u32::MAX);
}

impl RulesPlan {
    /// The rule that an id stands for.
    pub fn rule(&self, id: RuleId) -> &RequestRule {
        let at = usize::try_from(id.0).ok();
        let rule = at.and_then(|at| self.request.get(at));
        rule.unwrap_or(&self.default)
    }
}

/// A rule about requests.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestRule {
    /// `name`
    pub name: String,
    /// `priority`, 1 to 10000, unique among the listener's rules; that of `server_group` is one more.
    pub priority: u16,
    /// What must hold, all of it; empty: always.
    pub conditions: Vec<Condition>,
    /// `traffic_limit`
    pub traffic_limit: Option<TrafficLimit>,
    /// `rewrite`; only with [`Action::Forward`]
    pub rewrite: Option<Rewrite>,
    /// `insert_headers` and `remove_headers`
    pub edits: HeaderEdits,
    /// `cors`
    pub cors: Option<Cors>,
    /// `mirror.server_group`
    pub mirror: Option<GroupId>,
    /// `compression`
    pub compression: Switch,
    /// `forward`, `redirect` or `fixed_response`
    pub action: Action,
    /// Where the table stands.
    pub origin: Origin,
}

/// A rule about answers, of backends only.
#[derive(Clone, Debug, PartialEq)]
pub struct ResponseRule {
    /// `name`
    pub name: String,
    /// `priority`, 1 to 10000, unique among the listener's rules
    pub priority: u16,
    /// What must hold of the request, as it was sent to the backend; all of it.
    pub request: Vec<Condition>,
    /// What must hold of the answer; all of it.
    pub response: Vec<ResponseCondition>,
    /// `insert_headers` and `remove_headers`
    pub edits: HeaderEdits,
    /// `fixed_response`: sent instead of what the backend answered.
    pub fixed_response: Option<FixedResponse>,
    /// Where the table stands.
    pub origin: Origin,
}

/// What must hold of a request; of several values one must match.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// `host`: without a port, whatever its case
    Host(Vec<Pattern>),
    /// `path`: as received, without the query
    Path(Vec<Pattern>),
    /// `method`
    Method(Vec<Method>),
    /// One of `header`: one of the fields of that name matches.
    Header(Named<HeaderName>),
    /// One of `query`: one of the parameters of that name matches; lower case
    Query(Named<String>),
    /// One of `cookie`: lower case
    Cookie(Named<String>),
    /// `source_ip`: the client's address, retrieved where the listener does that
    SourceIp(Networks),
}

impl Condition {
    /// What hosts it takes, if it is about that.
    pub fn hosts(&self) -> Option<&[Pattern]> {
        match self {
            Self::Host(patterns) => Some(patterns),
            Self::Path(_)
            | Self::Method(_)
            | Self::Header(_)
            | Self::Query(_)
            | Self::Cookie(_)
            | Self::SourceIp(_) => None,
        }
    }

    /// What paths it takes, if it is about that.
    pub fn paths(&self) -> Option<&[Pattern]> {
        match self {
            Self::Path(patterns) => Some(patterns),
            Self::Host(_)
            | Self::Method(_)
            | Self::Header(_)
            | Self::Query(_)
            | Self::Cookie(_)
            | Self::SourceIp(_) => None,
        }
    }
}

/// What must hold of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum ResponseCondition {
    /// `response_status`: in one of these ranges
    Status(Vec<RangeInclusive<u16>>),
    /// One of `response_header`
    Header(Named<HeaderName>),
}

/// A name and what its values are compared with.
#[derive(Clone, Debug, PartialEq)]
pub struct Named<N> {
    /// The field's, parameter's or cookie's name.
    pub name: N,
    /// One of them must match; never empty.
    pub values: Vec<Pattern>,
}

/// What a text is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// The same text.
    Exact(String),
    /// `*` stands for any run of characters, `?` for one.
    Wildcard(String),
    /// A regular expression, found anywhere in the text; it compiles.
    Regex(RegexText),
}

/// A regular expression as text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegexText {
    /// Without the leading `~` or `~*`.
    pub text: String,
    /// `~` or `~*`; in a host always [`Case::Ignored`].
    pub case: Case,
    /// How many captures it has.
    pub captures: usize,
}

/// The largest compiled regular expression, in bytes.
const REGEX_SIZE: usize = 1 << 18;
/// What a regular expression may remember while it matches, in bytes, for each thread.
const REGEX_CACHE: usize = 1 << 18;
/// How deep its groups may be nested.
const REGEX_DEPTH: u32 = 32;

impl RegexText {
    /// Makes it run. It sees bytes, as nginx's do: `.` is one byte, and classes are ASCII's.
    pub fn compile(&self) -> Result<Regex, regex::Error> {
        RegexBuilder::new(&self.text)
            .unicode(false)
            .case_insensitive(self.case == Case::Ignored)
            .size_limit(REGEX_SIZE)
            .dfa_size_limit(REGEX_CACHE)
            .nest_limit(REGEX_DEPTH)
            .build()
    }
}

/// Whether upper and lower case differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Case {
    /// They do.
    Told,
    /// They do not.
    Ignored,
}

/// `traffic_limit`: the rest is answered 503; at least one of them is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrafficLimit {
    /// `qps`: requests a second that the rule takes; `None`: no limit.
    pub qps: Option<u32>,
    /// `per_ip_qps`: of one client; smaller than `qps`; `None`: no limit.
    pub per_ip_qps: Option<u32>,
}

/// `rewrite`: what the backend is asked for instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// `host`
    pub host: Template,
    /// `path`
    pub path: Template,
    /// `query`
    pub query: Template,
}

/// A text with places that a request fills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(pub Vec<Segment>);

impl Template {
    /// What a place alone stands for.
    pub fn of(segment: Segment) -> Self {
        Self(vec![segment])
    }

    /// The numbers of the captures that it uses.
    pub fn captures(&self) -> impl Iterator<Item = u8> + '_ {
        self.0.iter().filter_map(|segment| match segment {
            Segment::Capture(number) => Some(*number),
            Segment::Literal(_)
            | Segment::Protocol
            | Segment::Host
            | Segment::Port
            | Segment::Path
            | Segment::Query => None,
        })
    }
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Text as it stands.
    Literal(String),
    /// `${protocol}`: `http` or `https`
    Protocol,
    /// `${host}`: without the port
    Host,
    /// `${port}`: the listener's
    Port,
    /// `${path}`: without the query
    Path,
    /// `${query}`: without the `?`
    Query,
    /// `${1}` to `${3}`: what a group of the path's regular expression took
    Capture(u8),
}

/// What is put into and taken out of the fields of a message, in this order: removals, then insertions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderEdits {
    /// `remove_headers`
    pub remove: Vec<HeaderName>,
    /// `insert_headers`
    pub insert: Vec<InsertHeader>,
}

/// One of `insert_headers`.
#[derive(Clone, Debug, PartialEq)]
pub struct InsertHeader {
    /// `name`
    pub name: HeaderName,
    /// The same as the file spells it, which HTTP/1.1 backends see (alb.md decision 2).
    pub spelling: Box<str>,
    /// `value`, `reference` or `system`
    pub value: InsertValue,
    /// `cover`
    pub existing: Existing,
}

/// What an inserted header says.
#[derive(Clone, Debug, PartialEq)]
pub enum InsertValue {
    /// `value`
    Literal(HeaderValue),
    /// `reference`: what this field of the request says, as received; nothing is inserted without it.
    Reference(HeaderName),
    /// `system`
    System(SystemValue),
}

/// What lockgate knows of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemValue {
    /// `client_src_ip`
    ClientSrcIp,
    /// `client_src_port`
    ClientSrcPort,
    /// `protocol`: `HTTP` or `HTTPS`
    Protocol,
    /// `slb_id`: the instance's name
    SlbId,
    /// `slb_port`: the listener's port
    SlbPort,
}

/// What becomes of a field of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It is replaced (`cover = true`).
    Replaced,
    /// It stays, the new one comes after it.
    Kept,
}

/// `cors`: what browsers are told about requests from other sites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// `allow_origin`
    pub allow_origin: AllowOrigin,
    /// `allow_methods`
    pub allow_methods: Vec<Method>,
    /// `allow_headers`
    pub allow_headers: AllowHeaders,
    /// `expose_headers`
    pub expose_headers: AllowHeaders,
    /// `allow_credentials`
    pub allow_credentials: Switch,
    /// `max_age` in seconds, -1 to 172800; -1: a browser remembers nothing.
    pub max_age: i32,
}

/// Whose pages may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowOrigin {
    /// `["*"]`
    Any,
    /// These; lower case; `*` in a host stands for any run of characters.
    Of(Vec<Pattern>),
}

/// A list of field names, or all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowHeaders {
    /// `["*"]`
    Any,
    /// These.
    Of(Vec<HeaderName>),
}

/// What ends a rule.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// `forward`
    Forward(Forward),
    /// `redirect`
    Redirect(Redirect),
    /// `fixed_response`
    FixedResponse(FixedResponse),
}

/// `forward`: to one of several groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// `groups`, 1 to 5
    pub groups: Vec<WeightedGroup>,
    /// `sticky`: how long a client stays with its group; `None`: it does not.
    pub sticky: Option<Duration>,
}

/// One of a rule's groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightedGroup {
    /// `server_group`
    pub group: GroupId,
    /// `weight`, 0 to 100
    pub weight: u8,
}

/// `redirect`: where the client is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `code`: 301, 302, 303, 307 or 308
    pub code: StatusCode,
    /// `protocol`
    pub protocol: RedirectProtocol,
    /// `host`
    pub host: Template,
    /// `port`
    pub port: RedirectPort,
    /// `path`
    pub path: Template,
    /// `query`
    pub query: Template,
}

/// The scheme of a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectProtocol {
    /// `${protocol}`: the request's own
    Same,
    /// `http`
    Http,
    /// `https`
    Https,
}

/// The port of a redirect; it is not written where it is the scheme's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectPort {
    /// `${port}`: the listener's
    Same,
    /// A number.
    Number(u16),
}

/// `fixed_response`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedResponse {
    /// `code`: 2xx, 4xx or 5xx
    pub code: StatusCode,
    /// `content_type`
    pub content_type: ContentType,
    /// `body`: at most 1024 bytes of ASCII
    pub body: Bytes,
}

/// The types that a fixed response may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// `text/plain`
    Plain,
    /// `text/css`
    Css,
    /// `text/html`
    Html,
    /// `application/javascript`
    JavaScript,
    /// `application/json`
    Json,
}
