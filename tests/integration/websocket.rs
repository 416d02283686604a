//! WebSocket by upgrade from HTTP/1.1, raw bytes at both ends (attacks.md row 10).

use std::sync::Arc;

use tokio::sync::Notify;

use crate::support::backend::{Backend, Behaviour, ok};
use crate::support::proxy::{Proxy, Running};
use crate::support::raw::{Ended, Message, Raw};
use crate::support::within;

pub(crate) const ASKING: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
pub(crate) const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Switches protocols, then repeats every byte in upper case until the client's end, and says `bye`.
pub(crate) fn shouting() -> Behaviour {
    Backend::raw(|stream, _| async move {
        let mut raw = Raw::over(stream);
        let head = raw.read_head().await.unwrap();
        assert!(head.contains("\r\nConnection: Upgrade\r\n"), "{head}");
        assert!(head.contains("\r\nUpgrade: websocket\r\n"), "{head}");
        assert!(
            head.contains("\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
            "{head}"
        );
        raw.write(SWITCHING).await;
        while let Some(byte) = raw.read_byte().await {
            raw.write([byte.to_ascii_uppercase()]).await;
        }
        raw.write("bye").await;
    })
}

async fn upgraded(running: &Running) -> Raw {
    let mut raw = running.raw().await;
    raw.write(ASKING).await;
    let answer = raw.read_response().await;
    assert_switched(&answer);
    raw
}

fn assert_switched(answer: &Message) {
    assert_eq!(answer.status(), 101, "{}", answer.head);
    for (name, value) in [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-accept", "s3ppLmbitxaq9kygzzhzrbk+xoo="),
    ] {
        let found = answer.field(name).map(str::to_lowercase);
        assert_eq!(found, Some(value.to_lowercase()), "{}", answer.head);
    }
    assert_eq!(answer.field("content-length"), None);
    assert_eq!(answer.field("transfer-encoding"), None);
}

#[tokio::test]
async fn bytes_pass_both_ways_after_the_upgrade() {
    let backend = shouting().run().await;
    for proxy in [Proxy::to(&backend), Proxy::to(&backend).http()] {
        let running = proxy.run().await;
        let mut raw = upgraded(&running).await;
        for word in ["one", "two", "three"] {
            raw.write(word).await;
            let echo = raw.read_exactly(word.len()).await;
            assert_eq!(echo, word.to_uppercase().into_bytes());
        }
    }
}

#[tokio::test]
async fn the_clients_end_leaves_the_backend_to_finish() {
    let backend = shouting().run().await;
    let running = Proxy::to(&backend).run().await;
    let mut raw = upgraded(&running).await;
    raw.write("last words").await;
    raw.half_close().await;
    let (rest, ended) = raw.read_to_end().await;
    assert_eq!(String::from_utf8_lossy(&rest), "LAST WORDSbye");
    assert_eq!(ended, Ended::Cleanly);
    let line = running
        .wait_for_access(|line| line["request_uri"] == "/chat")
        .await;
    assert_eq!(line["status"], 101, "{line}");
    assert_eq!(line["body_bytes_sent"], 13, "{line}");
}

#[tokio::test]
async fn the_backends_end_leaves_the_client_to_finish() {
    let heard = Arc::new(Notify::new());
    let tell = Arc::clone(&heard);
    let backend = Backend::raw(move |stream, _| {
        let tell = Arc::clone(&tell);
        async move {
            let mut raw = Raw::over(stream);
            raw.read_head().await.unwrap();
            raw.write([SWITCHING, "over"].concat()).await;
            raw.half_close().await;
            assert_eq!(raw.read_to_end().await.0, b"and out");
            tell.notify_one();
        }
    })
    .run()
    .await;
    for proxy in [Proxy::to(&backend), Proxy::to(&backend).http()] {
        let running = proxy.run().await;
        let mut raw = upgraded(&running).await;
        assert_eq!(raw.read_to_end().await, (b"over".to_vec(), Ended::Cleanly));
        raw.write("and out").await;
        raw.half_close().await;
        within("the backend hears the client out", heard.notified()).await;
    }
}

#[tokio::test]
async fn bytes_sent_before_the_101_are_kept_until_then() {
    let backend = shouting().run().await;
    let running = Proxy::to(&backend).run().await;
    let mut raw = running.raw().await;
    raw.write([ASKING, "hasty"].concat()).await;
    assert_switched(&raw.read_response().await);
    assert_eq!(raw.read_exactly(5).await, b"HASTY");
    raw.write("and more").await;
    assert_eq!(raw.read_exactly(8).await, b"AND MORE");
}

#[tokio::test]
async fn a_refused_upgrade_passes_the_answer_and_discards_what_was_sent_early() {
    let backend = Backend::answering(|request| match request.start() {
        "GET /chat HTTP/1.1" => b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno".to_vec(),
        other => ok(other.as_bytes()),
    })
    .run()
    .await;
    let running = Proxy::to(&backend).server("workers = 1").run().await;
    for early in ["", "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut raw = running.raw().await;
        raw.write([ASKING, early].concat()).await;
        let answer = raw.read_response().await;
        assert_eq!((answer.status(), answer.text().as_str()), (403, "no"));
        let connection = answer.field("connection").map(str::to_lowercase);
        assert_eq!(connection.as_deref(), Some("close"), "{}", answer.head);
        assert_eq!(raw.read_to_end().await, (Vec::new(), Ended::Cleanly));
    }
    let seen: Vec<_> = backend.requests();
    let seen: Vec<_> = seen.iter().map(|request| request.start()).collect();
    assert_eq!(seen, ["GET /chat HTTP/1.1", "GET /chat HTTP/1.1"]);
}

#[tokio::test]
async fn an_upgrade_with_a_body_is_refused() {
    let backend = shouting().run().await;
    let running = Proxy::to(&backend).run().await;
    for framing in [
        "Content-Length: 5\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ] {
        let mut raw = running.raw().await;
        let head = ASKING.trim_end();
        raw.write(format!("{head}\r\n{framing}")).await;
        assert_eq!(raw.read_response().await.status(), 400, "{framing:?}");
        assert!(raw.read_until_close().await.is_empty());
    }
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn a_backend_that_switches_unasked_or_otherwise_is_not_believed() {
    let elsewhere = SWITCHING.replace("websocket", "h2c");
    let nowhere = SWITCHING.replace("Upgrade: websocket\r\n", "");
    let plain = "GET /chat HTTP/1.1\r\nHost: a\r\n\r\n";
    let other = ASKING.replace("websocket", "h2c");
    for (name, request, answer) in [
        ("unasked", plain, SWITCHING),
        (
            "a protocol that is not tunnelled",
            other.as_str(),
            &elsewhere,
        ),
        ("another protocol", ASKING, &elsewhere),
        ("no protocol", ASKING, &nowhere),
    ] {
        let bytes = answer.to_owned();
        let backend = Backend::raw(move |stream, _| {
            let bytes = bytes.clone();
            async move {
                let mut raw = Raw::over(stream);
                raw.read_head().await.unwrap();
                raw.write([&bytes, "injected"].concat()).await;
                raw.drain().await;
            }
        })
        .run()
        .await;
        let running = Proxy::to(&backend).run().await;
        let mut raw = running.raw().await;
        raw.write(request).await;
        let answer = raw.read_response().await;
        assert_eq!(answer.status(), 502, "{name}");
        let line = running.wait_for_access(|line| line["status"] == 502).await;
        assert_eq!(line["cause"], "backend_upgrade", "{name}: {line}");
        assert!(raw.read_until_close().await.is_empty(), "{name}");
    }
}

#[tokio::test]
async fn an_unknown_protocol_is_not_asked_of_the_backend() {
    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).run().await;
    let mut raw = running.raw().await;
    raw.write(ASKING.replace("websocket", "h2c")).await;
    let answer = raw.read_response().await;
    assert_eq!(answer.status(), 200);
    let lower = answer.text().to_lowercase();
    assert!(!lower.contains("\r\nupgrade:"), "{lower}");
    assert!(!lower.contains("\r\nconnection: upgrade"), "{lower}");
}

#[tokio::test]
async fn a_client_that_vanishes_ends_the_tunnel() {
    let gone = Arc::new(Notify::new());
    let tell = Arc::clone(&gone);
    let backend = Backend::raw(move |stream, _| {
        let tell = Arc::clone(&tell);
        async move {
            let mut raw = Raw::over(stream);
            raw.read_head().await.unwrap();
            raw.write(SWITCHING).await;
            raw.drain().await;
            tell.notify_one();
        }
    })
    .run()
    .await;
    let running = Proxy::to(&backend).run().await;
    drop(upgraded(&running).await);
    within("the backend's side ends", gone.notified()).await;
}
