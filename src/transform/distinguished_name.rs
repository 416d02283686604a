//! Distinguished names in the form of RFC 2253, exactly as OpenSSL prints it (`-nameopt RFC2253`; alb.md 3.2).
//!
//! Most specific part first, commas and plus signs between parts, and every byte that is not printable ASCII
//! as `\XX`: whatever a certificate says, the result can stand in a header field (attacks.md row 47). What no
//! name of OpenSSL's stands for is given by its numbers, with its value as hexadecimal DER.

use std::fmt::Write as _;

use super::attribute_names::NAMES;

/// The longest name that is written. A longer one is left out, not cut: cut, it could be somebody else's.
pub(super) const MAX_NAME: usize = 8 * 1024;

/// Writes a name, given as the content of its RDNSequence. `None` where it is malformed or too long.
pub(super) fn rfc2253(name: &[u8]) -> Option<String> {
    let attributes = attributes(name)?;
    let mut out = String::new();
    let mut before = None;
    for Attribute { part, kind, value } in attributes.iter().rev() {
        match before {
            None => {}
            Some(before) if before == part => out.push('+'),
            Some(_) => out.push(','),
        }
        before = Some(part);
        let dotted = dotted(kind)?;
        match NAMES.binary_search_by(|(oid, _)| (*oid).cmp(&dotted)) {
            Ok(index) => {
                out.push_str(NAMES.get(index).map_or(&*dotted, |(_, name)| name));
                out.push('=');
                write_value(value, &mut out);
            }
            Err(_) => {
                out.push_str(&dotted);
                out.push('=');
                dump(value.whole, &mut out);
            }
        }
        if out.len() > MAX_NAME {
            return None;
        }
    }
    Some(out)
}

/// An attribute, with the number of its part of the name.
struct Attribute<'a> {
    part: usize,
    kind: &'a [u8],
    value: Element<'a>,
}

/// The attributes of a name in its own order.
fn attributes(name: &[u8]) -> Option<Vec<Attribute<'_>>> {
    let mut attributes = Vec::new();
    for (part, set) in elements(name).enumerate() {
        for attribute in elements(set.filter(|set| set.tag == SET)?.content) {
            let attribute = attribute.filter(|attribute| attribute.tag == SEQUENCE)?;
            let mut fields = elements(attribute.content);
            let kind = fields.next()?.filter(|kind| kind.tag == OID)?.content;
            let value = fields.next()??;
            attributes.push(Attribute { part, kind, value });
        }
    }
    Some(attributes)
}

/// An element of DER.
#[derive(Clone, Copy)]
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    whole: &'a [u8],
}

/// The elements that follow each other in `rest`; `None` for a malformed one, which is the last.
fn elements(mut rest: &[u8]) -> impl Iterator<Item = Option<Element<'_>>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let element = first_element(rest);
        rest = element
            .and_then(|element| rest.get(element.whole.len()..))
            .unwrap_or_default();
        Some(element)
    })
}

fn first_element(rest: &[u8]) -> Option<Element<'_>> {
    let (tag, after) = rest.split_first()?;
    let (length, after) = after.split_first()?;
    // Numbers of tags above 30, and indefinite lengths, have no place in a name.
    if tag & 0x1f == 0x1f || *length == 0x80 {
        return None;
    }
    let (length, after) = match length & 0x7f {
        short if length & 0x80 == 0 => (usize::from(short), after),
        bytes => {
            let (bytes, after) = after.split_at_checked(usize::from(bytes))?;
            let add =
                |length: usize, byte: &u8| length.checked_mul(256)?.checked_add(usize::from(*byte));
            (bytes.iter().try_fold(0, add)?, after)
        }
    };
    let content = after.get(..length)?;
    let whole = rest.get(..rest.len() - after.len() + length)?;
    Some(Element {
        tag: *tag,
        content,
        whole,
    })
}

/// An object identifier in numbers; `None` where one of them is too large or the last is broken off.
fn dotted(oid: &[u8]) -> Option<String> {
    let mut arcs = Vec::new();
    let mut arc: u128 = 0;
    for byte in oid {
        arc = arc.checked_mul(128)? + u128::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            arcs.push(arc);
            arc = 0;
        }
    }
    // The first number holds two arcs (X.690 section 8.19.4).
    let (first, rest) = arcs.split_first()?;
    let root = (*first / 40).min(2);
    let mut out = format!("{root}.{}", first - root * 40);
    for arc in rest {
        // Writing to a string cannot fail.
        let _ = write!(out, ".{arc}");
    }
    (oid.last()? & 0x80 == 0).then_some(out)
}

