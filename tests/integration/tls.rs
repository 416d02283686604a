//! TLS as clients see it: which certificate, which protocol, which version, and what is refused; by
//! rustls here, and by the clients and servers that people use.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use ::aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::client::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    CipherSuite, ConnectionTrafficSecrets, DigitallySignedStruct, ProtocolVersion, SignatureScheme,
    SupportedProtocolVersion, version,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::floods::cpu;
use crate::support::backend::Backend;
use crate::support::client::Client;
use crate::support::pki::{self, Authority};
use crate::support::program::{Service, run, run_with};
use crate::support::proxy::{Proxy, Reload, Running, free_port};
use crate::support::raw::Raw;
use crate::support::{peer, within};

/// Believes every certificate: which one is shown is what the tests look at.
#[derive(Debug)]
struct Credulous(Arc<CryptoProvider>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

const ONLY_1_2: &[&SupportedProtocolVersion] = &[&version::TLS12];
const ONLY_1_3: &[&SupportedProtocolVersion] = &[&version::TLS13];

/// What a client offers.
struct Offer {
    name: &'static str,
    alpn: &'static [&'static str],
    versions: &'static [&'static SupportedProtocolVersion],
    suites: Option<CipherSuite>,
}

impl Offer {
    fn to(name: &'static str) -> Self {
        Self {
            name,
            alpn: &[],
            versions: rustls::ALL_VERSIONS,
            suites: None,
        }
    }

    async fn try_connect(self, proxy: &Running) -> std::io::Result<TlsStream<TcpStream>> {
        let mut provider = aws_lc_rs::default_provider();
        if let Some(only) = self.suites {
            provider.cipher_suites.retain(|suite| suite.suite() == only);
        }
        let provider = Arc::new(provider);
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(self.versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous(provider)))
            .with_no_client_auth();
        config.alpn_protocols = self.alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(self.name).unwrap();
        let connect = TlsConnector::from(Arc::new(config)).connect(name, proxy.plain().await);
        within("the handshake ends", connect).await
    }

    async fn connect(self, proxy: &Running) -> TlsStream<TcpStream> {
        self.try_connect(proxy).await.unwrap()
    }
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    let chain = stream.get_ref().1.peer_certificates().unwrap();
    chain[0].clone().into_owned()
}

async fn proxy() -> (Backend, Running) {
    let backend = Backend::echo().run().await;
    let proxy = Proxy::to(&backend).run().await;
    (backend, proxy)
}

#[tokio::test]
async fn the_certificate_is_chosen_by_sni_and_the_first_is_the_default() {
    let backend = Backend::echo().run().await;
    let authority = Authority::new();
    let first = authority.issue(&["a.example"]);
    let second = authority.issue(&["*.b.example"]);
    let proxy = Proxy::new();
    pki::write(proxy.directory(), "first", &first);
    pki::write(proxy.directory(), "second", &second);
    let proxy = proxy
        .raw_config(format!(
            "[[certificate]]\nname = \"first\"\ncert = \"first.crt\"\nkey = \"first.key\"\n\
             [[certificate]]\nname = \"second\"\ncert = \"second.crt\"\nkey = \"second.key\"\n\
             [[listener]]\nname = \"web\"\nprotocol = \"https\"\naddress = \"127.0.0.1\"\nport = {{port}}\n\
             certificates = [\"first\", \"second\"]\nserver_group = \"app\"\n\
             [[server_group]]\nname = \"app\"\nservers = [{{ address = \"{}\" }}]\n",
            backend.address()
        ))
        .run()
        .await;
    let der =
        |issued: &pki::Issued| CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap();
    for (name, expected) in [
        ("a.example", &first),
        ("x.b.example", &second),
        ("X.B.EXAMPLE", &second),
        ("x.y.b.example", &first),
        ("b.example", &first),
        ("unknown.example", &first),
        // An address is never sent as SNI.
        ("127.0.0.1", &first),
    ] {
        let stream = Offer::to(name).connect(&proxy).await;
        assert!(shown(&stream) == der(expected), "{name}");
    }
}

