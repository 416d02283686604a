//! Configuration in three tenses: the document (what was written), the plan (what was meant) and, in
//! `daemon::generation`, what runs.
//!
//! A file is read once and all its mistakes are reported together; a plan comes out only if there are none.

pub mod defaults;
pub mod plan;
pub mod report;

mod document;
mod keys;
mod render;
mod resolve;
mod suggest;
mod value;

use std::path::{Path, PathBuf};

pub use self::render::render_toml;

use self::document::Document;
use self::plan::{Origin, Plan};
use self::report::Report;
use self::resolve::{Completeness, Resolver};

/// Reads a configuration file; the plan is there if the report has no errors.
///
/// `environment` gives the values of environment variables.
pub fn load(path: &Path, environment: &dyn Fn(&str) -> Option<String>) -> (Option<Plan>, Report) {
    let flaw = match std::fs::read(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => return parse(path, &text, environment),
            Err(error) => format!(
                "the file is not UTF-8 text: byte {} is wrong",
                error.utf8_error().valid_up_to() + 1
            ),
        },
        Err(error) => format!("cannot read the file: {}", describe(&error)),
    };
    let mut report = Report::new(path, "");
    report.error(&Origin::default(), flaw);
    (None, report)
}

/// Reads a configuration from its text; paths in it are relative to the folder of `file_name`.
pub fn parse(
    file_name: &Path,
    text: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> (Option<Plan>, Report) {
    let mut report = Report::new(file_name, text);
    let document = Document::read(text, &mut report);
    let completeness = if document.doubtful.is_empty() {
        Completeness::Whole
    } else {
        Completeness::Partial
    };
    let mut resolver = Resolver {
        report: &mut report,
        folder: folder_of(file_name),
        environment,
        completeness,
    };
    let plan = resolver.resolve(&document);
    report.forget_echoes(&document.doubtful);
    (plan, report)
}

/// The absolute path of the folder that a file is in.
fn folder_of(file_name: &Path) -> PathBuf {
    let folder = file_name
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned())
}

/// The system's reason, in lower case and without its number.
fn describe(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.to_lowercase()
}
