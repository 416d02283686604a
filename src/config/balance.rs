//! What is meant by `scheduler` and the tables beside it: whose turn it is in a server group, who stays
//! with whom, and how servers come and go (alb.md section 7).

use std::time::Duration;

/// `scheduler`, with `hash_query_parameter`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// `wrr`: in turn, by weight.
    RoundRobin(SlowStart),
    /// `wlc`: the fewest exchanges for the weight.
    LeastConnections,
    /// `sch`: by the client's address.
    SourceHash,
    /// `uch`: by the value of that query parameter.
    QueryHash(String),
}

/// `[server_group.slow_start]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowStart {
    /// A server has its whole weight from the start.
    Off,
    /// Its weight grows over this time.
    Over(Duration),
}

/// `[server_group.sticky_session]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StickyPlan {
    /// Clients are not kept with a server.
    Off,
    /// `insert`: by a cookie of lockgate's own.
    Insert(InsertedCookie),
    /// `server`: by a cookie of the server's, whose value is replaced.
    Rewrite {
        /// `cookie`
        cookie: String,
    },
}

/// A cookie that lockgate sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InsertedCookie {
    /// Its name.
    pub name: String,
    /// The name of its twin, for requests that other sites' pages make.
    pub twin: String,
    /// How long it counts after the last answer.
    pub timeout: Duration,
}

impl InsertedCookie {
    /// A cookie of this name; its twin is called as ALB calls that of `SERVERID`: `SERVERCORSID`.
    pub fn new(name: String, timeout: Duration) -> Self {
        let twin = match name.strip_suffix("ID") {
            Some(stem) => format!("{stem}CORSID"),
            None => format!("{name}CORS"),
        };
        Self {
            name,
            twin,
            timeout,
        }
    }
}

/// `[server_group.connection_drain]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainPlan {
    /// What goes on with a server that is taken away goes on to its end.
    Off,
    /// It is cut off after this time.
    Within(Duration),
}
