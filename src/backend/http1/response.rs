//! Reads the head of a backend's response (RFC 9112 sections 4 to 6).
//!
//! What two readers could understand differently is refused: bare line feeds, folded lines, both kinds of
//! framing, a length that is not one plain number (attacks.md C1). Field values are slices of the head's own
//! bytes, not copies. Whether a 101 was asked for is the caller's business.

use std::fmt;
use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::backend::http1::framing::{Framing, count_carriage_returns};

/// Bytes of a response's head.
pub const MAX_HEAD_SIZE: usize = 64 * 1024;

/// Fields of a response's head.
pub const MAX_FIELDS: usize = 128;

/// What the request says about its response's framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// HEAD: the response has no body, whatever its fields say.
    Head,
    /// Every other method.
    Ordinary,
}

/// The version a response was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseVersion {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// Whether the connection may serve another request once this response has ended cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// It may.
    KeepAlive,
    /// The backend closes it, or its end is the end of the body.
    Close,
}

/// What stands at the front of the buffer.
#[derive(Debug)]
pub enum Parsed {
    /// Not a whole head yet; nothing was consumed.
    Partial,
    /// An interim response other than 101: the answer is still to come.
    Informational(StatusCode),
    /// A 101: from here on the connection speaks another protocol.
    SwitchingProtocols(ResponseHead),
    /// The answer; its body follows.
    Final(ResponseHead),
}

/// The head of a response.
#[derive(Debug)]
pub struct ResponseHead {
    /// The version.
    pub version: ResponseVersion,
    /// The status.
    pub status: StatusCode,
    /// The reason phrase, where it is not the status's usual one.
    pub reason: Option<Bytes>,
    /// All fields, those of this hop too.
    pub headers: HeaderMap,
    /// How the body is framed.
    pub framing: Framing,
    /// What becomes of the connection.
    pub reuse: Reuse,
}

/// Why a response's head is refused. The connection is not to be used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResponseError {
    /// It is not HTTP/1.0 or HTTP/1.1.
    Version,
    /// The status line is malformed.
    StatusLine,
    /// The status is not between 100 and 599.
    Status(u16),
    /// A field name is empty, holds a forbidden byte, or the line is folded or lacks a colon.
    FieldName,
    /// A field value holds a control byte.
    FieldValue,
    /// A line does not end in CR LF.
    LineEnd,
    /// There are more fields than `MAX_FIELDS`.
    TooManyFields,
    /// The head is longer than `MAX_HEAD_SIZE`.
    TooLarge,
    /// Both Content-Length and Transfer-Encoding are there.
    TwoFramings,
    /// There are several Content-Length fields.
    SeveralLengths,
    /// The Content-Length is not one plain number.
    Length(HeaderValue),
    /// There are several Transfer-Encoding fields.
    SeveralTransferEncodings,
    /// The Transfer-Encoding is not `chunked` alone.
    TransferEncoding(HeaderValue),
    /// There is a Transfer-Encoding in an HTTP/1.0 response.
    TransferEncodingInHttp10,
    /// A status that has no body came with one.
    UnexpectedBody(StatusCode),
}

impl From<&Method> for RequestKind {
    fn from(method: &Method) -> Self {
        if *method == Method::HEAD {
            Self::Head
        } else {
            Self::Ordinary
        }
    }
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version => f.write_str("a response that is not HTTP/1.0 or HTTP/1.1"),
            Self::StatusLine => f.write_str("a malformed status line"),
            Self::Status(status) => write!(f, "status `{status}` is not between 100 and 599"),
            Self::FieldName => f.write_str("a malformed field name or a folded line"),
            Self::FieldValue => f.write_str("a control byte in a field value"),
            Self::LineEnd => f.write_str("a line that does not end in CR LF"),
            Self::TooManyFields => write!(f, "more than {MAX_FIELDS} fields"),
            Self::TooLarge => write!(f, "a head of more than {MAX_HEAD_SIZE} bytes"),
            Self::TwoFramings => f.write_str("both Content-Length and Transfer-Encoding"),
            Self::SeveralLengths => f.write_str("several Content-Length fields"),
            Self::Length(value) => {
                write!(
                    f,
                    "Content-Length `{}` is not one plain number",
                    value.as_bytes().escape_ascii()
                )
            }
            Self::SeveralTransferEncodings => f.write_str("several Transfer-Encoding fields"),
            Self::TransferEncoding(value) => {
                write!(
                    f,
                    "Transfer-Encoding `{}` is not `chunked` alone",
                    value.as_bytes().escape_ascii()
                )
            }
            Self::TransferEncodingInHttp10 => {
                f.write_str("Transfer-Encoding in an HTTP/1.0 response")
            }
            Self::UnexpectedBody(status) => {
                write!(f, "a body announced on status `{}`", status.as_u16())
            }
        }
    }
}

