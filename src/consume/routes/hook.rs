//! `/hook/{name}`: a webhook of another service is verified and stored as it came.

use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde_json::json;

use super::handshake;
use super::ingest::{append, read_body, settle, stored};
use super::state::AppState;
use crate::auth::signature::{self, Scheme, Unverified};
use crate::consume::answer::{Answer, json_response, response_of};
use crate::consume::coding;
use crate::consume::hooks::{Delivery, Hook, HookSettings, Unfit};
use crate::consume::problem::Problem;
use crate::consume::request_body::RequestBody;
use crate::consume::route::{PathDepth, Route};
use crate::core::event::{Event, ParseError};
use crate::core::text::excerpt;
use crate::core::timestamp::Timestamp;
use crate::store::backend::Append;

pub async fn answer(state: &AppState, head: Parts, body: &mut RequestBody) -> Result<Answer, Problem> {
    let name = Route::hook_name(head.uri.path()).unwrap_or_default();
    let hook = state.hooks.find(name).ok_or_else(Problem::no_route)?;
    match head.method {
        Method::POST => receive(state, hook, head, body).await,
        Method::OPTIONS => handshake::answer(&head.headers, Route::Hook),
        _ => confirm(hook, head.uri.query().unwrap_or_default()),
    }
}

async fn receive(
    state: &AppState,
    hook: &Hook,
    head: Parts,
    body: &mut RequestBody,
) -> Result<Answer, Problem> {
    let settings = &*hook.settings;
    check_media_type(settings, &head.headers)?;
    let (coding, path_depth) = (coding::of_request(&head.headers)?, PathDepth::of(&head));
    let (body, reservation) = read_body(state, body, coding, state.body_limit_bytes).await?;
    let now = Timestamp::now();
    signature::verify(&settings.scheme, &hook.secrets().keys, &head.headers, &body, now)
        .map_err(|error| unverified(&settings.scheme, &error))?;
    let text =
        std::str::from_utf8(&body).map_err(|error| ParseError::Encoding { offset: error.valid_up_to() })?;
    let delivery = Delivery::new(settings, &head.headers, text);
    if let Some(challenge) = delivery.challenge() {
        return Ok(json_response(StatusCode::OK, json!({ "challenge": challenge }).to_string()));
    }
    let mut keys = delivery.keys(now)?.into_iter();
    let events = vec![Event::of(delivery.event_type()?, text.to_owned())?];
    let (key, aliases) = (keys.next(), keys.collect());
    let deliveries = state.alerts.deliveries_of(&events);
    drop((head, body));
    let appended = append(state, Append { events, key, aliases, deliveries }, reservation).await;
    let id = settle(state, appended, 1)?;
    Ok(stored(path_depth, id))
}

/// Forms of any page can be sent with these types and without, and a browser adds the password that it knows.
fn check_media_type(settings: &HookSettings, headers: &HeaderMap) -> Result<(), Problem> {
    if !matches!(settings.scheme, Scheme::Unverified | Scheme::Basic) {
        return Ok(());
    }
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = media_type == "application/json" || media_type.ends_with("+json");
    if is_json || settings.allow.iter().any(|allowed| allowed.eq_ignore_ascii_case(&media_type)) {
        return Ok(());
    }
    let got = excerpt(content_type, 64);
    Err(Problem::unsupported_media_type(format!(
        "expected Content-Type application/json, or one that the hook allows, got `{got}`"
    )))
}

fn unverified(scheme: &Scheme, error: &Unverified) -> Problem {
    let challenge = match scheme {
        Scheme::Bearer => "Bearer",
        Scheme::Basic => r#"Basic realm="hook", charset="UTF-8""#,
        _ => "Signature",
    };
    Problem::new(StatusCode::UNAUTHORIZED, format!("not verified, not stored: {error}"))
        .with_header(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
}

/// Answers Meta's question whether the hook is ours, as far as it has a token for that (Graph API, "Verification Requests").
fn confirm(hook: &Hook, query: &str) -> Result<Answer, Problem> {
    let value = |wanted: &str| {
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        pairs.find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
    };
    let token = value("hub.verify_token").unwrap_or_default();
    match (value("hub.mode").as_deref(), value("hub.challenge")) {
        (Some("subscribe"), Some(challenge)) if hook.secrets().is_verify_token(&token) => {
            Ok(response_of(StatusCode::OK, "text/plain; charset=utf-8", challenge))
        }
        _ => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "expected hub.challenge with the verify token of this hook",
        )),
    }
}

impl From<Unfit> for Problem {
    fn from(Unfit { what, reason }: Unfit) -> Problem {
        Problem::bad_request(format!("the {what} of the event cannot be made from the request: {reason}"))
    }
}
