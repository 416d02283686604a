//! The room of the backends: which server takes a request, and the exchange with it.

pub mod balance;
pub mod check;
pub mod connect;
pub mod group;
pub mod health;
pub mod http1;
pub mod http2;
pub mod idle_limit;
pub mod mirror;
pub mod obtain;
pub mod permit;
pub mod pool;
pub mod request_body;
pub mod retirement;
pub mod send;
pub mod server;
pub mod tls;
