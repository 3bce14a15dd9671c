//! TLS for clients and servers: rustls with ring; certificates and keys from PEM files.

mod certificates;
mod problem;
mod verifier;

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rustls::client::{WantsClientCert, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig};

use self::certificates::{pem_problem, public_roots_and, read_certificates, roots_of};
pub use self::certificates::{read_ca_certificates, system_ca_certificates};
pub use self::problem::certificate_problem;
use self::verifier::LenientVerifier;
use crate::error::Hint;
use crate::secret::read_private;

/// The protocols that a server offers (RFC 7301), the preferred first.
const SERVER_PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A certificate chain and its private key.
pub struct Identity {
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads both from PEM files. The key's file must be accessible to its owner only.
    pub fn read(certificates: &Path, key: &Path) -> anyhow::Result<Identity> {
        let shown = key.display();
        let certificates = read_certificates(certificates)?;
        let content = read_private(key)?;
        let key = PrivateKeyDer::from_pem_slice(&content)
            .map_err(|error| anyhow::anyhow!("cannot use `{shown}`: {}", pem_problem(&error, "private key")))
            .hint("name a PEM file with an unencrypted private key (PKCS #8, PKCS #1 or SEC1)")?;
        Ok(Identity { certificates, key })
    }
}

/// With `client_cas`, clients must present a certificate of one of these CAs.
pub fn server_config(identity: Identity, client_cas: Option<&Path>) -> anyhow::Result<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .context("cannot set TLS up")?;
    let builder = match client_cas {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(read_roots(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                .build()
                .with_context(|| format!("cannot use `{}`", path.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(identity.certificates, identity.key)
        .context("cannot use the certificate with its key")
        .hint("give the certificate of the server first, and the key that belongs to it")?;
    config.alpn_protocols = SERVER_PROTOCOLS.map(<[u8]>::to_vec).into();
    Ok(config)
}

/// Which server certificates a client trusts.
#[derive(Debug, Clone, Copy)]
pub enum Trust<'a> {
    /// Those of the public CAs: the system's, or Mozilla's, which are built in, where the system has none.
    PublicCas,
    PublicCasAnd(&'a [CertificateDer<'static>]),
    /// Those of the CAs in a PEM file.
    CaFile(&'a Path),
    /// The same, for any host name.
    CaFileForAnyName(&'a Path),
    AnyCertificate,
}

pub fn client_config(trust: Trust<'_>, identity: Option<Identity>) -> anyhow::Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .context("cannot set TLS up")?;
    let builder = match trust {
        Trust::PublicCas => builder.with_root_certificates(public_roots_and(&[])?),
        Trust::PublicCasAnd(certificates) => builder.with_root_certificates(public_roots_and(certificates)?),
        Trust::CaFile(path) => builder.with_root_certificates(read_roots(path)?),
        Trust::CaFileForAnyName(path) => {
            let roots = Arc::new(read_roots(path)?);
            let cas = WebPkiServerVerifier::builder_with_provider(roots, provider()).build();
            let cas = cas.with_context(|| format!("cannot use `{}`", path.display()))?;
            builder.dangerous().with_custom_certificate_verifier(lenient(Some(cas)))
        }
        Trust::AnyCertificate => builder.dangerous().with_custom_certificate_verifier(lenient(None)),
    };
    with_identity(builder, identity)
}

fn with_identity(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    identity: Option<Identity>,
) -> anyhow::Result<ClientConfig> {
    let Some(Identity { certificates, key }) = identity else { return Ok(builder.with_no_client_auth()) };
    builder
        .with_client_auth_cert(certificates, key)
        .context("cannot use the certificate with its key")
        .hint("give the key that belongs to the certificate")
}

fn lenient(cas: Option<Arc<WebPkiServerVerifier>>) -> Arc<LenientVerifier> {
    Arc::new(LenientVerifier { cas, algorithms: provider().signature_verification_algorithms })
}

fn read_roots(path: &Path) -> anyhow::Result<RootCertStore> {
    Ok(roots_of(&read_ca_certificates(path)?)?)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
