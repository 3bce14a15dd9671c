//! What an acknowledgement is worth: crashes, power cuts, full and failing disks, lost files.
//!
//! A crash of the process proves nothing about syncs, for the system keeps what was written. So the
//! tests about power look at a log of all writes and syncs, and each has a control that must fail.

mod log;
mod small_disk;

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, getrlimit, prlimit};
use tempfile::tempdir;

use crate::util::disk::{Disk, Fault, Operation, Place, Record};
use crate::util::http::{Connection, Response, event};
use crate::util::{Consume, PATIENCE, stored_events, wait_until};

/// An event that was answered 201.
#[derive(Debug, Clone)]
struct Acknowledged {
    id: i64,
    payload: String,
}

impl Acknowledged {
    fn new(response: &Response, payload: &str) -> Acknowledged {
        assert_eq!(response.status, 201, "{response:?}");
        let location = response.header("location").unwrap();
        let id = location.strip_prefix("event/").unwrap().parse().unwrap();
        Acknowledged { id, payload: payload.to_owned() }
    }
}

/// All that is wrong with a store, given what was acknowledged; payloads are unique.
fn faults(database: &Path, acknowledged: &[Acknowledged]) -> Vec<String> {
    let mut faults = Vec::new();
    let connection = rusqlite::Connection::open(database).unwrap();
    let check: rusqlite::Result<String> =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0));
    if check.as_deref() != Ok("ok") {
        return vec![format!("integrity: {check:?}")];
    }
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'events'";
    if connection.query_row(tables, [], |row| row.get(0)) != Ok(1) {
        return vec!["there are no tables".to_owned()];
    }
    drop(connection);
    let mut ids = HashMap::new();
    for (id, _, payload) in stored_events(database) {
        if let Some(first) = ids.insert(payload, id) {
            faults.push(format!("stored twice: {first} and {id}"));
        }
    }
    for event in acknowledged {
        match ids.get(&event.payload) {
            Some(id) if *id == event.id => {}
            Some(id) => faults.push(format!("acknowledged as {}, stored as {id}", event.id)),
            None => faults.push(format!("lost: {}", event.id)),
        }
    }
    faults
}

