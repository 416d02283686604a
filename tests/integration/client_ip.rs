//! Who a client is, and whether it may come: `[listener.client_ip]`, `proxy_protocol`, `[listener.access]`
//! (alb.md sections 10 and 14, decisions 4 and 24; attacks.md rows 51 and 53).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::support::backend::Backend;
use crate::support::client::Client;
use crate::support::proxy::{Proxy, Reload, Running};
use crate::support::raw::{Message, Raw};
use crate::support::within;

const CHAIN: &str = "203.0.113.9, 10.0.0.1, 10.0.0.2";
const V1: &str = "PROXY TCP4 10.0.0.3 192.0.2.1 4711 443\r\n";

/// A version 2 header, with its length made right.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    let start = b"\r\n\r\n\0\r\nQUIT\n";
    [start, &[command, family][..], &length, block].concat()
}

/// 2001:db8::7, port 4711, and an extension that is none.
fn v2_over_ipv6() -> Vec<u8> {
    let source: std::net::Ipv6Addr = "2001:db8::7".parse().unwrap();
    let ports_and_tlv = [0x12, 0x67, 0x01, 0xbb, 0xff, 0xff, 0xff];
    let block = [&source.octets()[..], &[0; 16], &ports_and_tlv].concat();
    v2(0x21, 0x21, &block)
}

/// A connection from another address of this machine.
async fn from(source: &str, running: &Running) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let source: IpAddr = source.parse().unwrap();
    socket.bind(SocketAddr::new(source, 0)).unwrap();
    let port = running.port();
    let connect = socket.connect((Ipv4Addr::LOCALHOST, port).into());
    within("it is connected", connect).await.unwrap()
}

/// Sends these bytes and then a request, all at once, and reads the answer.
async fn ask(stream: TcpStream, before: &[u8], lines: &str) -> (Raw, Message) {
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    let mut raw = Raw::over(stream);
    raw.write([before, request.as_bytes()].concat()).await;
    let answer = raw.read_response().await;
    (raw, answer)
}

/// The newest line of the access log, once there are so many.
async fn line(running: &Running, count: usize) -> Value {
    let enough = |_: &Value| running.access_log().len() >= count;
    running.wait_for_access(enough).await;
    running.access_log().pop().unwrap()
}

#[track_caller]
fn check_line(line: &Value, ip: &str, from: &str, port: u16, peer_ip: &str) {
    assert_eq!(line["client_ip"], ip, "{line}");
    assert_eq!(line["client_ip_from"], from, "{line}");
    if port != 0 {
        assert_eq!(line["client_port"], port, "{line}");
    }
    let peer: SocketAddr = line["peer_addr"].as_str().unwrap().parse().unwrap();
    assert_eq!(peer.ip().to_string(), peer_ip, "{line}");
}

