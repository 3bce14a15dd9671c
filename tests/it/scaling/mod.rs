//! Several processes on one database server, and what becomes of their events when they or it crash.

mod failover;
mod galera;
mod quorum;
mod standby;

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use postgres::NoTls;
use rustix::process::Signal;
use tempfile::{TempDir, tempdir};

use crate::util::http::{Connection, event};
use crate::util::receiver::{Arrival, Receiver, Reply};
use crate::util::{Consume, PATIENCE, Process, eventctl, random, wait_until};

/// How many clients write at once.
const CLIENTS: usize = 12;

/// How long the others may wait for a process that has stopped.
const STOP_PATIENCE: Duration = Duration::from_secs(25);

#[derive(Debug, Clone, Copy)]
enum Server {
    Postgres,
    MariaDb,
}

/// An id and the payload that has it; payloads are unique.
type Numbered = (i64, String);

/// Makes a test of each claim for each server.
macro_rules! on_each_server {
    ($($claim:ident)*) => {
        mod postgres_server {
            $(#[test]
            #[ignore = "needs the servers of .ci/servers"]
            fn $claim() {
                super::$claim(super::Server::Postgres);
            })*
        }
        mod mariadb_server {
            $(#[test]
            #[ignore = "needs the servers of .ci/servers"]
            fn $claim() {
                super::$claim(super::Server::MariaDb);
            })*
        }
    };
}

on_each_server! {
    processes_are_killed_and_no_event_is_lost_or_doubled
    the_server_crashes_and_service_resumes_by_itself
    the_first_event_after_a_crash_of_the_idle_server_is_stored
    readers_miss_nothing_that_two_processes_write
    a_process_that_stops_does_not_stop_the_others
    a_process_that_stops_while_it_alerts_does_not_stop_the_others
    alerts_outlast_crashes_of_the_server
}

fn kill_rounds() -> usize {
    std::env::var("TEST_KILL_ROUNDS").map_or(3, |rounds| rounds.parse().unwrap())
}

fn processes_are_killed_and_no_event_is_lost_or_doubled(server: Server) {
    let mut random = random();
    let database = Database::on(server);
    let mut cluster = Cluster::start(&database, 3);
    let follower = Follower::start(&database);
    let clients = Clients::start(cluster.addresses(), random.u64(..));
    for _ in 0..kill_rounds() {
        thread::sleep(Duration::from_millis(random.u64(500..1500)));
        cluster.crash(random.usize(..3));
    }
    let acknowledged = clients.finish();
    let stored = database.events();
    println!("{} events in {} rounds", stored.len(), kill_rounds());
    assert!(acknowledged.len() > 10 * kill_rounds(), "the clients hardly got to write");
    let followed = follower.finish(&stored);
    assert_eq!(faults(&acknowledged, &stored, &followed), [""; 0]);
}

fn the_server_crashes_and_service_resumes_by_itself(server: Server) {
    let mut random = random();
    let servers = OwnServers::start();
    let database = Database::at(server, &servers.url(server));
    let cluster = Cluster::start(&database, 1);
    let follower = Follower::start(&database);
    let clients = Clients::start(cluster.addresses(), random.u64(..));
    let crashes = 1 + kill_rounds() / 3;
    for _ in 0..crashes {
        thread::sleep(Duration::from_millis(random.u64(500..1500)));
        let mut watcher = Connection::open(cluster.address(0));
        let over = AtomicBool::new(false);
        let unready = thread::scope(|scope| {
            let watching = scope.spawn(|| {
                let mut unready = false;
                while !over.load(Ordering::Relaxed) {
                    unready |= watcher.get("/ready").status == 503;
                    thread::sleep(Duration::from_millis(2));
                }
                unready
            });
            servers.crash(server);
            over.store(true, Ordering::Relaxed);
            watching.join().unwrap()
        });
        assert!(unready, "the server was gone, and nobody was told");
        let restarted = Instant::now();
        wait_until(|| (watcher.get("/ready").status == 200).then_some(()));
        println!("ready {:?} after the restart", restarted.elapsed());
        let before = clients.acknowledged();
        wait_until(|| (clients.acknowledged() > before + CLIENTS).then_some(()));
    }
    let acknowledged = clients.finish();
    let stored = database.events();
    println!("{} events and {crashes} crashes", stored.len());
    let followed = follower.finish(&stored);
    assert_eq!(faults(&acknowledged, &stored, &followed), [""; 0]);
}

