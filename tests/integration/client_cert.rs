//! What backends are told of clients' certificates and of TLS, and what clients cannot tell them.

use std::sync::Arc;

use aws_lc_rs::digest;
use http::header::HOST;
use http::{Method, Request, Version};
use rcgen::{DnType, DnValue};
use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::client_auth::{asking, connect, http1, named};
use crate::support::backend::Backend;
use crate::support::client::{Body, Client, empty};
use crate::support::pki::{self, Authority, Issued};
use crate::support::program::{Service, run};
use crate::support::proxy::{Proxy, Running, free_port};
use crate::support::raw::Raw;
use crate::support::{peer, within};

const ALL: &str = "client_cert_subject_dn = true\nclient_cert_issuer_dn = true\n\
    client_cert_fingerprint = true\nclient_cert_client_verify = true\nclient_cert_rfc9440 = true";

fn der(issued: &Issued) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The lines of a head that begin with one of these.
fn lines<'h>(head: &'h str, beginnings: &[&str]) -> Vec<&'h str> {
    let begins = |line: &&str| {
        let is = |beginning: &&str| line.to_lowercase().starts_with(&beginning.to_lowercase());
        beginnings.iter().any(is)
    };
    head.lines().filter(begins).collect()
}

const OURS: &[&str] = &["X-Forwarded-Clientcert", "Client-Cert", "X-Forwarded-TLS"];

#[tokio::test]
async fn the_backend_is_told_whose_certificate_it_is() {
    let backend = Backend::echo().run().await;
    let clients = Authority::named("clients");
    let middle = clients.authority("middle, \"quoted\"");
    let proxy = asking(&backend, &clients, "required")
        .headers(ALL)
        .run()
        .await;
    let mut client = middle.issue_as(|params| {
        let name = &mut params.distinguished_name;
        name.push(DnType::CountryName, "CN");
        name.push(DnType::OrganizationName, "Acme, Inc.");
        let text = "Z\u{fc}rich\r\nX-Admin: yes".to_owned();
        name.push(DnType::CommonName, DnValue::Utf8String(text));
    });
    let leaf = der(&client);
    client.cert_pem += middle.pem();
    let middle = CertificateDer::from_pem_slice(middle.pem().as_bytes()).unwrap();
    let item = |der: &[u8]| {
        use base64::Engine as _;
        format!(
            ":{}:",
            base64::engine::general_purpose::STANDARD.encode(der)
        )
    };
    let sha1 = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &leaf);
    let mut expected = vec![
        r"X-Forwarded-Clientcert-subjectdn: CN=Z\C3\BCrich\0D\0AX-Admin: yes,O=Acme\, Inc.,C=CN"
            .into(),
        r#"X-Forwarded-Clientcert-issuerdn: CN=middle\, \"quoted\""#.into(),
        format!("X-Forwarded-Clientcert-fingerprint: {}", hex(sha1.as_ref())),
        "X-Forwarded-Clientcert-clientverify: SUCCESS".to_owned(),
        format!("Client-Cert: {}", item(&leaf)),
        format!("Client-Cert-Chain: {}", item(&middle)),
    ];
    expected.sort();
    let stream = connect(&proxy, Some(&client), &["h2"]).await.unwrap();
    let http2 = Client::http2(stream).await;
    for mut client in [http1(&proxy, Some(&client)).await, http2] {
        // The second request is told what the first was.
        for _ in 0..2 {
            let head = client.get("/").await.text();
            let mut told = lines(&head, OURS);
            told.sort_unstable();
            assert_eq!(told, expected);
        }
    }
    let line = proxy.wait_for_access(|line| line["status"] == 200).await;
    assert_eq!(line["ssl_client_verify"], "SUCCESS");
}

