//! What is thought of a client's certificate, and how backends are told (alb.md 3.2, 3.3).

use rustls::{CertificateError, Error, OtherError};
use rustls_pki_types::CertificateDer;

use super::client_auth::ChainTooLong;

/// What is thought of a client's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It comes from one of the authorities and is not revoked.
    Success,
    /// It does not verify.
    Failed(Reason),
}

impl Verdict {
    /// The verdict as nginx's `$ssl_client_verify` has it: `SUCCESS`, or `FAILED:` and OpenSSL's words.
    pub fn text(self) -> &'static str {
        match self {
            Self::Success => "SUCCESS",
            Self::Failed(reason) => reason.failed(),
        }
    }
}

/// Why a client's certificate does not verify, in the order of alb.md 3.3 and then the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// No authority of ours is behind it.
    UnknownIssuer,
    /// The same, and it signed itself.
    SelfSigned,
    /// It is on a list.
    Revoked,
    /// There is no list of its issuer.
    NoCrl,
    /// The list of its issuer is past its time.
    CrlExpired,
    /// The list of its issuer is signed by somebody else.
    CrlUntrusted,
    /// A signature of its chain is wrong.
    BadSignature,
    /// A signature of its chain is of a kind that is not known.
    UnknownSignature,
    /// It is not for the authentication of clients.
    Purpose,
    /// A certificate of its chain is no authority's.
    NoAuthority,
    /// An authority has more authorities below it than it may.
    PathLength,
    /// Its names are not those that an authority may vouch for.
    NameConstraint,
    /// It has a critical extension that is not known.
    Extension,
    /// Its chain is too long, or takes too much to follow.
    ChainTooLong,
    /// It is no well-formed certificate of version 3.
    Malformed,
    /// Anything else.
    Unspecified,
}

impl Reason {
    /// The reason in OpenSSL's words.
    pub fn text(self) -> &'static str {
        self.failed().trim_start_matches("FAILED:")
    }

    fn failed(self) -> &'static str {
        match self {
            Self::Expired => "FAILED:certificate has expired",
            Self::NotYetValid => "FAILED:certificate is not yet valid",
            Self::UnknownIssuer => "FAILED:unable to get local issuer certificate",
            Self::SelfSigned => "FAILED:self-signed certificate",
            Self::Revoked => "FAILED:certificate revoked",
            Self::NoCrl => "FAILED:unable to get certificate CRL",
            Self::CrlExpired => "FAILED:CRL has expired",
            Self::CrlUntrusted => "FAILED:CRL signature failure",
            Self::BadSignature => "FAILED:certificate signature failure",
            Self::UnknownSignature => "FAILED:unsupported signature algorithm",
            Self::Purpose => "FAILED:unsuitable certificate purpose",
            Self::NoAuthority => "FAILED:invalid CA certificate",
            Self::PathLength => "FAILED:path length constraint exceeded",
            Self::NameConstraint => "FAILED:permitted subtree violation",
            Self::Extension => "FAILED:unhandled critical extension",
            Self::ChainTooLong => "FAILED:certificate chain too long",
            Self::Malformed => "FAILED:invalid certificate",
            Self::Unspecified => "FAILED:unspecified certificate verification error",
        }
    }

    /// What webpki says, by way of rustls, of a certificate.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "another crate's errors, most of which nobody verifying a client can see"
    )]
    pub(super) fn of(error: &Error, leaf: &CertificateDer<'_>) -> Self {
        let reason = match error {
            Error::InvalidCertificate(error) => Self::of_certificate(error),
            Error::InvalidCertRevocationList(_) => Self::CrlUntrusted,
            _ => Self::Unspecified,
        };
        // One that signed itself mostly calls itself an authority, too.
        let is_strange = matches!(reason, Self::UnknownIssuer | Self::Purpose);
        if is_strange && is_self_issued(leaf) {
            Self::SelfSigned
        } else {
            reason
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "another crate's errors, most of which nobody verifying a client can see"
    )]
    fn of_certificate(error: &CertificateError) -> Self {
        use CertificateError as E;
        match error {
            E::Expired | E::ExpiredContext { .. } => Self::Expired,
            E::NotValidYet | E::NotValidYetContext { .. } => Self::NotYetValid,
            E::UnknownIssuer => Self::UnknownIssuer,
            E::Revoked => Self::Revoked,
            E::UnknownRevocationStatus => Self::NoCrl,
            E::ExpiredRevocationList | E::ExpiredRevocationListContext { .. } => Self::CrlExpired,
            E::BadSignature => Self::BadSignature,
            E::UnsupportedSignatureAlgorithmContext { .. }
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => Self::UnknownSignature,
            E::InvalidPurpose | E::InvalidPurposeContext { .. } => Self::Purpose,
            E::UnhandledCriticalExtension => Self::Extension,
            E::BadEncoding => Self::Malformed,
            E::Other(OtherError(error)) => match error.downcast_ref::<webpki::Error>() {
                Some(error) => Self::of_webpki(error),
                None if error.is::<ChainTooLong>() => Self::ChainTooLong,
                None => Self::Unspecified,
            },
            _ => Self::Unspecified,
        }
    }

    /// What rustls passes on from webpki without a name of its own.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "another crate's errors, most of which nobody verifying a client can see"
    )]
    fn of_webpki(error: &webpki::Error) -> Self {
        use webpki::Error as E;
        match error {
            E::CaUsedAsEndEntity => Self::Purpose,
            E::EndEntityUsedAsCa => Self::NoAuthority,
            E::PathLenConstraintViolated => Self::PathLength,
            E::NameConstraintViolation => Self::NameConstraint,
            E::UnsupportedCriticalExtension => Self::Extension,
            E::MaximumPathDepthExceeded
            | E::MaximumPathBuildCallsExceeded
            | E::MaximumSignatureChecksExceeded
            | E::MaximumNameConstraintComparisonsExceeded => Self::ChainTooLong,
            E::UnsupportedCertVersion
            | E::ExtensionValueInvalid
            | E::MalformedDnsIdentifier
            | E::MalformedExtensions
            | E::MalformedNameConstraint
            | E::InvalidSerialNumber => Self::Malformed,
            _ => Self::Unspecified,
        }
    }
}

fn is_self_issued(leaf: &CertificateDer<'_>) -> bool {
    webpki::EndEntityCert::try_from(leaf).is_ok_and(|leaf| leaf.subject() == leaf.issuer())
}
