//! The source of events: a file in some order, or standard input.

use std::fs;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::settings::Order;
use super::template::{EventTemplates, TemplateClock};
use crate::core::outgoing::{Objects, Outgoing};
use crate::error::hinted;

/// The most events of standard input that are read ahead.
const EVENTS_AHEAD: usize = 64;

/// The most bytes of standard input that are read ahead, unless a single event is larger.
const BYTES_AHEAD: u32 = 16 << 20;

/// The size of one read of standard input: what a pipe holds on Linux.
const BUFFER_BYTES: usize = 64 << 10;

/// How long to wait at the end for an event that the thread may have read already.
const LEFTOVER_PAUSE: Duration = Duration::from_millis(50);

pub const FILE_HINT: &str = "write a JSON array of objects, or concatenated objects: [{\"event_type\": \"message\", \"event_payload\": \"hello\"}]";

pub enum Next {
    /// An event, and whether it had to be waited for.
    Event {
        event: Arc<Outgoing>,
        waited: bool,
    },
    /// Something that is not an event; says what and where.
    Invalid(String),
    End,
}

pub enum Source {
    /// The events of a file, repeated forever.
    File(FileEvents),
    /// The events of standard input, each once.
    Stdin(StdinEvents),
}

impl Source {
    /// Opens a file, or standard input if the path is `-`; of that at most `count` events are read.
    ///
    /// # Errors
    /// The file cannot be read, or is not a list of objects; names line and column.
    pub fn open(
        path: &Path,
        order: Order,
        seed: Option<u64>,
        count: Option<u64>,
        template: Option<TemplateClock>,
    ) -> anyhow::Result<Source> {
        if path == Path::new("-") {
            return Ok(Source::Stdin(StdinEvents::start(count)?));
        }
        let events = read_file(path)?;
        let random = seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        let templates = template
            .map(|clock| EventTemplates::new(&events, &random.clone().fork(), clock))
            .transpose()?
            .map(Box::new);
        Ok(Source::File(FileEvents { templates, ..FileEvents::new(events, order, random) }))
    }

    /// The next event; waits for standard input.
    pub async fn next(&mut self) -> Next {
        match self {
            Source::File(file) => file.next(),
            Source::Stdin(stdin) => stdin.next().await,
        }
    }

    /// The number of events before they repeat; none for standard input.
    pub fn cycle(&self) -> Option<u64> {
        match self {
            Source::File(file) => u64::try_from(file.events.len()).ok(),
            Source::Stdin(_) => None,
        }
    }

    /// The next event, if there is one without waiting.
    pub fn try_next(&mut self) -> Option<Next> {
        match self {
            Source::File(file) => Some(file.next()),
            Source::Stdin(stdin) => stdin.try_next(),
        }
    }

    /// Draws events that earlier runs have drawn.
    pub fn pass_over(&mut self, events: u64) {
        if let Source::File(file) = self {
            (0..events).for_each(|_| drop(file.next()));
        }
    }

    /// Stops reading standard input. Returns what was read and not sent, and the problems in between.
    pub async fn unsent(&mut self) -> Vec<Result<Arc<Outgoing>, String>> {
        match self {
            Source::File(_) => Vec::new(),
            Source::Stdin(stdin) => stdin.stop().await,
        }
    }
}

/// The events of a file, in the order of `--order`.
pub struct FileEvents {
    events: Vec<Arc<Outgoing>>,
    order: Order,
    random: fastrand::Rng,
    position: usize,
    /// The sums of the weights up to each event; none where all weigh the same.
    weights: Option<Vec<f64>>,
    /// By their places in the file, which `places` has for each event.
    templates: Option<Box<EventTemplates>>,
    places: Vec<usize>,
}

impl FileEvents {
    fn new(events: Vec<Arc<Outgoing>>, order: Order, random: fastrand::Rng) -> FileEvents {
        let first = events[0].envelope.weight;
        let is_weighted = events.iter().any(|event| event.envelope.weight != first);
        let sums = events.iter().scan(0.0, |sum, event| {
            *sum += event.envelope.weight;
            Some(*sum)
        });
        let weights = is_weighted.then(|| sums.collect());
        let places = (0..events.len()).collect();
        FileEvents { events, order, random, position: 0, weights, templates: None, places }
    }

    fn next(&mut self) -> Next {
        let place = self.next_place();
        let made = self.templates.as_mut().map(|templates| templates.next(place));
        match made {
            None => Next::Event { event: Arc::clone(&self.events[place]), waited: false },
            Some(Ok(event)) => Next::Event { event: Arc::new(event), waited: false },
            Some(Err(problem)) => Next::Invalid(problem),
        }
    }

    /// The place of the next event in the file.
    fn next_place(&mut self) -> usize {
        let position = self.position;
        self.position = (position + 1) % self.events.len();
        match self.order {
            Order::Sequential => {}
            Order::Random => return self.draw(),
            Order::Shuffle if position == 0 => self.random.shuffle(&mut self.places),
            Order::Shuffle => {}
        }
        self.places[position]
    }
}

