//! Connects to a server: over TCP to one of its addresses, or to a unix socket.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};

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
            Self::Refused(_) | Self::Timeout | Self::Unresolved => true,
            Self::Exhausted(_) => false,
        }
    }
}

/// Connects to `server`, trying each of its addresses until `limit` has passed.
pub async fn connect(server: &Server, limit: Duration) -> Result<BackendStream, ConnectError> {
    let deadline = Instant::now() + limit;
    let attempt = async {
        match server.address() {
            BackendAddr::Unix(path) => UnixStream::connect(path)
                .await
                .map(BackendStream::Unix)
                .map_err(ConnectError::from),
            BackendAddr::Ip(address) => tcp(*address).await.map_err(ConnectError::from),
            BackendAddr::Name { .. } => any(server, limit).await,
        }
    };
    timeout_at(deadline, attempt)
        .await
        .unwrap_or(Err(ConnectError::Timeout))
}

/// Tries the addresses of a name in turn, each connection beginning with another one.
async fn any(server: &Server, limit: Duration) -> Result<BackendStream, ConnectError> {
    let addresses = server.resolved();
    let start = server.next_start();
    let share = limit / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    let mut last = ConnectError::Unresolved;
    for address in addresses
        .iter()
        .cycle()
        .skip(start % addresses.len().max(1))
        .take(addresses.len())
    {
        // One that does not answer leaves time for the others.
        match timeout(share, tcp(*address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = ConnectError::from(error),
            Err(_) => last = ConnectError::Timeout,
        }
    }
    Err(last)
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
        assert!(ConnectError::Unresolved.is_the_servers());
    }
}
