//! `traffic_limit`: how many requests a rule takes a second, in all and of each client (alb.md 6.3).

use http::Method;

use crate::support::backend::Backend;
use crate::support::client::{Client, empty, request};
use crate::support::proxy::{Proxy, Reload};

fn rule(limit: &str) -> String {
    format!(
        "[[listener.rule]]\nname = \"api\"\npriority = 1\npath = [\"/api/*\"]\nforward = \"app\"\ntraffic_limit = {{ {limit} }}\n"
    )
}

/// Sends so many requests, and says how many were taken. The rest were told why not.
async fn taken(client: &mut Client, requests: usize, from: Option<&str>) -> usize {
    let mut taken = 0;
    for _ in 0..requests {
        let mut request = request(Method::GET, "/api/x", empty());
        if let Some(from) = from {
            let headers = request.headers_mut();
            headers.insert("x-forwarded-for", from.parse().unwrap());
        }
        let response = client.send(request).await;
        if response.status == 200 {
            assert_eq!(response.field("alb-qps-limited"), None);
            taken += 1;
        } else {
            assert_eq!(response.status, 503);
            assert_eq!(response.field("alb-qps-limited"), Some("Limited"));
        }
    }
    taken
}

#[tokio::test]
async fn a_rule_takes_a_second_s_worth_at_once_whatever_the_workers() {
    let backend = Backend::named("a").run().await;
    let running = Proxy::to(&backend)
        .server("workers = 4")
        .listener(&rule("qps = 20"))
        .run()
        .await;
    let started = std::time::Instant::now();
    let mut all = 0;
    for _ in 0..4 {
        all += taken(&mut running.client().await, 15, None).await;
        all += taken(&mut running.client_h2().await, 15, None).await;
    }
    let earned = 20.0 * (1.0 + started.elapsed().as_secs_f64());
    assert!(all >= 20 && all as f64 <= earned, "{all} of {earned}");
    assert!(all < 120, "the machine is too slow to say anything");
    let mut client = running.client().await;
    assert_eq!(client.get("/other").await.status, 200, "another rule's");
    let line = running.wait_for_access(|line| line["status"] == 503).await;
    assert_eq!(line["cause"], "traffic_limited");
    assert_eq!(line["upstream_addr"], "-");
    assert_eq!(line["upstream_status"], "-");
}

#[tokio::test]
async fn every_client_has_a_limit_of_its_own_by_its_retrieved_address() {
    let backend = Backend::named("a").run().await;
    let client_ip = "[listener.client_ip]\ntrusted = [\"127.0.0.1\"]\n";
    // One in ten seconds could not be told from none here; one a second is as slow as it gets.
    let running = Proxy::to(&backend)
        .listener(&(rule("per_ip_qps = 1, qps = 1000000") + client_ip))
        .run()
        .await;
    let mut client = running.client().await;
    let started = std::time::Instant::now();
    let first = taken(&mut client, 10, Some("192.0.2.1")).await;
    let bound = 1 + started.elapsed().as_secs() as usize + 1;
    assert!((1..=bound).contains(&first), "{first}");
    for (from, expected) in [
        ("192.0.2.2", 1),
        ("192.0.2.3, 127.0.0.1", 1),
        ("2001:db8::1", 1),
        ("2001:db8:0:1::1", 1),
    ] {
        assert_eq!(taken(&mut client, 1, Some(from)).await, expected, "{from}");
    }
}

#[tokio::test]
async fn a_reload_gives_nobody_a_new_second() {
    let backend = Backend::named("a").run().await;
    let mut running = Proxy::to(&backend).listener(&rule("qps = 30")).run().await;
    let started = std::time::Instant::now();
    let mut client = running.client().await;
    let mut all = taken(&mut client, 60, None).await;
    for _ in 0..3 {
        assert_eq!(running.reload().await, Reload::TakenUp);
        all += taken(&mut client, 60, None).await;
    }
    let earned = 30.0 * (1.0 + started.elapsed().as_secs_f64());
    assert!(all as f64 <= earned, "{all} of {earned}");
}
