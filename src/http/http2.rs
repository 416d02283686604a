//! The life of an HTTP/2 connection.
//!
//! hyper serves it; each stream is a task of its own. What hyper does not limit is limited here: a
//! client that opens no stream (http2_idle_timeout), that never begins (header_timeout), that takes
//! nothing from the socket, that floods (`allowance`), or that takes nothing on one stream (request_timeout): the last is found by
//! the stream's own task, which is dropped, and that resets the stream.

use std::cell::{Cell, RefCell};
use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Buf;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use super::account::{Account, receive_share};
use super::activity::{Activity, Closing, Phase};
use super::allowance::{Allowance, Flood};
use super::io::{Lent, SharedStream};
use super::linger;
use super::outflow::{Due, Outflow};
use super::piece::Backlog;
use super::request::head_memory;
use crate::config::plan::{Limits, ListenerPlan, Timeouts};
use crate::stream::{ClientStream, Meter};
use crate::task::Spawn;
use crate::timer::LazyTimer;

/// Bytes that a client may send ahead on one stream.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Bytes that a client may send ahead on a connection, at most.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What every client may send ahead before it knows better (RFC 9113 section 6.9.2).
const LEAST_WINDOW: u32 = 65_535;
/// Bytes buffered for one stream that the client does not take.
const SEND_BUFFER: usize = 64 * 1024;
/// What the pseudo-header fields count for in the size of a field list, beyond what HTTP/1.1 writes for them.
const PSEUDO_FIELDS: usize = 256;
/// How long a connection may take to end once it was told to and has no stream left: time for its client
/// to take what is buffered. A client that goes on sending PINGs gains nothing.
const FAREWELL: Duration = Duration::from_secs(5);
/// What h2 itself takes for a flood; which it was, only the client is told, in the GOAWAY.
const H2_LIMITS: &str = "too many resets, CONTINUATION frames or DATA frames without content (h2)";

/// What the handler of one stream tells its task: the pace of the client, noted by the response body,
/// and what the task is to do besides.
pub struct StreamPace {
    shared: Shared,
    /// What its head has drawn; `None`: there was no room for it.
    head: Option<usize>,
    held: Cell<usize>,
    waiting_since: Cell<Option<Instant>>,
    stalled: Cell<bool>,
    companion: RefCell<Option<Companion>>,
}

/// What the streams of a connection share.
#[derive(Clone)]
struct Shared {
    allowance: Rc<Allowance>,
    backlog: Rc<Backlog>,
    account: Rc<Account>,
}

impl Shared {
    fn new(limits: &Limits) -> Self {
        Self {
            allowance: Rc::new(Allowance::new(limits.http2_max_streams)),
            backlog: Rc::default(),
            account: Rc::new(Account::new(limits.connection_memory)),
        }
    }
}

/// What a stream's task does besides passing the answer on.
pub enum Companion {
    /// Ends with the answer at the latest.
    Beside(Pin<Box<dyn Future<Output = ()>>>),
    /// Takes the stream over once it was answered.
    Tunnel(Pin<Box<dyn Future<Output = Parting>>>),
}

/// How a stream that was taken over ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// Both sides have said that they have no more to say.
    Ended,
    /// It is reset.
    Reset,
}

impl fmt::Debug for StreamPace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamPace")
            .field("waiting_since", &self.waiting_since)
            .finish_non_exhaustive()
    }
}

impl StreamPace {
    fn new(request: &mut Request<Incoming>, shared: &Shared) -> Self {
        let head = head_memory(request);
        let head = shared.account.draw_head(head).then_some(head);
        if head.is_none() {
            shared.allowance.refused();
            // Not kept until its task comes to say so.
            *request.headers_mut() = HeaderMap::new();
        }
        Self {
            shared: shared.clone(),
            head,
            held: Cell::new(0),
            waiting_since: Cell::new(None),
            stalled: Cell::new(false),
            companion: RefCell::new(None),
        }
    }

    /// What the connection's client has not made room for.
    pub fn backlog(&self) -> &Rc<Backlog> {
        &self.shared.backlog
    }

    /// Whether the connection holds so much that this stream is refused (`connection_memory`).
    pub fn is_refused(&self) -> bool {
        self.head.is_none()
    }

    /// What all streams of the connection draw from.
    pub fn account(&self) -> &Account {
        &self.shared.account
    }

