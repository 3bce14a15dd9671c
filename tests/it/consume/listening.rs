//! Where `consume` listens: TCP of both families, Unix sockets, and sockets that systemd has opened.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use tempfile::tempdir;

use crate::util::http::{Connection, event};
use crate::util::{PATIENCE, Process, eventctl, refusal_of, wait_until, word_after};

use super::tokens::{PASSWORD, USERNAME, password_form};
use super::{detail_of, start, stored};

/// A server that listens as these arguments say, once it says that it does.
fn start_on(directory: &Path, arguments: &[&str]) -> Process {
    let mut command = eventctl(directory);
    let mut process =
        Process::start(command.arg("consume").args(arguments).env("EVENTCTL_ALLOWED_HOST", "test"));
    process.wait_for_stderr("listening on ");
    process
}

fn connect(path: &Path) -> Connection<UnixStream> {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Connection::over(stream)
}

/// The addresses that a server says it listens on by TCP.
fn addresses_of(process: &Process) -> Vec<SocketAddr> {
    let stderr = process.stderr();
    let lines = stderr.lines().filter(|line| line.contains("listening on http://"));
    lines.map(|line| word_after(line, "listening on http://").parse().unwrap()).collect()
}

#[test]
fn a_unix_socket_is_listened_on_by_owner_and_group_and_removed_at_the_end() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("events.sock");
    let mut server = start_on(directory.path(), &["--listen", "unix:events.sock"]);
    let metadata = fs::symlink_metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    let mut connection = connect(&path);
    assert_eq!(connection.post_event("a", "b").status, 201);
    assert_eq!(connection.get("/event").json()[0]["event_payload"], "b");
    assert!(server.stderr().contains("listening on unix:events.sock"), "{}", server.stderr());
    assert_eq!(addresses_of(&server), []);
    assert!(server.terminate().success());
    assert!(!path.exists());
}

#[test]
fn several_addresses_are_listened_on_at_once() {
    let directory = tempdir().unwrap();
    let arguments = [
        "--listen",
        "127.0.0.1:0",
        "--listen",
        "unix:a.sock",
        "--listen",
        "[::1]:0",
        "--listen",
        "unix:b.sock",
    ];
    let mut server = start_on(directory.path(), &arguments);
    server.wait_for_stderr("unix:b.sock");
    let addresses = addresses_of(&server);
    assert_eq!(addresses.len(), 2, "{}", server.stderr());
    for address in addresses {
        assert_eq!(Connection::open(address).post_event("tcp", "").status, 201);
    }
    for name in ["a.sock", "b.sock"] {
        assert_eq!(connect(&directory.path().join(name)).post_event("unix", "").status, 201);
    }
    assert_eq!(stored(&directory).len(), 4);
    assert!(server.terminate().success());
}

#[test]
fn a_socket_that_a_killed_process_has_left_is_taken_over() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("events.sock");
    start_on(directory.path(), &["--listen", "unix:events.sock"]).kill();
    assert!(path.exists());
    let mut server = start_on(directory.path(), &["--listen", "unix:events.sock"]);
    assert_eq!(connect(&path).post_event("a", "b").status, 201);
    assert!(server.terminate().success());
}

#[test]
fn what_somebody_listens_on_and_what_is_no_socket_stays() {
    let directory = tempdir().unwrap();
    let refuse = || {
        let mut command = eventctl(directory.path());
        let (error, hint) = refusal_of(command.args(["consume", "--listen", "unix:events.sock"]), 1);
        assert!(error.starts_with("cannot listen on unix:events.sock: "), "{error}");
        assert!(hint.contains("--listen"), "{hint}");
    };
    let path = directory.path().join("events.sock");
    let held = UnixListener::bind(&path).unwrap();
    refuse();
    assert!(UnixStream::connect(&path).is_ok());
    drop(held);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    refuse();
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_socket_that_has_taken_the_place_of_ours_stays() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("events.sock");
    let mut server = start_on(directory.path(), &["--listen", "unix:events.sock"]);
    fs::remove_file(&path).unwrap();
    let _successor = UnixListener::bind(&path).unwrap();
    assert!(server.terminate().success());
    assert!(path.exists());
}

#[test]
fn clients_of_a_unix_socket_are_not_one_client() {
    let directory = tempdir().unwrap();
    crate::util::write_secret(directory.path(), "password", PASSWORD);
    let guarded =
        ["--username", USERNAME, "--password-file", "password", "--listen", "unix:events.sock", "-v"];
    let limited = ["--max-connections-per-address", "1", "--trusted-proxy", "unix"];
    let server = start_on(directory.path(), &[&guarded[..], &limited].concat());
    let path = directory.path().join("events.sock");
    let mut open: Vec<_> = (0..5).map(|_| connect(&path)).collect();
    assert!(open.iter_mut().all(|connection| connection.get("/health").status == 200));
    let form = |name: usize| password_form(&format!("name {name}"), "wrong");
    // Without an address there is none whose attempts could be used up.
    for name in 0..15 {
        assert_eq!(connect(&path).post_form(form(name)).status, 400);
    }
    let mut statuses = (0..11).map(|name| {
        let headers =
            [("Content-Type", "application/x-www-form-urlencoded"), ("X-Forwarded-For", "203.0.113.7")];
        connect(&path).request("POST", "/token", &headers, form(100 + name).as_bytes()).status
    });
    assert!(statuses.by_ref().take(10).all(|status| status == 400));
    assert_eq!(statuses.next(), Some(429));
    wait_until(|| server.stderr().contains("\"client\":\"203.0.113.7\"").then_some(()));
    assert!(server.stderr().contains("\"client\":\"unix\""), "{}", server.stderr());
}

