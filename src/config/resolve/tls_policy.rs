//! `[[tls_policy]]`, and which policy a listener has (alb.md section 2.4, decision 1).

use super::names::{Id, Names};
use super::{Resolver, Scope};
use crate::config::defaults;
use crate::config::document::{Field, ListenerDocument, TlsPolicyDocument, Written};
use crate::config::plan::Origin;
use crate::config::suggest;
use crate::config::tls_policy::{Suite, SystemPolicy, TlsPolicy, Version};

/// An index into the file's policies.
#[derive(Clone, Copy)]
pub(super) struct TlsPolicyId(usize);

impl Id for TlsPolicyId {
    fn mint(index: usize) -> Self {
        Self(index)
    }
}

/// The file's own policies.
pub(super) struct TlsPolicies {
    pub(super) names: Names<TlsPolicyId>,
    /// `None` in the place of one that has mistakes.
    policies: Vec<Option<TlsPolicy>>,
}

impl Resolver<'_> {
    /// Reads the file's own policies.
    pub(super) fn tls_policies(&mut self, written: &[TlsPolicyDocument]) -> TlsPolicies {
        let tables = written.iter().map(|policy| (&policy.name, &policy.origin));
        let names = self
            .names("TLS policy", tables)
            .beside(SystemPolicy::ALL.map(SystemPolicy::name));
        let policies = written.iter().map(|policy| self.custom(policy)).collect();
        TlsPolicies { names, policies }
    }

    /// The policy of a listener, and a warning, or under `tls_policy_strict` an error, where it promises
    /// versions that this build does not negotiate.
    pub(super) fn tls_policy(
        &mut self,
        written: &ListenerDocument,
        scope: &mut Scope,
    ) -> Option<TlsPolicy> {
        let reference = written.tls_policy.given();
        let policy = self.named_policy(reference, scope)?;
        #[cfg(feature = "legacy-tls")]
        let policy = Self::for_listener(policy, written);
        if let Some(reference) = reference {
            self.check_promise(&policy, reference, written);
            #[cfg(feature = "legacy-tls")]
            self.warn_of_old_versions(&policy, reference);
        }
        Some(policy)
    }

    /// The policy of that name, or the default.
    fn named_policy(
        &mut self,
        reference: Option<&Written<String>>,
        scope: &mut Scope,
    ) -> Option<TlsPolicy> {
        let Some(reference) = reference else {
            return Some(defaults::TLS_POLICY.into());
        };
        match SystemPolicy::named(&self.expand(reference)?) {
            Some(system) => Some(system.into()),
            None => {
                let TlsPolicies { names, policies } = &mut scope.tls_policies;
                let id = self.refer(names, reference)?;
                policies.get(id.0)?.clone()
            }
        }
    }

    fn check_promise(
        &mut self,
        policy: &TlsPolicy,
        reference: &Written<String>,
        written: &ListenerDocument,
    ) {
        let unmet = listed(policy.unmet_versions().map(Version::key));
        if unmet.is_empty() {
            return;
        }
        let effective = listed(policy.effective_versions().map(Version::key));
        let name = policy.name.escape_debug();
        let strict = written.tls_policy_strict.given();
        #[cfg_attr(
            not(feature = "legacy-tls"),
            expect(unused_variables, reason = "there is nothing to add")
        )]
        let diagnostic = match strict.filter(|strict| strict.value) {
            Some(strict) => self
                .report
                .error(
                    &reference.origin,
                    format!("the TLS policy `{name}` promises {unmet}, which lockgate does not negotiate"),
                )
                .label(format!("negotiated: {effective} only"))
                .also(&strict.origin, "promises are to be kept")
                .help("choose a policy without them, or leave `tls_policy_strict` out"),
            None => self
                .report
                .warning(
                    &reference.origin,
                    format!("the TLS policy `{name}` is served as {effective} only"),
                )
                .label(format!("promises {unmet}, which lockgate does not negotiate"))
                .help("`tls_policy_strict = true` makes this an error"),
        };
        #[cfg(feature = "legacy-tls")]
        if let Some(auth) = &written.client_auth
            && Self::keeps_out_older_clients(policy)
        {
            diagnostic.also(&auth.origin, "only rustls authenticates clients");
        }
    }

    fn custom(&mut self, written: &TlsPolicyDocument) -> Option<TlsPolicy> {
        let versions = self.tls_versions(written);
        let suites = self.tls_suites(written);
        // Names have been checked all together, but for those that are taken.
        let name_written = written.name.given()?;
        let name = self.expand(name_written)?;
        if SystemPolicy::named(&name).is_some() {
            self.report
                .error(&name_written.origin, format!("`{name}` is a system policy"))
                .label("choose another name");
        }
        let (versions, suites) = (versions?, suites?);
        self.check_fit(written, &versions, &suites);
        let mut versions: Vec<_> = versions.into_iter().map(|(version, _)| version).collect();
        versions.sort();
        let is_chosen = |suite: &&Suite| suites.iter().any(|(chosen, _)| chosen == suite);
        let suites: Vec<_> = Suite::all().filter(is_chosen).collect();
        #[cfg(feature = "legacy-tls")]
        self.check_modern(written, &versions, &suites);
        Some(TlsPolicy::new(name, versions, suites))
    }

    fn tls_versions<'w>(
        &mut self,
        written: &'w TlsPolicyDocument,
    ) -> Option<Vec<(Version, &'w Origin)>> {
        let help = "name some of TLSv1.2 and TLSv1.3";
        let list = self.some_words(&written.origin, "versions", &written.versions, help)?;
        let words = Version::ALL.map(|version| (version.key(), Some(version)));
        let mut versions = Vec::new();
        for word in list {
            let Some(version) = self.choice("versions", word, &words) else {
                continue;
            };
            if !version.is_effective() {
                let message = format!("`versions`: lockgate does not negotiate {}", word.value);
                self.report
                    .error(&word.origin, message)
                    .label("expected `\"TLSv1.2\"` or `\"TLSv1.3\"`")
                    .help("RFC 8996 forbids TLS 1.0 and 1.1");
            }
            self.add_once("versions", &mut versions, version, word);
        }
        (versions.len() == list.len()).then_some(versions)
    }

    fn tls_suites<'w>(
        &mut self,
        written: &'w TlsPolicyDocument,
    ) -> Option<Vec<(&'static Suite, &'w Origin)>> {
        let help = "name suites as OpenSSL or IANA does, such as \"TLS_AES_128_GCM_SHA256\"";
        let list = self.some_words(
            &written.origin,
            "cipher_suites",
            &written.cipher_suites,
            help,
        )?;
        let mut suites = Vec::new();
        for word in list {
            let text = self.expand(word)?;
            let Some(suite) = Suite::named(&text) else {
                self.unknown_suite(&text, &word.origin);
                continue;
            };
            if !suite.is_effective() {
                let message = format!("`cipher_suites`: lockgate does not have `{text}`");
                let known: Vec<_> = Suite::all()
                    .filter(|known| known.is_effective() && known.versions() == suite.versions())
                    .map(Suite::name)
                    .collect();
                let diagnostic = self.report.error(&word.origin, message);
                diagnostic.label("not implemented by rustls, for its age or its weakness");
                if !known.is_empty() {
                    diagnostic.help(format!("it has {}", known.join(", ")));
                }
            }
            self.add_once("cipher_suites", &mut suites, suite, word);
        }
        (suites.len() == list.len()).then_some(suites)
    }

    fn unknown_suite(&mut self, text: &str, origin: &Origin) {
        let message = format!("there is no cipher suite `{}`", text.escape_debug());
        let diagnostic = self.report.error(origin, message);
        let names = Suite::all().flat_map(|suite| [suite.name(), suite.iana()]);
        match suggest::nearest(text, names) {
            Some(near) => diagnostic.label(format!("did you mean `\"{near}\"`?")),
            None => diagnostic.help("suites are named as OpenSSL or IANA does"),
        };
    }

    /// Every suite must be of one of the versions, and every version must have a suite.
    fn check_fit(
        &mut self,
        written: &TlsPolicyDocument,
        versions: &[(Version, &Origin)],
        suites: &[(&'static Suite, &Origin)],
    ) {
        for (suite, origin) in suites {
            if !versions.iter().any(|(v, _)| suite.versions().contains(v)) {
                let needed = listed(suite.versions().iter().map(|version| version.key()));
                let message = format!("`{}` is a suite of {needed}", suite.name());
                let diagnostic = self.report.error(origin, message);
                diagnostic.label("of no version that this policy lists");
                if let Some(versions) = written.versions.given() {
                    diagnostic.also(&versions.origin, "the versions");
                }
            }
        }
        for (version, origin) in versions {
            if !suites.iter().any(|(s, _)| s.versions().contains(version)) {
                let message = format!("this policy has no cipher suite of {}", version.key());
                let diagnostic = self.report.error(origin, message);
                diagnostic.label("cannot be negotiated");
                if let Some(suites) = written.cipher_suites.given() {
                    diagnostic.also(&suites.origin, "the suites");
                }
            }
        }
    }

    /// The words of an array that must be there and have some.
    fn some_words<'w>(
        &mut self,
        table: &Origin,
        key: &str,
        field: &'w Field<Vec<Written<String>>>,
        help: &str,
    ) -> Option<&'w [Written<String>]> {
        match field {
            Field::Absent => {
                self.missing(table, format!("this TLS policy has no `{key}`"), help);
                None
            }
            Field::Wrong => None,
            Field::Given(list) if list.value.is_empty() => {
                self.report
                    .error(&list.origin, format!("`{key}` is empty"))
                    .help(help);
                None
            }
            Field::Given(list) => Some(&list.value),
        }
    }

    fn add_once<'w, V: PartialEq>(
        &mut self,
        key: &str,
        all: &mut Vec<(V, &'w Origin)>,
        value: V,
        word: &'w Written<String>,
    ) {
        if let Some((_, first)) = all.iter().find(|(earlier, _)| *earlier == value) {
            self.report
                .error(
                    &word.origin,
                    format!("`{key}`: `{}` stands twice", word.value),
                )
                .label("the second time")
                .also(first, "the first time");
        }
        all.push((value, &word.origin));
    }
}

/// `a, b and c`
pub(super) fn listed(words: impl Iterator<Item = &'static str>) -> String {
    let words: Vec<_> = words.collect();
    match words.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, before)) => format!("{} and {last}", before.join(", ")),
        None => String::new(),
    }
}
