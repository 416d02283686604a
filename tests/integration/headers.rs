//! Fields on their way to the backend and back: what is removed, what is added, how names are written
//! (alb.md sections 1.4 and 1.5; attacks.md rows 46, 49 to 52 and 56).

use http::{HeaderName, HeaderValue, Method};

use crate::support::backend::{Backend, Received};
use crate::support::client::{empty, request};
use crate::support::proxy::{Proxy, Running};

/// Sends a request with these lines over HTTP/1.1, and says what reached the backend.
async fn sent(backend: &Backend, running: &Running, lines: &[&str]) -> Received {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let mut raw = running.raw().await;
    raw.write(format!(
        "GET / HTTP/1.1\r\nHost: Site.Example:8443\r\n{lines}\r\n"
    ))
    .await;
    assert_eq!(raw.read_response().await.status(), 200, "{lines}");
    backend.requests().pop().unwrap()
}

#[tokio::test]
async fn x_forwarded_for_follows_the_documented_table() {
    let backend = Backend::named("a").run().await;
    for (mode, rows) in [
        (
            "append",
            [
                "127.0.0.1",
                "127.0.0.2, 127.0.0.1",
                "127.0.0.2, 127.0.0.3, 127.0.0.1",
            ],
        ),
        ("remove", ["", "", ""]),
        ("keep", ["", "127.0.0.2", "127.0.0.2, 127.0.0.3"]),
    ] {
        let running = Proxy::to(&backend)
            .headers(&format!("x_forwarded_for = \"{mode}\""))
            .run()
            .await;
        let incoming = [
            vec![],
            vec!["x-forwarded-for: 127.0.0.2"],
            vec!["X-FORWARDED-FOR: 127.0.0.2, 127.0.0.3"],
        ];
        for (lines, expected) in incoming.into_iter().zip(rows) {
            let request = sent(&backend, &running, &lines).await;
            let found = request.field("x-forwarded-for").unwrap_or("");
            assert_eq!(found, expected, "{mode} {lines:?}");
            if !expected.is_empty() {
                let line = format!("X-Forwarded-For: {expected}");
                assert!(request.has_line(&line), "{mode}: {}", request.head);
            }
        }
    }
}

#[tokio::test]
async fn several_lines_of_x_forwarded_for_become_one() {
    let backend = Backend::named("a").run().await;
    let running = Proxy::to(&backend).run().await;
    let lines = ["X-Forwarded-For: a", "X-Forwarded-For: b"];
    let request = sent(&backend, &running, &lines).await;
    assert_eq!(request.field("x-forwarded-for"), Some("a, b, 127.0.0.1"));
}

const CLAIMS: [&str; 5] = [
    "x-forwarded-proto: gopher",
    "x-forwarded-port: 1",
    "x-forwarded-host: evil",
    "x-forwarded-client-srcport: 2",
    "slb-id: mine",
];

#[tokio::test]
async fn fields_that_are_switched_on_replace_the_clients() {
    let backend = Backend::named("a").run().await;
    let proxy = Proxy::to(&backend)
        .server("workers = 1\ninstance_id = \"slb-7\"")
        .headers(
            "x_forwarded_proto = true\nx_forwarded_port = true\nx_forwarded_host = true\n\
             x_forwarded_client_srcport = true\nslb_id = true",
        );
    let running = proxy.run().await;
    for claims in [&[][..], &CLAIMS, &[CLAIMS, CLAIMS].concat()] {
        let request = sent(&backend, &running, claims).await;
        for line in [
            "X-Forwarded-Proto: https",
            &format!("X-Forwarded-Port: {}", running.port()),
            "X-Forwarded-Host: Site.Example:8443",
            "SLB-ID: slb-7",
        ] {
            assert!(request.has_line(line), "{line}: {}", request.head);
        }
        let port = request.field("x-forwarded-client-srcport").unwrap();
        let port: u16 = port.parse().unwrap();
        running
            .wait_for_access(|line| line["client_port"] == port)
            .await;
        assert!(
            request.names().contains(&"X-Forwarded-Client-srcport"),
            "{}",
            request.head
        );
        for name in [
            "x-forwarded-proto",
            "x-forwarded-port",
            "x-forwarded-host",
            "slb-id",
        ] {
            assert!(request.field(name).is_some(), "once: {name}");
        }
    }
}

#[tokio::test]
async fn fields_that_are_switched_off_pass_as_they_came() {
    let backend = Backend::named("a").run().await;
    let running = Proxy::to(&backend).http().run().await;
    let request = sent(&backend, &running, &CLAIMS).await;
    for line in [
        "X-Forwarded-Proto: gopher",
        "X-Forwarded-Port: 1",
        "X-Forwarded-Host: evil",
        "X-Forwarded-Client-srcport: 2",
        "SLB-ID: mine",
    ] {
        assert!(request.has_line(line), "{line}: {}", request.head);
    }
    let request = sent(&backend, &running, &[]).await;
    assert_eq!(
        request.names(),
        ["Host", "ALICLOUD-ALB-TRACE", "X-Forwarded-For"],
        "{}",
        request.head
    );
}

