//! TLS for both sides: rustls with ring, certificates and keys from PEM files.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
};

use crate::core::hint::{Hint, hinted};
use crate::core::secret::read_private;

/// What a server chooses from when a client offers several protocols (RFC 7301), the best first.
const SERVER_PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A certificate with those that vouch for it, and its private key.
pub struct Identity {
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads both from PEM files; the key's must be its owner's alone.
    ///
    /// # Errors
    /// A file cannot be read or does not hold what it should.
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

/// What a server needs: its identity, and the authorities whose certificates its clients must have, if any.
///
/// # Errors
/// Key and certificate do not belong together, or cannot be used.
pub fn server_config(identity: Identity, client_authorities: Option<&Path>) -> anyhow::Result<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .context("cannot set TLS up")?;
    let builder = match client_authorities {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(read_authorities(path)?);
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

/// Whom a client trusts.
#[derive(Debug, Clone, Copy)]
pub enum Trust<'a> {
    /// The public certificate authorities: the system's, or Mozilla's, built in, where it has none.
    Web,
    /// The same, and those in a PEM file.
    WebAnd(&'a Path),
    /// The authorities in a PEM file.
    Authorities(&'a Path),
    /// The same, whatever the name that they have certified.
    AuthoritiesForAnyName(&'a Path),
    /// Anyone.
    Anyone,
}

/// What a client needs: whom it trusts, and its own identity, if it has one.
///
/// # Errors
/// A certificate cannot be read or used.
pub fn client_config(trust: Trust<'_>, identity: Option<Identity>) -> anyhow::Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .context("cannot set TLS up")?;
    let builder = match trust {
        Trust::Web => builder.with_root_certificates(public_authorities()),
        Trust::WebAnd(path) => builder.with_root_certificates(public_authorities_and(path)?),
        Trust::Authorities(path) => builder.with_root_certificates(read_authorities(path)?),
        Trust::AuthoritiesForAnyName(path) => {
            let roots = Arc::new(read_authorities(path)?);
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
                .build()
                .with_context(|| format!("cannot use `{}`", path.display()))?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyName(verifier)))
        }
        Trust::Anyone => {
            let algorithms = provider().signature_verification_algorithms;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(algorithms)))
        }
    };
    with_identity(builder, identity)
}

fn with_identity(
    builder: ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>,
    identity: Option<Identity>,
) -> anyhow::Result<ClientConfig> {
    let Some(Identity { certificates, key }) = identity else { return Ok(builder.with_no_client_auth()) };
    builder
        .with_client_auth_cert(certificates, key)
        .context("cannot use the certificate with its key")
        .hint("give the key that belongs to the certificate")
}

/// What is wrong with the certificate of a server, where an error is about that, with what to do; `flag` is the
/// setting that names authorities.
pub fn certificate_problem(error: &(dyn Error + 'static), flag: &str) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(problem)) = error.downcast_ref() {
            return Some(plain(problem, flag));
        }
        // The source of an io::Error is that of the error inside of it.
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = inside.map(|inside| inside as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

fn plain(problem: &CertificateError, flag: &str) -> String {
    match problem {
        CertificateError::UnknownIssuer => {
            format!("the server's certificate is of an unknown authority: name it with {flag}")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the server's certificate is for another name than the endpoint's".to_owned()
        }
        // Self-signed certificates are often made so.
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "the server's certificate is one of an authority (CA:TRUE), not of a server".to_owned()
        }
        problem => format!("the server's certificate is not valid: {problem}"),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The certificates of a PEM file; not none.
///
/// # Errors
/// The file cannot be read, or holds none.
pub fn read_certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let shown = path.display();
    let certificates: Result<Vec<_>, pem::Error> =
        CertificateDer::pem_file_iter(path).and_then(|certificates| certificates.collect());
    let hint = "name a PEM file with certificates";
    let certificates = certificates
        .map_err(|error| anyhow::anyhow!("cannot use `{shown}`: {}", pem_problem(&error, "certificate")))
        .hint(hint)?;
    if certificates.is_empty() {
        return Err(hinted(format!("cannot use `{shown}`: it holds no certificate"), hint));
    }
    Ok(certificates)
}

/// The certificate authorities of the system's trust store, or of the files that `SSL_CERT_FILE` and `SSL_CERT_DIR` name;
/// Mozilla's, built in, where there are none, as in an image that holds nothing else.
fn public_authorities() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

fn read_authorities(path: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots
            .add(certificate)
            .with_context(|| format!("cannot use `{}`", path.display()))
            .hint("name a PEM file with the certificates of authorities")?;
    }
    Ok(roots)
}

/// The public certificate authorities, and those in a PEM file.
fn public_authorities_and(path: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = public_authorities();
    roots.extend(read_authorities(path)?.roots);
    Ok(roots)
}

fn pem_problem(error: &pem::Error, wanted: &str) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => format!("it holds no {wanted}"),
        _ => "it is not PEM".to_owned(),
    }
}

/// Takes certificates of known authorities, whatever their name.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // The name is looked at last.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Takes any certificate whose key has signed the handshake.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_of_a_file_are_trusted_besides_the_public_ones() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("authority.pem");
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&path, certificate.cert.pem()).unwrap();
        let roots = public_authorities_and(&path).unwrap();
        assert_eq!(roots.len(), public_authorities().len() + 1);
    }
}
