//! Fills templates in from a request: where a redirect leads and what a rewrite asks for (alb.md 6.3).
//!
//! What a request gave was judged and is taken over byte for byte; only a `Location` is percent-encoded
//! where RFC 3986 wants it. What a template adds of its own is always encoded. No rendering can hold a
//! control byte or a space, so none can end a line.

use std::borrow::Cow;
use std::fmt::Write as _;

use http::HeaderValue;

use crate::config::rule::{Redirect, RedirectPort, RedirectProtocol, Rewrite, Segment, Template};
use crate::failure::Failure;
use crate::scheme::Scheme;

/// What a request gives to templates.
#[derive(Clone, Debug)]
pub struct Given<'a> {
    /// The listener's.
    pub scheme: Scheme,
    /// In its canonical form, without the port; an HTTP/1.0 request may have none.
    pub host: Option<&'a str>,
    /// The listener's.
    pub port: u16,
    /// Without the query; `*` for `OPTIONS *`.
    pub path: &'a str,
    /// Without the `?`.
    pub query: Option<&'a str>,
    /// What the groups of the path's regular expression took; empty for those that took nothing.
    pub captures: [Cow<'a, str>; 3],
}

/// What a backend is asked for in place of what the client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// The host, where it is another than the request's own.
    pub host: Option<String>,
    /// The path. Not judged yet: it may hold what no request's path may.
    pub path: String,
    /// Path and query.
    pub target: String,
}

/// Renders a rewrite. A template that needs the host of a request without one has none to give.
pub fn rewrite(rewrite: &Rewrite, given: &Given<'_>) -> Result<Rewritten, Failure> {
    let host = match rewrite.host.0.as_slice() {
        // The request's own, with its port if it has one.
        [Segment::Host] => None,
        _ => Some(host(&rewrite.host, given)?),
    };
    let path = path(&rewrite.path, given, Ink::AsReceived);
    let query = render(&rewrite.query, given, Part::Query, Ink::AsReceived);
    let target = with_query(path.clone(), &query);
    Ok(Rewritten { host, path, target })
}

fn default_port(scheme: Scheme) -> u16 {
    match scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    }
}

/// Renders the `Location` of a redirect: always absolute, without the port that its scheme stands for,
/// without `?` where the query is empty.
pub fn location(redirect: &Redirect, given: &Given<'_>) -> Result<HeaderValue, Failure> {
    let scheme = match redirect.protocol {
        RedirectProtocol::Same => given.scheme,
        RedirectProtocol::Http => Scheme::Http,
        RedirectProtocol::Https => Scheme::Https,
    };
    let port = match redirect.port {
        RedirectPort::Same => given.port,
        RedirectPort::Number(port) => port,
    };
    let mut location = format!("{}://{}", scheme.as_str(), host(&redirect.host, given)?);
    if port != default_port(scheme) {
        // A string can always be written to.
        let _infallible = write!(location, ":{port}");
    }
    let path = path(&redirect.path, given, Ink::Encoded);
    location += if path == "*" { "/" } else { &path };
    let query = render(&redirect.query, given, Part::Query, Ink::Encoded);
    HeaderValue::try_from(with_query(location, &query)).map_err(|_| Failure::RequestMalformed)
}

fn with_query(mut target: String, query: &str) -> String {
    if !query.is_empty() {
        target.push('?');
        target += query;
    }
    target
}

/// A host is not encoded: what a request gave was judged, what the file gives was checked.
fn host(template: &Template, given: &Given<'_>) -> Result<String, Failure> {
    if given.host.is_none() && template.0.contains(&Segment::Host) {
        return Err(Failure::HostInvalid);
    }
    let host = render(template, given, Part::Host, Ink::AsReceived);
    if host.is_empty() {
        return Err(Failure::HostInvalid);
    }
    Ok(host)
}

/// A path begins with a slash, whatever its template begins with.
fn path(template: &Template, given: &Given<'_>, ink: Ink) -> String {
    let path = render(template, given, Part::Path, ink);
    if path.starts_with('/') || (path == "*" && given.path == "*") {
        path
    } else {
        format!("/{path}")
    }
}

/// What a template is of, which says what may stand in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Host,
    Path,
    Query,
}

/// How what a request gave is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ink {
    /// To the byte.
    AsReceived,
    /// Percent-encoded where that was missing.
    Encoded,
}

fn render(template: &Template, given: &Given<'_>, part: Part, ink: Ink) -> String {
    let mut out = String::new();
    for segment in &template.0 {
        let port;
        let text = match segment {
            Segment::Literal(text) => text.as_str(),
            Segment::Protocol => given.scheme.as_str(),
            Segment::Host => given.host.unwrap_or_default(),
            Segment::Port => {
                port = given.port.to_string();
                port.as_str()
            }
            Segment::Path => given.path,
            Segment::Query => given.query.unwrap_or_default(),
            Segment::Capture(number) => capture(given, *number),
        };
        let own = match (part, segment) {
            (Part::Path, Segment::Path | Segment::Capture(_)) => ink,
            (Part::Query, Segment::Query) => ink,
            // Of the file, or of a part in which other bytes may stand.
            _ => Ink::Encoded,
        };
        match (part, own) {
            (Part::Host, _) | (_, Ink::AsReceived) => out += text,
            (Part::Path | Part::Query, Ink::Encoded) => out += &encoded(text, part),
        }
    }
    out
}

