//! Makes what a client sent harmless in a log line (attacks.md row 68): no value ends a line or a
//! string, drives a terminal, reorders what a reader sees, or fills the disk.
//!
//! JSON keeps every other character as it is; text, as nginx does, keeps printable ASCII only.

use std::fmt;

/// The most bytes of one value that are logged; a longer value ends in `...`.
pub const VALUE_LIMIT: usize = 4096;

/// Appends a value as the inside of a JSON string.
///
/// Control characters, line separators and bidirectional controls become `\uHHHH`; bytes that are
/// not UTF-8 become U+FFFD, the replacement character.
pub fn json(value: &[u8], out: &mut Vec<u8>) {
    let kept = head(value);
    if is_plain(kept) {
        out.extend_from_slice(kept);
    } else {
        json_characters(kept, out);
    }
    mark_cut(value, kept, out);
}

/// Appends a value as the inside of a quoted text: every byte that is not printable ASCII, the
/// quotation mark and the backslash become `\xHH`.
pub fn text(value: &[u8], out: &mut Vec<u8>) {
    let kept = head(value);
    if is_plain(kept) {
        out.extend_from_slice(kept);
    } else {
        for &byte in kept {
            if is_plain_byte(byte) {
                out.push(byte);
            } else {
                out.extend_from_slice(&[b'\\', b'x', hex_digit(byte >> 4), hex_digit(byte)]);
            }
        }
    }
    mark_cut(value, kept, out);
}

/// Takes formatted text and appends it escaped by [`json`] or [`text`]; the limit holds for each
/// piece that the formatting makes.
pub struct Escaped<'a> {
    escape: fn(&[u8], &mut Vec<u8>),
    out: &'a mut Vec<u8>,
}

impl<'a> Escaped<'a> {
    /// Escapes with the given function.
    pub fn new(escape: fn(&[u8], &mut Vec<u8>), out: &'a mut Vec<u8>) -> Self {
        Self { escape, out }
    }
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        (self.escape)(piece.as_bytes(), self.out);
        Ok(())
    }
}

/// The part of a value that is logged; a character is not cut in two.
fn head(value: &[u8]) -> &[u8] {
    let Some((mut kept, rest)) = value.split_at_checked(VALUE_LIMIT) else {
        return value;
    };
    if !rest.first().is_some_and(|&next| is_continuation(next)) {
        return kept;
    }
    for _ in 0..3 {
        let Some((&last, shorter)) = kept.split_last() else {
            break;
        };
        kept = shorter;
        if !is_continuation(last) {
            break;
        }
    }
    kept
}

fn mark_cut(value: &[u8], kept: &[u8], out: &mut Vec<u8>) {
    if kept.len() < value.len() {
        out.extend_from_slice(b"...");
    }
}

/// Folded rather than searched, since nearly every value is plain: this compiles to vector code.
fn is_plain(value: &[u8]) -> bool {
    value
        .iter()
        .fold(true, |plain, &byte| plain & is_plain_byte(byte))
}

fn is_plain_byte(byte: u8) -> bool {
    (b' '..0x7f).contains(&byte) & (byte != b'"') & (byte != b'\\')
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

fn json_characters(value: &[u8], out: &mut Vec<u8>) {
    for chunk in value.utf8_chunks() {
        for character in chunk.valid().chars() {
            json_character(character, out);
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

fn json_character(character: char, out: &mut Vec<u8>) {
    match character {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        hidden if is_hidden(hidden) => unicode_escape(u32::from(hidden), out),
        shown => out.extend_from_slice(shown.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// Characters that act on the reader's screen instead of standing on it: C0 and C1 controls, DEL,
/// line and paragraph separators, bidirectional marks, embeddings, overrides and isolates, the BOM.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
        )
}

/// Every hidden character is below U+10000, so four digits hold it.
fn unicode_escape(code: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\\u");
    for byte in code.to_be_bytes().into_iter().skip(2) {
        out.extend_from_slice(&[hex_digit(byte >> 4), hex_digit(byte)]);
    }
}

/// The hexadecimal digit of a byte's lower half.
fn hex_digit(byte: u8) -> u8 {
    match byte & 0xf {
        low @ 0..=9 => b'0' + low,
        high => b'a' + high - 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[(&str, &[u8], &str, &str)] = &[
        (
            "plain",
            b"Mozilla/5.0 (X11)",
            "Mozilla/5.0 (X11)",
            "Mozilla/5.0 (X11)",
        ),
        ("nothing", b"", "", ""),
        ("line ends", b"a\r\nb\tc", r"a\r\nb\tc", r"a\x0d\x0ab\x09c"),
        (
            "a terminal escape",
            b"\x1b[31mred",
            r"\u001b[31mred",
            r"\x1b[31mred",
        ),
        ("NUL and DEL", b"\x00\x7f", r"\u0000\u007f", r"\x00\x7f"),
        (
            "quotes and backslashes",
            br#"a"b\c"#,
            r#"a\"b\\c"#,
            r"a\x22b\x5cc",
        ),
        (
            "a C1 control",
            "\u{9b}2J".as_bytes(),
            r"\u009b2J",
            r"\xc2\x9b2J",
        ),
        ("letters", "Müller".as_bytes(), "Müller", r"M\xc3\xbcller"),
        (
            "an override",
            "a\u{202e}b".as_bytes(),
            r"a\u202eb",
            r"a\xe2\x80\xaeb",
        ),
        (
            "an embedding",
            "\u{202a}".as_bytes(),
            r"\u202a",
            r"\xe2\x80\xaa",
        ),
        (
            "isolates",
            "\u{2066}\u{2069}".as_bytes(),
            r"\u2066\u2069",
            r"\xe2\x81\xa6\xe2\x81\xa9",
        ),
        (
            "separators",
            "\u{2028}\u{2029}".as_bytes(),
            r"\u2028\u2029",
            r"\xe2\x80\xa8\xe2\x80\xa9",
        ),
        ("not UTF-8", b"a\xffb\xc3", r"a\ufffdb\ufffd", r"a\xffb\xc3"),
    ];

    #[test]
    fn values_are_escaped() {
        for (name, value, in_json, in_text) in TABLE {
            let (mut left, mut right) = (Vec::new(), Vec::new());
            json(value, &mut left);
            text(value, &mut right);
            assert_eq!(String::from_utf8(left).unwrap(), *in_json, "{name}, json");
            assert_eq!(String::from_utf8(right).unwrap(), *in_text, "{name}, text");
        }
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        for (value, kept) in [
            ("a".repeat(64 * 1024), VALUE_LIMIT),
            ("ü".repeat(64 * 1024), VALUE_LIMIT),
            (format!("a{}", "ü".repeat(4096)), VALUE_LIMIT - 1),
            (format!("a{}", "€".repeat(4096)), VALUE_LIMIT),
            (format!("ab{}", "€".repeat(4096)), VALUE_LIMIT - 2),
            (format!("abc{}", "\u{1f512}".repeat(4096)), VALUE_LIMIT - 1),
        ] {
            let mut out = Vec::new();
            json(value.as_bytes(), &mut out);
            assert_eq!(
                String::from_utf8(out).unwrap(),
                format!("{}...", &value[..kept])
            );
        }
    }

    #[test]
    fn a_value_of_exactly_the_limit_is_whole() {
        let value = "a".repeat(VALUE_LIMIT);
        let mut out = Vec::new();
        text(value.as_bytes(), &mut out);
        assert_eq!(out, value.as_bytes());
    }
}
