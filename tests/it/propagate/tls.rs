//! https: whom `propagate` trusts, what it shows, and what becomes of events that it cannot send.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use hyper::Version;
use rcgen::{CertificateParams, date_time_ymd};
use tempfile::{TempDir, tempdir};

use super::{Run, arguments, finish, run, start, write_events};
use crate::util::receiver::{Receiver, Reply, TlsReceiver};
use crate::util::relay::Relay;
use crate::util::tls::{Authority, H2, HTTP_1_1, Identity};
use crate::util::{Consume, PATIENCE, eventctl, refusal_of, stored_events, wait_until, write_secret};

const WARNING: &str =
    r#""level":"WARN","target":"eventctl::client::settings","message":"--insecure-skip-verify: "#;

/// A directory with events and an authority.
fn prepare(events: usize) -> (TempDir, Authority) {
    let directory = tempdir().unwrap();
    write_events(directory.path(), events);
    let authority = Authority::new("authority");
    authority.write(directory.path(), "authority");
    (directory, authority)
}

fn url(address: SocketAddr) -> String {
    format!("https://{address}/event")
}

/// A server with a certificate of the authority.
fn consume(directory: &TempDir, authority: &Authority, further: &[&str]) -> Consume {
    authority.issue("127.0.0.1").write(directory.path(), "server");
    let tls = ["--tls-cert", "server.pem", "--tls-key", "server.key"];
    Consume::start_with(directory.path(), &[&tls, further].concat())
}

fn stored_count(directory: &TempDir) -> usize {
    stored_events(&directory.path().join("events.db")).len()
}

// Receivers that are trusted.

#[test]
fn events_are_delivered_to_a_receiver_with_a_trusted_ca() {
    let (directory, authority) = prepare(50);
    let consume = consume(&directory, &authority, &[]);
    let (endpoint, health) = (consume.url("/event"), consume.url("/health"));
    let further = ["--count", "50", "--cacert", "authority.pem", "--health", &health];
    let run = run(directory.path(), &endpoint, &further);
    run.check(0, [50, 0, 0]);
    assert_eq!(run.stderr, "");
    assert_eq!(stored_count(&directory), 50);
}

#[test]
fn the_system_trust_store_is_used_unless_a_ca_is_given() {
    let (directory, authority) = prepare(3);
    let consume = consume(&directory, &authority, &[]);
    Authority::new("another").write(directory.path(), "another");
    let run = |store: &str, further: &[&str]| {
        let further = [&["--count", "3", "--retries", "0"], further].concat();
        let mut command = eventctl(directory.path());
        command.args(arguments(&consume.url("/event"), &further)).env("SSL_CERT_FILE", store);
        Run::new(&command.output().unwrap())
    };
    run("authority.pem", &[]).check(0, [3, 0, 0]);
    run("another.pem", &[]).check(3, [0, 0, 3]);
    run("another.pem", &["--cacert", "authority.pem"]).check(0, [3, 0, 0]);
    run("authority.pem", &["--cacert", "another.pem"]).check(3, [0, 0, 3]);
    // A system without a trust store has the authorities that are built in, of which this is none.
    run("missing.pem", &[]).check(3, [0, 0, 3]);
    assert_eq!(stored_count(&directory), 6);
}

#[test]
fn a_silent_connection_is_replaced() {
    let (directory, authority) = prepare(80);
    let tokens = ["--username", "alice", "--password-file", "password"];
    write_secret(directory.path(), "password", "correct horse");
    let consume = consume(&directory, &authority, &tokens);
    let relay = Relay::start(consume.address);
    let options = [
        "--count",
        "80",
        "--period",
        "20ms",
        "--timeout",
        "500ms",
        "--retries",
        "20",
        "--cacert",
        "authority.pem",
    ];
    let process = start(directory.path(), &url(relay.address), &[&options[..], &tokens].concat());
    wait_until(|| (stored_count(&directory) >= 5).then_some(()));
    relay.silence();
    finish(directory.path(), process).check(0, [80, 0, 0]);
    assert_eq!(stored_count(&directory), 80);
}

