//! Events that a receiver refuses: why, and where they are kept.

use std::fs::{self, OpenOptions};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::tempdir;

use super::{arguments, run, write_events};
use crate::util::receiver::{Receiver, Reply};
use crate::util::{Consume, PATIENCE, Process, assert_eventctl, eventctl, write_file};

fn answering(status: u16, body: &str) -> Receiver {
    let answer = format!(
        "HTTP/1.1 {status} Status\r\nContent-Type: application/problem+json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    Receiver::start(move |_, _| Reply::Send(answer.clone()))
}

#[test]
fn the_reason_of_a_refusal_is_reported_in_every_format() {
    let directory = tempdir().unwrap();
    write_file(directory.path(), "events.json", r#"[{"event_type": 123, "event_payload": "x"}]"#);
    let consume = Consume::start(directory.path());
    let endpoint = consume.url("/event");
    let reason = "the body does not fit; /event_type: expected a string, got a number";
    let as_json = run(directory.path(), &endpoint, &["--count", "1"]);
    as_json.check(3, [0, 1, 0]);
    assert_eq!(as_json.responses[0]["reason"], reason);
    let mut command = assert_eventctl(directory.path());
    command.args(arguments(&endpoint, &["--count", "1", "-o", "text", "-v"])).timeout(PATIENCE);
    let assert = command.assert().code(3);
    let output = assert.get_output();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap();
    assert!(
        line.ends_with(&format!(" | status=400 | fail=100.0% | win=0/1 | total=1 | rejected: {reason}")),
        "{line}"
    );
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains(&format!("\"reason\":\"{reason}\"")), "{log}");
}

#[test]
fn a_reason_is_short_and_holds_no_secret_and_nothing_that_a_terminal_obeys() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 1);
    let body = format!(
        r#"{{"detail": "\u001b[2Jno: Bearer t0ken-t0ken-t0ken-t0ken with k3y-k3y\u202e", "errors": [{{"pointer": "/a", "detail": "{}"}}]}}"#,
        "x".repeat(10_000)
    );
    let receiver = answering(422, &body);
    for format in ["text", "json"] {
        let mut command = assert_eventctl(directory.path());
        command.args(arguments(
            &receiver.url("/event"),
            &["--count", "1", "-o", format, "-v", "--dead-letter", "dead"],
        ));
        command.args(["--header", "X-Key: k3y-k3y"]).env("EVENTCTL_TOKEN", "t0ken-t0ken-t0ken-t0ken");
        let assert = command.timeout(PATIENCE).assert().code(3);
        let output = assert.get_output();
        let dead = fs::read(directory.path().join("dead")).unwrap();
        for text in [&output.stdout, &output.stderr, &dead] {
            let text = String::from_utf8_lossy(text);
            assert!(!text.contains("t0ken-") && !text.contains("k3y-"), "{text}");
            assert!(!text.contains(['\u{1b}', '\u{202e}']) && text.len() < 3000, "{text}");
        }
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("no: Bearer [not shown] with [not shown]"), "{text}");
    }
}

#[test]
fn connection_errors_are_named() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 1);
    let receiver = Receiver::start(|_, number| match number {
        0 => Reply::Reset,
        1 => Reply::status(503, ""),
        _ => Reply::status(404, ""),
    });
    let mut command = assert_eventctl(directory.path());
    command.args(arguments(&receiver.url("/event"), &["--count", "1", "-o", "text"])).timeout(PATIENCE);
    let assert = command.assert().code(3);
    let text = String::from_utf8_lossy(&assert.get_output().stdout).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains(" | status=--- | ") && lines[0].contains(" | total=1 | retrying: "), "{text}");
    assert!(lines[1].ends_with(" | total=2 | retry=1 | retrying"), "{text}");
    assert!(lines[2].ends_with(" | total=3 | retry=2 | rejected"), "{text}");
}

// Dead letters.

