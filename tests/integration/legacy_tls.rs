//! Clients that cannot do better (the feature `legacy-tls`): OpenSSL and curl as they were, beside those of
//! today.

use std::io::Write;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::time::Duration;

use lockgate::config::tls_policy::{Engine, Suite, SystemPolicy, TlsPolicy, Version};
use openssl::ssl::{Ssl, SslContextBuilder, SslMethod, SslVerifyMode, SslVersion};
use openssl::x509::X509;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use crate::support::backend::Backend;
use crate::support::client::Client;
use crate::support::pki::{self, Authority};
use crate::support::program::{lockgate, run};
use crate::support::proxy::{Proxy, Reload, Running};
use crate::support::raw::{Ended, Raw};
use crate::support::{peer, within};
use crate::tls_policy::{offer, pair};

/// The listener's line for a policy.
fn line(policy: SystemPolicy) -> String {
    format!("tls_policy = \"{}\"\n", policy.name())
}

/// A listener whose policy begins with TLS 1.0.
fn old(backend: &Backend) -> Proxy {
    Proxy::to(backend).listener(&line(SystemPolicy::From10))
}

/// What an old client offers.
struct Old {
    versions: [SslVersion; 2],
    suites: &'static str,
    name: &'static str,
    alpn: &'static [u8],
}

impl Old {
    fn speaking(version: SslVersion) -> Self {
        Self {
            versions: [version; 2],
            suites: "ALL",
            name: "localhost",
            alpn: b"",
        }
    }

    /// Any version up to TLS 1.2, and one suite.
    fn with(suites: &'static str) -> Self {
        Self {
            versions: [SslVersion::TLS1, SslVersion::TLS1_2],
            suites,
            ..Self::speaking(SslVersion::TLS1)
        }
    }

    async fn try_over(
        self,
        stream: TcpStream,
    ) -> Result<SslStream<TcpStream>, openssl::ssl::Error> {
        let mut context = SslContextBuilder::new(SslMethod::tls_client()).unwrap();
        context.set_security_level(0);
        let suites = format!("{}:@SECLEVEL=0", self.suites);
        context.set_cipher_list(&suites).unwrap();
        context
            .set_min_proto_version(Some(self.versions[0]))
            .unwrap();
        context
            .set_max_proto_version(Some(self.versions[1]))
            .unwrap();
        context.set_verify(SslVerifyMode::NONE);
        if !self.alpn.is_empty() {
            context.set_alpn_protos(self.alpn).unwrap();
        }
        let mut ssl = Ssl::new(&context.build()).unwrap();
        ssl.set_hostname(self.name).unwrap();
        let mut stream = SslStream::new(ssl, stream).unwrap();
        within("the handshake ends", Pin::new(&mut stream).connect()).await?;
        Ok(stream)
    }

    async fn connect(self, proxy: &Running) -> SslStream<TcpStream> {
        self.try_over(proxy.plain().await).await.unwrap()
    }
}

fn agreed(stream: &SslStream<TcpStream>) -> (&'static str, &'static str) {
    let suite = stream.ssl().current_cipher().unwrap();
    (stream.ssl().version_str(), suite.name())
}

/// What an old client is told when it is refused.
async fn refusal(proxy: &Running, client: Old) -> String {
    let refused = client.try_over(proxy.plain().await).await;
    refused.unwrap_err().to_string()
}

#[tokio::test]
async fn each_version_goes_with_each_suite_that_is_listed_for_it_and_no_other() {
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let backend = Backend::echo().run().await;
    for system in [SystemPolicy::From10, SystemPolicy::From11] {
        let policy = TlsPolicy::from(system);
        let proxy = pair(&backend, &line(system), "").await;
        let versions = [
            (Version::Tls10, "-tls1"),
            (Version::Tls11, "-tls1_1"),
            (Version::Tls12, "-tls1_2"),
        ];
        for (version, flag) in versions {
            let suites = Suite::all().filter(|suite| suite.versions() != [Version::Tls13]);
            for suite in suites.filter(|suite| suite.engine() != Some(Engine::Rustls)) {
                let expected = policy.effective_versions().any(|v| v == version)
                    && policy.effective_suites().any(|s| s == suite)
                    && suite.versions().contains(&version);
                let outcome = offer(&openssl, &proxy, flag, suite.name()).await;
                let agreed = outcome
                    .stdout
                    .contains(&format!("Protocol  : {}\n", version.name()))
                    && outcome
                        .stdout
                        .contains(&format!("Cipher    : {}\n", suite.name()));
                assert_eq!(agreed, expected, "{flag} {}: {outcome:?}", suite.name());
            }
        }
    }
}