fn seed() -> u64 {
    let seed = std::env::var("TEST_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("TEST_SEED={seed}");
    seed
}

fn ready(consume: &Consume) -> u16 {
    consume.connect().get("/ready").status
}

/// Waits until the store takes writes; then no event may wait.
fn wait_until_ready(consume: &Consume) {
    wait_until(|| (ready(consume) == 200).then_some(()));
    assert_eq!(queued_events(consume), 0);
}

/// The gauge of events that wait for their commit.
fn queued_events(consume: &Consume) -> u64 {
    let metrics = consume.connect().get("/metrics").text();
    let value = metrics.lines().find_map(|line| line.strip_prefix("eventctl_queue_events "));
    value.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
}

// Crashes.

/// How many clients write while the program is killed.
const CLIENTS: usize = 64;

/// Where the program is, for clients that outlive it.
struct Whereabouts {
    /// The address, and how often the program was started.
    current: Mutex<(SocketAddr, usize)>,
    moved: Condvar,
    done: AtomicBool,
}

impl Whereabouts {
    fn move_to(&self, address: SocketAddr) {
        let mut current = self.current.lock().unwrap();
        *current = (address, current.1 + 1);
        self.moved.notify_all();
    }

    fn current(&self) -> (SocketAddr, usize) {
        *self.current.lock().unwrap()
    }

    fn wait_for_move(&self, start: usize) {
        let current = self.current.lock().unwrap();
        let waited = self.moved.wait_timeout_while(current, PATIENCE, |current| current.1 == start).unwrap();
        assert!(!waited.1.timed_out(), "a connection broke, but not because the program was killed");
    }
}

/// Writes event after event, each with one key until it is acknowledged.
fn write_until_done(client: usize, whereabouts: &Whereabouts) -> Vec<Acknowledged> {
    let mut acknowledged = Vec::new();
    let (mut address, mut start) = whereabouts.current();
    let mut connection = Connection::try_open(address).ok();
    while !whereabouts.done.load(Ordering::Relaxed) {
        let name = format!("{client}-{}", acknowledged.len());
        let response = loop {
            let body = event("message", &name);
            match connection.as_mut().map(|connection| connection.try_post_with_key(&name, &body)) {
                Some(Ok(response)) if [503, 504].contains(&response.status) => {}
                Some(Ok(response)) => break response,
                Some(Err(_)) | None => {
                    whereabouts.wait_for_move(start);
                    (address, start) = whereabouts.current();
                    connection = Connection::try_open(address).ok();
                }
            }
        };
        acknowledged.push(Acknowledged::new(&response, &name));
    }
    acknowledged
}

#[test]
fn acknowledged_events_survive_kill() {
    let rounds = std::env::var("TEST_KILL_ROUNDS").map_or(50, |rounds| rounds.parse().unwrap());
    let mut random = fastrand::Rng::with_seed(seed());
    let directory = tempdir().unwrap();
    let database = directory.path().join("events.db");
    let mut consume = Consume::start(directory.path());
    let whereabouts = Arc::new(Whereabouts {
        current: Mutex::new((consume.address, 0)),
        moved: Condvar::new(),
        done: AtomicBool::new(false),
    });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let whereabouts = Arc::clone(&whereabouts);
            thread::spawn(move || write_until_done(client, &whereabouts))
        })
        .collect();
    for _ in 0..rounds {
        thread::sleep(Duration::from_millis(random.u64(1..400)));
        consume.process.kill();
        consume = Consume::start(directory.path());
        whereabouts.move_to(consume.address);
    }
    whereabouts.done.store(true, Ordering::Relaxed);
    let by_client: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    assert!(by_client.iter().all(|events| events.is_sorted_by(|one, next| one.id < next.id)));
    consume.process.kill();
    let acknowledged = by_client.concat();
    println!("{} events in {rounds} rounds", acknowledged.len());
    assert!(acknowledged.len() > rounds, "the clients hardly got to write");
    assert_eq!(faults(&database, &acknowledged), [""; 0]);

    // The same look at a store with faults finds them.
    let connection = rusqlite::Connection::open(&database).unwrap();
    let [lost, doubled] = [&acknowledged[0], acknowledged.last().unwrap()];
    connection.execute("DELETE FROM events WHERE id = ?", [lost.id]).unwrap();
    let copy = "INSERT INTO events (received_at, event_type, event_payload) SELECT 0, '', event_payload FROM events WHERE id = ?";
    connection.execute(copy, [doubled.id]).unwrap();
    let found = faults(&database, &acknowledged);
    assert!(found.contains(&format!("lost: {}", lost.id)), "{found:?}");
    assert!(found.iter().any(|fault| fault.starts_with("stored twice")), "{found:?}");
}

// Power cuts.

/// Clients that write to a program on a recording disk.
const RECORDED_CLIENTS: usize = 6;

/// Writes events with payloads of random sizes up to a limit, each until it is acknowledged or, where
/// the disk is bad, for a while.
fn write_some(
    consume: &Consume,
    client: usize,
    events: usize,
    largest: usize,
    seed: u64,
) -> Vec<Acknowledged> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut connection = consume.connect();
    let mut acknowledged = Vec::new();
    for number in 0..events {
        let marker = format!("<{client}-{number}>");
        // Most are small, so that there are many commits.
        let size = if random.u8(..8) == 0 { random.usize(..largest) } else { random.usize(..largest / 20) };
        let payload = format!("{marker}{}{marker}", "x".repeat(size));
        let body = event("message", &payload);
        let response = loop {
            let response = connection.try_post_with_key(&marker, &body).unwrap();
            if response.status != 503 {
                break response;
            }
            thread::sleep(Duration::from_millis(10));
        };
        acknowledged.push(Acknowledged::new(&response, &payload));
    }
    acknowledged
}

