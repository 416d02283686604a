//! The serving threads: each has its own runtime, sockets, connections and pools, and shares nothing
//! with the others but what is published to all and a few counters.
//!
//! The only place where tasks are spawned: every connection has a seat here, so that a drain knows
//! whom it waits for.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use slab::Slab;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::admission::{Admission, Admitted, Overload, Refusal};
use super::connection;
use super::generation::Generation;
use super::loads::Loads;
use super::place::{Place, Seat};
use crate::accept::tcp::accept_loop;
use crate::addr::{ClientAddr, ListenAddr};
use crate::backend::mirror::Mirrors;
use crate::connection::{Home, View};
use crate::http::activity::{Activity, Closing};
use crate::listener::{Current, ListenerKey, Live};
use crate::telemetry::writer::{AccessLogHandle, flusher};

/// How often pools are swept of connections that nobody used.
const SWEEP: Duration = Duration::from_secs(1);

/// A listening socket of one worker.
#[derive(Debug)]
pub struct Opened {
    /// The listener whose clients come in here.
    pub key: ListenerKey,
    /// The address.
    pub address: ListenAddr,
    /// The socket.
    pub socket: TcpListener,
}

/// What the main thread tells a worker. Each is answered by dropping `done`.
#[derive(Debug)]
enum Command {
    Publish {
        generation: Arc<Generation>,
        opened: Vec<Opened>,
        closed: Vec<ListenerKey>,
        done: mpsc::Sender<()>,
    },
    Adopt {
        client: TcpStream,
        peer: SocketAddr,
        key: ListenerKey,
        admitted: Admitted,
    },
    StopAccepting,
    Drain {
        done: mpsc::Sender<()>,
    },
    Cut,
    End,
}

/// What workers know of each other.
#[derive(Debug)]
pub(super) struct Peers {
    pub(super) loads: Loads,
    commands: Vec<mpsc::UnboundedSender<Command>>,
    admission: Arc<Admission>,
}

