//! Requests that become tunnels: what is asked of a backend for a WebSocket, and what is answered once it
//! has switched.

use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Method, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use crate::backend::send::{Answer, AnswerHead};
use crate::connection::{Connection, Tunnel};
use crate::failure::Failure;
use crate::http::http2::{Companion, Parting, StreamPace};
use crate::http::taken_over::TakenOver;
use crate::http::tunnel::Ending;
use crate::response_body::ResponseBody;
use crate::transform::{hop_by_hop, websocket};

/// What the backend must answer to a WebSocket that comes over HTTP/2, which it is asked for as HTTP/1.1 does.
pub fn bridge(parts: &mut Parts) -> Result<Option<websocket::Expected>, Failure> {
    if parts.method != Method::CONNECT {
        return Ok(None);
    }
    let expected = websocket::ask(&mut parts.headers);
    expected.ok_or(Failure::ProtocolUnknown).map(Some)
}

/// An answer that would open a tunnel on HTTP/2 must open one on HTTP/1.1, to a server that knows WebSocket.
pub fn bridged(answer: Answer, expected: Option<&websocket::Expected>) -> Result<Answer, Failure> {
    let Some(expected) = expected else {
        return Ok(answer);
    };
    let is_sound = match &answer {
        Answer::Switched(head, ..) => expected.is_met(&head.headers),
        Answer::Response(head, _) => !head.status.is_success(),
        Answer::Reset(_) => true,
    };
    if is_sound {
        Ok(answer)
    } else {
        Err(Failure::BackendUpgrade)
    }
}

/// The WebSocket protocol, if a request asks for it. Other protocols are not tunnelled: an unknown tunnel
/// is a way around everything that is judged here.
pub fn websocket(parts: &Parts, body: &Incoming) -> Result<Option<HeaderValue>, Failure> {
    if parts.method == Method::CONNECT {
        return Ok(Some(HeaderValue::from_static("websocket")));
    }
    if parts.version != Version::HTTP_11 {
        return Ok(None);
    }
    match hop_by_hop::upgrade(&parts.headers) {
        Some(protocol) if protocol.as_bytes().eq_ignore_ascii_case(b"websocket") => {
            if body.is_end_stream() {
                Ok(Some(protocol.clone()))
            } else {
                Err(Failure::RequestMalformed)
            }
        }
        Some(_) | None => Ok(None),
    }
}

/// Answers a client whose backend has switched; over HTTP/2 its stream is handed over.
pub fn open(
    head: AnswerHead,
    tunnel: Tunnel,
    stream: Option<(Rc<StreamPace>, OnUpgrade)>,
    connection: &Rc<Connection>,
) -> Response<ResponseBody> {
    match stream {
        None => switch(head, tunnel, connection),
        Some((pace, stream)) => take_over(head, tunnel, stream, pace, Rc::clone(connection)),
    }
}

/// Answers 101 and leaves the backend's side for when the client's stream is free.
fn switch(head: AnswerHead, mut tunnel: Tunnel, connection: &Connection) -> Response<ResponseBody> {
    tunnel.exchange.answered(head.status);
    let mut response = Response::new(ResponseBody::none());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let protocol = head.headers.get(UPGRADE).cloned();
    *response.headers_mut() = head.headers;
    hop_by_hop::clean_response(response.headers_mut());
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Some(protocol) = protocol {
        response.headers_mut().insert(UPGRADE, protocol);
    }
    connection.activity.becomes_tunnel();
    connection.leave_tunnel(tunnel);
    response
}

/// Answers 200, upon which the HTTP/2 stream's task becomes the tunnel.
fn take_over(
    head: AnswerHead,
    mut tunnel: Tunnel,
    stream: OnUpgrade,
    pace: Rc<StreamPace>,
    connection: Rc<Connection>,
) -> Response<ResponseBody> {
    tunnel.exchange.answered(StatusCode::OK);
    let mut response = Response::new(ResponseBody::none());
    *response.headers_mut() = head.headers;
    hop_by_hop::clean_response(response.headers_mut());
    websocket::translate_answer(response.headers_mut());
    pace.answered();
    let sent = Rc::clone(&pace);
    pace.accompany(Companion::Tunnel(Box::pin(async move {
        let Ok(stream) = stream.await else {
            tunnel.exchange.failed(Failure::ClientGone);
            return Parting::Reset;
        };
        let mut stream = TakenOver::new(stream, sent);
        // The connection's end ends its streams: nobody else is to be woken.
        match tunnel
            .carry(&mut stream, Bytes::new(), &connection, |_| {})
            .await
        {
            Ending::Closed => Parting::Ended,
            Ending::Broken | Ending::Idle | Ending::Cut => Parting::Reset,
        }
    })));
    response
}
