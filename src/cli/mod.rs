//! The command line: what it offers, and what it says.

mod check;
mod demo;
mod quick;
mod run;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::report::Colour;

/// An HTTPS-terminating reverse proxy: one binary, one TOML file.
#[derive(Debug, Parser)]
#[command(
    name = "lockgate",
    version,
    about,
    max_term_width = 100,
    arg_required_else_help = true
)]
#[command(
    after_help = "Signals: SIGHUP reloads the configuration; SIGTERM and SIGINT let what is in flight end, \
    a second one ends at once.\nTry it out: lockgate demo"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve what the configuration file describes
    Run(ConfigArguments),
    /// Check everything that `run` would: prints all mistakes, exits 1 if there is one
    Check(ConfigArguments),
    /// Start a proxy with a self-signed certificate before three small backends, to try it out
    Demo(demo::DemoArguments),
    /// Serve one listener and one server group without a configuration file
    Quick(quick::QuickArguments),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Where the configuration is.
#[derive(Debug, clap::Args)]
struct ConfigArguments {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = "lockgate.toml")]
    config: PathBuf,
}

/// The process's environment: for `${env:NAME}` in a configuration.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the environment is read"
)]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Standard error's colours: only where a person reads it.
fn colour() -> Colour {
    if std::io::stderr().is_terminal() {
        Colour::On
    } else {
        Colour::Off
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Check(arguments) => check::check(&arguments),
        Command::Demo(arguments) => demo::demo(&arguments),
        Command::Quick(arguments) => quick::quick(&arguments),
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Arguments::command(),
                "lockgate",
                &mut std::io::stdout(),
            );
            ExitCode::SUCCESS
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
