//! A certificate chain with its key, checked and ready to be served (alb.md sections 5.1 and 5.4).
//!
//! What cannot work is an error: a key of another certificate, a key that TLS cannot sign with. What a
//! load balancer serves all the same is a warning: expiry, a chain out of order, a missing intermediate.
//! Names are read here and not by webpki, which passes over forms such as `*test.example.com`.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::Certificate;
use x509_cert::SubjectPublicKeyInfo;
use x509_cert::der::asn1::{ObjectIdentifier, UintRef};
use x509_cert::der::{Decode, Reader, SliceReader};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

#[cfg(feature = "legacy-tls")]
use super::legacy::pair::LazyPair;
use super::server_name::CertificateNames;

/// A chain and its key, with what choosing among certificates needs to know.
pub struct ServedCertificate {
    key: Arc<CertifiedKey>,
    #[cfg(feature = "legacy-tls")]
    openssl: LazyPair,
    names: CertificateNames,
    kind: KeyKind,
    not_before: SystemTime,
    not_after: SystemTime,
    chain_warning: Option<CertificateWarning>,
}

impl ServedCertificate {
    /// Checks that chain (leaf first) and key belong together and can be used.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, CertificateError> {
        let parsed = parse_chain(&chain)?;
        let leaf = parsed
            .first()
            .ok_or(CertificateError::EmptyChain)?
            .tbs_certificate();
        let kind = KeyKind::of(leaf.subject_public_key_info())?;
        let names = names(leaf).map_err(|error| unparsable(0, &error))?;
        let validity = leaf.validity();
        let (not_before, not_after) = (
            validity.not_before.to_system_time(),
            validity.not_after.to_system_time(),
        );
        #[cfg(feature = "legacy-tls")]
        let openssl = LazyPair::new(key.clone_key());
        let key = aws_lc_rs::default_provider()
            .key_provider
            .load_private_key(key)
            .map_err(|_| CertificateError::UnusableKey)?;
        check_key(&*key, &parsed)?;
        let chain_warning = chain_warning(&parsed);
        Ok(Self {
            key: Arc::new(CertifiedKey::new(chain, key)),
            #[cfg(feature = "legacy-tls")]
            openssl,
            names,
            kind,
            not_before,
            not_after,
            chain_warning,
        })
    }

    /// What rustls serves.
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// What OpenSSL serves.
    #[cfg(feature = "legacy-tls")]
    pub(super) fn openssl(&self) -> &LazyPair {
        &self.openssl
    }

    /// The host names it answers for.
    pub fn names(&self) -> &CertificateNames {
        &self.names
    }

    /// The key's algorithm and size.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The first moment of its validity.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The last moment of its validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// What a user should know about it at the moment `now`; it is served all the same.
    pub fn warnings(&self, now: SystemTime) -> Vec<CertificateWarning> {
        let nameless = self.names.patterns().is_empty();
        let unmatched = self
            .names
            .unmatched()
            .iter()
            .map(|name| CertificateWarning::NeverMatched(name.to_string()));
        self.validity_warning(now)
            .into_iter()
            .chain(self.chain_warning.clone())
            .chain(nameless.then_some(CertificateWarning::NoName))
            .chain(unmatched)
            .collect()
    }

    fn validity_warning(&self, now: SystemTime) -> Option<CertificateWarning> {
        let Ok(left) = self.not_after.duration_since(now) else {
            return Some(CertificateWarning::Expired(self.not_after));
        };
        if now < self.not_before {
            Some(CertificateWarning::NotYetValid(self.not_before))
        } else {
            (left < EXPIRY_NOTICE).then_some(CertificateWarning::ExpiresSoon(self.not_after))
        }
    }
}

/// The key stays out of every log.
impl fmt::Debug for ServedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServedCertificate")
            .field("names", &self.names)
            .field("kind", &self.kind)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// A leaf's key algorithm and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA on one of the three NIST curves.
    Ecdsa(Curve),
    /// EdDSA on Curve25519.
    Ed25519,
    /// RSA, 2048 to 8192 bits.
    Rsa {
        /// The modulus' length.
        bits: usize,
    },
}

/// A curve of an ECDSA key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// secp256r1
    P256,
    /// secp384r1
    P384,
    /// secp521r1
    P521,
}

