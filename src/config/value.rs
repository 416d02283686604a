//! Single values: from what was written to what is meant, or why it cannot be.
//!
//! A [`ValueError`] says what is wrong (its `Display`) and what would be right (`expected`); where it
//! stands is the resolver's knowledge.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;
use rustls_pki_types::ServerName;
use tracing_subscriber::EnvFilter;

use crate::addr::BackendAddr;
use crate::config::defaults::{DNS_PORT, LARGEST_GRPC_CODE, Rule, TAG_LENGTH};
use crate::config::document::Quantity;
use crate::config::plan::ListenAddress;
use crate::config::suggest;
use crate::network;

/// Why a value is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ValueError {
    /// A number or duration beyond its bounds.
    OutOfRange {
        /// What was written.
        value: String,
        /// The smallest that is taken.
        least: String,
        /// The largest that is taken.
        most: String,
    },
    /// A string that is not a duration.
    Duration(String),
    /// A text of the wrong length.
    Length {
        /// How many characters it has.
        length: usize,
        /// The fewest that are taken.
        least: usize,
        /// The most that are taken.
        most: usize,
    },
    /// A text with a control character.
    ControlCharacter,
    /// A text that cannot be a header's value.
    HeaderValue(String),
    /// A path that is empty.
    EmptyPath,
    /// A server's address without a port.
    NoPort(String),
    /// A server's address with a port that is none.
    Port(String),
    /// A server's address that begins with a URL's scheme.
    Url(String),
    /// An IPv6 address and port without brackets around the address.
    Brackets(String),
    /// A text that is not a host name.
    HostName(String),
    /// A unix socket's path that the system cannot take.
    SocketPath(usize),
    /// A listener's address that is not an IP address.
    IpAddress(String),
    /// A listener's address with a port.
    AddressWithPort(String),
    /// A text that is not a media type.
    MediaType(String),
    /// A text that is neither an IP address nor a network.
    Network(String),
    /// A text that is not a field name.
    HeaderName(String),
    /// A tag that begins with a word of the cloud's own.
    TagBegins(&'static str),
    /// A tag with the scheme of a URL.
    TagHolds(&'static str),
    /// A DNS server that is not an address, or has no possible port.
    DnsServer(String),
    /// A health check's path that does not begin with `/`, or has a character that none has.
    CheckPath(String),
    /// A text that is not a gRPC status or a range of them.
    GrpcCode(String),
    /// A text that breaks the rules of its kind.
    Malformed {
        /// What was written.
        text: String,
        /// What it should be, with its article.
        kind: &'static str,
        /// What such a thing looks like.
        expected: String,
    },
    /// A text that is not a regular expression.
    Regex {
        /// What was written.
        text: String,
        /// Why it is none.
        why: String,
    },
    /// A text that is not a filter.
    Filter {
        /// What was written.
        text: String,
        /// What was probably meant.
        near: Option<&'static str>,
    },
}

impl ValueError {
    /// What would have been right, for the place where it stands.
    pub(super) fn expected(&self) -> String {
        match self {
            Self::OutOfRange { least, most, .. } => format!("must be {least} to {most}"),
            Self::Duration(_) => {
                "expected whole seconds, or a string such as `\"15s\"` or `\"500ms\"`".to_owned()
            }
            Self::Length { least, most, .. } => format!("must have {least} to {most} characters"),
            Self::ControlCharacter => "must not contain control characters".to_owned(),
            Self::HeaderValue(_) => {
                "expected printable ASCII characters, no space at either end".to_owned()
            }
            Self::EmptyPath => "expected a path".to_owned(),
            Self::NoPort(_) => {
                "expected `host:port`, such as `10.0.0.11:8080`, or `unix:/path`".to_owned()
            }
            Self::Port(_) => "expected a port from 1 to 65535".to_owned(),
            Self::Url(_) => "expected `host:port` without a scheme".to_owned(),
            Self::Brackets(_) => {
                "expected brackets around the IPv6 address: `[::1]:8080`".to_owned()
            }
            Self::HostName(_) => "expected an IP address or a host name".to_owned(),
            Self::SocketPath(_) => {
                format!("a unix socket's path has at most {SOCKET_PATH_LENGTH} bytes")
            }
            Self::IpAddress(_) => "expected an IPv4 or IPv6 address".to_owned(),
            Self::AddressWithPort(_) => {
                "expected an address alone; the port is a key of its own".to_owned()
            }
            Self::MediaType(_) => {
                "expected a media type such as `image/png`, or a family such as `image/*`"
                    .to_owned()
            }
            Self::Network(_) => {
                "expected an IP address or a network, such as `10.0.0.0/8`".to_owned()
            }
            Self::HeaderName(_) => "expected a name such as `X-Forwarded-For`".to_owned(),
            Self::TagBegins(_) => "`acs:` and `aliyun` begin tags of the cloud's own".to_owned(),
            Self::TagHolds(_) => "a tag is no URL".to_owned(),
            Self::DnsServer(_) => {
                "expected an IP address, perhaps with a port, such as `10.0.0.2:53`".to_owned()
            }
            Self::CheckPath(_) => {
                "expected `/` and letters, digits or punctuation, such as `/healthz?full=1`"
                    .to_owned()
            }
            Self::GrpcCode(_) => format!(
                "expected a number from 0 to {LARGEST_GRPC_CODE}, or a range such as `\"0-12\"`"
            ),
            Self::Malformed { expected, .. } => format!("expected {expected}"),
            Self::Regex { why, .. } => why.clone(),
            Self::Filter {
                near: Some(near), ..
            } => format!("did you mean `{near}`?"),
            Self::Filter { near: None, .. } => {
                "expected a tracing filter such as `info` or `warn,lockgate=debug`".to_owned()
            }
        }
    }
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange { value, .. } => write!(f, "`{value}` is out of range"),
            Self::Duration(text) => write!(f, "`{text}` is not a duration"),
            Self::Length { length: 0, .. } => f.write_str("it is empty"),
            Self::Length { length, .. } => write!(f, "it has {length} characters"),
            Self::ControlCharacter => f.write_str("it contains a control character"),
            Self::HeaderValue(text) => {
                write!(f, "`{}` cannot be sent in a header", text.escape_debug())
            }
            Self::EmptyPath => f.write_str("the path is empty"),
            Self::NoPort(text) => write!(f, "`{text}` has no port"),
            Self::Port(text) => write!(f, "`{text}` is not a port"),
            Self::Url(text) => write!(f, "`{text}` is a URL"),
            Self::Brackets(text) => write!(f, "`{text}` does not tell address and port apart"),
            Self::HostName(text) => write!(f, "`{}` is not a host name", text.escape_debug()),
            Self::SocketPath(length) => write!(f, "the path has {length} bytes"),
            Self::IpAddress(text) => write!(f, "`{}` is not an IP address", text.escape_debug()),
            Self::AddressWithPort(text) => write!(f, "`{text}` is an address and a port"),
            Self::MediaType(text) => write!(f, "`{}` is not a media type", text.escape_debug()),
            Self::Network(text) => {
                let text = text.escape_debug();
                write!(f, "`{text}` is neither an IP address nor a network")
            }
            Self::HeaderName(text) => {
                write!(f, "`{}` is not a header's name", text.escape_debug())
            }
            Self::TagBegins(begin) => write!(f, "it begins with `{begin}`"),
            Self::TagHolds(scheme) => write!(f, "it contains `{scheme}`"),
            Self::DnsServer(text) => {
                write!(f, "`{}` is not a DNS server's address", text.escape_debug())
            }
            Self::CheckPath(text) => {
                write!(f, "`{}` cannot be asked for", text.escape_debug())
            }
            Self::GrpcCode(text) => {
                write!(f, "`{}` is not a gRPC status", text.escape_debug())
            }
            Self::Malformed { text, kind, .. } => {
                write!(f, "`{}` is not {kind}", text.escape_debug())
            }
            Self::Regex { text, .. } => {
                write!(
                    f,
                    "`{}` is not taken as a regular expression",
                    text.escape_debug()
                )
            }
            Self::Filter { text, .. } => {
                write!(f, "`{}` is not a log level or filter", text.escape_debug())
            }
        }
    }
}

