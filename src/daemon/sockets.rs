//! The listening sockets across reloads: which to bind for a new plan, and which to close.
//!
//! Sockets belong to addresses, not to generations: one that stays is not touched.

use std::collections::HashSet;
use std::io;

use super::workers::Opened;
use crate::accept::tcp::{Held, bind};
use crate::config::plan::{ListenAddress, ListenerPlan, Plan};
use crate::config::report::Report;
use crate::listener::ListenerKey;

/// What has to change for a new plan.
#[derive(Debug)]
pub struct Change {
    /// New sockets, a list for every worker.
    pub opened: Vec<Vec<Opened>>,
    /// Listeners whose sockets are to be closed.
    pub closed: Vec<ListenerKey>,
}

/// Binds what `plan` needs beyond what is open already. `None` if a port cannot be had.
pub fn prepare(
    plan: &Plan,
    open: &HashSet<ListenerKey>,
    workers: usize,
    report: &mut Report,
) -> Option<Change> {
    let wanted: HashSet<_> = plan.listeners.iter().map(ListenerKey::of).collect();
    let mut opened: Vec<Vec<Opened>> = (0..workers).map(|_| Vec::new()).collect();
    let mut failed = false;
    for listener in &plan.listeners {
        let key = ListenerKey::of(listener);
        if open.contains(&key) {
            continue;
        }
        let held = if open.iter().any(|other| other.port() == key.port()) {
            Held::ByUs
        } else {
            Held::No
        };
        match bind(listener.address, listener.port, workers, held) {
            Ok((address, sockets)) => {
                for (worker, socket) in opened.iter_mut().zip(sockets) {
                    worker.push(Opened {
                        key,
                        address,
                        socket,
                    });
                }
            }
            Err(error) => {
                failed = true;
                let mistake = report.error(&listener.address_origin, refusal(listener, &error));
                if let Some(help) = advice(&error) {
                    mistake.help(help);
                }
            }
        }
    }
    let closed = open.difference(&wanted).copied().collect();
    (!failed).then_some(Change { opened, closed })
}

/// Why a listener's port cannot be had.
pub fn refusal(listener: &ListenerPlan, error: &io::Error) -> String {
    let address = match listener.address {
        ListenAddress::Any => format!("port {}", listener.port),
        ListenAddress::Ip(ip) => std::net::SocketAddr::new(ip, listener.port).to_string(),
    };
    let reason = match Trouble::of(error) {
        Trouble::InUse => "it is in use by another process".to_owned(),
        Trouble::NotAllowed => "this user may not".to_owned(),
        Trouble::NoSuchAddress => "this machine has no such address".to_owned(),
        Trouble::Other => error.to_string(),
    };
    format!(
        "listener `{}` cannot listen on {address}: {reason}",
        listener.name
    )
}

/// What can be done about it.
pub fn advice(error: &io::Error) -> Option<&'static str> {
    match Trouble::of(error) {
        Trouble::InUse => Some("see who holds it with `ss -ltnp`, or choose another port"),
        Trouble::NotAllowed => Some("ports below 1024 need root or CAP_NET_BIND_SERVICE"),
        Trouble::NoSuchAddress => Some("see the machine's addresses with `ip addr`"),
        Trouble::Other => None,
    }
}

/// The usual reasons for which a port cannot be had.
enum Trouble {
    InUse,
    NotAllowed,
    NoSuchAddress,
    Other,
}

impl Trouble {
    fn of(error: &io::Error) -> Self {
        let kind = error.kind();
        if kind == io::ErrorKind::AddrInUse {
            Self::InUse
        } else if kind == io::ErrorKind::PermissionDenied {
            Self::NotAllowed
        } else if kind == io::ErrorKind::AddrNotAvailable {
            Self::NoSuchAddress
        } else {
            Self::Other
        }
    }
}