fn the_first_event_after_a_crash_of_the_idle_server_is_stored(server: Server) {
    let servers = OwnServers::start();
    let database = Database::at(server, &servers.url(server));
    let cluster = Cluster::start(&database, 1);
    cluster.processes[0].store("message", "before");
    // Longer than a connection is trusted without a question.
    thread::sleep(Duration::from_millis(1100));
    servers.crash(server);
    cluster.processes[0].store("message", "after");
    let payloads: Vec<String> = database.events().into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(payloads, ["before", "after"]);
}

fn readers_miss_nothing_that_two_processes_write(server: Server) {
    let mut random = random();
    let database = Database::on(server);
    let cluster = Cluster::start(&database, 2);
    let reading = Cluster::start(&database, 1);
    let follower = Follower::start(&database);
    let clients = Clients::start(cluster.addresses(), random.u64(..));
    let address = reading.address(0);
    let written = AtomicBool::new(false);
    let (acknowledged, polled) = thread::scope(|scope| {
        let poller = scope.spawn(|| poll(address, &written));
        let started = Instant::now();
        let mut breaks = 0;
        while started.elapsed() < Duration::from_secs(3) {
            thread::sleep(Duration::from_millis(random.u64(50..400)));
            database.roll_back_ids();
            breaks += database.break_connections();
        }
        println!("{breaks} connections were broken");
        assert!(breaks > 0);
        let acknowledged = clients.finish();
        written.store(true, Ordering::Relaxed);
        (acknowledged, poller.join().unwrap())
    });
    let stored = database.events();
    println!("{} events", stored.len());
    let followed = follower.finish(&stored);
    assert_eq!(faults(&acknowledged, &stored, &followed), [""; 0]);
    assert_eq!(faults(&acknowledged, &stored, &polled), [""; 0]);
}

fn a_process_that_stops_does_not_stop_the_others(server: Server) {
    stop_one_of_three(server, &[]);
}

fn a_process_that_stops_while_it_alerts_does_not_stop_the_others(server: Server) {
    let receiver = Receiver::start(|_, _| Reply::status(200, ""));
    stop_one_of_three(server, &alert_of_all(&receiver));
}

fn stop_one_of_three(server: Server, arguments: &[String]) {
    let mut random = random();
    let database = Database::on(server);
    let cluster = Cluster::start_with(&database, 3, arguments);
    let follower = Follower::start(&database);
    // Those of the process that stops wait for it.
    let its_own = Clients::start(vec![cluster.address(0)], random.u64(..));
    let others = Clients::start(vec![cluster.address(1), cluster.address(2)], random.u64(..));
    // Most stops hit a transaction.
    for _ in 0..kill_rounds() {
        thread::sleep(Duration::from_millis(random.u64(200..500)));
        cluster.processes[0].process.signal(Signal::STOP);
        let stopped = Instant::now();
        thread::sleep(Duration::from_millis(50));
        let before = others.acknowledged();
        while others.acknowledged() < before + 2 * CLIENTS {
            assert!(stopped.elapsed() < STOP_PATIENCE, "one process stopped, and so did the others");
            thread::sleep(Duration::from_millis(2));
        }
        println!("the others went on after {:?}", stopped.elapsed());
        thread::sleep(Duration::from_secs(3).saturating_sub(stopped.elapsed()));
        let before = its_own.acknowledged();
        cluster.processes[0].process.signal(Signal::CONT);
        wait_until(|| (its_own.acknowledged() > before + CLIENTS).then_some(()));
    }
    let acknowledged = [its_own.finish(), others.finish()].concat();
    let stored = database.events();
    println!("{} events", stored.len());
    let followed = follower.finish(&stored);
    assert_eq!(faults(&acknowledged, &stored, &followed), [""; 0]);
}

