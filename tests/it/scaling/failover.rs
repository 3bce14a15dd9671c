//! The primary of three PostgreSQL servers is gone, and another takes its place.

use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use super::quorum::{Fault, Quorum, Replication};
use super::{CLIENTS, Clients, Cluster, Database, Follower, Server, faults, kill_rounds, poll};
use crate::util::http::event;
use crate::util::{Consume, SetOnDrop, random, refusal_of, wait_until};

fn no_acknowledged_event_is_lost_when_the_primary(fault: Fault) {
    let mut random = random();
    let mut quorum = Quorum::start(Replication::Quorum);
    let database = Database::at(Server::Postgres, &quorum.url());
    let cluster = Cluster::start(&database, 3);
    let of_primary = Follower::start(&database);
    let standbys = database.url().replace("read-write", "prefer-standby");
    let of_standby = Follower::start_at(&database, &standbys);
    let reading =
        Consume::start_command(database.eventctl("consume").args(["--port", "0", "--read-db", &standbys]));
    let over_http = Follower::start_over_http(&database, &reading);
    let clients = Clients::start(cluster.addresses(), random.u64(..));
    let address = cluster.address(0);
    let written = AtomicBool::new(false);
    let (acknowledged, polled) = thread::scope(|scope| {
        let poller = scope.spawn(|| poll(address, &written));
        let over = SetOnDrop(&written);
        for _ in 0..kill_rounds() {
            thread::sleep(Duration::from_millis(random.u64(500..1500)));
            let promoted = quorum.fail_over(fault);
            let before = clients.acknowledged();
            wait_until(|| (clients.acknowledged() > before + CLIENTS).then_some(()));
            println!("{fault:?}: writes go on {:?} after the promotion", promoted.elapsed());
            quorum.rejoin(fault);
        }
        let acknowledged = clients.finish();
        drop(over);
        (acknowledged, poller.join().unwrap())
    });
    let stored = database.events();
    println!("{} events in {} rounds", stored.len(), kill_rounds());
    let [of_primary, of_standby, over_http] =
        [of_primary, of_standby, over_http].map(|follower| follower.finish(&stored));
    for followed in [of_primary, of_standby, over_http, polled] {
        assert_eq!(faults(&acknowledged, &stored, &followed), [""; 0]);
    }
}

#[test]
#[ignore = "needs PostgreSQL and root"]
fn no_acknowledged_event_is_lost_when_the_primary_is_killed() {
    no_acknowledged_event_is_lost_when_the_primary(Fault::Kill);
}

#[test]
#[ignore = "needs PostgreSQL and root"]
fn no_acknowledged_event_is_lost_when_the_primary_is_paused() {
    no_acknowledged_event_is_lost_when_the_primary(Fault::Pause);
}

#[test]
#[ignore = "needs PostgreSQL and root"]
fn no_acknowledged_event_is_lost_when_the_primary_is_cut_off() {
    no_acknowledged_event_is_lost_when_the_primary(Fault::CutOff);
}

/// What the others would not notice without it.
#[test]
#[ignore = "needs PostgreSQL and root"]
fn with_asynchronous_standbys_acknowledged_events_are_lost_and_followers_are_notified() {
    let mut random = random();
    let mut quorum = Quorum::start(Replication::Asynchronous);
    let database = Database::at(Server::Postgres, &quorum.url());
    let cluster = Cluster::start(&database, 1);
    let mut follower = Follower::start_over_http(&database, &cluster.processes[0]);
    let clients = Clients::start(cluster.addresses(), random.u64(..));
    wait_until(|| (clients.acknowledged() > CLIENTS).then_some(()));
    quorum.delay_standbys();
    let before = clients.acknowledged();
    wait_until(|| (clients.acknowledged() > before + CLIENTS).then_some(()));
    let acknowledged = clients.finish();
    wait_until(|| (follower.seen.lock().unwrap().len() == acknowledged.len()).then_some(()));
    // A server that is only killed leaves the system what it has not sent.
    quorum.fail_over(Fault::CutOff);
    let found = faults(&acknowledged, &database.events(), &[]);
    let lost = found.iter().filter(|fault| fault.starts_with("lost")).count();
    println!("{lost} of {} acknowledged events are lost", acknowledged.len());
    assert!(lost > 0, "a failover that loses events is not noticed");
    // The ids of what was lost are given again.
    let payloads: Vec<String> = (0..lost + CLIENTS).map(|number| format!("{number} afterwards")).collect();
    let events: Vec<String> = payloads.iter().map(|payload| event("message", payload)).collect();
    let body = format!("[{}]", events.join(","));
    wait_until(|| (cluster.processes[0].connect().post(body.clone()).status == 201).then_some(()));
    follower.process.wait_for_stderr("was replaced by a store with other events");
    let stored = database.events();
    wait_until(|| (follower.seen.lock().unwrap().last() == stored.last()).then_some(()));
    let seen = follower.finish(&stored);
    assert!(stored.iter().all(|event| seen.contains(event)), "a follower has skipped an event");
}

#[test]
#[ignore = "needs PostgreSQL and root"]
fn replicas_that_are_required_are_there_and_asynchronous_ones_are_warned_of() {
    let start = |database: &Database, replicas: &str| {
        let mut command = database.eventctl("consume");
        command.args(["--port", "0", "--require-replicas", replicas]);
        command
    };
    let asynchronous = "asynchronous: a failover can lose the last acknowledged events";
    let quorum = Quorum::start(Replication::Quorum);
    let database = Database::at(Server::Postgres, &quorum.url());
    let server = Consume::start_command(&mut start(&database, "1"));
    server.store("a", "b");
    assert!(!server.process.stderr().contains(asynchronous), "{}", server.process.stderr());
    assert!(is_said_to_be_asynchronous(&server, 0));
    let (error, hint) = refusal_of(&mut start(&database, "2"), 1);
    assert!(error.contains("its commits wait for 1 replica, not 2"), "{error}");
    assert!(hint.contains("synchronous_standby_names = 'ANY 2 (*)'"), "{hint}");
    // A commit that a standby has only in memory is not on its disk.
    database
        .administrate(&format!("ALTER DATABASE {} SET synchronous_commit = remote_write", database.name))
        .unwrap();
    assert!(refusal_of(&mut start(&database, "1"), 1).0.contains("wait for 0 replicas"));
    drop(database);
    let quorum = Quorum::start(Replication::Asynchronous);
    let database = Database::at(Server::Postgres, &quorum.url());
    let mut server = Consume::start_command(&mut start(&database, "0"));
    server.process.wait_for_stderr(asynchronous);
    assert!(is_said_to_be_asynchronous(&server, 1));
    assert!(refusal_of(&mut start(&database, "1"), 1).0.contains("its commits wait for 0 replicas, not 1"));
}

/// Whether the metrics have this value, which the page shows in words.
fn is_said_to_be_asynchronous(server: &Consume, value: u8) -> bool {
    let metrics = String::from_utf8(server.connect().get("/metrics").body).unwrap();
    metrics.lines().any(|line| line == format!("eventctl_asynchronous_replicas {value}"))
}
