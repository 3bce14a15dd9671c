//! Reads that take long: they end when their time is over, and when nobody waits for them.

use std::path::Path;
use std::time::Duration;

use eventctl::testing::Query;
use eventctl::testing::{ReadError, StoreReader};
use eventctl::testing::{Store, StoreLimits, StoreOptions, Writer};
use tempfile::{TempDir, tempdir};
use tokio::sync::oneshot;

use crate::util::{PATIENCE, assert_eventctl};

/// As many reads as run at once.
const READERS: usize = 4;

/// More events than one look at the clock lets pass.
const EVENTS: usize = 50_000;

/// A store with many events.
fn large_store() -> TempDir {
    let directory = tempdir().unwrap();
    assert_eventctl(directory.path()).arg("init-db").assert().success();
    fill(&directory.path().join("events.db"), EVENTS);
    directory
}

/// Stores events of the types `message-1`, `message-2` and so on.
pub fn fill(database: &Path, events: usize) {
    let connection = rusqlite::Connection::open(database).unwrap();
    let insert = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1) \
        INSERT INTO events (received_at, event_type, event_payload) SELECT n, 'message-' || n, '' FROM n";
    connection.execute(insert, [events]).unwrap();
}

fn open(directory: &TempDir, read_time: Option<Duration>) -> (Store, Writer) {
    let limits = StoreLimits { queue_events: 1000, queue_bytes: 1 << 20 };
    let location = directory.path().join("events.db").to_str().unwrap().parse().unwrap();
    Store::open(&location, limits, StoreOptions { read_time, ..StoreOptions::default() }).unwrap()
}

/// Looks for a type that there is not, which is to look at all events.
fn search(reader: &mut dyn StoreReader) -> Result<(), ReadError> {
    let event_type = Some("*missing*".parse().unwrap());
    let page = reader.page(&Query { types: event_type.into(), limit: 1, ..Query::default() })?;
    assert!(page.events.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_read_beyond_its_time_is_given_up() {
    let directory = large_store();
    let (store, writer) = open(&directory, None);
    store.read(search).await.unwrap();
    writer.close().await;
    let (store, writer) = open(&directory, Some(Duration::ZERO));
    let refusal = store.read(search).await.unwrap_err();
    assert_eq!(refusal.to_string(), "the query took too long");
    // The connection goes on, and so do small reads.
    assert!(store.read(|reader| reader.get(1)).await.unwrap().is_some());
    writer.close().await;
}

#[tokio::test]
async fn a_read_that_nobody_waits_for_stops() {
    let directory = large_store();
    let (store, writer) = open(&directory, None);
    let mut endings = Vec::new();
    for _ in 0..READERS {
        let (started, has_started) = oneshot::channel();
        let (ending, has_ended) = oneshot::channel::<()>();
        endings.push(has_ended);
        let endless = store.read(|reader| {
            let _ending = ending;
            let _ = started.send(());
            loop {
                search(reader)?;
            }
            #[expect(unreachable_code, reason = "it says what the loop would result in")]
            Ok(())
        });
        tokio::select! {
            result = endless => panic!("an endless read has ended: {result:?}"),
            started = has_started => started.unwrap(),
        }
    }
    for has_ended in endings {
        let dropped = tokio::time::timeout(PATIENCE, has_ended).await;
        assert!(dropped.expect("a read that nobody waits for goes on").is_err());
    }
    assert!(store.read(|reader| reader.get(1)).await.unwrap().is_some());
    writer.close().await;
}
