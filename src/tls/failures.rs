//! Over what handshakes have failed, and how often in the life of the process (attacks.md row 48).

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::{AlertDescription, Error, InvalidMessage, PeerIncompatible};

use super::accept::NameRefused;
use crate::stream::PlainHttp;

/// What a handshake failed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// No version of TLS that both sides speak.
    Version,
    /// No cipher suite, group or signature scheme that both sides have.
    Suite,
    /// The name that was asked for (SNI).
    Name,
    /// The client's certificate, or ours to the client.
    Certificate,
    /// It was not finished within `handshake_timeout`.
    Timeout,
    /// Plain HTTP came.
    PlainHttp,
    /// Anything else: what is no TLS, a client that left, all failures of OpenSSL.
    Other,
}

static COUNTS: [AtomicU64; 7] = [const { AtomicU64::new(0) }; 7];

impl Category {
    /// What an error of a handshake belongs to.
    pub fn of(error: &io::Error) -> Self {
        let Some(cause) = error.get_ref() else {
            return Self::Other;
        };
        if cause.is::<NameRefused>() {
            Self::Name
        } else if PlainHttp::is(error) {
            Self::PlainHttp
        } else {
            cause.downcast_ref().map_or(Self::Other, Self::of_rustls)
        }
    }

    fn of_rustls(error: &Error) -> Self {
        if is_about_version(error) {
            Self::Version
        } else if is_about_suite(error) {
            Self::Suite
        } else if is_about_certificate(error) {
            Self::Certificate
        } else if matches!(
            error,
            Error::InvalidMessage(InvalidMessage::InvalidServerName)
                | Error::AlertReceived(AlertDescription::UnrecognisedName)
        ) {
            Self::Name
        } else {
            Self::Other
        }
    }

    /// Its name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Suite => "suite",
            Self::Name => "name",
            Self::Certificate => "certificate",
            Self::Timeout => "timeout",
            Self::PlainHttp => "plain_http",
            Self::Other => "other",
        }
    }

    /// Counts one more. How many there were with it.
    pub fn count(self) -> u64 {
        self.counter().fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How many there were.
    pub fn failures(self) -> u64 {
        self.counter().load(Ordering::Relaxed)
    }

    fn counter(self) -> &'static AtomicU64 {
        let [
            version,
            suite,
            name,
            certificate,
            timeout,
            plain_http,
            other,
        ] = &COUNTS;
        match self {
            Self::Version => version,
            Self::Suite => suite,
            Self::Name => name,
            Self::Certificate => certificate,
            Self::Timeout => timeout,
            Self::PlainHttp => plain_http,
            Self::Other => other,
        }
    }
}

/// A client that says nothing of signatures is older than TLS 1.2, and that is what rustls finds first.
fn is_about_version(error: &Error) -> bool {
    matches!(
        error,
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::SignatureAlgorithmsExtensionRequired
        ) | Error::AlertReceived(AlertDescription::ProtocolVersion)
    )
}

fn is_about_suite(error: &Error) -> bool {
    matches!(
        error,
        Error::PeerIncompatible(
            PeerIncompatible::NoCipherSuitesInCommon
                | PeerIncompatible::NoKxGroupsInCommon
                | PeerIncompatible::NoSignatureSchemesInCommon
                | PeerIncompatible::NoEcPointFormatsInCommon
                | PeerIncompatible::EcPointsExtensionRequired
                | PeerIncompatible::UncompressedEcPointsRequired
                | PeerIncompatible::NamedGroupsExtensionRequired
                | PeerIncompatible::KeyShareExtensionRequired
        ) | Error::AlertReceived(
            AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity
        )
    )
}

/// A client that has another certificate of the same authority's name says that it cannot decrypt.
fn is_about_certificate(error: &Error) -> bool {
    matches!(
        error,
        Error::NoCertificatesPresented
            | Error::InvalidCertificate(_)
            | Error::InvalidCertRevocationList(_)
            | Error::AlertReceived(
                AlertDescription::BadCertificate
                    | AlertDescription::UnsupportedCertificate
                    | AlertDescription::CertificateRevoked
                    | AlertDescription::CertificateExpired
                    | AlertDescription::CertificateUnknown
                    | AlertDescription::UnknownCA
                    | AlertDescription::DecryptError
            )
    )
}

#[cfg(test)]
mod tests {
    use rustls::CertificateError;

    use super::*;

    #[test]
    fn an_error_of_a_handshake_belongs_to_one_category() {
        let rustls = |error: Error| io::Error::new(io::ErrorKind::InvalidData, error);
        let lacks = |what| rustls(Error::PeerIncompatible(what));
        let told = |alert| rustls(Error::AlertReceived(alert));
        for (error, category) in [
            (lacks(PeerIncompatible::Tls12NotOffered), "version"),
            (
                lacks(PeerIncompatible::SupportedVersionsExtensionRequired),
                "version",
            ),
            (told(AlertDescription::ProtocolVersion), "version"),
            (lacks(PeerIncompatible::NoCipherSuitesInCommon), "suite"),
            (lacks(PeerIncompatible::NoKxGroupsInCommon), "suite"),
            (told(AlertDescription::HandshakeFailure), "suite"),
            (io::Error::other(NameRefused::Unknown), "name"),
            (io::Error::other(NameRefused::Absent), "name"),
            (rustls(InvalidMessage::InvalidServerName.into()), "name"),
            (rustls(Error::NoCertificatesPresented), "certificate"),
            (rustls(CertificateError::Revoked.into()), "certificate"),
            (told(AlertDescription::UnknownCA), "certificate"),
            (told(AlertDescription::DecryptError), "certificate"),
            (io::Error::other(PlainHttp), "plain_http"),
            (rustls(InvalidMessage::InvalidContentType.into()), "other"),
            (io::ErrorKind::UnexpectedEof.into(), "other"),
        ] {
            assert_eq!(Category::of(&error).name(), category, "{error}");
        }
    }

    #[test]
    fn each_category_is_counted_by_itself() {
        assert_eq!(Category::Timeout.count(), 1);
        assert_eq!(Category::Timeout.count(), 2);
        assert_eq!(Category::Timeout.failures(), 2);
        assert_eq!(Category::Version.failures(), 0);
    }
}
