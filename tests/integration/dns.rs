//! Servers that are reached by name: every address is a server, and they change as DNS says.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::backend::{Backend, ok};
use crate::support::client::Client;
use crate::support::dns::{Dns, Says};
use crate::support::proxy::{Proxy, Reload};
use crate::support::within;

/// Backends on these addresses of the loopback network, on the same port; each answers with its name.
async fn backends<const N: usize>(backends: [(&str, &str); N]) -> (u16, [Backend; N]) {
    // A port that is free on one address may be taken on another.
    'ports: loop {
        let mut port = 0;
        let mut running = Vec::new();
        for (name, ip) in backends {
            let address = SocketAddr::new(ip.parse().unwrap(), port);
            let Ok(listener) = tokio::net::TcpListener::bind(address).await else {
                continue 'ports;
            };
            port = listener.local_addr().unwrap().port();
            running.push(Backend::named(name).run_over(listener));
        }
        let running = running.try_into().unwrap_or_else(|_| panic!("so many"));
        return (port, running);
    }
}

/// Before servers that are looked up at `dns`, with one worker.
fn before(dns: &Dns, servers: &[String]) -> Proxy {
    let server = format!("workers = 1\nresolver = [\"{}\"]", dns.address());
    Proxy::new().servers(servers).server(&server)
}

