//! OpenSSL asks here for the keys of its session tickets: rustls' epochs are theirs, too.
//!
//! The `openssl` crate has no call for this, so this is the one file with `unsafe`, and it has nothing else.
//! Each block says why it is sound; what OpenSSL promises is in the manual page of
//! SSL_CTX_set_tlsext_ticket_key_evp_cb (OpenSSL 3).
#![expect(unsafe_code, reason = "there is no safe call that sets ticket keys")]

use std::ffi::{CStr, c_int, c_long, c_uchar};
use std::ptr;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::rand;
use foreign_types::ForeignTypeRef;
use openssl::cipher::Cipher;
use openssl::cipher_ctx::CipherCtxRef;
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{Ssl, SslContextBuilder, SslRef};
use openssl_sys::{EVP_CIPHER_CTX, EVP_MAC_CTX, EVP_MAC_init, OSSL_PARAM, SSL, SSL_CTX};

use crate::tls::tickets::{LIFETIME, OLDER_HALF, OLDER_NAME, OlderKey, Ticketer};

/// What the keys of one connection depend on.
struct Bound {
    ticketer: Arc<Ticketer>,
    server_name: Box<str>,
}

/// The block of AES, and so an initialization vector.
const IV: usize = 16;

type AskForKey = unsafe extern "C" fn(
    *mut SSL,
    *mut c_uchar,
    *mut c_uchar,
    *mut EVP_CIPHER_CTX,
    *mut EVP_MAC_CTX,
    c_int,
) -> c_int;

unsafe extern "C" {
    fn SSL_CTX_set_timeout(context: *mut SSL_CTX, seconds: c_long) -> c_long;
    fn SSL_CTX_set_tlsext_ticket_key_evp_cb(context: *mut SSL_CTX, ask: AskForKey) -> c_int;
}

/// Lets a context's connections have tickets, of [`LIFETIME`], if they are [`bind`]ed.
#[expect(
    clippy::needless_pass_by_ref_mut,
    reason = "the context is changed, if through a pointer"
)]
pub(super) fn install(context: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    // The index exists before the first connection does.
    index()?;
    let context = context.as_ptr();
    // SAFETY: the pointer is a live SSL_CTX, which the builder owns and nobody shares yet. Both calls only
    // store what they are given, and `ask` is a function: it is there for good.
    let stored = unsafe {
        SSL_CTX_set_timeout(context, c_long::from(LIFETIME));
        SSL_CTX_set_tlsext_ticket_key_evp_cb(context, ask)
    };
    match stored {
        1.. => Ok(()),
        _ => Err(ErrorStack::get()),
    }
}

/// Says whose tickets a connection's are.
pub(super) fn bind(
    connection: &mut SslRef,
    ticketer: &Arc<Ticketer>,
    server_name: Option<&str>,
) -> Result<(), ErrorStack> {
    let bound = Bound {
        ticketer: Arc::clone(ticketer),
        server_name: server_name.unwrap_or_default().into(),
    };
    connection.set_ex_data(index()?, bound);
    Ok(())
}

/// Where a connection keeps it.
fn index() -> Result<Index<Ssl, Bound>, ErrorStack> {
    static INDEX: OnceLock<Result<Index<Ssl, Bound>, ErrorStack>> = OnceLock::new();
    INDEX.get_or_init(Ssl::new_ex_index).clone()
}

/// There is no key, and so no ticket, or none that opens: a full handshake.
const NO_KEY: c_int = 0;
/// Both contexts have their key.
const KEY: c_int = 1;

