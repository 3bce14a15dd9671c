//! Passwords are guessed slowly, and at nobody else's cost.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::util::http::{Response, event};
use crate::util::{Consume, wait_until};

use super::tls::Secured;
use super::tokens::{
    PASSWORD, USERNAME, assert_refused, lets_in, log_in, password_form, refresh_form, start_guarded,
    tokens_of,
};
use super::{detail_of, stored};
use crate::util::http2::{ACK, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, PING, fields, frame};
use crate::util::{eventctl, write_secret};

/// Wrong attempts that may come at once.
const BURST: u8 = 10;

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 9, number)
}

fn try_from(server: &Consume, local: Ipv4Addr, username: &str, password: &str) -> Response {
    server.connect_from(local).post_form(password_form(username, password))
}

/// Asserts that an attempt was not even checked, and that the wait is one that the limit allows.
#[track_caller]
fn assert_too_many(response: &Response) {
    assert_eq!(detail_of(response, 429), "too many attempts of this name or address");
    let wait: u64 = response.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=6).contains(&wait), "{wait}");
}

#[test]
fn a_name_is_guessed_so_often_from_wherever_it_is() {
    let (_directory, server) = start_guarded(&[]);
    let login = log_in(&server);
    for number in 1..=BURST {
        let response = if number % 2 == 0 {
            try_from(&server, address(number), USERNAME, "wrong")
        } else {
            basic_from(&server, address(number), USERNAME, "wrong")
        };
        let code = if number % 2 == 0 { "invalid_grant" } else { "invalid_client" };
        assert_refused(&response, code);
    }
    for number in [1, BURST + 1, BURST + 2] {
        assert_too_many(&try_from(&server, address(number), USERNAME, "wrong"));
        assert_too_many(&try_from(&server, address(number), USERNAME, PASSWORD));
        assert_too_many(&basic_from(&server, address(number), USERNAME, PASSWORD));
    }
    // Another name is another matter, and whoever has tokens goes on.
    assert_refused(&try_from(&server, address(50), "grace", "wrong"), "invalid_grant");
    assert!(lets_in(&server, &login.access));
    // An attempt that was not checked does not count against its address.
    for _ in 0..=BURST {
        assert_too_many(&try_from(&server, address(60), USERNAME, PASSWORD));
    }
    tokens_of(&server.connect_from(address(60)).post_form(refresh_form(&login.refresh)));
}

fn basic_from(server: &Consume, local: Ipv4Addr, username: &str, password: &str) -> Response {
    let authorization = format!("Basic {}", STANDARD.encode(format!("{username}:{password}")));
    let headers =
        [("Content-Type", "application/x-www-form-urlencoded"), ("Authorization", authorization.as_str())];
    server.connect_from(local).request("POST", "/token", &headers, b"grant_type=client_credentials")
}

#[test]
fn an_address_guesses_so_often_whatever_the_name() {
    let (_directory, server) = start_guarded(&[]);
    let login = log_in(&server);
    for number in 1..=BURST {
        let response = try_from(&server, address(1), &format!("name {number}"), PASSWORD);
        assert_refused(&response, "invalid_grant");
    }
    assert_too_many(&try_from(&server, address(1), "another name", PASSWORD));
    assert_too_many(&try_from(&server, address(1), USERNAME, PASSWORD));
    assert_too_many(&basic_from(&server, address(1), USERNAME, PASSWORD));
    assert_too_many(&server.connect_from(address(1)).post_form(refresh_form(&login.refresh)));
    // All else goes on there, and everything elsewhere.
    let mut connection = server.connect_from(address(1));
    assert_eq!(connection.get("/health").status, 200);
    assert_eq!(connection.get("/ready").status, 200);
    let authorization = format!("Bearer {}", login.access);
    assert_eq!(connection.request("GET", "/event", &[("Authorization", &authorization)], b"").status, 200);
    assert_refused(&connection.post_form("grant_type=nothing"), "unsupported_grant_type");
    tokens_of(&try_from(&server, address(2), USERNAME, PASSWORD));
    tokens_of(&server.connect_from(address(2)).post_form(refresh_form(&login.refresh)));
}

