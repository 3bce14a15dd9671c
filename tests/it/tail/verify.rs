//! `tail --verify`: receivers that are broken on purpose are found out, and `consume` is not.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::tempdir;

use crate::propagate::run;
use crate::util::http::event;
use crate::util::receiver::{Receiver, Reply};
use crate::util::{Consume, assert_eventctl, eventctl, refusal_of, write_file};

const EVENTS: usize = 40;

/// What a receiver does with the event of a request: what it stores, and its reply.
type Behaviour = fn(&mut Stored, &str, &str) -> Reply;

/// What a receiver has stored, and what it remembers.
#[derive(Default)]
struct Stored {
    events: Vec<String>,
    requests: usize,
    by_key: HashMap<String, String>,
}

/// Sends events with a journal to a receiver of this behaviour, lets it end as it does, and verifies what it has.
fn verified(behaviour: Behaviour, end: fn(&mut Stored)) -> (i32, Value) {
    let directory = tempdir().unwrap();
    let mut lines: Vec<String> =
        (0..EVENTS).map(|number| event("message", &format!("{number} {}", "Ä".repeat(20)))).collect();
    // Two requests with one key, and different bodies.
    for body in ["first", "second"] {
        lines.push(format!("{{\"eventctl\": 1, \"key\": \"same\", \"event\": {}}}", event("message", body)));
    }
    write_file(directory.path(), "lines.ndjson", lines.join("\n"));
    let stored = Arc::new(Mutex::new(Stored::default()));
    let shared = Arc::clone(&stored);
    let receiver = Receiver::start(move |arrival, _| {
        let mut stored = shared.lock().unwrap();
        stored.requests += 1;
        behaviour(&mut stored, &arrival.key(), &arrival.body)
    });
    let count = lines.len().to_string();
    let further =
        ["--file", "lines.ndjson", "--count", &count, "--journal", "journal", "--max-in-flight", "1"];
    run(directory.path(), &receiver.url("/event"), &further);
    let mut stored = stored.lock().unwrap();
    end(&mut stored);
    write_file(directory.path(), "stored.ndjson", stored.events.join("\n"));
    let mut command = assert_eventctl(directory.path());
    command.args(["tail", "--verify", "journal", "--read-command", "cat stored.ndjson", "-o", "json"]);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), EVENTS + 3, "a line for each event, and a summary");
    (output.status.code().unwrap(), lines.last().unwrap()["summary"].clone())
}

/// A receiver that keeps its word: one key is one body, and another body with it is refused.
fn honest(stored: &mut Stored, key: &str, body: &str) -> Reply {
    match stored.by_key.get(key) {
        Some(known) if known == body => return Reply::created(),
        Some(_) => return Reply::status(422, ""),
        None => {}
    }
    stored.by_key.insert(key.to_owned(), body.to_owned());
    stored.events.push(body.to_owned());
    Reply::created()
}

#[track_caller]
fn assert_found(found: (i32, Value), expected: &[(&str, usize)]) {
    let (code, summary) = found;
    for state in ["missing", "changed", "twice", "refused_but_stored"] {
        let count = expected.iter().find(|(name, _)| *name == state).map_or(0, |(_, count)| *count);
        assert_eq!(summary[state], count, "{state}: {summary}");
    }
    assert_eq!(code, if expected.is_empty() { 0 } else { 3 }, "{summary}");
}

#[test]
fn a_receiver_that_keeps_its_word_passes() {
    let (code, summary) = verified(honest, |_| {});
    assert_eq!((&summary["stored"], &summary["refused"]), (&(EVENTS + 1).into(), &1.into()), "{summary}");
    assert_found((code, summary), &[]);
}

#[test]
fn one_that_acknowledges_before_it_writes_is_found() {
    // What it had not written when it was killed is gone.
    let found = verified(honest, |stored| stored.events.truncate(stored.events.len() / 10 * 10));
    assert_found(found, &[("missing", 1)]);
}

