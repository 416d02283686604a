//! Floods of HTTP/2 frames (attacks.md rows 17 to 19 and 22): each ends its connection within a bound,
//! with ENHANCE_YOUR_CALM, cheaply, and while other clients are served by the same thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::support::backend::{Backend, Behaviour, ok};
use crate::support::frames::{
    CONTINUATION, DATA, Frame, Frames, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, encode, literal,
};
use crate::support::proxy::{Proxy, Running};
use crate::support::raw::Raw;
use crate::support::{resident, within};

/// ENHANCE_YOUR_CALM (RFC 9113 section 7)
const CALM: u32 = 0xb;
/// What a flood may have cost when it is over: CPU time of the whole process.
const MOST_CPU: Duration = Duration::from_secs(1);
/// And memory, in KiB.
const MOST_MEMORY: u64 = 24 * 1024;

const GET: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/slow"),
    (":authority", "localhost"),
];
const POST: &[(&str, &str)] = &[
    (":method", "POST"),
    (":scheme", "https"),
    (":path", "/slow"),
    (":authority", "localhost"),
];

/// Answers `/` at once, and `/slow` never. How many connections are open is counted.
fn slow(open: &Arc<AtomicUsize>) -> Behaviour {
    let open = Arc::clone(open);
    Backend::raw(move |stream, _| {
        let open = Arc::clone(&open);
        async move {
            open.fetch_add(1, Ordering::SeqCst);
            let mut raw = Raw::over(stream);
            while let Some(head) = raw.read_head_unhurried().await {
                if head.contains(" /slow ") {
                    raw.drain().await;
                    break;
                }
                raw.write(ok(b"served")).await;
            }
            open.fetch_sub(1, Ordering::SeqCst);
        }
    })
}

/// CPU time that a process has used.
pub(crate) fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = &stat[stat.rfind(')').unwrap() + 2..];
    let fields: Vec<&str> = after_name.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn code(goaway: &Frame) -> u32 {
    u32::from_be_bytes(goaway.payload[4..8].try_into().unwrap())
}

/// Sends `begin`, then what `more` makes of 0, 1, 2 ..., and sees what becomes of it. `said` is what the log says.
async fn flood(
    running: &mut Running,
    name: &str,
    begin: Vec<u8>,
    more: impl Fn(u32) -> Vec<u8>,
    said: &str,
) {
    let pid = running.pid();
    let mut other = running.client_h2().await;
    assert_eq!(other.get("/").await.text(), "served");
    let (cpu_before, memory_before) = (cpu(pid), resident(pid));
    let log_before = running.stderr().len();
    let mut frames = Frames::begin(running.tls(&["h2"]).await).await;
    frames.write(&begin).await;
    // Far more than any flood may be; as many at once as a TLS record takes.
    for round in 0..1000 {
        let burst: Vec<u8> = (round * 50..round * 50 + 50).flat_map(&more).collect();
        if !frames.write(&burst).await {
            break;
        }
        if round % 10 == 0 {
            assert_eq!(other.get("/").await.text(), "served", "{name}");
        }
    }
    let seen = frames.until_end().await;
    let goaway = seen.iter().find(|frame| frame.kind == GOAWAY);
    let goaway = goaway.unwrap_or_else(|| panic!("{name}: no GOAWAY"));
    assert_eq!(code(goaway), CALM, "{name}");
    assert_eq!(other.get("/").await.text(), "served", "{name}");
    running
        .wait_for_stderr(|text| {
            let news = text.get(log_before..).unwrap_or("");
            news.contains("the client floods") && news.contains(said)
        })
        .await;
    let spent = cpu(pid) - cpu_before;
    assert!(spent <= MOST_CPU, "{name}: {spent:?} of CPU");
    let grown = resident(pid).saturating_sub(memory_before);
    assert!(grown <= MOST_MEMORY, "{name}: {grown} KiB more");
}

async fn running(open: &Arc<AtomicUsize>) -> (Backend, Running) {
    let backend = slow(open).run().await;
    let running = Proxy::to(&backend).server("workers = 1").run().await;
    (backend, running)
}

