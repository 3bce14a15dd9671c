//! The deadlines and bounds of an HTTP/2 connection, and the tasks that answer its requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use hyper::rt::Executor;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::connection::{ConnectionLimits, DRAIN_GRACE, Watched};
use super::content::Content;
use super::http1::{LINGER_BYTES, LINGER_TIME};
use super::routes::Answer;
use super::stream::StreamWatch;

/// Requests that a connection has at once; RFC 9113, section 6.5.2 recommends no fewer than 100.
pub const MAXIMUM_STREAMS: u32 = 128;

/// Streams that a client resets before they have been taken over (CVE-2023-44487), which h2 counts in the queue of a
/// connection: above it the connection ends at once.
pub const MAXIMUM_QUEUED_RESETS: usize = 32;

/// Streams that the client makes the server reset (CVE-2025-8671), which h2 counts over the life of a connection: above it
/// the connection ends at once. A connection is replaced long before, see [`LIFETIME_RESETS`].
pub const MAXIMUM_FORCED_RESETS: usize = 1024;

/// Requests of a connection that may break off together: all that it has at once, and as many again.
const BURST_RESETS: f64 = 2.0 * MAXIMUM_STREAMS as f64;

/// Requests that may break off in a second, on average: the clients of a proxy share its connection.
const RESETS_PER_SECOND: f64 = MAXIMUM_STREAMS as f64 / 2.0;

/// Requests that break off before the connection is replaced by another, however slowly: half of what h2 counts.
const LIFETIME_RESETS: usize = MAXIMUM_FORCED_RESETS / 2;

/// What a client may send of one body, and of all, before it has been read.
pub const STREAM_WINDOW_BYTES: u32 = 256 << 10;
pub const CONNECTION_WINDOW_BYTES: u32 = 512 << 10;

/// What may wait to be sent on a stream.
pub const SEND_BUFFER_BYTES: usize = 256 << 10;

/// A large response is handed to h2 in pieces of this size, so that what its client reads is seen: the size of a frame.
const PIECE_BYTES: usize = 16 << 10;

/// How long a stream that was reset, or a response that h2 has whole, may stay before the connection is cut.
const RESET_GRACE: Duration = Duration::from_secs(1);

/// The requests of a connection.
pub struct Streams {
    state: Mutex<State>,
    /// Notified where more requests have broken off than may.
    strained: Notify,
}

struct State {
    open: HashMap<u64, OpenStream>,
    begun: u64,
    draining: bool,
    /// When the connection was opened, or the last request began or was done with.
    changed: Instant,
    resets: Resets,
}

/// A request, and the task that answers it.
struct OpenStream {
    stage: Stage,
    /// None until hyper has spawned it.
    task: Option<AbortHandle>,
}

/// How far a request is.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// It is being answered.
    Answering,
    /// It was answered, and its client read some of the response last.
    Answered { at: Instant, read: Instant },
    /// It gets events, and had room for some then.
    Streaming(Instant),
    /// It was reset then, because its client was too slow.
    Reset(Instant),
}

/// A token bucket of requests that break off.
struct Resets {
    left: f64,
    filled: Instant,
    in_all: usize,
}

impl Resets {
    fn new(now: Instant) -> Resets {
        Resets { left: BURST_RESETS, filled: now, in_all: 0 }
    }

    /// Takes one into account; whether it is one too many, after which the count begins anew.
    fn note(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.left = (self.left + elapsed * RESETS_PER_SECOND).min(BURST_RESETS) - 1.0;
        self.filled = now;
        self.in_all += 1;
        let too_many = self.left < 0.0 || self.in_all > LIFETIME_RESETS;
        if too_many {
            *self = Resets::new(now);
        }
        too_many
    }
}

impl Streams {
    /// Of a connection that has just been opened.
    pub fn new() -> Streams {
        let now = Instant::now();
        let state =
            State { open: HashMap::new(), begun: 0, draining: false, changed: now, resets: Resets::new(now) };
        Streams { state: Mutex::new(state), strained: Notify::new() }
    }

