//! What `propagate` and `tail` show to a server: a token, if the settings give one or a way to fetch one.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderValue;
use tracing::warn;

use crate::auth::client::{FetchError, GrantType, TokenKeeper, TokenRequest, bearer};
use crate::auth::grant::Credentials;
use crate::cli::{ClientTlsOptions, Endpoint, Grant, LoginOptions};
use crate::client::HttpClient;
use crate::core::hint::hinted;
use crate::core::network::is_this_machine;
use crate::core::secret::Secret;
use crate::tls::{Identity, Trust, client_config};

/// What goes into the `Authorization` header.
#[derive(Clone)]
pub enum Authorization {
    /// Nothing.
    None,
    /// A token that never changes.
    Fixed(HeaderValue),
    /// A token that is fetched and renewed.
    Fetched(Arc<TokenKeeper>),
}

/// The HTTP client that the settings describe: it keeps so many connections open, and gives a response up after
/// `timeout`.
///
/// # Errors
/// A certificate or key cannot be used.
pub fn http_client(
    options: &ClientTlsOptions,
    idle_connections: usize,
    timeout: Duration,
) -> anyhow::Result<HttpClient> {
    let ClientTlsOptions { cacert, cert, key, insecure_skip_verify } = options;
    let trust = match (cacert, insecure_skip_verify) {
        (_, true) => {
            warn!(
                "--insecure-skip-verify: whoever stands between here and the receiver can read and change what is sent"
            );
            Trust::Anyone
        }
        (Some(path), false) => Trust::Authorities(path),
        (None, false) => Trust::Web,
    };
    let identity = match (cert, key) {
        (Some(certificate), Some(key)) => Some(Identity::read(certificate, key)?),
        (None, None) => None,
        (Some(_), None) => return Err(hinted("`--cert` has no private key", "give --key FILE")),
        (None, Some(_)) => return Err(hinted("`--key` has no certificate", "give --cert FILE")),
    };
    Ok(HttpClient::new(client_config(trust, identity)?, idle_connections, timeout))
}

impl Authorization {
    /// What the settings say; no token is fetched yet. It comes from `default_token_url` unless they name another.
    ///
    /// # Errors
    /// A secret is missing or cannot be used.
    pub fn new(
        options: &LoginOptions,
        endpoint: &Endpoint,
        default_token_url: Endpoint,
        http: &HttpClient,
    ) -> anyhow::Result<Authorization> {
        let LoginOptions {
            username,
            password_file,
            password,
            token_url,
            grant,
            scope,
            audience,
            token_file,
            token,
        } = options;
        let password = Secret::choose(password_file.as_deref(), password.as_ref(), "--password-file")?;
        let token = Secret::choose(token_file.as_deref(), token.as_ref(), "--token-file")?;
        let authorization = match (username.clone(), password, token) {
            (None, None, None) => return Ok(Authorization::None),
            (Some(username), Some(password), None) => {
                let url = token_url.clone().unwrap_or(default_token_url);
                warn_of_plain_text(&url);
                let grant_type = match grant {
                    Grant::ClientCredentials => GrantType::ClientCredentials,
                    Grant::ClientSecretPost => GrantType::ClientSecretPost,
                    Grant::Password => GrantType::Password,
                };
                let request = TokenRequest {
                    url: url.0,
                    grant_type,
                    credentials: Credentials { username, password },
                    scope: scope.clone(),
                    audience: audience.clone(),
                };
                let keeper = TokenKeeper::new(http.clone(), request);
                Authorization::Fetched(Arc::new(keeper))
            }
            (None, None, Some(token)) => {
                let problem = || hinted("the token holds what no header can", "give it as visible ASCII");
                Authorization::Fixed(bearer(token.expose()).ok_or_else(problem)?)
            }
            (Some(_), None, None) => {
                let hint = "give --password-file FILE, or set EVENTCTL_PASSWORD";
                return Err(hinted("`--username` has no password", hint));
            }
            (None, Some(_), None) => return Err(hinted("a password has no name", "give --username NAME")),
            (_, _, Some(_)) => {
                return Err(hinted("both a token and a name or password are given", "give one of them"));
            }
        };
        warn_of_plain_text(endpoint);
        Ok(authorization)
    }

    /// Fetches the first token, where tokens are fetched.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn log_in(&self) -> Result<(), FetchError> {
        match self {
            Authorization::Fetched(keeper) => keeper.replace(0).await,
            Authorization::None | Authorization::Fixed(_) => Ok(()),
        }
    }

    /// The header's value at present, and how many tokens there have been.
    pub fn current(&self) -> (Option<HeaderValue>, u64) {
        match self {
            Authorization::None => (None, 0),
            Authorization::Fixed(authorization) => (Some(authorization.clone()), 0),
            Authorization::Fetched(keeper) => keeper.current(),
        }
    }

    /// Renews tokens before they run out; never ends.
    pub async fn keep_fresh(&self) {
        match self {
            Authorization::Fetched(keeper) => keeper.keep_fresh().await,
            Authorization::None | Authorization::Fixed(_) => std::future::pending().await,
        }
    }
}

fn warn_of_plain_text(endpoint: &Endpoint) {
    let host = endpoint.0.host().unwrap_or_default();
    if endpoint.0.scheme_str() == Some("http") && !is_this_machine(host) {
        warn!("passwords and tokens go to {host} unencrypted: give an https URL");
    }
}
