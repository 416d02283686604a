//! TLS security policies as they are written down: versions, cipher suites, and which policy lists what
//! (alb.md sections 2.1, 2.2 and 2.4).
//!
//! The tables are the documented ones, whole. What this build can do of them is the *effective* set: TLS
//! 1.2 with ECDHE and an AEAD, and TLS 1.3; with the feature `legacy-tls`, also what OpenSSL does for
//! clients that cannot do better. A policy never negotiates what it does not list: no TLS 1.3 under a 1.2
//! policy, and no ChaCha20 in TLS 1.2, which only custom policies know.

/// A TLS security policy: a system policy, or one of the file's `[[tls_policy]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsPolicy {
    /// `name`
    pub name: String,
    /// `versions`: what it lists, oldest first; never empty.
    pub versions: Vec<Version>,
    /// `cipher_suites`: what it lists, in the order of the documented table; never empty.
    pub suites: Vec<&'static Suite>,
    /// What becomes of clients that only OpenSSL can serve.
    #[cfg(feature = "legacy-tls")]
    pub older_clients: OlderClients,
}

/// What becomes of clients that only OpenSSL can serve.
#[cfg(feature = "legacy-tls")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OlderClients {
    /// They are served, as far as the policy goes.
    Served,
    /// They are refused: the listener authenticates its clients, which is rustls' to do.
    Refused,
}

impl TlsPolicy {
    /// A policy that serves everyone it can.
    pub fn new(name: String, versions: Vec<Version>, suites: Vec<&'static Suite>) -> Self {
        Self {
            name,
            versions,
            suites,
            #[cfg(feature = "legacy-tls")]
            older_clients: OlderClients::Served,
        }
    }

    /// The versions that are negotiated, oldest first; never empty.
    pub fn effective_versions(&self) -> impl Iterator<Item = Version> {
        self.versions_with(Self::negotiates)
    }

    /// The suites that are negotiated; never empty.
    pub fn effective_suites(&self) -> impl Iterator<Item = &'static Suite> {
        let suites = self.suites.iter().copied();
        suites.filter(|suite| self.negotiates(suite))
    }

    /// The versions that an engine negotiates, oldest first.
    pub fn versions_of(&self, engine: Engine) -> impl Iterator<Item = Version> {
        self.versions_with(move |policy, suite| policy.engine(suite) == Some(engine))
    }

    /// The suites that an engine negotiates.
    pub fn suites_of(&self, engine: Engine) -> impl Iterator<Item = &'static Suite> {
        let suites = self.suites.iter().copied();
        suites.filter(move |suite| self.engine(suite) == Some(engine))
    }

    /// What it lists and nobody negotiates: versions, then suites.
    pub fn unmet(&self) -> impl Iterator<Item = &'static str> {
        let suites = self.suites.iter().filter(|suite| !self.negotiates(suite));
        self.unmet_versions()
            .map(Version::key)
            .chain(suites.map(|suite| suite.name()))
    }

    /// The versions that it lists and nobody negotiates, oldest first.
    pub fn unmet_versions(&self) -> impl Iterator<Item = Version> {
        let effective: Vec<_> = self.effective_versions().collect();
        let versions = self.versions.iter().copied();
        versions.filter(move |version| !effective.contains(version))
    }

    /// The listed versions that have a suite of which `holds` is true.
    fn versions_with(
        &self,
        holds: impl Fn(&Self, &Suite) -> bool,
    ) -> impl Iterator<Item = Version> {
        let versions = self.versions.iter().copied();
        versions.filter(move |version| {
            let mut suites = self.suites.iter();
            suites.any(|suite| suite.versions().contains(version) && holds(self, suite))
        })
    }

    fn negotiates(&self, suite: &Suite) -> bool {
        self.engine(suite).is_some()
    }

    /// Who negotiates a suite under this policy.
    fn engine(&self, suite: &Suite) -> Option<Engine> {
        match suite.engine()? {
            Engine::Rustls => Some(Engine::Rustls),
            #[cfg(feature = "legacy-tls")]
            Engine::OpenSsl => match self.older_clients {
                OlderClients::Served => Some(Engine::OpenSsl),
                OlderClients::Refused => None,
            },
        }
    }
}

/// Who negotiates a suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// rustls, for everyone that it can serve.
    Rustls,
    /// The system's OpenSSL, for clients that cannot do better.
    #[cfg(feature = "legacy-tls")]
    OpenSsl,
}

#[cfg(feature = "legacy-tls")]
const OLDER: Option<Engine> = Some(Engine::OpenSsl);
#[cfg(not(feature = "legacy-tls"))]
const OLDER: Option<Engine> = None;