/// Writes a value of a known attribute: a string of any kind as escaped UTF-8, anything else in hexadecimal.
fn write_value(value: &Element<'_>, out: &mut String) {
    let text = match value.tag {
        // Not looked into: what is not UTF-8 is escaped like the rest.
        UTF8_STRING => Some(value.content.to_vec()),
        NUMERIC_STRING | PRINTABLE_STRING | TELETEX_STRING | IA5_STRING | UTC_TIME
        | GENERALIZED_TIME | VISIBLE_STRING => {
            let latin1 = value.content.iter().map(|byte| u32::from(*byte));
            utf8(latin1)
        }
        BMP_STRING => units(value.content, 2),
        UNIVERSAL_STRING => units(value.content, 4),
        _ => None,
    };
    match text {
        Some(text) => escape(&text, out),
        None => dump(value.whole, out),
    }
}

/// Code points of so many bytes each.
fn units(content: &[u8], width: usize) -> Option<Vec<u8>> {
    let mut units = content.chunks_exact(width);
    let point = |unit: &[u8]| {
        unit.iter()
            .fold(0, |point, byte| point << 8 | u32::from(*byte))
    };
    let text = utf8(units.by_ref().map(point));
    text.filter(|_| units.remainder().is_empty())
}

/// `None` where one is no character, which OpenSSL takes for no name.
fn utf8(points: impl Iterator<Item = u32>) -> Option<Vec<u8>> {
    let text: Option<String> = points.map(char::from_u32).collect();
    text.map(String::into_bytes)
}

fn escape(text: &[u8], out: &mut String) {
    let last = text.len().saturating_sub(1);
    for (index, byte) in text.iter().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                out.push('\\');
                out.push(char::from(*byte));
            }
            b' ' if index == 0 || index == last => out.push_str("\\ "),
            // A value that is nothing but this sign OpenSSL takes for an end, not a beginning.
            b'#' if index == 0 && last > 0 => out.push_str("\\#"),
            b' '..=b'~' => out.push(char::from(*byte)),
            _ => hexadecimal("\\", &[*byte], out),
        }
    }
}

fn dump(der: &[u8], out: &mut String) {
    out.push('#');
    hexadecimal("", der, out);
}

fn hexadecimal(before: &str, bytes: &[u8], out: &mut String) {
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(out, "{before}{byte:02X}");
    }
}