#[tokio::test]
async fn whoever_can_do_better_is_served_by_rustls_on_the_same_listener() {
    let backend = Backend::echo().run().await;
    let proxy = old(&backend).run().await;
    // OpenSSL's context has no suite of these, so rustls it is; and TLS 1.2 clients prefer CBC here.
    let stream = Old::with("ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES128-GCM-SHA256");
    assert_eq!(
        agreed(&stream.connect(&proxy).await),
        ("TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256")
    );
    assert_eq!(proxy.client_h2().await.get("/").await.status, 200);
    assert_eq!(proxy.client().await.get("/").await.status, 200);
    let stream = Old::with("ECDHE-ECDSA-AES128-SHA").connect(&proxy).await;
    assert_eq!(agreed(&stream), ("TLSv1.2", "ECDHE-ECDSA-AES128-SHA"));
    assert_eq!(Client::http1(stream).await.get("/").await.status, 200);
}

#[tokio::test]
async fn the_default_policy_serves_its_cbc_suites_but_no_old_version() {
    let backend = Backend::echo().run().await;
    let proxy = Proxy::to(&backend).run().await;
    let stream = Old::with("ECDHE-ECDSA-AES256-SHA384").connect(&proxy).await;
    assert_eq!(agreed(&stream), ("TLSv1.2", "ECDHE-ECDSA-AES256-SHA384"));
    let refused = refusal(&proxy, Old::speaking(SslVersion::TLS1_1)).await;
    assert!(refused.contains("alert handshake failure"), "{refused}");
    assert!(!proxy.stderr().contains("RFC 8996"), "{}", proxy.stderr());
}

#[tokio::test]
async fn requests_are_passed_on_and_logged_with_version_suite_and_name() {
    let backend = Backend::echo().run().await;
    let proxy = old(&backend)
        .headers("x_forwarded_proto = true")
        .run()
        .await;
    for (version, protocol) in [(SslVersion::TLS1, "TLSv1"), (SslVersion::TLS1_1, "TLSv1.1")] {
        let client = Old {
            suites: "ECDHE-ECDSA-AES256-SHA",
            name: "LOCALHOST",
            ..Old::speaking(version)
        };
        let mut client = Client::http1(client.connect(&proxy).await).await;
        for path in ["/one", "/two"] {
            let said = client.get(path).await.text();
            assert!(said.contains("X-Forwarded-Proto: https\r\n"), "{said}");
        }
        let logged = proxy.wait_for_access(|line| line["ssl_protocol"] == protocol);
        let line = logged.await;
        assert_eq!(line["ssl_cipher"], "ECDHE-ECDSA-AES256-SHA", "{line}");
        assert_eq!(line["server_name"], "localhost", "{line}");
        assert_eq!(line["status"], 200, "{line}");
    }
}

