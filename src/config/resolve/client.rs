//! Who a client is and whether it may come: `proxy_protocol`, `[listener.access]`, `[listener.client_ip]`.

use http::HeaderName;
use ipnet::IpNet;

use super::Resolver;
use crate::config::client::{
    AccessPlan, ClientIpPlan, ClientIpSettings, PeerTrust, ProxyProtocol, Trusted,
};
use crate::config::defaults;
use crate::config::document::{
    AccessDocument, ClientIpDocument, Field, ProxyProtocolDocument, Written,
};
use crate::config::plan::Origin;
use crate::config::value;
use crate::network::Networks;

impl Resolver<'_> {
    /// From whom a PROXY protocol header is expected.
    pub(super) fn proxy_protocol(
        &mut self,
        written: Option<&ProxyProtocolDocument>,
    ) -> ProxyProtocol {
        let Some(written) = written else {
            return ProxyProtocol::Off;
        };
        let help = "name the proxies in front: `trusted = [\"10.0.0.0/8\"]`";
        self.must_name_somebody("`proxy_protocol`", &written.trusted, &written.origin, help);
        ProxyProtocol::From(Networks::new(&self.networks("trusted", &written.trusted)))
    }

    /// Who may connect; an absent table lets everyone in.
    pub(super) fn access(&mut self, written: Option<&AccessDocument>) -> AccessPlan {
        let Some(written) = written else {
            return AccessPlan::default();
        };
        AccessPlan {
            allow: Networks::new(&self.networks("allow", &written.allow)),
            deny: Networks::new(&self.networks("deny", &written.deny)),
        }
    }

    /// How clients are found; an absent table means that they are the last hop.
    pub(super) fn client_ip(&mut self, written: Option<&ClientIpDocument>) -> ClientIpPlan {
        let Some(written) = written else {
            return ClientIpPlan::LastHop;
        };
        let help = "name the proxies in front, such as `trusted = [\"10.0.0.0/8\"]`; \
                    `[\"0.0.0.0/0\"]` takes the leftmost address";
        self.must_name_somebody(
            "`[listener.client_ip]`",
            &written.trusted,
            &written.origin,
            help,
        );
        let header = self
            .string("header", &written.header, |text| value::header_name(&text))
            .unwrap_or(HeaderName::from_static(defaults::CLIENT_IP_HEADER));
        let trusted = Trusted::new(&self.networks("trusted", &written.trusted));
        let peer_trust = match written.require_trusted_peer.given() {
            Some(Written { value: true, .. }) => PeerTrust::Required,
            Some(Written { value: false, .. }) => PeerTrust::Assumed,
            None => defaults::PEER_TRUST,
        };
        if let (Trusted::Everyone, PeerTrust::Required) = (&trusted, peer_trust)
            && let Some(required) = written.require_trusted_peer.given()
        {
            self.report
                .warning(
                    &required.origin,
                    "`require_trusted_peer` changes nothing here",
                )
                .help("`trusted` has everyone: name the proxies in front instead");
        }
        ClientIpPlan::Retrieved(ClientIpSettings {
            header,
            trusted,
            peer_trust,
        })
    }

    /// The networks of a list; refused ones are left out.
    fn networks(&mut self, key: &str, field: &Field<Vec<Written<String>>>) -> Vec<IpNet> {
        let lists = self.strings(key, field, |text| value::networks(&text));
        lists.into_iter().flatten().collect()
    }

    /// Reports a list of trusted proxies that is absent or empty.
    fn must_name_somebody(
        &mut self,
        table: &str,
        trusted: &Field<Vec<Written<String>>>,
        origin: &Origin,
        help: &str,
    ) {
        match trusted {
            Field::Absent => self.missing(origin, format!("{table} has no `trusted`"), help),
            Field::Given(list) if list.value.is_empty() => {
                self.report
                    .error(&list.origin, "`trusted` is empty")
                    .help(help);
            }
            Field::Given(_) | Field::Wrong => {}
        }
    }
}
