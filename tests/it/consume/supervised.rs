//! What `consume` tells systemd.

use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;

use rustix::process::Signal;
use tempfile::tempdir;

use crate::util::{Consume, PATIENCE, eventctl};

fn receive(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 1024];
    let length = socket.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

#[test]
fn systemd_hears_of_readiness_signs_of_life_and_the_end() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = eventctl(directory.path());
    command.args(["consume", "--port", "0"]).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "100000");
    let mut server = Consume::start_command(&mut command);
    assert_eq!(receive(&socket), format!("READY=1\nSTATUS=listening on http://{}", server.address));
    assert!(TcpStream::connect(server.address).is_ok());
    for _ in 0..5 {
        assert_eq!(receive(&socket), "WATCHDOG=1");
    }
    server.process.signal(Signal::TERM);
    let last = std::iter::repeat_with(|| receive(&socket)).find(|text| text != "WATCHDOG=1");
    assert_eq!(last.as_deref(), Some("STOPPING=1"));
    assert!(server.process.wait().success());
}

#[test]
fn the_watchdog_of_another_process_is_none_of_ours() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = eventctl(directory.path());
    command.args(["consume", "--port", "0"]).env("NOTIFY_SOCKET", &path);
    command.env("WATCHDOG_USEC", "1000").env("WATCHDOG_PID", "1");
    let mut server = Consume::start_command(&mut command);
    assert!(receive(&socket).starts_with("READY=1"));
    server.store("a", "b");
    assert!(server.process.terminate().success());
    assert_eq!(receive(&socket), "STOPPING=1");
}

#[test]
fn a_socket_that_is_not_there_keeps_nothing_from_working() {
    let directory = tempdir().unwrap();
    let mut command = eventctl(directory.path());
    command.args(["consume", "--port", "0"]).env("NOTIFY_SOCKET", directory.path().join("nowhere"));
    let server = Consume::start_command(&mut command);
    server.store("a", "b");
    assert!(server.process.stderr().contains("cannot notify systemd: "), "{}", server.process.stderr());
}
