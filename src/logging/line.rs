//! From an event to its line.

use std::fmt::{self, Write};

use serde::Serialize;
use serde_json::Serializer;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use crate::core::text::{PrintableFormatter, allows_color, excerpt};
use crate::core::timestamp::Timestamp;

/// The most of a text that is logged, in characters: what servers answer can be long.
const TEXT_LIMIT: usize = 4096;

/// The form of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFormat {
    /// For people: time, level, message and fields.
    Text,
    /// A JSON object a line: `timestamp`, `level`, `target`, `message`, and the fields beside them.
    Json,
}

/// How lines look.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    format: LineFormat,
    colored: bool,
}

impl Style {
    /// The style for a format that was asked for, if any, on a terminal or elsewhere.
    pub fn new(format: Option<LineFormat>, on_terminal: bool) -> Style {
        let fitting = if on_terminal { LineFormat::Text } else { LineFormat::Json };
        Style { format: format.unwrap_or(fitting), colored: on_terminal && allows_color() }
    }

    /// The line of an event, with its end.
    pub fn line_of(self, event: &Event<'_>) -> Vec<u8> {
        let mut line = self.begin(*event.metadata().level(), event.metadata().target());
        event.record(&mut line);
        line.end()
    }

    /// A line of a message alone.
    pub fn line(self, level: Level, target: &str, message: &str) -> Vec<u8> {
        let mut line = self.begin(level, target);
        line.add(MESSAGE, Value::Text(message));
        line.end()
    }

