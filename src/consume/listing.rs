//! `GET /event` and `GET /event/{id}`: stored events as JSON.

use hyper::StatusCode;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, LINK, VARY};
use hyper::http::request::Parts;

use super::problem::Problem;
use super::routes::{Answer, json_response};
use super::share::{ResponseShare, reserve};
use crate::core::event::StoredEvent;
use crate::core::negotiation::{weight_of, weights};
use crate::core::query::Query;
use crate::store::Store;
use crate::store::backend::{Page, StoreError};

/// Answers with the page that the query string asks for.
///
/// # Errors
/// 400 for a query string that makes no sense, 503 where the store does not answer.
pub async fn list_events(store: &Store, head: &Parts) -> Result<Answer, Problem> {
    let parameters = head.uri.query().unwrap_or_default();
    let query = Query::parse(parameters).map_err(|detail| Problem::new(StatusCode::BAD_REQUEST, detail))?;
    let asked = query.clone();
    let page = store.read(move |reader| reader.page(&asked)).await.map_err(unreadable)?;
    let links = links_of(parameters, &query, &page);
    let lines = accepts_ndjson(&head.headers);
    let body = if lines { as_lines(&page.events) } else { as_array(&page.events) };
    drop(page);
    let mut response = reserved_response(store, head, body)?;
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    if lines {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    }
    for link in links {
        headers.append(LINK, link);
    }
    Ok(response)
}

/// Answers with one event.
///
/// # Errors
/// 404 where there is none, 503 where the store does not answer.
pub async fn show_event(store: &Store, head: &Parts, id: i64) -> Result<Answer, Problem> {
    let event = store.read(move |reader| reader.get(id)).await.map_err(unreadable)?;
    let event = event.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "there is no event with this id"))?;
    let mut body = Vec::new();
    write_event(&event, &mut body);
    body.push(b'\n');
    reserved_response(store, head, body)
}

/// Why there is nothing to read. A server can lack space to sort in: 507 would say that something was not stored.
pub fn unreadable(error: StoreError) -> Problem {
    match error {
        StoreError::Full(reason) => StoreError::Unavailable(reason).into(),
        error => error.into(),
    }
}

fn reserved_response(store: &Store, head: &Parts, body: Vec<u8>) -> Result<Answer, Problem> {
    let share = ResponseShare::of(&head.extensions);
    Ok(json_response(StatusCode::OK, reserve(store, share.as_ref(), body)?))
}

/// The pages before and after this one (RFC 8288), as references to the path that was asked for.
///
/// In the direction of the query the store knows whether there are more; against it there are if the
/// query began at an id.
fn links_of(parameters: &str, query: &Query, page: &Page) -> Vec<HeaderValue> {
    let (Some(first), Some(last)) = (page.events.first(), page.events.last()) else { return Vec::new() };
    let ascending = query.after.is_some();
    let next = if ascending { page.more || query.before.is_some() } else { query.before.is_some() };
    let previous = if ascending { query.after > Some(0) } else { page.more };
    let link = |anchor: &str, id: i64, relation: &str| {
        let mut target = form_urlencoded::Serializer::new(String::new());
        let parameters = form_urlencoded::parse(parameters.as_bytes());
        target.extend_pairs(parameters.filter(|(name, _)| name != "after" && name != "before"));
        target.append_pair(anchor, &id.to_string());
        let link = format!("<?{}>; rel=\"{relation}\"", target.finish());
        HeaderValue::try_from(link).expect("a form-encoded target is ASCII")
    };
    let next = next.then(|| link("after", last.id, "next"));
    let previous = previous.then(|| link("before", first.id, "prev"));
    next.into_iter().chain(previous).collect()
}

fn accepts_ndjson(headers: &HeaderMap) -> bool {
    let ranges = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let weights: Vec<(&str, f32)> = weights(ranges).collect();
    weight_of(&weights, "application/x-ndjson").is_some_and(|weight| weight > 0.0)
}

fn as_array(events: &[StoredEvent]) -> Vec<u8> {
    let mut body = vec![b'['];
    for (position, event) in events.iter().enumerate() {
        if position > 0 {
            body.push(b',');
        }
        write_event(event, &mut body);
    }
    body.extend_from_slice(b"]\n");
    body
}

fn as_lines(events: &[StoredEvent]) -> Vec<u8> {
    let mut body = Vec::new();
    for event in events {
        write_event(event, &mut body);
        body.push(b'\n');
    }
    body
}

/// Writes an event as JSON, on one line.
pub fn write_event(event: &StoredEvent, body: &mut Vec<u8>) {
    serde_json::to_writer(body, event).expect("strings and numbers can be written to memory");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_never_fails_for_want_of_room_to_store() {
        let answer = unreadable(StoreError::Full("no space to sort in".to_owned())).into_response();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
