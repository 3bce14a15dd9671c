//! `tail --endpoint`: the same as on the store itself, and a follower that loses nothing on the way.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tempfile::{TempDir, tempdir};

use crate::util::follower::Follower;
use crate::util::receiver::{Receiver, Reply};
use crate::util::relay::Relay;
use crate::util::tls::Authority;
use crate::util::{
    Consume, Process, assert_eventctl, eventctl, refusal_of, wait_until, write_file, write_secret,
};

use super::{HOSTILE, fifteen, insert};

fn tail(directory: &Path, source: [&str; 2], arguments: &[&str]) -> String {
    let mut command = assert_eventctl(directory);
    let assert = command.arg("tail").args(source).args(arguments).assert().code(0).stderr("");
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

fn follow(directory: &Path, url: &str, arguments: &[&str]) -> Follower {
    Follower::start(eventctl(directory).args(["tail", "--endpoint", url]).args(arguments))
}

/// Starts a server again where it was.
fn restart(directory: &Path, address: SocketAddr, arguments: &[&str]) -> Consume {
    let port = address.port().to_string();
    Consume::start_command(eventctl(directory).args(["consume", "--port", &port]).args(arguments))
}

#[test]
fn a_service_is_shown_as_its_store_is() {
    let directory = fifteen();
    insert(directory.path(), &[(HOSTILE, HOSTILE), ("a,b", "say \"hi\"\r\n"), ("", "")]);
    let server = Consume::start(directory.path());
    let url = server.url("");
    let windows: [&[&str]; 16] = [
        &[],
        &["-n", "3"],
        &["-n", "0"],
        &["-n", "all"],
        &["--lines=1000"],
        &["--after", "2"],
        &["--after", "2", "-n", "3"],
        &["--after", "99"],
        &["--type", "user_*", "-n", "2"],
        &["--type", "[!m]*", "--after", "3", "-n", "2"],
        &["--type", "nothing"],
        &["-S", "2024-01-15T14:00:00Z"],
        &["-U", "2024-01-15T14:00:00Z"],
        &["-S", "2024-01-15T13:00:00Z", "-U", "2024-01-15T16:00:00Z", "-n", "2"],
        &["-S", "1h"],
        &["--color", "always"],
    ];
    for window in windows {
        for format in ["text", "json", "ndjson", "csv"] {
            let arguments = [window, &["-o", format]].concat();
            let local = tail(directory.path(), ["--db", "events.db"], &arguments);
            assert_eq!(tail(directory.path(), ["--endpoint", &url], &arguments), local, "{arguments:?}");
        }
    }
}

#[test]
fn statistics_are_the_same() {
    let directory = fifteen();
    let server = Consume::start(directory.path());
    let url = server.url("/");
    let windows: [&[&str]; 5] =
        [&[], &["--type", "user_*"], &["--type", "nothing"], &["-S", "2024-01-15T14:00:00Z"], &["-S", "1h"]];
    for window in windows {
        for format in ["text", "json", "csv"] {
            let arguments = [window, &["--stats", "-o", format]].concat();
            let local = tail(directory.path(), ["--db", "events.db"], &arguments);
            assert_eq!(tail(directory.path(), ["--endpoint", &url], &arguments), local, "{arguments:?}");
        }
    }
}

#[test]
fn many_pages_and_large_events_are_the_same() {
    let large = "\u{1}x".repeat(300_000);
    let small = "y".repeat(100);
    let mut events = vec![("small", small.as_str()); 2500];
    events.extend([("large", large.as_str()); 12]);
    let directory = super::store(&events);
    let server = Consume::start(directory.path());
    let url = server.url("/event");
    let windows: [&[&str]; 6] = [
        &["-n", "all"],
        &["-n", "2000"],
        &["--after", "100", "-n", "1500"],
        &["--type", "large", "-n", "11"],
        &["--type", "s*", "-n", "1001"],
        &["--after", "2495"],
    ];
    for window in windows {
        let arguments = [window, &["-o", "json"]].concat();
        let local = tail(directory.path(), ["--db", "events.db"], &arguments);
        assert!(tail(directory.path(), ["--endpoint", &url], &arguments) == local, "{arguments:?}");
    }
    assert_eq!(
        tail(directory.path(), ["--endpoint", &url], &["--stats"]),
        tail(directory.path(), ["--db", "events.db"], &["--stats"])
    );
}

#[test]
fn a_follower_shows_events_as_they_are_stored() {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    server.store("a", "before");
    let follower = follow(directory.path(), &server.url(""), &[]);
    let filtered = follow(directory.path(), &server.url(""), &["--type", "b*", "-U", "2124-01-01T00:00:00Z"]);
    assert_eq!(follower.next_payload(), "before");
    server.store("b", "0");
    assert_eq!(filtered.next_payload(), "0");
    assert_eq!(follower.next_payload(), "0");
    for number in 1..20 {
        server.store("a", &number.to_string());
        assert_eq!(follower.next_payload(), number.to_string());
    }
    server.store("b", "last");
    assert_eq!(filtered.next_payload(), "last");
    assert_eq!(follower.next_payload(), "last");
    follower.assert_nothing_else();
    filtered.assert_nothing_else();
}

#[test]
fn a_follower_of_an_empty_service_shows_its_first_event() {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    let follower = follow(directory.path(), &server.url(""), &[]);
    server.store("a", "first");
    assert_eq!(follower.next_payload(), "first");
    follower.assert_nothing_else();
}

#[test]
fn a_follower_goes_on_through_kills_of_the_server() {
    let directory = tempdir().unwrap();
    let mut server = Consume::start(directory.path());
    let address = server.address;
    let mut follower = follow(directory.path(), &server.url(""), &["-n", "all"]);
    // It has to have come as far as to follow before the server goes.
    server.store("a", "0");
    assert_eq!(follower.next()["event_payload"], "0");
    let mut stored = 1;
    for round in 0..4 {
        for _ in 0..20 {
            server.store("a", &stored.to_string());
            stored += 1;
        }
        // Some are read before the kill, and some are not.
        if round % 2 == 0 {
            server.process.kill();
        } else {
            assert_eq!(server.process.terminate().code(), Some(0));
        }
        if round == 0 {
            follower.process.wait_for_stderr("waiting for `http://");
        }
        server = restart(directory.path(), address, &[]);
        server.store("a", &stored.to_string());
        stored += 1;
    }
    for number in 1..stored {
        let event = follower.next();
        assert_eq!(
            (event["id"].as_i64(), event["event_payload"].as_str()),
            (Some(number + 1), Some(number.to_string().as_str()))
        );
    }
    follower.assert_nothing_else();
}

#[test]
fn a_follower_starts_over_where_another_store_takes_the_place() {
    let directory = tempdir().unwrap();
    let mut server = Consume::start(directory.path());
    let address = server.address;
    server.store("a", "old");
    let follower = follow(directory.path(), &server.url(""), &[]);
    assert_eq!(follower.next_payload(), "old");
    server.process.kill();
    for file in ["events.db", "events.db-wal", "events.db-shm"] {
        let _ = fs::remove_file(directory.path().join(file));
    }
    let other = tempdir().unwrap();
    // It has come further than the one before: only its events tell that it is another.
    let before = Consume::start(other.path());
    before.store("a", "new 1");
    before.store("a", "new 2");
    drop(before);
    let _server = restart(other.path(), address, &[]);
    assert_eq!([follower.next_payload(), follower.next_payload()], ["new 1", "new 2"]);
    follower.assert_nothing_else();
}

#[test]
fn a_follower_shows_every_event_once_while_connections_are_cut() {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    // Each connection ends after some bytes, in the middle of whatever it is.
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    let address = server.address;
    thread::spawn(move || {
        for (number, client) in proxy.incoming().map_while(Result::ok).enumerate() {
            thread::spawn(move || {
                let mut upstream = std::net::TcpStream::connect(address).unwrap();
                let mut to = upstream.try_clone().unwrap();
                let mut from = client.try_clone().unwrap();
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                });
                let mut client = client;
                let mut left = 1500 + number * 577 % 3000;
                let mut buffer = [0; 256];
                while left > 0 {
                    let Ok(length @ 1..) = upstream.read(&mut buffer) else { break };
                    let length = length.min(left);
                    if client.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                    left -= length;
                }
                let _ = client.shutdown(std::net::Shutdown::Both);
                let _ = upstream.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    let follower = follow(directory.path(), &url, &[]);
    for number in 0..60 {
        server.store("a", &format!("{number}/{}", "x".repeat(100)));
        assert!(follower.next_payload().starts_with(&format!("{number}/")));
    }
    follower.assert_nothing_else();
}

/// A service behind tokens and https, with what `tail` needs to be let in.
fn guarded() -> (TempDir, Consume) {
    let directory = tempdir().unwrap();
    let authority = Authority::new("authority");
    authority.write(directory.path(), "authority");
    authority.issue("127.0.0.1").write(directory.path(), "server");
    write_secret(directory.path(), "password", "a long password");
    let arguments = [
        "--username",
        "operator",
        "--password-file",
        "password",
        "--tls-cert",
        "server.pem",
        "--tls-key",
        "server.key",
    ];
    let server = Consume::start_with(directory.path(), &arguments);
    insert(directory.path(), &[("a", "1"), ("a", "2")]);
    (directory, server)
}

const LOGIN: [&str; 6] =
    ["--username", "operator", "--password-file", "password", "--cacert", "authority.pem"];

#[test]
fn a_guarded_service_is_shown_to_whoever_may_see_it() {
    let (directory, server) = guarded();
    let url = server.url("");
    let local = tail(directory.path(), ["--db", "events.db"], &[]);
    for grant in ["client-credentials", "password"] {
        assert_eq!(
            tail(directory.path(), ["--endpoint", &url], &[&LOGIN[..], &["--grant", grant]].concat()),
            local
        );
    }
    let follower = follow(directory.path(), &url, &LOGIN);
    assert_eq!([follower.next_payload(), follower.next_payload()], ["1", "2"]);
    insert(directory.path(), &[("a", "3")]);
    assert_eq!(follower.next_payload(), "3");
    follower.assert_nothing_else();
    // Without them, two lines say what to give.
    let mut command = eventctl(directory.path());
    let (error, hint) =
        refusal_of(command.args(["tail", "--endpoint", &url, "--cacert", "authority.pem"]), 1);
    assert!(error.starts_with(&format!("cannot show `{url}/`: ")) && error.contains("401"), "{error}");
    assert_eq!(hint, "give --username and --password-file, or --token-file");
    let (error, hint) = refusal_of(eventctl(directory.path()).args(["tail", "--endpoint", &url]), 1);
    assert!(error.contains("certificate") && (error.clone() + &hint).contains("--cacert"), "{error}: {hint}");
    write_secret(directory.path(), "password", "a wrong password");
    let (error, hint) =
        refusal_of(eventctl(directory.path()).args(["tail", "--endpoint", &url]).args(LOGIN), 1);
    assert!(error.starts_with("cannot log in at `https://"), "{error}");
    assert_eq!(hint, "check --username, --password-file and --token-url");
}

#[test]
fn a_follower_fetches_another_token_when_its_own_is_taken_no_more() {
    let directory = tempdir().unwrap();
    write_secret(directory.path(), "password", "a long password");
    for name in ["key", "other_key"] {
        write_secret(directory.path(), name, format!("{name}: of thirty-two bytes or more"));
    }
    let guard = |key| ["--username", "operator", "--password-file", "password", "--signing-key-file", key];
    let mut server = Consume::start_with(directory.path(), &guard("key"));
    let (address, url) = (server.address, server.url(""));
    let follower = follow(directory.path(), &url, &["--username", "operator", "--password-file", "password"]);
    insert(directory.path(), &[("a", "1")]);
    assert_eq!(follower.next_payload(), "1");
    server.process.kill();
    let _server = restart(directory.path(), address, &guard("other_key"));
    insert(directory.path(), &[("a", "2")]);
    assert_eq!(follower.next_payload(), "2");
    follower.assert_nothing_else();
}

/// A server that answers every request alike; its URL.
fn answering(response: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(response);
        }
    });
    url
}

#[test]
fn what_is_no_such_service_is_told_in_two_lines() {
    let directory = tempdir().unwrap();
    let refusal = |url: &str| refusal_of(eventctl(directory.path()).args(["tail", "--endpoint", url]), 1);
    let (error, hint) = refusal("http://127.0.0.1:1");
    assert!(error.starts_with("cannot show `http://127.0.0.1:1/`: ") && error.contains("refused"), "{error}");
    assert_eq!(hint, "check that eventctl consume runs at http://127.0.0.1:1");
    let is_it = "is this an eventctl consume? give its URL, such as https://host:8000";
    for (response, expected) in [
        (&b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"[..], "404"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\n[]", "`text/html`"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n[", "not a list"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}", "not a list"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 172\r\n\r\n[{\"id\":2,\"received_at\":\"2024-01-15T12:00:00Z\",\"event_type\":\"a\",\"event_payload\":\"b\"},{\"id\":1,\"received_at\":\"2024-01-15T12:00:00Z\",\"event_type\":\"a\",\"event_payload\":\"b\"}]      ", "asked for"),
    ] {
        let (error, hint) = refusal(&answering(response));
        assert!(error.contains(expected), "{expected}: {error}");
        assert_eq!(hint, is_it, "{error}");
    }
    let problem = b"HTTP/1.1 500 Oh\r\nContent-Type: application/problem+json\r\nContent-Length: 33\r\n\r\n{\"detail\":\"oh \\u001b[31m no \\n x\"}";
    let (error, _) = refusal(&answering(problem));
    assert!(error.contains("status 500") && !error.contains('\u{1b}'), "{error:?}");
    let (error, _) = refusal("http://127.0.0.1:1/?x=y");
    assert!(error.ends_with("the URL has a query"), "{error}");
}

#[test]
fn a_service_without_a_stream_can_be_shown_and_not_followed() {
    let directory = tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = [0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut request) {
                let list =
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]";
                let nothing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
                let streams = request[..length].starts_with(b"GET /event/stream");
                let _ = stream.write_all(if streams { nothing } else { list });
            }
        }
    });
    assert_eq!(tail(directory.path(), ["--endpoint", &url], &[]), "");
    let (error, hint) = refusal_of(eventctl(directory.path()).args(["tail", "-f", "--endpoint", &url]), 1);
    assert_eq!(error, format!("cannot follow `{url}/`: the service there tells no stream of events"));
    assert_eq!(hint, "upgrade it, or leave --follow out");
}

