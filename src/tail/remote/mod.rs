//! The events of a `consume` elsewhere, over HTTP: pages of them, and the stream of what is stored.

mod connection;
mod messages;
mod response;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, HeaderValue, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use self::connection::RESPONSE_LIMIT_BYTES;
pub use self::connection::ServiceConnection;
pub use self::messages::Message;
use self::messages::Messages;
pub use self::response::EventJson;
use self::response::{check, links_to, unexpected_response};
use super::settings::ServiceSettings;
use crate::client::{self, is_transient};
use crate::core::event::StoredEvent;
use crate::core::glob::Glob;
use crate::core::query::Query;
use crate::core::timestamp::Timestamp;
use crate::core::type_filter::TypeFilter;
use crate::error::{Hint, Hinted, hinted};
use crate::store::ReadError;
use crate::store::backend::{EventReader, Page};
use crate::store::statistics::{PARTS, Statistics, TypeStatistics};

/// How long a stream may be silent: four times as long as between two heartbeats.
const SILENCE: Duration = Duration::from_secs(60);

const PAGE: usize = 1000;

/// A service whose events are read.
pub struct Remote {
    runtime: Runtime,
    connection: ServiceConnection,
    /// Of `/event`.
    url: String,
    /// What an error is about, and what to do about it.
    hint: String,
    /// Whether the last page was one of a replica.
    shows_replica: bool,
}

/// A stream that was opened.
pub struct Stream {
    body: Incoming,
    messages: Messages,
}

/// Why a stream does not go on.
#[derive(Debug)]
pub enum Interruption {
    /// It may the next time.
    Passing(String),
    /// It will not.
    Lasting(anyhow::Error),
}

