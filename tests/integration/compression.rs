//! Compressed answers: the tags by which clients ask for them again, and streams that nobody may hold
//! back (alb.md section 4 and decision 7; attacks.md rows 61 and 62).

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH,
};
use http::{Method, Request};
use http_body_util::BodyExt;
use lockgate::config::plan::Algorithm;
use lockgate::transform::compression::memory::memory;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::support::backend::Backend;
use crate::support::client::{Body, Client, Response, empty, request};
use crate::support::program::Service;
use crate::support::proxy::{Proxy, Running, free_port};
use crate::support::raw::Raw;
use crate::support::{peer, resident, within};

/// nginx with a JSON file of 5 KB under an entity tag. None where it is not installed.
async fn nginx(directory: &Path) -> Option<(Service, u16)> {
    let nginx = peer("nginx")?;
    let port = free_port();
    let prefix = directory.to_str().unwrap();
    let config = directory.join("nginx.conf");
    let text = format!(
        "daemon off;\nmaster_process off;\npid {prefix}/nginx.pid;\nerror_log {prefix}/error.log;\nevents {{}}\n\
         http {{\n access_log off;\n client_body_temp_path {prefix}/body;\n proxy_temp_path {prefix}/proxy;\n\
         fastcgi_temp_path {prefix}/fastcgi;\n uwsgi_temp_path {prefix}/uwsgi;\n scgi_temp_path {prefix}/scgi;\n\
         types {{ application/json json; }}\n etag on;\n\
         server {{ listen 127.0.0.1:{port}; root {prefix}; }}\n}}\n"
    );
    std::fs::write(&config, text).unwrap();
    std::fs::write(directory.join("a.json"), "{\"a\":1}".repeat(700)).unwrap();
    let arguments = ["-p", prefix, "-c", config.to_str().unwrap()];
    let service = Service::start(nginx, &arguments);
    within("nginx listens", async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    Some((service, port))
}

/// GET with these fields, over HTTP/1.1 and HTTP/2, which must agree.
async fn get(running: &Running, fields: &[(HeaderName, &str)]) -> Response {
    let ask = || -> Request<Body> {
        let mut request = request(Method::GET, "/a.json", empty());
        for (name, value) in fields {
            let value = HeaderValue::from_str(value).unwrap();
            request.headers_mut().append(name, value);
        }
        request
    };
    let one = running.client().await.send(ask()).await;
    let two = running.client_h2().await.send(ask()).await;
    assert_eq!(one.status, two.status, "{fields:?}");
    for name in ["etag", "vary", "content-encoding"] {
        assert_eq!(one.field(name), two.field(name), "{fields:?} {name}");
    }
    two
}

#[tokio::test]
async fn a_tag_of_compressed_content_comes_back_to_the_backend_as_its_own() {
    let directory = TempDir::new().unwrap();
    let Some((_nginx, port)) = nginx(directory.path()).await else {
        return;
    };
    let running = Proxy::new()
        .servers(&[format!("127.0.0.1:{port}")])
        .compression("algorithms = [\"br\", \"gzip\", \"zstd\"]")
        .run()
        .await;
    let plain = get(&running, &[]).await;
    let strong = plain.field("etag").unwrap().to_owned();
    assert!(strong.starts_with('"'), "{strong}");
    assert_eq!(plain.field("content-encoding"), None);
    assert_eq!(plain.field("vary"), Some("Accept-Encoding"));
    let weak = format!("W/{strong}");
    for coding in ["br", "gzip", "zstd"] {
        let encoding = (ACCEPT_ENCODING, coding);
        let first = get(&running, std::slice::from_ref(&encoding)).await;
        assert_eq!(first.status, 200);
        assert_eq!(first.field("content-encoding"), Some(coding));
        assert_eq!(first.field("etag"), Some(&*weak));
        assert_eq!(first.field("vary"), Some("Accept-Encoding"));
        for (name, value, status, etag) in [
            (IF_NONE_MATCH, weak.clone(), 304, Some(&weak)),
            (IF_NONE_MATCH, format!("\"x\", {weak}"), 304, Some(&weak)),
            (IF_NONE_MATCH, strong.clone(), 304, Some(&strong)),
            (IF_NONE_MATCH, "*".to_owned(), 304, Some(&strong)),
            (IF_NONE_MATCH, "W/\"x\"".to_owned(), 200, Some(&weak)),
            (IF_MATCH, weak.clone(), 200, Some(&weak)),
            (IF_MATCH, format!("W/\"x\", {weak}"), 200, Some(&weak)),
            (IF_MATCH, strong.clone(), 200, Some(&weak)),
            (IF_MATCH, "*".to_owned(), 200, Some(&weak)),
            (IF_MATCH, "W/\"x\"".to_owned(), 412, None),
        ] {
            let again = get(&running, &[encoding.clone(), (name.clone(), &value)]).await;
            assert_eq!(again.status, status, "{coding} {name}: {value}");
            if let Some(etag) = etag {
                assert_eq!(again.field("etag"), Some(&**etag), "{name}: {value}");
            }
            if status == 304 && value.contains(&weak) {
                assert_eq!(again.field("vary"), Some("Accept-Encoding"), "{value}");
            }
        }
    }
}

/// JSON that differs from record to record.
fn records(length: usize) -> Vec<u8> {
    let mut seed = 1_u64;
    let mut text = Vec::new();
    while text.len() < length {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let record = format!(
            "{{\"id\":{},\"note\":\"{:x}\"}},\n",
            seed % 9973,
            seed >> 40
        );
        text.extend(record.bytes());
    }
    text.truncate(length);
    text
}

/// Announces a megabyte, and sends so much of it.
async fn unfinished(sent: usize) -> Backend {
    Backend::raw(move |stream, _| async move {
        let mut stream = Raw::over(stream);
        stream.read_head().await;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000";
        stream.write(format!("{head}\r\n\r\n")).await;
        stream.write(records(sent)).await;
        // It comes to no end before its client leaves.
        stream.read_to_end().await;
    })
    .run()
    .await
}

/// Asks for an answer in one of these codings, and leaves it open.
async fn begun(client: &mut Client, codings: &str) -> hyper::Response<hyper::body::Incoming> {
    let mut request = request(Method::GET, "/", empty());
    let codings = HeaderValue::try_from(codings).unwrap();
    request.headers_mut().insert(ACCEPT_ENCODING, codings);
    within("an answer", client.start(request)).await.unwrap()
}

#[tokio::test]
async fn where_the_best_compressor_does_not_fit_into_the_connection_a_smaller_one_is_taken() {
    let backend = unfinished(7).await;
    let running = Proxy::to(&backend)
        .compression("enabled = true")
        .run()
        .await;
    let mut client = running.client_h2().await;
    let mut open = Vec::new();
    for coding in [Some("br"), Some("gzip"), None] {
        let answer = begun(&mut client, "gzip, br").await;
        let found = answer.headers().get(CONTENT_ENCODING);
        assert_eq!(found.map(|value| value.to_str().unwrap()), coding);
        assert_eq!(answer.headers()["vary"], "Accept-Encoding");
        open.push(answer);
    }
}

#[tokio::test]
async fn answers_that_are_compressed_at_once_draw_on_nobody() {
    let content = records(16_384);
    let backend = Backend::answering(move |_| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 16384";
        [head.as_bytes(), b"\r\n\r\n", &content].concat()
    })
    .run()
    .await;
    let running = Proxy::to(&backend)
        .compression("enabled = true")
        .run()
        .await;
    let client = running.client_h2().await;
    let mut answers = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let mut client = client.another();
        answers.spawn(async move {
            let answer = begun(&mut client, "br").await;
            let coding = answer.headers()[CONTENT_ENCODING].clone();
            (
                coding,
                answer.into_body().collect().await.unwrap().to_bytes(),
            )
        });
    }
    let all = within("all answers", answers.join_all()).await;
    assert!(
        all.iter()
            .all(|(coding, body)| coding == "br" && body.len() < 8192)
    );
}

