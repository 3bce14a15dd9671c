//! Stored strings are the decoded JSON strings, byte for byte.

use fastrand::Rng;

use crate::util::{random, stored_events};

use super::start;

const ROUNDS: usize = 300;

#[test]
fn any_strings_come_back_byte_for_byte() {
    let (directory, server) = start(&[]);
    let mut random = random();
    let mut connection = server.connect();
    let mut expected = Vec::new();
    for id in 1..=ROUNDS as i64 {
        let type_length = random.usize(0..=255);
        let event_type = any_string(&mut random, type_length);
        let payload_length = if random.u8(..) == 0 { 50_000 } else { random.usize(0..2000) };
        let event_payload = any_string(&mut random, payload_length);
        let body = any_json(&mut random, &event_type, &event_payload);
        let response = connection.post(&body);
        assert_eq!(response.status, 201, "{body}: {response:?}");
        let shown = connection.get(&response.target("/event", response.header("location").unwrap())).json();
        assert_eq!(shown["id"], id);
        assert_eq!(shown["event_type"].as_str().unwrap().as_bytes(), event_type.as_bytes(), "{body}");
        assert_eq!(shown["event_payload"].as_str().unwrap().as_bytes(), event_payload.as_bytes(), "{body}");
        expected.push((id, event_type, event_payload));
    }
    assert!(stored_events(&directory.path().join("events.db")) == expected, "the file holds other strings");
}

fn any_string(random: &mut Rng, characters: usize) -> String {
    // Half of the strings stay in one part of Unicode, half are mixed.
    let part = random.bool().then(|| random.u8(0..7));
    (0..characters).map(|_| any_character(random, part)).collect()
}

/// Any character but U+0000.
fn any_character(random: &mut Rng, part: Option<u8>) -> char {
    let part = part.unwrap_or_else(|| random.u8(0..7));
    match part {
        0 => random.char('\u{1}'..='\u{1f}'),
        1 => random.char(' '..='~'),
        2 => char::from(*random.choice(br#""\/ '{}[]:,u"#).unwrap()),
        3 => random.char('\u{7f}'..='\u{9f}'),
        // Around the surrogates, byte order marks, and what is no character in each plane.
        4 => random
            .choice(['\u{d7ff}', '\u{e000}', '\u{feff}', '\u{fffe}', '\u{ffff}', '\u{10ffff}', '\u{2028}'])
            .unwrap(),
        5 => random.char('\u{10000}'..='\u{10ffff}'),
        _ => random.char('\u{1}'..='\u{ffff}'),
    }
}

fn any_json(random: &mut Rng, event_type: &str, event_payload: &str) -> String {
    let mut members = [("event_type", event_type), ("event_payload", event_payload)];
    random.shuffle(&mut members);
    let mut space = || random.choice(["", " ", "\n", "\t", "\r\n  "]).unwrap();
    let spaces: [&str; 9] = std::array::from_fn(|_| space());
    let [first, second] = members.map(|(name, value)| [write(random, name), write(random, value)]);
    let [a, b, c, d, e, f, g, h, i] = spaces;
    let [first_name, first_value] = first;
    let [second_name, second_value] = second;
    format!("{a}{{{b}{first_name}{c}:{d}{first_value}{e},{f}{second_name}{g}:{h}{second_value}{i}}}")
}

/// A string in one of the many ways that JSON has to write it.
fn write(random: &mut Rng, text: &str) -> String {
    // Sometimes everything is escaped, sometimes only what must be.
    let escaped_percent = random.choice([0, 10, 50, 100]).unwrap();
    let mut json = "\"".to_owned();
    for character in text.chars() {
        let must = character < ' ' || character == '"' || character == '\\';
        if !must && random.u8(0..100) >= escaped_percent {
            json.push(character);
            continue;
        }
        let short = match character {
            '"' => Some("\\\""),
            '\\' => Some("\\\\"),
            '/' => Some("\\/"),
            '\u{8}' => Some("\\b"),
            '\u{c}' => Some("\\f"),
            '\n' => Some("\\n"),
            '\r' => Some("\\r"),
            '\t' => Some("\\t"),
            _ => None,
        };
        match short.filter(|_| random.bool()) {
            Some(short) => json.push_str(short),
            None => character.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                json += &if random.bool() { format!("\\u{unit:04x}") } else { format!("\\u{unit:04X}") };
            }),
        }
    }
    json.push('"');
    json
}
