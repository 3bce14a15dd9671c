//! Queries: which events a reader asks for.

use super::timestamp::Timestamp;
use super::type_filter::TypeFilter;

/// A page of events: its filters and its position among the ids.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Only ids above this one; the page then holds the oldest of them.
    pub after: Option<i64>,
    /// Only ids below this one.
    pub before: Option<i64>,
    pub types: TypeFilter,
    /// Only those of the request with this idempotency key.
    pub key: Option<String>,
    /// Only events received at or after this instant.
    pub since: Option<Timestamp>,
    /// Only events received before this instant.
    pub until: Option<Timestamp>,
    pub limit: usize,
}

/// An id, or 0 for the position before the first one: only digits.
pub fn parse_position(text: &str) -> Option<i64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
