//! What is read from files and from standard input.

use std::fs;
use std::io::Write;
use std::process::ChildStdin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::{TempDir, tempdir};

use super::{Run, finish, payload_of, run, start};
use crate::util::http::event;
use crate::util::receiver::{Receiver, Reply};
use crate::util::{Consume, PATIENCE, Process, eventctl, refusal_of, wait_until, write_file};

fn taking_receiver() -> Receiver {
    Receiver::start(|_, _| Reply::created())
}

/// Sends what is written to standard input, which then ends; the run, and the bodies that arrived in their order.
fn sent_from_input(input: &[u8], further: &[&str]) -> (Run, Vec<String>) {
    let directory = tempdir().unwrap();
    let receiver = taking_receiver();
    let further: Vec<&str> = ["--file", "-", "--max-in-flight", "1"].iter().chain(further).copied().collect();
    let mut process = start(directory.path(), &receiver.url("/event"), &further);
    // With --count it may not read all of it.
    let _ = process.child().stdin.take().unwrap().write_all(input);
    let run = finish(directory.path(), process);
    (run, receiver.arrivals().into_iter().map(|arrival| arrival.body).collect())
}

#[test]
fn a_byte_order_mark_before_the_first_event_is_skipped() {
    let lines = "\u{FEFF}{\"a\":1}\n{\"a\":2}\n";
    let (run, bodies) = sent_from_input(lines.as_bytes(), &[]);
    run.check(0, [2, 0, 0]);
    assert_eq!((bodies, run.stderr.as_str()), (vec!["{\"a\":1}".to_owned(), "{\"a\":2}".to_owned()], ""));
    for content in [lines, "\u{FEFF}[{\"a\":1},{\"a\":2}]"] {
        let directory = tempdir().unwrap();
        write_file(directory.path(), "marked.json", content);
        let receiver = taking_receiver();
        let further = ["--file", "marked.json", "--count", "2"];
        super::run(directory.path(), &receiver.url("/event"), &further).check(0, [2, 0, 0]);
    }
}

#[test]
fn concatenated_values_and_array_items_are_events() {
    for input in [
        "{\"n\":0}{\"n\":1}{\"n\":2}",
        "[{\"n\":0},{\"n\":1},\n{\"n\":2}]",
        "[{\"n\":0}]\n{\"n\":1} [{\"n\":2}]\n",
        "{\"n\":0}\n[\n]\n[\n{\"n\":1},\n{\"n\":2}\n]\n",
    ] {
        let (run, bodies) = sent_from_input(input.as_bytes(), &[]);
        run.check(0, [3, 0, 0]);
        assert_eq!(bodies, ["{\"n\":0}", "{\"n\":1}", "{\"n\":2}"], "{input}");
        assert_eq!(run.stderr, "");
    }
    let spread = "{\n  \"event_type\": \"a\",\n  \"event_payload\": \"{\"\n}\n";
    let (run, bodies) = sent_from_input(spread.repeat(2).as_bytes(), &[]);
    run.check(0, [2, 0, 0]);
    assert_eq!(bodies, [spread.trim_end(); 2]);
}

#[test]
fn an_item_is_sent_before_its_array_ends() {
    let directory = tempdir().unwrap();
    let receiver = taking_receiver();
    let mut process = start(directory.path(), &receiver.url("/event"), &["--file", "-"]);
    let mut input = process.child().stdin.take().unwrap();
    for (number, part) in ["[{}", ",{}", "\n,\n{}"].iter().enumerate() {
        input.write_all(part.as_bytes()).unwrap();
        wait_until(|| (receiver.arrivals().len() > number).then_some(()));
    }
    drop(input);
    let run = finish(directory.path(), process);
    run.check(3, [3, 1, 0]);
    assert!(run.stderr.contains("EOF while parsing a list at line 3 column 2"), "{}", run.stderr);
}

#[test]
fn problems_in_a_stream_are_located_by_line_and_column() {
    let input = "{}\n{\"a\":1,\n{\"b\":2}\n[{}, 7]\nname,payload\n{\"last\":0}\n";
    let (run, bodies) = sent_from_input(input.as_bytes(), &[]);
    run.check(3, [4, 3, 0]);
    assert_eq!(bodies, ["{}", "{\"b\":2}", "{}", "{\"last\":0}"]);
    let lines: Vec<&str> = run.stderr.lines().collect();
    let expected = [
        "key must be a string at line 3 column 1, in the value that begins at line 2",
        "expected an object at line 4 column 6, got a number",
        "expected ident at line 5 column 2",
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:?}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.contains(&format!("not an event: {expected} of standard input")), "{line}");
    }
}

