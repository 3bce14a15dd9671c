//! The event, and the only way to make one: parsing bytes.

pub mod cloud_event;
mod explain;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

pub use self::explain::{MemberError, ParseError};
use self::explain::{Refusal, Schema, problem_of_string, refusal_of};
use super::text::str_without_byte_order_mark;
use super::timestamp::Timestamp;

/// The longest event type, in characters.
pub const EVENT_TYPE_LIMIT: usize = 255;

/// The type of the event that a health alert is.
pub const HEALTH_ALERT: &str = "health_alert";

/// The hint for an object that continues on the next line.
const WHOLE_LINES: &str =
    "; each line is an object of its own: send one that has several lines as `application/json`";

/// The hint for objects whose line breaks are lost.
const NO_NEWLINES: &str =
    "; each object needs a line of its own: `curl` keeps them with `--data-binary`, not with `-d`";

const NO_EVENTS: &str = "expected at least one event";

const STRING: Schema = Schema::String { character_limit: usize::MAX };

const EVENT_SCHEMA: Schema = Schema::Object(&[
    ("event_type", Schema::String { character_limit: EVENT_TYPE_LIMIT }),
    ("event_payload", STRING),
]);

const EVENTS_SCHEMA: Schema =
    Schema::Array { item: &EVENT_SCHEMA, expected: "an array of objects", if_empty: NO_EVENTS };

const HEALTH_ALERT_SCHEMA: Schema = Schema::Object(&[(
    "issues",
    Schema::Array { item: &STRING, expected: "an array of strings", if_empty: "expected at least one issue" },
)]);

/// A valid event: two strings without U+0000, the type at most [`EVENT_TYPE_LIMIT`] characters long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    event_type: String,
    event_payload: String,
}

/// An event as a store gives it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredEvent {
    /// Position in the store: strictly increasing, never reused.
    pub id: i64,
    /// When the store's writer took it.
    pub received_at: Timestamp,
    pub event_type: String,
    pub event_payload: String,
}

impl StoredEvent {
    /// Type and payload alone, as a client sends them.
    pub fn to_submission(&self) -> String {
        serde_json::json!({"event_type": self.event_type, "event_payload": self.event_payload}).to_string()
    }

    /// Appends the event as JSON, on one line.
    pub fn write_json(&self, text: &mut Vec<u8>) {
        serde_json::to_writer(text, self).expect("strings and numbers can be written to memory");
    }
}

