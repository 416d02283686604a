//! Every way in which an exchange can fail for a reason of ours, the client's or the backend's, and
//! what the client is told: the one table from cause to status.
//!
//! The cause code is stable: it stands in the access log and in `Proxy-Status` (RFC 9209).

use http::StatusCode;

/// Why the client gets an answer that no backend made, or none at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The group has no server, all weights are 0, or none is left to try.
    NoServer,
    /// Every server has max_connections_per_server, and too many requests wait for one of them.
    QueueFull,
    /// Every server has max_connections_per_server, and none became free within connect_timeout.
    QueueTimeout,
    /// More requests came than the rule's traffic_limit takes.
    TrafficLimited,
    /// No descriptor, memory or port was left for a connection to a server.
    Exhausted,
    /// The server refused or reset the connection before anything was sent.
    ConnectRefused,
    /// The server did not accept a connection in time.
    ConnectTimeout,
    /// The server's name has no address.
    NameUnresolved,
    /// The TLS handshake with the server failed.
    BackendHandshake,
    /// The server's certificate does not verify.
    BackendCertificate,
    /// The server closed the connection before it answered.
    BackendClosed,
    /// The server's answer breaks the rules of HTTP/1.
    BackendMalformed,
    /// The server reset the stream, or gave the connection up (HTTP/2).
    BackendReset,
    /// The server switched protocols although nobody asked, or to another protocol.
    BackendUpgrade,
    /// The server did not answer within request_timeout.
    ResponseTimeout,
    /// The client's body did not come within request_timeout.
    ClientTooSlow,
    /// A head was begun and not finished within header_timeout.
    HeadTooSlow,
    /// The client left before it was answered.
    ClientGone,
    /// The client's body broke off or breaks the rules of its framing.
    BodyMalformed,
    /// The request breaks the rules of HTTP.
    RequestMalformed,
    /// The Host field is missing, doubled, malformed, or differs from `:authority`.
    HostInvalid,
    /// The request has passed here before, or too many load balancers.
    LoopDetected,
    /// The certificate that the client was shown does not cover the request's host.
    MisdirectedRequest,
    /// The path holds a dot segment, a backslash or `%00`.
    PathUnsafe,
    /// A field line is longer than header_line_bytes.
    FieldTooLong,
    /// The head is larger than header_bytes or has more than header_count fields.
    HeadTooLarge,
    /// The request target is longer than header_line_bytes.
    TargetTooLong,
    /// The body is larger than body_bytes.
    BodyTooLarge,
    /// An expectation other than `100-continue`.
    ExpectationUnknown,
    /// A transfer coding other than `chunked`.
    TransferCodingUnknown,
    /// TRACE or CONNECT.
    MethodRefused,
    /// An extended CONNECT (RFC 8441) to another protocol than WebSocket, or to a group without it.
    ProtocolUnknown,
    /// Plain HTTP on a TLS port.
    PlainHttp,
    /// The client took nothing for request_timeout.
    ClientStalled,
    /// The client sent or took fewer bytes than min_rate while it was waited for.
    ClientBelowRate,
    /// A stream was refused: its connection holds connection_memory.
    ConnectionMemory,
    /// The process was told to stop and drain_timeout ran out.
    Drained,
    /// The server was taken away, and its time to finish ran out.
    ServerDrained,
    /// An HTTP version that is not served.
    VersionUnsupported,
    /// An answer could not be compressed after its head was sent.
    EncoderFailed,
}

impl Failure {
    /// Every failure, for tests and documentation.
    pub const ALL: [Self; 40] = [
        Self::NoServer,
        Self::QueueFull,
        Self::QueueTimeout,
        Self::TrafficLimited,
        Self::Exhausted,
        Self::ConnectRefused,
        Self::ConnectTimeout,
        Self::NameUnresolved,
        Self::BackendHandshake,
        Self::BackendCertificate,
        Self::BackendClosed,
        Self::BackendMalformed,
        Self::BackendReset,
        Self::BackendUpgrade,
        Self::ResponseTimeout,
        Self::ClientTooSlow,
        Self::HeadTooSlow,
        Self::ClientGone,
        Self::BodyMalformed,
        Self::RequestMalformed,
        Self::HostInvalid,
        Self::LoopDetected,
        Self::MisdirectedRequest,
        Self::PathUnsafe,
        Self::FieldTooLong,
        Self::HeadTooLarge,
        Self::TargetTooLong,
        Self::BodyTooLarge,
        Self::ExpectationUnknown,
        Self::TransferCodingUnknown,
        Self::MethodRefused,
        Self::ProtocolUnknown,
        Self::PlainHttp,
        Self::ClientStalled,
        Self::ClientBelowRate,
        Self::ConnectionMemory,
        Self::Drained,
        Self::ServerDrained,
        Self::VersionUnsupported,
        Self::EncoderFailed,
    ];

