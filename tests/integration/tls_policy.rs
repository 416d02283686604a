//! TLS security policies as OpenSSL's client meets them, and as `check` shows them.

use std::path::Path;

use lockgate::config::tls_policy::{Suite, SystemPolicy, Version};

use crate::support::backend::Backend;
use crate::support::peer;
use crate::support::pki::{self, Authority};
#[cfg(not(feature = "legacy-tls"))]
use crate::support::program::lockgate;
use crate::support::program::{Outcome, run};
use crate::support::proxy::{Proxy, Running};

/// A listener with an ECDSA and an RSA certificate, and more lines.
pub(crate) async fn pair(backend: &Backend, lines: &str, tables: &str) -> Running {
    let proxy = Proxy::new();
    let rsa = Authority::new().issue_rsa(&["localhost"]);
    pki::write(proxy.directory(), "rsa", &rsa);
    proxy
        .raw_config(format!(
            "[[certificate]]\nname = \"ecdsa\"\ncert = \"site.crt\"\nkey = \"site.key\"\n\
             [[certificate]]\nname = \"rsa\"\ncert = \"rsa.crt\"\nkey = \"rsa.key\"\n{tables}\
             [[listener]]\nname = \"web\"\nprotocol = \"https\"\naddress = \"127.0.0.1\"\nport = {{port}}\n\
             certificates = [\"ecdsa\", \"rsa\"]\nserver_group = \"app\"\n{lines}\
             [[server_group]]\nname = \"app\"\nservers = [{{ address = \"{}\" }}]\n",
            backend.address()
        ))
        .run()
        .await
}

/// What `openssl s_client` comes to that offers one version and one suite.
pub(crate) async fn offer(openssl: &Path, proxy: &Running, version: &str, suite: &str) -> Outcome {
    let address = format!("127.0.0.1:{}", proxy.port());
    let weak = format!("{suite}:@SECLEVEL=0");
    let flag = match suite.starts_with("TLS_") {
        true => ["-ciphersuites", suite],
        false => ["-cipher", weak.as_str()],
    };
    let arguments = ["s_client", "-connect", &address, "-servername", "localhost"];
    run(openssl, &[&arguments[..], &[version], &flag].concat()).await
}

#[tokio::test]
async fn openssl_gets_each_version_and_suite_that_is_effective_and_no_other() {
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let backend = Backend::echo().run().await;
    // The longest list and the default; the others are shaken hands with in memory.
    for policy in [SystemPolicy::From10, SystemPolicy::Strict12With13] {
        let line = format!("tls_policy = \"{}\"\n", policy.name());
        let proxy = pair(&backend, &line, "").await;
        for suite in Suite::all() {
            let (version, flag) = match suite.versions() {
                [Version::Tls13] => (Version::Tls13, "-tls1_3"),
                _ => (Version::Tls12, "-tls1_2"),
            };
            let expected = suite.is_effective()
                && policy.versions().contains(&version)
                && policy.suites().any(|listed| listed == suite);
            let outcome = offer(&openssl, &proxy, flag, suite.name()).await;
            let said = format!("Cipher is {}\n", suite.name());
            let agreed = outcome.stdout.contains(&said);
            assert_eq!(agreed, expected, "{policy:?} {}: {outcome:?}", suite.name());
        }
    }
}

#[tokio::test]
async fn a_policy_of_the_file_may_name_suites_as_openssl_or_iana_does() {
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let backend = Backend::echo().run().await;
    let tables = "[[tls_policy]]\nname = \"mine\"\nversions = [\"TLSv1.3\", \"TLSv1.2\"]\n\
        cipher_suites = [\"TLS_CHACHA20_POLY1305_SHA256\", \"ECDHE-RSA-CHACHA20-POLY1305\",\n\
        \"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\"]\n";
    let proxy = pair(&backend, "tls_policy = \"mine\"\n", tables).await;
    for (version, suite, expected) in [
        ("-tls1_3", "TLS_CHACHA20_POLY1305_SHA256", true),
        ("-tls1_3", "TLS_AES_128_GCM_SHA256", false),
        ("-tls1_2", "ECDHE-RSA-CHACHA20-POLY1305", true),
        ("-tls1_2", "ECDHE-ECDSA-CHACHA20-POLY1305", false),
        ("-tls1_2", "ECDHE-ECDSA-AES128-GCM-SHA256", true),
        ("-tls1_2", "ECDHE-RSA-AES128-GCM-SHA256", false),
    ] {
        let outcome = offer(&openssl, &proxy, version, suite).await;
        let agreed = outcome.stdout.contains(&format!("Cipher is {suite}"));
        assert_eq!(agreed, expected, "{suite}: {outcome:?}");
    }
}

#[cfg(not(feature = "legacy-tls"))]
#[tokio::test]
async fn old_versions_are_promised_with_a_warning_or_not_at_all() {
    let backend = Backend::echo().run().await;
    let proxy = pair(&backend, "tls_policy = \"tls_cipher_policy_1_0\"\n", "").await;
    let told = proxy.stderr();
    for part in ["is served as TLSv1.2 only", "TLSv1.0 and TLSv1.1"] {
        assert!(told.contains(part), "{told}");
    }
    proxy.rewrite(|toml| toml.replace("_1_0\"\n", "_1_0\"\ntls_policy_strict = true\n"));
    let path = proxy.config_path();
    let outcome = lockgate(&["check", "--config", path.to_str().unwrap()]).await;
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(
        outcome.stderr.contains("promises TLSv1.0 and TLSv1.1"),
        "{outcome:?}"
    );
    assert_eq!(outcome.stdout, "");
}

#[cfg(not(feature = "legacy-tls"))]
#[tokio::test]
async fn check_shows_each_version_with_each_suite() {
    let backend = Backend::echo().run().await;
    let proxy = pair(&backend, "tls_policy = \"tls_cipher_policy_1_2\"\n", "").await;
    let path = proxy.config_path();
    let outcome = lockgate(&["check", "--config", path.to_str().unwrap()]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let expected = format!(
        "listener web: tls_cipher_policy_1_2\n  \
           TLSv1.2  ECDHE-ECDSA-AES128-GCM-SHA256\n  \
           TLSv1.2  ECDHE-ECDSA-AES256-GCM-SHA384\n  \
           TLSv1.2  ECDHE-RSA-AES128-GCM-SHA256\n  \
           TLSv1.2  ECDHE-RSA-AES256-GCM-SHA384\n  \
           listed, not negotiated: ECDHE-ECDSA-AES128-SHA256 ECDHE-ECDSA-AES256-SHA384 \
         ECDHE-RSA-AES128-SHA256 ECDHE-RSA-AES256-SHA384 AES128-GCM-SHA256 AES256-GCM-SHA384 \
         AES128-SHA256 AES256-SHA256 ECDHE-ECDSA-AES128-SHA ECDHE-ECDSA-AES256-SHA \
         ECDHE-RSA-AES128-SHA ECDHE-RSA-AES256-SHA AES128-SHA AES256-SHA DES-CBC3-SHA\n\
         {}: ok\n",
        path.display()
    );
    assert_eq!(outcome.stdout, expected);
}
