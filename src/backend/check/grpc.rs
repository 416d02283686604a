//! A gRPC check: a call of `grpc.health.v1.Health/Check` over HTTP/2 in the clear. The call's status counts,
//! and with status 0 the answer, which must be SERVING.
//!
//! Both messages are small enough to be written and read here.

use std::future::Future;
use std::pin::pin;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, client};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, Version, header};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

use super::{Finding, Reason};
use crate::config::health::GrpcProbe;

/// The longest answer, in bytes.
const LARGEST_ANSWER: usize = 4096;
/// The largest head or trailer section.
const LARGEST_HEAD: u32 = 16 * 1024;
/// `HealthCheckResponse.status` of a service that takes calls.
const SERVING: u64 = 1;

/// Asks over `stream`; an error is why the server is not well.
pub(super) async fn ask<S>(
    stream: S,
    probe: &GrpcProbe,
    host: &HeaderValue,
    deadline: Instant,
) -> Result<(), Finding>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = client::Builder::new();
    builder
        .enable_push(false)
        .max_header_list_size(LARGEST_HEAD);
    let begun = match timeout_at(deadline, builder.handshake(stream)).await {
        Ok(Ok(begun)) => begun,
        Ok(Err(error)) => return Err(Reason::SendRequestFailed.with(error)),
        Err(_) => return Err(Reason::SendRequestTimeout.with("not sent within `timeout`")),
    };
    let (requests, connection) = begun;
    let answered = alongside(connection, call(requests, probe, host));
    match timeout_at(deadline, answered).await {
        Ok(answer) => judge(&answer?, probe),
        Err(_) => Err(Reason::ReceiveResponseTimeout.with("no answer within `timeout`")),
    }
}

/// Runs `call` to its end, and meanwhile the connection that it is made on.
async fn alongside<T>(connection: impl Future, call: impl Future<Output = T>) -> T {
    let (mut connection, mut call) = (pin!(connection), pin!(call));
    tokio::select! {
        biased;
        answer = &mut call => return answer,
        _ = &mut connection => {}
    }
    call.await
}

/// What came back: the call's status, and the message if there was one.
struct Answer {
    status: u8,
    message: Bytes,
}

async fn call(
    requests: SendRequest<Bytes>,
    probe: &GrpcProbe,
    host: &HeaderValue,
) -> Result<Answer, Finding> {
    let failed = |error: h2::Error| match error.is_io() || error.is_remote() {
        true => Reason::ReceiveResponseFailed.with(error),
        false => Reason::ResponseFormatError.with(error),
    };
    let Some(request) = request(host) else {
        return Err(Reason::SendRequestFailed.with("the host cannot be an authority"));
    };
    let mut requests = requests.ready().await.map_err(failed)?;
    let (response, mut body) = requests.send_request(request, false).map_err(failed)?;
    body.send_data(message(&probe.service), true)
        .map_err(failed)?;
    let response = response.await.map_err(failed)?;
    if response.status() != StatusCode::OK {
        let status = response.status().as_u16();
        return Err(Reason::ResponseMismatch.with(format_args!("HTTP status {status}")));
    }
    // Where there is nothing but a status, it stands in the head.
    let at_once = grpc_status(response.headers());
    let mut body = response.into_body();
    let message = read(&mut body).await?;
    let trailers = body.trailers().await.map_err(failed)?;
    match trailers.as_ref().and_then(grpc_status).or(at_once) {
        Some(status) => Ok(Answer { status, message }),
        None => Err(Reason::ResponseFormatError.with("no grpc-status")),
    }
}

fn request(host: &HeaderValue) -> Option<Request<()>> {
    let uri = Uri::builder()
        .scheme("http")
        .authority(host.as_bytes())
        .path_and_query("/grpc.health.v1.Health/Check")
        .build()
        .ok()?;
    Request::builder()
        .method(http::Method::POST)
        .version(Version::HTTP_2)
        .uri(uri)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "lockgate-health-check")
        .body(())
        .ok()
}

