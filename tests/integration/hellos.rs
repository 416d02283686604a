//! ClientHellos written by hand (attacks.md rows 39, 44, 48): what each is told, and what the log says.

use lockgate::config::tls_policy::SystemPolicy;

use crate::support::backend::Backend;
use crate::support::proxy::{Proxy, Running};
use crate::support::raw::Raw;

const SSL3: u16 = 0x0300;
const TLS10: u16 = 0x0301;
const TLS11: u16 = 0x0302;
const TLS12: u16 = 0x0303;
/// ECDHE-ECDSA-AES128-GCM-SHA256
const GCM: u16 = 0xC02B;

fn vector(width: usize, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&length[4 - width..], bytes].concat()
}

fn numbers(numbers: &[u16]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_be_bytes()).collect()
}

/// An extension.
fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [numbers(&[kind]), vector(2, data)].concat()
}

/// `server_name` with these names.
fn names(names: &[&[u8]]) -> Vec<u8> {
    let entries = names.iter().map(|name| [vec![0], vector(2, name)].concat());
    extension(0, &vector(2, &entries.collect::<Vec<_>>().concat()))
}

/// What a client of TLS 1.2 says of groups and signatures.
fn abilities() -> Vec<u8> {
    let groups = extension(10, &vector(2, &numbers(&[23, 29])));
    let schemes = extension(13, &vector(2, &numbers(&[0x0403, 0x0804, 0x0401])));
    [groups, schemes].concat()
}

/// A ClientHello in one record.
fn hello(version: u16, suites: &[u16], extensions: &[u8]) -> Vec<u8> {
    let mut body = numbers(&[version]);
    body.extend([7; 32]);
    body.extend(vector(1, &[]));
    body.extend(vector(2, &numbers(suites)));
    body.extend(vector(1, &[0]));
    if !extensions.is_empty() {
        body.extend(vector(2, extensions));
    }
    let message = [vec![1], vector(3, &body)].concat();
    [vec![22, 3, 1], vector(2, &message)].concat()
}

/// What comes first in answer to some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// A ServerHello, and more.
    Hello,
    /// A fatal alert, and the end.
    Alert(u8),
    /// Only the end.
    Nothing,
}

async fn answer(proxy: &Running, bytes: &[u8]) -> Answer {
    let mut raw = Raw::over(proxy.plain().await);
    let _ = raw.try_write(bytes).await;
    let Some(header) = raw.try_read_exactly(5).await else {
        return Answer::Nothing;
    };
    let first = raw.read_exactly(2).await;
    match (header[0], first[0], first[1]) {
        (22, 2, _) => Answer::Hello,
        (21, 2, alert) => {
            assert_eq!(raw.read_until_close().await, b"");
            Answer::Alert(alert)
        }
        other => panic!("{other:?}"),
    }
}

const FAILED: &str = "TLS handshake failed";

/// How often a handshake has failed so far, by the log.
fn failures(proxy: &Running) -> usize {
    proxy.stderr().matches(FAILED).count()
}

/// The log tells of one more.
async fn logged(proxy: &mut Running, before: usize) {
    proxy
        .wait_for_stderr(|said| said.matches(FAILED).count() > before)
        .await;
}

/// Whether a client says anything of groups and signatures, as those of today do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    Nothing,
    Abilities,
}

