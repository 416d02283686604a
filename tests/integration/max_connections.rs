//! `max_connections_per_server`: so many connections and no more, and requests that wait for one.

use std::collections::HashMap;
use std::net::TcpStream;
use std::time::Duration;

use http::Method;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::support::backend::{Backend, Behaviour, ok};
use crate::support::client::{Client, empty, request};
use crate::support::gate::Gate;
use crate::support::proxy::{Proxy, Reload};
use crate::support::raw::Raw;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCHED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// The connections of a backend, and the most that were open at the same time.
#[derive(Clone, Default)]
struct Census(watch::Sender<(Vec<TcpStream>, usize)>);

impl Census {
    fn count(&self, stream: TcpStream) {
        self.0.send_modify(|(open, most)| {
            // One that the other side has closed may not have been noticed yet by who serves it.
            open.retain(|stream| match stream.peek(&mut [0]) {
                Ok(length) => length > 0,
                Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
            });
            open.push(stream);
            *most = open.len().max(*most);
        });
    }

    fn most(&self) -> usize {
        self.0.borrow().1
    }
}

/// Answers each request after so long, and says how many connections it had at most.
fn counted(delay: Duration) -> (Behaviour, Census) {
    let census = Census::default();
    let counting = census.clone();
    let backend = Backend::raw(move |stream, _| {
        let stream = stream.into_std().unwrap();
        counting.count(stream.try_clone().unwrap());
        async move {
            let mut raw = Raw::over(tokio::net::TcpStream::from_std(stream).unwrap());
            while raw.read_request_unhurried().await.is_some() {
                sleep(delay).await;
                if raw.try_write(ok(b"here")).await.is_err() {
                    return;
                }
            }
        }
    });
    (backend, census)
}

/// Sends a request whose status is waited for later.
fn get(mut client: Client) -> JoinHandle<u16> {
    tokio::spawn(async move { client.get("/").await.status.as_u16() })
}

#[tokio::test]
async fn no_more_are_open_at_once_whatever_the_workers_and_everyone_is_answered() {
    let (backend, census) = counted(Duration::from_millis(2));
    let backend = backend.run().await;
    let proxy = Proxy::to(&backend)
        .http()
        .server("workers = 4")
        .group("max_connections_per_server = 3\nconnect_timeout = 30")
        .run()
        .await;
    let mut all = JoinSet::new();
    for _ in 0..50 {
        let mut client = proxy.client().await;
        all.spawn(async move {
            let mut statuses = HashMap::new();
            for _ in 0..10 {
                let status = client.get("/").await.status.as_u16();
                *statuses.entry(status).or_insert(0) += 1;
            }
            statuses
        });
    }
    for statuses in all.join_all().await {
        assert_eq!(statuses, HashMap::from([(200, 10)]));
    }
    assert_eq!(census.most(), 3);
}

