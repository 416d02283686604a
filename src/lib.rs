//! lockgate: an HTTPS-terminating reverse proxy.

pub mod addr;
pub mod backend;
pub mod config;
pub mod transform;
