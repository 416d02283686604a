//! Session tickets as OpenSSL's client uses them: over reloads, between listeners, between processes.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::support::backend::Backend;
use crate::support::peer;
use crate::support::pki::{self, Authority};
use crate::support::program::{Outcome, lockgate, run_with};
use crate::support::proxy::{Proxy, Reload, Running, free_port};

const VERSIONS: [&str; 2] = ["-tls1_2", "-tls1_3"];
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// A client that keeps its session in a file.
pub(crate) struct Keeper {
    openssl: PathBuf,
    folder: TempDir,
    version: &'static str,
    suites: &'static str,
}

/// How a client was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// As one that has never been here.
    Anew,
    /// By its ticket.
    Resumed,
}

impl Keeper {
    fn new(openssl: &Path, version: &'static str) -> Self {
        Self::offering(openssl, version, "DEFAULT")
    }

    /// One that offers these suites of TLS 1.2 and below.
    pub(crate) fn offering(openssl: &Path, version: &'static str, suites: &'static str) -> Self {
        Self {
            openssl: openssl.to_owned(),
            folder: TempDir::new().unwrap(),
            version,
            suites,
        }
    }

    fn session(&self) -> String {
        let path = self.folder.path().join("session");
        path.to_str().unwrap().to_owned()
    }

    /// Connects with what it has, asks for something, and keeps what it is given.
    pub(crate) async fn connect(&self, port: u16, more: &[&str]) -> Outcome {
        let (address, session) = (format!("127.0.0.1:{port}"), self.session());
        let mut arguments = vec!["s_client", "-connect", &address, "-servername", "localhost"];
        arguments.extend(["-ign_eof", self.version, "-cipher", self.suites]);
        arguments.extend(["-sess_out", &session]);
        if Path::new(&session).exists() {
            arguments.extend(["-sess_in", &session]);
        }
        arguments.extend(more);
        let outcome = run_with(&self.openssl, &arguments, GET).await;
        assert!(outcome.stdout.contains("HTTP/1.1 200"), "{outcome:?}");
        outcome
    }

    pub(crate) async fn visit(&self, proxy: &Running) -> Taken {
        self.visit_port(proxy.port()).await
    }

    pub(crate) async fn visit_port(&self, port: u16) -> Taken {
        let outcome = self.connect(port, &[]).await;
        match outcome.stdout.contains("\nReused, ") {
            true => Taken::Resumed,
            false => Taken::Anew,
        }
    }
}