#[tokio::test]
async fn unknown_and_absent_names_are_refused_where_names_are_strict() {
    let backend = Backend::echo().run().await;
    let mut proxy = Proxy::to(&backend)
        .listener("sni_strict = true")
        .run()
        .await;
    for versions in [ONLY_1_2, ONLY_1_3] {
        for (name, told) in [
            ("localhost", None),
            ("LOCALHOST", None),
            ("unknown.example", Some("UnrecognisedName")),
            ("a.localhost", Some("UnrecognisedName")),
            // An address is never sent as SNI.
            ("127.0.0.1", Some("UnrecognisedName")),
        ] {
            let offer = Offer {
                versions,
                ..Offer::to(name)
            };
            let outcome = offer.try_connect(&proxy).await;
            let error = outcome.err().map(|error| error.to_string());
            match told {
                None => assert_eq!(error, None, "{name}"),
                Some(told) => assert!(error.is_some_and(|e| e.contains(told)), "{name}"),
            }
        }
    }
    proxy
        .wait_for_stderr(|text| {
            text.contains("unknown.example")
                && text.contains("no certificate covers the name")
                && text.contains("no name was asked for")
                && text.contains("category=\"name\" count=2")
        })
        .await;
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let address = format!("127.0.0.1:{}", proxy.port());
    for name in [&["-servername", "unknown.example"][..], &["-noservername"]] {
        let arguments = [&["s_client", "-connect", &address][..], name].concat();
        let refused = run(&openssl, &arguments).await;
        assert!(refused.stderr.contains("alert number 112"), "{refused:?}");
    }
}

#[tokio::test]
async fn a_resumed_session_is_refused_too_once_its_name_is_gone() {
    let backend = Backend::echo().run().await;
    let mut proxy = Proxy::to(&backend)
        .listener("sni_strict = true")
        .run()
        .await;
    let config = proxy.authority().client_config(&[]);
    let connect = async |proxy: &Running| {
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::clone(&config));
        let stream = connector.connect(name, proxy.plain().await).await?;
        let mut client = Client::http1(stream).await;
        assert_eq!(client.get("/").await.status, 200);
        std::io::Result::Ok(())
    };
    connect(&proxy).await.unwrap();
    connect(&proxy).await.unwrap();
    proxy
        .wait_for_access(|line| line["ssl_session_reused"] == "r")
        .await;
    let other = proxy.authority().issue(&["elsewhere.example"]);
    pki::write(proxy.directory(), "site", &other);
    assert_eq!(proxy.reload().await, Reload::TakenUp);
    let error = connect(&proxy).await.unwrap_err();
    assert!(error.to_string().contains("UnrecognisedName"), "{error}");
}

#[tokio::test]
async fn alpn_agrees_on_the_best_protocol_that_both_speak() {
    let backend = Backend::echo().run().await;
    let with = Proxy::to(&backend).run().await;
    let without = Proxy::to(&backend).listener("http2 = false").run().await;
    let tables: [(&Running, &'static [&'static str], Option<&str>); 6] = [
        (&with, &["h2", "http/1.1"], Some("h2")),
        (&with, &["http/1.1", "h2"], Some("h2")),
        (&with, &["http/1.1"], Some("http/1.1")),
        (&with, &[], None),
        (&without, &["h2", "http/1.1"], Some("http/1.1")),
        (&without, &[], None),
    ];
    for (proxy, alpn, expected) in tables {
        let offer = Offer {
            alpn,
            ..Offer::to("localhost")
        };
        let stream = offer.connect(proxy).await;
        let agreed = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        assert_eq!(agreed.as_deref(), expected.map(str::as_bytes), "{alpn:?}");
        let mut client = match expected {
            Some("h2") => Client::http2(stream).await,
            _ => Client::http1(stream).await,
        };
        assert_eq!(client.get("/").await.status, 200, "{alpn:?}");
    }
    let only_h2 = Offer {
        alpn: &["h2"],
        ..Offer::to("localhost")
    };
    let error = only_h2.try_connect(&without).await.unwrap_err();
    assert!(
        error.to_string().contains("NoApplicationProtocol"),
        "{error}"
    );
}

