//! The life of a client connection, on one screen.
//!
//! Accepted, it may be announced by the proxy that it came through and must be one that may come; it is
//! secured by TLS if its listener asks for that; served as HTTP/1 or HTTP/2 as was agreed upon; then it
//! becomes a tunnel, or ends in the way its last answer needs. Whatever is wrong with it ends this
//! connection only.

use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout, timeout_at};

use super::place::{Place, Seat};
use super::workers::Worker;
use crate::accept::proxy_protocol::{self, Announced};
use crate::addr::ClientAddr;
use crate::connection::{Connection, Home, Tunnel, View};
use crate::exchange;
use crate::failure::Failure;
use crate::http::activity::Activity;
use crate::http::http1::{self, End, Ending};
use crate::http::{http2, linger, reply};
use crate::listener::Listener;
use crate::proxy;
use crate::stream::{ClientStream, Transport};
use crate::tls::accept::{HandshakeError, handshake};
use crate::tls::facts::{Alpn, TlsFacts};
use crate::tls::failures::Category;

/// Lives a connection from accept to close.
///
/// Not an `async fn`, whose task would keep room for these arguments as long as it lives: they are soon
/// used up, and with them the box of all that precedes the first request.
pub fn run(
    client: TcpStream,
    address: ClientAddr,
    view: View,
    place: Place,
) -> impl Future<Output = ()> {
    let begun = Box::pin(begin(client, address, view, place));
    async move {
        let Some(Begun {
            stream,
            connection,
            place: _held,
        }) = begun.await
        else {
            return;
        };
        match connection.tls.as_ref().map(|facts| facts.alpn) {
            Some(Alpn::Http2) => Box::pin(serve_http2(stream, connection)).await,
            Some(Alpn::Http11 | Alpn::Absent) | None => serve_http1(stream, connection).await,
        }
    }
}

/// A connection on which HTTP can begin, and the place that it holds while it lives.
struct Begun {
    stream: Box<ClientStream>,
    connection: Rc<Connection>,
    place: Place,
}

/// Everything before HTTP.
async fn begin(
    client: TcpStream,
    address: ClientAddr,
    view: View,
    mut place: Place,
) -> Option<Begun> {
    let home = place.worker.home()?;
    let client = tokio::net::TcpStream::from_std(client).ok()?;
    let Secured {
        client,
        stream,
        tls,
    } = secure(client, address, &view.listener, &mut place, &home).await?;
    let activity = Rc::clone(&place.seat.activity);
    Some(Begun {
        stream,
        connection: Connection::new(client, tls, view, activity, home),
        place,
    })
}

/// A client that may speak.
struct Secured {
    client: ClientAddr,
    stream: Box<ClientStream>,
    tls: Option<TlsFacts>,
}

/// Learns who the client is, whether it may come, and speaks TLS, if the listener has it. All of it within
/// handshake_timeout.
async fn secure(
    tcp: tokio::net::TcpStream,
    mut client: ClientAddr,
    listener: &Arc<Listener>,
    place: &mut Place,
    home: &Home,
) -> Option<Secured> {
    let deadline = Instant::now() + listener.plan.timeouts.handshake;
    let mut transport = match listener.tls {
        Some(_) => Transport::for_tls(tcp),
        None => Transport::plain(tcp),
    };
    if listener.plan.proxy_protocol.is_expected_from(client.ip()) {
        client = announced(&mut transport, client, listener, deadline).await?;
        if !place.count(client) {
            return None;
        }
    }
    if !listener.plan.access.admits(client.ip()) {
        tracing::debug!(target: "lockgate::access", %client, listener = %listener.name,
            "closed: [listener.access] does not admit it");
        place.worker.refused();
        return None;
    }
    match &listener.tls {
        None => Some(Secured {
            client,
            stream: Box::new(ClientStream::Plain(transport)),
            tls: None,
        }),
        Some(config) => {
            let handshake = timeout_at(deadline, handshake(transport, config)).await;
            match handshake {
                Ok(Ok((stream, facts))) => Some(Secured {
                    client,
                    stream: Box::new(stream),
                    tls: Some(facts),
                }),
                Ok(Err(error)) => {
                    handshake_failed(error, client, listener, &place.seat, home).await;
                    None
                }
                Err(_) => {
                    let category = Category::Timeout;
                    tracing::info!(target: "lockgate::tls", %client, listener = %listener.name,
                        reason = "not finished within handshake_timeout",
                        category = category.name(), count = category.count(), "TLS handshake failed");
                    None
                }
            }
        }
    }
}

/// The client that a proxy in front announces, or the proxy itself where it speaks for nobody.
async fn announced(
    transport: &mut Transport,
    peer: ClientAddr,
    listener: &Listener,
    deadline: Instant,
) -> Option<ClientAddr> {
    let reason = match timeout_at(deadline, proxy_protocol::read(transport)).await {
        Ok(Ok(Announced::Client(client))) => return Some(peer.announced(client)),
        Ok(Ok(Announced::Nobody)) => return Some(peer),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it was not whole within handshake_timeout".to_owned(),
    };
    tracing::info!(target: "lockgate::proxy_protocol", %peer, listener = %listener.name, reason,
        "closed: no usable PROXY protocol header");
    None
}