/// What it is, its version and suites, the alert, and what the log says that it failed over.
type Refused = (&'static str, u16, &'static [u16], Says, u8, &'static str);

/// What nobody serves.
#[rustfmt::skip]
const REFUSED: [Refused; 11] = [
    ("SSL 3", SSL3, &[0x000A, 0x0005], Says::Nothing, HANDSHAKE_FAILURE, "version"),
    ("SSL 3 of today", SSL3, &[GCM], Says::Abilities, PROTOCOL_VERSION, "version"),
    ("RC4", TLS12, &[0x0005], Says::Abilities, HANDSHAKE_FAILURE, "suite"),
    ("RC4 with ECDHE", TLS12, &[0xC007, 0xC011], Says::Abilities, HANDSHAKE_FAILURE, "suite"),
    ("export RC4", TLS10, &[0x0003], Says::Nothing, HANDSHAKE_FAILURE, "version"),
    ("export DES", TLS12, &[0x0008, 0x0014], Says::Abilities, HANDSHAKE_FAILURE, "suite"),
    ("3DES", TLS12, &[0x000A, 0xC008, 0xC012], Says::Abilities, HANDSHAKE_FAILURE, "suite"),
    ("3DES in TLS 1.0", TLS10, &[0x000A], Says::Nothing, HANDSHAKE_FAILURE, "version"),
    ("no encryption", TLS12, &[0x0001, 0x0002], Says::Abilities, HANDSHAKE_FAILURE, "suite"),
    ("no authentication", TLS12, &[0x0034, 0x0018], Says::Abilities, HANDSHAKE_FAILURE, "suite"),
    ("nothing but a signal", TLS11, &[0x00FF], Says::Nothing, HANDSHAKE_FAILURE, "version"),
];
const HANDSHAKE_FAILURE: u8 = 40;
const PROTOCOL_VERSION: u8 = 70;

#[tokio::test]
async fn old_versions_and_broken_suites_are_refused_with_an_alert_and_logged() {
    let backend = Backend::echo().run().await;
    // SSL 2 knows no alert that it could be told.
    let ssl2 = [&[0x80, 46, 1, 0, 2, 0, 21, 0, 0, 0, 16][..], &[7; 37]].concat();
    // The default, and a policy that lists 3DES and TLS 1.0.
    for policy in [SystemPolicy::Strict12With13, SystemPolicy::From10] {
        let line = format!("tls_policy = \"{}\"", policy.name());
        let mut proxy = Proxy::to(&backend).listener(&line).run().await;
        let offered = hello(TLS12, &[GCM], &abilities());
        assert_eq!(answer(&proxy, &offered).await, Answer::Hello);
        // Nobody goes on with it.
        logged(&mut proxy, 0).await;
        for (what, version, suites, says, alert, over) in REFUSED {
            let extensions = match says {
                Says::Nothing => Vec::new(),
                Says::Abilities => abilities(),
            };
            let before = failures(&proxy);
            let told = answer(&proxy, &hello(version, suites, &extensions)).await;
            assert_eq!(told, Answer::Alert(alert), "{policy:?} {what}");
            logged(&mut proxy, before).await;
            let said = proxy.stderr();
            let last = said.lines().rfind(|line| line.contains(FAILED)).unwrap();
            let category = format!("category=\"{over}\"");
            assert!(last.contains(&category), "{policy:?} {what}: {last}");
        }
        let before = failures(&proxy);
        assert_ne!(answer(&proxy, &ssl2).await, Answer::Hello);
        logged(&mut proxy, before).await;
    }
    assert!(backend.requests().is_empty());
}

#[tokio::test]
async fn a_tls_1_2_client_is_told_that_1_3_was_there_and_only_then() {
    let backend = Backend::echo().run().await;
    for (policy, is_told) in [
        (SystemPolicy::Strict12With13, true),
        (SystemPolicy::Strict12, false),
    ] {
        let line = format!("tls_policy = \"{}\"", policy.name());
        let proxy = Proxy::to(&backend).listener(&line).run().await;
        let mut raw = Raw::over(proxy.plain().await);
        raw.write(hello(TLS12, &[GCM], &abilities())).await;
        // Record, message, version, and the random number (RFC 8446 4.1.3).
        let come = raw.read_exactly(5 + 4 + 2 + 32).await;
        assert_eq!((come[0], come[5]), (22, 2));
        assert_eq!(come.ends_with(b"DOWNGRD\x01"), is_told, "{policy:?}");
    }
}

#[tokio::test]
async fn odd_names_get_the_default_certificate_or_an_alert_and_never_another_policy() {
    let backend = Backend::echo().run().await;
    let plain = Proxy::to(&backend).run().await;
    let strict = Proxy::to(&backend)
        .listener("sni_strict = true")
        .run()
        .await;
    let long = ["a".repeat(63).as_str(); 4].join(".") + ".example";
    let (unknown, malformed, illegal) = (Answer::Alert(112), Answer::Alert(50), Answer::Alert(47));
    for (what, extension, at_plain, at_strict) in [
        (
            "a name",
            names(&[b"localhost"]),
            Answer::Hello,
            Answer::Hello,
        ),
        (
            "in upper case",
            names(&[b"LOCALHOST"]),
            Answer::Hello,
            Answer::Hello,
        ),
        ("none", Vec::new(), Answer::Hello, unknown),
        (
            "a trailing dot",
            names(&[b"localhost."]),
            Answer::Hello,
            Answer::Hello,
        ),
        ("an address", names(&[b"127.0.0.1"]), Answer::Hello, unknown),
        (
            "an address of IPv6",
            names(&[b"::1"]),
            Answer::Hello,
            unknown,
        ),
        ("a long name", names(&[long.as_bytes()]), illegal, illegal),
        ("an endless name", names(&[&[b'a'; 9000]]), illegal, illegal),
        ("nothing as name", names(&[b""]), malformed, malformed),
        (
            "two names",
            names(&[b"localhost", b"localhost"]),
            malformed,
            malformed,
        ),
        ("a NUL", names(&[b"localhost\0.example"]), illegal, illegal),
        ("a wildcard", names(&[b"*.example"]), illegal, illegal),
        (
            "no ASCII",
            names(&["\u{e9}.example".as_bytes()]),
            illegal,
            illegal,
        ),
    ] {
        let offered = hello(TLS12, &[GCM], &[extension, abilities()].concat());
        assert_eq!(answer(&plain, &offered).await, at_plain, "{what}");
        assert_eq!(answer(&strict, &offered).await, at_strict, "{what}, strict");
    }
}

#[tokio::test]
async fn records_that_carry_nothing_end_a_handshake() {
    let backend = Backend::echo().run().await;
    let proxy = Proxy::to(&backend).run().await;
    for (what, record) in [
        ("empty", &[22, 3, 1, 0, 0][..]),
        ("change of cipher", &[20, 3, 3, 0, 1, 1]),
        ("warning", &[21, 3, 1, 0, 2, 1, 90]),
        ("application data", &[23, 3, 3, 0, 1, 0]),
    ] {
        let told = answer(&proxy, &record.repeat(2000)).await;
        assert_ne!(told, Answer::Hello, "{what}");
    }
    assert_eq!(proxy.client().await.get("/").await.status, 200);
}
