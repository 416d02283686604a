//! The body of an answer on its way to the client: as the backend sent it, as lockgate made it, or
//! compressed, with the exchange that ends when it is dropped.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::backend::http1::download::Download;
use crate::backend::http1::exchange::ExchangeError;
use crate::backend::http2;
use crate::config::plan::{Algorithm, CompressionSettings};
use crate::exchange::Exchange;
use crate::failure::Failure;
use crate::http::http2::StreamPace;
use crate::http::piece::{Piece, Rated};
use crate::transform::compression::body::{CompressedBody, CompressedBodyError, is_small};
use crate::transform::compression::memory::memory;
use crate::transform::hop_by_hop;

/// A response body on its way to the client, with the exchange that ends when it is dropped.
#[derive(Debug)]
pub struct ResponseBody {
    content: Content,
    /// Absent where a tunnel has taken it over.
    exchange: Option<Exchange>,
    pace: Option<Rc<StreamPace>>,
    rated: Rated,
    /// What its compressor has drawn, until it is done.
    compressor: usize,
    /// What was read beyond a piece.
    rest: Bytes,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Running,
    Complete,
}

/// What polling a response body gives.
type Given = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

/// The most of an HTTP/2 answer that is handed over at once: a frame as large as every client takes.
const PIECE: usize = 16 * 1024;

/// How an answer is compressed, and what that has drawn from a connection which it shares with others.
#[derive(Debug)]
pub struct Compression<'a> {
    algorithm: Algorithm,
    settings: &'a CompressionSettings,
    charge: usize,
}

impl<'a> Compression<'a> {
    /// Compression of this body, unless its connection has no room for the compressor.
    pub fn draw(
        algorithm: Algorithm,
        settings: &'a CompressionSettings,
        body: &PlainBody,
        pace: Option<&StreamPace>,
    ) -> Option<Self> {
        let length = body.size_hint().exact();
        let charge = match (pace, body) {
            (None, _) => 0,
            (Some(_), PlainBody::Whole(_)) if is_small(length) => 0,
            (Some(pace), _) => {
                let bytes = memory(algorithm, settings, length);
                pace.account().draw_compressor(bytes)?
            }
        };
        Some(Self {
            algorithm,
            settings,
            charge,
        })
    }
}

/// What a response body is made of.
#[derive(Debug)]
enum Content {
    Plain(PlainBody),
    Compressed(Box<CompressedBody<PlainBody>>),
}

/// Why a response body broke off.
#[derive(Debug)]
pub enum BodyError {
    /// The backend's did.
    Backend(ExchangeError),
    /// It could not be compressed.
    Encoder,
}

impl std::fmt::Display for BodyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Backend(error) => error.fmt(f),
            Self::Encoder => f.write_str("the response body could not be compressed"),
        }
    }
}

impl std::error::Error for BodyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Backend(error) => Some(error),
            Self::Encoder => None,
        }
    }
}

impl From<&BodyError> for Failure {
    fn from(error: &BodyError) -> Self {
        match error {
            BodyError::Backend(error) => Self::from(error),
            BodyError::Encoder => Self::EncoderFailed,
        }
    }
}

/// A response body as the backend sent it, or as lockgate made it.
#[derive(Debug)]
pub enum PlainBody {
    /// All of it, until it has been handed on.
    Whole(Bytes),
    /// Still coming.
    Streaming(Rc<RefCell<Download>>),
    /// Still coming, over HTTP/2.
    Http2(Box<http2::download::Download>),
}

impl Body for PlainBody {
    type Data = Bytes;
    type Error = ExchangeError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Streaming(download) => download.borrow_mut().poll_frame(cx),
            Self::Http2(download) => download.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Streaming(download) => download.borrow().is_end_stream(),
            Self::Http2(download) => download.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Streaming(download) => download.borrow().size_hint(),
            Self::Http2(download) => download.size_hint(),
        }
    }
}

