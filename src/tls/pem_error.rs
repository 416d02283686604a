//! What can be wrong with a PEM file, and what the user can do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The largest file that is read: hundreds of chains.
pub const MAX_FILE_SIZE: u64 = 1024 * 1024;
/// The largest file of revocation lists that is read: a million entries.
pub const MAX_CRL_SIZE: u64 = 64 * 1024 * 1024;

/// The label of a revocation list.
pub(super) const CRL: &str = "X509 CRL";

/// What a file was opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The certificates.
    Chain,
    /// The private key.
    Key,
    /// The certificates of those who issue clients' certificates.
    Authorities,
    /// Revocation lists.
    Crls,
}

/// A half of what a server proves itself with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// The certificates.
    Chain,
    /// The private key.
    Key,
}

/// A PEM file that cannot be used.
#[derive(Debug)]
pub struct PemError {
    path: PathBuf,
    fault: PemFault,
}

impl PemError {
    /// A fault of a file.
    pub fn new(path: &Path, fault: PemFault) -> Self {
        Self {
            path: path.to_owned(),
            fault,
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is wrong with it.
    pub fn fault(&self) -> &PemFault {
        &self.fault
    }

    /// What the user can do about it.
    pub fn help(&self) -> &'static str {
        self.fault.help()
    }
}

impl fmt::Display for PemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.path.display(), self.fault)
    }
}

impl std::error::Error for PemError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.fault {
            PemFault::Unreadable(cause) => Some(cause),
            PemFault::NotAFile(_)
            | PemFault::TooLarge(_)
            | PemFault::Empty
            | PemFault::Der
            | PemFault::NoPem
            | PemFault::Malformed(_)
            | PemFault::DhParameters
            | PemFault::Encrypted
            | PemFault::WrongSection { .. }
            | PemFault::OtherHalf(_)
            | PemFault::Missing(_)
            | PemFault::SeveralKeys => None,
        }
    }
}

/// Why a PEM file cannot be used; the text continues a sentence that begins with the file's name.
#[derive(Debug)]
pub enum PemFault {
    /// The system does not let us.
    Unreadable(io::Error),
    /// A directory, a FIFO, a device.
    NotAFile(&'static str),
    /// More than so many bytes: [`MAX_FILE_SIZE`], or [`MAX_CRL_SIZE`].
    TooLarge(u64),
    /// No byte in it, or only white space.
    Empty,
    /// Binary ASN.1: DER, or PKCS#12.
    Der,
    /// No BEGIN line.
    NoPem,
    /// PEM that breaks off or does not decode.
    Malformed(String),
    /// Diffie-Hellman parameters (S1).
    DhParameters,
    /// A key that needs a pass phrase.
    Encrypted,
    /// A section of a kind that does not belong here.
    WrongSection {
        /// What stands after BEGIN.
        label: String,
        /// What the file was opened for.
        wanted: Wanted,
    },
    /// The half that is wanted is missing, the other is there.
    OtherHalf(Half),
    /// Neither a key nor a certificate.
    Missing(Half),
    /// More than one key.
    SeveralKeys,
}

impl PemFault {
    /// What the user can do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => {
                "the file must exist and be readable by the user that lockgate runs as"
            }
            Self::NotAFile(_) => "name a regular file, or a link to one",
            Self::TooLarge(_) => {
                "a file of certificates is read up to 1 MiB, one of revocation lists up to 64 MiB; is this the right file?"
            }
            Self::Empty | Self::NoPem => {
                "a PEM file has lines such as `-----BEGIN CERTIFICATE-----`"
            }
            Self::Der => {
                "convert it to PEM: `openssl x509 -inform DER -in FILE` for a certificate, \
                 `openssl pkey -inform DER -in FILE` for a key, `openssl crl -inform DER -in FILE` for a \
                 revocation list, `openssl pkcs12 -in FILE -nodes` for PKCS#12"
            }
            Self::Malformed(_) => {
                "was the file cut short, or were files joined without a line break between them?"
            }
            Self::DhParameters => {
                "remove the DH PARAMETERS section: ECDHE is used for key exchange and needs none"
            }
            Self::Encrypted => {
                "decrypt it with `openssl pkey -in FILE -out NEW_FILE` and keep the new file mode 0600"
            }
            Self::WrongSection { label, wanted } => wrong_section_help(label, *wanted),
            Self::OtherHalf(Half::Chain) => {
                "`cert` names the certificate chain and `key` the key; are they swapped?"
            }
            Self::OtherHalf(Half::Key) => {
                "`key` names the private key and `cert` the chain; are they swapped?"
            }
            Self::Missing(Half::Chain) => {
                "a certificate follows a `-----BEGIN CERTIFICATE-----` line"
            }
            Self::Missing(Half::Key) => {
                "the key follows a `-----BEGIN PRIVATE KEY-----` line (or RSA PRIVATE KEY, EC PRIVATE KEY)"
            }
            Self::SeveralKeys => "leave the one key that belongs to the chain's first certificate",
        }
    }
}

