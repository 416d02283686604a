//! Session tickets: what lets a client come back within 300 seconds without a full handshake (alb.md
//! section 2.5, decision 8).
//!
//! A ticket is `name (16) | nonce (12) | session, time of issue (8) | tag (16)`, sealed with AES-256-GCM
//! and bound to a [`Context`]: it opens nowhere else. Keys live for one epoch of sealing and one more of
//! opening. They are random, or derived from the secret that replicas share. rustls checks no age.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;
use rustls::time_provider::TimeProvider;
use zeroize::Zeroizing;

use crate::config::tls_policy::TlsPolicy;
use crate::secret::Secret;

/// How long a ticket can be used, in seconds.
pub const LIFETIME: u32 = 300;
/// How many seconds a key seals. Not less than [`LIFETIME`]: a ticket then opens with the key of its epoch
/// or the one before.
const EPOCH: u64 = 300;
/// By how many seconds the clock of the replica that issued a ticket may be ahead of ours.
const SKEW: u64 = 30;
/// The longest session that is sealed. A client sends its ticket in its first message; one that holds a long
/// chain of client certificates is not worth that.
const MAX_SESSION: usize = 8 * 1024;

const NAME_LEN: usize = 16;
const HEADER_LEN: usize = NAME_LEN + NONCE_LEN;
const TIME_LEN: usize = 8;
const TAG_LEN: usize = 16;
const KEY_LEN: usize = 32;

/// What a ticket is bound to. A session never goes on where any of it is different.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Context([u8; SHA256_OUTPUT_LEN]);

impl Context {
    /// The context of a listener's sessions. `client_auth` stands for how clients are authenticated, with
    /// the content of CA and CRL files; it is empty where they are not.
    pub fn new(listener: &str, policy: &TlsPolicy, client_auth: &[u8]) -> Self {
        let mut text = Vec::new();
        let mut add = |field: &[u8]| {
            text.extend_from_slice(&(field.len() as u64).to_be_bytes());
            text.extend_from_slice(field);
        };
        add(listener.as_bytes());
        add(policy.name.as_bytes());
        for version in &policy.versions {
            add(version.name().as_bytes());
        }
        for suite in &policy.suites {
            add(suite.name().as_bytes());
        }
        add(b"client_auth");
        add(client_auth);
        Self(sha256(&text))
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Context")
    }
}

/// Where keys come from.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// Each is random: tickets are for this process only.
    Random,
    /// Derived from a secret: processes that share it open each other's tickets.
    Shared(Arc<Secret>),
}

/// Makes and opens the tickets of one context.
pub struct Ticketer {
    context: Context,
    source: KeySource,
    clock: Arc<dyn TimeProvider>,
    ring: ArcSwap<Ring>,
}

/// The keys of an epoch.
struct Ring {
    epoch: u64,
    current: Arc<Key>,
    /// That of the epoch before; with a shared secret that of the next, too, for replicas whose clocks are ahead.
    others: [Option<Arc<Key>>; 2],
}

struct Key {
    name: [u8; NAME_LEN],
    aead: RandomizedNonceKey,
    #[cfg(feature = "legacy-tls")]
    older: Secret,
}

impl Ticketer {
    /// A ticketer that tells time by `clock`; `None` only where the cryptography or the clock fails.
    pub fn new(
        context: Context,
        source: KeySource,
        clock: Arc<dyn TimeProvider>,
    ) -> Option<Arc<Self>> {
        let epoch = clock.current_time()?.as_secs() / EPOCH;
        let ring = Ring::new(&source, context, epoch, None)?;
        Some(Arc::new(Self {
            context,
            source,
            clock,
            ring: ArcSwap::from_pointee(ring),
        }))
    }

    /// Whether its random keys are to go on serving `context`, which they do over a reload.
    pub fn goes_on_for(&self, context: Context) -> bool {
        matches!(self.source, KeySource::Random) && self.context == context
    }

    /// The clock that it and rustls go by.
    pub fn clock(&self) -> &Arc<dyn TimeProvider> {
        &self.clock
    }

