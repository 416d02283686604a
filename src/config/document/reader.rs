//! Reads one table: every key is known, every value is of its type, or it is reported.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::de::IntoDeserializer as _;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::{Completeness, Field, Quantity, Rows, SwitchOrName, Written};
use crate::config::keys::{Keys, Off, TABLES};
use crate::config::plan::Origin;
use crate::config::report::Report;
use crate::config::suggest;

/// A value that is not a table or an array.
pub(super) trait Leaf: DeserializeOwned {
    /// What must be written, with its article.
    const EXPECTED: &'static str;
}

impl Leaf for String {
    const EXPECTED: &'static str = "a string";
}

impl Leaf for i64 {
    const EXPECTED: &'static str = "an integer";
}

impl Leaf for bool {
    const EXPECTED: &'static str = "`true` or `false`";
}

impl Leaf for SwitchOrName {
    const EXPECTED: &'static str = "`true`, `false` or a string";
}

impl Leaf for Quantity {
    const EXPECTED: &'static str = "an integer or a string";
}

/// One table and the report that its mistakes go to.
pub(super) struct Reader<'t, 'r> {
    table: &'t DeTable<'t>,
    origin: Origin,
    keys: &'static Keys,
    /// Keys that are there, but misspelt.
    misspelt: Vec<(&'static str, Origin)>,
    report: &'r mut Report,
}

impl<'t, 'r> Reader<'t, 'r> {
    /// Opens a table: keys that are unknown or not implemented yet are reported.
    pub(super) fn open(
        table: &'t DeTable<'t>,
        origin: Origin,
        keys: &'static Keys,
        report: &'r mut Report,
    ) -> Self {
        let mut misspelt = Vec::new();
        for (key, value) in table {
            if let Some((name, off)) = keys.not_yet.iter().find(|(name, _)| name == key.get_ref()) {
                check_not_yet((name, off), key, value, report);
            } else if !keys.works.contains(&key.get_ref().as_ref()) {
                let near = suggest::nearest(key.get_ref(), keys.all());
                misspelt.extend(near.map(|near| (near, key.span().into())));
                report_unknown(key, near, (keys.title, keys.works), report);
            }
        }
        Self {
            table,
            origin,
            keys,
            misspelt,
            report,
        }
    }

    /// Where the table stands.
    pub(super) fn origin(&self) -> Origin {
        self.origin.clone()
    }

    /// The keys that are there, misspelt ones too, each with its place.
    pub(super) fn given(&self) -> Vec<(&'static str, Origin)> {
        let right = self.keys.all().filter_map(|known| {
            let (key, _) = self.table.get_key_value(known)?;
            Some((known, key.span().into()))
        });
        right.chain(self.misspelt.iter().cloned()).collect()
    }

    /// Whether a key is there with a string.
    pub(super) fn is_text(&self, key: &str) -> bool {
        self.value(key)
            .is_some_and(|value| value.get_ref().is_str())
    }

    /// Whether a key is there at all.
    pub(super) fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// A key's value; of a key that is not implemented yet there is none.
    fn value(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        let value = self.table.get(key)?;
        self.keys.works.contains(&key).then_some(value)
    }

    /// Reads a plain value.
    pub(super) fn leaf<T: Leaf>(&mut self, key: &str) -> Field<T> {
        let Some(value) = self.value(key) else {
            return self.absent(key);
        };
        match read(key, value, self.report) {
            Some(value) => Field::Given(value),
            None => Field::Wrong,
        }
    }

    /// Reads an array of plain values; the elements of the wrong type are left out.
    pub(super) fn list<T: Leaf>(&mut self, key: &str) -> Field<Vec<Written<T>>> {
        let Some(value) = self.value(key) else {
            return self.absent(key);
        };
        let Some(array) = value.get_ref().as_array() else {
            report_type(key, value, "an array", self.report);
            return Field::Wrong;
        };
        let elements: Vec<_> = array
            .iter()
            .filter_map(|element| read(key, element, self.report))
            .collect();
        if elements.len() < array.len() {
            return Field::Wrong;
        }
        Field::Given(Written {
            value: elements,
            origin: value.span().into(),
        })
    }

    /// Reads a table whose keys are the user's own.
    pub(super) fn map(&mut self, key: &str) -> BTreeMap<String, Written<String>> {
        let Some(value) = self.value(key) else {
            return BTreeMap::new();
        };
        let Some(table) = value.get_ref().as_table() else {
            report_type(key, value, "a table", self.report);
            return BTreeMap::new();
        };
        table
            .iter()
            .filter_map(|(key, value)| {
                Some((
                    key.get_ref().to_string(),
                    read(key.get_ref(), value, self.report)?,
                ))
            })
            .collect()
    }

    /// Opens a table inside this one.
    pub(super) fn table(&mut self, key: &str, keys: &'static Keys) -> Option<Reader<'t, '_>> {
        let value = self.value(key)?;
        let Some(table) = value.get_ref().as_table() else {
            report_type(key, value, "a table", self.report);
            return None;
        };
        Some(Reader::open(table, value.span().into(), keys, self.report))
    }

