//! `[[server_group]]`

use super::{Resolver, switch};
use crate::addr::BackendAddr;
use crate::config::defaults;
use crate::config::document::{
    Completeness, Field, GroupDocument, ListenerDocument, ServerEntryDocument,
};
use crate::config::plan::{
    GroupPlan, GroupProtocol, Http2, Keepalive, ListenerPlan, ListenerProtocol, ServerEntry, Switch,
};
use crate::config::value;

impl Resolver<'_> {
    /// One server group; `None` if it has mistakes.
    pub(super) fn group(&mut self, written: &GroupDocument) -> Option<GroupPlan> {
        let idle = self.duration(
            "keepalive_idle",
            &written.keepalive_idle,
            defaults::KEEPALIVE_IDLE,
        );
        let keepalive = match switch(&written.keepalive, defaults::KEEPALIVE) {
            Switch::On => Keepalive::Idle(idle),
            Switch::Off => Keepalive::Off,
        };
        let connect_timeout = self.duration(
            "connect_timeout",
            &written.connect_timeout,
            defaults::CONNECT_TIMEOUT,
        );
        let protocol = self.group_protocol(written);
        let retries = self.number("retries", &written.retries, defaults::RETRIES);
        let servers = self.servers(written);
        let health_check = self.health_check(written.health_check.as_ref(), &servers);
        let name = self.expand(written.name.given()?)?;
        Some(GroupPlan {
            name,
            protocol: protocol?,
            servers,
            keepalive,
            connect_timeout,
            retries,
            health_check: health_check?,
            origin: written.origin.clone(),
        })
    }

    fn group_protocol(&mut self, written: &GroupDocument) -> Option<GroupProtocol> {
        let words = [
            ("http", Some(GroupProtocol::Http)),
            ("grpc", Some(GroupProtocol::Grpc)),
            ("https", None),
        ];
        match &written.protocol {
            Field::Absent => Some(defaults::GROUP_PROTOCOL),
            Field::Given(protocol) => self.choice("protocol", protocol, &words),
            Field::Wrong => None,
        }
    }

    /// Reports the listeners whose clients could never reach their group: gRPC needs HTTP/2 from end to end
    /// (alb.md 8.3).
    pub(super) fn check_grpc(
        &mut self,
        written: &[ListenerDocument],
        listeners: &[Option<ListenerPlan>],
        groups: &[Option<GroupPlan>],
    ) {
        for (document, listener) in written.iter().zip(listeners) {
            let Some(listener) = listener else { continue };
            let Some(Some(group)) = groups.get(listener.group.0) else {
                continue;
            };
            let help = match &listener.protocol {
                ListenerProtocol::Http => "say `protocol = \"https\"` in the listener",
                ListenerProtocol::Https(https) if https.http2 == Http2::Off => {
                    "leave `http2 = false` out of the listener"
                }
                ListenerProtocol::Https(_) => continue,
            };
            if let (GroupProtocol::Grpc, Some(reference)) =
                (group.protocol, document.server_group.given())
            {
                self.report
                    .error(
                        &reference.origin,
                        format!(
                            "`{}` is a gRPC group, and this listener has no HTTP/2",
                            group.name
                        ),
                    )
                    .label("only HTTP/2 clients can ask it")
                    .also(&group.origin, "the group")
                    .help(help);
            }
        }
    }

    fn servers(&mut self, group: &GroupDocument) -> Vec<ServerEntry> {
        let entries = &group.servers.rows;
        let mut servers: Vec<ServerEntry> = Vec::with_capacity(entries.len());
        for entry in entries {
            let weight = self.number("weight", &entry.weight, defaults::WEIGHT);
            let Some(address) = self.server_address(entry) else {
                continue;
            };
            if let Some(first) = servers.iter().find(|server| server.address == address) {
                self.report
                    .error(
                        &entry.origin,
                        format!("the server `{address}` is twice in this group"),
                    )
                    .label("the second")
                    .also(&first.origin, "the first")
                    .help("a larger share of the requests is what `weight` is for");
            }
            servers.push(ServerEntry {
                address,
                weight,
                origin: entry.origin.clone(),
            });
        }
        self.warn_of_idle_group(group, &servers);
        servers
    }

    fn server_address(&mut self, entry: &ServerEntryDocument) -> Option<BackendAddr> {
        if entry.address.is_absent() {
            let help = "add `address = \"host:port\"` or `address = \"unix:/path\"`";
            self.missing(&entry.origin, "this server has no `address`", help);
        }
        let folder = self.folder.clone();
        self.string("address", &entry.address, |text| {
            value::backend_address(&text, &folder)
        })
    }

    /// A group that can serve nobody is taken, with a warning (alb.md 7.1: weight 0 takes no requests).
    fn warn_of_idle_group(&mut self, group: &GroupDocument, servers: &[ServerEntry]) {
        let some_are_missing = self.completeness == Completeness::Partial
            || group.servers.completeness == Completeness::Partial
            || servers.len() < group.servers.rows.len();
        if some_are_missing {
            return;
        }
        let message = if servers.is_empty() {
            "this server group has no servers"
        } else if servers.iter().all(|server| server.weight == 0) {
            "every server of this group has the weight 0"
        } else {
            return;
        };
        self.report
            .warning(&group.origin, message)
            .label("answers every request with 503");
    }
}
