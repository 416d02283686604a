//! A server group as one worker sees it: whose turn it is, and the connections it keeps.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use super::balance::wrr::SmoothWrr;
use super::balance::{Balance, Preference, least, slow};
use super::health::State;
use super::http2::link::Links;
use super::permit::Permits;
use super::pool::{Pool, give_up_wanted};
use super::retirement::{Retiree, Retirement};
use super::server::{Active, Server};
use super::tls::{Asked, BackendTls};
use crate::addr::BackendAddr;
use crate::config::balance::{DrainPlan, SlowStart, StickyPlan};
use crate::config::plan::{GroupPlan, GroupProtocol, Keepalive};
use crate::mark::{Mark, Marker};
use crate::task::Spawn;

/// What names stand for now, by name.
pub type Addresses = HashMap<String, Vec<IpAddr>>;

/// What all workers know of a group.
#[derive(Debug)]
pub struct SharedGroup {
    /// Its name.
    pub name: Arc<str>,
    /// What its servers speak.
    pub protocol: GroupProtocol,
    /// How their connections are secured, if they are.
    pub tls: Option<Arc<BackendTls>>,
    /// Its servers, in the order of the configuration.
    pub servers: Vec<Arc<Server>>,
    /// Their weights.
    pub weights: Vec<u8>,
    /// How it chooses among them.
    pub balance: Balance,
    /// How clients are kept with them.
    pub sticky: StickyPlan,
    /// What stands for each of them in a client's cookie; empty where clients are not kept.
    marks: Vec<Mark>,
    /// What becomes of what goes on with one that is taken away.
    pub drain: DrainPlan,
    /// What becomes of connections after an exchange.
    pub keepalive: Keepalive,
    /// How long a connect may take.
    pub connect_timeout: Duration,
    /// How many connections each server may have; `None`: as many as there are.
    pub max_connections: Option<NonZeroUsize>,
    /// What of them is left, of each server.
    permits: Vec<Option<Arc<Permits>>>,
    /// How many other servers are tried after a failed connect.
    pub retries: u8,
}

impl SharedGroup {
    /// A group as planned, with a server for each address of a name, each of the weight that was written:
    /// what has several addresses are several servers, as for nginx and its `resolve`. Servers that `previous`,
    /// the same group before, has too go on as they are.
    pub fn new(
        plan: &GroupPlan,
        tls: Option<Arc<BackendTls>>,
        addresses: &Addresses,
        marker: &Marker,
        previous: Option<&Self>,
    ) -> Self {
        let name: Arc<str> = plan.name.as_str().into();
        let mut servers = Vec::with_capacity(plan.servers.len());
        let mut weights = Vec::with_capacity(plan.servers.len());
        let mut permits = Vec::with_capacity(plan.servers.len());
        for entry in &plan.servers {
            for endpoint in endpoints(&entry.address, addresses) {
                let known = previous.and_then(|group| group.server(&entry.address, &endpoint));
                permits.push(plan.max_connections_per_server.map(|limit| {
                    let known = known.as_ref().and_then(|(_, permits)| permits.clone());
                    known.unwrap_or_else(|| Permits::new(limit.get()))
                }));
                servers.push(known.map_or_else(
                    || Server::new(Arc::clone(&name), entry.address.clone(), endpoint),
                    |(server, _)| server,
                ));
                weights.push(entry.weight);
            }
        }
        let mark = |server: &Arc<Server>| marker.mark("server", &server.endpoint().to_string());
        let marks = match &plan.sticky {
            StickyPlan::Off => Vec::new(),
            StickyPlan::Insert(_) | StickyPlan::Rewrite { .. } => {
                servers.iter().map(mark).collect()
            }
        };
        Self {
            name,
            sticky: plan.sticky.clone(),
            marks,
            drain: plan.drain,
            protocol: plan.protocol,
            tls,
            balance: Balance::new(&plan.scheduler, &servers, &weights),
            servers,
            weights,
            keepalive: plan.keepalive,
            connect_timeout: plan.connect_timeout,
            max_connections: plan.max_connections_per_server,
            permits,
            retries: plan.retries,
        }
    }