#[tokio::test]
async fn serves_tls_1_2_and_1_3() {
    let (_backend, proxy) = proxy().await;
    let versions = [
        (ONLY_1_2, ProtocolVersion::TLSv1_2),
        (ONLY_1_3, ProtocolVersion::TLSv1_3),
        (rustls::ALL_VERSIONS, ProtocolVersion::TLSv1_3),
    ];
    for (versions, expected) in versions {
        let offer = Offer {
            versions,
            ..Offer::to("localhost")
        };
        let stream = offer.connect(&proxy).await;
        assert_eq!(stream.get_ref().1.protocol_version(), Some(expected));
        let mut client = Client::http1(stream).await;
        assert_eq!(client.get("/").await.status, 200, "{expected:?}");
    }
}

#[tokio::test]
async fn a_client_hello_may_come_in_pieces_of_any_size() {
    let (_backend, proxy) = proxy().await;
    let config = proxy.authority().client_config(&[]);
    for size in [1, 7, 100] {
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = rustls::ClientConnection::new(Arc::clone(&config), name).unwrap();
        let mut hello = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut hello).unwrap();
        }
        let mut stream = proxy.plain().await;
        // Each piece is a record of its own, and comes by itself.
        for piece in hello[5..].chunks(size) {
            let header = [22, 3, 1, 0, u8::try_from(piece.len()).unwrap()];
            stream.write_all(&[&header, piece].concat()).await.unwrap();
        }
        let mut answer = [0; 6];
        let read = stream.read_exact(&mut answer);
        within("the server says hello", read).await.unwrap();
        // A handshake record with a ServerHello.
        assert_eq!((answer[0], answer[5]), (22, 2), "{size}");
    }
}

#[tokio::test]
async fn a_failed_handshake_is_told_with_address_name_and_reason() {
    let (_backend, mut proxy) = proxy().await;
    // The default policy has no ChaCha20 under TLS 1.2.
    let offer = Offer {
        versions: ONLY_1_2,
        suites: Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
        ..Offer::to("told.example")
    };
    let error = offer.try_connect(&proxy).await.unwrap_err();
    assert!(error.to_string().contains("HandshakeFailure"), "{error}");
    proxy
        .wait_for_stderr(|text| text.contains("TLS handshake failed"))
        .await;
    let stderr = proxy.stderr();
    let line = stderr
        .lines()
        .find(|line| line.contains("TLS handshake failed"))
        .unwrap();
    for part in [
        "127.0.0.1:",
        "told.example",
        "reason",
        "CipherSuites",
        "category=\"suite\" count=1",
    ] {
        assert!(line.contains(part), "no {part}: {line}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_trust_the_certificate_is_told_of() {
    let (_backend, mut proxy) = proxy().await;
    let stranger = Authority::new();
    let connector = TlsConnector::from(stranger.client_config(&[]));
    let name = ServerName::try_from("localhost").unwrap();
    let connect = connector.connect(name, proxy.plain().await);
    assert!(within("the handshake ends", connect).await.is_err());
    proxy
        .wait_for_stderr(|text| {
            text.contains("TLS handshake failed")
                && text.contains("localhost")
                && text.contains("category=\"certificate\"")
        })
        .await;
}

#[tokio::test]
async fn a_flood_of_key_updates_ends_the_connection() {
    let (backend, proxy) = proxy().await;
    let mut stream = Offer::to("localhost").connect(&proxy).await;
    let mut flooded = 0;
    // Well before the thousandth, each of which costs both sides a derivation of keys.
    while flooded < 1000 {
        stream.get_mut().1.refresh_traffic_keys().unwrap();
        if stream.flush().await.is_err() {
            break;
        }
        flooded += 1;
    }
    let ended = within("the connection ends", stream.read(&mut [0])).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    assert!(backend.requests().is_empty());
    assert_eq!(proxy.client().await.get("/").await.status, 200);
}

/// A connection of TLS 1.3 whose records are made by hand from now on.
struct Records {
    stream: TcpStream,
    key: LessSafeKey,
    iv: [u8; 12],
    next: u64,
}

impl Records {
    async fn begin(proxy: &Running) -> Self {
        let authority = proxy.authority();
        let mut config = authority.config_for(ONLY_1_3, &["http/1.1"], None);
        config.enable_secret_extraction = true;
        let name = ServerName::try_from("localhost").unwrap();
        let connect = TlsConnector::from(Arc::new(config)).connect(name, proxy.plain().await);
        let stream = within("the handshake ends", connect).await.unwrap();
        let (stream, connection) = stream.into_inner();
        let (next, secrets) = connection.dangerous_extract_secrets().unwrap().tx;
        let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else {
            panic!("another suite");
        };
        Self {
            stream,
            key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).unwrap()),
            iv: iv.as_ref().try_into().unwrap(),
            next,
        }
    }

    /// A record of application data (RFC 8446 section 5.2).
    fn seal(&mut self, content: &[u8]) -> Vec<u8> {
        const APPLICATION_DATA: u8 = 23;
        const TAG: usize = 16;
        let mut sealed = [content, &[APPLICATION_DATA]].concat();
        let length = u16::try_from(sealed.len() + TAG).unwrap().to_be_bytes();
        let header = [APPLICATION_DATA, 3, 3, length[0], length[1]];
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(self.next.to_be_bytes()) {
            *byte ^= number;
        }
        self.next += 1;
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key
            .seal_in_place_append_tag(nonce, Aad::from(header), &mut sealed)
            .unwrap();
        [&header[..], &sealed].concat()
    }
}

