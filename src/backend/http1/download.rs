//! The body of a backend's answer, as a stream.
//!
//! While it is read, what is left of the request goes on being sent. At its end the connection goes
//! back to the pool if both messages ended cleanly and nothing follows; else it is closed. Dropping the
//! stream early closes it: that is how a client that leaves stops the backend.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use super::exchange::{Exchange, ExchangeError, poll_read};
use super::framing::{Decoded, Decoder, Framing};
use super::response::Reuse;
use super::upload::Upload;
use crate::backend::http2;
use crate::backend::pool::{Connection, Pool};
use crate::backend::retirement::Retiree;

/// The least room made for reading a body.
const LEAST_ROOM: usize = 8 * 1024;
/// The most room made for reading a body, reached as the backend keeps filling it.
const MOST_ROOM: usize = 128 * 1024;

/// A response body on its way from the backend.
#[derive(Debug)]
pub struct Download {
    /// Gone once the body has ended.
    connection: Option<Box<Connection>>,
    upload: Upload,
    decoder: Decoder,
    reuse: Reuse,
    pool: Rc<Pool>,
    retiree: Retiree,
    limit: Duration,
    waiting_since: Option<Instant>,
    room: usize,
    most_room: usize,
}

/// The body of an answer.
#[derive(Debug)]
pub enum AnswerBody {
    /// None, or all of it.
    Whole(Bytes),
    /// It is still coming.
    Streaming(Rc<RefCell<Download>>),
    /// It comes over HTTP/2.
    Http2(Box<http2::download::Download>),
}

/// Takes the body of an answer whose head has been read. What has come whole is handed out whole, and
/// the connection is free at once.
pub fn begin(
    exchange: Exchange,
    framing: Framing,
    reuse: Reuse,
    pool: &Rc<Pool>,
    limit: Duration,
) -> Result<AnswerBody, ExchangeError> {
    let Exchange {
        mut connection,
        upload,
        ..
    } = exchange;
    let whole = match framing {
        Framing::None => Some(0),
        Framing::Length(length) => usize::try_from(length)
            .ok()
            .filter(|n| *n <= connection.read.len()),
        Framing::Chunked | Framing::UntilClose => None,
    };
    if let Some(length) = whole
        && upload.is_done()
    {
        let body = connection.read.split_to(length).freeze();
        if !connection.read.is_empty() {
            return Err(ExchangeError::Excess);
        }
        if reuse == Reuse::KeepAlive {
            pool.put(connection);
        }
        return Ok(AnswerBody::Whole(body));
    }
    Ok(AnswerBody::Streaming(Rc::new(RefCell::new(Download {
        connection: Some(connection),
        upload,
        decoder: Decoder::new(framing),
        reuse,
        pool: Rc::clone(pool),
        retiree: Retiree::new(pool.retirement()),
        limit,
        waiting_since: None,
        room: LEAST_ROOM,
        most_room: MOST_ROOM,
    }))))
}

impl Download {
    /// Reads no more at once than so many bytes.
    pub fn limit_room(&mut self, most: usize) {
        self.most_room = most;
        self.room = self.room.min(most);
    }

    /// Whether the request was not sent whole when its answer came.
    pub fn is_early(&self) -> bool {
        !self.upload.is_done()
    }

    /// Whether all of the body has been handed out.
    pub fn is_end_stream(&self) -> bool {
        self.decoder.is_end()
    }

    /// The length of what is left, where the backend said it.
    pub fn size_hint(&self) -> SizeHint {
        self.decoder
            .remaining()
            .map_or_else(SizeHint::new, SizeHint::with_exact)
    }

    /// Goes on with the request while nobody asks for the next piece: a client that sends all of its body
    /// before it looks for an answer must get rid of it, or neither side moves.
    pub fn poll_upload(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = self.connection.as_mut()
            && self.upload.poll(connection, cx).is_err()
        {
            self.upload.abandon();
        }
    }

    /// What is left of the request is read, and not sent.
    pub fn abandon_upload(&mut self) {
        self.upload.abandon();
    }

    /// The next piece.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        let Some(connection) = self.connection.as_mut() else {
            return Poll::Ready(None);
        };
        // An upload that fails now only ends itself: the answer is on its way.
        if self.retiree.is_cut() {
            return self.fail(ExchangeError::Retired);
        }
        if self.upload.poll(connection, cx).is_err() {
            self.upload.abandon();
        }
        loop {
            match self.decoder.decode(&mut connection.read) {
                Ok(Decoded::Data(data)) => {
                    self.waiting_since = None;
                    if self.decoder.is_end() {
                        self.finish();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Decoded::Trailers(trailers)) => {
                    self.finish();
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Decoded::End) => {
                    self.finish();
                    return Poll::Ready(None);
                }
                Ok(Decoded::NeedMore) => {}
                Err(error) => return self.fail(ExchangeError::Body(error)),
            }
            match poll_read(connection, self.room, cx) {
                Poll::Ready(Ok(0)) => match self.decoder.eof() {
                    Ok(()) => {
                        self.connection = None;
                        return Poll::Ready(None);
                    }
                    Err(error) => return self.fail(ExchangeError::Body(error)),
                },
                Poll::Ready(Ok(n)) => {
                    self.waiting_since = None;
                    self.room = if n >= self.room {
                        (self.room * 2).min(self.most_room)
                    } else {
                        self.room
                    };
                }
                Poll::Ready(Err(error)) => return self.fail(ExchangeError::Closed(Some(error))),
                Poll::Pending => {
                    let since = *self.waiting_since.get_or_insert_with(Instant::now);
                    let silent = since + self.limit;
                    let (deadline, error) = match self.retiree.wait(cx) {
                        Some(cut) if cut < silent => (cut, ExchangeError::Retired),
                        Some(_) | None => (silent, ExchangeError::BackendTimeout),
                    };
                    ready!(connection.timer.poll(deadline, cx));
                    return self.fail(error);
                }
            }
        }
    }

    fn fail(&mut self, error: ExchangeError) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        self.connection = None;
        Poll::Ready(Some(Err(error)))
    }

    /// Both messages have ended, or this one has: the connection is kept or closed.
    fn finish(&mut self) {
        if let Some(connection) = self.connection.take()
            && self.reuse == Reuse::KeepAlive
            && self.upload.is_done()
            && connection.read.is_empty()
        {
            self.pool.put(connection);
        }
    }
}
