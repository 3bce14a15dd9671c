//! A database with the logins that the deployments have.

use std::env;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard};

use url::Url;

use crate::stores::database::{Kind, TestStore};

/// The deployments name their logins, which all databases of a server share.
static ALONE: Mutex<()> = Mutex::new(());

/// A database without tables, and a superuser `owner` who is asked for a password; both go away with their test.
pub struct Database {
    pub store: TestStore,
    /// Host and port of the server.
    pub address: String,
    _alone: MutexGuard<'static, ()>,
}

impl Database {
    pub fn new(owner_password: &str) -> Database {
        let alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let store = TestStore::new(Kind::Postgres);
        let url: Url = store.url.parse().unwrap();
        let address = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
        store.execute(&format!("CREATE ROLE owner LOGIN SUPERUSER PASSWORD '{owner_password}'"));
        Database { store, address, _alone: alone }
    }

    /// A client of PostgreSQL in an empty environment but for the server and the database.
    pub fn psql(&self, program: &str) -> Command {
        let (host, port) = self.address.split_once(':').unwrap();
        let mut command = Command::new(program);
        command.env_clear().env("PATH", env::var_os("PATH").unwrap()).stdin(Stdio::null());
        command.env("PGHOST", host).env("PGPORT", port).env("PGDATABASE", &self.store.name);
        command
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.store.execute("DROP OWNED BY owner CASCADE; DROP ROLE owner");
        self.store.execute(
            "DO $$ BEGIN IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'eventctl') THEN \
             DROP OWNED BY eventctl; DROP ROLE eventctl; END IF; END $$",
        );
    }
}

/// What a command prints that must succeed.
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
