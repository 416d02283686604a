//! What the feature `legacy-tls` adds to TLS policies: clients that OpenSSL serves.

use super::Resolver;
use super::tls_policy::listed;
use crate::config::document::{ListenerDocument, TlsPolicyDocument, Written};
use crate::config::tls_policy::{Engine, OlderClients, Suite, TlsPolicy, Version};

impl Resolver<'_> {
    /// A policy as a listener has it: older clients are refused where clients are authenticated.
    pub(super) fn for_listener(policy: TlsPolicy, written: &ListenerDocument) -> TlsPolicy {
        let older_clients = match &written.client_auth {
            Some(_) => OlderClients::Refused,
            None => OlderClients::Served,
        };
        TlsPolicy {
            older_clients,
            ..policy
        }
    }

    /// Whether a listener's policy would serve more versions if it did not authenticate its clients.
    pub(super) fn keeps_out_older_clients(policy: &TlsPolicy) -> bool {
        let open = TlsPolicy {
            older_clients: OlderClients::Served,
            ..policy.clone()
        };
        open.effective_versions().count() > policy.effective_versions().count()
    }

    /// Warns of versions that nobody should speak any more.
    pub(super) fn warn_of_old_versions(&mut self, policy: &TlsPolicy, reference: &Written<String>) {
        let effective = policy.effective_versions();
        let old = listed(effective.filter(is_deprecated).map(Version::key));
        if old.is_empty() {
            return;
        }
        let name = policy.name.escape_debug();
        self.report
            .warning(
                &reference.origin,
                format!("the TLS policy `{name}` serves clients that speak {old}"),
            )
            .label("RFC 8996 forbids TLS 1.0 and 1.1")
            .help("only clients that offer nothing newer get them, by OpenSSL; choose a newer policy once there are none");
    }

    /// A policy of the file must have something for clients of today, whom rustls serves.
    pub(super) fn check_modern(
        &mut self,
        written: &TlsPolicyDocument,
        versions: &[Version],
        suites: &[&'static Suite],
    ) {
        let is_modern = |suite: &&&Suite| {
            let mut own = suite.versions().iter();
            suite.engine() == Some(Engine::Rustls) && own.any(|version| versions.contains(version))
        };
        if let Some(list) = written.cipher_suites.given()
            && suites.iter().find(is_modern).is_none()
        {
            self.report
                .error(&list.origin, "this policy has suites for older clients only")
                .label("every one is CBC or has RSA key exchange")
                .help("add one for others, such as ECDHE-RSA-AES128-GCM-SHA256 or TLS_AES_128_GCM_SHA256");
        }
    }
}

fn is_deprecated(version: &Version) -> bool {
    match version {
        Version::Tls10 | Version::Tls11 => true,
        Version::Tls12 | Version::Tls13 => false,
    }
}
