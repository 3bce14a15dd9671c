//! Processes that are killed or asked to stop while alerts go out, and disks that fail them.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::{TempDir, tempdir};

use super::{deliveries, wait_for_deliveries};
use crate::util::disk::{Disk, Fault};
use crate::util::http::{Connection, event};
use crate::util::receiver::{Arrival, Receiver, Reply};
use crate::util::{Consume, eventctl, random, wait_until};

/// How many clients store alerts at once.
const CLIENTS: usize = 8;

/// How many alerts there are for each time that the program is killed: of so many at most one arrives twice.
const ALERTS_PER_KILL: usize = 100;

/// How many alerts wait at most, so that the program is killed while it stores alerts, too.
const WAITING: usize = 50;

fn kill_rounds() -> usize {
    std::env::var("TEST_KILL_ROUNDS").map_or(10, |rounds| rounds.parse().unwrap())
}

/// `consume` with these channels and no rate that tests could reach.
fn arguments(channels: &[&Receiver]) -> Vec<String> {
    let fixed = ["consume", "--port", "0", "--alert-allow-private", "--alert-rate", "1000000"];
    let urls = channels.iter().flat_map(|channel| ["--alert".to_owned(), channel.url("/alerts")]);
    fixed.into_iter().map(str::to_owned).chain(urls).collect()
}

fn start(directory: &Path, channels: &[&Receiver]) -> Consume {
    Consume::start_command(eventctl(directory).args(arguments(channels)))
}

/// A receiver that answers while its gate is open.
fn gated() -> (Receiver, Arc<RwLock<()>>) {
    let gate = Arc::new(RwLock::new(()));
    let passage = Arc::clone(&gate);
    let receiver = Receiver::start(move |_, _| {
        drop(passage.read());
        Reply::status(200, "")
    });
    (receiver, gate)
}

/// An event that was answered 201.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Alert {
    id: i64,
    payload: String,
}

/// Stores an alert by `POST /event`, at whichever process is at the address by then, until it is acknowledged.
fn store(address: &Mutex<SocketAddr>, payload: &str) -> Alert {
    let body = event("health_alert", payload);
    wait_until(|| {
        let mut connection = Connection::try_open(*address.lock().unwrap()).ok()?;
        let response = connection.try_post_with_key(payload, &body).ok()?;
        if [503, 504, 507].contains(&response.status) {
            return None;
        }
        assert_eq!(response.status, 201, "{response:?}");
        let location = response.header("location").unwrap();
        let id = location.rsplit('/').next().unwrap().parse().unwrap();
        Some(Alert { id, payload: payload.to_owned() })
    })
}

/// A message that has arrived: its id, and the alert in it.
fn message_of(arrival: &Arrival) -> (String, Alert) {
    let body: serde_json::Value = serde_json::from_str(&arrival.body).unwrap();
    let ids = arrival.headers("webhook-id");
    let [id] = ids[..] else { panic!("{arrival:?}") };
    let payload = body["event_payload"].as_str().unwrap().to_owned();
    (id.to_owned(), Alert { id: body["id"].as_i64().unwrap(), payload })
}

/// All that is wrong with what has arrived, given what was acknowledged.
fn faults(acknowledged: &[Alert], messages: &[(String, Alert)], twice_at_most: usize) -> Vec<String> {
    let mut faults = Vec::new();
    let mut ids: HashMap<&Alert, &str> = HashMap::new();
    let mut doubled = HashSet::new();
    for (id, alert) in messages {
        let Some(first) = ids.insert(alert, id) else { continue };
        if first != id {
            faults.push(format!("{} came as {first} and as {id}", alert.payload));
        }
        if !doubled.insert(alert) {
            faults.push(format!("{} came three times", alert.payload));
        }
    }
    if doubled.len() > twice_at_most {
        faults.push(format!("{} came twice", doubled.len()));
    }
    if ids.values().collect::<HashSet<_>>().len() < ids.len() {
        faults.push("two alerts have the same id".to_owned());
    }
    for alert in acknowledged {
        if ids.remove(alert).is_none() {
            faults.push(format!("{} was lost", alert.payload));
        }
    }
    faults.extend(ids.keys().map(|alert| format!("{} was never acknowledged", alert.payload)));
    faults
}

