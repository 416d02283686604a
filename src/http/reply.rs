//! The answers that lockgate makes itself, from the one table in `failure`.
//!
//! Short HTML as nginx sends it, `Proxy-Status` (RFC 9209) with the cause, nothing about the inside.

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, SERVER};
use http::{HeaderMap, Response, StatusCode};
use hyper::ext::ReasonPhrase;

use crate::failure::{AfterFailure, Failure};

/// `Proxy-Status` (RFC 9209)
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
/// The name that lockgate's own answers carry.
const NAME: &str = "lockgate";
/// What can be asked instead of TRACE or CONNECT.
const METHODS: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// What becomes of the client's connection after an answer of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// HTTP/1, and nothing more will be read on it.
    Close,
    /// It goes on, or the protocol has no such thing as `Connection: close`.
    Keep,
}

impl Afterwards {
    /// For a request on an HTTP/1 connection.
    pub fn of(failure: Failure) -> Self {
        match failure.connection() {
            AfterFailure::Close => Self::Close,
            AfterFailure::Keep => Self::Keep,
        }
    }
}

/// The answer to a request that failed.
pub fn reply(failure: Failure, afterwards: Afterwards) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(page(failure)));
    *response.status_mut() = failure.status();
    if failure.status().canonical_reason().is_none() {
        let reason = ReasonPhrase::from_static(reason(failure.status()).as_bytes());
        response.extensions_mut().insert(reason);
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
    headers.insert(SERVER, HeaderValue::from_static(NAME));
    proxy_status(failure, headers);
    if failure == Failure::MethodRefused {
        headers.insert(ALLOW, METHODS);
    }
    if afterwards == Afterwards::Close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn proxy_status(failure: Failure, headers: &mut HeaderMap) {
    let text = format!(
        "{NAME}; error={}; details=\"{}\"",
        failure.proxy_error(),
        failure.cause()
    );
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(PROXY_STATUS, value);
    }
}

/// What a status is called, also where it is none of HTTP's own.
fn reason(status: StatusCode) -> &'static str {
    match status.as_u16() {
        463 => "Loop Detected",
        _ => status.canonical_reason().unwrap_or("Error"),
    }
}

fn page(failure: Failure) -> String {
    let status = failure.status();
    let (code, reason) = (status.as_u16(), reason(status));
    let why = if failure == Failure::PlainHttp {
        "<p>The plain HTTP request was sent to an HTTPS port</p>\r\n"
    } else {
        ""
    };
    format!(
        "<html>\r\n<head><title>{code} {reason}</title></head>\r\n<body>\r\n\
         <center><h1>{code} {reason}</h1></center>\r\n{why}<hr><center>{NAME}</center>\r\n</body>\r\n</html>\r\n"
    )
}

/// The same answer as bytes, for where no HTTP library is at work: it always closes the connection.
pub fn raw(failure: Failure) -> Vec<u8> {
    let status = failure.status();
    let page = page(failure);
    format!(
        "HTTP/1.1 {} {}\r\nServer: {NAME}\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\
         Proxy-Status: {NAME}; error={}; details=\"{}\"\r\nConnection: close\r\n\r\n{page}",
        status.as_u16(),
        reason(status),
        page.len(),
        failure.proxy_error(),
        failure.cause(),
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_an_answer_that_names_its_cause() {
        for failure in Failure::ALL {
            let response = reply(failure, Afterwards::of(failure));
            assert_eq!(response.status(), failure.status());
            let status = response
                .headers()
                .get("proxy-status")
                .unwrap()
                .to_str()
                .unwrap();
            assert!(status.contains(failure.cause()), "{status}");
            assert!(
                raw(failure)
                    .starts_with(format!("HTTP/1.1 {} ", failure.status().as_u16()).as_bytes())
            );
        }
    }

    #[test]
    fn a_refused_method_is_told_what_is_allowed() {
        let response = reply(Failure::MethodRefused, Afterwards::Keep);
        assert_eq!(response.headers().get(ALLOW).unwrap(), METHODS);
        assert!(!response.headers().contains_key(CONNECTION));
    }

    #[test]
    fn what_follows_a_malformed_request_is_not_read() {
        let response = reply(Failure::HostInvalid, Afterwards::of(Failure::HostInvalid));
        assert_eq!(response.headers().get(CONNECTION).unwrap(), "close");
    }
}