async fn read(body: &mut RecvStream) -> Result<Bytes, Finding> {
    let mut message = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| Reason::ReceiveResponseFailed.with(error))?;
        if message.len() + data.len() > LARGEST_ANSWER {
            let detail = format_args!("an answer of more than {LARGEST_ANSWER} bytes");
            return Err(Reason::ResponseFormatError.with(detail));
        }
        message.extend_from_slice(&data);
        // The window is larger than any answer that is taken.
        let _ = body.flow_control().release_capacity(data.len());
    }
    Ok(message.freeze())
}

fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

fn judge(answer: &Answer, probe: &GrpcProbe) -> Result<(), Finding> {
    let status = answer.status;
    if !probe.codes.iter().any(|range| range.contains(&status)) {
        return Err(Reason::ResponseMismatch.with(format_args!("grpc-status {status}")));
    }
    if status != 0 {
        return Ok(());
    }
    match serving_status(&answer.message) {
        Some(SERVING) => Ok(()),
        Some(other) => {
            Err(Reason::ResponseMismatch.with(format_args!("serving status {other}, not SERVING")))
        }
        None => Err(Reason::ResponseFormatError.with("not a HealthCheckResponse")),
    }
}

/// `HealthCheckRequest { service = 1 }` with the five bytes that stand before every gRPC message.
fn message(service: &str) -> Bytes {
    let mut field = Vec::new();
    // At most 79 characters, so that one byte holds its length.
    if let Ok(length @ 1..) = u8::try_from(service.len()) {
        field.extend_from_slice(&[0x0a, length]);
        field.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(field.len()).unwrap_or(u32::MAX);
    let mut message = vec![0];
    message.extend_from_slice(&length.to_be_bytes());
    message.append(&mut field);
    message.into()
}

/// `status` of a `HealthCheckResponse { status = 1 }`; `None` if it is none, or compressed.
fn serving_status(message: &[u8]) -> Option<u64> {
    let ([0, length @ ..], mut fields) = message.split_first_chunk::<5>()? else {
        return None;
    };
    if usize::try_from(u32::from_be_bytes(*length)).ok()? != fields.len() {
        return None;
    }
    let mut status = 0;
    while !fields.is_empty() {
        let tag = varint(&mut fields)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => status = varint(&mut fields)?,
            (_, 0) => {
                varint(&mut fields)?;
            }
            (_, 1) => fields = fields.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut fields)?).ok()?;
                fields = fields.get(length..)?;
            }
            (_, 5) => fields = fields.get(4..)?,
            (_, _) => return None,
        }
    }
    Some(status)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_the_service_or_none() {
        assert_eq!(&message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&message("a.B")[..], b"\0\0\0\0\x05\x0a\x03a.B");
    }

    #[test]
    fn the_serving_status_is_found_among_unknown_fields() {
        for (message, expected) in [
            (&b"\0\0\0\0\x02\x08\x01"[..], Some(1)),
            (b"\0\0\0\0\x02\x08\x02", Some(2)),
            // What is absent is 0, UNKNOWN.
            (b"\0\0\0\0\0", Some(0)),
            (b"\0\0\0\0\x06\x12\x02ab\x08\x01", Some(1)),
            (b"\0\0\0\0\x10\x1112345678\x1d1234\x08\x01", Some(1)),
            (b"\0\0\0\0\x04\x10\x05\x08\x01", Some(1)),
            // Compressed, cut off, too long, a group, an endless number, nothing.
            (b"\x01\0\0\0\x02\x08\x01", None),
            (b"\0\0\0\0\x02\x08", None),
            (b"\0\0\0\0\x01\x08", None),
            (b"\0\0\0\0\x02\x08\x01\0", None),
            (b"\0\0\0\0\x02\x0b\x0c", None),
            (
                b"\0\0\0\0\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
                None,
            ),
            (b"\0\0\0\0\x02\x12\x09", None),
            (b"", None),
        ] {
            assert_eq!(
                serving_status(message),
                expected,
                "{}",
                message.escape_ascii()
            );
        }
    }
}