    fn begin(self, level: Level, target: &str) -> Line {
        let mut line = Line { style: self, text: String::with_capacity(256) };
        let now = Timestamp::now();
        match self.format {
            LineFormat::Text => {
                let [dim, plain] = if self.colored { ["\x1b[2m", PLAIN] } else { [""; 2] };
                line.write(format_args!("{dim}{now}{plain} "));
                let [color, plain] = if self.colored { [color_of(level), PLAIN] } else { [""; 2] };
                line.write(format_args!("{color}{:>5}{plain}", level.as_str()));
            }
            LineFormat::Json => {
                line.write(format_args!(r#"{{"timestamp":"{now}","level":"{level}","target":"{target}""#));
            }
        }
        line
    }
}

/// The name of the field that `tracing` gives to a message.
const MESSAGE: &str = "message";

const PLAIN: &str = "\x1b[0m";

fn color_of(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        _ => "\x1b[34m",
    }
}

/// A line that is being made.
struct Line {
    style: Style,
    text: String,
}

/// What stands in a field.
enum Value<'a> {
    Text(&'a str),
    /// A number or a truth, which is written alike in both formats.
    Plain(fmt::Arguments<'a>),
}

impl Line {
    fn add(&mut self, name: &str, value: Value<'_>) {
        match self.style.format {
            LineFormat::Text => self.add_text(name, value),
            LineFormat::Json => {
                self.write(format_args!(",\"{name}\":"));
                match value {
                    Value::Text(text) => self.push_json(text),
                    Value::Plain(value) => self.write(value),
                }
            }
        }
    }

    fn add_text(&mut self, name: &str, value: Value<'_>) {
        self.text.push(' ');
        if name != MESSAGE {
            let [dim, plain] = if self.style.colored { ["\x1b[2m", PLAIN] } else { [""; 2] };
            self.write(format_args!("{dim}{name}={plain}"));
        }
        match value {
            Value::Plain(value) => self.write(value),
            Value::Text(text) => {
                let text = excerpt(text, TEXT_LIMIT);
                // So that where a value ends can be told.
                let quoted = name != MESSAGE && (text.is_empty() || text.contains([' ', '"', '=']));
                let text = if quoted { format!("\"{}\"", text.replace('"', "\\\"")) } else { text };
                self.text.push_str(&text);
            }
        }
    }

    fn push_json(&mut self, text: &str) {
        let shown = match text.char_indices().nth(TEXT_LIMIT) {
            Some((end, _)) => &format!("{}…", &text[..end]),
            None => text,
        };
        let mut json = Vec::with_capacity(shown.len() + 2);
        shown
            .serialize(&mut Serializer::with_formatter(&mut json, PrintableFormatter))
            .expect("a string is always JSON");
        self.text.push_str(str::from_utf8(&json).expect("JSON is UTF-8"));
    }

    fn write(&mut self, text: fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("memory takes all text");
    }

    fn end(mut self) -> Vec<u8> {
        self.text.push_str(match self.style.format {
            LineFormat::Text => "\n",
            LineFormat::Json => "}\n",
        });
        self.text.into_bytes()
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field.name(), Value::Text(&format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, text: &str) {
        self.add(field.name(), Value::Text(text));
    }

    fn record_u64(&mut self, field: &Field, number: u64) {
        self.add(field.name(), Value::Plain(format_args!("{number}")));
    }

    fn record_i64(&mut self, field: &Field, number: i64) {
        self.add(field.name(), Value::Plain(format_args!("{number}")));
    }

    fn record_f64(&mut self, field: &Field, number: f64) {
        // JSON has no numbers that are none.
        let number = if number.is_finite() { number } else { 0.0 };
        self.add(field.name(), Value::Plain(format_args!("{number}")));
    }

    fn record_bool(&mut self, field: &Field, truth: bool) {
        self.add(field.name(), Value::Plain(format_args!("{truth}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line without its time, which has 27 characters.
    fn without_time(line: Vec<u8>, time_at: usize) -> String {
        let line = String::from_utf8(line).unwrap();
        let time = &line[time_at..time_at + 27];
        assert_eq!(time.parse::<Timestamp>().unwrap().to_string(), time);
        line[..time_at].to_owned() + &line[time_at + 27..]
    }

    #[test]
    fn text_from_outside_stays_in_its_line() {
        let hostile = "a\nb\r\u{1b}[2J\u{9b}\u{202e}\u{7f}";
        let text = Style { format: LineFormat::Text, colored: false };
        let escaped = r"a\nb\r\u{1b}[2J\u{9b}\u{202e}\u{7f}";
        let line = text.line(Level::WARN, "eventctl", hostile);
        assert_eq!(without_time(line, 0), format!("  WARN {escaped}\n"));
        let json = Style { format: LineFormat::Json, colored: false };
        let line = without_time(json.line(Level::WARN, "eventctl", hostile), 14);
        assert_eq!(line.matches(crate::core::text::is_unsafe).collect::<String>(), "\n");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["message"], hostile);
    }

    #[test]
    fn fields_stand_beside_the_message_and_can_be_told_apart() {
        for (format, time_at, expected) in [
            (LineFormat::Text, 0, "  INFO said two=\"a \\\"b\\\"\" none=\"\" plain=x count=3\n"),
            (
                LineFormat::Json,
                14,
                "{\"timestamp\":\"\",\"level\":\"INFO\",\"target\":\"t\",\"message\":\"said\",\
                \"two\":\"a \\\"b\\\"\",\"none\":\"\",\"plain\":\"x\",\"count\":3}\n",
            ),
        ] {
            let mut line = Style { format, colored: false }.begin(Level::INFO, "t");
            line.add(MESSAGE, Value::Text("said"));
            line.add("two", Value::Text("a \"b\""));
            line.add("none", Value::Text(""));
            line.add("plain", Value::Text("x"));
            line.add("count", Value::Plain(format_args!("3")));
            assert_eq!(without_time(line.end(), time_at), expected);
        }
    }

    #[test]
    fn a_text_without_end_is_cut() {
        for format in [LineFormat::Text, LineFormat::Json] {
            let line = Style { format, colored: false }.line(Level::INFO, "t", &"é".repeat(100_000));
            assert!(line.len() < 2 * TEXT_LIMIT + 200, "{}", line.len());
            assert!(String::from_utf8(line).unwrap().contains("é…"));
        }
    }
}
