//! A tunnel: after both sides have switched protocols, bytes are passed on as they come.
//!
//! Each direction ends by itself (half-close); a tunnel in which no byte moves for `idle` is closed.
//! While it is quiet it holds no buffers: bytes are read into one that the thread lends.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::timer::LazyTimer;

/// Bytes passed on at once.
const CHUNK: usize = 32 * 1024;
/// Chunks passed on in one direction before others get their turn.
const TURN: usize = 8;

thread_local! {
    static LENT: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK]);
}

/// How many bytes a tunnel carried, and how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// From the client.
    pub received: u64,
    /// To the client.
    pub sent: u64,
    /// How it ended.
    pub ending: Ending,
}

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Both directions came to their end.
    Closed,
    /// One of them broke.
    Broken,
    /// No byte moved for too long.
    Idle,
    /// lockgate ended it.
    Cut,
}

/// One direction.
#[derive(Debug)]
struct Direction {
    pending: Bytes,
    state: State,
    carried: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The source has ended: what is pending goes out, then the sink's sending half is closed.
    Ending,
    Ended,
}

/// Runs until both directions have ended. `early` came from each side before the tunnel began; `cut_at`
/// says when lockgate ends it, and sees to it that the task is woken when that changes.
pub async fn run<A, B>(
    client: &mut A,
    backend: &mut B,
    early: (Bytes, Bytes),
    idle: Duration,
    mut cut_at: impl FnMut(&mut Context<'_>) -> Option<Instant>,
) -> Carried
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut up = Direction::new(early.0);
    let mut down = Direction::new(early.1);
    let mut timer = LazyTimer::new();
    let mut last = Instant::now();
    let ending = poll_fn(|cx| {
        let cut = cut_at(cx);
        if cut.is_some_and(|cut| cut <= Instant::now()) {
            return Poll::Ready(Ending::Cut);
        }
        let before = up.carried + down.carried;
        let ended = (up.poll(client, backend, cx), down.poll(backend, client, cx));
        if up.carried + down.carried != before {
            last = Instant::now();
        }
        match ended {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ending::Closed),
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(Ending::Broken),
            (Poll::Pending, _) | (_, Poll::Pending) => {
                let silent = last + idle;
                let (deadline, ending) = match cut {
                    Some(cut) if cut < silent => (cut, Ending::Cut),
                    Some(_) | None => (silent, Ending::Idle),
                };
                timer.poll(deadline, cx).map(|()| ending)
            }
        }
    })
    .await;
    Carried {
        received: up.carried,
        sent: down.carried,
        ending,
    }
}

impl Direction {
    fn new(early: Bytes) -> Self {
        Self {
            pending: early,
            state: State::Open,
            carried: 0,
        }
    }

    fn poll<S, T>(
        &mut self,
        source: &mut S,
        sink: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>>
    where
        S: AsyncRead + Unpin,
        T: AsyncWrite + Unpin,
    {
        for _ in 0..TURN {
            while self.pending.has_remaining() {
                let n = ready!(Pin::new(&mut *sink).poll_write(cx, &self.pending))?;
                if n == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.pending.advance(n);
                self.carried += n as u64;
            }
            // An emptied buffer would still be held while the tunnel is quiet.
            self.pending = Bytes::new();
            match self.state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Ending => {
                    ready!(Pin::new(&mut *sink).poll_shutdown(cx))?;
                    self.state = State::Ended;
                }
                State::Open => match self.pass(source, sink, cx) {
                    Poll::Ready(result) => result?,
                    Poll::Pending => {
                        ready!(Pin::new(&mut *sink).poll_flush(cx))?;
                        return Poll::Pending;
                    }
                },
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once, and writes what the sink takes at once; the rest is kept.
    fn pass<S, T>(
        &mut self,
        source: &mut S,
        sink: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>>
    where
        S: AsyncRead + Unpin,
        T: AsyncWrite + Unpin,
    {
        LENT.with_borrow_mut(|lent| {
            let mut read = ReadBuf::new(lent);
            ready!(Pin::new(source).poll_read(cx, &mut read))?;
            let mut bytes = read.filled();
            if bytes.is_empty() {
                self.state = State::Ending;
                return Poll::Ready(Ok(()));
            }
            while !bytes.is_empty() {
                match Pin::new(&mut *sink).poll_write(cx, bytes)? {
                    Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(n) => {
                        self.carried += n as u64;
                        bytes = bytes.get(n..).unwrap_or(b"");
                    }
                    Poll::Pending => {
                        self.pending = Bytes::copy_from_slice(bytes);
                        break;
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn bytes_pass_both_ways_and_each_direction_ends_by_itself() {
        let (mut user, mut client) = duplex(64);
        let (mut server, mut backend) = duplex(64);
        let early = (
            Bytes::from_static(b"early up,"),
            Bytes::from_static(b"early down,"),
        );
        let tunnel = run(
            &mut client,
            &mut backend,
            early,
            Duration::from_secs(5),
            |_| None,
        );
        let both = async {
            user.write_all(b" from the user, as it goes on")
                .await
                .unwrap();
            user.shutdown().await.unwrap();
            let mut up = String::new();
            server.read_to_string(&mut up).await.unwrap();
            server
                .write_all(b" from the server after the user's end")
                .await
                .unwrap();
            server.shutdown().await.unwrap();
            let mut down = String::new();
            user.read_to_string(&mut down).await.unwrap();
            (up, down)
        };
        let up = async { tokio::join!(tunnel, both) };
        let (carried, (up, down)) = up.await;
        assert_eq!(up, "early up, from the user, as it goes on");
        assert_eq!(down, "early down, from the server after the user's end");
        assert_eq!(carried.ending, Ending::Closed);
        assert_eq!(
            (carried.received, carried.sent),
            (up.len() as u64, down.len() as u64)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_without_bytes_is_closed_after_its_idle_time() {
        let (_user, mut client) = duplex(16);
        let (_server, mut backend) = duplex(16);
        let began = Instant::now();
        let early = (Bytes::new(), Bytes::new());
        let carried = run(
            &mut client,
            &mut backend,
            early,
            Duration::from_secs(60),
            |_| None,
        )
        .await;
        assert_eq!(carried.ending, Ending::Idle);
        assert_eq!(began.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_is_cut_at_its_hour_however_busy_it_is() {
        let (mut user, mut client) = duplex(16);
        let (mut server, mut backend) = duplex(16);
        let began = Instant::now();
        let cut = began + Duration::from_secs(3);
        let early = (Bytes::new(), Bytes::new());
        let idle = Duration::from_secs(2);
        let tunnel = run(&mut client, &mut backend, early, idle, |_| Some(cut));
        let talk = async {
            let mut byte = [0];
            loop {
                user.write_all(b".").await.unwrap();
                server.read_exact(&mut byte).await.unwrap();
                tokio::time::sleep(Duration::from_millis(400)).await;
            }
        };
        let carried = tokio::select! { carried = tunnel => carried, () = talk => unreachable!() };
        assert_eq!(carried.ending, Ending::Cut);
        assert_eq!(began.elapsed().as_secs(), 3);
    }
}
