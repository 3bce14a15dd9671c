//! The thread that owns the writing connection, and the queue in front of it.
//!
//! Whatever queued up during one commit is the next one (group commit, no timer).

use std::mem;
use std::ops::RangeInclusive;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::backend::{Append, Backend, Outcome, StoreError};
use super::{AppendError, Readers, Reservation};
use crate::core::backoff::Backoff;
use crate::core::metrics::DURATION_BUCKETS;
use crate::core::timestamp::Timestamp;

/// How long to wait between two tries to get a failed store to take writes. The processes of one database do
/// not all come back at once.
const RECOVERY: Backoff = Backoff { base: Duration::from_millis(250), cap: Duration::from_secs(2) };

/// The writer tidies the store up once it had nothing to do for this long.
const IDLE: Duration = Duration::from_secs(5);

/// A write this recent proves that the store takes writes.
const PROOF_LIFETIME: Duration = Duration::from_secs(1);

/// How long a store may take for a write before it is said not to answer; longer, where it was that slow before.
const ANSWER_TIME: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(5);

/// Writes other than appends that may wait at once.
const WRITE_LIMIT: usize = 64;

pub(super) type Answer<T> = Result<T, StoreError>;

/// A write other than an append. It tells its own caller what became of it, and the writer whether the
/// store has failed; it is told so itself where there is no store to write to.
pub type Write = Box<dyn FnOnce(Result<&mut dyn Backend, StoreError>) -> Answer<()> + Send>;

/// What a write does to a store that is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteKind {
    /// It takes room, and is refused.
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

struct State {
    work: Work,
    /// Events that were pushed and are not yet answered.
    events: usize,
    /// Whether the writer may take the work: see [`Queue::offer`].
    offered: bool,
    /// Why the store takes no writes at present.
    failure: Option<StoreError>,
    last_commit: Option<Instant>,
    /// When the store last took a write.
    proved: Option<Instant>,
    /// Since when the store has been at the work that it was given last, if it still is.
    at_work_since: Option<Instant>,
    /// How long the store took for the work before.
    last_work: Duration,
    closed: bool,
    writer_sleeps: bool,
}

/// What the writer does next: the appends in one commit, then the writes, then one proof for all who wait for one.
#[derive(Default)]
struct Work {
    appends: Vec<PendingAppend>,
    writes: Vec<Write>,
    proofs: Vec<oneshot::Sender<Answer<()>>>,
}

impl Work {
    fn is_empty(&self) -> bool {
        self.appends.is_empty() && self.writes.is_empty() && self.proofs.is_empty()
    }
}

/// What the writer finds at its queue.
enum Next {
    Work(Work),
    /// Nothing, for a while.
    Idle,
    /// Nothing, for ever.
    Closed,
}

struct PendingAppend {
    append: Append,
    _reservation: Reservation,
    acknowledge: oneshot::Sender<Settled>,
}

/// What became of an append, with all that is left to do about it.
pub struct Settled {
    pub outcome: Answer<Outcome>,
    /// Freed by the thread that made it, which is much cheaper than by another.
    _append: Append,
    _followers: Followers,
}

/// Appends of the same batch that the first one tells, once its own task has heard.
///
/// To wake a task from another thread costs several times as much as from a task beside it.
struct Followers(Vec<(oneshot::Sender<Settled>, Settled)>);

impl Drop for Followers {
    fn drop(&mut self) {
        for (acknowledge, settled) in self.0.drain(..) {
            let _ = acknowledge.send(settled);
        }
    }
}

