//! Which server is asked, what happens when one cannot be reached or breaks off, and which connections
//! are used again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::backend::{Backend, ok};
use crate::support::client::{Client, full, request};
use crate::support::proxy::{Proxy, Running};
use crate::support::raw::Raw;
use crate::support::within;

/// Not a server: a port that is held and refuses every connection, until it listens.
struct Refusing(TcpSocket);

impl Refusing {
    fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self(socket)
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    fn listen(self, name: &str) -> Backend {
        Backend::named(name).run_over(self.0.listen(64).unwrap())
    }
}

fn servers(addresses: &[(SocketAddr, u8)]) -> Proxy {
    let servers: Vec<String> = addresses
        .iter()
        .map(|(address, weight)| format!("{{ address = \"{address}\", weight = {weight} }}"))
        .collect();
    Proxy::new().servers(&servers)
}

async fn cause(proxy: &Running, status: u64) -> String {
    let line = proxy
        .wait_for_access(|line| line["status"].as_u64() == Some(status))
        .await;
    line["cause"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn weights_five_one_one_give_the_smooth_sequence() {
    let a = Backend::named("a").run().await;
    let b = Backend::named("b").run().await;
    let c = Backend::named("c").run().await;
    let proxy = servers(&[(a.address(), 5), (b.address(), 1), (c.address(), 1)])
        .server("workers = 1")
        .run()
        .await;
    let mut client = proxy.client().await;
    assert_eq!(client.who(14).await, "aabacaaaabacaa");
}

#[tokio::test]
async fn every_worker_spreads_requests_by_weight() {
    let a = Backend::named("a").run().await;
    let b = Backend::named("b").run().await;
    let proxy = servers(&[(a.address(), 3), (b.address(), 1)]).run().await;
    for _ in 0..4 {
        let names = proxy.client().await.who(8).await;
        assert_eq!(names.matches('a').count(), 6, "{names}");
    }
}

#[tokio::test]
async fn a_server_of_weight_zero_gets_nothing() {
    let a = Backend::named("a").run().await;
    let b = Backend::named("b").run().await;
    let proxy = servers(&[(a.address(), 0), (b.address(), 1)]).run().await;
    assert_eq!(proxy.client().await.who(12).await, "b".repeat(12));
    assert_eq!(a.connections(), 0);
}

#[tokio::test]
async fn answers_503_when_no_server_takes_requests() {
    let a = Backend::named("a").run().await;
    for proxy in [servers(&[(a.address(), 0)]), servers(&[])] {
        let proxy = proxy.run().await;
        let mut client = proxy.client().await;
        for _ in 0..2 {
            let answer = client.get("/").await;
            assert_eq!(answer.status, 503);
            let status = answer.field("proxy-status").unwrap();
            assert!(status.contains("no_server"), "{status}");
        }
        assert_eq!(cause(&proxy, 503).await, "no_server");
    }
    assert_eq!(a.connections(), 0);
}

#[tokio::test]
async fn a_server_that_refuses_costs_no_error_is_skipped_and_later_asked_again() {
    let refusing = Refusing::new();
    let b = Backend::named("b").run().await;
    let proxy = servers(&[(refusing.address(), 1), (b.address(), 1)])
        .server("workers = 1")
        .run()
        .await;
    let mut client = proxy.client().await;
    let began = Instant::now();
    assert_eq!(client.who(1).await, "b");
    // From here on it would answer, if it were asked.
    let a = refusing.listen("a");
    let names = client.who(6).await;
    if began.elapsed() < Duration::from_secs(1) {
        assert_eq!(names, "bbbbbb");
        assert_eq!(a.connections(), 0);
    }
    within("it is asked again", async {
        while !client.who(1).await.contains('a') {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(began.elapsed() >= Duration::from_secs(1));
    let names = client.who(10).await;
    assert_eq!(names.matches('a').count(), 5, "{names}");
}

/// A backend that closes every connection once it has read a request, until it is told to answer.
async fn dying(name: &'static str, alive: &Arc<AtomicBool>) -> Backend {
    let alive = Arc::clone(alive);
    Backend::raw(move |stream, _| {
        let alive = Arc::clone(&alive);
        async move {
            let mut stream = Raw::over(stream);
            while stream.read_request_unhurried().await.is_some() {
                if !alive.load(Ordering::SeqCst) {
                    return;
                }
                stream.write(ok(name.as_bytes())).await;
            }
        }
    })
    .run()
    .await
}

/// The statuses of so many requests, one after the other.
async fn statuses(client: &mut Client, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(client.get("/").await.status.as_u16());
    }
    statuses
}

#[tokio::test]
async fn a_server_that_leaves_three_requests_in_a_row_unanswered_is_skipped_and_later_asked_again()
{
    let alive = Arc::new(AtomicBool::new(false));
    let a = dying("a", &alive).await;
    let b = Backend::named("b").run().await;
    let mut proxy = servers(&[(a.address(), 1), (b.address(), 1)])
        .server("workers = 1")
        .run()
        .await;
    let mut client = proxy.client().await;
    let began = Instant::now();
    let failed = statuses(&mut client, 12).await;
    if began.elapsed() < Duration::from_secs(1) {
        let failures = failed.iter().filter(|status| **status == 502).count();
        assert_eq!(failures, 3, "{failed:?}");
        assert_eq!(a.connections(), 3);
    }
    let says = "reason=\"unanswered\"";
    proxy.wait_for_stderr(|text| text.contains(says)).await;
    alive.store(true, Ordering::SeqCst);
    within("it is asked again", async {
        while !client.who(1).await.contains('a') {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let names = client.who(10).await;
    assert_eq!(names.matches('a').count(), 5, "{names}");
}

#[tokio::test]
async fn the_last_server_is_asked_however_often_it_fails() {
    let alive = Arc::new(AtomicBool::new(false));
    let a = dying("a", &alive).await;
    let proxy = Proxy::to(&a).server("workers = 1").run().await;
    let mut client = proxy.client().await;
    assert_eq!(statuses(&mut client, 10).await, [502; 10]);
    alive.store(true, Ordering::SeqCst);
    assert_eq!(statuses(&mut client, 3).await, [200; 3]);
}

#[tokio::test]
async fn a_body_reaches_the_next_server_whole_when_the_first_refuses() {
    let refusing = Refusing::new();
    let b = Backend::echo().run().await;
    let proxy = servers(&[(refusing.address(), 1), (b.address(), 1)])
        .server("workers = 1")
        .run()
        .await;
    let body = vec![b'x'; 300_000];
    let answer = proxy.client().await.post("/", body.clone()).await;
    assert_eq!(answer.status, 200);
    assert!(b.request().body == body);
}

#[tokio::test]
async fn answers_502_when_every_server_refuses() {
    let refusing = [Refusing::new(), Refusing::new()];
    let proxy = servers(&[(refusing[0].address(), 1), (refusing[1].address(), 1)])
        .run()
        .await;
    let mut client = proxy.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status, 502);
    }
    assert_eq!(cause(&proxy, 502).await, "connect_refused");
}

#[tokio::test]
async fn no_more_servers_are_tried_than_retries_allow() {
    for (retries, status) in [(0, 502), (1, 502), (2, 200)] {
        let refusing = [Refusing::new(), Refusing::new()];
        let c = Backend::named("c").run().await;
        let proxy = servers(&[
            (refusing[0].address(), 1),
            (refusing[1].address(), 1),
            (c.address(), 1),
        ])
        .group(&format!("retries = {retries}"))
        .server("workers = 1")
        .run()
        .await;
        let answer = proxy.client().await.get("/").await;
        assert_eq!(answer.status, status, "retries = {retries}");
    }
}

/// A backend that answers the first request of its first connection and breaks off at the second, once
/// it has read it whole. It answers every request of later connections, and tells what it read there.
async fn breaking_off() -> (Backend, mpsc::UnboundedReceiver<(usize, String)>) {
    let (told, heard) = mpsc::unbounded_channel();
    let backend = Backend::raw(move |stream, connection| {
        let told = told.clone();
        async move {
            let mut stream = Raw::over(stream);
            let mut answered = 0;
            while let Some(request) = stream.read_request_unhurried().await {
                told.send((connection, request.start().to_owned())).unwrap();
                if connection == 0 && answered == 1 {
                    return;
                }
                stream.write(ok(b"ok")).await;
                answered += 1;
            }
        }
    })
    .run()
    .await;
    (backend, heard)
}

#[tokio::test]
async fn a_get_is_repeated_when_its_pooled_connection_breaks_off() {
    let (backend, mut heard) = breaking_off().await;
    let proxy = Proxy::to(&backend).server("workers = 1").run().await;
    let mut client = proxy.client().await;
    assert_eq!(client.get("/1").await.status, 200);
    assert_eq!(client.get("/2").await.status, 200);
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(heard.recv().await.unwrap());
    }
    let line = |number| format!("GET /{number} HTTP/1.1");
    assert_eq!(seen, [(0, line(1)), (0, line(2)), (1, line(2))]);
}

#[tokio::test]
async fn a_post_is_not_repeated_when_its_pooled_connection_breaks_off() {
    let (backend, mut heard) = breaking_off().await;
    let proxy = Proxy::to(&backend).server("workers = 1").run().await;
    let mut client = proxy.client().await;
    assert_eq!(client.get("/1").await.status, 200);
    assert_eq!(client.post("/2", "body").await.status, 502);
    let mut client = proxy.client().await;
    assert_eq!(client.get("/3").await.status, 200);
    let mut seen = Vec::new();
    while let Ok(line) = heard.try_recv() {
        seen.push(line.1);
    }
    assert_eq!(
        seen,
        ["GET /1 HTTP/1.1", "POST /2 HTTP/1.1", "GET /3 HTTP/1.1"]
    );
    assert_eq!(cause(&proxy, 502).await, "backend_closed");
}

#[tokio::test]
async fn a_get_with_a_body_that_was_sent_is_not_repeated() {
    let (backend, _heard) = breaking_off().await;
    let proxy = Proxy::to(&backend).server("workers = 1").run().await;
    let mut client = proxy.client().await;
    assert_eq!(client.get("/1").await.status, 200);
    let answer = client.send(request(Method::GET, "/2", full("body"))).await;
    assert_eq!(answer.status, 502);
}

#[tokio::test]
async fn answers_502_when_a_fresh_connection_is_closed_before_the_answer() {
    let backend = Backend::raw(|stream, _| async move {
        Raw::over(stream).read_head().await;
    })
    .run()
    .await;
    let proxy = Proxy::to(&backend).run().await;
    assert_eq!(proxy.client().await.get("/").await.status, 502);
    assert_eq!(backend.connections(), 1, "it was repeated");
    assert_eq!(cause(&proxy, 502).await, "backend_closed");
}

#[tokio::test]
async fn a_post_goes_out_on_a_fresh_connection_when_the_pooled_one_was_closed_before() {
    let (told, mut closing) = mpsc::unbounded_channel();
    let backend = Backend::raw(move |stream, _| {
        let told = told.clone();
        async move {
            let proxy = stream.peer_addr().unwrap();
            let mut stream = Raw::over(stream);
            stream.read_request().await.unwrap();
            stream.write(ok(b"ok")).await;
            stream.half_close().await;
            told.send(proxy).unwrap();
            stream.read_until_close().await;
        }
    })
    .run()
    .await;
    let proxy = Proxy::to(&backend).server("workers = 1").run().await;
    let mut client = proxy.client().await;
    for _ in 0..5 {
        assert_eq!(client.post("/", "body").await.status, 200);
        let closed = within("the backend closes", closing.recv()).await;
        fin_arrives(backend.address(), closed.unwrap()).await;
    }
    assert_eq!(backend.connections(), 5);
}

/// Waits until `to` has been told that `from` has closed: until then it cannot know.
async fn fin_arrives(from: SocketAddr, to: SocketAddr) {
    let hex = |address: SocketAddr| format!("0100007F:{:04X}", address.port());
    let ends = format!("{} {} ", hex(from), hex(to));
    // FIN_WAIT2: the other side has confirmed it; TIME_WAIT: it has closed, too.
    let confirmed = [format!("{ends}05 "), format!("{ends}06 ")];
    within("the end is confirmed", async {
        loop {
            let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
            if confirmed.iter().any(|line| sockets.contains(line)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_backend_that_closes_idle_connections_costs_no_request() {
    let backend = Backend::raw(|stream, _| async move {
        let mut stream = Raw::over(stream);
        let idle = Duration::from_millis(5);
        let mut next = Ok(stream.read_request().await);
        while let Ok(Some(_)) = next {
            if stream.try_write(ok(b"ok")).await.is_err() {
                return;
            }
            next = timeout(idle, stream.read_request_unhurried()).await;
        }
    })
    .run()
    .await;
    let proxy = Proxy::to(&backend).run().await;
    let mut client = proxy.client().await;
    for round in 0..200 {
        assert_eq!(client.get("/").await.status, 200, "request {round}");
        tokio::time::sleep(Duration::from_millis(round % 10)).await;
    }
    assert!(backend.connections() > 1, "it never closed one");
}

#[tokio::test]
async fn a_malformed_answer_is_a_502_and_the_end_of_its_connection() {
    let answers: BTreeMap<&str, &[u8]> = BTreeMap::from([
        ("/garbage", &b"hello there\r\n\r\n"[..]),
        ("/version", b"HTTP/3.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
        (
            "/both",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "/lengths",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        ),
        ("/length", b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab"),
        (
            "/coding",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab",
        ),
        (
            "/space",
            b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nab",
        ),
        (
            "/excess",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad",
        ),
        ("/status", b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"),
        (
            "/upgrade",
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        ),
    ]);
    let script = answers.clone();
    let (told, mut ended) = mpsc::unbounded_channel();
    let backend = Backend::raw(move |stream, _| {
        let (told, script) = (told.clone(), script.clone());
        async move {
            let mut stream = Raw::over(stream);
            let request = stream.read_request().await.unwrap();
            let path = request.start().split(' ').nth(1).unwrap();
            stream.write(script[path]).await;
            let rest = stream.read_until_close().await;
            told.send(rest).unwrap();
        }
    })
    .run()
    .await;
    let proxy = Proxy::to(&backend).run().await;
    for path in answers.keys() {
        let answer = proxy.client().await.get(path).await;
        assert_eq!(answer.status, 502, "{path}");
        assert!(!answer.text().contains("bad"), "{path}");
        let rest = within("the connection to the backend ends", ended.recv()).await;
        assert_eq!(rest.unwrap(), b"", "{path}: used again");
    }
    assert_eq!(backend.connections(), answers.len());
}

#[tokio::test]
async fn a_server_may_be_named_by_host_name() {
    let backend = Backend::echo().run().await;
    let port = backend.address().port();
    let proxy = Proxy::new()
        .servers(&[format!("{{ address = \"localhost:{port}\" }}")])
        .run()
        .await;
    assert_eq!(proxy.client().await.get("/").await.status, 200);
    assert_eq!(backend.request().field("host"), Some("localhost"));
}

#[tokio::test]
async fn answers_502_when_a_name_has_no_address() {
    let proxy = Proxy::new().servers(&["nowhere.invalid:80"]).run().await;
    assert_eq!(proxy.client().await.get("/").await.status, 502);
    assert_eq!(cause(&proxy, 502).await, "name_unresolved");
}

#[tokio::test]
async fn a_server_may_have_an_ipv6_address() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    let backend = Backend::echo().run_on("[::1]:0".parse().unwrap()).await;
    let proxy = Proxy::to(&backend).run().await;
    assert_eq!(proxy.client().await.get("/").await.status, 200);
    assert_eq!(backend.requests().len(), 1);
}

#[tokio::test]
async fn a_server_may_be_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let backend = Backend::echo().run_unix(&path).await;
    let proxy = Proxy::new()
        .servers(&[format!("{{ address = \"unix:{}\" }}", path.display())])
        .server("workers = 1")
        .run()
        .await;
    let mut client = proxy.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(backend.connections(), 1);
    drop(proxy);
    std::fs::remove_file(&path).unwrap();
    let proxy = Proxy::new()
        .servers(&[format!("{{ address = \"unix:{}\" }}", path.display())])
        .run()
        .await;
    assert_eq!(proxy.client().await.get("/").await.status, 502);
}

#[tokio::test]
async fn without_keepalive_every_request_has_a_connection_that_says_close() {
    let backend = Backend::echo().run().await;
    let proxy = Proxy::to(&backend)
        .server("workers = 1")
        .group("keepalive = false")
        .run()
        .await;
    let mut client = proxy.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(backend.connections(), 3);
    for request in backend.requests() {
        assert_eq!(request.field("connection"), Some("close"));
    }
}

#[tokio::test]
async fn an_idle_connection_to_a_backend_is_closed_after_keepalive_idle() {
    let (told, mut ended) = mpsc::unbounded_channel();
    let backend = Backend::raw(move |stream, _| {
        let told = told.clone();
        async move {
            let mut stream = Raw::over(stream);
            stream.read_request().await.unwrap();
            stream.write(ok(b"ok")).await;
            stream.read_until_close().await;
            told.send(()).unwrap();
        }
    })
    .run()
    .await;
    let proxy = Proxy::to(&backend).group("keepalive_idle = 1").run().await;
    let began = Instant::now();
    assert_eq!(proxy.client().await.get("/").await.status, 200);
    within("the idle connection is closed", ended.recv()).await;
    assert!(began.elapsed() >= Duration::from_secs(1));
}
