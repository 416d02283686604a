//! Tells the backend who asked and how: X-Forwarded-For and its kin (alb.md 1.4, 1.5 and 3.4).
//!
//! Every value that does not change between requests is made once, for the listener
//! ([`ForwardedHeaders`]) or for the connection ([`ClientValues`]); a request only clones them.
//! Runs after `hop_by_hop` has cleaned the request.

use bytes::{BufMut, BytesMut};
use http::header::{Entry, OccupiedEntry};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::addr::ClientAddr;
use crate::config::plan::{ForwardedFor, HeadersPlan, Switch};
use crate::scheme::Scheme;
use crate::transform::client_cert::{CertificateValues, ClientCertHeaders};

/// `X-Forwarded-For`
pub static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `X-Forwarded-Proto`
pub static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// `X-Forwarded-Port`
pub static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
/// `X-Forwarded-Host`
pub static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// `X-Forwarded-Client-srcport`
pub static X_FORWARDED_CLIENT_SRCPORT: HeaderName =
    HeaderName::from_static("x-forwarded-client-srcport");
/// `SLB-ID`
pub static SLB_ID: HeaderName = HeaderName::from_static("slb-id");
/// `X-Forwarded-TLS-Protocol`
pub static X_FORWARDED_TLS_PROTOCOL: HeaderName =
    HeaderName::from_static("x-forwarded-tls-protocol");
/// `X-Forwarded-TLS-Cipher`
pub static X_FORWARDED_TLS_CIPHER: HeaderName = HeaderName::from_static("x-forwarded-tls-cipher");

/// How long a client's X-Forwarded-For may be, in bytes, before its left end is cut off.
///
/// Some two hundred IPv6 addresses: whatever is longer was not written by proxies. The right end is the
/// one that the nearest hops wrote, so it is the one that is kept, in whole entries.
const MAX_FORWARDED_FOR: usize = 8 * 1024;

/// What one listener's requests are given on their way to a backend.
#[derive(Clone, Debug)]
pub struct ForwardedHeaders {
    plan: HeadersPlan,
    scheme: Scheme,
    proto: HeaderValue,
    port: HeaderValue,
    slb_id: HeaderValue,
    client_cert: Option<Box<ClientCertHeaders>>,
}

impl ForwardedHeaders {
    /// Prepares a listener's values; `port` is the one that it listens on.
    pub fn new(plan: HeadersPlan, scheme: Scheme, port: u16, slb_id: HeaderValue) -> Self {
        // In lower case, as everyone else writes it; the documents leave it open (alb.md 1.5).
        let proto = HeaderValue::from_static(scheme.as_str());
        Self {
            scheme,
            client_cert: ClientCertHeaders::new(&plan.client_cert).map(Box::new),
            plan,
            proto,
            port: HeaderValue::from(port),
            slb_id,
        }
    }

    /// The listener's protocol, as rules insert it: `HTTP` or `HTTPS`.
    pub fn protocol(&self) -> HeaderValue {
        HeaderValue::from_static(match self.scheme {
            Scheme::Http => "HTTP",
            Scheme::Https => "HTTPS",
        })
    }

    /// The listener's port.
    pub fn port(&self) -> &HeaderValue {
        &self.port
    }

    /// The instance's name.
    pub fn slb_id(&self) -> &HeaderValue {
        &self.slb_id
    }

    /// Sets the fields that are switched on, in place of whatever the client sent under their names; the
    /// others pass as they came (alb.md decision 16).
    ///
    /// `host` is the client's own: `Host` or `:authority`, to the byte; an HTTP/1.0 client may have none.
    pub fn apply(
        &self,
        headers: &mut HeaderMap,
        host: Option<&HeaderValue>,
        client: &ClientValues,
    ) {
        match self.plan.x_forwarded_for {
            ForwardedFor::Append => append_forwarded_for(headers, &client.ip),
            ForwardedFor::Remove => drop(headers.remove(&X_FORWARDED_FOR)),
            ForwardedFor::Keep => {}
        }
        let plan = &self.plan;
        set(headers, plan.x_forwarded_proto, &X_FORWARDED_PROTO, || {
            Some(self.proto.clone())
        });
        set(headers, plan.x_forwarded_port, &X_FORWARDED_PORT, || {
            Some(self.port.clone())
        });
        set(headers, plan.x_forwarded_host, &X_FORWARDED_HOST, || {
            host.cloned()
        });
        let port = || Some(HeaderValue::from(client.port));
        let switch = plan.x_forwarded_client_srcport;
        set(headers, switch, &X_FORWARDED_CLIENT_SRCPORT, port);
        set(headers, plan.slb_id, &SLB_ID, || Some(self.slb_id.clone()));
        let protocol = || client.tls_protocol.map(HeaderValue::from_static);
        set(
            headers,
            plan.tls_protocol,
            &X_FORWARDED_TLS_PROTOCOL,
            protocol,
        );
        let cipher = || client.tls_cipher.map(HeaderValue::from_static);
        set(headers, plan.tls_cipher, &X_FORWARDED_TLS_CIPHER, cipher);
        if let Some(client_cert) = &self.client_cert {
            client_cert.apply(headers, client.certificate.as_deref());
        }
    }
}

