//! Every limit on time, with a client or a backend that really stalls. All limits are one second, far
//! below the defaults, and all tests run at the same time.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::backend::Backend;
use crate::support::frames::{self, Frames};
use crate::support::full::FullBacklog;
use crate::support::proxy::{Proxy, Running};
use crate::support::raw::Raw;
use crate::support::within;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCHED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
/// Less than every limit here.
const PAUSE: Duration = Duration::from_millis(400);
/// So many of them are more than every limit here.
const BEATS: usize = 4;

/// Holds if the limit of one second, which began to run at `began` or later, is what ended the wait.
fn assert_after_the_limit(began: Instant) {
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(1), "too early: {took:?}");
    assert!(took < Duration::from_secs(8), "too late: {took:?}");
}

#[tokio::test]
async fn closes_an_idle_connection_after_idle_timeout_without_a_byte() {
    let backend = Backend::echo().run().await;
    let proxy = Proxy::to(&backend).listener("idle_timeout = 1").run().await;
    let mut client = proxy.raw().await;
    let began = Instant::now();
    client.write(GET).await;
    assert_eq!(client.read_response().await.status(), 200);
    assert_eq!(client.read_until_close().await, b"");
    assert_after_the_limit(began);
}

#[tokio::test]
async fn closes_a_connection_on_which_nothing_ever_came_without_a_byte() {
    let backend = Backend::echo().run().await;
    let proxy = Proxy::to(&backend).listener("idle_timeout = 1").run().await;
    let began = Instant::now();
    let mut client = proxy.raw().await;
    assert_eq!(client.read_until_close().await, b"");
    assert_after_the_limit(began);
}

#[tokio::test]
async fn a_request_begins_the_idle_time_anew() {
    let backend = Backend::echo().run().await;
    let proxy = Proxy::to(&backend).listener("idle_timeout = 1").run().await;
    let mut client = proxy.raw().await;
    for _ in 0..4 {
        client.write(GET).await;
        assert_eq!(client.read_response().await.status(), 200);
        tokio::time::sleep(PAUSE).await;
    }
}

