//! Everything one listener needs while it runs, and what a worker serves it from.
//!
//! A `Listener` belongs to a generation and is shared by all workers. `Live` is one worker's view of
//! the whole generation, with its own connections to backends; `Current` is the one to use now.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::addr::{ClientAddr, ClientIp};
use crate::backend::group::{Group, SharedGroup};
use crate::backend::http1::upload::CleanTrailers;
use crate::config::client::ClientIpPlan;
use crate::config::plan::{GroupId, ListenAddress, ListenerPlan, ListenerProtocol, Switch};
use crate::config::rule::{RequestRule, ResponseRule, RuleId};
use crate::failure::Failure;
use crate::route::limit::{Limiter, Sketch};
use crate::route::response::ResponseRouter;
use crate::route::router::{self, Routed, Router};
use crate::scheme::Scheme;
use crate::task::Spawn;
use crate::tls::{ListenerTls, Terms};
use crate::transform::client_ip;
use crate::transform::forwarded::ForwardedHeaders;
use crate::transform::hop_by_hop;
use crate::transform::loops::{LoopGuard, Place};
use crate::transform::request_id::Sender;

/// What makes a listener the same one across reloads: where it listens, and for what protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerKey {
    address: ListenAddress,
    port: u16,
    scheme: Scheme,
}

impl ListenerKey {
    /// The key of a planned listener.
    pub fn of(plan: &ListenerPlan) -> Self {
        Self {
            address: plan.address,
            port: plan.port,
            scheme: match plan.protocol {
                ListenerProtocol::Http => Scheme::Http,
                ListenerProtocol::Https(_) => Scheme::Https,
            },
        }
    }

    /// How its clients reach it.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// A listener.
#[derive(Debug)]
pub struct Listener {
    /// What it is across reloads.
    pub key: ListenerKey,
    /// What it was meant to be.
    pub plan: ListenerPlan,
    /// Its name.
    pub name: Arc<str>,
    /// What its requests are given on their way.
    pub forwarded: ForwardedHeaders,
    /// Which rule takes a request.
    pub router: Router,
    /// Which rule an answer is for.
    response_router: ResponseRouter,
    /// How many requests rules take: for each rule, and last for the default; absent where none has a limit.
    limiters: Option<Box<[Option<Limiter>]>>,
    /// What finds requests that come by again, if that is wanted: for each rule, and last for the default.
    loops: Option<Box<[LoopGuard]>>,
    own_names: Option<Arc<[HeaderName]>>,
    /// How its connections are secured, if they are.
    pub tls: Option<ListenerTls>,
}

impl Listener {
    /// A listener as planned, secured by `tls`; `previous` is the one of that name as it was.
    pub fn new(
        plan: ListenerPlan,
        previous: Option<&Self>,
        slb_id: HeaderValue,
        own_names: Option<Arc<[HeaderName]>>,
        tls: Option<ListenerTls>,
    ) -> Arc<Self> {
        let key = ListenerKey::of(&plan);
        let loops = match plan.loop_detection {
            Switch::On => Some(loop_guards(&plan, &slb_id)),
            Switch::Off => None,
        };
        Arc::new(Self {
            key,
            name: plan.name.as_str().into(),
            forwarded: ForwardedHeaders::new(plan.headers.clone(), key.scheme, plan.port, slb_id),
            own_names,
            router: Router::new(&plan.rules),
            response_router: ResponseRouter::new(&plan.rules.response),
            limiters: limiters(&plan, previous),
            plan,
            loops,
            tls,
        })
    }

    /// The rule that takes a request, by what was received; `host` has no port.
    pub fn route(
        &self,
        request: &Parts,
        host: Option<&str>,
        client: &dyn Fn() -> IpAddr,
    ) -> Routed {
        self.router.route(&asked(request, host, client))
    }

