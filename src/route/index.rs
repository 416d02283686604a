//! Which rules are worth looking at: an index over the hosts and paths that rules ask for.
//!
//! A rule is filed under each of its hosts if all of them are names or `*.` and a name, and there under each of
//! its paths if all are plain, end in `/*` or are expressions that begin with a folder; other rules are looked
//! at for every request. Whoever is found is still asked whether all of its conditions hold.

use std::collections::HashMap;

use crate::config::rule::{Case, Condition, Pattern, RegexText};

/// Rules by host, then by path. A list holds rules in their order.
#[derive(Debug, Default)]
pub(super) struct Index {
    exact: Keyed<Paths>,
    /// By what follows `*` in `*.example.com`.
    suffix: Keyed<Paths>,
    any: Paths,
}

/// Rules by path.
#[derive(Debug, Default)]
struct Paths {
    exact: Keyed<Vec<u32>>,
    /// By what comes before `*` in `/api/*`.
    prefix: Keyed<Vec<u32>>,
    any: Vec<u32>,
}

/// A map from texts; one that is longer than all of them is not even hashed.
#[derive(Debug)]
struct Keyed<T> {
    map: HashMap<Box<[u8]>, T>,
    longest: usize,
}

impl<T> Default for Keyed<T> {
    fn default() -> Self {
        Self {
            map: HashMap::new(),
            longest: 0,
        }
    }
}

impl<T: Default> Keyed<T> {
    fn entry(&mut self, key: &[u8]) -> &mut T {
        self.longest = self.longest.max(key.len());
        self.map.entry(key.into()).or_default()
    }

    fn get(&self, key: &[u8]) -> Option<&T> {
        if key.len() > self.longest {
            return None;
        }
        self.map.get(key)
    }
}

/// Where a rule is filed.
enum Key<'a> {
    Exact(&'a [u8]),
    /// A beginning of paths, an end of hosts.
    Part(&'a [u8]),
}

impl Index {
    /// Files a rule, after all that come before it.
    pub(super) fn add(&mut self, rule: u32, conditions: &[Condition]) {
        let hosts = host_keys(conditions);
        let paths = path_keys(conditions);
        match &hosts {
            None => self.any.add(rule, paths.as_deref()),
            Some(hosts) => {
                for host in hosts {
                    let filed = match host {
                        Key::Exact(name) => self.exact.entry(name),
                        Key::Part(end) => self.suffix.entry(end),
                    };
                    filed.add(rule, paths.as_deref());
                }
            }
        }
    }

    /// The first rule that `matches` takes; it is asked about rules that may apply to this host and path.
    pub(super) fn first(
        &self,
        host: &[u8],
        path: &[u8],
        matches: &impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let mut best = u32::MAX;
        self.any.search(path, matches, &mut best);
        if let Some(paths) = self.exact.get(host) {
            paths.search(path, matches, &mut best);
        }
        // Only as far from the end as the longest suffix goes, however long the host is.
        let start = host.len().saturating_sub(self.suffix.longest);
        for (at, byte) in host.iter().enumerate().skip(start) {
            if *byte == b'.'
                && let Some(paths) = host.get(at..).and_then(|end| self.suffix.get(end))
            {
                paths.search(path, matches, &mut best);
            }
        }
        (best != u32::MAX).then_some(best)
    }
}

impl Paths {
    fn add(&mut self, rule: u32, paths: Option<&[Key<'_>]>) {
        let Some(paths) = paths else {
            file(&mut self.any, rule);
            return;
        };
        for path in paths {
            match path {
                Key::Exact(path) => file(self.exact.entry(path), rule),
                Key::Part(start) => file(self.prefix.entry(start), rule),
            }
        }
    }

    fn search(&self, path: &[u8], matches: &impl Fn(u32) -> bool, best: &mut u32) {
        search(&self.any, matches, best);
        if let Some(rules) = self.exact.get(path) {
            search(rules, matches, best);
        }
        for (at, byte) in path.iter().enumerate().take(self.prefix.longest) {
            if *byte == b'/'
                && let Some(rules) = path.get(..=at).and_then(|start| self.prefix.get(start))
            {
                search(rules, matches, best);
            }
        }
    }
}

/// Adds a rule to a list, once.
fn file(list: &mut Vec<u32>, rule: u32) {
    if list.last() != Some(&rule) {
        list.push(rule);
    }
}

/// Looks for a rule that comes before the best so far.
fn search(rules: &[u32], matches: &impl Fn(u32) -> bool, best: &mut u32) {
    for rule in rules.iter().take_while(|rule| **rule < *best) {
        if matches(*rule) {
            *best = *rule;
            return;
        }
    }
}

/// The keys of a rule's hosts; none if one of them has no key, or there are no hosts.
fn host_keys(conditions: &[Condition]) -> Option<Vec<Key<'_>>> {
    let patterns = conditions.iter().find_map(Condition::hosts)?;
    let keys = patterns.iter().map(|pattern| match pattern {
        Pattern::Exact(text) => Some(Key::Exact(text.as_bytes())),
        Pattern::Wildcard(text) => {
            let end = text.strip_prefix('*')?;
            let end = end.starts_with('.').then_some(end)?;
            plain(end).map(Key::Part)
        }
        Pattern::Regex(_) => None,
    });
    keys.collect()
}

/// The keys of a rule's paths, likewise.
fn path_keys(conditions: &[Condition]) -> Option<Vec<Key<'_>>> {
    let patterns = conditions.iter().find_map(Condition::paths)?;
    let keys = patterns.iter().map(|pattern| match pattern {
        Pattern::Exact(text) => Some(Key::Exact(text.as_bytes())),
        Pattern::Wildcard(text) => {
            let start = text.strip_suffix('*')?;
            let start = start.ends_with('/').then_some(start)?;
            plain(start).map(Key::Part)
        }
        Pattern::Regex(regex) => folder(regex).map(Key::Part),
    });
    keys.collect()
}

