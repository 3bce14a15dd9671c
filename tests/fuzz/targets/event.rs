//! `Event::parse` and its siblings take exactly what a naive reading of the contract takes.

#![no_main]

use std::fmt;

use eventctl::testing::{EVENT_TYPE_LIMIT, Event, ParseError};
use eventctl::testing::without_byte_order_mark;
use eventctl_fuzz::assert_presentable;
use libfuzzer_sys::fuzz_target;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Value, json};

fuzz_target!(|bytes: &[u8]| {
    let parsed = Event::parse(bytes);
    let expected = expected_event(bytes);
    assert_eq!(parsed.as_ref().ok().map(strings_of), expected);
    match &parsed {
        Ok(event) => assert_writes_and_reads_back(event),
        Err(error) => assert_error(error, bytes),
    }

    let array = Event::parse_array(bytes);
    let text = without_byte_order_mark(bytes);
    let expected = serde_json::from_slice(text).ok().filter(|_| is_utf8(bytes)).and_then(expected_events);
    assert_eq!(array.as_ref().ok().map(|events| events.iter().map(strings_of).collect()), expected);
    if let Err(error) = &array {
        assert_error(error, bytes);
    }

    let lines = Event::parse_lines(bytes);
    match &lines {
        // Lines that are JSON each make an array that is judged alike.
        Ok(_) | Err(ParseError::Shape { .. }) => assert_eq!(lines, Event::parse_array(&array_of(bytes))),
        Err(error) => assert_error(error, bytes),
    }
});

/// The members of an object, doubled ones too.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

type Strings = (String, String);

fn strings_of(event: &Event) -> Strings {
    (event.event_type().to_owned(), event.event_payload().to_owned())
}

fn is_utf8(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_ok()
}

fn expected_event(bytes: &[u8]) -> Option<Strings> {
    let members = serde_json::from_slice(without_byte_order_mark(bytes)).ok().filter(|_| is_utf8(bytes))?;
    strings_in(members)
}

fn expected_events(items: Vec<Members>) -> Option<Vec<Strings>> {
    if items.is_empty() { None } else { items.into_iter().map(strings_in).collect() }
}

fn strings_in(Members(mut members): Members) -> Option<Strings> {
    members.sort_by(|(left, _), (right, _)| left.cmp(right));
    let [(payload_name, Value::String(event_payload)), (type_name, Value::String(event_type))] =
        members.as_slice()
    else {
        return None;
    };
    let named = payload_name == "event_payload" && type_name == "event_type";
    let kept = !event_type.contains('\0') && !event_payload.contains('\0');
    let short = event_type.chars().count() <= EVENT_TYPE_LIMIT;
    (named && kept && short).then(|| (event_type.clone(), event_payload.clone()))
}

fn assert_writes_and_reads_back(event: &Event) {
    let written = json!({"event_type": event.event_type(), "event_payload": event.event_payload()});
    assert_eq!(Event::parse(written.to_string().as_bytes()).as_ref(), Ok(event));
}

fn assert_error(error: &ParseError, bytes: &[u8]) {
    match error {
        ParseError::Encoding { offset } => {
            assert_eq!(str::from_utf8(bytes).map_err(|error| error.valid_up_to()), Err(*offset));
        }
        ParseError::Syntax(message) => assert_presentable(message),
        ParseError::SeveralValues { line, column } => {
            assert!((1..=bytes.len()).contains(line) && *column <= bytes.len());
        }
        ParseError::Line { number, message } => {
            assert!((1..=bytes.len()).contains(number));
            assert_presentable(message);
        }
        ParseError::Shape { errors, total } => {
            assert!((1..=100).contains(&errors.len()) && errors.len() <= *total);
            for error in errors {
                // A pointer is data: it may hold any character of a name, but not many.
                assert!(error.pointer.len() <= 200, "{error:?}");
                assert_presentable(&error.detail);
            }
        }
    }
}

/// The lines as the items of an array.
fn array_of(bytes: &[u8]) -> Vec<u8> {
    let lines = without_byte_order_mark(bytes).split(|byte| *byte == b'\n');
    let lines = lines.filter(|line| !line.trim_ascii().is_empty()).map(without_byte_order_mark);
    [b"[".as_slice(), &lines.collect::<Vec<_>>().join(b",".as_slice()), b"]"].concat()
}
