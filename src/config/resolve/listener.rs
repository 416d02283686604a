//! `[[listener]]`: what every listener has, and the addresses that they must not share.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::rule::Site;
use super::{Resolver, Scope, switch};
use crate::config::defaults::{self, Rule};
use crate::config::document::{Field, HeadersDocument, ListenerDocument, Quantity, Written};
use crate::config::plan::{
    ForwardedFor, HeadersPlan, ListenAddress, ListenerPlan, ListenerProtocol, Origin, Switch,
    Timeouts,
};
use crate::config::value::{self, ValueError};

/// What a listener binds.
struct Socket {
    listener: String,
    address: ListenAddress,
    port: u16,
    origin: Origin,
}

/// The protocol that a listener says it has.
#[derive(Clone, Copy)]
enum Kind {
    Http,
    Https,
}

impl Resolver<'_> {
    /// Every listener; `None` in the place of one that has mistakes.
    pub(super) fn listeners(
        &mut self,
        written: &[ListenerDocument],
        scope: &mut Scope,
    ) -> Vec<Option<ListenerPlan>> {
        if written.is_empty() {
            self.missing(
                &Origin::default(),
                "there is no listener",
                "add a `[[listener]]` with a protocol and a port",
            );
        }
        let mut sockets = Vec::new();
        written
            .iter()
            .map(|listener| self.listener(listener, scope, &mut sockets))
            .collect()
    }

    fn listener(
        &mut self,
        written: &ListenerDocument,
        scope: &mut Scope,
        sockets: &mut Vec<Socket>,
    ) -> Option<ListenerPlan> {
        let protocol = self.protocol(written, scope);
        let socket = self.socket(written);
        let tags = self.tags(&written.tags);
        let timeouts = self.timeouts(written);
        let loop_detection = switch(&written.loop_detection, defaults::LOOP_DETECTION);
        let proxy_protocol = self.proxy_protocol(written.proxy_protocol.as_ref());
        let access = self.access(written.access.as_ref());
        let client_ip = self.client_ip(written.client_ip.as_ref());
        let compression = self.compression(written.compression.as_ref());
        let headers = self.headers(written.headers.as_ref());
        let limits = self.limits(written.limits.as_ref());
        if let (Some(written), Some(protocol)) = (&written.headers, &protocol) {
            self.warn_of_client_cert_headers(written, protocol);
        }
        let site = Site {
            protocol: protocol.as_ref(),
            port: socket.as_ref().map(|socket| socket.port),
            client_ip: &client_ip,
        };
        let rules = self.rules(written, &site, scope);
        let socket = socket?;
        // QUIC's ports are UDP's (alb.md 1.1).
        if written
            .protocol
            .given()
            .is_none_or(|protocol| protocol.value != "quic")
        {
            self.check_overlap(&socket, sockets);
        }
        let plan = ListenerPlan {
            name: socket.listener.clone(),
            protocol: protocol?,
            address: socket.address,
            port: socket.port,
            tags,
            rules: rules?,
            timeouts,
            proxy_protocol,
            access,
            client_ip,
            loop_detection,
            compression,
            headers,
            limits,
            origin: written.origin.clone(),
            address_origin: socket.origin.clone(),
        };
        Some(plan)
    }

    fn protocol(
        &mut self,
        written: &ListenerDocument,
        scope: &mut Scope,
    ) -> Option<ListenerProtocol> {
        if written.protocol.is_absent() {
            let help = "add `protocol = \"https\"` or `protocol = \"http\"`";
            self.missing(&written.origin, "this listener has no `protocol`", help);
        }
        let words = [
            ("https", Some(Kind::Https)),
            ("http", Some(Kind::Http)),
            ("quic", None),
        ];
        match self.choice("protocol", written.protocol.given()?, &words)? {
            Kind::Https => self.https(written, scope).map(ListenerProtocol::Https),
            Kind::Http => {
                self.refuse_https_keys(written);
                Some(ListenerProtocol::Http)
            }
        }
    }

    fn socket(&mut self, written: &ListenerDocument) -> Option<Socket> {
        if written.port.is_absent() {
            self.missing(
                &written.origin,
                "this listener has no `port`",
                "add `port = 443`, or another from 1 to 65535",
            );
        }
        let address = match &written.address {
            Field::Absent => Some(defaults::ADDRESS),
            Field::Given(_) | Field::Wrong => self.string("address", &written.address, |text| {
                value::listen_address(&text)
            }),
        };
        let port = self.port(&written.port);
        let listener = written
            .name
            .given()
            .and_then(|name| self.expand(name))
            .unwrap_or_default();
        Some(Socket {
            listener,
            address: address?,
            port: port?,
            origin: written.port.given()?.origin.clone(),
        })
    }

    /// A port has no default, so that a refused one cannot clash with another.
    fn port(&mut self, field: &Field<i64>) -> Option<u16> {
        let written = field.given()?;
        match value::number(written.value, defaults::PORT) {
            Ok(port) => Some(port),
            Err(error) => {
                self.refuse("port", &written.origin, &error);
                None
            }
        }
    }

    /// A TCP port belongs to one listener, HTTP or HTTPS (alb.md 1.1), where their addresses overlap.
    fn check_overlap(&mut self, socket: &Socket, sockets: &mut Vec<Socket>) {
        let taken = sockets
            .iter()
            .find(|other| other.port == socket.port && overlap(other.address, socket.address));
        if let Some(other) = taken {
            self.report
                .error(
                    &socket.origin,
                    format!(
                        "port `{}` is taken by the listener `{}`",
                        socket.port, other.listener
                    ),
                )
                .label(format!("on {}", show(socket.address)))
                .also(&other.origin, format!("on {}", show(other.address)))
                .help("give them different ports, or addresses that do not overlap");
        }
        let Socket {
            listener,
            address,
            port,
            origin,
        } = socket;
        sockets.push(Socket {
            listener: listener.clone(),
            address: *address,
            port: *port,
            origin: origin.clone(),
        });
    }

    fn tags(&mut self, written: &BTreeMap<String, Written<String>>) -> BTreeMap<String, String> {
        let mut tags = BTreeMap::new();
        for (key, tag) in written {
            if let Err(error) = value::tag(key.clone(), 1) {
                self.report
                    .error(
                        &tag.origin,
                        format!("the key of a tag is not taken: {error}"),
                    )
                    .label(error.expected());
            }
            if let Some(text) = self.string_at(key, tag, |text| value::tag(text, 0)) {
                tags.insert(key.clone(), text);
            }
        }
        tags
    }

    fn timeouts(&mut self, written: &ListenerDocument) -> Timeouts {
        let extended = switch(&written.extended_timeouts, Switch::Off);
        Timeouts {
            idle: self.extendable(
                "idle_timeout",
                &written.idle_timeout,
                defaults::IDLE_TIMEOUT,
                extended,
            ),
            http2_idle: self.duration(
                "http2_idle_timeout",
                &written.http2_idle_timeout,
                defaults::HTTP2_IDLE_TIMEOUT,
            ),
            request: self.extendable(
                "request_timeout",
                &written.request_timeout,
                defaults::REQUEST_TIMEOUT,
                extended,
            ),
            handshake: self.duration(
                "handshake_timeout",
                &written.handshake_timeout,
                defaults::HANDSHAKE_TIMEOUT,
            ),
            header: self.duration(
                "header_timeout",
                &written.header_timeout,
                defaults::HEADER_TIMEOUT,
            ),
        }
    }

    /// A timeout whose upper bound `extended_timeouts` raises (alb.md decision 10).
    fn extendable(
        &mut self,
        key: &str,
        field: &Field<Quantity>,
        rule: Rule<Duration>,
        extended: Switch,
    ) -> Duration {
        match extended {
            Switch::On => self.duration(
                key,
                field,
                Rule {
                    most: defaults::EXTENDED_TIMEOUT,
                    ..rule
                },
            ),
            Switch::Off => self.duration_or(key, field, rule, |error| {
                let default = value::show_duration(rule.default);
                if matches!(error, ValueError::OutOfRange { .. }) {
                    let most = value::show_duration(defaults::EXTENDED_TIMEOUT);
                    format!(
                        "the default is {default}; `extended_timeouts = true` allows up to {most}"
                    )
                } else {
                    format!("the default is {default}")
                }
            }),
        }
    }

    fn headers(&mut self, written: Option<&HeadersDocument>) -> HeadersPlan {
        let Some(written) = written else {
            return defaults::HEADERS;
        };
        let words = [
            ("append", Some(ForwardedFor::Append)),
            ("remove", Some(ForwardedFor::Remove)),
            ("keep", Some(ForwardedFor::Keep)),
        ];
        let defaults = defaults::HEADERS;
        HeadersPlan {
            x_forwarded_for: written
                .x_forwarded_for
                .given()
                .and_then(|mode| self.choice("x_forwarded_for", mode, &words))
                .unwrap_or(defaults.x_forwarded_for),
            x_forwarded_proto: switch(&written.x_forwarded_proto, defaults.x_forwarded_proto),
            x_forwarded_port: switch(&written.x_forwarded_port, defaults.x_forwarded_port),
            x_forwarded_host: switch(&written.x_forwarded_host, defaults.x_forwarded_host),
            x_forwarded_client_srcport: switch(
                &written.x_forwarded_client_srcport,
                defaults.x_forwarded_client_srcport,
            ),
            slb_id: switch(&written.slb_id, defaults.slb_id),
            request_id: switch(&written.request_id, defaults.request_id),
            tls_protocol: switch(&written.tls_protocol, defaults.tls_protocol),
            tls_cipher: switch(&written.tls_cipher, defaults.tls_cipher),
            client_cert: self.client_cert_headers(written),
        }
    }
}

