//! For the tests of this room: certificates, and handshakes in memory with a client of any ability.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ClientConnection, ResolvesClientCert};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ServerConfig, ServerConnection};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{AlertDescription, CipherSuite, DigitallySignedStruct, NamedGroup, SignatureScheme};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime,
};

use super::ListenerTls;
use super::certificate::ServedCertificate;
use super::client_auth::ClientAuth;
use super::store::CertificateStore;
use super::tickets::{Context, KeySource, Ticketer};
use crate::config::plan::Http2;
use crate::config::tls_policy::TlsPolicy;

/// A kind of key to make.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Key {
    P256,
    P384,
    Rsa,
}

/// A certificate that signed itself.
pub(crate) fn certificate(key: Key, names: &[&str]) -> Arc<ServedCertificate> {
    expiring(key, names, 2035)
}

/// A certificate valid until the first day of a year.
pub(crate) fn expiring(key: Key, names: &[&str], year: i32) -> Arc<ServedCertificate> {
    let algorithm = match key {
        Key::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        Key::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        Key::Rsa => &rcgen::PKCS_RSA_SHA256,
    };
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut params =
        CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    let chain = vec![params.self_signed(&key).unwrap().der().clone()];
    Arc::new(
        ServedCertificate::new(chain, PrivateKeyDer::Pkcs8(key.serialize_der().into())).unwrap(),
    )
}

/// A listener with tickets of its own.
pub(crate) fn listener_tls(
    policy: &TlsPolicy,
    store: CertificateStore,
    http2: Http2,
    client_auth: Option<ClientAuth>,
) -> ListenerTls {
    let context = Context::new("web", policy, &[]);
    let ticketer = Ticketer::new(context, KeySource::Random, Arc::new(DefaultTimeProvider));
    ListenerTls::new(policy, store, http2, client_auth, ticketer.unwrap()).unwrap()
}

/// A clock that is set.
#[derive(Debug)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    pub(crate) fn at(seconds: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(seconds)))
    }

    pub(crate) fn set(&self, seconds: u64) {
        self.0.store(seconds, Ordering::Relaxed);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = Duration::from_secs(self.0.load(Ordering::Relaxed));
        Some(UnixTime::since_unix_epoch(seconds))
    }
}

/// What a client asks for and can do.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    name: Option<String>,
    suites: Vec<CipherSuite>,
    schemes: Vec<SignatureScheme>,
    groups: Vec<NamedGroup>,
    alpn: Vec<Vec<u8>>,
    identity: Option<Identity>,
}

impl Client {
    /// A client that can do all that rustls can, and asks for `www.example.com`.
    pub(crate) fn new() -> Self {
        let provider = aws_lc_rs::default_provider();
        Self {
            name: Some("www.example.com".into()),
            suites: provider
                .cipher_suites
                .iter()
                .map(|suite| suite.suite())
                .collect(),
            schemes: provider
                .signature_verification_algorithms
                .supported_schemes(),
            groups: provider
                .kx_groups
                .iter()
                .map(|group| group.name())
                .collect(),
            alpn: Vec::new(),
            identity: None,
        }
    }

    pub(crate) fn name(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }

    pub(crate) fn without_name(mut self) -> Self {
        self.name = None;
        self
    }

    pub(crate) fn suites(mut self, suites: &[CipherSuite]) -> Self {
        self.suites = suites.to_vec();
        self
    }

    pub(crate) fn schemes(mut self, schemes: &[SignatureScheme]) -> Self {
        self.schemes = schemes.to_vec();
        self
    }

    pub(crate) fn groups(mut self, groups: &[NamedGroup]) -> Self {
        self.groups = groups.to_vec();
        self
    }

    pub(crate) fn alpn(mut self, protocols: &[&str]) -> Self {
        self.alpn = protocols
            .iter()
            .map(|protocol| protocol.as_bytes().to_vec())
            .collect();
        self
    }

    /// Shows a certificate when asked for one.
    pub(crate) fn shows(mut self, identity: &Identity) -> Self {
        self.identity = Some(identity.clone());
        self
    }

    /// The ClientHello, as it goes onto the wire.
    #[cfg(feature = "legacy-tls")]
    pub(crate) fn first_flight(&self) -> Vec<u8> {
        let name = self.name.as_deref().unwrap_or("www.example.com");
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(self.configured(), name).unwrap();
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        wire
    }

