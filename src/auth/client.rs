//! The tokens of a client: fetched before they are needed, and kept fresh (RFC 6749, sections 4.3 and 4.4).

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::Full;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use serde::Deserialize;
use tokio::sync::{Mutex, watch};
use tokio::time::sleep;
use tracing::warn;

use super::grant::Credentials;
use crate::client::{HttpClient, retry_after};
use crate::core::backoff::Backoff;

/// Waits between tries to renew a token.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(500), cap: Duration::from_secs(30) };

/// The part of a token's life after which it is renewed, so that there is time for more than one try.
const RENEWAL_SHARE: f64 = 0.75;

/// How long a server that refuses is left alone, whatever the events that ask for a token by then.
const FETCH_PAUSE: Duration = Duration::from_secs(1);

/// The shortest time between two renewals of tokens that hardly live.
const RENEWAL_MINIMUM: Duration = Duration::from_secs(1);

/// The longest that a token is kept.
const LIFETIME_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// The error codes of RFC 6749, section 5.2: nothing else of what a server says is repeated.
const ERROR_CODES: [&str; 6] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
];

/// How a token endpoint is asked (RFC 6749).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantType {
    /// The client credentials grant, with the credentials as HTTP Basic (section 2.3.1: `client_secret_basic`).
    ClientCredentials,
    /// The same grant with the credentials in the body: `client_secret_post`.
    ClientSecretPost,
    /// The resource owner's password.
    Password,
}

/// What a token endpoint is asked for.
pub struct TokenRequest {
    /// The endpoint.
    pub url: Uri,
    /// How it is asked.
    pub grant_type: GrantType,
    /// Whose token.
    pub credentials: Credentials,
    /// The scope of the token (RFC 6749, section 3.3), where the settings name one.
    pub scope: Option<String>,
    /// The API that the token is for, as several providers require it.
    pub audience: Option<String>,
}

/// Fetches tokens, and has one at hand.
pub struct TokenKeeper {
    http: HttpClient,
    request: TokenRequest,
    held: watch::Sender<Held>,
    /// Held by whoever fetches, with what the last fetch failed with, and when.
    fetching: Mutex<Option<(Instant, FetchError)>>,
}

/// A token at hand.
struct Held {
    /// The header's value; none before the first token.
    authorization: Option<HeaderValue>,
    /// How many tokens there have been.
    generation: u64,
    fetched: Instant,
    renew_at: Option<Instant>,
}

/// Why there is no token.
#[derive(Debug, Clone)]
pub enum FetchError {
    /// The server will not give one to these credentials.
    Refused(String),
    /// It may the next time.
    Transient {
        /// What is wrong.
        reason: String,
        /// How long the server asks to wait.
        retry_after: Duration,
    },
}

impl FetchError {
    /// What is wrong.
    pub fn reason(&self) -> &str {
        match self {
            FetchError::Refused(reason) | FetchError::Transient { reason, .. } => reason,
        }
    }
}

/// RFC 6749, section 5.1, and what providers make of it: some leave the type out, or write the lifetime as text.
#[derive(Deserialize)]
struct TokenResponse {
    access_token: String,
    token_type: Option<String>,
    expires_in: Option<serde_json::Value>,
}

impl TokenResponse {
    /// How long the token lives; none where that is not said in seconds.
    fn lifetime(&self) -> Option<Duration> {
        let seconds = match self.expires_in.as_ref()? {
            serde_json::Value::Number(number) => number.as_f64()?,
            serde_json::Value::String(text) => text.trim().parse().ok()?,
            _ => return None,
        };
        // No token is kept for longer, so that no sum overflows.
        (seconds >= 0.0).then(|| Duration::from_secs_f64(seconds.min(LIFETIME_LIMIT.as_secs_f64())))
    }
}

/// RFC 6749, section 5.2.
#[derive(Deserialize)]
struct ErrorResponse {
    error: String,
}

impl TokenKeeper {
    /// A keeper that has no token yet.
    pub fn new(http: HttpClient, request: TokenRequest) -> TokenKeeper {
        let held = Held { authorization: None, generation: 0, fetched: Instant::now(), renew_at: None };
        let held = watch::Sender::new(held);
        TokenKeeper { http, request, held, fetching: Mutex::new(None) }
    }

    /// The header's value for the token at hand, and how many tokens there have been.
    pub fn current(&self) -> (Option<HeaderValue>, u64) {
        let held = self.held.borrow();
        (held.authorization.clone(), held.generation)
    }

