//! https: handshakes and who may make them, and a certificate that changes while it is in use.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, date_time_ymd};
use rustix::process::Signal;
use rustls::ClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use tempfile::{TempDir, tempdir};

use crate::util::http::{Connection, event, open_stream};
use crate::util::http2::{DATA, END_HEADERS, END_STREAM, Frames, HEADERS, Http2Connection, fields, frame};
use crate::util::tls::{Authority, H2, HTTP_1_1, Identity, TlsClient, TlsStream};
use crate::util::{Consume, SetOnDrop, eventctl, refusal_of, wait_until};

use super::{detail_of, stored};

/// A server with a certificate, and a client that trusts it.
pub struct Secured {
    pub directory: TempDir,
    pub authority: Authority,
    pub server: Consume,
    pub client: TlsClient,
}

impl Secured {
    pub fn start(arguments: &[&str]) -> Secured {
        Secured::start_with(|_| arguments.iter().map(|argument| (*argument).to_owned()).collect())
    }

    /// The same, with arguments that name files which are made first.
    pub fn start_with(arguments: impl FnOnce(&Path) -> Vec<String>) -> Secured {
        let directory = tempdir().unwrap();
        let authority = Authority::new("authority");
        authority.write(directory.path(), "authority");
        authority.issue("127.0.0.1").write(directory.path(), "server");
        let tls = ["--tls-cert", "server.pem", "--tls-key", "server.key"];
        let arguments = arguments(directory.path());
        let arguments: Vec<&str> = tls.into_iter().chain(arguments.iter().map(String::as_str)).collect();
        let server = Consume::start_with(directory.path(), &arguments);
        let client = TlsClient::new(&authority);
        Secured { directory, authority, server, client }
    }

    pub fn http1(&self) -> Connection<TlsStream> {
        self.client.http1(self.server.address).unwrap()
    }

    pub fn http2(&self) -> Http2Connection {
        Http2Connection::open(&self.client, self.server.address).unwrap()
    }

    /// The certificate that a new connection sees.
    fn shown_certificate(&self) -> CertificateDer<'static> {
        let stream = self.client.connect(self.server.address, &[HTTP_1_1]).unwrap();
        stream.conn.peer_certificates().unwrap()[0].clone().into_owned()
    }
}

