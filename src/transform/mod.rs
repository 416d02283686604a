//! Pure changes to messages on their way through: fields in, fields out, nothing awaited.

pub mod forwarded;
pub mod hop_by_hop;
