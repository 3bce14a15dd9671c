//! The queue in front of the writer: what waits, whether there is room, and whether the store takes writes.

use std::mem;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tokio::sync::oneshot;

use super::super::backend::{Append, Backend, Outcome};
use super::super::budget::Reservation;
use super::super::error::{AppendError, WriteError};
use super::acknowledge::{Acknowledge, acknowledge};
use crate::core::measurement::DURATION_BUCKETS;

/// A write this recent proves that the store takes writes.
const PROOF_LIFETIME: Duration = Duration::from_secs(1);

/// How long a store may take for a write before it counts as not answering; longer, where it was that slow before.
pub(super) const ANSWER_TIME: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(5);

/// Writes other than appends that may wait at once.
const WRITE_LIMIT: usize = 64;

/// A write other than an append. It sends its result to its own caller, and returns the failure of the store, if any. It is
/// called with the failure where the store has failed before.
pub type Write = Box<dyn FnOnce(Result<&mut dyn Backend, WriteError>) -> Result<(), WriteError> + Send>;

/// What becomes of a write while the store is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteKind {
    /// It needs room, and is refused.
    Ordinary,
    /// It deletes, and is tried.
    MakesRoom,
}

/// What the writer measures of itself. A clone shares the figures.
#[derive(Debug, Clone)]
pub struct WriterMetrics {
    /// How long commits took, in seconds.
    pub commit_seconds: Histogram,
    /// How many events each commit had.
    pub commit_events: Histogram,
    /// How often the store has stopped taking writes.
    pub failures: Counter,
}

impl Default for WriterMetrics {
    fn default() -> WriterMetrics {
        WriterMetrics {
            commit_seconds: Histogram::new(DURATION_BUCKETS),
            commit_events: Histogram::new(exponential_buckets(1.0, 4.0, 9)),
            failures: Counter::default(),
        }
    }
}

/// What waits for the writer.
pub struct Queue {
    pub metrics: WriterMetrics,
    event_limit: usize,
    state: Mutex<State>,
    changed: Condvar,
}

pub(super) struct State {
    pub(super) work: Work,
    /// Events that were pushed and are not yet answered.
    events: usize,
    /// Whether the writer may take the work: see [`Queue::offer`].
    pub(super) offered: bool,
    /// Why the store takes no writes at present.
    failure: Option<WriteError>,
    last_commit: Option<Instant>,
    /// When the store last took a write.
    proved: Option<Instant>,
    /// Since when the store has worked on what it was given last, if it still does.
    at_work_since: Option<Instant>,
    /// How long the store took for the previous work.
    pub(super) last_work: Duration,
    closed: bool,
    writer_sleeps: bool,
}

/// What the writer does next: the appends in one commit, then the writes, then one proof for all that wait for one.
#[derive(Default)]
pub struct Work {
    pub appends: Vec<PendingAppend>,
    pub writes: Vec<Write>,
    pub proofs: Vec<oneshot::Sender<Result<(), WriteError>>>,
}

impl Work {
    pub(super) fn is_empty(&self) -> bool {
        self.appends.is_empty() && self.writes.is_empty() && self.proofs.is_empty()
    }
}

/// What the writer finds in its queue.
pub enum Next {
    Work(Work),
    /// Nothing, for a while.
    Idle,
    /// Nothing, and nothing will come.
    Closed,
}

pub struct PendingAppend {
    pub append: Append,
    _reservation: Reservation,
    acknowledge: Acknowledge,
}

/// The duty of the first request of a batch: to wake the writer.
///
/// A commit costs as much for one event as for fifty, so the first request first lets those queue up that have arrived
/// with it. One that is cancelled meanwhile drops this, which wakes the writer as well: no client that goes away can
/// leave a batch asleep.
#[must_use]
pub struct FirstOfBatch<'a>(&'a Queue);

impl FirstOfBatch<'_> {
    pub fn wake_writer(self) {
        drop(self);
    }
}

impl Drop for FirstOfBatch<'_> {
    fn drop(&mut self) {
        self.0.offer();
    }
}

