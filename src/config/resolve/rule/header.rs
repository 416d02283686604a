//! `insert_headers` and `remove_headers` (alb.md 6.3).

use http::{HeaderName, HeaderValue};

use super::condition::rule_header;
use crate::config::defaults;
use crate::config::document::{InsertDocument, RuleDocument, Written};
use crate::config::plan::Origin;
use crate::config::resolve::Resolver;
use crate::config::rule::{Existing, HeaderEdits, InsertHeader, InsertValue, SystemValue};
use crate::config::value::{self, ValueError};

/// Names that no rule touches.
type Protected = &'static [&'static [&'static str]];

impl Resolver<'_> {
    /// What a request rule does to fields.
    pub(super) fn request_edits(&mut self, written: &RuleDocument) -> HeaderEdits {
        self.edits(written, &defaults::KEPT_HEADERS)
    }

    /// What a response rule does to fields.
    pub(super) fn response_edits(&mut self, written: &RuleDocument) -> HeaderEdits {
        self.edits(written, &defaults::KEPT_RESPONSE_HEADERS)
    }

    fn edits(&mut self, written: &RuleDocument, kept: Protected) -> HeaderEdits {
        let mut insert: Vec<InsertHeader> = Vec::new();
        let mut places: Vec<&Origin> = Vec::new();
        for row in &written.insert_headers.rows {
            let Some(header) = self.insert(row) else {
                continue;
            };
            let same = insert.iter().position(|other| other.name == header.name);
            if let Some(first) = same.and_then(|at| places.get(at)) {
                self.report
                    .error(&row.origin, format!("`{}` is inserted twice", header.name))
                    .label("the second")
                    .also(first, "the first")
                    .help("a rule inserts a header once");
            }
            insert.push(header);
            places.push(&row.origin);
        }
        let removed = written.remove_headers.given();
        let removed = removed
            .map(|list| list.value.as_slice())
            .unwrap_or_default();
        let remove = removed
            .iter()
            .filter_map(|name| self.header("remove_headers", name, kept))
            .map(|(name, _)| name)
            .collect();
        HeaderEdits { remove, insert }
    }

    /// The name of a header that a rule may touch, and how it is written.
    fn header(
        &mut self,
        key: &str,
        written: &Written<String>,
        kept: Protected,
    ) -> Option<(HeaderName, String)> {
        let (least, most) = defaults::RULE_HEADER_NAME_LENGTH;
        let parse = |text: String| Ok((rule_header(text.clone(), least, most)?, text));
        let (name, spelling) = self.string_at(key, written, parse)?;
        // Backends may read `_` and `-` as the same.
        let folded = name.as_str().replace('_', "-");
        if kept.iter().any(|names| names.contains(&folded.as_str())) {
            self.report
                .error(
                    &written.origin,
                    format!("`{key}`: `{name}` is not for rules to change"),
                )
                .label("has a meaning of its own")
                .help(
                    "headers of the connection and of the client's identity are lockgate's to set",
                );
            return None;
        }
        Some((name, spelling))
    }

    fn insert(&mut self, row: &InsertDocument) -> Option<InsertHeader> {
        if row.name.is_absent() {
            let help = "add `name = \"...\"`, the header's name";
            self.missing(&row.origin, "this header has no `name`", help);
        }
        let name = row.name.given();
        let name = name.and_then(|name| self.header("name", name, &defaults::KEPT_HEADERS));
        let value = self.inserted_value(row);
        let existing = match row.cover.given() {
            Some(Written { value: true, .. }) => Existing::Replaced,
            Some(Written { value: false, .. }) => Existing::Kept,
            None => defaults::EXISTING,
        };
        let (name, spelling) = name?;
        Some(InsertHeader {
            name,
            spelling: spelling.into(),
            value: value?,
            existing,
        })
    }

    fn inserted_value(&mut self, row: &InsertDocument) -> Option<InsertValue> {
        let places: Vec<_> = [
            ("value", row.value.given()),
            ("reference", row.reference.given()),
            ("system", row.system.given()),
        ]
        .into_iter()
        .filter_map(|(key, field)| Some((key, &field?.origin)))
        .collect();
        let all_absent =
            row.value.is_absent() && row.reference.is_absent() && row.system.is_absent();
        if all_absent {
            let help = "add `value = \"...\"`, `reference = \"...\"` (a header of the request) or `system = \"...\"`";
            self.missing(&row.origin, "this header has no value", help);
        }
        if let [(first, place), (second, origin), ..] = places.as_slice() {
            self.report
                .error(origin, format!("`{first}` and `{second}` of one header"))
                .also(place, "the first")
                .help("a header has one of `value`, `reference` and `system`");
        }
        let words = [
            ("client_src_ip", Some(SystemValue::ClientSrcIp)),
            ("client_src_port", Some(SystemValue::ClientSrcPort)),
            ("protocol", Some(SystemValue::Protocol)),
            ("slb_id", Some(SystemValue::SlbId)),
            ("slb_port", Some(SystemValue::SlbPort)),
        ];
        let literal = self.string("value", &row.value, literal);
        let reference = self.string("reference", &row.reference, reference);
        let system = match row.system.given() {
            Some(word) => self.choice("system", word, &words),
            None => None,
        };
        literal
            .map(InsertValue::Literal)
            .or_else(|| reference.map(InsertValue::Reference))
            .or_else(|| system.map(InsertValue::System))
    }
}