/// All serving threads.
#[derive(Debug)]
pub struct Workers {
    peers: Arc<Peers>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` threads that serve nothing yet.
    pub fn start(count: usize, access_log: impl Fn() -> AccessLogHandle) -> io::Result<Self> {
        let (commands, receivers): (Vec<_>, Vec<_>) =
            (0..count).map(|_| mpsc::unbounded_channel()).unzip();
        let peers = Arc::new(Peers {
            loads: Loads::new(count),
            commands,
            admission: Admission::new(),
        });
        let mut threads = Vec::with_capacity(count);
        for (id, receiver) in receivers.into_iter().enumerate() {
            let peers = Arc::clone(&peers);
            let access_log = access_log();
            let thread = std::thread::Builder::new()
                .name(format!("worker-{id}"))
                .spawn(move || run(id, peers, receiver, access_log))?;
            threads.push(thread);
        }
        Ok(Self { peers, threads })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// Client connections that are open.
    pub fn connections(&self) -> usize {
        (0..self.count())
            .map(|worker| self.peers.loads.load(worker))
            .sum()
    }

    /// Makes every worker serve `generation`: sockets in `opened` (one list per worker) are served from now
    /// on, those of the keys in `closed` no more. Done when all have taken it up.
    pub async fn publish(
        &self,
        generation: &Arc<Generation>,
        opened: Vec<Vec<Opened>>,
        closed: &[ListenerKey],
    ) {
        self.peers.admission.set(&generation.plan.server);
        let (done, wait) = mpsc::channel(1);
        for (worker, opened) in self.peers.commands.iter().zip(opened) {
            let command = Command::Publish {
                generation: Arc::clone(generation),
                opened,
                closed: closed.to_vec(),
                done: done.clone(),
            };
            // A worker that is gone has panicked: its thread says so when it is joined.
            let _ = worker.send(command);
        }
        all_done(done, wait).await;
    }

    /// Closes all listening sockets.
    pub fn stop_accepting(&self) {
        for worker in &self.peers.commands {
            let _ = worker.send(Command::StopAccepting);
        }
    }

    /// Lets every connection end after what it is doing. Done when all have ended.
    pub async fn drain(&self) {
        // Again as long as a connection was still on its way to its worker.
        loop {
            let (done, wait) = mpsc::channel(1);
            for worker in &self.peers.commands {
                let _ = worker.send(Command::Drain { done: done.clone() });
            }
            all_done(done, wait).await;
            if self.connections() == 0 {
                return;
            }
        }
    }

    /// Waits for the threads, which end once nobody can tell them anything any more.
    pub fn join(self) {
        for worker in &self.peers.commands {
            let _ = worker.send(Command::End);
        }
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
    }

    /// Ends every connection at once.
    pub fn cut(&self) {
        for worker in &self.peers.commands {
            let _ = worker.send(Command::Cut);
        }
    }
}

async fn all_done(done: mpsc::Sender<()>, mut wait: mpsc::Receiver<()>) {
    drop(done);
    while wait.recv().await.is_some() {}
}

/// One serving thread.
#[derive(Debug)]
pub struct Worker {
    pub(super) id: usize,
    pub(super) peers: Arc<Peers>,
    home: RefCell<Option<Rc<Home>>>,
    pub(super) seats: RefCell<Slab<Rc<Seat>>>,
    pub(super) emptied: Notify,
    stops: RefCell<HashMap<ListenerKey, Rc<Notify>>>,
    /// Listeners that are gone, for the clients that the kernel had let in before.
    left: RefCell<HashMap<ListenerKey, View>>,
    draining: Cell<bool>,
    /// Accept loops that run.
    accepting: Cell<usize>,
    /// Connections that `[listener.access]` has refused since the last sweep.
    refused: Cell<u64>,
    pub(super) overload: Overload,
    access_log: Rc<AccessLogHandle>,
}

fn run(
    id: usize,
    peers: Arc<Peers>,
    commands: mpsc::UnboundedReceiver<Command>,
    access_log: AccessLogHandle,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default());
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, worker = id, "a worker's runtime cannot be built");
            return;
        }
    };
    let worker = Rc::new(Worker {
        id,
        peers,
        home: RefCell::new(None),
        seats: RefCell::new(Slab::new()),
        emptied: Notify::new(),
        stops: RefCell::new(HashMap::new()),
        left: RefCell::new(HashMap::new()),
        draining: Cell::new(false),
        accepting: Cell::new(0),
        refused: Cell::new(0),
        overload: Overload::default(),
        access_log: Rc::new(access_log),
    });
    runtime.block_on(worker.obey(commands));
}

impl Worker {
    /// Does what the main thread says, until there is nobody left to say it and nothing left to serve.
    async fn obey(self: &Rc<Self>, mut commands: mpsc::UnboundedReceiver<Command>) {
        self.spawn(flusher(Rc::clone(&self.access_log)));
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Publish { generation, opened, closed, done }) => {
                        self.publish(&generation, opened, &closed);
                        drop(done);
                    }
                    Some(Command::Adopt { client, peer, key, admitted }) => {
                        self.serve(client, peer, key, admitted);
                    }
                    Some(Command::StopAccepting) => self.stop_accepting(),
                    Some(Command::Drain { done }) => {
                        self.close_all(Closing::Graceful);
                        let worker = Rc::clone(self);
                        self.spawn(async move {
                            worker.empty().await;
                            drop(done);
                        });
                    }
                    Some(Command::Cut) => self.close_all(Closing::Now),
                    Some(Command::End) | None => break,
                },
                _ = sweep.tick() => self.sweep(),
            }
        }
    }

    /// Runs a task on this thread.
    #[expect(clippy::disallowed_methods, reason = "this is where tasks are spawned")]
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(task);
    }

    /// The same for a task that is boxed already.
    #[expect(clippy::disallowed_methods, reason = "this is where tasks are spawned")]
    pub fn spawn_boxed(task: Pin<Box<dyn Future<Output = ()>>>) {
        tokio::task::spawn_local(task);
    }

    /// A listener as it is now, or as it last was.
    fn view(&self, key: ListenerKey) -> Option<View> {
        let live = self.home()?.current.get();
        match live.listener(key).cloned() {
            Some(listener) => Some(View { live, listener }),
            None => self.left.borrow().get(&key).cloned(),
        }
    }

    /// What connections are served from, once anything was published.
    pub fn home(&self) -> Option<Rc<Home>> {
        self.home.borrow().clone()
    }

    fn publish(
        self: &Rc<Self>,
        generation: &Arc<Generation>,
        opened: Vec<Opened>,
        closed: &[ListenerKey],
    ) {
        let previous = self.home().map(|home| home.current.get());
        let drain_timeout = generation.plan.server.drain_timeout;
        let live = Live::new(
            generation.listeners.clone(),
            &generation.groups,
            self.id,
            previous.as_deref(),
            Self::spawn_boxed,
        );
        match self.home() {
            Some(home) => home.current.set(Rc::clone(&live)),
            None => {
                let home = Home {
                    current: Current::new(Rc::clone(&live)),
                    access_log: Rc::clone(&self.access_log),
                    mirrors: Mirrors::new(Self::spawn_boxed),
                };
                *self.home.borrow_mut() = Some(Rc::new(home));
            }
        }
        for opened in opened {
            self.open(opened);
        }
        for key in closed {
            if let Some(live) = &previous
                && let Some(listener) = live.listener(*key).cloned()
            {
                let live = Rc::clone(live);
                self.left.borrow_mut().insert(*key, View { live, listener });
            }
            if let Some(stop) = self.stops.borrow_mut().remove(key) {
                stop.notify_one();
            }
        }
        for group in previous.iter().flat_map(|live| live.groups()) {
            let next = live.group_named(&group.shared.name);
            group.leave_to(next, drain_timeout);
        }
        self.retire(&live, drain_timeout);
    }

    /// Ends what the new generation no longer serves: connections of listeners that are gone or have other
    /// terms, after their exchanges. Under other terms, tunnels and what streams get `drain_timeout`: their
    /// client might not be admitted any more.
    fn retire(&self, live: &Live, drain_timeout: Duration) {
        let mut changed = Vec::new();
        for (_, seat) in self.seats.borrow().iter() {
            let listener = live.listener(seat.key);
            match listener.map(|listener| listener.terms() == seat.terms.as_ref()) {
                Some(true) => {}
                Some(false) => {
                    seat.activity.close(Closing::Graceful);
                    changed.push(Rc::downgrade(&seat.activity));
                }
                None => seat.activity.close(Closing::Graceful),
            }
        }
        if !changed.is_empty() {
            self.spawn(async move {
                tokio::time::sleep(drain_timeout).await;
                for activity in changed.iter().filter_map(Weak::upgrade) {
                    activity.close(Closing::Now);
                }
            });
        }
    }

    fn open(self: &Rc<Self>, opened: Opened) {
        let stop = Rc::new(Notify::new());
        self.stops.borrow_mut().insert(opened.key, Rc::clone(&stop));
        self.left.borrow_mut().remove(&opened.key);
        self.accepting.set(self.accepting.get() + 1);
        let worker = Rc::clone(self);
        self.spawn(async move {
            let key = opened.key;
            let deliver = |client, peer| worker.accepted(client, peer, key);
            let exhausted = || {
                worker.make_room();
            };
            accept_loop(opened.socket, &stop, deliver, exhausted).await;
            worker
                .accepting
                .set(worker.accepting.get().saturating_sub(1));
            worker.emptied.notify_waiters();
        });
    }

    fn stop_accepting(&self) {
        self.draining.set(true);
        for (_, stop) in self.stops.borrow_mut().drain() {
            stop.notify_one();
        }
    }

    /// Asks idle connections to end. Whether there are any.
    fn make_room(&self) -> bool {
        let seats = self.seats.borrow();
        let all = seats.iter().map(|(_, seat)| seat.activity.as_ref());
        self.overload.make_room(all)
    }

    /// Takes a connection. Where its peer announces a client, the address is counted that it names.
    fn admit(&self, peer: SocketAddr, key: ListenerKey) -> Result<Admitted, Refusal> {
        let admission = &self.peers.admission;
        let mut admitted = match admission.admit() {
            Err(Refusal::Full) if self.make_room() => admission.admit_beyond(),
            outcome => outcome?,
        };
        let announces = |view: View| {
            let proxies = &view.listener.plan.proxy_protocol;
            proxies.is_expected_from(peer.ip())
        };
        if !self.view(key).is_some_and(announces) {
            admitted.count(peer.ip())?;
        }
        Ok(admitted)
    }

    fn accepted(self: &Rc<Self>, client: TcpStream, peer: SocketAddr, key: ListenerKey) {
        let admitted = match self.admit(peer, key) {
            Ok(admitted) => admitted,
            Err(refusal) => return self.overload.refused(refusal),
        };
        let chosen = if self.draining.get() {
            self.id
        } else {
            self.peers.loads.choose(self.id)
        };
        self.peers.loads.add(chosen);
        match self.peers.commands.get(chosen) {
            Some(worker) if chosen != self.id => {
                let adopt = Command::Adopt {
                    client,
                    peer,
                    key,
                    admitted,
                };
                if worker.send(adopt).is_err() {
                    self.peers.loads.remove(chosen);
                }
            }
            Some(_) | None => self.serve(client, peer, key, admitted),
        }
    }

    /// Serves a client that is counted already.
    fn serve(
        self: &Rc<Self>,
        client: TcpStream,
        peer: SocketAddr,
        key: ListenerKey,
        admitted: Admitted,
    ) {
        let Some(view) = self.view(key) else {
            self.peers.loads.remove(self.id);
            return;
        };
        let seat = Rc::new(Seat {
            key,
            terms: view.listener.terms().cloned(),
            activity: Rc::new(Activity::new()),
        });
        let number = self.seats.borrow_mut().insert(Rc::clone(&seat));
        let is_gone = self
            .home()
            .is_none_or(|home| home.current.get().listener(key).is_none());
        if self.draining.get() || is_gone {
            seat.activity.close(Closing::Graceful);
        }
        let place = Place {
            seat,
            worker: Rc::clone(self),
            number,
            admitted,
        };
        self.spawn(connection::run(client, ClientAddr::new(peer), view, place));
    }

    fn close_all(&self, how: Closing) {
        for (_, seat) in self.seats.borrow().iter() {
            seat.activity.close(how);
        }
    }

    async fn empty(&self) {
        while !self.seats.borrow().is_empty() || self.accepting.get() > 0 {
            self.emptied.notified().await;
        }
    }

    /// Counts a connection that `[listener.access]` does not admit; the log says every second how many.
    pub fn refused(&self) {
        self.refused.set(self.refused.get() + 1);
    }

    fn sweep(&self) {
        self.overload.tell();
        let refused = self.refused.take();
        if refused > 0 {
            tracing::info!(target: "lockgate::access", connections = refused,
                "closed: [listener.access] does not admit them");
        }
        if let Some(home) = self.home() {
            home.mirrors.tell();
            let now = Instant::now();
            for group in home.current.get().groups() {
                group.sweep(now);
            }
        }
    }
}
