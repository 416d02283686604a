//! Listening sockets: how they are bound, and how connections are taken from them.
//!
//! Every worker has a socket of its own for every address (`SO_REUSEPORT`), all made by the main thread.
//! The first one of an address is bound without that option, so that a port which somebody else holds,
//! another lockgate included, is an error and not silently shared.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::addr::ListenAddr;
use crate::config::plan::ListenAddress;

/// Connections that the kernel holds for us until we take them.
const BACKLOG: i32 = 4096;
/// Connections taken in one go before others get their turn.
const TURN: usize = 64;
/// How long to wait when no descriptor or memory is left.
const BACK_OFF: Duration = Duration::from_millis(100);
/// How often the log says so.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// Whether this process holds an overlapping address on the same port already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It does: a clash with ourselves is none.
    ByUs,
    /// It does not.
    No,
}

/// Binds `count` sockets to an address.
pub fn bind(
    address: ListenAddress,
    port: u16,
    count: usize,
    held: Held,
) -> io::Result<(ListenAddr, Vec<TcpListener>)> {
    match address {
        ListenAddress::Ip(ip) => bind_to(SocketAddr::new(ip, port), count, held),
        ListenAddress::Any => {
            let v6 = bind_to(
                SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
                count,
                held,
            );
            match v6 {
                Err(error) if has_no_ipv6(&error) => bind_to(
                    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
                    count,
                    held,
                ),
                other => other,
            }
        }
    }
}

fn has_no_ipv6(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL | Errno::PROTONOSUPPORT)
    )
}

fn bind_to(
    address: SocketAddr,
    count: usize,
    held: Held,
) -> io::Result<(ListenAddr, Vec<TcpListener>)> {
    let first = match (listen(address, Sharing::Refused), held) {
        (Err(error), Held::ByUs) if error.kind() == io::ErrorKind::AddrInUse => {
            listen(address, Sharing::Joined)?
        }
        (result, Held::ByUs | Held::No) => result?,
    };
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(listen(address, Sharing::Joined)?);
    }
    Ok((ListenAddr::new(address), sockets))
}

/// When a socket is opened to others of the same port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    /// After it is bound: nobody else may have the port.
    Refused,
    /// Before it is bound: it joins those that have it.
    Joined,
}

fn listen(address: SocketAddr, sharing: Sharing) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    if sharing == Sharing::Joined {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.set_reuse_port(true)?;
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Tries an address without keeping it.
pub fn probe(address: ListenAddress, port: u16) -> io::Result<()> {
    bind(address, port, 1, Held::No).map(drop)
}

/// Takes connections from a socket and delivers them, until told to stop; what the kernel holds by then
/// is delivered too, so that closing the socket refuses nobody who was already let in. `exhausted` is called
/// while there is no descriptor or memory for more.
pub async fn accept_loop(
    listener: TcpListener,
    stop: &Notify,
    mut deliver: impl FnMut(TcpStream, SocketAddr),
    mut exhausted: impl FnMut(),
) {
    let listener = match watch(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a listening socket cannot be watched");
            return;
        }
    };
    let mut complained_at: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            () = stop.notified() => break,
            ready = listener.readable() => {
                let Ok(mut ready) = ready else { break };
                match take(listener.get_ref(), &mut deliver) {
                    Taken::Turn => {}
                    Taken::All => ready.clear_ready(),
                    Taken::Exhausted(error) => {
                        drop(ready);
                        exhausted();
                        if complained_at.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY) {
                            complained_at = Some(Instant::now());
                            tracing::warn!(%error, "cannot accept connections; trying on every {BACK_OFF:?}");
                        }
                        tokio::time::sleep(BACK_OFF).await;
                    }
                }
                tokio::task::yield_now().await;
            }
        }
    }
    while let Taken::Turn = take(listener.get_ref(), &mut deliver) {}
}

#[expect(
    deprecated,
    reason = "what replaces it is unsafe, for types whose descriptor may change: this one's cannot"
)]
fn watch(listener: TcpListener) -> io::Result<AsyncFd<TcpListener>> {
    AsyncFd::new(listener)
}

/// What came of taking connections.
enum Taken {
    /// A turn is over, there may be more.
    Turn,
    /// There are no more.
    All,
    /// No descriptor or memory is left for more.
    Exhausted(Errno),
}

fn take(listener: &TcpListener, deliver: &mut impl FnMut(TcpStream, SocketAddr)) -> Taken {
    for _ in 0..TURN {
        match acceptfrom_with(
            listener.as_fd(),
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        ) {
            Ok((socket, peer)) => {
                if let Some(peer) = peer.and_then(|peer| SocketAddr::try_from(peer).ok()) {
                    deliver(TcpStream::from(socket), peer);
                }
            }
            Err(Errno::AGAIN) => return Taken::All,
            // The client was gone before we came, or the network said so (accept(2)).
            Err(
                Errno::INTR
                | Errno::CONNABORTED
                | Errno::PROTO
                | Errno::NETDOWN
                | Errno::NOPROTOOPT
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
                | Errno::NETUNREACH,
            ) => {}
            Err(error) => return Taken::Exhausted(error),
        }
    }
    Taken::Turn
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: ListenAddress = ListenAddress::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST));

    #[test]
    fn a_port_that_somebody_holds_is_not_shared() {
        let (address, _held) = bind(LOOPBACK, 0, 1, Held::No).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = port.local_addr().unwrap().port();
        assert_eq!(
            bind(LOOPBACK, taken, 2, Held::No).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        assert_eq!(
            probe(LOOPBACK, taken).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        assert_eq!(address.socket_addr().ip(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn another_lockgate_is_somebody_and_ourselves_are_not() {
        let free = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let (_, sockets) = bind(LOOPBACK, free, 3, Held::No).unwrap();
        assert_eq!(sockets.len(), 3);
        assert!(bind(LOOPBACK, free, 1, Held::No).is_err());
        assert!(bind(LOOPBACK, free, 1, Held::ByUs).is_ok());
    }

    #[test]
    fn every_address_takes_ipv4_clients() {
        let free = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let (_, sockets) = bind(ListenAddress::Any, free, 1, Held::No).unwrap();
        let client = TcpStream::connect(("127.0.0.1", free)).unwrap();
        assert_eq!(sockets.len(), 1);
        drop(client);
    }
}
