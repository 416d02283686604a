//! Tells the backend about the client's certificate (alb.md section 3, RFC 9440).
//!
//! Every value is written down when a request first asks for it, and then kept with the connection: a
//! request only clones it. What the client sent under these names is gone by then (`hop_by_hop`).

use std::cell::OnceCell;
use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use rustls_pki_types::CertificateDer;

use super::distinguished_name::rfc2253;
use crate::config::client_auth::{ClientCertPlan, FingerprintHash, NamedHeader};
use crate::config::plan::Switch;

/// `X-Forwarded-Clientcert-subjectdn`
pub static SUBJECT_DN: HeaderName = HeaderName::from_static("x-forwarded-clientcert-subjectdn");
/// `X-Forwarded-Clientcert-issuerdn`
pub static ISSUER_DN: HeaderName = HeaderName::from_static("x-forwarded-clientcert-issuerdn");
/// `X-Forwarded-Clientcert-fingerprint`
pub static FINGERPRINT: HeaderName = HeaderName::from_static("x-forwarded-clientcert-fingerprint");
/// `X-Forwarded-Clientcert-clientverify`
pub static CLIENT_VERIFY: HeaderName =
    HeaderName::from_static("x-forwarded-clientcert-clientverify");
/// `Client-Cert`
pub static CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
/// `Client-Cert-Chain`
pub static CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");

/// The longest `Client-Cert` and `Client-Cert-Chain`, in bytes each: about twelve kilobytes of certificates.
/// Backends refuse heads much larger; what is longer is left out.
const MAX_CERTIFICATES: usize = 16 * 1024;

/// The value of [`CLIENT_VERIFY`] for a client that has shown no certificate.
static NONE: HeaderValue = HeaderValue::from_static("NONE");

/// Which headers one listener's requests are given, and under what names.
#[derive(Clone, Debug)]
pub struct ClientCertHeaders {
    subject_dn: Option<HeaderName>,
    issuer_dn: Option<HeaderName>,
    fingerprint: Option<(HeaderName, FingerprintHash)>,
    client_verify: Option<HeaderName>,
    rfc9440: Switch,
}

impl ClientCertHeaders {
    /// Prepares a listener's names. `None` if no header is switched on.
    pub fn new(plan: &ClientCertPlan) -> Option<Self> {
        let headers = Self {
            subject_dn: name(&plan.subject_dn, &SUBJECT_DN),
            issuer_dn: name(&plan.issuer_dn, &ISSUER_DN),
            fingerprint: name(&plan.fingerprint, &FINGERPRINT)
                .map(|name| (name, plan.fingerprint_hash)),
            client_verify: name(&plan.client_verify, &CLIENT_VERIFY),
            rfc9440: plan.rfc9440,
        };
        let is_off = headers.subject_dn.is_none()
            && headers.issuer_dn.is_none()
            && headers.fingerprint.is_none()
            && headers.client_verify.is_none()
            && headers.rfc9440 == Switch::Off;
        (!is_off).then_some(headers)
    }

    /// Sets the fields that are switched on. Of a client without a certificate only that is said.
    pub fn apply(&self, headers: &mut HeaderMap, client: Option<&CertificateValues>) {
        let mut set = |name: &HeaderName, value: Option<&HeaderValue>| {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        };
        if let Some(name) = &self.client_verify {
            set(name, Some(client.map_or(&NONE, |client| &client.verify)));
        }
        let Some(client) = client else { return };
        if let Some(name) = &self.subject_dn {
            set(name, client.subject_dn());
        }
        if let Some(name) = &self.issuer_dn {
            set(name, client.issuer_dn());
        }
        if let Some((name, hash)) = &self.fingerprint {
            set(name, client.fingerprint(*hash));
        }
        match self.rfc9440 {
            Switch::On => {
                set(&CLIENT_CERT, client.client_cert());
                set(&CLIENT_CERT_CHAIN, client.client_cert_chain());
            }
            Switch::Off => {}
        }
    }
}

fn name(plan: &NamedHeader, default: &HeaderName) -> Option<HeaderName> {
    match plan {
        NamedHeader::Off => None,
        NamedHeader::Default => Some(default.clone()),
        NamedHeader::Named(name) => HeaderName::from_bytes(name.as_bytes()).ok(),
    }
}