    /// Ready once more of the answer may be read.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.account.poll_room(self.held.get(), cx)
    }

    /// A part of the answer was read, and waits for the client.
    pub fn hold(&self, bytes: usize) {
        self.held.set(self.held.get() + bytes);
        self.shared.account.draw_answer(bytes);
    }

    /// A part of it was taken, or is thrown away.
    pub fn let_go(&self, bytes: usize) {
        self.held.set(self.held.get().saturating_sub(bytes));
        self.shared.account.return_answer(bytes);
    }

    /// Whether the stream ends because its client took nothing for request_timeout.
    pub fn is_stalled(&self) -> bool {
        self.stalled.get()
    }

    /// The answer begins.
    pub fn answered(&self) {
        self.shared.allowance.answered();
    }

    /// A piece of the body was handed over.
    pub fn handed_over(&self, bytes: usize) {
        self.shared.allowance.carried(bytes);
        self.waiting_since.set(Some(Instant::now()));
    }

    /// So many bytes of a tunnel go out.
    pub fn carried(&self, bytes: usize) {
        self.shared.allowance.carried(bytes);
    }

    /// The next piece is asked for: the client has made room.
    pub fn asked(&self) {
        self.waiting_since.set(None);
    }

    /// Gives the stream's task something to do besides.
    pub fn accompany(&self, companion: Companion) {
        *self.companion.borrow_mut() = Some(companion);
    }
}

impl Drop for StreamPace {
    fn drop(&mut self) {
        self.shared.account.return_head(self.head.unwrap_or(0));
    }
}

/// Why a connection has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was closed by either side, as the protocol asks for, or was idle for too long.
    Done,
    /// The protocol was broken, or the client vanished.
    Broken,
    /// The client takes nothing any more, or too little: `Activity::cut` says which.
    Stalled,
    /// The client sends what makes work and carries nothing, for this reason.
    Flooded(String),
}

/// Serves requests on `stream` until it ends, by the timeouts and limits of `plan`; `spawn` runs a stream's task.
pub async fn serve<H, F, B, E>(
    stream: Box<ClientStream>,
    activity: &Rc<Activity>,
    plan: &ListenerPlan,
    handle: H,
    spawn: Spawn,
) -> (Ending, Option<Box<ClientStream>>)
where
    H: Fn(Request<Incoming>, Rc<StreamPace>) -> F,
    F: Future<Output = Result<Response<B>, E>> + 'static,
    E: Into<Box<dyn StdError + Send + Sync>> + 'static,
    B: Body<Data: Buf> + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    activity.begin_idle(stream.meter());
    let ListenerPlan {
        timeouts, limits, ..
    } = plan;
    let shared = Shared::new(limits);
    let mut pace = ConnectionPace::new(activity, stream.meter(), plan, &shared.backlog);
    let fresh: Rc<RefCell<Option<Rc<StreamPace>>>> = Rc::default();
    let tasks = Tasks {
        spawn,
        fresh: Rc::clone(&fresh),
        sender: Rc::default(),
        limit: timeouts.request,
    };
    let service = service_fn(|mut request: Request<Incoming>| {
        activity.exchange_began();
        let pace = Rc::new(StreamPace::new(&mut request, &shared));
        *fresh.borrow_mut() = Some(Rc::clone(&pace));
        // Boxed at once: hyper moves it several times before it runs.
        Box::pin(handle(request, pace))
    });
    let (io, lent) = SharedStream::lend(stream, Rc::clone(&shared.allowance));
    let mut http = Box::pin(builder(tasks, limits).serve_connection(TokioIo::new(io), service));
    let mut timer = LazyTimer::new();
    let mut told_at: Option<Instant> = None;
    let ending = poll_fn(|cx| {
        activity.register(cx);
        loop {
            match activity.closing() {
                Closing::No => {}
                Closing::Now => return Poll::Ready(Ending::Broken),
                Closing::Graceful if told_at.is_none() => {
                    told_at = Some(Instant::now());
                    http.as_mut().graceful_shutdown();
                }
                Closing::Graceful => {}
            }
            if let Poll::Ready(ending) = poll_http(http.as_mut(), &lent, cx) {
                return Poll::Ready(ending);
            }
            if pace.poll_outflow(cx).is_ready() {
                return Poll::Ready(Ending::Stalled);
            }
            let Some((deadline, ending)) = pace.next_deadline(told_at) else {
                return Poll::Pending;
            };
            ready!(timer.poll(deadline, cx));
            match ending {
                // Too long idle: a GOAWAY, and a moment for the client to see it.
                Ending::Done => activity.close(Closing::Graceful),
                Ending::Broken | Ending::Stalled | Ending::Flooded(_) => {
                    return Poll::Ready(ending);
                }
            }
        }
    })
    .await;
    drop(http);
    take_back(lent, ending).await
}

