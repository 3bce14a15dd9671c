//! Certificates, and clients that trust them.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};

use super::http::{Connection, open_stream};

pub const H2: &[u8] = b"h2";
pub const HTTP_1_1: &[u8] = b"http/1.1";

/// An authority that issues certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut parameters = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for a name or an address.
    pub fn issue(&self, name: &str) -> Identity {
        self.issue_with(&CertificateParams::new([name.to_owned()]).unwrap())
    }

    pub fn issue_with(&self, parameters: &CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &*self.0).unwrap();
        Identity { certificate, key }
    }

    /// The authority's own certificate, as a server or client can misuse it.
    pub fn own_identity(&self) -> Identity {
        let certificate: &Certificate = self.0.as_ref();
        let key = KeyPair::from_pem(&self.0.key().serialize_pem()).unwrap();
        Identity { certificate: certificate.clone(), key }
    }

    /// Writes the certificate as `NAME.pem`.
    pub fn write(&self, directory: &Path, name: &str) {
        fs::write(directory.join(format!("{name}.pem")), self.0.pem()).unwrap();
    }
}

/// A certificate and its key.
pub struct Identity {
    certificate: Certificate,
    key: KeyPair,
}

impl Identity {
    /// One that nobody vouches for.
    pub fn self_signed(name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
        Identity { certificate, key }
    }

    pub fn certificate(&self) -> &CertificateDer<'static> {
        self.certificate.der()
    }

    /// Writes `NAME.pem` and, for its owner alone, `NAME.key`.
    pub fn write(&self, directory: &Path, name: &str) {
        fs::write(directory.join(format!("{name}.pem")), self.certificate.pem()).unwrap();
        let key = directory.join(format!("{name}.key"));
        fs::write(&key, self.key.serialize_pem()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// What a server shows that speaks these protocols.
    pub fn server_config(&self, protocols: &[&[u8]]) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let mut config =
            builder.with_single_cert(vec![self.certificate().clone()], self.private_key()).unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        config
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }
}

/// An encrypted connection.
pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// A client that trusts one authority.
#[derive(Clone)]
pub struct TlsClient {
    config: ClientConfig,
}

impl TlsClient {
    pub fn new(authority: &Authority) -> TlsClient {
        TlsClient::with_identity(authority, None)
    }

    /// One that shows a certificate if it is asked for it.
    pub fn with_identity(authority: &Authority, identity: Option<&Identity>) -> TlsClient {
        let mut roots = RootCertStore::empty();
        roots.add(authority.0.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let certificates = vec![identity.certificate().clone()];
                builder.with_client_auth_cert(certificates, identity.private_key()).unwrap()
            }
        };
        TlsClient { config }
    }

    /// What handshakes are made with that offer these protocols.
    pub fn offering(&self, protocols: &[&[u8]]) -> Arc<ClientConfig> {
        let mut config = self.config.clone();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }

    /// A connection whose handshake is made, so far as this side can tell.
    pub fn connect(&self, address: SocketAddr, protocols: &[&[u8]]) -> io::Result<TlsStream> {
        let name = ServerName::from(address.ip());
        let connection = ClientConnection::new(self.offering(protocols), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, open_stream(address)?);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }

    /// A connection that speaks HTTP/1.1.
    pub fn http1(&self, address: SocketAddr) -> io::Result<Connection<TlsStream>> {
        let stream = self.connect(address, &[HTTP_1_1])?;
        assert_eq!(stream.conn.alpn_protocol(), Some(HTTP_1_1));
        Ok(Connection::over(stream))
    }
}
