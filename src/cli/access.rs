//! How `consume` authenticates requests, and which hosts and origins it serves.

use std::path::PathBuf;

use clap::Args;

use super::secrets::{PasswordOptions, TokenOptions};
use super::values::{Items, flatten, parse_username};
use crate::consume::{AccessSettings, CrossOriginSettings};
use crate::core::origin::{HostName, Origin};
use crate::secret::Secret;

#[derive(Debug, Args)]
pub struct AccessOptions {
    /// Require tokens, and issue them at /token for this name and its password
    #[arg(long, value_name = "NAME", value_parser = parse_username)]
    username: Option<String>,

    #[command(flatten)]
    password: PasswordOptions,

    /// File with the key that signs tokens, of 32 bytes or more; or
    /// EVENTCTL_SIGNING_KEY holds it [default: a key kept in the store]
    #[arg(long, value_name = "FILE")]
    signing_key_file: Option<PathBuf>,

    #[arg(long, hide = true)]
    signing_key: Option<Secret>,

    /// File with the previous signing key, whose tokens stay valid; or
    /// EVENTCTL_PREVIOUS_SIGNING_KEY holds it
    #[arg(long, value_name = "FILE")]
    previous_signing_key_file: Option<PathBuf>,

    #[arg(long, hide = true)]
    previous_signing_key: Option<Secret>,

    #[command(flatten)]
    token: TokenOptions,

    /// YAML file of clients, each with a token or a password, with scopes (write,
    /// read, work, admin) and types of events; read again on SIGHUP
    #[arg(long, value_name = "FILE")]
    clients: Option<PathBuf>,

    /// Allow listening on non-loopback addresses without authentication
    #[arg(long)]
    pub(super) insecure_allow_anonymous: bool,

    /// Serve requests for this host, repeatable: the name of a proxy before a
    /// service without tokens. Requests for a host other than these, --host and
    /// loopback names are then answered 421
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    allowed_host: Vec<Items<HostName>>,

    /// Let pages of this origin read and write, repeatable (CORS):
    /// `https://dashboard.example.com`
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    allow_origin: Vec<Items<Origin>>,
}

impl AccessOptions {
    /// # Errors
    /// A secret is missing or cannot be used.
    pub(super) fn into_settings(self) -> anyhow::Result<(AccessSettings, CrossOriginSettings)> {
        let key = Secret::choose(
            self.signing_key_file.as_deref(),
            self.signing_key.as_ref(),
            "--signing-key-file",
        )?;
        let previous_key = Secret::choose(
            self.previous_signing_key_file.as_deref(),
            self.previous_signing_key.as_ref(),
            "--previous-signing-key-file",
        )?;
        let access = AccessSettings {
            credentials: self.password.credentials(self.username)?,
            token: self.token.read()?,
            clients: self.clients,
            signing_key: key,
            previous_signing_key: previous_key,
        };
        let cross_origin = CrossOriginSettings {
            allowed_hosts: flatten(self.allowed_host),
            allowed_origins: flatten(self.allow_origin),
        };
        Ok((access, cross_origin))
    }
}
