//! What web pages of other origins can do: nothing, unless their origin is allowed by name.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::thread;

use tempfile::{TempDir, tempdir};

use crate::util::browser::Browser;
use crate::util::http::{Response, event};
use crate::util::{Consume, PATIENCE, eventctl};

use super::tls::Secured;
use super::tokens::{PASSWORD, USERNAME, password_form, start_guarded};
use super::{detail_of, start, stored};

/// A server with these arguments alone.
fn start_as_it_is(arguments: &[&str]) -> (TempDir, Consume) {
    let directory = tempdir().unwrap();
    let mut command = eventctl(directory.path());
    let server = Consume::start_as_it_is(command.args(["consume", "--port", "0"]).args(arguments));
    (directory, server)
}

/// The answer to a request line with exactly these headers, to an event where it is a POST.
fn answer_to(server: &Consume, request_line: &str, headers: &str) -> Response {
    let body = if request_line.starts_with("POST") { event("a", "b") } else { String::new() };
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let mut connection = server.connect();
    connection.send(format!("{request_line} HTTP/1.1\r\n{headers}{length}\r\n{body}").as_bytes()).unwrap();
    connection.receive().unwrap()
}

const JSON: &str = "Content-Type: application/json\r\n";

#[test]
fn a_write_without_a_content_type_is_415_and_told_which_to_send() {
    let (directory, server) = start(&[]);
    for path in ["/event", "/api/v1/health-alert"] {
        let detail = detail_of(&answer_to(&server, &format!("POST {path}"), "Host: localhost\r\n"), 415);
        assert!(detail.contains("`Content-Type: application/json`"), "{detail}");
    }
    let (_directory, guarded) = start_guarded(&[]);
    let detail = detail_of(&answer_to(&guarded, "POST /token", "Host: localhost\r\n"), 415);
    assert!(detail.contains("`Content-Type: application/x-www-form-urlencoded`"), "{detail}");
    assert_eq!(stored(&directory), []);
}

#[test]
fn without_access_control_only_names_of_this_machine_are_served() {
    let (directory, server) = start_as_it_is(&[]);
    let port = server.address.port();
    for host in
        ["localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.9.8.7", "[::1]", "[::ffff:127.0.0.1]"]
    {
        for port in [String::new(), format!(":{port}"), ":".to_owned(), ":9".to_owned()] {
            let response = answer_to(&server, "POST /event", &format!("Host: {host}{port}\r\n{JSON}"));
            assert_eq!(response.status, 201, "{host}{port}: {response:?}");
        }
    }
    let stored_before = stored(&directory).len();
    for host in [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "xlocalhost",
        "localhost..",
        "0.0.0.0",
        "[::]",
        "10.0.0.1",
        "test",
    ] {
        for port in [String::new(), format!(":{port}")] {
            for request_line in ["POST /event", "GET /event", "GET /event/stream", "GET /", "GET /metrics"] {
                let headers = format!("Host: {host}{port}\r\n{JSON}");
                let detail = detail_of(&answer_to(&server, request_line, &headers), 421);
                assert!(detail.contains("--allowed-host"), "{detail}");
            }
            // Load balancers ask whatever address they know.
            for path in ["/health", "/ready", "/health/"] {
                let response = answer_to(&server, &format!("GET {path}"), &format!("Host: {host}{port}\r\n"));
                assert_eq!(response.status, 200, "{host}: {response:?}");
            }
        }
    }
    // What the request line names counts, whatever stands beside it.
    let target = "GET http://evil.example/event";
    detail_of(&answer_to(&server, target, "Host: localhost\r\n"), 421);
    detail_of(&answer_to(&server, "GET http://localhost/event", "Host: evil.example\r\n"), 421);
    assert_eq!(stored(&directory).len(), stored_before);
}

