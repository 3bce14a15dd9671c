//! `GET /event/stream`: events as they are stored, as server-sent events.
//!
//! The response body is the stream: its chunks are made as the client reads, in the task of the connection. New events are
//! read from the store once for all streams, see [`Hub`].

mod follower;
mod hub;
mod pieces;
mod ring;

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use tokio::time::Instant;

use self::follower::Follower;
use self::hub::NoSeat;
pub use self::hub::{Hub, News};
use crate::consume::answer::{Answer, response_of, uncached};
use crate::consume::body::{ChunkSlot, Content, EventStream};
use crate::consume::problem::Problem;
use crate::consume::query_string::StreamQuery;
use crate::core::query::{Query, parse_position};
use crate::core::timestamp::Timestamp;
use crate::core::type_filter::{PermittedTypes, TypeFilter};
use crate::store::Store;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Disables the response buffering of nginx.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Starts after `Last-Event-ID`, or the position in the query string, or else with the next event.
///
/// # Errors
/// 400 for an invalid query string or header, 503 where the store does not answer or too many streams are open.
pub async fn open(
    hub: &Arc<Hub>,
    store: &Store,
    head: &Parts,
    permitted: PermittedTypes,
    valid_until: Option<Timestamp>,
) -> Result<Answer, Problem> {
    let query = StreamQuery::parse(head.uri.query().unwrap_or_default()).map_err(Problem::bad_request)?;
    let after = last_event_id(&head.headers).map_err(Problem::bad_request)?.or(query.after);
    if head.method == Method::HEAD {
        return Ok(response(Content::from("")));
    }
    let seat = Hub::take_seat(hub, TypeFilter::new(query.event_type, permitted))?;
    let followed = Arc::clone(hub);
    let position = store.read_from_replica(move |reader| {
        let newest = reader.page(&Query { limit: 1, ..Query::default() })?.events.pop();
        newest.iter().for_each(|event| followed.begin_after(event));
        let newest = newest.map_or(0, |event| event.id);
        Ok(match after {
            None => newest,
            // A store behind the position was replaced or restored, and all of it is new to the client; a replica catches
            // up.
            Some(after) if after > newest && !reader.is_replica()? && !reader.has_given(after)? => 0,
            Some(after) => after,
        })
    });
    let position = position.await?;
    let slot = Arc::new(ChunkSlot::default());
    let follower = Follower::new(seat, store.clone(), position, Arc::clone(&slot));
    let valid_until = valid_until.map(|at| Instant::now() + at.since(Timestamp::now()));
    let stream = EventStream::new(follower.run(valid_until), slot);
    Ok(response(Content::Events(Box::new(stream))))
}

impl From<NoSeat> for Problem {
    fn from(reason: NoSeat) -> Problem {
        Problem::unavailable(match reason {
            NoSeat::TooManyStreams => "too many event streams are open",
            NoSeat::Ending => "the service is stopping",
        })
    }
}

fn response(content: Content) -> Answer {
    let mut response = uncached(response_of(StatusCode::OK, "text/event-stream", content));
    response.headers_mut().insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>, String> {
    let mut values = headers.get_all(LAST_EVENT_ID).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let position = value.to_str().ok().and_then(parse_position).filter(|_| values.next().is_none());
    position.map(Some).ok_or_else(|| "expected one Last-Event-ID, an id such as `17`".to_owned())
}

/// The interval of heartbeats on an idle stream: short enough for proxies and for our own idle timeout.
pub fn heartbeat_within(idle_timeout: Duration) -> Duration {
    const HEARTBEAT: Duration = Duration::from_secs(15);
    HEARTBEAT.min(idle_timeout / 3)
}
