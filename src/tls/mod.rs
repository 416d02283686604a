//! TLS towards clients: certificates and the choice among them, security policies, and what is known of
//! a connection once its handshake is done.
//!
//! One `ServerConfig` serves one listener of one generation; a reload builds a new one. Sessions are
//! not resumed, early data is not taken, clients are not asked for certificates.

pub mod certificate;
pub mod pem;
pub mod server_name;