#[test]
fn hosts_that_are_named_are_served_besides() {
    let (_directory, server) =
        start_as_it_is(&["--allowed-host", "Events.Example:443", "--allowed-host", "10.1.1.1"]);
    for host in ["events.example", "EVENTS.EXAMPLE.:8443", "10.1.1.1:80", "localhost"] {
        let response = answer_to(&server, "POST /event", &format!("Host: {host}\r\n{JSON}"));
        assert_eq!(response.status, 201, "{host}: {response:?}");
    }
    detail_of(&answer_to(&server, "GET /event", "Host: other.example\r\n"), 421);
}

#[test]
fn with_access_control_any_host_is_served_unless_some_are_named() {
    let (_directory, server) = start_with_token(&[]);
    assert_eq!(answer_to(&server, "GET /event", "Host: events.example\r\n").status, 401);
    let (_directory, server) = start_with_token(&["--allowed-host", "events.example"]);
    assert_eq!(answer_to(&server, "GET /event", "Host: events.example\r\n").status, 401);
    detail_of(&answer_to(&server, "GET /event", "Host: evil.example\r\n"), 421);
}

fn start_with_token(arguments: &[&str]) -> (TempDir, Consume) {
    let directory = tempdir().unwrap();
    let mut command = eventctl(directory.path());
    command.args(["consume", "--port", "0"]).args(arguments).env("EVENTCTL_TOKEN", "0123456789abcdef");
    let server = Consume::start_as_it_is(&mut command);
    (directory, server)
}

/// What browsers send with the requests of a page of another origin.
const FOREIGN: [&str; 9] = [
    "Sec-Fetch-Site: cross-site\r\n",
    "Sec-Fetch-Site: same-site\r\n",
    "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nOrigin: http://evil.example\r\n",
    "Sec-Fetch-Site: something-new\r\n",
    "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Site: cross-site\r\n",
    "Origin: http://evil.example\r\n",
    "Origin: http://localhost:1\r\n",
    "Origin: null\r\n",
    "Origin: http://localhost\r\nOrigin: http://evil.example\r\n",
];

#[test]
fn requests_of_pages_of_other_origins_are_403() {
    let (directory, server) = start(&[]);
    for headers in FOREIGN {
        for request_line in [
            "POST /event",
            "POST /api/v1/health-alert",
            "GET /event",
            "GET /event/stream",
            "GET /health",
            "GET /",
        ] {
            let headers = format!("Host: localhost\r\n{JSON}{headers}");
            let response = answer_to(&server, request_line, &headers);
            let detail = detail_of(&response, 403);
            assert!(detail.contains("--allow-origin"), "{detail}");
            assert_eq!(response.header("access-control-allow-origin"), None);
        }
        let preflight = format!("Host: localhost\r\n{headers}Access-Control-Request-Method: POST\r\n");
        detail_of(&answer_to(&server, "OPTIONS /event", &preflight), 403);
    }
    assert_eq!(stored(&directory), []);
    let (_directory, guarded) = start_guarded(&[]);
    let form = password_form(USERNAME, PASSWORD);
    for header in [("Sec-Fetch-Site", "cross-site"), ("Origin", "http://evil.example")] {
        let headers = [("Content-Type", "application/x-www-form-urlencoded"), header];
        detail_of(&guarded.connect().request("POST", "/token", &headers, form.as_bytes()), 403);
    }
}

#[test]
fn requests_of_the_own_page_and_of_people_pass() {
    let (directory, server) = start(&[]);
    let own = format!("Origin: http://localhost:{}\r\n", server.address.port());
    let host = format!("Host: LOCALHOST:{}\r\n{JSON}", server.address.port());
    for headers in [
        "",
        "Sec-Fetch-Site: same-origin\r\n",
        "Sec-Fetch-Site: none\r\n",
        // A proxy may have put its own name into `Host`.
        "Sec-Fetch-Site: same-origin\r\nOrigin: https://events.example\r\n",
        own.as_str(),
    ] {
        let response = answer_to(&server, "POST /event", &format!("{host}{headers}"));
        assert_eq!(response.status, 201, "{headers}: {response:?}");
    }
    assert_eq!(stored(&directory).len(), 5);
    // Somebody follows a link to the page.
    let link = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n";
    assert_eq!(answer_to(&server, "GET /", &format!("{host}{link}")).status, 200);
    detail_of(&answer_to(&server, "POST /event", &format!("{host}{link}")), 403);
    let frame = link.replace("document", "iframe");
    detail_of(&answer_to(&server, "GET /event", &format!("{host}{frame}")), 403);
}

