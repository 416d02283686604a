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
        Limits {
            header_bytes: header_bytes.min(connection_memory / 4),
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
}
