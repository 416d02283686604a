//! How HTTP/2 connections live and end: streams, PING, the two steps of a GOAWAY, trailers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Method, Uri};
use http_body_util::BodyExt;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::backend::Backend;
use crate::support::client::{Body, empty, request};
use crate::support::frames::{
    CONTINUATION, DATA, Frame, Frames, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, encode, literal,
};
use crate::support::gate::Gate;
use crate::support::proxy::{Proxy, Running, Signal, free_port};
use crate::support::within;

/// REFUSED_STREAM (RFC 9113 section 7)
const REFUSED: u32 = 7;

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

#[tokio::test]
async fn a_client_may_have_128_streams_and_no_more() {
    let mut gate = Gate::new().await;
    let running = Proxy::to(&gate.backend).run().await;
    let mut frames = Frames::begin(running.tls(&["h2"]).await).await;
    let settings = frames.wait_for(SETTINGS, 0).await;
    // SETTINGS_MAX_CONCURRENT_STREAMS
    let said = settings.payload.chunks(6).find(|setting| setting[1] == 3);
    assert_eq!(number(&said.unwrap()[2..]), 128);
    for stream in 0..128 {
        frames.get(2 * stream + 1, "/").await;
    }
    for _ in 0..128 {
        gate.asked().await;
    }
    frames.get(257, "/").await;
    assert_eq!(frames.wait_for_reset(257).await, REFUSED);
    // One that ends makes room for another.
    gate.open();
    let end = loop {
        let frame = frames.next().await.unwrap();
        if frame.ends_stream() {
            break frame;
        }
    };
    assert!(end.stream < 257);
    frames.get(259, "/").await;
    gate.asked().await;
}

#[tokio::test]
async fn a_ping_is_answered_with_its_own_bytes() {
    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).run().await;
    let mut frames = Frames::begin(running.tls(&["h2"]).await).await;
    frames.send(PING, 0, 0, b"lockgate").await;
    let answer = frames.wait_for(PING, 0).await;
    assert_eq!((answer.flags, &*answer.payload), (1, &b"lockgate"[..]));
}

