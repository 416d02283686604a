//! `[server]`

use std::num::{NonZeroU64, NonZeroUsize};

use super::Resolver;
use crate::config::defaults;
use crate::config::document::{Field, Quantity, ServerDocument, Written};
use crate::config::plan::{
    AccessLogPlan, LogFormat, LogPlan, LogTarget, ResolverPlan, SecretPlan, ServerPlan, Workers,
};
use crate::config::value;

impl Resolver<'_> {
    /// The process; an absent table means its defaults.
    pub(super) fn server(&mut self, written: Option<&ServerDocument>) -> ServerPlan {
        let Some(written) = written else {
            return defaults::server();
        };
        ServerPlan {
            workers: self.workers(&written.workers),
            instance_id: self
                .string("instance_id", &written.instance_id, value::header_value)
                .unwrap_or_else(defaults::instance_id),
            drain_timeout: self.duration(
                "drain_timeout",
                &written.drain_timeout,
                defaults::DRAIN_TIMEOUT,
            ),
            shutdown_delay: self.duration(
                "shutdown_delay",
                &written.shutdown_delay,
                defaults::SHUTDOWN_DELAY,
            ),
            secret: self.secret(&written.secret_file),
            resolver: self.resolver(&written.resolver),
            max_connections: NonZeroU64::new(self.number(
                "max_connections",
                &written.max_connections,
                defaults::MAX_CONNECTIONS,
            )),
            max_connections_per_ip: NonZeroU64::new(self.number(
                "max_connections_per_ip",
                &written.max_connections_per_ip,
                defaults::MAX_CONNECTIONS_PER_IP,
            )),
            access_log: AccessLogPlan {
                target: self
                    .log_target(&written.access_log_path)
                    .unwrap_or(defaults::ACCESS_LOG_TARGET),
                format: self
                    .log_format(&written.access_log_format)
                    .unwrap_or(defaults::ACCESS_LOG_FORMAT),
            },
            log: LogPlan {
                level: self
                    .string("level", &written.log_level, value::log_filter)
                    .unwrap_or_else(|| defaults::LOG_LEVEL.to_owned()),
                format: self
                    .log_format(&written.log_format)
                    .unwrap_or(defaults::LOG_FORMAT),
            },
        }
    }

    fn workers(&mut self, field: &Field<Quantity>) -> Workers {
        let Some(written) = field.given() else {
            return defaults::WORKERS;
        };
        let number = match &written.value {
            Quantity::Text(text) if text == "auto" => return Workers::Auto,
            Quantity::Text(text) => {
                let message = format!("`workers`: unknown value `{}`", text.escape_debug());
                self.report
                    .error(&written.origin, message)
                    .label("expected `\"auto\"` or a number");
                return defaults::WORKERS;
            }
            Quantity::Number(number) => *number,
        };
        match value::number(number, defaults::WORKER_COUNT) {
            Ok(count) => usize::try_from(count)
                .ok()
                .and_then(NonZeroUsize::new)
                .map_or(Workers::Auto, Workers::Count),
            Err(error) => {
                self.refuse("workers", &written.origin, &error)
                    .help("`\"auto\"` is one for each CPU");
                defaults::WORKERS
            }
        }
    }

    fn resolver(&mut self, field: &Field<Vec<Written<String>>>) -> ResolverPlan {
        let servers = self.strings("resolver", field, |text| value::dns_server(&text));
        if servers.is_empty() {
            defaults::RESOLVER
        } else {
            ResolverPlan::Servers(servers)
        }
    }

    fn secret(&mut self, field: &Field<String>) -> SecretPlan {
        let folder = self.folder.clone();
        let path = self.string("secret_file", field, |text| value::path(&text, &folder));
        match (path, field.given()) {
            (Some(path), Some(written)) => SecretPlan::File {
                path,
                origin: written.origin.clone(),
            },
            (None, _) | (_, None) => defaults::SECRET,
        }
    }

    fn log_target(&mut self, field: &Field<String>) -> Option<LogTarget> {
        let folder = self.folder.clone();
        self.string("path", field, |text| match text.as_str() {
            "stdout" => Ok(LogTarget::Stdout),
            "off" => Ok(LogTarget::Off),
            path => value::path(path, &folder).map(LogTarget::File),
        })
    }

    fn log_format(&mut self, field: &Field<String>) -> Option<LogFormat> {
        self.choice(
            "format",
            field.given()?,
            &[
                ("json", Some(LogFormat::Json)),
                ("text", Some(LogFormat::Text)),
            ],
        )
    }
}