#[test]
fn http_2_is_spoken_where_it_is_offered_and_http_1_where_not() {
    for (protocols, version) in [
        (&[H2, HTTP_1_1][..], Version::HTTP_2),
        (&[H2], Version::HTTP_2),
        (&[HTTP_1_1], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ] {
        let (directory, authority) = prepare(20);
        let receiver = TlsReceiver::start(authority.issue("127.0.0.1").server_config(protocols));
        let further = ["--count", "20", "--cacert", "authority.pem"];
        run(directory.path(), &url(receiver.address), &further).check(0, [20, 0, 0]);
        assert_eq!(receiver.versions(), vec![version; 20]);
    }
}

#[test]
fn host_names_are_verified_and_a_self_signed_certificate_can_be_the_ca() {
    let (directory, authority) = prepare(3);
    let consume = consume(&directory, &authority, &[]);
    authority.issue("localhost").write(directory.path(), "named");
    let own = Identity::self_signed("127.0.0.1");
    own.write(directory.path(), "own");
    let receiver = TlsReceiver::start(own.server_config(&[H2]));
    let further = ["--count", "3", "--cacert", "own.pem", "--retries", "0"];
    run(directory.path(), &url(receiver.address), &further).check(0, [3, 0, 0]);
    // And of nobody else's.
    run(directory.path(), &consume.url("/event"), &further).check(3, [0, 0, 3]);
    assert_eq!(stored_count(&directory), 0);
}

#[test]
fn tokens_and_events_go_over_one_encrypted_way() {
    let (directory, authority) = prepare(10);
    let consume = {
        authority.issue("127.0.0.1").write(directory.path(), "server");
        let mut command = eventctl(directory.path());
        command.args(["consume", "--port", "0", "--tls-cert", "server.pem", "--tls-key", "server.key"]);
        Consume::start_command(command.args(["--username", "alice"]).env("EVENTCTL_PASSWORD", "secret"))
    };
    let mut command = eventctl(directory.path());
    let further = ["--count", "10", "--cacert", "authority.pem", "--username", "alice"];
    command.args(arguments(&consume.url("/event"), &further)).env("EVENTCTL_PASSWORD", "secret");
    Run::new(&command.output().unwrap()).check(0, [10, 0, 0]);
    assert_eq!(stored_count(&directory), 10);
}

// Receivers that are not.

/// Asserts that nothing is delivered within reason; what the report says is wrong.
#[track_caller]
fn failure_of(directory: &TempDir, endpoint: &str, further: &[&str]) -> String {
    let bounds = ["--count", "2", "--retries", "1", "--timeout", "500ms"];
    let begun = Instant::now();
    let run = run(directory.path(), endpoint, &[&bounds, further].concat());
    run.check(3, [0, 0, 2]);
    assert!(begun.elapsed() < PATIENCE / 6, "{:?}", begun.elapsed());
    run.responses[0]["error"].as_str().unwrap().to_owned()
}

#[test]
fn a_receiver_whose_certificate_is_wrong_gets_nothing() {
    let (directory, authority) = prepare(2);
    let in_years = |from, to| {
        let mut parameters = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        (parameters.not_before, parameters.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        authority.issue_with(&parameters)
    };
    for (identity, problem) in [
        (Authority::new("unknown").issue("127.0.0.1"), "signed by an unknown CA"),
        (Authority::new("authority").issue("127.0.0.1"), "of another authority of that name"),
        (Identity::self_signed("127.0.0.1"), "of itself"),
        (in_years(1990, 2001), "expired"),
        (in_years(3000, 3001), "not yet valid"),
        (authority.issue("127.0.0.2"), "of another address"),
        (authority.issue("example.com"), "of another name"),
        (authority.own_identity(), "of an authority"),
    ] {
        let receiver = TlsReceiver::start(identity.server_config(&[H2, HTTP_1_1]));
        let error = failure_of(&directory, &url(receiver.address), &["--cacert", "authority.pem"]);
        assert!(error.contains("certificate"), "{problem}: {error}");
        assert!(receiver.versions().is_empty(), "{problem}");
    }
    // Without --cacert the authorities of the web are trusted, and this is none of them.
    let receiver = TlsReceiver::start(authority.issue("127.0.0.1").server_config(&[H2]));
    let error = failure_of(&directory, &url(receiver.address), &[]);
    assert!(error.contains("certificate"), "{error}");
}

/// A listener that does something to each connection.
fn listen(treat: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let treat = treat.clone();
            thread::spawn(move || treat(stream));
        }
    });
    address
}