const OID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const NUMERIC_STRING: u8 = 0x12;
const PRINTABLE_STRING: u8 = 0x13;
const TELETEX_STRING: u8 = 0x14;
const IA5_STRING: u8 = 0x16;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VISIBLE_STRING: u8 = 0x1a;
const UNIVERSAL_STRING: u8 = 0x1c;
const BMP_STRING: u8 = 0x1e;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use rcgen::KeyPair;

    use super::*;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = content.len();
        let mut out = vec![tag];
        match length {
            0..0x80 => out.push(u8::try_from(length).unwrap()),
            _ => {
                out.push(0x82);
                out.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
        }
        out.extend(content);
        out
    }

    fn base128(mut arc: u128) -> Vec<u8> {
        let mut out = vec![u8::try_from(arc % 128).unwrap()];
        while arc >= 128 {
            arc /= 128;
            out.insert(0, 0x80 | u8::try_from(arc % 128).unwrap());
        }
        out
    }

    fn oid(dotted: &str) -> Vec<u8> {
        let arcs: Vec<u128> = dotted.split('.').map(|arc| arc.parse().unwrap()).collect();
        let mut content = base128(arcs[0] * 40 + arcs[1]);
        content.extend(arcs[2..].iter().flat_map(|arc| base128(*arc)));
        element(OID, &content)
    }

    /// The parts of a name, each of one attribute or several: its kind, the value's tag and content.
    type Parts<'a> = &'a [&'a [(&'a str, u8, &'a [u8])]];

    fn name(parts: Parts<'_>) -> Vec<u8> {
        let attribute = |(kind, tag, content): &(&str, u8, &[u8])| {
            element(SEQUENCE, &[oid(kind), element(*tag, content)].concat())
        };
        let parts = parts.iter().map(|part| {
            let attributes: Vec<_> = part.iter().map(attribute).collect();
            element(SET, &attributes.concat())
        });
        parts.collect::<Vec<_>>().concat()
    }

    /// A certificate with this subject. Its signature is nobody's: printing needs none.
    fn certificate(subject: &[u8]) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
        let algorithm = element(SEQUENCE, &oid("1.2.840.10045.4.3.2"));
        let time = element(UTC_TIME, b"300101000000Z");
        let fields = [
            element(2, &[1]),
            algorithm.clone(),
            element(SEQUENCE, &name(&[&[("2.5.4.3", UTF8_STRING, b"issuer")]])),
            element(SEQUENCE, &[time.clone(), time].concat()),
            element(SEQUENCE, subject),
            spki,
        ];
        let signature = element(3, &[0, 1]);
        let fields = element(SEQUENCE, &fields.concat());
        element(SEQUENCE, &[fields, algorithm, signature].concat())
    }

    /// What OpenSSL prints; `None` where it is not installed.
    fn openssl(subject: &[u8]) -> Option<String> {
        let mut command = Command::new("openssl");
        command.args([
            "x509", "-inform", "DER", "-noout", "-subject", "-nameopt", "RFC2253",
        ]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let Ok(mut child) = command.spawn() else {
            let required = std::env::var_os("LOCKGATE_REQUIRE_PEERS").is_some();
            assert!(!required, "openssl is not installed");
            eprintln!("skipped: openssl is not installed");
            return None;
        };
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&certificate(subject)).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let line = String::from_utf8(output.stdout).unwrap();
        let printed = line.strip_prefix("subject=").unwrap();
        Some(printed.strip_suffix('\n').unwrap().to_owned())
    }

    const CN: &str = "2.5.4.3";
    const O: &str = "2.5.4.10";

    /// Names and how they are printed; the table is checked against OpenSSL itself.
    const AWKWARD: &[(Parts<'_>, &str)] = &[
        (&[], ""),
        (
            &[
                &[("2.5.4.6", PRINTABLE_STRING, b"CN")],
                &[(O, UTF8_STRING, b"Acme")],
                &[(CN, UTF8_STRING, b"client1")],
            ],
            "CN=client1,O=Acme,C=CN",
        ),
        (
            &[
                &[(O, UTF8_STRING, b"Acme")],
                &[(CN, UTF8_STRING, b"a"), ("2.5.4.5", PRINTABLE_STRING, b"7")],
            ],
            "serialNumber=7+CN=a,O=Acme",
        ),
        (
            &[&[(CN, UTF8_STRING, b"a, b+c\"d\\e<f>g;h=i/j")]],
            r#"CN=a\, b\+c\"d\\e\<f\>g\;h=i/j"#,
        ),
        (&[&[(CN, UTF8_STRING, b"#hash")]], "CN=\\#hash"),
        (&[&[(CN, UTF8_STRING, b"#")]], "CN=#"),
        (&[&[(CN, UTF8_STRING, b"  spaces  ")]], "CN=\\  spaces \\ "),
        (&[&[(CN, UTF8_STRING, b" ")]], "CN=\\ "),
        (&[&[(CN, UTF8_STRING, b"")]], "CN="),
        (
            &[&[(CN, UTF8_STRING, "Z\u{fc}rich \u{1f512}".as_bytes())]],
            "CN=Z\\C3\\BCrich \\F0\\9F\\94\\92",
        ),
        (
            &[&[(CN, UTF8_STRING, b"a\r\nX-Admin: 1\0\t\x7f")]],
            "CN=a\\0D\\0AX-Admin: 1\\00\\09\\7F",
        ),
        (&[&[(CN, TELETEX_STRING, b"Z\xfcrich")]], "CN=Z\\C3\\BCrich"),
        (&[&[(CN, IA5_STRING, b"caf\xe9")]], "CN=caf\\C3\\A9"),
        (&[&[(CN, PRINTABLE_STRING, b"a*b")]], "CN=a*b"),
        (&[&[(CN, NUMERIC_STRING, b"12 3")]], "CN=12 3"),
        (
            &[&[(CN, BMP_STRING, b"\0Z\0\xfc\x20\xac")]],
            "CN=Z\\C3\\BC\\E2\\82\\AC",
        ),
        (&[&[(CN, BMP_STRING, b"\0 \0a\0,\0 ")]], "CN=\\ a\\,\\ "),
        (
            &[&[(CN, UNIVERSAL_STRING, b"\0\0\0Z\0\x01\xf5\x12")]],
            "CN=Z\\F0\\9F\\94\\92",
        ),
        (
            &[&[("2.5.4.45", 3, b"\0\x2a")]],
            "x500UniqueIdentifier=#0302002A",
        ),
        (&[&[(CN, SEQUENCE, b"\x02\x01\x05")]], "CN=#3003020105"),
        (&[&[("1.2.3.4.5", UTF8_STRING, b"x")]], "1.2.3.4.5=#0C0178"),
        (
            &[&[(
                "2.25.340282366920938463463374607431768211455",
                UTF8_STRING,
                b"x",
            )]],
            "2.25.340282366920938463463374607431768211455=#0C0178",
        ),
        (&[&[("2.999.1", IA5_STRING, b"x")]], "2.999.1=#160178"),
        (
            &[&[("1.2.840.113549.1.9.1", IA5_STRING, b"a@b.example")]],
            "emailAddress=a@b.example",
        ),
        (
            &[
                &[("0.9.2342.19200300.100.1.25", IA5_STRING, b"example")],
                &[("0.9.2342.19200300.100.1.1", UTF8_STRING, b"u1")],
            ],
            "UID=u1,DC=example",
        ),
        (
            &[
                &[
                    ("2.5.4.8", UTF8_STRING, b"s"),
                    ("2.5.4.7", UTF8_STRING, b"l"),
                ],
                &[("2.5.4.9", UTF8_STRING, b"1 Main St")],
            ],
            "street=1 Main St,L=l+ST=s",
        ),
        (
            &[
                &[("2.5.4.4", UTF8_STRING, b"Sn")],
                &[("2.5.4.42", UTF8_STRING, b"Gn")],
                &[("2.5.4.12", UTF8_STRING, b"Dr")],
            ],
            "title=Dr,GN=Gn,SN=Sn",
        ),
    ];

    #[test]
    fn names_are_printed_as_openssl_prints_them() {
        for (parts, printed) in AWKWARD {
            let name = name(parts);
            assert_eq!(rfc2253(&name).as_deref(), Some(*printed));
            if let Some(theirs) = openssl(&name) {
                assert_eq!(theirs, *printed);
            }
        }
    }

    #[test]
    fn what_openssl_takes_for_no_name_is_written_without_loss() {
        for (tag, content, printed) in [
            (
                UTF8_STRING,
                &b"not \xff\xfe UTF-8"[..],
                r"CN=not \FF\FE UTF-8",
            ),
            (BMP_STRING, b"\xd8\x3d\xdd\x12", "CN=#1E04D83DDD12"),
            (BMP_STRING, b"\0a\0", "CN=#1E03006100"),
            (UNIVERSAL_STRING, b"\0\x11\0\0", "CN=#1C0400110000"),
            (2, b"\x05", "CN=#020105"),
        ] {
            let name = name(&[&[(CN, tag, content)]]);
            assert_eq!(rfc2253(&name).as_deref(), Some(printed));
        }
    }

    #[test]
    fn every_attribute_has_openssl_s_name() {
        assert!(NAMES.is_sorted());
        let parts: Vec<_> = NAMES
            .iter()
            .map(|(oid, _)| [(*oid, UTF8_STRING, &b"x"[..])])
            .collect();
        let parts: Vec<&[_]> = parts.iter().map(|part| &part[..]).collect();
        let name = name(&parts);
        if let Some(theirs) = openssl(&name) {
            assert_eq!(rfc2253(&name).unwrap(), theirs);
        }
    }

    #[test]
    fn a_name_that_is_too_long_is_left_out_and_not_cut() {
        let fits = vec![b'x'; MAX_NAME - 3];
        assert_eq!(
            rfc2253(&name(&[&[(CN, UTF8_STRING, &fits)]]))
                .unwrap()
                .len(),
            MAX_NAME
        );
        let long = vec![b'x'; MAX_NAME - 2];
        assert_eq!(rfc2253(&name(&[&[(CN, UTF8_STRING, &long)]])), None);
        let escaped = vec![b'\n'; 10_000];
        assert_eq!(rfc2253(&name(&[&[(CN, UTF8_STRING, &escaped)]])), None);
    }

    #[test]
    fn what_is_malformed_is_left_out() {
        let whole = name(&[
            &[(CN, UTF8_STRING, b"client")],
            &[(O, UTF8_STRING, b"Acme")],
        ]);
        for end in 1..whole.len() {
            let cut = rfc2253(&whole[..end]);
            assert!(cut.is_none() || end == 17, "{end}: {cut:?}");
        }
        for bytes in [
            &b"\x31\x80"[..],
            b"\x1f\x01\x00",
            b"\x31\x84\xff\xff\xff\xff",
            b"\x31\x00\x05",
        ] {
            assert_eq!(rfc2253(bytes), None, "{bytes:?}");
        }
        let unfinished = element(SET, &element(SEQUENCE, b"\x06\x02\x55\x84\x0c\x00"));
        assert_eq!(rfc2253(&unfinished), None);
    }

    proptest::proptest! {
        #[test]
        fn any_name_gives_a_field_value_or_nothing(bytes: Vec<u8>, text: Vec<u8>, tag in 0u8..0x1f) {
            if let Some(printed) = rfc2253(&bytes) {
                http::HeaderValue::from_str(&printed).unwrap();
            }
            let printed = rfc2253(&name(&[&[(CN, tag, &text)]])).unwrap();
            http::HeaderValue::from_str(&printed).unwrap();
            assert!(printed.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }
    }
}
