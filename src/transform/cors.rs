//! Tells browsers which other sites may ask, in place of the backend (`cors` of a rule; alb.md 6.3, the
//! Fetch standard's CORS protocol).
//!
//! Where a rule has a say, it alone does: what the backend says is removed. A site that may ask is named
//! back to itself, so caches have to keep the answers apart.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::config::plan::Switch;
use crate::config::rule::{AllowHeaders, AllowOrigin, Cors, Pattern};
use crate::transform::field::members;

/// `*`
const ANY: HeaderValue = HeaderValue::from_static("*");

/// What may be said to the browser that sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Access-Control-Allow-Origin; absent where the site may not ask.
    allowed: Option<HeaderValue>,
    caches: Caches,
}

/// Whether one answer serves the pages of all sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caches {
    ForAll,
    ByOrigin,
}

/// Judges a request's `Origin`. Several, or none, are no site.
pub fn judge(cors: &Cors, request: &HeaderMap) -> Said {
    let mut origins = request.get_all(ORIGIN).iter();
    let origin = origins.next().filter(|_| origins.next().is_none());
    match (&cors.allow_origin, cors.allow_credentials) {
        (AllowOrigin::Any, Switch::Off) => Said {
            allowed: Some(ANY),
            caches: Caches::ForAll,
        },
        // With credentials browsers take no `*`.
        (AllowOrigin::Any, Switch::On) => Said {
            allowed: origin.cloned(),
            caches: Caches::ByOrigin,
        },
        (AllowOrigin::Of(patterns), _) => Said {
            allowed: origin.filter(|origin| is_one_of(origin, patterns)).cloned(),
            caches: Caches::ByOrigin,
        },
    }
}

/// The answer's fields, if a request is a preflight from a site that may ask: OPTIONS that says which method
/// is meant to follow. Others are for the rule's action.
pub fn preflight(
    cors: &Cors,
    said: &Said,
    method: &Method,
    request: &HeaderMap,
) -> Option<HeaderMap> {
    let is_preflight = *method == Method::OPTIONS
        && request.contains_key(ORIGIN)
        && request.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if !is_preflight || said.allowed.is_none() {
        return None;
    }
    let mut headers = HeaderMap::new();
    say(cors, said, &mut headers);
    headers.remove(ACCESS_CONTROL_EXPOSE_HEADERS);
    let methods = cors.allow_methods.iter().map(Method::as_str);
    put_list(&mut headers, ACCESS_CONTROL_ALLOW_METHODS, methods);
    match (&cors.allow_headers, cors.allow_credentials) {
        (AllowHeaders::Of(names), _) => {
            let names = names.iter().map(HeaderName::as_str);
            put_list(&mut headers, ACCESS_CONTROL_ALLOW_HEADERS, names);
        }
        (AllowHeaders::Any, Switch::Off) => {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, ANY);
        }
        // With credentials `*` is a field's name: what was asked for is named back.
        (AllowHeaders::Any, Switch::On) => {
            vary(&mut headers, &ACCESS_CONTROL_REQUEST_HEADERS);
            let asked = request.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter();
            let names = asked.flat_map(|line| members(line.as_bytes()));
            let names = names.filter_map(|name| HeaderName::from_bytes(name).ok());
            let names: Vec<_> = names.collect();
            let names = names.iter().map(HeaderName::as_str);
            put_list(&mut headers, ACCESS_CONTROL_ALLOW_HEADERS, names);
        }
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(cors.max_age));
    Some(headers)
}

/// Says it in an answer that is no preflight's, in place of whatever its backend said.
pub fn apply(cors: &Cors, said: &Said, response: &mut HeaderMap) {
    for name in [
        ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_ALLOW_CREDENTIALS,
        ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_EXPOSE_HEADERS,
        ACCESS_CONTROL_MAX_AGE,
    ] {
        response.remove(name);
    }
    say(cors, said, response);
}

fn say(cors: &Cors, said: &Said, headers: &mut HeaderMap) {
    if said.caches == Caches::ByOrigin {
        vary(headers, &ORIGIN);
    }
    let Some(origin) = &said.allowed else { return };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    if cors.allow_credentials == Switch::On {
        let yes = HeaderValue::from_static("true");
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
    }
    match &cors.expose_headers {
        AllowHeaders::Any => drop(headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, ANY)),
        AllowHeaders::Of(names) => {
            let names = names.iter().map(HeaderName::as_str);
            put_list(headers, ACCESS_CONTROL_EXPOSE_HEADERS, names);
        }
    }
}

