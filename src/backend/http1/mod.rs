//! Our own HTTP/1.1 exchange with a backend.
//!
//! `names`, `request`, `response` and `framing` are bytes in and bytes out: they neither wait nor own a
//! socket. `exchange`, `upload` and `download` drive them over a connection.

pub mod download;
pub mod exchange;
pub mod framing;
pub mod names;
pub mod request;
pub mod response;
pub mod upload;
