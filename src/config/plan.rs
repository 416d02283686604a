//! What was meant: the configuration with every default filled in, every name resolved to an id and
//! every number inside its bounds. Pure data: no file is read here and nothing runs.
//!
//! `resolve` makes it from the `document`; `daemon::generation` makes from it what runs. Two plans are
//! equal if they mean the same, wherever in the file it was written.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use crate::addr::BackendAddr;
use crate::config::backend_tls::BackendTlsPlan;
use crate::config::balance::{DrainPlan, Scheduler, StickyPlan};
use crate::config::client::{AccessPlan, ClientIpPlan, ProxyProtocol};
use crate::config::client_auth::{ClientAuthPlan, ClientCertPlan};
use crate::config::health::HealthCheckPlan;
use crate::config::rule::RulesPlan;
use crate::config::tls_policy::TlsPolicy;

pub use crate::config::process::{
    AccessLogPlan, LogFormat, LogPlan, LogTarget, ResolverPlan, SecretPlan, ServerPlan, Workers,
};

/// Everything a configuration file asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// `[server]`
    pub server: ServerPlan,
    /// `[[certificate]]`, indexed by [`CertificateId`]
    pub certificates: Vec<CertificatePlan>,
    /// `[[listener]]`
    pub listeners: Vec<ListenerPlan>,
    /// `[[server_group]]`, indexed by [`GroupId`]
    pub groups: Vec<GroupPlan>,
}

impl Plan {
    /// The certificate an id stands for; ids are only made by the resolver, for its own plan.
    #[expect(
        clippy::indexing_slicing,
        reason = "the resolver mints ids from this vector's indices"
    )]
    pub fn certificate(&self, id: CertificateId) -> &CertificatePlan {
        &self.certificates[id.0]
    }

    /// The server group an id stands for; ids are only made by the resolver, for its own plan.
    #[expect(
        clippy::indexing_slicing,
        reason = "the resolver mints ids from this vector's indices"
    )]
    pub fn group(&self, id: GroupId) -> &GroupPlan {
        &self.groups[id.0]
    }
}

/// Where in the file something was written, as byte offsets: for diagnostics only, so any two are equal.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl PartialEq for Origin {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl From<std::ops::Range<usize>> for Origin {
    fn from(range: std::ops::Range<usize>) -> Self {
        Self {
            start: range.start,
            end: range.end,
        }
    }
}

/// An index into [`Plan::certificates`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CertificateId(pub usize);

/// An index into [`Plan::groups`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupId(pub usize);

/// `[[certificate]]`
#[derive(Clone, Debug, PartialEq)]
pub struct CertificatePlan {
    /// `name`
    pub name: String,
    /// Where chain and key come from.
    pub source: CertificateSource,
    /// Where the table stands.
    pub origin: Origin,
}

/// Where a certificate chain and its key come from.
#[derive(Clone, Debug, PartialEq)]
pub enum CertificateSource {
    /// `cert` and `key`: PEM files, their paths made absolute by the configuration file's folder.
    Files {
        /// The chain, leaf first.
        cert: PathBuf,
        /// Where `cert` was written.
        cert_origin: Origin,
        /// The private key.
        key: PathBuf,
        /// Where `key` was written.
        key_origin: Origin,
    },
    /// `self_signed`: DNS names and IP addresses for a certificate made in memory.
    SelfSigned(Vec<String>),
}

/// `[[listener]]`
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerPlan {
    /// `name`
    pub name: String,
    /// `protocol`, with what only that protocol has
    pub protocol: ListenerProtocol,
    /// `address`
    pub address: ListenAddress,
    /// `port`
    pub port: u16,
    /// `tags`
    pub tags: BTreeMap<String, String>,
    /// `[[listener.rule]]`, and `server_group`, which stands for the last
    pub rules: RulesPlan,
    /// `idle_timeout` and its kin
    pub timeouts: Timeouts,
    /// `proxy_protocol`
    pub proxy_protocol: ProxyProtocol,
    /// `[listener.access]`
    pub access: AccessPlan,
    /// `[listener.client_ip]`
    pub client_ip: ClientIpPlan,
    /// `loop_detection`
    pub loop_detection: Switch,
    /// `[listener.compression]`
    pub compression: CompressionPlan,
    /// `[listener.headers]`
    pub headers: HeadersPlan,
    /// `[listener.limits]`
    pub limits: Limits,
    /// Where the table stands.
    pub origin: Origin,
    /// Where its port (or address) was written.
    pub address_origin: Origin,
}

/// A listener's protocol.
#[derive(Clone, Debug, PartialEq)]
pub enum ListenerProtocol {
    /// Plain HTTP/1.
    Http,
    /// HTTP/1 and HTTP/2 over TLS.
    Https(HttpsPlan),
}

/// What only an HTTPS listener has.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpsPlan {
    /// `certificates`: the first is the default; never empty.
    pub certificates: Vec<CertificateId>,
    /// `tls_policy`
    pub tls_policy: TlsPolicy,
    /// `sni_strict`
    pub unknown_name: UnknownName,
    /// `http2`
    pub http2: Http2,
    /// `[listener.client_auth]`
    pub client_auth: ClientAuthPlan,
}

/// What becomes of clients that name no host, or one that no certificate covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownName {
    /// They get the default certificate.
    Default,
    /// Their handshake is refused.
    Refuse,
}

/// Whether a listener offers HTTP/2 by ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http2 {
    /// `h2` and `http/1.1` are offered.
    Offered,
    /// Only `http/1.1` is offered.
    Off,
}

/// The addresses a listener is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// Every IPv4 and IPv6 address; IPv4 alone where the machine has no IPv6.
    Any,
    /// Just this one; `::` takes IPv4 too, as on every Unix.
    Ip(IpAddr),
}

