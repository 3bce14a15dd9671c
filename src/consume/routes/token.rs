//! `POST /token`: RFC 6749 over HTTP.

use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::http::request::Parts;
use serde_json::json;
use tokio::time::timeout;
use tracing::warn;

use super::ingest::read_body;
use super::state::AppState;
use crate::auth::grant::GrantRequest;
use crate::auth::{AuthenticationError, Authenticator, GrantError, Issuer, Tokens};
use crate::consume::answer::{Answer, json_response, uncached};
use crate::consume::client_address::ClientAddress;
use crate::consume::coding::check_uncompressed;
use crate::consume::problem::Problem;
use crate::consume::request_body::RequestBody;
use crate::consume::requests::{trace_of, traceparent_of};
use crate::core::trace::TraceParent;

const FORM_LIMIT_BYTES: usize = 8 << 10;

/// # Errors
/// An error of HTTP; an error of the grant is an answer in the RFC's own format.
pub async fn answer(
    state: &AppState,
    head: &Parts,
    body: &mut RequestBody,
    client: ClientAddress,
) -> Result<Answer, Problem> {
    let Some(issuer) = state.access.as_deref().and_then(Authenticator::issuer) else {
        return Err(Problem::no_route());
    };
    check_form(&head.headers)?;
    let (form, _reservation) = read_body(state, body, None, FORM_LIMIT_BYTES).await?;
    let timed_out = |_| Err(Problem::unavailable("the login was not checked in time"));
    timeout(state.store_timeout, grant(issuer, &head.headers, &form, client)).await.unwrap_or_else(timed_out)
}

async fn grant(
    issuer: &Issuer,
    headers: &HeaderMap,
    form: &[u8],
    client: ClientAddress,
) -> Result<Answer, Problem> {
    let granted = match authorization_of(headers).and_then(|value| GrantRequest::parse(form, value)) {
        Ok(request) => issuer.grant(request, client.ip()).await,
        Err(error) => Err(error),
    };
    if matches!(granted, Err(GrantError::RefreshTokenReused)) {
        warn!(
            %client,
            trace_id = trace_of(traceparent_of(headers).as_ref()).map(TraceParent::trace_id),
            "a refresh token was used twice: all tokens of the same login are revoked"
        );
    }
    granted.map(granted_answer).or_else(refusal)
}

/// # Errors
/// 415 where the request is not a form, or is compressed.
fn check_form(headers: &HeaderMap) -> Result<(), Problem> {
    check_uncompressed(headers)?;
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Ok(());
    }
    Err(Problem::unsupported_media_type(
        "expected the header `Content-Type: application/x-www-form-urlencoded`",
    ))
}

/// Of two values a proxy could take the other.
fn authorization_of(headers: &HeaderMap) -> Result<Option<&str>, GrantError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().and_then(|value| value.to_str().ok());
    match values.next() {
        None => Ok(value),
        Some(_) => Err(GrantError::InvalidRequest("the Authorization header is given twice")),
    }
}

fn granted_answer(tokens: Tokens) -> Answer {
    let mut body = json!({
        "access_token": tokens.access_token,
        "token_type": "bearer",
        "expires_in": tokens.expires_in.as_secs(),
        "scope": tokens.scopes.to_string(),
    });
    if let Some(refresh_token) = tokens.refresh_token {
        body["refresh_token"] = refresh_token.into();
    }
    uncached(json_response(StatusCode::OK, body.to_string()))
}

/// RFC 6749, section 5.2.
fn refusal(error: GrantError) -> Result<Answer, Problem> {
    let code = match error {
        GrantError::InvalidRequest(_) => "invalid_request",
        GrantError::UnsupportedGrantType => "unsupported_grant_type",
        GrantError::InvalidScope(_) => "invalid_scope",
        GrantError::InvalidClient => "invalid_client",
        GrantError::InvalidGrant(_) | GrantError::RefreshTokenReused => "invalid_grant",
        GrantError::TooManyAttempts(wait) => {
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, error.to_string());
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            return Err(problem.with_header(RETRY_AFTER, HeaderValue::from(seconds)));
        }
        GrantError::Busy => return Err(Problem::unavailable(error.to_string())),
        GrantError::NoRandomBytes(_) => {
            return Err(Problem::unavailable("no token can be issued now"));
        }
        GrantError::Store(error) => return Err(error.into()),
    };
    let unauthorized = code == "invalid_client";
    let status = if unauthorized { StatusCode::UNAUTHORIZED } else { StatusCode::BAD_REQUEST };
    let body = json!({"error": code, "error_description": error.to_string()});
    let mut answer = uncached(json_response(status, body.to_string()));
    if unauthorized {
        let challenge = HeaderValue::from_static(r#"Basic realm="eventctl", charset="UTF-8""#);
        answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    Ok(answer)
}

/// RFC 6750, section 3.
impl From<AuthenticationError> for Problem {
    fn from(error: AuthenticationError) -> Problem {
        let (status, challenge) = match error {
            AuthenticationError::NoToken => (StatusCode::UNAUTHORIZED, r#"Bearer realm="eventctl""#),
            AuthenticationError::InvalidToken => {
                (StatusCode::UNAUTHORIZED, r#"Bearer realm="eventctl", error="invalid_token""#)
            }
            AuthenticationError::SeveralTokens => {
                (StatusCode::BAD_REQUEST, r#"Bearer realm="eventctl", error="invalid_request""#)
            }
        };
        let problem = Problem::new(status, error.to_string());
        problem.with_header(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
    }
}
