//! HTTP/2 by hand: a client that does exactly what a test says, and sees every frame.
//!
//! No windows are opened and nothing is acknowledged but SETTINGS, unless the test does it.

use std::collections::HashMap;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::raw::Io;
use super::within;

/// DATA (RFC 9113 section 6.1)
pub(crate) const DATA: u8 = 0;
/// HEADERS (section 6.2)
pub(crate) const HEADERS: u8 = 1;
/// PRIORITY (section 6.3)
pub(crate) const PRIORITY: u8 = 2;
/// RST_STREAM (section 6.4)
pub(crate) const RST_STREAM: u8 = 3;
/// SETTINGS (section 6.5)
pub(crate) const SETTINGS: u8 = 4;
/// PING (section 6.7)
pub(crate) const PING: u8 = 6;
/// GOAWAY (section 6.8)
pub(crate) const GOAWAY: u8 = 7;
/// WINDOW_UPDATE (section 6.9)
pub(crate) const WINDOW_UPDATE: u8 = 8;
/// CONTINUATION (section 6.10)
pub(crate) const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame as it came.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// Whether the sender has ended the stream with it.
    pub(crate) fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// Whether it begins an answer with `:status: 200` (HPACK's static table, RFC 7541 appendix A).
    pub(crate) fn is_ok(&self) -> bool {
        // A change of the table's size may come first.
        self.kind == HEADERS && self.payload.iter().find(|byte| *byte & 0xe0 != 0x20) == Some(&0x88)
    }
}

/// An HTTP/2 client that speaks in frames.
pub(crate) struct Frames {
    stream: Box<dyn Io>,
    seen: Vec<Frame>,
    /// Bytes that may be sent as DATA: on each stream, and by 0 on the connection.
    room: HashMap<u32, i64>,
}

impl Frames {
    /// Sends the preface and empty SETTINGS over a stream on which h2 was agreed.
    pub(crate) async fn begin(stream: impl Io + 'static) -> Self {
        let mut frames = Self {
            stream: Box::new(stream),
            seen: Vec::new(),
            room: HashMap::from([(0, 65_535)]),
        };
        frames.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        frames.send(SETTINGS, 0, 0, &[]).await;
        frames
    }

    /// Sends a frame.
    pub(crate) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        if kind == DATA {
            *self.room(0) -= payload.len() as i64;
            *self.room(stream) -= payload.len() as i64;
        }
        self.write(&encode(kind, flags, stream, payload)).await;
    }

    /// Sends a GET without a body.
    pub(crate) async fn get(&mut self, stream: u32, path: &str) {
        let mut block = vec![0x82, 0x87, 0x04, u8::try_from(path.len()).unwrap()];
        block.extend(path.as_bytes());
        block.extend([0x01, 9]);
        block.extend(b"localhost");
        self.send(HEADERS, END_STREAM | END_HEADERS, stream, &block)
            .await;
    }

    /// Sends the head of a POST, whose body follows.
    pub(crate) async fn post(&mut self, stream: u32, path: &str) {
        let mut block = vec![0x83, 0x87, 0x04, u8::try_from(path.len()).unwrap()];
        block.extend(path.as_bytes());
        block.extend([0x01, 9]);
        block.extend(b"localhost");
        self.send(HEADERS, END_HEADERS, stream, &block).await;
    }

    /// Asks for a WebSocket (RFC 8441).
    pub(crate) async fn connect(&mut self, stream: u32, path: &str) {
        let block = literal(&[
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "https"),
            (":path", path),
            (":authority", "localhost"),
            ("sec-websocket-version", "13"),
        ]);
        self.send(HEADERS, END_HEADERS, stream, &block).await;
    }

    /// Sends a GET, and reads until its answer has ended.
    pub(crate) async fn get_whole(&mut self, stream: u32, path: &str) {
        self.get(stream, path).await;
        let head = self.wait_for(HEADERS, stream).await;
        assert!(head.is_ok(), "{head:?}");
        let mut last = head;
        while !last.ends_stream() {
            last = self.wait_for(DATA, stream).await;
        }
    }

    /// The next frame, or `None` when the connection has ended. SETTINGS are acknowledged.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let read = async {
            let first = self.stream.read_u8().await.ok()?;
            self.rest(first).await
        };
        let frame = within("a frame comes, or the end", read).await?;
        if frame.kind == SETTINGS && frame.flags & ACK == 0 {
            self.send(SETTINGS, ACK, 0, &[]).await;
        }
        if frame.kind == WINDOW_UPDATE {
            let more = u32::from_be_bytes(frame.payload[..4].try_into().unwrap());
            *self.room(frame.stream) += i64::from(more);
        }
        self.seen.push(frame.clone());
        Some(frame)
    }

    fn room(&mut self, stream: u32) -> &mut i64 {
        // What lockgate says in its SETTINGS.
        self.room.entry(stream).or_insert(256 * 1024)
    }

    /// Reads until so many bytes may be sent on a stream.
    pub(crate) async fn wait_for_room(&mut self, stream: u32, length: i64) {
        while *self.room(0) < length || *self.room(stream) < length {
            self.next().await.expect("the connection ended");
        }
    }

    /// All frames that have been read.
    pub(crate) fn seen(&self) -> &[Frame] {
        &self.seen
    }

    /// Reads until a stream is reset, and says why.
    pub(crate) async fn wait_for_reset(&mut self, stream: u32) -> u32 {
        loop {
            let frame = self.next().await.expect("the connection ended");
            if (frame.kind, frame.stream) == (RST_STREAM, stream) {
                return u32::from_be_bytes(frame.payload[..4].try_into().unwrap());
            }
        }
    }

    /// The next frame of a kind on a stream; others are passed over.
    pub(crate) async fn wait_for(&mut self, kind: u8, stream: u32) -> Frame {
        loop {
            let frame = self.next().await.expect("the connection ended");
            if (frame.kind, frame.stream) == (kind, stream) {
                return frame;
            }
            assert_ne!(
                (frame.kind, frame.stream),
                (RST_STREAM, stream),
                "the stream was reset"
            );
        }
    }

    /// Every frame until the connection ends.
    pub(crate) async fn until_end(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(frame);
        }
        frames
    }

    /// Sends a PING every `pause` and reads what comes, until the connection ends.
    pub(crate) async fn ping_until_end(&mut self, pause: Duration) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            match tokio::time::timeout(pause, self.stream.read_u8()).await {
                // Only the first byte is needed to know that something came; the rest is read whole.
                Ok(Ok(first)) => match self.rest(first).await {
                    Some(frame) => frames.push(frame),
                    None => return frames,
                },
                Ok(Err(_)) => return frames,
                Err(_) => self.send(PING, 0, 0, b"lockgate").await,
            }
        }
    }

    async fn rest(&mut self, first: u8) -> Option<Frame> {
        let mut head = [0; 8];
        self.stream.read_exact(&mut head).await.ok()?;
        let number = |bytes: &[u8]| bytes.iter().fold(0, |n, b| n << 8 | u32::from(*b));
        let length = u32::from(first) << 16 | number(&head[..2]);
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some(Frame {
            kind: head[2],
            flags: head[3],
            stream: number(&head[4..]) & 0x7fff_ffff,
            payload,
        })
    }

    /// Sends bytes. Whether they were taken: the proxy may have closed, and what it said before is still to
    /// be read.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> bool {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        within("the proxy reads, or closes", write).await.is_ok()
    }
}

/// A frame as it is sent.
pub(crate) fn encode(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header block of literals that are neither indexed nor compressed (RFC 7541 section 6.2.2).
pub(crate) fn literal(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}