    /// Takes note of a request.
    pub fn begin(streams: &Arc<Streams>) -> OpenRequest {
        let mut state = streams.lock();
        state.begun += 1;
        state.changed = Instant::now();
        let number = state.begun;
        state.open.insert(number, OpenStream { stage: Stage::Answering, task: None });
        OpenRequest { streams: Arc::clone(streams), number }
    }

    /// Takes note of the task of the request that began last: hyper spawns it at once.
    fn spawned(&self, task: AbortHandle) {
        let mut state = self.lock();
        let newest = state.begun;
        if let Some(stream) = state.open.get_mut(&newest) {
            stream.task = Some(task);
        }
    }

    /// Takes note of a request that broke off.
    fn broken_off(&self) {
        if self.lock().resets.note(Instant::now()) {
            self.strained.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Resets the requests whose clients are too slow: those of others go on. When the next one is due, and none where a
    /// reset has not helped, because nothing at all is read.
    fn reset_overdue(&mut self, now: Instant, limits: &ConnectionLimits) -> Result<Option<Instant>, TooSlow> {
        let stream_limit =
            if self.draining { DRAIN_GRACE.min(limits.idle_timeout) } else { limits.idle_timeout };
        let mut next: Option<Instant> = None;
        for stream in self.open.values_mut() {
            let deadline = match stream.stage {
                Stage::Answering => continue,
                Stage::Answered { at, read } => {
                    (at + limits.response_timeout).min(read + limits.idle_timeout)
                }
                Stage::Streaming(at) => at + stream_limit,
                Stage::Reset(at) => at + RESET_GRACE,
            };
            let deadline = match (stream.stage, &stream.task) {
                _ if deadline > now => deadline,
                (Stage::Answered { .. } | Stage::Streaming(_), Some(task)) if !task.is_finished() => {
                    task.abort();
                    stream.stage = Stage::Reset(now);
                    now + RESET_GRACE
                }
                _ => return Err(TooSlow),
            };
            next = Some(next.map_or(deadline, |next| next.min(deadline)));
        }
        Ok(next)
    }
}

/// Nothing is read.
struct TooSlow;

impl Watched for Streams {
    fn asked_to_drain(&self) {
        self.lock().draining = true;
    }

    async fn strained(&self) {
        self.strained.notified().await;
    }

    /// Frames alone are no progress: a request is, and its end.
    fn time_left(&self, limits: &ConnectionLimits) -> Option<Duration> {
        let mut state = self.lock();
        let now = Instant::now();
        let deadline = match state.reset_overdue(now, limits).ok()? {
            Some(deadline) => deadline,
            // The routes have deadlines of their own.
            None if !state.open.is_empty() => return Some(limits.shortest_timeout()),
            None if state.begun == 0 => state.changed + limits.header_timeout,
            // What is unread now is the rest of a stream, which can be had again.
            None if state.draining => state.changed + DRAIN_GRACE.min(limits.idle_timeout),
            None => state.changed + limits.idle_timeout,
        };
        let left = deadline.checked_duration_since(now)?;
        // A request that begins now may have less time than this one.
        Some(left.min(limits.shortest_timeout()).max(Duration::from_millis(1)))
    }
}

/// A request, until its client has read the response or gone away.
pub struct OpenRequest {
    streams: Arc<Streams>,
    number: u64,
}

impl OpenRequest {
    /// The response, which holds the request open until it is sent.
    pub fn answered(self, answer: Answer) -> Answer {
        let (mut head, content) = answer.into_parts();
        // RFC 9113, section 8.2.2: HTTP/2 has no connection headers.
        head.headers.remove(CONNECTION);
        let content = match content {
            Content::Events(mut stream) => {
                self.progressed();
                stream.watch_by(self);
                Content::Events(stream)
            }
            content => {
                let (now, content) = (Instant::now(), content.into_bytes());
                self.enter(Stage::Answered { at: now, read: now });
                if content.len() <= PIECE_BYTES {
                    Content::Whole(Bytes::from_owner(Unsent { content, _request: self }))
                } else {
                    let request = Arc::new(self);
                    let unsent = Unsent { content, _request: Arc::clone(&request) };
                    Content::pieces(Bytes::from_owner(unsent), PIECE_BYTES, request)
                }
            }
        };
        Answer::from_parts(head, content)
    }

    fn enter(&self, stage: Stage) {
        if let Some(stream) = self.streams.lock().open.get_mut(&self.number)
            && !matches!(stream.stage, Stage::Reset(_))
        {
            stream.stage = match (stage, stream.stage) {
                (Stage::Streaming(read), Stage::Answered { at, .. }) => Stage::Answered { at, read },
                (stage, _) => stage,
            };
        }
    }
}

impl StreamWatch for OpenRequest {
    fn progressed(&self) {
        self.enter(Stage::Streaming(Instant::now()));
    }
}

impl StreamWatch for Arc<OpenRequest> {
    fn progressed(&self) {
        OpenRequest::progressed(self);
    }
}

/// The answer to HEAD, which tells the length of a body that it does not have (RFC 9110, section 9.3.2):
/// hyper leaves the body out for HTTP/1.1 alone.
pub fn without_content(mut answer: Answer) -> Answer {
    // A stream has no length, and HEAD does not open one.
    if let Content::Whole(content) = answer.body()
        && !content.is_empty()
    {
        let length = HeaderValue::from(content.len());
        answer.headers_mut().insert(CONTENT_LENGTH, length);
    }
    answer.map(|_| Content::from(Bytes::new()))
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let mut state = self.streams.lock();
        let stream = state.open.remove(&self.number);
        state.changed = Instant::now();
        drop(state);
        if stream.is_some_and(|stream| matches!(stream.stage, Stage::Answering)) {
            self.streams.broken_off();
        }
    }
}

struct Unsent<R> {
    content: Bytes,
    _request: R,
}

impl<R> AsRef<[u8]> for Unsent<R> {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

/// Runs what hyper spawns for a connection, and ends it with the connection.
#[derive(Clone)]
pub struct OwnedTasks {
    tasks: Arc<Mutex<JoinSet<()>>>,
    streams: Arc<Streams>,
}

impl OwnedTasks {
    /// Of a connection with these requests.
    pub fn new(streams: &Arc<Streams>) -> OwnedTasks {
        OwnedTasks { tasks: Arc::default(), streams: Arc::clone(streams) }
    }

