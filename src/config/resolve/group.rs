//! `[[server_group]]`

use std::num::NonZeroUsize;

use super::{Resolver, Scope, switch};
use crate::addr::BackendAddr;
use crate::config::defaults;
use crate::config::document::{Completeness, Field, GroupDocument, ServerEntryDocument};
use crate::config::plan::{
    GroupId, GroupPlan, GroupProtocol, Http2, Keepalive, ListenerProtocol, Origin, ServerEntry,
    Switch,
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
        let max_connections_per_server = self.max_connections_per_server(protocol, written);
        let retries = self.number("retries", &written.retries, defaults::RETRIES);
        let servers = self.servers(written);
        let scheduler = self.scheduler(written);
        let written_check = written.health_check.as_ref();
        let health_check = self.health_check(written_check, &servers);
        if let (Some(protocol), Some(plan)) = (protocol, &health_check) {
            self.warn_of_foreign_check(written_check, plan, protocol);
        }
        let sticky = self.sticky_session(written.sticky_session.as_ref());
        let drain = self.connection_drain(written.connection_drain.as_ref());
        let tls = self.backend_tls(protocol, written, &servers);
        let name = self.expand(written.name.given()?)?;
        Some(GroupPlan {
            name,
            protocol: protocol?,
            tls,
            servers,
            scheduler: scheduler?,
            sticky: sticky?,
            drain,
            keepalive,
            connect_timeout,
            max_connections_per_server,
            retries,
            health_check: health_check?,
            origin: written.origin.clone(),
        })
    }

    fn max_connections_per_server(
        &mut self,
        protocol: Option<GroupProtocol>,
        written: &GroupDocument,
    ) -> Option<NonZeroUsize> {
        let limit = NonZeroUsize::new(self.number(
            "max_connections_per_server",
            &written.max_connections_per_server,
            defaults::MAX_CONNECTIONS_PER_SERVER,
        ))?;
        let given = written.max_connections_per_server.given()?;
        match protocol {
            Some(GroupProtocol::Grpc) => {
                self.report
                    .error(
                        &given.origin,
                        "`max_connections_per_server` is for HTTP/1.1 servers",
                    )
                    .label("would bound no calls: they share connections")
                    .also(&written.origin, "the group")
                    .help("leave it out");
            }
            Some(GroupProtocol::Http | GroupProtocol::Https) | None => {}
        }
        Some(limit)
    }

    fn group_protocol(&mut self, written: &GroupDocument) -> Option<GroupProtocol> {
        let words = [
            ("http", Some(GroupProtocol::Http)),
            ("https", Some(GroupProtocol::Https)),
            ("grpc", Some(GroupProtocol::Grpc)),
        ];
        match &written.protocol {
            Field::Absent => Some(defaults::GROUP_PROTOCOL),
            Field::Given(protocol) => self.choice("protocol", protocol, &words),
            Field::Wrong => None,
        }
    }

    /// Reports a group that the clients of a listener could never reach: gRPC needs HTTP/2 from end to end
    /// (alb.md 8.3).
    pub(super) fn check_grpc(
        &mut self,
        group: GroupId,
        reference: &Origin,
        protocol: &ListenerProtocol,
        scope: &Scope,
    ) {
        let help = match protocol {
            ListenerProtocol::Http => "say `protocol = \"https\"` in the listener",
            ListenerProtocol::Https(https) if https.http2 == Http2::Off => {
                "leave `http2 = false` out of the listener"
            }
            ListenerProtocol::Https(_) => return,
        };
        let Some(Some(group)) = scope.group_plans.get(group.0) else {
            return;
        };
        if group.protocol == GroupProtocol::Grpc {
            let name = &group.name;
            self.report
                .error(
                    reference,
                    format!("`{name}` is a gRPC group, and this listener has no HTTP/2"),
                )
                .label("only HTTP/2 clients can ask it")
                .also(&group.origin, "the group")
                .help(help);
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