impl Error for ValueError {}

/// A number inside its bounds.
pub(super) fn number<T>(value: i64, rule: Rule<T>) -> Result<T, ValueError>
where
    T: TryFrom<u64> + PartialOrd + fmt::Display,
{
    match u64::try_from(value)
        .ok()
        .and_then(|value| T::try_from(value).ok())
    {
        Some(number) if (&rule.least..=&rule.most).contains(&&number) => Ok(number),
        Some(_) | None => {
            let (least, most) = (rule.least.to_string(), rule.most.to_string());
            Err(ValueError::OutOfRange {
                value: value.to_string(),
                least,
                most,
            })
        }
    }
}

/// A duration inside its bounds: whole seconds, or a string with a unit.
pub(super) fn duration(written: &Quantity, rule: Rule<Duration>) -> Result<Duration, ValueError> {
    let (value, shown) = match written {
        Quantity::Number(number) => (
            u64::try_from(*number).ok().map(Duration::from_secs),
            number.to_string(),
        ),
        Quantity::Text(text) => (Some(parse_duration(text)?), text.clone()),
    };
    match value {
        Some(value) if (rule.least..=rule.most).contains(&value) => Ok(value),
        Some(_) | None => {
            let (least, most) = (show_duration(rule.least), show_duration(rule.most));
            Err(ValueError::OutOfRange {
                value: shown,
                least,
                most,
            })
        }
    }
}

