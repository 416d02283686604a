//! A piece of an answer on its way to the client, which knows when it is taken.
//!
//! Over HTTP/2 an answer waits for the client's windows where the socket does not show it: pieces are
//! counted from when they are handed to the library until it has written them.

use std::cell::Cell;
use std::io::IoSlice;
use std::rc::Rc;

use bytes::{Buf, Bytes};
use tokio::time::Instant;

use super::http2::StreamPace;

/// What the client of a connection has not made room for.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: Cell<usize>,
    since: Cell<Option<Instant>>,
}

impl Backlog {
    /// Since when there has been something all the time.
    pub fn since(&self) -> Option<Instant> {
        self.since.get()
    }

    fn add(&self, bytes: usize) {
        if self.bytes.replace(self.bytes.get() + bytes) == 0 && bytes > 0 {
            self.since.set(Some(Instant::now()));
        }
    }

    fn remove(&self, bytes: usize) {
        let left = self.bytes.get().saturating_sub(bytes);
        self.bytes.set(left);
        if left == 0 {
            self.since.set(None);
        }
    }
}

/// Whether min_rate applies to an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rated {
    /// It does.
    Yes,
    /// It is gRPC's.
    No,
}

/// A piece of an answer.
#[derive(Debug)]
pub struct Piece {
    bytes: Bytes,
    stream: Option<(Rc<StreamPace>, Rated)>,
}

impl Piece {
    /// A piece that nobody counts.
    pub fn new(bytes: Bytes) -> Self {
        Self {
            bytes,
            stream: None,
        }
    }

    /// A piece of what a stream holds; it counts as long as it is not taken.
    pub fn of(bytes: Bytes, stream: &Rc<StreamPace>, rated: Rated) -> Self {
        if rated == Rated::Yes {
            stream.backlog().add(bytes.len());
        }
        Self {
            bytes,
            stream: Some((Rc::clone(stream), rated)),
        }
    }

    fn taken(&self, count: usize) {
        if let Some((stream, rated)) = &self.stream {
            stream.let_go(count);
            if *rated == Rated::Yes {
                stream.backlog().remove(count);
            }
        }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn chunks_vectored<'a>(&'a self, dst: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(dst)
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.taken(count);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.taken(self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_lasts_from_its_first_byte_to_its_last() {
        let backlog = Backlog::default();
        backlog.add(12);
        let since = backlog.since();
        assert!(since.is_some());
        backlog.add(4);
        backlog.remove(12);
        assert_eq!(backlog.since(), since);
        backlog.remove(4);
        assert_eq!(backlog.since(), None);
        backlog.add(0);
        assert_eq!(backlog.since(), None);
    }
}