#[tokio::test]
async fn idle_connections_of_other_workers_are_given_up_to_who_needs_one() {
    let (backend, census) = counted(Duration::ZERO);
    let backend = backend.run().await;
    let proxy = Proxy::to(&backend)
        .http()
        .server("workers = 4")
        .group("max_connections_per_server = 1")
        .run()
        .await;
    let mut clients = Vec::new();
    for _ in 0..16 {
        let mut client = proxy.client().await;
        assert_eq!(client.get("/").await.status, 200);
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(census.most(), 1);
    assert!(backend.connections() > 1, "one worker had all the clients");
}

#[tokio::test]
async fn a_worker_s_own_requests_hand_the_connection_on() {
    let (backend, census) = counted(Duration::from_millis(1));
    let backend = backend.run().await;
    let proxy = Proxy::to(&backend)
        .http()
        .server("workers = 1")
        .group("max_connections_per_server = 1\nconnect_timeout = 30")
        .run()
        .await;
    let mut all = JoinSet::new();
    for _ in 0..20 {
        let mut client = proxy.client().await;
        all.spawn(async move { client.get("/").await.status.as_u16() });
    }
    assert_eq!(all.join_all().await, [200; 20]);
    assert_eq!((census.most(), backend.connections()), (1, 1));
}

#[tokio::test]
async fn another_server_is_preferred_to_waiting() {
    let (mut heavy, mut light) = (Gate::new().await, Gate::new().await);
    let servers = [(&heavy, 100), (&light, 1)].map(|(gate, weight)| {
        let address = gate.backend.address();
        format!("{{ address = \"{address}\", weight = {weight} }}")
    });
    let proxy = Proxy::new()
        .http()
        .servers(&servers)
        .server("workers = 1")
        .group("max_connections_per_server = 1\nretries = 0\nconnect_timeout = 30")
        .run()
        .await;
    let first = get(proxy.client().await);
    heavy.asked().await;
    let second = get(proxy.client().await);
    light.asked().await;
    // Both have what they may: this one waits for the server whose turn it is.
    let third = get(proxy.client().await);
    heavy.open();
    heavy.asked().await;
    heavy.open();
    light.open();
    for answer in [first, second, third] {
        assert_eq!(answer.await.unwrap(), 200);
    }
}

#[tokio::test]
async fn a_wait_that_is_over_is_answered_504() {
    let mut gate = Gate::new().await;
    let proxy = Proxy::to(&gate.backend)
        .http()
        .group("max_connections_per_server = 1\nconnect_timeout = \"200ms\"")
        .run()
        .await;
    let first = get(proxy.client().await);
    gate.asked().await;
    let mut client = proxy.client().await;
    let answer = client.get("/").await;
    assert_eq!(answer.status, 504);
    let told = answer.field("proxy-status").unwrap();
    assert!(told.contains("error=connection_limit_reached"), "{told}");
    assert!(told.contains("queue_timeout"), "{told}");
    let line = proxy.wait_for_access(|line| line["status"] == 504).await;
    assert_eq!(line["cause"], "queue_timeout");
    gate.open();
    assert_eq!(first.await.unwrap(), 200);
    gate.open();
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test]
async fn a_queue_that_is_full_answers_503() {
    let mut gate = Gate::new().await;
    let proxy = Proxy::to(&gate.backend)
        .server("workers = 4")
        .group("max_connections_per_server = 1\nconnect_timeout = 60")
        .run()
        .await;
    let first = get(proxy.client().await);
    gate.asked().await;
    let mut all = JoinSet::new();
    for _ in 0..11 {
        let client = proxy.client_h2().await;
        for _ in 0..94 {
            let mut client = client.another();
            all.spawn(async move {
                let answer = client.start(request(Method::GET, "/", empty())).await;
                answer.unwrap().status().as_u16()
            });
        }
    }
    // 1034 come, 1024 can wait.
    for _ in 0..10 {
        assert_eq!(all.join_next().await.unwrap().unwrap(), 503);
    }
    let line = proxy.wait_for_access(|line| line["status"] == 503).await;
    assert_eq!(line["cause"], "queue_full");
    assert!(all.try_join_next().is_none());
    gate.open();
    assert_eq!(first.await.unwrap(), 200);
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_place_up() {
    let mut gate = Gate::new().await;
    let proxy = Proxy::to(&gate.backend)
        .group("max_connections_per_server = 1\nconnect_timeout = 60")
        .run()
        .await;
    let first = get(proxy.client().await);
    gate.asked().await;
    let mut client = proxy.client_h2().await;
    let leaving = get(client.another());
    // Answered here, after the one before it on the same connection has begun to wait.
    assert_eq!(client.get("/%00").await.status, 400);
    leaving.abort();
    let line = proxy
        .wait_for_access(|line| line["cause"] == "client_gone")
        .await;
    assert_eq!(line["upstream_status"], "-");
    let last = get(proxy.client().await);
    // Two answers are all there are.
    gate.open();
    gate.open();
    assert_eq!(first.await.unwrap(), 200);
    assert_eq!(last.await.unwrap(), 200);
}

#[tokio::test]
async fn a_tunnel_counts_as_long_as_it_is_open() {
    let backend = Backend::raw(|stream, _| async move {
        let mut stream = Raw::over(stream);
        while let Some(request) = stream.read_request_unhurried().await {
            if request.field("upgrade").is_none() {
                stream.write(ok(b"here")).await;
                continue;
            }
            stream.write(SWITCHED).await;
            stream.drain().await;
            return;
        }
    });
    let backend = backend.run().await;
    let proxy = Proxy::to(&backend)
        .http()
        .group("max_connections_per_server = 1\nconnect_timeout = \"200ms\"")
        .run()
        .await;
    let mut tunnel = proxy.raw().await;
    tunnel.write(UPGRADE).await;
    assert_eq!(tunnel.read_response().await.status(), 101);
    let mut client = proxy.raw().await;
    client.write(GET).await;
    assert_eq!(client.read_response().await.status(), 504);
    drop(tunnel);
    proxy.wait_for_access(|line| line["status"] == 101).await;
    client.write(GET).await;
    assert_eq!(client.read_response().await.status(), 200);
}

#[tokio::test]
async fn zero_is_no_limit() {
    let mut gate = Gate::new().await;
    let proxy = Proxy::to(&gate.backend)
        .http()
        .group("max_connections_per_server = 0")
        .run()
        .await;
    let mut all = Vec::new();
    for _ in 0..20 {
        all.push(get(proxy.client().await));
    }
    for _ in 0..20 {
        gate.asked().await;
    }
    for _ in 0..20 {
        gate.open();
    }
    for answer in all {
        assert_eq!(answer.await.unwrap(), 200);
    }
}

#[tokio::test]
async fn a_reload_raises_the_limit_for_those_who_wait_already() {
    let mut gate = Gate::new().await;
    let mut proxy = Proxy::to(&gate.backend)
        .http()
        .group("max_connections_per_server = 1\nconnect_timeout = 60")
        .run()
        .await;
    let first = get(proxy.client().await);
    gate.asked().await;
    let second = get(proxy.client().await);
    proxy.rewrite(|text| text.replace("per_server = 1", "per_server = 2"));
    assert_eq!(proxy.reload().await, Reload::TakenUp);
    gate.asked().await;
    gate.open();
    gate.open();
    for answer in [first, second] {
        assert_eq!(answer.await.unwrap(), 200);
    }
}
