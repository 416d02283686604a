//! A request on its way to the backend: its head, then its body as the client sends it.
//!
//! Polled from within the exchange, while the answer is awaited and, after an early answer, while that
//! is passed on. When the backend takes no more, the rest is read and thrown away: a client that only
//! looks for an answer once it has sent everything must be able to get there.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

use super::request::{self, BodyFraming};
use crate::backend::pool::Connection;
use crate::backend::request_body::RequestBody;

/// Drops the trailer fields that a client may not send.
#[derive(Clone, Debug)]
pub struct CleanTrailers {
    /// What every trailer section goes through; it is given the names.
    pub clean: fn(&mut HeaderMap, &[HeaderName]),
    /// Names of a user's own that may not come from clients; absent where there are none.
    pub own_names: Option<Arc<[HeaderName]>>,
}

impl CleanTrailers {
    /// Cleans a trailer section.
    pub fn apply(&self, trailers: &mut HeaderMap) {
        (self.clean)(trailers, self.own_names.as_deref().unwrap_or_default());
    }
}

/// Whether the client waits for permission before it sends its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// It sends at once.
    None,
    /// `Expect: 100-continue`: the backend is asked first.
    Continue,
}

/// Where an upload stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The backend has been asked whether it wants the body.
    Asking,
    /// The body is passed on as it comes.
    Streaming,
    /// All has been handed to the connection's buffers.
    Flushing,
    /// All has been sent.
    Done,
    /// Writing failed; the body is left alone, for it may go out again on another connection.
    Broken,
    /// The backend takes no more; the rest is thrown away.
    Discarding,
    /// There is nothing left to throw away.
    Discarded,
}

/// What came of a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uploaded {
    /// Nothing is left to do.
    All,
    /// The backend has to give its permission first.
    AwaitsPermission,
    /// The client has to send more.
    AwaitsClient,
    /// The backend has to take more.
    AwaitsBackend,
}

/// Why an upload cannot go on: the exchange ends.
#[derive(Debug)]
pub enum UploadError {
    /// The client's body broke off or is malformed.
    Client(hyper::Error),
    /// The client's body is not as long as its head said.
    Length,
    /// The client's body is larger than allowed.
    TooLarge,
    /// More fields follow the client's body than allowed.
    TooManyTrailers,
}

/// The most fields that may follow a body: as many as a head may have.
const MOST_TRAILERS: usize = 100;

/// Judges the trailers of a client's body, and cleans them.
pub fn take_trailers(trailers: &mut HeaderMap, clean: &CleanTrailers) -> Result<(), UploadError> {
    if trailers.len() > MOST_TRAILERS {
        return Err(UploadError::TooManyTrailers);
    }
    clean.apply(trailers);
    Ok(())
}

/// The sending half of an exchange.
#[derive(Debug)]
pub struct Upload {
    body: RequestBody,
    framing: BodyFraming,
    state: State,
    /// Written so far of the connection's write buffer.
    position: usize,
    data: Bytes,
    tail: &'static [u8],
    written: u64,
    received: u64,
    limit: u64,
    clean_trailers: CleanTrailers,
}

impl Upload {
    /// An upload of the head that stands in the connection's write buffer, and of `body`, at most `limit` bytes.
    pub fn new(
        body: RequestBody,
        framing: BodyFraming,
        expectation: Expectation,
        limit: u64,
        clean_trailers: CleanTrailers,
    ) -> Self {
        let state = match (framing, expectation) {
            (BodyFraming::None | BodyFraming::Length(0), _) => State::Flushing,
            (BodyFraming::Length(_) | BodyFraming::Chunked, Expectation::Continue) => State::Asking,
            (BodyFraming::Length(_) | BodyFraming::Chunked, Expectation::None) => State::Streaming,
        };
        Self {
            body,
            framing,
            state,
            position: 0,
            data: Bytes::new(),
            tail: b"",
            written: 0,
            received: 0,
            limit,
            clean_trailers,
        }
    }

    /// Whether everything was sent.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether not one byte was sent.
    pub fn is_unsent(&self) -> bool {
        self.written == 0
    }

    /// Whether the client's body is as it was, so that it can be sent to another connection.
    pub fn is_unread(&self) -> bool {
        self.received == 0
            && match self.framing {
                BodyFraming::None | BodyFraming::Length(_) => true,
                // Its end, and its trailers, may have been taken without a byte of data.
                BodyFraming::Chunked => {
                    matches!(self.state, State::Asking | State::Streaming | State::Broken)
                }
            }
    }

    /// Bytes that moved so far: a measure of progress.
    pub fn moved(&self) -> u64 {
        self.written + self.received
    }

    /// Bytes of the body read from the client.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Gives the client's body back.
    pub fn into_body(self) -> RequestBody {
        self.body
    }

    /// The backend wants the body, or has been silent for long enough.
    pub fn permit(&mut self) {
        if self.state == State::Asking {
            self.state = State::Streaming;
        }
    }

    /// The backend gave its final answer. If it was never asked for the body, it does not get it: after
    /// an answer, what the client sends may as well be its next request.
    pub fn answered(&mut self) {
        if matches!(self.state, State::Asking | State::Broken) {
            self.abandon();
        }
    }

