//! What becomes of a request that a rule takes: `forward`, `redirect`, `fixed_response` and what is done on the
//! way there (alb.md 6.3).

use bytes::Bytes;
use http::StatusCode;

use super::template::Target;
use super::{FINAL_KEYS, Site};
use crate::config::defaults::{self, Rule};
use crate::config::document::{
    Field, FixedResponseDocument, ForwardDocument, ForwardTable, MirrorDocument, Quantity,
    RedirectDocument, RewriteDocument, RuleDocument, StickyDocument, TrafficLimitDocument,
    WeightedDocument, Written,
};
use crate::config::plan::{GroupId, ListenerProtocol, Origin, Switch};
use crate::config::resolve::{Resolver, Scope, switch};
use crate::config::rule::{
    Action, ContentType, FixedResponse, Forward, Redirect, RedirectPort, RedirectProtocol, Rewrite,
    TrafficLimit, WeightedGroup,
};
use crate::config::value::ValueError;

impl Resolver<'_> {
    /// The one action that ends a request rule.
    pub(super) fn action(
        &mut self,
        written: &RuleDocument,
        site: &Site<'_>,
        scope: &mut Scope,
    ) -> Option<Action> {
        self.check_final_keys(written);
        let forward = self.forward(&written.forward, site, scope);
        let redirect = self.redirect(written.redirect.as_ref(), site);
        let fixed_response = self.fixed_response(written.fixed_response.as_ref());
        forward
            .map(Action::Forward)
            .or_else(|| redirect.map(Action::Redirect))
            .or_else(|| fixed_response.map(Action::FixedResponse))
    }

    fn check_final_keys(&mut self, written: &RuleDocument) {
        let places: Vec<_> = FINAL_KEYS
            .into_iter()
            .filter_map(|key| Some((key, written.place(key)?)))
            .collect();
        match places.as_slice() {
            [] => self.missing(
                &written.origin,
                "this rule has no action",
                "add `forward = \"...\"`, the name of a `[[server_group]]`, or `redirect` or `fixed_response`",
            ),
            [_] => {}
            [(first, place), others @ ..] => {
                for (key, origin) in others {
                    self.report
                        .error(origin, format!("`{first}` and `{key}` in one rule"))
                        .label("the second action")
                        .also(place, "the first action")
                        .help("a rule has one of `forward`, `redirect` and `fixed_response`");
                }
            }
        }
        if let (Some(rewrite), None, [_, ..]) = (
            written.place("rewrite"),
            written.place("forward"),
            &places[..],
        ) {
            self.report
                .error(rewrite, "`rewrite` without `forward`")
                .label("changes what a backend is asked for")
                .help("a redirect has `host`, `path` and `query` of its own");
        }
    }

    fn forward(
        &mut self,
        written: &ForwardDocument,
        site: &Site<'_>,
        scope: &mut Scope,
    ) -> Option<Forward> {
        match written {
            ForwardDocument::Group(name) => Some(Forward {
                groups: vec![WeightedGroup {
                    group: self.reach(name.given()?, site, scope)?,
                    weight: defaults::WEIGHT.default,
                }],
                sticky: None,
            }),
            ForwardDocument::Groups(table) => self.forward_groups(table, site, scope),
        }
    }

    fn forward_groups(
        &mut self,
        table: &ForwardTable,
        site: &Site<'_>,
        scope: &mut Scope,
    ) -> Option<Forward> {
        let rows = &table.groups.rows;
        if rows.is_empty() || rows.len() > defaults::FORWARD_GROUPS {
            let most = defaults::FORWARD_GROUPS;
            self.missing(
                &table.origin,
                format!("this `forward` has {} groups", rows.len()),
                format!(
                    "it has 1 to {most}: `groups = [{{ server_group = \"...\", weight = 100 }}]`"
                ),
            );
        }
        let mut groups: Vec<(WeightedGroup, &WeightedDocument)> = Vec::with_capacity(rows.len());
        for row in rows {
            let weight = self.number("weight", &row.weight, defaults::WEIGHT);
            if row.server_group.is_absent() {
                let help = "add `server_group = \"...\"`, the name of a `[[server_group]]`";
                self.missing(&row.origin, "this element has no `server_group`", help);
            }
            let Some(name) = row.server_group.given() else {
                continue;
            };
            let Some(group) = self.reach(name, site, scope) else {
                continue;
            };
            if let Some((_, first)) = groups.iter().find(|(other, _)| other.group == group) {
                self.report
                    .error(
                        &row.origin,
                        format!("the group `{}` is twice in one `forward`", name.value),
                    )
                    .label("the second")
                    .also(&first.origin, "the first")
                    .help("a larger share of the requests is what `weight` is for");
            }
            groups.push((WeightedGroup { group, weight }, row));
        }
        let is_whole = !groups.is_empty() && groups.len() == rows.len();
        if is_whole && groups.iter().all(|(group, _)| group.weight == 0) {
            self.report
                .warning(&table.origin, "every group of this rule has the weight 0")
                .label("answers every request with 503");
        }
        let sticky = table.sticky.as_ref().and_then(|sticky| self.sticky(sticky));
        is_whole.then(|| Forward {
            groups: groups.into_iter().map(|(group, _)| group).collect(),
            sticky,
        })
    }

    fn sticky(&mut self, written: &StickyDocument) -> Option<std::time::Duration> {
        let timeout = self.duration("timeout", &written.timeout, defaults::STICKY_TIMEOUT);
        match switch(&written.enabled, Switch::Off) {
            Switch::On => Some(timeout),
            Switch::Off => None,
        }
    }

    pub(super) fn mirror(
        &mut self,
        written: Option<&MirrorDocument>,
        site: &Site<'_>,
        scope: &mut Scope,
    ) -> Option<GroupId> {
        let written = written?;
        if written.server_group.is_absent() {
            let help = "add `server_group = \"...\"`, the name of a `[[server_group]]`";
            self.missing(&written.origin, "this `mirror` has no `server_group`", help);
        }
        self.reach(written.server_group.given()?, site, scope)
    }

    pub(super) fn rewrite(&mut self, written: Option<&RewriteDocument>) -> Option<Rewrite> {
        let written = written?;
        let target = self.target(&written.host, &written.path, &written.query);
        let fields = [&written.host, &written.path, &written.query];
        let is_sound = fields.iter().all(|field| !matches!(field, Field::Wrong));
        if is_sound && target.is_same() && !self.report.has_error_on_line_of(&written.origin) {
            self.report
                .warning(&written.origin, "this `rewrite` changes nothing");
        }
        let Target { host, path, query } = target;
        Some(Rewrite { host, path, query })
    }

    pub(super) fn traffic_limit(
        &mut self,
        written: Option<&TrafficLimitDocument>,
    ) -> Option<TrafficLimit> {
        let written = written?;
        let mut limit = |key, field: &Field<i64>| {
            let number = self.number(key, field, defaults::QPS);
            field.given().map(|_| number)
        };
        let qps = limit("qps", &written.qps);
        let per_ip_qps = limit("per_ip_qps", &written.per_ip_qps);
        if written.qps.is_absent() && written.per_ip_qps.is_absent() {
            let help = "add `qps = 1000`, `per_ip_qps = 10`, or both";
            self.missing(&written.origin, "this `traffic_limit` limits nothing", help);
        }
        if let (Some(qps), Some(per_ip)) = (qps, per_ip_qps)
            && per_ip >= qps
            && let (Some(all), Some(one)) = (written.qps.given(), written.per_ip_qps.given())
        {
            self.report
                .error(&one.origin, "`per_ip_qps` is not smaller than `qps`")
                .label("of one client")
                .also(&all.origin, "of all clients together");
        }
        Some(TrafficLimit { qps, per_ip_qps })
    }

    fn redirect(
        &mut self,
        written: Option<&RedirectDocument>,
        site: &Site<'_>,
    ) -> Option<Redirect> {
        let written = written?;
        let code = self.code(
            (&written.code, &written.origin),
            "redirect",
            "301, 302, 303, 307 or 308",
            |code| matches!(code, 301 | 302 | 303 | 307 | 308),
        );
        let words = [
            ("${protocol}", Some(RedirectProtocol::Same)),
            ("http", Some(RedirectProtocol::Http)),
            ("https", Some(RedirectProtocol::Https)),
        ];
        let protocol = match written.protocol.given() {
            Some(protocol) => self.choice("protocol", protocol, &words),
            None => Some(RedirectProtocol::Same),
        };
        let Target { host, path, query } =
            self.target(&written.host, &written.path, &written.query);
        let port = self.redirect_port(&written.port);
        let protocol = protocol?;
        let redirect = Redirect {
            code: code?,
            protocol,
            host,
            port: port.unwrap_or_else(|| default_port(protocol, site)),
            path,
            query,
        };
        self.check_redirect(written, &redirect, site);
        Some(redirect)
    }

    /// A port as a number or a string, or `${port}`; `None` if it is absent or refused.
    fn redirect_port(&mut self, field: &Field<Quantity>) -> Option<RedirectPort> {
        let written = field.given()?;
        let text = match &written.value {
            Quantity::Number(number) => number.to_string(),
            Quantity::Text(text) => self.expand(&Written {
                value: text.clone(),
                origin: written.origin.clone(),
            })?,
        };
        if text == "${port}" {
            return Some(RedirectPort::Same);
        }
        let Rule { least, most, .. } = defaults::REDIRECT_PORT;
        let number = text.parse().ok();
        let number = number.filter(|port| (least..=most).contains(port));
        if number.is_none() {
            let error = ValueError::Malformed {
                text,
                kind: "a port",
                expected: format!("`${{port}}`, or a port from {least} to {most}"),
            };
            self.refuse("port", &written.origin, &error);
        }
        number.map(RedirectPort::Number)
    }

    /// A redirect must lead elsewhere, and never out of TLS (alb.md 6.3).
    fn check_redirect(&mut self, written: &RedirectDocument, redirect: &Redirect, site: &Site<'_>) {
        let is_https = matches!(site.protocol, Some(ListenerProtocol::Https(_)));
        if let (true, RedirectProtocol::Http, Some(protocol)) =
            (is_https, redirect.protocol, written.protocol.given())
        {
            self.report
                .error(
                    &protocol.origin,
                    "`protocol`: an `https` listener redirects to `https` only",
                )
                .help("say `protocol = \"https\"`");
        }
        let target = Target {
            host: redirect.host.clone(),
            path: redirect.path.clone(),
            query: redirect.query.clone(),
        };
        let same_protocol = match redirect.protocol {
            RedirectProtocol::Same => true,
            RedirectProtocol::Https => is_https,
            RedirectProtocol::Http => matches!(site.protocol, Some(ListenerProtocol::Http)),
        };
        let same_port = match redirect.port {
            RedirectPort::Same => true,
            RedirectPort::Number(port) => Some(port) == site.port,
        };
        let fields = [&written.host, &written.path, &written.query];
        let is_sound = fields.iter().all(|field| !matches!(field, Field::Wrong));
        if is_sound
            && same_protocol
            && same_port
            && target.is_same()
            && !self.report.has_error_on_line_of(&written.origin)
        {
            self.report
                .error(&written.origin, "this redirect leads to where it came from")
                .help("change the protocol, the host, the port, the path or the query");
        }
    }

    pub(super) fn fixed_response(
        &mut self,
        written: Option<&FixedResponseDocument>,
    ) -> Option<FixedResponse> {
        let written = written?;
        let code = self.code(
            (&written.code, &written.origin),
            "fixed_response",
            "2xx, 4xx or 5xx",
            |code| matches!(code, 200..=299 | 400..=599),
        );
        let words = [
            ("text/plain", Some(ContentType::Plain)),
            ("text/css", Some(ContentType::Css)),
            ("text/html", Some(ContentType::Html)),
            ("application/javascript", Some(ContentType::JavaScript)),
            ("application/json", Some(ContentType::Json)),
        ];
        let content_type = match written.content_type.given() {
            Some(word) => self.choice("content_type", word, &words),
            None => Some(ContentType::Plain),
        };
        let body = self
            .string("body", &written.body, fixed_body)
            .unwrap_or_default();
        let code = code?;
        if let (204 | 205, Some(given), false) =
            (code.as_u16(), written.body.given(), body.is_empty())
        {
            self.report
                .error(&given.origin, format!("an answer with {code} has no body"))
                .help("leave `body` out, or answer 200");
        }
        Some(FixedResponse {
            code,
            content_type: content_type?,
            body,
        })
    }

    /// A status code of one kind.
    fn code(
        &mut self,
        (field, table): (&Field<i64>, &Origin),
        title: &str,
        expected: &str,
        is_taken: impl Fn(u16) -> bool,
    ) -> Option<StatusCode> {
        if field.is_absent() {
            let message = format!("this `{title}` has no `code`");
            self.missing(table, message, format!("add `code`: {expected}"));
        }
        let written = field.given()?;
        let code = u16::try_from(written.value).ok();
        let code = code.filter(|code| is_taken(*code));
        let code = code.and_then(|code| StatusCode::from_u16(code).ok());
        if code.is_none() {
            let error = ValueError::Malformed {
                text: written.value.to_string(),
                kind: "a code of this action",
                expected: expected.to_owned(),
            };
            self.refuse("code", &written.origin, &error);
        }
        code
    }
}

/// Where a redirect that names no port leads: to the other protocol's own, or to where the client came from.
fn default_port(protocol: RedirectProtocol, site: &Site<'_>) -> RedirectPort {
    match (protocol, site.protocol) {
        (RedirectProtocol::Https, Some(ListenerProtocol::Http)) => RedirectPort::Number(443),
        (RedirectProtocol::Http, Some(ListenerProtocol::Https(_))) => RedirectPort::Number(80),
        (
            RedirectProtocol::Same | RedirectProtocol::Http | RedirectProtocol::Https,
            Some(ListenerProtocol::Http | ListenerProtocol::Https(_)) | None,
        ) => RedirectPort::Same,
    }
}

/// ASCII, and not long.
fn fixed_body(text: String) -> Result<Bytes, ValueError> {
    let most = defaults::FIXED_BODY_LENGTH;
    if text.len() > most {
        let length = text.chars().count();
        return Err(ValueError::Length {
            length,
            least: 0,
            most,
        });
    }
    if !text.is_ascii() {
        return Err(ValueError::Malformed {
            text,
            kind: "taken",
            expected: "ASCII characters".to_owned(),
        });
    }
    Ok(Bytes::from(text))
}
