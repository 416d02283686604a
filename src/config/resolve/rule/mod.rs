//! `[[listener.rule]]`: a listener's rules in their order, and the one that takes what no other does.
//!
//! Everything is checked that can be known before the first request: also what a rule can never do, because
//! of the rules before it or of the listener that it is in.

mod action;
mod condition;
mod cors;
mod header;
mod pattern;
mod shadow;
mod template;

use super::{Resolver, Scope, switch};
use crate::config::client::{ClientIpPlan, PeerTrust};
use crate::config::defaults;
use crate::config::document::{Completeness, Field, ListenerDocument, RuleDocument};
use crate::config::plan::{GroupId, ListenerProtocol, Origin, Switch};
use crate::config::rule::{
    Action, Forward, HeaderEdits, RequestRule, ResponseRule, RulesPlan, WeightedGroup,
};
use crate::config::value;

/// What a rule's listener is, as far as it is known.
pub(super) struct Site<'a> {
    /// Its protocol.
    pub(super) protocol: Option<&'a ListenerProtocol>,
    /// Its port.
    pub(super) port: Option<u16>,
    /// Whom its requests are attributed to.
    pub(super) client_ip: &'a ClientIpPlan,
}

/// What a rule is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Response,
}

/// Keys that say nothing of an answer.
const REQUEST_KEYS: [&str; 7] = [
    "traffic_limit",
    "rewrite",
    "cors",
    "mirror",
    "compression",
    "forward",
    "redirect",
];
/// Keys that say nothing of a request.
const RESPONSE_KEYS: [&str; 2] = ["response_status", "response_header"];
/// Of these a request rule has one.
const FINAL_KEYS: [&str; 3] = ["forward", "redirect", "fixed_response"];

