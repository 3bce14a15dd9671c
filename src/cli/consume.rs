//! The options of `consume`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::access::AccessOptions;
use super::alerts::AlertOptions;
use super::log::LogOptions;
use super::values::{Items, flatten, parse_count, parse_port};
use crate::consume::{
    ForwardList, ForwardsSettings, HookList, Limits, ListenSettings, Retention, Settings, StoreSettings,
    Timeouts, TlsSettings,
};
use crate::core::byte_size::ByteSize;
use crate::core::duration::{parse_duration, parse_positive_duration, parse_positive_duration_with_unit};
use crate::core::network::{ListenAddress, TrustedProxy};
use crate::error::hinted;
use crate::store::{LocationError, StoreLocation};

#[derive(Debug, Args)]
pub struct ConsumeOptions {
    /// Port to listen on; 0 picks a free one
    #[arg(long, env = "APP_PORT", default_value_t = 8000, value_parser = parse_port)]
    port: u16,

    /// Address to listen on; localhost is both 127.0.0.1 and ::1
    #[arg(long, env = "APP_HOST", default_value = "127.0.0.1")]
    host: String,

    /// Listen here instead of at --host and --port, repeatable: HOST:PORT, or
    /// unix:PATH for a socket that its owner and group may connect to
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    listen: Vec<Items<ListenAddress>>,

    /// Trust this proxy's Forwarded or X-Forwarded-For headers for client addresses,
    /// repeatable: an address, a network such as 10.0.0.0/8, or unix for
    /// connections to a Unix socket. --max-connections-per-address does not limit
    /// its connections
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    trusted_proxy: Vec<Items<TrustedProxy>>,

    /// Store: a path or sqlite:///FILE, created if missing; or
    /// postgres://USER@HOST/DATABASE or mysql://USER@HOST/DATABASE, prepared by
    /// init-db
    #[arg(long, env = "DATABASE_URL", default_value = "events.db", value_name = "URL")]
    db: StoreLocation,

    /// Serve listings and streams from this replica of the store, which may be behind
    #[arg(long, value_name = "URL", value_parser = parse_replica)]
    read_db: Option<StoreLocation>,

    /// Use a database server that may lose acknowledged events
    #[arg(long)]
    allow_weak_durability: bool,

    /// Use a distributed database, whose readers may skip events that become visible
    /// after later ones
    #[arg(long)]
    allow_unordered_ids: bool,

    /// Refuse a database server that acknowledges events before this many replicas
    /// have them
    #[arg(long, default_value_t = 0, value_name = "N", hide_default_value = true)]
    require_replicas: u32,

    /// Largest request body
    #[arg(long, default_value = "1MiB", value_name = "SIZE")]
    body_limit: ByteSize,

    /// Largest request headers; at least 8KiB
    #[arg(long, default_value = "32KiB", value_name = "SIZE", value_parser = parse_header_limit)]
    header_limit: ByteSize,

    /// Maximum number of connections; more are answered 503
    #[arg(long, default_value_t = 8192, value_name = "N", value_parser = parse_count)]
    max_connections: usize,

    /// Maximum number of connections from one address (from one /64 network for
    /// IPv6); more are answered 503
    #[arg(long, default_value_t = 4096, value_name = "N", value_parser = parse_count)]
    max_connections_per_address: usize,

    /// Maximum number of events that wait for their commit; more are answered 503
    #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = parse_count)]
    queue_events: usize,

    /// Memory for requests that are being read or wait for their commit
    #[arg(long, default_value = "64MiB", value_name = "SIZE")]
    queue_bytes: ByteSize,

