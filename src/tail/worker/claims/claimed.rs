//! Events that a worker has.

use std::time::Duration;

use crate::core::event::StoredEvent;

/// Events that were claimed.
pub struct Claimed {
    pub token: String,
    pub lease: Duration,
    pub events: Vec<ClaimedEvent>,
}

pub struct ClaimedEvent {
    pub event: StoredEvent,
    pub attempts: i64,
}

/// What became of what was asked for claimed events.
#[derive(PartialEq, Eq)]
pub enum Settled {
    Done,
    /// The claim is over.
    Over,
}

impl Claimed {
    pub fn ids(&self) -> Vec<i64> {
        self.events.iter().map(|claimed| claimed.event.id).collect()
    }
}
