//! Rules that never apply, since an earlier one takes all that they would.
//!
//! A rule is said to be shadowed only if that is certain: one earlier rule must ask for nothing that this one
//! does not ask for too.

use std::collections::HashMap;

use crate::config::plan::Origin;
use crate::config::resolve::Resolver;
use crate::config::rule::{
    Condition, Named, Pattern, RequestRule, ResponseCondition, ResponseRule,
};

/// What a rule asks for, and where it stands.
struct Asks<'a> {
    name: &'a str,
    request: &'a [Condition],
    response: &'a [ResponseCondition],
    origin: &'a Origin,
}

impl Resolver<'_> {
    /// Warns of rules that no request or answer comes to; both lists are in their order.
    pub(super) fn warn_of_shadowed(&mut self, request: &[RequestRule], response: &[ResponseRule]) {
        let request: Vec<_> = request
            .iter()
            .map(|rule| Asks {
                name: &rule.name,
                request: &rule.conditions,
                response: &[],
                origin: &rule.origin,
            })
            .collect();
        let response: Vec<_> = response
            .iter()
            .map(|rule| Asks {
                name: &rule.name,
                request: &rule.request,
                response: &rule.response,
                origin: &rule.origin,
            })
            .collect();
        for rules in [request, response] {
            for (rule, earlier) in shadowed(&rules) {
                self.report
                    .warning(
                        rule.origin,
                        format!("nothing ever comes to the rule `{}`", rule.name),
                    )
                    .also(
                        earlier.origin,
                        format!("`{}` comes first and takes all of it", earlier.name),
                    )
                    .help("give it a smaller `priority`, or conditions of its own");
            }
        }
    }
}

/// The rules that an earlier one shadows, each with the first that does.
fn shadowed<'a>(rules: &'a [Asks<'a>]) -> Vec<(&'a Asks<'a>, &'a Asks<'a>)> {
    let mut found = Vec::new();
    // Whoever asks for some exact hosts shadows only rules that name one of them.
    let mut by_host: HashMap<&str, Vec<&Asks<'_>>> = HashMap::new();
    let mut others: Vec<&Asks<'_>> = Vec::new();
    for rule in rules {
        let named = hosts(rule).first().and_then(|host| by_host.get(host));
        let candidates = named.into_iter().flatten().chain(&others);
        if let Some(earlier) = candidates.copied().find(|earlier| covers(earlier, rule)) {
            found.push((rule, earlier));
            continue;
        }
        let own = hosts(rule);
        if own.is_empty() {
            others.push(rule);
        }
        for host in own {
            by_host.entry(host).or_default().push(rule);
        }
    }
    found
}

/// The hosts that a rule asks for, if they are all exact.
fn hosts<'a>(rule: &'a Asks<'_>) -> Vec<&'a str> {
    let exact = |pattern: &'a Pattern| match pattern {
        Pattern::Exact(text) => Some(text.as_str()),
        Pattern::Wildcard(_) | Pattern::Regex(_) => None,
    };
    let hosts = rule.request.iter().find_map(Condition::hosts);
    let hosts = hosts.unwrap_or_default().iter().map(exact);
    hosts.collect::<Option<_>>().unwrap_or_default()
}

/// Whether an earlier rule takes whatever a later one would.
fn covers(earlier: &Asks<'_>, later: &Asks<'_>) -> bool {
    let asked = |own: &Condition| later.request.iter().any(|other| implies(other, own));
    let answered = |own: &ResponseCondition| {
        let mut others = later.response.iter();
        others.any(|other| response_implies(other, own))
    };
    earlier.request.iter().all(asked) && earlier.response.iter().all(answered)
}

