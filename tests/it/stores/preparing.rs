//! `init-db` on every store; what `consume` and `tail` may not do without it, and may with the least rights.

use std::thread;

use super::database::{DURABILITY_OF_MYSQL, Kind, TestStore, on_every_server, on_every_store, server_url};
use crate::util::http::event;
use crate::util::receiver::{Receiver, Reply};
use crate::util::{refusal_of, wait_until, write_secret};

on_every_store!(
    preparing_again_changes_nothing,
    preparing_at_once_prepares_once,
    a_newer_schema_is_refused,
    a_schema_that_is_one_step_newer_is_worked_with,
);

mod servers {
    super::on_every_server!(
        an_unprepared_database_is_refused,
        a_database_with_other_tables_is_left_alone,
        the_longest_name_of_a_database_can_be_prepared,
        consume_and_tail_need_these_rights_and_no_others,
        retention_needs_these_rights_and_no_others,
        what_a_login_may_not_do_is_said,
        a_login_that_may_not_store_cannot_receive,
        weak_durability_is_refused_unless_allowed,
    );

    use super::{
        a_database_with_other_tables_is_left_alone, a_login_that_may_not_store_cannot_receive,
        an_unprepared_database_is_refused, consume_and_tail_need_these_rights_and_no_others,
        retention_needs_these_rights_and_no_others, the_longest_name_of_a_database_can_be_prepared,
        weak_durability_is_refused_unless_allowed, what_a_login_may_not_do_is_said,
    };
}

/// The privileges of a role `eventctl` for `consume` and of a role `viewer` for `tail`, in the words of PostgreSQL and
/// of MySQL alike, as the manual page of `init-db` has them.
fn grants() -> String {
    block_of_grants(1)
}

/// The additional privileges of the role `eventctl` for retention.
fn grants_for_retention() -> String {
    block_of_grants(2)
}

fn block_of_grants(number: usize) -> String {
    let page = include_str!("../../../src/cli/manual/init-db.md");
    let block = page.split("```sql\n").nth(number).unwrap().split("```").next().unwrap();
    block.lines().map(str::trim).collect::<Vec<_>>().join("\n")
}

fn preparing_again_changes_nothing(store: &TestStore) {
    store.prepare();
    {
        let server = store.consume(&[]);
        server.store("a", "kept");
        store.prepare();
        server.store("a", "too");
    }
    store.prepare();
    assert_eq!(store.payloads(), ["kept", "too"]);
    let server = store.consume(&[]);
    server.store("a", "and on");
    assert!(store.stored().is_sorted());
}

fn preparing_at_once_prepares_once(store: &TestStore) {
    thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(|| store.prepare()))));
    let server = store.consume(&[]);
    server.store("a", "b");
    assert_eq!(store.stored(), [(1, "a".to_owned(), "b".to_owned())]);
}

fn a_newer_schema_is_refused(store: &TestStore) {
    store.prepare();
    let version = if store.kind == Kind::Sqlite { 5 } else { 4 };
    store.execute(match store.kind {
        Kind::Sqlite => "PRAGMA user_version = 99",
        #[cfg(feature = "postgres")]
        Kind::Postgres => "UPDATE eventctl_schema SET version = 99",
        #[cfg(feature = "mysql")]
        Kind::MySql => "INSERT INTO eventctl_schema VALUES (99)",
    });
    for subcommand in ["init-db", "consume", "tail"] {
        let (error, hint) = store.refusal(subcommand, &store.url);
        let expected = format!("cannot open `{}`: its schema is version 99, newer than {version}", store.url);
        assert_eq!(error, expected, "{subcommand}");
        assert!(hint.starts_with("use the eventctl that "), "{hint}");
    }
}

