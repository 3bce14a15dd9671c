//! How a run ends: what is waited for, for how long, and what is said meanwhile.

use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::tempdir;

use super::{finish, run, start, write_events};
use crate::util::receiver::{Receiver, Reply};
use crate::util::{PATIENCE, wait_until};

fn silent_receiver() -> Receiver {
    Receiver::start(|_, _| {
        thread::sleep(PATIENCE * 2);
        Reply::Reset
    })
}

#[test]
fn signals_log_the_drain_and_abandoned_events_were_sent() {
    for (signal, name) in [(Signal::INT, "SIGINT"), (Signal::TERM, "SIGTERM"), (Signal::HUP, "SIGHUP")] {
        let directory = tempdir().unwrap();
        write_events(directory.path(), 7);
        let receiver = silent_receiver();
        let further = ["--max-in-flight", "7", "--timeout", "2m", "--drain-timeout", "90s"];
        let mut process = start(directory.path(), &receiver.url("/event"), &further);
        wait_until(|| (receiver.arrivals().len() == 7).then_some(()));
        process.signal(signal);
        let line = process.wait_for_stderr("in flight");
        let expected = format!("stopping after {name}: waiting up to 1m 30s for 7 events in flight");
        assert!(line.contains(&expected), "{line}");
        process.signal(signal);
        let run = finish(directory.path(), process);
        run.check(3, [0, 0, 7]);
        assert_eq!((run.count("sent"), run.count("retries")), (7, 0), "{}", run.summary);
        assert!(run.stderr.contains("abandoning 7 events in flight"), "{}", run.stderr);
        assert!(
            run.responses.iter().all(|line| line["outcome"] == "undelivered" && line["status"].is_null())
        );
    }
}

#[test]
fn a_stop_with_nothing_in_flight_says_so() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 1);
    let receiver = Receiver::start(|_, _| Reply::created());
    let process = start(directory.path(), &receiver.url("/event"), &["--period", "1h"]);
    wait_until(|| {
        let report = std::fs::read_to_string(directory.path().join("report")).unwrap();
        (!report.is_empty()).then_some(())
    });
    process.signal(Signal::TERM);
    let run = finish(directory.path(), process);
    run.check(0, [1, 0, 0]);
    assert!(run.stderr.contains("stopping after SIGTERM: nothing is in flight"), "{}", run.stderr);
}

#[test]
fn the_drain_timeout_bounds_waits_for_retries() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 1);
    let receiver = Receiver::start(|_, _| Reply::status(503, "Retry-After: 3600\r\n"));
    let further = ["--duration", "300ms", "--drain-timeout", "500ms", "--max-in-flight", "4"];
    let run = run(directory.path(), &receiver.url("/event"), &further);
    run.check(3, [0, 0, 4]);
    assert_eq!((run.count("sent"), run.responses.len()), (4, 4));
    assert!(
        run.stderr.contains("the duration has elapsed: waiting up to 500ms for 4 events in flight"),
        "{}",
        run.stderr
    );
}

#[test]
fn retries_may_finish_after_the_last_event() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 1);
    let receiver = Receiver::start(|_, number| match number {
        0 => Reply::status(503, "Retry-After: 1\r\n"),
        _ => Reply::created(),
    });
    let further = ["--count", "1", "--drain-timeout", "0s"];
    run(directory.path(), &receiver.url("/event"), &further).check(0, [1, 0, 0]);
}

#[test]
fn the_health_timeout_bounds_the_wait_for_health() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 1);
    let receiver = Receiver::start(|arrival, number| match arrival.is_post() {
        // More looks than there are retries.
        false if number < 8 => Reply::status(503, ""),
        _ => Reply::status(200, ""),
    });
    let health = receiver.url("/health");
    let further = ["--count", "1", "--health", &health, "--retries", "1"];
    run(directory.path(), &receiver.url("/event"), &further).check(0, [1, 0, 0]);
    assert_eq!(receiver.arrivals().len(), 10);
}

#[test]
fn a_silent_health_endpoint_ends_the_run() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 1);
    let receiver = silent_receiver();
    let health = receiver.url("/health");
    let further = ["--health", &health, "--health-timeout", "500ms", "--timeout", "100s"];
    let mut process = start(directory.path(), &receiver.url("/event"), &further);
    assert_eq!(process.wait().code(), Some(1));
    let expected = format!("error: cannot send to an unhealthy receiver: {health}: no response");
    assert!(process.stderr().contains(&expected), "{}", process.stderr());
    assert!(process.stderr().contains("\nhint: start the receiver, or give --health-timeout more time"));
    assert!(receiver.arrivals().len() == 1 && !receiver.arrivals()[0].is_post());
}

#[test]
fn ticks_late_by_less_than_max_lateness_are_sent_and_later_ones_missed() {
    for (max_lateness, missed_at_least) in [("50s", 0), ("50ms", 30), ("0s", 30)] {
        let directory = tempdir().unwrap();
        write_events(directory.path(), 1);
        let receiver = Receiver::start(|_, _| Reply::created());
        let further =
            ["--period", "20ms", "--count", "60", "--max-lateness", max_lateness, "--max-in-flight", "100"];
        let process = start(directory.path(), &receiver.url("/event"), &further);
        wait_until(|| (receiver.arrivals().len() >= 3).then_some(()));
        process.signal(Signal::STOP);
        // The pause itself, not a wait for something.
        thread::sleep(Duration::from_secs(1));
        process.signal(Signal::CONT);
        let run = finish(directory.path(), process);
        run.check(0, [60, 0, 0]);
        let missed = run.count("missed_ticks");
        assert!(missed >= missed_at_least, "{max_lateness}: {missed}");
        assert!(missed_at_least > 0 || missed == 0, "{max_lateness}: {missed}");
    }
}
