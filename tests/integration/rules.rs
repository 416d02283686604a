//! Forwarding rules: which one takes a request, and where it goes (alb.md 6.1, 6.2, decision 13; attacks.md rows
//! 54, 55, 70).

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::{HeaderValue, Method};
use tokio::net::TcpSocket;

use crate::support::backend::Backend;
use crate::support::client::{empty, request};
use crate::support::proxy::{Proxy, Reload, Running};
use crate::support::raw::{Message, Raw};
use crate::support::within;

/// So many backends, which answer with their names: `g0`, `g1`.
async fn backends(count: usize) -> Vec<Backend> {
    let mut backends = Vec::with_capacity(count);
    for index in 0..count {
        backends.push(Backend::named(&format!("g{index}")).run().await);
    }
    backends
}

/// The program before these backends, each a group of its own; `lines` stand in the listener.
fn proxy(protocol: &str, lines: &str, backends: &[Backend]) -> Proxy {
    let mut toml = format!(
        "[server]\nworkers = 2\n[server.access_log]\npath = \"access.log\"\n\
         [[listener]]\nname = \"web\"\nprotocol = \"{protocol}\"\naddress = \"127.0.0.1\"\nport = {{port}}\n{lines}\n"
    );
    for (index, backend) in backends.iter().enumerate() {
        let address = backend.address();
        let _ = writeln!(
            toml,
            "[[server_group]]\nname = \"g{index}\"\nservers = [{{ address = \"{address}\" }}]"
        );
    }
    match protocol {
        "http" => Proxy::new().http().raw_config(toml),
        _ => {
            let site =
                "[[certificate]]\nname = \"site\"\ncert = \"site.crt\"\nkey = \"site.key\"\n";
            Proxy::new().raw_config(format!("{site}{toml}"))
        }
    }
}

/// Rules in their order, each with its conditions; the first forwards to `g0`.
fn rules(conditions: &[&str]) -> String {
    let mut toml = String::new();
    for (index, conditions) in conditions.iter().enumerate() {
        let _ = writeln!(
            toml,
            "[[listener.rule]]\nname = \"r{index}\"\npriority = {}\nforward = \"g{index}\"\n{conditions}",
            index + 1
        );
    }
    toml
}

async fn ask(raw: &mut Raw, start: &str, lines: &str) -> Message {
    raw.write(format!("{start} HTTP/1.1\r\n{lines}\r\n")).await;
    raw.read_response().await
}

/// A connection from another address of this machine.
async fn from(source: [u8; 4], running: &Running) -> Raw {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind(SocketAddr::new(IpAddr::from(source), 0))
        .unwrap();
    let connect = socket.connect((Ipv4Addr::LOCALHOST, running.port()).into());
    Raw::over(within("it is connected", connect).await.unwrap())
}