    /// The backend takes no more.
    pub fn abandon(&mut self) {
        if !self.is_done() {
            self.data = Bytes::new();
            self.tail = b"";
            self.state = match self.state {
                // Reading on would tell the client to go ahead.
                State::Asking | State::Flushing => State::Discarded,
                State::Streaming | State::Broken | State::Discarding => State::Discarding,
                State::Done | State::Discarded => self.state,
            };
        }
    }

    /// Moves what can be moved now.
    pub fn poll(
        &mut self,
        connection: &mut Connection,
        cx: &mut Context<'_>,
    ) -> Result<Uploaded, UploadError> {
        loop {
            match self.state {
                State::Discarding => return Ok(self.discard(cx)),
                State::Broken => return Ok(Uploaded::All),
                State::Asking
                | State::Streaming
                | State::Flushing
                | State::Done
                | State::Discarded => {}
            }
            match self.poll_write(connection, cx) {
                Poll::Pending => return Ok(Uploaded::AwaitsBackend),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => {
                    // The backend may have answered before it closed: the reading half finds out.
                    self.state = State::Broken;
                    return Ok(Uploaded::All);
                }
            }
            match self.state {
                State::Asking => return Ok(Uploaded::AwaitsPermission),
                State::Flushing => self.state = State::Done,
                State::Done | State::Discarded => return Ok(Uploaded::All),
                State::Broken | State::Discarding => {}
                State::Streaming => match Pin::new(&mut self.body).poll_frame(cx) {
                    Poll::Pending => return Ok(Uploaded::AwaitsClient),
                    Poll::Ready(Some(Ok(frame))) => self.take(frame, &mut connection.write)?,
                    Poll::Ready(Some(Err(error))) => return Err(UploadError::Client(error)),
                    Poll::Ready(None) => self.end(&mut connection.write)?,
                },
            }
        }
    }

    /// Takes a frame of the client's body; everything taken before has been written.
    fn take(&mut self, frame: Frame<Bytes>, out: &mut Vec<u8>) -> Result<(), UploadError> {
        match frame.into_data() {
            Ok(data) => {
                self.received += data.len() as u64;
                if self.received > self.limit {
                    return Err(UploadError::TooLarge);
                }
                match self.framing {
                    BodyFraming::Chunked if !data.is_empty() => {
                        request::chunk_head(data.len(), out);
                        self.tail = request::CRLF;
                    }
                    BodyFraming::Length(length) if self.received > length => {
                        return Err(UploadError::Length);
                    }
                    BodyFraming::Chunked | BodyFraming::Length(_) | BodyFraming::None => {}
                }
                self.data = data;
            }
            Err(frame) => {
                if let (Ok(mut trailers), BodyFraming::Chunked) =
                    (frame.into_trailers(), self.framing)
                {
                    take_trailers(&mut trailers, &self.clean_trailers)?;
                    request::write_trailers(&trailers, out);
                    self.state = State::Flushing;
                }
            }
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), UploadError> {
        match self.framing {
            BodyFraming::Length(length) if self.received < length => {
                return Err(UploadError::Length);
            }
            BodyFraming::Chunked => out.extend_from_slice(request::LAST_CHUNK),
            BodyFraming::Length(_) | BodyFraming::None => {}
        }
        self.state = State::Flushing;
        Ok(())
    }

    /// Writes the buffer, the data and the tail, in one call where the backend takes them.
    fn poll_write(
        &mut self,
        connection: &mut Connection,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let head = connection.write.get(self.position..).unwrap_or(b"");
            if head.is_empty() && self.data.is_empty() && self.tail.is_empty() {
                // What TLS still holds has to go out before anything is waited for.
                ready!(Pin::new(&mut connection.stream).poll_flush(cx))?;
                connection.write.clear();
                self.position = 0;
                return Poll::Ready(Ok(()));
            }
            let parts = [
                IoSlice::new(head),
                IoSlice::new(&self.data),
                IoSlice::new(self.tail),
            ];
            let stream = Pin::new(&mut connection.stream);
            // For a head alone, writev(2) costs more than send(2).
            let poll = if self.data.is_empty() && self.tail.is_empty() {
                stream.poll_write(cx, head)
            } else {
                stream.poll_write_vectored(cx, &parts)
            };
            let mut n = match poll {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => n,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            };
            self.written += n as u64;
            let from_head = n.min(head.len());
            self.position += from_head;
            n -= from_head;
            let from_data = n.min(self.data.len());
            self.data.advance(from_data);
            n -= from_data;
            self.tail = self.tail.get(n..).unwrap_or(b"");
        }
    }

    /// Reads the client's body and throws it away.
    fn discard(&mut self, cx: &mut Context<'_>) -> Uploaded {
        loop {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return Uploaded::AwaitsClient,
                Poll::Ready(Some(Ok(frame))) => {
                    self.received += frame.data_ref().map_or(0, |data| data.len() as u64);
                }
                Poll::Ready(Some(Err(_)) | None) => {
                    self.state = State::Discarded;
                    return Uploaded::All;
                }
            }
        }
    }
}
