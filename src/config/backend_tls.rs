//! TLS towards backends as it was meant: by what name a server is asked for, and whether it has to prove that
//! it is the one.

use rustls_pki_types::ServerName;

use super::client_auth::FilePlan;

/// `[server_group.tls]` of a group whose protocol is `https` (alb.md 7.7).
#[derive(Clone, Debug, PartialEq)]
pub struct BackendTlsPlan {
    /// `verify` and `ca`
    pub verification: Verification,
    /// `server_name`
    pub name: BackendName,
}

/// Whether a backend's certificate is looked at.
#[derive(Clone, Debug, PartialEq)]
pub enum Verification {
    /// It is not: whoever is between sees and changes everything.
    Off,
    /// It has to come from one of these authorities, for the server's name. Never empty.
    By(Vec<FilePlan>),
}

/// The name by which a server is asked for (SNI), and for which its certificate has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendName {
    /// `server_name`
    Fixed(ServerName<'static>),
    /// The host in the server's address: what is verified where nothing else is said. An IP address is verified
    /// and not asked for, as SNI has names only (RFC 6066 section 3).
    Address,
    /// The host of the request, where nothing is verified.
    RequestHost,
}
