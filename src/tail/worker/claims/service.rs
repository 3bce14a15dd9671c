//! Claims at a `consume` elsewhere, over HTTP.

use std::fmt;
use std::time::Duration;

use anyhow::Context;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::claimed::{Claimed, ClaimedEvent, Settled};
use super::error::ClaimError;
use crate::client::{self, is_transient};
use crate::core::event::StoredEvent;
use crate::core::text::excerpt;
use crate::core::timestamp::Timestamp;
use crate::error::hinted;
use crate::tail::remote::{EventJson, ServiceConnection};
use crate::tail::settings::{ServiceSettings, Settings};

/// The longest part of an answer that a message repeats, in characters.
const EXCERPT_LIMIT: usize = 200;

pub struct ServiceClaims {
    name: String,
    connection: ServiceConnection,
}

impl fmt::Display for ServiceClaims {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.connection.base)
    }
}

impl ServiceClaims {
    pub async fn open(settings: &ServiceSettings, name: &str) -> anyhow::Result<ServiceClaims> {
        let connection = ServiceConnection::open(settings).await?;
        Ok(ServiceClaims { name: name.to_owned(), connection })
    }

    /// Makes the subscription unless there is one; whether it is new.
    pub async fn make(&self, settings: &Settings) -> Result<bool, ClaimError> {
        let (status, answer) = self.send(Method::GET, "", None).await?;
        if status != StatusCode::NOT_FOUND {
            self.expect_success(status, &answer)?;
            return Ok(false);
        }
        let from = match (settings.after, &settings.since) {
            (Some(id), _) => json!(id + 1),
            (None, Some(since)) => json!(since.timestamp.to_string()),
            (None, None) => json!("beginning"),
        };
        let event_type = settings.event_type.as_ref().map_or("*", |glob| glob.as_str());
        let (status, answer) =
            self.send(Method::PUT, "", Some(&json!({"from": from, "type": event_type}))).await?;
        if status == StatusCode::NOT_FOUND {
            let problem = format!("the service at `{self}` has no subscriptions: status {status}");
            return Err(ClaimError::Lasting(hinted(problem, "upgrade it, or check the URL")));
        }
        self.expect_success(status, &answer)?;
        Ok(status == StatusCode::CREATED)
    }

    pub async fn claim(&self, limit: usize, wait: Duration) -> Result<Option<Claimed>, ClaimError> {
        let body = json!({"limit": limit, "wait": wait.as_secs_f64()});
        let (status, answer) = self.send(Method::POST, "/claim", Some(&body)).await?;
        self.expect_success(status, &answer)?;
        let claim: ClaimJson =
            serde_json::from_slice(&answer).map_err(|error| unexpected(&error.to_string()))?;
        claim.into_claimed()
    }

    pub async fn settle(
        &self,
        claimed: &Claimed,
        path: &str,
        mut body: Value,
    ) -> Result<Settled, ClaimError> {
        body["token"] = claimed.token.clone().into();
        let (status, answer) = self.send(Method::POST, path, Some(&body)).await?;
        if status == StatusCode::CONFLICT {
            return Ok(Settled::Over);
        }
        self.expect_success(status, &answer)?;
        Ok(Settled::Done)
    }

    fn expect_success(&self, status: StatusCode, answer: &[u8]) -> Result<(), ClaimError> {
        #[derive(Deserialize)]
        struct Problem {
            detail: String,
        }
        if status.is_success() {
            return Ok(());
        }
        let detail =
            serde_json::from_slice(answer).map_or_else(|_| String::new(), |Problem { detail }| detail);
        let reason = format!("status {}: {}", status.as_u16(), excerpt(&detail, EXCERPT_LIMIT));
        if is_transient(status) {
            return Err(ClaimError::Passing(reason));
        }
        if status == StatusCode::NOT_FOUND {
            return Err(ClaimError::has_ended(&self.name));
        }
        let problem = format!("cannot use the subscription `{}` of `{self}`: {reason}", self.name);
        let hint = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "give --username and --password-file, or --token-file"
            }
            _ => "check the URL and the name",
        };
        Err(ClaimError::Lasting(hinted(problem, hint)))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Bytes), ClaimError> {
        let url = format!("{}/subscription/{}{path}", self.connection.base, self.name);
        let mut request = Request::new(Full::from(body.map(Value::to_string).unwrap_or_default()));
        *request.method_mut() = method;
        let uri = url.parse().with_context(|| format!("cannot ask `{url}`"));
        *request.uri_mut() = uri.map_err(ClaimError::Lasting)?;
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(client::USER_AGENT));
        if body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let response = self.connection.exchange(request).await;
        let response = response.map_err(|error| ClaimError::Passing(format!("{error:#}")))?;
        let status = response.status();
        Ok((status, response.into_body()))
    }
}

fn unexpected(problem: &str) -> ClaimError {
    ClaimError::Passing(format!("an unexpected response: {problem}"))
}

#[derive(Deserialize)]
struct ClaimJson {
    token: Option<String>,
    until: Option<String>,
    events: Vec<ClaimedJson>,
}

#[derive(Deserialize)]
struct ClaimedJson {
    attempts: i64,
    #[serde(flatten)]
    event: EventJson,
}

impl ClaimJson {
    fn into_claimed(self) -> Result<Option<Claimed>, ClaimError> {
        let (Some(token), Some(until)) = (self.token, self.until) else { return Ok(None) };
        let until: Timestamp = until.parse().map_err(|error: String| unexpected(&error))?;
        let event = |claimed: ClaimedJson| -> Result<ClaimedEvent, ClaimError> {
            let event =
                StoredEvent::try_from(claimed.event).map_err(|error| unexpected(&format!("{error:#}")))?;
            Ok(ClaimedEvent { event, attempts: claimed.attempts })
        };
        let events = self.events.into_iter().map(event).collect::<Result<_, _>>()?;
        Ok(Some(Claimed { token, lease: until.since(Timestamp::now()), events }))
    }
}
