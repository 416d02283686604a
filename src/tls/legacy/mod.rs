//! Clients that cannot do better, served by OpenSSL: TLS 1.0 and 1.1, CBC, RSA key exchange (the feature
//! `legacy-tls`).
//!
//! A listener whose policy lists what rustls lacks reads the ClientHello ahead. Only where rustls could
//! not serve the client, and the policy has something else for it, is OpenSSL used.

mod context;
pub mod hello;
pub mod pair;
mod ticket_keys;

use std::io;
use std::sync::Arc;

use rustls::SignatureScheme;

use super::ListenerTls;
use super::accept::HandshakeError;
use super::certificate::{Curve, KeyKind, ServedCertificate};
use super::facts::TlsFacts;
use super::policy;
use super::store::{CertificateStore, verifiable};
use crate::config::tls_policy::{Engine, Suite, TlsPolicy, Version};
use crate::stream::Transport;
use crate::stream::openssl::OpenSslStream;

use self::context::Context;
use self::hello::{First, Hello};

/// What a listener has for clients that rustls cannot serve.
#[derive(Debug)]
pub struct Legacy {
    policy: TlsPolicy,
    store: Arc<CertificateStore>,
    context: Context,
}

/// Who serves a client.
#[derive(Debug)]
pub enum Choice {
    /// rustls; or it refuses the client, by the proper alert.
    Rustls,
    /// OpenSSL.
    OpenSsl(Client),
}

/// A client for OpenSSL.
#[derive(Debug)]
pub struct Client {
    hello: Hello,
    certificate: Arc<ServedCertificate>,
}

impl Client {
    /// The name that it asks for (SNI).
    pub fn server_name(&self) -> Option<&str> {
        self.hello.server_name.as_deref()
    }
}

impl Legacy {
    /// What a listener with this policy has for them; `None` where that is nothing.
    ///
    /// # Errors
    /// Where OpenSSL refuses the policy, which says that it was built with less than the usual.
    pub fn new(policy: &TlsPolicy, store: &Arc<CertificateStore>) -> Result<Option<Self>, String> {
        if policy.suites_of(Engine::OpenSsl).next().is_none() {
            return Ok(None);
        }
        let context = Context::new(policy).map_err(|errors| context::reason(&errors))?;
        Ok(Some(Self {
            policy: policy.clone(),
            store: Arc::clone(store),
            context,
        }))
    }

    /// Reads the ClientHello ahead and decides; all of it is still to be read afterwards.
    ///
    /// # Errors
    /// Those of the transport.
    pub async fn choose(&self, transport: &mut Transport) -> io::Result<Choice> {
        let first = loop {
            if let Some(first) = hello::read(transport.unread()) {
                break first;
            }
            if transport.read_ahead().await? == 0 {
                return Ok(Choice::Rustls);
            }
        };
        let First::Hello(hello) = first else {
            return Ok(Choice::Rustls);
        };
        if self.rustls_serves(&hello) {
            return Ok(Choice::Rustls);
        }
        Ok(match self.certificate(&hello) {
            Some(certificate) => Choice::OpenSsl(Client {
                certificate: Arc::clone(certificate),
                hello: *hello,
            }),
            None => Choice::Rustls,
        })
    }

    /// Shakes hands by OpenSSL.
    ///
    /// # Errors
    /// What OpenSSL or the transport says.
    pub async fn handshake(
        &self,
        transport: Transport,
        client: Client,
        tls: &ListenerTls,
    ) -> Result<(OpenSslStream, TlsFacts), HandshakeError<Transport>> {
        let Client { hello, certificate } = client;
        let failed = |error| HandshakeError {
            stream: None,
            error,
            server_name: hello.server_name.clone(),
        };
        // Clients are not asked for certificates here. No policy of a plan comes so far; if one did, nobody
        // would be let in.
        if tls.client_auth.is_some() {
            return Err(failed(io::Error::other(
                "the client cannot be authenticated",
            )));
        }
        let accept = self
            .context
            .accept(transport, &hello, &certificate, &tls.ticketer);
        let stream = accept.await.map_err(failed)?;
        match TlsFacts::of_openssl(stream.ssl(), hello.server_name.clone(), tls) {
            Ok(facts) => Ok((OpenSslStream::new(stream), facts)),
            Err(error) => Err(failed(io::Error::other(error))),
        }
    }