#[tokio::test]
async fn a_goaway_comes_in_two_steps_and_what_crosses_the_first_is_served() {
    let backend = Backend::echo().run().await;
    let mut running = Proxy::to(&backend).run().await;
    let mut frames = Frames::begin(running.tls(&["h2"]).await).await;
    frames.get_whole(1, "/").await;
    running.signal(Signal::TERM);
    let first = frames.wait_for(GOAWAY, 0).await;
    assert_eq!(number(&first.payload), 0x7fff_ffff, "no stream is given up");
    assert_eq!(number(&first.payload[4..]), 0, "NO_ERROR");
    let ping = frames.wait_for(PING, 0).await;
    // Sent before the GOAWAY could have been seen.
    frames.get(3, "/").await;
    frames.send(PING, 1, 0, &ping.payload).await;
    let rest = frames.until_end().await;
    let second = rest.iter().find(|frame| frame.kind == GOAWAY).unwrap();
    assert_eq!(
        number(&second.payload),
        3,
        "what was sent is still answered"
    );
    let served = |frame: &Frame| frame.stream == 3 && frame.is_ok();
    assert!(rest.iter().any(served), "{rest:?}");
    assert!(
        rest.iter()
            .any(|frame| frame.stream == 3 && frame.ends_stream())
    );
    // The proxy waits a moment for a client that has not closed.
    drop(frames);
    assert_eq!(running.exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_client_that_ignores_goaway_is_cut_off_after_drain_timeout() {
    let backend = Backend::echo().run().await;
    let server = "workers = 2\ndrain_timeout = 1";
    let mut running = Proxy::to(&backend).server(server).run().await;
    let mut frames = Frames::begin(running.tls(&["h2"]).await).await;
    // A body that never ends, and a client that says it is there.
    frames.post(1, "/").await;
    let began = Instant::now();
    running.signal(Signal::TERM);
    frames.wait_for(GOAWAY, 0).await;
    let pings = frames.ping_until_end(Duration::from_millis(50));
    within("the connection ends", pings).await;
    assert!(began.elapsed() >= Duration::from_millis(900));
    assert_eq!(running.exit().await.code(), Some(1));
}

/// Clients that ask in a loop until their connection is told to end: how many requests were served, and
/// the errors of those that were sent and failed.
async fn ask_until_told(
    running: &Running,
    served: &Arc<AtomicUsize>,
) -> JoinSet<Vec<hyper::Error>> {
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        let stream = TokioIo::new(running.tls(&["h2"]).await);
        let handshake = http2::handshake::<_, _, Body>(TokioExecutor::new(), stream);
        let (sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        for _ in 0..4 {
            let (mut sender, served) = (sender.clone(), Arc::clone(served));
            clients.spawn(async move {
                let mut failed = Vec::new();
                while sender.ready().await.is_ok() {
                    let mut asking = request(Method::GET, "/", empty());
                    *asking.uri_mut() = Uri::from_static("https://localhost/");
                    match sender.try_send_request(asking).await {
                        Ok(answer) => match answer.into_body().collect().await {
                            Ok(_) => {
                                served.fetch_add(1, Ordering::SeqCst);
                            }
                            Err(error) => failed.push(error),
                        },
                        // It comes back unsent: to be sent on another connection.
                        Err(error) if error.message().is_some() => {}
                        Err(error) => failed.push(error.into_error()),
                    }
                }
                failed
            });
        }
    }
    clients
}

async fn no_request_fails(clients: JoinSet<Vec<hyper::Error>>) {
    let failed = within("every client is told", clients.join_all()).await;
    let failed: Vec<_> = failed.into_iter().flatten().collect();
    assert!(failed.is_empty(), "{failed:?}");
}

async fn wait_for_load(served: &AtomicUsize) {
    within("requests are served", async {
        while served.load(Ordering::SeqCst) < 100 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn clients_in_a_loop_see_no_failed_request_at_shutdown() {
    let backend = Backend::echo().run().await;
    let mut running = Proxy::to(&backend).run().await;
    let served = Arc::default();
    let clients = ask_until_told(&running, &served).await;
    wait_for_load(&served).await;
    running.signal(Signal::TERM);
    no_request_fails(clients).await;
    assert_eq!(running.exit().await.code(), Some(0));
}

#[tokio::test]
async fn clients_in_a_loop_see_no_failed_request_when_their_listener_goes() {
    let backend = Backend::echo().run().await;
    let mut running = Proxy::to(&backend).run().await;
    let served = Arc::default();
    let clients = ask_until_told(&running, &served).await;
    wait_for_load(&served).await;
    let (old, new) = (running.port().to_string(), free_port().to_string());
    running.rewrite(|toml| toml.replace(&old, &new));
    running.reload().await;
    no_request_fails(clients).await;
}

#[tokio::test]
async fn trailers_of_the_connection_or_too_large_end_their_request() {
    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).run().await;
    // Cut off by h2 at the most bytes that a head may have: still far too many fields.
    let field = literal(&[("x-long", &"x".repeat(100))]);
    let large: Vec<_> = field
        .repeat(1000)
        .chunks(16 * 1024)
        .map(<[u8]>::to_vec)
        .collect();
    for (name, blocks) in [
        (
            "a connection's field",
            vec![literal(&[("connection", "x")])],
        ),
        ("100 KiB", large),
    ] {
        let mut frames = Frames::begin(running.tls(&["h2"]).await).await;
        frames.post(1, "/").await;
        frames.send(DATA, 0, 1, b"content").await;
        let last = blocks.len() - 1;
        for (at, block) in blocks.iter().enumerate() {
            let kind = if at == 0 { HEADERS } else { CONTINUATION };
            let flags = u8::from(at == 0) | if at == last { 4 } else { 0 };
            frames.write(&encode(kind, flags, 1, block)).await;
        }
        let refused = loop {
            match frames.next().await {
                Some(frame) if frame.kind == HEADERS && frame.stream == 1 => {
                    break !frame.is_ok();
                }
                Some(frame) if matches!(frame.kind, RST_STREAM | GOAWAY) => break true,
                Some(_) => {}
                None => break true,
            }
        };
        assert!(refused, "{name}");
    }
    assert!(backend.requests().is_empty(), "{:?}", backend.requests());
}

#[tokio::test]
async fn pseudo_headers_in_trailers_go_no_further() {
    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).run().await;
    let mut frames = Frames::begin(running.tls(&["h2"]).await).await;
    frames.post(1, "/").await;
    frames.send(DATA, 0, 1, b"content").await;
    let block = literal(&[(":path", "/other"), ("x-checksum", "1")]);
    frames.send(HEADERS, 5, 1, &block).await;
    assert!(frames.wait_for(HEADERS, 1).await.is_ok());
    let request = backend.request();
    assert_eq!(request.start(), "POST / HTTP/1.1");
    assert_eq!(request.trailers, "X-Checksum: 1\r\n\r\n");
}
