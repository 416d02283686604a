//! TLS towards clients: certificates and the choice among them, security policies, and what is known of
//! a connection once its handshake is done.
//!
//! One `ServerConfig` serves one listener of one generation; a reload builds a new one. Sessions are
//! resumed by tickets, early data is not taken.

pub mod accept;
pub mod authority;
pub mod certificate;
pub mod client_auth;
pub mod facts;
pub mod failures;
#[cfg(feature = "legacy-tls")]
pub mod legacy;
pub mod pem;
pub mod pem_error;
pub mod policy;
pub mod self_signed;
pub mod server_name;
pub mod store;
pub mod tickets;
pub mod verdict;

#[cfg(test)]
mod testing;

use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::server::{NoServerSessionStorage, ServerConfig};

use crate::config::plan::{Http2, UnknownName};
use crate::config::tls_policy::TlsPolicy;

use self::client_auth::ClientAuth;
#[cfg(feature = "legacy-tls")]
use self::legacy::Legacy;
use self::store::CertificateStore;
use self::tickets::Ticketer;

/// How many tickets a TLS 1.3 handshake ends with: a client that keeps one connection, as browsers do with
/// HTTP/2, needs one, and each resumption brings the next. A second is work and 250 bytes that mostly
/// nobody uses; whoever opens several connections at once resumes one of them.
const TICKETS: usize = 1;

/// TLS as one listener does it.
#[derive(Debug)]
pub struct ListenerTls {
    /// What handshakes run on.
    pub config: Arc<ServerConfig>,
    /// Whom clients' certificates must come from; absent where none is asked for.
    pub client_auth: Option<Arc<ClientAuth>>,
    /// The certificates it is served with.
    pub store: Arc<CertificateStore>,
    /// What makes and opens its session tickets.
    pub ticketer: Arc<Ticketer>,
    /// What it has for clients that rustls cannot serve; nothing where clients are authenticated.
    #[cfg(feature = "legacy-tls")]
    pub legacy: Option<Legacy>,
    /// Whether requests must be for a host that its certificate covers.
    pub host_check: HostCheck,
    /// What its connections are admitted under.
    pub terms: Terms,
}

/// Whether a request is only served if the certificate that its client was shown covers its host: so it is
/// where clients authenticate themselves, and where unknown names are refused (alb.md decision 12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostCheck {
    /// It is served anyway.
    Off,
    /// It is answered 421 otherwise.
    On,
}

impl ListenerTls {
    /// Builds it.
    ///
    /// # Errors
    /// Where the policy has no suite for one of its versions; no policy of a plan is like that.
    /// Where OpenSSL is used, where it was built with less than the usual.
    pub fn new(
        policy: &TlsPolicy,
        store: CertificateStore,
        http2: Http2,
        client_auth: Option<ClientAuth>,
        ticketer: Arc<Ticketer>,
    ) -> Result<Self, rustls::Error> {
        let (store, client_auth) = (Arc::new(store), client_auth.map(Arc::new));
        let mut config = server_config(policy, Arc::clone(&store), http2, client_auth.as_ref())?;
        // Tickets alone: rustls' own session storage would be a lock shared by all workers.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = TICKETS;
        config.time_provider = Arc::clone(ticketer.clock());
        config.ticketer = Arc::clone(&ticketer) as _;
        Ok(Self {
            terms: Terms::of(policy, client_auth.as_deref(), store.unknown()),
            #[cfg(feature = "legacy-tls")]
            legacy: Legacy::new(policy, &store).map_err(rustls::Error::General)?,
            host_check: match (&client_auth, store.unknown()) {
                (Some(_), _) | (None, UnknownName::Refuse) => HostCheck::On,
                (None, UnknownName::Default) => HostCheck::Off,
            },
            config: Arc::new(config),
            client_auth,
            store,
            ticketer,
        })
    }
}

/// A digest of what a connection is admitted under: the effective TLS policy, client authentication, and
/// whether it had to name a host that is served. A connection outlives a reload only where the two agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms(Arc<[u8; 32]>);

impl Terms {
    fn of(policy: &TlsPolicy, client_auth: Option<&ClientAuth>, unknown: UnknownName) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(match unknown {
            UnknownName::Default => b"default",
            UnknownName::Refuse => b"refuse!",
        });
        if let Some(auth) = client_auth {
            context.update(&auth.fingerprint());
        }
        for version in policy.effective_versions() {
            context.update(&version.id().to_be_bytes());
        }
        for suite in policy.effective_suites() {
            context.update(&suite.id().to_be_bytes());
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Self(Arc::new(digest))
    }
}

