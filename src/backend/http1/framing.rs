//! Finds the end of a message's body (RFC 9112 sections 6 and 7).
//!
//! Strict on purpose: what two readers could understand differently is an error, and the connection it came on
//! is not to be used again. Data is handed out as slices of the buffer, never copied. Nothing is consumed after
//! the end: what is left in the buffer then is the caller's to judge.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// By its length.
    Length(u64),
    /// By its last chunk.
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

/// What a call of [`Decoder::decode`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Some bytes of the body, at least one.
    Data(Bytes),
    /// The trailer section of a chunked body, if it is not empty.
    Trailers(HeaderMap),
    /// The body is at its end.
    End,
    /// More input is needed.
    NeedMore,
}

/// Why a body cannot be read on. The connection is not to be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FramingError {
    /// A chunk begins without a size, or with a byte that is no hexadecimal digit.
    ChunkSize(u8),
    /// A chunk's size has more digits than any size.
    ChunkSizeTooLong,
    /// A chunk extension holds a control byte, or a line end that is not CR LF.
    ChunkExtension(u8),
    /// Chunk extensions are longer than the limit for one chunk or for a message.
    ChunkExtensionTooLong,
    /// A chunk's data is not followed by CR LF.
    ChunkEnd(u8),
    /// A trailer field is malformed, folded, or ends in a bare line feed.
    Trailer,
    /// The trailer section has too many bytes.
    TrailersTooLarge,
    /// The trailer section has too many fields.
    TooManyTrailers,
    /// The connection ended first; how many bytes are missing, where that is known.
    Truncated(Option<u64>),
}

/// Reads one body.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// Bytes of chunk extensions skipped so far.
    extensions: usize,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Length(u64),
    ChunkHead,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    UntilClose,
    End,
    Failed(FramingError),
}

/// The line before a chunk: its size, and how long the line and its extension are.
struct ChunkHead {
    size: u64,
    line: usize,
    extension: usize,
}

impl Decoder {
    /// A decoder for a body that is framed this way.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::End,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkHead,
            Framing::UntilClose => State::UntilClose,
        };
        Self {
            state,
            extensions: 0,
        }
    }

    /// Takes the next piece of the body from the front of `buf`.
    ///
    /// After an error every further call returns the same error.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Decoded, FramingError> {
        let decoded = self.advance(buf);
        if let Err(error) = decoded {
            self.state = State::Failed(error);
        }
        decoded
    }

    /// Tells the decoder that the connection has ended and `buf` was decoded as far as it goes.
    pub fn eof(&mut self) -> Result<(), FramingError> {
        let error = match self.state {
            State::UntilClose => {
                self.state = State::End;
                return Ok(());
            }
            State::End => return Ok(()),
            State::Failed(error) => error,
            State::Length(missing) => FramingError::Truncated(Some(missing)),
            State::ChunkHead | State::ChunkData(_) | State::ChunkEnd | State::Trailers => {
                FramingError::Truncated(None)
            }
        };
        self.state = State::Failed(error);
        Err(error)
    }

    /// Whether the body is at its end.
    pub fn is_end(&self) -> bool {
        matches!(self.state, State::End)
    }

    /// How many bytes of the body are still to come, where that is known.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(remaining) => Some(remaining),
            State::End => Some(0),
            State::ChunkHead
            | State::ChunkData(_)
            | State::ChunkEnd
            | State::Trailers
            | State::UntilClose
            | State::Failed(_) => None,
        }
    }

    fn advance(&mut self, buf: &mut BytesMut) -> Result<Decoded, FramingError> {
        loop {
            match self.state {
                State::End => return Ok(Decoded::End),
                State::Failed(error) => return Err(error),
                _ if buf.is_empty() => return Ok(Decoded::NeedMore),
                State::UntilClose => return Ok(Decoded::Data(buf.split().freeze())),
                State::Length(remaining) => {
                    let (data, left) = take_data(remaining, buf);
                    self.state = if left == 0 {
                        State::End
                    } else {
                        State::Length(left)
                    };
                    return Ok(Decoded::Data(data));
                }
                State::ChunkData(remaining) => {
                    let (data, left) = take_data(remaining, buf);
                    self.state = if left == 0 {
                        State::ChunkEnd
                    } else {
                        State::ChunkData(left)
                    };
                    return Ok(Decoded::Data(data));
                }
                State::ChunkHead => match parse_chunk_head(buf)? {
                    Some(head) => self.begin_chunk(&head, buf)?,
                    None => return Ok(Decoded::NeedMore),
                },
                State::ChunkEnd => {
                    if !take_crlf(buf)? {
                        return Ok(Decoded::NeedMore);
                    }
                    self.state = State::ChunkHead;
                }
                State::Trailers => {
                    let Some(trailers) = take_trailers(buf)? else {
                        return Ok(Decoded::NeedMore);
                    };
                    self.state = State::End;
                    return Ok(if trailers.is_empty() {
                        Decoded::End
                    } else {
                        Decoded::Trailers(trailers)
                    });
                }
            }
        }
    }

    fn begin_chunk(&mut self, head: &ChunkHead, buf: &mut BytesMut) -> Result<(), FramingError> {
        self.extensions += head.extension;
        if self.extensions > MAX_EXTENSIONS {
            return Err(FramingError::ChunkExtensionTooLong);
        }
        buf.advance(head.line);
        self.state = if head.size == 0 {
            State::Trailers
        } else {
            State::ChunkData(head.size)
        };
        Ok(())
    }
}

