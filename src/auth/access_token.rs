//! Access tokens: JSON Web Tokens (RFC 7519) of type `at+jwt` (RFC 9068), signed with HMAC-SHA-256 only.
//!
//! The `alg` of a token is compared, never followed (RFC 8725, section 3.1).

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::scope::Scopes;
use crate::core::timestamp::Timestamp;

pub const ACCESS_TOKEN_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// The shortest key, in bytes: as long as the hash (RFC 7518, section 3.2).
pub const KEY_MINIMUM_BYTES: usize = 32;

/// How far the clocks of two servers may differ for one to accept the other's tokens.
const CLOCK_SKEW_SECONDS: i64 = 30;

/// Issued tokens are never longer.
const TOKEN_LIMIT_BYTES: usize = 2048;

const ALGORITHM: &str = "HS256";
const TYPE: &str = "at+jwt";
const ISSUER: &str = "eventctl";
const AUDIENCE: &str = "eventctl consume";

#[derive(Clone)]
pub struct SigningKey {
    id: String,
    mac: Hmac<Sha256>,
}

impl SigningKey {
    /// `None` for a key below [`KEY_MINIMUM_BYTES`].
    pub fn new(key: &[u8]) -> Option<SigningKey> {
        if key.len() < KEY_MINIMUM_BYTES {
            return None;
        }
        let mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
        // The key id reveals nothing about the key.
        let id = URL_SAFE_NO_PAD.encode(&mac.clone().chain_update("kid").finalize().into_bytes()[..9]);
        Some(SigningKey { id, mac })
    }

    fn sign(&self, text: &str) -> [u8; 32] {
        self.mac.clone().chain_update(text).finalize().into_bytes().into()
    }

    fn has_signed(&self, text: &str, signature: &[u8]) -> bool {
        self.mac.clone().chain_update(text).verify_slice(signature).is_ok()
    }
}

#[derive(Clone)]
pub struct SigningKeys {
    pub current: SigningKey,
    /// Verifies tokens that were signed before the last key rotation.
    pub previous: Option<SigningKey>,
}

/// The token was not issued here, has expired or is not valid yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidToken;

/// RFC 7515, section 4.1. Unknown members, such as `jwk` and `crit`, are refused.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header<'a> {
    alg: &'a str,
    typ: &'a str,
    kid: &'a str,
}

/// RFC 7519, section 4.1; times are seconds since 1970.
#[derive(Serialize, Deserialize)]
struct Claims<'a> {
    #[serde(borrow)]
    iss: Cow<'a, str>,
    #[serde(borrow)]
    aud: Cow<'a, str>,
    #[serde(borrow)]
    sub: Cow<'a, str>,
    iat: i64,
    exp: i64,
    #[serde(borrow)]
    jti: Cow<'a, str>,
    /// RFC 9068, section 2.2.3.
    #[serde(borrow, default)]
    scope: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing)]
    nbf: Option<i64>,
}

/// What a valid token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessToken {
    pub subject: String,
    /// `None` in tokens of versions without scopes.
    pub scopes: Option<Scopes>,
    pub expires_at: Timestamp,
}

impl SigningKeys {
    /// A token for a subject, valid from `now` on. `id` must be unique.
    pub fn issue(&self, subject: &str, scopes: Scopes, id: &[u8], now: Timestamp) -> String {
        let header = Header { alg: ALGORITHM, typ: TYPE, kid: &self.current.id };
        let iat = seconds(now);
        let claims = Claims {
            iss: ISSUER.into(),
            aud: AUDIENCE.into(),
            sub: subject.into(),
            iat,
            exp: iat + ACCESS_TOKEN_LIFETIME.as_secs() as i64,
            jti: URL_SAFE_NO_PAD.encode(id).into(),
            scope: Some(scopes.to_string().into()),
            nbf: None,
        };
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = URL_SAFE_NO_PAD.encode(self.current.sign(&signed));
        format!("{signed}.{signature}")
    }

    /// Verifies that a token was issued here and is valid now.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<AccessToken, InvalidToken> {
        if token.len() > TOKEN_LIMIT_BYTES {
            return Err(InvalidToken);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(InvalidToken)?;
        let (header, claims) = signed.split_once('.').ok_or(InvalidToken)?;
        let header = decode(header)?;
        let header: Header<'_> = serde_json::from_slice(&header).map_err(|_| InvalidToken)?;
        if header.alg != ALGORITHM || header.typ != TYPE {
            return Err(InvalidToken);
        }
        let mut keys = [Some(&self.current), self.previous.as_ref()].into_iter().flatten();
        let key = keys.find(|key| key.id == header.kid).ok_or(InvalidToken)?;
        // The claims are parsed only once the signature is verified.
        if !key.has_signed(signed, &decode(signature)?) {
            return Err(InvalidToken);
        }
        let claims = decode(claims)?;
        let claims: Claims<'_> = serde_json::from_slice(&claims).map_err(|_| InvalidToken)?;
        let now = seconds(now);
        let begun = claims.iat.max(claims.nbf.unwrap_or(claims.iat)) <= now + CLOCK_SKEW_SECONDS;
        // Issued tokens never live longer; a token that does was made by somebody else with the key.
        let latest = now + ACCESS_TOKEN_LIFETIME.as_secs() as i64 + CLOCK_SKEW_SECONDS;
        let in_time = begun && now < claims.exp && claims.exp <= latest;
        if claims.iss != ISSUER || claims.aud != AUDIENCE || !in_time {
            return Err(InvalidToken);
        }
        let scopes = claims.scope.map(|scope| scope.parse()).transpose();
        Ok(AccessToken {
            subject: claims.sub.into_owned(),
            scopes: scopes.map_err(|_| InvalidToken)?,
            expires_at: Timestamp::from_microseconds(claims.exp.saturating_mul(1_000_000)),
        })
    }
}

fn seconds(timestamp: Timestamp) -> i64 {
    timestamp.as_microseconds().div_euclid(1_000_000)
}

fn encode(part: &impl Serialize) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(part).expect("strings and numbers always serialize"))
}

fn decode(part: &str) -> Result<Vec<u8>, InvalidToken> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| InvalidToken)
}