/// What has every event sent to a receiver.
fn alert_of_all(receiver: &Receiver) -> Vec<String> {
    let url = receiver.url("/alerts");
    let arguments = ["--alert", &url, "--alert-on", "*", "--alert-allow-private", "--alert-rate", "1000000"];
    arguments.map(str::to_owned).to_vec()
}

fn alerts_outlast_crashes_of_the_server(server: Server) {
    let mut random = random();
    let servers = OwnServers::start();
    let database = Database::at(server, &servers.url(server));
    let receiver = Receiver::start(|_, _| Reply::status(200, ""));
    let cluster = Cluster::start_with(&database, 1, &alert_of_all(&receiver));
    // No more than can be sent.
    let clients = Clients::start_some(2, cluster.addresses(), random.u64(..));
    let crashes = 1 + kill_rounds() / 3;
    for _ in 0..crashes {
        thread::sleep(Duration::from_millis(random.u64(500..1500)));
        servers.crash(server);
        let (before, arrived) = (clients.acknowledged(), receiver.arrivals().len());
        wait_until(|| (clients.acknowledged() > before + 10).then_some(()));
        wait_until(|| (receiver.arrivals().len() > arrived + 10).then_some(()));
    }
    let mut acknowledged: Vec<i64> = clients.finish().into_iter().map(|(id, _)| id).collect();
    let started = Instant::now();
    wait_until(|| {
        thread::sleep(Duration::from_millis(50));
        (database.open_deliveries() == 0).then_some(())
    });
    println!(
        "{} alerts and {crashes} crashes, the last sent after {:?}",
        acknowledged.len(),
        started.elapsed()
    );
    let id = |arrival: &Arrival| -> serde_json::Value { serde_json::from_str(&arrival.body).unwrap() };
    let mut sent: Vec<i64> =
        receiver.arrivals().iter().map(|arrival| id(arrival)["id"].as_i64().unwrap()).collect();
    let count = sent.len();
    sent.sort_unstable();
    sent.dedup();
    acknowledged.sort_unstable();
    assert_eq!(sent, acknowledged);
    assert!(count - sent.len() <= crashes, "{} came twice", count - sent.len());
}

/// All that is wrong with what was stored and what a follower saw, given what was acknowledged to clients
/// that all repeated their events until they were.
fn faults(acknowledged: &[Numbered], stored: &[Numbered], followed: &[Numbered]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut ids = HashMap::new();
    for (id, payload) in stored {
        if let Some(first) = ids.insert(payload, id) {
            faults.push(format!("stored twice: {first} and {id}"));
        }
    }
    for (id, payload) in acknowledged {
        match ids.remove(payload) {
            Some(stored) if stored == id => {}
            Some(stored) => faults.push(format!("acknowledged as {id}, stored as {stored}")),
            None => faults.push(format!("lost: {id}")),
        }
    }
    faults.extend(ids.values().map(|id| format!("never acknowledged: {id}")));
    let (mut stored, mut followed) = (stored.iter().peekable(), followed.iter().peekable());
    loop {
        match (stored.peek(), followed.peek()) {
            (None, None) => return faults,
            (Some(expected), Some(seen)) if expected == seen => {
                followed.next();
                stored.next();
            }
            (Some((expected, _)), Some((seen, _))) if expected < seen => {
                faults.push(format!("not followed: {expected}"));
                stored.next();
            }
            (Some((expected, _)), None) => {
                faults.push(format!("not followed: {expected}"));
                stored.next();
            }
            (_, Some((seen, _))) => {
                faults.push(format!("followed, but not stored or not in its place: {seen}"));
                followed.next();
            }
        }
    }
}

