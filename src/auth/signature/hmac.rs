//! HMACs: their digests, how a header writes them, and whether one is valid.

use std::str::FromStr;

use ring::hmac;

use super::key::{VerifyingKey, are_equal, from_base64};
use super::unverified::Unverified;
use crate::core::text::from_hex;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digest {
    /// As old services have it: its collisions are no danger to an HMAC.
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

impl Digest {
    pub fn algorithm(self) -> hmac::Algorithm {
        match self {
            Digest::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Digest::Sha256 => hmac::HMAC_SHA256,
            Digest::Sha384 => hmac::HMAC_SHA384,
            Digest::Sha512 => hmac::HMAC_SHA512,
        }
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Digest, String> {
        match text {
            "sha1" => Ok(Digest::Sha1),
            "sha256" => Ok(Digest::Sha256),
            "sha384" => Ok(Digest::Sha384),
            "sha512" => Ok(Digest::Sha512),
            _ => Err("expected the digest sha256, sha384, sha512 or sha1".to_owned()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Hex,
    Base64,
}

impl Encoding {
    /// Decodes the signature that a header holds.
    pub fn decode(self, signature: Option<&str>, header: &str) -> Result<Vec<u8>, Unverified> {
        let decoded = signature.and_then(|signature| match self {
            Encoding::Hex => from_hex(signature),
            Encoding::Base64 => from_base64(signature),
        });
        decoded.ok_or_else(|| Unverified::MalformedHeader(header.to_owned()))
    }
}

impl FromStr for Encoding {
    type Err = String;

    fn from_str(text: &str) -> Result<Encoding, String> {
        match text {
            "hex" => Ok(Encoding::Hex),
            "base64" => Ok(Encoding::Base64),
            _ => Err("expected the encoding hex or base64".to_owned()),
        }
    }
}

/// # Errors
/// None of the signatures is that of the text, which is given in parts, by any key.
pub fn check(
    digest: Digest,
    keys: &[VerifyingKey],
    text: &[&[u8]],
    signatures: &[Vec<u8>],
) -> Result<(), Unverified> {
    let is_valid = keys.iter().any(|key| {
        let VerifyingKey::Hmac(key) = key else { return false };
        let expected = mac(digest, key, text);
        signatures.iter().any(|signature| are_equal(expected.as_ref(), signature))
    });
    if is_valid { Ok(()) } else { Err(Unverified::WrongSignature) }
}

pub fn mac(digest: Digest, key: &[u8], text: &[&[u8]]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(&hmac::Key::new(digest.algorithm(), key));
    text.iter().for_each(|part| context.update(part));
    context.sign()
}
