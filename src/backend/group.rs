//! A server group as one worker sees it: whose turn it is, and the connections it keeps.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use super::balance::wrr::SmoothWrr;
use super::balance::{Balance, Preference, least};
use super::http2::link::Links;
use super::pool::Pool;
use super::retirement::Retirement;
use super::server::{Active, Server};
use super::tls::{Asked, BackendTls};
use crate::addr::BackendAddr;
use crate::config::plan::{GroupPlan, GroupProtocol, Keepalive};
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
    /// What becomes of connections after an exchange.
    pub keepalive: Keepalive,
    /// How long a connect may take.
    pub connect_timeout: Duration,
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
        previous: Option<&Self>,
    ) -> Self {
        let name: Arc<str> = plan.name.as_str().into();
        let mut servers = Vec::with_capacity(plan.servers.len());
        let mut weights = Vec::with_capacity(plan.servers.len());
        for entry in &plan.servers {
            for endpoint in endpoints(&entry.address, addresses) {
                let known = previous.and_then(|group| group.server(&entry.address, &endpoint));
                servers.push(known.unwrap_or_else(|| {
                    Server::new(Arc::clone(&name), entry.address.clone(), endpoint)
                }));
                weights.push(entry.weight);
            }
        }
        Self {
            name,
            protocol: plan.protocol,
            tls,
            balance: Balance::new(&plan.scheduler, &servers, &weights),
            servers,
            weights,
            keepalive: plan.keepalive,
            connect_timeout: plan.connect_timeout,
            retries: plan.retries,
        }
    }

    /// Whether its servers are those of `other`, one for one.
    pub fn has_servers_of(&self, other: &Self) -> bool {
        let same = |(server, other): (&Arc<Server>, &Arc<Server>)| Arc::ptr_eq(server, other);
        self.servers.len() == other.servers.len()
            && self.servers.iter().zip(&other.servers).all(same)
    }

    fn server(&self, address: &BackendAddr, endpoint: &BackendAddr) -> Option<Arc<Server>> {
        let mut servers = self.servers.iter();
        servers
            .find(|server| server.address() == address && server.endpoint() == endpoint)
            .cloned()
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
}

/// A group, in one worker.
#[derive(Debug)]
pub struct Group {
    /// What all workers know of it.
    pub shared: Arc<SharedGroup>,
    /// What ends that which outlives it.
    pub retirement: Rc<Retirement>,
    members: Vec<Member>,
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
    /// By what name the server is asked for, if its connections are secured, for a request with this Host.
    pub fn asked<'a>(&'a self, host: Option<&'a HeaderValue>) -> Option<Asked<'a>> {
        let tls = self.tls.as_ref()?;
        Some(tls.asked(&self.server, host))
    }
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
        let retirement = previous.map_or_else(Rc::default, |group| Rc::clone(&group.retirement));
        let members = shared
            .servers
            .iter()
            .map(|server| {
                let known = previous.and_then(|group| group.member(server, &shared));
                known.unwrap_or_else(|| Member {
                    server: Arc::clone(server),
                    tls: shared.tls.as_ref().map(|tls| Rc::new(tls.for_server())),
                    pool: Rc::new(Pool::new(
                        Arc::clone(server),
                        shared.keepalive,
                        Rc::clone(&retirement),
                    )),
                    links: Rc::new(Links::new(shared.keepalive, Rc::clone(&retirement), spawn)),
                })
            })
            .collect();
        let standings = match previous {
            Some(group) if group.shared.weights == shared.weights => {
                group.standings.borrow().clone()
            }
            _ => SmoothWrr::with_offset(&shared.weights, worker),
        };
        Self {
            shared,
            retirement,
            members,
            standings: RefCell::new(standings),
        }
    }

    /// What it has of a server, for the same group as it is from now on, unless connections are other ones then.
    fn member(&self, server: &Arc<Server>, next: &SharedGroup) -> Option<Member> {
        let is_same_tls = match (&self.shared.tls, &next.tls) {
            (Some(tls), Some(next)) => Arc::ptr_eq(tls, next),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !is_same_tls {
            return None;
        }
        let mut members = self.members.iter();
        let same = members.find(|member| {
            Arc::ptr_eq(&member.server, server) && member.pool.keepalive() == next.keepalive
        })?;
        Some(Member {
            server: Arc::clone(&same.server),
            tls: same.tls.clone(),
            pool: Rc::clone(&same.pool),
            links: Rc::clone(&same.links),
        })
    }

    /// The server whose turn it is, of those that were not tried already: one that may be asked, or any, by
    /// weight, where there is none.
    pub fn pick(&self, preference: Preference, tried: &mut Tried) -> Option<&Member> {
        let untried = |index: usize| !tried.0.contains(&index);
        let index = if self
            .members
            .iter()
            .any(|member| member.server.is_doubtful())
        {
            let now = Instant::now();
            let willing = |index: usize| {
                untried(index)
                    && self
                        .members
                        .get(index)
                        .is_some_and(|m| m.server.may_be_asked(now))
            };
            self.choose(preference, willing)
                .or_else(|| self.choose(preference, untried))
        } else {
            self.choose(preference, untried)
        }?;
        tried.0.push(index);
        self.members.get(index)
    }

    fn choose(&self, preference: Preference, eligible: impl Fn(usize) -> bool) -> Option<usize> {
        let weights = &self.shared.weights;
        match &self.shared.balance {
            Balance::RoundRobin => self.standings.borrow_mut().pick(weights, eligible),
            Balance::LeastConnections => {
                let active = |index: usize| {
                    let member = self.members.get(index);
                    member.map_or(0, |member| member.server.active())
                };
                let standings = &mut self.standings.borrow_mut();
                least::pick(weights, active, eligible, standings)
            }
            Balance::SourceHash(ring) | Balance::QueryHash(ring, _) => {
                ring.pick(preference.place, eligible)
            }
        }
    }

    /// Counts an exchange that a server gets, where that matters to others.
    pub fn count(&self, member: &Member) -> Option<Active> {
        match self.shared.balance {
            Balance::LeastConnections => Some(Active::begin(&member.server)),
            Balance::RoundRobin | Balance::SourceHash(_) | Balance::QueryHash(..) => None,
        }
    }

    /// Closes the pools that are not among those of `next`, the same group as it is from now on.
    pub fn leave_to(&self, next: Option<&Self>) {
        for member in &self.members {
            let goes_on = next.is_some_and(|group| {
                let mut members = group.members.iter();
                members.any(|other| Rc::ptr_eq(&other.pool, &member.pool))
            });
            if !goes_on {
                member.pool.close();
                member.links.close();
            }
        }
    }

    /// Closes idle connections that are too old or were closed by their server.
    pub fn sweep(&self, now: Instant) {
        for member in &self.members {
            member.pool.sweep(now);
            member.links.sweep(now);
        }
    }
}