/// Tells what became of a batch, in the order of its appends.
fn settle(appends: Vec<PendingAppend>, outcomes: impl IntoIterator<Item = Answer<Outcome>>) {
    let mut settled = appends.into_iter().zip(outcomes).map(|(pending, outcome)| {
        let followers = Followers(Vec::new());
        (pending.acknowledge, Settled { outcome, _append: pending.append, _followers: followers })
    });
    let Some((acknowledge, first)) = settled.next() else { return };
    let first = Settled { _followers: Followers(settled.collect()), ..first };
    let _ = acknowledge.send(first);
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

    /// Queues an append; whether it is the first of a batch, which its caller is to [`Queue::offer`].
    pub fn push(
        &self,
        append: Append,
        reservation: Reservation,
        acknowledge: oneshot::Sender<Settled>,
    ) -> Result<bool, AppendError> {
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
        Ok(state.work.appends.len() == 1)
    }

    /// Queues a write that is not an append.
    pub fn push_write(&self, write: Write, kind: WriteKind) -> Result<(), AppendError> {
        let mut state = self.lock();
        match &state.failure {
            Some(StoreError::Full(_)) if kind == WriteKind::MakesRoom => {}
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

    /// Asks for a proof that the store takes writes; none where there is a recent one.
    pub fn prove(&self) -> Result<Option<oneshot::Receiver<Answer<()>>>, AppendError> {
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

    /// How long to wait for a proof before the store is said not to answer: a slow one is none that hangs.
    pub fn patience(&self) -> Duration {
        let twice = self.lock().last_work.saturating_mul(2);
        twice.clamp(*ANSWER_TIME.start(), *ANSWER_TIME.end())
    }

    /// For how long the store has been at the work that it was given last.
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

    /// Lets the writer take what is queued.
    ///
    /// A commit costs as much for one event as for fifty, so the first of a batch lets the requests
    /// that have arrived with it be queued as well before it wakes the writer.
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

    /// Waits for work, no longer than the timeout where there is one.
    fn take(&self, timeout: Option<Duration>) -> Next {
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
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let woken = self.changed.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner);
            state = woken.0;
            if woken.1.timed_out() && state.work.is_empty() && !state.closed {
                return Next::Idle;
            }
        }
    }

    /// So many events no longer wait; whether any of them was stored, and not only found or refused.
    fn settled(&self, events: usize, stored: bool) {
        let mut state = self.lock();
        state.events -= events;
        if stored {
            state.last_commit = Some(Instant::now());
            state.prove();
        }
    }

    fn proved(&self) {
        self.lock().prove();
    }

    fn is_proved(&self) -> bool {
        self.lock().is_proved()
    }

    /// Refuses all that waits and all that comes, until the store has recovered; but for what has come to make room since
    /// the store is known to be full.
    fn fail(&self, failure: &StoreError) -> Work {
        let mut state = self.lock();
        let is_still_full =
            matches!((&state.failure, failure), (Some(StoreError::Full(_)), StoreError::Full(_)));
        state.failure = Some(failure.clone());
        state.events = 0;
        let mut refused = mem::take(&mut state.work);
        if is_still_full {
            state.work.writes = mem::take(&mut refused.writes);
        }
        refused
    }

    /// What a store that has failed takes nevertheless.
    fn take_writes(&self) -> Vec<Write> {
        mem::take(&mut self.lock().work.writes)
    }

    fn recovered(&self) {
        let mut state = self.lock();
        state.failure = None;
        state.at_work_since = None;
        state.prove();
    }

    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.wake_writer(state);
    }

    /// Sleeps until the queue is closed or the time is over; whether it is closed.
    fn wait_for_close(&self, timeout: Duration) -> bool {
        let mut state = self.lock();
        if !state.closed {
            state.writer_sleeps = true;
            let woken = self.changed.wait_timeout(state, timeout);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.closed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The store has taken a write, which is what all wait for who have asked for a proof meanwhile.
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

/// The writer thread, for its owner to watch and to close.
pub struct Writer {
    queue: Arc<Queue>,
    readers: Arc<Readers>,
    stopped: oneshot::Receiver<()>,
}

impl Writer {
    pub(super) fn start(
        backend: Box<dyn Backend>,
        queue: Arc<Queue>,
        readers: Arc<Readers>,
    ) -> anyhow::Result<Writer> {
        let (stopping, stopped) = oneshot::channel();
        let thread_queue = Arc::clone(&queue);
        let run = move || {
            WriterThread { backend, queue: thread_queue }.run();
            let _ = stopping.send(());
        };
        thread::Builder::new()
            .name("store writer".to_owned())
            .spawn(run)
            .context("cannot start the store's writer thread")?;
        Ok(Writer { queue, readers, stopped })
    }

    /// Commits what is queued, closes the store and waits for the end of the thread.
    pub async fn close(self) {
        // SQLite's log goes with the last connection to it that may write: those that read must go first.
        let _no_more_reads = self.readers.close().await;
        self.queue.close();
        // An error here means that the thread panicked; its message is on standard error.
        let _ = self.stopped.await;
    }

    /// Waits until the thread ends by itself, which it does only if it panics.
    pub async fn died(&mut self) {
        let _ = (&mut self.stopped).await;
    }
}

struct WriterThread {
    backend: Box<dyn Backend>,
    queue: Arc<Queue>,
}

impl WriterThread {
    fn run(mut self) {
        // An earlier process may have left something to tidy up.
        let mut tidy = false;
        loop {
            let settled = match self.queue.take((!tidy).then_some(IDLE)) {
                Next::Work(work) => {
                    tidy = false;
                    self.settle(work)
                }
                Next::Idle => self.backend.tidy().map(|done| tidy = done),
                Next::Closed => break,
            };
            let Err(failure) = settled else { continue };
            error!("the store takes no writes: {failure}");
            self.queue.metrics.failures.inc();
            self.queue.fail(&failure).refuse(&failure);
            if !self.recover(failure) {
                break;
            }
            info!("the store takes writes again");
        }
        if let Err(undone) = self.backend.close() {
            warn!("the store is closed, but {undone}");
        }
    }

    /// Tries until the store takes writes again; false where it is closed before.
    fn recover(&mut self, mut failure: StoreError) -> bool {
        let mut random = fastrand::Rng::new();
        let mut failures = 0;
        let mut makes_room = matches!(failure, StoreError::Full(_));
        loop {
            makes_room = makes_room && self.make_room();
            let Err(reason) = self.backend.recover() else { break };
            makes_room &= matches!(reason, StoreError::Full(_));
            // What it waits for now may be another thing than what it failed of.
            if reason.to_string() != failure.to_string() {
                warn!("the store still takes no writes: {reason}");
                self.queue.fail(&reason).refuse(&reason);
                failure = reason;
            }
            failures += 1;
            if self.queue.wait_for_close(RECOVERY.wait(failures, &mut random)) {
                return false;
            }
        }
        self.queue.recovered();
        true
    }

    /// Runs the writes that a full store takes; whether it may do so again. After any other failure nothing is written
    /// before the store has recovered.
    fn make_room(&mut self) -> bool {
        self.queue.take_writes().into_iter().all(|write| {
            let failure = write(Ok(self.backend.as_mut())).err();
            failure.is_none_or(|failure| matches!(failure, StoreError::Full(_)))
        })
    }

    fn settle(&mut self, work: Work) -> Answer<()> {
        let Work { appends, writes, proofs } = work;
        let mut settled = if appends.is_empty() { Ok(()) } else { self.commit(appends) };
        for write in writes {
            settled = match settled {
                Ok(()) => write(Ok(self.backend.as_mut())),
                Err(failure) => write(Err(failure)),
            };
        }
        if proofs.is_empty() {
            return settled;
        }
        let proof = settled.and_then(|()| self.prove());
        for waiting in proofs {
            let _ = waiting.send(proof.clone());
        }
        match proof {
            Err(StoreError::Refused(_)) => Ok(()),
            proof => proof,
        }
    }

    fn prove(&mut self) -> Answer<()> {
        if !self.queue.is_proved() {
            self.backend.probe()?;
            self.queue.proved();
        }
        Ok(())
    }

    fn commit(&mut self, pending: Vec<PendingAppend>) -> Answer<()> {
        let appends: Vec<&Append> = pending.iter().map(|pending| &pending.append).collect();
        let events = appends.iter().map(|append| append.events.len()).sum();
        let begun = Instant::now();
        match self.backend.append(&appends, Timestamp::now()) {
            Ok(outcomes) => {
                let metrics = &self.queue.metrics;
                metrics.commit_seconds.observe(begun.elapsed().as_secs_f64());
                metrics.commit_events.observe(events as f64);
                // Without an event that is new nothing was written.
                let is_new = |outcome: &Outcome| matches!(outcome, Outcome::Stored { repeated: false, .. });
                self.queue.settled(events, outcomes.iter().any(is_new));
                settle(pending, outcomes.into_iter().map(Ok));
                Ok(())
            }
            // One bad append must not fail its neighbours: each gets a transaction of its own.
            Err(StoreError::Refused(_)) if pending.len() > 1 => self.commit_one_by_one(pending),
            Err(refusal @ StoreError::Refused(_)) => {
                self.queue.settled(events, false);
                refuse(pending, &refusal);
                Ok(())
            }
            Err(failure) => {
                // Whoever hears of it and asks again must hear the same.
                let waiting = self.queue.fail(&failure);
                refuse(pending, &failure);
                waiting.refuse(&failure);
                Err(failure)
            }
        }
    }

    fn commit_one_by_one(&mut self, pending: Vec<PendingAppend>) -> Answer<()> {
        let mut rest = pending.into_iter();
        while let Some(one) = rest.next() {
            if let Err(failure) = self.commit(vec![one]) {
                refuse(rest.collect(), &failure);
                return Err(failure);
            }
        }
        Ok(())
    }
}

impl Work {
    fn refuse(self, failure: &StoreError) {
        refuse(self.appends, failure);
        for proof in self.proofs {
            let _ = proof.send(Err(failure.clone()));
        }
        for write in self.writes {
            // It says no more than it was told.
            let _ = write(Err(failure.clone()));
        }
    }
}

fn refuse(appends: Vec<PendingAppend>, failure: &StoreError) {
    settle(appends, std::iter::repeat(Err(failure.clone())));
}

#[cfg(test)]
mod tests;
