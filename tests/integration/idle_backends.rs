//! Servers that close idle connections: requests are not lost on one that is just closing.

use std::time::{Duration, Instant};

use http::Method;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::backend::{Backend, ok};
use crate::support::client::{empty, full, request};
use crate::support::proxy::{Proxy, Running};
use crate::support::raw::Raw;

/// Closes connections that were idle for so long, as Node.js does after 5 s; and what comes when they nearly were
/// it reads without an answer, as if its end had been on the way already.
async fn forgetful(limit: Duration) -> Backend {
    let backend = Backend::raw(move |stream, _| async move {
        let mut raw = Raw::over(stream);
        if raw.read_request_unhurried().await.is_none() {
            return;
        }
        while raw.try_write(ok(b"here")).await.is_ok() {
            let idle_since = Instant::now();
            let Ok(Some(_)) = timeout(limit, raw.read_request_unhurried()).await else {
                return;
            };
            if idle_since.elapsed() >= limit.mul_f64(0.9) {
                return;
            }
        }
    });
    backend.run().await
}

/// So many requests by each of so many clients, with pauses between them of up to `longest`; how many were
/// not answered 200.
async fn failures(
    proxy: &Running,
    method: &Method,
    (clients, requests): (u32, u32),
    longest: Duration,
) -> usize {
    let mut all = JoinSet::new();
    for number in 0..clients {
        let mut client = proxy.client().await;
        let method = method.clone();
        all.spawn(async move {
            let mut failed = 0;
            for round in 0..requests {
                // Spread evenly, and as random to the server as any.
                let share = (number * 7919 + round * 104_729) % 1000;
                sleep(longest * share / 1000).await;
                let body = if method == Method::GET {
                    empty()
                } else {
                    full("body")
                };
                let answer = client.send(request(method.clone(), "/", body)).await;
                failed += usize::from(answer.status != 200);
            }
            failed
        });
    }
    all.join_all().await.into_iter().sum()
}

#[tokio::test]
async fn idempotent_requests_at_any_pause_never_meet_an_end() {
    let backend = forgetful(Duration::from_millis(100)).await;
    let proxy = Proxy::to(&backend).http().run().await;
    let longest = Duration::from_millis(150);
    assert_eq!(failures(&proxy, &Method::GET, (50, 40), longest).await, 0);
}

#[tokio::test]
async fn what_cannot_be_repeated_keeps_away_from_the_end_that_was_learned() {
    let backend = forgetful(Duration::from_millis(400)).await;
    let proxy = Proxy::to(&backend).http().run().await;
    let longest = Duration::from_millis(600);
    assert_eq!(failures(&proxy, &Method::GET, (20, 10), longest).await, 0);
    assert_eq!(failures(&proxy, &Method::POST, (20, 15), longest).await, 0);
}

#[tokio::test]
async fn a_connection_is_not_used_again_near_the_end_that_was_announced() {
    let backend = Backend::answering(|_| {
        b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1, max=100\r\nContent-Length: 0\r\n\r\n".to_vec()
    });
    let backend = backend.run().await;
    let proxy = Proxy::to(&backend).server("workers = 1").http().run().await;
    let mut client = proxy.client().await;
    let mut connections = Vec::new();
    for (pause, method) in [
        (0, Method::POST),
        (0, Method::POST),
        (600, Method::GET),
        (600, Method::POST),
        (950, Method::GET),
    ] {
        sleep(Duration::from_millis(pause)).await;
        let answer = client.send(request(method, "/", full("body"))).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.field("keep-alive"), None);
        connections.push(backend.connections());
    }
    assert_eq!(connections, [1, 1, 1, 2, 3]);
}
