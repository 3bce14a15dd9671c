//! When events are sent, and how a run ends.
//!
//! The machine that runs the tests may be busy: times are compared with room to spare.

use std::fs;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::tempdir;

use super::{check_keys, finish, payload_of, run, start, write_events};
use crate::util::http::event;
use crate::util::receiver::{Receiver, Reply};
use crate::util::{PATIENCE, Process, eventctl, refusal_of, wait_until};

fn slow_receiver(delay: Duration) -> Receiver {
    Receiver::start(move |_, _| {
        thread::sleep(delay);
        Reply::created()
    })
}

fn wait_for_arrivals(receiver: &Receiver, count: usize) {
    wait_until(|| (receiver.arrivals().len() >= count).then_some(()));
}

#[test]
fn a_slow_receiver_does_not_shift_the_schedule() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 3);
    let receiver = slow_receiver(Duration::from_millis(300));
    let run = run(directory.path(), &receiver.url("/event"), &["--period", "50ms", "--duration", "2500ms"]);
    let (sent, missed) = (run.count("sent"), run.count("missed_ticks"));
    run.check(0, [sent, 0, 0]);
    // Ticks at 0, 50, … 2450 or 2500 ms. One after the other there would be 9 sends.
    assert!((49..=60).contains(&(sent + missed)), "sent {sent}, missed {missed}");
    assert!(sent >= 30, "sent {sent}, missed {missed}");
    let arrivals = receiver.arrivals();
    let period = Duration::from_millis(50);
    let late: Vec<Duration> = (0..)
        .zip(&arrivals)
        .map(|(n, arrival)| (arrival.at - arrivals[0].at).saturating_sub(period * n))
        .collect();
    if missed == 0 {
        // Lateness comes and goes, and does not grow: some of the last sends are as good as on time.
        let least = late[late.len() - 10..].iter().min().unwrap();
        assert!(*least < Duration::from_millis(40), "{late:?}");
    }
}

#[test]
fn lateness_does_not_accumulate() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 3);
    let receiver = Receiver::start(|_, _| Reply::created());
    let run = run(directory.path(), &receiver.url("/event"), &["--period", "1ms", "--duration", "2s"]);
    let (sent, missed) = (run.count("sent"), run.count("missed_ticks"));
    run.check(0, [sent, 0, 0]);
    // Were each tick a period after the one before, a few microseconds of each would add up.
    assert!(sent + missed >= 1999, "sent {sent}, missed {missed}");
    assert!(sent + missed < 4000, "sent {sent}, missed {missed}");
}

#[test]
fn ticks_without_room_for_a_send_are_counted_as_missed() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 3);
    let at_once = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let counted = Arc::clone(&at_once);
    let receiver = Receiver::start(move |_, _| {
        let [now, most] = counted.as_ref();
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(120));
        now.fetch_sub(1, Ordering::SeqCst);
        Reply::created()
    });
    let further = ["--period", "50ms", "--duration", "2s", "--max-in-flight", "1"];
    let run = run(directory.path(), &receiver.url("/event"), &further);
    let (sent, missed) = (run.count("sent"), run.count("missed_ticks"));
    run.check(0, [sent, 0, 0]);
    assert!((36..=50).contains(&(sent + missed)), "sent {sent}, missed {missed}");
    assert!(sent <= 17, "a send takes more than two periods: {sent}");
    assert_eq!(at_once[1].load(Ordering::SeqCst), 1);
    assert_eq!(receiver.arrivals().len(), usize::try_from(sent).unwrap());
}

