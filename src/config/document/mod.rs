//! What was written: the file as tables and values, each with its place; no defaults, no meaning.
//!
//! It is filled by walking the parsed table key by key instead of deriving it whole, since a derive stops
//! at the first mistake: here every wrong type and unknown key is reported, and reading goes on.
//! How a single table is read is `reader`'s part.

mod balance;
mod group;
mod headers;
mod health;
mod reader;
mod rule;
mod syntax;

use std::collections::BTreeMap;

use serde::Deserialize;

pub(super) use self::balance::{ConnectionDrainDocument, SlowStartDocument, StickySessionDocument};
use self::group::read_group;
pub(super) use self::group::{BackendTlsDocument, GroupDocument, ServerEntryDocument};
use self::headers::read_headers;
pub(super) use self::headers::{HeadersDocument, SwitchOrName};
pub(super) use self::health::HealthCheckDocument;
use self::reader::Reader;
use self::rule::read_rule;
pub(super) use self::rule::{
    CorsDocument, FixedResponseDocument, ForwardDocument, ForwardTable, InsertDocument,
    MirrorDocument, NamedDocument, RedirectDocument, RewriteDocument, RuleDocument, StickyDocument,
    TrafficLimitDocument, WeightedDocument,
};
use crate::config::keys;
use crate::config::plan::Origin;
use crate::config::report::Report;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Written<T> {
    /// What was written.
    pub(super) value: T,
    /// Where.
    pub(super) origin: Origin,
}

/// A key of a table.
#[derive(Clone, Debug)]
pub(super) enum Field<T> {
    /// It is not there.
    Absent,
    /// It is there with a value of the wrong type, which has been reported.
    Wrong,
    /// It is there.
    Given(Written<T>),
}

/// A value that is written as a number or as a string: a duration, `workers`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Quantity {
    /// An integer.
    Number(i64),
    /// A string.
    Text(String),
}

/// Whether everything that was written could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Completeness {
    /// It could.
    Whole,
    /// Something could not, which has been reported: what is absent may have been written.
    Partial,
}

/// An array of tables.
#[derive(Debug)]
pub(super) struct Rows<T> {
    /// The tables, in the order of the file.
    pub(super) rows: Vec<T>,
    /// Whether some are left out.
    pub(super) completeness: Completeness,
}

/// A whole file.
#[derive(Debug)]
pub(super) struct Document {
    /// Where the syntax errors are.
    pub(super) doubtful: Vec<Origin>,
    /// Whether tables are missing because of mistakes.
    pub(super) completeness: Completeness,
    /// `[server]`
    pub(super) server: Option<ServerDocument>,
    /// `[[certificate]]`
    pub(super) certificates: Vec<CertificateDocument>,
    /// `[[tls_policy]]`
    pub(super) tls_policies: Vec<TlsPolicyDocument>,
    /// `[[listener]]`
    pub(super) listeners: Vec<ListenerDocument>,
    /// `[[server_group]]`
    pub(super) groups: Vec<GroupDocument>,
}

/// `[server]`
#[derive(Debug)]
pub(super) struct ServerDocument {
    /// `workers`
    pub(super) workers: Field<Quantity>,
    /// `instance_id`
    pub(super) instance_id: Field<String>,
    /// `drain_timeout`
    pub(super) drain_timeout: Field<Quantity>,
    /// `shutdown_delay`
    pub(super) shutdown_delay: Field<Quantity>,
    /// `secret_file`
    pub(super) secret_file: Field<String>,
    /// `resolver`
    pub(super) resolver: Field<Vec<Written<String>>>,
    /// `max_connections`
    pub(super) max_connections: Field<i64>,
    /// `max_connections_per_ip`
    pub(super) max_connections_per_ip: Field<i64>,
    /// `access_log.path`
    pub(super) access_log_path: Field<String>,
    /// `access_log.format`
    pub(super) access_log_format: Field<String>,
    /// `log.level`
    pub(super) log_level: Field<String>,
    /// `log.format`
    pub(super) log_format: Field<String>,
}

