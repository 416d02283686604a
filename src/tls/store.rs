//! The certificates of one listener, and the choice among them (alb.md sections 5.2 to 5.4).
//!
//! An exact name comes before a wildcard; among equals, what the client can verify decides first, then
//! ECDSA before RSA, the larger key, the later expiry. Everything is sorted when the store is built, so
//! that a lookup is one or two hash probes and allocates nothing.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::certificate::{KeyKind, ServedCertificate};
use super::server_name::{NamePattern, star_covers, without_trailing_dot};
use crate::config::plan::UnknownName;

/// So many names take a millisecond to free.
const MANY: usize = 2000;

/// A listener's certificates, by the names that they answer for.
pub struct CertificateStore {
    /// The default, then what covers the same names with another key, best first.
    default: DefaultSet,
    exact: HashMap<Box<str>, Vec<Arc<ServedCertificate>>>,
    /// By the labels to the right of the wildcard's.
    wildcard: HashMap<Box<str>, Vec<Wildcard>>,
    unknown: UnknownName,
}

struct DefaultSet {
    first: Arc<ServedCertificate>,
    twins: Vec<Arc<ServedCertificate>>,
}

struct Wildcard {
    /// What follows the `*`: mostly nothing.
    tail: Box<str>,
    certificate: Arc<ServedCertificate>,
}

impl CertificateStore {
    /// Builds the store of a listener whose certificates are `default` and `others`.
    ///
    /// The default is itself chosen by SNI, too. Where another certificate has exactly its names, the
    /// two are one dual certificate (section 5.4): a client that cannot verify the default's key gets
    /// the other one.
    pub fn new(default: Arc<ServedCertificate>, others: Vec<Arc<ServedCertificate>>) -> Self {
        let mut all = others;
        all.insert(0, Arc::clone(&default));
        all.sort_by_key(preference);
        let is_twin = |other: &&Arc<ServedCertificate>| {
            !Arc::ptr_eq(other, &default) && other.names().same_as(default.names())
        };
        let twins = all.iter().filter(is_twin).cloned().collect();
        let mut store = Self {
            default: DefaultSet {
                first: default,
                twins,
            },
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            unknown: UnknownName::Default,
        };
        for certificate in &all {
            store.index(certificate);
        }
        for wildcards in store.wildcard.values_mut() {
            // Of two that are equal in all else, the narrower.
            wildcards
                .sort_by_key(|entry| (preference(&entry.certificate), Reverse(entry.tail.len())));
        }
        store
    }

    /// The same with another answer to names that nothing covers.
    pub fn answering_unknown_names(mut self, unknown: UnknownName) -> Self {
        self.unknown = unknown;
        self
    }

    /// What becomes of clients that name nobody it knows.
    pub fn unknown(&self) -> UnknownName {
        self.unknown
    }

    /// Whether a client is to be refused for the name it asks for, or for asking for none.
    pub fn refuses(&self, server_name: Option<&str>) -> bool {
        match self.unknown {
            UnknownName::Default => false,
            UnknownName::Refuse => server_name.and_then(|name| self.covering(name)).is_none(),
        }
    }

    /// The best certificate for a name, whoever can verify it.
    fn covering(&self, server_name: &str) -> Option<&Arc<ServedCertificate>> {
        let name = without_trailing_dot(server_name);
        let all = |_: &ServedCertificate| true;
        self.exact_match(name, all)
            .or_else(|| self.wildcard_match(name, all))
    }

    fn index(&mut self, certificate: &Arc<ServedCertificate>) {
        for name in certificate.names().patterns() {
            let certificate = Arc::clone(certificate);
            match name {
                NamePattern::Exact(name) => self
                    .exact
                    .entry(name.clone())
                    .or_default()
                    .push(certificate),
                NamePattern::Wildcard { tail, parent } => {
                    let entry = Wildcard {
                        tail: tail.clone(),
                        certificate,
                    };
                    self.wildcard.entry(parent.clone()).or_default().push(entry);
                }
            }
        }
    }

