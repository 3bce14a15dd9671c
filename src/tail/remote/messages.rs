//! Server-sent events (WHATWG HTML, section 9.2.6), from bytes to messages.

use anyhow::bail;

use super::response::{EventJson, unexpected_response};
use crate::core::event::StoredEvent;
use crate::core::query::parse_position;

/// What a stream says.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// An event, whose id is where to go on.
    Event(StoredEvent),
    /// Where to go on.
    Position(i64),
}

/// The lines of a stream as they come.
pub struct Messages {
    limit_bytes: usize,
    line: Vec<u8>,
    /// Whether the line before ended with a carriage return, to which a line feed may belong.
    after_return: bool,
    id: Option<i64>,
    data: Vec<u8>,
}

impl Messages {
    /// Of a stream that has said nothing yet, and whose messages are not to be longer than the limit.
    pub fn new(limit_bytes: usize) -> Messages {
        Messages { limit_bytes, line: Vec::new(), after_return: false, id: None, data: Vec::new() }
    }

    /// The messages that end within these bytes.
    ///
    /// # Errors
    /// A message is too long, or not an event.
    pub fn read(&mut self, bytes: &[u8]) -> anyhow::Result<Vec<Message>> {
        let mut messages = Vec::new();
        let mut rest = bytes;
        if std::mem::take(&mut self.after_return) {
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.extend(&rest[..end])?;
            let line = std::mem::take(&mut self.line);
            messages.extend(self.take_line(&line)?);
            let returned = rest[end] == b'\r';
            rest = &rest[end + 1..];
            if returned {
                self.after_return = rest.is_empty();
                rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            }
        }
        self.extend(rest)?;
        Ok(messages)
    }

    fn extend(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        if self.line.len() + self.data.len() + bytes.len() > self.limit_bytes {
            bail!("a message of the stream is longer than {} bytes", self.limit_bytes);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn take_line(&mut self, line: &[u8]) -> anyhow::Result<Option<Message>> {
        if line.is_empty() {
            return self.dispatch();
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"id" => {
                let id = str::from_utf8(value).ok().filter(|id| !id.is_empty()).and_then(parse_position);
                self.id = Some(id.ok_or_else(|| unexpected_response("the stream has an id that is none"))?);
            }
            b"data" => {
                if !self.data.is_empty() {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
            }
            // Comments are heartbeats, and other fields tell nothing here.
            _ => {}
        }
        Ok(None)
    }

    fn dispatch(&mut self) -> anyhow::Result<Option<Message>> {
        let data = std::mem::take(&mut self.data);
        let id = self.id.take();
        if data.is_empty() {
            return Ok(id.map(Message::Position));
        }
        let event: EventJson = serde_json::from_slice(&data)
            .map_err(|error| unexpected_response(&format!("the stream has what is not an event: {error}")))?;
        if id != Some(event.id) {
            return Err(unexpected_response("the stream has an event whose id is another"));
        }
        StoredEvent::try_from(event).map(|event| Some(Message::Event(event)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str =
        r#"{"id":7,"received_at":"2024-01-15T12:00:00.000000Z","event_type":"a","event_payload":"b"}"#;

    fn all(text: &str, length: usize) -> Vec<Message> {
        let mut messages = Messages::new(1000);
        text.as_bytes().chunks(length).flat_map(|piece| messages.read(piece).unwrap()).collect()
    }

    #[test]
    fn messages_are_the_same_however_they_are_cut_and_lines_end() {
        for end in ["\n", "\r\n", "\r"] {
            let text =
                format!("retry: 1000\nid: 3\n\n:\n\n: x\nid:5\n\nid: 7\ndata: {EVENT}\n\n\nid: 9\n\nid: 10")
                    .replace('\n', end);
            for length in 1..text.len() {
                let messages = all(&text, length);
                let [Message::Position(3), Message::Position(5), Message::Event(event), Message::Position(9)] =
                    &messages[..]
                else {
                    panic!("{end:?}, {length}: {messages:?}")
                };
                assert_eq!((event.id, event.event_payload.as_str()), (7, "b"));
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        let long = format!("data: {}", "x".repeat(1000));
        let lines = "data: x\n".repeat(600);
        let other_id = format!("id: 8\ndata: {EVENT}\n\n");
        for text in ["id: x\n\n", "id\n", "id: -1\n", "id: 1\ndata: {}\n\n", &long, &lines, &other_id] {
            assert!(Messages::new(1000).read(text.as_bytes()).is_err(), "{text}");
        }
    }
}
