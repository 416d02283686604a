//! The life of the process: load, bind, serve; reload on SIGHUP; drain on SIGTERM or SIGINT.
//!
//! Reload and shutdown are one machinery: build the new generation beside the old one, bind what is
//! new, publish once, close what vanished, drain what only the old one served. Any failure before the
//! publication leaves everything as it was. Shutdown is draining the last generation.

pub mod admission;
mod backend_tls;
mod certificates;
mod client_auth;
pub mod connection;
pub mod generation;
pub mod health;
pub mod loads;
pub mod place;
pub mod resolver;
pub mod sockets;
mod sticky;
mod tickets;
pub mod workers;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};

use self::generation::Generation;
use self::health::Checks;
use self::resolver::Names;
use self::sockets::Change;
use self::workers::Workers;
use crate::backend::group::Addresses;
use crate::config;
use crate::config::plan::{ListenerPlan, Origin, Plan, Workers as WorkersPlan};
use crate::config::report::{Colour, Report, Severity};
use crate::listener::ListenerKey;
use crate::telemetry::log::LogControl;
use crate::telemetry::writer::{AccessLog, AccessLogError, OpenedAccessLog};

/// Gives the values of environment variables.
pub type Environment = fn(&str) -> Option<String>;

/// Where a configuration comes from.
pub enum Source {
    /// A file, read again at every reload.
    File(PathBuf),
    /// A plan made from flags; a reload only reads its certificates again.
    Fixed(Box<Plan>),
}

/// Why lockgate ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything in flight came to its end.
    Drained,
    /// drain_timeout ran out, or a second signal came: what was left was cut off.
    Cut,
}

