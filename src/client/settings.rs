use std::path::PathBuf;
use std::time::Duration;

use tracing::warn;

use super::pool::HttpClient;
use crate::tls::{Identity, Trust, client_config};

/// How a client and a server prove to each other who they are.
#[derive(Debug)]
pub struct TlsSettings {
    /// A PEM file of CA certificates that replace those of the system.
    pub ca_certificates: Option<PathBuf>,
    /// PEM files of the client's certificate and private key.
    pub identity: Option<(PathBuf, PathBuf)>,
    pub skip_verification: bool,
}

impl HttpClient {
    /// A client that keeps at most `idle_connections` open, and gives a response up after `timeout`.
    ///
    /// # Errors
    /// A certificate or key cannot be used.
    pub fn from_settings(
        settings: &TlsSettings,
        idle_connections: usize,
        timeout: Duration,
    ) -> anyhow::Result<HttpClient> {
        let trust = match &settings.ca_certificates {
            _ if settings.skip_verification => {
                warn!(
                    "--insecure-skip-verify: anyone between this machine and the receiver can read and change what is sent"
                );
                Trust::AnyCertificate
            }
            Some(path) => Trust::CaFile(path),
            None => Trust::PublicCas,
        };
        let identity = match &settings.identity {
            Some((certificate, key)) => Some(Identity::read(certificate, key)?),
            None => None,
        };
        Ok(HttpClient::new(client_config(trust, identity)?, idle_connections, timeout))
    }
}
