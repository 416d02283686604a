//! Messages and bodies, both ways, as the versions of HTTP have them.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use hyper::body::Frame;
use tokio::sync::{Notify, mpsc};

use crate::support::backend::{Backend, ok};
use crate::support::client::{Client, empty, full, request, streamed};
use crate::support::proxy::{Proxy, Running};
use crate::support::raw::{Ended, Raw};
use crate::support::within;

const MIB: usize = 1 << 20;

async fn both(running: &Running) -> [(&'static str, Client); 2] {
    [
        ("HTTP/1.1", running.client().await),
        ("HTTP/2", running.client_h2().await),
    ]
}

#[tokio::test]
async fn requests_of_both_versions_reach_the_backend_as_http11() {
    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).run().await;
    for (version, mut client) in both(&running).await {
        let got = client.get("/a%20b?c=d&e").await;
        assert_eq!(got.status, StatusCode::OK, "{version}");
        assert!(
            got.text()
                .starts_with("GET /a%20b?c=d&e HTTP/1.1\r\nHost: localhost\r\n"),
            "{version}: {}",
            got.text()
        );
        let posted = client.post("/form", "x=1").await;
        let text = posted.text();
        assert!(
            text.starts_with("POST /form HTTP/1.1\r\n"),
            "{version}: {text}"
        );
        assert!(
            text.contains("\r\nContent-Length: 3\r\n"),
            "{version}: {text}"
        );
        assert!(text.ends_with("\r\n\r\nx=1"), "{version}: {text}");
    }
}

#[tokio::test]
async fn answers_without_a_body_pass_with_their_length() {
    let backend = Backend::answering(|request| {
        let head = match request.start().split(' ').nth(1) {
            Some("/204") => "204 No Content\r\n",
            Some("/304") => "304 Not Modified\r\nContent-Length: 7\r\nETag: \"x\"\r\n",
            _ => "200 OK\r\nContent-Length: 7\r\n",
        };
        format!("HTTP/1.1 {head}\r\n").into_bytes()
    })
    .run()
    .await;
    let running = Proxy::to(&backend).server("workers = 1").run().await;
    for (version, mut client) in both(&running).await {
        // Of a 304, hyper sends no length over HTTP/1, which RFC 9110 section 15.4.5 leaves open.
        for (method, path, status, field, value) in [
            (Method::HEAD, "/", 200, "content-length", Some("7")),
            (Method::GET, "/204", 204, "content-length", None),
            (Method::GET, "/304", 304, "etag", Some("\"x\"")),
            (Method::HEAD, "/304", 304, "etag", Some("\"x\"")),
        ] {
            let got = client.send(request(method.clone(), path, empty())).await;
            assert_eq!(got.status, status, "{version} {method} {path}");
            assert_eq!(got.field(field), value, "{version} {method} {path}");
            assert!(got.body.is_empty(), "{version} {method} {path}");
        }
    }
    assert_eq!(
        backend.connections(),
        1,
        "none of them spoils the connection"
    );
}

#[tokio::test]
async fn an_answer_to_head_is_its_head_alone() {
    let backend = Backend::answering(|request| match request.start().starts_with("HEAD") {
        true => b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n".to_vec(),
        false => ok(b"content"),
    })
    .run()
    .await;
    let running = Proxy::to(&backend).run().await;
    let mut raw = running.raw().await;
    raw.write("HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    let head = raw.read_response_to_head().await;
    assert_eq!(head.field("content-length"), Some("7"));
    assert_eq!(raw.read_response().await.text(), "content");
}

#[tokio::test]
async fn answers_are_compressed_where_both_sides_want_it() {
    let backend = Backend::answering(|_| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/css\r\nContent-Length: 20000\r\n\r\n";
        [head.as_bytes(), &[b'z'; 20_000]].concat()
    })
    .run()
    .await;
    for (enabled, accepts, coding) in [
        (true, "gzip, br", Some("br")),
        (true, "gzip", Some("gzip")),
        (true, "identity", None),
        (false, "gzip, br", None),
    ] {
        let proxy = Proxy::to(&backend).compression(&format!("enabled = {enabled}"));
        let running = proxy.run().await;
        for (version, mut client) in both(&running).await {
            let mut request = request(Method::GET, "/", empty());
            let accepts = HeaderValue::from_static(accepts);
            request.headers_mut().insert("accept-encoding", accepts);
            let got = client.send(request).await;
            assert_eq!(got.field("content-encoding"), coding, "{version}");
            assert_eq!(got.body.len() < 1000, coding.is_some(), "{version}");
            let varies = got
                .field("vary")
                .is_some_and(|value| value == "Accept-Encoding");
            assert_eq!(varies, enabled, "{version}");
        }
    }
}