    /// Time for a TLS handshake and for request headers to arrive
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = parse_positive_duration)]
    header_timeout: Duration,

    /// Time for a request body to arrive
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = parse_positive_duration)]
    body_timeout: Duration,

    /// Time for a client to read a response
    #[arg(long, default_value = "2m", value_name = "DURATION", value_parser = parse_positive_duration)]
    response_timeout: Duration,

    /// Time until a connection without a request, or without progress in reading a
    /// response, is closed
    #[arg(long, default_value = "75s", value_name = "DURATION", value_parser = parse_positive_duration)]
    idle_timeout: Duration,

    /// Time for the store to answer a request, and for a database server to be
    /// reachable at start
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = parse_positive_duration)]
    store_timeout: Duration,

    /// Time to serve on after SIGTERM or SIGINT while /ready is 503, so that proxies
    /// find another server first
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = parse_duration)]
    lame_duck: Duration,

    /// Time to finish after SIGTERM or SIGINT, and after --lame-duck
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = parse_duration)]
    drain_timeout: Duration,

    /// Delete events older than this: 30d, 12h
    #[arg(long, value_name = "DURATION", value_parser = parse_positive_duration_with_unit)]
    keep: Option<Duration>,

    /// Keep at most this many events, and delete the oldest. With any --keep limit
    /// SQLite leaves room to delete, up to a quarter of its disk, at most 32 MiB:
    /// events are refused (507) before
    #[arg(long, value_name = "N", value_parser = parse_count)]
    keep_events: Option<usize>,

    /// Keep at most this much of types and payloads, and delete the oldest events:
    /// 10GiB
    #[arg(long, value_name = "SIZE")]
    keep_bytes: Option<ByteSize>,

    /// Keep idempotency keys at least this long, even if their events are deleted
    /// earlier: 7d
    #[arg(long, value_name = "DURATION", value_parser = parse_positive_duration_with_unit)]
    keep_keys: Option<Duration>,

    /// Serve metrics at this address, without a token, instead of at /metrics of
    /// the port: 127.0.0.1:9100
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<String>,

    /// Take the webhooks of another service at /hook/NAME, repeatable:
    /// NAME=SCHEME:FILE with the secret that they are verified with. Schemes: standard,
    /// github, stripe, slack, shopify, meta, hmac, bearer, basic; NAME=none verifies
    /// nothing. In the config file also an object; SIGHUP reads the secrets again
    #[arg(long, value_name = "HOOK")]
    hook: Vec<HookList>,

    /// Push all events to another service, such as the /event of another consume,
    /// repeatable. In the config file also an object, for some types, another order
    /// and rate, a signature, a token. --alert-allow-private and --alert-cacert hold for
    /// these URLs as well
    #[arg(long, value_name = "URL")]
    forward: Vec<ForwardList>,

    #[command(flatten)]
    access: AccessOptions,

    #[command(flatten)]
    tls: ServerTlsOptions,

    #[command(flatten)]
    alerts: AlertOptions,

    #[command(flatten)]
    pub(super) log: LogOptions,

    /// Log only warnings and errors
    #[arg(short, long)]
    pub(super) quiet: bool,
}

impl ConsumeOptions {
    /// # Errors
    /// A secret cannot be used, or settings contradict each other.
    pub(super) fn into_settings(self) -> anyhow::Result<Settings> {
        let allow_anonymous = self.access.insecure_allow_anonymous;
        let alerts = self.alerts.into_settings()?;
        let forwards = ForwardsSettings {
            list: ForwardList(self.forward.into_iter().flat_map(|list| list.0).collect()),
            reach: alerts.reach,
            ca_file: alerts.ca_file.clone(),
        };
        let tls = self.tls.into_settings()?;
        let (access, cross_origin) = self.access.into_settings()?;
        Ok(Settings {
            listen: ListenSettings {
                addresses: flatten(self.listen),
                host: self.host,
                port: self.port,
                trusted_proxies: flatten(self.trusted_proxy),
                allow_anonymous,
            },
            tls,
            access,
            cross_origin,
            limits: Limits {
                body_bytes: self.body_limit.0,
                header_bytes: self.header_limit.0,
                queue_bytes: self.queue_bytes.0,
                max_connections: self.max_connections,
                max_connections_per_address: self.max_connections_per_address,
            },
            timeouts: Timeouts {
                header: self.header_timeout,
                body: self.body_timeout,
                response: self.response_timeout,
                idle: self.idle_timeout,
                store: self.store_timeout,
                drain: self.drain_timeout,
                lame_duck: self.lame_duck,
            },
            store: StoreSettings {
                location: self.db,
                replica: self.read_db,
                allow_weak_durability: self.allow_weak_durability,
                allow_unordered_ids: self.allow_unordered_ids,
                replicas: self.require_replicas,
                queue_events: self.queue_events,
            },
            retention: Retention {
                keep: self.keep,
                events: self.keep_events,
                bytes: self.keep_bytes,
                keys: self.keep_keys,
            },
            hooks: HookList(self.hook.into_iter().flat_map(|list| list.0).collect()),
            forwards,
            alerts,
            metrics: self.metrics,
        })
    }
}

#[derive(Debug, Args)]
pub struct ServerTlsOptions {
    /// Serve https with this certificate chain, as PEM; SIGHUP reloads it
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// Private key of the certificate, as PEM
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// Require client certificates that are signed by a CA in this PEM file
    #[arg(long, value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,
}

impl ServerTlsOptions {
    fn into_settings(self) -> anyhow::Result<Option<TlsSettings>> {
        match (self.tls_cert, self.tls_key, self.tls_client_ca) {
            (Some(certificate), Some(key), client_ca) => {
                Ok(Some(TlsSettings { certificate, key, client_ca }))
            }
            (None, None, None) => Ok(None),
            (None, _, _) => {
                let hint = "give --tls-cert FILE and --tls-key FILE";
                Err(hinted("no certificate to serve https with", hint))
            }
            (Some(_), None, _) => Err(hinted("`--tls-cert` has no private key", "give --tls-key FILE")),
        }
    }
}

fn parse_replica(text: &str) -> Result<StoreLocation, String> {
    match text.parse().map_err(|error: LocationError| error.to_string())? {
        StoreLocation::Sqlite(_) => Err(
            "expected postgres://USER@HOST/DATABASE or mysql://USER@HOST/DATABASE: a file has no replicas"
                .to_owned(),
        ),
        server => Ok(server),
    }
}

/// hyper requires room for 8 KiB.
fn parse_header_limit(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse()?;
    if size < ByteSize(8192) { Err("expected 8KiB or more".to_owned()) } else { Ok(size) }
}
