//! Brings access log lines to their target: each worker fills a batch of its own, one thread writes
//! whole batches.
//!
//! The request path never waits for the target: when what is queued passes a bound, lines are
//! dropped, counted and told of. A line reaches its target at most about `FLUSH_DELAY` late.
//! Lines of one batch stand together; those of different workers are not ordered.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::access_log::Record;
use crate::config::plan::{AccessLogPlan, LogFormat, LogTarget};

/// The access log of the process; belongs to the thread that reloads.
///
/// Dropping it without [`AccessLog::shutdown`] leaves the writer thread to finish on its own.
#[derive(Debug)]
pub struct AccessLog {
    shared: Arc<Shared>,
    queue: Sender<Message>,
    plan: AccessLogPlan,
}

impl AccessLog {
    /// Starts the writer thread.
    pub fn start(opened: OpenedAccessLog) -> Result<Self, AccessLogError> {
        let OpenedAccessLog { plan, target } = opened;
        let (queue, messages) = mpsc::channel();
        let shared = Arc::new(Shared::new(Mode::of(&plan)));
        let writer = Writer {
            target,
            mid_line: false,
            shared: Arc::clone(&shared),
        };
        thread::Builder::new()
            .name("access-log".into())
            .spawn(move || writer.run(&messages))
            .map_err(AccessLogError::Thread)?;
        Ok(Self {
            shared,
            queue,
            plan,
        })
    }

    /// A worker's way to the log.
    pub fn handle(&self) -> AccessLogHandle {
        let (home, spare) = mpsc::channel();
        AccessLogHandle {
            shared: Arc::clone(&self.shared),
            queue: self.queue.clone(),
            batch: RefCell::default(),
            lines: Cell::new(0),
            begun: Notify::new(),
            home,
            spare,
        }
    }

    /// Takes what a reload opened: lines from now on have its format, batches from now on go to its
    /// target. Lines already in a worker's batch may reach the new target in the old format.
    pub fn switch(&mut self, opened: OpenedAccessLog) {
        let OpenedAccessLog { plan, target } = opened;
        self.shared.set_mode(Mode::of(&plan));
        self.plan = plan;
        self.send(Message::Switch(target));
    }

    /// Opens the same target anew, for a file that was renamed; on failure the old one stays.
    pub fn reopen(&self) -> Result<(), AccessLogError> {
        self.send(Message::Switch(Target::open(&self.plan.target)?));
        Ok(())
    }

    /// How many lines were lost since the start.
    pub fn dropped(&self) -> u64 {
        self.shared.losses.total.load(Ordering::Relaxed)
    }

    /// Waits until everything that workers have sent is written, but no longer than `patience`: a
    /// target may be stuck. Workers flush or drop their handles first.
    pub fn shutdown(self, patience: Duration) {
        let (done, ended) = mpsc::channel();
        self.send(Message::Shutdown(done));
        if ended.recv_timeout(patience).is_err() {
            let batches = self.shared.queued.load(Ordering::Relaxed);
            tracing::warn!(
                batches,
                "access log not written to its end: its target is stuck"
            );
        }
        self.shared.losses.report("since the last report");
    }

    fn send(&self, message: Message) {
        // The writer ends before its queue only by a panic; there is nothing left to tell it then.
        let _writer_gone = self.queue.send(message);
    }
}

/// A configured access log whose target is open: what can fail has been done.
#[derive(Debug)]
pub struct OpenedAccessLog {
    plan: AccessLogPlan,
    target: Target,
}

impl OpenedAccessLog {
    /// Opens the target; a file is made where there is none, readable by its owner and group.
    pub fn open(plan: &AccessLogPlan) -> Result<Self, AccessLogError> {
        Ok(Self {
            plan: plan.clone(),
            target: Target::open(&plan.target)?,
        })
    }
}

/// One worker's way to the access log; used by one thread.
#[derive(Debug)]
pub struct AccessLogHandle {
    shared: Arc<Shared>,
    queue: Sender<Message>,
    batch: RefCell<Vec<u8>>,
    lines: Cell<u64>,
    begun: Notify,
    home: Sender<Vec<u8>>,
    spare: Receiver<Vec<u8>>,
}

