//! Requests that come by again, or have passed too many load balancers (alb.md 9.4 and 14).

use http::{HeaderValue, Method};

use crate::support::backend::Backend;
use crate::support::client::{empty, request};
use crate::support::proxy::{Proxy, Running};
use crate::support::raw::Message;

async fn ask(running: &Running, trace: &str) -> Message {
    let mut raw = running.raw().await;
    raw.write(format!("GET / HTTP/1.1\r\nHost: a\r\n{trace}\r\n"))
        .await;
    raw.read_response().await
}

#[tokio::test]
async fn a_proxy_that_is_its_own_backend_says_so_after_one_round() {
    let proxy = Proxy::new().http().servers(&["127.0.0.1:{port}"]);
    let running = proxy.run().await;
    let answer = ask(&running, "").await;
    assert_eq!(answer.start(), "HTTP/1.1 463 Loop Detected");
    let status = "lockgate; error=proxy_loop_detected; details=\"loop_detected\"";
    assert_eq!(answer.field("proxy-status"), Some(status));
    running
        .wait_for_access(|line| line["cause"] == "loop_detected" && line["status"] == 463)
        .await;
    running
        .wait_for_access(|line| line["upstream_status"] == 463 && line["cause"] == "-")
        .await;
    assert_eq!(running.access_log().len(), 2);
}

#[tokio::test]
async fn every_pass_leaves_its_entry_and_the_seventeenth_is_refused() {
    let backend = Backend::named("a").run().await;
    let running = Proxy::to(&backend).run().await;
    assert_eq!(ask(&running, "").await.status(), 200);
    let first = backend.request();
    let own = first.field("alicloud-alb-trace").unwrap();
    assert!(first.has_line(&format!("ALICLOUD-ALB-TRACE: {own}")));
    assert_eq!(own.len(), 16);

    let fifteen = vec!["x"; 15].join(", ");
    let answer = ask(&running, &format!("Alicloud-Alb-Trace: {fifteen}\r\n")).await;
    assert_eq!(answer.status(), 200);
    let second = backend.requests().pop().unwrap();
    let expected = format!("{fifteen}, {own}");
    assert_eq!(second.field("alicloud-alb-trace"), Some(&*expected));

    for trace in [
        format!("ALICLOUD-ALB-TRACE: {fifteen}, x\r\n"),
        format!("ALICLOUD-ALB-TRACE: {fifteen}\r\nALICLOUD-ALB-TRACE: x\r\n"),
        format!("ALICLOUD-ALB-TRACE: {own}\r\n"),
        format!("Connection: alicloud-alb-trace\r\nalicloud-alb-trace: a, {own}\r\n"),
    ] {
        assert_eq!(ask(&running, &trace).await.status(), 463, "{trace}");
        let mut client = running.client_h2().await;
        let mut again = request(Method::GET, "/", empty());
        let value = HeaderValue::from_str(own).unwrap();
        again.headers_mut().insert("alicloud-alb-trace", value);
        assert_eq!(client.send(again).await.status.as_u16(), 463);
    }
    assert_eq!(backend.requests().len(), 2);
}

#[tokio::test]
async fn another_instance_or_listener_is_no_loop() {
    let backend = Backend::named("a").run().await;
    let last = Proxy::to(&backend)
        .http()
        .server("workers = 1\ninstance_id = \"last\"")
        .run()
        .await;
    let first = Proxy::new()
        .server("workers = 1\ninstance_id = \"first\"")
        .servers(&[format!("127.0.0.1:{}", last.port())])
        .run()
        .await;
    assert_eq!(ask(&first, "").await.status(), 200);
    let request = backend.request();
    let entries: Vec<_> = request
        .field("alicloud-alb-trace")
        .unwrap()
        .split(", ")
        .collect();
    assert_eq!(entries.len(), 2);
    assert_ne!(entries[0], entries[1]);
}

#[tokio::test]
async fn without_loop_detection_nothing_is_left_or_refused() {
    let backend = Backend::named("a").run().await;
    let running = Proxy::to(&backend)
        .listener("loop_detection = false")
        .run()
        .await;
    assert_eq!(ask(&running, "").await.status(), 200);
    assert_eq!(backend.request().field("alicloud-alb-trace"), None);
    let many = format!("ALICLOUD-ALB-TRACE: {}\r\n", vec!["x"; 40].join(", "));
    assert_eq!(ask(&running, &many).await.status(), 200);
    assert!(backend.requests()[1].has_line(many.trim_end()));
}