#[test]
fn a_store_and_an_endpoint_are_one_too_many() {
    let directory = fifteen();
    let server = Consume::start(directory.path());
    let url = server.url("");
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = eventctl(directory.path());
        command.arg("tail").args(arguments).envs(variables.iter().copied());
        command
    };
    let (error, hint) = refusal_of(&mut run(&["--db", "events.db", "--endpoint", &url], &[]), 2);
    assert_eq!(
        (error.as_str(), hint.as_str()),
        ("both `--db` and `--endpoint` are given", "give one of them")
    );
    let (error, _) = refusal_of(&mut run(&["--alerts", "--endpoint", &url], &[]), 2);
    assert!(error.starts_with("`--alerts` cannot be shown by `--endpoint`"), "{error}");
    // What is on the command line beats the environment; what propagate sends to is of no matter.
    let shows = |arguments: &[&str], variables: &[(&str, &str)]| {
        let output = run(arguments, variables).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    let expected = shows(&[], &[]);
    assert_eq!(shows(&["--endpoint", &url], &[("DATABASE_URL", "nothing.db")]), expected);
    assert_eq!(shows(&["--db", "events.db"], &[("EVENTCTL_ENDPOINT", "http://127.0.0.1:1")]), expected);
    assert_eq!(shows(&[], &[("EVENTCTL_ENDPOINT", &url), ("DATABASE_URL", "nothing.db")]), expected);
    assert_eq!(shows(&[], &[("HTTP_POST_ENDPOINT", "http://127.0.0.1:1/event")]), expected);
}