    /// The response rule for an answer, by what was sent to the backend; `host` has no port.
    pub fn response_rule(
        &self,
        (request, host, client): (&Parts, Option<&str>, IpAddr),
        status: StatusCode,
        answer: &HeaderMap,
    ) -> Option<&ResponseRule> {
        let client = || client;
        let asked = asked(request, host, &client);
        let at = self.response_router.first(&asked, status, answer)?;
        self.plan.rules.response.get(at)
    }

    /// How many requests a rule takes, if that is limited.
    pub fn limiter(&self, rule: RuleId) -> Option<&Limiter> {
        let limiters = self.limiters.as_ref()?;
        let at = usize::try_from(rule.0).ok();
        let limiter = at
            .and_then(|at| limiters.get(at))
            .or_else(|| limiters.last());
        limiter?.as_ref()
    }

    /// The limits that its rules have, by the rules' names.
    fn limiters_by_name(&self) -> HashMap<&str, &Limiter> {
        let limiters = self.limiters.iter().flatten();
        let named = all_rules(&self.plan).zip(limiters);
        named
            .filter_map(|(rule, limiter)| Some((rule.name.as_str(), limiter.as_ref()?)))
            .collect()
    }

    /// Leaves in a request that it has passed here, or says that it has before (alb.md 9.4).
    pub fn pass(&self, rule: RuleId, headers: &mut HeaderMap) -> Result<(), Failure> {
        let Some(loops) = &self.loops else {
            return Ok(());
        };
        let at = usize::try_from(rule.0).ok();
        let guard = at.and_then(|at| loops.get(at)).or_else(|| loops.last());
        guard.map_or(Ok(()), |guard| guard.pass(headers))
    }

    /// Names that users gave to headers of identity, on any listener of the generation: clients may not send
    /// them, and they are written as they stand.
    pub fn own_names(&self) -> &[HeaderName] {
        self.own_names.as_deref().unwrap_or_default()
    }

    /// What trailers of its clients go through.
    pub fn clean_trailers(&self) -> CleanTrailers {
        CleanTrailers {
            clean: hop_by_hop::clean_request_trailers,
            own_names: self.own_names.clone(),
        }
    }

    /// What its connections are admitted under: whoever was admitted under other terms is not served by it.
    pub fn terms(&self) -> Option<&Terms> {
        self.tls.as_ref().map(|tls| &tls.terms)
    }

    /// Whether the last hop is one of the proxies in front.
    pub fn sender(&self, client: ClientAddr) -> Sender {
        match &self.plan.client_ip {
            ClientIpPlan::Retrieved(settings) if settings.trusted.has(client.ip()) => {
                Sender::Trusted
            }
            ClientIpPlan::Retrieved(_) | ClientIpPlan::LastHop => Sender::Unknown,
        }
    }

    /// The field that names the client, where one is believed.
    pub fn client_header(&self) -> Option<&HeaderName> {
        match &self.plan.client_ip {
            ClientIpPlan::Retrieved(settings) => Some(&settings.header),
            ClientIpPlan::LastHop => None,
        }
    }

    /// Whom a request is attributed to; asked before its fields are changed.
    pub fn client_ip(&self, headers: &HeaderMap, client: ClientAddr) -> ClientIp {
        match &self.plan.client_ip {
            ClientIpPlan::LastHop => ClientIp::last_hop(client),
            ClientIpPlan::Retrieved(settings) => client_ip::retrieve(settings, headers, client),
        }
    }
}

/// What finds requests that come by again: for each rule, and last for the default.
fn loop_guards(plan: &ListenerPlan, slb_id: &HeaderValue) -> Box<[LoopGuard]> {
    let guard = |rule: &RequestRule| {
        LoopGuard::new(Place {
            instance_id: slb_id.as_bytes(),
            listener: &plan.name,
            port: plan.port,
            rule: &rule.name,
        })
    };
    all_rules(plan).map(guard).collect()
}

/// What conditions look at.
fn asked<'a>(
    request: &'a Parts,
    host: Option<&'a str>,
    client: &'a dyn Fn() -> IpAddr,
) -> router::Request<'a> {
    router::Request {
        host: host.unwrap_or_default(),
        path: request.uri.path(),
        query: request.uri.query(),
        // A WebSocket over HTTP/2 is asked for as over HTTP/1.1.
        method: match &request.method {
            &Method::CONNECT => &Method::GET,
            method => method,
        },
        headers: &request.headers,
        client,
    }
}

