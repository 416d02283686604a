//! Compressed answers: the tags by which clients ask for them again, and streams that nobody may hold
//! back (alb.md section 4 and decision 7; attacks.md rows 61 and 62).

use std::path::Path;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use http::{Method, Request};
use http_body_util::BodyExt;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::support::backend::Backend;
use crate::support::client::{Body, Response, empty, request};
use crate::support::program::Service;
use crate::support::proxy::{Proxy, Running, free_port};
use crate::support::raw::Raw;
use crate::support::{peer, within};

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
            sleep(std::time::Duration::from_millis(10)).await;
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