impl fmt::Display for FramingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChunkSize(byte) => write!(f, "`{}` in a chunk's size", byte.escape_ascii()),
            Self::ChunkSizeTooLong => {
                write!(f, "a chunk's size of more than {MAX_SIZE_DIGITS} digits")
            }
            Self::ChunkExtension(byte) => {
                write!(f, "`{}` in a chunk extension", byte.escape_ascii())
            }
            Self::ChunkExtensionTooLong => {
                write!(
                    f,
                    "chunk extensions of more than {MAX_EXTENSION} bytes, or {MAX_EXTENSIONS} in all"
                )
            }
            Self::ChunkEnd(byte) => write!(f, "`{}` where a chunk ends", byte.escape_ascii()),
            Self::Trailer => f.write_str("a malformed trailer field"),
            Self::TrailersTooLarge => write!(
                f,
                "a trailer section of more than {MAX_TRAILERS_SIZE} bytes"
            ),
            Self::TooManyTrailers => write!(f, "more than {MAX_TRAILERS} trailer fields"),
            Self::Truncated(Some(missing)) => {
                write!(f, "the connection ended `{missing}` bytes early")
            }
            Self::Truncated(None) => f.write_str("the connection ended inside the body"),
        }
    }
}

impl std::error::Error for FramingError {}

/// Whether a field must not stand in a trailer section: it frames, routes or speaks about the connection
/// (RFC 9110 section 6.5.1).
pub fn is_forbidden_in_trailers(name: &HeaderName) -> bool {
    *name == CONTENT_LENGTH
        || *name == TRANSFER_ENCODING
        || *name == HOST
        || *name == CONNECTION
        || *name == TE
        || *name == TRAILER
        || *name == UPGRADE
        || *name == "keep-alive"
}

/// Takes at most `remaining` bytes; also says how many then remain.
fn take_data(remaining: u64, buf: &mut BytesMut) -> (Bytes, u64) {
    let here = usize::try_from(remaining).map_or(buf.len(), |remaining| remaining.min(buf.len()));
    let data = buf.split_to(here).freeze();
    (data, remaining - here as u64)
}

/// Takes CR LF; `false` if more input is needed.
fn take_crlf(buf: &mut BytesMut) -> Result<bool, FramingError> {
    match buf.as_ref() {
        [b'\r', b'\n', ..] => {
            buf.advance(2);
            Ok(true)
        }
        [] | [b'\r'] => Ok(false),
        [b'\r', other, ..] | [other, ..] => Err(FramingError::ChunkEnd(*other)),
    }
}