/// Asks until the answers of twelve requests are as they are to be, sorted.
async fn comes_to(client: &mut Client, expected: &str) {
    within(expected, async {
        loop {
            let mut names: Vec<char> = client.who(12).await.chars().collect();
            names.sort_unstable();
            if names.iter().collect::<String>() == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_change_of_address_is_followed_as_the_ttl_runs_out() {
    let dns = Dns::run().await;
    let (port, [_a, b]) = backends([("a", "127.0.0.1"), ("b", "127.0.0.2")]).await;
    dns.point("app.test", &["127.0.0.1"]);
    let proxy = before(&dns, &[format!("app.test:{port}")]).run().await;
    let mut client = proxy.client().await;
    assert_eq!(client.who(3).await, "aaa");
    assert_eq!(b.connections(), 0);
    dns.point("app.test", &["127.0.0.2"]);
    comes_to(&mut client, "bbbbbbbbbbbb").await;
    let address = b.address().to_string();
    proxy
        .wait_for_access(|line| line["upstream_addr"] == *address)
        .await;
    // The name is what the backend is asked for where the client says nothing.
    assert!(b.requests()[0].field("host").is_some());
}

#[tokio::test]
async fn every_address_of_a_name_is_a_server_of_the_weight_that_is_written() {
    let dns = Dns::run().await;
    let (port, [_a, _b, _c]) =
        backends([("a", "127.0.0.1"), ("b", "127.0.0.2"), ("c", "127.0.0.3")]).await;
    dns.point("app.test", &["127.0.0.2", "127.0.0.1"]);
    let servers = [
        format!("{{ address = \"app.test:{port}\", weight = 10 }}"),
        format!("{{ address = \"127.0.0.3:{port}\", weight = 20 }}"),
    ];
    let proxy = before(&dns, &servers).run().await;
    let mut client = proxy.client().await;
    comes_to(&mut client, "aaabbbcccccc").await;
    dns.point("app.test", &["127.0.0.2"]);
    comes_to(&mut client, "bbbbcccccccc").await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_a_server_that_cannot_be_asked_until_it_does() {
    let dns = Dns::run().await;
    let (port, [_a, _b]) = backends([("a", "127.0.0.1"), ("b", "127.0.0.2")]).await;
    let alone = before(&dns, &[format!("late.test:{port}")]).run().await;
    let mut client = alone.client().await;
    assert_eq!(client.get("/").await.status, 502);
    alone
        .wait_for_access(|line| line["cause"] == "name_unresolved")
        .await;
    let servers = [format!("late.test:{port}"), format!("127.0.0.2:{port}")];
    let beside = before(&dns, &servers).run().await;
    let mut other = beside.client().await;
    assert_eq!(other.who(6).await, "bbbbbb");
    dns.point("late.test", &["127.0.0.1"]);
    comes_to(&mut other, "aaaaaabbbbbb").await;
    within("it resolves", async {
        while client.get("/").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn addresses_are_kept_when_a_name_does_not_resolve_any_more() {
    for says in [
        Says::NoSuchName,
        Says::Failure,
        Says::Addresses(Vec::new(), 1),
        Says::Garbage,
        Says::Silence,
    ] {
        let dns = Dns::run().await;
        let (port, [_a]) = backends([("a", "127.0.0.1")]).await;
        dns.point("app.test", &["127.0.0.1"]);
        let mut proxy = before(&dns, &[format!("app.test:{port}")]).run().await;
        dns.say("app.test", says);
        let told = |text: &str| {
            text.contains("the name does not resolve") && text.contains("addresses_kept=1")
        };
        proxy.wait_for_stderr(told).await;
        assert_eq!(proxy.client().await.who(3).await, "aaa");
    }
}

#[tokio::test]
async fn addresses_of_one_family_are_kept_while_nothing_is_said_of_it() {
    let dns = Dns::run().await;
    let (port, [_a, _b]) = backends([("a", "127.0.0.1"), ("b", "::1")]).await;
    dns.point("app.test", &["127.0.0.1"]);
    let proxy = before(&dns, &[format!("app.test:{port}")]).run().await;
    let mut client = proxy.client().await;
    assert_eq!(client.who(3).await, "aaa");
    dns.say("app.test", Says::OnlyIpv6(vec!["::1".parse().unwrap()]));
    comes_to(&mut client, "aaaaaabbbbbb").await;
    // That there is none is an answer.
    dns.point("app.test", &["::1"]);
    comes_to(&mut client, "bbbbbbbbbbbb").await;
}

#[tokio::test]
async fn a_dns_server_that_says_nothing_does_not_keep_lockgate_from_starting() {
    let dns = Dns::run().await;
    dns.say("app.test", Says::Silence);
    let (port, [_a]) = backends([("a", "127.0.0.1")]).await;
    let servers = [format!("app.test:{port}"), format!("127.0.0.1:{port}")];
    let proxy = before(&dns, &servers).run().await;
    assert_eq!(proxy.client().await.who(4).await, "aaaa");
}

#[tokio::test]
async fn each_address_has_a_health_of_its_own() {
    let dns = Dns::run().await;
    let (port, [_a]) = backends([("a", "127.0.0.1")]).await;
    let sick = Backend::answering(|request| match request.start().starts_with("HEAD") {
        true => b"HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n".to_vec(),
        false => ok(b"s"),
    });
    let _sick = sick
        .run_on(SocketAddr::new("127.0.0.2".parse().unwrap(), port))
        .await;
    dns.point("app.test", &["127.0.0.1", "127.0.0.2"]);
    let mut proxy = before(&dns, &[format!("app.test:{port}")])
        .group("[server_group.health_check]\ninterval = 1\nunhealthy_threshold = 2")
        .run()
        .await;
    let unhealthy = format!("server=127.0.0.2:{port} ");
    proxy
        .wait_for_stderr(|text| {
            let mut lines = text.lines();
            lines.any(|line| line.contains(&unhealthy) && line.contains("to=\"unhealthy\""))
        })
        .await;
    let mut client = proxy.client().await;
    assert_eq!(client.who(6).await, "aaaaaa");
    // What is known of an address survives that another one comes, and a reload.
    let (third, _c) = loop {
        let address = SocketAddr::new("127.0.0.3".parse().unwrap(), port);
        if let Ok(listener) = tokio::net::TcpListener::bind(address).await {
            break (address, Backend::named("c").run_over(listener));
        }
    };
    dns.point("app.test", &["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
    comes_to(&mut client, "aaaaaacccccc").await;
    assert_eq!(proxy.reload().await, Reload::TakenUp);
    comes_to(&mut proxy.client().await, "aaaaaacccccc").await;
    assert_eq!(third.port(), port);
}

#[tokio::test]
async fn a_reload_asks_the_dns_servers_that_it_names_for_the_names_that_it_names() {
    let (old, new) = (Dns::run().await, Dns::run().await);
    let (port, [_a, _b]) = backends([("a", "127.0.0.1"), ("b", "127.0.0.2")]).await;
    let forever = |ip: &str| Says::Addresses(vec![ip.parse().unwrap()], 86_400);
    old.say("app.test", forever("127.0.0.1"));
    new.say("app.test", forever("127.0.0.2"));
    new.say("other.test", forever("127.0.0.1"));
    let mut proxy = before(&old, &[format!("app.test:{port}")]).run().await;
    let mut client = proxy.client().await;
    assert_eq!(client.who(2).await, "aa");
    let (from, to) = (old.address().to_string(), new.address().to_string());
    proxy.rewrite(|toml| toml.replace(&from, &to));
    assert_eq!(proxy.reload().await, Reload::TakenUp);
    comes_to(&mut client, "bbbbbbbbbbbb").await;
    proxy.rewrite(|toml| toml.replace("app.test", "other.test"));
    assert_eq!(proxy.reload().await, Reload::TakenUp);
    assert_eq!(client.who(2).await, "aa");
}
