//! How long a start and a reload take with 20,000 certificates, and what a reload costs those who connect
//! meanwhile: the longest handshakes of a client that connects again and again.

#![expect(
    clippy::unwrap_used,
    reason = "a bench may panic where its machine fails it"
)]
#![expect(clippy::print_stdout, reason = "it prints what it has measured")]
#![expect(clippy::disallowed_methods, reason = "real time is what it measures")]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use rustls::client::Resumption;
use rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};
use rustls_pki_types::{CertificateDer, ServerName};

const CERTIFICATES: usize = 20_000;
const PORT: u16 = 18_443;

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let first = write_certificates(folder.path(), 0..CERTIFICATES);
    std::fs::write(folder.path().join("lockgate.toml"), configuration()).unwrap();

    let (mut lockgate, lines) = start(folder.path());
    let stop = Arc::new(AtomicBool::new(false));
    let client = std::thread::spawn({
        let stop = Arc::clone(&stop);
        let client = client(first);
        move || connect_again_and_again(&client, &stop)
    });
    let began = Instant::now();
    std::thread::sleep(Duration::from_secs(2));
    let mut reloads = Vec::new();
    for (what, changed) in [
        ("unchanged", 0),
        ("100 changed", 100),
        ("all but one changed", CERTIFICATES - 1),
    ] {
        write_certificates(folder.path(), 1..=changed.min(CERTIFICATES - 1));
        std::thread::sleep(Duration::from_millis(500));
        let at = began.elapsed();
        let asked = Instant::now();
        kill_process(Pid::from_child(&lockgate), Signal::HUP).unwrap();
        wait_for(&lines, "reloaded");
        println!("reload, {what}: {:?}", asked.elapsed());
        // What was served before goes while the next second passes.
        std::thread::sleep(Duration::from_secs(1));
        reloads.push((what, at, began.elapsed()));
    }
    stop.store(true, Ordering::Relaxed);
    let handshakes = client.join().unwrap();
    let during = |from: Duration, to: Duration| {
        let inside = handshakes.iter().filter(|(at, _)| (from..to).contains(at));
        let mut taken: Vec<_> = inside.map(|(_, taken)| *taken).collect();
        taken.sort();
        let at = |hundredth: usize| taken.get((taken.len() - 1) * hundredth / 100).unwrap();
        format!(
            "{} handshakes, median {:?}, 99 % {:?}, longest {:?}",
            taken.len(),
            at(50),
            at(99),
            at(100)
        )
    };
    println!(
        "at rest: {}",
        during(Duration::from_millis(200), Duration::from_secs(2))
    );
    for (what, from, to) in reloads {
        println!("reload, {what}: {}", during(from, to));
    }
    kill_process(Pid::from_child(&lockgate), Signal::TERM).unwrap();
    lockgate.wait().unwrap();
}

/// Writes self-signed P-256 certificates, and gives the last one.
fn write_certificates(
    folder: &Path,
    which: impl IntoIterator<Item = usize>,
) -> Option<CertificateDer<'static>> {
    let mut first = None;
    for index in which {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![format!("host{index}.example.com")]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.join(format!("{index}.crt")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{index}.key")), key.serialize_pem()).unwrap();
        first.get_or_insert_with(|| certificate.der().clone());
    }
    first
}

fn configuration() -> String {
    let mut toml = String::from("[server.access_log]\npath = \"off\"\n");
    let mut names = String::new();
    for index in 0..CERTIFICATES {
        let _ = writeln!(
            toml,
            "[[certificate]]\nname = \"{index}\"\ncert = \"{index}.crt\"\nkey = \"{index}.key\""
        );
        let _ = write!(names, "\"{index}\", ");
    }
    let _ = write!(
        toml,
        "[[listener]]\nname = \"web\"\nprotocol = \"https\"\naddress = \"127.0.0.1\"\nport = {PORT}\n\
         certificates = [{names}]\nserver_group = \"app\"\n\
         [[server_group]]\nname = \"app\"\nservers = [{{ address = \"127.0.0.1:9\" }}]\n"
    );
    toml
}

/// Starts the program, and waits until it serves.
fn start(folder: &Path) -> (Child, mpsc::Receiver<String>) {
    let asked = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_lockgate"))
        .args(["run", "--config"])
        .arg(folder.join("lockgate.toml"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let (tell, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            let _ = tell.send(line);
        }
    });
    wait_for(&lines, "serving");
    println!("start: {:?}", asked.elapsed());
    (child, lines)
}

fn wait_for(lines: &mpsc::Receiver<String>, part: &str) {
    loop {
        let line = lines.recv_timeout(Duration::from_secs(120)).unwrap();
        assert!(!line.contains("refused"), "{line}");
        if line.contains(part) {
            return;
        }
    }
}

fn client(certificate: Option<CertificateDer<'static>>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// When each handshake began, and how long it took until an answer was there.
fn connect_again_and_again(
    client: &Arc<ClientConfig>,
    stop: &AtomicBool,
) -> Vec<(Duration, Duration)> {
    let began = Instant::now();
    let mut all = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let (at, asked) = (began.elapsed(), Instant::now());
        let mut tcp = TcpStream::connect(("127.0.0.1", PORT)).unwrap();
        tcp.set_nodelay(true).unwrap();
        let name = ServerName::try_from("host0.example.com").unwrap();
        let mut tls = ClientConnection::new(Arc::clone(client), name).unwrap();
        let mut stream = Stream::new(&mut tls, &mut tcp);
        // A request that is answered without a backend.
        stream
            .write_all(b"TRACE / HTTP/1.1\r\nHost: host0.example.com\r\nConnection: close\r\n\r\n")
            .unwrap();
        let _ = stream.read(&mut [0; 1024]).unwrap();
        all.push((at, asked.elapsed()));
        std::thread::sleep(Duration::from_millis(2));
    }
    all
}