#[tokio::test]
async fn a_parked_connection_serves_again() {
    let backend = Backend::echo().run().await;
    let proxy = Proxy::to(&backend).listener("idle_timeout = 5").run().await;
    let mut client = proxy.raw().await;
    for round in 0..3 {
        client.write(GET).await;
        assert_eq!(client.read_response().await.status(), 200, "round {round}");
        // Longer than the half second after which an idle connection gives its buffers back.
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
}

#[tokio::test]
async fn a_parked_connection_serves_a_head_that_comes_in_two_halves() {
    let backend = Backend::echo().run().await;
    let proxy = Proxy::to(&backend)
        .listener("idle_timeout = 5\nheader_timeout = 5")
        .run()
        .await;
    let mut client = proxy.raw().await;
    client.write(GET).await;
    assert_eq!(client.read_response().await.status(), 200);
    tokio::time::sleep(Duration::from_millis(700)).await;
    let (first, second) = GET.split_at(10);
    client.write(first).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    client.write(second).await;
    assert_eq!(client.read_response().await.status(), 200);
}

#[tokio::test]
async fn answers_408_when_a_head_is_not_whole_within_header_timeout() {
    let backend = Backend::echo().run().await;
    let proxy = Proxy::to(&backend)
        .listener("header_timeout = 1")
        .run()
        .await;
    let began = Instant::now();
    let mut client = proxy.raw().await;
    client.write(&GET[..20]).await;
    let answer = client.read_response().await;
    assert_eq!(answer.status(), 408);
    assert!(answer.has_line("Connection: close"), "{}", answer.head);
    assert_after_the_limit(began);
    assert_eq!(client.read_until_close().await, b"");
    logged(&proxy, 408).await;
}

#[tokio::test]
async fn waking_up_with_half_a_head_does_not_begin_the_limits_anew() {
    let backend = Backend::echo().run().await;
    let proxy = Proxy::to(&backend)
        .listener("idle_timeout = 5\nheader_timeout = 1")
        .run()
        .await;
    let mut client = proxy.raw().await;
    client.write(GET).await;
    assert_eq!(client.read_response().await.status(), 200);
    tokio::time::sleep(Duration::from_millis(700)).await;
    let began = Instant::now();
    // A byte every 200 ms: never quiet for long, and never whole.
    for byte in b"GET /never/ends HTTP/1.1\r\nHost: localhost\r\nX-Field: aaaaaaaaaaa".chunks(1) {
        client.write(byte).await;
        let answer = timeout(Duration::from_millis(200), client.read_head()).await;
        if let Ok(head) = answer {
            assert!(head.unwrap().starts_with("HTTP/1.1 408 "));
            assert_after_the_limit(began);
            return;
        }
    }
    panic!("served to the last byte");
}

#[tokio::test]
async fn closes_an_idle_http2_connection_with_goaway_after_http2_idle_timeout() {
    let backend = Backend::echo().run().await;
    let proxy = Proxy::to(&backend)
        .listener("http2_idle_timeout = 1")
        .run()
        .await;
    let began = Instant::now();
    let mut client = Frames::begin(proxy.tls(&["h2"]).await).await;
    client.get_whole(1, "/").await;
    let rest = client.until_end().await;
    assert!(rest.iter().any(|f| f.kind == frames::GOAWAY), "{rest:?}");
    assert_after_the_limit(began);
}

#[tokio::test]
async fn pings_do_not_keep_an_http2_connection_alive() {
    let backend = Backend::echo().run().await;
    let proxy = Proxy::to(&backend)
        .listener("http2_idle_timeout = 1")
        .run()
        .await;
    let began = Instant::now();
    let mut client = Frames::begin(proxy.tls(&["h2"]).await).await;
    client.get_whole(1, "/").await;
    let rest = within("the connection ends", client.ping_until_end(PAUSE)).await;
    assert!(rest.iter().any(|f| f.kind == frames::GOAWAY), "{rest:?}");
    assert_after_the_limit(began);
}

#[tokio::test]
async fn idle_timeout_does_not_apply_to_http2() {
    let backend = Backend::echo().run().await;
    let proxy = Proxy::to(&backend).listener("idle_timeout = 1").run().await;
    let mut client = Frames::begin(proxy.tls(&["h2"]).await).await;
    client.get_whole(1, "/").await;
    tokio::time::sleep(Duration::from_millis(1700)).await;
    client.get_whole(3, "/").await;
}

#[tokio::test]
async fn answers_504_when_the_backend_is_silent() {
    let backend = Backend::silent().run().await;
    let proxy = Proxy::to(&backend)
        .listener("request_timeout = 1")
        .run()
        .await;
    let began = Instant::now();
    assert_eq!(proxy.client().await.get("/").await.status, 504);
    assert_after_the_limit(began);
    let line = logged(&proxy, 504).await;
    assert_eq!(line["cause"], "response_timeout", "{line}");

    let began = Instant::now();
    assert_eq!(proxy.client_h2().await.get("/").await.status, 504);
    assert_after_the_limit(began);
}

#[tokio::test]
async fn answers_504_when_the_backend_stalls_within_its_head() {
    let backend = Backend::raw(|stream, _| async move {
        let mut stream = Raw::over(stream);
        stream.read_head().await;
        stream.write(b"HTTP/1.1 200 OK\r\nContent-").await;
        stream.read_until_close().await;
    })
    .run()
    .await;
    let proxy = Proxy::to(&backend)
        .listener("request_timeout = 1")
        .run()
        .await;
    let began = Instant::now();
    assert_eq!(proxy.client().await.get("/").await.status, 504);
    assert_after_the_limit(began);
}

#[tokio::test]
async fn cuts_the_answer_short_when_the_backend_stalls_within_its_body() {
    let backend = Backend::raw(|stream, _| async move {
        let mut stream = Raw::over(stream);
        stream.read_head().await;
        stream
            .write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            .await;
        stream.read_until_close().await;
    })
    .run()
    .await;
    let proxy = Proxy::to(&backend)
        .listener("request_timeout = 1")
        .run()
        .await;
    let began = Instant::now();
    let mut client = proxy.raw().await;
    client.write(GET).await;
    let answer = String::from_utf8(client.read_until_close().await).unwrap();
    assert_after_the_limit(began);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.ends_with("5\r\nhello\r\n"),
        "ended cleanly: {answer}"
    );

    let mut client = Frames::begin(proxy.tls(&["h2"]).await).await;
    client.get(1, "/").await;
    assert!(!client.wait_for(frames::HEADERS, 1).await.ends_stream());
    loop {
        let frame = client.next().await.expect("the connection ended");
        if frame.stream == 1 {
            assert!(!frame.ends_stream(), "ended cleanly: {frame:?}");
            if frame.kind == frames::RST_STREAM {
                break;
            }
        }
    }
}

