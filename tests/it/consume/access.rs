//! Who is let in, and where everyone is.

use std::thread;

use tempfile::{TempDir, tempdir};

use crate::util::http::{Response, event};
use crate::util::{Consume, eventctl, write_secret};

use super::tokens::{lets_in, log_in, password_form, start_guarded};
use super::{detail_of, stored};

const STATIC_TOKEN: &str = "0123456789abcdef-._~+/==";

/// A server that knows a token that never changes, and nothing else.
fn start_with_static_token() -> (TempDir, Consume) {
    let directory = tempdir().unwrap();
    write_secret(directory.path(), "token", format!("{STATIC_TOKEN}\n"));
    let server = Consume::start_with(directory.path(), &["--token-file", "token"]);
    (directory, server)
}

/// Asserts that a request without a token was told to bring one (RFC 6750, section 3).
#[track_caller]
fn assert_asked_for_token(response: &Response) {
    assert_eq!(response.status, 401, "{response:?}");
    assert_eq!(response.header("www-authenticate"), Some(r#"Bearer realm="eventctl""#), "{response:?}");
    assert_eq!(response.header("content-type"), Some("application/problem+json"), "{response:?}");
}

/// Asserts that the token of a request was refused.
#[track_caller]
pub fn assert_invalid_token(response: &Response) {
    detail_of(response, 401);
    let challenge = r#"Bearer realm="eventctl", error="invalid_token""#;
    assert_eq!(response.header("www-authenticate"), Some(challenge), "{response:?}");
}

#[test]
fn without_a_token_there_is_nothing_but_health_readiness_the_description_and_the_empty_page() {
    let guarded = [start_guarded(&[]), start_with_static_token()];
    for (directory, server) in &guarded {
        for path in [
            "/event",
            "/event/",
            "/event?limit=1",
            "/event/1",
            "/event/1/",
            "/event/x",
            "//",
            "/index.html",
            "*",
            "/nothing",
            "/metrics",
            "/api/v1/health-alert",
            "//health",
            "/health//",
            "/Health",
            "/healthx",
            "/health/x",
            "/health/../event",
            "/%68ealth",
            "/ready;x",
            "//token",
            "/Token",
            "/openapi",
            "/openapi.json/x",
            "/OpenAPI.json",
            "/token/x",
            "/event?access_token=x",
            "http://test/event",
        ] {
            for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
                let body = if method == "HEAD" { String::new() } else { event("a", "b") };
                let response = server.connect().request(method, path, &[], body.as_bytes());
                assert_asked_for_token(&response);
            }
        }
        assert_eq!(stored(directory), []);
    }
}

#[test]
fn what_needs_no_token_needs_none_whatever_comes_with_it() {
    let (_directory, server) = start_guarded(&[]);
    for path in ["/health", "/health/", "/health?x=y", "/ready", "/ready/", "/openapi.json", "/openapi.json/"]
    {
        for method in ["GET", "HEAD"] {
            assert_eq!(server.connect().request(method, path, &[], b"").status, 200, "{method} {path}");
            let headers = [("Authorization", "Bearer wrong")];
            assert_eq!(server.connect().request(method, path, &headers, b"").status, 200);
        }
        detail_of(&server.connect().request("POST", path, &[], b""), 405);
    }
}

#[test]
fn the_scheme_of_a_token_is_spelt_in_any_case() {
    let (_directory, server) = start_guarded(&[]);
    let token = log_in(&server).access;
    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR", "Bearer  "] {
        let authorization = format!("{scheme} {token}");
        let headers = [("authorization", authorization.as_str())];
        assert_eq!(server.connect().request("GET", "/event", &headers, b"").status, 200, "{scheme}");
    }
}

#[test]
fn a_token_anywhere_but_in_the_header_is_none() {
    let (directory, server) = start_guarded(&[]);
    let token = log_in(&server).access;
    for path in [format!("/event?access_token={token}"), format!("/event?token={token}")] {
        assert_asked_for_token(&server.connect().get(&path));
        assert_asked_for_token(&server.connect().request("POST", &path, &[], event("a", "b").as_bytes()));
    }
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let body = format!("access_token={token}");
    assert_asked_for_token(&server.connect().request("POST", "/event", &form, body.as_bytes()));
    let bearer = format!("Bearer {token}");
    let cookie = format!("access_token={token}");
    for header in [
        ("X-Authorization", bearer.as_str()),
        ("Proxy-Authorization", &bearer),
        ("Cookie", &cookie),
        ("Authorization", &token),
        ("Authorization", &bearer.replace(' ', ":")),
        ("Authorization", &bearer.replace("Bearer", "Basic")),
        ("Authorization", &bearer.replace("Bearer", "Token")),
        ("Authorization", &bearer.replace("Bearer", "DPoP")),
        ("Authorization", ""),
    ] {
        assert_asked_for_token(&server.connect().request("GET", "/event", &[header], b""));
    }
    assert_eq!(stored(&directory), []);
}