#[tokio::test]
async fn frames_that_only_make_work_end_the_connection() {
    let open = Arc::default();
    let (_backend, mut running) = running(&open).await;
    // INITIAL_WINDOW_SIZE, twice: every stream's window changes, and changes again.
    let windows = vec![0, 4, 0, 0, 4, 0, 0, 4, 0, 0, 8, 0];
    let one = vec![0, 0, 0, 1];
    for (name, kind, flags, stream, payload, said) in [
        ("PING", PING, 0, 0, vec![0; 8], "PING"),
        ("PING that answers", PING, 1, 0, vec![0; 8], "PING"),
        ("SETTINGS", SETTINGS, 0, 0, vec![], "SETTINGS"),
        ("SETTINGS of windows", SETTINGS, 0, 0, windows, "SETTINGS"),
        ("PRIORITY", PRIORITY, 0, 3, vec![0, 0, 0, 0, 9], "PRIORITY"),
        (
            "all windows",
            WINDOW_UPDATE,
            0,
            0,
            one.clone(),
            "WINDOW_UPDATE",
        ),
        ("a window", WINDOW_UPDATE, 0, 1, one, "WINDOW_UPDATE"),
        ("unknown", 0xbb, 0, 0, vec![], "unknown"),
        ("unknown on a stream", 0xbb, 0, 1, vec![0; 4], "unknown"),
        ("unknown and large", 0xbb, 0, 0, vec![0; 1024], "unknown"),
    ] {
        let begin = encode(HEADERS, 4, 1, &literal(POST));
        let more = |_| encode(kind, flags, stream, &payload);
        let said = format!("too many {said} frames");
        flood(&mut running, name, begin, more, &said).await;
    }
}

#[tokio::test]
async fn data_that_carries_nothing_ends_the_connection() {
    let open = Arc::default();
    let (_backend, mut running) = running(&open).await;
    let padding = [&[255][..], &[0; 255]].concat();
    for (name, flags, payload) in [("empty", 0, vec![]), ("padding", 8, padding)] {
        let begin = encode(HEADERS, 4, 1, &literal(POST));
        let more = |_| encode(DATA, flags, 1, &payload);
        flood(&mut running, name, begin, more, "(h2)").await;
    }
}

#[tokio::test]
async fn a_head_without_an_end_ends_the_connection() {
    let open = Arc::default();
    let (backend, mut running) = running(&open).await;
    let before = backend.connections();
    for (name, payload) in [("empty", vec![]), ("fields", literal(&[("a", "b")]))] {
        let begin = encode(HEADERS, 0, 1, &literal(GET));
        let more = |_| encode(CONTINUATION, 0, 1, &payload);
        flood(&mut running, name, begin, more, "(h2)").await;
    }
    let asked = backend.connections() - before;
    assert!(
        asked <= 1,
        "only the other client's requests were passed on"
    );
}

