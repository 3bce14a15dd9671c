//! Authentication: bearer tokens and the password behind them; and the client side, which fetches tokens.

pub mod access_token;
mod bytes;
mod clients;
pub mod grant;
mod issuer;
pub mod login;
mod password;
mod rate_limit;
mod recent_logins;
pub mod scope;
pub mod signature;
pub mod token_source;

use std::sync::Arc;

use hyper::header::{AUTHORIZATION, HeaderMap};
use thiserror::Error;

pub use self::bytes::random;
pub use self::clients::RegisteredClients;
pub use self::grant::GrantError;
pub use self::issuer::{Issuer, Tokens};
use self::scope::{Permissions, Scopes};
use crate::core::timestamp::Timestamp;

/// Authenticates requests by a static token, or by one that was issued.
pub struct Authenticator {
    clients: Arc<RegisteredClients>,
    issuer: Option<Issuer>,
}

/// What a request may do.
#[derive(Debug, Clone)]
pub struct Access {
    pub permissions: Permissions,
    /// When its token expires, if ever.
    pub expires_at: Option<Timestamp>,
}

impl Access {
    /// That of requests which need no authentication.
    pub fn anonymous() -> Access {
        Access { permissions: Permissions::all(), expires_at: None }
    }
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
    /// Without an issuer, only static tokens are valid.
    pub fn new(clients: Arc<RegisteredClients>, issuer: Option<Issuer>) -> Authenticator {
        Authenticator { clients, issuer }
    }

    pub fn issuer(&self) -> Option<&Issuer> {
        self.issuer.as_ref()
    }

    pub fn has_client_file(&self) -> bool {
        self.clients.has_file()
    }

    /// Reads the file of clients again. After an error the previous clients stay.
    pub fn reload(&self) -> anyhow::Result<()> {
        self.clients.reload()
    }

    /// Checks the bearer token in a request's headers (RFC 6750, section 2.1).
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Access, AuthenticationError> {
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
        if let Some(client) = self.clients.by_token(token) {
            return Ok(Access { permissions: client.permissions.clone(), expires_at: None });
        }
        self.access_of(token).ok_or(AuthenticationError::InvalidToken)
    }

    /// What an access token permits: what it says, as far as its client may still do it.
    fn access_of(&self, token: &str) -> Option<Access> {
        let token = self.issuer.as_ref()?.verify(token, Timestamp::now()).ok()?;
        let client = self.clients.by_name(&token.subject).filter(|client| client.password.is_some())?;
        let Permissions { scopes, types } = client.permissions.clone();
        let scopes = token.scopes.unwrap_or(Scopes::ALL).common(scopes);
        Some(Access { permissions: Permissions { scopes, types }, expires_at: Some(token.expires_at) })
    }
}
