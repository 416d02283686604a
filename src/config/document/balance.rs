//! The tables of `[[server_group]]` about who stays with whom and how servers come and go, as written.

use super::reader::Reader;
use super::{Field, Quantity};
use crate::config::plan::Origin;

/// `[server_group.sticky_session]`
#[derive(Debug)]
pub(in crate::config) struct StickySessionDocument {
    /// Where the table stands.
    pub(in crate::config) origin: Origin,
    /// `enabled`
    pub(in crate::config) enabled: Field<bool>,
    /// `type`
    pub(in crate::config) kind: Field<String>,
    /// `cookie`
    pub(in crate::config) cookie: Field<String>,
    /// `timeout`
    pub(in crate::config) timeout: Field<Quantity>,
}

/// `[server_group.slow_start]`
#[derive(Debug)]
pub(in crate::config) struct SlowStartDocument {
    /// `enabled`
    pub(in crate::config) enabled: Field<bool>,
    /// `duration`
    pub(in crate::config) duration: Field<Quantity>,
}

/// `[server_group.connection_drain]`
#[derive(Debug)]
pub(in crate::config) struct ConnectionDrainDocument {
    /// `enabled`
    pub(in crate::config) enabled: Field<bool>,
    /// `timeout`
    pub(in crate::config) timeout: Field<Quantity>,
}

pub(super) fn read_sticky_session(table: &mut Reader<'_, '_>) -> StickySessionDocument {
    StickySessionDocument {
        origin: table.origin(),
        enabled: table.leaf("enabled"),
        kind: table.leaf("type"),
        cookie: table.leaf("cookie"),
        timeout: table.leaf("timeout"),
    }
}

pub(super) fn read_slow_start(table: &mut Reader<'_, '_>) -> SlowStartDocument {
    SlowStartDocument {
        enabled: table.leaf("enabled"),
        duration: table.leaf("duration"),
    }
}

pub(super) fn read_connection_drain(table: &mut Reader<'_, '_>) -> ConnectionDrainDocument {
    ConnectionDrainDocument {
        enabled: table.leaf("enabled"),
        timeout: table.leaf("timeout"),
    }
}