/// The log of a run of many clients, and what they were told is stored.
fn recorded_run(
    seed: u64,
    faults: &[Fault],
    events: usize,
    largest: usize,
    meanwhile: impl FnOnce(&Disk),
) -> (Vec<Record>, Vec<Acknowledged>) {
    let directory = tempdir().unwrap();
    let disk = Disk::new(directory.path());
    for fault in faults {
        disk.switch_on(*fault);
    }
    let mut consume =
        Consume::start_command(disk.eventctl(directory.path()).args(["consume", "--port", "0"]));
    let acknowledged = thread::scope(|scope| {
        let consume = &consume;
        let clients: Vec<_> = (0..RECORDED_CLIENTS)
            .map(|client| {
                let seed = seed.wrapping_add(u64::try_from(client).unwrap());
                scope.spawn(move || write_some(consume, client, events / RECORDED_CLIENTS, largest, seed))
            })
            .collect();
        meanwhile(&disk);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    consume.process.kill();
    (disk.log(), acknowledged)
}

/// Where in the log each event is acknowledged.
fn acknowledgements(log: &[Record]) -> HashMap<i64, usize> {
    let mut positions = HashMap::new();
    for (position, record) in log.iter().enumerate() {
        if let Some(id) = record.acknowledged() {
            positions.entry(id).or_insert(position);
        }
    }
    positions
}

/// The events that were acknowledged before the log of SQLite that holds them was synced.
///
/// The file format: <https://sqlite.org/fileformat2.html#the_write_ahead_log>.
fn acknowledged_too_early(log: &[Record], acknowledged: &[Acknowledged]) -> Vec<String> {
    const HEADER: usize = 24;
    let mut writes = Vec::new();
    let mut syncs = Vec::new();
    let mut begun = None;
    for (position, record) in log.iter().enumerate().filter(|(_, record)| record.place == Place::Wal) {
        match &record.operation {
            Operation::Write { data, .. } => writes.push((position, data)),
            Operation::SyncBegun => begun = Some(position),
            Operation::SyncDone => syncs.extend(begun.take().map(|begun| (begun, position))),
            _ => begun = None,
        }
    }
    // Where each event was written first; a later commit may write its page again.
    let mut holding = HashMap::new();
    for (number, (_, data)) in writes.iter().enumerate() {
        for marker in markers_in(data) {
            holding.entry(marker).or_insert(number);
        }
    }
    let positions = acknowledgements(log);
    let mut faults = Vec::new();
    for event in acknowledged {
        let end = event.payload.find('>').unwrap() + 1;
        let first =
            *holding.get(&event.payload.as_bytes()[..end]).expect("an event must be written to be stored");
        // A frame is a header and a page. The header of the last one of a commit holds a size.
        let commit = (first - 1..writes.len())
            .find(|number| writes[*number].1.len() == HEADER && writes[*number].1[4..8] != [0; 4])
            .expect("a commit ends");
        let written = writes[commit + 1].0;
        let Some(answered) = positions.get(&event.id) else {
            faults.push(format!("{} has no response", event.id));
            continue;
        };
        if !syncs.iter().any(|(begun, done)| *begun > written && done < answered) {
            faults.push(format!("{} was acknowledged before it was synced", event.id));
        }
    }
    faults
}

/// The texts `<…>` in some bytes.
fn markers_in(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.split_inclusive(|byte| *byte == b'>').filter_map(|piece| {
        let start = piece.iter().rposition(|byte| *byte == b'<')?;
        Some(&piece[start..])
    })
}

/// Payloads that fit into one page of SQLite whole.
const SMALL: usize = 2000;

#[test]
fn an_event_is_synced_before_it_is_acknowledged() {
    let seed = seed();
    let (log, acknowledged) = recorded_run(seed, &[], 600, SMALL, |_| {});
    assert_eq!(acknowledged_too_early(&log, &acknowledged), [""; 0]);

    // The same look at a log from which one sync is missing finds the events that relied on it.
    let last = log.iter().rposition(|record| record.acknowledged().is_some()).unwrap();
    let relied_on = log[..last].iter().rposition(|record| record.is_sync_done(Place::Wal)).unwrap();
    let mut log = log;
    log.remove(relied_on);
    assert_ne!(acknowledged_too_early(&log, &acknowledged), [""; 0]);
}

#[test]
fn without_syncs_the_order_of_syncs_and_acknowledgements_is_wrong() {
    let seed = seed();
    let (log, acknowledged) = recorded_run(seed, &[Fault::NoSync], 60, SMALL, |_| {});
    assert_eq!(acknowledged_too_early(&log, &acknowledged).len(), acknowledged.len());
}

/// What a disk does not tear.
const SECTOR: usize = 512;

/// A file on a disk whose power may be cut at any time.
#[derive(Default)]
struct FileOnDisk<'a> {
    /// What is there whatever happens.
    durable: Vec<u8>,
    /// What came later, and may be there in part.
    pending: Vec<&'a Operation>,
    /// How many of the pending a sync that has begun covers.
    covered: usize,
    /// Whether the name of the file is there whatever happens.
    named: bool,
    /// Whether a sync of the directory that has begun covers the name.
    name_covered: bool,
}

impl<'a> FileOnDisk<'a> {
    fn record(&mut self, operation: &'a Operation, random: &mut fastrand::Rng) {
        match operation {
            Operation::Write { .. } | Operation::Truncate { .. } => self.pending.push(operation),
            Operation::SyncBegun => self.covered = self.pending.len(),
            Operation::SyncDone => {
                for operation in self.pending.drain(..self.covered) {
                    apply(&mut self.durable, operation, || true);
                }
                self.covered = 0;
            }
            Operation::SyncFailed => {
                // The system forgets that these never reached the disk: no later sync writes them.
                let pending = std::mem::take(&mut self.pending);
                survive(&mut self.durable, &pending, random);
                self.covered = 0;
            }
            Operation::Response { .. } => {}
        }
    }

    fn directory(&mut self, operation: &Operation) {
        match operation {
            Operation::SyncBegun => self.name_covered = !self.pending.is_empty() || !self.durable.is_empty(),
            Operation::SyncDone => self.named |= self.name_covered,
            _ => {}
        }
    }

    /// The file as a power cut could leave it, if there is one.
    fn after_power_cut(&self, random: &mut fastrand::Rng) -> Option<Vec<u8>> {
        if !self.named && random.bool() {
            return None;
        }
        let mut content = self.durable.clone();
        survive(&mut content, &self.pending, random);
        Some(content)
    }
}

/// Applies some of the operations, or parts of them.
fn survive(content: &mut Vec<u8>, operations: &[&Operation], random: &mut fastrand::Rng) {
    let share = random.f64();
    let torn = random.bool();
    for operation in operations {
        let whole = random.f64() < share;
        apply(content, operation, || if torn { random.f64() < share } else { whole });
    }
}

/// Applies an operation, or those sectors of it that survive.
fn apply(content: &mut Vec<u8>, operation: &Operation, mut survives: impl FnMut() -> bool) {
    match operation {
        Operation::Write { offset, data } => {
            let mut position = *offset;
            let end = offset + data.len();
            while position < end {
                let next = (position / SECTOR * SECTOR + SECTOR).min(end);
                if survives() {
                    if content.len() < next {
                        content.resize(next, 0);
                    }
                    content[position..next].copy_from_slice(&data[position - offset..next - offset]);
                }
                position = next;
            }
        }
        Operation::Truncate { length } if survives() => content.resize(*length, 0),
        _ => {}
    }
}

/// Cuts the power at random points of a log; what is wrong with the stores that are left.
fn faults_after_power_cuts(
    seed: u64,
    log: &[Record],
    acknowledged: &[Acknowledged],
    cuts: usize,
) -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let positions = acknowledgements(log);
    let first = *positions.values().min().unwrap();
    let mut points: Vec<usize> = (0..cuts / 2).map(|_| random.usize(first..log.len()) + 1).collect();
    // Half of them where it is most dangerous: during checkpoints, and right behind an acknowledgement.
    let dangerous: Vec<usize> = (first..log.len())
        .filter(|position| log[*position].place == Place::Database || log[*position].acknowledged().is_some())
        .collect();
    points.extend((0..cuts / 2).map(|_| dangerous[random.usize(..dangerous.len())] + 1));
    points.sort_unstable();
    points.dedup();

    let (mut database, mut wal) = (FileOnDisk::default(), FileOnDisk::default());
    let mut faults_found = Vec::new();
    let mut position = 0;
    for point in points {
        for record in &log[position..point] {
            match record.place {
                Place::Database => database.record(&record.operation, &mut random),
                Place::Wal => wal.record(&record.operation, &mut random),
                Place::Directory => {
                    database.directory(&record.operation);
                    wal.directory(&record.operation);
                }
                Place::Socket => {}
            }
        }
        position = point;
        let directory = tempdir().unwrap();
        let path = directory.path().join("events.db");
        for (path, file) in [(&path, &database), (&directory.path().join("events.db-wal"), &wal)] {
            if let Some(content) = file.after_power_cut(&mut random) {
                fs::write(path, content).unwrap();
            }
        }
        let by_then =
            |event: &&Acknowledged| positions.get(&event.id).is_some_and(|answered| *answered < point);
        let by_then: Vec<Acknowledged> = acknowledged.iter().filter(by_then).cloned().collect();
        faults_found.extend(faults(&path, &by_then).into_iter().map(|fault| format!("at {point}: {fault}")));
    }
    faults_found
}

