//! The spelling of header names on the way to an HTTP/1.1 backend (alb.md decision 2).
//!
//! Names are case-insensitive and reach us in lower case; backends and their logs like to see the field's own
//! spelling. Every word between hyphens begins with a capital, and the names that are spelled otherwise stand
//! in one table.

use http::HeaderName;

use crate::config::rule::InsertHeader;

/// Names that are written as users have spelt them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Verbatim<'a> {
    /// Of headers of identity, in lower case.
    pub own: &'a [HeaderName],
    /// Of headers that the request's rule inserts.
    pub inserted: &'a [InsertHeader],
}

impl Verbatim<'_> {
    /// Appends a name, in its user's spelling if it has one.
    pub fn write(&self, name: &HeaderName, out: &mut Vec<u8>) {
        if let Some(header) = self.inserted.iter().find(|header| header.name == *name) {
            out.extend_from_slice(header.spelling.as_bytes());
        } else if self.own.contains(name) {
            out.extend_from_slice(name.as_str().as_bytes());
        } else {
            write_name(name, out);
        }
    }
}

/// Appends the canonical spelling of `name`.
pub fn write_name(name: &HeaderName, out: &mut Vec<u8>) {
    let lower = name.as_str();
    if let Some(spelling) = exception(lower) {
        out.extend_from_slice(spelling.as_bytes());
        return;
    }
    let start = out.len();
    out.extend_from_slice(lower.as_bytes());
    let mut begins_word = true;
    for byte in out.iter_mut().skip(start) {
        if begins_word {
            byte.make_ascii_uppercase();
        }
        begins_word = *byte == b'-';
    }
}

/// The spelling of a name that Title-Case would get wrong, chosen by length first: most names end there.
fn exception(lower: &str) -> Option<&'static str> {
    match lower.len() {
        2..=8 => short_exception(lower),
        9..=14 => medium_exception(lower),
        15..=19 => long_exception(lower),
        20.. => longest_exception(lower),
        0 | 1 => None,
    }
}

/// Exceptions of two to eight bytes.
fn short_exception(lower: &str) -> Option<&'static str> {
    match lower.len() {
        2 => match lower {
            "te" => Some("TE"),
            "im" => Some("IM"),
            _ => None,
        },
        3 => match lower {
            "dnt" => Some("DNT"),
            "nel" => Some("NEL"),
            "dpr" => Some("DPR"),
            "ect" => Some("ECT"),
            "rtt" => Some("RTT"),
            "p3p" => Some("P3P"),
            _ => None,
        },
        4 => match lower {
            "etag" => Some("ETag"),
            "a-im" => Some("A-IM"),
            _ => None,
        },
        6 => match lower {
            "slb-id" => Some("SLB-ID"),
            "slb-ip" => Some("SLB-IP"),
            "cf-ray" => Some("CF-Ray"),
            _ => None,
        },
        7 => (lower == "sec-gpc").then_some("Sec-GPC"),
        _ => None,
    }
}

/// Exceptions of nine to fourteen bytes.
fn medium_exception(lower: &str) -> Option<&'static str> {
    match lower.len() {
        9 => match lower {
            "x-real-ip" => Some("X-Real-IP"),
            "sec-ch-ua" => Some("Sec-CH-UA"),
            "expect-ct" => Some("Expect-CT"),
            _ => None,
        },
        10 => (lower == "soapaction").then_some("SOAPAction"),
        11 => match lower {
            "content-md5" => Some("Content-MD5"),
            "x-client-ip" => Some("X-Client-IP"),
            _ => None,
        },
        12 => match lower {
            "mime-version" => Some("MIME-Version"),
            "x-csrf-token" => Some("X-CSRF-Token"),
            "x-xsrf-token" => Some("X-XSRF-Token"),
            _ => None,
        },
        14 => match lower {
            "http2-settings" => Some("HTTP2-Settings"),
            "true-client-ip" => Some("True-Client-IP"),
            "sec-ch-ua-arch" => Some("Sec-CH-UA-Arch"),
            _ => None,
        },
        _ => None,
    }
}

/// Exceptions of fifteen to nineteen bytes.
fn long_exception(lower: &str) -> Option<&'static str> {
    match lower.len() {
        15 => match lower {
            "sec-ch-ua-model" => Some("Sec-CH-UA-Model"),
            "sec-ch-ua-wow64" => Some("Sec-CH-UA-WoW64"),
            "x-ua-compatible" => Some("X-UA-Compatible"),
            _ => None,
        },
        16 => match lower {
            "www-authenticate" => Some("WWW-Authenticate"),
            "sec-ch-ua-mobile" => Some("Sec-CH-UA-Mobile"),
            "x-xss-protection" => Some("X-XSS-Protection"),
            "cf-connecting-ip" => Some("CF-Connecting-IP"),
            _ => None,
        },
        17 => match lower {
            "sec-websocket-key" => Some("Sec-WebSocket-Key"),
            "sec-ch-ua-bitness" => Some("Sec-CH-UA-Bitness"),
            _ => None,
        },
        18 => match lower {
            "alicloud-alb-trace" => Some("ALICLOUD-ALB-TRACE"),
            "sec-ch-ua-platform" => Some("Sec-CH-UA-Platform"),
            _ => None,
        },
        _ => None,
    }
}