/// The names of these headers that are a user's own: no client may send them, on any listener, and they are
/// written as they stand.
pub fn own_names(plan: &ClientCertPlan) -> impl Iterator<Item = HeaderName> + '_ {
    let all = [
        &plan.subject_dn,
        &plan.issuer_dn,
        &plan.fingerprint,
        &plan.client_verify,
    ];
    all.into_iter().filter_map(|header| match header {
        NamedHeader::Off | NamedHeader::Default => None,
        NamedHeader::Named(name) => HeaderName::from_bytes(name.as_bytes()).ok(),
    })
}

/// What one connection's requests say of the client's certificate. A value that cannot be written, or would
/// be too long, is absent.
#[derive(Clone, Debug)]
pub struct CertificateValues {
    /// The client's own first; never empty.
    chain: Arc<[CertificateDer<'static>]>,
    verify: HeaderValue,
    subject_dn: OnceCell<Option<HeaderValue>>,
    issuer_dn: OnceCell<Option<HeaderValue>>,
    sha1: OnceCell<Option<HeaderValue>>,
    sha256: OnceCell<Option<HeaderValue>>,
    client_cert: OnceCell<Option<HeaderValue>>,
    client_cert_chain: OnceCell<Option<HeaderValue>>,
}

impl CertificateValues {
    /// Of a chain as the client has shown it, and what is thought of it.
    pub fn new(chain: Arc<[CertificateDer<'static>]>, verify: &'static str) -> Self {
        Self {
            chain,
            verify: HeaderValue::from_static(verify),
            subject_dn: OnceCell::new(),
            issuer_dn: OnceCell::new(),
            sha1: OnceCell::new(),
            sha256: OnceCell::new(),
            client_cert: OnceCell::new(),
            client_cert_chain: OnceCell::new(),
        }
    }

    fn leaf(&self) -> Option<&CertificateDer<'static>> {
        self.chain.first()
    }

    fn subject_dn(&self) -> Option<&HeaderValue> {
        let make = || distinguished_name(self.leaf()?, |leaf| leaf.subject());
        self.subject_dn.get_or_init(make).as_ref()
    }

    fn issuer_dn(&self) -> Option<&HeaderValue> {
        let make = || distinguished_name(self.leaf()?, |leaf| leaf.issuer());
        self.issuer_dn.get_or_init(make).as_ref()
    }

    fn fingerprint(&self, hash: FingerprintHash) -> Option<&HeaderValue> {
        let (cell, algorithm) = match hash {
            FingerprintHash::Sha1 => (&self.sha1, &digest::SHA1_FOR_LEGACY_USE_ONLY),
            FingerprintHash::Sha256 => (&self.sha256, &digest::SHA256),
        };
        let make = || {
            let digest = digest::digest(algorithm, self.leaf()?);
            let digits = digest
                .as_ref()
                .iter()
                .flat_map(|byte| [byte >> 4, byte & 15]);
            let digits = digits.filter_map(|digit| char::from_digit(digit.into(), 16));
            value(digits.collect())
        };
        cell.get_or_init(make).as_ref()
    }

    fn client_cert(&self) -> Option<&HeaderValue> {
        let make = || certificates(self.chain.get(..1)?);
        self.client_cert.get_or_init(make).as_ref()
    }

    /// Only beside `Client-Cert` (RFC 9440 section 2.3).
    fn client_cert_chain(&self) -> Option<&HeaderValue> {
        self.client_cert()?;
        let make = || certificates(self.chain.get(1..)?);
        self.client_cert_chain.get_or_init(make).as_ref()
    }
}

/// A name of a certificate; an empty one is none.
fn distinguished_name(
    leaf: &CertificateDer<'_>,
    of: impl for<'a> Fn(&'a webpki::EndEntityCert<'_>) -> &'a [u8],
) -> Option<HeaderValue> {
    let leaf = webpki::EndEntityCert::try_from(leaf).ok()?;
    rfc2253(of(&leaf))
        .filter(|name| !name.is_empty())
        .and_then(value)
}

/// Byte sequences of RFC 8941 (section 3.3.5), as a list; none for no certificate.
fn certificates(chain: &[CertificateDer<'_>]) -> Option<HeaderValue> {
    let length: usize = chain.iter().map(|der| der.len().div_ceil(3) * 4 + 4).sum();
    if chain.is_empty() || length > MAX_CERTIFICATES {
        return None;
    }
    let mut list = String::with_capacity(length);
    for der in chain {
        if !list.is_empty() {
            list.push_str(", ");
        }
        list.push(':');
        STANDARD.encode_string(der, &mut list);
        list.push(':');
    }
    value(list)
}

fn value(text: String) -> Option<HeaderValue> {
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, KeyPair};

    use super::*;

    fn on() -> ClientCertPlan {
        ClientCertPlan {
            subject_dn: NamedHeader::Default,
            issuer_dn: NamedHeader::Default,
            fingerprint: NamedHeader::Default,
            fingerprint_hash: FingerprintHash::Sha1,
            client_verify: NamedHeader::Default,
            rfc9440: Switch::On,
        }
    }

    /// A client's certificate with this common name, or none at all, and its issuer's.
    fn chain(common_name: Option<&str>) -> Arc<[CertificateDer<'static>]> {
        let keys = [KeyPair::generate().unwrap(), KeyPair::generate().unwrap()];
        let params = |common_name: Option<&str>| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name = DistinguishedName::new();
            if let Some(name) = common_name {
                params.distinguished_name.push(DnType::CommonName, name);
            }
            params
        };
        let issuer = params(Some("issuer"));
        let root = issuer.self_signed(&keys[0]).unwrap().der().clone();
        let issuer = Issuer::from_params(&issuer, &keys[0]);
        let leaf = params(common_name).signed_by(&keys[1], &issuer).unwrap();
        [leaf.der().clone(), root].into()
    }

