//! The event, and the only way to make one: parsing bytes.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};

use super::text::{excerpt, str_without_byte_order_mark};
use super::timestamp::Timestamp;

/// The longest event type, in characters.
pub const EVENT_TYPE_LIMIT: usize = 255;

/// The type of the event that a health alert is.
pub const HEALTH_ALERT: &str = "health_alert";

/// The most member errors that one refusal lists; the rest are counted.
const LISTED_ERRORS: usize = 100;

/// What to do where an object goes on behind the end of its line.
const WHOLE_LINES: &str =
    "; each line is an object of its own: send one that has several lines as `application/json`";

/// What to do where lines have lost their ends.
const NO_NEWLINES: &str =
    "; each object needs a line of its own: `curl` keeps them with `--data-binary`, not with `-d`";

/// The longest part of a stranger's text that a message repeats, in characters.
const EXCERPT_LIMIT: usize = 64;

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
    /// The type, as it was sent.
    pub event_type: String,
    /// The payload, as it was sent.
    pub event_payload: String,
}

/// Why bytes are not events.
#[derive(Debug, PartialEq, Eq)]
pub enum ParseError {
    /// The bytes are not UTF-8 from this offset on.
    Encoding {
        /// Offset of the first wrong byte.
        offset: usize,
    },
    /// The text is not JSON; the message names line and column and repeats nothing of the text.
    Syntax(String),
    /// There is another JSON value behind the first, as newline-delimited JSON has it.
    SeveralValues {
        /// The line on which the second begins, from 1.
        line: usize,
        /// Its column there, in bytes, from 1.
        column: usize,
    },
    /// A line of newline-delimited JSON is not JSON.
    Line {
        /// Its number, from 1; blank lines are counted.
        number: usize,
        /// What is wrong with it.
        message: String,
    },
    /// The JSON is not an event; every offending member is named, up to a bound.
    Shape {
        /// The first of the errors, in the order of the text.
        errors: Vec<MemberError>,
        /// How many there are in all.
        total: usize,
    },
}

/// What is wrong with one member of a JSON text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemberError {
    /// Where, as a JSON pointer (RFC 6901).
    pub pointer: String,
    /// What was expected there.
    pub detail: String,
}

impl Event {
    /// Reads one JSON object with exactly the members `event_type` and `event_payload`, both strings.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Event, ParseError> {
        let Checked { event, refusal } = read(bytes)?;
        event.ok_or(ParseError::Shape { errors: refusal.errors, total: refusal.total })
    }

    /// Reads a JSON array of events; not empty.
    ///
    /// # Errors
    /// Everything that is wrong with it, each pointer starting with the position in the array.
    pub fn parse_array(bytes: &[u8]) -> Result<Vec<Event>, ParseError> {
        let CheckedArray { events, refusal } = read(bytes)?;
        refusal.finish(events)
    }

    /// Reads newline-delimited JSON, an event a line; not empty. Blank lines are passed over.
    ///
    /// # Errors
    /// Everything that is wrong with it, each pointer starting with the position among the events.
    pub fn parse_lines(bytes: &[u8]) -> Result<Vec<Event>, ParseError> {
        let text = str_without_byte_order_mark(as_utf8(bytes)?);
        let mut events = Vec::new();
        let mut refusal = Refusal::default();
        let lines = text.split('\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
        for (position, (number, line)) in lines.enumerate() {
            match Event::parse(line.as_bytes()) {
                Ok(event) => events.push(event),
                Err(ParseError::Shape { errors, total }) => refusal.add(position, errors, total),
                Err(ParseError::Syntax(message)) => {
                    let whole = if message.starts_with("EOF") { WHOLE_LINES } else { "" };
                    return Err(ParseError::Line {
                        number: number + 1,
                        message: format!("{message}{whole}"),
                    });
                }
                Err(ParseError::SeveralValues { column, .. }) => {
                    let message = format!("a second value begins at column {column}{NO_NEWLINES}");
                    return Err(ParseError::Line { number: number + 1, message });
                }
                Err(error) => return Err(error),
            }
        }
        refusal.finish(events)
    }

    /// Reads a health alert, one JSON object with exactly the member `issues`, a list of strings that is not
    /// empty: an event of type [`HEALTH_ALERT`] with that list, as JSON, for its payload.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse_health_alert(bytes: &[u8]) -> Result<Event, ParseError> {
        let CheckedAlert { event, refusal } = read(bytes)?;
        match event {
            Some(event) if refusal.total == 0 => Ok(event),
            _ => Err(ParseError::Shape { errors: refusal.errors, total: refusal.total }),
        }
    }

    /// The type: what kind of event this is.
    pub fn event_type(&self) -> &str {
        &self.event_type
    }

    /// The payload: what happened.
    pub fn event_payload(&self) -> &str {
        &self.event_payload
    }

    /// The bytes that both strings take together.
    pub fn size_in_bytes(&self) -> usize {
        self.event_type.len() + self.event_payload.len()
    }
}

