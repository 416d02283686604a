//! Connects to a server: over TCP, or to a unix socket; secured where its group says so.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use rustls::client::ClientConnection;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::client::TlsStream;

use super::server::Server;
use super::tls::{Asked, BackendTls, NamedBy};
use crate::addr::BackendAddr;

/// How often an idle TLS connection may have news that mean nothing before it is not trusted any more.
const MOST_RECORDS: usize = 16;

/// A byte stream to a server.
#[derive(Debug)]
pub enum BackendStream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a unix socket.
    Unix(UnixStream),
    /// Over TLS, over one of the others.
    Tls(Box<Secured>),
}

/// A secured byte stream, and by what name its server was asked for.
#[derive(Debug)]
pub struct Secured {
    stream: TlsStream<BackendStream>,
    name: ServerName<'static>,
}

impl Secured {
    /// A stream whose handshake is done.
    pub fn new(stream: TlsStream<BackendStream>, name: ServerName<'static>) -> Box<Self> {
        Box::new(Self { stream, name })
    }
}

/// Why no connection came about; nothing was sent.
#[derive(Debug)]
pub enum ConnectError {
    /// Refused, reset or unreachable.
    Refused(io::Error),
    /// This process or machine has no descriptor, memory or port left for one: not the server's fault.
    Exhausted(io::Error),
    /// Not accepted within connect_timeout, or not secured by then.
    Timeout,
    /// The TLS handshake failed, under a name that was given by this.
    Handshake(io::Error, NamedBy),
    /// The server's certificate does not verify.
    Certificate(rustls::Error),
    /// The name has no address.
    Unresolved,
}

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(error) | Self::Exhausted(error) => write!(f, "cannot connect: {error}"),
            Self::Timeout => f.write_str("cannot connect within connect_timeout"),
            Self::Handshake(error, _) => write!(f, "the TLS handshake failed: {error}"),
            Self::Certificate(error) => write!(f, "the server is not verified: {error}"),
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
            Self::Refused(_) | Self::Timeout | Self::Certificate(_) => true,
            Self::Handshake(_, by) => match by {
                NamedBy::Configuration => true,
                NamedBy::Client => false,
            },
            // A name without an address is known already.
            Self::Exhausted(_) | Self::Unresolved => false,
        }
    }

    /// What became of a handshake.
    pub fn of_handshake(error: io::Error, by: NamedBy) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        match inner {
            Some(rustls::Error::InvalidCertificate(_)) => {
                inner.cloned().map_or(Self::Timeout, Self::Certificate)
            }
            Some(_) | None => Self::Handshake(error, by),
        }
    }

    /// Tells what TLS has against a server, when it begins to be skipped: a mistake in the configuration of
    /// either side that no client's answer explains.
    pub fn warn_once(&self, server: &Server) {
        if matches!(self, Self::Handshake(..) | Self::Certificate(_))
            && !server.is_skipped(Instant::now())
        {
            tracing::warn!(server = %server.address(), "{self}");
        }
    }
}

/// Connects to `server` until `limit` has passed.
pub async fn connect(server: &Server, limit: Duration) -> Result<BackendStream, ConnectError> {
    timeout(limit, reach(server.endpoint()))
        .await
        .unwrap_or(Err(ConnectError::Timeout))
}

/// Connects to `server`, asked for by name, and secures the connection, until `limit` has passed.
pub async fn connect_tls(
    server: &Server,
    limit: Duration,
    tls: &BackendTls,
    asked: &Asked<'_>,
) -> Result<BackendStream, ConnectError> {
    let deadline = Instant::now() + limit;
    let stream = connect(server, limit).await?;
    timeout_at(deadline, tls.secure(stream, asked))
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
    pub fn is_quiet(&mut self) -> bool {
        if let Self::Tls(secured) = self {
            let (inner, session) = secured.stream.get_mut();
            return is_quiet_session(session, inner);
        }
        let read = self.try_read(&mut [0]);
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether it is one that was secured under `name`.
    pub fn was_asked_for(&self, name: &ServerName<'_>) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => false,
            Self::Tls(secured) => secured.name == *name,
        }
    }

    /// Reads what is there, below TLS.
    fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buf),
            Self::Unix(stream) => stream.try_read(buf),
            Self::Tls(secured) => secured.stream.get_ref().0.try_read(buf),
        }
    }
}

/// Reads what a server has sent on an idle TLS connection: new session tickets and keys are taken, content
/// and the connection's end are news.
fn is_quiet_session(session: &mut ClientConnection, inner: &BackendStream) -> bool {
    for _ in 0..MOST_RECORDS {
        match session.process_new_packets() {
            Ok(state) if state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed() => {}
            Ok(_) | Err(_) => return false,
        }
        match session.read_tls(&mut Ready(inner)) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
    false
}

/// Reads what is there.
struct Ready<'a>(&'a BackendStream);

impl io::Read for Ready<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buf)
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
            Self::Tls(secured) => Pin::new(&mut secured.stream).poll_read(cx, buf),
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
            Self::Tls(secured) => Pin::new(&mut secured.stream).poll_write(cx, buf),
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
            Self::Tls(secured) => Pin::new(&mut secured.stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Tls(secured) => Pin::new(&mut secured.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(secured) => Pin::new(&mut secured.stream).poll_shutdown(cx),
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
