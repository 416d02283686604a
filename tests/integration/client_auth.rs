//! Mutual authentication: who is let in, how others are refused, and what a reload does to those inside.

use std::sync::Arc;

use rcgen::{CertificateParams, DnType, SerialNumber};
use rustls::HandshakeKind;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::backend::Backend;
use crate::support::client::Client;
use crate::support::gate::Gate;
use crate::support::pki::{self, Authority, Issued};
use crate::support::program::run;
use crate::support::proxy::{Proxy, Reload, Running, free_port};
use crate::support::raw::Raw;
use crate::support::{peer, within};
use crate::websocket;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A listener that asks for certificates of `clients`, written as `client_auth` beside its files.
pub(crate) fn asking(backend: &Backend, clients: &Authority, mode: &str) -> Proxy {
    let proxy = Proxy::to(backend);
    std::fs::write(proxy.directory().join("clients.crt"), clients.pem()).unwrap();
    proxy.listener(&format!(
        "client_auth = {{ ca = [\"clients.crt\"], mode = \"{mode}\" }}"
    ))
}

pub(crate) fn named(name: &str) -> impl FnOnce(&mut CertificateParams) {
    move |params| params.distinguished_name.push(DnType::CommonName, name)
}

/// A connection by a client that shows a certificate.
pub(crate) async fn connect(
    proxy: &Running,
    identity: Option<&Issued>,
    alpn: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let config = Arc::new(proxy.authority().config(alpn, identity));
    let name = ServerName::try_from("localhost").unwrap();
    let connect = TlsConnector::from(config).connect(name, proxy.plain().await);
    within("the handshake ends", connect).await
}

pub(crate) async fn http1(proxy: &Running, identity: Option<&Issued>) -> Client {
    let stream = connect(proxy, identity, &["http/1.1"]).await.unwrap();
    Client::http1(stream).await
}

/// What openssl is told, if it is refused: the alert's number.
async fn alert(proxy: &Running, version: &str, identity: Option<&Issued>) -> Option<u8> {
    let address = format!("127.0.0.1:{}", proxy.port());
    let mut arguments = vec!["s_client", "-connect", &address, version, "-ign_eof"];
    let files = identity.map(|issued| pki::write(proxy.directory(), "shown", issued));
    if let Some((cert, key)) = &files {
        arguments.extend(["-cert", cert.to_str().unwrap()]);
        arguments.extend(["-key", key.to_str().unwrap()]);
    }
    let outcome = run("openssl", &arguments).await;
    let (_, number) = outcome.stderr.split_once("SSL alert number ")?;
    number.split_whitespace().next()?.parse().ok()
}

#[tokio::test]
async fn who_has_a_certificate_is_served_by_both_protocols() {
    let backend = Backend::echo().run().await;
    let clients = Authority::named("clients");
    let proxy = asking(&backend, &clients, "required").run().await;
    let client = clients.issue_as(named("client"));
    assert_eq!(
        http1(&proxy, Some(&client)).await.get("/").await.status,
        200
    );
    let stream = connect(&proxy, Some(&client), &["h2"]).await.unwrap();
    assert_eq!(Client::http2(stream).await.get("/").await.status, 200);
}

#[tokio::test]
async fn an_intermediate_may_be_the_authority_and_files_hold_several() {
    let backend = Backend::echo().run().await;
    let (root, other) = (Authority::named("root"), Authority::named("other"));
    let middle = root.authority("middle");
    let proxy = Proxy::to(&backend).listener("client_auth = { ca = [\"one.crt\", \"two.crt\"] }");
    let two = other.pem().to_owned() + Authority::named("third").pem();
    std::fs::write(proxy.directory().join("one.crt"), middle.pem()).unwrap();
    std::fs::write(proxy.directory().join("two.crt"), two).unwrap();
    let proxy = proxy.run().await;
    for issuer in [&middle, &other] {
        let client = issuer.issue_as(named("client"));
        assert_eq!(
            http1(&proxy, Some(&client)).await.get("/").await.status,
            200
        );
    }
    let cousin = root.issue_as(named("cousin"));
    let stream = connect(&proxy, Some(&cousin), &["http/1.1"]).await;
    assert!(is_refused(stream).await);
}