/// Reads the line before a chunk, without consuming it: hexadecimal digits and nothing else before CR LF or the
/// `;` of an extension (RFC 9112 section 7.1). `None` if more input is needed.
fn parse_chunk_head(buf: &[u8]) -> Result<Option<ChunkHead>, FramingError> {
    let mut size = 0_u64;
    for (position, byte) in buf.iter().enumerate() {
        if let Some(digit) = char::from(*byte).to_digit(16) {
            if position == MAX_SIZE_DIGITS {
                return Err(FramingError::ChunkSizeTooLong);
            }
            size = (size << 4) | u64::from(digit);
            continue;
        }
        let rest = buf.get(position..).unwrap_or_default();
        return match rest {
            _ if position == 0 => Err(FramingError::ChunkSize(*byte)),
            [b'\r', b'\n', ..] => Ok(Some(ChunkHead {
                size,
                line: position + 2,
                extension: 0,
            })),
            [b'\r'] => Ok(None),
            [b'\r', other, ..] => Err(FramingError::ChunkSize(*other)),
            [b';', ..] => Ok(parse_extension(rest)?.map(|extension| ChunkHead {
                size,
                line: position + extension + 2,
                extension,
            })),
            _ => Err(FramingError::ChunkSize(*byte)),
        };
    }
    Ok(None)
}

/// The length of the chunk extension that `rest` begins with, up to its CR LF.
fn parse_extension(rest: &[u8]) -> Result<Option<usize>, FramingError> {
    for (length, byte) in rest.iter().enumerate() {
        if *byte == b'\r' {
            return match rest.get(length + 1) {
                Some(b'\n') => Ok(Some(length)),
                Some(_) => Err(FramingError::ChunkExtension(b'\r')),
                None => Ok(None),
            };
        }
        if byte.is_ascii_control() && *byte != b'\t' {
            return Err(FramingError::ChunkExtension(*byte));
        }
        if length == MAX_EXTENSION {
            return Err(FramingError::ChunkExtensionTooLong);
        }
    }
    Ok(None)
}

/// Takes the trailer section with the empty line behind it. `None` if more input is needed.
fn take_trailers(buf: &mut BytesMut) -> Result<Option<HeaderMap>, FramingError> {
    if let [b'\r', b'\n', ..] = buf.as_ref() {
        buf.advance(2);
        return Ok(Some(HeaderMap::new()));
    }
    let section = buf.get(..MAX_TRAILERS_SIZE).unwrap_or(buf);
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILERS];
    let (length, trailers) = match httparse::parse_headers(section, &mut fields) {
        Ok(httparse::Status::Complete((length, fields))) => {
            let lines = section.get(..length).unwrap_or_default();
            if count_carriage_returns(lines) != fields.len() + 1 {
                return Err(FramingError::Trailer);
            }
            (length, collect_trailers(fields)?)
        }
        Ok(httparse::Status::Partial) if section.len() == MAX_TRAILERS_SIZE => {
            return Err(FramingError::TrailersTooLarge);
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(FramingError::TooManyTrailers),
        Err(
            httparse::Error::HeaderName
            | httparse::Error::HeaderValue
            | httparse::Error::NewLine
            | httparse::Error::Status
            | httparse::Error::Token
            | httparse::Error::Version,
        ) => return Err(FramingError::Trailer),
    };
    buf.advance(length);
    Ok(Some(trailers))
}

fn collect_trailers(fields: &[httparse::Header<'_>]) -> Result<HeaderMap, FramingError> {
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name =
            HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| FramingError::Trailer)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| FramingError::Trailer)?;
        if !is_forbidden_in_trailers(&name) {
            trailers.append(name, value);
        }
    }
    Ok(trailers)
}

/// How many carriage returns lines hold that `httparse` has accepted.
///
/// It lets a carriage return stand only before a line feed, but a line feed also alone: every line ended in CR LF
/// exactly if there are as many carriage returns as lines.
pub(super) fn count_carriage_returns(lines: &[u8]) -> usize {
    lines.iter().filter(|byte| **byte == b'\r').count()
}

/// Digits of the largest size.
const MAX_SIZE_DIGITS: usize = 16;

/// Bytes of one chunk's extensions.
const MAX_EXTENSION: usize = 256;

/// Bytes of all chunk extensions of a message.
const MAX_EXTENSIONS: usize = 16 * 1024;

/// Fields of a trailer section.
const MAX_TRAILERS: usize = 64;

/// Bytes of a trailer section.
const MAX_TRAILERS_SIZE: usize = 16 * 1024;
