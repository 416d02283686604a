//! What an HTTP/2 client may make us do without being served (attacks.md rows 17 to 19 and 22).
//!
//! Every frame that makes work without carrying content costs points; answers and their content earn
//! them, since they come with frames of their own: window updates, priorities, the resets of a client
//! that changes its mind. So does time, a little. A client that has spent its points floods, and its
//! connection ends. `h2` bounds header blocks, empty DATA frames and resets before a request is taken
//! up, and nothing else.
//!
//! Bytes in, verdict out: neither waits nor owns a socket.

use std::cell::Cell;
use std::fmt;

use tokio::time::Instant;

/// Points that a client begins with, and never has more of, for each stream that it may have: it may open
/// all of them and take them all back at once.
const PER_STREAM: i64 = 14;
/// And for the connection. With 128 streams that makes 2000: a thousand PINGs, or two hundred resets.
const PER_CONNECTION: i64 = 208;
/// Points that a stream costs that is refused for want of memory, as much as one that its client takes back.
const PER_REFUSAL: i64 = 10;
/// Points that come back every second.
const PER_SECOND: f64 = 50.0;
/// Points that an answer earns: more than its request's head, its reset and a few priorities cost.
const PER_ANSWER: i64 = 16;
/// Points that a piece of an answer's content earns, and one more for so many bytes of it: clients open two
/// windows for each frame, some for every few kilobytes.
const PER_PIECE: i64 = 4;
const BYTES_PER_POINT: usize = 1024;
/// Payload of a frame that means nothing to us, in bytes for a point.
const UNKNOWN_BYTES_PER_POINT: u32 = 256;

/// The connection preface (RFC 9113 section 3.4), which comes before the first frame.
const PREFACE: u32 = 24;
const HEAD: usize = 9;
const ACK: u8 = 1;

/// The points of one connection.
#[derive(Debug)]
pub struct Allowance {
    points: Cell<i64>,
    most: i64,
    /// When time last gave points.
    since: Cell<Instant>,
}

/// The kind of frame that a client has sent too many of: the one that cost the last point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flood(u8);

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0 {
            1 => "HEADERS",
            2 => "PRIORITY",
            3 => "RST_STREAM",
            4 => "SETTINGS",
            5 => "PUSH_PROMISE",
            6 => "PING",
            7 => "GOAWAY",
            8 => "WINDOW_UPDATE",
            9 => "CONTINUATION",
            _ => "unknown",
        };
        write!(f, "too many {kind} frames")
    }
}

impl std::error::Error for Flood {}

impl Allowance {
    /// The allowance of a client that may have so many streams at once.
    pub fn new(streams: u32) -> Self {
        let most = PER_CONNECTION + PER_STREAM * i64::from(streams);
        Self {
            points: Cell::new(most),
            most,
            since: Cell::new(Instant::now()),
        }
    }

    /// A request was answered.
    pub fn answered(&self) {
        self.earn(PER_ANSWER);
    }

    /// A stream was refused for want of memory: a client that keeps opening such floods.
    pub fn refused(&self) {
        self.points.set(self.points.get() - PER_REFUSAL);
    }

    /// A piece of an answer's content goes out.
    pub fn carried(&self, bytes: usize) {
        let pieces = i64::try_from(bytes / BYTES_PER_POINT).unwrap_or(self.most);
        self.earn(PER_PIECE + pieces);
    }

    fn earn(&self, points: i64) {
        self.points.set((self.points.get() + points).min(self.most));
    }

    fn spend(&self, frame: Frame) -> Result<(), Flood> {
        self.points.set(self.points.get() - frame.cost());
        if self.points.get() >= 0 {
            return Ok(());
        }
        // The clock is only asked when nothing is left.
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.since.replace(now));
        #[expect(clippy::cast_possible_truncation, reason = "`as` saturates")]
        self.earn((passed.as_secs_f64() * PER_SECOND) as i64);
        if self.points.get() >= 0 {
            Ok(())
        } else {
            Err(Flood(frame.kind))
        }
    }
}