impl Queue {
    pub fn new(event_limit: usize) -> Queue {
        let state = State {
            work: Work::default(),
            events: 0,
            offered: false,
            failure: None,
            last_commit: None,
            proved: None,
            at_work_since: None,
            last_work: Duration::ZERO,
            closed: false,
            writer_sleeps: false,
        };
        let metrics = WriterMetrics::default();
        Queue { metrics, event_limit, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Queues an append. The first of a batch has to wake the writer.
    pub fn push(
        &self,
        append: Append,
        reservation: Reservation,
        acknowledge: Acknowledge,
    ) -> Result<Option<FirstOfBatch<'_>>, AppendError> {
        let mut state = self.lock();
        if let Some(failure) = &state.failure {
            return Err(AppendError::Store(failure.clone()));
        }
        // One append larger than the limit must have a chance: it may enter an empty queue.
        let events = state.events + append.events.len();
        if state.closed || events > self.event_limit && state.events > 0 {
            return Err(AppendError::Overloaded);
        }
        state.events = events;
        state.work.appends.push(PendingAppend { append, _reservation: reservation, acknowledge });
        let is_first = state.work.appends.len() == 1;
        drop(state);
        // Not `then_some`: one that is made and not needed would wake the writer when it is dropped.
        Ok(is_first.then(|| FirstOfBatch(self)))
    }

    /// Queues a write that is not an append.
    pub fn push_write(&self, write: Write, kind: WriteKind) -> Result<(), AppendError> {
        let mut state = self.lock();
        match &state.failure {
            Some(WriteError::Full(_)) if kind == WriteKind::MakesRoom => {}
            Some(failure) => return Err(AppendError::Store(failure.clone())),
            None => {}
        }
        if state.closed || state.work.writes.len() >= WRITE_LIMIT {
            return Err(AppendError::Overloaded);
        }
        state.work.writes.push(write);
        drop(state);
        self.offer();
        Ok(())
    }

    /// Asks for a proof that the store takes writes; none is needed where there is a recent one.
    pub fn prove(&self) -> Result<Option<oneshot::Receiver<Result<(), WriteError>>>, AppendError> {
        let mut state = self.lock();
        if let Some(failure) = &state.failure {
            return Err(AppendError::Store(failure.clone()));
        }
        if state.closed || state.events >= self.event_limit {
            return Err(AppendError::Overloaded);
        }
        if state.is_proved() {
            return Ok(None);
        }
        let (proof, proved) = oneshot::channel();
        state.work.proofs.push(proof);
        drop(state);
        self.offer();
        Ok(Some(proved))
    }

    /// How long to wait for a proof before the store counts as not answering: a slow store does not hang.
    pub fn patience(&self) -> Duration {
        let twice = self.lock().last_work.saturating_mul(2);
        twice.clamp(*ANSWER_TIME.start(), *ANSWER_TIME.end())
    }

    /// For how long the store has worked on what it was given last.
    pub fn at_work_for(&self) -> Option<Duration> {
        self.lock().at_work_since.map(|since| since.elapsed())
    }

    /// Events that wait for their commit.
    pub fn depth(&self) -> usize {
        self.lock().events
    }

    /// How long ago the last commit was.
    pub fn last_commit(&self) -> Option<Duration> {
        self.lock().last_commit.map(|commit| commit.elapsed())
    }

    /// Lets the writer take what is queued, and wakes it.
    pub fn offer(&self) {
        let mut state = self.lock();
        state.offered = true;
        self.wake_writer(state);
    }

    fn wake_writer(&self, mut state: MutexGuard<'_, State>) {
        let sleeps = mem::take(&mut state.writer_sleeps);
        drop(state);
        if sleeps {
            self.changed.notify_one();
        }
    }

    /// Waits for work, no longer than the timeout if there is one.
    pub fn take(&self, timeout: Option<Duration>) -> Next {
        let mut state = self.lock();
        if let Some(since) = state.at_work_since.take() {
            state.last_work = since.elapsed();
        }
        loop {
            if !state.work.is_empty() && (state.offered || state.closed) {
                state.offered = false;
                state.at_work_since = Some(Instant::now());
                return Next::Work(mem::take(&mut state.work));
            }
            if state.closed {
                return Next::Closed;
            }
            state.writer_sleeps = true;
            let Some(timeout) = timeout else {
                self.changed.wait(&mut state);
                continue;
            };
            let waited = self.changed.wait_for(&mut state, timeout);
            if waited.timed_out() && state.work.is_empty() && !state.closed {
                return Next::Idle;
            }
        }
    }

    /// These events no longer wait. `stored`: any of them was stored, and not only known or refused.
    pub fn finished(&self, events: usize, stored: bool) {
        let mut state = self.lock();
        state.events -= events;
        if stored {
            state.last_commit = Some(Instant::now());
            state.prove();
        }
    }

    pub fn proved(&self) {
        self.lock().prove();
    }

    pub fn is_proved(&self) -> bool {
        self.lock().is_proved()
    }

    /// Refuses whatever comes until the store has recovered, and returns what waits, to be refused as well; but for writes
    /// that make room and have come since the store is known to be full.
    pub fn fail(&self, failure: &WriteError) -> Work {
        let mut state = self.lock();
        let is_still_full =
            matches!((&state.failure, failure), (Some(WriteError::Full(_)), WriteError::Full(_)));
        state.failure = Some(failure.clone());
        state.events = 0;
        let mut refused = mem::take(&mut state.work);
        if is_still_full {
            state.work.writes = mem::take(&mut refused.writes);
        }
        refused
    }

    /// The writes that a store takes although it is full.
    pub fn take_writes(&self) -> Vec<Write> {
        mem::take(&mut self.lock().work.writes)
    }

    pub fn recovered(&self) {
        let mut state = self.lock();
        state.failure = None;
        state.at_work_since = None;
        state.prove();
    }

    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.wake_writer(state);
    }

    /// Sleeps until the queue is closed or the time is over. Returns whether it is closed.
    pub fn wait_for_close(&self, timeout: Duration) -> bool {
        let mut state = self.lock();
        if !state.closed {
            state.writer_sleeps = true;
            self.changed.wait_for(&mut state, timeout);
        }
        state.closed
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// Notes that the store has taken a write: the proof for everyone who has asked meanwhile.
    fn prove(&mut self) {
        self.proved = Some(Instant::now());
        for waiting in self.work.proofs.drain(..) {
            let _ = waiting.send(Ok(()));
        }
    }

    fn is_proved(&self) -> bool {
        self.proved.is_some_and(|proved| proved.elapsed() < PROOF_LIFETIME)
    }
}

impl Work {
    /// Tells everyone who waits that the store has failed.
    pub fn refuse(self, failure: &WriteError) {
        refuse(self.appends, failure);
        for proof in self.proofs {
            let _ = proof.send(Err(failure.clone()));
        }
        for write in self.writes {
            // It returns the same failure.
            let _ = write(Err(failure.clone()));
        }
    }
}

pub fn refuse(appends: Vec<PendingAppend>, failure: &WriteError) {
    answer(appends, std::iter::repeat(Err(failure.clone())));
}

/// Acknowledges appends, and gives the memory back that was set aside for them.
pub fn answer(appends: Vec<PendingAppend>, outcomes: impl IntoIterator<Item = Result<Outcome, WriteError>>) {
    acknowledge(appends.into_iter().map(|pending| (pending.acknowledge, pending.append)), outcomes);
}
