//! The keys of every table: those that work, and those that are known but not implemented yet.
//!
//! A key that is not implemented is an error, unless its value says "off". Whoever implements it moves
//! its line from `not_yet` to `works` and reads it in `document`.

/// The keys of one table.
#[derive(Debug)]
pub(super) struct Keys {
    /// How the table is written.
    pub(super) title: &'static str,
    /// Keys that `document` reads.
    pub(super) works: &'static [&'static str],
    /// Keys that are part of the interface, and what value of theirs is taken because it asks for nothing.
    pub(super) not_yet: &'static [(&'static str, Off)],
}

/// The value of a key that asks for nothing, or for what is done anyway.
#[derive(Debug)]
pub(super) enum Off {
    /// No value does.
    Never,
    /// `false`
    False,
    /// Just this string.
    Text(&'static str),
    /// A table with `enabled = false`; the table's keys are listed.
    Disabled(&'static [&'static str]),
}

/// The file itself.
pub(super) const ROOT: Keys = Keys {
    title: "the top level of the file",
    works: &[
        "server",
        "certificate",
        "tls_policy",
        "listener",
        "server_group",
    ],
    not_yet: &[],
};

/// `[server]`
pub(super) const SERVER: Keys = Keys {
    title: "[server]",
    works: &[
        "workers",
        "instance_id",
        "drain_timeout",
        "shutdown_delay",
        "max_connections",
        "max_connections_per_ip",
        "secret_file",
        "resolver",
        "access_log",
        "log",
    ],
    not_yet: &[
        ("user", Off::Never),
        ("sandbox", Off::Text("off")),
        ("watch", Off::False),
        ("admin", Off::Never),
    ],
};

/// `[server.access_log]`
pub(super) const ACCESS_LOG: Keys = Keys {
    title: "[server.access_log]",
    works: &["path", "format"],
    not_yet: &[],
};

/// `[server.log]`
pub(super) const LOG: Keys = Keys {
    title: "[server.log]",
    works: &["level", "format"],
    not_yet: &[],
};

/// `[[certificate]]`
pub(super) const CERTIFICATE: Keys = Keys {
    title: "[[certificate]]",
    works: &["name", "cert", "key", "self_signed"],
    not_yet: &[],
};

/// `[[tls_policy]]`
pub(super) const TLS_POLICY: Keys = Keys {
    title: "[[tls_policy]]",
    works: &["name", "versions", "cipher_suites"],
    not_yet: &[],
};

/// `[[listener]]`
pub(super) const LISTENER: Keys = Keys {
    title: "[[listener]]",
    works: &[
        "name",
        "protocol",
        "address",
        "port",
        "tags",
        "certificates",
        "tls_policy",
        "tls_policy_strict",
        "sni_strict",
        "http2",
        "idle_timeout",
        "http2_idle_timeout",
        "request_timeout",
        "handshake_timeout",
        "header_timeout",
        "extended_timeouts",
        "server_group",
        "loop_detection",
        "proxy_protocol",
        "compression",
        "client_ip",
        "headers",
        "client_auth",
        "limits",
        "access",
        "rule",
    ],
    not_yet: &[
        ("quic_listener", Off::Never),
        ("quic_advertised_port", Off::Never),
    ],
};

/// `[listener.client_auth]`
pub(super) const CLIENT_AUTH: Keys = Keys {
    title: "[listener.client_auth]",
    works: &["ca", "crl", "mode"],
    not_yet: &[],
};

/// `proxy_protocol`
pub(super) const PROXY_PROTOCOL: Keys = Keys {
    title: "`proxy_protocol`",
    works: &["trusted"],
    not_yet: &[],
};

/// `[listener.client_ip]`
pub(super) const CLIENT_IP: Keys = Keys {
    title: "[listener.client_ip]",
    works: &["header", "trusted", "require_trusted_peer"],
    not_yet: &[],
};

/// `[listener.compression]`
pub(super) const COMPRESSION: Keys = Keys {
    title: "[listener.compression]",
    works: &[
        "enabled",
        "algorithms",
        "min_length",
        "gzip_level",
        "brotli_quality",
        "brotli_exclude_types",
        "compress_unknown_length",
    ],
    not_yet: &[],
};

