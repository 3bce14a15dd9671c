//! Who may come in: tokens and the password behind them; and the client that fetches tokens.

pub mod access_token;
pub mod client;
pub mod grant;
mod issuer;
mod password;
mod rate_limit;
mod recent_logins;

use hyper::header::{AUTHORIZATION, HeaderMap};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

pub use self::issuer::{GrantError, Issuer, Tokens};
use crate::core::secret::Secret;
use crate::core::timestamp::Timestamp;

/// What lets a request in: a token that never changes, or one that was issued.
pub struct Access {
    static_token: Option<[u8; 32]>,
    issuer: Option<Issuer>,
}

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// It has no token.
    NoToken,
    /// It has more than one.
    SeveralTokens,
    /// Its token is not, or no longer, valid.
    InvalidToken,
}

impl Access {
    /// Access by any of these; for everyone where there are none.
    pub fn new(static_token: Option<&Secret>, issuer: Option<Issuer>) -> Option<Access> {
        let static_token = static_token.map(|token| digest_of(token.expose()));
        (static_token.is_some() || issuer.is_some()).then_some(Access { static_token, issuer })
    }

    /// Who issues tokens, if anyone does.
    pub fn issuer(&self) -> Option<&Issuer> {
        self.issuer.as_ref()
    }

    /// Lets a request in whose headers have a valid token (RFC 6750, section 2.1): until when, where the token runs
    /// out.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, headers: &HeaderMap) -> Result<Option<Timestamp>, Denied> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let value = values.next().ok_or(Denied::NoToken)?;
        if values.next().is_some() {
            return Err(Denied::SeveralTokens);
        }
        let value = value.to_str().map_err(|_| Denied::InvalidToken)?;
        let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Denied::NoToken);
        }
        let token = token.trim_start_matches(' ');
        // Digests are compared, so that the time tells neither length nor content.
        if self.static_token.is_some_and(|expected| digest_of(token).ct_eq(&expected).into()) {
            return Ok(None);
        }
        let issuer = self.issuer.as_ref().ok_or(Denied::InvalidToken)?;
        issuer.verify(token, Timestamp::now()).map(Some).map_err(|_| Denied::InvalidToken)
    }
}

fn digest_of(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// Bytes that nobody can guess.
///
/// # Errors
/// The system has none.
pub fn random<const LENGTH: usize>() -> anyhow::Result<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow::anyhow!("the system gives no random bytes: {error}"))?;
    Ok(bytes)
}