#[test]
fn the_look_for_faults_finds_them() {
    let alert = |number: i64| Alert { id: number, payload: number.to_string() };
    let message = |number: i64| (format!("event-{number}"), alert(number));
    let stored = [alert(1), alert(2)];
    let good = [message(1), message(2)];
    assert_eq!(faults(&stored, &good, 0), [""; 0]);
    assert_eq!(faults(&stored, &[&good[..], &[message(1)]].concat(), 1), [""; 0]);
    assert_eq!(faults(&stored, &[&good[..], &[message(1)]].concat(), 0), ["1 came twice"]);
    let three = [&good[..], &[message(1), message(1)]].concat();
    assert_eq!(faults(&stored, &three, 1), ["1 came three times"]);
    assert_eq!(faults(&stored, &good[..1], 0), ["2 was lost"]);
    assert_eq!(faults(&stored[..1], &good, 0), ["2 was never acknowledged"]);
    let other_id = [&good[..], &[("event-3".to_owned(), alert(1))]].concat();
    assert_eq!(faults(&stored, &other_id, 1), ["1 came as event-1 and as event-3"]);
    let one_id = [message(1), ("event-1".to_owned(), alert(2))];
    assert_eq!(faults(&stored, &one_id, 0), ["two alerts have the same id"]);
}

/// Where the database and its deliveries do not fit together, for so many channels.
fn misfits(directory: &Path, channels: i64) -> Vec<String> {
    let connection = rusqlite::Connection::open(directory.join("events.db")).unwrap();
    let count = |select: &str| -> i64 { connection.query_row(select, [channels], |row| row.get(0)).unwrap() };
    let without = count(
        "SELECT count(*) FROM events WHERE event_type = 'health_alert' AND ?1 <> \
            (SELECT count(*) FROM deliveries WHERE event_id = events.id)",
    );
    let gone =
        count("SELECT count(*) FROM deliveries WHERE event_id NOT IN (SELECT id FROM events) AND ?1 <> 0");
    let mut misfits = Vec::new();
    if without > 0 {
        misfits.push(format!("{without} events have no delivery for some channel"));
    }
    if gone > 0 {
        misfits.push(format!("{gone} deliveries have no event"));
    }
    misfits
}

/// Waits until all deliveries are sent.
fn wait_until_sent(directory: &Path, count: usize) {
    let connection = rusqlite::Connection::open(directory.join("events.db")).unwrap();
    let mut select = connection.prepare("SELECT count(*) FROM deliveries WHERE state = 'sent'").unwrap();
    wait_until(|| {
        thread::sleep(Duration::from_millis(20));
        let sent: i64 = select.query_row([], |row| row.get(0)).unwrap();
        (usize::try_from(sent) == Ok(count)).then_some(())
    });
}

// Crashes.

#[test]
#[ignore = "takes a minute"]
fn acknowledged_alerts_are_sent_though_the_program_is_killed() {
    let mut random = random();
    let kills = kill_rounds();
    let total = kills * ALERTS_PER_KILL;
    let directory = tempdir().unwrap();
    let arrived = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&arrived);
    let receiver = Receiver::start(move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        Reply::status(200, "")
    });
    let arrived = || arrived.load(Ordering::Relaxed);
    let mut consume = start(directory.path(), &[&receiver]);
    let address = Mutex::new(consume.address);
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    let acknowledged: Vec<Alert> = thread::scope(|scope| {
        let write = || {
            let mut acknowledged = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= total {
                    return acknowledged;
                }
                // A message that was in flight at a kill comes half a minute late.
                wait_until(|| (arrived() + WAITING + kills > number).then_some(()));
                acknowledged.push(store(&address, &format!("alert {number}")));
            }
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(write)).collect();
        for kill in 0..kills {
            let at = kill * ALERTS_PER_KILL + random.usize(..ALERTS_PER_KILL / 2);
            wait_until(|| (arrived() >= at).then_some(()));
            thread::sleep(Duration::from_micros(random.u64(..20_000)));
            consume.process.kill();
            consume = start(directory.path(), &[&receiver]);
            *address.lock().unwrap() = consume.address;
        }
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    println!("{total} alerts and {kills} kills in {:?}", started.elapsed());
    wait_until_sent(directory.path(), total);
    println!("all were sent after {:?}", started.elapsed());
    let messages: Vec<_> = receiver.arrivals().iter().map(message_of).collect();
    println!("{} came twice", messages.len() - total);
    assert_eq!(faults(&acknowledged, &messages, total / 100), [""; 0]);
    assert_eq!(misfits(directory.path(), 1), [""; 0]);
    let shown = deliveries(directory.path());
    assert!(shown.iter().all(|delivery| delivery.state == "sent" && delivery.due_at.is_none()));
    assert!(shown.iter().any(|delivery| delivery.attempts > 1), "no kill has hit a message");
}

