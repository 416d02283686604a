//! The end of the process: SIGTERM and SIGINT let what is in flight end, and nothing hangs.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::support::backend::Backend;
use crate::support::client::{empty, request};
use crate::support::frames::{self, Frames};
use crate::support::gate::Gate;
use crate::support::proxy::{Proxy, Running, Signal};
use crate::support::{peer, within};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Waits until nobody is let in any more.
async fn refused(proxy: &Running) {
    within("new connections are refused", async {
        while TcpStream::connect(("127.0.0.1", proxy.port()))
            .await
            .is_ok()
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_signal_lets_the_exchange_in_flight_end_and_closes_the_idle_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut gate = Gate::new().await;
        let mut proxy = Proxy::to(&gate.backend).run().await;
        let mut silent = proxy.raw().await;
        let mut idle = proxy.raw().await;
        idle.write(GET).await;
        gate.asked().await;
        gate.open();
        assert_eq!(idle.read_response().await.status(), 200);
        let mut busy = proxy.raw().await;
        busy.write(GET).await;
        gate.asked().await;

        proxy.signal(signal);
        assert_eq!(idle.read_until_close().await, b"");
        assert_eq!(silent.read_until_close().await, b"");
        refused(&proxy).await;
        gate.open();
        let answer = busy.read_response().await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.body, b"at last");
        assert_eq!(answer.field("connection"), Some("close"));
        assert_eq!(busy.read_until_close().await, b"");
        assert_eq!(proxy.exit().await.code(), Some(0), "{signal:?}");
    }
}

#[tokio::test]
async fn a_parked_connection_is_closed_at_once() {
    let backend = Backend::echo().run().await;
    let mut proxy = Proxy::to(&backend).run().await;
    let mut parked = proxy.raw().await;
    parked.write(GET).await;
    assert_eq!(parked.read_response().await.status(), 200);
    // Longer than the half second after which an idle connection gives its buffers back.
    tokio::time::sleep(Duration::from_millis(700)).await;
    proxy.signal(Signal::TERM);
    assert_eq!(parked.read_until_close().await, b"");
    assert_eq!(proxy.exit().await.code(), Some(0));
}

#[tokio::test]
async fn http2_is_told_by_goaway_and_its_streams_end() {
    let mut gate = Gate::new().await;
    let mut proxy = Proxy::to(&gate.backend).run().await;
    let mut idle = Frames::begin(proxy.tls(&["h2"]).await).await;
    let mut busy = Frames::begin(proxy.tls(&["h2"]).await).await;
    busy.get(1, "/").await;
    gate.asked().await;
    proxy.signal(Signal::TERM);
    let rest = idle.until_end().await;
    assert!(rest.iter().any(|f| f.kind == frames::GOAWAY), "{rest:?}");
    busy.wait_for(frames::GOAWAY, 0).await;
    gate.open();
    let head = busy.wait_for(frames::HEADERS, 1).await;
    assert!(head.is_ok(), "{head:?}");
    let rest = busy.until_end().await;
    assert!(rest.iter().any(frames::Frame::ends_stream), "{rest:?}");
    assert_eq!(proxy.exit().await.code(), Some(0));
}

#[tokio::test]
async fn goes_on_accepting_for_shutdown_delay() {
    let backend = Backend::echo().run().await;
    let mut proxy = Proxy::to(&backend)
        .server("workers = 2\nshutdown_delay = 1")
        .run()
        .await;
    let began = Instant::now();
    proxy.signal(Signal::TERM);
    proxy
        .wait_for_stderr(|text| text.contains("shutdown_delay"))
        .await;
    assert_eq!(proxy.client().await.get("/").await.status, 200);
    assert_eq!(proxy.exit().await.code(), Some(0));
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn drain_timeout_cuts_what_is_left_and_says_so_by_exit_code_1() {
    let mut gate = Gate::new().await;
    let mut proxy = Proxy::to(&gate.backend)
        .server("workers = 2\ndrain_timeout = 1")
        .run()
        .await;
    let mut busy = proxy.raw().await;
    busy.write(GET).await;
    gate.asked().await;
    let began = Instant::now();
    proxy.signal(Signal::TERM);
    assert_eq!(busy.read_until_close().await, b"");
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(proxy.exit().await.code(), Some(1));
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    for server in ["drain_timeout = 600", "shutdown_delay = 600"] {
        let mut gate = Gate::new().await;
        let mut proxy = Proxy::to(&gate.backend)
            .server(&format!("workers = 2\n{server}"))
            .run()
            .await;
        let mut client = proxy.client().await;
        let busy = tokio::spawn(async move {
            client
                .try_send(request(http::Method::GET, "/", empty()))
                .await
        });
        gate.asked().await;
        proxy.signal(Signal::TERM);
        proxy
            .wait_for_stderr(|text| text.contains("draining") || text.contains("shutdown_delay"))
            .await;
        proxy.signal(Signal::INT);
        assert_eq!(proxy.exit().await.code(), Some(1), "{server}");
        assert!(busy.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn survives_running_out_of_descriptors() {
    let backend = Backend::echo().run().await;
    let mut proxy = Proxy::to(&backend)
        .server("workers = 1\nmax_connections = 1000")
        .under(&["sh", "-c", "ulimit -n 64 && exec \"$@\"", "sh"])
        .run()
        .await;
    let mut early = proxy.client().await;
    assert_eq!(early.get("/").await.status, 200);
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(proxy.plain().await);
    }
    proxy
        .wait_for_stderr(|text| text.contains("cannot accept connections"))
        .await;
    // The one that was served before was idle, and made room.
    drop(crowd);
    assert_eq!(proxy.client().await.get("/").await.status, 200);
    proxy.signal(Signal::TERM);
    drop(early);
    assert_eq!(proxy.exit().await.code(), Some(0));
}

#[tokio::test]
async fn obeys_signals_as_the_first_process_of_a_container() {
    let Some(unshare) = peer("unshare") else {
        return;
    };
    let namespace = [
        unshare.to_str().unwrap(),
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ];
    let permitted = Command::new(namespace[0])
        .args(&namespace[1..])
        .arg("true")
        .output()
        .unwrap();
    if !permitted.status.success() {
        eprintln!("skipped: this user may not make a PID namespace");
        return;
    }
    for signal in [Signal::TERM, Signal::INT] {
        let backend = Backend::echo().run().await;
        let mut proxy = Proxy::to(&backend).under(&namespace).run().await;
        let first = only_child(proxy.pid());
        assert_eq!(proxy.client().await.get("/").await.status, 200);
        send(first, Signal::HUP);
        proxy
            .wait_for_stderr(|text| text.contains("reloaded"))
            .await;
        send(first, signal);
        assert_eq!(proxy.exit().await.code(), Some(0), "{signal:?}");
    }
}

fn only_child(pid: u32) -> i32 {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = std::fs::read_to_string(Path::new(&path)).unwrap();
    children.trim().parse().unwrap()
}

fn send(pid: i32, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}
