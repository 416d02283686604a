//! Copies of requests for another group (`mirror`): what they hold, and that nobody waits for them (alb.md
//! 6.3).

use http::Method;

use crate::support::backend::{Backend, Behaviour, ok};
use crate::support::client::{empty, full, request};
use crate::support::proxy::{Proxy, Running};
use crate::support::within;

/// A listener whose rule copies everything to `shadow`.
async fn mirrored(app: &Backend, shadow: &str) -> Running {
    Proxy::to(app)
        .listener(
            "[[listener.rule]]\nname = \"m\"\npriority = 1\npath = [\"/*\"]\nforward = \"app\"\nmirror = { server_group = \"shadow\" }\n\
             rewrite = { path = \"/new${path}\" }\ninsert_headers = [{ name = \"X-In\", value = \"1\" }]",
        )
        .group(&format!(
            "[[server_group]]\nname = \"shadow\"\nconnect_timeout = 1\nservers = [{{ address = \"{shadow}\" }}]"
        ))
        .run()
        .await
}

async fn copies(shadow: &Backend, count: usize) {
    within("the copies have come", async {
        while shadow.requests().len() < count {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_copy_is_what_the_backend_got() {
    let app = Backend::named("app").run().await;
    let shadow = Backend::answering(|_| {
        let mut bytes = b"HTTP/1.1 500 Oops\r\nContent-Length: 100000\r\n\r\n".to_vec();
        bytes.resize(bytes.len() + 100_000, b'x');
        bytes
    });
    let shadow = shadow.run().await;
    let running = mirrored(&app, &shadow.address().to_string()).await;
    let mut clients = [running.client().await, running.client_h2().await];
    let mut sent = 0;
    for client in &mut clients {
        for request in [
            request(Method::GET, "/a?b", empty()),
            request(Method::POST, "/c", full("some content")),
            request(Method::PUT, "/d", full(vec![b'x'; 64 * 1024])),
        ] {
            assert_eq!(client.send(request).await.text(), "app");
            sent += 1;
            copies(&shadow, sent).await;
            let (original, copy) = (app.requests().pop(), shadow.requests().pop());
            let (original, copy) = (original.unwrap(), copy.unwrap());
            assert_eq!(original.body, copy.body);
            assert!(copy.start().contains(" /new/"), "{}", copy.head);
            assert_eq!(copy.head, original.head);
            for name in ["x-in", "x-forwarded-for", "alicloud-alb-trace", "host"] {
                assert!(copy.field(name).is_some(), "{name}");
            }
        }
    }
    assert!(shadow.connections() <= 4, "connections are used again");
}

#[tokio::test]
async fn a_body_whose_length_is_told_by_its_end_is_copied_with_its_length() {
    let app = Backend::named("app").run().await;
    let shadow = Backend::named("shadow").run().await;
    let running = mirrored(&app, &shadow.address().to_string()).await;
    let mut raw = running.raw().await;
    raw.write("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n")
        .await;
    assert_eq!(raw.read_response().await.status(), 200);
    copies(&shadow, 1).await;
    let copy = shadow.request();
    assert_eq!(copy.body, b"abcde");
    assert_eq!(copy.field("content-length"), Some("5"));
    assert_eq!(copy.field("transfer-encoding"), None);
}

#[tokio::test]
async fn what_is_too_long_is_not_copied_and_said() {
    let app = Backend::answering(|request| ok(request.body.len().to_string().as_bytes()));
    let app = app.run().await;
    let shadow = Backend::named("shadow").run().await;
    let mut running = mirrored(&app, &shadow.address().to_string()).await;
    let mut client = running.client().await;
    let long = vec![b'x'; 64 * 1024 + 1];
    assert_eq!(client.post("/", long.clone()).await.text(), "65537");
    let mut raw = running.raw().await;
    raw.write("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10001\r\n")
        .await;
    raw.write(&long).await;
    raw.write("\r\n0\r\n\r\n").await;
    assert_eq!(raw.read_response().await.status(), 200);
    running
        .wait_for_stderr(|text| {
            let lines = text.lines().filter(|line| line.contains("not mirrored"));
            let count = |line: &str| {
                line.contains("too_long=1") as u32 + 2 * u32::from(line.contains("too_long=2"))
            };
            lines.map(count).sum::<u32>() == 2
        })
        .await;
    assert_eq!(client.get("/").await.text(), "0");
    copies(&shadow, 1).await;
    assert!(shadow.request().start().starts_with("GET "));
}

async fn nobody_waits(shadow: Behaviour) {
    let app = Backend::named("app").run().await;
    let shadow = shadow.run().await;
    let running = mirrored(&app, &shadow.address().to_string()).await;
    let mut clients = [running.client().await, running.client_h2().await];
    // More than may be in flight at the same time.
    within("all are answered", async {
        for client in &mut clients {
            for _ in 0..150 {
                assert_eq!(client.post("/", "x").await.text(), "app");
            }
        }
    })
    .await;
    assert_eq!(app.requests().len(), 300);
}

#[tokio::test]
async fn nobody_waits_for_a_group_that_never_answers() {
    nobody_waits(Backend::silent()).await;
}

#[tokio::test]
async fn nobody_fails_with_a_group_that_closes_at_once() {
    nobody_waits(Backend::raw(|stream, _| async move { drop(stream) })).await;
}

#[tokio::test]
async fn nobody_waits_for_an_answer_without_an_end() {
    let endless = Backend::raw(|stream, _| async move {
        let mut raw = crate::support::raw::Raw::over(stream);
        let mut bytes = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        while raw.try_write(&bytes).await.is_ok() {
            bytes.resize(64 * 1024, b'x');
        }
    });
    nobody_waits(endless).await;
}

#[tokio::test]
async fn nobody_fails_with_a_group_that_is_not_there() {
    let app = Backend::named("app").run().await;
    let gone = Backend::named("gone").run().await.address().to_string();
    let mut running = mirrored(&app, &gone).await;
    let mut client = running.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.text(), "app");
    }
    running
        .wait_for_stderr(|text| text.contains("not mirrored"))
        .await;
}