#[tokio::test]
async fn the_backend_is_told_the_same_of_a_resumed_session() {
    let backend = Backend::echo().run().await;
    let clients = Authority::named("clients");
    let middle = clients.authority("middle");
    let proxy = asking(&backend, &clients, "required")
        .headers(ALL)
        .run()
        .await;
    let mut client = middle.issue_as(named("client"));
    client.cert_pem += middle.pem();
    for version in [&TLS12, &TLS13] {
        let config = proxy
            .authority()
            .config_for(&[version], &["http/1.1"], Some(&client));
        let config = Arc::new(config);
        let mut told: Vec<Vec<String>> = Vec::new();
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let name = ServerName::try_from("localhost").unwrap();
            let stream = TlsConnector::from(Arc::clone(&config))
                .connect(name, proxy.plain().await)
                .await
                .unwrap();
            assert_eq!(
                stream.get_ref().1.handshake_kind(),
                Some(kind),
                "{version:?}"
            );
            // With the answer comes the ticket for the next connection.
            let head = Client::http1(stream).await.get("/").await.text();
            let mut lines: Vec<_> = lines(&head, OURS).into_iter().map(String::from).collect();
            lines.sort_unstable();
            told.push(lines);
        }
        let [full, resumed] = &told[..] else {
            unreachable!()
        };
        assert_eq!(full.len(), 6, "{full:?}");
        assert_eq!(full, resumed, "{version:?}");
    }
}

#[tokio::test]
async fn names_of_one_s_own_replace_the_headers_and_keep_their_spelling() {
    let backend = Backend::echo().run().await;
    let clients = Authority::named("clients");
    let proxy = asking(&backend, &clients, "required")
        .headers(
            "client_cert_subject_dn = \"x-client_dn\"\nclient_cert_fingerprint = \"fp\"\n\
             client_cert_fingerprint_hash = \"sha256\"",
        )
        .run()
        .await;
    let client = clients.issue_as(named("c"));
    let head = http1(&proxy, Some(&client)).await.get("/").await.text();
    let sha256 = hex(digest::digest(&digest::SHA256, &der(&client)).as_ref());
    assert_eq!(lines(&head, &["x-client", "fp"]).len(), 2, "{head}");
    assert!(head.contains("\r\nx-client_dn: CN=c\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nfp: {sha256}\r\n")), "{head}");
    assert_eq!(lines(&head, OURS), [""; 0]);
}

#[tokio::test]
async fn who_does_not_verify_and_who_has_none_is_told_apart() {
    let backend = Backend::echo().run().await;
    let clients = Authority::named("clients");
    let proxy = asking(&backend, &clients, "optional_no_ca")
        .headers(ALL)
        .run()
        .await;
    let good = clients.issue_as(named("good"));
    let expired = clients.issue_as(|params| {
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        named("expired")(params);
    });
    let stranger = Authority::named("strangers").issue_as(named("stranger"));
    for (identity, verify, name) in [
        (Some(&good), "SUCCESS", Some("CN=good")),
        (
            Some(&expired),
            "FAILED:certificate has expired",
            Some("CN=expired"),
        ),
        (
            Some(&stranger),
            "FAILED:unable to get local issuer certificate",
            Some("CN=stranger"),
        ),
        (None, "NONE", None),
    ] {
        let head = http1(&proxy, identity).await.get("/").await.text();
        let told = format!("X-Forwarded-Clientcert-clientverify: {verify}");
        assert_eq!(
            lines(&head, &["X-Forwarded-Clientcert-clientverify"]),
            [&*told]
        );
        let name = name.map(|name| format!("X-Forwarded-Clientcert-subjectdn: {name}"));
        let told = lines(&head, &["X-Forwarded-Clientcert-subjectdn"]);
        assert_eq!(told.first().copied(), name.as_deref());
        let all = if name.is_some() { 5 } else { 1 };
        assert_eq!(lines(&head, OURS).len(), all, "{head}");
        let line = proxy.wait_for_access(|line| line["ssl_client_verify"] == verify);
        assert_eq!(line.await["status"], 200);
    }
}

