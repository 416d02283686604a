//! Random requests against random rules: what the program chooses is what a plain reading of alb.md 6.1 and 6.2
//! does. The reading below shares nothing with the program: it goes through the rules one by one.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

use crate::support::backend::Backend;
use crate::support::proxy::{Proxy, free_port};
use crate::support::raw::Raw;
use crate::support::within;

const SETS: usize = 200;
const REQUESTS: usize = 10;
/// Rules of a set; each has a group of its own, and one more is the default.
const RULES: usize = 7;

const HOSTS: [&str; 8] = [
    "a.example.com",
    "b.a.example.com",
    "*.example.com",
    "*.a.example.com",
    "a.example.*",
    "?.example.com",
    "*a.example.com",
    "~^(a|c)\\.example\\.(com|org)$",
];
const PATHS: [&str; 10] = [
    "/",
    "/a",
    "/a/*",
    "/a/b",
    "/*/b",
    "/a?",
    "/*",
    "~^/v[0-9]+/",
    "~*b$",
    "~a",
];
const SEGMENTS: [&str; 9] = ["a", "b", "A", "v1", "v22", "", "%61", "a;b", "ab"];
const VALUES: [&str; 6] = ["1", "2", "x1", "*", "x*", "?"];

/// xorshift: the same on every run.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.throw(from.len())]
    }

    fn some<T: Copy>(&mut self, from: &[T]) -> Vec<T> {
        let count = 1 + self.throw(2);
        (0..count).map(|_| self.pick(from)).collect()
    }

    fn now_and_then<T>(&mut self, one_in: usize, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.throw(one_in) == 0).then(|| make(self))
    }
}

/// A rule, as it is written.
#[derive(Debug, Default)]
struct Rule {
    priority: usize,
    group: usize,
    host: Option<Vec<&'static str>>,
    path: Option<Vec<&'static str>>,
    method: Option<Vec<&'static str>>,
    header: Option<Vec<&'static str>>,
    query: Option<Vec<&'static str>>,
    cookie: Option<Vec<&'static str>>,
    source_ip: Option<Vec<&'static str>>,
}

/// A request, as it is sent.
#[derive(Debug)]
struct Request {
    source: u8,
    method: &'static str,
    host: &'static str,
    path: String,
    query: Option<String>,
    headers: Vec<&'static str>,
    cookies: Vec<String>,
}

fn rule(dice: &mut Dice, priority: usize, group: usize) -> Rule {
    Rule {
        priority,
        group,
        host: dice.now_and_then(2, |dice| dice.some(&HOSTS)),
        path: dice.now_and_then(2, |dice| dice.some(&PATHS)),
        method: dice.now_and_then(4, |dice| dice.some(&["GET", "POST", "PUT"])),
        header: dice.now_and_then(5, |dice| dice.some(&VALUES)),
        query: dice.now_and_then(5, |dice| dice.some(&VALUES)),
        cookie: dice.now_and_then(5, |dice| dice.some(&VALUES)),
        source_ip: dice.now_and_then(5, |dice| {
            dice.some(&["127.0.0.1", "127.0.0.2/31", "127.0.0.0/30"])
        }),
    }
}

/// A set in the order of the file, which is not that of its priorities.
fn set(dice: &mut Dice) -> Vec<Rule> {
    let mut priorities: Vec<usize> = (1..=RULES).collect();
    let count = 1 + dice.throw(RULES);
    (0..count)
        .map(|group| {
            let priority = priorities.swap_remove(dice.throw(priorities.len()));
            rule(dice, priority * 10, group)
        })
        .collect()
}

fn pairs(dice: &mut Dice, names: &[&str], separator: &str) -> String {
    let count = 1 + dice.throw(2);
    let pair = |dice: &mut Dice| match dice.throw(6) {
        0 => dice.pick(names).to_owned(),
        _ => format!(
            "{}={}",
            dice.pick(names),
            dice.pick(&["1", "2", "X1", "x", "", "%31"])
        ),
    };
    let pairs: Vec<_> = (0..count).map(|_| pair(dice)).collect();
    pairs.join(separator)
}

