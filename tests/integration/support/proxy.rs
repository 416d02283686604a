//! The real program, as a child process with a configuration of its own.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, kill_process};
use rustls_pki_types::ServerName;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::backend::Backend;
use super::client::Client;
use super::pki::{self, Authority};
use super::raw::Raw;
use super::{DEADLINE, within};

pub(crate) use rustix::process::Signal;

/// Between two looks at what announces itself to nobody: a file, a child.
const LOOK: Duration = Duration::from_millis(10);

/// A configuration in the making: one listener, one group.
pub(crate) struct Proxy {
    directory: TempDir,
    protocol: &'static str,
    servers: Vec<String>,
    server: String,
    listener: String,
    headers: String,
    limits: String,
    compression: String,
    group: String,
    raw: Option<String>,
    command: Vec<String>,
}

/// The program while it runs. It is killed when this is dropped.
pub(crate) struct Running {
    directory: TempDir,
    port: u16,
    protocol: &'static str,
    authority: Authority,
    child: Child,
    stderr: watch::Receiver<String>,
}

impl Proxy {
    /// Before one backend, by HTTPS unless told otherwise.
    pub(crate) fn to(backend: &Backend) -> Self {
        Self::new().servers(&[backend.address()])
    }

    /// Before nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            directory: TempDir::new().unwrap(),
            protocol: "https",
            servers: Vec::new(),
            server: "workers = 2".into(),
            listener: String::new(),
            headers: String::new(),
            limits: String::new(),
            compression: String::new(),
            group: String::new(),
            raw: None,
            command: Vec::new(),
        }
    }

    /// The listener speaks plain HTTP.
    pub(crate) fn http(mut self) -> Self {
        self.protocol = "http";
        self
    }

    /// More lines for `[[listener]]`.
    pub(crate) fn listener(mut self, toml: &str) -> Self {
        self.listener += &format!("{toml}\n");
        self
    }

    /// More lines for `[[server_group]]`.
    pub(crate) fn group(mut self, toml: &str) -> Self {
        self.group += &format!("{toml}\n");
        self
    }

    /// The lines of `[server]`, in place of `workers = 2`.
    pub(crate) fn server(mut self, toml: &str) -> Self {
        self.server = toml.into();
        self
    }

    /// Lines for `[listener.headers]`.
    pub(crate) fn headers(mut self, toml: &str) -> Self {
        self.headers += &format!("{toml}\n");
        self
    }

    /// Lines for `[listener.limits]`.
    pub(crate) fn limits(mut self, toml: &str) -> Self {
        self.limits += &format!("{toml}\n");
        self
    }

    /// Lines for `[listener.compression]`.
    pub(crate) fn compression(mut self, toml: &str) -> Self {
        self.compression += &format!("{toml}\n");
        self
    }

    /// The group's servers: addresses, or whole tables in braces.
    pub(crate) fn servers(mut self, servers: &[impl ToString]) -> Self {
        self.servers = servers
            .iter()
            .map(ToString::to_string)
            .map(|server| match server.starts_with('{') {
                true => server,
                false => format!("{{ address = \"{server}\" }}"),
            })
            .collect();
        self
    }

    /// A whole configuration in place of the one made from parts. `{port}` in it stands for a free port;
    /// `site.crt` and `site.key` lie beside it.
    pub(crate) fn raw_config(mut self, toml: String) -> Self {
        self.raw = Some(toml);
        self
    }

    /// Starts the program by another one, which is given the program's command line as arguments.
    pub(crate) fn under(mut self, command: &[&str]) -> Self {
        self.command = command.iter().map(ToString::to_string).collect();
        self
    }

    /// Where the configuration will lie, with what it names.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn config(&self) -> String {
        if let Some(raw) = &self.raw {
            return raw.clone();
        }
        let mut toml = format!("[server]\n{}\n", self.server);
        toml += "[server.access_log]\npath = \"access.log\"\n";
        toml += "[[certificate]]\nname = \"site\"\ncert = \"site.crt\"\nkey = \"site.key\"\n";
        let _ = writeln!(
            toml,
            "[[listener]]\nname = \"web\"\nprotocol = \"{}\"\naddress = \"127.0.0.1\"\nport = {{port}}",
            self.protocol
        );
        if self.protocol == "https" {
            toml += "certificates = [\"site\"]\n";
        }
        let _ = writeln!(toml, "server_group = \"app\"\n{}", self.listener);
        for (table, lines) in [
            ("headers", &self.headers),
            ("limits", &self.limits),
            ("compression", &self.compression),
        ] {
            if !lines.is_empty() {
                let _ = writeln!(toml, "[listener.{table}]\n{lines}");
            }
        }
        let _ = writeln!(
            toml,
            "[[server_group]]\nname = \"app\"\nservers = [{}]\n{}",
            self.servers.join(", "),
            self.group
        );
        toml
    }

    /// Starts the program and waits until it listens.
    pub(crate) async fn run(self) -> Running {
        let mut running = self.spawn();
        running.wait_until_serving().await;
        running
    }

    /// Starts the program, which may refuse its configuration.
    pub(crate) fn spawn(self) -> Running {
        let authority = Authority::new();
        let issued = authority.issue(&["localhost", "127.0.0.1"]);
        pki::write(self.directory.path(), "site", &issued);
        let port = free_port();
        let config = self.directory.path().join("lockgate.toml");
        std::fs::write(&config, self.config().replace("{port}", &port.to_string())).unwrap();
        let mut line = self.command.clone();
        line.push(env!("CARGO_BIN_EXE_lockgate").to_owned());
        let mut child = Command::new(&line[0])
            .args(&line[1..])
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (writer, stderr) = watch::channel(String::new());
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while matches!(lines.read_until(b'\n', &mut line), Ok(1..)) {
                writer.send_modify(|text| text.push_str(&String::from_utf8_lossy(&line)));
                line.clear();
            }
        });
        Running {
            directory: self.directory,
            port,
            protocol: self.protocol,
            authority,
            child,
            stderr,
        }
    }
}

