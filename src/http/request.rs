//! Which requests are well formed: what hyper lets pass and a proxy must not (attacks.md C1 and C5).
//!
//! Everything is judged before a rule is matched or a backend is chosen. Paths are judged as received
//! and never rewritten: rules and backends get the same bytes (alb.md decision 13).

use std::borrow::Cow;

use http::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Method, Uri, Version};
use hyper::ext::Protocol;

use crate::config::plan::Limits;
use crate::failure::Failure;

/// The host that a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// As the client wrote it.
    pub received: HeaderValue,
    /// In its one form: lower-case, without a trailing dot, with the port if there was one.
    pub canonical: HeaderValue,
}

impl Host {
    /// The canonical form without the port.
    pub fn name(&self) -> &str {
        let text = self.canonical.to_str().unwrap_or_default();
        split_port(text).map_or(text, |(name, _)| name)
    }
}

/// Judges a request's head. An HTTP/1.0 request may have no host.
pub fn check(parts: &Parts, limits: &Limits) -> Result<Option<Host>, Failure> {
    check_method(parts)?;
    check_sizes(parts, limits)?;
    check_framing(&parts.headers, limits)?;
    check_target(parts)?;
    host(parts)
}

/// CONNECT is taken only for a WebSocket over HTTP/2 (RFC 8441).
fn check_method(parts: &Parts) -> Result<(), Failure> {
    match (&parts.method, parts.extensions.get::<Protocol>()) {
        (&Method::CONNECT, Some(protocol)) if is_websocket(protocol) => Ok(()),
        (&Method::CONNECT, Some(_)) => Err(Failure::ProtocolUnknown),
        (&Method::CONNECT | &Method::TRACE, _) => Err(Failure::MethodRefused),
        _ => Ok(()),
    }
}

fn is_websocket(protocol: &Protocol) -> bool {
    protocol.as_str().eq_ignore_ascii_case("websocket")
}

fn check_sizes(parts: &Parts, limits: &Limits) -> Result<(), Failure> {
    if parts
        .uri
        .path_and_query()
        .is_some_and(|target| target.as_str().len() > limits.header_line_bytes)
    {
        return Err(Failure::TargetTooLong);
    }
    if parts.headers.len() > limits.header_count {
        return Err(Failure::HeadTooLarge);
    }
    // Over HTTP/1 hyper has measured the head itself, on the wire.
    if parts.version == Version::HTTP_2 && head_length(parts) > limits.header_bytes {
        return Err(Failure::HeadTooLarge);
    }
    let line =
        |(name, value): (&http::HeaderName, &HeaderValue)| name.as_str().len() + 2 + value.len();
    if parts
        .headers
        .iter()
        .any(|field| line(field) > limits.header_line_bytes)
    {
        return Err(Failure::FieldTooLong);
    }
    Ok(())
}

/// How much memory a head takes, about.
pub fn head_memory<B>(request: &http::Request<B>) -> usize {
    let target = request.uri().path_and_query();
    let target = target.map_or(0, |target| target.as_str().len());
    let fields = request.headers().iter();
    let text: usize = fields
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    target + text + request.headers().len() * FIELD_MEMORY
}

/// What a field takes in a `HeaderMap` besides its text.
const FIELD_MEMORY: usize = size_of::<(http::HeaderName, HeaderValue)>() + 40;

/// How long a head is, or would be, on the wire of HTTP/1.1.
pub fn head_length(parts: &Parts) -> usize {
    let target = parts
        .uri
        .path_and_query()
        .map_or(1, |target| target.as_str().len());
    let line = parts.method.as_str().len() + target + "  HTTP/1.1\r\n\r\n".len();
    let authority = match parts.uri.authority() {
        Some(authority) if !parts.headers.contains_key(HOST) => {
            "host: \r\n".len() + authority.as_str().len()
        }
        Some(_) | None => 0,
    };
    let fields: usize = parts
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len())
        .sum();
    line + authority + fields
}

/// One `chunked`, or one length; hyper has refused lengths that differ or are no numbers.
fn check_framing(headers: &HeaderMap, limits: &Limits) -> Result<(), Failure> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (!coding.as_bytes().eq_ignore_ascii_case(b"chunked") || codings.next().is_some())
    {
        return Err(Failure::TransferCodingUnknown);
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        if lengths.next().is_some() {
            return Err(Failure::RequestMalformed);
        }
        let length = length
            .to_str()
            .ok()
            .and_then(|text| text.parse::<u64>().ok());
        if length.ok_or(Failure::RequestMalformed)? > limits.body_bytes {
            return Err(Failure::BodyTooLarge);
        }
    }
    Ok(())
}

