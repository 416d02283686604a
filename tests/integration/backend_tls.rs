//! Servers that speak HTTPS: how they are asked for, when they are believed, and what breaks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use rcgen::date_time_ymd;
use rustls::HandshakeKind;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::support::backend::{Backend, ok};
use crate::support::client::{empty, request};
use crate::support::nginx::Nginx;
use crate::support::pki::{self, Authority, Issued};
use crate::support::proxy::{Proxy, Reload, Running, free_port};
use crate::support::raw::Raw;
use crate::websocket::{ASKING, SWITCHING};

const HTTPS: &str = "protocol = \"https\"";

/// How a handshake came out at the backend.
#[derive(Debug, PartialEq)]
struct Shaken {
    name: Option<String>,
    alpn: Option<Vec<u8>>,
    kind: HandshakeKind,
}

impl Shaken {
    fn of(stream: &TlsStream<TcpStream>) -> Self {
        let session = stream.get_ref().1;
        Self {
            name: session.server_name().map(str::to_owned),
            alpn: session.alpn_protocol().map(<[u8]>::to_vec),
            kind: session.handshake_kind().unwrap(),
        }
    }
}

fn acceptor(issued: &Issued) -> TlsAcceptor {
    let mut config = issued.server_config();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// Answers every request with its head and body, and tells of each handshake.
async fn echoing(issued: &Issued) -> (Backend, mpsc::UnboundedReceiver<Shaken>) {
    let (tell, shaken) = mpsc::unbounded_channel();
    let acceptor = acceptor(issued);
    let backend = Backend::raw(move |stream, _| {
        let (acceptor, tell) = (acceptor.clone(), tell.clone());
        async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            tell.send(Shaken::of(&stream)).unwrap();
            let mut raw = Raw::over(stream);
            while let Some(request) = raw.read_request_unhurried().await {
                let shown = [request.head.as_bytes(), &request.body].concat();
                if raw.try_write(ok(&shown)).await.is_err() {
                    return;
                }
            }
        }
    });
    (backend.run().await, shaken)
}