/// A duration as a person writes it.
pub(super) fn show_duration(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        humantime::format_duration(duration)
            .to_string()
            .replace(' ', "")
    }
}

fn parse_duration(text: &str) -> Result<Duration, ValueError> {
    // humantime adds without looking: only a text longer than this can bring it to an overflow.
    if text.len() > LONGEST_DURATION {
        return Err(ValueError::Duration(text.to_owned()));
    }
    humantime::parse_duration(text).map_err(|_| ValueError::Duration(text.to_owned()))
}

/// A text whose number of characters is between two bounds, without control characters.
pub(super) fn text(value: String, least: usize, most: usize) -> Result<String, ValueError> {
    let length = value.chars().count();
    if !(least..=most).contains(&length) {
        return Err(ValueError::Length {
            length,
            least,
            most,
        });
    }
    if value.contains(char::is_control) {
        return Err(ValueError::ControlCharacter);
    }
    Ok(value)
}

/// The key or the value of a tag (alb.md 1.1).
pub(super) fn tag(value: String, least: usize) -> Result<String, ValueError> {
    let value = text(value, least, TAG_LENGTH)?;
    if let Some(begin) = ["acs:", "aliyun"]
        .into_iter()
        .find(|begin| value.starts_with(begin))
    {
        return Err(ValueError::TagBegins(begin));
    }
    if let Some(scheme) = ["http://", "https://"]
        .into_iter()
        .find(|scheme| value.contains(scheme))
    {
        return Err(ValueError::TagHolds(scheme));
    }
    Ok(value)
}

/// A text that can stand as a header's value: SLB-ID's.
pub(super) fn header_value(value: String) -> Result<String, ValueError> {
    let value = text(value, 1, HEADER_VALUE_LENGTH)?;
    if !value.is_ascii() || value.trim() != value {
        return Err(ValueError::HeaderValue(value));
    }
    Ok(value)
}

/// A header's name.
pub(super) fn header_name(value: &str) -> Result<HeaderName, ValueError> {
    HeaderName::try_from(value).map_err(|_| ValueError::HeaderName(value.to_owned()))
}

/// IP addresses and networks: one, or several as ALB writes them, with `;` between them.
pub(super) fn networks(value: &str) -> Result<Vec<IpNet>, ValueError> {
    let entries = value.split([';', ',']).map(str::trim);
    entries
        .map(|entry| network::parse(entry).ok_or_else(|| ValueError::Network(entry.to_owned())))
        .collect()
}

/// A path, as seen from a folder.
pub(super) fn path(value: &str, folder: &Path) -> Result<PathBuf, ValueError> {
    if value.is_empty() {
        Err(ValueError::EmptyPath)
    } else {
        Ok(folder.join(value))
    }
}

/// The address of a server: `ip:port`, `[v6]:port`, `host:port` or `unix:path`.
pub(super) fn backend_address(value: &str, folder: &Path) -> Result<BackendAddr, ValueError> {
    if let Some(socket) = value.strip_prefix("unix:") {
        let socket = path(socket, folder)?;
        let length = socket.as_os_str().len();
        return if length > SOCKET_PATH_LENGTH {
            Err(ValueError::SocketPath(length))
        } else {
            Ok(BackendAddr::Unix(socket))
        };
    }
    if value.contains("://") {
        return Err(ValueError::Url(value.to_owned()));
    }
    if value
        .parse::<IpAddr>()
        .is_ok_and(|address| address.is_ipv6())
    {
        return Err(ValueError::Brackets(value.to_owned()));
    }
    let Some((host, port)) = value.rsplit_once(':') else {
        return Err(ValueError::NoPort(value.to_owned()));
    };
    let port = match port.parse::<u16>() {
        Ok(number) if number > 0 && port.bytes().all(|byte| byte.is_ascii_digit()) => number,
        Ok(_) | Err(_) => return Err(ValueError::Port(port.to_owned())),
    };
    if let Ok(address) = value.parse::<SocketAddr>() {
        return Ok(BackendAddr::Ip(address));
    }
    if host.contains(':') && !host.starts_with('[') {
        return Err(ValueError::Brackets(value.to_owned()));
    }
    Ok(BackendAddr::Name {
        host: host_name(host)?,
        port,
    })
}

