//! WebSocket over HTTP/2 (RFC 8441), bridged to an upgrade of HTTP/1.1 at the backend.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::support::backend::{Backend, Behaviour, ok};
use crate::support::client::{Body, Client, empty, request};
use crate::support::frames::{DATA, Frames, HEADERS, RST_STREAM, SETTINGS};
use crate::support::proxy::{Proxy, Reload, Running, Signal};
use crate::support::raw::{Ended, Message, Raw};
use crate::support::within;

/// An extended CONNECT, as browsers send it.
fn asking(path: &str) -> Request<Body> {
    let mut asking = request(Method::CONNECT, path, empty());
    asking
        .extensions_mut()
        .insert(Protocol::from_static("websocket"));
    let headers = asking.headers_mut();
    headers.insert("sec-websocket-version", "13".parse().unwrap());
    asking
}

/// A connection on which the server is known to take extended CONNECTs.
async fn client(running: &Running) -> Client {
    let mut client = running.client_h2().await;
    // Its SETTINGS have come when an answer has.
    client.get("/plain").await;
    client
}

/// A client's side of a tunnel.
async fn open(client: &mut Client, path: &str) -> Raw {
    opened(client.start(asking(path)).await.unwrap()).await
}

async fn opened(answer: Response<Incoming>) -> Raw {
    assert_eq!(answer.status(), StatusCode::OK, "{answer:?}");
    let upgraded = hyper::upgrade::on(answer).await.unwrap();
    Raw::over(TokioIo::new(upgraded))
}

#[tokio::test]
async fn no_fixed_answer_of_a_rule_opens_a_tunnel() {
    let backend = Backend::answering(|request| {
        if request.start().starts_with("GET /plain") {
            return ok(b"");
        }
        b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n".to_vec()
    });
    let backend = backend.run().await;
    let rules = "[[listener.rule]]\nname = \"fixed\"\npriority = 1\npath = [\"/fixed\"]\n\
                 fixed_response = { code = 200, body = \"x\" }\n\
                 [[listener.rule]]\nname = \"refused\"\npriority = 2\npath = [\"/refused\"]\n\
                 fixed_response = { code = 404 }\n\
                 [[listener.rule]]\nname = \"out\"\npriority = 3\ndirection = \"response\"\n\
                 response_status = [\"403\"]\nfixed_response = { code = 200 }\n";
    let running = Proxy::to(&backend).listener(rules).run().await;
    let mut client = client(&running).await;
    for (path, status) in [("/fixed", 501), ("/refused", 404), ("/replaced", 501)] {
        let answer = client.start(asking(path)).await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
    }
}

/// The 101 that a server makes of a request's key.
fn switching(head: &str, fields: &str) -> String {
    let key = field(head, "sec-websocket-key").expect("a key");
    let proof = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, proof.as_bytes()));
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{fields}\r\n"
    )
}

fn field(head: &str, name: &str) -> Option<String> {
    let message = Message {
        head: head.to_owned(),
        body: Vec::new(),
        trailers: String::new(),
    };
    message.field(name).map(str::to_owned)
}

/// Answers `/plain`; else switches, repeats every byte in upper case until the client's end, and says `bye`.
fn shouting() -> Behaviour {
    Backend::raw(|stream, _| async move {
        let mut raw = Raw::over(stream);
        loop {
            let Some(head) = raw.read_head().await else {
                return;
            };
            if !head.contains("/plain") {
                raw.write(switching(&head, "")).await;
                break;
            }
            raw.write(ok(b"plain")).await;
        }
        while let Some(byte) = raw.read_byte().await {
            if raw.try_write([byte.to_ascii_uppercase()]).await.is_err() {
                return;
            }
        }
        let _ = raw.try_write("bye").await;
    })
}

/// Answers `/plain`; else switches and goes on by `script`.
fn switched<F>(script: impl Fn(Raw) -> F + Send + Sync + 'static) -> Behaviour
where
    F: Future<Output = ()> + Send + 'static,
{
    let script = Arc::new(script);
    Backend::raw(move |stream, _| {
        let script = Arc::clone(&script);
        async move {
            let mut raw = Raw::over(stream);
            while let Some(head) = raw.read_head().await {
                if head.contains("/plain") {
                    raw.write(ok(b"plain")).await;
                } else {
                    raw.write(switching(&head, "")).await;
                    return script(raw).await;
                }
            }
        }
    })
}

#[tokio::test]
async fn the_server_says_that_it_takes_extended_connects() {
    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).run().await;
    let mut frames = Frames::begin(running.tls(&["h2"]).await).await;
    let settings = frames.wait_for(SETTINGS, 0).await;
    // SETTINGS_ENABLE_CONNECT_PROTOCOL = 1 (RFC 8441 section 3)
    let said = settings
        .payload
        .chunks(6)
        .any(|setting| setting == [0, 8, 0, 0, 0, 1]);
    assert!(said, "{settings:?}");
}

