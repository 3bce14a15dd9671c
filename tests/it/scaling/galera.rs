//! Three nodes of a Galera cluster that are written to at once, and that are killed, paused and come back.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use rustix::process::Signal;
use tempfile::{TempDir, tempdir};

use super::{
    CLIENTS, Clients, Cluster, Database, Follower, Numbered, Server, alert_of_all, faults, kill_rounds,
    numbered,
};
use crate::util::http::event;
use crate::util::receiver::{Arrival, Receiver, Reply};
use crate::util::sse::EventStream;
use crate::util::{Consume, Process, eventctl, free_port, random, refusal_of, wait_until};

const NODES: usize = 3;

struct Galera {
    folder: TempDir,
    /// For clients, and for the nodes among themselves.
    ports: Vec<(u16, u16)>,
    nodes: Vec<Process>,
}

impl Galera {
    fn start() -> Galera {
        let folder = tempdir().unwrap();
        assert!(Command::new("chown").arg("nobody").arg(folder.path()).status().unwrap().success());
        let ports = (0..NODES).map(|_| (free_port(), free_port())).collect();
        let mut galera = Galera { folder, ports, nodes: Vec::new() };
        for number in 0..NODES {
            let mut install = as_nobody("mariadb-install-db");
            install.args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal"]);
            install.arg(format!("--datadir={}", galera.data(number)));
            assert!(install.stdout(Stdio::null()).status().unwrap().success());
            let node = galera.node(number, number == 0);
            galera.nodes.push(node);
            galera.wait_for_nodes(number, number + 1);
        }
        galera
    }

    fn data(&self, number: usize) -> String {
        self.folder.path().join(format!("node{number}")).display().to_string()
    }

    fn node(&self, number: usize, is_first: bool) -> Process {
        let (port, group) = self.ports[number];
        let group_of = |number: usize| format!("127.0.0.1:{}", self.ports[number].1);
        let others: Vec<String> = (0..NODES).filter(|_| !is_first).map(group_of).collect();
        let folder = self.folder.path();
        let state_transfer = free_port();
        let mut command = as_nobody("mariadbd");
        command.arg("--no-defaults").arg(format!("--datadir={}", self.data(number)));
        for setting in [
            &format!("port={port}"),
            "bind-address=127.0.0.1",
            &format!("socket={}", folder.join(format!("{number}.sock")).display()),
            &format!("pid-file={}", folder.join(format!("{number}.pid")).display()),
            "innodb-buffer-pool-size=32M",
            "innodb-flush-log-at-trx-commit=1",
            "innodb-autoinc-lock-mode=2",
            "binlog-format=ROW",
            "wsrep-on=ON",
            &format!("wsrep-provider={}", provider()),
            &format!("wsrep-cluster-address=gcomm://{}", others.join(",")),
            "wsrep-sst-method=rsync",
            "wsrep-node-address=127.0.0.1",
            &format!("wsrep-node-name=node{number}"),
            &format!("wsrep-sst-receive-address=127.0.0.1:{state_transfer}"),
            // A node that is gone is left after seconds.
            &format!(
                "wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:{group};ist.recv_addr=127.0.0.1:{};gcache.size=16M;\
                evs.suspect_timeout=PT2S;evs.inactive_timeout=PT4S;evs.keepalive_period=PT0.5S;evs.inactive_check_period=PT0.5S",
                free_port()
            ),
        ] {
            command.arg(format!("--{setting}"));
        }
        let log = fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
        Process::start_unheard(command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log))
    }

    fn connect(&self, number: usize) -> Option<mysql::Conn> {
        mysql::Conn::new(format!("mysql://root@127.0.0.1:{}/mysql", self.ports[number].0).as_str()).ok()
    }

    /// Waits until a node is ready, in a cluster of so many.
    fn wait_for_nodes(&self, number: usize, count: usize) {
        wait_until(|| {
            let mut connection = self.connect(number)?;
            let mut status = |name: &str| -> Option<String> {
                let row: Option<(String, String)> =
                    connection.query_first(format!("SHOW GLOBAL STATUS LIKE '{name}'")).ok()?;
                Some(row?.1)
            };
            let is_ready =
                status("wsrep_ready")? == "ON" && status("wsrep_cluster_size")? == count.to_string();
            is_ready.then_some(())
        });
    }

    /// All nodes, beginning with one.
    fn url(&self, first: usize) -> String {
        let ports = (0..NODES).map(|number| self.ports[(first + number) % NODES].0);
        let hosts: Vec<String> = ports.map(|port| format!("127.0.0.1:{port}")).collect();
        format!("mysql://root@{}", hosts.join(","))
    }

    /// A process for each node, which it tries first.
    fn cluster<'a>(&self, database: &'a Database, arguments: &[String]) -> Cluster<'a> {
        let mut cluster = Cluster::start(database, 0);
        cluster.processes = (0..NODES)
            .map(|first| {
                let url = format!("{}/{}", self.url(first), database.name);
                let mut command = eventctl(database.directory.path());
                command.args(["consume", "--port", "0", "--require-replicas", "1", "--db", &url]);
                Consume::start_command(command.args(arguments))
            })
            .collect();
        let addresses = cluster.processes.iter().map(|consume| consume.address);
        cluster.addresses.lock().unwrap().extend(addresses);
        cluster
    }

    /// Brings a node back that was killed.
    fn restart(&mut self, number: usize) {
        self.nodes[number] = self.node(number, false);
        self.wait_for_nodes(number, NODES);
    }

    fn administration(&self, number: usize) -> String {
        format!("mysql://root@127.0.0.1:{}/mysql", self.ports[number].0)
    }
}

