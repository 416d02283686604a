//! Whose turn it is, by every scheduler, with several backends and more than one worker.

use std::collections::BTreeMap;

use http::Method;

use crate::support::backend::{Backend, Behaviour};
use crate::support::client::{Client, empty, request};
use crate::support::proxy::{Proxy, Reload, Running};
use crate::support::raw::Raw;
use crate::support::within;
use crate::websocket::ASKING;

const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const HELD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na";

/// Answers with its name, but holds the end of `/held` back and makes a tunnel of `/chat`.
fn holding(name: &'static str) -> Behaviour {
    Backend::raw(move |stream, _| async move {
        let mut raw = Raw::over(stream);
        while let Some(head) = raw.read_head_unhurried().await {
            let target = head.split(' ').nth(1).unwrap();
            match target {
                "/chat" | "/held" => {
                    let answer = if target == "/chat" { SWITCHING } else { HELD };
                    raw.write(answer).await;
                    raw.drain().await;
                    break;
                }
                _ => {
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}");
                    raw.write(answer).await;
                }
            }
        }
    })
}

fn before(backends: &[Backend]) -> Proxy {
    let addresses: Vec<_> = backends.iter().map(Backend::address).collect();
    Proxy::new().servers(&addresses).http()
}

async fn who(client: &mut Client, path: &str) -> String {
    let answer = client.get(path).await;
    assert_eq!(answer.status, 200);
    answer.text()
}

/// Who answers a client that a proxy in front has named.
async fn who_for(client: &mut Client, ip: &str) -> String {
    let mut request = request(Method::GET, "/", empty());
    let headers = request.headers_mut();
    headers.insert("x-forwarded-for", ip.parse().unwrap());
    client.send(request).await.text()
}

/// Who answers for each of so many users.
async fn owners(running: &Running, users: usize) -> BTreeMap<usize, String> {
    let mut client = running.client().await;
    let mut owners = BTreeMap::new();
    for user in 0..users {
        let path = format!("/?page=1&user={user}");
        owners.insert(user, who(&mut client, &path).await);
    }
    owners
}

#[tokio::test]
async fn weights_hold_over_unevenly_used_workers() {
    let backends = Backend::all_named(&["a", "b", "c"]).await;
    let servers: Vec<_> = backends
        .iter()
        .zip([50, 30, 20])
        .map(|(backend, weight)| {
            format!(
                "{{ address = \"{}\", weight = {weight} }}",
                backend.address()
            )
        })
        .collect();
    let running = Proxy::new()
        .servers(&servers)
        .http()
        .server("workers = 4")
        .run()
        .await;
    for requests in [170, 3, 70, 7, 41, 9] {
        let mut client = running.client().await;
        for _ in 0..requests {
            who(&mut client, "/").await;
        }
    }
    for (backend, expected) in backends.iter().zip([150, 90, 60]) {
        let got = backend.requests().len();
        assert!(got.abs_diff(expected) <= 6, "{got} instead of {expected}");
    }
}

#[tokio::test]
async fn wlc_asks_the_server_with_the_fewest_exchanges_of_all_workers() {
    let backends = [holding("a").run().await, holding("b").run().await];
    let running = before(&backends)
        .server("workers = 4")
        .group("scheduler = \"wlc\"")
        .run()
        .await;
    // One answer that is not at its end, then one tunnel: each on a server of its own.
    let mut held = running.client().await;
    let answer = held.start(request(Method::GET, "/held", empty())).await;
    let mut tunnel = running.raw().await;
    tunnel.write(ASKING).await;
    assert_eq!(tunnel.read_response_to_head().await.status(), 101);
    let (of_held, of_tunnel) = match backends.each_ref().map(Backend::connections) {
        [1, 1] => {
            // With one exchange each, both are asked; which has the tunnel shows when the other is over.
            drop(answer);
            drop(held);
            let mut free = String::new();
            within("the broken answer's server is free", async {
                loop {
                    let mut names = String::new();
                    for _ in 0..4 {
                        names += &who(&mut running.client().await, "/").await;
                    }
                    if names == names[..1].repeat(4) {
                        free.push_str(&names[..1]);
                        break;
                    }
                }
            })
            .await;
            let busy = if free == "a" { "b" } else { "a" };
            (free, busy)
        }
        other => panic!("both on one server: {other:?}"),
    };
    // Whichever worker a client comes to, it is told of the tunnel.
    for _ in 0..8 {
        assert_eq!(who(&mut running.client().await, "/").await, of_held);
    }
    drop(tunnel);
    within("the closed tunnel's server is asked again", async {
        while who(&mut running.client().await, "/").await != of_tunnel {}
    })
    .await;
}