    fn applied(plan: &ClientCertPlan, client: Option<&CertificateValues>) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        if let Some(policy) = ClientCertHeaders::new(plan) {
            policy.apply(&mut headers, client);
        }
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        let mut fields: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect();
        fields.sort();
        fields
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn everything_that_is_switched_on_is_said() {
        let chain = chain(Some("a,b"));
        let values = CertificateValues::new(Arc::clone(&chain), "SUCCESS");
        let sha1 = hex(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &chain[0]).as_ref());
        let item = |der: &CertificateDer<'_>| format!(":{}:", STANDARD.encode(der));
        let expected = [
            ("client-cert", item(&chain[0])),
            ("client-cert-chain", item(&chain[1])),
            ("x-forwarded-clientcert-clientverify", "SUCCESS".into()),
            ("x-forwarded-clientcert-fingerprint", sha1),
            ("x-forwarded-clientcert-issuerdn", "CN=issuer".into()),
            ("x-forwarded-clientcert-subjectdn", r"CN=a\,b".into()),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value));
        assert_eq!(applied(&on(), Some(&values)), expected);
    }

    #[test]
    fn of_a_client_without_a_certificate_only_that_is_said() {
        let none = [("x-forwarded-clientcert-clientverify".into(), "NONE".into())];
        assert_eq!(applied(&on(), None), none);
    }

    #[test]
    fn other_names_replace_the_own_and_sha256_is_longer() {
        let plan = ClientCertPlan {
            subject_dn: NamedHeader::Named("x-subject".into()),
            issuer_dn: NamedHeader::Off,
            fingerprint_hash: FingerprintHash::Sha256,
            client_verify: NamedHeader::Off,
            rfc9440: Switch::Off,
            ..on()
        };
        let chain = chain(Some("c"));
        let sha256 = hex(digest::digest(&digest::SHA256, &chain[0]).as_ref());
        let values = CertificateValues::new(chain, "SUCCESS");
        let expected = [
            ("x-forwarded-clientcert-fingerprint".into(), sha256),
            ("x-subject".into(), "CN=c".into()),
        ];
        assert_eq!(applied(&plan, Some(&values)), expected);
        let own: Vec<_> = own_names(&plan).collect();
        assert_eq!(own, ["x-subject"]);
    }

    #[test]
    fn an_empty_or_very_long_name_and_very_long_certificates_are_left_out() {
        for (common_name, left_out) in [
            (None, &["subjectdn"][..]),
            (Some("x".repeat(9_000)), &["subjectdn"]),
            (
                Some("x".repeat(12_500)),
                &["subjectdn", "client-cert", "client-cert-chain"],
            ),
        ] {
            let chain = chain(common_name.as_deref());
            let values = CertificateValues::new(chain, "SUCCESS");
            let said = applied(&on(), Some(&values));
            assert_eq!(said.len(), 6 - left_out.len(), "{left_out:?}");
            for name in left_out {
                assert!(said.iter().all(|(said, _)| !said.ends_with(name)), "{name}");
            }
        }
    }

    #[test]
    fn a_value_is_made_once() {
        let values = CertificateValues::new(chain(Some("c")), "SUCCESS");
        let first = values.subject_dn().unwrap().as_bytes().as_ptr();
        assert_eq!(values.subject_dn().unwrap().as_bytes().as_ptr(), first);
    }

    #[test]
    fn switched_off_it_costs_nothing() {
        let off = crate::config::defaults::HEADERS.client_cert;
        assert!(ClientCertHeaders::new(&off).is_none());
    }
}