/// A failure at start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration cannot be used; the report says why.
    Refused(Report),
    /// The system refused something that every start needs.
    System(&'static str, io::Error),
    /// The access log cannot be written.
    AccessLog(AccessLogError),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(report) => f.write_str(&report.summary()),
            Self::System(what, error) => write!(f, "{what}: {error}"),
            Self::AccessLog(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

/// Everything but the worker threads: it runs on the main thread.
struct Daemon {
    source: Source,
    environment: Environment,
    generation: Arc<Generation>,
    open: HashSet<ListenerKey>,
    workers: Workers,
    names: Names,
    checks: Checks,
    access_log: AccessLog,
    log: LogControl,
}

/// How long the access log may take to be written to its end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Runs until a signal ends it. `started` is called once everything listens.
pub fn run(
    source: Source,
    environment: Environment,
    log: LogControl,
    started: impl FnOnce(&Plan),
) -> Result<Ended, StartError> {
    // The first random numbers of a process take their time: not at the first client's expense.
    let _ = aws_lc_rs::rand::fill(&mut [0; 32]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| StartError::System("cannot build the main runtime", error))?;
    let result = runtime.block_on(async {
        let mut signals =
            Signals::new().map_err(|error| StartError::System("cannot handle signals", error))?;
        let mut daemon = Daemon::start(source, environment, log).await?;
        started(&daemon.generation.plan);
        let ended = daemon.live(&mut signals).await;
        daemon.workers.join();
        daemon.access_log.shutdown(LAST_WORDS);
        Ok(ended)
    });
    // A name that is being looked up is not waited for.
    runtime.shutdown_background();
    result
}

/// Reads, resolves and builds what a source asks for.
fn load(
    source: &Source,
    environment: Environment,
    addresses: &Addresses,
    previous: Option<&Generation>,
) -> (Option<Arc<Generation>>, Report) {
    let (plan, mut report) = match source {
        Source::File(path) => config::load(path, &environment),
        Source::Fixed(plan) => (
            Some(Plan::clone(plan)),
            Report::new(Path::new("the command line"), ""),
        ),
    };
    let generation =
        plan.and_then(|plan| Generation::build(plan, addresses, previous, &mut report));
    (generation, report)
}

/// Everything that a start would check: read, resolved and built, and the ports are tried without being kept.
pub fn check(path: &Path, environment: Environment) -> (Option<Arc<Generation>>, Report) {
    let source = Source::File(path.to_owned());
    let (generation, mut report) = load(&source, environment, &Addresses::new(), None);
    for listener in generation
        .iter()
        .flat_map(|generation| &generation.plan.listeners)
    {
        try_port(listener, &mut report);
    }
    (generation, report)
}

fn try_port(listener: &ListenerPlan, report: &mut Report) {
    if let Err(error) = crate::accept::tcp::probe(listener.address, listener.port) {
        let message = sockets::refusal(listener, &error);
        let warning = report.warning(&listener.address_origin, message);
        if let Some(help) = sockets::advice(&error) {
            warning.help(help);
        }
    }
}

impl Daemon {
    async fn start(
        source: Source,
        environment: Environment,
        log: LogControl,
    ) -> Result<Self, StartError> {
        let mut names = Names::default();
        let (generation, mut report) = load(&source, environment, names.addresses(), None);
        let Some(generation) = generation else {
            return Err(StartError::Refused(report));
        };
        let server = &generation.plan.server;
        let count = worker_count(server.workers);
        let Some(change) = sockets::prepare(&generation.plan, &HashSet::new(), count, &mut report)
        else {
            return Err(StartError::Refused(report));
        };
        let access_log = OpenedAccessLog::open(&server.access_log)
            .and_then(AccessLog::start)
            .map_err(StartError::AccessLog)?;
        tell(&report);
        names.learn(generation.hosts(), &server.resolver).await;
        let generation = with_addresses(generation, &names);
        let workers = Workers::start(count, || access_log.handle())
            .map_err(|error| StartError::System("cannot start a worker thread", error))?;
        workers.publish(&generation, change.opened, &[]).await;
        let mut checks = Checks::default();
        checks.follow(&generation);
        let open = generation
            .listeners
            .iter()
            .map(|listener| listener.key)
            .collect();
        tracing::info!(
            workers = count,
            listeners = generation.listeners.len(),
            "serving"
        );
        Ok(Self {
            source,
            environment,
            generation,
            open,
            workers,
            names,
            checks,
            access_log,
            log,
        })
    }

    async fn live(&mut self, signals: &mut Signals) -> Ended {
        loop {
            let event = tokio::select! {
                event = signals.next() => event,
                () = self.names.changed() => Event::NamesChanged,
            };
            match event {
                Event::Reload => {
                    self.reload().await;
                    let resolver = &self.generation.plan.server.resolver;
                    self.names.keep_only(&self.generation.hosts(), resolver);
                    // What came in while it was prepared; of a refused one nothing else tells.
                    self.regroup().await;
                }
                Event::NamesChanged => self.regroup().await,
                Event::Stop => return self.shut_down(signals).await,
            }
        }
    }

    /// Gives the workers the servers that names stand for now.
    async fn regroup(&mut self) {
        if let Some(generation) = self.generation.regrouped(self.names.addresses()) {
            let opened = (0..self.workers.count()).map(|_| Vec::new()).collect();
            self.workers.publish(&generation, opened, &[]).await;
            self.checks.follow(&generation);
            self.generation = generation;
        }
    }

    /// Takes up the source's present state, or says all that is wrong with it and goes on as before.
    async fn reload(&mut self) {
        let began = Instant::now();
        let (prepared, report) = self.prepare().await;
        tell(&report);
        let Some(Prepared {
            generation,
            change,
            access_log,
        }) = prepared
        else {
            tracing::error!("reload refused: everything runs on as before");
            // A log that was rotated is followed all the same.
            if let Err(error) = self.access_log.reopen() {
                tracing::error!(%error, "the access log is not reopened");
            }
            return;
        };
        self.access_log.switch(access_log);
        apply(&self.log, &generation.plan);
        if generation.plan.server.workers != self.generation.plan.server.workers {
            tracing::warn!("`workers` has changed: it takes effect at the next start");
        }
        self.workers
            .publish(&generation, change.opened, &change.closed)
            .await;
        self.checks.follow(&generation);
        self.open = generation
            .listeners
            .iter()
            .map(|listener| listener.key)
            .collect();
        self.generation = generation;
        tracing::info!(took = ?began.elapsed(), "reloaded");
    }

    /// Does all of a reload that can fail.
    async fn prepare(&mut self) -> (Option<Prepared>, Report) {
        let (generation, mut report) = load(
            &self.source,
            self.environment,
            self.names.addresses(),
            Some(&self.generation),
        );
        let Some(generation) = generation else {
            return (None, report);
        };
        // Before any socket is bound: from then on clients may come.
        let resolver = &generation.plan.server.resolver;
        self.names.learn(generation.hosts(), resolver).await;
        let generation = with_addresses(generation, &self.names);
        let change = sockets::prepare(
            &generation.plan,
            &self.open,
            self.workers.count(),
            &mut report,
        );
        let access_log =
            OpenedAccessLog::open(&generation.plan.server.access_log).map_err(|error| {
                report.error(&Origin::default(), error.to_string());
            });
        let (Some(change), Ok(access_log)) = (change, access_log) else {
            return (None, report);
        };
        (
            Some(Prepared {
                generation,
                change,
                access_log,
            }),
            report,
        )
    }

    /// Waits shutdown_delay, closes the listening sockets, and lets what is in flight end within drain_timeout.
    async fn shut_down(&self, signals: &mut Signals) -> Ended {
        let server = &self.generation.plan.server;
        if !server.shutdown_delay.is_zero() {
            tracing::info!(delay = ?server.shutdown_delay, "stopping after shutdown_delay");
            tokio::select! {
                () = sleep(server.shutdown_delay) => {}
                () = signals.stop() => return self.cut("a second signal").await,
            }
        }
        tracing::info!(connections = self.workers.connections(), "draining");
        self.workers.stop_accepting();
        let deadline = Instant::now() + server.drain_timeout;
        tokio::select! {
            () = self.workers.drain() => {
                tracing::info!("stopped");
                Ended::Drained
            }
            () = sleep_until(deadline) => self.cut("drain_timeout ran out").await,
            () = signals.stop() => self.cut("a second signal").await,
        }
    }

    /// Ends what is left, and gives it a moment to say so in the log.
    async fn cut(&self, reason: &str) -> Ended {
        tracing::warn!(
            connections = self.workers.connections(),
            reason,
            "stopping at once"
        );
        self.workers.stop_accepting();
        self.workers.cut();
        let _ = tokio::time::timeout(Duration::from_secs(1), self.workers.drain()).await;
        Ended::Cut
    }
}

fn worker_count(plan: WorkersPlan) -> usize {
    match plan {
        WorkersPlan::Count(count) => count.get(),
        WorkersPlan::Auto => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    }
}

fn with_addresses(generation: Arc<Generation>, names: &Names) -> Arc<Generation> {
    generation
        .regrouped(names.addresses())
        .unwrap_or(generation)
}

/// A reload that can no longer fail.
struct Prepared {
    generation: Arc<Generation>,
    change: Change,
    access_log: OpenedAccessLog,
}

/// Says what a report holds, where the daemon's own words go.
fn tell(report: &Report) {
    for diagnostic in report.diagnostics() {
        let text = report.render_one(diagnostic, Colour::Off);
        match diagnostic.severity() {
            Severity::Error => tracing::error!("{text}"),
            Severity::Warning => tracing::warn!("{text}"),
        }
    }
}

fn apply(log: &LogControl, plan: &Plan) {
    if let Err(error) = log.apply(&plan.server.log) {
        tracing::error!(%error, "the log goes on as before");
    }
}

/// The signals that lockgate obeys.
struct Signals {
    hup: Signal,
    term: Signal,
    int: Signal,
}

/// What the daemon acts on: two signals, and what DNS says.
enum Event {
    Reload,
    Stop,
    NamesChanged,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hup: signal(SignalKind::hangup())?,
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.hup.recv() => Event::Reload,
            _ = self.term.recv() => Event::Stop,
            _ = self.int.recv() => Event::Stop,
        }
    }

    /// SIGTERM or SIGINT.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}
