//! A listener's response rules, compiled once for a generation: which one an answer is for.

use std::ops::RangeInclusive;

use http::{HeaderMap, HeaderName, StatusCode};

use super::condition::{Request, Test};
use super::text::Texts;
use crate::config::rule::{Case, ResponseCondition, ResponseRule};

/// A listener's response rules.
#[derive(Debug)]
pub struct ResponseRouter(Vec<Rule>);

/// One rule, ready to run.
#[derive(Debug)]
struct Rule {
    request: Vec<Test>,
    response: Vec<AnswerTest>,
}

/// What must hold of an answer.
#[derive(Debug)]
enum AnswerTest {
    Status(Vec<RangeInclusive<u16>>),
    Header(HeaderName, Texts),
}

impl AnswerTest {
    fn new(condition: &ResponseCondition) -> Self {
        match condition {
            ResponseCondition::Status(ranges) => Self::Status(ranges.clone()),
            ResponseCondition::Header(named) => {
                Self::Header(named.name.clone(), Texts::new(&named.values, Case::Told))
            }
        }
    }

    fn holds(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        match self {
            Self::Status(ranges) => ranges.iter().any(|range| range.contains(&status.as_u16())),
            Self::Header(name, texts) => {
                let mut lines = headers.get_all(name).iter();
                lines.any(|line| texts.match_any(line.as_bytes()))
            }
        }
    }
}

impl ResponseRouter {
    /// Compiles a listener's rules.
    pub fn new(rules: &[ResponseRule]) -> Self {
        let compiled = rules.iter().map(|rule| {
            let mut request: Vec<_> = rule.request.iter().map(Test::new).collect();
            request.sort_by_key(Test::cost);
            Rule {
                request,
                response: rule.response.iter().map(AnswerTest::new).collect(),
            }
        });
        Self(compiled.collect())
    }

    /// The place of the first rule whose conditions hold of an answer, and of the request as it was sent.
    pub fn first(
        &self,
        request: &Request<'_>,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Option<usize> {
        self.0.iter().position(|rule| {
            rule.response.iter().all(|test| test.holds(status, headers))
                && rule.request.iter().all(|test| test.holds(request))
        })
    }
}