    /// The certificate for a client that names `server_name` (lower-case, as rustls hands it over) and
    /// verifies signatures of the kinds `offered`.
    ///
    /// No name, or one that nothing covers, is answered with the default. So is a client that can verify
    /// none, unless unknown names are refused: it is not to see another name's certificate then. The
    /// handshake ends with the proper alert, of which rustls takes care.
    pub fn find(
        &self,
        server_name: Option<&str>,
        offered: &[SignatureScheme],
    ) -> &Arc<ServedCertificate> {
        let can_verify = |certificate: &ServedCertificate| verifiable(certificate, offered);
        server_name
            .map(without_trailing_dot)
            .and_then(|name| {
                self.exact_match(name, can_verify)
                    .or_else(|| self.wildcard_match(name, can_verify))
            })
            .or_else(|| match self.unknown {
                UnknownName::Default => None,
                UnknownName::Refuse => self.covering(server_name?),
            })
            .unwrap_or_else(|| self.default_match(offered))
    }

    /// Every certificate that a client naming `server_name` may have been shown, whatever it can verify.
    pub fn shown_for(&self, server_name: Option<&str>) -> Box<[Arc<ServedCertificate>]> {
        let name = server_name.map(without_trailing_dot).unwrap_or_default();
        let exact = self.exact.get(name).into_iter().flatten();
        let (label, parent) = name.split_once('.').unwrap_or_default();
        let wildcards = self.wildcard.get(parent).into_iter().flatten();
        let wildcards = wildcards.filter(|entry| star_covers(&entry.tail, label));
        let named: Box<[_]> = exact
            .chain(wildcards.map(|entry| &entry.certificate))
            .cloned()
            .collect();
        if named.is_empty() {
            let DefaultSet { first, twins } = &self.default;
            return [first].into_iter().chain(twins).cloned().collect();
        }
        named
    }

    fn exact_match(
        &self,
        name: &str,
        fits: impl Fn(&ServedCertificate) -> bool,
    ) -> Option<&Arc<ServedCertificate>> {
        self.exact
            .get(name)?
            .iter()
            .find(|certificate| fits(certificate))
    }

    fn wildcard_match(
        &self,
        name: &str,
        fits: impl Fn(&ServedCertificate) -> bool,
    ) -> Option<&Arc<ServedCertificate>> {
        let (label, parent) = name.split_once('.')?;
        self.wildcard
            .get(parent)?
            .iter()
            .find(|entry| star_covers(&entry.tail, label) && fits(&entry.certificate))
            .map(|entry| &entry.certificate)
    }

    fn default_match(&self, offered: &[SignatureScheme]) -> &Arc<ServedCertificate> {
        let DefaultSet { first, twins } = &self.default;
        if verifiable(first, offered) {
            return first;
        }
        twins
            .iter()
            .find(|twin| verifiable(twin, offered))
            .unwrap_or(first)
    }
}

/// Whoever lets go of a store last, perhaps a worker with the last connection of an old generation, does not
/// wait until many thousands of certificates are freed.
impl Drop for CertificateStore {
    fn drop(&mut self) {
        if self.exact.len() + self.wildcard.len() < MANY {
            return;
        }
        let names = (
            std::mem::take(&mut self.exact),
            std::mem::take(&mut self.wildcard),
        );
        // Where no thread can be started, they are freed here.
        let _ = std::thread::Builder::new()
            .name("free".into())
            .spawn(move || drop(names));
    }
}

impl ResolvesServerCert for CertificateStore {
    /// rustls has already taken out of the schemes those that no offered cipher suite can use, which is
    /// what tells a TLS 1.2 client with ECDHE-RSA suites only.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Who is refused is told so before; this is for whoever might come around that.
        if self.refuses(hello.server_name()) {
            return None;
        }
        Some(Arc::clone(
            self.find(hello.server_name(), hello.signature_schemes())
                .certified_key(),
        ))
    }
}

impl fmt::Debug for CertificateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateStore")
            .field("default", &self.default.first)
            .field("exact_names", &self.exact.len())
            .field("wildcard_parents", &self.wildcard.len())
            .finish()
    }
}

/// Sorts the better certificate first (section 5.4). Ed25519, unknown to ALB, stands between.
fn preference(certificate: &Arc<ServedCertificate>) -> impl Ord + use<> {
    let algorithm = match certificate.kind() {
        KeyKind::Ecdsa(_) => 0,
        KeyKind::Ed25519 => 1,
        KeyKind::Rsa { .. } => 2,
    };
    (
        algorithm,
        Reverse(certificate.kind().bits()),
        Reverse(certificate.not_after()),
    )
}

