//! Copies of requests for a group that is only to see them (`mirror`, alb.md 6.3): sent in tasks of their
//! own, answers read and thrown away. No request waits for its copy or fails with it.
//!
//! Everything about them is bounded: how many a worker has in flight, how long a body may be, how long one
//! may take, how much of an answer is read. What does not fit is not sent, and the log says how many.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::EXPECT;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tokio::time::timeout;

use super::balance::Preference;
use super::group::Group;
use super::http1::download::AnswerBody;
use super::http1::names::Verbatim;
use super::http1::request::{BackendVersion, BodyFraming};
use super::http1::upload::{CleanTrailers, Expectation};
use super::http2::link::Window;
use super::request_body::RequestBody;
use super::send::{Answer, Outgoing, Trace, send};
use crate::config::rule::InsertHeader;
use crate::pace::Inflow;
use crate::task::Spawn;

/// Copies of one worker that are being made or are in flight.
const MOST_COPIES: usize = 64;
/// The longest body that is copied, in bytes.
pub const LONGEST_BODY: usize = 64 * 1024;
/// How much of an answer is read, in bytes; what has more is cut off.
const LONGEST_ANSWER: usize = 1024 * 1024;

/// The copies of one worker.
#[derive(Debug)]
pub struct Mirrors {
    spawn: Spawn,
    copies: Cell<usize>,
    /// Not sent, since the log was told: for want of room, for their length.
    crowded_out: Cell<u64>,
    too_long: Cell<u64>,
    failed: Cell<u64>,
}

/// Room for one copy.
#[derive(Debug)]
pub struct Room(Rc<Mirrors>);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.copies.set(self.0.copies.get().saturating_sub(1));
    }
}

/// A request that is copied: as it leaves, without its body.
#[derive(Clone, Debug)]
pub struct Original {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub target: Vec<u8>,
    /// The `Host` field.
    pub host: Option<HeaderValue>,
    /// The version of the request line.
    pub version: BackendVersion,
    /// All other fields.
    pub headers: HeaderMap,
    /// Names of headers of identity that are written as they stand.
    pub own_names: Option<Arc<[HeaderName]>>,
    /// What the rule has inserted.
    pub inserted: Vec<InsertHeader>,
    /// Which server of the group it prefers.
    pub preference: Preference,
    /// The listener's request_timeout, which a copy as a whole may take.
    pub timeout: Duration,
}

impl Original {
    /// A request as it is about to leave.
    pub fn of(
        outgoing: &Outgoing<'_>,
        own_names: Option<Arc<[HeaderName]>>,
        preference: Preference,
    ) -> Self {
        Self {
            method: outgoing.method.clone(),
            target: outgoing.target.to_vec(),
            host: outgoing.host.cloned(),
            version: outgoing.version,
            headers: outgoing.headers.clone(),
            own_names,
            inserted: outgoing.verbatim.inserted.to_vec(),
            preference,
            timeout: outgoing.timeout,
        }
    }
}

impl Mirrors {
    /// No copies yet; `spawn` runs a task on this thread.
    pub fn new(spawn: Spawn) -> Rc<Self> {
        Rc::new(Self {
            spawn,
            copies: Cell::new(0),
            crowded_out: Cell::new(0),
            too_long: Cell::new(0),
            failed: Cell::new(0),
        })
    }

    /// Room for another copy, if there is any. `length` is the body's, where it is known.
    pub fn room(self: &Rc<Self>, length: Option<u64>) -> Option<Room> {
        if length.is_some_and(|length| length > LONGEST_BODY as u64) {
            self.too_long();
            return None;
        }
        if self.copies.get() >= MOST_COPIES {
            self.crowded_out.set(self.crowded_out.get() + 1);
            return None;
        }
        self.copies.set(self.copies.get() + 1);
        Some(Room(Rc::clone(self)))
    }

    /// A body turned out to be longer than what is copied.
    pub fn too_long(&self) {
        self.too_long.set(self.too_long.get() + 1);
    }

