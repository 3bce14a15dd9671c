//! What a source gives.

use std::sync::Arc;

use crate::core::outgoing::Outgoing;

pub enum Next {
    /// An event, and whether it had to be waited for.
    Event {
        event: Arc<Outgoing>,
        waited: bool,
    },
    /// Something that is not an event; says what and where.
    Invalid(String),
    End,
}
