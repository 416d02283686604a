//! The stream as hyper's servers see it.
//!
//! HTTP/1: bytes that were read before (by a parked connection, or left over by an earlier hyper) come
//! first, and arriving bytes are noted. HTTP/2: the client's frames are charged to its allowance. Shutting
//! down only flushes, so that the stream can be taken back.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Activity;
use super::allowance::{Allowance, Flood, Walker, goaway};
use super::gather::Gather;
use crate::stream::ClientStream;

/// Bytes that are read and thrown away at once.
const DISCARDED: usize = 4 * 1024;

/// A client's stream, lent to hyper.
#[derive(Debug)]
pub(super) struct HttpIo {
    stream: Box<ClientStream>,
    early: Bytes,
    activity: Rc<Activity>,
}

impl HttpIo {
    /// Lends `stream`; `early` is read before it.
    pub(super) fn new(stream: Box<ClientStream>, early: Bytes, activity: Rc<Activity>) -> Self {
        Self {
            stream,
            early,
            activity,
        }
    }

    /// Takes the stream back, with what hyper never read of the early bytes.
    pub(super) fn into_parts(self) -> (Box<ClientStream>, Bytes) {
        (self.stream, self.early)
    }

    /// Passes the outcome of a write on. While a last answer waits for a client that only looks for it once
    /// it has sent everything, what it sends is read and thrown away: else neither side would move.
    fn wrote<T>(&mut self, poll: Poll<T>, cx: &mut Context<'_>) -> Poll<T> {
        if poll.is_pending() && self.activity.discards() {
            self.discard(cx);
        }
        poll
    }

    fn discard(&mut self, cx: &mut Context<'_>) {
        let mut bytes = [0; DISCARDED];
        loop {
            let mut read = ReadBuf::new(&mut bytes);
            match Pin::new(self.stream.as_mut()).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {}
                // The end, and what is broken, is for the writing half to find out.
                Poll::Ready(_) | Poll::Pending => return,
            }
        }
    }
}

impl AsyncRead for HttpIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let this = &mut *self;
        if this.early.has_remaining() {
            let n = this.early.len().min(buf.remaining());
            buf.put_slice(&this.early.split_to(n));
            this.activity.bytes_came();
            return Poll::Ready(Ok(()));
        }
        let poll = Pin::new(this.stream.as_mut()).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.activity.bytes_came();
        }
        poll
    }
}

impl AsyncWrite for HttpIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(self.stream.as_mut()).poll_write(cx, buf);
        self.wrote(poll, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(self.stream.as_mut()).poll_write_vectored(cx, bufs);
        self.wrote(poll, cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(self.stream.as_mut()).poll_flush(cx);
        self.wrote(poll, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

/// A client's stream, lent to hyper's HTTP/2 server, which does not give back what it was given.
#[derive(Debug)]
pub(super) struct SharedStream(Rc<RefCell<Lent>>);

/// A stream that is lent out, and what is known of what passed over it.
#[derive(Debug)]
pub(super) struct Lent {
    /// The stream.
    pub(super) stream: Gather<Box<ClientStream>>,
    walker: Walker,
    allowance: Rc<Allowance>,
    flood: Option<Flood>,
    written: Written,
}

/// Where the frames that are sent stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// hyper hands over whole frames, and all of the last ones were taken.
    Whole,
    /// The rest of a frame is still to come.
    InPart,
}

impl SharedStream {
    /// Lends `stream`, whose client's frames are charged to `allowance`; the other handle is what it is taken
    /// back by.
    pub(super) fn lend(
        stream: Box<ClientStream>,
        allowance: Rc<Allowance>,
    ) -> (Self, Rc<RefCell<Lent>>) {
        let lent = Rc::new(RefCell::new(Lent {
            stream: Gather::new(stream),
            walker: Walker::new(),
            allowance,
            flood: None,
            written: Written::Whole,
        }));
        (Self(Rc::clone(&lent)), lent)
    }
}

impl Lent {
    /// The flood that made reading fail.
    pub(super) fn flood(&self) -> Option<Flood> {
        self.flood
    }

    /// What can still be said to a client that floods: nothing in the middle of a frame.
    pub(super) fn last_words(&self, flood: Flood) -> Vec<u8> {
        match self.written {
            Written::Whole => goaway(flood, self.walker.last_stream()),
            Written::InPart => Vec::new(),
        }
    }

    fn wrote(&mut self, poll: &Poll<io::Result<usize>>, given: usize) {
        if let Poll::Ready(Ok(taken)) = poll {
            self.written = if *taken == given {
                Written::Whole
            } else {
                Written::InPart
            };
        }
    }
}

impl AsyncRead for SharedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let lent = &mut *self.0.borrow_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut lent.stream).poll_read(cx, buf))?;
        let came = buf.filled().get(before..).unwrap_or(b"");
        if let Err(flood) = lent.walker.pass(came, &lent.allowance) {
            lent.flood = Some(flood);
            return Poll::Ready(Err(io::Error::other(flood)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SharedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut lent = self.0.borrow_mut();
        let poll = Pin::new(&mut lent.stream).poll_write(cx, buf);
        lent.wrote(&poll, buf.len());
        poll
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut lent = self.0.borrow_mut();
        let poll = Pin::new(&mut lent.stream).poll_write_vectored(cx, bufs);
        lent.wrote(&poll, bufs.iter().map(|buf| buf.len()).sum());
        poll
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_shutdown(cx)
    }
}