/// `[listener.headers]`
pub(super) const HEADERS: Keys = Keys {
    title: "[listener.headers]",
    works: &[
        "x_forwarded_for",
        "x_forwarded_proto",
        "x_forwarded_port",
        "x_forwarded_host",
        "x_forwarded_client_srcport",
        "slb_id",
        "request_id",
        "tls_protocol",
        "tls_cipher",
        "client_cert_subject_dn",
        "client_cert_issuer_dn",
        "client_cert_fingerprint",
        "client_cert_client_verify",
        "client_cert_fingerprint_hash",
        "client_cert_rfc9440",
    ],
    not_yet: &[],
};

/// `[listener.limits]`
pub(super) const LIMITS: Keys = Keys {
    title: "[listener.limits]",
    works: &[
        "header_bytes",
        "header_line_bytes",
        "header_count",
        "body_bytes",
        "min_rate",
        "connection_memory",
        "http2_max_streams",
        "requests_per_connection",
    ],
    not_yet: &[],
};

/// `[listener.access]`
pub(super) const ACCESS: Keys = Keys {
    title: "[listener.access]",
    works: &["allow", "deny"],
    not_yet: &[],
};

/// `[[listener.rule]]`
pub(super) const RULE: Keys = Keys {
    title: "[[listener.rule]]",
    works: &[
        "name",
        "priority",
        "host",
        "path",
        "method",
        "header",
        "query",
        "cookie",
        "source_ip",
        "direction",
        "response_status",
        "response_header",
        "traffic_limit",
        "rewrite",
        "insert_headers",
        "remove_headers",
        "cors",
        "mirror",
        "compression",
        "forward",
        "redirect",
        "fixed_response",
    ],
    not_yet: &[],
};

/// An element of `header` or `response_header`.
pub(super) const HEADER_CONDITION: Keys = Keys {
    title: "an element of `header`",
    works: &["name", "values"],
    not_yet: &[],
};

/// An element of `query`.
pub(super) const QUERY_CONDITION: Keys = Keys {
    title: "an element of `query`",
    works: &["name", "values"],
    not_yet: &[],
};

/// An element of `cookie`.
pub(super) const COOKIE_CONDITION: Keys = Keys {
    title: "an element of `cookie`",
    works: &["name", "values"],
    not_yet: &[],
};

/// `traffic_limit`
pub(super) const TRAFFIC_LIMIT: Keys = Keys {
    title: "`traffic_limit`",
    works: &["qps", "per_ip_qps"],
    not_yet: &[],
};

/// `rewrite`
pub(super) const REWRITE: Keys = Keys {
    title: "`rewrite`",
    works: &["host", "path", "query"],
    not_yet: &[],
};

/// An element of `insert_headers`.
pub(super) const INSERT_HEADER: Keys = Keys {
    title: "an element of `insert_headers`",
    works: &["name", "value", "reference", "system", "cover"],
    not_yet: &[],
};

/// `cors`
pub(super) const CORS: Keys = Keys {
    title: "`cors`",
    works: &[
        "allow_origin",
        "allow_methods",
        "allow_headers",
        "expose_headers",
        "allow_credentials",
        "max_age",
    ],
    not_yet: &[],
};

/// `mirror`
pub(super) const MIRROR: Keys = Keys {
    title: "`mirror`",
    works: &["server_group"],
    not_yet: &[],
};

/// `forward`
pub(super) const FORWARD: Keys = Keys {
    title: "`forward`",
    works: &["groups"],
    not_yet: &[("sticky", Off::Disabled(&["enabled", "timeout"]))],
};

/// An element of `groups`.
pub(super) const FORWARD_GROUP: Keys = Keys {
    title: "an element of `groups`",
    works: &["server_group", "weight"],
    not_yet: &[],
};

/// `sticky`
pub(super) const FORWARD_STICKY: Keys = Keys {
    title: "`sticky`",
    works: &["enabled", "timeout"],
    not_yet: &[],
};