impl Event {
    /// Reads one JSON object with exactly the members `event_type` and `event_payload`, both strings.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Event, ParseError> {
        let text = text_of(bytes)?;
        serde_json::from_str(text).map_err(|_| refusal_of(text, &EVENT_SCHEMA))
    }

    /// Reads a JSON array of events; not empty.
    ///
    /// # Errors
    /// Everything that is wrong with it, each pointer starting with the position in the array.
    pub fn parse_array(bytes: &[u8]) -> Result<Vec<Event>, ParseError> {
        let text = text_of(bytes)?;
        let events: Option<Vec<Event>> = serde_json::from_str(text).ok();
        events.filter(|events| !events.is_empty()).ok_or_else(|| refusal_of(text, &EVENTS_SCHEMA))
    }

    /// Reads newline-delimited JSON, an event a line; not empty. Blank lines are skipped.
    ///
    /// # Errors
    /// Everything that is wrong with it, each pointer starting with the position among the events; or the first line that
    /// is not JSON.
    pub fn parse_lines(bytes: &[u8]) -> Result<Vec<Event>, ParseError> {
        let mut events = Vec::new();
        let mut refusal = Refusal::default();
        let lines = text_of(bytes)?.split('\n').enumerate();
        let written_lines = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
        for (position, (index, line)) in written_lines.enumerate() {
            let line = str_without_byte_order_mark(line);
            match serde_json::from_str(line) {
                Ok(event) => events.push(event),
                Err(_) => refusal
                    .check_item(position, line, &EVENT_SCHEMA)
                    .map_err(|error| in_line(index + 1, error))?,
            }
        }
        if events.is_empty() && refusal.is_empty() {
            refusal.add(NO_EVENTS);
        }
        if refusal.is_empty() { Ok(events) } else { Err(refusal.into_error()) }
    }

    /// Reads a health alert, one JSON object with exactly the member `issues`, a list of strings that is not
    /// empty: an event of type [`HEALTH_ALERT`] with that list, as JSON, for its payload.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse_health_alert(bytes: &[u8]) -> Result<Event, ParseError> {
        #[derive(Deserialize)]
        struct HealthAlert {
            issues: Vec<String>,
        }
        let text = text_of(bytes)?;
        let mut refusal = Refusal::default();
        // Health alerts are rare: they may take two passes.
        refusal.check(text, &HEALTH_ALERT_SCHEMA)?;
        match serde_json::from_str(text) {
            Ok(HealthAlert { issues }) if refusal.is_empty() => {
                let event_payload = serde_json::to_string(&issues).expect("strings are JSON");
                Ok(Event { event_type: HEALTH_ALERT.to_owned(), event_payload })
            }
            _ => Err(refusal.into_error()),
        }
    }

    /// Makes an event of a request that does not hold both strings as ours do.
    ///
    /// # Errors
    /// What is wrong with either, by its name.
    pub fn of(event_type: String, event_payload: String) -> Result<Event, ParseError> {
        let mut refusal = Refusal::default();
        for (member, text, limit) in
            [("event_type", &event_type, EVENT_TYPE_LIMIT), ("event_payload", &event_payload, usize::MAX)]
        {
            if let Some(problem) = problem_of_string(text, limit) {
                refusal.add_at(member, problem);
            }
        }
        if refusal.is_empty() { Ok(Event { event_type, event_payload }) } else { Err(refusal.into_error()) }
    }

    pub fn event_type(&self) -> &str {
        &self.event_type
    }

    pub fn event_payload(&self) -> &str {
        &self.event_payload
    }

    /// The bytes that both strings take together.
    pub fn size_in_bytes(&self) -> usize {
        self.event_type.len() + self.event_payload.len()
    }
}

/// Reads an object and nothing else: a derived implementation would take the array `["a", "b"]`, too. Its errors are for
/// nobody: `explain` names them.
impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Event, D::Error> {
        deserializer.deserialize_map(EventVisitor)
    }
}

struct EventVisitor;

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Name {
    EventType,
    EventPayload,
}

impl<'de> Visitor<'de> for EventVisitor {
    type Value = Event;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Event, A::Error> {
        let (mut event_type, mut event_payload) = (None, None);
        while let Some(name) = members.next_key()? {
            let (member, character_limit) = match name {
                Name::EventType => (&mut event_type, EVENT_TYPE_LIMIT),
                Name::EventPayload => (&mut event_payload, usize::MAX),
            };
            let text: String = members.next_value()?;
            if member.is_some() || problem_of_string(&text, character_limit).is_some() {
                return Err(A::Error::custom("refused"));
            }
            *member = Some(text);
        }
        match (event_type, event_payload) {
            (Some(event_type), Some(event_payload)) => Ok(Event { event_type, event_payload }),
            _ => Err(A::Error::custom("incomplete")),
        }
    }
}

/// The text without its byte order mark. All of it is checked to be UTF-8, because `serde_json` does not check what it
/// skips.
pub fn text_of(bytes: &[u8]) -> Result<&str, ParseError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(str_without_byte_order_mark(text)),
        Err(error) => Err(ParseError::Encoding { offset: error.valid_up_to() }),
    }
}

/// The error of a line, with its number.
fn in_line(number: usize, error: ParseError) -> ParseError {
    let message = match error {
        ParseError::Syntax(message) if message.starts_with("EOF") => message + WHOLE_LINES,
        ParseError::Syntax(message) => message,
        ParseError::SeveralValues { column, .. } => {
            format!("a second value begins at column {column}{NO_NEWLINES}")
        }
        other => return other,
    };
    ParseError::Line { number, message }
}