#[tokio::test]
async fn the_certificate_is_chosen_by_name_and_by_what_the_suites_go_with() {
    let backend = Backend::echo().run().await;
    let authority = Authority::new();
    let names = ["first", "ecdsa", "rsa"];
    let issued = [
        authority.issue_rsa(&["first.example"]),
        authority.issue(&["*.b.example"]),
        authority.issue_rsa(&["*.b.example"]),
    ];
    let proxy = Proxy::new();
    let mut toml = String::new();
    for (name, issued) in names.iter().zip(&issued) {
        pki::write(proxy.directory(), name, issued);
        toml += &format!(
            "[[certificate]]\nname = \"{name}\"\ncert = \"{name}.crt\"\nkey = \"{name}.key\"\n"
        );
    }
    let proxy = proxy
        .raw_config(format!(
            "{toml}[[listener]]\nname = \"web\"\nprotocol = \"https\"\naddress = \"127.0.0.1\"\nport = {{port}}\n\
             certificates = [\"first\", \"ecdsa\", \"rsa\"]\nserver_group = \"app\"\n{}\
             [[server_group]]\nname = \"app\"\nservers = [{{ address = \"{}\" }}]\n",
            line(SystemPolicy::From10),
            backend.address()
        ))
        .run()
        .await;
    let [first, ecdsa, rsa] = &issued;
    for (name, suites, expected) in [
        ("x.b.example", "ALL", ecdsa),
        ("X.B.Example", "aRSA", rsa),
        ("x.b.example", "kRSA", rsa),
        ("x.b.example", "aECDSA", ecdsa),
        ("unknown.example", "ALL", first),
    ] {
        let client = Old {
            name,
            suites,
            ..Old::speaking(SslVersion::TLS1)
        };
        let stream = client.connect(&proxy).await;
        let shown = stream.ssl().peer_certificate().unwrap();
        let expected = X509::from_pem(expected.cert_pem.as_bytes()).unwrap();
        assert_eq!(
            shown.to_der().unwrap(),
            expected.to_der().unwrap(),
            "{name} {suites}"
        );
    }
}

#[tokio::test]
async fn unknown_names_are_refused_where_names_are_strict() {
    let backend = Backend::echo().run().await;
    let proxy = old(&backend).listener("sni_strict = true").run().await;
    for (name, is_refused) in [("localhost", false), ("unknown.example", true)] {
        let client = Old {
            name,
            ..Old::speaking(SslVersion::TLS1)
        };
        let outcome = client.try_over(proxy.plain().await).await;
        let told = outcome.err().map(|error| error.to_string());
        let is_told = told.is_some_and(|error| error.contains("unrecognized name"));
        assert_eq!(is_told, is_refused, "{name}");
    }
}

#[tokio::test]
async fn http_2_is_not_agreed_on_with_suites_that_it_forbids() {
    let backend = Backend::echo().run().await;
    let proxy = old(&backend).run().await;
    let offering = |alpn| Old {
        alpn,
        ..Old::speaking(SslVersion::TLS1_1)
    };
    let stream = offering(b"\x02h2\x08http/1.1").connect(&proxy).await;
    assert_eq!(
        stream.ssl().selected_alpn_protocol(),
        Some(&b"http/1.1"[..])
    );
    let refused = refusal(&proxy, offering(b"\x02h2")).await;
    assert!(refused.contains("no application protocol"), "{refused}");
}

#[tokio::test]
async fn curl_of_old_is_served_both_ways() {
    let Some(curl) = peer("curl") else {
        return;
    };
    let backend = Backend::echo().run().await;
    let proxy = old(&backend).run().await;
    let ca = proxy.directory().join("ca.crt");
    std::fs::write(&ca, proxy.authority().pem()).unwrap();
    let upload = proxy.directory().join("upload");
    std::fs::write(&upload, vec![b'u'; 2_000_000]).unwrap();
    let url = format!("https://localhost:{}/hello", proxy.port());
    let (ca, data) = (ca.to_str().unwrap(), format!("@{}", upload.display()));
    let weak = "DEFAULT@SECLEVEL=0";
    for version in ["1.0", "1.1"] {
        let arguments = [
            "-sS",
            "--tlsv1.0",
            "--tls-max",
            version,
            "--ciphers",
            weak,
            "--cacert",
            ca,
            "--data-binary",
            &data,
            &url,
        ];
        let said = run(&curl, &arguments).await.succeeded();
        assert!(said.starts_with("POST /hello HTTP/1.1\r\n"), "{version}");
        assert!(said.ends_with(&"u".repeat(2_000_000)), "{version}");
    }
}

#[tokio::test]
async fn older_clients_do_not_renegotiate() {
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let backend = Backend::echo().run().await;
    let proxy = old(&backend).run().await;
    let address = format!("127.0.0.1:{}", proxy.port());
    let weak = "DEFAULT@SECLEVEL=0";
    // `R` asks for another handshake.
    let mut child = Command::new(openssl)
        .args(["s_client", "-connect", &address, "-tls1_1", "-cipher", weak])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let (tell, ended) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || tell.send(child.wait_with_output()));
    stdin.write_all(b"R\n").unwrap();
    let output = within("the client gives up", ended).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no renegotiation"), "{said}");
    drop(stdin);
}

