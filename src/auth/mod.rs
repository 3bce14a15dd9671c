//! Authentication: bearer tokens and the password behind them; and the client side, which fetches tokens.

pub mod access_token;
mod bytes;
pub mod grant;
mod issuer;
pub mod login;
mod password;
mod rate_limit;
mod recent_logins;
pub mod signature;
pub mod token_source;

use hyper::header::{AUTHORIZATION, HeaderMap};
use subtle::ConstantTimeEq;
use thiserror::Error;

use self::bytes::digest_of;
pub use self::bytes::random;
pub use self::grant::GrantError;
pub use self::issuer::{Issuer, Tokens};
use crate::core::timestamp::Timestamp;
use crate::secret::Secret;

/// Authenticates requests by a static token, or by one that was issued.
pub struct Authenticator {
    static_token: Option<[u8; 32]>,
    issuer: Option<Issuer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AuthenticationError {
    #[error("expected a bearer token")]
    NoToken,
    #[error("expected one Authorization header")]
    SeveralTokens,
    #[error("the token is not valid, or no longer")]
    InvalidToken,
}

impl Authenticator {
    /// `None` if neither is given: then requests need no authentication.
    pub fn new(static_token: Option<&Secret>, issuer: Option<Issuer>) -> Option<Authenticator> {
        let static_token = static_token.map(|token| digest_of(token.expose()));
        (static_token.is_some() || issuer.is_some()).then_some(Authenticator { static_token, issuer })
    }

    pub fn issuer(&self) -> Option<&Issuer> {
        self.issuer.as_ref()
    }

    /// Checks the bearer token in a request's headers (RFC 6750, section 2.1). Returns when the token expires, if ever.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Option<Timestamp>, AuthenticationError> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let value = values.next().ok_or(AuthenticationError::NoToken)?;
        if values.next().is_some() {
            return Err(AuthenticationError::SeveralTokens);
        }
        let value = value.to_str().map_err(|_| AuthenticationError::InvalidToken)?;
        let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(AuthenticationError::NoToken);
        }
        let token = token.trim_start_matches(' ');
        // Comparing digests leaks neither length nor content through timing.
        if self.static_token.is_some_and(|expected| digest_of(token).ct_eq(&expected).into()) {
            return Ok(None);
        }
        let issuer = self.issuer.as_ref().ok_or(AuthenticationError::InvalidToken)?;
        issuer.verify(token, Timestamp::now()).map(Some).map_err(|_| AuthenticationError::InvalidToken)
    }
}
