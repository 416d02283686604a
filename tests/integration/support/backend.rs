//! A backend: a listening socket and a script for each connection, without an HTTP library.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::raw::{Io, Message, Raw};

/// A request as a backend received it.
pub(crate) type Received = Message;

type Answer = Arc<dyn Fn(&Received) -> Vec<u8> + Send + Sync>;
type Life = Pin<Box<dyn Future<Output = ()> + Send>>;
type Script = Arc<dyn Fn(TcpStream, usize) -> Life + Send + Sync>;

/// What a backend does, before it runs.
#[derive(Clone)]
pub(crate) enum Behaviour {
    /// Reads requests, and answers each.
    Answers(Answer),
    /// Lives each connection by a script.
    Raw(Script),
}

/// A running backend; it ends with the test.
pub(crate) struct Backend {
    address: Option<SocketAddr>,
    record: Record,
    task: JoinHandle<()>,
}

/// What a backend has seen.
#[derive(Clone)]
struct Record {
    requests: watch::Sender<Vec<Received>>,
    connections: Arc<AtomicUsize>,
}

impl Backend {
    /// Answers every request with the bytes that `answer` makes; `Connection: close` in them closes.
    pub(crate) fn answering(
        answer: impl Fn(&Received) -> Vec<u8> + Send + Sync + 'static,
    ) -> Behaviour {
        Behaviour::Answers(Arc::new(answer))
    }

    /// Gives each connection, and its number from 0, to `script`. Such a backend records no requests.
    pub(crate) fn raw<F>(
        script: impl Fn(TcpStream, usize) -> F + Send + Sync + 'static,
    ) -> Behaviour
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Behaviour::Raw(Arc::new(move |stream, number| {
            Box::pin(script(stream, number))
        }))
    }

    /// Accepts, reads, and never answers.
    pub(crate) fn silent() -> Behaviour {
        Self::raw(|stream, _| async move {
            Raw::over(stream).drain().await;
        })
    }

    /// Answers 200 with what it received, to the byte: the head, then the body.
    pub(crate) fn echo() -> Behaviour {
        Self::answering(|request| {
            let shown = [request.head.as_bytes(), &request.body].concat();
            ok(&shown)
        })
    }

    /// Answers 200 with its name.
    pub(crate) fn named(name: &str) -> Behaviour {
        let name = name.to_owned();
        Self::answering(move |_| ok(name.as_bytes()))
    }

    /// Backends that answer with these names.
    pub(crate) async fn all_named(names: &[&str]) -> Vec<Self> {
        let mut backends = Vec::new();
        for name in names {
            backends.push(Self::named(name).run().await);
        }
        backends
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address.expect("a backend on TCP")
    }

    /// Every request that it has read whole.
    pub(crate) fn requests(&self) -> Vec<Received> {
        self.record.requests.borrow().clone()
    }

    /// The only request that it has read.
    pub(crate) fn request(&self) -> Received {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }

    /// How many connections it has accepted.
    pub(crate) fn connections(&self) -> usize {
        self.record.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Behaviour {
    /// Listens on a port of 127.0.0.1.
    pub(crate) async fn run(self) -> Backend {
        self.run_on("127.0.0.1:0".parse().unwrap()).await
    }

    /// Listens on an address of the test's choice.
    pub(crate) async fn run_on(self, address: SocketAddr) -> Backend {
        self.run_over(TcpListener::bind(address).await.unwrap())
    }

    /// Takes a listening socket over.
    pub(crate) fn run_over(self, listener: TcpListener) -> Backend {
        let address = listener.local_addr().unwrap();
        let record = Record::new();
        let task = tokio::spawn(serve_tcp(listener, self, record.clone()));
        Backend {
            address: Some(address),
            record,
            task,
        }
    }

    /// Listens on a unix socket.
    pub(crate) async fn run_unix(self, path: &Path) -> Backend {
        let listener = UnixListener::bind(path).unwrap();
        let record = Record::new();
        let Self::Answers(answer) = self else {
            panic!("a raw script takes a TCP stream");
        };
        let seen = record.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                seen.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(answer_all(stream, Arc::clone(&answer), seen.clone()));
            }
        });
        Backend {
            address: None,
            record,
            task,
        }
    }
}

impl Record {
    fn new() -> Self {
        Self {
            requests: watch::Sender::new(Vec::new()),
            connections: Arc::default(),
        }
    }
}

async fn serve_tcp(listener: TcpListener, behaviour: Behaviour, record: Record) {
    // Aborted with the accept loop, so that a backend that is gone answers nobody.
    let mut lives = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        let number = record.connections.fetch_add(1, Ordering::SeqCst);
        match &behaviour {
            Behaviour::Answers(answer) => {
                lives.spawn(answer_all(stream, Arc::clone(answer), record.clone()));
            }
            Behaviour::Raw(script) => {
                lives.spawn(script(stream, number));
            }
        }
    }
}

async fn answer_all(stream: impl Io + 'static, answer: Answer, record: Record) {
    let mut raw = Raw::over(stream);
    while let Some(request) = raw.read_request_unhurried().await {
        let bytes = answer(&request);
        let ends = says_close(&bytes) || says_close(request.head.as_bytes());
        record
            .requests
            .send_modify(|requests| requests.push(request));
        if raw.try_write(bytes).await.is_err() || ends {
            break;
        }
    }
}

fn says_close(message: &[u8]) -> bool {
    let head = message.split(|byte| *byte == b'\n');
    head.take_while(|line| line.len() > 1)
        .any(|line| line.to_ascii_lowercase().starts_with(b"connection: close"))
}

/// A 200 with this content.
pub(crate) fn ok(content: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
        content.len()
    );
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(content);
    bytes
}
