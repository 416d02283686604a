//! `lockgate quick`: the documented quick creation (S2): a listener's protocol, port, certificate and
//! policy, and a server group, without a file.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use super::run;
use crate::addr::BackendAddr;
use crate::config::plan::*;
use crate::daemon::Source;

#[derive(Debug, clap::Args)]
pub(super) struct QuickArguments {
    /// The listener's port
    #[arg(long, default_value_t = 8443)]
    port: u16,
    /// Certificate chain
    #[arg(long)]
    cert: Option<PathBuf>,
    /// Private key
    #[arg(long)]
    key: Option<PathBuf>,
    /// A server
    #[arg(long, required = true)]
    to: Vec<String>,
}

pub(super) fn quick(a: &QuickArguments) -> ExitCode {
    let on = |s: u64| std::time::Duration::from_secs(s);
    let source = match (&a.cert, &a.key) {
        (Some(cert), Some(key)) => CertificateSource::Files {
            cert: cert.clone(),
            cert_origin: Origin::default(),
            key: key.clone(),
            key_origin: Origin::default(),
        },
        _ => CertificateSource::SelfSigned(vec!["localhost".into(), "127.0.0.1".into()]),
    };
    let plan = Plan {
        server: ServerPlan {
            workers: Workers::Count(NonZeroUsize::new(1).unwrap()),
            instance_id: "lockgate".into(),
            drain_timeout: on(30),
            shutdown_delay: on(0),
            access_log: AccessLogPlan {
                target: LogTarget::Off,
                format: LogFormat::Json,
            },
            log: LogPlan {
                level: "info".into(),
                format: LogFormat::Text,
            },
        },
        certificates: vec![CertificatePlan {
            name: "c".into(),
            source,
            origin: Origin::default(),
        }],
        listeners: vec![ListenerPlan {
            name: "l".into(),
            protocol: ListenerProtocol::Https(HttpsPlan {
                certificates: vec![CertificateId(0)],
                tls_policy: TlsPolicyPlan::Strict12With13,
                http2: Http2::Offered,
            }),
            address: ListenAddress::Any,
            port: a.port,
            tags: BTreeMap::new(),
            group: GroupId(0),
            timeouts: Timeouts {
                idle: on(600),
                http2_idle: on(180),
                request: on(60),
                handshake: on(10),
                header: on(10),
            },
            compression: CompressionPlan::Off,
            headers: HeadersPlan {
                x_forwarded_for: ForwardedFor::Append,
                x_forwarded_proto: Switch::On,
                x_forwarded_port: Switch::Off,
                x_forwarded_host: Switch::Off,
                x_forwarded_client_srcport: Switch::Off,
                slb_id: Switch::Off,
            },
            origin: Origin::default(),
            address_origin: Origin::default(),
        }],
        groups: vec![GroupPlan {
            name: "g".into(),
            servers: a
                .to
                .iter()
                .map(|t| ServerEntry {
                    address: BackendAddr::Ip(t.parse().unwrap()),
                    weight: 100,
                    origin: Origin::default(),
                })
                .collect(),
            keepalive: Keepalive::Idle(on(60)),
            connect_timeout: on(5),
            retries: 2,
            origin: Origin::default(),
        }],
    };
    run::serve(Source::Fixed(Box::new(plan)), |_| {})
}
