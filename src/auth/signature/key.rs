//! What requests are verified with.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A secret that the sender shares, or its public key. `Debug` shows only which.
pub enum VerifyingKey {
    Hmac(Zeroizing<Vec<u8>>),
    Ed25519([u8; 32]),
    /// The SHA-256 of credentials.
    Exact([u8; 32]),
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            VerifyingKey::Hmac(_) => "HMAC key",
            VerifyingKey::Ed25519(_) => "Ed25519 public key",
            VerifyingKey::Exact(_) => "credentials",
        })
    }
}

/// Compares in a time that depends on the lengths alone.
pub fn are_equal(one: &[u8], other: &[u8]) -> bool {
    one.ct_eq(other).into()
}

/// Decodes Base64 with padding.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}
