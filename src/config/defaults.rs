//! The one place of every default and bound, each with the source of its rule.
//!
//! "ours" marks a value that no source gives: it stands in the settled interface (config.toml), or it is
//! a bound chosen to keep an obvious slip of the keyboard out.

use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::time::Duration;

use http::Method;

use crate::config::client::PeerTrust;
use crate::config::client_auth::{ClientAuthMode, ClientCertPlan, FingerprintHash, NamedHeader};
use crate::config::health::{CheckHost, HttpVersion, StatusClass};
use crate::config::plan::{
    AccessLogPlan, Algorithm, CompressionSettings, ForwardedFor, GroupProtocol, HeadersPlan, Http2,
    Limits, ListenAddress, LogFormat, LogPlan, LogTarget, ResolverPlan, SecretPlan, ServerPlan,
    Switch, Timeouts, UnknownLength, UnknownName, Workers,
};
use crate::config::resolve::CheckProtocol;
use crate::config::rule::Existing;
use crate::config::tls_policy::SystemPolicy;
use crate::config::value;

/// A default and the bounds of its key, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule<T> {
    /// What an absent key means.
    pub default: T,
    /// The smallest value that is taken.
    pub least: T,
    /// The largest value that is taken.
    pub most: T,
}

/// `workers`: as many as there are CPUs for the process (config.toml).
pub const WORKERS: Workers = Workers::Auto;
/// `workers` as a number; the upper bound is ours.
pub const WORKER_COUNT: Rule<u64> = Rule {
    default: 1,
    least: 1,
    most: 1024,
};
/// `drain_timeout`: 30 s (config.toml); bounds ours.
pub const DRAIN_TIMEOUT: Rule<Duration> = seconds(30, 0, 3600);
/// `shutdown_delay`: none (config.toml); bounds ours.
pub const SHUTDOWN_DELAY: Rule<Duration> = seconds(0, 0, 3600);
/// `secret_file`: none; keys are random (config.toml).
pub const SECRET: SecretPlan = SecretPlan::Own;
/// `resolver`: the system's (config.toml).
pub const RESOLVER: ResolverPlan = ResolverPlan::System;
/// The port of DNS servers that are named without one (RFC 1035 section 4.2).
pub const DNS_PORT: u16 = 53;
/// `max_connections`: from the limit on descriptors (config.toml); bounds ours.
pub const MAX_CONNECTIONS: Rule<u64> = Rule {
    default: 0,
    least: 0,
    most: 10_000_000,
};
/// `max_connections_per_ip`: no limit (config.toml); bounds ours.
pub const MAX_CONNECTIONS_PER_IP: Rule<u64> = MAX_CONNECTIONS;
/// `path` of the access log (config.toml).
pub const ACCESS_LOG_TARGET: LogTarget = LogTarget::Stdout;
/// `format` of the access log (config.toml).
pub const ACCESS_LOG_FORMAT: LogFormat = LogFormat::Json;
/// `level` of the log (config.toml).
pub const LOG_LEVEL: &str = "info";
/// `format` of the log (config.toml).
pub const LOG_FORMAT: LogFormat = LogFormat::Text;

