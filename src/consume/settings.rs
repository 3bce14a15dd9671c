//! The settings of `consume`, by the module that needs them.

use std::path::PathBuf;
use std::time::Duration;

use super::forward::ForwardsSettings;
use super::hooks::HookList;
use super::retention::Retention;
use crate::alert::AlertSettings;
use crate::auth::grant::Credentials;
use crate::core::network::{ListenAddress, TrustedProxy};
use crate::core::origin::{HostName, Origin};
use crate::secret::Secret;
use crate::store::StoreLocation;

#[derive(Debug)]
pub struct Settings {
    pub listen: ListenSettings,
    pub tls: Option<TlsSettings>,
    pub access: AccessSettings,
    pub cross_origin: CrossOriginSettings,
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub store: StoreSettings,
    pub retention: Retention,
    pub hooks: HookList,
    pub forwards: ForwardsSettings,
    pub alerts: AlertSettings,
    /// The address to serve metrics at, instead of `/metrics` of the port.
    pub metrics: Option<String>,
}

#[derive(Debug)]
pub struct ListenSettings {
    /// Replace `host` and `port`, unless empty.
    pub addresses: Vec<ListenAddress>,
    pub host: String,
    pub port: u16,
    pub trusted_proxies: Vec<TrustedProxy>,
    /// Listen on non-loopback addresses without authentication.
    pub allow_anonymous: bool,
}

/// PEM files.
#[derive(Debug)]
pub struct TlsSettings {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// The CA certificates that client certificates are verified with.
    pub client_ca: Option<PathBuf>,
}

#[derive(Debug)]
pub struct AccessSettings {
    pub credentials: Option<Credentials>,
    pub token: Option<Secret>,
    /// The file of further clients.
    pub clients: Option<PathBuf>,
    /// `None` is a key kept in the store.
    pub signing_key: Option<Secret>,
    pub previous_signing_key: Option<Secret>,
}

#[derive(Debug)]
pub struct CrossOriginSettings {
    pub allowed_hosts: Vec<HostName>,
    pub allowed_origins: Vec<Origin>,
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub body_bytes: usize,
    pub header_bytes: usize,
    pub queue_bytes: usize,
    pub max_connections: usize,
    pub max_connections_per_address: usize,
}

#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    pub header: Duration,
    pub body: Duration,
    pub response: Duration,
    pub idle: Duration,
    pub store: Duration,
    pub drain: Duration,
    /// For which everything is still served once the process is asked to stop.
    pub lame_duck: Duration,
}

#[derive(Debug)]
pub struct StoreSettings {
    pub location: StoreLocation,
    /// The replica that serves listings and streams.
    pub replica: Option<StoreLocation>,
    pub allow_weak_durability: bool,
    pub allow_unordered_ids: bool,
    pub replicas: u32,
    pub queue_events: usize,
}