    /// The status in the answer and in the log. 499 is only ever logged: nobody is left to read it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::NoServer
            | Self::QueueFull
            | Self::TrafficLimited
            | Self::Exhausted
            | Self::Drained
            | Self::ConnectionMemory => StatusCode::SERVICE_UNAVAILABLE,
            Self::ConnectRefused
            | Self::NameUnresolved
            | Self::BackendHandshake
            | Self::BackendCertificate
            | Self::BackendClosed
            | Self::BackendMalformed
            | Self::BackendReset
            | Self::BackendUpgrade => StatusCode::BAD_GATEWAY,
            Self::QueueTimeout | Self::ConnectTimeout | Self::ResponseTimeout => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::ClientTooSlow | Self::HeadTooSlow | Self::ClientBelowRate => {
                StatusCode::REQUEST_TIMEOUT
            }
            Self::ClientGone | Self::ClientStalled => client_closed_request(),
            Self::BodyMalformed
            | Self::RequestMalformed
            | Self::HostInvalid
            | Self::PathUnsafe
            | Self::FieldTooLong
            | Self::PlainHttp => StatusCode::BAD_REQUEST,
            Self::LoopDetected => loop_detected(),
            Self::MisdirectedRequest => StatusCode::MISDIRECTED_REQUEST,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ExpectationUnknown => StatusCode::EXPECTATION_FAILED,
            Self::TransferCodingUnknown | Self::ProtocolUnknown => StatusCode::NOT_IMPLEMENTED,
            Self::MethodRefused => StatusCode::METHOD_NOT_ALLOWED,
            Self::VersionUnsupported => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::EncoderFailed | Self::ServerDrained => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The stable code of the cause.
    pub fn cause(self) -> &'static str {
        match self {
            Self::NoServer => "no_server",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::TrafficLimited => "traffic_limited",
            Self::Exhausted => "exhausted",
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::NameUnresolved => "name_unresolved",
            Self::BackendHandshake => "backend_handshake",
            Self::BackendCertificate => "backend_certificate",
            Self::BackendClosed => "backend_closed",
            Self::BackendMalformed => "backend_malformed",
            Self::BackendReset => "backend_reset",
            Self::BackendUpgrade => "backend_upgrade",
            Self::ResponseTimeout => "response_timeout",
            Self::ClientTooSlow => "client_too_slow",
            Self::HeadTooSlow => "head_too_slow",
            Self::ClientGone => "client_gone",
            Self::BodyMalformed => "body_malformed",
            Self::RequestMalformed => "request_malformed",
            Self::HostInvalid => "host_invalid",
            Self::LoopDetected => "loop_detected",
            Self::MisdirectedRequest => "misdirected_request",
            Self::PathUnsafe => "path_unsafe",
            Self::FieldTooLong => "field_too_long",
            Self::HeadTooLarge => "head_too_large",
            Self::TargetTooLong => "target_too_long",
            Self::BodyTooLarge => "body_too_large",
            Self::ExpectationUnknown => "expectation_unknown",
            Self::TransferCodingUnknown => "transfer_coding_unknown",
            Self::MethodRefused => "method_refused",
            Self::ProtocolUnknown => "protocol_unknown",
            Self::PlainHttp => "plain_http",
            Self::ClientStalled => "client_stalled",
            Self::ClientBelowRate => "client_below_min_rate",
            Self::ConnectionMemory => "connection_memory",
            Self::Drained => "drained",
            Self::ServerDrained => "server_drained",
            Self::VersionUnsupported => "version_unsupported",
            Self::EncoderFailed => "encoder_failed",
        }
    }

    /// The error type of RFC 9209 section 2.3 for the `Proxy-Status` field.
    pub fn proxy_error(self) -> &'static str {
        match self {
            Self::NoServer => "destination_unavailable",
            Self::QueueFull | Self::QueueTimeout | Self::Exhausted => "connection_limit_reached",
            Self::ConnectRefused => "connection_refused",
            Self::ConnectTimeout => "connection_timeout",
            Self::NameUnresolved => "dns_error",
            Self::BackendHandshake => "tls_protocol_error",
            Self::BackendCertificate => "tls_certificate_error",
            Self::BackendClosed => "http_response_incomplete",
            Self::BackendMalformed => "http_protocol_error",
            Self::BackendReset => "connection_terminated",
            Self::BackendUpgrade => "http_upgrade_failed",
            Self::ResponseTimeout => "http_response_timeout",
            Self::Drained | Self::ServerDrained => "proxy_internal_response",
            Self::ClientTooSlow
            | Self::HeadTooSlow
            | Self::ClientGone
            | Self::ClientStalled
            | Self::ClientBelowRate
            | Self::ConnectionMemory
            | Self::BodyMalformed
            | Self::RequestMalformed
            | Self::HostInvalid
            | Self::PathUnsafe
            | Self::FieldTooLong
            | Self::HeadTooLarge
            | Self::TargetTooLong
            | Self::BodyTooLarge
            | Self::ExpectationUnknown
            | Self::TransferCodingUnknown
            | Self::PlainHttp
            | Self::VersionUnsupported => "http_request_error",
            Self::TrafficLimited
            | Self::MethodRefused
            | Self::MisdirectedRequest
            | Self::ProtocolUnknown => "http_request_denied",
            Self::LoopDetected => "proxy_loop_detected",
            Self::EncoderFailed => "proxy_internal_error",
        }
    }

    /// Whether an HTTP/1 connection can serve another request after this answer.
    pub fn connection(self) -> AfterFailure {
        match self {
            Self::NoServer
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::TrafficLimited
            | Self::Exhausted
            | Self::ConnectRefused
            | Self::ConnectTimeout
            | Self::NameUnresolved
            | Self::BackendHandshake
            | Self::BackendCertificate
            | Self::BackendClosed
            | Self::BackendMalformed
            | Self::BackendReset
            | Self::ServerDrained
            | Self::ProtocolUnknown
            | Self::LoopDetected
            | Self::MisdirectedRequest
            | Self::ResponseTimeout => AfterFailure::Keep,
            // After CONNECT, a client may already be sending what was meant for its tunnel.
            Self::MethodRefused
            | Self::BackendUpgrade
            | Self::ClientTooSlow
            | Self::HeadTooSlow
            | Self::ClientGone
            | Self::ClientStalled
            | Self::ClientBelowRate
            | Self::ConnectionMemory
            | Self::BodyMalformed
            | Self::RequestMalformed
            | Self::HostInvalid
            | Self::PathUnsafe
            | Self::FieldTooLong
            | Self::HeadTooLarge
            | Self::TargetTooLong
            | Self::BodyTooLarge
            | Self::ExpectationUnknown
            | Self::TransferCodingUnknown
            | Self::PlainHttp
            | Self::Drained
            | Self::EncoderFailed
            | Self::VersionUnsupported => AfterFailure::Close,
        }
    }
}

