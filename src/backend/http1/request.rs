//! Writes a request's head to a backend, and the frame around its body.
//!
//! The fields that frame the message or speak about the connection are never copied from the client's request:
//! they follow from `BodyFraming` and `ConnectionIntent` (RFC 9112 sections 6 and 9). Which fields are
//! hop-by-hop and come out before is `transform`'s job.

use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::backend::http1::framing::is_forbidden_in_trailers;
use crate::backend::http1::names::{self, Verbatim};

/// Ends a line, and the data of a chunk.
pub const CRLF: &[u8] = b"\r\n";

/// The last chunk and the empty trailer section: the end of a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The HTTP version a request is written in (alb.md decision 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendVersion {
    /// For requests of HTTP/1.0 clients.
    Http10,
    /// For all others.
    Http11,
}

/// How the end of a request's body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is no body.
    None,
    /// By its length.
    Length(u64),
    /// By its last chunk. HTTP/1.0 has no chunks, so the request line then says HTTP/1.1.
    Chunked,
}

/// What is to become of the connection after this exchange.
#[derive(Clone, Copy, Debug)]
pub enum ConnectionIntent<'a> {
    /// It is kept for another request.
    KeepAlive,
    /// It ends with this exchange.
    Close,
    /// It is to change to the protocol named in the `Upgrade` field.
    Upgrade(&'a HeaderValue),
}

/// All that a request's head is written from.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// Path and query as they were received; holds neither spaces nor control bytes.
    pub target: &'a [u8],
    /// The `Host` field, written first.
    pub host: &'a HeaderValue,
    /// The version of the request line.
    pub version: BackendVersion,
    /// Names that are not written in the fields' own spelling.
    pub verbatim: Verbatim<'a>,
    /// The fields, without those that `host`, `framing` and `connection` stand for: these are passed over.
    pub headers: &'a HeaderMap,
    /// How the body is framed.
    pub framing: BodyFraming,
    /// What is to become of the connection.
    pub connection: ConnectionIntent<'a>,
}

/// Appends the request line and all fields, up to and including the empty line.
pub fn write(head: &RequestHead<'_>, out: &mut Vec<u8>) {
    write_request_line(head, out);
    write_field("Host", head.host, out);
    for (name, value) in head.headers {
        if *name != COOKIE && !is_written_apart(name) {
            head.verbatim.write(name, out);
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(CRLF);
        }
    }
    write_cookies(head.headers, out);
    write_framing(head, out);
    write_connection(head, out);
    out.extend_from_slice(CRLF);
}

/// Appends the line before a chunk of `len` bytes of data; `CRLF` follows the data.
///
/// A chunk of no bytes would end the body: the caller writes none.
pub fn chunk_head(len: usize, out: &mut Vec<u8>) {
    debug_assert!(len > 0, "a chunk without data ends the body");
    let nibbles = (usize::BITS - len.leading_zeros()).div_ceil(4).max(1);
    for place in (0..nibbles).rev() {
        let nibble = (len >> (4 * place)) & 0xf;
        out.extend(
            u32::try_from(nibble)
                .ok()
                .and_then(|n| char::from_digit(n, 16))
                .map(|c| c as u8),
        );
    }
    out.extend_from_slice(CRLF);
}

/// Appends the last chunk and `trailers`: the end of a chunked body.
///
/// Fields that must not stand in a trailer section (RFC 9110 section 6.5.1) are left out.
pub fn write_trailers(trailers: &HeaderMap, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        if !is_forbidden_in_trailers(name) {
            names::write_name(name, out);
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(CRLF);
        }
    }
    out.extend_from_slice(CRLF);
}

fn write_request_line(head: &RequestHead<'_>, out: &mut Vec<u8>) {
    debug_assert!(
        !head.target.is_empty() && head.target.iter().all(|byte| *byte > b' ' && *byte != 0x7f),
        "the target is checked before a request is written"
    );
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.target);
    let ending: &[u8] = match (head.version, head.framing) {
        (BackendVersion::Http10, BodyFraming::None | BodyFraming::Length(_)) => b" HTTP/1.0\r\n",
        (BackendVersion::Http11, _) | (BackendVersion::Http10, BodyFraming::Chunked) => {
            b" HTTP/1.1\r\n"
        }
    };
    out.extend_from_slice(ending);
}

/// Whether a field is written from the head's other parts, never copied.
fn is_written_apart(name: &HeaderName) -> bool {
    *name == HOST
        || *name == CONNECTION
        || *name == CONTENT_LENGTH
        || *name == TRANSFER_ENCODING
        || *name == UPGRADE
}

/// Joins the cookie crumbs of HTTP/2 into one line (RFC 9113 section 8.2.3).
fn write_cookies(headers: &HeaderMap, out: &mut Vec<u8>) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let Some(first) = crumbs.next() else { return };
    out.extend_from_slice(b"Cookie: ");
    out.extend_from_slice(first.as_bytes());
    for crumb in crumbs {
        out.extend_from_slice(b"; ");
        out.extend_from_slice(crumb.as_bytes());
    }
    out.extend_from_slice(CRLF);
}