/// How many requests rules take; what counted in the listener before goes on to count, by the rules' names.
fn limiters(plan: &ListenerPlan, previous: Option<&Listener>) -> Option<Box<[Option<Limiter>]>> {
    if all_rules(plan).all(|rule| rule.traffic_limit.is_none()) {
        return None;
    }
    let before = previous.map(Listener::limiters_by_name).unwrap_or_default();
    let sketch = before.values().find_map(|limiter| limiter.sketch());
    let new = OnceCell::new();
    let limiter = |rule: &RequestRule| {
        let limit = rule.traffic_limit?;
        let name = rule.name.as_str();
        let sketch = limit.per_ip_qps.map(|_| {
            let sketch = sketch.unwrap_or_else(|| new.get_or_init(Arc::<Sketch>::default));
            Arc::clone(sketch)
        });
        Some(Limiter::new(limit, name, before.get(name).copied(), sketch))
    };
    Some(all_rules(plan).map(limiter).collect())
}

/// A listener's request rules, and last the default.
fn all_rules(plan: &ListenerPlan) -> impl Iterator<Item = &RequestRule> {
    let rules = plan.rules.request.iter();
    rules.chain([&plan.rules.default])
}

/// A generation, as one worker serves it.
#[derive(Debug)]
pub struct Live {
    /// Its listeners.
    pub listeners: Vec<Arc<Listener>>,
    groups: Vec<Rc<Group>>,
}

impl Live {
    /// A worker's view of these listeners and groups; what `previous` has of the same groups is carried over.
    pub fn new(
        listeners: Vec<Arc<Listener>>,
        groups: &[Arc<SharedGroup>],
        worker: usize,
        previous: Option<&Self>,
        spawn: Spawn,
    ) -> Rc<Self> {
        let groups = groups
            .iter()
            .map(|shared| {
                let same = previous.and_then(|live| live.group_named(&shared.name));
                Rc::new(Group::new(Arc::clone(shared), worker, same, spawn))
            })
            .collect();
        Rc::new(Self { listeners, groups })
    }

    /// The listener that a key stands for, unless it is gone.
    pub fn listener(&self, key: ListenerKey) -> Option<&Arc<Listener>> {
        self.listeners.iter().find(|listener| listener.key == key)
    }

    /// A group of this generation's plan.
    #[expect(
        clippy::indexing_slicing,
        reason = "ids are indices into this plan's groups, kept in its order"
    )]
    pub fn group(&self, id: GroupId) -> &Rc<Group> {
        &self.groups[id.0]
    }

    /// The group of that name.
    pub fn group_named(&self, name: &str) -> Option<&Group> {
        self.groups
            .iter()
            .find(|group| &*group.shared.name == name)
            .map(Rc::as_ref)
    }

    /// All groups.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().map(Rc::as_ref)
    }
}

/// What a worker serves from at this moment.
#[derive(Debug)]
pub struct Current(RefCell<Rc<Live>>);

impl Current {
    /// Begins with `live`.
    pub fn new(live: Rc<Live>) -> Self {
        Self(RefCell::new(live))
    }

    /// What to serve from.
    pub fn get(&self) -> Rc<Live> {
        Rc::clone(&self.0.borrow())
    }

    /// From now on, everything new is served from `live`.
    pub fn set(&self, live: Rc<Live>) {
        *self.0.borrow_mut() = live;
    }
}
