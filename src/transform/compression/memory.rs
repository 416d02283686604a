//! What compressors hold while their content streams through (attacks.md row 62).

use crate::config::plan::{Algorithm, CompressionSettings};

/// zstd's window, as a power of two: at most Brotli's, and for short content no more than it needs.
const ZSTD_WINDOW: std::ops::RangeInclusive<u32> = 10..=18;

/// zstd's tables, as powers of two: half of what its level has, for the same output in less time.
const ZSTD_HASH: u32 = 16;
const ZSTD_CHAIN: u32 = 15;

/// What gzip's encoder holds: window, tables and a block of symbols, whatever the level.
const GZIP_MEMORY: usize = 372 * 1024;

/// The most bytes that compressing a body of this length, if known, holds between two pieces of it: as counted
/// by an allocator over a megabyte of JSON, and of source text.
pub fn memory(algorithm: Algorithm, settings: &CompressionSettings, length: Option<u64>) -> usize {
    match algorithm {
        Algorithm::Brotli => brotli_memory(settings.brotli_quality),
        Algorithm::Gzip => GZIP_MEMORY,
        Algorithm::Zstd => zstd_memory(zstd_window(length)),
    }
}

/// Tables by quality, and what is not written yet: two windows of input, and commands that copy from it.
fn brotli_memory(quality: u8) -> usize {
    let kibibytes = match quality {
        0 | 1 => 160,
        2 | 3 => 1152,
        4 => 2150,
        5 => 2950,
        6 => 4000,
        7 => 10_240,
        8 => 18_432,
        9 => 35_456,
        10.. => 12_288,
    };
    kibibytes * 1024
}

/// Window, tables, and for a block of at most 128 KiB the content, its sequences and its output.
fn zstd_memory(window: u32) -> usize {
    let (hash, chain) = zstd_tables(window);
    let block = 1 << window.min(17);
    (4 << hash) + (4 << chain) + (1 << window) + 6 * block + 32 * 1024
}

/// zstd's window for content of this length.
pub(super) fn zstd_window(length: Option<u64>) -> u32 {
    let (least, most) = ZSTD_WINDOW.into_inner();
    length.map_or(most, |length| {
        (u64::BITS - length.leading_zeros()).clamp(least, most)
    })
}

/// And its tables.
pub(super) fn zstd_tables(window: u32) -> (u32, u32) {
    (ZSTD_HASH.min(window + 1), ZSTD_CHAIN.min(window))
}