/// What becomes of an HTTP/1 connection whose request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// The next request may follow.
    Keep,
    /// What follows on it cannot be trusted.
    Close,
}

/// The status of a request that goes round in circles, as ALB has it (alb.md 9.1).
fn loop_detected() -> StatusCode {
    StatusCode::from_u16(463).unwrap_or(StatusCode::LOOP_DETECTED)
}

/// The status of a request whose client went away, as nginx logs it.
pub fn client_closed_request() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_failure_has_a_cause_of_its_own() {
        let causes: HashSet<_> = Failure::ALL.iter().map(|f| f.cause()).collect();
        assert_eq!(causes.len(), Failure::ALL.len());
    }

    #[test]
    fn every_failure_is_an_error_status() {
        for failure in Failure::ALL {
            assert!(failure.status().as_u16() >= 400, "{failure:?}");
        }
    }

    #[test]
    fn statuses_are_those_of_the_architecture_page() {
        for (failure, status) in [
            (Failure::NoServer, 503),
            (Failure::QueueFull, 503),
            (Failure::QueueTimeout, 504),
            (Failure::TrafficLimited, 503),
            (Failure::ConnectRefused, 502),
            (Failure::BackendMalformed, 502),
            (Failure::ConnectTimeout, 504),
            (Failure::BackendClosed, 502),
            (Failure::BackendHandshake, 502),
            (Failure::BackendCertificate, 502),
            (Failure::ResponseTimeout, 504),
            (Failure::ClientGone, 499),
            (Failure::ClientTooSlow, 408),
            (Failure::PlainHttp, 400),
            (Failure::LoopDetected, 463),
        ] {
            assert_eq!(failure.status().as_u16(), status, "{failure:?}");
        }
    }
}
