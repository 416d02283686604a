//! Looks up the addresses of servers that are reached by name, and again from time to time.
//!
//! A name that does not resolve keeps the addresses it had; without any, requests to it fail and the
//! next server is tried. It never keeps lockgate from starting.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::addr::BackendAddr;
use crate::backend::server::Server;

/// How often names are looked up again.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long one look-up may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Looks up `servers` again and again.
pub async fn keep_resolving(servers: Vec<Arc<Server>>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        resolve_all(servers.clone()).await;
    }
}

/// Looks up all `servers` at the same time.
pub async fn resolve_all(servers: Vec<Arc<Server>>) {
    let mut lookups = tokio::task::JoinSet::new();
    for server in servers {
        lookups.spawn(async move { resolve(&server).await });
    }
    while lookups.join_next().await.is_some() {}
}

async fn resolve(server: &Server) {
    let BackendAddr::Name { host, port } = server.address() else {
        return;
    };
    match timeout(LIMIT, lookup_host((host.as_str(), *port))).await {
        Ok(Ok(found)) => {
            let mut addresses: Vec<_> = found.collect();
            addresses.sort_unstable();
            addresses.dedup();
            if !addresses.is_empty() && *server.resolved() != addresses {
                tracing::info!(server = %server.address(), ?addresses, "resolved");
                server.resolve_to(addresses);
            }
        }
        Ok(Err(error)) => {
            tracing::warn!(server = %server.address(), %error, "the name does not resolve")
        }
        Err(_) => tracing::warn!(server = %server.address(), "the name was not resolved in time"),
    }
}