impl AccessLogHandle {
    /// Whether lines go anywhere: where not, a caller need not gather a record's facts.
    pub fn enabled(&self) -> bool {
        self.shared.mode() != Mode::Off
    }

    /// Adds a line to the batch, in the format of the moment.
    pub fn write(&self, record: &Record<'_>) {
        let mut batch = self.batch.borrow_mut();
        match self.shared.mode() {
            Mode::Off => return,
            Mode::Json => record.json(&mut batch),
            Mode::Text => record.text(&mut batch),
        }
        let full = batch.len() >= BATCH_SIZE;
        drop(batch);
        self.lines.set(self.lines.get() + 1);
        if full {
            self.flush();
        } else if self.lines.get() == 1 {
            self.begun.notify_one();
        }
    }

    /// Hands the batch to the writer, or drops it where too much waits there already.
    pub fn flush(&self) {
        if self.lines.get() == 0 {
            return;
        }
        let lines = self.lines.replace(0);
        if self.shared.queued.fetch_add(1, Ordering::Relaxed) >= QUEUE_LIMIT {
            self.shared.queued.fetch_sub(1, Ordering::Relaxed);
            self.batch.borrow_mut().clear();
            self.shared.losses.add(lines);
            self.shared
                .losses
                .report_if_due("the target does not keep up");
            return;
        }
        let empty = self
            .spare
            .try_recv()
            .unwrap_or_else(|_| Vec::with_capacity(BATCH_CAPACITY));
        let batch = Batch {
            bytes: self.batch.replace(empty),
            lines,
            home: self.home.clone(),
        };
        // The writer outlives its queue but for a panic: then lines have nowhere to go.
        let _writer_gone = self.queue.send(Message::Lines(batch));
        self.shared.losses.report_if_due("since the last report");
    }
}

impl Drop for AccessLogHandle {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Flushes a worker's batch `FLUSH_DELAY` after its first line; runs as long as the worker.
pub async fn flusher(handle: Rc<AccessLogHandle>) {
    loop {
        handle.begun.notified().await;
        tokio::time::sleep(FLUSH_DELAY).await;
        handle.flush();
    }
}

/// Why there is no access log.
#[derive(Debug)]
pub enum AccessLogError {
    /// Its file cannot be opened for appending.
    Open {
        /// The configured path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Standard output is closed.
    Stdout(io::Error),
    /// Its thread cannot be started.
    Thread(io::Error),
}

impl fmt::Display for AccessLogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { path, source } => {
                write!(
                    f,
                    "cannot open the access log `{}`: {source}",
                    path.display()
                )
            }
            Self::Stdout(source) => write!(
                f,
                "cannot write the access log to standard output: {source}"
            ),
            Self::Thread(source) => write!(f, "cannot start the access log's thread: {source}"),
        }
    }
}

impl std::error::Error for AccessLogError {}

/// What workers and the reloading thread see of each other.
#[derive(Debug)]
struct Shared {
    mode: AtomicU8,
    /// Batches on their way to the writer.
    queued: AtomicUsize,
    losses: Losses,
}

impl Shared {
    fn new(mode: Mode) -> Self {
        Self {
            mode: AtomicU8::new(mode as u8),
            queued: AtomicUsize::new(0),
            losses: Losses::new(),
        }
    }

    fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Relaxed) {
            JSON => Mode::Json,
            TEXT => Mode::Text,
            _ => Mode::Off,
        }
    }

    fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }
}

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Mode {
    Off = 0,
    Json = JSON,
    Text = TEXT,
}

impl Mode {
    fn of(plan: &AccessLogPlan) -> Self {
        match (&plan.target, plan.format) {
            (LogTarget::Off, _) => Self::Off,
            (LogTarget::Stdout | LogTarget::File(_), LogFormat::Json) => Self::Json,
            (LogTarget::Stdout | LogTarget::File(_), LogFormat::Text) => Self::Text,
        }
    }
}

/// Lost lines, told of once a second at most.
#[derive(Debug)]
struct Losses {
    total: AtomicU64,
    told: AtomicU64,
    start: Instant,
    /// Milliseconds after `start` from which the next report may be made.
    next_report: AtomicU64,
}

impl Losses {
    fn new() -> Self {
        Self {
            total: AtomicU64::new(0),
            told: AtomicU64::new(0),
            start: Instant::now(),
            next_report: AtomicU64::new(0),
        }
    }

