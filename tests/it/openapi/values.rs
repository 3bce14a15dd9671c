//! Values made up from schemas: what they allow, what is just beyond, and what no schema tells.

use fastrand::Rng;
use serde_json::{Map, Value, json};

use super::document::{DOCUMENT, escaped};

/// Texts of all kinds; whether one fits is for a schema to say.
const TEXTS: [&str; 46] = [
    "",
    "message",
    "a",
    " ",
    "é😀",
    "\u{202e}\u{feff}\u{10ffff}",
    "a\0b",
    "\"\\\n\r\t",
    "null",
    "0",
    "-1",
    "1001",
    "+5",
    "9223372036854775807",
    "9223372036854775808",
    "0x10",
    "key",
    "another key",
    "~!@#$%^&*()",
    "mess*",
    "[a-z]?",
    "[!a]",
    "[^]]x",
    "[]]",
    "[",
    "[]",
    "[!]",
    "a[b",
    "x]",
    "1h 30m",
    "0.5",
    "1000y",
    "3days 4hours",
    "5",
    "yesterday",
    "-5s",
    "5 parsecs",
    "2024-01-15T12:00:00Z",
    "2024-01-15t12:00:00.123456789+01:00",
    "2024-13-01T00:00:00Z",
    "2024-01-15",
    "password",
    "client_credentials",
    "refresh_token",
    "scope",
    "{}",
];

/// Makes up values.
pub struct Values {
    pub random: Rng,
}

impl Values {
    pub fn one_in(&mut self, count: u32) -> bool {
        self.random.u32(..count) == 0
    }

