//! `POST /token` (RFC 6749): who gets tokens, and what everyone else is told.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::util::http::{Response, event};
use crate::util::{Consume, eventctl, write_secret};

use super::{detail_of, start, stored};

pub const USERNAME: &str = "ada";
pub const PASSWORD: &str = "correct-horse-battery";

/// A server that asks for tokens and gives them for [`USERNAME`] and [`PASSWORD`].
pub fn start_guarded(arguments: &[&str]) -> (TempDir, Consume) {
    let directory = tempdir().unwrap();
    let server = start_guarded_in(directory.path(), arguments);
    (directory, server)
}

/// The same, on the store of a directory.
pub fn start_guarded_in(directory: &Path, arguments: &[&str]) -> Consume {
    start_for(directory, USERNAME, PASSWORD, arguments)
}

/// The same, with another name and password.
pub fn start_for(directory: &Path, username: &str, password: &str, arguments: &[&str]) -> Consume {
    write_secret(directory, "password", password);
    let mut command = eventctl(directory);
    command.args(["consume", "--port", "0", "--username", username, "--password-file", "password"]);
    Consume::start_command(command.args(arguments))
}

/// What a login gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    pub access: String,
    pub refresh: String,
}

pub fn password_form(username: &str, password: &str) -> String {
    form(&[("grant_type", "password"), ("username", username), ("password", password)])
}

pub fn refresh_form(token: &str) -> String {
    form(&[("grant_type", "refresh_token"), ("refresh_token", token)])
}

/// Logs in with the right name and password.
pub fn log_in(server: &Consume) -> Tokens {
    tokens_of(&server.connect().post_form(password_form(USERNAME, PASSWORD)))
}

/// The tokens of a response, whose shape is that of RFC 6749, section 5.1.
pub fn tokens_of(response: &Response) -> Tokens {
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(response.header("content-type"), Some("application/json"), "{response:?}");
    assert_eq!(response.header("cache-control"), Some("no-store"), "{response:?}");
    let body = response.json();
    assert_eq!(members_of(&body), ["access_token", "expires_in", "refresh_token", "scope", "token_type"]);
    assert_eq!((&body["token_type"], &body["expires_in"]), (&"bearer".into(), &900.into()), "{body}");
    let text = |member: &str| body[member].as_str().unwrap().to_owned();
    Tokens { access: text("access_token"), refresh: text("refresh_token") }
}

/// Asserts that a response is an error of RFC 6749, section 5.2, of this code.
#[track_caller]
pub fn assert_refused(response: &Response, code: &str) {
    let status = if code == "invalid_client" { 401 } else { 400 };
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.header("content-type"), Some("application/json"), "{response:?}");
    assert_eq!(response.header("cache-control"), Some("no-store"), "{response:?}");
    let challenge = (code == "invalid_client").then_some(r#"Basic realm="eventctl", charset="UTF-8""#);
    assert_eq!(response.header("www-authenticate"), challenge, "{response:?}");
    let body = response.json();
    assert_eq!(members_of(&body), ["error", "error_description"]);
    assert_eq!(body["error"], code, "{body}");
    assert!(body["error_description"].is_string(), "{body}");
}

/// Whether a token lets a request in that reads.
pub fn lets_in(server: &Consume, token: &str) -> bool {
    let authorization = format!("Bearer {token}");
    let response = server.connect().request("GET", "/event", &[("Authorization", &authorization)], b"");
    assert!([200, 401].contains(&response.status), "{response:?}");
    response.status == 200
}

fn members_of(body: &Value) -> Vec<&str> {
    body.as_object().unwrap().keys().map(String::as_str).collect()
}

fn form(parameters: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish()
}

fn client_credentials(server: &Consume, authorization: &str) -> Response {
    let headers = [("Content-Type", "application/x-www-form-urlencoded"), ("Authorization", authorization)];
    server.connect().request("POST", "/token", &headers, b"grant_type=client_credentials")
}