#[test]
fn the_look_for_faults_finds_them() {
    let events = |ids: &[i64]| -> Vec<Numbered> { ids.iter().map(|id| (*id, id.to_string())).collect() };
    let good = events(&[1, 2, 5]);
    assert_eq!(faults(&events(&[5, 1, 2]), &good, &good), [""; 0]);
    assert_eq!(faults(&events(&[1, 2, 3, 5]), &good, &good), ["lost: 3"]);
    assert_eq!(faults(&events(&[1, 2]), &good, &good), ["never acknowledged: 5"]);
    let moved = [(4, "2".to_owned()), (1, "1".to_owned()), (5, "5".to_owned())];
    assert_eq!(faults(&moved, &good, &good), ["acknowledged as 4, stored as 2"]);
    let doubled = [good.clone(), vec![(6, "2".to_owned())]].concat();
    assert_eq!(faults(&good, &doubled, &doubled)[0], "stored twice: 2 and 6");
    assert_eq!(faults(&good, &good, &events(&[1, 5])), ["not followed: 2"]);
    assert_eq!(faults(&good, &good, &events(&[1, 2])), ["not followed: 5"]);
    for followed in [&[1, 2, 2, 5], &[1, 2, 3, 5], &[1, 2, 5, 6], &[1, 2, 5, 1]] {
        let found = faults(&good, &good, &events(followed));
        assert!(found.len() == 1 && found[0].starts_with("followed, but not"), "{found:?}");
    }
    let other = [(1, "1".to_owned()), (2, "x".to_owned()), (5, "5".to_owned())];
    assert!(!faults(&good, &good, &other).is_empty());
}

/// A prepared database of its own on a server.
struct Database {
    server: Server,
    /// Where an administrator logs in.
    administration: String,
    name: String,
    directory: TempDir,
}

impl Database {
    /// On the server that is there for all tests.
    fn on(server: Server) -> Database {
        let variable = match server {
            Server::Postgres => "TEST_POSTGRES_URL",
            Server::MariaDb => "TEST_MYSQL_URL",
        };
        let url = std::env::var(variable).unwrap_or_else(|_| {
            panic!("{variable} is not set: run eval \"$(.ci/servers start FOLDER)\" first")
        });
        Database::at(server, &url)
    }

    fn at(server: Server, administration: &str) -> Database {
        let name = format!("scaling_{:016x}", fastrand::Rng::new().u64(..));
        let administration = administration.to_owned();
        let database = Database { server, administration, name, directory: tempdir().unwrap() };
        database.administrate(&format!("CREATE DATABASE {}", database.name)).unwrap();
        let prepared = database.eventctl("init-db").output().unwrap();
        assert!(prepared.status.success(), "{prepared:?}");
        database
    }

    fn administrate(&self, statement: &str) -> Result<(), String> {
        match self.server {
            Server::Postgres => postgres_client(&self.administration)
                .and_then(|mut client| client.batch_execute(statement))
                .map_err(|error| error.to_string()),
            Server::MariaDb => mysql::Conn::new(self.administration.as_str())
                .and_then(|mut connection| connection.query_drop(statement))
                .map_err(|error| error.to_string()),
        }
    }

    fn url(&self) -> String {
        let (server, database) = self.administration.rsplit_once('/').unwrap();
        let parameters = database.find('?').map_or("", |at| &database[at..]);
        format!("{server}/{}{parameters}", self.name)
    }

    /// A subcommand with this database.
    fn eventctl(&self, subcommand: &str) -> Command {
        let mut command = eventctl(self.directory.path());
        command.args([subcommand, "--db", &self.url()]);
        command
    }

    fn postgres(&self) -> postgres::Client {
        postgres_client(&self.url()).unwrap()
    }

    fn mysql(&self) -> mysql::Conn {
        mysql::Conn::new(self.url().as_str()).unwrap()
    }

    /// What is stored, read without the program.
    fn events(&self) -> Vec<Numbered> {
        let select = "SELECT id, event_payload FROM events ORDER BY id";
        match self.server {
            Server::Postgres => {
                let rows = self.postgres().query(select, &[]).unwrap();
                rows.iter().map(|row| (row.get(0), row.get(1))).collect()
            }
            Server::MariaDb => self.mysql().query(select).unwrap(),
        }
    }

