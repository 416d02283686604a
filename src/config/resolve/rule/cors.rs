//! `cors` (alb.md 6.3).

use http::{HeaderName, Method};

use crate::config::defaults;
use crate::config::document::{CorsDocument, Field, Written};
use crate::config::plan::Switch;
use crate::config::resolve::{Resolver, switch};
use crate::config::rule::{AllowHeaders, AllowOrigin, Cors, Pattern};
use crate::config::value::{self, ValueError};

type Texts = Field<Vec<Written<String>>>;

impl Resolver<'_> {
    /// What browsers are told about requests from other sites.
    pub(super) fn cors(&mut self, written: Option<&CorsDocument>) -> Option<Cors> {
        let written = written?;
        let allow_origin = self.allow_origin(written);
        let allow_credentials = switch(&written.allow_credentials, defaults::CORS_CREDENTIALS);
        let is_every_site = allow_origin.as_ref().is_some_and(is_every_site);
        if let (true, Switch::On, Some(given)) = (
            is_every_site,
            allow_credentials,
            written.allow_credentials.given(),
        ) {
            self.report
                .warning(
                    &given.origin,
                    "every site can read what this rule serves to a user who is logged in",
                )
                .label("with an `allow_origin` that names no site")
                .help("name the origins that may, or leave `allow_credentials` out");
        }
        let allow_headers = match &written.allow_headers {
            Field::Absent => AllowHeaders::Of(
                defaults::CORS_HEADERS
                    .into_iter()
                    .map(HeaderName::from_static)
                    .collect(),
            ),
            list @ (Field::Wrong | Field::Given(_)) => self.header_list("allow_headers", list),
        };
        Some(Cors {
            allow_origin: allow_origin?,
            allow_methods: self.allow_methods(&written.allow_methods),
            allow_headers,
            expose_headers: self.header_list("expose_headers", &written.expose_headers),
            allow_credentials,
            max_age: self.max_age(&written.max_age),
        })
    }

    fn allow_origin(&mut self, written: &CorsDocument) -> Option<AllowOrigin> {
        let help =
            "name the sites that may ask: `allow_origin = [\"https://example.com\"]`, or `[\"*\"]`";
        let list = match &written.allow_origin {
            Field::Absent => {
                self.missing(&written.origin, "this `cors` has no `allow_origin`", help);
                return None;
            }
            Field::Wrong => return None,
            Field::Given(list) => list,
        };
        if list.value.is_empty() {
            self.report
                .error(&list.origin, "`allow_origin` is empty")
                .help(help);
        }
        if self.is_any("allow_origin", list) {
            return Some(AllowOrigin::Any);
        }
        let origins = self.strings("allow_origin", &written.allow_origin, origin);
        Some(AllowOrigin::Of(origins))
    }

    fn allow_methods(&mut self, field: &Texts) -> Vec<Method> {
        let words = defaults::METHODS.map(|word| (word, Method::from_bytes(word.as_bytes()).ok()));
        let Some(list) = field.given() else {
            let default = defaults::CORS_METHODS.into_iter();
            return default
                .filter_map(|word| Method::from_bytes(word.as_bytes()).ok())
                .collect();
        };
        let elements = list.value.iter();
        elements
            .filter_map(|element| self.choice("allow_methods", element, &words))
            .collect()
    }

    fn header_list(&mut self, key: &str, field: &Texts) -> AllowHeaders {
        if let Some(list) = field.given()
            && self.is_any(key, list)
        {
            return AllowHeaders::Any;
        }
        AllowHeaders::Of(self.strings(key, field, |text| value::header_name(&text)))
    }

    /// Whether a list says `*`, which stands alone.
    fn is_any(&mut self, key: &str, list: &Written<Vec<Written<String>>>) -> bool {
        let Some(star) = list.value.iter().find(|element| element.value == "*") else {
            return false;
        };
        if list.value.len() > 1 {
            self.report
                .error(&star.origin, format!("`{key}`: `*` stands alone"))
                .help("it allows everything, whatever stands beside it");
        }
        true
    }

    fn max_age(&mut self, field: &Field<i64>) -> i32 {
        let (default, bounds) = defaults::CORS_MAX_AGE;
        let Some(written) = field.given() else {
            return default;
        };
        let age = i32::try_from(written.value).ok();
        let age = age.filter(|age| bounds.contains(age));
        if age.is_none() {
            let error = ValueError::OutOfRange {
                value: written.value.to_string(),
                least: bounds.start().to_string(),
                most: bounds.end().to_string(),
            };
            self.refuse("max_age", &written.origin, &error);
        }
        age.unwrap_or(default)
    }
}

/// Whether whoever has a name for a site may ask.
fn is_every_site(allowed: &AllowOrigin) -> bool {
    let is_every = |pattern: &Pattern| match pattern {
        Pattern::Wildcard(origin) => {
            let host = origin.split("://").nth(1).unwrap_or_default();
            let host = host.split(':').next().unwrap_or_default();
            host.split('.').all(|label| label == "*")
        }
        Pattern::Exact(_) | Pattern::Regex(_) => false,
    };
    match allowed {
        AllowOrigin::Any => true,
        AllowOrigin::Of(patterns) => patterns.iter().any(is_every),
    }
}

/// `http(s)://host[:port]`; labels of the host may be `*`.
fn origin(text: String) -> Result<Pattern, ValueError> {
    let lower = text.to_ascii_lowercase();
    let rest = lower
        .strip_prefix("https://")
        .or_else(|| lower.strip_prefix("http://"));
    let is_port = |port: &str| {
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p > 0)
    };
    let is_host = |host: &str| {
        host.parse::<std::net::Ipv4Addr>().is_ok()
            || host
                .split('.')
                .all(|label| label == "*" || !label.contains('*'))
                && value::host_name(&host.replace('*', "x")).is_ok()
    };
    let is_sound = rest.is_some_and(|rest| match rest.split_once(':') {
        Some((host, port)) => is_host(host) && is_port(port),
        None => is_host(rest),
    });
    match (is_sound, lower.contains('*')) {
        (true, true) => Ok(Pattern::Wildcard(lower)),
        (true, false) => Ok(Pattern::Exact(lower)),
        (false, _) => Err(ValueError::Malformed {
            text,
            kind: "an origin",
            expected:
                "`https://HOST` or `http://HOST`, perhaps with a port; `*` may stand for whole labels of the host"
                    .to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_a_scheme_a_host_and_perhaps_a_port() {
        for (text, expected) in [
            (
                "https://example.com",
                Some(Pattern::Exact("https://example.com".into())),
            ),
            (
                "HTTP://Example.com:8080",
                Some(Pattern::Exact("http://example.com:8080".into())),
            ),
            (
                "https://*.example.com",
                Some(Pattern::Wildcard("https://*.example.com".into())),
            ),
            (
                "https://10.0.0.1",
                Some(Pattern::Exact("https://10.0.0.1".into())),
            ),
            // It would be the site of whoever registers such a name.
            ("https://*example.com", None),
            ("https://www.exa*ple.com", None),
            ("example.com", None),
            ("ftp://example.com", None),
            ("https://example.com/", None),
            ("https://example.com:0", None),
            ("https://example.com:*", None),
            ("https://", None),
            ("null", None),
        ] {
            assert_eq!(origin(text.to_owned()).ok(), expected, "{text}");
        }
    }
}