    /// Whether rustls, which looks at the version first, then at the certificate, then at suites and
    /// groups, comes to a handshake with a client.
    fn rustls_serves(&self, hello: &Hello) -> bool {
        let Some(version) = highest(&self.policy, Engine::Rustls, hello) else {
            return false;
        };
        let mut suites = self.policy.suites_of(Engine::Rustls);
        let mut offered = suites_in(&mut suites, version, hello).peekable();
        if version == Version::Tls13 {
            return offered.peek().is_some();
        }
        let keys: Vec<_> = offered.map(Exchange::of).collect();
        let schemes = hello.schemes.as_deref().unwrap_or_default();
        let schemes = schemes.iter().copied().filter(|scheme| {
            let exchange = Signer::of(*scheme).map(Signer::exchange);
            exchange.is_some_and(|exchange| keys.contains(&exchange))
        });
        let schemes: Vec<_> = schemes.map(SignatureScheme::from).collect();
        let certificate = self.store.find(hello.server_name.as_deref(), &schemes);
        verifiable(certificate, &schemes) && shares_group(hello)
    }

    /// The certificate for a client that OpenSSL serves: `None` if it does not.
    ///
    /// The store chooses by what the client verifies. Before TLS 1.2 clients do not say, and take a signature
    /// by any key that one of their suites goes with; so they do where they send no `signature_algorithms`.
    fn certificate(&self, hello: &Hello) -> Option<&Arc<ServedCertificate>> {
        let version = highest(&self.policy, Engine::OpenSsl, hello)?;
        let signers = match &hello.schemes {
            Some(schemes) if version == Version::Tls12 => {
                schemes.iter().filter_map(|s| Signer::of(*s)).collect()
            }
            Some(_) | None => vec![Signer::Rsa, Signer::Ecdsa],
        };
        let mut kinds = Vec::new();
        let mut suites = self.policy.suites_of(Engine::OpenSsl);
        for suite in suites_in(&mut suites, version, hello) {
            match Exchange::of(suite) {
                Exchange::Rsa => kinds.push(RSA),
                Exchange::EcdheRsa if signers.contains(&Signer::Rsa) && shares_group(hello) => {
                    kinds.push(RSA);
                }
                Exchange::EcdheEcdsa if shares_group(hello) => {
                    if signers.contains(&Signer::Ecdsa) {
                        kinds.extend(curves(hello));
                    }
                    if signers.contains(&Signer::Ed25519) {
                        kinds.push(KeyKind::Ed25519);
                    }
                }
                Exchange::EcdheRsa | Exchange::EcdheEcdsa => {}
            }
        }
        let schemes = kinds.iter().flat_map(|kind| kind.schemes());
        let schemes: Vec<_> = schemes.copied().collect();
        let certificate = self.store.find(hello.server_name.as_deref(), &schemes);
        verifiable(certificate, &schemes).then_some(certificate)
    }
}

/// Any RSA key: what it signs with does not depend on its size.
const RSA: KeyKind = KeyKind::Rsa { bits: 2048 };

/// The highest version that a client offers and an engine has under a policy.
fn highest(policy: &TlsPolicy, engine: Engine, hello: &Hello) -> Option<Version> {
    let versions = policy.versions_of(engine);
    versions.filter(|version| hello.offers(version.id())).last()
}

/// The suites that a client offers and that go with a version.
fn suites_in<'a>(
    suites: &'a mut impl Iterator<Item = &'static Suite>,
    version: Version,
    hello: &'a Hello,
) -> impl Iterator<Item = &'static Suite> + 'a {
    suites.filter(move |suite| {
        suite.versions().contains(&version) && hello.suites.contains(&suite.id())
    })
}

/// Whether there is a group for ECDHE. A client that names none gets no ECDHE from either engine.
fn shares_group(hello: &Hello) -> bool {
    let mut groups = hello.groups.iter().flatten();
    groups.any(|group| policy::has_group(*group))
}

