//! Exchanges with backends that speak HTTP/2 in the clear, by prior knowledge (RFC 9113 section 3.3):
//! the gRPC servers of `protocol = "grpc"`.
//!
//! The `h2` crate does the framing, without hyper's client above it: that client hides whether a request
//! was processed when it fails, and passes bodies on in tasks of its own. Here an exchange is driven
//! inside the request's task, as with HTTP/1.1; only a connection has a task, which several exchanges
//! share.

pub mod download;
pub mod exchange;
pub mod link;
pub mod upload;
