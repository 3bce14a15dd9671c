//! The thread that owns the writing connection.

mod acknowledge;
mod queue;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

pub use self::acknowledge::Acknowledgement;
use self::queue::{Next, PendingAppend, Work, answer, refuse};
pub use self::queue::{Queue, Write, WriteKind, WriterMetrics};
use super::backend::{Append, Backend, Outcome};
use super::error::WriteError;
use super::readers::Readers;
use crate::core::backoff::Backoff;
use crate::core::timestamp::Timestamp;

/// How long to wait between two tries to get a failed store to take writes. The processes of one database do
/// not all come back at once.
const RECOVERY: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(2));

/// The writer tidies the store up once it had nothing to do for this long.
const IDLE: Duration = Duration::from_secs(5);

/// The handle of the writer thread, for its owner to watch and to close.
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
        // SQLite's log goes with the last connection to it that may write: readers must be closed first.
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
            let worked = match self.queue.take((!tidy).then_some(IDLE)) {
                Next::Work(work) => {
                    tidy = false;
                    self.work_on(work)
                }
                Next::Idle => self.backend.tidy().map(|done| tidy = done),
                Next::Closed => break,
            };
            let Err(failure) = worked else { continue };
            error!("the store takes no writes: {failure:#}");
            self.queue.metrics.failures.inc();
            self.queue.fail(&failure).refuse(&failure);
            if !self.recover(failure) {
                break;
            }
            info!("the store takes writes again");
        }
        if let Err(undone) = self.backend.close() {
            warn!("the store is closed, but {undone:#}");
        }
    }

    /// Tries until the store takes writes again. Returns false where it is closed before.
    fn recover(&mut self, mut failure: WriteError) -> bool {
        let mut random = fastrand::Rng::new();
        let mut failures = 0;
        let mut makes_room = matches!(failure, WriteError::Full(_));
        loop {
            makes_room = makes_room && self.make_room();
            let Err(reason) = self.backend.recover() else { break };
            makes_room &= matches!(reason, WriteError::Full(_));
            // The store may wait for something else now than what it failed of.
            if format!("{reason:#}") != format!("{failure:#}") {
                warn!("the store still takes no writes: {reason:#}");
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

    /// Runs the writes that a full store takes. Returns whether it may do so again: after any other failure nothing is
    /// written before the store has recovered.
    fn make_room(&mut self) -> bool {
        self.queue.take_writes().into_iter().all(|write| {
            let failure = write(Ok(self.backend.as_mut())).err();
            failure.is_none_or(|failure| matches!(failure, WriteError::Full(_)))
        })
    }

    /// Returns the failure of the store, if any.
    fn work_on(&mut self, work: Work) -> Result<(), WriteError> {
        let Work { appends, writes, proofs } = work;
        let mut result = if appends.is_empty() { Ok(()) } else { self.commit(appends) };
        for write in writes {
            result = match result {
                Ok(()) => write(Ok(self.backend.as_mut())),
                Err(failure) => write(Err(failure)),
            };
        }
        if proofs.is_empty() {
            return result;
        }
        let proof = result.and_then(|()| self.prove());
        for waiting in proofs {
            let _ = waiting.send(proof.clone());
        }
        match proof {
            Err(WriteError::Refused(_)) => Ok(()),
            proof => proof,
        }
    }

    fn prove(&mut self) -> Result<(), WriteError> {
        if !self.queue.is_proved() {
            self.backend.probe()?;
            self.queue.proved();
        }
        Ok(())
    }

    fn commit(&mut self, pending: Vec<PendingAppend>) -> Result<(), WriteError> {
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
                self.queue.finished(events, outcomes.iter().any(is_new));
                answer(pending, outcomes.into_iter().map(Ok));
                Ok(())
            }
            // One bad append must not fail its neighbours: each gets a transaction of its own.
            Err(WriteError::Refused(_)) if pending.len() > 1 => self.commit_one_by_one(pending),
            Err(refusal @ WriteError::Refused(_)) => {
                self.queue.finished(events, false);
                refuse(pending, &refusal);
                Ok(())
            }
            Err(failure) => {
                // A client that repeats its request must get the same answer.
                let waiting = self.queue.fail(&failure);
                refuse(pending, &failure);
                waiting.refuse(&failure);
                Err(failure)
            }
        }
    }

    fn commit_one_by_one(&mut self, pending: Vec<PendingAppend>) -> Result<(), WriteError> {
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

#[cfg(test)]
mod tests;
