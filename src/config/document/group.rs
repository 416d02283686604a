//! `[[server_group]]` and its tables, as written.

use super::balance::{
    ConnectionDrainDocument, SlowStartDocument, StickySessionDocument, read_connection_drain,
    read_slow_start, read_sticky_session,
};
use super::health::{HealthCheckDocument, read_health_check};
use super::reader::Reader;
use super::{Field, Quantity, Rows, Written};
use crate::config::keys;
use crate::config::plan::Origin;

/// `[[server_group]]`
#[derive(Debug)]
pub(in crate::config) struct GroupDocument {
    /// Where the table stands.
    pub(in crate::config) origin: Origin,
    /// `name`
    pub(in crate::config) name: Field<String>,
    /// `protocol`
    pub(in crate::config) protocol: Field<String>,
    /// `servers`
    pub(in crate::config) servers: Rows<ServerEntryDocument>,
    /// `scheduler`
    pub(in crate::config) scheduler: Field<String>,
    /// `hash_query_parameter`
    pub(in crate::config) hash_query_parameter: Field<String>,
    /// `keepalive`
    pub(in crate::config) keepalive: Field<bool>,
    /// `keepalive_idle`
    pub(in crate::config) keepalive_idle: Field<Quantity>,
    /// `connect_timeout`
    pub(in crate::config) connect_timeout: Field<Quantity>,
    /// `max_connections_per_server`
    pub(in crate::config) max_connections_per_server: Field<i64>,
    /// `retries`
    pub(in crate::config) retries: Field<i64>,
    /// `[server_group.sticky_session]`
    pub(in crate::config) sticky_session: Option<StickySessionDocument>,
    /// `[server_group.slow_start]`
    pub(in crate::config) slow_start: Option<SlowStartDocument>,
    /// `[server_group.connection_drain]`
    pub(in crate::config) connection_drain: Option<ConnectionDrainDocument>,
    /// `[server_group.health_check]`
    pub(in crate::config) health_check: Option<HealthCheckDocument>,
    /// `[server_group.tls]`
    pub(in crate::config) tls: Option<BackendTlsDocument>,
}

/// `[server_group.tls]`
#[derive(Debug)]
pub(in crate::config) struct BackendTlsDocument {
    /// Where the table stands.
    pub(in crate::config) origin: Origin,
    /// `verify`
    pub(in crate::config) verify: Field<bool>,
    /// `ca`
    pub(in crate::config) ca: Field<Vec<Written<String>>>,
    /// `server_name`
    pub(in crate::config) server_name: Field<String>,
}

/// An element of `servers`.
#[derive(Debug)]
pub(in crate::config) struct ServerEntryDocument {
    /// Where the table stands.
    pub(in crate::config) origin: Origin,
    /// `address`
    pub(in crate::config) address: Field<String>,
    /// `weight`
    pub(in crate::config) weight: Field<i64>,
}

pub(super) fn read_group(table: &mut Reader<'_, '_>) -> GroupDocument {
    GroupDocument {
        origin: table.origin(),
        name: table.leaf("name"),
        protocol: table.leaf("protocol"),
        servers: table.tables("servers", &keys::SERVER_ENTRY, read_server_entry),
        scheduler: table.leaf("scheduler"),
        hash_query_parameter: table.leaf("hash_query_parameter"),
        keepalive: table.leaf("keepalive"),
        keepalive_idle: table.leaf("keepalive_idle"),
        connect_timeout: table.leaf("connect_timeout"),
        max_connections_per_server: table.leaf("max_connections_per_server"),
        retries: table.leaf("retries"),
        sticky_session: table
            .table("sticky_session", &keys::STICKY_SESSION)
            .map(|mut table| read_sticky_session(&mut table)),
        slow_start: table
            .table("slow_start", &keys::SLOW_START)
            .map(|mut table| read_slow_start(&mut table)),
        connection_drain: table
            .table("connection_drain", &keys::CONNECTION_DRAIN)
            .map(|mut table| read_connection_drain(&mut table)),
        health_check: table
            .table("health_check", &keys::HEALTH_CHECK)
            .map(|mut table| read_health_check(&mut table)),
        tls: table
            .table("tls", &keys::BACKEND_TLS)
            .map(|mut table| BackendTlsDocument {
                origin: table.origin(),
                verify: table.leaf("verify"),
                ca: table.list("ca"),
                server_name: table.leaf("server_name"),
            }),
    }
}

fn read_server_entry(table: &mut Reader<'_, '_>) -> ServerEntryDocument {
    ServerEntryDocument {
        origin: table.origin(),
        address: table.leaf("address"),
        weight: table.leaf("weight"),
    }
}