    /// How many deliveries are not sent.
    fn open_deliveries(&self) -> i64 {
        let select = "SELECT count(*) FROM deliveries WHERE state <> 'sent'";
        match self.server {
            Server::Postgres => self.postgres().query_one(select, &[]).unwrap().get(0),
            Server::MariaDb => self.mysql().query_first(select).unwrap().unwrap(),
        }
    }

    /// Stores an event and takes it back, in a transaction that others have to wait for.
    fn roll_back_ids(&self) {
        let update = "UPDATE last_event SET id = id + 1";
        let insert = "INSERT INTO events SELECT id, 0, '', 'rolled back' FROM last_event";
        let pause = Duration::from_millis(30);
        match self.server {
            Server::Postgres => {
                let mut client = self.postgres();
                client.batch_execute(&format!("BEGIN; {update}; {insert}")).unwrap();
                thread::sleep(pause);
                client.batch_execute("ROLLBACK").unwrap();
            }
            Server::MariaDb => {
                let mut connection = self.mysql();
                for statement in ["BEGIN", update, insert] {
                    connection.query_drop(statement).unwrap();
                }
                thread::sleep(pause);
                connection.query_drop("ROLLBACK").unwrap();
            }
        }
    }

    /// Breaks all connections to the database, whatever they are doing; how many there were.
    fn break_connections(&self) -> usize {
        match self.server {
            Server::Postgres => {
                let select = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                    WHERE datname = current_database() AND pid != pg_backend_pid()";
                self.postgres().query(select, &[]).unwrap().len()
            }
            Server::MariaDb => {
                let mut connection = self.mysql();
                let select = "SELECT id FROM information_schema.processlist \
                    WHERE db = DATABASE() AND id != CONNECTION_ID()";
                let ids: Vec<u64> = connection.query(select).unwrap();
                // Some may have gone by themselves.
                ids.iter().filter(|id| connection.query_drop(format!("KILL {id}")).is_ok()).count()
            }
        }
    }
}

/// Waits no longer than a moment for each server of a URL: one that is cut off does not say so.
fn postgres_client(url: &str) -> Result<postgres::Client, postgres::Error> {
    let mut config: postgres::Config = url.parse()?;
    config.connect_timeout(Duration::from_secs(2)).connect(NoTls)
}

impl Drop for Database {
    fn drop(&mut self) {
        let force = if let Server::Postgres = self.server { " WITH (FORCE)" } else { "" };
        let _ = self.administrate(&format!("DROP DATABASE {}{force}", self.name));
    }
}

/// Servers of a test that crashes them; they stop with it.
struct OwnServers {
    folder: TempDir,
    exports: String,
}

impl OwnServers {
    fn start() -> OwnServers {
        let folder = tempdir().unwrap();
        let started = OwnServers::script("start", folder.path()).output().unwrap();
        let servers = OwnServers { folder, exports: String::from_utf8(started.stdout).unwrap() };
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        servers
    }

    fn script(command: &str, folder: &Path) -> Command {
        let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/servers"));
        script.arg(command).arg(folder).stdin(Stdio::null());
        script
    }

    fn url(&self, server: Server) -> String {
        let label = match server {
            Server::Postgres => "export TEST_POSTGRES_URL=",
            Server::MariaDb => "export TEST_MYSQL_URL=",
        };
        self.exports.lines().find_map(|line| line.strip_prefix(label)).unwrap().to_owned()
    }

    /// Kills a server and starts it again.
    fn crash(&self, server: Server) {
        let command = match server {
            Server::Postgres => "restart-postgres",
            Server::MariaDb => "restart-mysql",
        };
        assert!(OwnServers::script(command, self.folder.path()).status().unwrap().success());
    }
}

