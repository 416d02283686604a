//! Three actors over loopback: real backends, the real program as a child process, real clients.
//!
//! One binary, a module for each behaviour. Nothing sleeps in place of an event: every wait has a
//! deadline, and every port comes from the system.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "actors are spawned freely: only the program must know its tasks"
)]

mod actions;
mod architecture;
mod backend_tls;
mod backends;
mod balance;
mod cli;
mod client_auth;
mod client_cert;
mod client_ip;
mod compression;
mod dns;
mod drain;
mod faults;
mod floods;
mod framing;
mod grpc;
mod headers;
mod health;
mod hellos;
mod http;
mod http2;
mod idle_backends;
#[cfg(feature = "legacy-tls")]
mod legacy_tickets;
#[cfg(feature = "legacy-tls")]
mod legacy_tls;
mod limits;
mod loops;
mod max_connections;
mod mirror;
mod reload;
mod response_rules;
mod rules;
mod rules_generated;
mod shutdown;
mod sticky;
mod support;
mod tickets;
mod timeouts;
mod tls;
mod tls_policy;
mod traffic_limit;
mod websocket;
mod websocket_h2;
