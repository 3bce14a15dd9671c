//! Random bytes and digests.

use sha2::{Digest, Sha256};
use thiserror::Error;

pub fn digest_of(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

#[derive(Debug, Error)]
#[error("the system gives no random bytes: {0}")]
pub struct NoRandomBytes(getrandom::Error);

/// Cryptographically secure random bytes.
pub fn random<const LENGTH: usize>() -> Result<[u8; LENGTH], NoRandomBytes> {
    let mut bytes = [0; LENGTH];
    getrandom::fill(&mut bytes).map_err(NoRandomBytes)?;
    Ok(bytes)
}
