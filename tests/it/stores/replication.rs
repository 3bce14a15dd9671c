//! What publications and clusters ask of the tables, and upgrades from the schemas before.

use super::database::{Kind, TestStore, on_every_server};
use crate::util::refusal_of;

on_every_server!(every_table_has_a_key);

/// A number, read without the program.
pub(super) fn numbers(store: &TestStore, select: &str) -> Vec<i64> {
    match store.kind {
        Kind::Sqlite => {
            let connection = rusqlite::Connection::open(store.path().join(&store.url)).unwrap();
            let mut statement = connection.prepare(select).unwrap();
            statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        }
        #[cfg(feature = "postgres")]
        Kind::Postgres => {
            let mut client = ::postgres::Client::connect(&store.url, ::postgres::NoTls).unwrap();
            client.query(select, &[]).unwrap().iter().map(|row| row.get(0)).collect()
        }
        #[cfg(feature = "mysql")]
        Kind::MySql => {
            use ::mysql::prelude::Queryable;
            ::mysql::Conn::new(store.url.as_str()).unwrap().query(select).unwrap()
        }
    }
}

fn every_table_has_a_key(store: &TestStore) {
    store.prepare();
    let schema = if store.url.starts_with("postgres") { "current_schema()" } else { "DATABASE()" };
    let count = |of: &str| numbers(store, &format!("SELECT count(*) FROM information_schema.{of}"))[0];
    let tables = count(&format!("tables WHERE table_schema = {schema}"));
    let keys = count(&format!(
        "table_constraints WHERE table_schema = {schema} AND constraint_type = 'PRIMARY KEY'"
    ));
    assert!(tables >= 8, "{tables}");
    assert_eq!(keys, tables);
}

#[cfg(feature = "postgres")]
mod publications {
    use super::*;

    const PUBLISH: &str = "CREATE PUBLICATION everything FOR ALL TABLES";

    #[test]
    #[ignore = "needs the servers of .ci/servers"]
    fn a_publication_of_all_tables_stops_nothing() {
        let store = &TestStore::new(Kind::Postgres);
        store.prepare();
        store.execute(PUBLISH);
        let alert = ["--alert", "https://127.0.0.1:1/", "--alert-on", "*", "--alert-allow-private"];
        let arguments = [&alert[..], &["--keep-events", "1000"]].concat();
        for payload in ["one", "two"] {
            let server = store.consume(&arguments);
            server.store("a", payload);
            assert_eq!(server.connect().get("/ready").status, 200);
        }
        assert_eq!(store.payloads(), ["one", "two"]);
        // A database that is made with the publication already there.
        let fresh = &TestStore::new(Kind::Postgres);
        fresh.execute(PUBLISH);
        fresh.prepare();
        fresh.consume(&[]).store("a", "b");
    }

    #[test]
    #[ignore = "needs the servers of .ci/servers"]
    fn the_row_that_all_writers_update_stays_within_its_page() {
        let store = &TestStore::new(Kind::Postgres);
        let server = store.prepare_and_consume();
        for number in 0..200 {
            server.store("a", &number.to_string());
        }
        drop(server);
        let select = "SELECT pg_stat_get_tuples_updated(oid) FROM pg_class WHERE relname = 'last_event' \
            UNION ALL SELECT pg_stat_get_tuples_hot_updated(oid) FROM pg_class WHERE relname = 'last_event'";
        let counts = crate::util::wait_until(|| {
            let counts = numbers(store, select);
            (counts[0] >= 200).then_some(counts)
        });
        assert!(counts[1] * 10 >= counts[0] * 9, "{counts:?}");
    }

    #[test]
    #[ignore = "needs the servers of .ci/servers"]
    fn a_table_that_cannot_be_published_is_explained() {
        let store = &TestStore::new(Kind::Postgres);
        store.prepare();
        store.execute(&format!("ALTER TABLE last_event REPLICA IDENTITY NOTHING; {PUBLISH}"));
        let (error, hint) = refusal_of(&mut store.command("consume"), 1);
        assert!(error.contains("last_event") && error.contains("replica identity"), "{error}");
        assert!(hint.starts_with("a publication has a table"), "{hint}");
    }

    #[test]
    #[ignore = "needs the servers of .ci/servers"]
    fn a_store_of_the_schema_before_is_upgraded_under_a_publication() {
        let store = &TestStore::new(Kind::Postgres);
        for schema in [
            include_str!("../../../src/store/schema/postgres-1.sql"),
            include_str!("../../../src/store/schema/postgres-2.sql"),
        ] {
            store.execute(schema);
        }
        store.execute(
            "UPDATE eventctl_schema SET version = 2; INSERT INTO events VALUES (1, 0, 'a', 'old'); \
                UPDATE last_event SET id = 1",
        );
        store.execute(PUBLISH);
        let (error, hint) = store.refusal("consume", &store.url);
        assert!(error.contains("its schema is version 2, older than "), "{error}");
        assert!(hint.starts_with("run eventctl init-db"), "{hint}");
        store.prepare();
        store.consume(&[]).store("a", "new");
        assert_eq!(store.payloads(), ["old", "new"]);
        // What the program of the schema before says.
        store.execute(
            "WITH ids AS (UPDATE last_event SET id = id + 1 RETURNING id) \
                INSERT INTO events (id, received_at, event_type, event_payload) SELECT id, 0, 'a', 'before' FROM ids",
        );
        assert_eq!(store.payloads(), ["old", "new", "before"]);
    }
}

#[cfg(feature = "postgres")]
#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_server_that_is_a_step_newer_is_used_and_left_as_it_is() {
    let store = &TestStore::new(Kind::Postgres);
    store.prepare();
    store.execute("UPDATE eventctl_schema SET version = version + 1");
    let version = numbers(store, "SELECT version::bigint FROM eventctl_schema");
    store.prepare();
    store.consume(&[]).store("a", "b");
    assert_eq!(numbers(store, "SELECT version::bigint FROM eventctl_schema"), version);
}
