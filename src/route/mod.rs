//! The room of forwarding rules: which one takes a request, and what its templates and limits come to.

pub mod limit;
mod sketch;
pub mod template;