impl Drop for OwnServers {
    fn drop(&mut self) {
        let _ = OwnServers::script("stop", self.folder.path()).output();
    }
}

/// Where the processes are, for clients that outlive them.
type Addresses = Arc<Mutex<Vec<SocketAddr>>>;

/// Processes with one database.
struct Cluster<'a> {
    database: &'a Database,
    /// What each is started with.
    arguments: Vec<String>,
    processes: Vec<Consume>,
    addresses: Addresses,
}

impl Cluster<'_> {
    fn start(database: &Database, count: usize) -> Cluster<'_> {
        Cluster::start_with(database, count, &[])
    }

    fn start_with<'a>(database: &'a Database, count: usize, arguments: &[String]) -> Cluster<'a> {
        let mut cluster = Cluster {
            database,
            arguments: arguments.to_vec(),
            processes: Vec::new(),
            addresses: Arc::default(),
        };
        cluster.processes = (0..count).map(|_| cluster.consume()).collect();
        let addresses = cluster.processes.iter().map(|consume| consume.address);
        cluster.addresses.lock().unwrap().extend(addresses);
        cluster
    }

    fn consume(&self) -> Consume {
        let mut command = self.database.eventctl("consume");
        Consume::start_command(command.args(["--port", "0"]).args(&self.arguments))
    }

    fn address(&self, number: usize) -> SocketAddr {
        self.processes[number].address
    }

    fn addresses(&self) -> Addresses {
        Arc::clone(&self.addresses)
    }

    /// Kills a process and starts another in its place.
    fn crash(&mut self, number: usize) {
        self.processes[number].process.kill();
        self.processes[number] = self.consume();
        self.addresses.lock().unwrap()[number] = self.processes[number].address;
    }
}

/// Clients that write event after event, each with one key until it is acknowledged.
struct Clients {
    threads: Vec<thread::JoinHandle<Vec<Numbered>>>,
    acknowledged: Arc<AtomicUsize>,
    done: Arc<AtomicBool>,
}

impl Clients {
    fn start(addresses: impl Into<ClientAddresses>, seed: u64) -> Clients {
        Clients::start_some(CLIENTS, addresses, seed)
    }

    fn start_some(count: usize, addresses: impl Into<ClientAddresses>, seed: u64) -> Clients {
        let ClientAddresses(addresses) = addresses.into();
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let done = Arc::new(AtomicBool::new(false));
        let threads = (0..count)
            .map(|number| {
                let client = Client {
                    name: format!("{seed:x}-{number}"),
                    addresses: Arc::clone(&addresses),
                    random: fastrand::Rng::with_seed(seed.wrapping_add(number as u64)),
                    connection: None,
                };
                let (acknowledged, done) = (Arc::clone(&acknowledged), Arc::clone(&done));
                thread::spawn(move || client.write_until(&done, &acknowledged))
            })
            .collect();
        Clients { threads, acknowledged, done }
    }

    /// How many events are acknowledged by now.
    fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Has each client finish its event; all that was acknowledged.
    fn finish(self) -> Vec<Numbered> {
        self.done.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|client| client.join().unwrap()).collect()
    }
}

/// Where clients find processes, which may move.
struct ClientAddresses(Addresses);

impl From<Addresses> for ClientAddresses {
    fn from(addresses: Addresses) -> ClientAddresses {
        ClientAddresses(addresses)
    }
}

impl From<Vec<SocketAddr>> for ClientAddresses {
    fn from(addresses: Vec<SocketAddr>) -> ClientAddresses {
        ClientAddresses(Arc::new(Mutex::new(addresses)))
    }
}

struct Client {
    name: String,
    addresses: Addresses,
    random: fastrand::Rng,
    connection: Option<Connection>,
}

impl Client {
    fn write_until(mut self, done: &AtomicBool, count: &AtomicUsize) -> Vec<Numbered> {
        let mut acknowledged = Vec::new();
        while !done.load(Ordering::Relaxed) {
            let payload = format!("{}-{}", self.name, acknowledged.len());
            let id = self.store(&payload);
            // Whoever asks again hears the same, at any process.
            if self.random.u8(..8) == 0 {
                self.connection = None;
                assert_eq!(self.store(&payload), id, "{payload}");
            }
            acknowledged.push((id, payload));
            count.fetch_add(1, Ordering::Relaxed);
        }
        acknowledged
    }