/// As in the middle of a rolling upgrade: a step adds columns and tables.
fn a_schema_that_is_one_step_newer_is_worked_with(store: &TestStore) {
    store.prepare();
    let receiver = Receiver::start(|_, _| Reply::status(200, ""));
    let url = receiver.url("/alerts");
    let alerts = ["--alert", &url, "--alert-on", "alert", "--alert-allow-private"];
    write_secret(store.path(), "password", "s3cret");
    let access = ["--username", "operator", "--password-file", "password", "--keep-events", "5"];
    let arguments = [&alerts[..], &access].concat();
    // One that runs already, and one that starts afterwards.
    let running = store.consume(&arguments);
    let tables = [
        "events",
        "idempotency_keys",
        "signing_key",
        "refresh_tokens",
        "deliveries",
        "retention",
        "deleted_events",
        "alert_channels",
    ];
    for table in tables {
        store.execute(&format!("ALTER TABLE {table} ADD COLUMN added INTEGER NOT NULL DEFAULT 0"));
    }
    store.execute("CREATE TABLE another (id INTEGER PRIMARY KEY)");
    store.execute(match store.kind {
        Kind::Sqlite => "PRAGMA user_version = 6",
        #[cfg(feature = "postgres")]
        Kind::Postgres => "UPDATE eventctl_schema SET version = 5",
        #[cfg(feature = "mysql")]
        Kind::MySql => "INSERT INTO eventctl_schema VALUES (5)",
    });
    let restarted = store.consume(&arguments);
    for (round, server) in [running, restarted].into_iter().enumerate() {
        let mut connection = server.connect();
        let granted = connection.post_form("grant_type=password&username=operator&password=s3cret");
        let tokens = granted.json();
        let token = tokens["access_token"].as_str().unwrap();
        let refresh =
            format!("grant_type=refresh_token&refresh_token={}", tokens["refresh_token"].as_str().unwrap());
        assert_eq!(connection.post_form(&refresh).status, 200);
        let authorization = format!("Bearer {token}");
        let key = format!("key {round}");
        let many: Vec<String> = (0..100).map(|number| event("a", &number.to_string())).collect();
        for (body, key) in [(event("alert", "one"), "alone"), (format!("[{}]", many.join(",")), &key)] {
            let key = format!("{key} {round}");
            let headers = [
                ("Authorization", authorization.as_str()),
                ("Content-Type", "application/json"),
                ("Idempotency-Key", &key),
            ];
            for _ in 0..2 {
                let response = connection.request("POST", "/event", &headers, body.as_bytes());
                assert_eq!(response.status, 201, "{response:?}");
            }
        }
        wait_until(|| (receiver.arrivals().len() == round + 1).then_some(()));
        // Retention deletes at the start, and some seconds later.
        wait_until(|| (store.stored().len() == 5).then_some(()));
    }
    assert_eq!(store.tail(&["-n", "all", "-o", "json"]).lines().count(), 5);
    let mut again = store.command("init-db");
    assert!(again.status().unwrap().success());
}

fn an_unprepared_database_is_refused(store: &TestStore) {
    for subcommand in ["consume", "tail"] {
        let (error, hint) = store.refusal(subcommand, &store.url);
        assert_eq!(error, format!("cannot open `{}`: it is not prepared", store.url), "{subcommand}");
        assert_eq!(
            hint,
            format!("run eventctl init-db --db '{}' as a user who may create tables", store.url)
        );
    }
    store.prepare();
}

fn a_database_with_other_tables_is_left_alone(store: &TestStore) {
    store.execute("CREATE TABLE events (id integer)");
    for _ in 0..2 {
        let (error, hint) = store.refusal("init-db", &store.url);
        assert!(error.starts_with(&format!("cannot use `{}`: ", store.url)), "{error}");
        assert!(error.contains("events") && error.contains("already exists"), "{error}");
        assert!(hint.ends_with("have no other tables of these names"), "{hint}");
    }
    store.execute("DROP TABLE events");
    store.prepare();
}

fn the_longest_name_of_a_database_can_be_prepared(store: &TestStore) {
    // PostgreSQL's limit is 63 bytes, that of MySQL 64 characters.
    let name = format!("{}_{}", store.name, "x".repeat(62 - store.name.len()));
    store.execute(&format!("CREATE DATABASE {name}"));
    let url = store.url_with(|url| url.set_path(&name));
    let mut command = assert_cmd::Command::from_std(store.command_at("init-db", &url));
    command.timeout(crate::util::PATIENCE);
    let output = command.output().unwrap();
    store.execute(&format!("DROP DATABASE {name}"));
    assert!(output.status.success(), "{output:?}");
}