/// The folder that every path is in which an expression matches, where that is plain to see: `/app/` of
/// `^/app/v[0-9]+`.
fn folder(regex: &RegexText) -> Option<&[u8]> {
    let expression = regex.text.strip_prefix('^')?;
    if regex.case == Case::Ignored || expression.contains('|') {
        return None;
    }
    let is_literal = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_~".contains(&byte);
    let end = expression.bytes().position(|byte| !is_literal(byte));
    let (literal, rest) = expression.split_at(end.unwrap_or(expression.len()));
    // The character before one of these may be missing.
    let is_sure = !rest.starts_with(['?', '*', '{']);
    let sure = literal.len() - usize::from(!is_sure && !literal.is_empty());
    let folder = literal.as_bytes().get(..sure)?;
    let slash = folder.iter().rposition(|byte| *byte == b'/')?;
    folder.get(..=slash)
}

/// A text without wildcards.
fn plain(text: &str) -> Option<&[u8]> {
    (!text.contains(['*', '?'])).then_some(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_an_expression_is_where_all_it_matches_is() {
        for (expression, case, expected) in [
            ("^/app/[a-z]+$", Case::Told, Some("/app/")),
            ("^/app/v1", Case::Told, Some("/app/")),
            ("^/app/$", Case::Told, Some("/app/")),
            ("^/app/(a)/b", Case::Told, Some("/app/")),
            ("^/app/?", Case::Told, Some("/")),
            ("^/app/*", Case::Told, Some("/")),
            ("^/app/{0,1}", Case::Told, Some("/")),
            ("^/app/+", Case::Told, Some("/app/")),
            ("^/app\\.d/", Case::Told, Some("/")),
            ("^/?", Case::Told, None),
            ("^", Case::Told, None),
            ("^?/app/", Case::Told, None),
            ("^/app/|^/b/", Case::Told, None),
            ("^/app/", Case::Ignored, None),
            ("/app/", Case::Told, None),
            ("^.*/app/", Case::Told, None),
        ] {
            let text = RegexText {
                text: expression.to_owned(),
                case,
                captures: 0,
            };
            assert_eq!(folder(&text), expected.map(str::as_bytes), "{expression}");
        }
    }
}
