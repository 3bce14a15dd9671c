//! The server's TLS configuration, which SIGHUP reloads.

use std::sync::Arc;

use parking_lot::RwLock;
use rustls::ServerConfig;
use tokio_rustls::TlsAcceptor;

use crate::consume::settings::TlsSettings;
use crate::tls::{Identity, server_config};

/// A reload takes effect for new connections.
pub struct Tls {
    settings: TlsSettings,
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    pub fn load(settings: TlsSettings) -> anyhow::Result<Tls> {
        let current = RwLock::new(Arc::new(read_config(&settings)?));
        Ok(Tls { settings, current })
    }

    /// Reads the files again. After an error the previous ones stay in use.
    pub fn reload(&self) -> anyhow::Result<()> {
        let config = read_config(&self.settings)?;
        *self.current.write() = Arc::new(config);
        Ok(())
    }

    /// Whether clients need a certificate.
    pub fn requires_client_certificates(&self) -> bool {
        self.settings.client_ca.is_some()
    }

    /// For the next handshake.
    pub fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.current.read()).into()
    }
}

fn read_config(settings: &TlsSettings) -> anyhow::Result<ServerConfig> {
    let TlsSettings { certificate, key, client_ca } = settings;
    server_config(Identity::read(certificate, key)?, client_ca.as_deref())
}
