//! What the tests are made of: a backend, the program, a client, and bytes on the wire.

pub(crate) mod backend;
pub(crate) mod client;
pub(crate) mod dns;
pub(crate) mod frames;
pub(crate) mod full;
pub(crate) mod gate;
pub(crate) mod grpc;
pub(crate) mod h2;
pub(crate) mod nginx;
pub(crate) mod pki;
pub(crate) mod program;
pub(crate) mod proxy;
pub(crate) mod raw;

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

/// How long anything may take that is expected to happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Waits for what is expected to happen; `what` says so if it does not.
pub(crate) async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, event).await {
        Ok(value) => value,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}

/// Where a program is that a test needs besides lockgate. `None`: the test has nothing to do.
pub(crate) fn peer(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|directory: PathBuf| directory.join(name))
        .find(|file| file.is_file());
    if found.is_none() {
        assert!(
            std::env::var_os("LOCKGATE_REQUIRE_PEERS").is_none(),
            "{name} is not installed"
        );
        eprintln!("skipped: {name} is not installed");
    }
    found
}

/// The resident memory of a process in KiB (proc(5)).
pub(crate) fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.unwrap().split_whitespace().nth(1);
    number.unwrap().parse().unwrap()
}
