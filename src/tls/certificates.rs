//! Certificates from PEM files and from the system's trust store.

use std::path::Path;

use anyhow::Context;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};

use crate::error::{Hint, hinted};

/// Reads the certificates of a PEM file; at least one.
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

/// Reads CA certificates that [`roots_of`] accepts.
pub fn read_ca_certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates = read_certificates(path)?;
    roots_of(&certificates)
        .with_context(|| format!("cannot use `{}`", path.display()))
        .hint("name a PEM file with CA certificates")?;
    Ok(certificates)
}

pub fn roots_of(certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    certificates.iter().try_for_each(|certificate| roots.add(certificate.clone()))?;
    Ok(roots)
}

/// The usable CA certificates of the system's trust store, or of `SSL_CERT_FILE` and `SSL_CERT_DIR`. None in a
/// container image without a trust store: Mozilla's, which are built in, stand in for them.
pub fn system_ca_certificates() -> Vec<CertificateDer<'static>> {
    let mut certificates = rustls_native_certs::load_native_certs().certs;
    let mut roots = RootCertStore::empty();
    certificates.retain(|certificate| roots.add(certificate.clone()).is_ok());
    certificates
}

/// The public CAs (the system's, or else Mozilla's), and the given ones.
pub fn public_roots_and(certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(system_ca_certificates());
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots.extend(roots_of(certificates)?.roots);
    Ok(roots)
}

pub fn pem_problem(error: &pem::Error, wanted: &str) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => format!("it holds no {wanted}"),
        _ => "it is not PEM".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cas_of_a_file_are_trusted_besides_the_public_ones() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&path, certificate.cert.pem()).unwrap();
        let roots = public_roots_and(&read_ca_certificates(&path).unwrap()).unwrap();
        assert_eq!(roots.len(), public_roots_and(&[]).unwrap().len() + 1);
    }
}
