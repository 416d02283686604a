//! `lockgate check`

use std::process::ExitCode;

use super::{ConfigArguments, colour, environment};
use crate::daemon;

/// Prints every mistake and warning; exits 1 if there is a mistake.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is what the command is for"
)]
pub(super) fn check(arguments: &ConfigArguments) -> ExitCode {
    let report = daemon::check(&arguments.config, environment);
    eprint!("{}", report.render(colour()));
    if report.has_errors() {
        return ExitCode::FAILURE;
    }
    println!("{}: ok", arguments.config.display());
    ExitCode::SUCCESS
}