#[test]
fn a_handshake_that_is_not_made_leaves_events_undelivered() {
    let (directory, _) = prepare(2);
    let trust = ["--cacert", "authority.pem"];
    let silent = listen(|_stream| thread::sleep(PATIENCE));
    assert_eq!(failure_of(&directory, &url(silent), &trust), "no response within 500ms");
    let trickling = listen(|mut stream| {
        // The head of a record, and then of its content a byte at a time.
        let _ = stream.write_all(&[22, 3, 3, 1, 0, 2, 0, 0, 252]);
        while stream.write_all(&[0]).is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    assert_eq!(failure_of(&directory, &url(trickling), &trust), "no response within 500ms");
    for bytes in [&b""[..], b"220 ready for mail\r\n", &[21, 3, 3, 0, 2, 2, 40], &[0; 1000]] {
        let breaking = listen(move |mut stream| {
            let _ = stream.read(&mut [0; 100]);
            let _ = stream.write_all(bytes);
        });
        assert_ne!(failure_of(&directory, &url(breaking), &trust), "", "{bytes:?}");
    }
    let plain = Consume::start(directory.path());
    assert_ne!(failure_of(&directory, &url(plain.address), &trust), "");
    assert_eq!(stored_count(&directory), 0);
}

#[test]
fn plain_http_to_a_receiver_of_https_leaves_events_undelivered() {
    let (directory, authority) = prepare(2);
    let consume = consume(&directory, &authority, &[]);
    let error = failure_of(&directory, &format!("http://{}/event", consume.address), &[]);
    assert_ne!(error, "");
    assert_eq!(stored_count(&directory), 0);
}

#[test]
fn a_receiver_is_trusted_again_once_its_certificate_is_right() {
    let (directory, authority) = prepare(3);
    Identity::self_signed("127.0.0.1").write(directory.path(), "server");
    let tls = ["--tls-cert", "server.pem", "--tls-key", "server.key"];
    let consume = Consume::start_with(directory.path(), &tls);
    let further = ["--count", "3", "--cacert", "authority.pem", "--retries", "100"];
    let process = start(directory.path(), &consume.url("/event"), &further);
    let report = directory.path().join("report");
    wait_until(|| fs::read_to_string(&report).unwrap().contains("certificate").then_some(()));
    authority.issue("127.0.0.1").write(directory.path(), "server");
    consume.process.signal(rustix::process::Signal::HUP);
    finish(directory.path(), process).check(0, [3, 0, 0]);
    assert_eq!(stored_count(&directory), 3);
}

#[test]
fn verification_is_skipped_only_on_request_and_every_start_warns_of_it() {
    let (directory, _) = prepare(3);
    let receiver = TlsReceiver::start(Identity::self_signed("example.com").server_config(&[H2]));
    let further = ["--count", "3", "-q", "--insecure-skip-verify"];
    let mut flagged = eventctl(directory.path());
    flagged.args(arguments(&url(receiver.address), &further[..2])).args(&further[2..]);
    let mut by_environment = eventctl(directory.path());
    by_environment.args(arguments(&url(receiver.address), &further[..2])).arg("-q");
    by_environment.env("EVENTCTL_INSECURE_SKIP_VERIFY", "true");
    for mut command in [flagged, by_environment] {
        for _ in 0..2 {
            let run = Run::new(&command.output().unwrap());
            run.check(0, [3, 0, 0]);
            assert_eq!(run.stderr.matches(WARNING).count(), 1, "{}", run.stderr);
            assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
        }
    }
    // A handshake that the certificate's key has not signed is made with nobody.
    let error = failure_of(&directory, &url(receiver.address), &[]);
    assert!(error.contains("certificate"), "{error}");
}

// Certificates of the sender.

#[test]
fn a_receiver_that_asks_for_a_certificate_gets_it() {
    let (directory, authority) = prepare(5);
    let path = directory.path();
    let consume = consume(&directory, &authority, &["--tls-client-ca", "authority.pem"]);
    authority.issue("sender").write(path, "sender");
    Authority::new("wrong authority").issue("sender").write(path, "wrong");
    let trust = ["--cacert", "authority.pem"];
    failure_of(&directory, &consume.url("/event"), &trust);
    let wrong = ["--cacert", "authority.pem", "--cert", "wrong.pem", "--key", "wrong.key"];
    failure_of(&directory, &consume.url("/event"), &wrong);
    assert_eq!(stored_count(&directory), 0);
    let right = ["--cert", "sender.pem", "--key", "sender.key", "--count", "5"];
    run(path, &consume.url("/event"), &[&trust, &right[..]].concat()).check(0, [5, 0, 0]);
    assert_eq!(stored_count(&directory), 5);
}

#[test]
fn files_that_cannot_be_used_are_refused_before_anything_is_sent() {
    let (directory, authority) = prepare(2);
    let path = directory.path();
    authority.issue("sender").write(path, "sender");
    authority.issue("sender").write(path, "other");
    fs::write(path.join("empty.pem"), "").unwrap();
    fs::write(path.join("garbage.pem"), "-----BEGIN CERTIFICATE-----\n!!!\n").unwrap();
    fs::copy(path.join("sender.key"), path.join("shared.key")).unwrap();
    let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o644);
    fs::set_permissions(path.join("shared.key"), mode).unwrap();
    let receiver = Receiver::start(|_, _| Reply::created());
    for (further, named, advice) in [
        (&["--cert", "sender.pem"][..], "`--cert`", "--key FILE"),
        (&["--key", "sender.key"], "`--key`", "--cert FILE"),
        (&["--cert", "sender.pem", "--key", "other.key"], "certificate", "key that belongs"),
        (&["--cert", "missing.pem", "--key", "sender.key"], "`missing.pem`", "certificates"),
        (&["--cert", "sender.pem", "--key", "missing.key"], "`missing.key`", "check the path"),
        (&["--cert", "sender.pem", "--key", "shared.key"], "`shared.key`", "chmod 600"),
        (&["--cert", "sender.key", "--key", "sender.key"], "`sender.key`", "certificates"),
        (&["--cacert", "missing.pem"], "`missing.pem`", "certificates"),
        (&["--cacert", "empty.pem"], "`empty.pem`", "certificates"),
        (&["--cacert", "garbage.pem"], "`garbage.pem`", "certificates"),
        (&["--cacert", "sender.key"], "`sender.key`", "certificates"),
    ] {
        let mut command = eventctl(path);
        command.args(arguments(&receiver.url("/event"), further));
        let (error, hint) = refusal_of(&mut command, 1);
        assert!(error.contains(named), "{further:?}: {error}");
        assert!(hint.contains(advice), "{further:?}: {hint}");
    }
    assert_eq!(receiver.arrivals().len(), 0);
}