impl Remote {
    /// Logs in, and makes sure that events are to be had.
    ///
    /// # Errors
    /// The settings cannot be used, or there is no such service.
    pub fn open(settings: &ServiceSettings) -> anyhow::Result<Remote> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let connection = runtime.block_on(ServiceConnection::open(settings))?;
        let hint = format!("check that eventctl consume runs at {}", connection.base);
        let url = format!("{}/event", connection.base);
        let mut remote = Remote { runtime, connection, url, hint, shows_replica: false };
        let newest = Query { limit: 1, ..Query::default() };
        remote.read_page(&newest).with_context(|| format!("cannot show `{}`", settings.endpoint))?;
        Ok(remote)
    }

    /// What to do where something fails.
    pub fn hint(&self) -> &str {
        &self.hint
    }

    /// Opens the stream of the events behind a position.
    ///
    /// # Errors
    /// Why there is none.
    pub fn follow(&mut self, after: i64, filter: Option<&Glob>) -> Result<Stream, Interruption> {
        let mut target = form_urlencoded::Serializer::new(format!("{}/stream?", self.url));
        if let Some(glob) = filter {
            target.append_pair("type", glob.as_str());
        }
        let mut request = request_to(&target.finish()).map_err(Interruption::Lasting)?;
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        headers.insert("last-event-id", HeaderValue::from(after));
        let passing = |error: anyhow::Error| Interruption::Passing(format!("{error:#}"));
        let response = self.runtime.block_on(self.connection.open_stream(request)).map_err(passing)?;
        let status = response.status();
        if status == StatusCode::NOT_FOUND {
            let problem = "the service there tells no stream of events";
            return Err(Interruption::Lasting(hinted(problem, "upgrade it, or leave --follow out")));
        }
        if is_transient(status) {
            return Err(Interruption::Passing(format!("status {status}")));
        }
        check(status, response.headers(), "text/event-stream", b"").map_err(Interruption::Lasting)?;
        Ok(Stream { body: response.into_body(), messages: Messages::new(RESPONSE_LIMIT_BYTES) })
    }

    /// Waits for the next messages of a stream; none at its end.
    ///
    /// # Errors
    /// Why it does not go on.
    pub fn next_messages(&mut self, stream: &mut Stream) -> Result<Option<Vec<Message>>, Interruption> {
        let passing = Interruption::Passing;
        let frame = self.runtime.block_on(async { timeout(SILENCE, stream.body.frame()).await });
        let frame = frame.map_err(|_| passing("the stream is silent".to_owned()))?;
        let Some(frame) = frame else { return Ok(None) };
        let frame = frame.map_err(|error| passing(format!("{:#}", anyhow::Error::new(error))))?;
        let Ok(bytes) = frame.into_data() else { return Ok(Some(Vec::new())) };
        stream.messages.read(&bytes).map(Some).map_err(Interruption::Lasting)
    }

    /// The body of a response that is JSON; none where there is nothing.
    fn get(&mut self, url: &str) -> anyhow::Result<Response<Bytes>> {
        let request = request_to(url)?;
        let hint = self.hint.clone();
        self.runtime.block_on(self.connection.exchange(request)).hint(hint)
    }

    fn read_page(&mut self, query: &Query) -> anyhow::Result<Page> {
        if query.limit == 0 {
            return Ok(Page { events: Vec::new(), more: false });
        }
        let mut target = form_urlencoded::Serializer::new(format!("{}?", self.url));
        target.append_pair("limit", &query.limit.to_string());
        let mut append = |name, value: Option<String>| {
            if let Some(value) = value {
                target.append_pair(name, &value);
            }
        };
        append("after", query.after.map(|id| id.to_string()));
        append("before", query.before.map(|id| id.to_string()));
        append("type", query.types.pattern.as_ref().map(Glob::to_string));
        append("key", query.key.clone());
        append("since", query.since.as_ref().map(Timestamp::to_string));
        append("until", query.until.as_ref().map(Timestamp::to_string));
        let response = self.get(&target.finish())?;
        check(response.status(), response.headers(), "application/json", response.body())?;
        let events: Vec<EventJson> = serde_json::from_slice(response.body())
            .map_err(|error| unexpected_response(&format!("it is not a list of events: {error}")))?;
        let events: Vec<StoredEvent> =
            events.into_iter().map(StoredEvent::try_from).collect::<Result<_, _>>()?;
        let in_order = events.is_sorted_by(|earlier, later| earlier.id < later.id);
        let asked_for = |event: &StoredEvent| {
            query.after.is_none_or(|after| event.id > after)
                && query.before.is_none_or(|before| event.id < before)
        };
        if !in_order || events.len() > query.limit || !events.iter().all(asked_for) {
            return Err(unexpected_response("its events are not those that were asked for"));
        }
        let more = match (query.after, query.before, events.last()) {
            (None, ..) => links_to(response.headers(), "prev"),
            (Some(_), None, _) => links_to(response.headers(), "next"),
            // It links to what is behind the end of the query, too.
            (Some(_), Some(before), Some(last)) => last.id + 1 < before,
            (Some(_), Some(_), None) => false,
        };
        self.shows_replica = response.headers().contains_key("replica-position");
        Ok(Page { events, more })
    }

    fn read_event(&mut self, id: i64) -> anyhow::Result<Option<StoredEvent>> {
        let response = self.get(&format!("{}/{id}", self.url))?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        check(response.status(), response.headers(), "application/json", response.body())?;
        let event: EventJson = serde_json::from_slice(response.body())
            .map_err(|error| unexpected_response(&format!("it is not an event: {error}")))?;
        StoredEvent::try_from(event).map(Some)
    }

    /// Hands every event that a query selects on, oldest first, up to the one that is the newest now.
    fn for_each(&mut self, query: &Query, mut take: impl FnMut(StoredEvent)) -> anyhow::Result<()> {
        let newest = self.read_page(&Query { limit: 1, ..Query::default() })?.events.pop();
        let Some(newest) = newest else { return Ok(()) };
        let mut query =
            Query { after: Some(0), before: Some(newest.id.saturating_add(1)), limit: PAGE, ..query.clone() };
        loop {
            let page = self.read_page(&query)?;
            let Some(last) = page.events.last() else { return Ok(()) };
            query.after = Some(last.id);
            page.events.into_iter().for_each(&mut take);
            if !page.more {
                return Ok(());
            }
        }
    }

    /// Reads twice, so that no more than the counts is kept.
    fn count(&mut self, query: &Query) -> anyhow::Result<Statistics> {
        let mut ends: Option<(i64, i64)> = None;
        self.for_each(&Query { types: TypeFilter::default(), ..query.clone() }, |event| {
            let at = event.received_at.as_microseconds();
            let (start, end) = ends.unwrap_or((at, at));
            ends = Some((start.min(at), end.max(at)));
        })?;
        let Some((start, end)) = ends else { return Ok(Statistics::default()) };
        let part = (end - start) / PARTS + 1;
        let mut counts = vec![0; PARTS as usize];
        let mut types: BTreeMap<String, TypeStatistics> = BTreeMap::new();
        self.for_each(query, |event| {
            let at = event.received_at;
            let offset = (at.as_microseconds() - start) / part;
            if let Some(count) = usize::try_from(offset).ok().and_then(|offset| counts.get_mut(offset)) {
                *count += 1;
            }
            let event_type = event.event_type.clone();
            let kind = types.entry(event.event_type).or_insert_with(|| TypeStatistics {
                event_type,
                count: 0,
                first: at,
                last: at,
            });
            kind.count += 1;
            (kind.first, kind.last) = (kind.first.min(at), kind.last.max(at));
        })?;
        let mut types: Vec<TypeStatistics> = types.into_values().collect();
        types.sort_by_key(|kind| std::cmp::Reverse(kind.count));
        let started_at = Some(Timestamp::from_microseconds(start));
        Ok(Statistics { types, counts, part_microseconds: part, started_at })
    }
}

impl EventReader for Remote {
    fn page(&mut self, query: &Query) -> Result<Page, ReadError> {
        self.read_page(query).map_err(unavailable)
    }

    fn get(&mut self, id: i64) -> Result<Option<StoredEvent>, ReadError> {
        self.read_event(id).map_err(unavailable)
    }

    /// The service compares by itself where a stream goes on.
    fn has_given(&mut self, _: i64) -> Result<bool, ReadError> {
        Ok(true)
    }

    fn statistics(&mut self, query: &Query) -> Result<Statistics, ReadError> {
        self.count(query).map_err(unavailable)
    }

    fn is_replica(&mut self) -> Result<bool, ReadError> {
        Ok(self.shows_replica)
    }
}

/// Without its sources: a connection that breaks must not look like an output that nobody reads any more.
fn unavailable(error: anyhow::Error) -> ReadError {
    let message = format!("{error:#}");
    match Hinted::find(&error) {
        Some(hint) => hinted(message, hint).into(),
        None => anyhow::anyhow!(message).into(),
    }
}

fn request_to(url: &str) -> anyhow::Result<Request<Full<Bytes>>> {
    let mut request = Request::new(Full::default());
    *request.uri_mut() = url.parse().with_context(|| format!("cannot ask `{url}`"))?;
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(client::USER_AGENT));
    Ok(request)
}