#[test]
fn refresh_tokens_are_guessed_as_slowly_as_passwords() {
    let (_directory, server) = start_guarded(&[]);
    let login = log_in(&server);
    for number in 1..=BURST {
        let response = server.connect_from(address(1)).post_form(refresh_form(&number.to_string()));
        assert_refused(&response, "invalid_grant");
    }
    assert_too_many(&server.connect_from(address(1)).post_form(refresh_form(&login.refresh)));
    tokens_of(&server.connect_from(address(2)).post_form(refresh_form(&login.refresh)));
}

#[test]
fn only_wrong_attempts_count() {
    let (_directory, server) = start_guarded(&[]);
    for _ in 0..=BURST {
        let tokens = log_in(&server);
        tokens_of(&server.connect().post_form(refresh_form(&tokens.refresh)));
        assert_eq!(basic_from(&server, Ipv4Addr::LOCALHOST, USERNAME, PASSWORD).status, 200);
        assert_refused(&server.connect().post_form("grant_type=password"), "invalid_request");
    }
    // None of them has used up an attempt, be it of the name or of the address.
    for _ in 0..BURST {
        let response = try_from(&server, Ipv4Addr::LOCALHOST, USERNAME, "wrong");
        assert_refused(&response, "invalid_grant");
    }
    assert_too_many(&try_from(&server, Ipv4Addr::LOCALHOST, USERNAME, "wrong"));
}