/// A host name, in lower case (RFC 1123 section 2.1; underscores as names in the field have them).
pub(super) fn host_name(value: &str) -> Result<String, ValueError> {
    let labels = value.strip_suffix('.').unwrap_or(value);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let mut last_is_number = false;
    let mut all_are_labels = labels.len() <= 253;
    for label in labels.split('.') {
        all_are_labels &= is_label(label);
        last_is_number = label.bytes().all(|byte| byte.is_ascii_digit());
    }
    // A name that ends in a number is a mistyped IPv4 address: no top-level domain is a number.
    if all_are_labels && !last_is_number {
        Ok(value.to_ascii_lowercase())
    } else {
        Err(ValueError::HostName(value.to_owned()))
    }
}

/// A name for a self-signed certificate: a DNS name, perhaps with a leading `*.`, or an IP address.
pub(super) fn subject_name(value: &str) -> Result<String, ValueError> {
    if let Ok(address) = value.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    match value.strip_prefix("*.") {
        Some(parent) => Ok(format!("*.{}", host_name(parent)?)),
        None => host_name(value),
    }
}

/// The name of a TLS server: a host name or an IP address.
pub(super) fn tls_name(value: &str) -> Result<ServerName<'static>, ValueError> {
    let name = match value.parse::<IpAddr>() {
        Ok(address) => return Ok(address.into()),
        Err(_) => host_name(value)?,
    };
    ServerName::try_from(name).map_err(|_| ValueError::HostName(value.to_owned()))
}

/// The address of a listener: an IP address.
pub(super) fn listen_address(value: &str) -> Result<ListenAddress, ValueError> {
    if value.parse::<SocketAddr>().is_ok() {
        return Err(ValueError::AddressWithPort(value.to_owned()));
    }
    value
        .parse()
        .map(ListenAddress::Ip)
        .map_err(|_| ValueError::IpAddress(value.to_owned()))
}

/// A DNS server's address, by itself or with a port.
pub(super) fn dns_server(value: &str) -> Result<SocketAddr, ValueError> {
    let alone = value.parse::<IpAddr>();
    let server = alone
        .map(|ip| SocketAddr::new(ip, DNS_PORT))
        .or_else(|_| value.parse::<SocketAddr>());
    match server {
        Ok(server) if server.port() != 0 && !server.ip().is_unspecified() => Ok(server),
        Ok(_) | Err(_) => Err(ValueError::DnsServer(value.to_owned())),
    }
}

/// A media type or a family of them, in lower case.
pub(super) fn media_type(value: &str) -> Result<String, ValueError> {
    let is_token = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
    };
    match value.split_once('/') {
        Some((family, kind)) if is_token(family) && (kind == "*" || is_token(kind)) => {
            Ok(value.to_ascii_lowercase())
        }
        Some(_) | None => Err(ValueError::MediaType(value.to_owned())),
    }
}

/// A tracing filter; a lone word that is almost a level is a mistake, though tracing takes it for a target.
pub(super) fn log_filter(value: String) -> Result<String, ValueError> {
    let near = suggest::nearest(&value, LEVELS.iter().copied())
        .filter(|level| !level.eq_ignore_ascii_case(&value));
    let parses = !value.trim().is_empty() && EnvFilter::builder().parse(&value).is_ok();
    if parses && near.is_none() {
        Ok(value)
    } else {
        Err(ValueError::Filter { text: value, near })
    }
}

