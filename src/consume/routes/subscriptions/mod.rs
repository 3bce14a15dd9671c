//! `/subscription`: named positions from which workers claim events.

mod manage;
mod parked;
mod request;
mod work;

use hyper::Method;
use hyper::http::request::Parts;

use super::state::AppState;
use crate::consume::answer::Answer;
use crate::consume::problem::Problem;
use crate::consume::request_body::RequestBody;
use crate::consume::route::{Route, SubscriptionPart};
use crate::core::type_filter::PermittedTypes;

pub use self::manage::list;

pub async fn answer(
    state: &AppState,
    part: SubscriptionPart,
    head: Parts,
    body: &mut RequestBody,
    permitted: &PermittedTypes,
) -> Result<Answer, Problem> {
    let name = Route::subscription_name(head.uri.path()).unwrap_or_default().to_owned();
    if !permitted.are_all() {
        state.in_time(manage::check_types(state, &name, permitted)).await?;
    }
    let is_read = matches!(head.method, Method::GET | Method::HEAD);
    match part {
        SubscriptionPart::Itself if is_read => state.in_time(manage::show(state, &name)).await,
        SubscriptionPart::Itself if head.method == Method::PUT => {
            manage::define(state, name, &head, body, permitted).await
        }
        SubscriptionPart::Itself => manage::remove(state, name).await,
        SubscriptionPart::Claim => work::claim(state, name, &head, body).await,
        SubscriptionPart::Acknowledge => work::acknowledge(state, name, &head, body).await,
        SubscriptionPart::Reject => work::reject(state, name, &head, body).await,
        SubscriptionPart::Extend => work::extend(state, name, &head, body).await,
        SubscriptionPart::Parked if is_read => {
            let query = head.uri.query().unwrap_or_default();
            state.in_time(parked::list(state, &name, query)).await
        }
        SubscriptionPart::Parked => parked::unpark(state, name, &head, body).await,
    }
}
