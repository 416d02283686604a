//! `client_cert_*` of `[listener.headers]`: switches and names of one's own (alb.md 1.4).

use super::{Resolver, switch};
use crate::config::client_auth::{
    ClientAuthMode, ClientAuthPlan, ClientCertPlan, FingerprintHash, NamedHeader,
};
use crate::config::defaults;
use crate::config::document::{Field, HeadersDocument, ListenerDocument, SwitchOrName, Written};
use crate::config::plan::{ListenerProtocol, Origin};

type Header<'d> = (&'static str, &'d Field<SwitchOrName>);

/// The four headers that may have another name.
fn named(written: &HeadersDocument) -> [Header<'_>; 4] {
    [
        ("client_cert_subject_dn", &written.client_cert_subject_dn),
        ("client_cert_issuer_dn", &written.client_cert_issuer_dn),
        ("client_cert_fingerprint", &written.client_cert_fingerprint),
        (
            "client_cert_client_verify",
            &written.client_cert_client_verify,
        ),
    ]
}

impl Resolver<'_> {
    /// The names of their own that listeners give to these headers, as backends may read them.
    pub(super) fn own_names(&self, listeners: &[ListenerDocument]) -> Vec<String> {
        let written = listeners.iter().filter_map(|l| l.headers.as_ref());
        let fields = written
            .flat_map(named)
            .filter_map(|(_, field)| field.given());
        let names = fields.filter_map(|field| match &field.value {
            SwitchOrName::Switch(_) => None,
            SwitchOrName::Name(name) => Some(name),
        });
        // What cannot be expanded is reported where the header is made.
        names
            .filter_map(|name| self.expanded(name))
            .filter(|name| !name.is_empty())
            .map(|name| name.to_ascii_lowercase().replace('_', "-"))
            .collect()
    }

    /// What backends are told of client certificates.
    pub(super) fn client_cert_headers(&mut self, written: &HeadersDocument) -> ClientCertPlan {
        let words = [
            ("sha1", Some(FingerprintHash::Sha1)),
            ("sha256", Some(FingerprintHash::Sha256)),
        ];
        let defaults = defaults::HEADERS.client_cert;
        let mut names: Vec<(String, &Origin)> = Vec::new();
        let [subject_dn, issuer_dn, fingerprint, client_verify] =
            named(written).map(|(key, field)| self.named_header(key, field, &mut names));
        ClientCertPlan {
            subject_dn,
            issuer_dn,
            fingerprint,
            fingerprint_hash: written
                .client_cert_fingerprint_hash
                .given()
                .and_then(|hash| self.choice("client_cert_fingerprint_hash", hash, &words))
                .unwrap_or(defaults.fingerprint_hash),
            client_verify,
            rfc9440: switch(&written.client_cert_rfc9440, defaults.rfc9440),
        }
    }

    /// A header and its name, which none of `names`, the headers before it, may have.
    fn named_header<'d>(
        &mut self,
        key: &str,
        field: &'d Field<SwitchOrName>,
        names: &mut Vec<(String, &'d Origin)>,
    ) -> NamedHeader {
        let Some(written) = field.given() else {
            return NamedHeader::Off;
        };
        let text = match &written.value {
            SwitchOrName::Switch(false) => return NamedHeader::Off,
            SwitchOrName::Switch(true) => return NamedHeader::Default,
            SwitchOrName::Name(text) => Written {
                value: text.clone(),
                origin: written.origin.clone(),
            },
        };
        let Some(name) = self.expand(&text) else {
            return NamedHeader::Off;
        };
        // An empty name is none (alb.md 1.4).
        if name.is_empty() {
            return NamedHeader::Default;
        }
        if self.check_header_name(key, &name, &written.origin) {
            if let Some((_, first)) = names
                .iter()
                .find(|(other, _)| folded(other).eq(folded(&name)))
            {
                self.report
                    .error(
                        &written.origin,
                        format!("two headers have the name `{name}`"),
                    )
                    .label("the second")
                    .also(first, "the first")
                    .help("backends may read `_` and `-` as the same");
            }
            names.push((name.clone(), &written.origin));
        }
        NamedHeader::Named(name)
    }

    /// Whether a name may be given to a header; if not, that is reported.
    fn check_header_name(&mut self, key: &str, name: &str, origin: &Origin) -> bool {
        let shown = name.escape_debug();
        let is_name = name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'));
        if !is_name || name.len() > defaults::HEADER_NAME_LENGTH {
            let most = defaults::HEADER_NAME_LENGTH;
            self.report
                .error(
                    origin,
                    format!("`{key}`: `{shown}` cannot be the name of this header"),
                )
                .label(format!(
                    "expected 1 to {most} lower-case letters, digits, `-` or `_`"
                ))
                .help("`true` stands for the header's own name");
            return false;
        }
        let is_taken = defaults::FORBIDDEN_HEADER_NAMES
            .iter()
            .chain(&defaults::OWN_HEADER_NAMES)
            .any(|taken| folded(taken).eq(folded(name)));
        // The four headers' own names, of which `true` stands for the right one.
        let is_own = "x-forwarded-clientcert-"
            .bytes()
            .eq(folded(name).take("x-forwarded-clientcert-".len()));
        if is_taken || is_own {
            let help = if is_own {
                "`true` stands for the header's own name"
            } else {
                "choose a name that has no meaning yet, such as `x-client-dn`"
            };
            self.report
                .error(origin, format!("`{key}`: the name `{shown}` is taken"))
                .label("has a meaning of its own")
                .help(help);
            return false;
        }
        true
    }

    /// Reports headers that a plain HTTP listener cannot have.
    pub(super) fn refuse_tls_headers(&mut self, written: &HeadersDocument) {
        let switches = [
            ("tls_protocol", &written.tls_protocol),
            ("tls_cipher", &written.tls_cipher),
            ("client_cert_rfc9440", &written.client_cert_rfc9440),
        ];
        let on = switches.into_iter().filter_map(|(key, field)| {
            let field = field.given().filter(|field| field.value)?;
            Some((key, &field.origin))
        });
        for (key, origin) in named_on(written).chain(on) {
            self.report
                .error(origin, format!("`{key}` is not for an `http` listener"))
                .help("leave it out, or say `protocol = \"https\"`");
        }
    }

    /// Warns of headers that never come, and of those that backends may trust too much.
    pub(super) fn warn_of_client_cert_headers(
        &mut self,
        written: &HeadersDocument,
        protocol: &ListenerProtocol,
    ) {
        let ListenerProtocol::Https(https) = protocol else {
            return;
        };
        let rfc9440 = written.client_cert_rfc9440.given();
        let rfc9440 = rfc9440.filter(|field| field.value);
        let rfc9440 = rfc9440.map(|field| ("client_cert_rfc9440", &field.origin));
        let (verify, others): (Vec<_>, Vec<_>) = named_on(written)
            .chain(rfc9440)
            .partition(|(key, _)| *key == "client_cert_client_verify");
        match &https.client_auth {
            ClientAuthPlan::Off => {
                for (key, origin) in others {
                    self.report
                        .warning(origin, format!("`{key}` is never sent"))
                        .label("clients are not asked for a certificate")
                        .help("add `[listener.client_auth]`, or leave it out");
                }
            }
            ClientAuthPlan::On(settings) => {
                if let ClientAuthMode::OptionalNoCa = settings.mode
                    && verify.is_empty()
                    && let Some((key, origin)) = others.first()
                {
                    self.report
                        .warning(
                            origin,
                            format!("`{key}` is sent of certificates that do not verify, too"),
                        )
                        .label("and backends cannot tell which do")
                        .help("add `client_cert_client_verify = true`");
                }
            }
        }
    }
}

