//! The command line: what it says, and how it ends.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::support::backend::Backend;
use crate::support::peer;
use crate::support::program::{Service, lockgate, run};
use crate::support::proxy::{Proxy, Signal, free_port};

/// A configuration file that is alone in its folder.
fn file(directory: &TempDir, toml: &str) -> PathBuf {
    let path = directory.path().join("lockgate.toml");
    std::fs::write(&path, toml).unwrap();
    path
}

fn configuration(port: u16) -> String {
    format!(
        "[[listener]]\nname = \"web\"\nprotocol = \"http\"\naddress = \"127.0.0.1\"\nport = {port}\n\
         server_group = \"app\"\n[[server_group]]\nname = \"app\"\nservers = [{{ address = \"127.0.0.1:1\" }}]\n"
    )
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn check_says_ok_and_keeps_no_port() {
    let directory = TempDir::new().unwrap();
    let path = file(&directory, &configuration(free_port()));
    for _ in 0..2 {
        let outcome = lockgate(&["check", "--config", text(&path)]).await;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert_eq!(outcome.stdout, format!("{}: ok\n", path.display()));
        assert_eq!(outcome.stderr, "");
    }
}

#[tokio::test]
async fn check_tells_every_mistake_and_exits_1() {
    let directory = TempDir::new().unwrap();
    let toml = configuration(free_port())
        .replace(
            "server_group = \"app\"",
            "server_grup = \"app\"\nidle_timeout = 0",
        )
        .replace("\"http\"", "\"htp\"");
    let toml =
        toml + "[[certificate]]\nname = \"site\"\ncert = \"absent.crt\"\nkey = \"absent.key\"\n";
    let path = file(&directory, &toml);
    let outcome = lockgate(&["check", "--config", text(&path)]).await;
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert_eq!(outcome.stdout, "");
    for mistake in ["server_grup", "did you mean", "idle_timeout", "htp"] {
        assert!(
            outcome.stderr.contains(mistake),
            "{mistake}: {}",
            outcome.stderr
        );
    }
    assert!(
        outcome.stderr.contains("lockgate.toml:3:"),
        "{}",
        outcome.stderr
    );
}

#[tokio::test]
async fn check_and_run_tell_of_a_file_that_is_not_there() {
    for command in ["check", "run"] {
        let outcome = lockgate(&[command, "--config", "/nowhere/lockgate.toml"]).await;
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(
            outcome.stderr.contains("/nowhere/lockgate.toml"),
            "{outcome:?}"
        );
    }
}

#[tokio::test]
async fn a_port_in_use_is_a_warning_to_check_and_the_end_of_run() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let directory = TempDir::new().unwrap();
    let path = file(&directory, &configuration(port));
    let address = format!("127.0.0.1:{port}");

    let outcome = lockgate(&["check", "--config", text(&path)]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for part in ["warning", &address, "in use"] {
        assert!(outcome.stderr.contains(part), "no {part}: {outcome:?}");
    }

    let outcome = lockgate(&["run", "--config", text(&path)]).await;
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    for part in ["error", &address, "in use", "`web`"] {
        assert!(outcome.stderr.contains(part), "no {part}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_second_lockgate_on_the_same_port_is_refused_and_the_first_goes_on() {
    let backend = Backend::echo().run().await;
    let mut first = Proxy::to(&backend).run().await;
    let path = first.config_path();
    let second = lockgate(&["run", "--config", text(&path)]).await;
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.stderr.contains("in use"), "{second:?}");
    for _ in 0..8 {
        assert_eq!(first.client().await.get("/").await.status, 200);
    }
    first.signal(Signal::TERM);
    assert_eq!(first.exit().await.code(), Some(0));
}

#[tokio::test]
async fn help_names_every_command_and_version_says_which() {
    let help = lockgate(&["--help"]).await.succeeded();
    for command in ["run", "check", "demo", "quick", "completions", "SIGHUP"] {
        assert!(help.contains(command), "no {command}: {help}");
    }
    for command in ["run", "check", "demo", "quick", "completions"] {
        let help = lockgate(&[command, "--help"]).await.succeeded();
        assert!(help.contains("Usage: lockgate"), "{help}");
    }
    let version = lockgate(&["--version"]).await.succeeded();
    assert_eq!(version, format!("lockgate {}\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn a_wrong_command_line_is_refused() {
    for arguments in [&["serve"][..], &["run", "--conf"], &["quick"], &[]] {
        let outcome = lockgate(arguments).await;
        assert_eq!(outcome.code, Some(2), "{arguments:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn completions_are_a_script_that_the_shell_reads() {
    for shell in ["bash", "zsh", "fish"] {
        let script = lockgate(&["completions", shell]).await.succeeded();
        assert!(script.contains("lockgate"), "{shell}");
    }
    let Some(bash) = peer("bash") else {
        return;
    };
    let script = lockgate(&["completions", "bash"]).await.succeeded();
    let said = run(bash, &["-c", &format!("{script}\ncomplete -p lockgate")]).await;
    assert!(said.succeeded().contains("lockgate"));
}

#[tokio::test]
async fn the_curl_line_of_the_demo_works() {
    let (Some(_), Some(shell)) = (peer("curl"), peer("sh")) else {
        return;
    };
    let port = free_port();
    let arguments = ["demo", "--port", &port.to_string()];
    let mut demo = Service::start(env!("CARGO_BIN_EXE_lockgate"), &arguments);
    let line = demo.line("curl ").await;
    let mut answers = String::new();
    for _ in 0..6 {
        let outcome = run(&shell, &["-c", &format!("{} -sS", line.trim())]).await;
        answers += &outcome.succeeded();
    }
    for name in ["red", "green", "blue"] {
        assert!(answers.contains(name), "no {name}: {answers}");
    }
}

#[tokio::test]
async fn what_quick_prints_loads() {
    let directory = TempDir::new().unwrap();
    let port = free_port().to_string();
    let flags = [
        "--port",
        &port,
        "--to",
        "127.0.0.1:8080",
        "--to",
        "localhost:8081",
    ];
    for more in [&["--protocol", "http"][..], &["--protocol", "https"], &[]] {
        let arguments = [&["quick", "--print"], &flags[..], more].concat();
        let printed = lockgate(&arguments).await;
        assert_eq!(printed.code, Some(0), "{printed:?}");
        for part in [&port, "127.0.0.1:8080", "localhost:8081"] {
            assert!(printed.stdout.contains(part), "no {part}: {printed:?}");
        }
        let path = file(&directory, &printed.stdout);
        lockgate(&["check", "--config", text(&path)])
            .await
            .succeeded();
    }
}

#[tokio::test]
async fn quick_serves_with_a_certificate_of_its_own() {
    let Some(curl) = peer("curl") else {
        return;
    };
    let backend = Backend::named("quick").run().await;
    let (port, server) = (free_port().to_string(), backend.address().to_string());
    let arguments = ["quick", "--port", &port, "--to", &server];
    let _quick = Service::start(env!("CARGO_BIN_EXE_lockgate"), &arguments);
    let url = format!("https://localhost:{port}/");
    let retry = ["--retry", "8", "--retry-connrefused"];
    let arguments = [&["-sSk", url.as_str()][..], &retry].concat();
    let answer = run(curl, &arguments).await;
    assert_eq!(answer.stdout, "quick", "{answer:?}");
}