#[tokio::test]
async fn connections_to_the_backend_are_used_again() {
    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).server("workers = 1").run().await;
    for _ in 0..3 {
        for (_, mut client) in both(&running).await {
            for _ in 0..10 {
                assert_eq!(client.get("/").await.status, StatusCode::OK);
                assert_eq!(client.post("/", "content").await.status, StatusCode::OK);
            }
        }
    }
    assert_eq!(backend.requests().len(), 120);
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn an_http10_client_is_served_by_http10() {
    let backend = Backend::answering(|request| {
        let mut answer = b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n".to_vec();
        answer.extend_from_slice(request.start().as_bytes());
        answer
    })
    .run()
    .await;
    let running = Proxy::to(&backend).run().await;
    let mut raw = running.raw().await;
    raw.write("GET /old HTTP/1.0\r\nHost: localhost\r\n\r\n")
        .await;
    let (all, ended) = raw.read_to_end().await;
    let text = String::from_utf8(all).unwrap();
    assert!(text.starts_with("HTTP/1.0 200 OK\r\n"), "{text}");
    assert!(!text.to_lowercase().contains("transfer-encoding"), "{text}");
    assert!(text.ends_with("\r\n\r\nGET /old HTTP/1.0"), "{text}");
    assert_eq!(ended, Ended::Cleanly);
}

#[tokio::test]
async fn an_http10_client_without_a_host_is_served() {
    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).run().await;
    let mut raw = running.raw().await;
    raw.write("GET / HTTP/1.0\r\n\r\n").await;
    let answer = raw.read_response().await;
    assert_eq!(answer.status(), 200);
    let host = format!("\r\nHost: {}\r\n", backend.address());
    assert!(answer.text().contains(&host), "{}", answer.text());
}

