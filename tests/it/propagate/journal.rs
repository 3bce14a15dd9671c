//! `--journal`: whatever dies, each event that was recorded is stored once.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::tempdir;

use super::delivery::start_proxy;
use super::{arguments, finish, run, start, write_events};
use crate::util::disk::{Disk, Fault, Operation, Place, Record};
use crate::util::http::event;
use crate::util::receiver::{Receiver, Reply};
use crate::util::{
    Consume, Process, eventctl, free_port, random, refusal_of, stored_events, wait_until, write_file,
};

/// How often sender or receiver are killed; more proves more.
fn rounds() -> usize {
    std::env::var("TEST_KILL_ROUNDS").map_or(50, |rounds| rounds.parse().unwrap())
}

/// The payloads in a store, sorted.
fn payloads(directory: &Path) -> Vec<usize> {
    let events = stored_events(&directory.join("events.db"));
    let mut payloads: Vec<usize> =
        events.into_iter().map(|(_, _, payload)| payload.parse().unwrap()).collect();
    payloads.sort_unstable();
    payloads
}

/// The records of a journal whose lines are whole.
fn records(directory: &Path) -> Vec<Value> {
    let text = fs::read_to_string(directory.join("journal")).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn recorded(directory: &Path) -> usize {
    records(directory).iter().filter(|record| record.get("event").is_some()).count()
}

/// A receiver that is killed and started at one address, and a proxy before it that cuts connections.
struct Target {
    directory: tempfile::TempDir,
    port: String,
    server: Consume,
    proxy: String,
}

fn start_at(directory: &Path, port: &str) -> Consume {
    Consume::start_command(eventctl(directory).args(["consume", "--port", port]))
}

impl Target {
    fn start() -> Target {
        let directory = tempdir().unwrap();
        let port = free_port().to_string();
        let server = start_at(directory.path(), &port);
        let proxy = start_proxy(server.address, fastrand::u64(..), true);
        Target { directory, port, server, proxy: format!("http://{proxy}/event") }
    }

    fn restart(&mut self) {
        self.server.process.kill();
        self.server = start_at(self.directory.path(), &self.port);
    }
}

/// Kills sender and receiver in turn; returns how many events there are, and the payloads that are stored.
fn sent_through_kills(journal: &[&str], rounds: usize) -> (usize, Vec<usize>) {
    let events = rounds * 20;
    let sender = tempdir().unwrap();
    write_events(sender.path(), events);
    let mut target = Target::start();
    let mut random = random();
    let endpoint = target.proxy.clone();
    let count = events.to_string();
    let further = [&["--count", &count, "--retries", "100"][..], journal].concat();
    for _ in 0..rounds {
        let mut process = start(sender.path(), &endpoint, &further);
        thread::sleep(Duration::from_millis(random.u64(10..150)));
        if random.bool() {
            target.restart();
        }
        process.kill();
    }
    let run = run(sender.path(), &endpoint, &further);
    assert_eq!(run.count("undelivered") + run.count("rejected"), 0, "{:?}", run.summary);
    (events, payloads(target.directory.path()))
}

#[test]
fn events_of_a_file_are_stored_once_through_kills_of_sender_and_receiver() {
    let (events, stored) = sent_through_kills(&["--journal", "journal"], rounds());
    assert_eq!(stored, (0..events).collect::<Vec<_>>());
}

/// The control: what the journal is for.
#[test]
fn without_a_journal_events_are_stored_twice() {
    let (_, mut stored) = sent_through_kills(&[], 10);
    let all = stored.len();
    stored.dedup();
    assert!(stored.len() < all, "{all} events, none of them twice");
}

#[test]
fn lines_of_standard_input_are_stored_once_from_the_line_that_was_recorded() {
    let sender = tempdir().unwrap();
    let mut target = Target::start();
    let mut random = random();
    let further = ["--file", "-", "--retries", "100", "--journal", "journal"];
    let mut fed = 0;
    for round in 0..=rounds() / 2 {
        // What was recorded is not fed again: the rest of the pipe died with its reader.
        fed = fed.max(recorded(sender.path()));
        let from = recorded(sender.path());
        let mut process = start(sender.path(), &target.proxy, &further);
        let mut input = process.child().stdin.take().unwrap();
        let lines: String =
            (from..from + 60).map(|number| event("message", &number.to_string()) + "\n").collect();
        fed = fed.max(from + 60);
        let _ = input.write_all(lines.as_bytes());
        if round == rounds() / 2 {
            drop(input);
            let run = finish(sender.path(), process);
            assert_eq!(run.count("undelivered") + run.count("rejected"), 0, "{:?}", run.summary);
            break;
        }
        thread::sleep(Duration::from_millis(random.u64(10..120)));
        if random.u8(..4) == 0 {
            target.restart();
        }
        process.kill();
    }
    assert_eq!(payloads(target.directory.path()), (0..fed).collect::<Vec<_>>());
}

#[test]
fn an_event_is_recorded_before_it_leaves_and_repeated_under_its_key() {
    let directory = tempdir().unwrap();
    // A line break within an event: what is sent again is the same to the byte.
    write_file(directory.path(), "events.json", "[{\"event_type\":\n \"a\", \"event_payload\": \"0\"}]");
    let journal = directory.path().join("journal");
    let missing = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&missing);
    let receiver = Receiver::start(move |arrival, number| {
        let text = fs::read_to_string(&journal).unwrap();
        let id: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        let prefix = format!("{}-", id["id"].as_str().unwrap());
        let is_recorded =
            arrival.key().strip_prefix(&prefix).is_some_and(|n| text.contains(&format!("{{\"n\":{n},")));
        if !is_recorded {
            seen.lock().unwrap().push(arrival.clone());
        }
        if number < 3 { Reply::Reset } else { Reply::created() }
    });
    let endpoint = receiver.url("/event");
    let further = ["--count", "2", "--retries", "0", "--journal", "journal", "--max-in-flight", "1"];
    run(directory.path(), &endpoint, &further).check(3, [0, 0, 2]);
    // The next run sends both again, of which one fails once more, and the last nothing new.
    run(directory.path(), &endpoint, &further).check(3, [1, 0, 1]);
    run(directory.path(), &endpoint, &further).check(0, [1, 0, 0]);
    run(directory.path(), &endpoint, &further).check(0, [0, 0, 0]);
    assert!(missing.lock().unwrap().is_empty(), "{missing:?}");
    let arrivals = receiver.arrivals();
    assert_eq!(arrivals.len(), 5);
    for key in arrivals.iter().map(|arrival| arrival.key()) {
        let same = arrivals.iter().filter(|arrival| arrival.key() == key);
        let bodies: Vec<&str> = same.map(|arrival| arrival.body.as_str()).collect();
        assert!(bodies.len() > 1 && bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
    }
}

#[test]
fn a_run_goes_on_in_the_order_that_it_would_have_had() {
    for order in ["sequential", "shuffle", "random"] {
        let directory = tempdir().unwrap();
        write_events(directory.path(), 20);
        let receiver = Receiver::start(|_, _| Reply::created());
        let endpoint = receiver.url("/event");
        let whole = ["propagate", "--dry-run", "--order", order, "--seed", "5", "--count", "60"];
        let expected = eventctl(directory.path()).args(whole).output().unwrap();
        for count in ["13", "14", "60"] {
            let further = [
                "--order",
                order,
                "--seed",
                "5",
                "--count",
                count,
                "--journal",
                "journal",
                "--max-in-flight",
                "1",
            ];
            let finished = run(directory.path(), &endpoint, &further);
            assert_eq!(finished.count("undelivered"), 0);
        }
        let sent: String = receiver.arrivals().iter().map(|arrival| arrival.body.clone() + "\n").collect();
        assert_eq!(sent, String::from_utf8(expected.stdout).unwrap(), "{order}");
    }
}

#[test]
fn what_was_refused_is_not_sent_again_and_what_was_not_sent_is() {
    let directory = tempdir().unwrap();
    let receiver = Receiver::start(|arrival, _| {
        Reply::status(if arrival.body.contains("\"1\"") { 400 } else { 201 }, "")
    });
    let further = ["--file", "-", "--period", "300ms", "--journal", "journal", "--dead-letter", "dead"];
    let mut process = start(directory.path(), &receiver.url("/event"), &further);
    let mut input = process.child().stdin.take().unwrap();
    let lines: String = (0..10).map(|number| event("message", &number.to_string()) + "\n").collect();
    input.write_all(lines.as_bytes()).unwrap();
    wait_until(|| (receiver.arrivals().len() >= 2).then_some(()));
    process.signal(Signal::TERM);
    let stopped = finish(directory.path(), process);
    drop(input);
    // All that was read is in the journal, whether it was sent or not.
    assert_eq!(recorded(directory.path()), 10);
    assert_eq!(stopped.count("rejected"), 1);
    let mut rest = start(directory.path(), &receiver.url("/event"), &["--file", "-", "--journal", "journal"]);
    drop(rest.child().stdin.take());
    let rest = finish(directory.path(), rest);
    assert_eq!((rest.code, rest.count("delivered")), (0, stopped.count("undelivered")));
    let mut bodies: Vec<String> = receiver.arrivals().into_iter().map(|arrival| arrival.body).collect();
    bodies.sort();
    assert_eq!(bodies.iter().map(|body| body.clone() + "\n").collect::<String>(), lines);
}

#[test]
fn a_torn_last_line_is_written_anew() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 5);
    let receiver = Receiver::start(|_, _| Reply::created());
    let endpoint = receiver.url("/event");
    run(directory.path(), &endpoint, &["--count", "2", "--journal", "journal"]).check(0, [2, 0, 0]);
    let mut journal = fs::OpenOptions::new().append(true).open(directory.path().join("journal")).unwrap();
    journal.write_all(b"{\"n\":3,\"event\":{\"event_ty").unwrap();
    run(directory.path(), &endpoint, &["--count", "5", "--journal", "journal"]).check(0, [3, 0, 0]);
    assert_eq!(recorded(directory.path()), 5);
    let last: Vec<String> =
        receiver.arrivals()[2..].iter().map(|arrival| super::payload_of(&arrival.body)).collect();
    assert_eq!(last, ["2", "3", "4"]);
}

