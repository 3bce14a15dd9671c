//! Events to send: the objects of a file or a stream, byte for byte.

mod envelope;
mod input;

use std::io::BufRead;

use serde::Deserialize;
use serde_json::value::RawValue;

pub use self::envelope::Envelope;
use self::envelope::opened;
use self::input::{Extent, Input, Position};
use super::members::Members;
use super::text::{BYTE_ORDER_MARK, excerpt};

const VALUE_LIMIT_BYTES: usize = 64 << 20;

/// An event to send: any JSON object, with its text unchanged.
#[derive(Debug)]
pub struct Outgoing {
    pub body: String,
    /// Its type, for display; `-` if it has none.
    pub event_type: String,
    /// What its envelope says about it, if it came in one.
    pub envelope: Envelope,
}

impl Outgoing {
    /// Reads a file of at least one JSON object, in sequence or in arrays: an event, or an envelope with one.
    ///
    /// # Errors
    /// The first problem, with line and column.
    pub fn parse_file(bytes: &[u8]) -> Result<Vec<Outgoing>, String> {
        let events: Vec<Outgoing> = Objects::new(bytes).collect::<Result<_, _>>()?;
        if events.is_empty() {
            return Err("it holds no events".to_owned());
        }
        Ok(events)
    }

    /// An event that a journal has.
    ///
    /// # Errors
    /// The text is no object.
    pub fn recorded(text: String) -> Result<Outgoing, String> {
        if !text.starts_with('{') || serde_json::from_str::<&RawValue>(&text).is_err() {
            return Err("an event in it is no object".to_owned());
        }
        Ok(Outgoing { event_type: type_of(&text), body: text, envelope: Envelope::default() })
    }

    /// The object as a line of NDJSON: unchanged except for line breaks between its members.
    pub fn in_one_line(&self) -> String {
        self.body.replace(['\n', '\r'], " ")
    }

