//! How a client connection is closed: at once, or lingering.
//!
//! Closing a socket while the client is still sending resets it, and the reset can overtake the answer
//! that the client has not read yet. So after an answer that came before the request was read whole,
//! the sending half is closed, and what still comes is read and thrown away, for a bounded time.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, timeout, timeout_at};

use super::activity::{Activity, Closing};
use crate::stream::ClientStream;

/// How long the goodbye of a connection may take to be written.
pub const GOODBYE: Duration = Duration::from_secs(5);
/// How long a lingering client may send nothing.
const QUIET: Duration = Duration::from_secs(5);
/// How long a client may go on sending after its answer.
const LINGER: Duration = Duration::from_secs(30);

/// Says goodbye (TLS: close_notify) and closes.
pub async fn close(mut stream: Box<ClientStream>) {
    // It is closed in any case; a client that is gone cannot be told.
    let _ = timeout(GOODBYE, stream.shutdown()).await;
}

/// Says goodbye, waits until the client has stopped sending, and closes.
pub async fn linger(mut stream: Box<ClientStream>, activity: &Activity) {
    stream.transport_mut().half_close_on_shutdown();
    if !matches!(timeout(GOODBYE, stream.shutdown()).await, Ok(Ok(()))) {
        return;
    }
    let end = Instant::now() + LINGER;
    let mut bytes = vec![0; 8 * 1024];
    loop {
        let read = poll_fn(|cx| {
            activity.register(cx);
            if activity.closing() == Closing::Now {
                return Poll::Ready(0);
            }
            let mut read = ReadBuf::new(&mut bytes);
            let result = ready!(Pin::new(&mut stream).poll_read(cx, &mut read));
            Poll::Ready(if result.is_ok() {
                read.filled().len()
            } else {
                0
            })
        });
        let deadline = end.min(Instant::now() + QUIET);
        match timeout_at(deadline, read).await {
            Ok(n) if n > 0 => {}
            Ok(_) | Err(_) => return,
        }
    }
}
