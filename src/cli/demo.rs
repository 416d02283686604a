//! `lockgate demo`
use std::process::ExitCode;
#[derive(Debug, clap::Args)]
pub(super) struct DemoArguments {
    /// The port of the proxy
    #[arg(long, default_value_t = 8443)]
    port: u16,
}
pub(super) fn demo(_: &DemoArguments) -> ExitCode {
    ExitCode::SUCCESS
}
