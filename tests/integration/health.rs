//! Health checks: what servers are asked, what makes them unhealthy and healthy again, and who is asked then.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::support::backend::{Backend, Received, ok};
use crate::support::grpc::{GrpcBackend, head, trailers};
use crate::support::pki::{Authority, Issued};
use crate::support::proxy::{Proxy, Reload, Running};
use crate::support::raw::Raw;
use crate::support::within;

/// A backend that answers checks with a status of the test's choice, and everything else with its name.
struct Patient {
    backend: Backend,
    status: Arc<AtomicU16>,
}

impl Patient {
    async fn new(name: &'static str, status: u16) -> Self {
        let status = Arc::new(AtomicU16::new(status));
        let answer = Arc::clone(&status);
        let backend = Backend::answering(move |request| match is_check(request) {
            true => plain(answer.load(Ordering::SeqCst)),
            false => ok(name.as_bytes()),
        });
        Self {
            backend: backend.run().await,
            status,
        }
    }

    fn is_now(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    fn address(&self) -> SocketAddr {
        self.backend.address()
    }
}

fn is_check(request: &Received) -> bool {
    request.field("user-agent") == Some("lockgate-health-check")
}

fn plain(status: u16) -> Vec<u8> {
    format!("HTTP/1.1 {status} \r\nContent-Length: 0\r\n\r\n").into_bytes()
}

/// A check every second, whose second result in a row counts.
const QUICK: &str = "[server_group.health_check]\ninterval = 1\nhealthy_threshold = 2\n\
                     unhealthy_threshold = 2";

fn checked(servers: &[SocketAddr], more: &str) -> Proxy {
    let group = format!("{QUICK}\n{more}");
    Proxy::new().servers(servers).group(&group)
}

/// Waits until the log says that a server came to another state, and why; counted from `since`.
async fn becomes(proxy: &mut Running, server: SocketAddr, to: &str, reason: &str, since: usize) {
    let words = [
        format!("server={server} "),
        format!("to=\"{to}\""),
        format!("reason=\"{reason}\""),
        "group=\"app\"".to_owned(),
    ];
    proxy
        .wait_for_stderr(|text| {
            let mut news = text.get(since..).unwrap_or_default().lines();
            news.any(|line| words.iter().all(|word| line.contains(word)))
        })
        .await;
}

#[tokio::test]
async fn a_server_that_fails_its_checks_gets_no_requests_until_it_passes_them_again() {
    let (a, b) = (Patient::new("a", 200).await, Patient::new("b", 204).await);
    let mut proxy = checked(&[a.address(), b.address()], "")
        .server("workers = 1")
        .run()
        .await;
    becomes(&mut proxy, a.address(), "healthy", "passed", 0).await;
    let mut client = proxy.client().await;
    assert_eq!(client.who(4).await, "abab");
    a.is_now(503);
    becomes(&mut proxy, a.address(), "unhealthy", "response_mismatch", 0).await;
    assert!(proxy.stderr().contains("detail=\"status 503\""));
    assert_eq!(client.who(6).await, "bbbbbb");
    let since = proxy.stderr().len();
    a.is_now(299);
    becomes(&mut proxy, a.address(), "healthy", "passed", since).await;
    let names = client.who(6).await;
    assert_eq!(names.matches('a').count(), 3, "{names}");
}

#[tokio::test]
async fn new_servers_serve_before_their_first_check_and_all_do_when_all_are_unhealthy() {
    let (a, b) = (Patient::new("a", 500).await, Patient::new("b", 500).await);
    let mut proxy = checked(&[a.address(), b.address()], "")
        .server("workers = 1")
        .run()
        .await;
    let mut client = proxy.client().await;
    assert_eq!(client.who(4).await, "abab");
    for server in [&a, &b] {
        becomes(
            &mut proxy,
            server.address(),
            "unhealthy",
            "response_mismatch",
            0,
        )
        .await;
    }
    let names = client.who(4).await;
    assert_eq!(names.matches('a').count(), 2, "{names}");
}

#[tokio::test]
async fn a_check_asks_what_the_configuration_says() {
    let default = "HEAD / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: lockgate-health-check\r\n\
                   Connection: close\r\n\r\n";
    for (more, expected) in [
        ("", default.to_owned()),
        (
            "method = \"GET\"\npath = \"/healthz?full=1\"\nhost = \"App.Example.com\"",
            default
                .replace("HEAD / ", "GET /healthz?full=1 ")
                .replace("127.0.0.1", "app.example.com"),
        ),
        (
            "http_version = \"HTTP/1.0\"",
            default.replace("HTTP/1.1", "HTTP/1.0"),
        ),
    ] {
        let (told, mut heard) = mpsc::unbounded_channel();
        let backend = Backend::answering(move |request| {
            let _ = told.send(request.head.clone());
            plain(200)
        });
        let backend = backend.run().await;
        let _proxy = checked(&[backend.address()], more).run().await;
        let head = within("a check comes", heard.recv()).await.unwrap();
        assert_eq!(head, expected);
    }
}

#[tokio::test]
async fn codes_say_which_statuses_are_well() {
    let (a, b) = (Patient::new("a", 200).await, Patient::new("b", 404).await);
    let codes = "codes = [\"http_3xx\", \"http_4xx\"]";
    let mut proxy = checked(&[a.address(), b.address()], codes).run().await;
    becomes(&mut proxy, b.address(), "healthy", "passed", 0).await;
    becomes(&mut proxy, a.address(), "unhealthy", "response_mismatch", 0).await;
}

#[tokio::test]
async fn checks_go_to_another_port_where_one_is_named() {
    let a = Patient::new("a", 200).await;
    let side = Patient::new("side", 500).await;
    let port = format!("port = {}", side.address().port());
    let mut proxy = checked(&[a.address()], &port).run().await;
    becomes(&mut proxy, a.address(), "unhealthy", "response_mismatch", 0).await;
    assert_eq!(a.backend.connections(), 0);
    // It is the only one, so it is asked all the same.
    assert_eq!(proxy.client().await.who(1).await, "a");
}

#[tokio::test]
async fn a_tcp_check_wants_a_connection_and_nothing_else() {
    let (told, mut heard) = mpsc::unbounded_channel();
    let backend = Backend::raw(move |stream, _| {
        let told = told.clone();
        async move {
            let bytes = Raw::over(stream).read_until_close().await;
            let _ = told.send(bytes);
        }
    });
    let a = backend.clone().run().await;
    let address = a.address();
    let b = Backend::named("b").run().await;
    let mut proxy = checked(&[address, b.address()], "protocol = \"tcp\"")
        .server("workers = 1")
        .run()
        .await;
    becomes(&mut proxy, address, "healthy", "passed", 0).await;
    let bytes = within("a check comes", heard.recv()).await.unwrap();
    assert!(bytes.is_empty());
    drop(a);
    becomes(&mut proxy, address, "unhealthy", "connect_failed", 0).await;
    assert_eq!(proxy.client().await.who(4).await, "bbbb");
    let since = proxy.stderr().len();
    let _a = backend.run_on(address).await;
    becomes(&mut proxy, address, "healthy", "passed", since).await;
}

#[tokio::test]
async fn a_server_of_weight_zero_is_not_checked() {
    let (a, b) = (Patient::new("a", 500).await, Patient::new("b", 500).await);
    let servers = [
        format!("{{ address = \"{}\", weight = 0 }}", a.address()),
        format!("{{ address = \"{}\" }}", b.address()),
    ];
    let mut proxy = Proxy::new().servers(&servers).group(QUICK).run().await;
    becomes(&mut proxy, b.address(), "unhealthy", "response_mismatch", 0).await;
    assert_eq!(a.backend.connections(), 0);
}

#[tokio::test]
async fn a_server_is_checked_once_an_interval_whatever_the_number_of_workers() {
    let (told, mut heard) = mpsc::unbounded_channel();
    let backend = Backend::answering(move |_| {
        let _ = told.send(Instant::now());
        plain(200)
    });
    let backend = backend.run().await;
    let _proxy = checked(&[backend.address()], "")
        .server("workers = 4")
        .run()
        .await;
    let first = within("a check comes", heard.recv()).await.unwrap();
    heard.recv().await.unwrap();
    let third = within("a third comes", heard.recv()).await.unwrap();
    assert!(third - first >= Duration::from_secs(2));
}

/// Waits until `backend`, checked in this way, is unhealthy for this reason.
async fn fails(backend: Backend, more: &str, reason: &str) {
    let mut proxy = checked(&[backend.address()], more).run().await;
    becomes(&mut proxy, backend.address(), "unhealthy", reason, 0).await;
}

#[tokio::test]
async fn a_server_that_says_nothing_fails() {
    let backend = Backend::silent().run().await;
    fails(backend, "timeout = 1", "recv_response_timeout").await;
}

#[tokio::test]
async fn a_server_that_closes_at_once_fails() {
    let backend = Backend::raw(|stream, _| async move {
        Raw::over(stream).read_head().await;
    });
    fails(backend.run().await, "", "recv_response_failed").await;
}

#[tokio::test]
async fn a_server_that_speaks_something_else_fails() {
    let backend = Backend::raw(|stream, _| async move {
        let mut stream = Raw::over(stream);
        stream.write("220 mail.example.com ESMTP\r\n").await;
        stream.drain().await;
    });
    fails(backend.run().await, "", "response_format_error").await;
}

#[tokio::test]
async fn a_server_whose_answer_does_not_end_fails() {
    let heads = Backend::raw(|stream, _| async move {
        let mut stream = Raw::over(stream);
        let _ = stream.try_write("HTTP/1.1 200 OK\r\n").await;
        while stream.try_write("X-More: and more\r\n").await.is_ok() {}
    });
    fails(heads.run().await, "", "response_format_error").await;
}

#[tokio::test]
async fn a_server_that_never_comes_to_its_answer_fails() {
    let interim = Backend::raw(|stream, _| async move {
        let mut stream = Raw::over(stream);
        while stream.try_write("HTTP/1.1 102 \r\n\r\n").await.is_ok() {}
    });
    fails(interim.run().await, "", "response_format_error").await;
}

#[tokio::test]
async fn a_server_that_answers_too_slowly_fails() {
    let slow = Backend::raw(|stream, _| async move {
        let mut stream = Raw::over(stream);
        for byte in "HTTP/1.1 200 OK\r\nX-Padding: still at it\r\n\r\n".bytes() {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if stream.try_write([byte]).await.is_err() {
                return;
            }
        }
    });
    fails(slow.run().await, "timeout = 1", "recv_response_timeout").await;
}

#[tokio::test]
async fn an_endless_body_is_not_read() {
    let endless = Backend::raw(|stream, _| async move {
        let mut stream = Raw::over(stream);
        stream.read_request().await;
        let _ = stream.try_write("HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.try_write([b'x'; 4096]).await.is_ok() {}
    });
    let backend = endless.run().await;
    let mut proxy = checked(&[backend.address()], "method = \"GET\"")
        .run()
        .await;
    becomes(&mut proxy, backend.address(), "healthy", "passed", 0).await;
}

/// Before a server that speaks TLS with this certificate, checked over TLS; a table for TLS may follow.
async fn checked_over_tls(
    issued: &Issued,
    more: &str,
    proxy: Proxy,
) -> (Running, SocketAddr, Heard) {
    let (told, heard) = mpsc::unbounded_channel();
    let acceptor = TlsAcceptor::from(Arc::new(issued.server_config()));
    let backend = Backend::raw(move |stream, _| {
        let (acceptor, told) = (acceptor.clone(), told.clone());
        async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let mut raw = Raw::over(stream);
            while let Some(request) = raw.read_request_unhurried().await {
                let _ = told.send(request.head);
                let _ = raw.try_write(ok(b"t")).await;
            }
        }
    });
    let backend = backend.run().await;
    let address = backend.address();
    let group =
        format!("protocol = \"https\"\n{more}\n{QUICK}\nprotocol = \"https\"\nhost = \"app.test\"");
    let running = proxy.servers(&[address]).group(&group).run().await;
    (
        running,
        address,
        Heard {
            heard,
            _backend: backend,
        },
    )
}

/// What a backend has been asked, as long as it runs.
struct Heard {
    heard: mpsc::UnboundedReceiver<String>,
    _backend: Backend,
}

#[tokio::test]
async fn an_https_check_asks_over_tls_and_verifies_what_the_group_verifies() {
    let (ours, foreign) = (Authority::new(), Authority::new());
    let verify =
        "tls = { verify = true, ca = [\"backend-ca.crt\"], server_name = \"backend.test\" }";
    let issued = ours.issue(&["backend.test"]);
    for (authority, more, to, reason) in [
        (&ours, "", "healthy", "passed"),
        (&ours, verify, "healthy", "passed"),
        (&foreign, verify, "unhealthy", "connect_failed"),
    ] {
        let proxy = Proxy::new();
        std::fs::write(proxy.directory().join("backend-ca.crt"), authority.pem()).unwrap();
        let (mut proxy, address, mut heard) = checked_over_tls(&issued, more, proxy).await;
        becomes(&mut proxy, address, to, reason, 0).await;
        match reason {
            "passed" => {
                let head = heard.heard.recv().await.unwrap();
                assert!(
                    head.starts_with("HEAD / HTTP/1.1\r\nHost: app.test\r\n"),
                    "{head}"
                );
            }
            _ => assert!(proxy.stderr().contains("the server is not verified")),
        }
    }
}

#[tokio::test]
async fn an_https_check_of_a_server_in_the_clear_fails() {
    let plain = Backend::raw(|stream, _| async move {
        let mut stream = Raw::over(stream);
        stream.write("HTTP/1.1 400 Bad Request\r\n\r\n").await;
        stream.drain().await;
    });
    fails(plain.run().await, "protocol = \"https\"", "connect_failed").await;
    let silent = Backend::silent().run().await;
    let more = "protocol = \"https\"\ntimeout = 1";
    fails(silent, more, "connect_timeout").await;
}

#[tokio::test]
async fn what_checks_have_found_survives_a_reload() {
    let (a, b) = (Patient::new("a", 500).await, Patient::new("b", 200).await);
    let mut proxy = checked(&[a.address(), b.address()], "")
        .server("workers = 1")
        .run()
        .await;
    becomes(&mut proxy, a.address(), "unhealthy", "response_mismatch", 0).await;
    // It would pass from now on, but it is a long way to ten successes.
    a.is_now(200);
    proxy.rewrite(|toml| toml.replace("healthy_threshold = 2\nun", "healthy_threshold = 10\nun"));
    for _ in 0..3 {
        assert_eq!(proxy.reload().await, Reload::TakenUp);
        assert_eq!(proxy.client().await.who(4).await, "bbbb");
    }
    let since = proxy.stderr().len();
    proxy.rewrite(|toml| {
        toml.replace(
            "[server_group.health_check]",
            "[server_group.health_check]\nenabled = false",
        )
    });
    assert_eq!(proxy.reload().await, Reload::TakenUp);
    let names = proxy.client().await.who(4).await;
    assert_eq!(names.matches('a').count(), 2, "{names}");
    assert!(!proxy.stderr()[since..].contains("lockgate::health"));
}

/// A gRPC server that answers checks with a serving status, or with another status of the call.
async fn grpc(
    serving: Arc<AtomicU16>,
    service: mpsc::UnboundedSender<(String, Bytes)>,
) -> GrpcBackend {
    GrpcBackend::run(move |mut call| {
        let (serving, service) = (Arc::clone(&serving), service.clone());
        async move {
            let path = call.request.uri().path().to_owned();
            let body = call.request.body_mut();
            let message = body.data().await.unwrap().unwrap();
            let _ = service.send((path, message));
            let mut stream = call.respond.send_response(head(), false).unwrap();
            let serving = serving.load(Ordering::SeqCst);
            if let Ok(serving) = u8::try_from(serving) {
                let message = Bytes::from(vec![0, 0, 0, 0, 2, 8, serving]);
                stream.send_data(message, false).unwrap();
                stream.send_trailers(trailers(0)).unwrap();
            } else {
                let status = u8::try_from(serving - 1000).unwrap();
                stream.send_trailers(trailers(status)).unwrap();
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_grpc_check_asks_for_a_service_that_must_be_serving() {
    let serving = Arc::new(AtomicU16::new(1));
    let (told, mut heard) = mpsc::unbounded_channel();
    let backend = grpc(Arc::clone(&serving), told).await;
    let more = "protocol = \"grpc\"\npath = \"/shop.Cart\"\ncodes = [\"0\", \"12\"]";
    let mut proxy = checked(&[backend.address()], more).run().await;
    becomes(&mut proxy, backend.address(), "healthy", "passed", 0).await;
    let (path, message) = heard.recv().await.unwrap();
    assert_eq!(path, "/grpc.health.v1.Health/Check");
    assert_eq!(&message[..], b"\0\0\0\0\x0b\x0a\x09shop.Cart");
    for (unwell, well, detail) in [(2, 1, "serving status 2"), (1005, 1012, "grpc-status 5")] {
        let since = proxy.stderr().len();
        serving.store(unwell, Ordering::SeqCst);
        let (server, reason) = (backend.address(), "response_mismatch");
        becomes(&mut proxy, server, "unhealthy", reason, since).await;
        assert!(proxy.stderr()[since..].contains(detail));
        serving.store(well, Ordering::SeqCst);
        becomes(&mut proxy, server, "healthy", "passed", since).await;
    }
}

#[tokio::test]
async fn grpc_servers_that_misbehave_fail() {
    let check = "protocol = \"grpc\"";
    let backend = Backend::raw(|stream, _| async move {
        let mut stream = Raw::over(stream);
        stream.write("HTTP/1.1 400 Bad Request\r\n\r\n").await;
        stream.drain().await;
    });
    fails(backend.run().await, check, "response_format_error").await;
    let endless = GrpcBackend::run(|mut call| async move {
        let mut stream = call.begin();
        while stream
            .send_data(Bytes::from_static(&[0; 1024]), false)
            .is_ok()
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut proxy = checked(&[endless.address()], check).run().await;
    becomes(
        &mut proxy,
        endless.address(),
        "unhealthy",
        "response_format_error",
        0,
    )
    .await;
    let silent = Backend::silent().run().await;
    let check = format!("{check}\ntimeout = 1");
    fails(silent, &check, "recv_response_timeout").await;
}
