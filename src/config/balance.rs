//! What is meant by `scheduler` and the tables beside it: whose turn it is in a server group (alb.md
//! section 7).

/// `scheduler`, with `hash_query_parameter`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// `wrr`: in turn, by weight.
    RoundRobin,
    /// `wlc`: the fewest exchanges for the weight.
    LeastConnections,
    /// `sch`: by the client's address.
    SourceHash,
    /// `uch`: by the value of that query parameter.
    QueryHash(String),
}
