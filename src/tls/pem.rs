//! Certificates, private keys and revocation lists from PEM files (alb.md section 5.1): the one file that
//! knows which PEM reader is used.
//!
//! The reader passes over sections it does not know, so the BEGIN and END lines are looked at first:
//! what cannot be used is refused by name, and nothing is dropped silently. A file that holds both
//! chain and key may be given for either.

use std::path::Path;

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::pem_error::{CRL, Half, MAX_CRL_SIZE, MAX_FILE_SIZE, PemError, PemFault, Wanted};
use crate::file::{self, ReadError};

/// Reads the text of a chain or key, which is wiped when it is dropped.
pub fn read_text(path: &Path) -> Result<Zeroizing<Vec<u8>>, PemError> {
    read(path, MAX_FILE_SIZE)
        .map(Zeroizing::new)
        .map_err(|fault| PemError::new(path, fault))
}

/// The certificate chain in the text of a file, leaf first.
pub fn chain_of(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    parse_chain(text).map_err(|fault| PemError::new(path, fault))
}

/// The private key, in PKCS#8, PKCS#1 or SEC1 form, in the text of a file.
pub fn key_of(path: &Path, text: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    parse_key(text).map_err(|fault| PemError::new(path, fault))
}

/// Reads the certificates of authorities, in any order.
pub fn read_authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    read(path, MAX_FILE_SIZE)
        .and_then(|text| parse_authorities(&text))
        .map_err(|fault| PemError::new(path, fault))
}

/// Reads certificate revocation lists.
pub fn read_crls(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    read(path, MAX_CRL_SIZE)
        .and_then(|text| parse_crls(&text))
        .map_err(|fault| PemError::new(path, fault))
}