#[cfg(feature = "mysql")]
#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_database_half_made_by_a_killed_init_db_is_finished() {
    // In the order in which they are made, two by the second schema, three by the third and three by the fourth; PostgreSQL makes all at
    // once.
    let tables = [
        "events",
        "last_event",
        "idempotency_keys",
        "signing_key",
        "refresh_tokens",
        "deliveries",
        "outbox_lock",
        "retention",
        "deleted_events",
        "alert_channels",
        "subscriptions",
        "subscription_events",
        "subscription_claims",
    ];
    for made in 0..=tables.len() {
        let store = &TestStore::new(Kind::MySql);
        store.prepare();
        for table in &tables[made..] {
            store.execute(&format!("DROP TABLE {table}"));
        }
        if made == 2 {
            store.execute("DELETE FROM last_event");
        }
        store.execute("DELETE FROM eventctl_schema");
        let (versions, refusal) = match made {
            0 => ("", "it is not prepared"),
            1..=5 => ("INSERT INTO eventctl_schema VALUES (-1)", "it is not prepared"),
            6..=7 => {
                ("INSERT INTO eventctl_schema VALUES (1), (-2)", "its schema is version 1, older than 4")
            }
            8..=10 => {
                ("INSERT INTO eventctl_schema VALUES (1), (2), (-3)", "its schema is version 2, older than 4")
            }
            _ => (
                "INSERT INTO eventctl_schema VALUES (1), (2), (3), (-4)",
                "its schema is version 3, older than 4",
            ),
        };
        if !versions.is_empty() {
            store.execute(versions);
        }
        let (error, _) = store.refusal("consume", &store.url);
        assert!(error.ends_with(refusal), "{error}");
        store.prepare();
        store.consume(&[]).store("a", "b");
        assert_eq!(store.stored(), [(1, "a".to_owned(), "b".to_owned())]);
    }
}

#[cfg(feature = "postgres")]
#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_postgres_database_in_another_encoding_is_refused() {
    let store = &TestStore::new(Kind::Postgres);
    for encoding in ["SQL_ASCII", "LATIN1"] {
        let name = format!("{}_{}", store.name, encoding.to_lowercase());
        store.execute(&format!("CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"));
        let url = store.url_with(|url| url.set_path(&name));
        let refused = ["init-db", "consume", "tail"].map(|subcommand| store.refusal(subcommand, &url));
        store.execute(&format!("DROP DATABASE {name}"));
        for (error, hint) in refused {
            assert_eq!(error, format!("cannot use `{url}`: its encoding is {encoding}, not UTF8"));
            assert_eq!(hint, "create the database WITH ENCODING 'UTF8' TEMPLATE template0");
        }
    }
}

/// A login that goes away with its test.
pub struct Login<'a> {
    store: &'a TestStore,
    pub name: String,
}

impl Login<'_> {
    pub fn new<'a>(store: &'a TestStore, name: &str, password: &str) -> Login<'a> {
        let name = format!("{}_{name}", store.name);
        let password = password.replace('\'', "''");
        let create = match store.url.starts_with("postgres") {
            true => format!("CREATE ROLE {name} LOGIN PASSWORD '{password}'"),
            false => format!("CREATE USER {name} IDENTIFIED BY '{}'", password.replace('\\', "\\\\")),
        };
        store.execute(&create);
        Login { store, name }
    }

    /// The URL of the store for this login, without a password.
    pub fn url(&self) -> String {
        self.store.url_with(|url| url.set_username(&self.name).unwrap())
    }
}

impl Drop for Login<'_> {
    fn drop(&mut self) {
        let name = &self.name;
        self.store.execute(&match self.store.url.starts_with("postgres") {
            true => format!("DROP OWNED BY {name}; DROP ROLE {name}"),
            false => format!("DROP USER {name}"),
        });
    }
}