#[test]
fn a_journal_that_cannot_be_used_is_an_error_before_the_first_send() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 5);
    let receiver = Receiver::start(|_, _| Reply::created());
    let endpoint = receiver.url("/event");
    let refusal = |further: &[&str]| {
        let mut command = eventctl(directory.path());
        command.args(arguments(&endpoint, &[&["--count", "1", "--journal", "journal"], further].concat()));
        refusal_of(&mut command, 1)
    };
    fs::write(directory.path().join("journal"), "{\"event_type\": \"a\"}\n").unwrap();
    let (error, hint) = refusal(&[]);
    assert!(
        error.contains("its first line is not that of a journal") && hint.contains("a journal of eventctl")
    );
    fs::remove_file(directory.path().join("journal")).unwrap();
    run(directory.path(), &endpoint, &["--count", "1", "--seed", "7", "--journal", "journal"])
        .check(0, [1, 0, 0]);
    assert!(refusal(&["--order", "random"]).0.ends_with("it was begun with --order sequential"));
    assert!(refusal(&["--seed", "8"]).0.ends_with("it was begun with --seed 7"));
    assert!(refusal(&["--format", "cloudevents"]).0.ends_with("it was begun with --format object"));
    let mode = fs::metadata(directory.path().join("journal")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
    let held = start(directory.path(), &endpoint, &["--period", "1h", "--journal", "journal"]);
    wait_until(|| (receiver.arrivals().len() == 2).then_some(()));
    assert!(refusal(&[]).0.ends_with("another run uses it"));
    drop(held);
    let text = fs::read_to_string(directory.path().join("journal")).unwrap();
    fs::write(directory.path().join("journal"), text.replace("{\"n\":1,\"e", "{\"n\":1,e")).unwrap();
    assert!(refusal(&[]).0.contains("line 2 is damaged"));
    assert_eq!(receiver.arrivals().len(), 2);
}

