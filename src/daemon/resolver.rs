//! Knows the addresses of servers that are reached by name, and asks for them again as they run out.
//!
//! A name that does not resolve keeps the addresses it had; without any, its server is one that nobody
//! can reach. It never keeps lockgate from starting, and is asked for again after a pause that doubles.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::read_system_conf;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::backend::group::Addresses;
use crate::config::defaults::{DNS_PORT, RESOLVER};
use crate::config::plan::ResolverPlan;

/// For how long a start or a reload waits for its new names.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How long one look-up may take: by all servers, under all names that a short one may stand for.
const LONGEST_LOOKUP: Duration = Duration::from_secs(10);
/// How long a DNS server may take to answer, and how often it is asked again then.
const QUERY_TIMEOUT: Duration = Duration::from_secs(1);
const QUERY_REPEATS: usize = 2;
/// Bounds of the time that addresses hold, whatever their TTL says.
const SHORTEST_TTL: Duration = Duration::from_secs(1);
const LONGEST_TTL: Duration = Duration::from_secs(300);
/// How soon a name that did not resolve is asked for again at first; doubled with every further failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest time between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Addresses of one name that are taken.
const MOST_ADDRESSES: usize = 256;

/// The names of a generation's servers.
#[derive(Debug)]
pub struct Names {
    known: HashMap<String, Name>,
    addresses: Addresses,
    lookups: JoinSet<(String, Answer)>,
    plan: Arc<ResolverPlan>,
}

/// How a name stands.
#[derive(Debug)]
struct Name {
    next: Next,
    failures: u32,
}

/// When a name is asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It is being asked for.
    Now,
    /// Then.
    At(Instant),
}

/// What a look-up came to.
type Answer = Result<Found, LookupError>;

/// Why a name does not resolve.
#[derive(Debug)]
enum LookupError {
    /// No such name, no address, or no DNS server that answers.
    Refused(NetError),
    /// All of it took too long.
    Timeout,
    /// There is an answer, and no address in it.
    Nothing,
}

impl std::fmt::Display for LookupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::Timeout => f.write_str("not resolved in time"),
            Self::Nothing => f.write_str("the answer has no address"),
        }
    }
}

/// Addresses, and how long they hold.
#[derive(Debug)]
struct Found {
    addresses: Vec<IpAddr>,
    ttl: Duration,
}

/// Whether addresses are other than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Some,
    None,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            addresses: Addresses::new(),
            lookups: JoinSet::new(),
            plan: Arc::new(RESOLVER),
        }
    }
}

impl Names {
    /// What the names stand for now.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Asks for `hosts`, and waits until those that are new have been answered for once, but not for long.
    pub async fn learn(&mut self, hosts: HashSet<String>, plan: &ResolverPlan) {
        self.plan = Arc::new(plan.clone());
        let mut new = HashSet::new();
        let now = Instant::now();
        for host in hosts {
            match self.known.get_mut(&host) {
                Some(name) if name.next != Next::Now => name.next = Next::At(now),
                Some(_) => {}
                None => {
                    let name = Name {
                        next: Next::At(now),
                        failures: 0,
                    };
                    self.known.insert(host.clone(), name);
                    new.insert(host);
                }
            }
        }
        let answered = async {
            while !new.is_empty() {
                let (host, _) = self.next_answer().await;
                new.remove(&host);
            }
        };
        let _ = timeout(LONGEST_WAIT, answered).await;
    }

    /// Forgets all others, and asks by `plan` from now on.
    pub fn keep_only(&mut self, hosts: &HashSet<String>, plan: &ResolverPlan) {
        self.plan = Arc::new(plan.clone());
        self.known.retain(|host, _| hosts.contains(host));
        self.addresses.retain(|host, _| hosts.contains(host));
    }

    /// Waits until a name stands for other addresses than before.
    pub async fn changed(&mut self) {
        while self.next_answer().await.1 == News::None {}
    }