/// Writes the framing field. A method that usually has a body says so when it has none (RFC 9110 section 8.6).
fn write_framing(head: &RequestHead<'_>, out: &mut Vec<u8>) {
    match head.framing {
        BodyFraming::None | BodyFraming::Length(0) => {
            if *head.method == Method::POST
                || *head.method == Method::PUT
                || *head.method == Method::PATCH
            {
                out.extend_from_slice(b"Content-Length: 0\r\n");
            }
        }
        BodyFraming::Length(length) => {
            out.extend_from_slice(b"Content-Length: ");
            out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            out.extend_from_slice(CRLF);
        }
        BodyFraming::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
}

/// Writes what is said about the connection. `TE` speaks about this hop, so `Connection` names it
/// (RFC 9110 section 10.1.4).
fn write_connection(head: &RequestHead<'_>, out: &mut Vec<u8>) {
    let option: &[u8] = match (head.connection, head.version) {
        (ConnectionIntent::KeepAlive, BackendVersion::Http11) => b"",
        (ConnectionIntent::KeepAlive, BackendVersion::Http10) => b"keep-alive",
        (ConnectionIntent::Close, _) => b"close",
        (ConnectionIntent::Upgrade(_), _) => b"Upgrade",
    };
    let names_te = head.headers.contains_key(TE);
    if !option.is_empty() || names_te {
        out.extend_from_slice(b"Connection: ");
        out.extend_from_slice(option);
        if names_te {
            out.extend_from_slice(if option.is_empty() { b"TE" } else { b", TE" });
        }
        out.extend_from_slice(CRLF);
    }
    if let ConnectionIntent::Upgrade(protocol) = head.connection {
        write_field("Upgrade", protocol, out);
    }
}

fn write_field(name: &str, value: &HeaderValue, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(CRLF);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::rule::{Existing, InsertHeader, InsertValue};

    static HOST_VALUE: HeaderValue = HeaderValue::from_static("example.com");

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    struct Case {
        method: Method,
        version: BackendVersion,
        fields: &'static [(&'static str, &'static str)],
        framing: BodyFraming,
        connection: ConnectionIntent<'static>,
    }

    impl Default for Case {
        fn default() -> Self {
            Self {
                method: Method::GET,
                version: BackendVersion::Http11,
                fields: &[],
                framing: BodyFraming::None,
                connection: ConnectionIntent::KeepAlive,
            }
        }
    }

    #[track_caller]
    fn check(case: &Case, expected: &str) {
        let mut out = Vec::new();
        let head = RequestHead {
            method: &case.method,
            target: b"/a%2Fb?c=d",
            host: &HOST_VALUE,
            version: case.version,
            verbatim: Verbatim::default(),
            headers: &headers(case.fields),
            framing: case.framing,
            connection: case.connection,
        };
        write(&head, &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            expected.replace('\n', "\r\n")
        );
    }

    #[test]
    fn names_of_a_user_s_own_are_written_as_spelt() {
        let mut out = Vec::new();
        let own = [HeaderName::from_static("x-my_own")];
        let inserted = [InsertHeader {
            name: HeaderName::from_static("x-env"),
            spelling: "X-ENV".into(),
            value: InsertValue::Literal(HeaderValue::from_static("4")),
            existing: Existing::Replaced,
        }];
        let head = RequestHead {
            method: &Method::GET,
            target: b"/",
            host: &HOST_VALUE,
            version: BackendVersion::Http11,
            verbatim: Verbatim {
                own: &own,
                inserted: &inserted,
            },
            headers: &headers(&[("x-my_own", "1"), ("x-other", "2"), ("x-env", "3")]),
            framing: BodyFraming::None,
            connection: ConnectionIntent::KeepAlive,
        };
        write(&head, &mut out);
        let text = String::from_utf8(out).unwrap();
        let fields = "\r\nx-my_own: 1\r\nX-Other: 2\r\nX-ENV: 3\r\n";
        assert!(text.contains(fields), "{text}");
    }

    #[test]
    fn a_plain_request_has_no_connection_and_no_framing_fields() {
        let fields = &[
            ("accept", "*/*"),
            ("slb-id", "lg-1"),
            ("x-a", "1"),
            ("x-a", "2"),
        ];
        check(
            &Case {
                fields,
                ..Case::default()
            },
            "GET /a%2Fb?c=d HTTP/1.1\nHost: example.com\nAccept: */*\nSLB-ID: lg-1\nX-A: 1\nX-A: 2\n\n",
        );
    }

    #[test]
    fn framing_and_connection_fields_of_the_client_are_not_copied() {
        let fields = &[
            ("host", "other"),
            ("content-length", "5"),
            ("transfer-encoding", "gzip"),
            ("connection", "close, x-a"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
        ];
        check(
            &Case {
                method: Method::PUT,
                fields,
                framing: BodyFraming::Length(7),
                ..Case::default()
            },
            "PUT /a%2Fb?c=d HTTP/1.1\nHost: example.com\nExpect: 100-continue\nContent-Length: 7\n\n",
        );
    }

    #[test]
    fn a_body_is_framed_by_length_or_by_chunks() {
        let line = |method: &str, rest: &str| {
            format!("{method} /a%2Fb?c=d HTTP/1.1\nHost: example.com\n{rest}\n")
        };
        let cases = [
            (Method::GET, BodyFraming::None, ""),
            (Method::GET, BodyFraming::Length(0), ""),
            (Method::DELETE, BodyFraming::Length(0), ""),
            (Method::POST, BodyFraming::None, "Content-Length: 0\n"),
            (Method::POST, BodyFraming::Length(0), "Content-Length: 0\n"),
            (Method::PUT, BodyFraming::Length(0), "Content-Length: 0\n"),
            (Method::PATCH, BodyFraming::Length(0), "Content-Length: 0\n"),
            (Method::GET, BodyFraming::Length(3), "Content-Length: 3\n"),
            (
                Method::GET,
                BodyFraming::Chunked,
                "Transfer-Encoding: chunked\n",
            ),
            (
                Method::POST,
                BodyFraming::Length(u64::MAX),
                "Content-Length: 18446744073709551615\n",
            ),
        ];
        for (method, framing, expected) in cases {
            let expected = line(method.as_str(), expected);
            check(
                &Case {
                    method,
                    framing,
                    ..Case::default()
                },
                &expected,
            );
        }
    }

    #[test]
    fn the_connection_field_follows_from_the_intent() {
        static WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
        let upgrade = ConnectionIntent::Upgrade(&WEBSOCKET);
        let (old, new) = (BackendVersion::Http10, BackendVersion::Http11);
        let cases = [
            (new, ConnectionIntent::KeepAlive, "1.1", ""),
            (new, ConnectionIntent::Close, "1.1", "Connection: close\n"),
            (
                new,
                upgrade,
                "1.1",
                "Connection: Upgrade\nUpgrade: websocket\n",
            ),
            (
                old,
                ConnectionIntent::KeepAlive,
                "1.0",
                "Connection: keep-alive\n",
            ),
            (old, ConnectionIntent::Close, "1.0", "Connection: close\n"),
        ];
        for (version, connection, number, expected) in cases {
            check(
                &Case {
                    version,
                    connection,
                    ..Case::default()
                },
                &format!("GET /a%2Fb?c=d HTTP/{number}\nHost: example.com\n{expected}\n"),
            );
        }
    }

    #[test]
    fn te_is_named_in_the_connection_field() {
        let fields = &[("te", "trailers")];
        check(
            &Case {
                fields,
                ..Case::default()
            },
            "GET /a%2Fb?c=d HTTP/1.1\nHost: example.com\nTE: trailers\nConnection: TE\n\n",
        );
        check(
            &Case {
                fields,
                connection: ConnectionIntent::Close,
                ..Case::default()
            },
            "GET /a%2Fb?c=d HTTP/1.1\nHost: example.com\nTE: trailers\nConnection: close, TE\n\n",
        );
    }

    #[test]
    fn a_chunked_body_is_never_sent_as_http_1_0() {
        check(
            &Case {
                version: BackendVersion::Http10,
                framing: BodyFraming::Chunked,
                ..Case::default()
            },
            "GET /a%2Fb?c=d HTTP/1.1\nHost: example.com\nTransfer-Encoding: chunked\nConnection: keep-alive\n\n",
        );
    }

    #[test]
    fn cookie_crumbs_become_one_line() {
        check(
            &Case {
                fields: &[("cookie", "a=1"), ("cookie", "b=2; c=3")],
                ..Case::default()
            },
            "GET /a%2Fb?c=d HTTP/1.1\nHost: example.com\nCookie: a=1; b=2; c=3\n\n",
        );
    }

    #[test]
    fn chunk_sizes_are_hexadecimal_without_leading_zeros() {
        for len in [
            1,
            9,
            10,
            15,
            16,
            255,
            256,
            4096,
            65_535,
            1 << 20,
            usize::MAX,
        ] {
            let mut out = Vec::new();
            chunk_head(len, &mut out);
            assert_eq!(out, format!("{len:x}\r\n").into_bytes());
        }
    }

    #[test]
    fn trailers_follow_the_last_chunk_without_framing_fields() {
        let mut out = Vec::new();
        write_trailers(
            &headers(&[("grpc-status", "0"), ("content-length", "5"), ("host", "x")]),
            &mut out,
        );
        assert_eq!(out, b"0\r\nGrpc-Status: 0\r\n\r\n");
        out.clear();
        write_trailers(&HeaderMap::new(), &mut out);
        assert_eq!(out, LAST_CHUNK);
    }
}