/// A secret file that only its owner reads.
pub(crate) fn write_secret(directory: &Path, bytes: &[u8]) {
    let path = directory.join("secret");
    std::fs::write(&path, bytes).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

pub(crate) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

pub(crate) async fn with_secret(backend: &Backend, secret: &[u8]) -> Running {
    let proxy = Proxy::to(backend).server("workers = 2\nsecret_file = \"secret\"");
    write_secret(proxy.directory(), secret);
    proxy.run().await
}

#[tokio::test]
async fn openssl_resumes_with_any_worker_and_is_told_300_seconds() {
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let backend = Backend::echo().run().await;
    let proxy = Proxy::to(&backend).run().await;
    for version in VERSIONS {
        let client = Keeper::new(&openssl, version);
        let first = client.connect(proxy.port(), &[]).await;
        assert!(first.stdout.contains("\nNew, TLSv1."), "{first:?}");
        let hint = "lifetime hint: 300 (seconds)";
        assert!(first.stdout.contains(hint), "{first:?}");
        for _ in 0..4 {
            assert_eq!(client.visit(&proxy).await, Taken::Resumed, "{version}");
        }
    }
    proxy
        .wait_for_access(|line| line["ssl_session_reused"] == "r")
        .await;
    let log = proxy.access_log();
    let anew = log.iter().filter(|line| line["ssl_session_reused"] == ".");
    assert_eq!(anew.count(), 2);
}

#[tokio::test]
async fn sessions_go_on_over_a_reload_unless_the_policy_changes() {
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let backend = Backend::echo().run().await;
    for version in VERSIONS {
        let mut proxy = Proxy::to(&backend)
            .listener("tls_policy = \"tls_cipher_policy_1_0_to_1_3\"")
            .run()
            .await;
        let client = Keeper::new(&openssl, version);
        assert_eq!(client.visit(&proxy).await, Taken::Anew);
        // Another certificate is no reason to begin anew.
        let issued = proxy.authority().issue(&["localhost"]);
        pki::write(proxy.directory(), "site", &issued);
        assert_eq!(proxy.reload().await, Reload::TakenUp);
        assert_eq!(client.visit(&proxy).await, Taken::Resumed, "{version}");

        let (from, to) = ("_1_0_to_1_3\"", "_1_2_strict_with_1_3\"");
        proxy.rewrite(|toml| toml.replace(from, to));
        assert_eq!(proxy.reload().await, Reload::TakenUp);
        assert_eq!(client.visit(&proxy).await, Taken::Anew, "{version}");
        assert_eq!(client.visit(&proxy).await, Taken::Resumed, "{version}");
        proxy.rewrite(|toml| toml.replace(to, from));
        assert_eq!(proxy.reload().await, Reload::TakenUp);
        assert_eq!(client.visit(&proxy).await, Taken::Anew, "{version}");
    }
}

#[tokio::test]
async fn a_session_of_one_listener_does_not_go_on_at_another() {
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let backend = Backend::echo().run().await;
    for secret in ["", "\nsecret_file = \"secret\""] {
        let proxy = Proxy::to(&backend).server(&format!("workers = 2{secret}"));
        write_secret(proxy.directory(), SECRET);
        let mut proxy = proxy.run().await;
        let other = free_port();
        proxy.rewrite(|toml| {
            format!(
                "{toml}[[listener]]\nname = \"other\"\nprotocol = \"https\"\naddress = \"127.0.0.1\"\n\
                 port = {other}\ncertificates = [\"site\"]\nserver_group = \"app\"\n"
            )
        });
        assert_eq!(proxy.reload().await, Reload::TakenUp);
        for version in VERSIONS {
            let client = Keeper::new(&openssl, version);
            assert_eq!(client.visit(&proxy).await, Taken::Anew);
            assert_eq!(client.visit(&proxy).await, Taken::Resumed);
            assert_eq!(client.visit_port(other).await, Taken::Anew, "{version}");
            assert_eq!(client.visit_port(other).await, Taken::Resumed, "{version}");
            assert_eq!(client.visit(&proxy).await, Taken::Anew, "{version}");
        }
    }
}

#[tokio::test]
async fn a_session_ends_where_a_reload_changes_how_clients_are_authenticated() {
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let backend = Backend::echo().run().await;
    let clients = Authority::named("clients");
    let issued = clients.issue_as(|_| {});
    let asking = |ca: &str, more: &str| format!("client_auth = {{ ca = [{ca}]{more} }}");
    for version in VERSIONS {
        let proxy = Proxy::to(&backend).listener("# client_auth");
        let directory = proxy.directory();
        std::fs::write(directory.join("clients.crt"), clients.pem()).unwrap();
        std::fs::write(
            directory.join("others.crt"),
            Authority::named("others").pem(),
        )
        .unwrap();
        std::fs::write(directory.join("clients.crl"), clients.revoke(&[13])).unwrap();
        let (cert, key) = pki::write(directory, "client", &issued);
        let mut proxy = proxy.run().await;
        let plain = std::fs::read_to_string(proxy.config_path()).unwrap();
        let client = Keeper::new(&openssl, version);
        let shown = [
            "-cert",
            cert.to_str().unwrap(),
            "-key",
            key.to_str().unwrap(),
        ];
        client.connect(proxy.port(), &shown).await;
        for line in [
            asking("\"clients.crt\"", ", mode = \"optional\""),
            asking("\"clients.crt\"", ""),
            asking("\"clients.crt\", \"others.crt\"", ""),
            asking("\"clients.crt\"", ", crl = [\"clients.crl\"]"),
            "# client_auth".to_owned(),
        ] {
            proxy.rewrite(|_| plain.replace("# client_auth", &line));
            assert_eq!(proxy.reload().await, Reload::TakenUp);
            for expected in ["\nNew, TLSv1.", "\nReused, TLSv1."] {
                let outcome = client.connect(proxy.port(), &shown).await;
                assert!(
                    outcome.stdout.contains(expected),
                    "{version} {line}: {outcome:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn replicas_with_one_secret_resume_each_other_s_sessions() {
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let backend = Backend::echo().run().await;
    let one = with_secret(&backend, SECRET).await;
    let two = with_secret(&backend, SECRET).await;
    let stranger = with_secret(&backend, &[SECRET, b"\n"].concat()).await;
    let alone = Proxy::to(&backend).run().await;
    for version in VERSIONS {
        let client = Keeper::new(&openssl, version);
        assert_eq!(client.visit(&one).await, Taken::Anew);
        for replica in [&two, &one, &two] {
            assert_eq!(client.visit(replica).await, Taken::Resumed, "{version}");
        }
        for other in [&stranger, &alone] {
            assert_eq!(client.visit(&one).await, Taken::Resumed, "{version}");
            assert_eq!(client.visit(other).await, Taken::Anew, "{version}");
            assert_eq!(client.visit(&one).await, Taken::Anew, "{version}");
        }
    }
}

#[tokio::test]
async fn another_secret_ends_all_sessions_at_the_next_reload() {
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let backend = Backend::echo().run().await;
    let mut proxy = with_secret(&backend, SECRET).await;
    for (version, next) in VERSIONS.into_iter().zip([b"2", b"3"]) {
        let client = Keeper::new(&openssl, version);
        assert_eq!(client.visit(&proxy).await, Taken::Anew);
        assert_eq!(proxy.reload().await, Reload::TakenUp);
        assert_eq!(client.visit(&proxy).await, Taken::Resumed, "{version}");
        write_secret(proxy.directory(), &[SECRET, next].concat());
        // Not before the reload.
        assert_eq!(client.visit(&proxy).await, Taken::Resumed, "{version}");
        assert_eq!(proxy.reload().await, Reload::TakenUp);
        assert_eq!(client.visit(&proxy).await, Taken::Anew, "{version}");
        assert_eq!(client.visit(&proxy).await, Taken::Resumed, "{version}");
    }
}

#[tokio::test]
async fn a_secret_that_cannot_be_used_is_told_of_and_changes_nothing() {
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let backend = Backend::echo().run().await;
    let mut proxy = with_secret(&backend, SECRET).await;
    let client = Keeper::new(&openssl, "-tls1_3");
    assert_eq!(client.visit(&proxy).await, Taken::Anew);
    write_secret(proxy.directory(), b"too short");
    assert_eq!(proxy.reload().await, Reload::Refused);
    let told = proxy.stderr();
    for part in [
        "too short for a secret: 9 bytes",
        "openssl rand",
        "lockgate.toml:3:",
    ] {
        assert!(told.contains(part), "no {part}: {told}");
    }
    assert_eq!(client.visit(&proxy).await, Taken::Resumed);

    let (path, config) = (proxy.directory().join("secret"), proxy.config_path());
    let check = ["check", "--config", config.to_str().unwrap()];
    std::fs::remove_file(&path).unwrap();
    let outcome = lockgate(&check).await;
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("no such file"), "{outcome:?}");
    write_secret(proxy.directory(), SECRET);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o604)).unwrap();
    let outcome = lockgate(&check).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for part in ["warning", "every user", "0604"] {
        assert!(outcome.stderr.contains(part), "no {part}: {outcome:?}");
    }
}

#[tokio::test]
async fn early_data_is_not_taken() {
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let backend = Backend::echo().run().await;
    let proxy = Proxy::to(&backend).run().await;
    let client = Keeper::new(&openssl, "-tls1_3");
    let first = client.connect(proxy.port(), &[]).await;
    assert!(first.stdout.contains("Max Early Data: 0"), "{first:?}");
    let early = client.folder.path().join("early");
    std::fs::write(&early, GET).unwrap();
    let early = ["-early_data", early.to_str().unwrap()];
    let second = client.connect(proxy.port(), &early).await;
    assert!(second.stdout.contains("\nReused, TLSv1.3"), "{second:?}");
    assert!(
        second.stdout.contains("Early data was not sent"),
        "{second:?}"
    );
}
