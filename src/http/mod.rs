//! The room of the client's protocol: how connections live and end as HTTP/1 and HTTP/2, which
//! requests are well formed, and the answers that lockgate makes itself.

pub mod account;
pub mod activity;
pub mod allowance;
mod gather;
pub mod http1;
pub mod http2;
mod io;
pub mod linger;
mod outflow;
pub mod piece;
pub mod reply;
pub mod request;
pub mod taken_over;
pub mod tunnel;
