//! The room of the sockets: where clients come in.

pub mod proxy_protocol;
pub mod tcp;
