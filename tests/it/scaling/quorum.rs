//! Three PostgreSQL servers, each in a network namespace of its own, of which the primary waits for one of its standbys;
//! and what a manager such as Patroni does when the primary is gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::{TempDir, tempdir};

use crate::util::{Process, wait_until};

const SERVERS: usize = 3;

/// Whether the primary waits for a standby before it acknowledges a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    Quorum,
    Asynchronous,
}

/// What happens to the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The machine loses its power.
    Kill,
    /// All processes stop, and go on once another server is the primary.
    Pause,
    /// The network drops what the server sends and gets.
    CutOff,
}

pub struct Quorum {
    replication: Replication,
    network: Network,
    folder: TempDir,
    servers: Vec<Server>,
    primary: usize,
}

impl Quorum {
    pub fn start(replication: Replication) -> Quorum {
        let network = Network::create();
        let folder = tempdir().unwrap();
        run(Command::new("chown").arg("nobody").arg(folder.path()));
        let mut quorum = Quorum { replication, network, folder, servers: Vec::new(), primary: 0 };
        let data = quorum.data(0, 0);
        let mut make = as_nobody(&program("initdb"));
        run(make.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-D"]).arg(&data));
        let rules = "host all,replication all 0.0.0.0/0 trust\nlocal all all trust\n";
        fs::write(data.join("pg_hba.conf"), rules).unwrap();
        quorum.servers.push(quorum.server(0, data));
        quorum.servers[0].wait_for_start();
        for number in 1..SERVERS {
            let standby = quorum.standby(number, 0);
            quorum.servers.push(standby);
        }
        quorum.wait_for_standbys();
        quorum
    }

    /// All servers, of which clients find the one that takes writes.
    pub fn url(&self) -> String {
        let hosts: Vec<String> = (0..SERVERS).map(|number| self.network.address(number)).collect();
        format!("postgres://postgres@{}/postgres?target_session_attrs=read-write", hosts.join(","))
    }

    fn data(&self, number: usize, generation: usize) -> PathBuf {
        self.folder.path().join(format!("data-{number}-{generation}"))
    }

    /// Starts a server on its data.
    fn server(&self, number: usize, data: PathBuf) -> Server {
        let names = match self.replication {
            Replication::Quorum => "ANY 1 (server0, server1, server2)",
            Replication::Asynchronous => "",
        };
        let mut command = self.network.command(number, &program("postgres"));
        command.arg("-D").arg(&data).args(["-c", &format!("cluster_name=server{number}")]);
        for setting in [
            "listen_addresses=*",
            "unix_socket_directories=",
            "shared_buffers=16MB",
            "max_connections=60",
            "wal_keep_size=64MB",
            "wal_receiver_status_interval=1s",
            &format!("synchronous_standby_names={names}"),
        ] {
            command.args(["-c", setting]);
        }
        let process = Process::start(command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()));
        Server { number, address: self.network.address(number), process, data }
    }

    /// Makes a server a new standby of another.
    fn standby(&self, number: usize, primary: usize) -> Server {
        let generation = self.servers.get(number).map_or(0, |server| server.generation() + 1);
        let data = self.data(number, generation);
        let mut copy = self.network.command(number, &program("pg_basebackup"));
        copy.args(["--write-recovery-conf", "--checkpoint=fast", "-U", "postgres", "-h"]);
        copy.arg(self.network.address(primary)).arg("--pgdata").arg(&data).current_dir("/");
        copy.stdin(Stdio::null()).stderr(Stdio::null());
        // A machine that was cut off takes a moment to find the others again.
        wait_until(|| copy.status().unwrap().success().then_some(()));
        let server = self.server(number, data);
        server.wait_for_start();
        server
    }

    /// Waits until all standbys hear from the primary.
    fn wait_for_standbys(&self) {
        let select = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
        wait_until(|| {
            let streaming: i64 = self.servers[self.primary].connect()?.query_one(select, &[]).ok()?.get(0);
            (streaming == SERVERS as i64 - 1).then_some(())
        });
    }

    /// Keeps the standbys from hearing from the primary, until it is gone.
    pub fn delay_standbys(&self) {
        self.standbys().for_each(|standby| self.network.set_link(standby.number, "down"));
    }

    fn standbys(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().filter(|server| server.number != self.primary)
    }

    /// Takes the primary away, and makes another server the primary, as a manager does that has noticed: both standbys
    /// leave the old one, the more advanced is promoted, and the other follows it. Returns when that is done.
    pub fn fail_over(&mut self, fault: Fault) -> Instant {
        let old = self.primary;
        match fault {
            Fault::Kill => self.servers[old].kill(),
            Fault::Pause => self.servers[old].signal_all(Signal::STOP),
            Fault::CutOff => self.network.set_link(old, "down"),
        }
        self.standbys().for_each(|standby| self.network.set_link(standby.number, "up"));
        self.standbys().for_each(|standby| standby.follow(None));
        let next = self.standbys().max_by_key(|standby| standby.position()).unwrap().number;
        let address = self.network.address(next);
        self.servers[next].run("SELECT pg_promote(true)");
        let promoted = Instant::now();
        for standby in self.standbys().filter(|standby| standby.number != next) {
            standby.follow(Some(&address));
        }
        self.primary = next;
        promoted
    }

