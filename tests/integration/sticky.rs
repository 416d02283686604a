//! Sticky sessions: who stays with whom, by which cookie, and what ends it.

use http::Method;
use http::header::{COOKIE, SET_COOKIE};

use crate::support::backend::Backend;
use crate::support::client::{Client, Response, empty, request};
use crate::support::proxy::{Proxy, Reload};

const INSERT: &str = "[server_group.sticky_session]\nenabled = true";

fn before(backends: &[Backend]) -> Proxy {
    let addresses: Vec<_> = backends.iter().map(Backend::address).collect();
    Proxy::new().servers(&addresses)
}

async fn ask(client: &mut Client, cookie: Option<&str>) -> Response {
    let mut request = request(Method::GET, "/", empty());
    if let Some(cookie) = cookie {
        request
            .headers_mut()
            .insert(COOKIE, cookie.parse().unwrap());
    }
    client.send(request).await
}

/// The cookies that an answer sets.
fn set(answer: &Response) -> Vec<String> {
    let cookies = answer.headers.get_all(SET_COOKIE).iter();
    cookies
        .map(|cookie| cookie.to_str().unwrap().to_owned())
        .collect()
}

/// What a client sends back of an answer's first cookie.
fn kept(answer: &Response) -> String {
    set(answer)[0].split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_client_stays_with_its_server_over_workers_protocols_and_reloads() {
    let backends = Backend::all_named(&["a", "b", "c"]).await;
    let mut running = before(&backends)
        .server("workers = 3")
        .group(INSERT)
        .run()
        .await;
    for _ in 0..3 {
        let first = ask(&mut running.client().await, None).await;
        let (mut cookie, owner) = (kept(&first), first.text());
        for _ in 0..4 {
            let answer = ask(&mut running.client().await, Some(&cookie)).await;
            assert_eq!(answer.text(), owner);
            cookie = kept(&answer);
            let answer = ask(&mut running.client_h2().await, Some(&cookie)).await;
            assert_eq!(answer.text(), owner);
        }
        assert_eq!(running.reload().await, Reload::TakenUp);
        let answer = ask(&mut running.client().await, Some(&cookie)).await;
        assert_eq!(answer.text(), owner);
    }
}

#[tokio::test]
async fn a_client_is_kept_too_whose_answer_a_rule_replaced() {
    let backends = Backend::all_named(&["a"]).await;
    let rule = "[[listener.rule]]\nname = \"out\"\npriority = 1\ndirection = \"response\"\n\
                fixed_response = { code = 200, body = \"other\" }\n";
    let running = before(&backends).listener(rule).group(INSERT).run().await;
    for mut client in [running.client().await, running.client_h2().await] {
        let answer = ask(&mut client, None).await;
        assert_eq!(answer.text(), "other");
        assert_eq!(set(&answer).len(), 2);
    }
}

#[tokio::test]
async fn the_cookie_has_a_twin_for_other_sites_and_tells_nothing_of_the_server() {
    let backends = Backend::all_named(&["a"]).await;
    for (proxy, end) in [
        (before(&backends), "; Path=/; SameSite=None; Secure"),
        (before(&backends).http(), "; Path=/; SameSite=None"),
    ] {
        let running = proxy.group(INSERT).run().await;
        let answer = ask(&mut running.client().await, None).await;
        let cookies = set(&answer);
        assert_eq!(cookies.len(), 2, "{cookies:?}");
        let value = cookies[0].strip_prefix("SERVERID=").unwrap();
        let value = value.strip_suffix("; Path=/").unwrap();
        assert_eq!(cookies[1], format!("SERVERCORSID={value}{end}"));
        let parts: Vec<_> = value.split('|').collect();
        assert_eq!(parts[0].len(), 32, "{value}");
        assert!(parts[0].bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(parts[1], parts[2], "{value}");
        let age = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        assert!(age - parts[1].parse::<u64>().unwrap() < 60, "{value}");
        // The twin alone is honoured, too.
        let twin = format!("SERVERCORSID={value}");
        let first = kept(&ask(&mut running.client().await, Some(&twin)).await);
        assert!(first.ends_with(&format!("|{}", parts[2])), "{first}");
    }
}

#[tokio::test]
async fn replicas_that_share_a_secret_honour_one_anothers_cookies_and_others_do_not() {
    let backends = Backend::all_named(&["a", "b", "c", "d"]).await;
    let replica = |secret: &str| {
        let proxy = before(&backends).group(INSERT);
        std::fs::write(proxy.directory().join("secret"), secret).unwrap();
        proxy.server("workers = 2\nsecret_file = \"secret\"")
    };
    let secret = "0123456789abcdef0123456789abcdef";
    let one = replica(secret).run().await;
    let two = replica(secret).run().await;
    let stranger = replica("fedcba9876543210fedcba9876543210").run().await;
    let mut strange = 0;
    for _ in 0..8 {
        let first = ask(&mut one.client().await, None).await;
        let cookie = kept(&first);
        let answer = ask(&mut two.client().await, Some(&cookie)).await;
        assert_eq!(answer.text(), first.text());
        let answer = ask(&mut stranger.client().await, Some(&cookie)).await;
        strange += usize::from(answer.text() != first.text());
        assert_ne!(kept(&answer)[..41], cookie[..41]);
    }
    assert!(strange > 0);
}

#[tokio::test]
async fn a_forged_or_damaged_cookie_is_ignored() {
    let backends = Backend::all_named(&["a", "b"]).await;
    let running = before(&backends)
        .server("workers = 1")
        .group(INSERT)
        .run()
        .await;
    let mut client = running.client().await;
    let own = kept(&ask(&mut client, None).await);
    let forged = format!("SERVERID={}|1|1", "0".repeat(32));
    for cookie in [&forged, &own[..30], "SERVERID=", "SERVERID=127.0.0.1:80"] {
        let mut names = String::new();
        for _ in 0..4 {
            names += &ask(&mut client, Some(cookie)).await.text();
        }
        assert_eq!(names.matches('a').count(), 2, "{cookie}: {names}");
    }
}

#[tokio::test]
async fn when_the_server_is_gone_refuses_or_has_weight_zero_another_takes_the_client() {
    let mut backends = Backend::all_named(&["a", "b", "c"]).await;
    let mut running = before(&backends)
        .server("workers = 1")
        .group(INSERT)
        .run()
        .await;
    let mut client = running.client().await;
    let mut cookies = Vec::new();
    for _ in 0..3 {
        let answer = ask(&mut client, None).await;
        cookies.push((answer.text(), kept(&answer)));
    }
    let cookie = |name: &str| {
        let mut all = cookies.iter();
        all.find(|(owner, _)| owner == name).unwrap().1.clone()
    };
    // b gets no new requests, c is removed, a dies.
    let (b, c) = (backends[1].address(), backends[2].address());
    running.rewrite(|toml| {
        toml.replace(&format!(", {{ address = \"{c}\" }}"), "")
            .replace(&format!("\"{b}\" }}"), &format!("\"{b}\", weight = 0 }}"))
    });
    assert_eq!(running.reload().await, Reload::TakenUp);
    for name in ["b", "c"] {
        let answer = ask(&mut client, Some(&cookie(name))).await;
        assert_eq!(answer.text(), "a");
        let moved = kept(&answer);
        assert_ne!(moved[..41], cookie(name)[..41]);
        assert_eq!(ask(&mut client, Some(&moved)).await.text(), "a");
    }
    running.rewrite(|toml| toml.replace(", weight = 0 }", " }"));
    assert_eq!(running.reload().await, Reload::TakenUp);
    assert_eq!(ask(&mut client, Some(&cookie("b"))).await.text(), "b");
    drop(backends.remove(0));
    let answer = ask(&mut client, Some(&cookie("a"))).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "b"));
    assert_eq!(kept(&answer)[..41], cookie("b")[..41]);
}

