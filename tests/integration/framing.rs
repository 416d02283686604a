//! Messages whose framing lies, from either side, as raw bytes (attacks.md C1 and rows 23 to 27).
//!
//! What is refused leaves no trace at a backend, and nothing of it is taken for the next message.

use crate::support::backend::{Backend, ok};
use crate::support::client::{empty, request, streamed};
use crate::support::h2::{H2, Outcome};
use crate::support::proxy::{Proxy, Running};
use crate::support::raw::{Ended, Raw};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use hyper::body::Frame;

/// Sends each request on a connection of its own: it gets the status and nothing more, and the backend
/// sees no request.
async fn refused(rows: &[(&str, Vec<u8>, &[u16])]) {
    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).http().run().await;
    for (name, bytes, statuses) in rows {
        let mut raw = running.raw().await;
        // A large one may be refused before it has been sent.
        let _ = raw.try_write(bytes).await;
        let answer = raw.read_response().await;
        assert!(
            statuses.contains(&answer.status()),
            "{name}: {}",
            answer.head
        );
        let rest = raw.read_until_close().await;
        assert!(
            rest.is_empty(),
            "{name}: {:?}",
            String::from_utf8_lossy(&rest)
        );
    }
    let seen = backend.requests();
    assert!(seen.is_empty(), "{seen:?}");
    // Every one of them is in the log, whoever has answered.
    running
        .wait_for_access(|_| running.access_log().len() == rows.len())
        .await;
    for line in running.access_log() {
        assert!(line["status"].as_u64().unwrap() >= 400, "{line}");
        assert_ne!(line["cause"], "-", "{line}");
    }
}

/// A request with these fields, then one that must not be served.
fn get(fields: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n{SMUGGLED}").into_bytes()
}

fn post(fields: &str, body: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}{SMUGGLED}").into_bytes()
}

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

#[tokio::test]
async fn a_request_with_two_framings_is_not_passed_on_with_both() {
    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).http().run().await;
    for fields in [
        "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n",
        "content-length: 6\r\nTRANSFER-ENCODING: Chunked\r\n",
        "Content-Length: 6\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n",
    ] {
        let mut raw = running.raw().await;
        raw.write(post(fields, "0\r\n\r\n")).await;
        let answer = raw.read_response().await;
        let echo = answer.text();
        assert!(
            matches!(answer.status(), 200 | 400),
            "{fields:?}: {}",
            answer.head
        );
        assert!(!echo.contains("Content-Length"), "{fields:?}: {echo}");
        assert!(raw.read_until_close().await.is_empty(), "{fields:?}");
    }
    let seen = backend.requests();
    assert!(
        seen.iter()
            .all(|request| request.start() == "POST / HTTP/1.1"),
        "{seen:?}"
    );
}

#[tokio::test]
async fn only_chunked_alone_is_a_transfer_coding() {
    let mut rows = Vec::new();
    for value in [
        "gzip, chunked",
        "chunked, gzip",
        "identity",
        "xchunked",
        "chunkedx",
        ",chunked",
        "chunked,",
        "chunked, chunked",
        "chunked, identity",
        "\x0bchunked",
        "chunked\x0b",
        "\u{a0}chunked",
        "\u{85}chunked",
        "\"chunked\"",
        "chunked;q=1",
        "",
    ] {
        let bytes = post(&format!("Transfer-Encoding: {value}\r\n"), "0\r\n\r\n");
        rows.push((value, bytes, &[400, 501][..]));
    }
    let two = format!("{CHUNKED}{CHUNKED}");
    rows.push(("two lines", post(&two, "0\r\n\r\n"), &[400, 501]));
    let two = format!("{CHUNKED}Transfer-Encoding: identity\r\n");
    rows.push(("two codings", post(&two, "0\r\n\r\n"), &[400, 501]));
    let spaced = post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n");
    rows.push(("a space before the colon", spaced, &[400]));
    let folded = post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n");
    rows.push(("on a folded line", folded, &[400]));
    let old = format!("POST / HTTP/1.0\r\nHost: a\r\n{CHUNKED}\r\n0\r\n\r\n{SMUGGLED}");
    rows.push(("in HTTP/1.0", old.into_bytes(), &[400]));
    refused(&rows).await;
}