#[test]
fn after_a_kill_every_alert_that_is_stored_has_all_its_deliveries() {
    let mut random = random();
    let directory = tempdir().unwrap();
    let receivers = [gated(), gated(), gated()];
    let _closed: Vec<_> = receivers.iter().map(|(_, gate)| gate.write().unwrap()).collect();
    let channels: Vec<&Receiver> = receivers.iter().map(|(receiver, _)| receiver).collect();
    for round in 0..5 {
        let mut consume = start(directory.path(), &channels);
        let address = consume.address;
        let acknowledged = AtomicUsize::new(0);
        let write = |client: usize| {
            let Ok(mut connection) = Connection::try_open(address) else { return };
            for number in 0.. {
                let events: Vec<String> = (0..5)
                    .map(|place| event("health_alert", &format!("{round} {client} {number} {place}")))
                    .collect();
                let body = format!("[{}]", events.join(","));
                let headers = [("Content-Type", "application/json")];
                let answer = connection.try_request("POST", "/event", &headers, body.as_bytes());
                if !answer.is_ok_and(|response| response.status == 201) {
                    return;
                }
                acknowledged.fetch_add(5, Ordering::Relaxed);
            }
        };
        thread::scope(|scope| {
            let clients: Vec<_> = (0..4).map(|client| scope.spawn(move || write(client))).collect();
            wait_until(|| (acknowledged.load(Ordering::Relaxed) > 100).then_some(()));
            thread::sleep(Duration::from_micros(random.u64(..50_000)));
            consume.process.kill();
            clients.into_iter().for_each(|client| client.join().unwrap());
        });
        assert_eq!(misfits(directory.path(), 3), [""; 0]);
    }
    // The same look at a store with faults finds them.
    let connection = rusqlite::Connection::open(directory.path().join("events.db")).unwrap();
    connection.execute("DELETE FROM events WHERE id = 2", []).unwrap();
    let delete =
        "DELETE FROM deliveries WHERE event_id = 1 AND channel IN (SELECT max(channel) FROM deliveries)";
    connection.execute(delete, []).unwrap();
    let expected = ["1 events have no delivery for some channel", "3 deliveries have no event"];
    assert_eq!(misfits(directory.path(), 3), expected);
}

// Failing disks.

#[test]
fn alerts_outlast_a_disk_that_fails() {
    let directory = tempdir().unwrap();
    let disk = Disk::new(directory.path());
    let receiver = Receiver::start(|_, _| Reply::status(200, ""));
    let mut consume = Consume::start_command(disk.eventctl(directory.path()).args(arguments(&[&receiver])));
    let address = Mutex::new(consume.address);
    let mut acknowledged = Vec::new();
    let mut refused = Vec::new();
    for (round, fault) in [Fault::NoSpace, Fault::BadSync, Fault::NoSpace].into_iter().enumerate() {
        for number in 0..20 {
            acknowledged.push(store(&address, &format!("{round} {number}")));
        }
        // Some of these are still to be sent, or sent and not yet noted.
        disk.switch_on(fault);
        for number in 0..20 {
            let payload = format!("{round} {number} failing");
            let status = consume.connect().post_event("health_alert", &payload).status;
            assert!([503, 507].contains(&status), "{status}");
            if status == 507 {
                refused.push(payload);
            }
        }
        disk.switch_off(fault);
        wait_until(|| (consume.connect().get("/ready").status == 200).then_some(()));
        acknowledged.push(store(&address, &format!("{round} after")));
    }
    assert!(!refused.is_empty());
    let stored = crate::util::stored_events(&directory.path().join("events.db"));
    assert!(stored.iter().all(|(_, _, payload)| !refused.contains(payload)), "{stored:?}");
    wait_until_sent(directory.path(), stored.len());
    consume.process.kill();
    assert_eq!(misfits(directory.path(), 1), [""; 0]);
    // What was answered 503 may be stored, and is sent if it is.
    let unknown = stored.into_iter().map(|(id, _, payload)| Alert { id, payload });
    acknowledged.extend(unknown.filter(|alert| alert.payload.ends_with("failing")).collect::<Vec<_>>());
    let messages: Vec<_> = receiver.arrivals().iter().map(message_of).collect();
    assert_eq!(faults(&acknowledged, &messages, 0), [""; 0]);
}

// Drain.

/// A server with a message in flight that is not answered while the gate is closed.
fn in_flight(gated: &(Receiver, Arc<RwLock<()>>), arguments_beside: &[&str]) -> (TempDir, Consume) {
    let directory = tempdir().unwrap();
    let mut command = eventctl(directory.path());
    let consume = Consume::start_command(command.args(arguments(&[&gated.0])).args(arguments_beside));
    consume.store("health_alert", "in flight");
    consume.store("health_alert", "waiting");
    wait_until(|| (gated.0.arrivals().len() == 1).then_some(()));
    (directory, consume)
}

