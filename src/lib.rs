//! lockgate: an HTTPS-terminating reverse proxy.

pub mod accept;
pub mod addr;
pub mod backend;
pub mod cli;
pub mod config;
pub mod connection;
pub mod daemon;
pub mod exchange;
pub mod failure;
pub mod http;
pub mod listener;
pub mod proxy;
pub mod stream;
pub mod telemetry;
pub mod timer;
pub mod tls;
pub mod transform;
