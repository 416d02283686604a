//! What must hold for a rule to apply: `host`, `path` and their kin (alb.md 6.2).

use http::{HeaderName, Method};
use ipnet::IpNet;

use super::pattern;
use crate::config::defaults;
use crate::config::document::{Field, NamedDocument, Quantity, RuleDocument, Written};
use crate::config::plan::Origin;
use crate::config::resolve::Resolver;
use crate::config::rule::{Condition, Named, Pattern, RegexText, ResponseCondition};
use crate::config::value::{self, ValueError};
use crate::network::Networks;

type Texts = Field<Vec<Written<String>>>;

/// How a text becomes what it means.
type Parse<V> = fn(String) -> Result<V, ValueError>;

/// Why a header of identity cannot be asked for.
const TAKEN_OUT: &str =
    "lockgate takes it out of what clients send, since they could write anything";

impl Resolver<'_> {
    /// What must hold of a request; what has mistakes is left out.
    pub(super) fn conditions(&mut self, written: &RuleDocument) -> Vec<Condition> {
        let mut conditions = Vec::new();
        let hosts = self.patterns("host", &written.host, pattern::host);
        self.warn_of_unanchored(&hosts);
        conditions.extend(texts(hosts).map(Condition::Host));
        let paths = self.patterns("path", &written.path, pattern::path);
        conditions.extend(texts(paths).map(Condition::Path));
        conditions.extend(self.methods(&written.method).map(Condition::Method));
        self.must_not_be_empty("header", written, written.header.rows.len());
        for row in &written.header.rows {
            conditions.extend(self.header_condition("header", row).map(Condition::Header));
        }
        self.must_not_be_empty("query", written, written.query.rows.len());
        for row in &written.query.rows {
            let named = self.named(row, pattern::query_name, pattern::query_value);
            conditions.extend(named.map(Condition::Query));
        }
        self.must_not_be_empty("cookie", written, written.cookie.rows.len());
        for row in &written.cookie.rows {
            let named = self.named(row, pattern::cookie_name, pattern::cookie_value);
            conditions.extend(named.map(Condition::Cookie));
        }
        conditions.extend(self.source_ip(&written.source_ip).map(Condition::SourceIp));
        conditions
    }

    /// Reports conditions that ask for a header of identity to which a user gave its name: what a client
    /// wrote there is taken out only after the rule was chosen.
    pub(super) fn refuse_own_names(&mut self, written: &RuleDocument, own: &[String]) {
        for name in written
            .header
            .rows
            .iter()
            .filter_map(|row| row.name.given())
        {
            let text = self.expanded(&name.value).unwrap_or_default();
            if own.contains(&text.to_ascii_lowercase().replace('_', "-")) {
                self.report
                    .error(
                        &name.origin,
                        format!("`header`: `{text}` cannot be asked for"),
                    )
                    .label("tells backends of client certificates")
                    .help(TAKEN_OUT);
            }
        }
    }

    /// What must hold of an answer.
    pub(super) fn response_conditions(&mut self, written: &RuleDocument) -> Vec<ResponseCondition> {
        let mut conditions = Vec::new();
        if let Some(list) = written.response_status.given() {
            let ranges: Vec<_> = list
                .value
                .iter()
                .filter_map(|range| self.statuses(range))
                .flatten()
                .collect();
            if list.value.is_empty() {
                self.refuse_empty("response_status", &list.origin);
            }
            conditions.push(ResponseCondition::Status(ranges));
        }
        let headers = &written.response_header.rows;
        self.must_not_be_empty("response_header", written, headers.len());
        for row in headers {
            let header = self.header_condition("response_header", row);
            conditions.extend(header.map(ResponseCondition::Header));
        }
        conditions
    }

    /// The patterns of a list, each with its place.
    fn patterns<'d>(
        &mut self,
        key: &str,
        field: &'d Texts,
        parse: Parse<Pattern>,
    ) -> Vec<(Pattern, &'d Origin)> {
        let Some(list) = field.given() else {
            return Vec::new();
        };
        if list.value.is_empty() {
            self.refuse_empty(key, &list.origin);
        }
        let elements = list.value.iter();
        elements
            .filter_map(|element| Some((self.string_at(key, element, parse)?, &element.origin)))
            .collect()
    }

    fn methods(&mut self, field: &Texts) -> Option<Vec<Method>> {
        let list = field.given()?;
        if list.value.is_empty() {
            self.refuse_empty("method", &list.origin);
        }
        let words = defaults::METHODS.map(|word| (word, Method::from_bytes(word.as_bytes()).ok()));
        let elements = list.value.iter();
        let methods: Vec<_> = elements
            .filter_map(|element| self.choice("method", element, &words))
            .collect();
        Some(methods)
    }

    fn header_condition(&mut self, key: &str, row: &NamedDocument) -> Option<Named<HeaderName>> {
        let named = self.named(row, condition_header, pattern::header_value)?;
        let name = named.name.as_str();
        let origin = &row.name.given()?.origin;
        let other = match name {
            "host" => Some("`host` is a condition of its own"),
            "cookie" => Some("`cookie` is a condition of its own"),
            // A client's word on these counts for nothing (alb.md decision 5).
            name if is_identity(name) => Some(TAKEN_OUT),
            _ => None,
        };
        if let Some(help) = other {
            self.report
                .error(origin, format!("`{key}`: `{name}` cannot be asked for"))
                .help(help);
            return None;
        }
        Some(named)
    }

    fn named<N>(
        &mut self,
        row: &NamedDocument,
        parse_name: Parse<N>,
        parse_value: Parse<Pattern>,
    ) -> Option<Named<N>> {
        if row.name.is_absent() {
            let help = "add `name = \"...\"`";
            self.missing(&row.origin, "this condition has no `name`", help);
        }
        if row.values.is_absent() {
            let help = "add `values = [\"...\"]`, of which one must match; `*` matches all";
            self.missing(&row.origin, "this condition has no `values`", help);
        }
        let name = self.string("name", &row.name, parse_name);
        let values = texts(self.patterns("values", &row.values, parse_value));
        Some(Named {
            name: name?,
            values: values?,
        })
    }

    fn source_ip(&mut self, field: &Texts) -> Option<Networks> {
        let list = field.given()?;
        if list.value.is_empty() {
            self.refuse_empty("source_ip", &list.origin);
        }
        let mut networks: Vec<IpNet> = Vec::new();
        for element in &list.value {
            let given = self.string_at("source_ip", element, |text| value::networks(&text));
            let given = given.unwrap_or_default();
            if given
                .iter()
                .any(|network| network.trunc().addr().is_unspecified())
            {
                self.report
                    .error(
                        &element.origin,
                        format!("`source_ip`: `{}` is not taken", element.value),
                    )
                    .help("for every client leave `source_ip` out");
            }
            networks.extend(given);
        }
        if networks.len() > defaults::SOURCE_IPS {
            let most = defaults::SOURCE_IPS;
            self.report
                .error(
                    &list.origin,
                    format!("`source_ip` has {} values", networks.len()),
                )
                .label(format!("must have 1 to {most}"))
                .help("several rules may have the same action");
        }
        Some(Networks::new(&networks))
    }

    /// A code, a range of codes, or several with commas between them, as ALB writes them.
    fn statuses(
        &mut self,
        written: &Written<Quantity>,
    ) -> Option<Vec<std::ops::RangeInclusive<u16>>> {
        let text = match &written.value {
            Quantity::Number(number) => number.to_string(),
            Quantity::Text(text) => self.expand(&Written {
                value: text.clone(),
                origin: written.origin.clone(),
            })?,
        };
        let code = |text: &str| {
            let number = text.trim().parse().ok();
            number.filter(|code| (defaults::STATUS.least..=defaults::STATUS.most).contains(code))
        };
        let range = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let (first, last) = (code(first)?, code(last)?);
            (first <= last).then_some(first..=last)
        };
        let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
        if ranges.is_none() {
            let expected = "a code from 100 to 599 or a range, such as `\"200-299\"`".to_owned();
            let error = ValueError::Malformed {
                text,
                kind: "a range of status codes",
                expected,
            };
            self.refuse("response_status", &written.origin, &error);
        }
        ranges
    }

    /// A host expression that matches anywhere in a host may let in hosts that nobody thought of (alb.md
    /// decision 14).
    fn warn_of_unanchored(&mut self, hosts: &[(Pattern, &Origin)]) {
        for (pattern, origin) in hosts {
            let Pattern::Regex(RegexText { text, .. }) = pattern else {
                continue;
            };
            if !pattern::is_anchored(text) {
                self.report
                    .warning(
                        origin,
                        format!("`host`: `{text}` may match in the middle of a host"),
                    )
                    .label("also hosts of others, such as `www.example.com.attacker.net`")
                    .help("begin the expression with `^` and end it with `$`");
            }
        }
    }

    fn must_not_be_empty(&mut self, key: &str, written: &RuleDocument, rows: usize) {
        if let (Some(origin), 0) = (written.place(key), rows)
            && !self.report.has_error_on_line_of(origin)
        {
            self.refuse_empty(key, origin);
        }
    }

    pub(super) fn refuse_empty(&mut self, key: &str, origin: &Origin) {
        self.report
            .error(origin, format!("`{key}` is empty"))
            .help("leave it out, or say what is looked for");
    }
}

fn texts(patterns: Vec<(Pattern, &Origin)>) -> Option<Vec<Pattern>> {
    (!patterns.is_empty()).then(|| patterns.into_iter().map(|(pattern, _)| pattern).collect())
}

/// The name of a header in a condition.
fn condition_header(text: String) -> Result<HeaderName, ValueError> {
    let (least, most) = defaults::RULE_HEADER_NAME_LENGTH;
    rule_header(text, least, most)
}

/// The name of a header in a rule.
pub(super) fn rule_header(
    text: String,
    least: usize,
    most: usize,
) -> Result<HeaderName, ValueError> {
    let text = value::text(text, least, most)?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if text.bytes().all(is_name) {
        value::header_name(&text)
    } else {
        Err(ValueError::HeaderName(text))
    }
}

/// Whether a header is one of those that clients cannot set, in one of its spellings.
fn is_identity(name: &str) -> bool {
    let name = name.replace('_', "-");
    name.starts_with("x-forwarded-clientcert-")
        || name.starts_with("x-forwarded-tls-")
        || name == "client-cert"
        || name == "client-cert-chain"
}