/// Sets a field that is switched on; if there is nothing to say, the client's own goes all the same.
fn set(
    headers: &mut HeaderMap,
    switch: Switch,
    name: &'static HeaderName,
    value: impl FnOnce() -> Option<HeaderValue>,
) {
    match switch {
        Switch::Off => {}
        Switch::On => match value() {
            Some(value) => drop(headers.insert(name, value)),
            None => drop(headers.remove(name)),
        },
    }
}

/// What one connection's requests say of their client: the peer of the socket, not the retrieved client
/// IP (alb.md 1.4).
#[derive(Clone, Debug)]
pub struct ClientValues {
    ip: HeaderValue,
    port: u16,
    tls_protocol: Option<&'static str>,
    tls_cipher: Option<&'static str>,
    certificate: Option<Box<CertificateValues>>,
}

impl ClientValues {
    /// Writes down a client's address: IPv6 without brackets, no port, no zone.
    pub fn new(client: ClientAddr) -> Self {
        #[expect(
            clippy::expect_used,
            reason = "an IP address prints as hexadecimal digits, dots and colons"
        )]
        let ip =
            HeaderValue::try_from(client.ip().to_string()).expect("an address is a field value");
        Self {
            ip,
            port: client.port(),
            tls_protocol: None,
            tls_cipher: None,
            certificate: None,
        }
    }

    /// The same client's, by TLS of this protocol and cipher suite, with a certificate or without.
    #[must_use]
    pub fn with_tls(
        mut self,
        protocol: &'static str,
        cipher: &'static str,
        certificate: Option<CertificateValues>,
    ) -> Self {
        self.tls_protocol = Some(protocol);
        self.tls_cipher = Some(cipher);
        self.certificate = certificate.map(Box::new);
        self
    }

    /// The client's IP address.
    pub fn ip(&self) -> &HeaderValue {
        &self.ip
    }

    /// The client's source port.
    pub fn port(&self) -> HeaderValue {
        HeaderValue::from(self.port)
    }
}

/// Appends an address to the client's list, which may come in several lines and becomes one.
fn append_forwarded_for(headers: &mut HeaderMap, ip: &HeaderValue) {
    match headers.entry(&X_FORWARDED_FOR) {
        Entry::Vacant(entry) => drop(entry.insert(ip.clone())),
        Entry::Occupied(mut entry) => {
            let value = joined(&entry, ip);
            entry.insert(value);
        }
    }
}

/// The lines in their order and then the address, with `, ` between them; empty lines count as absent.
fn joined(lines: &OccupiedEntry<'_, HeaderValue>, ip: &HeaderValue) -> HeaderValue {
    let lines = || {
        lines
            .iter()
            .map(|line| line.as_bytes().trim_ascii())
            .filter(|line| !line.is_empty())
    };
    let length: usize = lines().map(|line| line.len() + 2).sum();
    if length == 0 {
        return ip.clone();
    }
    let mut list = BytesMut::with_capacity(length + ip.len());
    for line in lines() {
        list.put_slice(line);
        list.put_slice(b", ");
    }
    if list.len() > MAX_FORWARDED_FOR + 2 {
        cut_left(&mut list);
    }
    list.put_slice(ip.as_bytes());
    // Made of field values and separators, so it is one; should it not be, the client's part goes.
    HeaderValue::from_maybe_shared(list.freeze()).unwrap_or_else(|_| ip.clone())
}