#[tokio::test]
async fn the_coding_is_known_in_any_case() {
    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).http().run().await;
    let mut raw = running.raw().await;
    raw.write("POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding:CHUNKED\r\n\r\n1\r\nx\r\n0\r\n\r\n")
        .await;
    assert_eq!(raw.read_response().await.status(), 200);
    let request = backend.request();
    assert!(
        request.has_line("Transfer-Encoding: chunked"),
        "{}",
        request.head
    );
    assert_eq!(request.text(), "x");
}

#[tokio::test]
async fn an_http10_request_without_a_length_has_no_body() {
    let backend = Backend::named("a").run().await;
    let running = Proxy::to(&backend).http().run().await;
    let mut raw = running.raw().await;
    raw.write(format!("POST / HTTP/1.0\r\nHost: a\r\n\r\n{SMUGGLED}"))
        .await;
    assert_eq!(raw.read_response().await.text(), "a");
    assert!(raw.read_until_close().await.is_empty());
    let request = backend.request();
    assert_eq!(
        (request.start(), request.body.len()),
        ("POST / HTTP/1.0", 0)
    );
}

#[tokio::test]
async fn a_length_is_one_plain_number() {
    let mut rows = Vec::new();
    for value in [
        "5, 5",
        "5,6",
        "+5",
        "-1",
        "0x5",
        "1_0",
        "5.0",
        "5 5",
        "",
        "five",
        "9223372036854775808",
        "18446744073709551616",
        "99999999999999999999999999",
        "\u{665}",
    ] {
        let bytes = post(&format!("Content-Length: {value}\r\n"), "hello");
        rows.push((value, bytes, &[400, 413][..]));
    }
    for (first, second) in [("5", "6"), ("5", ""), ("0", "5")] {
        let fields = format!("Content-Length: {first}\r\nContent-Length: {second}\r\n");
        rows.push((second, post(&fields, "hello"), &[400]));
    }
    refused(&rows).await;
}

#[tokio::test]
async fn a_length_said_twice_is_passed_on_once() {
    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).http().run().await;
    let mut raw = running.raw().await;
    // hyper lets equal lengths pass as one, as RFC 9112 section 6.3 allows, and shows only one.
    raw.write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello")
        .await;
    assert!(matches!(raw.read_response().await.status(), 200 | 400));
    for request in backend.requests() {
        assert_eq!(
            request.field("content-length"),
            Some("5"),
            "{}",
            request.head
        );
    }
}

#[tokio::test]
async fn chunks_that_are_none_break_the_request() {
    let mut rows = Vec::new();
    for body in [
        "0x1\r\nx\r\n0\r\n\r\n",
        "+1\r\nx\r\n0\r\n\r\n",
        "-1\r\nx\r\n0\r\n\r\n",
        "1_0\r\nx\r\n0\r\n\r\n",
        " 1\r\nx\r\n0\r\n\r\n",
        "\r\nx\r\n0\r\n\r\n",
        ";x\r\nx\r\n0\r\n\r\n",
        "1these-bytes\r\nx\r\n0\r\n\r\n",
        "g\r\nx\r\n0\r\n\r\n",
        "10000000000000001\r\nx\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nx\r\n0\r\n\r\n",
        "1\nx\n0\n\n",
        "1\r\nxy\r\n0\r\n\r\n",
        "1\r\nx\n0\r\n\r\n",
        "1\r\nx0\r\n\r\n",
        "1;a\nb\r\nx\r\n0\r\n\r\n",
        "1;a\rb\r\nx\r\n0\r\n\r\n",
        "1\r;a\r\nx\r\n0\r\n\r\n",
        "1\r\nx\r\n0\r\nA\r\n\r\n",
        "1\r\nx\r\n0\r\nA : b\r\n\r\n",
    ] {
        rows.push((body, post(CHUNKED, body), &[400][..]));
    }
    let long = format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(1 << 20));
    rows.push(("a megabyte of extension", post(CHUNKED, &long), &[400]));
    let many = "1;eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee\r\nx\r\n".repeat(20_000);
    rows.push(("a megabyte of extensions", post(CHUNKED, &many), &[400]));
    refused(&rows).await;
}

