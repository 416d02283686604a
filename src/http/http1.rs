//! The life of an HTTP/1 connection: one loop for every end that it can come to.
//!
//! hyper serves until it is done or a deadline passes; then the stream is taken back, and the
//! connection is parked (idle, holding no buffers), becomes a tunnel, is told 408, or is closed. What
//! a request is answered with is the handler's business, how a stream is closed `linger`'s.

use std::error::Error as StdError;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use super::account::receive_share;
use super::activity::{Activity, Closing, Phase};
use super::io::HttpIo;
use super::outflow::{Due, Outflow};
use crate::config::plan::{Limits, ListenerPlan, Timeouts};
use crate::failure::Failure;
use crate::stream::{ClientStream, Meter};
use crate::timer::LazyTimer;

/// How long a connection is idle before it gives its buffers back.
const PARK_AFTER: Duration = Duration::from_millis(100);
/// The most that hyper buffers of what a client sends ahead of its turn.
const MAX_BUFFER: usize = 128 * 1024;

/// The least that hyper buffers.
const LEAST_BUFFER: usize = 8 * 1024;
/// The most fields of a head that hyper reads unless told otherwise.
const HYPER_FIELDS: usize = 100;

/// A connection that has ended as HTTP/1.
#[derive(Debug)]
pub struct End {
    /// Its stream.
    pub stream: Box<ClientStream>,
    /// Bytes that came after the last request.
    pub early: Bytes,
    /// Why it ended.
    pub ending: Ending,
}

/// Why a connection has ended as HTTP/1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All has been said: the last answer was sent, the client left, or it was idle for too long.
    Done,
    /// An answer was cut off, or the client vanished.
    Aborted,
    /// hyper has answered a malformed head itself.
    Refused(Failure),
    /// A head was begun and not finished in time; nothing has been answered.
    HeadTooSlow,
    /// The client takes nothing any more, or too little: `Activity::cut` says which.
    Stalled,
}

/// Why hyper was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// The connection is idle and gives its buffers back.
    Park,
    /// The connection was asked to end.
    Closing,
    /// A deadline has passed.
    Deadline(Ending),
}

/// Serves requests on `stream` until it ends, by the timeouts and limits of `plan`.
pub async fn serve<H, F, B, E>(
    mut stream: Box<ClientStream>,
    activity: &Rc<Activity>,
    plan: &ListenerPlan,
    handle: H,
) -> End
where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<Box<dyn StdError + Send + Sync>>,
    B: Body<Data: Buf> + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let mut early = Bytes::new();
    let mut timer = LazyTimer::new();
    activity.begin_idle(stream.meter());
    loop {
        let since = match round(stream, early, (activity, plan), &mut timer, &handle).await {
            Left::Over(end) => return end,
            Left::Idle(quiet, since) => {
                stream = quiet;
                since
            }
            Left::HalfHead(begun, half) => {
                (stream, early) = (begun, half);
                continue;
            }
        };
        match park(
            &mut stream,
            activity,
            since + plan.timeouts.idle,
            &mut timer,
        )
        .await
        {
            Some(bytes) => early = bytes,
            None => {
                return End {
                    stream,
                    early: Bytes::new(),
                    ending: Ending::Done,
                };
            }
        }
    }
}

/// What hyper leaves of a connection.
enum Left {
    /// It has ended.
    Over(End),
    /// It has been idle since then.
    Idle(Box<ClientStream>, Instant),
    /// Half a head came while the exchange before it was still running.
    HalfHead(Box<ClientStream>, Bytes),
}

/// Lets hyper serve, until the connection ends or has nothing to do. A function of its own, so that a parked
/// connection's task does not keep room for it.
async fn round<H, F, B, E>(
    stream: Box<ClientStream>,
    early: Bytes,
    (activity, plan): (&Rc<Activity>, &ListenerPlan),
    timer: &mut LazyTimer,
    handle: &H,
) -> Left
where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<Box<dyn StdError + Send + Sync>>,
    B: Body<Data: Buf> + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let ListenerPlan {
        timeouts, limits, ..
    } = plan;
    let mut driver = Driver {
        activity,
        timeouts,
        meter: Rc::clone(stream.meter()),
        timer,
        outflow: Outflow::new(timeouts.request, limits.min_rate),
        stop: None,
    };
    let io = TokioIo::new(HttpIo::new(stream, early, Rc::clone(activity)));
    let service = service_fn(|request| {
        activity.exchange_began();
        handle(request)
    });
    let mut http = Box::new(builder(limits).serve_connection(io, service));
    let result = poll_fn(|cx| driver.poll(&mut http, cx)).await;
    let stop = driver.stop;
    let parts = http.into_parts();
    let (stream, unread) = parts.io.into_inner().into_parts();
    let early = join(parts.read_buf, unread);
    let ending = ending(result, stop);
    match (stop, ending, activity.phase()) {
        (Some(Stop::Park), Ending::Done, Phase::Idle { since })
            if activity.closing() == Closing::No && !activity.has_unread_body() =>
        {
            let since = flowing(since, stream.meter());
            if early.is_empty() {
                return Left::Idle(stream, since);
            }
            activity.head_began(since);
            Left::HalfHead(stream, early)
        }
        (_, ending, _) => Left::Over(End {
            stream,
            early,
            ending,
        }),
    }
}

fn builder(limits: &Limits) -> http1::Builder {
    let buffer = MAX_BUFFER.min(receive_share(limits.connection_memory));
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        .title_case_headers(true)
        .max_header_size(limits.header_bytes)
        .max_buf_size(buffer.max(limits.header_bytes + 1).max(LEAST_BUFFER));
    // A lower limit is `request::check`'s: any other number than hyper's own costs it two allocations a request.
    if limits.header_count > HYPER_FIELDS {
        builder.max_headers(limits.header_count);
    }
    builder
}

