//! No body makes the decoder panic; it gives out no more than came in; arriving in pieces changes nothing.
//!
//! Run with `cargo +nightly fuzz run --fuzz-dir tests/fuzz framing`.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

use lockgate::backend::http1::framing::{Decoded, Decoder, Framing, FramingError};

/// The data, the trailers as text, the bytes left behind, and how the body ended.
type Message = (Vec<u8>, String, Vec<u8>, Result<(), FramingError>);

fn decode<'a>(framing: Framing, pieces: impl Iterator<Item = &'a [u8]>) -> Message {
    let mut decoder = Decoder::new(framing);
    let mut buf = BytesMut::new();
    let (mut data, mut trailers) = (Vec::new(), String::new());
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buf) {
                Ok(Decoded::Data(bytes)) => data.extend_from_slice(&bytes),
                Ok(Decoded::Trailers(fields)) => trailers = format!("{fields:?}"),
                Ok(Decoded::End | Decoded::NeedMore) => break,
                Err(error) => return (data, trailers, Vec::new(), Err(error)),
            }
        }
    }
    let end = decoder.eof();
    (data, trailers, buf.to_vec(), end)
}

fuzz_target!(|input: &[u8]| {
    let [choice, size, input @ ..] = input else {
        return;
    };
    let framing = match choice % 4 {
        0 => Framing::None,
        1 => Framing::Length(u64::from(*size)),
        2 => Framing::UntilClose,
        _ => Framing::Chunked,
    };
    let whole = decode(framing, std::iter::once(input));
    assert!(whole.0.len() + whole.2.len() <= input.len());
    assert_eq!(
        decode(framing, input.chunks(usize::from(*size).max(1))),
        whole
    );
});
