//! The stream as hyper's HTTP/1 server sees it.
//!
//! Bytes that were read before (by a parked connection, or left over by an earlier hyper) come first;
//! arriving bytes are noted; shutting down only flushes, so that the stream can be taken back.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Activity;
use crate::stream::ClientStream;

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
        Pin::new(self.stream.as_mut()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.stream.as_mut()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream.as_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

/// A client's stream, lent to hyper's HTTP/2 server, which does not give back what it was given.
#[derive(Debug)]
pub(super) struct SharedStream(Rc<RefCell<Box<ClientStream>>>);

impl SharedStream {
    /// Lends `stream`; the other handle is what it is taken back by.
    pub(super) fn lend(stream: Box<ClientStream>) -> (Self, Rc<RefCell<Box<ClientStream>>>) {
        let stream = Rc::new(RefCell::new(stream));
        (Self(Rc::clone(&stream)), stream)
    }
}

impl AsyncRead for SharedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(self.0.borrow_mut().as_mut()).poll_read(cx, buf)
    }
}

impl AsyncWrite for SharedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.0.borrow_mut().as_mut()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.0.borrow_mut().as_mut()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.0.borrow_mut().as_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