impl ResponseBody {
    /// A body whose end is the exchange's. What its compressor has drawn is given back as soon as that is done.
    pub fn new(
        body: PlainBody,
        compression: Option<Compression<'_>>,
        exchange: Exchange,
        pace: Option<Rc<StreamPace>>,
    ) -> Self {
        if let Some(pace) = &pace {
            pace.answered();
        }
        let rated = match &body {
            PlainBody::Http2(_) => Rated::No,
            PlainBody::Whole(_) | PlainBody::Streaming(_) => Rated::Yes,
        };
        let mut compressor = 0;
        let content = match compression {
            Some(Compression {
                algorithm,
                settings,
                charge,
            }) => {
                let body = CompressedBody::new(body, algorithm, settings);
                compressor = charge;
                Content::Compressed(Box::new(body))
            }
            None => Content::Plain(body),
        };
        Self {
            content,
            exchange: Some(exchange),
            pace,
            rated,
            compressor,
            rest: Bytes::new(),
            progress: Progress::Running,
        }
    }

    /// The body of a 101: none, and the exchange goes on.
    pub fn none() -> Self {
        Self {
            content: Content::Plain(PlainBody::Whole(Bytes::new())),
            exchange: None,
            pace: None,
            rated: Rated::No,
            compressor: 0,
            rest: Bytes::new(),
            progress: Progress::Complete,
        }
    }

    fn note(&mut self, frame: Option<&mut Result<Frame<Bytes>, BodyError>>) {
        let Some(exchange) = &mut self.exchange else {
            return;
        };
        match frame {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                exchange.carried(0, length as u64);
                if let Some(trailers) = frame.trailers_mut() {
                    hop_by_hop::clean_trailers(trailers);
                }
                if let Some(pace) = &self.pace {
                    pace.handed_over(length);
                }
            }
            Some(Err(error)) => {
                exchange.failed(Failure::from(&*error));
                self.progress = Progress::Complete;
            }
            None => self.progress = Progress::Complete,
        }
    }
}

impl ResponseBody {
    fn poll_content(&mut self, cx: &mut Context<'_>) -> Given {
        let frame = match &mut self.content {
            Content::Plain(body) => {
                ready!(Pin::new(body).poll_frame(cx)).map(|frame| frame.map_err(BodyError::Backend))
            }
            Content::Compressed(body) => {
                let frame = ready!(Pin::new(body.as_mut()).poll_frame(cx));
                if let (true, Some(pace)) = (body.is_encoded(), &self.pace) {
                    let drawn = std::mem::take(&mut self.compressor);
                    pace.account().return_compressor(drawn);
                }
                frame.map(|frame| {
                    frame.map_err(|error| match error {
                        CompressedBodyError::Body(error) => BodyError::Backend(error),
                        CompressedBodyError::Encoder => BodyError::Encoder,
                    })
                })
            }
        };
        Poll::Ready(frame)
    }

    /// The next frame; over HTTP/2 no larger than a piece, so that a client shows soon that it takes some,
    /// and only where the connection has memory for it.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Given {
        let Some(pace) = self.pace.clone() else {
            return self.poll_content(cx);
        };
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            return Poll::Ready(Some(Ok(Frame::data(self.cut(rest)))));
        }
        ready!(pace.poll_room(cx));
        let frame = ready!(self.poll_content(cx));
        let hold = |data: Bytes| {
            pace.hold(data.len());
            self.cut(data)
        };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(hold))))
    }

    /// The first piece of what was read; the rest is for later.
    fn cut(&mut self, mut data: Bytes) -> Bytes {
        if data.len() > PIECE {
            self.rest = data.split_off(PIECE);
        }
        data
    }
}

impl Body for ResponseBody {
    type Data = Piece;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, BodyError>>> {
        let this = &mut *self;
        if let Some(pace) = &this.pace {
            pace.asked();
        }
        let mut frame = ready!(this.poll_piece(cx));
        this.note(frame.as_mut());
        let piece = |data: Bytes| match &this.pace {
            Some(pace) => Piece::of(data, pace, this.rated),
            None => Piece::new(data),
        };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        if !self.rest.is_empty() {
            return false;
        }
        match &self.content {
            Content::Plain(body) => body.is_end_stream(),
            Content::Compressed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Plain(body) => body.size_hint(),
            Content::Compressed(body) => body.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Some(pace) = &self.pace {
            pace.let_go(self.rest.len());
            pace.account().return_compressor(self.compressor);
        }
        if self.progress == Progress::Running
            && !self.is_end_stream()
            && let Some(exchange) = &mut self.exchange
        {
            if self.pace.as_ref().is_some_and(|pace| pace.is_stalled()) {
                exchange.failed(Failure::ClientStalled);
            }
            exchange.lost();
        }
    }
}
