//! A file system that events have filled, and limits that make room on it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tempfile::{TempDir, tempdir};

use super::ready;
use crate::util::http::event;
use crate::util::{Consume, PATIENCE, stored_events, wait_until};

const KEPT: usize = 2000;

/// A file system in memory, mounted until it is dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(mebibytes: u32) -> SmallDisk {
        let directory = tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "none"]).arg(directory.path());
        assert!(mount.status().unwrap().success());
        SmallDisk(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn database(&self) -> PathBuf {
        self.path().join("events.db")
    }

    fn consume(&self) -> Consume {
        self.consume_that_keeps(KEPT)
    }

    fn consume_that_keeps(&self, events: usize) -> Consume {
        Consume::start_with(self.path(), &["--keep-events", &events.to_string()])
    }

    /// Posts until the disk is full and stays so, for nothing is deleted yet.
    fn fill_with_events(&self, posted: &mut Posted) {
        let mut consume = self.consume_that_keeps(1_000_000);
        let refused = (0..80).filter(|_| posted.post(&consume, 240) == 507).take(10).count();
        assert_eq!(refused, 10, "everything fits: the test tests nothing");
        consume.process.kill();
    }

    /// Has somebody else's file take all the space that is left.
    fn fill(&self, path: &Path) {
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

/// What was posted, in order, and with which answer.
#[derive(Default)]
struct Posted {
    count: usize,
    stored: Vec<String>,
    refused: HashSet<String>,
}

impl Posted {
    /// Posts so many events of 4 KB in one request.
    fn post(&mut self, consume: &Consume, events: usize) -> u16 {
        let payloads: Vec<String> = (0..events)
            .map(|_| {
                self.count += 1;
                format!("<{}>{}", self.count, "x".repeat(4090))
            })
            .collect();
        let list: Vec<String> = payloads.iter().map(|payload| event("message", payload)).collect();
        let response = consume.connect().post(format!("[{}]", list.join(",")));
        match response.status {
            201 => self.stored.extend(payloads),
            507 => self.refused.extend(payloads),
            _ => panic!("{response:?}"),
        }
        response.status
    }

    /// Waits until posts are taken again.
    fn wait_until_taken(&mut self, consume: &Consume) {
        let started = Instant::now();
        let mut taken = 0;
        while taken < 5 {
            assert!(started.elapsed() < PATIENCE, "{taken} posts were taken in a row");
            thread::sleep(Duration::from_millis(200));
            let before = ready(consume);
            let status = self.post(consume, 1);
            if before == ready(consume) {
                assert_eq!(status == 201, before == 200, "/ready was {before}, the post {status}");
            }
            taken = if status == 201 { taken + 1 } else { 0 };
        }
    }

    /// Asserts that the newest of the stored are in the database, and nothing that was refused.
    fn check(&self, database: &Path) {
        let connection = Connection::open(database).unwrap();
        let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        let found: HashSet<String> =
            stored_events(database).into_iter().map(|(_, _, payload)| payload).collect();
        let newest = self.stored.iter().rev().take(KEPT);
        assert_eq!(newest.filter(|payload| !found.contains(*payload)).count(), 0, "lost");
        assert_eq!(self.refused.intersection(&found).count(), 0, "refused and stored");
    }
}

#[test]
#[ignore = "needs to mount"]
fn retention_makes_room_where_events_have_filled_the_disk() {
    let disk = SmallDisk::mount(60);
    let mut posted = Posted::default();
    // The second time the database has its largest size from the beginning.
    for _ in 0..2 {
        disk.fill_with_events(&mut posted);
        let mut consume = disk.consume();
        posted.wait_until_taken(&consume);
        wait_until(|| (posted.post(&consume, 240) == 201).then_some(()));
        consume.process.kill();
        posted.check(&disk.database());
    }
}

#[test]
#[ignore = "needs to mount"]
fn a_disk_that_others_have_filled_is_full_until_they_make_room() {
    let disk = SmallDisk::mount(60);
    let mut consume = disk.consume();
    let mut posted = Posted::default();
    for _ in 0..20 {
        assert_eq!(posted.post(&consume, 240), 201);
    }
    let others = disk.path().join("big");
    // The space of the log, as often as it is emptied, too.
    wait_until(|| {
        disk.fill(&others);
        (posted.post(&consume, 1) == 507).then_some(())
    });
    // For longer than between two sweeps.
    for _ in 0..24 {
        thread::sleep(Duration::from_millis(500));
        assert_eq!((posted.post(&consume, 1), ready(&consume)), (507, 503));
    }
    fs::remove_file(others).unwrap();
    posted.wait_until_taken(&consume);
    consume.process.kill();
    posted.check(&disk.database());
}

#[test]
#[ignore = "needs to mount"]
fn a_disk_that_was_filled_beside_a_reader_recovers_when_the_read_ends() {
    let disk = SmallDisk::mount(60);
    let mut posted = Posted::default();
    let mut consume = disk.consume();
    assert_eq!(posted.post(&consume, 240), 201);
    consume.process.kill();
    let reader = Connection::open(disk.database()).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM events").unwrap();
    disk.fill_with_events(&mut posted);
    let mut consume = disk.consume();
    // For longer than between two sweeps.
    for _ in 0..12 {
        thread::sleep(Duration::from_secs(1));
        posted.post(&consume, 240);
    }
    reader.execute_batch("COMMIT").unwrap();
    posted.wait_until_taken(&consume);
    consume.process.kill();
    posted.check(&disk.database());
}