/// OpenSSL asks for the key that seals a ticket, or for the one that opens a ticket with this name.
///
/// It may not panic, for OpenSSL cannot be unwound: nothing in it does.
unsafe extern "C" fn ask(
    connection: *mut SSL,
    name: *mut c_uchar,
    iv: *mut c_uchar,
    cipher: *mut EVP_CIPHER_CTX,
    mac: *mut EVP_MAC_CTX,
    seals: c_int,
) -> c_int {
    // SAFETY: OpenSSL is in the middle of this connection's handshake and lends it, and the context, which
    // is its own and not in use yet, for the length of the call. The reference to the connection is shared,
    // and only reads what `bind` has left there; nobody else holds one, as its owner is in the call that
    // led here.
    let (connection, cipher) = unsafe {
        (
            SslRef::from_ptr(connection),
            CipherCtxRef::from_ptr_mut(cipher),
        )
    };
    let Some(bound) = index().ok().and_then(|index| connection.ex_data(index)) else {
        return NO_KEY;
    };
    let key = if seals == 1 {
        seal(bound, cipher).map(|sealed| {
            // SAFETY: to be sealed, the name is an array of 16 bytes, and the vector one of EVP_MAX_IV_LENGTH,
            // which is 16; both on OpenSSL's stack, apart from what is copied, and to be written to. They need
            // not be initialized, which is why no reference is made of them.
            unsafe {
                ptr::copy_nonoverlapping(sealed.name.as_ptr(), name, OLDER_NAME);
                ptr::copy_nonoverlapping(sealed.iv.as_ptr(), iv, IV);
            }
            sealed.key
        })
    } else {
        // SAFETY: to be opened, both are parts of the ticket that came, which OpenSSL has seen to be longer
        // than the two. They are only read.
        let (name, iv) = unsafe { (&*name.cast::<[u8; OLDER_NAME]>(), &*iv.cast::<[u8; IV]>()) };
        open(bound, name, iv, cipher)
    };
    match key {
        // SAFETY: the context is OpenSSL's own and lent for the length of the call.
        Some(key) if unsafe { begin_mac(mac, key.mac()) } => KEY,
        Some(_) | None => NO_KEY,
    }
}

/// What a new ticket begins with, and the key that seals it.
struct Sealed {
    name: [u8; OLDER_NAME],
    iv: [u8; IV],
    key: OlderKey,
}

fn seal(bound: &Bound, cipher: &mut CipherCtxRef) -> Option<Sealed> {
    let (name, key) = bound.ticketer.older_key(&bound.server_name)?;
    let mut iv = [0; IV];
    rand::fill(&mut iv).ok()?;
    let begun = cipher.encrypt_init(Some(Cipher::aes_256_cbc()), Some(key.cipher()), Some(&iv));
    begun.ok().map(|()| Sealed { name, iv, key })
}

fn open(
    bound: &Bound,
    name: &[u8; OLDER_NAME],
    iv: &[u8; IV],
    cipher: &mut CipherCtxRef,
) -> Option<OlderKey> {
    let key = bound.ticketer.older_key_named(name, &bound.server_name)?;
    let begun = cipher.decrypt_init(Some(Cipher::aes_256_cbc()), Some(key.cipher()), Some(iv));
    begun.ok().map(|()| key)
}

/// Prepares HMAC with SHA-256.
///
/// # Safety
/// `mac` must be a context for HMAC that nobody else uses during the call.
unsafe fn begin_mac(mac: *mut EVP_MAC_CTX, key: &[u8; OLDER_HALF]) -> bool {
    const DIGEST: &CStr = c"digest";
    const SHA256: &CStr = c"SHA256";
    /// OSSL_PARAM_UTF8_STRING
    const TEXT: u32 = 4;
    let end = OSSL_PARAM {
        key: ptr::null(),
        data_type: 0,
        data: ptr::null_mut(),
        data_size: 0,
        return_size: 0,
    };
    let digest = OSSL_PARAM {
        key: DIGEST.as_ptr(),
        data_type: TEXT,
        data: SHA256.as_ptr().cast_mut().cast(),
        data_size: SHA256.count_bytes(),
        ..end
    };
    let parameters = [digest, end];
    // SAFETY: the caller vouches for `mac`. The key is as long as is said. The parameters end with one
    // without a key, as they must, and are only read, with what they point to, during the call.
    unsafe { EVP_MAC_init(mac, key.as_ptr(), key.len(), parameters.as_ptr()) == 1 }
}

