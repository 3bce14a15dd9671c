//! Connections that are lost: while they are idle, while a commit waits for its answer, and before there is a server.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::database::{Kind, TestStore, on_every_server};
use crate::consume::tokens::{PASSWORD, USERNAME, log_in};
use crate::util::http::event;
use crate::util::receiver::{Receiver, Reply};
use crate::util::{Consume, Process, wait_until, write_secret};

on_every_server!(
    reads_after_a_quiet_time_succeed,
    what_a_quiet_process_writes_after_its_connections_were_closed_is_stored,
    a_commit_without_an_answer_is_unknown_and_not_repeated,
    a_server_that_is_not_there_at_the_start_is_waited_for,
    of_several_servers_one_that_is_there_is_taken,
);

/// Closes all connections to the database, as a server does that restarts or has had enough of idle ones.
fn close_connections(store: &TestStore) {
    match store.kind {
        Kind::Sqlite => unreachable!("a file has no connections"),
        #[cfg(feature = "postgres")]
        Kind::Postgres => store.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity \
                WHERE datname = current_database() AND pid != pg_backend_pid()",
        ),
        #[cfg(feature = "mysql")]
        Kind::MySql => {
            use ::mysql::prelude::Queryable;
            let mut connection = ::mysql::Conn::new(store.url.as_str()).unwrap();
            let select = "SELECT id FROM information_schema.processlist \
                WHERE db = DATABASE() AND id != CONNECTION_ID()";
            for id in connection.query::<u64, _>(select).unwrap() {
                let _ = connection.query_drop(format!("KILL {id}"));
            }
            wait_until(|| connection.query::<u64, _>(select).unwrap().is_empty().then_some(()));
        }
    }
}

/// Longer than a connection is trusted without a question.
pub(super) fn be_quiet() {
    thread::sleep(Duration::from_millis(1100));
}

fn reads_after_a_quiet_time_succeed(store: &TestStore) {
    let server = store.prepare_and_consume();
    server.store("a", "b");
    for _ in 0..3 {
        // As many at once as there are connections for.
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(server.connect().get("/event").status, 200));
            }
        });
        close_connections(store);
        for path in
            ["/event", "/event/1", "/event?type=a", "/event/1", "/event", "/event/1", "/event", "/event"]
        {
            let response = server.connect().get(path);
            assert_eq!(response.status, 200, "{path}: {response:?}");
        }
    }
}

fn what_a_quiet_process_writes_after_its_connections_were_closed_is_stored(store: &TestStore) {
    store.prepare();
    let receiver = Receiver::start(|_, _| Reply::status(200, ""));
    write_secret(store.path(), "password", PASSWORD);
    let url = receiver.url("/");
    let arguments = ["--alert", &url, "--alert-on", "alert", "--alert-allow-private"];
    let guarded = ["--username", USERNAME, "--password-file", "password"];
    let server = store.consume(&[&arguments[..], &guarded].concat());
    let close = || {
        close_connections(store);
        // MySQL's driver cannot look whether the server is still there: it is asked after a second.
        if store.url.starts_with("mysql") {
            be_quiet();
        }
    };
    close();
    let access = log_in(&server).access;
    let post = |kind: &str, payload: &str| {
        let authorization = format!("Bearer {access}");
        let headers = [("Content-Type", "application/json"), ("Authorization", authorization.as_str())];
        server.connect().request("POST", "/event", &headers, event(kind, payload).as_bytes())
    };
    for payload in ["one", "two", "three"] {
        close();
        let response = post("a", payload);
        assert_eq!(response.status, 201, "{response:?}");
    }
    close();
    assert_eq!(post("alert", "told").status, 201);
    wait_until(|| (receiver.arrivals().len() == 1).then_some(()));
    assert_eq!(store.payloads(), ["one", "two", "three", "told"]);
    // Of the writes of the dispatcher some come within that second.
    let stderr = server.process.stderr();
    assert!(!stderr.contains("takes no writes") || store.url.starts_with("mysql"), "{stderr}");
}

/// A proxy before a server that can keep an answer of the server back.
struct Proxy {
    address: SocketAddr,
    /// Whether the next answer is kept back.
    swallows: Arc<AtomicBool>,
}

impl Proxy {
    fn before(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        Proxy::on(listener, address, server)
    }

    fn on(listener: TcpListener, address: SocketAddr, server: SocketAddr) -> Proxy {
        let swallows = Arc::new(AtomicBool::new(false));
        let shared = Arc::clone(&swallows);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(server) else { continue };
                let swallows = Arc::clone(&shared);
                let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || pump(from_client, to_server, None));
                thread::spawn(move || pump(server, client, Some(swallows)));
            }
        });
        Proxy { address, swallows }
    }
}

