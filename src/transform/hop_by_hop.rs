//! Removes what belongs to one hop, or may not come from the other side at all (RFC 9110 7.6.1;
//! alb.md decisions 5 and 15; attacks.md C5).
//!
//! Always runs on the incoming message, before any field of ours is set, so that `Connection` can name
//! nothing that lockgate added. A usual message costs one pass over its names and no allocation.
//! Whether the connection is to be upgraded is asked first, with [`upgrade`].

use http::header::{CONNECTION, TE, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::transform::field::members;

/// Cleans a client's request: hop-by-hop fields, those that `Connection` names, identity fields that no
/// client may send, and other spellings of managed names.
///
/// `TE` is reduced to `trailers`, if the client said so, and `Trailer` passes: gRPC needs both. The
/// writer of the backend's request owes `TE` its connection option (RFC 9110 10.1.4).
/// `Proxy-Authorization` goes too: it is meant for a proxy that asked for it (RFC 9110 11.7.2), lockgate
/// did not, and a backend is not to learn it. `trusted` is the field that the listener takes the
/// client's address from: like the protected names, `Connection` cannot remove it.
pub fn clean_request(headers: &mut HeaderMap, trusted: Option<&HeaderName>) {
    clean(headers, request_field, trusted);
}

/// Cleans a backend's response: hop-by-hop fields, those that `Connection` names, and `X-Accel-*`, which
/// speaks to a proxy of another make.
///
/// A challenge of proxy authentication goes too: lockgate is no such proxy, so its client cannot answer.
pub fn clean_response(headers: &mut HeaderMap) {
    clean(headers, response_field, None);
}

/// Cleans the trailers of either side: fields that frame, route, authenticate or say how content is to
/// be processed have no meaning after the content (RFC 9110 6.5.1), and nothing that lockgate manages
/// comes in by this door. Their number and size are the caller's to limit.
pub fn clean_trailers(trailers: &mut HeaderMap) {
    clean(trailers, trailer_field, None);
}

/// The same for a client's, with the names that [`remove_names`] removes.
pub fn clean_request_trailers(trailers: &mut HeaderMap, names: &[HeaderName]) {
    clean_trailers(trailers);
    remove_names(trailers, names);
}

/// Removes whatever a backend may take for one of these names, where `_`, `.` and `-` are the same: names
/// that users gave to headers of identity, on whichever listener.
pub fn remove_names(headers: &mut HeaderMap, names: &[HeaderName]) {
    if names.is_empty() {
        return;
    }
    let is_one = |name: &&HeaderName| names.iter().any(|other| read_alike(name, other));
    let found: Vec<HeaderName> = headers.keys().filter(is_one).cloned().collect();
    for name in &found {
        headers.remove(name);
    }
}

/// The protocol that a request asks to switch to: `Upgrade`, announced by `Connection: upgrade`.
pub fn upgrade(headers: &HeaderMap) -> Option<&HeaderValue> {
    let protocol = headers.get(UPGRADE)?;
    connection_has(headers, "upgrade").then_some(protocol)
}

/// Whether `Connection` holds this option, in any case.
pub fn connection_has(headers: &HeaderMap, option: &str) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| members(value.as_bytes()))
        .any(|token| token.eq_ignore_ascii_case(option.as_bytes()))
}

/// What becomes of a field.
#[derive(Clone, Copy)]
enum Verdict {
    Pass,
    Drop,
    /// It is dropped, after the fields that it names.
    Connection,
    /// It is reduced to `trailers`.
    Te,
}

fn clean(headers: &mut HeaderMap, judge: fn(&[u8]) -> Verdict, trusted: Option<&HeaderName>) {
    let mut dropped: Vec<HeaderName> = Vec::new();
    let (mut connection, mut te) = (false, false);
    for name in headers.keys() {
        match judge(name.as_str().as_bytes()) {
            Verdict::Pass => {}
            Verdict::Drop => dropped.push(name.clone()),
            Verdict::Connection => connection = true,
            Verdict::Te => te = true,
        }
    }
    for name in &dropped {
        headers.remove(name);
    }
    if connection {
        remove_connection(headers, trusted);
    }
    if te {
        reduce_te(headers);
    }
}

