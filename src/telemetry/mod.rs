//! What lockgate says about its work: the access log, and the process's own log.

pub mod access_log;
pub mod escape;
pub mod log;
pub mod writer;