fn as_utf8(bytes: &[u8]) -> Result<&str, ParseError> {
    std::str::from_utf8(bytes).map_err(|error| ParseError::Encoding { offset: error.valid_up_to() })
}

/// Reads JSON after checking its encoding, because serde_json does not check what it skips.
fn read<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, ParseError> {
    let text = str_without_byte_order_mark(as_utf8(bytes)?);
    serde_json::from_str(text)
        .map_err(|error| second_value(text, &error).unwrap_or_else(|| ParseError::Syntax(error.to_string())))
}

/// Where another value begins behind the first, if that is what an error is about.
fn second_value(text: &str, error: &serde_json::Error) -> Option<ParseError> {
    let (line, column) = (error.line(), error.column());
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    values.next()?.ok()?;
    let rest = text[values.byte_offset()..].trim_ascii_start();
    rest.starts_with(['{', '[']).then_some(ParseError::SeveralValues { line, column })
}

/// The errors found so far: the first of them, and how many there are.
#[derive(Default)]
struct Refusal {
    errors: Vec<MemberError>,
    total: usize,
}

impl Refusal {
    fn add(&mut self, position: usize, errors: Vec<MemberError>, total: usize) {
        self.total += total;
        let room = LISTED_ERRORS - self.errors.len();
        self.errors.extend(errors.into_iter().take(room).map(|error| MemberError {
            pointer: format!("/{position}{}", error.pointer),
            detail: error.detail,
        }));
    }

    fn add_one(&mut self, error: MemberError) {
        self.total += 1;
        if self.errors.len() < LISTED_ERRORS {
            self.errors.push(error);
        }
    }

    fn finish(mut self, events: Vec<Event>) -> Result<Vec<Event>, ParseError> {
        if events.is_empty() && self.total == 0 {
            let detail = "expected at least one event".to_owned();
            self.errors.push(MemberError { pointer: String::new(), detail });
            self.total = 1;
        }
        if self.total == 0 {
            return Ok(events);
        }
        Err(ParseError::Shape { errors: self.errors, total: self.total })
    }
}

/// An event, or everything that is wrong with what stands in its place.
struct Checked {
    event: Option<Event>,
    refusal: Refusal,
}

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Checked, D::Error> {
        let value = deserializer.deserialize_any(ValueVisitor(PhantomData::<EventMembers>))?;
        Ok(match value {
            Value::Object(checked) => checked,
            Value::String(_) => Checked::not_an_object("a string"),
            Value::Other(kind) => Checked::not_an_object(kind),
        })
    }
}

impl Checked {
    fn not_an_object(kind: &str) -> Checked {
        let detail = format!("expected an object, got {kind}");
        let errors = vec![MemberError { pointer: String::new(), detail }];
        Checked { event: None, refusal: Refusal { errors, total: 1 } }
    }
}

/// A health alert, or everything that is wrong with what stands in its place.
struct CheckedAlert {
    event: Option<Event>,
    refusal: Refusal,
}

impl<'de> Deserialize<'de> for CheckedAlert {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<CheckedAlert, D::Error> {
        let value = deserializer.deserialize_any(ValueVisitor(PhantomData::<AlertMembers>))?;
        let kind = match value {
            Value::Object(checked) => return Ok(checked),
            Value::String(_) => "a string",
            Value::Other(kind) => kind,
        };
        let mut refusal = Refusal::default();
        let detail = format!("expected an object, got {kind}");
        refusal.add_one(MemberError { pointer: String::new(), detail });
        Ok(CheckedAlert { event: None, refusal })
    }
}

