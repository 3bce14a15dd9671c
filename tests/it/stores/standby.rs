//! Reads on a hot standby of PostgreSQL.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use ::postgres::{Client, NoTls};
use rustix::process::{Signal, geteuid};
use tempfile::TempDir;

use super::database::{Kind, TestStore};
use crate::util::follower::Follower;
use crate::util::http::Connection;
use crate::util::sse::EventStream;
use crate::util::{Process, eventctl, refusal_of, wait_until};

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

/// The ids that a listing has, and how far the replica is that it was read from.
fn listing(connection: &mut Connection) -> (Vec<i64>, Option<i64>) {
    let response = connection.get("/event");
    let events = response.json();
    let ids = events.as_array().unwrap().iter().map(|event| event["id"].as_i64().unwrap()).collect();
    (ids, response.header("replica-position").map(|id| id.parse().unwrap()))
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn listings_and_streams_of_a_replica_say_how_far_it_is_and_events_are_looked_up_in_the_store() {
    let store = &TestStore::new(Kind::Postgres);
    let alone = store.prepare_and_consume();
    alone.store("a", "one");
    assert_eq!(listing(&mut alone.connect()), (vec![1], None));
    let standby = Standby::of(store);
    let url = store.url_with(|url| url.set_port(Some(standby.address.port())).unwrap());
    let mut client = wait_until(|| Client::connect(&url, NoTls).ok());
    let server = store.consume(&["--read-db", &url]);
    let mut stream = EventStream::open(server.connect(), "?after=0", &[]);
    assert_eq!(stream.payloads(1), ["one"]);
    let mut over_http = eventctl(store.path());
    let over_http = Follower::start(over_http.args(["tail", "-n", "all", "--endpoint", &server.url("")]));
    let of_standby = Follower::start(store.command_at("tail", &url).args(["-n", "all"]));
    client.execute("SELECT pg_wal_replay_pause()", &[]).unwrap();
    server.store("a", "two");
    assert_eq!(listing(&mut server.connect()), (vec![1], Some(1)));
    assert_eq!(server.connect().get("/event/2").json()["event_payload"], "two");
    // Of several servers a process reads the primary, if the URL does not say otherwise.
    let server_url: url::Url = store.url.parse().unwrap();
    let hosts = [standby.address.port(), server_url.port().unwrap()].map(|port| format!("127.0.0.1:{port}"));
    let both = format!("postgres://postgres@{}/{}", hosts.join(","), store.name);
    let of_primary = store.start(&mut store.command_at("consume", &both));
    assert_eq!(listing(&mut of_primary.connect()), (vec![1, 2], None));
    // A client that has seen more than the replica waits for it, and is not sent all of it again.
    let mut ahead = EventStream::open(server.connect(), "", &[("Last-Event-ID", "2")]);
    assert_eq!(ahead.block().id.as_deref(), Some("2"));
    server.store("a", "three");
    client.execute("SELECT pg_wal_replay_resume()", &[]).unwrap();
    assert_eq!(ahead.payloads(1), ["three"]);
    assert_eq!(stream.payloads(2), ["two", "three"]);
    wait_until(|| (listing(&mut server.connect()) == (vec![1, 2, 3], Some(3))).then_some(()));
    for follower in [over_http, of_standby] {
        assert_eq!([(); 3].map(|()| follower.next_payload()), ["one", "two", "three"]);
        follower.assert_nothing_else();
    }
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_replica_that_cannot_be_read_is_refused_at_start() {
    let store = &TestStore::new(Kind::Postgres);
    store.prepare();
    let unreachable = store.url_with(|url| url.set_port(Some(1)).unwrap());
    let refusal = |replica: &str, code: i32| {
        let mut command = store.command("consume");
        let arguments = ["--read-db", replica, "--store-timeout", "1s"];
        refusal_of(command.args(arguments).env("RUST_LOG", "error"), code)
    };
    let (error, _) = refusal(&unreachable, 1);
    assert!(error.contains("cannot connect to"), "{error}");
    let (error, _) = refusal("events.db", 2);
    assert!(error.contains("a file has no replicas"), "{error}");
}