fn check_target(parts: &Parts) -> Result<(), Failure> {
    if let Some(scheme) = parts.uri.scheme()
        && *scheme != Scheme::HTTP
        && *scheme != Scheme::HTTPS
    {
        return Err(Failure::RequestMalformed);
    }
    let path = parts.uri.path();
    if path == "*" && parts.method == Method::OPTIONS {
        return Ok(());
    }
    if !path.starts_with('/') {
        return Err(Failure::RequestMalformed);
    }
    if is_unsafe(path.as_bytes()) {
        Err(Failure::PathUnsafe)
    } else {
        Ok(())
    }
}

/// Whether a path holds a NUL, a backslash or a dot segment, plain or percent-encoded. An encoded slash
/// ends a segment here too, since a backend may decode it.
pub fn is_unsafe(path: &[u8]) -> bool {
    // The usual path holds neither an escape nor a backslash nor a segment that begins with a dot.
    let mut before = b'/';
    let suspicious = path.iter().any(|byte| {
        let hit = matches!(byte, b'%' | b'\\') || (*byte == b'.' && before == b'/');
        before = *byte;
        hit
    });
    if !suspicious {
        return false;
    }
    let mut dots = Some(0);
    let mut rest = path;
    while let Some((byte, after)) = next_decoded(rest) {
        rest = after;
        match byte {
            0 | b'\\' => return true,
            b'/' => {
                if matches!(dots, Some(1 | 2)) {
                    return true;
                }
                dots = Some(0);
            }
            b'.' => dots = dots.map(|n| n + 1),
            _ => dots = None,
        }
    }
    matches!(dots, Some(1 | 2))
}

/// The first byte, decoded if it is a valid escape, and what follows it.
fn next_decoded(path: &[u8]) -> Option<(u8, &[u8])> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    if let [b'%', high, low, rest @ ..] = path
        && let (Some(high), Some(low)) = (digit(*high), digit(*low))
    {
        return Some((high * 16 + low, rest));
    }
    path.split_first().map(|(byte, rest)| (*byte, rest))
}

/// Path and query as received; an absolute target may have an empty path, which stands for `/`.
pub fn target(uri: &Uri) -> Cow<'_, [u8]> {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    if target.starts_with('?') {
        Cow::Owned(format!("/{target}").into_bytes())
    } else {
        Cow::Borrowed(target.as_bytes())
    }
}

/// The one host of a request: of an absolute target or `:authority`, else of the Host field.
fn host(parts: &Parts) -> Result<Option<Host>, Failure> {
    let mut fields = parts.headers.get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(Failure::HostInvalid);
    }
    let field = field.map(parse_host).transpose()?;
    let authority = parts.uri.authority().map(parse_authority).transpose()?;
    match (parts.version, authority, field) {
        // HTTP/2: both may be there if they say the same (RFC 9113 section 8.3.1).
        (Version::HTTP_2, Some(authority), Some(field))
            if authority.canonical != field.canonical =>
        {
            Err(Failure::HostInvalid)
        }
        (Version::HTTP_2, None, None) => Err(Failure::HostInvalid),
        // HTTP/1.1: the field must be there, an absolute target overrides it (RFC 9112 section 3.2).
        (Version::HTTP_11, _, None) => Err(Failure::HostInvalid),
        (_, Some(authority), _) => Ok(Some(authority)),
        (_, None, field) => Ok(field),
    }
}

fn parse_authority(authority: &Authority) -> Result<Host, Failure> {
    let value = HeaderValue::from_str(authority.as_str()).map_err(|_| Failure::HostInvalid)?;
    parse_host(&value)
}

