//! Where events come from: a file in some order, or the lines of standard input.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::cli::Order;
use crate::core::hint::hinted;
pub use crate::core::outgoing::Outgoing;

/// Lines of standard input that are read ahead.
const LINES_AHEAD: usize = 64;

/// How long to wait for a line that may have been read before the end.
const LEFTOVER_PAUSE: Duration = Duration::from_millis(50);

/// The longest line of standard input, in bytes.
const LINE_LIMIT_BYTES: u64 = 64 << 20;

/// What a file of events looks like.
pub const FILE_HINT: &str = "write a JSON array of objects, or an object a line: [{\"event_type\": \"message\", \"event_payload\": \"hello\"}]";

/// What comes next.
pub enum Next {
    /// An event to send.
    Event {
        /// The event.
        event: Arc<Outgoing>,
        /// Whether it had to be waited for.
        waited: bool,
    },
    /// A line that is no event, and why.
    Invalid(String),
    /// There is no more.
    End,
}

/// A source of events.
pub enum Source {
    /// The events of a file, in an order without end.
    File(Shelf),
    /// The lines of standard input, each once.
    Lines(Lines),
}

impl Source {
    /// Opens a file, or standard input where the path is `-`.
    ///
    /// # Errors
    /// The file cannot be read, or is not a list of objects; says where.
    pub fn open(path: &Path, order: Order, seed: Option<u64>) -> anyhow::Result<Source> {
        if path == Path::new("-") {
            return Ok(Source::Lines(Lines::start()?));
        }
        let events = read_file(path)?;
        let random = seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        Ok(Source::File(Shelf::new(events, order, random)))
    }

    /// The next event; waits where standard input has no line yet.
    pub async fn next(&mut self) -> Next {
        match self {
            Source::File(shelf) => Next::Event { event: shelf.next(), waited: false },
            Source::Lines(lines) => lines.next().await,
        }
    }

    /// How many events there are before they repeat; none where that is unknown.
    pub fn cycle(&self) -> Option<u64> {
        match self {
            Source::File(shelf) => u64::try_from(shelf.events.len()).ok(),
            Source::Lines(_) => None,
        }
    }

    /// Stops reading standard input; the lines that were read and not sent, a `pending` one first.
    pub async fn unsent_lines(&mut self, pending: Option<Arc<Outgoing>>) -> Vec<Arc<Outgoing>> {
        match self {
            Source::File(_) => Vec::new(),
            Source::Lines(lines) => pending.into_iter().chain(lines.stop().await).collect(),
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

/// The lines of standard input.
///
/// They are read on a thread of its own, for which nobody waits: a read cannot be called off.
pub struct Lines {
    lines: mpsc::Receiver<Result<Arc<Outgoing>, String>>,
    stopping: Arc<AtomicBool>,
}

impl Lines {
    fn start() -> anyhow::Result<Lines> {
        let (tx, lines) = mpsc::channel(LINES_AHEAD);
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let read = move || {
            let mut input = BufReader::new(io::stdin());
            for number in 1.. {
                if stop.load(Ordering::Relaxed) && input.buffer().is_empty() {
                    break;
                }
                let line = match next_line(&mut input) {
                    Ok(None) => break,
                    Ok(Some(line)) if line.trim_ascii().is_empty() => continue,
                    Ok(Some(line)) => Outgoing::parse_line(&line, number).map(Arc::new),
                    Err(error) => Err(format!("{error} at line {number}")),
                };
                if tx.blocking_send(line).is_err() {
                    break;
                }
            }
        };
        thread::Builder::new()
            .name("standard input".to_owned())
            .spawn(read)
            .context("cannot start a thread to read standard input")?;
        Ok(Lines { lines, stopping })
    }

    async fn next(&mut self) -> Next {
        let (line, waited) = match self.lines.try_recv() {
            Ok(line) => (Some(line), false),
            Err(_) => (self.lines.recv().await, true),
        };
        match line {
            Some(Ok(event)) => Next::Event { event, waited },
            Some(Err(problem)) => Next::Invalid(problem),
            None => Next::End,
        }
    }

    /// Takes what the thread has read already. It may wait for input that never comes, so not for long.
    async fn stop(&mut self) -> Vec<Arc<Outgoing>> {
        self.stopping.store(true, Ordering::Relaxed);
        let mut unsent = Vec::new();
        while let Ok(Some(line)) = timeout(LEFTOVER_PAUSE, self.lines.recv()).await {
            unsent.extend(line);
        }
        unsent
    }
}

/// The next line, or why it is none. A line that is too long is passed over to its end.
fn next_line(input: &mut impl BufRead) -> Result<Option<String>, String> {
    let mut line = Vec::new();
    let read = |input: &mut dyn BufRead, line: &mut Vec<u8>| {
        line.clear();
        input.take(LINE_LIMIT_BYTES).read_until(b'\n', line).map_err(|error| error.to_string())
    };
    if read(input, &mut line)? == 0 {
        return Ok(None);
    }
    if line.len() as u64 == LINE_LIMIT_BYTES && !line.ends_with(b"\n") {
        while read(input, &mut line)? > 0 && !line.ends_with(b"\n") {}
        return Err(format!("longer than {LINE_LIMIT_BYTES} bytes"));
    }
    String::from_utf8(line).map(Some).map_err(|_| "not UTF-8".to_owned())
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