#[tokio::test]
async fn open_compressors_hold_about_what_is_counted_for_them() {
    const CLIENTS: u64 = 24;
    /// Content on both sides of it, which is counted otherwise, in KiB.
    const CONTENT: u64 = 512;
    let settings = lockgate::config::defaults::compression();
    let backend = unfinished(900_000).await;
    let mut plain = 0;
    for (coding, algorithm) in [
        ("identity", None),
        ("gzip", Some(Algorithm::Gzip)),
        ("br", Some(Algorithm::Brotli)),
        ("zstd", Some(Algorithm::Zstd)),
    ] {
        let running = Proxy::to(&backend)
            .server("workers = 1")
            .compression("enabled = true\nalgorithms = [\"zstd\", \"br\", \"gzip\"]")
            .run()
            .await;
        // What is needed once is there after a first one.
        let mut open = vec![stuck(&running, coding).await];
        let before = settled(&running).await;
        for _ in 0..CLIENTS {
            open.push(stuck(&running, coding).await);
        }
        let each = (settled(&running).await - before) / CLIENTS;
        let Some(algorithm) = algorithm else {
            plain = each;
            continue;
        };
        let counted = memory(algorithm, &settings, Some(1_000_000)) as u64 / 1024;
        let held = each.saturating_sub(plain);
        println!("{coding}: {held} KiB of {counted} counted, {plain} without");
        // The process keeps some of what was given back: twice as much at most.
        assert!(
            (counted / 8..=2 * counted + CONTENT).contains(&held),
            "{coding}: {held} KiB of {counted} counted, {plain} without"
        );
    }
}

