//! `GET /event`: a page of stored events, as a JSON array or NDJSON.

use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LINK};
use hyper::http::request::Parts;

use crate::consume::answer::{Answer, add_vary};
use crate::consume::problem::Problem;
use crate::consume::query_string::parse_page_query;
use crate::consume::response_share::reserved_json;
use crate::core::event::StoredEvent;
use crate::core::negotiation::{weight_of, weights};
use crate::core::query::Query;
use crate::core::type_filter::PermittedTypes;
use crate::store::backend::{Page, StoreReader};
use crate::store::{ReadError, Store};

/// How far a replica is: the id of its newest event. A response without it shows the store itself.
const REPLICA_POSITION: HeaderName = HeaderName::from_static("replica-position");

/// # Errors
/// 400 for an invalid query string, 503 where the store does not answer.
pub async fn list(store: &Store, head: &Parts, permitted: PermittedTypes) -> Result<Answer, Problem> {
    let parameters = head.uri.query().unwrap_or_default();
    let mut query = parse_page_query(parameters).map_err(Problem::bad_request)?;
    query.types.permitted = permitted;
    let read_query = query.clone();
    let (page, replica_position) = store
        .read_from_replica(move |reader| {
            let replica_position = replica_position(reader)?;
            Ok((reader.page(&read_query)?, replica_position))
        })
        .await?;
    let links = links_of(parameters, &query, &page);
    let is_ndjson = accepts_ndjson(&head.headers);
    let body = if is_ndjson { as_lines(&page.events) } else { as_array(&page.events) };
    drop(page);
    let mut response = reserved_json(store, &head.extensions, body)?;
    add_vary(&mut response, "Accept");
    let headers = response.headers_mut();
    if is_ndjson {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    }
    for link in links {
        headers.append(LINK, link);
    }
    headers.extend(replica_position.map(|id| (REPLICA_POSITION, HeaderValue::from(id))));
    Ok(response)
}

/// The newest id that a replica has; none where the store itself is read.
fn replica_position(reader: &mut dyn StoreReader) -> Result<Option<i64>, ReadError> {
    if !reader.is_replica()? {
        return Ok(None);
    }
    let newest = reader.page(&Query { limit: 1, ..Query::default() })?.events.pop();
    Ok(Some(newest.map_or(0, |event| event.id)))
}

/// The next and the previous page (RFC 8288), as references relative to the request's path.
///
/// In the direction of the query the store knows whether there are more events; in the other direction there are some
/// if the query began at an id.
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
        event.write_json(&mut body);
    }
    body.extend_from_slice(b"]\n");
    body
}

fn as_lines(events: &[StoredEvent]) -> Vec<u8> {
    let mut body = Vec::new();
    for event in events {
        event.write_json(&mut body);
        body.push(b'\n');
    }
    body
}
