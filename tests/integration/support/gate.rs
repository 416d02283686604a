//! A backend that answers when the test says so: what is in flight meanwhile is in flight for certain.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use super::backend::{Backend, ok};
use super::raw::Raw;
use super::within;

/// A backend behind a gate.
pub(crate) struct Gate {
    /// Where the proxy is to send requests.
    pub(crate) backend: Backend,
    asked: mpsc::UnboundedReceiver<()>,
    open: Arc<Semaphore>,
}

impl Gate {
    /// A backend whose gate is closed.
    pub(crate) async fn new() -> Self {
        let (tell, asked) = mpsc::unbounded_channel();
        let open = Arc::new(Semaphore::new(0));
        let gate = Arc::clone(&open);
        let backend = Backend::raw(move |stream, _| {
            let (tell, gate) = (tell.clone(), Arc::clone(&gate));
            async move {
                let mut stream = Raw::over(stream);
                while stream.read_request_unhurried().await.is_some() {
                    // A test that has ended waits for nothing.
                    let _ = tell.send(());
                    gate.acquire().await.unwrap().forget();
                    let _ = stream.try_write(ok(b"at last")).await;
                }
            }
        })
        .run()
        .await;
        Self {
            backend,
            asked,
            open,
        }
    }

    /// Waits until a request has come.
    pub(crate) async fn asked(&mut self) {
        within("the backend is asked", self.asked.recv()).await;
    }

    /// Lets one answer out.
    pub(crate) fn open(&self) {
        self.open.add_permits(1);
    }
}
