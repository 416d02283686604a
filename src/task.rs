//! How a room has a task run: by a function that it is handed. Tasks are spawned by the workers only.

use std::future::Future;
use std::pin::Pin;

/// Runs a task on this thread.
pub type Spawn = fn(Pin<Box<dyn Future<Output = ()>>>);
