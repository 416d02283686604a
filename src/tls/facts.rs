//! What is known of a connection once its handshake is done, and whether it is served at all.

use std::fmt;
use std::sync::Arc;

use rustls::HandshakeKind;
use rustls::server::ServerConnection;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::certificate::ServedCertificate;
use super::server_name::covers;
use super::verdict::{Reason, Verdict};
use super::{H2, HostCheck, ListenerTls, policy};
use crate::config::client_auth::ClientAuthMode;
#[cfg(feature = "legacy-tls")]
use crate::config::tls_policy::{Engine, Suite, Version};

/// What a finished handshake has settled; computed once per connection.
#[derive(Clone, Debug)]
pub struct TlsFacts {
    /// `TLSv1.2`, `TLSv1.3`; `TLSv1`, `TLSv1.1`
    pub protocol: &'static str,
    /// The cipher suite in OpenSSL's spelling: `ECDHE-RSA-AES128-GCM-SHA256`.
    pub cipher_suite: &'static str,
    /// The name that the client asked for (SNI), lower-case.
    pub server_name: Option<Box<str>>,
    /// The application protocol that was agreed upon.
    pub alpn: Alpn,
    /// Whether it goes on with an earlier session.
    pub session: Session,
    /// Who the client has shown to be.
    pub client: Client,
    /// The certificates that the client may have been shown, by its name; absent where nobody asks.
    shown: Option<Box<[Arc<ServedCertificate>]>>,
}

/// Who a client has shown to be.
#[derive(Clone, Debug)]
pub enum Client {
    /// It was not asked.
    Unasked,
    /// It was asked, and has given no certificate.
    Anonymous,
    /// It has given a certificate, and proved that it has its key.
    Certified(Box<ClientCertificate>),
}

impl Client {
    /// What is thought of it in nginx's words; `None` where it was not asked.
    pub fn verify(&self) -> Option<&'static str> {
        match self {
            Self::Unasked => None,
            Self::Anonymous => Some("NONE"),
            Self::Certified(certificate) => Some(certificate.verdict.text()),
        }
    }
}

/// What a client has given.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    /// The certificate, and then those of authorities, as they came.
    pub chain: Arc<[CertificateDer<'static>]>,
    /// What is thought of it; failures are only let in where backends are told.
    pub verdict: Verdict,
}

impl TlsFacts {
    /// Reads them from a connection, which must have shaken hands by `tls`.
    ///
    /// # Errors
    /// Where the connection must not be served.
    pub fn of(connection: &ServerConnection, tls: &ListenerTls) -> Result<Self, FactsError> {
        if connection.is_handshaking() {
            return Err(FactsError::Unfinished);
        }
        let version = connection.protocol_version();
        let version = version.and_then(policy::negotiated_version);
        let suite = connection.negotiated_cipher_suite();
        let suite = suite.and_then(|suite| policy::negotiated_suite(suite.suite()));
        let handshake = connection.handshake_kind();
        Ok(Self {
            protocol: version.ok_or(FactsError::Unfinished)?.name(),
            cipher_suite: suite.ok_or(FactsError::Unfinished)?.name(),
            server_name: connection.server_name().map(Box::from),
            alpn: Alpn::of(connection.alpn_protocol()),
            session: Session::of(handshake.ok_or(FactsError::Unfinished)?),
            client: client(connection, tls)?,
            shown: shown(tls, connection.server_name()),
        })
    }

    /// Whether a request for `host`, given without its port, came to the right place: where hosts are
    /// checked, the certificate that the client was shown must cover it (alb.md decision 12).
    pub fn is_shown_for(&self, host: &str) -> bool {
        self.shown
            .as_ref()
            .is_none_or(|shown| shown.iter().any(|one| covers(one.names(), host)))
    }
}

#[cfg(feature = "legacy-tls")]
impl TlsFacts {
    /// Reads them from a connection that has shaken hands by OpenSSL.
    ///
    /// # Errors
    /// Where it agreed on nothing that is known.
    pub fn of_openssl(
        connection: &openssl::ssl::SslRef,
        server_name: Option<Box<str>>,
        tls: &ListenerTls,
    ) -> Result<Self, FactsError> {
        let version = connection.version_str();
        let mut versions = Version::ALL.into_iter();
        let version = versions.find(|known| known.name() == version);
        let suite = connection.current_cipher();
        let suite = suite.and_then(|suite| Suite::named(suite.name()));
        let suite = suite.filter(|suite| suite.engine() == Some(Engine::OpenSsl));
        Ok(Self {
            protocol: version.ok_or(FactsError::Unfinished)?.name(),
            cipher_suite: suite.ok_or(FactsError::Unfinished)?.name(),
            shown: shown(tls, server_name.as_deref()),
            server_name,
            alpn: Alpn::of(connection.selected_alpn_protocol()),
            session: match connection.session_reused() {
                true => Session::Resumed,
                false => Session::New,
            },
            client: Client::Unasked,
        })
    }
}