impl std::error::Error for ResponseError {}

/// Takes a response's head from the front of `buf`, once it is there as a whole.
pub fn parse(buf: &mut BytesMut, request: RequestKind) -> Result<Parsed, ResponseError> {
    let mut spans = [FieldSpan::default(); MAX_FIELDS];
    let Some(outline) = outline(buf, &mut spans)? else {
        return Ok(Parsed::Partial);
    };
    let bytes = buf.split_to(outline.length).freeze();
    let headers = collect_fields(&bytes, spans.get(..outline.fields).unwrap_or_default())?;
    let mut head = ResponseHead {
        version: outline.version,
        status: outline.status,
        reason: outline.reason.map(|span| bytes.slice(span.range())),
        headers,
        framing: Framing::None,
        reuse: Reuse::Close,
    };
    head.framing = decide_framing(&mut head, request)?;
    head.reuse = decide_reuse(&head);
    Ok(if head.status == StatusCode::SWITCHING_PROTOCOLS {
        Parsed::SwitchingProtocols(head)
    } else if head.status.is_informational() {
        Parsed::Informational(head.status)
    } else {
        Parsed::Final(head)
    })
}

/// Where something stands in the head; a head is not longer than 64 KiB.
#[derive(Clone, Copy, Default)]
struct Span {
    start: u16,
    length: u16,
}

#[derive(Clone, Copy, Default)]
struct FieldSpan {
    name: Span,
    value: Span,
}

/// A head as found in the buffer, before it is taken out.
struct Outline {
    version: ResponseVersion,
    status: StatusCode,
    reason: Option<Span>,
    fields: usize,
    length: usize,
}

impl Span {
    /// The span of `part` in `whole`, which it is a slice of.
    fn of(part: &[u8], whole: &[u8]) -> Result<Self, ResponseError> {
        let start = part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr());
        match (u16::try_from(start), u16::try_from(part.len())) {
            (Ok(start), Ok(length)) => Ok(Self { start, length }),
            (Err(_), _) | (_, Err(_)) => Err(ResponseError::TooLarge),
        }
    }

    fn range(self) -> std::ops::Range<usize> {
        let start = usize::from(self.start);
        start..start + usize::from(self.length)
    }
}

/// Checks the head's syntax and notes where its parts stand. `None` if more input is needed.
fn outline(buf: &[u8], spans: &mut [FieldSpan]) -> Result<Option<Outline>, ResponseError> {
    if matches!(buf.first(), Some(b'\r' | b'\n')) {
        return Err(ResponseError::StatusLine);
    }
    let whole = buf.get(..MAX_HEAD_SIZE).unwrap_or(buf);
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        whole,
        &mut fields,
    );
    let length = match parsed.map_err(ResponseError::from_syntax)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial if whole.len() == MAX_HEAD_SIZE => {
            return Err(ResponseError::TooLarge);
        }
        httparse::Status::Partial => return Ok(None),
    };
    let lines = whole.get(..length).unwrap_or_default();
    if count_carriage_returns(lines) != response.headers.len() + 2 {
        return Err(ResponseError::LineEnd);
    }
    for (span, field) in spans.iter_mut().zip(response.headers.iter()) {
        *span = FieldSpan {
            name: Span::of(field.name.as_bytes(), whole)?,
            value: Span::of(field.value, whole)?,
        };
    }
    let status = check_status(response.code)?;
    let reason = match response.reason {
        Some(reason) if !reason.is_empty() && status.canonical_reason() != Some(reason) => {
            Some(Span::of(reason.as_bytes(), whole)?)
        }
        Some(_) | None => None,
    };
    let version = match response.version {
        Some(0) => ResponseVersion::Http10,
        Some(1) => ResponseVersion::Http11,
        Some(_) | None => return Err(ResponseError::Version),
    };
    Ok(Some(Outline {
        version,
        status,
        reason,
        fields: response.headers.len(),
        length,
    }))
}

