//! What is wrong with a JSON text: a second pass over one that was refused, so that it names every wrong member.
//!
//! The text is checked against a schema while it is read. Nothing of it is kept but the first errors, so that a hostile
//! body takes no more memory than a valid one.

use std::fmt::{self, Write};

use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::super::text::excerpt;

/// The most member errors that one refusal lists; the rest are counted.
pub const LISTED_ERRORS: usize = 100;

/// The longest name of a member that a message repeats, in bytes; of longer ones it repeats as many characters.
const NAME_LIMIT: usize = 64;

/// Why bytes are not events.
#[derive(Debug, PartialEq, Eq)]
pub enum ParseError {
    /// The bytes are not UTF-8 from this offset on.
    Encoding { offset: usize },
    /// The text is not JSON; the message names line and column and repeats nothing of the text.
    Syntax(String),
    /// Another JSON value follows the first, as in newline-delimited JSON. Line and column (in bytes) of its start count
    /// from 1.
    SeveralValues { line: usize, column: usize },
    /// A line of newline-delimited JSON is not JSON. Its number counts from 1, blank lines included.
    Line { number: usize, message: String },
    /// The JSON is not an event: the first errors in the order of the text, and how many there are in all.
    Shape { errors: Vec<MemberError>, total: usize },
}

/// What is wrong with one member of a JSON text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemberError {
    /// A JSON pointer (RFC 6901).
    pub pointer: String,
    pub detail: String,
}

/// The shape that a JSON value must have.
pub enum Schema {
    /// A string without U+0000 of at most this many characters.
    String { character_limit: usize },
    /// An object with exactly these members.
    Object(&'static [(&'static str, Schema)]),
    /// An array that is not empty.
    Array { item: &'static Schema, expected: &'static str, if_empty: &'static str },
}

impl Schema {
    fn expected(&self) -> &'static str {
        match self {
            Schema::String { .. } => "a string",
            Schema::Object(_) => "an object",
            Schema::Array { expected, .. } => expected,
        }
    }
}

/// Why a string is refused that every store must be able to keep.
pub fn problem_of_string(text: &str, character_limit: usize) -> Option<String> {
    if text.contains('\0') {
        return Some("expected a string without U+0000".to_owned());
    }
    // No string has more characters than bytes.
    if text.len() <= character_limit {
        return None;
    }
    let characters = text.chars().count();
    (characters > character_limit)
        .then(|| format!("expected at most {character_limit} characters, got {characters}"))
}

/// Why a text was refused that does not fit the schema.
pub fn refusal_of(text: &str, schema: &Schema) -> ParseError {
    let mut refusal = Refusal::default();
    refusal.check(text, schema).map_or_else(|error| error, |()| refusal.into_error())
}

/// The errors found so far: the first of them, and how many there are.
#[derive(Default)]
pub struct Refusal {
    errors: Vec<MemberError>,
    total: usize,
    /// Points at what is being checked.
    pointer: String,
}

impl Refusal {
    /// Adds the errors of a text.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn check(&mut self, text: &str, schema: &Schema) -> Result<(), ParseError> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let checked = Check { schema, refusal: self }.deserialize(&mut deserializer);
        checked.and_then(|()| deserializer.end()).map_err(|error| {
            second_value(text, &error).unwrap_or_else(|| ParseError::Syntax(error.to_string()))
        })
    }

    /// The same for an item of a list.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn check_item(&mut self, position: usize, text: &str, schema: &Schema) -> Result<(), ParseError> {
        self.at(position, |refusal| refusal.check(text, schema))
    }

    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    pub fn into_error(self) -> ParseError {
        ParseError::Shape { errors: self.errors, total: self.total }
    }

    /// Runs `check` with `step` appended to the pointer.
    pub fn at<T>(&mut self, step: impl fmt::Display, check: impl FnOnce(&mut Refusal) -> T) -> T {
        let length = self.pointer.len();
        write!(self.pointer, "/{step}").expect("memory takes all text");
        let checked = check(self);
        self.pointer.truncate(length);
        checked
    }

    pub fn add(&mut self, detail: impl Into<String>) {
        self.total += 1;
        if self.errors.len() < LISTED_ERRORS {
            self.errors.push(MemberError { pointer: self.pointer.clone(), detail: detail.into() });
        }
    }

    /// Points at a member.
    pub fn add_at(&mut self, member: &str, detail: impl Into<String>) {
        self.at(member, |refusal| refusal.add(detail));
    }

    /// Points at the unknown member, or, where its name is too long to repeat, at the object that holds it.
    fn add_unknown_member(&mut self, name: &str) {
        if name.len() > NAME_LIMIT {
            return self.add(format!("unknown member `{}`", excerpt(name, NAME_LIMIT)));
        }
        let escaped = name.replace('~', "~0").replace('/', "~1");
        self.at(escaped, |refusal| refusal.add("unknown member"));
    }
}

/// Where a second value begins, if that is the cause of the error.
fn second_value(text: &str, error: &serde_json::Error) -> Option<ParseError> {
    let (line, column) = (error.line(), error.column());
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    values.next()?.ok()?;
    let rest = text[values.byte_offset()..].trim_ascii_start();
    rest.starts_with(['{', '[']).then_some(ParseError::SeveralValues { line, column })
}

/// Checks the value that comes next; fails only where the text is not JSON.
struct Check<'a> {
    schema: &'a Schema,
    refusal: &'a mut Refusal,
}

impl Check<'_> {
    fn mismatch<E>(self, got: &str) -> Result<(), E> {
        self.refusal.add(format!("expected {}, got {got}", self.schema.expected()));
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Check<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Check<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.mismatch("null")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.mismatch("a boolean")
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.mismatch("a number")
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        self.mismatch("a number")
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.mismatch("a number")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        let Schema::String { character_limit } = self.schema else { return self.mismatch("a string") };
        if let Some(problem) = problem_of_string(text, *character_limit) {
            self.refusal.add(problem);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Schema::Array { item: schema, if_empty, .. } = self.schema else {
            while items.next_element::<IgnoredAny>()?.is_some() {}
            return self.mismatch("an array");
        };
        let mut count = 0;
        while self.refusal.at(count, |refusal| items.next_element_seed(Check { schema, refusal }))?.is_some()
        {
            count += 1;
        }
        if count == 0 {
            self.refusal.add(*if_empty);
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let Schema::Object(schemas) = self.schema else {
            while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return self.mismatch("an object");
        };
        let mut seen = vec![false; schemas.len()];
        while let Some(name) = members.next_key::<String>()? {
            let Some(index) = schemas.iter().position(|(known, _)| *known == name) else {
                self.refusal.add_unknown_member(&name);
                members.next_value::<IgnoredAny>()?;
                continue;
            };
            let schema = &schemas[index].1;
            if std::mem::replace(&mut seen[index], true) {
                self.refusal.at(name, |refusal| refusal.add("given twice"));
                members.next_value::<IgnoredAny>()?;
            } else {
                self.refusal.at(name, |refusal| members.next_value_seed(Check { schema, refusal }))?;
            }
        }
        for ((name, schema), _) in schemas.iter().zip(seen).filter(|(_, seen)| !seen) {
            self.refusal.at(name, |refusal| refusal.add(format!("missing: expected {}", schema.expected())));
        }
        Ok(())
    }
}
