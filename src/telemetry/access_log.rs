//! One line of the access log: the fields of alb.md section 9.5 that exist outside a cloud, under
//! their names there, then lockgate's own (`listener`, `rule`, `server_group`, `server_name`, `cause`).
//!
//! A JSON line holds every field, always in the same order; numbers are numbers, and a value that
//! there is not is the string `-`, as on ALB. A text line is nginx's combined format followed by
//! the other fields as `name=value`. Units are ALB's: `request_time` and `upstream_response_time`
//! in seconds, `read_request_time` and `write_response_time` in milliseconds.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use http::Version;

use super::escape::{self, Escaped};
use crate::addr::{BackendAddr, ClientAddr, ClientIp};
use crate::scheme::Scheme;

/// The facts of one exchange, borrowed for as long as it takes to write them down.
///
/// What a client sent is given as it came: it is escaped and cut to length here.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// `time`: when the request came; written in UTC, to the second.
    pub time: SystemTime,
    /// `listener`: its name.
    pub listener: &'a str,
    /// `slb_vport`: the listener's port.
    pub listener_port: u16,
    /// `client_ip`, and `client_ip_from`: where it was found.
    pub client_ip: ClientIp,
    /// `client_port` and `peer_addr`: the last hop's port, and the other end of the socket.
    pub client: ClientAddr,
    /// `scheme`
    pub scheme: Scheme,
    /// `ssl_protocol`, such as `TLSv1.3`
    pub ssl_protocol: Option<&'a str>,
    /// `ssl_cipher`
    pub ssl_cipher: Option<&'a str>,
    /// `ssl_session_reused`: `r` for a resumed session, `.` for a new one.
    pub ssl_session_reused: Option<&'a str>,
    /// `ssl_client_verify`: what is thought of the client's certificate; absent where none is asked for.
    pub ssl_client_verify: Option<&'a str>,
    /// `server_name`: what the client asked for by SNI.
    pub server_name: Option<&'a str>,
    /// What was asked for; empty where no request could be read.
    pub request: RequestFacts<'a>,
    /// `request_length`: bytes of request line, header and body.
    pub request_length: u64,
    /// `status`: what the client got, or 499 where it left first.
    pub status: u16,
    /// `body_bytes_sent`
    pub body_bytes_sent: u64,
    /// `cause`: the stable code of why the answer is lockgate's own.
    pub cause: Option<&'a str>,
    /// `rule`: the name of the rule that took the request.
    pub rule: Option<&'a str>,
    /// `server_group`: the name of the group that was chosen.
    pub server_group: Option<&'a str>,
    /// `upstream_addr`: the last backend that was tried.
    pub upstream_addr: Option<&'a BackendAddr>,
    /// `upstream_status`
    pub upstream_status: Option<u16>,
    /// `request_time`: from the first byte of the request to the last of the response.
    pub request_time: Duration,
    /// `upstream_response_time`: from the connect to the end of the backend's response.
    pub upstream_response_time: Option<Duration>,
    /// `read_request_time`: until the request was read whole.
    pub read_request_time: Option<Duration>,
    /// `write_response_time`: from the response's first byte to its last.
    pub write_response_time: Option<Duration>,
}

/// What the client sent, as far as it is logged.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestFacts<'a> {
    /// `server_protocol`
    pub version: Option<Version>,
    /// `request_method`
    pub method: Option<&'a [u8]>,
    /// `request_uri`: path and query as they came.
    pub uri: Option<&'a [u8]>,
    /// `host`: from the request line, else from the Host field.
    pub host: Option<&'a [u8]>,
    /// `http_host`: the Host field.
    pub http_host: Option<&'a [u8]>,
    /// `http_referer`
    pub referer: Option<&'a [u8]>,
    /// `http_user_agent`
    pub user_agent: Option<&'a [u8]>,
    /// `http_x_forwarded_for`
    pub x_forwarded_for: Option<&'a [u8]>,
    /// `http_x_real_ip`
    pub x_real_ip: Option<&'a [u8]>,
    /// `request_id`: the name that the request was given, or came with from a trusted peer.
    pub request_id: Option<&'a [u8]>,
}

