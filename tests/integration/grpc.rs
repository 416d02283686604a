//! gRPC: HTTP/2 from the client to the backend, messages and trailers both ways, each side at its own pace.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Frame;
use hyper::ext::Protocol;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::backend::Backend;
use crate::support::client::{Body, Client, Response, empty, full, request, streamed};
use crate::support::frames::{DATA, Frame as Received, Frames, HEADERS, RST_STREAM, SETTINGS};
use crate::support::grpc::{Call, GrpcBackend, head, send, trailers};
use crate::support::program::{Service, run};
use crate::support::proxy::{Proxy, Reload, Running, free_port};
use crate::support::{peer, within};

fn before(backends: &[&GrpcBackend]) -> Proxy {
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address()).collect();
    Proxy::new()
        .servers(&addresses)
        .group("protocol = \"grpc\"")
        .server("workers = 1")
}

fn calling(path: &str, body: Body) -> Request<Body> {
    let mut calling = request(Method::POST, path, body);
    let headers = calling.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    calling
}

async fn call(client: &mut Client, message: &'static str) -> Response {
    client
        .send(calling("/pkg.Service/Call", full(message)))
        .await
}

fn status(response: &Response) -> Option<&str> {
    let trailers = response.trailers.as_ref()?;
    trailers.get("grpc-status")?.to_str().ok()
}

/// Why a stream was reset.
fn reason(error: &hyper::Error) -> Option<Reason> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<h2::Error>()?.reason()
}

#[tokio::test]
async fn a_call_passes_with_its_fields_messages_and_trailers() {
    let (tell, mut seen) = mpsc::unbounded_channel();
    let backend = GrpcBackend::run(move |mut call| {
        let tell = tell.clone();
        async move {
            let mut stream = call.begin();
            let (parts, mut body) = call.request.into_parts();
            let message = body.data().await.unwrap().unwrap();
            let theirs = body.trailers().await.unwrap();
            tell.send((parts, message, theirs)).unwrap();
            stream.send_data("answer".into(), false).unwrap();
            let mut ours = trailers(0);
            ours.insert("grpc-message", "fine".parse().unwrap());
            ours.insert("x-forwarded-for", "6.6.6.6".parse().unwrap());
            stream.send_trailers(ours).unwrap();
        }
    })
    .await;
    let running = before(&[&backend]).run().await;
    let mut client = running.client_h2().await;
    let (sender, body) = streamed();
    let mut calling = calling("/pkg.Service/Call", body);
    for (name, value) in [
        ("grpc-timeout", "5S"),
        ("accept-encoding", "gzip, br"),
        ("x-forwarded-clientcert-subjectdn", "CN=forged"),
    ] {
        calling.headers_mut().insert(name, value.parse().unwrap());
    }
    let mut more = HeaderMap::new();
    more.insert("x-checksum", "1".parse().unwrap());
    more.insert("content-length", "1".parse().unwrap());
    sender.send(Frame::data("question".into())).await.unwrap();
    tokio::spawn(async move {
        sender.send(Frame::trailers(more)).await.unwrap();
    });
    let answer = client.send(calling).await;
    assert_eq!(answer.text(), "answer");
    assert_eq!(answer.field("content-type"), Some("application/grpc"));
    assert_eq!(answer.field("content-encoding"), None);
    let names: Vec<_> = answer.trailers.iter().flat_map(HeaderMap::keys).collect();
    assert_eq!(names, ["grpc-status", "grpc-message"]);
    let (parts, message, theirs) = seen.recv().await.unwrap();
    assert_eq!(parts.uri, "http://localhost/pkg.Service/Call");
    assert_eq!(message, "question");
    for (name, value) in [
        ("te", Some("trailers")),
        ("grpc-timeout", Some("5S")),
        ("content-type", Some("application/grpc")),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("x-forwarded-clientcert-subjectdn", None),
        ("host", None),
    ] {
        let found = parts.headers.get(name).map(|v| v.to_str().unwrap());
        assert_eq!(found, value, "{name}");
    }
    let theirs = theirs.unwrap();
    assert_eq!(theirs.keys().collect::<Vec<_>>(), ["x-checksum"]);
}

