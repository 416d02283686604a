//! TLS towards clients: certificates and the choice among them, security policies, and what is known of
//! a connection once its handshake is done.
//!
//! One `ServerConfig` serves one listener of one generation; a reload builds a new one. Sessions are
//! not resumed, early data is not taken, clients are not asked for certificates.

pub mod accept;
pub mod certificate;
pub mod pem;
pub mod policy;
pub mod self_signed;
pub mod server_name;
pub mod store;

#[cfg(test)]
mod testing;

use std::sync::Arc;

use rustls::server::{NoServerSessionStorage, ServerConfig, ServerConnection};

use crate::config::plan::Http2;
use crate::config::tls_policy::TlsPolicy;

use self::store::CertificateStore;

/// Builds what a listener's handshakes run on.
///
/// # Errors
/// Where the policy has no suite for one of its versions; no policy of a plan is like that.
pub fn server_config(
    policy: &TlsPolicy,
    store: Arc<CertificateStore>,
    http2: Http2,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    // The provider is always named, so that the process-wide default never matters.
    let mut config = ServerConfig::builder_with_provider(policy::provider(policy))
        .with_protocol_versions(&policy::protocol_versions(policy))?
        .with_no_client_auth()
        .with_cert_resolver(store);
    config.alpn_protocols = match http2 {
        Http2::Offered => vec![H2.to_vec(), HTTP_1_1.to_vec()],
        Http2::Off => vec![HTTP_1_1.to_vec()],
    };
    // No resumption: rustls' own session storage would be a lock shared by all workers.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// What a finished handshake has settled; computed once per connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// `TLSv1.2`, `TLSv1.3`
    pub protocol: &'static str,
    /// The cipher suite in OpenSSL's spelling: `ECDHE-RSA-AES128-GCM-SHA256`.
    pub cipher_suite: &'static str,
    /// The name that the client asked for (SNI), lower-case.
    pub server_name: Option<Box<str>>,
    /// The application protocol that was agreed upon.
    pub alpn: Alpn,
}

impl TlsFacts {
    /// Reads them from a connection; `None` while its handshake is not finished.
    pub fn of(connection: &ServerConnection) -> Option<Self> {
        if connection.is_handshaking() {
            return None;
        }
        let version = policy::negotiated_version(connection.protocol_version()?)?;
        let suite = policy::negotiated_suite(connection.negotiated_cipher_suite()?.suite())?;
        Some(Self {
            protocol: version.name(),
            cipher_suite: suite.name(),
            server_name: connection.server_name().map(Box::from),
            alpn: Alpn::of(connection.alpn_protocol()),
        })
    }
}

/// An application protocol that we agree to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// `h2`
    Http2,
    /// `http/1.1`
    Http11,
    /// The client did not use ALPN: HTTP/1.
    Absent,
}

impl Alpn {
    fn of(protocol: Option<&[u8]>) -> Self {
        match protocol {
            Some(H2) => Self::Http2,
            Some(_) => Self::Http11,
            None => Self::Absent,
        }
    }

    /// The protocol's registered name.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Http2 => Some("h2"),
            Self::Http11 => Some("http/1.1"),
            Self::Absent => None,
        }
    }
}

