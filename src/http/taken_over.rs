//! An HTTP/2 stream that a tunnel has taken over, as bytes.
//!
//! What is sent earns the client its window updates (`allowance`), as the content of an answer does.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::http2::StreamPace;

/// A stream that a tunnel has taken over.
#[derive(Debug)]
pub struct TakenOver {
    io: TokioIo<Upgraded>,
    pace: Rc<StreamPace>,
}

impl TakenOver {
    /// Takes over what hyper gave up.
    pub fn new(stream: Upgraded, pace: Rc<StreamPace>) -> Self {
        Self {
            io: TokioIo::new(stream),
            pace,
        }
    }
}

impl AsyncRead for TakenOver {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for TakenOver {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(bytes)) = poll {
            self.pace.carried(bytes);
        }
        poll
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
