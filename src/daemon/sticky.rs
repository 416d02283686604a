//! What a generation makes the marks of its sticky cookies with: the secret that replicas share, or a key
//! of the process's own, which outlives reloads as the clients' cookies do.

use std::sync::Arc;

use crate::mark::{Marker, Origin};
use crate::tls::tickets::KeySource;

/// The marker of a generation; `None` only where the cryptography fails.
pub(super) fn marker(source: &KeySource, previous: Option<&Arc<Marker>>) -> Option<Arc<Marker>> {
    match source {
        KeySource::Shared(secret) => Marker::shared(secret).map(Arc::new),
        KeySource::Random => match previous {
            Some(known) if known.origin == Origin::Own => Some(Arc::clone(known)),
            Some(_) | None => Marker::random().map(Arc::new),
        },
    }
}
