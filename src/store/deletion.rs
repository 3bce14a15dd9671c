//! Deletes a single event on request.
//!
//! Its deliveries and what subscriptions have to do with it go as well. Its idempotency key stays, so that a repeated
//! request does not store it again, until retention passes over it.

use super::backend::Backend;
use super::error::{DatabaseError, WriteError};
use super::outbox;
use super::statements::Statements;
use crate::core::type_filter::PermittedTypes;

/// Whether there was an event with this id, of a permitted type.
pub fn delete_event(
    backend: &mut dyn Backend,
    id: i64,
    permitted: &PermittedTypes,
) -> Result<bool, WriteError> {
    backend.prepare_deletion()?;
    backend.run(|statements| delete(statements, id, permitted))
}

fn delete(
    statements: &mut dyn Statements,
    id: i64,
    permitted: &PermittedTypes,
) -> Result<bool, DatabaseError> {
    // Neither retention nor a dispatcher of alerts is in the midst of something with it.
    let lock = format!("SELECT counted_until FROM retention{}", statements.for_update());
    let counted_until = statements.query::<1>(&lock, &[])?.first().map_or(0, |[until]| until.number());
    outbox::lock(statements)?;
    let select =
        "SELECT event_type, octet_length(event_type) + octet_length(event_payload) FROM events WHERE id = ?";
    let Some([event_type, bytes]) = statements.query::<2>(select, &[id.into()])?.into_iter().next() else {
        return Ok(false);
    };
    if !permitted.include(&event_type.into_text()) {
        return Ok(false);
    }
    for delete in [
        "DELETE FROM events WHERE id = ?",
        "DELETE FROM deliveries WHERE event_id = ?",
        "DELETE FROM subscription_events WHERE event_id = ?",
    ] {
        statements.execute(delete, &[id.into()])?;
    }
    if id <= counted_until {
        let uncount = "UPDATE retention SET event_count = event_count - 1, event_bytes = event_bytes - ?";
        statements.execute(uncount, &[bytes])?;
    }
    Ok(true)
}
