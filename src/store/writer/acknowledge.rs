//! How the requests of a batch learn what became of them.
//!
//! Each request waits for its own oneshot channel. To wake a task from the writer's thread costs several times as much as
//! to wake it from a task of the runtime. So the writer wakes only the first request of a batch, and gives it the
//! acknowledgements of all others, which it passes on before it goes on itself ([`Acknowledgement::receive`]). Where the
//! client of the first request is gone, nobody receives: its acknowledgement is then dropped, by the writer or with the
//! channel, and passes the others on as it is.
//!
//! An acknowledgement also takes the events of its request back: it is much cheaper to free memory in the thread that
//! has allocated it.

use tokio::sync::oneshot;

use super::super::backend::{Append, Outcome};
use super::super::error::WriteError;

/// What became of an append, for the request that waits for it.
pub struct Acknowledgement {
    outcome: Result<Outcome, WriteError>,
    _append: Append,
    /// Those of the rest of the batch, where this is the first.
    others: Vec<(Acknowledge, Acknowledgement)>,
}

/// Where a request waits.
pub type Acknowledge = oneshot::Sender<Acknowledgement>;

impl Acknowledgement {
    /// The outcome; the other requests of the batch get theirs first.
    pub fn receive(mut self) -> Result<Outcome, WriteError> {
        self.pass_on();
        self.outcome.clone()
    }

    fn pass_on(&mut self) {
        for (acknowledge, acknowledgement) in self.others.drain(..) {
            let _ = acknowledge.send(acknowledgement);
        }
    }
}

/// The safety net for requests that are cancelled: after [`Acknowledgement::receive`] nothing is left to pass on.
impl Drop for Acknowledgement {
    fn drop(&mut self) {
        self.pass_on();
    }
}

/// Acknowledges a batch, in the order of its appends.
pub fn acknowledge(
    batch: impl IntoIterator<Item = (Acknowledge, Append)>,
    outcomes: impl IntoIterator<Item = Result<Outcome, WriteError>>,
) {
    let mut all = batch.into_iter().zip(outcomes).map(|((acknowledge, append), outcome)| {
        (acknowledge, Acknowledgement { outcome, _append: append, others: Vec::new() })
    });
    let Some((acknowledge, mut first)) = all.next() else { return };
    first.others = all.collect();
    let _ = acknowledge.send(first);
}
