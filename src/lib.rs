//! lockgate: an HTTPS-terminating reverse proxy.

pub mod addr;
pub mod config;
pub mod telemetry;