impl Drop for Galera {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.kill();
        }
    }
}

fn provider() -> &'static str {
    let places = ["/usr/lib/galera/libgalera_smm.so", "/usr/lib64/galera-4/libgalera_smm.so"];
    places
        .into_iter()
        .find(|place| Path::new(place).exists())
        .expect("galera-4 is installed with mariadb-server")
}

/// MariaDB does not run as root.
fn as_nobody(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", program]).current_dir("/");
    command
}

#[test]
#[ignore = "needs MariaDB with Galera, and root"]
fn of_three_galera_nodes_that_are_written_to_at_once_any_may_be_killed() {
    let mut random = random();
    let mut galera = Galera::start();
    let database = Database::at(Server::MariaDb, &galera.administration(0));
    let cluster = galera.cluster(&database, &[]);
    let follower = Follower::start_at(&database, &format!("{}/{}", galera.url(1), database.name));
    let clients = Clients::start(cluster.addresses(), random.u64(..));
    for round in 0..kill_rounds() {
        thread::sleep(Duration::from_millis(random.u64(500..1500)));
        // The first is where the test itself reads.
        let number = 1 + round % (NODES - 1);
        galera.nodes[number].kill();
        let killed = Instant::now();
        let before = clients.acknowledged();
        wait_until(|| (clients.acknowledged() > before + 3 * CLIENTS).then_some(()));
        println!("{} events more {:?} after the kill", 3 * CLIENTS, killed.elapsed());
        galera.wait_for_nodes(0, NODES - 1);
        galera.restart(number);
    }
    let acknowledged = clients.finish();
    let stored = database.events();
    println!("{} events in {} rounds", stored.len(), kill_rounds());
    let followed = follower.finish(&stored);
    assert_eq!(faults(&acknowledged, &stored, &followed), [""; 0]);
    let mut command = database.eventctl("consume");
    let (error, _) = refusal_of(command.args(["--port", "0", "--require-replicas", "3"]), 1);
    assert!(error.contains("its commits wait for 2 replicas, not 3"), "{error}");
}

#[test]
#[ignore = "needs MariaDB with Galera, and root"]
fn a_galera_node_that_is_paused_is_left_for_another() {
    let mut random = random();
    let galera = Galera::start();
    let database = Database::at(Server::MariaDb, &galera.administration(0));
    let cluster = galera.cluster(&database, &[]);
    let follower = Follower::start_at(&database, &format!("{}/{}", galera.url(1), database.name));
    // Its writer, its readers and the follower are all at the node.
    let mut stream = EventStream::open(cluster.processes[1].connect(), "?after=0", &[]);
    let clients = Clients::start(vec![cluster.address(1)], random.u64(..));
    wait_until(|| (clients.acknowledged() > CLIENTS).then_some(()));
    wait_until(|| (!follower.seen.lock().unwrap().is_empty()).then_some(()));
    galera.nodes[1].signal(Signal::STOP);
    let paused = Instant::now();
    let before = clients.acknowledged();
    wait_until(|| (clients.acknowledged() > before + 2 * CLIENTS).then_some(()));
    println!("writes go on {:?} after the pause", paused.elapsed());
    let acknowledged = clients.finish();
    let stored = database.events();
    let streamed: Vec<Numbered> = stored.iter().map(|_| numbered(&stream.event())).collect();
    let followed = follower.finish(&stored);
    galera.nodes[1].signal(Signal::CONT);
    println!("{}", cluster.processes[1].process.stderr());
    assert_eq!(faults(&acknowledged, &stored, &followed), [""; 0]);
    assert_eq!(faults(&acknowledged, &stored, &streamed), [""; 0]);
}