impl From<SystemPolicy> for TlsPolicy {
    fn from(policy: SystemPolicy) -> Self {
        let (versions, suites) = (policy.versions().to_vec(), policy.suites().collect());
        Self::new(policy.name().to_owned(), versions, suites)
    }
}

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

    /// The policy of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }

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
            Self::From10To13 => &Version::ALL,
        }
    }

    /// The suites it promises, in the order of the documented table.
    pub fn suites(self) -> impl Iterator<Item = &'static Suite> {
        SUITES
            .iter()
            .filter(move |suite| suite.policies.contains(&self))
    }
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
    /// Every version, oldest first.
    pub const ALL: [Self; 4] = [Self::Tls10, Self::Tls11, Self::Tls12, Self::Tls13];

    /// The name in OpenSSL's spelling, which logs and headers use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tls10 => "TLSv1",
            Self::Tls11 => "TLSv1.1",
            Self::Tls12 => "TLSv1.2",
            Self::Tls13 => "TLSv1.3",
        }
    }

    /// The name in a `[[tls_policy]]`, which is ALB's.
    pub fn key(self) -> &'static str {
        match self {
            Self::Tls10 => "TLSv1.0",
            Self::Tls11 | Self::Tls12 | Self::Tls13 => self.name(),
        }
    }

    /// The number on the wire.
    pub fn id(self) -> u16 {
        match self {
            Self::Tls10 => 0x0301,
            Self::Tls11 => 0x0302,
            Self::Tls12 => 0x0303,
            Self::Tls13 => 0x0304,
        }
    }

    /// Whether this build negotiates it.
    pub fn is_effective(self) -> bool {
        Suite::all().any(|suite| suite.is_effective() && suite.versions().contains(&self))
    }
}

/// A cipher suite, and what is known of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Suite {
    id: u16,
    name: &'static str,
    iana: &'static str,
    usage: Usage,
    policies: &'static [SystemPolicy],
}

/// The versions that a suite is of, and who has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Usage {
    /// TLS 1.2, ECDHE and an AEAD: rustls has all of them.
    Modern12,
    /// TLS 1.2, CBC with SHA-2 or RSA key exchange: rustls has none.
    Old12,
    /// TLS 1.0 to 1.2, CBC with SHA-1: rustls has none.
    Old10To12,
    /// TLS 1.0 to 1.2, 3DES, which OpenSSL is built without.
    Broken10To12,
    /// TLS 1.3, and rustls has it.
    Modern13,
    /// TLS 1.3 for small devices, which rustls has not.
    Small13,
}

impl Suite {
    /// Every suite that a policy can list, in the order of the documented table.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        SUITES.iter()
    }

    /// The suite of that name, in OpenSSL's or IANA's spelling.
    pub fn named(name: &str) -> Option<&'static Self> {
        SUITES
            .iter()
            .find(|suite| suite.name == name || suite.iana == name)
    }

    /// The suite of that number in IANA's registry.
    pub fn numbered(id: u16) -> Option<&'static Self> {
        SUITES.iter().find(|suite| suite.id == id)
    }

    /// The name in OpenSSL's spelling.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The name in IANA's registry.
    pub fn iana(&self) -> &'static str {
        self.iana
    }

    /// The number in IANA's registry.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// The versions that it can be negotiated in, oldest first.
    pub fn versions(&self) -> &'static [Version] {
        match self.usage {
            Usage::Modern12 | Usage::Old12 => &[Version::Tls12],
            Usage::Old10To12 | Usage::Broken10To12 => {
                &[Version::Tls10, Version::Tls11, Version::Tls12]
            }
            Usage::Modern13 | Usage::Small13 => &[Version::Tls13],
        }
    }

    /// Whether this build negotiates it.
    pub fn is_effective(&self) -> bool {
        self.engine().is_some()
    }

    /// Who negotiates it in this build.
    pub fn engine(&self) -> Option<Engine> {
        match self.usage {
            Usage::Modern12 | Usage::Modern13 => Some(Engine::Rustls),
            Usage::Old12 | Usage::Old10To12 => OLDER,
            Usage::Broken10To12 | Usage::Small13 => None,
        }
    }
}

const fn suite(
    id: u16,
    name: &'static str,
    iana: &'static str,
    usage: Usage,
    policies: &'static [SystemPolicy],
) -> Suite {
    Suite {
        id,
        name,
        iana,
        usage,
        policies,
    }
}

/// A TLS 1.3 suite: both spellings are one.
const fn suite13(id: u16, name: &'static str, usage: Usage) -> Suite {
    suite(id, name, name, usage, WITH_13)
}

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
const ALL: &[SystemPolicy] = &SystemPolicy::ALL;
const WITH_13: &[SystemPolicy] = &[SystemPolicy::Strict12With13, SystemPolicy::From10To13];
const CUSTOM_ONLY: &[SystemPolicy] = &[];

