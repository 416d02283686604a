//! Rules about answers: what they look at, what they change, and which answers they leave alone (alb.md 6.1
//! and 6.3).

use http::Method;

use crate::support::backend::{Backend, ok};
use crate::support::client::{empty, request};
use crate::support::proxy::Proxy;
use crate::support::raw::Raw;

/// Response rules, in their order.
fn rules(bodies: &[&str]) -> String {
    let mut toml = String::new();
    for (n, body) in bodies.iter().enumerate() {
        toml += &format!(
            "[[listener.rule]]\nname = \"r{n}\"\npriority = {}\ndirection = \"response\"\n{body}\n",
            n + 1
        );
    }
    toml
}

/// Answers `/STATUS` with that status, and a header that says which.
fn by_path() -> crate::support::backend::Behaviour {
    Backend::answering(|request| {
        let target = request.start().split(' ').nth(1).unwrap();
        let status = target.trim_start_matches('/').split('?').next().unwrap();
        format!(
            "HTTP/1.1 {status} X\r\nX-Kind: k{status}\r\nX-Powered-By: php\r\nContent-Length: 4\r\n\r\nbody"
        )
        .into_bytes()
    })
}

#[tokio::test]
async fn the_first_rule_whose_conditions_hold_changes_the_answer() {
    let backend = by_path().run().await;
    let rules = rules(&[
        "response_status = [\"404\", \"500-599\"]\ninsert_headers = [{ name = \"X-Rule\", value = \"status\" }]\nremove_headers = [\"x-powered-by\"]",
        "response_header = [{ name = \"x-kind\", values = [\"k2*\"] }]\nmethod = [\"POST\"]\ninsert_headers = [{ name = \"X-Rule\", value = \"post\" }]",
        "response_header = [{ name = \"x-kind\", values = [\"k2*\"] }]\ninsert_headers = [{ name = \"X-Rule\", value = \"kind\" }, { name = \"X-Asked\", reference = \"x-ask\" }, { name = \"X-Port\", system = \"slb_port\" }]",
    ]);
    let running = Proxy::to(&backend).listener(&rules).run().await;
    let port = running.port().to_string();
    let mut clients = [running.client().await, running.client_h2().await];
    for client in &mut clients {
        for (method, path, rule) in [
            (Method::GET, "/404", Some("status")),
            (Method::GET, "/599", Some("status")),
            (Method::GET, "/403", None),
            (Method::POST, "/200", Some("post")),
            (Method::GET, "/201", Some("kind")),
        ] {
            let mut request = request(method, path, empty());
            let headers = request.headers_mut();
            headers.insert("x-ask", "why".parse().unwrap());
            let response = client.send(request).await;
            assert_eq!(response.field("x-rule"), rule, "{path}");
            let powered = (rule != Some("status")).then_some("php");
            assert_eq!(response.field("x-powered-by"), powered, "{path}");
            let is_kind = rule == Some("kind");
            assert_eq!(response.field("x-asked"), is_kind.then_some("why"));
            assert_eq!(response.field("x-port"), is_kind.then_some(&*port));
            assert_eq!(response.text(), "body");
        }
    }
}

#[tokio::test]
async fn conditions_look_at_the_request_as_it_was_sent() {
    let backend = by_path().run().await;
    let rules = format!(
        "[[listener.rule]]\nname = \"in\"\npriority = 50\npath = [\"/old/*\"]\nforward = \"app\"\n\
         rewrite = {{ path = \"/200\" }}\ninsert_headers = [{{ name = \"X-In\", value = \"1\" }}]\n{}",
        rules(&[
            "path = [\"/200\"]\nheader = [{ name = \"x-in\", values = [\"1\"] }]\ninsert_headers = [{ name = \"X-Out\", value = \"1\" }]"
        ])
    );
    let running = Proxy::to(&backend).listener(&rules).run().await;
    let mut client = running.client().await;
    assert_eq!(client.get("/old/x").await.field("x-out"), Some("1"));
    assert_eq!(client.get("/200").await.field("x-out"), None);
}

