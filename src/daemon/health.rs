//! Checks the health of servers, for all workers at once: one task for each server that is checked.
//!
//! A task lives as long as its server is checked in the same way, across reloads and whatever DNS says.
//! The next check begins `interval` after the one before has ended (alb.md 7.4).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep};

use super::generation::Generation;
use crate::addr::BackendAddr;
use crate::backend::check::{Verdict, check};
use crate::backend::group::SharedGroup;
use crate::backend::health::{Outcome, State};
use crate::backend::server::Server;
use crate::backend::tls::{BackendTls, Trust};
use crate::config::backend_tls::BackendName;
use crate::config::health::{CheckPlan, HealthCheckPlan, ProbePlan, Security};

/// The first checks of a generation are spread over its interval, but over no more than this.
const SPREAD: Duration = Duration::from_secs(2);

/// The checks that run.
#[derive(Debug, Default)]
pub struct Checks {
    /// By where their servers are in memory: each is held here, so no other comes there.
    running: HashMap<usize, Running>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Running {
    server: Arc<Server>,
    plan: CheckPlan,
    tls: Option<Arc<BackendTls>>,
    task: AbortHandle,
}

/// A server that is to be checked.
struct Wanted<'a> {
    group: &'a Arc<str>,
    server: &'a Arc<Server>,
    plan: &'a CheckPlan,
    /// How a check over TLS is secured.
    tls: Option<Arc<BackendTls>>,
}

impl Checks {
    /// Checks the servers of `generation`, which is published, and no others.
    pub fn follow(&mut self, generation: &Generation) {
        let mut wanted: HashMap<usize, Wanted<'_>> = wanted(generation)
            .map(|wanted| (Arc::as_ptr(wanted.server).addr(), wanted))
            .collect();
        self.running.retain(|place, running| {
            let goes_on = match wanted.get(place) {
                Some(wanted) if wanted.is_checked_by(running) => true,
                Some(_) => false,
                None => {
                    running.server.unchecked();
                    false
                }
            };
            if goes_on {
                wanted.remove(place);
            } else {
                running.task.abort();
            }
            goes_on
        });
        let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        for (place, (at, wanted)) in (0_u32..).zip(wanted) {
            let delay = wanted.plan.interval.min(SPREAD) * place / count.max(1);
            let (server, plan) = (Arc::clone(wanted.server), wanted.plan.clone());
            let group = Arc::clone(wanted.group);
            let tls = wanted.tls.clone();
            let task = self.tasks.spawn(async move {
                sleep(delay).await;
                watch(&group, &server, &plan, tls.as_deref()).await;
            });
            let running = Running {
                server: Arc::clone(wanted.server),
                plan: wanted.plan.clone(),
                tls: wanted.tls,
                task,
            };
            self.running.insert(at, running);
        }
        // What was aborted is over by now, or at the next time.
        while self.tasks.try_join_next().is_some() {}
    }
}

impl Wanted<'_> {
    fn is_checked_by(&self, running: &Running) -> bool {
        let is_same_tls = match (&self.tls, &running.tls) {
            (Some(tls), Some(before)) => tls.agrees_with(before),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        *self.plan == running.plan && is_same_tls
    }
}

/// How a group's checks over TLS are secured: as its connections, or without verifying anything.
fn tls(plan: &CheckPlan, group: &SharedGroup) -> Option<Arc<BackendTls>> {
    match &plan.probe {
        ProbePlan::Http(probe) if probe.security == Security::Tls => {
            let unverified = || BackendTls::new(BackendName::RequestHost, Trust::Anyone).ok();
            group.tls.clone().or_else(|| unverified().map(Arc::new))
        }
        ProbePlan::Http(_) | ProbePlan::Tcp | ProbePlan::Grpc(_) => None,
    }
}

/// Servers of groups with checks; not those of weight 0, and none without an address.
fn wanted(generation: &Generation) -> impl Iterator<Item = Wanted<'_>> {
    let groups = generation.plan.groups.iter().zip(&generation.groups);
    groups.flat_map(|(plan, group)| {
        let check = match &plan.health_check {
            HealthCheckPlan::On(plan) => Some(plan),
            HealthCheckPlan::Off => None,
        };
        let servers = group.servers.iter().zip(&group.weights);
        check.into_iter().flat_map(move |plan| {
            let tls = tls(plan, group);
            let asked = servers.clone().filter(|(server, weight)| {
                **weight > 0 && !matches!(server.endpoint(), BackendAddr::Name { .. })
            });
            asked.map(move |(server, _)| Wanted {
                group: &group.name,
                server,
                plan,
                tls: tls.clone(),
            })
        })
    })
}

/// Checks one server again and again.
async fn watch(group: &str, server: &Server, plan: &CheckPlan, tls: Option<&BackendTls>) {
    loop {
        let verdict = check(server, plan, tls).await;
        take(group, server, plan, &verdict);
        sleep(plan.interval).await;
    }
}

fn take(group: &str, server: &Server, plan: &CheckPlan, verdict: &Verdict) {
    let (outcome, reason, detail) = match verdict {
        Verdict::Passed => (Outcome::Passed, "passed", ""),
        Verdict::Failed(finding) => (
            Outcome::Failed,
            finding.reason.as_str(),
            finding.detail.as_str(),
        ),
        Verdict::Void(error) => {
            tracing::warn!(target: "lockgate::health", group, server = %server.endpoint(), %error,
                "a health check could not be made");
            return;
        }
    };
    let server_name = server.endpoint();
    let Some(from) = server.checked(outcome, plan.thresholds, Instant::now()) else {
        tracing::debug!(target: "lockgate::health", group, server = %server_name, reason, detail,
            "checked");
        return;
    };
    let (from, to) = (from.as_str(), server.health());
    match to {
        State::Unhealthy => {
            tracing::warn!(target: "lockgate::health", group, server = %server_name, from,
                to = to.as_str(), reason, detail, "a server is unhealthy: requests go elsewhere");
        }
        State::Healthy | State::Initial => {
            tracing::info!(target: "lockgate::health", group, server = %server_name, from,
                to = to.as_str(), reason, "a server is healthy");
        }
    }
}