/// What a listener's full handshakes run on.
fn server_config(
    policy: &TlsPolicy,
    store: Arc<CertificateStore>,
    http2: Http2,
    client_auth: Option<&Arc<ClientAuth>>,
) -> Result<ServerConfig, rustls::Error> {
    // The provider is always named, so that the process-wide default never matters.
    let builder = ServerConfig::builder_with_provider(policy::provider(policy))
        .with_protocol_versions(&policy::protocol_versions(policy))?;
    let builder = match client_auth {
        Some(auth) => builder.with_client_cert_verifier(Arc::clone(auth) as _),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(store);
    config.alpn_protocols = match http2 {
        Http2::Offered => vec![H2.to_vec(), HTTP_1_1.to_vec()],
        Http2::Off => vec![HTTP_1_1.to_vec()],
    };
    Ok(config)
}

const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

#[cfg(test)]
mod tests {
    use rustls::server::ServerConnection;
    use rustls::{AlertDescription, CipherSuite, HandshakeKind, NamedGroup};

    use super::facts::{FactsError, TlsFacts};
    use super::testing::{Client, Key, certificate, handshake, listener_tls};
    use super::*;
    use crate::config::tls_policy::{Suite, SystemPolicy, Version};

    fn server(policy: SystemPolicy, key: Key, http2: Http2) -> ListenerTls {
        let store = CertificateStore::new(certificate(key, &["www.example.com"]), Vec::new());
        listener_tls(&policy.into(), store, http2, None)
    }

    fn facts(server: &ListenerTls, client: &Client) -> TlsFacts {
        let finished = handshake(&server.config, client).unwrap();
        TlsFacts::of(&finished.server, server).unwrap()
    }

    #[test]
    fn every_system_policy_makes_a_configuration() {
        for policy in SystemPolicy::ALL {
            let tls = server(policy, Key::P256, Http2::Offered);
            let highest = if policy.versions().contains(&Version::Tls13) {
                "TLSv1.3"
            } else {
                "TLSv1.2"
            };
            assert_eq!(
                facts(&tls, &Client::new()).protocol,
                highest,
                "{}",
                policy.name()
            );
        }
    }

    #[test]
    fn the_default_policy_takes_what_it_lists_and_nothing_else() {
        let tls = server(SystemPolicy::Strict12With13, Key::Rsa, Http2::Offered);
        for (suite, protocol, name) in [
            (
                CipherSuite::TLS13_AES_128_GCM_SHA256,
                "TLSv1.3",
                "TLS_AES_128_GCM_SHA256",
            ),
            (
                CipherSuite::TLS13_AES_256_GCM_SHA384,
                "TLSv1.3",
                "TLS_AES_256_GCM_SHA384",
            ),
            (
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
                "TLSv1.3",
                "TLS_CHACHA20_POLY1305_SHA256",
            ),
            (
                CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
                "TLSv1.2",
                "ECDHE-RSA-AES128-GCM-SHA256",
            ),
            (
                CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
                "TLSv1.2",
                "ECDHE-RSA-AES256-GCM-SHA384",
            ),
        ] {
            let facts = facts(&tls, &Client::new().suites(&[suite]));
            assert_eq!((facts.protocol, facts.cipher_suite), (protocol, name));
        }
        let chacha =
            Client::new().suites(&[CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256]);
        assert_eq!(
            handshake(&tls.config, &chacha).unwrap_err().alert,
            Some(AlertDescription::HandshakeFailure)
        );
    }

    #[test]
    fn every_system_policy_takes_what_it_lists_and_nothing_else() {
        for policy in SystemPolicy::ALL {
            for key in [Key::P256, Key::Rsa] {
                let tls = server(policy, key, Http2::Offered);
                for theirs in rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES {
                    let listed = policy.suites().any(|suite| {
                        suite.id() == u16::from(theirs.suite())
                            && suite
                                .versions()
                                .iter()
                                .any(|v| policy.versions().contains(v))
                    });
                    let signs = match key {
                        Key::Rsa => rustls::SignatureAlgorithm::RSA,
                        Key::P256 | Key::P384 => rustls::SignatureAlgorithm::ECDSA,
                    };
                    let expected = listed && theirs.usable_for_signature_algorithm(signs);
                    let client = Client::new().suites(&[theirs.suite()]);
                    let agreed = handshake(&tls.config, &client).is_ok();
                    assert_eq!(agreed, expected, "{policy:?} {key:?} {theirs:?}");
                }
            }
        }
    }

    #[test]
    fn a_policy_of_one_s_own_may_have_chacha20_in_tls_1_2_and_nothing_but_1_3() {
        let own = |versions: &[Version], suite: &str| {
            let suites = vec![Suite::named(suite).unwrap()];
            let policy = TlsPolicy::new("own".into(), versions.to_vec(), suites);
            let store =
                CertificateStore::new(certificate(Key::P256, &["www.example.com"]), Vec::new());
            listener_tls(&policy, store, Http2::Offered, None)
        };
        let tls = own(&[Version::Tls12], "ECDHE-ECDSA-CHACHA20-POLY1305");
        assert_eq!(
            facts(&tls, &Client::new()).cipher_suite,
            "ECDHE-ECDSA-CHACHA20-POLY1305"
        );
        let tls = own(&[Version::Tls13], "TLS_AES_256_GCM_SHA384");
        assert_eq!(
            facts(&tls, &Client::new()).cipher_suite,
            "TLS_AES_256_GCM_SHA384"
        );
        let tls12 = [CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256];
        assert!(handshake(&tls.config, &Client::new().suites(&tls12)).is_err());
    }

    #[test]
    fn a_1_2_policy_refuses_a_client_that_knows_only_1_3() {
        let tls = server(SystemPolicy::Strict12, Key::P256, Http2::Offered);
        let client = Client::new().suites(&[CipherSuite::TLS13_AES_128_GCM_SHA256]);
        assert_eq!(
            handshake(&tls.config, &client).unwrap_err().alert,
            Some(AlertDescription::ProtocolVersion)
        );
    }

    #[test]
    fn the_client_s_suite_order_counts() {
        let tls = server(SystemPolicy::Strict12With13, Key::P256, Http2::Offered);
        let (aes128, aes256) = (
            CipherSuite::TLS13_AES_128_GCM_SHA256,
            CipherSuite::TLS13_AES_256_GCM_SHA384,
        );
        for (order, expected) in [
            ([aes128, aes256], "TLS_AES_128_GCM_SHA256"),
            ([aes256, aes128], "TLS_AES_256_GCM_SHA384"),
        ] {
            assert_eq!(
                facts(&tls, &Client::new().suites(&order)).cipher_suite,
                expected
            );
        }
    }

    #[test]
    fn http_2_is_offered_or_not() {
        for (http2, offered, expected) in [
            (Http2::Offered, &["h2", "http/1.1"][..], Some("h2")),
            (Http2::Offered, &["http/1.1", "h2"], Some("h2")),
            (Http2::Offered, &["http/1.1"], Some("http/1.1")),
            (Http2::Offered, &[], None),
            (Http2::Off, &["h2", "http/1.1"], Some("http/1.1")),
            (Http2::Off, &[], None),
        ] {
            let tls = server(SystemPolicy::Strict12With13, Key::P256, http2);
            let facts = facts(&tls, &Client::new().alpn(offered));
            assert_eq!(facts.alpn.name(), expected, "{http2:?} {offered:?}");
        }
        let tls = server(SystemPolicy::Strict12With13, Key::P256, Http2::Off);
        let refused = handshake(&tls.config, &Client::new().alpn(&["h2"])).unwrap_err();
        assert_eq!(refused.alert, Some(AlertDescription::NoApplicationProtocol));
    }

    #[test]
    fn key_exchange_costs_no_second_round_trip() {
        let tls = server(SystemPolicy::Strict12With13, Key::P256, Http2::Offered);
        for group in [
            NamedGroup::X25519,
            NamedGroup::secp256r1,
            NamedGroup::secp384r1,
            NamedGroup::X25519MLKEM768,
        ] {
            let finished = handshake(&tls.config, &Client::new().groups(&[group])).unwrap();
            assert_eq!(finished.server.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(
                finished
                    .server
                    .negotiated_key_exchange_group()
                    .unwrap()
                    .name(),
                group
            );
        }
    }

    #[test]
    fn the_server_name_is_kept_in_lower_case() {
        let tls = server(SystemPolicy::Strict12With13, Key::P256, Http2::Offered);
        assert_eq!(
            facts(&tls, &Client::new().name("WWW.Example.com"))
                .server_name
                .as_deref(),
            Some("www.example.com")
        );
        assert_eq!(facts(&tls, &Client::new().without_name()).server_name, None);
        let unfinished = ServerConnection::new(Arc::clone(&tls.config)).unwrap();
        let error = TlsFacts::of(&unfinished, &tls).unwrap_err();
        assert_eq!(error, FactsError::Unfinished);
    }
}