fn checkpoints(log: &[Record]) -> usize {
    log.iter().filter(|record| record.is_sync_done(Place::Database)).count()
}

/// Payloads that fill the log of SQLite fast enough for some checkpoints.
const LARGE: usize = 60_000;

#[test]
fn acknowledged_events_survive_power_cuts() {
    let seed = seed();
    let (log, acknowledged) = recorded_run(seed, &[], 1500, LARGE, |_| {});
    assert!(checkpoints(&log) >= 3, "{}", checkpoints(&log));
    assert_eq!(faults_after_power_cuts(seed, &log, &acknowledged, 40), [""; 0]);
}

#[test]
fn without_syncs_power_cuts_lose_events() {
    let seed = seed();
    let (log, acknowledged) = recorded_run(seed, &[Fault::NoSync], 120, SMALL, |_| {});
    assert_ne!(faults_after_power_cuts(seed, &log, &acknowledged, 10), [""; 0]);
}

#[test]
fn acknowledged_events_survive_power_cuts_after_failed_syncs() {
    let seed = seed();
    let (log, acknowledged) = recorded_run(seed, &[], 900, LARGE, |disk| {
        let mut bytes_read = 0;
        for fault in [Fault::BadSync, Fault::BadDatabaseSync, Fault::BadSync] {
            disk.switch_on(fault);
            for _ in 0..2 {
                wait_until(|| disk.log_after(&mut bytes_read).iter().any(is_failed_sync).then_some(()));
            }
            disk.switch_off(fault);
        }
    });
    assert_eq!(faults_after_power_cuts(seed, &log, &acknowledged, 40), [""; 0]);
}

