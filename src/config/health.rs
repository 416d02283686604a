//! What was meant of health checks: `[server_group.health_check]`, a part of the plan (alb.md 7.4).

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::time::Duration;

use http::{HeaderValue, Method, StatusCode};

/// `[server_group.health_check]`
#[derive(Clone, Debug, PartialEq)]
pub enum HealthCheckPlan {
    /// There is no such table, or `enabled = false` in it: nobody asks.
    Off,
    /// Every server that takes requests is asked again and again.
    On(CheckPlan),
}

/// How servers are checked.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckPlan {
    /// `protocol`, with what only that protocol has
    pub probe: ProbePlan,
    /// `interval`: from the end of a check to the beginning of the next.
    pub interval: Duration,
    /// `timeout`: of a whole check.
    pub timeout: Duration,
    /// `healthy_threshold` and `unhealthy_threshold`
    pub thresholds: Thresholds,
    /// `port`; `None`: the server's own.
    pub port: Option<NonZeroU16>,
}

/// How many results in a row change what a server is held to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// `healthy_threshold`: successes that make it healthy.
    pub healthy: u8,
    /// `unhealthy_threshold`: failures that make it unhealthy.
    pub unhealthy: u8,
}

/// What a server is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum ProbePlan {
    /// It accepts a connection.
    Tcp,
    /// It answers an HTTP request.
    Http(HttpProbe),
    /// It answers a call of `grpc.health.v1.Health/Check`, over HTTP/2 in the clear.
    Grpc(GrpcProbe),
}

/// The request of an HTTP check, and the answers that are taken.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpProbe {
    /// `protocol`: in the clear or over TLS.
    pub security: Security,
    /// `method`: HEAD or GET.
    pub method: Method,
    /// `http_version`
    pub version: HttpVersion,
    /// `path`, with its query
    pub path: String,
    /// `host`
    pub host: CheckHost,
    /// `codes`: never empty.
    pub codes: Vec<StatusClass>,
}

/// The call of a gRPC check, and the answers that are taken.
#[derive(Clone, Debug, PartialEq)]
pub struct GrpcProbe {
    /// `path` without its first `/`: the service that is asked about; empty: the server as a whole.
    pub service: String,
    /// `host`
    pub host: CheckHost,
    /// `codes`: never empty. With status 0 the service must also be SERVING.
    pub codes: Vec<RangeInclusive<u8>>,
}

/// How a check's bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// As they are.
    Plain,
    /// Over TLS, secured as the group's connections are; where those are not, nothing is verified.
    Tls,
}

/// The version of an HTTP check's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// `HTTP/1.0`
    Http10,
    /// `HTTP/1.1`
    Http11,
}

/// `host` of a check.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckHost {
    /// `$SERVER_IP`: the address that the check connects to.
    ServerIp,
    /// This host name, or address.
    Name(HeaderValue),
}

impl CheckHost {
    /// The Host field of a check; a unix socket has no address.
    pub fn value(&self, ip: Option<IpAddr>) -> HeaderValue {
        let text = match (self, ip) {
            (Self::Name(name), _) => return name.clone(),
            (Self::ServerIp, Some(IpAddr::V4(ip))) => ip.to_string(),
            (Self::ServerIp, Some(IpAddr::V6(ip))) => format!("[{ip}]"),
            (Self::ServerIp, None) => "localhost".to_owned(),
        };
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("localhost"))
    }
}

/// A hundred statuses: one of `codes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusClass {
    /// `http_2xx`
    Successful,
    /// `http_3xx`
    Redirection,
    /// `http_4xx`
    ClientError,
    /// `http_5xx`
    ServerError,
}

impl StatusClass {
    /// Whether a status belongs to it.
    pub fn has(self, status: StatusCode) -> bool {
        match self {
            Self::Successful => status.is_success(),
            Self::Redirection => status.is_redirection(),
            Self::ClientError => status.is_client_error(),
            Self::ServerError => status.is_server_error(),
        }
    }
}
