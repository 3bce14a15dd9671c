//! What the figures of a report measure.

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::tempdir;

use super::{finish, run, start, write_events};
use crate::util::receiver::{Receiver, Reply};
use crate::util::{eventctl, refusal_of, wait_until};

#[test]
fn jitter_is_how_late_a_send_is_whatever_made_it_late() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 1);
    let receiver = Receiver::start(|_, _| Reply::created());
    let process = start(directory.path(), &receiver.url("/event"), &["--period", "2s", "--count", "2"]);
    wait_until(|| (!receiver.arrivals().is_empty()).then_some(()));
    process.signal(Signal::STOP);
    // Across the tick, and not across the one after it.
    thread::sleep(Duration::from_millis(2500));
    process.signal(Signal::CONT);
    let run = finish(directory.path(), process);
    run.check(0, [2, 0, 0]);
    // The process was stopped for half of a second after the tick, less what passed before it was.
    let jitter = run.responses[1]["jitter_ms"].as_f64().unwrap();
    assert!((100.0..2000.0).contains(&jitter), "{:?}", run.responses);
    let longest = |name: &str| run.summary[name]["max_ms"].as_f64().unwrap();
    assert!((longest("jitter") / jitter - 1.0).abs() < 0.01, "{}", run.summary);
    assert!(longest("latency_from_schedule") > jitter, "{}", run.summary);
    assert_eq!(run.count("missed_ticks"), 0, "the newest tick is sent however late");
}

#[test]
fn sends_without_an_answer_have_no_latency() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}/event", listener.local_addr().unwrap());
    drop(listener);
    let run = run(directory.path(), &endpoint, &["--count", "3", "--retries", "1"]);
    run.check(3, [0, 0, 3]);
    assert!(run.summary["latency"].is_null(), "{}", run.summary);
    assert!(run.summary["latency_from_schedule"].is_null(), "{}", run.summary);
    assert!(run.summary["jitter"]["max_ms"].is_number(), "{}", run.summary);
    assert_eq!((run.count("sent"), run.count("retries")), (3, 3));
    assert_eq!(run.responses.last().unwrap()["fail_percent"], 100.0);
}

#[test]
fn latency_from_the_schedule_includes_all_that_an_event_waited_for() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 1);
    let receiver = Receiver::start(|_, number| match number {
        0 => Reply::status(503, "Retry-After: 1\r\n"),
        _ => Reply::created(),
    });
    let run = run(directory.path(), &receiver.url("/event"), &["--count", "1"]);
    run.check(0, [1, 0, 0]);
    let longest = |name: &str| run.summary[name]["max_ms"].as_f64().unwrap();
    let waited = longest("latency_from_schedule") - longest("latency") - longest("jitter");
    // Three digits are kept of each figure.
    assert!(waited > 990.0, "{}", run.summary);
}

#[test]
fn a_wait_that_a_receiver_asks_for_may_have_a_fraction() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 1);
    let receiver = Receiver::start(|_, number| match number {
        0 => Reply::status(429, "Retry-After: 1.5\r\n"),
        _ => Reply::created(),
    });
    run(directory.path(), &receiver.url("/event"), &["--count", "1"]).check(0, [1, 0, 0]);
    let arrivals = receiver.arrivals();
    let waited = arrivals[1].at - arrivals[0].at;
    assert!(waited >= Duration::from_millis(1500), "{waited:?}");
}

#[test]
fn a_run_fails_by_its_conditions_and_says_which() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 10);
    let receiver = Receiver::start(|_, number| Reply::status(if number % 10 == 0 { 400 } else { 201 }, ""));
    let endpoint = receiver.url("/event");
    let further =
        ["--count", "20", "--max-in-flight", "1", "--fail-if", "p99 < 0.1us", "--fail-if", "failed > 10%"];
    let finished = run(directory.path(), &endpoint, &[&further[..], &["--junit", "verdict.xml"]].concat());
    finished.check(3, [18, 2, 0]);
    assert!(!finished.stderr.contains("has failed"), "{}", finished.stderr);
    let failing =
        ["--count", "20", "--max-in-flight", "1", "--fail-if", "failed >= 10%", "--fail-if", "p50 > 1us"];
    let finished = run(
        directory.path(),
        &endpoint,
        &[&failing[..], &["--fail-if", "sent < 20", "--junit", "verdict.xml"]].concat(),
    );
    for reason in ["the run has failed: failed >= 10%: it is 10.00%", "the run has failed: p50 > 1us: it is "]
    {
        assert!(finished.stderr.contains(reason), "{}", finished.stderr);
    }
    let verdict = std::fs::read_to_string(directory.path().join("verdict.xml")).unwrap();
    assert!(verdict.contains("tests=\"3\" failures=\"2\""), "{verdict}");
    assert!(verdict.contains("name=\"not sent &lt; 20\"/>"), "{verdict}");
    assert!(verdict.contains("<failure message=\"failed &gt;= 10%: it is 10.00%\"/>"), "{verdict}");
    // All were delivered, and the run has failed nevertheless.
    let good = Receiver::start(|_, _| Reply::created());
    let finished = run(directory.path(), &good.url("/event"), &["--count", "3", "--fail-if", "sent < 4"]);
    finished.check(3, [3, 0, 0]);
    for wrong in ["p99", "p99 > 50", "speed > 1"] {
        let mut command = eventctl(directory.path());
        let (error, _) = refusal_of(command.args(["propagate", "--fail-if", wrong]), 2);
        assert!(error.contains("for `--fail-if`") && error.contains("expected"), "{error}");
    }
}

#[test]
fn histograms_are_written_in_the_format_of_hdrhistogram() {
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    let directory = tempdir().unwrap();
    write_events(directory.path(), 10);
    let receiver = Receiver::start(|_, _| Reply::created());
    let further = ["--count", "50", "--histogram", "run.hlog"];
    let finished = run(directory.path(), &receiver.url("/event"), &further);
    finished.check(0, [50, 0, 0]);
    let log = std::fs::read(directory.path().join("run.hlog")).unwrap();
    let mut found = Vec::new();
    for entry in IntervalLogIterator::new(&log) {
        let LogEntry::Interval(interval) = entry.unwrap() else { continue };
        let encoded =
            base64::Engine::decode(&base64::engine::general_purpose::STANDARD, interval.encoded_histogram());
        let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut &encoded.unwrap()[..]).unwrap();
        let name = interval.tag().unwrap().as_str().to_owned();
        let member = if name == "schedule" { "latency_from_schedule" } else { &name };
        let p99 = finished.summary[member]["p99_ms"].as_f64().unwrap();
        let in_log = histogram.value_at_quantile(0.99) as f64 / 1e6;
        assert!(histogram.len() == 50 && (in_log - p99).abs() < 1e-6, "{name}: {in_log} {p99}");
        found.push(name);
    }
    assert_eq!(found, ["jitter", "latency", "schedule"]);
    let mut command = eventctl(directory.path());
    let endpoint = receiver.url("/event");
    command.args([
        "propagate",
        "--endpoint",
        &endpoint,
        "--count",
        "1",
        "--histogram",
        "missing/run.hlog",
        "-q",
    ]);
    let (error, hint) = refusal_of(&mut command, 1);
    assert!(error.contains("cannot write to `missing/run.hlog`") && hint.contains("--histogram"), "{error}");
}
