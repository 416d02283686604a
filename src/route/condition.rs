//! Conditions, ready to run: what of a request is looked at, and how (alb.md 6.2).

use std::net::IpAddr;

use http::header::COOKIE;
use http::{HeaderMap, HeaderName, Method};

use super::text::Texts;
use crate::config::rule::{Case, Condition};
use crate::network::Networks;

/// What conditions look at.
pub struct Request<'a> {
    /// The host in its one form, without a port; empty where there is none.
    pub host: &'a str,
    /// The path as received.
    pub path: &'a str,
    /// The query as received, without its `?`.
    pub query: Option<&'a str>,
    /// The method; a WebSocket over HTTP/2 is a GET, as it is over HTTP/1.1.
    pub method: &'a Method,
    /// The fields as received.
    pub headers: &'a HeaderMap,
    /// Whom the request is attributed to; asked only if a condition is about that.
    pub client: &'a dyn Fn() -> IpAddr,
}

/// One condition.
#[derive(Debug)]
pub(super) enum Test {
    Host(Texts),
    Path(Texts),
    Method(Vec<Method>),
    Header(HeaderName, Texts),
    Query(Box<[u8]>, Texts),
    Cookie(Box<[u8]>, Texts),
    SourceIp(Networks),
}

impl Test {
    /// Makes a condition run.
    pub(super) fn new(condition: &Condition) -> Self {
        match condition {
            Condition::Host(patterns) => Self::Host(Texts::new(patterns, Case::Told)),
            Condition::Path(patterns) => Self::Path(Texts::new(patterns, Case::Told)),
            Condition::Method(methods) => Self::Method(methods.clone()),
            Condition::Header(named) => {
                Self::Header(named.name.clone(), Texts::new(&named.values, Case::Told))
            }
            Condition::Query(named) => {
                let texts = Texts::new(&named.values, Case::Ignored);
                Self::Query(named.name.as_bytes().into(), texts)
            }
            Condition::Cookie(named) => {
                let texts = Texts::new(&named.values, Case::Ignored);
                Self::Cookie(named.name.as_bytes().into(), texts)
            }
            Condition::SourceIp(networks) => Self::SourceIp(networks.clone()),
        }
    }

    /// Its rank by what it costs: cheap ones come first.
    pub(super) fn cost(&self) -> u8 {
        match self {
            Self::Method(_) => 0,
            Self::Host(texts) | Self::Path(texts) if texts.is_costly() => 5,
            Self::Host(_) | Self::Path(_) => 1,
            Self::Header(..) => 2,
            Self::SourceIp(_) => 3,
            Self::Query(..) | Self::Cookie(..) => 4,
        }
    }

    /// Whether it holds.
    pub(super) fn holds(&self, request: &Request<'_>) -> bool {
        match self {
            Self::Host(texts) => texts.match_any(request.host.as_bytes()),
            Self::Path(texts) => texts.match_any(request.path.as_bytes()),
            Self::Method(methods) => methods.contains(request.method),
            Self::Header(name, texts) => {
                let mut lines = request.headers.get_all(name).iter();
                lines.any(|line| texts.match_any(line.as_bytes()))
            }
            Self::Query(name, texts) => {
                let query = request.query.unwrap_or_default().as_bytes();
                any_pair(query, b'&', name, texts)
            }
            Self::Cookie(name, texts) => {
                // Over HTTP/2 each cookie may be a field of its own.
                let mut lines = request.headers.get_all(COOKIE).iter();
                lines.any(|line| any_pair(line.as_bytes(), b';', name, texts))
            }
            Self::SourceIp(networks) => networks.contains((request.client)()),
        }
    }
}

