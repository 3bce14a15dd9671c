//! The tokens of a client: fetched before they are needed, renewed before they expire (RFC 6749, sections 4.3, 4.4).

use std::convert::Infallible;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use serde::Deserialize;
use thiserror::Error;
use tokio::sync::{Mutex, watch};
use tokio::time::{sleep, sleep_until};
use tracing::warn;

use super::grant::Credentials;
use crate::client::{HttpClient, retry_after};
use crate::core::backoff::Backoff;

/// Waits between attempts to renew a token.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));

/// The part of a token's lifetime after which it is renewed, which leaves time for retries.
const RENEWAL_SHARE: f64 = 0.75;

/// How long a server that refuses is not asked again, however many events want a token.
const FETCH_PAUSE: Duration = Duration::from_secs(1);

/// The shortest time between two renewals, for tokens with tiny lifetimes.
const RENEWAL_MINIMUM: Duration = Duration::from_secs(1);

/// The longest that a token is kept, whatever its lifetime.
const LIFETIME_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// The error codes of RFC 6749, section 5.2. Nothing else of an error response is shown.
const ERROR_CODES: [&str; 6] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
];

/// How to ask for a token (RFC 6749).
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GrantType {
    /// Name and password as HTTP Basic.
    // Section 2.3.1: `client_secret_basic`.
    ClientCredentials,
    /// Name and password in the body, as client_id and client_secret.
    ClientSecretPost,
    /// Name and password in the body: legacy.
    Password,
}

pub struct TokenRequest {
    pub url: Uri,
    pub grant_type: GrantType,
    pub credentials: Credentials,
    /// RFC 6749, section 3.3.
    pub scope: Option<String>,
    /// The API that the token is for; some providers require it.
    pub audience: Option<String>,
}

/// Fetches tokens and caches the current one.
pub struct TokenSource {
    http: HttpClient,
    request: TokenRequest,
    cached: watch::Sender<CachedToken>,
    /// Locked during a fetch. Holds the error of the last fetch and its time.
    fetching: Mutex<Option<(Instant, FetchError)>>,
}

struct CachedToken {
    /// `None` before the first token.
    authorization: Option<HeaderValue>,
    generation: u64,
    fetched: Instant,
    renew_at: Option<Instant>,
}

#[derive(Debug, Clone, Error)]
pub enum FetchError {
    /// The server gives no token for these credentials.
    #[error("{0}")]
    Refused(String),
    #[error("{reason}")]
    Transient { reason: String, retry_after: Duration },
}

/// RFC 6749, section 5.1. Some providers omit the type, or write the lifetime as text.
#[derive(Deserialize)]
struct TokenResponse {
    access_token: String,
    token_type: Option<String>,
    expires_in: Option<serde_json::Value>,
}

impl TokenResponse {
    /// `None` where the lifetime is missing or not in seconds.
    fn lifetime(&self) -> Option<Duration> {
        let seconds = match self.expires_in.as_ref()? {
            serde_json::Value::Number(number) => number.as_f64()?,
            serde_json::Value::String(text) => text.trim().parse().ok()?,
            _ => return None,
        };
        // The limit keeps sums from overflowing.
        (seconds >= 0.0).then(|| Duration::from_secs_f64(seconds.min(LIFETIME_LIMIT.as_secs_f64())))
    }
}

/// RFC 6749, section 5.2.
#[derive(Deserialize)]
struct ErrorResponse {
    error: String,
}

impl TokenSource {
    /// Fetches no token yet.
    pub fn new(http: HttpClient, request: TokenRequest) -> TokenSource {
        let none =
            CachedToken { authorization: None, generation: 0, fetched: Instant::now(), renew_at: None };
        TokenSource { http, request, cached: watch::Sender::new(none), fetching: Mutex::new(None) }
    }

    /// The `Authorization` header for the current token, and the token's generation.
    pub fn current(&self) -> (Option<HeaderValue>, u64) {
        let cached = self.cached.borrow();
        (cached.authorization.clone(), cached.generation)
    }

    /// Replaces the token of this generation, unless it has been replaced already. Concurrent callers share one fetch
    /// and its error.
    pub async fn replace(&self, generation: u64) -> Result<(), FetchError> {
        let called = Instant::now();
        let mut last_failure = self.fetching.lock().await;
        if self.cached.borrow().generation != generation {
            return Ok(());
        }
        let shared = |(at, error): &&(Instant, FetchError)| {
            *at >= called || matches!(error, FetchError::Refused(_)) && at.elapsed() < FETCH_PAUSE
        };
        if let Some((_, error)) = last_failure.as_ref().filter(shared) {
            return Err(error.clone());
        }
        // The first token may have been revoked at once. If the second is refused too, so will be the next.
        if generation > 1 && self.cached.borrow().fetched.elapsed() < FETCH_PAUSE {
            return Err(FetchError::Refused("a token that was just issued is refused".to_owned()));
        }
        match self.fetch().await {
            Ok(token) => {
                self.cached.send_replace(CachedToken { generation: generation + 1, ..token });
                *last_failure = None;
                Ok(())
            }
            Err(error) => {
                // The caller that waits for the first token reports the error.
                if last_failure.is_none() && generation > 0 {
                    warn!("cannot renew the token, and tries again: {error}");
                }
                *last_failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Renews tokens before they expire.
    pub async fn renew(&self) -> Infallible {
        let mut changes = self.cached.subscribe();
        let mut failures = 0;
        loop {
            let (generation, renew_at) = {
                let cached = changes.borrow_and_update();
                (cached.generation, cached.renew_at)
            };
            let renewal = async {
                match renew_at {
                    Some(at) => sleep_until(at.into()).await,
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

    async fn fetch(&self) -> Result<CachedToken, FetchError> {
        let fetched = Instant::now();
        let response = self.http.exchange(self.request()).await;
        let response = response.map_err(|error| FetchError::Transient {
            reason: format!("{error:#}"),
            retry_after: Duration::ZERO,
        })?;
        if response.status() != StatusCode::OK {
            return Err(refusal_of(&response));
        }
        let unusable = || FetchError::Refused("the response holds no bearer token".to_owned());
        let token: TokenResponse = serde_json::from_slice(response.body()).map_err(|_| unusable())?;
        if token.token_type.as_ref().is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
            return Err(unusable());
        }
        let authorization = bearer(&token.access_token).ok_or_else(unusable)?;
        let renew_at =
            token.lifetime().map(|lifetime| fetched + lifetime.mul_f64(RENEWAL_SHARE).max(RENEWAL_MINIMUM));
        Ok(CachedToken { authorization: Some(authorization), generation: 0, fetched, renew_at })
    }

    fn request(&self) -> Request<Full<Bytes>> {
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

fn refusal_of(response: &Response<Bytes>) -> FetchError {
    let status = response.status();
    let error = serde_json::from_slice::<ErrorResponse>(response.body()).ok();
    let code = error.and_then(|error| ERROR_CODES.into_iter().find(|code| *code == error.error));
    let reason = code.map_or_else(|| format!("status {status}"), |code| format!("status {status}: {code}"));
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        let retry_after = retry_after(response.headers()).unwrap_or_default();
        return FetchError::Transient { reason, retry_after };
    }
    FetchError::Refused(reason)
}

/// The `Authorization` header for a token (RFC 6750, section 2.1). `None` if no header can hold the token.
pub fn bearer(token: &str) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {token}")).filter(|_| !token.is_empty())
}

/// RFC 7617, with both parts form-encoded (RFC 6749, section 2.3.1).
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
