//! Our own HTTP/1.1 exchange with a backend, as far as it is bytes in and bytes out.
//!
//! Nothing here waits, reads a clock or owns a socket: whoever drives the exchange brings the buffers.

pub mod framing;
pub mod names;
pub mod request;
pub mod response;
