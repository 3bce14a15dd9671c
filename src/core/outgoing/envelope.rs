//! Envelopes: `{"eventctl": 1, "event": {…}}` with members beside `event` that are about it and never sent.

use serde_json::json;

use super::Outgoing;
use crate::core::members::Members;
use crate::core::timestamp::Timestamp;

/// The member that makes an object an envelope, and its value.
const MARK: &str = "eventctl";
const VERSION: &str = "1";

/// The longest idempotency key, in bytes.
const KEY_LIMIT_BYTES: usize = 255;

const DEFAULT_WEIGHT: f64 = 1.0;

/// What an envelope says about its event.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// The idempotency key that the event is sent with.
    pub key: Option<String>,
    pub received_at: Option<Timestamp>,
    /// How often the event is drawn in random order, relative to others.
    pub weight: f64,
}

impl Default for Envelope {
    fn default() -> Envelope {
        Envelope { key: None, received_at: None, weight: DEFAULT_WEIGHT }
    }
}

/// The event of an envelope, as it stands, and what is said about it; `None` for an object that is none.
///
/// # Errors
/// What is wrong with the envelope.
pub fn opened(text: &str) -> Result<Option<(&str, Envelope)>, String> {
    // Most objects are none, and are not read a second time.
    if !text.contains(MARK) {
        return Ok(None);
    }
    let Ok(members) = Members::of(text) else { return Ok(None) };
    match members.get(MARK) {
        None => return Ok(None),
        Some(VERSION) => {}
        Some(_) => return Err("an envelope of another version".to_owned()),
    }
    let event = members.get("event").filter(|event| event.starts_with('{'));
    let event = event.ok_or("an envelope without an object as its `event`")?;
    let envelope = Envelope {
        key: text_of(&members, "key")?.map(checked_key).transpose()?,
        received_at: text_of(&members, "received_at")?.map(|at| at.parse()).transpose()?,
        weight: members.get("weight").map_or(Ok(DEFAULT_WEIGHT), |weight| {
            let weight: Option<f64> = weight.parse().ok();
            weight
                .filter(|weight| weight.is_finite() && *weight > 0.0)
                .ok_or("an envelope whose `weight` is no number above zero")
        })?,
    };
    Ok(Some((event, envelope)))
}

/// A member that is a string; none where it is missing or null.
fn text_of(members: &Members<'_>, name: &str) -> Result<Option<String>, String> {
    match members.get(name) {
        None | Some("null") => Ok(None),
        Some(_) => {
            members.string(name).map(Some).ok_or_else(|| format!("an envelope whose `{name}` is no string"))
        }
    }
}

fn checked_key(key: String) -> Result<String, String> {
    let printable = key.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    let fits = (1..=KEY_LIMIT_BYTES).contains(&key.len()) && key.trim() == key;
    match printable && fits {
        true => Ok(key),
        false => {
            Err(format!("an envelope whose `key` is not 1 to {KEY_LIMIT_BYTES} printable ASCII characters"))
        }
    }
}

impl Outgoing {
    /// An envelope with the event, in one line: why it was not delivered, and under which key it was sent.
    pub fn in_envelope(&self, key: &str, status: Option<u16>, reason: Option<&str>) -> String {
        let mut line = format!(r#"{{"{MARK}":{VERSION},"event":{}"#, self.in_one_line());
        let members = [
            ("key", Some(json!(key))),
            ("status", status.map(|status| json!(status))),
            ("reason", reason.map(|reason| json!(reason))),
        ];
        for (name, value) in members {
            if let Some(value) = value {
                line += &format!(r#","{name}":{value}"#);
            }
        }
        line + "}"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_is_opened_and_what_is_none_is_not() {
        let text = r#"{"eventctl": 1, "id": 7, "event": {"event_type": "a",  "x": 1.0}, "key": "k 1",
            "received_at": "2026-01-15T12:00:00.000001Z", "weight": 0.5, "status": 503, "reason": null}"#;
        let (event, envelope) = opened(text).unwrap().unwrap();
        assert_eq!(event, r#"{"event_type": "a",  "x": 1.0}"#);
        assert_eq!((envelope.key.as_deref(), envelope.weight), (Some("k 1"), 0.5));
        assert_eq!(envelope.received_at.unwrap().to_string(), "2026-01-15T12:00:00.000001Z");
        for text in [r#"{"event": {}}"#, r#"{"event_type": "eventctl"}"#, "{}"] {
            assert_eq!(opened(text).unwrap(), None, "{text}");
        }
        for text in [
            r#"{"eventctl": 2, "event": {}}"#,
            r#"{"eventctl": 1}"#,
            r#"{"eventctl": 1, "event": []}"#,
            r#"{"eventctl": 1, "event": {}, "key": 7}"#,
            r#"{"eventctl": 1, "event": {}, "key": ""}"#,
            r#"{"eventctl": 1, "event": {}, "key": "é"}"#,
            r#"{"eventctl": 1, "event": {}, "weight": -1}"#,
            r#"{"eventctl": 1, "event": {}, "received_at": "x"}"#,
        ] {
            assert!(opened(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_was_not_delivered_is_read_back_with_its_key() {
        let event = Outgoing::parse_file(b"{\"a\":\n 1}").unwrap().remove(0);
        let line = event.in_envelope("k", Some(503), Some("a \"b\"\n"));
        assert!(!line.contains('\n'), "{line}");
        let read = Outgoing::parse_file(line.as_bytes()).unwrap().remove(0);
        assert_eq!((read.body.as_str(), read.envelope.key.as_deref()), ("{\"a\":  1}", Some("k")));
    }
}
