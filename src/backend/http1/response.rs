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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn parse_bytes(input: &[u8], request: RequestKind) -> (Result<Parsed, ResponseError>, Vec<u8>) {
        let mut buf = BytesMut::from(input);
        let parsed = parse(&mut buf, request);
        (parsed, buf.to_vec())
    }

    #[track_caller]
    fn final_head(input: &[u8], request: RequestKind) -> ResponseHead {
        match parse_bytes(input, request) {
            (Ok(Parsed::Final(head)), _) => head,
            (other, _) => panic!("{}: {other:?}", input.escape_ascii()),
        }
    }

    fn error_of(input: &[u8]) -> Option<ResponseError> {
        parse_bytes(input, RequestKind::Ordinary).0.err()
    }

    /// A 200 in HTTP/1.1 with these fields.
    fn ok_with(fields: &str) -> Vec<u8> {
        format!("HTTP/1.1 200 OK\r\n{fields}\r\n").into_bytes()
    }

    fn text(value: &'static str) -> HeaderValue {
        HeaderValue::from_static(value)
    }

    #[test]
    fn a_head_is_taken_and_what_follows_stays() {
        let input = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length:  5 \r\nSet-Cookie: a\r\nset-cookie: b\r\nX-Empty:\r\n\r\nhello";
        let (parsed, left) = parse_bytes(input, RequestKind::Ordinary);
        let Ok(Parsed::Final(head)) = parsed else {
            panic!("{parsed:?}")
        };
        assert_eq!(left, b"hello");
        assert_eq!(
            (head.version, head.status),
            (ResponseVersion::Http11, StatusCode::OK)
        );
        assert_eq!(
            (head.framing, head.reuse),
            (Framing::Length(5), Reuse::KeepAlive)
        );
        assert_eq!(head.reason, None);
        assert_eq!(head.headers["server"], "nginx");
        assert_eq!(head.headers["content-length"], "5");
        assert_eq!(head.headers["x-empty"], "");
        assert_eq!(
            head.headers
                .get_all("set-cookie")
                .iter()
                .collect::<Vec<_>>(),
            ["a", "b"]
        );
    }

    #[test]
    fn part_of_a_head_consumes_nothing() {
        let input = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Empty:\r\n\r\n";
        for length in 0..input.len() {
            let (parsed, left) = parse_bytes(&input[..length], RequestKind::Ordinary);
            assert!(
                matches!(parsed, Ok(Parsed::Partial)),
                "{length} bytes: {parsed:?}"
            );
            assert_eq!(left, &input[..length]);
        }
    }

    #[test]
    fn field_values_are_slices_of_the_head() {
        let mut buf = BytesMut::from(&b"HTTP/1.1 204 No Content\r\nX-A: value\r\n\r\n"[..]);
        let addresses = buf.as_ptr_range();
        let Ok(Parsed::Final(head)) = parse(&mut buf, RequestKind::Ordinary) else {
            panic!("no head")
        };
        assert!(addresses.contains(&head.headers["x-a"].as_bytes().as_ptr()));
    }

    #[test]
    fn the_body_is_framed_as_rfc_9112_says() {
        use Framing::{Chunked, Length, None as NoBody, UntilClose};
        let cases = [
            ("200 OK", "Content-Length: 5\r\n", Length(5), NoBody),
            ("200 OK", "Content-Length: 0\r\n", Length(0), NoBody),
            (
                "200 OK",
                "Content-Length: 9223372036854775807\r\n",
                Length(i64::MAX as u64),
                NoBody,
            ),
            ("200 OK", "Transfer-Encoding: chunked\r\n", Chunked, NoBody),
            (
                "200 OK",
                "transfer-encoding: \t Chunked \t \r\n",
                Chunked,
                NoBody,
            ),
            ("200 OK", "", UntilClose, NoBody),
            ("404 Not Found", "", UntilClose, NoBody),
            ("204 No Content", "", NoBody, NoBody),
            ("204 No Content", "Content-Length: 0\r\n", NoBody, NoBody),
            ("304 Not Modified", "", NoBody, NoBody),
            ("304 Not Modified", "Content-Length: 5\r\n", NoBody, NoBody),
            (
                "304 Not Modified",
                "Transfer-Encoding: chunked\r\n",
                NoBody,
                NoBody,
            ),
        ];
        for (status, fields, framing, framing_of_head) in cases {
            let input = format!("HTTP/1.1 {status}\r\n{fields}\r\n");
            assert_eq!(
                final_head(input.as_bytes(), RequestKind::Ordinary).framing,
                framing,
                "{input}"
            );
            assert_eq!(
                final_head(input.as_bytes(), RequestKind::Head).framing,
                framing_of_head,
                "{input}"
            );
        }
    }

    #[test]
    fn a_length_on_204_does_not_pass() {
        let head = final_head(
            b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
            RequestKind::Ordinary,
        );
        assert!(!head.headers.contains_key(CONTENT_LENGTH));
    }

    #[test]
    fn a_length_that_is_not_one_plain_number_is_refused() {
        let lengths = [
            "",
            "+5",
            "-1",
            "0x10",
            "1_0",
            "5, 5",
            "5 5",
            "5,",
            "9223372036854775808",
            "5a",
            "\u{b2}",
        ];
        for length in lengths {
            let error = error_of(&ok_with(&format!("Content-Length: {length}\r\n")));
            assert_eq!(
                error,
                Some(ResponseError::Length(
                    HeaderValue::from_bytes(length.as_bytes()).unwrap()
                ))
            );
        }
    }

    #[test]
    fn a_coding_other_than_chunked_alone_is_refused() {
        let codings = [
            "",
            "gzip",
            "identity",
            "xchunked",
            ",chunked",
            "chunked,",
            "chunked, chunked",
            "gzip, chunked",
            "chunked;q=1",
            "\"chunked\"",
            "chunked\u{a0}",
            "chun ked",
        ];
        for coding in codings {
            let error = error_of(&ok_with(&format!("Transfer-Encoding: {coding}\r\n")));
            assert_eq!(
                error,
                Some(ResponseError::TransferEncoding(
                    HeaderValue::from_bytes(coding.as_bytes()).unwrap()
                ))
            );
        }
    }

    #[test]
    fn doubled_and_contradictory_framing_is_refused() {
        use ResponseError as E;
        let cases = [
            (
                "Content-Length: 5\r\nContent-Length: 5\r\n",
                E::SeveralLengths,
            ),
            (
                "Content-Length: 5\r\nContent-Length: 6\r\n",
                E::SeveralLengths,
            ),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                E::SeveralTransferEncodings,
            ),
            (
                "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
                E::SeveralTransferEncodings,
            ),
            (
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                E::TwoFramings,
            ),
            (
                "transfer-encoding: chunked\r\nCONTENT-LENGTH: 5\r\n",
                E::TwoFramings,
            ),
            (
                "Content-Length: x\r\nTransfer-Encoding: chunked\r\n",
                E::Length(text("x")),
            ),
            ("Transfer-Encoding: \x0bchunked\r\n", E::FieldValue),
        ];
        for (fields, expected) in cases {
            assert_eq!(error_of(&ok_with(fields)), Some(expected), "{fields}");
        }
        let old = b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(error_of(old), Some(E::TransferEncodingInHttp10));
        let head = ok_with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n");
        let (parsed, _) = parse_bytes(&head, RequestKind::Head);
        assert_eq!(
            parsed.err(),
            Some(E::TwoFramings),
            "an answer to HEAD is no exception"
        );
    }

    #[test]
    fn a_body_on_a_status_without_one_is_refused() {
        let fields = ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"];
        for (line, status) in [
            ("100 Continue", StatusCode::CONTINUE),
            ("101 Switching Protocols", StatusCode::SWITCHING_PROTOCOLS),
            ("103 Early Hints", StatusCode::EARLY_HINTS),
            ("204 No Content", StatusCode::NO_CONTENT),
        ] {
            for field in fields {
                let input = format!("HTTP/1.1 {line}\r\n{field}\r\n");
                assert_eq!(
                    error_of(input.as_bytes()),
                    Some(ResponseError::UnexpectedBody(status)),
                    "{input}"
                );
            }
        }
    }

    #[test]
    fn malformed_heads_are_refused() {
        use ResponseError as E;
        let cases: &[(&[u8], ResponseError)] = &[
            (b"<html>", E::Version),
            (b"ICY 200 OK\r\n\r\n", E::Version),
            (b"HTTP/0.9 200 OK\r\n\r\n", E::Version),
            (b"HTTP/1.2 200 OK\r\n\r\n", E::Version),
            (b"HTTP/1.32 200 OK\r\n\r\n", E::Version),
            (b"HTTP/2.0 200 OK\r\n\r\n", E::Version),
            (b"http/1.1 200 OK\r\n\r\n", E::Version),
            (b"\r\nHTTP/1.1 200 OK\r\n\r\n", E::StatusLine),
            (b"\nHTTP/1.1 200 OK\r\n\r\n", E::StatusLine),
            (b" HTTP/1.1 200 OK\r\n\r\n", E::Version),
            (b"HTTP/1.1  200 OK\r\n\r\n", E::StatusLine),
            (b"HTTP/1.1 20 OK\r\n\r\n", E::StatusLine),
            (b"HTTP/1.1 2000 OK\r\n\r\n", E::StatusLine),
            (b"HTTP/1.1 +20 OK\r\n\r\n", E::StatusLine),
            (b"HTTP/1.1 200 O\x00K\r\n\r\n", E::StatusLine),
            (b"HTTP/1.1 200 O\rK\r\n\r\n", E::StatusLine),
            (b"HTTP/1.1 000 OK\r\n\r\n", E::Status(0)),
            (b"HTTP/1.1 099 OK\r\n\r\n", E::Status(99)),
            (b"HTTP/1.1 600 OK\r\n\r\n", E::Status(600)),
            (b"HTTP/1.1 999 OK\r\n\r\n", E::Status(999)),
            (b"HTTP/1.1 200 OK\n\n", E::LineEnd),
            (b"HTTP/1.1 200 OK\r\nA: b\n\r\n", E::LineEnd),
            (b"HTTP/1.1 200 OK\nA: b\r\n\r\n", E::LineEnd),
            (b"HTTP/1.1 200 OK\r\nA: b\r\n\n", E::LineEnd),
            (b"HTTP/1.1 200 OK\r\nA:\n\r\n", E::LineEnd),
            (b"HTTP/1.1 200 OK\r\n\rA: b\r\n\r\n", E::LineEnd),
            (b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", E::FieldName),
            (b"HTTP/1.1 200 OK\r\nA: b\r\n\tc\r\n\r\n", E::FieldName),
            (b"HTTP/1.1 200 OK\r\n A: b\r\n\r\n", E::FieldName),
            (b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", E::FieldName),
            (b"HTTP/1.1 200 OK\r\nA\t: b\r\n\r\n", E::FieldName),
            (b"HTTP/1.1 200 OK\r\n: b\r\n\r\n", E::FieldName),
            (b"HTTP/1.1 200 OK\r\nA\r\n\r\n", E::FieldName),
            (b"HTTP/1.1 200 OK\r\nA\x00: b\r\n\r\n", E::FieldName),
            (b"HTTP/1.1 200 OK\r\n\xc3\xa4: b\r\n\r\n", E::FieldName),
            (b"HTTP/1.1 200 OK\r\nA: b\x00\r\n\r\n", E::FieldValue),
            (b"HTTP/1.1 200 OK\r\nA: \x7fb\r\n\r\n", E::FieldValue),
            (b"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", E::FieldValue),
            (b"HTTP/1.1 200 OK\r\nA: b\r\r\n\r\n", E::FieldValue),
        ];
        for (input, expected) in cases {
            assert_eq!(
                error_of(input).as_ref(),
                Some(expected),
                "{}",
                input.escape_ascii()
            );
        }
    }

    #[test]
    fn a_head_is_limited_in_fields_and_size() {
        let fits = ok_with(&"a: b\r\n".repeat(MAX_FIELDS));
        assert!(matches!(
            parse_bytes(&fits, RequestKind::Ordinary).0,
            Ok(Parsed::Final(_))
        ));
        let many = ok_with(&"a: b\r\n".repeat(MAX_FIELDS + 1));
        assert_eq!(error_of(&many), Some(ResponseError::TooManyFields));
        let frame = ok_with("a: \r\n").len();
        let large = |length: usize| ok_with(&format!("a: {}\r\n", "x".repeat(length - frame)));
        assert!(matches!(
            parse_bytes(&large(MAX_HEAD_SIZE), RequestKind::Ordinary).0,
            Ok(Parsed::Final(_))
        ));
        assert_eq!(
            error_of(&large(MAX_HEAD_SIZE + 1)),
            Some(ResponseError::TooLarge)
        );
        assert_eq!(
            error_of(&large(MAX_HEAD_SIZE + 9)[..MAX_HEAD_SIZE]),
            Some(ResponseError::TooLarge)
        );
    }

    #[test]
    fn interim_responses_are_told_apart() {
        for (input, expected) in [
            (
                &b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1"[..],
                StatusCode::CONTINUE,
            ),
            (
                b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1",
                StatusCode::PROCESSING,
            ),
            (
                b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1",
                StatusCode::EARLY_HINTS,
            ),
        ] {
            let (parsed, left) = parse_bytes(input, RequestKind::Ordinary);
            assert!(
                matches!(parsed, Ok(Parsed::Informational(status)) if status == expected),
                "{parsed:?}"
            );
            assert_eq!(left, b"HTTP/1.1");
        }
    }

    #[test]
    fn switching_protocols_leaves_the_first_bytes_of_the_tunnel() {
        let input = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x00";
        let (parsed, left) = parse_bytes(input, RequestKind::Ordinary);
        let Ok(Parsed::SwitchingProtocols(head)) = parsed else {
            panic!("{parsed:?}")
        };
        assert_eq!(head.headers["upgrade"], "websocket");
        assert_eq!((head.framing, head.reuse), (Framing::None, Reuse::Close));
        assert_eq!(left, b"\x81\x00");
    }

    #[test]
    fn reuse_follows_from_version_connection_and_framing() {
        let body = "Content-Length: 0\r\n";
        let cases = [
            ("1.1", body, "", Reuse::KeepAlive),
            ("1.1", body, "Connection: close\r\n", Reuse::Close),
            ("1.1", body, "Connection: x-a, Close\r\n", Reuse::Close),
            (
                "1.1",
                body,
                "Connection: x-a\r\nConnection: \tclose\r\n",
                Reuse::Close,
            ),
            ("1.1", body, "Connection: keep-alive\r\n", Reuse::KeepAlive),
            (
                "1.1",
                body,
                "Connection: keep-alive, close\r\n",
                Reuse::Close,
            ),
            ("1.1", body, "Connection: closed\r\n", Reuse::KeepAlive),
            ("1.1", "", "Connection: keep-alive\r\n", Reuse::Close),
            ("1.0", body, "", Reuse::Close),
            ("1.0", body, "Connection: Keep-Alive\r\n", Reuse::KeepAlive),
            (
                "1.0",
                body,
                "Connection: keep-alive, close\r\n",
                Reuse::Close,
            ),
            ("1.0", "", "Connection: keep-alive\r\n", Reuse::Close),
        ];
        for (version, body, connection, expected) in cases {
            let input = format!("HTTP/{version} 200 OK\r\n{body}{connection}\r\n");
            assert_eq!(
                final_head(input.as_bytes(), RequestKind::Ordinary).reuse,
                expected,
                "{input}"
            );
        }
    }

    #[test]
    fn only_an_unusual_reason_is_kept() {
        let cases: &[(&[u8], Option<&[u8]>)] = &[
            (b"HTTP/1.1 200 OK\r\n\r\n", None),
            (b"HTTP/1.1 200 \r\n\r\n", None),
            (b"HTTP/1.1 200\r\n\r\n", None),
            (b"HTTP/1.1 200 Fine\r\n\r\n", Some(b"Fine")),
            (b"HTTP/1.1 599 Odd one\r\n\r\n", Some(b"Odd one")),
            (b"HTTP/1.1 404 nicht gefunden \xe4\r\n\r\n", None),
        ];
        for (input, expected) in cases {
            let head = final_head(input, RequestKind::Ordinary);
            assert_eq!(
                head.reason.as_deref(),
                *expected,
                "{}",
                input.escape_ascii()
            );
        }
    }

    #[test]
    fn the_method_decides_whether_a_body_is_expected() {
        assert_eq!(RequestKind::from(&Method::HEAD), RequestKind::Head);
        assert_eq!(RequestKind::from(&Method::GET), RequestKind::Ordinary);
    }

    #[test]
    fn errors_name_the_value() {
        let error = ResponseError::Length(text("5, 5"));
        assert_eq!(
            error.to_string(),
            "Content-Length `5, 5` is not one plain number"
        );
        assert_eq!(
            ResponseError::Status(999).to_string(),
            "status `999` is not between 100 and 599"
        );
    }

    /// Bytes that look like a head often enough to get far.
    fn head_like() -> impl Strategy<Value = Vec<u8>> {
        let token = prop_oneof![
            4 => Just(b"\r\n".to_vec()),
            2 => Just(b"A: b\r\n".to_vec()),
            1 => Just(b"Content-Length: 3\r\n".to_vec()),
            1 => Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
            1 => Just(b"\n".to_vec()),
            1 => Just(b" ".to_vec()),
            1 => vec(any::<u8>(), 0..6),
        ];
        (proptest::bool::weighted(0.9), vec(token, 0..8)).prop_map(|(begins_well, tokens)| {
            let start: &[u8] = if begins_well {
                b"HTTP/1.1 200 OK\r\n"
            } else {
                b""
            };
            [start, &tokens.concat()].concat()
        })
    }

    proptest! {
        #[test]
        fn arriving_byte_by_byte_changes_nothing(input in head_like()) {
            let (expected, expected_left) = parse_bytes(&input, RequestKind::Ordinary);
            let mut buf = BytesMut::new();
            let mut sent = 0;
            let parsed = loop {
                match parse(&mut buf, RequestKind::Ordinary) {
                    Ok(Parsed::Partial) if sent < input.len() => {
                        buf.extend_from_slice(&input[sent..=sent]);
                        sent += 1;
                    }
                    other => break other,
                }
            };
            buf.extend_from_slice(&input[sent..]);
            prop_assert_eq!(format!("{parsed:?}"), format!("{expected:?}"));
            if parsed.is_ok() {
                prop_assert_eq!(buf.to_vec(), expected_left);
            }
        }

        #[test]
        fn a_head_that_is_accepted_has_only_whole_lines(input in head_like()) {
            let (parsed, left) = parse_bytes(&input, RequestKind::Ordinary);
            if matches!(parsed, Ok(Parsed::Final(_))) {
                let head = &input[..input.len() - left.len()];
                prop_assert!(head.ends_with(b"\r\n\r\n"));
                let crlf = head.windows(2).filter(|pair| *pair == b"\r\n").count();
                prop_assert_eq!(crlf, head.iter().filter(|byte| **byte == b'\n').count());
            }
        }
    }
}
