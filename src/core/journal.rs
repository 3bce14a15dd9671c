//! The journal of a sender: which events it has sent, under which keys, and what became of them. A line of JSON each.
//!
//! - The first line names the journal, and how its events are drawn.
//! - A line with an event is on disk before the event is sent. Its key follows from the journal's id and its number.
//! - A line with an outcome follows once the receiver has answered for good. It may be lost: then the event is sent again
//!   under its key.
//! - A last line without its end was never acted upon.

use std::borrow::Cow;
use std::io::{self, BufRead};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

const VERSION: u32 = 1;

/// The longest line: an event of the largest size, and what is about it.
const LINE_LIMIT_BYTES: usize = 65 << 20;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    journal: u32,
    /// Unique; keys begin with it.
    pub id: String,
    /// How an event is sent, as `--format` names it.
    pub format: String,
    /// The order of events, as `--order` names it, and its seed.
    pub order: String,
    pub seed: u64,
}

impl Header {
    pub fn new(id: String, format: String, order: String, seed: u64) -> Header {
        Header { journal: VERSION, id, format, order, seed }
    }

    /// The key of an event that brought none of its own.
    pub fn key_of(&self, number: u64) -> String {
        format!("{}-{number}", self.id)
    }

    pub fn to_line(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always serialize") + "\n"
    }
}

/// What became of an event, as far as the receiver has answered for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Answered 2xx.
    Delivered,
    /// Refused for good.
    Rejected,
}

/// A line after the first.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    n: u64,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    event: Option<&'a RawValue>,
    /// The event where it has line breaks: what is sent again must be the same to the byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
}

/// The line of an event. `key` is its own key, if it has one.
pub fn line_of_event(number: u64, event: &str, key: Option<&str>) -> String {
    let has_breaks = event.contains(['\n', '\r']);
    let raw = || serde_json::from_str::<&RawValue>(event).expect("an event to send is JSON");
    line(&Line {
        n: number,
        event: (!has_breaks).then(raw),
        text: has_breaks.then_some(event.into()),
        key: key.map(str::to_owned),
        ..Line::default()
    })
}

pub fn line_of_outcome(number: u64, outcome: Outcome, status: Option<u16>) -> String {
    line(&Line { n: number, outcome: Some(outcome), status, ..Line::default() })
}

fn line(line: &Line<'_>) -> String {
    serde_json::to_string(line).expect("strings and numbers always serialize") + "\n"
}

/// A record after the header.
#[derive(Debug, PartialEq, Eq)]
pub enum Record {
    /// An event that was or may have been sent.
    Event {
        number: u64,
        body: String,
        key: String,
    },
    Outcome {
        number: u64,
        outcome: Outcome,
    },
}

/// Reads a journal from its beginning.
pub struct JournalReader<R> {
    input: R,
    pub header: Header,
    line_number: u64,
    /// The bytes of the whole lines so far.
    pub position: u64,
}

impl<R: BufRead> JournalReader<R> {
    /// `None` where the input is empty, or has no whole first line.
    ///
    /// # Errors
    /// It cannot be read, or is no journal.
    pub fn open(mut input: R) -> Result<Option<JournalReader<R>>, String> {
        let mut line = Vec::new();
        if !read_line(&mut input, &mut line)? {
            return Ok(None);
        }
        let header: Header = serde_json::from_slice(&line)
            .map_err(|_| "its first line is not that of a journal".to_owned())?;
        if header.journal != VERSION {
            return Err(format!(
                "it is a journal of version {}, and this program knows {VERSION}",
                header.journal
            ));
        }
        Ok(Some(JournalReader { input, header, line_number: 1, position: line.len() as u64 }))
    }

    /// The next record; `None` at the end, or where the last line has no end yet.
    ///
    /// # Errors
    /// The journal cannot be read, or a line of it is damaged.
    pub fn next(&mut self) -> Result<Option<Record>, String> {
        let mut line = Vec::new();
        if !read_line(&mut self.input, &mut line)? {
            return Ok(None);
        }
        self.line_number += 1;
        self.position += line.len() as u64;
        let damaged = || format!("line {} is damaged", self.line_number);
        let text = str::from_utf8(&line).map_err(|_| damaged())?;
        let line: Line<'_> = serde_json::from_str(text).map_err(|_| damaged())?;
        let body = line.event.map(|event| event.get().to_owned()).or(line.text.map(Cow::into_owned));
        match (body, line.outcome) {
            (Some(body), None) => Ok(Some(Record::Event {
                number: line.n,
                body,
                key: line.key.unwrap_or_else(|| self.header.key_of(line.n)),
            })),
            (None, Some(outcome)) => Ok(Some(Record::Outcome { number: line.n, outcome })),
            _ => Err(damaged()),
        }
    }
}

/// Reads a line with its end; false where there is none. What of a line is read without its end stays in the buffer of the
/// caller, so that a later call goes on with it.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> Result<bool, String> {
    let limit = u64::try_from(LINE_LIMIT_BYTES).unwrap_or(u64::MAX);
    let read = io::Read::take(io::Read::by_ref(input), limit).read_until(b'\n', line);
    read.map_err(|error| error.to_string())?;
    if line.len() >= LINE_LIMIT_BYTES {
        return Err("a line of it is too long".to_owned());
    }
    Ok(line.last() == Some(&b'\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_read_as_it_was_written_up_to_a_torn_line() {
        let header = Header::new("j".to_owned(), "object".to_owned(), "random".to_owned(), u64::MAX);
        let text = header.to_line()
            + &line_of_event(1, "{\"a\": 1.0}", None)
            + &line_of_event(2, "{\r\n}", Some("own"))
            + &line_of_outcome(1, Outcome::Delivered, Some(201));
        let whole = text.len() as u64;
        let torn = text + "{\"n\":3,\"eve";
        let mut reader = JournalReader::open(torn.as_bytes()).unwrap().unwrap();
        assert_eq!(reader.header, header);
        let mut records = Vec::new();
        while let Some(record) = reader.next().unwrap() {
            records.push(record);
        }
        let event = |number, body: &str, key: &str| Record::Event {
            number,
            body: body.to_owned(),
            key: key.to_owned(),
        };
        let expected = [
            event(1, "{\"a\": 1.0}", "j-1"),
            event(2, "{\r\n}", "own"),
            Record::Outcome { number: 1, outcome: Outcome::Delivered },
        ];
        assert_eq!(records, expected);
        assert_eq!(reader.position, whole);
    }

    #[test]
    fn what_is_no_journal_is_refused() {
        assert!(JournalReader::open(&b""[..]).unwrap().is_none());
        assert!(JournalReader::open(&b"{\"jour"[..]).unwrap().is_none());
        for text in ["{}\n", "[{\"event_type\": \"a\"}]\n", "\n"] {
            assert!(JournalReader::open(text.as_bytes()).is_err(), "{text}");
        }
        let header = Header::new("j".to_owned(), String::new(), String::new(), 0);
        for line in ["{}\n", "{\"n\":1}\n", "x\n", "{\"n\":1,\"event\":{},\"outcome\":\"delivered\"}\n"] {
            let text = header.to_line() + line;
            let mut reader = JournalReader::open(text.as_bytes()).unwrap().unwrap();
            assert_eq!(reader.next().unwrap_err(), "line 2 is damaged", "{line}");
        }
        let other = header.to_line().replace("\"journal\":1", "\"journal\":2");
        assert!(JournalReader::open(other.as_bytes()).err().unwrap().contains("version 2"));
    }
}