fn request(dice: &mut Dice) -> Request {
    let segments = 1 + dice.throw(3);
    let path = (0..segments).fold(String::new(), |path, _| path + "/" + dice.pick(&SEGMENTS));
    let lines = dice.throw(3);
    let cookies = dice.throw(3);
    Request {
        source: u8::try_from(1 + dice.throw(5)).unwrap(),
        method: dice.pick(&["GET", "POST", "PUT", "DELETE"]),
        host: dice.pick(&[
            "a.example.com",
            "A.Example.COM:8080",
            "b.a.example.com",
            "c.b.a.example.com.",
            "c.example.org",
            "xa.example.com",
            "other",
        ]),
        path,
        query: dice.now_and_then(2, |dice| pairs(dice, &["q", "Q", "p"], "&")),
        headers: (0..lines)
            .map(|_| dice.pick(&["1", "2", "x1", "X1", "3"]))
            .collect(),
        cookies: (0..cookies)
            .map(|_| pairs(dice, &["c", "C", "d"], "; "))
            .collect(),
    }
}

/// `*` is any run, `?` one character.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=text.len()).any(|end| glob(rest, &text[end..])),
        ([b'?', rest @ ..], [_, after @ ..]) => glob(rest, after),
        ([own, rest @ ..], [byte, after @ ..]) => own == byte && glob(rest, after),
        _ => false,
    }
}

/// What the few regular expressions above mean.
fn expression(pattern: &str, text: &str) -> bool {
    match pattern {
        "~^(a|c)\\.example\\.(com|org)$" => [
            "a.example.com",
            "a.example.org",
            "c.example.com",
            "c.example.org",
        ]
        .contains(&text),
        "~^/v[0-9]+/" => text.strip_prefix("/v").is_some_and(|rest| {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            digits > 0 && rest[digits..].starts_with('/')
        }),
        "~*b$" => text.ends_with(['b', 'B']),
        "~a" => text.contains('a'),
        other => panic!("{other}"),
    }
}

fn any(patterns: &Option<Vec<&str>>, text: &str) -> bool {
    patterns.as_ref().is_none_or(|patterns| {
        patterns
            .iter()
            .any(|pattern| match pattern.starts_with('~') {
                true => expression(pattern, text),
                false => glob(pattern.as_bytes(), text.as_bytes()),
            })
    })
}

/// Whether one of `name=value` has that name and one of these values, whatever their case.
fn any_pair(patterns: &Option<Vec<&str>>, list: &str, separator: char, name: &str) -> bool {
    list.split(separator).any(|pair| {
        let pair = pair.trim().to_lowercase();
        let (key, value) = pair.split_once('=').unwrap_or((&pair, ""));
        key == name && any(patterns, value)
    })
}

fn takes(rule: &Rule, request: &Request) -> bool {
    let host = request.host.split(':').next().unwrap().to_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    let query = request.query.as_deref().unwrap_or("");
    let from = |network: &&str| match *network {
        "127.0.0.1" => request.source == 1,
        "127.0.0.2/31" => matches!(request.source, 2 | 3),
        "127.0.0.0/30" => request.source < 4,
        other => panic!("{other}"),
    };
    any(&rule.host, host)
        && any(&rule.path, &request.path)
        && rule
            .method
            .as_ref()
            .is_none_or(|list| list.contains(&request.method))
        && (rule.header.is_none() || request.headers.iter().any(|line| any(&rule.header, line)))
        && (rule.query.is_none() || any_pair(&rule.query, query, '&', "q"))
        && (rule.cookie.is_none()
            || request
                .cookies
                .iter()
                .any(|line| any_pair(&rule.cookie, line, ';', "c")))
        && rule
            .source_ip
            .as_ref()
            .is_none_or(|list| list.iter().any(from))
}

