//! The client's byte stream: the metered TCP transport, and TLS over it.
//!
//! The transport reads ahead (rustls asks for 4 KiB at a time) into a buffer that its thread lends it
//! only while it holds bytes, tells plain HTTP from TLS by the first byte, and notes when the client
//! last took or gave a byte, so that others can judge who is slow. What stands before TLS can be looked
//! at and taken out of that buffer, and nothing behind it.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

#[cfg(feature = "legacy-tls")]
use self::openssl::OpenSslStream;
use crate::unsent::unsent;

#[cfg(feature = "legacy-tls")]
pub mod openssl;

/// Bytes read from a socket at once.
const READ_AHEAD: usize = 64 * 1024;
/// Read-ahead buffers a thread keeps for the next reader.
const SPARE_BUFFERS: usize = 32;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// What a transport knows about its client's pace.
#[derive(Debug, Default)]
pub struct Meter {
    blocked: Cell<Option<Instant>>,
    unblocked: Cell<Option<Instant>>,
    received: Cell<u64>,
    sent: Cell<u64>,
    /// The socket's own address and the client's, once it has taken nothing for the first time.
    ends: OnceCell<Box<(SocketAddr, SocketAddr)>>,
}

impl Meter {
    /// Since when the client has taken nothing although there is something to send.
    pub fn write_blocked_since(&self) -> Option<Instant> {
        self.blocked.get()
    }

    /// When the client last took something after it had taken nothing for a while.
    pub fn unblocked_at(&self) -> Option<Instant> {
        self.unblocked.get()
    }

    /// Bytes read from the socket so far.
    pub fn received(&self) -> u64 {
        self.received.get()
    }

    /// Bytes written to the socket so far.
    pub fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Bytes that the client has acknowledged so far; where the system does not say, those that the socket took.
    pub fn taken(&self) -> u64 {
        let waiting = self.ends.get().and_then(|ends| unsent(ends.0, ends.1));
        self.sent.get().saturating_sub(waiting.unwrap_or(0))
    }

    fn wrote(&self, tcp: &TcpStream, poll: &Poll<io::Result<usize>>) {
        match poll {
            Poll::Ready(Ok(n)) => {
                self.sent.set(self.sent.get() + *n as u64);
                if self.blocked.take().is_some() {
                    self.unblocked.set(Some(Instant::now()));
                }
            }
            Poll::Ready(Err(_)) => self.blocked.set(None),
            Poll::Pending => {
                if self.blocked.get().is_none() {
                    self.blocked.set(Some(Instant::now()));
                }
                if self.ends.get().is_none()
                    && let (Ok(local), Ok(peer)) = (tcp.local_addr(), tcp.peer_addr())
                {
                    self.ends.get_or_init(|| Box::new((local, peer)));
                }
            }
        }
    }
}

/// What the first byte of a connection to a TLS port must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// A TLS record; a letter means that the client speaks plain HTTP.
    TlsRecord,
    /// Anything.
    Anything,
}

/// How the transport ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The socket is closed as a whole by dropping it.
    Drop,
    /// The sending half is closed, the receiving half stays.
    HalfClose,
}

/// A client's TCP connection.
#[derive(Debug)]
pub struct Transport {
    tcp: TcpStream,
    ahead: Vec<u8>,
    position: usize,
    filled: usize,
    expect: Expect,
    ending: Ending,
    /// The last read found nothing, and the layers above hold nothing either.
    drained: bool,
    meter: Rc<Meter>,
}

impl Transport {
    /// A transport that carries whatever comes.
    pub fn plain(tcp: TcpStream) -> Self {
        Self::new(tcp, Expect::Anything)
    }

    /// A transport for TLS: reading from it fails with [`PlainHttp`] if the client speaks plain HTTP.
    pub fn for_tls(tcp: TcpStream) -> Self {
        Self::new(tcp, Expect::TlsRecord)
    }

    fn new(tcp: TcpStream, expect: Expect) -> Self {
        Self {
            tcp,
            ahead: Vec::new(),
            position: 0,
            filled: 0,
            expect,
            ending: Ending::Drop,
            drained: false,
            meter: Rc::default(),
        }
    }

    /// The client's pace.
    pub fn meter(&self) -> &Rc<Meter> {
        &self.meter
    }

    /// From here on a shutdown closes the sending half only: the client may still be sending, and
    /// closing the socket under its feet would reset it before it reads the answer.
    pub fn half_close_on_shutdown(&mut self) {
        self.ending = Ending::HalfClose;
    }

    /// What has been read ahead and not been handed out yet.
    pub fn unread(&self) -> &[u8] {
        self.ahead
            .get(self.position..self.filled)
            .unwrap_or_default()
    }