    /// Reads the tables of an array one after the other; an absent key is an empty array.
    pub(super) fn tables<T>(
        &mut self,
        key: &str,
        keys: &'static Keys,
        read: fn(&mut Reader<'_, '_>) -> T,
    ) -> Rows<T> {
        let absent = self.absent::<()>(key);
        let Some(value) = self.value(key) else {
            let completeness = match absent {
                Field::Absent => Completeness::Whole,
                Field::Wrong | Field::Given(_) => Completeness::Partial,
            };
            return Rows {
                rows: Vec::new(),
                completeness,
            };
        };
        let Some(array) = value.get_ref().as_array() else {
            let diagnostic = report_type(key, value, "an array of tables", self.report);
            if value.get_ref().is_table() && keys.title.starts_with("[[") {
                diagnostic.help(format!("write `{}`", keys.title));
            }
            return Rows {
                rows: Vec::new(),
                completeness: Completeness::Partial,
            };
        };
        let mut rows = Vec::with_capacity(array.len());
        for element in array {
            match element.get_ref().as_table() {
                Some(table) => rows.push(read(&mut Reader::open(
                    table,
                    element.span().into(),
                    keys,
                    self.report,
                ))),
                None => {
                    report_type(key, element, "a table", self.report);
                }
            }
        }
        let completeness = if rows.len() == array.len() {
            Completeness::Whole
        } else {
            Completeness::Partial
        };
        Rows { rows, completeness }
    }

    /// What an absent key is: one that is there under a misspelt name has been reported.
    fn absent<T>(&self, key: &str) -> Field<T> {
        if self.misspelt.iter().any(|(known, _)| *known == key) {
            Field::Wrong
        } else {
            Field::Absent
        }
    }
}

/// Reads a plain value of one type.
fn read<T: Leaf>(
    key: &str,
    value: &Spanned<DeValue<'_>>,
    report: &mut Report,
) -> Option<Written<T>> {
    match T::deserialize(value.clone().into_deserializer()) {
        Ok(read) => Some(Written {
            value: read,
            origin: value.span().into(),
        }),
        Err(_) => {
            report_type(key, value, T::EXPECTED, report);
            None
        }
    }
}

fn report_type<'r>(
    key: &str,
    value: &Spanned<DeValue<'_>>,
    expected: &str,
    report: &'r mut Report,
) -> &'r mut crate::config::report::Diagnostic {
    let origin = value.span().into();
    if value.get_ref().is_integer() && expected.starts_with("an integer") {
        return report
            .error(&origin, format!("`{key}`: the number is too large"))
            .label("does not fit 64 bits");
    }
    let found = match value.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    };
    report
        .error(
            &origin,
            format!("`{key}`: expected {expected}, found {found}"),
        )
        .label(format!("expected {expected}"))
}

/// Reports a key that is not implemented yet, unless its value asks for nothing.
fn check_not_yet(
    (name, off): (&str, &Off),
    key: &Spanned<DeString<'_>>,
    value: &Spanned<DeValue<'_>>,
    report: &mut Report,
) {
    if let (Off::Disabled(known), Some(table)) = (off, value.get_ref().as_table()) {
        let unknown = table
            .keys()
            .filter(|key| !known.contains(&key.get_ref().as_ref()));
        unknown.for_each(|key| {
            let near = suggest::nearest(key.get_ref(), known.iter().copied());
            report_unknown(key, near, (name, known), report);
        });
    }
    if asks_for_nothing(off, value.get_ref()) {
        return;
    }
    let (origin, what) = match (off, value.get_ref().as_str()) {
        (Off::Text(_), Some(text)) => {
            (value.span(), format!("`{name}`: `{}`", text.escape_debug()))
        }
        _ => (key.span(), format!("`{name}`")),
    };
    report
        .error(&origin.into(), format!("{what} is not implemented yet"))
        .help(off.way_out(name));
}

fn asks_for_nothing(off: &Off, value: &DeValue<'_>) -> bool {
    match off {
        Off::Never => false,
        Off::False => value.as_bool() == Some(false),
        Off::Text(text) => value.as_str() == Some(text),
        Off::Disabled(_) => value
            .get("enabled")
            .is_some_and(|enabled| enabled.get_ref().as_bool() == Some(false)),
    }
}

/// Reports a key that no table of this kind has; `title` and `known` are the table's name and its keys.
fn report_unknown(
    key: &Spanned<DeString<'_>>,
    near: Option<&str>,
    (title, known): (&str, &[&str]),
    report: &mut Report,
) {
    let name = key.get_ref().as_ref();
    let diagnostic = report.error(&key.span().into(), format!("unknown key `{name}`"));
    if let Some(near) = near {
        diagnostic.label(format!("did you mean `{near}`?"));
        return;
    }
    diagnostic.label(format!("not a key of {}", quoted(title)));
    let homes: Vec<String> = TABLES
        .iter()
        .filter(|keys| keys.all().any(|known| known == name))
        .map(|keys| quoted(keys.title))
        .collect();
    if homes.is_empty() {
        diagnostic.help(format!(
            "the keys of {} are: {}",
            quoted(title),
            known.join(", ")
        ));
    } else {
        diagnostic.help(format!("it is a key of {}", homes.join(" and of ")));
    }
}

/// A table's title as it stands in a sentence.
fn quoted(title: &str) -> String {
    if title.contains(' ') {
        title.to_owned()
    } else {
        format!("`{title}`")
    }
}
