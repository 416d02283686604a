//! Connects to a server: over TCP, or to a unix socket.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::server::Server;
use crate::addr::BackendAddr;

/// A byte stream to a server.
#[derive(Debug)]
pub enum BackendStream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a unix socket.
    Unix(UnixStream),
}

/// Why no connection came about; nothing was sent.
#[derive(Debug)]
pub enum ConnectError {
    /// Refused, reset or unreachable.
    Refused(io::Error),
    /// This process or machine has no descriptor, memory or port left for one: not the server's fault.
    Exhausted(io::Error),
    /// Not accepted within connect_timeout.
    Timeout,
    /// The name has no address.
    Unresolved,
}

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(error) | Self::Exhausted(error) => write!(f, "cannot connect: {error}"),
            Self::Timeout => f.write_str("cannot connect within connect_timeout"),
            Self::Unresolved => f.write_str("the name has no address"),
        }
    }
}

impl std::error::Error for ConnectError {}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(
                Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL,
            ) => Self::Exhausted(error),
            Some(_) | None => Self::Refused(error),
        }
    }
}

impl ConnectError {
    /// Whether the server is to blame, and is skipped for a moment.
    pub fn is_the_servers(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Timeout => true,
            // A name without an address is known already.
            Self::Exhausted(_) | Self::Unresolved => false,
        }
    }
}

/// Connects to `server` until `limit` has passed.
pub async fn connect(server: &Server, limit: Duration) -> Result<BackendStream, ConnectError> {
    timeout(limit, reach(server.endpoint()))
        .await
        .unwrap_or(Err(ConnectError::Timeout))
}

/// Connects to where a server is.
pub async fn reach(endpoint: &BackendAddr) -> Result<BackendStream, ConnectError> {
    match endpoint {
        BackendAddr::Unix(path) => UnixStream::connect(path)
            .await
            .map(BackendStream::Unix)
            .map_err(ConnectError::from),
        BackendAddr::Ip(address) => tcp(*address).await.map_err(ConnectError::from),
        BackendAddr::Name { .. } => Err(ConnectError::Unresolved),
    }
}

async fn tcp(address: SocketAddr) -> io::Result<BackendStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(BackendStream::Tcp(stream))
}

impl BackendStream {
    /// Whether nothing has happened on an idle connection: the server neither closed it nor sent bytes
    /// that nobody asked for. Costs no system call while the socket is quiet.
    pub fn is_quiet(&self) -> bool {
        let mut byte = [0];
        let read = match self {
            Self::Tcp(stream) => stream.try_read(&mut byte),
            Self::Unix(stream) => stream.try_read(&mut byte),
        };
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl AsyncRead for BackendStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for BackendStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_lacks_is_not_the_servers_fault() {
        for (errno, is_the_servers) in [
            (Errno::CONNREFUSED, true),
            (Errno::CONNRESET, true),
            (Errno::HOSTUNREACH, true),
            (Errno::MFILE, false),
            (Errno::NFILE, false),
            (Errno::NOBUFS, false),
            (Errno::NOMEM, false),
            (Errno::ADDRNOTAVAIL, false),
        ] {
            let error = ConnectError::from(io::Error::from(errno));
            assert_eq!(error.is_the_servers(), is_the_servers, "{error}");
        }
        assert!(ConnectError::Timeout.is_the_servers());
        assert!(!ConnectError::Unresolved.is_the_servers());
    }
}
