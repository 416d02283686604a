//! TLS security policies: which versions and cipher suites a listener offers (alb.md sections 2.1, 2.2).
//!
//! The tables are the documented ones, whole. What rustls can do of them is the *effective* set: TLS 1.2
//! and 1.3, ECDHE with AES-GCM. A policy never negotiates what it does not list: no TLS 1.3 under a 1.2
//! policy, and no ChaCha20 in TLS 1.2, which only custom policies know.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{CipherSuite, ProtocolVersion, SupportedCipherSuite, SupportedProtocolVersion};

use crate::config::plan::TlsPolicyPlan;

/// The policies that come with the load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemPolicy {
    /// `tls_cipher_policy_1_0`
    From10,
    /// `tls_cipher_policy_1_1`
    From11,
    /// `tls_cipher_policy_1_2`
    Only12,
    /// `tls_cipher_policy_1_2_strict`
    Strict12,
    /// `tls_cipher_policy_1_2_strict_with_1_3`, the default
    Strict12With13,
    /// `tls_cipher_policy_1_0_to_1_3`
    From10To13,
}

impl SystemPolicy {
    /// Every policy, in the order of the documented table.
    pub const ALL: [Self; 6] = [
        Self::From10,
        Self::From11,
        Self::Only12,
        Self::Strict12,
        Self::Strict12With13,
        Self::From10To13,
    ];

    /// The name it is configured by.
    pub fn name(self) -> &'static str {
        match self {
            Self::From10 => "tls_cipher_policy_1_0",
            Self::From11 => "tls_cipher_policy_1_1",
            Self::Only12 => "tls_cipher_policy_1_2",
            Self::Strict12 => "tls_cipher_policy_1_2_strict",
            Self::Strict12With13 => "tls_cipher_policy_1_2_strict_with_1_3",
            Self::From10To13 => "tls_cipher_policy_1_0_to_1_3",
        }
    }

    /// The versions it promises, oldest first.
    pub fn versions(self) -> &'static [Version] {
        match self {
            Self::From10 => &[Version::Tls10, Version::Tls11, Version::Tls12],
            Self::From11 => &[Version::Tls11, Version::Tls12],
            Self::Only12 | Self::Strict12 => &[Version::Tls12],
            Self::Strict12With13 => &[Version::Tls12, Version::Tls13],
            Self::From10To13 => &[
                Version::Tls10,
                Version::Tls11,
                Version::Tls12,
                Version::Tls13,
            ],
        }
    }

    /// The suites it promises, in the order of the documented table.
    pub fn suites(self) -> impl Iterator<Item = &'static Suite> {
        SUITES.iter().filter(move |suite| suite.is_listed_by(self))
    }

    /// What rustls does of what the policy promises.
    pub fn effective(self) -> Effective {
        let versions = self
            .versions()
            .iter()
            .copied()
            .filter(|version| version.rustls().is_some())
            .collect();
        Effective {
            versions,
            suites: self
                .suites()
                .filter(|suite| suite.rustls().is_some())
                .collect(),
        }
    }

    /// A provider that knows exactly the effective suites, and our key exchange groups.
    pub fn provider(self) -> Arc<CryptoProvider> {
        let cipher_suites = self.suites().filter_map(Suite::rustls).collect();
        Arc::new(CryptoProvider {
            cipher_suites,
            kx_groups: KEY_EXCHANGE.to_vec(),
            ..aws_lc_rs::default_provider()
        })
    }

    /// The effective versions, as rustls wants them.
    pub fn protocol_versions(self) -> Vec<&'static SupportedProtocolVersion> {
        self.versions()
            .iter()
            .filter_map(|version| version.rustls())
            .collect()
    }
}

impl From<TlsPolicyPlan> for SystemPolicy {
    fn from(plan: TlsPolicyPlan) -> Self {
        match plan {
            TlsPolicyPlan::Strict12With13 => Self::Strict12With13,
        }
    }
}