/// The kinds of ECDSA keys whose curve a client knows.
fn curves(hello: &Hello) -> impl Iterator<Item = KeyKind> {
    let all = [(23, Curve::P256), (24, Curve::P384), (25, Curve::P521)];
    let groups = hello.groups.as_deref().unwrap_or_default();
    let known = all.into_iter().filter(|(group, _)| groups.contains(group));
    known.map(|(_, curve)| KeyKind::Ecdsa(curve))
}

/// How a suite below TLS 1.3 exchanges keys, and so which certificate it goes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exchange {
    EcdheEcdsa,
    EcdheRsa,
    Rsa,
}

impl Exchange {
    fn of(suite: &Suite) -> Self {
        let name = suite.iana();
        if name.starts_with("TLS_ECDHE_ECDSA_") {
            Self::EcdheEcdsa
        } else if name.starts_with("TLS_ECDHE_RSA_") {
            Self::EcdheRsa
        } else {
            Self::Rsa
        }
    }
}

/// The key that a signature scheme is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signer {
    Rsa,
    Ecdsa,
    Ed25519,
}

impl Signer {
    fn of(scheme: u16) -> Option<Self> {
        match scheme {
            0x0201 | 0x0301 | 0x0401 | 0x0501 | 0x0601 | 0x0804..=0x0806 => Some(Self::Rsa),
            0x0203 | 0x0303 | 0x0403 | 0x0503 | 0x0603 => Some(Self::Ecdsa),
            0x0807 => Some(Self::Ed25519),
            _ => None,
        }
    }