    /// Says what was not sent since it was last asked.
    pub fn tell(&self) {
        let (crowded_out, too_long) = (self.crowded_out.take(), self.too_long.take());
        let failed = self.failed.take();
        if crowded_out + too_long + failed > 0 {
            tracing::info!(target: "lockgate::mirror", crowded_out, too_long, failed,
                "requests were not mirrored");
        }
    }
}

impl Room {
    /// Sends a copy to `group`, in a task of its own.
    pub fn send(self, original: Original, body: Bytes, group: Rc<Group>) {
        let spawn = self.0.spawn;
        spawn(Box::pin(async move {
            let limit = original.timeout;
            if timeout(limit, carry(original, body, &group)).await != Ok(Outcome::Answered) {
                self.0.failed.set(self.0.failed.get() + 1);
            }
        }));
    }

    /// Its body is too long after all.
    pub fn give_up(self) {
        self.0.too_long();
    }
}

/// What came of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Answered,
    Failed,
}

async fn carry(mut original: Original, body: Bytes, group: &Group) -> Outcome {
    // Its body is here already.
    original.headers.remove(EXPECT);
    let framing = match body.len() {
        0 => BodyFraming::None,
        length => BodyFraming::Length(length as u64),
    };
    let outgoing = Outgoing {
        method: &original.method,
        target: &original.target,
        host: original.host.as_ref(),
        version: original.version,
        headers: &original.headers,
        verbatim: Verbatim {
            own: original.own_names.as_deref().unwrap_or_default(),
            inserted: &original.inserted,
        },
        upgrade: None,
        framing,
        expectation: Expectation::None,
        body_limit: LONGEST_BODY as u64,
        // There are none.
        clean_trailers: CleanTrailers {
            clean: |_, _| {},
            own_names: None,
        },
        timeout: original.timeout,
        window: Window::Wide,
        inflow: Inflow::new(None, None),
        preference: original.preference,
    };
    let mut trace = Trace::begin();
    let answer = send(&outgoing, RequestBody::Whole(body), group, &mut trace).await;
    match answer {
        Ok(Answer::Response(_, body)) => discard(body).await,
        Ok(Answer::Switched(..) | Answer::Reset(_)) => return Outcome::Failed,
        Err(error) => {
            tracing::debug!(target: "lockgate::mirror", group = &*group.shared.name, %error, "a copy failed");
            return Outcome::Failed;
        }
    }
    Outcome::Answered
}

/// Reads an answer, so that its connection can be used again, unless it is too long.
async fn discard(body: AnswerBody) {
    let mut room = LONGEST_ANSWER;
    match body {
        AnswerBody::Whole(_) => {}
        AnswerBody::Streaming(download) => {
            while let Some(Ok(frame)) = poll_fn(|cx| download.borrow_mut().poll_frame(cx)).await {
                room = room.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if room == 0 {
                    return;
                }
            }
        }
        AnswerBody::Http2(mut download) => {
            while let Some(Ok(frame)) = poll_fn(|cx| download.poll_frame(cx)).await {
                room = room.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if room == 0 {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_so_many_copies_and_no_more() {
        let mirrors = Mirrors::new(|_| {});
        let mut rooms: Vec<_> = (0..MOST_COPIES)
            .filter_map(|_| mirrors.room(None))
            .collect();
        assert_eq!(rooms.len(), MOST_COPIES);
        assert!(mirrors.room(Some(0)).is_none());
        assert_eq!(mirrors.crowded_out.get(), 1);
        rooms.pop();
        assert!(mirrors.room(Some(LONGEST_BODY as u64)).is_some());
    }

    #[test]
    fn a_body_that_is_known_to_be_too_long_takes_no_room() {
        let mirrors = Mirrors::new(|_| {});
        assert!(mirrors.room(Some(LONGEST_BODY as u64 + 1)).is_none());
        assert_eq!((mirrors.too_long.get(), mirrors.copies.get()), (1, 0));
    }
}