#[test]
fn tokens_that_are_given_twice_are_not_chosen_from() {
    let (directory, server) = start_guarded(&[]);
    let bearer = format!("Bearer {}", log_in(&server).access);
    for [first, second] in [[bearer.as_str(), "Bearer x"], ["Bearer x", &bearer], [&bearer, &bearer]] {
        let headers = [("Authorization", first), ("Authorization", second)];
        let response = server.connect().request("POST", "/event", &headers, event("a", "b").as_bytes());
        detail_of(&response, 400);
        let challenge = r#"Bearer realm="eventctl", error="invalid_request""#;
        assert_eq!(response.header("www-authenticate"), Some(challenge));
        let joined = format!("{first}, {second}");
        assert_invalid_token(&server.connect().request("GET", "/event", &[("Authorization", &joined)], b""));
    }
    assert_eq!(stored(&directory), []);
}

#[test]
fn what_is_wrong_with_a_request_is_told_to_those_alone_who_are_let_in() {
    let (_directory, server) = start_guarded(&[]);
    let bearer = format!("Bearer {}", log_in(&server).access);
    for (method, path, status) in [
        ("GET", "/nothing", 404),
        ("DELETE", "/event", 405),
        ("GET", "/event/7", 404),
        ("POST", "/event", 400),
    ] {
        assert_asked_for_token(&server.connect().request(method, path, &[], b""));
        let response = server.connect().request(method, path, &[("Authorization", &bearer)], b"");
        detail_of(&response, status);
    }
}

#[test]
fn a_client_that_still_writes_sees_the_401() {
    const SENT_BYTES: usize = 900_000;
    let (directory, server) = start_guarded(&[]);
    let body = event("a", &"x".repeat(SENT_BYTES));
    for _ in 0..3 {
        let mut connection = server.connect();
        let head = format!(
            "POST /event HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        connection.send(head.as_bytes()).unwrap();
        for piece in body.as_bytes().chunks(64 << 10) {
            connection.send(piece).unwrap();
        }
        assert_asked_for_token(&connection.receive().unwrap());
        assert!(connection.is_closed());
    }
    assert_eq!(stored(&directory), []);
}

#[test]
fn a_static_token_lets_in_and_nothing_near_it_does() {
    let (directory, server) = start_with_static_token();
    assert!(lets_in(&server, STATIC_TOKEN));
    let authorization = format!("Bearer {STATIC_TOKEN}");
    let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
    let response = server.connect().request("POST", "/event", &headers, event("a", "b").as_bytes());
    assert_eq!(response.status, 201);
    let length = STATIC_TOKEN.len();
    for wrong in [
        &STATIC_TOKEN[..length - 1],
        &STATIC_TOKEN[1..],
        &format!("{STATIC_TOKEN}="),
        &format!("{STATIC_TOKEN}{STATIC_TOKEN}"),
        &format!("\"{STATIC_TOKEN}\""),
        &STATIC_TOKEN.to_uppercase(),
        &STATIC_TOKEN.replace('0', "O"),
        "0123456789abcdef",
        "x",
        "",
        "a.b.c",
        &"x".repeat(length),
    ] {
        let authorization = format!("Bearer {wrong}");
        let headers = [("Authorization", authorization.as_str())];
        let response = server.connect().request("POST", "/event", &headers, event("a", "c").as_bytes());
        assert_invalid_token(&response);
    }
    assert_eq!(stored(&directory), [("a".to_owned(), "b".to_owned())]);
}

#[test]
fn a_static_token_gives_no_tokens() {
    let (_directory, server) = start_with_static_token();
    assert_asked_for_token(&server.connect().post_form(password_form("ada", "password")));
    let authorization = format!("Bearer {STATIC_TOKEN}");
    let headers =
        [("Content-Type", "application/x-www-form-urlencoded"), ("Authorization", authorization.as_str())];
    let form = password_form("ada", "password");
    detail_of(&server.connect().request("POST", "/token", &headers, form.as_bytes()), 404);
}

#[test]
fn a_static_token_and_a_name_are_good_beside_each_other() {
    let directory = tempdir().unwrap();
    let mut command = eventctl(directory.path());
    command.args(["consume", "--port", "0", "--username", "ada"]);
    command.envs([("EVENTCTL_PASSWORD", "from the environment"), ("EVENTCTL_TOKEN", STATIC_TOKEN)]);
    let server = Consume::start_command(&mut command);
    assert!(lets_in(&server, STATIC_TOKEN));
    let response = server.connect().post_form(password_form("ada", "from the environment"));
    assert!(lets_in(&server, response.json()["access_token"].as_str().unwrap()));
    assert!(!lets_in(&server, "0123456789abcdef"));
}

#[test]
fn a_connection_asks_for_a_token_with_every_request() {
    let (_directory, server) = start_guarded(&[]);
    let bearer = format!("Bearer {}", log_in(&server).access);
    let mut connection = server.connect();
    for _ in 0..3 {
        assert_eq!(connection.request("GET", "/event", &[("Authorization", &bearer)], b"").status, 200);
        assert_asked_for_token(&connection.get("/event"));
    }
}

#[test]
fn many_clients_share_a_token() {
    let (directory, server) = start_guarded(&[]);
    let bearer = format!("Bearer {}", log_in(&server).access);
    thread::scope(|scope| {
        for client in 0..8 {
            let mut connection = server.connect();
            let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
            scope.spawn(move || {
                for number in 0..10 {
                    let body = event(&client.to_string(), &number.to_string());
                    let response = connection.request("POST", "/event", &headers, body.as_bytes());
                    assert_eq!(response.status, 201, "{response:?}");
                }
            });
        }
    });
    assert_eq!(stored(&directory).len(), 80);
}
