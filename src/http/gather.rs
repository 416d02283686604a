//! Gathers what HTTP/2 writes frame by frame into few TLS records and few system calls.
//!
//! The HTTP/2 library hands over every frame by itself and flushes after it; each would be a record and
//! a send(2) of its own. Small writes are kept here instead, until the connection has been polled to its
//! end ([`Gather::poll_send`]); large ones pass as they come. The buffer is its thread's: a connection
//! that has nothing to say holds none.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A write of so many bytes is not gathered: copying it would cost more than it saves.
const LARGE: usize = 4 * 1024;
/// Bytes that are gathered at most: a TLS record's.
const ROOM: usize = 16 * 1024;

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A stream whose small writes are gathered.
#[derive(Debug)]
pub(super) struct Gather<S> {
    stream: S,
    gathered: Vec<u8>,
    sent: usize,
}

impl<S: AsyncWrite + Unpin> Gather<S> {
    /// Gathers before `stream`.
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            gathered: Vec::new(),
            sent: 0,
        }
    }

    /// The stream; what was gathered and not sent is lost.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    /// Sends what was gathered. Pending, it is to be called again when the task is woken.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self
            .gathered
            .get(self.sent..)
            .filter(|rest| !rest.is_empty())
        {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.sent += n,
            }
        }
        if self.gathered.capacity() > 0 {
            let mut buffer = std::mem::take(&mut self.gathered);
            buffer.clear();
            SPARE.set(buffer);
            self.sent = 0;
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Takes a small write; `None` for a large one, before which nothing is left to send then.
    fn poll_gather(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<Option<usize>>> {
        let given: usize = bufs.iter().map(|buf| buf.len()).sum();
        if given >= LARGE {
            if !self.gathered.is_empty() {
                ready!(self.poll_send(cx))?;
            }
            return Poll::Ready(Ok(None));
        }
        if self.gathered.len() + given > ROOM {
            ready!(self.poll_send(cx))?;
        }
        if self.gathered.capacity() == 0 {
            self.gathered = SPARE.take();
        }
        for buf in bufs {
            self.gathered.extend_from_slice(buf);
        }
        Poll::Ready(Ok(Some(given)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gather<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match ready!(self.poll_gather(cx, bufs))? {
            Some(taken) => Poll::Ready(Ok(taken)),
            None => Pin::new(&mut self.stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What is gathered stays: [`Gather::poll_send`] sends it.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gathered.is_empty() {
            Pin::new(&mut self.stream).poll_flush(cx)
        } else {
            Poll::Ready(Ok(()))
        }
    }

    /// Sends everything; the stream itself stays open, so that it can be taken back.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Takes `room` bytes more, and notes every write.
    struct Sink {
        writes: Vec<Vec<u8>>,
        room: usize,
    }

    impl AsyncWrite for Sink {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.room == 0 {
                return Poll::Pending;
            }
            let n = buf.len().min(self.room);
            self.room -= n;
            self.writes.push(buf[..n].to_vec());
            Poll::Ready(Ok(n))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn gather(room: usize) -> Gather<Sink> {
        let writes = Vec::new();
        Gather::new(Sink { writes, room })
    }

    fn write(gather: &mut Gather<Sink>, bytes: &[u8]) -> Poll<usize> {
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(gather)
            .poll_write(&mut cx, bytes)
            .map(Result::unwrap)
    }

    fn send(gather: &mut Gather<Sink>) -> Poll<()> {
        gather
            .poll_send(&mut Context::from_waker(Waker::noop()))
            .map(Result::unwrap)
    }

    #[test]
    fn small_writes_leave_as_one_and_the_buffer_goes_back() {
        let mut gather = gather(usize::MAX);
        for frame in [&b"head"[..], b"data", b"end"] {
            assert_eq!(write(&mut gather, frame), Poll::Ready(frame.len()));
        }
        assert!(gather.stream.writes.is_empty());
        assert_eq!(send(&mut gather), Poll::Ready(()));
        assert_eq!(gather.stream.writes, [b"headdataend".to_vec()]);
        assert_eq!(gather.gathered.capacity(), 0);
        assert_eq!(send(&mut gather), Poll::Ready(()));
        assert_eq!(gather.stream.writes.len(), 1);
    }

    #[test]
    fn a_large_write_follows_what_was_gathered_before_it() {
        let mut gather = gather(usize::MAX);
        let large = vec![b'x'; LARGE];
        assert!(write(&mut gather, b"head").is_ready());
        assert_eq!(write(&mut gather, &large), Poll::Ready(LARGE));
        assert_eq!(gather.stream.writes, [b"head".to_vec(), large]);
    }

    #[test]
    fn what_a_client_does_not_take_is_bounded_and_stays_in_order() {
        let mut gather = gather(3);
        let piece = vec![b'x'; LARGE - 1];
        assert!(write(&mut gather, b"abcdef").is_ready());
        while write(&mut gather, &piece).is_ready() {}
        assert!(gather.gathered.len() <= ROOM);
        assert_eq!(send(&mut gather), Poll::Pending);
        gather.stream.room = usize::MAX;
        assert_eq!(send(&mut gather), Poll::Ready(()));
        assert_eq!(gather.stream.writes[0], b"abc");
        assert!(gather.stream.writes[1].starts_with(b"defxxx"));
    }
}
