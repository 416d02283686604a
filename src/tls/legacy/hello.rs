//! Reads a ClientHello far enough to tell who can serve its client (RFC 5246 7.4.1.2, RFC 8446 4.1.2).
//!
//! It only ever looks: the bytes stay where they are, for the engine that is chosen. What it does not
//! understand is left to rustls, which knows the proper alert.

use std::net::IpAddr;

use rustls_pki_types::DnsName;

/// The longest ClientHello, with its header, that is looked at. Those of today, with a post-quantum key
/// share, have 2 KiB; older clients' have a few hundred bytes.
const MAX_HELLO: usize = 16 * 1024;
/// The longest record (RFC 5246 6.2.1).
const MAX_RECORD: usize = 1 << 14;

/// What a client offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The highest version, unless `versions` is there.
    pub version: u16,
    /// `supported_versions`: all versions.
    pub versions: Option<Vec<u16>>,
    /// The cipher suites, in the client's order.
    pub suites: Vec<u16>,
    /// The host name (SNI), lower-case.
    pub server_name: Option<Box<str>>,
    /// `signature_algorithms`
    pub schemes: Option<Vec<u16>>,
    /// `supported_groups`
    pub groups: Option<Vec<u16>>,
}

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum First {
    /// A ClientHello.
    Hello(Box<Hello>),
    /// Something else, or a ClientHello that is not well-formed.
    Other,
}

/// Reads the first bytes of a connection; `None` while there are too few.
pub fn read(bytes: &[u8]) -> Option<First> {
    let mut rest = bytes;
    let mut message = Vec::new();
    loop {
        let (header, after) = match rest {
            [22, 3, _, high, low, after @ ..] => (u16::from_be_bytes([*high, *low]), after),
            [] | [22] | [22, 3] | [22, 3, _] | [22, 3, _, _] => return None,
            _ => return Some(First::Other),
        };
        let length = usize::from(header);
        if length == 0 || length > MAX_RECORD {
            return Some(First::Other);
        }
        let come = length.min(after.len());
        let (fragment, next) = after.split_at_checked(come)?;
        message.extend_from_slice(fragment);
        match message.as_slice() {
            [1, a, b, c, body @ ..] => {
                let whole = u32::from_be_bytes([0, *a, *b, *c]);
                let whole = usize::try_from(whole).unwrap_or(usize::MAX);
                if whole > MAX_HELLO || body.len() > whole {
                    return Some(First::Other);
                }
                if body.len() == whole {
                    let hello = Hello::parse(body);
                    return Some(hello.map_or(First::Other, |hello| First::Hello(Box::new(hello))));
                }
            }
            [] | [1] | [1, _] | [1, _, _] => {}
            _ => return Some(First::Other),
        }
        if come < length {
            return None;
        }
        rest = next;
    }
}

impl Hello {
    fn parse(body: &[u8]) -> Option<Self> {
        let mut body = Cursor(body);
        let version = body.u16()?;
        body.take(32)?;
        let session = body.vector8()?;
        let suites = body.vector16()?.numbers()?;
        let compressions = body.vector8()?;
        if session.0.len() > 32 || suites.is_empty() || compressions.0.is_empty() {
            return None;
        }
        let mut hello = Self {
            version,
            suites,
            ..Self::default()
        };
        // Clients of old send no extensions, and no length of them either.
        if !body.is_empty() {
            hello.extensions(body.vector16()?)?;
        }
        body.is_empty().then_some(hello)
    }

    fn extensions(&mut self, mut list: Cursor<'_>) -> Option<()> {
        let mut seen = Vec::new();
        while !list.is_empty() {
            let kind = list.u16()?;
            let mut data = list.vector16()?;
            if seen.contains(&kind) {
                return None;
            }
            seen.push(kind);
            match kind {
                0 => self.server_name = host_name(data.vector16()?)?,
                10 => self.groups = Some(data.vector16()?.numbers()?),
                13 => self.schemes = Some(data.vector16()?.numbers()?),
                43 => self.versions = Some(data.vector8()?.numbers()?),
                _ => continue,
            }
            if !data.is_empty() {
                return None;
            }
        }
        Some(())
    }

    /// Whether it offers a version, by its number.
    pub fn offers(&self, version: u16) -> bool {
        match &self.versions {
            Some(versions) => versions.contains(&version),
            // Without the extension there is no TLS 1.3, and all below the highest is offered.
            None => version <= self.version && version < TLS13,
        }
    }
}

const TLS13: u16 = 0x0304;