/// Polls hyper, and the deadlines that it knows nothing of.
struct Driver<'a> {
    activity: &'a Activity,
    timeouts: &'a Timeouts,
    meter: Rc<Meter>,
    timer: &'a mut LazyTimer,
    outflow: Outflow,
    stop: Option<Stop>,
}

impl Driver<'_> {
    /// Ready with hyper's result, or with `None` if the connection has to end without it.
    fn poll<S, B>(
        &mut self,
        http: &mut http1::Connection<TokioIo<HttpIo>, S>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<()>>>
    where
        S: Service<Request<Incoming>, Response = Response<B>>,
        S::Error: Into<Box<dyn StdError + Send + Sync>>,
        B: Body<Data: Buf> + 'static,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        self.activity.register(cx);
        loop {
            if self.activity.closing() == Closing::Now {
                return Poll::Ready(None);
            }
            // First of all hyper reads what has come: a request that is here is answered.
            if let Poll::Ready(result) = Pin::new(&mut *http).poll(cx) {
                return Poll::Ready(Some(result));
            }
            if self.meter.write_blocked_since().is_some() {
                self.activity.poll_beside(cx);
            }
            if self.may_close() {
                self.shut_down(http, Stop::Closing);
                continue;
            }
            match ready!(self.poll_deadline(cx)) {
                Stop::Deadline(ending) => {
                    self.stop = Some(Stop::Deadline(ending));
                    return Poll::Ready(None);
                }
                stop @ (Stop::Park | Stop::Closing) => self.shut_down(http, stop),
            }
        }
    }

    /// Whether a connection that was asked to end can be told so: it has had an answer (a client that was
    /// just let in gets one), no head has begun, and nothing waits to be sent, for hyper might not send it.
    fn may_close(&self) -> bool {
        self.activity.closing() == Closing::Graceful
            && self.stop != Some(Stop::Closing)
            && self.activity.requests() > 0
            && !self.activity.is_tunnel()
            && !matches!(self.activity.phase(), Phase::Head { .. })
            && self.meter.write_blocked_since().is_none()
    }

    /// Lets hyper come to an end after what it is doing.
    fn shut_down<S, B>(&mut self, http: &mut http1::Connection<TokioIo<HttpIo>, S>, stop: Stop)
    where
        S: Service<Request<Incoming>, Response = Response<B>>,
        S::Error: Into<Box<dyn StdError + Send + Sync>>,
        B: Body<Data: Buf> + 'static,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        if self.stop != Some(stop) {
            self.stop = Some(stop);
            Pin::new(http).graceful_shutdown();
        }
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        // What is left of an answer comes first: while the client takes it, nothing else runs out.
        if let blocked @ Some(_) = self.meter.write_blocked_since() {
            let due = Due {
                blocked,
                answers: blocked,
            };
            let reason = ready!(self.outflow.poll(due, &self.meter, cx));
            self.activity.cut_off(reason);
            return Poll::Ready(Stop::Deadline(Ending::Stalled));
        }
        let (deadline, stop) = match (self.activity.phase(), self.stop) {
            (Phase::Idle { since }, None) => (flowing(since, &self.meter) + PARK_AFTER, Stop::Park),
            (Phase::Head { since }, _) => (
                flowing(since, &self.meter) + self.timeouts.header,
                Stop::Deadline(Ending::HeadTooSlow),
            ),
            (Phase::Idle { .. } | Phase::Exchange, _) => return Poll::Pending,
        };
        self.timer.poll(deadline, cx).map(|()| stop)
    }
}

/// A moment, or the later one at which the client took the last of its answer.
fn flowing(since: Instant, meter: &Meter) -> Instant {
    meter
        .unblocked_at()
        .map_or(since, |unblocked| unblocked.max(since))
}

/// Waits for the next request's first bytes without holding anything for it. `None`: the connection is over.
async fn park(
    stream: &mut ClientStream,
    activity: &Activity,
    deadline: Instant,
    timer: &mut LazyTimer,
) -> Option<Bytes> {
    poll_fn(|cx| {
        activity.register(cx);
        let mut bytes = [0; 512];
        let mut read = ReadBuf::new(&mut bytes);
        match Pin::new(&mut *stream).poll_read(cx, &mut read) {
            Poll::Ready(Ok(())) if !read.filled().is_empty() => {
                Poll::Ready(Some(Bytes::copy_from_slice(read.filled())))
            }
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending if activity.closing() != Closing::No => Poll::Ready(None),
            Poll::Pending => timer.poll(deadline, cx).map(|()| {
                if stream.transport_mut().reset_unless_taken() {
                    tracing::info!(target: "lockgate::http", key = "idle_timeout",
                        "reset: the client did not take its last answer");
                }
                None
            }),
        }
    })
    .await
}

/// What hyper had read, then what it had not.
fn join(read: Bytes, unread: Bytes) -> Bytes {
    match (read.is_empty(), unread.is_empty()) {
        (true, _) => unread,
        (false, true) => read,
        (false, false) => [read, unread].concat().into(),
    }
}

fn ending(result: Option<hyper::Result<()>>, stop: Option<Stop>) -> Ending {
    match (result, stop) {
        (None, Some(Stop::Deadline(ending))) => ending,
        (None, _) => Ending::Aborted,
        (Some(Ok(())), _) => Ending::Done,
        (Some(Err(error)), _) if error.is_parse_too_large() => {
            Ending::Refused(Failure::HeadTooLarge)
        }
        (Some(Err(error)), _) if error.is_parse() => Ending::Refused(Failure::RequestMalformed),
        (Some(Err(_)), _) => Ending::Aborted,
    }
}