    fn add(&self, lines: u64) {
        self.total.fetch_add(lines, Ordering::Relaxed);
    }

    fn report_if_due(&self, why: &str) {
        if self.total.load(Ordering::Relaxed) == self.told.load(Ordering::Relaxed) {
            return;
        }
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let due = self.next_report.load(Ordering::Relaxed);
        let next = now.saturating_add(REPORT_INTERVAL_MS);
        let order = Ordering::Relaxed;
        if now >= due
            && self
                .next_report
                .compare_exchange(due, next, order, order)
                .is_ok()
        {
            self.report(why);
        }
    }

    fn report(&self, why: &str) {
        let total = self.total.load(Ordering::Relaxed);
        let lines = total.saturating_sub(self.told.swap(total, Ordering::Relaxed));
        if lines > 0 {
            tracing::warn!(lines, why, "access log lines dropped");
        }
    }
}

/// What the writer is told, in order.
#[derive(Debug)]
enum Message {
    Lines(Batch),
    Switch(Target),
    Shutdown(Sender<()>),
}

/// Whole lines of one worker, and where the empty buffer goes back to.
#[derive(Debug)]
struct Batch {
    bytes: Vec<u8>,
    lines: u64,
    home: Sender<Vec<u8>>,
}

impl Batch {
    fn recycle(mut self) {
        self.bytes.clear();
        if self.bytes.capacity() <= 2 * BATCH_CAPACITY {
            // A worker that is gone needs no buffer.
            let _worker_gone = self.home.send(self.bytes);
        }
    }
}

/// An open target; `None` takes everything and keeps nothing.
#[derive(Debug)]
struct Target(Option<File>);

impl Target {
    fn open(target: &LogTarget) -> Result<Self, AccessLogError> {
        let file = match target {
            LogTarget::Off => return Ok(Self(None)),
            // A descriptor of our own: no lock and no buffer between a batch and one write.
            LogTarget::Stdout => io::stdout()
                .as_fd()
                .try_clone_to_owned()
                .map(File::from)
                .map_err(AccessLogError::Stdout)?,
            LogTarget::File(path) => open(path).map_err(|source| AccessLogError::Open {
                path: path.clone(),
                source,
            })?,
        };
        Ok(Self(Some(file)))
    }
}

/// Without blocking, since the open of a FIFO that nobody reads would never return; where writes
/// would block, the writer waits by itself.
fn open(path: &Path) -> io::Result<File> {
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(nonblocking)
        .open(path)
}

/// The thread's own state.
struct Writer {
    target: Target,
    /// A failed write has left a line without its end.
    mid_line: bool,
    shared: Arc<Shared>,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        for message in messages {
            match message {
                Message::Lines(batch) => {
                    self.write(&batch);
                    self.shared.queued.fetch_sub(1, Ordering::Relaxed);
                    batch.recycle();
                }
                Message::Switch(target) => {
                    self.target = target;
                    self.mid_line = false;
                }
                Message::Shutdown(done) => {
                    // Nobody waits any more if the patience ran out.
                    let _impatient = done.send(());
                    return;
                }
            }
        }
    }

    fn write(&mut self, batch: &Batch) {
        let Target(Some(file)) = &mut self.target else {
            return;
        };
        if self.mid_line {
            match write_whole(b"\n", file) {
                Ok(()) => self.mid_line = false,
                Err(failed) => return self.shared.lose(batch.lines, &failed.error),
            }
        }
        if let Err(failed) = write_whole(&batch.bytes, file) {
            let written = batch.bytes.get(..failed.written).unwrap_or_default();
            self.mid_line = !written.is_empty() && !written.ends_with(b"\n");
            let whole =
                u64::try_from(written.iter().filter(|&&byte| byte == b'\n').count()).unwrap_or(0);
            self.shared
                .lose(batch.lines.saturating_sub(whole), &failed.error);
        }
    }
}

impl Shared {
    fn lose(&self, lines: u64, error: &io::Error) {
        self.losses.add(lines);
        self.losses.report_if_due(&error.to_string());
    }
}

/// A write that did not come to its end.
struct Failed {
    written: usize,
    error: io::Error,
}

