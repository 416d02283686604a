//! Panics: a defect of ours. Each ends the one connection that it happened in, since the runtime catches
//! what a task throws (attacks.md row 69); it is counted, and told where everything else is told.

use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering};

static COUNT: AtomicU64 = AtomicU64::new(0);

/// From now on panics are counted, and told in the process's log.
pub fn watch() {
    std::panic::set_hook(Box::new(tell));
}

/// How many there were.
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

fn tell(panic: &PanicHookInfo<'_>) {
    let count = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    let message = panic.payload_as_str().unwrap_or("no message");
    let place = panic.location().map(ToString::to_string);
    let place = place.as_deref().unwrap_or("an unknown place");
    tracing::error!(target: "lockgate::panic", count, place, message,
        "a defect of lockgate ended a connection; please report it");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "as the workers do, which are not needed here"
    )]
    fn a_panic_ends_its_task_only_and_is_counted() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build_local(tokio::runtime::LocalOptions::default())
            .unwrap();
        let before = std::panic::take_hook();
        watch();
        let (first, second) = runtime.block_on(async {
            let first = tokio::task::spawn_local(async { panic!("on purpose") });
            let second = tokio::task::spawn_local(async { 7 });
            (first.await, second.await)
        });
        std::panic::set_hook(before);
        assert!(first.unwrap_err().is_panic());
        assert_eq!(second.unwrap(), 7);
        assert!(count() >= 1);
    }
}
