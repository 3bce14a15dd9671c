//! What is read, in which order it is sent, and what is said of it.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::mem;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use predicates::prelude::PredicateBooleanExt;
use predicates::str::{contains, is_empty, starts_with};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::tempdir;

use super::{arguments, payload_of, run, write_events};
use crate::util::receiver::{Arrival, Receiver, Reply};
use crate::util::{PATIENCE, Process, assert_eventctl, eventctl, wait_until, write_file};

fn taking_receiver() -> Receiver {
    Receiver::start(|_, _| Reply::created())
}

// What is sent.

#[test]
fn events_are_sent_as_they_stand() {
    let directory = tempdir().unwrap();
    let objects =
        [r#"{ "a":1.0e2,  "a": "\u00e9" }"#, r#"{"event_type":[null]}"#, "{}", r#"{"é":"👋\ud800"}"#];
    write_file(directory.path(), "events.json", format!("[{}]", objects.join(" , ")));
    let receiver = taking_receiver();
    let run = run(directory.path(), &receiver.url("/event"), &["--count", "4", "--max-in-flight", "1"]);
    run.check(0, [4, 0, 0]);
    let bodies: Vec<String> = receiver.arrivals().into_iter().map(|arrival| arrival.body).collect();
    assert_eq!(bodies, objects);
}

#[test]
fn headers_are_sent_and_the_content_type_is_json_unless_told_otherwise() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 1);
    let receiver = taking_receiver();
    let endpoint = receiver.url("/event");
    run(directory.path(), &endpoint, &["--count", "1"]).check(0, [1, 0, 0]);
    let told = [
        "--count=1",
        "--header=X-One: 1",
        "--header=X-One:2",
        "--header=content-type: text/plain",
        "--header=User-Agent: me",
    ];
    run(directory.path(), &endpoint, &told).check(0, [1, 0, 0]);
    let arrivals = receiver.arrivals();
    assert!(arrivals.iter().all(|arrival| arrival.is_post() && !arrival.key().is_empty()));
    assert_eq!(arrivals[0].headers("content-type"), ["application/json"]);
    assert!(arrivals[0].headers("user-agent")[0].starts_with("eventctl/"));
    assert_eq!(arrivals[1].headers("x-one"), ["1", "2"]);
    assert_eq!(arrivals[1].headers("content-type"), ["text/plain"]);
    assert_eq!(arrivals[1].headers("user-agent"), ["me"]);
}

#[test]
fn the_value_of_a_header_is_never_repeated() {
    let directory = tempdir().unwrap();
    let mut command = assert_eventctl(directory.path());
    let assert = command.args(["propagate", "--header", "Authorization: s3cr\u{7}et"]).assert();
    assert.code(2).stderr(contains("--header").and(contains("s3cr").not()));
}

// The order.

#[test]
fn a_run_sends_what_a_dry_run_with_its_seed_prints() {
    for order in ["random", "shuffle", "sequential"] {
        let directory = tempdir().unwrap();
        write_events(directory.path(), 20);
        let receiver = taking_receiver();
        let endpoint = receiver.url("/event");
        let drawn = |seed| {
            let mut command = assert_eventctl(directory.path());
            let further = ["--count", "60", "--order", order, "--seed", seed, "--dry-run"];
            let further: Vec<&str> = further.into_iter().collect();
            let assert = command.args(["propagate", "--endpoint", &endpoint]).args(further).assert();
            let output = assert.success().stderr(is_empty()).get_output().stdout.clone();
            String::from_utf8(output).unwrap().lines().map(payload_of).collect::<Vec<String>>()
        };
        let printed = drawn("7");
        assert!(receiver.arrivals().is_empty(), "a dry run sends nothing");
        assert_eq!(printed, drawn("7"));
        assert_eq!(printed.len(), 60);
        assert_eq!(printed == drawn("8"), order == "sequential");
        let in_file: Vec<String> = (0..20).map(|number: u32| number.to_string()).collect();
        let passes: Vec<_> = printed.chunks(20).collect();
        let whole = passes.iter().filter(|pass| pass.iter().collect::<HashSet<_>>().len() == 20).count();
        match order {
            "sequential" => assert!(passes.iter().all(|pass| **pass == in_file)),
            "shuffle" => assert!(whole == 3 && passes[0] != passes[1]),
            _ => assert!(whole < 3, "drawn with repetition"),
        }
        let further = ["--count", "60", "--order", order, "--seed", "7", "--max-in-flight", "1"];
        run(directory.path(), &endpoint, &further).check(0, [60, 0, 0]);
        let sent: Vec<String> = receiver.arrivals().iter().map(|arrival| payload_of(&arrival.body)).collect();
        assert_eq!(sent, printed);
    }
}