#[test]
fn one_that_keeps_keys_in_memory_is_found() {
    let behaviour: Behaviour = |stored, key, body| {
        let is_known = stored.by_key.contains_key(key);
        let reply = honest(stored, key, body);
        // It crashes before it answers, and has forgotten the key when the request comes again.
        if stored.requests % 10 == 5 && !is_known {
            stored.by_key.clear();
            return Reply::Reset;
        }
        reply
    };
    let (code, summary) = verified(behaviour, |_| {});
    let twice = summary["twice"].as_u64().unwrap();
    assert!(code == 3 && twice >= 3 && summary["missing"] == 0, "{summary}");
}

#[test]
fn one_that_ignores_the_body_of_a_repeated_key_is_found() {
    let behaviour: Behaviour = |stored, key, body| {
        honest(stored, key, body);
        Reply::created()
    };
    assert_found(verified(behaviour, |_| {}), &[("missing", 1)]);
}

#[test]
fn one_that_drops_events_is_found() {
    let behaviour: Behaviour = |stored, key, body| match stored.requests % 8 {
        0 => Reply::created(),
        _ => honest(stored, key, body),
    };
    assert_found(verified(behaviour, |_| {}), &[("missing", EVENTS / 8)]);
}

#[test]
fn one_that_truncates_is_found() {
    let found = verified(honest, |stored| {
        stored.events[3] = event("message", "3 ÄÄÄÄ");
        stored.events[4] = event("messag", &format!("4 {}", "Ä".repeat(20)));
    });
    assert_found(found, &[("missing", 2)]);
}

#[test]
fn one_that_changes_what_it_gets_is_found() {
    let found = verified(honest, |stored| stored.events[7] = stored.events[7].to_lowercase());
    assert_found(found, &[("missing", 1)]);
}

#[test]
fn one_that_stores_twice_is_found() {
    let found = verified(honest, |stored| stored.events.push(stored.events[7].clone()));
    assert_found(found, &[("twice", 1)]);
}

#[test]
fn one_that_loses_the_end_is_found() {
    let found = verified(honest, |stored| stored.events.truncate(stored.events.len() - 4));
    assert_found(found, &[("missing", 4)]);
}

#[test]
fn one_that_refuses_what_it_has_stored_is_found() {
    let behaviour: Behaviour = |stored, key, body| {
        honest(stored, key, body);
        if stored.requests == 5 { Reply::status(400, "") } else { Reply::created() }
    };
    assert_found(verified(behaviour, |_| {}), &[("refused_but_stored", 1), ("missing", 1)]);
}

/// Runs the sender, and returns the directory's journal.
fn sent_to(server: &Consume, directory: &Path, further: &[&str]) {
    let events: Vec<String> = (0..20).map(|number| event("message", &(number % 7).to_string())).collect();
    write_file(directory, "events.json", format!("[{},{{\"event_type\": 7}}]", events.join(",")));
    let all = [&["--count", "63", "--journal", "journal"], further].concat();
    run(directory, &server.url("/event"), &all);
}

