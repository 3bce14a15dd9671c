//! Passwords are guessed slowly, and at nobody else's cost.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::util::Consume;
use crate::util::http::{Response, event};

use super::tokens::{
    PASSWORD, USERNAME, assert_refused, lets_in, log_in, password_form, refresh_form, start_guarded,
    tokens_of,
};
use super::{detail_of, stored};

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
    crate::util::wait_until(|| {
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
        crate::util::wait_until(|| (guesses.load(Ordering::Relaxed) > GUESSERS.into()).then_some(()));
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