    /// Reads on what a client still sends of a request that is answered already, and throws it away, within bounds.
    ///
    /// A stream that is reset while its client writes loses its response with common clients, NO_ERROR or not.
    pub fn discard(&self, body: Incoming) {
        let streams = Arc::clone(&self.streams);
        self.spawn(async move {
            if let Ok(true) = timeout(LINGER_TIME, breaks_off(body)).await {
                streams.broken_off();
            }
        });
    }

    /// Ends the tasks that still run.
    pub fn abort(&self) {
        self.lock().abort_all();
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let mut tasks = self.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task)
    }

    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for OwnedTasks {
    fn execute(&self, task: F) {
        self.streams.spawned(self.spawn(task));
    }
}

/// Reads the rest of a body, as far as the bound goes; whether it ended before its end.
async fn breaks_off(mut body: Incoming) -> bool {
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return true };
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > LINGER_BYTES {
            return false;
        }
    }
    // hyper takes a stream that is reset with NO_ERROR for one that has ended.
    !body.is_end_stream()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_break_off_are_counted_by_time() {
        let begun = Instant::now();
        let mut resets = Resets::new(begun);
        let burst = (0..1000).position(|_| resets.note(begun));
        assert_eq!(burst, Some(BURST_RESETS as usize));
        // As many a second as there may be.
        let mut resets = Resets::new(begun);
        let steady =
            (0..500).position(|number| resets.note(begun + Duration::from_millis(number * 1000 / 64)));
        assert_eq!(steady, None);
        // One a minute, until there have been so many that another connection takes its place.
        let mut resets = Resets::new(begun);
        let slow = (0..1000).position(|number| resets.note(begun + Duration::from_secs(number * 60)));
        assert_eq!(slow, Some(LIFETIME_RESETS));
    }
}