/// Hands on what comes; an answer that is to be swallowed ends both connections.
fn pump(mut from: TcpStream, mut to: TcpStream, swallows: Option<Arc<AtomicBool>>) {
    let mut buffer = [0; 16 << 10];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let is_swallowed = swallows.as_ref().is_some_and(|swallows| swallows.swap(false, Ordering::SeqCst));
        if is_swallowed || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

pub(super) fn server_address(store: &TestStore) -> SocketAddr {
    let url: url::Url = store.url.parse().unwrap();
    SocketAddr::new([127, 0, 0, 1].into(), url.port().unwrap())
}

/// The URL without encryption: what a proxy sees is what is said.
pub(super) fn url_at(store: &TestStore, address: SocketAddr) -> String {
    let url = store.url_with(|url| url.set_port(Some(address.port())).unwrap());
    let mode = if store.url.starts_with("postgres") { "sslmode=disable" } else { "ssl-mode=DISABLED" };
    format!("{url}?{mode}")
}

fn a_commit_without_an_answer_is_unknown_and_not_repeated(store: &TestStore) {
    store.prepare();
    let proxy = Proxy::before(server_address(store));
    let server = store.start(&mut store.command_at("consume", &url_at(store, proxy.address)));
    let mut expected = Vec::new();
    for round in 0..4 {
        let sound = format!("sound {round}");
        let swallowed = format!("swallowed {round}");
        server.store("a", &sound);
        proxy.swallows.store(true, Ordering::SeqCst);
        let response = server.connect().post_event("a", &swallowed);
        assert_eq!(response.status, 503, "{response:?}");
        // Connections from here on are sound: a repetition would come through.
        assert!(!proxy.swallows.load(Ordering::SeqCst));
        wait_until(|| (server.connect().get("/ready").status == 200).then_some(()));
        expected.extend([sound, swallowed]);
    }
    // The server has committed each of them; PostgreSQL's whole transaction is one statement, MySQL's one query.
    assert_eq!(store.payloads(), expected);
}

/// A port on which nobody listens.
fn unused_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn a_server_that_is_not_there_at_the_start_is_waited_for(store: &TestStore) {
    store.prepare();
    let address = unused_address();
    let mut command = store.command_at("consume", &url_at(store, address));
    let mut process = Process::start(command.args(["--store-timeout", "1m"]));
    let line = process.wait_for_stderr("trying again for 1m");
    assert!(line.contains("cannot connect to"), "{line}");
    let listener = wait_until(|| TcpListener::bind(address).ok());
    Proxy::on(listener, address, server_address(store));
    process.wait_for_stderr("listening on http");
    assert!(process.terminate().success(), "{}", process.stderr());
    // Whoever stops it meanwhile need not wait.
    let mut command = store.command_at("consume", &url_at(store, unused_address()));
    let mut process = Process::start(command.args(["--store-timeout", "1h"]));
    process.wait_for_stderr("trying again for 1h");
    assert!(process.terminate().success(), "{}", process.stderr());
}

fn of_several_servers_one_that_is_there_is_taken(store: &TestStore) {
    store.prepare();
    let (server, unused) = (server_address(store), unused_address());
    let several = format!("127.0.0.1:{},127.0.0.1:{}", unused.port(), server.port());
    let url = store.url.replace(&server.to_string(), &several);
    assert_ne!(url, store.url);
    let server: Consume = store.start(&mut store.command_at("consume", &url));
    server.store("a", "b");
    assert_eq!(server.connect().get("/event/1").status, 200);
    let tail = store.command_at("tail", &url).output().unwrap();
    assert!(tail.status.success(), "{tail:?}");
    let nobody = format!("127.0.0.1:{},127.0.0.1:{}", unused.port(), unused_address().port());
    let (error, _) = store.refusal("tail", &store.url.replace(&server_address(store).to_string(), &nobody));
    assert_eq!(error.matches("refused").count(), 2, "{error}");
}

#[cfg(feature = "postgres")]
#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_session_that_postgres_ends_for_idling_fails_no_read() {
    let store = &TestStore::new(Kind::Postgres);
    store.prepare();
    store.execute(&format!("ALTER DATABASE {} SET idle_session_timeout = '300ms'", store.name));
    let server = store.consume(&[]);
    server.store("a", "b");
    let mut client = ::postgres::Client::connect(
        &format!("{}?options=-c%20idle_session_timeout%3D0", store.url),
        ::postgres::NoTls,
    )
    .unwrap();
    for _ in 0..3 {
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(server.connect().get("/event").status, 200));
            }
        });
        let select = "SELECT count(*) FROM pg_stat_activity \
            WHERE datname = current_database() AND pid != pg_backend_pid() AND application_name = 'eventctl'";
        wait_until(|| {
            let sessions: i64 = client.query_one(select, &[]).unwrap().get(0);
            (sessions == 0).then_some(())
        });
        for _ in 0..6 {
            assert_eq!(server.connect().get("/event/1").status, 200);
        }
        server.store("a", "c");
    }
}
