//! Compresses responses as they pass: whether, and with what, is `negotiate`'s; the bytes are `body`'s.

pub mod body;
pub mod memory;
pub mod negotiate;