impl Running {
    /// The port of the listener.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The configuration file.
    pub(crate) fn config_path(&self) -> PathBuf {
        self.directory().join("lockgate.toml")
    }

    /// Where the configuration lies, with the log and the certificates.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Who issued the listener's certificate.
    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Changes the configuration file; [`Self::reload`] makes it count.
    pub(crate) fn rewrite(&self, change: impl FnOnce(String) -> String) {
        let path = self.config_path();
        let before = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, change(before)).unwrap();
    }

    /// Sends SIGHUP and waits until the program has said what came of it; says whether it took it up.
    pub(crate) async fn reload(&mut self) -> Reload {
        let before = self.stderr().len();
        self.signal(Signal::HUP);
        let outcome = |text: &str| {
            let news = text.get(before..).unwrap_or("");
            if news.contains("reload refused") {
                Some(Reload::Refused)
            } else {
                news.contains("reloaded").then_some(Reload::TakenUp)
            }
        };
        self.wait_for_stderr(|text| outcome(text).is_some()).await;
        outcome(&self.stderr()).unwrap()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until the program has ended.
    pub(crate) async fn exit(&mut self) -> ExitStatus {
        within("the program ends", async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                sleep(LOOK).await;
            }
        })
        .await
    }

    /// What the program has said so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.borrow().clone()
    }

    /// Waits until what the program has said satisfies `condition`.
    pub(crate) async fn wait_for_stderr(&mut self, condition: impl Fn(&str) -> bool) {
        let said = self.stderr.wait_for(|text| condition(text));
        let outcome = tokio::time::timeout(DEADLINE, said).await;
        let satisfied = matches!(outcome, Ok(Ok(_)));
        drop(outcome);
        assert!(satisfied, "the program never said it: {}", self.stderr());
    }

    async fn wait_until_serving(&mut self) {
        self.wait_for_stderr(|text| text.contains("serving")).await;
    }

    /// Waits for a line of the access log.
    pub(crate) async fn wait_for_access(&self, condition: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let lines = self.access_log();
            if let Some(line) = lines.iter().find(|line| condition(line)) {
                return line.clone();
            }
            assert!(Instant::now() < deadline, "no such line: {lines:#?}");
            sleep(LOOK).await;
        }
    }

    /// The whole lines of the access log so far.
    pub(crate) fn access_log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.directory().join("access.log")).unwrap_or_default();
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// A connection without TLS, whatever the listener speaks.
    pub(crate) async fn plain(&self) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await;
        let stream = stream.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// A connection with TLS that offers these protocols.
    pub(crate) async fn tls(&self, alpn: &[&str]) -> TlsStream<TcpStream> {
        let connector = TlsConnector::from(self.authority.client_config(alpn));
        let name = ServerName::try_from("localhost").unwrap();
        let handshake = connector.connect(name, self.plain().await);
        within("the handshake is done", handshake).await.unwrap()
    }

    /// A connection for raw HTTP/1 bytes, over TLS where the listener has it.
    pub(crate) async fn raw(&self) -> Raw {
        match self.protocol {
            "https" => Raw::over(self.tls(&["http/1.1"]).await),
            _ => Raw::over(self.plain().await),
        }
    }

    /// A connection that speaks HTTP/1.1.
    pub(crate) async fn client(&self) -> Client {
        match self.protocol {
            "https" => Client::http1(self.tls(&["http/1.1"]).await).await,
            _ => Client::http1(self.plain().await).await,
        }
    }

    /// A connection that speaks HTTP/2.
    pub(crate) async fn client_h2(&self) -> Client {
        Client::http2(self.tls(&["h2"]).await).await
    }
}

/// What came of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reload {
    /// The new configuration is served.
    TakenUp,
    /// The old one is.
    Refused,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the program said:\n{}", self.stderr());
        }
    }
}

/// A port that nobody else gets: the side that closes first keeps it in TIME_WAIT, so the system gives
/// it to nobody who does not ask for it by number, as lockgate does, with SO_REUSEADDR.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let client = std::net::TcpStream::connect(address).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    drop(accepted);
    drop(client);
    address.port()
}