/// Printable ASCII without `"`, no space at either end, no `\` at the end.
fn literal(text: String) -> Result<HeaderValue, ValueError> {
    let (least, most) = defaults::INSERTED_VALUE_LENGTH;
    let text = value::text(text, least, most)?;
    let is_taken =
        text.is_ascii() && text.trim() == text && !text.contains('"') && !text.ends_with('\\');
    let value = is_taken
        .then(|| HeaderValue::from_str(&text).ok())
        .flatten();
    value.ok_or_else(|| ValueError::Malformed {
        text,
        kind: "taken",
        expected:
            "printable ASCII characters without `\"`, no space at either end and no `\\` at the end"
                .to_owned(),
    })
}

/// A field of the request, in lower case.
fn reference(text: String) -> Result<HeaderName, ValueError> {
    let (least, most) = defaults::REFERENCE_LENGTH;
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(ValueError::Malformed {
            text,
            kind: "taken",
            expected: "a header's name in lower case".to_owned(),
        });
    }
    rule_header(text, least, most)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    #[test]
    fn names_from_the_environment_are_spelt_as_it_says() {
        let text = "[[listener]]\nname = \"web\"\nprotocol = \"http\"\nport = 80\n\
                    [[listener.rule]]\nname = \"a\"\npriority = 1\nforward = \"app\"\n\
                    insert_headers = [{ name = \"${env:HDR}\", value = \"1\" }]\n\
                    [[server_group]]\nname = \"app\"\nservers = [{ address = \"127.0.0.1:80\" }]\n";
        let environment = |name: &str| (name == "HDR").then(|| "X-Env".to_owned());
        let (plan, _) = config::parse(Path::new("a.toml"), text, &environment);
        let plan = plan.unwrap();
        let header = &plan.listeners[0].rules.default.edits.insert[0];
        assert_eq!(
            (&*header.spelling, header.name.as_str()),
            ("X-Env", "x-env")
        );
    }

    #[test]
    fn inserted_values_are_plain_text() {
        for (text, is_taken) in [
            ("prod", true),
            ("a b; c=d, e", true),
            ("\\a", true),
            (&"a".repeat(128), true),
            (&"a".repeat(129), false),
            ("", false),
            (" a", false),
            ("a ", false),
            ("a\"b", false),
            ("a\\", false),
            ("a\nb", false),
            ("\u{e9}", false),
        ] {
            assert_eq!(literal(text.to_owned()).is_ok(), is_taken, "{text:?}");
        }
        for (text, is_taken) in [
            ("x-original", true),
            ("x_original", true),
            ("X-Original", false),
            ("a:b", false),
            ("", false),
            (&"a".repeat(128), true),
            (&"a".repeat(129), false),
        ] {
            assert_eq!(reference(text.to_owned()).is_ok(), is_taken, "{text:?}");
        }
    }
}
