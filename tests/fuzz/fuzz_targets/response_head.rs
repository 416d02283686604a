//! No head makes the parser panic; what it accepts is made of whole lines; arriving in pieces changes nothing.
//!
//! Run with `cargo +nightly fuzz run --fuzz-dir tests/fuzz response_head`.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

use lockgate::backend::http1::response::{self, Parsed, RequestKind};

fuzz_target!(|input: &[u8]| {
    let Some((choice, input)) = input.split_first() else {
        return;
    };
    let request = if choice & 1 == 0 {
        RequestKind::Ordinary
    } else {
        RequestKind::Head
    };
    let mut buf = BytesMut::from(input);
    let whole = response::parse(&mut buf, request);
    match &whole {
        Ok(Parsed::Partial) | Err(_) => {}
        Ok(Parsed::Informational(_) | Parsed::SwitchingProtocols(_) | Parsed::Final(_)) => {
            let head = &input[..input.len() - buf.len()];
            assert!(head.ends_with(b"\r\n\r\n"));
            let ends = head.windows(2).filter(|pair| *pair == b"\r\n").count();
            assert_eq!(ends, head.iter().filter(|byte| **byte == b'\n').count());
        }
    }
    let (first, second) = input.split_at(usize::from(*choice).min(input.len()));
    let mut buf = BytesMut::from(first);
    let mut pieces = response::parse(&mut buf, request);
    if let Ok(Parsed::Partial) = pieces {
        buf.extend_from_slice(second);
        pieces = response::parse(&mut buf, request);
    }
    assert_eq!(format!("{pieces:?}"), format!("{whole:?}"));
});
