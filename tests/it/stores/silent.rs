//! Stores that take no connection away and answer nothing: a lock that is not released, a server that has stopped, a
//! network that has forgotten a connection.

use std::thread;

use super::database::{Kind, TestStore, on_every_server, on_every_store};
use super::lost::{be_quiet, server_address, url_at};
use super::replication::numbers;
use crate::util::http::Response;
use crate::util::relay::Relay;
use crate::util::{Consume, wait_until};

on_every_store!(a_store_that_hangs_is_unready_while_a_write_still_waits);

mod servers {
    use super::*;

    on_every_server!(
        a_connection_that_fell_silent_while_idle_is_replaced,
        a_statement_without_an_answer_is_given_up_and_another_server_taken,
    );
}

/// Has every write to a store wait, until what is returned is called.
fn lock(store: &TestStore) -> Box<dyn FnOnce()> {
    let update = "UPDATE last_event SET id = id";
    match store.kind {
        Kind::Sqlite => {
            let connection = rusqlite::Connection::open(store.path().join(&store.url)).unwrap();
            connection.execute_batch("BEGIN IMMEDIATE").unwrap();
            Box::new(move || connection.execute_batch("COMMIT").unwrap())
        }
        #[cfg(feature = "postgres")]
        Kind::Postgres => {
            let mut client = ::postgres::Client::connect(&store.url, ::postgres::NoTls).unwrap();
            client.batch_execute(&format!("BEGIN; {update}")).unwrap();
            Box::new(move || client.batch_execute("COMMIT").unwrap())
        }
        #[cfg(feature = "mysql")]
        Kind::MySql => {
            use ::mysql::prelude::Queryable;
            let mut connection = ::mysql::Conn::new(store.url.as_str()).unwrap();
            connection.query_drop("BEGIN").unwrap();
            connection.query_drop("UPDATE last_event SET id = id + 1").unwrap();
            Box::new(move || connection.query_drop("ROLLBACK").unwrap())
        }
    }
}

/// Waits until a write waits for the lock.
fn wait_until_locked(store: &TestStore) {
    let select = if store.url.starts_with("postgres") {
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    } else {
        "SELECT count(*) FROM information_schema.processlist \
            WHERE db = DATABASE() AND info LIKE 'UPDATE last_event%'"
    };
    wait_until(|| (numbers(store, select) == [1]).then_some(()));
}

/// Waits until the store is said not to answer. What was proved shortly before is still told for a moment.
fn wait_until_unready(server: &Consume) -> Response {
    wait_until(|| {
        let response = server.connect().get("/ready");
        (response.status == 503).then_some(response)
    })
}

fn a_store_that_hangs_is_unready_while_a_write_still_waits(store: &TestStore) {
    if store.kind != Kind::Sqlite {
        store.prepare();
    }
    let server = store.consume(&[]);
    server.store("a", "before");
    let release = lock(store);
    thread::scope(|scope| {
        let posting = scope.spawn(|| server.connect().post_event("a", "waiting"));
        let detail = wait_until_unready(&server).json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with("the store does not answer: a write has waited for "), "{detail}");
        assert_eq!(server.connect().get("/health").status, 200);
        // It has waited all the time, or it would not be stored.
        release();
        let response = posting.join().unwrap();
        assert_eq!(response.status, 201, "{response:?}");
    });
    wait_until(|| (server.connect().get("/ready").status == 200).then_some(()));
    assert_eq!(store.payloads(), ["before", "waiting"]);
}

fn a_connection_that_fell_silent_while_idle_is_replaced(store: &TestStore) {
    store.prepare();
    let relay = Relay::start(server_address(store));
    let mut command = store.command_at("consume", &url_at(store, relay.address));
    // Time for the question whether the server is still there, and not for a statement.
    let server = store.start(command.args(["--store-timeout", "15s"]));
    server.store("a", "before");
    relay.silence();
    be_quiet();
    let response = server.connect().post_event("a", "after");
    assert_eq!(response.status, 201, "{response:?}");
    assert_eq!(store.payloads(), ["before", "after"]);
}

fn a_statement_without_an_answer_is_given_up_and_another_server_taken(store: &TestStore) {
    store.prepare();
    let address = server_address(store);
    let relay = Relay::start(address);
    // A server that stops, and one that works.
    let several = format!("{},{address}", relay.address);
    let url = store.url.replace(&address.to_string(), &several);
    let mut server = store.start(&mut store.command_at("consume", &url));
    server.store("a", "before");
    let release = lock(store);
    thread::scope(|scope| {
        let posting = scope.spawn(|| server.connect().post_event("a", "unknown"));
        wait_until_locked(store);
        relay.silence_for_good();
        release();
        wait_until_unready(&server);
        // Not 504, which says that the store is still waited for.
        let response = posting.join().unwrap();
        assert_eq!(response.status, 503, "{response:?}");
    });
    server.process.wait_for_stderr("the store takes no writes: the server has not answered");
    wait_until(|| (server.connect().get("/ready").status == 200).then_some(()));
    server.store("a", "after");
    assert_eq!(store.payloads(), ["before", "unknown", "after"]);
}