#[tokio::test]
async fn lines_that_are_none_are_refused() {
    let rows: Vec<(&str, Vec<u8>, &[u16])> = [
        ("bare CR in a value", get("A: b\rc\r\n")),
        ("bare CR before a line", get("\rA: b\r\n")),
        ("a folded line", get("A: b\r\n c\r\n")),
        ("a line folded by a tab", get("A: b\r\n\tc\r\n")),
        ("a space before the colon", get("A : b\r\n")),
        ("a tab before the colon", get("A\t: b\r\n")),
        ("no colon", get("A\r\n")),
        ("no name", get(": b\r\n")),
        ("NUL in a name", get("A\0: b\r\n")),
        ("NUL in a value", get("A: b\0\r\n")),
        ("a control in a value", get("A: b\x01\r\n")),
        ("DEL in a value", get("A: b\x7f\r\n")),
        ("a space in a name", get("A B: c\r\n")),
        ("a name beyond ASCII", get("\u{e4}: b\r\n")),
    ]
    .into_iter()
    .map(|(name, bytes)| (name, bytes, &[400][..]))
    .collect();
    refused(&rows).await;
}

#[tokio::test]
async fn request_lines_that_are_none_are_refused() {
    let rows: Vec<(&str, Vec<u8>, &[u16])> = [
        (
            "space before the first field",
            b"GET / HTTP/1.1\r\n Host: a\r\n\r\n".to_vec(),
        ),
        (
            "two spaces in the request line",
            b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        ),
        (
            "a space in the target",
            b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        ),
        (
            "NUL in the target",
            b"GET /a\0b HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        ),
        ("no method", b" / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        (
            "a method that is no token",
            b"GE(T / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        ),
        ("HTTP/0.9", b"GET /\r\n\r\n".to_vec()),
    ]
    .into_iter()
    .map(|(name, bytes)| (name, bytes, &[400][..]))
    .chain([
        (
            "HTTP/1.32",
            b"GET / HTTP/1.32\r\nHost: a\r\n\r\n".to_vec(),
            &[400, 505][..],
        ),
        (
            "HTTP/1.2",
            b"GET / HTTP/1.2\r\nHost: a\r\n\r\n".to_vec(),
            &[400, 505],
        ),
        (
            "HTTP/2.1",
            b"GET / HTTP/2.1\r\nHost: a\r\n\r\n".to_vec(),
            &[400, 505],
        ),
        (
            "HTTP/3.0",
            b"GET / HTTP/3.0\r\nHost: a\r\n\r\n".to_vec(),
            &[400, 505],
        ),
    ])
    .collect();
    refused(&rows).await;
}

#[tokio::test]
async fn bare_line_feeds_reach_no_backend() {
    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).http().run().await;
    for bytes in [
        "GET / HTTP/1.1\nHost: a\nX: y\n\n",
        "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\n",
    ] {
        let mut raw = running.raw().await;
        raw.write(bytes).await;
        let answer = raw.read_response().await;
        assert!(matches!(answer.status(), 200 | 400), "{bytes:?}");
        assert!(
            !answer.text().replace("\r\n", "").contains('\n'),
            "{bytes:?}"
        );
    }
}

#[tokio::test]
async fn a_preface_of_http2_where_http1_is_spoken_gets_nothing_through() {
    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).http().run().await;
    let mut raw = running.raw().await;
    raw.write(format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{SMUGGLED}"))
        .await;
    let all = raw.read_until_close().await;
    let text = String::from_utf8_lossy(&all);
    assert!(
        text.is_empty() || text.starts_with("HTTP/1.1 400"),
        "{text}"
    );
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn the_body_of_a_get_is_its_own() {
    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).http().run().await;
    let mut raw = running.raw().await;
    let length = SMUGGLED.len();
    raw.write(format!(
        "GET /outer HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{SMUGGLED}\
         GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
    ))
    .await;
    for _ in 0..2 {
        assert_eq!(raw.read_response().await.status(), 200);
    }
    let seen = backend.requests();
    assert_eq!(seen[0].start(), "GET /outer HTTP/1.1");
    assert_eq!(seen[0].text(), SMUGGLED);
    assert_eq!(seen[1].start(), "GET /next HTTP/1.1");
    assert_eq!(seen.len(), 2);
}

#[tokio::test]
async fn methods_that_are_not_for_a_reverse_proxy_are_refused() {
    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).http().run().await;
    for head in [
        "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
        "TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n",
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
    ] {
        let mut raw = running.raw().await;
        raw.write(head).await;
        let answer = raw.read_response().await;
        assert_eq!(answer.status(), 405, "{head}");
        assert!(answer.field("allow").is_some(), "{}", answer.head);
    }
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn a_tunnel_that_was_refused_is_no_request() {
    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).http().run().await;
    let mut raw = running.raw().await;
    raw.write(format!(
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n{SMUGGLED}"
    ))
    .await;
    assert_eq!(raw.read_response().await.status(), 405);
    assert!(raw.read_until_close().await.is_empty());
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn a_request_has_one_host_that_is_one() {
    let mut rows: Vec<(&str, Vec<u8>, &[u16])> = vec![
        ("none", b"GET / HTTP/1.1\r\n\r\n".to_vec(), &[400]),
        (
            "two",
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".to_vec(),
            &[400],
        ),
        (
            "none, with an absolute target",
            b"GET http://a/ HTTP/1.1\r\n\r\n".to_vec(),
            &[400],
        ),
        (
            "a scheme that is not HTTP's",
            b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            &[400],
        ),
    ];
    for host in [
        "", "a, b", "a,b", "u@a", "u:p@a", "a:0", "a:99999", "a:_", "a:80:80", "a/b", "a b",
        "a..b", ".a", "[::1", "::1", "[g::]", "a\u{e4}", "http://a",
    ] {
        let bytes = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        rows.push((host, bytes.into_bytes(), &[400]));
    }
    refused(&rows).await;
}

#[tokio::test]
async fn an_absolute_target_names_the_host() {
    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).http().run().await;
    for (target, expected, host) in [
        (
            "http://real.example/x?y",
            "GET /x?y HTTP/1.1",
            "Host: real.example",
        ),
        (
            "http://real.example:81",
            "GET / HTTP/1.1",
            "Host: real.example:81",
        ),
        (
            "http://REAL.example./x",
            "GET /x HTTP/1.1",
            "Host: real.example",
        ),
    ] {
        let mut raw = running.raw().await;
        raw.write(format!(
            "GET {target} HTTP/1.1\r\nHost: other.example\r\n\r\n"
        ))
        .await;
        assert_eq!(raw.read_response().await.status(), 200, "{target}");
        let request = backend.requests().pop().unwrap();
        assert_eq!(request.start(), expected, "{target}");
        assert!(request.has_line(host), "{target}: {}", request.head);
    }
}