/// Writes all of it; a target that takes nothing for `STUCK_AFTER` has failed.
fn write_whole(bytes: &[u8], target: &mut impl Write) -> Result<(), Failed> {
    let mut written = 0;
    let mut waited = Duration::ZERO;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match target.write(rest) {
            Ok(0) => {
                return Err(Failed {
                    written,
                    error: io::ErrorKind::WriteZero.into(),
                });
            }
            Ok(count) => {
                written += count;
                waited = Duration::ZERO;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && waited < STUCK_AFTER => {
                // This thread only writes the log: a pipe that is full for now keeps nobody else waiting.
                thread::sleep(RETRY_DELAY);
                waited += RETRY_DELAY;
            }
            Err(error) => return Err(Failed { written, error }),
        }
    }
    Ok(())
}

const JSON: u8 = 1;
const TEXT: u8 = 2;

/// A batch that has grown so long is sent at once.
const BATCH_SIZE: usize = 32 * 1024;

/// Room for a full batch and the line that filled it.
const BATCH_CAPACITY: usize = BATCH_SIZE + 4 * 1024;

/// Batches that may wait for the writer: 8 MiB.
const QUEUE_LIMIT: usize = 256;

/// How long a line waits for company.
const FLUSH_DELAY: Duration = Duration::from_millis(20);

const REPORT_INTERVAL_MS: u64 = 1000;

const RETRY_DELAY: Duration = Duration::from_millis(5);

