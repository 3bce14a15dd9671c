//! An event that is to be sent, and the key that all its attempts have.

use std::sync::Arc;

use uuid::Uuid;

use crate::core::outgoing::Outgoing;

#[derive(Clone)]
pub struct Dispatch {
    pub event: Arc<Outgoing>,
    /// The idempotency key.
    pub key: Arc<str>,
    /// Its number in the journal, if there is one.
    pub number: Option<u64>,
}

impl Dispatch {
    /// An event that no journal knows: with the key of its envelope, or a new one.
    pub fn unrecorded(event: Arc<Outgoing>) -> Dispatch {
        let key = event.envelope.key.clone().unwrap_or_else(|| Uuid::now_v7().to_string());
        Dispatch { event, key: key.into(), number: None }
    }
}