    /// The server that a mark stands for, by index.
    pub fn marked(&self, mark: Mark) -> Option<usize> {
        self.marks.iter().position(|known| *known == mark)
    }

    /// Its weights in the steps of weighted round robin.
    fn steps(&self) -> Vec<i64> {
        let scale = self.balance.scale();
        let weights = self.weights.iter();
        weights.map(|weight| i64::from(*weight) * scale).collect()
    }

    /// The weight of a server that it has.
    fn weight_of(&self, server: &Arc<Server>) -> Option<u8> {
        let mut all = self.servers.iter().zip(&self.weights);
        let same = all.find(|(known, _)| Arc::ptr_eq(known, server));
        same.map(|(_, weight)| *weight)
    }

    /// Whether its servers are those of `other`, one for one.
    pub fn has_servers_of(&self, other: &Self) -> bool {
        let same = |(server, other): (&Arc<Server>, &Arc<Server>)| Arc::ptr_eq(server, other);
        self.servers.len() == other.servers.len()
            && self.servers.iter().zip(&other.servers).all(same)
    }

    /// A server, and what limits its connections.
    fn server(
        &self,
        address: &BackendAddr,
        endpoint: &BackendAddr,
    ) -> Option<(Arc<Server>, Option<Arc<Permits>>)> {
        let mut servers = self.servers.iter().zip(&self.permits);
        servers
            .find(|(server, _)| server.address() == address && server.endpoint() == endpoint)
            .map(|(server, permits)| (Arc::clone(server), permits.clone()))
    }
}

/// Where the servers are that an address stands for; a name without addresses stands for itself.
fn endpoints(address: &BackendAddr, addresses: &Addresses) -> Vec<BackendAddr> {
    match address {
        BackendAddr::Name { host, port } => match addresses.get(host) {
            Some(found) if !found.is_empty() => found
                .iter()
                .map(|ip| BackendAddr::Ip(SocketAddr::new(*ip, *port)))
                .collect(),
            Some(_) | None => vec![address.clone()],
        },
        BackendAddr::Ip(_) | BackendAddr::Unix(_) => vec![address.clone()],
    }
}

/// One server of a group, in one worker.
#[derive(Debug)]
pub struct Member {
    /// What all workers know of it.
    pub server: Arc<Server>,
    /// How connections to it are secured, if they are.
    pub tls: Option<Rc<BackendTls>>,
    /// This worker's idle HTTP/1.1 connections to it.
    pub pool: Rc<Pool>,
    /// This worker's HTTP/2 connections to it.
    pub links: Rc<Links>,
    /// What ends that which goes on with it.
    pub retirement: Rc<Retirement>,
    /// What stands for it in a client's cookie, where its group keeps clients.
    pub mark: Option<Mark>,
    drain: DrainPlan,
    /// Whether it was healthy when this worker last looked.
    health: Cell<State>,
}

/// A group, in one worker.
#[derive(Debug)]
pub struct Group {
    /// What all workers know of it.
    pub shared: Arc<SharedGroup>,
    members: Vec<Member>,
    /// Of servers that it had before, as long as something goes on with them.
    former: RefCell<Vec<Weak<Retirement>>>,
    standings: RefCell<SmoothWrr>,
}

/// The servers that an exchange has tried already.
#[derive(Debug, Default)]
pub struct Tried(Vec<usize>);

