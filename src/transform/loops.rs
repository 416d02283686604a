//! Finds requests that come by again (alb.md 9.4 and decision 20).
//!
//! Every pass leaves an entry in `ALICLOUD-ALB-TRACE`, a hash of which process, listener and rule it was.
//! Who meets an entry of its own, or would be the seventeenth, refuses the request.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::failure::Failure;
use crate::transform::field::members;

/// `ALICLOUD-ALB-TRACE`
static TRACE: HeaderName = HeaderName::from_static("alicloud-alb-trace");

/// The most entries that a request may have when it is passed on.
const MAX_ENTRIES: usize = 16;
/// How long an entry is, in hexadecimal digits.
const DIGITS: usize = 16;

/// Where a request passes.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// `instance_id`, which replicas must not share.
    pub instance_id: &'a [u8],
    /// The listener's name.
    pub listener: &'a str,
    /// The listener's port.
    pub port: u16,
    /// The rule that takes the request.
    pub rule: &'a str,
}

/// What one place leaves in every request, made once.
#[derive(Clone, Debug)]
pub struct LoopGuard {
    entry: HeaderValue,
}

impl LoopGuard {
    /// The guard of a place.
    pub fn new(place: Place<'_>) -> Self {
        // Names hold no control characters, so the separators keep the parts apart.
        let text = [
            place.instance_id,
            b"\0",
            place.listener.as_bytes(),
            b"\0",
            place.port.to_string().as_bytes(),
            b"\0",
            place.rule.as_bytes(),
        ]
        .concat();
        let mut entry = String::with_capacity(DIGITS);
        for byte in digest(&SHA256, &text).as_ref().iter().take(DIGITS / 2) {
            // A string can always be written to.
            let _infallible = write!(entry, "{byte:02x}");
        }
        #[expect(clippy::expect_used, reason = "hexadecimal digits are a field value")]
        let entry = HeaderValue::try_from(entry).expect("digits are a field value");
        Self { entry }
    }

    /// Leaves the entry in a request, or says that it has been here, or at too many places.
    pub fn pass(&self, headers: &mut HeaderMap) -> Result<(), Failure> {
        let own = self.entry.as_bytes();
        let entries = headers.get_all(&TRACE).iter();
        let mut count = 0;
        for entry in entries.flat_map(|line| members(line.as_bytes())) {
            count += 1;
            if count >= MAX_ENTRIES || entry.eq_ignore_ascii_case(own) {
                return Err(Failure::LoopDetected);
            }
        }
        let value = if count == 0 {
            self.entry.clone()
        } else {
            self.appended(headers)
        };
        headers.insert(&TRACE, value);
        Ok(())
    }

    /// All entries of all lines, and then this one.
    fn appended(&self, headers: &HeaderMap) -> HeaderValue {
        let mut list = BytesMut::new();
        let lines = headers.get_all(&TRACE).iter();
        for entry in lines.flat_map(|line| members(line.as_bytes())) {
            list.put_slice(entry);
            list.put_slice(b", ");
        }
        list.put_slice(self.entry.as_bytes());
        // Made of field values and separators, so it is one.
        HeaderValue::from_maybe_shared(list.freeze()).unwrap_or_else(|_| self.entry.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'_> = Place {
        instance_id: b"alb-1",
        listener: "web",
        port: 443,
        rule: "default",
    };

    fn pass(lines: &[&str]) -> Result<String, Failure> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&TRACE, HeaderValue::from_str(line).unwrap());
        }
        LoopGuard::new(PLACE).pass(&mut headers)?;
        let mut lines = headers.get_all(&TRACE).iter();
        let line = lines.next().unwrap().to_str().unwrap().to_owned();
        assert!(lines.next().is_none(), "one line");
        Ok(line)
    }

    #[test]
    fn every_place_has_an_entry_of_its_own() {
        let entry = |place| LoopGuard::new(place).entry;
        let own = entry(PLACE);
        assert_eq!(own, entry(PLACE));
        assert_eq!(own.len(), 16);
        assert!(own.as_bytes().iter().all(u8::is_ascii_hexdigit));
        for other in [
            Place {
                instance_id: b"alb-2",
                ..PLACE
            },
            Place {
                listener: "wed",
                ..PLACE
            },
            Place { port: 444, ..PLACE },
            Place {
                rule: "api",
                ..PLACE
            },
            Place {
                instance_id: b"alb-1w",
                listener: "eb",
                ..PLACE
            },
        ] {
            assert_ne!(own, entry(other), "{other:?}");
        }
    }

    #[test]
    fn the_entry_is_appended_to_those_before() {
        let own = pass(&[]).unwrap();
        assert_eq!(pass(&["", " ,"]).unwrap(), own);
        assert_eq!(pass(&["a"]).unwrap(), format!("a, {own}"));
        assert_eq!(pass(&["a,b", "c"]).unwrap(), format!("a, b, c, {own}"));
    }

    #[test]
    fn who_comes_by_again_is_refused() {
        let own = pass(&[]).unwrap();
        let capitals = own.to_uppercase();
        for lines in [
            vec![own.as_str()],
            vec![&capitals],
            vec!["a, b", &own],
            vec!["a", &own, "b"],
        ] {
            assert_eq!(pass(&lines), Err(Failure::LoopDetected), "{lines:?}");
        }
        let longer = format!("{own}0");
        assert!(pass(&[&longer]).is_ok());
    }

    #[test]
    fn sixteen_places_may_be_passed_and_no_more() {
        let fifteen = vec!["x"; 15].join(", ");
        assert!(pass(&[&fifteen]).is_ok());
        assert_eq!(pass(&[&fifteen, "x"]), Err(Failure::LoopDetected));
        let many = vec!["x"; 5000].join(",");
        assert_eq!(pass(&[&many]), Err(Failure::LoopDetected));
    }
}
