//! The proxies of `examples/proxy`, run with the very files but for ports and paths.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tempfile::{TempDir, tempdir};
use url::Url;

use crate::util::browser::Browser;
use crate::util::http::{Connection, event};
use crate::util::tls::{Authority, HTTP_1_1, TlsClient};
use crate::util::{Process, SetOnDrop, eventctl, free_port, wait_until, write_file, write_secret};

use super::examples;

const USERNAME: &str = "operator";
const PASSWORD: &str = "correct-horse-battery";

/// Addresses of this machine that no proxy has.
const CLIENT: &str = "127.0.0.77";
const OTHER_CLIENT: &str = "127.0.0.78";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nginx,
    HaProxy,
    Caddy,
}

/// A service behind a proxy.
struct Proxied {
    directory: TempDir,
    authority: Authority,
    server: Process,
    _proxy: Process,
    address: SocketAddr,
}

/// What came of a request.
#[derive(Debug)]
struct Reply {
    version: String,
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Reply {
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name));
        &found.unwrap_or_else(|| panic!("no {name}: {self:?}")).1
    }
}

/// The text of an example with some of it replaced, all of which must be there.
fn example(name: &str, replacements: &[(&str, &str)]) -> String {
    let text = fs::read_to_string(examples().join("proxy").join(name)).unwrap();
    replacements.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "{name} has no `{from}`");
        text.replace(from, to)
    })
}

