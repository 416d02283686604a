//! Reads the authorities by which servers are verified. Whatever is wrong with one of them refuses the
//! configuration: a group that verifies never asks a server without knowing whose it has to be.

use std::sync::Arc;

use super::client_auth::{Files, Reported};
use super::generation::Generation;
use crate::backend::tls::{BackendTls, Trust};
use crate::config::backend_tls::Verification;
use crate::config::plan::GroupPlan;
use crate::config::report::Report;

/// How each group's connections are secured, if they are; what `previous` has goes on where it is the same.
pub(super) fn load_all(
    groups: &[GroupPlan],
    previous: Option<&Generation>,
    report: &mut Report,
) -> Vec<Result<Option<Arc<BackendTls>>, Reported>> {
    let groups = groups.iter();
    groups
        .map(|group| {
            let same = previous.and_then(|generation| generation.group_named(&group.name));
            load(group, same.and_then(|group| group.tls.as_ref()), report)
        })
        .collect()
}

fn load(
    group: &GroupPlan,
    before: Option<&Arc<BackendTls>>,
    report: &mut Report,
) -> Result<Option<Arc<BackendTls>>, Reported> {
    let Some(plan) = &group.tls else {
        return Ok(None);
    };
    let trust = match &plan.verification {
        Verification::Off => Trust::Anyone,
        Verification::By(ca) => Trust::Authorities(Files::new(report).authorities(ca)?),
    };
    let tls = BackendTls::new(plan.name.clone(), trust).map_err(|error| {
        let message = format!("TLS towards servers cannot be set up: {error}");
        report.error(&group.origin, message);
        Reported
    })?;
    Ok(Some(match before {
        Some(before) if before.agrees_with(&tls) => Arc::clone(before),
        Some(_) | None => Arc::new(tls),
    }))
}
