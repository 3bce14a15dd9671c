//! PostgreSQL that waits for standbys, and what is acknowledged when it does not.

use std::thread;

use super::{Database, OwnServers, Server};
use crate::util::{Consume, refusal_of, wait_until};

/// A database whose server waits for a standby that is not there, or for none.
fn wait_for_standbys(database: &Database, names: &str) {
    database.administrate(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'")).unwrap();
    database.administrate("SELECT pg_reload_conf()").unwrap();
    wait_until(|| {
        let shown: String =
            database.postgres().query_one("SHOW synchronous_standby_names", &[]).unwrap().get(0);
        (shown == names).then_some(())
    });
}

/// Has the server wait for nobody once the test is over, also where it failed: its database could not be dropped.
struct WaitForNobody<'a>(&'a Database);

impl Drop for WaitForNobody<'_> {
    fn drop(&mut self) {
        wait_for_standbys(self.0, "");
    }
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_commit_that_no_standby_has_confirmed_is_not_acknowledged() {
    let servers = OwnServers::start();
    let database = Database::at(Server::Postgres, &servers.url(Server::Postgres));
    let server = Consume::start_command(database.eventctl("consume").args(["--port", "0"]));
    server.store("a", "before");
    let _in_the_end = WaitForNobody(&database);
    wait_for_standbys(&database, "nobody");
    let response = thread::scope(|scope| {
        let posting = scope.spawn(|| server.connect().post_event("a", "unconfirmed"));
        wait_until(|| {
            let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity \
                WHERE wait_event = 'SyncRep' AND datname = current_database()";
            (!database.postgres().query(cancel, &[]).unwrap().is_empty()).then_some(())
        });
        posting.join().unwrap()
    });
    assert_eq!(response.status, 503, "{response:?}");
    assert_eq!(server.connect().get("/ready").status, 503);
    wait_for_standbys(&database, "");
    wait_until(|| (server.connect().get("/ready").status == 200).then_some(()));
    server.store("a", "after");
    let payloads: Vec<String> = database.events().into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(payloads, ["before", "unconfirmed", "after"]);
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn commits_that_do_not_wait_for_the_standbys_of_the_server_are_refused_at_start() {
    let servers = OwnServers::start();
    let database = Database::at(Server::Postgres, &servers.url(Server::Postgres));
    let local = format!("ALTER DATABASE {} SET synchronous_commit = local", database.name);
    database.administrate(&local).unwrap();
    let start = || {
        let mut command = database.eventctl("consume");
        command.args(["--port", "0"]);
        command
    };
    // Without standbys it is as good as any.
    Consume::start_command(&mut start()).store("a", "b");
    let _in_the_end = WaitForNobody(&database);
    wait_for_standbys(&database, "nobody");
    let (error, hint) = refusal_of(&mut start(), 1);
    assert!(error.contains("synchronous_commit is local beside synchronous_standby_names"), "{error}");
    assert!(hint.contains("--allow-weak-durability"), "{hint}");
    Consume::start_command(start().arg("--allow-weak-durability")).store("a", "b");
}