/// Whether a connection ends before anything is answered: under TLS 1.3 the client learns of it late.
async fn is_refused(stream: std::io::Result<TlsStream<TcpStream>>) -> bool {
    let Ok(stream) = stream else { return true };
    let mut raw = Raw::over(stream);
    let _ = raw.try_write(GET).await;
    raw.read_byte().await.is_none()
}

#[tokio::test]
async fn openssl_is_refused_with_the_right_alert() {
    if peer("openssl").is_none() {
        return;
    }
    let backend = Backend::echo().run().await;
    let clients = Authority::named("clients");
    let proxy = Proxy::to(&backend)
        .listener("client_auth = { ca = [\"clients.crt\"], crl = [\"clients.crl\"] }");
    std::fs::write(proxy.directory().join("clients.crt"), clients.pem()).unwrap();
    std::fs::write(proxy.directory().join("clients.crl"), clients.revoke(&[13])).unwrap();
    let mut proxy = proxy.run().await;
    let revoked = clients.issue_as(|params| {
        params.serial_number = Some(SerialNumber::from(13));
        named("revoked")(params);
    });
    let expired = clients.issue_as(|params| params.not_after = rcgen::date_time_ymd(2021, 1, 1));
    let stranger = Authority::named("strangers").issue_as(named("stranger"));
    for (identity, expected, reason) in [
        (None, 116, "peer sent no certificates"),
        (Some(&stranger), 48, "UnknownIssuer"),
        (Some(&expired), 45, "expired"),
        (Some(&revoked), 44, "Revoked"),
    ] {
        for version in ["-tls1_2", "-tls1_3"] {
            let told = alert(&proxy, version, identity).await;
            assert_eq!(told, Some(expected), "{version} {reason}");
        }
        proxy
            .wait_for_stderr(|text| text.contains("TLS handshake failed") && text.contains(reason))
            .await;
    }
    assert!(backend.requests().is_empty());
}

#[tokio::test]
async fn optional_serves_who_has_none_and_refuses_strangers() {
    let backend = Backend::echo().run().await;
    let clients = Authority::named("clients");
    let proxy = asking(&backend, &clients, "optional").run().await;
    assert_eq!(http1(&proxy, None).await.get("/").await.status, 200);
    let stranger = Authority::named("strangers").issue_as(named("stranger"));
    let stream = connect(&proxy, Some(&stranger), &["http/1.1"]).await;
    assert!(is_refused(stream).await);
    let told = asking(&backend, &clients, "optional_no_ca").run().await;
    let answer = http1(&told, Some(&stranger)).await.get("/").await;
    assert_eq!(answer.status, 200);
}

/// In the place of a file's text: the file is named, and is not there.
const MISSING: &str = "missing";

