//! `lockgate run`

use std::process::ExitCode;

use super::ConfigArguments;
use crate::config;
use crate::daemon::{self, Ended, Source, StartError};
use crate::telemetry::log;

pub(super) fn run(arguments: &ConfigArguments) -> ExitCode {
    serve(Source::File(arguments.config.clone()), |_| {})
}

/// Runs the daemon, and turns its end into an exit code: 0 drained, 1 not started or cut off.
#[expect(
    clippy::print_stderr,
    reason = "what keeps the daemon from starting is told where it was started"
)]
pub(super) fn serve(source: Source, started: impl FnOnce(&config::plan::Plan)) -> ExitCode {
    let log = log::init();
    match daemon::run(source, config::process_environment, log, started) {
        Ok(Ended::Drained) => ExitCode::SUCCESS,
        Ok(Ended::Cut) => ExitCode::FAILURE,
        Err(StartError::Refused(report)) => {
            eprint!("{}", report.render(config::report::Colour::when_terminal()));
            ExitCode::FAILURE
        }
        Err(StartError::System(what, error)) => {
            eprintln!("error: {what}: {error}");
            ExitCode::FAILURE
        }
    }
}
