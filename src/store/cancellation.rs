//! How a read learns that nobody waits for it any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Whether somebody still waits for a read. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Cancellation(Arc<AtomicBool>);

impl Cancellation {
    /// Whether nobody waits any more.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Cancels when it is dropped.
    pub(super) fn guard(&self) -> CancelOnDrop {
        CancelOnDrop(self.clone())
    }
}

/// Held by whoever waits for a read: a request that goes away drops it.
pub(super) struct CancelOnDrop(Cancellation);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// How long one read goes on: until its time is over, or nobody waits for it.
#[derive(Debug, Clone)]
pub(super) struct ReadDeadline {
    started: Instant,
    limit: Option<Duration>,
    cancellation: Cancellation,
}

impl ReadDeadline {
    pub(super) fn start(limit: Option<Duration>, cancellation: &Cancellation) -> ReadDeadline {
        ReadDeadline { started: Instant::now(), limit, cancellation: cancellation.clone() }
    }

    /// Whether the read is to stop.
    pub(super) fn is_over(&self) -> bool {
        self.cancellation.is_cancelled() || self.limit.is_some_and(|limit| self.started.elapsed() > limit)
    }
}