/// Whether a client that verifies signatures of the kinds `offered` verifies those of a certificate's key.
pub(super) fn verifiable(certificate: &ServedCertificate, offered: &[SignatureScheme]) -> bool {
    certificate
        .kind()
        .schemes()
        .iter()
        .any(|scheme| offered.contains(scheme))
}

#[cfg(test)]
mod tests {
    use rustls::CipherSuite;

    use super::*;
    use crate::config::plan::Http2;
    use crate::config::tls_policy::SystemPolicy;
    use crate::tls::testing::{Client, Key, certificate, expiring, handshake, listener_tls};

    const ECDSA: &[SignatureScheme] = &[
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::ECDSA_NISTP384_SHA384,
    ];
    const RSA: &[SignatureScheme] = &[
        SignatureScheme::RSA_PSS_SHA256,
        SignatureScheme::RSA_PKCS1_SHA256,
    ];

    fn both() -> Vec<SignatureScheme> {
        [RSA, ECDSA].concat()
    }

    /// The first is the default.
    fn store(certificates: &[&Arc<ServedCertificate>]) -> CertificateStore {
        let mut all = certificates
            .iter()
            .map(|&certificate| Arc::clone(certificate));
        CertificateStore::new(all.next().unwrap(), all.collect())
    }

    fn check(
        store: &CertificateStore,
        name: &str,
        offered: &[SignatureScheme],
        expected: &Arc<ServedCertificate>,
    ) {
        let name = Some(name).filter(|name| !name.is_empty());
        let found = store.find(name, offered);
        assert!(Arc::ptr_eq(found, expected), "{name:?}: {found:?}");
    }

    #[test]
    fn the_name_chooses_and_the_default_answers_for_the_rest() {
        let default = certificate(Key::P256, &["default.example.com"]);
        let exact = certificate(Key::P256, &["www.example.com"]);
        let wildcard = certificate(Key::P256, &["*.example.com"]);
        let partial = certificate(Key::P256, &["*test.example.net"]);
        let store = store(&[&default, &wildcard, &partial, &exact]);
        for (name, expected) in [
            ("", &default),
            ("unknown.example.org", &default),
            ("default.example.com", &default),
            ("www.example.com", &exact),
            ("www.example.com.", &exact),
            ("other.example.com", &wildcard),
            ("xn--fsqu00a.example.com", &wildcard),
            ("a.b.example.com", &default),
            ("example.com", &default),
            ("un_der.example.com", &default),
            ("mytest.example.net", &partial),
            ("xn--fsqu00atest.example.net", &default),
            ("test.example.net", &default),
            ("localhost", &default),
        ] {
            check(&store, name, ECDSA, expected);
        }
    }

    #[test]
    fn among_equals_the_documented_order_decides() {
        let names = &["www.example.com"];
        let other = certificate(Key::P256, &["other.example.com"]);
        let (p256, p384, rsa) = (
            certificate(Key::P256, names),
            certificate(Key::P384, names),
            certificate(Key::Rsa, names),
        );
        let later = expiring(Key::P256, names, 2040);
        let exact_rsa = certificate(Key::Rsa, &["www.example.net"]);
        let wildcard_ecdsa = certificate(Key::P256, &["*.example.net"]);
        let (narrow, broad) = (
            certificate(Key::P256, &["*test.example.org"]),
            certificate(Key::P256, &["*.example.org"]),
        );
        let store = store(&[
            &other,
            &rsa,
            &p256,
            &later,
            &p384,
            &exact_rsa,
            &wildcard_ecdsa,
            &broad,
            &narrow,
        ]);
        let p256_only = &[SignatureScheme::ECDSA_NISTP256_SHA256];
        check(&store, "www.example.com", &both(), &p384);
        check(&store, "www.example.com", p256_only, &later);
        check(&store, "www.example.com", RSA, &rsa);
        check(&store, "www.example.net", &both(), &exact_rsa);
        check(&store, "www.example.net", ECDSA, &wildcard_ecdsa);
        check(&store, "mytest.example.org", ECDSA, &narrow);
        check(&store, "my.example.org", ECDSA, &broad);
        check(
            &store,
            "www.example.com",
            &[SignatureScheme::ED25519],
            &other,
        );
    }

