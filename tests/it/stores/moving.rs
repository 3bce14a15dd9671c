//! `init-db --from` between stores of different kinds.

use std::process::Stdio;

use super::database::{Kind, TestStore, answer_of, on_every_server, store_all};
use super::replication::numbers;
use crate::util::http::event;
use crate::util::{Process, assert_eventctl, refusal_of, wait_until};

on_every_server!(
    a_store_that_is_moved_keeps_ids_times_and_keys,
    a_copy_goes_on_where_it_ended,
    a_copy_that_is_killed_goes_on,
    a_store_with_other_events_is_not_copied_into,
);

/// Copies a store into another; what was said.
fn copy(from: &TestStore, to: &TestStore) -> String {
    let mut command = assert_cmd::Command::from_std(command_of(from, to));
    let assert = command.assert().code(0).stdout("");
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

fn command_of(from: &TestStore, to: &TestStore) -> std::process::Command {
    let mut command = to.command("init-db");
    command.args(["--from", &absolute(from)]);
    command
}

fn absolute(store: &TestStore) -> String {
    match store.kind {
        Kind::Sqlite => store.path().join(&store.url).display().to_string(),
        _ => store.url.clone(),
    }
}

fn assert_same(from: &TestStore, to: &TestStore) {
    assert_eq!(to.stored(), from.stored());
    let times = "SELECT received_at FROM events ORDER BY id";
    assert_eq!(numbers(to, times), numbers(from, times));
    assert_eq!(to.keys(), from.keys());
}

fn a_store_that_is_moved_keeps_ids_times_and_keys(store: &TestStore) {
    let file = &TestStore::new(Kind::Sqlite);
    let list = format!("[{},{}]", event("grüße", "世界 👋"), event("", "\u{1}\\\"\u{7f}"));
    let first = {
        let server = file.consume(&[]);
        let first = server.connect().try_post_with_key("key", &list).unwrap();
        assert_eq!(first.status, 201, "{first:?}");
        store_all(&server, &[("a", "3"), ("a", "4"), ("a", "5")]);
        assert_eq!(server.connect().try_post_with_key("gone", event("a", "6")).unwrap().status, 201);
        first
    };
    // Ids are not given again though their events are gone.
    file.execute("DELETE FROM events WHERE id IN (4, 6)");
    assert_eq!(
        copy(file, store),
        format!("copied {} to {}: 4 events, 2 idempotency keys\n", absolute(file), store.url)
    );
    assert_same(file, store);
    let server = store.consume(&[]);
    let again = server.connect().try_post_with_key("key", &list).unwrap();
    assert_eq!(answer_of(&again), answer_of(&first));
    let response = server.connect().post(event("a", "7"));
    assert_eq!(response.header("location"), Some("event/7"));
    drop(server);
    // The key of an event that was gone before goes with retention.
    {
        let _server = store.consume(&["--keep-events", "1000"]);
        wait_until(|| (store.keys() == ["key"]).then_some(()));
    }
    // And back.
    let back = &TestStore::new(Kind::Sqlite);
    copy(store, back);
    assert_same(store, back);
    assert_eq!(back.consume(&[]).connect().post(event("a", "8")).header("location"), Some("event/8"));
}

fn a_copy_goes_on_where_it_ended(store: &TestStore) {
    let file = &TestStore::new(Kind::Sqlite);
    let server = file.consume(&[]);
    for (round, more) in [(1, 2500), (2, 1), (3, 0)] {
        for number in 0..more.min(3) {
            let key = format!("{round}-{number}");
            assert_eq!(server.connect().try_post_with_key(&key, event("a", &key)).unwrap().status, 201);
        }
        let rest: Vec<(&str, &str)> = vec![("a", "b"); more - more.min(3)];
        if !rest.is_empty() {
            store_all(&server, &rest);
        }
        let said = copy(file, store);
        assert!(said.ends_with(&format!(": {more} events, {} idempotency keys\n", more.min(3))), "{said}");
        assert_same(file, store);
    }
}

fn a_copy_that_is_killed_goes_on(store: &TestStore) {
    let file = &TestStore::new(Kind::Sqlite);
    {
        let server = file.consume(&[]);
        let list = format!("[{}]", vec![event("a", &"b".repeat(100)); 5000].join(","));
        for key in 0..6 {
            assert_eq!(server.connect().try_post_with_key(&key.to_string(), &list).unwrap().status, 201);
        }
    }
    store.prepare();
    let mut killed = Process::start(command_of(file, store).stdout(Stdio::null()));
    wait_until(|| (numbers(store, "SELECT count(*) FROM events")[0] > 2000).then_some(()));
    killed.kill();
    assert!(store.stored().len() < 30_000, "the copy was complete before it was killed");
    copy(file, store);
    assert_same(file, store);
}

fn a_store_with_other_events_is_not_copied_into(store: &TestStore) {
    let file = &TestStore::new(Kind::Sqlite);
    store_all(&file.consume(&[]), &[("a", "1"), ("a", "2")]);
    store_all(&store.prepare_and_consume(), &[("a", "1"), ("a", "other")]);
    let (error, hint) = refusal_of(&mut command_of(file, store), 1);
    let stores = format!("cannot copy `{}` to `{}`", absolute(file), store.url);
    assert_eq!(error, format!("{stores}: event 2 there is not the same as here"));
    assert!(hint.starts_with("copy into an empty store"), "{hint}");
    assert_eq!(store.payloads(), ["1", "other"]);
    let missing = file.path().join("missing.db").display().to_string();
    let mut command = assert_eventctl(store.path());
    command.args(["init-db", "--db", &store.url, "--from", &missing]).assert().code(1);
    assert!(!file.path().join("missing.db").exists());
}