/// Whether one of `name=value` in a list is of that name and has one of these values. Nothing is decoded; a name
/// without `=` has the empty value.
fn any_pair(list: &[u8], separator: u8, name: &[u8], texts: &Texts) -> bool {
    let mut pairs = list.split(|byte| *byte == separator);
    pairs.any(|pair| {
        let pair = pair.trim_ascii();
        let (key, value) = match pair.iter().position(|byte| *byte == b'=') {
            Some(at) => (pair.get(..at), pair.get(at + 1..)),
            None => (Some(pair), None),
        };
        key.is_some_and(|key| key.eq_ignore_ascii_case(name))
            && texts.match_any(value.unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::config::rule::{Named, Pattern};
    use crate::network;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        let pattern = |text: &&str| {
            if text.contains(['*', '?']) {
                Pattern::Wildcard((*text).to_owned())
            } else {
                Pattern::Exact((*text).to_owned())
            }
        };
        texts.iter().map(pattern).collect()
    }

    fn holds(condition: &Condition, fields: &[(&str, &[u8])], query: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name = HeaderName::try_from(*name).unwrap();
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        Test::new(condition).holds(&Request {
            host: "a.example",
            path: "/a",
            query,
            method: &Method::GET,
            headers: &headers,
            client: &|| IpAddr::from([192, 0, 2, 7]),
        })
    }

    #[test]
    fn a_header_matches_by_any_of_its_lines_and_with_its_case() {
        let condition = Condition::Header(Named {
            name: HeaderName::from_static("x-canary"),
            values: patterns(&["1", "yes*"]),
        });
        for (fields, expected) in [
            (&[("x-canary", &b"1"[..])][..], true),
            (&[("x-canary", b"0"), ("X-Canary", b"yes, please")], true),
            (&[("x-canary", b"YES")], false),
            (&[("x-canary", b"1, 2")], false),
            (&[("x-other", b"1")], false),
            (&[("x-canary", b"\xff")], false),
            (&[], false),
        ] {
            assert_eq!(holds(&condition, fields, None), expected, "{fields:?}");
        }
    }

    #[test]
    fn a_query_is_compared_as_received_and_without_its_case() {
        let condition = Condition::Query(Named {
            name: "beta".to_owned(),
            values: patterns(&["true", "v*", "a%20b"]),
        });
        for (query, expected) in [
            (Some("beta=true"), true),
            (Some("BETA=True"), true),
            (Some("a=1&beta=v2&b"), true),
            (Some("beta=0&beta=true"), true),
            (Some("beta=a%20B"), true),
            (Some("beta=a+b"), false),
            (Some("beta=tru%65"), false),
            (Some("b%65ta=true"), false),
            (Some("beta=true;x"), false),
            (Some("xbeta=true"), false),
            (Some("beta"), false),
            (Some(""), false),
            (None, false),
        ] {
            assert_eq!(holds(&condition, &[], query), expected, "{query:?}");
        }
        let any = Condition::Query(Named {
            name: "debug".to_owned(),
            values: patterns(&["*"]),
        });
        assert!(holds(&any, &[], Some("a&debug")), "a name alone is there");
        assert!(!holds(&any, &[], Some("a")));
    }

    #[test]
    fn a_cookie_is_found_on_any_line_in_any_place() {
        let condition = Condition::Cookie(Named {
            name: "group".to_owned(),
            values: patterns(&["b*"]),
        });
        for (fields, expected) in [
            (&[("cookie", &b"group=blue"[..])][..], true),
            (&[("cookie", b"a=1; Group=Blue;b=2")], true),
            (&[("cookie", b"a=1"), ("cookie", b"group=blue")], true),
            (&[("cookie", b"group=red;group=blue")], true),
            (&[("cookie", b"agroup=blue")], false),
            (&[("cookie", b"a=group=blue")], false),
            (&[("cookie", b"group=\"blue\"")], false),
            (&[("x-cookie", b"group=blue")], false),
        ] {
            assert_eq!(holds(&condition, fields, None), expected, "{fields:?}");
        }
    }

    #[test]
    fn a_client_is_looked_for_in_networks() {
        let networks = |text: &str| {
            let networks = Networks::new(&[network::parse(text).unwrap()]);
            holds(&Condition::SourceIp(networks), &[], None)
        };
        assert!(networks("192.0.2.0/24"));
        assert!(!networks("192.0.2.8"));
    }
}
