//! A panic ends what it happened in, is counted, and nothing else (attacks.md row 69).
//!
//! No request makes lockgate panic, so the defect is made here: a generation whose listener leads to a group
//! that is not there. A binary of its own, since the hook that counts belongs to the process.

#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers may panic as its tests do"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "the client and the backend are no tasks of the program"
)]

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lockgate::config;
use lockgate::config::report::Report;
use lockgate::daemon::generation::Generation;
use lockgate::daemon::sockets;
use lockgate::daemon::workers::Workers;
use lockgate::telemetry::panics;
use lockgate::telemetry::writer::{AccessLog, OpenedAccessLog};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const DEADLINE: Duration = Duration::from_secs(10);

/// Two listeners: one leads to a backend, one into the defect.
struct Served {
    workers: Workers,
    _access_log: AccessLog,
    certificate: CertificateDer<'static>,
    sound: u16,
    defective: u16,
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn config(backend: u16, sound: u16, defective: u16) -> String {
    let mut toml = "[server]\nworkers = 1\n[server.access_log]\npath = \"off\"\n\
        [[certificate]]\nname = \"site\"\ncert = \"site.crt\"\nkey = \"site.key\"\n"
        .to_owned();
    for (name, port) in [("sound", sound), ("defective", defective)] {
        toml += &format!(
            "[[listener]]\nname = \"{name}\"\nprotocol = \"https\"\naddress = \"127.0.0.1\"\nport = {port}\n\
             certificates = [\"site\"]\nserver_group = \"{name}\"\n"
        );
    }
    for name in ["sound", "defective"] {
        toml += &format!(
            "[[server_group]]\nname = \"{name}\"\nservers = [{{ address = \"127.0.0.1:{backend}\" }}]\n"
        );
    }
    toml
}

/// Serves with one worker, so that whatever a panic spoils is everybody's.
async fn serve(folder: &Path, backend: u16) -> Served {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("site.crt"), issued.cert.pem()).unwrap();
    std::fs::write(folder.join("site.key"), issued.signing_key.serialize_pem()).unwrap();
    let (sound, defective) = (free_port(), free_port());
    let file = folder.join("lockgate.toml");
    let text = config(backend, sound, defective);
    let (plan, _) = config::parse(&file, &text, &|_| None);
    let mut report = Report::new(&file, &text);
    let generation = Generation::build(plan.unwrap(), &HashMap::new(), None, &mut report).unwrap();
    let mut generation = Arc::into_inner(generation).unwrap();
    generation.groups.pop();

    let opened = OpenedAccessLog::open(&generation.plan.server.access_log).unwrap();
    let access_log = AccessLog::start(opened).unwrap();
    let workers = Workers::start(1, || access_log.handle()).unwrap();
    let change = sockets::prepare(&generation.plan, &HashSet::new(), 1, &mut report).unwrap();
    workers
        .publish(&Arc::new(generation), change.opened, &change.closed)
        .await;
    Served {
        workers,
        _access_log: access_log,
        certificate: issued.cert.der().clone(),
        sound,
        defective,
    }
}

/// A backend that answers every request.
async fn backend() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                while matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
                    if bytes.ends_with(b"\r\n\r\n") {
                        bytes.clear();
                        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                        stream.write_all(answer).await.unwrap();
                    }
                }
            });
        }
    });
    port
}

impl Served {
    async fn connect(&self, port: u16, alpn: &str) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![alpn.into()];
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await.unwrap()
    }

    async fn http1(&self, port: u16) -> http1::SendRequest<Empty<Bytes>> {
        let stream = TokioIo::new(self.connect(port, "http/1.1").await);
        let (sender, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    async fn http2(&self, port: u16) -> http2::SendRequest<Empty<Bytes>> {
        let stream = TokioIo::new(self.connect(port, "h2").await);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
        tokio::spawn(connection);
        sender
    }
}

fn over_http1(path: &str) -> Request<Empty<Bytes>> {
    let request = Request::get(path).header("host", "localhost");
    request.body(Empty::new()).unwrap()
}

fn over_http2(path: &str) -> Request<Empty<Bytes>> {
    let request = Request::get(format!("https://localhost{path}"));
    request.body(Empty::new()).unwrap()
}

async fn lives_on() {
    let folder = tempfile::tempdir().unwrap();
    let served = serve(folder.path(), backend().await).await;
    let mut other1 = served.http1(served.sound).await;
    let mut other2 = served.http2(served.sound).await;
    for round in 1..=3 {
        let mut first = served.http1(served.defective).await;
        assert!(first.send_request(over_http1("/")).await.is_err());
        assert_eq!(panics::count(), 2 * round - 1);

        // Over HTTP/2 only the stream is lost: another one is answered, by us, since its path is none.
        let mut second = served.http2(served.defective).await;
        assert!(second.send_request(over_http2("/")).await.is_err());
        assert_eq!(panics::count(), 2 * round);
        let answer = second.send_request(over_http2("/%00")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);

        other1.ready().await.unwrap();
        let answer = other1.send_request(over_http1("/")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let answer = other2.send_request(over_http2("/")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    }
    // Whoever is gone has given its place back, and nothing is taken for an exchange that goes on.
    drop((other1, other2));
    served.workers.stop_accepting();
    served.workers.drain().await;
    assert_eq!(served.workers.connections(), 0);
    served.workers.join();
}

#[tokio::test]
async fn a_panic_ends_its_exchange_is_counted_and_leaves_the_connections_beside_it() {
    // What the hook says, of this test's own mistakes too.
    tracing_subscriber::fmt().with_test_writer().init();
    panics::watch();
    let done = tokio::time::timeout(DEADLINE, lives_on());
    done.await.unwrap();
}
