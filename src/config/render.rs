//! A plan as a configuration file: what is required, and what differs from the defaults.

use std::fmt::{Display, Write as _};
use std::path::Path;
use std::time::Duration;

use crate::config::defaults;
use crate::config::plan::{
    Algorithm, CertificatePlan, CertificateSource, CompressionPlan, CompressionSettings,
    ForwardedFor, GroupPlan, HeadersPlan, Http2, HttpsPlan, Keepalive, ListenAddress, ListenerPlan,
    ListenerProtocol, LogFormat, LogTarget, Plan, ServerEntry, ServerPlan, Switch, Timeouts,
    TlsPolicyPlan, UnknownLength, Workers,
};
use crate::config::value;

/// Writes a plan as TOML that means the same plan when it is read again.
///
/// A path that is not UTF-8 is written with replacement characters: TOML cannot hold it.
pub fn render_toml(plan: &Plan) -> String {
    let mut tables = Vec::new();
    server(&plan.server, &mut tables);
    plan.certificates
        .iter()
        .for_each(|plan| certificate(plan, &mut tables));
    plan.listeners
        .iter()
        .for_each(|listener_plan| listener(listener_plan, plan, &mut tables));
    plan.groups.iter().for_each(|plan| group(plan, &mut tables));
    let texts: Vec<String> = tables.into_iter().map(|table| table.text).collect();
    texts.join("\n")
}

/// A table's header and its lines.
struct Table {
    text: String,
    keys: usize,
}

impl Table {
    fn new(header: &str) -> Self {
        Self {
            text: format!("{header}\n"),
            keys: 0,
        }
    }

    fn key(&mut self, key: &str, value: impl Display) {
        self.keys += 1;
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{key} = {value}");
    }

    /// Writes a key unless its value is the default.
    fn changed<T: PartialEq>(
        &mut self,
        key: &str,
        value: &T,
        default: &T,
        show: impl Fn(&T) -> String,
    ) {
        if value != default {
            self.key(key, show(value));
        }
    }

    /// Adds the table to the others, if it says anything.
    fn unless_empty(self, tables: &mut Vec<Self>) {
        if self.keys > 0 {
            tables.push(self);
        }
    }
}

fn server(plan: &ServerPlan, tables: &mut Vec<Table>) {
    let default = defaults::server();
    let mut table = Table::new("[server]");
    table.changed(
        "workers",
        &plan.workers,
        &default.workers,
        |workers| match workers {
            Workers::Auto => string("auto"),
            Workers::Count(count) => count.to_string(),
        },
    );
    table.changed(
        "instance_id",
        &plan.instance_id,
        &default.instance_id,
        |id| string(id),
    );
    table.changed(
        "drain_timeout",
        &plan.drain_timeout,
        &default.drain_timeout,
        duration,
    );
    table.changed(
        "shutdown_delay",
        &plan.shutdown_delay,
        &default.shutdown_delay,
        duration,
    );
    table.unless_empty(tables);

    let mut table = Table::new("[server.access_log]");
    table.changed(
        "path",
        &plan.access_log.target,
        &default.access_log.target,
        |target| match target {
            LogTarget::Stdout => string("stdout"),
            LogTarget::Off => string("off"),
            LogTarget::File(file) => path(file),
        },
    );
    table.changed(
        "format",
        &plan.access_log.format,
        &default.access_log.format,
        log_format,
    );
    table.unless_empty(tables);

    let mut table = Table::new("[server.log]");
    table.changed("level", &plan.log.level, &default.log.level, |level| {
        string(level)
    });
    table.changed("format", &plan.log.format, &default.log.format, log_format);
    table.unless_empty(tables);
}

fn certificate(plan: &CertificatePlan, tables: &mut Vec<Table>) {
    let mut table = Table::new("[[certificate]]");
    table.key("name", string(&plan.name));
    match &plan.source {
        CertificateSource::Files { cert, key, .. } => {
            table.key("cert", path(cert));
            table.key("key", path(key));
        }
        CertificateSource::SelfSigned(names) => {
            table.key("self_signed", array(names.iter().map(|name| string(name))))
        }
    }
    tables.push(table);
}

fn listener(listener: &ListenerPlan, plan: &Plan, tables: &mut Vec<Table>) {
    let mut table = Table::new("[[listener]]");
    table.key("name", string(&listener.name));
    table.key("protocol", string(protocol(&listener.protocol)));
    table.changed(
        "address",
        &listener.address,
        &defaults::ADDRESS,
        |address| match address {
            ListenAddress::Any => string("::"),
            ListenAddress::Ip(address) => string(&address.to_string()),
        },
    );
    table.key("port", listener.port);
    if !listener.tags.is_empty() {
        let tags: Vec<String> = listener
            .tags
            .iter()
            .map(|(key, value)| format!("{} = {}", string(key), string(value)))
            .collect();
        table.key("tags", format!("{{ {} }}", tags.join(", ")));
    }
    match &listener.protocol {
        ListenerProtocol::Http => {}
        ListenerProtocol::Https(https) => https_keys(https, plan, &mut table),
    }
    timeouts(listener.timeouts, &mut table);
    table.key("server_group", string(&plan.group(listener.group).name));
    tables.push(table);
    compression(&listener.compression, tables);
    headers(listener.headers, tables);
}