#[tokio::test]
async fn bytes_pass_both_ways_in_several_tunnels_of_one_connection() {
    let backend = shouting().run().await;
    let running = Proxy::to(&backend).run().await;
    let mut client = client(&running).await;
    let mut first = open(&mut client, "/a").await;
    let mut second = open(&mut client, "/b").await;
    for word in ["one", "two", "three"] {
        for tunnel in [&mut first, &mut second] {
            tunnel.write(word).await;
            let echo = tunnel.read_exactly(word.len()).await;
            assert_eq!(echo, word.to_uppercase().into_bytes());
        }
        assert_eq!(client.get("/plain").await.text(), "plain");
    }
}

/// Answers `/plain`; else tells what head came, and switches with more fields.
fn telling(tell: mpsc::UnboundedSender<String>) -> Behaviour {
    Backend::raw(move |stream, _| {
        let tell = tell.clone();
        async move {
            let mut raw = Raw::over(stream);
            while let Some(head) = raw.read_head().await {
                if head.contains("/plain") {
                    raw.write(ok(b"plain")).await;
                    continue;
                }
                let fields = "Sec-WebSocket-Protocol: chat\r\nSet-Cookie: a=b\r\n\
                    Sec-WebSocket-Extensions: permessage-deflate\r\n";
                raw.write(switching(&head, fields)).await;
                tell.send(head).unwrap();
                raw.drain().await;
                return;
            }
        }
    })
}

#[tokio::test]
async fn the_backend_is_asked_as_http1_asks() {
    let (tell, mut heads) = mpsc::unbounded_channel();
    let backend = telling(tell).run().await;
    let running = Proxy::to(&backend).run().await;
    let mut client = client(&running).await;
    let mut keys = Vec::new();
    for _ in 0..2 {
        let mut asking = asking("/chat?room=1");
        for (name, value) in [
            ("sec-websocket-protocol", "chat, superchat"),
            ("sec-websocket-extensions", "permessage-deflate"),
            ("sec-websocket-key", "bWluZSBpcyBub3QgeW91cnMh"),
            ("origin", "https://localhost"),
            ("cookie", "c=d"),
        ] {
            asking.headers_mut().insert(name, value.parse().unwrap());
        }
        let _tunnel = opened(client.start(asking).await.unwrap()).await;
        let head = within("the backend is asked", heads.recv()).await.unwrap();
        assert!(head.starts_with("GET /chat?room=1 HTTP/1.1\r\nHost: localhost\r\n"));
        for line in [
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Protocol: chat, superchat",
            "Sec-WebSocket-Extensions: permessage-deflate",
            "Origin: https://localhost",
            "Cookie: c=d",
            "X-Forwarded-For: 127.0.0.1",
        ] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
        }
        keys.push(field(&head, "sec-websocket-key").unwrap());
    }
    assert!(!keys.iter().any(|key| key == "bWluZSBpcyBub3QgeW91cnMh"));
    assert_ne!(keys[0], keys[1], "every key is a new one");
}