/// The members of a health alert.
struct AlertMembers;

impl<'de> Inside<'de> for AlertMembers {
    type Object = CheckedAlert;

    fn read<A: MapAccess<'de>>(mut members: A) -> Result<CheckedAlert, A::Error> {
        let mut refusal = Refusal::default();
        let mut issues: Option<Vec<String>> = None;
        while let Some(name) = members.next_key::<String>()? {
            if name != "issues" {
                members.next_value::<IgnoredAny>()?;
                refusal.add_one(unknown_member(&name));
                continue;
            }
            let Issues(checked) = members.next_value()?;
            let mut refuse =
                |pointer: String, detail: String| refusal.add_one(MemberError { pointer, detail });
            if issues.is_some() {
                refuse("/issues".to_owned(), "given twice".to_owned());
            }
            let texts = checked.unwrap_or_else(|detail| {
                refuse("/issues".to_owned(), detail);
                Vec::new()
            });
            let mut strings = Vec::with_capacity(texts.len());
            for (position, text) in texts.into_iter().enumerate() {
                match text {
                    Ok(text) => strings.push(text),
                    Err(detail) => refuse(format!("/issues/{position}"), detail),
                }
            }
            issues = Some(strings);
        }
        let Some(issues) = issues else {
            let detail = "missing: expected an array of strings".to_owned();
            refusal.add_one(MemberError { pointer: "/issues".to_owned(), detail });
            return Ok(CheckedAlert { event: None, refusal });
        };
        let event_payload = serde_json::to_string(&issues).map_err(A::Error::custom)?;
        let event = Event { event_type: HEALTH_ALERT.to_owned(), event_payload };
        Ok(CheckedAlert { event: Some(event), refusal })
    }
}

/// What stands behind `issues`: the strings of a list and what is wrong with them, or what it is instead.
struct Issues(Result<Vec<Result<String, String>>, String>);

impl<'de> Deserialize<'de> for Issues {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Issues, D::Error> {
        let value = deserializer.deserialize_any(ValueVisitor(PhantomData::<IssueList>))?;
        let expected = |got: &str| Issues(Err(format!("expected an array of strings, got {got}")));
        Ok(match value {
            Value::Object(Some(texts)) if texts.is_empty() => {
                Issues(Err("expected at least one issue".to_owned()))
            }
            Value::Object(Some(texts)) => Issues(Ok(texts)),
            Value::Object(None) => expected("an object"),
            Value::String(_) => expected("a string"),
            Value::Other(kind) => expected(kind),
        })
    }
}

/// The items of a list; none of an object.
struct IssueList;

impl<'de> Inside<'de> for IssueList {
    type Object = Option<Vec<Result<String, String>>>;

    fn read<A: MapAccess<'de>>(members: A) -> Result<Self::Object, A::Error> {
        Ignored::read(members).map(|()| None)
    }

    fn read_list<A: SeqAccess<'de>>(mut items: A) -> Result<Value<Self::Object>, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = items.next_element::<Text>()? {
            texts.push(text.check(None));
        }
        Ok(Value::Object(Some(texts)))
    }
}

/// A list of events, or everything that is wrong with it.
struct CheckedArray {
    events: Vec<Event>,
    refusal: Refusal,
}

impl<'de> Deserialize<'de> for CheckedArray {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<CheckedArray, D::Error> {
        struct ArrayVisitor;
        impl<'de> Visitor<'de> for ArrayVisitor {
            type Value = CheckedArray;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an array of objects")
            }

            /// The library's own message would repeat the string.
            fn visit_str<E: Error>(self, _: &str) -> Result<CheckedArray, E> {
                Err(E::invalid_type(Unexpected::Other("a string"), &self))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<CheckedArray, A::Error> {
                let mut array = CheckedArray { events: Vec::new(), refusal: Refusal::default() };
                let mut position = 0;
                while let Some(Checked { event, refusal }) = items.next_element()? {
                    match event {
                        Some(event) => array.events.push(event),
                        None => array.refusal.add(position, refusal.errors, refusal.total),
                    }
                    position += 1;
                }
                Ok(array)
            }
        }
        deserializer.deserialize_any(ArrayVisitor)
    }
}