#[test]
#[ignore = "needs MariaDB with Galera, and root"]
fn the_last_of_three_galera_nodes_takes_no_writes_until_it_may() {
    let mut random = random();
    let mut galera = Galera::start();
    let database = Database::at(Server::MariaDb, &galera.administration(0));
    let cluster = galera.cluster(&database, &[]);
    let clients = Clients::start(cluster.addresses(), random.u64(..));
    wait_until(|| (clients.acknowledged() > CLIENTS).then_some(()));
    for node in &mut galera.nodes[1..] {
        node.kill();
    }
    for consume in &cluster.processes {
        wait_until(|| (consume.connect().get("/ready").status == 503).then_some(()));
    }
    // What it may have acknowledged until it noticed was acknowledged by a majority.
    let noticed = clients.acknowledged();
    for consume in &cluster.processes {
        let response = consume.connect().try_post_with_key("a key", event("message", "of a minority"));
        assert!(response.is_ok_and(|response| [503, 504].contains(&response.status)));
    }
    assert_eq!(clients.acknowledged(), noticed);
    // As its operator decides.
    let mut connection = galera.connect(0).unwrap();
    connection.query_drop("SET GLOBAL wsrep_provider_options = 'pc.bootstrap=YES'").unwrap();
    galera.wait_for_nodes(0, 1);
    galera.nodes[1] = galera.node(1, false);
    galera.wait_for_nodes(1, 2);
    galera.restart(2);
    wait_until(|| (clients.acknowledged() > noticed + CLIENTS).then_some(()));
    let acknowledged = clients.finish();
    // Its outcome was unknown.
    let stored: Vec<_> =
        database.events().into_iter().filter(|(_, payload)| payload != "of a minority").collect();
    assert_eq!(faults(&acknowledged, &stored, &stored), [""; 0]);
}

#[test]
#[ignore = "needs MariaDB with Galera, and root"]
fn three_galera_nodes_alert_and_delete_and_refuse_nothing() {
    const KEPT: usize = 200;
    let mut random = random();
    let galera = Galera::start();
    let database = Database::at(Server::MariaDb, &galera.administration(0));
    let receiver = Receiver::start(|_, _| Reply::status(200, ""));
    let mut arguments = alert_of_all(&receiver);
    arguments.extend(["--keep-events".to_owned(), KEPT.to_string()]);
    let cluster = galera.cluster(&database, &arguments);
    let follower = Follower::start_at(&database, &format!("{}/{}", galera.url(1), database.name));
    let clients = Clients::start_some(6, cluster.addresses(), random.u64(..));
    // Retention begins after some seconds.
    wait_until(|| {
        let smallest = database.events().first().map_or(0, |(id, _)| *id);
        (smallest > 1 && clients.acknowledged() > 2 * KEPT).then_some(())
    });
    let mut acknowledged = clients.finish();
    acknowledged.sort_unstable();
    wait_until(|| (database.open_deliveries() == 0).then_some(()));
    wait_until(|| (database.events().len() <= KEPT).then_some(()));
    println!("{} events", acknowledged.len());
    assert_eq!(faults(&acknowledged, &acknowledged, &follower.finish(&acknowledged)), [""; 0]);
    let id = |arrival: &Arrival| -> serde_json::Value { serde_json::from_str(&arrival.body).unwrap() };
    let mut alerted: Vec<i64> =
        receiver.arrivals().iter().map(|arrival| id(arrival)["id"].as_i64().unwrap()).collect();
    alerted.sort_unstable();
    assert_eq!(alerted, acknowledged.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    for consume in &cluster.processes {
        let metrics = consume.connect().get("/metrics");
        let metrics = String::from_utf8(metrics.body).unwrap();
        let refused: Vec<_> = metrics.lines().filter(|line| line.contains("status=\"50")).collect();
        assert_eq!(refused, [""; 0], "{}", consume.process.stderr());
    }
}
