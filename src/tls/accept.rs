//! The server's side of a handshake.
//!
//! The ClientHello is read first, so that a failure can be told with the name that was asked for. On
//! failure the stream is given back: where plain HTTP came, an answer can still be sent on it.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::ListenerTls;
use super::facts::TlsFacts;
#[cfg(feature = "legacy-tls")]
use super::legacy::Choice;
use crate::stream::{ClientStream, Transport};

/// A handshake that did not succeed.
#[derive(Debug)]
pub struct HandshakeError<S> {
    /// The stream, where it can be given back.
    pub stream: Option<S>,
    /// What went wrong.
    pub error: io::Error,
    /// The name that the client asked for (SNI), if it came that far.
    pub server_name: Option<Box<str>>,
}

/// Shakes hands over `transport`, by the engine that serves its client.
///
/// # Errors
/// Where no connection comes about.
pub async fn handshake(
    transport: Transport,
    tls: &ListenerTls,
) -> Result<(ClientStream, TlsFacts), HandshakeError<Transport>> {
    #[cfg(feature = "legacy-tls")]
    let transport = {
        let mut transport = transport;
        if let Some(legacy) = &tls.legacy {
            match legacy.choose(&mut transport).await {
                Ok(Choice::Rustls) => {}
                Ok(Choice::OpenSsl(client)) => {
                    let server_name = client.server_name();
                    if tls.store.refuses(server_name) {
                        let server_name = server_name.map(Box::from);
                        return Err(refuse_name(transport, server_name).await);
                    }
                    let (stream, facts) = legacy.handshake(transport, client, tls).await?;
                    return Ok((ClientStream::OpenSsl(stream), facts));
                }
                Err(error) => {
                    return Err(HandshakeError {
                        stream: Some(transport),
                        error,
                        server_name: None,
                    });
                }
            }
        }
        transport
    };
    let (stream, facts) = by_rustls(transport, tls).await?;
    Ok((ClientStream::Tls(stream), facts))
}

/// Shakes hands over `stream` by rustls.
async fn by_rustls<S>(
    stream: S,
    tls: &ListenerTls,
) -> Result<(TlsStream<S>, TlsFacts), HandshakeError<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), stream);
    let hello = match (&mut acceptor).await {
        Ok(hello) => hello,
        Err(error) => {
            return Err(HandshakeError {
                stream: acceptor.take_io(),
                error,
                server_name: None,
            });
        }
    };
    let server_name: Option<Box<str>> = hello.client_hello().server_name().map(Box::from);
    if tls.store.refuses(server_name.as_deref()) {
        return Err(refuse_name(hello.io, server_name).await);
    }
    let accept = hello.into_stream(Arc::clone(&tls.config)).into_fallible();
    let stream = match accept.await {
        Ok(stream) => stream,
        Err((error, stream)) => {
            return Err(HandshakeError {
                stream: Some(stream),
                error,
                server_name,
            });
        }
    };
    match TlsFacts::of(stream.get_ref().1, tls) {
        Ok(facts) => Ok((stream, facts)),
        Err(error) => Err(HandshakeError {
            stream: None,
            error: io::Error::other(error),
            server_name,
        }),
    }
}

/// A fatal alert in a record of its own: unrecognized_name (RFC 6066 section 3). rustls has none for a
/// certificate that is not there but access_denied, from which nobody learns the reason.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Why a name was refused (`sni_strict`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRefused {
    /// No certificate covers it.
    Unknown,
    /// None was asked for.
    Absent,
}

impl fmt::Display for NameRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "sni_strict: no certificate covers the name that was asked for",
            Self::Absent => "sni_strict: no name was asked for",
        })
    }
}

impl std::error::Error for NameRefused {}

/// Tells a client that nobody here has the name it asks for.
async fn refuse_name<S>(mut stream: S, server_name: Option<Box<str>>) -> HandshakeError<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let told = async {
        stream.write_all(&UNRECOGNIZED_NAME).await?;
        stream.flush().await
    };
    let error = match told.await {
        Ok(()) => io::Error::other(match server_name {
            Some(_) => NameRefused::Unknown,
            None => NameRefused::Absent,
        }),
        Err(error) => error,
    };
    HandshakeError {
        stream: Some(stream),
        error,
        server_name,
    }
}