#[test]
fn a_pause_is_not_made_up_for() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 3);
    let receiver = Receiver::start(|_, _| Reply::created());
    let period = Duration::from_millis(100);
    let process =
        start(directory.path(), &receiver.url("/event"), &["--period", "100ms", "--duration", "3s"]);
    wait_for_arrivals(&receiver, 5);
    process.signal(Signal::STOP);
    let paused = receiver.arrivals().len();
    // The pause itself, not a wait for something.
    thread::sleep(period * 12);
    process.signal(Signal::CONT);
    let run = finish(directory.path(), process);
    let (sent, missed) = (run.count("sent"), run.count("missed_ticks"));
    run.check(0, [sent, 0, 0]);
    assert!(missed >= 10, "missed {missed}");
    assert!((28..=40).contains(&(sent + missed)), "sent {sent}, missed {missed}");
    let arrivals = receiver.arrivals();
    assert!(arrivals.len() > paused + 5, "it goes on");
    // The first tick after the pause may be late, not those that follow.
    for window in arrivals[paused..].windows(5) {
        let took = window[4].at - window[0].at;
        assert!(took > period * 3 / 2, "five sends within {took:?}");
    }
}

#[test]
fn a_duration_ends_a_run() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 3);
    let receiver = Receiver::start(|_, _| Reply::created());
    let started = Instant::now();
    let run = run(directory.path(), &receiver.url("/event"), &["--period", "1h", "--duration", "300ms"]);
    run.check(0, [1, 0, 0]);
    assert!((300..20_000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
}

#[test]
fn sigterm_and_sigint_finish_what_is_in_flight() {
    for signal in [Signal::TERM, Signal::INT] {
        let directory = tempdir().unwrap();
        write_events(directory.path(), 3);
        let receiver = slow_receiver(Duration::from_millis(700));
        let process = start(directory.path(), &receiver.url("/event"), &["--period", "100ms"]);
        wait_for_arrivals(&receiver, 3);
        let asked = Instant::now();
        process.signal(signal);
        let run = finish(directory.path(), process);
        let sent = run.count("sent");
        run.check(0, [sent, 0, 0]);
        assert_eq!(receiver.arrivals().len(), usize::try_from(sent).unwrap());
        assert!(sent >= 3);
        assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    }
}

#[test]
fn sigterm_ends_a_long_period_at_once() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 3);
    let receiver = Receiver::start(|_, _| Reply::created());
    let process = start(directory.path(), &receiver.url("/event"), &["--period", "1h"]);
    wait_until(|| (!fs::read_to_string(directory.path().join("report")).unwrap().is_empty()).then_some(()));
    let asked = Instant::now();
    process.signal(Signal::TERM);
    finish(directory.path(), process).check(0, [1, 0, 0]);
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}

fn silent_receiver() -> Receiver {
    Receiver::start(|_, _| {
        thread::sleep(PATIENCE * 2);
        Reply::Reset
    })
}

#[test]
fn the_drain_timeout_abandons_events_in_flight() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 3);
    let receiver = silent_receiver();
    let further =
        ["--period", "10ms", "--timeout", "50s", "--drain-timeout", "500ms", "--max-in-flight", "3"];
    let process = start(directory.path(), &receiver.url("/event"), &further);
    wait_for_arrivals(&receiver, 3);
    let asked = Instant::now();
    process.signal(Signal::TERM);
    let run = finish(directory.path(), process);
    run.check(3, [0, 0, 3]);
    let took = asked.elapsed();
    assert!((Duration::from_millis(490)..Duration::from_secs(20)).contains(&took), "{took:?}");
}

#[test]
fn a_second_signal_abandons_events_in_flight() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 3);
    let receiver = silent_receiver();
    let further =
        ["--period", "20ms", "--timeout", "50s", "--dead-letter", "dead.ndjson", "--drain-timeout", "50s"];
    let mut process = start(directory.path(), &receiver.url("/event"), &further);
    wait_for_arrivals(&receiver, 3);
    let asked = Instant::now();
    process.signal(Signal::TERM);
    // Two signals that arrive together are one: repeat until it has ended.
    wait_until(|| {
        thread::sleep(Duration::from_millis(100));
        let ended = process.child().try_wait().unwrap().is_some();
        if !ended {
            process.signal(Signal::TERM);
        }
        ended.then_some(())
    });
    let run = finish(directory.path(), process);
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    let arrived = receiver.arrivals().len();
    assert!(run.count("undelivered") >= 3, "{:?}", run.summary);
    run.check(3, [0, 0, run.count("undelivered")]);
    let dead = fs::read_to_string(directory.path().join("dead.ndjson")).unwrap();
    assert!(dead.lines().count() >= arrived, "{arrived} arrived, {dead}");
    assert_eq!(dead.lines().count() as u64, run.count("undelivered"));
}

