//! What runs: a plan whose files have been read, with everything that a connection or request needs.
//!
//! All that can fail is done here, before anything is published. State that must survive a reload is
//! taken over from the generation before: servers by group and address, ticket keys by what tickets are
//! bound to, certificates by their content.

use std::collections::HashSet;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::certificates::Certificates;
use super::{backend_tls, client_auth, sticky, tickets};
use crate::addr::BackendAddr;
use crate::backend::group::{Addresses, SharedGroup};
use crate::config::plan::{HttpsPlan, ListenerPlan, ListenerProtocol, Origin, Plan};
use crate::config::report::Report;
use crate::listener::Listener;
use crate::mark::Marker;
use crate::tls::ListenerTls;
use crate::tls::client_auth::ClientAuth;
use crate::tls::store::CertificateStore;
use crate::tls::tickets::{Context, KeySource};
use crate::transform::client_cert;

/// A configuration that can be served.
#[derive(Debug)]
pub struct Generation {
    /// What was meant.
    pub plan: Arc<Plan>,
    /// Its listeners, in the plan's order.
    pub listeners: Vec<Arc<Listener>>,
    /// Its groups, in the plan's order.
    pub groups: Vec<Arc<SharedGroup>>,
    certificates: Arc<Certificates>,
    marker: Arc<Marker>,
}

impl Generation {
    /// Reads the files that a plan names and builds what runs; names stand for `addresses`. `None` if anything is
    /// wrong, which stands in the report then.
    pub fn build(
        plan: Plan,
        addresses: &Addresses,
        previous: Option<&Self>,
        report: &mut Report,
    ) -> Option<Arc<Self>> {
        let loaded = previous.map(|generation| &*generation.certificates);
        let certificates = Certificates::load(&plan.certificates, loaded, report);
        let client_auths: Vec<_> = plan
            .listeners
            .iter()
            .map(|listener| client_auth::load(&listener.protocol, report))
            .collect();
        let backend_tls = backend_tls::load_all(&plan.groups, previous, report);
        let keys = tickets::key_source(&plan.server.secret, report);
        let stock = Stock {
            certificates: certificates?,
            keys: keys?,
            previous,
        };
        let Some(marker) = sticky::marker(&stock.keys, previous.map(|known| &known.marker)) else {
            report.error(&Origin::default(), "no key for sticky cookies can be made");
            return None;
        };
        let groups: Option<Vec<_>> = plan
            .groups
            .iter()
            .zip(backend_tls)
            .map(|(group, tls)| {
                let same = previous.and_then(|generation| generation.group_named(&group.name));
                Some(Arc::new(SharedGroup::new(
                    group,
                    tls.ok()?,
                    addresses,
                    &marker,
                    same,
                )))
            })
            .collect();
        let groups = groups?;
        let slb_id = slb_id(&plan, report)?;
        let own_names = own_names(&plan);
        let listeners: Option<Vec<_>> = plan
            .listeners
            .iter()
            .zip(client_auths)
            .map(|(listener, client_auth)| {
                let names = (&slb_id, own_names.as_ref());
                listen(listener, client_auth.ok()?, names, &stock, report)
            })
            .collect();
        Some(Arc::new(Self {
            listeners: listeners?,
            groups,
            certificates: Arc::new(stock.certificates),
            marker,
            plan: Arc::new(plan),
        }))
    }

    fn listener_named(&self, name: &str) -> Option<&Listener> {
        let mut listeners = self.listeners.iter().map(Arc::as_ref);
        listeners.find(|listener| &*listener.name == name)
    }

    /// The same with the servers that its names stand for now; `None` if they are the same servers.
    pub fn regrouped(&self, addresses: &Addresses) -> Option<Arc<Self>> {
        let mut news = false;
        let groups = self
            .plan
            .groups
            .iter()
            .zip(&self.groups)
            .map(|(plan, group)| {
                let now = SharedGroup::new(
                    plan,
                    group.tls.clone(),
                    addresses,
                    &self.marker,
                    Some(group),
                );
                if now.has_servers_of(group) {
                    return Arc::clone(group);
                }
                news = true;
                Arc::new(now)
            })
            .collect();
        news.then(|| {
            Arc::new(Self {
                plan: Arc::clone(&self.plan),
                listeners: self.listeners.clone(),
                groups,
                certificates: Arc::clone(&self.certificates),
                marker: Arc::clone(&self.marker),
            })
        })
    }

    /// The names of servers, which have to be looked up.
    pub fn hosts(&self) -> HashSet<String> {
        let servers = self.plan.groups.iter().flat_map(|group| &group.servers);
        servers
            .filter_map(|server| match &server.address {
                BackendAddr::Name { host, .. } => Some(host.clone()),
                BackendAddr::Ip(_) | BackendAddr::Unix(_) => None,
            })
            .collect()
    }

    /// The group of that name.
    pub fn group_named(&self, name: &str) -> Option<&SharedGroup> {
        let mut groups = self.groups.iter().map(Arc::as_ref);
        groups.find(|group| &*group.name == name)
    }
}

/// The names that users gave to headers of identity: a listener's backends may be another's, too.
fn own_names(plan: &Plan) -> Option<Arc<[HeaderName]>> {
    let listeners = plan.listeners.iter();
    let names: Vec<_> = listeners
        .flat_map(|listener| client_cert::own_names(&listener.headers.client_cert))
        .collect();
    (!names.is_empty()).then(|| names.into())
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

/// A listener as planned, which takes over what the same had before.
fn listen(
    plan: &ListenerPlan,
    client_auth: Option<ClientAuth>,
    (slb_id, own_names): (&HeaderValue, Option<&Arc<[HeaderName]>>),
    stock: &Stock<'_>,
    report: &mut Report,
) -> Option<Arc<Listener>> {
    let tls = match &plan.protocol {
        ListenerProtocol::Http => None,
        ListenerProtocol::Https(https) => Some(secure(plan, https, stock, client_auth, report)?),
    };
    let previous = stock.previous;
    let before = previous.and_then(|generation| generation.listener_named(&plan.name));
    let own_names = own_names.cloned();
    Some(Listener::new(
        plan.clone(),
        before,
        slb_id.clone(),
        own_names,
        tls,
    ))
}

/// What listeners are secured with.
struct Stock<'a> {
    certificates: Certificates,
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
        .filter_map(|id| stock.certificates.get(*id))
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
