//! TLS by OpenSSL over a client's transport, behaving as rustls' stream does where they differ.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_openssl::SslStream;

use super::Transport;

/// A stream whose handshake is done.
#[derive(Debug)]
pub struct OpenSslStream {
    tls: SslStream<Transport>,
    goodbye: Goodbye,
}

/// Whether close_notify has been sent: OpenSSL, asked a second time, waits for the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goodbye {
    Unsaid,
    Said,
}

impl OpenSslStream {
    /// A stream over `tls`, which has shaken hands.
    pub fn new(tls: SslStream<Transport>) -> Self {
        Self {
            tls,
            goodbye: Goodbye::Unsaid,
        }
    }

    /// The TCP transport below.
    pub fn transport(&self) -> &Transport {
        self.tls.get_ref()
    }

    /// The TCP transport below.
    pub fn transport_mut(&mut self) -> &mut Transport {
        self.tls.get_mut()
    }
}

impl AsyncRead for OpenSslStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for OpenSslStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.goodbye == Goodbye::Unsaid {
            ready!(Pin::new(&mut self.tls).poll_shutdown(cx))?;
            self.goodbye = Goodbye::Said;
            return Poll::Ready(Ok(()));
        }
        Pin::new(self.tls.get_mut()).poll_shutdown(cx)
    }
}
