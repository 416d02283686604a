//! The PROXY protocol's header, versions 1 and 2: by it a proxy in front says who its client is (HAProxy's
//! `proxy-protocol.txt`, sections 2.1 and 2.2).
//!
//! It is the first thing on a connection, before TLS, and nothing behind it is touched. A peer that is
//! to send one must: whether a header is there is never guessed, so what does not begin like one is an
//! error at its first wrong byte. Extensions (TLVs) are skipped unread.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::stream::Transport;

/// The longest header that is taken, as with nginx; version 2 could announce 64 KiB of extensions.
const LONGEST: usize = 4096;
/// The longest line of version 1, with its end.
const LONGEST_LINE: usize = 107;
/// How version 1 begins.
const V1: &[u8] = b"PROXY ";
/// How version 2 begins.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// How much of version 2 says how long the rest is.
const V2_FIXED: usize = 16;

/// For whom a peer speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// For the client at this address.
    Client(SocketAddr),
    /// For itself (LOCAL: a health check), or for a client whose address it cannot give (UNKNOWN, UNSPEC,
    /// a unix socket, a datagram protocol).
    Nobody,
}

/// Why there is no header that can be used.
#[derive(Debug)]
pub enum HeaderError {
    /// The connection begins with something else.
    Missing,
    /// It breaks the protocol's rules.
    Malformed,
    /// It is longer than what is taken.
    TooLong,
    /// The peer closed the connection before its header was whole.
    Ended,
    /// Reading failed.
    Io(io::Error),
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there is none"),
            Self::Malformed => f.write_str("it is malformed"),
            Self::TooLong => write!(f, "it is longer than {LONGEST} bytes"),
            Self::Ended => f.write_str("the connection ended before it was whole"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl Error for HeaderError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Missing | Self::Malformed | Self::TooLong | Self::Ended => None,
        }
    }
}

/// Reads the header off a connection that has just begun. How long that may take is the caller's to limit.
pub async fn read(transport: &mut Transport) -> Result<Announced, HeaderError> {
    loop {
        if let Some((announced, length)) = parse(transport.unread())? {
            transport.skip(length);
            return Ok(announced);
        }
        match transport.read_ahead().await {
            Ok(0) => return Err(HeaderError::Ended),
            Ok(_) => {}
            Err(error) => return Err(HeaderError::Io(error)),
        }
    }
}

/// Parses what has come so far: the header and its length, or none if more must come.
pub fn parse(bytes: &[u8]) -> Result<Option<(Announced, usize)>, HeaderError> {
    if begins_like(bytes, V2) {
        version_2(bytes)
    } else if begins_like(bytes, V1) {
        version_1(bytes)
    } else {
        Err(HeaderError::Missing)
    }
}

/// Whether the bytes could still become a header that begins with this.
fn begins_like(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(byte, own)| byte == own)
}

fn version_1(bytes: &[u8]) -> Result<Option<(Announced, usize)>, HeaderError> {
    let Some(end) = bytes
        .iter()
        .take(LONGEST_LINE)
        .position(|byte| *byte == b'\n')
    else {
        return if bytes.len() < LONGEST_LINE {
            Ok(None)
        } else {
            Err(HeaderError::Malformed)
        };
    };
    let line = bytes.get(V1.len()..end).unwrap_or_default();
    let line = str::from_utf8(line)
        .ok()
        .and_then(|line| line.strip_suffix('\r'));
    let announced = line.and_then(parse_line).ok_or(HeaderError::Malformed)?;
    Ok(Some((announced, end + 1)))
}

/// What follows `PROXY `: `TCP4`, source, destination, source port, destination port, one space between
/// them. After `UNKNOWN` anything may follow.
fn parse_line(line: &str) -> Option<Announced> {
    let mut words = line.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(Announced::Nobody);
    }
    let (source, destination) = (words.next()?, words.next()?);
    let (source_port, destination_port) = (words.next()?, words.next()?);
    let ip = match family {
        "TCP4" => both::<Ipv4Addr>(source, destination)?.into(),
        "TCP6" => both::<Ipv6Addr>(source, destination)?.into(),
        _ => return None,
    };
    let ports = (port(source_port)?, port(destination_port)?);
    let is_over = words.next().is_none();
    is_over.then_some(Announced::Client(SocketAddr::new(ip, ports.0)))
}

/// The source, if the destination is an address of the same family.
fn both<T: FromStr>(source: &str, destination: &str) -> Option<T> {
    destination.parse::<T>().ok()?;
    source.parse().ok()
}

fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit())
        && (text.len() == 1 || !text.starts_with('0'));
    if is_plain { text.parse().ok() } else { None }
}