#[tokio::test]
async fn the_log_tells_of_a_call() {
    let backend = GrpcBackend::echo().await;
    let running = before(&[&backend]).run().await;
    let mut client = running.client_h2().await;
    call(&mut client, "12345").await;
    let line = running.wait_for_access(|line| line["status"] == 200).await;
    assert_eq!(line["upstream_status"], 200, "{line}");
    assert_eq!(line["upstream_addr"], backend.address().to_string());
    assert_eq!(line["body_bytes_sent"], 5, "{line}");
    assert_eq!(line["cause"], "-", "{line}");
}

#[tokio::test]
async fn an_answer_of_trailers_only_stays_one() {
    let backend = GrpcBackend::run(|mut call| async move {
        let mut answer = head();
        answer.headers_mut().extend(trailers(12));
        call.respond.send_response(answer, true).unwrap();
    })
    .await;
    let running = before(&[&backend]).run().await;
    let mut frames = Frames::begin(running.tls(&["h2"]).await).await;
    frames.get(1, "/").await;
    let head = frames.wait_for(HEADERS, 1).await;
    assert!(head.ends_stream(), "{head:?}");
    // A client that is still sending is answered, too.
    let mut client = running.client_h2().await;
    let (sender, body) = streamed();
    sender.send(Frame::data("early".into())).await.unwrap();
    let answer = client.send(calling("/", body)).await;
    assert_eq!(answer.field("grpc-status"), Some("12"));
    drop(sender);
}