fn basic(credentials: &str) -> String {
    format!("Basic {}", STANDARD.encode(credentials))
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[test]
fn a_login_by_password_gives_a_token_that_reads_and_writes() {
    let (directory, server) = start_guarded(&[]);
    let tokens = log_in(&server);
    let authorization = format!("Bearer {}", tokens.access);
    let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
    let mut connection = server.connect();
    let written = connection.request("POST", "/event", &headers, event("a", "b").as_bytes());
    assert_eq!((written.status, written.text().as_str()), (201, r#"{"status":"success"}"#));
    assert_eq!(connection.request("GET", "/event/1", &headers, b"").json()["event_payload"], "b");
    assert_eq!(connection.request("HEAD", "/event", &headers, b"").status, 200);
    assert_eq!(stored(&directory), [("a".to_owned(), "b".to_owned())]);
}

#[test]
fn no_two_tokens_are_equal() {
    let (_directory, server) = start_guarded(&[]);
    let [first, second] = [log_in(&server), log_in(&server)];
    assert_ne!(first.access, second.access);
    assert_ne!(first.refresh, second.refresh);
    // 256 bits in Base64, the client and its scopes.
    assert_eq!(first.refresh.split('.').next().unwrap().len(), 43);
}

#[test]
fn a_form_may_name_its_charset_and_end_in_a_slash() {
    let (_directory, server) = start_guarded(&[]);
    let body = password_form(USERNAME, PASSWORD) + "&something=else";
    for content_type in
        ["application/x-www-form-urlencoded; charset=UTF-8", "Application/X-WWW-Form-URLencoded"]
    {
        let headers = [("Content-Type", content_type)];
        tokens_of(&server.connect().request("POST", "/token/", &headers, body.as_bytes()));
    }
}

#[test]
fn client_credentials_give_an_access_token_alone() {
    let (_directory, server) = start_guarded(&[]);
    for scheme in ["Basic", "basic", "BASIC"] {
        let credentials = STANDARD.encode(format!("{USERNAME}:{PASSWORD}"));
        let response = client_credentials(&server, &format!("{scheme} {credentials}"));
        assert_eq!(response.status, 200, "{response:?}");
        assert_eq!(response.header("cache-control"), Some("no-store"));
        let body = response.json();
        assert_eq!(members_of(&body), ["access_token", "expires_in", "scope", "token_type"]);
        assert!(lets_in(&server, body["access_token"].as_str().unwrap()));
    }
}

#[test]
fn names_and_passwords_may_hold_any_character() {
    const NAME: &str = "a:b%c+d&e=f g/ü€%41";
    const WORD: &str = "ü ö:%25+&=?#\"\\\u{1F511} %zz+";
    let directory = tempdir().unwrap();
    let server = start_for(directory.path(), NAME, WORD, &[]);
    tokens_of(&server.connect().post_form(password_form(NAME, WORD)));
    let credentials = format!("{}:{}", encoded(NAME), encoded(WORD));
    assert_eq!(client_credentials(&server, &basic(&credentials)).status, 200);
    let percent_only = credentials.replace('+', "%20");
    assert_eq!(client_credentials(&server, &basic(&percent_only)).status, 200);
    // Outside of a form its separators need no encoding.
    let separators = credentials.replace("%26", "&").replace("%3D", "=").replace("%C3%BC", "ü");
    assert_eq!(client_credentials(&server, &basic(&separators)).status, 200);
    // Nothing else is taken for it: not what is decoded twice or not at all.
    for wrong in [format!("{NAME}:{WORD}"), format!("{}:{WORD}", encoded(NAME)), encoded(&credentials)] {
        assert_refused(&client_credentials(&server, &basic(&wrong)), "invalid_client");
    }
    assert_refused(&server.connect().post_form(password_form(&encoded(NAME), WORD)), "invalid_grant");
}

#[test]
fn a_password_is_all_of_its_line_and_nothing_is_trimmed() {
    let directory = tempdir().unwrap();
    let server = start_for(directory.path(), USERNAME, " two words \r\n", &[]);
    tokens_of(&server.connect().post_form(password_form(USERNAME, " two words ")));
    for wrong in
        ["two words", " two words", " two words \r\n", " two words \n", "\u{feff} two words ", "\n", "\r\n"]
    {
        assert_refused(&server.connect().post_form(password_form(USERNAME, wrong)), "invalid_grant");
    }
}

#[test]
fn wrong_client_credentials_are_invalid_client() {
    let (_directory, server) = start_guarded(&[]);
    let right = format!("{USERNAME}:{PASSWORD}");
    for authorization in [
        basic(&format!("{USERNAME}:wrong")),
        basic(&format!("{USERNAME}:{PASSWORD} ")),
        basic(&format!("Ada:{PASSWORD}")),
        basic(&format!("{PASSWORD}:{USERNAME}")),
        basic(&format!(":{PASSWORD}")),
        basic(&format!("{USERNAME}:")),
        basic(&format!("{USERNAME}{PASSWORD}")),
        basic(""),
        "Basic".to_owned(),
        "Basic %%%".to_owned(),
        format!("Basic {right}"),
        format!("Bearer {}", STANDARD.encode(&right)),
        format!("Basic {}", STANDARD.encode(b"ada:\xff\xfe")),
    ] {
        assert_refused(&client_credentials(&server, &authorization), "invalid_client");
    }
    let response = server.connect().post_form("grant_type=client_credentials");
    assert_refused(&response, "invalid_client");
    // RFC 6749, section 2.3.1, lets a server do without these.
    let in_body = format!("grant_type=client_credentials&client_id={USERNAME}&client_secret={PASSWORD}");
    assert_refused(&server.connect().post_form(in_body), "invalid_client");
    assert_eq!(client_credentials(&server, &basic(&right)).status, 200);
}

#[test]
fn client_credentials_that_are_given_twice_are_not_chosen_from() {
    let (_directory, server) = start_guarded(&[]);
    let right = basic(&format!("{USERNAME}:{PASSWORD}"));
    let wrong = basic(&format!("{USERNAME}:wrong"));
    for [first, second] in [[&right, &wrong], [&wrong, &right], [&right, &right]] {
        let headers = [
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Authorization", first.as_str()),
            ("Authorization", second.as_str()),
        ];
        let response = server.connect().request("POST", "/token", &headers, b"grant_type=client_credentials");
        assert_refused(&response, "invalid_request");
    }
}

#[test]
fn what_is_wrong_with_a_request_has_the_code_that_the_rfc_gives_it() {
    let (_directory, server) = start_guarded(&[]);
    let right = password_form(USERNAME, PASSWORD);
    for (form, code) in [
        (String::new(), "invalid_request"),
        ("=".to_owned(), "invalid_request"),
        ("&&&".to_owned(), "invalid_request"),
        ("grant_type".to_owned(), "invalid_request"),
        ("grant_type=".to_owned(), "invalid_request"),
        (format!("{right}&grant_type=password"), "invalid_request"),
        (format!("{right}&username={USERNAME}"), "invalid_request"),
        (format!("{right}&password={PASSWORD}"), "invalid_request"),
        (format!("{right}&password=other"), "invalid_request"),
        (format!("{right}&x=1&x=2"), "invalid_request"),
        (format!("grant_type=password&username={USERNAME}"), "invalid_request"),
        (format!("grant_type=password&username={USERNAME}&password="), "invalid_request"),
        (format!("grant_type=password&username={USERNAME}&password"), "invalid_request"),
        (format!("grant_type=password&password={PASSWORD}"), "invalid_request"),
        (format!("grant_type=password&username=&password={PASSWORD}"), "invalid_request"),
        (format!("grant_type=password&Username={USERNAME}&Password={PASSWORD}"), "invalid_request"),
        (right.replace('&', ";"), "unsupported_grant_type"),
        ("grant_type=refresh_token".to_owned(), "invalid_request"),
        ("grant_type=refresh_token&refresh_token=".to_owned(), "invalid_request"),
        ("grant_type=refresh_token&refresh_token=a&refresh_token=a".to_owned(), "invalid_request"),
        ("grant_type=authorization_code&code=x".to_owned(), "unsupported_grant_type"),
        (right.replace("grant_type=password", "grant_type=PASSWORD"), "unsupported_grant_type"),
        (right.replace("grant_type=password", "grant_type=%zz"), "unsupported_grant_type"),
        (right.replace("grant_type=password", "grant_type=%FF"), "unsupported_grant_type"),
        (format!("{right}&scope=events"), "invalid_scope"),
        (format!("{right}&scope=read+events"), "invalid_scope"),
        (password_form(USERNAME, "wrong"), "invalid_grant"),
        (password_form("Ada", PASSWORD), "invalid_grant"),
        (password_form(PASSWORD, USERNAME), "invalid_grant"),
        (format!("grant_type=password&username={USERNAME}&password=%"), "invalid_grant"),
        (format!("grant_type=password&username={USERNAME}&password=%FF%00"), "invalid_grant"),
        ("grant_type=refresh_token&refresh_token=unknown".to_owned(), "invalid_grant"),
    ] {
        let response = server.connect().post_form(&form);
        assert!(response.status < 500, "{form}: {response:?}");
        assert_refused(&response, code);
    }
    let raw = [b"grant_type=password&username=ada&password=\xff".as_slice(), b"\xff\x00=\xfe"];
    assert_refused(&server.connect().post_form(raw[0]), "invalid_grant");
    assert_refused(&server.connect().post_form(raw[1]), "invalid_request");
    // Without a value a parameter counts as omitted (RFC 6749, section 3.2).
    tokens_of(&server.connect().post_form(format!("{right}&scope=&scope=&password=")));
}

#[test]
fn what_is_not_a_form_is_415() {
    let (_directory, server) = start_guarded(&[]);
    let body = password_form(USERNAME, PASSWORD);
    for headers in [
        &[("Content-Type", "")][..],
        &[("Content-Type", "application/json")],
        &[("Content-Type", "text/plain")],
        &[("Content-Type", "multipart/form-data; boundary=x")],
        &[("Content-Type", "application/x-www-form-urlencoded2")],
    ] {
        let response = server.connect().request("POST", "/token", headers, body.as_bytes());
        let detail = detail_of(&response, 415);
        assert_eq!(detail, "expected the header `Content-Type: application/x-www-form-urlencoded`");
    }
    let headers = [("Content-Type", "application/x-www-form-urlencoded"), ("Content-Encoding", "gzip")];
    let response = server.connect().request("POST", "/token", &headers, body.as_bytes());
    detail_of(&response, 415);
    assert_eq!(response.header("accept-encoding"), Some("identity"));
}

#[test]
fn a_form_that_is_too_large_is_413() {
    let (_directory, server) = start_guarded(&[]);
    let padding = |length: usize| {
        let form = password_form(USERNAME, PASSWORD) + "&padding=";
        let missing = length - form.len();
        form + &"x".repeat(missing)
    };
    tokens_of(&server.connect().post_form(padding(8 << 10)));
    let large = padding((8 << 10) + 1);
    detail_of(&server.connect().post_form(&large), 413);
    let mut connection = server.connect();
    let head = "POST /token HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\
        Content-Type: application/x-www-form-urlencoded\r\n\r\n";
    connection.send(format!("{head}{:x}\r\n{large}\r\n0\r\n\r\n", large.len()).as_bytes()).unwrap();
    detail_of(&connection.receive().unwrap(), 413);
}

#[test]
fn a_form_that_does_not_arrive_in_time_is_408() {
    let (_directory, server) = start_guarded(&["--body-timeout", "200ms"]);
    let mut connection = server.connect();
    let head = "POST /token HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\
        Content-Type: application/x-www-form-urlencoded\r\n\r\ngrant_type=";
    connection.send(head.as_bytes()).unwrap();
    detail_of(&connection.receive().unwrap(), 408);
}

#[test]
fn tokens_are_given_for_post_alone() {
    let (_directory, server) = start_guarded(&[]);
    let query = format!("/token?{}", password_form(USERNAME, PASSWORD));
    for (method, path) in [
        ("GET", "/token"),
        ("GET", "/token/"),
        ("GET", &query),
        ("PUT", "/token"),
        ("DELETE", "/token"),
        ("OPTIONS", "/token"),
    ] {
        let response = server.connect().request(method, path, &[], b"");
        detail_of(&response, 405);
        assert_eq!(response.header("allow"), Some("POST"), "{method} {path}");
    }
    assert_eq!(server.connect().request("HEAD", "/token", &[], b"").status, 405);
    // A password in a URL ends in logs (RFC 6749, section 2.3.1).
    let headers = [("Content-Type", "application/x-www-form-urlencoded")];
    assert_refused(&server.connect().request("POST", &query, &headers, b""), "invalid_request");
}

#[test]
fn there_is_no_token_endpoint_without_a_name() {
    let (directory, server) = start(&[]);
    for response in [
        server.connect().post_form(password_form(USERNAME, PASSWORD)),
        server.connect().get("/token"),
        server.connect().request("POST", "/token", &[], event("a", "b").as_bytes()),
    ] {
        assert_eq!(detail_of(&response, 404), "there is nothing at this path");
    }
    assert_eq!(stored(&directory), []);
}

#[test]
fn no_answer_and_no_log_repeats_a_secret() {
    const MARKER: &str = "p4ssw0rd-m4rker";
    let directory = tempdir().unwrap();
    let mut server = start_for(directory.path(), USERNAME, MARKER, &[]);
    let tokens = tokens_of(&server.connect().post_form(password_form(USERNAME, MARKER)));
    let successor = tokens_of(&server.connect().post_form(refresh_form(&tokens.refresh)));
    let right = password_form(USERNAME, MARKER);
    let authorization = format!("Bearer {}x", tokens.access);
    let basic = basic(&format!("{USERNAME}x:{MARKER}"));
    let json = [("Content-Type", "application/json")];
    let answers = [
        server.connect().post_form(refresh_form(&tokens.refresh)),
        server.connect().post_form(refresh_form(&successor.refresh)),
        server.connect().post_form(format!("{right}&{right}")),
        server.connect().post_form(format!("{right}&scope={MARKER}")),
        server.connect().post_form(format!("grant_type={MARKER}")),
        server.connect().post_form(format!("{MARKER}={MARKER}")),
        server.connect().post_form(password_form(MARKER, MARKER)),
        server.connect().post_form(password_form(USERNAME, &MARKER.to_uppercase())),
        server.connect().post_form(format!("{right}&padding={}", MARKER.repeat(1000))),
        server.connect().request("POST", "/token", &json, right.as_bytes()),
        server.connect().request("GET", &format!("/token?{right}"), &[], b""),
        server.connect().request("POST", &format!("/token/{MARKER}"), &[], right.as_bytes()),
        server.connect().request("GET", "/event", &[("Authorization", &authorization)], b""),
        server.connect().request("GET", "/event", &[("Authorization", MARKER)], b""),
        client_credentials(&server, &basic),
        client_credentials(&server, MARKER),
    ];
    assert!(server.process.terminate().success());
    let log = server.process.stderr();
    let secrets =
        [MARKER, &MARKER.to_uppercase(), &tokens.access, &tokens.refresh, &successor.refresh, &basic[6..]];
    for answer in &answers {
        assert!((400..500).contains(&answer.status), "{answer:?}");
        let head = answer.headers.iter().map(|(name, value)| format!("{name}: {value}\n"));
        let shown = head.collect::<String>() + &answer.text();
        assert!(secrets.iter().all(|secret| !shown.contains(secret)), "{shown}");
        assert!(secrets.iter().all(|secret| !log.contains(secret)), "{log}");
    }
}
