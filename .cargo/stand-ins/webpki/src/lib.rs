//! In place of `webpki` 0.22, which nobody maintains any more. Of it the `mysql` crate takes two error types alone: it
//! verifies certificates with `rustls`, and so with the successor, `rustls-webpki`.

#![forbid(unsafe_code)]

use std::fmt;

/// What `webpki` could have found wrong with a certificate: nothing does any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {}

impl fmt::Display for Error {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

impl std::error::Error for Error {}

/// A name that no certificate can be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidDnsNameError;

impl fmt::Display for InvalidDnsNameError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("invalid DNS name")
    }
}

impl std::error::Error for InvalidDnsNameError {}