/// A disk that is full: nothing is sent that is not recorded.
#[test]
#[ignore = "needs unshare and tmpfs"]
fn nothing_is_sent_that_finds_no_room_in_the_journal() {
    let directory = tempdir().unwrap();
    let events: Vec<String> =
        (0..40).map(|number| event("message", &format!("{number}{}", "x".repeat(300)))).collect();
    write_file(directory.path(), "events.json", format!("[{}]", events.join(",")));
    fs::create_dir(directory.path().join("small")).unwrap();
    let receiver = Receiver::start(|_, _| Reply::created());
    let plain = eventctl(directory.path());
    let script = "mount -t tmpfs -o size=8k none small || exit 99
\"$@\" --journal small/journal >/dev/null; status=$?
cp small/journal kept; exit $status";
    let mut command = std::process::Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]).arg(plain.get_program());
    let endpoint = receiver.url("/event");
    command.args(arguments(&endpoint, &["--count", "40", "--period", "125ms"]));
    let mut process = Process::start(command.current_dir(directory.path()));
    assert_eq!(process.wait().code(), Some(1), "{}", process.stderr());
    assert!(
        process.stderr().contains("cannot write the journal `small/journal`: No space left"),
        "{}",
        process.stderr()
    );
    let kept = fs::read_to_string(directory.path().join("kept")).unwrap();
    let arrivals = receiver.arrivals();
    assert!(!arrivals.is_empty() && arrivals.len() < 40);
    for arrival in arrivals {
        assert!(kept.contains(&arrival.body), "{}", arrival.body);
    }
}

