//! The room of the backends: which server takes a request, and the exchange with it.

pub mod balance;
pub mod http1;
