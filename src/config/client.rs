//! The part of the plan that says who a client is and whether it may come: `proxy_protocol`,
//! `[listener.access]`, `[listener.client_ip]` (alb.md section 10, decisions 4 and 24).

use std::net::IpAddr;

use http::HeaderName;
use ipnet::IpNet;

use crate::network::Networks;

/// `proxy_protocol`: from whom a PROXY protocol header is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// From nobody.
    Off,
    /// From these peers, who must begin with it; all others are clients themselves.
    From(Networks),
}

impl ProxyProtocol {
    /// Whether this peer has to begin with a header.
    pub fn is_expected_from(&self, peer: IpAddr) -> bool {
        match self {
            Self::Off => false,
            Self::From(trusted) => trusted.contains(peer),
        }
    }
}

/// `[listener.access]`: who may connect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessPlan {
    /// `allow`: if not empty, only these.
    pub allow: Networks,
    /// `deny`: never these.
    pub deny: Networks,
}

impl AccessPlan {
    /// Whether a client may connect.
    pub fn admits(&self, client: IpAddr) -> bool {
        (self.allow.is_empty() || self.allow.contains(client)) && !self.deny.contains(client)
    }
}

/// `[listener.client_ip]`: whom a request is attributed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientIpPlan {
    /// The last hop.
    LastHop,
    /// Whom a header names.
    Retrieved(ClientIpSettings),
}

/// How a listener finds its clients in a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIpSettings {
    /// `header`: X-Forwarded-For, or what a product in front sets.
    pub header: HeaderName,
    /// `trusted`: the proxies.
    pub trusted: Trusted,
    /// `require_trusted_peer`
    pub peer_trust: PeerTrust,
}

/// Which addresses are proxies whose word is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trusted {
    /// All: `0.0.0.0/0`, which by the documents means the leftmost entry, even if that is IPv6.
    Everyone,
    /// These.
    Networks(Networks),
}

impl Trusted {
    /// Those of a list, in which `0.0.0.0/0` or `::/0` means everyone.
    pub fn new(networks: &[IpNet]) -> Self {
        if networks.iter().any(|network| network.prefix_len() == 0) {
            Self::Everyone
        } else {
            Self::Networks(Networks::new(networks))
        }
    }

    /// Whether an address is one of them.
    pub fn has(&self, ip: IpAddr) -> bool {
        match self {
            Self::Everyone => true,
            Self::Networks(networks) => networks.contains(ip),
        }
    }
}

/// Whether the header is read although the last hop is no trusted proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerTrust {
    /// It is: the documented behaviour, which lets a direct client name its own address.
    Assumed,
    /// It is not (`require_trusted_peer = true`).
    Required,
}
