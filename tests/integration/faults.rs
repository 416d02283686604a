//! Seen from outside: three nginx under a steady stream of requests, one of which comes to grief.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Method;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::{Barrier, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::support::backend::{Backend, Behaviour, ok};
use crate::support::client::{Client, empty, full, request};
use crate::support::nginx::Nginx;
use crate::support::proxy::{Proxy, Running, Signal, free_port};
use crate::support::raw::Raw;
use crate::support::within;

/// Clients, and how long each waits between requests: 500 requests a second. Every second one only sends GET,
/// the others only POST.
const CLIENTS: usize = 20;
const PAUSE: Duration = Duration::from_millis(40);

/// How long an application takes for an answer, and how long where it is slow.
const USUAL: Duration = Duration::from_millis(15);
const SLOW: Duration = Duration::from_millis(300);

/// `request_timeout` of the listener, in seconds.
const REQUEST_TIMEOUT: u64 = 3;

/// What the first server's application does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Well,
    Slow,
    Failing,
    /// It takes them and keeps them.
    Holding,
}

/// The applications behind all three nginx: `/0/` is the one whose mood changes. They share a process.
struct Applications {
    mood: watch::Sender<Mood>,
    /// How many GET and POST the first one holds.
    held: watch::Sender<(usize, usize)>,
    /// Requests for `/N/warm` are answered when so many are there that each server has one of every client.
    meeting: Barrier,
}

impl Applications {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            mood: watch::Sender::new(Mood::Well),
            held: watch::Sender::default(),
            meeting: Barrier::new(3 * CLIENTS),
        })
    }

    fn behaviour(self: &Arc<Self>) -> Behaviour {
        let applications = Arc::clone(self);
        Backend::raw(move |stream, _| Arc::clone(&applications).serve(stream))
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let mut raw = Raw::over(stream);
        while let Some(request) = raw.read_request_unhurried().await {
            let mut words = request.head.split(' ');
            let (method, target) = (words.next().unwrap(), words.next().unwrap());
            let mood = match target.starts_with("/0/") {
                true => *self.mood.borrow(),
                false => Mood::Well,
            };
            if target.ends_with("/warm") {
                self.meeting.wait().await;
            } else if mood == Mood::Slow {
                sleep(SLOW).await;
            } else {
                sleep(USUAL).await;
            }
            if mood == Mood::Holding {
                self.held.send_modify(|(gets, posts)| match method {
                    "GET" => *gets += 1,
                    "POST" => *posts += 1,
                    _ => {}
                });
                // Never answered; this ends with the nginx that has sent it.
                raw.drain().await;
                return;
            }
            let answer = match mood {
                Mood::Failing => {
                    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n".to_vec()
                }
                Mood::Well | Mood::Slow | Mood::Holding => ok(b"ok"),
            };
            if raw.try_write(answer).await.is_err() {
                return;
            }
        }
    }
}

/// An nginx before one of the applications.
struct Server {
    directory: TempDir,
    port: u16,
    blocks: String,
    nginx: Option<Nginx>,
}

impl Server {
    async fn start(&mut self) -> Option<()> {
        let nginx = Nginx::start(self.directory.path(), self.port, &self.blocks).await?;
        self.nginx = Some(nginx);
        Some(())
    }

    fn signal(&self, signal: Signal) {
        self.nginx.as_ref().unwrap().signal(signal);
    }
}

/// Three of them; `None` without nginx.
async fn three(applications: &Backend) -> Option<Vec<Server>> {
    let mut servers = Vec::new();
    for index in 0..3 {
        let port = free_port();
        let application = applications.address();
        let mut server = Server {
            directory: tempfile::tempdir().unwrap(),
            port,
            blocks: format!(
                "server {{ listen 127.0.0.1:{port}; \
                 location / {{ proxy_pass http://{application}/{index}/; }} }}"
            ),
            nginx: None,
        };
        server.start().await?;
        servers.push(server);
    }
    Some(servers)
}

/// What clients were told: how often which status, by method; 0 is none.
type Told = BTreeMap<(&'static str, u16), usize>;

/// Clients that go on asking until they are told to stop.
struct Stream {
    clients: JoinSet<Told>,
    stop: Arc<AtomicBool>,
    began: Instant,
}

impl Stream {
    async fn start(proxy: &Running) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let (port, stop) = (proxy.port(), Arc::clone(&stop));
            let method = match number % 2 {
                0 => Method::GET,
                _ => Method::POST,
            };
            clients.spawn(ask(port, method, stop));
        }
        Self {
            clients,
            stop,
            began: Instant::now(),
        }
    }

    /// What they were told, and how many a second.
    async fn stop(self) -> (Told, usize) {
        self.stop.store(true, Ordering::SeqCst);
        let began = self.began;
        let mut told = Told::new();
        for (answer, count) in self.clients.join_all().await.into_iter().flatten() {
            *told.entry(answer).or_default() += count;
        }
        let answers: usize = told.values().sum();
        let millis = usize::try_from(began.elapsed().as_millis()).unwrap();
        (told, answers * 1000 / millis)
    }
}