#[cfg(test)]
mod tests {
    use openssl::ssl::{
        ShutdownState, SslContext, SslMethod, SslSession, SslSessionCacheMode, SslStream,
        SslVersion,
    };
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::plan::Http2;
    use crate::config::tls_policy::{SystemPolicy, TlsPolicy};
    use crate::secret::Secret;
    use crate::stream::Transport;
    use crate::tls::ListenerTls;
    use crate::tls::facts::Session;
    use crate::tls::legacy::Choice;
    use crate::tls::store::CertificateStore;
    use crate::tls::testing::{Clock, Key, certificate};
    use crate::tls::tickets::{Context, KeySource};

    /// The beginning of an epoch of ours; OpenSSL looks at another clock.
    const START: u64 = 1_800_000_000;

    fn shared(bytes: u8) -> KeySource {
        KeySource::Shared(Arc::new(Secret::new(&[bytes; 32])))
    }

    fn server_of(
        listener: &str,
        policy: SystemPolicy,
        source: KeySource,
        clock: &Arc<Clock>,
    ) -> ListenerTls {
        let policy = TlsPolicy::from(policy);
        let context = Context::new(listener, &policy, &[]);
        let ticketer = Ticketer::new(context, source, Arc::clone(clock) as _).unwrap();
        let certificate = certificate(Key::P256, &["a.example"]);
        let store = CertificateStore::new(certificate, Vec::new());
        ListenerTls::new(&policy, store, Http2::Offered, None, ticketer).unwrap()
    }

    fn server(source: KeySource, clock: &Arc<Clock>) -> ListenerTls {
        server_of("web", SystemPolicy::From10, source, clock)
    }

    /// A client of one version that keeps its last session.
    struct Older {
        context: SslContext,
        session: Option<SslSession>,
    }

    const VERSIONS: [SslVersion; 3] = [SslVersion::TLS1, SslVersion::TLS1_1, SslVersion::TLS1_2];