#[tokio::test]
async fn nobody_is_talked_down_unawares() {
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let backend = Backend::echo().run().await;
    let proxy = pair(&backend, &line(SystemPolicy::From10), "").await;
    let newer = pair(&backend, "", "").await;
    let weak = "DEFAULT@SECLEVEL=0";
    let cbc = "ECDHE-RSA-AES128-SHA:@SECLEVEL=0";
    // RFC 7507: a client that has been refused before says so, and the server could do better.
    for (proxy, flag, suites, is_refused) in [
        (&proxy, "-tls1_1", weak, true),
        (&proxy, "-tls1_2", cbc, false),
        (&newer, "-tls1_2", cbc, true),
    ] {
        let address = format!("127.0.0.1:{}", proxy.port());
        let arguments = [
            "s_client",
            "-connect",
            &address,
            flag,
            "-cipher",
            suites,
            "-fallback_scsv",
        ];
        let outcome = run(&openssl, &arguments).await;
        let told = outcome.stderr.contains("inappropriate fallback");
        assert_eq!(told, is_refused, "{flag} {suites}: {outcome:?}");
    }
    // RFC 8446 4.1.3: the server's random number says what it could have done.
    for (proxy, flag, suites, sentinel) in [
        (&proxy, "-tls1_1", weak, Some("444f574e47524400")),
        (&proxy, "-tls1_2", cbc, None),
        (&newer, "-tls1_2", cbc, Some("444f574e47524401")),
    ] {
        let address = format!("127.0.0.1:{}", proxy.port());
        let arguments = [
            "s_client", "-connect", &address, flag, "-cipher", suites, "-msg",
        ];
        let said = run(&openssl, &arguments).await.succeeded();
        let (_, hello) = said.split_once("ServerHello").unwrap();
        let hello: String = hello
            .split("<<<")
            .next()
            .unwrap()
            .split_whitespace()
            .skip(1)
            .collect();
        match sentinel {
            Some(sentinel) => assert!(hello.contains(sentinel), "{flag} {suites}: {hello}"),
            None => assert!(!hello.contains("444f574e4752"), "{flag} {suites}: {hello}"),
        }
    }
}

#[tokio::test]
async fn a_listener_that_authenticates_its_clients_refuses_older_ones() {
    let backend = Backend::echo().run().await;
    for mode in ["required", "optional", "optional_no_ca"] {
        let proxy = old(&backend);
        std::fs::write(proxy.directory().join("ca.crt"), Authority::new().pem()).unwrap();
        let auth = format!("client_auth = {{ ca = [\"ca.crt\"], mode = \"{mode}\" }}");
        let proxy = proxy.listener(&auth).run().await;
        let refused = refusal(&proxy, Old::speaking(SslVersion::TLS1)).await;
        assert!(
            refused.contains("alert handshake failure"),
            "{mode}: {refused}"
        );
        let refused = refusal(&proxy, Old::with("ECDHE-ECDSA-AES128-SHA")).await;
        assert!(
            refused.contains("alert handshake failure"),
            "{mode}: {refused}"
        );
        let said = proxy.stderr();
        assert!(said.contains("is served as TLSv1.2 only"), "{said}");
        assert!(!said.contains("RFC 8996"), "{said}");
        let path = proxy.config_path();
        let outcome = lockgate(&["check", "--config", path.to_str().unwrap()]).await;
        assert!(
            outcome
                .stdout
                .contains("listed, not negotiated: TLSv1.0 TLSv1.1"),
            "{outcome:?}"
        );
    }
}

