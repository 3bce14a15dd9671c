//! `Idempotency-Key`: whichever store, and whichever process.

use std::thread;

#[cfg(feature = "postgres")]
use super::database::{Kind, postgres_client};
use super::database::{TestStore, answer_of, on_every_server, on_every_store, store_all};
use crate::util::Consume;
use crate::util::http::{Response, event};
#[cfg(feature = "postgres")]
use crate::util::wait_until;

on_every_store!(
    a_repeated_request_is_stored_once_and_answered_alike,
    keys_are_told_apart_byte_by_byte,
    repetitions_at_once_are_stored_once,
    different_bodies_at_once_store_one_of_them,
    a_key_outlives_the_process,
);

mod shared {
    super::on_every_server!(one_key_at_two_processes_is_stored_once);

    use super::one_key_at_two_processes_is_stored_once;
}

fn post(server: &Consume, key: &str, body: &str) -> Response {
    server.connect().try_post_with_key(key, body).unwrap()
}

fn a_repeated_request_is_stored_once_and_answered_alike(store: &TestStore) {
    let server = store.prepare_and_consume();
    server.store("other", "");
    let single = event("a", "b");
    let list = format!("[{},{}]", event("a", "1"), event("a", "2"));
    let (first, first_list) = (post(&server, "single", &single), post(&server, "list", &list));
    assert_eq!((first.status, first_list.status), (201, 201));
    server.store("other", "");
    assert_eq!(answer_of(&post(&server, "single", &single)), answer_of(&first));
    assert_eq!(answer_of(&post(&server, "list", &list)), answer_of(&first_list));
    assert_eq!(post(&server, "single", &list).status, 422);
    assert_eq!(post(&server, "list", &single).status, 422);
    assert_eq!(store.payloads(), ["", "b", "1", "2", ""]);
    let located = first.header("location").unwrap();
    assert_eq!(server.connect().get(&first.target("/event", located)).json()["event_payload"], "b");
}

fn keys_are_told_apart_byte_by_byte(store: &TestStore) {
    let server = store.prepare_and_consume();
    let longest = "k".repeat(255);
    let keys = ["key", "Key", "KEY", "k ey", "k  ey", "'", "\\", "%", "k%", "k_y", "NULL", &longest];
    for key in keys {
        assert_eq!(post(&server, key, &event("a", key)).status, 201, "{key}");
    }
    for key in keys {
        assert_eq!(post(&server, key, &event("a", key)).status, 201, "{key}");
        assert_eq!(post(&server, key, &event("a", "other")).status, 422, "{key}");
    }
    assert_eq!(store.payloads(), keys);
}

/// What many clients are told who use a key at once, each with its own body.
fn at_once(servers: &[&Consume], key: &str, body: impl Fn(usize) -> String + Sync) -> Vec<Response> {
    thread::scope(|scope| {
        let body = &body;
        let client = |number: usize| {
            let mut connection = servers[number % servers.len()].connect();
            scope.spawn(move || connection.try_post_with_key(key, body(number)).unwrap())
        };
        let clients: Vec<_> = (0..20).map(client).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    })
}

fn assert_alike(answers: &[Response]) {
    assert_eq!(answers[0].status, 201, "{answers:?}");
    assert!(answers.iter().all(|answer| answer_of(answer) == answer_of(&answers[0])), "{answers:?}");
}

fn repetitions_at_once_are_stored_once(store: &TestStore) {
    let server = store.prepare_and_consume();
    for round in 1..=5 {
        let key = format!("key {round}");
        assert_alike(&at_once(&[&server], &key, |_| event("a", &key)));
        assert_eq!(store.stored().len(), round);
    }
}

fn different_bodies_at_once_store_one_of_them(store: &TestStore) {
    let server = store.prepare_and_consume();
    let answers = at_once(&[&server], "key", |number| event("a", &number.to_string()));
    let count = |status| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((count(201), count(422)), (1, 19), "{answers:?}");
    assert_eq!(store.stored().len(), 1);
}

fn one_key_at_two_processes_is_stored_once(store: &TestStore) {
    let servers = [store.prepare_and_consume(), store.consume(&[])];
    let servers = [&servers[0], &servers[1]];
    for round in 1..=10 {
        let key = format!("key {round}");
        let list = format!("[{},{}]", event("a", &key), event("b", &key));
        assert_alike(&at_once(&servers, &key, |_| list.clone()));
        assert_eq!(store.stored().len(), 2 * round);
    }
    let answers = at_once(&servers, "different", |number| event("a", &number.to_string()));
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1, "{answers:?}");
    assert_eq!(store.stored().len(), 21);
}

#[cfg(feature = "postgres")]
#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_key_that_another_process_stores_in_the_meantime_is_known() {
    let store = &TestStore::new(Kind::Postgres);
    let servers = [store.prepare_and_consume(), store.consume(&[])];
    let mut others = postgres_client(&store.url);
    let mut blocking = others.transaction().unwrap();
    blocking.execute("UPDATE last_event SET id = id", &[]).unwrap();
    let answers = thread::scope(|scope| {
        let post = |server| scope.spawn(move || post(server, "key", &event("a", "b")));
        let posting = servers.each_ref().map(post);
        // Both have looked for the key by then.
        wait_until(|| {
            let select = "SELECT count(*) FROM pg_stat_activity \
                WHERE datname = current_database() AND wait_event_type = 'Lock'";
            let waiting: i64 = postgres_client(&store.url).query_one(select, &[]).unwrap().get(0);
            (waiting == 2).then_some(())
        });
        blocking.commit().unwrap();
        posting.map(|posting| posting.join().unwrap())
    });
    assert_alike(&answers);
    assert_eq!(store.payloads(), ["b"]);
}

fn a_key_outlives_the_process(store: &TestStore) {
    let mut server = store.prepare_and_consume();
    store_all(&server, &[("a", ""); 3]);
    let first = post(&server, "key", &event("a", "b"));
    server.process.kill();
    let server = store.consume(&[]);
    assert_eq!(answer_of(&post(&server, "key", &event("a", "b"))), answer_of(&first));
    assert_eq!(post(&server, "key", &event("a", "c")).status, 422);
    assert_eq!(store.stored().len(), 4);
}