fn verify(directory: &Path, further: &[&str]) -> (i32, String) {
    let mut command = eventctl(directory);
    let output = command.args(["tail", "--verify", "journal"]).args(further).output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn what_is_wrong_with_a_store_is_named_by_number_and_key() {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    sent_to(&server, directory.path(), &[]);
    let base = server.url("");
    for source in [&[][..], &["--endpoint", &base]] {
        let (code, text) = verify(directory.path(), source);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("63 events") && text.contains("60 acknowledged and stored once"), "{text}");
        assert!(text.contains("3 refused and not stored"), "{text}");
    }
    let store = rusqlite::Connection::open(directory.path().join("events.db")).unwrap();
    let change = "DELETE FROM events WHERE id = 17; UPDATE events SET event_payload = 'x' WHERE id = 30; \
        INSERT INTO events (received_at, event_type, event_payload) VALUES (1, 'message', '3')";
    store.execute_batch(change).unwrap();
    let journal = fs::read_to_string(directory.path().join("journal")).unwrap();
    let id: Value = serde_json::from_str(journal.lines().next().unwrap()).unwrap();
    let id = id["id"].as_str().unwrap();
    for source in [&[][..], &["--endpoint", &base]] {
        let (code, text) = verify(directory.path(), source);
        assert_eq!(code, 3, "{text}");
        // In sequence the events of the file, of which the last is refused: so ids are numbers up to 20.
        assert!(text.contains(&format!("event 17, key {id}-17: acknowledged and missing")), "{text}");
        assert!(text.contains(&format!("event 31, key {id}-31: acknowledged and changed")), "{text}");
        assert!(text.contains("1 stored more often than sent"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    }
}

#[test]
fn cloud_events_are_verified_by_what_is_stored_of_them() {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    sent_to(&server, directory.path(), &["--format", "cloudevents"]);
    let (code, text) = verify(directory.path(), &[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("60 acknowledged and stored once"), "{text}");
}

#[test]
fn a_journal_that_is_still_written_is_verified_again_and_again() {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    let endpoint = server.url("/event");
    write_file(directory.path(), "events.json", format!("[{}]", event("message", "the same")));
    let mut sender = eventctl(directory.path());
    sender.args(["propagate", "--endpoint", &endpoint, "--period", "1ms", "-q", "--journal", "journal"]);
    let sender = crate::util::Process::start(&mut sender);
    crate::util::wait_until(|| {
        fs::read_to_string(directory.path().join("journal"))
            .ok()
            .filter(|journal| journal.contains("delivered"))
    });
    let mut command = eventctl(directory.path());
    command
        .args(["tail", "--verify", "journal", "--follow", "-o", "json"])
        .stdout(std::process::Stdio::piped());
    let mut tail = crate::util::Process::start(&mut command);
    let output = std::io::BufReader::new(tail.child().stdout.take().unwrap());
    let summaries =
        std::io::BufRead::lines(output).map_while(Result::ok).filter(|line| line.contains("summary"));
    let summaries: Vec<Value> = summaries
        .take(3)
        .map(|line| serde_json::from_str::<Value>(&line).unwrap()["summary"].clone())
        .collect();
    drop(sender);
    for summary in &summaries {
        for fault in ["missing", "changed", "twice", "refused_but_stored"] {
            assert_eq!(summary[fault], 0, "{summary}");
        }
    }
    let counts: Vec<u64> = summaries.iter().map(|summary| summary["stored"].as_u64().unwrap()).collect();
    assert!(counts.len() == 3 && counts[0] < counts[1] && counts[1] < counts[2], "{counts:?}");
    assert!(!tail.has_ended());
}

#[test]
fn what_cannot_be_compared_is_an_error() {
    let directory = tempdir().unwrap();
    let refusal = |further: &[&str], code| {
        let mut command = eventctl(directory.path());
        refusal_of(command.args(["tail", "--verify", "journal"]).args(further), code)
    };
    drop(Consume::start(directory.path()));
    assert!(refusal(&[], 1).0.contains("cannot read the journal `journal`"));
    write_file(directory.path(), "journal", "{\"event_type\": \"a\"}\n");
    assert!(refusal(&[], 1).0.contains("its first line is not that of a journal"));
    let header = "{\"journal\":1,\"id\":\"j\",\"format\":\"object\",\"order\":\"random\",\"seed\":1}\n";
    write_file(directory.path(), "journal", header);
    assert!(refusal(&["--read-command", "echo no events"], 1).0.contains("cannot read what is stored"));
    let (error, hint) = refusal(&["--read-command", "echo gone >&2; exit 3"], 1);
    assert!(error.contains("exit status: 3: gone") && hint.contains("NDJSON"), "{error} {hint}");
    assert!(refusal(&["--stats"], 2).0.contains("--stats"));
    assert_eq!(verify(directory.path(), &["--read-command", "true"]).0, 0);
}
