//! A body that is compressed as it streams through.
//!
//! It drives the codecs itself, so that it decides when to flush: whatever the client could be waiting
//! for goes out before the body waits for more. A small body that is at hand becomes one frame. An
//! encoder is taken at the first byte and given back with the last; gzip's, some hundred KiB each, are
//! reused.
//!
//! Whether to compress is `negotiate`'s.

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_compression::Level;
use async_compression::brotli::EncoderParams;
use async_compression::codecs::{BrotliEncoder, EncodeV2, ZstdEncoder};
use async_compression::core::util::{PartialBuffer, WriteBuffer};
use async_compression::zstd::CParameter;
use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::memory::{zstd_tables, zstd_window};
use crate::config::plan::{Algorithm, CompressionSettings};

/// A body of known length up to this many bytes is compressed in one go, into one frame if all is at hand.
const SMALL: u64 = 64 * 1024;

/// How much of any other body is compressed before other tasks get their turn: below a millisecond.
const TURN: usize = 32 * 1024;

/// How much output of such a body makes a frame.
const FRAME: usize = 16 * 1024;

/// The least room that an encoder is given to write to.
const ROOM: usize = 4 * 1024;

/// Brotli's window, as a power of two: as much as pays for dynamic content. A stream's memory grows with
/// it (attacks.md row 62); below 17, qualities from 5 on take several times as long.
const BROTLI_WINDOW: i32 = 17;

/// The most that Brotli is told of a body's length: above, it takes another 4 MiB of tables and as much time,
/// for a hundredth of the output.
const BROTLI_HINT: usize = (1 << 20) - 1;

/// zstd's level, which is its own default.
const ZSTD_LEVEL: u8 = 3;

/// How many gzip encoders a thread keeps for its next responses.
const IDLE_ENCODERS: usize = 8;

thread_local! {
    static IDLE: RefCell<Vec<(u8, Compress)>> = const { RefCell::new(Vec::new()) };
}

/// What polling a compressed body gives.
type Given<E> = Poll<Option<Result<Frame<Bytes>, CompressedBodyError<E>>>>;

/// The compressed form of another body.
#[derive(Debug)]
pub struct CompressedBody<B> {
    body: B,
    coding: Coding,
    encoder: Option<Encoder>,
    stage: Stage,
    /// Input that did not fit into its turn.
    rest: Bytes,
    output: Vec<u8>,
    /// Input taken in this turn.
    taken: usize,
}

/// How far a body has come.
#[derive(Debug)]
enum Stage {
    Streaming,
    /// All content was given out; these are left.
    Trailers(HeaderMap),
    Over,
}

/// Whether a body of this length is compressed in one go, if all of it is at hand: nothing is held then.
pub fn is_small(length: Option<u64>) -> bool {
    length.is_some_and(|length| length <= SMALL)
}

