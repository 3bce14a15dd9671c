//! Transactions that a server breaks off for the sake of others.

use super::database::{Kind, TestStore, on_every_server};
use super::replication::numbers;

on_every_server!(
    a_write_that_the_server_breaks_off_many_times_is_stored,
    a_write_that_the_server_always_breaks_off_is_repeated_with_pauses,
);

/// Has the server break off so many writes of events from here on, as it does with transactions that conflict.
fn break_off(store: &TestStore, writes: u32) {
    let message = "could not serialize access due to concurrent update";
    store.execute("CREATE SEQUENCE tries");
    store.execute(&match store.kind {
        Kind::Sqlite => unreachable!("a file has no conflicts"),
        #[cfg(feature = "postgres")]
        Kind::Postgres => format!(
            "CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                IF nextval('tries') <= {writes} THEN RAISE '{message}' USING ERRCODE = 'serialization_failure'; END IF; \
                RETURN NEW; END $$; \
                CREATE TRIGGER conflict BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION conflict()"
        ),
        #[cfg(feature = "mysql")]
        Kind::MySql => format!(
            "CREATE TRIGGER conflict BEFORE INSERT ON events FOR EACH ROW BEGIN \
                IF NEXTVAL(tries) <= {writes} THEN \
                SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = '{message}'; END IF; END"
        ),
    });
}

/// How often it was tried to store the event; this is asked once.
fn tries(store: &TestStore) -> i64 {
    let next = if store.url.starts_with("postgres") { "nextval('tries')" } else { "NEXTVAL(tries)" };
    numbers(store, &format!("SELECT {next}"))[0] - 1
}

fn a_write_that_the_server_breaks_off_many_times_is_stored(store: &TestStore) {
    let server = store.prepare_and_consume();
    break_off(store, 15);
    server.store("a", "b");
    assert_eq!(tries(store), 16);
    assert_eq!(store.payloads(), ["b"]);
}

fn a_write_that_the_server_always_breaks_off_is_repeated_with_pauses(store: &TestStore) {
    let server = store.prepare_and_consume();
    break_off(store, u32::MAX);
    let response = server.connect().post_event("a", "b");
    assert_eq!(response.status, 503, "{response:?}");
    // Without pauses there would be thousands.
    let tries = tries(store);
    assert!((20..500).contains(&tries), "{tries}");
    assert_eq!(store.payloads(), [""; 0]);
}