/// `address`: every address, IPv4 and IPv6 (config.toml).
pub const ADDRESS: ListenAddress = ListenAddress::Any;
/// `port`: any TCP port (alb.md 1.1); the key is required, so the default is only an example.
pub const PORT: Rule<u16> = Rule {
    default: 443,
    least: 1,
    most: 65535,
};
/// `tls_policy` (alb.md decision 1).
pub const TLS_POLICY: SystemPolicy = SystemPolicy::Strict12With13;
/// `sni_strict`: no, unknown names get the default certificate (alb.md decision 11).
pub const UNKNOWN_NAME: UnknownName = UnknownName::Default;
/// `http2`: offered (alb.md 1.1).
pub const HTTP2: Http2 = Http2::Offered;
/// `mode` of `[listener.client_auth]`: a certificate is required (alb.md 5.5).
pub const CLIENT_AUTH_MODE: ClientAuthMode = ClientAuthMode::Required;
/// `idle_timeout`: 15 s, 1 to 600 (alb.md 1.1, decision 10).
pub const IDLE_TIMEOUT: Rule<Duration> = seconds(15, 1, 600);
/// `request_timeout`: 60 s, 1 to 600 (alb.md 1.1, decision 10).
pub const REQUEST_TIMEOUT: Rule<Duration> = seconds(60, 1, 600);
/// The upper bound of `idle_timeout` and `request_timeout` with `extended_timeouts` (alb.md decision 10).
pub const EXTENDED_TIMEOUT: Duration = Duration::from_secs(3600);
/// `http2_idle_timeout`: 180 s (alb.md decision 6); bounds ours.
pub const HTTP2_IDLE_TIMEOUT: Rule<Duration> = seconds(180, 1, 3600);
/// `handshake_timeout`: 10 s (config.toml); bounds ours.
pub const HANDSHAKE_TIMEOUT: Rule<Duration> = seconds(10, 1, 600);
/// `header_timeout`: 10 s (config.toml, alb.md decision 17); bounds ours.
pub const HEADER_TIMEOUT: Rule<Duration> = seconds(10, 1, 600);

/// `loop_detection`: on, as on ALB (alb.md 9.4).
pub const LOOP_DETECTION: Switch = Switch::On;
/// `header` of client_ip (alb.md 10), in lower case as field names are held.
pub const CLIENT_IP_HEADER: &str = "x-forwarded-for";
/// `require_trusted_peer`: no, as documented (alb.md decision 4).
pub const PEER_TRUST: PeerTrust = PeerTrust::Assumed;

/// `enabled` of compression: on (alb.md 1.1, `gzip_enabled`).
pub const COMPRESSION: Switch = Switch::On;
/// `algorithms`: Brotli before gzip (alb.md 4).
pub const ALGORITHMS: &[Algorithm] = &[Algorithm::Brotli, Algorithm::Gzip];
/// `min_length`: a Content-Length must exceed 1,024 bytes (alb.md 4); bounds ours.
pub const MIN_LENGTH: Rule<NonZeroU64> = Rule {
    default: NonZeroU64::MIN.saturating_add(1024),
    least: NonZeroU64::MIN,
    most: NonZeroU64::MIN.saturating_add((1 << 30) - 1),
};
/// `gzip_level` (config.toml); the bounds are zlib's.
pub const GZIP_LEVEL: Rule<u8> = Rule {
    default: 4,
    least: 1,
    most: 9,
};
/// `brotli_quality` (config.toml); the bounds are Brotli's.
pub const BROTLI_QUALITY: Rule<u8> = Rule {
    default: 4,
    least: 0,
    most: 11,
};
/// `compress_unknown_length`: no (alb.md decision 7).
pub const UNKNOWN_LENGTH: UnknownLength = UnknownLength::Pass;

/// `[listener.headers]`: X-Forwarded-For is appended to, every other header is off (alb.md 1.4).
pub const HEADERS: HeadersPlan = HeadersPlan {
    x_forwarded_for: ForwardedFor::Append,
    x_forwarded_proto: Switch::Off,
    x_forwarded_port: Switch::Off,
    x_forwarded_host: Switch::Off,
    x_forwarded_client_srcport: Switch::Off,
    slb_id: Switch::Off,
    request_id: Switch::Off,
    tls_protocol: Switch::Off,
    tls_cipher: Switch::Off,
    client_cert: ClientCertPlan {
        subject_dn: NamedHeader::Off,
        issuer_dn: NamedHeader::Off,
        fingerprint: NamedHeader::Off,
        fingerprint_hash: FingerprintHash::Sha1,
        client_verify: NamedHeader::Off,
        rfc9440: Switch::Off,
    },
};