impl<B> CompressedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Compresses a body by the listener's settings; its exact length, if it knows one, is made use of.
    pub fn new(body: B, algorithm: Algorithm, settings: &CompressionSettings) -> Self {
        let level = match algorithm {
            Algorithm::Brotli => settings.brotli_quality,
            Algorithm::Gzip => settings.gzip_level,
            Algorithm::Zstd => ZSTD_LEVEL,
        };
        let coding = Coding {
            algorithm,
            level,
            length: body.size_hint().exact(),
        };
        Self {
            body,
            coding,
            encoder: None,
            stage: Stage::Streaming,
            rest: Bytes::new(),
            output: Vec::new(),
            taken: 0,
        }
    }

    /// Whether its encoder is done with, and gone.
    pub fn is_encoded(&self) -> bool {
        !matches!(self.stage, Stage::Streaming)
    }

    /// Compresses the next frames until there is one to give out.
    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Given<B::Error> {
        let small = self.coding.is_small();
        loop {
            if !small && self.taken >= TURN {
                self.taken = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.poll_input(cx) {
                Poll::Ready(Some(Ok(input))) => {
                    self.encode(&input, Operation::Continue)?;
                    if self.rest.is_empty() && self.body.is_end_stream() {
                        return self.finish(Stage::Over);
                    }
                    if !small && self.output.len() >= FRAME {
                        return self.give();
                    }
                }
                Poll::Ready(None) => return self.finish(Stage::Over),
                Poll::Ready(Some(Err(Interruption::Trailers(trailers)))) => {
                    return self.finish(Stage::Trailers(trailers));
                }
                Poll::Ready(Some(Err(Interruption::Failure(error)))) => {
                    self.stage = Stage::Over;
                    self.encoder = None;
                    return Poll::Ready(Some(Err(CompressedBodyError::Body(error))));
                }
                Poll::Pending => {
                    self.taken = 0;
                    if self.encoder.is_some() {
                        self.encode(&[], Operation::Flush)?;
                    }
                    return if self.output.is_empty() {
                        Poll::Pending
                    } else {
                        self.give()
                    };
                }
            }
        }
    }

    /// The next piece of content, cut to what is left of the turn.
    fn poll_input(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Interruption<B::Error>>>> {
        if self.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(Interruption::Failure(error)))),
                None => return Poll::Ready(None),
            };
            self.rest = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return Poll::Ready(Some(Err(Interruption::Trailers(trailers))));
                }
            };
        }
        let share = if self.coding.is_small() {
            self.rest.len()
        } else {
            TURN - self.taken
        };
        let input = self.rest.split_to(share.min(self.rest.len()));
        self.taken += input.len();
        Poll::Ready(Some(Ok(input)))
    }

    fn encode(
        &mut self,
        input: &[u8],
        operation: Operation,
    ) -> Result<(), CompressedBodyError<B::Error>> {
        if self.output.capacity() == 0 {
            self.output.reserve(self.coding.room());
        }
        let encoder = self
            .encoder
            .get_or_insert_with(|| Encoder::new(self.coding));
        let result = encoder.encode(input, operation, &mut self.output);
        result.map_err(|EncoderFailed| {
            self.stage = Stage::Over;
            CompressedBodyError::Encoder
        })
    }

    /// Ends the compressed content; the encoder goes back at once.
    fn finish(&mut self, next: Stage) -> Given<B::Error> {
        self.encode(&[], Operation::Finish)?;
        self.encoder = None;
        self.stage = next;
        self.give()
    }

    fn give(&mut self) -> Given<B::Error> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(std::mem::take(
            &mut self.output,
        ))))))
    }
}

impl<B> Body for CompressedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = CompressedBodyError<B::Error>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.stage {
            Stage::Streaming => self.poll_stream(cx),
            Stage::Trailers(trailers) => {
                let trailers = std::mem::take(trailers);
                self.stage = Stage::Over;
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Stage::Over => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    fn size_hint(&self) -> SizeHint {
        match self.stage {
            Stage::Streaming => SizeHint::default(),
            Stage::Trailers(_) | Stage::Over => SizeHint::with_exact(0),
        }
    }
}

/// What came in place of content.
enum Interruption<E> {
    Trailers(HeaderMap),
    Failure(E),
}

/// Why a compressed body broke off.
#[derive(Debug, PartialEq, Eq)]
pub enum CompressedBodyError<E> {
    /// The body that is compressed did.
    Body(E),
    /// The encoder refused its input, which it has no reason to.
    Encoder,
}

impl<E> fmt::Display for CompressedBodyError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body(_) => write!(f, "the response body broke off"),
            Self::Encoder => write!(f, "the response body could not be compressed"),
        }
    }
}

impl<E: Error + 'static> Error for CompressedBodyError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Body(error) => Some(error),
            Self::Encoder => None,
        }
    }
}

/// What an encoder is made by.
#[derive(Clone, Copy, Debug)]
struct Coding {
    algorithm: Algorithm,
    level: u8,
    length: Option<u64>,
}

impl Coding {
    fn is_small(self) -> bool {
        is_small(self.length)
    }

    /// The room that a frame of output is likely to need: text shrinks to less than half.
    fn room(self) -> usize {
        match self.length.map(usize::try_from) {
            Some(Ok(length)) if self.is_small() => length / 2 + 64,
            Some(_) | None => FRAME + ROOM,
        }
    }
}

