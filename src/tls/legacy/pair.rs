//! A chain and its key as OpenSSL wants them, made when the first client needs them: most certificates
//! never meet one that does.

use std::sync::OnceLock;

use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::x509::X509;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A chain and its key.
pub(super) struct Pair {
    pub(super) leaf: X509,
    pub(super) authorities: Vec<X509>,
    pub(super) key: PKey<Private>,
}

/// The same, perhaps not made yet.
pub struct LazyPair {
    key: PrivateKeyDer<'static>,
    pair: OnceLock<Result<Pair, ErrorStack>>,
}

impl LazyPair {
    /// To be made of `key`.
    pub fn new(key: PrivateKeyDer<'static>) -> Self {
        Self {
            key,
            pair: OnceLock::new(),
        }
    }

    /// The key and its chain, leaf first.
    pub(super) fn get(&self, chain: &[CertificateDer<'_>]) -> Result<&Pair, ErrorStack> {
        let pair = self.pair.get_or_init(|| self.make(chain));
        pair.as_ref().map_err(Clone::clone)
    }

    fn make(&self, chain: &[CertificateDer<'_>]) -> Result<Pair, ErrorStack> {
        let (leaf, authorities) = chain.split_first().ok_or_else(ErrorStack::get)?;
        let authorities = authorities.iter().map(|der| X509::from_der(der));
        Ok(Pair {
            leaf: X509::from_der(leaf)?,
            authorities: authorities.collect::<Result<_, _>>()?,
            key: PKey::private_key_from_der(self.key.secret_der())?,
        })
    }
}