#[tokio::test]
async fn every_condition_looks_at_its_part_of_the_request() {
    let backends = backends(8).await;
    let rules = rules(&[
        "host = [\"api.example.com\", \"*.api.example.com\"]",
        "path = [\"/v1/*\", \"~*^/old/\"]",
        "method = [\"PUT\"]",
        "header = [{ name = \"X-Canary\", values = [\"1\", \"y*\"] }]",
        "query = [{ name = \"beta\", values = [\"true\"] }]",
        "cookie = [{ name = \"group\", values = [\"b*\"] }]",
        "source_ip = [\"127.0.0.9\", \"127.1.0.0/16\"]",
    ]);
    let running = proxy(
        "http",
        &format!("server_group = \"g7\"\n{rules}"),
        &backends,
    );
    let running = running.run().await;
    let mut raw = running.raw().await;
    for (start, lines, expected) in [
        ("GET /", "Host: api.example.com\r\n", "g0"),
        ("GET /", "Host: API.Example.com.:8443\r\n", "g0"),
        ("GET /", "Host: a.b.api.example.com\r\n", "g0"),
        ("GET http://api.example.com/", "Host: other\r\n", "g0"),
        ("GET /", "Host: api.example.com.other\r\n", "g7"),
        ("GET /v1/x/y?z", "Host: a\r\n", "g1"),
        ("GET /OLD/", "Host: a\r\n", "g1"),
        ("GET /v1", "Host: a\r\n", "g7"),
        ("GET /V1/x", "Host: a\r\n", "g7"),
        ("GET /%761/x", "Host: a\r\n", "g7"),
        ("GET /v1%2Fx", "Host: a\r\n", "g7"),
        ("GET //v1/x", "Host: a\r\n", "g7"),
        ("PUT /", "Host: a\r\nContent-Length: 0\r\n", "g2"),
        (
            "GET /",
            "Host: a\r\nX-CANARY: no\r\nx-canary: yes\r\n",
            "g3",
        ),
        ("GET /", "Host: a\r\nx-canary: Y\r\n", "g7"),
        ("GET /?a&BETA=True", "Host: a\r\n", "g4"),
        ("GET /?beta=tru%65", "Host: a\r\n", "g7"),
        ("GET /", "Host: a\r\nCookie: a=1; Group=Blue\r\n", "g5"),
        (
            "GET /",
            "Host: a\r\nCookie: a=1\r\nCookie: group=b\r\n",
            "g5",
        ),
        ("GET /", "Host: a\r\nCookie: a=group=b\r\n", "g7"),
        ("OPTIONS *", "Host: a\r\n", "g7"),
    ] {
        let answer = ask(&mut raw, start, lines).await;
        assert_eq!(answer.text(), expected, "{start} {lines}");
    }
    for (source, expected) in [
        ([127, 0, 0, 9], "g6"),
        ([127, 1, 2, 3], "g6"),
        ([127, 0, 0, 8], "g7"),
    ] {
        let answer = ask(&mut from(source, &running).await, "GET /", "Host: a\r\n").await;
        assert_eq!(answer.text(), expected, "{source:?}");
    }
}