async fn connect(port: u16) -> Client {
    let stream = TcpStream::connect(("127.0.0.1", port)).await;
    Client::http1(stream.unwrap()).await
}

async fn ask(port: u16, method: Method, stop: Arc<AtomicBool>) -> Told {
    let name = match method {
        Method::GET => "GET",
        _ => "POST",
    };
    let mut client = connect(port).await;
    let mut told = Told::new();
    let mut pace = interval(PAUSE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.load(Ordering::SeqCst) {
        pace.tick().await;
        let body = match method {
            Method::GET => empty(),
            _ => full("content"),
        };
        let answer = client.try_send(request(method.clone(), "/", body)).await;
        // A connection that ends without having said so is an error that the client sees.
        let status = answer.as_ref().map_or(0, |answer| answer.status.as_u16());
        if !answer.is_ok_and(|answer| answer.field("connection") != Some("close")) {
            client = connect(port).await;
        }
        *told.entry((name, status)).or_default() += 1;
    }
    told
}

fn count(told: &Told, method: &'static str, status: u16) -> usize {
    told.get(&(method, status)).copied().unwrap_or(0)
}

/// Fills the pools: afterwards each server has a connection for every client. A request that is repeated
/// where its connection has died is one that went out on a connection of the pool.
async fn warm(proxy: &Running) {
    let mut all = JoinSet::new();
    for _ in 0..3 * CLIENTS {
        let mut client = proxy.client().await;
        all.spawn(async move { client.get("/warm").await.status.as_u16() });
    }
    assert_eq!(all.join_all().await, [200; 3 * CLIENTS]);
}

/// Who plays, with the scene set.
struct Stage {
    proxy: Running,
    applications: Arc<Applications>,
    servers: Vec<Server>,
    /// Alive as long as this is.
    _backend: Backend,
}

impl Stage {
    /// All three servers are well, and the pools are filled. `None` without nginx.
    async fn set() -> Option<Self> {
        let applications = Applications::new();
        let backend = applications.behaviour().run().await;
        let servers = three(&backend).await?;
        let addresses: Vec<_> = servers
            .iter()
            .map(|server| format!("127.0.0.1:{}", server.port))
            .collect();
        // One worker, so that there is one pool to fill.
        let proxy = Proxy::new()
            .servers(&addresses)
            .server("workers = 1")
            .listener(&format!("request_timeout = {REQUEST_TIMEOUT}"))
            .group("[server_group.health_check]\ninterval = 1\ntimeout = 1")
            .group("unhealthy_threshold = 2\nhealthy_threshold = 2")
            .http()
            .run()
            .await;
        warm(&proxy).await;
        Some(Self {
            proxy,
            applications,
            servers,
            _backend: backend,
        })
    }

    /// Clients ask while `fault` comes about and until the first server is found to be `state`; then those
    /// of another stream, all of whom must be told 200.
    async fn play(
        &mut self,
        fault: &str,
        state: Option<&str>,
        act: impl AsyncFnOnce(&mut Server, &Applications),
    ) -> Told {
        let heard = self.proxy.stderr().len();
        let stream = Stream::start(&self.proxy).await;
        sleep(Duration::from_millis(200)).await;
        let server = &mut self.servers[0];
        act(server, &self.applications).await;
        let began = Instant::now();
        let address = format!("127.0.0.1:{}", server.port);
        match state {
            Some(state) => {
                let words = [format!("server={address} "), format!("to=\"{state}\"")];
                let change = |line: &str| words.iter().all(|word| line.contains(word));
                self.proxy
                    .wait_for_stderr(|text| text[heard..].lines().any(change))
                    .await;
            }
            None => sleep(Duration::from_secs(1)).await,
        }
        let took = began.elapsed();
        let (told, rate) = stream.stop().await;
        let stream = Stream::start(&self.proxy).await;
        sleep(Duration::from_millis(300)).await;
        let (later, _) = stream.stop().await;
        eprintln!(
            "{fault}: {told:?} at {rate}/s, {} after {took:.1?}; later {later:?}",
            state.unwrap_or("as healthy as before"),
        );
        nothing_but(&format!("after {fault}"), &later, &[]);
        told
    }

    /// The first server ends by `signal` while it has both GET and POST that it will not answer. Each POST
    /// must have failed, once.
    async fn end(&mut self, fault: &str, signal: Signal) -> Told {
        let mut held = (0, 0);
        self.applications.held.send_replace(held);
        let told = self
            .play(fault, Some("unhealthy"), async |server, applications| {
                applications.mood.send_replace(Mood::Holding);
                let mut holding = applications.held.subscribe();
                let both = holding.wait_for(|(gets, posts)| *gets > 1 && *posts > 1);
                held = *within("requests are held", both).await.unwrap();
                server.signal(signal);
                refuses(server.port).await;
                server.nginx = None;
                applications.mood.send_replace(Mood::Well);
            })
            .await;
        let lost = count(&told, "POST", 502);
        assert!((held.1..=CLIENTS / 2).contains(&lost), "{held:?}: {told:?}");
        told
    }
}

/// Waits until nobody listens on a port.
async fn refuses(port: u16) {
    within("nobody listens", async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

fn nothing_but(fault: &str, told: &Told, allowed: &[(&str, u16)]) {
    let fine = |answer: &(&str, u16)| answer.1 == 200 || allowed.contains(answer);
    assert!(told.keys().all(fine), "{fault}: {told:?}");
}

/// What the rules let clients see of it, with checks every second and two of them for a change of state:
///
/// - Terminated: a GET in flight is repeated, as its connection came from the pool and died before a byte of an
///   answer. A POST in flight gets 502, as the server may have acted on it; no client has more than one.
///   All others go elsewhere, as nothing of them was sent.
/// - Restarted: nothing.
/// - Slow, but within `request_timeout`: nothing.
/// - Answers 500: these are answers, and are passed on until checks have found it unhealthy.
/// - Stopped: the system goes on taking connections for it. What is sent to it waits for `request_timeout` and
///   gets 504, and is not repeated: the server may yet act on it. After three of these the server is skipped
///   for a second, before which each client can have had one; each may have another if checks have not found it
///   unhealthy by then.
/// - Goes on: nothing.
/// - Killed: as terminated, but the system closes the connections of a killed process before it closes what it
///   listens on. A GET that is repeated in between reaches the same server, on a new connection that dies, too,
///   and gets 502: a repeat is not repeated (RFC 9110 section 9.2.2).
#[tokio::test]
async fn a_server_that_comes_to_grief_costs_no_error_that_can_be_avoided() {
    let Some(mut stage) = Stage::set().await else {
        return;
    };

    let terminated = stage.end("terminated", Signal::TERM).await;
    nothing_but("terminated", &terminated, &[("POST", 502)]);

    let restarted = async |server: &mut Server, _: &Applications| server.start().await.unwrap();
    let restarted = stage.play("restarted", Some("healthy"), restarted).await;
    nothing_but("restarted", &restarted, &[]);

    let slow = async |_: &mut Server, applications: &Applications| {
        applications.mood.send_replace(Mood::Slow);
    };
    let slow = stage.play("slow", None, slow).await;
    nothing_but("slow", &slow, &[]);

    let failing = async |_: &mut Server, applications: &Applications| {
        applications.mood.send_replace(Mood::Failing);
    };
    let failing = stage.play("answers 500", Some("unhealthy"), failing).await;
    nothing_but("answers 500", &failing, &[("GET", 500), ("POST", 500)]);
    assert!(count(&failing, "GET", 500) > 0, "{failing:?}");

    let well = async |_: &mut Server, applications: &Applications| {
        applications.mood.send_replace(Mood::Well);
    };
    let well = stage.play("answers 200 again", Some("healthy"), well).await;
    nothing_but("answers 200 again", &well, &[]);

    let stopped = async |server: &mut Server, _: &Applications| server.signal(Signal::STOP);
    let stopped = stage.play("stopped", Some("unhealthy"), stopped).await;
    let waited = count(&stopped, "GET", 504) + count(&stopped, "POST", 504);
    assert!((1..=2 * CLIENTS).contains(&waited), "{stopped:?}");
    nothing_but("stopped", &stopped, &[("GET", 504), ("POST", 504)]);

    let goes_on = async |server: &mut Server, _: &Applications| server.signal(Signal::CONT);
    let goes_on = stage.play("goes on", Some("healthy"), goes_on).await;
    nothing_but("goes on", &goes_on, &[]);

    let killed = stage.end("killed", Signal::KILL).await;
    nothing_but("killed", &killed, &[("GET", 502), ("POST", 502)]);
    let lost = count(&killed, "GET", 502);
    assert!(lost <= CLIENTS / 2, "{killed:?}");
}