    /// Brings the old primary back: for a moment as it was, and then as a new standby.
    pub fn rejoin(&mut self, fault: Fault) {
        let is_missing = |quorum: &Quorum, number: usize| {
            let select =
                format!("SELECT 1 FROM pg_stat_replication WHERE application_name = 'server{number}'");
            let mut primary = quorum.servers[quorum.primary].connect().unwrap();
            number != quorum.primary && primary.query(&select, &[]).unwrap().is_empty()
        };
        let other =
            |quorum: &Quorum| (0..SERVERS).filter(|number| is_missing(quorum, *number)).collect::<Vec<_>>();
        wait_until(|| (other(self).len() == 1).then_some(()));
        let old = other(self)[0];
        match fault {
            Fault::Kill => {}
            Fault::Pause => self.servers[old].signal_all(Signal::CONT),
            Fault::CutOff => self.network.set_link(old, "up"),
        }
        if fault != Fault::Kill {
            // It still takes itself for the primary.
            thread::sleep(Duration::from_millis(300));
            self.servers[old].kill();
        }
        self.servers[old] = self.standby(old, self.primary);
        self.wait_for_standbys();
    }
}

impl Drop for Quorum {
    fn drop(&mut self) {
        for server in &mut self.servers {
            server.kill();
        }
    }
}

struct Server {
    number: usize,
    address: String,
    process: Process,
    data: PathBuf,
}

impl Server {
    fn generation(&self) -> usize {
        self.data.to_str().unwrap().rsplit_once('-').unwrap().1.parse().unwrap()
    }

    fn connect(&self) -> Option<Client> {
        let url = format!("postgres://postgres@{}/postgres?connect_timeout=5", self.address);
        Client::connect(&url, NoTls).ok()
    }

    fn wait_for_start(&self) {
        wait_until(|| self.connect().map(drop));
    }

    fn run(&self, statement: &str) {
        self.connect().unwrap().batch_execute(statement).unwrap();
    }

    /// Has a standby hear from another server, or from none.
    fn follow(&self, primary: Option<&str>) {
        let source = primary.map_or_else(String::new, |host| format!("host={host} user=postgres"));
        self.run(&format!("ALTER SYSTEM SET primary_conninfo = '{source}'"));
        self.run("SELECT pg_reload_conf()");
        let select = "SELECT count(*) FROM pg_stat_wal_receiver";
        let expected = i64::from(primary.is_some());
        wait_until(|| {
            let receivers: i64 = self.connect()?.query_one(select, &[]).ok()?.get(0);
            (receivers == expected).then_some(())
        });
    }

    /// How much of the log it has.
    fn position(&self) -> i64 {
        let select = "SELECT (greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0')::bigint";
        self.connect().unwrap().query_one(select, &[]).unwrap().get(0)
    }

    /// The postmaster and its children.
    fn processes(&self) -> Vec<Pid> {
        let postmaster = self.process.pid();
        let children = format!("/proc/{0}/task/{0}/children", postmaster.as_raw_nonzero());
        let children = fs::read_to_string(children).unwrap_or_default();
        let pids = children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        std::iter::once(postmaster).chain(pids).collect()
    }

    fn signal_all(&self, signal: Signal) {
        for process in self.processes() {
            // A child may have ended by itself.
            let _ = kill_process(process, signal);
        }
    }

    fn kill(&mut self) {
        self.signal_all(Signal::KILL);
        self.process.kill();
    }
}

/// Network namespaces on one bridge, which has a subnet of its own.
struct Network {
    name: String,
    subnet: u8,
}

impl Network {
    fn create() -> Network {
        let mut random = fastrand::Rng::new();
        let network = Network { name: format!("q{:06x}", random.u32(..1 << 24)), subnet: random.u8(..) };
        let bridge = &network.name;
        ip(&["link", "add", bridge, "type", "bridge"]);
        ip(&["address", "add", &format!("{}.1/24", network.prefix()), "dev", bridge]);
        ip(&["link", "set", bridge, "up"]);
        for number in 0..SERVERS {
            let (namespace, link) = (network.namespace(number), network.link(number));
            ip(&["netns", "add", &namespace]);
            ip(&["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &namespace]);
            ip(&["link", "set", &link, "master", bridge, "up"]);
            let address = format!("{}/24", network.address(number));
            ip(&["-n", &namespace, "address", "add", &address, "dev", "eth0"]);
            ip(&["-n", &namespace, "link", "set", "eth0", "up"]);
            ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        }
        network
    }

    fn prefix(&self) -> String {
        format!("10.203.{}", self.subnet)
    }

    fn address(&self, number: usize) -> String {
        format!("{}.{}", self.prefix(), 10 + number)
    }

    fn namespace(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    fn link(&self, number: usize) -> String {
        format!("{}v{number}", self.name)
    }

    fn set_link(&self, number: usize, state: &str) {
        ip(&["link", "set", &self.link(number), state]);
    }

    /// A program of PostgreSQL's on the machine of a server.
    fn command(&self, number: usize, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(number), "setpriv"]);
        command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(program);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for number in 0..SERVERS {
            let _ = Command::new("ip").args(["netns", "delete", &self.namespace(number)]).status();
        }
        let _ = Command::new("ip").args(["link", "delete", &self.name]).status();
    }
}

fn ip(arguments: &[&str]) {
    run(Command::new("ip").args(arguments));
}

fn program(name: &str) -> PathBuf {
    let folders = fs::read_dir("/usr/lib/postgresql").unwrap();
    let newest = folders.map(|folder| folder.unwrap().path()).max().unwrap();
    newest.join("bin").join(name)
}

/// PostgreSQL does not run as root.
fn as_nobody(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(program).current_dir("/");
    command
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}
