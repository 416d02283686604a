//! The shape of the source: who may know whom, and how large a piece may be (`src/lib.rs`).
//!
//! Reads the text; the code as formatted by rustfmt is regular enough. Unit tests are not looked at.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The floors of the house. A module knows what is below it, and on floors where neighbours talk, those.
const FLOORS: [(Neighbours, &[&str]); 6] = [
    (
        Neighbours::Talk,
        &[
            "addr", "scheme", "network", "stream", "unsent", "pace", "timer", "task", "failure",
            "file", "secret", "mark",
        ],
    ),
    (Neighbours::Apart, &["config"]),
    (
        Neighbours::Apart,
        &[
            "accept",
            "tls",
            "http",
            "route",
            "transform",
            "backend",
            "telemetry",
        ],
    ),
    (
        Neighbours::Talk,
        &[
            "listener",
            "connection",
            "exchange",
            "response_body",
            "rule",
            "upgrade",
            "stay",
            "proxy",
        ],
    ),
    (Neighbours::Apart, &["daemon"]),
    (Neighbours::Apart, &["cli"]),
];

/// The longest file, its tests not counted.
const LONGEST_FILE: usize = 550;
/// The longest function, without blank lines and comments.
const LONGEST_FUNCTION: usize = 60;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Neighbours {
    /// Modules of the floor know each other.
    Talk,
    /// They do not.
    Apart,
}

/// A source file: its path below `src`, and its text up to its unit tests.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The folder at the top of `src`, or the file there.
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// The lines that are no comments.
    fn code(&self) -> impl Iterator<Item = &str> {
        let lines = self.text.lines();
        lines.filter(|line| !line.trim_start().starts_with("//"))
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    let sources: Vec<_> = files
        .iter()
        .map(|file| Source {
            path: file.strip_prefix(&root).unwrap().to_str().unwrap().into(),
            text: without_tests(&std::fs::read_to_string(file).unwrap()),
        })
        .collect();
    assert!(sources.len() > 50, "this looks at the real source");
    sources
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
}

/// Up to the unit tests, which stand at the bottom.
fn without_tests(text: &str) -> String {
    let tests = text.find("\n#[cfg(test)]\nmod tests");
    text[..tests.unwrap_or(text.len())].to_owned()
}

fn floor(module: &str) -> Option<usize> {
    FLOORS
        .iter()
        .position(|(_, modules)| modules.contains(&module))
}

fn may_know(module: &str, other: &str) -> bool {
    match (floor(module), floor(other)) {
        (Some(own), Some(theirs)) if own == theirs => {
            module == other || FLOORS[own].0 == Neighbours::Talk
        }
        (Some(own), Some(theirs)) => own > theirs,
        (None, _) | (_, None) => false,
    }
}

/// The modules that a file names as `crate::NAME`.
fn named(source: &Source) -> BTreeSet<String> {
    source
        .code()
        .flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            rest[..end.unwrap_or(rest.len())].to_owned()
        })
        .collect()
}

#[test]
fn dependencies_point_down_and_never_between_rooms() {
    let mut edges = 0;
    for source in sources() {
        if matches!(source.path.as_str(), "lib.rs" | "main.rs") {
            continue;
        }
        let module = source.module();
        assert!(
            floor(module).is_some(),
            "{} stands on no floor",
            source.path
        );
        for other in named(&source) {
            edges += 1;
            assert!(may_know(module, &other), "{} knows `{other}`", source.path);
        }
    }
    assert!(edges > 50, "the imports are found");
}

#[test]
fn the_table_of_dependencies_is_the_one_meant() {
    for (module, other, expected) in [
        ("http", "failure", true),
        ("http", "config", true),
        ("http", "http", true),
        ("http", "tls", false),
        ("tls", "http", false),
        ("telemetry", "transform", false),
        ("config", "tls", false),
        ("addr", "config", false),
        ("stream", "addr", true),
        ("proxy", "exchange", true),
        ("proxy", "backend", true),
        ("backend", "proxy", false),
        ("proxy", "daemon", false),
        ("daemon", "proxy", true),
        ("daemon", "cli", false),
        ("http", "unheard_of", false),
    ] {
        assert_eq!(may_know(module, other), expected, "{module} -> {other}");
    }
}

