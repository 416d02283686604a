//! Names every request by `X-Request-Id`, so that the logs of all who serve it can be put together.
//!
//! The name that a trusted peer gave is kept, if it is one; anybody else's is replaced by 128 random bits.

use std::cell::RefCell;

use http::{HeaderMap, HeaderName, HeaderValue};

/// `X-Request-Id`
static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest name that is kept, in bytes.
const LONGEST: usize = 128;
/// Random bytes of a name.
const BYTES: usize = 16;
/// Random bytes that a thread gets at once: fetched name by name they cost 1.4 us each, by the block 0.1 or less.
const BLOCK: usize = 64 * BYTES;

thread_local! {
    static RANDOM: RefCell<Random> = const {
        RefCell::new(Random { block: [0; BLOCK], used: BLOCK })
    };
}

/// Whether a request comes from a peer whose word is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// It does.
    Trusted,
    /// It does not.
    Unknown,
}

/// Gives a request its one name, and says it. None if the system has no randomness: then it has no name.
pub fn identify(headers: &mut HeaderMap, sender: Sender) -> Option<HeaderValue> {
    if sender == Sender::Trusted
        && let Some(given) = usable(headers)
    {
        return Some(given.clone());
    }
    let Some(made) = make() else {
        headers.remove(&X_REQUEST_ID);
        return None;
    };
    headers.insert(&X_REQUEST_ID, made.clone());
    Some(made)
}

/// The name that a request has, if it has one and it is visible ASCII of a sensible length.
fn usable(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut lines = headers.get_all(&X_REQUEST_ID).iter();
    let given = lines.next()?;
    let is_name =
        (1..=LONGEST).contains(&given.len()) && given.as_bytes().iter().all(u8::is_ascii_graphic);
    (is_name && lines.next().is_none()).then_some(given)
}

fn make() -> Option<HeaderValue> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bytes = RANDOM.with_borrow_mut(Random::next)?;
    let mut name = [0; 2 * BYTES];
    for (pair, byte) in name.chunks_exact_mut(2).zip(bytes) {
        let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or_default();
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
    }
    HeaderValue::from_bytes(&name).ok()
}

/// Random bytes in store. Each is given out once.
struct Random {
    block: [u8; BLOCK],
    used: usize,
}

impl Random {
    fn next(&mut self) -> Option<[u8; BYTES]> {
        if self.used >= BLOCK {
            aws_lc_rs::rand::fill(&mut self.block).ok()?;
            self.used = 0;
        }
        let bytes = self.block.get(self.used..)?.first_chunk().copied();
        self.used += BYTES;
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn identified(lines: &[&str], sender: Sender) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(
                &X_REQUEST_ID,
                HeaderValue::from_bytes(line.as_bytes()).unwrap(),
            );
        }
        let name = identify(&mut headers, sender).unwrap();
        let left: Vec<_> = headers.get_all(&X_REQUEST_ID).iter().collect();
        assert_eq!(left, [&name], "the backend gets the one that is logged");
        name.to_str().unwrap().to_owned()
    }

    fn is_made(name: &str) -> bool {
        name.len() == 32 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }

    #[test]
    fn a_trusted_peers_name_is_kept_if_it_is_one() {
        let longest = "x".repeat(128);
        for given in ["a", "8f3e-11:/+=", &longest] {
            assert_eq!(identified(&[given], Sender::Trusted), given);
        }
        let too_long = "x".repeat(129);
        for lines in [
            vec![],
            vec![""],
            vec!["a", "a"],
            vec!["a b"],
            vec!["a\tb"],
            vec!["caf\u{e9}"],
            vec![&too_long],
        ] {
            assert!(is_made(&identified(&lines, Sender::Trusted)), "{lines:?}");
        }
    }

    #[test]
    fn anybody_elses_name_is_replaced() {
        for lines in [vec![], vec!["a"], vec!["a", "b"]] {
            assert!(is_made(&identified(&lines, Sender::Unknown)), "{lines:?}");
        }
    }

    #[test]
    fn no_two_requests_have_the_same_name() {
        // Several blocks long.
        let names: HashSet<_> = (0..1000)
            .map(|_| identified(&[], Sender::Unknown))
            .collect();
        assert_eq!(names.len(), 1000);
    }
}