#[tokio::test]
async fn a_cookie_that_was_not_used_for_the_timeout_counts_no_more() {
    let backends = Backend::all_named(&["a", "b"]).await;
    let running = before(&backends)
        .server("workers = 1")
        .group(&format!("{INSERT}\ncookie = \"ROUTEID\"\ntimeout = 600"))
        .run()
        .await;
    let mut client = running.client().await;
    let answer = ask(&mut client, None).await;
    let owner = answer.text();
    let cookie = kept(&answer);
    let mark = cookie.split('|').next().unwrap();
    assert!(mark.starts_with("ROUTEID="), "{mark}");
    assert!(set(&answer)[1].starts_with("ROUTECORSID="));
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    for (age, stays) in [(300, true), (660, false)] {
        let aged = format!("{mark}|{}|1", now - age);
        let mut names = String::new();
        for _ in 0..4 {
            names += &ask(&mut client, Some(&aged)).await.text();
        }
        let its = names.matches(&owner).count();
        assert_eq!(its, if stays { 4 } else { 2 }, "{age}: {names}");
    }
}

#[tokio::test]
async fn answers_of_ours_set_no_cookie() {
    let backend = Backend::raw(|stream, _| async move { drop(stream) })
        .run()
        .await;
    let running = Proxy::to(&backend).group(INSERT).run().await;
    let answer = ask(&mut running.client().await, None).await;
    assert_eq!(answer.status, 502);
    assert!(set(&answer).is_empty(), "{:?}", answer.headers);
}

#[tokio::test]
async fn a_servers_own_cookie_keeps_the_client_with_it() {
    let mut backends = Vec::new();
    for name in ["a", "b"] {
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nSet-Cookie: other=1\r\n\
             Set-Cookie: JSESSIONID=secret-{name}; Path=/app; HttpOnly\r\n\r\n{name}"
        );
        let plain = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}");
        let backend = Backend::answering(move |request| {
            match request.field("cookie") {
                // It sets its cookie once.
                Some(_) => plain.clone(),
                None => answer.clone(),
            }
            .into_bytes()
        });
        backends.push(backend.run().await);
    }
    let running = before(&backends)
        .group("[server_group.sticky_session]\nenabled = true\ntype = \"server\"\ncookie = \"JSESSIONID\"")
        .run()
        .await;
    for _ in 0..3 {
        let first = ask(&mut running.client().await, None).await;
        let cookies = set(&first);
        assert_eq!(cookies[0], "other=1");
        let value = cookies[1].strip_prefix("JSESSIONID=").unwrap();
        let value = value.strip_suffix("; Path=/app; HttpOnly").unwrap();
        assert_eq!(value.len(), 32, "{value}");
        for _ in 0..4 {
            let cookie = format!("x=1; JSESSIONID={value}");
            let answer = ask(&mut running.client().await, Some(&cookie)).await;
            assert_eq!(answer.text(), first.text());
            assert!(set(&answer).is_empty());
        }
    }
}
