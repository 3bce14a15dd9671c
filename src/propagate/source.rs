//! Where events come from: a file in some order, or standard input.

use std::fs;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use crate::cli::Order;
use crate::core::hint::hinted;
use crate::core::outgoing::Objects;
pub use crate::core::outgoing::Outgoing;

/// Events of standard input that are read ahead.
const EVENTS_AHEAD: usize = 64;

/// Bytes of standard input that are read ahead, unless one event alone is larger.
const BYTES_AHEAD: u32 = 16 << 20;

/// Bytes of standard input that are read at once: as many as a pipe holds on Linux.
const BUFFER_BYTES: usize = 64 << 10;

/// How long to wait for an event that may have been read before the end.
const LEFTOVER_PAUSE: Duration = Duration::from_millis(50);

/// What a file of events looks like.
pub const FILE_HINT: &str = "write a JSON array of objects, or objects one behind the other: [{\"event_type\": \"message\", \"event_payload\": \"hello\"}]";

/// What comes next.
pub enum Next {
    /// An event to send.
    Event {
        /// The event.
        event: Arc<Outgoing>,
        /// Whether it had to be waited for.
        waited: bool,
    },
    /// Something that is no event, and why.
    Invalid(String),
    /// There is no more.
    End,
}

/// A source of events.
pub enum Source {
    /// The events of a file, in an order without end.
    File(Shelf),
    /// The events of standard input, each once.
    Stream(Stream),
}

impl Source {
    /// Opens a file, or standard input where the path is `-`, which is read no further than to the last of `count`
    /// events.
    ///
    /// # Errors
    /// The file cannot be read, or is not a list of objects; says where.
    pub fn open(path: &Path, order: Order, seed: Option<u64>, count: Option<u64>) -> anyhow::Result<Source> {
        if path == Path::new("-") {
            return Ok(Source::Stream(Stream::start(count)?));
        }
        let events = read_file(path)?;
        let random = seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        Ok(Source::File(Shelf::new(events, order, random)))
    }

    /// The next event; waits where standard input has none yet.
    pub async fn next(&mut self) -> Next {
        match self {
            Source::File(shelf) => Next::Event { event: shelf.next(), waited: false },
            Source::Stream(stream) => stream.next().await,
        }
    }

    /// How many events there are before they repeat; none where that is unknown.
    pub fn cycle(&self) -> Option<u64> {
        match self {
            Source::File(shelf) => u64::try_from(shelf.events.len()).ok(),
            Source::Stream(_) => None,
        }
    }

    /// Stops reading standard input; what was read and not sent, a `pending` event first, and what was wrong there.
    pub async fn unsent(&mut self, pending: Option<Arc<Outgoing>>) -> Vec<Result<Arc<Outgoing>, String>> {
        match self {
            Source::File(_) => Vec::new(),
            Source::Stream(stream) => pending.into_iter().map(Ok).chain(stream.stop().await).collect(),
        }
    }
}

/// The events of a file, and which comes next.
pub struct Shelf {
    events: Vec<Arc<Outgoing>>,
    order: Order,
    random: fastrand::Rng,
    position: usize,
}

impl Shelf {
    fn new(events: Vec<Arc<Outgoing>>, order: Order, random: fastrand::Rng) -> Shelf {
        Shelf { events, order, random, position: 0 }
    }

    fn next(&mut self) -> Arc<Outgoing> {
        let position = self.position;
        self.position = (position + 1) % self.events.len();
        match self.order {
            Order::Sequential => {}
            Order::Random => return Arc::clone(&self.events[self.random.usize(..self.events.len())]),
            Order::Shuffle if position == 0 => self.random.shuffle(&mut self.events),
            Order::Shuffle => {}
        }
        Arc::clone(&self.events[position])
    }
}

fn read_file(path: &Path) -> anyhow::Result<Vec<Arc<Outgoing>>> {
    let shown = path.display();
    let bytes = fs::read(path).map_err(|error| {
        hinted(format!("cannot read events from `{shown}`: {error}"), "name a file of events with --file")
    })?;
    let wrong = |problem: String| hinted(format!("cannot read events from `{shown}`: {problem}"), FILE_HINT);
    let events = Outgoing::parse_file(&bytes).map_err(wrong)?;
    Ok(events.into_iter().map(Arc::new).collect())
}

/// The events of standard input.
///
/// They are read on a thread of its own, for which nobody waits: a read cannot be called off.
pub struct Stream {
    events: mpsc::Receiver<Ahead>,
    stopping: Arc<AtomicBool>,
}

