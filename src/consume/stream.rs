//! `GET /event/stream`: events as they are stored, as server-sent events.
//!
//! The body of the response is the stream itself: it is made piece by piece as its client reads, in the task of the
//! connection. What is read from the store is read once for all streams, see [`Hub`].

mod follower;
mod hub;
mod pieces;

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use tokio::time::Instant;

use self::follower::Follower;
pub use self::hub::Hub;
use super::content::Content;
use super::listing::unreadable;
use super::problem::Problem;
use super::routes::{Answer, response_of, uncached};
use crate::core::query::{Query, StreamQuery, parse_position};
use crate::store::Store;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Tells nginx to pass events on as they come.
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Answers with a stream of the events that the query string selects, from where it or `Last-Event-ID` says.
///
/// # Errors
/// 400 for a query string or a header that makes no sense, 503 where the store does not answer, or where there are too
/// many streams.
pub async fn open(
    hub: &Arc<Hub>,
    store: &Store,
    head: &Parts,
    valid_until: Option<Instant>,
) -> Result<Answer, Problem> {
    let refuse = |detail| Problem::new(StatusCode::BAD_REQUEST, detail);
    let query = StreamQuery::parse(head.uri.query().unwrap_or_default()).map_err(refuse)?;
    let after = last_event_id(&head.headers).map_err(refuse)?.or(query.after);
    if head.method == Method::HEAD {
        return Ok(response(Content::from("")));
    }
    let seat = Hub::take_seat(hub, query.event_type)?;
    let newest = store
        .read(|reader| reader.page(&Query { limit: 1, ..Query::default() }))
        .await
        .map_err(unreadable)?;
    let newest = newest.events.last().map_or(0, |event| event.id);
    // A store that has not come as far is another one, or was restored: there is all of it to read.
    let position = after.unwrap_or(newest);
    let position = if position > newest { 0 } else { position };
    let slot = Arc::new(Slot::default());
    let follower = Follower::new(seat, store.clone(), position, Arc::clone(&slot));
    let flow = Some(Box::pin(follower.run(valid_until)) as Flow);
    Ok(response(Content::Events(Box::new(EventStream { flow, slot, watch: None }))))
}

fn response(content: Content) -> Answer {
    let mut response = uncached(response_of(StatusCode::OK, "text/event-stream", content));
    response.headers_mut().insert(UNBUFFERED, HeaderValue::from_static("no"));
    response
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>, String> {
    let mut values = headers.get_all(LAST_EVENT_ID).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let position = value.to_str().ok().and_then(parse_position).filter(|_| values.next().is_none());
    position.map(Some).ok_or_else(|| "expected one Last-Event-ID, an id such as `17`".to_owned())
}

type Flow = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The body of a response that goes on.
pub struct EventStream {
    /// What makes the chunks; none once it has ended.
    flow: Option<Flow>,
    slot: Arc<Slot>,
    watch: Option<Box<dyn StreamWatch>>,
}

/// Whoever looks after a stream's deadlines. It is dropped with the stream.
pub trait StreamWatch: Send {
    /// The client has room for more, and gets it.
    fn progressed(&self) {}
}

impl EventStream {
    /// Lets someone look after the deadlines.
    pub fn watch_by(&mut self, watch: impl StreamWatch + 'static) {
        self.watch = Some(Box::new(watch));
    }

    /// The next part of the body; none at its end.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(flow) = &mut self.flow else { return Poll::Ready(None) };
        let ended = flow.as_mut().poll(cx).is_ready();
        let chunk = self.slot.take();
        if ended {
            self.flow = None;
        }
        match chunk {
            Some(chunk) => {
                if let Some(watch) = &self.watch {
                    watch.progressed();
                }
                Poll::Ready(Some(chunk))
            }
            None if ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// Where a flow leaves the chunk that the body takes in the same poll.
///
/// A flow goes on only when the next chunk is asked for, so that none is made ahead of its time.
#[derive(Default)]
pub struct Slot(Mutex<Option<Bytes>>);

impl Slot {
    fn put(&self, chunk: Bytes) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(chunk);
    }

    fn take(&self) -> Option<Bytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits until a chunk has been taken.
    async fn taken(&self) {
        // Whoever takes it is whoever polls: there is nobody else to wake.
        std::future::poll_fn(|_| match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Poll::Ready(()),
            Some(_) => Poll::Pending,
        })
        .await;
    }
}

/// How often an idle stream says that it lives: often enough for proxies, and for our own deadline.
pub fn heartbeat_within(idle_timeout: Duration) -> Duration {
    const HEARTBEAT: Duration = Duration::from_secs(15);
    HEARTBEAT.min(idle_timeout / 3)
}
