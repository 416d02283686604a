//! How a request comes by a connection: one that is idle, a new one, or one that it waits for, where servers
//! have as many as they may.

use http::HeaderValue;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout};

use super::balance::Preference;
use super::connect::{connect, connect_tls};
use super::group::{Group, Member, Tried};
use super::http1::exchange::Idempotence;
use super::permit::{Permit, QueueFull};
use super::pool::{Connection, Leave, Turn};
use super::send::{Outgoing, SendError};

/// Whether a request waits for a server that has as many connections as it may.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// Another one may be better.
    None,
    /// It does.
    Queue,
}

/// The server that is asked next: one that was not tried yet, or else the first that was `full`. Who can wait
/// for a good server does not ask a doubtful one instead.
pub fn next<'a>(
    group: &'a Group,
    preference: Preference,
    tried: &mut Tried,
    full: &mut Option<&'a Member>,
) -> Option<(&'a Member, Patience)> {
    let picked = group.pick(preference, tried);
    let better =
        picked.filter(|member| full.is_none() || member.server.may_be_asked(Instant::now()));
    match better {
        Some(member) => Some((member, Patience::None)),
        None => full.take().map(|member| (member, Patience::Queue)),
    }
}

/// A connection for a request: one that is idle, or a new one; `None` if there may not be another.
pub async fn obtain(
    member: &Member,
    group: &Group,
    outgoing: &Outgoing<'_>,
) -> Result<Option<Box<Connection>>, SendError> {
    let asked = member.asked(outgoing.host);
    let name = asked.as_ref().map(|asked| asked.name.as_ref());
    if member.pool.is_waited_for() {
        return Ok(None);
    }
    if let Some(connection) = member.pool.take(name, Idempotence::of(outgoing.method)) {
        return Ok(Some(connection));
    }
    match member.pool.leave() {
        Leave::Dial(permit) => dial(member, group, outgoing.host, permit).await.map(Some),
        Leave::Full(_) => Ok(None),
    }
}

/// A connection for a request, once it is its turn.
pub async fn queue(
    member: &Member,
    group: &Group,
    outgoing: &Outgoing<'_>,
) -> Result<Box<Connection>, SendError> {
    let asked = member.asked(outgoing.host);
    let name = asked.as_ref().map(|asked| asked.name.as_ref());
    let turn = member.pool.turn(name, Idempotence::of(outgoing.method));
    match timeout(group.shared.connect_timeout, turn).await?? {
        Turn::Reuse(connection) => Ok(connection),
        Turn::Dial(permit) => dial(member, group, outgoing.host, permit).await,
    }
}

/// A new connection, in place of one that turned out to be closed.
pub async fn redial(
    member: &Member,
    group: &Group,
    host: Option<&HeaderValue>,
) -> Result<Box<Connection>, SendError> {
    let permit = match member.pool.leave() {
        Leave::Dial(permit) => permit,
        Leave::Full(permits) => {
            let wait = Box::pin(permits.wait());
            Some(timeout(group.shared.connect_timeout, wait).await??)
        }
    };
    dial(member, group, host, permit).await
}

async fn dial(
    member: &Member,
    group: &Group,
    host: Option<&HeaderValue>,
    permit: Option<Permit>,
) -> Result<Box<Connection>, SendError> {
    let limit = group.shared.connect_timeout;
    let connected = match &member.tls {
        None => connect(&member.server, limit).await,
        Some(tls) => {
            // Boxed: its state is none of what most requests hold.
            let asked = tls.asked(&member.server, host);
            Box::pin(connect_tls(&member.server, limit, tls, &asked)).await
        }
    };
    match connected {
        Ok(stream) => {
            member.server.accepted();
            Ok(Connection::new(stream, permit))
        }
        Err(error) => {
            if error.is_the_servers() {
                error.warn_once(&member.server);
                member.server.refused(Instant::now());
            }
            Err(SendError::Connect(error))
        }
    }
}

impl From<QueueFull> for SendError {
    fn from(QueueFull: QueueFull) -> Self {
        Self::QueueFull
    }
}

impl From<Elapsed> for SendError {
    fn from(_: Elapsed) -> Self {
        Self::QueueTimeout
    }
}