const STUCK_AFTER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::addr::{ClientAddr, ClientIp};
    use crate::scheme::Scheme;
    use crate::telemetry::access_log::RequestFacts;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn plan(path: &Path, format: LogFormat) -> AccessLogPlan {
        AccessLogPlan {
            target: LogTarget::File(path.into()),
            format,
        }
    }

    fn start(plan: &AccessLogPlan) -> AccessLog {
        AccessLog::start(OpenedAccessLog::open(plan).unwrap()).unwrap()
    }

    fn line(uri: &str, handle: &AccessLogHandle) {
        let client = ClientAddr::new("192.0.2.7:4711".parse().unwrap());
        handle.write(&Record {
            time: SystemTime::UNIX_EPOCH,
            listener: "web",
            listener_port: 443,
            client_ip: ClientIp::last_hop(client),
            client,
            scheme: Scheme::Http,
            ssl_protocol: None,
            ssl_cipher: None,
            ssl_session_reused: None,
            ssl_client_verify: None,
            server_name: None,
            request: RequestFacts {
                uri: Some(uri.as_bytes()),
                ..RequestFacts::default()
            },
            request_length: 0,
            status: 200,
            body_bytes_sent: 0,
            cause: None,
            rule: None,
            server_group: None,
            upstream_addr: None,
            upstream_status: None,
            request_time: Duration::ZERO,
            upstream_response_time: None,
            read_request_time: None,
            write_response_time: None,
        });
    }

    fn uris(path: &Path) -> Vec<String> {
        let uri = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["request_uri"].as_str().unwrap().to_owned()
        };
        std::fs::read_to_string(path)
            .unwrap()
            .lines()
            .map(uri)
            .collect()
    }

    #[test]
    fn every_line_of_every_worker_arrives_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = start(&plan(&path, LogFormat::Json));
        thread::scope(|scope| {
            for worker in 0..4 {
                let handle = log.handle();
                scope.spawn(move || {
                    (0..200).for_each(|n| line(&format!("/{worker}/{n:03}"), &handle))
                });
            }
        });
        assert_eq!(log.dropped(), 0);
        log.shutdown(PATIENCE);
        let mut found = uris(&path);
        found.sort();
        let mut sent: Vec<_> = (0..4)
            .flat_map(|w| (0..200).map(move |n| format!("/{w}/{n:03}")))
            .collect();
        sent.sort();
        assert_eq!(found, sent);
    }

    #[test]
    fn a_renamed_file_is_left_alone_after_a_reopen() {
        let folder = tempfile::tempdir().unwrap();
        let (path, renamed) = (
            folder.path().join("access.log"),
            folder.path().join("access.log.1"),
        );
        let log = start(&plan(&path, LogFormat::Json));
        let handle = log.handle();
        line("/before", &handle);
        handle.flush();
        std::fs::rename(&path, &renamed).unwrap();
        line("/between", &handle);
        handle.flush();
        log.reopen().unwrap();
        line("/after", &handle);
        handle.flush();
        log.shutdown(PATIENCE);
        assert_eq!(uris(&renamed), ["/before", "/between"]);
        assert_eq!(uris(&path), ["/after"]);
    }

    #[test]
    fn a_reopen_that_fails_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("logs");
        std::fs::create_dir(&inner).unwrap();
        let path = inner.join("access.log");
        let log = start(&plan(&path, LogFormat::Json));
        let moved = folder.path().join("moved");
        std::fs::rename(&inner, &moved).unwrap();
        let refused = log.reopen().unwrap_err();
        let message = format!(
            "cannot open the access log `{}`: No such file",
            path.display()
        );
        assert!(refused.to_string().starts_with(&message), "{refused}");
        line("/still", &log.handle());
        log.shutdown(PATIENCE);
        assert_eq!(uris(&moved.join("access.log")), ["/still"]);
    }

    #[test]
    fn a_new_file_is_not_for_everyone() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        start(&plan(&path, LogFormat::Json)).shutdown(PATIENCE);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o137,
            0
        );
    }

    #[test]
    fn a_switch_changes_target_and_format() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        let mut log = start(&plan(&first, LogFormat::Json));
        let handle = log.handle();
        line("/first", &handle);
        handle.flush();
        log.switch(OpenedAccessLog::open(&plan(&second, LogFormat::Text)).unwrap());
        line("/second", &handle);
        handle.flush();
        log.switch(
            OpenedAccessLog::open(&AccessLogPlan {
                target: LogTarget::Off,
                format: LogFormat::Text,
            })
            .unwrap(),
        );
        assert!(!handle.enabled());
        line("/nowhere", &handle);
        handle.flush();
        log.shutdown(PATIENCE);
        assert_eq!(uris(&first), ["/first"]);
        let text = std::fs::read_to_string(&second).unwrap();
        assert!(
            text.starts_with("192.0.2.7 - - [1970-01-01T00:00:00Z] \"- /second -\" 200 0 "),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn lines_are_dropped_and_counted_while_the_target_is_stuck() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )
        .unwrap();
        assert!(
            OpenedAccessLog::open(&plan(&path, LogFormat::Json)).is_err(),
            "nobody reads it"
        );
        let reader = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let log = start(&plan(&path, LogFormat::Json));
        let handle = log.handle();
        let uri = format!("/{}", "a".repeat(3500));
        while log.dropped() == 0 {
            line(&uri, &handle);
        }
        let dropped = log.dropped();
        assert!(dropped >= 8, "a whole batch: {dropped}");
        log.shutdown(Duration::from_millis(10));
        drop(reader);
    }

    #[test]
    fn a_failed_write_does_not_spoil_the_next_line() {
        /// Takes so many bytes, then fails once, then takes all.
        struct Full {
            room: usize,
            taken: Vec<u8>,
        }
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if self.room == 0 {
                    self.room = usize::MAX;
                    return Err(io::ErrorKind::StorageFull.into());
                }
                let count = bytes.len().min(self.room);
                self.room -= count;
                self.taken.extend_from_slice(&bytes[..count]);
                Ok(count)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut target = Full {
            room: 6,
            taken: Vec::new(),
        };
        let failed = write_whole(b"one\ntwo\n", &mut target).err().unwrap();
        assert_eq!(
            (failed.written, failed.error.kind()),
            (6, io::ErrorKind::StorageFull)
        );
        assert!(write_whole(b"three\n", &mut target).is_ok());
        assert_eq!(target.taken, b"one\ntwthree\n");
    }

    #[tokio::test(flavor = "local")]
    async fn a_lone_line_is_flushed_soon() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = start(&plan(&path, LogFormat::Json));
        let handle = Rc::new(log.handle());
        line("/alone", &handle);
        let flush = flusher(Rc::clone(&handle));
        let written = tokio::time::timeout(FLUSH_DELAY * 10, flush).await;
        assert!(written.is_err(), "the flusher runs as long as its worker");
        assert_eq!(handle.lines.get(), 0);
        log.shutdown(PATIENCE);
        assert_eq!(uris(&path), ["/alone"]);
    }
}
