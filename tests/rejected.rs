//! Wrong configurations and exactly what the user is told: `rejected/NAME.toml` and `rejected/NAME.txt`.
//!
//! `LOCKGATE_BLESS=1` writes the `.txt` files anew; read them as a user would before committing them.

#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers may panic as its tests do"
)]

use std::fs;
use std::path::{Path, PathBuf};

use lockgate::config;
use lockgate::config::report::Colour;

fn environment(name: &str) -> Option<String> {
    (name == "APP_HOST").then(|| "app.internal".to_owned())
}

/// The case that is about the other build.
const FOREIGN: &str = if cfg!(feature = "legacy-tls") {
    "tls-policies.toml"
} else {
    "older-clients.toml"
};

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rejected");
    let mut cases: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    cases.retain(|case| !case.ends_with(FOREIGN));
    cases.sort();
    cases
}

#[test]
fn every_mistake_is_reported_as_written_down() {
    let bless = std::env::var_os("LOCKGATE_BLESS").is_some();
    let mut wrong = Vec::new();
    for case in cases() {
        let text = fs::read_to_string(&case).unwrap();
        let name = case.file_name().unwrap();
        let (plan, report) = config::parse(Path::new(name), &text, &environment);
        let told = report.render(Colour::Off);
        let expected = case.with_extension("txt");
        if bless {
            fs::write(&expected, &told).unwrap();
        }
        let expected = fs::read_to_string(&expected).unwrap_or_default();
        assert_eq!(plan.is_none(), report.has_errors(), "{name:?}");
        assert!(!report.is_empty(), "{name:?} has no mistakes");
        if told != expected {
            wrong.push(format!("{name:?}\nexpected:\n{expected}\ntold:\n{told}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn there_is_a_report_for_every_case_and_a_case_for_every_report() {
    for case in cases() {
        assert!(case.with_extension("txt").exists(), "{case:?}");
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rejected");
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        assert!(path.with_extension("toml").exists(), "{path:?}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("gone.toml");
    let (plan, report) = config::load(&missing, &environment);
    assert!(plan.is_none());
    assert!(
        report
            .render(Colour::Off)
            .starts_with("error: cannot read the file: no such file or directory\n")
    );

    let binary = folder.path().join("binary.toml");
    fs::write(&binary, b"[server]\n\xff\n").unwrap();
    let (plan, report) = config::load(&binary, &environment);
    assert!(plan.is_none());
    assert!(
        report
            .render(Colour::Off)
            .starts_with("error: the file is not UTF-8 text: byte 10 is wrong\n")
    );

    // A pipe would be waited for, and with it every signal (attacks.md row 66).
    let pipe = folder.path().join("pipe.toml");
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, rustix::fs::Mode::RWXU, 0).unwrap();
    for path in [folder.path(), &pipe] {
        let (plan, report) = config::load(path, &environment);
        assert!(plan.is_none());
        let report = report.render(Colour::Off);
        assert!(
            report.starts_with("error: cannot read the file: it is not a regular file\n"),
            "{report}"
        );
    }
}

#[test]
fn the_systemd_unit_lets_the_kernel_be_asked_about_slow_clients() {
    let unit = fs::read_to_string("config/lockgate.service").unwrap();
    let families = unit
        .lines()
        .find(|line| line.starts_with("RestrictAddressFamilies="))
        .unwrap();
    for family in ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"] {
        assert!(families.contains(family), "{families}");
    }
}
