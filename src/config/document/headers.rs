//! `[listener.headers]`

use serde::Deserialize;

use super::Field;
use super::reader::Reader;

/// A header that is switched on or off, or on by another name.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(in crate::config) enum SwitchOrName {
    /// `true` or `false`.
    Switch(bool),
    /// A string.
    Name(String),
}

/// `[listener.headers]`
#[derive(Debug)]
pub(in crate::config) struct HeadersDocument {
    /// `x_forwarded_for`
    pub(in crate::config) x_forwarded_for: Field<String>,
    /// `x_forwarded_proto`
    pub(in crate::config) x_forwarded_proto: Field<bool>,
    /// `x_forwarded_port`
    pub(in crate::config) x_forwarded_port: Field<bool>,
    /// `x_forwarded_host`
    pub(in crate::config) x_forwarded_host: Field<bool>,
    /// `x_forwarded_client_srcport`
    pub(in crate::config) x_forwarded_client_srcport: Field<bool>,
    /// `slb_id`
    pub(in crate::config) slb_id: Field<bool>,
    /// `request_id`
    pub(in crate::config) request_id: Field<bool>,
    /// `tls_protocol`
    pub(in crate::config) tls_protocol: Field<bool>,
    /// `tls_cipher`
    pub(in crate::config) tls_cipher: Field<bool>,
    /// `client_cert_subject_dn`
    pub(in crate::config) client_cert_subject_dn: Field<SwitchOrName>,
    /// `client_cert_issuer_dn`
    pub(in crate::config) client_cert_issuer_dn: Field<SwitchOrName>,
    /// `client_cert_fingerprint`
    pub(in crate::config) client_cert_fingerprint: Field<SwitchOrName>,
    /// `client_cert_client_verify`
    pub(in crate::config) client_cert_client_verify: Field<SwitchOrName>,
    /// `client_cert_fingerprint_hash`
    pub(in crate::config) client_cert_fingerprint_hash: Field<String>,
    /// `client_cert_rfc9440`
    pub(in crate::config) client_cert_rfc9440: Field<bool>,
}

/// Reads the table.
pub(super) fn read_headers(table: &mut Reader<'_, '_>) -> HeadersDocument {
    HeadersDocument {
        x_forwarded_for: table.leaf("x_forwarded_for"),
        x_forwarded_proto: table.leaf("x_forwarded_proto"),
        x_forwarded_port: table.leaf("x_forwarded_port"),
        x_forwarded_host: table.leaf("x_forwarded_host"),
        x_forwarded_client_srcport: table.leaf("x_forwarded_client_srcport"),
        slb_id: table.leaf("slb_id"),
        request_id: table.leaf("request_id"),
        tls_protocol: table.leaf("tls_protocol"),
        tls_cipher: table.leaf("tls_cipher"),
        client_cert_subject_dn: table.leaf("client_cert_subject_dn"),
        client_cert_issuer_dn: table.leaf("client_cert_issuer_dn"),
        client_cert_fingerprint: table.leaf("client_cert_fingerprint"),
        client_cert_client_verify: table.leaf("client_cert_client_verify"),
        client_cert_fingerprint_hash: table.leaf("client_cert_fingerprint_hash"),
        client_cert_rfc9440: table.leaf("client_cert_rfc9440"),
    }
}