fn consume_and_tail_need_these_rights_and_no_others(store: &TestStore) {
    store.prepare();
    let [receiver, viewer] = ["eventctl", "viewer"].map(|name| Login::new(store, name, "s3cret"));
    let grants = grants().replace("TO eventctl", &format!("TO {}", receiver.name));
    store.execute(&grants.replace("TO viewer", &format!("TO {}", viewer.name)));
    let with_password = |subcommand, login: &Login<'_>| {
        let mut command = store.command_at(subcommand, &login.url());
        command.env("PGPASSWORD", "s3cret").env("MYSQL_PWD", "s3cret");
        command
    };
    write_secret(store.path(), "password", crate::consume::tokens::PASSWORD);
    let mut consume = with_password("consume", &receiver);
    let arguments = ["--username", crate::consume::tokens::USERNAME, "--password-file", "password"];
    let hook = Receiver::start(|_, _| Reply::status(200, ""));
    consume.args(["--alert", &hook.url("/"), "--alert-on", "a", "--alert-allow-private"]);
    let server = store.start(consume.args(arguments));
    let login = crate::consume::tokens::log_in(&server);
    let form = crate::consume::tokens::refresh_form(&login.refresh);
    let access = crate::consume::tokens::tokens_of(&server.connect().post_form(&form)).access;
    assert_eq!(server.connect().post_form(&form).status, 400);
    let authorization = format!("Bearer {access}");
    for (method, path, body, status) in [
        ("GET", "/ready", String::new(), 200),
        ("POST", "/event", event("a", "b"), 201),
        ("POST", "/event", event("a", "b"), 201),
        ("POST", "/event", event("a", "c"), 422),
        ("GET", "/event/2", String::new(), 404),
        ("GET", "/event?type=[ab]", String::new(), 200),
    ] {
        let headers = [
            ("Authorization", authorization.as_str()),
            ("Idempotency-Key", "key"),
            ("Content-Type", "application/json"),
        ];
        let response = server.connect().request(method, path, &headers, body.as_bytes());
        // An id that a refused repetition took may be left out, or not.
        assert!(response.status == status || path == "/event/2", "{method} {path}: {response:?}");
    }
    let mut tail = with_password("tail", &viewer);
    let output = tail.args(["-o", "json"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 1, "{output:?}");
    wait_until(|| {
        let mut tail = with_password("tail", &viewer);
        let output = tail.args(["--alerts", "-o", "json"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().contains(r#""state":"sent","attempts":1"#).then_some(())
    });
    let again = with_password("alert-test", &receiver).args(["--resend", "all"]).output().unwrap();
    assert!(again.status.success(), "{again:?}");
    let stderr = server.process.stderr();
    assert!(!stderr.contains("the store takes no writes"), "{stderr}");
}

fn retention_needs_these_rights_and_no_others(store: &TestStore) {
    store.prepare();
    let login = Login::new(store, "eventctl", "s3cret");
    for grants in [grants(), grants_for_retention()] {
        let of_eventctl = |line: &&str| line.ends_with(" TO eventctl;");
        let grants: Vec<&str> = grants.lines().filter(of_eventctl).collect();
        assert!(!grants.is_empty());
        store.execute(&grants.join("\n").replace("TO eventctl", &format!("TO {}", login.name)));
    }
    let mut consume = store.command_at("consume", &login.url());
    consume.args(["--keep", "30d", "--keep-events", "2", "--keep-bytes", "1KiB", "--keep-keys", "1s"]);
    let mut server = store.start(consume.env("PGPASSWORD", "s3cret").env("MYSQL_PWD", "s3cret"));
    for number in 1..=4 {
        let number = number.to_string();
        assert_eq!(server.connect().try_post_with_key(&number, event("a", &number)).unwrap().status, 201);
    }
    wait_until(|| (store.payloads() == ["3", "4"]).then_some(()));
    wait_until(|| (store.keys() == ["3", "4"]).then_some(()));
    assert!(server.process.terminate().success());
    assert!(!server.process.stderr().contains("the store takes no writes"), "{}", server.process.stderr());
}

fn what_a_login_may_not_do_is_said(store: &TestStore) {
    store.prepare();
    let nobody = Login::new(store, "nobody", "s3cret");
    for subcommand in ["consume", "tail", "init-db"] {
        let mut command = store.command_at(subcommand, &nobody.url());
        command.env("PGPASSWORD", "s3cret").env("MYSQL_PWD", "s3cret");
        let (error, hint) = refusal_of(&mut command, 1);
        assert!(error.contains("denied"), "{subcommand}: {error}");
        assert!(!format!("{error}{hint}").contains("s3cret"), "{error} {hint}");
    }
}

fn a_login_that_may_not_store_cannot_receive(store: &TestStore) {
    store.prepare();
    let viewer = Login::new(store, "viewer", "s3cret");
    let tables = [
        "eventctl_schema",
        "events",
        "last_event",
        "idempotency_keys",
        "deliveries",
        "outbox_lock",
        "alert_channels",
        "retention",
        "deleted_events",
        "subscriptions",
        "subscription_events",
        "subscription_claims",
    ];
    for table in tables {
        store.execute(&format!("GRANT SELECT ON {table} TO {}", viewer.name));
    }
    let command = || {
        let mut command = store.command_at("consume", &viewer.url());
        command.args(["--keep", "30d"]).env("PGPASSWORD", "s3cret").env("MYSQL_PWD", "s3cret");
        command
    };
    for (right, table) in [
        ("UPDATE", "last_event"),
        ("INSERT", "events"),
        ("INSERT", "idempotency_keys"),
        ("INSERT", "deliveries"),
        ("UPDATE", "deliveries"),
        ("UPDATE", "outbox_lock"),
        ("INSERT", "alert_channels"),
        ("UPDATE", "alert_channels"),
        ("INSERT", "subscriptions"),
        ("UPDATE", "subscriptions"),
        ("DELETE", "subscriptions"),
        ("INSERT", "subscription_events"),
        ("UPDATE", "subscription_events"),
        ("DELETE", "subscription_events"),
        ("INSERT", "subscription_claims"),
        ("UPDATE", "subscription_claims"),
        ("DELETE", "subscription_claims"),
        ("DELETE", "events"),
        ("DELETE", "idempotency_keys"),
        ("DELETE", "deliveries"),
        ("UPDATE", "retention"),
        ("INSERT", "deleted_events"),
        ("UPDATE", "deleted_events"),
        ("DELETE", "deleted_events"),
    ] {
        let (error, hint) = {
            let _durable = DURABILITY_OF_MYSQL.read().unwrap();
            refusal_of(&mut command(), 1)
        };
        assert!(error.contains("denied") && error.contains(table), "{error}");
        assert!(hint.starts_with("grant this user what it lacks"), "{hint}");
        store.execute(&format!("GRANT {right} ON {table} TO {}", viewer.name));
    }
    store.start(&mut command()).store("a", "b");
}

/// Citus itself cannot be installed everywhere; this is the table in which it says what it has distributed.
#[cfg(feature = "postgres")]
#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_distributed_table_is_refused_unless_allowed() {
    let store = &TestStore::new(Kind::Postgres);
    store.prepare();
    store.execute("CREATE TABLE pg_dist_partition (logicalrelid regclass)");
    store.consume(&[]).store("a", "b");
    store.execute("INSERT INTO pg_dist_partition VALUES ('events')");
    let (error, hint) = store.refusal("consume", &store.url);
    assert!(error.contains("Citus spreads the events over servers"), "{error}");
    assert!(hint.ends_with("--allow-unordered-ids"), "{hint}");
    store.consume(&["--allow-unordered-ids"]).store("a", "b");
    assert_eq!(store.tail(&["-o", "json"]).lines().count(), 2);
}

fn weak_durability_is_refused_unless_allowed(store: &TestStore) {
    store.prepare();
    let server = server_url(store.kind).unwrap();
    let is_postgres = server.scheme() == "postgres";
    let _alone = DURABILITY_OF_MYSQL.write().unwrap();
    let (setting, weak, durable) = match is_postgres {
        true => {
            let alter = format!("ALTER DATABASE {} SET synchronous_commit =", store.name);
            ("synchronous_commit is off", format!("{alter} off"), format!("{alter} on"))
        }
        false => {
            let set = "SET GLOBAL innodb_flush_log_at_trx_commit =";
            ("innodb_flush_log_at_trx_commit is 2", format!("{set} 2"), format!("{set} 1"))
        }
    };
    store.execute(&weak);
    let refused = std::panic::catch_unwind(|| {
        let (error, hint) = refusal_of(&mut store.command("consume"), 1);
        let mut allowed = store.command("consume");
        let server = crate::util::Consume::start_command(allowed.arg("--allow-weak-durability"));
        server.store("a", "b");
        // Reading acknowledges nothing.
        assert_eq!(server.connect().get("/event").status, 200);
        assert_eq!(store.tail(&["-o", "json"]).lines().count(), 1);
        (error, hint)
    });
    store.execute(&durable);
    let (error, hint) = refused.unwrap();
    assert_eq!(error, format!("cannot use `{}`: {setting}, and events could be lost", store.url));
    assert!(hint.ends_with("on the server, or allow it with --allow-weak-durability"), "{hint}");
    crate::util::Consume::start_command(&mut store.command("consume")).store("a", "b");
}
