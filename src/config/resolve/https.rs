//! What only an HTTPS listener has, and `[listener.compression]`; `[listener.client_auth]` is apart.

use std::collections::HashMap;

use super::{Resolver, Scope, switch};
use crate::config::defaults;
use crate::config::document::{CompressionDocument, Field, ListenerDocument, Written};
use crate::config::plan::{
    Algorithm, CertificateId, CompressionPlan, CompressionSettings, Http2, HttpsPlan, Origin,
    Switch, UnknownLength, UnknownName,
};
use crate::config::value;

impl Resolver<'_> {
    /// Certificates, TLS policy and HTTP/2 of an HTTPS listener; `None` if they have mistakes.
    pub(super) fn https(
        &mut self,
        written: &ListenerDocument,
        scope: &mut Scope,
    ) -> Option<HttpsPlan> {
        let certificates = self.listener_certificates(written, scope);
        let tls_policy = self.tls_policy(written, scope);
        let unknown_name = match written.sni_strict.given() {
            Some(Written { value: true, .. }) => UnknownName::Refuse,
            Some(Written { value: false, .. }) => UnknownName::Default,
            None => defaults::UNKNOWN_NAME,
        };
        let http2 = match written.http2.given() {
            Some(Written { value: true, .. }) => Http2::Offered,
            Some(Written { value: false, .. }) => Http2::Off,
            None => defaults::HTTP2,
        };
        let client_auth = self.client_auth(written.client_auth.as_ref());
        Some(HttpsPlan {
            certificates: certificates?,
            tls_policy: tls_policy?,
            unknown_name,
            http2,
            client_auth: client_auth?,
        })
    }

    /// Reports what a plain HTTP listener cannot have.
    pub(super) fn refuse_https_keys(&mut self, written: &ListenerDocument) {
        let certificates = written.certificates.given().map(|written| &written.origin);
        let tls_policy = written.tls_policy.given().map(|written| &written.origin);
        let strict = written.tls_policy_strict.given();
        let sni_strict = written.sni_strict.given();
        let http2 = written.http2.given().map(|written| &written.origin);
        let client_auth = written.client_auth.as_ref().map(|table| &table.origin);
        for (key, origin) in [
            ("certificates", certificates),
            ("tls_policy", tls_policy),
            ("tls_policy_strict", strict.map(|written| &written.origin)),
            ("sni_strict", sni_strict.map(|written| &written.origin)),
            ("http2", http2),
            ("client_auth", client_auth),
        ] {
            if let Some(origin) = origin {
                self.report
                    .error(origin, format!("`{key}` is not for an `http` listener"))
                    .help("leave it out, or say `protocol = \"https\"`");
            }
        }
        if let Some(headers) = &written.headers {
            self.refuse_tls_headers(headers);
        }
    }

    fn listener_certificates(
        &mut self,
        written: &ListenerDocument,
        scope: &mut Scope,
    ) -> Option<Vec<CertificateId>> {
        let help = "name at least one `[[certificate]]`: `certificates = [\"...\"]`; the first is the default";
        let list = match &written.certificates {
            Field::Absent => {
                self.missing(
                    &written.origin,
                    "this `https` listener has no `certificates`",
                    help,
                );
                return None;
            }
            Field::Wrong => return None,
            Field::Given(list) if list.value.is_empty() => {
                self.report
                    .error(&list.origin, "`certificates` is empty")
                    .help(help);
                return None;
            }
            Field::Given(list) => list,
        };
        let mut ids = Vec::with_capacity(list.value.len());
        let mut first_named: HashMap<CertificateId, &Origin> = HashMap::new();
        for reference in &list.value {
            let Some(id) = self.refer(&mut scope.certificates, reference) else {
                continue;
            };
            if let Some(first) = first_named.get(&id) {
                self.report
                    .error(
                        &reference.origin,
                        format!("the certificate `{}` is named twice", reference.value),
                    )
                    .label("the second time")
                    .also(first, "the first time");
            }
            first_named.entry(id).or_insert(&reference.origin);
            ids.push(id);
        }
        Some(ids)
    }

    /// Compression; an absent table means its defaults.
    pub(super) fn compression(&mut self, written: Option<&CompressionDocument>) -> CompressionPlan {
        let Some(written) = written else {
            return CompressionPlan::On(defaults::compression());
        };
        let settings = self.compression_settings(written);
        match switch(&written.enabled, defaults::COMPRESSION) {
            Switch::On => CompressionPlan::On(settings),
            Switch::Off => CompressionPlan::Off,
        }
    }

    fn compression_settings(&mut self, written: &CompressionDocument) -> CompressionSettings {
        let exclude = &written.brotli_exclude_types;
        let unknown_length = match written.compress_unknown_length.given() {
            Some(Written { value: true, .. }) => UnknownLength::Compress,
            Some(Written { value: false, .. }) => UnknownLength::Pass,
            None => defaults::UNKNOWN_LENGTH,
        };
        CompressionSettings {
            algorithms: self.algorithms(&written.algorithms),
            min_length: self.number("min_length", &written.min_length, defaults::MIN_LENGTH),
            gzip_level: self.number("gzip_level", &written.gzip_level, defaults::GZIP_LEVEL),
            brotli_quality: self.number(
                "brotli_quality",
                &written.brotli_quality,
                defaults::BROTLI_QUALITY,
            ),
            brotli_exclude_types: self.strings("brotli_exclude_types", exclude, |text| {
                value::media_type(&text)
            }),
            unknown_length,
        }
    }

    fn algorithms(&mut self, field: &Field<Vec<Written<String>>>) -> Vec<Algorithm> {
        let Some(list) = field.given() else {
            return defaults::ALGORITHMS.to_vec();
        };
        if list.value.is_empty() {
            self.report
                .error(&list.origin, "`algorithms` is empty")
                .help("`enabled = false` switches compression off");
        }
        let words = [
            ("br", Some(Algorithm::Brotli)),
            ("gzip", Some(Algorithm::Gzip)),
            ("zstd", Some(Algorithm::Zstd)),
        ];
        let mut algorithms: Vec<(Algorithm, &Origin)> = Vec::with_capacity(words.len());
        for word in &list.value {
            let Some(algorithm) = self.choice("algorithms", word, &words) else {
                continue;
            };
            if let Some((_, first)) = algorithms.iter().find(|(earlier, _)| *earlier == algorithm) {
                self.report
                    .error(
                        &word.origin,
                        format!("the algorithm `{}` is named twice", word.value),
                    )
                    .label("the second time")
                    .also(first, "the first time");
            }
            algorithms.push((algorithm, &word.origin));
        }
        algorithms
            .into_iter()
            .map(|(algorithm, _)| algorithm)
            .collect()
    }
}
