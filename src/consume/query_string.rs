//! Query strings of `GET /event` and `GET /event/stream`.

use std::str::FromStr;

use crate::core::glob::Glob;
use crate::core::query::{Query, parse_position};
use crate::core::text::excerpt;
use crate::store::backend::IdempotencyKey;

/// How many events a page has unless the query string says otherwise.
const DEFAULT_LIMIT: usize = 100;

/// The most events that a query string may ask for.
const MAXIMUM_LIMIT: usize = 1000;

/// The longest part of an untrusted text that a message repeats, in characters.
const EXCERPT_LIMIT: usize = 64;

/// The query of `GET /event`: `limit`, `after`, `before`, `type`, `key`, `since` and `until`, each at most once.
pub fn parse_page_query(text: &str) -> Result<Query, String> {
    let mut query = Query { limit: DEFAULT_LIMIT, ..Query::default() };
    for_each_parameter(text, "limit, after, before, type, key, since, until", |name, value| {
        let explain = |error: String| bad_parameter(name, &error);
        match name {
            "after" => query.after = Some(parse(name, value, "an id such as `17`")?),
            "before" => query.before = Some(parse(name, value, "an id such as `17`")?),
            "type" => query.types = Some(value.parse().map_err(explain)?).into(),
            "key" => {
                query.key =
                    Some(IdempotencyKey::parse(value).map_err(|expected| bad_parameter(name, &expected))?)
            }
            "since" => query.since = Some(value.parse().map_err(explain)?),
            "until" => query.until = Some(value.parse().map_err(explain)?),
            "limit" => query.limit = parse(name, value, "a number from 1 to 1000")?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    if !(1..=MAXIMUM_LIMIT).contains(&query.limit) {
        return Err(bad_parameter("limit", "expected a number from 1 to 1000"));
    }
    Ok(query)
}

/// The query of a list of parked events, `after` and `limit`: an id, and how many.
pub fn parse_position_query(text: &str) -> Result<(i64, usize), String> {
    let (mut after, mut limit) = (0, DEFAULT_LIMIT);
    for_each_parameter(text, "after, limit", |name, value| {
        match name {
            "after" => after = parse(name, value, "an id such as `17`")?,
            "limit" => limit = parse(name, value, "a number from 1 to 1000")?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    if !(1..=MAXIMUM_LIMIT).contains(&limit) {
        return Err(bad_parameter("limit", "expected a number from 1 to 1000"));
    }
    Ok((after, limit))
}

/// The query of `GET /event/stream`.
#[derive(Debug, Clone, Default)]
pub struct StreamQuery {
    /// Only ids above this one; none: only events stored from now on.
    pub after: Option<i64>,
    pub event_type: Option<Glob>,
}

impl StreamQuery {
    /// `type` and `after`, each at most once.
    pub fn parse(text: &str) -> Result<StreamQuery, String> {
        let mut query = StreamQuery::default();
        for_each_parameter(text, "type, after", |name, value| {
            match name {
                "after" => {
                    let after =
                        parse_position(value).ok_or_else(|| unexpected(name, value, "an id such as `17`"))?;
                    query.after = Some(after);
                }
                "type" => {
                    let glob = value.parse().map_err(|error: String| bad_parameter(name, &error))?;
                    query.event_type = Some(glob);
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(query)
    }
}

/// Calls `set` with each parameter of a query string, none of which may be repeated; `set` returns whether it knows it.
fn for_each_parameter(
    text: &str,
    known: &str,
    mut set: impl FnMut(&str, &str) -> Result<bool, String>,
) -> Result<(), String> {
    let parameters: Vec<_> = form_urlencoded::parse(text.as_bytes()).collect();
    for (position, (name, value)) in parameters.iter().enumerate() {
        if parameters[..position].iter().any(|(earlier, _)| earlier == name) {
            return Err(bad_parameter(name, "given twice"));
        }
        if !set(name, value)? {
            return Err(bad_parameter(&excerpt(name, EXCERPT_LIMIT), &format!("not one of {known}")));
        }
    }
    Ok(())
}

fn parse<T: FromStr>(name: &str, value: &str, expected: &str) -> Result<T, String> {
    // A number as JSON writes it: `parse` alone would take a plus sign.
    let number = value.parse().ok().filter(|_| !value.starts_with('+'));
    number.ok_or_else(|| unexpected(name, value, expected))
}

fn unexpected(name: &str, value: &str, expected: &str) -> String {
    let got = excerpt(value, EXCERPT_LIMIT);
    bad_parameter(name, &format!("expected {expected}, got `{got}`"))
}

fn bad_parameter(name: &str, detail: &str) -> String {
    format!("query parameter `{name}`: {detail}")
}
