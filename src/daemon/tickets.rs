//! The ticket keys of a generation: read from `secret_file`, or random and carried over from the
//! generation before where a listener's sessions may go on.

use std::sync::Arc;

use rustls::time_provider::DefaultTimeProvider;

use super::generation::Generation;
use crate::config::plan::SecretPlan;
use crate::config::report::Report;
use crate::secret::{Exposure, Secret};
use crate::tls::tickets::{Context, KeySource, Ticketer};

/// Reads the secret that replicas share, if there is one; `None` if it cannot be used, which is reported.
pub(super) fn key_source(plan: &SecretPlan, report: &mut Report) -> Option<KeySource> {
    let (path, origin) = match plan {
        SecretPlan::Own => return Some(KeySource::Random),
        SecretPlan::File { path, origin } => (path, origin),
    };
    match Secret::read(path) {
        Ok((secret, exposure)) => {
            if let Exposure::Readable { mode } = exposure {
                let message = format!(
                    "every user of this machine can read `{}`: its mode is {mode:04o}",
                    path.display()
                );
                report.warning(origin, message).help(
                    "whoever knows the secret can take on any client's session; `chmod o= FILE`",
                );
            }
            Some(KeySource::Shared(Arc::new(secret)))
        }
        Err(error) => {
            let mistake = report.error(origin, error.to_string());
            mistake.help(error.help());
            None
        }
    }
}

/// The ticketer of a context: with random keys, that of the generation before.
pub(super) fn ticketer(
    context: Context,
    source: &KeySource,
    previous: Option<&Generation>,
) -> Option<Arc<Ticketer>> {
    let known = match source {
        KeySource::Random => previous.and_then(|generation| {
            let listeners = generation.listeners.iter();
            let mut all = listeners.filter_map(|listener| Some(&listener.tls.as_ref()?.ticketer));
            all.find(|ticketer| ticketer.goes_on_for(context))
        }),
        KeySource::Shared(_) => None,
    };
    match known {
        Some(known) => Some(Arc::clone(known)),
        None => Ticketer::new(context, source.clone(), Arc::new(DefaultTimeProvider)),
    }
}