impl Tried {
    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none was tried yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Member {
    /// A server as one worker sees it, with what `same`, the same server before, knows and the connections
    /// that `kept` has, which is absent where they are other ones from now on.
    fn new(
        (server, permits): (&Arc<Server>, Option<&Arc<Permits>>),
        mark: Option<Mark>,
        group: &SharedGroup,
        (same, kept): (Option<&Self>, Option<&Self>),
        spawn: Spawn,
    ) -> Self {
        let keepalive = group.keepalive;
        let retirement = same.map_or_else(Rc::default, |member| Rc::clone(&member.retirement));
        let (tls, pool, links) = match kept {
            Some(member) => (
                member.tls.clone(),
                Rc::clone(&member.pool),
                Rc::clone(&member.links),
            ),
            None => (
                group.tls.as_ref().map(|tls| Rc::new(tls.for_server())),
                pool(server, permits, keepalive, &retirement, spawn),
                Rc::new(Links::new(keepalive, Rc::clone(&retirement), spawn)),
            ),
        };
        Self {
            server: Arc::clone(server),
            tls,
            pool,
            links,
            health: Cell::new(same.map_or_else(|| server.health(), |member| member.health.get())),
            retirement,
            mark,
            drain: group.drain,
        }
    }

    /// What ends a request to it before it is answered: only where it may be drained, for what goes on would
    /// else go on to its end.
    pub fn retiree(&self) -> Option<Retiree> {
        match self.drain {
            DrainPlan::Off => None,
            DrainPlan::Within(_) => Some(Retiree::new(&self.retirement)),
        }
    }

    /// No group has it any more, or with other connections.
    fn close(&self) {
        self.pool.close();
        self.links.close();
    }

    /// Whether it has become unhealthy since the last look.
    fn has_fallen_ill(&self) -> bool {
        let now = self.server.health();
        let before = self.health.replace(now);
        now == State::Unhealthy && before != State::Unhealthy
    }

    /// By what name the server is asked for, if its connections are secured, for a request with this Host.
    pub fn asked<'a>(&'a self, host: Option<&'a HeaderValue>) -> Option<Asked<'a>> {
        let tls = self.tls.as_ref()?;
        Some(tls.asked(&self.server, host))
    }
}

/// A pool for a server; where its connections are limited, idle ones are given up to other workers.
fn pool(
    server: &Arc<Server>,
    permits: Option<&Arc<Permits>>,
    keepalive: Keepalive,
    retirement: &Rc<Retirement>,
    spawn: Spawn,
) -> Rc<Pool> {
    let pool = Rc::new(Pool::new(
        Arc::clone(server),
        keepalive,
        Rc::clone(retirement),
        permits.cloned(),
    ));
    if let Some(permits) = permits {
        let permits = Arc::clone(permits);
        spawn(Box::pin(give_up_wanted(Rc::downgrade(&pool), permits)));
    }
    pool
}

impl Group {
    /// A worker's view of a group; connections to servers that `previous` has too are carried over.
    /// `spawn` runs the tasks that HTTP/2 connections have.
    pub fn new(
        shared: Arc<SharedGroup>,
        worker: usize,
        previous: Option<&Self>,
        spawn: Spawn,
    ) -> Self {
        let marks = shared.marks.iter().copied().map(Some);
        let servers = shared.servers.iter().zip(&shared.permits);
        let members = servers
            .zip(marks.chain(std::iter::repeat(None)))
            .map(|((server, permits), mark)| {
                let permits = permits.as_ref();
                if let (Some(permits), Some(limit)) = (permits, shared.max_connections) {
                    // The first worker to get here changes it.
                    permits.set_limit(limit.get());
                }
                let same = previous.and_then(|group| group.member(server));
                let kept = previous.and_then(|group| group.kept(server, permits, &shared));
                Member::new((server, permits), mark, &shared, (same, kept), spawn)
            })
            .collect();
        let steps = shared.steps();
        let standings = match previous {
            Some(group) if group.shared.steps() == steps => group.standings.borrow().clone(),
            _ => SmoothWrr::with_offset(&steps, worker),
        };
        Self {
            shared,
            members,
            former: RefCell::default(),
            standings: RefCell::new(standings),
        }
    }

