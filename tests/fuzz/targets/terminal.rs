//! What `tail` prints of stored strings: harmless to a terminal, and read back by programs as it was.
//!
//! The input is a payload or, with a U+0000 in it, a type and a payload.

#![no_main]

use eventctl::testing::{Color, Content, EventFormat, OutputSettings};
use eventctl::testing::StoredEvent;
use eventctl::testing::{excerpt, is_unsafe, printable};
use eventctl::testing::Timestamp;
use eventctl::testing::Printer;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

const TEXT: OutputSettings = settings(EventFormat::Text, Color::Never);
const COLORED: OutputSettings = settings(EventFormat::Text, Color::Always);
const JSON: OutputSettings = settings(EventFormat::Json, Color::Never);
const CSV: OutputSettings = settings(EventFormat::Csv, Color::Never);

fuzz_target!(|text: &str| {
    let (event_type, event_payload) = text.split_once('\0').unwrap_or(("", text));
    let event = StoredEvent {
        id: 17,
        received_at: Timestamp::from_microseconds(1_705_320_000_000_001),
        event_type: event_type.to_owned(),
        event_payload: event_payload.to_owned(),
    };
    assert_printable(text);
    assert_text(TEXT, &event);
    assert_colored(COLORED, &event);
    assert_json(JSON, &event);
    assert_csv(CSV, &event);
});

const fn settings(format: EventFormat, color: Color) -> OutputSettings {
    OutputSettings { content: Content::Events, format, color }
}

fn print(settings: OutputSettings, on_terminal: bool, event: &StoredEvent) -> String {
    let mut output = Vec::new();
    let mut printer = Printer::new(settings, on_terminal, &mut output);
    printer.print(event).and_then(|()| printer.flush()).expect("memory takes all text");
    String::from_utf8(output).expect("what is printed is UTF-8")
}

/// Stated anew, so that the program is not measured by itself.
fn is_harmless(character: char) -> bool {
    !matches!(character, '\0'..='\x1f' | '\x7f'..='\u{9f}'
        | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn assert_printable(text: &str) {
    let shown = printable(text);
    assert!(shown.chars().all(is_harmless), "{shown:?}");
    assert_eq!(shown == text, text.chars().all(is_harmless));
    assert_eq!(printable(&shown), shown);
    assert_eq!(text.contains(is_unsafe), !text.chars().all(is_harmless));
    let short = excerpt(text, 8);
    assert!(short.chars().all(is_harmless) && short.chars().count() <= 8 * "\\u{2028}".len() + 1);
}

fn assert_one_harmless_line(printed: &str) -> &str {
    let line = printed.strip_suffix('\n').expect("a line has an end");
    assert!(line.chars().all(is_harmless), "{line:?}");
    line
}

fn assert_text(settings: OutputSettings, event: &StoredEvent) {
    let printed = print(settings, true, event);
    let line = assert_one_harmless_line(&printed);
    assert!(line.ends_with(&format!(" {}", printable(&event.event_payload))));
    assert_eq!(print(settings, false, event), printed);
}

/// The escapes are the printer's own: four of them, whatever is stored.
fn assert_colored(settings: OutputSettings, event: &StoredEvent) {
    let printed = print(settings, true, event);
    let pieces: Vec<&str> = printed.split('\x1b').collect();
    let [before, dim, plain, bold, end] = pieces.as_slice() else { panic!("{printed:?}") };
    assert!(before.is_empty() && dim.starts_with("[2m") && plain.starts_with("[0m"));
    assert!(bold.starts_with("[1m") && end.starts_with("[0m"));
    assert_one_harmless_line(&pieces.concat());
}

fn assert_json(settings: OutputSettings, event: &StoredEvent) {
    for on_terminal in [false, true] {
        let printed = print(settings, on_terminal, event);
        let read: Value = serde_json::from_str(assert_one_harmless_line(&printed)).expect("a line is JSON");
        let expected = json!({
            "id": event.id,
            "received_at": "2024-01-15T12:00:00.000001Z",
            "event_type": event.event_type,
            "event_payload": event.event_payload,
        });
        assert_eq!(read, expected);
    }
}

fn assert_csv(settings: OutputSettings, event: &StoredEvent) {
    assert_eq!(
        fields_of(&print(settings, false, event))[2..],
        [event.event_type.clone(), event.event_payload.clone()]
    );
    let printed = print(settings, true, event);
    let lines: Vec<&str> = printed.split_terminator("\r\n").collect();
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line.chars().all(is_harmless)), "{printed:?}");
    let expected = [printable(&event.event_type), printable(&event.event_payload)];
    assert_eq!(fields_of(&printed)[2..], expected);
}

/// The fields of the one row behind the header, read by RFC 4180.
fn fields_of(printed: &str) -> Vec<String> {
    let mut rest = printed.strip_prefix("id,received_at,event_type,event_payload\r\n").expect("a header");
    let mut fields = Vec::new();
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted),
            None => {
                let (field, after) = rest.split_at(rest.find([',', '\r', '\n']).expect("a row has an end"));
                assert!(!field.contains('"'));
                (field.to_owned(), after)
            }
        };
        fields.push(field);
        if after == "\r\n" {
            return fields;
        }
        rest = after.strip_prefix(',').expect("a comma or the end follows a field");
    }
}

/// A field behind its first quote, and what follows its last.
fn quoted_field(text: &str) -> (String, &str) {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('"').expect("a quote closes");
        field.push_str(before);
        let Some(doubled) = after.strip_prefix('"') else { return (field, after) };
        field.push('"');
        rest = doubled;
    }
}
