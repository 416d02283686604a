//! The life of a client connection, on one screen.
//!
//! Accepted, it is secured by TLS if its listener asks for that; served as HTTP/1 or HTTP/2 as was
//! agreed upon; then it becomes a tunnel, or ends in the way its last answer needs. Whatever is
//! wrong with it ends this connection only.

use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::workers::{Place, Seat, Worker};
use crate::addr::ClientAddr;
use crate::connection::{Connection, Home, Tunnel, View};
use crate::exchange;
use crate::failure::Failure;
use crate::http::activity::Activity;
use crate::http::http1::{self, End, Ending};
use crate::http::{http2, linger, reply};
use crate::listener::Listener;
use crate::proxy;
use crate::stream::{ClientStream, PlainHttp, Transport};
use crate::tls::accept::{HandshakeError, handshake};
use crate::tls::facts::{Alpn, TlsFacts};

/// Lives a connection from accept to close.
pub async fn run(client: TcpStream, address: ClientAddr, view: View, place: Place) {
    let seat = &place.seat;
    let Some(home) = place.worker.home() else {
        return;
    };
    let Ok(client) = tokio::net::TcpStream::from_std(client) else {
        return;
    };
    // Boxed: a handshake's state is large, and soon over.
    let secured = Box::pin(secure(client, address, &view.listener, seat, &home)).await;
    let Some((stream, facts)) = secured else {
        return;
    };

    let alpn = facts.as_ref().map_or(Alpn::Absent, |facts| facts.alpn);
    let connection = Connection::new(address, facts, view, Rc::clone(&seat.activity), home);
    match alpn {
        Alpn::Http2 => serve_http2(stream, connection).await,
        Alpn::Http11 | Alpn::Absent => serve_http1(stream, connection).await,
    }
}

/// TLS, if the listener has it.
async fn secure(
    client: tokio::net::TcpStream,
    address: ClientAddr,
    listener: &Arc<Listener>,
    seat: &Seat,
    home: &Home,
) -> Option<(Box<ClientStream>, Option<TlsFacts>)> {
    let Some(tls) = &listener.tls else {
        return Some((
            Box::new(ClientStream::Plain(Transport::plain(client))),
            None,
        ));
    };
    let limit = listener.plan.timeouts.handshake;
    match timeout(limit, handshake(Transport::for_tls(client), tls)).await {
        Ok(Ok((stream, facts))) => Some((Box::new(ClientStream::Tls(stream)), Some(facts))),
        Ok(Err(HandshakeError {
            stream,
            error,
            server_name,
        })) => {
            if let Some(stream) = stream
                && PlainHttp::is(&error)
            {
                exchange::log_refused(
                    address,
                    listener,
                    None,
                    Failure::PlainHttp,
                    &home.access_log,
                );
                answer(
                    Box::new(ClientStream::Plain(stream)),
                    Failure::PlainHttp,
                    &seat.activity,
                )
                .await;
            } else {
                let name = server_name.as_deref().unwrap_or("-");
                tracing::info!(target: "lockgate::tls", client = %address, listener = %listener.name,
                    server_name = name, reason = %error, "TLS handshake failed");
            }
            None
        }
        Err(_) => {
            tracing::info!(target: "lockgate::tls", client = %address, listener = %listener.name,
                reason = "not finished within handshake_timeout", "TLS handshake failed");
            None
        }
    }
}

async fn serve_http1(stream: Box<ClientStream>, connection: Rc<Connection>) {
    let listener = connection.view().listener;
    let handle = |request| proxy::handle(request, Rc::clone(&connection), None);
    let activity = &connection.activity;
    let End {
        stream,
        early,
        ending,
    } = http1::serve(stream, activity, &listener.plan.timeouts, handle).await;
    let (tls, log) = (connection.tls.as_ref(), connection.access_log());
    // Taken in any case: a tunnel that cannot begin would hold on to the connection for ever.
    let tunnel = connection.take_tunnel();
    match ending {
        Ending::Done => match tunnel {
            Some(tunnel) => carry(stream, early, *tunnel, &connection).await,
            None if activity.has_unread_body() => linger::linger(stream, activity).await,
            None => linger::close(stream).await,
        },
        Ending::Refused(failure) => {
            exchange::log_refused(connection.client, &listener, tls, failure, log);
            linger::linger(stream, activity).await;
        }
        Ending::HeadTooSlow => {
            exchange::log_refused(connection.client, &listener, tls, Failure::HeadTooSlow, log);
            answer(stream, Failure::HeadTooSlow, activity).await;
        }
        // Closed without a goodbye: the client must see that something is missing.
        Ending::Aborted => {}
        Ending::Stalled => {
            tracing::debug!(client = %connection.client, "closed: the client took nothing for request_timeout");
        }
    }
}

async fn serve_http2(stream: Box<ClientStream>, connection: Rc<Connection>) {
    let listener = connection.view().listener;
    let activity = Rc::clone(&connection.activity);
    let client = connection.client;
    let handle = move |request, pace| proxy::handle(request, Rc::clone(&connection), Some(pace));
    let timeouts = &listener.plan.timeouts;
    match http2::serve(stream, &activity, timeouts, handle, Worker::spawn_boxed).await {
        (http2::Ending::Flooded(reason), _) => {
            tracing::info!(target: "lockgate::http2", %client, listener = %listener.name, %reason,
                "closed: the client floods");
        }
        // What was sent last may still be on its way.
        (http2::Ending::Done, Some(stream)) => linger::linger(stream, &activity).await,
        (http2::Ending::Done, None) | (http2::Ending::Broken | http2::Ending::Stalled, _) => {}
    }
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