fn wait_until_refusing(server: &Consume) {
    wait_until(|| {
        let refused = TcpStream::connect(server.address).err()?;
        (refused.kind() == ErrorKind::ConnectionRefused).then_some(())
    });
}

fn states(directory: &Path) -> Vec<(String, i64)> {
    deliveries(directory).into_iter().map(|delivery| (delivery.state, delivery.attempts)).collect()
}

#[test]
fn sigterm_finishes_the_message_in_flight_and_begins_no_other() {
    let channel = gated();
    let closed = channel.1.write().unwrap();
    let (directory, mut consume) = in_flight(&channel, &[]);
    consume.process.signal(Signal::TERM);
    wait_until_refusing(&consume);
    drop(closed);
    assert_eq!(consume.process.wait().code(), Some(0), "{}", consume.process.stderr());
    let finished = [("sent".to_owned(), 1), ("pending".to_owned(), 0)];
    assert_eq!(states(directory.path()), finished);
    // What was waiting has survived.
    let _consume = start(directory.path(), &[&channel.0]);
    wait_until_sent(directory.path(), 2);
    let payloads: Vec<String> =
        channel.0.arrivals().iter().map(|arrival| message_of(arrival).1.payload).collect();
    assert_eq!(payloads, ["in flight", "waiting"]);
}

#[test]
fn what_is_sent_while_the_store_takes_no_writes_is_not_sent_again() {
    let channel = gated();
    let closed = channel.1.write().unwrap();
    let (directory, mut consume) = in_flight(&channel, &[]);
    let other = rusqlite::Connection::open(directory.path().join("events.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    drop(closed);
    consume.process.wait_for_stderr("the store takes no writes");
    other.execute_batch("ROLLBACK").unwrap();
    wait_until_sent(directory.path(), 2);
    assert_eq!(channel.0.arrivals().len(), 2);
    assert_eq!(states(directory.path()), [("sent".to_owned(), 1), ("sent".to_owned(), 1)]);
}

#[test]
fn a_receiver_that_never_answers_does_not_hold_up_the_drain() {
    let channel = gated();
    let closed = channel.1.write().unwrap();
    let (directory, mut consume) = in_flight(&channel, &["--drain-timeout", "2s"]);
    let asked = Instant::now();
    assert_eq!(consume.process.terminate().code(), Some(0), "{}", consume.process.stderr());
    println!("it took {:?}", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_secs(8), "the receiver has more time than the drain");
    let left = [("sending".to_owned(), 1), ("pending".to_owned(), 0)];
    assert_eq!(states(directory.path()), left);
    drop(closed);
    // The lease is over.
    let connection = rusqlite::Connection::open(directory.path().join("events.db")).unwrap();
    connection.execute("UPDATE deliveries SET due_at = 0", []).unwrap();
    let _consume = start(directory.path(), &[&channel.0]);
    wait_until_sent(directory.path(), 2);
    let messages: Vec<_> = channel.0.arrivals().iter().map(message_of).collect();
    assert_eq!(messages.len(), 3, "{messages:?}");
    assert_eq!(messages[0], messages[1]);
}

#[test]
fn a_second_signal_does_not_wait_for_channels() {
    let channel = gated();
    let _closed = channel.1.write().unwrap();
    let (_directory, mut consume) = in_flight(&channel, &["--drain-timeout", "1h"]);
    let asked = Instant::now();
    consume.process.signal(Signal::TERM);
    wait_until_refusing(&consume);
    consume.process.signal(Signal::TERM);
    assert_eq!(consume.process.wait().code(), Some(0), "{}", consume.process.stderr());
    // The receiver would have ten.
    assert!(asked.elapsed() < Duration::from_secs(7), "{:?}", asked.elapsed());
    assert!(consume.process.stderr().contains("stopping at once"), "{}", consume.process.stderr());
}

#[test]
fn a_delivery_that_waits_for_its_retry_survives_a_restart() {
    let directory = tempdir().unwrap();
    let receiver = Receiver::start(|_, number| Reply::status(if number == 0 { 503 } else { 200 }, ""));
    let mut consume = start(directory.path(), &[&receiver]);
    consume.store("health_alert", "once more");
    wait_for_deliveries(directory.path(), |deliveries| deliveries[0].last_error.is_some());
    assert_eq!(consume.process.terminate().code(), Some(0), "{}", consume.process.stderr());
    let _consume = start(directory.path(), &[&receiver]);
    wait_until_sent(directory.path(), 1);
    assert_eq!(states(directory.path()), [("sent".to_owned(), 2)]);
    assert_eq!(receiver.arrivals().len(), 2);
}
