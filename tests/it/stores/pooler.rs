//! PgBouncer between the program and PostgreSQL.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, geteuid};
use tempfile::TempDir;

use super::database::{Kind, TestStore};
use crate::util::http::{Connection, event};
use crate::util::{Process, refusal_of, set_mode, wait_until, write_file};

/// A PgBouncer of its own before the server of a store.
struct Pooler {
    process: Process,
    directory: TempDir,
    address: SocketAddr,
}

impl Pooler {
    /// One with its defaults, but for what is given.
    fn start(store: &TestStore, settings: &str, database: &str) -> Pooler {
        let directory = tempfile::tempdir().unwrap();
        let server: url::Url = store.url.parse().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=postgres {database}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
                listen_port = {}\nunix_socket_dir =\nauth_type = any\n{settings}\n",
            server.port().unwrap(),
            address.port(),
        );
        let path = write_file(directory.path(), "pgbouncer.ini", config);
        // It does not run as root, and whoever it runs as then reads its settings.
        set_mode(directory.path(), 0o755);
        set_mode(&path, 0o644);
        let process = Pooler::run(&directory, address);
        Pooler { process, directory, address }
    }

    fn run(directory: &TempDir, address: SocketAddr) -> Process {
        let mut command = Command::new("pgbouncer");
        if geteuid().is_root() {
            command.args(["-u", "nobody"]);
        }
        let settings = directory.path().join("pgbouncer.ini");
        let process = Process::start(command.arg(settings).stdin(Stdio::null()));
        wait_until(|| TcpStream::connect(address).ok());
        process
    }

    /// Kills it and starts it again.
    fn crash(&mut self) {
        self.process.kill();
        self.process = Pooler::run(&self.directory, self.address);
    }

    fn url(&self, store: &TestStore) -> String {
        store.url_with(|url| url.set_port(Some(self.address.port())).unwrap())
    }
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_pooler_of_sessions_is_as_good_as_the_server() {
    let store = &TestStore::new(Kind::Postgres);
    let pooler = Pooler::start(store, "", "");
    let url = pooler.url(store);
    let prepared = store.command_at("init-db", &url).output().unwrap();
    assert!(prepared.status.success(), "{prepared:?}");
    let server = store.start(&mut store.command_at("consume", &url));
    for number in 0..20 {
        server.store("a", &number.to_string());
        assert_eq!(server.connect().get("/event").status, 200);
        assert_eq!(server.connect().get("/ready").status, 200);
    }
    let tail = store.command_at("tail", &url).output().unwrap();
    assert!(tail.status.success(), "{tail:?}");
    assert_eq!(store.payloads().len(), 20);
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn events_are_stored_once_through_a_pooler_that_is_killed_and_stopped() {
    let store = &TestStore::new(Kind::Postgres);
    store.prepare();
    let mut pooler = Pooler::start(store, "", "");
    let server = store.start(&mut store.command_at("consume", &pooler.url(store)));
    let store_once = |payload: &str| {
        let stored = |connection: &mut Connection| {
            connection
                .try_post_with_key(payload, event("a", payload))
                .is_ok_and(|response| response.status == 201)
        };
        wait_until(|| stored(&mut server.connect()).then_some(()));
    };
    for round in 0..3 {
        store_once(&format!("{round} before"));
        pooler.crash();
        store_once(&format!("{round} after a crash"));
        pooler.process.signal(Signal::STOP);
        thread::scope(|scope| {
            let storing = scope.spawn(|| store_once(&format!("{round} while it stands still")));
            // Long enough for the connection to be asked whether it is still there.
            thread::sleep(Duration::from_millis(1500));
            pooler.process.signal(Signal::CONT);
            storing.join().unwrap();
        });
    }
    let payloads = store.payloads();
    assert_eq!(payloads.len(), 9, "{payloads:?}");
    assert_eq!(server.connect().get("/event").json().as_array().unwrap().len(), 9);
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_pooler_of_transactions_is_refused_with_what_to_do() {
    let store = &TestStore::new(Kind::Postgres);
    store.prepare();
    for settings in
        ["pool_mode = transaction", "pool_mode = statement", "pool_mode = transaction\ndefault_pool_size = 1"]
    {
        let pooler = Pooler::start(store, settings, "");
        let url = pooler.url(store);
        for subcommand in ["consume", "init-db", "tail"] {
            let (error, hint) = store.refusal(subcommand, &url);
            assert!(error.contains("transaction pooling"), "{settings}: {subcommand}: {error}");
            assert!(hint.contains("pool_mode = session"), "{hint}");
        }
    }
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn of_several_servers_a_writer_takes_the_writable_one() {
    let store = &TestStore::new(Kind::Postgres);
    store.prepare();
    let read_only = Pooler::start(
        store,
        "server_reset_query =",
        "connect_query='SET default_transaction_read_only = on'",
    );
    let (error, hint) = {
        let mut command = store.command_at("consume", &read_only.url(store));
        refusal_of(command.args(["--store-timeout", "1s"]), 1)
    };
    assert!(error.contains("read-only"), "{error}");
    assert!(hint.starts_with("this server takes no writes"), "{hint}");
    let server: url::Url = store.url.parse().unwrap();
    let first = read_only.address.to_string();
    let both = store.url.replace(
        &format!("127.0.0.1:{}", server.port().unwrap()),
        &format!("{first},127.0.0.1:{}", server.port().unwrap()),
    );
    let server = store.start(&mut store.command_at("consume", &both));
    server.store("a", "b");
    let wrong = format!("{}?target_session_attrs=read-write", read_only.url(store));
    let (error, hint) = refusal_of(store.command_at("tail", &wrong).env("RUST_LOG", "error"), 1);
    assert!(error.starts_with("cannot connect to"), "{error}");
    assert!(hint.starts_with("this server takes no writes"), "{hint}");
}
