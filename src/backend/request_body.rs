//! The body of a request on its way to a backend: as its client sends it, copied on the way, or whole.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// A request's body.
#[derive(Debug)]
pub enum RequestBody {
    /// As the client sends it.
    Client(Incoming),
    /// The same, and what has passed is kept for another.
    Copied(Box<Copied>),
    /// All of it.
    Whole(Bytes),
}

/// A client's body that is copied while it is read.
pub struct Copied {
    body: Incoming,
    copy: Vec<u8>,
    limit: usize,
    /// Gone once it was called.
    done: Option<Box<dyn FnOnce(Option<Bytes>)>>,
}

impl std::fmt::Debug for Copied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copied")
            .field("body", &self.body)
            .field("copied", &self.copy.len())
            .finish_non_exhaustive()
    }
}

impl RequestBody {
    /// A client's body of which `done` is given a copy, without trailers, as soon as it has been read whole;
    /// `None` if it is longer than `limit`. Of a body that breaks off nobody is told.
    pub fn copied(
        body: Incoming,
        limit: usize,
        done: impl FnOnce(Option<Bytes>) + 'static,
    ) -> Self {
        Self::Copied(Box::new(Copied {
            body,
            copy: Vec::new(),
            limit,
            done: Some(Box::new(done)),
        }))
    }
}

impl Copied {
    fn end(&mut self) {
        let copy = std::mem::take(&mut self.copy);
        if let Some(done) = self.done.take() {
            done(Some(copy.into()));
        }
    }

    fn keep(&mut self, data: &Bytes) {
        if self.done.is_none() {
            return;
        }
        if self.copy.len() + data.len() > self.limit {
            self.copy = Vec::new();
            if let Some(done) = self.done.take() {
                done(None);
            }
        } else {
            self.copy.extend_from_slice(data);
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => match frame.data_ref() {
                Some(data) => {
                    self.keep(data);
                    if self.body.is_end_stream() {
                        self.end();
                    }
                }
                None => self.end(),
            },
            Some(Err(_)) => self.done = None,
            None => self.end(),
        }
        Poll::Ready(frame)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Client(body) => Pin::new(body).poll_frame(cx),
            Self::Copied(copied) => copied.poll_frame(cx),
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client(body) => body.is_end_stream(),
            Self::Copied(copied) => copied.body.is_end_stream(),
            Self::Whole(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Client(body) => body.size_hint(),
            Self::Copied(copied) => copied.body.size_hint(),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}