/// The longest name of a user's own for a header of `client_cert_*` (alb.md 1.4).
pub const HEADER_NAME_LENGTH: usize = 40;
/// The documented names that such a header may not have (alb.md 1.4).
pub const FORBIDDEN_HEADER_NAMES: [&str; 18] = [
    "slb-id",
    "slb-ip",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-eip",
    "x-forwarded-port",
    "x-forwarded-client-srcport",
    "x-forwarded-host",
    "connection",
    "upgrade",
    "content-length",
    "transfer-encoding",
    "keep-alive",
    "te",
    "host",
    "cookie",
    "remoteip",
    "authority",
];
/// Further names that it may not have: of headers that lockgate sets itself, and of those that belong to one
/// hop or say how a message is read (alb.md 1.4, "Proposed").
pub const OWN_HEADER_NAMES: [&str; 19] = [
    "ali-cdn-real-ip",
    "alicloud-alb-trace",
    "client-cert",
    "client-cert-chain",
    "content-encoding",
    "content-type",
    "expect",
    "http2-settings",
    "proxy",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "traceparent",
    "tracestate",
    "trailer",
    "x-forwarded-tls-cipher",
    "x-forwarded-tls-protocol",
    "x-real-ip",
    "x-request-id",
];
/// `header_bytes`: 64 KiB (config.toml; answered 431, alb.md decision 18); bounds ours.
pub const HEADER_BYTES: Rule<usize> = Rule {
    default: 64 * 1024,
    least: 256,
    most: 1024 * 1024,
};
/// `header_line_bytes`: 32 KiB (config.toml; 400 for a field line, 414 for the target, alb.md decision 18); the
/// upper bound is the longest target that the HTTP library takes, the lower one is ours.
pub const HEADER_LINE_BYTES: Rule<usize> = Rule {
    default: 32 * 1024,
    least: 64,
    most: 65_534,
};
/// `header_count`: 100 (config.toml; 431, alb.md decision 18); bounds ours.
pub const HEADER_COUNT: Rule<usize> = Rule {
    default: 100,
    least: 1,
    most: 1000,
};
/// `body_bytes`: 50 GiB (config.toml; 413, alb.md decision 18); bounds ours.
pub const BODY_BYTES: Rule<u64> = Rule {
    default: 50 << 30,
    least: 1,
    most: 1 << 50,
};
/// `min_rate`: 256 bytes a second (config.toml); bounds ours.
pub const MIN_RATE: Rule<u64> = Rule {
    default: 256,
    least: 0,
    most: 1 << 30,
};
/// `connection_memory`: 1 MiB (config.toml); bounds ours.
pub const CONNECTION_MEMORY: Rule<usize> = Rule {
    default: 1024 * 1024,
    least: 64 * 1024,
    most: 1 << 30,
};
/// `http2_max_streams`: 128 (config.toml; RFC 9113 section 6.5.2 wants no fewer than 100); bounds ours.
pub const HTTP2_MAX_STREAMS: Rule<u32> = Rule {
    default: 128,
    least: 1,
    most: 1024,
};
/// `requests_per_connection`: no limit (alb.md decision 19); bounds ours.
pub const REQUESTS_PER_CONNECTION: Rule<u64> = Rule {
    default: 0,
    least: 0,
    most: u32::MAX as u64,
};