#[tokio::test]
async fn the_client_is_told_as_http2_tells() {
    let (tell, _heads) = mpsc::unbounded_channel();
    let backend = telling(tell).run().await;
    let running = Proxy::to(&backend).run().await;
    let mut client = client(&running).await;
    let answer = client.start(asking("/chat")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    for (name, value) in [
        ("sec-websocket-protocol", Some("chat")),
        ("sec-websocket-extensions", Some("permessage-deflate")),
        ("set-cookie", Some("a=b")),
        ("sec-websocket-accept", None),
        ("upgrade", None),
        ("connection", None),
        ("content-length", None),
    ] {
        let found = answer.headers().get(name).map(|v| v.to_str().unwrap());
        assert_eq!(found, value, "{name}");
    }
}

#[tokio::test]
async fn each_side_ends_by_itself() {
    let backend = shouting().run().await;
    let running = Proxy::to(&backend).run().await;
    let mut client = client(&running).await;
    let mut tunnel = open(&mut client, "/chat").await;
    tunnel.write("last words").await;
    tunnel.half_close().await;
    let (rest, ended) = tunnel.read_to_end().await;
    assert_eq!(String::from_utf8_lossy(&rest), "LAST WORDSbye");
    assert_eq!(ended, Ended::Cleanly);
    let line = running
        .wait_for_access(|line| line["request_uri"] == "/chat")
        .await;
    assert_eq!(line["status"], 200, "{line}");
    assert_eq!(line["request_method"], "CONNECT", "{line}");
    assert_eq!(line["upstream_status"], 101, "{line}");
    assert_eq!(line["body_bytes_sent"], 13, "{line}");
    assert_eq!(line["cause"], "-", "{line}");
}

#[tokio::test]
async fn the_backends_end_leaves_the_client_to_finish() {
    let heard = Arc::new(Notify::new());
    let tell = Arc::clone(&heard);
    let backend = switched(move |mut raw| {
        let tell = Arc::clone(&tell);
        async move {
            raw.write("over").await;
            raw.half_close().await;
            assert_eq!(raw.read_to_end().await.0, b"and out");
            tell.notify_one();
        }
    })
    .run()
    .await;
    let running = Proxy::to(&backend).run().await;
    let mut client = client(&running).await;
    let mut tunnel = open(&mut client, "/chat").await;
    let over = tunnel.read_to_end().await;
    assert_eq!(over, (b"over".to_vec(), Ended::Cleanly));
    tunnel.write("and out").await;
    tunnel.half_close().await;
    within("the backend hears the client out", heard.notified()).await;
}

#[tokio::test]
async fn an_answer_that_is_no_switch_passes_unless_it_would_open_a_tunnel() {
    let other = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    for (name, bytes, status, text) in [
        (
            "refused",
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
            403,
            Some("no"),
        ),
        (
            "elsewhere",
            "HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
            302,
            Some(""),
        ),
        (
            "no tunnel, and yet well",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            502,
            None,
        ),
        ("the answer to another key", other, 502, None),
        (
            "no answer to the key",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            502,
            None,
        ),
    ] {
        let backend =
            Backend::answering(
                move |request| match request.start().starts_with("GET /plain") {
                    true => ok(b"plain"),
                    false => bytes.as_bytes().to_vec(),
                },
            )
            .run()
            .await;
        let running = Proxy::to(&backend).run().await;
        let mut client = client(&running).await;
        let answer = client.start(asking("/chat")).await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{name}");
        if let Some(text) = text {
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, text, "{name}");
        } else {
            let line = running.wait_for_access(|line| line["status"] == 502).await;
            assert_eq!(line["cause"], "backend_upgrade", "{name}: {line}");
        }
        assert_eq!(client.get("/plain").await.text(), "plain", "{name}");
    }
}

#[tokio::test]
async fn only_websocket_is_tunnelled() {
    let backend = Backend::echo().run().await;
    let running = Proxy::to(&backend).run().await;
    let mut client = client(&running).await;
    for protocol in ["connect-udp", "webtransport", "h2c"] {
        let mut other = asking("/chat");
        let protocol = Protocol::from_static(protocol);
        other.extensions_mut().insert(protocol);
        let answer = client.send(other).await;
        assert_eq!(answer.status, StatusCode::NOT_IMPLEMENTED);
        assert!(
            answer
                .field("proxy-status")
                .unwrap()
                .contains("protocol_unknown"),
            "{answer:?}"
        );
    }
    let plain = request(Method::CONNECT, "/", empty());
    let answer = client.send(plain).await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(backend.requests().len(), 1, "only the plain request");
}

#[tokio::test]
async fn a_client_that_resets_its_stream_ends_the_tunnel() {
    let gone = Arc::new(Notify::new());
    let tell = Arc::clone(&gone);
    let backend = switched(move |mut raw| {
        let tell = Arc::clone(&tell);
        async move {
            raw.drain().await;
            // A half-close alone would leave this side open to writing.
            while raw.try_write([b'x'; 1024]).await.is_ok() {
                tokio::task::yield_now().await;
            }
            tell.notify_one();
        }
    })
    .run()
    .await;
    let running = Proxy::to(&backend).run().await;
    let mut client = client(&running).await;
    drop(open(&mut client, "/chat").await);
    within("the backend's side ends", gone.notified()).await;
    assert_eq!(client.get("/plain").await.text(), "plain");
}

#[tokio::test]
async fn a_backend_that_breaks_off_resets_the_stream() {
    let backend = Backend::raw(|stream, _| async move {
        // Closing with bytes unread resets a TCP connection.
        let linger = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        linger.unwrap();
        let mut raw = Raw::over(stream);
        let head = raw.read_head().await.unwrap();
        raw.write(switching(&head, "")).await;
        raw.read_exactly(4).await;
    })
    .run()
    .await;
    let running = Proxy::to(&backend).run().await;
    let mut frames = Frames::begin(running.tls(&["h2"]).await).await;
    frames.connect(1, "/chat").await;
    assert!(frames.wait_for(HEADERS, 1).await.is_ok());
    frames.send(DATA, 0, 1, b"last").await;
    let reset = frames.wait_for_reset(1).await;
    // CANCEL (RFC 8441 section 5)
    assert_eq!(reset, 8);
}

