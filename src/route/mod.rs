//! The room of forwarding rules (alb.md section 6): which one takes a request, and what its templates and
//! limits come to.
//!
//! The first rule whose conditions all hold takes it, in the order of their priorities. Conditions look at the
//! bytes that were received, which are those that are passed on (alb.md decision 13).

mod condition;
mod index;
pub mod limit;
pub mod response;
pub mod router;
mod sketch;
pub mod split;
pub mod template;
mod text;