#[test]
fn pages_of_an_allowed_origin_read_and_write_and_those_of_others_do_not() {
    let allowed = ["--allow-origin", "https://Dashboard.example/", "--allow-origin", "http://a.example:8080"];
    let (directory, server) = start(&allowed);
    let host = format!("Host: localhost\r\n{JSON}");
    for origin in ["https://dashboard.example", "http://a.example:8080"] {
        let headers = format!("{host}Sec-Fetch-Site: cross-site\r\nOrigin: {origin}\r\n");
        let preflight = format!(
            "{headers}Access-Control-Request-Method: POST\r\n\
             Access-Control-Request-Headers: content-type,idempotency-key\r\n"
        );
        let response = answer_to(&server, "OPTIONS /event", &preflight);
        assert_eq!((response.status, response.body.len()), (204, 0), "{response:?}");
        assert_eq!(response.header("access-control-allow-origin"), Some(origin));
        assert_eq!(response.header("access-control-allow-methods"), Some("GET, HEAD, POST"));
        let headers_allowed = response.header("access-control-allow-headers").unwrap();
        for name in ["authorization", "content-type", "idempotency-key", "last-event-id"] {
            assert!(headers_allowed.split(", ").any(|allowed| allowed == name), "{headers_allowed}");
        }
        assert_eq!(response.header("vary"), Some("Origin"));
        let written = answer_to(&server, "POST /event", &headers);
        let read = answer_to(&server, "GET /event", &headers);
        assert_eq!((written.status, read.status), (201, 200));
        assert_eq!(read.header("vary"), Some("Accept, Accept-Encoding, Origin"));
        // A page that cannot read an error cannot mend it.
        let refused = answer_to(&server, "GET /event?limit=0", &headers);
        detail_of(&refused, 400);
        for response in [written, read, refused] {
            assert_eq!(response.header("access-control-allow-origin"), Some(origin));
            assert!(response.header("access-control-expose-headers").unwrap().contains("location"));
        }
    }
    for origin in [
        "http://dashboard.example",
        "https://dashboard.example:8443",
        "https://dashboard.example.evil.example",
        "null",
    ] {
        let response = answer_to(&server, "POST /event", &format!("{host}Origin: {origin}\r\n"));
        detail_of(&response, 403);
        assert_eq!(response.header("access-control-allow-origin"), None);
        assert_eq!(response.header("vary"), Some("Origin"));
    }
    let plain = answer_to(&server, "GET /event", "Host: localhost\r\n");
    assert_eq!((plain.status, plain.header("vary")), (200, Some("Accept, Accept-Encoding, Origin")));
    assert_eq!(plain.header("access-control-allow-origin"), None);
    assert_eq!(stored(&directory).len(), 2);
}

#[test]
fn a_preflight_request_needs_no_token_and_what_follows_does() {
    let (_directory, server) = start_guarded(&["--allow-origin", "https://dashboard.example"]);
    let headers = "Host: test\r\nOrigin: https://dashboard.example\r\n";
    let preflight = format!(
        "{headers}Access-Control-Request-Method: GET\r\n\
         Access-Control-Request-Private-Network: true\r\n"
    );
    let response = answer_to(&server, "OPTIONS /event", &preflight);
    assert_eq!(response.status, 204);
    assert_eq!(response.header("access-control-allow-private-network"), Some("true"));
    let response = answer_to(&server, "GET /event", headers);
    assert_eq!(response.status, 401);
    assert_eq!(response.header("access-control-allow-origin"), Some("https://dashboard.example"));
    // OPTIONS alone is a method as any other.
    assert_eq!(answer_to(&server, "OPTIONS /event", headers).status, 401);
}