#[tokio::test]
async fn a_plain_listener_says_http() {
    let backend = Backend::named("a").run().await;
    let proxy = Proxy::to(&backend)
        .http()
        .headers("x_forwarded_proto = true");
    let running = proxy.run().await;
    let request = sent(&backend, &running, &[]).await;
    assert_eq!(request.field("x-forwarded-proto"), Some("http"));
}

#[tokio::test]
async fn names_are_written_to_the_backend_in_their_usual_case() {
    const NAMES: [&str; 12] = [
        "ETag",
        "WWW-Authenticate",
        "DNT",
        "Sec-WebSocket-Key",
        "X-Forwarded-For",
        "SLB-ID",
        "X-Request-ID",
        "Accept-Encoding",
        "User-Agent",
        "X-Foreign-Name",
        "If-None-Match",
        "Cookie",
    ];
    let backend = Backend::named("a").run().await;
    let running = Proxy::to(&backend).run().await;
    let mut client = running.client_h2().await;
    let mut request = request(Method::GET, "/", empty());
    for name in NAMES {
        let name = HeaderName::try_from(name.to_lowercase()).unwrap();
        request
            .headers_mut()
            .insert(name, HeaderValue::from_static("x"));
    }
    client.send(request).await;
    let from_http2 = backend.request();
    let lines: Vec<_> = NAMES
        .iter()
        .map(|name| format!("{}: x", name.to_uppercase()))
        .collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let from_http1 = sent(&backend, &running, &lines).await;
    for request in [from_http1, from_http2] {
        let found = request.names();
        for name in NAMES.iter().filter(|name| **name != "X-Request-ID") {
            assert!(found.contains(name), "{name}: {}", request.head);
        }
        let others = ["Host", "ALICLOUD-ALB-TRACE"].len();
        assert_eq!(found.len(), NAMES.len() + others, "{}", request.head);
    }
}

#[tokio::test]
async fn what_belongs_to_one_hop_does_not_reach_the_backend() {
    let backend = Backend::named("a").run().await;
    let running = Proxy::to(&backend).run().await;
    let request = sent(
        &backend,
        &running,
        &[
            "Connection: keep-alive, X-Private",
            "Connection: x-other",
            "Keep-Alive: timeout=5",
            "Proxy-Connection: keep-alive",
            "Proxy-Authorization: Basic x",
            "Upgrade: h2c",
            "TE: gzip, deflate",
            "X-Private: 1",
            "X-Other: 1",
            "X-Public: 1",
        ],
    )
    .await;
    assert_eq!(
        request.names(),
        ["Host", "X-Public", "ALICLOUD-ALB-TRACE", "X-Forwarded-For"],
        "{}",
        request.head
    );
}

#[tokio::test]
async fn connection_cannot_name_what_says_who_asks() {
    let backend = Backend::named("a").run().await;
    let running = Proxy::to(&backend)
        .headers("x_forwarded_proto = true\nslb_id = true")
        .run()
        .await;
    let named = "X-Forwarded-For, x-forwarded-proto, X-REAL-IP, authorization, slb-id, cookie, host, content-length, \
                 true-client-ip, x-request-id";
    for connection in [
        format!("Connection: {named}"),
        format!("connection: close, {}", named.to_uppercase()),
    ] {
        let request = sent(
            &backend,
            &running,
            &[
                &connection,
                "X-Forwarded-For: 192.0.2.1",
                "X-Real-IP: 192.0.2.1",
                "Authorization: Bearer x",
                "Cookie: a=b",
                "True-Client-IP: 192.0.2.1",
                "X-Request-Id: 8f3e-11",
            ],
        )
        .await;
        for line in [
            "True-Client-IP: 192.0.2.1",
            "X-Request-Id: 8f3e-11",
            "X-Forwarded-For: 192.0.2.1, 127.0.0.1",
            "X-Forwarded-Proto: https",
            "Authorization: Bearer x",
            "Cookie: a=b",
        ] {
            assert!(request.has_line(line), "{connection}: {}", request.head);
        }
        assert_eq!(request.field("x-real-ip"), Some("192.0.2.1"));
        assert!(request.field("slb-id").is_some());
    }
}

