//! What rules do: redirects, rewrites, fixed responses, edited fields, CORS (alb.md 6.3; attacks.md rows 54
//! and 57).

use http::{Method, Request, Version};

use crate::support::backend::{Backend, ok};
use crate::support::client::{Body, Client, Response, empty, full, request};
use crate::support::proxy::{Proxy, Running};

/// A rule that takes everything.
fn rule(lines: &str) -> String {
    format!("[[listener.rule]]\nname = \"all\"\npriority = 10\n{lines}")
}

/// The same request over HTTP/1.1 and HTTP/2.
async fn both(running: &Running, send: impl Fn() -> Request<Body>) -> [Response; 2] {
    let mut http1 = running.client().await;
    let mut http2 = running.client_h2().await;
    [http1.send(send()).await, http2.send(send()).await]
}

fn with(method: Method, path: &str, fields: &[(&str, &str)]) -> Request<Body> {
    let mut request = request(method, path, empty());
    for (name, value) in fields {
        let name: http::HeaderName = name.parse().unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn a_plain_listener_sends_everybody_to_https_by_one_rule() {
    let backend = Backend::named("a").run().await;
    let to_https = rule("redirect = { code = 301, protocol = \"https\", port = \"443\" }");
    let running = Proxy::to(&backend).http().listener(&to_https).run().await;
    let mut client = running.client().await;
    for (path, location) in [
        ("/", "https://localhost/"),
        ("/a%2Fb//c?x=1&y", "https://localhost/a%2Fb//c?x=1&y"),
        ("/?", "https://localhost/"),
    ] {
        let response = client.get(path).await;
        assert_eq!(response.status, 301);
        assert_eq!(response.field("location"), Some(location));
        assert!(response.text().contains("301 Moved Permanently"));
        assert_eq!(response.field("connection"), None, "it goes on");
    }
    assert!(backend.requests().is_empty());
    let line = running.wait_for_access(|line| line["status"] == 301).await;
    assert_eq!(line["cause"], "redirect");
    for field in ["upstream_addr", "upstream_status", "upstream_response_time"] {
        assert_eq!(line[field], "-", "{field}");
    }
    // Host names are the client's to choose, but only names: nothing else gets into Location.
    let mut raw = running.raw().await;
    raw.write("GET /\u{e9}\" HTTP/1.1\r\nHost: Evil.Example.:8080\r\n\r\n")
        .await;
    let answer = raw.read_response().await;
    assert_eq!(
        answer.field("location"),
        Some("https://evil.example/%C3%A9%22")
    );
    let mut raw = running.raw().await;
    raw.write("GET / HTTP/1.1\r\nHost: evil.example/x\r\n\r\n")
        .await;
    assert_eq!(raw.read_response().await.status(), 400);
}

#[tokio::test]
async fn a_redirect_needs_a_host_unless_it_names_one() {
    let backend = Backend::named("a").run().await;
    for (redirect, status, location) in [
        ("{ code = 302, path = \"/new\" }", 400, None),
        (
            "{ code = 307, protocol = \"https\", host = \"example.org\", port = \"8443\" }",
            307,
            Some("https://example.org:8443/a?b"),
        ),
    ] {
        let redirect = rule(&format!("redirect = {redirect}"));
        let running = Proxy::to(&backend).http().listener(&redirect).run().await;
        let mut raw = running.raw().await;
        raw.write("GET /a?b HTTP/1.0\r\n\r\n").await;
        let answer = raw.read_response().await;
        assert_eq!(answer.status(), status);
        assert_eq!(answer.field("location"), location);
    }
}

#[tokio::test]
async fn captures_of_the_path_lead_somewhere_else() {
    let backend = Backend::named("a").run().await;
    let lines = "path = [\"~^/user/([^/]+)/(.*)$\"]\nredirect = { code = 308, path = \"/u/${1}/${2}\", query = \"from=old\" }";
    let running = Proxy::to(&backend).listener(&rule(lines)).run().await;
    let port = running.port();
    for response in both(&running, || {
        request(Method::GET, "/user/j%20d/a/b?x", empty())
    })
    .await
    {
        assert_eq!(response.status, 308);
        let location = format!("https://localhost:{port}/u/j%20d/a/b?from=old");
        assert_eq!(response.field("location"), Some(&*location));
    }
    let mut client = running.client().await;
    assert_eq!(client.get("/users/x/y").await.text(), "a");
}

#[tokio::test]
async fn a_request_that_a_rule_answers_may_have_a_body_that_nobody_reads() {
    let backend = Backend::named("a").run().await;
    let fixed =
        rule("fixed_response = { code = 403, content_type = \"text/plain\", body = \"no\" }");
    let running = Proxy::to(&backend).listener(&fixed).run().await;
    let large = vec![b'x'; 3 * 1024 * 1024];
    for response in both(&running, || request(Method::POST, "/", full(large.clone()))).await {
        assert_eq!(
            (response.status.as_u16(), response.text()),
            (403, "no".into())
        );
    }
    // What follows a body that was not read is not a request.
    let mut raw = running.raw().await;
    raw.write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n")
        .await;
    let answer = raw.read_response().await;
    assert_eq!(answer.field("connection"), Some("close"));
    raw.try_write("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(raw.read_until_close().await, b"");
    // A body that has come whole with its head is read.
    let mut raw = running.raw().await;
    raw.write("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    for _ in 0..2 {
        let answer = raw.read_response().await;
        assert_eq!((answer.status(), answer.text()), (403, "no".to_owned()));
    }
    assert!(backend.requests().is_empty());
}

#[tokio::test]
async fn a_fixed_response_is_what_the_file_says() {
    let backend = Backend::named("a").run().await;
    for (fixed, status, content_type, body) in [
        (
            "{ code = 200, content_type = \"application/json\", body = \"{}\" }",
            200,
            Some("application/json"),
            "{}",
        ),
        ("{ code = 503 }", 503, Some("text/plain"), ""),
        ("{ code = 204 }", 204, None, ""),
    ] {
        let fixed = rule(&format!("fixed_response = {fixed}"));
        let running = Proxy::to(&backend).listener(&fixed).run().await;
        for response in both(&running, || request(Method::GET, "/", empty())).await {
            assert_eq!(response.status, status);
            assert_eq!(response.field("content-type"), content_type);
            assert_eq!(response.text(), body);
        }
        for response in both(&running, || request(Method::HEAD, "/", empty())).await {
            assert_eq!(response.status, status);
            assert_eq!(response.text(), "");
        }
        let line = running
            .wait_for_access(|line| line["status"] == status)
            .await;
        assert_eq!(line["cause"], "fixed_response");
    }
}

#[tokio::test]
async fn a_backend_is_asked_for_what_a_rewrite_says() {
    let backend = Backend::echo().run().await;
    let lines = "path = [\"~^/api/(v[0-9]+)/(.*)$\"]\nforward = \"app\"\n\
                 rewrite = { host = \"internal.example\", path = \"/${2}/${1}\", query = \"${query}&by=lg\" }";
    let running = Proxy::to(&backend)
        .listener(&rule(lines))
        .headers("x_forwarded_host = true")
        .run()
        .await;
    for response in both(&running, || {
        request(Method::GET, "/api/v2/a%2Fb/\u{e9}?x=1", empty())
    })
    .await
    {
        let text = response.text();
        let mut lines = text.lines();
        let target = "GET /a%2Fb/\u{e9}/v2?x=1&by=lg HTTP/1.1";
        assert_eq!(lines.next(), Some(target));
        assert_eq!(lines.next(), Some("Host: internal.example"));
        assert!(text.contains("X-Forwarded-Host: localhost\r\n"), "{text}");
    }
    let line = running.wait_for_access(|line| line["status"] == 200).await;
    assert_eq!(line["request_uri"], "/api/v2/a%2Fb/\u{e9}?x=1");
    assert_eq!(line["cause"], "-");
}

#[tokio::test]
async fn a_rewritten_path_is_judged_as_one_that_came() {
    let backend = Backend::named("a").run().await;
    let lines = "path = [\"~^/files/([^/]*)/([^/]*)$\"]\nforward = \"app\"\nrewrite = { path = \"/${1}${2}\" }";
    let running = Proxy::to(&backend).listener(&rule(lines)).run().await;
    for path in ["/files/.%2/e", "/files/%2/e", "/files/%5/c", "/files/%0/0"] {
        let mut client = running.client().await;
        assert_eq!(client.get(path).await.status, 400, "{path}");
    }
    assert!(backend.requests().is_empty());
    let mut client = running.client().await;
    assert_eq!(client.get("/files/a/.b").await.status, 200);
    assert_eq!(backend.request().start(), "GET /a.b HTTP/1.1");
}

#[tokio::test]
async fn a_host_stays_as_it_is_with_its_port_where_it_is_not_rewritten() {
    let backend = Backend::named("a").run().await;
    let lines = "forward = \"app\"\nrewrite = { path = \"/x\" }";
    let running = Proxy::to(&backend).listener(&rule(lines)).run().await;
    let mut raw = running.raw().await;
    raw.write("GET /?q HTTP/1.1\r\nHost: A.Example:8443\r\n\r\n")
        .await;
    raw.read_response().await;
    let request = backend.request();
    assert_eq!(request.start(), "GET /x?q HTTP/1.1");
    assert_eq!(request.field("host"), Some("a.example:8443"));
}

#[tokio::test]
async fn a_websocket_is_rewritten_like_any_request() {
    let backend = Backend::answering(|request| {
        let target = request.start().split(' ').nth(1).unwrap();
        ok(target.as_bytes())
    });
    let backend = backend.run().await;
    let lines = "forward = \"app\"\nrewrite = { path = \"/ws${path}\" }";
    let running = Proxy::to(&backend).listener(&rule(lines)).run().await;
    let mut raw = running.raw().await;
    raw.write(
        "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .await;
    let answer = raw.read_response().await;
    assert!(answer.text().ends_with("/ws/chat"), "{}", answer.text());
}

#[tokio::test]
async fn fields_of_requests_are_inserted_and_removed() {
    let backend = Backend::named("a").run().await;
    let lines = "forward = \"app\"\nremove_headers = [\"x-debug\"]\ninsert_headers = [\n\
                 { name = \"X-ENV\", value = \"prod\" },\n\
                 { name = \"X-Ip\", system = \"client_src_ip\" },\n\
                 { name = \"X-Scheme\", system = \"protocol\" },\n\
                 { name = \"X-Slb\", system = \"slb_id\" },\n\
                 { name = \"X-Copy\", reference = \"x-original\" },\n\
                 { name = \"X-Chain\", reference = \"x-forwarded-for\" },\n\
                 { name = \"X-Who\", reference = \"x-forwarded-clientcert-subjectdn\" },\n\
                 { name = \"X-More\", value = \"2\", cover = false },\n]";
    let running = Proxy::to(&backend)
        .server("workers = 1\ninstance_id = \"slb-7\"")
        .listener(&rule(lines))
        .run()
        .await;
    let fields = [
        ("x-debug", "1"),
        ("x-env", "dev"),
        ("x-original", "a"),
        ("x-original", "b"),
        ("x-forwarded-for", "192.0.2.9"),
        ("x-forwarded-clientcert-subjectdn", "CN=root"),
        ("x-more", "1"),
    ];
    both(&running, || with(Method::GET, "/", &fields)).await;
    for request in backend.requests() {
        let head = &request.head;
        assert_eq!(request.field("x-debug"), None);
        assert!(request.has_line("X-ENV: prod"), "as configured: {head}");
        assert_eq!(request.field("x-env"), Some("prod"));
        assert_eq!(request.field("x-ip"), Some("127.0.0.1"));
        assert_eq!(request.field("x-scheme"), Some("HTTPS"));
        assert_eq!(request.field("x-slb"), Some("slb-7"));
        assert!(request.has_line("X-Copy: a") && request.has_line("X-Copy: b"));
        assert_eq!(request.field("x-chain"), Some("192.0.2.9"), "as received");
        assert_eq!(request.field("x-who"), None, "what was forged is gone");
        assert!(request.has_line("X-More: 1") && request.has_line("X-More: 2"));
        assert_eq!(
            request.field("x-forwarded-for"),
            Some("192.0.2.9, 127.0.0.1")
        );
    }
    assert_eq!(backend.requests().len(), 2);
}

const CORS: &str = "cors = { allow_origin = [\"https://example.com\", \"https://*.example.org\"], \
                    allow_methods = [\"GET\", \"PUT\"], allow_headers = [\"content-type\"], \
                    expose_headers = [\"x-total\"], allow_credentials = true, max_age = 600 }";

#[tokio::test]
async fn a_preflight_is_answered_for_the_backend() {
    let backend = Backend::named("a").run().await;
    let lines = format!("forward = \"app\"\n{CORS}");
    let running = Proxy::to(&backend).listener(&rule(&lines)).run().await;
    let asks = ("access-control-request-method", "PUT");
    for origin in ["https://example.com", "https://a.b.example.org"] {
        for response in both(&running, || {
            with(Method::OPTIONS, "/", &[("origin", origin), asks])
        })
        .await
        {
            assert_eq!(response.status, 204);
            assert_eq!(response.text(), "");
            for (name, value) in [
                ("access-control-allow-origin", origin),
                ("access-control-allow-methods", "GET, PUT"),
                ("access-control-allow-headers", "content-type"),
                ("access-control-allow-credentials", "true"),
                ("access-control-max-age", "600"),
                ("vary", "origin"),
            ] {
                assert_eq!(response.field(name), Some(value), "{name}");
            }
        }
    }
    assert!(backend.requests().is_empty());
    let line = running.wait_for_access(|line| line["status"] == 204).await;
    assert_eq!(line["cause"], "cors_preflight");
    // From elsewhere it is the backend's to answer, and nobody is allowed anything.
    for response in both(&running, || {
        with(
            Method::OPTIONS,
            "/",
            &[("origin", "https://evil.example"), asks],
        )
    })
    .await
    {
        assert_eq!(response.status, 200);
        assert_eq!(response.field("access-control-allow-origin"), None);
        assert_eq!(response.field("vary"), Some("origin"));
    }
    assert_eq!(backend.requests().len(), 2);
}

#[tokio::test]
async fn every_answer_to_a_site_that_may_ask_says_so() {
    let backend = Backend::answering(|request| match request.start().split(' ').nth(1) {
        Some("/dead") => b"nonsense\r\n\r\n".to_vec(),
        _ => b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 1\r\n\r\na"
            .to_vec(),
    });
    let backend = backend.run().await;
    let redirect = "redirect = { code = 302, host = \"other.example\" }";
    let fixed = "fixed_response = { code = 403 }";
    let many = [("/r", redirect), ("/f", fixed), ("/*", "forward = \"app\"")];
    let rules: String = many
        .iter()
        .enumerate()
        .map(|(n, (path, action))| {
            format!(
                "[[listener.rule]]\nname = \"r{n}\"\npriority = {}\npath = [\"{path}\"]\n{action}\n{CORS}\n",
                n + 1
            )
        })
        .collect();
    let running = Proxy::to(&backend).listener(&rules).run().await;
    for (path, status) in [("/r", 302), ("/f", 403), ("/x", 200), ("/dead", 502)] {
        for (origin, allowed) in [
            ("https://example.com", Some("https://example.com")),
            ("https://evil.example", None),
        ] {
            for response in both(&running, || with(Method::GET, path, &[("origin", origin)])).await
            {
                assert_eq!(response.status, status, "{path}");
                assert_eq!(
                    response.field("access-control-allow-origin"),
                    allowed,
                    "{path}"
                );
                assert_eq!(response.field("vary"), Some("origin"), "{path}");
                let exposed = allowed.map(|_| "x-total");
                assert_eq!(response.field("access-control-expose-headers"), exposed);
            }
        }
    }
}

#[tokio::test]
async fn a_rule_switches_compression_off() {
    let backend = Backend::answering(|_| {
        let mut bytes =
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5000\r\n\r\n".to_vec();
        bytes.resize(bytes.len() + 5000, b'a');
        bytes
    });
    let backend = backend.run().await;
    let lines = "path = [\"/secret/*\"]\nforward = \"app\"\ncompression = false";
    let running = Proxy::to(&backend).listener(&rule(lines)).run().await;
    for (path, encoding) in [("/secret/a", None), ("/a", Some("gzip"))] {
        for response in both(&running, || {
            with(Method::GET, path, &[("accept-encoding", "gzip")])
        })
        .await
        {
            assert_eq!(response.field("content-encoding"), encoding, "{path}");
            assert_eq!(response.field("vary").is_some(), encoding.is_some());
        }
    }
}

#[tokio::test]
async fn a_rule_that_answers_keeps_connections_and_streams_in_order() {
    let backend = Backend::named("a").run().await;
    let lines = "path = [\"/f/*\"]\nfixed_response = { code = 200, content_type = \"text/plain\", body = \"f\" }";
    let running = Proxy::to(&backend).listener(&rule(lines)).run().await;
    let mut clients: [Client; 2] = [running.client().await, running.client_h2().await];
    for client in &mut clients {
        for n in 0..20 {
            let (path, text) = match n % 2 {
                0 => ("/f/x", "f"),
                _ => ("/x", "a"),
            };
            assert_eq!(client.get(path).await.text(), text);
        }
    }
    assert_eq!(backend.requests().len(), 20);
    let mut old = with(Method::GET, "/f/x", &[]);
    *old.version_mut() = Version::HTTP_10;
    assert_eq!(running.client().await.send(old).await.text(), "f");
}
