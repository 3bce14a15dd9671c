//! Why a server's certificate was refused, in words for users.

use std::error::Error;
use std::io;

use rustls::CertificateError;

/// Finds a refused certificate in the chain of an error. `cacert_flag` is the setting that would add a CA.
pub fn certificate_problem(error: &(dyn Error + 'static), cacert_flag: &str) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(problem)) = error.downcast_ref() {
            return Some(in_words(problem, cacert_flag));
        }
        // The source of an io::Error skips the error inside it.
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = inside.map(|inside| inside as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

fn in_words(problem: &CertificateError, cacert_flag: &str) -> String {
    match problem {
        CertificateError::UnknownIssuer => {
            format!("the server's certificate is signed by an unknown CA: name it with {cacert_flag}")
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
        // Many self-signed certificates are CA certificates.
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "the server's certificate is a CA certificate (CA:TRUE), not a server's".to_owned()
        }
        problem => format!("the server's certificate is not valid: {problem}"),
    }
}
