//! How many events of which types a store holds, over time.

use serde::Serialize;

use super::error::DatabaseError;
use super::statements::{Statements, Value};
use crate::core::query::Query;
use crate::core::timestamp::Timestamp;

/// Into how many parts the time from the first event to the last is divided.
pub const PARTS: i64 = 40;

/// How many events of which types there are, over time.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    /// By type, the most frequent first.
    pub types: Vec<TypeStatistics>,
    /// In equal parts of time.
    pub counts: Vec<i64>,
    /// How long each part is; nothing where there are no events.
    pub part_microseconds: i64,
    /// When the first part begins.
    pub started_at: Option<Timestamp>,
}

#[derive(Debug, Clone, Serialize)]
pub struct TypeStatistics {
    pub event_type: String,
    pub count: i64,
    /// When the first of them was received, and the last.
    pub first: Timestamp,
    pub last: Timestamp,
}

/// Counts the events that a query selects, whatever page it asks for.
pub fn statistics(statements: &mut dyn Statements, query: &Query) -> Result<Statistics, DatabaseError> {
    let since = query.since.map_or(i64::MIN, Timestamp::as_microseconds);
    let until = query.until.map_or(i64::MAX, Timestamp::as_microseconds);
    let range = [Value::from(since), Value::from(until)];
    let ends =
        "SELECT min(received_at), max(received_at) FROM events WHERE received_at >= ? AND received_at < ?";
    let ends = statements.query::<2>(ends, &range)?;
    let Some((start, end)) =
        ends.first().and_then(|[start, end]| start.number_or_null().zip(end.number_or_null()))
    else {
        return Ok(Statistics::default());
    };
    let part = (end - start) / PARTS + 1;
    // What is left of a division is the same in every dialect; a division is not. MySQL takes texts for equal that
    // differ in spaces at their ends, but for their lengths.
    let select = format!(
        "SELECT event_type, received_at - {start} - (received_at - {start}) % {part}, count(*), \
            min(received_at), max(received_at) FROM events WHERE received_at >= ? AND received_at < ? \
            GROUP BY 1, 2, octet_length(event_type) ORDER BY 1, octet_length(event_type), 2"
    );
    let mut statistics = Statistics {
        part_microseconds: part,
        started_at: Some(Timestamp::from_microseconds(start)),
        counts: vec![0; PARTS as usize],
        types: Vec::new(),
    };
    for [event_type, offset, count, first, last] in statements.query::<5>(&select, &range)? {
        let event_type = event_type.into_text();
        if !query.types.selects(&event_type) {
            continue;
        }
        if let Some(part) = statistics.counts.get_mut((offset.number() / part) as usize) {
            *part += count.number();
        }
        let (first, last) =
            (Timestamp::from_microseconds(first.number()), Timestamp::from_microseconds(last.number()));
        match statistics.types.last_mut().filter(|known| known.event_type == event_type) {
            Some(known) => {
                known.count += count.number();
                known.first = known.first.min(first);
                known.last = known.last.max(last);
            }
            None => {
                let count = count.number();
                statistics.types.push(TypeStatistics { event_type, count, first, last });
            }
        }
    }
    statistics.types.sort_by_key(|kind| std::cmp::Reverse(kind.count));
    Ok(statistics)
}