/// Whether two listeners could not both be bound to the same port of these addresses.
fn overlap(one: ListenAddress, other: ListenAddress) -> bool {
    match (one, other) {
        (ListenAddress::Any, _) | (_, ListenAddress::Any) => true,
        (ListenAddress::Ip(one), ListenAddress::Ip(other)) => {
            let (one, other) = (one.to_canonical(), other.to_canonical());
            one == other || covers(one, other) || covers(other, one)
        }
    }
}

/// Whether an address is a wildcard that takes the other, too; `::` takes IPv4 as well.
fn covers(wildcard: IpAddr, address: IpAddr) -> bool {
    wildcard.is_unspecified() && (wildcard.is_ipv6() || address.is_ipv4())
}

fn show(address: ListenAddress) -> String {
    match address {
        ListenAddress::Any => "every address".to_owned(),
        ListenAddress::Ip(address) => format!("`{address}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_overlap_with_what_they_take() {
        let address = |text: &str| match text {
            "any" => ListenAddress::Any,
            text => ListenAddress::Ip(text.parse().unwrap()),
        };
        for (one, other, expected) in [
            ("any", "127.0.0.1", true),
            ("any", "::1", true),
            ("any", "any", true),
            ("::", "127.0.0.1", true),
            ("::", "::1", true),
            ("::", "0.0.0.0", true),
            ("0.0.0.0", "127.0.0.1", true),
            ("0.0.0.0", "::1", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "::ffff:127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("127.0.0.1", "::1", false),
        ] {
            assert_eq!(
                overlap(address(one), address(other)),
                expected,
                "{one} {other}"
            );
            assert_eq!(
                overlap(address(other), address(one)),
                expected,
                "{other} {one}"
            );
        }
    }
}
