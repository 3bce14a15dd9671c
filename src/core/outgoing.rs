//! Events to send: the objects of a file, as they stand in it.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::text::excerpt;

/// An event as it stands in its file: a JSON object, whatever its members.
#[derive(Debug)]
pub struct Outgoing {
    /// The text of the object.
    pub body: String,
    /// The type that it names, to show it; `-` where it names none.
    pub event_type: String,
}

impl Outgoing {
    /// Reads a file: a JSON array of objects, or an object a line; not empty.
    ///
    /// # Errors
    /// The first thing that is wrong with it, and at which line and column.
    pub fn parse_file(bytes: &[u8]) -> Result<Vec<Outgoing>, String> {
        let text = str::from_utf8(bytes).map_err(|error| {
            let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            format!("not UTF-8 at {}", place_of(&valid, valid.len()))
        })?;
        let is_array = text.trim_ascii_start().starts_with('[');
        let events = if is_array { read_array(text)? } else { read_lines(text)? };
        if events.is_empty() {
            return Err("it holds no events".to_owned());
        }
        Ok(events)
    }

    /// Reads the line of this number, counted from 1: an object.
    ///
    /// # Errors
    /// What is wrong with it, and at which column.
    pub fn parse_line(line: &str, number: usize) -> Result<Outgoing, String> {
        let item: &RawValue = serde_json::from_str(line).map_err(|error| {
            // The library counts lines within this one.
            let message = error.to_string();
            let reason = message.split(" at line ").next().unwrap_or_default();
            format!("{reason} at line {number} column {}", error.column())
        })?;
        if !item.get().starts_with('{') {
            let column = line.len() - line.trim_ascii_start().len() + 1;
            let got = kind_of(item);
            return Err(format!("expected an object at line {number} column {column}, got {got}"));
        }
        Ok(Outgoing::new(item))
    }

    /// The object as a line of NDJSON: as it stands, but for line breaks between its members.
    pub fn in_one_line(&self) -> String {
        self.body.replace(['\n', '\r'], " ")
    }

    fn new(object: &RawValue) -> Outgoing {
        #[derive(Deserialize)]
        struct Named {
            event_type: String,
        }
        let named: Result<Named, _> = serde_json::from_str(object.get());
        let event_type = named.map_or_else(|_| "-".to_owned(), |named| excerpt(&named.event_type, 64));
        Outgoing { body: object.get().to_owned(), event_type }
    }
}

fn read_array(text: &str) -> Result<Vec<Outgoing>, String> {
    let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let object = |item: &RawValue| {
        if item.get().starts_with('{') {
            return Ok(Outgoing::new(item));
        }
        let offset = item.get().as_ptr().addr() - text.as_ptr().addr();
        Err(format!("expected an object at {}, got {}", place_of(text, offset), kind_of(item)))
    };
    items.into_iter().map(object).collect()
}

fn read_lines(text: &str) -> Result<Vec<Outgoing>, String> {
    let lines = text.split('\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
    lines.map(|(number, line)| Outgoing::parse_line(line, number + 1)).collect()
}

/// What a value is that is no object. The value itself is not repeated: the message may go into a log.
fn kind_of(item: &RawValue) -> &'static str {
    match item.get().as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

fn place_of(text: &str, offset: usize) -> String {
    let before = &text[..offset];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|character| *character != '\n').count() + 1;
    format!("line {line} column {column}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies(events: &[Outgoing]) -> Vec<&str> {
        events.iter().map(|event| event.body.as_str()).collect()
    }

    #[test]
    fn objects_stay_as_they_stand() {
        let text = "[ {\"event_type\": 1.0e2,  \"a\":\"\\u00e9\", \"a\":2},\n{} ]";
        let events = Outgoing::parse_file(text.as_bytes()).unwrap();
        assert_eq!(bodies(&events), ["{\"event_type\": 1.0e2,  \"a\":\"\\u00e9\", \"a\":2}", "{}"]);
        let events = Outgoing::parse_file(b"{\"event_type\":\"x\"}\r\n\n {} \n").unwrap();
        assert_eq!(bodies(&events), ["{\"event_type\":\"x\"}", "{}"]);
        assert_eq!(events[0].event_type, "x");
    }

    #[test]
    fn what_is_wrong_is_located() {
        for (text, expected) in [
            ("[{},\n  7]", "expected an object at line 2 column 3, got a number"),
            ("[{},\n{]", "key must be a string at line 2 column 2"),
            ("[{}", "EOF while parsing a list at line 1 column 3"),
            ("{}\n 7", "expected an object at line 2 column 2, got a number"),
            ("{}\n \"s3cret\"", "expected an object at line 2 column 2, got a string"),
            ("[[]]", "expected an object at line 1 column 2, got an array"),
            ("[null]", "expected an object at line 1 column 2, got null"),
            ("false", "expected an object at line 1 column 1, got a boolean"),
            ("{}\n{", "EOF while parsing an object at line 2 column 1"),
            ("{}\nx", "expected value at line 2 column 1"),
            (" \n", "it holds no events"),
        ] {
            assert_eq!(Outgoing::parse_file(text.as_bytes()).unwrap_err(), expected);
        }
        assert_eq!(Outgoing::parse_file(b"{}\n{\"\xff").unwrap_err(), "not UTF-8 at line 2 column 3");
    }
}
