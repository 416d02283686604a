//! `lockgate check`

use std::fmt::Write as _;
use std::process::ExitCode;

use super::{ConfigArguments, colour, environment};
use crate::config::plan::{ListenerProtocol, Plan};
use crate::config::tls_policy::TlsPolicy;
use crate::daemon;

/// Prints every mistake and warning, and what each listener negotiates; exits 1 if there is a mistake.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is what the command is for"
)]
pub(super) fn check(arguments: &ConfigArguments) -> ExitCode {
    let (generation, report) = daemon::check(&arguments.config, environment);
    eprint!("{}", report.render(colour()));
    let Some(generation) = generation.filter(|_| !report.has_errors()) else {
        return ExitCode::FAILURE;
    };
    print!("{}", negotiated(&generation.plan));
    println!("{}: ok", arguments.config.display());
    ExitCode::SUCCESS
}

/// The policy of every HTTPS listener, and the versions and cipher suites that it comes to.
fn negotiated(plan: &Plan) -> String {
    let mut text = String::new();
    for listener in &plan.listeners {
        let ListenerProtocol::Https(https) = &listener.protocol else {
            continue;
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "listener {}: {}",
            listener.name, https.tls_policy.name
        );
        text.push_str(&table(&https.tls_policy));
    }
    text
}

/// A line for each version and suite that go together, newest version first; then what is only listed.
fn table(policy: &TlsPolicy) -> String {
    let mut text = String::new();
    let mut versions: Vec<_> = policy.effective_versions().collect();
    versions.reverse();
    for version in versions {
        for suite in policy.effective_suites() {
            if suite.versions().contains(&version) {
                let _ = writeln!(text, "  {}  {}", version.key(), suite.name());
            }
        }
    }
    let unmet: Vec<_> = policy.unmet().collect();
    if !unmet.is_empty() {
        let _ = writeln!(text, "  listed, not negotiated: {}", unmet.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tls_policy::{Suite, Version};

    #[test]
    fn a_policy_is_shown_as_pairs_of_version_and_suite() {
        let named = |name| Suite::named(name).unwrap();
        let suites = [
            "ECDHE-RSA-AES128-GCM-SHA256",
            "AES128-SHA",
            "TLS_AES_128_GCM_SHA256",
            "TLS_AES_128_CCM_SHA256",
        ];
        let policy = TlsPolicy::new(
            "mine".into(),
            Version::ALL.to_vec(),
            suites.map(named).to_vec(),
        );
        #[cfg(not(feature = "legacy-tls"))]
        assert_eq!(
            table(&policy),
            "  TLSv1.3  TLS_AES_128_GCM_SHA256\n  \
               TLSv1.2  ECDHE-RSA-AES128-GCM-SHA256\n  \
               listed, not negotiated: TLSv1.0 TLSv1.1 AES128-SHA TLS_AES_128_CCM_SHA256\n"
        );
        #[cfg(feature = "legacy-tls")]
        assert_eq!(
            table(&policy),
            "  TLSv1.3  TLS_AES_128_GCM_SHA256\n  \
               TLSv1.2  ECDHE-RSA-AES128-GCM-SHA256\n  \
               TLSv1.2  AES128-SHA\n  \
               TLSv1.1  AES128-SHA\n  \
               TLSv1.0  AES128-SHA\n  \
               listed, not negotiated: TLS_AES_128_CCM_SHA256\n"
        );
    }
}