impl FileEvents {
    /// An event in random order, by its weight.
    fn draw(&mut self) -> usize {
        let count = self.events.len();
        match self.weights.as_ref().and_then(|sums| Some((sums, sums.last()?))) {
            None => self.random.usize(..count),
            Some((sums, total)) => {
                let at = self.random.f64() * total;
                sums.partition_point(|sum| *sum <= at).min(count - 1)
            }
        }
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

/// The events of standard input, which a thread reads ahead. The thread is never joined: a read cannot be cancelled.
pub struct StdinEvents {
    events: mpsc::Receiver<ReadAhead>,
    stopping: Arc<AtomicBool>,
}

struct ReadAhead {
    event: Result<Arc<Outgoing>, String>,
    /// Its share of the bytes that may be read ahead.
    _permit: OwnedSemaphorePermit,
}

impl ReadAhead {
    fn into_next(self, waited: bool) -> Next {
        match self.event {
            Ok(event) => Next::Event { event, waited },
            Err(problem) => Next::Invalid(problem),
        }
    }
}

/// An input that reports its end once it is stopped; what its reader has buffered by then is the last of it.
struct Stoppable<R> {
    input: R,
    stopping: Arc<AtomicBool>,
}

impl<R: Read> Read for Stoppable<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stopping.load(Ordering::Relaxed) { Ok(0) } else { self.input.read(buffer) }
    }
}

impl StdinEvents {
    /// Reads at most `count` events.
    fn start(count: Option<u64>) -> anyhow::Result<StdinEvents> {
        let (tx, events) = mpsc::channel(EVENTS_AHEAD);
        let stopping = Arc::new(AtomicBool::new(false));
        let reader =
            StdinReader { stopping: Arc::clone(&stopping), remaining: count.unwrap_or(u64::MAX), events: tx };
        let runtime = Handle::current();
        thread::Builder::new()
            .name("standard input".to_owned())
            .spawn(move || reader.run(&runtime))
            .context("cannot start a thread to read standard input")?;
        Ok(StdinEvents { events, stopping })
    }

    async fn next(&mut self) -> Next {
        match self.try_next() {
            Some(next) => next,
            None => self.events.recv().await.map_or(Next::End, |read| read.into_next(true)),
        }
    }

    fn try_next(&mut self) -> Option<Next> {
        match self.events.try_recv() {
            Ok(read) => Some(read.into_next(false)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Next::End),
        }
    }

    /// Takes what the thread has read already, for a short time only: it may be waiting for input that never comes.
    async fn stop(&mut self) -> Vec<Result<Arc<Outgoing>, String>> {
        self.stopping.store(true, Ordering::Relaxed);
        let mut unsent = Vec::new();
        while let Ok(Some(read)) = timeout(LEFTOVER_PAUSE, self.events.recv()).await {
            unsent.push(read.event);
        }
        unsent
    }
}

/// What the thread does.
struct StdinReader {
    stopping: Arc<AtomicBool>,
    /// How many more events to read.
    remaining: u64,
    events: mpsc::Sender<ReadAhead>,
}

impl StdinReader {
    fn run(mut self, runtime: &Handle) {
        let bytes_ahead = Arc::new(Semaphore::new(BYTES_AHEAD as usize));
        let input = Stoppable { input: io::stdin(), stopping: Arc::clone(&self.stopping) };
        let mut objects = Objects::new(BufReader::with_capacity(BUFFER_BYTES, input));
        while self.remaining > 0 {
            let Some(object) = objects.next() else { break };
            let event = object.map(Arc::new).map_err(|problem| self.explain(problem));
            self.remaining -= u64::from(event.is_ok());
            // An event that is larger than the whole limit takes all of it.
            let bytes = event.as_ref().map_or(0, |event| event.body.len());
            let permits = u32::try_from(bytes).unwrap_or(u32::MAX).min(BYTES_AHEAD);
            let acquired = runtime.block_on(Arc::clone(&bytes_ahead).acquire_many_owned(permits));
            let permit = acquired.expect("the semaphore is never closed");
            if self.events.blocking_send(ReadAhead { event, _permit: permit }).is_err() {
                break;
            }
        }
    }

    /// A value may have been cut off by the end of the run.
    fn explain(&self, problem: String) -> String {
        if self.stopping.load(Ordering::Relaxed) {
            format!("{problem}, where the run ended,")
        } else {
            problem
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(order: Order, seed: u64, count: usize) -> Vec<String> {
        let events = Outgoing::parse_file(br#"[{"a":1},{"a":2},{"a":3},{"a":4}]"#).unwrap();
        let events = events.into_iter().map(Arc::new).collect();
        let mut file = FileEvents::new(events, order, fastrand::Rng::with_seed(seed));
        (0..count).map(|_| body_of(file.next())).collect()
    }

    fn body_of(next: Next) -> String {
        let Next::Event { event, .. } = next else { panic!("a file has an event") };
        event.body.clone()
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
    fn what_weighs_more_is_drawn_more_often() {
        let text = br#"{"eventctl": 1, "event": {"a": 1}, "weight": 3} {"a": 2} {"eventctl": 1, "event": {"a": 3}, "weight": 0.5}"#;
        let events = Outgoing::parse_file(text).unwrap().into_iter().map(Arc::new).collect();
        let mut file = FileEvents::new(events, Order::Random, fastrand::Rng::with_seed(1));
        let mut counts = [0; 3];
        (0..9000).for_each(|_| counts[usize::from(body_of(file.next()).as_bytes()[6] - b'1')] += 1);
        let expected = [6000, 2000, 1000];
        assert!(
            counts
                .iter()
                .zip(expected)
                .all(|(count, expected)| (expected - 200..expected + 200).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn a_seed_repeats_the_order() {
        for order in [Order::Random, Order::Shuffle] {
            assert_eq!(drawn(order, 7, 100), drawn(order, 7, 100));
            assert_ne!(drawn(order, 7, 100), drawn(order, 8, 100));
        }
    }
}
