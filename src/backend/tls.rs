//! TLS towards servers: by what name one is asked for, and whether it has to prove that it is the one.
//!
//! A connection is only used again for requests that would ask for the server by the same name. Sessions
//! are resumed, per worker and server; early data is not sent.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use http::HeaderValue;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;

use super::connect::{BackendStream, ConnectError, Secured};
use super::server::Server;
use crate::addr::BackendAddr;
use crate::config::backend_tls::BackendName;

/// Sessions kept for resumption, per worker and server.
const SESSIONS: usize = 32;

/// Whose servers are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Everyone's.
    Anyone,
    /// Those that have a certificate from one of these authorities.
    Authorities(Vec<CertificateDer<'static>>),
}

/// How the connections of a group are secured.
#[derive(Clone)]
pub struct BackendTls {
    name: BackendName,
    trust: Trust,
    config: Arc<ClientConfig>,
}

/// The name for one connection.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The name.
    pub name: Cow<'a, ServerName<'a>>,
    /// Who said it.
    pub by: NamedBy,
}

/// Who said by what name a server is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedBy {
    /// The configuration.
    Configuration,
    /// A client, by its Host: if the server refuses it, that says nothing of the server.
    Client,
}

impl BackendTls {
    /// TLS 1.2 and 1.3 with everything that rustls takes for safe, and `http/1.1` by ALPN.
    ///
    /// # Errors
    /// Where an authority cannot be used.
    pub fn new(name: BackendName, trust: Trust) -> Result<Self, Error> {
        // Named, so that the process-wide default never matters.
        let provider = Arc::new(provider::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let mut config = builder
            .dangerous()
            .with_custom_certificate_verifier(verifier(&trust, provider)?)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            name,
            trust,
            config: Arc::new(config),
        })
    }

    /// The same for one server in one worker: with sessions of its own.
    pub fn for_server(&self) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Self {
            config: Arc::new(config),
            ..self.clone()
        }
    }

    /// Whether its connections are as good as those of `other`.
    pub fn agrees_with(&self, other: &Self) -> bool {
        self.name == other.name && self.trust == other.trust
    }

    /// By what name `server` is asked for, for a request with this Host. Where that is no DNS name, the server
    /// is asked for by none.
    pub fn asked<'a>(&'a self, server: &'a Server, host: Option<&'a HeaderValue>) -> Asked<'a> {
        match &self.name {
            BackendName::Fixed(name) => Asked::configured(Cow::Borrowed(name)),
            BackendName::Address => Asked::configured(Cow::Owned(match server.address() {
                BackendAddr::Ip(address) => address.ip().into(),
                BackendAddr::Name { host, .. } => {
                    ServerName::try_from(host.as_str()).unwrap_or_else(|_| nameless())
                }
                // Not in a plan: its resolver asks for a name.
                BackendAddr::Unix(_) => nameless(),
            })),
            BackendName::RequestHost => match host.and_then(dns_name) {
                Some(name) => Asked {
                    name: Cow::Owned(name),
                    by: NamedBy::Client,
                },
                None => Asked::configured(Cow::Owned(nameless())),
            },
        }
    }

    /// Secures a connection. It takes as long as the server lets it.
    pub async fn secure(
        &self,
        stream: BackendStream,
        asked: &Asked<'_>,
    ) -> Result<BackendStream, ConnectError> {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let name = asked.name.as_ref().to_owned();
        match connector.connect(name.clone(), stream).await {
            Ok(stream) => Ok(BackendStream::Tls(Secured::new(stream, name))),
            Err(error) => Err(ConnectError::of_handshake(error, asked.by)),
        }
    }
}

impl fmt::Debug for BackendTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendTls")
            .field("name", &self.name)
            .field("trust", &self.trust)
            .finish_non_exhaustive()
    }
}

impl<'a> Asked<'a> {
    fn configured(name: Cow<'a, ServerName<'a>>) -> Self {
        Self {
            name,
            by: NamedBy::Configuration,
        }
    }
}

/// Stands for no name: an address is not sent.
fn nameless() -> ServerName<'static> {
    IpAddr::V4(Ipv4Addr::UNSPECIFIED).into()
}

/// The host of a Host field, if it is a DNS name.
fn dns_name(host: &HeaderValue) -> Option<ServerName<'_>> {
    let host = host.to_str().ok()?;
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    match ServerName::try_from(name.strip_suffix('.').unwrap_or(name)) {
        Ok(name @ ServerName::DnsName(_)) => Some(name),
        Ok(_) | Err(_) => None,
    }
}

fn verifier(
    trust: &Trust,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    let authorities = match trust {
        Trust::Anyone => {
            let algorithms = provider.signature_verification_algorithms;
            return Ok(Arc::new(Unverified(algorithms.supported_schemes())));
        }
        Trust::Authorities(authorities) => authorities,
    };
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone())?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    Ok(verifier.map_err(|error| Error::General(error.to_string()))?)
}

/// Takes every certificate, and does not look at what was signed with it either: whoever is between has a
/// certificate too, and servers' own may be of a kind that cannot be read.
#[derive(Debug)]
struct Unverified(Vec<SignatureScheme>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(name: BackendName, address: &str, host: Option<&'static str>) -> String {
        let tls = BackendTls::new(name, Trust::Anyone).unwrap();
        let address = match address.parse() {
            Ok(address) => BackendAddr::Ip(address),
            Err(_) => BackendAddr::Name {
                host: address.to_owned(),
                port: 443,
            },
        };
        let server = Server::new("app".into(), address.clone(), address);
        let host = host.map(HeaderValue::from_static);
        let asked = tls.asked(&server, host.as_ref());
        asked.name.to_str().into_owned()
    }

    #[test]
    fn a_server_is_asked_for_by_the_name_that_was_configured_its_own_or_the_request_s() {
        let fixed = BackendName::Fixed(ServerName::try_from("fixed.test").unwrap());
        let host = Some("www.example.com:8443");
        for (name, address, host, expected) in [
            (fixed, "10.0.0.1:443", host, "fixed.test"),
            (BackendName::Address, "10.0.0.1:443", host, "10.0.0.1"),
            (BackendName::Address, "app.internal", host, "app.internal"),
            (
                BackendName::RequestHost,
                "10.0.0.1:443",
                host,
                "www.example.com",
            ),
            (
                BackendName::RequestHost,
                "app.internal",
                Some("a.test."),
                "a.test",
            ),
            (
                BackendName::RequestHost,
                "app.internal",
                Some("[::1]:443"),
                "0.0.0.0",
            ),
            (
                BackendName::RequestHost,
                "app.internal",
                Some("192.0.2.1"),
                "0.0.0.0",
            ),
            (BackendName::RequestHost, "app.internal", None, "0.0.0.0"),
        ] {
            let shown = shown(name, address, host);
            assert_eq!(shown, expected, "{address} {host:?}");
        }
    }
}
