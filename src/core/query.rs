//! Which events a reader wants.

use std::fmt;
use std::str::FromStr;

use super::timestamp::Timestamp;

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

/// A pattern over a whole event type: `*` any run, `?` one character, `[a-z]` one of a set, `[!a-z]` one outside it.
#[derive(Debug, Clone, PartialEq, Eq)]
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
}

impl FromStr for Glob {
    type Err = String;

    fn from_str(text: &str) -> Result<Glob, String> {
        let mut rest = text;
        while let Some(open) = rest.find('[') {
            let set = &rest[open + 1..];
            let negated = usize::from(set.starts_with(['!', '^']));
            // A `]` that comes first is a member of the set.
            let first = negated + usize::from(set[negated..].starts_with(']'));
            let close = set[first..].find(']').ok_or("expected a `]` for every `[` of the pattern")?;
            rest = &set[first + close + 1..];
        }
        Ok(Glob(text.replace("[!", "[^")))
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
}
