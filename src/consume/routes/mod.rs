//! From a request to its response: the checks that all requests pass, and then a route, which has a file of its own.

mod attributes;
mod events;
mod handshake;
mod health_alert;
mod hook;
mod ingest;
mod monitoring;
mod openapi;
mod page;
mod state;
mod stream;
mod subscriptions;
mod token;

use std::time::Instant;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request};

pub use self::state::AppState;
pub use self::stream::{Hub, heartbeat_within};
use super::answer::Answer;
use super::client_address::ClientAddress;
use super::coding;
use super::problem::Problem;
use super::request_body::RequestBody;
use super::request_checks::{check_header_count, check_host, check_transfer_encoding};
use super::requests::{Answered, traceparent_of};
use super::response_share::ResponseShare;
use super::route::{Route, Target};
use crate::auth::scope::{Scope, Scopes};
use crate::auth::{Access, Authenticator};

/// Answers a request, and counts and logs it. Returns the request body, too, where some of it is unread.
pub async fn answer(
    state: &AppState,
    request: Request<Incoming>,
    client: ClientAddress,
    is_stopping: bool,
) -> (Answer, Option<Incoming>) {
    let begun = Instant::now();
    let (head, incoming) = request.into_parts();
    let target = Target::of(&head.method, head.uri.path());
    let traceparent = traceparent_of(&head.headers);
    let is_read = is_read(&head.method);
    let (accepted, share) = match is_read {
        true => (coding::accepted(&head.headers), ResponseShare::of(&head.extensions)),
        false => (None, None),
    };
    let mut body = RequestBody::new(incoming, head.version);
    let mut origin = None;
    let answer = checked(state, head, &mut origin, &mut body, client, is_stopping).await;
    let mut reason = None;
    let mut answer = answer.unwrap_or_else(|problem| {
        reason = problem.reason();
        problem.into_response()
    });
    if is_read {
        answer = coding::compressed(answer, accepted, &state.store, share).await;
    }
    state.cross_origin.mark(&mut answer, origin);
    let unread = body.unread();
    if unread.is_some() {
        // The rest of the body must not be taken for the next request.
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let (status, took) = (answer.status(), begun.elapsed());
    state.metrics.answered(target, status, took);
    state.log.answered(Answered { target, client, status, took, traceparent, reason });
    (answer, unread)
}

/// The checks before a route, in their order. Leaves the origin of a page in `origin` if it is an allowed one.
async fn checked(
    state: &AppState,
    head: Parts,
    origin: &mut Option<HeaderValue>,
    body: &mut RequestBody,
    client: ClientAddress,
    is_stopping: bool,
) -> Result<Answer, Problem> {
    let route = Route::of(head.uri.path()).filter(|route| has(state, *route));
    // Limits come first: they bound the work for all that follows.
    check_header_count(&head)?;
    // A proxy could take another of several hosts than this server.
    check_host(&head)?;
    // Against DNS rebinding. Probes use whatever address they find the service at, and learn nothing secret.
    if !route.is_some_and(Route::is_probe) {
        state.cross_origin.check_host(&head)?;
    }
    // Against request smuggling.
    check_transfer_encoding(&head)?;
    // Before authentication, because browsers attach client certificates to requests of any page.
    *origin = state.cross_origin.check_origin(&head)?;
    // A preflight request carries no token.
    if let Some(answer) = state.cross_origin.preflight(&head, origin.as_ref()) {
        return Ok(answer);
    }
    // Before 404 and 405: a request without a token learns nothing about paths that need one.
    let access = match &state.access {
        Some(access) if !route.is_some_and(Route::is_open) => access.authenticate(&head.headers)?,
        _ => Access::anonymous(),
    };
    let route = route.ok_or_else(Problem::no_route)?;
    if !route.allows(&head.method) {
        return Err(Problem::method_not_allowed(route.methods()));
    }
    let Access { permissions, expires_at } = access;
    check_scope(route.scopes(&head.method), permissions.scopes)?;
    let types = permissions.types;
    match route {
        Route::Page => Ok(page::answer()),
        Route::Events if head.method == Method::OPTIONS => handshake::answer(&head.headers, route),
        Route::Events if is_read(&head.method) => {
            state.in_time(events::list(&state.store, &head, types)).await
        }
        Route::Events => events::store(state, head, body, &types).await,
        Route::Event(id) if is_read(&head.method) => {
            state.in_time(events::show(&state.store, &head, id, &types)).await
        }
        Route::Event(id) => events::remove(state, id, types).await,
        Route::Stream => {
            state.in_time(stream::open(&state.hub, &state.store, &head, types, expires_at)).await
        }
        Route::Hook => hook::answer(state, head, body).await,
        Route::Subscriptions => state.in_time(subscriptions::list(state, &types)).await,
        Route::Subscription(part) => subscriptions::answer(state, part, head, body, &types).await,
        Route::HealthAlert => health_alert::answer(state, head, body, &types).await,
        Route::Token => token::answer(state, &head, body, client).await,
        Route::Health => Ok(monitoring::health()),
        Route::Ready => monitoring::ready(state, is_stopping).await,
        Route::Metrics => Ok(monitoring::metrics(state, &head.headers).await),
        Route::OpenApi => Ok(openapi::answer()),
    }
}

/// # Errors
/// 403 (RFC 6750, section 3.1) where the client has none of these scopes, of which one is needed.
fn check_scope(needed: &[Scope], permitted: Scopes) -> Result<(), Problem> {
    if needed.is_empty() || needed.iter().any(|scope| permitted.include(*scope)) {
        return Ok(());
    }
    Err(Problem::insufficient_scope(needed))
}

/// Whether the settings enable a route.
fn has(state: &AppState, route: Route) -> bool {
    match route {
        Route::Token => state.access.as_deref().and_then(Authenticator::issuer).is_some(),
        Route::Metrics => state.exposes_metrics,
        _ => true,
    }
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}
