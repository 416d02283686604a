//! `[[certificate]]`: PEM files, or a certificate made in memory.

use super::Resolver;
use crate::config::document::{CertificateDocument, Field, Written};
use crate::config::plan::{CertificatePlan, CertificateSource};
use crate::config::value;

impl Resolver<'_> {
    /// One certificate; `None` if it has mistakes.
    pub(super) fn certificate(&mut self, written: &CertificateDocument) -> Option<CertificatePlan> {
        let source = match &written.self_signed {
            Field::Absent => self.certificate_files(written),
            Field::Wrong => None,
            Field::Given(names) => self.self_signed(written, names),
        };
        // Names have been checked all together, so a mistake in this one has been reported.
        let name = self.expand(written.name.given()?)?;
        Some(CertificatePlan {
            name,
            source: source?,
            origin: written.origin.clone(),
        })
    }

    fn certificate_files(&mut self, written: &CertificateDocument) -> Option<CertificateSource> {
        for (key, field) in [("cert", &written.cert), ("key", &written.key)] {
            if field.is_absent() {
                let message = format!("this certificate has no `{key}`");
                self.missing(
                    &written.origin,
                    message,
                    "name both files, `cert` and `key`, or `self_signed = [\"localhost\"]`",
                );
            }
        }
        let folder = self.folder.clone();
        let cert = self.string("cert", &written.cert, |text| value::path(&text, &folder));
        let key = self.string("key", &written.key, |text| value::path(&text, &folder));
        Some(CertificateSource::Files {
            cert: cert?,
            cert_origin: written.cert.given()?.origin.clone(),
            key: key?,
            key_origin: written.key.given()?.origin.clone(),
        })
    }

    fn self_signed(
        &mut self,
        written: &CertificateDocument,
        names: &Written<Vec<Written<String>>>,
    ) -> Option<CertificateSource> {
        for (key, field) in [("cert", &written.cert), ("key", &written.key)] {
            if let Some(file) = field.given() {
                self.report
                    .error(
                        &file.origin,
                        format!("`{key}` and `self_signed` cannot stand together"),
                    )
                    .label("a file")
                    .also(&names.origin, "made in memory")
                    .help("keep one of them");
            }
        }
        if names.value.is_empty() {
            self.report
                .error(&names.origin, "`self_signed` has no names")
                .label("expected at least one name");
        }
        let names = self.strings("self_signed", &written.self_signed, |text| {
            value::subject_name(&text)
        });
        Some(CertificateSource::SelfSigned(names))
    }
}
