//! The lock of the outbox, and the pauses that channels ask for.

use std::time::Duration;

use super::super::error::DatabaseError;
use super::super::statements::Statements;
use crate::core::timestamp::Timestamp;

/// The longest pause that a channel can ask for.
const PAUSE_LIMIT: Duration = Duration::from_secs(3600);

/// Waits until no other process holds the lock, and holds it until the commit.
pub fn lock(statements: &mut dyn Statements) -> Result<(), DatabaseError> {
    let lock = format!("SELECT id FROM outbox_lock{}", statements.for_update());
    statements.query::<1>(&lock, &[]).map(drop)
}

/// Whether a channel has asked for a pause.
pub enum Pause {
    None,
    /// Nothing may be sent before this instant.
    Until(Timestamp),
    /// It is over, and the next message has to show whether the channel takes any.
    Over,
}

pub fn pause_of(
    statements: &mut dyn Statements,
    channel: &str,
    now: Timestamp,
) -> Result<Pause, DatabaseError> {
    let select = "SELECT closed_until FROM alert_channels WHERE channel = ?";
    let rows = statements.query::<1>(select, &[channel.into()])?;
    let end = rows.first().and_then(|[end]| end.number_or_null());
    Ok(match end.map(Timestamp::from_microseconds) {
        None => Pause::None,
        // A pause is never longer than the limit: where it seems to be, the clock was set back.
        Some(end) if end > now && end <= now.after(PAUSE_LIMIT) => Pause::Until(end),
        Some(_) => Pause::Over,
    })
}

/// Notes when the pause of a channel ends, under the lock; none where it has none.
pub fn set_pause(
    statements: &mut dyn Statements,
    channel: &str,
    end: Option<Timestamp>,
) -> Result<(), DatabaseError> {
    let select = "SELECT channel FROM alert_channels WHERE channel = ?";
    let is_known = !statements.query::<1>(select, &[channel.into()])?.is_empty();
    let statement = match is_known {
        true => "UPDATE alert_channels SET closed_until = ? WHERE channel = ?",
        false => "INSERT INTO alert_channels (closed_until, channel) VALUES (?, ?)",
    };
    statements.execute(statement, &[end.map(Timestamp::as_microseconds).into(), channel.into()])
}