impl KeyKind {
    fn of(key: &SubjectPublicKeyInfo) -> Result<Self, CertificateError> {
        let algorithm = key.algorithm.oid;
        if algorithm == RSA {
            let bits = rsa_bits(key.subject_public_key.raw_bytes())
                .ok_or(CertificateError::UnusableKey)?;
            return if RSA_BITS.contains(&bits) {
                Ok(Self::Rsa { bits })
            } else {
                Err(CertificateError::RsaSize(bits))
            };
        }
        if algorithm == ED25519 {
            return Ok(Self::Ed25519);
        }
        let parameters = key.algorithm.parameters.as_ref();
        let curve =
            parameters.and_then(|parameters| parameters.decode_as::<ObjectIdentifier>().ok());
        match curve {
            Some(P256) if algorithm == EC => Ok(Self::Ecdsa(Curve::P256)),
            Some(P384) if algorithm == EC => Ok(Self::Ecdsa(Curve::P384)),
            Some(P521) if algorithm == EC => Ok(Self::Ecdsa(Curve::P521)),
            Some(other) if algorithm == EC => {
                Err(CertificateError::UnsupportedKey(other.to_string()))
            }
            Some(_) | None => Err(CertificateError::UnsupportedKey(algorithm.to_string())),
        }
    }

    /// The key's length in bits.
    pub fn bits(self) -> usize {
        match self {
            Self::Ecdsa(Curve::P256) | Self::Ed25519 => 256,
            Self::Ecdsa(Curve::P384) => 384,
            Self::Ecdsa(Curve::P521) => 521,
            Self::Rsa { bits } => bits,
        }
    }

    /// The signature schemes it can sign a handshake with; a client must know one of them.
    pub fn schemes(self) -> &'static [SignatureScheme] {
        match self {
            Self::Ecdsa(Curve::P256) => &[SignatureScheme::ECDSA_NISTP256_SHA256],
            Self::Ecdsa(Curve::P384) => &[SignatureScheme::ECDSA_NISTP384_SHA384],
            Self::Ecdsa(Curve::P521) => &[SignatureScheme::ECDSA_NISTP521_SHA512],
            Self::Ed25519 => &[SignatureScheme::ED25519],
            Self::Rsa { .. } => &[
                SignatureScheme::RSA_PSS_SHA256,
                SignatureScheme::RSA_PSS_SHA384,
                SignatureScheme::RSA_PSS_SHA512,
                SignatureScheme::RSA_PKCS1_SHA256,
                SignatureScheme::RSA_PKCS1_SHA384,
                SignatureScheme::RSA_PKCS1_SHA512,
            ],
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ecdsa(curve) => write!(f, "ECDSA {curve:?}"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Rsa { bits } => write!(f, "RSA {bits}"),
        }
    }
}

/// A chain and key that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateError {
    /// No certificate at all.
    EmptyChain,
    /// A certificate that is not X.509.
    Unparsable {
        /// Its place in the chain, from 1.
        position: usize,
        /// What the parser says.
        reason: String,
    },
    /// The leaf's key algorithm or curve, by its object identifier.
    UnsupportedKey(String),
    /// An RSA key of so many bits.
    RsaSize(usize),
    /// The private key is broken, or of a kind that TLS does not sign with.
    UnusableKey,
    /// The private key is not the leaf's; it may be that of another certificate of the chain.
    KeyMismatch {
        /// The place in the chain, from 1, of the certificate that the key belongs to.
        belongs_to: Option<usize>,
    },
}

