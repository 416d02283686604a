//! The certificates of a generation. Files are read at every reload, and parsed only where their content
//! is new: neither dates nor names of files are trusted, and twenty thousand certificates that have not
//! changed cost a reload no more than reading them.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use crate::config::plan::{CertificateId, CertificatePlan, CertificateSource, Origin};
use crate::config::report::Report;
use crate::tls::certificate::ServedCertificate;
use crate::tls::pem;
use crate::tls::pem_error::PemError;
use crate::tls::self_signed::self_signed;

/// So many certificates are loaded by one thread; for fewer, starting a second is not worth it.
const CHUNK: usize = 256;

/// The certificates of a plan.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    /// In the plan's order.
    served: Vec<Arc<ServedCertificate>>,
    known: HashMap<Content, Arc<ServedCertificate>>,
}

/// What a certificate was made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Content {
    /// Two files, by a digest of both.
    Files([u8; SHA256_OUTPUT_LEN]),
    /// A key of our own, for these names.
    SelfSigned(Vec<String>),
}

/// A certificate that can be served, or what is wrong and where.
type Loaded = Result<(Content, Arc<ServedCertificate>), Vec<Mistake>>;

struct Mistake {
    origin: Origin,
    message: String,
    help: &'static str,
}

impl Certificates {
    /// Loads the certificates of a plan; `None` if one cannot be used, which is reported.
    ///
    /// What `previous` has of the same content is taken over. Without it nothing is served yet, and every
    /// CPU helps; a reload uses one, and leaves the others to the workers.
    pub(super) fn load(
        plans: &[CertificatePlan],
        previous: Option<&Self>,
        report: &mut Report,
    ) -> Option<Self> {
        let now = SystemTime::now();
        let threads = match previous {
            Some(_) => 1,
            None => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        };
        let share = plans.len().div_ceil(threads).max(CHUNK);
        let load = |plans: &[CertificatePlan]| -> Vec<Loaded> {
            let all = plans.iter();
            all.map(|plan| load(plan, previous, now)).collect()
        };
        let loaded: Vec<Loaded> = std::thread::scope(|scope| {
            let mut shares = plans.chunks(share);
            let own = shares.next().unwrap_or_default();
            let others: Vec<_> = shares
                .map(|share| scope.spawn(move || load(share)))
                .collect();
            let mut loaded = load(own);
            for other in others {
                // A panic there goes on here.
                loaded.extend(
                    other
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                );
            }
            loaded
        });
        let mut all = Self::default();
        for (plan, loaded) in plans.iter().zip(loaded) {
            all.add(plan, loaded, now, report);
        }
        (all.served.len() == plans.len()).then_some(all)
    }

    fn add(
        &mut self,
        plan: &CertificatePlan,
        loaded: Loaded,
        now: SystemTime,
        report: &mut Report,
    ) {
        match loaded {
            Ok((content, certificate)) => {
                if let CertificateSource::Files { cert_origin, .. } = &plan.source {
                    for warning in certificate.warnings(now) {
                        report
                            .warning(cert_origin, warning.to_string())
                            .help(warning.help());
                    }
                }
                self.served.push(Arc::clone(&certificate));
                self.known.insert(content, certificate);
            }
            Err(mistakes) => {
                for mistake in mistakes {
                    report
                        .error(&mistake.origin, mistake.message)
                        .help(mistake.help);
                }
            }
        }
    }

    /// The certificate that an id of the plan stands for.
    pub(super) fn get(&self, id: CertificateId) -> Option<&Arc<ServedCertificate>> {
        self.served.get(id.0)
    }
}

fn load(plan: &CertificatePlan, previous: Option<&Certificates>, now: SystemTime) -> Loaded {
    let known = |content: &Content| previous?.known.get(content).cloned();
    match &plan.source {
        CertificateSource::SelfSigned(names) => {
            let content = Content::SelfSigned(names.clone());
            if let Some(same) = known(&content) {
                return Ok((content, same));
            }
            match self_signed(names, now) {
                Ok(certificate) => Ok((content, Arc::new(certificate))),
                Err(error) => Err(vec![Mistake {
                    origin: plan.origin.clone(),
                    message: error.to_string(),
                    help: error.help(),
                }]),
            }
        }
        CertificateSource::Files {
            cert,
            cert_origin,
            key,
            key_origin,
        } => {
            let (chain, secret) = both(
                pem::read_text(cert).map_err(|error| pem_mistake(cert_origin, &error)),
                pem::read_text(key).map_err(|error| pem_mistake(key_origin, &error)),
            )?;
            let content = Content::Files(digest(&chain, &secret));
            if let Some(same) = known(&content) {
                return Ok((content, same));
            }
            let (chain, secret) = both(
                pem::chain_of(cert, &chain).map_err(|error| pem_mistake(cert_origin, &error)),
                pem::key_of(key, &secret).map_err(|error| pem_mistake(key_origin, &error)),
            )?;
            match ServedCertificate::new(chain, secret) {
                Ok(certificate) => Ok((content, Arc::new(certificate))),
                Err(error) => Err(vec![Mistake {
                    origin: key_origin.clone(),
                    message: error.to_string(),
                    help: error.help(),
                }]),
            }
        }
    }
}