#[tokio::test]
async fn what_rules_see_is_what_the_backend_gets() {
    let backends = backends(2).await;
    let lines = rules(&["path = [\"/admin/*\", \"/admin\"]"])
        + "[[listener.rule]]\nname = \"rest\"\npriority = 9\nforward = \"g1\"";
    let running = proxy("http", &lines, &backends).run().await;
    let mut raw = running.raw().await;
    for (path, group) in [
        ("/admin/x", 0),
        ("/admin/%2F..;/x", 0),
        ("/%61dmin/x", 1),
        ("/admin%2Fx", 1),
        ("/admin;x", 1),
        ("//admin/x", 1),
        ("/Admin/x", 1),
        ("/x%00y", 2),
        ("/x/../admin/x", 2),
        ("/x/%2e%2E/admin/x", 2),
        ("/x/.%2f/admin", 2),
        ("/x\\..\\admin", 2),
        ("/x/%5c..%5Cadmin", 2),
        ("/admin/./x", 2),
    ] {
        let before: usize = backends
            .iter()
            .map(|backend| backend.requests().len())
            .sum();
        raw.write(format!("GET {path}?q=%2e%2e HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        let answer = raw.read_response().await;
        if let Some(backend) = backends.get(group) {
            assert_eq!(answer.text(), format!("g{group}"), "{path}");
            let received = backend.requests().pop().unwrap();
            assert_eq!(received.start(), format!("GET {path}?q=%2e%2e HTTP/1.1"));
        } else {
            assert_eq!(answer.status(), 400, "{path}");
            let after: usize = backends
                .iter()
                .map(|backend| backend.requests().len())
                .sum();
            assert_eq!(before, after, "{path}");
            raw = running.raw().await;
        }
    }
}

#[tokio::test]
async fn rules_are_tried_by_priority_and_conditions_of_one_kind_must_all_hold() {
    let backends = backends(3).await;
    let lines = "server_group = \"g2\"\n\
        [[listener.rule]]\nname = \"late\"\npriority = 20\nhost = [\"www.example.com\"]\nforward = \"g0\"\n\
        [[listener.rule]]\nname = \"early\"\npriority = 10\nhost = [\"*.example.com\"]\n\
        header = [{ name = \"x-a\", values = [\"1\"] }, { name = \"x-b\", values = [\"2\"] }]\nforward = \"g1\"\n";
    let running = proxy("http", lines, &backends).run().await;
    let mut raw = running.raw().await;
    for (lines, expected) in [
        ("x-a: 1\r\nx-b: 2\r\n", "g1"),
        ("x-a: 1\r\n", "g0"),
        ("x-b: 2\r\n", "g0"),
    ] {
        let lines = format!("Host: www.example.com\r\n{lines}");
        assert_eq!(
            ask(&mut raw, "GET /", &lines).await.text(),
            expected,
            "{lines}"
        );
    }
    assert_eq!(
        ask(&mut raw, "GET /", "Host: a.example.com\r\nx-a: 1\r\n")
            .await
            .text(),
        "g2"
    );
}

#[tokio::test]
async fn over_http2_cookies_may_come_one_by_one_and_the_host_as_authority() {
    let backends = backends(2).await;
    let rules = rules(&["host = [\"localhost\"]\ncookie = [{ name = \"b\", values = [\"2\"] }]"]);
    let lines = format!("certificates = [\"site\"]\nserver_group = \"g1\"\n{rules}");
    let running = proxy("https", &lines, &backends).run().await;
    let mut client = running.client_h2().await;
    assert_eq!(client.get("/").await.text(), "g1");
    let mut crumbs = request(Method::GET, "/", empty());
    for crumb in ["a=1", "b=2", "c=3"] {
        let value = HeaderValue::from_static(crumb);
        crumbs.headers_mut().append("cookie", value);
    }
    assert_eq!(client.send(crumbs).await.text(), "g0");
}

#[tokio::test]
async fn groups_get_their_shares_whoever_serves() {
    let backends = backends(3).await;
    let lines = "[[listener.rule]]\nname = \"all\"\npriority = 1\nforward = { groups = [\
        { server_group = \"g0\", weight = 70 }, { server_group = \"g1\", weight = 20 }, \
        { server_group = \"g2\", weight = 10 }] }\n";
    let running = proxy("http", lines, &backends).run().await;
    for _ in 0..20 {
        let mut raw = running.raw().await;
        for _ in 0..10 {
            assert_eq!(ask(&mut raw, "GET /", "Host: a\r\n").await.status(), 200);
        }
    }
    let taken: Vec<_> = backends
        .iter()
        .map(|backend| backend.requests().len())
        .collect();
    assert_eq!(taken, [140, 40, 20]);
}

#[tokio::test]
async fn the_log_names_the_rule_and_its_group() {
    let backends = backends(2).await;
    let lines = "server_group = \"g1\"\n\
        [[listener.rule]]\nname = \"nobody\"\npriority = 1\npath = [\"/nobody\"]\n\
        forward = { groups = [{ server_group = \"g0\", weight = 0 }] }\n\
        [[listener.rule]]\nname = \"some\"\npriority = 2\npath = [\"/some\"]\nforward = \"g0\"\n";
    let running = proxy("http", lines, &backends).run().await;
    let mut raw = running.raw().await;
    assert_eq!(
        ask(&mut raw, "GET /nobody", "Host: a\r\n").await.status(),
        503
    );
    assert_eq!(ask(&mut raw, "GET /some", "Host: a\r\n").await.text(), "g0");
    assert_eq!(
        ask(&mut raw, "GET /other", "Host: a\r\n").await.text(),
        "g1"
    );
    assert_eq!(
        ask(&mut raw, "GET /../x", "Host: a\r\n").await.status(),
        400
    );
    for (uri, rule, group, cause) in [
        ("/nobody", "nobody", "-", "no_server"),
        ("/some", "some", "g0", "-"),
        ("/other", "default", "g1", "-"),
        ("/../x", "-", "-", "path_unsafe"),
    ] {
        let line = running
            .wait_for_access(|line| line["request_uri"] == uri)
            .await;
        assert_eq!(line["rule"], rule, "{uri}");
        assert_eq!(line["server_group"], group, "{uri}");
        assert_eq!(line["cause"], cause, "{uri}");
    }
}

#[tokio::test]
async fn a_rule_goes_by_the_client_that_a_trusted_proxy_names() {
    let backends = backends(2).await;
    let rules = rules(&["source_ip = [\"203.0.113.0/24\"]"]);
    let lines = format!(
        "server_group = \"g1\"\nclient_ip = {{ trusted = [\"127.0.0.1\"], require_trusted_peer = true }}\n{rules}"
    );
    let running = proxy("http", &lines, &backends).run().await;
    let named = "Host: a\r\nX-Forwarded-For: 203.0.113.9\r\n";
    let mut trusted = running.raw().await;
    assert_eq!(ask(&mut trusted, "GET /", named).await.text(), "g0");
    assert_eq!(ask(&mut trusted, "GET /", "Host: a\r\n").await.text(), "g1");
    let mut stranger = from([127, 0, 0, 2], &running).await;
    assert_eq!(ask(&mut stranger, "GET /", named).await.text(), "g1");
}

#[tokio::test]
async fn a_loop_is_a_request_that_the_same_rule_takes_again() {
    let backends = backends(3).await;
    let rules = rules(&["path = [\"/a\"]", "path = [\"/b\"]"]);
    let running = proxy(
        "http",
        &format!("server_group = \"g2\"\n{rules}"),
        &backends,
    );
    let running = running.run().await;
    let mut raw = running.raw().await;
    let mut entries = Vec::new();
    for (path, backend) in ["/a", "/b", "/c"].iter().zip(&backends) {
        let answer = ask(&mut raw, &format!("GET {path}"), "Host: a\r\n").await;
        assert_eq!(answer.status(), 200);
        let received = backend.request();
        entries.push(received.field("alicloud-alb-trace").unwrap().to_owned());
    }
    for (taken, path) in ["/a", "/b", "/c"].iter().enumerate() {
        for (passed, entry) in entries.iter().enumerate() {
            let lines = format!("Host: a\r\nALICLOUD-ALB-TRACE: {entry}\r\n");
            let answer = ask(&mut raw, &format!("GET {path}"), &lines).await;
            let expected = if passed == taken { 463 } else { 200 };
            assert_eq!(answer.status(), expected, "{path} {passed}");
        }
    }
}

#[tokio::test]
async fn a_reload_changes_the_rules_of_connections_that_stay() {
    let backends = backends(2).await;
    let rules = rules(&["path = [\"/a\"]"]);
    let running = proxy(
        "http",
        &format!("server_group = \"g1\"\n{rules}"),
        &backends,
    );
    let mut running = running.run().await;
    let mut raw = running.raw().await;
    assert_eq!(ask(&mut raw, "GET /a", "Host: a\r\n").await.text(), "g0");
    running.rewrite(|toml| toml.replace("\"/a\"", "\"/b\""));
    assert_eq!(running.reload().await, Reload::TakenUp);
    assert_eq!(ask(&mut raw, "GET /a", "Host: a\r\n").await.text(), "g1");
    assert_eq!(ask(&mut raw, "GET /b", "Host: a\r\n").await.text(), "g0");
    running.rewrite(|toml| toml.replace("\"/b\"", "\"~(\""));
    assert_eq!(running.reload().await, Reload::Refused);
    assert_eq!(ask(&mut raw, "GET /b", "Host: a\r\n").await.text(), "g0");
}
