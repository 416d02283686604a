//! What goes on with a server that is removed, set to weight 0 or found unhealthy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use http_body_util::BodyExt;

use crate::support::backend::{Backend, Behaviour};
use crate::support::client::{empty, request};
use crate::support::proxy::{Proxy, Reload, Running};
use crate::support::raw::Raw;
use crate::support::within;
use crate::websocket::ASKING;

const DRAIN: &str = "[server_group.connection_drain]\nenabled = true\ntimeout = 1";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Leaves `/wait` without an answer, `/stream` without an end, and makes a tunnel of `/chat`, which it repeats;
/// anything else it answers as well as it is.
fn holding(healthy: Arc<AtomicBool>) -> Behaviour {
    Backend::raw(move |stream, _| {
        let healthy = Arc::clone(&healthy);
        async move {
            let mut raw = Raw::over(stream);
            while let Some(head) = raw.read_head_unhurried().await {
                match head.split(' ').nth(1).unwrap() {
                    "/wait" => {}
                    "/stream" => {
                        raw.write("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\none")
                            .await;
                    }
                    "/chat" => {
                        raw.write(SWITCHING).await;
                        while let Some(byte) = raw.read_byte().await {
                            raw.write([byte]).await;
                        }
                    }
                    _ => {
                        let status = match healthy.load(Ordering::SeqCst) {
                            true => "200 OK",
                            false => "500 Ill",
                        };
                        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                        raw.write(answer).await;
                        continue;
                    }
                }
                raw.drain().await;
            }
        }
    })
}

async fn held_by(group: &str, server: &str) -> (Backend, Arc<AtomicBool>, Running) {
    let healthy = Arc::new(AtomicBool::new(true));
    let backend = holding(Arc::clone(&healthy)).run().await;
    let running = Proxy::to(&backend)
        .server(server)
        .listener("request_timeout = 30")
        .group(group)
        .run()
        .await;
    (backend, healthy, running)
}

/// Another server takes the place of the one that is there.
async fn replace(running: &mut Running, backend: &Backend, other: &Backend) {
    let (old, new) = (backend.address().to_string(), other.address().to_string());
    running.rewrite(|toml| toml.replace(&old, &new));
    assert_eq!(running.reload().await, Reload::TakenUp);
}

#[tokio::test]
async fn what_goes_on_with_a_removed_server_ends_after_the_timeout() {
    let (backend, _, mut running) = held_by(DRAIN, "workers = 2").await;
    let other = Backend::named("other").run().await;
    let mut tunnel = running.raw().await;
    tunnel.write(ASKING).await;
    assert_eq!(tunnel.read_response_to_head().await.status(), 101);
    let mut bodies = Vec::new();
    let mut clients = [running.client().await, running.client_h2().await];
    for client in &mut clients {
        let answer = client.start(request(Method::GET, "/stream", empty())).await;
        let mut body = answer.unwrap().into_body();
        let first = within("the first piece", body.frame()).await.unwrap();
        assert_eq!(first.unwrap().into_data().unwrap(), "one");
        bodies.push(body);
    }
    let mut waiting = running.client().await;
    let waits = tokio::spawn(async move { waiting.get("/wait").await });
    within("the request is with the backend", async {
        while backend.connections() < 4 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let began = Instant::now();
    replace(&mut running, &backend, &other).await;
    tunnel.write("still").await;
    assert_eq!(tunnel.read_exactly(5).await, b"still");
    assert_eq!(running.client().await.get("/").await.text(), "other");
    let answer = waits.await.unwrap();
    assert_eq!(answer.status, 500);
    assert!(began.elapsed() >= Duration::from_secs(1));
    let status = answer.field("proxy-status").unwrap();
    assert!(status.contains("server_drained"), "{status}");
    assert_eq!(tunnel.read_until_close().await, b"");
    for body in &mut bodies {
        let end = within("the body breaks off", body.frame()).await;
        assert!(end.unwrap().is_err());
    }
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn without_drain_what_goes_on_with_a_removed_server_goes_on() {
    let (backend, _, mut running) = held_by("", "workers = 2\ndrain_timeout = 1").await;
    let other = Backend::named("other").run().await;
    let mut tunnel = running.raw().await;
    tunnel.write(ASKING).await;
    assert_eq!(tunnel.read_response_to_head().await.status(), 101);
    replace(&mut running, &backend, &other).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(2500) {
        tunnel.write("still").await;
        assert_eq!(tunnel.read_exactly(5).await, b"still");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // But it does not outlive the group.
    running.rewrite(|toml| toml.replace("\"app\"", "\"new\""));
    assert_eq!(running.reload().await, Reload::TakenUp);
    assert_eq!(tunnel.read_until_close().await, b"");
}

#[tokio::test]
async fn weight_zero_drains_and_a_weight_again_does_not_spare_what_is_drained() {
    let (backend, _, mut running) = held_by(DRAIN, "workers = 1").await;
    let mut before = running.raw().await;
    before.write(ASKING).await;
    assert_eq!(before.read_response_to_head().await.status(), 101);
    let (with, without) = (
        format!("\"{}\", weight = 0 }}", backend.address()),
        format!("\"{}\" }}", backend.address()),
    );
    running.rewrite(|toml| toml.replace(&without, &with));
    assert_eq!(running.reload().await, Reload::TakenUp);
    assert_eq!(running.client().await.get("/").await.status, 503);
    running.rewrite(|toml| toml.replace(&with, &without));
    assert_eq!(running.reload().await, Reload::TakenUp);
    let mut after = running.raw().await;
    after.write(ASKING).await;
    assert_eq!(after.read_response_to_head().await.status(), 101);
    assert_eq!(before.read_until_close().await, b"");
    after.write("still").await;
    assert_eq!(after.read_exactly(5).await, b"still");
}

#[tokio::test]
async fn a_server_found_unhealthy_is_drained() {
    let check = "[server_group.health_check]\ninterval = 1\ntimeout = 1\n\
                 unhealthy_threshold = 2\nhealthy_threshold = 2";
    let (_backend, healthy, running) = held_by(&format!("{DRAIN}\n{check}"), "workers = 2").await;
    let mut tunnel = running.raw().await;
    tunnel.write(ASKING).await;
    assert_eq!(tunnel.read_response_to_head().await.status(), 101);
    healthy.store(false, Ordering::SeqCst);
    assert_eq!(tunnel.read_until_close().await, b"");
}
