//! `[listener.limits]`

use std::num::NonZeroU64;

use super::Resolver;
use crate::config::defaults;
use crate::config::document::LimitsDocument;
use crate::config::plan::Limits;

impl Resolver<'_> {
    /// A listener's limits; an absent table means its defaults.
    pub(super) fn limits(&mut self, written: Option<&LimitsDocument>) -> Limits {
        let Some(written) = written else {
            return defaults::limits();
        };
        let requests = self.number(
            "requests_per_connection",
            &written.requests_per_connection,
            defaults::REQUESTS_PER_CONNECTION,
        );
        let min_rate = self.number("min_rate", &written.min_rate, defaults::MIN_RATE);
        let connection_memory = self.number(
            "connection_memory",
            &written.connection_memory,
            defaults::CONNECTION_MEMORY,
        );
        let header_bytes = self.number(
            "header_bytes",
            &written.header_bytes,
            defaults::HEADER_BYTES,
        );
        let room = connection_memory / 4;
        if header_bytes > room {
            self.warn_of_heads(written, room);
        }
        Limits {
            header_bytes: header_bytes.min(room),
            header_line_bytes: self.number(
                "header_line_bytes",
                &written.header_line_bytes,
                defaults::HEADER_LINE_BYTES,
            ),
            header_count: self.number(
                "header_count",
                &written.header_count,
                defaults::HEADER_COUNT,
            ),
            body_bytes: self.number("body_bytes", &written.body_bytes, defaults::BODY_BYTES),
            min_rate: NonZeroU64::new(min_rate),
            connection_memory,
            http2_max_streams: self.number(
                "http2_max_streams",
                &written.http2_max_streams,
                defaults::HTTP2_MAX_STREAMS,
            ),
            requests_per_connection: NonZeroU64::new(requests),
        }
    }

    /// Says that a head gets no more than a quarter of the connection's memory.
    fn warn_of_heads(&mut self, written: &LimitsDocument, room: usize) {
        let heads = written.header_bytes.given().map(|heads| &heads.origin);
        let memory = written.connection_memory.given().map(|all| &all.origin);
        if let Some(origin) = heads.or(memory) {
            self.report
                .warning(
                    origin,
                    format!("request heads of more than {room} bytes are refused"),
                )
                .label("a head gets a quarter of `connection_memory`")
                .help("raise `connection_memory`, or lower `header_bytes`");
        }
    }
}
