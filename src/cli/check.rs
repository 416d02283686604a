//! `lockgate check`

use std::process::ExitCode;

use super::ConfigArguments;
use crate::config::{self, report::Colour};
use crate::daemon;

/// Prints every mistake and warning; exits 1 if there is a mistake.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is what the command is for"
)]
pub(super) fn check(arguments: &ConfigArguments) -> ExitCode {
    let report = daemon::check(
        &arguments.config,
        &(config::process_environment as config::Environment),
    );
    eprint!("{}", report.render(Colour::when_terminal()));
    if report.has_errors() {
        return ExitCode::FAILURE;
    }
    println!("{}: ok", arguments.config.display());
    ExitCode::SUCCESS
}