/// Whether `wide` holds wherever `narrow` does.
fn implies(narrow: &Condition, wide: &Condition) -> bool {
    match (narrow, wide) {
        (Condition::Host(narrow), Condition::Host(wide))
        | (Condition::Path(narrow), Condition::Path(wide)) => all_within(narrow, wide),
        (Condition::Method(narrow), Condition::Method(wide)) => {
            narrow.iter().all(|method| wide.contains(method))
        }
        (Condition::Header(narrow), Condition::Header(wide)) => named_within(narrow, wide),
        (Condition::Query(narrow), Condition::Query(wide))
        | (Condition::Cookie(narrow), Condition::Cookie(wide)) => named_within(narrow, wide),
        (Condition::SourceIp(narrow), Condition::SourceIp(wide)) => wide.covers(narrow),
        (
            Condition::Host(_)
            | Condition::Path(_)
            | Condition::Method(_)
            | Condition::Header(_)
            | Condition::Query(_)
            | Condition::Cookie(_)
            | Condition::SourceIp(_),
            _,
        ) => false,
    }
}

fn response_implies(narrow: &ResponseCondition, wide: &ResponseCondition) -> bool {
    match (narrow, wide) {
        (ResponseCondition::Status(narrow), ResponseCondition::Status(wide)) => {
            narrow.iter().all(|range| {
                let mut wide = wide.iter();
                wide.any(|other| other.contains(range.start()) && other.contains(range.end()))
            })
        }
        (ResponseCondition::Header(narrow), ResponseCondition::Header(wide)) => {
            named_within(narrow, wide)
        }
        (ResponseCondition::Status(_) | ResponseCondition::Header(_), _) => false,
    }
}

fn named_within<N: PartialEq>(narrow: &Named<N>, wide: &Named<N>) -> bool {
    narrow.name == wide.name && all_within(&narrow.values, &wide.values)
}

fn all_within(narrow: &[Pattern], wide: &[Pattern]) -> bool {
    narrow
        .iter()
        .all(|narrow| wide.iter().any(|wide| within(narrow, wide)))
}

/// Whether a pattern matches whatever another does, as far as that is seen at a glance.
fn within(narrow: &Pattern, wide: &Pattern) -> bool {
    match (narrow, wide) {
        (Pattern::Exact(narrow) | Pattern::Wildcard(narrow), Pattern::Wildcard(wide)) => {
            wildcard_within(narrow.as_bytes(), wide.as_bytes())
        }
        (narrow, wide) => narrow == wide,
    }
}

/// The wildcards of `narrow` are characters here, which only wildcards as wide can stand for.
fn wildcard_within(narrow: &[u8], wide: &[u8]) -> bool {
    let (mut at, mut against) = (0, 0);
    // Where to go on after the last `*`: it takes one more.
    let mut retry = None;
    while let Some(byte) = narrow.get(at) {
        match wide.get(against) {
            Some(b'*') => {
                against += 1;
                retry = Some((at, against));
                continue;
            }
            Some(b'?') if *byte != b'*' => {}
            Some(own) if own == byte && *own != b'?' => {}
            _ => {
                let Some((taken, after)) = retry else {
                    return false;
                };
                (at, against) = (taken + 1, after);
                retry = Some((at, against));
                continue;
            }
        }
        at += 1;
        against += 1;
    }
    wide.get(against..)
        .is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_within_one_that_is_as_wide() {
        let pattern = |text: &str| {
            if text.contains(['*', '?']) {
                Pattern::Wildcard(text.to_owned())
            } else {
                Pattern::Exact(text.to_owned())
            }
        };
        for (narrow, wide, expected) in [
            ("/a", "/a", true),
            ("/a", "/b", false),
            ("/a/b", "/a/*", true),
            ("/a/", "/a/*", true),
            ("/a", "/a/*", false),
            ("/a/*", "/*", true),
            ("/*", "/a/*", false),
            ("/a/*", "/a/*", true),
            ("/a?", "/a*", true),
            ("/a*", "/a?", false),
            ("/ab", "/a?", true),
            ("/a?", "/a?", true),
            ("/a?", "/ab", false),
            ("/a*b*c", "/a*c", true),
            ("/aXbXc", "/a*b*c", true),
            ("/aXc", "/a*b*c", false),
            ("/a*", "/a**", true),
        ] {
            assert_eq!(
                within(&pattern(narrow), &pattern(wide)),
                expected,
                "{narrow} {wide}"
            );
        }
    }
}
