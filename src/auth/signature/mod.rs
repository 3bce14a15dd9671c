//! Signed requests: how the services that send webhooks sign them, how that is verified, and how we sign ours.

mod header;
mod hmac;
mod key;
mod scheme;
pub mod standard;
mod template;
#[cfg(test)]
mod tests;
mod unverified;

use hyper::header::{AUTHORIZATION, HeaderMap};
use zeroize::Zeroizing;

use self::header::{Stripe, basic_credentials, bearer_token, sole};
use self::hmac::check;
pub use self::hmac::{Digest, Encoding};
pub use self::key::VerifyingKey;
use self::key::are_equal;
pub use self::scheme::{HmacScheme, Scheme};
pub use self::template::{RequestTemplate, TemplateError};
pub use self::unverified::Unverified;
use self::unverified::check_time;
use super::bytes::digest_of;
use crate::core::timestamp::Timestamp;
use crate::secret::Secret;

/// The shortest bearer token and password: guesses at them are not rate limited.
const CREDENTIALS_MINIMUM_BYTES: usize = 16;

/// Reads a secret as a scheme has it.
///
/// # Errors
/// What the scheme expects, without the secret.
pub fn verifying_key(scheme: &Scheme, secret: &Secret) -> Result<VerifyingKey, &'static str> {
    let text = secret.expose();
    match scheme {
        Scheme::Standard => standard::verifying_key(text).ok_or(
            "expected `whsec_` and 24 to 64 bytes in Base64, or `whpk_` and the 32 bytes of a public key",
        ),
        Scheme::Bearer if text.len() < CREDENTIALS_MINIMUM_BYTES => {
            Err("expected a token of 16 bytes or more")
        }
        Scheme::Basic if !matches!(text.split_once(':'), Some((_, password)) if password.len() >= CREDENTIALS_MINIMUM_BYTES) => {
            Err("expected `NAME:PASSWORD`, with a password of 16 bytes or more")
        }
        Scheme::Bearer | Scheme::Basic => Ok(VerifyingKey::Exact(digest_of(text))),
        _ => Ok(VerifyingKey::Hmac(Zeroizing::new(text.as_bytes().to_vec()))),
    }
}

/// Checks that a request comes from somebody who has one of the keys.
///
/// # Errors
/// It does not, or not recently.
pub fn verify(
    scheme: &Scheme,
    keys: &[VerifyingKey],
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Result<(), Unverified> {
    match scheme {
        Scheme::Standard => standard::verify(keys, headers, body, now),
        Scheme::Github | Scheme::Meta => {
            let signature = sole(headers, "x-hub-signature-256")?;
            let signature = Encoding::Hex.decode(signature.strip_prefix("sha256="), "x-hub-signature-256")?;
            check(Digest::Sha256, keys, &[body], &[signature])
        }
        Scheme::Stripe => {
            let Stripe { timestamp, signatures } = Stripe::parse(sole(headers, "stripe-signature")?)?;
            check_time(timestamp, now)?;
            check(Digest::Sha256, keys, &[timestamp.as_bytes(), b".", body], &signatures)
        }
        Scheme::Slack => {
            let timestamp = sole(headers, "x-slack-request-timestamp")?;
            let signature = sole(headers, "x-slack-signature")?;
            let signature = Encoding::Hex.decode(signature.strip_prefix("v0="), "x-slack-signature")?;
            check_time(timestamp, now)?;
            check(Digest::Sha256, keys, &[b"v0:", timestamp.as_bytes(), b":", body], &[signature])
        }
        Scheme::Shopify => {
            let signature = sole(headers, "x-shopify-hmac-sha256")?;
            let signature = Encoding::Base64.decode(Some(signature), "x-shopify-hmac-sha256")?;
            check(Digest::Sha256, keys, &[body], &[signature])
        }
        Scheme::Hmac(scheme) => verify_hmac(scheme, keys, headers, body, now),
        Scheme::Bearer => check_credentials(keys, bearer_token(sole(headers, AUTHORIZATION.as_str())?)),
        Scheme::Basic => {
            let credentials = basic_credentials(sole(headers, AUTHORIZATION.as_str())?);
            check_credentials(keys, credentials.as_deref())
        }
        Scheme::Unverified => Ok(()),
    }
}

fn verify_hmac(
    scheme: &HmacScheme,
    keys: &[VerifyingKey],
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Result<(), Unverified> {
    let signature = sole(headers, &scheme.header)?.strip_prefix(scheme.prefix.as_str());
    let signature = scheme.encoding.decode(signature, &scheme.header)?;
    if let Some(name) = &scheme.time_header {
        check_time(sole(headers, name)?, now)?;
    }
    match &scheme.signed {
        None => check(scheme.digest, keys, &[body], &[signature]),
        Some(signed) => {
            let text = std::str::from_utf8(body).map_err(|_| Unverified::NoText(TemplateError::NotUtf8))?;
            let signed = signed.render(headers, text).map_err(Unverified::NoText)?;
            check(scheme.digest, keys, &[signed.as_bytes()], &[signature])
        }
    }
}

fn check_credentials(keys: &[VerifyingKey], given: Option<&str>) -> Result<(), Unverified> {
    let is_valid = given.is_some_and(|given| {
        let given = digest_of(given);
        keys.iter().any(|key| matches!(key, VerifyingKey::Exact(expected) if are_equal(expected, &given)))
    });
    if is_valid { Ok(()) } else { Err(Unverified::WrongCredentials) }
}