/// What a JSON value is, as far as an event cares.
enum Value<O> {
    String(String),
    Object(O),
    Other(&'static str),
}

/// What to make of the members of an object.
trait Inside<'de>: Sized {
    type Object;
    fn read<A: MapAccess<'de>>(members: A) -> Result<Self::Object, A::Error>;

    /// What to make of the items of an array: passed over, unless they matter.
    fn read_list<A: SeqAccess<'de>>(mut items: A) -> Result<Value<Self::Object>, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Other("an array"))
    }
}

struct ValueVisitor<I>(PhantomData<I>);

impl<'de, I: Inside<'de>> Visitor<'de> for ValueVisitor<I> {
    type Value = Value<I::Object>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Value::Other("a boolean"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Value::Other("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Value::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Value::Other("a number"))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Value::Other("null"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
        I::read_list(items)
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Self::Value, A::Error> {
        I::read(members).map(Value::Object)
    }
}

/// The members of an object where a string is expected: passed over.
struct Ignored;

impl<'de> Inside<'de> for Ignored {
    type Object = ();

    fn read<A: MapAccess<'de>>(mut members: A) -> Result<(), A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

/// The value of a member that should be a string.
struct Text(Value<()>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
        deserializer.deserialize_any(ValueVisitor(PhantomData::<Ignored>)).map(Text)
    }
}

impl Text {
    /// The string, unless it is none or holds what not every store can keep.
    fn check(self, character_limit: Option<usize>) -> Result<String, String> {
        let text = match self.0 {
            Value::String(text) => text,
            Value::Object(()) => return Err("expected a string, got an object".to_owned()),
            Value::Other(kind) => return Err(format!("expected a string, got {kind}")),
        };
        if text.contains('\0') {
            return Err("expected a string without U+0000".to_owned());
        }
        if let Some(limit) = character_limit
            && text.len() > limit
        {
            let characters = text.chars().count();
            if characters > limit {
                return Err(format!("expected at most {limit} characters, got {characters}"));
            }
        }
        Ok(text)
    }
}

/// A member's name.
enum Name {
    EventType,
    EventPayload,
    Unknown(String),
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        struct NameVisitor;
        impl Visitor<'_> for NameVisitor {
            type Value = Name;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a member's name")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(match name {
                    "event_type" => Name::EventType,
                    "event_payload" => Name::EventPayload,
                    unknown => Name::Unknown(unknown.to_owned()),
                })
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

/// The members of an event.
struct EventMembers;

impl<'de> Inside<'de> for EventMembers {
    type Object = Checked;

    fn read<A: MapAccess<'de>>(mut members: A) -> Result<Checked, A::Error> {
        let mut event_type = Member::new("/event_type", Some(EVENT_TYPE_LIMIT));
        let mut event_payload = Member::new("/event_payload", None);
        let mut refusal = Refusal::default();
        while let Some(name) = members.next_key::<Name>()? {
            match name {
                Name::EventType => event_type.set(members.next_value()?, &mut refusal),
                Name::EventPayload => event_payload.set(members.next_value()?, &mut refusal),
                Name::Unknown(name) => {
                    members.next_value::<IgnoredAny>()?;
                    refusal.add_one(unknown_member(&name));
                }
            }
        }
        let event_type = event_type.finish(&mut refusal);
        let event_payload = event_payload.finish(&mut refusal);
        let event = match (event_type, event_payload) {
            (Some(event_type), Some(event_payload)) if refusal.total == 0 => {
                Some(Event { event_type, event_payload })
            }
            _ => None,
        };
        Ok(Checked { event, refusal })
    }
}

/// One of the members that an event has.
struct Member {
    pointer: &'static str,
    character_limit: Option<usize>,
    seen: bool,
    text: Option<String>,
}

impl Member {
    fn new(pointer: &'static str, character_limit: Option<usize>) -> Member {
        Member { pointer, character_limit, seen: false, text: None }
    }