#[test]
fn every_file_begins_by_saying_what_it_is_for() {
    for source in sources() {
        let doc = source
            .text
            .lines()
            .take_while(|line| line.starts_with("//!"));
        let lines = doc.count();
        assert!(lines > 0, "{}", source.path);
        let limit = if source.path == "lib.rs" { 100 } else { 10 };
        assert!(lines <= limit, "{}: {lines} lines", source.path);
    }
}

#[test]
fn what_is_written_in_toml_is_known_to_the_document_only() {
    let foreign = |source: &&Source| {
        let names_serde = source.code().any(|line| line.contains("serde"));
        names_serde && !source.path.starts_with("config/document")
    };
    let sources = sources();
    let found: Vec<_> = sources.iter().filter(foreign).map(|s| &s.path).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn pem_is_read_in_one_file() {
    let sources = sources();
    let found: Vec<_> = sources
        .iter()
        .filter(|source| source.code().any(|line| line.contains("rustls_pemfile")))
        .map(|source| source.path.as_str())
        .collect();
    assert_eq!(found, ["tls/pem.rs"]);
}

#[test]
fn what_is_unsafe_stands_in_one_file_of_a_feature() {
    let sources = sources();
    let says = |source: &&Source| {
        let words = [
            "unsafe {",
            "unsafe fn",
            "unsafe extern",
            "unsafe impl",
            "unsafe_code",
        ];
        let mut lines = source
            .code()
            .filter(|line| !line.contains("forbid(unsafe_code)"));
        lines.any(|line| words.iter().any(|word| line.contains(word)))
    };
    let found: Vec<_> = sources.iter().filter(says).map(|s| &s.path).collect();
    assert_eq!(found, ["tls/legacy/ticket_keys.rs"]);
    let lib = sources.iter().find(|s| s.path == "lib.rs").unwrap();
    assert!(
        lib.text
            .contains("#![cfg_attr(not(feature = \"legacy-tls\"), forbid(unsafe_code))]")
    );
}

#[test]
fn tasks_are_spawned_by_the_workers_only() {
    for source in sources() {
        let spawns = |line: &str| line.contains("tokio::spawn(") || line.contains("spawn_local(");
        if source.code().any(spawns) {
            assert_eq!(source.path, "daemon/workers.rs");
        }
    }
}

#[test]
fn files_and_functions_fit_the_eye() {
    let mut count = 0;
    for source in sources() {
        let lines = source.text.lines().count();
        assert!(lines <= LONGEST_FILE, "{}: {lines} lines", source.path);
        for (name, length) in functions(&source.text) {
            count += 1;
            assert!(
                length <= LONGEST_FUNCTION,
                "{}: `{name}` has {length} lines",
                source.path
            );
        }
    }
    assert!(count > 300, "the functions are found");
}

/// Each function's name and how many lines of code are in its body.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut functions = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let Some(name) = function_name(line.trim_start()) else {
            continue;
        };
        let end = format!("{}}}", " ".repeat(indent));
        let begin = lines[at..]
            .iter()
            .position(|l| l.ends_with('{') || l.ends_with([';', '}']));
        let begin = at + begin.unwrap_or(0);
        if !lines[begin].ends_with('{') {
            continue;
        }
        let is_code = |l: &&&str| {
            let l = l.trim();
            !l.is_empty() && !l.starts_with("//")
        };
        let body = lines[begin + 1..].iter().take_while(|l| **l != end);
        functions.push((name, body.filter(is_code).count()));
    }
    functions
}

fn function_name(line: &str) -> Option<String> {
    let (before, after) = line.split_once("fn ")?;
    let words = ["pub", "async", "const", "pub(crate)", "pub(super)"];
    if !before.split_whitespace().all(|word| words.contains(&word)) {
        return None;
    }
    let end = after.find(['(', '<'])?;
    Some(after[..end].to_owned())
}

#[test]
fn functions_are_measured_by_their_code() {
    let text = "impl X {\n    pub(crate) async fn long(\n        a: u8,\n    ) -> u8 {\n        // why\n\n        \
                if a {\n        }\n        a\n    }\n    fn declared(&self);\n}\nfn short() {}\n";
    assert_eq!(functions(text), [("long".to_owned(), 3)]);
}