impl Proxied {
    /// A proxy before a service that is reached at `upstream`; the service is started with these arguments.
    fn start(kind: Kind, arguments: &[&str]) -> Proxied {
        let directory = tempdir().unwrap();
        let path = directory.path();
        let authority = Authority::new("authority");
        authority.write(path, "authority");
        authority.issue("127.0.0.1").write(path, "server");
        let tls = ["--tls-cert", "server.pem", "--tls-key", "server.key"];
        let tls = if kind == Kind::HaProxy { &tls[..] } else { &[] };
        let mut command = eventctl(path);
        command.args(["consume", "-v"]).args(tls).args(arguments);
        let mut server = Process::start(&mut command);
        let line = server.wait_for_stderr("listening on ");
        let place = crate::util::word_after(&line, "listening on ").to_owned();
        let upstream = match place.split_once("://") {
            Some((_, address)) => address.to_owned(),
            None => format!("unix:{}", path.join(place.strip_prefix("unix:").unwrap()).display()),
        };
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = command_of(kind, path, &upstream, &address.to_string());
        let mut proxy = Process::start(command.current_dir(path).env("HOME", path).stdout(Stdio::null()));
        wait_until(|| {
            let ended = proxy.child().try_wait().unwrap();
            assert!(ended.is_none(), "{kind:?}: {}", proxy.stderr());
            TcpStream::connect(address).ok()
        });
        Proxied { directory, authority, server, _proxy: proxy, address }
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    /// A request by curl.
    fn curl(&self, url: &str, arguments: &[&str]) -> Reply {
        let output = Command::new("curl")
            .args(["-sS", "-i", "--cacert", "authority.pem", "--max-time", "60", "-H", "Expect:"])
            .args(arguments)
            .arg(url)
            .current_dir(self.directory.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut lines = head.lines();
        let mut status_line = lines.next().unwrap().split(' ');
        let version = status_line.next().unwrap().to_owned();
        let status = status_line.next().unwrap().parse().unwrap();
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
        Reply { version, status, headers, body: body.to_owned() }
    }

    /// The same to where a reference in a response leads.
    fn follow(&self, from: &str, reference: &str, arguments: &[&str]) -> Reply {
        self.curl(Url::parse(from).unwrap().join(reference).unwrap().as_str(), arguments)
    }

    fn log_in(&self) -> String {
        let form = format!("username={USERNAME}&password={PASSWORD}");
        let reply = self.curl(&self.url("/ev/token"), &["-d", &form]);
        assert_eq!(reply.status, 200, "{reply:?}");
        let token: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
        format!("Authorization: Bearer {}", token["access_token"].as_str().unwrap())
    }
}

fn command_of(kind: Kind, directory: &Path, upstream: &str, address: &str) -> Command {
    let file = |name: &str| directory.join(name).display().to_string();
    let (certificate, key, authority) = (file("server.pem"), file("server.key"), file("authority.pem"));
    match kind {
        Kind::Nginx => {
            let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|name| format!("{name}_temp_path {};", file(name)))
                .join(" ");
            let configuration = example(
                "nginx.conf",
                &[
                    ("server 127.0.0.1:8000;", &format!("server {upstream};")),
                    ("listen 443 ssl http2;", &format!("listen {address} ssl http2;")),
                    ("/etc/ssl/events.pem", &certificate),
                    ("/etc/ssl/events.key", &key),
                    ("http {\n", &format!("http {{ access_log off; {temporary}\n")),
                ],
            );
            let path = write_file(directory, "nginx.conf", configuration);
            let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
            let globals = format!("daemon off; error_log stderr; pid {}; {user}", file("nginx.pid"));
            let mut command = Command::new("nginx");
            command.args(["-e", "stderr", "-c"]).arg(path).args(["-g", &globals]);
            command
        }
        Kind::HaProxy => {
            let joined = [&certificate, &key].map(|path| fs::read_to_string(path).unwrap()).concat();
            let joined = write_secret(directory, "joined.pem", joined).display().to_string();
            let configuration = example(
                "haproxy.cfg",
                &[
                    ("bind :443 ssl", &format!("bind {address} ssl")),
                    ("/etc/ssl/events-with-key.pem", &joined),
                    ("server one 127.0.0.1:8443", &format!("server one {upstream}")),
                    ("/etc/ssl/authority.pem", &authority),
                ],
            );
            let mut command = Command::new("haproxy");
            command.arg("-db").arg("-f").arg(write_file(directory, "haproxy.cfg", configuration));
            command
        }
        Kind::Caddy => {
            let site =
                format!("\n{{\n\tadmin off\n\tauto_https disable_redirects\n}}\n\nhttps://{address} {{");
            let configuration = example(
                "Caddyfile",
                &[
                    ("\nevents.example.com {", &site),
                    ("reverse_proxy 127.0.0.1:8000", &format!("reverse_proxy {upstream}")),
                    ("/etc/ssl/events.pem", &certificate),
                    ("/etc/ssl/events.key", &key),
                ],
            );
            let mut command = Command::new("caddy");
            command.args(["run", "--adapter", "caddyfile", "--config"]);
            command.arg(write_file(directory, "Caddyfile", configuration));
            command
        }
    }
}

/// Restarts two services behind a proxy one after the other, while clients that repeat nothing post events; the statuses
/// other than 201.
fn broken_by_rolling_restarts(configuration: &str, program: &str, lame_duck: &str) -> Vec<String> {
    let directory = tempdir().unwrap();
    let path = directory.path();
    let ports = [free_port(), free_port()];
    let start = |number: usize| {
        let (port, store) = (ports[number].to_string(), format!("{number}.db"));
        let mut command = eventctl(path);
        command.args(["consume", "--port", &port, "--db", &store, "--lame-duck", lame_duck]);
        command.env("EVENTCTL_ALLOWED_HOST", "test");
        let mut server = Process::start(&mut command);
        server.wait_for_stderr("listening on ");
        server
    };
    let mut servers = [start(0), start(1)];
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let text = configuration
        .replace("ADDRESS", &address.to_string())
        .replace("PORT0", &ports[0].to_string())
        .replace("PORT1", &ports[1].to_string())
        .replace("FOLDER", &path.display().to_string());
    let file = write_file(path, "proxy.conf", text);
    let mut command = Command::new(program);
    match program {
        "haproxy" => command.arg("-db").arg("-f").arg(file),
        _ => command.args(["-e", "stderr", "-c"]).arg(file),
    };
    let proxy = Process::start(command.stdout(Stdio::null()));
    wait_until(|| {
        Connection::try_open(address)
            .ok()?
            .try_post_with_key("first", event("a", "b"))
            .ok()
            .filter(|response| response.status == 201)
    });
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(|| post_until(&over, address))).collect();
        let done = SetOnDrop(&over);
        for round in 0..6 {
            let number = round % 2;
            // The proxy has found the other one by then.
            thread::sleep(Duration::from_millis(1200));
            assert_eq!(servers[number].terminate().code(), Some(0));
            servers[number] = start(number);
        }
        drop(done);
        let broken: Vec<String> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        println!("{} requests were broken; the proxy: {}", broken.len(), proxy.stderr());
        broken.into_iter().take(3).collect()
    })
}