fn is_failed_sync(record: &Record) -> bool {
    matches!(record.operation, Operation::SyncFailed)
}

// Full and failing disks.

/// Posts an event, and keeps what it is to find in the store later.
struct Posts {
    sent: usize,
    size: usize,
    statuses: HashMap<String, u16>,
    acknowledged: Vec<Acknowledged>,
}

impl Posts {
    /// Posts of so many bytes each.
    fn of_size(size: usize) -> Posts {
        Posts { sent: 0, size, statuses: HashMap::new(), acknowledged: Vec::new() }
    }

    fn post(&mut self, consume: &Consume) -> u16 {
        let payload = format!("<{}>{}", self.sent, "x".repeat(self.size));
        self.sent += 1;
        let response = consume.connect().post_event("message", &payload);
        self.statuses.insert(payload.clone(), response.status);
        if response.status == 201 {
            self.acknowledged.push(Acknowledged::new(&response, &payload));
        } else {
            assert!([503, 507].contains(&response.status), "{response:?}");
            assert!(response.header("retry-after").is_some(), "{response:?}");
            assert_eq!(response.header("content-type"), Some("application/problem+json"));
        }
        response.status
    }

    /// Asserts that what was answered 201 is stored, and what was answered 507 is not.
    fn check(&self, database: &Path) {
        assert_eq!(faults(database, &self.acknowledged), [""; 0]);
        for (_, _, payload) in stored_events(database) {
            assert_ne!(self.statuses[&payload], 507, "stored, but the answer was that it is not");
        }
    }
}

#[test]
fn a_full_disk_is_not_acknowledged_and_service_resumes() {
    let directory = tempdir().unwrap();
    let disk = Disk::new(directory.path());
    let mut consume =
        Consume::start_command(disk.eventctl(directory.path()).args(["consume", "--port", "0"]));
    let mut posts = Posts::of_size(10_000);
    for _ in 0..3 {
        for _ in 0..5 {
            assert_eq!(posts.post(&consume), 201);
        }
        disk.switch_on(Fault::NoSpace);
        assert_eq!(posts.post(&consume), 507);
        for _ in 0..20 {
            assert_ne!(posts.post(&consume), 201);
        }
        assert_eq!(ready(&consume), 503);
        assert_eq!(consume.connect().get("/health").status, 200);
        disk.switch_off(Fault::NoSpace);
        wait_until_ready(&consume);
    }
    assert_eq!(posts.post(&consume), 201);
    assert!(consume.process.terminate().success());
    let stderr = consume.process.stderr();
    assert!(stderr.contains("the store takes no writes: database or disk is full"), "{stderr}");
    assert!(stderr.contains("the store takes writes again"), "{stderr}");
    posts.check(&directory.path().join("events.db"));
}