const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription, CipherSuite, HandshakeKind, NamedGroup};

    use super::testing::{Client, Key, certificate, handshake};
    use super::*;
    use crate::config::tls_policy::{Suite, SystemPolicy, Version};

    fn server(policy: SystemPolicy, key: Key, http2: Http2) -> Arc<ServerConfig> {
        let store = CertificateStore::new(certificate(key, &["www.example.com"]), Vec::new());
        server_config(&policy.into(), Arc::new(store), http2).unwrap()
    }

    fn facts(server: &Arc<ServerConfig>, client: &Client) -> TlsFacts {
        TlsFacts::of(&handshake(server, client).unwrap().server).unwrap()
    }

    #[test]
    fn every_system_policy_makes_a_configuration() {
        for policy in SystemPolicy::ALL {
            let config = server(policy, Key::P256, Http2::Offered);
            let highest = if policy.versions().contains(&Version::Tls13) {
                "TLSv1.3"
            } else {
                "TLSv1.2"
            };
            assert_eq!(
                facts(&config, &Client::new()).protocol,
                highest,
                "{}",
                policy.name()
            );
        }
    }

    #[test]
    fn the_default_policy_takes_what_it_lists_and_nothing_else() {
        let config = server(SystemPolicy::Strict12With13, Key::Rsa, Http2::Offered);
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
            let facts = facts(&config, &Client::new().suites(&[suite]));
            assert_eq!((facts.protocol, facts.cipher_suite), (protocol, name));
        }
        let chacha =
            Client::new().suites(&[CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256]);
        assert_eq!(
            handshake(&config, &chacha).unwrap_err().alert,
            Some(AlertDescription::HandshakeFailure)
        );
    }

    #[test]
    fn every_system_policy_takes_what_it_lists_and_nothing_else() {
        for policy in SystemPolicy::ALL {
            for key in [Key::P256, Key::Rsa] {
                let config = server(policy, key, Http2::Offered);
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
                    let agreed = handshake(&config, &client).is_ok();
                    assert_eq!(agreed, expected, "{policy:?} {key:?} {theirs:?}");
                }
            }
        }
    }

    #[test]
    fn a_policy_of_one_s_own_may_have_chacha20_in_tls_1_2_and_nothing_but_1_3() {
        let own = |versions: &[Version], suite: &str| {
            let policy = TlsPolicy {
                name: "own".into(),
                versions: versions.to_vec(),
                suites: vec![Suite::named(suite).unwrap()],
            };
            let store =
                CertificateStore::new(certificate(Key::P256, &["www.example.com"]), Vec::new());
            server_config(&policy, Arc::new(store), Http2::Offered).unwrap()
        };
        let config = own(&[Version::Tls12], "ECDHE-ECDSA-CHACHA20-POLY1305");
        assert_eq!(
            facts(&config, &Client::new()).cipher_suite,
            "ECDHE-ECDSA-CHACHA20-POLY1305"
        );
        let config = own(&[Version::Tls13], "TLS_AES_256_GCM_SHA384");
        assert_eq!(
            facts(&config, &Client::new()).cipher_suite,
            "TLS_AES_256_GCM_SHA384"
        );
        let tls12 = [CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256];
        assert!(handshake(&config, &Client::new().suites(&tls12)).is_err());
    }

    #[test]
    fn a_1_2_policy_refuses_a_client_that_knows_only_1_3() {
        let config = server(SystemPolicy::Strict12, Key::P256, Http2::Offered);
        let client = Client::new().suites(&[CipherSuite::TLS13_AES_128_GCM_SHA256]);
        assert_eq!(
            handshake(&config, &client).unwrap_err().alert,
            Some(AlertDescription::ProtocolVersion)
        );
    }

    #[test]
    fn the_client_s_suite_order_counts() {
        let config = server(SystemPolicy::Strict12With13, Key::P256, Http2::Offered);
        let (aes128, aes256) = (
            CipherSuite::TLS13_AES_128_GCM_SHA256,
            CipherSuite::TLS13_AES_256_GCM_SHA384,
        );
        for (order, expected) in [
            ([aes128, aes256], "TLS_AES_128_GCM_SHA256"),
            ([aes256, aes128], "TLS_AES_256_GCM_SHA384"),
        ] {
            assert_eq!(
                facts(&config, &Client::new().suites(&order)).cipher_suite,
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
            let config = server(SystemPolicy::Strict12With13, Key::P256, http2);
            let facts = facts(&config, &Client::new().alpn(offered));
            assert_eq!(facts.alpn.name(), expected, "{http2:?} {offered:?}");
        }
        let config = server(SystemPolicy::Strict12With13, Key::P256, Http2::Off);
        let refused = handshake(&config, &Client::new().alpn(&["h2"])).unwrap_err();
        assert_eq!(refused.alert, Some(AlertDescription::NoApplicationProtocol));
    }

    #[test]
    fn key_exchange_costs_no_second_round_trip() {
        let config = server(SystemPolicy::Strict12With13, Key::P256, Http2::Offered);
        for group in [
            NamedGroup::X25519,
            NamedGroup::secp256r1,
            NamedGroup::secp384r1,
            NamedGroup::X25519MLKEM768,
        ] {
            let finished = handshake(&config, &Client::new().groups(&[group])).unwrap();
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
    fn sessions_are_not_resumed() {
        let config = server(SystemPolicy::Strict12With13, Key::P256, Http2::Offered);
        let tls12 = [CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256];
        for client in [Client::new(), Client::new().suites(&tls12)] {
            let client = client.configured();
            for _ in 0..2 {
                let finished =
                    testing::handshake_with(&config, &client, "www.example.com").unwrap();
                assert_eq!(finished.server.handshake_kind(), Some(HandshakeKind::Full));
                assert_eq!(finished.client.tls13_tickets_received(), 0);
            }
        }
    }

    #[test]
    fn the_server_name_is_kept_in_lower_case() {
        let config = server(SystemPolicy::Strict12With13, Key::P256, Http2::Offered);
        assert_eq!(
            facts(&config, &Client::new().name("WWW.Example.com"))
                .server_name
                .as_deref(),
            Some("www.example.com")
        );
        assert_eq!(
            facts(&config, &Client::new().without_name()).server_name,
            None
        );
        let unfinished = ServerConnection::new(config).unwrap();
        assert_eq!(TlsFacts::of(&unfinished), None);
    }
}