#[tokio::test]
async fn an_answer_can_be_replaced_by_a_fixed_one() {
    let backend = Backend::answering(|request| {
        match request.start().split(' ').nth(1).unwrap() {
            path if request.start().starts_with("HEAD ") && path != "/fine" => {
                b"HTTP/1.1 500 Oops\r\nContent-Length: 6\r\n\r\n".to_vec()
            }
            // More than a socket holds, so that it cannot have been read to its end.
            "/large" => {
                let mut bytes = b"HTTP/1.1 500 Oops\r\nContent-Encoding: gzip\r\nETag: \"x\"\r\n\
                                  Set-Cookie: a=b\r\nContent-Length: 30000000\r\n\r\n"
                    .to_vec();
                bytes.resize(bytes.len() + 30_000_000, b'x');
                bytes
            }
            "/small" => b"HTTP/1.1 500 Oops\r\nContent-Length: 6\r\n\r\nsecret".to_vec(),
            "/chunked" => b"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nsecret\r\n0\r\nX-T: 1\r\n\r\n".to_vec(),
            _ => ok(b"fine"),
        }
    });
    let backend = backend.run().await;
    let rules = rules(&[
        "response_status = [\"500-599\"]\nremove_headers = [\"x-none\"]\ninsert_headers = [{ name = \"X-Rule\", value = \"1\" }]\n\
         fixed_response = { code = 502, content_type = \"text/html\", body = \"<p>sorry</p>\" }",
    ]);
    let running = Proxy::to(&backend).listener(&rules).run().await;
    let mut clients = [running.client().await, running.client_h2().await];
    for client in &mut clients {
        for path in ["/large", "/small", "/chunked", "/small"] {
            for method in [Method::GET, Method::POST] {
                let response = client.send(request(method, path, empty())).await;
                assert_eq!(response.status, 502, "{path}");
                assert_eq!(response.text(), "<p>sorry</p>");
                assert_eq!(response.field("content-type"), Some("text/html"));
                assert_eq!(response.field("x-rule"), Some("1"));
                for name in ["content-encoding", "etag", "set-cookie"] {
                    assert_eq!(response.field(name), None, "{name}");
                }
                assert!(response.trailers.is_none());
            }
            let head = client.send(request(Method::HEAD, path, empty())).await;
            assert_eq!((head.status.as_u16(), head.text()), (502, String::new()));
            assert_eq!(head.field("x-rule"), Some("1"), "the rule's, not our own");
            assert_eq!(client.get("/fine").await.text(), "fine");
        }
    }
    let line = running.wait_for_access(|line| line["status"] == 502).await;
    assert_eq!(line["cause"], "fixed_response");
    assert_eq!(line["upstream_status"], 500);
    assert_eq!(line["upstream_addr"], backend.address().to_string());
}

#[tokio::test]
async fn answers_of_lockgates_own_are_left_alone() {
    let backend = Backend::answering(|_| b"nonsense\r\n\r\n".to_vec());
    let backend = backend.run().await;
    let rules = format!(
        "[[listener.rule]]\nname = \"f\"\npriority = 50\npath = [\"/f\"]\nfixed_response = {{ code = 500 }}\n{}",
        rules(&[
            "response_status = [\"100-599\"]\ninsert_headers = [{ name = \"X-Rule\", value = \"1\" }]"
        ])
    );
    let running = Proxy::to(&backend).listener(&rules).run().await;
    let mut client = running.client().await;
    for (path, status) in [("/", 502), ("/f", 500), ("/%00", 400)] {
        let mut client = match status {
            400 => running.client().await,
            _ => running.client_h2().await,
        };
        let response = client.get(path).await;
        assert_eq!(response.status, status);
        assert_eq!(response.field("x-rule"), None);
    }
    drop(client.get("/f").await);
}

#[tokio::test]
async fn an_upload_ends_well_whose_early_answer_is_replaced() {
    // Answers at once, with more than a socket holds, and reads nothing.
    let backend = Backend::raw(|stream, _| async move {
        let mut raw = Raw::over(stream);
        raw.read_head_unhurried().await;
        let mut bytes = b"HTTP/1.1 500 Oops\r\nContent-Length: 30000000\r\n\r\n".to_vec();
        bytes.resize(bytes.len() + 30_000_000, b'x');
        let _ = raw.try_write(bytes).await;
    });
    let backend = backend.run().await;
    let rules = rules(&[
        "response_status = [\"500\"]\nfixed_response = { code = 503, content_type = \"text/plain\", body = \"later\" }",
    ]);
    let running = Proxy::to(&backend).listener(&rules).run().await;
    let large = vec![b'x'; 8 * 1024 * 1024];
    for mut client in [running.client().await, running.client_h2().await] {
        let response = client.post("/", large.clone()).await;
        assert_eq!(response.status, 503);
        assert_eq!(response.text(), "later");
    }
    // Over HTTP/1 nothing that follows such a body is a request.
    let mut raw = running.raw().await;
    raw.write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8388608\r\n\r\n")
        .await;
    let answer = raw.read_response().await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.field("connection"), Some("close"));
}
