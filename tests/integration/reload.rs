//! Reload by SIGHUP: what is new is served, what is wrong changes nothing, and nobody notices.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use http_body_util::BodyExt;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::support::backend::{Backend, ok};
use crate::support::client::{empty, request};
use crate::support::gate::Gate;
use crate::support::pki;
use crate::support::proxy::{Proxy, Reload, Running, Signal, free_port};
use crate::support::raw::Raw;
use crate::support::within;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCHED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// A backend that answers `ok`, and echoes what comes in tunnels.
async fn answering_and_tunnelling() -> Backend {
    Backend::raw(|stream, _| async move {
        let mut stream = Raw::over(stream);
        while let Some(request) = stream.read_request_unhurried().await {
            if request.field("upgrade").is_none() {
                stream.write(ok(b"ok")).await;
                continue;
            }
            stream.write(SWITCHED).await;
            while let Some(beat) = stream.read_some().await {
                stream.write(beat).await;
            }
            return;
        }
    })
    .run()
    .await
}

async fn open_tunnel(proxy: &Running) -> Raw {
    let mut tunnel = proxy.raw().await;
    tunnel.write(UPGRADE).await;
    assert_eq!(tunnel.read_response().await.status(), 101);
    tunnel
}

async fn beat(tunnel: &mut Raw) {
    tunnel.write(b"beat").await;
    assert_eq!(tunnel.read_exactly(4).await, b"beat");
}

/// The leaf certificate that a new connection is shown.
async fn shown(proxy: &Running) -> CertificateDer<'static> {
    let stream = proxy.tls(&["http/1.1"]).await;
    let chain = stream.get_ref().1.peer_certificates().unwrap();
    chain[0].clone().into_owned()
}

