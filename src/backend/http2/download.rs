//! The body of an HTTP/2 backend's answer, as a stream.
//!
//! The backend may send on as what it sent is handed out, so that a slow client holds it back. Dropping
//! the stream early resets it: that is how a client that leaves stops the backend.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use super::link::Place;
use super::upload::Upload;
use crate::backend::http1::exchange::ExchangeError;
use crate::backend::retirement::Retiree;

/// A response body on its way from the backend.
#[derive(Debug)]
pub struct Download {
    body: RecvStream,
    /// Gone once the body has ended.
    place: Option<Place>,
    upload: Option<Upload>,
    /// When the upload last moved, where it outlives the answer's head.
    moved: Option<Rc<Cell<Instant>>>,
    retiree: Retiree,
    limit: Duration,
    waiting_since: Option<Instant>,
}

impl Download {
    /// The body of an answer whose head has come; `limit` is request_timeout.
    pub fn new(
        body: RecvStream,
        place: Place,
        upload: Upload,
        retiree: Retiree,
        limit: Duration,
    ) -> Self {
        Self {
            place: (!body.is_end_stream()).then_some(place),
            body,
            upload: (!upload.is_done()).then_some(upload),
            moved: None,
            retiree,
            limit,
            waiting_since: None,
        }
    }

    /// What is left of the request, to be sent beside the answer: each side of a gRPC stream goes at its
    /// own pace.
    pub fn rest_of_upload(&mut self) -> Option<impl Future<Output = ()> + use<>> {
        let moved = Rc::new(Cell::new(Instant::now()));
        let upload = self.upload.take()?;
        self.moved = Some(Rc::clone(&moved));
        Some(upload.finish(moved))
    }

    /// Whether all of the body has been handed out.
    pub fn is_end_stream(&self) -> bool {
        self.place.is_none()
    }

    /// The length of what is left: none where the body has ended.
    pub fn size_hint(&self) -> SizeHint {
        match self.place {
            Some(_) => SizeHint::new(),
            None => SizeHint::with_exact(0),
        }
    }

    /// The next piece.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        if self.place.is_none() {
            return Poll::Ready(None);
        }
        if self.retiree.is_cut() {
            return self.fail(ExchangeError::Retired);
        }
        let data = match self.body.poll_data(cx) {
            Poll::Ready(data) => data,
            Poll::Pending => return self.poll_deadline(cx),
        };
        self.waiting_since = None;
        match data {
            Some(Ok(data)) => {
                // Room for as much again; a stream that was reset needs none.
                let _ = self.body.flow_control().release_capacity(data.len());
                if self.body.is_end_stream() {
                    self.place = None;
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => self.fail(ExchangeError::Stream(error)),
            None => match self.body.poll_trailers(cx) {
                Poll::Ready(Ok(trailers)) => {
                    self.place = None;
                    Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
                }
                Poll::Ready(Err(error)) => self.fail(ExchangeError::Stream(error)),
                Poll::Pending => self.poll_deadline(cx),
            },
        }
    }

    /// A stream on which neither side has moved anything for request_timeout ends, and so does one whose
    /// group is gone.
    fn poll_deadline(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        let Some(place) = &mut self.place else {
            return Poll::Ready(None);
        };
        let waiting = *self.waiting_since.get_or_insert_with(Instant::now);
        let moved = self.moved.as_ref().map_or(waiting, |moved| moved.get());
        let silent = waiting.max(moved) + self.limit;
        let (deadline, error) = match self.retiree.wait(cx) {
            Some(cut) if cut < silent => (cut, ExchangeError::Retired),
            Some(_) | None => (silent, ExchangeError::BackendTimeout),
        };
        ready!(place.timer.poll(deadline, cx));
        self.fail(error)
    }

    fn fail(&mut self, error: ExchangeError) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        self.place = None;
        Poll::Ready(Some(Err(error)))
    }
}
