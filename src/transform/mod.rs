//! Pure changes to messages on their way through: fields in, fields out, nothing awaited.

mod attribute_names;
pub mod client_cert;
pub mod client_ip;
pub mod compression;
pub mod cors;
mod distinguished_name;
pub mod edits;
pub mod field;
pub mod forwarded;
pub mod hop_by_hop;
pub mod loops;
pub mod request_id;
pub mod sticky;
#[cfg(test)]
mod testing;
pub mod websocket;
