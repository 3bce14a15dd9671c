//! `GET /event/{id}`: one stored event.

use hyper::StatusCode;
use hyper::http::request::Parts;

use crate::consume::answer::Answer;
use crate::consume::problem::Problem;
use crate::consume::response_share::reserved_json;
use crate::core::type_filter::PermittedTypes;
use crate::store::Store;

/// # Errors
/// 404 where there is no such event, 503 where the store does not answer.
pub async fn show(
    store: &Store,
    head: &Parts,
    id: i64,
    permitted: &PermittedTypes,
) -> Result<Answer, Problem> {
    let event = store.read(move |reader| reader.get(id)).await?;
    let event = event.filter(|event| permitted.include(&event.event_type)).ok_or_else(no_event)?;
    let mut body = Vec::new();
    event.write_json(&mut body);
    body.push(b'\n');
    reserved_json(store, &head.extensions, body)
}

pub fn no_event() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is no event with this id")
}