impl CertificateError {
    /// What the user can do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::EmptyChain => "the chain starts with the server's own certificate",
            Self::Unparsable { .. } => "look at it with `openssl x509 -noout -text -in FILE`",
            Self::UnsupportedKey(_) | Self::UnusableKey => {
                "use an ECDSA (P-256, P-384, P-521), RSA (2048 to 8192 bits) or Ed25519 key"
            }
            Self::RsaSize(_) => {
                "RSA keys of 2048 to 8192 bits can be used; P-256 is smaller and faster"
            }
            Self::KeyMismatch { belongs_to: None } => {
                "compare `openssl x509 -noout -pubkey -in CERT` with `openssl pkey -pubout -in KEY`"
            }
            Self::KeyMismatch {
                belongs_to: Some(_),
            } => "move the certificate that the key belongs to to the top",
        }
    }
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyChain => f.write_str("the chain is empty"),
            Self::Unparsable { position, reason } => {
                write!(
                    f,
                    "certificate {position} of the chain cannot be parsed: {reason}"
                )
            }
            Self::UnsupportedKey(algorithm) => write!(
                f,
                "the certificate's key is of the unsupported kind `{algorithm}`"
            ),
            Self::RsaSize(bits) => write!(
                f,
                "the certificate's RSA key has {bits} bits, which cannot be used for TLS"
            ),
            Self::UnusableKey => {
                f.write_str("the private key is damaged or of an unsupported kind")
            }
            Self::KeyMismatch { belongs_to: None } => {
                f.write_str("the private key does not belong to the certificate")
            }
            Self::KeyMismatch {
                belongs_to: Some(position),
            } => {
                write!(
                    f,
                    "the private key belongs to certificate {position} of the chain, not to the first"
                )
            }
        }
    }
}

impl std::error::Error for CertificateError {}

/// Something that a certificate is served in spite of. Places in the chain count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateWarning {
    /// Its validity ended at this moment.
    Expired(SystemTime),
    /// Its validity begins at this moment.
    NotYetValid(SystemTime),
    /// Its validity ends at this moment, within 14 days.
    ExpiresSoon(SystemTime),
    /// The issuer of a certificate is in the chain, but does not follow it.
    OutOfOrder {
        /// The certificate.
        position: usize,
        /// Its issuer.
        issuer: usize,
    },
    /// A certificate that did not issue the one before it, whose issuer is nowhere in the chain.
    Stray {
        /// The certificate.
        position: usize,
    },
    /// The leaf's issuer is not in the chain.
    NoIntermediate {
        /// The issuer's name.
        issuer: String,
    },
    /// Nothing follows the leaf, which did not sign itself.
    OnlyLeaf {
        /// The issuer's name.
        issuer: String,
    },
    /// No host name: it can only be a listener's default.
    NoName,
    /// A name that no host can match.
    NeverMatched(String),
}

impl CertificateWarning {
    /// What the user can do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Expired(_) | Self::ExpiresSoon(_) => {
                "renew the certificate and reload; clients refuse an expired one"
            }
            Self::NotYetValid(_) => "clients refuse it until then; is the clock right?",
            Self::OutOfOrder { .. } | Self::Stray { .. } => {
                "the chain is leaf first, each certificate followed by its issuer; it is sent as it stands in the file"
            }
            Self::NoIntermediate { .. } | Self::OnlyLeaf { .. } => {
                "append the authority's intermediate certificate; where the issuer is a root, clients have it already"
            }
            Self::NoName => "it is chosen only where it is a listener's default certificate",
            Self::NeverMatched(_) => "a wildcard is one `*`, as the first character of the name",
        }
    }
}

impl fmt::Display for CertificateWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = |time: &SystemTime| humantime::format_rfc3339_seconds(*time);
        match self {
            Self::Expired(at) => write!(f, "the certificate expired at `{}`", date(at)),
            Self::NotYetValid(from) => {
                write!(f, "the certificate is not valid before `{}`", date(from))
            }
            Self::ExpiresSoon(at) => write!(f, "the certificate expires soon, at `{}`", date(at)),
            Self::OutOfOrder { position, issuer } => {
                let next = position + 1;
                write!(
                    f,
                    "the chain is out of order: certificate {position} should be followed by {issuer}, not {next}"
                )
            }
            Self::Stray { position } => {
                write!(
                    f,
                    "certificate {position} of the chain did not issue the one before it"
                )
            }
            Self::NoIntermediate { issuer } => {
                write!(f, "the certificate's issuer `{issuer}` is not in the chain")
            }
            Self::OnlyLeaf { issuer } => {
                write!(f, "the chain holds only the leaf, which `{issuer}` issued")
            }
            Self::NoName => f.write_str("the certificate names no host"),
            Self::NeverMatched(name) => {
                write!(f, "the certificate's name `{name}` is never matched")
            }
        }
    }
}