    /// The keys of this moment: the first that needs the keys of a new epoch makes them.
    fn ring(&self, now: u64) -> arc_swap::Guard<Arc<Ring>> {
        let epoch = now / EPOCH;
        let ring = self.ring.load();
        if !ring.is_over(epoch) {
            return ring;
        }
        self.ring.rcu(|ring| {
            let next = ring
                .is_over(epoch)
                .then(|| Ring::new(&self.source, self.context, epoch, Some(ring)));
            // Where no key can be made, the old one goes on.
            next.flatten().map_or_else(|| Arc::clone(ring), Arc::new)
        });
        self.ring.load()
    }

    fn now(&self) -> Option<u64> {
        Some(self.clock.current_time()?.as_secs())
    }

    fn seal(&self, session: &[u8]) -> Option<Vec<u8>> {
        if session.len() > MAX_SESSION {
            return None;
        }
        let now = self.now()?;
        let issued = first_issue_of(session).unwrap_or(now);
        let ring = self.ring(now);
        let key = &*ring.current;
        let mut ticket = Vec::with_capacity(HEADER_LEN + session.len() + TIME_LEN + TAG_LEN);
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(&[0; NONCE_LEN]);
        ticket.extend_from_slice(session);
        ticket.extend_from_slice(&issued.to_be_bytes());
        let (header, body) = ticket.split_at_mut_checked(HEADER_LEN)?;
        let (nonce, tag) = key
            .aead
            .seal_in_place_separate_tag(self.bound_to(&key.name), body)
            .ok()?;
        header.get_mut(NAME_LEN..)?.copy_from_slice(nonce.as_ref());
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn open(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > HEADER_LEN + MAX_SESSION + TIME_LEN + TAG_LEN {
            return None;
        }
        let (name, rest) = ticket.split_first_chunk::<NAME_LEN>()?;
        let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>()?;
        let now = self.now()?;
        let ring = self.ring(now);
        let key = ring.named(name)?;
        let mut session = body.to_vec();
        let opened = key
            .aead
            .open_in_place(Nonce::from(nonce), self.bound_to(name), &mut session)
            .ok()?;
        let (sealed, issued) = opened.split_last_chunk::<TIME_LEN>()?;
        let (length, issued) = (sealed.len(), u64::from_be_bytes(*issued));
        if !is_in_time(issued, now) {
            return None;
        }
        session.truncate(length);
        remember_issue_of(&session, issued);
        Some(session)
    }

    fn bound_to(&self, name: &[u8; NAME_LEN]) -> Aad<[u8; NAME_LEN + SHA256_OUTPUT_LEN]> {
        let mut bytes = [0; NAME_LEN + SHA256_OUTPUT_LEN];
        let (left, right) = bytes.split_at_mut(NAME_LEN);
        left.copy_from_slice(name);
        right.copy_from_slice(&self.context.0);
        Aad::from(bytes)
    }
}

/// How long the name of a ticket is that OpenSSL makes.
#[cfg(feature = "legacy-tls")]
pub const OLDER_NAME: usize = NAME_LEN;
/// How long each half of its key is.
#[cfg(feature = "legacy-tls")]
pub const OLDER_HALF: usize = KEY_LEN;

/// The key of a ticket that OpenSSL makes, for a client that rustls cannot serve. OpenSSL seals with
/// AES-256-CBC and HMAC-SHA256 (RFC 5077 section 4), which covers the name, too.
#[cfg(feature = "legacy-tls")]
pub struct OlderKey {
    cipher: Zeroizing<[u8; OLDER_HALF]>,
    mac: Zeroizing<[u8; OLDER_HALF]>,
}

#[cfg(feature = "legacy-tls")]
impl OlderKey {
    /// What encrypts.
    pub fn cipher(&self) -> &[u8; OLDER_HALF] {
        &self.cipher
    }

    /// What authenticates.
    pub fn mac(&self) -> &[u8; OLDER_HALF] {
        &self.mac
    }
}

/// Tickets that OpenSSL makes are named `key (8) | time of issue (8)`. Their keys are derived from the
/// epoch's, and bind them to the name that the client asked for, as rustls does by itself.
#[cfg(feature = "legacy-tls")]
impl Ticketer {
    /// The name and the key of a ticket that is issued now.
    pub fn older_key(&self, server_name: &str) -> Option<([u8; OLDER_NAME], OlderKey)> {
        let now = self.now()?;
        let ring = self.ring(now);
        let mut name = ring.current.name;
        name.last_chunk_mut::<TIME_LEN>()?
            .copy_from_slice(&now.to_be_bytes());
        Some((name, ring.current.older(server_name)?))
    }