#[tokio::test]
async fn paths_that_lead_elsewhere_are_refused_and_others_pass_to_the_byte() {
    let mut rows: Vec<(&str, Vec<u8>, &[u16])> = Vec::new();
    for path in [
        "/a/../b",
        "/..",
        "/./a",
        "/a/.",
        "/%2e%2e/a",
        "/a/.%2E/b",
        "/a%00b",
        "/a\\b",
        "/a%5cb",
        "/a%2f..%2fb",
    ] {
        let bytes = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        rows.push((path, bytes.into_bytes(), &[400]));
    }
    refused(&rows).await;

    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).http().run().await;
    let mut client = running.client().await;
    for path in [
        "/a%2Fb//c;d?..",
        "/%41?q=/../x",
        "/..a/b..",
        "/%e4%b8%ad?%00",
    ] {
        let text = client.get(path).await.text();
        assert!(
            text.starts_with(&format!("GET {path} HTTP/1.1\r\n")),
            "{path}: {text}"
        );
    }
}

#[tokio::test]
async fn only_the_exact_expectation_is_met() {
    let mut rows: Vec<(&str, Vec<u8>, &[u16])> = Vec::new();
    for fields in [
        "Expect: y 100-continue\r\n",
        "Expect: 100-continue, y\r\n",
        "Expect: 100-continue\r\nExpect: 100-continue\r\n",
        "Expect: 200-ok\r\n",
        "Expect: \r\n",
    ] {
        let fields = format!("{fields}Content-Length: 0\r\nConnection: close\r\n");
        let bytes = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        rows.push(("expectation", bytes.into_bytes(), &[417]));
    }
    refused(&rows).await;
}

