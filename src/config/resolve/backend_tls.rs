//! `[server_group.tls]`: TLS towards backends (alb.md 7.7).

use super::{Resolver, switch};
use crate::addr::BackendAddr;
use crate::config::backend_tls::{BackendName, BackendTlsPlan, Verification};
use crate::config::defaults;
use crate::config::document::{BackendTlsDocument, Field, GroupDocument};
use crate::config::plan::{GroupProtocol, Origin, ServerEntry, Switch};
use crate::config::value;

impl Resolver<'_> {
    /// How connections to a group's servers are secured: `None` for those of another protocol than `https`.
    pub(super) fn backend_tls(
        &mut self,
        protocol: Option<GroupProtocol>,
        group: &GroupDocument,
        servers: &[ServerEntry],
    ) -> Option<BackendTlsPlan> {
        let written = group.tls.as_ref();
        match (protocol?, written) {
            (GroupProtocol::Https, _) => {}
            (GroupProtocol::Http | GroupProtocol::Grpc, None) => return None,
            (GroupProtocol::Http | GroupProtocol::Grpc, Some(tls)) => {
                self.report
                    .error(&tls.origin, "`[server_group.tls]` is for HTTPS servers")
                    .also(&group.origin, "the group")
                    .help("say `protocol = \"https\"` in the group, or leave the table out");
                return None;
            }
        }
        let verify = written.map_or(defaults::VERIFY, |tls| {
            switch(&tls.verify, defaults::VERIFY)
        });
        let ca = written.map_or_else(Vec::new, |tls| self.files("ca", &tls.ca));
        let name = written.and_then(|tls| {
            self.string("server_name", &tls.server_name, |text| {
                value::tls_name(&text)
            })
        });
        let origin = written.map_or(&group.origin, |tls| &tls.origin);
        match verify {
            Switch::On => {
                self.check_authorities(written);
                self.check_server_names(written, servers);
            }
            Switch::Off if written.is_some_and(|tls| matches!(tls.verify, Field::Wrong)) => {}
            Switch::Off => self.warn_of_unverified(origin, written),
        }
        Some(BackendTlsPlan {
            name: match (name, verify) {
                (Some(name), _) => BackendName::Fixed(name),
                (None, Switch::On) => BackendName::Address,
                (None, Switch::Off) => BackendName::RequestHost,
            },
            verification: match verify {
                Switch::On => Verification::By(ca),
                Switch::Off => Verification::Off,
            },
        })
    }

    /// Nothing is verified by no authority; which ones are trusted is nothing that can be guessed.
    fn check_authorities(&mut self, written: Option<&BackendTlsDocument>) {
        let Some(tls) = written else { return };
        let help = "name the certificates of those who issue the servers' certificates: \
                    `ca = [\"backend-ca.crt\"]`; public ones are in `/etc/ssl/certs/ca-certificates.crt` on Debian";
        match &tls.ca {
            Field::Absent => self.missing(&tls.origin, "`verify = true` needs `ca`", help),
            Field::Given(list) if list.value.is_empty() => {
                self.report.error(&list.origin, "`ca` is empty").help(help);
            }
            Field::Wrong | Field::Given(_) => {}
        }
    }

    /// A unix socket has no name that a certificate could be for.
    fn check_server_names(
        &mut self,
        written: Option<&BackendTlsDocument>,
        servers: &[ServerEntry],
    ) {
        let is_named = written.is_some_and(|tls| !tls.server_name.is_absent());
        let unnamed = |server: &&ServerEntry| match server.address {
            BackendAddr::Unix(_) => !is_named,
            BackendAddr::Ip(_) | BackendAddr::Name { .. } => false,
        };
        if let Some(server) = servers.iter().find(unnamed) {
            let message = "`verify = true` needs `server_name`: a unix socket has no name";
            let help = "say for whom its certificate is: `server_name = \"backend.internal\"`";
            self.missing(&server.origin, message, help);
        }
    }

    fn warn_of_unverified(&mut self, origin: &Origin, written: Option<&BackendTlsDocument>) {
        self.report
            .warning(origin, "the servers of this group are not verified")
            .label("whoever is on the way can read and change what is sent")
            .help("say `verify = true` and name who issues their certificates: `ca = [\"backend-ca.crt\"]`");
        if let Some(ca) = written.and_then(|tls| tls.ca.given()) {
            self.report
                .warning(&ca.origin, "`ca` is not used: nothing is verified")
                .help("say `verify = true`");
        }
    }
}