#[tokio::test]
async fn encrypted_records_that_carry_nothing_end_a_connection() {
    let (backend, proxy) = proxy().await;
    let mut records = Records::begin(&proxy).await;
    // A few are borne, as padding is.
    for _ in 0..20 {
        let empty = records.seal(b"");
        records.stream.write_all(&empty).await.unwrap();
    }
    let request = records.seal(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    records.stream.write_all(&request).await.unwrap();
    within("the request arrives", async {
        while backend.requests().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let before = cpu(proxy.pid());
    let flood = async {
        loop {
            let empty = records.seal(b"");
            if records.stream.write_all(&empty).await.is_err() {
                break;
            }
        }
    };
    within("the connection ends", flood).await;
    let spent = cpu(proxy.pid()) - before;
    assert!(spent <= Duration::from_secs(1), "{spent:?} of CPU");
    assert_eq!(proxy.client().await.get("/").await.status, 200);
}

#[tokio::test]
async fn records_of_one_byte_are_borne_at_a_bounded_cost() {
    const RECORDS: usize = 20_000;
    let (_backend, proxy) = proxy().await;
    let mut stream = Offer::to("localhost").connect(&proxy).await;
    let head = format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {RECORDS}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let before = cpu(proxy.pid());
    stream.get_mut().1.set_buffer_limit(None);
    for _ in 0..RECORDS {
        stream.get_mut().1.writer().write_all(b"x").unwrap();
    }
    let mut raw = Raw::over(stream);
    raw.write(b"").await;
    let answer = raw.read_response().await;
    assert_eq!(answer.status(), 200);
    assert!(answer.body.ends_with(&[b'x'; RECORDS]));
    let spent = cpu(proxy.pid()) - before;
    assert!(spent <= Duration::from_secs(1), "{spent:?} of CPU");
}

#[tokio::test]
async fn a_tls_1_2_client_cannot_renegotiate() {
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let (_backend, proxy) = proxy().await;
    let address = format!("127.0.0.1:{}", proxy.port());
    let arguments = ["s_client", "-connect", &address, "-tls1_2", "-state"];
    // `R` asks for another handshake.
    let refused = run_with(&openssl, &arguments, b"R\n").await;
    let said = refused.stderr + &refused.stdout;
    assert!(said.contains("RENEGOTIATING"), "{said}");
    assert!(said.contains("no renegotiation"), "{said}");
}

#[tokio::test]
async fn openssl_agrees_on_1_2_and_1_3_and_is_refused_with_1_1() {
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let (_backend, mut proxy) = proxy().await;
    let address = format!("127.0.0.1:{}", proxy.port());
    for (version, expected) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let arguments = ["s_client", "-connect", &address, version];
        let said = run(&openssl, &arguments).await.succeeded();
        assert!(said.contains(expected), "{said}");
    }
    let weak = "DEFAULT@SECLEVEL=0";
    let old = ["s_client", "-connect", &address, "-tls1_1", "-cipher", weak];
    let refused = run(&openssl, &old).await;
    assert_ne!(refused.code, Some(0), "{refused:?}");
    assert!(refused.stderr.contains("SSL alert number"), "{refused:?}");
    proxy
        .wait_for_stderr(|text| text.contains("TLS handshake failed"))
        .await;
}

#[tokio::test]
async fn curl_is_served_by_both_protocols() {
    let Some(curl) = peer("curl") else {
        return;
    };
    let (_backend, proxy) = proxy().await;
    let ca = proxy.directory().join("ca.crt");
    std::fs::write(&ca, proxy.authority().pem()).unwrap();
    let url = format!("https://localhost:{}/hello", proxy.port());
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let ca = ca.to_str().unwrap();
        let arguments = ["-sS", flag, "--cacert", ca, "-w", "\n%{http_version}", &url];
        let said = run(&curl, &arguments).await.succeeded();
        assert!(said.starts_with("GET /hello HTTP/1.1\r\n"), "{said}");
        assert!(said.ends_with(&format!("\n{version}")), "{said}");
    }
    let upload = proxy.directory().join("upload");
    std::fs::write(&upload, vec![b'u'; 2_000_000]).unwrap();
    let data = format!("@{}", upload.display());
    for flag in ["--http1.1", "--http2"] {
        let ca = ca.to_str().unwrap();
        let arguments = ["-sS", flag, "--cacert", ca, "--data-binary", &data, &url];
        let said = run(&curl, &arguments).await.succeeded();
        assert!(said.ends_with(&"u".repeat(2_000_000)), "{flag}");
    }
}

#[tokio::test]
async fn nghttp_and_h2load_are_served() {
    let (Some(nghttp), Some(h2load)) = (peer("nghttp"), peer("h2load")) else {
        return;
    };
    let (_backend, proxy) = proxy().await;
    let url = format!("https://127.0.0.1:{}/", proxy.port());
    let said = run(&nghttp, &["-nv", &url]).await.succeeded();
    assert!(said.contains(":status: 200"), "{said}");
    let load = ["-n", "400", "-c", "4", "-m", "20", &url];
    let said = run(&h2load, &load).await.succeeded();
    assert!(said.contains("400 succeeded, 0 failed"), "{said}");
}

#[tokio::test]
async fn nginx_serves_as_a_backend() {
    let Some(nginx) = peer("nginx") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let config = directory.path().join("nginx.conf");
    let prefix = directory.path().to_str().unwrap();
    std::fs::write(
        &config,
        format!(
            "daemon off; master_process off; pid {prefix}/pid; error_log stderr;\n\
             events {{}}\n\
             http {{ access_log off; keepalive_requests 7;\n\
             client_body_temp_path {prefix}/body; proxy_temp_path {prefix}/proxy;\n\
             fastcgi_temp_path {prefix}/fastcgi; uwsgi_temp_path {prefix}/uwsgi;\n\
             scgi_temp_path {prefix}/scgi;\n\
             server {{ listen 127.0.0.1:{port}; default_type text/plain;\n\
             location / {{ return 200 \"$request_method $server_protocol from nginx\"; }}\n\
             location /large {{ alias {prefix}/large; }} }} }}\n"
        ),
    )
    .unwrap();
    std::fs::write(directory.path().join("large"), vec![b'l'; 3_000_000]).unwrap();
    let _nginx = Service::start(nginx, &["-p", prefix, "-c", config.to_str().unwrap()]);
    within("nginx listens", async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let proxy = Proxy::new()
        .servers(&[format!("127.0.0.1:{port}")])
        .run()
        .await;
    let mut http1 = proxy.client().await;
    let mut http2 = proxy.client_h2().await;
    for _ in 0..30 {
        assert_eq!(http1.get("/").await.text(), "GET HTTP/1.1 from nginx");
        assert_eq!(http2.get("/").await.text(), "GET HTTP/1.1 from nginx");
        let answer = http1.post("/", "a body").await;
        assert_eq!(answer.text(), "POST HTTP/1.1 from nginx");
    }
    assert_eq!(http2.get("/large").await.body.len(), 3_000_000);
    assert_eq!(http1.get("/missing/../x").await.status, 400);
}
