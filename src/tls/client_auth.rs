//! Mutual authentication: whom a listener asks for a certificate, and what is thought of it (alb.md 5.5, 3.3).
//!
//! webpki judges chains; how it is asked stands here. Under `optional_no_ca` the handshake only proves that
//! the client has the certificate's key, and the chain is judged afterwards. So it is where a session is
//! resumed, whatever the mode: the certificate may have expired since (attacks.md row 38).

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs as provider};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};

use super::authority::AuthorityError;
use super::verdict::{Reason, Verdict};
use crate::config::client_auth::ClientAuthMode;

/// The most certificates that a client may present: its own and nine of authorities. webpki follows at most
/// six of them, and what it may spend on finding the right ones is bounded as well; bytes are by rustls (64 KiB).
pub const MAX_CHAIN: usize = 10;

/// A listener's mutual authentication.
#[derive(Debug)]
pub struct ClientAuth {
    mode: ClientAuthMode,
    /// Absent without any authority: nobody is verified then.
    webpki: Option<Arc<dyn ClientCertVerifier>>,
    signatures: WebPkiSupportedAlgorithms,
    fingerprint: [u8; 32],
}

impl ClientAuth {
    /// Authentication by these authorities, roots or not, and these revocation lists.
    ///
    /// Where there are lists, they must cover the whole chain and be fresh, as OpenSSL asks: a certificate
    /// whose issuer has no list, or one past its time, does not verify.
    ///
    /// # Errors
    /// What [`super::authority`] says of each, without its place.
    pub fn new(
        mode: ClientAuthMode,
        mut authorities: Vec<CertificateDer<'static>>,
        mut crls: Vec<CertificateRevocationListDer<'static>>,
    ) -> Result<Self, AuthorityError> {
        authorities.sort_unstable_by(|one, other| one.as_ref().cmp(other.as_ref()));
        authorities.dedup();
        crls.sort_unstable_by(|one, other| one.as_ref().cmp(other.as_ref()));
        crls.dedup();
        let fingerprint = fingerprint(mode, &authorities, &crls);
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots
                .add(authority)
                .map_err(|error| AuthorityError::Authority(error.to_string()))?;
        }
        let provider = Arc::new(provider::default_provider());
        let signatures = provider.signature_verification_algorithms;
        let webpki = if roots.is_empty() {
            None
        } else {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .with_crls(crls)
                .enforce_revocation_expiration()
                .build();
            Some(verifier.map_err(|error| AuthorityError::Crl(error.to_string()))?)
        };
        Ok(Self {
            mode,
            webpki,
            signatures,
            fingerprint,
        })
    }

    /// What becomes of clients that are not verified.
    pub fn mode(&self) -> ClientAuthMode {
        self.mode
    }

    /// A digest of all that a verdict depends on, but for the time: equal exactly where the mode, the set of
    /// authorities and the set of revocation lists are, in whatever files and order they came.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// Whether a handshake that succeeds has verified the client's certificate.
    pub(super) fn judges_in_handshake(&self) -> bool {
        match self.mode {
            ClientAuthMode::Required | ClientAuthMode::Optional => true,
            ClientAuthMode::OptionalNoCa => false,
        }
    }

    /// What is thought at the moment `now` of a chain, the client's own certificate first.
    pub fn judge(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Verdict {
        let Some((leaf, others)) = chain.split_first() else {
            return Verdict::Failed(Reason::Malformed);
        };
        match self.verify(leaf, others, now) {
            Ok(_) => Verdict::Success,
            Err(error) => Verdict::Failed(Reason::of(&error, leaf)),
        }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if others.len() >= MAX_CHAIN {
            let error = OtherError(Arc::new(ChainTooLong));
            return Err(CertificateError::Other(error).into());
        }
        match &self.webpki {
            Some(webpki) => webpki.verify_client_cert(leaf, others, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }
}

/// What rustls asks in a handshake.
impl ClientCertVerifier for ClientAuth {
    fn client_auth_mandatory(&self) -> bool {
        match self.mode {
            ClientAuthMode::Required => true,
            ClientAuthMode::Optional | ClientAuthMode::OptionalNoCa => false,
        }
    }

    /// Clients send what comes from one of these; where anything is taken, nothing is hinted at.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        match (&self.webpki, self.judges_in_handshake()) {
            (Some(webpki), true) => webpki.root_hint_subjects(),
            (Some(_) | None, _) => &[],
        }
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.judges_in_handshake() {
            self.verify(leaf, others, now)
        } else {
            Ok(ClientCertVerified::assertion())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, leaf, signature, &self.signatures)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, leaf, signature, &self.signatures)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported_schemes()
    }
}

