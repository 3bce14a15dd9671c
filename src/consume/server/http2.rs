//! The deadlines and limits of an HTTP/2 connection, and the tasks that answer its requests.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use hyper::rt::Executor;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::deadlines::{ConnectionLimits, DRAIN_GRACE, Deadlines, LINGER_BYTES, LINGER_TIME};
use crate::consume::answer::Answer;
use crate::consume::body::{BodyWatch, Content, held};

/// Concurrent requests of a connection; RFC 9113, section 6.5.2 recommends no fewer than 100.
pub const MAXIMUM_STREAMS: u32 = 128;

/// Streams that a client resets before they are accepted (CVE-2023-44487), which h2 counts in the accept queue of a
/// connection: above it the connection ends at once.
pub const MAXIMUM_QUEUED_RESETS: usize = 32;

/// Streams that the client makes the server reset (CVE-2025-8671), which h2 counts over the life of a connection: above it
/// the connection ends at once. A connection is replaced long before, see [`LIFETIME_RESETS`].
pub const MAXIMUM_FORCED_RESETS: usize = 1024;

/// Requests of a connection that the client may cancel in a burst: all concurrent ones, and as many again.
const BURST_RESETS: f64 = 2.0 * MAXIMUM_STREAMS as f64;

/// Requests that the client may cancel per second, on average: the clients of a proxy share its connection.
const RESETS_PER_SECOND: f64 = MAXIMUM_STREAMS as f64 / 2.0;

/// Cancelled requests after which a connection is replaced, however slowly they came: half of what h2 allows.
const LIFETIME_RESETS: usize = MAXIMUM_FORCED_RESETS / 2;

/// Flow control: what a client may send of one body, and of all, before it is read.
pub const STREAM_WINDOW_BYTES: u32 = 256 << 10;
pub const CONNECTION_WINDOW_BYTES: u32 = 512 << 10;

/// What may be buffered to be sent on a stream.
pub const SEND_BUFFER_BYTES: usize = 256 << 10;

/// A large response is given to h2 in pieces of this size, the size of a frame, to see how fast the client reads it.
const PIECE_BYTES: usize = 16 << 10;

/// How long a stream that was reset, or a response that h2 has buffered, may stay before the connection is cut.
const RESET_GRACE: Duration = Duration::from_secs(1);

pub struct Streams {
    state: Mutex<State>,
    /// Notified when too many requests were cancelled.
    overused: Notify,
}

struct State {
    open: HashMap<u64, OpenStream>,
    begun: u64,
    draining: bool,
    /// When the connection was opened, or a request last began or ended.
    changed: Instant,
    resets: Resets,
}

struct OpenStream {
    stage: Stage,
    /// None until hyper has spawned it.
    task: Option<AbortHandle>,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Answering,
    /// With the time at which the client last read some of the response.
    Answered {
        at: Instant,
        read: Instant,
    },
    /// With the time at which the client last had room for events.
    Streaming(Instant),
    /// Reset because the client was too slow.
    Reset(Instant),
}

/// A token bucket of cancelled requests.
struct Resets {
    left: f64,
    filled: Instant,
    total: usize,
}

impl Resets {
    fn new(now: Instant) -> Resets {
        Resets { left: BURST_RESETS, filled: now, total: 0 }
    }

    /// Counts one. Returns whether it is one too many; counting then starts again.
    fn note(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.left = (self.left + elapsed * RESETS_PER_SECOND).min(BURST_RESETS) - 1.0;
        self.filled = now;
        self.total += 1;
        let too_many = self.left < 0.0 || self.total > LIFETIME_RESETS;
        if too_many {
            *self = Resets::new(now);
        }
        too_many
    }
}

impl Streams {
    pub fn new() -> Streams {
        let now = Instant::now();
        let state =
            State { open: HashMap::new(), begun: 0, draining: false, changed: now, resets: Resets::new(now) };
        Streams { state: Mutex::new(state), overused: Notify::new() }
    }

    pub fn begin(streams: &Arc<Streams>) -> OpenRequest {
        let mut state = streams.state.lock();
        state.begun += 1;
        state.changed = Instant::now();
        let number = state.begun;
        state.open.insert(number, OpenStream { stage: Stage::Answering, task: None });
        OpenRequest { streams: Arc::clone(streams), number }
    }

    /// Sets the task of the request that began last: hyper spawns it at once.
    fn spawned(&self, task: AbortHandle) {
        let mut state = self.state.lock();
        let newest = state.begun;
        if let Some(stream) = state.open.get_mut(&newest) {
            stream.task = Some(task);
        }
    }

    fn cancelled(&self) {
        if self.state.lock().resets.note(Instant::now()) {
            self.overused.notify_one();
        }
    }
}