/// Exceptions of twenty bytes and more.
fn longest_exception(lower: &str) -> Option<&'static str> {
    match lower.len() {
        20 => (lower == "sec-websocket-accept").then_some("Sec-WebSocket-Accept"),
        21 => (lower == "sec-websocket-version").then_some("Sec-WebSocket-Version"),
        22 => match lower {
            "sec-websocket-protocol" => Some("Sec-WebSocket-Protocol"),
            "sec-ch-ua-full-version" => Some("Sec-CH-UA-Full-Version"),
            "sec-ch-ua-form-factors" => Some("Sec-CH-UA-Form-Factors"),
            "x-forwarded-tls-cipher" => Some("X-Forwarded-TLS-Cipher"),
            "x-http-method-override" => Some("X-HTTP-Method-Override"),
            "x-dns-prefetch-control" => Some("X-DNS-Prefetch-Control"),
            _ => None,
        },
        24 => match lower {
            "sec-websocket-extensions" => Some("Sec-WebSocket-Extensions"),
            "x-forwarded-tls-protocol" => Some("X-Forwarded-TLS-Protocol"),
            _ => None,
        },
        26 => match lower {
            "x-forwarded-client-srcport" => Some("X-Forwarded-Client-srcport"),
            "sec-ch-ua-platform-version" => Some("Sec-CH-UA-Platform-Version"),
            _ => None,
        },
        27 => (lower == "sec-ch-ua-full-version-list").then_some("Sec-CH-UA-Full-Version-List"),
        31 => (lower == "x-forwarded-clientcert-issuerdn")
            .then_some("X-Forwarded-Clientcert-issuerdn"),
        32 => (lower == "x-forwarded-clientcert-subjectdn")
            .then_some("X-Forwarded-Clientcert-subjectdn"),
        34 => (lower == "x-forwarded-clientcert-fingerprint")
            .then_some("X-Forwarded-Clientcert-fingerprint"),
        35 => (lower == "x-forwarded-clientcert-clientverify")
            .then_some("X-Forwarded-Clientcert-clientverify"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spell(lower: &str) -> String {
        let mut out = Vec::new();
        write_name(&HeaderName::from_bytes(lower.as_bytes()).unwrap(), &mut out);
        String::from_utf8(out).unwrap()
    }

    const SPELLINGS: &[&str] = &[
        "A-IM",
        "ALICLOUD-ALB-TRACE",
        "Accept",
        "CF-Connecting-IP",
        "CF-Ray",
        "Content-MD5",
        "Content-Type",
        "DNT",
        "DPR",
        "ECT",
        "ETag",
        "Expect-CT",
        "HTTP2-Settings",
        "Host",
        "IM",
        "MIME-Version",
        "NEL",
        "P3P",
        "RTT",
        "SLB-ID",
        "SLB-IP",
        "SOAPAction",
        "Sec-CH-UA",
        "Sec-CH-UA-Arch",
        "Sec-CH-UA-Bitness",
        "Sec-CH-UA-Form-Factors",
        "Sec-CH-UA-Full-Version",
        "Sec-CH-UA-Full-Version-List",
        "Sec-CH-UA-Mobile",
        "Sec-CH-UA-Model",
        "Sec-CH-UA-Platform",
        "Sec-CH-UA-Platform-Version",
        "Sec-CH-UA-WoW64",
        "Sec-Fetch-Mode",
        "Sec-GPC",
        "Sec-WebSocket-Accept",
        "Sec-WebSocket-Extensions",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Protocol",
        "Sec-WebSocket-Version",
        "TE",
        "Traceparent",
        "True-Client-IP",
        "WWW-Authenticate",
        "X-CSRF-Token",
        "X-Client-IP",
        "X-DNS-Prefetch-Control",
        "X-Forwarded-Client-srcport",
        "X-Forwarded-Clientcert-clientverify",
        "X-Forwarded-Clientcert-fingerprint",
        "X-Forwarded-Clientcert-issuerdn",
        "X-Forwarded-Clientcert-subjectdn",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-TLS-Cipher",
        "X-Forwarded-TLS-Protocol",
        "X-HTTP-Method-Override",
        "X-Real-IP",
        "X-Request-Id",
        "X-UA-Compatible",
        "X-XSRF-Token",
        "X-XSS-Protection",
    ];

    #[test]
    fn names_are_written_in_the_fields_own_spelling() {
        for spelling in SPELLINGS {
            assert_eq!(spell(&spelling.to_lowercase()), *spelling);
        }
    }

    #[test]
    fn odd_names_stay_the_same_name() {
        for name in ["x", "-", "--a", "a--b", "x_y", "1-2", "a-"] {
            assert_eq!(spell(name).to_lowercase(), name);
        }
    }

    #[test]
    fn a_name_is_appended() {
        let mut out = b"before: ".to_vec();
        write_name(&http::header::ACCEPT_ENCODING, &mut out);
        assert_eq!(out, b"before: Accept-Encoding");
    }
}