    pub(crate) fn configured(&self) -> Arc<ClientConfig> {
        let all = aws_lc_rs::default_provider();
        let provider = CryptoProvider {
            cipher_suites: self
                .suites
                .iter()
                .filter_map(|id| {
                    aws_lc_rs::ALL_CIPHER_SUITES
                        .iter()
                        .find(|suite| suite.suite() == *id)
                })
                .copied()
                .collect(),
            kx_groups: self
                .groups
                .iter()
                .filter_map(|id| all.kx_groups.iter().find(|group| group.name() == *id))
                .copied()
                .collect(),
            ..all
        };
        let versions: Vec<_> = rustls::ALL_VERSIONS
            .iter()
            .copied()
            .filter(|version| {
                provider
                    .cipher_suites
                    .iter()
                    .any(|suite| suite.version() == *version)
            })
            .collect();
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting(self.schemes.clone())))
            .with_client_cert_resolver(Arc::new(Shown(self.identity.clone())));
        config.alpn_protocols = self.alpn.clone();
        config.enable_sni = self.name.is_some();
        Arc::new(config)
    }
}

/// Both ends after a handshake.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) client: ClientConnection,
    pub(crate) server: ServerConnection,
}

/// Why there was no handshake.
#[derive(Debug)]
pub(crate) struct Refused {
    /// What the client was told.
    pub(crate) alert: Option<AlertDescription>,
}

/// Lets a client shake hands with a server.
pub(crate) fn handshake(server: &Arc<ServerConfig>, client: &Client) -> Result<Finished, Refused> {
    handshake_with(
        server,
        &client.configured(),
        client.name.as_deref().unwrap_or("www.example.com"),
    )
}

/// Lets a configured client shake hands with a server.
pub(crate) fn handshake_with(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    name: &str,
) -> Result<Finished, Refused> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    while client.is_handshaking()
        || server.is_handshaking()
        || client.wants_write()
        || server.wants_write()
    {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        let mut unread = wire.as_slice();
        while !unread.is_empty() {
            server.read_tls(&mut unread).unwrap();
            // A refusal shows at the client, as the alert that the server has sent.
            let _ = server.process_new_packets();
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut unread = wire.as_slice();
        while !unread.is_empty() {
            client.read_tls(&mut unread).unwrap();
            if let Err(error) = client.process_new_packets() {
                let rustls::Error::AlertReceived(alert) = error else {
                    return Err(Refused { alert: None });
                };
                return Err(Refused { alert: Some(alert) });
            }
        }
    }
    Ok(Finished { client, server })
}

/// A certificate with what vouches for it, and its key.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Arc<dyn SigningKey>,
}

/// Shows its certificate to everyone who asks, fitting or not.
#[derive(Debug)]
struct Shown(Option<Identity>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let Identity { chain, key } = self.0.clone()?;
        Some(Arc::new(CertifiedKey::new(chain, key)))
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

/// One who issues certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) certificate: CertificateDer<'static>,
}

impl Authority {
    /// One that nobody stands behind.
    pub(crate) fn root(name: &str) -> Self {
        let (params, key) = (Self::params(name), KeyPair::generate().unwrap());
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// One that this one vouches for.
    pub(crate) fn authority(&self, name: &str) -> Self {
        self.authority_as(name, |_| {})
    }

    /// The same, as changed by `change`.
    pub(crate) fn authority_as(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let (mut params, key) = (Self::params(name), KeyPair::generate().unwrap());
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    /// A client's certificate, as changed by `change`.
    pub(crate) fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "client");
        params.serial_number = Some(SerialNumber::from(1));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            chain: vec![certificate.der().clone()],
            key: signing_key(&key),
        }
    }

    /// The list of the serial numbers that it has revoked, to be renewed before a year begins.
    pub(crate) fn revoke(
        &self,
        serials: &[u64],
        year: i32,
    ) -> CertificateRevocationListDer<'static> {
        let params = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(year, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials
                .iter()
                .map(|serial| RevokedCertParams {
                    serial_number: SerialNumber::from(*serial),
                    revocation_time: rcgen::date_time_ymd(2020, 1, 1),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().der().clone()
    }
}

/// A key as rustls uses it.
pub(crate) fn signing_key(key: &KeyPair) -> Arc<dyn SigningKey> {
    let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    aws_lc_rs::sign::any_supported_type(&der).unwrap()
}

/// Believes every certificate, but knows only some signatures.
#[derive(Debug)]
struct Trusting(Vec<SignatureScheme>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