    /// The object as the data of a CloudEvent of its type. A type that is no string is not made one, so that a receiver
    /// refuses it as it would refuse the object.
    pub fn in_cloud_event(&self, id: &str) -> String {
        let members = Members::of(&self.body).ok();
        let event_type = members.as_ref().and_then(|members| members.get("event_type"));
        let event_type = event_type.map(|event_type| format!(r#","type":{event_type}"#)).unwrap_or_default();
        let start = format!(r#"{{"specversion":"1.0","id":"{id}","source":"eventctl"{event_type}"#);
        format!(r#"{start},"datacontenttype":"application/json","data":{}}}"#, self.body)
    }

    /// # Errors
    /// The object is an envelope, and a wrong one.
    fn new(object: &str) -> Result<Outgoing, String> {
        let (body, envelope) = opened(object)?.unwrap_or_else(|| (object, Envelope::default()));
        Ok(Outgoing { body: body.to_owned(), event_type: type_of(body), envelope })
    }
}

/// The type of an event, for display.
fn type_of(body: &str) -> String {
    #[derive(Deserialize)]
    struct Named {
        event_type: String,
    }
    let named: Result<Named, _> = serde_json::from_str(body);
    named.map_or_else(|_| "-".to_owned(), |named| excerpt(&named.event_type, 64))
}

/// Iterates over the objects of a text, in order: JSON values in sequence, with or without line breaks between them, and the
/// items of arrays.
///
/// Anything else is an error with its line and column, after which the iteration resumes: at the next line if it is not
/// certain where the malformed value ends.
pub struct Objects<R> {
    input: Input<R>,
    limit_bytes: usize,
    array: Option<InArray>,
    failed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InArray {
    ItemOrEnd,
    Item,
    CommaOrEnd,
}

impl<R: BufRead> Objects<R> {
    pub fn new(reader: R) -> Objects<R> {
        Objects { input: Input::new(reader), limit_bytes: VALUE_LIMIT_BYTES, array: None, failed: false }
    }

    /// Skips to the next value; false at the end of the text.
    fn find_value(&mut self) -> Result<bool, String> {
        loop {
            let position = self.input.position();
            let Some(byte) = self.input.peek()? else {
                return match self.array.take() {
                    Some(_) => Err(format!("EOF while parsing a list at {}", position.before())),
                    None => Ok(false),
                };
            };
            match (byte, self.array) {
                (b' ' | b'\t' | b'\r' | b'\n', _) => {}
                // Concatenated files may each begin with one.
                (0xEF, None) if self.input.pass_over(BYTE_ORDER_MARK)? => continue,
                (b'[', None) => self.array = Some(InArray::ItemOrEnd),
                (b']', Some(InArray::ItemOrEnd | InArray::CommaOrEnd)) => self.array = None,
                (b',', Some(InArray::CommaOrEnd)) => self.array = Some(InArray::Item),
                (b']', Some(InArray::Item)) => {
                    self.array = None;
                    self.input.take()?;
                    return Err(format!("trailing comma at {position}"));
                }
                (_, Some(InArray::CommaOrEnd)) => {
                    self.array = Some(InArray::Item);
                    return Err(format!("expected `,` or `]` at {position}"));
                }
                _ => return Ok(true),
            }
            self.input.take()?;
        }
    }

    fn read_value(&mut self) -> Result<Outgoing, String> {
        let extent = self.input.read_extent(self.limit_bytes)?;
        if self.array.is_some() {
            self.array = Some(InArray::CommaOrEnd);
        }
        let parsed = self.object_of(&extent);
        if matches!(parsed, Err(Problem::NotJson(_))) {
            self.input.recover(extent)?;
        }
        parsed.map_err(|problem| match problem {
            Problem::NotAnObject(problem) | Problem::NotJson(problem) => problem,
        })
    }

    fn object_of(&self, extent: &Extent) -> Result<Outgoing, Problem> {
        let (start, limit_bytes) = (extent.start, self.limit_bytes);
        if extent.is_too_long {
            return Err(Problem::NotJson(format!("longer than {limit_bytes} bytes at {start}")));
        }
        let text = str::from_utf8(&extent.text).map_err(|error| {
            let valid = String::from_utf8_lossy(&extent.text[..error.valid_up_to()]);
            Problem::NotJson(format!("not UTF-8 at {}", start.after(&valid)))
        })?;
        let value: &RawValue =
            serde_json::from_str(text).map_err(|error| Problem::NotJson(explain(&error, text, start)))?;
        if !text.starts_with('{') {
            let got = kind_of(value);
            return Err(Problem::NotAnObject(format!("expected an object at {start}, got {got}")));
        }
        Outgoing::new(text).map_err(|problem| Problem::NotAnObject(format!("{problem}, at {start}")))
    }
}

impl<R: BufRead> Iterator for Objects<R> {
    type Item = Result<Outgoing, String>;

    fn next(&mut self) -> Option<Result<Outgoing, String>> {
        if self.failed {
            return None;
        }
        let next = match self.find_value() {
            Ok(true) => self.read_value(),
            Ok(false) => return None,
            Err(problem) => Err(problem),
        };
        self.failed = self.input.has_failed();
        Some(next)
    }
}

enum Problem {
    NotAnObject(String),
    NotJson(String),
}

/// The library's error for a value, with its position in the whole text.
fn explain(error: &serde_json::Error, text: &str, start: Position) -> String {
    let message = error.to_string();
    let reason = message.split(" at line ").next().unwrap_or_default();
    let line_start: usize = text.split_inclusive('\n').take(error.line() - 1).map(str::len).sum();
    let line = &text[line_start..];
    // The library counts bytes.
    let column = error.column().saturating_sub(1).min(line.len());
    let before = (0..=column).rev().find(|at| line.is_char_boundary(*at)).unwrap_or_default();
    let position = start.after(&text[..line_start + before]);
    match position.line > start.line {
        true => format!("{reason} at {position}, in the value that begins at line {}", start.line),
        false => format!("{reason} at {position}"),
    }
}

/// The kind of a value that is not an object. The message may be logged, so it does not repeat the value.
fn kind_of(item: &RawValue) -> &'static str {
    match item.get().as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies(events: &[Outgoing]) -> Vec<&str> {
        events.iter().map(|event| event.body.as_str()).collect()
    }

    #[test]
    fn objects_keep_their_text() {
        let text = "[ {\"event_type\": 1.0e2,  \"a\":\"\\u00e9\", \"a\":2},\n{} ]";
        let events = Outgoing::parse_file(text.as_bytes()).unwrap();
        assert_eq!(bodies(&events), ["{\"event_type\": 1.0e2,  \"a\":\"\\u00e9\", \"a\":2}", "{}"]);
        let events = Outgoing::parse_file(b"{\"event_type\":\"x\"}\r\n\n {} \n").unwrap();
        assert_eq!(bodies(&events), ["{\"event_type\":\"x\"}", "{}"]);
        assert_eq!(events[0].event_type, "x");
    }

    #[test]
    fn values_may_be_concatenated_or_on_lines_or_in_arrays() {
        let spread = "{\n  \"a\": [\n    {\"}]\\\"{\": 1}\n  ]\n}";
        for (text, expected) in [
            ("{}{\"a\":1} {\"b\":[]}", &["{}", "{\"a\":1}", "{\"b\":[]}"][..]),
            ("[{},{}][]\n[{\"a\":1}]{\"b\":2}", &["{}", "{}", "{\"a\":1}", "{\"b\":2}"]),
            (&format!("{spread}\n{spread}"), &[spread, spread]),
            ("\u{FEFF}{}\n", &["{}"]),
            ("\u{FEFF}[{}]\n\u{FEFF}[{}]", &["{}", "{}"]),
        ] {
            assert_eq!(bodies(&Outgoing::parse_file(text.as_bytes()).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn problems_are_located() {
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
            ("{}, {}", "expected value at line 1 column 3"),
            ("{}]", "expected value at line 1 column 3"),
            ("[{} {}]", "expected `,` or `]` at line 1 column 5"),
            ("[{},]", "trailing comma at line 1 column 5"),
            ("[,{}]", "expected value at line 1 column 2"),
            ("{\"é\" 1}", "expected `:` at line 1 column 6"),
            ("{\"a\":\n1 2}", "expected `,` or `}` at line 2 column 3, in the value that begins at line 1"),
            (" \n", "it holds no events"),
            ("\u{FEFF}", "it holds no events"),
            ("[]", "it holds no events"),
        ] {
            assert_eq!(Outgoing::parse_file(text.as_bytes()).unwrap_err(), expected, "{text}");
        }
        assert_eq!(Outgoing::parse_file(b"{}\n{\"\xff").unwrap_err(), "not UTF-8 at line 2 column 3");
    }

    /// The bodies of a text, and `!` for what is wrong in between.
    fn read(text: &str) -> Vec<String> {
        let objects = Objects::new(text.as_bytes());
        objects.map(|object| object.map_or_else(|_| "!".to_owned(), |object| object.body)).collect()
    }

    #[test]
    fn malformed_values_do_not_hide_the_others() {
        for (text, expected) in [
            ("not json {}\n{}", &["!", "{}"][..]),
            ("{} 17 {\"a\":1}", &["{}", "!", "{\"a\":1}"]),
            ("{\"a\" 1} {\"b\":2}\n{}", &["!", "{\"b\":2}", "{}"]),
            // Lines that were cut off.
            ("{\"a\":1,\n{\"b\":2}\n{}", &["!", "{\"b\":2}", "{}"]),
            ("{\"a\":\n{\"b\":2}\n{}", &["!", "{\"b\":2}", "{}"]),
            ("{\"a\":\"x\n{\"b\":2}\n{}", &["!", "{\"b\":2}", "{}"]),
            ("{\"a\":[1\n{\"b\":2}", &["!", "{\"b\":2}"]),
            ("{\"a\":[\n{\"b\":2}\n", &["!", "{\"b\":2}"]),
            // A part of a value that was cut off is no event.
            ("{\"a\": [\n  {\"part\":1},\n  {\"part\":2}", &["!"]),
            ("{\n  \"a\" 1,\n  \"b\": {}\n}\n{}", &["!", "{}"]),
            ("[{}, 7, {\"a\":1} {\"b\":2}]\n{}", &["{}", "!", "{\"a\":1}", "!", "{\"b\":2}", "{}"]),
            ("{}\n]\n{}", &["{}", "!", "{}"]),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn lines_that_never_end_what_they_begin_are_not_read_again_and_again() {
        let lines = "{\"a\":[\n".repeat(100_000);
        assert!(read(&lines).iter().all(|read| read == "!"));
    }

    #[test]
    fn a_value_that_is_too_long_is_skipped() {
        let text = "{\"a\": 1234}{\"b\":1}\n{\"a\": [123\n{}";
        let read = Objects { limit_bytes: 10, ..Objects::new(text.as_bytes()) };
        let read: Vec<_> = read.map(|object| object.map(|object| object.body)).collect();
        let too_long = |position| Err(format!("longer than 10 bytes at {position}"));
        let object = |text: &str| Ok(text.to_owned());
        let expected =
            [too_long("line 1 column 1"), object("{\"b\":1}"), too_long("line 2 column 1"), object("{}")];
        assert_eq!(read, expected);
    }
}
