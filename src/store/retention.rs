//! Forgetting: old events go, a few at a time, with the keys and the settled deliveries that came with them.

use super::backend::{Forgotten, Retention};
use super::statements::Statements;

/// How many events go at once at most: a step takes some milliseconds.
const STEP: usize = 1000;

/// Forgets the oldest events behind an id, as far as the retention allows.
///
/// Events that someone is still to be told of stay.
///
/// # Errors
/// The database's.
pub fn forget<S: Statements>(statements: &mut S, retention: &Retention) -> Result<Forgotten, S::Error> {
    statements.begin()?;
    let newest = statements.query::<1>("SELECT max(id) FROM events", &[])?;
    let newest = newest.first().map_or(0, |[id]| id.number());
    let select = format!("SELECT id, received_at FROM events WHERE id > ? ORDER BY id LIMIT {STEP}");
    let oldest = statements.query::<2>(&select, &[retention.behind.into()])?;
    let is_old = |id: i64, received_at: i64| {
        let before = retention.received_before.map(|before| before.as_microseconds());
        let beyond = retention.events.map(|events| newest.saturating_sub(events));
        before.is_some_and(|before| received_at < before) || beyond.is_some_and(|beyond| id <= beyond)
    };
    let old = oldest.iter().take_while(|[id, received_at]| is_old(id.number(), received_at.number()));
    let old: Vec<i64> = old.map(|[id, _]| id.number()).collect();
    let Some(&until) = old.last() else {
        statements.commit()?;
        return Ok(Forgotten { until: retention.behind, more: false });
    };
    let range = [retention.behind.into(), until.into()];
    let events = "DELETE FROM events WHERE id > ? AND id <= ? AND NOT EXISTS \
        (SELECT 1 FROM deliveries WHERE deliveries.event_id = events.id AND deliveries.due_at IS NOT NULL)";
    statements.execute(events, &range)?;
    let deliveries = "DELETE FROM deliveries WHERE event_id > ? AND event_id <= ? AND due_at IS NULL";
    statements.execute(deliveries, &range)?;
    statements.execute("DELETE FROM idempotency_keys WHERE first_id > ? AND first_id <= ?", &range)?;
    statements.commit()?;
    Ok(Forgotten { until, more: old.len() == STEP })
}