#[tokio::test]
async fn a_side_that_takes_nothing_holds_the_other_back() {
    const ENOUGH: u64 = 64 << 20;
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let backend = switched(move |mut raw| {
        let count = Arc::clone(&count);
        async move {
            let chunk = vec![b'x'; 16 * 1024];
            while count.load(Ordering::SeqCst) < ENOUGH {
                if raw.unhurried_write(&chunk).await.is_err() {
                    return;
                }
                count.fetch_add(chunk.len() as u64, Ordering::SeqCst);
            }
        }
    })
    .run()
    .await;
    let running = Proxy::to(&backend).run().await;
    let mut frames = Frames::begin(running.tls(&["h2"]).await).await;
    frames.connect(1, "/flood").await;
    assert!(frames.wait_for(HEADERS, 1).await.is_ok());
    let mut before = u64::MAX;
    within("the backend is held back", async {
        // Another stream is served, and meanwhile nothing more is taken.
        while sent.load(Ordering::SeqCst) != before {
            before = sent.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    let held = sent.load(Ordering::SeqCst);
    assert!(held < ENOUGH / 2, "{held} bytes were taken of the backend");
    let mut bytes = 0;
    for frame in frames.seen() {
        bytes += if frame.kind == DATA {
            frame.payload.len()
        } else {
            0
        };
    }
    assert!(bytes <= 65_535, "the client's window holds: {bytes}");
}

#[tokio::test]
async fn a_tunnel_in_which_nothing_moved_for_request_timeout_is_reset() {
    let backend = shouting().run().await;
    let running = Proxy::to(&backend)
        .listener("request_timeout = 1")
        .run()
        .await;
    let mut frames = Frames::begin(running.tls(&["h2"]).await).await;
    frames.connect(1, "/chat").await;
    assert!(frames.wait_for(HEADERS, 1).await.is_ok());
    let began = Instant::now();
    assert_eq!(frames.wait_for_reset(1).await, 8);
    assert!(began.elapsed() >= Duration::from_millis(900));
}

#[tokio::test]
async fn a_tunnel_outlives_a_reload_and_its_group_by_drain_timeout() {
    let backend = shouting().run().await;
    let mut running = Proxy::to(&backend)
        .server("workers = 1\ndrain_timeout = 1")
        .run()
        .await;
    let mut client = client(&running).await;
    let mut tunnel = open(&mut client, "/chat").await;
    assert_eq!(running.reload().await, Reload::TakenUp);
    tunnel.write("still").await;
    assert_eq!(tunnel.read_exactly(5).await, b"STILL");
    running.rewrite(|toml| toml.replace("\"app\"", "\"new\""));
    let began = Instant::now();
    assert_eq!(running.reload().await, Reload::TakenUp);
    tunnel.write("even now").await;
    assert_eq!(tunnel.read_exactly(8).await, b"EVEN NOW");
    tunnel.read_to_end().await;
    assert!(began.elapsed() >= Duration::from_secs(1));
    let line = running
        .wait_for_access(|line| line["request_uri"] == "/chat")
        .await;
    assert_eq!(line["cause"], "drained", "{line}");
    // The connection goes on.
    assert_eq!(client.get("/plain").await.text(), "plain");
}

#[tokio::test]
async fn a_tunnel_gets_drain_timeout_at_shutdown() {
    let backend = shouting().run().await;
    let mut running = Proxy::to(&backend)
        .server("workers = 1\ndrain_timeout = 1")
        .run()
        .await;
    let mut client = client(&running).await;
    let mut tunnel = open(&mut client, "/chat").await;
    running.signal(Signal::TERM);
    running
        .wait_for_stderr(|text| text.contains("draining"))
        .await;
    tunnel.write("still").await;
    assert_eq!(tunnel.read_exactly(5).await, b"STILL");
    tunnel.read_to_end().await;
    assert_eq!(running.exit().await.code(), Some(1));
}

#[tokio::test]
async fn what_a_client_sends_before_the_answer_is_kept_until_then() {
    let backend = shouting().run().await;
    let running = Proxy::to(&backend).run().await;
    let mut frames = Frames::begin(running.tls(&["h2"]).await).await;
    frames.connect(1, "/chat").await;
    frames.send(DATA, 0, 1, b"hasty").await;
    assert!(frames.wait_for(HEADERS, 1).await.is_ok());
    let mut echo = Vec::new();
    while echo.len() < 5 {
        echo.extend(frames.wait_for(DATA, 1).await.payload);
    }
    assert_eq!(echo, b"HASTY");
    frames.send(RST_STREAM, 0, 1, &8_u32.to_be_bytes()).await;
    running
        .wait_for_access(|line| line["request_uri"] == "/chat")
        .await;
}