/// Both, or what is wrong with either.
fn both<A, B>(one: Result<A, Mistake>, other: Result<B, Mistake>) -> Result<(A, B), Vec<Mistake>> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok((one, other)),
        (one, other) => Err(one.err().into_iter().chain(other.err()).collect()),
    }
}

fn pem_mistake(origin: &Origin, error: &PemError) -> Mistake {
    Mistake {
        origin: origin.clone(),
        message: error.to_string(),
        help: error.help(),
    }
}

/// A digest of two files, which depends on where one ends.
fn digest(chain: &[u8], key: &[u8]) -> [u8; SHA256_OUTPUT_LEN] {
    let mut context = Context::new(&SHA256);
    context.update(&(chain.len() as u64).to_be_bytes());
    context.update(chain);
    context.update(key);
    let mut digest = [0; SHA256_OUTPUT_LEN];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// Writes a new certificate for a name, and gives its plan.
    fn write(folder: &Path, name: &str) -> CertificatePlan {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![format!("{name}.example.com")]).unwrap();
        let cert = params.self_signed(&key).unwrap();
        let path = |ending: &str| folder.join(format!("{name}.{ending}"));
        std::fs::write(path("crt"), cert.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        CertificatePlan {
            name: name.into(),
            source: CertificateSource::Files {
                cert: path("crt"),
                cert_origin: Origin::default(),
                key: path("key"),
                key_origin: Origin::default(),
            },
            origin: Origin::default(),
        }
    }

    fn load(plans: &[CertificatePlan], previous: Option<&Certificates>) -> Certificates {
        let mut report = Report::new(Path::new("lockgate.toml"), "");
        let loaded = Certificates::load(plans, previous, &mut report);
        loaded.unwrap_or_else(|| panic!("{}", report.summary()))
    }

    #[test]
    fn what_has_not_changed_is_taken_over_and_what_has_is_not_whatever_its_date() {
        let folder = tempfile::tempdir().unwrap();
        let plans: Vec<_> = ["a", "b", "c"]
            .map(|name| write(folder.path(), name))
            .into();
        let first = load(&plans, None);
        // Rewritten with the date and the length it had.
        let path = folder.path().join("b.crt");
        let date = std::fs::metadata(&path).unwrap().modified().unwrap();
        write(folder.path(), "b");
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(date).unwrap();
        let second = load(&plans, Some(&first));
        for (index, same) in [true, false, true].into_iter().enumerate() {
            let (one, other) = (&first.served[index], &second.served[index]);
            assert_eq!(Arc::ptr_eq(one, other), same, "{index}");
        }
        // The order of a plan does not matter.
        let third = load(&[plans[2].clone(), plans[1].clone()], Some(&second));
        assert!(Arc::ptr_eq(&third.served[0], &second.served[2]));
        assert!(Arc::ptr_eq(&third.served[1], &second.served[1]));
    }

    #[test]
    fn many_are_loaded_by_several_threads_and_keep_their_order_and_mistakes() {
        let folder = tempfile::tempdir().unwrap();
        let mut plans = vec![write(folder.path(), "a"); CHUNK];
        plans.extend(vec![write(folder.path(), "b"); CHUNK]);
        let loaded = load(&plans, None);
        let name = |index: usize| format!("{:?}", loaded.served[index].names());
        assert!(name(0).contains("a.example.com") && name(CHUNK - 1).contains("a.example.com"));
        assert!(name(CHUNK).contains("b.example.com") && name(2 * CHUNK - 1).contains("b."));

        std::fs::remove_file(folder.path().join("b.key")).unwrap();
        let mut report = Report::new(Path::new("lockgate.toml"), "");
        assert!(Certificates::load(&plans, None, &mut report).is_none());
        assert_eq!(report.diagnostics().count(), CHUNK);
    }
}