impl Record<'_> {
    /// Appends the exchange as one JSON object and a line end.
    pub fn json(&self, out: &mut Vec<u8>) {
        let request = &self.request;
        out.extend_from_slice(b"{\"time\":\"");
        time(self.time, out);
        out.push(b'"');
        let mut line = JsonLine(out);
        line.string("listener", Some(self.listener.as_bytes()));
        line.number("slb_vport", Some(self.listener_port));
        line.address("client_ip", self.client_ip.ip());
        line.string("client_ip_from", Some(self.found_in()));
        line.number("client_port", Some(self.client.port()));
        line.socket("peer_addr", self.client.peer());
        line.string("scheme", Some(self.scheme.as_str().as_bytes()));
        line.string("server_protocol", request.version.map(protocol));
        line.string("request_method", request.method);
        line.string("request_uri", request.uri);
        line.string("host", request.host);
        line.string("http_host", request.http_host);
        line.string("http_referer", request.referer);
        line.string("http_user_agent", request.user_agent);
        line.string("http_x_forwarded_for", request.x_forwarded_for);
        line.string("http_x_real_ip", request.x_real_ip);
        line.string("request_id", request.request_id);
        line.number("request_length", Some(self.request_length));
        line.number("body_bytes_sent", Some(self.body_bytes_sent));
        line.number("status", Some(self.status));
        line.string("cause", self.cause.map(str::as_bytes));
        line.string("rule", self.rule.map(str::as_bytes));
        line.string("server_group", self.server_group.map(str::as_bytes));
        line.backend("upstream_addr", self.upstream_addr);
        line.number("upstream_status", self.upstream_status);
        line.seconds("request_time", Some(self.request_time));
        line.seconds("upstream_response_time", self.upstream_response_time);
        line.number(
            "read_request_time",
            self.read_request_time.map(milliseconds),
        );
        line.number(
            "write_response_time",
            self.write_response_time.map(milliseconds),
        );
        line.string("ssl_protocol", self.ssl_protocol.map(str::as_bytes));
        line.string("ssl_cipher", self.ssl_cipher.map(str::as_bytes));
        line.string(
            "ssl_session_reused",
            self.ssl_session_reused.map(str::as_bytes),
        );
        line.string(
            "ssl_client_verify",
            self.ssl_client_verify.map(str::as_bytes),
        );
        line.string("server_name", self.server_name.map(str::as_bytes));
        out.extend_from_slice(b"}\n");
    }

    /// Appends the exchange as one readable line and a line end.
    pub fn text(&self, out: &mut Vec<u8>) {
        let request = &self.request;
        self.combined(out);
        let mut line = TextLine(out);
        line.string("host", request.host);
        line.string("http_host", request.http_host);
        line.string("http_x_forwarded_for", request.x_forwarded_for);
        line.string("http_x_real_ip", request.x_real_ip);
        line.string("request_id", request.request_id);
        line.string("client_ip_from", Some(self.found_in()));
        line.number("client_port", Some(self.client.port()));
        line.socket("peer_addr", self.client.peer());
        line.string("listener", Some(self.listener.as_bytes()));
        line.number("slb_vport", Some(self.listener_port));
        line.string("scheme", Some(self.scheme.as_str().as_bytes()));
        line.string("ssl_protocol", self.ssl_protocol.map(str::as_bytes));
        line.string("ssl_cipher", self.ssl_cipher.map(str::as_bytes));
        line.string(
            "ssl_session_reused",
            self.ssl_session_reused.map(str::as_bytes),
        );
        line.string(
            "ssl_client_verify",
            self.ssl_client_verify.map(str::as_bytes),
        );
        line.string("server_name", self.server_name.map(str::as_bytes));
        line.string("cause", self.cause.map(str::as_bytes));
        line.string("rule", self.rule.map(str::as_bytes));
        line.string("server_group", self.server_group.map(str::as_bytes));
        line.backend("upstream_addr", self.upstream_addr);
        line.number("upstream_status", self.upstream_status);
        line.number("request_length", Some(self.request_length));
        line.seconds("request_time", Some(self.request_time));
        line.seconds("upstream_response_time", self.upstream_response_time);
        line.number(
            "read_request_time",
            self.read_request_time.map(milliseconds),
        );
        line.number(
            "write_response_time",
            self.write_response_time.map(milliseconds),
        );
        out.push(b'\n');
    }

    fn found_in(&self) -> &'static [u8] {
        self.client_ip.provenance().as_str().as_bytes()
    }

    /// nginx's combined format, but for the time, which is RFC 3339.
    fn combined(&self, out: &mut Vec<u8>) {
        let request = &self.request;
        ip(self.client_ip.ip(), out);
        out.extend_from_slice(b" - - [");
        time(self.time, out);
        out.extend_from_slice(b"] \"");
        escape::text(request.method.unwrap_or(b"-"), out);
        out.push(b' ');
        escape::text(request.uri.unwrap_or(b"-"), out);
        out.push(b' ');
        escape::text(request.version.map_or(b"-", protocol), out);
        out.extend_from_slice(b"\" ");
        integer(self.status, out);
        out.push(b' ');
        integer(self.body_bytes_sent, out);
        for value in [request.referer, request.user_agent] {
            out.extend_from_slice(b" \"");
            escape::text(value.unwrap_or(b"-"), out);
            out.push(b'"');
        }
    }
}