#[test]
fn readiness_alone_notices_a_full_disk() {
    let directory = tempdir().unwrap();
    let disk = Disk::new(directory.path());
    let consume = Consume::start_command(disk.eventctl(directory.path()).args(["consume", "--port", "0"]));
    assert_eq!(ready(&consume), 200);
    disk.switch_on(Fault::NoSpace);
    wait_until(|| (ready(&consume) == 503).then_some(()));
    disk.switch_off(Fault::NoSpace);
    wait_until_ready(&consume);
}

#[test]
fn a_limit_on_the_size_of_files_is_not_acknowledged_and_service_resumes() {
    let directory = tempdir().unwrap();
    let mut command = Command::new("sh");
    command.current_dir(directory.path()).env_clear();
    command.args(["-c", "ulimit -S -f 400; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_eventctl")]);
    let mut consume = Consume::start_command(command.args(["consume", "--port", "0"]));
    let mut posts = Posts::of_size(20_000);
    // The log of SQLite reaches the limit first; emptied into the database, it goes on for a while.
    wait_until(|| {
        let stuck = (0..20).all(|_| posts.post(&consume) != 201);
        (stuck && database_size(directory.path()) > 100_000).then_some(())
    });
    assert!(!posts.acknowledged.is_empty());
    wait_until(|| (ready(&consume) == 503).then_some(()));
    prlimit(Some(consume.process.pid()), Resource::Fsize, getrlimit(Resource::Fsize)).unwrap();
    wait_until_ready(&consume);
    assert_eq!(posts.post(&consume), 201);
    consume.process.kill();
    posts.check(&directory.path().join("events.db"));
}

fn database_size(directory: &Path) -> u64 {
    fs::metadata(directory.join("events.db")).unwrap().len()
}

#[test]
fn a_failed_sync_is_not_acknowledged_and_its_log_is_not_appended_to() {
    let directory = tempdir().unwrap();
    let disk = Disk::new(directory.path());
    let mut consume =
        Consume::start_command(disk.eventctl(directory.path()).args(["consume", "--port", "0"]));
    let mut posts = Posts::of_size(10_000);
    for _ in 0..10 {
        assert_eq!(posts.post(&consume), 201);
    }
    disk.switch_on(Fault::BadSync);
    for _ in 0..10 {
        assert_eq!(posts.post(&consume), 503);
    }
    assert_eq!(ready(&consume), 503);
    disk.switch_off(Fault::BadSync);
    wait_until_ready(&consume);
    assert_eq!(posts.post(&consume), 201);
    consume.process.kill();
    posts.check(&directory.path().join("events.db"));

    let log = disk.log();
    let first = log.iter().position(is_failed_sync).unwrap();
    let last = log.iter().rposition(is_failed_sync).unwrap();
    let after = &log[last..];
    let emptied = after.iter().position(|record| {
        record.place == Place::Wal && matches!(record.operation, Operation::Truncate { length: 0 })
    });
    let emptied = last + emptied.expect("the log is emptied before anything else is written to it");
    let appended = log[first..emptied]
        .iter()
        .filter(|record| record.place == Place::Wal && matches!(record.operation, Operation::Write { .. }));
    assert_eq!(appended.count(), 0, "frames were written behind some that may be lost");
    let copied = log[last..emptied].iter().filter(|record| record.place == Place::Database);
    let copied: Vec<_> = copied.map(|record| &record.operation).collect();
    assert!(matches!(copied[0], Operation::Write { .. }), "the log is copied into the database anew");
    assert!(matches!(copied.last(), Some(Operation::SyncDone)), "and the database is synced");
    assert!(log[first..emptied].iter().all(|record| record.acknowledged().is_none()));
}

// Lost and locked files.

#[test]
fn a_deleted_database_is_not_acknowledged_and_is_not_made_anew() {
    let directory = tempdir().unwrap();
    let database = directory.path().join("events.db");
    let mut consume = Consume::start(directory.path());
    consume.store("message", "before");
    fs::remove_file(&database).unwrap();
    for _ in 0..20 {
        assert_eq!(consume.connect().post_event("message", "lost").status, 503);
    }
    assert_eq!(ready(&consume), 503);
    assert!(!database.exists());
    assert!(consume.process.terminate().success());
    let stderr = consume.process.stderr();
    assert!(stderr.contains("the store takes no writes: the database file is gone"), "{stderr}");
}