/// The head of a frame (RFC 9113 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Frame {
    fn parse(head: &[u8; HEAD]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *head;
        Self {
            length: u32::from_be_bytes([0, l0, l1, l2]),
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff,
        }
    }

    fn is_ack(self) -> bool {
        self.flags & ACK != 0
    }

    /// What it costs, by the work that it makes.
    fn cost(self) -> i64 {
        match self.kind {
            // Content, held back by windows; h2 counts those that have none, or little.
            0 => 0,
            // A head to be decoded, and a request to be taken up.
            1 => 4,
            // Work that was begun is thrown away, a backend's connection with it.
            3 => 10,
            // Every stream's window may change, and an answer is owed.
            4 if !self.is_ack() => 10,
            6 if !self.is_ack() => 2,
            2 | 4..=9 => 1,
            _ => 1 + i64::from(self.length / UNKNOWN_BYTES_PER_POINT),
        }
    }
}

/// Finds the frames in what a client sends.
#[derive(Debug)]
pub(super) struct Walker {
    /// Bytes to come that are no head.
    skip: u32,
    head: [u8; HEAD],
    have: usize,
    last_stream: u32,
}

impl Walker {
    /// Before the connection preface.
    pub(super) fn new() -> Self {
        Self {
            skip: PREFACE,
            head: [0; HEAD],
            have: 0,
            last_stream: 0,
        }
    }

    /// The highest stream that the client has opened.
    pub(super) fn last_stream(&self) -> u32 {
        self.last_stream
    }

    /// Charges the frames whose heads end in `bytes`, which follow what came before.
    pub(super) fn pass(&mut self, mut bytes: &[u8], allowance: &Allowance) -> Result<(), Flood> {
        loop {
            let skipped = bytes.len().min(self.skip as usize);
            self.skip -= u32::try_from(skipped).unwrap_or(self.skip);
            bytes = bytes.get(skipped..).unwrap_or(b"");
            if bytes.is_empty() {
                return Ok(());
            }
            let Some(rest) = self.take_head(bytes) else {
                return Ok(());
            };
            bytes = rest;
            let frame = Frame::parse(&self.head);
            self.have = 0;
            self.skip = frame.length;
            if frame.kind == 1 {
                self.last_stream = self.last_stream.max(frame.stream);
            }
            allowance.spend(frame)?;
        }
    }

    /// Fills the head; what follows it, once it is whole.
    fn take_head<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let missing = self.head.get_mut(self.have..)?;
        let n = missing.len().min(bytes.len());
        let (taken, rest) = bytes.split_at_checked(n)?;
        missing.get_mut(..n)?.copy_from_slice(taken);
        self.have += n;
        (self.have == HEAD).then_some(rest)
    }
}