/// What is left of a policy in this build.
#[derive(Clone, Debug)]
pub struct Effective {
    /// Oldest first; never empty.
    pub versions: Vec<Version>,
    /// In the order of the documented table; never empty.
    pub suites: Vec<&'static Suite>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// TLS 1.0
    Tls10,
    /// TLS 1.1
    Tls11,
    /// TLS 1.2
    Tls12,
    /// TLS 1.3
    Tls13,
}

impl Version {
    /// The name in OpenSSL's spelling, which logs and headers use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tls10 => "TLSv1",
            Self::Tls11 => "TLSv1.1",
            Self::Tls12 => "TLSv1.2",
            Self::Tls13 => "TLSv1.3",
        }
    }

    fn rustls(self) -> Option<&'static SupportedProtocolVersion> {
        match self {
            Self::Tls10 | Self::Tls11 => None,
            Self::Tls12 => Some(&rustls::version::TLS12),
            Self::Tls13 => Some(&rustls::version::TLS13),
        }
    }

    /// The version that a connection negotiated; rustls negotiates no other.
    pub fn negotiated(version: ProtocolVersion) -> Option<Self> {
        [Self::Tls12, Self::Tls13].into_iter().find(|ours| {
            ours.rustls()
                .is_some_and(|supported| supported.version == version)
        })
    }
}

/// A cipher suite, and the system policies that list it.
#[derive(Debug)]
pub struct Suite {
    id: u16,
    name: &'static str,
    policies: &'static [SystemPolicy],
}

impl Suite {
    /// The name in OpenSSL's spelling.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The number in IANA's registry.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// The suite that a connection negotiated, if a policy can name it.
    pub fn negotiated(suite: CipherSuite) -> Option<&'static Self> {
        let id = u16::from(suite);
        SUITES.iter().find(|ours| ours.id == id)
    }

    fn is_listed_by(&self, policy: SystemPolicy) -> bool {
        self.policies.contains(&policy)
    }

    fn rustls(&self) -> Option<SupportedCipherSuite> {
        aws_lc_rs::ALL_CIPHER_SUITES
            .iter()
            .copied()
            .find(|suite| u16::from(suite.suite()) == self.id)
    }
}

