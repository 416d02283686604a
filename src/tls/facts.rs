//! What is known of a connection once its handshake is done, and whether it is served at all.

use std::fmt;
use std::sync::Arc;

use rustls::HandshakeKind;
use rustls::server::ServerConnection;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::verdict::{Reason, Verdict};
use super::{H2, ListenerTls, policy};
use crate::config::plan::ClientAuthMode;
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
        })
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
            server_name,
            alpn: Alpn::of(connection.selected_alpn_protocol()),
            session: Session::New,
            client: Client::Unasked,
        })
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