#[tokio::test]
async fn an_answer_that_trickles_within_the_limit_passes() {
    let backend = Backend::raw(|stream, _| async move {
        let mut stream = Raw::over(stream);
        stream.read_head().await;
        stream
            .write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
            .await;
        for byte in b"hello".chunks(1) {
            tokio::time::sleep(PAUSE).await;
            stream.write(byte).await;
        }
    })
    .run()
    .await;
    let proxy = Proxy::to(&backend)
        .listener("request_timeout = 1")
        .run()
        .await;
    let began = Instant::now();
    let answer = proxy.client().await.get("/").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.text(), "hello");
    assert!(began.elapsed() > Duration::from_secs(1));
}

#[tokio::test]
async fn answers_408_when_the_client_stalls_within_its_body() {
    let backend = Backend::echo().run().await;
    let proxy = Proxy::to(&backend)
        .listener("request_timeout = 1")
        .run()
        .await;
    let began = Instant::now();
    let mut client = proxy.raw().await;
    client
        .write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf a body")
        .await;
    let answer = client.read_response().await;
    assert_eq!(answer.status(), 408);
    assert!(answer.has_line("Connection: close"), "{}", answer.head);
    assert_after_the_limit(began);
    let line = logged(&proxy, 408).await;
    assert_eq!(line["cause"], "client_too_slow", "{line}");
}

#[tokio::test]
async fn a_body_that_trickles_within_the_limit_passes() {
    let backend = Backend::echo().run().await;
    let proxy = Proxy::to(&backend)
        .listener("request_timeout = 1")
        .run()
        .await;
    let mut client = proxy.raw().await;
    let began = Instant::now();
    client
        .write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n")
        .await;
    for byte in b"hello".chunks(1) {
        tokio::time::sleep(PAUSE).await;
        client.write(byte).await;
    }
    let answer = client.read_response().await;
    assert_eq!(answer.status(), 200);
    assert!(answer.body.ends_with(b"hello"));
    assert!(began.elapsed() > Duration::from_secs(1));
}

#[tokio::test]
async fn closes_a_connection_whose_handshake_takes_longer_than_handshake_timeout() {
    let backend = Backend::echo().run().await;
    let mut proxy = Proxy::to(&backend)
        .listener("handshake_timeout = 1")
        .run()
        .await;
    // A record of 512 bytes is announced, with a ClientHello that never comes.
    for start in [
        &b""[..],
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
    ] {
        let began = Instant::now();
        let mut client = Raw::over(proxy.plain().await);
        client.write(start).await;
        assert_eq!(client.read_until_close().await, b"");
        assert_after_the_limit(began);
    }
    proxy
        .wait_for_stderr(|text| {
            text.contains("handshake_timeout") && text.contains("category=\"timeout\" count=2")
        })
        .await;
}

#[tokio::test]
async fn cuts_off_an_http1_client_that_stops_reading() {
    let (backend, mut gone) = endless().await;
    let proxy = Proxy::to(&backend)
        .listener("request_timeout = 1")
        .run()
        .await;
    let began = Instant::now();
    let mut client = proxy.raw().await;
    client.write(GET).await;
    within("the backend sees the cut", gone.recv())
        .await
        .expect("the backend ended first");
    assert_after_the_limit(began);
    let answer = client.read_until_close().await;
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    assert!(!answer.ends_with(b"\r\n0\r\n\r\n"), "ended cleanly");
    let line = logged(&proxy, 200).await;
    assert_eq!(line["cause"], "client_stalled", "{line}");
}

