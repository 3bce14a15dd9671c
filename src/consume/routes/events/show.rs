//! `GET /event/{id}`: one stored event.

use hyper::StatusCode;
use hyper::http::request::Parts;

use crate::consume::answer::Answer;
use crate::consume::problem::Problem;
use crate::consume::response_share::reserved_json;
use crate::store::Store;

/// # Errors
/// 404 where there is no such event, 503 where the store does not answer.
pub async fn show(store: &Store, head: &Parts, id: i64) -> Result<Answer, Problem> {
    let event = store.read(move |reader| reader.get(id)).await?;
    let event = event.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "there is no event with this id"))?;
    let mut body = Vec::new();
    event.write_json(&mut body);
    body.push(b'\n');
    reserved_json(store, &head.extensions, body)
}