/// The headers that are switched on, with their places.
fn named_on(written: &HeadersDocument) -> impl Iterator<Item = (&'static str, &Origin)> {
    named(written).into_iter().filter_map(|(key, field)| {
        let field = field.given()?;
        let is_on = !matches!(field.value, SwitchOrName::Switch(false));
        is_on.then_some((key, &field.origin))
    })
}

/// A name as backends may read it.
fn folded(name: &str) -> impl Iterator<Item = u8> + '_ {
    name.bytes().map(|byte| match byte {
        b'_' | b'.' => b'-',
        byte => byte.to_ascii_lowercase(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    fn errors(name: &str) -> Vec<String> {
        let text = format!(
            "[[certificate]]\nname = \"site\"\nself_signed = [\"localhost\"]\n\
             [[listener]]\nname = \"web\"\nprotocol = \"https\"\nport = 443\ncertificates = [\"site\"]\n\
             server_group = \"app\"\nclient_auth = {{ ca = [\"ca.crt\"] }}\n\
             headers = {{ client_cert_issuer_dn = \"{name}\" }}\n\
             [[server_group]]\nname = \"app\"\nservers = [{{ address = \"127.0.0.1:80\" }}]\n"
        );
        let (_, report) = config::parse(Path::new("a.toml"), &text, &|_| None);
        let mistakes = report.diagnostics();
        mistakes
            .map(|mistake| mistake.message().to_owned())
            .collect()
    }

    #[test]
    fn no_header_takes_the_name_of_another() {
        for taken in defaults::FORBIDDEN_HEADER_NAMES
            .iter()
            .chain(&defaults::OWN_HEADER_NAMES)
        {
            for name in [(*taken).to_owned(), taken.replace('-', "_")] {
                let expected = format!("`client_cert_issuer_dn`: the name `{name}` is taken");
                assert_eq!(errors(&name), [expected]);
            }
            assert_eq!(errors(&taken.to_uppercase()).len(), 1, "{taken}");
        }
    }

    #[test]
    fn names_of_one_s_own_are_short_and_plain() {
        let longest = "x".repeat(40);
        for (name, is_taken) in [
            ("test_client-verify-alias_123456", true),
            ("x", true),
            ("", true),
            (&*longest, true),
            (&*format!("{longest}x"), false),
            ("x.y", false),
            ("a b", false),
            ("a:b", false),
            ("\u{e9}", false),
            ("Cookie", false),
        ] {
            assert_eq!(errors(name).is_empty(), is_taken, "{name}");
        }
    }
}