/// Lets hyper do what it can, then sends what it has written meanwhile.
fn poll_http(
    http: Pin<&mut impl Future<Output = hyper::Result<()>>>,
    lent: &RefCell<Lent>,
    cx: &mut Context<'_>,
) -> Poll<Ending> {
    if let Poll::Ready(result) = http.poll(cx) {
        return Poll::Ready(ending(result));
    }
    // What the client does not take now goes out when it does; the stall limit watches.
    match lent.borrow_mut().stream.poll_send(cx) {
        Poll::Ready(Err(_)) => Poll::Ready(Ending::Broken),
        Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
    }
}

/// The stream of a connection that has ended, unless its client was cut off.
async fn take_back(lent: Rc<RefCell<Lent>>, ending: Ending) -> (Ending, Option<Box<ClientStream>>) {
    let Some(lent) = Rc::into_inner(lent).map(RefCell::into_inner) else {
        return (ending, None);
    };
    match lent.flood() {
        None => (ending, Some(lent.stream.into_inner())),
        Some(flood) => {
            say_last_words(lent, flood).await;
            (Ending::Flooded(flood.to_string()), None)
        }
    }
}

/// What hyper's result means. h2 ends some floods by itself, and says so to the client.
fn ending(result: hyper::Result<()>) -> Ending {
    let Err(error) = result else {
        return Ending::Done;
    };
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>()
            && error.is_library()
            && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM)
        {
            return Ending::Flooded(H2_LIMITS.to_owned());
        }
        source = error.source();
    }
    Ending::Broken
}

/// Tells a client that floods why its connection ends, and reads no more of what it sends.
async fn say_last_words(mut lent: Lent, flood: Flood) {
    let words = lent.last_words(flood);
    let say = async {
        lent.stream.write_all(&words).await?;
        lent.stream.shutdown().await?;
        lent.stream.into_inner().shutdown().await
    };
    // It is closed in any case.
    let _ = timeout(linger::GOODBYE, say).await;
}

/// What a connection's next deadline depends on.
struct ConnectionPace<'a> {
    meter: Rc<Meter>,
    /// Bytes that had come when the handshake was done.
    received_before: u64,
    activity: &'a Activity,
    timeouts: &'a Timeouts,
    backlog: Rc<Backlog>,
    outflow: Outflow,
}

impl<'a> ConnectionPace<'a> {
    fn new(
        activity: &'a Activity,
        meter: &Rc<Meter>,
        plan: &'a ListenerPlan,
        backlog: &Rc<Backlog>,
    ) -> Self {
        Self {
            meter: Rc::clone(meter),
            received_before: meter.received(),
            activity,
            timeouts: &plan.timeouts,
            backlog: Rc::clone(backlog),
            outflow: Outflow::new(plan.timeouts.request, plan.limits.min_rate),
        }
    }

    /// Ready once the client has taken too little for too long.
    fn poll_outflow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due = Due {
            blocked: self.meter.write_blocked_since(),
            answers: self.backlog.since(),
        };
        let reason = ready!(self.outflow.poll(due, &self.meter, cx));
        self.activity.cut_off(reason);
        Poll::Ready(())
    }

    /// When the connection ends if nothing happens, and how; `told_at` is when it was told to.
    fn next_deadline(&self, told_at: Option<Instant>) -> Option<(Instant, Ending)> {
        match (self.activity.phase(), told_at) {
            (Phase::Exchange, _) => None,
            (Phase::Idle { since } | Phase::Head { since }, Some(told)) => {
                Some((since.max(told) + FAREWELL, Ending::Broken))
            }
            (Phase::Idle { since } | Phase::Head { since }, None) => {
                let has_begun = self.meter.received() > self.received_before;
                let limit = if has_begun {
                    self.timeouts.http2_idle
                } else {
                    self.timeouts.header
                };
                Some((since + limit, Ending::Done))
            }
        }
    }
}

fn builder(tasks: Tasks, limits: &Limits) -> http2::Builder<Tasks> {
    let mut builder = http2::Builder::new(tasks);
    let share = u32::try_from(receive_share(limits.connection_memory)).unwrap_or(u32::MAX);
    let window = share.clamp(LEAST_WINDOW, CONNECTION_WINDOW);
    builder
        .max_concurrent_streams(limits.http2_max_streams)
        .initial_stream_window_size(STREAM_WINDOW.min(window))
        .initial_connection_window_size(window)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(list_size(limits))
        .keep_alive_interval(None)
        .enable_connect_protocol();
    builder
}