#[test]
fn an_event_arrives_over_http_1_and_over_http_2() {
    let secured = Secured::start(&[]);
    assert!(secured.server.url("/").starts_with("https://127.0.0.1:"));
    let responses = [secured.http1().post_event("a", "1"), secured.http2().post_event("a", "2")];
    for (response, location) in responses.iter().zip(["event/1", "event/2"]) {
        assert_eq!((response.status, response.text().as_str()), (201, r#"{"status":"success"}"#));
        assert_eq!(response.header("location"), Some(location));
        assert_eq!(response.header("connection"), None);
    }
    let listed = [secured.http1().get("/event"), secured.http2().get("/event")];
    assert_eq!(listed[0].json(), listed[1].json());
    assert_eq!(stored(&secured.directory), [("a".into(), "1".into()), ("a".into(), "2".into())]);
}

#[test]
fn a_client_that_offers_no_protocol_gets_http_1() {
    let secured = Secured::start(&[]);
    let stream = secured.client.connect(secured.server.address, &[]).unwrap();
    assert_eq!(stream.conn.alpn_protocol(), None);
    assert_eq!(Connection::over(stream).post_event("a", "b").status, 201);
    // Of both, the newer is taken, however the client orders them.
    let stream = secured.client.connect(secured.server.address, &[HTTP_1_1, H2]).unwrap();
    assert_eq!(stream.conn.alpn_protocol(), Some(H2));
    assert!(secured.client.connect(secured.server.address, &[b"smtp"]).is_err());
}

#[test]
fn http_2_answers_heads_trailing_slashes_and_errors_as_http_1_does() {
    let secured = Secured::start(&[]);
    let mut http2 = secured.http2();
    for (method, path, body) in [
        ("GET", "/health", ""),
        ("HEAD", "/health/", ""),
        ("GET", "/event/", ""),
        ("GET", "/nothing", ""),
        ("PUT", "/event", "x"),
        ("GET", "/event?limit=0", ""),
        ("POST", "/event", "{"),
        ("POST", "/event", r#"{"event_type":"a","event_payload":"\u0000"}"#),
    ] {
        let expected = secured.http1().request(method, path, &[], body.as_bytes());
        let response = http2.try_request(method, path, &[], body.as_bytes()).unwrap();
        assert_eq!(response.status, expected.status, "{method} {path}: {response:?}");
        assert_eq!(response.header("content-type"), expected.header("content-type"));
        assert_eq!(response.header("content-length"), expected.header("content-length"));
        assert_eq!(response.header("allow"), expected.header("allow"));
        if response.status != 200 {
            assert_eq!(response.body, expected.body);
        }
    }
    assert_eq!(stored(&secured.directory), []);
}

#[test]
fn connections_beyond_the_limit_are_503_over_http_2_too() {
    let secured = Secured::start(&["--max-connections", "1"]);
    let mut admitted = secured.http1();
    assert_eq!(admitted.get("/health").status, 200);
    let response = secured.http2().post_event("a", "b");
    detail_of(&response, 503);
    assert_eq!((response.header("retry-after"), response.header("connection")), (Some("1"), None));
    assert_eq!(stored(&secured.directory), []);
}

// Handshakes.

#[test]
fn plain_http_to_a_port_of_https_is_closed() {
    let secured = Secured::start(&["--header-timeout", "1h"]);
    let mut connection = secured.server.connect();
    connection.send(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // What is unread resets the connection, so that the alert may be lost.
    let _ = Read::read_to_end(&mut connection.stream(), &mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert!(connection.is_closed());
    assert_eq!(secured.http1().get("/health").status, 200);
}

/// The first message of a handshake.
fn client_hello(secured: &Secured) -> Vec<u8> {
    let name = ServerName::from(secured.server.address.ip());
    let mut connection = ClientConnection::new(secured.client.offering(&[H2]), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_handshake_that_is_not_made_in_time_is_closed() {
    const LIMIT: Duration = Duration::from_millis(300);
    let secured = Secured::start(&["--header-timeout", "300ms", "--idle-timeout", "1h"]);
    let hello = client_hello(&secured);
    // Never begun, left in the midst of a message, and after it.
    for sent in [&[], &hello[..hello.len() / 2], &hello[..]] {
        let opened = Instant::now();
        let mut connection = secured.server.connect();
        connection.send(sent).unwrap();
        let mut answer = Vec::new();
        let ended = Read::read_to_end(&mut connection.stream(), &mut answer);
        assert!(ended.is_ok(), "{ended:?} after {} bytes", sent.len());
        assert!(opened.elapsed() >= LIMIT, "closed after {:?}", opened.elapsed());
        assert_eq!(answer.is_empty(), sent.len() < hello.len());
    }
}

#[test]
fn a_handshake_that_trickles_has_no_more_time() {
    let secured = Secured::start(&["--header-timeout", "300ms", "--idle-timeout", "1h"]);
    let hello = client_hello(&secured);
    let opened = Instant::now();
    let mut stream = open_stream(secured.server.address).unwrap();
    let sent = hello.iter().take_while(|byte| {
        thread::sleep(Duration::from_millis(20));
        stream.write_all(&[**byte]).is_ok()
    });
    let sent = sent.count();
    assert!(sent < hello.len(), "all of {sent} bytes were awaited");
    assert!(opened.elapsed() >= Duration::from_millis(300), "closed after {:?}", opened.elapsed());
}

#[test]
fn a_connection_that_is_silent_after_its_handshake_is_closed() {
    let secured = Secured::start(&["--header-timeout", "300ms", "--idle-timeout", "1h"]);
    for protocol in [H2, HTTP_1_1] {
        let opened = Instant::now();
        let mut stream = secured.client.connect(secured.server.address, &[protocol]).unwrap();
        let ended = stream.read_to_end(&mut Vec::new()).map_err(|error| error.kind());
        assert!(matches!(ended, Ok(_) | Err(io::ErrorKind::UnexpectedEof)), "{ended:?}");
        assert!(opened.elapsed() >= Duration::from_millis(300), "closed after {:?}", opened.elapsed());
    }
    let opened = Instant::now();
    Frames::open(&secured.client, secured.server.address).wait_for_end();
    assert!(opened.elapsed() >= Duration::from_millis(300), "closed after {:?}", opened.elapsed());
}

#[test]
fn an_idle_http_2_connection_is_closed_after_the_idle_timeout() {
    let secured = Secured::start(&["--idle-timeout", "300ms", "--header-timeout", "1h"]);
    let mut connection = secured.http2();
    assert_eq!(connection.get("/health").status, 200);
    let before = Instant::now();
    assert_eq!(connection.get("/health").status, 200);
    connection.wait_for_end();
    assert!(before.elapsed() >= Duration::from_millis(300), "closed after {:?}", before.elapsed());
}

// Certificates of clients.

#[test]
fn only_clients_with_a_certificate_of_the_authority_are_served() {
    let secured = Secured::start(&["--tls-client-ca", "authority.pem", "--host", "0.0.0.0"]);
    let address = (std::net::Ipv4Addr::LOCALHOST, secured.server.address.port()).into();
    let authority = &secured.authority;
    let expired = {
        let mut parameters = CertificateParams::new(["client".to_owned()]).unwrap();
        parameters.not_after = date_time_ymd(2001, 1, 1);
        authority.issue_with(&parameters)
    };
    let wrong = Authority::new("wrong authority").issue("client");
    for identity in [None, Some(wrong), Some(Identity::self_signed("client")), Some(expired)] {
        let client = TlsClient::with_identity(authority, identity.as_ref());
        // In TLS 1.3 the client is done before the server has seen its certificate.
        let http1 =
            client.http1(address).map(|mut connection| connection.try_request("GET", "/health", &[], b""));
        assert!(!matches!(http1, Ok(Ok(_))), "{http1:?}");
        let http2 = Http2Connection::open(&client, address);
        let http2 = http2.map(|mut connection| connection.try_post_event("a", "b"));
        assert!(!matches!(http2, Ok(Ok(_))), "{http2:?}");
    }
    let right = authority.issue("client");
    let client = TlsClient::with_identity(authority, Some(&right));
    assert_eq!(client.http1(address).unwrap().post_event("a", "1").status, 201);
    assert_eq!(Http2Connection::open(&client, address).unwrap().post_event("a", "2").status, 201);
    assert_eq!(stored(&secured.directory).len(), 2);
}

#[test]
fn a_certificate_of_the_server_alone_is_not_enough_to_listen_beyond_this_machine() {
    let directory = tempdir().unwrap();
    Authority::new("authority").issue("127.0.0.1").write(directory.path(), "server");
    let tls = ["--tls-cert", "server.pem", "--tls-key", "server.key", "--host", "0.0.0.0"];
    let (error, hint) = refusal_of(consume(directory.path()).args(tls), 1);
    assert!(error.contains("cannot listen on 0.0.0.0:"), "{error}");
    assert!(hint.contains("--tls-client-ca"), "{hint}");
}

// Files that cannot be used.

fn consume(directory: &Path) -> Command {
    let mut command = eventctl(directory);
    command.args(["consume", "--port", "0"]);
    command
}

#[test]
fn files_that_cannot_be_used_are_refused_with_a_hint() {
    let directory = tempdir().unwrap();
    let path = directory.path();
    let authority = Authority::new("authority");
    authority.issue("127.0.0.1").write(path, "server");
    authority.issue("127.0.0.1").write(path, "other");
    let write = |name: &str, content: &str, mode: u32| {
        fs::write(path.join(name), content).unwrap();
        fs::set_permissions(path.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    let key = fs::read_to_string(path.join("server.key")).unwrap();
    write("shared.key", &key, 0o640);
    write("encrypted.key", &key.replace("PRIVATE", "ENCRYPTED PRIVATE"), 0o600);
    write("empty", "", 0o600);
    write("garbage", "\u{1}garbage\n-----BEGIN CERTIFICATE-----\n!!!\n", 0o600);
    write("hollow", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o600);
    write("hollow.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 0o600);
    fs::create_dir(path.join("directory")).unwrap();
    let right = ["server.pem", "server.key"];
    for (certificate, key, named, advice) in [
        ("server.pem", "other.key", "certificate", "key that belongs"),
        ("missing.pem", "server.key", "`missing.pem`", "PEM"),
        ("server.pem", "missing.key", "`missing.key`", "check the path"),
        ("server.key", "server.key", "`server.key`", "certificates"),
        ("server.pem", "server.pem", "`server.pem`", "chmod 600"),
        ("empty", "server.key", "`empty`", "certificates"),
        ("server.pem", "empty", "`empty`", "private key"),
        ("garbage", "server.key", "`garbage`", "certificates"),
        ("server.pem", "garbage", "`garbage`", "private key"),
        ("hollow", "server.key", "certificate", "certificate"),
        ("server.pem", "hollow.key", "certificate", "key"),
        ("server.pem", "encrypted.key", "`encrypted.key`", "unencrypted"),
        ("server.pem", "shared.key", "`shared.key`", "chmod 600 shared.key"),
        ("directory", "server.key", "`directory`", "certificates"),
    ] {
        let arguments = ["--tls-cert", certificate, "--tls-key", key];
        let (error, hint) = refusal_of(consume(path).args(arguments), 1);
        assert!(error.contains(named), "{certificate} {key}: {error}");
        assert!(hint.contains(advice), "{certificate} {key}: {hint}");
    }
    for authorities in ["missing.pem", "empty", "garbage", "hollow", "server.key", "directory"] {
        let arguments = ["--tls-cert", right[0], "--tls-key", right[1], "--tls-client-ca", authorities];
        let (error, hint) = refusal_of(consume(path).args(arguments), 1);
        assert!(error.contains(&format!("`{authorities}`")), "{error}");
        assert!(hint.contains("certificates"), "{hint}");
    }
    assert!(!path.join("events.db").exists(), "a server that cannot serve has made a store");
}

#[test]
fn a_certificate_without_a_key_is_refused_and_so_is_the_reverse() {
    let directory = tempdir().unwrap();
    let authority = Authority::new("authority");
    authority.issue("127.0.0.1").write(directory.path(), "server");
    authority.write(directory.path(), "authority");
    for (arguments, advice) in [
        (&["--tls-cert", "server.pem"][..], "--tls-key FILE"),
        (&["--tls-key", "server.key"], "--tls-cert FILE"),
        (&["--tls-client-ca", "authority.pem"], "--tls-cert FILE"),
        (&["--tls-cert", "server.pem", "--tls-client-ca", "authority.pem"], "--tls-key FILE"),
    ] {
        let (_, hint) = refusal_of(consume(directory.path()).args(arguments), 1);
        assert!(hint.contains(advice), "{arguments:?}: {hint}");
    }
}

// A certificate that changes.

fn wait_for_lines(server: &Consume, text: &str, count: usize) {
    wait_until(|| (server.process.stderr().matches(text).count() >= count).then_some(()));
}

#[test]
fn a_certificate_changes_under_load_and_no_request_fails() {
    const CHANGES: usize = 4;
    let secured = Secured::start(&[]);
    let over = AtomicBool::new(false);
    let post_until_over = |mut post: Box<dyn FnMut() -> u16 + '_>| {
        let mut count = 0;
        while !over.load(Ordering::Relaxed) {
            assert_eq!(post(), 201);
            count += 1;
        }
        count
    };
    let count: usize = thread::scope(|scope| {
        let secured = &secured;
        let clients: Vec<_> = (0..4)
            .map(|number| {
                scope.spawn(move || match number {
                    0 => {
                        let mut connection = secured.http1();
                        post_until_over(Box::new(move || connection.post_event("a", "b").status))
                    }
                    1 => {
                        let mut connection = secured.http2();
                        post_until_over(Box::new(move || connection.post_event("a", "b").status))
                    }
                    2 => post_until_over(Box::new(|| secured.http1().post_event("a", "b").status)),
                    _ => post_until_over(Box::new(|| secured.http2().post_event("a", "b").status)),
                })
            })
            .collect();
        let _over = SetOnDrop(&over);
        let mut idle = (secured.http1(), secured.http2());
        assert_eq!((idle.0.get("/health").status, idle.1.get("/health").status), (200, 200));
        let mut shown = vec![secured.shown_certificate()];
        for change in 1..=CHANGES {
            let identity = secured.authority.issue("127.0.0.1");
            identity.write(secured.directory.path(), "server");
            secured.server.process.signal(Signal::HUP);
            wait_for_lines(&secured.server, "the certificate was read again", change);
            assert_eq!(secured.shown_certificate(), *identity.certificate());
            assert!(!shown.contains(identity.certificate()));
            shown.push(identity.certificate().clone());
        }
        assert_eq!((idle.0.get("/health").status, idle.1.get("/health").status), (200, 200));
        over.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    assert!(count > 0);
    assert_eq!(stored(&secured.directory).len(), count);
}

#[test]
fn new_files_that_cannot_be_used_leave_the_old_certificate_in_use() {
    let secured = Secured::start(&[]);
    let path = secured.directory.path();
    let before = secured.shown_certificate();
    let other = secured.authority.issue("127.0.0.1");
    let key = fs::read(path.join("server.key")).unwrap();
    let breaks: [&dyn Fn(); 4] = [
        &|| fs::write(path.join("server.pem"), "garbage").unwrap(),
        &|| fs::remove_file(path.join("server.pem")).unwrap(),
        &|| {
            // The certificate is new, and the key is not.
            other.write(path, "server");
            fs::write(path.join("server.key"), &key).unwrap();
        },
        &|| {
            other.write(path, "server");
            fs::set_permissions(path.join("server.key"), fs::Permissions::from_mode(0o644)).unwrap();
        },
    ];
    for (count, break_files) in breaks.iter().enumerate() {
        break_files();
        secured.server.process.signal(Signal::HUP);
        wait_for_lines(&secured.server, "the certificate stays as it was: ", count + 1);
        assert_eq!(secured.shown_certificate(), before);
        assert_eq!(secured.http2().get("/health").status, 200);
    }
    other.write(path, "server");
    secured.server.process.signal(Signal::HUP);
    wait_for_lines(&secured.server, "the certificate was read again", 1);
    assert_eq!(secured.shown_certificate(), *other.certificate());
}

#[test]
fn the_authorities_of_clients_are_read_again_too() {
    let secured = Secured::start(&["--tls-client-ca", "authority.pem"]);
    let next = Authority::new("next authority");
    let identity = next.issue("client");
    let client = TlsClient::with_identity(&secured.authority, Some(&identity));
    let get = || client.http1(secured.server.address)?.try_request("GET", "/health", &[], b"");
    assert!(get().is_err());
    next.write(secured.directory.path(), "authority");
    secured.server.process.signal(Signal::HUP);
    wait_for_lines(&secured.server, "the certificate was read again", 1);
    assert_eq!(get().unwrap().status, 200);
}

// The end.

/// Sends the headers of an event on the first stream, whose body is to follow.
fn begin_post(http2: &mut Frames) {
    let head = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", "/event"),
        (":authority", "test"),
        ("content-type", "application/json"),
    ];
    http2.send(&frame(HEADERS, END_HEADERS, 1, &fields(&head))).unwrap();
}

#[test]
fn sigterm_lets_requests_in_flight_finish() {
    let mut secured =
        Secured::start(&["--drain-timeout", "1h", "--idle-timeout", "1h", "--header-timeout", "1h"]);
    let body = event("a", &"half ".repeat(1000));
    let (first, second) = body.as_bytes().split_at(body.len() / 2);
    let length = body.len().to_string();
    let mut http1 = secured.http1();
    let head = format!(
        "POST /event HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
    );
    http1.send(head.as_bytes()).unwrap();
    assert_eq!(http1.receive().unwrap().status, 100);
    http1.send(first).unwrap();
    let mut http2 = Frames::open(&secured.client, secured.server.address);
    begin_post(&mut http2);
    http2.send(&frame(DATA, 0, 1, first)).unwrap();
    // Answered on the same connection: the head before was read.
    let get = [(":method", "GET"), (":scheme", "https"), (":path", "/health"), (":authority", "test")];
    http2.send_head(3, END_STREAM, &get).unwrap();
    assert_eq!(http2.outcome(3).status(), Some(200));
    let mut idle = (secured.http1(), secured.http2());
    assert_eq!((idle.0.get("/health").status, idle.1.get("/health").status), (200, 200));
    let mut silent = secured.server.connect();
    secured.server.process.signal(Signal::TERM);
    wait_until(|| {
        let refused = std::net::TcpStream::connect(secured.server.address).err()?;
        (refused.kind() == io::ErrorKind::ConnectionRefused).then_some(())
    });
    assert!(idle.0.is_closed());
    idle.1.wait_for_end();
    assert!(silent.is_closed());
    http1.send(second).unwrap();
    let response = http1.receive().unwrap();
    assert_eq!((response.status, response.header("connection")), (201, Some("close")));
    assert!(http1.is_closed());
    http2.send(&frame(DATA, END_STREAM, 1, second)).unwrap();
    assert_eq!(http2.outcome(1).status(), Some(201));
    assert!(matches!(http2.wait_for_end(), None | Some(0)));
    assert_eq!(secured.server.process.wait().code(), Some(0), "{}", secured.server.process.stderr());
    assert!(!secured.server.process.stderr().contains("cut"), "{}", secured.server.process.stderr());
    assert_eq!(stored(&secured.directory).len(), 2);
}

#[test]
fn a_stream_that_never_finishes_is_cut_at_the_drain_timeout() {
    let mut secured = Secured::start(&["--drain-timeout", "500ms", "--body-timeout", "1h"]);
    let mut http2 = Frames::open(&secured.client, secured.server.address);
    begin_post(&mut http2);
    let get = [(":method", "GET"), (":scheme", "https"), (":path", "/health"), (":authority", "test")];
    http2.send_head(3, END_STREAM, &get).unwrap();
    assert_eq!(http2.outcome(3).status(), Some(200));
    assert_eq!(secured.server.process.terminate().code(), Some(0));
    let stderr = secured.server.process.stderr();
    assert!(stderr.contains("1 connections were cut: they did not end in time"), "{stderr}");
    http2.wait_for_end();
    assert_eq!(stored(&secured.directory), []);
}