/// The certificates that a client may have been shown, where that counts.
fn shown(tls: &ListenerTls, server_name: Option<&str>) -> Option<Box<[Arc<ServedCertificate>]>> {
    match tls.host_check {
        HostCheck::Off => None,
        HostCheck::On => Some(tls.store.shown_for(server_name)),
    }
}

/// Who the client has shown to be: now, or in the session that it resumes.
fn client(connection: &ServerConnection, tls: &ListenerTls) -> Result<Client, FactsError> {
    let Some(auth) = &tls.client_auth else {
        return Ok(Client::Unasked);
    };
    let chain = connection.peer_certificates().unwrap_or_default();
    if chain.is_empty() {
        return match auth.mode() {
            ClientAuthMode::Optional | ClientAuthMode::OptionalNoCa => Ok(Client::Anonymous),
            // Only a session of another listener's could come so far.
            ClientAuthMode::Required => Err(FactsError::NoCertificate),
        };
    }
    let is_judged =
        connection.handshake_kind() != Some(HandshakeKind::Resumed) && auth.judges_in_handshake();
    let verdict = if is_judged {
        Verdict::Success
    } else {
        let now = tls.config.time_provider.current_time();
        auth.judge(chain, now.unwrap_or_else(UnixTime::now))
    };
    match verdict {
        Verdict::Failed(reason) if auth.judges_in_handshake() => Err(FactsError::Client(reason)),
        Verdict::Success | Verdict::Failed(_) => {
            Ok(Client::Certified(Box::new(ClientCertificate {
                chain: chain.into(),
                verdict,
            })))
        }
    }
}

/// Why a connection is not served although its handshake succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactsError {
    /// It agreed on nothing that is known.
    Unfinished,
    /// It resumes a session without the certificate that is required.
    NoCertificate,
    /// It resumes a session whose certificate verifies no more.
    Client(Reason),
}

impl fmt::Display for FactsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfinished => f.write_str("the handshake agreed on nothing that is known"),
            Self::NoCertificate => f.write_str("the resumed session has no client certificate"),
            Self::Client(reason) => {
                let reason = reason.text();
                write!(f, "the resumed session's client certificate: {reason}")
            }
        }
    }
}

impl std::error::Error for FactsError {}

/// Where a connection's session comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// A full handshake.
    New,
    /// An earlier connection, by a ticket.
    Resumed,
}

impl Session {
    fn of(handshake: HandshakeKind) -> Self {
        match handshake {
            HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest => Self::New,
            HandshakeKind::Resumed => Self::Resumed,
        }
    }

    /// nginx's word for it in `$ssl_session_reused`: `r` or `.`.
    pub fn reused(self) -> &'static str {
        match self {
            Self::New => ".",
            Self::Resumed => "r",
        }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use rustls::CipherSuite;
    use rustls::client::ClientConfig;
    use rustls::server::ServerConfig;
    use rustls::time_provider::TimeProvider;
    use rustls_pki_types::CertificateRevocationListDer;

    use super::*;
    use crate::config::plan::Http2;
    use crate::config::tls_policy::SystemPolicy;
    use crate::tls::client_auth::ClientAuth;
    use crate::tls::store::CertificateStore;
    use crate::tls::testing::{self, Authority, Key, handshake_with};

    /// A clock that is set.
    #[derive(Debug, Default)]
    struct Clock(AtomicU64);

    impl TimeProvider for Clock {
        fn current_time(&self) -> Option<UnixTime> {
            let seconds = Duration::from_secs(self.0.load(Ordering::Relaxed));
            Some(UnixTime::since_unix_epoch(seconds))
        }
    }

    const YEAR: u64 = 365 * 24 * 60 * 60;

    /// A listener that resumes sessions of every other one here: what its own key would prevent, the facts
    /// must see. It is the year 2030.
    fn resuming(auth: ClientAuth, clock: &Arc<Clock>, keys: &ServerConfig) -> ListenerTls {
        clock
            .0
            .store(60 * YEAR + 15 * 24 * 60 * 60, Ordering::Relaxed);
        let certificate = testing::certificate(Key::P256, &["www.example.com"]);
        let store = CertificateStore::new(certificate, Vec::new());
        let policy = SystemPolicy::Strict12With13.into();
        let mut tls = testing::listener_tls(&policy, store, Http2::Offered, Some(auth));
        let mut config = ServerConfig::clone(&tls.config);
        config.ticketer = Arc::clone(&keys.ticketer);
        config.send_tls13_tickets = 1;
        config.time_provider = Arc::clone(clock) as _;
        tls.config = Arc::new(config);
        tls
    }