#[tokio::test]
async fn resets_an_http2_stream_that_is_not_read_and_serves_the_others() {
    let (backend, mut gone) = endless().await;
    let proxy = Proxy::to(&backend)
        .listener("request_timeout = 1")
        .run()
        .await;
    let began = Instant::now();
    let mut client = Frames::begin(proxy.tls(&["h2"]).await).await;
    // The connection has room; the stream's 65,535 bytes are used up and never given back.
    client
        .send(frames::WINDOW_UPDATE, 0, 0, &(1u32 << 24).to_be_bytes())
        .await;
    client.get(1, "/").await;
    loop {
        let frame = client.next().await.expect("the connection ended");
        if (frame.kind, frame.stream) == (frames::RST_STREAM, 1) {
            break;
        }
        assert!(
            !frame.ends_stream() && frame.kind != frames::GOAWAY,
            "{frame:?}"
        );
    }
    assert_after_the_limit(began);
    within("the backend sees the cut", gone.recv())
        .await
        .expect("the backend ended first");
    client.get_whole(3, "/small").await;
    let line = proxy
        .wait_for_access(|line| line["request_uri"] == "/")
        .await;
    assert_eq!(line["cause"], "client_stalled", "{line}");
}

#[tokio::test]
async fn answers_504_when_a_server_does_not_accept_within_connect_timeout() {
    let full = FullBacklog::new();
    let proxy = Proxy::new()
        .servers(&[full.address()])
        .group("connect_timeout = 1")
        .run()
        .await;
    let began = Instant::now();
    assert_eq!(proxy.client().await.get("/").await.status, 504);
    assert_after_the_limit(began);
    let line = logged(&proxy, 504).await;
    assert_eq!(line["cause"], "connect_timeout", "{line}");
}

#[tokio::test]
async fn closes_a_tunnel_in_which_nothing_moved_for_request_timeout() {
    let (told, mut closed) = mpsc::unbounded_channel();
    let backend = Backend::raw(move |stream, _| {
        let told = told.clone();
        async move {
            let mut stream = Raw::over(stream);
            stream.read_head().await;
            stream.write(SWITCHED).await;
            for _ in 0..BEATS {
                let beat = stream.read_exactly(4).await;
                stream.write(beat).await;
            }
            stream.read_until_close().await;
            told.send(()).unwrap();
        }
    })
    .run()
    .await;
    let proxy = Proxy::to(&backend)
        .listener("request_timeout = 1")
        .run()
        .await;
    let mut client = proxy.raw().await;
    client.write(UPGRADE).await;
    assert_eq!(client.read_response().await.status(), 101);
    let began = Instant::now();
    for _ in 0..BEATS {
        tokio::time::sleep(PAUSE).await;
        client.write(b"beat").await;
        assert_eq!(client.read_exactly(4).await, b"beat");
    }
    assert!(began.elapsed() > Duration::from_secs(1));
    let began = Instant::now() - PAUSE;
    assert_eq!(client.read_until_close().await, b"");
    assert_after_the_limit(began);
    within("the backend sees the end", closed.recv())
        .await
        .unwrap();
}

/// The access log's line with this status.
async fn logged(proxy: &Running, status: u64) -> serde_json::Value {
    proxy
        .wait_for_access(|line| line["status"].as_u64() == Some(status))
        .await
}

/// A backend whose answers never end, but for `/small`; it tells when a client of such an answer is gone.
async fn endless() -> (Backend, mpsc::UnboundedReceiver<()>) {
    let (told, gone) = mpsc::unbounded_channel();
    let backend = Backend::raw(move |stream, _| {
        let told = told.clone();
        async move {
            let mut stream = Raw::over(stream);
            if stream.read_head().await.unwrap().starts_with("GET /small ") {
                stream
                    .write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    .await;
                stream.read_until_close().await;
                return;
            }
            stream
                .write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await;
            let mut chunk = b"10000\r\n".to_vec();
            chunk.resize(7 + 0x10000, b'x');
            chunk.extend(b"\r\n");
            while stream.try_write(&chunk).await.is_ok() {}
            told.send(()).unwrap();
        }
    })
    .run()
    .await;
    (backend, gone)
}