/// Appends members to a JSON object that has one already.
struct JsonLine<'a>(&'a mut Vec<u8>);

impl JsonLine<'_> {
    fn name(&mut self, name: &'static str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn string(&mut self, name: &'static str, value: Option<&[u8]>) {
        self.name(name);
        self.0.push(b'"');
        escape::json(value.unwrap_or(b"-"), self.0);
        self.0.push(b'"');
    }

    fn address(&mut self, name: &'static str, value: IpAddr) {
        self.name(name);
        self.0.push(b'"');
        ip(value, self.0);
        self.0.push(b'"');
    }

    fn socket(&mut self, name: &'static str, value: SocketAddr) {
        self.name(name);
        self.0.push(b'"');
        socket(value, self.0);
        self.0.push(b'"');
    }

    fn backend(&mut self, name: &'static str, value: Option<&BackendAddr>) {
        let Some(value) = value else {
            return self.string(name, None);
        };
        self.name(name);
        self.0.push(b'"');
        backend(value, escape::json, self.0);
        self.0.push(b'"');
    }

    fn number(&mut self, name: &'static str, value: Option<impl itoa::Integer>) {
        let Some(value) = value else {
            return self.string(name, None);
        };
        self.name(name);
        integer(value, self.0);
    }

    fn seconds(&mut self, name: &'static str, value: Option<Duration>) {
        let Some(value) = value else {
            return self.string(name, None);
        };
        self.name(name);
        seconds(value, self.0);
    }
}

/// Appends ` name=value` pairs to a line that has begun; strings are quoted, `-` stands for nothing.
struct TextLine<'a>(&'a mut Vec<u8>);

impl TextLine<'_> {
    fn name(&mut self, name: &'static str) {
        self.0.push(b' ');
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'=');
    }

    fn nothing(&mut self, name: &'static str) {
        self.name(name);
        self.0.push(b'-');
    }

    fn string(&mut self, name: &'static str, value: Option<&[u8]>) {
        let Some(value) = value else {
            return self.nothing(name);
        };
        self.name(name);
        self.0.push(b'"');
        escape::text(value, self.0);
        self.0.push(b'"');
    }

    fn socket(&mut self, name: &'static str, value: SocketAddr) {
        self.name(name);
        self.0.push(b'"');
        socket(value, self.0);
        self.0.push(b'"');
    }

    fn backend(&mut self, name: &'static str, value: Option<&BackendAddr>) {
        let Some(value) = value else {
            return self.nothing(name);
        };
        self.name(name);
        self.0.push(b'"');
        backend(value, escape::text, self.0);
        self.0.push(b'"');
    }

    fn number(&mut self, name: &'static str, value: Option<impl itoa::Integer>) {
        let Some(value) = value else {
            return self.nothing(name);
        };
        self.name(name);
        integer(value, self.0);
    }

    fn seconds(&mut self, name: &'static str, value: Option<Duration>) {
        let Some(value) = value else {
            return self.nothing(name);
        };
        self.name(name);
        seconds(value, self.0);
    }
}

/// The protocol as nginx and ALB spell it: HTTP/2 has a `.0`.
fn protocol(version: Version) -> &'static [u8] {
    match version {
        Version::HTTP_09 => b"HTTP/0.9",
        Version::HTTP_10 => b"HTTP/1.0",
        Version::HTTP_11 => b"HTTP/1.1",
        Version::HTTP_2 => b"HTTP/2.0",
        Version::HTTP_3 => b"HTTP/3.0",
        _ => b"-",
    }
}

fn backend(address: &BackendAddr, escape: fn(&[u8], &mut Vec<u8>), out: &mut Vec<u8>) {
    match address {
        BackendAddr::Ip(address) => socket(*address, out),
        other @ (BackendAddr::Name { .. } | BackendAddr::Unix(_)) => {
            // Neither an address' formatting nor the buffer can fail.
            let _infallible = write!(Escaped::new(escape, out), "{other}");
        }
    }
}

