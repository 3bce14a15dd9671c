//! The end of a run: until when events in flight and their reports are waited for.

use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{info, warn};

use super::scheduler::Slots;
use crate::shutdown::{Shutdown, StopSignal};

/// How long the last reports may take to be printed once all events in flight are abandoned.
const REPORT_TIME: Duration = Duration::from_secs(2);

/// Why no more events are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// All events are sent: those in flight take their time.
    AllSent,
    /// `--duration` has elapsed: events in flight have until the drain deadline.
    DurationElapsed,
    /// The same deadline.
    Signal(StopSignal),
    /// The journal cannot be written: events in flight take their time.
    JournalFailed,
    /// Standard output is closed: events in flight are abandoned.
    OutputClosed,
}

pub struct Drain {
    pub reason: StopReason,
    pub shutdown: Shutdown,
    pub timeout: Duration,
    /// Tells the sender to abandon events in flight.
    pub abort: watch::Sender<bool>,
    pub slots: Slots,
}

impl Drain {
    /// Waits for `finishing`: events in flight, and all reports.
    ///
    /// The first signal sets the deadline, if there is none yet; at the deadline or the next signal, events in flight
    /// are abandoned. None if the reports are not printed even then: a write to a full pipe cannot be cancelled.
    pub async fn wait_for<T>(mut self, finishing: impl Future<Output = T>) -> Option<T> {
        let mut finishing = pin!(finishing);
        let mut aborted = self.reason == StopReason::OutputClosed;
        self.abort.send_replace(aborted);
        let mut deadline = match self.reason {
            StopReason::AllSent | StopReason::JournalFailed | StopReason::OutputClosed => None,
            StopReason::DurationElapsed => Some(self.start_deadline("the duration has elapsed")),
            StopReason::Signal(signal) => Some(self.start_deadline(&format!("stopping after {signal}"))),
        };
        loop {
            tokio::select! {
                finished = finishing.as_mut() => return Some(finished),
                () = sleep_until_some(deadline) => {
                    if aborted {
                        return None;
                    }
                    aborted = true;
                    self.abort_events();
                    deadline = Some(Instant::now() + REPORT_TIME);
                }
                signal = self.shutdown.requested() => {
                    deadline = match deadline {
                        None => Some(self.start_deadline(&format!("stopping after {signal}"))),
                        Some(_) => Some(Instant::now()),
                    };
                }
            }
        }
    }

    fn start_deadline(&self, why: &str) -> Instant {
        let timeout = humantime::format_duration(self.timeout);
        match self.slots.in_flight() {
            0 => info!("{why}: nothing is in flight"),
            events => {
                info!(
                    "{why}: waiting up to {timeout} for {} in flight; another signal abandons them",
                    counted(events)
                )
            }
        }
        Instant::now() + self.timeout
    }

    fn abort_events(&self) {
        match self.slots.in_flight() {
            0 => {}
            events => warn!("abandoning {} in flight", counted(events)),
        }
        self.abort.send_replace(true);
    }
}

fn counted(events: usize) -> String {
    if events == 1 { "1 event".to_owned() } else { format!("{events} events") }
}

/// Sleeps until the instant; forever if there is none.
pub async fn sleep_until_some(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}
