//! Who is to answer a request, as far as it says so itself: by the cookie of a sticky session, or by what
//! its group hashes.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use http::request::Parts;

use crate::backend::balance::Preference;
use crate::backend::group::Group;
use crate::config::balance::StickyPlan;
use crate::mark::Mark;
use crate::scheme::Scheme;
use crate::transform::sticky::{self, Held, Visit};

/// Whom a client stays with.
#[derive(Clone, Copy, Debug)]
pub enum Stay {
    /// With nobody: its group does not keep clients.
    Off,
    /// It came at this time, in seconds of Unix time, perhaps with a cookie that names a server of the group,
    /// by index.
    On(u64, Option<(usize, Held)>),
}

impl Stay {
    /// Asked before the request's fields are changed.
    pub fn of(request: &Parts, group: &Group) -> Self {
        let plan = &group.shared.sticky;
        if *plan == StickyPlan::Off {
            return Self::Off;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs();
        let known = |mark| group.shared.marked(mark);
        Self::On(now, sticky::find(&request.headers, plan, now, known))
    }

    /// What the choice of a server depends on; the client's address is asked for only where it matters.
    pub fn preference(
        self,
        request: &Parts,
        group: &Group,
        client: impl FnOnce() -> IpAddr,
    ) -> Preference {
        let server = match self {
            Self::Off | Self::On(_, None) => None,
            Self::On(_, Some((server, _))) => Some(server),
        };
        let balance = &group.shared.balance;
        Preference {
            server,
            ..balance.preference(request.uri.query(), client)
        }
    }
}

/// Whom a client is told to come back to.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    stay: Stay,
    mark: Option<Mark>,
    group: &'a Group,
}

impl<'a> Kept<'a> {
    /// The server with this mark, where its group keeps clients.
    pub fn new(stay: Stay, mark: Option<Mark>, group: &'a Group) -> Self {
        Self { stay, mark, group }
    }

    /// Has the server's answer say so, once rules have made it what it is to be (alb.md section 15).
    pub fn tell(self, headers: &mut HeaderMap, scheme: Scheme) {
        if let (Stay::On(now, held), Some(mark)) = (self.stay, self.mark) {
            let held = held.map(|(_, held)| held);
            let visit = Visit { held, now, scheme };
            sticky::keep(headers, &self.group.shared.sticky, mark, visit);
        }
    }
}