/// The group that a plain reading chooses.
fn reference(rules: &[Rule], request: &Request) -> usize {
    let mut sorted: Vec<_> = rules.iter().collect();
    sorted.sort_by_key(|rule| rule.priority);
    let first = sorted.into_iter().find(|rule| takes(rule, request));
    first.map_or(RULES, |rule| rule.group)
}

fn toml(rules: &[Rule], set: usize, port: u16) -> String {
    let mut toml = format!(
        "[[listener]]\nname = \"l{set}\"\nprotocol = \"http\"\naddress = \"127.0.0.1\"\nport = {port}\n\
         server_group = \"g{RULES}\"\n"
    );
    for rule in rules {
        let _ = writeln!(
            toml,
            "[[listener.rule]]\nname = \"r{}\"\npriority = {}\nforward = \"g{}\"",
            rule.group, rule.priority, rule.group
        );
        for (key, list) in [
            ("host", &rule.host),
            ("path", &rule.path),
            ("method", &rule.method),
            ("source_ip", &rule.source_ip),
        ] {
            if let Some(list) = list {
                let _ = writeln!(toml, "{key} = {list:?}");
            }
        }
        for (key, name, list) in [
            ("header", "x-h", &rule.header),
            ("query", "q", &rule.query),
            ("cookie", "c", &rule.cookie),
        ] {
            if let Some(list) = list {
                let _ = writeln!(toml, "{key} = [{{ name = \"{name}\", values = {list:?} }}]");
            }
        }
    }
    toml
}

fn bytes(request: &Request) -> String {
    let query = request
        .query
        .as_ref()
        .map_or(String::new(), |query| format!("?{query}"));
    let mut text = format!(
        "{} {}{query} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n",
        request.method, request.path, request.host
    );
    for value in &request.headers {
        let _ = write!(text, "X-H: {value}\r\n");
    }
    for cookie in &request.cookies {
        let _ = write!(text, "Cookie: {cookie}\r\n");
    }
    text + "\r\n"
}

async fn send(request: &Request, port: u16) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    let source = IpAddr::from([127, 0, 0, request.source]);
    socket.bind(SocketAddr::new(source, 0)).unwrap();
    let connect = socket.connect((Ipv4Addr::LOCALHOST, port).into());
    let mut raw = Raw::over(within("it is connected", connect).await.unwrap());
    raw.write(bytes(request)).await;
    let answer = raw.read_response().await;
    assert_eq!(answer.status(), 200, "{request:?}");
    answer.text()
}

#[tokio::test]
async fn two_thousand_requests_are_taken_by_the_rules_that_a_plain_reading_chooses() {
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let mut config = "[server]\nworkers = 1\n[server.access_log]\npath = \"off\"\n".to_owned();
    let mut sets = Vec::with_capacity(SETS);
    for number in 0..SETS {
        let port = free_port();
        let rules = set(&mut dice);
        config += &toml(&rules, number, port);
        sets.push((rules, port));
    }
    let mut backends = Vec::new();
    for group in 0..=RULES {
        let backend = Backend::named(&format!("g{group}")).run().await;
        let _ = writeln!(
            config,
            "[[server_group]]\nname = \"g{group}\"\nservers = [{{ address = \"{}\" }}]",
            backend.address()
        );
        backends.push(backend);
    }
    let _running = Proxy::new().http().raw_config(config).run().await;
    let mut taken = vec![0; RULES + 1];
    for (rules, port) in &sets {
        for _ in 0..REQUESTS {
            let request = request(&mut dice);
            let expected = reference(rules, &request);
            let chosen = send(&request, *port).await;
            assert_eq!(chosen, format!("g{expected}"), "{request:?} {rules:#?}");
            taken[expected] += 1;
        }
    }
    assert!(
        taken.iter().all(|count| *count > 20),
        "every group is met: {taken:?}"
    );
}