// Standard input.

#[test]
fn each_line_of_standard_input_is_sent_once_in_order() {
    let directory = tempdir().unwrap();
    let receiver = Receiver::start(|_, _| Reply::created());
    let further = ["--file", "-", "--max-in-flight", "1"];
    let mut process = start(directory.path(), &receiver.url("/event"), &further);
    let mut input = process.child().stdin.take().unwrap();
    for number in 0..300 {
        writeln!(input, "{}", event("message", &number.to_string())).unwrap();
    }
    drop(input);
    let run = finish(directory.path(), process);
    run.check(0, [300, 0, 0]);
    let arrivals = receiver.arrivals();
    let payloads: Vec<String> = arrivals.iter().map(|arrival| payload_of(&arrival.body)).collect();
    assert_eq!(payloads, (0..300).map(|number: u32| number.to_string()).collect::<Vec<_>>());
    check_keys(&arrivals);
}

#[test]
fn a_line_is_sent_when_it_comes_and_waiting_for_it_misses_no_tick() {
    let directory = tempdir().unwrap();
    let receiver = Receiver::start(|_, _| Reply::created());
    let mut process = start(directory.path(), &receiver.url("/event"), &["--file", "-"]);
    let mut input = process.child().stdin.take().unwrap();
    for number in 1..=5 {
        writeln!(input, "{}", event("message", "x")).unwrap();
        wait_for_arrivals(&receiver, number);
        thread::sleep(Duration::from_millis(100));
    }
    drop(input);
    let run = finish(directory.path(), process);
    run.check(0, [5, 0, 0]);
    // A hundred ticks went by while there was nothing to send.
    assert!(run.count("missed_ticks") < 50, "{}", run.summary);
}

#[test]
fn the_schedule_starts_with_the_first_line() {
    let directory = tempdir().unwrap();
    let receiver = Receiver::start(|_, _| Reply::created());
    let mut process = start(directory.path(), &receiver.url("/event"), &["--file", "-", "--period", "1h"]);
    let mut input = process.child().stdin.take().unwrap();
    // A line that is long in coming.
    thread::sleep(Duration::from_millis(300));
    writeln!(input, "{}", event("message", "x")).unwrap();
    drop(input);
    let run = finish(directory.path(), process);
    run.check(0, [1, 0, 0]);
    assert_eq!(run.count("missed_ticks"), 0);
}