fn protocol(protocol: &ListenerProtocol) -> &'static str {
    match protocol {
        ListenerProtocol::Http => "http",
        ListenerProtocol::Https(_) => "https",
    }
}

fn https_keys(https: &HttpsPlan, plan: &Plan, table: &mut Table) {
    table.key(
        "certificates",
        array(
            https
                .certificates
                .iter()
                .map(|id| string(&plan.certificate(*id).name)),
        ),
    );
    table.changed(
        "tls_policy",
        &https.tls_policy,
        &defaults::TLS_POLICY,
        |policy| match policy {
            TlsPolicyPlan::Strict12With13 => string(defaults::DEFAULT_TLS_POLICY),
        },
    );
    table.changed(
        "http2",
        &https.http2,
        &defaults::HTTP2,
        |http2| match http2 {
            Http2::Offered => "true".to_owned(),
            Http2::Off => "false".to_owned(),
        },
    );
}

fn timeouts(plan: Timeouts, table: &mut Table) {
    let default = defaults::timeouts();
    table.changed("idle_timeout", &plan.idle, &default.idle, duration);
    table.changed(
        "http2_idle_timeout",
        &plan.http2_idle,
        &default.http2_idle,
        duration,
    );
    table.changed("request_timeout", &plan.request, &default.request, duration);
    table.changed(
        "handshake_timeout",
        &plan.handshake,
        &default.handshake,
        duration,
    );
    table.changed("header_timeout", &plan.header, &default.header, duration);
    if plan.idle > defaults::IDLE_TIMEOUT.most || plan.request > defaults::REQUEST_TIMEOUT.most {
        table.key("extended_timeouts", true);
    }
}

fn compression(plan: &CompressionPlan, tables: &mut Vec<Table>) {
    let mut table = Table::new("[listener.compression]");
    match plan {
        CompressionPlan::Off => table.key("enabled", false),
        CompressionPlan::On(settings) => compression_settings(settings, &mut table),
    }
    table.unless_empty(tables);
}

fn compression_settings(plan: &CompressionSettings, table: &mut Table) {
    let default = defaults::compression();
    table.changed(
        "algorithms",
        &plan.algorithms,
        &default.algorithms,
        |algorithms| {
            array(algorithms.iter().map(|algorithm| match algorithm {
                Algorithm::Brotli => string("br"),
                Algorithm::Gzip => string("gzip"),
            }))
        },
    );
    table.changed(
        "min_length",
        &plan.min_length,
        &default.min_length,
        |length| length.to_string(),
    );
    table.changed(
        "gzip_level",
        &plan.gzip_level,
        &default.gzip_level,
        u8::to_string,
    );
    table.changed(
        "brotli_quality",
        &plan.brotli_quality,
        &default.brotli_quality,
        u8::to_string,
    );
    table.changed(
        "brotli_exclude_types",
        &plan.brotli_exclude_types,
        &default.brotli_exclude_types,
        |types| array(types.iter().map(|media_type| string(media_type))),
    );
    table.changed(
        "compress_unknown_length",
        &plan.unknown_length,
        &default.unknown_length,
        |length| match length {
            UnknownLength::Compress => "true".to_owned(),
            UnknownLength::Pass => "false".to_owned(),
        },
    );
}

fn headers(plan: HeadersPlan, tables: &mut Vec<Table>) {
    let default = defaults::HEADERS;
    let mut table = Table::new("[listener.headers]");
    table.changed(
        "x_forwarded_for",
        &plan.x_forwarded_for,
        &default.x_forwarded_for,
        |mode| {
            string(match mode {
                ForwardedFor::Append => "append",
                ForwardedFor::Remove => "remove",
                ForwardedFor::Keep => "keep",
            })
        },
    );
    for (key, value, default) in [
        (
            "x_forwarded_proto",
            plan.x_forwarded_proto,
            default.x_forwarded_proto,
        ),
        (
            "x_forwarded_port",
            plan.x_forwarded_port,
            default.x_forwarded_port,
        ),
        (
            "x_forwarded_host",
            plan.x_forwarded_host,
            default.x_forwarded_host,
        ),
        (
            "x_forwarded_client_srcport",
            plan.x_forwarded_client_srcport,
            default.x_forwarded_client_srcport,
        ),
        ("slb_id", plan.slb_id, default.slb_id),
    ] {
        table.changed(key, &value, &default, |switch| {
            (*switch == Switch::On).to_string()
        });
    }
    table.unless_empty(tables);
}

