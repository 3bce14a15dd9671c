//! What the sender reports: the data that flows from each attempt to the report and the metrics.

use std::time::Duration;

use super::dispatch::Dispatch;

pub enum Report {
    /// The event was sent once.
    Attempt(Attempt),
    /// The event is not retried any more because the run is being aborted, or was never sent.
    Abandoned(Dispatch),
    /// The input held something that is not an event; says what and where.
    Invalid(String),
}

/// One send of an event.
pub struct Attempt {
    pub dispatch: Dispatch,
    /// From the scheduled time to the first send.
    pub jitter: Duration,
    /// From this attempt to its response.
    pub latency: Duration,
    /// From the scheduled time to this response.
    pub latency_from_schedule: Duration,
    /// The status of the response, or the error in its place.
    pub status: Result<u16, String>,
    /// What a response that is not 2xx gives as its reason.
    pub reason: Option<String>,
    /// How many attempts preceded this one.
    pub retry: u32,
    /// The final result; none if the event is sent again.
    pub fate: Option<Fate>,
}

impl Attempt {
    /// Why the event was not accepted, where that is known.
    pub fn failure(&self) -> Option<&str> {
        self.reason.as_deref().or(self.status.as_ref().err().map(String::as_str))
    }
}

/// The final result of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was answered 2xx.
    Delivered,
    /// It failed permanently.
    Rejected,
    /// Every attempt failed transiently, or the run was aborted.
    Undelivered,
}
