//! TLS security policies as rustls wants them: a provider that knows exactly the suites of a policy that
//! are its to negotiate, and their versions. The policies themselves are `config`'s.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{CipherSuite, ProtocolVersion, SupportedCipherSuite, SupportedProtocolVersion};

use crate::config::tls_policy::{Engine, Suite, TlsPolicy, Version};

/// A provider that knows exactly the policy's suites that rustls negotiates, and our key exchange groups.
pub fn provider(policy: &TlsPolicy) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: policy
            .suites_of(Engine::Rustls)
            .filter_map(supported)
            .collect(),
        kx_groups: KEY_EXCHANGE.to_vec(),
        ..aws_lc_rs::default_provider()
    })
}

/// The policy's versions that rustls negotiates.
pub fn protocol_versions(policy: &TlsPolicy) -> Vec<&'static SupportedProtocolVersion> {
    policy
        .versions_of(Engine::Rustls)
        .filter_map(supported_version)
        .collect()
}

/// The version that a connection negotiated; rustls negotiates no other.
pub fn negotiated_version(version: ProtocolVersion) -> Option<Version> {
    Version::ALL
        .into_iter()
        .find(|ours| supported_version(*ours).is_some_and(|supported| supported.version == version))
}

/// The suite that a connection negotiated, if a policy can name it.
pub fn negotiated_suite(suite: CipherSuite) -> Option<&'static Suite> {
    Suite::numbered(suite.into())
}

/// Whether a group, by its number in IANA's registry, is one of ours for key exchange.
#[cfg(feature = "legacy-tls")]
pub fn has_group(id: u16) -> bool {
    let mut groups = KEY_EXCHANGE.iter();
    groups.any(|group| u16::from(group.name()) == id)
}

fn supported_version(version: Version) -> Option<&'static SupportedProtocolVersion> {
    match version {
        Version::Tls10 | Version::Tls11 => None,
        Version::Tls12 => Some(&rustls::version::TLS12),
        Version::Tls13 => Some(&rustls::version::TLS13),
    }
}

fn supported(suite: &Suite) -> Option<SupportedCipherSuite> {
    aws_lc_rs::ALL_CIPHER_SUITES
        .iter()
        .copied()
        .find(|theirs| u16::from(theirs.suite()) == suite.id())
}

/// The groups offered for key exchange.
///
/// A server has no say in the order: rustls takes the first of the *client's* list that is here, and
/// where the client sent no share of it, asks again (HelloRetryRequest, one more round trip). So this is
/// a set, and the one question is what is in it. A client that lists the hybrid X25519MLKEM768 first
/// sends, as far as browsers, OpenSSL and Go go, its share along, so supporting it costs them no round
/// trip, only some computing; not supporting it would cost those that send nothing else a round trip,
/// and everyone the protection against recorded traffic. The rest are the groups that clients send
/// shares of (X25519, P-256) and the one that governments ask for (P-384).
static KEY_EXCHANGE: &[&dyn SupportedKxGroup] = &[
    kx_group::X25519,
    kx_group::SECP256R1,
    kx_group::SECP384R1,
    kx_group::X25519MLKEM768,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tls_policy::SystemPolicy;

    #[test]
    fn what_is_called_rustls_s_is_what_rustls_can_do() {
        for suite in Suite::all() {
            let has = supported(suite).is_some();
            let said = suite.engine() == Some(Engine::Rustls);
            assert_eq!(said, has, "{}", suite.name());
            if let Some(theirs) = supported(suite) {
                let version = negotiated_version(theirs.version().version).unwrap();
                assert_eq!(suite.versions(), [version], "{}", suite.name());
            }
        }
        for version in Version::ALL {
            let has = supported_version(version).is_some();
            let mut suites = Suite::all().filter(|suite| suite.engine() == Some(Engine::Rustls));
            let said = suites.any(|suite| suite.versions().contains(&version));
            assert_eq!(said, has, "{version:?}");
        }
    }

    #[test]
    fn a_provider_knows_the_suites_that_are_rustls_s_and_no_other() {
        for system in SystemPolicy::ALL {
            let policy = TlsPolicy::from(system);
            let provider = provider(&policy);
            let provided = provider.cipher_suites.iter().map(|suite| suite.suite());
            let listed = policy.suites_of(Engine::Rustls).map(Suite::id);
            assert!(provided.map(u16::from).eq(listed), "{system:?}");
        }
    }

    #[test]
    fn every_suite_of_the_provider_has_a_name() {
        for suite in aws_lc_rs::ALL_CIPHER_SUITES {
            assert!(
                negotiated_suite(suite.suite()).is_some(),
                "{:?}",
                suite.suite()
            );
        }
    }
}
