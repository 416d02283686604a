//! What one HTTP/2 connection makes us hold (`connection_memory`): the heads of its requests, the parts
//! of its answers that are not taken yet, and compressors. One account, from which all its streams draw.
//!
//! Only an answer whose client takes nothing waits: it is not read on, and every stream may hold one piece
//! of its answer in any case, so that none waits for another. A head cannot wait, so its stream is refused;
//! an answer whose compressor does not fit gets a smaller one, or goes out uncompressed. A connection may
//! always have one, which takes half of it at most.
//!
//! HTTP/1 has one exchange at a time, whose buffers are made no larger than its share.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

/// The part of `connection_memory` that a client may fill with what it sends: the other parts are this account's.
const RECEIVED: usize = 4;
/// The part of the account from which wide windows are drawn: the rest is for the narrow ones of many streams.
const UNCROWDED: usize = 5;
/// The least and the most that is read at once of an answer.
const LEAST_ROOM: usize = 4 * 1024;
const MOST_ROOM: usize = 128 * 1024;

/// What a client may send ahead, of `connection_memory`.
pub fn receive_share(memory: usize) -> usize {
    memory / RECEIVED
}

/// An account.
#[derive(Debug)]
pub struct Account {
    limit: usize,
    heads: Cell<usize>,
    answers: Cell<usize>,
    compressors: Cell<usize>,
    waiting: RefCell<Vec<Waker>>,
}

impl Account {
    /// For a connection that may make us hold so many bytes.
    pub fn new(memory: usize) -> Self {
        Self {
            limit: memory - receive_share(memory),
            heads: Cell::new(0),
            answers: Cell::new(0),
            compressors: Cell::new(0),
            waiting: RefCell::default(),
        }
    }

    /// What is left.
    fn left(&self) -> usize {
        let used = self.heads.get() + self.answers.get() + self.compressors.get();
        self.limit.saturating_sub(used)
    }

    /// Draws a head, if there is room for it.
    pub fn draw_head(&self, bytes: usize) -> bool {
        let fits = bytes <= self.left();
        if fits {
            self.heads.set(self.heads.get() + bytes);
        }
        fits
    }

    /// Draws what may be sent ahead of a client that takes nothing: `wide`, as long as nearly all is left, else
    /// `narrow`, if there is room for that. What was drawn.
    pub fn draw_window(&self, wide: usize, narrow: usize) -> Option<usize> {
        let window = if self.left() >= wide + self.limit - self.limit / UNCROWDED {
            wide
        } else {
            narrow
        };
        (window <= self.left()).then(|| {
            self.answers.set(self.answers.get() + window);
            window
        })
    }

    /// Gives a head back.
    pub fn return_head(&self, bytes: usize) {
        give_back(&self.heads, bytes);
        self.wake();
    }

    /// How much may be read at once of an answer that shares the connection with others.
    pub fn room(&self, exchanges: usize) -> usize {
        (self.left() / exchanges.max(1)).clamp(LEAST_ROOM, MOST_ROOM)
    }

    /// Ready once more of an answer may be read, of which `held` bytes wait for the client.
    pub fn poll_room(&self, held: usize, cx: &mut Context<'_>) -> Poll<()> {
        if held == 0 || self.left() >= LEAST_ROOM {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Draws a part of an answer.
    pub fn draw_answer(&self, bytes: usize) {
        self.answers.set(self.answers.get() + bytes);
    }

    /// Gives a part of an answer back: the client has taken it.
    pub fn return_answer(&self, bytes: usize) {
        give_back(&self.answers, bytes);
        self.wake();
    }

    /// Draws a compressor, if there is room for it or no other. What is to be given back for it.
    pub fn draw_compressor(&self, bytes: usize) -> Option<usize> {
        let others = self.compressors.get();
        let charge = match others {
            0 => bytes.min(self.limit / 2),
            _ if bytes <= self.left() => bytes,
            _ => return None,
        };
        self.compressors.set(others + charge);
        Some(charge)
    }

    /// Gives a compressor back.
    pub fn return_compressor(&self, bytes: usize) {
        give_back(&self.compressors, bytes);
        self.wake();
    }

    fn wake(&self) {
        if !self.waiting.borrow().is_empty() {
            for waker in self.waiting.take() {
                waker.wake();
            }
        }
    }
}

fn give_back(drawn: &Cell<usize>, bytes: usize) {
    drawn.set(drawn.get().saturating_sub(bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 768 * 1024;

    fn account() -> Account {
        Account::new(1024 * 1024)
    }

    fn context() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[test]
    fn heads_are_drawn_to_the_last_byte_and_given_back() {
        let account = account();
        assert!(account.draw_head(LIMIT - 10));
        assert!(account.draw_head(10));
        assert!(!account.draw_head(1));
        account.return_head(10);
        assert!(account.draw_head(10));
    }

    #[test]
    fn an_answer_waits_once_all_is_drawn_unless_it_holds_nothing() {
        let account = account();
        account.draw_answer(LIMIT - LEAST_ROOM);
        assert!(account.poll_room(1, &mut context()).is_ready());
        account.draw_answer(1);
        assert!(account.poll_room(1, &mut context()).is_pending());
        assert!(account.poll_room(0, &mut context()).is_ready());
        account.return_answer(1);
        assert!(account.poll_room(1, &mut context()).is_ready());
    }

    #[test]
    fn two_windows_are_wide_and_then_all_streams_have_a_narrow_one() {
        const WIDE: usize = 64 * 1024;
        const NARROW: usize = 4 * 1024;
        let account = account();
        let drawn: Vec<_> = (0..128)
            .map(|_| {
                assert!(account.draw_head(700));
                account.draw_window(WIDE, NARROW)
            })
            .collect();
        assert!(drawn.iter().all(Option::is_some));
        let wide = drawn.iter().filter(|window| **window == Some(WIDE)).count();
        assert_eq!(wide, 2);
        account.draw_answer(account.left());
        assert_eq!(account.draw_window(WIDE, NARROW), None);
        account.return_answer(NARROW);
        assert_eq!(account.draw_window(WIDE, NARROW), Some(NARROW));
    }

    #[test]
    fn what_is_read_at_once_shrinks_with_what_is_left_and_with_company() {
        let account = account();
        assert_eq!(account.room(1), MOST_ROOM);
        assert_eq!(account.room(128), 6 * 1024);
        account.draw_answer(LIMIT);
        assert_eq!(account.room(1), LEAST_ROOM);
    }

    #[test]
    fn there_is_always_one_compressor_and_more_where_they_fit() {
        let account = account();
        // One too large leaves half to the others.
        let first = account.draw_compressor(2 * LIMIT).unwrap();
        assert_eq!(first, LIMIT / 2);
        assert_eq!(account.draw_compressor(LIMIT / 2 + 1), None);
        assert_eq!(account.draw_compressor(LIMIT / 2), Some(LIMIT / 2));
        assert!(!account.draw_head(1));
        assert_eq!(account.draw_compressor(1), None);
        account.return_compressor(LIMIT / 2);
        assert!(account.draw_head(LIMIT / 2));
        account.return_compressor(first);
        // With all given back there is one again, whatever heads and answers hold.
        account.draw_answer(LIMIT);
        assert_eq!(account.draw_compressor(7), Some(7));
    }
}