/// `weight`: 100, 0 to 100 (alb.md 7.1).
pub const WEIGHT: Rule<u8> = Rule {
    default: 100,
    least: 0,
    most: 100,
};
/// `protocol` of a server group: HTTP/1.1 (alb.md 7.1).
pub const GROUP_PROTOCOL: GroupProtocol = GroupProtocol::Http;
/// `enabled` of sticky_session: no (alb.md 7.3).
pub const STICKY_SESSION: Switch = Switch::Off;
/// `cookie` of an inserted sticky session (alb.md 7.3).
pub const STICKY_COOKIE: &str = "SERVERID";
/// The longest `cookie`, in characters (alb.md 7.3).
pub const COOKIE_NAME_LENGTH: usize = 200;
/// `enabled` of slow_start: no (alb.md 7.6).
pub const SLOW_START: Switch = Switch::Off;
/// `duration` of slow_start: 30 s, 30 to 900 (alb.md 7.6).
pub const SLOW_START_DURATION: Rule<Duration> = seconds(30, 30, 900);
/// `enabled` of connection_drain: no (alb.md 7.5).
pub const CONNECTION_DRAIN: Switch = Switch::Off;
/// `timeout` of connection_drain: 300 s, 0 to 900 (alb.md 7.5).
pub const DRAIN_SERVER_TIMEOUT: Rule<Duration> = seconds(300, 0, 900);
/// The longest `hash_query_parameter`, in characters; ours.
pub const QUERY_PARAMETER_LENGTH: usize = 128;
/// `verify` of connections to HTTPS servers: no, as for nginx (alb.md 7.7).
pub const VERIFY: Switch = Switch::Off;
/// `keepalive` of connections to backends: on (alb.md 7.7).
pub const KEEPALIVE: Switch = Switch::On;
/// `keepalive_idle`: 60 s (config.toml); bounds ours.
pub const KEEPALIVE_IDLE: Rule<Duration> = seconds(60, 1, 3600);
/// `connect_timeout`: 5 s (alb.md 1.3, where it is fixed); bounds ours, the lower one for backends next door.
pub const CONNECT_TIMEOUT: Rule<Duration> = Rule {
    default: Duration::from_secs(5),
    least: Duration::from_millis(100),
    most: Duration::from_secs(60),
};
/// `max_connections_per_server`: no limit (config.toml); bounds ours.
pub const MAX_CONNECTIONS_PER_SERVER: Rule<usize> = Rule {
    default: 0,
    least: 0,
    most: 1_000_000,
};
/// `retries`: two more servers (alb.md 7.2); bounds ours.
pub const RETRIES: Rule<u8> = Rule {
    default: 2,
    least: 0,
    most: 10,
};
/// `enabled` of a health check: on where the table is there (alb.md decision 23).
pub const HEALTH_CHECK: Switch = Switch::On;
/// `protocol` of a health check (alb.md 7.4).
pub(super) const CHECK_PROTOCOL: CheckProtocol = CheckProtocol::Http;
/// `interval`: 2 s, 1 to 50 (alb.md 7.4).
pub const CHECK_INTERVAL: Rule<Duration> = seconds(2, 1, 50);
/// `timeout` of a health check: 5 s, 1 to 300 (alb.md 7.4).
pub const CHECK_TIMEOUT: Rule<Duration> = seconds(5, 1, 300);
/// `healthy_threshold`: 3, 2 to 10 (alb.md 7.4).
pub const HEALTHY_THRESHOLD: Rule<u8> = Rule {
    default: 3,
    least: 2,
    most: 10,
};
/// `unhealthy_threshold`: 3, 2 to 10 (alb.md 7.4).
pub const UNHEALTHY_THRESHOLD: Rule<u8> = HEALTHY_THRESHOLD;
/// `port` of a health check: 0, the server's own (alb.md 7.4).
pub const CHECK_PORT: Rule<u16> = Rule {
    default: 0,
    least: 0,
    most: 65535,
};
/// `method` of an HTTP check (alb.md 7.4).
pub const CHECK_METHOD: Method = Method::HEAD;
/// `http_version` of an HTTP check (alb.md 7.4).
pub const CHECK_VERSION: HttpVersion = HttpVersion::Http11;
/// `path` of a health check (alb.md 7.4).
pub const CHECK_PATH: &str = "/";
/// The longest `path` or `host` of a health check, in characters (alb.md 7.4).
pub const CHECK_TEXT_LENGTH: usize = 80;
/// `host` of a health check: the server's address (alb.md 7.4).
pub const CHECK_HOST: CheckHost = CheckHost::ServerIp;
/// `codes` of an HTTP check (alb.md 7.4).
pub const CHECK_CODES: &[StatusClass] = &[StatusClass::Successful];
/// `codes` of a gRPC check: OK (alb.md 7.4).
pub const CHECK_GRPC_CODES: &[RangeInclusive<u8>] = &[0..=0];
/// The largest code of a gRPC check, and how many entries its `codes` may have (alb.md 7.4).
pub const LARGEST_GRPC_CODE: u8 = 99;
/// See [`LARGEST_GRPC_CODE`].
pub const MOST_GRPC_CODES: usize = 20;