#[tokio::test]
async fn the_client_is_found_by_the_documented_table() {
    let backend = Backend::named("a").run().await;
    let mut running = Proxy::to(&backend)
        .http()
        .listener("proxy_protocol = { trusted = [\"127.0.0.1\"] }")
        .listener("client_ip = { trusted = [\"0.0.0.0/0\"] }")
        .run()
        .await;
    let mut before = "trusted = [\"0.0.0.0/0\"]".to_owned();
    for (count, (trusted, lines, ip, found)) in [
        ("0.0.0.0/0", CHAIN, "203.0.113.9", "leftmost"),
        ("10.0.0.1;10.0.0.2", CHAIN, "203.0.113.9", "header"),
        ("10.0.0.2", CHAIN, "10.0.0.1", "header"),
        ("192.0.2.1", CHAIN, "10.0.0.2", "header"),
        (
            "10.0.0.0/8;203.0.113.0/24",
            CHAIN,
            "203.0.113.9",
            "leftmost",
        ),
        ("10.0.0.0/8", "", "10.0.0.3", "proxy_protocol"),
        ("0.0.0.0/0", "", "10.0.0.3", "proxy_protocol"),
        (
            "0.0.0.0/0",
            "2001:db8::9, 10.0.0.1",
            "2001:db8::9",
            "leftmost",
        ),
        (
            "10.0.0.0/8",
            "[2001:db8::9]:80, 10.0.0.1:1",
            "2001:db8::9",
            "header",
        ),
        (
            "10.0.0.0/8",
            "203.0.113.9, unknown, 10.0.0.2",
            "10.0.0.2",
            "leftmost",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let after = format!("trusted = [\"{trusted}\"]");
        running.rewrite(|toml| toml.replace(&before, &after));
        assert_eq!(running.reload().await, Reload::TakenUp, "{trusted}");
        before = after;
        let lines = match lines {
            "" => String::new(),
            list => format!("x-forwarded-for: {list}\r\n"),
        };
        let stream = running.plain().await;
        let (_, answer) = ask(stream, V1.as_bytes(), &lines).await;
        assert_eq!(answer.status(), 200);
        let line = line(&running, count + 1).await;
        check_line(&line, ip, found, 4711, "127.0.0.1");
        // What is appended is the last hop, never what was found.
        let forwarded = backend.requests().pop().unwrap();
        let list = forwarded.field("x-forwarded-for").unwrap();
        assert!(list.ends_with("10.0.0.3"), "{list}");
    }
}

#[tokio::test]
async fn the_same_holds_over_tls_and_http2_for_the_sockets_own_peer() {
    let backend = Backend::named("a").run().await;
    let running = Proxy::to(&backend)
        .listener("client_ip = { trusted = [\"10.0.0.0/8\"] }")
        .run()
        .await;
    let mut client = running.client_h2().await;
    client.get("/").await;
    check_line(
        &line(&running, 1).await,
        "127.0.0.1",
        "peer",
        0,
        "127.0.0.1",
    );
    let mut request =
        crate::support::client::request(http::Method::GET, "/", crate::support::client::empty());
    let chain = http::HeaderValue::from_static(CHAIN);
    request.headers_mut().insert("x-forwarded-for", chain);
    client.send(request).await;
    check_line(
        &line(&running, 2).await,
        "203.0.113.9",
        "header",
        0,
        "127.0.0.1",
    );
}

#[tokio::test]
async fn a_direct_client_cannot_name_itself_where_the_peer_must_be_trusted() {
    let backend = Backend::named("a").run().await;
    let running = Proxy::to(&backend)
        .http()
        .listener("client_ip = { trusted = [\"127.0.0.1\"], require_trusted_peer = true }")
        .run()
        .await;
    let claim = "X-Forwarded-For: 203.0.113.9\r\n";
    ask(from("127.0.0.2", &running).await, b"", claim).await;
    check_line(
        &line(&running, 1).await,
        "127.0.0.2",
        "peer",
        0,
        "127.0.0.2",
    );
    ask(running.plain().await, b"", claim).await;
    check_line(
        &line(&running, 2).await,
        "203.0.113.9",
        "header",
        0,
        "127.0.0.1",
    );
}

#[tokio::test]
async fn a_header_of_a_product_in_front_is_read_in_place_of_x_forwarded_for() {
    let backend = Backend::named("a").run().await;
    let running = Proxy::to(&backend)
        .http()
        .listener("client_ip = { header = \"Ali-Cdn-Real-Ip\", trusted = [\"127.0.0.0/8\"] }")
        .run()
        .await;
    let lines = "Ali-Cdn-Real-Ip: 198.51.100.7\r\nX-Forwarded-For: 203.0.113.9\r\n";
    let lines = format!("Connection: ali-cdn-real-ip\r\n{lines}");
    ask(running.plain().await, b"", &lines).await;
    check_line(
        &line(&running, 1).await,
        "198.51.100.7",
        "header",
        0,
        "127.0.0.1",
    );
    let request = backend.request();
    assert!(request.has_line("X-Forwarded-For: 203.0.113.9, 127.0.0.1"));
    assert_eq!(request.field("ali-cdn-real-ip"), Some("198.51.100.7"));
}

#[tokio::test]
async fn a_client_cannot_take_away_a_header_that_names_it_by_connection() {
    let backend = Backend::named("a").run().await;
    let client_ip = "client_ip = { header = \"X-Edge-Client\", trusted = [\"127.0.0.0/8\"] }";
    let running = Proxy::to(&backend)
        .http()
        .listener(client_ip)
        .headers("x_forwarded_proto = true")
        .run()
        .await;
    for (number, options) in [
        "x-edge-client, x-forwarded-for, x-forwarded-proto, authorization",
        "close,X-EDGE-CLIENT,\tX-Forwarded-For,X-FORWARDED-PROTO , Authorization",
    ]
    .into_iter()
    .enumerate()
    {
        let named = "X-Edge-Client: 198.51.100.7\r\nX-Forwarded-For: 203.0.113.9\r\n";
        let others = "Authorization: Basic x\r\nX-Hop: 1\r\nConnection: x-hop\r\n";
        let lines = format!("Connection: {options}\r\n{named}{others}");
        ask(running.plain().await, b"", &lines).await;
        let line = line(&running, number + 1).await;
        check_line(&line, "198.51.100.7", "header", 0, "127.0.0.1");
        let request = backend.requests().pop().unwrap();
        for (name, value) in [
            ("x-edge-client", Some("198.51.100.7")),
            ("x-forwarded-for", Some("203.0.113.9, 127.0.0.1")),
            ("x-forwarded-proto", Some("http")),
            ("authorization", Some("Basic x")),
            ("x-hop", None),
            ("connection", None),
        ] {
            assert_eq!(request.field(name), value, "{name}: {}", request.head);
        }
    }
}

/// A stream whose first write is preceded by other bytes, in the same segment.
struct Preceded {
    before: Vec<u8>,
    stream: TcpStream,
}

impl AsyncRead for Preceded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Preceded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let before = std::mem::take(&mut self.before);
        if before.is_empty() {
            return Pin::new(&mut self.stream).poll_write(cx, buf);
        }
        let both = [&before, buf].concat();
        let written = Pin::new(&mut self.stream).poll_write(cx, &both);
        assert!(matches!(written, Poll::Ready(Ok(n)) if n == both.len()));
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_trusted_peer_announces_its_client_before_tls() {
    let backend = Backend::named("a").run().await;
    let running = Proxy::to(&backend)
        .listener("proxy_protocol = { trusted = [\"127.0.0.1\"] }")
        .headers("x_forwarded_client_srcport = true")
        .run()
        .await;
    let unknown = b"PROXY UNKNOWN\r\n".to_vec();
    let local = v2(0x20, 0x00, &[]);
    for (count, (header, ip, found)) in [
        (V1.as_bytes().to_vec(), "10.0.0.3", "proxy_protocol"),
        (v2_over_ipv6(), "2001:db8::7", "proxy_protocol"),
        (unknown, "127.0.0.1", "peer"),
        (local, "127.0.0.1", "peer"),
        (v2(0x21, 0x00, b""), "127.0.0.1", "peer"),
        (v2(0x21, 0x31, &[b'/'; 216]), "127.0.0.1", "peer"),
    ]
    .into_iter()
    .enumerate()
    {
        let shown = header.escape_ascii().to_string();
        let stream = Preceded {
            before: header,
            stream: running.plain().await,
        };
        let connector = TlsConnector::from(running.authority().client_config(&["h2"]));
        let name = ServerName::try_from("localhost").unwrap();
        let handshake = connector.connect(name, stream);
        let tls = within("the handshake is done", handshake).await.unwrap();
        Client::http2(tls).await.get("/").await;
        let line = line(&running, count + 1).await;
        let port = if found == "peer" { 0 } else { 4711 };
        check_line(&line, ip, found, port, "127.0.0.1");
        let request = backend.requests().pop().unwrap();
        assert_eq!(request.field("x-forwarded-for"), Some(ip), "{shown}");
        let srcport = request.field("x-forwarded-client-srcport").unwrap();
        assert_eq!(line["client_port"].to_string(), srcport, "{shown}");
    }
}

#[tokio::test]
async fn a_header_is_read_to_its_last_byte_and_no_further() {
    let backend = Backend::named("a").run().await;
    let running = Proxy::to(&backend)
        .http()
        .listener("proxy_protocol = { trusted = [\"127.0.0.0/8\"] }")
        .run()
        .await;
    for header in [V1.as_bytes().to_vec(), v2_over_ipv6()] {
        // Whole, with two requests behind it.
        let (mut raw, answer) = ask(
            running.plain().await,
            &header,
            "\r\nGET /second HTTP/1.1\r\nHost: a\r\n",
        )
        .await;
        assert_eq!(answer.status(), 200);
        assert_eq!(raw.read_response().await.status(), 200);
        let second = backend.requests().pop().unwrap();
        assert_eq!(second.start(), "GET /second HTTP/1.1");
        // Byte by byte.
        let mut raw = Raw::over(running.plain().await);
        for byte in &header {
            raw.write([*byte]).await;
        }
        raw.write("GET /third HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(raw.read_response().await.status(), 200);
    }
}

#[tokio::test]
async fn a_second_header_is_not_one() {
    let backend = Backend::named("a").run().await;
    let running = Proxy::to(&backend)
        .http()
        .listener("proxy_protocol = { trusted = [\"127.0.0.0/8\"] }")
        .run()
        .await;
    let twice = [V1, "PROXY TCP4 192.0.2.66 192.0.2.1 1 2\r\n"].concat();
    let (_, answer) = ask(running.plain().await, twice.as_bytes(), "").await;
    assert_eq!(answer.status(), 400);
    assert!(backend.requests().is_empty());
}

#[tokio::test]
async fn a_trusted_peer_that_sends_no_usable_header_is_closed_without_an_answer() {
    let backend = Backend::named("a").run().await;
    for (proxy, peer) in [
        (Proxy::to(&backend), "127.0.0.1"),
        (Proxy::to(&backend).http(), "127.0.0.2"),
    ] {
        let mut running = proxy
            .listener("proxy_protocol = { trusted = [\"127.0.0.0/8\"] }")
            .run()
            .await;
        let oversize = [
            b"\r\n\r\n\0\r\nQUIT\n".as_slice(),
            &[0x21, 0x11, 0xff, 0xff],
        ]
        .concat();
        for (bytes, reason) in [
            (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], "there is none"),
            (b"\x16\x03\x01\x02\x00\x01", "there is none"),
            (b"PROXY TCP4 10.0.0.3\r\n", "it is malformed"),
            (&[b'P'; 64], "there is none"),
            (&oversize, "it is longer than 4096 bytes"),
            (&v2(0x21, 0x11, b"short"), "it is malformed"),
            (&v2(0x2f, 0x11, &[0; 12]), "it is malformed"),
        ] {
            let before = running.stderr().len();
            let mut raw = Raw::over(from(peer, &running).await);
            raw.write(bytes).await;
            raw.expect_closed(Duration::from_secs(5)).await;
            running
                .wait_for_stderr(|text| text[before..].contains(reason))
                .await;
        }
    }
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn connections_are_counted_by_the_client_that_is_announced_and_not_by_the_proxy() {
    let backend = Backend::named("a").run().await;
    let mut running = Proxy::to(&backend)
        .http()
        .server("workers = 2\nmax_connections_per_ip = 2")
        .listener("proxy_protocol = { trusted = [\"127.0.0.1\"] }")
        .run()
        .await;
    let announcing = |client: u8| format!("PROXY TCP4 192.0.2.{client} 198.51.100.1 4711 443\r\n");
    let mut held = Vec::new();
    for client in [1, 1, 2, 2, 3] {
        let header = announcing(client);
        let (raw, answer) = ask(running.plain().await, header.as_bytes(), "").await;
        assert_eq!(answer.status(), 200, "{header}");
        held.push(raw);
    }
    let mut over = Raw::over(running.plain().await);
    over.write(announcing(2)).await;
    assert_eq!(over.read_to_end().await.0, b"");
    running
        .wait_for_stderr(|text| text.contains("max_connections_per_ip"))
        .await;
    // A peer that is not trusted is counted as what it is.
    for _ in 0..2 {
        let (raw, answer) = ask(from("127.0.0.2", &running).await, b"", "").await;
        assert_eq!(answer.status(), 200);
        held.push(raw);
    }
    let mut over = Raw::over(from("127.0.0.2", &running).await);
    assert_eq!(over.read_to_end().await.0, b"");
}

#[tokio::test]
async fn a_header_must_be_whole_within_handshake_timeout() {
    let backend = Backend::named("a").run().await;
    let mut running = Proxy::to(&backend)
        .http()
        .listener("proxy_protocol = { trusted = [\"127.0.0.1\"] }\nhandshake_timeout = 1")
        .run()
        .await;
    let mut raw = Raw::over(running.plain().await);
    raw.write("PROXY TCP4 10.0.0.3").await;
    raw.expect_closed(Duration::from_secs(5)).await;
    running
        .wait_for_stderr(|text| text.contains("within handshake_timeout"))
        .await;
}

#[tokio::test]
async fn what_another_peer_announces_is_not_believed() {
    let backend = Backend::named("a").run().await;
    for proxy in [Proxy::to(&backend), Proxy::to(&backend).http()] {
        let running = proxy
            .listener("proxy_protocol = { trusted = [\"127.0.0.2\"] }")
            .run()
            .await;
        // It is a client like any other, and a header from it is no HTTP.
        let (_, answer) = ask(running.plain().await, V1.as_bytes(), "").await;
        assert_eq!(answer.status(), 400);
        let line = line(&running, 1).await;
        check_line(&line, "127.0.0.1", "peer", 0, "127.0.0.1");
        let mut raw = Raw::over(running.plain().await);
        raw.write(v2_over_ipv6()).await;
        let rest = raw.read_until_close().await;
        let rest = String::from_utf8_lossy(&rest).into_owned();
        assert!(!rest.contains("200 OK"), "{rest}");
        assert!(backend.requests().is_empty());
    }
    let running = Proxy::to(&backend)
        .http()
        .listener("proxy_protocol = { trusted = [\"127.0.0.2\"] }")
        .run()
        .await;
    let (_, answer) = ask(running.plain().await, b"", "").await;
    assert_eq!(answer.status(), 200, "direct clients are served");
    let (_, answer) = ask(from("127.0.0.2", &running).await, V1.as_bytes(), "").await;
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn plain_http_behind_a_header_is_told_so_on_a_tls_port() {
    let backend = Backend::named("a").run().await;
    let running = Proxy::to(&backend)
        .listener("proxy_protocol = { trusted = [\"127.0.0.1\"] }")
        .run()
        .await;
    let (_, answer) = ask(running.plain().await, V1.as_bytes(), "").await;
    assert_eq!(answer.status(), 400);
    let line = line(&running, 1).await;
    assert_eq!(line["cause"], "plain_http");
    check_line(&line, "10.0.0.3", "proxy_protocol", 4711, "127.0.0.1");
}

/// Whether a client at this address gets an answer, or is closed without a byte.
async fn is_admitted(running: &Running, source: &str) -> bool {
    let mut raw = Raw::over(from(source, running).await);
    // May meet a socket that is closed already.
    let _ = raw
        .try_write("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await;
    let answer = within("it is answered or closed", raw.read_some()).await;
    let answer = answer.unwrap_or_default();
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 "));
    !answer.is_empty()
}

#[tokio::test]
async fn only_admitted_clients_are_served_and_others_are_closed_before_tls() {
    let backend = Backend::named("a").run().await;
    for (access, admitted) in [
        ("allow = []\ndeny = []", [true, true, true]),
        (
            "allow = [\"127.0.0.1\", \"127.0.0.2\"]",
            [true, true, false],
        ),
        ("deny = [\"127.0.0.2/31\"]", [true, false, false]),
        (
            "allow = [\"127.0.0.0/8\"]\ndeny = [\"127.0.0.1\"]",
            [false, true, true],
        ),
        ("allow = [\"::1\", \"192.0.2.1\"]", [false, false, false]),
    ] {
        for proxy in [Proxy::to(&backend), Proxy::to(&backend).http()] {
            let mut running = proxy
                .listener(&format!("[listener.access]\n{access}"))
                .run()
                .await;
            let sources = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
            for (source, expected) in sources.into_iter().zip(admitted) {
                // On a TLS port the answer is that of plain HTTP: also proof of having been let in.
                let found = is_admitted(&running, source).await;
                assert_eq!(found, expected, "{access}: {source}");
            }
            let refused = admitted.iter().any(|admitted| !admitted);
            if refused {
                running
                    .wait_for_stderr(|text| text.contains("[listener.access] does not admit"))
                    .await;
            }
        }
    }
}

#[tokio::test]
async fn access_is_judged_by_the_announced_client_and_never_by_a_header() {
    let backend = Backend::named("a").run().await;
    let running = Proxy::to(&backend)
        .http()
        .listener("proxy_protocol = { trusted = [\"127.0.0.1\"] }")
        .listener("client_ip = { trusted = [\"0.0.0.0/0\"] }")
        .listener("access = { allow = [\"10.0.0.3\", \"127.0.0.2\"] }")
        .run()
        .await;
    let claim = "X-Forwarded-For: 192.0.2.66\r\n";
    let (_, answer) = ask(running.plain().await, V1.as_bytes(), claim).await;
    assert_eq!(answer.status(), 200);
    let other = "PROXY TCP4 192.0.2.66 192.0.2.1 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.3\r\n\r\n";
    let mut raw = Raw::over(running.plain().await);
    raw.write(other).await;
    raw.expect_closed(Duration::from_secs(5)).await;
    assert!(is_admitted(&running, "127.0.0.2").await);
    assert!(!is_admitted(&running, "127.0.0.3").await);
}

#[tokio::test]
async fn a_reload_changes_who_may_come_and_leaves_who_is_there() {
    let backend = Backend::named("a").run().await;
    let mut running = Proxy::to(&backend)
        .http()
        .listener("access = { deny = [\"127.0.0.9\"] }")
        .run()
        .await;
    let (mut raw, answer) = ask(running.plain().await, b"", "").await;
    assert_eq!(answer.status(), 200);
    running.rewrite(|toml| toml.replace("127.0.0.9", "127.0.0.1"));
    assert_eq!(running.reload().await, Reload::TakenUp);
    assert!(!is_admitted(&running, "127.0.0.1").await);
    assert!(is_admitted(&running, "127.0.0.9").await);
    raw.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(raw.read_response().await.status(), 200);
}