#[test]
fn no_more_is_read_than_is_to_be_sent() {
    let lines: String = (0..500).map(|number| event("message", &number.to_string()) + "\n").collect();
    for input in [lines.as_str(), "{}\nnot json\n"] {
        let (run, bodies) = sent_from_input(input.as_bytes(), &["--count", "1"]);
        run.check(0, [1, 0, 0]);
        assert_eq!((bodies.len(), run.stderr.as_str()), (1, ""));
    }
    let (run, bodies) = sent_from_input(b"not json\n{}\n17\n{}\nnot json\n{}\n", &["--count", "2"]);
    run.check(3, [2, 2, 0]);
    assert_eq!(bodies.len(), 2);
}

/// A run that has sent one event of this input, and has an hour to its next.
fn start_waiting(input: impl FnOnce(ChildStdin) + Send + 'static) -> (TempDir, Receiver, Process) {
    let directory = tempdir().unwrap();
    let receiver = taking_receiver();
    let further = ["--file", "-", "--period", "1h", "--dead-letter", "dead.ndjson"];
    let mut process = start(directory.path(), &receiver.url("/event"), &further);
    let stdin = process.child().stdin.take().unwrap();
    thread::spawn(move || input(stdin));
    wait_until(|| (!receiver.arrivals().is_empty()).then_some(()));
    (directory, receiver, process)
}

#[test]
fn what_was_read_ahead_is_counted_at_the_end_whatever_it_is() {
    let (directory, _receiver, process) = start_waiting(|mut input| {
        input.write_all(b"{\"n\":0}\n{\"n\":1}\nnot json\n{\"n\":2}\n").unwrap();
        // It stays open.
        thread::sleep(PATIENCE);
    });
    process.signal(Signal::TERM);
    let run = finish(directory.path(), process);
    run.check(3, [1, 1, 2]);
    assert!(run.stderr.contains("line 3 column"), "{}", run.stderr);
    let dead = fs::read_to_string(directory.path().join("dead.ndjson")).unwrap();
    assert_eq!(super::events_of(&dead), ["{\"n\":1}", "{\"n\":2}"]);
}