/// `priority`, 1 to 10000 (alb.md 6.1); the key is required, so the default is only an example.
pub const PRIORITY: Rule<u16> = Rule {
    default: 10,
    least: 1,
    most: 10_000,
};
/// The name of the rule that `server_group` stands for.
pub const DEFAULT_RULE: &str = "default";
/// How long a `host` is, in characters (alb.md 6.2, section 13).
pub const HOST_PATTERN_LENGTH: (usize, usize) = (3, 256);
/// How long a `path` is, in characters (alb.md 6.2).
pub const PATH_PATTERN_LENGTH: (usize, usize) = (1, 128);
/// How long the name of a header in a rule is (alb.md 6.2, 6.3).
pub const RULE_HEADER_NAME_LENGTH: (usize, usize) = (1, 40);
/// How long the name of a query parameter or a cookie in a rule is (alb.md 6.2).
pub const PARAMETER_NAME_LENGTH: (usize, usize) = (1, 100);
/// How long the values of `header`, `query` and `cookie` are (alb.md 6.2; of a cookie's, the console's bound).
pub const VALUE_PATTERN_LENGTH: (usize, usize) = (1, 128);
/// The most addresses and networks in `source_ip` (alb.md 6.2).
pub const SOURCE_IPS: usize = 5;
/// The status codes of `response_status` (alb.md 6.2).
pub const STATUS: Rule<u16> = Rule {
    default: 200,
    least: 100,
    most: 599,
};
/// The methods of rules (alb.md 6.2, 6.3).
pub const METHODS: [&str; 7] = ["HEAD", "GET", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"];
/// The most groups of `forward` (alb.md 6.3).
pub const FORWARD_GROUPS: usize = 5;
/// `timeout` of sticky_session, and of `sticky` in `forward`: 1000 s, 1 to 86400 (alb.md 7.3, 6.3).
pub const STICKY_TIMEOUT: Rule<Duration> = seconds(1000, 1, 86_400);
/// `qps` and `per_ip_qps`, 1 to 1000000 (alb.md 6.3, section 13); absent: no limit.
pub const QPS: Rule<u32> = Rule {
    default: 1_000_000,
    least: 1,
    most: 1_000_000,
};
/// How long `path` and `query` of `redirect` and `rewrite` are, in characters (alb.md 6.3); an empty query is
/// none.
pub const TEMPLATE_LENGTH: usize = 128;
/// `port` of `redirect`, 1 to 65535 (alb.md 6.3).
pub const REDIRECT_PORT: Rule<u16> = PORT;
/// The longest `body` of `fixed_response`, in bytes (alb.md 6.3).
pub const FIXED_BODY_LENGTH: usize = 1024;
/// How long `value` of `insert_headers` is (alb.md 6.3).
pub const INSERTED_VALUE_LENGTH: (usize, usize) = (1, 128);
/// How long `reference` of `insert_headers` is (alb.md 6.3).
pub const REFERENCE_LENGTH: (usize, usize) = (1, 128);
/// `cover`: yes (alb.md decision 9).
pub const EXISTING: Existing = Existing::Replaced;
/// What no rule inserts, and no request rule removes: the documented names (alb.md 6.3), and ours: the header
/// that finds requests which come by again, and the one by which a client waits to be told to go on.
pub const KEPT_HEADERS: [&[&str]; 2] = [&FORBIDDEN_HEADER_NAMES, &["alicloud-alb-trace", "expect"]];
/// What response rules may not remove (alb.md 6.3).
pub const KEPT_RESPONSE_HEADERS: [&[&str]; 1] = [&[
    "connection",
    "upgrade",
    "content-length",
    "transfer-encoding",
]];
/// `allow_methods` of `cors` (alb.md 6.3).
pub const CORS_METHODS: [&str; 6] = ["GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"];
/// `allow_headers` of `cors` (alb.md 6.3).
pub const CORS_HEADERS: [&str; 9] = [
    "dnt",
    "x-customheader",
    "keep-alive",
    "user-agent",
    "x-requested-with",
    "if-modified-since",
    "cache-control",
    "content-type",
    "authorization",
];
/// `allow_credentials` of `cors`: no; ours, since yes opens a user's data to every allowed site.
pub const CORS_CREDENTIALS: Switch = Switch::Off;
/// `max_age` of `cors`: 172800 s, -1 to that (alb.md 6.3).
pub const CORS_MAX_AGE: (i32, RangeInclusive<i32>) = (172_800, -1..=172_800);

/// The longest name of a listener, server group, certificate or rule, in characters (alb.md decision 22).
pub const NAME_LENGTH: usize = 128;
/// The longest key or value of a tag, in characters (alb.md 1.1).
pub const TAG_LENGTH: usize = 128;

/// `[server]` where the file has no such table.
pub fn server() -> ServerPlan {
    ServerPlan {
        workers: WORKERS,
        instance_id: instance_id(),
        drain_timeout: DRAIN_TIMEOUT.default,
        shutdown_delay: SHUTDOWN_DELAY.default,
        secret: SECRET,
        resolver: RESOLVER,
        max_connections: NonZeroU64::new(MAX_CONNECTIONS.default),
        max_connections_per_ip: NonZeroU64::new(MAX_CONNECTIONS_PER_IP.default),
        access_log: AccessLogPlan {
            target: ACCESS_LOG_TARGET,
            format: ACCESS_LOG_FORMAT,
        },
        log: LogPlan {
            level: LOG_LEVEL.to_owned(),
            format: LOG_FORMAT,
        },
    }
}

/// A listener's timeouts where it names none.
pub fn timeouts() -> Timeouts {
    Timeouts {
        idle: IDLE_TIMEOUT.default,
        http2_idle: HTTP2_IDLE_TIMEOUT.default,
        request: REQUEST_TIMEOUT.default,
        handshake: HANDSHAKE_TIMEOUT.default,
        header: HEADER_TIMEOUT.default,
    }
}

/// `[listener.limits]` where a listener has no such table.
pub fn limits() -> Limits {
    Limits {
        header_bytes: HEADER_BYTES.default,
        header_line_bytes: HEADER_LINE_BYTES.default,
        header_count: HEADER_COUNT.default,
        body_bytes: BODY_BYTES.default,
        min_rate: NonZeroU64::new(MIN_RATE.default),
        connection_memory: CONNECTION_MEMORY.default,
        http2_max_streams: HTTP2_MAX_STREAMS.default,
        requests_per_connection: NonZeroU64::new(REQUESTS_PER_CONNECTION.default),
    }
}

/// `[listener.compression]` where a listener has no such table.
pub fn compression() -> CompressionSettings {
    CompressionSettings {
        algorithms: ALGORITHMS.to_vec(),
        min_length: MIN_LENGTH.default,
        gzip_level: GZIP_LEVEL.default,
        brotli_quality: BROTLI_QUALITY.default,
        brotli_exclude_types: Vec::new(),
        unknown_length: UNKNOWN_LENGTH,
    }
}

/// `instance_id`: the machine's host name (config.toml), or `lockgate` where that cannot be a header's value.
pub fn instance_id() -> String {
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    value::header_value(host).unwrap_or_else(|_| "lockgate".to_owned())
}

const fn seconds(default: u64, least: u64, most: u64) -> Rule<Duration> {
    Rule {
        default: Duration::from_secs(default),
        least: Duration::from_secs(least),
        most: Duration::from_secs(most),
    }
}