    /// Reads more, behind what is unread; says how many bytes came, none at the end.
    pub async fn read_ahead(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// Passes over the first `n` unread bytes.
    pub fn skip(&mut self, n: usize) {
        self.position = (self.position + n).min(self.filled);
        self.give_back_empty();
    }

    /// The client has been idle for too long: if it has not taken its last answer either, its connection is
    /// reset, for a goodbye would wait behind that answer, in the kernel, for as long as the client likes.
    /// Says whether it is.
    pub fn reset_unless_taken(&self) -> bool {
        let (Ok(local), Ok(peer)) = (self.tcp.local_addr(), self.tcp.peer_addr()) else {
            return false;
        };
        let is_taken = unsent(local, peer).is_none_or(|bytes| bytes == 0);
        !is_taken
            && SockRef::from(&self.tcp)
                .set_linger(Some(Duration::ZERO))
                .is_ok()
    }

    /// Hands out what has been read ahead.
    fn take_ahead(&mut self, buf: &mut ReadBuf<'_>) {
        let n = self.unread().len().min(buf.remaining());
        if let Some(bytes) = self.unread().get(..n) {
            buf.put_slice(bytes);
        }
        self.skip(n);
    }

    /// An empty buffer goes back to the thread.
    fn give_back_empty(&mut self) {
        if self.position == self.filled {
            self.position = 0;
            self.filled = 0;
            let buffer = std::mem::take(&mut self.ahead);
            if buffer.capacity() > 0 {
                SPARE.with_borrow_mut(|spare| {
                    if spare.len() < SPARE_BUFFERS {
                        spare.push(buffer);
                    }
                });
            }
        }
    }

    /// Ready if there is something to read.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.filled > 0 {
            return Poll::Ready(Ok(()));
        }
        self.tcp.poll_read_ready(cx)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // No buffer is taken before there is something to read: idle connections hold none.
        ready!(self.tcp.poll_read_ready(cx))?;
        if self.filled == 0 {
            self.ahead = SPARE
                .with_borrow_mut(Vec::pop)
                .unwrap_or_else(|| vec![0; READ_AHEAD]);
        }
        let room = self.ahead.get_mut(self.filled..).unwrap_or_default();
        let mut read = ReadBuf::new(room);
        let poll = Pin::new(&mut self.tcp).poll_read(cx, &mut read);
        let n = read.filled().len();
        self.filled += n;
        self.give_back_empty();
        self.meter
            .received
            .set(self.meter.received.get() + n as u64);
        poll.map_ok(|()| n)
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.skip(self.filled);
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.filled == 0 {
            ready!(this.poll_fill(cx))?;
        }
        if this.expect == Expect::TlsRecord
            && let Some(first) = this.unread().first()
        {
            let is_letter = first.is_ascii_alphabetic();
            this.expect = Expect::Anything;
            if is_letter {
                return Poll::Ready(Err(io::Error::other(PlainHttp)));
            }
        }
        this.take_ahead(buf);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.meter.wrote(&self.tcp, &poll);
        poll
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // For a single slice, writev(2) costs more than send(2).
        let mut full = bufs.iter().filter(|buf| !buf.is_empty());
        let poll = match (full.next(), full.next()) {
            (Some(only), None) => Pin::new(&mut self.tcp).poll_write(cx, only),
            (None, _) | (Some(_), Some(_)) => Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs),
        };
        self.meter.wrote(&self.tcp, &poll);
        poll
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.ending {
            Ending::Drop => Poll::Ready(Ok(())),
            Ending::HalfClose => Pin::new(&mut self.tcp).poll_shutdown(cx),
        }
    }
}

/// The client spoke plain HTTP to a TLS port.
#[derive(Debug)]
pub struct PlainHttp;

impl PlainHttp {
    /// Whether this is what an error was made of.
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|e| e.is::<Self>())
    }
}

impl std::fmt::Display for PlainHttp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("plain HTTP was sent to a TLS port")
    }
}

impl std::error::Error for PlainHttp {}

/// What the HTTP layer talks to: a transport, with or without TLS.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it lives in a box, and the large one is the usual one"
)]
pub enum ClientStream {
    /// Plain TCP.
    Plain(Transport),
    /// TLS over TCP.
    Tls(TlsStream<Transport>),
    /// TLS over TCP, by OpenSSL: for clients that cannot do better.
    #[cfg(feature = "legacy-tls")]
    OpenSsl(OpenSslStream),
}

impl ClientStream {
    /// The TCP transport below.
    pub fn transport_mut(&mut self) -> &mut Transport {
        match self {
            Self::Plain(transport) => transport,
            Self::Tls(tls) => tls.get_mut().0,
            #[cfg(feature = "legacy-tls")]
            Self::OpenSsl(tls) => tls.transport_mut(),
        }
    }

    /// The client's pace.
    pub fn meter(&self) -> &Rc<Meter> {
        match self {
            Self::Plain(transport) => transport.meter(),
            Self::Tls(tls) => tls.get_ref().0.meter(),
            #[cfg(feature = "legacy-tls")]
            Self::OpenSsl(tls) => tls.transport().meter(),
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => {
                // HTTP reads again and again to learn that the client is gone. Where TLS had nothing, the socket
                // is asked first: TLS would do the same, by a longer way.
                if stream.get_ref().0.drained {
                    ready!(stream.get_ref().0.poll_readable(cx))?;
                }
                let poll = Pin::new(&mut *stream).poll_read(cx, buf);
                stream.get_mut().0.drained = poll.is_pending();
                poll
            }
            #[cfg(feature = "legacy-tls")]
            Self::OpenSsl(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            #[cfg(feature = "legacy-tls")]
            Self::OpenSsl(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            #[cfg(feature = "legacy-tls")]
            Self::OpenSsl(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(_) | Self::Tls(_) => true,
            #[cfg(feature = "legacy-tls")]
            Self::OpenSsl(_) => false,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            #[cfg(feature = "legacy-tls")]
            Self::OpenSsl(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            #[cfg(feature = "legacy-tls")]
            Self::OpenSsl(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
