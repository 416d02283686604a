//! How long the choice of a certificate takes, with few and with many names.

use std::hint::black_box;
use std::sync::Arc;
use std::time::SystemTime;

use criterion::{Criterion, criterion_group, criterion_main};
use rustls::SignatureScheme;

use lockgate::tls::certificate::ServedCertificate;
use lockgate::tls::self_signed::self_signed;
use lockgate::tls::server_name::covers;
use lockgate::tls::store::CertificateStore;

const OFFERED: &[SignatureScheme] = &[
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP256_SHA256,
];

/// Half of the names exact, half of them wildcards; a hundred names a certificate at most.
fn certificates(names: usize) -> Vec<Arc<ServedCertificate>> {
    let name = |index: usize| match index % 2 {
        0 => format!("www{index}.example.com"),
        _ => format!("*.host{index}.example.com"),
    };
    let names: Vec<_> = (0..names).map(name).collect();
    let certificate = |names: &[String]| self_signed(names, SystemTime::UNIX_EPOCH).map(Arc::new);
    names
        .chunks(100)
        .filter_map(|names| certificate(names).ok())
        .collect()
}

fn server_name(criterion: &mut Criterion) {
    for count in [1, 10_000] {
        let mut all = certificates(count).into_iter();
        let Some(default) = all.next() else { return };
        let store = CertificateStore::new(default, all.collect());
        let mut group = criterion.benchmark_group(format!("server_name/{count}"));
        for (case, name) in [
            ("exact", "www0.example.com"),
            ("wildcard", "www.host9999.example.com"),
            ("unknown", "www.unknown.example.org"),
        ] {
            group.bench_function(case, |bencher| {
                bencher.iter(|| store.find(black_box(Some(name)), black_box(OFFERED)));
            });
        }
    }
    if let Some(certificate) = certificates(1).first() {
        criterion.bench_function("server_name/covers", |bencher| {
            bencher.iter(|| covers(certificate.names(), black_box("WWW0.example.com")));
        });
    }
}

criterion_group!(benches, server_name);
criterion_main!(benches);
