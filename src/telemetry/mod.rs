//! shim
pub mod access_log;
pub mod log;
pub mod writer;
