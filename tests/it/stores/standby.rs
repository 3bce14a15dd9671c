//! Reads on a hot standby of PostgreSQL.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use ::postgres::{Client, NoTls};
use rustix::process::{Signal, geteuid};
use tempfile::TempDir;

use super::database::{Kind, TestStore};
use crate::util::{Process, wait_until};

/// A standby of the server of a store, which lets no query wait that is in the way of what it hears from there.
struct Standby {
    process: Process,
    _directory: TempDir,
    address: SocketAddr,
}

impl Standby {
    fn of(store: &TestStore) -> Standby {
        let mut primary = Client::connect(&store.url, NoTls).unwrap();
        let programs: String =
            primary.query_one("SELECT setting FROM pg_config WHERE name = 'BINDIR'", &[]).unwrap().get(0);
        let programs = Path::new(&programs);
        let directory = tempfile::tempdir().unwrap();
        if geteuid().is_root() {
            assert!(Command::new("chown").arg("nobody").arg(directory.path()).status().unwrap().success());
        }
        let data = directory.path().join("data");
        let url = store.url_with(|url| url.set_path("postgres"));
        let mut copy = as_server(&programs.join("pg_basebackup"));
        copy.args(["--write-recovery-conf", "--checkpoint=fast", "--dbname", &url, "--pgdata"]).arg(&data);
        let copied = copy.current_dir("/").output().unwrap();
        assert!(copied.status.success(), "{copied:?}");
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = as_server(&programs.join("postgres"));
        command
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(directory.path())
            .args(["-p", &address.port().to_string()]);
        command.args(["-c", "max_standby_streaming_delay=0"]).current_dir("/");
        let process = Process::start(command.stdin(Stdio::null()).stdout(Stdio::null()));
        Standby { process, _directory: directory, address }
    }
}

/// PostgreSQL does not run as root.
fn as_server(program: &Path) -> Command {
    if !geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(program);
    command
}

impl Drop for Standby {
    fn drop(&mut self) {
        // It ends without waiting for its clients.
        self.process.signal(Signal::INT);
        self.process.wait();
    }
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_read_that_a_standby_breaks_off_for_what_it_hears_from_the_primary_is_repeated() {
    let store = &TestStore::new(Kind::Postgres);
    let server = store.prepare_and_consume();
    for (kind, payload) in [("a", "one"), ("slow", "two"), ("a", "three")] {
        server.store(kind, payload);
    }
    drop(server);
    // Queries take for ever while an event of that type is there.
    store.execute(
        "ALTER TABLE events RENAME TO kept; \
            CREATE VIEW events AS SELECT * FROM kept WHERE (SELECT count(*) FROM pg_sleep( \
            (SELECT 3600.0 * count(*) FROM kept WHERE event_type = 'slow'))) = 1",
    );
    let standby = Standby::of(store);
    let url = store.url_with(|url| url.set_port(Some(standby.address.port())).unwrap());
    let mut client = wait_until(|| Client::connect(&url, NoTls).ok());
    let mut tail = Process::start(store.command_at("tail", &url).args(["-n", "all"]).stdout(Stdio::piped()));
    let mut count = |select: &str| -> i64 { client.query_one(select, &[]).unwrap().get(0) };
    let reading = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    wait_until(|| (count(reading) == 1).then_some(()));
    store.execute("DELETE FROM kept WHERE event_type = 'slow'");
    // What a snapshot of the standby still sees is removed.
    store.execute("VACUUM kept");
    let broken_off =
        "SELECT confl_snapshot FROM pg_stat_database_conflicts WHERE datname = current_database()";
    wait_until(|| (count(broken_off) > 0).then_some(()));
    let status = tail.wait();
    assert!(status.success(), "{}", tail.stderr());
    let stdout = tail.stdout();
    assert!(stdout.contains("one") && stdout.contains("three"), "{stdout}");
}