const fn suite(id: u16, name: &'static str, policies: &'static [SystemPolicy]) -> Suite {
    Suite { id, name, policies }
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

/// The three policies with the long list.
const OLD: [SystemPolicy; 3] = [
    SystemPolicy::From10,
    SystemPolicy::From11,
    SystemPolicy::Only12,
];
const LONG: &[SystemPolicy] = &OLD;
const ECDHE: &[SystemPolicy] = &[
    OLD[0],
    OLD[1],
    OLD[2],
    SystemPolicy::Strict12,
    SystemPolicy::Strict12With13,
];
const ECDHE_GCM: &[SystemPolicy] = &SystemPolicy::ALL;
const TLS13: &[SystemPolicy] = &[SystemPolicy::Strict12With13, SystemPolicy::From10To13];
const CUSTOM_ONLY: &[SystemPolicy] = &[];

/// alb.md section 2.2, row by row.
static SUITES: &[Suite] = &[
    suite(0xC02B, "ECDHE-ECDSA-AES128-GCM-SHA256", ECDHE_GCM),
    suite(0xC02C, "ECDHE-ECDSA-AES256-GCM-SHA384", ECDHE_GCM),
    suite(0xC023, "ECDHE-ECDSA-AES128-SHA256", ECDHE),
    suite(0xC024, "ECDHE-ECDSA-AES256-SHA384", ECDHE),
    suite(0xC02F, "ECDHE-RSA-AES128-GCM-SHA256", ECDHE_GCM),
    suite(0xC030, "ECDHE-RSA-AES256-GCM-SHA384", ECDHE_GCM),
    suite(0xC027, "ECDHE-RSA-AES128-SHA256", ECDHE),
    suite(0xC028, "ECDHE-RSA-AES256-SHA384", ECDHE),
    suite(0x009C, "AES128-GCM-SHA256", LONG),
    suite(0x009D, "AES256-GCM-SHA384", LONG),
    suite(0x003C, "AES128-SHA256", LONG),
    suite(0x003D, "AES256-SHA256", LONG),
    suite(0xC009, "ECDHE-ECDSA-AES128-SHA", ECDHE),
    suite(0xC00A, "ECDHE-ECDSA-AES256-SHA", ECDHE),
    suite(0xC013, "ECDHE-RSA-AES128-SHA", ECDHE),
    suite(0xC014, "ECDHE-RSA-AES256-SHA", ECDHE),
    suite(0x002F, "AES128-SHA", LONG),
    suite(0x0035, "AES256-SHA", LONG),
    suite(0x000A, "DES-CBC3-SHA", LONG),
    suite(0x1301, "TLS_AES_128_GCM_SHA256", TLS13),
    suite(0x1302, "TLS_AES_256_GCM_SHA384", TLS13),
    suite(0x1303, "TLS_CHACHA20_POLY1305_SHA256", TLS13),
    suite(0x1304, "TLS_AES_128_CCM_SHA256", TLS13),
    suite(0x1305, "TLS_AES_128_CCM_8_SHA256", TLS13),
    suite(0xCCA9, "ECDHE-ECDSA-CHACHA20-POLY1305", CUSTOM_ONLY),
    suite(0xCCA8, "ECDHE-RSA-CHACHA20-POLY1305", CUSTOM_ONLY),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_suite_counts_are_the_documented_ones() {
        // alb.md section 2.1, row by row: 1.0, 1.1, 1.2, 1.3, number of suites.
        for (policy, versions, count) in [
            (SystemPolicy::From10, [true, true, true, false], 19),
            (SystemPolicy::From11, [false, true, true, false], 19),
            (SystemPolicy::Only12, [false, false, true, false], 19),
            (SystemPolicy::Strict12, [false, false, true, false], 12),
            (
                SystemPolicy::Strict12With13,
                [false, false, true, true],
                12 + 5,
            ),
            (SystemPolicy::From10To13, [true, true, true, true], 4 + 5),
        ] {
            let listed = [
                Version::Tls10,
                Version::Tls11,
                Version::Tls12,
                Version::Tls13,
            ]
            .map(|version| policy.versions().contains(&version));
            assert_eq!(listed, versions, "{}", policy.name());
            assert_eq!(policy.suites().count(), count, "{}", policy.name());
        }
    }

    #[test]
    fn effective_sets_are_what_rustls_can_do() {
        let gcm = [
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "ECDHE-RSA-AES128-GCM-SHA256",
            "ECDHE-RSA-AES256-GCM-SHA384",
        ];
        let tls13 = [
            "TLS_AES_128_GCM_SHA256",
            "TLS_AES_256_GCM_SHA384",
            "TLS_CHACHA20_POLY1305_SHA256",
        ];
        for policy in SystemPolicy::ALL {
            let with_13 = policy.versions().contains(&Version::Tls13);
            let (versions, suites) = if with_13 {
                (
                    vec![Version::Tls12, Version::Tls13],
                    [&gcm[..], &tls13].concat(),
                )
            } else {
                (vec![Version::Tls12], gcm.to_vec())
            };
            let effective = policy.effective();
            assert_eq!(effective.versions, versions, "{}", policy.name());
            let names: Vec<_> = effective.suites.iter().map(|suite| suite.name()).collect();
            assert_eq!(names, suites, "{}", policy.name());
            let ids: Vec<_> = effective.suites.iter().map(|suite| suite.id()).collect();
            let provider = policy.provider();
            let provided: Vec<_> = provider
                .cipher_suites
                .iter()
                .map(|suite| u16::from(suite.suite()))
                .collect();
            assert_eq!(provided, ids, "{}", policy.name());
        }
    }

    #[test]
    fn every_suite_of_the_provider_has_a_name() {
        for suite in aws_lc_rs::ALL_CIPHER_SUITES {
            assert!(
                Suite::negotiated(suite.suite()).is_some(),
                "{:?}",
                suite.suite()
            );
        }
        let names: Vec<_> = SUITES.iter().map(Suite::name).collect();
        assert!(
            names
                .iter()
                .enumerate()
                .all(|(index, name)| !names[..index].contains(name))
        );
    }
}