#[tokio::test]
async fn requests_that_are_taken_back_end_the_connection() {
    let open = Arc::default();
    let (backend, mut running) = running(&open).await;
    let pair = |n: u32| {
        let stream = 2 * n + 1;
        let head = encode(HEADERS, 5, stream, &literal(GET));
        [head, encode(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    };
    flood(&mut running, "rapid reset", vec![], pair, "(h2)").await;
    assert!(backend.connections() < 50, "{}", backend.connections());
    nothing_is_left(&open).await;
}

#[tokio::test]
async fn requests_that_are_taken_back_once_the_backend_works_end_the_connection() {
    let open = Arc::default();
    let (backend, mut running) = running(&open).await;
    let mut frames = Frames::begin(running.tls(&["h2"]).await).await;
    let mut sent = 0;
    let (cpu_before, memory_before) = (cpu(running.pid()), resident(running.pid()));
    let began = Instant::now();
    loop {
        let stream = 2 * sent + 1;
        let asked = backend.connections();
        frames
            .write(&encode(HEADERS, 5, stream, &literal(GET)))
            .await;
        let waited = async {
            while backend.connections() == asked {
                tokio::task::yield_now().await;
            }
        };
        // Not asked any more: the flood is over.
        if tokio::time::timeout(Duration::from_secs(1), waited)
            .await
            .is_err()
        {
            break;
        }
        let cancel = 8_u32.to_be_bytes();
        frames.write(&encode(RST_STREAM, 0, stream, &cancel)).await;
        sent += 1;
    }
    // Time gives back three or four a second.
    let earned = 4 * (began.elapsed().as_secs() as u32 + 1);
    assert!((100..=150 + earned).contains(&sent), "{sent}");
    let seen = frames.until_end().await;
    let goaway = seen.iter().find(|frame| frame.kind == GOAWAY).unwrap();
    assert_eq!(code(goaway), CALM);
    running
        .wait_for_stderr(|text| text.contains("the client floods"))
        .await;
    nothing_is_left(&open).await;
    // Each was asked of the backend once, on a connection that went with it.
    assert_eq!(backend.connections(), sent as usize);
    let spent = cpu(running.pid()) - cpu_before;
    assert!(spent <= 2 * MOST_CPU, "{spent:?} of CPU");
    let grown = resident(running.pid()).saturating_sub(memory_before);
    assert!(grown <= MOST_MEMORY, "{grown} KiB more");
}

#[tokio::test]
async fn streams_that_the_server_is_made_to_reset_end_the_connection() {
    let open = Arc::default();
    let (_backend, mut running) = running(&open).await;
    let wide = |n: u32| {
        let stream = 2 * n + 1;
        let head = encode(HEADERS, 4, stream, &literal(POST));
        let update = 0x7fff_ffff_u32.to_be_bytes();
        [head, encode(WINDOW_UPDATE, 0, stream, &update)].concat()
    };
    flood(&mut running, "too wide a window", vec![], wide, "too").await;
    let long = |n: u32| {
        let stream = 2 * n + 1;
        let head = [("content-length", "1")];
        let head = encode(HEADERS, 4, stream, &literal(&[POST, &head].concat()));
        [head, encode(DATA, 0, stream, b"two")].concat()
    };
    flood(&mut running, "more than its length", vec![], long, "too").await;
    nothing_is_left(&open).await;
}

#[tokio::test]
async fn more_streams_than_are_allowed_end_the_connection() {
    let open = Arc::default();
    let (backend, mut running) = running(&open).await;
    let head = |n: u32| encode(HEADERS, 5, 2 * n + 1, &literal(GET));
    flood(
        &mut running,
        "streams",
        vec![],
        head,
        "too many HEADERS frames",
    )
    .await;
    assert!(backend.connections() <= 129, "{}", backend.connections());
    nothing_is_left(&open).await;
}

#[tokio::test]
async fn streams_that_there_is_no_memory_for_end_the_connection_in_the_end() {
    let open = Arc::default();
    let backend = slow(&open).run().await;
    let mut running = Proxy::to(&backend)
        .server("workers = 1")
        .limits("connection_memory = 65536\nheader_count = 1000")
        .run()
        .await;
    // A field of the static table, named by one byte, many times (row 20).
    let bomb = [
        &[0x82, 0x87, 0x04, 5][..],
        b"/slow\x01\x09localhost",
        &[0x90; 100],
    ];
    let bomb = bomb.concat();
    let (cpu_before, memory_before) = (cpu(running.pid()), resident(running.pid()));
    let mut frames = Frames::begin(running.tls(&["h2"]).await).await;
    // Not all of the first fit, and then none does.
    for stream in (1..19).step_by(2) {
        frames.send(HEADERS, 5, stream, &bomb).await;
    }
    let began = Instant::now();
    let (mut refused, mut stream) = (0, 19);
    frames.send(HEADERS, 5, stream, &bomb).await;
    while let Some(frame) = frames.next().await {
        if (frame.kind, frame.stream) == (RST_STREAM, stream) {
            refused += 1;
            stream += 2;
            frames.write(&encode(HEADERS, 5, stream, &bomb)).await;
        }
    }
    // Well before the 500 heads that others may send. Time gives back three or four a second.
    let earned = 4 * (began.elapsed().as_secs() + 1);
    assert!((120..=140 + earned).contains(&refused), "{refused}");
    let goaway = frames.seen().iter().find(|frame| frame.kind == GOAWAY);
    assert_eq!(code(goaway.unwrap()), CALM);
    running
        .wait_for_stderr(|text| text.contains("too many HEADERS frames"))
        .await;
    assert!(backend.connections() <= 4, "{}", backend.connections());
    let spent = cpu(running.pid()) - cpu_before;
    assert!(spent <= MOST_CPU, "{spent:?} of CPU");
    let grown = resident(running.pid()).saturating_sub(memory_before);
    assert!(grown <= MOST_MEMORY, "{grown} KiB more");
    nothing_is_left(&open).await;
}

/// The backend is left alone by requests whose client is gone; the other client's connection may be kept.
async fn nothing_is_left(open: &AtomicUsize) {
    within("the backend's work is cancelled", async {
        while open.load(Ordering::SeqCst) > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_is_served_may_send_as_many_frames_as_it_needs() {
    let backend = Backend::answering(|request| match request.start() {
        "GET /large HTTP/1.1" => ok(&vec![b'x'; 4 << 20]),
        _ => ok(b"served"),
    })
    .run()
    .await;
    let running = Proxy::to(&backend).server("workers = 1").run().await;
    let mut frames = Frames::begin(running.tls(&["h2"]).await).await;
    // Far more resets and priorities than a flood may have, but each after an answer.
    for number in 0..1000 {
        let stream = 2 * number + 1;
        frames.send(PRIORITY, 0, stream, &[0, 0, 0, 0, 9]).await;
        frames.get_whole(stream, "/").await;
    }
    // Windows are opened for every frame of a download, twice: thousands of them.
    let stream = 2001;
    for _ in 0..20 {
        let stream = stream + 2 * frames.seen().len() as u32;
        frames.get(stream, "/large").await;
        loop {
            let frame = frames.wait_for(DATA, stream).await;
            if frame.ends_stream() {
                break;
            }
            let length = (frame.payload.len() as u32).to_be_bytes();
            for updated in [0, stream] {
                frames.send(WINDOW_UPDATE, 0, updated, &length).await;
            }
        }
    }
    assert!(!frames.seen().iter().any(|frame| frame.kind == GOAWAY));
}
