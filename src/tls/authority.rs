//! The certificates of authorities, and their revocation lists: what cannot be used, and what a user should
//! know of what can.

use std::fmt;
use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_cert::Certificate;
use x509_cert::der::asn1::AnyRef;
use x509_cert::der::{Decode, SliceReader};
use x509_cert::name::Name;
use x509_cert::time::Time;

/// Whether a certificate can be an authority's.
pub fn check_authority(authority: &CertificateDer<'_>) -> Result<(), AuthorityError> {
    webpki::anchor_from_trusted_cert(authority)
        .map(drop)
        .map_err(|error| AuthorityError::Authority(error.to_string()))
}

/// Whether a revocation list can be used.
pub fn check_crl(crl: &CertificateRevocationListDer<'_>) -> Result<(), AuthorityError> {
    webpki::OwnedCertRevocationList::from_der(crl)
        .map(drop)
        .map_err(|error| AuthorityError::Crl(error.to_string()))
}

/// What certificates cannot be verified by; the text continues a sentence that begins with the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorityError {
    /// An authority's certificate, and what the parser says of it.
    Authority(String),
    /// A revocation list, likewise.
    Crl(String),
}

impl AuthorityError {
    /// What the user can do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Authority(_) => "look at it with `openssl x509 -noout -text -in FILE`",
            Self::Crl(_) => "look at it with `openssl crl -noout -text -in FILE`",
        }
    }
}

impl fmt::Display for AuthorityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authority(reason) => {
                write!(f, "a certificate cannot be used as an authority: {reason}")
            }
            Self::Crl(reason) => write!(f, "a revocation list cannot be used: {reason}"),
        }
    }
}

impl std::error::Error for AuthorityError {}

/// What a user should know of an authority or list at the moment `now`; it is used all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorityWarning {
    /// The certificate of this name expired at that moment.
    Expired(String, SystemTime),
    /// The list of this issuer was to be renewed before that moment.
    Stale(String, SystemTime),
}

impl AuthorityWarning {
    /// Looks at an authority's certificate.
    pub fn of_authority(authority: &CertificateDer<'_>, now: SystemTime) -> Option<Self> {
        let parsed = Certificate::from_der(authority).ok()?;
        let parsed = parsed.tbs_certificate();
        let end = parsed.validity().not_after.to_system_time();
        (end < now).then(|| Self::Expired(parsed.subject().to_string(), end))
    }

    /// Looks at a revocation list.
    pub fn of_crl(crl: &CertificateRevocationListDer<'_>, now: SystemTime) -> Option<Self> {
        let (issuer, end) = issuer_and_end(crl)?;
        (end < now).then(|| Self::Stale(issuer.to_string(), end))
    }

    /// What the user can do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Expired(..) => "certificates that it has issued are verified by it all the same",
            Self::Stale(..) => "until it is renewed, no certificate of this issuer verifies",
        }
    }
}

impl fmt::Display for AuthorityWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = |time: &SystemTime| humantime::format_rfc3339_seconds(*time);
        match self {
            Self::Expired(name, at) => {
                write!(f, "the authority `{name}` expired at `{}`", date(at))
            }
            Self::Stale(issuer, at) => write!(
                f,
                "the revocation list of `{issuer}` was to be renewed before `{}`",
                date(at)
            ),
        }
    }
}

/// The head of a list (RFC 5280 section 5.1), without a look at its entries, of which there may be a million.
fn issuer_and_end(crl: &[u8]) -> Option<(Name, SystemTime)> {
    let list = AnyRef::from_der(crl).ok()?;
    let mut list = SliceReader::new(list.value()).ok()?;
    let fields = AnyRef::decode(&mut list).ok()?;
    let mut fields = SliceReader::new(fields.value()).ok()?;
    let _version = Option::<u8>::decode(&mut fields).ok()?;
    let _signature = AnyRef::decode(&mut fields).ok()?;
    let issuer = Name::decode(&mut fields).ok()?;
    let _this_update = Time::decode(&mut fields).ok()?;
    let next_update = Option::<Time>::decode(&mut fields).ok()??;
    Some((issuer, next_update.to_system_time()))
}