#[tokio::test]
async fn what_only_lockgate_or_nobody_may_say_is_removed() {
    let backend = Backend::named("a").run().await;
    for proxy in [Proxy::to(&backend), Proxy::to(&backend).http()] {
        let running = proxy.run().await;
        let request = sent(
            &backend,
            &running,
            &[
                "X-Forwarded-Clientcert-subjectdn: CN=root",
                "x-forwarded-clientcert-issuerdn: CN=root",
                "X-Forwarded-Clientcert-Fingerprint: 00",
                "X-Forwarded-Clientcert-clientverify: SUCCESS",
                "X_Forwarded_Clientcert_Subjectdn: CN=root",
                "X-Forwarded.Clientcert-clientverify: SUCCESS",
                "Client-Cert: :MIIB:",
                "Client-Cert-Chain: :MIIB:",
                "Client_Cert: :MIIB:",
                "X-Forwarded-TLS-Protocol: TLSv1.3",
                "X-Forwarded-TLS-Cipher: x",
                "Proxy: http://evil",
                "X_Forwarded_For: 192.0.2.1",
                "X-Forwarded_For: 192.0.2.1",
                "X.Forwarded.For: 192.0.2.1",
                "X_Forwarded_Proto: https",
                "SLB_ID: x",
                "alicloud_alb_trace: x",
                "an_other.name: passes",
            ],
        )
        .await;
        let mut names: Vec<_> = request
            .names()
            .iter()
            .map(|name| name.to_lowercase())
            .collect();
        names.sort();
        assert_eq!(
            names,
            [
                "alicloud-alb-trace",
                "an_other.name",
                "host",
                "x-forwarded-for"
            ],
            "{}",
            request.head
        );
        assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
    }
}

#[tokio::test]
async fn a_request_gets_a_name_unless_a_trusted_peer_gave_it_one() {
    let backend = Backend::named("a").run().await;
    let is_made = |name: &str| name.len() == 32 && name.bytes().all(|b| b.is_ascii_hexdigit());
    let given = ["x-request-id: 8f3e-11"];
    let spoilt = ["x-request-id: 8f3e 11"];
    let twice = ["x-request-id: 8f3e-11", "x-request-id: 8f3e-12"];
    for (trusted, is_kept) in [
        (None, false),
        (Some("192.0.2.1"), false),
        (Some("127.0.0.1"), true),
    ] {
        let mut proxy = Proxy::to(&backend).headers("request_id = true");
        if let Some(trusted) = trusted {
            proxy = proxy.listener(&format!("client_ip = {{ trusted = [\"{trusted}\"] }}"));
        }
        let running = proxy.run().await;
        for (lines, is_kept) in [
            (&[][..], false),
            (&given[..], is_kept),
            (&spoilt[..], false),
            (&twice[..], false),
        ] {
            let request = sent(&backend, &running, lines).await;
            let name = request.field("x-request-id").unwrap().to_owned();
            assert!(request.has_line(&format!("X-Request-Id: {name}")));
            assert_eq!(name == "8f3e-11", is_kept, "{trusted:?} {lines:?}");
            assert!(is_kept || is_made(&name), "{name}");
            running
                .wait_for_access(|line| line["request_id"] == name.as_str())
                .await;
        }
    }
    let running = Proxy::to(&backend).run().await;
    let request = sent(&backend, &running, &given).await;
    assert_eq!(
        request.field("x-request-id"),
        Some("8f3e-11"),
        "off: it passes"
    );
    running
        .wait_for_access(|line| line["request_id"] == "-")
        .await;
}

#[tokio::test]
async fn the_host_reaches_the_backend_in_its_one_form() {
    let backend = Backend::named("a").run().await;
    let running = Proxy::to(&backend).run().await;
    let request = sent(&backend, &running, &[]).await;
    assert_eq!(request.names().first(), Some(&"Host"), "{}", request.head);
    assert_eq!(request.field("host"), Some("site.example:8443"));
}

#[tokio::test]
async fn answers_are_cleaned_and_written_in_title_case() {
    let backend = Backend::answering(|_| {
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-lower-case: 1\r\nSET-COOKIE: a=1\r\nset-cookie: b=2\r\n\
          Connection: keep-alive, X-Private\r\nKeep-Alive: timeout=5\r\nX-Private: 1\r\nUpgrade: h2c\r\n\
          Proxy-Authenticate: Basic\r\nX-Accel-Redirect: /internal\r\nServer: theirs\r\n\
          Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n"
            .to_vec()
    })
    .run()
    .await;
    let running = Proxy::to(&backend).run().await;
    let mut raw = running.raw().await;
    raw.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = raw.read_response().await;
    for line in [
        "Content-Length: 0",
        "X-Lower-Case: 1",
        "Set-Cookie: a=1",
        "Set-Cookie: b=2",
        "Server: theirs",
        "Date: Thu, 01 Jan 1970 00:00:00 GMT",
    ] {
        assert!(answer.has_line(line), "{line}: {}", answer.head);
    }
    assert_eq!(answer.names().len(), 6, "{}", answer.head);
    let got = running.client_h2().await.get("/").await;
    assert_eq!(got.headers.len(), 6, "{:?}", got.headers);
}