/// Removes `Connection` and the fields that it names, but never `trusted`.
fn remove_connection(headers: &mut HeaderMap, trusted: Option<&HeaderName>) {
    let names_fields = headers
        .get_all(CONNECTION)
        .iter()
        .any(|value| members(value.as_bytes()).any(may_be_removed));
    if !names_fields {
        headers.remove(CONNECTION);
        return;
    }
    let values: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
    headers.remove(CONNECTION);
    for token in values.iter().flat_map(|value| members(value.as_bytes())) {
        if let Ok(name) = str::from_utf8(token)
            && may_be_removed(token)
            && trusted.is_none_or(|trusted| !name.eq_ignore_ascii_case(trusted.as_str()))
        {
            headers.remove(name);
        }
    }
}

/// Whether a connection option is worth looking up as a field name.
///
/// Not so the plain options, whose fields are judged by name. Nor the protected fields: those that say
/// who asks, for what and with which content are for every recipient (RFC 9110 7.6.1), and a client that
/// names them wants the backend to miss what a proxy before lockgate said (attacks.md row 49).
fn may_be_removed(option: &[u8]) -> bool {
    const OPTIONS: [&str; 4] = ["keep-alive", "close", "upgrade", "te"];
    const PROTECTED: [&str; 18] = [
        "alicloud-alb-trace",
        "ali-cdn-real-ip",
        "authorization",
        "cache-control",
        "cf-connecting-ip",
        "cookie",
        "date",
        "forwarded",
        "host",
        "remoteip",
        "set-cookie",
        "trailer",
        "true-client-ip",
        "via",
        "www-authenticate",
        "x-client-ip",
        "x-real-ip",
        "x-request-id",
    ];
    const PROTECTED_PREFIXES: [&str; 3] = ["x-forwarded-", "slb-", "content-"];

    let is = |name: &&str| option.eq_ignore_ascii_case(name.as_bytes());
    let begins = |prefix: &&str| {
        option
            .get(..prefix.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    !OPTIONS.iter().any(is) && !PROTECTED.iter().any(is) && !PROTECTED_PREFIXES.iter().any(begins)
}

/// Leaves of `TE` what crosses a hop: whether trailers are wanted.
fn reduce_te(headers: &mut HeaderMap) {
    let trailers = headers
        .get_all(TE)
        .iter()
        .flat_map(|value| members(value.as_bytes()))
        .any(|token| token.eq_ignore_ascii_case(b"trailers"));
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    } else {
        headers.remove(TE);
    }
}

fn request_field(name: &[u8]) -> Verdict {
    match name {
        b"connection" => return Verdict::Connection,
        b"te" => return Verdict::Te,
        _ => {}
    }
    if folds_onto_prefix(name, "x-forwarded-clientcert-") {
        return Verdict::Drop;
    }
    match managed(name) {
        Some((_, Client::Never)) => Verdict::Drop,
        Some((own, Client::OwnSpelling)) if own.as_bytes() != name => Verdict::Drop,
        Some((_, Client::OwnSpelling)) | None => Verdict::Pass,
    }
}

fn response_field(name: &[u8]) -> Verdict {
    match name {
        b"connection" => Verdict::Connection,
        b"keep-alive"
        | b"proxy-authenticate"
        | b"proxy-authentication-info"
        | b"proxy-connection"
        | b"te"
        | b"transfer-encoding"
        | b"upgrade" => Verdict::Drop,
        _ if name.starts_with(b"x-accel-") => Verdict::Drop,
        _ => Verdict::Pass,
    }
}

fn trailer_field(name: &[u8]) -> Verdict {
    const PREFIXES: [&str; 8] = [
        "x-forwarded-",
        "x-accel-",
        "slb-",
        "client-cert",
        "proxy",
        "if-",
        "access-control-",
        "content-",
    ];
    const NAMES: [&str; 37] = [
        "accept-ranges",
        "age",
        "ali-cdn-real-ip",
        "alicloud-alb-trace",
        "alt-svc",
        "authorization",
        "cache-control",
        "connection",
        "cookie",
        "date",
        "etag",
        "expect",
        "expires",
        "forwarded",
        "host",
        "http2-settings",
        "keep-alive",
        "last-modified",
        "location",
        "max-forwards",
        "origin",
        "pragma",
        "range",
        "remoteip",
        "retry-after",
        "set-cookie",
        "strict-transport-security",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "vary",
        "via",
        "warning",
        "www-authenticate",
        "x-real-ip",
        "x-request-id",
    ];
    let forbidden = PREFIXES
        .iter()
        .any(|prefix| folds_onto_prefix(name, prefix))
        || NAMES.iter().any(|other| folds_onto(name, other));
    // Integrity fields are what trailers were made for (RFC 9530 section 6.5).
    let integrity = matches!(name, b"content-digest" | b"content-md5");
    if forbidden && !integrity {
        Verdict::Drop
    } else {
        Verdict::Pass
    }
}

/// In which spelling a client may send a managed field.
#[derive(Clone, Copy)]
enum Client {
    /// In none.
    Never,
    /// In its own, not in one that a backend might take for it.
    OwnSpelling,
}

/// The managed name that a name is, or is folded onto by backends that read `_` and `.` as `-`.
///
/// Looked up by first byte, then by length: most names are compared with nothing.
fn managed(name: &[u8]) -> Option<(&'static str, Client)> {
    use Client::{Never, OwnSpelling};
    let candidates: &[(&'static str, Client)] = match name.first()? {
        b'a' => &[
            ("ali-cdn-real-ip", OwnSpelling),
            ("alicloud-alb-trace", OwnSpelling),
        ],
        b'c' => &[
            ("client-cert", Never),
            ("client-cert-chain", Never),
            ("content-length", OwnSpelling),
        ],
        b'h' => &[("http2-settings", Never)],
        b'k' => &[("keep-alive", Never)],
        b'p' => &[
            ("proxy", Never),
            ("proxy-connection", Never),
            ("proxy-authenticate", Never),
            ("proxy-authorization", Never),
        ],
        b's' => &[("slb-id", OwnSpelling), ("slb-ip", OwnSpelling)],
        b't' => &[("transfer-encoding", Never)],
        b'u' => &[("upgrade", Never)],
        b'x' => &[
            ("x-forwarded-for", OwnSpelling),
            ("x-forwarded-proto", OwnSpelling),
            ("x-forwarded-port", OwnSpelling),
            ("x-forwarded-host", OwnSpelling),
            ("x-forwarded-client-srcport", OwnSpelling),
            ("x-forwarded-eip", OwnSpelling),
            ("x-request-id", OwnSpelling),
            ("x-forwarded-tls-protocol", Never),
            ("x-forwarded-tls-cipher", Never),
        ],
        _ => return None,
    };
    candidates
        .iter()
        .find(|(own, _)| folds_onto(name, own))
        .copied()
}

/// Whether two names are one to a backend that reads `_` and `.` as `-`.
fn read_alike(one: &HeaderName, other: &HeaderName) -> bool {
    let folded = |byte: u8| {
        if matches!(byte, b'_' | b'.') {
            b'-'
        } else {
            byte
        }
    };
    let (one, other) = (one.as_str().as_bytes(), other.as_str().as_bytes());
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|(one, other)| folded(*one) == folded(*other))
}

/// Whether a lower-case name is the other, when `_` and `.` are read as `-`.
fn folds_onto(name: &[u8], other: &str) -> bool {
    name.len() == other.len() && folds_onto_prefix(name, other)
}

/// Whether a lower-case name begins with the other, when `_` and `.` are read as `-`.
fn folds_onto_prefix(name: &[u8], prefix: &str) -> bool {
    let same =
        |(byte, own): (&u8, u8)| *byte == own || (own == b'-' && matches!(byte, b'_' | b'.'));
    name.len() >= prefix.len() && name.iter().zip(prefix.bytes()).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Fields<'a> = &'a [(&'a str, &'a str)];

    fn map(fields: Fields<'_>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        headers
    }

    fn clean_request(headers: &mut HeaderMap) {
        super::clean_request(headers, None);
    }

    fn check(clean: fn(&mut HeaderMap), incoming: Fields<'_>, left: Fields<'_>) {
        let mut headers = map(incoming);
        clean(&mut headers);
        assert_eq!(headers, map(left), "{incoming:?}");
    }

    #[test]
    fn a_usual_request_is_left_as_it_is() {
        let fields: Fields<'_> = &[
            ("host", "example.com"),
            ("user-agent", "x"),
            ("accept", "*/*"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-proto", "http"),
            ("slb-id", "alb-1"),
            ("content-length", "3"),
            ("trailer", "x-sum"),
            ("x_custom", "1"),
            ("x.custom.name", "2"),
            ("remote.user", "passes: it folds onto nothing of ours"),
        ];
        check(clean_request, fields, fields);
    }

    #[test]
    fn hop_by_hop_fields_of_requests_are_dropped() {
        for name in [
            "Keep-Alive",
            "Proxy-Connection",
            "Transfer-Encoding",
            "Upgrade",
            "HTTP2-Settings",
            "Proxy",
            "Proxy-Authorization",
            "Proxy-Authenticate",
            "Connection",
        ] {
            check(
                clean_request,
                &[("accept", "*/*"), (name, "x"), (name, "y")],
                &[("accept", "*/*")],
            );
        }
    }

    #[test]
    fn connection_takes_the_fields_it_names_with_it() {
        check(
            clean_request,
            &[
                ("connection", "close, X-Hop ,,x-absent"),
                ("connection", "x-OTHER"),
                ("x-hop", "1"),
                ("x-hop", "2"),
                ("x-other", "3"),
                ("x-end", "4"),
            ],
            &[("x-end", "4")],
        );
        check(
            clean_response,
            &[("connection", "x-hop"), ("x-hop", "1"), ("server", "s")],
            &[("server", "s")],
        );
    }

    #[test]
    fn connection_cannot_name_protected_fields() {
        for name in [
            "X-Forwarded-For",
            "x-forwarded-prefix",
            "X-Real-IP",
            "Authorization",
            "COOKIE",
            "Host",
            "Content-Length",
            "Content-Type",
            "SLB-ID",
            "Forwarded",
        ] {
            check(
                clean_request,
                &[("connection", name), (name, "v")],
                &[(name, "v")],
            );
        }
    }

    #[test]
    fn connection_cannot_name_the_field_that_is_trusted() {
        let trusted = HeaderName::from_static("x-edge-client");
        for option in ["x-edge-client", "X-EDGE-CLIENT", "close, X-Edge-Client"] {
            let fields = [("connection", option), ("x-edge-client", "192.0.2.1")];
            let mut headers = map(&fields);
            super::clean_request(&mut headers, Some(&trusted));
            assert_eq!(headers, map(&fields[1..]), "{option}");
            check(clean_request, &fields, &[]);
        }
    }

    #[test]
    fn te_says_trailers_or_nothing() {
        for (incoming, left) in [
            ("trailers", Some("trailers")),
            ("gzip, Trailers", Some("trailers")),
            ("deflate;q=0.5", None),
            ("", None),
        ] {
            let mut headers = map(&[("te", incoming), ("connection", "te")]);
            clean_request(&mut headers);
            assert_eq!(
                headers.get(TE).map(|value| value.to_str().unwrap()),
                left,
                "{incoming}"
            );
        }
        check(
            clean_request,
            &[("te", "gzip"), ("te", "trailers")],
            &[("te", "trailers")],
        );
    }

    #[test]
    fn no_client_can_send_an_identity() {
        for name in [
            "X-Forwarded-Clientcert-subjectdn",
            "X-Forwarded-Clientcert-anything",
            "X_Forwarded_Clientcert_subjectdn",
            "X.Forwarded-Clientcert_issuerdn",
            "Client-Cert",
            "Client_Cert",
            "Client-Cert-Chain",
            "client.cert.chain",
            "X-Forwarded-TLS-Protocol",
            "X-Forwarded_TLS.Cipher",
        ] {
            check(
                clean_request,
                &[(name, "forged"), ("accept", "*/*")],
                &[("accept", "*/*")],
            );
        }
    }

    #[test]
    fn names_of_a_user_s_own_are_removed_in_every_spelling() {
        let names = ["x-client_dn", "verify"].map(HeaderName::from_static);
        let mut headers = map(&[
            ("X-Client_DN", "forged"),
            ("x-client_dn", "twice"),
            ("x-client-dn", "forged"),
            ("x.client.dn", "forged"),
            ("verify", "SUCCESS"),
            ("verify-not", "passes"),
            ("x-client-d", "passes"),
            ("x-client~dn", "passes"),
        ]);
        remove_names(&mut headers, &names);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["verify-not", "x-client-d", "x-client~dn"]);
    }

    #[test]
    fn other_spellings_of_managed_names_are_dropped() {
        for name in [
            "X_Forwarded_For",
            "X-Forwarded_For",
            "X.Forwarded.For",
            "x_forwarded_host",
            "SLB_ID",
            "slb.ip",
            "Content_Length",
            "Transfer_Encoding",
            "Alicloud_ALB_Trace",
            "X_Forwarded_Client-srcport",
        ] {
            check(
                clean_request,
                &[(name, "forged"), ("accept", "*/*")],
                &[("accept", "*/*")],
            );
        }
    }

    #[test]
    fn hop_by_hop_fields_of_responses_are_dropped() {
        check(
            clean_response,
            &[
                ("server", "backend"),
                ("date", "today"),
                ("connection", "keep-alive, upgrade"),
                ("keep-alive", "timeout=5"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "h2c"),
                ("x-accel-redirect", "/secret"),
                ("x-accel-buffering", "no"),
                ("proxy-authenticate", "Basic"),
                ("trailer", "x-sum"),
            ],
            &[
                ("server", "backend"),
                ("date", "today"),
                ("trailer", "x-sum"),
            ],
        );
    }

    #[test]
    fn forbidden_trailers_are_dropped() {
        for name in [
            "Content-Length",
            "Transfer-Encoding",
            "Host",
            "Authorization",
            "Cookie",
            "Set-Cookie",
            "X-Forwarded-For",
            "X_Forwarded_For",
            "Trailer",
            "Connection",
            "Content-Encoding",
            "If-Match",
            "Client-Cert",
            "Proxy-Authorization",
            "SLB_ID",
        ] {
            check(
                clean_trailers,
                &[("grpc-status", "0"), (name, "v")],
                &[("grpc-status", "0")],
            );
        }
        let fields: Fields<'_> = &[
            ("grpc-message", "ok"),
            ("content-digest", "x"),
            ("server-timing", "y"),
        ];
        check(clean_trailers, fields, fields);
    }

    #[test]
    fn an_upgrade_needs_both_fields() {
        for (fields, wanted) in [
            (
                &[
                    ("connection", "keep-alive, Upgrade"),
                    ("upgrade", "websocket"),
                ][..],
                Some("websocket"),
            ),
            (
                &[("connection", "keep-alive"), ("upgrade", "websocket")],
                None,
            ),
            (&[("connection", "upgrade")], None),
            (&[("upgrade", "websocket")], None),
            (
                &[
                    ("connection", "close"),
                    ("connection", "UPGRADE"),
                    ("upgrade", "h2c"),
                ],
                Some("h2c"),
            ),
            (&[("connection", "upgraded"), ("upgrade", "h2c")], None),
        ] {
            assert_eq!(
                upgrade(&map(fields)).map(|value| value.to_str().unwrap()),
                wanted,
                "{fields:?}"
            );
        }
    }
}
