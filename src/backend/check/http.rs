//! An HTTP check: a request is sent, the answer's status counts.

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::{Finding, Reason};
use crate::backend::http1::names::Verbatim;
use crate::backend::http1::request::{
    self, BackendVersion, BodyFraming, ConnectionIntent, RequestHead,
};
use crate::backend::http1::response::{self, Parsed, RequestKind};
use crate::config::health::{HttpProbe, HttpVersion};

/// The longest head of an answer, with all interim responses before it.
const LARGEST_ANSWER: usize = 16 * 1024;
/// By what servers know a check.
const USER_AGENT: HeaderValue = HeaderValue::from_static("lockgate-health-check");

/// Asks over `stream`; an error is why the server is not well.
pub(super) async fn ask<S>(
    mut stream: S,
    probe: &HttpProbe,
    host: &HeaderValue,
    deadline: Instant,
) -> Result<(), Finding>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let head = request(probe, host);
    let sent = async {
        stream.write_all(&head).await?;
        stream.flush().await
    };
    match timeout_at(deadline, sent).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(Reason::SendRequestFailed.with(error)),
        Err(_) => return Err(Reason::SendRequestTimeout.with("not sent within `timeout`")),
    }
    let status = match timeout_at(deadline, answer(&mut stream, (&probe.method).into())).await {
        Ok(status) => status?,
        Err(_) => return Err(Reason::ReceiveResponseTimeout.with("no answer within `timeout`")),
    };
    match probe.codes.iter().any(|class| class.has(status)) {
        true => Ok(()),
        false => Err(Reason::ResponseMismatch.with(format_args!("status {}", status.as_u16()))),
    }
}

fn request(probe: &HttpProbe, host: &HeaderValue) -> Vec<u8> {
    let mut headers = HeaderMap::new();
    headers.insert(http::header::USER_AGENT, USER_AGENT);
    let mut out = Vec::new();
    request::write(
        &RequestHead {
            method: &probe.method,
            target: probe.path.as_bytes(),
            host,
            version: match probe.version {
                HttpVersion::Http10 => BackendVersion::Http10,
                HttpVersion::Http11 => BackendVersion::Http11,
            },
            verbatim: Verbatim::default(),
            headers: &headers,
            framing: BodyFraming::None,
            connection: ConnectionIntent::Close,
        },
        &mut out,
    );
    out
}

/// Reads until a final head is whole; its body is left where it is.
async fn answer<S: AsyncRead + Unpin>(
    stream: &mut S,
    kind: RequestKind,
) -> Result<StatusCode, Finding> {
    let mut buffer = BytesMut::with_capacity(4096);
    let mut received = 0;
    loop {
        while !buffer.is_empty() {
            match response::parse(&mut buffer, kind) {
                Ok(Parsed::Final(head)) => return Ok(head.status),
                Ok(Parsed::SwitchingProtocols(head)) => return Ok(head.status),
                Ok(Parsed::Informational(_)) => {}
                Ok(Parsed::Partial) => break,
                Err(error) => return Err(Reason::ResponseFormatError.with(error)),
            }
        }
        if received >= LARGEST_ANSWER {
            let detail = format_args!("no answer in {received} bytes");
            return Err(Reason::ResponseFormatError.with(detail));
        }
        buffer.reserve(1024);
        match stream.read_buf(&mut buffer).await {
            Ok(0) => return Err(Reason::ReceiveResponseFailed.with("closed before the answer")),
            Ok(count) => received += count,
            Err(error) => return Err(Reason::ReceiveResponseFailed.with(error)),
        }
    }
}
