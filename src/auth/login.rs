//! How `propagate` and `tail` authenticate to a server: with a token that they are given, or with one that they fetch.

use std::convert::Infallible;
use std::sync::Arc;

use hyper::header::HeaderValue;
use tracing::warn;

use super::grant::Credentials;
use super::token_source::{FetchError, GrantType, TokenRequest, TokenSource, bearer};
use crate::client::{Endpoint, HttpClient};
use crate::core::network::is_this_machine;
use crate::error::hinted;
use crate::secret::Secret;

/// How to authenticate.
#[derive(Debug, Clone)]
pub enum LoginSettings {
    Anonymous,
    Token(Secret),
    Password {
        credentials: Credentials,
        /// `None` is the default of the subcommand.
        token_url: Option<Endpoint>,
        grant_type: GrantType,
        scope: Option<String>,
        audience: Option<String>,
    },
}

/// The source of the `Authorization` header.
#[derive(Clone)]
pub enum Authorization {
    None,
    Fixed(HeaderValue),
    /// A token that is fetched and renewed.
    Fetched(Arc<TokenSource>),
}

impl Authorization {
    /// Fetches no token yet. Tokens come from `default_token_url` unless the settings name another.
    ///
    /// # Errors
    /// The token does not fit into a header.
    pub fn new(
        settings: &LoginSettings,
        endpoint: &Endpoint,
        default_token_url: Endpoint,
        http: &HttpClient,
    ) -> anyhow::Result<Authorization> {
        let authorization = match settings {
            LoginSettings::Anonymous => return Ok(Authorization::None),
            LoginSettings::Token(token) => {
                let problem =
                    || hinted("the token has characters that no header can hold", "give it as visible ASCII");
                Authorization::Fixed(bearer(token.expose()).ok_or_else(problem)?)
            }
            LoginSettings::Password { credentials, token_url, grant_type, scope, audience } => {
                let url = token_url.clone().unwrap_or(default_token_url);
                warn_if_unencrypted(&url);
                let request = TokenRequest {
                    url: url.0,
                    grant_type: *grant_type,
                    credentials: credentials.clone(),
                    scope: scope.clone(),
                    audience: audience.clone(),
                };
                Authorization::Fetched(Arc::new(TokenSource::new(http.clone(), request)))
            }
        };
        warn_if_unencrypted(endpoint);
        Ok(authorization)
    }

    /// Fetches the first token, where tokens are fetched.
    pub async fn log_in(&self) -> Result<(), FetchError> {
        match self {
            Authorization::Fetched(tokens) => tokens.replace(0).await,
            Authorization::None | Authorization::Fixed(_) => Ok(()),
        }
    }

    /// The current value of the header, and the number of tokens fetched so far.
    pub fn current(&self) -> (Option<HeaderValue>, u64) {
        match self {
            Authorization::None => (None, 0),
            Authorization::Fixed(authorization) => (Some(authorization.clone()), 0),
            Authorization::Fetched(tokens) => tokens.current(),
        }
    }

    /// Renews tokens before they expire.
    pub async fn renew(&self) -> Infallible {
        match self {
            Authorization::Fetched(tokens) => tokens.renew().await,
            Authorization::None | Authorization::Fixed(_) => std::future::pending().await,
        }
    }
}

fn warn_if_unencrypted(endpoint: &Endpoint) {
    let host = endpoint.0.host().unwrap_or_default();
    if endpoint.0.scheme_str() == Some("http") && !is_this_machine(host) {
        warn!("passwords and tokens go to {host} unencrypted: give an https URL");
    }
}