    impl Older {
        fn speaking(version: SslVersion) -> Self {
            let mut context = SslContextBuilder::new(SslMethod::tls_client()).unwrap();
            context.set_security_level(0);
            context
                .set_cipher_list("ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
                .unwrap();
            context.set_min_proto_version(Some(version)).unwrap();
            context.set_max_proto_version(Some(version)).unwrap();
            context.set_session_cache_mode(SslSessionCacheMode::CLIENT);
            Self {
                context: context.build(),
                session: None,
            }
        }

        fn connection(&self, name: &str) -> Ssl {
            let mut ssl = Ssl::new(&self.context).unwrap();
            ssl.set_hostname(name).unwrap();
            if let Some(session) = &self.session {
                // SAFETY: the session is of a connection of the same context.
                unsafe { ssl.set_session(session).unwrap() };
            }
            ssl
        }

        fn visit(&mut self, server: &ListenerTls) -> Session {
            self.visit_as(server, "a.example")
        }

        /// How it is taken. Both sides must think the same.
        fn visit_as(&mut self, server: &ListenerTls, name: &str) -> Session {
            let ssl = self.connection(name);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let (taken, mut stream) = runtime.unwrap().block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                let client = std::thread::spawn(move || {
                    let tcp = std::net::TcpStream::connect(address).unwrap();
                    let mut stream = SslStream::new(ssl, tcp).unwrap();
                    stream.connect().unwrap();
                    stream
                });
                let mut transport = Transport::for_tls(listener.accept().await.unwrap().0);
                let legacy = server.legacy.as_ref().unwrap();
                let Choice::OpenSsl(older) = legacy.choose(&mut transport).await.unwrap() else {
                    panic!("it is one for rustls");
                };
                let (_, facts) = legacy.handshake(transport, older, server).await.unwrap();
                (facts.session, client.join().unwrap())
            });
            let is_resumed = stream.ssl().session_reused();
            assert_eq!(taken == Session::Resumed, is_resumed);
            // OpenSSL does not go on with the session of a connection that was cut off.
            stream.set_shutdown(ShutdownState::SENT | ShutdownState::RECEIVED);
            self.session = stream.ssl().session().map(ToOwned::to_owned);
            taken
        }
    }

    #[test]
    fn an_older_client_comes_back_for_300_seconds_and_no_longer() {
        for source in [KeySource::Random, shared(1)] {
            for version in VERSIONS {
                for (age, expected) in [
                    (0, Session::Resumed),
                    (300, Session::Resumed),
                    (301, Session::New),
                ] {
                    let clock = Clock::at(START + 7);
                    let server = server(source.clone(), &clock);
                    let mut client = Older::speaking(version);
                    assert_eq!(client.visit(&server), Session::New);
                    clock.set(START + 7 + age);
                    assert_eq!(client.visit(&server), expected, "{version:?} {age}");
                    // Either way it has a ticket now.
                    assert_eq!(client.visit(&server), Session::Resumed, "{version:?} {age}");
                }
            }
        }
    }

    #[test]
    fn an_older_session_does_not_live_longer_for_being_resumed() {
        let clock = Clock::at(START);
        let server = server(KeySource::Random, &clock);
        let mut client = Older::speaking(SslVersion::TLS1);
        for (at, expected) in [
            (0, Session::New),
            (200, Session::Resumed),
            (300, Session::Resumed),
            (301, Session::New),
            (600, Session::Resumed),
        ] {
            clock.set(START + at);
            assert_eq!(client.visit(&server), expected, "{at}");
        }
    }

    #[test]
    fn an_older_session_crosses_neither_listener_nor_policy_nor_secret_nor_name() {
        let clock = Clock::at(START);
        let policy = SystemPolicy::From10;
        let home = server(shared(1), &clock);
        for (what, other, expected) in [
            ("replica", server(shared(1), &clock), Session::Resumed),
            (
                "listener",
                server_of("web2", policy, shared(1), &clock),
                Session::New,
            ),
            (
                "policy",
                server_of("web", SystemPolicy::From11, shared(1), &clock),
                Session::New,
            ),
            ("secret", server(shared(2), &clock), Session::New),
            ("process", server(KeySource::Random, &clock), Session::New),
        ] {
            let mut client = Older::speaking(SslVersion::TLS1_1);
            client.visit(&home);
            assert_eq!(client.visit(&other), expected, "{what}");
        }
        let mut client = Older::speaking(SslVersion::TLS1_1);
        client.visit(&home);
        assert_eq!(client.visit_as(&home, "b.example"), Session::New);
        assert_eq!(client.visit_as(&home, "b.example"), Session::Resumed);
        assert_eq!(client.visit_as(&home, "a.example"), Session::New);
    }

    #[test]
    fn an_older_ticket_from_the_future_or_changed_by_a_bit_is_refused() {
        let clock = Clock::at(START + 200);
        let server = server(shared(1), &clock);
        for (at, expected) in [(170, Session::Resumed), (169, Session::New)] {
            clock.set(START + 200);
            let mut client = Older::speaking(SslVersion::TLS1);
            client.visit(&server);
            clock.set(START + at);
            assert_eq!(client.visit(&server), expected, "{at}");
        }
        let (name, _) = server.ticketer.older_key("a.example").unwrap();
        // Key, time of issue, vector, session.
        for at in [0, 15, 20, 40] {
            let mut client = Older::speaking(SslVersion::TLS1);
            client.visit(&server);
            let mut der = client.session.as_ref().unwrap().to_der().unwrap();
            let ticket = der.windows(8).position(|part| *part == name[..8]).unwrap();
            der[ticket + at] ^= 1;
            client.session = Some(SslSession::from_der(&der).unwrap());
            assert_eq!(client.visit(&server), Session::New, "{at}");
        }
    }
}