/// `[[certificate]]`
#[derive(Debug)]
pub(super) struct CertificateDocument {
    /// Where the table stands.
    pub(super) origin: Origin,
    /// `name`
    pub(super) name: Field<String>,
    /// `cert`
    pub(super) cert: Field<String>,
    /// `key`
    pub(super) key: Field<String>,
    /// `self_signed`
    pub(super) self_signed: Field<Vec<Written<String>>>,
}

/// `[[tls_policy]]`
#[derive(Debug)]
pub(super) struct TlsPolicyDocument {
    /// Where the table stands.
    pub(super) origin: Origin,
    /// `name`
    pub(super) name: Field<String>,
    /// `versions`
    pub(super) versions: Field<Vec<Written<String>>>,
    /// `cipher_suites`
    pub(super) cipher_suites: Field<Vec<Written<String>>>,
}

/// `[[listener]]`
#[derive(Debug)]
pub(super) struct ListenerDocument {
    /// Where the table stands.
    pub(super) origin: Origin,
    /// `name`
    pub(super) name: Field<String>,
    /// `protocol`
    pub(super) protocol: Field<String>,
    /// `address`
    pub(super) address: Field<String>,
    /// `port`
    pub(super) port: Field<i64>,
    /// `tags`
    pub(super) tags: BTreeMap<String, Written<String>>,
    /// `certificates`
    pub(super) certificates: Field<Vec<Written<String>>>,
    /// `tls_policy`
    pub(super) tls_policy: Field<String>,
    /// `tls_policy_strict`
    pub(super) tls_policy_strict: Field<bool>,
    /// `sni_strict`
    pub(super) sni_strict: Field<bool>,
    /// `http2`
    pub(super) http2: Field<bool>,
    /// `idle_timeout`
    pub(super) idle_timeout: Field<Quantity>,
    /// `http2_idle_timeout`
    pub(super) http2_idle_timeout: Field<Quantity>,
    /// `request_timeout`
    pub(super) request_timeout: Field<Quantity>,
    /// `handshake_timeout`
    pub(super) handshake_timeout: Field<Quantity>,
    /// `header_timeout`
    pub(super) header_timeout: Field<Quantity>,
    /// `extended_timeouts`
    pub(super) extended_timeouts: Field<bool>,
    /// `server_group`
    pub(super) server_group: Field<String>,
    /// `loop_detection`
    pub(super) loop_detection: Field<bool>,
    /// `proxy_protocol`
    pub(super) proxy_protocol: Option<ProxyProtocolDocument>,
    /// `[listener.access]`
    pub(super) access: Option<AccessDocument>,
    /// `[listener.client_ip]`
    pub(super) client_ip: Option<ClientIpDocument>,
    /// `[listener.compression]`
    pub(super) compression: Option<CompressionDocument>,
    /// `[listener.headers]`
    pub(super) headers: Option<HeadersDocument>,
    /// `[listener.client_auth]`
    pub(super) client_auth: Option<ClientAuthDocument>,
    /// `[listener.limits]`
    pub(super) limits: Option<LimitsDocument>,
    /// `[[listener.rule]]`
    pub(super) rules: Rows<RuleDocument>,
}

/// `[listener.client_auth]`
#[derive(Debug)]
pub(super) struct ClientAuthDocument {
    /// Where the table stands.
    pub(super) origin: Origin,
    /// `ca`
    pub(super) ca: Field<Vec<Written<String>>>,
    /// `crl`
    pub(super) crl: Field<Vec<Written<String>>>,
    /// `mode`
    pub(super) mode: Field<String>,
}

/// `proxy_protocol`
#[derive(Debug)]
pub(super) struct ProxyProtocolDocument {
    /// Where the table stands.
    pub(super) origin: Origin,
    /// `trusted`
    pub(super) trusted: Field<Vec<Written<String>>>,
}

/// `[listener.access]`
#[derive(Debug)]
pub(super) struct AccessDocument {
    /// `allow`
    pub(super) allow: Field<Vec<Written<String>>>,
    /// `deny`
    pub(super) deny: Field<Vec<Written<String>>>,
}