#[tokio::test]
async fn files_that_say_nothing_refuse_the_start_as_row_41_says() {
    let backend = Backend::echo().run().await;
    let clients = Authority::named("clients");
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let list = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    let issued = clients.issue_as(named("client"));
    for (ca, crl, told) in [
        (None, None, "`clients.crt` cannot be read"),
        (Some(""), None, "`clients.crt` is empty"),
        (Some("\n"), None, "`clients.crt` is empty"),
        (Some("garbage"), None, "`clients.crt` holds no PEM section"),
        (Some(nonsense), None, "cannot be used as an authority"),
        (Some(&*issued.key_pem), None, "a `PRIVATE KEY` section"),
        (Some(clients.pem()), Some(""), "`clients.crl` is empty"),
        (
            Some(clients.pem()),
            Some(MISSING),
            "`clients.crl` cannot be read",
        ),
        (
            Some(clients.pem()),
            Some(list),
            "a revocation list cannot be used",
        ),
        (
            Some(clients.pem()),
            Some(clients.pem()),
            "a `CERTIFICATE` section",
        ),
    ] {
        let auth = match crl {
            None => "client_auth = { ca = [\"clients.crt\"] }",
            Some(_) => "client_auth = { ca = [\"clients.crt\"], crl = [\"clients.crl\"] }",
        };
        let proxy = Proxy::to(&backend).listener(auth);
        for (name, text) in [("clients.crt", ca), ("clients.crl", crl)] {
            if let Some(text) = text.filter(|text| *text != MISSING) {
                std::fs::write(proxy.directory().join(name), text).unwrap();
            }
        }
        let mut proxy = proxy.spawn();
        assert_eq!(proxy.exit().await.code(), Some(1), "{told}");
        let folder = format!("{}/", proxy.directory().display());
        // What it said last may still be on its way.
        proxy
            .wait_for_stderr(|text| text.contains(" error, "))
            .await;
        let stderr = proxy.stderr().replace(&folder, "");
        assert!(stderr.contains(told), "{told}: {stderr}");
        let key = if crl.is_some() { "crl = [" } else { "ca = [" };
        assert!(stderr.contains(key), "the key is shown: {stderr}");
    }
}

#[tokio::test]
async fn a_reload_with_an_empty_authority_changes_nothing() {
    let backend = Backend::echo().run().await;
    let clients = Authority::named("clients");
    let mut proxy = asking(&backend, &clients, "required").run().await;
    let client = clients.issue_as(named("client"));
    std::fs::write(proxy.directory().join("clients.crt"), "").unwrap();
    assert_eq!(proxy.reload().await, Reload::Refused);
    assert_eq!(
        http1(&proxy, Some(&client)).await.get("/").await.status,
        200
    );
    assert!(is_refused(connect(&proxy, None, &["http/1.1"]).await).await);
}

#[tokio::test]
async fn a_reload_with_a_damaged_list_changes_nothing_and_says_which() {
    let backend = Backend::echo().run().await;
    let clients = Authority::named("clients");
    let proxy = Proxy::to(&backend)
        .listener("client_auth = { ca = [\"clients.crt\"], crl = [\"clients.crl\"] }");
    let (ca, crl) = (
        proxy.directory().join("clients.crt"),
        proxy.directory().join("clients.crl"),
    );
    let list = clients.revoke(&[13]);
    std::fs::write(&ca, clients.pem()).unwrap();
    std::fs::write(&crl, &list).unwrap();
    let mut proxy = proxy.run().await;
    let good = clients.issue_as(named("client"));
    let revoked = clients.issue_as(|params| {
        params.serial_number = Some(SerialNumber::from(13));
        named("revoked")(params);
    });
    let nonsense = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    let torn = &list[..list.len() / 2];
    for (text, told) in [
        ("", "`clients.crl` is empty"),
        (nonsense, "a revocation list cannot be used"),
        (torn, "clients.crl"),
        (clients.pem(), "a `CERTIFICATE` section"),
    ] {
        std::fs::write(&crl, text).unwrap();
        let before = proxy.stderr().len();
        assert_eq!(proxy.reload().await, Reload::Refused, "{told}");
        let folder = format!("{}/", proxy.directory().display());
        let said = proxy.stderr()[before..].replace(&folder, "");
        assert!(said.contains(told), "{told}: {said}");
        let served = http1(&proxy, Some(&good)).await.get("/").await.status;
        assert_eq!(served, 200, "{told}");
        let stream = connect(&proxy, Some(&revoked), &["http/1.1"]).await;
        assert!(is_refused(stream).await, "{told}");
    }
}

