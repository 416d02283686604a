//! Addresses, told apart by the position they hold: confusing them is the security bug of a proxy.
//!
//! `ClientAddr` is the peer of the client's socket, `ListenAddr` the address a listener is bound to,
//! `BackendAddr` where a backend is reached.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// The address and port of the client's socket: the last hop before lockgate.
///
/// An IPv4 address that arrived mapped into IPv6 (`::ffff:a.b.c.d`) is held as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr(SocketAddr);

impl ClientAddr {
    /// Takes a socket's peer address, in its canonical form.
    pub fn new(peer: SocketAddr) -> Self {
        Self(SocketAddr::new(peer.ip().to_canonical(), peer.port()))
    }

    /// The IP address, never an IPv4-mapped one.
    pub fn ip(self) -> IpAddr {
        self.0.ip()
    }

    /// The client's source port.
    pub fn port(self) -> u16 {
        self.0.port()
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An address and port that a listener is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenAddr(SocketAddr);

impl ListenAddr {
    /// Names an address to listen on.
    pub fn new(address: SocketAddr) -> Self {
        Self(address)
    }

    /// The socket address to bind.
    pub fn socket_addr(self) -> SocketAddr {
        self.0
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a backend is reached: an IP address and port, a host name and port, or a unix socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BackendAddr {
    /// `10.0.0.11:8080`, `[::1]:8080`
    Ip(SocketAddr),
    /// `app.internal:8080`: resolved to addresses, again and again
    Name {
        /// The host name, lower-case.
        host: String,
        /// The TCP port.
        port: u16,
    },
    /// `unix:/run/app.sock`
    Unix(PathBuf),
}

impl fmt::Display for BackendAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_client_on_an_ipv6_socket_is_an_ipv4_client() {
        let client = ClientAddr::new("[::ffff:192.0.2.7]:4711".parse().unwrap());
        assert_eq!(client.to_string(), "192.0.2.7:4711");
        assert_eq!(client.ip(), "192.0.2.7".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn backend_addresses_print_as_they_are_written() {
        for (address, text) in [
            (
                BackendAddr::Ip("127.0.0.1:80".parse().unwrap()),
                "127.0.0.1:80",
            ),
            (BackendAddr::Ip("[::1]:80".parse().unwrap()), "[::1]:80"),
            (
                BackendAddr::Name {
                    host: "app.internal".into(),
                    port: 8080,
                },
                "app.internal:8080",
            ),
            (
                BackendAddr::Unix("/run/app.sock".into()),
                "unix:/run/app.sock",
            ),
        ] {
            assert_eq!(address.to_string(), text);
        }
    }
}
