//! Diagnostics: every mistake of a configuration file with the place where it was written and a way out.
//!
//! Messages are lower-case, without a full stop, with values in backticks. A report belongs to one file;
//! what finds mistakes later (certificates that do not parse, ports in use) adds to the same report,
//! with the origins that the plan carries.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::config::plan::Origin;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can be used, but probably does not do what was meant.
    Warning,
}

/// Whether a rendered report is for a terminal that shows colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Plain text.
    Off,
    /// ANSI escape sequences.
    On,
}

/// A place in the file, with what is to be said about it.
#[derive(Clone, Debug)]
struct Place {
    origin: Origin,
    label: Option<String>,
}

/// One mistake.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    severity: Severity,
    message: String,
    /// The first is where it is wrong, the others are what it is wrong with.
    places: Vec<Place>,
    help: Option<String>,
}

impl Diagnostic {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// What is wrong, without its place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Says, under the caret, what is wrong just there.
    pub fn label(&mut self, label: impl Into<String>) -> &mut Self {
        if let Some(place) = self.places.first_mut() {
            place.label = Some(label.into());
        }
        self
    }

    /// Shows another place that has to do with it.
    pub fn also(&mut self, origin: &Origin, label: impl Into<String>) -> &mut Self {
        if !is_nowhere(origin) {
            self.places.push(Place {
                origin: origin.clone(),
                label: Some(label.into()),
            });
        }
        self
    }

    /// Says what to do about it.
    pub fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    /// Where it sorts: what has no place comes first.
    fn start(&self) -> Option<usize> {
        self.places.first().map(|place| place.origin.start)
    }
}

/// Everything that is wrong with one configuration file.
#[derive(Clone, Debug)]
pub struct Report {
    file_name: String,
    source: String,
    diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// An empty report on a file, given the name to show and the text that origins point into.
    pub fn new(file_name: &Path, source: &str) -> Self {
        Self {
            file_name: file_name.display().to_string(),
            source: source.to_owned(),
            diagnostics: Vec::new(),
        }
    }

    /// Adds an error; an empty origin (`Origin::default()`) stands for no place.
    pub fn error(&mut self, origin: &Origin, message: impl Into<String>) -> &mut Diagnostic {
        self.add(Severity::Error, origin, message.into())
    }

    /// Adds a warning; an empty origin (`Origin::default()`) stands for no place.
    pub fn warning(&mut self, origin: &Origin, message: impl Into<String>) -> &mut Diagnostic {
        self.add(Severity::Warning, origin, message.into())
    }

    /// Whether the configuration cannot be used.
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }

    /// The mistakes in the order of the file; what has no place comes first.
    pub fn diagnostics(&self) -> impl Iterator<Item = &Diagnostic> {
        let mut sorted: Vec<&Diagnostic> = self.diagnostics.iter().collect();
        sorted.sort_by_key(|diagnostic| diagnostic.start());
        sorted.into_iter()
    }

    /// The whole report as text, each mistake with its line of the file, ending in a summary line; empty if
    /// there is nothing to say.
    pub fn render(&self, colour: Colour) -> String {
        let mut text = String::new();
        for diagnostic in self.diagnostics() {
            text.push_str(&self.render_one(diagnostic, colour));
            text.push_str("\n\n");
        }
        if !self.is_empty() {
            text.push_str(&self.summary());
            text.push('\n');
        }
        text
    }

    /// One line such as `lockgate.toml: 3 errors, 1 warning`.
    pub fn summary(&self) -> String {
        let mut line = format!("{}: ", self.file_name);
        let mut separator = "";
        for (count, noun) in [
            (self.count(Severity::Error), "error"),
            (self.count(Severity::Warning), "warning"),
        ] {
            if count > 0 {
                let plural = if count == 1 { "" } else { "s" };
                // Writing to a string cannot fail.
                let _ = write!(line, "{separator}{count} {noun}{plural}");
                separator = ", ";
            }
        }
        if separator.is_empty() {
            line.push_str("no mistakes");
        }
        line
    }

    /// Drops what was found on the lines of `doubtful`: the places of the syntax errors, which are the first
    /// diagnostics. What the parser made of the rest of such a line is its guess, not what was written.
    pub(super) fn forget_echoes(&mut self, doubtful: &[Origin]) {
        let lines: Vec<Range<usize>> = doubtful
            .iter()
            .map(|origin| self.lines_of(origin))
            .collect();
        let mut index = 0;
        self.diagnostics.retain(|diagnostic| {
            index += 1;
            let echo = diagnostic
                .start()
                .is_some_and(|start| lines.iter().any(|line| line.contains(&start)));
            index <= lines.len() || !echo
        });
    }

    /// Whether a mistake has been found on the line where an origin begins.
    pub(super) fn has_error_on_line_of(&self, origin: &Origin) -> bool {
        let line = self.lines_of(&Origin {
            start: origin.start,
            end: origin.start,
        });
        self.diagnostics.iter().any(|diagnostic| {
            diagnostic.severity == Severity::Error
                && diagnostic
                    .start()
                    .is_some_and(|start| line.contains(&start))
        })
    }

    fn add(&mut self, severity: Severity, origin: &Origin, message: String) -> &mut Diagnostic {
        let places = if is_nowhere(origin) {
            Vec::new()
        } else {
            vec![Place {
                origin: origin.clone(),
                label: None,
            }]
        };
        self.diagnostics.push_mut(Diagnostic {
            severity,
            message,
            places,
            help: None,
        })
    }

    /// How many mistakes have been found.
    pub(super) fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    fn count(&self, severity: Severity) -> usize {
        self.diagnostics
            .iter()
            .filter(|diagnostic| diagnostic.severity == severity)
            .count()
    }

    /// One of the report's mistakes as text, with its line of the file.
    pub fn render_one(&self, diagnostic: &Diagnostic, colour: Colour) -> String {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(diagnostic.message.as_str());
        let mut group = Group::with_title(title);
        if diagnostic.places.is_empty() {
            group = group.element(annotate_snippets::Origin::path(self.file_name.as_str()));
        } else {
            group = group.element(self.snippet(diagnostic));
        }
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        let renderer = match colour {
            Colour::Off => Renderer::plain(),
            Colour::On => Renderer::styled(),
        };
        renderer.decor_style(DecorStyle::Ascii).render(&[group])
    }

    fn snippet<'a>(
        &'a self,
        diagnostic: &'a Diagnostic,
    ) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
        let annotations = diagnostic.places.iter().enumerate().map(|(index, place)| {
            let kind = if index == 0 {
                AnnotationKind::Primary
            } else {
                AnnotationKind::Context
            };
            kind.span(self.first_line_of(&place.origin))
                .label(place.label.as_deref())
        });
        Snippet::source(self.source.as_str())
            .path(self.file_name.as_str())
            .annotations(annotations)
    }

    /// An origin as a range that is sure to lie inside the text, cut at the end of its first line: a table
    /// over many lines is shown by its beginning.
    fn first_line_of(&self, origin: &Origin) -> Range<usize> {
        let start = self.source.floor_char_boundary(origin.start);
        let end = self.source.floor_char_boundary(origin.end.max(start));
        let line = self
            .source
            .get(start..end)
            .and_then(|text| text.lines().next())
            .unwrap_or_default();
        start..start + line.len()
    }

    /// The byte range of the whole lines that an origin touches.
    fn lines_of(&self, origin: &Origin) -> Range<usize> {
        let bounded = |at: usize| self.source.floor_char_boundary(at);
        let start = self
            .source
            .get(..bounded(origin.start))
            .and_then(|before| before.rfind('\n'));
        let end = self
            .source
            .get(bounded(origin.end)..)
            .and_then(|after| after.find('\n'));
        let end = end.map_or(self.source.len(), |newline| bounded(origin.end) + newline);
        start.map_or(0, |newline| newline + 1)..end + 1
    }
}