#[tokio::test]
async fn without_authentication_the_headers_say_so() {
    let backend = Backend::echo().run().await;
    let proxy = Proxy::to(&backend).headers(ALL).run().await;
    let head = proxy.client().await.get("/").await.text();
    assert_eq!(
        lines(&head, OURS),
        ["X-Forwarded-Clientcert-clientverify: NONE"]
    );
    let line = proxy.wait_for_access(|line| line["status"] == 200).await;
    assert_eq!(line["ssl_client_verify"], "-");
}

/// What clients send who would like to be somebody else (attacks.md row 46).
const FORGED: &str = "X-Forwarded-Clientcert-subjectdn: CN=admin\r\n\
    x_forwarded_clientcert.clientverify: SUCCESS\r\nClient-Cert: :AAAA:\r\nclient_cert_chain: :AAAA:\r\n\
    X-Forwarded-TLS-Protocol: TLSv1.3\r\nx-forwarded-tls_cipher: X\r\n\
    x-client_dn: CN=admin\r\nX-Client-DN: CN=admin\r\nx.client.dn: CN=admin\r\nX_CLIENT_DN: CN=admin\r\n";

#[tokio::test]
async fn what_clients_say_of_themselves_is_removed_on_every_listener() {
    let backend = Backend::echo().run().await;
    let clients = Authority::named("clients");
    let plain = free_port();
    let name = "client_cert_subject_dn = \"x-client_dn\"";
    let proxy = asking(&backend, &clients, "optional").headers(name).group(&format!(
        "[[listener]]\nname = \"plain\"\nprotocol = \"http\"\naddress = \"127.0.0.1\"\nport = {plain}\n\
         server_group = \"app\""
    ));
    let proxy = proxy.run().await;
    let stream = TcpStream::connect(("127.0.0.1", plain)).await.unwrap();
    let secured = connect(&proxy, None, &["http/1.1"]).await.unwrap();
    let named = clients.issue_as(named("me"));
    let known = connect(&proxy, Some(&named), &["http/1.1"]).await.unwrap();
    for (mut raw, own) in [
        (Raw::over(stream), &[][..]),
        (Raw::over(secured), &[]),
        (Raw::over(known), &["x-client_dn: CN=me"]),
    ] {
        let head = format!("POST / HTTP/1.1\r\nHost: localhost\r\n{FORGED}");
        let body = "Transfer-Encoding: chunked\r\nConnection: x-client_dn\r\n\r\n0\r\n";
        let trailers = "X-Client-DN: CN=admin\r\nClient-Cert: :AAAA:\r\nX-Sum: 1\r\n\r\n";
        raw.write(format!("{head}{body}{trailers}")).await;
        assert_eq!(raw.read_response().await.status(), 200);
        let request = backend.requests().pop().unwrap();
        let all = [OURS, &["x-client", "x_client", "x.client"]].concat();
        assert_eq!(lines(&request.head, &all), own, "{}", request.head);
    }
}

/// A connection to the listener that names a host in TLS, or none.
async fn naming(proxy: &Running, client: &Issued, name: &str, alpn: &[&str]) -> Client {
    let mut config = proxy.authority().config(alpn, Some(client));
    config.enable_sni = name != "127.0.0.1";
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connect = TlsConnector::from(Arc::new(config)).connect(name, proxy.plain().await);
    let stream = within("the handshake ends", connect).await.unwrap();
    match alpn {
        ["h2"] => Client::http2(stream).await,
        _ => Client::http1(stream).await,
    }
}

fn for_host(host: &str, version: Version) -> Request<Body> {
    let request = Request::builder().method(Method::GET);
    match version {
        Version::HTTP_2 => request.uri(format!("https://{host}/")),
        _ => request.uri("/").header(HOST, host),
    }
    .body(empty())
    .unwrap()
}