    /// Fetches a token in place of the one of this generation, unless someone has by now.
    ///
    /// # Errors
    /// Why there is none. Those who asked during a fetch that failed share its error.
    pub async fn replace(&self, generation: u64) -> Result<(), FetchError> {
        let asked = Instant::now();
        let mut last_failure = self.fetching.lock().await;
        if self.held.borrow().generation != generation {
            return Ok(());
        }
        let shared = |(at, error): &&(Instant, FetchError)| {
            *at >= asked || matches!(error, FetchError::Refused(_)) && at.elapsed() < FETCH_PAUSE
        };
        if let Some((_, error)) = last_failure.as_ref().filter(shared) {
            return Err(error.clone());
        }
        // The first may have been taken back at once; a second that is not taken either shows that none will be.
        if generation > 1 && self.held.borrow().fetched.elapsed() < FETCH_PAUSE {
            return Err(FetchError::Refused("a token that was just given is not taken".to_owned()));
        }
        match self.fetch().await {
            Ok(held) => {
                self.held.send_replace(Held { generation: generation + 1, ..held });
                *last_failure = None;
                Ok(())
            }
            Err(error) => {
                // The first token is waited for by someone who says why there is none.
                if last_failure.is_none() && generation > 0 {
                    warn!("cannot renew the token, and tries again: {}", error.reason());
                }
                *last_failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Renews tokens before they run out, for as long as it is polled.
    pub async fn keep_fresh(&self) {
        let mut changes = self.held.subscribe();
        let mut failures = 0;
        loop {
            let (generation, renew_at) = {
                let held = changes.borrow_and_update();
                (held.generation, held.renew_at)
            };
            let renewal = async {
                match renew_at {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = renewal => {}
                _ = changes.changed() => continue,
            }
            if self.replace(generation).await.is_ok() {
                failures = 0;
            } else {
                failures += 1;
                sleep(BACKOFF.wait(failures, &mut fastrand::Rng::new())).await;
            }
        }
    }

    async fn fetch(&self) -> Result<Held, FetchError> {
        let fetched = Instant::now();
        let response = self.http.exchange(self.request()).await;
        let response = response.map_err(|error| FetchError::Transient {
            reason: format!("{error:#}"),
            retry_after: Duration::ZERO,
        })?;
        let status = response.status();
        if status != StatusCode::OK {
            let error = serde_json::from_slice::<ErrorResponse>(response.body()).ok();
            let code = error.and_then(|error| ERROR_CODES.into_iter().find(|code| *code == error.error));
            let reason =
                code.map_or_else(|| format!("status {status}"), |code| format!("status {status}: {code}"));
            let transient = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
            let retry_after = retry_after(response.headers()).unwrap_or_default();
            return Err(match transient {
                true => FetchError::Transient { reason, retry_after },
                false => FetchError::Refused(reason),
            });
        }
        let unusable = || FetchError::Refused("the response holds no bearer token".to_owned());
        let token: TokenResponse = serde_json::from_slice(response.body()).map_err(|_| unusable())?;
        if token.token_type.as_ref().is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
            return Err(unusable());
        }
        let authorization = bearer(&token.access_token).ok_or_else(unusable)?;
        let renew_at =
            token.lifetime().map(|lifetime| fetched + lifetime.mul_f64(RENEWAL_SHARE).max(RENEWAL_MINIMUM));
        Ok(Held { authorization: Some(authorization), generation: 0, fetched, renew_at })
    }

    fn request(&self) -> Request<Full<hyper::body::Bytes>> {
        let TokenRequest { url, grant_type, credentials, scope, audience } = &self.request;
        let Credentials { username, password } = credentials;
        let mut form = form_urlencoded::Serializer::new(String::new());
        let mut authorization = None;
        match grant_type {
            GrantType::ClientCredentials => {
                form.append_pair("grant_type", "client_credentials");
                authorization = Some(basic(username, password.expose()));
            }
            GrantType::ClientSecretPost => {
                form.append_pair("grant_type", "client_credentials");
                form.append_pair("client_id", username).append_pair("client_secret", password.expose());
            }
            GrantType::Password => {
                form.append_pair("grant_type", "password");
                form.append_pair("username", username).append_pair("password", password.expose());
            }
        }
        for (name, value) in [("scope", scope), ("audience", audience)] {
            if let Some(value) = value {
                form.append_pair(name, value);
            }
        }
        let mut request = Request::new(Full::from(form.finish()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = url.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.extend(authorization.map(|authorization| (AUTHORIZATION, authorization)));
        request
    }
}

/// The header's value for a token (RFC 6750, section 2.1); none where it holds what a header cannot.
pub fn bearer(token: &str) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {token}")).filter(|_| !token.is_empty())
}

/// RFC 7617; both parts are form-encoded inside (RFC 6749, section 2.3.1).
fn basic(username: &str, password: &str) -> HeaderValue {
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let credentials = format!("{}:{}", encode(username), encode(password));
    sensitive(&format!("Basic {}", STANDARD.encode(credentials))).expect("Base64 is ASCII")
}

fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}