fn socket(address: SocketAddr, out: &mut Vec<u8>) {
    match address {
        SocketAddr::V4(address) => {
            ip((*address.ip()).into(), out);
            out.push(b':');
            integer(address.port(), out);
        }
        SocketAddr::V6(_) => {
            // An address' characters need no escaping, and its formatting cannot fail.
            let _infallible = write!(out, "{address}");
        }
    }
}

/// By hand for IPv4, which costs a fraction of the formatting machinery.
fn ip(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => {
            let [first, rest @ ..] = address.octets();
            integer(first, out);
            for octet in rest {
                out.push(b'.');
                integer(octet, out);
            }
        }
        IpAddr::V6(address) => {
            let _infallible = write!(Escaped::new(escape::text, out), "{address}");
        }
    }
}

fn time(time: SystemTime, out: &mut Vec<u8>) {
    // humantime fails on times before 1970 and after 9999: what was written of them stays.
    let _partial = write!(out, "{}", humantime::format_rfc3339_seconds(time));
}

fn integer(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Seconds with three decimals, cut rather than rounded.
fn seconds(value: Duration, out: &mut Vec<u8>) {
    integer(value.as_secs(), out);
    let thousandths = value.subsec_millis();
    out.push(b'.');
    for padded in [100, 10] {
        if thousandths < padded {
            out.push(b'0');
        }
    }
    integer(thousandths, out);
}

fn milliseconds(value: Duration) -> u64 {
    u64::try_from(value.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record<'static> {
        let peer = ClientAddr::new("10.0.0.3:1024".parse().unwrap());
        let client = peer.announced("192.0.2.7:4711".parse().unwrap());
        Record {
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_793_836_800),
            listener: "web",
            listener_port: 443,
            client_ip: ClientIp::last_hop(client),
            client,
            scheme: Scheme::Https,
            ssl_protocol: Some("TLSv1.3"),
            ssl_cipher: Some("TLS_AES_128_GCM_SHA256"),
            ssl_session_reused: Some("r"),
            ssl_client_verify: Some("NONE"),
            server_name: Some("example.com"),
            request: RequestFacts {
                version: Some(Version::HTTP_2),
                method: Some(b"GET"),
                uri: Some(b"/a?b=c"),
                host: Some(b"example.com"),
                user_agent: Some(b"curl/8"),
                ..RequestFacts::default()
            },
            request_length: 120,
            status: 200,
            body_bytes_sent: 1024,
            cause: None,
            rule: Some("api"),
            server_group: Some("app"),
            upstream_addr: None,
            upstream_status: None,
            request_time: Duration::from_micros(1_005_900),
            upstream_response_time: Some(Duration::from_millis(40)),
            read_request_time: Some(Duration::from_micros(2_900)),
            write_response_time: None,
        }
    }

    fn json(record: &Record<'_>) -> String {
        let mut out = Vec::new();
        record.json(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn text(record: &Record<'_>) -> String {
        let mut out = Vec::new();
        record.text(&mut out);
        String::from_utf8(out).unwrap()
    }

    const FIELDS: &[&str] = &[
        "time",
        "listener",
        "slb_vport",
        "client_ip",
        "client_ip_from",
        "client_port",
        "peer_addr",
        "scheme",
        "server_protocol",
        "request_method",
        "request_uri",
        "host",
        "http_host",
        "http_referer",
        "http_user_agent",
        "http_x_forwarded_for",
        "http_x_real_ip",
        "request_id",
        "request_length",
        "body_bytes_sent",
        "status",
        "cause",
        "rule",
        "server_group",
        "upstream_addr",
        "upstream_status",
        "request_time",
        "upstream_response_time",
        "read_request_time",
        "write_response_time",
        "ssl_protocol",
        "ssl_cipher",
        "ssl_session_reused",
        "ssl_client_verify",
        "server_name",
    ];

    #[test]
    fn a_json_line_holds_exactly_the_documented_fields() {
        let line: serde_json::Value = serde_json::from_str(&json(&record())).unwrap();
        let mut names: Vec<_> = line
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let mut documented = FIELDS.to_vec();
        names.sort_unstable();
        documented.sort_unstable();
        assert_eq!(names, documented);
    }

    #[test]
    fn the_fields_of_a_json_line_have_their_values_and_units() {
        let line: serde_json::Value = serde_json::from_str(&json(&record())).unwrap();
        for (name, value) in [
            ("time", serde_json::json!("2026-11-05T00:00:00Z")),
            ("slb_vport", 443.into()),
            ("client_ip", "192.0.2.7".into()),
            ("client_ip_from", "proxy_protocol".into()),
            ("client_port", 4711.into()),
            ("peer_addr", "10.0.0.3:1024".into()),
            ("scheme", "https".into()),
            ("server_protocol", "HTTP/2.0".into()),
            ("request_uri", "/a?b=c".into()),
            ("http_host", "-".into()),
            ("status", 200.into()),
            ("cause", "-".into()),
            ("upstream_addr", "-".into()),
            ("upstream_status", "-".into()),
            ("request_time", 1.005.into()),
            ("upstream_response_time", 0.04.into()),
            ("read_request_time", 2.into()),
            ("write_response_time", "-".into()),
        ] {
            assert_eq!(line[name], value, "{name}");
        }
    }

    #[test]
    fn a_text_line_is_combined_and_then_named_values() {
        let address = BackendAddr::Ip("127.0.0.1:8080".parse().unwrap());
        let record = Record {
            upstream_addr: Some(&address),
            upstream_status: Some(200),
            ..record()
        };
        assert_eq!(
            text(&record),
            "192.0.2.7 - - [2026-11-05T00:00:00Z] \"GET /a?b=c HTTP/2.0\" 200 1024 \"-\" \"curl/8\" \
             host=\"example.com\" http_host=- http_x_forwarded_for=- http_x_real_ip=- request_id=- \
             client_ip_from=\"proxy_protocol\" client_port=4711 peer_addr=\"10.0.0.3:1024\" \
             listener=\"web\" slb_vport=443 scheme=\"https\" ssl_protocol=\"TLSv1.3\" \
             ssl_cipher=\"TLS_AES_128_GCM_SHA256\" ssl_session_reused=\"r\" ssl_client_verify=\"NONE\" server_name=\"example.com\" cause=- rule=\"api\" server_group=\"app\" \
             upstream_addr=\"127.0.0.1:8080\" upstream_status=200 request_length=120 request_time=1.005 \
             upstream_response_time=0.040 read_request_time=2 write_response_time=-\n"
        );
    }

    #[test]
    fn what_a_client_sends_stays_inside_its_field() {
        let hostile =
            "\"} \r\n{\"status\":200} \x1b[2J \u{202e}".to_owned() + &"A".repeat(64 * 1024);
        let bytes = Some(hostile.as_bytes());
        let request = RequestFacts {
            version: None,
            method: bytes,
            uri: bytes,
            host: bytes,
            http_host: bytes,
            referer: bytes,
            user_agent: bytes,
            x_forwarded_for: bytes,
            x_real_ip: bytes,
            request_id: bytes,
        };
        let record = Record {
            request,
            status: 400,
            ..record()
        };
        let line = json(&record);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["status"], 400);
        assert_eq!(
            value["http_user_agent"],
            format!("{}...", &hostile[..escape::VALUE_LIMIT])
        );
        for line in [line, text(&record)] {
            assert_eq!(line.find('\n'), Some(line.len() - 1));
            assert!(!line.contains(['\r', '\x1b', '\u{202e}']));
            assert!(line.len() < 45 * 1024);
        }
    }

    #[test]
    fn a_unix_path_with_a_quote_does_not_break_the_line() {
        let address = BackendAddr::Unix("/run/\"a\n.sock".into());
        let record = Record {
            upstream_addr: Some(&address),
            ..record()
        };
        let value: serde_json::Value = serde_json::from_str(&json(&record)).unwrap();
        assert_eq!(value["upstream_addr"], "unix:/run/\"a\n.sock");
    }

    #[test]
    fn addresses_are_written_as_they_print() {
        for text in ["10.0.0.255:80", "[2001:db8::1]:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            let (mut host, mut server) = (Vec::new(), Vec::new());
            ip(address.ip(), &mut host);
            backend(&BackendAddr::Ip(address), escape::json, &mut server);
            assert_eq!(String::from_utf8(host).unwrap(), address.ip().to_string());
            assert_eq!(String::from_utf8(server).unwrap(), text);
        }
    }

    #[test]
    fn seconds_have_three_decimals() {
        for (micros, expected) in [
            (0, "0.000"),
            (999, "0.000"),
            (1_000, "0.001"),
            (12_345, "0.012"),
            (61_120_000, "61.120"),
        ] {
            let mut out = Vec::new();
            seconds(Duration::from_micros(micros), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
