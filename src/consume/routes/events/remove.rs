//! `DELETE /event/{id}`: deletes one event.

use hyper::{Response, StatusCode};
use tokio::time::timeout;

use super::show::no_event;
use crate::consume::answer::Answer;
use crate::consume::body::Content;
use crate::consume::problem::Problem;
use crate::consume::routes::state::AppState;
use crate::core::type_filter::PermittedTypes;
use crate::store::backend::Backend;
use crate::store::deletion::delete_event;

/// # Errors
/// 404 where there is no such event; 503 and 504 where it is unknown whether it is deleted.
pub async fn remove(state: &AppState, id: i64, permitted: PermittedTypes) -> Result<Answer, Problem> {
    let delete = move |backend: &mut dyn Backend| delete_event(backend, id, &permitted);
    let deleted = timeout(state.store_timeout, state.store.write_that_makes_room(delete)).await;
    let timed_out =
        |_| Problem::new(StatusCode::GATEWAY_TIMEOUT, "the store did not answer in time: repeat the request");
    if !deleted.map_err(timed_out)?? {
        return Err(no_event());
    }
    let mut response = Response::new(Content::from(""));
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}