/// Parses `uri-host [":" port]` (RFC 9110 section 7.2): no user, no list, a port of 1 to 65535.
pub fn parse_host(received: &HeaderValue) -> Result<Host, Failure> {
    let text = received.to_str().map_err(|_| Failure::HostInvalid)?;
    let (name, port) = split_port(text).ok_or(Failure::HostInvalid)?;
    if let Some(port) = port
        && !is_port(port)
    {
        return Err(Failure::HostInvalid);
    }
    let bare = name.strip_suffix('.').unwrap_or(name);
    if bare.is_empty() || !is_host_name(bare) {
        return Err(Failure::HostInvalid);
    }
    let is_canonical =
        bare.len() == name.len() && !name.bytes().any(|byte| byte.is_ascii_uppercase());
    let canonical = if is_canonical {
        received.clone()
    } else {
        let port = port.map_or(String::new(), |port| format!(":{port}"));
        HeaderValue::try_from(format!("{}{port}", bare.to_ascii_lowercase()))
            .map_err(|_| Failure::HostInvalid)?
    };
    Ok(Host {
        received: received.clone(),
        canonical,
    })
}

fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    if text.starts_with('[') {
        let end = text.find(']')? + 1;
        let (name, rest) = text.split_at_checked(end)?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((name, Some(port))),
            None if rest.is_empty() => Some((name, None)),
            None => None,
        };
    }
    match text.split_once(':') {
        Some((name, port)) => Some((name, Some(port))),
        None => Some((text, None)),
    }
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
        && text.parse::<u16>().is_ok_and(|port| port != 0)
}

/// An IPv6 address in brackets, or a registered name: RFC 3986's unreserved characters and sub-delimiters
/// without the comma, which would make it a list.
fn is_host_name(name: &str) -> bool {
    if let Some(address) = name.strip_prefix('[') {
        return address
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    }
    name.bytes().all(|byte| {
        byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b';'
                    | b'='
            )
    }) && !name.contains("..")
        && !name.starts_with('.')
}

/// Whether the client waits for permission before it sends its body: takes the Expect field out where it
/// has no meaning (HTTP/1.0, HTTP/2: hyper never answers 100 there, so nobody may wait for it).
pub fn expects_continue(version: Version, headers: &mut HeaderMap) -> Result<Continue, Failure> {
    let mut fields = headers.get_all(EXPECT).iter();
    let Some(first) = fields.next() else {
        return Ok(Continue::No);
    };
    let exact = first.as_bytes().eq_ignore_ascii_case(b"100-continue") && fields.next().is_none();
    if version == Version::HTTP_10 {
        headers.remove(EXPECT);
        return Ok(Continue::No);
    }
    if !exact {
        return Err(Failure::ExpectationUnknown);
    }
    if version == Version::HTTP_11 {
        return Ok(Continue::Yes);
    }
    headers.remove(EXPECT);
    Ok(Continue::No)
}