fn fingerprint(
    mode: ClientAuthMode,
    authorities: &[CertificateDer<'_>],
    crls: &[CertificateRevocationListDer<'_>],
) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    // The number stands for how webpki is asked: whole chain, unknown denied, fresh lists only.
    context.update(b"lockgate client_auth 1\0");
    context.update(match mode {
        ClientAuthMode::Required => b"required\0",
        ClientAuthMode::Optional => b"optional\0",
        ClientAuthMode::OptionalNoCa => b"optional_no_ca\0",
    });
    let authorities = authorities.iter().map(AsRef::as_ref);
    let crls = crls.iter().map(AsRef::as_ref);
    for set in [authorities.collect::<Vec<&[u8]>>(), crls.collect()] {
        context.update(&(set.len() as u64).to_be_bytes());
        for der in set {
            context.update(&(der.len() as u64).to_be_bytes());
            context.update(der);
        }
    }
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(context.finish().as_ref());
    fingerprint
}

/// More than [`MAX_CHAIN`].
#[derive(Debug)]
pub(super) struct ChainTooLong;

impl fmt::Display for ChainTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the client presents more than {MAX_CHAIN} certificates")
    }
}

impl std::error::Error for ChainTooLong {}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
        KeyPair, NameConstraints, SanType, SerialNumber, date_time_ymd,
    };
    use rustls::AlertDescription::{
        CertificateExpired, CertificateRequired, CertificateRevoked, CertificateUnknown,
        DecryptError, UnknownCA, UnsupportedCertificate,
    };
    use rustls::{AlertDescription, CipherSuite};

    use super::*;
    use crate::config::plan::Http2;
    use crate::config::tls_policy::SystemPolicy;
    use crate::tls::ListenerTls;
    use crate::tls::facts::{self, TlsFacts};
    use crate::tls::store::CertificateStore;
    use crate::tls::testing::{
        Authority, Client, Identity, Key, handshake, listener_tls, signing_key,
    };

    const TLS12: &[CipherSuite] = &[CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256];

    fn listener(auth: ClientAuth) -> ListenerTls {
        let certificate = crate::tls::testing::certificate(Key::P256, &["www.example.com"]);
        let store = CertificateStore::new(certificate, Vec::new());
        let policy = SystemPolicy::Strict12With13.into();
        listener_tls(&policy, store, Http2::Offered, Some(auth))
    }

    /// Clients, what they are told where certificates are required, and what backends are told of them
    /// where everyone is let in.
    type Row = (
        &'static str,
        Identity,
        Option<AlertDescription>,
        &'static str,
    );

    fn with(mut identity: Identity, others: &[&Authority]) -> Identity {
        let others = others.iter().map(|authority| authority.certificate.clone());
        identity.chain.extend(others);
        identity
    }

    fn self_signed(is_ca: IsCa) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = is_ca;
        let certificate = params.self_signed(&key).unwrap();
        Identity {
            chain: vec![certificate.der().clone()],
            key: signing_key(&key),
        }
    }

    fn good(params: &mut CertificateParams) {
        params.not_after = date_time_ymd(2040, 1, 1);
    }

    /// Clients of a listener that trusts `root`, whose list has the serial number 13, and `branch`, a part of
    /// another authority's tree: those whose way to an authority counts.
    fn ways(root: &Authority, branch: &Authority) -> Vec<Row> {
        let (stranger, namesake) = (Authority::root("stranger"), Authority::root("root"));
        let middle = root.authority("middle");
        let deep = with(root.issue(good), &[root; 10]);
        let ok = "SUCCESS";
        let unknown = "FAILED:unable to get local issuer certificate";
        let no_crl = "FAILED:unable to get certificate CRL";
        let long = "FAILED:certificate chain too long";
        let signature = "FAILED:certificate signature failure";
        let no_list = with(middle.issue(good), &[&middle]);
        let forged = namesake.issue(good);
        let (ca, decrypt) = (Some(UnknownCA), Some(DecryptError));
        vec![
            ("of the root", root.issue(good), None, ok),
            ("with the root", with(root.issue(good), &[root]), None, ok),
            ("of the branch", branch.issue(good), None, ok),
            ("without its middle", middle.issue(good), ca, unknown),
            ("whose issuer has no list", no_list, ca, no_crl),
            ("a stranger", stranger.issue(good), ca, unknown),
            ("of a namesake", forged, decrypt, signature),
            ("with too many", deep, Some(CertificateUnknown), long),
        ]
    }

    /// Those whose own certificate counts.
    fn certificates(root: &Authority) -> Vec<Row> {
        let issue = |change: fn(&mut CertificateParams)| root.issue(change);
        let expired = issue(|params| params.not_after = date_time_ymd(2021, 1, 1));
        let future = issue(|params| params.not_before = date_time_ymd(2090, 1, 1));
        let revoked = issue(|params| params.serial_number = Some(SerialNumber::from(13)));
        let server = issue(|params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        });
        let authority = issue(|params| params.is_ca = ca_of_itself());
        let (plain, ca) = (self_signed(IsCa::NoCa), self_signed(ca_of_itself()));
        let purpose = "FAILED:unsuitable certificate purpose";
        let strange = "FAILED:self-signed certificate";
        let late = "FAILED:certificate has expired";
        let early = "FAILED:certificate is not yet valid";
        let gone = "FAILED:certificate revoked";
        let (time, other) = (Some(CertificateExpired), Some(CertificateUnknown));
        vec![
            ("expired", expired, time, late),
            ("not yet", future, time, early),
            ("revoked", revoked, Some(CertificateRevoked), gone),
            ("for servers", server, Some(UnsupportedCertificate), purpose),
            ("an authority", authority, other, purpose),
            ("by itself", plain, Some(UnknownCA), strange),
            ("by itself, as authority", ca, other, strange),
        ]
    }

    fn ca_of_itself() -> IsCa {
        IsCa::Ca(BasicConstraints::Unconstrained)
    }

    /// What the facts say of a client's certificate.
    fn verdict(
        tls: &ListenerTls,
        client: &Client,
    ) -> Result<&'static str, Option<AlertDescription>> {
        let finished = handshake(&tls.config, client).map_err(|refused| refused.alert)?;
        Ok(match TlsFacts::of(&finished.server, tls).unwrap().client {
            facts::Client::Unasked => "unasked",
            facts::Client::Anonymous => "NONE",
            facts::Client::Certified(certificate) => certificate.verdict.text(),
        })
    }

    #[test]
    fn who_does_not_verify_gets_the_right_alert_or_its_verdict_told() {
        let (root, branch) = (
            Authority::root("root"),
            Authority::root("elsewhere").authority("branch"),
        );
        let auth = |mode| {
            let crls = vec![root.revoke(&[13], 2090), branch.revoke(&[], 2090)];
            let authorities = vec![root.certificate.clone(), branch.certificate.clone()];
            listener(ClientAuth::new(mode, authorities, crls).unwrap())
        };
        let [required, optional, told] = [
            ClientAuthMode::Required,
            ClientAuthMode::Optional,
            ClientAuthMode::OptionalNoCa,
        ]
        .map(auth);
        for client in [Client::new(), Client::new().suites(TLS12)] {
            for (what, identity, alert, text) in
                [ways(&root, &branch), certificates(&root)].concat()
            {
                let client = client.clone().shows(&identity);
                let expected = alert.map_or(Ok("SUCCESS"), |alert| Err(Some(alert)));
                assert_eq!(verdict(&required, &client), expected, "{what}");
                assert_eq!(verdict(&optional, &client), expected, "{what}");
                assert_eq!(verdict(&told, &client), Ok(text), "{what}");
            }
            let nothing = Err(Some(CertificateRequired));
            assert_eq!(verdict(&required, &client), nothing);
            assert_eq!(verdict(&optional, &client), Ok("NONE"));
            assert_eq!(verdict(&told, &client), Ok("NONE"));
        }
    }

    #[test]
    fn an_authority_vouches_for_the_names_that_it_is_permitted_and_no_other() {
        let root = Authority::root("root");
        let middle = root.authority_as("middle", |params| {
            params.name_constraints = Some(NameConstraints {
                permitted_subtrees: vec![GeneralSubtree::DnsName("inside.example".into())],
                excluded_subtrees: vec![GeneralSubtree::DnsName("not.inside.example".into())],
            });
        });
        let told = |mode, anchor: &Authority, name: &str| {
            let auth = ClientAuth::new(mode, vec![anchor.certificate.clone()], Vec::new());
            let identity = middle.issue(|params| {
                let name = SanType::DnsName(name.try_into().unwrap());
                params.subject_alt_names = vec![name];
            });
            let client = Client::new().shows(&with(identity, &[&middle]));
            verdict(&listener(auth.unwrap()), &client)
        };
        // The constrained authority is trusted by itself, or another vouches for it.
        for anchor in [&middle, &root] {
            for (name, is_inside) in [
                ("client.inside.example", true),
                ("inside.example", true),
                ("client.not.inside.example", false),
                ("client.outside.example", false),
                ("client.inside.example\0.outside.example", false),
            ] {
                let required = told(ClientAuthMode::Required, anchor, name);
                let noted = told(ClientAuthMode::OptionalNoCa, anchor, name);
                if is_inside {
                    assert_eq!((required, noted), (Ok("SUCCESS"), Ok("SUCCESS")), "{name}");
                } else {
                    assert!(required.is_err(), "{name:?}");
                    assert!(noted.unwrap().starts_with("FAILED:"), "{name:?}");
                }
            }
        }
    }

    #[test]
    fn nobody_is_let_in_with_the_certificate_of_another() {
        let root = Authority::root("root");
        for mode in [ClientAuthMode::Required, ClientAuthMode::OptionalNoCa] {
            let auth = ClientAuth::new(mode, vec![root.certificate.clone()], Vec::new());
            let tls = listener(auth.unwrap());
            let stolen = Identity {
                key: root.issue(|_| {}).key,
                ..root.issue(|_| {})
            };
            for client in [Client::new(), Client::new().suites(TLS12)] {
                let refused = verdict(&tls, &client.shows(&stolen));
                assert_eq!(refused, Err(Some(DecryptError)), "{mode:?}");
            }
        }
    }

    #[test]
    fn a_stale_list_lets_nobody_of_its_issuer_in() {
        let root = Authority::root("root");
        let auth = |mode| {
            let list = root.revoke(&[13], 2021);
            listener(ClientAuth::new(mode, vec![root.certificate.clone()], vec![list]).unwrap())
        };
        let client = Client::new().shows(&root.issue(|_| {}));
        let refused = verdict(&auth(ClientAuthMode::Required), &client);
        assert_eq!(refused, Err(Some(UnknownCA)));
        let told = verdict(&auth(ClientAuthMode::OptionalNoCa), &client);
        assert_eq!(told, Ok("FAILED:CRL has expired"));
    }

    #[test]
    fn a_list_that_somebody_else_signed_does_not_count() {
        let (root, namesake) = (Authority::root("root"), Authority::root("root"));
        let (list, authority) = (namesake.revoke(&[], 2090), root.certificate.clone());
        let mode = ClientAuthMode::OptionalNoCa;
        let tls = listener(ClientAuth::new(mode, vec![authority], vec![list]).unwrap());
        let client = Client::new().shows(&root.issue(|_| {}));
        assert_eq!(verdict(&tls, &client), Ok("FAILED:CRL signature failure"));
    }

    #[test]
    fn without_authorities_everyone_is_told_of_as_unknown() {
        let auth = ClientAuth::new(ClientAuthMode::OptionalNoCa, Vec::new(), Vec::new());
        let tls = listener(auth.unwrap());
        let client = Client::new().shows(&Authority::root("root").issue(|_| {}));
        let unknown = "FAILED:unable to get local issuer certificate";
        assert_eq!(verdict(&tls, &client), Ok(unknown));
    }

    #[test]
    fn the_fingerprint_is_of_the_mode_and_the_two_sets() {
        let (one, two) = (Authority::root("one"), Authority::root("two"));
        let (old, new) = (one.revoke(&[7], 2090), one.revoke(&[7, 8], 2090));
        let of =
            |mode, authorities: &[&Authority], crls: &[&CertificateRevocationListDer<'static>]| {
                let authorities = authorities.iter().map(|a| a.certificate.clone()).collect();
                let crls = crls.iter().map(|crl| (*crl).clone()).collect();
                ClientAuth::new(mode, authorities, crls)
                    .unwrap()
                    .fingerprint()
            };
        let required = ClientAuthMode::Required;
        let first = of(required, &[&one, &two], &[&old]);
        assert_eq!(first, of(required, &[&two, &one, &two], &[&old, &old]));
        for other in [
            of(ClientAuthMode::Optional, &[&one, &two], &[&old]),
            of(ClientAuthMode::OptionalNoCa, &[&one, &two], &[&old]),
            of(required, &[&one], &[&old]),
            of(required, &[&one, &two], &[]),
            of(required, &[&one, &two], &[&new]),
            of(required, &[&one, &two], &[&old, &new]),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn looking_for_a_way_to_an_authority_is_bounded() {
        // Authorities that all have the same name, so that each may have issued each (attacks.md row 45).
        let mut authorities = vec![Authority::root("root")];
        for _ in 0..9 {
            authorities.push(authorities[0].authority("root"));
        }
        let trusted = Authority::root("root").certificate;
        let auth = ClientAuth::new(ClientAuthMode::Required, vec![trusted], Vec::new()).unwrap();
        let leaf = authorities[9].issue(|_| {});
        let others: Vec<_> = authorities[1..]
            .iter()
            .map(|a| a.certificate.clone())
            .collect();
        let began = tokio::time::Instant::now();
        assert!(
            auth.verify_client_cert(&leaf.chain[0], &others, UnixTime::now())
                .is_err()
        );
        assert!(began.elapsed().as_millis() < 500, "{:?}", began.elapsed());
    }
}