#[tokio::test]
async fn an_http10_client_may_keep_its_connection() {
    let backend = Backend::named("a").run().await;
    let running = Proxy::to(&backend).run().await;
    let mut raw = running.raw().await;
    for _ in 0..2 {
        raw.write("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
            .await;
        let answer = raw.read_response().await;
        assert!(
            answer.start().starts_with("HTTP/1.0 200"),
            "{}",
            answer.head
        );
        assert_eq!(
            answer.field("connection").map(str::to_lowercase).as_deref(),
            Some("keep-alive")
        );
    }
}

/// A backend that says how long the body was, and hashes nothing: the length and every byte's value.
fn counting() -> crate::support::backend::Behaviour {
    Backend::raw(|stream, _| async move {
        let mut raw = Raw::over(stream);
        let Some(head) = raw.read_head().await else {
            return;
        };
        let mut count = 0;
        if head.contains("Transfer-Encoding: chunked") {
            while let Some(Some(chunk)) = raw.read_chunk().await {
                assert!(chunk.iter().all(|byte| *byte == b'u'));
                count += chunk.len();
            }
            raw.read_to("\r\n").await;
        } else {
            let length = head.split("Content-Length: ").nth(1).unwrap();
            let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
            while count < length {
                let piece = raw.read_exactly((length - count).min(MIB)).await;
                assert!(piece.iter().all(|byte| *byte == b'u'));
                count += piece.len();
            }
        }
        raw.write(ok(count.to_string().as_bytes())).await;
    })
}

/// The most memory that a process ever had, in KiB.
fn peak(running: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_large_upload_passes_without_being_held() {
    let backend = counting().run().await;
    let running = Proxy::to(&backend).run().await;
    for (version, mut client) in both(&running).await {
        let before = peak(&running);
        let (sender, body) = streamed();
        let answer =
            tokio::spawn(async move { client.send(request(Method::PUT, "/", body)).await.text() });
        let piece = Bytes::from(vec![b'u'; MIB]);
        for _ in 0..64 {
            let sent = sender.send(Frame::data(piece.clone()));
            within("a piece is taken", sent).await.unwrap();
        }
        drop(sender);
        assert_eq!(answer.await.unwrap(), (64 * MIB).to_string(), "{version}");
        let grown = peak(&running).saturating_sub(before);
        assert!(grown < 12 * 1024, "{version}: {grown} KiB for 64 MiB");
    }
}

#[tokio::test]
async fn a_large_download_waits_for_a_slow_client() {
    let backend = Backend::raw(|stream, _| async move {
        let mut raw = Raw::over(stream);
        while raw.read_request_unhurried().await.is_some() {
            let length = 64 * MIB;
            raw.write(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
            ))
            .await;
            let piece = vec![b'd'; MIB];
            for _ in 0..64 {
                raw.write(&piece).await;
            }
        }
    })
    .run()
    .await;
    let running = Proxy::to(&backend).run().await;
    for (version, mut client) in both(&running).await {
        let before = peak(&running);
        let mut answer = client
            .start(request(Method::GET, "/", empty()))
            .await
            .unwrap();
        // Time enough for a proxy that does not wait to take all of it.
        let other = running.client().await.get("/").await;
        assert_eq!(other.body.len(), 64 * MIB);
        let grown = peak(&running).saturating_sub(before);
        assert!(grown < 12 * 1024, "{version}: {grown} KiB for 64 MiB");
        let mut count = 0;
        while let Some(frame) = within(
            "a piece comes",
            http_body_util::BodyExt::frame(answer.body_mut()),
        )
        .await
        {
            count += frame.unwrap().data_ref().map_or(0, Bytes::len);
        }
        assert_eq!(count, 64 * MIB, "{version}");
    }
}

#[tokio::test]
async fn bodies_of_unknown_length_are_chunked_both_ways() {
    let backend = Backend::answering(|request| {
        assert!(
            request.has_line("Transfer-Encoding: chunked"),
            "{}",
            request.head
        );
        assert!(request.field("content-length").is_none());
        let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for byte in &request.body {
            answer.extend_from_slice(b"1;ignored=\"x\"\r\n");
            answer.extend_from_slice(&[*byte, b'\r', b'\n']);
        }
        answer.extend_from_slice(b"0\r\n\r\n");
        answer
    })
    .run()
    .await;
    let running = Proxy::to(&backend).server("workers = 1").run().await;
    for (version, mut client) in both(&running).await {
        let (sender, body) = streamed();
        tokio::spawn(async move {
            for piece in ["one", ", ", "two"] {
                sender.send(Frame::data(piece.into())).await.unwrap();
            }
        });
        let got = client.send(request(Method::POST, "/", body)).await;
        assert_eq!(got.text(), "one, two", "{version}");
    }
    let mut raw = running.raw().await;
    raw.write(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n",
    )
    .await;
    let answer = raw.read_response().await;
    assert!(
        answer.has_line("Transfer-Encoding: chunked"),
        "{}",
        answer.head
    );
    assert_eq!(answer.text(), "abc");
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let backend = Backend::answering(|request| {
        let asked = request.has_line("TE: trailers");
        format!(
            "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\n{asked:5}\r\n0\r\nX-Sum: {}\r\n\r\n",
            request.trailers.replace("\r\n", "|")
        )
        .into_bytes()
    })
    .run()
    .await;
    let running = Proxy::to(&backend).run().await;
    for (version, mut client) in both(&running).await {
        let (sender, body) = streamed();
        tokio::spawn(async move {
            sender.send(Frame::data("x".into())).await.unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("x-check", HeaderValue::from_static("7"));
            sender.send(Frame::trailers(trailers)).await.unwrap();
        });
        let mut request = request(Method::POST, "/", body);
        let headers = request.headers_mut();
        headers.insert("te", HeaderValue::from_static("trailers"));
        headers.insert("trailer", HeaderValue::from_static("X-Check"));
        let got = client.send(request).await;
        assert_eq!(got.text(), "true ", "{version}");
        let trailers = got.trailers.unwrap_or_default();
        assert_eq!(trailers.get("x-sum").unwrap(), "X-Check: 7||", "{version}");
    }
}

/// The address to which a backend that is given an upload answers at once, without reading it.
fn answers_early(answer: Vec<u8>) -> crate::support::backend::Behaviour {
    Backend::raw(move |stream, _| {
        let answer = answer.clone();
        async move {
            let mut raw = Raw::over(stream);
            if raw.read_head().await.is_some() {
                raw.write(&answer).await;
                raw.drain().await;
            }
        }
    })
}

#[tokio::test]
async fn an_early_answer_arrives_and_the_upload_is_drained() {
    for length in [9, 4 * MIB] {
        let mut answer =
            format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {length}\r\n\r\n").into_bytes();
        answer.resize(answer.len() + length, b'n');
        let backend = answers_early(answer).run().await;
        let running = Proxy::to(&backend).run().await;
        let mut raw = running.raw().await;
        raw.write(format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
            8 * MIB
        ))
        .await;
        // A client that looks for an answer only once it has sent everything.
        raw.write(vec![b'u'; 8 * MIB]).await;
        let answer = raw.read_response().await;
        assert_eq!(answer.status(), 403);
        assert_eq!(answer.body.len(), length);
        assert!(
            answer
                .field("connection")
                .is_some_and(|value| value.eq_ignore_ascii_case("close")),
            "{}",
            answer.head
        );
        assert_eq!(raw.read_to_end().await, (Vec::new(), Ended::Cleanly));
    }
}