/// `[listener.client_ip]`
#[derive(Debug)]
pub(super) struct ClientIpDocument {
    /// Where the table stands.
    pub(super) origin: Origin,
    /// `header`
    pub(super) header: Field<String>,
    /// `trusted`
    pub(super) trusted: Field<Vec<Written<String>>>,
    /// `require_trusted_peer`
    pub(super) require_trusted_peer: Field<bool>,
}

/// `[listener.compression]`
#[derive(Debug)]
pub(super) struct CompressionDocument {
    /// `enabled`
    pub(super) enabled: Field<bool>,
    /// `algorithms`
    pub(super) algorithms: Field<Vec<Written<String>>>,
    /// `min_length`
    pub(super) min_length: Field<i64>,
    /// `gzip_level`
    pub(super) gzip_level: Field<i64>,
    /// `brotli_quality`
    pub(super) brotli_quality: Field<i64>,
    /// `brotli_exclude_types`
    pub(super) brotli_exclude_types: Field<Vec<Written<String>>>,
    /// `compress_unknown_length`
    pub(super) compress_unknown_length: Field<bool>,
}

/// `[listener.limits]`
#[derive(Debug)]
pub(super) struct LimitsDocument {
    /// `header_bytes`
    pub(super) header_bytes: Field<i64>,
    /// `header_line_bytes`
    pub(super) header_line_bytes: Field<i64>,
    /// `header_count`
    pub(super) header_count: Field<i64>,
    /// `body_bytes`
    pub(super) body_bytes: Field<i64>,
    /// `min_rate`
    pub(super) min_rate: Field<i64>,
    /// `connection_memory`
    pub(super) connection_memory: Field<i64>,
    /// `http2_max_streams`
    pub(super) http2_max_streams: Field<i64>,
    /// `requests_per_connection`
    pub(super) requests_per_connection: Field<i64>,
}

impl Document {
    /// Reads a file's text, reporting syntax errors, unknown keys and wrong types.
    pub(super) fn read(text: &str, report: &mut Report) -> Self {
        let (table, errors) = toml::de::DeTable::parse_recoverable(text);
        let doubtful = syntax::report(text, &errors, &table, report);
        let mut root = Reader::open(table.get_ref(), Origin::default(), &keys::ROOT, report);
        let server = root
            .table("server", &keys::SERVER)
            .map(|mut table| read_server(&mut table));
        let certificates = root.tables("certificate", &keys::CERTIFICATE, read_certificate);
        let tls_policies = root.tables("tls_policy", &keys::TLS_POLICY, read_tls_policy);
        let listeners = root.tables("listener", &keys::LISTENER, read_listener);
        let groups = root.tables("server_group", &keys::SERVER_GROUP, read_group);
        let all = [
            certificates.completeness,
            tls_policies.completeness,
            listeners.completeness,
            groups.completeness,
        ];
        let is_whole = doubtful.is_empty() && all.iter().all(|part| *part == Completeness::Whole);
        Self {
            doubtful,
            completeness: if is_whole {
                Completeness::Whole
            } else {
                Completeness::Partial
            },
            server,
            certificates: certificates.rows,
            tls_policies: tls_policies.rows,
            listeners: listeners.rows,
            groups: groups.rows,
        }
    }
}

fn read_server(table: &mut Reader<'_, '_>) -> ServerDocument {
    let (access_log_path, access_log_format) = match table.table("access_log", &keys::ACCESS_LOG) {
        Some(mut log) => (log.leaf("path"), log.leaf("format")),
        None => (Field::Absent, Field::Absent),
    };
    let (log_level, log_format) = match table.table("log", &keys::LOG) {
        Some(mut log) => (log.leaf("level"), log.leaf("format")),
        None => (Field::Absent, Field::Absent),
    };
    ServerDocument {
        workers: table.leaf("workers"),
        instance_id: table.leaf("instance_id"),
        drain_timeout: table.leaf("drain_timeout"),
        shutdown_delay: table.leaf("shutdown_delay"),
        secret_file: table.leaf("secret_file"),
        resolver: table.list("resolver"),
        max_connections: table.leaf("max_connections"),
        max_connections_per_ip: table.leaf("max_connections_per_ip"),
        access_log_path,
        access_log_format,
        log_level,
        log_format,
    }
}

