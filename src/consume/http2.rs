//! The deadlines and bounds of an HTTP/2 connection, and the tasks that answer its requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use hyper::rt::Executor;
use tokio::task::JoinSet;

use super::connection::{ConnectionLimits, DRAIN_GRACE, Watched};
use super::content::Content;
use super::routes::Answer;
use super::stream::StreamWatch;

/// Requests that a connection has at once; RFC 9113, section 6.5.2 recommends no fewer than 100.
pub const MAXIMUM_STREAMS: u32 = 128;

/// Streams that a client has reset, and that are remembered, before the connection is given up: the
/// answer to rapid resets (CVE-2023-44487).
pub const MAXIMUM_RESETS: usize = 32;

/// What a client may send of one body, and of all, before it has been read.
pub const STREAM_WINDOW_BYTES: u32 = 256 << 10;
pub const CONNECTION_WINDOW_BYTES: u32 = 512 << 10;

/// What may wait to be sent on a stream.
pub const SEND_BUFFER_BYTES: usize = 256 << 10;

/// The requests of a connection.
pub struct Streams {
    state: Mutex<State>,
}

struct State {
    open: HashMap<u64, Stage>,
    begun: u64,
    draining: bool,
    /// When the connection was opened, or the last request began or was done with.
    changed: Instant,
}

/// How far a request is.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// It is being answered.
    Answering,
    /// It was answered then.
    Answered(Instant),
    /// It gets events, and had room for some then.
    Streaming(Instant),
}

impl Streams {
    /// Of a connection that has just been opened.
    pub fn new() -> Streams {
        let state = State { open: HashMap::new(), begun: 0, draining: false, changed: Instant::now() };
        Streams { state: Mutex::new(state) }
    }

    /// Takes note of a request.
    pub fn begin(streams: &Arc<Streams>) -> OpenRequest {
        let mut state = streams.lock();
        state.begun += 1;
        state.changed = Instant::now();
        let number = state.begun;
        state.open.insert(number, Stage::Answering);
        OpenRequest { streams: Arc::clone(streams), number }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched for Streams {
    fn asked_to_drain(&self) {
        self.lock().draining = true;
    }

    /// Frames alone are no progress: a request is, and its end.
    fn time_left(&self, limits: &ConnectionLimits) -> Option<Duration> {
        let state = self.lock();
        let stream_limit =
            if state.draining { DRAIN_GRACE.min(limits.idle_timeout) } else { limits.idle_timeout };
        let deadline_of = |stage: &Stage| match stage {
            Stage::Answering => None,
            Stage::Answered(at) => Some(*at + limits.response_timeout),
            Stage::Streaming(at) => Some(*at + stream_limit),
        };
        let deadline = match state.open.values().filter_map(deadline_of).min() {
            Some(deadline) => deadline,
            // The routes have deadlines of their own.
            None if !state.open.is_empty() => return Some(limits.shortest_timeout()),
            None if state.begun == 0 => state.changed + limits.header_timeout,
            // What is unread now is the rest of a stream, which can be had again.
            None if state.draining => state.changed + stream_limit,
            None => state.changed + limits.idle_timeout,
        };
        let left = deadline.checked_duration_since(Instant::now())?;
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
            Content::Whole(content) => {
                self.enter(Stage::Answered(Instant::now()));
                Content::Whole(Bytes::from_owner(Unsent { content, _request: self }))
            }
            Content::Events(mut stream) => {
                self.progressed();
                stream.watch_by(self);
                Content::Events(stream)
            }
        };
        Answer::from_parts(head, content)
    }

    fn enter(&self, stage: Stage) {
        self.streams.lock().open.insert(self.number, stage);
    }
}

impl StreamWatch for OpenRequest {
    fn progressed(&self) {
        self.enter(Stage::Streaming(Instant::now()));
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
        state.open.remove(&self.number);
        state.changed = Instant::now();
    }
}

struct Unsent {
    content: Bytes,
    _request: OpenRequest,
}

impl AsRef<[u8]> for Unsent {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

/// Runs what hyper spawns for a connection, and ends it with the connection.
#[derive(Clone, Default)]
pub struct OwnedTasks(Arc<Mutex<JoinSet<()>>>);

impl OwnedTasks {
    /// Ends the tasks that still run.
    pub fn abort(&self) {
        self.lock().abort_all();
    }

    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for OwnedTasks {
    fn execute(&self, task: F) {
        let mut tasks = self.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}
