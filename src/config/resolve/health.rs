//! `[server_group.health_check]`

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;

use http::{HeaderValue, Method};

use super::{Resolver, switch};
use crate::addr::BackendAddr;
use crate::config::defaults;
use crate::config::document::{Field, HealthCheckDocument, Written};
use crate::config::health::{
    CheckHost, CheckPlan, GrpcProbe, HealthCheckPlan, HttpProbe, HttpVersion, ProbePlan, Security,
    StatusClass, Thresholds,
};
use crate::config::plan::{GroupProtocol, Origin, ServerEntry, Switch};
use crate::config::value::{self, ValueError};

/// `protocol` of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum CheckProtocol {
    /// `tcp`
    Tcp,
    /// `http`
    Http,
    /// `https`
    Https,
    /// `grpc`
    Grpc,
}

impl Resolver<'_> {
    /// How a group's servers are checked; `None` if that has mistakes. An absent table means that they are not.
    pub(super) fn health_check(
        &mut self,
        written: Option<&HealthCheckDocument>,
        servers: &[ServerEntry],
    ) -> Option<HealthCheckPlan> {
        let Some(written) = written else {
            return Some(HealthCheckPlan::Off);
        };
        let thresholds = Thresholds {
            healthy: self.number(
                "healthy_threshold",
                &written.healthy_threshold,
                defaults::HEALTHY_THRESHOLD,
            ),
            unhealthy: self.number(
                "unhealthy_threshold",
                &written.unhealthy_threshold,
                defaults::UNHEALTHY_THRESHOLD,
            ),
        };
        let plan = CheckPlan {
            interval: self.duration("interval", &written.interval, defaults::CHECK_INTERVAL),
            timeout: self.duration("timeout", &written.timeout, defaults::CHECK_TIMEOUT),
            thresholds,
            port: self.check_port(&written.port, servers),
            probe: self.probe(written)?,
        };
        Some(match switch(&written.enabled, defaults::HEALTH_CHECK) {
            Switch::On => HealthCheckPlan::On(plan),
            Switch::Off => HealthCheckPlan::Off,
        })
    }

    /// A check in plain HTTP/1.1, on the port where a server speaks something else, is taken with a warning.
    pub(super) fn warn_of_foreign_check(
        &mut self,
        written: Option<&HealthCheckDocument>,
        plan: &HealthCheckPlan,
        protocol: GroupProtocol,
    ) {
        let (Some(written), HealthCheckPlan::On(plan)) = (written, plan) else {
            return;
        };
        let (word, speak) = match protocol {
            GroupProtocol::Http => return,
            GroupProtocol::Https => ("https", "TLS"),
            GroupProtocol::Grpc => ("grpc", "HTTP/2"),
        };
        let is_plain =
            matches!(&plan.probe, ProbePlan::Http(probe) if probe.security == Security::Plain);
        if plan.port.is_none() && is_plain {
            let origin = origin(&written.protocol).unwrap_or(&written.origin);
            let message = format!("servers that speak {speak} are checked in plain HTTP/1.1");
            self.report
                .warning(origin, message)
                .label("most will be found unhealthy")
                .help(format!(
                    "say `protocol = \"{word}\"` in the table, or name another `port`"
                ));
        }
    }

    fn check_port(&mut self, field: &Field<i64>, servers: &[ServerEntry]) -> Option<NonZeroU16> {
        let port = NonZeroU16::new(self.number("port", field, defaults::CHECK_PORT))?;
        let mut servers = servers.iter();
        if let Some(written) = field.given()
            && let Some(socket) = servers.find(|s| matches!(s.address, BackendAddr::Unix(_)))
        {
            self.report
                .error(&written.origin, "a unix socket has no port to check")
                .also(&socket.origin, "the server")
                .help("leave `port` out: a server is checked where it serves");
        }
        Some(port)
    }

    fn probe(&mut self, written: &HealthCheckDocument) -> Option<ProbePlan> {
        let words = [
            ("http", Some(CheckProtocol::Http)),
            ("https", Some(CheckProtocol::Https)),
            ("tcp", Some(CheckProtocol::Tcp)),
            ("grpc", Some(CheckProtocol::Grpc)),
        ];
        let protocol = match &written.protocol {
            Field::Absent => defaults::CHECK_PROTOCOL,
            Field::Wrong => return None,
            Field::Given(protocol) => self.choice("protocol", protocol, &words)?,
        };
        match protocol {
            CheckProtocol::Tcp => {
                self.refuse_http_keys(written);
                Some(ProbePlan::Tcp)
            }
            CheckProtocol::Http | CheckProtocol::Https => Some(ProbePlan::Http(HttpProbe {
                security: match protocol {
                    CheckProtocol::Https => Security::Tls,
                    CheckProtocol::Http | CheckProtocol::Tcp | CheckProtocol::Grpc => {
                        Security::Plain
                    }
                },
                method: self.check_method(&written.method)?,
                version: self.check_version(&written.http_version)?,
                path: self.check_path(&written.path)?,
                host: self.check_host(&written.host)?,
                codes: self.status_classes(&written.codes)?,
            })),
            CheckProtocol::Grpc => {
                self.refuse_keys(
                    "grpc",
                    [
                        ("method", origin(&written.method)),
                        ("http_version", origin(&written.http_version)),
                    ],
                );
                let path = self.check_path(&written.path)?;
                Some(ProbePlan::Grpc(GrpcProbe {
                    service: path.trim_start_matches('/').to_owned(),
                    host: self.check_host(&written.host)?,
                    codes: self.grpc_codes(&written.codes)?,
                }))
            }
        }
    }

    /// Reports what a TCP check cannot have.
    fn refuse_http_keys(&mut self, written: &HealthCheckDocument) {
        self.refuse_keys(
            "tcp",
            [
                ("method", origin(&written.method)),
                ("http_version", origin(&written.http_version)),
                ("path", origin(&written.path)),
                ("host", origin(&written.host)),
                ("codes", origin(&written.codes)),
            ],
        );
    }

    fn refuse_keys<const N: usize>(&mut self, protocol: &str, keys: [(&str, Option<&Origin>); N]) {
        for (key, origin) in keys {
            if let Some(origin) = origin {
                self.report
                    .error(origin, format!("`{key}` is not for a `{protocol}` check"))
                    .help("leave it out");
            }
        }
    }

    fn check_method(&mut self, field: &Field<String>) -> Option<Method> {
        let words = [("HEAD", Some(Method::HEAD)), ("GET", Some(Method::GET))];
        match field {
            Field::Absent => Some(defaults::CHECK_METHOD),
            Field::Wrong => None,
            Field::Given(written) => self.choice("method", written, &words),
        }
    }

    fn check_version(&mut self, field: &Field<String>) -> Option<HttpVersion> {
        let words = [
            ("HTTP/1.1", Some(HttpVersion::Http11)),
            ("HTTP/1.0", Some(HttpVersion::Http10)),
        ];
        match field {
            Field::Absent => Some(defaults::CHECK_VERSION),
            Field::Wrong => None,
            Field::Given(written) => self.choice("http_version", written, &words),
        }
    }

    fn check_path(&mut self, field: &Field<String>) -> Option<String> {
        match field {
            Field::Absent => Some(defaults::CHECK_PATH.to_owned()),
            Field::Wrong => None,
            Field::Given(written) => self.string_at("path", written, check_path),
        }
    }

    fn check_host(&mut self, field: &Field<String>) -> Option<CheckHost> {
        match field {
            Field::Absent => Some(defaults::CHECK_HOST),
            Field::Wrong => None,
            Field::Given(written) => self.string_at("host", written, |text| check_host(&text)),
        }
    }

    fn status_classes(&mut self, field: &Field<Vec<Written<String>>>) -> Option<Vec<StatusClass>> {
        let words = [
            ("http_2xx", Some(StatusClass::Successful)),
            ("http_3xx", Some(StatusClass::Redirection)),
            ("http_4xx", Some(StatusClass::ClientError)),
            ("http_5xx", Some(StatusClass::ServerError)),
        ];
        let Some(list) = self.codes(field)? else {
            return Some(defaults::CHECK_CODES.to_vec());
        };
        let classes = list.value.iter();
        let classes = classes.map(|word| self.choice("codes", word, &words));
        classes.collect::<Vec<_>>().into_iter().collect()
    }

    fn grpc_codes(
        &mut self,
        field: &Field<Vec<Written<String>>>,
    ) -> Option<Vec<RangeInclusive<u8>>> {
        let Some(list) = self.codes(field)? else {
            return Some(defaults::CHECK_GRPC_CODES.to_vec());
        };
        if list.value.len() > defaults::MOST_GRPC_CODES {
            let message = format!("`codes` has {} entries", list.value.len());
            self.report
                .error(&list.origin, message)
                .label(format!("at most {}", defaults::MOST_GRPC_CODES))
                .help("join them to ranges, such as `\"0-12\"`");
            return None;
        }
        let ranges = list.value.iter();
        let ranges = ranges.map(|range| self.string_at("codes", range, |text| grpc_codes(&text)));
        ranges.collect::<Vec<_>>().into_iter().collect()
    }

    /// The written codes, `None` in it for the default; an empty list would take no answer.
    #[expect(clippy::option_option, reason = "a mistake, or nothing written")]
    fn codes<'f>(
        &mut self,
        field: &'f Field<Vec<Written<String>>>,
    ) -> Option<Option<&'f Written<Vec<Written<String>>>>> {
        match field {
            Field::Absent => Some(None),
            Field::Wrong => None,
            Field::Given(list) if list.value.is_empty() => {
                self.report
                    .error(&list.origin, "`codes` is empty")
                    .label("no answer would do")
                    .help("leave it out for the default");
                None
            }
            Field::Given(list) => Some(Some(list)),
        }
    }
}