    /// The key of the ticket with a name, if it may still be used.
    pub fn older_key_named(&self, name: &[u8; OLDER_NAME], server_name: &str) -> Option<OlderKey> {
        let (id, issued) = name.split_last_chunk::<TIME_LEN>()?;
        let now = self.now()?;
        if !is_in_time(u64::from_be_bytes(*issued), now) {
            return None;
        }
        let ring = self.ring(now);
        let key = ring.all().find(|key| key.name.starts_with(id))?;
        key.older(server_name)
    }
}

/// Whether a ticket can be used that was issued then.
fn is_in_time(issued: u64, now: u64) -> bool {
    now.saturating_sub(issued) <= u64::from(LIFETIME) && issued.saturating_sub(now) <= SKEW
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher)
    }
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticketer").finish_non_exhaustive()
    }
}

impl Ring {
    fn new(
        source: &KeySource,
        context: Context,
        epoch: u64,
        before: Option<&Self>,
    ) -> Option<Self> {
        match source {
            KeySource::Random => Some(Self {
                epoch,
                current: Arc::new(Key::random()?),
                others: [
                    before
                        .filter(|before| before.epoch + 1 == epoch)
                        .map(|before| Arc::clone(&before.current)),
                    None,
                ],
            }),
            KeySource::Shared(secret) => {
                let key = |epoch| Key::derived(secret, context, epoch).map(Arc::new);
                Some(Self {
                    epoch,
                    current: key(epoch)?,
                    others: [key(epoch.saturating_sub(1)), key(epoch + 1)],
                })
            }
        }
    }

    /// Whether an epoch needs other keys. One that has just ended does not: a worker may have looked at the
    /// clock before another did.
    fn is_over(&self, epoch: u64) -> bool {
        epoch > self.epoch || epoch + 1 < self.epoch
    }

    fn all(&self) -> impl Iterator<Item = &Key> {
        let all = std::iter::once(&self.current).chain(self.others.iter().flatten());
        all.map(|key| &**key)
    }

    fn named(&self, name: &[u8; NAME_LEN]) -> Option<&Key> {
        self.all().find(|key| key.name == *name)
    }
}

impl Key {
    fn random() -> Option<Self> {
        let mut bytes = Zeroizing::new([0; KEY_LEN + NAME_LEN]);
        rand::fill(&mut *bytes).ok()?;
        Self::new(&bytes)
    }

    fn derived(secret: &Secret, context: Context, epoch: u64) -> Option<Self> {
        let purpose: [&[u8]; 3] = [b"session tickets", &context.0, &epoch.to_be_bytes()];
        Self::new(&*secret.derive(&purpose)?)
    }

    fn new(bytes: &[u8; KEY_LEN + NAME_LEN]) -> Option<Self> {
        let (key, name) = bytes.split_first_chunk::<KEY_LEN>()?;
        Some(Self {
            name: name.try_into().ok()?,
            aead: RandomizedNonceKey::new(&AES_256_GCM, key).ok()?,
            #[cfg(feature = "legacy-tls")]
            older: Secret::new(bytes),
        })
    }

    #[cfg(feature = "legacy-tls")]
    fn older(&self, server_name: &str) -> Option<OlderKey> {
        let derive = |what: &[u8]| self.older.derive(&[what, server_name.as_bytes()]);
        Some(OlderKey {
            cipher: derive(b"OpenSSL's tickets, cipher, for ")?,
            mac: derive(b"OpenSSL's tickets, MAC, for ")?,
        })
    }
}

thread_local! {
    /// The TLS 1.2 session of the ticket that was opened last, and when it was issued.
    static OPENED: Cell<Option<([u8; SHA256_OUTPUT_LEN], u64)>> = const { Cell::new(None) };
}