    fn set(&mut self, text: Text, refusal: &mut Refusal) {
        let checked =
            if self.seen { Err("given twice".to_owned()) } else { text.check(self.character_limit) };
        self.seen = true;
        match checked {
            Ok(text) => self.text = Some(text),
            Err(detail) => refusal.add_one(MemberError { pointer: self.pointer.to_owned(), detail }),
        }
    }

    fn finish(self, refusal: &mut Refusal) -> Option<String> {
        if !self.seen {
            let detail = "missing: expected a string".to_owned();
            refusal.add_one(MemberError { pointer: self.pointer.to_owned(), detail });
        }
        self.text
    }
}

/// Points at the unknown member, or, where its name is too long to repeat, at the object that holds it.
fn unknown_member(name: &str) -> MemberError {
    if name.len() > EXCERPT_LIMIT {
        let detail = format!("unknown member `{}`", excerpt(name, EXCERPT_LIMIT));
        return MemberError { pointer: String::new(), detail };
    }
    let escaped = name.replace('~', "~0").replace('/', "~1");
    MemberError { pointer: format!("/{escaped}"), detail: "unknown member".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors_of(parsed: Result<impl fmt::Debug, ParseError>) -> Vec<(String, String)> {
        let Err(ParseError::Shape { errors, total }) = parsed else {
            panic!("expected errors of shape, got {parsed:?}");
        };
        assert!(total >= errors.len());
        errors.into_iter().map(|error| (error.pointer, error.detail)).collect()
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(pointer, detail)| ((*pointer).to_owned(), (*detail).to_owned())).collect()
    }

    #[test]
    fn strings_are_kept_as_they_are() {
        let event = Event::parse(br#"{"event_payload":" \u00e9\ud83d\ude00\n","event_type":""}"#).unwrap();
        assert_eq!(event.event_payload(), " é😀\n");
        assert_eq!(event.event_type(), "");
    }

    #[test]
    fn a_health_alert_is_an_event() {
        let event = Event::parse_health_alert(br#"{"issues":["service-a-failure","\u00e9 \"q\""]}"#).unwrap();
        assert_eq!(
            (event.event_type(), event.event_payload()),
            (HEALTH_ALERT, r#"["service-a-failure","é \"q\""]"#)
        );
    }

    #[test]
    fn everything_that_is_wrong_with_a_health_alert_is_named() {
        let array = "expected an array of strings, got";
        for (text, expected) in [
            ("[]", vec![("", "expected an object, got an array".to_owned())]),
            ("{}", vec![("/issues", "missing: expected an array of strings".to_owned())]),
            (r#"{"issues":[]}"#, vec![("/issues", "expected at least one issue".to_owned())]),
            (r#"{"issues":"a"}"#, vec![("/issues", format!("{array} a string"))]),
            (r#"{"issues":{"a":[1]}}"#, vec![("/issues", format!("{array} an object"))]),
            (r#"{"issues":null}"#, vec![("/issues", format!("{array} null"))]),
            (
                r#"{"a":1,"issues":["a",1,["b"],{"c":[]},"\u0000"]}"#,
                vec![
                    ("/a", "unknown member".to_owned()),
                    ("/issues/1", "expected a string, got a number".to_owned()),
                    ("/issues/2", "expected a string, got an array".to_owned()),
                    ("/issues/3", "expected a string, got an object".to_owned()),
                    ("/issues/4", "expected a string without U+0000".to_owned()),
                ],
            ),
            (r#"{"issues":["a"],"issues":["b"]}"#, vec![("/issues", "given twice".to_owned())]),
        ] {
            let expected: Vec<(String, String)> =
                expected.into_iter().map(|(pointer, detail)| (pointer.to_owned(), detail)).collect();
            assert_eq!(errors_of(Event::parse_health_alert(text.as_bytes())), expected, "{text}");
        }
        let many = format!(r#"{{"issues":[{}1]}}"#, "1,".repeat(5000));
        let Err(ParseError::Shape { errors, total }) = Event::parse_health_alert(many.as_bytes()) else {
            panic!()
        };
        assert_eq!((errors.len(), total), (LISTED_ERRORS, 5001));
    }

    #[test]
    fn every_offending_member_is_named() {
        let parsed = Event::parse(br#"{"event_type": 123, "event_payload": {}, "a/b~": 1}"#);
        let expected = [
            ("/event_type", "expected a string, got a number"),
            ("/event_payload", "expected a string, got an object"),
            ("/a~1b~0", "unknown member"),
        ];
        assert_eq!(errors_of(parsed), owned(&expected));
    }

    #[test]
    fn every_kind_of_value_is_named() {
        for (value, kind) in [
            ("null", "null"),
            ("true", "a boolean"),
            ("-1", "a number"),
            ("1.5", "a number"),
            ("[[1]]", "an array"),
        ] {
            let text = format!(r#"{{"event_type":"a","event_payload":{value}}}"#);
            let expected = format!("expected a string, got {kind}");
            assert_eq!(errors_of(Event::parse(text.as_bytes())), owned(&[("/event_payload", &expected)]));
            let expected = format!("expected an object, got {kind}");
            assert_eq!(errors_of(Event::parse(value.as_bytes())), owned(&[("", &expected)]));
        }
    }

    #[test]
    fn missing_and_doubled_members_are_refused() {
        let missing =
            [("/event_type", "missing: expected a string"), ("/event_payload", "missing: expected a string")];
        assert_eq!(errors_of(Event::parse(b"{}")), owned(&missing));
        let doubled = Event::parse(br#"{"event_type":"a","event_payload":"b","event_type":"c"}"#);
        assert_eq!(errors_of(doubled), owned(&[("/event_type", "given twice")]));
    }

    #[test]
    fn null_characters_and_long_types_are_refused() {
        let null = Event::parse(br#"{"event_type":"a\u0000","event_payload":"\u0000"}"#);
        let without = "expected a string without U+0000";
        assert_eq!(errors_of(null), owned(&[("/event_type", without), ("/event_payload", without)]));
        let longest = "é".repeat(EVENT_TYPE_LIMIT);
        let fits = format!(r#"{{"event_type":"{longest}","event_payload":""}}"#);
        assert!(Event::parse(fits.as_bytes()).is_ok());
        let long = format!(r#"{{"event_type":"{longest}é","event_payload":""}}"#);
        let expected = [("/event_type", "expected at most 255 characters, got 256")];
        assert_eq!(errors_of(Event::parse(long.as_bytes())), owned(&expected));
    }

    #[test]
    fn bytes_that_are_not_json_are_refused() {
        let offset = Event::parse(b"{\"event_type\":\"\xff\"}").unwrap_err();
        assert_eq!(offset, ParseError::Encoding { offset: 15 });
        for wrong in
            ["", "{", "nul", r#"{"event_type":"\ud800","event_payload":""}"#, "{} x", "\u{feff}\u{feff}{}"]
        {
            assert!(matches!(Event::parse(wrong.as_bytes()), Err(ParseError::Syntax(_))), "{wrong}");
        }
        let in_a_skipped_member = b"{\"other\":\"\xff\",\"event_type\":\"\",\"event_payload\":\"\"}";
        assert!(matches!(Event::parse(in_a_skipped_member), Err(ParseError::Encoding { .. })));
    }

    #[test]
    fn a_byte_order_mark_at_the_start_is_passed_over() {
        let event = r#"{"event_type":"a","event_payload":"b"}"#;
        let marked = format!("\u{feff}{event}");
        assert_eq!(Event::parse(marked.as_bytes()), Event::parse(event.as_bytes()));
        assert_eq!(Event::parse_lines(marked.as_bytes()), Event::parse_lines(event.as_bytes()));
        let array = format!("\u{feff}[{event}]");
        assert_eq!(Event::parse_array(array.as_bytes()).map(|events| events.len()), Ok(1));
        // Offsets are those of the bytes as they came.
        assert_eq!(Event::parse(b"\xef\xbb\xbf\xff"), Err(ParseError::Encoding { offset: 3 }));
        // Files with a mark each may follow one another; within a line it is no JSON.
        let second = format!("{marked}\n{marked}");
        assert_eq!(Event::parse_lines(second.as_bytes()).map(|events| events.len()), Ok(2));
        let within = format!("{event}\n {marked}");
        assert!(matches!(Event::parse_lines(within.as_bytes()), Err(ParseError::Line { number: 2, .. })));
    }

    #[test]
    fn lines_that_are_not_told_apart_are_said_to_be() {
        let event = r#"{"event_type":"a","event_payload":"b"}"#;
        let column = event.len() + 1;
        for (between, line, column) in [("", 1, column), ("\n", 2, 1), (" ", 1, column + 1)] {
            let several = Event::parse(format!("{event}{between}{event}").as_bytes());
            assert_eq!(several, Err(ParseError::SeveralValues { line, column }), "{between:?}");
        }
        let message_of = |lines: &str| match Event::parse_lines(lines.as_bytes()) {
            Err(ParseError::Line { number, message }) => (number, message),
            other => panic!("{other:?}"),
        };
        // Blank lines are counted, so that an editor finds the line.
        let (number, message) = message_of(&format!("\n\n{event}\n{event}{event}"));
        assert_eq!((number, message), (4, format!("a second value begins at column {column}{NO_NEWLINES}")));
        let (number, message) = message_of(&format!("{event}\n\n{{\n}}"));
        assert_eq!(number, 3);
        assert!(message.starts_with("EOF") && message.ends_with(WHOLE_LINES), "{message}");
    }

    #[test]
    fn lists_point_at_the_item() {
        let array = br#"[{"event_type":"a","event_payload":"b"}, 7, {"event_type":"a","event_payload":1}]"#;
        let expected = [
            ("/1", "expected an object, got a number"),
            ("/2/event_payload", "expected a string, got a number"),
        ];
        assert_eq!(errors_of(Event::parse_array(array)), owned(&expected));
        let lines = b"{\"event_type\":\"a\",\"event_payload\":\"b\"}\r\n\n7\n{\"event_type\":\"a\",\"event_payload\":1}\n";
        assert_eq!(errors_of(Event::parse_lines(lines)), owned(&expected));
        assert_eq!(errors_of(Event::parse_array(b"[]")), owned(&[("", "expected at least one event")]));
        assert_eq!(errors_of(Event::parse_lines(b"\n")), owned(&[("", "expected at least one event")]));
    }

    #[test]
    fn a_flood_of_errors_is_counted_and_cut() {
        let array = format!("[{}1]", "1,".repeat(99_999));
        let Err(ParseError::Shape { errors, total }) = Event::parse_array(array.as_bytes()) else {
            panic!("expected errors of shape");
        };
        assert_eq!((errors.len(), total), (LISTED_ERRORS, 100_000));
        let members: Vec<String> = (0..100_000).map(|n| format!("\"m{n}\":1")).collect();
        let object = format!("{{{}}}", members.join(","));
        let Err(ParseError::Shape { errors, total }) = Event::parse(object.as_bytes()) else {
            panic!("expected errors of shape");
        };
        assert_eq!((errors.len(), total), (LISTED_ERRORS, 100_002));
        let long_name = format!(r#"{{"{}":1}}"#, "x".repeat(1_000_000));
        let longest =
            errors_of(Event::parse(long_name.as_bytes())).iter().map(|(_, detail)| detail.len()).max();
        assert!(longest < Some(100));
    }

    #[test]
    fn a_string_in_place_of_an_array_is_not_repeated() {
        let string = format!("\"{}\"", "x".repeat(1_000_000));
        let message = "invalid type: a string, expected an array of objects at line 1 column 1000002";
        assert_eq!(Event::parse_array(string.as_bytes()), Err(ParseError::Syntax(message.to_owned())));
    }

    #[test]
    fn lines_and_arrays_count_their_errors_alike() {
        let members: Vec<String> = (0..LISTED_ERRORS).map(|n| format!("\"m{n}\":1")).collect();
        let object = format!("{{{}}}", members.join(","));
        let array = Event::parse_array(format!("[{object},{object}]").as_bytes());
        let Err(ParseError::Shape { total, .. }) = array else { panic!("expected errors of shape") };
        assert_eq!(total, 2 * (LISTED_ERRORS + 2));
        assert_eq!(Event::parse_lines(format!("{object}\n{object}").as_bytes()), array);
    }
}