#[tokio::test]
async fn messages_pass_both_ways_while_the_call_goes_on() {
    let backend = GrpcBackend::echo().await;
    let running = before(&[&backend]).run().await;
    let mut client = running.client_h2().await;
    let (sender, body) = streamed();
    let mut answer = client.start(calling("/", body)).await.unwrap().into_body();
    for round in 0..20 {
        let message = Bytes::from(format!("message {round}"));
        sender.send(Frame::data(message.clone())).await.unwrap();
        let echo = within("the echo", answer.frame()).await.unwrap().unwrap();
        assert_eq!(echo.into_data().unwrap(), message);
    }
    drop(sender);
    let end = within("the end", answer.frame()).await.unwrap().unwrap();
    assert_eq!(end.into_trailers().unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn four_mebibytes_pass_both_ways() {
    let backend = GrpcBackend::echo().await;
    let running = before(&[&backend]).run().await;
    let mut client = running.client_h2().await;
    let message: Vec<u8> = (0..4 << 20).map(|n: u32| n.to_le_bytes()[1]).collect();
    let answer = client.send(calling("/", full(message.clone()))).await;
    assert!(answer.body == message);
    assert_eq!(status(&answer), Some("0"));
}

#[tokio::test]
async fn a_hundred_calls_at_once_share_two_connections() {
    let all = Arc::new(tokio::sync::Barrier::new(100));
    let gate = Arc::clone(&all);
    let backend = GrpcBackend::run(move |mut call| {
        let gate = Arc::clone(&gate);
        async move {
            gate.wait().await;
            call.answer("together");
        }
    })
    .await;
    let running = before(&[&backend]).run().await;
    let client = running.client_h2().await;
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        let mut client = client.another();
        calls.spawn(async move { call(&mut client, "x").await });
    }
    while let Some(answer) = calls.join_next().await {
        let answer = answer.unwrap();
        assert_eq!(
            (answer.text().as_str(), status(&answer)),
            ("together", Some("0"))
        );
    }
    // Of wide windows for the first of one client, and of narrow ones.
    assert_eq!(backend.connections(), 2);
}

#[tokio::test]
async fn a_server_that_allows_few_streams_gets_more_connections() {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(2);
    let all = Arc::new(tokio::sync::Barrier::new(6));
    let gate = Arc::clone(&all);
    let backend = GrpcBackend::with(builder, move |mut call| {
        let gate = Arc::clone(&gate);
        async move {
            if call.number > 0 {
                gate.wait().await;
            }
            call.answer("yes");
        }
    })
    .await;
    let running = before(&[&backend]).run().await;
    let mut client = running.client_h2().await;
    // The first call learns what the server allows.
    call(&mut client, "x").await;
    let mut calls = JoinSet::new();
    for _ in 0..6 {
        let mut client = client.another();
        calls.spawn(async move { call(&mut client, "x").await });
    }
    while let Some(answer) = calls.join_next().await {
        assert_eq!(answer.unwrap().text(), "yes");
    }
    assert!(backend.connections() >= 3, "{}", backend.connections());
}

#[tokio::test]
async fn a_client_that_takes_nothing_holds_its_own_call_back_and_no_other() {
    const ENOUGH: u64 = 64 << 20;
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let backend = GrpcBackend::run(move |mut call| {
        let count = Arc::clone(&count);
        async move {
            if call.request.uri().path() != "/flood" {
                return call.answer("served");
            }
            let mut stream = call.begin();
            while count.load(Ordering::SeqCst) < ENOUGH {
                if send(&mut stream, Bytes::from(vec![0; 16384]))
                    .await
                    .is_err()
                {
                    return;
                }
                count.fetch_add(16384, Ordering::SeqCst);
            }
        }
    })
    .await;
    let running = before(&[&backend]).run().await;
    let mut frames = Frames::begin(running.tls(&["h2"]).await).await;
    for number in 0..20 {
        frames.get(2 * number + 1, "/flood").await;
    }
    let mut other = running.client_h2().await;
    let mut before = u64::MAX;
    while sent.load(Ordering::SeqCst) != before {
        before = sent.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(call(&mut other, "x").await.text(), "served");
    }
    // What lies in windows and buffers of twenty calls.
    assert!(
        before < ENOUGH / 8,
        "{before} bytes were taken of the backend"
    );
    assert_eq!(backend.connections(), 2);
}

/// Sends without an end on every call, and counts all that is taken.
async fn flooding(taken: &Arc<AtomicU64>) -> GrpcBackend {
    let taken = Arc::clone(taken);
    GrpcBackend::run(move |mut call| {
        let taken = Arc::clone(&taken);
        async move {
            let mut stream = call.begin();
            while send(&mut stream, Bytes::from_static(&[0; 512]))
                .await
                .is_ok()
            {
                taken.fetch_add(512, Ordering::SeqCst);
            }
        }
    })
    .await
}

/// A client whose windows are closed.
async fn closed(running: &Running) -> Frames {
    let mut frames = Frames::begin(running.tls(&["h2"]).await).await;
    let window = [0, 4, 0, 0, 0, 0];
    frames.send(SETTINGS, 0, 0, &window).await;
    frames
}

/// The first frame that comes on a stream.
async fn first(frames: &mut Frames, stream: u32) -> Received {
    loop {
        let frame = frames.next().await.expect("the connection ended");
        if frame.stream == stream {
            return frame;
        }
    }
}

#[tokio::test]
async fn calls_of_a_client_that_takes_nothing_hold_no_more_than_connection_memory() {
    const MEMORY: u64 = 1 << 20;
    let taken = Arc::default();
    let backend = flooding(&taken).await;
    let running = before(&[&backend]).run().await;
    let mut frames = closed(&running).await;
    for number in 0..128 {
        frames.get(2 * number + 1, "/").await;
    }
    for begun in 0..128 {
        let frame = loop {
            let frame = frames.next().await.expect("the connection ended");
            if matches!(frame.kind, HEADERS | RST_STREAM) {
                break frame;
            }
        };
        assert_eq!(frame.kind, HEADERS, "{begun}: {frame:?}");
    }
    // Nobody is refused, and every call has begun.
    assert_eq!(backend.requests(), 128);
    let mut before = u64::MAX;
    while taken.load(Ordering::SeqCst) != before {
        before = taken.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!((128 * 4096..=MEMORY).contains(&before), "{before} bytes");
}

#[tokio::test]
async fn a_call_that_the_connection_has_no_memory_for_is_refused_until_another_ends() {
    let backend = flooding(&Arc::default()).await;
    let running = before(&[&backend])
        .limits("connection_memory = 65536")
        .run()
        .await;
    let mut frames = closed(&running).await;
    let mut stream = 1;
    // Three quarters of 64 KiB are twelve windows, less the heads.
    loop {
        frames.get(stream, "/").await;
        let answer = first(&mut frames, stream).await;
        if answer.kind == RST_STREAM {
            assert_eq!(answer.payload, [0, 0, 0, 7], "REFUSED_STREAM");
            break;
        }
        assert_eq!(answer.kind, HEADERS);
        stream += 2;
    }
    assert!((10..=12).contains(&backend.requests()), "{stream}");
    let line = running
        .wait_for_access(|line| line["cause"] == "connection_memory")
        .await;
    assert_eq!(line["status"], 503, "{line}");
    frames.send(RST_STREAM, 0, 1, &[0, 0, 0, 8]).await;
    within("one that has ended makes room", async {
        loop {
            stream += 2;
            frames.get(stream, "/").await;
            let answer = first(&mut frames, stream).await;
            if answer.kind == HEADERS {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_backend_that_takes_nothing_holds_the_client_back() {
    let backend = GrpcBackend::run(|mut call| async move {
        // The body is kept, and never read.
        call.reset().await;
    })
    .await;
    let running = before(&[&backend]).run().await;
    let mut client = running.client_h2().await;
    let (sender, body) = streamed();
    let answer = tokio::spawn(async move { client.start(calling("/", body)).await });
    let mut taken = 0;
    let chunk = Bytes::from(vec![0; 64 * 1024]);
    // The client's side is held back as soon as a chunk is not taken for a while.
    while let Ok(sent) = tokio::time::timeout(
        Duration::from_millis(500),
        sender.send(Frame::data(chunk.clone())),
    )
    .await
    {
        sent.unwrap();
        taken += chunk.len();
        assert!(taken < 8 << 20, "{taken} bytes were taken of the client");
    }
    answer.abort();
}

#[tokio::test]
async fn a_client_may_send_on_although_it_takes_nothing() {
    const UP: usize = 1 << 20;
    let (tell, mut heard) = mpsc::unbounded_channel();
    let backend = GrpcBackend::run(move |mut call| {
        let tell = tell.clone();
        async move {
            let mut stream = call.begin();
            // More than the client's window, of which it takes nothing.
            tokio::spawn(async move {
                let _ = send(&mut stream, Bytes::from(vec![0; 4 << 20])).await;
            });
            let mut body = call.request.into_body();
            let mut received = 0;
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
                received += data.len();
            }
            tell.send(received).unwrap();
        }
    })
    .await;
    let running = before(&[&backend]).run().await;
    let mut frames = Frames::begin(running.tls(&["h2"]).await).await;
    frames.post(1, "/").await;
    assert!(frames.wait_for(HEADERS, 1).await.is_ok());
    let mut received = 0;
    while received < 65_535 {
        received += frames.wait_for(DATA, 1).await.payload.len();
    }
    // From here on the answer is held back by the client.
    for _ in 0..UP / 16384 - 1 {
        frames.send(DATA, 0, 1, &[0; 16384]).await;
        frames.wait_for_room(1, 16384).await;
    }
    frames.send(DATA, 1, 1, &[0; 16384]).await;
    assert_eq!(within("all of it came", heard.recv()).await, Some(UP));
}

#[tokio::test]
async fn a_client_that_cancels_resets_the_backends_stream() {
    let (tell, mut resets) = mpsc::unbounded_channel();
    let backend = GrpcBackend::run(move |mut call| {
        let tell = tell.clone();
        async move {
            if call.request.uri().path() == "/begun" {
                let mut stream = call.begin();
                stream.send_data("first".into(), false).unwrap();
                let reason = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
                tell.send(reason.unwrap()).unwrap();
            } else {
                let reason = call.reset().await;
                tell.send(reason).unwrap();
            }
        }
    })
    .await;
    let running = before(&[&backend]).run().await;
    for (path, begun) in [("/waiting", false), ("/begun", true)] {
        let mut frames = Frames::begin(running.tls(&["h2"]).await).await;
        let before = backend.requests();
        frames.post(1, path).await;
        frames.send(DATA, 0, 1, b"x").await;
        if begun {
            frames.wait_for(DATA, 1).await;
        }
        within("the backend is asked", async {
            while backend.requests() == before {
                tokio::task::yield_now().await;
            }
        })
        .await;
        frames.send(RST_STREAM, 0, 1, &8_u32.to_be_bytes()).await;
        let reset = within("the backend is told", resets.recv()).await;
        assert_eq!(reset, Some(Reason::CANCEL), "{path}");
    }
    assert_eq!(backend.connections(), 1, "only streams were reset");
}

#[tokio::test]
async fn a_reset_by_the_backend_reaches_the_client_with_its_code() {
    let backend = GrpcBackend::run(|mut call| async move {
        let path = call.request.uri().path().to_owned();
        let (when, code) = path[1..].split_once('/').unwrap();
        let reason = Reason::from(code.parse::<u32>().unwrap());
        if when == "begun" {
            let mut stream = call.begin();
            stream.send_data("first".into(), false).unwrap();
            // Else the reset would overtake what is queued.
            tokio::time::sleep(Duration::from_millis(50)).await;
            stream.send_reset(reason);
        } else {
            call.respond.send_reset(reason);
        }
    })
    .await;
    let running = before(&[&backend]).run().await;
    let mut client = running.client_h2().await;
    for code in [1, 2, 5, 8, 11, 12] {
        for when in ["begun", "unanswered"] {
            let path = format!("/{when}/{code}");
            let error = client.try_send(calling(&path, full("x"))).await;
            let error = error.expect_err("a reset");
            assert_eq!(
                reason(&error),
                Some(Reason::from(code)),
                "{path}: {error:?}"
            );
            let line = running
                .wait_for_access(|line| line["request_uri"] == path.as_str())
                .await;
            assert_eq!(line["cause"], "backend_reset", "{line}");
        }
    }
    assert_eq!(backend.requests(), 12, "none was asked again");
}

#[tokio::test]
async fn a_call_that_was_refused_goes_out_again() {
    let backend = GrpcBackend::run(|mut call| async move {
        if call.number == 0 {
            call.respond.send_reset(Reason::REFUSED_STREAM);
            return;
        }
        let message = call.request.body_mut().data().await.unwrap().unwrap();
        assert_eq!(message, "once");
        call.answer("at the second attempt");
    })
    .await;
    let running = before(&[&backend]).run().await;
    let mut client = running.client_h2().await;
    let answer = call(&mut client, "once").await;
    assert_eq!(answer.text(), "at the second attempt");
    assert_eq!(backend.requests(), 2);
}

#[tokio::test]
async fn a_call_that_goes_out_again_goes_out_whole() {
    let backend = GrpcBackend::run(|mut call| async move {
        let mut body = call.request.into_body();
        let mut received = Vec::new();
        while let Some(data) = body.data().await {
            received.extend(data.unwrap());
        }
        let theirs = body.trailers().await.unwrap();
        if call.number == 0 {
            call.respond.send_reset(Reason::REFUSED_STREAM);
            return;
        }
        let mut stream = call.respond.send_response(head(), false).unwrap();
        stream.send_data(received.into(), false).unwrap();
        stream.send_trailers(theirs.unwrap_or_default()).unwrap();
    })
    .await;
    let running = before(&[&backend]).run().await;
    let mut client = running.client_h2().await;
    let (sender, body) = streamed();
    tokio::spawn(async move {
        for piece in ["one ", "two ", "three"] {
            sender.send(Frame::data(piece.into())).await.unwrap();
        }
        let mut more = HeaderMap::new();
        more.insert("x-checksum", "1".parse().unwrap());
        sender.send(Frame::trailers(more)).await.unwrap();
    });
    let answer = client.send(calling("/", body)).await;
    assert_eq!(answer.text(), "one two three");
    assert_eq!(answer.trailers.unwrap()["x-checksum"], "1");
    assert_eq!(backend.requests(), 2);
}

#[tokio::test]
async fn a_call_that_everyone_refuses_is_refused() {
    let refusing = || {
        GrpcBackend::run(|mut call| async move {
            call.respond.send_reset(Reason::REFUSED_STREAM);
        })
    };
    let (one, other) = (refusing().await, refusing().await);
    let running = before(&[&one, &other]).run().await;
    let mut client = running.client_h2().await;
    let refused = client.try_send(calling("/", full("x"))).await;
    let error = refused.expect_err("a reset");
    assert_eq!(reason(&error), Some(Reason::REFUSED_STREAM));
    assert_eq!((one.requests(), other.requests()), (2, 2));
}

#[tokio::test]
async fn a_call_too_large_to_be_kept_is_not_sent_again_in_part() {
    let backend = GrpcBackend::run(|mut call| async move {
        let mut body = call.request.into_body();
        let mut received = 0;
        while received < 32 * 1024 {
            let data = body.data().await.unwrap().unwrap();
            let _ = body.flow_control().release_capacity(data.len());
            received += data.len();
        }
        call.respond.send_reset(Reason::REFUSED_STREAM);
    })
    .await;
    let running = before(&[&backend]).run().await;
    let mut client = running.client_h2().await;
    let refused = client
        .try_send(calling("/", full(vec![0; 64 * 1024])))
        .await;
    let error = refused.expect_err("a reset");
    // The client has it whole, and may try again.
    assert_eq!(reason(&error), Some(Reason::REFUSED_STREAM));
    assert_eq!(backend.requests(), 1);
}

#[tokio::test]
async fn a_server_that_leaves_gracefully_fails_no_call() {
    let backend = GrpcBackend::run(|mut call| async move {
        if call.number % 10 == 9 {
            call.leave.notify_one();
        }
        call.answer("served");
    })
    .await;
    let running = before(&[&backend]).run().await;
    let client = running.client_h2().await;
    let mut loops = JoinSet::new();
    for _ in 0..4 {
        let mut client = client.another();
        loops.spawn(async move {
            for _ in 0..100 {
                let answer = call(&mut client, "x").await;
                assert_eq!(
                    (answer.text().as_str(), status(&answer)),
                    ("served", Some("0"))
                );
            }
        });
    }
    while let Some(done) = loops.join_next().await {
        done.unwrap();
    }
    assert!(backend.connections() > 10, "{}", backend.connections());
}

#[tokio::test]
async fn a_stream_outlives_the_goaway_of_its_server() {
    let backend = GrpcBackend::run(|mut call| async move {
        if call.request.uri().path() == "/leave" {
            call.leave.notify_one();
            return call.answer("leaving");
        }
        let mut stream = call.begin();
        let mut body = call.request.into_body();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
            send(&mut stream, data).await.unwrap();
        }
        stream.send_trailers(trailers(0)).unwrap();
    })
    .await;
    let running = before(&[&backend]).run().await;
    let mut client = running.client_h2().await;
    let (sender, body) = streamed();
    let answer = client.another().start(calling("/stream", body)).await;
    let mut answer = answer.unwrap().into_body();
    client.send(calling("/leave", full("x"))).await;
    within("another connection is made", async {
        while backend.connections() == 1 {
            assert_eq!(call(&mut client, "x").await.text(), "x");
        }
    })
    .await;
    sender.send(Frame::data("still".into())).await.unwrap();
    let echo = within("the echo", answer.frame()).await.unwrap().unwrap();
    assert_eq!(echo.into_data().unwrap(), "still");
    drop(sender);
    let end = within("the end", answer.frame()).await.unwrap().unwrap();
    assert_eq!(end.into_trailers().unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn a_server_that_cannot_be_connected_to_is_passed_over() {
    let backend = GrpcBackend::echo().await;
    let closed = free_port();
    let dead = format!("127.0.0.1:{closed}");
    let running = Proxy::new()
        .servers(&[dead.clone(), backend.address().to_string()])
        .group("protocol = \"grpc\"")
        .server("workers = 1")
        .run()
        .await;
    let mut client = running.client_h2().await;
    for _ in 0..4 {
        assert_eq!(call(&mut client, "x").await.text(), "x");
    }
    let alone = Proxy::new()
        .servers(&[dead])
        .group("protocol = \"grpc\"")
        .run()
        .await;
    let client = alone.client_h2().await;
    let mut calls = JoinSet::new();
    for _ in 0..10 {
        let mut client = client.another();
        calls.spawn(async move { call(&mut client, "x").await });
    }
    while let Some(answer) = calls.join_next().await {
        let answer = answer.unwrap();
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
        assert!(
            answer
                .field("proxy-status")
                .unwrap()
                .contains("connect_refused")
        );
    }
}

#[tokio::test]
async fn a_server_of_another_protocol_is_not_believed() {
    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).group("protocol = \"grpc\"").run().await;
    let mut client = running.client_h2().await;
    let answer = call(&mut client, "x").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn a_call_in_which_nothing_moves_for_request_timeout_ends() {
    let backend = GrpcBackend::run(|mut call| async move {
        if call.request.uri().path() == "/begun" {
            let mut stream = call.begin();
            stream.send_data("first".into(), false).unwrap();
            let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
        } else {
            call.reset().await;
        }
    })
    .await;
    let running = before(&[&backend])
        .listener("request_timeout = 1")
        .run()
        .await;
    let began = Instant::now();
    let (mut one, mut other) = (running.client_h2().await, running.client_h2().await);
    let (silent, begun) = tokio::join!(
        one.send(calling("/silent", full("x"))),
        other.try_send(calling("/begun", full("x"))),
    );
    assert_eq!(silent.status, StatusCode::GATEWAY_TIMEOUT);
    begun.expect_err("a reset");
    assert!(began.elapsed() >= Duration::from_millis(900));
    for path in ["/silent", "/begun"] {
        let line = running
            .wait_for_access(|line| line["request_uri"] == path)
            .await;
        assert_eq!(line["cause"], "response_timeout", "{line}");
    }
}

#[tokio::test]
async fn calls_of_clients_that_say_nothing_do_not_take_their_server_out() {
    let backend = GrpcBackend::run(|mut call| async move {
        call.reset().await;
    })
    .await;
    let mut running = before(&[&backend])
        .listener("request_timeout = 1")
        .run()
        .await;
    let mut client = running.client_h2().await;
    let mut silent = JoinSet::new();
    for _ in 0..6 {
        let mut client = running.client_h2().await;
        let (sender, body) = streamed();
        sender.send(Frame::data("x".into())).await.unwrap();
        silent.spawn(async move {
            let answer = client.start(calling("/silent", body)).await;
            drop(sender);
            answer.unwrap().status()
        });
    }
    assert_eq!(silent.join_all().await, [StatusCode::GATEWAY_TIMEOUT; 6]);
    let says = |text: &str| text.contains("reason=\"unanswered\"");
    // One whole call is not enough to take it out either, but the third is.
    call(&mut client, "x").await;
    assert!(!says(&running.stderr()), "{}", running.stderr());
    call(&mut client, "x").await;
    call(&mut client, "x").await;
    running.wait_for_stderr(says).await;
}

#[tokio::test]
async fn a_call_in_which_one_side_speaks_goes_on() {
    let heard = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&heard);
    let backend = GrpcBackend::run(move |mut call| {
        let count = Arc::clone(&count);
        async move {
            let mut stream = call.begin();
            let mut body = call.request.into_body();
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
                count.fetch_add(data.len(), Ordering::SeqCst);
            }
            stream.send_trailers(trailers(0)).unwrap();
        }
    })
    .await;
    let running = before(&[&backend])
        .listener("request_timeout = 1")
        .run()
        .await;
    let mut client = running.client_h2().await;
    let (sender, body) = streamed();
    let answer = client.start(calling("/", body)).await.unwrap();
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        sender.send(Frame::data(".".into())).await.unwrap();
    }
    drop(sender);
    let end = within("the end", answer.into_body().collect())
        .await
        .unwrap();
    assert_eq!(end.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(heard.load(Ordering::SeqCst), 6);
}

#[tokio::test]
async fn other_clients_are_told_that_they_cannot_ask() {
    let backend = GrpcBackend::echo().await;
    let running = before(&[&backend]).run().await;
    let mut client = running.client().await;
    let answer = client.get("/").await;
    assert_eq!(answer.status, StatusCode::HTTP_VERSION_NOT_SUPPORTED);
    let mut client = running.client_h2().await;
    call(&mut client, "x").await;
    let mut websocket = request(Method::CONNECT, "/", empty());
    let protocol = Protocol::from_static("websocket");
    websocket.extensions_mut().insert(protocol);
    let answer = client.send(websocket).await;
    assert_eq!(answer.status, StatusCode::NOT_IMPLEMENTED);
    assert_eq!(backend.requests(), 1);
}

#[tokio::test]
async fn a_connection_survives_reloads_and_a_call_its_group_by_drain_timeout() {
    let backend = GrpcBackend::echo().await;
    let mut running = before(&[&backend])
        .server("workers = 1\ndrain_timeout = 1")
        .run()
        .await;
    let mut client = running.client_h2().await;
    let (sender, body) = streamed();
    let mut answer = client
        .another()
        .start(calling("/", body))
        .await
        .unwrap()
        .into_body();
    assert_eq!(running.reload().await, Reload::TakenUp);
    sender.send(Frame::data("still".into())).await.unwrap();
    let echo = within("the echo", answer.frame()).await.unwrap().unwrap();
    assert_eq!(echo.into_data().unwrap(), "still");
    assert_eq!(call(&mut client, "x").await.text(), "x");
    assert_eq!(backend.connections(), 1);
    running.rewrite(|toml| toml.replace("\"app\"", "\"new\""));
    let began = Instant::now();
    assert_eq!(running.reload().await, Reload::TakenUp);
    let end = within("the call is cut", answer.frame()).await;
    assert!(end.unwrap().is_err());
    assert!(began.elapsed() >= Duration::from_millis(900));
    assert_eq!(call(&mut client, "x").await.text(), "x");
}

#[tokio::test]
async fn connections_are_kept_as_the_group_says() {
    let backend = GrpcBackend::echo().await;
    let running = before(&[&backend]).group("keepalive = false").run().await;
    let mut client = running.client_h2().await;
    for _ in 0..3 {
        assert_eq!(call(&mut client, "x").await.text(), "x");
    }
    assert_eq!(backend.connections(), 3);
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_keepalive_idle() {
    let backend = GrpcBackend::echo().await;
    let running = before(&[&backend]).group("keepalive_idle = 1").run().await;
    let mut client = running.client_h2().await;
    for _ in 0..2 {
        assert_eq!(call(&mut client, "x").await.text(), "x");
        // Twice the limit, and the second between two looks.
        tokio::time::sleep(Duration::from_millis(2500)).await;
    }
    assert_eq!(backend.connections(), 2);
}

#[tokio::test]
async fn a_backend_gone_in_the_middle_breaks_the_call_and_no_later_one() {
    let gone = Arc::new(Notify::new());
    let go = Arc::clone(&gone);
    let backend = GrpcBackend::run(move |mut call: Call| {
        let go = Arc::clone(&go);
        async move {
            if call.number == 0 {
                let mut stream = call.begin();
                stream.send_data("first".into(), false).unwrap();
                go.notified().await;
                call.abort.notify_one();
                std::future::pending().await
            }
            call.answer("later");
        }
    })
    .await;
    let running = before(&[&backend]).run().await;
    let mut client = running.client_h2().await;
    let answer = client.start(calling("/", full("x"))).await.unwrap();
    let mut answer = answer.into_body();
    within("a message", answer.frame()).await.unwrap().unwrap();
    gone.notify_one();
    let end = within("the call breaks", answer.frame()).await;
    assert!(end.unwrap().is_err());
    assert_eq!(call(&mut client, "x").await.text(), "later");
}

#[tokio::test]
async fn nginx_ends_its_connections_and_no_request_fails() {
    let Some(nginx) = peer("nginx") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let prefix = directory.path().to_str().unwrap();
    let config = directory.path().join("nginx.conf");
    let port = free_port();
    let text = format!(
        "daemon off; master_process off; pid {prefix}/pid; error_log {prefix}/error.log;\n\
         events {{}}\n\
         http {{ access_log off; keepalive_requests 10;\n\
         client_body_temp_path {prefix}/body; proxy_temp_path {prefix}/proxy;\n\
         fastcgi_temp_path {prefix}/fastcgi; uwsgi_temp_path {prefix}/uwsgi; scgi_temp_path {prefix}/scgi;\n\
         server {{ listen 127.0.0.1:{port} http2;\n\
         location / {{ return 200 \"$request_method $server_protocol\"; }} }} }}\n"
    );
    std::fs::write(&config, text).unwrap();
    let _nginx = Service::start(nginx, &["-p", prefix, "-c", config.to_str().unwrap()]);
    within("nginx listens", async {
        while tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let running = Proxy::new()
        .servers(&[format!("127.0.0.1:{port}")])
        .group("protocol = \"grpc\"")
        .run()
        .await;
    let client = running.client_h2().await;
    let mut loops = JoinSet::new();
    for _ in 0..4 {
        let mut client = client.another();
        loops.spawn(async move {
            for _ in 0..100 {
                let answer = call(&mut client, "x").await;
                assert_eq!(answer.text(), "POST HTTP/2.0");
            }
        });
    }
    while let Some(done) = loops.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn the_client_and_the_server_of_grpcio_understand_each_other() {
    let Some(python) = peer_with_grpcio() else {
        return;
    };
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/integration/support/grpc_peer.py"
    );
    let mut server = Service::start(&python, &[script, "server"]);
    let port = server.line("").await;
    let running = Proxy::new()
        .servers(&[format!("127.0.0.1:{port}")])
        .group("protocol = \"grpc\"")
        .listener("request_timeout = 5")
        .run()
        .await;
    let authority = running.directory().join("authority.pem");
    std::fs::write(&authority, running.authority().pem()).unwrap();
    let port = running.port().to_string();
    let arguments = [script, "client", &port, authority.to_str().unwrap()];
    let said = run(&python, &arguments).await.succeeded();
    assert!(said.contains("all passed"), "{said}");
}

/// A Python that has grpcio: the one that `LOCKGATE_PYTHON` names, or the system's.
fn peer_with_grpcio() -> Option<PathBuf> {
    let python = std::env::var_os("LOCKGATE_PYTHON").unwrap_or_else(|| "python3".into());
    let python = PathBuf::from(python);
    let import = Command::new(&python).args(["-c", "import grpc"]).output();
    if import.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    assert!(
        std::env::var_os("LOCKGATE_REQUIRE_PEERS").is_none(),
        "{} has no grpcio",
        python.display()
    );
    eprintln!("skipped: {} has no grpcio", python.display());
    None
}