impl State {
    /// Resets the streams that are overdue, and leaves the others alone. Returns the next deadline.
    ///
    /// # Errors
    /// A reset has not helped: the client reads nothing at all.
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

struct TooSlow;

impl Deadlines for Streams {
    /// Frames alone are no progress; a request is, and its end.
    fn next_check(&self, limits: &ConnectionLimits) -> Option<Duration> {
        let mut state = self.state.lock();
        let now = Instant::now();
        let deadline = match state.reset_overdue(now, limits).ok()? {
            Some(deadline) => deadline,
            // Routes have deadlines of their own.
            None if !state.open.is_empty() => return Some(limits.shortest_timeout()),
            None if state.begun == 0 => state.changed + limits.header_timeout,
            // What is unread now is the rest of a stream, which its client can resume elsewhere.
            None if state.draining => state.changed + DRAIN_GRACE.min(limits.idle_timeout),
            None => state.changed + limits.idle_timeout,
        };
        let left = deadline.checked_duration_since(now)?;
        // A request that begins now may have a shorter timeout.
        Some(left.min(limits.shortest_timeout()).max(Duration::from_millis(1)))
    }

    fn draining(&self) {
        self.state.lock().draining = true;
    }

    async fn overused(&self) {
        self.overused.notified().await;
    }
}

/// An open request: dropped when its client has read the response or has gone away.
pub struct OpenRequest {
    streams: Arc<Streams>,
    number: u64,
}

impl OpenRequest {
    /// Keeps the request open until the response is sent.
    pub fn answered(self, answer: Answer) -> Answer {
        let (mut parts, content) = answer.into_parts();
        // RFC 9113, section 8.2.2: HTTP/2 has no connection headers.
        parts.headers.remove(CONNECTION);
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
                    Content::Whole(held(content, self))
                } else {
                    let request = Arc::new(self);
                    Content::pieces(held(content, Arc::clone(&request)), PIECE_BYTES, request)
                }
            }
        };
        Answer::from_parts(parts, content)
    }

    fn enter(&self, stage: Stage) {
        if let Some(stream) = self.streams.state.lock().open.get_mut(&self.number)
            && !matches!(stream.stage, Stage::Reset(_))
        {
            stream.stage = match (stage, stream.stage) {
                (Stage::Streaming(read), Stage::Answered { at, .. }) => Stage::Answered { at, read },
                (stage, _) => stage,
            };
        }
    }
}

impl BodyWatch for OpenRequest {
    fn progressed(&self) {
        self.enter(Stage::Streaming(Instant::now()));
    }
}

impl BodyWatch for Arc<OpenRequest> {
    fn progressed(&self) {
        OpenRequest::progressed(self);
    }
}

/// The response to HEAD: the length of a body without the body (RFC 9110, section 9.3.2). hyper removes the body over
/// HTTP/1.1 only.
pub fn without_content(mut answer: Answer) -> Answer {
    // HEAD does not open a stream.
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
        let mut state = self.streams.state.lock();
        let stream = state.open.remove(&self.number);
        state.changed = Instant::now();
        drop(state);
        if stream.is_some_and(|stream| matches!(stream.stage, Stage::Answering)) {
            self.streams.cancelled();
        }
    }
}

/// Runs the tasks that hyper spawns for a connection, and ends them with the connection.
#[derive(Clone)]
pub struct OwnedTasks {
    tasks: Arc<Mutex<JoinSet<()>>>,
    streams: Arc<Streams>,
}

impl OwnedTasks {
    pub fn new(streams: &Arc<Streams>) -> OwnedTasks {
        OwnedTasks { tasks: Arc::default(), streams: Arc::clone(streams) }
    }

    /// Discards the rest of a request body that is answered already, within bounds: common clients lose the response if their
    /// stream is reset while they write, NO_ERROR or not.
    pub fn discard(&self, body: Incoming) {
        let streams = Arc::clone(&self.streams);
        self.spawn(async move {
            if let Ok(true) = timeout(LINGER_TIME, is_cancelled(body)).await {
                streams.cancelled();
            }
        });
    }

    pub fn abort(&self) {
        self.tasks.lock().abort_all();
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task)
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for OwnedTasks {
    fn execute(&self, task: F) {
        self.streams.spawned(self.spawn(task));
    }
}

/// Reads the rest of a body within the bound. Returns whether the client cancelled it.
async fn is_cancelled(mut body: Incoming) -> bool {
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
    fn cancelled_requests_are_limited_by_rate_and_in_total() {
        let begun = Instant::now();
        let mut resets = Resets::new(begun);
        let burst = (0..1000).position(|_| resets.note(begun));
        assert_eq!(burst, Some(BURST_RESETS as usize));
        // At the highest rate.
        let mut resets = Resets::new(begun);
        let steady =
            (0..500).position(|number| resets.note(begun + Duration::from_millis(number * 1000 / 64)));
        assert_eq!(steady, None);
        // One a minute, until the connection is to be replaced.
        let mut resets = Resets::new(begun);
        let slow = (0..1000).position(|number| resets.note(begun + Duration::from_secs(number * 60)));
        assert_eq!(slow, Some(LIFETIME_RESETS));
    }
}