#[test]
fn http_2_is_refused_alike() {
    let secured = Secured::start(&[]);
    let mut http2 = secured.http2();
    for header in
        [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example"), ("origin", "http://test")]
    {
        let response = http2.try_request("POST", "/event", &[header], event("a", "b").as_bytes()).unwrap();
        detail_of(&response, 403);
    }
    let own = [("origin", "https://test")];
    assert_eq!(http2.try_request("POST", "/event", &own, event("a", "b").as_bytes()).unwrap().status, 201);
    detail_of(&http2.try_request("GET", "/event", &[("host", "evil.example")], b"").unwrap(), 421);
    assert_eq!(http2.try_request("GET", "/health", &[("host", "evil.example")], b"").unwrap().status, 200);
    assert_eq!(stored(&secured.directory).len(), 1);
}

/// The status that curl sees, with these arguments.
fn curl(arguments: &[&str]) -> String {
    let output = Command::new("curl")
        .args(["-sSk", "-o", "/dev/null", "-w", "%{http_version} %{http_code}", "--max-time", "60"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs curl"]
fn curl_is_told_over_http_1_and_http_2() {
    let directory = tempdir().unwrap();
    let authority = crate::util::tls::Authority::new("authority");
    authority.issue("127.0.0.1").write(directory.path(), "server");
    let mut command = eventctl(directory.path());
    command.args(["consume", "--port", "0", "--tls-cert", "server.pem", "--tls-key", "server.key"]);
    let server = Consume::start_as_it_is(&mut command);
    let port = server.address.port();
    let resolve = format!("evil.example:{port}:127.0.0.1");
    let own = format!("https://127.0.0.1:{port}/event");
    let data = event("a", "b");
    let json = ["-H", "Content-Type: application/json"];
    for (version, name) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let post = [version, "-d", &data, &own];
        assert_eq!(curl(&[&post[..], &json].concat()), format!("{name} 201"));
        assert_eq!(curl(&[&post[..], &["-H", "Content-Type:"]].concat()), format!("{name} 415"));
        let foreign = ["-H", "Origin: https://evil.example"];
        assert_eq!(curl(&[&post[..], &json, &foreign].concat()), format!("{name} 403"));
        let rebound = format!("https://evil.example:{port}/event");
        assert_eq!(curl(&[version, "--resolve", &resolve, &rebound]), format!("{name} 421"));
        let rebound_post = [version, "--resolve", &resolve, "-d", &data, &rebound];
        assert_eq!(curl(&[&rebound_post[..], &json].concat()), format!("{name} 421"));
    }
    assert_eq!(stored(&directory).len(), 2);
}

/// Serves an empty page at every path, for as long as the test runs.
fn serve_page() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let _ = stream.read(&mut [0; 8192]);
                let body = "<!doctype html><title>another origin</title>";
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n";
                let _ = write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len());
            });
        }
    });
    address
}