#[tokio::test]
async fn old_versions_are_warned_of_and_shown() {
    let backend = Backend::echo().run().await;
    let proxy = old(&backend).run().await;
    let said = proxy.stderr();
    for part in ["RFC 8996", "serves clients that speak TLSv1.0 and TLSv1.1"] {
        assert!(said.contains(part), "{said}");
    }
    proxy.rewrite(|toml| toml.replace("_1_0\"\n", "_1_0\"\ntls_policy_strict = true\n"));
    let path = proxy.config_path();
    let outcome = lockgate(&["check", "--config", path.to_str().unwrap()]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for part in [
        "  TLSv1.2  ECDHE-RSA-AES128-GCM-SHA256\n",
        "  TLSv1.1  ECDHE-ECDSA-AES128-SHA\n",
        "  TLSv1.0  AES256-SHA\n",
        "  listed, not negotiated: DES-CBC3-SHA\n",
    ] {
        assert!(outcome.stdout.contains(part), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_policy_for_older_clients_only_is_an_error() {
    let backend = Backend::echo().run().await;
    let proxy = Proxy::to(&backend).run().await;
    proxy.rewrite(|toml| {
        let mine = "[[tls_policy]]\nname = \"mine\"\nversions = [\"TLSv1.0\", \"TLSv1.2\"]\n\
                    cipher_suites = [\"AES128-SHA\"]\n";
        toml.replace(
            "server_group = \"app\"\n",
            "server_group = \"app\"\ntls_policy = \"mine\"\n",
        ) + mine
    });
    let path = proxy.config_path();
    let outcome = lockgate(&["check", "--config", path.to_str().unwrap()]).await;
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let message = "this policy has suites for older clients only";
    assert!(outcome.stderr.contains(message), "{outcome:?}");
}

#[tokio::test]
async fn versions_that_a_policy_of_the_file_leaves_out_stay_out() {
    let backend = Backend::echo().run().await;
    let tables = "[[tls_policy]]\nname = \"mine\"\nversions = [\"TLSv1.0\", \"TLSv1.2\", \"TLSv1.3\"]\n\
        cipher_suites = [\"AES128-SHA\", \"TLS_AES_128_GCM_SHA256\"]\n";
    let proxy = pair(&backend, "tls_policy = \"mine\"\n", tables).await;
    for (version, name) in [(SslVersion::TLS1, "TLSv1"), (SslVersion::TLS1_2, "TLSv1.2")] {
        let stream = Old::speaking(version).connect(&proxy).await;
        assert_eq!(agreed(&stream), (name, "AES128-SHA"));
    }
    assert!(
        Old::speaking(SslVersion::TLS1_1)
            .try_over(proxy.plain().await)
            .await
            .is_err()
    );
    let stream = proxy.tls(&[]).await;
    let version = stream.get_ref().1.protocol_version();
    assert_eq!(version, Some(rustls::ProtocolVersion::TLSv1_3));
}

#[tokio::test]
async fn plain_http_is_answered_and_failures_are_told() {
    let backend = Backend::echo().run().await;
    let mut proxy = old(&backend).run().await;
    let mut raw = Raw::over(proxy.plain().await);
    raw.write("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(raw.read_response().await.status(), 400);
    raw.expect_closed(Duration::from_secs(1)).await;
    let logged = proxy
        .wait_for_access(|line| line["cause"] == "plain_http")
        .await;
    assert_eq!(logged["status"], 400);

    // Neither engine has it: rustls tells the client so.
    let refused = refusal(&proxy, Old::with("CAMELLIA128-SHA")).await;
    assert!(refused.contains("alert handshake failure"), "{refused}");
    // The client hangs up on OpenSSL, whose certificate it does not trust.
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let address = format!("127.0.0.1:{}", proxy.port());
    let weak = "DEFAULT@SECLEVEL=0";
    let arguments = [
        "s_client",
        "-connect",
        &address,
        "-tls1",
        "-cipher",
        weak,
        "-servername",
        "told.example",
        "-verify_return_error",
    ];
    assert_ne!(run(&openssl, &arguments).await.code, Some(0));
    proxy
        .wait_for_stderr(|said| said.contains("OpenSSL: ") && said.contains("unknown ca"))
        .await;
    let said = proxy.stderr();
    let line = said
        .lines()
        .find(|line| line.contains("unknown ca"))
        .unwrap();
    for part in ["TLS handshake failed", "127.0.0.1:", "told.example"] {
        assert!(line.contains(part), "{line}");
    }
}

#[tokio::test]
async fn a_handshake_that_stands_still_is_ended_at_every_point() {
    let backend = Backend::echo().run().await;
    let mut proxy = old(&backend).listener("handshake_timeout = 1").run().await;
    // TLS 1.0, AES128-SHA, and a group: P-256.
    let mut hello = vec![22, 3, 1, 0, 55, 1, 0, 0, 51, 3, 1];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0, 47, 1, 0]);
    hello.extend([0, 8, 0, 10, 0, 4, 0, 2, 0, 23]);
    let cut = |length: usize| hello[..length].to_vec();
    let mut waiting = Vec::new();
    for bytes in [cut(0), cut(3), cut(20)] {
        let mut raw = Raw::over(proxy.plain().await);
        raw.write(bytes).await;
        waiting.push(raw);
    }
    for mut raw in waiting {
        raw.expect_closed(Duration::from_secs(3)).await;
    }
    // The certificate here is ECDSA: RSA key exchange is refused, in one answer, by rustls.
    let mut raw = Raw::over(proxy.plain().await);
    raw.write(&hello).await;
    assert_eq!(raw.read_until_close().await, [21, 3, 3, 0, 2, 2, 40]);
    // ECDHE-ECDSA-AES128-SHA goes: the server's flight comes, and then it waits for the client's.
    let at = 46;
    hello[at..at + 2].copy_from_slice(&[0xC0, 0x09]);
    let mut raw = Raw::over(proxy.plain().await);
    // One byte after the other, to see that the hello is put together.
    for byte in &hello {
        raw.write([*byte]).await;
    }
    let (come, ended) = raw.read_to_end().await;
    assert_eq!(come[..3], [22, 3, 1], "{come:?}");
    assert_eq!(ended, Ended::Cleanly);
    proxy
        .wait_for_stderr(|said| {
            said.matches("not finished within handshake_timeout")
                .count()
                == 4
        })
        .await;
}

#[tokio::test]
async fn a_client_that_a_proxy_announces_is_looked_at_behind_the_header() {
    let backend = Backend::echo().run().await;
    let trusting = "proxy_protocol = { trusted = [\"127.0.0.1\"] }";
    let proxy = old(&backend).listener(trusting).run().await;
    for client in [Old::speaking(SslVersion::TLS1), Old::with("ALL")] {
        let mut tcp = proxy.plain().await;
        let header = b"PROXY TCP4 10.0.0.3 10.0.0.1 4711 443\r\n";
        tcp.write_all(header).await.unwrap();
        let stream = client.try_over(tcp).await.unwrap();
        let mut client = Client::http1(stream).await;
        let said = client.get("/").await.text();
        assert!(said.contains("X-Forwarded-For: 10.0.0.3\r\n"), "{said}");
    }
}

#[tokio::test]
async fn connections_end_as_they_do_elsewhere() {
    let backend = Backend::echo().run().await;
    let proxy = old(&backend).run().await;
    let connect = async || Raw::over(Old::speaking(SslVersion::TLS1_1).connect(&proxy).await);
    // Asked for by the client, and at once.
    let mut raw = connect().await;
    raw.write("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(raw.read_response().await.status(), 200);
    raw.expect_closed(Duration::from_secs(1)).await;
    // Refused before the body is read: the answer arrives although the client goes on sending.
    let mut raw = connect().await;
    raw.write(
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\nExpect: odd\r\n\r\n",
    )
    .await;
    let _ = raw.try_write(vec![b'x'; 200_000]).await;
    assert_eq!(raw.read_response().await.status(), 417);
    assert_eq!(raw.read_to_end().await.1, Ended::Cleanly);
    // The client says goodbye, and reads on.
    let mut raw = connect().await;
    raw.write("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(raw.read_response().await.status(), 200);
    raw.half_close().await;
    raw.expect_closed(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_reload_that_forbids_a_version_ends_its_connections() {
    let backend = Backend::echo().run().await;
    let mut proxy = old(&backend).run().await;
    let stream = Old::speaking(SslVersion::TLS1).connect(&proxy).await;
    let mut raw = Raw::over(stream);
    raw.write("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(raw.read_response().await.status(), 200);
    proxy.rewrite(|toml| toml.replace("tls_cipher_policy_1_0", "tls_cipher_policy_1_2"));
    assert_eq!(proxy.reload().await, Reload::TakenUp);
    raw.expect_closed(Duration::from_secs(2)).await;
    let refused = refusal(&proxy, Old::speaking(SslVersion::TLS1)).await;
    assert!(refused.contains("alert handshake failure"), "{refused}");
}
