//! A listener's request rules, compiled once for a generation: who takes a request, and what its path says.

use std::ops::Range;

use regex::bytes::Regex;

pub use super::condition::Request;
use super::condition::Test;
use super::index::Index;
use super::split::Split;
use super::text::compile;
use crate::config::rule::{Action, Condition, Pattern, RequestRule, RuleId, RulesPlan, Template};

/// A listener's request rules.
#[derive(Debug)]
pub struct Router {
    rules: Vec<Rule>,
    default: Rule,
    index: Index,
}

/// A rule that takes a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routed {
    /// Which.
    pub rule: RuleId,
    /// What the groups of its path's expression took, where the rule says something of that.
    pub captures: Captures,
}

/// What the groups of an expression took of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captures([Range<usize>; 3]);

impl Captures {
    /// What the group of a number, 1 to 3, took of that path; a group that took no part took nothing.
    pub fn of<'p>(&self, path: &'p [u8], number: u8) -> &'p [u8] {
        let at = usize::from(number).checked_sub(1);
        let range = at.and_then(|at| self.0.get(at)).cloned();
        range.and_then(|range| path.get(range)).unwrap_or_default()
    }
}

/// One rule, ready to run.
#[derive(Debug)]
struct Rule {
    /// Cheap ones first.
    tests: Vec<Test>,
    /// The expressions that captures come from, if any are used.
    captures: Vec<Regex>,
    /// The groups that it forwards to.
    split: Option<Split>,
}

impl Rule {
    fn new(plan: &RequestRule) -> Self {
        let mut tests: Vec<_> = plan.conditions.iter().map(Test::new).collect();
        tests.sort_by_key(Test::cost);
        let captures = if uses_captures(plan) {
            plan.conditions.iter().flat_map(expressions).collect()
        } else {
            Vec::new()
        };
        let split = match &plan.action {
            Action::Forward(forward) => Some(Split::new(&forward.groups)),
            Action::Redirect(_) | Action::FixedResponse(_) => None,
        };
        Self {
            tests,
            captures,
            split,
        }
    }

    fn takes(&self, request: &Request<'_>) -> bool {
        self.tests.iter().all(|test| test.holds(request))
    }

    /// What the first expression that matches took.
    fn captures(&self, path: &[u8]) -> Captures {
        let mut found = Captures::default();
        let taken = self.captures.iter().find_map(|regex| regex.captures(path));
        if let Some(taken) = taken {
            let groups = taken.iter().skip(1);
            for (range, group) in found.0.iter_mut().zip(groups) {
                *range = group.map_or(0..0, |group| group.range());
            }
        }
        found
    }
}

impl Router {
    /// Compiles a listener's rules.
    pub fn new(plan: &RulesPlan) -> Self {
        let mut index = Index::default();
        for (at, rule) in (0..).zip(&plan.request) {
            index.add(at, &rule.conditions);
        }
        Self {
            rules: plan.request.iter().map(Rule::new).collect(),
            default: Rule::new(&plan.default),
            index,
        }
    }

    /// The rule that takes a request: the first whose conditions hold, else the default rule.
    pub fn route(&self, request: &Request<'_>) -> Routed {
        if self.rules.is_empty() {
            return Routed {
                rule: RuleId::DEFAULT,
                captures: Captures::default(),
            };
        }
        let rule = |at: u32| usize::try_from(at).ok().and_then(|at| self.rules.get(at));
        let takes = |at| rule(at).is_some_and(|rule| rule.takes(request));
        let (host, path) = (request.host.as_bytes(), request.path.as_bytes());
        match self.index.first(host, path, &takes) {
            Some(at) => Routed {
                rule: RuleId(at),
                captures: rule(at).map_or_else(Captures::default, |rule| rule.captures(path)),
            },
            None => Routed {
                rule: RuleId::DEFAULT,
                captures: Captures::default(),
            },
        }
    }

    /// The groups that a rule forwards to, if it does.
    pub fn split(&self, rule: RuleId) -> Option<&Split> {
        let at = usize::try_from(rule.0).ok();
        let rule = at.and_then(|at| self.rules.get(at));
        rule.unwrap_or(&self.default).split.as_ref()
    }
}

/// Whether an action of a rule says something of captures.
fn uses_captures(plan: &RequestRule) -> bool {
    let rewrite = plan.rewrite.as_ref();
    let rewrite = rewrite.map(|rewrite| [&rewrite.host, &rewrite.path, &rewrite.query]);
    let redirect = match &plan.action {
        Action::Redirect(redirect) => Some([&redirect.host, &redirect.path, &redirect.query]),
        Action::Forward(_) | Action::FixedResponse(_) => None,
    };
    let mut templates = rewrite.into_iter().chain(redirect).flatten();
    templates.any(|template: &Template| template.captures().next().is_some())
}

/// The expressions of a condition on the path.
fn expressions(condition: &Condition) -> Vec<Regex> {
    let Condition::Path(patterns) = condition else {
        return Vec::new();
    };
    let expressions = patterns.iter().filter_map(|pattern| match pattern {
        Pattern::Regex(text) => Some(compile(text)),
        Pattern::Exact(_) | Pattern::Wildcard(_) => None,
    });
    expressions.collect()
}
