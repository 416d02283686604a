//! The room of the sockets: where clients come in.

pub mod tcp;