impl Resolver<'_> {
    /// A listener's rules and its default; `None` if they have mistakes.
    pub(super) fn rules(
        &mut self,
        listener: &ListenerDocument,
        site: &Site<'_>,
        scope: &mut Scope,
    ) -> Option<RulesPlan> {
        let rows = &listener.rules.rows;
        self.names::<()>("rule", rows.iter().map(|rule| (&rule.name, &rule.origin)));
        self.check_priorities(rows);
        let group = match listener.server_group.given() {
            Some(name) => self.reach(name, site, scope),
            None => None,
        };
        let (mut request, mut response) = (Vec::new(), Vec::new());
        for row in rows {
            match self.direction(row) {
                Some(Direction::Request) => request.extend(self.request_rule(row, site, scope)),
                Some(Direction::Response) => response.extend(self.response_rule(row)),
                None => {}
            }
        }
        self.warn_of_addresses(listener, site);
        if request.len() + response.len() < rows.len()
            || listener.rules.completeness == Completeness::Partial
        {
            return None;
        }
        request.sort_by_key(|rule| rule.priority);
        response.sort_by_key(|rule| rule.priority);
        self.warn_of_shadowed(&request, &response);
        let default = self.default_rule(listener, &mut request, group)?;
        Some(RulesPlan {
            request,
            default,
            response,
        })
    }

    /// What takes the requests that no other rule does: the first without conditions, or `server_group`.
    fn default_rule(
        &mut self,
        listener: &ListenerDocument,
        request: &mut Vec<RequestRule>,
        group: Option<GroupId>,
    ) -> Option<RequestRule> {
        let catches_all = |rule: &RequestRule| rule.conditions.is_empty();
        if let Some(at) = request.iter().position(catches_all) {
            let default = request.drain(at..).next()?;
            if let Some(unused) = listener.server_group.given() {
                self.report
                    .warning(&unused.origin, "no request reaches this `server_group`")
                    .label("the default rule")
                    .also(&default.origin, "takes every request that comes to it")
                    .help("leave `server_group` out, or give the rule a condition");
            }
            return Some(default);
        }
        if listener.server_group.is_absent() {
            let (message, help) = if listener.rules.rows.is_empty() {
                (
                    "this listener has no `server_group`",
                    "add `server_group = \"...\"`, the name of a `[[server_group]]`",
                )
            } else {
                (
                    "this listener has no `server_group`, and none of its rules takes every request",
                    "add `server_group = \"...\"`, or a last rule without conditions",
                )
            };
            self.missing(&listener.origin, message, help);
        }
        let origin = listener.server_group.given()?.origin.clone();
        if let Some(namesake) = request.iter().find(|r| r.name == defaults::DEFAULT_RULE) {
            self.report
                .error(
                    &namesake.origin,
                    "a rule has the name `default`, which is that of `server_group`",
                )
                .also(&origin, "the default rule")
                .help("give it another name");
        }
        Some(RequestRule {
            name: defaults::DEFAULT_RULE.to_owned(),
            priority: defaults::PRIORITY.most + 1,
            conditions: Vec::new(),
            traffic_limit: None,
            rewrite: None,
            edits: HeaderEdits::default(),
            cors: None,
            mirror: None,
            compression: Switch::On,
            action: Action::Forward(Forward {
                groups: vec![WeightedGroup {
                    group: group?,
                    weight: defaults::WEIGHT.default,
                }],
                sticky: None,
            }),
            origin,
        })
    }

    fn direction(&mut self, written: &RuleDocument) -> Option<Direction> {
        let words = [
            ("request", Some(Direction::Request)),
            ("response", Some(Direction::Response)),
        ];
        match &written.direction {
            Field::Absent => Some(Direction::Request),
            Field::Given(direction) => self.choice("direction", direction, &words),
            Field::Wrong => None,
        }
    }

    fn request_rule(
        &mut self,
        written: &RuleDocument,
        site: &Site<'_>,
        scope: &mut Scope,
    ) -> Option<RequestRule> {
        self.refuse_rule_keys(written, &RESPONSE_KEYS, Direction::Request);
        let before = self.report.errors();
        let conditions = self.conditions(written);
        self.refuse_own_names(written, &scope.own_names);
        let is_sound = self.report.errors() == before && are_read(written);
        let traffic_limit = self.traffic_limit(written.traffic_limit.as_ref());
        let rewrite = self.rewrite(written.rewrite.as_ref());
        let edits = self.request_edits(written);
        let cors = self.cors(written.cors.as_ref());
        let mirror = self.mirror(written.mirror.as_ref(), site, scope);
        let action = self.action(written, site, scope);
        self.check_captures(written, &conditions, rewrite.as_ref(), action.as_ref());
        let (name, priority) = self.identity(written)?;
        is_sound.then_some(())?;
        Some(RequestRule {
            name,
            priority,
            conditions,
            traffic_limit,
            rewrite,
            edits,
            cors,
            mirror,
            compression: switch(&written.compression, Switch::On),
            action: action?,
            origin: written.origin.clone(),
        })
    }

    fn response_rule(&mut self, written: &RuleDocument) -> Option<ResponseRule> {
        self.refuse_rule_keys(written, &REQUEST_KEYS, Direction::Response);
        let before = self.report.errors();
        let request = self.conditions(written);
        let response = self.response_conditions(written);
        let is_sound = self.report.errors() == before && are_read(written);
        let edits = self.response_edits(written);
        let fixed_response = self.fixed_response(written.fixed_response.as_ref());
        let (name, priority) = self.identity(written)?;
        is_sound.then_some(())?;
        Some(ResponseRule {
            name,
            priority,
            request,
            response,
            edits,
            fixed_response,
            origin: written.origin.clone(),
        })
    }

    /// A rule's name and priority; mistakes in them were reported with those of all rules.
    fn identity(&mut self, written: &RuleDocument) -> Option<(String, u16)> {
        let name = self.expand(written.name.given()?)?;
        let priority = written.priority.given()?;
        let priority = value::number(priority.value, defaults::PRIORITY).ok()?;
        Some((name, priority))
    }

    /// Every rule has a priority, and no two of a listener the same.
    fn check_priorities(&mut self, rows: &[RuleDocument]) {
        let mut first: std::collections::HashMap<u16, &Origin> = std::collections::HashMap::new();
        for rule in rows {
            if rule.priority.is_absent() {
                let help =
                    "add `priority = 10`, or another from 1 to 10000; smaller numbers come first";
                self.missing(&rule.origin, "this rule has no `priority`", help);
            }
            let Some(written) = rule.priority.given() else {
                continue;
            };
            let priority = match value::number(written.value, defaults::PRIORITY) {
                Ok(priority) => priority,
                Err(error) => {
                    self.refuse("priority", &written.origin, &error);
                    continue;
                }
            };
            if let Some(other) = first.get(&priority) {
                self.report
                    .error(
                        &written.origin,
                        format!("two rules of this listener have the priority `{priority}`"),
                    )
                    .label("the second")
                    .also(other, "the first")
                    .help("smaller numbers come first");
            }
            first.entry(priority).or_insert(&written.origin);
        }
    }

    /// Reports keys that belong to rules of the other direction.
    fn refuse_rule_keys(&mut self, written: &RuleDocument, keys: &[&str], own: Direction) {
        let (own, other) = match own {
            Direction::Request => ("request", "response"),
            Direction::Response => ("response", "request"),
        };
        for (key, origin) in &written.keys {
            if keys.contains(key) {
                self.report
                    .error(origin, format!("`{key}` is not for a {own} rule"))
                    .help(format!("leave it out, or say `direction = \"{other}\"`"));
            }
        }
    }

    /// The group that a name stands for, which the listener's clients must be able to ask.
    fn reach(
        &mut self,
        name: &super::Written<String>,
        site: &Site<'_>,
        scope: &mut Scope,
    ) -> Option<GroupId> {
        let group = self.refer(&mut scope.groups, name)?;
        if let Some(protocol) = site.protocol {
            self.check_grpc(group, &name.origin, protocol, scope);
        }
        Some(group)
    }

    /// A rule that goes by the client's address can be got around where clients name it themselves (alb.md
    /// decision 4).
    fn warn_of_addresses(&mut self, listener: &ListenerDocument, site: &Site<'_>) {
        let ClientIpPlan::Retrieved(settings) = site.client_ip else {
            return;
        };
        let PeerTrust::Assumed = settings.peer_trust else {
            return;
        };
        let by_address = listener.rules.rows.iter().find_map(|rule| {
            let limit = rule.traffic_limit.as_ref();
            let limit = limit.and_then(|limit| limit.per_ip_qps.given());
            let limit = limit.map(|limit| &limit.origin);
            rule.place("source_ip").or(limit)
        });
        if let (Some(place), Some(table)) = (by_address, &listener.client_ip) {
            self.report
                .warning(place, "clients can get around this by naming an address")
                .label("goes by the client's address")
                .also(
                    &table.origin,
                    "the header that names it is believed whoever sent it",
                )
                .help(
                    "say `require_trusted_peer = true`, with the proxies in front in `trusted`, unless nobody \
                     else can reach this listener",
                );
        }
    }
}

/// Whether all of a rule's conditions were read: without one of them it would seem to take more than was meant.
fn are_read(written: &RuleDocument) -> bool {
    let lists = [
        &written.host,
        &written.path,
        &written.method,
        &written.source_ip,
    ];
    let tables = [
        &written.header,
        &written.query,
        &written.cookie,
        &written.response_header,
    ];
    let is_read = |list: &&Field<_>| !matches!(list, Field::Wrong);
    lists.iter().all(is_read)
        && !matches!(written.response_status, Field::Wrong)
        && tables
            .iter()
            .all(|table| table.completeness != Completeness::Partial)
}