/// What an encoder does after its input.
#[derive(Clone, Copy, Debug)]
enum Operation {
    /// Waits for more.
    Continue,
    /// Lets out all that it was given.
    Flush,
    /// Ends the content.
    Finish,
}

#[derive(Debug)]
struct EncoderFailed;

#[derive(Debug)]
enum Encoder {
    Brotli(Codec<BrotliEncoder>),
    Gzip(Gzip),
    Zstd(Codec<ZstdEncoder>),
}

impl Encoder {
    fn new(coding: Coding) -> Self {
        match coding.algorithm {
            Algorithm::Brotli => Self::Brotli(Codec::new(brotli(coding))),
            Algorithm::Gzip => Self::Gzip(Gzip::new(coding.level)),
            Algorithm::Zstd => Self::Zstd(Codec::new(zstd(coding))),
        }
    }

    fn encode(
        &mut self,
        input: &[u8],
        operation: Operation,
        output: &mut Vec<u8>,
    ) -> Result<(), EncoderFailed> {
        match self {
            Self::Brotli(brotli) => brotli.encode(input, operation, output),
            Self::Gzip(gzip) => gzip.encode(input, operation, output),
            Self::Zstd(zstd) => zstd.encode(input, operation, output),
        }
    }
}

fn brotli(coding: Coding) -> BrotliEncoder {
    let length = coding
        .length
        .and_then(|length| usize::try_from(length).ok())
        .unwrap_or_default()
        .min(BROTLI_HINT);
    let parameters = EncoderParams::default()
        .quality(Level::Precise(coding.level.into()))
        .window_size(BROTLI_WINDOW)
        .size_hint(length);
    BrotliEncoder::new(parameters)
}

fn zstd(coding: Coding) -> ZstdEncoder {
    let window = zstd_window(coding.length);
    let (hash, chain) = zstd_tables(window);
    let parameters = [
        CParameter::window_log(window),
        CParameter::hash_log(hash),
        CParameter::chain_log(chain),
    ];
    ZstdEncoder::new_with_params(coding.level.into(), &parameters)
}

/// An encoder that its crate has no way to reuse.
#[derive(Debug)]
struct Codec<E> {
    inner: Box<E>,
    flushed: bool,
}

impl<E: EncodeV2> Codec<E> {
    fn new(encoder: E) -> Self {
        Self {
            inner: Box::new(encoder),
            flushed: true,
        }
    }

    fn encode(
        &mut self,
        input: &[u8],
        operation: Operation,
        output: &mut Vec<u8>,
    ) -> Result<(), EncoderFailed> {
        let mut input = PartialBuffer::new(input);
        while !input.unwritten().is_empty() {
            self.flushed = false;
            write(output, |room| self.inner.encode(&mut input, room))?;
        }
        match operation {
            Operation::Continue => {}
            Operation::Flush => {
                while !self.flushed {
                    self.flushed = write(output, |room| self.inner.flush(room))?;
                }
            }
            Operation::Finish => while !write(output, |room| self.inner.finish(room))? {},
        }
        Ok(())
    }
}

