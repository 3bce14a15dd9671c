//! The live page, in a browser as people use it. Its headers need none.

mod events;
mod hostile;
mod login;
mod looks;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::util::Consume;
use crate::util::browser::Browser;
use crate::util::http::event;

use super::{detail_of, start};

/// The rows of the list, newest first: id, type, payload.
const ROWS: &str = "[...document.querySelectorAll('#list li')].map(row =>
    ['.id', '.type', '.payload'].map(part => row.querySelector(part).textContent).join(' '))";

/// The state of the stream.
const STATE: &str = "document.querySelector('#state').textContent";

/// The page of a server in a browser of its own, once it follows the events.
fn open(server: &Consume) -> Browser {
    let browser = Browser::start();
    browser.open(&server.url("/"));
    browser.wait_for(STATE, "live");
    browser
}

/// Types a text into a field in place of what is there, as one step.
fn fill(browser: &Browser, selector: &str, text: &str) {
    let (selector, text) = (json!(selector), json!(text));
    browser.run(&format!(
        "const field = document.querySelector({selector});
        field.value = {text};
        field.dispatchEvent(new Event('input'))"
    ));
}

/// Stores events of a type, with their numbers as payloads, in one commit.
fn store_many(server: &Consume, event_type: &str, numbers: impl IntoIterator<Item = usize>) {
    let events: Vec<String> =
        numbers.into_iter().map(|number| event(event_type, &number.to_string())).collect();
    let response = server.connect().post(format!("[{}]", events.join(",")));
    assert_eq!(response.status, 201, "{response:?}");
}

fn texts(expected: &[&str]) -> Value {
    json!(expected)
}

#[test]
fn the_page_is_one_file_that_allows_itself_and_nothing_else() {
    let (_directory, server) = start(&[]);
    let response = server.connect().get("/");
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(response.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(response.header("referrer-policy"), Some("no-referrer"));
    let page = response.text();
    let hash_of = |start: &str, end: &str| {
        let parts: Vec<&str> = page.split(start).collect();
        let [_, rest] = parts[..] else { panic!("expected one {start}") };
        let content = rest.split_once('>').unwrap().1.split_once(end).unwrap().0;
        assert!(content.len() > 1000, "{start} is all but empty");
        format!("'sha256-{}'", STANDARD.encode(Sha256::digest(content)))
    };
    let policy = response.header("content-security-policy").unwrap();
    let directives: Vec<(&str, &str)> =
        policy.split("; ").map(|directive| directive.split_once(' ').unwrap()).collect();
    let (script, style) = (hash_of("<script", "</script>"), hash_of("<style", "</style>"));
    let expected = [
        ("default-src", "'none'"),
        ("script-src", script.as_str()),
        ("style-src", style.as_str()),
        ("connect-src", "'self'"),
        ("img-src", "data:"),
        ("base-uri", "'none'"),
        ("form-action", "'none'"),
        ("frame-ancestors", "'none'"),
        ("require-trusted-types-for", "'script'"),
        ("trusted-types", "'none'"),
    ];
    assert_eq!(directives, expected);
    for forbidden in
        [" style=", " onclick=\"", "innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "src="]
    {
        assert!(!page.contains(forbidden), "the page has {forbidden}");
    }
    let namespaces = page.matches("http://www.w3.org/2000/svg").count();
    assert_eq!(page.matches("://").count(), namespaces, "the page names an address");
}

#[test]
fn the_page_is_at_its_path_for_those_who_read() {
    let (_directory, server) = start(&[]);
    let mut connection = server.connect();
    let head = connection.request("HEAD", "/", &[], b"");
    let get = connection.get("/?from=a-bookmark");
    assert_eq!((head.status, get.status), (200, 200));
    assert_eq!(head.header("content-length"), get.header("content-length"));
    let response = connection.request("POST", "/", &[], event("a", "b").as_bytes());
    assert_eq!(response.header("allow"), Some("GET, HEAD"));
    detail_of(&response, 405);
    let counted = r#"eventctl_http_requests_total{route="/",method="GET",status="200"} 1"#;
    let metrics = server.connect().get("/metrics").text();
    assert!(metrics.contains(counted), "{metrics}");
}