#[test]
fn dead_letters_that_find_no_room_are_printed_and_the_run_goes_on() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 20);
    let receiver = answering(400, "");
    let run =
        run(directory.path(), &receiver.url("/event"), &["--count", "20", "--dead-letter", "/dev/full"]);
    run.check(3, [0, 20, 0]);
    assert_eq!(receiver.arrivals().len(), 20);
    assert!(run.stderr.contains("cannot write dead letters to `/dev/full`"), "{}", run.stderr);
    assert!(run.stderr.contains("No space left on device"), "{}", run.stderr);
    let printed: Vec<&str> = run.stderr.lines().filter(|line| line.contains("event_payload")).collect();
    write_file(directory.path(), "printed.ndjson", printed.join("\n"));
    let receiver = Receiver::start(|_, _| Reply::created());
    let again = ["--file", "printed.ndjson", "--count", "20", "--max-in-flight", "1"];
    super::run(directory.path(), &receiver.url("/event"), &again).check(0, [20, 0, 0]);
    let mut bodies: Vec<String> = receiver.arrivals().into_iter().map(|arrival| arrival.body).collect();
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 20, "each was printed once");
}

#[test]
fn a_dead_letter_on_a_terminal_cannot_do_anything_to_it() {
    let directory = tempdir().unwrap();
    write_file(directory.path(), "events.json", "[{\"event_payload\": \"\u{9b}2J\u{202e}\"}]");
    let receiver = answering(400, "");
    let run = run(directory.path(), &receiver.url("/event"), &["--count", "1", "--dead-letter", "/dev/full"]);
    run.check(3, [0, 1, 0]);
    assert!(run.stderr.contains(r#"{"event_payload": "\u009b2J\u202e"}"#), "{}", run.stderr);
}

#[test]
#[ignore = "needs unshare and tmpfs"]
fn a_disk_that_fills_up_holds_whole_dead_letters_alone() {
    let directory = tempdir().unwrap();
    let events: Vec<String> =
        (0..5).map(|number| format!("{{\"n\":{number},\"filler\":\"{}\"}}", "x".repeat(1500))).collect();
    write_file(directory.path(), "events.json", format!("[{}]", events.join(",")));
    fs::create_dir(directory.path().join("small")).unwrap();
    let receiver = answering(400, "");
    let plain = eventctl(directory.path());
    // A tmpfs of one page: two events and a part of the third.
    let script = "mount -t tmpfs -o size=4k none small || exit 99
\"$@\" --dead-letter small/dead.ndjson >/dev/null; status=$?
cp small/dead.ndjson kept.ndjson; exit $status";
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]).arg(plain.get_program());
    command.args(arguments(&receiver.url("/event"), &["--count", "5", "--max-in-flight", "1"]));
    let mut process = Process::start(command.current_dir(directory.path()));
    assert_eq!(process.wait().code(), Some(3), "{}", process.stderr());
    assert_eq!(
        super::events_of(&fs::read_to_string(directory.path().join("kept.ndjson")).unwrap()),
        events[..2]
    );
    for event in &events[2..] {
        assert!(process.stderr().contains(&format!("\"event\":{event},")), "{}", process.stderr());
    }
}

#[test]
fn a_full_disk_under_the_report_loses_no_dead_letter() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 5);
    let receiver = Receiver::start(|_, _| {
        thread::sleep(Duration::from_millis(300));
        Reply::status(400, "")
    });
    let mut command = eventctl(directory.path());
    command.args(arguments(&receiver.url("/event"), &["--period", "10ms", "--dead-letter", "dead.ndjson"]));
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut process = Process::start(command.stdout(Stdio::from(full)));
    assert_eq!(process.wait().code(), Some(1));
    assert!(
        process.stderr().contains("error: cannot report: No space left on device"),
        "{}",
        process.stderr()
    );
    let dead = fs::read_to_string(directory.path().join("dead.ndjson")).unwrap();
    let arrived = receiver.arrivals().len();
    assert!(arrived >= 2 && dead.lines().count() >= arrived, "{arrived} arrived, {dead}");
}