#[tokio::test]
async fn a_session_of_an_open_listener_does_not_go_on_where_clients_are_authenticated() {
    let backend = Backend::echo().run().await;
    let clients = Authority::named("clients");
    let proxy = Proxy::to(&backend).server("secret_file = \"secret\"");
    std::fs::write(proxy.directory().join("clients.crt"), clients.pem()).unwrap();
    crate::tickets::write_secret(proxy.directory(), crate::tickets::SECRET);
    let mut proxy = proxy.run().await;
    let (optional, required) = (free_port(), free_port());
    proxy.rewrite(|mut toml| {
        for (mode, port) in [("optional", optional), ("required", required)] {
            toml += &format!(
                "[[listener]]\nname = \"{mode}\"\nprotocol = \"https\"\naddress = \"127.0.0.1\"\n\
                 port = {port}\ncertificates = [\"site\"]\nserver_group = \"app\"\n\
                 client_auth = {{ ca = [\"clients.crt\"], mode = \"{mode}\" }}\n"
            );
        }
        toml
    });
    assert_eq!(proxy.reload().await, Reload::TakenUp);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = Arc::new(proxy.authority().config_for(&[version], &[], None));
        // How it is taken, where it is served.
        let visit = async |port: u16| {
            let tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let stream = TlsConnector::from(Arc::clone(&config)).connect(name, tcp);
            let stream = within("the handshake ends", stream).await.ok()?;
            let kind = stream.get_ref().1.handshake_kind();
            let mut raw = Raw::over(stream);
            let _ = raw.try_write(GET).await;
            raw.read_head().await?;
            kind
        };
        let (anew, resumed) = (Some(HandshakeKind::Full), Some(HandshakeKind::Resumed));
        assert_eq!(visit(proxy.port()).await, anew, "{version:?}");
        assert_eq!(visit(proxy.port()).await, resumed, "{version:?}");
        assert_eq!(visit(required).await, None, "{version:?}");
        assert!(visit(proxy.port()).await.is_some(), "{version:?}");
        assert_eq!(visit(optional).await, anew, "{version:?}");
        assert_eq!(visit(optional).await, resumed, "{version:?}");
        assert_eq!(visit(required).await, None, "{version:?}");
        assert_eq!(visit(proxy.port()).await, anew, "{version:?}");
    }
}

#[tokio::test]
async fn a_nul_in_a_client_s_name_reaches_the_backend_escaped() {
    let backend = Backend::echo().run().await;
    let clients = Authority::named("clients");
    let proxy = asking(&backend, &clients, "required")
        .headers("client_cert_subject_dn = true")
        .run()
        .await;
    let client = clients.issue_as(named("admin\0.example"));
    let said = http1(&proxy, Some(&client)).await.get("/").await.text();
    assert!(said.contains(": CN=admin\\00.example\r\n"), "{said}");
}

#[tokio::test]
async fn a_change_of_authentication_ends_connections_after_their_exchange() {
    let mut gate = Gate::new().await;
    let clients = Authority::named("clients");
    let client = clients.issue_as(named("client"));
    let list = clients.revoke(&[13]);
    let asks = "client_auth = { ca = [\"clients.crt\"], mode = \"optional\" }";
    let with_list = asks.replace(", mode", ", crl = [\"clients.crl\"], mode");
    let other = clients.pem().to_owned() + Authority::named("second").pem();
    let changes: [(&str, String, &str); 4] = [
        ("mode", asks.replace("optional", "required"), clients.pem()),
        ("list", with_list, clients.pem()),
        ("authorities", asks.to_owned(), &other),
        ("everything", String::new(), clients.pem()),
    ];
    for (what, after, ca) in changes {
        let proxy = asking(&gate.backend, &clients, "optional");
        std::fs::write(proxy.directory().join("clients.crl"), &list).unwrap();
        let mut proxy = proxy.run().await;
        let stream = connect(&proxy, Some(&client), &["http/1.1"]).await.unwrap();
        let mut busy = Raw::over(stream);
        busy.write(GET).await;
        gate.asked().await;
        let mut idle = Raw::over(connect(&proxy, None, &["http/1.1"]).await.unwrap());
        proxy.rewrite(|toml| toml.replace(asks, &after));
        std::fs::write(proxy.directory().join("clients.crt"), ca).unwrap();
        assert_eq!(proxy.reload().await, Reload::TakenUp, "{what}");
        assert_eq!(idle.read_byte().await, None, "{what}");
        gate.open();
        let answer = busy.read_response().await;
        assert_eq!(answer.status(), 200, "{what}");
        assert_eq!(answer.field("connection"), Some("close"), "{what}");
        assert_eq!(busy.read_byte().await, None, "{what}");
    }
}

