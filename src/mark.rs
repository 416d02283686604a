//! Marks: what stands for a server, or a group, in a client's cookie.
//!
//! A mark is a keyed hash, so that it tells nobody what it stands for and nobody can make one up. Replicas
//! that share a secret make the same marks; without one, they are the process's own.

use std::fmt;

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use aws_lc_rs::rand;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// What marks derive from the secret by.
const PURPOSE: &[&[u8]] = &[b"lockgate sticky cookies"];
/// Bytes of a mark.
const LENGTH: usize = 16;

/// A mark: 128 bits, printed as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark([u8; LENGTH]);

impl Mark {
    /// Reads what [`fmt::Display`] has printed.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let digits: &[u8; LENGTH * 2] = text.try_into().ok()?;
        let mut bytes = [0; LENGTH];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            for digit in pair {
                let value = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'a'..=b'f' => digit - b'a' + 10,
                    _ => return None,
                };
                *byte = *byte << 4 | value;
            }
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Whose key a marker has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It is random, and this process's alone.
    Own,
    /// It derives from the secret that replicas share.
    Shared,
}

/// Makes marks.
pub struct Marker {
    key: hmac::Key,
    /// Whose key it has.
    pub origin: Origin,
}

impl Marker {
    /// One that every process with this secret has; `None` only where the cryptography fails.
    pub fn shared(secret: &Secret) -> Option<Self> {
        let key = secret.derive::<32>(PURPOSE)?;
        Some(Self::new(&key, Origin::Shared))
    }

    /// One of this process's own; `None` only where there is no randomness.
    pub fn random() -> Option<Self> {
        let mut key = Zeroizing::new([0; 32]);
        rand::fill(&mut *key).ok()?;
        Some(Self::new(&key, Origin::Own))
    }

    fn new(key: &[u8; 32], origin: Origin) -> Self {
        let key = hmac::Key::new(HMAC_SHA256, key);
        Self { key, origin }
    }

    /// The mark of what has that name, among things of one kind.
    pub fn mark(&self, kind: &str, name: &str) -> Mark {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(kind.as_bytes());
        context.update(&[0]);
        context.update(name.as_bytes());
        let mut bytes = [0; LENGTH];
        for (byte, hashed) in bytes.iter_mut().zip(context.sign().as_ref()) {
            *byte = *hashed;
        }
        Mark(bytes)
    }
}

impl fmt::Debug for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Marker")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    #[test]
    fn replicas_with_one_secret_make_the_same_marks_and_others_do_not() {
        let mark = |marker: Option<Marker>| marker.unwrap().mark("server", "10.0.0.1:80");
        let one = mark(Marker::shared(&Secret::new(SECRET)));
        assert_eq!(one, mark(Marker::shared(&Secret::new(SECRET))));
        assert_ne!(one, mark(Marker::shared(&Secret::new(b"another"))));
        assert_ne!(one, mark(Marker::random()));
        assert_ne!(mark(Marker::random()), mark(Marker::random()));
    }

    #[test]
    fn a_mark_depends_on_the_kind_and_the_name() {
        let marker = Marker::shared(&Secret::new(SECRET)).unwrap();
        let one = marker.mark("server", "a");
        assert_ne!(one, marker.mark("server", "b"));
        assert_ne!(one, marker.mark("group", "a"));
        assert_ne!(marker.mark("a", "b"), marker.mark("", "ab"));
    }

    #[test]
    fn what_was_printed_is_read_again_and_nothing_else() {
        let mark = Marker::random().unwrap().mark("server", "a");
        let text = mark.to_string();
        assert_eq!(Mark::parse(text.as_bytes()), Some(mark));
        for wrong in [
            &text[1..],
            &format!("{text}0"),
            &text.replace(|_| true, "G"),
            "0123456789ABCDEF0123456789ABCDEF",
            "",
        ] {
            assert_eq!(Mark::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
