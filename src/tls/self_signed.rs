//! Certificates made in memory, for trying things out: `self_signed` in the configuration.
//!
//! They are new at every start, so no client trusts them; the key never leaves the process.

use std::fmt;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::PrivateKeyDer;

use super::certificate::{CertificateError, ServedCertificate};

/// Makes a P-256 certificate for DNS names and IP addresses, valid for 90 days from `now`.
pub fn self_signed(
    names: &[String],
    now: SystemTime,
) -> Result<ServedCertificate, SelfSignedError> {
    let mut params = CertificateParams::new(names).map_err(SelfSignedError::Name)?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "lockgate");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since_epoch = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_err(|_| SelfSignedError::Time)?;
    let date = |since_epoch: Duration| epoch.checked_add(since_epoch.try_into().ok()?);
    params.not_before = date(since_epoch).ok_or(SelfSignedError::Time)?;
    params.not_after = date(since_epoch.saturating_add(LIFETIME)).ok_or(SelfSignedError::Time)?;
    let key = KeyPair::generate().map_err(SelfSignedError::Key)?;
    let certificate = params.self_signed(&key).map_err(SelfSignedError::Key)?;
    let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    ServedCertificate::new(vec![certificate.der().clone()], private)
        .map_err(SelfSignedError::Certificate)
}

/// A certificate that could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SelfSignedError {
    /// A name that a certificate cannot carry.
    Name(rcgen::Error),
    /// A clock before 1970 or far in the future.
    Time,
    /// The key could not be made or did not sign.
    Key(rcgen::Error),
    /// The result cannot be served.
    Certificate(CertificateError),
}

impl SelfSignedError {
    /// What the user can do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Name(_) => {
                "names are DNS names in ASCII (an international one as `xn--...`) or IP addresses"
            }
            Self::Time => "set the system's clock",
            Self::Key(_) => "the system gave no random numbers; is `/dev/urandom` there?",
            Self::Certificate(error) => error.help(),
        }
    }
}

impl fmt::Display for SelfSignedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(_) => {
                f.write_str("a name of a self-signed certificate is not a DNS name or IP address")
            }
            Self::Time => f.write_str("the clock is outside of what a certificate can state"),
            Self::Key(error) => write!(f, "no self-signed certificate could be made: {error}"),
            Self::Certificate(error) => {
                write!(f, "a self-signed certificate cannot be served: {error}")
            }
        }
    }
}

impl std::error::Error for SelfSignedError {}

/// 90 days.
const LIFETIME: Duration = Duration::from_secs(90 * 24 * 60 * 60);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, RootCertStore};

    use super::*;
    use crate::config::plan::Http2;
    use crate::config::tls_policy::SystemPolicy;
    use crate::tls::certificate::{CertificateWarning, Curve, KeyKind};
    use crate::tls::server_name::covers;
    use crate::tls::store::CertificateStore;
    use crate::tls::testing::{handshake_with, listener_tls};

    #[test]
    fn names_addresses_and_90_days() {
        let now = humantime::parse_rfc3339("2030-01-01T00:00:00Z").unwrap();
        let names = ["localhost", "*.example.com", "127.0.0.1", "::1"].map(String::from);
        let certificate = self_signed(&names, now).unwrap();
        assert_eq!(certificate.kind(), KeyKind::Ecdsa(Curve::P256));
        assert_eq!(certificate.not_before(), now);
        assert_eq!(
            certificate.not_after(),
            humantime::parse_rfc3339("2030-04-01T00:00:00Z").unwrap()
        );
        assert!(
            covers(certificate.names(), "localhost")
                && covers(certificate.names(), "www.example.com")
        );
        assert_eq!(certificate.warnings(now), []);
        assert_eq!(
            certificate.warnings(certificate.not_after() + Duration::from_secs(1)),
            [CertificateWarning::Expired(certificate.not_after())]
        );
    }

    #[test]
    fn a_client_that_is_given_the_certificate_trusts_it() {
        let names = ["localhost", "127.0.0.1"].map(String::from);
        let certificate = Arc::new(self_signed(&names, SystemTime::now()).unwrap());
        let mut roots = RootCertStore::empty();
        roots
            .add(certificate.certified_key().cert[0].clone())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let client = Arc::new(client.with_root_certificates(roots).with_no_client_auth());
        let store = CertificateStore::new(certificate, Vec::new());
        let server = listener_tls(
            &SystemPolicy::Strict12With13.into(),
            store,
            Http2::Offered,
            None,
        )
        .config;
        for (name, trusted) in [
            ("localhost", true),
            ("127.0.0.1", true),
            ("other.example.com", false),
        ] {
            assert_eq!(
                handshake_with(&server, &client, name).is_ok(),
                trusted,
                "{name}"
            );
        }
    }

    #[test]
    fn impossible_names_and_clocks_are_refused() {
        let before_1970 = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(
            self_signed(&["localhost".into()], before_1970).unwrap_err(),
            SelfSignedError::Time
        );
        let beyond = SystemTime::UNIX_EPOCH + Duration::from_secs(400_000_000_000);
        assert_eq!(
            self_signed(&["localhost".into()], beyond).unwrap_err(),
            SelfSignedError::Time
        );
        let refusal =
            self_signed(&["b\u{fc}cher.example".into()], SystemTime::UNIX_EPOCH).unwrap_err();
        assert!(matches!(refusal, SelfSignedError::Name(_)));
    }
}
