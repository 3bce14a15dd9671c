//! The server's certificate, and its change while connections go on.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use tokio_rustls::TlsAcceptor;

use crate::cli::ServerTlsOptions;
use crate::core::hint::hinted;
use crate::tls::{Identity, server_config};

/// What handshakes are made with. A change of the files takes effect for connections that come after it.
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    client_authorities: Option<PathBuf>,
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files that the options name; nothing where they name none.
    ///
    /// # Errors
    /// A file is missing or cannot be used.
    pub fn load(options: &ServerTlsOptions) -> anyhow::Result<Option<Tls>> {
        let ServerTlsOptions { tls_cert, tls_key, tls_client_ca } = options;
        let (certificate, key) = match (tls_cert, tls_key) {
            (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
            (None, None) if tls_client_ca.is_none() => return Ok(None),
            (None, _) => {
                return Err(hinted(
                    "no certificate to serve https with",
                    "give --tls-cert FILE and --tls-key FILE",
                ));
            }
            (Some(_), None) => {
                return Err(hinted("`--tls-cert` has no private key", "give --tls-key FILE"));
            }
        };
        let client_authorities = tls_client_ca.clone();
        let config = server_config(Identity::read(&certificate, &key)?, client_authorities.as_deref())?;
        let current = RwLock::new(Arc::new(config));
        Ok(Some(Tls { certificate, key, client_authorities, current }))
    }

    /// Reads the files again.
    ///
    /// # Errors
    /// A file is missing or cannot be used: what was read before stays in use.
    pub fn reload(&self) -> anyhow::Result<()> {
        let identity = Identity::read(&self.certificate, &self.key)?;
        let config = server_config(identity, self.client_authorities.as_deref())?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        Ok(())
    }

    /// Whether clients show a certificate too.
    pub fn asks_for_certificates(&self) -> bool {
        self.client_authorities.is_some()
    }

    /// Makes the next handshake.
    pub fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)).into()
    }
}
