//! `lockgate run`, and what every command that serves ends up in.

use std::process::ExitCode;

use super::{ConfigArguments, colour, environment};
use crate::config::defaults;
use crate::config::plan::Plan;
use crate::daemon::{self, Ended, Source, StartError};
use crate::telemetry::{log, panics};

pub(super) fn run(arguments: &ConfigArguments) -> ExitCode {
    serve(Source::File(arguments.config.clone()), |_| {})
}

/// Runs the daemon, and turns its end into an exit code: 0 drained, 1 not started or cut off.
#[expect(
    clippy::print_stderr,
    reason = "what keeps the daemon from starting is told where it was started"
)]
pub(super) fn serve(source: Source, started: impl FnOnce(&Plan)) -> ExitCode {
    let log = match log::init(&defaults::server().log) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("error: cannot begin the log: {error}");
            return ExitCode::FAILURE;
        }
    };
    panics::watch();
    match daemon::run(source, environment, log, started) {
        Ok(Ended::Drained) => ExitCode::SUCCESS,
        Ok(Ended::Cut) => ExitCode::FAILURE,
        Err(StartError::Refused(report)) => {
            eprint!("{}", report.render(colour()));
            ExitCode::FAILURE
        }
        Err(error @ (StartError::System(..) | StartError::AccessLog(_))) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
