//! In place of `rustls-pemfile` 2, which nobody maintains any more. The `mysql` crate reads its certificates and keys
//! with it; the reading itself has long been that of `rustls-pki-types`.

#![forbid(unsafe_code)]

use std::io::{self, BufRead};

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};

/// All certificates of a file in PEM.
pub fn certs(file: &mut dyn BufRead) -> impl Iterator<Item = io::Result<CertificateDer<'static>>> {
    objects(file)
}

/// All keys in PKCS #1.
pub fn rsa_private_keys(
    file: &mut dyn BufRead,
) -> impl Iterator<Item = io::Result<PrivatePkcs1KeyDer<'static>>> {
    objects(file)
}

/// All keys in PKCS #8.
pub fn pkcs8_private_keys(
    file: &mut dyn BufRead,
) -> impl Iterator<Item = io::Result<PrivatePkcs8KeyDer<'static>>> {
    objects(file)
}

/// All keys in SEC 1.
pub fn ec_private_keys(
    file: &mut dyn BufRead,
) -> impl Iterator<Item = io::Result<PrivateSec1KeyDer<'static>>> {
    objects(file)
}

fn objects<T: PemObject>(file: &mut dyn BufRead) -> impl Iterator<Item = io::Result<T>> + use<T> {
    read_all(file).into_iter()
}

fn read_all<T: PemObject>(file: &mut dyn BufRead) -> Vec<io::Result<T>> {
    let mut text = Vec::new();
    if let Err(error) = file.read_to_end(&mut text) {
        return vec![Err(error)];
    }
    T::pem_slice_iter(&text).map(|object| object.map_err(as_io_error)).collect()
}

fn as_io_error(error: pem::Error) -> io::Error {
    match error {
        pem::Error::Io(error) => error,
        error => io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
    }
}
