//! Formats log events as lines.

use std::env;
use std::fmt::{self, Write};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Serializer;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use crate::core::text::{PrintableFormatter, excerpt};
use crate::core::timestamp::Timestamp;

/// The first part of every target of this program.
pub const OWN: &str = "eventctl";

/// The most characters of a field: responses of servers can be long.
const TEXT_LIMIT: usize = 4096;

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// Time, level, message and fields.
    Text,
    /// One JSON object in each line.
    Json,
}

/// Whether the environment permits colours by default.
///
/// Source: no-color.org: any value of `NO_COLOR` but an empty one forbids them.
pub fn allows_color() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// How lines look.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    is_json: bool,
    colored: bool,
}

impl Style {
    pub fn new(format: LogFormat, on_terminal: bool) -> Style {
        let is_json = match format {
            LogFormat::Auto => !on_terminal,
            LogFormat::Text => false,
            LogFormat::Json => true,
        };
        Style { is_json, colored: on_terminal && allows_color() }
    }

    pub fn line_of(self, event: &Event<'_>) -> Vec<u8> {
        let mut line = self.begin(*event.metadata().level(), event.metadata().target());
        event.record(&mut line);
        line.end()
    }

    /// A line without fields.
    pub fn line(self, level: Level, target: &str, message: &str) -> Vec<u8> {
        let mut line = self.begin(level, target);
        line.add(MESSAGE, FieldValue::Text(message));
        line.end()
    }

    fn begin(self, level: Level, target: &str) -> Line {
        let mut line = Line { style: self, text: String::with_capacity(256) };
        let now = Timestamp::now();
        if self.is_json {
            line.write(format_args!(r#"{{"timestamp":"{now}","level":"{level}","target":"{target}""#));
            return line;
        }
        let [dim, plain] = if self.colored { ["\x1b[2m", PLAIN] } else { [""; 2] };
        line.write(format_args!("{dim}{now}{plain} "));
        let [color, plain] = if self.colored { [color_of(level), PLAIN] } else { [""; 2] };
        line.write(format_args!("{color}{:>5}{plain}", level.as_str()));
        line
    }
}

/// The field in which `tracing` puts the message.
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

/// A line in the making.
struct Line {
    style: Style,
    text: String,
}

enum FieldValue<'a> {
    Text(&'a str),
    /// A number or a boolean, which both formats write alike.
    Plain(fmt::Arguments<'a>),
}

impl Line {
    fn add(&mut self, name: &str, value: FieldValue<'_>) {
        if !self.style.is_json {
            return self.add_text(name, value);
        }
        self.write(format_args!(",\"{name}\":"));
        match value {
            FieldValue::Text(text) => self.push_json(text),
            FieldValue::Plain(value) => self.write(value),
        }
    }

    fn add_text(&mut self, name: &str, value: FieldValue<'_>) {
        self.text.push(' ');
        if name != MESSAGE {
            let [dim, plain] = if self.style.colored { ["\x1b[2m", PLAIN] } else { [""; 2] };
            self.write(format_args!("{dim}{name}={plain}"));
        }
        match value {
            FieldValue::Plain(value) => self.write(value),
            FieldValue::Text(text) => {
                let text = excerpt(text, TEXT_LIMIT);
                // Quotes show where a value ends.
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
        self.text.push_str(if self.style.is_json { "}\n" } else { "\n" });
        self.text.into_bytes()
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field.name(), FieldValue::Text(&format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, text: &str) {
        self.add(field.name(), FieldValue::Text(text));
    }

    fn record_u64(&mut self, field: &Field, number: u64) {
        self.add(field.name(), FieldValue::Plain(format_args!("{number}")));
    }

    fn record_i64(&mut self, field: &Field, number: i64) {
        self.add(field.name(), FieldValue::Plain(format_args!("{number}")));
    }

    fn record_f64(&mut self, field: &Field, number: f64) {
        // JSON has no NaN and no infinity.
        let number = if number.is_finite() { number } else { 0.0 };
        self.add(field.name(), FieldValue::Plain(format_args!("{number}")));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field.name(), FieldValue::Plain(format_args!("{value}")));
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
    fn control_characters_are_escaped() {
        let hostile = "a\nb\r\u{1b}[2J\u{9b}\u{202e}\u{7f}";
        let text = Style { is_json: false, colored: false };
        let escaped = r"a\nb\r\u{1b}[2J\u{9b}\u{202e}\u{7f}";
        let line = text.line(Level::WARN, "eventctl", hostile);
        assert_eq!(without_time(line, 0), format!("  WARN {escaped}\n"));
        let json = Style { is_json: true, colored: false };
        let line = without_time(json.line(Level::WARN, "eventctl", hostile), 14);
        assert_eq!(line.matches(crate::core::text::is_unsafe).collect::<String>(), "\n");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["message"], hostile);
    }

    #[test]
    fn fields_follow_the_message_and_are_quoted_where_needed() {
        for (is_json, time_at, expected) in [
            (false, 0, "  INFO said two=\"a \\\"b\\\"\" none=\"\" plain=x count=3\n"),
            (
                true,
                14,
                "{\"timestamp\":\"\",\"level\":\"INFO\",\"target\":\"t\",\"message\":\"said\",\
                \"two\":\"a \\\"b\\\"\",\"none\":\"\",\"plain\":\"x\",\"count\":3}\n",
            ),
        ] {
            let mut line = Style { is_json, colored: false }.begin(Level::INFO, "t");
            line.add(MESSAGE, FieldValue::Text("said"));
            line.add("two", FieldValue::Text("a \"b\""));
            line.add("none", FieldValue::Text(""));
            line.add("plain", FieldValue::Text("x"));
            line.add("count", FieldValue::Plain(format_args!("3")));
            assert_eq!(without_time(line.end(), time_at), expected);
        }
    }

    #[test]
    fn a_long_text_is_cut() {
        for is_json in [false, true] {
            let line = Style { is_json, colored: false }.line(Level::INFO, "t", &"é".repeat(100_000));
            assert!(line.len() < 2 * TEXT_LIMIT + 200, "{}", line.len());
            assert!(String::from_utf8(line).unwrap().contains("é…"));
        }
    }
}
