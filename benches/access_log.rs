//! What a line of the access log costs a request.

use std::hint::black_box;
use std::time::{Duration, SystemTime};

use criterion::{Criterion, criterion_group, criterion_main};
use http::Version;

use lockgate::addr::{BackendAddr, ClientAddr, ClientIp};
use lockgate::scheme::Scheme;
use lockgate::telemetry::access_log::{Record, RequestFacts};

fn record(backend: &BackendAddr) -> Record<'_> {
    let client = ClientAddr::new(([192, 0, 2, 7], 47110).into());
    Record {
        time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_793_836_800),
        listener: "web",
        listener_port: 443,
        client_ip: ClientIp::last_hop(client),
        client,
        scheme: Scheme::Https,
        ssl_protocol: Some("TLSv1.3"),
        ssl_cipher: Some("TLS_AES_128_GCM_SHA256"),
        ssl_session_reused: Some("."),
        ssl_client_verify: None,
        server_name: Some("shop.example.com"),
        request: RequestFacts {
            version: Some(Version::HTTP_2),
            method: Some(b"GET"),
            uri: Some(b"/catalogue/items?page=3&sort=price&direction=ascending"),
            host: Some(b"shop.example.com"),
            http_host: Some(b"shop.example.com"),
            referer: Some(b"https://shop.example.com/catalogue"),
            user_agent: Some(
                b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
            ),
            x_forwarded_for: None,
            x_real_ip: None,
            request_id: None,
        },
        request_length: 512,
        status: 200,
        body_bytes_sent: 10240,
        cause: None,
        rule: Some("default"),
        server_group: Some("app"),
        upstream_addr: Some(backend),
        upstream_status: Some(200),
        request_time: Duration::from_micros(4711),
        upstream_response_time: Some(Duration::from_micros(3900)),
        read_request_time: Some(Duration::from_micros(120)),
        write_response_time: Some(Duration::from_micros(80)),
    }
}

fn lines(criterion: &mut Criterion) {
    let backend = BackendAddr::Ip(([10, 0, 0, 11], 8080).into());
    let record = record(&backend);
    let mut out = Vec::with_capacity(4096);
    criterion.bench_function("access_log/json", |bencher| {
        bencher.iter(|| {
            out.clear();
            black_box(&record).json(&mut out);
            black_box(&out);
        });
    });
    criterion.bench_function("access_log/text", |bencher| {
        bencher.iter(|| {
            out.clear();
            black_box(&record).text(&mut out);
            black_box(&out);
        });
    });
}

criterion_group!(benches, lines);
criterion_main!(benches);
