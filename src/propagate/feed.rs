//! From the source to the scheduler: events with their keys, each in the journal first, where there is one.
//!
//! The journal is written ahead of the schedule, several events at a time, so that one sync of the disk serves them all and
//! none is late because of it.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::dispatch::Dispatch;
use super::journal::Journal;
use super::source::{Next as Read, Source};
use crate::core::outgoing::Outgoing;
use crate::error::hinted;

/// For how long the schedule is served by one write of the journal.
const AHEAD: Duration = Duration::from_millis(250);

/// The most events of one write.
const BATCH_LIMIT: u128 = 1024;

pub enum Next {
    Event {
        dispatch: Dispatch,
        /// Whether the input had to be waited for.
        waited: bool,
    },
    /// Something that is not an event; says what and where.
    Invalid(String),
    End,
}

/// The journal after a write, what was written, and whether it was.
struct Written {
    journal: Journal,
    events: Vec<Arc<Outgoing>>,
    recorded: io::Result<Vec<Dispatch>>,
}

pub struct Feed {
    source: Source,
    /// What may be sent.
    ready: VecDeque<Dispatch>,
    recorder: Option<Recorder>,
    /// What stood before an event that is not recorded yet.
    invalid: VecDeque<String>,
    /// What the journal has not taken.
    refused: Vec<Arc<Outgoing>>,
    /// How many more events may be recorded.
    left: u64,
    has_ended: bool,
}

/// The journal, or the write of it that is under way.
struct Recorder {
    state: RecorderState,
    batch: usize,
}

enum RecorderState {
    Idle(Journal),
    Writing(JoinHandle<Written>),
    /// A write has failed, or its thread: nothing more is sent.
    Failed,
}

impl Feed {
    pub fn unrecorded(source: Source) -> Feed {
        Feed {
            source,
            ready: VecDeque::new(),
            recorder: None,
            invalid: VecDeque::new(),
            refused: Vec::new(),
            left: u64::MAX,
            has_ended: false,
        }
    }

    /// First what earlier runs have no answer to, then what the source has: as many events as are left, if not all.
    pub fn recorded(
        source: Source,
        journal: Journal,
        unanswered: Vec<Dispatch>,
        period: Duration,
        left: Option<u64>,
    ) -> Feed {
        let batch = (AHEAD.as_nanos() / period.as_nanos().max(1)).clamp(1, BATCH_LIMIT) as usize;
        let recorder = Recorder { state: RecorderState::Idle(journal), batch };
        Feed {
            ready: unanswered.into(),
            recorder: Some(recorder),
            left: left.unwrap_or(u64::MAX),
            ..Feed::unrecorded(source)
        }
    }

    /// The next event; waits for standard input. Cancelling loses nothing.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub async fn next(&mut self) -> anyhow::Result<Next> {
        if self.recorder.is_none() {
            return Ok(match self.source.next().await {
                Read::Event { event, waited } => {
                    Next::Event { dispatch: Dispatch::unrecorded(event), waited }
                }
                Read::Invalid(problem) => Next::Invalid(problem),
                Read::End => Next::End,
            });
        }
        let mut waited = false;
        loop {
            self.record_ahead();
            if let Some(problem) = self.invalid.pop_front() {
                return Ok(Next::Invalid(problem));
            }
            if let Some(dispatch) = self.ready.pop_front() {
                return Ok(Next::Event { dispatch, waited });
            }
            if self.finish_write().await? {
                continue;
            }
            if self.has_ended || self.left == 0 {
                return Ok(Next::End);
            }
            match self.source.next().await {
                Read::Event { event, waited: has_waited } => {
                    waited |= has_waited;
                    self.record(vec![event]);
                }
                Read::Invalid(problem) => return Ok(Next::Invalid(problem)),
                Read::End => self.has_ended = true,
            }
        }
    }

    /// Begins to write what the source has at once, where little is ready.
    fn record_ahead(&mut self) {
        let Some(Recorder { state: RecorderState::Idle(_), batch }) = &self.recorder else { return };
        let batch = *batch;
        if self.ready.len() > batch / 2 || self.has_ended {
            return;
        }
        let mut events = Vec::new();
        while events.len() < batch && (events.len() as u64) < self.left {
            match self.source.try_next() {
                Some(Read::Event { event, .. }) => events.push(event),
                Some(Read::Invalid(problem)) => self.invalid.push_back(problem),
                Some(Read::End) => {
                    self.has_ended = true;
                    break;
                }
                None => break,
            }
        }
        self.record(events);
    }

    fn record(&mut self, events: Vec<Arc<Outgoing>>) {
        let Some(recorder) = self.recorder.as_mut().filter(|_| !events.is_empty()) else { return };
        match std::mem::replace(&mut recorder.state, RecorderState::Failed) {
            RecorderState::Idle(mut journal) => {
                self.left = self.left.saturating_sub(events.len() as u64);
                let write = move || {
                    let recorded = journal.record(&events);
                    Written { journal, events, recorded }
                };
                recorder.state = RecorderState::Writing(tokio::task::spawn_blocking(write));
            }
            state => {
                recorder.state = state;
                self.refused.extend(events);
            }
        }
    }

    /// Waits for the write that is under way; false where there is none.
    async fn finish_write(&mut self) -> anyhow::Result<bool> {
        let Some(recorder) = &mut self.recorder else { return Ok(false) };
        let RecorderState::Writing(write) = &mut recorder.state else {
            let has_failed = matches!(recorder.state, RecorderState::Failed);
            anyhow::ensure!(!has_failed, "the journal cannot be written any more");
            return Ok(false);
        };
        let written = write.await;
        recorder.state = RecorderState::Failed;
        let Written { journal, events, recorded } = written?;
        let dispatches = match recorded {
            Ok(dispatches) => dispatches,
            Err(error) => {
                self.refused = events;
                let problem = format!("cannot write the journal `{}`: {error}", journal.path().display());
                return Err(hinted(
                    problem,
                    "make room for it and start again: nothing was sent that is not in it",
                ));
            }
        };
        recorder.state = RecorderState::Idle(journal);
        self.ready.extend(dispatches);
        Ok(true)
    }

    /// Stops reading. Returns what was read and is not sent, and the problems in between: recorded, where there is a
    /// journal, so that the next run sends it.
    pub async fn unsent(&mut self, pending: Option<Dispatch>) -> Vec<Result<Dispatch, String>> {
        let mut unsent: Vec<Result<Dispatch, String>> = pending.into_iter().map(Ok).collect();
        if self.recorder.is_none() {
            let rest = self.source.unsent().await;
            // A file has more events, but none that had to be sent.
            if matches!(self.source, Source::File(_)) {
                unsent.clear();
            }
            unsent.extend(rest.into_iter().map(|read| read.map(Dispatch::unrecorded)));
            return unsent;
        }
        let _ = self.finish_write().await;
        unsent.extend(self.invalid.drain(..).map(Err));
        for read in self.source.unsent().await {
            match read {
                Ok(event) => {
                    self.record(vec![event]);
                    let _ = self.finish_write().await;
                }
                Err(problem) => unsent.push(Err(problem)),
            }
        }
        unsent.extend(self.ready.drain(..).map(Ok));
        unsent.extend(self.refused.drain(..).map(|event| Ok(Dispatch::unrecorded(event))));
        // What a file has and this run did not come to is sent by the next.
        if matches!(self.source, Source::File(_)) {
            unsent.clear();
        }
        unsent
    }
}