fn read_certificate(table: &mut Reader<'_, '_>) -> CertificateDocument {
    CertificateDocument {
        origin: table.origin(),
        name: table.leaf("name"),
        cert: table.leaf("cert"),
        key: table.leaf("key"),
        self_signed: table.list("self_signed"),
    }
}

fn read_tls_policy(table: &mut Reader<'_, '_>) -> TlsPolicyDocument {
    TlsPolicyDocument {
        origin: table.origin(),
        name: table.leaf("name"),
        versions: table.list("versions"),
        cipher_suites: table.list("cipher_suites"),
    }
}

fn read_listener(table: &mut Reader<'_, '_>) -> ListenerDocument {
    ListenerDocument {
        origin: table.origin(),
        name: table.leaf("name"),
        protocol: table.leaf("protocol"),
        address: table.leaf("address"),
        port: table.leaf("port"),
        tags: table.map("tags"),
        certificates: table.list("certificates"),
        tls_policy: table.leaf("tls_policy"),
        tls_policy_strict: table.leaf("tls_policy_strict"),
        sni_strict: table.leaf("sni_strict"),
        http2: table.leaf("http2"),
        idle_timeout: table.leaf("idle_timeout"),
        http2_idle_timeout: table.leaf("http2_idle_timeout"),
        request_timeout: table.leaf("request_timeout"),
        handshake_timeout: table.leaf("handshake_timeout"),
        header_timeout: table.leaf("header_timeout"),
        extended_timeouts: table.leaf("extended_timeouts"),
        server_group: table.leaf("server_group"),
        loop_detection: table.leaf("loop_detection"),
        proxy_protocol: table
            .table("proxy_protocol", &keys::PROXY_PROTOCOL)
            .map(|mut table| ProxyProtocolDocument {
                origin: table.origin(),
                trusted: table.list("trusted"),
            }),
        access: table
            .table("access", &keys::ACCESS)
            .map(|mut table| AccessDocument {
                allow: table.list("allow"),
                deny: table.list("deny"),
            }),
        client_ip: table
            .table("client_ip", &keys::CLIENT_IP)
            .map(|mut table| ClientIpDocument {
                origin: table.origin(),
                header: table.leaf("header"),
                trusted: table.list("trusted"),
                require_trusted_peer: table.leaf("require_trusted_peer"),
            }),
        compression: table
            .table("compression", &keys::COMPRESSION)
            .map(|mut table| read_compression(&mut table)),
        headers: table
            .table("headers", &keys::HEADERS)
            .map(|mut table| read_headers(&mut table)),
        client_auth: table
            .table("client_auth", &keys::CLIENT_AUTH)
            .map(|mut table| read_client_auth(&mut table)),
        limits: table
            .table("limits", &keys::LIMITS)
            .map(|mut table| read_limits(&mut table)),
        rules: table.tables("rule", &keys::RULE, read_rule),
    }
}

fn read_client_auth(table: &mut Reader<'_, '_>) -> ClientAuthDocument {
    ClientAuthDocument {
        origin: table.origin(),
        ca: table.list("ca"),
        crl: table.list("crl"),
        mode: table.leaf("mode"),
    }
}

fn read_compression(table: &mut Reader<'_, '_>) -> CompressionDocument {
    CompressionDocument {
        enabled: table.leaf("enabled"),
        algorithms: table.list("algorithms"),
        min_length: table.leaf("min_length"),
        gzip_level: table.leaf("gzip_level"),
        brotli_quality: table.leaf("brotli_quality"),
        brotli_exclude_types: table.list("brotli_exclude_types"),
        compress_unknown_length: table.leaf("compress_unknown_length"),
    }
}

fn read_limits(table: &mut Reader<'_, '_>) -> LimitsDocument {
    LimitsDocument {
        header_bytes: table.leaf("header_bytes"),
        header_line_bytes: table.leaf("header_line_bytes"),
        header_count: table.leaf("header_count"),
        body_bytes: table.leaf("body_bytes"),
        min_rate: table.leaf("min_rate"),
        connection_memory: table.leaf("connection_memory"),
        http2_max_streams: table.leaf("http2_max_streams"),
        requests_per_connection: table.leaf("requests_per_connection"),
    }
}