fn parse_chain(chain: &[CertificateDer<'_>]) -> Result<Vec<Certificate>, CertificateError> {
    let parse = |(index, der): (usize, &CertificateDer<'_>)| {
        Certificate::from_der(der).map_err(|error| unparsable(index, &error))
    };
    chain.iter().enumerate().map(parse).collect()
}

fn unparsable(index: usize, error: &x509_cert::der::Error) -> CertificateError {
    CertificateError::Unparsable {
        position: index + 1,
        reason: error.to_string(),
    }
}

/// The dNSName entries of the subject alternative name; the common name only where there is none.
fn names(leaf: &x509_cert::TbsCertificate) -> Result<CertificateNames, x509_cert::der::Error> {
    let alternatives = leaf
        .get_extension::<SubjectAltName>()?
        .map(|(_, names)| names.0)
        .unwrap_or_default();
    let dns = CertificateNames::new(alternatives.iter().filter_map(|name| match name {
        GeneralName::DnsName(name) => Some(name.as_str()),
        GeneralName::OtherName(_)
        | GeneralName::Rfc822Name(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EdiPartyName(_)
        | GeneralName::UniformResourceIdentifier(_)
        | GeneralName::IpAddress(_)
        | GeneralName::RegisteredId(_) => None,
    }));
    let addresses = || alternatives.iter().filter_map(address);
    if !dns.patterns().is_empty() || !dns.unmatched().is_empty() {
        return Ok(dns.with_addresses(addresses()));
    }
    // A common name is often a person's or a company's, or an address: only a host name counts.
    let common_name = leaf.subject().common_name().ok().flatten();
    let common_name = common_name.as_ref().map(|name| name.value());
    let host = common_name
        .as_deref()
        .filter(|name| !name.contains(' ') && name.parse::<IpAddr>().is_err());
    Ok(CertificateNames::new(host).with_addresses(addresses()))
}

/// The address of an iPAddress entry (RFC 5280 section 4.2.1.6).
fn address(name: &GeneralName) -> Option<IpAddr> {
    let GeneralName::IpAddress(octets) = name else {
        return None;
    };
    let octets = octets.as_bytes();
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from))
        .ok()
}

/// Compares the keys themselves: rustls' own check refuses X.509 version 1 leaves, which can be served.
fn check_key(key: &dyn SigningKey, chain: &[Certificate]) -> Result<(), CertificateError> {
    let ours = key.public_key().ok_or(CertificateError::UnusableKey)?;
    let ours = SubjectPublicKeyInfo::from_der(&ours).map_err(|_| CertificateError::UnusableKey)?;
    let owner = chain.iter().position(|certificate| {
        let theirs = certificate.tbs_certificate().subject_public_key_info();
        theirs.algorithm.oid == ours.algorithm.oid
            && theirs.subject_public_key == ours.subject_public_key
    });
    match owner {
        Some(0) => Ok(()),
        other => Err(CertificateError::KeyMismatch {
            belongs_to: other.map(|index| index + 1),
        }),
    }
}

/// The first thing wrong with the order of the chain.
fn chain_warning(chain: &[Certificate]) -> Option<CertificateWarning> {
    let issuer = |index: usize| {
        chain
            .get(index)
            .map(|certificate| certificate.tbs_certificate().issuer())
    };
    let subjects = || {
        chain
            .iter()
            .map(|certificate| certificate.tbs_certificate().subject())
    };
    if chain.len() == 1 && issuer(0) != subjects().next() {
        return issuer(0).map(|issuer| CertificateWarning::OnlyLeaf {
            issuer: issuer.to_string(),
        });
    }
    let broken = (1..chain.len()).find(|&index| issuer(index - 1) != subjects().nth(index))?;
    let wanted = issuer(broken - 1)?;
    let is_self_issued = subjects().nth(broken - 1) == Some(wanted);
    match subjects().position(|subject| subject == wanted) {
        Some(found) if !is_self_issued => Some(CertificateWarning::OutOfOrder {
            position: broken,
            issuer: found + 1,
        }),
        None if broken == 1 => Some(CertificateWarning::NoIntermediate {
            issuer: wanted.to_string(),
        }),
        Some(_) | None => Some(CertificateWarning::Stray {
            position: broken + 1,
        }),
    }
}

/// The modulus' length of a PKCS#1 public key.
fn rsa_bits(public_key: &[u8]) -> Option<usize> {
    let mut reader = SliceReader::new(public_key).ok()?;
    let modulus = reader.sequence(|fields| {
        let modulus = fields.decode::<UintRef<'_>>()?;
        fields.decode::<UintRef<'_>>()?;
        Ok::<_, x509_cert::der::Error>(modulus.as_bytes())
    });
    let modulus = modulus.ok()?;
    Some(modulus.len() * 8 - modulus.first()?.leading_zeros() as usize)
}

