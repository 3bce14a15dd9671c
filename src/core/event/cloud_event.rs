//! CloudEvents 1.0: an event of a standard shape, whose source and id name it.
//!
//! Source: CloudEvents specification 1.0.2, with its JSON format and its HTTP protocol binding.

use serde::de::IgnoredAny;
use serde_json::json;
use serde_json::value::RawValue;

use super::explain::{ParseError, Refusal};
use super::{Event, StoredEvent, text_of};
use crate::core::members::Members;

/// The attributes that each has, with the members of its JSON.
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];

const VERSION: &str = "1.0";

/// An event, and what names it: of two with the same source and id, one is a repetition.
#[derive(Debug, PartialEq, Eq)]
pub struct CloudEvent {
    /// Its payload is the whole of it in the JSON format.
    pub event: Event,
    pub source: String,
    pub id: String,
}

impl CloudEvent {
    /// Reads one in the JSON format (`application/cloudevents+json`), which becomes the payload byte for byte.
    ///
    /// # Errors
    /// Everything that is wrong with its attributes.
    pub fn parse(bytes: &[u8]) -> Result<CloudEvent, ParseError> {
        let mut refusal = Refusal::default();
        read(text_of(bytes)?, &mut refusal)?.ok_or_else(|| refusal.into_error())
    }

    /// Reads an array of them (`application/cloudevents-batch+json`); not empty.
    ///
    /// # Errors
    /// Everything that is wrong with them, each pointer starting with the position in the array.
    pub fn parse_batch(bytes: &[u8]) -> Result<Vec<CloudEvent>, ParseError> {
        let text = text_of(bytes)?;
        let items: Vec<&RawValue> =
            serde_json::from_str(text).map_err(|error| ParseError::Syntax(error.to_string()))?;
        let mut refusal = Refusal::default();
        let mut events = Vec::with_capacity(items.len());
        for (position, item) in items.iter().enumerate() {
            events.extend(refusal.at(position, |refusal| read(item.get(), refusal))?);
        }
        if items.is_empty() {
            refusal.add("expected at least one event");
        }
        if refusal.is_empty() { Ok(events) } else { Err(refusal.into_error()) }
    }

    /// Puts one together that came in parts (the binary mode of HTTP): attributes by name, the type of its data, and the
    /// data. Data of a JSON type are taken as they are, other text as a string, and the rest in Base64.
    ///
    /// # Errors
    /// Everything that is wrong with its attributes; data of a JSON type are not JSON.
    pub fn assemble(
        attributes: &[(String, String)],
        content_type: Option<&str>,
        data: &[u8],
        to_base64: impl Fn(&[u8]) -> String,
    ) -> Result<CloudEvent, ParseError> {
        let quoted = |text: &str| serde_json::to_string(text).expect("strings are JSON");
        let mut members: Vec<(&str, String)> =
            attributes.iter().map(|(name, value)| (name.as_str(), quoted(value))).collect();
        members.extend(content_type.map(|content_type| ("datacontenttype", quoted(content_type))));
        match (content_type.map(kind_of), std::str::from_utf8(data)) {
            _ if data.is_empty() => {}
            (Some(Kind::Json), _) => {
                let json: &RawValue = serde_json::from_str(text_of(data)?)
                    .map_err(|error| ParseError::Syntax(error.to_string()))?;
                members.push(("data", json.get().to_owned()));
            }
            (Some(Kind::Text), Ok(text)) => members.push(("data", quoted(text))),
            _ => members.push(("data_base64", quoted(&to_base64(data)))),
        }
        let members: Vec<String> =
            members.into_iter().map(|(name, value)| format!("{}:{value}", quoted(name))).collect();
        CloudEvent::parse(format!("{{{}}}", members.join(",")).as_bytes())
    }
}

/// A stored event as the data of a CloudEvent, whose id stays the same when it is sent again, alone or with others.
pub fn wrapped(event: &StoredEvent) -> String {
    // An attribute is never empty.
    let event_type = if event.event_type.is_empty() { "-" } else { &event.event_type };
    json!({
        "specversion": VERSION,
        "id": format!("{}-{:x}", event.id, event.received_at.as_microseconds()),
        "source": "eventctl",
        "type": event_type,
        "time": event.received_at.to_string(),
        "datacontenttype": "application/json",
        "data": event,
    })
    .to_string()
}

enum Kind {
    Json,
    Text,
    Other,
}

fn kind_of(content_type: &str) -> Kind {
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media_type.as_str() {
        "application/json" | "text/json" => Kind::Json,
        other if other.ends_with("+json") => Kind::Json,
        other if other.starts_with("text/") => Kind::Text,
        _ => Kind::Other,
    }
}

