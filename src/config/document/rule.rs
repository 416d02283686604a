//! `[[listener.rule]]`

use super::reader::Reader;
use super::{Field, Quantity, Rows, Written};
use crate::config::keys;
use crate::config::plan::Origin;

/// An array of strings.
type Texts = Field<Vec<Written<String>>>;

/// `[[listener.rule]]`
#[derive(Debug)]
pub(in crate::config) struct RuleDocument {
    /// Where the table stands.
    pub(in crate::config) origin: Origin,
    /// Its keys, each with its place.
    pub(in crate::config) keys: Vec<(&'static str, Origin)>,
    /// `name`
    pub(in crate::config) name: Field<String>,
    /// `priority`
    pub(in crate::config) priority: Field<i64>,
    /// `direction`
    pub(in crate::config) direction: Field<String>,
    /// `host`
    pub(in crate::config) host: Texts,
    /// `path`
    pub(in crate::config) path: Texts,
    /// `method`
    pub(in crate::config) method: Texts,
    /// `header`
    pub(in crate::config) header: Rows<NamedDocument>,
    /// `query`
    pub(in crate::config) query: Rows<NamedDocument>,
    /// `cookie`
    pub(in crate::config) cookie: Rows<NamedDocument>,
    /// `source_ip`
    pub(in crate::config) source_ip: Texts,
    /// `response_status`
    pub(in crate::config) response_status: Field<Vec<Written<Quantity>>>,
    /// `response_header`
    pub(in crate::config) response_header: Rows<NamedDocument>,
    /// `traffic_limit`
    pub(in crate::config) traffic_limit: Option<TrafficLimitDocument>,
    /// `rewrite`
    pub(in crate::config) rewrite: Option<RewriteDocument>,
    /// `insert_headers`
    pub(in crate::config) insert_headers: Rows<InsertDocument>,
    /// `remove_headers`
    pub(in crate::config) remove_headers: Texts,
    /// `cors`
    pub(in crate::config) cors: Option<CorsDocument>,
    /// `mirror`
    pub(in crate::config) mirror: Option<MirrorDocument>,
    /// `compression`
    pub(in crate::config) compression: Field<bool>,
    /// `forward`
    pub(in crate::config) forward: ForwardDocument,
    /// `redirect`
    pub(in crate::config) redirect: Option<RedirectDocument>,
    /// `fixed_response`
    pub(in crate::config) fixed_response: Option<FixedResponseDocument>,
}

impl RuleDocument {
    /// Where a key stands, if it does.
    pub(in crate::config) fn place(&self, key: &str) -> Option<&Origin> {
        let mut keys = self.keys.iter();
        keys.find(|(known, _)| *known == key)
            .map(|(_, origin)| origin)
    }
}

/// An element of `header`, `query`, `cookie` or `response_header`.
#[derive(Debug)]
pub(in crate::config) struct NamedDocument {
    /// Where the table stands.
    pub(in crate::config) origin: Origin,
    /// `name`
    pub(in crate::config) name: Field<String>,
    /// `values`
    pub(in crate::config) values: Texts,
}

/// `traffic_limit`
#[derive(Debug)]
pub(in crate::config) struct TrafficLimitDocument {
    /// Where the table stands.
    pub(in crate::config) origin: Origin,
    /// `qps`
    pub(in crate::config) qps: Field<i64>,
    /// `per_ip_qps`
    pub(in crate::config) per_ip_qps: Field<i64>,
}

/// `rewrite`
#[derive(Debug)]
pub(in crate::config) struct RewriteDocument {
    /// Where the table stands.
    pub(in crate::config) origin: Origin,
    /// `host`
    pub(in crate::config) host: Field<String>,
    /// `path`
    pub(in crate::config) path: Field<String>,
    /// `query`
    pub(in crate::config) query: Field<String>,
}

/// An element of `insert_headers`.
#[derive(Debug)]
pub(in crate::config) struct InsertDocument {
    /// Where the table stands.
    pub(in crate::config) origin: Origin,
    /// `name`
    pub(in crate::config) name: Field<String>,
    /// `value`
    pub(in crate::config) value: Field<String>,
    /// `reference`
    pub(in crate::config) reference: Field<String>,
    /// `system`
    pub(in crate::config) system: Field<String>,
    /// `cover`
    pub(in crate::config) cover: Field<bool>,
}

/// `cors`
#[derive(Debug)]
pub(in crate::config) struct CorsDocument {
    /// Where the table stands.
    pub(in crate::config) origin: Origin,
    /// `allow_origin`
    pub(in crate::config) allow_origin: Texts,
    /// `allow_methods`
    pub(in crate::config) allow_methods: Texts,
    /// `allow_headers`
    pub(in crate::config) allow_headers: Texts,
    /// `expose_headers`
    pub(in crate::config) expose_headers: Texts,
    /// `allow_credentials`
    pub(in crate::config) allow_credentials: Field<bool>,
    /// `max_age`
    pub(in crate::config) max_age: Field<i64>,
}

/// `mirror`
#[derive(Debug)]
pub(in crate::config) struct MirrorDocument {
    /// Where the table stands.
    pub(in crate::config) origin: Origin,
    /// `server_group`
    pub(in crate::config) server_group: Field<String>,
}

/// `forward`
#[derive(Debug)]
pub(in crate::config) enum ForwardDocument {
    /// A group's name; or it is not there, or of the wrong type.
    Group(Field<String>),
    /// A table.
    Groups(ForwardTable),
}

/// `forward` as a table.
#[derive(Debug)]
pub(in crate::config) struct ForwardTable {
    /// Where the table stands.
    pub(in crate::config) origin: Origin,
    /// `groups`
    pub(in crate::config) groups: Rows<WeightedDocument>,
    /// `sticky`
    pub(in crate::config) sticky: Option<StickyDocument>,
}

/// An element of `groups`.
#[derive(Debug)]
pub(in crate::config) struct WeightedDocument {
    /// Where the table stands.
    pub(in crate::config) origin: Origin,
    /// `server_group`
    pub(in crate::config) server_group: Field<String>,
    /// `weight`
    pub(in crate::config) weight: Field<i64>,
}

/// `sticky`
#[derive(Debug)]
pub(in crate::config) struct StickyDocument {
    /// `enabled`
    pub(in crate::config) enabled: Field<bool>,
    /// `timeout`
    pub(in crate::config) timeout: Field<Quantity>,
}

/// `redirect`
#[derive(Debug)]
pub(in crate::config) struct RedirectDocument {
    /// Where the table stands.
    pub(in crate::config) origin: Origin,
    /// `code`
    pub(in crate::config) code: Field<i64>,
    /// `protocol`
    pub(in crate::config) protocol: Field<String>,
    /// `host`
    pub(in crate::config) host: Field<String>,
    /// `port`
    pub(in crate::config) port: Field<Quantity>,
    /// `path`
    pub(in crate::config) path: Field<String>,
    /// `query`
    pub(in crate::config) query: Field<String>,
}

/// `fixed_response`
#[derive(Debug)]
pub(in crate::config) struct FixedResponseDocument {
    /// Where the table stands.
    pub(in crate::config) origin: Origin,
    /// `code`
    pub(in crate::config) code: Field<i64>,
    /// `content_type`
    pub(in crate::config) content_type: Field<String>,
    /// `body`
    pub(in crate::config) body: Field<String>,
}

/// Reads one rule.
pub(super) fn read_rule(table: &mut Reader<'_, '_>) -> RuleDocument {
    RuleDocument {
        origin: table.origin(),
        keys: table.given(),
        name: table.leaf("name"),
        priority: table.leaf("priority"),
        direction: table.leaf("direction"),
        host: table.list("host"),
        path: table.list("path"),
        method: table.list("method"),
        header: table.tables("header", &keys::HEADER_CONDITION, read_named),
        query: table.tables("query", &keys::QUERY_CONDITION, read_named),
        cookie: table.tables("cookie", &keys::COOKIE_CONDITION, read_named),
        source_ip: table.list("source_ip"),
        response_status: table.list("response_status"),
        response_header: table.tables("response_header", &keys::HEADER_CONDITION, read_named),
        traffic_limit: table
            .table("traffic_limit", &keys::TRAFFIC_LIMIT)
            .map(|mut table| TrafficLimitDocument {
                origin: table.origin(),
                qps: table.leaf("qps"),
                per_ip_qps: table.leaf("per_ip_qps"),
            }),
        rewrite: table
            .table("rewrite", &keys::REWRITE)
            .map(|mut table| RewriteDocument {
                origin: table.origin(),
                host: table.leaf("host"),
                path: table.leaf("path"),
                query: table.leaf("query"),
            }),
        insert_headers: table.tables("insert_headers", &keys::INSERT_HEADER, read_insert),
        remove_headers: table.list("remove_headers"),
        cors: table
            .table("cors", &keys::CORS)
            .map(|mut table| read_cors(&mut table)),
        mirror: table
            .table("mirror", &keys::MIRROR)
            .map(|mut table| MirrorDocument {
                origin: table.origin(),
                server_group: table.leaf("server_group"),
            }),
        compression: table.leaf("compression"),
        forward: read_forward(table),
        redirect: table
            .table("redirect", &keys::REDIRECT)
            .map(|mut table| read_redirect(&mut table)),
        fixed_response: table
            .table("fixed_response", &keys::FIXED_RESPONSE)
            .map(|mut table| FixedResponseDocument {
                origin: table.origin(),
                code: table.leaf("code"),
                content_type: table.leaf("content_type"),
                body: table.leaf("body"),
            }),
    }
}

fn read_named(table: &mut Reader<'_, '_>) -> NamedDocument {
    NamedDocument {
        origin: table.origin(),
        name: table.leaf("name"),
        values: table.list("values"),
    }
}

fn read_insert(table: &mut Reader<'_, '_>) -> InsertDocument {
    InsertDocument {
        origin: table.origin(),
        name: table.leaf("name"),
        value: table.leaf("value"),
        reference: table.leaf("reference"),
        system: table.leaf("system"),
        cover: table.leaf("cover"),
    }
}

fn read_cors(table: &mut Reader<'_, '_>) -> CorsDocument {
    CorsDocument {
        origin: table.origin(),
        allow_origin: table.list("allow_origin"),
        allow_methods: table.list("allow_methods"),
        allow_headers: table.list("allow_headers"),
        expose_headers: table.list("expose_headers"),
        allow_credentials: table.leaf("allow_credentials"),
        max_age: table.leaf("max_age"),
    }
}

fn read_forward(table: &mut Reader<'_, '_>) -> ForwardDocument {
    if table.is_text("forward") {
        return ForwardDocument::Group(table.leaf("forward"));
    }
    let is_there = table.has("forward");
    match table.table("forward", &keys::FORWARD) {
        Some(mut table) => ForwardDocument::Groups(ForwardTable {
            origin: table.origin(),
            groups: table.tables("groups", &keys::FORWARD_GROUP, |table| WeightedDocument {
                origin: table.origin(),
                server_group: table.leaf("server_group"),
                weight: table.leaf("weight"),
            }),
            sticky: table
                .table("sticky", &keys::FORWARD_STICKY)
                .map(|mut table| StickyDocument {
                    enabled: table.leaf("enabled"),
                    timeout: table.leaf("timeout"),
                }),
        }),
        // One that is there has been reported.
        None if is_there => ForwardDocument::Group(Field::Wrong),
        None => ForwardDocument::Group(table.leaf("forward")),
    }
}

fn read_redirect(table: &mut Reader<'_, '_>) -> RedirectDocument {
    RedirectDocument {
        origin: table.origin(),
        code: table.leaf("code"),
        protocol: table.leaf("protocol"),
        host: table.leaf("host"),
        port: table.leaf("port"),
        path: table.leaf("path"),
        query: table.leaf("query"),
    }
}