#[tokio::test]
async fn a_host_that_the_certificate_does_not_cover_is_misdirected() {
    let backend = Backend::echo().run().await;
    let clients = Authority::named("clients");
    let proxy = asking(&backend, &clients, "required").run().await;
    let client = clients.issue_as(named("client"));
    for (alpn, version) in [("http/1.1", Version::HTTP_11), ("h2", Version::HTTP_2)] {
        for name in ["localhost", "127.0.0.1"] {
            let mut client = naming(&proxy, &client, name, &[alpn]).await;
            // Each on the same connection: the first may be right and the second not (attacks.md row 40).
            for (host, status) in [
                ("localhost", 200),
                ("secret.example", 421),
                ("LOCALHOST.:8443", 200),
                ("127.0.0.1", 200),
                ("127.0.0.2", 421),
                ("[::1]:443", 421),
                ("sub.localhost", 421),
                ("localhost", 200),
            ] {
                let answer = client.send(for_host(host, version)).await;
                assert_eq!(answer.status, status, "{alpn} {name} {host}");
            }
        }
    }
    let line = proxy.wait_for_access(|line| line["status"] == 421).await;
    assert_eq!(line["cause"], "misdirected_request");
    // Without a host the backend would choose one.
    let stream = connect(&proxy, Some(&client), &["http/1.1"]).await.unwrap();
    let mut raw = Raw::over(stream);
    raw.write("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(raw.read_response().await.status(), 421);
    let open = Proxy::to(&backend).run().await;
    let mut client = open.client().await;
    let answer = client
        .send(for_host("secret.example", Version::HTTP_11))
        .await;
    assert_eq!(answer.status, 200);
    let strict = Proxy::to(&backend)
        .listener("sni_strict = true")
        .run()
        .await;
    let mut client = strict.client().await;
    for (host, status) in [("localhost", 200), ("secret.example", 421)] {
        let answer = client.send(for_host(host, Version::HTTP_11)).await;
        assert_eq!(answer.status, status, "{host}");
    }
}

#[tokio::test]
async fn the_certificate_chosen_by_sni_is_the_one_that_counts_for_the_host() {
    let backend = Backend::echo().run().await;
    let clients = Authority::named("clients");
    let proxy = Proxy::new();
    let directory = proxy.directory().to_owned();
    std::fs::write(directory.join("clients.crt"), clients.pem()).unwrap();
    let authority = Authority::new();
    for (name, names) in [
        ("a", &["a.example"][..]),
        ("b", &["*.b.example", "b.example"]),
    ] {
        pki::write(&directory, name, &authority.issue(names));
    }
    let proxy = proxy
        .raw_config(format!(
            "[[certificate]]\nname = \"a\"\ncert = \"a.crt\"\nkey = \"a.key\"\n\
             [[certificate]]\nname = \"b\"\ncert = \"b.crt\"\nkey = \"b.key\"\n\
             [[listener]]\nname = \"web\"\nprotocol = \"https\"\naddress = \"127.0.0.1\"\nport = {{port}}\n\
             certificates = [\"a\", \"b\"]\nserver_group = \"app\"\nclient_auth = {{ ca = [\"clients.crt\"] }}\n\
             [[server_group]]\nname = \"app\"\nservers = [{{ address = \"{}\" }}]\n",
            backend.address()
        ))
        .run()
        .await;
    let client = clients.issue_as(named("client"));
    for (name, served) in [
        ("a.example", &["a.example"][..]),
        ("x.b.example", &["x.b.example", "y.b.example", "b.example"]),
    ] {
        let config = Arc::new(authority.config(&["http/1.1"], Some(&client)));
        let sni = ServerName::try_from(name).unwrap();
        let stream = TlsConnector::from(config)
            .connect(sni, proxy.plain().await)
            .await;
        let mut client = Client::http1(stream.unwrap()).await;
        for host in [
            "a.example",
            "x.b.example",
            "y.b.example",
            "b.example",
            "c.example",
        ] {
            let answer = client.send(for_host(host, Version::HTTP_11)).await;
            let expected = if served.contains(&host) { 200 } else { 421 };
            assert_eq!(answer.status, expected, "{name} {host}");
        }
    }
}

#[tokio::test]
async fn the_backend_learns_protocol_and_suite() {
    let backend = Backend::echo().run().await;
    let proxy = Proxy::to(&backend)
        .headers("tls_protocol = true\ntls_cipher = true")
        .run()
        .await;
    for (version, protocol, suite) in [
        (&TLS12, "TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384"),
        (&TLS13, "TLSv1.3", "TLS_AES_256_GCM_SHA384"),
    ] {
        let config = proxy
            .authority()
            .config_for(&[version], &["http/1.1"], None);
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, proxy.plain().await)
            .await;
        let head = Client::http1(stream.unwrap()).await.get("/").await.text();
        let expected = [
            format!("X-Forwarded-TLS-Cipher: {suite}"),
            format!("X-Forwarded-TLS-Protocol: {protocol}"),
        ];
        let mut told = lines(&head, OURS);
        told.sort_unstable();
        assert_eq!(told, expected);
    }
}