#[test]
fn a_pipe_that_is_closed_ends_a_follower_although_nothing_comes() {
    let directory = fifteen();
    let server = Consume::start(directory.path());
    for source in [["--endpoint", &server.url("")], ["--db", "events.db"]] {
        let mut command = eventctl(directory.path());
        command.args(["tail", "-f"]).args(source).stdout(Stdio::piped());
        let mut process = Process::start(&mut command);
        let mut output = BufReader::new(process.child().stdout.take().unwrap());
        output.read_line(&mut String::new()).unwrap();
        drop(output);
        assert_eq!(process.wait().code(), Some(0), "{source:?}: {}", process.stderr());
    }
}

#[test]
fn frames_that_keep_coming_do_not_cancel_the_renewal_of_a_token() {
    let directory = tempdir().unwrap();
    write_secret(directory.path(), "password", "correct horse");
    let (under_way, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&most);
    let receiver = Receiver::start(move |arrival, _| {
        let json = |body: &str| {
            let length = body.len();
            Reply::Send(format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            ))
        };
        if arrival.head.starts_with("POST /token ") {
            seen.fetch_max(under_way.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            // Meanwhile many frames arrive.
            thread::sleep(Duration::from_millis(500));
            under_way.fetch_sub(1, Ordering::Relaxed);
            return json(r#"{"access_token":"token","token_type":"bearer","expires_in":1}"#);
        }
        if arrival.head.starts_with("GET /event/stream") {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
            return Reply::Drip(head.to_owned(), Duration::from_millis(2));
        }
        json("[]")
    });
    let login = ["--username", "alice", "--password-file", "password"];
    let _follower = follow(directory.path(), &receiver.url(""), &login);
    let fetches =
        || receiver.arrivals().iter().filter(|arrival| arrival.head.contains("POST /token")).count();
    wait_until(|| (fetches() >= 4).then_some(()));
    assert_eq!(most.load(Ordering::Relaxed), 1, "a renewal was given up for another");
}

#[test]
fn a_follower_notices_a_connection_that_has_fallen_silent() {
    let directory = tempdir().unwrap();
    let authority = Authority::new("authority");
    authority.write(directory.path(), "authority");
    authority.issue("127.0.0.1").write(directory.path(), "server");
    let server =
        Consume::start_with(directory.path(), &["--tls-cert", "server.pem", "--tls-key", "server.key"]);
    let relay = Relay::start(server.address);
    let url = format!("https://{}", relay.address);
    let store = |payload: &str| {
        let mut command = eventctl(directory.path());
        let endpoint = server.url("/event");
        let file = write_file(
            directory.path(),
            "one.json",
            format!(r#"[{{"event_type":"a","event_payload":"{payload}"}}]"#),
        );
        command.args([
            "propagate",
            "--count",
            "1",
            "--cacert",
            "authority.pem",
            "--endpoint",
            &endpoint,
            "--file",
        ]);
        assert!(command.arg(file).output().unwrap().status.success());
    };
    let follower = follow(directory.path(), &url, &["--cacert", "authority.pem"]);
    store("1");
    assert_eq!(follower.next_payload(), "1");
    relay.silence();
    for payload in ["2", "3"] {
        store(payload);
    }
    assert_eq!([follower.next_payload(), follower.next_payload()], ["2", "3"]);
    follower.assert_nothing_else();
}
