//! Events of standard input.

use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::next::Next;
use crate::core::outgoing::{Objects, Outgoing};

/// The most events of standard input that are read ahead.
const EVENTS_AHEAD: usize = 64;

/// The most bytes of standard input that are read ahead, unless a single event is larger.
const BYTES_AHEAD: u32 = 16 << 20;

/// The size of one read of standard input: what a pipe holds on Linux.
const BUFFER_BYTES: usize = 64 << 10;

/// How long to wait at the end for an event that the thread may have read already.
const LEFTOVER_PAUSE: Duration = Duration::from_millis(50);

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
    pub fn start(count: Option<u64>) -> anyhow::Result<StdinEvents> {
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

    pub async fn next(&mut self) -> Next {
        match self.try_next() {
            Some(next) => next,
            None => self.events.recv().await.map_or(Next::End, |read| read.into_next(true)),
        }
    }

    pub fn try_next(&mut self) -> Option<Next> {
        match self.events.try_recv() {
            Ok(read) => Some(read.into_next(false)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Next::End),
        }
    }

    /// Takes what the thread has read already, for a short time only: it may be waiting for input that never comes.
    pub async fn stop(&mut self) -> Vec<Result<Arc<Outgoing>, String>> {
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