fn version_2(bytes: &[u8]) -> Result<Option<(Announced, usize)>, HeaderError> {
    let Some([command, family, length @ ..]) = bytes
        .get(V2.len()..V2_FIXED)
        .and_then(|fixed| <[u8; 4]>::try_from(fixed).ok())
    else {
        return Ok(None);
    };
    let length = V2_FIXED + usize::from(u16::from_be_bytes(length));
    if length > LONGEST {
        return Err(HeaderError::TooLong);
    }
    let command = match command {
        0x20 => Command::Local,
        0x21 => Command::Proxy,
        _ => return Err(HeaderError::Malformed),
    };
    let Some(block) = bytes.get(V2_FIXED..length) else {
        return Ok(None);
    };
    let announced = match command {
        // Whatever stands in the block is to be ignored.
        Command::Local => Announced::Nobody,
        Command::Proxy => addresses(family, block).ok_or(HeaderError::Malformed)?,
    };
    Ok(Some((announced, length)))
}

enum Command {
    Local,
    Proxy,
}

/// The source of the address block: family in the upper half of the byte, transport in the lower.
fn addresses(family: u8, block: &[u8]) -> Option<Announced> {
    let (ip, port): (IpAddr, _) = match family {
        0x11 => {
            let (source, rest) = block.split_first_chunk::<4>()?;
            (Ipv4Addr::from(*source).into(), rest.get(4..8)?)
        }
        0x21 => {
            let (source, rest) = block.split_first_chunk::<16>()?;
            (Ipv6Addr::from(*source).into(), rest.get(16..20)?)
        }
        // Known to the protocol, but no address of a TCP client.
        _ if family >> 4 <= 3 && family & 0xf <= 2 => return Some(Announced::Nobody),
        _ => return None,
    };
    let port = port.first_chunk::<2>()?;
    Some(Announced::Client(SocketAddr::new(
        ip,
        u16::from_be_bytes(*port),
    )))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [V2, &[command, family], &length, block].concat()
    }

    fn ipv4_block() -> Vec<u8> {
        vec![192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0x01, 0xbb]
    }

    fn ipv6_block() -> Vec<u8> {
        let source: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let ports = [0x12, 0x67, 0x01, 0xbb];
        [&source.octets()[..], &[0; 16], &ports].concat()
    }

    fn client(text: &str) -> Announced {
        Announced::Client(text.parse().unwrap())
    }

    /// Parses a whole header with something behind it, which must stay.
    fn whole(header: &[u8]) -> Result<Announced, HeaderError> {
        let with_more = [header, b"\x16\x03\x01PROXY TCP4"].concat();
        parse(&with_more).map(|parsed| {
            let (announced, length) = parsed.expect("it is whole");
            assert_eq!(length, header.len());
            announced
        })
    }

    #[test]
    fn every_kind_of_header_says_who_the_client_is() {
        let long_tlvs = [ipv4_block(), vec![0xff; 3000]].concat();
        for (header, expected) in [
            (
                b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n".to_vec(),
                client("192.0.2.7:4711"),
            ),
            (
                b"PROXY TCP6 2001:db8::7 2001:DB8::1 4711 443\r\n".to_vec(),
                client("[2001:db8::7]:4711"),
            ),
            (
                b"PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n".to_vec(),
                client("255.255.255.255:65535"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), Announced::Nobody),
            (
                b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".to_vec(),
                Announced::Nobody,
            ),
            (v2(0x21, 0x11, &ipv4_block()), client("192.0.2.7:4711")),
            (v2(0x21, 0x21, &ipv6_block()), client("[2001:db8::7]:4711")),
            // Extensions, even such that are none, are not looked at.
            (v2(0x21, 0x11, &long_tlvs), client("192.0.2.7:4711")),
            (v2(0x20, 0x00, &[]), Announced::Nobody),
            (v2(0x20, 0x11, &ipv4_block()), Announced::Nobody),
            // LOCAL: everything behind the length is to be ignored.
            (v2(0x20, 0xff, b"x"), Announced::Nobody),
            (v2(0x21, 0x00, b"tlv?"), Announced::Nobody),
            (v2(0x21, 0x12, &ipv4_block()), Announced::Nobody),
            (v2(0x21, 0x22, &ipv6_block()), Announced::Nobody),
            (v2(0x21, 0x31, &[b'/'; 216]), Announced::Nobody),
        ] {
            let found = whole(&header).unwrap();
            assert_eq!(found, expected, "{}", header.escape_ascii());
        }
    }

    #[test]
    fn what_breaks_the_rules_is_refused() {
        for line in [
            "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443 \r\n",
            "PROXY TCP4  192.0.2.7 198.51.100.1 4711 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443 x\r\n",
            "PROXY TCP4 192.0.2.7 2001:db8::1 4711 443\r\n",
            "PROXY TCP4 2001:db8::7 2001:db8::1 4711 443\r\n",
            "PROXY TCP6 192.0.2.7 198.51.100.1 4711 443\r\n",
            "PROXY TCP4 192.0.2.07 198.51.100.1 4711 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 +4711 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 04711 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1  443\r\n",
            "PROXY UDP4 192.0.2.7 198.51.100.1 4711 443\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY tcp4 192.0.2.7 198.51.100.1 4711 443\r\n",
            "PROXY \r\n",
            "PROXY \n",
        ] {
            let error = whole(line.as_bytes()).unwrap_err();
            assert!(matches!(error, HeaderError::Malformed), "{line:?}");
        }
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(93));
        assert_eq!(endless.len(), LONGEST_LINE);
        let error = parse(endless.as_bytes()).unwrap_err();
        assert!(matches!(error, HeaderError::Malformed));
        assert!(matches!(parse(&endless.as_bytes()[..106]), Ok(None)));
        for header in [
            v2(0x11, 0x11, &ipv4_block()),
            v2(0x22, 0x11, &ipv4_block()),
            v2(0x21, 0x11, &ipv4_block()[..11]),
            v2(0x21, 0x21, &ipv6_block()[..35]),
            v2(0x21, 0x41, &ipv6_block()),
            v2(0x21, 0x13, &ipv4_block()),
        ] {
            let error = whole(&header).unwrap_err();
            let shown = header.escape_ascii();
            assert!(matches!(error, HeaderError::Malformed), "{shown}");
        }
    }

    #[test]
    fn a_header_that_announces_too_much_is_refused_before_it_comes() {
        let longest = v2(0x21, 0x11, &vec![0; LONGEST - V2_FIXED]);
        assert!(whole(&longest).is_ok());
        let header = v2(0x21, 0x11, &vec![0; LONGEST - V2_FIXED + 1]);
        let error = parse(&header[..V2_FIXED]).unwrap_err();
        assert!(matches!(error, HeaderError::TooLong));
    }

    #[test]
    fn what_does_not_begin_like_a_header_is_missed_at_once() {
        for bytes in [
            &b"\x16\x03\x01"[..],
            b"GET / HTTP/1.1\r\n",
            b"PRI * HTTP/2.0\r\n",
            b"PROXY\t",
            b"proxy ",
            b"\r\n\r\n\0\r\nQUIT\r",
            b"\r\nG",
            b"\n",
        ] {
            let error = parse(bytes).unwrap_err();
            let shown = bytes.escape_ascii();
            assert!(matches!(error, HeaderError::Missing), "{shown}");
        }
    }

    #[test]
    fn a_header_is_waited_for_until_its_last_byte() {
        for header in [
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n".to_vec(),
            b"PROXY UNKNOWN\r\n".to_vec(),
            v2(0x21, 0x11, &ipv4_block()),
            v2(0x20, 0x00, &[]),
        ] {
            for length in 0..header.len() {
                let part = &header[..length];
                assert!(matches!(parse(part), Ok(None)), "{}", part.escape_ascii());
            }
            assert!(whole(&header).is_ok());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived_and_never_waited_for_without_end(
            start in prop_oneof![Just(&b""[..]), Just(V1), Just(V2), Just(&b"PROXY TCP4 "[..])],
            rest in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let bytes = [start, &rest].concat();
            match parse(&bytes) {
                Ok(Some((_, length))) => prop_assert!(length <= bytes.len() && length <= LONGEST),
                Ok(None) => prop_assert!(bytes.len() < LONGEST),
                Err(_) => {}
            }
        }

        #[test]
        fn every_client_that_can_be_written_is_read(
            ip in prop_oneof![
                any::<[u8; 4]>().prop_map(IpAddr::from),
                any::<[u8; 16]>().prop_map(IpAddr::from),
            ],
            port: u16,
            tlvs in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let source = SocketAddr::new(ip, port);
            let (family, block) = match ip {
                IpAddr::V4(ip) => (0x11, [&ip.octets()[..], &[9; 4]].concat()),
                IpAddr::V6(ip) => (0x21, [&ip.octets()[..], &[9; 16]].concat()),
            };
            let block = [&block, &port.to_be_bytes()[..], &[1, 2], &tlvs].concat();
            prop_assert_eq!(whole(&v2(0x21, family, &block)).unwrap(), Announced::Client(source));
            let family = if ip.is_ipv4() { 4 } else { 6 };
            let line = format!("PROXY TCP{family} {ip} {ip} {port} 443\r\n");
            prop_assert_eq!(whole(line.as_bytes()).unwrap(), Announced::Client(source));
        }
    }
}