#[test]
fn hosts_are_looked_at_on_a_unix_socket_too() {
    let directory = tempdir().unwrap();
    let _server = start_on(directory.path(), &["--listen", "unix:events.sock"]);
    let path = directory.path().join("events.sock");
    detail_of(&connect(&path).called("evil.example").get("/event"), 421);
    assert_eq!(connect(&path).called("localhost").get("/event").status, 200);
}

#[test]
fn localhost_is_both_families_on_one_port() {
    let (_directory, server) = start(&["--host", "localhost"]);
    let addresses = wait_until(|| {
        let addresses = addresses_of(&server.process);
        (addresses.len() == 2).then_some(addresses)
    });
    assert_eq!(addresses[0].ip(), IpAddr::from([127, 0, 0, 1]));
    assert_eq!(addresses[1].ip(), IpAddr::from(Ipv6Addr::LOCALHOST));
    assert_eq!(addresses[0].port(), addresses[1].port());
    for address in addresses {
        assert_eq!(Connection::open(address).called("localhost").post_event("a", "b").status, 201);
    }
}

#[test]
fn an_address_of_ipv6_may_have_brackets() {
    for host in ["[::1]", "::1"] {
        let (_directory, server) = start(&["--host", host]);
        assert_eq!(server.address.ip(), IpAddr::from(Ipv6Addr::LOCALHOST));
        server.store("a", "b");
    }
}

#[test]
fn a_port_that_is_taken_is_told() {
    let directory = tempdir().unwrap();
    let taken = TcpListener::bind("[::1]:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut command = eventctl(directory.path());
    let (error, hint) = refusal_of(command.args(["consume", "--host", "localhost", "--port", &port]), 1);
    assert!(error.starts_with(&format!("cannot listen on localhost:{port}: ")), "{error}");
    assert!(hint.contains("--port"), "{hint}");
}

#[test]
fn strangers_are_kept_out_of_every_address() {
    let directory = tempdir().unwrap();
    let mut command = eventctl(directory.path());
    let listen = ["--listen", "127.0.0.1:0", "--listen", "0.0.0.0:0"];
    let (error, hint) = refusal_of(command.arg("consume").args(listen), 1);
    assert!(error.starts_with("cannot listen on 0.0.0.0:0: anyone"), "{error}");
    assert!(hint.contains("--insecure-allow-anonymous"), "{hint}");
}

#[test]
#[ignore = "needs curl"]
fn curl_talks_to_a_unix_socket() {
    let directory = tempdir().unwrap();
    let mut command = eventctl(directory.path());
    let mut server = Process::start(command.args(["consume", "--listen", "unix:events.sock"]));
    server.wait_for_stderr("listening on ");
    let output = Command::new("curl")
        .args([
            "-sS",
            "--unix-socket",
            "events.sock",
            "-w",
            " %{http_code}",
            "-H",
            "Content-Type: application/json",
        ])
        .args(["-d", &event("a", "b"), "http://localhost/event"])
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim_end(),
        r#"{"status":"success"} 201"#,
        "{output:?}"
    );
}

/// The program behind `systemd-socket-activate`, which listens on these addresses until somebody connects.
fn activate(directory: &Path, addresses: &[&str], arguments: &[&str]) -> Process {
    let mut command = Command::new("systemd-socket-activate");
    command.current_dir(directory).args(addresses.iter().flat_map(|address| ["--listen", address]));
    command
        .args(["-E", "EVENTCTL_ALLOWED_HOST=test", env!("CARGO_BIN_EXE_eventctl"), "consume"])
        .args(arguments);
    let mut process = Process::start(&mut command);
    process.wait_for_stderr("Listening on ");
    process
}

#[test]
#[ignore = "needs systemd-socket-activate"]
fn sockets_of_systemd_are_served() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("events.sock");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut server = activate(directory.path(), &[&free.to_string(), path.to_str().unwrap()], &[]);
    wait_until(|| path.exists().then_some(()));
    // The first connection starts the service.
    assert_eq!(Connection::open(free).post_event("tcp", "").status, 201);
    assert_eq!(connect(&path).post_event("unix", "").status, 201);
    assert_eq!(addresses_of(&server), [free]);
    server.wait_for_stderr("listening on unix:");
    assert_eq!(stored(&directory).len(), 2);
    assert!(server.terminate().success());
    // The file is of the socket unit.
    assert!(path.exists());
}

#[test]
#[ignore = "needs systemd-socket-activate"]
fn a_socket_of_systemd_beyond_loopback_needs_a_login_too() {
    let directory = tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut server = activate(directory.path(), &[&format!("0.0.0.0:{}", free.port())], &[]);
    let _ = Connection::try_open(free).map(|mut connection| connection.send(b"\r\n"));
    assert_eq!(server.wait().code(), Some(1));
    assert!(server.stderr().contains("anyone who reaches it could read and write"), "{}", server.stderr());
}

#[test]
fn sockets_of_another_process_are_none_of_ours() {
    let directory = tempdir().unwrap();
    for process in ["1", ""] {
        let mut command = eventctl(directory.path());
        command.args(["consume", "--port", "0"]).env("LISTEN_FDS", "1").env("LISTEN_PID", process);
        crate::util::Consume::start_command(&mut command).store("a", "b");
    }
}
