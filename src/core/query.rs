//! Which events a reader wants.

use std::fmt;
use std::str::FromStr;

use super::text::excerpt;
use super::timestamp::Timestamp;

/// How many events a page has unless the query string says otherwise.
const DEFAULT_LIMIT: usize = 100;

/// The most events that a query string may ask for.
const MAXIMUM_LIMIT: usize = 1000;

/// The longest part of a stranger's text that a message repeats, in characters.
const EXCERPT_LIMIT: usize = 64;

/// The longest pattern, in bytes: four for each character of the longest type. SQLite takes 50,000.
const PATTERN_LIMIT_BYTES: usize = 1020;

/// A page of events: filters, and where the page lies among the ids.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Only ids above this one; the page then holds the oldest of them.
    pub after: Option<i64>,
    /// Only ids below this one.
    pub before: Option<i64>,
    /// Which event types.
    pub event_type: Option<Glob>,
    /// Only events received at or after this instant.
    pub since: Option<Timestamp>,
    /// Only events received before this instant.
    pub until: Option<Timestamp>,
    /// At most this many events.
    pub limit: usize,
}

impl Query {
    /// Reads a query string: `limit`, `after`, `before`, `type`, `since` and `until`, each at most once.
    ///
    /// # Errors
    /// The first parameter that is wrong, and what would be right.
    pub fn parse(text: &str) -> Result<Query, String> {
        let mut query = Query { limit: DEFAULT_LIMIT, ..Query::default() };
        for_each_parameter(text, "limit, after, before, type, since, until", |name, value| {
            let explain = |error: String| bad_parameter(name, &error);
            match name {
                "after" => query.after = Some(parse(name, value, "an id such as `17`")?),
                "before" => query.before = Some(parse(name, value, "an id such as `17`")?),
                "type" => query.event_type = Some(value.parse().map_err(explain)?),
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
}

/// Which events a stream has.
#[derive(Debug, Clone, Default)]
pub struct StreamQuery {
    /// Only ids above this one; where there is none, only what is stored from now on.
    pub after: Option<i64>,
    /// Which event types.
    pub event_type: Option<Glob>,
}

impl StreamQuery {
    /// Reads a query string: `type` and `after`, each at most once.
    ///
    /// # Errors
    /// The first parameter that is wrong, and what would be right.
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

/// Hands the parameters of a query string on, each of which may be given once; `take` says whether it knows one.
fn for_each_parameter(
    text: &str,
    known: &str,
    mut take: impl FnMut(&str, &str) -> Result<bool, String>,
) -> Result<(), String> {
    let parameters: Vec<_> = form_urlencoded::parse(text.as_bytes()).collect();
    for (position, (name, value)) in parameters.iter().enumerate() {
        if parameters[..position].iter().any(|(earlier, _)| earlier == name) {
            return Err(bad_parameter(name, "given twice"));
        }
        if !take(name, value)? {
            return Err(bad_parameter(&excerpt(name, EXCERPT_LIMIT), &format!("not one of {known}")));
        }
    }
    Ok(())
}

/// An id, or 0 for the place before the first: digits alone.
pub fn parse_position(text: &str) -> Option<i64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
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

/// A pattern over a whole event type: `*` any run, `?` one character, `[a-z]` one of a set, `[!a-z]` one outside it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Glob(String);

impl Glob {
    /// The pattern, with sets negated by `^`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern matches nothing but itself.
    pub fn is_literal(&self) -> bool {
        !self.0.contains(['*', '?', '['])
    }

    /// Whether a type fits the pattern, as SQLite's GLOB has it.
    pub fn matches(&self, event_type: &str) -> bool {
        // Where a run is not long enough, the last `*` takes one character more: the earlier ones need not.
        let (mut pattern, mut text) = (self.0.as_str(), event_type);
        let mut last_star: Option<(&str, &str)> = None;
        loop {
            if let Some(rest) = pattern.strip_prefix('*') {
                last_star = Some((rest, text));
                pattern = rest;
                continue;
            }
            if let Some((rest_of_pattern, rest_of_text)) = match_one(pattern, text) {
                (pattern, text) = (rest_of_pattern, rest_of_text);
                continue;
            }
            if pattern.is_empty() && text.is_empty() {
                return true;
            }
            let Some((behind_star, taken)) = last_star else { return false };
            let mut longer = taken.chars();
            if longer.next().is_none() {
                return false;
            }
            (pattern, text) = (behind_star, longer.as_str());
            last_star = Some((behind_star, text));
        }
    }
}

/// Takes a character of the text and what it fits off the pattern; none where it does not fit.
fn match_one<'a>(pattern: &'a str, text: &'a str) -> Option<(&'a str, &'a str)> {
    let mut characters = text.chars();
    let character = characters.next()?;
    let mut wanted = pattern.chars();
    let rest_of_pattern = match wanted.next()? {
        '?' => wanted.as_str(),
        '[' => match_set(wanted.as_str(), character)?,
        literal if literal == character => wanted.as_str(),
        _ => return None,
    };
    Some((rest_of_pattern, characters.as_str()))
}

/// What is behind a set that a character is in; none where it is not.
fn match_set(set: &str, character: char) -> Option<&str> {
    let (negated, members) = match set.strip_prefix('^') {
        Some(members) => (true, members),
        None => (false, set),
    };
    // A `]` that comes first is a member, and no range begins with it.
    let first = usize::from(members.starts_with(']'));
    let close = first + members[first..].find(']')?;
    let mut found = first == 1 && character == ']';
    let mut rest = members[first..close].chars();
    let mut prior = None;
    while let Some(member) = rest.next() {
        let range = prior.filter(|_| member == '-').zip(rest.clone().next());
        if let Some((from, to)) = range {
            rest.next();
            found |= (from..=to).contains(&character);
            prior = None;
        } else {
            found |= member == character;
            prior = Some(member);
        }
    }
    (found != negated).then(|| &members[close + 1..])
}

impl FromStr for Glob {
    type Err = String;

    fn from_str(text: &str) -> Result<Glob, String> {
        // No type has one, and to SQLite the pattern would end there.
        if text.contains('\0') {
            return Err("expected a pattern without U+0000".to_owned());
        }
        if text.len() > PATTERN_LIMIT_BYTES {
            return Err(format!("expected a pattern of at most {PATTERN_LIMIT_BYTES} bytes"));
        }
        let mut pattern = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, set)) = rest.split_once('[') {
            let negated = set.starts_with(['!', '^']);
            let members = &set[usize::from(negated)..];
            // A `]` that comes first is a member of the set.
            let first = usize::from(members.starts_with(']'));
            let close = members[first..].find(']').ok_or("expected a `]` for every `[` of the pattern")?;
            let (members, after) = members.split_at(first + close + 1);
            pattern.extend([before, if negated { "[^" } else { "[" }, members]);
            rest = after;
        }
        Ok(Glob(pattern + rest))
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_close_their_sets() {
        for right in ["", "message", "user.*", "a?c", "[a-z]*", "[!a]", "[]]", "[!]]x"] {
            assert!(right.parse::<Glob>().is_ok(), "{right}");
        }
        for wrong in ["[", "a[b", "[]", "[!]", "[a][b"] {
            assert!(wrong.parse::<Glob>().is_err(), "{wrong}");
        }
        assert_eq!("[!a]".parse::<Glob>().unwrap().as_str(), "[^a]");
    }

    #[test]
    fn an_exclamation_mark_negates_only_where_a_set_begins() {
        for (text, pattern) in [("[[!]", "[[!]"), ("[][!]*", "[][!]*"), ("[![!]", "[^[!]"), ("a!b", "a!b")] {
            assert_eq!(text.parse::<Glob>().unwrap().as_str(), pattern);
        }
    }

    #[test]
    fn patterns_that_no_store_could_match_are_refused() {
        assert!("a*\0b".parse::<Glob>().is_err());
        assert!("é".repeat(PATTERN_LIMIT_BYTES / 2).parse::<Glob>().is_ok());
        assert!("*".repeat(PATTERN_LIMIT_BYTES + 1).parse::<Glob>().is_err());
    }
}
