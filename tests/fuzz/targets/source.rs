//! The events file of `propagate`: objects are sent as they stand, and errors say where.

#![no_main]

use eventctl::testing::Outgoing;
use eventctl_fuzz::assert_presentable;
use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| match Outgoing::parse_file(bytes) {
    Ok(events) => {
        assert_nothing_is_lost(&events, str::from_utf8(bytes).expect("JSON is UTF-8"));
        events.iter().for_each(assert_is_an_object);
        assert_read_back_from_lines(&events);
    }
    Err(message) => assert_located(&message, bytes),
});

/// Between the bodies, in their order, the file holds nothing but white space, byte order marks, and what makes lists.
fn assert_nothing_is_lost(events: &[Outgoing], text: &str) {
    assert!(!events.is_empty());
    let mut rest = text;
    let mut between = String::new();
    for event in events {
        let at = rest.find(&event.body).expect("a body is a part of the file");
        between.push_str(&rest[..at]);
        between.push('.');
        rest = &rest[at + event.body.len()..];
    }
    between.push_str(rest);
    between.retain(|character| !matches!(character, ' ' | '\t' | '\r' | '\n' | '\u{FEFF}'));
    // Lists become items, and items nothing.
    let items = between.replace(",.", "").replace("[.]", ".").replace("[]", "");
    assert!(items.bytes().all(|byte| byte == b'.'), "{between}");
}

fn assert_is_an_object(event: &Outgoing) {
    assert!(event.body.starts_with('{') && event.body.ends_with('}'));
    serde_json::from_str::<IgnoredAny>(&event.body).expect("a body is JSON");
    assert_presentable(&event.event_type);
    if let Ok(Value::Object(members)) = serde_json::from_str(&event.body)
        && event.event_type != "-"
    {
        assert!(members["event_type"].is_string());
    }
}

/// Dead letters can be sent again, and mean the same.
fn assert_read_back_from_lines(events: &[Outgoing]) {
    let lines: String = events.iter().map(|event| event.in_one_line() + "\n").collect();
    let read = Outgoing::parse_file(lines.as_bytes()).expect("dead letters are events");
    assert_eq!(read.len(), events.len());
    for (read, event) in read.iter().zip(events) {
        assert_eq!(read.body, event.in_one_line());
        assert_eq!(read.event_type, event.event_type);
        let value = |text: &str| serde_json::from_str::<Value>(text).ok();
        assert_eq!(value(&read.body), value(&event.body));
    }
}

/// The message names a place within the file.
fn assert_located(message: &str, bytes: &[u8]) {
    assert_presentable(message);
    if message == "it holds no events" {
        return;
    }
    let (_, place) = message.split_once(" at line ").expect("a message says where");
    let (line, column) = place.split_once(" column ").expect("a message says where");
    let column = column.split(',').next().unwrap_or_default();
    let (line, column): (usize, usize) = (line.parse().unwrap(), column.parse().unwrap());
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    assert!((1..=lines.len()).contains(&line) && column <= lines[line - 1].len() + 1, "{message}");
}