#[tokio::test]
async fn a_reload_that_leaves_authentication_as_it_is_leaves_its_connections() {
    let backend = Backend::echo().run().await;
    let clients = Authority::named("clients");
    let mut proxy = asking(&backend, &clients, "required").run().await;
    let client = clients.issue_as(named("client"));
    let mut http1 = http1(&proxy, Some(&client)).await;
    let stream = connect(&proxy, Some(&client), &["h2"]).await.unwrap();
    let mut http2 = Client::http2(stream).await;
    assert_eq!(http1.get("/").await.status, 200);
    assert_eq!(http2.get("/").await.status, 200);
    // The same authority under another name, and a second listener with other terms.
    let copy = proxy.directory().join("copy.crt");
    std::fs::write(copy, clients.pem().to_owned() + clients.pem()).unwrap();
    let port = free_port();
    proxy.rewrite(|toml| {
        toml.replace("clients.crt", "copy.crt")
            + &format!(
                "[[listener]]\nname = \"second\"\nprotocol = \"https\"\naddress = \"127.0.0.1\"\n\
                 port = {port}\ncertificates = [\"site\"]\nserver_group = \"app\"\n"
            )
    });
    assert_eq!(proxy.reload().await, Reload::TakenUp);
    for _ in 0..2 {
        assert_eq!(http1.get("/").await.status, 200);
        assert_eq!(http2.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn a_tunnel_of_a_client_that_is_admitted_no_more_gets_drain_timeout() {
    let backend = websocket::shouting().run().await;
    let clients = Authority::named("clients");
    let client = clients.issue_as(named("client"));
    let mut proxy = asking(&backend, &clients, "required")
        .server("drain_timeout = 1")
        .run()
        .await;
    let stream = connect(&proxy, Some(&client), &["http/1.1"]).await.unwrap();
    let mut tunnel = Raw::over(stream);
    tunnel
        .write(websocket::ASKING.replace("Host: a", "Host: localhost"))
        .await;
    assert_eq!(tunnel.read_response().await.status(), 101);
    let other = Authority::named("others");
    std::fs::write(proxy.directory().join("clients.crt"), other.pem()).unwrap();
    assert_eq!(proxy.reload().await, Reload::TakenUp);
    tunnel.write("still").await;
    assert_eq!(tunnel.read_exactly(5).await, b"STILL");
    assert_eq!(tunnel.read_byte().await, None);
}

#[tokio::test]
async fn turning_on_strict_names_ends_connections_that_were_admitted_without() {
    let backend = Backend::echo().run().await;
    let mut proxy = Proxy::to(&backend).run().await;
    let mut raw = proxy.raw().await;
    raw.write(GET).await;
    assert_eq!(raw.read_response().await.status(), 200);
    proxy.rewrite(|toml| {
        toml.replace(
            "server_group = \"app\"",
            "server_group = \"app\"\nsni_strict = true",
        )
    });
    assert_eq!(proxy.reload().await, Reload::TakenUp);
    assert_eq!(raw.read_byte().await, None);
}

#[tokio::test]
async fn a_change_of_policy_ends_connections_too() {
    let backend = Backend::echo().run().await;
    let mut proxy = Proxy::to(&backend).run().await;
    let mut raw = proxy.raw().await;
    raw.write(GET).await;
    assert_eq!(raw.read_response().await.status(), 200);
    let policy = "server_group = \"app\"\ntls_policy = \"tls_cipher_policy_1_2_strict\"";
    proxy.rewrite(|toml| toml.replace("server_group = \"app\"", policy));
    assert_eq!(proxy.reload().await, Reload::TakenUp);
    assert_eq!(raw.read_byte().await, None);
}