/// The certificates of a PEM text, in its order; there is at least one.
pub fn parse_chain(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemFault> {
    let sections = sections(text)?;
    for section in &sections {
        match section {
            Section::Useless(label) => return Err(refusal(label, Wanted::Chain)),
            Section::Crl => return Err(refusal(CRL, Wanted::Chain)),
            Section::Certificate
            | Section::Key
            | Section::EncryptedKey
            | Section::CurveParameters => {}
        }
    }
    let holds_key = sections.contains(&Section::Key) || sections.contains(&Section::EncryptedKey);
    match sections.contains(&Section::Certificate) {
        true if sections.contains(&Section::EncryptedKey) => Err(PemFault::Encrypted),
        true => Ok(certificates(items(text)?)),
        false if holds_key => Err(PemFault::OtherHalf(Half::Chain)),
        false => Err(PemFault::Missing(Half::Chain)),
    }
}

/// The one private key of a PEM text.
pub fn parse_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, PemFault> {
    let sections = sections(text)?;
    for section in &sections {
        match section {
            Section::EncryptedKey => return Err(PemFault::Encrypted),
            Section::Useless(label) => return Err(refusal(label, Wanted::Key)),
            Section::Crl => return Err(refusal(CRL, Wanted::Key)),
            Section::Certificate | Section::Key | Section::CurveParameters => {}
        }
    }
    let mut keys = items(text)?.into_iter().filter_map(|item| match item {
        Item::Key(key) => Some(key),
        Item::Certificate(_) | Item::Crl(_) => None,
    });
    match (keys.next(), keys.next()) {
        (Some(key), None) => Ok(key),
        (Some(_), Some(_)) => Err(PemFault::SeveralKeys),
        (None, _) if sections.contains(&Section::Certificate) => {
            Err(PemFault::OtherHalf(Half::Key))
        }
        (None, _) => Err(PemFault::Missing(Half::Key)),
    }
}

/// The certificates of a PEM text of authorities; there is at least one.
pub fn parse_authorities(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemFault> {
    let is_certificate = |section: &Section| *section == Section::Certificate;
    only(text, Wanted::Authorities, is_certificate).map(certificates)
}

/// The revocation lists of a PEM text; there is at least one.
pub fn parse_crls(text: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, PemFault> {
    let items = only(text, Wanted::Crls, |section| *section == Section::Crl)?;
    let lists = items.into_iter().filter_map(|item| match item {
        Item::Crl(list) => Some(list),
        Item::Certificate(_) | Item::Key(_) => None,
    });
    Ok(lists.collect())
}

/// The items of a text that holds nothing but sections of one kind.
fn only(
    text: &[u8],
    wanted: Wanted,
    is_wanted: impl Fn(&Section) -> bool,
) -> Result<Vec<Item>, PemFault> {
    match sections(text)?.iter().find(|section| !is_wanted(section)) {
        Some(other) => Err(refusal(other.label(), wanted)),
        None => items(text),
    }
}

/// A section by what can be done with it.
#[derive(Debug, PartialEq)]
enum Section {
    Certificate,
    Key,
    EncryptedKey,
    /// `EC PARAMETERS`, which openssl writes before an EC key: the key repeats them.
    CurveParameters,
    Crl,
    /// Everything else, by its label.
    Useless(String),
}

enum Item {
    Certificate(CertificateDer<'static>),
    Key(PrivateKeyDer<'static>),
    Crl(CertificateRevocationListDer<'static>),
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, PemFault> {
    match file::read(path, limit) {
        Ok((text, _)) => Ok(text),
        Err(ReadError::Unreadable(error)) => Err(PemFault::Unreadable(error)),
        Err(ReadError::NotAFile(what)) => Err(PemFault::NotAFile(what)),
        Err(ReadError::TooLarge) => Err(PemFault::TooLarge(limit)),
    }
}

/// The sections of a text, whole and well separated; at least one.
fn sections(text: &[u8]) -> Result<Vec<Section>, PemFault> {
    let text = without_byte_order_mark(text);
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err(PemFault::Empty);
    }
    let mut sections = Vec::new();
    let mut open: Option<String> = None;
    for line in text
        .split(|&byte| byte == b'\n' || byte == b'\r')
        .map(<[u8]>::trim_ascii_end)
    {
        if line.starts_with(BEGIN) {
            if let Some(label) = open {
                return Err(unended(&label));
            }
            let label = label(line, BEGIN)?;
            sections.push(Section::new(&label));
            open = Some(label);
        } else if line.starts_with(END) {
            let label = label(line, END)?;
            if open.take().as_ref() != Some(&label) {
                return Err(PemFault::Malformed(format!(
                    "`END {label}` ends no section"
                )));
            }
        } else if line.windows(BEGIN.len()).any(|window| window == BEGIN) {
            return Err(PemFault::Malformed(
                "a BEGIN line does not begin its line".into(),
            ));
        } else if line.starts_with(b"Proc-Type:") && line.ends_with(b"ENCRYPTED") {
            sections.pop();
            sections.push(Section::EncryptedKey);
        }
    }
    if let Some(label) = open {
        return Err(unended(&label));
    }
    if sections.is_empty() {
        return Err(if text.first() == Some(&ASN1_SEQUENCE) {
            PemFault::Der
        } else {
            PemFault::NoPem
        });
    }
    if sections.contains(&Section::Useless("DH PARAMETERS".into())) {
        return Err(PemFault::DhParameters);
    }
    Ok(sections)
}

impl Section {
    fn new(label: &str) -> Self {
        match label {
            "CERTIFICATE" => Self::Certificate,
            "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" => Self::Key,
            "ENCRYPTED PRIVATE KEY" => Self::EncryptedKey,
            "EC PARAMETERS" => Self::CurveParameters,
            CRL => Self::Crl,
            "X9.42 DH PARAMETERS" => Self::Useless("DH PARAMETERS".into()),
            other => Self::Useless(other.into()),
        }
    }

    /// What it is called where it does not belong.
    fn label(&self) -> &str {
        match self {
            Self::Certificate => "CERTIFICATE",
            Self::Key => "PRIVATE KEY",
            Self::EncryptedKey => "ENCRYPTED PRIVATE KEY",
            Self::CurveParameters => "EC PARAMETERS",
            Self::Crl => CRL,
            Self::Useless(label) => label,
        }
    }
}

/// What stands between `marker` and the five dashes that must end the line.
fn label(line: &[u8], marker: &[u8]) -> Result<String, PemFault> {
    let label = line
        .strip_prefix(marker)
        .and_then(|rest| rest.strip_suffix(b"-----"));
    match label.map(|label| String::from_utf8_lossy(label).into_owned()) {
        Some(label) if !label.contains("-----") => Ok(label),
        Some(_) => Err(PemFault::Malformed("two sections meet on one line".into())),
        None => Err(PemFault::Malformed(format!(
            "`{}` does not end in five dashes",
            String::from_utf8_lossy(line)
        ))),
    }
}

fn unended(label: &str) -> PemFault {
    PemFault::Malformed(format!("a `{label}` section has no end"))
}

fn refusal(label: &str, wanted: Wanted) -> PemFault {
    PemFault::WrongSection {
        label: label.to_owned(),
        wanted,
    }
}

/// Decodes the sections that can be used.
fn items(text: &[u8]) -> Result<Vec<Item>, PemFault> {
    let mut items = Vec::new();
    let mut rest = without_byte_order_mark(text);
    while let Some((item, after)) =
        rustls_pemfile::read_one_from_slice(rest).map_err(|error| decode_fault(&error))?
    {
        rest = after;
        items.extend(match item {
            rustls_pemfile::Item::X509Certificate(certificate) => {
                Some(Item::Certificate(certificate))
            }
            rustls_pemfile::Item::Pkcs1Key(key) => Some(Item::Key(key.into())),
            rustls_pemfile::Item::Pkcs8Key(key) => Some(Item::Key(key.into())),
            rustls_pemfile::Item::Sec1Key(key) => Some(Item::Key(key.into())),
            rustls_pemfile::Item::Crl(list) => Some(Item::Crl(list)),
            rustls_pemfile::Item::SubjectPublicKeyInfo(_) | rustls_pemfile::Item::Csr(_) | _ => {
                None
            }
        });
    }
    Ok(items)
}

fn certificates(items: Vec<Item>) -> Vec<CertificateDer<'static>> {
    items
        .into_iter()
        .filter_map(|item| match item {
            Item::Certificate(certificate) => Some(certificate),
            Item::Key(_) | Item::Crl(_) => None,
        })
        .collect()
}

fn decode_fault(error: &rustls_pemfile::Error) -> PemFault {
    PemFault::Malformed(match error {
        rustls_pemfile::Error::MissingSectionEnd { end_marker } => {
            format!(
                "a `{}` section has no end",
                String::from_utf8_lossy(end_marker)
            )
        }
        rustls_pemfile::Error::IllegalSectionStart { line } => {
            format!(
                "`{}` is no section's beginning",
                String::from_utf8_lossy(line).trim_end()
            )
        }
        rustls_pemfile::Error::Base64Decode(_) => "a section is not valid base64".into(),
    })
}

/// Windows editors write one.
fn without_byte_order_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text)
}

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";

/// The first byte of every DER certificate, key and PKCS#12 file.
const ASN1_SEQUENCE: u8 = 0x30;

#[cfg(test)]
mod tests {
    use rcgen::KeyPair;
    use std::fs;

    use super::*;

    fn section(label: &str) -> String {
        format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n")
    }

    fn certificate_pem() -> String {
        let key = KeyPair::generate().unwrap();
        rcgen::CertificateParams::new(vec!["a.example.com".into()])
            .unwrap()
            .self_signed(&key)
            .unwrap()
            .pem()
    }

    fn key_pem() -> String {
        KeyPair::generate().unwrap().serialize_pem()
    }

    /// Checks what is said of a text that is given as a chain, and as a key; nothing where it is taken.
    fn check(text: &str, as_chain: &str, as_key: &str) {
        let message =
            |fault: Option<PemFault>| fault.map(|fault| fault.to_string()).unwrap_or_default();
        assert_eq!(
            message(parse_chain(text.as_bytes()).err()),
            as_chain,
            "{text}"
        );
        assert_eq!(message(parse_key(text.as_bytes()).err()), as_key, "{text}");
    }

    #[test]
    fn texts_that_are_no_whole_pem_are_refused() {
        let certificate = certificate_pem();
        let cut = &certificate[..certificate.len() / 2];
        let joined = format!("{}{certificate}", certificate.trim_end());
        let indented = format!(
            "{certificate}{}",
            certificate.replace("-----BEGIN", "  -----BEGIN")
        );
        let wrong_end = section("CERTIFICATE").replace("END CERTIFICATE", "END PRIVATE KEY");
        for (text, refusal) in [
            ("", "is empty"),
            (" \r\n\n", "is empty"),
            ("hello", "holds no PEM section"),
            (cut, "is damaged: a `CERTIFICATE` section has no end"),
            (
                &format!("{cut}\n{certificate}"),
                "is damaged: a `CERTIFICATE` section has no end",
            ),
            (&joined, "is damaged: two sections meet on one line"),
            (
                &indented,
                "is damaged: a BEGIN line does not begin its line",
            ),
            (&wrong_end, "is damaged: `END PRIVATE KEY` ends no section"),
            (
                "-----BEGIN CERTIFICATE---\n",
                "is damaged: `-----BEGIN CERTIFICATE---` does not end in five dashes",
            ),
            (
                &format!("{certificate}{}", section("DH PARAMETERS")),
                "holds `DH PARAMETERS`, which are not supported",
            ),
        ] {
            check(text, refusal, refusal);
        }
        check(
            &certificate.replace("MII", "M!I"),
            "is damaged: a section is not valid base64",
            "is damaged: a section is not valid base64",
        );
        let der = KeyPair::generate().unwrap().serialize_der();
        assert_eq!(
            parse_key(&der).unwrap_err().to_string(),
            "is binary (DER or PKCS#12), not PEM"
        );
    }

    #[test]
    fn sections_of_the_wrong_kind_are_refused() {
        let (certificate, key) = (certificate_pem(), key_pem());
        let encrypted = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        let no_certificate = "holds a private key, but no certificate";
        for (text, as_chain, as_key) in [
            (&key, no_certificate, ""),
            (&certificate, "", "holds certificates, but no private key"),
            (
                &format!("{key}{}", key_pem()),
                no_certificate,
                "holds more than one private key",
            ),
            (
                &section("EC PARAMETERS"),
                "holds no certificate",
                "holds no private key",
            ),
            (
                &section("ENCRYPTED PRIVATE KEY"),
                no_certificate,
                "holds an encrypted key",
            ),
            (
                &encrypted.to_owned(),
                no_certificate,
                "holds an encrypted key",
            ),
            (
                &format!("{certificate}{encrypted}"),
                "holds an encrypted key",
                "holds an encrypted key",
            ),
        ] {
            check(text, as_chain, as_key);
        }
        for label in [
            "PUBLIC KEY",
            "CERTIFICATE REQUEST",
            "PKCS7",
            "X509 CRL",
            "TRUSTED CERTIFICATE",
            "OTHER",
        ] {
            check(
                &format!("{certificate}{}", section(label)),
                &format!("holds a `{label}` section where only certificates are expected"),
                &format!("holds a `{label}` section where a private key is expected"),
            );
        }
    }

    #[test]
    fn chains_keep_their_order_and_line_ends_do_not_matter() {
        let (first, second) = (certificate_pem(), certificate_pem());
        let chain = parse_chain(format!("{first}{second}").as_bytes()).unwrap();
        assert_eq!(chain.len(), 2);
        assert_eq!(chain[..1], parse_chain(first.as_bytes()).unwrap());
        let windows = format!(
            "\u{feff}{}",
            format!("{first}\n{second}").replace('\n', "\r\n")
        );
        assert_eq!(parse_chain(windows.as_bytes()).unwrap(), chain);
        let without_last_newline = format!("subject=CN = a\n{first}{}", second.trim_end());
        assert_eq!(parse_chain(without_last_newline.as_bytes()).unwrap(), chain);
    }

    #[test]
    fn curve_parameters_and_a_chain_may_stand_beside_the_key() {
        let (certificate, key) = (certificate_pem(), key_pem());
        let both = format!("{}{key}{certificate}", section("EC PARAMETERS"));
        assert_eq!(
            parse_key(both.as_bytes()).unwrap(),
            parse_key(key.as_bytes()).unwrap()
        );
        assert_eq!(
            parse_chain(both.as_bytes()).unwrap(),
            parse_chain(certificate.as_bytes()).unwrap()
        );
    }

    #[test]
    fn only_regular_files_of_sane_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing.pem");
        assert_eq!(
            read_text(&missing).unwrap_err().to_string(),
            format!(
                "`{}` cannot be read: no such file or directory",
                missing.display()
            )
        );
        let error = read_text(folder.path()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("`{}` is a directory, not a file", folder.path().display())
        );
        assert_eq!(
            read_text(Path::new("/dev/null"))
                .unwrap_err()
                .fault()
                .to_string(),
            "is a device, pipe or socket, not a file"
        );
        let large = folder.path().join("large.pem");
        fs::write(&large, "-".repeat(1024 * 1024 + 1)).unwrap();
        assert_eq!(
            read_text(&large).unwrap_err().fault().to_string(),
            "is larger than 1024 KiB"
        );
        let good = folder.path().join("good.pem");
        fs::write(&good, certificate_pem()).unwrap();
        let text = read_text(&good).unwrap();
        assert_eq!(chain_of(&good, &text).unwrap().len(), 1);
    }
}
