//! A health check of one server: one short connection, one question, one verdict (alb.md 7.4).
//!
//! What a server sends is bounded, and so is the time that it gets. Its answer is read as far as the verdict
//! needs, and the connection is closed.

mod grpc;
mod http;

use std::net::SocketAddr;

use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};

use super::connect::{BackendStream, ConnectError, reach};
use super::server::Server;
use super::tls::BackendTls;
use crate::addr::BackendAddr;
use crate::config::health::{CheckPlan, ProbePlan, Security};

/// What a check came to.
#[derive(Debug)]
pub enum Verdict {
    /// The server answered as it should.
    Passed,
    /// It did not.
    Failed(Finding),
    /// Nothing can be said of it: this process or machine lacked something.
    Void(std::io::Error),
}

/// What was wrong.
#[derive(Debug)]
pub struct Finding {
    /// In one word.
    pub reason: Reason,
    /// In some more.
    pub detail: String,
}

/// Why a check failed: the reasons that ALB gives (alb.md 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The connection was refused or broken off.
    ConnectFailed,
    /// There was no connection within the timeout.
    ConnectTimeout,
    /// The connection broke while the request was sent.
    SendRequestFailed,
    /// The request was not taken within the timeout.
    SendRequestTimeout,
    /// The connection ended before the answer.
    ReceiveResponseFailed,
    /// There was no answer within the timeout.
    ReceiveResponseTimeout,
    /// The answer breaks the rules of its protocol, or is too large.
    ResponseFormatError,
    /// The answer is another one than expected.
    ResponseMismatch,
}

impl Reason {
    /// The word for it in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::SendRequestFailed => "send_request_failed",
            Self::SendRequestTimeout => "send_request_timeout",
            Self::ReceiveResponseFailed => "recv_response_failed",
            Self::ReceiveResponseTimeout => "recv_response_timeout",
            Self::ResponseFormatError => "response_format_error",
            Self::ResponseMismatch => "response_mismatch",
        }
    }

    fn with(self, detail: impl std::fmt::Display) -> Finding {
        Finding {
            reason: self,
            detail: detail.to_string(),
        }
    }
}

/// Checks `server`, within the plan's timeout; a check over TLS is secured by `tls`.
pub async fn check(server: &Server, plan: &CheckPlan, tls: Option<&BackendTls>) -> Verdict {
    let deadline = Instant::now() + plan.timeout;
    let endpoint = endpoint(server.endpoint(), plan);
    let stream = match timeout_at(deadline, reach(&endpoint)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(ConnectError::Exhausted(error))) => return Verdict::Void(error),
        Ok(Err(error)) => return Verdict::Failed(Reason::ConnectFailed.with(error)),
        Err(_) => {
            return Verdict::Failed(Reason::ConnectTimeout.with("no connection within `timeout`"));
        }
    };
    let ip = match &endpoint {
        BackendAddr::Ip(address) => Some(address.ip()),
        BackendAddr::Unix(_) | BackendAddr::Name { .. } => None,
    };
    let outcome = match &plan.probe {
        ProbePlan::Tcp => Ok(()),
        ProbePlan::Http(probe) => {
            let host = probe.host.value(ip);
            let secured = match (probe.security, tls) {
                (Security::Tls, Some(tls)) => {
                    let asked = tls.asked(server, Some(&host));
                    secure(timeout_at(deadline, tls.secure(stream, &asked)).await)
                }
                (Security::Tls, None) | (Security::Plain, _) => Ok(stream),
            };
            match secured {
                Ok(stream) => http::ask(stream, probe, &host, deadline).await,
                Err(finding) => Err(finding),
            }
        }
        ProbePlan::Grpc(probe) => grpc::ask(stream, probe, &probe.host.value(ip), deadline).await,
    };
    match outcome {
        Ok(()) => Verdict::Passed,
        Err(finding) => Verdict::Failed(finding),
    }
}

/// What a handshake came to.
fn secure(
    handshake: Result<Result<BackendStream, ConnectError>, Elapsed>,
) -> Result<BackendStream, Finding> {
    match handshake {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(Reason::ConnectFailed.with(error)),
        Err(_) => Err(Reason::ConnectTimeout.with("no TLS handshake within `timeout`")),
    }
}

/// Where a server is checked.
fn endpoint(address: &BackendAddr, plan: &CheckPlan) -> BackendAddr {
    match (address, plan.port) {
        (BackendAddr::Ip(address), Some(port)) => {
            BackendAddr::Ip(SocketAddr::new(address.ip(), port.get()))
        }
        (BackendAddr::Ip(_) | BackendAddr::Name { .. } | BackendAddr::Unix(_), _) => {
            address.clone()
        }
    }
}