/// Waits until a port refuses connections: listening sockets are closed a moment after they are given up.
async fn refused(port: u16) {
    within("new connections are refused", async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_wrong_file_changes_nothing_and_every_mistake_is_told() {
    let backend = Backend::echo().run().await;
    let mut proxy = Proxy::to(&backend).run().await;
    let mut client = proxy.client().await;
    assert_eq!(client.get("/").await.status, 200);
    proxy.rewrite(|toml| {
        toml.replace(
            "server_group = \"app\"",
            "server_group = \"ap\"\nrequest_timeout = 9999",
        )
        .replace("workers = 2", "workers = 2\nshutdown_dely = 3")
    });
    assert_eq!(proxy.reload().await, Reload::Refused);
    for mistake in ["`ap`", "9999", "shutdown_dely"] {
        assert!(
            proxy.stderr().contains(mistake),
            "{mistake}: {}",
            proxy.stderr()
        );
    }
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(proxy.client().await.get("/").await.status, 200);
}

#[tokio::test]
async fn a_wrong_certificate_changes_nothing() {
    let backend = Backend::echo().run().await;
    let mut proxy = Proxy::to(&backend).run().await;
    let before = shown(&proxy).await;
    let foreign = proxy.authority().issue(&["localhost"]);
    std::fs::write(proxy.directory().join("site.key"), foreign.key_pem).unwrap();
    assert_eq!(proxy.reload().await, Reload::Refused);
    assert!(proxy.stderr().contains("site.key"), "{}", proxy.stderr());
    assert_eq!(shown(&proxy).await, before);
    assert_eq!(proxy.client().await.get("/").await.status, 200);
}

#[tokio::test]
async fn a_port_in_use_changes_nothing_and_opens_nothing() {
    let backend = Backend::echo().run().await;
    let mut proxy = Proxy::to(&backend).run().await;
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let (taken, free) = (held.local_addr().unwrap().port(), free_port());
    proxy.rewrite(|toml| toml + &plain_listener("free", free) + &plain_listener("taken", taken));
    assert_eq!(proxy.reload().await, Reload::Refused);
    let stderr = proxy.stderr();
    assert!(stderr.contains(&format!("127.0.0.1:{taken}")), "{stderr}");
    assert!(stderr.contains("in use"), "{stderr}");
    let reached = TcpStream::connect(("127.0.0.1", free)).await;
    assert!(reached.is_err(), "{reached:?}");
    assert_eq!(proxy.client().await.get("/").await.status, 200);
}

fn plain_listener(name: &str, port: u16) -> String {
    format!(
        "[[listener]]\nname = \"{name}\"\nprotocol = \"http\"\naddress = \"127.0.0.1\"\nport = {port}\n\
         server_group = \"app\"\n"
    )
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_new_connections_and_old_ones_go_on() {
    let backend = Backend::echo().run().await;
    let mut proxy = Proxy::to(&backend).run().await;
    let mut old = proxy.raw().await;
    let issued = proxy.authority().issue(&["localhost"]);
    pki::write(proxy.directory(), "site", &issued);
    assert_eq!(proxy.reload().await, Reload::TakenUp);
    let new = CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap();
    assert_eq!(shown(&proxy).await, new);
    for _ in 0..2 {
        old.write(GET).await;
        let answer = old.read_response().await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.field("connection"), None);
    }
}

#[tokio::test]
async fn the_next_request_of_an_open_connection_takes_the_new_way() {
    let a = Backend::named("a").run().await;
    let b = Backend::named("b").run().await;
    let mut proxy = Proxy::to(&a).run().await;
    let mut http1 = proxy.client().await;
    let mut http2 = proxy.client_h2().await;
    assert_eq!(http1.get("/").await.text(), "a");
    assert_eq!(http2.get("/").await.text(), "a");
    let (old, new) = (a.address().to_string(), b.address().to_string());
    proxy.rewrite(|toml| toml.replace(&old, &new));
    assert_eq!(proxy.reload().await, Reload::TakenUp);
    assert_eq!(http1.get("/").await.text(), "b");
    assert_eq!(http2.get("/").await.text(), "b");
}

#[tokio::test]
async fn a_listener_that_is_added_serves() {
    let backend = Backend::named("a").run().await;
    let mut proxy = Proxy::to(&backend).run().await;
    let port = free_port();
    proxy.rewrite(|toml| toml + &plain_listener("plain", port));
    assert_eq!(proxy.reload().await, Reload::TakenUp);
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut client = Raw::over(stream);
    client.write(GET).await;
    assert_eq!(client.read_response().await.body, b"a");
    assert_eq!(proxy.client().await.get("/").await.text(), "a");
}

#[tokio::test]
async fn connections_of_a_listener_that_is_removed_end_after_their_exchange() {
    let mut gate = Gate::new().await;
    let mut proxy = Proxy::to(&gate.backend).run().await;
    let old_port = proxy.port();
    let mut busy = proxy.raw().await;
    busy.write(GET).await;
    gate.asked().await;
    let mut idle = proxy.raw().await;
    let port = free_port();
    let (from, to) = (format!("port = {old_port}"), format!("port = {port}"));
    proxy.rewrite(|toml| toml.replace(&from, &to));
    assert_eq!(proxy.reload().await, Reload::TakenUp);
    assert_eq!(idle.read_until_close().await, b"");
    refused(old_port).await;
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_ok());
    gate.open();
    let answer = busy.read_response().await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.field("connection"), Some("close"));
    assert_eq!(busy.read_until_close().await, b"");
}

#[tokio::test]
async fn an_answer_on_its_way_goes_on_when_its_server_is_replaced() {
    let (release, released) = mpsc::unbounded_channel::<()>();
    let released = Arc::new(tokio::sync::Mutex::new(released));
    let backend = Backend::raw(move |stream, _| {
        let released = Arc::clone(&released);
        async move {
            let mut stream = Raw::over(stream);
            stream.read_request().await.unwrap();
            stream
                .write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
                .await;
            released.lock().await.recv().await;
            stream.write(b"later").await;
        }
    })
    .run()
    .await;
    let other = Backend::named("other").run().await;
    let mut proxy = Proxy::to(&backend).run().await;
    let mut client = proxy.raw().await;
    client.write(GET).await;
    client.read_to("first").await.unwrap();
    let (old, new) = (backend.address().to_string(), other.address().to_string());
    proxy.rewrite(|toml| toml.replace(&old, &new));
    assert_eq!(proxy.reload().await, Reload::TakenUp);
    release.send(()).unwrap();
    assert_eq!(client.read_exactly(5).await, b"later");
    client.write(GET).await;
    assert_eq!(client.read_response().await.body, b"other");
}