    /// Asks for every name whose time has come, and waits for the next answer.
    async fn next_answer(&mut self) -> (String, News) {
        loop {
            let now = Instant::now();
            let mut first = None;
            for (host, name) in &mut self.known {
                let Next::At(due) = name.next else { continue };
                if due <= now {
                    name.next = Next::Now;
                    let (host, plan) = (host.clone(), Arc::clone(&self.plan));
                    let known = self.addresses.get(&host).cloned().unwrap_or_default();
                    self.lookups.spawn(async move {
                        let answer = look_up(&plan, &host, &known).await;
                        (host, answer)
                    });
                } else {
                    first = Some(first.map_or(due, |first: Instant| first.min(due)));
                }
            }
            let due = async {
                match first {
                    Some(first) => sleep_until(first).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(Ok((host, answer))) = self.lookups.join_next() => {
                    let news = self.take(&host, answer);
                    return (host, news);
                }
                () = due => {}
            }
        }
    }

    fn take(&mut self, host: &str, answer: Answer) -> News {
        let Some(name) = self.known.get_mut(host) else {
            return News::None;
        };
        let now = Instant::now();
        match answer {
            Ok(mut found) => {
                name.failures = 0;
                name.next = Next::At(now + found.ttl);
                found.addresses.sort_unstable();
                found.addresses.dedup();
                found.addresses.truncate(MOST_ADDRESSES);
                if self.addresses.get(host) == Some(&found.addresses) {
                    return News::None;
                }
                tracing::info!(target: "lockgate::dns", name = host, addresses = ?found.addresses,
                    ttl = ?found.ttl, "resolved");
                self.addresses.insert(host.to_owned(), found.addresses);
                News::Some
            }
            Err(error) => {
                let pause = FIRST_PAUSE
                    .saturating_mul(1 << name.failures.min(8))
                    .min(LONGEST_PAUSE);
                name.next = Next::At(now + pause);
                name.failures = name.failures.saturating_add(1);
                let kept = self.addresses.get(host).map_or(0, Vec::len);
                if name.failures == 1 {
                    tracing::warn!(target: "lockgate::dns", name = host, %error, addresses_kept = kept,
                        "the name does not resolve");
                } else {
                    tracing::debug!(target: "lockgate::dns", name = host, %error, ?pause,
                        "the name still does not resolve");
                }
                News::None
            }
        }
    }
}

/// Looks up the addresses of a name that has had the `known` ones.
///
/// Each family is a query of its own, and an answer has both as long as one succeeds. A family that was known and
/// is not in it is asked for alone: only where DNS says that there is none is it gone.
async fn look_up(plan: &ResolverPlan, host: &str, known: &[IpAddr]) -> Answer {
    let mut found = ask(plan, host, LookupIpStrategy::Ipv4AndIpv6).await?;
    for (is_ipv4, only) in [
        (true, LookupIpStrategy::Ipv4Only),
        (false, LookupIpStrategy::Ipv6Only),
    ] {
        let is_of = |ip: &IpAddr| ip.is_ipv4() == is_ipv4;
        if !known.iter().any(is_of) || found.addresses.iter().any(is_of) {
            continue;
        }
        match ask(plan, host, only).await {
            Ok(more) => {
                found.addresses.extend(more.addresses);
                found.ttl = found.ttl.min(more.ttl);
            }
            Err(LookupError::Refused(error)) if error.is_no_records_found() => {}
            Err(error) => {
                tracing::debug!(target: "lockgate::dns", name = host, %error,
                    "half of the name does not resolve: the addresses of one family are kept");
                found.addresses.extend(known.iter().filter(|ip| is_of(ip)));
            }
        }
    }
    Ok(found)
}

/// Asks the DNS servers of `plan`, or the system's, which are looked up anew each time: they may change while
/// lockgate runs.
async fn ask(plan: &ResolverPlan, host: &str, families: LookupIpStrategy) -> Answer {
    let resolver = match plan {
        ResolverPlan::Servers(servers) => {
            let servers = servers.iter().copied().map(name_server).collect();
            build(
                ResolverConfig::from_name_servers(servers),
                ResolveHosts::Never,
                families,
            )
        }
        ResolverPlan::System => {
            let config = read_system_conf().map_or_else(|_| local_server(), |(config, _)| config);
            build(config, ResolveHosts::Always, families)
        }
    };
    let found = async { resolver?.lookup_ip(host).await };
    let found = timeout(LONGEST_LOOKUP, found)
        .await
        .map_err(|_| LookupError::Timeout)?
        .map_err(LookupError::Refused)?;
    let valid_until = Instant::from_std(found.valid_until());
    let ttl = valid_until.saturating_duration_since(Instant::now());
    let addresses: Vec<_> = found.iter().collect();
    if addresses.is_empty() {
        return Err(LookupError::Nothing);
    }
    Ok(Found {
        addresses,
        ttl: ttl.clamp(SHORTEST_TTL, LONGEST_TTL),
    })
}

fn build(
    config: ResolverConfig,
    hosts: ResolveHosts,
    families: LookupIpStrategy,
) -> Result<TokioResolver, NetError> {
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.timeout = QUERY_TIMEOUT;
    options.attempts = QUERY_REPEATS;
    options.use_hosts_file = hosts;
    options.ip_strategy = families;
    builder.build()
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

/// Where there is no /etc/resolv.conf, as for the C library.
fn local_server() -> ResolverConfig {
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT));
    ResolverConfig::from_name_servers(vec![name_server(local)])
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "app.internal";

