//! What lockgate says about its work: the access log, the process's own log, and its own defects.

pub mod access_log;
pub mod escape;
pub mod log;
pub mod panics;
pub mod writer;