#[tokio::test]
async fn a_tunnel_whose_group_is_removed_gets_drain_timeout() {
    let backend = answering_and_tunnelling().await;
    let mut proxy = Proxy::to(&backend)
        .server("workers = 2\ndrain_timeout = 1")
        .run()
        .await;
    let mut tunnel = open_tunnel(&proxy).await;
    beat(&mut tunnel).await;
    // The same group, by another name.
    proxy.rewrite(|toml| toml.replace("\"app\"", "\"new\""));
    let began = Instant::now();
    assert_eq!(proxy.reload().await, Reload::TakenUp);
    beat(&mut tunnel).await;
    assert_eq!(tunnel.read_until_close().await, b"");
    assert!(began.elapsed() >= Duration::from_secs(1));
    let line = proxy
        .wait_for_access(|line| line["status"].as_u64() == Some(101))
        .await;
    assert_eq!(line["cause"], "drained", "{line}");
}

#[tokio::test]
async fn a_response_that_streams_silently_from_a_removed_group_ends_with_drain_timeout() {
    let backend = Backend::raw(|stream, _| async move {
        let mut raw = Raw::over(stream);
        raw.read_head().await.unwrap();
        raw.write("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\none")
            .await;
        raw.drain().await;
    })
    .run()
    .await;
    let mut proxy = Proxy::to(&backend)
        .server("workers = 1\ndrain_timeout = 1")
        .run()
        .await;
    let mut clients = [proxy.client().await, proxy.client_h2().await];
    let mut bodies = Vec::new();
    for client in &mut clients {
        let answer = client.start(request(Method::GET, "/", empty())).await;
        let mut body = answer.unwrap().into_body();
        let first = within("the first piece", body.frame()).await.unwrap();
        assert_eq!(first.unwrap().into_data().unwrap(), "one");
        bodies.push(body);
    }
    proxy.rewrite(|toml| toml.replace("\"app\"", "\"new\""));
    let began = Instant::now();
    assert_eq!(proxy.reload().await, Reload::TakenUp);
    for body in &mut bodies {
        let end = within("the body breaks off", body.frame()).await;
        assert!(end.unwrap().is_err());
    }
    assert!(began.elapsed() >= Duration::from_millis(900));
}

#[tokio::test]
async fn a_tunnel_whose_group_stays_outlives_drain_timeout() {
    let backend = answering_and_tunnelling().await;
    let mut proxy = Proxy::to(&backend)
        .server("workers = 2\ndrain_timeout = 1")
        .run()
        .await;
    let mut tunnel = open_tunnel(&proxy).await;
    proxy.rewrite(|toml| {
        toml.replace(
            "server_group = \"app\"",
            "server_group = \"app\"\nidle_timeout = 7",
        )
    });
    assert_eq!(proxy.reload().await, Reload::TakenUp);
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        beat(&mut tunnel).await;
    }
}

#[tokio::test]
async fn the_access_log_is_opened_again_after_it_was_renamed() {
    let backend = Backend::echo().run().await;
    let mut proxy = Proxy::to(&backend).run().await;
    let mut client = proxy.client().await;
    client.get("/before").await;
    let uri = |path: &'static str| move |line: &serde_json::Value| line["request_uri"] == path;
    proxy.wait_for_access(uri("/before")).await;
    let log = proxy.directory().join("access.log");
    let rotated = proxy.directory().join("access.log.1");
    std::fs::rename(&log, &rotated).unwrap();
    assert_eq!(proxy.reload().await, Reload::TakenUp);
    client.get("/after").await;
    proxy.wait_for_access(uri("/after")).await;
    assert!(!proxy.access_log().iter().any(uri("/before")));
    let rotated = std::fs::read_to_string(rotated).unwrap();
    assert!(rotated.contains("/before") && !rotated.contains("/after"));
}