#[tokio::test]
async fn an_early_answer_comes_before_the_upload_has_ended() {
    let backend = answers_early(ok(b"enough")).run().await;
    let running = Proxy::to(&backend).run().await;
    for (version, mut client) in both(&running).await {
        let (sender, body) = streamed();
        sender.send(Frame::data("begun".into())).await.unwrap();
        let got = client.send(request(Method::POST, "/", body)).await;
        assert_eq!(got.text(), "enough", "{version}");
        drop(sender);
    }
}

const EXPECTING: &str =
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";

#[tokio::test]
async fn the_clients_100_follows_the_backends() {
    let (permit, permission) = mpsc::channel::<()>(1);
    let permission = std::sync::Arc::new(tokio::sync::Mutex::new(permission));
    let asked = std::sync::Arc::new(Notify::new());
    let told = std::sync::Arc::clone(&asked);
    let backend = Backend::raw(move |stream, _| {
        let (permission, told) = (
            std::sync::Arc::clone(&permission),
            std::sync::Arc::clone(&told),
        );
        async move {
            let mut raw = Raw::over(stream);
            let head = raw.read_head().await.unwrap();
            assert!(head.contains("\r\nExpect: 100-continue\r\n"), "{head}");
            told.notify_one();
            permission.lock().await.recv().await;
            raw.write("HTTP/1.1 100 Continue\r\n\r\n").await;
            let body = raw.read_exactly(4).await;
            raw.write(ok(&body)).await;
            raw.drain().await;
        }
    })
    .run()
    .await;
    let running = Proxy::to(&backend).run().await;
    let mut raw = running.raw().await;
    raw.write(EXPECTING).await;
    within("the backend is asked", asked.notified()).await;
    // Nothing has come yet: what comes first comes after the permission.
    let nothing = tokio::time::timeout(Duration::from_millis(200), raw.read_head()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    permit.send(()).await.unwrap();
    assert_eq!(raw.read_response().await.status(), 100);
    raw.write("body").await;
    let answer = raw.read_response().await;
    assert_eq!((answer.status(), answer.text().as_str()), (200, "body"));
}

#[tokio::test]
async fn a_backend_that_refuses_the_expectation_is_heard_without_a_100() {
    let backend = Backend::raw(|stream, _| async move {
        let mut raw = Raw::over(stream);
        raw.read_head().await.unwrap();
        raw.write("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno")
            .await;
        assert_eq!(raw.drain().await, 0, "the body was never asked for");
    })
    .run()
    .await;
    let running = Proxy::to(&backend).run().await;
    let mut raw = running.raw().await;
    raw.write(EXPECTING).await;
    let answer = raw.read_response().await;
    assert_eq!((answer.status(), answer.text().as_str()), (417, "no"));
    // Whether a body or a request would come next is unknown: nothing is read as either.
    raw.write("GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(raw.read_to_end().await, (Vec::new(), Ended::Cleanly));
}

#[tokio::test]
async fn the_body_goes_after_a_second_to_a_backend_that_knows_no_100() {
    let backend = Backend::raw(|stream, _| async move {
        let mut raw = Raw::over(stream);
        while let Some(request) = raw.read_request_unhurried().await {
            raw.write(ok(&request.body)).await;
        }
    })
    .run()
    .await;
    let running = Proxy::to(&backend).run().await;
    let mut raw = running.raw().await;
    let began = tokio::time::Instant::now();
    raw.write(EXPECTING).await;
    assert_eq!(raw.read_response().await.status(), 100);
    let waited = began.elapsed();
    assert!(
        (Duration::from_millis(800)..Duration::from_secs(3)).contains(&waited),
        "{waited:?}"
    );
    raw.write("body").await;
    assert_eq!(raw.read_response().await.text(), "body");
}

#[tokio::test]
async fn interim_answers_are_not_taken_for_the_answer() {
    let backend = Backend::answering(|_| {
        let mut answer = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
            HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
            .to_vec();
        answer.extend(ok(b"final"));
        answer
    })
    .run()
    .await;
    let running = Proxy::to(&backend).server("workers = 1").run().await;
    for (version, mut client) in both(&running).await {
        for _ in 0..2 {
            let got = client.get("/").await;
            assert_eq!(
                (got.status.as_u16(), got.text().as_str()),
                (200, "final"),
                "{version}"
            );
            assert_eq!(got.field("link"), None, "{version}");
        }
    }
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_whole() {
    let backend =
        Backend::answering(|_| b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end".to_vec())
            .run()
            .await;
    let running = Proxy::to(&backend).run().await;
    for (version, mut client) in both(&running).await {
        for _ in 0..2 {
            let got = client.get("/").await;
            assert_eq!(got.text(), "to the end", "{version}");
            assert_eq!(got.field("connection"), None, "{version}");
        }
    }
    assert_eq!(backend.connections(), 4);
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_whole() {
    let backend = Backend::answering(|_| {
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n4\r\nhalf\r\n"
            .to_vec()
    })
    .run()
    .await;
    let running = Proxy::to(&backend).run().await;
    for (version, mut client) in both(&running).await {
        let got = client.try_send(request(Method::GET, "/", empty())).await;
        assert!(got.is_err(), "{version}: {got:?}");
    }
    running
        .wait_for_access(|line| {
            line["cause"] == "backend_closed" || line["cause"] == "backend_malformed"
        })
        .await;
}

#[tokio::test]
async fn both_directions_stream_at_the_same_time() {
    let backend = Backend::raw(|stream, _| async move {
        let mut raw = Raw::over(stream);
        raw.read_head().await.unwrap();
        raw.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        while let Some(Some(chunk)) = raw.read_chunk().await {
            let size = chunk.len();
            let echo = [format!("{size:x}\r\n").as_bytes(), &chunk, b"\r\n"].concat();
            raw.write(echo).await;
        }
        raw.write("0\r\n\r\n").await;
        raw.drain().await;
    })
    .run()
    .await;
    let running = Proxy::to(&backend).run().await;
    for (version, mut client) in both(&running).await {
        let (sender, body) = streamed();
        sender.send(Frame::data("0".into())).await.unwrap();
        let mut answer = client
            .start(request(Method::POST, "/", body))
            .await
            .unwrap()
            .into_body();
        for round in 0..20 {
            let frame = within(
                "the echo comes",
                http_body_util::BodyExt::frame(&mut answer),
            )
            .await;
            let data = frame.unwrap().unwrap().into_data().unwrap();
            assert_eq!(data, round.to_string(), "{version}");
            let next = Frame::data((round + 1).to_string().into());
            sender.send(next).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_backends_work() {
    let began = std::sync::Arc::new(Notify::new());
    let ended = std::sync::Arc::new(Notify::new());
    let (tell, told) = (std::sync::Arc::clone(&began), std::sync::Arc::clone(&ended));
    let backend = Backend::raw(move |stream, _| {
        let (tell, told) = (std::sync::Arc::clone(&tell), std::sync::Arc::clone(&told));
        async move {
            let mut raw = Raw::over(stream);
            raw.read_head().await.unwrap();
            tell.notify_one();
            raw.drain().await;
            told.notify_one();
        }
    })
    .run()
    .await;
    let running = Proxy::to(&backend).run().await;
    // Broken off within its body, a request is malformed (alb.md section 9.1); else it lost its client.
    for (target, status, cause, request) in [
        (
            "/a",
            499,
            "client_gone",
            "GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        (
            "/b",
            400,
            "body_malformed",
            "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf",
        ),
    ] {
        let mut raw = running.raw().await;
        raw.write(request).await;
        within("the backend has it", began.notified()).await;
        drop(raw);
        within("the backend's connection is closed", ended.notified()).await;
        let line = running
            .wait_for_access(|line| line["request_uri"] == target)
            .await;
        assert_eq!(line["status"], status, "{line}");
        assert_eq!(line["cause"], cause, "{line}");
    }
    let mut client = running.client_h2().await;
    let answer =
        tokio::spawn(async move { client.try_send(request(Method::GET, "/c", empty())).await });
    within("the backend has it", began.notified()).await;
    answer.abort();
    within("the backend's connection is closed", ended.notified()).await;
    let line = running
        .wait_for_access(|line| line["request_uri"] == "/c")
        .await;
    assert_eq!(line["status"], 499, "{line}");
    assert_eq!(line["cause"], "client_gone", "{line}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let backend = Backend::answering(|request| ok(request.start().as_bytes()))
        .run()
        .await;
    let running = Proxy::to(&backend).run().await;
    let mut raw = running.raw().await;
    raw.write(
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\
         POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody\
         POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxx\r\n0\r\n\r\n\
         GET /4 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    .await;
    for expected in ["GET /1", "POST /2", "POST /3", "GET /4"] {
        let answer = raw.read_response().await;
        assert_eq!(answer.text(), format!("{expected} HTTP/1.1"));
    }
    assert_eq!(raw.read_to_end().await, (Vec::new(), Ended::Cleanly));
    let bodies: Vec<_> = backend
        .requests()
        .iter()
        .map(|request| request.text())
        .collect();
    assert_eq!(bodies, ["", "body", "xx", ""]);
}

#[tokio::test]
async fn the_backends_reason_phrase_reaches_the_client() {
    let backend =
        Backend::answering(|_| b"HTTP/1.1 200 Very Well\r\nContent-Length: 0\r\n\r\n".to_vec())
            .run()
            .await;
    let running = Proxy::to(&backend).run().await;
    let mut raw = running.raw().await;
    raw.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(raw.read_response().await.start(), "HTTP/1.1 200 Very Well");
}

#[tokio::test]
async fn an_idle_connection_that_gave_its_buffers_back_serves_on() {
    let backend = Backend::named("a").run().await;
    let running = Proxy::to(&backend).listener("idle_timeout = 1").run().await;
    let mut raw = running.raw().await;
    for _ in 0..2 {
        raw.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(raw.read_response().await.text(), "a");
        // Longer than it takes to be parked, shorter than idle_timeout: there is nothing to wait for.
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    raw.expect_closed(Duration::from_secs(3)).await;
}

#[tokio::test]
async fn a_plain_listener_serves_the_same() {
    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).http().run().await;
    let got = running.client().await.post("/plain", "x").await;
    assert!(
        got.text().starts_with("POST /plain HTTP/1.1\r\n"),
        "{}",
        got.text()
    );
    let request = Request::builder()
        .method(Method::PATCH)
        .uri("/patched")
        .body(full("y"))
        .unwrap();
    let got = running.client().await.send(request).await;
    assert!(got.text().ends_with("\r\n\r\ny"), "{}", got.text());
}

#[tokio::test]
async fn a_backend_on_a_unix_socket_is_reached() {
    let proxy = Proxy::new();
    let path = proxy.directory().join("backend.sock");
    let backend = Backend::echo().run_unix(&path).await;
    let running = proxy
        .servers(&[format!("unix:{}", path.display())])
        .run()
        .await;
    let got = running.client().await.get("/socket").await;
    assert!(
        got.text().starts_with("GET /socket HTTP/1.1\r\n"),
        "{}",
        got.text()
    );
    assert_eq!(backend.connections(), 1);
}
