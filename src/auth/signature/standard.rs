//! Standard Webhooks, specification 1.0.0.

use std::ops::RangeInclusive;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use ring::signature::{ED25519, UnparsedPublicKey};
use zeroize::Zeroizing;

use super::header::{optional, sole};
use super::hmac::{Digest, mac};
use super::key::{VerifyingKey, are_equal, from_base64};
use super::unverified::{Unverified, check_time};
use crate::core::timestamp::Timestamp;
use crate::error::hinted;
use crate::secret::Secret;

const SECRET_PREFIX: &str = "whsec_";
const SECRET_BYTES: RangeInclusive<usize> = 24..=64;
const PUBLIC_KEY_PREFIX: &str = "whpk_";

/// The signatures of a request that are compared; a rotation of secrets takes two.
const SIGNATURES: usize = 8;

/// What our own messages are signed with.
pub type SigningKey = Zeroizing<Vec<u8>>;

/// The key in the secret of a setting.
///
/// # Errors
/// It is not of the specification's form.
pub fn signing_key(secret: &Secret, flag: &str) -> anyhow::Result<SigningKey> {
    hmac_key(secret.expose()).ok_or_else(|| {
        let problem = format!("the secret of `{flag}` is not `whsec_` and 24 to 64 bytes in Base64");
        hinted(problem, "make one with echo whsec_$(openssl rand -base64 32)")
    })
}

fn hmac_key(text: &str) -> Option<SigningKey> {
    let key = Zeroizing::new(from_base64(text.strip_prefix(SECRET_PREFIX)?)?);
    SECRET_BYTES.contains(&key.len()).then_some(key)
}

pub fn verifying_key(text: &str) -> Option<VerifyingKey> {
    let Some(public) = text.strip_prefix(PUBLIC_KEY_PREFIX) else {
        return hmac_key(text).map(VerifyingKey::Hmac);
    };
    from_base64(public)?.try_into().ok().map(VerifyingKey::Ed25519)
}

/// Names a message and its time in its headers, and signs it if there is a key.
///
/// # Panics
/// The id cannot be in a header.
pub fn sign(headers: &mut HeaderMap, key: Option<&SigningKey>, id: &str, now: Timestamp, body: &[u8]) {
    let seconds = (now.as_microseconds() / 1_000_000).to_string();
    let mut insert = |name: &'static str, value: &str| {
        let value = HeaderValue::try_from(value).expect("digits, letters and Base64 fit into a header");
        headers.insert(HeaderName::from_static(name), value);
    };
    insert("webhook-id", id);
    insert("webhook-timestamp", &seconds);
    let Some(key) = key else { return };
    let signature = mac(Digest::Sha256, key, &signed_text(id, &seconds, body));
    insert("webhook-signature", &format!("v1,{}", STANDARD.encode(signature)));
}

pub fn verify(
    keys: &[VerifyingKey],
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Result<(), Unverified> {
    let id = message_id(headers)?;
    let timestamp = of_either_name(headers, "timestamp")?;
    let signatures = of_either_name(headers, "signature")?;
    check_time(timestamp, now)?;
    let text = signed_text(id, timestamp, body);
    let signatures: Vec<(&str, Vec<u8>)> = signatures
        .split(' ')
        .filter_map(|item| item.split_once(','))
        .filter_map(|(version, signature)| Some((version, from_base64(signature)?)))
        .take(SIGNATURES)
        .collect();
    let is_valid = keys.iter().any(|key| {
        let signed_as = |name: &str| {
            signatures
                .iter()
                .filter(move |(version, _)| *version == name)
                .map(|(_, signature)| signature)
                .collect::<Vec<_>>()
        };
        match key {
            VerifyingKey::Hmac(key) => {
                let expected = mac(Digest::Sha256, key, &text);
                signed_as("v1").iter().any(|signature| are_equal(expected.as_ref(), signature))
            }
            VerifyingKey::Ed25519(key) => {
                let key = UnparsedPublicKey::new(&ED25519, key);
                let text = text.concat();
                signed_as("v1a").iter().any(|signature| key.verify(&text, signature).is_ok())
            }
            VerifyingKey::Exact(_) => false,
        }
    });
    if is_valid { Ok(()) } else { Err(Unverified::WrongSignature) }
}

/// What names the message, whichever attempt this is.
pub fn message_id(headers: &HeaderMap) -> Result<&str, Unverified> {
    of_either_name(headers, "id")
}

/// A header of the specification, or the one that Svix had before there was one.
fn of_either_name<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Unverified> {
    match optional(headers, &format!("svix-{name}"))? {
        Some(value) if !headers.contains_key(format!("webhook-{name}")) => Ok(value),
        _ => sole(headers, &format!("webhook-{name}")),
    }
}

fn signed_text<'a>(id: &'a str, timestamp: &'a str, body: &'a [u8]) -> [&'a [u8]; 5] {
    [id.as_bytes(), b".", timestamp.as_bytes(), b".", body]
}
