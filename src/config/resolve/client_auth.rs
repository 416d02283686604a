//! `[listener.client_auth]`: mutual authentication (alb.md 5.5).

use super::Resolver;
use crate::config::client_auth::{ClientAuthMode, ClientAuthPlan, ClientAuthSettings, FilePlan};
use crate::config::defaults;
use crate::config::document::{ClientAuthDocument, Field, Written};
use crate::config::value;

impl Resolver<'_> {
    /// Client authentication; an absent table means none. `None` if it has mistakes.
    pub(super) fn client_auth(
        &mut self,
        written: Option<&ClientAuthDocument>,
    ) -> Option<ClientAuthPlan> {
        let Some(written) = written else {
            return Some(ClientAuthPlan::Off);
        };
        let mode = match &written.mode {
            Field::Absent => Some(defaults::CLIENT_AUTH_MODE),
            Field::Wrong => None,
            Field::Given(mode) => self.client_auth_mode(mode),
        };
        let ca = self.files("ca", &written.ca);
        let crl = self.files("crl", &written.crl);
        self.check_ca(written, mode?);
        Some(ClientAuthPlan::On(ClientAuthSettings {
            mode: mode?,
            ca,
            crl,
        }))
    }

    fn client_auth_mode(&mut self, written: &Written<String>) -> Option<ClientAuthMode> {
        let words = [
            ("required", Some(ClientAuthMode::Required)),
            ("optional", Some(ClientAuthMode::Optional)),
            ("optional_no_ca", Some(ClientAuthMode::OptionalNoCa)),
        ];
        self.choice("mode", written, &words)
    }

    /// Nobody is verified by no authority: that must be said, not come about (attacks.md row 41).
    fn check_ca(&mut self, written: &ClientAuthDocument, mode: ClientAuthMode) {
        let help = "name the certificates of those who issue clients' certificates: `ca = [\"clients-ca.crt\"]`; \
                    `mode = \"optional_no_ca\"` can do without";
        let is_needed = match mode {
            ClientAuthMode::Required | ClientAuthMode::Optional => true,
            ClientAuthMode::OptionalNoCa => false,
        };
        match &written.ca {
            Field::Absent if is_needed => {
                let message = "`[listener.client_auth]` has no `ca`";
                self.missing(&written.origin, message, help);
            }
            Field::Given(list) if is_needed && list.value.is_empty() => {
                self.report.error(&list.origin, "`ca` is empty").help(help);
            }
            Field::Absent | Field::Wrong | Field::Given(_) => {}
        }
        let has_ca = written
            .ca
            .given()
            .is_some_and(|list| !list.value.is_empty());
        if let Some(crl) = written.crl.given()
            && !crl.value.is_empty()
            && !has_ca
            && !is_needed
        {
            self.report
                .error(&crl.origin, "`crl` is of no use without `ca`")
                .help("name the certificate of the list's issuer: `ca = [\"clients-ca.crt\"]`");
        }
    }

    /// Files, each with its place; an absent key names none.
    pub(super) fn files(
        &mut self,
        key: &str,
        field: &Field<Vec<Written<String>>>,
    ) -> Vec<FilePlan> {
        let folder = self.folder.clone();
        let files = field.given().map_or(&[][..], |list| &list.value);
        files
            .iter()
            .filter_map(|file| {
                let path = self.string_at(key, file, |text| value::path(&text, &folder))?;
                let origin = file.origin.clone();
                Some(FilePlan { path, origin })
            })
            .collect()
    }
}
