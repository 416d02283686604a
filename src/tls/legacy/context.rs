//! OpenSSL, set up for one listener: exactly the policy's older versions and suites, and nothing that would
//! need state of its own.
//!
//! Sessions are resumed by tickets alone, as rustls does it. HTTP/2 is not offered: RFC 9113 9.2.2 forbids
//! it with every one of these suites.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use openssl::error::ErrorStack;
use openssl::ssl::{
    self, AlpnError, Ssl, SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions,
    SslSessionCacheMode, SslVersion,
};
use tokio_openssl::SslStream;

use super::hello::Hello;
use super::ticket_keys;
use crate::config::tls_policy::{Engine, Suite, TlsPolicy, Version};
use crate::stream::Transport;
use crate::tls::certificate::ServedCertificate;
use crate::tls::tickets::Ticketer;

/// A listener's set-up.
#[derive(Debug)]
pub(super) struct Context(SslContext);

impl Context {
    pub(super) fn new(policy: &TlsPolicy) -> Result<Self, ErrorStack> {
        let mut context = SslContextBuilder::new(SslMethod::tls_server())?;
        context.set_security_level(0);
        let suites: Vec<_> = policy.suites_of(Engine::OpenSsl).map(Suite::name).collect();
        context.set_cipher_list(&format!("{}:@SECLEVEL=0", suites.join(":")))?;
        // TLS 1.3 is never agreed on: clients that offer it are not asked for it, below. A listener that has it
        // says so all the same, as what protects clients from being talked down depends on it (RFC 8446 4.1.3,
        // RFC 7507).
        let newest = policy.effective_suites();
        let newest = newest.filter(|suite| suite.versions() == [Version::Tls13]);
        let newest: Vec<_> = newest.map(Suite::name).collect();
        context.set_ciphersuites(&newest.join(":"))?;
        context.set_max_proto_version(policy.effective_versions().last().map(protocol))?;
        context.set_min_proto_version(policy.versions_of(Engine::OpenSsl).next().map(protocol))?;
        let mut options =
            SslOptions::NO_RENEGOTIATION | SslOptions::NO_COMPRESSION | SslOptions::SINGLE_ECDH_USE;
        for version in Version::ALL {
            if policy
                .versions_of(Engine::OpenSsl)
                .all(|own| own != version)
            {
                options |= without(version);
            }
        }
        context.set_options(options);
        context.set_groups_list("X25519:P-256:P-384")?;
        context.set_session_cache_mode(SslSessionCacheMode::OFF);
        ticket_keys::install(&mut context)?;
        // hyper's buffers move between attempts, and take part of a write for an answer; idle connections hold
        // no buffers.
        context.set_mode(
            SslMode::ENABLE_PARTIAL_WRITE
                | SslMode::ACCEPT_MOVING_WRITE_BUFFER
                | SslMode::AUTO_RETRY
                | SslMode::RELEASE_BUFFERS,
        );
        context.set_alpn_select_callback(|_, offered| {
            ssl::select_next_proto(b"\x08http/1.1", offered).ok_or(AlpnError::ALERT_FATAL)
        });
        Ok(Self(context.build()))
    }

    /// Shakes hands with a client that gets this certificate.
    pub(super) async fn accept(
        &self,
        transport: Transport,
        hello: &Hello,
        certificate: &ServedCertificate,
        ticketer: &Arc<Ticketer>,
    ) -> io::Result<SslStream<Transport>> {
        let ssl = self.session(hello, certificate);
        let ssl = ssl.and_then(|mut ssl| {
            ticket_keys::bind(&mut ssl, ticketer, hello.server_name.as_deref())?;
            Ok(ssl)
        });
        let ssl = ssl.map_err(|errors| io::Error::other(reason(&errors)))?;
        let stream = SslStream::new(ssl, transport);
        let mut stream = stream.map_err(|errors| io::Error::other(reason(&errors)))?;
        match Pin::new(&mut stream).accept().await {
            Ok(()) => Ok(stream),
            Err(error) => Err(match error.ssl_error() {
                Some(errors) => io::Error::other(reason(errors)),
                None => error
                    .into_io_error()
                    .unwrap_or_else(|_| io::ErrorKind::UnexpectedEof.into()),
            }),
        }
    }

    fn session(&self, hello: &Hello, certificate: &ServedCertificate) -> Result<Ssl, ErrorStack> {
        let mut ssl = Ssl::new(&self.0)?;
        if hello.offers(Version::Tls13.id()) {
            // They offer no suite of it that the policy lists.
            ssl.set_max_proto_version(Some(SslVersion::TLS1_2))?;
        }
        let chain = &certificate.certified_key().cert;
        let pair = certificate.openssl().get(chain)?;
        ssl.set_certificate(&pair.leaf)?;
        ssl.set_private_key(&pair.key)?;
        for authority in &pair.authorities {
            ssl.add_chain_cert(authority.clone())?;
        }
        Ok(ssl)
    }
}

fn protocol(version: Version) -> SslVersion {
    match version {
        Version::Tls10 => SslVersion::TLS1,
        Version::Tls11 => SslVersion::TLS1_1,
        Version::Tls12 => SslVersion::TLS1_2,
        Version::Tls13 => SslVersion::TLS1_3,
    }
}

/// What forbids a version; TLS 1.3 stands above the highest where it is not listed.
fn without(version: Version) -> SslOptions {
    match version {
        Version::Tls10 => SslOptions::NO_TLSV1,
        Version::Tls11 => SslOptions::NO_TLSV1_1,
        Version::Tls12 => SslOptions::NO_TLSV1_2,
        Version::Tls13 => SslOptions::empty(),
    }
}

/// What OpenSSL says, without the places in its source.
pub(super) fn reason(errors: &ErrorStack) -> String {
    let reasons = errors.errors().iter().filter_map(|error| error.reason());
    let reasons: Vec<_> = reasons.collect();
    format!("OpenSSL: {}", reasons.join(", "))
}
