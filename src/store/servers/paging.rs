//! Pages of events from a database server, some rows at a time, so that no page takes more memory than it may.

use super::super::backend::{PAGE_LIMIT_BYTES, Page};
use super::super::cancellation::ReadDeadline;
use super::super::error::DatabaseError;
use super::super::statements::{OF_KEY, Statements, Value, event_of};
use crate::core::event::StoredEvent;
use crate::core::glob::{Glob, Token};
use crate::core::query::Query;

/// How many rows are fetched at once. All of them may be as large as a request may be.
const ROWS_PER_FETCH: usize = 32;

const SELECT_EVENT: &str = "SELECT id, received_at, event_type, event_payload FROM events WHERE id = ?";

/// The events of a page, in the order of their ids.
///
/// # Errors
/// The database's; or the page takes longer than it may, or was cancelled.
pub fn page(
    statements: &mut dyn Statements,
    query: &Query,
    deadline: &ReadDeadline,
) -> Result<Page, DatabaseError> {
    let ascending = query.after.is_some();
    let mut next = query.clone();
    let mut page = Page { events: Vec::new(), more: false };
    let mut bytes = 0;
    'fetching: loop {
        let wanted = (query.limit + 1 - page.events.len()).min(ROWS_PER_FETCH);
        let (statement, values) = select(&next, wanted);
        let rows = statements.query::<4>(&statement, &values)?;
        let fetched: Vec<StoredEvent> = rows.into_iter().map(event_of).collect();
        let last = fetched.len() < wanted;
        let anchor = fetched.last().map(|event| event.id);
        for event in fetched {
            // What the server took for a match is a little more than that.
            if !query.types.selects(&event.event_type) {
                continue;
            }
            bytes += event.event_type.len() + event.event_payload.len();
            let full = bytes > PAGE_LIMIT_BYTES && !page.events.is_empty();
            if full || page.events.len() == query.limit {
                page.more = true;
                break 'fetching;
            }
            page.events.push(event);
        }
        if last {
            break;
        }
        *(if ascending { &mut next.after } else { &mut next.before }) = anchor;
        if deadline.is_over() {
            return Err(DatabaseError::too_slow());
        }
    }
    if !ascending {
        page.events.reverse();
    }
    Ok(page)
}

/// One event, if there is one with this id.
pub fn get(statements: &mut dyn Statements, id: i64) -> Result<Option<StoredEvent>, DatabaseError> {
    let rows = statements.query::<4>(SELECT_EVENT, &[id.into()])?;
    Ok(rows.into_iter().next().map(event_of))
}

const LIKE: &str = "event_type LIKE ? ESCAPE '!'";

fn select(query: &Query, limit: usize) -> (String, Vec<Value>) {
    let mut values = Vec::new();
    let mut conditions = Vec::new();
    let mut add = |condition: &str, value: Option<Value>| {
        let Some(value) = value else { return };
        values.push(value);
        conditions.push(condition.to_owned());
    };
    add("id > ?", query.after.map(Value::Number));
    add("id < ?", query.before.map(Value::Number));
    for condition in OF_KEY {
        add(condition, query.key.clone().map(Value::Text));
    }
    add(LIKE, query.types.pattern.as_ref().map(|glob| Value::Text(like_pattern(glob))));
    add("received_at >= ?", query.since.map(|since| Value::Number(since.as_microseconds())));
    add("received_at < ?", query.until.map(|until| Value::Number(until.as_microseconds())));
    if let Some(permitted) = query.types.permitted.patterns() {
        values.extend(permitted.iter().map(|glob| Value::Text(like_pattern(glob))));
        let any = vec![LIKE; permitted.len()].join(" OR ");
        conditions.push(if any.is_empty() { "1 = 0".to_owned() } else { format!("({any})") });
    }
    let filter =
        if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
    let order = if query.after.is_some() { "ASC" } else { "DESC" };
    let statement = format!(
        "SELECT id, received_at, event_type, event_payload FROM events{filter} ORDER BY id {order} LIMIT {limit}"
    );
    (statement, values)
}