/// Whether a client waits for 100 (RFC 9110 section 10.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continue {
    /// It does.
    Yes,
    /// It does not.
    No,
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::config::defaults;

    fn judge(parts: &Parts) -> Result<Option<Host>, Failure> {
        check(parts, &defaults::limits())
    }

    fn parts(method: &str, uri: &str, version: Version, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri).version(version);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn paths_are_judged_as_rows_54_and_decision_13_say() {
        for (path, refused) in [
            ("/", false),
            ("/index.html", false),
            ("/.well-known/acme", false),
            ("/...", false),
            ("/a..b/c.", false),
            ("/a%2Fb//c;d", false),
            ("/%", false),
            ("/%zz", false),
            ("/..;/a", false),
            ("/.", true),
            ("/..", true),
            ("/a/../b", true),
            ("/a/./b", true),
            ("/a/%2e%2e/b", true),
            ("/a/%2E/b", true),
            ("/a/.%2e", true),
            ("/..%2fetc", true),
            ("/a%2f..", true),
            ("/%00", true),
            ("/a\\b", true),
            ("/a%5cb", true),
            ("/a%5C..%5cb", true),
        ] {
            assert_eq!(is_unsafe(path.as_bytes()), refused, "{path}");
        }
    }

    #[test]
    fn hosts_are_parsed_into_one_form_or_refused() {
        for (received, canonical) in [
            ("example.com", Some("example.com")),
            ("EXAMPLE.com", Some("example.com")),
            ("example.com.", Some("example.com")),
            ("Example.com.:8443", Some("example.com:8443")),
            ("my_service:8080", Some("my_service:8080")),
            ("192.0.2.1:80", Some("192.0.2.1:80")),
            ("[::1]", Some("[::1]")),
            ("[::1]:443", Some("[::1]:443")),
            ("example.com:65535", Some("example.com:65535")),
            ("", None),
            (".", None),
            (":80", None),
            ("example.com:", None),
            ("example.com:0", None),
            ("example.com:65536", None),
            ("example.com:99999", None),
            ("example.com:_", None),
            ("example.com:+80", None),
            ("example.com:80:80", None),
            ("user@example.com", None),
            ("a.example, b.example", None),
            ("a.example,b.example", None),
            ("exa mple.com", None),
            ("a..b", None),
            (".example.com", None),
            ("[::1", None),
            ("[::1]x", None),
            ("[nonsense]", None),
            ("::1", None),
            ("a/b", None),
            ("a?b", None),
            ("a#b", None),
            ("a%41", None),
        ] {
            let host = parse_host(&HeaderValue::from_str(received).unwrap());
            assert_eq!(
                host.ok().map(|h| h.canonical),
                canonical.map(|c| HeaderValue::from_str(c).unwrap()),
                "{received:?}"
            );
        }
    }

    type Row<'a> = (
        &'a str,
        &'a [(&'a str, &'a str)],
        Result<Option<&'a str>, Failure>,
    );

    fn check_hosts(version: Version, rows: &[Row<'_>]) {
        for (uri, fields, expected) in rows {
            let host = judge(&parts("GET", uri, version, fields));
            let host = host.map(|host| host.map(|host| host.canonical));
            let expected =
                expected.map(|host| host.map(|host| HeaderValue::from_str(host).unwrap()));
            assert_eq!(host, expected, "{version:?} {uri} {fields:?}");
        }
    }

    #[test]
    fn the_host_of_http1_is_one_as_row_12_says() {
        let one = &[("host", "a.example")];
        let two = &[("host", "a.example"), ("host", "a.example")];
        check_hosts(
            Version::HTTP_11,
            &[
                ("/", one, Ok(Some("a.example"))),
                ("/", &[], Err(Failure::HostInvalid)),
                ("/", two, Err(Failure::HostInvalid)),
                ("http://b.example/", one, Ok(Some("b.example"))),
                ("http://b.example/", &[], Err(Failure::HostInvalid)),
                ("http://u@b.example/", one, Err(Failure::HostInvalid)),
                ("ftp://b.example/", one, Err(Failure::RequestMalformed)),
            ],
        );
        check_hosts(
            Version::HTTP_10,
            &[("/", &[], Ok(None)), ("/", two, Err(Failure::HostInvalid))],
        );
    }

    #[test]
    fn the_host_of_http2_is_one_as_row_25_says() {
        let one = &[("host", "a.example")];
        check_hosts(
            Version::HTTP_2,
            &[
                ("https://a.example/", &[], Ok(Some("a.example"))),
                ("https://A.example/", one, Ok(Some("a.example"))),
                ("https://b.example/", one, Err(Failure::HostInvalid)),
                ("/", one, Ok(Some("a.example"))),
                ("/", &[], Err(Failure::HostInvalid)),
            ],
        );
    }

    #[test]
    fn heads_are_refused_with_the_status_of_their_fault() {
        let host = ("host", "a.example");
        let long = "x".repeat(defaults::HEADER_LINE_BYTES.default);
        let target = format!("/{long}");
        let fields = vec![host; 1]
            .into_iter()
            .chain((0..100).map(|_| ("x", "y")))
            .collect::<Vec<_>>();
        for (method, uri, fields, failure) in [
            ("TRACE", "/", &[host][..], Failure::MethodRefused),
            ("CONNECT", "a.example:443", &[host], Failure::MethodRefused),
            ("GET", target.as_str(), &[host], Failure::TargetTooLong),
            (
                "GET",
                "/",
                &[host, ("x-long", long.as_str())],
                Failure::FieldTooLong,
            ),
            ("GET", "/", fields.as_slice(), Failure::HeadTooLarge),
            (
                "POST",
                "/",
                &[host, ("transfer-encoding", "gzip, chunked")],
                Failure::TransferCodingUnknown,
            ),
            (
                "POST",
                "/",
                &[host, ("transfer-encoding", "chunked, chunked")],
                Failure::TransferCodingUnknown,
            ),
            (
                "POST",
                "/",
                &[host, ("transfer-encoding", "identity")],
                Failure::TransferCodingUnknown,
            ),
            (
                "POST",
                "/",
                &[
                    host,
                    ("transfer-encoding", "chunked"),
                    ("transfer-encoding", "chunked"),
                ],
                Failure::TransferCodingUnknown,
            ),
            (
                "POST",
                "/",
                &[host, ("content-length", "53687091201")],
                Failure::BodyTooLarge,
            ),
            ("GET", "*", &[host], Failure::RequestMalformed),
            ("GET", "/a/../b", &[host], Failure::PathUnsafe),
        ] {
            let parts = parts(method, uri, Version::HTTP_11, fields);
            assert_eq!(judge(&parts), Err(failure), "{method} {:.40}", uri);
        }
    }

    #[test]
    fn limits_are_inclusive() {
        let line = defaults::HEADER_LINE_BYTES.default;
        let value = "x".repeat(line - "x-long: ".len());
        let target = format!("/{}", "x".repeat(line - 1));
        let fields = [
            ("host", "a.example"),
            ("x-long", value.as_str()),
            ("content-length", "53687091200"),
        ];
        assert!(judge(&parts("POST", &target, Version::HTTP_11, &fields)).is_ok());
    }

    #[test]
    fn every_limit_is_the_listeners() {
        let head = "GET /12345 HTTP/1.1\r\nhost: a.example\r\nx-a: 1\r\ncontent-length: 7\r\n\r\n";
        let fits = Limits {
            header_bytes: head.len(),
            header_line_bytes: "content-length: 7".len(),
            header_count: 3,
            body_bytes: 7,
            ..defaults::limits()
        };
        let fields = [("host", "a.example"), ("x-a", "1"), ("content-length", "7")];
        let request = parts("GET", "/12345", Version::HTTP_2, &fields);
        assert_eq!(head_length(&request), head.len());
        assert!(check(&request, &fits).is_ok());
        let (header_bytes, header_count) = (fits.header_bytes - 1, fits.header_count - 1);
        let (line, body_bytes) = (fits.header_line_bytes - 1, fits.body_bytes - 1);
        for (limits, failure) in [
            (
                Limits {
                    header_bytes,
                    ..fits
                },
                Failure::HeadTooLarge,
            ),
            (
                Limits {
                    header_count,
                    ..fits
                },
                Failure::HeadTooLarge,
            ),
            (
                Limits {
                    header_line_bytes: line,
                    ..fits
                },
                Failure::FieldTooLong,
            ),
            (
                Limits {
                    header_line_bytes: 5,
                    ..fits
                },
                Failure::TargetTooLong,
            ),
            (Limits { body_bytes, ..fits }, Failure::BodyTooLarge),
        ] {
            assert_eq!(check(&request, &limits), Err(failure), "{limits:?}");
        }
        // The authority of HTTP/2 counts as the field that it stands for.
        let bare = parts(
            "GET",
            "https://a.example/12345",
            Version::HTTP_2,
            &fields[1..],
        );
        assert_eq!(head_length(&bare), head.len());
    }

    #[test]
    fn only_the_exact_expectation_is_known() {
        for (version, fields, expected) in [
            (Version::HTTP_11, &["100-continue"][..], Ok(Continue::Yes)),
            (Version::HTTP_11, &["100-Continue"], Ok(Continue::Yes)),
            (Version::HTTP_11, &[], Ok(Continue::No)),
            (
                Version::HTTP_11,
                &["y 100-continue"],
                Err(Failure::ExpectationUnknown),
            ),
            (
                Version::HTTP_11,
                &["100-continue", "100-continue"],
                Err(Failure::ExpectationUnknown),
            ),
            (
                Version::HTTP_11,
                &["200-ok"],
                Err(Failure::ExpectationUnknown),
            ),
            (Version::HTTP_10, &["100-continue"], Ok(Continue::No)),
            (Version::HTTP_2, &["100-continue"], Ok(Continue::No)),
        ] {
            let mut headers: HeaderMap = fields
                .iter()
                .map(|v| (EXPECT, HeaderValue::from_static(v)))
                .collect();
            if fields.len() == 2 {
                headers.append(EXPECT, HeaderValue::from_static("100-continue"));
            }
            assert_eq!(
                expects_continue(version, &mut headers),
                expected,
                "{version:?} {fields:?}"
            );
        }
    }
}