    fn auth(
        mode: ClientAuthMode,
        root: &Authority,
        crls: &[&CertificateRevocationListDer<'static>],
    ) -> ClientAuth {
        let crls = crls.iter().map(|crl| (*crl).clone()).collect();
        ClientAuth::new(mode, vec![root.certificate.clone()], crls).unwrap()
    }

    fn keys() -> ServerConfig {
        let certificate = testing::certificate(Key::P256, &["keys.example"]);
        let store = CertificateStore::new(certificate, Vec::new());
        let policy = SystemPolicy::Strict12With13.into();
        let tls = testing::listener_tls(&policy, store, Http2::Offered, None);
        let mut config = ServerConfig::clone(&tls.config);
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        config
    }

    /// What the facts say of a client's first handshake, and of the session that it resumes at `second`.
    fn twice(
        client: &Arc<ClientConfig>,
        first: &ListenerTls,
        second: &ListenerTls,
    ) -> Result<&'static str, FactsError> {
        let finished = handshake_with(&first.config, client, "www.example.com").unwrap();
        TlsFacts::of(&finished.server, first).unwrap();
        let finished = handshake_with(&second.config, client, "www.example.com").unwrap();
        assert_eq!(
            finished.server.handshake_kind(),
            Some(HandshakeKind::Resumed)
        );
        let facts = TlsFacts::of(&finished.server, second)?;
        if let Client::Certified(certificate) = &facts.client {
            assert_eq!(certificate.chain.len(), 1);
        }
        Ok(facts.client.verify().unwrap_or("unasked"))
    }

    #[test]
    fn a_resumed_session_is_judged_anew() {
        let (root, keys, clock) = (Authority::root("root"), keys(), Arc::<Clock>::default());
        let (old, new) = (root.revoke(&[13], 2090), root.revoke(&[1, 13], 2090));
        let identity = root.issue(|params| params.not_after = rcgen::date_time_ymd(2031, 1, 1));
        let tls12 = [CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256];
        let listener = |auth: ClientAuth| resuming(auth, &clock, &keys);
        let (required, told) = (ClientAuthMode::Required, ClientAuthMode::OptionalNoCa);
        let gone = Err(FactsError::Client(Reason::Revoked));
        for client in [
            testing::Client::new(),
            testing::Client::new().suites(&tls12),
        ] {
            let known = client.clone().shows(&identity).configured();
            let first = listener(auth(required, &root, &[&old]));
            assert_eq!(twice(&known, &first, &first), Ok("SUCCESS"));
            let known = client.clone().shows(&identity).configured();
            let second = listener(auth(required, &root, &[&new]));
            assert_eq!(twice(&known, &first, &second), gone);
            let known = client.clone().shows(&identity).configured();
            let second = listener(auth(told, &root, &[&new]));
            let told_of = "FAILED:certificate revoked";
            assert_eq!(twice(&known, &second, &second), Ok(told_of));
            let optional = listener(auth(ClientAuthMode::Optional, &root, &[&old]));
            let nobody = client.configured();
            assert_eq!(twice(&nobody, &optional, &optional), Ok("NONE"));
            let nobody = client.configured();
            let refused = twice(&nobody, &optional, &first);
            assert_eq!(refused, Err(FactsError::NoCertificate));
        }
    }

    #[test]
    fn a_certificate_that_has_expired_since_resumes_no_session() {
        let (root, keys, clock) = (Authority::root("root"), keys(), Arc::<Clock>::default());
        let identity = root.issue(|params| params.not_after = rcgen::date_time_ymd(2031, 1, 1));
        let client = testing::Client::new().shows(&identity).configured();
        let tls = resuming(auth(ClientAuthMode::Required, &root, &[]), &clock, &keys);
        let finished = handshake_with(&tls.config, &client, "www.example.com").unwrap();
        assert!(TlsFacts::of(&finished.server, &tls).is_ok());
        clock.0.fetch_add(YEAR + 1, Ordering::Relaxed);
        let finished = handshake_with(&tls.config, &client, "www.example.com").unwrap();
        assert_eq!(
            finished.server.handshake_kind(),
            Some(HandshakeKind::Resumed)
        );
        let error = TlsFacts::of(&finished.server, &tls).unwrap_err();
        assert_eq!(error, FactsError::Client(Reason::Expired));
        assert!(
            error.to_string().contains("certificate has expired"),
            "{error}"
        );
    }
}