#[test]
fn attempts_at_once_are_no_more_than_one_after_another() {
    const ATTEMPTS: usize = 30;
    let (_directory, server) = start_guarded(&[]);
    let checked = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..ATTEMPTS {
            scope.spawn(|| {
                let response = try_from(&server, address(1), USERNAME, "wrong");
                match response.status {
                    429 => assert_too_many(&response),
                    _ => {
                        assert_refused(&response, "invalid_grant");
                        checked.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let checked = checked.into_inner();
    // One more is earned every six seconds, should the machine be that slow.
    assert!((BURST.into()..ATTEMPTS / 2).contains(&checked), "{checked}");
}

#[test]
fn guesses_that_are_not_waited_for_count_as_well() {
    let (_directory, server) = start_guarded(&[]);
    let form = password_form(USERNAME, "wrong");
    let head = format!(
        "POST /token HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\n{form}",
        form.len()
    );
    // Ten are in flight at once and are cut off: at least those that had been read have counted.
    for _ in 0..3 * BURST {
        server.connect_from(address(1)).send(head.as_bytes()).unwrap();
    }
    wait_until(|| {
        let response = try_from(&server, address(1), USERNAME, "wrong");
        (response.status == 429).then(|| assert_too_many(&response))
    });
}

#[test]
fn logins_that_pile_up_are_503() {
    const LOGINS: u8 = 100;
    let (_directory, server) = start_guarded(&[]);
    let mut logins: Vec<_> = (1..=LOGINS).map(|number| server.connect_from(address(number))).collect();
    for (number, connection) in logins.iter_mut().enumerate() {
        let form = password_form(&format!("name {number}"), "wrong");
        let head =
            "POST /token HTTP/1.1\r\nHost: test\r\nContent-Type: application/x-www-form-urlencoded\r\n";
        let request = format!("{head}Content-Length: {}\r\n\r\n{form}", form.len());
        connection.send(request.as_bytes()).unwrap();
    }
    assert_eq!(server.connect().get("/health").status, 200);
    let responses = logins.iter_mut().map(|connection| connection.receive().unwrap());
    let (busy, checked): (Vec<_>, Vec<_>) = responses.partition(|response| response.status == 503);
    checked.iter().for_each(|response| assert_refused(response, "invalid_grant"));
    assert!(!busy.is_empty() && !checked.is_empty(), "{} were checked", checked.len());
    for response in &busy {
        assert_eq!(detail_of(response, 503), "too many logins at once");
        assert_eq!(response.header("retry-after"), Some("1"));
    }
    tokens_of(&server.connect().post_form(password_form(USERNAME, PASSWORD)));
}

#[test]
fn guesses_do_not_keep_events_waiting() {
    const GUESSERS: u8 = 8;
    const EVENTS: usize = 200;
    let (directory, server) = start_guarded(&[]);
    let authorization = format!("Bearer {}", log_in(&server).access);
    let done = AtomicBool::new(false);
    let guesses = AtomicUsize::new(0);
    let started = Instant::now();
    thread::scope(|scope| {
        for guesser in 0..GUESSERS {
            let (server, done, guesses) = (&server, &done, &guesses);
            scope.spawn(move || {
                // Names and addresses enough for every guess to be checked.
                for number in (0..=u16::MAX).take_while(|_| !done.load(Ordering::Relaxed)) {
                    let [high, low] = number.to_be_bytes();
                    let local = Ipv4Addr::new(127, 100 + guesser, high, low);
                    let name = format!("{guesser} {number}");
                    assert_refused(&try_from(server, local, &name, "wrong"), "invalid_grant");
                    guesses.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        wait_until(|| (guesses.load(Ordering::Relaxed) > GUESSERS.into()).then_some(()));
        let mut connection = server.connect();
        let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
        for number in 0..EVENTS {
            let body = event("a", &number.to_string());
            let response = connection.request("POST", "/event", &headers, body.as_bytes());
            assert_eq!(response.status, 201, "{response:?}");
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(stored(&directory).len(), EVENTS);
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[test]
fn logins_that_nobody_waits_for_are_no_guesses() {
    const LOGINS: u32 = 20;
    let directory = tempfile::tempdir().unwrap();
    write_secret(directory.path(), "password", PASSWORD);
    let path = directory.path().join("password");
    let secured = Secured::start(&["--username", USERNAME, "--password-file", path.to_str().unwrap()]);
    let form = password_form(USERNAME, PASSWORD);
    let mut frames = Frames::open(&secured.client, secured.server.address);
    let head = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", "/token"),
        (":authority", "test"),
        ("content-type", "application/x-www-form-urlencoded"),
    ];
    for stream in (0..LOGINS).map(|number| 2 * number + 1) {
        frames.send(&frame(HEADERS, END_HEADERS, stream, &fields(&head))).unwrap();
        frames.send(&frame(DATA, END_STREAM, stream, form.as_bytes())).unwrap();
    }
    frames.send(&frame(PING, 0, 0, &[0; 8])).unwrap();
    while frames.receive().map(|frame| (frame.kind, frame.flags)).unwrap() != (PING, ACK) {}
    drop(frames);
    // Checked one after the other, and none of them wrong: not one counts once the connection is gone.
    wait_until(|| {
        let headers = [("Content-Type", "application/x-www-form-urlencoded")];
        let response = secured.http1().request("POST", "/token", &headers, form.as_bytes());
        (response.status != 503).then(|| tokens_of(&response))
    });
}

#[test]
fn whoever_guesses_a_name_does_not_keep_its_owner_out() {
    let (_directory, server) = start_guarded(&[]);
    let owner = address(100);
    tokens_of(&try_from(&server, owner, USERNAME, PASSWORD));
    for number in 1..=BURST {
        assert_refused(&try_from(&server, address(number), USERNAME, "wrong"), "invalid_grant");
    }
    assert_too_many(&try_from(&server, address(BURST + 1), USERNAME, PASSWORD));
    assert_eq!(basic_from(&server, owner, USERNAME, PASSWORD).status, 200);
    // There it is guessed as slowly as elsewhere.
    for _ in 0..BURST {
        assert_refused(&try_from(&server, owner, USERNAME, "wrong"), "invalid_grant");
    }
    assert_too_many(&try_from(&server, owner, USERNAME, PASSWORD));
}

#[test]
fn a_password_is_taken_by_basic_as_it_is_and_form_encoded_and_is_one_guess() {
    const SPECIAL: &str = "a+b%2B c&d=e%";
    let directory = tempfile::tempdir().unwrap();
    let server = super::tokens::start_for(directory.path(), "ad+a", SPECIAL, &[]);
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    for (username, password) in [("ad+a".to_owned(), SPECIAL.to_owned()), (encode("ad+a"), encode(SPECIAL))] {
        let response = basic_from(&server, address(1), &username, &password);
        assert_eq!(response.status, 200, "{username} {password}: {response:?}");
    }
    for wrong in ["a b%2B c&d=e%", "a+b+ c&d=e%", "a+b%252B c&d=e%25"] {
        assert_refused(&basic_from(&server, address(2), "ad+a", wrong), "invalid_client");
    }
    for _ in 3..BURST {
        assert_refused(&basic_from(&server, address(2), "ad+a", "wr+ong"), "invalid_client");
    }
    assert_too_many(&basic_from(&server, address(2), "ad+a", "wr+ong"));
}

#[test]
fn a_name_and_a_password_without_a_grant_type_are_a_login() {
    let (_directory, server) = start_guarded(&[]);
    let login = format!("username={USERNAME}&password={PASSWORD}");
    tokens_of(&server.connect().post_form(&login));
    tokens_of(&server.connect().post_form(format!("grant_type=&{login}")));
    assert_refused(
        &server.connect().post_form(format!("username={USERNAME}&password=wrong")),
        "invalid_grant",
    );
    assert_refused(&server.connect().post_form(format!("username={USERNAME}")), "invalid_request");
}

#[test]
#[ignore = "needs curl and python3-requests"]
fn passwords_of_any_kind_are_taken_from_curl_and_requests() {
    const SPECIAL: &str = "a+b%2Bc/d&e=f%";
    const REQUESTS: &str = "import requests, sys
url, name, password = sys.argv[1:]
basic = requests.post(url, auth=(name, password), data={'grant_type': 'client_credentials'})
form = requests.post(url, data={'username': name, 'password': password})
print(basic.status_code, form.status_code)";
    let directory = tempfile::tempdir().unwrap();
    let server = super::tokens::start_for(directory.path(), "ada", SPECIAL, &[]);
    let url = format!("http://127.0.0.1:{}/token", server.address.port());
    let run = |command: &mut std::process::Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let mut curl = std::process::Command::new("curl");
    curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-u", &format!("ada:{SPECIAL}")]);
    assert_eq!(run(curl.args(["-d", "grant_type=client_credentials", &url])), "200");
    let mut curl = std::process::Command::new("curl");
    curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--data-urlencode", "username=ada"]);
    assert_eq!(run(curl.args(["--data-urlencode", &format!("password={SPECIAL}"), &url])), "200");
    let mut python = std::process::Command::new("python3");
    assert_eq!(run(python.args(["-c", REQUESTS, &url, "ada", SPECIAL])), "200 200");
}

#[test]
fn behind_a_trusted_proxy_each_client_guesses_for_itself() {
    let (_directory, server) =
        start_guarded(&["--trusted-proxy", "127.0.9.1", "--trusted-proxy", "10.0.0.0/8", "-v"]);
    let try_for = |proxy, client: &str, password: &str| {
        let headers = [("Content-Type", "application/x-www-form-urlencoded"), ("X-Forwarded-For", client)];
        let form = password_form(&format!("{USERNAME}{client}"), password);
        server.connect_from(proxy).request("POST", "/token", &headers, form.as_bytes())
    };
    for number in 0..BURST {
        // What the client has written itself stands to the left.
        let chain = format!("192.0.2.{number}, 203.0.113.7, 10.0.0.{number}");
        assert_refused(&try_for(address(1), &chain, "wrong"), "invalid_grant");
    }
    assert_too_many(&try_for(address(1), "203.0.113.7", "wrong"));
    assert_refused(&try_for(address(1), "203.0.113.8", "wrong"), "invalid_grant");
    // Whoever is not trusted is itself, whatever it says.
    for number in 0..BURST {
        assert_refused(&try_for(address(2), &format!("203.0.113.{number}"), "wrong"), "invalid_grant");
    }
    assert_too_many(&try_for(address(2), "203.0.113.99", "wrong"));
    // The log is written behind the answers.
    let logged = wait_until(|| {
        let stderr = server.process.stderr();
        let logged: Vec<String> =
            stderr.lines().filter(|line| line.contains("/token")).map(str::to_owned).collect();
        (logged.len() > 2 * usize::from(BURST) + 2).then_some(logged)
    });
    let count = |client: &str| logged.iter().filter(|line| line.contains(&format!("\"{client}\""))).count();
    assert_eq!((count("203.0.113.7"), count("203.0.113.8"), count("127.0.9.1")), (11, 1, 0), "{logged:#?}");
    assert_eq!(count("127.0.9.2"), 11, "{logged:#?}");
}

#[test]
fn the_connections_of_a_trusted_proxy_are_not_those_of_one_client() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = eventctl(directory.path());
    command.args([
        "consume",
        "--port",
        "0",
        "--max-connections-per-address",
        "1",
        "--trusted-proxy",
        "127.0.9.1",
    ]);
    let server = Consume::start_command(&mut command);
    let mut open: Vec<_> = (0..5).map(|_| server.connect_from(address(1))).collect();
    assert!(open.iter_mut().all(|connection| connection.get("/health").status == 200));
    let mut held = server.connect_from(address(2));
    assert_eq!(held.get("/health").status, 200);
    assert_eq!(server.connect_from(address(2)).get("/health").status, 503);
}
