//! Compressed bodies: requests in gzip and zstd within the limits of what they stand for, and responses for who asks.

use std::fs;
use std::process::Command;
use std::thread;

use eventctl::testing::Coding;
use serde_json::Value;

use crate::util::http::{Connection, Response, event};
use crate::util::receiver::{Receiver, Reply};
use crate::util::sse::EventStream;
use crate::util::{Consume, random, write_file};

use super::tls::Secured;
use super::tokens::start_guarded;
use super::{assert_lives, detail_of, start, stored};

const JSON: (&str, &str) = ("Content-Type", "application/json");
const CODINGS: [Coding; 2] = [Coding::Gzip, Coding::Zstd];

fn post_coded(server: &Consume, coding: &str, body: &[u8]) -> Response {
    server.connect().request("POST", "/event", &[JSON, ("Content-Encoding", coding)], body)
}

// Requests.

#[test]
fn a_compressed_event_is_stored_as_what_it_stands_for() {
    let (directory, server) = start(&[]);
    let payload = "compressible ".repeat(50_000);
    for coding in CODINGS {
        let body = coding.encode(event("a", &payload).as_bytes()).unwrap();
        let response = post_coded(&server, coding.name(), &body);
        assert_eq!((response.status, response.text().as_str()), (201, r#"{"status":"success"}"#));
        let lines = coding.encode(format!("{}\n{}\n", event("a", "1"), event("a", "2")).as_bytes()).unwrap();
        let headers = [("Content-Type", "application/x-ndjson"), ("Content-Encoding", coding.name())];
        let response = server.connect().request("POST", "/event", &headers, &lines);
        assert_eq!((response.status, response.text().as_str()), (201, r#"{"status":"success","count":2}"#));
    }
    let stored = stored(&directory);
    assert_eq!((stored.len(), &stored[0].1, &stored[3].1), (6, &payload, &payload));
    // Neither is one coding too many, nor none.
    for coding in ["identity", "Identity, GZIP", "x-gzip"] {
        let body = event("a", "b");
        let body =
            if coding == "identity" { body.into() } else { Coding::Gzip.encode(body.as_bytes()).unwrap() };
        assert_eq!(post_coded(&server, coding, &body).status, 201, "{coding}");
    }
}

#[test]
fn a_compressed_health_alert_is_taken() {
    let receiver = Receiver::start(|_, _| Reply::status(200, ""));
    let (directory, server) = start(&["--alert-allow-private", "--alert", &receiver.url("/")]);
    let body = Coding::Zstd.encode(br#"{"issues":["disk"]}"#).unwrap();
    let headers = [JSON, ("Content-Encoding", "zstd")];
    let response = server.connect().request("POST", "/api/v1/health-alert", &headers, &body);
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(stored(&directory), [("health_alert".to_owned(), r#"["disk"]"#.to_owned())]);
}

#[test]
fn another_coding_or_several_are_415_with_those_that_are_taken() {
    let (directory, server) = start(&[]);
    for coding in ["br", "deflate", "compress", "gzip, zstd", "gzip, gzip", "gzip;q=1", "\u{e9}"] {
        let response = post_coded(&server, coding, event("a", "b").as_bytes());
        detail_of(&response, 415);
        assert_eq!(response.header("accept-encoding"), Some("gzip, zstd"), "{coding}");
    }
    assert_eq!(stored(&directory), []);
    let (_directory, server) = start_guarded(&[]);
    let headers = [("Content-Type", "application/x-www-form-urlencoded"), ("Content-Encoding", "gzip")];
    let form = Coding::Gzip.encode(b"grant_type=password").unwrap();
    let response = server.connect().request("POST", "/token", &headers, &form);
    detail_of(&response, 415);
    assert_eq!(response.header("accept-encoding"), Some("identity"));
}

#[test]
fn a_body_that_is_cut_off_or_not_of_its_coding_is_400() {
    let (directory, server) = start(&[]);
    for coding in CODINGS {
        let body = coding.encode(event("a", &"b".repeat(100)).as_bytes()).unwrap();
        let wrong = [&body[..body.len() - 1], &body[..3], b"{}", b"", &[&body[..], b"{}"].concat()];
        for wrong in wrong {
            let detail = detail_of(&post_coded(&server, coding.name(), wrong), 400);
            assert!(detail.contains(coding.name()), "{detail}");
        }
        let not_an_event = coding.encode(b"{}").unwrap();
        assert!(detail_of(&post_coded(&server, coding.name(), &not_an_event), 400).contains("does not fit"));
    }
    assert_eq!(stored(&directory), []);
    assert_lives(&server);
}

#[test]
fn the_limit_is_that_of_what_a_body_stands_for() {
    let (directory, server) = start(&["--body-limit", "64KiB"]);
    let fits = event("a", &"x".repeat((64 << 10) - event("a", "").len()));
    for coding in CODINGS {
        assert_eq!(post_coded(&server, coding.name(), &coding.encode(fits.as_bytes()).unwrap()).status, 201);
        let body = coding.encode(format!("{fits} ").as_bytes()).unwrap();
        detail_of(&post_coded(&server, coding.name(), &body), 413);
    }
    assert_eq!(stored(&directory).len(), 2);
    // Room in memory is taken for what it stands for, and given back.
    let (directory, server) = start(&["--queue-bytes", "8KiB"]);
    let body = Coding::Gzip.encode(event("a", &"x".repeat(20_000)).as_bytes()).unwrap();
    for _ in 0..20 {
        detail_of(&post_coded(&server, "gzip", &body), 503);
    }
    assert_eq!(server.connect().post_event("a", &"x".repeat(5000)).status, 201);
    assert_eq!(stored(&directory).len(), 1);
}

#[test]
fn a_repetition_in_another_coding_is_answered_alike() {
    let (directory, server) = start(&[]);
    let post = |coding: Option<Coding>, body: &str| {
        let name = coding.map_or("identity", Coding::name);
        let body = coding.map_or(Ok(body.into()), |coding| coding.encode(body.as_bytes())).unwrap();
        let headers = [JSON, ("Idempotency-Key", "key"), ("Content-Encoding", name)];
        server.connect().request("POST", "/event", &headers, &body)
    };
    for coding in [None, Some(Coding::Gzip), Some(Coding::Zstd)] {
        let response = post(coding, &event("a", "b"));
        assert_eq!((response.status, response.header("location")), (201, Some("event/1")));
    }
    detail_of(&post(Some(Coding::Gzip), &event("a", "c")), 422);
    assert_eq!(stored(&directory).len(), 1);
}

#[test]
fn random_bytes_in_a_coding_are_4xx_over_http_1_and_http_2() {
    let secured = Secured::start(&["--body-limit", "64KiB"]);
    let mut random = random();
    let (mut http1, mut http2) = (secured.http1(), secured.http2());
    for number in 0..300 {
        let coding = CODINGS[number % 2];
        let mut body = coding.encode(event("attack", &"x".repeat(random.usize(..2000))).as_bytes()).unwrap();
        for _ in 0..random.usize(1..20) {
            let at = random.usize(..body.len());
            match random.u8(..3) {
                0 => body[at] = random.u8(..),
                1 => body.truncate(at.max(1)),
                _ => body.insert(at, random.u8(..)),
            }
        }
        let headers = [("content-type", "application/json"), ("content-encoding", coding.name())];
        let statuses = [
            http1.request("POST", "/event", &headers, &body).status,
            http2.try_request("POST", "/event", &headers, &body).unwrap().status,
        ];
        // A change of a time in the header of gzip changes nothing, and zstd need not have a checksum.
        assert!(statuses.iter().all(|status| *status == 201 || (400..500).contains(status)), "{statuses:?}");
        assert_eq!(statuses[0], statuses[1]);
    }
    let stderr = secured.server.process.stderr();
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert_eq!(http1.post_event("good", "").status, 201);
}

#[test]
#[ignore = "needs curl, gzip and zstd"]
fn what_gzip_and_zstd_make_is_taken_from_curl() {
    let (directory, server) = start(&[]);
    write_file(directory.path(), "event.json", event("a", &"x".repeat(100_000)));
    for (tool, arguments) in [
        ("gzip", &["-9"][..]),
        ("gzip", &["-1"]),
        ("zstd", &["-q", "-1"]),
        ("zstd", &["-q", "-19", "--long=23"]),
    ] {
        let mut command = Command::new(tool);
        let output =
            command.args(arguments).args(["-c", "event.json"]).current_dir(&directory).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        write_file(directory.path(), "coded", output.stdout);
        let mut curl = Command::new("curl");
        curl.args([
            "-sS",
            "--noproxy",
            "*",
            "-H",
            "Content-Type: application/json",
            "--data-binary",
            "@coded",
        ]);
        curl.args(["-H", &format!("Content-Encoding: {tool}"), &server.url("/event")])
            .current_dir(&directory);
        let output = curl.output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            r#"{"status":"success"}"#,
            "{tool} {arguments:?}"
        );
    }
    assert!(stored(&directory).iter().all(|(_, payload)| payload.len() == 100_000));
    // A window beyond what the coding may have in HTTP.
    let shell = "head -c 64M /dev/zero | zstd -q --ultra -20 --long=27 -c > coded";
    assert!(Command::new("bash").args(["-c", shell]).current_dir(&directory).status().unwrap().success());
    let coded = fs::read(directory.path().join("coded")).unwrap();
    detail_of(&post_coded(&server, "zstd", &coded), 400);
}

#[test]
#[ignore = "needs bash, gzip and zstd"]
fn bombs_take_no_more_memory_than_other_bodies() {
    let (directory, server) = start(&[]);
    for (coding, command) in [("gzip", "gzip -9"), ("zstd", "zstd -q -19")] {
        let shell = format!("head -c 900M /dev/zero | {command} -c > bomb");
        assert!(
            Command::new("bash").args(["-c", &shell]).current_dir(&directory).status().unwrap().success()
        );
        let bomb = fs::read(directory.path().join("bomb")).unwrap();
        assert!(bomb.len() < 1 << 20, "{} bytes", bomb.len());
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..4 {
                        detail_of(&post_coded(&server, coding, &bomb), 413);
                    }
                });
            }
        });
    }
    let status =
        fs::read_to_string(format!("/proc/{}/status", server.process.pid().as_raw_nonzero())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 160 << 10, "{peak} KiB of memory");
    assert_eq!(stored(&directory), []);
    assert_lives(&server);
}

// Responses.

fn get_accepting(connection: &mut Connection, path: &str, accepted: &str) -> Response {
    connection.request("GET", path, &[("Accept-Encoding", accepted)], b"")
}

/// What a response says, whatever its coding.
fn decoded(response: &Response) -> Vec<u8> {
    let coding = response.header("content-encoding").map(|name| Coding::of(name).unwrap());
    match coding {
        Some(coding) => coding.decode(&response.body, 64 << 20, |_| true).unwrap(),
        None => response.body.clone(),
    }
}

#[test]
fn responses_are_compressed_for_who_accepts_it() {
    let (_directory, server) = start(&[]);
    for _ in 0..20 {
        server.store("a", &"compressible ".repeat(100));
    }
    let mut connection = server.connect();
    for path in ["/event", "/event/1", "/metrics", "/openapi.json", "/"] {
        let plain = connection.get(path);
        assert_eq!((plain.status, plain.header("content-encoding")), (200, None), "{path}");
        assert!(plain.header("vary").unwrap().ends_with("Accept-Encoding"), "{path}: {plain:?}");
        for (accepted, coding) in [
            ("gzip", Some("gzip")),
            ("gzip, deflate, br, zstd", Some("zstd")),
            ("gzip;q=1.0, zstd;q=0.5", Some("gzip")),
            ("zstd;q=0, *", Some("gzip")),
            ("br", None),
            ("gzip;q=0", None),
            ("identity, gzip;q=0.5", None),
        ] {
            let response = get_accepting(&mut connection, path, accepted);
            assert_eq!(response.header("content-encoding"), coding, "{path} {accepted}");
            assert_eq!(response.header("vary"), plain.header("vary"), "{path}");
            assert_eq!(response.header("content-type"), plain.header("content-type"), "{path}");
            if path != "/metrics" {
                assert_eq!(decoded(&response), plain.body, "{path} {accepted}");
            }
            assert!(coding.is_none() || response.body.len() < plain.body.len(), "{path}");
            let head = connection.request("HEAD", path, &[("Accept-Encoding", accepted)], b"");
            assert_eq!(head.header("content-encoding"), coding, "{path} {accepted}");
        }
    }
    let headers = [("Accept", "application/x-ndjson"), ("Accept-Encoding", "gzip")];
    let lines = connection.request("GET", "/event", &headers, b"");
    assert_eq!(lines.header("content-encoding"), Some("gzip"));
    assert_eq!(decoded(&lines).iter().filter(|byte| **byte == b'\n').count(), 20);
}

#[test]
fn what_is_small_or_no_success_or_a_stream_is_not_compressed() {
    let (_directory, server) = start(&[]);
    server.store("a", &"b".repeat(700));
    let mut connection = server.connect();
    let long = format!("/event?limit={}", "x".repeat(3000));
    for (path, status) in
        [("/event", 200), ("/event/1", 200), ("/health", 200), ("/event/9", 404), (&long, 400)]
    {
        let response = get_accepting(&mut connection, path, "gzip, zstd");
        assert_eq!((response.status, response.header("content-encoding")), (status, None), "{path}");
        let varies = response.header("vary").is_some_and(|names| names.contains("Accept-Encoding"));
        assert_eq!(varies, status == 200, "{path}: {response:?}");
    }
    let stream = EventStream::open(server.connect(), "?after=0", &[("Accept-Encoding", "gzip")]);
    assert_eq!(stream.response.header("content-encoding"), None);
}

#[test]
fn a_compressed_response_gives_its_room_in_memory_back() {
    let (_directory, server) = start(&["--queue-bytes", "256KiB"]);
    for _ in 0..10 {
        server.store("a", &"compressible ".repeat(1000));
    }
    for _ in 0..50 {
        let response = get_accepting(&mut server.connect(), "/event", "zstd");
        assert_eq!((response.status, response.header("content-encoding")), (200, Some("zstd")));
    }
}

#[test]
#[ignore = "needs curl"]
fn curl_reads_compressed_responses_over_http_1_and_http_2() {
    let secured = Secured::start(&[]);
    for number in 0..50 {
        assert_eq!(
            secured.http1().post_event("a", &format!("{number} compressible").repeat(1000)).status,
            201
        );
    }
    let plain = secured.http1().get("/event").json();
    for version in ["--http1.1", "--http2"] {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--noproxy", "*", "--compressed", version, "--cacert", "authority.pem"]);
        curl.args(["--write-out", "%{stderr}%{size_download}", &secured.server.url("/event")]);
        let output = curl.current_dir(&secured.directory).output().unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), plain, "{version}");
        let size: usize = String::from_utf8(output.stderr).unwrap().parse().unwrap();
        assert!(size * 10 < output.stdout.len(), "{size} bytes");
    }
}