/// Whether an origin stands for no place.
fn is_nowhere(origin: &Origin) -> bool {
    origin.start == 0 && origin.end == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report::new(
            Path::new("lockgate.toml"),
            "[server]\nworkers = 0\nwatch = true\n",
        )
    }

    #[test]
    fn mistakes_come_in_the_order_of_the_file() {
        let mut report = report();
        report.warning(&Origin { start: 21, end: 26 }, "third");
        report.error(&Origin { start: 9, end: 16 }, "second");
        report.error(&Origin::default(), "first");
        let messages: Vec<&str> = report.diagnostics().map(Diagnostic::message).collect();
        assert_eq!(messages, ["first", "second", "third"]);
        assert_eq!(report.summary(), "lockgate.toml: 2 errors, 1 warning");
    }

    #[test]
    fn a_mistake_shows_its_line_a_caret_and_a_way_out() {
        let mut report = report();
        report
            .error(&Origin { start: 19, end: 20 }, "`workers` is out of range")
            .label("not `0`")
            .help("say `\"auto\"`");
        assert_eq!(
            report.render(Colour::Off),
            "error: `workers` is out of range\n --> lockgate.toml:2:11\n  |\n2 | workers = 0\n  |           ^ not `0`\n  |\n  \
             = help: say `\"auto\"`\n\nlockgate.toml: 1 error\n"
        );
    }

    #[test]
    fn a_mistake_without_a_place_names_the_file() {
        let mut report = report();
        report.error(&Origin::default(), "cannot read the file");
        assert_eq!(
            report.render(Colour::Off),
            "error: cannot read the file\n--> lockgate.toml\n\nlockgate.toml: 1 error\n"
        );
    }

    #[test]
    fn origins_beyond_the_text_or_inside_a_character_do_no_harm() {
        let mut report = Report::new(Path::new("a.toml"), "x = \"\u{e9}\u{e9}\"");
        report.error(&Origin { start: 6, end: 8 }, "split");
        report.error(&Origin { start: 70, end: 90 }, "beyond");
        report.error(&Origin { start: 8, end: 3 }, "backwards");
        assert!(report.render(Colour::Off).contains("3 errors"));
    }

    #[test]
    fn colour_is_only_there_if_asked_for() {
        let mut report = report();
        report.error(&Origin { start: 9, end: 16 }, "wrong");
        assert!(report.render(Colour::On).contains('\u{1b}'));
        assert!(!report.render(Colour::Off).contains('\u{1b}'));
    }

    #[test]
    fn an_empty_report_renders_to_nothing() {
        assert_eq!(report().render(Colour::Off), "");
        assert!(!report().has_errors());
    }
}