#[test]
fn a_dry_run_prints_each_event_of_the_file_as_it_stands() {
    let directory = tempdir().unwrap();
    write_file(directory.path(), "events.json", "[{\"a\":  1,\n\"b\":2},{}]");
    let mut command = assert_eventctl(directory.path());
    let assert = command.args(["propagate", "--dry-run", "--order", "sequential"]).assert();
    assert.success().stdout("{\"a\":  1, \"b\":2}\n{}\n").stderr("");
}

// Health.

#[test]
fn sending_waits_for_health() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 2);
    let receiver = Receiver::start(|arrival, number| match (arrival.is_post(), number) {
        (false, 0) => Reply::Reset,
        (false, 1) => Reply::status(503, ""),
        _ => Reply::status(200, ""),
    });
    let health = receiver.url("/health");
    // How often an event is sent again has nothing to do with it.
    let further = ["--count", "2", "--health", &health, "--retries", "0"];
    let run = run(directory.path(), &receiver.url("/event"), &further);
    run.check(0, [2, 0, 0]);
    let posts: Vec<bool> = receiver.arrivals().iter().map(Arrival::is_post).collect();
    assert_eq!(posts, [false, false, false, true, true]);
    assert!(receiver.arrivals()[0].head.starts_with("GET /health HTTP/1.1\r\n"));
}

#[test]
fn nothing_is_sent_to_an_unhealthy_receiver() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 2);
    let receiver = Receiver::start(|_, _| Reply::status(503, ""));
    let health = receiver.url("/health");
    let endpoint = receiver.url("/event");
    let mut command = assert_eventctl(directory.path());
    command.args(arguments(&endpoint, &["--health", &health, "--health-timeout", "1s"])).timeout(PATIENCE);
    let problem = format!("\nerror: cannot send to an unhealthy receiver: {health}: status 503");
    let waiting = format!("waiting for {health}: status 503");
    command
        .assert()
        .code(1)
        .stdout("")
        .stderr(contains(waiting).and(contains(problem)).and(contains("\nhint: start the receiver")));
    assert!(receiver.arrivals().iter().all(|arrival| !arrival.is_post()));
}

// Reports.

#[test]
fn responses_are_reported_as_text() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 4);
    let receiver = Receiver::start(|_, number| Reply::status(if number == 1 { 400 } else { 201 }, ""));
    let endpoint = receiver.url("/event");
    let mut command = assert_eventctl(directory.path());
    let further = ["--count", "4", "--max-in-flight", "1", "-o", "text"];
    let assert = command.args(arguments(&endpoint, &further)).timeout(PATIENCE).assert().code(3).stderr("");
    let text = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let expected = [
        "status=201 | fail=  0.0% | win=1/1 | total=1",
        "status=400 | fail= 50.0% | win=1/2 | total=2 | rejected",
        "status=201 | fail= 33.3% | win=2/3 | total=3",
        "status=201 | fail= 25.0% | win=3/4 | total=4",
    ];
    for (line, expected) in lines.iter().zip(expected) {
        let (who, rest) = line.split_once(" | jitter=").unwrap();
        let (jitter, rest) = rest.split_once(" ms | ").unwrap();
        assert_eq!(rest, expected);
        assert!(jitter.len() >= 5 && jitter.trim().parse::<f64>().is_ok(), "{line}");
        let who: Vec<&str> = who.split_whitespace().collect();
        let [time, event_type, latency, unit] = who.as_slice() else { panic!("{line}") };
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{line}");
        assert_eq!((*event_type, *unit), ("message", "ms"));
        assert!(latency.parse::<f64>().is_ok(), "{line}");
    }
    assert_eq!(
        lines[4],
        "sent=4 | delivered=3 | rejected=1 | undelivered=0 | missed ticks=0 | retries=0"
            .replace("ticks=0", &missed_ticks(lines[4]))
    );
    assert_eq!(lines[5].split_whitespace().collect::<Vec<_>>(), ["milliseconds", "p50", "p90", "p99", "max"]);
    assert!(lines[6].starts_with("jitter  ") && lines[7].starts_with("latency  "));
    assert!(lines[8].starts_with("latency from schedule  "));
    assert_eq!(lines.len(), 9);
}

