//! Hosts with several addresses, of which some do not answer.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
use tempfile::tempdir;

use super::hooks::{Hook, ok};
use super::{deliveries, post_alert, wait_for_deliveries};
use crate::util::{Consume, eventctl, write_file};

/// An address that answers no SYN: the queue of its listener is full.
struct DeadAddress {
    address: SocketAddr,
    _listener: OwnedFd,
    _waiting: Vec<TcpStream>,
}

impl DeadAddress {
    fn new(ip: IpAddr) -> DeadAddress {
        let family = if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let listener = socket(family, SocketType::STREAM, None).unwrap();
        bind(&listener, &SocketAddr::new(ip, 0)).unwrap();
        listen(&listener, 0).unwrap();
        let address: SocketAddr = getsockname(&listener).unwrap().try_into().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            waiting.push(stream);
            assert!(waiting.len() < 10, "the queue takes any number");
        }
        DeadAddress { address, _listener: listener, _waiting: waiting }
    }
}

/// `consume` for which names stand for addresses as these lines of `/etc/hosts` say.
fn start_with_hosts(directory: &Path, hosts: &str, arguments: &[&str]) -> Consume {
    let file = write_file(directory, "hosts", hosts);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"", "sh"]);
    command.arg(file).arg(eventctl(directory).get_program()).args(["consume", "--port", "0"]);
    Consume::start_command(command.args(arguments).current_dir(directory))
}

#[test]
#[ignore = "needs root, unshare and mount"]
fn a_dead_address_does_not_block_the_next() {
    let same_family = DeadAddress::new("127.0.0.2".parse().unwrap());
    let other_family = DeadAddress::new("::1".parse().unwrap());
    let taking = |dead: &DeadAddress| {
        let listener = TcpListener::bind(("127.0.0.3", dead.address.port())).unwrap();
        Hook::start_on(listener, None, |_, _| ok())
    };
    let hooks = [taking(&same_family), taking(&other_family)];
    let hosts = "127.0.0.2 one.test\n127.0.0.3 one.test\n::1 two.test\n127.0.0.3 two.test\n";
    let directory = tempdir().unwrap();
    let urls = [("one.test", &hooks[0]), ("two.test", &hooks[1])]
        .map(|(name, hook)| format!("http://{name}:{}/", hook.address.port()));
    let mut arguments = vec!["--alert-allow-private"];
    urls.iter().for_each(|url| arguments.extend(["--alert", url]));
    let server = start_with_hosts(directory.path(), hosts, &arguments);
    post_alert(&mut server.connect(), "a");
    let all = wait_for_deliveries(directory.path(), |all| all.iter().all(|one| one.state == "sent"));
    assert_eq!(all.len(), 2);
    assert!(all.iter().all(|one| one.attempts == 1), "{all:?}");
}

#[test]
#[ignore = "needs root, unshare and mount"]
fn only_public_addresses_of_a_host_are_connected_to() {
    let hook = Hook::taking();
    let directory = tempdir().unwrap();
    let port = hook.address.port();
    let hosts = "127.0.0.1 mixed.test\n2001:db8::1 mixed.test\n::ffff:127.0.0.1 mapped.test\n";
    let urls = ["mixed", "mapped"].map(|name| format!("https://{name}.test:{port}/"));
    let channels: Vec<&str> = urls.iter().flat_map(|url| ["--alert", url]).collect();
    let server = start_with_hosts(directory.path(), hosts, &channels);
    assert_eq!(post_alert(&mut server.connect(), "a").status, 202);
    wait_for_deliveries(directory.path(), |all| all.iter().all(|one| one.last_error.is_some()));
    for delivery in deliveries(directory.path()) {
        assert!(delivery.last_error.as_ref().unwrap().contains("not on the public internet"), "{delivery:?}");
    }
    assert_eq!(hook.connections(), 0);
}