#[test]
fn a_line_that_is_no_event_is_named_and_the_others_are_sent() {
    let directory = tempdir().unwrap();
    let receiver = Receiver::start(|_, _| Reply::created());
    let mut process = start(directory.path(), &receiver.url("/event"), &["--file", "-"]);
    let mut input = process.child().stdin.take().unwrap();
    input.write_all(b"{\"event_type\":\"a\"}\n\n{\"event_type\" 1}\n  17\n\xff\n{}\r\n{\"last\":0}").unwrap();
    drop(input);
    let run = finish(directory.path(), process);
    run.check(3, [3, 3, 0]);
    let lines: Vec<&str> = run.stderr.lines().collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].contains("expected `:` at line 3 column 15"), "{lines:?}");
    assert!(lines[1].contains("expected an object at line 4 column 3, got a number"), "{lines:?}");
    assert!(lines[2].contains("not UTF-8 at line 5"), "{lines:?}");
    let mut bodies: Vec<String> = receiver.arrivals().into_iter().map(|arrival| arrival.body).collect();
    bodies.sort();
    assert_eq!(bodies, [r#"{"event_type":"a"}"#, r#"{"last":0}"#, "{}"]);
}

#[test]
fn lines_that_were_read_and_not_sent_become_dead_letters() {
    let directory = tempdir().unwrap();
    let receiver = Receiver::start(|_, _| Reply::created());
    let further = ["--file", "-", "--period", "1h", "--dead-letter", "dead.ndjson"];
    let mut process = start(directory.path(), &receiver.url("/event"), &further);
    let mut input = process.child().stdin.take().unwrap();
    let lines: String = (0..200).map(|number| event("message", &number.to_string()) + "\n").collect();
    input.write_all(lines.as_bytes()).unwrap();
    wait_for_arrivals(&receiver, 1);
    process.signal(Signal::TERM);
    // Standard input stays open.
    let run = finish(directory.path(), process);
    drop(input);
    run.check(3, [1, 0, 199]);
    let dead = fs::read_to_string(directory.path().join("dead.ndjson")).unwrap();
    let sent = [receiver.arrivals()[0].body.clone()];
    let all: Vec<String> = sent.into_iter().chain(super::events_of(&dead)).collect();
    assert_eq!(all.join("\n") + "\n", lines);

    let again = ["--file", "dead.ndjson", "--count", "199"];
    super::run(directory.path(), &receiver.url("/event"), &again).check(0, [199, 0, 0]);
    assert_eq!(receiver.arrivals().len(), 200);
}

#[test]
fn a_run_ends_with_its_rate_and_has_sent_as_many_as_it_says() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 10);
    let receiver = Receiver::start(|_, _| Reply::created());
    let rate = "0/s..200/s over 1s, 0/s for 100ms, 200/s for 500ms";
    for arrivals in ["constant", "poisson"] {
        let before = receiver.arrivals().len();
        let further = [
            "--rate",
            rate,
            "--arrivals",
            arrivals,
            "--seed",
            "1",
            "--max-lateness",
            "10s",
            "--max-in-flight",
            "300",
        ];
        let run = run(directory.path(), &receiver.url("/event"), &further);
        let arrived = receiver.arrivals().len() - before;
        assert_eq!(
            (run.count("delivered"), run.count("missed_ticks")),
            (arrived as u64, 0),
            "{}",
            run.stderr
        );
        let expected = if arrivals == "constant" { 200..=200 } else { 150..=250 };
        assert!(expected.contains(&arrived), "{arrivals}: {arrived}");
    }
    for wrong in ["500", "1/s..2/s", "1/s, 2/s", "0/s", "fast"] {
        let mut command = eventctl(directory.path());
        let (error, _) = refusal_of(command.args(["propagate", "--rate", wrong]), 2);
        assert!(error.contains("for `--rate`: expected"), "{error}");
    }
}

#[test]
fn several_senders_begin_at_the_same_time() {
    let directory = tempdir().unwrap();
    let receiver = Receiver::start(|_, _| Reply::created());
    let endpoint = receiver.url("/event");
    let begun = Instant::now();
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(5000);
    let earliest = begun + Duration::from_millis(4900);
    let at = at.to_string();
    let further = ["--start-at", at.as_str(), "--count", "3", "--period", "100ms", "--duration", "10s"];
    let directories = [(); 3].map(|()| tempdir().unwrap());
    let sender = |directory: &tempfile::TempDir| {
        write_events(directory.path(), 10);
        start(directory.path(), &endpoint, &further)
    };
    let senders: Vec<Process> = directories.iter().map(sender).collect();
    for (sender, directory) in senders.into_iter().zip(&directories) {
        finish(directory.path(), sender).check(0, [3, 0, 0]);
    }
    let arrivals = receiver.arrivals();
    assert_eq!(arrivals.len(), 9);
    assert!(arrivals.iter().all(|arrival| arrival.at >= earliest), "none is sent before");
    let mut command = eventctl(directory.path());
    let over = ["propagate", "--start-at", "2024-01-15T12:00:00Z"];
    let (error, hint) = refusal_of(command.args(over), 1);
    assert!(
        error.contains("`--start-at` is over: 2024-01-15T12:00:00") && hint.contains("to come"),
        "{error}"
    );
}
