//! Session tickets of clients that OpenSSL serves (the feature `legacy-tls`): the same rules as for others.

use lockgate::config::tls_policy::SystemPolicy;

use crate::support::backend::Backend;
use crate::support::peer;
use crate::support::proxy::{Proxy, Reload, Running, free_port};
use crate::tickets::{Keeper, SECRET, Taken, with_secret, write_secret};

const OLDER: [(&str, &str, &str); 3] = [
    ("-tls1", "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0", "TLSv1"),
    ("-tls1_1", "DEFAULT:@SECLEVEL=0", "TLSv1.1"),
    (
        "-tls1_2",
        "ECDHE-ECDSA-AES256-SHA384:@SECLEVEL=0",
        "TLSv1.2",
    ),
];

/// The lines of a listener whose policy begins with TLS 1.0.
fn lines() -> String {
    format!("tls_policy = \"{}\"", SystemPolicy::From10.name())
}

async fn old(backend: &Backend) -> Running {
    let proxy = Proxy::to(backend).server("workers = 2");
    proxy.listener(&lines()).run().await
}

#[tokio::test]
async fn older_clients_resume_with_any_worker_are_told_300_seconds_and_the_log_says_so() {
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let backend = Backend::echo().run().await;
    let proxy = old(&backend).await;
    for (version, suites, protocol) in OLDER {
        let client = Keeper::offering(&openssl, version, suites);
        let first = client.connect(proxy.port(), &[]).await;
        assert!(first.stdout.contains("\nNew, "), "{first:?}");
        let hint = "lifetime hint: 300 (seconds)";
        assert!(first.stdout.contains(hint), "{first:?}");
        for _ in 0..4 {
            assert_eq!(client.visit(&proxy).await, Taken::Resumed, "{version}");
        }
        let of_this = |line: &&serde_json::Value| line["ssl_protocol"] == protocol;
        let last = |line: &serde_json::Value| {
            let all = proxy.access_log();
            of_this(&line) && all.iter().filter(of_this).count() == 5
        };
        proxy.wait_for_access(last).await;
        let log = proxy.access_log();
        let said = log
            .iter()
            .filter(of_this)
            .map(|line| &line["ssl_session_reused"]);
        let resumed = said.filter(|word| **word == "r").count();
        assert_eq!(resumed, 4, "{version}: {log:?}");
    }
}

#[tokio::test]
async fn older_sessions_go_on_over_a_reload_unless_the_policy_changes() {
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let backend = Backend::echo().run().await;
    let (from, to) = ("policy_1_0\"", "policy_1_1\"");
    let mut proxy = old(&backend).await;
    for (version, suites, _) in &OLDER[1..] {
        let client = Keeper::offering(&openssl, version, suites);
        assert_eq!(client.visit(&proxy).await, Taken::Anew);
        assert_eq!(proxy.reload().await, Reload::TakenUp);
        assert_eq!(client.visit(&proxy).await, Taken::Resumed, "{version}");
        for (from, to) in [(from, to), (to, from)] {
            proxy.rewrite(|toml| toml.replace(from, to));
            assert_eq!(proxy.reload().await, Reload::TakenUp);
            assert_eq!(client.visit(&proxy).await, Taken::Anew, "{version} {to}");
            assert_eq!(client.visit(&proxy).await, Taken::Resumed, "{version} {to}");
        }
    }
}

#[tokio::test]
async fn an_older_session_of_one_listener_does_not_go_on_at_another() {
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let backend = Backend::echo().run().await;
    let proxy = Proxy::to(&backend).server("workers = 2\nsecret_file = \"secret\"");
    write_secret(proxy.directory(), SECRET);
    let mut proxy = proxy.listener(&lines()).run().await;
    let other = free_port();
    proxy.rewrite(|toml| {
        format!(
            "{toml}[[listener]]\nname = \"other\"\nprotocol = \"https\"\naddress = \"127.0.0.1\"\n\
             port = {other}\ncertificates = [\"site\"]\nserver_group = \"app\"\n{}\n",
            lines()
        )
    });
    assert_eq!(proxy.reload().await, Reload::TakenUp);
    for (version, suites, _) in OLDER {
        let client = Keeper::offering(&openssl, version, suites);
        assert_eq!(client.visit(&proxy).await, Taken::Anew);
        assert_eq!(client.visit(&proxy).await, Taken::Resumed, "{version}");
        assert_eq!(client.visit_port(other).await, Taken::Anew, "{version}");
        assert_eq!(client.visit_port(other).await, Taken::Resumed, "{version}");
        assert_eq!(client.visit(&proxy).await, Taken::Anew, "{version}");
    }
}

#[tokio::test]
async fn replicas_with_one_secret_resume_each_other_s_older_sessions() {
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let backend = Backend::echo().run().await;
    // The default policy has TLS 1.2 with CBC.
    let one = with_secret(&backend, SECRET).await;
    let two = with_secret(&backend, SECRET).await;
    let stranger = with_secret(&backend, &[SECRET, b"2"].concat()).await;
    let (version, suites, _) = OLDER[2];
    let client = Keeper::offering(&openssl, version, suites);
    assert_eq!(client.visit(&one).await, Taken::Anew);
    assert_eq!(client.visit(&two).await, Taken::Resumed);
    assert_eq!(client.visit(&stranger).await, Taken::Anew);
    assert_eq!(client.visit(&one).await, Taken::Anew);
}

#[tokio::test]
async fn neither_engine_takes_the_other_s_tickets() {
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let backend = Backend::echo().run().await;
    let proxy = old(&backend).await;
    let client = Keeper::offering(&openssl, "-tls1_2", OLDER[2].1);
    assert_eq!(client.visit(&proxy).await, Taken::Anew);
    for suites in ["ECDHE-ECDSA-AES128-GCM-SHA256", OLDER[2].1] {
        // The last -cipher counts.
        let again = client.connect(proxy.port(), &["-cipher", suites]).await;
        assert!(again.stdout.contains("\nNew, "), "{suites}: {again:?}");
    }
}
