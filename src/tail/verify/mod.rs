//! `tail --verify JOURNAL`: whether a receiver has stored what it has acknowledged, once and unchanged.

mod compare;
mod journal;
mod stored;

use std::io::{self, BufWriter, Write};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use serde_json::json;

use self::compare::{Content, Counts, Sent, State, content_of, states_by_count, states_by_key};
use self::journal::SentEvents;
use self::stored::{by_key, each_in_store, each_of_command, first_id};
use super::settings::{EventFormat, VerifySettings};
use crate::store::backend::EventReader;

/// How often a journal that is still written is compared again.
const FOLLOW_PAUSE: Duration = Duration::from_secs(1);

/// The most faults that are listed for people.
const LISTED: usize = 100;

/// Compares once or, where it follows, until there is a fault. Returns whether there is none.
///
/// # Errors
/// The journal or the store cannot be read, or nothing can be printed.
pub fn run(
    settings: &VerifySettings,
    follow: bool,
    format: EventFormat,
    mut reader: Option<&mut dyn EventReader>,
) -> anyhow::Result<bool> {
    let mut events = SentEvents::open(&settings.journal)?;
    loop {
        // The journal first: what it has as acknowledged is stored by now.
        let states = compare(&mut events, settings, &mut reader)?;
        let is_right = !states.iter().any(|state| state.is_fault());
        let sent = &events.sent[..states.len()];
        print(sent, &states, format).context("cannot print what was found")?;
        if !follow || !is_right {
            return Ok(is_right);
        }
        thread::sleep(FOLLOW_PAUSE);
        events.read_on()?;
    }
}

fn compare(
    events: &mut SentEvents,
    settings: &VerifySettings,
    reader: &mut Option<&mut dyn EventReader>,
) -> anyhow::Result<Vec<State>> {
    let sent = events.sent.clone();
    let mut counts = Counts::of(&sent);
    let count = |content: &Content| counts.add(content);
    let Some(reader) = reader.as_deref_mut() else {
        each_of_command(settings.read_command.as_deref().unwrap_or_default(), count)?;
        return Ok(states_by_count(&sent, &counts, &events.read_on()?));
    };
    if !events.are_known_by_key() {
        each_in_store(reader, 0, count)?;
        return Ok(states_by_count(&sent, &counts, &events.read_on()?));
    }
    // Equal events of earlier runs are none of this one's.
    let first = first_id(reader, &sent)?;
    each_in_store(reader, first, count)?;
    // What is stored meanwhile is found by its key and was not counted, and not the other way round.
    let content_by_key = |sent: &Sent| {
        let event = by_key(reader, &sent.key)?;
        Ok(event.map(|event| content_of(&event.event_type, &event.event_payload)))
    };
    let known: Vec<Option<Content>> = sent.iter().map(content_by_key).collect::<anyhow::Result<_>>()?;
    Ok(states_by_key(&sent, &known, &counts, &events.read_on()?))
}

fn print(sent: &[Sent], states: &[State], format: EventFormat) -> io::Result<()> {
    let mut output = BufWriter::new(io::stdout().lock());
    let count = |wanted: State| states.iter().filter(|state| **state == wanted).count();
    if matches!(format, EventFormat::Text | EventFormat::Csv) {
        let mut faults = sent.iter().zip(states).filter(|(_, state)| state.is_fault());
        for (sent, state) in faults.by_ref().take(LISTED) {
            writeln!(output, "event {}, key {}: {}", sent.number, sent.key, words_of(*state))?;
        }
        let unlisted = faults.count();
        if unlisted > 0 {
            writeln!(output, "and {unlisted} more")?;
        }
        writeln!(output, "{:>10} events", sent.len())?;
        for state in State::ALL.into_iter().filter(|state| count(*state) > 0 || state.is_fault()) {
            writeln!(output, "{:>10} {}", count(state), words_of(state))?;
        }
    } else {
        for (sent, state) in sent.iter().zip(states) {
            writeln!(output, "{}", json!({"n": sent.number, "key": sent.key, "state": state}))?;
        }
        let mut summary = json!({"events": sent.len()});
        for state in State::ALL {
            let name = json!(state);
            summary[name.as_str().unwrap_or_default()] = count(state).into();
        }
        writeln!(output, "{}", json!({ "summary": summary }))?;
    }
    output.flush()
}

fn words_of(state: State) -> &'static str {
    match state {
        State::Stored => "acknowledged and stored once",
        State::Missing => "acknowledged and missing",
        State::Changed => "acknowledged and changed",
        State::Twice => "stored more often than sent",
        State::Refused => "refused and not stored",
        State::RefusedButStored => "refused and stored nevertheless",
        State::UnansweredStored => "without an answer and stored",
        State::UnansweredNotStored => "without an answer and not stored",
    }
}
