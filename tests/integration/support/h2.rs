//! HTTP/2 frames by hand, for requests that no library would send: header blocks of plain literals.

use super::raw::{Io, Raw};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A connection that has begun.
pub(crate) struct H2 {
    raw: Raw,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was answered with this status; 0 stands for one that the static table has not got.
    Answered(u16),
    /// Its stream was reset, for this reason.
    Reset(u32),
    /// The connection was given up, for this reason.
    GoneAway(u32),
    /// The connection was closed without a word.
    Closed,
}

/// A frame as it came.
pub(crate) struct Received {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl H2 {
    /// Begins, on a stream on which HTTP/2 was agreed upon.
    pub(crate) async fn over(stream: impl Io + 'static) -> Self {
        let mut h2 = Self {
            raw: Raw::over(stream),
        };
        h2.raw.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        h2.frame(SETTINGS, 0, 0, b"").await;
        h2
    }

    /// Writes a frame; the program may have left.
    pub(crate) async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        let _ = self.raw.try_write(frame).await;
    }

    /// Writes a request.
    pub(crate) async fn request(&mut self, stream: u32, fields: &[(&str, &str)], body: &[u8]) {
        let block = literals(fields);
        if body.is_empty() {
            self.frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
                .await;
        } else {
            self.frame(HEADERS, END_HEADERS, stream, &block).await;
            self.frame(DATA, END_STREAM, stream, body).await;
        }
    }

    /// The next frame, unless the connection has ended.
    pub(crate) async fn read(&mut self) -> Option<Received> {
        let head = self.raw.try_read_exactly(9).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let payload = self.raw.try_read_exactly(length as usize).await?;
        Some(Received {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
            payload,
        })
    }

    /// Reads until it is known what became of a request.
    pub(crate) async fn outcome(&mut self, stream: u32) -> Outcome {
        while let Some(frame) = self.read().await {
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, b"").await,
                HEADERS if frame.stream == stream => {
                    return Outcome::Answered(status(&frame.payload));
                }
                RST_STREAM if frame.stream == stream => {
                    return Outcome::Reset(code(&frame.payload));
                }
                GOAWAY => return Outcome::GoneAway(code(&frame.payload[4..])),
                _ => {}
            }
        }
        Outcome::Closed
    }
}

fn code(payload: &[u8]) -> u32 {
    u32::from_be_bytes([payload[0], payload[1], payload[2], payload[3]])
}

/// The status of an answer, where it is an indexed field of the static table (RFC 7541 appendix A).
fn status(block: &[u8]) -> u16 {
    // An update of the dynamic table's size may come first.
    let first = block.iter().find(|byte| **byte & 0xe0 != 0x20);
    match first {
        Some(0x88) => 200,
        Some(0x89) => 204,
        Some(0x8a) => 206,
        Some(0x8b) => 304,
        Some(0x8c) => 400,
        Some(0x8d) => 404,
        Some(0x8e) => 500,
        _ => 0,
    }
}

/// A header block of literals that are neither indexed nor compressed (RFC 7541 section 6.2.2).
fn literals(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            let length = u8::try_from(text.len()).unwrap();
            assert!(length < 127, "a length of one byte");
            block.push(length);
            block.extend(text.as_bytes());
        }
    }
    block
}