/// The output of a run goes on while its journal is written: a sender of many events a second loses no tick by it.
#[test]
fn many_events_a_second_are_recorded_ahead_of_their_ticks() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 100);
    let receiver = Consume::start(directory.path());
    let mut command = eventctl(directory.path());
    let endpoint = receiver.url("/event");
    command.args([
        "propagate",
        "--endpoint",
        &endpoint,
        "--period",
        "1ms",
        "--count",
        "1500",
        "-q",
        "--journal",
        "journal",
    ]);
    let mut process = Process::start(command.args(["-o", "json"]).stdout(Stdio::piped()));
    let output = BufReader::new(process.child().stdout.take().unwrap());
    let summary = output.lines().map_while(Result::ok).last().unwrap();
    assert_eq!(process.wait().code(), Some(0), "{}", process.stderr());
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["summary"]["delivered"], 1500, "{summary}");
    assert_eq!(payloads(directory.path()).len(), 1500);
    let outcomes = records(directory.path()).iter().filter(|record| record["outcome"] == "delivered").count();
    assert_eq!((recorded(directory.path()), outcomes), (1500, 1500));
}

/// A run whose journal is on a disk that is recorded and fails on demand: the journal has the name of a database, which
/// the disk looks for.
fn run_on(disk: &Disk, directory: &Path, endpoint: &str) -> Process {
    let mut command = disk.eventctl(directory);
    let further = ["--count", "30", "--journal", "journal.db", "--retries", "0", "--max-in-flight", "1"];
    Process::start(command.args(arguments(endpoint, &further)).stdout(Stdio::null()))
}

#[test]
fn an_event_is_on_disk_before_it_leaves() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 30);
    let disk = Arc::new(Disk::new(directory.path()));
    let early = Arc::new(Mutex::new(Vec::new()));
    let (seen, log) = (Arc::clone(&early), Arc::clone(&disk));
    let receiver = Receiver::start(move |arrival, _| {
        let number = arrival.key().rsplit('-').next().unwrap().to_owned();
        let line = format!("{{\"n\":{number},\"event\"");
        let log = log.log();
        let is_line = |record: &Record| match &record.operation {
            Operation::Write { data, .. } => String::from_utf8_lossy(data).contains(&line),
            _ => false,
        };
        let written = log.iter().position(is_line);
        let is_synced = written
            .is_some_and(|written| log[written..].iter().any(|record| record.is_sync_done(Place::Database)));
        if !is_synced {
            seen.lock().unwrap().push(number);
        }
        Reply::created()
    });
    let mut process = run_on(&disk, directory.path(), &receiver.url("/event"));
    assert_eq!(process.wait().code(), Some(0), "{}", process.stderr());
    assert_eq!((receiver.arrivals().len(), early.lock().unwrap().len()), (30, 0), "{early:?}");
}

#[test]
fn nothing_is_sent_that_the_disk_does_not_take() {
    for (fault, problem) in
        [(Fault::NoSpace, "No space left on device"), (Fault::BadSync, "Input/output error")]
    {
        let directory = tempdir().unwrap();
        write_events(directory.path(), 30);
        let disk = Disk::new(directory.path());
        let receiver = Receiver::start(|_, _| Reply::created());
        disk.switch_on(fault);
        let mut process = run_on(&disk, directory.path(), &receiver.url("/event"));
        assert_eq!(process.wait().code(), Some(1));
        assert!(
            process.stderr().contains("journal") && process.stderr().contains(problem),
            "{}",
            process.stderr()
        );
        assert!(receiver.arrivals().is_empty());
        // A journal that could not be begun is begun by the next run.
        disk.switch_off(fault);
        let mut process = run_on(&disk, directory.path(), &receiver.url("/event"));
        assert_eq!(process.wait().code(), Some(0), "{}", process.stderr());
        assert_eq!(receiver.arrivals().len(), 30);
    }
}

#[test]
fn lines_that_the_journal_does_not_take_become_dead_letters() {
    let directory = tempdir().unwrap();
    let disk = Disk::new(directory.path());
    let receiver = Receiver::start(|_, _| Reply::created());
    let mut command = disk.eventctl(directory.path());
    let endpoint = receiver.url("/event");
    let further = ["--file", "-", "--journal", "journal.db", "--dead-letter", "dead"];
    let mut process = Process::start(
        command.args(arguments(&endpoint, &further)).stdin(Stdio::piped()).stdout(Stdio::null()),
    );
    let mut input = process.child().stdin.take().unwrap();
    input.write_all((event("message", "0") + "\n").as_bytes()).unwrap();
    wait_until(|| (receiver.arrivals().len() == 1).then_some(()));
    disk.switch_on(Fault::NoSpace);
    let lines: String = (1..40).map(|number| event("message", &number.to_string()) + "\n").collect();
    input.write_all(lines.as_bytes()).unwrap();
    drop(input);
    assert_eq!(process.wait().code(), Some(1), "{}", process.stderr());
    let dead = fs::read_to_string(directory.path().join("dead")).unwrap();
    let mut kept: Vec<String> = super::events_of(&dead);
    kept.sort();
    let mut expected: Vec<String> = lines.lines().map(str::to_owned).collect();
    expected.sort();
    assert_eq!(kept, expected);
}
