//! A piece of an answer on its way to the client, which knows when it is taken.
//!
//! Over HTTP/2 an answer waits for the client's windows where the socket does not show it: pieces are
//! counted from when they are handed to the library until it has written them.

use std::cell::Cell;
use std::io::IoSlice;
use std::rc::Rc;

use bytes::{Buf, Bytes};
use tokio::time::Instant;

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

/// A piece of an answer.
#[derive(Debug)]
pub struct Piece {
    bytes: Bytes,
    backlog: Option<Rc<Backlog>>,
}

impl Piece {
    /// A piece that nobody counts.
    pub fn new(bytes: Bytes) -> Self {
        Self {
            bytes,
            backlog: None,
        }
    }

    /// A piece that counts as long as it is not taken.
    pub fn counted(bytes: Bytes, backlog: &Rc<Backlog>) -> Self {
        backlog.add(bytes.len());
        Self {
            bytes,
            backlog: Some(Rc::clone(backlog)),
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
        if let Some(backlog) = &self.backlog {
            backlog.remove(count);
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(backlog) = &self.backlog {
            backlog.remove(self.bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_counts_until_it_is_taken_or_dropped() {
        let backlog = Rc::new(Backlog::default());
        let mut piece = Piece::counted(Bytes::from_static(b"twelve bytes"), &backlog);
        let other = Piece::counted(Bytes::from_static(b"four"), &backlog);
        let since = backlog.since();
        assert!(since.is_some());
        piece.advance(12);
        assert_eq!((backlog.bytes.get(), backlog.since()), (4, since));
        drop(piece);
        drop(other);
        assert_eq!((backlog.bytes.get(), backlog.since()), (0, None));
        drop(Piece::counted(Bytes::new(), &backlog));
        assert_eq!(backlog.since(), None);
    }
}
