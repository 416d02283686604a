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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::backend::http1::request;

    /// A body as it came out: data, trailers, the bytes left behind, or the error; data is kept up to an error.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Message {
        data: Vec<u8>,
        trailers: Option<HeaderMap>,
        left: Vec<u8>,
        error: Option<FramingError>,
        ended: Option<()>,
    }

    /// Decodes pieces as they arrive; the connection ends after the last.
    fn decode<'a>(framing: Framing, pieces: impl IntoIterator<Item = &'a [u8]>) -> Message {
        let mut decoder = Decoder::new(framing);
        let mut buf = BytesMut::new();
        let mut message = Message::default();
        for piece in pieces {
            buf.extend_from_slice(piece);
            loop {
                match decoder.decode(&mut buf) {
                    Ok(Decoded::Data(data)) => {
                        assert!(!data.is_empty());
                        message.data.extend_from_slice(&data);
                    }
                    Ok(Decoded::Trailers(trailers)) => message.trailers = Some(trailers),
                    Ok(Decoded::End) => break assert!(decoder.is_end()),
                    Ok(Decoded::NeedMore) => break,
                    Err(error) => {
                        assert_eq!(decoder.decode(&mut buf), Err(error), "an error stays");
                        message.error = Some(error);
                        return message;
                    }
                }
            }
        }
        message.error = decoder.eof().err();
        message.ended = decoder.is_end().then_some(());
        message.left = buf.to_vec();
        message
    }

    fn whole(framing: Framing, input: &[u8]) -> Message {
        decode(framing, [input])
    }

    /// Every way to cut `input` in two, and byte by byte.
    #[track_caller]
    fn check_splits(framing: Framing, input: &[u8]) {
        let expected = whole(framing, input);
        for cut in 0..=input.len() {
            let (first, second) = input.split_at(cut);
            assert_eq!(decode(framing, [first, second]), expected, "cut at {cut}");
        }
        assert_eq!(decode(framing, input.chunks(1)), expected, "byte by byte");
    }

    fn ended(data: &[u8], left: &[u8]) -> Message {
        Message {
            data: data.to_vec(),
            left: left.to_vec(),
            ended: Some(()),
            ..Message::default()
        }
    }

    #[test]
    fn a_body_ends_where_its_framing_says_and_the_rest_is_left() {
        #[track_caller]
        fn check(framing: Framing, input: &[u8], data: &[u8], left: &[u8]) {
            assert_eq!(whole(framing, input), ended(data, left));
            check_splits(framing, input);
        }
        check(Framing::None, b"next", b"", b"next");
        check(Framing::Length(0), b"next", b"", b"next");
        check(Framing::Length(4), b"bodynext", b"body", b"next");
        check(Framing::UntilClose, b"all of it", b"all of it", b"");
        check(Framing::UntilClose, b"", b"", b"");
    }

    #[test]
    fn a_chunked_body_ends_with_its_last_chunk() {
        let cases: &[(&[u8], &[u8], &[u8])] = &[
            (b"0\r\n\r\n", b"", b""),
            (b"4\r\nbody\r\n0\r\n\r\nnext", b"body", b"next"),
            (
                b"A\r\n0123456789\r\n00a\r\nabcdefghij\r\n000\r\n\r\n",
                b"0123456789abcdefghij",
                b"",
            ),
            (
                b"1;ext\r\na\r\n1;n=\"v;\t\x80\"\r\nb\r\n0;last\r\n\r\n",
                b"ab",
                b"",
            ),
            (b"0000000000000001\r\na\r\n0\r\n\r\n", b"a", b""),
        ];
        for (input, data, left) in cases {
            assert_eq!(
                whole(Framing::Chunked, input),
                ended(data, left),
                "{}",
                input.escape_ascii()
            );
            check_splits(Framing::Chunked, input);
        }
    }

    #[test]
    fn odd_chunks_are_refused() {
        let cases: &[(&[u8], FramingError)] = &[
            (b"\r\n", FramingError::ChunkSize(b'\r')),
            (b"0x4\r\nbody", FramingError::ChunkSize(b'x')),
            (b"+4\r\nbody", FramingError::ChunkSize(b'+')),
            (b"-4\r\nbody", FramingError::ChunkSize(b'-')),
            (b"1_0\r\n", FramingError::ChunkSize(b'_')),
            (b" 4\r\nbody", FramingError::ChunkSize(b' ')),
            (b"4 \r\nbody", FramingError::ChunkSize(b' ')),
            (b"4 ;ext\r\nbody", FramingError::ChunkSize(b' ')),
            (b"4\t\r\nbody", FramingError::ChunkSize(b'\t')),
            (b";ext\r\n", FramingError::ChunkSize(b';')),
            (b"4,4\r\nbody", FramingError::ChunkSize(b',')),
            (b"1these-bytes\r\n", FramingError::ChunkSize(b't')),
            (b"4\nbody", FramingError::ChunkSize(b'\n')),
            (b"4\r;ext\r\nbody", FramingError::ChunkSize(b';')),
            (b"4\rbody", FramingError::ChunkSize(b'b')),
            (b"\x004\r\nbody", FramingError::ChunkSize(0)),
            (b"\xb24\r\nbody", FramingError::ChunkSize(0xb2)),
            (b"00000000000000004\r\nbody", FramingError::ChunkSizeTooLong),
            (b"fffffffffffffffff\r\n", FramingError::ChunkSizeTooLong),
            (b"4;a\nb\r\nbody", FramingError::ChunkExtension(b'\n')),
            (b"4;a\rb\r\nbody", FramingError::ChunkExtension(b'\r')),
            (b"4;a\x00\r\nbody", FramingError::ChunkExtension(0)),
            (b"4;a\x7f\r\nbody", FramingError::ChunkExtension(0x7f)),
            (b"4\r\nbodyXX", FramingError::ChunkEnd(b'X')),
            (b"4\r\nbody\n0\r\n\r\n", FramingError::ChunkEnd(b'\n')),
            (b"4\r\nbody\r0\r\n\r\n", FramingError::ChunkEnd(b'0')),
            (b"4\r\nbody0\r\n\r\n", FramingError::ChunkEnd(b'0')),
        ];
        for (input, error) in cases {
            assert_eq!(
                whole(Framing::Chunked, input).error,
                Some(*error),
                "{}",
                input.escape_ascii()
            );
            check_splits(Framing::Chunked, input);
        }
    }

    #[test]
    fn a_size_of_sixteen_digits_does_not_overflow() {
        let message = whole(Framing::Chunked, b"ffffffffffffffff\r\nbody");
        assert_eq!(
            (message.data, message.error),
            (b"body".to_vec(), Some(FramingError::Truncated(None)))
        );
    }

    #[test]
    fn extensions_are_limited_in_each_chunk_and_in_all() {
        let chunk = |extension: usize| format!("1;{}\r\na\r\n", "x".repeat(extension - 1));
        let fits = chunk(MAX_EXTENSION) + "0\r\n\r\n";
        assert_eq!(whole(Framing::Chunked, fits.as_bytes()), ended(b"a", b""));
        let error = Some(FramingError::ChunkExtensionTooLong);
        assert_eq!(
            whole(Framing::Chunked, chunk(MAX_EXTENSION + 1).as_bytes()).error,
            error
        );
        let endless = format!("1;{}", "x".repeat(MAX_EXTENSION));
        assert_eq!(
            whole(Framing::Chunked, endless.as_bytes()).error,
            error,
            "no line end in sight"
        );
        let many = chunk(MAX_EXTENSION).repeat(MAX_EXTENSIONS / MAX_EXTENSION + 1);
        assert_eq!(whole(Framing::Chunked, many.as_bytes()).error, error);
    }

    #[test]
    fn trailers_are_read_without_the_fields_that_do_not_belong_there() {
        let input = b"1\r\na\r\n0\r\nGrpc-Status: 0\r\nContent-Length: 5\r\nX: \r\nTransfer-Encoding: chunked\r\n\r\nnext";
        let message = whole(Framing::Chunked, input);
        let mut expected = HeaderMap::new();
        expected.append("grpc-status", HeaderValue::from_static("0"));
        expected.append("x", HeaderValue::from_static(""));
        assert_eq!(message.trailers, Some(expected));
        assert_eq!(
            (message.left.as_slice(), message.error),
            (b"next".as_slice(), None)
        );
        check_splits(Framing::Chunked, input);
    }

    #[test]
    fn odd_trailers_are_refused() {
        let cases: &[&[u8]] = &[
            b"0\r\n\n",
            b"0\r\nA: b\n\r\n",
            b"0\r\nA: b\r\n\n",
            b"0\r\nA: b\r\n c\r\n\r\n",
            b"0\r\n A: b\r\n\r\n",
            b"0\r\nA : b\r\n\r\n",
            b"0\r\n: b\r\n\r\n",
            b"0\r\nA\r\n\r\n",
            b"0\r\nA: \x00\r\n\r\n",
            b"0\r\nA: b\rc\r\n\r\n",
            b"0\r\nGET / HTTP/1.1\r\n\r\n",
        ];
        for input in cases {
            let error = whole(Framing::Chunked, input).error;
            assert_eq!(
                error,
                Some(FramingError::Trailer),
                "{}",
                input.escape_ascii()
            );
            check_splits(Framing::Chunked, input);
        }
    }

    #[test]
    fn trailers_are_limited_in_number_and_size() {
        let fields = |count: usize| format!("0\r\n{}\r\n", "a: b\r\n".repeat(count));
        assert_eq!(
            whole(Framing::Chunked, fields(MAX_TRAILERS).as_bytes()).error,
            None
        );
        let error = whole(Framing::Chunked, fields(MAX_TRAILERS + 1).as_bytes()).error;
        assert_eq!(error, Some(FramingError::TooManyTrailers));
        let large = format!("0\r\na: {}\r\n\r\n", "x".repeat(MAX_TRAILERS_SIZE));
        assert_eq!(
            whole(Framing::Chunked, large.as_bytes()).error,
            Some(FramingError::TrailersTooLarge)
        );
    }

    #[test]
    fn a_connection_that_ends_early_is_an_error() {
        let cases: &[(Framing, &[u8], Option<u64>)] = &[
            (Framing::Length(5), b"", Some(5)),
            (Framing::Length(5), b"four", Some(1)),
            (Framing::Chunked, b"", None),
            (Framing::Chunked, b"4", None),
            (Framing::Chunked, b"4\r", None),
            (Framing::Chunked, b"4;ext\r", None),
            (Framing::Chunked, b"4\r\nbod", None),
            (Framing::Chunked, b"4\r\nbody", None),
            (Framing::Chunked, b"4\r\nbody\r", None),
            (Framing::Chunked, b"4\r\nbody\r\n", None),
            (Framing::Chunked, b"4\r\nbody\r\n0\r\n", None),
            (Framing::Chunked, b"4\r\nbody\r\n0\r\n\r", None),
            (Framing::Chunked, b"0\r\nA: b\r\n", None),
        ];
        for (framing, input, missing) in cases {
            let error = whole(*framing, input).error;
            assert_eq!(
                error,
                Some(FramingError::Truncated(*missing)),
                "{}",
                input.escape_ascii()
            );
        }
    }

    #[test]
    fn what_remains_is_known_for_lengths() {
        let mut decoder = Decoder::new(Framing::Length(10));
        let mut buf = BytesMut::from(&b"1234"[..]);
        assert_eq!(decoder.remaining(), Some(10));
        assert_eq!(
            decoder.decode(&mut buf),
            Ok(Decoded::Data(Bytes::from_static(b"1234")))
        );
        assert_eq!(decoder.remaining(), Some(6));
        assert_eq!(Decoder::new(Framing::None).remaining(), Some(0));
        assert_eq!(Decoder::new(Framing::Chunked).remaining(), None);
        assert_eq!(Decoder::new(Framing::UntilClose).remaining(), None);
    }

    #[test]
    fn data_is_not_copied() {
        let mut buf = BytesMut::from(&b"4\r\nbody\r\n"[..]);
        let address = buf.as_ptr().addr() + 3;
        let mut decoder = Decoder::new(Framing::Chunked);
        let Ok(Decoded::Data(data)) = decoder.decode(&mut buf) else {
            panic!("no data")
        };
        assert_eq!(data.as_ptr().addr(), address);
    }

    /// Bytes that look like chunks often enough to reach every state.
    fn chunk_like() -> impl Strategy<Value = Vec<u8>> {
        let token = prop_oneof![
            4 => Just(b"\r\n".to_vec()),
            2 => Just(b"1\r\na\r\n".to_vec()),
            2 => Just(b"3".to_vec()),
            1 => Just(b"0\r\n".to_vec()),
            1 => Just(b";ext=1".to_vec()),
            1 => Just(b"A: b\r\n".to_vec()),
            1 => Just(b"\n".to_vec()),
            1 => vec(any::<u8>(), 0..6),
        ];
        vec(token, 0..12).prop_map(|tokens| tokens.concat())
    }

    fn framings() -> impl Strategy<Value = Framing> {
        prop_oneof![
            Just(Framing::None),
            (0_u64..40).prop_map(Framing::Length),
            Just(Framing::Chunked),
            Just(Framing::UntilClose),
        ]
    }

    /// `input` cut at the given places.
    fn cut(input: &[u8], mut places: Vec<usize>) -> Vec<&[u8]> {
        places.extend([0, input.len()]);
        places
            .iter_mut()
            .for_each(|place| *place = (*place).min(input.len()));
        places.sort_unstable();
        places
            .windows(2)
            .map(|pair| &input[pair[0]..pair[1]])
            .collect()
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_message(
            framing in framings(),
            input in chunk_like(),
            places in vec(0_usize..80, 0..8),
        ) {
            prop_assert_eq!(decode(framing, cut(&input, places)), whole(framing, &input));
        }

        #[test]
        fn what_was_encoded_is_decoded(
            chunks in vec(vec(any::<u8>(), 1..300), 0..8),
            trailer in proptest::option::of("[a-z ]{0,20}"),
            places in vec(0_usize..2000, 0..8),
        ) {
            let mut input = Vec::new();
            for chunk in &chunks {
                request::chunk_head(chunk.len(), &mut input);
                input.extend_from_slice(chunk);
                input.extend_from_slice(request::CRLF);
            }
            let mut trailers = HeaderMap::new();
            if let Some(value) = &trailer {
                trailers.insert("x-checksum", HeaderValue::from_str(value.trim()).unwrap());
            }
            request::write_trailers(&trailers, &mut input);
            input.extend_from_slice(b"next");
            let message = decode(Framing::Chunked, cut(&input, places));
            prop_assert_eq!(message.error, None);
            prop_assert_eq!(message.data, chunks.concat());
            prop_assert_eq!(message.trailers, trailer.map(|_| trailers));
            prop_assert_eq!(message.left, b"next");
        }

        #[test]
        fn no_more_comes_out_than_went_in(framing in framings(), input in vec(any::<u8>(), 0..200)) {
            let message = whole(framing, &input);
            prop_assert!(message.data.len() + message.left.len() <= input.len());
            if let Framing::Length(length) = framing {
                prop_assert!(message.data.len() as u64 <= length);
            }
        }
    }
}