/// Lets a codec write behind what is there.
fn write<T>(
    output: &mut Vec<u8>,
    codec: impl FnOnce(&mut WriteBuffer<'_>) -> std::io::Result<T>,
) -> Result<T, EncoderFailed> {
    let length = output.len();
    let room = (output.capacity() - length).max(ROOM);
    output.resize(length + room, 0);
    let (_, behind) = output.split_at_mut_checked(length).ok_or(EncoderFailed)?;
    let mut buffer = WriteBuffer::new_initialized(behind);
    let result = codec(&mut buffer);
    let written = buffer.written_len();
    output.truncate(length + written);
    result.map_err(|_| EncoderFailed)
}

/// The encoder's own level for a level on zlib's scale: the cheapest one whose output is no larger.
///
/// The two scales differ. 16 KiB of JSON records become, in bytes: zlib at 1 to 6: 5055, 4805, 4672, 4530,
/// 4363, 4314; zlib-rs at 1 to 6: 6629, 4756, 4503, 4341, 4253, 4254.
fn effort(level: u8) -> u32 {
    match level {
        0..=2 => 2,
        3 | 4 => 3,
        5 => 4,
        6 => 5,
        7.. => u32::from(level.min(9)),
    }
}

/// A gzip encoder, on loan from the thread.
#[derive(Debug)]
struct Gzip {
    /// There until it is dropped.
    inner: Option<Compress>,
    level: u8,
    flushed: bool,
}

impl Gzip {
    fn new(level: u8) -> Self {
        let idle = IDLE.with_borrow_mut(|idle| {
            let position = idle.iter().rposition(|(own, _)| *own == level)?;
            Some(idle.swap_remove(position).1)
        });
        let inner = match idle {
            Some(mut encoder) => {
                encoder.reset();
                encoder
            }
            None => Compress::new_gzip(Compression::new(effort(level)), 15),
        };
        Self {
            inner: Some(inner),
            level,
            flushed: true,
        }
    }

    fn encode(
        &mut self,
        mut input: &[u8],
        operation: Operation,
        output: &mut Vec<u8>,
    ) -> Result<(), EncoderFailed> {
        let encoder = self.inner.as_mut().ok_or(EncoderFailed)?;
        let flush = match operation {
            Operation::Continue if input.is_empty() => return Ok(()),
            Operation::Flush if input.is_empty() && self.flushed => return Ok(()),
            Operation::Continue => FlushCompress::None,
            Operation::Flush => FlushCompress::Sync,
            Operation::Finish => FlushCompress::Finish,
        };
        self.flushed = matches!(operation, Operation::Flush);
        loop {
            // With much room left after a call, all that it had to write is written.
            output.reserve(ROOM.min(64 + output.len()));
            let before = encoder.total_in();
            let status = encoder
                .compress_vec(input, output, flush)
                .map_err(|_| EncoderFailed)?;
            let taken = usize::try_from(encoder.total_in() - before).map_err(|_| EncoderFailed)?;
            input = input.get(taken..).ok_or(EncoderFailed)?;
            let has_room = output.len() < output.capacity();
            match status {
                Status::StreamEnd => return Ok(()),
                Status::Ok | Status::BufError => {
                    if input.is_empty() && has_room && !matches!(operation, Operation::Finish) {
                        return Ok(());
                    }
                }
            }
        }
    }
}

impl Drop for Gzip {
    fn drop(&mut self) {
        let Some(encoder) = self.inner.take() else {
            return;
        };
        // A thread that is ending keeps none.
        let _ = IDLE.try_with(|idle| {
            let mut idle = idle.borrow_mut();
            if idle.len() < IDLE_ENCODERS {
                idle.push((self.level, encoder));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::{Read, Write};
    use std::num::NonZeroU64;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use async_compression::codecs::{BrotliDecoder, DecodeV2, ZstdDecoder};
    use flate2::read::MultiGzDecoder;
    use flate2::write::GzDecoder;
    use proptest::prelude::*;

    use super::*;
    use crate::config::plan::UnknownLength;

    const ALL: [Algorithm; 3] = [Algorithm::Brotli, Algorithm::Gzip, Algorithm::Zstd];

    /// What a scripted body does when it is polled.
    enum Step {
        Data(Vec<u8>),
        Trailers(HeaderMap),
        Wait,
        Fail,
    }

    struct Script {
        steps: VecDeque<Step>,
        length: Option<u64>,
    }

    impl Body for Script {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            match self.steps.pop_front() {
                Some(Step::Data(data)) => Poll::Ready(Some(Ok(Frame::data(data.into())))),
                Some(Step::Trailers(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Some(Step::Wait) => Poll::Pending,
                Some(Step::Fail) => Poll::Ready(Some(Err("cut"))),
                None => Poll::Ready(None),
            }
        }

        fn size_hint(&self) -> SizeHint {
            self.length
                .map_or_else(SizeHint::default, SizeHint::with_exact)
        }
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn settings() -> CompressionSettings {
        CompressionSettings {
            algorithms: ALL.to_vec(),
            min_length: NonZeroU64::MIN,
            gzip_level: 4,
            brotli_quality: 4,
            brotli_exclude_types: Vec::new(),
            unknown_length: UnknownLength::Compress,
        }
    }

    fn compressed(
        algorithm: Algorithm,
        steps: Vec<Step>,
        length: Option<u64>,
    ) -> CompressedBody<Script> {
        CompressedBody::new(
            Script {
                steps: steps.into(),
                length,
            },
            algorithm,
            &settings(),
        )
    }

    /// What polling gave.
    #[derive(Debug, PartialEq)]
    enum Event {
        Data(Bytes),
        Trailers(HeaderMap),
        Pending,
        Error(CompressedBodyError<&'static str>),
    }

    fn events(body: &mut CompressedBody<Script>) -> Vec<Event> {
        let mut events = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            match Pin::new(&mut *body).poll_frame(&mut cx) {
                Poll::Ready(None) => return events,
                Poll::Ready(Some(Err(error))) => events.push(Event::Error(error)),
                Poll::Pending => events.push(Event::Pending),
                Poll::Ready(Some(Ok(frame))) => events.push(match frame.into_data() {
                    Ok(data) => Event::Data(data),
                    Err(frame) => Event::Trailers(frame.into_trailers().unwrap()),
                }),
            }
        }
    }

    fn data(events: &[Event]) -> Vec<u8> {
        let frames = events.iter().filter_map(|event| match event {
            Event::Data(data) => {
                assert!(!data.is_empty());
                Some(data.as_ref())
            }
            Event::Trailers(_) | Event::Pending | Event::Error(_) => None,
        });
        frames.collect::<Vec<_>>().concat()
    }

    fn decode(algorithm: Algorithm, bytes: &[u8]) -> Vec<u8> {
        match algorithm {
            Algorithm::Gzip => {
                let mut plain = Vec::new();
                MultiGzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
                plain
            }
            Algorithm::Brotli => decode_whole(BrotliDecoder::new(), bytes),
            Algorithm::Zstd => decode_whole(ZstdDecoder::new(), bytes),
        }
    }

    fn decode_whole(mut decoder: impl DecodeV2, bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        let mut input = PartialBuffer::new(bytes);
        let mut ended = false;
        while !ended {
            let before = (plain.len(), input.written_len());
            ended = write(&mut plain, |room| decoder.decode(&mut input, room)).unwrap();
            assert!(
                ended || before != (plain.len(), input.written_len()),
                "the content is cut"
            );
        }
        assert!(input.unwritten().is_empty());
        plain
    }

    /// What a client can read of content that has not ended.
    fn decode_so_far(algorithm: Algorithm, bytes: &[u8]) -> Vec<u8> {
        match algorithm {
            Algorithm::Gzip => {
                let mut decoder = GzDecoder::new(Vec::new());
                decoder.write_all(bytes).unwrap();
                decoder.flush().unwrap();
                decoder.get_ref().clone()
            }
            Algorithm::Brotli => decode_begun(BrotliDecoder::new(), bytes),
            Algorithm::Zstd => decode_begun(ZstdDecoder::new(), bytes),
        }
    }

    fn decode_begun(mut decoder: impl DecodeV2, bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        let mut input = PartialBuffer::new(bytes);
        let mut before = None;
        while before != Some((plain.len(), input.written_len())) {
            before = Some((plain.len(), input.written_len()));
            assert!(!write(&mut plain, |room| decoder.decode(&mut input, room)).unwrap());
        }
        plain
    }

    #[test]
    fn a_client_needs_no_more_memory_than_browsers_allow() {
        // RFC 9659: at most 8 MiB. The frame's header says how much (RFC 8878 section 3.1.1.1.2).
        for (length, most) in [
            (None, 1 << 18),
            (Some(1 << 40), 1 << 18),
            (Some(3000), 1 << 12),
        ] {
            let steps = vec![Step::Data(text(3000)), Step::Wait];
            let mut body = compressed(Algorithm::Zstd, steps, length);
            let mut cx = Context::from_waker(Waker::noop());
            let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut cx) else {
                panic!("it is flushed");
            };
            let frame = frame.into_data().unwrap();
            assert_eq!(frame[..4], [0x28, 0xb5, 0x2f, 0xfd]);
            assert_eq!(frame[4] & 0x20, 0, "a window is named");
            let (exponent, mantissa) = (frame[5] >> 3, u64::from(frame[5] & 7));
            let base = 1_u64 << (10 + exponent);
            assert!(base + base / 8 * mantissa <= most, "{length:?}");
        }
    }

    fn text(length: usize) -> Vec<u8> {
        (0_u32..)
            .flat_map(|n| {
                format!(
                    "{{\"id\":{},\"name\":\"customer {}\"}},",
                    n,
                    n.wrapping_mul(2_654_435_761)
                )
                .into_bytes()
            })
            .take(length)
            .collect()
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn content_comes_back_however_it_is_cut() {
        for algorithm in ALL {
            for plain in [
                text(0),
                text(1),
                text(1025),
                text(65_536),
                text(65_537),
                text(400_000),
                noise(300_000),
            ] {
                for cut in [7_usize, 1000, 8192, 65_536, 1 << 20] {
                    if plain.len() / cut > 20_000 {
                        continue;
                    }
                    for length in [None, Some(plain.len() as u64)] {
                        let steps = plain
                            .chunks(cut)
                            .map(|piece| Step::Data(piece.to_vec()))
                            .collect();
                        let mut body = compressed(algorithm, steps, length);
                        let events = events(&mut body);
                        assert!(body.is_end_stream() && body.encoder.is_none());
                        assert!(
                            decode(algorithm, &data(&events)) == plain,
                            "{algorithm:?} {cut} {}",
                            plain.len()
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_small_body_at_hand_becomes_one_frame() {
        for algorithm in ALL {
            for plain in [text(1025), text(16_384), text(65_536), noise(65_536)] {
                let steps = plain
                    .chunks(16_384)
                    .map(|piece| Step::Data(piece.to_vec()))
                    .collect();
                let events = events(&mut compressed(algorithm, steps, Some(plain.len() as u64)));
                assert_eq!(events.len(), 1, "{algorithm:?} {}", plain.len());
            }
        }
    }

    #[test]
    fn what_was_given_is_out_before_the_body_waits() {
        for algorithm in ALL {
            for piece in [text(10), text(5000), noise(70_000)] {
                let steps = vec![
                    Step::Wait,
                    Step::Data(piece.clone()),
                    Step::Wait,
                    Step::Wait,
                    Step::Data(piece.clone()),
                    Step::Data(piece.clone()),
                    Step::Wait,
                ];
                let mut body = compressed(algorithm, steps, None);
                let mut seen = Vec::new();
                let mut waits = Vec::new();
                let mut cx = Context::from_waker(Waker::noop());
                while !body.body.steps.is_empty() {
                    match Pin::new(&mut body).poll_frame(&mut cx) {
                        Poll::Ready(frame) => {
                            seen.extend(frame.unwrap().unwrap().into_data().unwrap())
                        }
                        Poll::Pending => waits.push(seen.len()),
                    }
                }
                assert_eq!(waits.first(), Some(&0), "nothing is made of nothing");
                assert!(
                    decode_so_far(algorithm, &seen) == piece.repeat(3),
                    "{algorithm:?} {}",
                    piece.len()
                );
                seen.extend(data(&events(&mut body)));
                assert!(decode(algorithm, &seen) == piece.repeat(3));
            }
        }
    }

    #[test]
    fn waiting_twice_flushes_once() {
        for algorithm in ALL {
            let steps = vec![Step::Data(text(2000)), Step::Wait, Step::Wait, Step::Wait];
            let events = events(&mut compressed(algorithm, steps, None));
            let kinds: Vec<_> = events
                .iter()
                .map(|event| matches!(event, Event::Pending))
                .collect();
            assert_eq!(kinds, [false, true, true, false], "{algorithm:?}");
        }
    }

    #[test]
    fn trailers_follow_the_content() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "1".parse().unwrap());
        for algorithm in ALL {
            let steps = vec![Step::Data(text(2000)), Step::Trailers(trailers.clone())];
            let mut body = compressed(algorithm, steps, None);
            let mut events = events(&mut body);
            assert_eq!(events.pop(), Some(Event::Trailers(trailers.clone())));
            assert!(decode(algorithm, &data(&events)) == text(2000));
            assert!(body.is_end_stream());
        }
    }

    #[test]
    fn a_body_that_breaks_off_stays_broken() {
        for algorithm in ALL {
            let steps = vec![Step::Data(text(100_000)), Step::Fail, Step::Data(text(10))];
            let mut body = compressed(algorithm, steps, None);
            let events = events(&mut body);
            assert_eq!(
                events.last(),
                Some(&Event::Error(CompressedBodyError::Body("cut")))
            );
            assert!(decode_so_far(algorithm, &data(&events)).len() < 100_000);
        }
    }

    #[test]
    fn a_large_frame_does_not_hold_up_the_thread() {
        for algorithm in ALL {
            let mut body = compressed(algorithm, vec![Step::Data(vec![b'x'; 1 << 20])], None);
            let wakes = Arc::new(Wakes::default());
            let waker = Waker::from(Arc::clone(&wakes));
            let mut cx = Context::from_waker(&waker);
            let mut pending = 0;
            loop {
                let before = body.rest.len();
                match Pin::new(&mut body).poll_frame(&mut cx) {
                    Poll::Ready(None) => break,
                    Poll::Ready(Some(frame)) => drop(frame.unwrap()),
                    Poll::Pending => pending += 1,
                }
                assert!(before == 0 || before - body.rest.len() <= TURN);
            }
            assert_eq!(pending, (1 << 20) / TURN, "{algorithm:?}");
            assert_eq!(wakes.0.load(Ordering::Relaxed), pending);
        }
    }

    #[test]
    fn gzip_encoders_are_reused_and_few_are_kept() {
        // A thread of its own, since the encoders are the thread's.
        let run = || {
            let steps = || vec![Step::Data(text(3000)), Step::Wait];
            let mut open: Vec<_> = (0..IDLE_ENCODERS + 3)
                .map(|_| compressed(Algorithm::Gzip, steps(), None))
                .collect();
            let mut cx = Context::from_waker(Waker::noop());
            for body in &mut open {
                assert!(Pin::new(body).poll_frame(&mut cx).is_ready());
            }
            assert_eq!(IDLE.with_borrow(Vec::len), 0);
            drop(open);
            assert_eq!(IDLE.with_borrow(Vec::len), IDLE_ENCODERS);

            let first = data(&events(&mut compressed(
                Algorithm::Gzip,
                vec![Step::Data(text(3000))],
                None,
            )));
            assert!(
                decode(Algorithm::Gzip, &first) == text(3000),
                "an abandoned encoder starts afresh"
            );
            assert_eq!(IDLE.with_borrow(Vec::len), IDLE_ENCODERS);

            drop(Gzip::new(9));
            assert!(IDLE.with_borrow(|idle| idle.iter().all(|(level, _)| *level == 4)));
        };
        std::thread::spawn(run).join().unwrap();
    }

    #[test]
    fn every_level_works() {
        let plain = text(20_000);
        for (algorithm, levels) in [(Algorithm::Gzip, 1..=9), (Algorithm::Brotli, 0..=11)] {
            for level in levels {
                let settings = CompressionSettings {
                    gzip_level: level,
                    brotli_quality: level,
                    ..settings()
                };
                let script = Script {
                    steps: vec![Step::Data(plain.clone())].into(),
                    length: None,
                };
                let events = events(&mut CompressedBody::new(script, algorithm, &settings));
                assert!(
                    decode(algorithm, &data(&events)) == plain,
                    "{algorithm:?} {level}"
                );
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_order_of_pieces_and_waits_loses_a_byte(
            pieces in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..3000)), 0..40),
            algorithm in prop::sample::select(&ALL[..]),
        ) {
            let plain = pieces.iter().flatten().flatten().copied().collect::<Vec<u8>>();
            let steps = pieces.into_iter().map(|piece| piece.map_or(Step::Wait, Step::Data)).collect();
            let events = events(&mut compressed(algorithm, steps, None));
            prop_assert!(decode(algorithm, &data(&events)) == plain);
        }
    }
}
