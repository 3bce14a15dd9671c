//! `POST /token`: RFC 6749 over HTTP.

use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use serde_json::json;
use tracing::warn;

use super::client::Client;
use super::coding::check_uncompressed;
use super::problem::Problem;
use super::requests::{origin_of, trace_of};
use super::routes::{Answer, json_response, uncached};
use crate::auth::grant::Grant;
use crate::auth::{Denied, GrantError, Issuer, Tokens};
use crate::core::trace::TraceParent;

/// The largest form, in bytes.
pub const FORM_LIMIT_BYTES: usize = 8 << 10;

/// Gives tokens for a form.
///
/// # Errors
/// What is wrong in HTTP; what is wrong with the grant is an answer of the RFC's own shape.
pub async fn answer(
    issuer: &Issuer,
    headers: &HeaderMap,
    form: &[u8],
    client: Client,
) -> Result<Answer, Problem> {
    let granted = match authorization_of(headers).and_then(|value| Grant::parse(form, value)) {
        Ok(grant) => issuer.grant(grant, client.address()).await,
        Err(error) => Err(error),
    };
    if matches!(granted, Err(GrantError::RefreshTokenReused)) {
        warn!(
            %client,
            trace_id = trace_of(origin_of(headers).as_ref()).map(TraceParent::trace_id),
            "a refresh token was used twice: all that stem from the same login are revoked"
        );
    }
    granted.map(granted_answer).or_else(refusal)
}

/// Makes sure that a request is a form.
///
/// # Errors
/// 415 where it is not, or is compressed.
pub fn check_form(headers: &HeaderMap) -> Result<(), Problem> {
    check_uncompressed(headers)?;
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Ok(());
    }
    let detail = "expected the header `Content-Type: application/x-www-form-urlencoded`";
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
}

/// Of two values another server could have chosen the other.
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
    });
    if let Some(refresh_token) = tokens.refresh_token {
        body["refresh_token"] = refresh_token.into();
    }
    uncached(json_response(StatusCode::OK, body.to_string()))
}

/// RFC 6749, section 5.2.
fn refusal(error: GrantError) -> Result<Answer, Problem> {
    let (code, description) = match error {
        GrantError::InvalidRequest(description) => ("invalid_request", description),
        GrantError::UnsupportedGrantType => {
            ("unsupported_grant_type", "expected password, client_credentials or refresh_token")
        }
        GrantError::InvalidScope => ("invalid_scope", "there are no scopes"),
        GrantError::InvalidClient => {
            ("invalid_client", "name or password of HTTP Basic are wrong or missing")
        }
        GrantError::InvalidGrant(description) => ("invalid_grant", description),
        GrantError::RefreshTokenReused => {
            ("invalid_grant", "the refresh token was used before: log in again")
        }
        GrantError::TooManyAttempts(wait) => {
            let problem =
                Problem::new(StatusCode::TOO_MANY_REQUESTS, "too many attempts of this name or address");
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            return Err(problem.with_header(RETRY_AFTER, HeaderValue::from(seconds)));
        }
        GrantError::Busy => {
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many logins at once"));
        }
        GrantError::Store(error) => return Err(error.into()),
    };
    let unauthorized = code == "invalid_client";
    let status = if unauthorized { StatusCode::UNAUTHORIZED } else { StatusCode::BAD_REQUEST };
    let body = json!({"error": code, "error_description": description});
    let mut answer = uncached(json_response(status, body.to_string()));
    if unauthorized {
        let challenge = HeaderValue::from_static(r#"Basic realm="eventctl", charset="UTF-8""#);
        answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    Ok(answer)
}

/// RFC 6750, section 3.
impl From<Denied> for Problem {
    fn from(denied: Denied) -> Problem {
        let (status, detail, challenge) = match denied {
            Denied::NoToken => {
                (StatusCode::UNAUTHORIZED, "expected a bearer token", r#"Bearer realm="eventctl""#)
            }
            Denied::InvalidToken => (
                StatusCode::UNAUTHORIZED,
                "the token is not valid, or no longer",
                r#"Bearer realm="eventctl", error="invalid_token""#,
            ),
            Denied::SeveralTokens => (
                StatusCode::BAD_REQUEST,
                "expected one Authorization header",
                r#"Bearer realm="eventctl", error="invalid_request""#,
            ),
        };
        Problem::new(status, detail).with_header(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
    }
}