/// Answers with what `script` makes of each connection, once its first request is read.
async fn scripted<F>(script: impl Fn(Raw, usize) -> F + Send + Sync + 'static) -> Backend
where
    F: Future<Output = ()> + Send + 'static,
{
    let acceptor = acceptor(&Authority::new().issue(&["localhost"]));
    let script = Arc::new(script);
    let backend = Backend::raw(move |stream, number| {
        let (acceptor, script) = (acceptor.clone(), Arc::clone(&script));
        async move {
            let mut raw = Raw::over(acceptor.accept(stream).await.unwrap());
            if raw.read_request_unhurried().await.is_some() {
                script(raw, number).await;
            }
        }
    });
    backend.run().await
}

fn to(backend: &Backend) -> Proxy {
    Proxy::to(backend).server("workers = 1").group(HTTPS)
}

/// Before a server that has to come from `authority`, by a name where one is given.
fn verifying(authority: &Authority, address: &str, name: Option<&str>) -> Proxy {
    let proxy = Proxy::new().servers(&[address]).server("workers = 1");
    let ca = proxy.directory().join("backend-ca.crt");
    std::fs::write(ca, authority.pem()).unwrap();
    let name = name.map_or_else(String::new, |name| format!("server_name = \"{name}\""));
    proxy.group(&format!(
        "{HTTPS}\n[server_group.tls]\nverify = true\nca = [\"backend-ca.crt\"]\n{name}"
    ))
}

async fn cause(proxy: &Running) -> String {
    let line = proxy.wait_for_access(|line| line["cause"] != "-");
    line.await["cause"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn requests_and_answers_pass_over_one_tls_connection() {
    let (backend, mut shaken) = echoing(&Authority::new().issue(&["localhost"])).await;
    let proxy = to(&backend).run().await;
    let warned = "the servers of this group are not verified";
    assert!(proxy.stderr().contains(warned), "{}", proxy.stderr());
    let mut client = proxy.client().await;
    let body = vec![b'x'; 3_000_000];
    for _ in 0..3 {
        assert!(client.get("/a").await.text().starts_with("GET /a HTTP/1.1"));
        let answer = client.post("/b", body.clone()).await;
        assert!(answer.body.ends_with(&body));
    }
    let mut h2 = proxy.client_h2().await;
    assert!(h2.get("/c").await.text().starts_with("GET /c HTTP/1.1"));
    let expected = Shaken {
        name: Some("localhost".into()),
        alpn: Some(b"http/1.1".to_vec()),
        kind: HandshakeKind::Full,
    };
    assert_eq!(shaken.recv().await.unwrap(), expected);
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn a_server_is_asked_for_by_the_request_s_host_and_connections_are_shared_by_name() {
    let (backend, mut shaken) = echoing(&Authority::new().issue(&["localhost"])).await;
    let proxy = to(&backend).run().await;
    let mut raw = proxy.raw().await;
    for (host, new) in [
        ("a.test", true),
        ("b.test:8443", true),
        ("A.test", false),
        ("b.test", false),
        ("192.0.2.1", true),
    ] {
        raw.write(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await;
        assert_eq!(raw.read_response().await.status(), 200);
        let name = shaken
            .try_recv()
            .map(|shaken| shaken.name.unwrap_or_default());
        let expected = host.split(':').next().unwrap().replace("192.0.2.1", "");
        assert_eq!(name.ok(), new.then_some(expected), "{host}");
    }
}

#[tokio::test]
async fn sessions_are_resumed() {
    let (backend, mut shaken) = echoing(&Authority::new().issue(&["localhost"])).await;
    let tls = "keepalive = false\n[server_group.tls]\nserver_name = \"app.test\"";
    let proxy = to(&backend).group(tls).run().await;
    let mut client = proxy.client().await;
    for kind in [
        HandshakeKind::Full,
        HandshakeKind::Resumed,
        HandshakeKind::Resumed,
    ] {
        assert_eq!(client.get("/").await.status, 200);
        let shaken = shaken.recv().await.unwrap();
        assert_eq!(shaken.name.as_deref(), Some("app.test"));
        assert_eq!(shaken.kind, kind);
    }
}

#[tokio::test]
async fn a_body_up_to_the_end_is_whole_only_with_a_close_notify() {
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it";
    for says_so in [true, false] {
        let backend = scripted(move |mut raw, _| async move {
            raw.write(head).await;
            if says_so {
                raw.half_close().await;
            }
        })
        .await;
        let proxy = to(&backend).run().await;
        let mut client = proxy.client().await;
        let answer = client.try_send(request(Method::GET, "/", empty())).await;
        match answer {
            Ok(answer) => assert!(says_so && answer.text() == "all of it"),
            Err(error) => assert!(!says_so, "{error}"),
        }
        if !says_so {
            assert_eq!(cause(&proxy).await, "backend_closed");
        }
    }
}

#[tokio::test]
async fn an_idle_connection_with_excess_or_a_close_notify_is_not_used_again() {
    for news in ["excess", ""] {
        let (go, gone) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (wait, tell) = (Arc::clone(&go), Arc::clone(&gone));
        let backend = scripted(move |mut raw, number| {
            let (wait, tell) = (Arc::clone(&wait), Arc::clone(&tell));
            async move {
                raw.write(ok(format!("{number}").as_bytes())).await;
                wait.notified().await;
                if news.is_empty() {
                    raw.half_close().await;
                } else {
                    raw.write(news).await;
                }
                tell.notify_one();
                raw.drain().await;
            }
        })
        .await;
        let proxy = to(&backend).run().await;
        let mut client = proxy.client().await;
        assert_eq!(client.get("/").await.text(), "0");
        go.notify_one();
        gone.notified().await;
        let answer = client.post("/", "not twice").await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "1"));
    }
}

#[tokio::test]
async fn a_certificate_counts_only_where_it_is_verified() {
    let authority = Authority::new();
    let elsewhere = Authority::named("elsewhere").issue(&["localhost", "127.0.0.1"]);
    let expired = authority.issue_as(|params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("app.test".try_into().unwrap())];
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let good = authority.issue(&["app.test", "127.0.0.1"]);
    for (issued, name, is_served) in [
        (&good, Some("app.test"), true),
        (&good, None, true),
        (&good, Some("other.test"), false),
        (&expired, Some("app.test"), false),
        (&elsewhere, None, false),
    ] {
        let (backend, _shaken) = echoing(issued).await;
        let address = backend.address().to_string();
        let proxy = verifying(&authority, &address, name).run().await;
        let status = proxy.client().await.get("/").await.status;
        assert_eq!(status, if is_served { 200 } else { 502 }, "{name:?}");
        if !is_served {
            assert_eq!(cause(&proxy).await, "backend_certificate");
            let said = proxy.stderr();
            assert!(said.contains("the server is not verified"), "{said}");
        }
    }
}

#[tokio::test]
async fn a_server_whose_handshake_fails_costs_no_error_where_there_is_another() {
    // As servers answer that speak HTTP on this port.
    let plain = Backend::raw(|stream, _| async move {
        let mut raw = Raw::over(stream);
        raw.read_some().await;
        raw.write("HTTP/1.1 400 Bad Request\r\n\r\n").await;
        raw.drain().await;
    });
    let plain = plain.run().await;
    let (backend, _shaken) = echoing(&Authority::new().issue(&["localhost"])).await;
    let proxy = Proxy::new()
        .servers(&[plain.address(), backend.address()])
        .server("workers = 1")
        .group(HTTPS)
        .run()
        .await;
    let mut client = proxy.client().await;
    for _ in 0..4 {
        let answer = client.post("/", "a body").await;
        assert!(answer.text().ends_with("a body"));
    }
    let alone = to(&plain).run().await;
    assert_eq!(alone.client().await.get("/").await.status, 502);
    assert_eq!(cause(&alone).await, "backend_handshake");
}

#[tokio::test]
async fn a_handshake_that_takes_longer_than_connect_timeout_is_answered_504() {
    let silent = Backend::silent().run().await;
    let proxy = to(&silent).group("connect_timeout = \"200ms\"");
    let proxy = proxy.run().await;
    let began = Instant::now();
    assert_eq!(proxy.client().await.get("/").await.status, 504);
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert_eq!(cause(&proxy).await, "connect_timeout");
}

#[tokio::test]
async fn a_tunnel_leads_to_an_https_server() {
    let backend = scripted(|mut raw, _| async move {
        raw.write(SWITCHING).await;
        while let Some(byte) = raw.read_byte().await {
            raw.write([byte.to_ascii_uppercase()]).await;
        }
        raw.write("bye").await;
        raw.half_close().await;
    })
    .await;
    let proxy = to(&backend).run().await;
    let mut raw = proxy.raw().await;
    raw.write(ASKING).await;
    assert_eq!(raw.read_response().await.status(), 101);
    raw.write("words").await;
    assert_eq!(raw.read_exactly(5).await, b"WORDS");
    raw.half_close().await;
    assert_eq!(raw.read_to_end().await.0, b"bye");
}

#[tokio::test]
async fn a_reload_with_another_authority_counts_for_connections_that_are_open() {
    let (authority, stranger) = (Authority::new(), Authority::named("stranger"));
    let (backend, _shaken) = echoing(&authority.issue(&["127.0.0.1"])).await;
    let address = backend.address().to_string();
    let mut proxy = verifying(&authority, &address, None).run().await;
    let mut client = proxy.client().await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(proxy.reload().await, Reload::TakenUp);
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(backend.connections(), 1);
    let ca = proxy.directory().join("backend-ca.crt");
    std::fs::write(&ca, "no certificate").unwrap();
    assert_eq!(proxy.reload().await, Reload::Refused);
    let said = proxy.stderr();
    assert!(said.contains("backend-ca.crt"), "{said}");
    assert_eq!(client.get("/").await.status, 200);
    std::fs::write(&ca, stranger.pem()).unwrap();
    assert_eq!(proxy.reload().await, Reload::TakenUp);
    assert_eq!(client.get("/").await.status, 502);
    assert_eq!(cause(&proxy).await, "backend_certificate");
}

/// nginx with this certificate, and more lines for its `server` block.
async fn nginx(issued: &Issued, more: &str) -> Option<(Nginx, tempfile::TempDir, u16)> {
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = pki::write(directory.path(), "backend", issued);
    let port = free_port();
    let server = format!(
        "server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {}; ssl_certificate_key {};\n{more}\n\
         location / {{ return 200 \"$ssl_protocol $ssl_server_name $ssl_session_reused $request_method\"; }} }}",
        cert.display(),
        key.display()
    );
    let nginx = Nginx::start(directory.path(), port, &server).await?;
    Some((nginx, directory, port))
}

#[tokio::test]
async fn nginx_serves_as_an_https_backend() {
    let authority = Authority::new();
    let expired = authority.issue_as(|params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("app.test".try_into().unwrap())];
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let good = authority.issue(&["app.test"]);
    let old = "ssl_protocols TLSv1.2; ssl_session_cache shared:a:1m;";
    for (issued, more, name, expected) in [
        (
            &good,
            "ssl_protocols TLSv1.2 TLSv1.3; keepalive_requests 3;",
            "app.test",
            "TLSv1.3",
        ),
        (&good, old, "app.test", "TLSv1.2"),
        (&good, "", "other.test", ""),
        (&expired, "", "app.test", ""),
    ] {
        let Some((_nginx, _directory, port)) = nginx(issued, more).await else {
            return;
        };
        let address = format!("127.0.0.1:{port}");
        let proxy = verifying(&authority, &address, Some(name)).run().await;
        let mut client = proxy.client().await;
        for _ in 0..10 {
            let got = client.get("/").await;
            if expected.is_empty() {
                assert_eq!(got.status, 502, "{name}");
                assert_eq!(cause(&proxy).await, "backend_certificate");
                continue;
            }
            let text = got.text();
            assert!(text.starts_with(&format!("{expected} app.test ")), "{text}");
            assert_eq!(client.post("/", "a body").await.status, 200);
        }
    }
}