#[tokio::test]
async fn what_is_too_large_is_told_which_part_was() {
    let fill = |length: usize| "x".repeat(length);
    let head = |start: &str, fields: &str| {
        format!("{start} HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes()
    };
    let target = |length: usize| format!("GET /{}", fill(length - 1));
    let field = |length: usize| format!("X-Long: {}\r\n", fill(length - "X-Long: ".len()));
    let rows: Vec<(&str, Vec<u8>, &[u16])> = vec![
        ("target", head(&target(32 * 1024 + 1), ""), &[414]),
        ("field", head("GET /", &field(32 * 1024 + 1)), &[400]),
        ("fields", head("GET /", &"A: b\r\n".repeat(100)), &[431]),
        ("head", head("GET /", &field(22 * 1024).repeat(3)), &[431]),
        (
            "head without end",
            head("GET /", &field(30 * 1024).repeat(40)),
            &[431],
        ),
        (
            "body",
            head("PUT /", "Content-Length: 53687091201\r\n"),
            &[413],
        ),
    ];
    refused(&rows).await;

    let backend = Backend::named("fits").run().await;
    let running = Proxy::to(&backend).http().run().await;
    for bytes in [
        head(&target(32 * 1024), ""),
        head("GET /", &field(32 * 1024)),
        head("GET /", &"A: b\r\n".repeat(99)),
    ] {
        let mut raw = running.raw().await;
        raw.write(bytes).await;
        assert_eq!(raw.read_response().await.text(), "fits");
    }
}

#[tokio::test]
async fn plain_http_on_the_tls_port_is_told_so_in_plain_text() {
    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).run().await;
    for method in ["GET", "OPTIONS", "PRI"] {
        let mut raw = Raw::over(running.plain().await);
        raw.write(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        let answer = raw.read_response().await;
        assert_eq!(answer.status(), 400, "{method}");
        assert!(answer.text().contains("plain HTTP"), "{}", answer.text());
        assert_eq!(raw.read_to_end().await, (Vec::new(), Ended::Cleanly));
    }
    running
        .wait_for_access(|line| line["status"] == 400 && line["cause"] == "plain_http")
        .await;
    assert_eq!(backend.connections(), 0);
}

/// A backend that answers `/good` well and everything else with these bytes, and goes on listening.
fn lying(bytes: Vec<u8>) -> crate::support::backend::Behaviour {
    Backend::answering(move |request| match request.start().contains("/good") {
        true => ok(b"good"),
        false => bytes.clone(),
    })
}

/// Each answer comes to the client as 502, or breaks off where its head was already on its way; its
/// connection is never used again.
async fn disbelieved(rows: Vec<Vec<u8>>) {
    for bytes in rows {
        let shown = bytes.escape_ascii().to_string();
        let shown = &shown[..shown.len().min(200)];
        let backend = lying(bytes.clone()).run().await;
        let running = Proxy::to(&backend).http().server("workers = 1").run().await;
        let mut good = running.client().await;
        assert_eq!(good.get("/good").await.text(), "good");
        let mut client = running.client().await;
        let got = client.try_send(request(Method::GET, "/bad", empty())).await;
        let whole = got.ok().filter(|got| got.status != StatusCode::BAD_GATEWAY);
        assert!(whole.is_none(), "{shown}: {whole:?}");
        assert_eq!(good.get("/good").await.text(), "good", "{shown}");
        assert_eq!(backend.connections(), 2, "{shown}");
        let line = running
            .wait_for_access(|line| line["request_uri"] == "/bad")
            .await;
        assert!(
            line["cause"].as_str().unwrap().starts_with("backend_"),
            "{shown}: {line}"
        );
    }
}

fn answer(fields: &str, rest: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\n{rest}").into_bytes()
}

#[tokio::test]
async fn answers_with_contradictory_framing_are_not_believed() {
    disbelieved(vec![
        answer(
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "0\r\n\r\n",
        ),
        answer(
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "0\r\n\r\n",
        ),
        answer("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        answer("Transfer-Encoding: identity\r\nConnection: close\r\n", "x"),
        answer("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        answer(&CHUNKED.repeat(2), "0\r\n\r\n"),
        answer("Content-Length: 2\r\nContent-Length: 3\r\n", "abc"),
        answer("Content-Length: 2, 3\r\n", "abc"),
        answer("Content-Length: +2\r\n", "ab"),
        answer("Content-Length: \r\n", "ab"),
        answer("Content-Length: 99999999999999999999\r\n", "ab"),
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
    ])
    .await;
}

#[tokio::test]
async fn answers_that_are_malformed_are_not_believed() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(100).into_bytes();
    disbelieved(vec![
        b"SSH-2.0-OpenSSH_9\r\n\r\n".to_vec(),
        b"HTTP/2.0 200 OK\r\n\r\n".to_vec(),
        b"HTTP/1.1 99 Low\r\n\r\n".to_vec(),
        b"HTTP/1.1 1000 High\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n".to_vec(),
        answer("A: b\rX-Injected: c\r\nContent-Length: 0\r\n", ""),
        answer("A: b\r\n folded\r\nContent-Length: 0\r\n", ""),
        answer("A : b\r\nContent-Length: 0\r\n", ""),
        answer("A: b\0\r\nContent-Length: 0\r\n", ""),
        answer(": b\r\nContent-Length: 0\r\n", ""),
        answer("no colon\r\nContent-Length: 0\r\n", ""),
        answer(&format!("A: {}\r\n", "x".repeat(100 * 1024)), ""),
        [interim, ok(b"x")].concat(),
    ])
    .await;
}

#[tokio::test]
async fn answers_with_bytes_too_many_are_not_believed() {
    let injected = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    disbelieved(vec![
        answer("Content-Length: 2\r\n", &format!("ab{injected}")),
        answer("Content-Length: 0\r\n", injected),
        format!("HTTP/1.1 204 No Content\r\n\r\n{injected}").into_bytes(),
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\nabc".to_vec(),
    ])
    .await;
}

#[tokio::test]
async fn answers_whose_chunks_are_none_do_not_look_whole() {
    disbelieved(
        [
            "0x1\r\nx\r\n0\r\n\r\n",
            "+1\r\nx\r\n0\r\n\r\n",
            "1 \r\nxy\r\n0\r\n\r\n",
            "\r\nx\r\n0\r\n\r\n",
            "1these\r\nx\r\n0\r\n\r\n",
            "10000000000000001\r\nx\r\n0\r\n\r\n",
            "1\nx\n0\n\n",
            "1\r\nxy\r\n0\r\n\r\n",
            "1;a\nb\r\nx\r\n0\r\n\r\n",
            "1;a\rb\r\nx\r\n0\r\n\r\n",
        ]
        .map(|body| answer(CHUNKED, body))
        .into(),
    )
    .await;
}

#[tokio::test]
async fn an_answer_with_excess_after_its_chunks_spoils_its_connection() {
    let backend = lying(answer(
        CHUNKED,
        "1\r\nx\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ))
    .run()
    .await;
    let running = Proxy::to(&backend).http().server("workers = 1").run().await;
    let mut client = running.client().await;
    let _ = client.try_send(request(Method::GET, "/bad", empty())).await;
    assert_eq!(running.client().await.get("/good").await.text(), "good");
    assert_eq!(backend.connections(), 2);
}

#[tokio::test]
async fn a_cancelled_exchange_poisons_nobody_elses() {
    let backend = Backend::raw(|stream, number| async move {
        let mut raw = Raw::over(stream);
        while raw.read_request_unhurried().await.is_some() {
            if number == 0 {
                raw.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
                    .await;
            } else {
                raw.write(ok(b"mine")).await;
            }
        }
    })
    .run()
    .await;
    let running = Proxy::to(&backend).http().server("workers = 1").run().await;
    let mut leaving = running.raw().await;
    leaving.write("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    leaving.read_to("half").await.unwrap();
    drop(leaving);
    running.wait_for_access(|line| line["status"] == 200).await;
    assert_eq!(running.client().await.get("/b").await.text(), "mine");
    assert_eq!(backend.connections(), 2);
}

#[tokio::test]
async fn trailers_that_mean_something_elsewhere_are_dropped() {
    const FORBIDDEN: [&str; 8] = [
        "content-length",
        "host",
        "authorization",
        "cookie",
        "x-forwarded-for",
        "slb-id",
        "x-forwarded-clientcert-subjectdn",
        "client-cert",
    ];
    let trailers = FORBIDDEN.map(|name| format!("{name}: 1\r\n")).concat();
    let backend = Backend::answering(move |_| {
        let all = format!("1\r\nx\r\n0\r\n{trailers}X-Ok: 1\r\n\r\n");
        answer(CHUNKED, &all)
    })
    .run()
    .await;
    let running = Proxy::to(&backend).run().await;
    let mut client = running.client_h2().await;
    let (sender, body) = streamed();
    tokio::spawn(async move {
        sender.send(Frame::data(Bytes::from("x"))).await.unwrap();
        let names = FORBIDDEN.iter().chain(&["x-ok"]);
        let trailers: HeaderMap = names
            .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1")))
            .collect();
        sender.send(Frame::trailers(trailers)).await.unwrap();
    });
    let got = client.send(request(Method::POST, "/", body)).await;
    let names: Vec<_> = got.trailers.iter().flat_map(HeaderMap::keys).collect();
    assert_eq!(names, ["x-ok"]);
    let lines = backend.request().trailers.to_lowercase();
    assert_eq!(lines, "x-ok: 1\r\n\r\n");
}

const GOOD: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/"),
    (":authority", "localhost"),
];

/// The good request with one pseudo-header otherwise, and further fields.
fn with<'a>(name: &str, value: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    GOOD.iter()
        .map(|field| {
            if field.0 == name {
                (field.0, value)
            } else {
                *field
            }
        })
        .chain(more.iter().copied())
        .collect()
}

/// A name, the fields of a request, and its body.
type Http2Row<'a> = (&'a str, Vec<(&'a str, &'a str)>, &'a str);

/// Sends each request on an HTTP/2 connection of its own: none reaches the backend.
async fn refused_on_http2(rows: &[Http2Row<'_>]) {
    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).run().await;
    assert_eq!(outcome(&running, &GOOD, b"").await, Outcome::Answered(200));
    for (name, fields, body) in rows {
        let outcome = outcome(&running, fields, body.as_bytes()).await;
        let refused = matches!(
            outcome,
            Outcome::Answered(400) | Outcome::Reset(_) | Outcome::GoneAway(_)
        );
        assert!(refused, "{name}: {outcome:?}");
    }
    let seen = backend.requests();
    assert_eq!(seen.len(), 1, "{seen:?}");
}

fn plus<'a>(name: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    with("", "", &[(name, value)])
}

#[tokio::test]
async fn http2_fields_that_would_frame_in_http1_are_refused() {
    let two = [("content-length", "3"), ("content-length", "4")];
    refused_on_http2(&[
        ("coding", plus("transfer-encoding", "chunked"), "0\r\n\r\n"),
        ("connection", plus("connection", "keep-alive"), ""),
        ("upgrade", plus("upgrade", "websocket"), ""),
        ("keep-alive", plus("keep-alive", "1"), ""),
        ("proxy-connection", plus("proxy-connection", "close"), ""),
        ("te", plus("te", "gzip"), ""),
        ("length too small", plus("content-length", "1"), "abc"),
        ("length too large", plus("content-length", "9"), "abc"),
        ("two lengths", with("", "", &two), "abc"),
    ])
    .await;
}

#[tokio::test]
async fn http2_fields_that_would_be_lines_in_http1_are_refused() {
    refused_on_http2(&[
        ("line end in a value", plus("a", "b\r\nx: y"), ""),
        ("line feed in a value", plus("a", "b\nx: y"), ""),
        ("NUL in a value", plus("a", "b\0"), ""),
        ("space in a name", plus("a b", "c"), ""),
        ("line end in a name", plus("a: b\r\nx", "y"), ""),
        ("colon in a name", plus("a:b", "c"), ""),
        ("upper case in a name", plus("Abc", "c"), ""),
    ])
    .await;
}

#[tokio::test]
async fn http2_targets_that_would_lie_in_http1_are_refused() {
    refused_on_http2(&[
        (
            "a path that ends its line",
            with(":path", "/ HTTP/1.1\r\nx: y", &[]),
            "",
        ),
        ("a path with a space", with(":path", "/a b", &[]), ""),
        ("a path without slash", with(":path", "admin", &[]), ""),
        (
            "a path that is a URL",
            with(":path", "https://localhost/", &[]),
            "",
        ),
        ("an empty path", with(":path", "", &[]), ""),
        ("dots in the path", with(":path", "/a/../b", &[]), ""),
        (
            "a space in the method",
            with(":method", "GET / HTTP/1.1", &[]),
            "",
        ),
        (
            "a line end in the method",
            with(":method", "GET\r\n", &[]),
            "",
        ),
        ("another host", plus("host", "other"), ""),
        (
            "a user in the authority",
            with(":authority", "u@localhost", &[]),
            "",
        ),
        ("port 0", with(":authority", "localhost:0", &[]), ""),
        (
            "a line end in the authority",
            with(":authority", "a\r\nx: y", &[]),
            "",
        ),
    ])
    .await;
}

/// A request for a WebSocket without one of its pseudo-headers.
fn connect(missing: &str) -> Vec<(&'static str, &'static str)> {
    [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":path", "/"),
        (":authority", "localhost"),
    ]
    .into_iter()
    .filter(|field| field.0 != missing)
    .collect()
}

#[tokio::test]
async fn http2_pseudo_headers_are_there_once_and_first() {
    let without = |name: &str| -> Vec<_> { GOOD.into_iter().filter(|f| f.0 != name).collect() };
    let twice = [GOOD.as_slice(), &[(":path", "/b")]].concat();
    let late = [&[("a", "b")], GOOD.as_slice()].concat();
    refused_on_http2(&[
        ("no path", without(":path"), ""),
        ("no method", without(":method"), ""),
        ("no authority", without(":authority"), ""),
        ("two paths", twice, ""),
        ("one too late", late, ""),
        ("an unknown one", plus(":x", "y"), ""),
        (
            "a protocol without CONNECT",
            plus(":protocol", "websocket"),
            "",
        ),
        ("CONNECT to no path", connect(":path"), ""),
        ("CONNECT by no scheme", connect(":scheme"), ""),
        ("CONNECT to nobody", connect(":authority"), ""),
        ("one of answers", plus(":status", "200"), ""),
    ])
    .await;
}

async fn outcome(running: &Running, fields: &[(&str, &str)], body: &[u8]) -> Outcome {
    let mut h2 = H2::over(running.tls(&["h2"]).await).await;
    h2.request(1, fields, body).await;
    h2.outcome(1).await
}

#[tokio::test]
async fn an_http2_host_that_says_the_same_passes() {
    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).run().await;
    let fields = with(":authority", "LOCALHOST.", &[("host", "localhost")]);
    assert_eq!(
        outcome(&running, &fields, b"").await,
        Outcome::Answered(200)
    );
    let only_host: Vec<_> = [&GOOD[..3], &[("host", "localhost")]].concat();
    assert_eq!(
        outcome(&running, &only_host, b"").await,
        Outcome::Answered(200)
    );
    for request in backend.requests() {
        assert_eq!(request.field("host"), Some("localhost"), "{}", request.head);
    }
}

#[tokio::test]
async fn http2_has_the_limits_of_http1() {
    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).run().await;
    let mut client = running.client_h2().await;
    let long = format!("/{}", "x".repeat(32 * 1024));
    assert_eq!(client.get(&long).await.status, StatusCode::URI_TOO_LONG);
    let mut many = request(Method::GET, "/", empty());
    for number in 0..101 {
        let name = HeaderName::try_from(format!("x-{number}")).unwrap();
        many.headers_mut()
            .insert(name, HeaderValue::from_static("y"));
    }
    let got = client.send(many).await;
    assert_eq!(got.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let mut long = request(Method::GET, "/", empty());
    let value = HeaderValue::try_from("x".repeat(32 * 1024)).unwrap();
    long.headers_mut().insert("x-long", value);
    assert_eq!(client.send(long).await.status, StatusCode::BAD_REQUEST);
    let mut trace = request(Method::TRACE, "/", empty());
    trace
        .headers_mut()
        .insert("x", HeaderValue::from_static("y"));
    assert_eq!(
        client.send(trace).await.status,
        StatusCode::METHOD_NOT_ALLOWED
    );
    assert_eq!(backend.connections(), 0);
}