/// What was read ahead, and the room that it takes until it is wanted.
struct Ahead {
    event: Result<Arc<Outgoing>, String>,
    _room: OwnedSemaphorePermit,
}

/// An input that ends when it is to be stopped: what is in the buffer of its reader by then is the last of it.
struct Stoppable<R> {
    input: R,
    stopping: Arc<AtomicBool>,
}

impl<R: Read> Read for Stoppable<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stopping.load(Ordering::Relaxed) { Ok(0) } else { self.input.read(buffer) }
    }
}

impl Stream {
    /// Reads no further than so many events.
    fn start(count: Option<u64>) -> anyhow::Result<Stream> {
        let (tx, events) = mpsc::channel(EVENTS_AHEAD);
        let stopping = Arc::new(AtomicBool::new(false));
        let (stop, runtime) = (Arc::clone(&stopping), Handle::current());
        let read = move || {
            let room = Arc::new(Semaphore::new(BYTES_AHEAD as usize));
            let input = Stoppable { input: io::stdin(), stopping: Arc::clone(&stop) };
            let mut objects = Objects::new(BufReader::with_capacity(BUFFER_BYTES, input));
            let mut left = count.unwrap_or(u64::MAX);
            while left > 0 {
                let Some(event) = objects.next() else { break };
                let event = event.map_err(|problem| match stop.load(Ordering::Relaxed) {
                    true => format!("{problem}, where the run ended,"),
                    false => problem,
                });
                let bytes = event.as_ref().map_or(0, |event| event.body.len());
                left -= u64::from(event.is_ok());
                // One that is larger than all the room takes all of it.
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(BYTES_AHEAD);
                let room = runtime.block_on(Arc::clone(&room).acquire_many_owned(bytes));
                let Ok(room) = room else { break };
                if tx.blocking_send(Ahead { event: event.map(Arc::new), _room: room }).is_err() {
                    break;
                }
            }
        };
        thread::Builder::new()
            .name("standard input".to_owned())
            .spawn(read)
            .context("cannot start a thread to read standard input")?;
        Ok(Stream { events, stopping })
    }

    async fn next(&mut self) -> Next {
        let (ahead, waited) = match self.events.try_recv() {
            Ok(ahead) => (Some(ahead), false),
            Err(_) => (self.events.recv().await, true),
        };
        match ahead.map(|ahead| ahead.event) {
            Some(Ok(event)) => Next::Event { event, waited },
            Some(Err(problem)) => Next::Invalid(problem),
            None => Next::End,
        }
    }

    /// Takes what the thread has read already. It may wait for input that never comes, so not for long.
    async fn stop(&mut self) -> Vec<Result<Arc<Outgoing>, String>> {
        self.stopping.store(true, Ordering::Relaxed);
        let mut unsent = Vec::new();
        while let Ok(Some(ahead)) = timeout(LEFTOVER_PAUSE, self.events.recv()).await {
            unsent.push(ahead.event);
        }
        unsent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(order: Order, seed: u64, count: usize) -> Vec<String> {
        let events = Outgoing::parse_file(br#"[{"a":1},{"a":2},{"a":3},{"a":4}]"#).unwrap();
        let events = events.into_iter().map(Arc::new).collect();
        let mut shelf = Shelf::new(events, order, fastrand::Rng::with_seed(seed));
        (0..count).map(|_| shelf.next().body.clone()).collect()
    }

    #[test]
    fn orders_are_what_they_say() {
        let sequential = drawn(Order::Sequential, 1, 6);
        assert_eq!(
            sequential,
            [r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":3}"#, r#"{"a":4}"#, r#"{"a":1}"#, r#"{"a":2}"#]
        );
        let shuffled = drawn(Order::Shuffle, 1, 400);
        for pass in shuffled.chunks(4) {
            let mut pass = pass.to_vec();
            pass.sort();
            assert_eq!(pass, sequential[..4], "every pass holds every event once");
        }
        assert!(shuffled.chunks(4).any(|pass| pass != &shuffled[..4]));
        let random = drawn(Order::Random, 1, 400);
        assert!(sequential[..4].iter().all(|event| random.contains(event)));
        assert_ne!(random[..4], random[4..8]);
    }

    #[test]
    fn a_seed_repeats_the_order() {
        for order in [Order::Random, Order::Shuffle] {
            assert_eq!(drawn(order, 7, 100), drawn(order, 7, 100));
            assert_ne!(drawn(order, 7, 100), drawn(order, 8, 100));
        }
    }
}