/// An empty list is not said.
fn put_list<'a>(headers: &mut HeaderMap, name: HeaderName, words: impl Iterator<Item = &'a str>) {
    let list = words.collect::<Vec<_>>().join(", ");
    if let Ok(value) = HeaderValue::try_from(list)
        && !value.is_empty()
    {
        headers.insert(name, value);
    }
}

fn vary(headers: &mut HeaderMap, name: &HeaderName) {
    let lines = headers.get_all(VARY).iter();
    let is_said = lines
        .flat_map(|line| members(line.as_bytes()))
        .any(|member| member == b"*" || member.eq_ignore_ascii_case(name.as_str().as_bytes()));
    if !is_said {
        headers.append(VARY, HeaderValue::from(name.clone()));
    }
}

fn is_one_of(origin: &HeaderValue, patterns: &[Pattern]) -> bool {
    let Ok(origin) = origin.to_str() else {
        return false;
    };
    let origin = origin.to_ascii_lowercase();
    patterns.iter().any(|pattern| match pattern {
        Pattern::Exact(text) => *text == origin,
        Pattern::Wildcard(pattern) => matches(pattern.as_bytes(), origin.as_bytes()),
        // No origin is written as one.
        Pattern::Regex(_) => false,
    })
}

/// Whether a text is as a pattern says, in which `*` stands for one or more characters of a host: no port or
/// scheme hides in it.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let is_of_a_host =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    // Where the pattern's last `*` stands, and how much of the text it has taken.
    let (mut at, mut from) = (0, 0);
    let mut star = None;
    while from < text.len() {
        match (pattern.get(at), text.get(from)) {
            (Some(b'*'), Some(byte)) if is_of_a_host(*byte) => {
                from += 1;
                star = Some((at, from));
                at += 1;
            }
            (Some(expected), Some(byte)) if expected == byte && *expected != b'*' => {
                at += 1;
                from += 1;
            }
            _ => match star {
                Some((before, taken)) if text.get(taken).copied().is_some_and(is_of_a_host) => {
                    star = Some((before, taken + 1));
                    (at, from) = (before + 1, taken + 1);
                }
                _ => return false,
            },
        }
    }
    at == pattern.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::testing::{lines, map};

    fn cors() -> Cors {
        Cors {
            allow_origin: AllowOrigin::Of(vec![
                Pattern::Exact("https://example.com".into()),
                Pattern::Wildcard("https://*.example.org:8443".into()),
            ]),
            allow_methods: vec![Method::GET, Method::PUT],
            allow_headers: AllowHeaders::Of(vec![HeaderName::from_static("content-type")]),
            expose_headers: AllowHeaders::Of(Vec::new()),
            allow_credentials: Switch::Off,
            max_age: 600,
        }
    }

    #[test]
    fn a_star_stands_for_characters_of_a_host() {
        for (pattern, origin, expected) in [
            ("https://*.example.com", "https://a.example.com", true),
            ("https://*.example.com", "https://a.b.example.com", true),
            (
                "https://*.example.com",
                "https://example.com.example.com",
                true,
            ),
            ("https://*.example.com", "https://example.com", false),
            ("https://*.example.com", "https://.example.com", false),
            ("https://*.example.com", "http://a.example.com", false),
            ("https://*.example.com", "https://a.example.com:8443", false),
            (
                "https://*.example.com",
                "https://evil.com:1@a.example.com",
                false,
            ),
            (
                "https://*.example.com",
                "https://evil.com/.example.com",
                false,
            ),
            (
                "https://*.example.com",
                "https://a.example.com.evil.com",
                false,
            ),
            ("https://*", "https://a.b", true),
            ("https://*", "https://a.b:80", false),
            ("https://*:80", "https://a.b:80", true),
            ("https://a*.*.com", "https://abc.x.y.com", true),
            ("https://a*.*.com", "https://a.x.com", false),
            ("https://*", "https://", false),
            ("https://*", "null", false),
        ] {
            let found = matches(pattern.as_bytes(), origin.as_bytes());
            assert_eq!(found, expected, "{pattern} / {origin}");
        }
    }

    #[test]
    fn a_site_that_may_ask_is_named_back_to_itself() {
        for (origins, allowed) in [
            (
                &[("origin", "https://example.com")][..],
                Some("https://example.com"),
            ),
            (
                &[("origin", "HTTPS://Example.com")],
                Some("HTTPS://Example.com"),
            ),
            (
                &[("origin", "https://a.example.org:8443")],
                Some("https://a.example.org:8443"),
            ),
            (&[("origin", "https://example.org")], None),
            (&[("origin", "null")], None),
            (&[], None),
            (
                &[
                    ("origin", "https://example.com"),
                    ("origin", "https://example.com"),
                ],
                None,
            ),
        ] {
            let said = judge(&cors(), &map(origins));
            let mut headers = map(&[("access-control-allow-origin", "*"), ("vary", "accept")]);
            apply(&cors(), &said, &mut headers);
            let found = headers.get(ACCESS_CONTROL_ALLOW_ORIGIN);
            assert_eq!(
                found.map(|value| value.to_str().unwrap()),
                allowed,
                "{origins:?}"
            );
            let varies: Vec<_> = headers.get_all(VARY).iter().collect();
            assert_eq!(varies, ["accept", "origin"]);
        }
    }

    #[test]
    fn what_the_backend_says_is_replaced() {
        let mut headers = map(&[
            ("access-control-allow-origin", "https://evil.example"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "DELETE"),
            ("access-control-allow-headers", "x"),
            ("access-control-expose-headers", "x"),
            ("access-control-max-age", "1"),
            ("vary", "Origin"),
            ("x-a", "1"),
        ]);
        let said = judge(&cors(), &map(&[]));
        apply(&cors(), &said, &mut headers);
        assert_eq!(lines(&headers), ["vary: Origin", "x-a: 1"]);
    }

    #[test]
    fn everybody_may_ask_and_only_credentials_tell_them_apart() {
        let request = map(&[("origin", "https://any.example")]);
        let any = Cors {
            allow_origin: AllowOrigin::Any,
            expose_headers: AllowHeaders::Of(vec![
                HeaderName::from_static("x-a"),
                HeaderName::from_static("x-b"),
            ]),
            ..cors()
        };
        let mut headers = HeaderMap::new();
        apply(&any, &judge(&any, &request), &mut headers);
        let exposed = "access-control-expose-headers: x-a, x-b";
        assert_eq!(lines(&headers), ["access-control-allow-origin: *", exposed]);
        let with = Cors {
            allow_credentials: Switch::On,
            ..any
        };
        let mut headers = HeaderMap::new();
        apply(&with, &judge(&with, &request), &mut headers);
        let expected = [
            "access-control-allow-credentials: true",
            "access-control-allow-origin: https://any.example",
            exposed,
            "vary: origin",
        ];
        assert_eq!(lines(&headers), expected);
    }

    #[test]
    fn a_preflight_is_options_from_a_site_that_may_ask() {
        let asks = ("access-control-request-method", "PUT");
        let from = ("origin", "https://example.com");
        for (method, fields, is_one) in [
            (Method::OPTIONS, &[from, asks][..], true),
            (Method::GET, &[from, asks], false),
            (Method::OPTIONS, &[from], false),
            (Method::OPTIONS, &[asks], false),
            (
                Method::OPTIONS,
                &[("origin", "https://evil.example"), asks],
                false,
            ),
        ] {
            let request = map(fields);
            let said = judge(&cors(), &request);
            let answer = preflight(&cors(), &said, &method, &request);
            assert_eq!(answer.is_some(), is_one, "{method} {fields:?}");
            if let Some(answer) = answer {
                let expected = [
                    "access-control-allow-headers: content-type",
                    "access-control-allow-methods: GET, PUT",
                    "access-control-allow-origin: https://example.com",
                    "access-control-max-age: 600",
                    "vary: origin",
                ];
                assert_eq!(lines(&answer), expected);
            }
        }
    }

    #[test]
    fn all_fields_are_allowed_by_a_star_or_with_credentials_by_name() {
        let request = map(&[
            ("origin", "https://example.com"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-a,  X-B, b d"),
        ]);
        let allowed = |cors: &Cors| {
            let said = judge(cors, &request);
            let answer = preflight(cors, &said, &Method::OPTIONS, &request).unwrap();
            let value = answer.get(ACCESS_CONTROL_ALLOW_HEADERS).cloned();
            (value.unwrap(), answer.get_all(VARY).iter().count())
        };
        let any = Cors {
            allow_headers: AllowHeaders::Any,
            ..cors()
        };
        assert_eq!(allowed(&any), (ANY, 1));
        let with = Cors {
            allow_credentials: Switch::On,
            ..any
        };
        assert_eq!(allowed(&with), (HeaderValue::from_static("x-a, x-b"), 2));
    }
}
