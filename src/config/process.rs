//! What was meant of the process as a whole: `[server]`, a part of the plan.

use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use crate::config::plan::Origin;

/// `[server]`
#[derive(Clone, Debug, PartialEq)]
pub struct ServerPlan {
    /// `workers`
    pub workers: Workers,
    /// `instance_id`: the value of SLB-ID; the host name where absent.
    pub instance_id: String,
    /// `drain_timeout`
    pub drain_timeout: Duration,
    /// `shutdown_delay`
    pub shutdown_delay: Duration,
    /// `secret_file`
    pub secret: SecretPlan,
    /// `resolver`
    pub resolver: ResolverPlan,
    /// `max_connections`: of all clients; `None`: as many as the process may have descriptors for.
    pub max_connections: Option<NonZeroU64>,
    /// `max_connections_per_ip`: of the TCP peers of one IPv4 address or one IPv6 /64; `None`: no limit.
    pub max_connections_per_ip: Option<NonZeroU64>,
    /// `[server.access_log]`
    pub access_log: AccessLogPlan,
    /// `[server.log]`
    pub log: LogPlan,
}

/// `resolver`: who is asked for the addresses of servers' names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolverPlan {
    /// Whom the system asks: /etc/hosts, then the DNS servers of /etc/resolv.conf.
    System,
    /// These DNS servers, and nobody else; never empty.
    Servers(Vec<SocketAddr>),
}

/// `secret_file`: what keys derive from.
#[derive(Clone, Debug, PartialEq)]
pub enum SecretPlan {
    /// Nothing: they are random, and this process's own.
    Own,
    /// A file that replicas share.
    File {
        /// The file.
        path: PathBuf,
        /// Where it was written.
        origin: Origin,
    },
}

/// How many serving threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// As many as the process may use CPUs.
    Auto,
    /// Exactly so many.
    Count(NonZeroUsize),
}

/// `[server.access_log]`
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLogPlan {
    /// `path`
    pub target: LogTarget,
    /// `format`
    pub format: LogFormat,
}

/// Where access log lines go.
#[derive(Clone, Debug, PartialEq)]
pub enum LogTarget {
    /// Standard output.
    Stdout,
    /// Nowhere.
    Off,
    /// A file, appended to and reopened on SIGHUP.
    File(PathBuf),
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// `[server.log]`
#[derive(Clone, Debug, PartialEq)]
pub struct LogPlan {
    /// `level`: a tracing filter, already known to parse.
    pub level: String,
    /// `format`
    pub format: LogFormat,
}
