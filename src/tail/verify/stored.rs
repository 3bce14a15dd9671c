//! What the receiver has stored: read from its store, from the service, or from the output of a command.

use std::io::{BufReader, Read};
use std::process::{Command, Stdio};

use anyhow::Context;

use super::compare::{Content, Sent, content_of};
use crate::core::event::{Event, StoredEvent};
use crate::core::outgoing::Objects;
use crate::core::query::Query;
use crate::error::{Hint, hinted};
use crate::store::backend::EventReader;

/// How many events are read at once.
const PAGE: usize = 1000;

/// How many events may have been in flight together.
const IN_FLIGHT: usize = 1000;

/// The most of a command's errors that is shown, in bytes.
const ERRORS_LIMIT: u64 = 4 << 10;

const COMMAND_HINT: &str =
    "have it print what is stored as NDJSON: {\"event_type\": \"...\", \"event_payload\": \"...\"}";

/// The id of the first event that a store has of these, as far as their keys say it; 0 if it has none of them.
///
/// What is in flight together is stored in any order, so the first many are looked up.
pub fn first_id(reader: &mut dyn EventReader, sent: &[Sent]) -> anyhow::Result<i64> {
    let mut first = None;
    for sent in sent.iter().take(IN_FLIGHT) {
        let id = by_key(reader, &sent.key)?.map(|event| event.id);
        first = [first, id].into_iter().flatten().min();
    }
    Ok(first.unwrap_or_default())
}

/// Passes the content of every stored event from an id on.
pub fn each_in_store(
    reader: &mut dyn EventReader,
    from: i64,
    mut take: impl FnMut(&Content),
) -> anyhow::Result<()> {
    let mut query = Query { after: Some((from - 1).max(0)), limit: PAGE, ..Query::default() };
    loop {
        let page = reader.page(&query)?;
        for event in &page.events {
            take(&content_of(&event.event_type, &event.event_payload));
        }
        let Some(last) = page.events.last().filter(|_| page.more) else { return Ok(()) };
        query.after = Some(last.id);
    }
}

/// The event that a store has under a key, if it has one.
pub fn by_key(reader: &mut dyn EventReader, key: &str) -> anyhow::Result<Option<StoredEvent>> {
    let query = Query { key: Some(key.to_owned()), limit: 1, ..Query::default() };
    Ok(reader.page(&query)?.events.pop())
}

/// Passes the content of every event on that a shell command prints.
///
/// # Errors
/// The command fails, or prints something that is no event.
pub fn each_of_command(command: &str, mut take: impl FnMut(&Content)) -> anyhow::Result<()> {
    let cannot = || format!("cannot read what is stored by `{command}`");
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = shell.spawn().with_context(cannot)?;
    let (output, errors) = (child.stdout.take(), child.stderr.take());
    let errors = std::thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut errors) = errors {
            let _ = errors.by_ref().take(ERRORS_LIMIT).read_to_end(&mut text);
            // The command must not wait for its reader.
            let _ = std::io::copy(&mut errors, &mut std::io::sink());
        }
        String::from_utf8_lossy(&text).trim().to_owned()
    });
    for object in Objects::new(BufReader::new(output.context("the output is piped")?)) {
        let wrong = |problem: String| hinted(format!("{}: {problem}", cannot()), COMMAND_HINT);
        let object = object.map_err(wrong)?;
        let event =
            Event::parse(object.body.as_bytes()).map_err(|_| wrong("an object is no event".to_owned()))?;
        take(&content_of(event.event_type(), event.event_payload()));
    }
    let status = child.wait().with_context(cannot)?;
    let errors = errors.join().unwrap_or_default();
    match status.success() {
        true => Ok(()),
        false => Err(anyhow::anyhow!("{}: {status}: {errors}", cannot())).hint(COMMAND_HINT),
    }
}