/// The longest literal between two runs that the server is asked to look for, in characters: what it does for a row is
/// bounded so.
const LITERAL_LIMIT: usize = 32;

/// A pattern in SQL that matches what the glob matches, and more where the glob has sets or several runs: the server finds
/// the rows that start and end as the glob does and have its longest literal between, and `Glob::matches` decides.
fn like_pattern(glob: &Glob) -> String {
    let mut parts = glob.tokens().split(|token| *token == Token::Run);
    let mut pattern = parts.next().map(like).unwrap_or_default();
    let parts: Vec<&[Token]> = parts.collect();
    let Some((suffix, between)) = parts.split_last() else { return pattern };
    pattern.push('%');
    let literals = between.iter().flat_map(|part| part.split(|token| matches!(token, Token::Set(_))));
    if let Some(literal) = literals.max_by_key(|literal| literal.len()).filter(|literal| !literal.is_empty())
    {
        pattern += &like(&literal[..literal.len().min(LITERAL_LIMIT)]);
        pattern.push('%');
    }
    pattern + &like(suffix)
}

/// Tokens other than runs, in SQL.
fn like(tokens: &[Token]) -> String {
    let mut pattern = String::new();
    for token in tokens {
        match token {
            Token::Literal(character @ ('%' | '_' | '!')) => pattern.extend(['!', *character]),
            Token::Literal(character) => pattern.push(*character),
            Token::Set(_) => pattern.push('_'),
            Token::Run => pattern.push('%'),
        }
    }
    pattern
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::super::cancellation::Cancellation;
    use super::super::super::error::FailureKind;
    use super::*;

    /// Gives so many full answers, and nothing then.
    struct Answers(usize);

    impl Statements for Answers {
        fn for_update(&self) -> &'static str {
            ""
        }

        fn execute(&mut self, _: &str, _: &[Value]) -> Result<(), DatabaseError> {
            Ok(())
        }

        fn values(&mut self, _: &str, _: &[Value], columns: usize) -> Result<Vec<Value>, DatabaseError> {
            let rows = if self.0 > 0 { ROWS_PER_FETCH } else { 0 };
            self.0 = self.0.saturating_sub(1);
            Ok(vec![Value::Null; rows * columns])
        }
    }

    #[test]
    fn a_page_ends_when_its_time_is_over_or_it_is_cancelled() {
        let query = Query { limit: 1000, ..Query::default() };
        let events = |deadline: &ReadDeadline| {
            let page = page(&mut Answers(3), &query, deadline);
            page.map(|page| page.events.len()).map_err(|error| error.kind)
        };
        let waiting = Cancellation::default();
        assert_eq!(events(&ReadDeadline::start(None, &waiting)), Ok(3 * ROWS_PER_FETCH));
        assert_eq!(events(&ReadDeadline::start(Some(Duration::ZERO), &waiting)), Err(FailureKind::TooSlow));
        let cancelled = Cancellation::default();
        drop(cancelled.guard());
        assert_eq!(events(&ReadDeadline::start(None, &cancelled)), Err(FailureKind::TooSlow));
    }

    #[test]
    fn a_glob_becomes_a_pattern_that_takes_no_less() {
        for (glob, pattern) in [
            ("message", "message"),
            ("user_*", "user!_%"),
            ("100%!?", "100!%!!_"),
            ("a[b-d]e[!]]f", "a_e_f"),
            ("[]]*", "_%"),
            ("[!^]a", "_a"),
            ("*", "%"),
            ("*error*", "%error%"),
            ("a*bc?def*g*[xyz]h", "a%def%_h"),
            ("*?*?*", "%"),
        ] {
            assert_eq!(like_pattern(&glob.parse().unwrap()), pattern, "{glob}");
        }
        let long = format!("*{}*", "x".repeat(200));
        assert_eq!(like_pattern(&long.parse().unwrap()).len(), LITERAL_LIMIT + 2);
    }
}