#[tokio::test]
async fn nginx_says_the_same_of_a_client() {
    let (Some(nginx), Some(curl)) = (peer("nginx"), peer("curl")) else {
        return;
    };
    let backend = Backend::echo().run().await;
    let clients = Authority::named("clients");
    let proxy = asking(&backend, &clients, "optional_no_ca")
        .headers(ALL)
        .run()
        .await;
    let prefix = proxy.directory().to_str().unwrap().to_owned();
    let (port, config) = (free_port(), proxy.directory().join("nginx.conf"));
    let text = format!(
        "daemon off; master_process off; pid {prefix}/pid; error_log stderr;\nevents {{}}\n\
         http {{ access_log off;\nclient_body_temp_path {prefix}/body; proxy_temp_path {prefix}/proxy;\n\
         fastcgi_temp_path {prefix}/fastcgi; uwsgi_temp_path {prefix}/uwsgi; scgi_temp_path {prefix}/scgi;\n\
         server {{ listen 127.0.0.1:{port} ssl; ssl_certificate site.crt; ssl_certificate_key site.key;\n\
         ssl_client_certificate clients.crt; ssl_verify_client optional_no_ca; default_type text/plain;\n\
         return 200 \"$ssl_client_s_dn\\n$ssl_client_i_dn\\n$ssl_client_fingerprint\\n$ssl_client_verify\"; }} }}\n"
    );
    std::fs::write(&config, text).unwrap();
    let _nginx = Service::start(nginx, &["-p", &prefix, "-c", config.to_str().unwrap()]);
    within("nginx listens", async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    let good = clients.issue_as(|params| {
        params
            .distinguished_name
            .push(DnType::OrganizationName, "A+B, \"C\"");
        params
            .distinguished_name
            .push(DnType::CommonName, "#1 \u{e4}\u{f6}\u{fc} ");
    });
    for (identity, verify) in [(Some(&good), "SUCCESS"), (None, "NONE")] {
        let files = identity.map(|issued| pki::write(proxy.directory(), "shown", issued));
        let url = format!("https://127.0.0.1:{port}/");
        let mut arguments = vec!["-sSk", &url];
        if let Some((cert, key)) = &files {
            arguments.extend([
                "--cert",
                cert.to_str().unwrap(),
                "--key",
                key.to_str().unwrap(),
            ]);
        }
        let theirs = run(&curl, &arguments).await.succeeded();
        let head = http1(&proxy, identity).await.get("/").await.text();
        let ours = |name: &str| {
            let name = format!("X-Forwarded-Clientcert-{name}: ");
            let line = head.lines().find_map(|line| line.strip_prefix(&name));
            line.unwrap_or_default()
        };
        let names = ["subjectdn", "issuerdn", "fingerprint", "clientverify"];
        assert_eq!(names.map(ours).join("\n"), theirs);
        assert_eq!(ours("clientverify"), verify);
    }
}
