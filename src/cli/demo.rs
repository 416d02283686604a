//! `lockgate demo`: the whole product in one command: three small backends on loopback, a certificate
//! made in memory, the proxy before them, and the line to try it with.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::{colour, environment, run};
use crate::config;
use crate::daemon::Source;

/// How long a backend of the demo waits for a request.
const PATIENCE: Duration = Duration::from_secs(75);
/// The longest head that a backend of the demo reads, in bytes.
const MAX_HEAD: usize = 128 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct DemoArguments {
    /// The proxy's port
    #[arg(long, default_value_t = 8443, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

/// Serves until a signal ends it.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is what the command is for"
)]
pub(super) fn demo(arguments: &DemoArguments) -> ExitCode {
    let backends: Result<Vec<_>, _> = ["red", "green", "blue"].into_iter().map(backend).collect();
    let backends = match backends {
        Ok(backends) => backends,
        Err(error) => {
            eprintln!("error: cannot start the demo's backends: {error}");
            return ExitCode::FAILURE;
        }
    };
    let port = arguments.port;
    let text = toml(port, &backends);
    let (plan, report) = config::parse(Path::new("demo"), &text, &environment);
    let Some(plan) = plan else {
        eprint!("{}", report.render(colour()));
        return ExitCode::FAILURE;
    };
    run::serve(Source::Fixed(Box::new(plan)), |_| {
        println!(
            "lockgate serves https://localhost:{port} before three backends: red, green and blue."
        );
        println!("Try it, several times:\n\n    curl -k https://localhost:{port}/hello\n");
        println!("The configuration behind it:\n\n{text}");
        println!("Ctrl-C ends it.");
    })
}

fn toml(port: u16, backends: &[SocketAddr]) -> String {
    let servers: Vec<_> = backends
        .iter()
        .map(|address| format!("  {{ address = \"{address}\" }},\n"))
        .collect();
    format!(
        "[server.access_log]\nformat = \"text\"\n\n\
         [[certificate]]\nname = \"demo\"\nself_signed = [\"localhost\", \"127.0.0.1\", \"::1\"]\n\n\
         [[listener]]\nname = \"web\"\nprotocol = \"https\"\nport = {port}\ncertificates = [\"demo\"]\n\
         server_group = \"colours\"\n\n\
         [listener.headers]\nx_forwarded_proto = true\n\n\
         [[server_group]]\nname = \"colours\"\nservers = [\n{}]\n",
        servers.concat()
    )
}

/// Starts a backend that answers every request with its name and what it received. It ends with the process.
fn backend(name: &'static str) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            for client in listener.incoming().flatten() {
                // One thread a connection: the proxy keeps only a few open.
                let serve = move || {
                    let _ = answer(name, &client);
                };
                let _ = std::thread::Builder::new().spawn(serve);
            }
        })?;
    Ok(address)
}

fn answer(name: &str, client: &TcpStream) -> std::io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_nodelay(true)?;
    let mut reader = BufReader::new(client);
    loop {
        let mut head = String::new();
        let mut body = 0;
        loop {
            let before = head.len();
            if reader.read_line(&mut head)? == 0 || head.len() > MAX_HEAD {
                return Ok(());
            }
            let line = head.get(before..).unwrap_or_default().to_ascii_lowercase();
            if let Some(length) = line.strip_prefix("content-length:") {
                body = length.trim().parse().unwrap_or(0);
            }
            if line.starts_with("transfer-encoding:") {
                return refuse(client);
            }
            if line == "\r\n" {
                break;
            }
        }
        std::io::copy(
            &mut std::io::Read::take(&mut reader, body),
            &mut std::io::sink(),
        )?;
        let text = format!("Hello from {name}. It was asked:\n\n{}\n", head.trim_end());
        let mut response = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
            text.len()
        );
        if !head.starts_with("HEAD ") {
            response.push_str(&text);
        }
        let mut out = client;
        out.write_all(response.as_bytes())?;
    }
}

/// A request body without a length is more than a demo has to understand.
fn refuse(mut client: &TcpStream) -> std::io::Result<()> {
    client.write_all(
        b"HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    )
}
