//! What a request pays for its transforms: header cleaning, forwarding fields, the client's address,
//! and compression.

#![expect(clippy::unwrap_used, reason = "a benchmark fails loudly")]

use std::hint::black_box;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use http_body::Body;
use http_body_util::Full;

use lockgate::addr::ClientAddr;
use lockgate::config::client::{ClientIpSettings, PeerTrust, Trusted};
use lockgate::config::defaults;
use lockgate::config::plan::{
    Algorithm, CompressionSettings, ForwardedFor, HeadersPlan, Switch, UnknownLength,
};
use lockgate::scheme::Scheme;
use lockgate::transform::client_ip;
use lockgate::transform::compression::body::CompressedBody;
use lockgate::transform::compression::negotiate::{Accepted, Decision};
use lockgate::transform::forwarded::{ClientValues, ForwardedHeaders};
use lockgate::transform::hop_by_hop;

fn request() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "www.example.com"),
        ("connection", "keep-alive"),
        (
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
        ),
        (
            "accept",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        ),
        ("accept-language", "en-US,en;q=0.5"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("cookie", "session=0123456789abcdef"),
        ("sec-fetch-dest", "document"),
        ("sec-fetch-mode", "navigate"),
        ("x-forwarded-for", "203.0.113.9, 10.0.0.1, 10.0.0.2"),
    ] {
        headers.append(name, HeaderValue::from_static(value));
    }
    headers
}

fn headers(c: &mut Criterion) {
    let plan = HeadersPlan {
        x_forwarded_for: ForwardedFor::Append,
        x_forwarded_proto: Switch::On,
        x_forwarded_port: Switch::On,
        x_forwarded_host: Switch::On,
        x_forwarded_client_srcport: Switch::On,
        slb_id: Switch::On,
        ..defaults::HEADERS
    };
    let peer = ClientAddr::new("10.0.0.3:4711".parse().unwrap());
    let forwarded =
        ForwardedHeaders::new(plan, Scheme::Https, 443, HeaderValue::from_static("alb-1"));
    let client = ClientValues::new(peer);
    let host = HeaderValue::from_static("www.example.com");
    let trusted = ["10.0.0.0/8", "2001:db8::/32"].map(|text| text.parse().unwrap());
    let settings = ClientIpSettings {
        header: HeaderName::from_static("x-forwarded-for"),
        trusted: Trusted::new(&trusted),
        peer_trust: PeerTrust::Required,
    };
    c.bench_function("clean_request", |b| {
        b.iter_batched_ref(
            request,
            |headers| hop_by_hop::clean_request(headers, None),
            BatchSize::SmallInput,
        );
    });
    c.bench_function("forwarded", |b| {
        b.iter_batched_ref(
            request,
            |headers| forwarded.apply(headers, Some(&host), &client),
            BatchSize::SmallInput,
        );
    });
    let headers = request();
    c.bench_function("client_ip", |b| {
        b.iter(|| client_ip::retrieve(&settings, black_box(&headers), peer))
    });
}

fn settings() -> CompressionSettings {
    CompressionSettings {
        algorithms: vec![Algorithm::Brotli, Algorithm::Gzip],
        min_length: NonZeroU64::MIN,
        gzip_level: 4,
        brotli_quality: 4,
        brotli_exclude_types: Vec::new(),
        unknown_length: UnknownLength::Pass,
    }
}

fn json(length: usize) -> Bytes {
    (0_u32..)
        .flat_map(|n| {
            let noise = n.wrapping_mul(2_654_435_761);
            format!(
                "{{\"id\":{noise},\"customer\":\"c{n}\",\"price\":{}.{n},\"open\":true}},",
                noise % 977
            )
            .into_bytes()
        })
        .take(length)
        .collect()
}

fn compress(body: &Bytes, algorithm: Algorithm, settings: &CompressionSettings) -> usize {
    let mut body = CompressedBody::new(Full::new(body.clone()), algorithm, settings);
    let mut cx = Context::from_waker(Waker::noop());
    let mut length = 0;
    loop {
        match Pin::new(&mut body).poll_frame(&mut cx) {
            Poll::Ready(Some(frame)) => length += frame.unwrap().into_data().unwrap().len(),
            Poll::Ready(None) => return length,
            Poll::Pending => {}
        }
    }
}

fn compression(c: &mut Criterion) {
    let settings = settings();
    let request = request();
    let mut response = HeaderMap::new();
    response.insert(
        "content-type",
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    c.bench_function("negotiate", |b| {
        b.iter(|| {
            let accepted = Accepted::new(&Method::GET, Version::HTTP_11, black_box(&request));
            Decision::new(
                accepted,
                StatusCode::OK,
                black_box(&response),
                Some(16_384),
                &settings,
            )
        });
    });
    let mut group = c.benchmark_group("compress");
    for length in [1_025, 16_384, 262_144] {
        let body = json(length);
        group.throughput(Throughput::Bytes(body.len() as u64));
        for algorithm in [Algorithm::Gzip, Algorithm::Brotli, Algorithm::Zstd] {
            group.bench_function(format!("{algorithm:?}/{length}"), |b| {
                b.iter(|| compress(&body, algorithm, &settings));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, headers, compression);
criterion_main!(benches);