/// Runs an asynchronous expression in the page; what it comes to.
fn run(browser: &Browser, expression: &str) -> String {
    browser.run(&format!(
        "window.outcome = undefined;
        (async () => {{ {expression} }})().then(value => outcome = `${{value}}`, error => outcome = error.name)"
    ));
    crate::util::wait_until(|| browser.run("return window.outcome").as_str().map(str::to_owned))
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn a_page_of_another_origin_neither_reads_nor_writes_in_a_browser() {
    let (directory, server) = start_as_it_is(&[]);
    server.connect().called("localhost").post(event("secret", "read me"));
    let page = serve_page();
    let browser = Browser::start();
    let body = event("a", "written by a stranger");
    // The same site with another port, and another site.
    for origin in [format!("http://127.0.0.1:{}/", page.port()), format!("http://localhost:{}/", page.port())]
    {
        browser.open(&origin);
        let url = server.url("/event");
        let json = "headers: {'Content-Type': 'application/json'}";
        for attempt in [
            format!("await fetch('{url}', {{method: 'POST', mode: 'no-cors', body: new Blob(['{body}'])}})"),
            format!("await fetch('{url}', {{method: 'POST', mode: 'no-cors', body: '{body}'}})"),
            format!("await fetch('{url}', {{method: 'POST', {json}, body: '{body}'}})"),
            format!("navigator.sendBeacon('{url}', new Blob(['{body}']))"),
            format!("return (await fetch('{url}')).text()"),
            format!("return await (await fetch('{url}', {{mode: 'no-cors'}})).text()"),
            format!(
                "const frame = document.createElement('iframe'); frame.name = 'frame'; document.body.append(frame);
                const form = document.createElement('form'); form.method = 'POST'; form.enctype = 'text/plain';
                form.action = '{url}'; form.target = 'frame'; document.body.append(form); form.submit();
                await new Promise(resolve => frame.onload = resolve)"
            ),
            format!(
                "return await new Promise(resolve => {{
                    const source = new EventSource('{}');
                    source.onopen = () => resolve('opened'); source.onerror = () => resolve('failed');
                }})",
                server.url("/event/stream?after=0")
            ),
        ] {
            let outcome = run(&browser, &attempt);
            assert!(!outcome.contains("read me") && outcome != "opened", "{attempt}: {outcome}");
        }
    }
    assert_eq!(stored(&directory), [("secret".to_owned(), "read me".to_owned())]);
    // The own page goes on.
    browser.open(&server.url("/"));
    browser.wait_for("document.querySelector('#state').textContent", "live");
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn a_page_of_an_allowed_origin_reads_and_writes_in_a_browser() {
    let page = serve_page();
    let origin = format!("http://localhost:{}", page.port());
    let (directory, server) = start_as_it_is(&["--allow-origin", &origin]);
    let browser = Browser::start();
    browser.open(&origin);
    let url = server.url("/event");
    let body = event("a", "b");
    let written = run(
        &browser,
        &format!(
            "const headers = {{'Content-Type': 'application/json', 'Idempotency-Key': 'k'}};
            const response = await fetch('{url}', {{method: 'POST', headers, body: '{body}'}});
            return response.status + ' ' + response.headers.get('Location')"
        ),
    );
    assert_eq!(written, "201 event/1");
    let read = run(&browser, &format!("return (await (await fetch('{url}')).json())[0].event_payload"));
    assert_eq!(read, "b");
    let refused = run(&browser, &format!("return (await fetch('{url}?limit=0')).status"));
    assert_eq!(refused, "400");
    assert_eq!(stored(&directory).len(), 1);
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn a_name_that_resolves_to_this_machine_opens_nothing_in_a_browser() {
    let (directory, server) = start_as_it_is(&[]);
    server.connect().called("localhost").post(event("secret", "read me"));
    let browser = Browser::start_with(&["--host-resolver-rules=MAP evil.example 127.0.0.1"]);
    let own = format!("http://evil.example:{}", server.address.port());
    browser.open(&format!("{own}/event"));
    let shown = browser.run("return document.documentElement.textContent");
    assert!(shown.as_str().unwrap().contains("--allowed-host"), "{shown}");
    // A page that was rebound to this machine: its requests are of the same origin.
    let read = run(&browser, "const response = await fetch('/event'); return response.status");
    assert_eq!(read, "421");
    let body = event("a", "b");
    let written = run(
        &browser,
        &format!(
            "const headers = {{'Content-Type': 'application/json'}};
            return (await fetch('/event', {{method: 'POST', headers, body: '{body}'}})).status"
        ),
    );
    assert_eq!(written, "421");
    assert_eq!(stored(&directory).len(), 1);
}
