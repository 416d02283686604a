//! `lockgate quick`: the documented quick creation (S2): a listener's protocol, port, certificate and
//! policy, and a server group, without a file.
//!
//! The flags are written as the TOML they stand for, which is then read as any file is: so the rules,
//! the defaults and the mistakes are the same, and `--print` shows it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;

use super::{colour, environment, run};
use crate::config;
use crate::daemon::Source;

#[derive(Debug, clap::Args)]
pub(super) struct QuickArguments {
    /// The listener's protocol
    #[arg(long, value_enum, default_value_t = Protocol::Https)]
    protocol: Protocol,
    /// The listener's port [default: 443 for https, 80 for http]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Certificate chain, PEM, leaf first; without it one is made in memory
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// TLS security policy
    #[arg(long, value_name = "NAME")]
    tls_policy: Option<String>,
    /// A server: IP:PORT, NAME:PORT or unix:PATH; may be given several times
    #[arg(long = "to", value_name = "SERVER", required = true)]
    servers: Vec<String>,
    /// Print the equivalent configuration file instead of serving
    #[arg(long)]
    print: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Https,
    Http,
}

/// Serves what the flags describe, or prints it.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is what the command is for"
)]
pub(super) fn quick(arguments: &QuickArguments) -> ExitCode {
    let text = match toml(arguments) {
        Ok(text) => text,
        Err(message) => {
            eprintln!("error: {message}");
            return ExitCode::FAILURE;
        }
    };
    if arguments.print {
        print!("{text}");
        return ExitCode::SUCCESS;
    }
    // Paths were made absolute, so the folder of a file that does not exist is never asked for.
    let (plan, report) = config::parse(Path::new("quick"), &text, &environment);
    match plan {
        Some(plan) => run::serve(Source::Fixed(Box::new(plan)), |_| {}),
        None => {
            eprint!("{}", report.render(colour()));
            ExitCode::FAILURE
        }
    }
}

/// The configuration file that the flags stand for.
fn toml(arguments: &QuickArguments) -> Result<String, String> {
    let mut text = String::new();
    let https = arguments.protocol == Protocol::Https;
    if !https && (arguments.cert.is_some() || arguments.tls_policy.is_some()) {
        return Err("`--cert`, `--key` and `--tls-policy` are for `--protocol https`".to_owned());
    }
    if https {
        text.push_str("[[certificate]]\nname = \"quick\"\n");
        match (&arguments.cert, &arguments.key) {
            (Some(cert), Some(key)) => {
                line(&mut text, "cert", &absolute(cert)?);
                line(&mut text, "key", &absolute(key)?);
            }
            (None, _) | (_, None) => {
                text.push_str("self_signed = [\"localhost\", \"127.0.0.1\", \"::1\"]\n")
            }
        }
        text.push('\n');
    }
    let port = arguments.port.unwrap_or(if https { 443 } else { 80 });
    let protocol = if https { "https" } else { "http" };
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "[[listener]]\nname = \"quick\"\nprotocol = \"{protocol}\"\nport = {port}\n"
    );
    if https {
        text.push_str("certificates = [\"quick\"]\n");
    }
    if let Some(policy) = &arguments.tls_policy {
        line(&mut text, "tls_policy", policy);
    }
    text.push_str("server_group = \"quick\"\n\n[[server_group]]\nname = \"quick\"\nservers = [\n");
    for server in &arguments.servers {
        let _ = writeln!(text, "  {{ address = {} }},", quoted(server));
    }
    text.push_str("]\n");
    Ok(text)
}

fn absolute(path: &Path) -> Result<String, String> {
    let path =
        std::path::absolute(path).map_err(|error| format!("`{}`: {error}", path.display()))?;
    path.into_os_string()
        .into_string()
        .map_err(|path| format!("`{}` is not UTF-8", path.to_string_lossy()))
}

fn line(text: &mut String, key: &str, value: &str) {
    let _ = writeln!(text, "{key} = {}", quoted(value));
}

fn quoted(value: &str) -> String {
    toml::Value::String(value.to_owned()).to_string()
}