/// When the ticket was issued of which `session` is the continuation.
///
/// Resuming in TLS 1.2, a server issues a ticket anew, for the same master secret; were it to start from
/// the present, a session would live as long as a client comes back every five minutes. rustls opens the
/// one ticket and seals the next in a single step, so what was opened last is what goes on, if it has the
/// same secret. In TLS 1.3 each connection has a secret of its own, agreed on anew.
fn first_issue_of(session: &[u8]) -> Option<u64> {
    let (opened, issued) = OPENED.take()?;
    let same = tls12_identity(session).is_some_and(|identity| sha256(identity) == opened);
    same.then_some(issued)
}

fn remember_issue_of(session: &[u8], issued: u64) {
    let identity = tls12_identity(session);
    OPENED.set(identity.map(|identity| (sha256(identity), issued)));
}

/// What stays the same of a TLS 1.2 session as rustls writes it: it begins with the server's name (a byte
/// that says whether, length, name), version, suite, and master secret (length, secret).
fn tls12_identity(session: &[u8]) -> Option<&[u8]> {
    const VERSION: [u8; 2] = [3, 3];
    let version = match session {
        [1, length, ..] => 2 + usize::from(*length),
        [_, ..] | [] => 1,
    };
    let secret = version + 4;
    let length = usize::from(*session.get(secret)?);
    (session.get(version..version + 2)? == VERSION)
        .then(|| session.get(..=secret + length))
        .flatten()
}

