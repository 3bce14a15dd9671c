//! A database of its own for each test, in a file or on a server.

use std::env;
use std::path::Path;
use std::process::Command;
use std::sync::RwLock;

use tempfile::{TempDir, tempdir};
use url::Url;

use crate::util::http::{Response, event};
use crate::util::{Consume, assert_eventctl, eventctl, refusal_of};

/// What keeps the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    #[cfg(feature = "postgres")]
    Postgres,
    #[cfg(feature = "mysql")]
    MySql,
}

/// Runs each check as a test over each kind of store.
macro_rules! on_every_store {
    ($($check:ident),+ $(,)?) => {
        mod sqlite {
            $(#[test] fn $check() { super::$check(&$crate::stores::database::TestStore::new($crate::stores::database::Kind::Sqlite)); })+
        }
        crate::stores::database::on_every_server!($($check),+);
    };
}
pub(super) use on_every_store;

/// The same for checks that only servers need.
macro_rules! on_every_server {
    ($($check:ident),+ $(,)?) => {
        #[cfg(feature = "postgres")]
        mod postgres {
            $(#[test]
            #[ignore = "needs the servers of .ci/servers"]
            fn $check() { super::$check(&$crate::stores::database::TestStore::new($crate::stores::database::Kind::Postgres)); })+
        }
        #[cfg(feature = "mysql")]
        mod mysql {
            $(#[test]
            #[ignore = "needs the servers of .ci/servers"]
            fn $check() { super::$check(&$crate::stores::database::TestStore::new($crate::stores::database::Kind::MySql)); })+
        }
    };
}
pub(super) use on_every_server;

/// Whether MariaDB keeps what it acknowledges is a setting of the whole server: whoever weakens it does so while
/// nobody starts.
pub static DURABILITY_OF_MYSQL: RwLock<()> = RwLock::new(());

/// A database without tables that goes away with its test.
pub struct TestStore {
    pub kind: Kind,
    pub directory: TempDir,
    /// Of the database, and of a login where there is one.
    pub name: String,
    /// What `--db` takes.
    pub url: String,
}

impl TestStore {
    pub fn new(kind: Kind) -> TestStore {
        let name = format!("test_{:016x}", fastrand::u64(..));
        let directory = tempdir().unwrap();
        let Some(server) = server_url(kind) else {
            return TestStore { kind, directory, name, url: "events.db".to_owned() };
        };
        execute_on(kind, server.as_str(), &format!("CREATE DATABASE {name}"));
        let mut url = server;
        url.set_path(&name);
        TestStore { kind, directory, name, url: url.into() }
    }

    /// The same with the tables of the program.
    pub fn prepare(&self) {
        let mut command = assert_eventctl(self.path());
        let prepared = format!("prepared {}\n", self.url);
        command.args(["init-db", "--db", &self.url]).assert().code(0).stdout("").stderr(prepared);
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A subcommand on this store.
    pub fn command(&self, subcommand: &str) -> Command {
        self.command_at(subcommand, &self.url)
    }

    /// A subcommand on this store by another URL.
    pub fn command_at(&self, subcommand: &str, url: &str) -> Command {
        let mut command = eventctl(self.path());
        // Neither the names nor the passwords of who runs the tests.
        command.env("HOME", self.path()).env("APP_PORT", "0").args([subcommand, "--db", url]);
        command
    }

    /// A server on this store.
    pub fn consume(&self, arguments: &[&str]) -> Consume {
        self.start(self.command("consume").args(arguments))
    }

    /// A server that a command of this store starts.
    pub fn start(&self, command: &mut Command) -> Consume {
        let _durable = DURABILITY_OF_MYSQL.read().unwrap();
        Consume::start_command(command)
    }

    /// A prepared store with a server.
    pub fn prepare_and_consume(&self) -> Consume {
        self.prepare();
        self.consume(&[])
    }

    /// What `tail` prints; it must succeed and say nothing else.
    pub fn tail(&self, arguments: &[&str]) -> String {
        let mut command = assert_cmd::Command::from_std(self.command("tail"));
        let assert = command.args(arguments).assert().code(0).stderr("");
        String::from_utf8(assert.get_output().stdout.clone()).unwrap()
    }

    /// The error and the hint of a command that this store or its server refuses.
    pub fn refusal(&self, subcommand: &str, url: &str) -> (String, String) {
        let _durable = DURABILITY_OF_MYSQL.read().unwrap();
        refusal_of(&mut self.command_at(subcommand, url), 1)
    }

    /// Runs a statement without the program.
    pub fn execute(&self, statement: &str) {
        let url = match self.kind {
            Kind::Sqlite => self.path().join(&self.url).display().to_string(),
            #[cfg(any(feature = "postgres", feature = "mysql"))]
            _ => self.url.clone(),
        };
        execute_on(self.kind, &url, statement);
    }

    /// Ids, types and payloads, read without the program.
    pub fn stored(&self) -> Vec<(i64, String, String)> {
        let select = "SELECT id, event_type, event_payload FROM events ORDER BY id";
        match self.kind {
            Kind::Sqlite => crate::util::stored_events(&self.path().join(&self.url)),
            #[cfg(feature = "postgres")]
            Kind::Postgres => {
                let rows = postgres_client(&self.url).query(select, &[]).unwrap();
                rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
            }
            #[cfg(feature = "mysql")]
            Kind::MySql => {
                use mysql::prelude::Queryable;
                mysql_client(&self.url).query(select).unwrap()
            }
        }
    }

    /// The idempotency keys, read without the program.
    pub fn keys(&self) -> Vec<String> {
        let select = "SELECT idempotency_key FROM idempotency_keys ORDER BY idempotency_key";
        match self.kind {
            Kind::Sqlite => {
                let connection = rusqlite::Connection::open(self.path().join(&self.url)).unwrap();
                let mut select = connection.prepare(select).unwrap();
                let keys = select.query_map([], |row| row.get(0)).unwrap();
                keys.map(Result::unwrap).collect()
            }
            #[cfg(feature = "postgres")]
            Kind::Postgres => {
                let rows = postgres_client(&self.url).query(select, &[]).unwrap();
                rows.iter().map(|row| row.get(0)).collect()
            }
            #[cfg(feature = "mysql")]
            Kind::MySql => {
                use mysql::prelude::Queryable;
                mysql_client(&self.url).query(select).unwrap()
            }
        }
    }

    pub fn payloads(&self) -> Vec<String> {
        self.stored().into_iter().map(|(_, _, payload)| payload).collect()
    }

    /// The URL with another part.
    pub fn url_with(&self, change: impl FnOnce(&mut Url)) -> String {
        let mut url: Url = self.url.parse().unwrap();
        change(&mut url);
        url.into()
    }
}

impl Drop for TestStore {
    fn drop(&mut self) {
        let Some(server) = server_url(self.kind) else { return };
        let force = if self.url.starts_with("postgres") { " WITH (FORCE)" } else { "" };
        execute_on(self.kind, server.as_str(), &format!("DROP DATABASE {}{force}", self.name));
    }
}

/// The URL of a server as its administrator.
pub fn server_url(kind: Kind) -> Option<Url> {
    let variable = match kind {
        Kind::Sqlite => return None,
        #[cfg(feature = "postgres")]
        Kind::Postgres => "TEST_POSTGRES_URL",
        #[cfg(feature = "mysql")]
        Kind::MySql => "TEST_MYSQL_URL",
    };
    let url = env::var(variable).unwrap_or_else(|_| panic!("{variable} is missing: see .ci/servers"));
    Some(url.parse().unwrap())
}

fn execute_on(kind: Kind, url: &str, statement: &str) {
    match kind {
        Kind::Sqlite => rusqlite::Connection::open(url).unwrap().execute_batch(statement).unwrap(),
        #[cfg(feature = "postgres")]
        Kind::Postgres => postgres_client(url).batch_execute(statement).unwrap(),
        #[cfg(feature = "mysql")]
        Kind::MySql => {
            use mysql::prelude::Queryable;
            let mut connection = mysql_client(url);
            for statement in statement.split(";\n").filter(|statement| !statement.trim().is_empty()) {
                connection.query_drop(statement).unwrap();
            }
        }
    }
}

#[cfg(feature = "postgres")]
pub fn postgres_client(url: &str) -> postgres::Client {
    postgres::Client::connect(url, postgres::NoTls).unwrap()
}

#[cfg(feature = "mysql")]
fn mysql_client(url: &str) -> mysql::Conn {
    mysql::Conn::new(mysql::Opts::from_url(url).unwrap()).unwrap()
}

/// Posts a list of events, which must be stored.
pub fn store_all(server: &Consume, events: &[(&str, &str)]) {
    let events: Vec<String> = events.iter().map(|(kind, payload)| event(kind, payload)).collect();
    let response = server.connect().post(format!("[{}]", events.join(",")));
    assert_eq!(response.status, 201, "{response:?}");
}

/// What two answers to the same request have in common.
pub fn answer_of(response: &Response) -> (u16, Option<&str>, &[u8]) {
    (response.status, response.header("location"), &response.body)
}
