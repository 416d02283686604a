//! Mutual authentication as it was meant: whom a listener asks for a certificate, and what backends are told.

use std::path::PathBuf;

use super::plan::{Origin, Switch};

/// `[listener.client_auth]`: whether clients are asked for a certificate (alb.md 5.5).
#[derive(Clone, Debug, PartialEq)]
pub enum ClientAuthPlan {
    /// They are not.
    Off,
    /// They are.
    On(ClientAuthSettings),
}

/// Whose certificates are taken.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientAuthSettings {
    /// `mode`
    pub mode: ClientAuthMode,
    /// `ca`: whom certificates must come from; empty only under [`ClientAuthMode::OptionalNoCa`].
    pub ca: Vec<FilePlan>,
    /// `crl`: lists of revoked certificates; once there is one, every issuer needs one.
    pub crl: Vec<FilePlan>,
}

/// What becomes of clients without a certificate, and of those whose certificate does not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuthMode {
    /// `required`: both are refused.
    Required,
    /// `optional`: the former are served, the latter refused.
    Optional,
    /// `optional_no_ca`: both are served, and backends are told.
    OptionalNoCa,
}

/// A file that is read when the plan is built.
#[derive(Clone, Debug, PartialEq)]
pub struct FilePlan {
    /// Absolute, as seen from the configuration file's folder.
    pub path: PathBuf,
    /// Where it was written.
    pub origin: Origin,
}

/// `client_cert_*` of `[listener.headers]`: what backends are told of the client's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertPlan {
    /// `client_cert_subject_dn`
    pub subject_dn: NamedHeader,
    /// `client_cert_issuer_dn`
    pub issuer_dn: NamedHeader,
    /// `client_cert_fingerprint`
    pub fingerprint: NamedHeader,
    /// `client_cert_fingerprint_hash`
    pub fingerprint_hash: FingerprintHash,
    /// `client_cert_client_verify`
    pub client_verify: NamedHeader,
    /// `client_cert_rfc9440`: Client-Cert and Client-Cert-Chain.
    pub rfc9440: Switch,
}

/// A header that may go by another name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedHeader {
    /// Not sent.
    Off,
    /// Sent under its own name.
    Default,
    /// Sent under this one: lower-case, unlike every name that lockgate manages.
    Named(String),
}

/// The hash of a fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FingerprintHash {
    /// `sha1`
    Sha1,
    /// `sha256`
    Sha256,
}
