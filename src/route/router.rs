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
    let patterns = condition.paths().unwrap_or_default();
    let expressions = patterns.iter().filter_map(|pattern| match pattern {
        Pattern::Regex(text) => Some(compile(text)),
        Pattern::Exact(_) | Pattern::Wildcard(_) => None,
    });
    expressions.collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::*;
    use crate::config::plan::{GroupId, Origin, Switch};
    use crate::config::rule::{
        Case, Forward, HeaderEdits, Named, Redirect, RedirectPort, RedirectProtocol, RegexText,
        Segment, WeightedGroup,
    };

    fn rule(conditions: Vec<Condition>) -> RequestRule {
        let group = WeightedGroup {
            group: GroupId(0),
            weight: 100,
        };
        RequestRule {
            name: String::new(),
            priority: 1,
            conditions,
            traffic_limit: None,
            rewrite: None,
            edits: HeaderEdits::default(),
            cors: None,
            mirror: None,
            compression: Switch::On,
            action: Action::Forward(Forward {
                groups: vec![group],
                sticky: None,
            }),
            origin: Origin::default(),
        }
    }

    fn plan(rules: Vec<Vec<Condition>>) -> RulesPlan {
        RulesPlan {
            request: rules.into_iter().map(rule).collect(),
            default: rule(Vec::new()),
            response: Vec::new(),
        }
    }

    fn pattern(text: &str) -> Pattern {
        if let Some(expression) = text.strip_prefix('~') {
            let text = expression.to_owned();
            let captures = regex::Regex::new(expression).unwrap().captures_len() - 1;
            return Pattern::Regex(RegexText {
                text,
                case: Case::Told,
                captures,
            });
        }
        if text.contains(['*', '?']) {
            Pattern::Wildcard(text.to_owned())
        } else {
            Pattern::Exact(text.to_owned())
        }
    }

    fn patterns(texts: &[impl AsRef<str>]) -> Vec<Pattern> {
        texts.iter().map(|text| pattern(text.as_ref())).collect()
    }

    /// Asks a router for a GET without fields.
    fn route(router: &Router, host: &str, path: &str) -> Routed {
        router.route(&Request {
            host,
            path,
            query: None,
            method: &Method::GET,
            headers: &HeaderMap::new(),
            client: &|| IpAddr::from([192, 0, 2, 7]),
        })
    }

    #[test]
    fn the_first_rule_whose_conditions_hold_takes_a_request() {
        let host = |texts: &[&str]| Condition::Host(patterns(texts));
        let path = |texts: &[&str]| Condition::Path(patterns(texts));
        let router = Router::new(&plan(vec![
            vec![host(&["*.example.com"]), path(&["/api/*"])],
            vec![host(&["www.example.com", "example.com"])],
            vec![
                path(&["~^/v[0-9]+/"]),
                Condition::Method(vec![Method::POST]),
            ],
            vec![path(&["/a/b"])],
            vec![host(&["*.b.example.com"])],
            vec![host(&["*.example.*"])],
            vec![path(&["/a/*"])],
        ]));
        for (name, asked, expected) in [
            ("www.example.com", "/api/x", RuleId(0)),
            ("a.b.example.com", "/api/", RuleId(0)),
            ("www.example.com", "/api", RuleId(1)),
            ("example.com", "/api/x", RuleId(1)),
            ("a.b.example.com", "/a/b", RuleId(3)),
            ("a.b.example.com", "/v1/", RuleId(4)),
            ("a.example.org", "/v1/", RuleId(5)),
            ("other", "/a/c", RuleId(6)),
            ("other", "/a", RuleId::DEFAULT),
            ("", "*", RuleId::DEFAULT),
        ] {
            assert_eq!(route(&router, name, asked).rule, expected, "{name} {asked}");
        }
    }

    #[test]
    fn captures_are_what_the_expression_that_matched_took() {
        let paths = patterns(&["~^/old/([a-z]+)/(x)?", "~^/(former)/(.*)$"]);
        let mut plan = plan(vec![vec![Condition::Path(paths)]]);
        plan.request[0].action = Action::Redirect(Redirect {
            code: StatusCode::FOUND,
            protocol: RedirectProtocol::Same,
            host: Template::of(Segment::Host),
            port: RedirectPort::Same,
            path: Template::of(Segment::Capture(1)),
            query: Template::of(Segment::Capture(2)),
        });
        let router = Router::new(&plan);
        for (path, expected) in [
            ("/old/abc/x", ["abc", "x", ""]),
            ("/old/abc/", ["abc", "", ""]),
            ("/former/%2F;", ["former", "%2F;", ""]),
            ("/other", ["", "", ""]),
        ] {
            let captures = route(&router, "a", path).captures;
            let taken = [1, 2, 3].map(|number| captures.of(path.as_bytes(), number));
            assert_eq!(taken, expected.map(str::as_bytes), "{path}");
            assert_eq!(captures.of(path.as_bytes(), 0), b"");
            assert_eq!(captures.of(path.as_bytes(), 4), b"");
        }
    }

    #[test]
    fn a_long_host_or_path_takes_no_longer_than_its_length_allows() {
        let many = (0..200).map(|rule| {
            let host = Condition::Host(patterns(&[format!("*.host{rule}.example.com")]));
            let path = Condition::Path(patterns(&[
                "~^(a*)*b$".to_owned(),
                format!("/{rule}/*a*b?c"),
            ]));
            vec![host, path]
        });
        let any = vec![Condition::Path(patterns(&[
            "~(.*)(.*)(.*)x$",
            "/*a*a*a*a*a*b",
        ]))];
        let router = Router::new(&plan(many.chain([any]).collect()));
        let (host, path) = ("a.".repeat(16_000), "/".repeat(100) + &"a".repeat(32_000));
        let began = Instant::now();
        assert_eq!(route(&router, &host, &path).rule, RuleId::DEFAULT);
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
    }

    /// Few words, so that rules and requests meet often.
    fn conditions() -> impl Strategy<Value = Vec<Condition>> {
        let hosts = [
            "a.x", "b.a.x", "*.x", "*.a.x", "a.*", "?.x", "*a.x", "~^a\\.", "b.y",
        ];
        let paths = [
            "/", "/a", "/a/*", "/a/b", "/a/b/*", "/*", "/?", "/a*", "/*b", "~b$", "/a/*/c",
            "~^/a/", "~^/a/?b", "~^/a/b*$", "~^/a/b+",
        ];
        let host = vec(prop::sample::select(hosts.to_vec()), 1..3)
            .prop_map(|texts| Condition::Host(patterns(&texts)));
        let path = vec(prop::sample::select(paths.to_vec()), 1..3)
            .prop_map(|texts| Condition::Path(patterns(&texts)));
        let method = prop::sample::select(vec![Method::GET, Method::POST])
            .prop_map(|method| Condition::Method(vec![method]));
        let header = prop::sample::select(vec!["1", "2", "*"]).prop_map(|value| {
            Condition::Header(Named {
                name: HeaderName::from_static("x-a"),
                values: patterns(&[value]),
            })
        });
        let maybe = |strategy: BoxedStrategy<Condition>| prop::option::weighted(0.5, strategy);
        (
            maybe(host.boxed()),
            maybe(path.boxed()),
            prop::option::weighted(0.2, method),
            prop::option::weighted(0.2, header),
        )
            .prop_map(|(host, path, method, header)| {
                [host, path, method, header].into_iter().flatten().collect()
            })
    }

    proptest! {
        #[test]
        fn the_index_chooses_what_a_plain_scan_does(
            rules in vec(conditions(), 0..12),
            requests in vec((
                prop::sample::select(vec!["a.x", "b.a.x", "c.b.a.x", "x", "a.y", "b.y", ""]),
                "(/[abc]{0,2}){1,4}",
                prop::sample::select(vec![Method::GET, Method::POST]),
                prop::option::of(prop::sample::select(vec!["1", "2"])),
            ), 20),
        ) {
            let plan = plan(rules);
            let router = Router::new(&plan);
            for (host, path, method, value) in &requests {
                let field = value.map(|v| (HeaderName::from_static("x-a"), HeaderValue::from_static(v)));
                let request = Request {
                    host,
                    path,
                    query: None,
                    method,
                    headers: &field.into_iter().collect(),
                    client: &|| IpAddr::from([192, 0, 2, 7]),
                };
                let holds = |condition: &Condition| Test::new(condition).holds(&request);
                let naive = plan.request.iter().position(|rule| rule.conditions.iter().all(holds));
                let naive = naive.map_or(RuleId::DEFAULT, |at| RuleId(u32::try_from(at).unwrap()));
                prop_assert_eq!(router.route(&request).rule, naive, "{} {}", host, path);
            }
        }
    }
}
