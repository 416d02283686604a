//! Addresses, told apart by the position they hold: confusing them is the security bug of a proxy.
//!
//! `ClientAddr` is the last hop before lockgate, `ClientIp` the address that a request is attributed to,
//! `ListenAddr` the address a listener is bound to, `BackendAddr` where a backend is reached.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// The last hop before lockgate: the peer of the client's socket or, where a trusted peer announced its own
/// client by PROXY protocol, that client.
///
/// An IPv4 address that arrived mapped into IPv6 (`::ffff:a.b.c.d`) is held as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr {
    address: SocketAddr,
    /// The socket's peer, where it has spoken for another.
    relay: Option<SocketAddr>,
}

impl ClientAddr {
    /// Takes a socket's peer address, in its canonical form.
    pub fn new(peer: SocketAddr) -> Self {
        Self {
            address: canonical(peer),
            relay: None,
        }
    }

    /// The client that the socket's peer has announced in its own place.
    pub fn announced(self, client: SocketAddr) -> Self {
        Self {
            address: canonical(client),
            relay: Some(self.peer()),
        }
    }

    /// The IP address, never an IPv4-mapped one.
    pub fn ip(self) -> IpAddr {
        self.address.ip()
    }

    /// The client's source port.
    pub fn port(self) -> u16 {
        self.address.port()
    }

    /// The other end of the socket, whoever it spoke for.
    pub fn peer(self) -> SocketAddr {
        self.relay.unwrap_or(self.address)
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The address that a request is attributed to, and where it was found ("Retrieve Client IP", alb.md
/// section 10).
///
/// Not the last hop, which is [`ClientAddr`]: this one is only as true as who wrote the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientIp {
    ip: IpAddr,
    provenance: Provenance,
}

impl ClientIp {
    /// The last hop itself: where the listener does not look for another, or finds none.
    pub fn last_hop(client: ClientAddr) -> Self {
        let provenance = match client.relay {
            None => Provenance::Peer,
            Some(_) => Provenance::ProxyProtocol,
        };
        Self {
            ip: client.ip(),
            provenance,
        }
    }

    /// An address that stood in a header.
    pub fn found(ip: IpAddr, provenance: Provenance) -> Self {
        Self {
            ip: ip.to_canonical(),
            provenance,
        }
    }

    /// The address, never an IPv4-mapped one.
    pub fn ip(self) -> IpAddr {
        self.ip
    }

    /// Where it was found.
    pub fn provenance(self) -> Provenance {
        self.provenance
    }
}

impl fmt::Display for ClientIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip.fmt(f)
    }
}

/// Where a client's address was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// It is the socket's peer.
    Peer,
    /// The socket's peer, which is trusted, announced it by PROXY protocol.
    ProxyProtocol,
    /// It is the header's rightmost entry that is not trusted.
    Header,
    /// It is the last entry of the header that could be reached, though trusted: the leftmost, or the one to
    /// the right of an entry that is no address.
    Leftmost,
}

impl Provenance {
    /// The word for it in the access log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::ProxyProtocol => "proxy_protocol",
            Self::Header => "header",
            Self::Leftmost => "leftmost",
        }
    }
}

/// What counts as one client where clients are counted: of IPv6 a /64, the least that a customer is given.
pub fn network_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => {
            let prefix = address.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(prefix))
        }
        address @ IpAddr::V4(_) => address,
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
    fn an_announced_client_stands_before_the_peer_that_announced_it() {
        let peer = ClientAddr::new("10.0.0.1:80".parse().unwrap());
        let client = peer.announced("[::ffff:192.0.2.7]:4711".parse().unwrap());
        assert_eq!(client.to_string(), "192.0.2.7:4711");
        assert_eq!(client.peer().to_string(), "10.0.0.1:80");
        assert_eq!(peer.peer().to_string(), "10.0.0.1:80");
        for (hop, ip, from) in [
            (peer, "10.0.0.1", "peer"),
            (client, "192.0.2.7", "proxy_protocol"),
        ] {
            let found = ClientIp::last_hop(hop);
            assert_eq!(found.to_string(), ip);
            assert_eq!(found.provenance().as_str(), from);
        }
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