/// Posts events on one connection for as long as that lasts; all that was not stored.
fn post_until(over: &AtomicBool, address: SocketAddr) -> Vec<String> {
    let mut broken = Vec::new();
    let mut count = 0;
    let headers = [("Content-Type", "application/json")];
    while !over.load(Ordering::Relaxed) {
        let mut connection = Connection::open(address);
        while !over.load(Ordering::Relaxed) {
            count += 1;
            match connection.try_request("POST", "/event", &headers, event("a", "b").as_bytes()) {
                Ok(response) if response.status == 201 => {
                    if response.header("connection") == Some("close") {
                        break;
                    }
                }
                Ok(response) => {
                    broken.push(response.status.to_string());
                    break;
                }
                Err(error) => {
                    broken.push(error.to_string());
                    break;
                }
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
    assert!(count > 100, "{count} requests show nothing");
    broken
}

const HAPROXY_OF_TWO: &str = "
defaults
  mode http
  timeout connect 2s
  timeout client 30s
  timeout server 30s
  retries 0
frontend events
  bind ADDRESS
  default_backend eventctl
backend eventctl
  option httpchk GET /ready
  http-reuse always
  default-server check inter 100ms fall 1 rise 1
  server zero 127.0.0.1:PORT0
  server one 127.0.0.1:PORT1
";

/// nginx itself checks nothing: it takes the next one where a connection is refused.
const NGINX_OF_TWO: &str = "
daemon off;
pid FOLDER/nginx.pid;
events {}
http {
  access_log off;
  client_body_temp_path FOLDER/1; proxy_temp_path FOLDER/2; fastcgi_temp_path FOLDER/3;
  uwsgi_temp_path FOLDER/4; scgi_temp_path FOLDER/5;
  upstream eventctl { server 127.0.0.1:PORT0 fail_timeout=1s; server 127.0.0.1:PORT1 fail_timeout=1s; keepalive 8; }
  server {
    listen ADDRESS;
    location / { proxy_pass http://eventctl; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host localhost; }
  }
}
";

#[test]
#[ignore = "needs haproxy"]
fn no_request_breaks_behind_haproxy_when_services_restart_one_after_another() {
    assert_eq!(broken_by_rolling_restarts(HAPROXY_OF_TWO, "haproxy", "1s"), [""; 0]);
}

#[test]
#[ignore = "needs nginx"]
fn no_request_breaks_behind_nginx_when_services_restart_one_after_another() {
    assert_eq!(broken_by_rolling_restarts(NGINX_OF_TWO, "nginx", "1s"), [""; 0]);
}

/// A service with a login behind a proxy that is trusted.
fn start_guarded(kind: Kind) -> Proxied {
    let directory = tempdir().unwrap();
    let password = write_secret(directory.path(), "password", PASSWORD);
    let arguments =
        ["--port", "0", "--trusted-proxy", "127.0.0.1", "--username", USERNAME, "--password-file"];
    Proxied::start(kind, &[&arguments[..], &[password.to_str().unwrap()]].concat())
}

fn references_hold_below_a_prefix(proxied: &Proxied) {
    let authorization = proxied.log_in();
    let events = proxied.url("/ev/event");
    let body = event("a", "b");
    let headers = ["-H", &authorization, "-H", "Content-Type: application/json"];
    for (argument, version) in [("--http2", "HTTP/2"), ("--http1.1", "HTTP/1.1")] {
        let reply = proxied.curl(&events, &[&headers[..], &[argument, "-d", &body]].concat());
        assert_eq!((reply.version.as_str(), reply.status), (version, 201), "{reply:?}");
        let stored = proxied.follow(&events, reply.header("location"), &headers);
        assert_eq!(stored.status, 200, "{stored:?}");
        assert!(stored.body.contains(r#""event_payload":"b""#), "{stored:?}");
    }
    let page = proxied.curl(&proxied.url("/ev/event?limit=1"), &headers);
    let link = page.header("link");
    let target = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"prev\"")).unwrap();
    let previous = proxied.follow(&proxied.url("/ev/event?limit=1"), target, &headers);
    assert!(previous.body.starts_with(r#"[{"id":1,"#), "{previous:?}");
    // An early error comes whole, whatever the proxy speaks.
    let refused = proxied.curl(&events, &["-d", &body, "-H", "Content-Type: application/json"]);
    assert_eq!(refused.status, 401, "{refused:?}");
}

fn our_own_clients_work_below_a_prefix(proxied: &Proxied) {
    let login = |command: &mut Command| {
        command
            .args(["--cacert", "authority.pem", "--username", USERNAME])
            .env("EVENTCTL_PASSWORD", PASSWORD);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let directory = proxied.directory.path();
    write_file(directory, "events.json", format!("[{}]", event("sent", "by propagate")));
    let endpoint = proxied.url("/ev/event");
    let mut propagate = eventctl(directory);
    login(propagate.args(["propagate", "--count", "2", "--period", "10ms", "-q", "--endpoint", &endpoint]));
    for endpoint in [endpoint, proxied.url("/ev/"), proxied.url("/ev")] {
        let mut tail = eventctl(directory);
        let shown = login(tail.args(["tail", "-o", "ndjson", "--type", "sent", "--endpoint", &endpoint]));
        assert_eq!(shown.lines().count(), 2, "{shown}");
    }
}

fn events_come_as_they_are_stored(proxied: &Proxied) {
    let authorization = proxied.log_in();
    let mut curl = Command::new("curl");
    curl.args([
        "-sSN",
        "-i",
        "--cacert",
        "authority.pem",
        "-H",
        &authorization,
        &proxied.url("/ev/event/stream"),
    ]);
    let mut curl = Process::start(curl.current_dir(proxied.directory.path()).stdout(Stdio::piped()));
    let mut lines = BufReader::new(curl.child().stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.to_lowercase().starts_with("content-type: text/event-stream")));
    let headers = ["-H", &authorization, "-H", "Content-Type: application/json"];
    let stored =
        proxied.curl(&proxied.url("/ev/event"), &[&headers[..], &["-d", &event("live", "x")]].concat());
    assert_eq!(stored.status, 201, "{stored:?}");
    // It comes although the stream goes on.
    assert!(lines.any(|line| line.starts_with("data: ") && line.contains(r#""event_type":"live""#)));
}

fn uploads_that_break_off_do_not_disturb_others(proxied: &Proxied) {
    let authorization = proxied.log_in();
    let client = TlsClient::new(&proxied.authority);
    for _ in 0..40 {
        let mut stream = client.connect(proxied.address, &[HTTP_1_1]).unwrap();
        let head = format!("POST /ev/event HTTP/1.1\r\nHost: localhost\r\n{authorization}\r\n");
        let rest = "Content-Type: application/json\r\nContent-Length: 500000\r\n\r\n{\"event_type\": \"";
        stream.write_all(format!("{head}{rest}{}", "x".repeat(30_000)).as_bytes()).unwrap();
        stream.flush().unwrap();
    }
    let headers = ["-H", &authorization, "-H", "Content-Type: application/json"];
    for _ in 0..5 {
        let reply =
            proxied.curl(&proxied.url("/ev/event"), &[&headers[..], &["-d", &event("a", "b")]].concat());
        assert_eq!(reply.status, 201, "{reply:?}");
    }
}

fn clients_are_told_apart_by_their_addresses(proxied: &Proxied) {
    // What they say of themselves is not believed.
    let lies = ["-H", "X-Forwarded-For: 192.0.2.1", "-H", "Forwarded: for=192.0.2.1"];
    let log_in_from = |address: &str, password: &str| {
        let form = format!("username={USERNAME}&password={password}");
        let arguments = [&lies[..], &["--interface", address, "-d", &form]].concat();
        proxied.curl(&proxied.url("/ev/token"), &arguments).status
    };
    assert_eq!(log_in_from(OTHER_CLIENT, PASSWORD), 200);
    let statuses: Vec<u16> = (0..11).map(|_| log_in_from(CLIENT, "wrong")).collect();
    assert!(statuses[..10].iter().all(|status| *status == 400), "{statuses:?}");
    assert_eq!(statuses[10], 429);
    // Others go on: those who have logged in here before.
    assert_eq!(log_in_from(OTHER_CLIENT, PASSWORD), 200);
    let log = proxied.server.stderr();
    let of_client = log.lines().filter(|line| line.contains(&format!("\"client\":\"{CLIENT}\""))).count();
    assert_eq!(of_client, 11, "{log}");
    assert!(!log.contains("192.0.2.1"), "{log}");
}

fn everything_holds_behind(kind: Kind) {
    let proxied = start_guarded(kind);
    references_hold_below_a_prefix(&proxied);
    our_own_clients_work_below_a_prefix(&proxied);
    events_come_as_they_are_stored(&proxied);
    uploads_that_break_off_do_not_disturb_others(&proxied);
    clients_are_told_apart_by_their_addresses(&proxied);
}

#[test]
#[ignore = "needs nginx and curl"]
fn a_service_stands_behind_nginx() {
    everything_holds_behind(Kind::Nginx);
}

#[test]
#[ignore = "needs haproxy and curl"]
fn a_service_stands_behind_haproxy_by_http_2() {
    everything_holds_behind(Kind::HaProxy);
}

#[test]
#[ignore = "needs caddy and curl"]
fn a_service_stands_behind_caddy() {
    everything_holds_behind(Kind::Caddy);
}

#[test]
#[ignore = "needs nginx and curl"]
fn a_unix_socket_stands_behind_nginx() {
    let listen =
        ["--listen", "unix:events.sock", "--trusted-proxy", "unix", "--allowed-host", "events.example.com"];
    let mut proxied = Proxied::start(Kind::Nginx, &listen);
    let post = ["--interface", CLIENT, "-H", "Content-Type: application/json", "-d", &event("a", "b")];
    assert_eq!(proxied.curl(&proxied.url("/ev/event"), &post).status, 201);
    let named = [&post[..], &["-H", "Host: events.example.com"]].concat();
    assert_eq!(proxied.curl(&proxied.url("/ev/event"), &named).status, 201);
    let rebound = [&post[..], &["-H", "Host: evil.example"]].concat();
    assert_eq!(proxied.curl(&proxied.url("/ev/event"), &rebound).status, 421);
    proxied.server.wait_for_stderr(&format!("\"client\":\"{CLIENT}\""));
}

#[test]
#[ignore = "needs nginx and the browser of .ci/servers"]
fn the_page_is_live_below_a_prefix() {
    let proxied = Proxied::start(Kind::Nginx, &["--port", "0", "--trusted-proxy", "127.0.0.1"]);
    let browser = Browser::start();
    browser.open(&proxied.url("/ev/"));
    browser.wait_for("document.querySelector('#state').textContent", "live");
    let post = ["-H", "Content-Type: application/json", "-d", &event("a", "below a prefix")];
    assert_eq!(proxied.curl(&proxied.url("/ev/event"), &post).status, 201);
    browser.wait_for("document.querySelector('#list .payload')?.textContent", "below a prefix");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}