const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];
/// The largest number of seconds has 20 digits.
const LONGEST_DURATION: usize = 20;
/// Linux' `sockaddr_un` holds 108 bytes, one of them the closing zero.
const SOCKET_PATH_LENGTH: usize = 107;
const HEADER_VALUE_LENGTH: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule<Duration> = Rule {
        default: Duration::from_secs(5),
        least: Duration::from_millis(100),
        most: Duration::from_secs(60),
    };

    #[test]
    fn durations_are_whole_seconds_or_have_a_unit() {
        for (text, millis) in [
            ("500ms", 500),
            ("15s", 15_000),
            ("1m", 60_000),
            ("1s 500ms", 1500),
            ("1.5s", 1500),
        ] {
            let read = duration(&Quantity::Text(text.into()), RULE);
            assert_eq!(read, Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(
            duration(&Quantity::Number(7), RULE),
            Ok(Duration::from_secs(7))
        );
        for text in [
            "",
            "5",
            "5 parsecs",
            "s",
            "-1s",
            "18446744073709551615s1000ms",
        ] {
            assert_eq!(
                duration(&Quantity::Text(text.into()), RULE),
                Err(ValueError::Duration(text.into())),
                "{text}"
            );
        }
        for written in [
            Quantity::Number(0),
            Quantity::Number(-1),
            Quantity::Number(61),
            Quantity::Text("99ms".into()),
        ] {
            let refused = duration(&written, RULE).unwrap_err();
            assert_eq!(refused.expected(), "must be 100ms to 60s", "{written:?}");
        }
    }

    #[test]
    fn server_addresses() {
        let folder = Path::new("/etc/lockgate");
        for (text, printed) in [
            ("10.0.0.11:8080", "10.0.0.11:8080"),
            ("[::1]:80", "[::1]:80"),
            ("App.Internal:8080", "app.internal:8080"),
            ("localhost:1", "localhost:1"),
            ("my_service:65535", "my_service:65535"),
            ("unix:/run/app.sock", "unix:/run/app.sock"),
            ("unix:app.sock", "unix:/etc/lockgate/app.sock"),
        ] {
            assert_eq!(backend_address(text, folder).unwrap().to_string(), printed);
        }
        let long = format!("unix:/{}", "x".repeat(107));
        for (text, message) in [
            ("", "`` has no port"),
            ("10.0.0.11", "`10.0.0.11` has no port"),
            ("app:0", "`0` is not a port"),
            ("app:65536", "`65536` is not a port"),
            ("app:+80", "`+80` is not a port"),
            ("app:", "`` is not a port"),
            ("http://app:80", "`http://app:80` is a URL"),
            ("::1", "`::1` does not tell address and port apart"),
            (
                "2001:db8::1:80",
                "`2001:db8::1:80` does not tell address and port apart",
            ),
            ("10.0.0.300:80", "`10.0.0.300` is not a host name"),
            ("[::g]:80", "`[::g]` is not a host name"),
            ("-a:80", "`-a` is not a host name"),
            ("a..b:80", "`a..b` is not a host name"),
            (":80", "`` is not a host name"),
            ("unix:", "the path is empty"),
            (&long, "the path has 108 bytes"),
        ] {
            assert_eq!(
                backend_address(text, folder).unwrap_err().to_string(),
                message
            );
        }
    }

    #[test]
    fn listen_addresses() {
        assert_eq!(
            listen_address("::"),
            Ok(ListenAddress::Ip("::".parse().unwrap()))
        );
        assert_eq!(
            listen_address("127.0.0.1:80"),
            Err(ValueError::AddressWithPort("127.0.0.1:80".into()))
        );
        assert_eq!(
            listen_address("localhost"),
            Err(ValueError::IpAddress("localhost".into()))
        );
    }

    #[test]
    fn names_of_self_signed_certificates() {
        for (text, expected) in [
            ("LocalHost", Some("localhost")),
            ("::1", Some("::1")),
            ("*.a.test", Some("*.a.test")),
        ] {
            assert_eq!(subject_name(text).ok().as_deref(), expected);
        }
        for text in ["", "*", "a.*.test", "a b", "é.test"] {
            assert!(subject_name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_of_tls_servers() {
        for (text, expected) in [
            ("Backend.Internal", Some("backend.internal")),
            ("10.0.0.1", Some("10.0.0.1")),
            ("::1", Some("::1")),
            ("my_service", Some("my_service")),
            ("", None),
            ("backend:443", None),
            ("*.internal", None),
        ] {
            let name = tls_name(text).ok();
            let shown = name.as_ref().map(ServerName::to_str);
            assert_eq!(shown.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn media_types() {
        for (text, expected) in [
            ("Image/PNG", Some("image/png")),
            ("image/*", Some("image/*")),
            ("image", None),
            ("*/*", None),
            ("a/b; q=1", None),
        ] {
            assert_eq!(media_type(text).ok().as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn log_filters() {
        for text in [
            "info",
            "INFO",
            "off",
            "warn,lockgate=debug",
            "lockgate::tls=trace",
        ] {
            assert_eq!(log_filter(text.into()).as_deref(), Ok(text));
        }
        for (text, near) in [
            ("inof", Some("info")),
            ("debgu", Some("debug")),
            ("a=b=c", None),
            ("", None),
        ] {
            assert_eq!(
                log_filter(text.into()),
                Err(ValueError::Filter {
                    text: text.into(),
                    near
                })
            );
        }
    }

    #[test]
    fn the_instance_id_can_be_sent_in_a_header() {
        assert_eq!(header_value("alb-1 b".into()).as_deref(), Ok("alb-1 b"));
        for text in ["", " a", "a\r\nb", "é"] {
            assert!(header_value(text.into()).is_err(), "{text:?}");
        }
    }
}