    fn found(addresses: &[&str], ttl: u64) -> Answer {
        Ok(Found {
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            ttl: Duration::from_secs(ttl),
        })
    }

    fn names() -> Names {
        let mut names = Names::default();
        let name = Name {
            next: Next::Now,
            failures: 0,
        };
        names.known.insert(HOST.to_owned(), name);
        names
    }

    /// In how many seconds it is asked for again.
    fn due(names: &Names) -> u64 {
        match names.known[HOST].next {
            Next::At(due) => (due - Instant::now()).as_secs(),
            Next::Now => panic!("it is being asked for"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_hold_for_their_ttl_and_are_news_only_if_they_are_others() {
        let mut names = names();
        let both = ["10.0.0.2", "10.0.0.1"];
        assert_eq!(names.take(HOST, found(&both, 7)), News::Some);
        assert_eq!(due(&names), 7);
        // The order of answers means nothing, nor does who is named twice.
        let again = ["10.0.0.1", "10.0.0.2", "10.0.0.1"];
        assert_eq!(names.take(HOST, found(&again, 3)), News::None);
        assert_eq!(due(&names), 3);
        assert_eq!(names.take(HOST, found(&["10.0.0.1"], 3)), News::Some);
        assert_eq!(names.addresses()[HOST].len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_keep_the_addresses_and_double_the_pause_up_to_thirty_seconds() {
        let mut names = names();
        let failed = |names: &mut Names| {
            assert_eq!(names.take(HOST, Err(LookupError::Timeout)), News::None);
            due(names)
        };
        let pauses: Vec<u64> = (0..7).map(|_| failed(&mut names)).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert!(names.addresses().get(HOST).is_none());
        names.take(HOST, found(&["10.0.0.1"], 9));
        assert_eq!(failed(&mut names), 1);
        assert_eq!(names.addresses()[HOST].len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_has_so_many_addresses_and_no_more() {
        let mut names = names();
        let many = (0..=u16::MAX).map(|n| IpAddr::from(Ipv4Addr::from(u32::from(n))));
        let answer = Found {
            addresses: many.collect(),
            ttl: LONGEST_TTL,
        };
        names.take(HOST, Ok(answer));
        assert_eq!(names.addresses()[HOST].len(), MOST_ADDRESSES);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_longer_named_is_forgotten() {
        let mut names = names();
        names.take(HOST, found(&["10.0.0.1"], 9));
        names.keep_only(&HashSet::new(), &ResolverPlan::System);
        assert!(names.addresses().is_empty());
        // An answer may come late.
        assert_eq!(names.take(HOST, found(&["10.0.0.1"], 9)), News::None);
        assert!(names.addresses().is_empty());
    }

    #[tokio::test]
    async fn localhost_needs_no_dns_server() {
        let found = look_up(&ResolverPlan::System, "localhost", &[])
            .await
            .unwrap();
        assert!(found.addresses.iter().all(IpAddr::is_loopback));
        assert!(!found.addresses.is_empty());
    }
}