    /// Repeats an event, at one process or another, until it is acknowledged; its id.
    fn store(&mut self, payload: &str) -> i64 {
        let body = event("message", payload);
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < 2 * PATIENCE, "no process takes {payload}");
            let connection = self.connection.take().or_else(|| self.connect());
            let response = connection.map(|mut connection| {
                let response = connection.try_post_with_key(payload, &body);
                (connection, response)
            });
            match response {
                Some((connection, Ok(response))) if response.status == 201 => {
                    self.connection = Some(connection);
                    let location = response.header("location").unwrap();
                    return location.strip_prefix("event/").unwrap().parse().unwrap();
                }
                Some((_, Ok(response))) => {
                    assert!([503, 504].contains(&response.status), "{response:?}");
                }
                Some((_, Err(_))) | None => {}
            }
            thread::sleep(Duration::from_millis(self.random.u64(1..30)));
        }
    }

    fn connect(&mut self) -> Option<Connection> {
        let address = *self.random.choice(self.addresses.lock().unwrap().iter())?;
        Connection::try_open(address).ok()
    }
}

/// A `tail` that follows a database from its first event.
struct Follower {
    process: Process,
    seen: Arc<Mutex<Vec<Numbered>>>,
}

impl Follower {
    fn start(database: &Database) -> Follower {
        Follower::start_at(database, &database.url())
    }

    /// One that reads the database at another URL.
    fn start_at(database: &Database, url: &str) -> Follower {
        Follower::start_with(database, &["--db", url])
    }

    /// One that follows the stream of a process.
    fn start_over_http(database: &Database, process: &Consume) -> Follower {
        Follower::start_with(database, &["--endpoint", &process.url("")])
    }

    fn start_with(database: &Database, source: &[&str]) -> Follower {
        let mut command = eventctl(database.directory.path());
        command.arg("tail").args(source);
        let arguments = ["--follow", "--lines", "all", "--output", "json"];
        let mut process = Process::start(command.args(arguments).stdout(Stdio::piped()));
        let output = BufReader::new(process.child().stdout.take().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                kept.lock().unwrap().push(numbered(&serde_json::from_str(&line).unwrap()));
            }
        });
        Follower { process, seen }
    }

    /// What it has seen, once it is up to date or has had the time.
    fn finish(mut self, stored: &[Numbered]) -> Vec<Numbered> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE / 2 && self.seen.lock().unwrap().last() != stored.last() {
            thread::sleep(Duration::from_millis(2));
        }
        // What it sees again comes later.
        thread::sleep(Duration::from_millis(200));
        println!("the follower: {:?}", self.process.stderr());
        self.process.kill();
        self.seen.lock().unwrap().clone()
    }
}

fn numbered(event: &serde_json::Value) -> Numbered {
    (event["id"].as_i64().unwrap(), event["event_payload"].as_str().unwrap().to_owned())
}

/// Follows the events by their ids over HTTP, until all is written and seen.
fn poll(address: SocketAddr, written: &AtomicBool) -> Vec<Numbered> {
    let mut connection = Connection::open(address);
    let mut seen: Vec<Numbered> = Vec::new();
    loop {
        let over = written.load(Ordering::Relaxed);
        let after = seen.last().map_or(0, |(id, _)| *id);
        let response = connection.get(&format!("/event?after={after}&limit=1000"));
        // A broken connection to the server is told, and the next request has another.
        if response.status == 503 {
            continue;
        }
        assert_eq!(response.status, 200, "{response:?}");
        let events = response.json();
        let events = events.as_array().unwrap();
        if over && events.is_empty() {
            return seen;
        }
        seen.extend(events.iter().map(numbered));
    }
}