    /// What it has of a server, for the same group as it is from now on, unless connections are other ones then.
    fn kept(
        &self,
        server: &Arc<Server>,
        permits: Option<&Arc<Permits>>,
        next: &SharedGroup,
    ) -> Option<&Member> {
        let is_same_tls = match (&self.shared.tls, &next.tls) {
            (Some(tls), Some(next)) => Arc::ptr_eq(tls, next),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        let same = self.member(server)?;
        let is_same_limit = same.pool.permits().map(Arc::as_ptr) == permits.map(Arc::as_ptr);
        let is_kept = is_same_tls && is_same_limit && same.pool.keepalive() == next.keepalive;
        is_kept.then_some(same)
    }

    fn member(&self, server: &Arc<Server>) -> Option<&Member> {
        let mut members = self.members.iter();
        members.find(|member| Arc::ptr_eq(&member.server, server))
    }

    /// The server whose turn it is, of those that were not tried already: one that may be asked; where there is
    /// none, any that has an address; and one without an address only where nobody else is left.
    pub fn pick(&self, preference: Preference, tried: &mut Tried) -> Option<&Member> {
        let untried = |index: usize| !tried.0.contains(&index);
        let is = |index: usize, what: &dyn Fn(&Server) -> bool| {
            untried(index) && self.members.get(index).is_some_and(|m| what(&m.server))
        };
        let mut members = self.members.iter();
        let index = if members.any(|member| member.server.is_doubtful()) {
            let now = Instant::now();
            self.choose(preference, |index| is(index, &|s| s.may_be_asked(now)))
                .or_else(|| self.choose(preference, |index| is(index, &Server::has_address)))
                .or_else(|| self.choose(preference, untried))
        } else {
            self.choose(preference, untried)
        }?;
        tried.0.push(index);
        self.members.get(index)
    }

    fn choose(&self, preference: Preference, eligible: impl Fn(usize) -> bool) -> Option<usize> {
        let weights = &self.shared.weights;
        if let Some(server) = preference.server
            && weights.get(server).is_some_and(|weight| *weight > 0)
            && eligible(server)
        {
            return Some(server);
        }
        match &self.shared.balance {
            Balance::RoundRobin(SlowStart::Off) => {
                self.standings.borrow_mut().pick(weights, eligible)
            }
            Balance::RoundRobin(SlowStart::Over(duration)) => {
                self.choose_slowly(*duration, eligible)
            }
            Balance::LeastConnections => {
                let active = |index: usize| {
                    let member = self.members.get(index);
                    member.map_or(0, |member| member.server.active())
                };
                let standings = &mut self.standings.borrow_mut();
                least::pick(weights, active, eligible, standings)
            }
            Balance::SourceHash(ring) | Balance::QueryHash(ring, _) => {
                let mut all = weights.iter().enumerate();
                // The whole ring would be gone through for nobody.
                let some_are = all.any(|(index, weight)| *weight > 0 && eligible(index));
                some_are.then(|| ring.pick(preference.place, eligible))?
            }
        }
    }

    /// Weighted round robin among servers whose weights may be growing.
    fn choose_slowly(&self, duration: Duration, eligible: impl Fn(usize) -> bool) -> Option<usize> {
        let now = Instant::now();
        let weights = &self.shared.weights;
        let servers = || self.members.iter().zip(weights).enumerate();
        let serving =
            |member: &Member| now.saturating_duration_since(member.server.serving_since());
        let some_are_warm = servers().any(|(index, (member, weight))| {
            *weight > 0 && serving(member) >= duration && eligible(index)
        });
        let weight = |index: usize| match (self.members.get(index), weights.get(index)) {
            (Some(member), Some(weight)) if eligible(index) => match some_are_warm {
                true => slow::weight(*weight, serving(member), duration),
                false => slow::whole(*weight),
            },
            _ => 0,
        };
        self.standings.borrow_mut().pick_by(weights.len(), weight)
    }

    /// Counts an exchange that a server gets, where that matters to others.
    pub fn count(&self, member: &Member) -> Option<Active> {
        match self.shared.balance {
            Balance::LeastConnections => Some(Active::begin(&member.server)),
            Balance::RoundRobin(_) | Balance::SourceHash(_) | Balance::QueryHash(..) => None,
        }
    }

    /// Leaves off: `next` is the same group as it is from now on. Pools that it has not got are closed, and what
    /// goes on with servers that it takes away is drained. With no next, everything ends after `drain_timeout`,
    /// or as the group itself says.
    pub fn leave_to(&self, next: Option<&Self>, drain_timeout: Duration) {
        let now = Instant::now();
        let Some(next) = next else {
            let limit = match self.shared.drain {
                DrainPlan::Off => drain_timeout,
                DrainPlan::Within(limit) => limit,
            };
            for member in &self.members {
                member.close();
                member.retirement.begin(now + limit);
            }
            for former in self.former.borrow().iter().filter_map(Weak::upgrade) {
                former.begin(now + limit);
            }
            return;
        };
        let mut former = next.former.borrow_mut();
        former.extend(self.former.take());
        former.retain(|retirement| retirement.strong_count() > 0);
        for (member, before) in self.members.iter().zip(&self.shared.weights) {
            let after = next.member(&member.server);
            if after.is_none_or(|after| !Rc::ptr_eq(&after.pool, &member.pool)) {
                member.close();
            }
            match (next.shared.drain, next.shared.weight_of(&member.server)) {
                (drain, None) => {
                    former.push(Rc::downgrade(&member.retirement));
                    if let DrainPlan::Within(limit) = drain {
                        member.retirement.begin(now + limit);
                    }
                }
                (DrainPlan::Within(limit), Some(0)) if *before > 0 => {
                    member.retirement.drain(now + limit);
                }
                (DrainPlan::Off | DrainPlan::Within(_), Some(_)) => {}
            }
        }
    }

    /// Drains servers that have become unhealthy, where the group is to; closes idle connections that are too
    /// old or were closed by their server.
    pub fn sweep(&self, now: Instant) {
        for member in &self.members {
            if let (true, DrainPlan::Within(limit)) = (member.has_fallen_ill(), self.shared.drain) {
                member.retirement.drain(now + limit);
            }
            member.pool.sweep(now);
            member.links.sweep(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::health::Outcome;
    use crate::config::balance::Scheduler;
    use crate::config::health::{HealthCheckPlan, Thresholds};
    use crate::config::plan::{Origin, ServerEntry};

    const GROWS: Duration = Duration::from_secs(40);

    fn plan(ports: &[u16]) -> GroupPlan {
        let entry = |port: &u16| ServerEntry {
            address: BackendAddr::Ip(SocketAddr::from(([127, 0, 0, 1], *port))),
            weight: 100,
            origin: Origin::default(),
        };
        GroupPlan {
            name: "app".into(),
            protocol: GroupProtocol::Http,
            servers: ports.iter().map(entry).collect(),
            scheduler: Scheduler::RoundRobin(SlowStart::Over(GROWS)),
            sticky: StickyPlan::Off,
            drain: DrainPlan::Off,
            keepalive: Keepalive::Off,
            connect_timeout: Duration::from_secs(1),
            max_connections_per_server: None,
            retries: 0,
            health_check: HealthCheckPlan::Off,
            tls: None,
            origin: Origin::default(),
        }
    }

    fn group(ports: &[u16], previous: Option<&Group>) -> Group {
        let marker = Marker::random().unwrap();
        let before = previous.map(|group| &*group.shared);
        let shared = SharedGroup::new(&plan(ports), None, &Addresses::new(), &marker, before);
        Group::new(Arc::new(shared), 0, previous, |_| {})
    }

    /// How many of a thousand requests each server gets.
    fn shares(group: &Group) -> Vec<usize> {
        let mut shares = vec![0; group.members.len()];
        for _ in 0..1000 {
            let mut tried = Tried::default();
            group.pick(Preference::default(), &mut tried).unwrap();
            shares[tried.0[0]] += 1;
        }
        shares
    }

    fn assert_about(shares: &[usize], expected: &[usize]) {
        let near = |(share, expected): (&usize, &usize)| share.abs_diff(*expected) <= 10;
        assert!(
            shares.iter().zip(expected).all(near),
            "{shares:?} {expected:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_comes_gets_its_share_little_by_little() {
        let before = group(&[1, 2], None);
        assert_about(&shares(&before), &[500, 500]);
        tokio::time::advance(GROWS).await;
        let after = group(&[1, 2, 3], Some(&before));
        // A hundredth, a quarter, a half, and all of its weight.
        assert_about(&shares(&after), &[497, 497, 5]);
        tokio::time::advance(GROWS / 4).await;
        assert_about(&shares(&after), &[444, 444, 111]);
        tokio::time::advance(GROWS / 4).await;
        assert_about(&shares(&after), &[400, 400, 200]);
        tokio::time::advance(GROWS / 2).await;
        assert_about(&shares(&after), &[333, 333, 333]);
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_servers_are_at_their_beginning_each_has_its_whole_weight() {
        let before = group(&[1, 2], None);
        tokio::time::advance(GROWS / 2).await;
        let after = group(&[1, 2, 3], Some(&before));
        assert_about(&shares(&after), &[333, 333, 333]);
        // Nobody is spared for those who are not asked.
        tokio::time::advance(GROWS / 2).await;
        assert_about(&shares(&after), &[400, 400, 200]);
        for member in &after.members[..2] {
            member.server.refused(Instant::now());
        }
        assert_about(&shares(&after), &[0, 0, 1000]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_recovers_begins_again() {
        let group = group(&[1, 2], None);
        tokio::time::advance(GROWS).await;
        assert_about(&shares(&group), &[500, 500]);
        let thresholds = Thresholds {
            healthy: 1,
            unhealthy: 1,
        };
        let server = &group.members[1].server;
        server.checked(Outcome::Failed, thresholds, Instant::now());
        assert_about(&shares(&group), &[1000, 0]);
        server.checked(Outcome::Passed, thresholds, Instant::now());
        assert_about(&shares(&group), &[990, 10]);
        tokio::time::advance(GROWS / 2).await;
        assert_about(&shares(&group), &[667, 333]);
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_may_be_asked_those_with_an_address_are_and_others_last() {
        for scheduler in [
            Scheduler::RoundRobin(SlowStart::Off),
            Scheduler::RoundRobin(SlowStart::Over(GROWS)),
            Scheduler::LeastConnections,
            Scheduler::SourceHash,
        ] {
            let mut plan = plan(&[1, 2, 3]);
            plan.servers[0].address = BackendAddr::Name {
                host: "app.internal".into(),
                port: 80,
            };
            plan.scheduler = scheduler;
            let marker = Marker::random().unwrap();
            let shared = SharedGroup::new(&plan, None, &Addresses::new(), &marker, None);
            let group = Group::new(Arc::new(shared), 0, None, |_| {});
            for member in &group.members[1..] {
                member.server.refused(Instant::now());
            }
            for _ in 0..10 {
                let mut tried = Tried::default();
                while group.pick(Preference::default(), &mut tried).is_some() {}
                assert_eq!(tried.0.len(), 3);
                assert_eq!(tried.0[2], 0, "{:?}", plan.scheduler);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_whose_client_stays_is_asked_unless_it_may_not_be() {
        let group = group(&[1, 2], None);
        let preference = Preference {
            server: Some(1),
            ..Preference::default()
        };
        let first = |group: &Group| {
            let mut tried = Tried::default();
            group.pick(preference, &mut tried).unwrap();
            tried.0[0]
        };
        assert_eq!([first(&group), first(&group), first(&group)], [1, 1, 1]);
        group.members[1].server.refused(Instant::now());
        assert_eq!([first(&group), first(&group)], [0, 0]);
        group.members[0].server.refused(Instant::now());
        assert_eq!(first(&group), 1);
    }
}