fn origin<T>(field: &Field<T>) -> Option<&Origin> {
    field.given().map(|written| &written.origin)
}

/// The path of a health check, with its query (alb.md 7.4).
fn check_path(value: String) -> Result<String, ValueError> {
    let value = value::text(value, 1, defaults::CHECK_TEXT_LENGTH)?;
    let is_allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-/.%?#&=_;~!()*[]@$^:',+".contains(&byte);
    if value.starts_with('/') && value.bytes().all(is_allowed) {
        Ok(value)
    } else {
        Err(ValueError::CheckPath(value))
    }
}

/// The Host of a health check: `$SERVER_IP`, a host name or an IP address.
fn check_host(value: &str) -> Result<CheckHost, ValueError> {
    if value == "$SERVER_IP" {
        return Ok(CheckHost::ServerIp);
    }
    let value = value::text(value.to_owned(), 1, defaults::CHECK_TEXT_LENGTH)?;
    let name = match value.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => ip.to_string(),
        Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
        Err(_) => value::host_name(&value)?,
    };
    match HeaderValue::try_from(name) {
        Ok(name) => Ok(CheckHost::Name(name)),
        Err(_) => Err(ValueError::HostName(value)),
    }
}

/// gRPC statuses: one, or a range.
fn grpc_codes(value: &str) -> Result<RangeInclusive<u8>, ValueError> {
    let refused = || ValueError::GrpcCode(value.to_owned());
    let (first, last) = value.split_once('-').unwrap_or((value, value));
    let code = |text: &str| {
        let is_number = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| text.parse::<u8>().ok()).flatten()
    };
    match (code(first), code(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        (Some(_) | None, Some(_) | None) => Err(refused()),
    }
}