/// None where it is refused.
fn read(text: &str, refusal: &mut Refusal) -> Result<Option<CloudEvent>, ParseError> {
    let syntax = |error: serde_json::Error| ParseError::Syntax(error.to_string());
    if !text.trim_start().starts_with('{') {
        serde_json::from_str::<IgnoredAny>(text).map_err(syntax)?;
        refusal.add("expected an object");
        return Ok(None);
    }
    let members = Members::of(text).map_err(syntax)?;
    let attributes = REQUIRED.map(|name| {
        let problem = match members.string(name) {
            _ if members.is_repeated(name) => "given twice",
            Some(version) if name == "specversion" && version != VERSION => "expected 1.0",
            Some(value) if !value.is_empty() => return Some(value),
            None if members.get(name).is_none() => "missing: expected a string that is not empty",
            _ => "expected a string that is not empty",
        };
        refusal.add_at(name, problem);
        None
    });
    let has_both = members.get("data").and(members.get("data_base64")).is_some();
    if has_both {
        refusal.add_at("data_base64", "expected either data or data_base64");
    }
    let [Some(_), Some(id), Some(source), Some(event_type)] = attributes else { return Ok(None) };
    match Event::of(event_type, text.to_owned()) {
        Ok(event) if !has_both => return Ok(Some(CloudEvent { event, source, id })),
        Ok(_) => {}
        Err(_) => refusal.add_at("type", "expected at most 255 characters without U+0000"),
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"{"specversion":"1.0","id":"7","source":"/a","type":"order.created"}"#;

    fn pointers(error: ParseError) -> Vec<String> {
        let ParseError::Shape { errors, .. } = error else { return vec![format!("{error:?}")] };
        errors.into_iter().map(|error| error.pointer).collect()
    }

    #[test]
    fn the_payload_is_the_text_byte_for_byte() {
        let text = " {\"data\": 1.10, \"type\":\"a\\u00e9\", \"id\": \"1\",\n\"source\":\"s\", \"x\": 1e999, \"specversion\":\"1.0\"}";
        let CloudEvent { event, source, id } = CloudEvent::parse(text.as_bytes()).unwrap();
        assert_eq!((event.event_type(), event.event_payload()), ("aé", text));
        assert_eq!((source.as_str(), id.as_str()), ("s", "1"));
        let batch = CloudEvent::parse_batch(format!("[{MINIMAL}, {MINIMAL}]").as_bytes()).unwrap();
        assert_eq!(batch.iter().map(|event| event.event.event_payload()).collect::<Vec<_>>(), [MINIMAL; 2]);
    }

    #[test]
    fn wrong_attributes_are_named() {
        for (text, expected) in [
            ("{}", &["/specversion", "/id", "/source", "/type"][..]),
            (r#"{"specversion":"0.3","id":1,"source":"","type":"a"}"#, &["/specversion", "/id", "/source"]),
            ("[]", &[""]),
            (&MINIMAL.replace("{", r#"{"id":"6","#), &["/id"]),
        ] {
            assert_eq!(pointers(CloudEvent::parse(text.as_bytes()).unwrap_err()), expected, "{text}");
        }
        let both = MINIMAL.replace("\"id\"", "\"data\":1,\"data_base64\":\"\",\"id\"");
        assert_eq!(pointers(CloudEvent::parse(both.as_bytes()).unwrap_err()), ["/data_base64"]);
        let long = MINIMAL.replace("order.created", &"x".repeat(256));
        assert_eq!(pointers(CloudEvent::parse(long.as_bytes()).unwrap_err()), ["/type"]);
        let batch = format!("[{MINIMAL},{{}},3]");
        let expected = ["/1/specversion", "/1/id", "/1/source", "/1/type", "/2"];
        assert_eq!(pointers(CloudEvent::parse_batch(batch.as_bytes()).unwrap_err()), expected);
        assert_eq!(pointers(CloudEvent::parse_batch(b"[]").unwrap_err()), [""]);
    }

    #[test]
    fn parts_are_put_together_by_the_type_of_their_data() {
        let attributes = [("specversion", "1.0"), ("id", "1"), ("source", "ä\""), ("type", "t")];
        let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let assemble = |content_type, data: &[u8]| {
            CloudEvent::assemble(&attributes, content_type, data, |bytes| format!("{bytes:?}"))
        };
        let common = r#"{"specversion":"1.0","id":"1","source":"ä\"","type":"t""#;
        for (content_type, data, rest) in [
            (None, &b""[..], "}"),
            (None, b"a", r#","data_base64":"[97]"}"#),
            (
                Some("application/json"),
                b" {\"a\": 1.10} ",
                r#","datacontenttype":"application/json","data":{"a": 1.10}}"#,
            ),
            (Some("a/b+json; x=y"), b"1", r#","datacontenttype":"a/b+json; x=y","data":1}"#),
            (Some("text/plain"), b"a\n", r#","datacontenttype":"text/plain","data":"a\n"}"#),
            (Some("text/plain"), b"\xff", r#","datacontenttype":"text/plain","data_base64":"[255]"}"#),
            (Some("image/png"), b"a", r#","datacontenttype":"image/png","data_base64":"[97]"}"#),
        ] {
            let event = assemble(content_type, data).unwrap();
            assert_eq!(event.event.event_payload(), format!("{common}{rest}"));
        }
        assert!(matches!(assemble(Some("application/json"), b"{"), Err(ParseError::Syntax(_))));
    }
}
