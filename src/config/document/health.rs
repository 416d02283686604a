//! `[server_group.health_check]`

use super::reader::Reader;
use super::{Field, Quantity, Written};
use crate::config::plan::Origin;

/// `[server_group.health_check]`
#[derive(Debug)]
pub(in crate::config) struct HealthCheckDocument {
    /// Where the table stands.
    pub(in crate::config) origin: Origin,
    /// `enabled`
    pub(in crate::config) enabled: Field<bool>,
    /// `protocol`
    pub(in crate::config) protocol: Field<String>,
    /// `interval`
    pub(in crate::config) interval: Field<Quantity>,
    /// `timeout`
    pub(in crate::config) timeout: Field<Quantity>,
    /// `healthy_threshold`
    pub(in crate::config) healthy_threshold: Field<i64>,
    /// `unhealthy_threshold`
    pub(in crate::config) unhealthy_threshold: Field<i64>,
    /// `port`
    pub(in crate::config) port: Field<i64>,
    /// `method`
    pub(in crate::config) method: Field<String>,
    /// `http_version`
    pub(in crate::config) http_version: Field<String>,
    /// `path`
    pub(in crate::config) path: Field<String>,
    /// `host`
    pub(in crate::config) host: Field<String>,
    /// `codes`
    pub(in crate::config) codes: Field<Vec<Written<String>>>,
}

pub(super) fn read_health_check(table: &mut Reader<'_, '_>) -> HealthCheckDocument {
    HealthCheckDocument {
        origin: table.origin(),
        enabled: table.leaf("enabled"),
        protocol: table.leaf("protocol"),
        interval: table.leaf("interval"),
        timeout: table.leaf("timeout"),
        healthy_threshold: table.leaf("healthy_threshold"),
        unhealthy_threshold: table.leaf("unhealthy_threshold"),
        port: table.leaf("port"),
        method: table.leaf("method"),
        http_version: table.leaf("http_version"),
        path: table.leaf("path"),
        host: table.leaf("host"),
        codes: table.list("codes"),
    }
}
