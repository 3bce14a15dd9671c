//! Reads the journal of a sender.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::Context;

use super::compare::{Content, Sent, content_of};
use crate::core::event::Event;
use crate::core::journal::{JournalReader, Record};
use crate::core::outgoing::Outgoing;
use crate::error::{Hint, hinted};

const HINT: &str = "name a journal that eventctl propagate --journal has written";

/// How the journal's events were sent, as `--format` names it.
const CLOUD_EVENTS: &str = "cloudevents";

/// A journal that may still be written.
pub struct SentEvents {
    reader: JournalReader<BufReader<File>>,
    shown: String,
    pub sent: Vec<Sent>,
    positions: HashMap<u64, usize>,
}

impl SentEvents {
    /// Reads what there is.
    ///
    /// # Errors
    /// The file cannot be read, or is no journal.
    pub fn open(path: &Path) -> anyhow::Result<SentEvents> {
        let shown = path.display().to_string();
        let file =
            File::open(path).with_context(|| format!("cannot read the journal `{shown}`")).hint(HINT)?;
        let reader =
            JournalReader::open(BufReader::new(file)).map_err(|problem| unusable(&shown, &problem))?;
        let reader = reader.ok_or_else(|| unusable(&shown, "it is empty"))?;
        let mut events = SentEvents { reader, shown, sent: Vec::new(), positions: HashMap::new() };
        events.read_on()?;
        Ok(events)
    }

    /// Whether the receiver knows events by the keys of the journal: CloudEvents have keys of their own.
    pub fn are_known_by_key(&self) -> bool {
        self.reader.header.format != CLOUD_EVENTS
    }

    /// Reads what was written since. Returns the contents of the events that are new.
    ///
    /// # Errors
    /// The journal is damaged.
    pub fn read_on(&mut self) -> anyhow::Result<Vec<Content>> {
        let mut contents = Vec::new();
        while let Some(record) = self.reader.next().map_err(|problem| unusable(&self.shown, &problem))? {
            match record {
                Record::Event { number, body, key } => {
                    let content = self.content_of(&body, &key);
                    contents.extend(content);
                    self.positions.insert(number, self.sent.len());
                    self.sent.push(Sent { number, key, content, outcome: None });
                }
                Record::Outcome { number, outcome } => {
                    if let Some(position) = self.positions.get(&number) {
                        self.sent[*position].outcome = Some(outcome);
                    }
                }
            }
        }
        Ok(contents)
    }

    /// What a receiver stores of an event; `None` where it must refuse it.
    fn content_of(&self, body: &str, key: &str) -> Option<Content> {
        let event = Event::parse(body.as_bytes()).ok();
        if self.are_known_by_key() {
            return event.map(|event| content_of(event.event_type(), event.event_payload()));
        }
        let event_type = event.map(|event| event.event_type().to_owned())?;
        let sent = Outgoing::recorded(body.to_owned()).ok()?.in_cloud_event(key);
        Some(content_of(&event_type, &sent))
    }
}

fn unusable(shown: &str, problem: &str) -> anyhow::Error {
    hinted(format!("cannot use the journal `{shown}`: {problem}"), HINT)
}