/// The GOAWAY that ends a flood: ENHANCE_YOUR_CALM, with the kind of frame in words (RFC 9113 section 6.8).
pub(super) fn goaway(flood: Flood, last_stream: u32) -> Vec<u8> {
    const GOAWAY: u8 = 7;
    const ENHANCE_YOUR_CALM: u32 = 0xb;
    let words = flood.to_string();
    let length = u32::try_from(8 + words.len()).unwrap_or(8);
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([GOAWAY, 0, 0, 0, 0, 0]);
    frame.extend(last_stream.to_be_bytes());
    frame.extend(ENHANCE_YOUR_CALM.to_be_bytes());
    frame.extend(words.bytes());
    frame
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const MOST: i64 = 2000;

    fn frame(kind: u8, flags: u8, stream: u32, length: u32) -> Vec<u8> {
        let mut bytes = length.to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(vec![0xff; length as usize]);
        bytes
    }

    /// How many frames of a kind pass before the flood is called one.
    fn passed(kind: u8, flags: u8, length: u32) -> usize {
        let allowance = Allowance::new(128);
        let mut walker = Walker::new();
        walker.pass(&[0; PREFACE as usize], &allowance).unwrap();
        let bytes = frame(kind, flags, 1, length);
        (0..100_000)
            .take_while(|_| walker.pass(&bytes, &allowance).is_ok())
            .count()
    }

    #[tokio::test(start_paused = true)]
    async fn floods_end_within_a_bound_of_frames() {
        for (name, kind, flags, length, most) in [
            ("HEADERS", 1, 5, 20, 500),
            ("PRIORITY", 2, 0, 5, 2000),
            ("RST_STREAM", 3, 0, 4, 200),
            ("SETTINGS", 4, 0, 6, 200),
            ("SETTINGS that acknowledge", 4, 1, 0, 2000),
            ("PING", 6, 0, 8, 1000),
            ("PING that answers", 6, 1, 8, 2000),
            ("WINDOW_UPDATE", 8, 0, 4, 2000),
            ("CONTINUATION", 9, 0, 0, 2000),
            ("unknown, empty", 0xbb, 0, 0, 2000),
            ("unknown, large", 0xbb, 0, 16384, 30),
        ] {
            assert_eq!(passed(kind, flags, length), most, "{name}");
        }
        assert_eq!(passed(0, 0, 1), 100_000, "DATA is not counted here");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_client_is_served_pays_for_its_frames() {
        let allowance = Allowance::new(128);
        let mut walker = Walker::new();
        walker.skip = 0;
        let update = frame(8, 0, 1, 4);
        let request = [frame(1, 5, 1, 20), frame(2, 0, 1, 5), frame(3, 0, 1, 4)].concat();
        for _ in 0..10_000 {
            // A request that is answered, with a priority and a reset in the end.
            walker.pass(&request, &allowance).unwrap();
            allowance.answered();
            // Two windows are opened for each piece of its content, however small.
            walker.pass(&update.repeat(2), &allowance).unwrap();
            allowance.carried(1);
            // And many for a large one, read by a few kilobytes.
            walker.pass(&update.repeat(64), &allowance).unwrap();
            allowance.carried(128 * 1024);
        }
        assert_eq!(allowance.points.get(), MOST, "nothing is saved up");
    }

    #[tokio::test(start_paused = true)]
    async fn time_pays_for_a_few_frames() {
        let allowance = Allowance::new(128);
        let mut walker = Walker::new();
        walker.skip = 0;
        let ping = frame(6, 0, 0, 8);
        for _ in 0..3000 {
            walker.pass(&ping, &allowance).unwrap();
            tokio::time::advance(Duration::from_millis(40)).await;
        }
        let flood = (0..5000).find_map(|_| walker.pass(&ping, &allowance).err());
        assert_eq!(flood.unwrap().to_string(), "too many PING frames");
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_are_refused_cost_more_than_their_heads() {
        let allowance = Allowance::new(128);
        let mut walker = Walker::new();
        walker.skip = 0;
        let head = frame(1, 5, 1, 20);
        let refused = (0..1000).take_while(|_| {
            let passed = walker.pass(&head, &allowance).is_ok();
            allowance.refused();
            passed
        });
        assert_eq!(refused.count(), 143);
    }

    #[test]
    fn a_flood_is_answered_by_a_goaway_that_says_why() {
        let bytes = goaway(Flood(6), 7);
        assert_eq!(bytes[..9], [0, 0, 28, 7, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[9..17], [0, 0, 0, 7, 0, 0, 0, 0xb]);
        assert_eq!(&bytes[17..], b"too many PING frames");
    }

    #[tokio::test(start_paused = true)]
    async fn all_streams_may_be_opened_and_taken_back_at_once() {
        for streams in [1, 128, 1024] {
            let allowance = Allowance::new(streams);
            let mut walker = Walker::new();
            walker.skip = 0;
            for stream in 0..streams {
                let bytes = [frame(1, 5, stream, 20), frame(3, 0, stream, 4)].concat();
                walker.pass(&bytes, &allowance).unwrap();
            }
        }
    }

    proptest! {
        #[test]
        fn frames_are_found_wherever_the_reads_break(
            frames in vec((0_u8..12, any::<u8>(), 0_u32..100, 0_u32..600), 0..40),
            reads in vec(1_usize..64, 1..40),
        ) {
            let mut bytes = vec![0; PREFACE as usize];
            let mut cost = 0;
            let mut last = 0;
            for (kind, flags, stream, length) in frames {
                bytes.extend(frame(kind, flags, stream, length));
                cost += Frame { length, kind, flags, stream }.cost();
                last = last.max(if kind == 1 { stream } else { 0 });
            }
            let allowance = Allowance::new(128);
            let mut walker = Walker::new();
            let mut rest = bytes.as_slice();
            for read in reads.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*read).min(rest.len()));
                walker.pass(now, &allowance).unwrap();
                rest = later;
            }
            prop_assert_eq!(allowance.points.get(), MOST - cost);
            prop_assert_eq!(walker.last_stream(), last);
        }
    }
}
