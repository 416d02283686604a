//! Syntax errors: what the TOML parser says, without the errors that follow from the first.
//!
//! The parser recovers after an error and goes on; on the same line, and inside a bracket that is never
//! closed, what it says from then on is about its own guesses.

use toml::Spanned;
use toml::de::{DeTable, DeValue, Error};

use crate::config::plan::Origin;
use crate::config::report::Report;

/// Reports the syntax errors of a text, each once; the places where the parser's guesses are not to be trusted.
pub(super) fn report(
    text: &str,
    errors: &[Error],
    table: &Spanned<DeTable<'_>>,
    report: &mut Report,
) -> Vec<Origin> {
    let mut errors: Vec<(Origin, &str)> = errors
        .iter()
        .map(|error| (error.span().unwrap_or_default().into(), error.message()))
        .collect();
    errors.sort_by_key(|(origin, _)| origin.start);

    let end_of_file = errors
        .iter()
        .find(|(_, message)| message.starts_with("unclosed"))
        .map(|(origin, _)| origin.start);
    let unclosed = end_of_file.and_then(|end| first_value_that_ends_at(end, table.get_ref()));
    let mut doubtful = Vec::new();
    let mut inside_unclosed = false;
    for (origin, message) in &errors {
        let opening = unclosed.filter(|start| origin.start >= *start);
        if inside_unclosed || report.has_error_on_line_of(origin) {
            continue;
        }
        inside_unclosed = opening.is_some();
        doubtful.push(Origin {
            start: origin.start,
            end: if opening.is_some() {
                text.len()
            } else {
                origin.end
            },
        });
        let (message, expected) = split(message);
        let diagnostic = match text.get(origin.start..origin.end) {
            Some(key) if message == "duplicate key" => {
                let diagnostic = report.error(origin, format!("duplicate key `{key}`"));
                diagnostic.label("this table already has it")
            }
            Some("") if message == UNQUOTED => report.error(origin, "missing value after `=`"),
            Some(_) | None => report.error(origin, message),
        };
        if let Some(expected) = expected {
            diagnostic.label(format!("expected {expected}"));
        }
        if let Some(start) = opening {
            diagnostic.also(
                &Origin {
                    start,
                    end: start + 1,
                },
                "never closed",
            );
        }
    }
    doubtful
}

/// What the parser says of a bare word, and also of no word at all.
const UNQUOTED: &str = "string values must be quoted";

/// Takes a parser's message apart: what is wrong, and what was expected where that helps.
fn split(message: &str) -> (&str, Option<&str>) {
    match message.split_once(", expected ") {
        Some((problem, "literal string" | "nothing")) => (problem, None),
        Some((problem, expected)) => (problem, Some(expected)),
        None => (message, None),
    }
}

/// The start of the array or inline table that goes on to the end of the file.
fn first_value_that_ends_at(end: usize, table: &DeTable<'_>) -> Option<usize> {
    table
        .values()
        .filter_map(|value| unclosed_start(end, value))
        .min()
}

fn unclosed_start(end: usize, value: &Spanned<DeValue<'_>>) -> Option<usize> {
    let inside = match value.get_ref() {
        DeValue::Array(array) => array
            .iter()
            .filter_map(|value| unclosed_start(end, value))
            .min(),
        DeValue::Table(table) => first_value_that_ends_at(end, table),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => None,
    };
    let bracketed = value.get_ref().is_array() || value.get_ref().is_table();
    let itself = (bracketed && value.span().end == end).then_some(value.span().start);
    itself.into_iter().chain(inside).min()
}