impl fmt::Display for PemFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(cause) => write!(f, "cannot be read: {}", os_reason(cause)),
            Self::NotAFile(kind) => write!(f, "is {kind}, not a file"),
            Self::TooLarge(limit) => write!(f, "is larger than {} KiB", limit / 1024),
            Self::Empty => f.write_str("is empty"),
            Self::Der => f.write_str("is binary (DER or PKCS#12), not PEM"),
            Self::NoPem => f.write_str("holds no PEM section"),
            Self::Malformed(what) => write!(f, "is damaged: {what}"),
            Self::DhParameters => f.write_str("holds `DH PARAMETERS`, which are not supported"),
            Self::Encrypted => f.write_str("holds an encrypted key"),
            Self::WrongSection { label, wanted } => {
                let expected = match wanted {
                    Wanted::Chain | Wanted::Authorities => "only certificates are",
                    Wanted::Key => "a private key is",
                    Wanted::Crls => "only revocation lists are",
                };
                write!(f, "holds a `{label}` section where {expected} expected")
            }
            Self::OtherHalf(Half::Chain) => f.write_str("holds a private key, but no certificate"),
            Self::OtherHalf(Half::Key) => f.write_str("holds certificates, but no private key"),
            Self::Missing(Half::Chain) => f.write_str("holds no certificate"),
            Self::Missing(Half::Key) => f.write_str("holds no private key"),
            Self::SeveralKeys => f.write_str("holds more than one private key"),
        }
    }
}

fn wrong_section_help(label: &str, wanted: Wanted) -> &'static str {
    match (wanted, label) {
        (Wanted::Authorities, CRL) => return "revocation lists are named by `crl`",
        (Wanted::Authorities, "PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" | "EC PARAMETERS") => {
            return "an authority's private key must not lie here; leave only its certificate";
        }
        (Wanted::Crls, "CERTIFICATE") => return "certificates of authorities are named by `ca`",
        (Wanted::Crls, _) => return "a list is made by `openssl ca -gencrl`, or by the authority",
        (Wanted::Chain | Wanted::Key | Wanted::Authorities, _) => {}
    }
    match label {
        "PUBLIC KEY" | "RSA PUBLIC KEY" => {
            "a public key is of no use here; the private key was made together with it"
        }
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => {
            "this is the request; use the certificate that the authority answered with"
        }
        "PKCS7" | "CMS" => "convert it with `openssl pkcs7 -print_certs -in FILE`",
        "TRUSTED CERTIFICATE" | "X509 CERTIFICATE" => "convert it with `openssl x509 -in FILE`",
        CRL => "a revocation list does not belong here; remove the section",
        "DSA PRIVATE KEY" => "DSA is no longer part of TLS; use an ECDSA or RSA key",
        "OPENSSH PRIVATE KEY" => "this is an SSH key; make a TLS key with `openssl genpkey`",
        _ => {
            "`CERTIFICATE` sections make a chain; `PRIVATE KEY`, `RSA PRIVATE KEY` or `EC PRIVATE KEY` is a key"
        }
    }
}

/// The system's words, without the number that Rust appends, in lower case.
fn os_reason(cause: &io::Error) -> String {
    let text = cause.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    characters
        .next()
        .map(|first| first.to_ascii_lowercase())
        .into_iter()
        .chain(characters)
        .collect()
}