/// The part of a summary that depends on how busy the machine is.
fn missed_ticks(line: &str) -> String {
    line.split(" | ").find_map(|part| part.strip_prefix("missed ")).unwrap().to_owned()
}

#[test]
fn responses_are_reported_as_json() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 3);
    let receiver = Receiver::start(|_, number| Reply::status([503, 400, 201, 201][number.min(3)], ""));
    let further = ["--count", "3", "--max-in-flight", "1"];
    let run = run(directory.path(), &receiver.url("/event"), &further);
    run.check(3, [2, 1, 0]);
    assert_eq!(run.stderr, "", "talk and progress have no place in a pipe");
    assert_eq!(run.responses.len(), 4);
    let outcomes: HashSet<&str> =
        run.responses.iter().map(|line| line["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, HashSet::from(["delivered", "rejected", "retrying"]));
    for (total, line) in (1..).zip(&run.responses) {
        assert_eq!(line["total"], total);
        assert!(line["time"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
        assert!(line["latency_ms"].is_number() && line["jitter_ms"].is_number());
    }
    for distribution in ["jitter", "latency", "latency_from_schedule"] {
        let quantiles = ["p50_ms", "p90_ms", "p99_ms", "max_ms"];
        let quantiles = quantiles.map(|name| run.summary[distribution][name].as_f64().unwrap());
        assert!(quantiles.is_sorted(), "{}", run.summary);
    }
    let slowest = |name: &str| run.summary[name]["max_ms"].as_f64().unwrap();
    assert!(slowest("latency_from_schedule") >= slowest("latency"));
}

#[test]
fn quiet_prints_the_summary_alone() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 3);
    let receiver = taking_receiver();
    let run = run(directory.path(), &receiver.url("/event"), &["--count=3", "-q"]);
    run.check(0, [3, 0, 0]);
    assert!(run.responses.is_empty());
}

#[test]
fn a_closed_pipe_ends_a_run_without_an_error() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 3);
    let receiver = taking_receiver();
    let endpoint = receiver.url("/event");
    for format in ["text", "json"] {
        let mut command = eventctl(directory.path());
        command.args(arguments(&endpoint, &["-o", format])).stdout(Stdio::piped());
        let mut process = Process::start(&mut command);
        let mut output = BufReader::new(process.child().stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'));
        drop(output);
        assert_eq!(process.wait().code(), Some(0), "{}", process.stderr());
        assert_eq!(process.stderr(), "");
    }
}

#[test]
fn a_reader_that_stops_reading_does_not_hold_up_the_end() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 3);
    let receiver = taking_receiver();
    let endpoint = receiver.url("/event");
    let mut command = eventctl(directory.path());
    command.args(arguments(&endpoint, &["--period", "200us", "--drain-timeout", "1s"]));
    let mut process = Process::start(command.stdout(Stdio::piped()));
    // Sends stop when the pipe and the queue of reports are full.
    let mut arrived = 0;
    wait_until(|| {
        thread::sleep(Duration::from_millis(500));
        let before = mem::replace(&mut arrived, receiver.arrivals().len());
        (arrived > 0 && before == arrived).then_some(())
    });
    let asked = Instant::now();
    process.signal(Signal::TERM);
    assert_eq!(process.wait().code(), Some(1));
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    let stderr = process.stderr();
    assert!(stderr.contains("\nerror: cannot report: nobody reads standard output\nhint: "), "{stderr}");
}

// Files that are no events.