/// Answers plain HTTP on a TLS port, and says in the log what else went wrong.
async fn handshake_failed(
    failed: HandshakeError<Transport>,
    client: ClientAddr,
    listener: &Listener,
    seat: &Seat,
    home: &Home,
) {
    let HandshakeError {
        stream,
        error,
        server_name,
    } = failed;
    let category = Category::of(&error);
    let count = category.count();
    if let Some(stream) = stream
        && category == Category::PlainHttp
    {
        let failure = Failure::PlainHttp;
        exchange::log_refused(client, listener, None, failure, &home.access_log);
        let stream = Box::new(ClientStream::Plain(stream));
        answer(stream, failure, &seat.activity).await;
    } else {
        let name = server_name.as_deref().unwrap_or("-");
        tracing::info!(target: "lockgate::tls", %client, listener = %listener.name,
            server_name = name, reason = %error, category = category.name(), count, "TLS handshake failed");
    }
}

async fn serve_http1(stream: Box<ClientStream>, connection: Rc<Connection>) {
    let listener = connection.view().listener;
    let handle = |request| proxy::handle(request, Rc::clone(&connection), None);
    let activity = &connection.activity;
    let end = http1::serve(stream, activity, &listener.plan, handle).await;
    // Boxed: while a connection is idle, its task keeps no room for its end.
    Box::pin(end_http1(end, &connection, &listener)).await;
}

/// What a connection becomes after its last answer.
async fn end_http1(end: End, connection: &Connection, listener: &Listener) {
    let End {
        stream,
        early,
        ending,
    } = end;
    let activity = &connection.activity;
    let (tls, log) = (connection.tls.as_ref(), connection.access_log());
    // Taken in any case: a tunnel that cannot begin would hold on to the connection for ever.
    let tunnel = connection.take_tunnel();
    match ending {
        Ending::Done => match tunnel {
            Some(tunnel) => carry(stream, early, *tunnel, connection).await,
            None if activity.has_unread_body() => linger::linger(stream, activity).await,
            None => linger::close(stream).await,
        },
        Ending::Refused(failure) => {
            exchange::log_refused(connection.client, listener, tls, failure, log);
            linger::linger(stream, activity).await;
        }
        Ending::HeadTooSlow => {
            exchange::log_refused(connection.client, listener, tls, Failure::HeadTooSlow, log);
            answer(stream, Failure::HeadTooSlow, activity).await;
        }
        // Closed without a goodbye: the client must see that something is missing.
        Ending::Aborted => {}
        Ending::Stalled => log_cut(connection.client, listener, activity),
    }
}

async fn serve_http2(stream: Box<ClientStream>, connection: Rc<Connection>) {
    let listener = connection.view().listener;
    let activity = Rc::clone(&connection.activity);
    let client = connection.client;
    let handle = move |request, pace| proxy::handle(request, Rc::clone(&connection), Some(pace));
    let plan = &listener.plan;
    match http2::serve(stream, &activity, plan, handle, Worker::spawn_boxed).await {
        (http2::Ending::Flooded(reason), _) => {
            tracing::info!(target: "lockgate::http2", %client, listener = %listener.name, %reason,
                "closed: the client floods");
        }
        // What was sent last may still be on its way.
        (http2::Ending::Done, Some(stream)) => linger::linger(stream, &activity).await,
        (http2::Ending::Done, None) | (http2::Ending::Broken, _) => {}
        (http2::Ending::Stalled, _) => log_cut(client, &listener, &activity),
    }
}

/// Says which limit a client has broken that took too little.
fn log_cut(client: ClientAddr, listener: &Listener, activity: &Activity) {
    let key = match activity.cut() {
        Some(Failure::ClientBelowRate) => "min_rate",
        Some(_) | None => "request_timeout",
    };
    tracing::info!(target: "lockgate::http", %client, listener = %listener.name, key,
        "closed: the client takes too little");
}

/// Passes bytes both ways until the tunnel ends.
async fn carry(
    mut stream: Box<ClientStream>,
    early: Bytes,
    tunnel: Tunnel,
    connection: &Connection,
) {
    stream.transport_mut().half_close_on_shutdown();
    let activity = &connection.activity;
    tunnel
        .carry(&mut *stream, early, connection, |cx| activity.register(cx))
        .await;
    linger::close(stream).await;
}

/// Sends an answer where no HTTP library is at work, and closes.
async fn answer(mut stream: Box<ClientStream>, failure: Failure, activity: &Activity) {
    let write = async {
        stream.write_all(&reply::raw(failure)).await?;
        stream.flush().await
    };
    if matches!(timeout(linger::GOODBYE, write).await, Ok(Ok(()))) {
        linger::linger(stream, activity).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state<A, B, C, D, F: Future>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_at_rest_keeps_less_than_half_a_kibibyte_of_task() {
        assert!(state(run) <= 512, "{} bytes", state(run));
        assert!(size_of::<Connection>() <= 304);
    }
}