impl ResponseError {
    fn from_syntax(error: httparse::Error) -> Self {
        match error {
            httparse::Error::HeaderName => Self::FieldName,
            httparse::Error::HeaderValue => Self::FieldValue,
            httparse::Error::NewLine => Self::LineEnd,
            httparse::Error::Status | httparse::Error::Token => Self::StatusLine,
            httparse::Error::TooManyHeaders => Self::TooManyFields,
            httparse::Error::Version => Self::Version,
        }
    }
}

fn check_status(code: Option<u16>) -> Result<StatusCode, ResponseError> {
    let code = code.unwrap_or_default();
    match StatusCode::from_u16(code) {
        Ok(status) if code < 600 => Ok(status),
        Ok(_) | Err(_) => Err(ResponseError::Status(code)),
    }
}

fn collect_fields(head: &Bytes, spans: &[FieldSpan]) -> Result<HeaderMap, ResponseError> {
    let mut headers = HeaderMap::with_capacity(spans.len());
    for span in spans {
        let name = head.get(span.name.range()).unwrap_or_default();
        let name = HeaderName::from_bytes(name).map_err(|_| ResponseError::FieldName)?;
        let value = HeaderValue::from_maybe_shared(head.slice(span.value.range()))
            .map_err(|_| ResponseError::FieldValue)?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// Decides the framing (RFC 9112 section 6.3), strictly: where the RFC lets a reader choose between refusing and
/// guessing, it refuses.
fn decide_framing(head: &mut ResponseHead, request: RequestKind) -> Result<Framing, ResponseError> {
    let length = content_length(&head.headers)?;
    let chunked = is_chunked(&head.headers)?;
    if chunked && length.is_some() {
        return Err(ResponseError::TwoFramings);
    }
    if chunked && head.version == ResponseVersion::Http10 {
        return Err(ResponseError::TransferEncodingInHttp10);
    }
    if head.status.is_informational() || head.status == StatusCode::NO_CONTENT {
        if chunked || length.is_some_and(|length| length > 0) {
            return Err(ResponseError::UnexpectedBody(head.status));
        }
        // These statuses must not carry the field at all (RFC 9110 section 8.6); some servers write a 0.
        head.headers.remove(CONTENT_LENGTH);
        return Ok(Framing::None);
    }
    if request == RequestKind::Head || head.status == StatusCode::NOT_MODIFIED {
        return Ok(Framing::None);
    }
    Ok(match length {
        _ if chunked => Framing::Chunked,
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    })
}

/// The Content-Length: one field, digits only, at most 2^63 - 1.
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, ResponseError> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(ResponseError::SeveralLengths);
    }
    let digits = value.as_bytes();
    let length = digits.iter().try_fold(0_i64, |length, byte| {
        let digit = char::from(*byte).to_digit(10)?;
        length.checked_mul(10)?.checked_add(i64::from(digit))
    });
    match length.map(u64::try_from) {
        Some(Ok(length)) if !digits.is_empty() => Ok(Some(length)),
        Some(_) | None => Err(ResponseError::Length(value.clone())),
    }
}

/// Whether there is a Transfer-Encoding: one field, `chunked` and nothing else.
fn is_chunked(headers: &HeaderMap) -> Result<bool, ResponseError> {
    let mut values = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(value) = values.next() else {
        return Ok(false);
    };
    if values.next().is_some() {
        return Err(ResponseError::SeveralTransferEncodings);
    }
    if !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err(ResponseError::TransferEncoding(value.clone()));
    }
    Ok(true)
}

/// Decides what becomes of the connection (RFC 9112 section 9.3).
fn decide_reuse(head: &ResponseHead) -> Reuse {
    if head.framing == Framing::UntilClose || head.status == StatusCode::SWITCHING_PROTOCOLS {
        return Reuse::Close;
    }
    let mut reuse = match head.version {
        ResponseVersion::Http10 => Reuse::Close,
        ResponseVersion::Http11 => Reuse::KeepAlive,
    };
    for value in head.headers.get_all(CONNECTION) {
        for option in value
            .as_bytes()
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii)
        {
            if option.eq_ignore_ascii_case(b"close") {
                return Reuse::Close;
            }
            if option.eq_ignore_ascii_case(b"keep-alive") {
                reuse = Reuse::KeepAlive;
            }
        }
    }
    reuse
}