#[tokio::test]
async fn a_hundred_signals_at_once_are_a_few_reloads() {
    let a = Backend::named("a").run().await;
    let b = Backend::named("b").run().await;
    let proxy = Proxy::to(&a).run().await;
    let mut client = proxy.client().await;
    assert_eq!(client.get("/").await.text(), "a");
    let (old, new) = (a.address().to_string(), b.address().to_string());
    proxy.rewrite(|toml| toml.replace(&old, &new));
    for _ in 0..100 {
        proxy.signal(Signal::HUP);
    }
    within("the last signal was obeyed", async {
        while client.get("/").await.text() == "a" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    // One more, which is answered after all that were still to be obeyed.
    let before = reloads(&proxy);
    reload(&proxy).await;
    let count = reloads(&proxy);
    assert!(count > before && count < 100, "{count} reloads");
}

/// How many reloads have been told of.
fn reloads(proxy: &Running) -> usize {
    proxy.stderr().matches("reloaded").count()
}

/// As [`Running::reload`], while others use the proxy too.
async fn reload(proxy: &Running) {
    let before = reloads(proxy);
    proxy.signal(Signal::HUP);
    within("it has reloaded", async {
        while reloads(proxy) == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn twenty_reloads_under_load_fail_no_request_and_close_no_websocket() {
    const TUNNELS: usize = 200;
    let backend = answering_and_tunnelling().await;
    let proxy = Arc::new(Proxy::to(&backend).run().await);
    let mut tunnels = Vec::with_capacity(TUNNELS);
    for _ in 0..TUNNELS {
        tunnels.push(open_tunnel(&proxy).await);
    }
    let load = Load::start(&proxy);
    for round in 0..20 {
        let timeout = format!("request_timeout = {}", 30 + round);
        proxy.rewrite(|toml| with_timeout(&toml, &timeout));
        pki::write(
            proxy.directory(),
            "site",
            &proxy.authority().issue(&["localhost"]),
        );
        let served = load.served();
        reload(&proxy).await;
        for tunnel in &mut tunnels {
            beat(tunnel).await;
        }
        load.serves_more_than(served).await;
    }
    load.stop().await;
    assert!(!proxy.stderr().contains("refused"), "{}", proxy.stderr());
    for tunnel in &mut tunnels {
        beat(tunnel).await;
    }
}

fn with_timeout(toml: &str, timeout: &str) -> String {
    let lines = toml
        .lines()
        .filter(|line| !line.starts_with("request_timeout"));
    let lines: Vec<_> = lines.collect();
    lines.join("\n").replace(
        "server_group = \"app\"",
        &format!("server_group = \"app\"\n{timeout}"),
    ) + "\n"
}

/// Clients that ask again and again; a request that fails fails the test.
struct Load {
    tasks: JoinSet<()>,
    served: Arc<[AtomicUsize; 4]>,
    over: Arc<AtomicBool>,
}

impl Load {
    /// Two clients each: HTTP/1 and HTTP/2 on one connection, and on a new one for each request.
    fn start(proxy: &Arc<Running>) -> Self {
        let mut load = Self {
            tasks: JoinSet::new(),
            served: Arc::default(),
            over: Arc::default(),
        };
        for kind in [0, 0, 1, 1, 2, 3] {
            let (proxy, served) = (Arc::clone(proxy), Arc::clone(&load.served));
            let over = Arc::clone(&load.over);
            load.tasks.spawn(async move {
                let mut client = match kind {
                    0 | 2 => proxy.client().await,
                    _ => proxy.client_h2().await,
                };
                while !over.load(Ordering::Relaxed) {
                    match kind {
                        2 => client = proxy.client().await,
                        3 => client = proxy.client_h2().await,
                        _ => {}
                    }
                    let answer = client.get("/").await;
                    assert_eq!(
                        (answer.status.as_u16(), &answer.body[..]),
                        (200, &b"ok"[..])
                    );
                    served[kind].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        load
    }

    /// How many requests of each kind were served.
    fn served(&self) -> Vec<usize> {
        let counts = self.served.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// Waits until every kind of client was served again.
    async fn serves_more_than(&self, before: Vec<usize>) {
        within("all kinds of clients are served", async {
            while self
                .served()
                .iter()
                .zip(&before)
                .any(|(now, then)| now <= then)
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    async fn stop(mut self) {
        self.over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}