/// `redirect`
pub(super) const REDIRECT: Keys = Keys {
    title: "`redirect`",
    works: &["code", "protocol", "host", "port", "path", "query"],
    not_yet: &[],
};

/// `fixed_response`
pub(super) const FIXED_RESPONSE: Keys = Keys {
    title: "`fixed_response`",
    works: &["code", "content_type", "body"],
    not_yet: &[],
};

/// `[[server_group]]`
pub(super) const SERVER_GROUP: Keys = Keys {
    title: "[[server_group]]",
    works: &[
        "name",
        "protocol",
        "servers",
        "scheduler",
        "hash_query_parameter",
        "sticky_session",
        "slow_start",
        "connection_drain",
        "keepalive",
        "keepalive_idle",
        "connect_timeout",
        "max_connections_per_server",
        "retries",
        "tls",
        "health_check",
    ],
    not_yet: &[],
};

/// `[server_group.tls]`
pub(super) const BACKEND_TLS: Keys = Keys {
    title: "[server_group.tls]",
    works: &["verify", "ca", "server_name"],
    not_yet: &[],
};

/// `[server_group.health_check]`
pub(super) const HEALTH_CHECK: Keys = Keys {
    title: "[server_group.health_check]",
    works: &[
        "enabled",
        "protocol",
        "interval",
        "timeout",
        "healthy_threshold",
        "unhealthy_threshold",
        "port",
        "method",
        "http_version",
        "path",
        "host",
        "codes",
    ],
    not_yet: &[],
};

/// `[server_group.sticky_session]`
pub(super) const STICKY_SESSION: Keys = Keys {
    title: "[server_group.sticky_session]",
    works: &["enabled", "type", "cookie", "timeout"],
    not_yet: &[],
};

/// `[server_group.slow_start]`
pub(super) const SLOW_START: Keys = Keys {
    title: "[server_group.slow_start]",
    works: &["enabled", "duration"],
    not_yet: &[],
};

/// `[server_group.connection_drain]`
pub(super) const CONNECTION_DRAIN: Keys = Keys {
    title: "[server_group.connection_drain]",
    works: &["enabled", "timeout"],
    not_yet: &[],
};

/// An element of `servers`.
pub(super) const SERVER_ENTRY: Keys = Keys {
    title: "an element of `servers`",
    works: &["address", "weight"],
    not_yet: &[],
};

/// Every table, to tell where a misplaced key belongs.
pub(super) const TABLES: &[&Keys] = &[
    &ROOT,
    &SERVER,
    &ACCESS_LOG,
    &LOG,
    &CERTIFICATE,
    &TLS_POLICY,
    &LISTENER,
    &CLIENT_AUTH,
    &PROXY_PROTOCOL,
    &CLIENT_IP,
    &COMPRESSION,
    &HEADERS,
    &LIMITS,
    &ACCESS,
    &RULE,
    &HEADER_CONDITION,
    &QUERY_CONDITION,
    &COOKIE_CONDITION,
    &TRAFFIC_LIMIT,
    &REWRITE,
    &INSERT_HEADER,
    &CORS,
    &MIRROR,
    &FORWARD,
    &FORWARD_GROUP,
    &REDIRECT,
    &FIXED_RESPONSE,
    &SERVER_GROUP,
    &BACKEND_TLS,
    &HEALTH_CHECK,
    &STICKY_SESSION,
    &SLOW_START,
    &CONNECTION_DRAIN,
    &SERVER_ENTRY,
];

impl Keys {
    /// Every known key, working or not.
    pub(super) fn all(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.works
            .iter()
            .copied()
            .chain(self.not_yet.iter().map(|(key, _)| *key))
    }
}

impl Off {
    /// What to do about a key that is not implemented yet.
    pub(super) fn way_out(&self, key: &str) -> String {
        match self {
            Self::Never => "leave it out".to_owned(),
            Self::False => format!("leave it out, or say `{key} = false`"),
            Self::Text(text) => format!("leave it out, or say `{key} = \"{text}\"`"),
            Self::Disabled(_) => "leave it out, or say `enabled = false` in it".to_owned(),
        }
    }
}
