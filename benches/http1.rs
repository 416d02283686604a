//! The pure parts of the exchange with backends: heads, framing, balance.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use lockgate::backend::balance::wrr::SmoothWrr;
use lockgate::backend::http1::framing::{Decoded, Decoder, Framing};
use lockgate::backend::http1::names::Verbatim;
use lockgate::backend::http1::request::{
    self, BackendVersion, BodyFraming, ConnectionIntent, RequestHead,
};
use lockgate::backend::http1::response::{self, RequestKind};

/// The head that the race's backend answers with.
const SMALL_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Mon, 24 Nov 2025 00:00:00 GMT\r\n\
Content-Type: application/octet-stream\r\nContent-Length: 1024\r\nLast-Modified: Sun, 23 Nov 2025 00:00:00 GMT\r\n\
Connection: keep-alive\r\nETag: \"692250f0-400\"\r\nAccept-Ranges: bytes\r\n\r\n";

/// Twenty fields, as an application behind a framework answers.
const LARGE_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nServer: gunicorn\r\nDate: Mon, 24 Nov 2025 00:00:00 GMT\r\n\
Content-Type: text/html; charset=utf-8\r\nContent-Length: 18213\r\nCache-Control: private, max-age=0\r\n\
Expires: Mon, 24 Nov 2025 00:00:00 GMT\r\nVary: Accept-Encoding, Cookie\r\nContent-Language: en\r\n\
X-Frame-Options: DENY\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: same-origin\r\n\
Cross-Origin-Opener-Policy: same-origin\r\nStrict-Transport-Security: max-age=63072000; includeSubDomains\r\n\
Content-Security-Policy: default-src 'self'; img-src 'self' data:; script-src 'self' 'nonce-abc'\r\n\
Set-Cookie: csrftoken=a1b2c3d4e5f6; Path=/; Secure; SameSite=Lax\r\n\
Set-Cookie: sessionid=0123456789abcdef0123456789abcdef; Path=/; Secure; HttpOnly\r\n\
X-Request-Id: 6e9ae8e2-3a6b-4f2c-9d0e-0c2f7f1f6b11\r\nX-Runtime: 0.021733\r\nETag: W/\"4725-abc\"\r\n\
Link: </static/app.css>; rel=preload; as=style\r\n\r\n";

const REQUEST_FIELDS: &[(&str, &str)] = &[
    (
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    ),
    (
        "accept",
        "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    ),
    ("accept-language", "en-US,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br"),
    ("cookie", "sessionid=0123456789abcdef0123456789abcdef"),
    ("cookie", "csrftoken=a1b2c3d4e5f6"),
    ("sec-fetch-mode", "navigate"),
    ("x-forwarded-for", "203.0.113.7"),
    ("x-forwarded-proto", "https"),
    ("slb-id", "lg-0001"),
];

fn response_head(c: &mut Criterion) {
    let mut group = c.benchmark_group("response head");
    for (name, head) in [("8 fields", SMALL_HEAD), ("20 fields", LARGE_HEAD)] {
        group.throughput(Throughput::Bytes(head.len() as u64));
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || BytesMut::from(head),
                |buf| response::parse(buf, RequestKind::Ordinary),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn request_head(c: &mut Criterion) {
    let host = HeaderValue::from_static("www.example.com");
    let headers: HeaderMap = REQUEST_FIELDS
        .iter()
        .map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        })
        .collect();
    let head = RequestHead {
        method: &Method::GET,
        target: b"/index.html?page=2",
        host: &host,
        version: BackendVersion::Http11,
        verbatim: Verbatim::default(),
        headers: &headers,
        framing: BodyFraming::None,
        connection: ConnectionIntent::KeepAlive,
    };
    let mut out = Vec::with_capacity(4096);
    c.bench_function("request head, 10 fields", |b| {
        b.iter(|| {
            out.clear();
            request::write(black_box(&head), &mut out);
            out.len()
        });
    });
}

fn chunked_body(c: &mut Criterion) {
    const TOTAL: usize = 1 << 20;
    let mut group = c.benchmark_group("chunked 1 MiB");
    group.throughput(Throughput::Bytes(TOTAL as u64));
    for size in [256, 4096, 32 * 1024] {
        let mut body = Vec::new();
        for _ in 0..TOTAL / size {
            request::chunk_head(size, &mut body);
            body.resize(body.len() + size, b'x');
            body.extend_from_slice(request::CRLF);
        }
        body.extend_from_slice(request::LAST_CHUNK);
        group.bench_function(format!("chunks of {size}"), |b| {
            b.iter_batched_ref(
                || BytesMut::from(body.as_slice()),
                decode_all,
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn decode_all(buf: &mut BytesMut) -> usize {
    let mut decoder = Decoder::new(Framing::Chunked);
    let mut length = 0;
    while let Ok(Decoded::Data(data)) = decoder.decode(buf) {
        length += Bytes::len(&data);
    }
    length
}

fn balance(c: &mut Criterion) {
    let mut group = c.benchmark_group("weighted round robin");
    for servers in [3, 100] {
        let weights: Vec<u8> = (0..servers).map(|server| 1 + server % 10).collect();
        let mut standings = SmoothWrr::new(weights.len());
        group.bench_function(format!("{servers} servers"), |b| {
            b.iter(|| standings.pick(black_box(&weights), |_| true));
        });
    }
    group.finish();
}

criterion_group!(benches, response_head, request_head, chunked_body, balance);
criterion_main!(benches);
