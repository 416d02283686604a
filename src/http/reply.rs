//! The answers that lockgate makes itself: to requests that failed, from the one table in `failure`, and
//! those that rules ask for.
//!
//! Short HTML as nginx sends it, nothing about the inside; to a failure `Proxy-Status` (RFC 9209) with the
//! cause.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, SERVER};
use http::{HeaderMap, Response, StatusCode};
use hyper::ext::ReasonPhrase;

use crate::config::rule::{ContentType, FixedResponse};
use crate::failure::{AfterFailure, Failure};

/// `Proxy-Status` (RFC 9209)
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
/// The name that lockgate's own answers carry.
const NAME: &str = "lockgate";
/// What can be asked instead of TRACE or CONNECT.
const METHODS: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// `ALB-QPS-Limited` (alb.md 6.3)
const ALB_QPS_LIMITED: HeaderName = HeaderName::from_static("alb-qps-limited");

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
pub fn reply(failure: Failure) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(failure_page(failure)));
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
    if failure == Failure::TrafficLimited {
        headers.insert(ALB_QPS_LIMITED, HeaderValue::from_static("Limited"));
    }
    response
}

/// The answer that sends a client elsewhere.
pub fn redirect(code: StatusCode, location: HeaderValue) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(page(code, "")));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
    headers.insert(SERVER, HeaderValue::from_static(NAME));
    headers.insert(LOCATION, location);
    response
}

/// The answer that a rule gives instead of a backend. 204 and 205 have no content (RFC 9110 15.3.5, 15.3.6).
pub fn fixed(plan: &FixedResponse) -> Response<Bytes> {
    let has_content = !matches!(
        plan.code,
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT
    );
    let body = match has_content {
        true => plan.body.clone(),
        false => Bytes::new(),
    };
    let mut response = Response::new(body);
    *response.status_mut() = plan.code;
    let headers = response.headers_mut();
    headers.insert(SERVER, HeaderValue::from_static(NAME));
    if has_content {
        headers.insert(CONTENT_TYPE, content_type(plan.content_type));
    }
    response
}

/// The answer to a browser that asks what another site's page may do.
pub fn preflight(fields: HeaderMap) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    *response.headers_mut() = fields;
    let headers = response.headers_mut();
    headers.insert(SERVER, HeaderValue::from_static(NAME));
    response
}

fn content_type(content_type: ContentType) -> HeaderValue {
    HeaderValue::from_static(match content_type {
        ContentType::Plain => "text/plain",
        ContentType::Css => "text/css",
        ContentType::Html => "text/html",
        ContentType::JavaScript => "application/javascript",
        ContentType::Json => "application/json",
    })
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

fn failure_page(failure: Failure) -> String {
    let why = if failure == Failure::PlainHttp {
        "<p>The plain HTTP request was sent to an HTTPS port</p>\r\n"
    } else {
        ""
    };
    page(failure.status(), why)
}

fn page(status: StatusCode, why: &str) -> String {
    let (code, reason) = (status.as_u16(), reason(status));
    format!(
        "<html>\r\n<head><title>{code} {reason}</title></head>\r\n<body>\r\n\
         <center><h1>{code} {reason}</h1></center>\r\n{why}<hr><center>{NAME}</center>\r\n</body>\r\n</html>\r\n"
    )
}

/// The same answer as bytes, for where no HTTP library is at work: it always closes the connection.
pub fn raw(failure: Failure) -> Vec<u8> {
    let status = failure.status();
    let page = failure_page(failure);
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
            let response = reply(failure);
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
        let response = reply(Failure::MethodRefused);
        assert_eq!(response.headers().get(ALLOW).unwrap(), METHODS);
    }

    #[test]
    fn only_a_limit_says_that_it_was_one() {
        for failure in Failure::ALL {
            let response = reply(failure);
            let limited = response.headers().get(ALB_QPS_LIMITED);
            let expected = (failure == Failure::TrafficLimited).then_some("Limited");
            assert_eq!(limited.map(|value| value.to_str().unwrap()), expected);
        }
    }

    #[test]
    fn a_fixed_response_is_what_the_file_says_where_it_may_have_content() {
        for (code, content_type, body, sent) in [
            (200, ContentType::Plain, "ok", Some("text/plain")),
            (404, ContentType::Css, "ok", Some("text/css")),
            (503, ContentType::Html, "", Some("text/html")),
            (
                299,
                ContentType::JavaScript,
                "ok",
                Some("application/javascript"),
            ),
            (599, ContentType::Json, "ok", Some("application/json")),
            (204, ContentType::Plain, "ok", None),
            (205, ContentType::Plain, "ok", None),
        ] {
            let response = fixed(&FixedResponse {
                code: StatusCode::from_u16(code).unwrap(),
                content_type,
                body: Bytes::from_static(body.as_bytes()),
            });
            assert_eq!(response.status().as_u16(), code);
            let found = response.headers().get(CONTENT_TYPE);
            assert_eq!(found.map(|value| value.to_str().unwrap()), sent, "{code}");
            assert_eq!(
                response.body().is_empty(),
                sent.is_none() || body.is_empty()
            );
        }
    }
}