#[test]
fn a_file_that_is_no_list_of_objects_is_refused_with_its_place() {
    for (content, problem) in [
        (&b""[..], "it holds no events"),
        (b"[]", "it holds no events"),
        (b" \n ", "it holds no events"),
        (b"[{}, 7]", "expected an object at line 1 column 6, got a number"),
        (b"[{},\n  [{}]]", "expected an object at line 2 column 3, got an array"),
        (b"\"text\"", "expected an object at line 1 column 1, got a string"),
        (b"[{}\n{}]", "expected `,` or `]` at line 2 column 1"),
        (b"{\"a\":1}\n{\"a\" 1}\n", "expected `:` at line 2 column 6"),
        (b"[{}", "EOF while parsing a list at line 1 column 3"),
        (b"[{}] x", "expected value at line 1 column 6"),
        (b"[{},\n\"\xff\"]", "not UTF-8 at line 2 column 2"),
        (b"[{\"a\": NaN}]", "at line 1 column 8"),
    ] {
        let directory = tempdir().unwrap();
        write_file(directory.path(), "events.json", content);
        let assert = assert_eventctl(directory.path()).arg("propagate").timeout(PATIENCE).assert();
        let prefix = "error: cannot read events from `events.json`: ";
        assert.code(1).stdout("").stderr(
            starts_with(prefix).and(contains(problem)).and(contains("\nhint: write a JSON array of objects")),
        );
    }
}

#[test]
fn a_missing_file_is_named() {
    let directory = tempdir().unwrap();
    let assert = assert_eventctl(directory.path()).args(["propagate", "--file", "none.json"]).assert();
    let problem = "error: cannot read events from `none.json`: No such file or directory";
    assert
        .code(1)
        .stdout("")
        .stderr(starts_with(problem).and(contains("\nhint: name a file of events with --file")));
}

#[test]
fn a_dead_letter_file_that_cannot_be_written_is_an_error_before_the_first_send() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 1);
    let receiver = taking_receiver();
    let endpoint = receiver.url("/event");
    let mut command = assert_eventctl(directory.path());
    command.args(arguments(&endpoint, &["--count", "1", "--dead-letter", "none/dead.ndjson"]));
    let problem = "error: cannot write dead letters to `none/dead.ndjson`";
    command.assert().code(1).stdout("").stderr(starts_with(problem).and(contains("\nhint: ")));
    assert!(receiver.arrivals().is_empty());
}

#[test]
fn rejected_and_undelivered_events_become_dead_letters_that_can_be_sent_again() {
    let directory = tempdir().unwrap();
    let objects = "[{\"event_payload\":\n\"0\"}, {\"event_payload\":\"1\"}, {\"event_payload\":\"2\"}]";
    write_file(directory.path(), "events.json", objects);
    let receiver = Receiver::start(|arrival, number| {
        let status = match payload_of(&arrival.body).as_str() {
            _ if number >= 4 => 201,
            "0" => 400,
            "1" => 503,
            _ => 201,
        };
        Reply::status(status, "")
    });
    let endpoint = receiver.url("/event");
    let further = ["--count", "3", "--retries", "1", "--dead-letter", "dead.ndjson"];
    run(directory.path(), &endpoint, &further).check(3, [1, 1, 1]);
    let dead = fs::read_to_string(directory.path().join("dead.ndjson")).unwrap();
    assert_eq!(super::events_of(&dead), ["{\"event_payload\": \"0\"}", "{\"event_payload\":\"1\"}"]);
    let first: Value = serde_json::from_str(dead.lines().next().unwrap()).unwrap();
    assert_eq!(first["status"], 400, "{dead}");
    run(directory.path(), &endpoint, &["--count", "2", "--file", "dead.ndjson"]).check(0, [2, 0, 0]);
    let again: Vec<String> =
        receiver.arrivals()[4..].iter().map(|arrival| payload_of(&arrival.body)).collect();
    assert_eq!(again.iter().collect::<HashSet<_>>().len(), 2);
    // With the keys that they had.
    let keys = |from: usize| -> HashSet<String> {
        let undelivered = |arrival: &&Arrival| payload_of(&arrival.body) != "2";
        receiver.arrivals()[from..].iter().filter(undelivered).map(Arrival::key).collect()
    };
    assert_eq!((keys(4).len(), keys(0).len()), (2, 2));
}