fn sha256(bytes: &[u8]) -> [u8; SHA256_OUTPUT_LEN] {
    let mut hash = [0; SHA256_OUTPUT_LEN];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use rustls::CipherSuite;
    use rustls::client::ClientConfig;

    use super::*;
    use crate::config::plan::Http2;
    use crate::config::tls_policy::{SystemPolicy, Version};
    use crate::tls::ListenerTls;
    use crate::tls::facts::{Session, TlsFacts};
    use crate::tls::store::CertificateStore;
    use crate::tls::testing::{Client, Clock, Key as CertificateKey, certificate, handshake_with};

    /// The beginning of an epoch.
    const START: u64 = 1_800_000_000;
    const TLS12: &[CipherSuite] = &[CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256];
    const TLS13: &[CipherSuite] = &[CipherSuite::TLS13_AES_128_GCM_SHA256];

    fn shared(bytes: u8) -> KeySource {
        KeySource::Shared(Arc::new(Secret::new(&[bytes; 32])))
    }

    fn policy() -> TlsPolicy {
        SystemPolicy::Strict12With13.into()
    }

    fn context() -> Context {
        Context::new("web", &policy(), &[])
    }

    fn ticketer(source: KeySource, clock: &Arc<Clock>) -> Arc<Ticketer> {
        Ticketer::new(context(), source, Arc::clone(clock) as _).unwrap()
    }

    /// A server whose tickets are bound to a listener, a policy, and a way of authenticating clients.
    fn server_of(
        (listener, policy, auth): (&str, &TlsPolicy, &[u8]),
        source: KeySource,
        clock: &Arc<Clock>,
    ) -> ListenerTls {
        let context = Context::new(listener, policy, auth);
        let ticketer = Ticketer::new(context, source, Arc::clone(clock) as _).unwrap();
        let certificate = certificate(CertificateKey::P256, &["www.example.com"]);
        let store = CertificateStore::new(certificate, Vec::new());
        ListenerTls::new(policy, store, Http2::Offered, None, ticketer).unwrap()
    }

    fn server(source: KeySource, clock: &Arc<Clock>) -> ListenerTls {
        server_of(("web", &policy(), &[]), source, clock)
    }

    fn client(suites: &[CipherSuite]) -> Arc<ClientConfig> {
        Client::new().suites(suites).configured()
    }

    /// How a client that may hold tickets is taken.
    fn visit(server: &ListenerTls, client: &Arc<ClientConfig>) -> Session {
        visit_as(server, client, "www.example.com")
    }

    fn visit_as(server: &ListenerTls, client: &Arc<ClientConfig>, name: &str) -> Session {
        let finished = handshake_with(&server.config, client, name).unwrap();
        TlsFacts::of(&finished.server, server).unwrap().session
    }

    #[test]
    fn a_client_comes_back_by_its_ticket_in_tls_1_2_and_1_3() {
        let clock = Clock::at(START);
        for source in [KeySource::Random, shared(1)] {
            let server = server(source, &clock);
            for suites in [TLS12, TLS13] {
                let client = client(suites);
                assert_eq!(visit(&server, &client), Session::New);
                for _ in 0..3 {
                    assert_eq!(visit(&server, &client), Session::Resumed, "{suites:?}");
                }
            }
        }
    }

    #[test]
    fn one_ticket_ends_a_tls_1_3_handshake_and_it_says_300_seconds() {
        let server = server(KeySource::Random, &Clock::at(START));
        for _ in 0..2 {
            let finished =
                handshake_with(&server.config, &client(TLS13), "www.example.com").unwrap();
            assert_eq!(finished.client.tls13_tickets_received(), 1);
        }
        assert_eq!(server.config.ticketer.lifetime(), 300);
        assert_eq!(server.config.max_early_data_size, 0);
    }

    #[test]
    fn a_ticket_opens_for_300_seconds_and_no_longer_wherever_in_an_epoch_it_was_made() {
        for source in [KeySource::Random, shared(1)] {
            for made in [0, 1, 150, 299] {
                for (age, opens) in [(0, true), (1, true), (299, true), (300, true), (301, false)] {
                    let clock = Clock::at(START + made);
                    let ticketer = ticketer(source.clone(), &clock);
                    let ticket = ticketer.seal(b"session").unwrap();
                    clock.set(START + made + age);
                    assert_eq!(ticketer.open(&ticket).is_some(), opens, "{made} {age}");
                }
            }
        }
    }

    #[test]
    fn a_session_ends_300_seconds_after_its_ticket_in_handshakes_too() {
        for suites in [TLS12, TLS13] {
            for (age, expected) in [(300, Session::Resumed), (301, Session::New)] {
                let clock = Clock::at(START + 7);
                let server = server(KeySource::Random, &clock);
                let client = client(suites);
                assert_eq!(visit(&server, &client), Session::New);
                clock.set(START + 7 + age);
                assert_eq!(visit(&server, &client), expected, "{suites:?} {age}");
            }
        }
    }

    #[test]
    fn a_tls_1_2_session_does_not_live_longer_for_being_resumed() {
        let clock = Clock::at(START);
        let server = server(KeySource::Random, &clock);
        // The protocols offered change, and with them what is sealed.
        let first = Client::new().suites(TLS12).alpn(&["h2"]).configured();
        let mut second = ClientConfig::clone(&first);
        second.alpn_protocols = vec![b"http/1.1".to_vec()];
        let second = Arc::new(second);
        assert_eq!(visit(&server, &first), Session::New);
        for (at, client, expected) in [
            (100, &second, Session::Resumed),
            (200, &first, Session::Resumed),
            (300, &second, Session::Resumed),
            (301, &first, Session::New),
            (600, &second, Session::Resumed),
        ] {
            clock.set(START + at);
            assert_eq!(visit(&server, client), expected, "{at}");
        }
    }

    #[test]
    fn a_tls_1_2_session_is_not_aged_by_another_that_was_resumed_before_it() {
        let clock = Clock::at(START);
        let server = server(KeySource::Random, &clock);
        let (old, new) = (client(TLS12), client(TLS12));
        assert_eq!(visit(&server, &old), Session::New);
        clock.set(START + 200);
        assert_eq!(visit(&server, &old), Session::Resumed);
        assert_eq!(visit(&server, &new), Session::New);
        clock.set(START + 400);
        assert_eq!(visit(&server, &new), Session::Resumed);
        assert_eq!(visit(&server, &old), Session::New);
    }

    #[test]
    fn a_tls_1_3_session_is_agreed_on_anew_each_time_and_lives_on() {
        let clock = Clock::at(START);
        let server = server(KeySource::Random, &clock);
        let client = client(TLS13);
        assert_eq!(visit(&server, &client), Session::New);
        for at in [250, 500, 750] {
            clock.set(START + at);
            assert_eq!(visit(&server, &client), Session::Resumed, "{at}");
        }
    }

    #[test]
    fn a_ticket_crosses_neither_listener_nor_policy_nor_client_authentication() {
        let clock = Clock::at(START);
        let default = policy();
        let renamed = TlsPolicy {
            name: "renamed".into(),
            ..default.clone()
        };
        let mut fewer_suites = default.clone();
        fewer_suites
            .suites
            .retain(|suite| suite.name() != "TLS_AES_256_GCM_SHA384");
        let mut more_versions = default.clone();
        more_versions.versions.insert(0, Version::Tls11);
        let source = shared(1);
        let home = server_of(("web", &default, b"ca 1"), source.clone(), &clock);
        let same = server_of(("web", &default, b"ca 1"), source.clone(), &clock);
        for suites in [TLS12, TLS13] {
            let client = client(suites);
            visit(&home, &client);
            assert_eq!(visit(&same, &client), Session::Resumed, "{suites:?}");
            for (what, listener, policy, auth) in [
                ("listener", "web2", &default, &b"ca 1"[..]),
                ("policy by name", "web", &renamed, b"ca 1"),
                ("policy by suites", "web", &fewer_suites, b"ca 1"),
                ("policy by versions", "web", &more_versions, b"ca 1"),
                ("ca", "web", &default, b"ca 2"),
                ("to no client authentication", "web", &default, b""),
            ] {
                // With one secret, and so as on another replica or after a reload.
                let other = server_of((listener, policy, auth), source.clone(), &clock);
                visit(&home, &client);
                assert_eq!(visit(&other, &client), Session::New, "{what} {suites:?}");
                // And back: the ticket is now the other's.
                assert_eq!(
                    visit(&home, &client),
                    Session::New,
                    "from {what} {suites:?}"
                );
            }
        }
    }

    #[test]
    fn a_ticket_is_for_the_name_it_was_issued_to() {
        let clock = Clock::at(START);
        let server = server(KeySource::Random, &clock);
        for suites in [TLS12, TLS13] {
            let client = client(suites);
            assert_eq!(visit_as(&server, &client, "a.example.com"), Session::New);
            assert_eq!(visit_as(&server, &client, "b.example.com"), Session::New);
            assert_eq!(
                visit_as(&server, &client, "a.example.com"),
                Session::Resumed
            );
        }
    }

    #[test]
    fn fields_of_a_context_do_not_run_into_each_other() {
        let policy = policy();
        let renamed = |name: &str| TlsPolicy {
            name: name.into(),
            ..policy.clone()
        };
        assert!(Context::new("ab", &renamed("c"), &[]) != Context::new("a", &renamed("bc"), &[]));
    }

    #[test]
    fn processes_that_share_a_secret_share_sessions_even_if_their_clocks_differ() {
        // Around the end of an epoch, where one of the two is in the next already.
        for (issued, opened) in [(299, 300), (300, 299), (310, 285), (0, 299)] {
            let (here, there) = (Clock::at(START + issued), Clock::at(START + opened));
            for suites in [TLS12, TLS13] {
                let client = client(suites);
                visit(&server(shared(1), &here), &client);
                let taken = visit(&server(shared(1), &there), &client);
                assert_eq!(taken, Session::Resumed, "{issued} {opened} {suites:?}");
            }
        }
        let clock = Clock::at(START);
        let client = client(TLS13);
        visit(&server(shared(1), &clock), &client);
        assert_eq!(visit(&server(shared(2), &clock), &client), Session::New);
        visit(&server(shared(1), &clock), &client);
        assert_eq!(
            visit(&server(KeySource::Random, &clock), &client),
            Session::New
        );
    }

    #[test]
    fn random_keys_are_of_one_process() {
        let clock = Clock::at(START);
        let (one, other) = (
            ticketer(KeySource::Random, &clock),
            ticketer(KeySource::Random, &clock),
        );
        let ticket = one.seal(b"session").unwrap();
        assert_eq!(one.open(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(other.open(&ticket), None);
    }

    #[test]
    fn a_ticket_from_the_future_is_refused() {
        for source in [KeySource::Random, shared(1)] {
            let clock = Clock::at(START + 200);
            let ticketer = ticketer(source, &clock);
            let ticket = ticketer.seal(b"session").unwrap();
            for (at, opens) in [(170, true), (169, false)] {
                clock.set(START + at);
                assert_eq!(ticketer.open(&ticket).is_some(), opens, "{at}");
            }
        }
    }

    #[test]
    fn keys_change_with_the_epoch_and_the_old_ones_go() {
        for source in [KeySource::Random, shared(1)] {
            let clock = Clock::at(START);
            let ticketer = ticketer(source, &clock);
            let name = |ticket: &[u8]| ticket[..NAME_LEN].to_vec();
            let mut names = Vec::new();
            for epoch in 0..4 {
                for second in [0, 299] {
                    clock.set(START + epoch * EPOCH + second);
                    names.push(name(&ticketer.seal(b"session").unwrap()));
                }
            }
            names.dedup();
            assert_eq!(names.len(), 4, "one key an epoch");
            let ring = ticketer.ring.load();
            let first: [u8; NAME_LEN] = names[0].clone().try_into().unwrap();
            let third: [u8; NAME_LEN] = names[2].clone().try_into().unwrap();
            assert!(ring.named(&first).is_none() && ring.named(&third).is_some());
        }
    }

    #[test]
    fn a_clock_that_steps_back_takes_no_keys_away_unless_by_much() {
        let clock = Clock::at(START);
        let ticketer = ticketer(KeySource::Random, &clock);
        let ticket = ticketer.seal(b"session").unwrap();
        clock.set(START - 1);
        assert!(ticketer.open(&ticket).is_some());
        // By hours: sealing goes on, with new keys.
        clock.set(START - 20 * EPOCH);
        let again = ticketer.seal(b"session").unwrap();
        assert!(ticketer.open(&again).is_some());
        assert_eq!(ticketer.open(&ticket), None);
    }

    #[test]
    fn workers_that_reach_a_new_epoch_together_agree_on_its_keys() {
        let clock = Clock::at(START);
        let ticketer = ticketer(KeySource::Random, &clock);
        let before = ticketer.seal(b"session").unwrap();
        clock.set(START + EPOCH);
        let tickets: Vec<_> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| ticketer.seal(b"session").unwrap()))
                .collect();
            workers.into_iter().map(|w| w.join().unwrap()).collect()
        });
        for ticket in tickets.iter().chain([&before]) {
            assert!(ticketer.open(ticket).is_some());
        }
    }

    #[test]
    fn what_is_no_ticket_of_ours_does_not_open() {
        let ticketer = ticketer(KeySource::Random, &Clock::at(START));
        let ticket = ticketer.seal(b"a session").unwrap();
        assert_eq!(ticket.len(), HEADER_LEN + 9 + TIME_LEN + TAG_LEN);
        for length in 0..ticket.len() {
            assert_eq!(ticketer.open(&ticket[..length]), None, "{length}");
        }
        for at in 0..ticket.len() {
            let mut other = ticket.clone();
            other[at] ^= 1;
            assert_eq!(ticketer.open(&other), None, "{at}");
        }
        let longer = [&ticket[..], &[0]].concat();
        assert_eq!(ticketer.open(&longer), None);
        assert_eq!(ticketer.open(&[0; 70_000]), None);
    }

    #[test]
    fn no_two_tickets_are_alike_and_none_shows_what_is_in_it() {
        let ticketer = ticketer(shared(1), &Clock::at(START));
        let (one, two) = (
            ticketer.seal(b"a session").unwrap(),
            ticketer.seal(b"a session").unwrap(),
        );
        assert_ne!(one[HEADER_LEN..], two[HEADER_LEN..]);
        assert!(!one.windows(9).any(|window| window == b"a session"));
    }

    #[test]
    fn a_session_too_long_for_a_ticket_gets_none() {
        let ticketer = ticketer(KeySource::Random, &Clock::at(START));
        let longest = ticketer.seal(&[1; MAX_SESSION]).unwrap();
        assert!(ticketer.open(&longest).is_some());
        assert_eq!(ticketer.seal(&[1; MAX_SESSION + 1]), None);
    }

    #[test]
    fn only_the_context_with_random_keys_goes_on_over_a_reload() {
        let clock = Clock::at(START);
        let own = ticketer(KeySource::Random, &clock);
        assert!(own.goes_on_for(context()));
        assert!(!own.goes_on_for(Context::new("web", &policy(), b"ca")));
        assert!(!ticketer(shared(1), &clock).goes_on_for(context()));
    }

    #[test]
    fn keys_are_not_printed() {
        let ticketer = ticketer(shared(1), &Clock::at(START));
        assert_eq!(format!("{ticketer:?}"), "Ticketer { .. }");
    }
}
