//! HTTP/2 from the clients and proxies that people have: curl and HAProxy, over TLS.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::util::http::{Connection, event};
use crate::util::{Process, wait_until, write_file, write_secret};

use super::super::stored;
use super::super::tls::Secured;

/// How often each early error is provoked: all of them must arrive.
const TRIES: usize = 30;

/// What curl says of a request over HTTP/2: its exit code and the status that it has seen.
fn curl(secured: &Secured, path: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new("curl");
    command.args(["--http2", "--silent", "--max-time", "50", "--output", "/dev/null", "--noproxy", "*"]);
    command.args(["--write-out", "%{http_version} %{http_code}", "--cacert", "authority.pem"]);
    command.args(arguments).arg(secured.server.url(path)).current_dir(secured.directory.path());
    let output = command.stderr(Stdio::null()).output().expect("curl is installed");
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
#[ignore = "needs curl"]
fn curl_sees_every_early_error_over_http_2() {
    const JSON: &str = "Content-Type: application/json";
    let open = Secured::start(&["--body-limit", "64KiB"]);
    write_file(open.directory.path(), "small", event("a", "b"));
    write_file(open.directory.path(), "large", event("a", &"x".repeat(300_000)));
    let guarded = Secured::start_with(|directory| {
        write_file(directory, "small", event("a", "b"));
        write_file(directory, "large", event("a", &"x".repeat(300_000)));
        write_secret(directory, "tokens", "0123456789abcdef0123456789abcdef\n");
        vec!["--token-file".to_owned(), "tokens".to_owned()]
    });
    let full = Secured::start(&["--max-connections", "1"]);
    write_file(full.directory.path(), "small", event("a", "b"));
    write_file(full.directory.path(), "large", event("a", &"x".repeat(300_000)));
    let mut admitted = full.http1();
    assert_eq!(admitted.get("/health").status, 200);
    let cases: [(&Secured, &str, &[&str], &str); 8] = [
        (&guarded, "/event", &["--header", JSON], "401"),
        (&open, "/nothing", &["--header", JSON], "404"),
        (&open, "/health", &["--header", JSON], "405"),
        (&open, "/event", &["--header", JSON, "--request", "PUT"], "405"),
        (&open, "/event", &["--header", "Content-Type: text/plain"], "415"),
        (&open, "/event", &["--header", JSON, "--header", "Idempotency-Key;"], "400"),
        (&open, "/event?large", &["--header", JSON], "413"),
        (&full, "/event", &["--header", JSON], "503"),
    ];
    for (secured, path, arguments, status) in cases {
        for number in 0..TRIES {
            let body = if number % 3 == 2 || status == "413" { "@large" } else { "@small" };
            let arguments = [arguments, &["--data-binary", body]].concat();
            assert_eq!(curl(secured, path, &arguments), (Some(0), format!("2 {status}")), "{path} {body}");
        }
    }
    for secured in [&open, &guarded, &full] {
        assert_eq!(stored(&secured.directory), []);
    }
}

#[test]
#[ignore = "needs curl"]
fn curl_sees_the_error_of_an_upload_of_a_gibibyte_and_the_connection_ends() {
    let secured = Secured::start(&[]);
    File::create(secured.directory.path().join("sparse")).unwrap().set_len(1 << 30).unwrap();
    for length in [&["--header", "Expect:"][..], &["--header", "Transfer-Encoding: chunked"]] {
        let upload = ["--header", "Content-Type: application/json", "--data-binary", "@/dev/null"];
        let arguments = [&upload[..2], length, &["--request", "POST", "--upload-file", "sparse"]].concat();
        let (code, seen) = curl(&secured, "/event", &arguments);
        assert_eq!((code, seen.as_str()), (Some(0), "2 413"));
    }
    wait_until(|| (open_connections(&secured) == 1.0).then_some(()));
    assert_eq!(stored(&secured.directory), []);
}

/// How many connections the server has, with the one that asks.
fn open_connections(secured: &Secured) -> f64 {
    let metrics = secured.http1().get("/metrics").text();
    let line = metrics.lines().find_map(|line| line.strip_prefix("eventctl_connections "));
    line.unwrap().parse().unwrap()
}

/// HAProxy in front of the server: HTTP/1.1 on its own port, one HTTP/2 connection behind it for all clients. Other
/// threads would have connections of their own, which HAProxy 2.6 begins without a preface where the first client has gone.
struct HaProxy {
    _process: Process,
    address: SocketAddr,
}

impl HaProxy {
    fn start(directory: &Path, server: SocketAddr) -> HaProxy {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = format!(
            "global\n  maxconn 200\n  nbthread 1\n\
            defaults\n  mode http\n  timeout connect 10s\n  timeout client 60s\n  timeout server 60s\n  \
            retries 0\n  http-reuse always\n\
            frontend f\n  bind {address}\n  default_backend b\n\
            backend b\n  server s {server} ssl ca-file authority.pem alpn h2 proto h2\n"
        );
        write_file(directory, "haproxy.cfg", config);
        let mut command = Command::new("haproxy");
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
        command.args(["-db", "-f", "haproxy.cfg"]).current_dir(directory).env("PATH", path);
        let process = Process::start(&mut command);
        let proxy = HaProxy { _process: process, address };
        wait_until(|| {
            let health = Connection::try_open(address).ok()?.try_request("GET", "/health", &[], b"").ok()?;
            (health.status == 200).then_some(())
        });
        proxy
    }
}

#[test]
#[ignore = "needs haproxy"]
fn uploads_that_break_off_behind_haproxy_do_not_end_the_requests_of_others() {
    let secured = Secured::start(&[]);
    let proxy = HaProxy::start(secured.directory.path(), secured.server.address);
    let body = event("good", &"x".repeat(1000));
    let length = body.len();
    for round in 0..4 {
        // A request that is under way while the uploads of others break off.
        let mut slow = Connection::open(proxy.address);
        let head = format!(
            "POST /event HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        slow.send(head.as_bytes()).unwrap();
        slow.send(&body.as_bytes()[..length / 2]).unwrap();
        for number in 0..50 {
            let mut broken = Connection::open(proxy.address);
            let rest = if number % 2 == 0 { "" } else { "{\"event_type\":" };
            broken.send(format!("{head}{rest}").as_bytes()).unwrap();
            // The proxy has passed it on when a later request has been answered.
            if number % 10 == 0 {
                assert_eq!(Connection::open(proxy.address).get("/health").status, 200, "round {round}");
            }
            drop(broken);
        }
        slow.send(&body.as_bytes()[length / 2..]).unwrap();
        let response = slow.receive().expect("a request that is under way is answered");
        assert_eq!(response.status, 201, "round {round}: {response:?}");
        assert_eq!(Connection::open(proxy.address).post_event("good", "").status, 201);
    }
    assert_eq!(stored(&secured.directory).len(), 8);
}