/// Leaves of an over-long list, which ends in `, `, the rightmost whole entries that fit.
fn cut_left(list: &mut BytesMut) {
    let mut tail = list.split_off(list.len() - (MAX_FORWARDED_FOR + 2));
    let entry_ends = |byte: &u8| *byte == b',';
    let cut = match (
        list.iter().rev().find(|byte| !byte.is_ascii_whitespace()),
        tail.iter().position(entry_ends),
    ) {
        // The cut fell between two entries.
        (Some(b','), _) => 0,
        (_, Some(comma)) => comma + 1,
        (_, None) => tail.len(),
    };
    *list = tail.split_off(cut);
    let blank = list
        .iter()
        .take_while(|byte| byte.is_ascii_whitespace())
        .count();
    *list = list.split_off(blank);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::defaults;

    const OFF: HeadersPlan = HeadersPlan {
        x_forwarded_for: ForwardedFor::Keep,
        x_forwarded_proto: Switch::Off,
        x_forwarded_port: Switch::Off,
        x_forwarded_host: Switch::Off,
        x_forwarded_client_srcport: Switch::Off,
        slb_id: Switch::Off,
        ..defaults::HEADERS
    };

    fn forwarded_for(mode: ForwardedFor, lines: &[&str], client: &str) -> Vec<String> {
        let plan = HeadersPlan {
            x_forwarded_for: mode,
            ..OFF
        };
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&X_FORWARDED_FOR, line.parse().unwrap());
        }
        apply(plan, &mut headers, client);
        headers
            .get_all(&X_FORWARDED_FOR)
            .iter()
            .map(|line| line.to_str().unwrap().to_owned())
            .collect()
    }

    fn apply(plan: HeadersPlan, headers: &mut HeaderMap, client: &str) {
        let policy =
            ForwardedHeaders::new(plan, Scheme::Https, 8443, HeaderValue::from_static("alb-1"));
        let client = ClientValues::new(ClientAddr::new(client.parse().unwrap()));
        policy.apply(
            headers,
            Some(&HeaderValue::from_static("Example.com:8443")),
            &client,
        );
    }

    #[test]
    fn x_forwarded_for_follows_the_documented_table() {
        let (one, two) = ("127.0.0.2", "127.0.0.2, 127.0.0.3");
        for (incoming, append, keep) in [
            (&[][..], "127.0.0.1", &[][..]),
            (&[one][..], "127.0.0.2, 127.0.0.1", &[one][..]),
            (&[two][..], "127.0.0.2, 127.0.0.3, 127.0.0.1", &[two][..]),
            (&["a", "b"][..], "a, b, 127.0.0.1", &["a", "b"][..]),
            (&[""][..], "127.0.0.1", &[""][..]),
            (&["", " a ", ""][..], "a, 127.0.0.1", &["", "a", ""][..]),
        ] {
            let client = "127.0.0.1:40000";
            assert_eq!(
                forwarded_for(ForwardedFor::Append, incoming, client),
                [append]
            );
            assert_eq!(
                forwarded_for(ForwardedFor::Remove, incoming, client),
                [""; 0]
            );
            let kept: Vec<_> = forwarded_for(ForwardedFor::Keep, incoming, client)
                .iter()
                .map(|line| line.trim().to_owned())
                .collect();
            assert_eq!(kept, keep);
        }
    }

    #[test]
    fn addresses_are_written_bare() {
        for (client, text) in [
            ("[2001:db8::7]:443", "2001:db8::7"),
            ("[::ffff:192.0.2.1]:443", "192.0.2.1"),
            ("[fe80::1%3]:443", "fe80::1"),
        ] {
            assert_eq!(forwarded_for(ForwardedFor::Append, &[], client), [text]);
        }
    }

    #[test]
    fn an_over_long_list_keeps_its_right_end_in_whole_entries() {
        let whole = vec!["192.0.2.1"; 744].join(", ");
        assert!(whole.len() <= MAX_FORWARDED_FOR);
        let kept = forwarded_for(ForwardedFor::Append, &[&whole], "127.0.0.1:1");
        assert_eq!(kept, [format!("{whole}, 127.0.0.1")]);

        for surplus in 0..24 {
            let long = format!(
                "{}, {}",
                "9".repeat(surplus),
                vec!["192.0.2.1"; 2000].join(", ")
            );
            let kept = forwarded_for(
                ForwardedFor::Append,
                &[&long, "198.51.100.1"],
                "127.0.0.1:1",
            )
            .remove(0);
            let entries: Vec<_> = kept.split(", ").collect();
            assert!(
                kept.len() <= MAX_FORWARDED_FOR + 11 && kept.len() > MAX_FORWARDED_FOR - 12,
                "{}",
                kept.len()
            );
            assert_eq!(entries[entries.len() - 2..], ["198.51.100.1", "127.0.0.1"]);
            assert!(
                entries[..entries.len() - 2]
                    .iter()
                    .all(|entry| *entry == "192.0.2.1"),
                "{kept}"
            );
        }
        let one = "x".repeat(10_000);
        assert_eq!(
            forwarded_for(ForwardedFor::Append, &[&one], "127.0.0.1:1"),
            ["127.0.0.1"]
        );
    }

    #[test]
    fn what_a_client_put_in_the_list_is_not_judged() {
        let mut headers = HeaderMap::new();
        headers.append(
            &X_FORWARDED_FOR,
            HeaderValue::from_bytes(b"unknown, \xff\xfe").unwrap(),
        );
        apply(
            HeadersPlan {
                x_forwarded_for: ForwardedFor::Append,
                ..OFF
            },
            &mut headers,
            "127.0.0.1:1",
        );
        assert_eq!(
            headers[&X_FORWARDED_FOR],
            &b"unknown, \xff\xfe, 127.0.0.1"[..]
        );
    }

    #[test]
    fn switched_on_fields_replace_the_clients_and_others_pass() {
        let fields = [
            (
                &X_FORWARDED_PROTO,
                "https",
                HeadersPlan {
                    x_forwarded_proto: Switch::On,
                    ..OFF
                },
            ),
            (
                &X_FORWARDED_PORT,
                "8443",
                HeadersPlan {
                    x_forwarded_port: Switch::On,
                    ..OFF
                },
            ),
            (
                &X_FORWARDED_HOST,
                "Example.com:8443",
                HeadersPlan {
                    x_forwarded_host: Switch::On,
                    ..OFF
                },
            ),
            (
                &X_FORWARDED_CLIENT_SRCPORT,
                "40000",
                HeadersPlan {
                    x_forwarded_client_srcport: Switch::On,
                    ..OFF
                },
            ),
            (
                &SLB_ID,
                "alb-1",
                HeadersPlan {
                    slb_id: Switch::On,
                    ..OFF
                },
            ),
        ];
        for (name, value, plan) in fields {
            for sent in [&[][..], &["forged"][..], &["forged", "twice"][..]] {
                let mut headers = HeaderMap::new();
                for line in sent {
                    headers.append(name, line.parse().unwrap());
                }
                let before = headers.clone();
                apply(OFF, &mut headers, "127.0.0.1:40000");
                assert_eq!(headers, before);
                apply(plan.clone(), &mut headers, "127.0.0.1:40000");
                assert_eq!(headers.get_all(name).iter().collect::<Vec<_>>(), [value]);
                assert_eq!(headers.len(), 1);
            }
        }
    }

    #[test]
    fn without_a_host_the_clients_x_forwarded_host_does_not_stand_in_for_it() {
        let plan = HeadersPlan {
            x_forwarded_host: Switch::On,
            ..OFF
        };
        let policy =
            ForwardedHeaders::new(plan, Scheme::Http, 80, HeaderValue::from_static("alb-1"));
        let mut headers = HeaderMap::new();
        headers.insert(&X_FORWARDED_HOST, HeaderValue::from_static("forged"));
        policy.apply(
            &mut headers,
            None,
            &ClientValues::new(ClientAddr::new("127.0.0.1:1".parse().unwrap())),
        );
        assert!(headers.is_empty());
    }

    #[test]
    fn the_protocol_and_suite_of_tls_are_said_where_switched_on() {
        let client = || ClientValues::new(ClientAddr::new("127.0.0.1:1".parse().unwrap()));
        let secured = client().with_tls("TLSv1.3", "TLS_AES_128_GCM_SHA256", None);
        let on = HeadersPlan {
            tls_protocol: Switch::On,
            tls_cipher: Switch::On,
            ..OFF
        };
        for (plan, client, expected) in [
            (
                on.clone(),
                &secured,
                &["TLSv1.3", "TLS_AES_128_GCM_SHA256"][..],
            ),
            (on, &client(), &[]),
            (OFF, &secured, &[]),
        ] {
            let id = HeaderValue::from_static("alb-1");
            let mut headers = HeaderMap::new();
            ForwardedHeaders::new(plan, Scheme::Https, 443, id).apply(&mut headers, None, client);
            let names = [&X_FORWARDED_TLS_PROTOCOL, &X_FORWARDED_TLS_CIPHER];
            let said: Vec<_> = names.iter().filter_map(|name| headers.get(*name)).collect();
            assert_eq!(said, expected);
        }
    }
}
