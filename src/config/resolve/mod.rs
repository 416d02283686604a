//! From what was written to what was meant: defaults are filled in, bounds held, names become ids.
//!
//! Nothing stops at a mistake: it is reported, a stand-in is used and resolution goes on, so that one run
//! shows every mistake. A plan comes out only if there was none.

mod backend_tls;
mod balance;
mod certificate;
mod client;
mod client_auth;
mod client_cert;
mod environment;
mod group;
mod health;
mod https;
#[cfg(feature = "legacy-tls")]
mod legacy_tls;
mod limits;
mod listener;
mod names;
mod rule;
mod server;
mod tls_policy;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub(super) use self::health::CheckProtocol;
use self::names::Names;
use self::tls_policy::TlsPolicies;
use crate::config::defaults::Rule;
use crate::config::document::{Completeness, Document, Field, Quantity, Written};
use crate::config::plan::{CertificateId, GroupId, GroupPlan, Origin, Plan, Switch};
use crate::config::report::{Diagnostic, Report};
use crate::config::suggest;
use crate::config::value::{self, ValueError};

/// What resolution needs besides the document.
pub(super) struct Resolver<'a> {
    /// Where mistakes go.
    pub(super) report: &'a mut Report,
    /// What relative paths are relative to.
    pub(super) folder: PathBuf,
    /// The value of an environment variable.
    pub(super) environment: &'a dyn Fn(&str) -> Option<String>,
    /// Whether what is absent may have been written.
    pub(super) completeness: Completeness,
}

/// The names that others refer to.
struct Scope {
    certificates: Names<CertificateId>,
    tls_policies: TlsPolicies,
    groups: Names<GroupId>,
    /// The names that users gave to headers of identity, on any listener, in lower case with `-` for `_`.
    own_names: Vec<String>,
    /// The groups themselves; `None` in the place of one that has mistakes.
    group_plans: Vec<Option<GroupPlan>>,
}