/// The one name of a list, as rustls takes it: an address counts as none.
fn host_name(mut list: Cursor<'_>) -> Option<Option<Box<str>>> {
    let (kind, name) = (list.take(1)?, list.vector16()?);
    if kind != [0] || !list.is_empty() {
        return None;
    }
    let name = str::from_utf8(name.0).ok()?;
    if name.parse::<IpAddr>().is_ok() {
        return Some(None);
    }
    let name = DnsName::try_from(name).ok()?;
    Some(Some(name.as_ref().to_ascii_lowercase().into()))
}

/// Bytes that are read from the front.
#[derive(Clone, Copy)]
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*number))
    }

    /// A vector whose length is one byte.
    fn vector8(&mut self) -> Option<Self> {
        let (length, rest) = self.0.split_first()?;
        self.0 = rest;
        self.take(usize::from(*length)).map(Self)
    }

    /// A vector whose length is two bytes.
    fn vector16(&mut self) -> Option<Self> {
        let length = self.u16()?;
        self.take(usize::from(length)).map(Self)
    }

    /// Numbers of two bytes, to the end.
    fn numbers(self) -> Option<Vec<u16>> {
        let (pairs, rest) = self.0.as_chunks();
        let numbers = pairs.iter().map(|pair| u16::from_be_bytes(*pair));
        rest.is_empty().then(|| numbers.collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls::ProtocolVersion;

    use super::*;
    use crate::tls::testing::Client;

    fn vector(width: usize, bytes: &[u8]) -> Vec<u8> {
        let length = (bytes.len() as u32).to_be_bytes();
        [&length[4 - width..], bytes].concat()
    }

    fn numbers(numbers: &[u16]) -> Vec<u8> {
        numbers.iter().flat_map(|n| n.to_be_bytes()).collect()
    }

    fn body(version: u16, suites: &[u16], extensions: Option<&[(u16, Vec<u8>)]>) -> Vec<u8> {
        let mut body = version.to_be_bytes().to_vec();
        body.extend([7; 32]);
        body.extend(vector(1, &[]));
        body.extend(vector(2, &numbers(suites)));
        body.extend(vector(1, &[0]));
        if let Some(extensions) = extensions {
            let list: Vec<_> = extensions
                .iter()
                .flat_map(|(kind, data)| [numbers(&[*kind]), vector(2, data)].concat())
                .collect();
            body.extend(vector(2, &list));
        }
        body
    }

    /// A ClientHello in records of so many bytes.
    fn wire(body: &[u8], record: usize) -> Vec<u8> {
        let message = [vec![1], vector(3, body)].concat();
        let records = message.chunks(record);
        records
            .flat_map(|chunk| [vec![22, 3, 1], vector(2, chunk)].concat())
            .collect()
    }

    fn name(text: &str) -> (u16, Vec<u8>) {
        let entry = [vec![0], vector(2, text.as_bytes())].concat();
        (0, vector(2, &entry))
    }

    fn hello(bytes: &[u8]) -> Option<Hello> {
        match read(bytes).unwrap() {
            First::Hello(hello) => Some(*hello),
            First::Other => None,
        }
    }

    #[test]
    fn what_an_old_client_offers_is_read() {
        let old = body(0x0301, &[0x002F, 0x00FF], None);
        let expected = Hello {
            version: 0x0301,
            suites: vec![0x002F, 0x00FF],
            ..Hello::default()
        };
        assert_eq!(hello(&wire(&old, 1000)), Some(expected.clone()));
        assert_eq!(hello(&wire(&old, 1)), Some(expected));
        let extensions = [
            name("WWW.Example.com"),
            (10, vector(2, &numbers(&[23, 24]))),
            (13, vector(2, &numbers(&[0x0401]))),
            (0x7777, vec![1, 2, 3]),
            (43, vector(1, &numbers(&[0x0303, 0x0302]))),
        ];
        let newer = hello(&wire(&body(0x0303, &[0xC013], Some(&extensions)), 40)).unwrap();
        assert_eq!(newer.server_name.as_deref(), Some("www.example.com"));
        assert_eq!(newer.groups, Some(vec![23, 24]));
        assert_eq!(newer.schemes, Some(vec![0x0401]));
        assert_eq!(newer.versions, Some(vec![0x0303, 0x0302]));
    }

    #[test]
    fn what_a_client_of_today_offers_is_read() {
        let client = Client::new().name("WWW.example.com");
        let bytes = client.first_flight();
        let hello = hello(&bytes).unwrap();
        assert_eq!(hello.server_name.as_deref(), Some("www.example.com"));
        for version in [ProtocolVersion::TLSv1_2, ProtocolVersion::TLSv1_3] {
            assert!(hello.offers(version.into()), "{version:?}");
        }
        assert!(!hello.offers(0x0302));
        for end in 0..bytes.len() {
            assert_eq!(read(&bytes[..end]), None, "{end} bytes");
        }
    }

    #[test]
    fn versions_are_those_of_the_extension_or_all_up_to_the_highest() {
        for (version, versions, offered) in [
            (0x0301, None, [true, false, false, false]),
            (0x0302, None, [true, true, false, false]),
            (0x0303, None, [true, true, true, false]),
            (0x0304, None, [true, true, true, false]),
            (0x0300, None, [false; 4]),
            (0x0303, Some(vec![0x0304]), [false, false, false, true]),
            (
                0x0303,
                Some(vec![0x7A7A, 0x0301]),
                [true, false, false, false],
            ),
        ] {
            let hello = Hello {
                version,
                versions,
                ..Hello::default()
            };
            let found = [0x0301, 0x0302, 0x0303, 0x0304].map(|version| hello.offers(version));
            assert_eq!(found, offered, "{hello:?}");
        }
    }

    #[test]
    fn names_are_taken_as_rustls_takes_them() {
        for (text, expected) in [
            ("a.example", Some(Some("a.example"))),
            ("A.Example", Some(Some("a.example"))),
            ("un_der.example", Some(Some("un_der.example"))),
            ("127.0.0.1", Some(None)),
            ("::1", Some(None)),
            ("", None),
            ("a..b", None),
            ("a b", None),
            ("\u{e9}.example", None),
        ] {
            let bytes = wire(&body(0x0301, &[0x002F], Some(&[name(text)])), 1000);
            let found = hello(&bytes).map(|hello| hello.server_name);
            let found = found.as_ref().map(Option::as_deref);
            assert_eq!(found, expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_well_formed_hello_is_something_else() {
        let good = body(0x0301, &[0x002F], Some(&[name("a.example")]));
        let extended =
            |extensions: &[(u16, Vec<u8>)]| wire(&body(0x0301, &[47], Some(extensions)), 1000);
        let mut more = good.clone();
        more.push(0);
        let mut long = wire(&good, 1000);
        long[6] = 1;
        let mut twice = wire(&good, 1000);
        twice[4] += 1;
        twice.push(0);
        for (what, bytes) in [
            ("plain HTTP", b"GET / HTTP/1.1\r\n".to_vec()),
            ("an alert", vec![21, 3, 1, 0, 2, 1, 0]),
            ("SSL 2", vec![0x80, 46, 1, 3, 1]),
            ("an empty record", vec![22, 3, 1, 0, 0]),
            ("a record that is too long", vec![22, 3, 1, 0x40, 1]),
            ("another message", vec![22, 3, 1, 0, 4, 2, 0, 0, 0]),
            ("a message that is too long", long),
            ("a message that goes on behind its end", twice),
            ("bytes behind the extensions", wire(&more, 1000)),
            ("no suite", wire(&body(0x0301, &[], None), 1000)),
            (
                "half a suite",
                wire(&[&good[..35], &[0, 1, 0, 1, 0]].concat(), 1000),
            ),
            ("cut short", wire(&good[..good.len() - 1], 1000)),
            ("an extension twice", extended(&[(5, vec![]), (5, vec![])])),
            (
                "two names",
                extended(&[(0, vector(2, &[0, 0, 1, 97, 0, 0, 1, 98]))]),
            ),
            (
                "a name of no kind",
                extended(&[(0, vector(2, &[1, 0, 1, 97]))]),
            ),
            (
                "bytes behind a list",
                extended(&[(10, vec![0, 2, 0, 23, 0])]),
            ),
        ] {
            assert_eq!(read(&bytes), Some(First::Other), "{what}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_borne(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes);
            let _ = read(&[&[22, 3, 1, 1, 0, 1, 0, 0, 0xFC][..], &bytes].concat());
            let _ = Hello::parse(&bytes);
        }

        #[test]
        fn a_changed_hello_is_borne(at in 0..2000_usize, to: u8, record in 1..2000_usize) {
            let extensions = [
                name("a.example"),
                (10, vector(2, &numbers(&[23]))),
                (43, vector(1, &numbers(&[0x0303]))),
            ];
            let mut bytes = wire(&body(0x0303, &[0xC013, 0x002F], Some(&extensions)), record);
            let at = at % bytes.len();
            bytes[at] = to;
            let _ = read(&bytes);
        }

        #[test]
        fn the_size_of_records_makes_no_difference(record in 1..200_usize) {
            let body = body(0x0303, &[0xC013, 0x002F], Some(&[name("a.example")]));
            prop_assert_eq!(read(&wire(&body, record)), read(&wire(&body, 1000)));
        }
    }
}