/// How long before the end a user is told.
const EXPIRY_NOTICE: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// What aws-lc signs with.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::io::Write;
    use std::process::{Command, Stdio};

    use rcgen::{CertificateParams, DnType, Issuer, KeyPair};

    use super::*;
    use crate::tls::pem;
    use crate::tls::pem_error::PemFault;
    use crate::tls::server_name::NamePattern;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn params(common_name: &str, names: &[&str]) -> CertificateParams {
        let mut params =
            CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())
                .unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.not_before = rcgen::date_time_ymd(2030, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 7, 1);
        params
    }

    fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(key.serialize_der().into())
    }

    fn date(text: &str) -> SystemTime {
        humantime::parse_rfc3339(text).unwrap()
    }

    /// leaf, intermediate, root, a foreign root, and the leaf's key.
    fn family() -> ([CertificateDer<'static>; 4], KeyPair) {
        let keys: Vec<_> = (0..4).map(|_| KeyPair::generate().unwrap()).collect();
        let root_params = params("root", &[]);
        let root = root_params.self_signed(&keys[0]).unwrap().der().clone();
        let middle_params = params("middle", &[]);
        let middle = middle_params
            .signed_by(&keys[1], &Issuer::from_params(&root_params, &keys[0]))
            .unwrap();
        let leaf = params("leaf", &["www.example.com"])
            .signed_by(&keys[2], &Issuer::from_params(&middle_params, &keys[1]))
            .unwrap();
        let foreign = params("foreign", &[]).self_signed(&keys[3]).unwrap();
        let chain = [
            leaf.der().clone(),
            middle.der().clone(),
            root,
            foreign.der().clone(),
        ];
        (chain, keys.into_iter().nth(2).unwrap())
    }

    fn self_signed(params: &CertificateParams) -> ServedCertificate {
        let key = KeyPair::generate().unwrap();
        ServedCertificate::new(
            vec![params.self_signed(&key).unwrap().der().clone()],
            private(&key),
        )
        .unwrap()
    }

    #[test]
    fn names_come_from_the_alternative_names_or_else_the_common_name() {
        let exact = |name: &str| NamePattern::Exact(name.into());
        let partial = NamePattern::Wildcard {
            tail: "test".into(),
            parent: "example.com".into(),
        };
        for (common_name, names, expected) in [
            (
                "www.example.com",
                &["a.example.com", "*test.example.com"][..],
                vec![exact("a.example.com"), partial],
            ),
            ("www.Example.com", &[], vec![exact("www.example.com")]),
            (
                "www.example.com",
                &["192.0.2.1"],
                vec![exact("www.example.com")],
            ),
            ("192.0.2.1", &[], vec![]),
            ("Example Company", &[], vec![]),
        ] {
            assert_eq!(
                self_signed(&params(common_name, names)).names().patterns(),
                expected,
                "{common_name} {names:?}"
            );
        }
    }

    #[test]
    fn validity_is_warned_about() {
        let certificate = self_signed(&params("www.example.com", &[]));
        let end = date("2030-07-01T00:00:00Z");
        for (now, expected) in [
            (
                "2029-12-31T23:59:59Z",
                vec!["the certificate is not valid before `2030-01-01T00:00:00Z`"],
            ),
            ("2030-01-01T00:00:00Z", vec![]),
            ("2030-06-17T00:00:00Z", vec![]),
            (
                "2030-06-17T00:00:01Z",
                vec!["the certificate expires soon, at `2030-07-01T00:00:00Z`"],
            ),
            (
                "2030-07-01T00:00:00Z",
                vec!["the certificate expires soon, at `2030-07-01T00:00:00Z`"],
            ),
            (
                "2030-07-01T00:00:01Z",
                vec!["the certificate expired at `2030-07-01T00:00:00Z`"],
            ),
        ] {
            let warnings: Vec<_> = certificate
                .warnings(date(now))
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(warnings, expected, "{now}");
        }
        assert_eq!(certificate.not_after(), end);
        assert_eq!(certificate.not_before(), date("2030-01-01T00:00:00Z"));
    }

    #[test]
    fn the_order_of_the_chain_is_warned_about() {
        let (family, key) = family();
        for (order, expected) in [
            (&[0, 1, 2][..], vec![]),
            (&[0, 1], vec![]),
            (
                &[0],
                vec!["the chain holds only the leaf, which `CN=middle` issued"],
            ),
            (
                &[0, 2],
                vec!["the certificate's issuer `CN=middle` is not in the chain"],
            ),
            (
                &[0, 2, 1],
                vec!["the chain is out of order: certificate 1 should be followed by 3, not 2"],
            ),
            (
                &[0, 1, 3, 2],
                vec!["the chain is out of order: certificate 2 should be followed by 4, not 3"],
            ),
            (
                &[0, 1, 3],
                vec!["certificate 3 of the chain did not issue the one before it"],
            ),
            (
                &[0, 1, 2, 3],
                vec!["certificate 4 of the chain did not issue the one before it"],
            ),
        ] {
            let chain: Vec<_> = order.iter().map(|&index| family[index].clone()).collect();
            let certificate = ServedCertificate::new(chain.clone(), private(&key)).unwrap();
            let warnings = certificate.warnings(date("2030-02-01T00:00:00Z"));
            let texts: Vec<_> = warnings.iter().map(ToString::to_string).collect();
            assert_eq!(texts, expected, "{order:?}");
            assert_eq!(
                certificate.certified_key().cert,
                chain,
                "the chain is served as given"
            );
        }
    }

    #[test]
    fn names_are_warned_about() {
        let now = date("2030-02-01T00:00:00Z");
        assert_eq!(
            self_signed(&params("A Company", &[])).warnings(now),
            [CertificateWarning::NoName]
        );
        let odd = self_signed(&params("x", &["test*.example.com", "a.example.com"]));
        assert_eq!(
            odd.warnings(now),
            [CertificateWarning::NeverMatched("test*.example.com".into())]
        );
    }

    #[test]
    fn a_foreign_key_is_refused_and_its_owner_named() {
        let (family, key) = family();
        let [leaf, middle, ..] = family;
        let refusal =
            |chain: Vec<_>, key: &KeyPair| ServedCertificate::new(chain, private(key)).unwrap_err();
        let other = KeyPair::generate().unwrap();
        assert_eq!(
            refusal(vec![leaf.clone()], &other),
            CertificateError::KeyMismatch { belongs_to: None }
        );
        assert_eq!(
            refusal(vec![middle, leaf], &key),
            CertificateError::KeyMismatch {
                belongs_to: Some(2)
            }
        );
        assert_eq!(refusal(vec![], &key), CertificateError::EmptyChain);
        let garbage = refusal(vec![CertificateDer::from(vec![0x30, 0x00])], &key);
        assert!(
            garbage
                .to_string()
                .starts_with("certificate 1 of the chain cannot be parsed: "),
            "{garbage}"
        );
    }

    #[test]
    fn every_supported_key_is_recognised() {
        for (algorithm, kind) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, KeyKind::Ecdsa(Curve::P256)),
            (&rcgen::PKCS_ECDSA_P384_SHA384, KeyKind::Ecdsa(Curve::P384)),
            (&rcgen::PKCS_ECDSA_P521_SHA512, KeyKind::Ecdsa(Curve::P521)),
            (&rcgen::PKCS_ED25519, KeyKind::Ed25519),
            (&rcgen::PKCS_RSA_SHA256, KeyKind::Rsa { bits: 2048 }),
        ] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let chain = vec![params("x", &[]).self_signed(&key).unwrap().der().clone()];
            let certificate = ServedCertificate::new(chain, private(&key)).unwrap();
            assert_eq!(certificate.kind(), kind);
            let signer = certificate
                .certified_key()
                .key
                .choose_scheme(kind.schemes());
            assert!(signer.is_some(), "{kind} signs with what it says");
        }
    }

    #[test]
    fn warnings_and_errors_differ_and_none_ends_in_a_full_stop() {
        let at = SystemTime::UNIX_EPOCH + DAY;
        let warnings = [
            CertificateWarning::Expired(at),
            CertificateWarning::NotYetValid(at),
            CertificateWarning::ExpiresSoon(at),
            CertificateWarning::OutOfOrder {
                position: 1,
                issuer: 3,
            },
            CertificateWarning::Stray { position: 2 },
            CertificateWarning::NoIntermediate {
                issuer: "CN=a".into(),
            },
            CertificateWarning::OnlyLeaf {
                issuer: "CN=a".into(),
            },
            CertificateWarning::NoName,
            CertificateWarning::NeverMatched("*".into()),
        ];
        let errors = [
            CertificateError::EmptyChain,
            CertificateError::Unparsable {
                position: 1,
                reason: "why".into(),
            },
            CertificateError::UnsupportedKey("1.2.3".into()),
            CertificateError::RsaSize(1024),
            CertificateError::UnusableKey,
            CertificateError::KeyMismatch { belongs_to: None },
            CertificateError::KeyMismatch {
                belongs_to: Some(2),
            },
        ];
        let texts: Vec<_> = warnings
            .iter()
            .map(ToString::to_string)
            .chain(errors.iter().map(ToString::to_string))
            .collect();
        for (index, text) in texts.iter().enumerate() {
            assert!(
                !text.ends_with('.') && !text.starts_with(char::is_uppercase),
                "{text}"
            );
            assert!(!texts[..index].contains(text), "{text}");
        }
    }

    /// Runs openssl with a file's worth of input, or says that there is none on this machine.
    fn openssl<S: AsRef<OsStr>>(arguments: &[S], input: &[u8]) -> Option<Vec<u8>> {
        let mut command = Command::new("openssl");
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let Ok(mut child) = command.spawn() else {
            assert!(
                std::env::var_os("LOCKGATE_REQUIRE_PEERS").is_none(),
                "openssl is required, but not installed"
            );
            println!("skipped: openssl is not installed");
            return None;
        };
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Some(output.stdout)
    }

    #[test]
    fn keys_made_by_openssl_are_read_or_refused() {
        let Some(plain) = openssl(&["ecparam", "-genkey", "-name", "prime256v1"], b"") else {
            return;
        };
        assert!(plain.starts_with(b"-----BEGIN EC PARAMETERS-----"));
        assert!(matches!(
            pem::parse_key(&plain).unwrap(),
            PrivateKeyDer::Sec1(_)
        ));
        let rsa = openssl(&["genrsa", "-traditional", "2048"], b"").unwrap();
        assert!(matches!(
            pem::parse_key(&rsa).unwrap(),
            PrivateKeyDer::Pkcs1(_)
        ));
        for encrypt in [
            &["ec", "-aes256", "-passout", "pass:x"][..],
            &["pkcs8", "-topk8", "-passout", "pass:x"],
        ] {
            let encrypted = openssl(encrypt, &plain).unwrap();
            assert!(
                matches!(pem::parse_key(&encrypted), Err(PemFault::Encrypted)),
                "{encrypt:?}"
            );
        }
    }

    #[test]
    fn certificates_made_by_openssl_are_served_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("site.key");
        let file = path.to_str().unwrap();
        let Some(key) = openssl(
            &[
                "genpkey",
                "-algorithm",
                "EC",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ],
            b"",
        ) else {
            return;
        };
        std::fs::write(&path, &key).unwrap();
        // Signing a request without extensions gives version 1, as in many a home-made authority.
        let request = openssl(
            &["req", "-new", "-key", file, "-subj", "/CN=v1.example.com"],
            b"",
        )
        .unwrap();
        let version_1 =
            openssl(&["x509", "-req", "-signkey", file, "-days", "30"], &request).unwrap();
        let chain = pem::parse_chain(&version_1).unwrap();
        let served = ServedCertificate::new(
            chain,
            pem::key_of(&path, &pem::read_text(&path).unwrap()).unwrap(),
        )
        .unwrap();
        assert_eq!(
            served.names().patterns(),
            [NamePattern::Exact("v1.example.com".into())]
        );

        let small = openssl(&["genrsa", "1024"], b"").unwrap();
        std::fs::write(&path, &small).unwrap();
        let chain = openssl(
            &[
                "req",
                "-x509",
                "-key",
                file,
                "-subj",
                "/CN=small.example.com",
            ],
            b"",
        )
        .unwrap();
        let refusal = ServedCertificate::new(
            pem::parse_chain(&chain).unwrap(),
            pem::parse_key(&small).unwrap(),
        );
        assert_eq!(refusal.unwrap_err(), CertificateError::RsaSize(1024));
    }
}