impl Resolver<'_> {
    /// Makes the plan of a document, if it has no mistakes.
    pub(super) fn resolve(&mut self, document: &Document) -> Option<Plan> {
        let mut scope = Scope {
            certificates: self.names(
                "certificate",
                document.certificates.iter().map(|c| (&c.name, &c.origin)),
            ),
            tls_policies: self.tls_policies(&document.tls_policies),
            groups: self.names(
                "server group",
                document.groups.iter().map(|g| (&g.name, &g.origin)),
            ),
            own_names: self.own_names(&document.listeners),
            group_plans: Vec::new(),
        };
        self.check_listener_names(&document.listeners);
        let server = self.server(document.server.as_ref());
        let certificates: Vec<_> = document
            .certificates
            .iter()
            .map(|written| self.certificate(written))
            .collect();
        scope.group_plans = document
            .groups
            .iter()
            .map(|written| self.group(written))
            .collect();
        let listeners = self.listeners(&document.listeners, &mut scope);
        self.warn_of_unused(&scope.certificates);
        self.warn_of_unused(&scope.tls_policies.names);
        self.warn_of_unused(&scope.groups);
        if self.report.has_errors() {
            return None;
        }
        Some(Plan {
            server,
            certificates: certificates.into_iter().collect::<Option<_>>()?,
            listeners: listeners.into_iter().collect::<Option<_>>()?,
            groups: scope.group_plans.into_iter().collect::<Option<_>>()?,
        })
    }

    /// Reports what is missing, unless it may be there and could not be read.
    fn missing(&mut self, origin: &Origin, message: impl Into<String>, help: impl Into<String>) {
        if self.completeness == Completeness::Whole {
            self.report.error(origin, message).help(help);
        }
    }

    /// Reports a value that is not taken.
    fn refuse(&mut self, key: &str, origin: &Origin, error: &ValueError) -> &mut Diagnostic {
        self.report
            .error(origin, format!("`{key}`: {error}"))
            .label(error.expected())
    }

    /// A string's meaning; `None` if the key is absent or its value was refused.
    fn string<V>(
        &mut self,
        key: &str,
        field: &Field<String>,
        parse: impl FnOnce(String) -> Result<V, ValueError>,
    ) -> Option<V> {
        self.string_at(key, field.given()?, parse)
    }

    fn string_at<V>(
        &mut self,
        key: &str,
        written: &Written<String>,
        parse: impl FnOnce(String) -> Result<V, ValueError>,
    ) -> Option<V> {
        let text = self.expand(written)?;
        match parse(text) {
            Ok(meaning) => Some(meaning),
            Err(error) => {
                self.refuse(key, &written.origin, &error);
                None
            }
        }
    }

    /// The meanings of an array's strings; refused ones are left out, an absent array is empty.
    fn strings<V>(
        &mut self,
        key: &str,
        field: &Field<Vec<Written<String>>>,
        parse: impl Fn(String) -> Result<V, ValueError>,
    ) -> Vec<V> {
        let elements = field
            .given()
            .map(|list| list.value.as_slice())
            .unwrap_or_default();
        elements
            .iter()
            .filter_map(|element| self.string_at(key, element, &parse))
            .collect()
    }

    /// A number inside its bounds.
    fn number<T>(&mut self, key: &str, field: &Field<i64>, rule: Rule<T>) -> T
    where
        T: TryFrom<u64> + PartialOrd + fmt::Display + Copy,
    {
        let Some(written) = field.given() else {
            return rule.default;
        };
        match value::number(written.value, rule) {
            Ok(number) => number,
            Err(error) => {
                self.refuse(key, &written.origin, &error);
                rule.default
            }
        }
    }

    /// A duration inside its bounds.
    fn duration(&mut self, key: &str, field: &Field<Quantity>, rule: Rule<Duration>) -> Duration {
        self.duration_or(key, field, rule, |_| {
            format!("the default is {}", value::show_duration(rule.default))
        })
    }

    /// A duration inside its bounds, with a way out of one's own for a refused one.
    fn duration_or(
        &mut self,
        key: &str,
        field: &Field<Quantity>,
        rule: Rule<Duration>,
        help: impl FnOnce(&ValueError) -> String,
    ) -> Duration {
        let Some(written) = field.given() else {
            return rule.default;
        };
        let quantity = match &written.value {
            Quantity::Number(number) => Quantity::Number(*number),
            Quantity::Text(text) => {
                let text = Written {
                    value: text.clone(),
                    origin: written.origin.clone(),
                };
                let Some(text) = self.expand(&text) else {
                    return rule.default;
                };
                Quantity::Text(text)
            }
        };
        match value::duration(&quantity, rule) {
            Ok(duration) => duration,
            Err(error) => {
                self.refuse(key, &written.origin, &error).help(help(&error));
                rule.default
            }
        }
    }

    /// One of a closed set of words; `None` as a word's meaning says that it is not implemented yet.
    fn choice<V: Clone>(
        &mut self,
        key: &str,
        written: &Written<String>,
        words: &[(&str, Option<V>)],
    ) -> Option<V> {
        let text = self.expand(written)?;
        let known = words.iter().find(|(word, _)| *word == text);
        if let Some((_, Some(meaning))) = known {
            return Some(meaning.clone());
        }
        let working: Vec<String> = words
            .iter()
            .filter(|(_, meaning)| meaning.is_some())
            .map(|(word, _)| format!("`\"{word}\"`"))
            .collect();
        let working = working.join(" or ");
        if known.is_some() {
            let message = format!("`{key}`: `{text}` is not implemented yet");
            self.report
                .error(&written.origin, message)
                .label(format!("expected {working}"));
            return None;
        }
        let message = format!("`{key}`: unknown value `{}`", text.escape_debug());
        let label = match suggest::nearest(&text, words.iter().map(|(word, _)| *word)) {
            Some(near) => format!("did you mean `\"{near}\"`?"),
            None => format!("expected {working}"),
        };
        self.report.error(&written.origin, message).label(label);
        None
    }
}

impl<T> Field<T> {
    /// What was written, if it is of the right type.
    fn given(&self) -> Option<&Written<T>> {
        match self {
            Self::Given(written) => Some(written),
            Self::Absent | Self::Wrong => None,
        }
    }

    /// Whether the key is not there at all.
    fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

/// A boolean's meaning.
fn switch(field: &Field<bool>, default: Switch) -> Switch {
    match field.given() {
        Some(written) if written.value => Switch::On,
        Some(_) => Switch::Off,
        None => default,
    }
}
