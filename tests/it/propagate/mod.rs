//! `eventctl propagate`: what it sends, when, and what it says of it.

mod connections;
mod delivery;
mod endings;
mod figures;
mod input;
mod journal;
mod proxy;
mod refusals;
mod report;
mod schedule;
mod terminal;
mod tls;
mod tokens;

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::util::http::event;
use crate::util::receiver::Arrival;
use crate::util::{PATIENCE, Process, assert_eventctl, eventctl, write_file};

/// A finished run with `-o json`.
pub struct Run {
    code: i32,
    responses: Vec<Value>,
    pub summary: Value,
    stderr: String,
}

impl Run {
    fn new(output: &Output) -> Run {
        let stderr = String::from_utf8(output.stderr.clone()).unwrap();
        let (responses, summary) = parse_report(&String::from_utf8(output.stdout.clone()).unwrap());
        Run { code: output.status.code().unwrap(), responses, summary, stderr }
    }

    pub fn count(&self, name: &str) -> u64 {
        self.summary[name].as_u64().unwrap()
    }

    /// Asserts the exit status and what the summary says of: delivered, rejected, undelivered.
    #[track_caller]
    pub fn check(&self, code: i32, counts: [u64; 3]) {
        let counted = ["delivered", "rejected", "undelivered"].map(|name| self.count(name));
        assert_eq!((self.code, counted), (code, counts), "{} {:?}", self.stderr, self.responses);
    }
}

/// The lines of a report, and the summary at its end.
fn parse_report(text: &str) -> (Vec<Value>, Value) {
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let summary = lines.pop().unwrap()["summary"].take();
    assert!(summary.is_object(), "the summary comes last: {text}");
    (lines, summary)
}

/// A file of so many events with payloads `0`, `1`, …
pub fn write_events(directory: &Path, count: usize) {
    let events: Vec<String> = (0..count).map(|number| event("message", &number.to_string())).collect();
    write_file(directory, "events.json", format!("[{}]", events.join(",\n")));
}

/// The arguments that make a run quick and its report easy to read.
fn arguments<'a>(endpoint: &'a str, further: &[&'a str]) -> Vec<&'a str> {
    let mut arguments =
        vec!["propagate", "--endpoint", endpoint, "--period", "2ms", "--order", "sequential", "-o", "json"];
    // A flag given again takes the place of the one before.
    for pair in further.chunks(2) {
        if let Some(position) = arguments.iter().position(|argument| *argument == pair[0]) {
            arguments.drain(position..position + 2);
        }
    }
    arguments.extend(further);
    arguments
}

/// Sends the events of `events.json` to a URL.
pub fn run(directory: &Path, endpoint: &str, further: &[&str]) -> Run {
    let mut command = assert_eventctl(directory);
    Run::new(&command.args(arguments(endpoint, further)).timeout(PATIENCE).output().unwrap())
}

/// Starts sending, for a test that interferes; the report goes to the file `report`.
pub fn start(directory: &Path, endpoint: &str, further: &[&str]) -> Process {
    let mut command = eventctl(directory);
    command.args(arguments(endpoint, further)).stdin(Stdio::piped());
    Process::start(command.stdout(File::create(directory.join("report")).unwrap()))
}

/// Waits for the end of what [`start`] started.
pub fn finish(directory: &Path, mut process: Process) -> Run {
    let code = process.wait().code().unwrap();
    let (responses, summary) = parse_report(&fs::read_to_string(directory.join("report")).unwrap());
    Run { code, responses, summary, stderr: process.stderr() }
}

fn payload_of(body: &str) -> String {
    serde_json::from_str::<Value>(body).unwrap()["event_payload"].as_str().unwrap().to_owned()
}

/// Asserts that every event had one key of its own, however often it was sent.
fn check_keys(arrivals: &[Arrival]) {
    let mut keys: HashMap<String, String> = HashMap::new();
    for arrival in arrivals {
        let key = keys.entry(arrival.body.clone()).or_insert_with(|| arrival.key());
        assert_eq!(*key, arrival.key(), "a retry must repeat the key");
    }
    let different: HashSet<&String> = keys.values().collect();
    assert_eq!(different.len(), keys.len(), "two events with one key");
}

/// The events of dead letters, a line each, as they stand in their envelopes.
fn events_of(dead_letters: &str) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Envelope<'a> {
        eventctl: u32,
        #[serde(borrow)]
        event: &'a serde_json::value::RawValue,
    }
    let event = |line: &str| {
        let envelope: Envelope<'_> = serde_json::from_str(line).unwrap();
        assert_eq!(envelope.eventctl, 1);
        envelope.event.get().to_owned()
    };
    dead_letters.lines().map(event).collect()
}