/// alb.md section 2.2, row by row.
#[rustfmt::skip]
static SUITES: &[Suite] = {
    use Usage::{Broken10To12, Modern12, Modern13, Old10To12, Old12, Small13};
    &[
        suite(0xC02B, "ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", Modern12, ALL),
        suite(0xC02C, "ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", Modern12, ALL),
        suite(0xC023, "ECDHE-ECDSA-AES128-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256", Old12, ECDHE),
        suite(0xC024, "ECDHE-ECDSA-AES256-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384", Old12, ECDHE),
        suite(0xC02F, "ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", Modern12, ALL),
        suite(0xC030, "ECDHE-RSA-AES256-GCM-SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", Modern12, ALL),
        suite(0xC027, "ECDHE-RSA-AES128-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256", Old12, ECDHE),
        suite(0xC028, "ECDHE-RSA-AES256-SHA384", "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384", Old12, ECDHE),
        suite(0x009C, "AES128-GCM-SHA256", "TLS_RSA_WITH_AES_128_GCM_SHA256", Old12, LONG),
        suite(0x009D, "AES256-GCM-SHA384", "TLS_RSA_WITH_AES_256_GCM_SHA384", Old12, LONG),
        suite(0x003C, "AES128-SHA256", "TLS_RSA_WITH_AES_128_CBC_SHA256", Old12, LONG),
        suite(0x003D, "AES256-SHA256", "TLS_RSA_WITH_AES_256_CBC_SHA256", Old12, LONG),
        suite(0xC009, "ECDHE-ECDSA-AES128-SHA", "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", Old10To12, ECDHE),
        suite(0xC00A, "ECDHE-ECDSA-AES256-SHA", "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA", Old10To12, ECDHE),
        suite(0xC013, "ECDHE-RSA-AES128-SHA", "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", Old10To12, ECDHE),
        suite(0xC014, "ECDHE-RSA-AES256-SHA", "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", Old10To12, ECDHE),
        suite(0x002F, "AES128-SHA", "TLS_RSA_WITH_AES_128_CBC_SHA", Old10To12, LONG),
        suite(0x0035, "AES256-SHA", "TLS_RSA_WITH_AES_256_CBC_SHA", Old10To12, LONG),
        suite(0x000A, "DES-CBC3-SHA", "TLS_RSA_WITH_3DES_EDE_CBC_SHA", Broken10To12, LONG),
        suite13(0x1301, "TLS_AES_128_GCM_SHA256", Modern13),
        suite13(0x1302, "TLS_AES_256_GCM_SHA384", Modern13),
        suite13(0x1303, "TLS_CHACHA20_POLY1305_SHA256", Modern13),
        suite13(0x1304, "TLS_AES_128_CCM_SHA256", Small13),
        suite13(0x1305, "TLS_AES_128_CCM_8_SHA256", Small13),
        suite(0xCCA9, "ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", Modern12, CUSTOM_ONLY),
        suite(0xCCA8, "ECDHE-RSA-CHACHA20-POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", Modern12, CUSTOM_ONLY),
    ]
};

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
            let listed = Version::ALL.map(|version| policy.versions().contains(&version));
            assert_eq!(listed, versions, "{}", policy.name());
            assert_eq!(policy.suites().count(), count, "{}", policy.name());
            assert_eq!(SystemPolicy::named(policy.name()), Some(policy));
        }
        assert_eq!(SystemPolicy::named("tls_cipher_policy_1_3"), None);
    }

    #[test]
    fn rustls_sets_are_tls_1_2_with_ecdhe_gcm_and_tls_1_3() {
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
        for system in SystemPolicy::ALL {
            let policy = TlsPolicy::from(system);
            let with_13 = policy.versions.contains(&Version::Tls13);
            let (versions, suites) = if with_13 {
                (
                    vec![Version::Tls12, Version::Tls13],
                    [&gcm[..], &tls13].concat(),
                )
            } else {
                (vec![Version::Tls12], gcm.to_vec())
            };
            assert!(
                policy.versions_of(Engine::Rustls).eq(versions.clone()),
                "{system:?}"
            );
            let names: Vec<_> = policy.suites_of(Engine::Rustls).map(Suite::name).collect();
            assert_eq!(names, suites, "{system:?}");
            if cfg!(not(feature = "legacy-tls")) {
                assert!(policy.effective_versions().eq(versions), "{system:?}");
                assert_eq!(
                    policy.effective_suites().count(),
                    suites.len(),
                    "{system:?}"
                );
            }
            let listed = policy.versions.len() + policy.suites.len();
            let effective = policy.effective_versions().count() + policy.effective_suites().count();
            assert_eq!(policy.unmet().count(), listed - effective, "{system:?}");
        }
    }

    #[test]
    fn every_suite_of_a_policy_is_of_one_of_its_versions() {
        for policy in SystemPolicy::ALL {
            for suite in policy.suites() {
                let usable = suite
                    .versions()
                    .iter()
                    .any(|version| policy.versions().contains(version));
                assert!(usable, "{} {}", policy.name(), suite.name());
            }
        }
    }

    #[test]
    fn a_suite_is_found_by_both_of_its_names_and_its_number() {
        for suite in Suite::all() {
            assert_eq!(Suite::named(suite.name()), Some(suite));
            assert_eq!(Suite::named(suite.iana()), Some(suite));
            assert_eq!(Suite::numbered(suite.id()), Some(suite));
        }
        assert_eq!(Suite::named("TLS_NULL_WITH_NULL_NULL"), None);
    }
}
