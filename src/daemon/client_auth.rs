//! Reads the authorities and revocation lists of a listener. Whatever is wrong with one of them refuses the
//! listener: one that asks for certificates never opens without knowing whose (attacks.md row 41).

use std::path::Path;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;

use crate::config::client_auth::{ClientAuthPlan, FilePlan};
use crate::config::plan::{ListenerProtocol, Origin};
use crate::config::report::Report;
use crate::tls::authority::{AuthorityError, AuthorityWarning, check_authority, check_crl};
use crate::tls::client_auth::ClientAuth;
use crate::tls::pem;
use crate::tls::pem_error::PemError;

/// Something was wrong; it stands in the report.
pub(super) struct Reported;

/// A listener's client authentication, if it has any.
pub(super) fn load(
    protocol: &ListenerProtocol,
    report: &mut Report,
) -> Result<Option<ClientAuth>, Reported> {
    let settings = match protocol {
        ListenerProtocol::Http => return Ok(None),
        ListenerProtocol::Https(https) => match &https.client_auth {
            ClientAuthPlan::Off => return Ok(None),
            ClientAuthPlan::On(settings) => settings,
        },
    };
    let mut files = Files::new(report);
    let authorities = files.authorities(&settings.ca);
    let crls = files.read(
        &settings.crl,
        pem::read_crls,
        check_crl,
        AuthorityWarning::of_crl,
    );
    let auth = ClientAuth::new(settings.mode, authorities?, crls?);
    auth.map(Some).map_err(|error| {
        report
            .error(&Origin::default(), error.to_string())
            .help(error.help());
        Reported
    })
}

/// Reads files, each with its place in the configuration.
pub(super) struct Files<'r> {
    now: SystemTime,
    report: &'r mut Report,
}

impl<'r> Files<'r> {
    /// What is wrong with them goes to `report`.
    pub(super) fn new(report: &'r mut Report) -> Self {
        Self {
            now: SystemTime::now(),
            report,
        }
    }

    /// The authorities' certificates that these files hold.
    pub(super) fn authorities(
        &mut self,
        plans: &[FilePlan],
    ) -> Result<Vec<CertificateDer<'static>>, Reported> {
        self.read(
            plans,
            pem::read_authorities,
            check_authority,
            AuthorityWarning::of_authority,
        )
    }

    /// Everything that these files hold; all are tried before the first failure counts.
    fn read<T>(
        &mut self,
        plans: &[FilePlan],
        read: fn(&Path) -> Result<Vec<T>, PemError>,
        check: fn(&T) -> Result<(), AuthorityError>,
        look: fn(&T, SystemTime) -> Option<AuthorityWarning>,
    ) -> Result<Vec<T>, Reported> {
        let mut all = Vec::new();
        let mut mistakes = 0;
        for FilePlan { path, origin } in plans {
            let mut complain = |message: String, help: &str| {
                self.report.error(origin, message).help(help);
                mistakes += 1;
            };
            let items = match read(path) {
                Ok(items) => items,
                Err(error) => {
                    complain(error.to_string(), error.help());
                    continue;
                }
            };
            for error in items.iter().filter_map(|item| check(item).err()) {
                complain(format!("`{}`: {error}", path.display()), error.help());
            }
            for warning in items.iter().filter_map(|item| look(item, self.now)) {
                self.report
                    .warning(origin, warning.to_string())
                    .help(warning.help());
            }
            all.extend(items);
        }
        if mistakes == 0 {
            Ok(all)
        } else {
            Err(Reported)
        }
    }
}