    #[test]
    fn the_default_may_be_a_pair() {
        let (ecdsa, rsa) = (
            certificate(Key::P256, &["a.example.com"]),
            certificate(Key::Rsa, &["a.example.com"]),
        );
        let other = certificate(Key::Rsa, &["b.example.com"]);
        let pair = store(&[&ecdsa, &other, &rsa]);
        check(&pair, "", &both(), &ecdsa);
        check(&pair, "", RSA, &rsa);
        check(&pair, "a.example.com", RSA, &rsa);
        check(&pair, "", &[SignatureScheme::ED25519], &ecdsa);
        let alone = store(&[&ecdsa, &other]);
        check(&alone, "", RSA, &ecdsa);
    }

    #[test]
    fn unknown_names_may_be_refused_and_then_nobody_sees_another_name_s_certificate() {
        let default = certificate(Key::Rsa, &["default.example.com"]);
        let ecdsa = certificate(Key::P256, &["www.example.com"]);
        let wildcard = certificate(Key::P256, &["*.example.com"]);
        let lenient = store(&[&default, &ecdsa, &wildcard]);
        assert!(!lenient.refuses(None) && !lenient.refuses(Some("unknown.example.org")));
        check(&lenient, "www.example.com", RSA, &default);

        let strict = lenient.answering_unknown_names(UnknownName::Refuse);
        for (name, refused) in [
            (None, true),
            (Some("unknown.example.org"), true),
            (Some("a.b.example.com"), true),
            (Some("example.com"), true),
            (Some("default.example.com"), false),
            (Some("www.example.com"), false),
            (Some("www.example.com."), false),
            (Some("other.example.com"), false),
        ] {
            assert_eq!(strict.refuses(name), refused, "{name:?}");
        }
        check(&strict, "www.example.com", ECDSA, &ecdsa);
        check(&strict, "www.example.com", RSA, &ecdsa);
        check(&strict, "other.example.com", RSA, &wildcard);
    }

    #[test]
    fn a_client_gets_the_key_it_can_verify() {
        let names = &["www.example.com"];
        let (ecdsa, rsa) = (certificate(Key::P256, names), certificate(Key::Rsa, names));
        let store = store(&[&ecdsa, &rsa]);
        let server = listener_tls(
            &SystemPolicy::Strict12With13.into(),
            store,
            Http2::Offered,
            None,
        )
        .config;
        let tls12_rsa = [CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256];
        for (client, expected) in [
            (Client::new(), &ecdsa),
            (Client::new().schemes(RSA), &rsa),
            (Client::new().schemes(ECDSA), &ecdsa),
            (Client::new().suites(&tls12_rsa), &rsa),
            (Client::new().name("WWW.example.com").schemes(RSA), &rsa),
            (Client::new().without_name().schemes(RSA), &rsa),
        ] {
            let finished = handshake(&server, &client).unwrap();
            assert_eq!(
                finished.client.peer_certificates().unwrap(),
                expected.certified_key().cert,
                "{client:?}"
            );
        }
        assert!(handshake(&server, &Client::new().schemes(&[SignatureScheme::ED25519])).is_err());
    }

    #[test]
    fn whatever_a_client_may_have_been_shown_is_known() {
        let default = certificate(Key::P256, &["default.example.com"]);
        let twin = certificate(Key::Rsa, &["default.example.com"]);
        let exact = certificate(Key::P256, &["www.example.com"]);
        let rsa = certificate(Key::Rsa, &["www.example.com"]);
        let wildcard = certificate(Key::P256, &["*.example.com"]);
        let store = store(&[&default, &twin, &exact, &rsa, &wildcard]);
        for (name, expected) in [
            (Some("www.example.com."), &[&exact, &rsa, &wildcard][..]),
            (Some("other.example.com"), &[&wildcard]),
            (Some("unknown.example.org"), &[&default, &twin]),
            (Some("localhost"), &[&default, &twin]),
            (None, &[&default, &twin]),
        ] {
            let shown = store.shown_for(name);
            let is_shown =
                |one: &&&Arc<ServedCertificate>| shown.iter().any(|other| Arc::ptr_eq(one, other));
            assert_eq!(
                expected.iter().filter(is_shown).count(),
                shown.len(),
                "{name:?}"
            );
            assert_eq!(expected.len(), shown.len(), "{name:?}");
        }
    }

    #[test]
    fn keys_are_not_printed() {
        let printed = format!(
            "{:?}",
            store(&[&certificate(Key::P256, &["www.example.com"])])
        );
        assert!(
            printed.contains("www.example.com") && !printed.contains("SigningKey"),
            "{printed}"
        );
    }
}