/// The size of a field list (RFC 9113 section 6.5.2), above which a head is refused unseen: so much that
/// every head which is within the listener's limits is below. Those are `request::check`'s to hold.
fn list_size(limits: &Limits) -> u32 {
    // A field counts for 32 bytes more than its name and value, of which HTTP/1.1 has 4 on its wire.
    let fields = limits.header_count * 28;
    u32::try_from(limits.header_bytes + fields + PSEUDO_FIELDS).unwrap_or(u32::MAX)
}

/// Runs the tasks of a connection's streams, each under its stall limit.
#[derive(Clone)]
struct Tasks {
    spawn: Spawn,
    /// The pace of the stream whose task comes next: hyper calls the service, then runs the task.
    fresh: Rc<RefCell<Option<Rc<StreamPace>>>>,
    /// What sends the bytes of a stream that was just taken over: hyper runs it from within the stream's task.
    sender: Rc<RefCell<Option<Sender>>>,
    limit: Duration,
}

/// Sends what is written to a stream that was taken over.
type Sender = Pin<Box<dyn Future<Output = ()>>>;

impl<F: Future<Output = ()> + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let Some(pace) = self.fresh.borrow_mut().take() else {
            *self.sender.borrow_mut() = Some(Box::pin(task));
            return;
        };
        (self.spawn)(Box::pin(StreamTask {
            task: Some(Box::pin(task)),
            pace,
            companion: None,
            fresh_sender: Rc::clone(&self.sender),
            sender: None,
            limit: self.limit,
            timer: LazyTimer::new(),
        }));
    }
}

/// A stream's task: done when hyper's is and what it was given besides, or when its client has not taken
/// what it was given for `limit`.
struct StreamTask<F> {
    /// Boxed by itself: as part of an async block it would take its room twice. Gone once the answer is sent.
    task: Option<Pin<Box<F>>>,
    pace: Rc<StreamPace>,
    companion: Option<Companion>,
    fresh_sender: Rc<RefCell<Option<Sender>>>,
    sender: Option<Sender>,
    limit: Duration,
    timer: LazyTimer,
}

impl<F: Future<Output = ()>> StreamTask<F> {
    fn poll_answer(&mut self, cx: &mut Context<'_>) {
        let Some(task) = &mut self.task else {
            return;
        };
        let is_done = task.as_mut().poll(cx).is_ready();
        if let Some(companion) = self.pace.companion.take() {
            self.companion = Some(companion);
        }
        if is_done {
            self.task = None;
            self.sender = self.fresh_sender.borrow_mut().take();
            if let Some(Companion::Beside(_)) = self.companion {
                self.companion = None;
            }
        }
    }

    fn poll_companion(&mut self, cx: &mut Context<'_>) {
        let parting = match &mut self.companion {
            None => return,
            Some(Companion::Beside(work)) => work.as_mut().poll(cx).map(|()| Parting::Ended),
            Some(Companion::Tunnel(tunnel)) => tunnel.as_mut().poll(cx),
        };
        match parting {
            Poll::Pending => {}
            Poll::Ready(Parting::Ended) => self.companion = None,
            // With what it would still send, the stream is dropped, and that resets it.
            Poll::Ready(Parting::Reset) => {
                self.companion = None;
                self.sender = None;
            }
        }
    }

    /// Whether it has just come to its end, for a client that went away: the tunnel is to see it.
    fn poll_sender(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(sender) = &mut self.sender else {
            return false;
        };
        let is_done = sender.as_mut().poll(cx).is_ready();
        if is_done {
            self.sender = None;
        }
        is_done
    }
}

impl<F: Future<Output = ()>> Future for StreamTask<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.poll_answer(cx);
        this.poll_companion(cx);
        while this.poll_sender(cx) {
            this.poll_companion(cx);
        }
        if this.task.is_none() && this.companion.is_none() && this.sender.is_none() {
            return Poll::Ready(());
        }
        match this.pace.waiting_since.get() {
            Some(since) => {
                ready!(this.timer.poll(since + this.limit, cx));
                this.pace.stalled.set(true);
                Poll::Ready(())
            }
            None => Poll::Pending,
        }
    }
}