fn capture<'a>(given: &'a Given<'_>, number: u8) -> &'a str {
    let index = usize::from(number).checked_sub(1);
    let capture = index.and_then(|index| given.captures.get(index));
    capture.map(Cow::as_ref).unwrap_or_default()
}

/// Percent-encodes what RFC 3986 does not have in a path or query. Escapes stay as they are.
fn encoded(text: &str, part: Part) -> Cow<'_, str> {
    let stands = |byte: u8| match byte {
        b'?' => part == Part::Query,
        b'-' | b'.' | b'_' | b'~' | b':' | b'@' | b'/' | b'%' => true,
        b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' => true,
        _ => byte.is_ascii_alphanumeric(),
    };
    if text.bytes().all(stands) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if stands(byte) {
            out.push(char::from(byte));
        } else {
            // A string can always be written to.
            let _infallible = write!(out, "%{byte:02X}");
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use proptest::prelude::*;

    use super::*;

    const GIVEN: Given<'_> = Given {
        scheme: Scheme::Http,
        host: Some("www.example.com"),
        port: 8080,
        path: "/a%2Fb/c",
        query: Some("x=1&y"),
        captures: [
            Cow::Borrowed("one"),
            Cow::Borrowed(""),
            Cow::Borrowed("three"),
        ],
    };

    fn literal(text: &str) -> Template {
        Template(vec![Segment::Literal(text.to_owned())])
    }

    fn of(segment: Segment) -> Template {
        Template(vec![segment])
    }

    fn redirect() -> Redirect {
        Redirect {
            code: StatusCode::MOVED_PERMANENTLY,
            protocol: RedirectProtocol::Same,
            host: of(Segment::Host),
            port: RedirectPort::Same,
            path: of(Segment::Path),
            query: of(Segment::Query),
        }
    }

    fn keep() -> Rewrite {
        Rewrite {
            host: of(Segment::Host),
            path: of(Segment::Path),
            query: of(Segment::Query),
        }
    }

    #[track_caller]
    fn leads(redirect: &Redirect, given: &Given<'_>, expected: &str) {
        assert_eq!(location(redirect, given).unwrap(), expected);
    }

    #[test]
    fn a_location_names_a_port_unless_its_scheme_does() {
        for (protocol, port, expected) in [
            (
                RedirectProtocol::Same,
                RedirectPort::Same,
                "http://www.example.com:8080",
            ),
            (
                RedirectProtocol::Same,
                RedirectPort::Number(80),
                "http://www.example.com",
            ),
            (
                RedirectProtocol::Http,
                RedirectPort::Number(443),
                "http://www.example.com:443",
            ),
            (
                RedirectProtocol::Https,
                RedirectPort::Number(443),
                "https://www.example.com",
            ),
            (
                RedirectProtocol::Https,
                RedirectPort::Number(80),
                "https://www.example.com:80",
            ),
        ] {
            let redirect = Redirect {
                protocol,
                port,
                ..redirect()
            };
            leads(&redirect, &GIVEN, &format!("{expected}/a%2Fb/c?x=1&y"));
        }
    }

    #[test]
    fn an_empty_query_has_no_question_mark() {
        for query in [None, Some("")] {
            let given = Given { query, ..GIVEN };
            leads(&redirect(), &given, "http://www.example.com:8080/a%2Fb/c");
            assert_eq!(rewrite(&keep(), &given).unwrap().target, "/a%2Fb/c");
        }
        let none = Redirect {
            query: literal(""),
            ..redirect()
        };
        leads(&none, &GIVEN, "http://www.example.com:8080/a%2Fb/c");
    }

    #[test]
    fn every_place_is_filled_from_the_request() {
        for (segment, expected) in [
            (Segment::Protocol, "/http"),
            (Segment::Host, "/www.example.com"),
            (Segment::Port, "/8080"),
            (Segment::Path, "/a%2Fb/c"),
            (Segment::Query, "/x=1&y"),
            (Segment::Capture(1), "/one"),
            (Segment::Capture(2), "/"),
            (Segment::Capture(3), "/three"),
            (Segment::Capture(4), "/"),
            (Segment::Capture(0), "/"),
            (Segment::Literal("/x".into()), "/x"),
        ] {
            let path = of(segment.clone());
            let rewritten = rewrite(&Rewrite { path, ..keep() }, &GIVEN).unwrap();
            assert_eq!(rewritten.path, expected, "{segment:?}");
            assert_eq!(rewritten.target, format!("{expected}?x=1&y"));
        }
        let path = Template(vec![
            Segment::Literal("/v2/".into()),
            Segment::Capture(3),
            Segment::Literal("/".into()),
            Segment::Capture(1),
        ]);
        leads(
            &Redirect { path, ..redirect() },
            &GIVEN,
            "http://www.example.com:8080/v2/three/one?x=1&y",
        );
    }

    #[test]
    fn what_a_request_gave_is_rewritten_to_the_byte_and_encoded_in_a_location() {
        let given = Given {
            path: "/caf\u{e9}/{x}|\"%zz",
            query: Some("q=[\u{e9}]?"),
            ..GIVEN
        };
        let target = "/caf\u{e9}/{x}|\"%zz?q=[\u{e9}]?";
        assert_eq!(rewrite(&keep(), &given).unwrap().target, target);
        let expected = "http://www.example.com:8080/caf%C3%A9/%7Bx%7D%7C%22%zz?q=%5B%C3%A9%5D?";
        leads(&redirect(), &given, expected);
    }

    #[test]
    fn what_a_template_adds_is_encoded() {
        let path = literal("/a b#c?d\r\n\u{e9}");
        let encoded = "/a%20b%23c%3Fd%0D%0A%C3%A9";
        let rewritten = rewrite(
            &Rewrite {
                path: path.clone(),
                ..keep()
            },
            &GIVEN,
        )
        .unwrap();
        assert_eq!(rewritten.path, encoded);
        let redirect = Redirect {
            path,
            query: literal("a b?"),
            ..redirect()
        };
        leads(
            &redirect,
            &GIVEN,
            &format!("http://www.example.com:8080{encoded}?a%20b?"),
        );
    }

    #[test]
    fn a_query_in_a_path_does_not_end_it() {
        let given = Given {
            query: Some("a?b"),
            ..GIVEN
        };
        let rewrite = Rewrite {
            path: of(Segment::Query),
            query: literal(""),
            ..keep()
        };
        assert_eq!(super::rewrite(&rewrite, &given).unwrap().target, "/a%3Fb");
    }

    #[test]
    fn a_rewritten_host_is_told_apart_from_the_requests_own() {
        let rewritten = |host| rewrite(&Rewrite { host, ..keep() }, &GIVEN).unwrap().host;
        assert_eq!(rewritten(of(Segment::Host)), None);
        assert_eq!(
            rewritten(literal("internal.example")),
            Some("internal.example".into())
        );
        let host = Template(vec![Segment::Literal("x-".into()), Segment::Host]);
        assert_eq!(rewritten(host), Some("x-www.example.com".into()));
    }

    #[test]
    fn a_request_without_a_host_fills_no_template_that_needs_one() {
        let given = Given {
            host: None,
            ..GIVEN
        };
        assert_eq!(location(&redirect(), &given), Err(Failure::HostInvalid));
        let pinned = Redirect {
            host: literal("example.org"),
            ..redirect()
        };
        leads(&pinned, &given, "http://example.org:8080/a%2Fb/c?x=1&y");
        assert_eq!(rewrite(&keep(), &given).unwrap().host, None);
        let host = Template(vec![Segment::Literal("x-".into()), Segment::Host]);
        assert_eq!(
            rewrite(&Rewrite { host, ..keep() }, &given),
            Err(Failure::HostInvalid)
        );
    }

    #[test]
    fn an_asterisk_stays_one_and_leads_to_the_root() {
        let given = Given {
            path: "*",
            query: None,
            ..GIVEN
        };
        assert_eq!(rewrite(&keep(), &given).unwrap().target, "*");
        leads(&redirect(), &given, "http://www.example.com:8080/");
        let given = Given {
            captures: ["*", "", ""].map(Cow::Borrowed),
            ..GIVEN
        };
        let path = of(Segment::Capture(1));
        assert_eq!(
            rewrite(&Rewrite { path, ..keep() }, &given).unwrap().path,
            "/*"
        );
    }

    fn segment() -> impl Strategy<Value = Segment> {
        prop_oneof![
            ".{0,8}".prop_map(Segment::Literal),
            Just(Segment::Path),
            Just(Segment::Query),
            (0_u8..5).prop_map(Segment::Capture),
        ]
    }

    proptest! {
        #[test]
        fn no_rendering_ends_a_line(
            path in prop::collection::vec(segment(), 0..4),
            query in prop::collection::vec(segment(), 0..4),
            // What hyper lets pass in a target.
            text in "[!-~\u{e9}]{0,12}",
        ) {
            let text = text.replace(['#', '?'], "");
            prop_assume!(format!("/{text}?{text}").parse::<http::Uri>().is_ok());
            let given = Given { path: &format!("/{text}"), query: Some(&text), captures: [&*text, "", &*text].map(Cow::Borrowed), ..GIVEN };
            let (path, query) = (Template(path), Template(query));
            let redirect = Redirect { path: path.clone(), query: query.clone(), ..redirect() };
            let location = location(&redirect, &given).unwrap();
            prop_assert!(location.as_bytes().iter().all(u8::is_ascii_graphic));
            let rewritten = rewrite(&Rewrite { path, query, ..keep() }, &given).unwrap();
            prop_assert!(rewritten.target.bytes().all(|byte| byte > b' ' && byte != 0x7f && byte != b'#'));
            prop_assert!(rewritten.target.starts_with(&rewritten.path));
            prop_assert!(!rewritten.path.contains('?'));
            prop_assert!(rewritten.target.parse::<http::Uri>().is_ok(), "{}", rewritten.target);
        }
    }
}