fn group(plan: &GroupPlan, tables: &mut Vec<Table>) {
    let mut table = Table::new("[[server_group]]");
    table.key("name", string(&plan.name));
    let servers: Vec<String> = plan
        .servers
        .iter()
        .map(|entry| format!("  {},\n", server_entry(entry)))
        .collect();
    table.key(
        "servers",
        if servers.is_empty() {
            "[]".to_owned()
        } else {
            format!("[\n{}]", servers.concat())
        },
    );
    match plan.keepalive {
        Keepalive::Off => table.key("keepalive", false),
        Keepalive::Idle(idle) => table.changed(
            "keepalive_idle",
            &idle,
            &defaults::KEEPALIVE_IDLE.default,
            duration,
        ),
    }
    table.changed(
        "connect_timeout",
        &plan.connect_timeout,
        &defaults::CONNECT_TIMEOUT.default,
        duration,
    );
    table.changed(
        "retries",
        &plan.retries,
        &defaults::RETRIES.default,
        u8::to_string,
    );
    tables.push(table);
}

fn server_entry(entry: &ServerEntry) -> String {
    let address = string(&entry.address.to_string());
    if entry.weight == defaults::WEIGHT.default {
        format!("{{ address = {address} }}")
    } else {
        format!("{{ address = {address}, weight = {} }}", entry.weight)
    }
}

fn log_format(format: &LogFormat) -> String {
    string(match format {
        LogFormat::Json => "json",
        LogFormat::Text => "text",
    })
}

/// Whole seconds as a number, anything finer with its unit.
fn duration(duration: &Duration) -> String {
    if duration.subsec_nanos() == 0 {
        duration.as_secs().to_string()
    } else {
        string(&value::show_duration(*duration))
    }
}

fn array(elements: impl Iterator<Item = String>) -> String {
    let elements: Vec<String> = elements.collect();
    format!("[{}]", elements.join(", "))
}

fn path(path: &Path) -> String {
    string(&path.to_string_lossy())
}

/// A TOML basic string.
fn string(text: &str) -> String {
    let mut written = String::with_capacity(text.len() + 2);
    written.push('"');
    for character in text.chars() {
        match character {
            '"' => written.push_str("\\\""),
            '\\' => written.push_str("\\\\"),
            control if control.is_control() => {
                // Writing to a string cannot fail.
                let _ = write!(written, "\\u{:04X}", u32::from(control));
            }
            plain => written.push(plain),
        }
    }
    written.push('"');
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::config::report::Colour;

    fn plan(text: &str) -> Plan {
        let (plan, report) = parse(Path::new("/etc/lockgate/lockgate.toml"), text, &|_| None);
        plan.unwrap_or_else(|| panic!("{}", report.render(Colour::Off)))
    }

    const EVERYTHING: &str = r#"
        [server]
        workers = 3
        instance_id = "alb-1"
        drain_timeout = "1500ms"
        shutdown_delay = 5
        access_log = { path = "log/access \"q\" \\ \u00e9.log", format = "text" }
        log = { level = "warn,lockgate=debug", format = "json" }
        [[certificate]]
        name = "site"
        cert = "site.crt"
        key = "/etc/ssl/site.key"
        [[certificate]]
        name = "demo"
        self_signed = ["LocalHost", "*.demo.test", "::1"]
        [[listener]]
        name = "web"
        protocol = "https"
        address = "::1"
        port = 8443
        tags = { env = "prod", "two words" = "" }
        certificates = ["demo", "site"]
        http2 = false
        idle_timeout = 3600
        http2_idle_timeout = 200
        request_timeout = "90s"
        handshake_timeout = 11
        header_timeout = "1m 500ms"
        extended_timeouts = true
        server_group = "app"
        [listener.compression]
        algorithms = ["gzip"]
        min_length = 2000
        gzip_level = 9
        brotli_quality = 0
        brotli_exclude_types = ["Image/*"]
        compress_unknown_length = true
        [listener.headers]
        x_forwarded_for = "keep"
        x_forwarded_proto = true
        x_forwarded_port = true
        x_forwarded_host = true
        x_forwarded_client_srcport = true
        slb_id = true
        [[listener]]
        name = "plain"
        protocol = "http"
        port = 80
        server_group = "idle"
        compression.enabled = false
        [[server_group]]
        name = "app"
        servers = [{ address = "10.0.0.11:80", weight = 50 }, { address = "unix:app.sock" }, { address = "App:80" }]
        keepalive_idle = 10
        connect_timeout = "250ms"
        retries = 0
        [[server_group]]
        name = "idle"
        servers = []
        keepalive = false
    "#;

    #[test]
    fn a_rendered_plan_means_the_same_plan() {
        let everything = plan(EVERYTHING);
        assert_eq!(plan(&render_toml(&everything)), everything);
    }

    #[test]
    fn defaults_are_not_written() {
        let text = r#"[[listener]]
name = "plain"
protocol = "http"
port = 80
server_group = "app"

[[server_group]]
name = "app"
servers = [
  { address = "127.0.0.1:8080" },
]
"#;
        assert_eq!(render_toml(&plan(text)), text);
    }
}
