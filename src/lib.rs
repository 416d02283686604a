//! lockgate: an HTTPS-terminating reverse proxy. This page is its architecture.
//!
//! # The picture
//! ```text
//!                 one connection's life: daemon/connection.rs
//!             +---------+            +-------+            +--------+
//!   client -->| accept/ |----------->| tls/  |----------->| http/  |
//!             +---------+            +-------+            +---+----+
//!                                                             | request
//!                 one request's life: proxy.rs                v
//!                       +--------+   +------------+       +----------+
//!                       | route/ |-->| transform/ |<----->| backend/ |--> server
//!                       +--------+   +------------+       +----------+
//!
//!   what was written        what was meant      what runs
//!   config::document  -->   config::plan  -->   daemon::generation  --> published to every worker
//! ```
//! Two files compose: [`daemon::connection`] tells a connection's life on one screen, [`proxy`] a
//! request's. Every other file is a leaf that can be read alone.
//!
//! # The code, in the order of the flow
//! | where | what |
//! |---|---|
//! | [`addr`], [`scheme`], [`network`], [`stream`], [`unsent`], [`pace`], [`timer`], [`task`], [`failure`], [`file`](mod@file), [`secret`], [`mark`] | vocabulary: addresses by position, how listeners are reached, sets of networks, the client's byte stream, how slow it may be, lazy deadlines, how a task is run, the one table from cause to status, how files are read, the secret that replicas share, what stands for a server in a cookie |
//! | [`config`] | the TOML file: document (what was written), plan (what was meant), report (what is wrong) |
//! | [`accept`] | listening sockets, the PROXY protocol's header |
//! | [`tls`] | PEM files, certificates and the choice among them, security policies, session tickets, the handshake; with the feature `legacy-tls`, OpenSSL for older clients |
//! | [`http`] | how HTTP/1 and HTTP/2 connections live and end, which requests are well formed, answers of ours, tunnels |
//! | [`route`] | forwarding rules: which one takes a request, which of its groups is next, what its templates and limits come to |
//! | [`transform`] | pure changes to messages: hop-by-hop fields, the client's address, X-Forwarded-*, loops, compression |
//! | [`backend`] | groups, which servers may be asked, whose turn it is, pools, our own HTTP/1.1 exchange, gRPC over HTTP/2 |
//! | [`telemetry`] | access log and process log |
//! | [`listener`], [`connection`], [`exchange`], [`response_body`], [`upgrade`], [`rule`], [`stay`], [`proxy`] | composition: what a listener, a connection, an exchange and its answer are, what becomes of a tunnel, what a rule does, who is to answer, and a request from top to bottom |
//! | [`daemon`] | the process: generations, workers, reload, drain, signals |
//! | [`cli`] | the command line |
//!
//! Dependencies point down this table and never between rooms: `backend` does not know `http`, `http`
//! is handed its request handler. A test reads the `use` lines and holds this.
//!
//! # What measurement decided
//! - **Thread per core.** Every worker is a thread with its own runtime, sockets (`SO_REUSEPORT`) and pools.
//!   Workers share the published generation and a few atomics; nothing on the request path takes a lock,
//!   except for leave to connect where `max_connections_per_server` is set.
//! - **hyper serves clients; the exchange with backends is our own**, driven inside the request's task: no
//!   connection task, no channel. It knows exactly what was sent when something fails, so retries are safe.
//!   Only a connection to a gRPC server has a task, since many exchanges share it.
//! - **Idle connections are parked**: hyper is taken down and its buffers freed 100 ms after the last
//!   answer; the next byte brings it back. Deadlines are lazy timers that stay armed ([`timer`]).
//! - An accepted socket may be handed, before TLS, to the worker with the fewest connections.
//!
//! # Invariants
//! - Reload builds everything beside what runs, publishes once, and changes nothing if anything fails.
//! - Sockets belong to addresses, not to generations. State that survives is carried over by key: servers
//!   by group and address, ticket keys by listener, TLS policy and client authentication.
//! - Whatever a client or backend controls has a bound and a deadline.
//! - A path is judged, matched and forwarded as the same bytes.
//! - An HTTP/1 connection to a backend returns to its pool only if both messages ended cleanly and nothing
//!   followed.
//!
//! # Vocabulary
//! client - listener - backend (one server) in a server group - connection (one client transport) -
//! exchange (one request and its response) - room (a module of the flow) - plan, generation - drain.
//! The load balancer's own words keep their spelling in TOML keys. S1 and S2 are the two documents on
//! whose behaviour lockgate's HTTPS listener is modelled.
#![cfg_attr(not(feature = "legacy-tls"), forbid(unsafe_code))]

pub mod accept;
pub mod addr;
pub mod backend;
pub mod cli;
pub mod config;
pub mod connection;
pub mod daemon;
pub mod exchange;
pub mod failure;
pub mod file;
pub mod http;
pub mod listener;
pub mod mark;
pub mod network;
pub mod pace;
pub mod proxy;
pub mod response_body;
pub mod route;
pub mod rule;
pub mod scheme;
pub mod secret;
pub mod stay;
pub mod stream;
pub mod task;
pub mod telemetry;
pub mod timer;
pub mod tls;
pub mod transform;
pub mod unsent;
pub mod upgrade;