/// A listener's timeouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// `idle_timeout`: between requests of an HTTP/1 connection.
    pub idle: Duration,
    /// `http2_idle_timeout`: an HTTP/2 connection without a stream.
    pub http2_idle: Duration,
    /// `request_timeout`: between two reads of the backend's response, of the client's body, or two writes to the client.
    pub request: Duration,
    /// `handshake_timeout`: from accept to the end of the TLS handshake.
    pub handshake: Duration,
    /// `header_timeout`: from a head's first byte to its last.
    pub header: Duration,
}

/// `[listener.compression]`
#[derive(Clone, Debug, PartialEq)]
pub enum CompressionPlan {
    /// `enabled = false`
    Off,
    /// `enabled = true`
    On(CompressionSettings),
}

/// What is compressed, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct CompressionSettings {
    /// `algorithms`, in order of preference; never empty.
    pub algorithms: Vec<Algorithm>,
    /// `min_length`: the smallest Content-Length that is compressed.
    pub min_length: NonZeroU64,
    /// `gzip_level`, 1 to 9
    pub gzip_level: u8,
    /// `brotli_quality`, 0 to 11
    pub brotli_quality: u8,
    /// `brotli_exclude_types`: lower-case media types; `image/*` stands for a whole family.
    pub brotli_exclude_types: Vec<String>,
    /// `compress_unknown_length`
    pub unknown_length: UnknownLength,
}

/// A content coding that lockgate can produce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// `br`
    Brotli,
    /// `gzip`
    Gzip,
    /// `zstd`
    Zstd,
}

/// What happens to responses that do not say their length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownLength {
    /// They are compressed.
    Compress,
    /// They pass as they are.
    Pass,
}

/// `[listener.headers]`: what is added to requests for the backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadersPlan {
    /// `x_forwarded_for`
    pub x_forwarded_for: ForwardedFor,
    /// `x_forwarded_proto`
    pub x_forwarded_proto: Switch,
    /// `x_forwarded_port`
    pub x_forwarded_port: Switch,
    /// `x_forwarded_host`
    pub x_forwarded_host: Switch,
    /// `x_forwarded_client_srcport`
    pub x_forwarded_client_srcport: Switch,
    /// `slb_id`
    pub slb_id: Switch,
    /// `request_id`
    pub request_id: Switch,
    /// `tls_protocol`
    pub tls_protocol: Switch,
    /// `tls_cipher`
    pub tls_cipher: Switch,
    /// `client_cert_*`
    pub client_cert: ClientCertPlan,
}

/// What happens to X-Forwarded-For.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedFor {
    /// The client's address is appended.
    Append,
    /// The header is removed.
    Remove,
    /// The header passes as it came.
    Keep,
}

/// A header that is set by lockgate, or left to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Set, whatever the client sent.
    On,
    /// What the client sent passes.
    Off,
}

/// `[listener.limits]`: what a client may ask of a listener, the same over HTTP/1 and HTTP/2.
///
/// Every number is the largest that is still taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `header_bytes`: a whole head as it stands on the wire of HTTP/1.1; at most a quarter of `connection_memory`.
    pub header_bytes: usize,
    /// `header_line_bytes`: one field line, or the request target.
    pub header_line_bytes: usize,
    /// `header_count`: fields of a head; every crumb of a cookie is one.
    pub header_count: usize,
    /// `body_bytes`: a request's body.
    pub body_bytes: u64,
    /// `min_rate`: bytes a second that a client has to send or take while it is waited for; `None`: as slowly as
    /// it likes.
    pub min_rate: Option<NonZeroU64>,
    /// `connection_memory`: bytes that one connection may make lockgate hold.
    pub connection_memory: usize,
    /// `http2_max_streams`: requests of one connection at the same time.
    pub http2_max_streams: u32,
    /// `requests_per_connection`; `None`: no limit.
    pub requests_per_connection: Option<NonZeroU64>,
}

/// `[[server_group]]`
#[derive(Clone, Debug, PartialEq)]
pub struct GroupPlan {
    /// `name`
    pub name: String,
    /// `protocol`
    pub protocol: GroupProtocol,
    /// `[server_group.tls]`: how connections are secured; `None` unless the protocol is `https`.
    pub tls: Option<BackendTlsPlan>,
    /// `servers`
    pub servers: Vec<ServerEntry>,
    /// `scheduler`
    pub scheduler: Scheduler,
    /// `sticky_session`
    pub sticky: StickyPlan,
    /// `connection_drain`
    pub drain: DrainPlan,
    /// `keepalive` and `keepalive_idle`
    pub keepalive: Keepalive,
    /// `connect_timeout`
    pub connect_timeout: Duration,
    /// `max_connections_per_server`, in all workers together; `None`: no limit.
    pub max_connections_per_server: Option<NonZeroUsize>,
    /// `retries`: how many other servers are tried after a failed connect.
    pub retries: u8,
    /// `[server_group.health_check]`
    pub health_check: HealthCheckPlan,
    /// Where the table stands.
    pub origin: Origin,
}

/// What the servers of a group speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupProtocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/1.1 over TLS.
    Https,
    /// HTTP/2 in the clear, by prior knowledge, for requests that come over HTTP/2.
    Grpc,
}

/// One server of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerEntry {
    /// `address`
    pub address: BackendAddr,
    /// `weight`, 0 to 100; 0 takes no requests.
    pub weight: u8,
    /// Where the table stands.
    pub origin: Origin,
}

/// What becomes of a connection to a backend after an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keepalive {
    /// It is closed.
    Off,
    /// It is kept for the next exchange, idle for at most so long.
    Idle(Duration),
}
