//! HTTP proxies of the environment: a real one between `propagate` and its receiver.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use tempfile::tempdir;

use super::{Run, arguments, write_events};
use crate::util::receiver::{Receiver, Reply};
use crate::util::tls::Authority;
use crate::util::{Consume, Process, eventctl, stored_events, wait_until, write_file};

/// A name of this machine that looks like that of another: the C library alone, and so the proxy, takes it for 127.0.0.1.
const ELSEWHERE: &str = "127.1";

/// A tinyproxy that asks for a password.
struct Proxy {
    address: SocketAddr,
    _process: Process,
}

impl Proxy {
    fn start(directory: &Path) -> Proxy {
        // Below the ports of outgoing connections, of which one could take it, or even connect to itself.
        let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
        let port = std::iter::repeat_with(|| fastrand::u16(20_000..32_000)).find(is_free).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let config = format!(
            "Port {}\nListen 127.0.0.1\nTimeout 60\nMaxClients 100\nLogFile \"{}\"\nBasicAuth user pass\n",
            port,
            directory.join("proxy.log").display()
        );
        let config = write_file(directory, "proxy.conf", config);
        let process = Process::start(Command::new("tinyproxy").arg("-d").arg("-c").arg(config));
        wait_until(|| TcpStream::connect(address).ok());
        Proxy { address, _process: process }
    }

    fn url(&self) -> String {
        format!("http://user:pass@{}", self.address)
    }
}

/// Sends three events with these variables in the environment.
fn send(directory: &Path, endpoint: &str, variables: &[(&str, &str)]) -> Run {
    let further = ["--count", "3", "--retries", "0", "--cacert", "authority.pem"];
    let mut command = eventctl(directory);
    command.args(arguments(endpoint, &further)).envs(variables.iter().copied());
    Run::new(&command.output().unwrap())
}

#[test]
#[ignore = "needs tinyproxy, see .ci/servers"]
fn events_go_through_the_proxy_that_the_environment_names() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 3);
    let authority = Authority::new("authority");
    authority.write(directory.path(), "authority");
    // A certificate cannot have that name; the one of this machine is resolved everywhere.
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    authority.issue(&hostname).write(directory.path(), "server");
    let proxy = Proxy::start(directory.path());
    let (url, wrong) = (proxy.url(), format!("http://user:wrong@{}", proxy.address));

    // Forwarded: the proxy sees the request, and its password goes no further. It asks receivers to close the connection,
    // and passes on unseen what else comes on one that is kept.
    let response = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let receiver = Receiver::start(|_, _| Reply::SendAndClose(response.to_owned()));
    let endpoint = format!("http://{ELSEWHERE}:{}/event", receiver.address.port());
    send(directory.path(), &endpoint, &[("http_proxy", &url)]).check(0, [3, 0, 0]);
    let arrivals = receiver.arrivals();
    assert_eq!(arrivals.len(), 3);
    for arrival in &arrivals {
        assert_eq!(arrival.headers("via").len(), 1, "{arrival:?}");
        assert_eq!(arrival.headers("proxy-authorization"), [""; 0]);
    }
    // It may close the connection before its answer, 407, has been read.
    let refused = send(directory.path(), &endpoint, &[("HTTP_PROXY", &wrong)]);
    assert_eq!((refused.code, refused.count("delivered")), (3, 0));
    assert_eq!(receiver.arrivals().len(), 3);

    // Through a tunnel: the proxy sees nothing of it.
    let options = ["--host", &hostname, "--tls-cert", "server.pem", "--tls-key", "server.key"];
    let options = [&options[..], &["--insecure-allow-anonymous"]].concat();
    let consume = Consume::start_with(directory.path(), &options);
    let endpoint = format!("https://{hostname}:{}/event", consume.address.port());
    send(directory.path(), &endpoint, &[("HTTPS_PROXY", &url)]).check(0, [3, 0, 0]);
    send(directory.path(), &endpoint, &[("ALL_PROXY", &url)]).check(0, [3, 0, 0]);
    let refused = send(directory.path(), &endpoint, &[("HTTPS_PROXY", &wrong)]);
    refused.check(3, [0, 0, 3]);
    let error = refused.responses[0]["error"].as_str().unwrap();
    assert!(error.contains(&format!("the proxy `{}`", proxy.address)) && !error.contains("wrong"), "{error}");
    assert_eq!(stored_events(&directory.path().join("events.db")).len(), 6);
}

#[test]
fn loopback_and_excepted_hosts_bypass_the_proxy() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 3);
    Authority::new("authority").write(directory.path(), "authority");
    let receiver = Receiver::start(|_, _| Reply::created());
    // Nothing listens there.
    let proxy = [("HTTP_PROXY", "http://127.0.0.1:1"), ("NO_PROXY", "internal.example, 127.1")];
    for host in ["127.0.0.1", "localhost", ELSEWHERE] {
        let endpoint = format!("http://{host}:{}/event", receiver.address.port());
        send(directory.path(), &endpoint, &proxy).check(0, [3, 0, 0]);
    }
    assert_eq!(receiver.arrivals().len(), 9);
    let endpoint = format!("http://{ELSEWHERE}:{}/event", receiver.address.port());
    send(directory.path(), &endpoint, &proxy[..1]).check(3, [0, 0, 3]);
    let unknown = send(directory.path(), &endpoint, &[("HTTP_PROXY", "socks5://127.0.0.1:1")]);
    let error = unknown.responses[0]["error"].as_str().unwrap().to_owned();
    assert!(error.contains("unsupported proxy scheme `socks5`"), "{error}");
    assert_eq!(receiver.arrivals().len(), 9);
    // What is no proxy is said to be passed over, without its value.
    let endpoint = receiver.url("/event");
    let unusable = send(directory.path(), &endpoint, &[("HTTP_PROXY", "garbage://user:secret@x")]);
    assert!(unusable.stderr.contains("`HTTP_PROXY` is ignored") && !unusable.stderr.contains("secret"));
}