#[tokio::test]
async fn sch_gives_every_client_a_server_of_its_own_in_every_worker_and_replica() {
    let backends = Backend::all_named(&["a", "b", "c"]).await;
    let trusting = "client_ip = { trusted = [\"0.0.0.0/0\"] }";
    let group = "scheduler = \"sch\"";
    let running = before(&backends)
        .server("workers = 3")
        .listener(trusting)
        .group(group)
        .run()
        .await;
    let mut addresses: Vec<_> = backends.iter().map(Backend::address).collect();
    addresses.reverse();
    let replica = Proxy::new()
        .servers(&addresses)
        .http()
        .listener(trusting)
        .group(group)
        .run()
        .await;
    let mut seen = BTreeMap::new();
    for client in 0..30 {
        let ip = format!("192.0.2.{client}");
        let owner = who_for(&mut running.client().await, &ip).await;
        for running in [&running, &replica] {
            for _ in 0..2 {
                assert_eq!(who_for(&mut running.client().await, &ip).await, owner);
            }
        }
        *seen.entry(owner).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
    // Where no header is believed, the peer is the client: one and the same.
    let plain = before(&backends).group(group).run().await;
    let owner = who_for(&mut plain.client().await, "192.0.2.1").await;
    for client in 2..12 {
        let ip = format!("192.0.2.{client}");
        assert_eq!(who_for(&mut plain.client().await, &ip).await, owner);
    }
}

#[tokio::test]
async fn uch_goes_by_a_query_parameter_and_only_a_lost_servers_keys_move() {
    let backends = Backend::all_named(&["a", "b", "c"]).await;
    let mut running = before(&backends)
        .server("workers = 3")
        .group("scheduler = \"uch\"\nhash_query_parameter = \"user\"")
        .run()
        .await;
    let before = owners(&running, 60).await;
    assert_eq!(owners(&running, 60).await, before);
    for name in ["a", "b", "c"] {
        let count = before.values().filter(|owner| *owner == name).count();
        assert!((8..=32).contains(&count), "{before:?}");
    }
    // Without the parameter the client decides.
    let mut client = running.client().await;
    let alone = who(&mut client, "/").await;
    for path in ["/?page=2", "/?user=", "/?username=7"] {
        assert_eq!(who(&mut client, path).await, alone, "{path}");
    }
    let gone = format!("{{ address = \"{}\" }}, ", backends[0].address());
    running.rewrite(|toml| toml.replace(&gone, ""));
    assert_eq!(running.reload().await, Reload::TakenUp);
    let after = owners(&running, 60).await;
    for (user, owner) in &before {
        match owner.as_str() {
            "a" => assert_ne!(after[user], "a"),
            other => assert_eq!(after[user], other),
        }
    }
}

#[tokio::test]
async fn the_next_server_on_the_ring_takes_the_keys_of_one_that_refuses() {
    let mut backends = Backend::all_named(&["a", "b", "c"]).await;
    let running = before(&backends)
        .server("workers = 1")
        .group("scheduler = \"uch\"\nhash_query_parameter = \"user\"")
        .run()
        .await;
    let before = owners(&running, 30).await;
    drop(backends.remove(0));
    let after = owners(&running, 30).await;
    for (user, owner) in &before {
        match owner.as_str() {
            "a" => assert_ne!(after[user], "a"),
            other => assert_eq!(after[user], other),
        }
    }
}
