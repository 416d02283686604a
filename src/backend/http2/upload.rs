//! A request's body on its way to an HTTP/2 backend.
//!
//! It is read only as fast as the backend makes room. The first bytes are kept until the answer begins, so
//! that a request which the backend provably did not process can go out again.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use http_body::Body;
use tokio::time::Instant;

use crate::backend::http1::upload::{CleanTrailers, UploadError, take_trailers};
use crate::backend::request_body::RequestBody;
use crate::backend::send::Outgoing;

/// Bytes of a body that are kept for another attempt, before an answer needs their room.
const KEPT: usize = 16 * 1024;

/// A client's body, and what was read of it.
#[derive(Debug)]
pub struct Source {
    body: RequestBody,
    kept: Kept,
    keeps: usize,
    received: u64,
    limit: u64,
    clean_trailers: CleanTrailers,
}

/// What can be sent again.
#[derive(Debug)]
enum Kept {
    /// All that was read.
    All {
        data: Vec<Bytes>,
        length: usize,
        end: Option<End>,
    },
    /// Too much was read.
    Nothing,
}

/// How a body ends.
#[derive(Clone, Debug)]
enum End {
    Plain,
    Trailers(HeaderMap),
}

/// A piece of a body.
enum Piece {
    Data(Bytes),
    End(End),
}

impl Source {
    /// The body of a request, of which nothing was read.
    pub fn new(body: RequestBody, outgoing: &Outgoing<'_>) -> Self {
        Self {
            body,
            kept: Kept::All {
                data: Vec::new(),
                length: 0,
                end: None,
            },
            keeps: KEPT.min(outgoing.window.bytes()),
            received: 0,
            limit: outgoing.body_limit,
            clean_trailers: outgoing.clean_trailers.clone(),
        }
    }

    /// Whether the request has no body: it ends with its head.
    pub fn is_empty(&self) -> bool {
        self.is_over(0)
    }

    /// Whether nothing follows the first `sent` pieces, no trailers either.
    fn is_over(&self, sent: usize) -> bool {
        match &self.kept {
            Kept::All {
                data,
                end: Some(end),
                ..
            } => sent >= data.len() && matches!(end, End::Plain),
            Kept::All {
                data, end: None, ..
            } => sent >= data.len() && self.body.is_end_stream(),
            Kept::Nothing => self.body.is_end_stream(),
        }
    }

    /// Whether it can be sent again from its beginning.
    pub fn is_whole(&self) -> bool {
        matches!(self.kept, Kept::All { .. })
    }

    /// Bytes read from the client.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The piece after those that were sent, `sent` of them on this attempt.
    fn poll_piece(
        &mut self,
        sent: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Piece, UploadError>> {
        if let Kept::All { data, end, .. } = &self.kept {
            if let Some(data) = data.get(sent) {
                return Poll::Ready(Ok(Piece::Data(data.clone())));
            }
            if let Some(end) = end {
                return Poll::Ready(Ok(Piece::End(end.clone())));
            }
        }
        let piece = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Piece::Data(data),
                Err(frame) => {
                    let mut trailers = frame.into_trailers().unwrap_or_default();
                    take_trailers(&mut trailers, &self.clean_trailers)?;
                    Piece::End(End::Trailers(trailers))
                }
            },
            Some(Err(error)) => return Poll::Ready(Err(UploadError::Client(error))),
            None => Piece::End(End::Plain),
        };
        Poll::Ready(self.keep(&piece).map(|()| piece))
    }

    fn keep(&mut self, piece: &Piece) -> Result<(), UploadError> {
        if let Piece::Data(data) = piece {
            self.received += data.len() as u64;
            if self.received > self.limit {
                return Err(UploadError::TooLarge);
            }
        }
        if let Kept::All { data, length, end } = &mut self.kept {
            match piece {
                Piece::Data(more) if *length + more.len() <= self.keeps => {
                    *length += more.len();
                    data.push(more.clone());
                }
                Piece::Data(_) => self.kept = Kept::Nothing,
                Piece::End(how) => *end = Some(how.clone()),
            }
        }
        Ok(())
    }
}

/// The sending half of an exchange.
#[derive(Debug)]
pub struct Upload {
    source: Source,
    stream: SendStream<Bytes>,
    /// Pieces taken from the source.
    taken: usize,
    pending: Bytes,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Sending,
    /// All was handed over, or the backend takes no more: its answer says why.
    Done,
}

impl Upload {
    /// An upload to a stream whose head is on its way.
    pub fn new(source: Source, stream: SendStream<Bytes>) -> Self {
        let state = if source.is_empty() {
            State::Done
        } else {
            State::Sending
        };
        Self {
            source,
            stream,
            taken: 0,
            pending: Bytes::new(),
            state,
        }
    }

    /// Whether nothing is left to send.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether all that the client has sent was handed over, and more is to come from it.
    pub fn awaits_client(&self) -> bool {
        self.state == State::Sending && self.pending.is_empty()
    }

    /// A measure of progress.
    pub fn moved(&self) -> (usize, usize) {
        (self.taken, self.pending.len())
    }

    /// Bytes read from the client.
    pub fn received(&self) -> u64 {
        self.source.received()
    }

    /// Gives the client's body back, for another attempt.
    pub fn into_source(self) -> Source {
        self.source
    }

    /// The answer has begun: nothing will be sent again.
    pub fn answered(&mut self) {
        self.source.kept = Kept::Nothing;
    }

    /// Sends what can be sent now.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadError>> {
        while self.state == State::Sending {
            if !self.pending.is_empty() {
                if !ready!(self.poll_room(cx)) {
                    self.state = State::Done;
                    break;
                }
                self.send_pending();
                continue;
            }
            match ready!(self.source.poll_piece(self.taken, cx))? {
                Piece::Data(data) => {
                    self.taken += 1;
                    self.pending = data;
                }
                Piece::End(end) => {
                    // A stream that was reset is the answer's to report.
                    let _ = match end {
                        End::Plain => self.stream.send_data(Bytes::new(), true),
                        End::Trailers(trailers) => self.stream.send_trailers(trailers),
                    };
                    self.state = State::Done;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the backend takes more.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.stream.reserve_capacity(self.pending.len());
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(false),
            }
        }
        Poll::Ready(true)
    }

    fn send_pending(&mut self) {
        let room = self.stream.capacity().min(self.pending.len());
        let data = self.pending.split_to(room);
        let is_last = self.pending.is_empty() && self.source.is_over(self.taken);
        if self.stream.send_data(data, is_last).is_err() || is_last {
            self.state = State::Done;
        }
    }

    /// Sends the rest while the answer is passed on, noting in `moved` when something moved. A body that
    /// breaks off resets the stream.
    pub fn finish(mut self, moved: Rc<Cell<Instant>>) -> impl Future<Output = ()> {
        poll_fn(move |cx| {
            let before = self.moved();
            let poll = self.poll(cx);
            if self.moved() != before {
                moved.set(Instant::now());
            }
            match ready!(poll) {
                Ok(()) => {}
                Err(_) => self.stream.send_reset(Reason::CANCEL),
            }
            Poll::Ready(())
        })
    }
}