#[test]
fn a_database_that_was_moved_away_and_back_is_served_again() {
    let directory = tempdir().unwrap();
    let database = directory.path().join("events.db");
    let away = directory.path().join("away.db");
    let mut consume = Consume::start(directory.path());
    let mut posts = Posts::of_size(100);
    for _ in 0..3 {
        assert_eq!(posts.post(&consume), 201);
        fs::rename(&database, &away).unwrap();
        for _ in 0..5 {
            assert_eq!(posts.post(&consume), 503);
        }
        assert_eq!(ready(&consume), 503);
        fs::rename(&away, &database).unwrap();
        wait_until_ready(&consume);
    }
    assert_eq!(posts.post(&consume), 201);
    consume.process.kill();
    posts.check(&database);
}

#[test]
fn events_go_into_the_database_that_has_replaced_another() {
    let directory = tempdir().unwrap();
    let database = directory.path().join("events.db");
    let other = directory.path().join("other.db");
    let mut consume = Consume::start_with(directory.path(), &["--db", "other.db"]);
    let mut restored = Posts::of_size(5000);
    for _ in 0..100 {
        assert_eq!(restored.post(&consume), 201);
    }
    assert!(consume.process.terminate().success());
    let mut consume = Consume::start(directory.path());
    for number in 0..20 {
        consume.store("message", &format!("before {number}"));
    }
    assert_eq!(consume.connect().get("/event").json().as_array().unwrap().len(), 20);
    let away = directory.path().join("away.db");
    fs::rename(&database, &away).unwrap();
    fs::rename(&other, &database).unwrap();
    // Written to the file that is gone: not acknowledged.
    assert_eq!(consume.connect().post_event("message", "replaced").status, 503);
    wait_until_ready(&consume);
    for _ in 0..5 {
        assert_eq!(restored.post(&consume), 201);
    }
    check_newest(&consume, &restored);
    consume.process.kill();
    assert_eq!(faults(&database, &restored.acknowledged), [""; 0]);
    let moved_away = stored_events(&away);
    assert!(moved_away.len() >= 20, "the log was not taken into its database: {moved_away:?}");
}

#[test]
fn a_log_that_was_deleted_takes_no_acknowledged_event_with_it() {
    let directory = tempdir().unwrap();
    let database = directory.path().join("events.db");
    let mut consume = Consume::start(directory.path());
    let mut posts = Posts::of_size(5000);
    for _ in 0..3 {
        for _ in 0..20 {
            assert_eq!(posts.post(&consume), 201);
        }
        check_newest(&consume, &posts);
        fs::remove_file(directory.path().join("events.db-wal")).unwrap();
        assert_eq!(posts.post(&consume), 503);
        wait_until_ready(&consume);
    }
    assert_eq!(posts.post(&consume), 201);
    check_newest(&consume, &posts);
    consume.process.kill();
    posts.check(&database);
}

/// Asserts that the program shows the event that it acknowledged last.
fn check_newest(consume: &Consume, posts: &Posts) {
    let newest = consume.connect().get("/event?limit=1").json();
    let acknowledged = posts.acknowledged.last().unwrap();
    assert_eq!(newest[0]["id"], acknowledged.id);
    assert_eq!(newest[0]["event_payload"], acknowledged.payload);
}

#[test]
fn nothing_is_acknowledged_while_another_process_writes() {
    let directory = tempdir().unwrap();
    let database = directory.path().join("events.db");
    let mut consume = Consume::start(directory.path());
    let mut posts = Posts::of_size(100);
    assert_eq!(posts.post(&consume), 201);
    let other = rusqlite::Connection::open(&database).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut waiting = consume.connect();
    let body = event("message", "waits");
    let head = "POST /event HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length";
    waiting.send(format!("{head}: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
    waiting.stream().set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert!(waiting.stream().peek(&mut [0]).is_err(), "there is an answer, but nothing can be stored");
    other.execute_batch("COMMIT").unwrap();
    waiting.stream().set_read_timeout(Some(PATIENCE)).unwrap();
    posts.acknowledged.push(Acknowledged::new(&waiting.receive().unwrap(), "waits"));
    posts.statuses.insert("waits".to_owned(), 201);

    // For longer than the program waits.
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(posts.post(&consume), 503);
    assert_eq!(ready(&consume), 503);
    other.execute_batch("COMMIT").unwrap();
    wait_until_ready(&consume);
    assert_eq!(posts.post(&consume), 201);
    consume.process.kill();
    posts.check(&database);
}
