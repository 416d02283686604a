//! Configuration in three tenses: the document (what was written), the plan (what was meant) and, in
//! `daemon::generation`, what runs.
//!
//! A file is read once and all its mistakes are reported together; a plan comes out only if there are none.

pub mod backend_tls;
pub mod balance;
pub mod client;
pub mod client_auth;
pub mod defaults;
pub mod health;
pub mod plan;
pub mod report;
pub mod rule;
pub mod tls_policy;

mod document;
mod keys;
mod process;
mod resolve;
mod suggest;
mod value;

use std::path::{Path, PathBuf};

use self::document::Document;
use self::plan::{Origin, Plan};
use self::report::Report;
use self::resolve::Resolver;
use crate::file::{self, ReadError};

/// The largest configuration file: no hand wrote more.
const LARGEST_FILE: u64 = 16 << 20;

/// Reads a configuration file; the plan is there if the report has no errors.
///
/// `environment` gives the values of environment variables.
pub fn load(path: &Path, environment: &dyn Fn(&str) -> Option<String>) -> (Option<Plan>, Report) {
    let flaw = match file::read(path, LARGEST_FILE) {
        Ok((bytes, _)) => match String::from_utf8(bytes) {
            Ok(text) => return parse(path, &text, environment),
            Err(error) => format!(
                "the file is not UTF-8 text: byte {} is wrong",
                error.utf8_error().valid_up_to() + 1
            ),
        },
        Err(ReadError::Unreadable(error)) => {
            format!("cannot read the file: {}", describe(&error))
        }
        Err(ReadError::NotAFile(_)) => "cannot read the file: it is not a regular file".to_owned(),
        Err(ReadError::TooLarge) => "cannot read the file: it is larger than 16 MiB".to_owned(),
    };
    let mut report = Report::new(path, "");
    report.error(&Origin::default(), flaw);
    (None, report)
}

/// Reads a configuration from its text; paths in it are relative to the folder of `file_name`.
pub fn parse(
    file_name: &Path,
    text: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> (Option<Plan>, Report) {
    let mut report = Report::new(file_name, text);
    let document = Document::read(text, &mut report);
    let completeness = document.completeness;
    let mut resolver = Resolver {
        report: &mut report,
        folder: folder_of(file_name),
        environment,
        completeness,
    };
    let plan = resolver.resolve(&document);
    report.forget_echoes(&document.doubtful);
    (plan, report)
}

/// The absolute path of the folder that a file is in.
fn folder_of(file_name: &Path) -> PathBuf {
    let folder = file_name
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned())
}

/// The system's reason, in lower case and without its number.
fn describe(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::report::Colour;

    fn plan(text: &str) -> Plan {
        let (plan, report) = parse(Path::new("/etc/lockgate/lockgate.toml"), text, &|_| None);
        assert!(report.is_empty(), "{}", report.render(Colour::Off));
        plan.unwrap()
    }

    #[test]
    fn the_file_with_every_key_means_the_defaults() {
        let bare = r#"
            [[certificate]]
            name = "site"
            self_signed = ["localhost", "127.0.0.1"]
            [[listener]]
            name = "web"
            protocol = "https"
            port = 443
            certificates = ["site"]
            server_group = "app"
            [[server_group]]
            name = "app"
            servers = [{ address = "127.0.0.1:8080" }]
        "#;
        assert_eq!(plan(include_str!("../../config/lockgate.toml")), plan(bare));
    }

    #[test]
    fn the_file_with_every_key_names_every_key_that_works() {
        let text = include_str!("../../config/lockgate.toml");
        for keys in keys::TABLES {
            for key in keys.works {
                let written = [format!("{key} = "), format!(".{key}]"), format!("[{key}]")];
                assert!(
                    written.iter().any(|written| text.contains(written)),
                    "{key}"
                );
            }
        }
    }

    #[test]
    fn the_minimal_file_loads() {
        let plan = plan(include_str!("../../config/minimal.toml"));
        assert_eq!(plan.listeners.len(), 1);
        assert_eq!(plan.groups.len(), 1);
    }

    #[test]
    fn values_that_ask_for_nothing_are_taken_though_their_keys_are_not_implemented() {
        plan(
            r#"
            [server]
            sandbox = "off"
            resolver = []
            watch = false
            [[listener]]
            name = "plain"
            protocol = "http"
            port = 80
            server_group = "app"
            headers = { tls_cipher = false, client_cert_rfc9440 = false }
            [[server_group]]
            name = "app"
            protocol = "http"
            scheduler = "wrr"
            servers = [{ address = "127.0.0.1:8080" }]
            sticky_session = { enabled = false, type = "insert" }
            slow_start.enabled = false
            connection_drain.enabled = false
            "#,
        );
    }

    #[test]
    fn health_checks_are_off_unless_their_table_is_there() {
        let group = |health_check: &str| {
            let text = format!(
                "[[listener]]\nname = \"plain\"\nprotocol = \"http\"\nport = 80\nserver_group = \"app\"\n\
                 [[server_group]]\nname = \"app\"\nservers = [{{ address = \"127.0.0.1:8080\" }}]\n\
                 {health_check}"
            );
            plan(&text).groups.remove(0).health_check
        };
        let off = health::HealthCheckPlan::Off;
        assert_eq!(group(""), off);
        assert_eq!(
            group("health_check = { enabled = false, interval = 9 }"),
            off
        );
        let commented = include_str!("../../config/lockgate.toml");
        let (_, every_key) = commented
            .split_once("# [server_group.health_check]")
            .unwrap();
        let every_key = every_key
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .collect::<Vec<_>>();
        let every_key = format!("[server_group.health_check]\n{}", every_key.join("\n"));
        assert_ne!(group("health_check = {}"), off);
        assert_eq!(group(&every_key), group("health_check = {}"));
    }

    #[test]
    fn what_is_absent_is_not_reported_after_a_syntax_error() {
        let (plan, report) = parse(Path::new("a.toml"), "[[listener]]\nname = web\n", &|_| None);
        assert!(plan.is_none());
        assert_eq!(
            report.diagnostics().count(),
            1,
            "{}",
            report.render(Colour::Off)
        );
    }

    #[test]
    fn paths_and_variables_are_resolved() {
        let text = r#"
            [server]
            instance_id = "${env:POD}"
            access_log.path = "log/access.log"
            [[certificate]]
            name = "site"
            cert = "../tls/site.crt"
            key = "/keys/${env:POD}.key"
            [[listener]]
            name = "web"
            protocol = "https"
            port = 443
            certificates = ["site"]
            server_group = "app"
            [[server_group]]
            name = "app"
            servers = [{ address = "${env:POD}.internal:80" }]
        "#;
        let environment = |name: &str| (name == "POD").then(|| "pod-7".to_owned());
        let (plan, report) = parse(Path::new("/etc/lockgate/lockgate.toml"), text, &environment);
        let plan = plan.unwrap_or_else(|| panic!("{}", report.render(Colour::Off)));
        assert_eq!(plan.server.instance_id, "pod-7");
        assert_eq!(
            plan.server.access_log.target,
            plan::LogTarget::File("/etc/lockgate/log/access.log".into())
        );
        assert_eq!(
            plan.groups[0].servers[0].address.to_string(),
            "pod-7.internal:80"
        );
        let plan::CertificateSource::Files { cert, key, .. } = &plan.certificates[0].source else {
            panic!("files")
        };
        assert_eq!(cert, Path::new("/etc/lockgate/../tls/site.crt"));
        assert_eq!(key, Path::new("/keys/pod-7.key"));
    }
}
