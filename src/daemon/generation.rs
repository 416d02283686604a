//! What runs: a plan whose files have been read, with everything that a connection or request needs.
//!
//! All that can fail is done here, before anything is published. State that must survive a reload is
//! taken over from the generation before: servers by group and address, ticket keys by what tickets are
//! bound to, certificates that are made in memory by their names.

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderValue;

use super::{client_auth, tickets};
use crate::addr::BackendAddr;
use crate::backend::group::SharedGroup;
use crate::backend::server::Server;
use crate::config::plan::{
    CertificatePlan, CertificateSource, HttpsPlan, ListenerPlan, ListenerProtocol, Origin, Plan,
};
use crate::config::report::Report;
use crate::listener::Listener;
use crate::tls::ListenerTls;
use crate::tls::certificate::ServedCertificate;
use crate::tls::client_auth::ClientAuth;
use crate::tls::pem;
use crate::tls::pem_error::PemError;
use crate::tls::self_signed::self_signed;
use crate::tls::store::CertificateStore;
use crate::tls::tickets::{Context, KeySource};

/// A configuration that can be served.
#[derive(Debug)]
pub struct Generation {
    /// What was meant.
    pub plan: Plan,
    /// Its listeners, in the plan's order.
    pub listeners: Vec<Arc<Listener>>,
    /// Its groups, in the plan's order.
    pub groups: Vec<Arc<SharedGroup>>,
    certificates: Vec<Arc<ServedCertificate>>,
}

impl Generation {
    /// Reads the files that a plan names and builds what runs. `None` if anything is wrong, which stands in
    /// the report then.
    pub fn build(plan: Plan, previous: Option<&Self>, report: &mut Report) -> Option<Arc<Self>> {
        let now = SystemTime::now();
        let certificates: Option<Vec<_>> = plan
            .certificates
            .iter()
            .map(|certificate| load(certificate, previous, now, report))
            // All are tried before the first failure counts: every mistake is reported.
            .collect::<Vec<_>>()
            .into_iter()
            .collect();
        let client_auths: Vec<_> = plan
            .listeners
            .iter()
            .map(|listener| client_auth::load(&listener.protocol, report))
            .collect();
        let keys = tickets::key_source(&plan.server.secret, report);
        let stock = Stock {
            certificates: certificates?,
            keys: keys?,
            previous,
        };
        let groups: Vec<_> = plan
            .groups
            .iter()
            .map(|group| SharedGroup::new(group, |address| known(previous, &group.name, address)))
            .collect();
        let slb_id = slb_id(&plan, report)?;
        let listeners: Option<Vec<_>> = plan
            .listeners
            .iter()
            .zip(client_auths)
            .map(|(listener, client_auth)| {
                let client_auth = client_auth.ok()?;
                let tls = match &listener.protocol {
                    ListenerProtocol::Http => None,
                    ListenerProtocol::Https(https) => {
                        Some(secure(listener, https, &stock, client_auth, report)?)
                    }
                };
                Some(Listener::new(listener.clone(), slb_id.clone(), tls))
            })
            .collect();
        Some(Arc::new(Self {
            listeners: listeners?,
            groups,
            certificates: stock.certificates,
            plan,
        }))
    }

    /// Servers that are reached by name, whose addresses have to be looked up.
    pub fn named_servers(&self) -> Vec<Arc<Server>> {
        self.groups
            .iter()
            .flat_map(|group| &group.servers)
            .filter(|server| matches!(server.address(), BackendAddr::Name { .. }))
            .cloned()
            .collect()
    }
}

fn known(previous: Option<&Generation>, group: &str, address: &BackendAddr) -> Option<Arc<Server>> {
    let group = previous?
        .groups
        .iter()
        .find(|known| &*known.name == group)?;
    group
        .servers
        .iter()
        .find(|server| server.address() == address)
        .cloned()
}

fn slb_id(plan: &Plan, report: &mut Report) -> Option<HeaderValue> {
    let value = HeaderValue::from_str(&plan.server.instance_id);
    if value.is_err() {
        report
            .error(
                &Origin::default(),
                "`instance_id` cannot stand in a header field",
            )
            .help("use printable ASCII characters");
    }
    value.ok()
}

fn load(
    plan: &CertificatePlan,
    previous: Option<&Generation>,
    now: SystemTime,
    report: &mut Report,
) -> Option<Arc<ServedCertificate>> {
    let certificate = match &plan.source {
        CertificateSource::SelfSigned(names) => {
            if let Some(same) = previous.and_then(|generation| generation.made_for(names)) {
                return Some(same);
            }
            self_signed(names, now)
                .map_err(|error| {
                    let mistake = report.error(&plan.origin, error.to_string());
                    mistake.help(error.help());
                })
                .ok()
        }
        CertificateSource::Files {
            cert,
            cert_origin,
            key,
            key_origin,
        } => {
            let mut complain = |origin: &Origin, error: PemError| {
                report.error(origin, error.to_string()).help(error.help());
            };
            let chain = pem::read_chain(cert).map_err(|error| complain(cert_origin, error));
            let key = pem::read_key(key).map_err(|error| complain(key_origin, error));
            ServedCertificate::new(chain.ok()?, key.ok()?)
                .map_err(|error| {
                    let mistake = report.error(key_origin, error.to_string());
                    mistake.help(error.help());
                })
                .ok()
        }
    }?;
    if let CertificateSource::Files { cert_origin, .. } = &plan.source {
        for warning in certificate.warnings(now) {
            report
                .warning(cert_origin, warning.to_string())
                .help(warning.help());
        }
    }
    Some(Arc::new(certificate))
}

impl Generation {
    /// The certificate made in memory for these names.
    fn made_for(&self, names: &[String]) -> Option<Arc<ServedCertificate>> {
        let mut both = self.plan.certificates.iter().zip(&self.certificates);
        both.find(|(plan, _)| matches!(&plan.source, CertificateSource::SelfSigned(made) if made == names))
            .map(|(_, certificate)| Arc::clone(certificate))
    }
}

/// What listeners are secured with.
struct Stock<'a> {
    certificates: Vec<Arc<ServedCertificate>>,
    keys: KeySource,
    previous: Option<&'a Generation>,
}

fn secure(
    listener: &ListenerPlan,
    plan: &HttpsPlan,
    stock: &Stock<'_>,
    client_auth: Option<ClientAuth>,
    report: &mut Report,
) -> Option<ListenerTls> {
    let mut served = plan
        .certificates
        .iter()
        .filter_map(|id| stock.certificates.get(id.0))
        .cloned();
    let store = CertificateStore::new(served.next()?, served.collect())
        .answering_unknown_names(plan.unknown_name);
    let clients = client_auth.as_ref().map(ClientAuth::fingerprint);
    let clients = clients.as_ref().map_or(&[][..], |digest| &digest[..]);
    let context = Context::new(&listener.name, &plan.tls_policy, clients);
    let Some(ticketer) = tickets::ticketer(context, &stock.keys, stock.previous) else {
        report.error(&listener.origin, "no key for session tickets can be made");
        return None;
    };
    ListenerTls::new(&plan.tls_policy, store, plan.http2, client_auth, ticketer)
        .map_err(|error| {
            let message = format!("TLS cannot be set up: {error}");
            report.error(&listener.origin, message);
        })
        .ok()
}