/// A client that asks for an answer in a coding and takes nothing of it.
async fn stuck(running: &Running, coding: &str) -> impl Sized {
    let mut client = running.client_h2().await;
    let answer = begun(&mut client, coding).await;
    (client, answer)
}

/// The memory of a process once it grows no more, in KiB.
async fn settled(running: &Running) -> u64 {
    let mut before = 0;
    loop {
        let now = resident(running.pid());
        if now == before {
            return now;
        }
        before = now;
        sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn without_compression_tags_pass_as_they_are() {
    let directory = TempDir::new().unwrap();
    let Some((_nginx, port)) = nginx(directory.path()).await else {
        return;
    };
    let running = Proxy::new()
        .servers(&[format!("127.0.0.1:{port}")])
        .compression("enabled = false")
        .run()
        .await;
    let first = get(&running, &[(ACCEPT_ENCODING, "br, gzip")]).await;
    let strong = first.field("etag").unwrap();
    assert!(strong.starts_with('"'));
    let weak = format!("W/{strong}");
    let again = get(&running, &[(IF_NONE_MATCH, &weak)]).await;
    assert_eq!(
        (again.status.as_u16(), again.field("etag")),
        (304, Some(strong))
    );
    assert_eq!(get(&running, &[(IF_MATCH, &weak)]).await.status, 412);
}

/// A backend that sends one event whenever it is told to.
async fn events() -> (Backend, mpsc::UnboundedSender<&'static str>) {
    let (tell, told) = mpsc::unbounded_channel::<&'static str>();
    let told = std::sync::Arc::new(tokio::sync::Mutex::new(told));
    let backend = Backend::raw(move |stream, _| {
        let told = std::sync::Arc::clone(&told);
        async move {
            let mut stream = Raw::over(stream);
            stream.read_request().await;
            stream
                .write(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\
                     Transfer-Encoding: chunked\r\n\r\n",
                )
                .await;
            while let Some(event) = told.lock().await.recv().await {
                let text = format!("data: {event}\n\n");
                stream
                    .write(format!("{:x}\r\n{text}\r\n", text.len()))
                    .await;
                if event == "last" {
                    stream.write("0\r\n\r\n").await;
                    return;
                }
            }
        }
    });
    (backend.run().await, tell)
}

const EVENTS: [&str; 5] = ["one", "two", "three", "four", "last"];

#[tokio::test]
async fn every_event_arrives_before_the_next_is_sent_over_http1() {
    let (backend, tell) = events().await;
    let running = Proxy::to(&backend)
        .compression("compress_unknown_length = true")
        .run()
        .await;
    let mut raw = running.raw().await;
    raw.write("GET / HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\nAccept-Encoding: br, gzip\r\n\r\n")
        .await;
    let head = raw.read_head().await.unwrap().to_lowercase();
    assert!(!head.contains("content-encoding"), "{head}");
    for event in EVENTS {
        tell.send(event).unwrap();
        let chunk = raw.read_chunk().await.unwrap().unwrap();
        assert_eq!(chunk, format!("data: {event}\n\n").as_bytes());
    }
    assert_eq!(raw.read_chunk().await, Some(None));
}

#[tokio::test]
async fn every_event_arrives_before_the_next_is_sent_over_http2() {
    let (backend, tell) = events().await;
    let running = Proxy::to(&backend)
        .compression("compress_unknown_length = true")
        .run()
        .await;
    let mut client = running.client_h2().await;
    let mut ask = request(Method::GET, "/", empty());
    let codings = HeaderValue::from_static("br, gzip");
    ask.headers_mut().insert(ACCEPT_ENCODING, codings);
    let answer = client.start(ask).await.unwrap();
    assert!(!answer.headers().contains_key("content-encoding"));
    let mut body = answer.into_body();
    for event in EVENTS {
        tell.send(event).unwrap();
        let frame = within("the event arrives", body.frame()).await;
        let data: Bytes = frame.unwrap().unwrap().into_data().unwrap();
        assert_eq!(data, format!("data: {event}\n\n"));
    }
    let end = within("the stream ends", body.frame()).await;
    assert!(end.is_none_or(|frame| frame.unwrap().data_ref().is_some_and(Bytes::is_empty)));
}