    pub fn choose<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.random.usize(..choices.len())]
    }

    /// A value of a schema, or one that is near it.
    pub fn mutated(&mut self, pointer: &str) -> Value {
        let mut value = self.value(pointer);
        if self.one_in(3) {
            self.mutate(&mut value);
        }
        value
    }

    fn mutate(&mut self, value: &mut Value) {
        let inside = match value {
            Value::Array(items) if !items.is_empty() => {
                let index = self.random.usize(..items.len());
                items.get_mut(index)
            }
            Value::Object(members) if !members.is_empty() => {
                let index = self.random.usize(..members.len());
                let name = members.keys().nth(index).unwrap().clone();
                match self.random.u32(..6) {
                    0 => drop(members.remove(&name)),
                    1 => drop(members.insert("unknown/~member".to_owned(), json!([1, null]))),
                    2 => drop(members.insert(name.to_uppercase(), json!("a"))),
                    _ => {}
                }
                members.get_mut(&name)
            }
            _ => None,
        };
        match inside {
            Some(inside) if self.one_in(2) => self.mutate(inside),
            _ if self.one_in(2) => {
                let others =
                    [json!(null), json!(true), json!(1e300), json!([]), json!({}), json!(""), json!([[[]]])];
                *value = others[self.random.usize(..others.len())].clone();
            }
            _ => {}
        }
    }

    /// A value that a schema may well allow.
    pub fn value(&mut self, pointer: &str) -> Value {
        let limit = DOCUMENT.root().pointer(pointer).and_then(|schema| schema.get("maxLength")?.as_u64());
        let (pointer, schema) = DOCUMENT.follow(pointer).unwrap();
        if let Some(limit) = limit.filter(|_| self.one_in(4)) {
            let length = usize::try_from(limit).unwrap() + self.random.usize(..3) - 1;
            return self.choose(&["x", "é", "*"]).repeat(length).into();
        }
        if let Some(constant) = schema.get("const") {
            return constant.clone();
        }
        let branches =
            ["oneOf", "anyOf"].into_iter().find_map(|name| Some((name, schema.get(name)?.as_array()?)));
        let branch =
            branches.map(|(name, all)| format!("{pointer}/{name}/{}", self.random.usize(..all.len())));
        let kind = schema.get("type").and_then(Value::as_str);
        match (kind, branch) {
            (Some("object"), branch) => {
                let mut members = self.members(&pointer);
                members.extend(branch.map(|branch| self.members(&branch)).into_iter().flatten());
                Value::Object(members)
            }
            (None, Some(branch)) => self.value(&branch),
            (Some("array"), _) => {
                let length = if self.one_in(10) { 0 } else { self.random.usize(1..4) };
                (0..length).map(|_| self.value(&format!("{pointer}/items"))).collect()
            }
            (Some("integer"), _) => self.integer(schema),
            _ => self.text(),
        }
    }

    fn members(&mut self, pointer: &str) -> Map<String, Value> {
        let schema = DOCUMENT.root().pointer(pointer).unwrap();
        let properties = schema.get("properties").and_then(Value::as_object);
        let required = schema.get("required").and_then(Value::as_array);
        let mut members = Map::new();
        for name in properties.into_iter().flat_map(|properties| properties.keys()) {
            let constant = schema["properties"][name].get("const").is_some();
            if constant && !self.one_in(10)
                || required.is_some_and(|required| required.contains(&json!(name)))
                || self.one_in(10)
            {
                let value = self.value(&format!("{pointer}/properties/{}", escaped(name)));
                members.insert(name.clone(), value);
            }
        }
        members
    }

    fn integer(&mut self, schema: &Value) -> Value {
        let (minimum, maximum) = (schema["minimum"].as_i64(), schema["maximum"].as_i64());
        match self.random.u32(..8) {
            0 => json!(minimum.unwrap_or(0)),
            1 => json!(maximum.unwrap_or(0)),
            2 => json!(minimum.unwrap_or(0).saturating_sub(1)),
            3 => maximum.map_or(json!(0), |maximum| json!(i128::from(maximum) as u64 + 1)),
            4 => self.text(),
            _ => json!(self.random.u32(1..30)),
        }
    }

    fn text(&mut self) -> Value {
        match self.random.u32(..20) {
            0..4 => (0..self.random.usize(..20)).map(|_| self.random.char(..)).collect::<String>().into(),
            4..8 => self.choose(&["message", "ada", "correct-horse-battery"]).into(),
            _ => TEXTS[self.random.usize(..TEXTS.len())].into(),
        }
    }

    /// What no schema tells, for it is no JSON or not all of it is seen: never taken.
    pub fn spoilt(&mut self, text: String) -> Vec<u8> {
        let mut bytes = text.clone().into_bytes();
        let at = self.random.usize(..=bytes.len());
        match self.random.u32(..11) {
            0 => bytes.insert(at, 0xff),
            1 => bytes.truncate(text.trim_end().len().saturating_sub(1)),
            2 => bytes.extend(b"x"),
            // A byte order mark is passed over at the start alone.
            3 => bytes = [&bytes[..1], b"\xef\xbb\xbf", &bytes[1..]].concat(),
            4 => bytes.clear(),
            5 => bytes = b" \n\t ".to_vec(),
            6 => bytes = "[".repeat(self.random.usize(1..5000)).into_bytes(),
            7 => bytes = (0..30).map(|_| self.random.u8(..)).chain([0xff]).collect(),
            8 if self.one_in(10) => bytes.resize((1 << 20) + 1, b' '),
            9 if text.contains("\":\"") => {
                bytes = text.replacen("\":\"", "\":\"\\ud800", 1).into_bytes();
            }
            _ => {
                // A member that is given twice.
                let doubled = text.find('{').zip(text.find(':')).filter(|(brace, colon)| brace < colon);
                match doubled {
                    Some((brace, colon)) => {
                        let member = format!("{{{}:[\"a\"],", &text[brace + 1..colon]);
                        bytes = text.replacen('{', &member, 1).into_bytes();
                    }
                    None => bytes.push(b','),
                }
            }
        }
        bytes
    }
}

/// JSON with everything beyond ASCII escaped, and with blanks.
pub fn with_escapes(value: &Value) -> String {
    let mut text = String::new();
    for character in format!(" {value:#}\r\n").chars() {
        if character.is_ascii() {
            text.push(character);
        } else {
            character.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text += &format!("\\u{unit:04x}"));
        }
    }
    text
}