#[test]
fn few_bytes_are_read_ahead_however_large_events_are() {
    let written = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&written);
    let (directory, _receiver, process) = start_waiting(move |mut input| {
        input.write_all(b"{}\n").unwrap();
        let line = event("large", &"x".repeat(512 << 10)) + "\n";
        while input.write_all(line.as_bytes()).is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let mut before = 0;
    wait_until(|| {
        thread::sleep(Duration::from_millis(500));
        let now = written.load(Ordering::SeqCst);
        (std::mem::replace(&mut before, now) == now && now > 1).then_some(())
    });
    process.signal(Signal::TERM);
    let run = finish(directory.path(), process);
    let (undelivered, rejected) = (run.count("undelivered"), run.count("rejected"));
    // The last was read in part, and is said to be.
    assert!(
        rejected <= 1
            && run.stderr.lines().filter(|line| line.contains("where the run ended")).count() as u64
                == rejected
    );
    // 16 MiB of room, less than 32 of them; one that waits for its time and one that waits for room.
    assert!((20..=35).contains(&undelivered), "{undelivered}");
    run.check(3, [1, rejected, undelivered]);
}

#[test]
fn an_array_in_a_file_may_stand_before_others() {
    let directory = tempdir().unwrap();
    write_file(directory.path(), "events.json", "[{\"event_payload\":\"0\"}]\n{\"event_payload\":\"1\"}\n");
    let receiver = taking_receiver();
    run(directory.path(), &receiver.url("/event"), &["--count", "2", "--max-in-flight", "1"])
        .check(0, [2, 0, 0]);
    let payloads: Vec<String> = receiver.arrivals().iter().map(|arrival| payload_of(&arrival.body)).collect();
    assert_eq!(payloads, ["0", "1"]);
}

/// What `tail -o envelope` prints of a store is sent with its gaps, and only the events of it.
#[test]
fn recorded_events_are_sent_again_with_their_gaps() {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    for number in 0..3 {
        server.store("message", &number.to_string());
        thread::sleep(Duration::from_millis(400));
    }
    let mut tail = eventctl(directory.path());
    let output = tail.args(["tail", "-n", "all", "-o", "envelope"]).output().unwrap();
    let envelopes = String::from_utf8(output.stdout).unwrap();
    assert!(envelopes.starts_with("{\"event\":{") || envelopes.starts_with("{\"eventctl\":1"), "{envelopes}");
    let receiver = taking_receiver();
    let further = ["--file", "-", "--pace", "recorded", "--speed", "2x"];
    let mut process = start(directory.path(), &receiver.url("/event"), &further);
    process.child().stdin.take().unwrap().write_all(envelopes.as_bytes()).unwrap();
    finish(directory.path(), process).check(0, [3, 0, 0]);
    let arrivals = receiver.arrivals();
    for (number, arrival) in arrivals.iter().enumerate() {
        let body: serde_json::Value = serde_json::from_str(&arrival.body).unwrap();
        let expected = serde_json::json!({"event_type": "message", "event_payload": number.to_string()});
        assert_eq!(body, expected);
    }
    // The schedule begins with the first event, and a send is never early.
    assert!(arrivals[2].at - arrivals[0].at >= Duration::from_millis(350), "{arrivals:?}");
    let mut command = eventctl(directory.path());
    let (error, hint) = refusal_of(command.args(["propagate", "--pace", "recorded"]), 1);
    assert!(error.contains("needs the events of standard input") && hint.contains("-o envelope"), "{error}");
}

#[test]
fn an_envelope_that_is_wrong_is_named_and_the_others_are_sent() {
    let lines = "{\"eventctl\": 1, \"event\": {\"n\": 1}, \"key\": \"k\"}\n{\"eventctl\": 2, \"event\": {}}\n\
        {\"eventctl\": 1, \"event\": 7}\n{\"n\": 2}\n";
    let directory = tempdir().unwrap();
    let receiver = taking_receiver();
    let further = ["--file", "-", "--period", "10ms"];
    let mut process = start(directory.path(), &receiver.url("/event"), &further);
    process.child().stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let run = finish(directory.path(), process);
    run.check(3, [2, 2, 0]);
    for problem in ["an envelope of another version, at line 2", "as its `event`, at line 3"] {
        assert!(run.stderr.contains(problem), "{}", run.stderr);
    }
    let arrivals = receiver.arrivals();
    assert_eq!((arrivals[0].body.as_str(), arrivals[0].key().as_str()), ("{\"n\": 1}", "k"));
}

#[test]
fn templates_make_other_events_each_time_and_a_seed_makes_the_same_again() {
    let directory = tempdir().unwrap();
    let events = r#"[{"event_type": "t{{ int(1, 3) }}", "event_payload": "{{ seq }} {{ uuid() }} {{ now() }} {{ line('users') }}"},
        {"event_type": 7, "event_payload": {"fixed": "{{ seq }}"}}]"#;
    write_file(directory.path(), "events.json", events);
    write_file(directory.path(), "users", "ada\nbob\n");
    let at = ["--template", "--seed", "7", "--start-at", "2126-01-15T12:00:00Z", "--period", "1s"];
    let printed = |further: &[&str]| {
        let mut command = eventctl(directory.path());
        command.args(["propagate", "--dry-run", "--count", "20", "--order", "sequential"]).args(further);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let first = printed(&at);
    assert_eq!(first, printed(&at));
    assert!(first.contains("2126-01-15T12:00:02.000000Z") && first.contains("\"3 "), "{first}");
    assert!(first.contains(r#"{"event_type":7,"event_payload":{"fixed": "{{ seq }}"}}"#), "{first}");
    assert_ne!(first, printed(&["--template", "--seed", "8"]));
    // Without the option braces are braces.
    assert!(printed(&[]).contains("{{ seq }} {{ uuid() }}"));
    // What is sent again is what was recorded.
    let receiver = Receiver::start(|_, number| if number < 3 { Reply::Reset } else { Reply::created() });
    let further =
        ["--count", "6", "--retries", "0", "--max-in-flight", "1", "--journal", "journal", "--template"];
    let endpoint = receiver.url("/event");
    let runs = [(); 2].map(|()| {
        let mut command = eventctl(directory.path());
        command.args(["propagate", "--endpoint", &endpoint, "--period", "2ms", "-q"]).args(further);
        command.output().unwrap().status.code()
    });
    assert_eq!(runs, [Some(3), Some(0)]);
    let arrivals = receiver.arrivals();
    for failed in &arrivals[..3] {
        let again = arrivals[3..].iter().find(|arrival| arrival.key() == failed.key()).unwrap();
        assert_eq!(again.body, failed.body);
    }
    write_file(directory.path(), "wrong.json", r#"{"event_payload": "{{ user }}"}"#);
    let mut command = eventctl(directory.path());
    let (error, hint) = refusal_of(command.args(["propagate", "--template", "--file", "wrong.json"]), 1);
    assert!(error.contains("event_payload of event 1") && hint.contains("uuid()"), "{error} {hint}");
}
