//! How long it takes to find a request's rule, with few and with many rules.

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::IpAddr;
use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use lockgate::config;
use lockgate::config::rule::RulesPlan;
use lockgate::route::router::{Request, Router};

/// So many rules, each with these conditions; `{i}` in them stands for the rule's number.
fn plan(count: usize, conditions: &str) -> Option<RulesPlan> {
    let mut toml =
        "[[listener]]\nname = \"web\"\nprotocol = \"http\"\nport = 80\nserver_group = \"app\"\n\
                    [[server_group]]\nname = \"app\"\nservers = [{ address = \"127.0.0.1:1\" }]\n"
            .to_owned();
    let mut rules = String::new();
    for i in 0..count {
        let _ = writeln!(
            rules,
            "[[listener.rule]]\nname = \"rule {i}\"\npriority = {}\nforward = \"app\"\n{}",
            i + 1,
            conditions.replace("{i}", &i.to_string())
        );
    }
    toml.insert_str(toml.find("[[server_group]]")?, &rules);
    let (plan, _) = config::parse(Path::new("bench.toml"), &toml, &|_| None);
    Some(plan?.listeners.pop()?.rules)
}

fn headers() -> HeaderMap {
    let fields = [
        ("host", "host0.example.com"),
        (
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        ),
        (
            "accept",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        ),
        ("accept-language", "en-US,en;q=0.5"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("cookie", "session=0123456789abcdef; theme=dark; group=blue"),
        ("x-canary", "7"),
    ];
    let field = |(name, value)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    };
    fields.into_iter().map(field).collect()
}

fn route(criterion: &mut Criterion) {
    let headers = headers();
    for (case, conditions) in [
        ("host", "host = [\"host{i}.example.com\"]"),
        ("wildcard_host", "host = [\"*.host{i}.example.com\"]"),
        ("path", "path = [\"/app{i}/*\"]"),
        (
            "host_and_path",
            "host = [\"host0.example.com\"]\npath = [\"/app{i}/*\"]\nmethod = [\"GET\"]",
        ),
        ("expression", "path = [\"~^/app{i}/[a-z]+$\"]"),
        (
            "header",
            "header = [{ name = \"x-canary\", values = [\"v{i}\"] }]",
        ),
        (
            "cookie",
            "cookie = [{ name = \"group\", values = [\"b{i}\"] }]",
        ),
    ] {
        let mut group = criterion.benchmark_group(format!("route/{case}"));
        for count in [0, 1, 100, 1000] {
            let Some(plan) = plan(count, conditions) else {
                return;
            };
            let router = Router::new(&plan);
            let last = count.saturating_sub(1);
            let host = match case {
                "host" => format!("host{last}.example.com"),
                "wildcard_host" => format!("www.host{last}.example.com"),
                _ => "host0.example.com".to_owned(),
            };
            let path = format!("/app{last}/index");
            group.bench_function(count.to_string(), |bencher| {
                bencher.iter(|| {
                    router.route(&Request {
                        host: black_box(&host),
                        path: black_box(&path),
                        query: None,
                        method: &Method::GET,
                        headers: &headers,
                        client: &|| IpAddr::from([192, 0, 2, 7]),
                    })
                });
            });
        }
    }
}

criterion_group!(benches, route);
criterion_main!(benches);