    fn exchange(self) -> Exchange {
        match self {
            Self::Rsa => Exchange::EcdheRsa,
            Self::Ecdsa | Self::Ed25519 => Exchange::EcdheEcdsa,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tls_policy::SystemPolicy;
    use crate::tls::testing::{Key, certificate};

    fn legacy(policy: &TlsPolicy, keys: &[Key]) -> Option<Legacy> {
        let mut all = keys.iter().map(|key| certificate(*key, &["a.example"]));
        let store = CertificateStore::new(all.next().unwrap(), all.collect());
        Legacy::new(policy, &Arc::new(store)).unwrap()
    }

    fn hello(version: u16, suites: &[&str]) -> Hello {
        let number = |name: &&str| Suite::named(name).unwrap().id();
        Hello {
            version,
            suites: suites.iter().map(number).collect(),
            server_name: Some("a.example".into()),
            groups: Some(vec![23, 24]),
            ..Hello::default()
        }
    }

    /// Who serves: `rustls`, or the kind of the certificate that OpenSSL serves with.
    fn served(legacy: &Legacy, hello: &Hello) -> String {
        if legacy.rustls_serves(hello) {
            return "rustls".into();
        }
        let certificate = legacy.certificate(hello);
        certificate.map_or_else(|| "nobody".into(), |found| found.kind().to_string())
    }

    const MODERN: &[u16] = &[0x0403, 0x0804, 0x0401];
    const CBC: &str = "ECDHE-RSA-AES128-SHA";
    const ECDSA_CBC: &str = "ECDHE-ECDSA-AES128-SHA";
    const GCM: &str = "ECDHE-RSA-AES128-GCM-SHA256";
    const KX: &str = "AES128-SHA";

    #[test]
    fn a_policy_without_older_suites_does_not_look_at_hellos() {
        for policy in SystemPolicy::ALL {
            let has = legacy(&policy.into(), &[Key::P256]).is_some();
            assert_eq!(has, policy != SystemPolicy::From10To13, "{policy:?}");
        }
        let refusing = TlsPolicy {
            older_clients: crate::config::tls_policy::OlderClients::Refused,
            ..SystemPolicy::From10.into()
        };
        assert!(legacy(&refusing, &[Key::P256]).is_none());
    }

    #[test]
    fn only_clients_that_cannot_do_better_are_openssl_s() {
        let legacy = legacy(&SystemPolicy::From10.into(), &[Key::P256, Key::Rsa]).unwrap();
        for (version, suites, expected) in [
            (0x0300, &[KX][..], "nobody"),
            (0x0301, &[KX], "RSA 2048"),
            (0x0301, &[CBC], "RSA 2048"),
            (0x0302, &[CBC, ECDSA_CBC], "ECDSA P256"),
            (0x0302, &[GCM], "nobody"),
            (0x0302, &["DES-CBC3-SHA"], "nobody"),
            (0x0303, &[GCM], "rustls"),
            (0x0303, &[KX, CBC, GCM], "rustls"),
            (0x0303, &[KX, CBC], "RSA 2048"),
            (0x0303, &[KX], "RSA 2048"),
            (0x0303, &["AES128-GCM-SHA256"], "RSA 2048"),
            (0x0303, &["ECDHE-ECDSA-CHACHA20-POLY1305"], "nobody"),
        ] {
            let hello = Hello {
                schemes: (version == 0x0303).then(|| MODERN.to_vec()),
                ..hello(version, suites)
            };
            assert_eq!(served(&legacy, &hello), expected, "{version:x} {suites:?}");
        }
    }

    #[test]
    fn a_newer_policy_keeps_out_what_it_does_not_list() {
        let newer = legacy(&SystemPolicy::From11.into(), &[Key::Rsa]).unwrap();
        assert_eq!(served(&newer, &hello(0x0301, &[KX])), "nobody");
        assert_eq!(served(&newer, &hello(0x0302, &[KX])), "RSA 2048");
        let strict = legacy(&SystemPolicy::Strict12With13.into(), &[Key::Rsa]).unwrap();
        assert_eq!(served(&strict, &hello(0x0302, &[CBC])), "nobody");
        assert_eq!(served(&strict, &hello(0x0303, &[KX])), "nobody");
        assert_eq!(served(&strict, &hello(0x0303, &[CBC])), "RSA 2048");
    }

    #[test]
    fn what_the_client_verifies_and_which_groups_it_knows_count() {
        let both = legacy(&SystemPolicy::From10.into(), &[Key::P384, Key::Rsa]).unwrap();
        let ecdsa = legacy(&SystemPolicy::From10.into(), &[Key::P256]).unwrap();
        let offer = |suites, schemes: &[u16], groups: &[u16]| Hello {
            schemes: Some(schemes.to_vec()),
            groups: Some(groups.to_vec()),
            ..hello(0x0303, suites)
        };
        for (legacy, hello, expected) in [
            // rustls signs with no SHA-1; a client that verifies nothing else is an older one.
            (&both, offer(&[GCM, CBC], &[0x0201], &[23]), "RSA 2048"),
            (&both, offer(&[GCM, CBC], MODERN, &[23]), "rustls"),
            // No group in common: RSA key exchange needs none.
            (&both, offer(&[GCM, KX], MODERN, &[25]), "RSA 2048"),
            (&both, offer(&[GCM, CBC], MODERN, &[25]), "nobody"),
            (&both, offer(&[GCM, CBC], MODERN, &[]), "nobody"),
            // An ECDSA certificate whose curve the client does not know.
            (&both, offer(&[ECDSA_CBC], MODERN, &[23]), "nobody"),
            (&both, offer(&[ECDSA_CBC], MODERN, &[24]), "ECDSA P384"),
            (&both, offer(&[ECDSA_CBC, CBC], MODERN, &[23]), "RSA 2048"),
            // The certificate goes with the older suite only.
            (
                &ecdsa,
                offer(&[GCM, ECDSA_CBC], MODERN, &[23]),
                "ECDSA P256",
            ),
            (&ecdsa, offer(&[KX, CBC], MODERN, &[23]), "nobody"),
        ] {
            assert_eq!(served(legacy, &hello), expected, "{hello:?}");
        }
    }

    #[test]
    fn tls_1_3_is_rustls_s_as_far_as_it_goes() {
        let legacy = legacy(&SystemPolicy::Strict12With13.into(), &[Key::Rsa]).unwrap();
        let offer = |suites| Hello {
            versions: Some(vec![0x0304, 0x0303]),
            schemes: Some(MODERN.to_vec()),
            ..hello(0x0303, suites)
        };
        let served = |suites| served(&legacy, &offer(suites));
        assert_eq!(served(&["TLS_AES_128_GCM_SHA256", CBC]), "rustls");
        assert_eq!(served(&["TLS_AES_128_CCM_SHA256"]), "nobody");
        assert_eq!(served(&["TLS_AES_128_CCM_SHA256", CBC]), "RSA 2048");
    }
}
