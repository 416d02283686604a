//! Names become ids: every name is given once, every reference finds its name, and what nobody refers to
//! is said so.

use std::collections::HashMap;

use super::Resolver;
use crate::config::defaults;
use crate::config::document::{Completeness, Field, ListenerDocument, Written};
use crate::config::plan::{CertificateId, GroupId, Origin};
use crate::config::suggest;
use crate::config::value;

/// An index into one of the plan's vectors.
pub(super) trait Id {
    /// The id of the element at an index.
    fn mint(index: usize) -> Self;
}

impl Id for CertificateId {
    fn mint(index: usize) -> Self {
        Self(index)
    }
}

impl Id for GroupId {
    fn mint(index: usize) -> Self {
        Self(index)
    }
}

/// The names of one kind of thing, in the order of the file.
pub(super) struct Names<I> {
    kind: &'static str,
    names: Vec<Name>,
    /// Where in `names` a name stands first.
    places: HashMap<String, usize>,
    /// Names of the same kind that are known without being in the file.
    beside: Vec<&'static str>,
    /// One name or more could not be read: what refers to nothing may refer to these.
    has_gaps: bool,
    ids: std::marker::PhantomData<I>,
}

struct Name {
    text: String,
    index: usize,
    origin: Origin,
    used: Use,
}

#[derive(PartialEq)]
enum Use {
    No,
    Yes,
}

impl<I> Names<I> {
    /// The same, with names that are known without being in the file.
    pub(super) fn beside(mut self, known: impl IntoIterator<Item = &'static str>) -> Self {
        self.beside.extend(known);
        self
    }

    fn find(&self, text: &str) -> Option<&Name> {
        self.names.get(*self.places.get(text)?)
    }
}

impl Resolver<'_> {
    /// Collects the names of one kind, reporting the missing and the doubled ones.
    pub(super) fn names<'d, I>(
        &mut self,
        kind: &'static str,
        tables: impl Iterator<Item = (&'d Field<String>, &'d Origin)>,
    ) -> Names<I> {
        let mut names = Names {
            kind,
            names: Vec::<Name>::new(),
            places: HashMap::new(),
            beside: Vec::new(),
            has_gaps: false,
            ids: std::marker::PhantomData,
        };
        for (index, (field, table)) in tables.enumerate() {
            if field.is_absent() {
                self.missing(
                    table,
                    format!("this {kind} has no name"),
                    "add `name = \"...\"`, 1 to 128 characters",
                );
            }
            let text = self.name(field);
            let (Some(text), Some(written)) = (text, field.given()) else {
                names.has_gaps = true;
                continue;
            };
            if let Some(first) = names.find(&text) {
                self.report
                    .error(
                        &written.origin,
                        format!("two {kind}s have the name `{text}`"),
                    )
                    .label("the second")
                    .also(&first.origin, "the first")
                    .help(format!("the name of a {kind} is given only once"));
            }
            names
                .places
                .entry(text.clone())
                .or_insert(names.names.len());
            names.names.push(Name {
                text,
                index,
                origin: written.origin.clone(),
                used: Use::No,
            });
        }
        names
    }

    /// A name by itself.
    pub(super) fn name(&mut self, field: &Field<String>) -> Option<String> {
        self.string("name", field, |text| {
            value::text(text, 1, defaults::NAME_LENGTH)
        })
    }

    /// Reports missing and doubled names of listeners, to which nothing refers.
    pub(super) fn check_listener_names(&mut self, listeners: &[ListenerDocument]) {
        self.names::<()>(
            "listener",
            listeners
                .iter()
                .map(|listener| (&listener.name, &listener.origin)),
        );
    }

    /// The id that a reference stands for.
    pub(super) fn refer<I: Id>(
        &mut self,
        names: &mut Names<I>,
        reference: &Written<String>,
    ) -> Option<I> {
        let text = self.expand(reference)?;
        let place = names.places.get(&text);
        if let Some(name) = place.and_then(|place| names.names.get_mut(*place)) {
            name.used = Use::Yes;
            return Some(I::mint(name.index));
        }
        if names.has_gaps || self.completeness == Completeness::Partial {
            return None;
        }
        let message = format!("there is no {} `{}`", names.kind, text.escape_debug());
        let diagnostic = self.report.error(&reference.origin, message);
        let known = names.names.iter().map(|name| name.text.as_str());
        match suggest::nearest(&text, known.chain(names.beside.iter().copied())) {
            Some(near) => diagnostic.label(format!("did you mean `{near}`?")),
            None if !names.beside.is_empty() => {
                let known: Vec<_> = names
                    .beside
                    .iter()
                    .map(|name| format!("`{name}`"))
                    .collect();
                diagnostic.help(format!(
                    "beside those of the file there are {}",
                    known.join(", ")
                ))
            }
            None if names.names.is_empty() => {
                diagnostic.help(format!("the file has no {} at all", names.kind))
            }
            None => {
                let known: Vec<String> = names
                    .names
                    .iter()
                    .map(|name| format!("`{}`", name.text))
                    .collect();
                diagnostic.help(format!("the file has {}", known.join(", ")))
            }
        };
        None
    }

    /// Warns of what is never referred to; after an error, a reference to it may be what is wrong.
    pub(super) fn warn_of_unused<I>(&mut self, names: &Names<I>) {
        if self.report.has_errors() {
            return;
        }
        for name in names.names.iter().filter(|name| name.used == Use::No) {
            self.report
                .warning(
                    &name.origin,
                    format!("no listener uses the {} `{}`", names.kind, name.text),
                )
                .label("never used");
        }
    }
}
