//! The page where requests need a token.

use serde_json::json;
use tempfile::tempdir;

use crate::util::browser::{Browser, ENTER, ESCAPE, TAB};
use crate::util::http::event;
use crate::util::{Consume, eventctl, write_secret};

use super::super::tokens::{PASSWORD, USERNAME, log_in, start_guarded, start_guarded_in};
use super::{ROWS, STATE, texts};

const PROBLEM: &str = "document.querySelector('#login-problem').textContent";
const ASKS: &str = "document.querySelector('#login').open";

/// How often the page was given tokens.
const GRANTS: &str = "performance.getEntriesByType('resource').filter(entry =>
    entry.name.endsWith('/token') && entry.responseStatus === 200).length";

fn open_guarded(server: &Consume) -> Browser {
    let browser = Browser::start();
    browser.open(&server.url("/"));
    browser.wait_for(ASKS, true);
    browser
}

fn store_with(server: &Consume, token: &str, event_type: &str) {
    let authorization = format!("Bearer {token}");
    let headers = [("Content-Type", "application/json"), ("Authorization", authorization.as_str())];
    let response = server.connect().request("POST", "/event", &headers, event(event_type, "x").as_bytes());
    assert_eq!(response.status, 201, "{response:?}");
}

/// Logs in as people do: the name is focused, Tab leads to the password, Enter sends both.
fn log_in_by_keys(browser: &Browser, password: &str) {
    browser.wait_for("document.activeElement.id", "username");
    browser.run("document.querySelector('#username').value = ''");
    browser.press(USERNAME.chars().chain([TAB]).chain(password.chars()).chain([ENTER]));
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn a_page_with_tokens_asks_for_the_login() {
    let (_directory, server) = start_guarded(&[]);
    let token = log_in(&server).access;
    store_with(&server, &token, "a");
    let browser = open_guarded(&server);
    browser.wait_for(STATE, "login needed");
    // There is nothing behind the form that it could give way to.
    browser.press([ESCAPE, ESCAPE, ESCAPE]);
    browser.wait_for(ASKS, true);
    log_in_by_keys(&browser, "wrong");
    browser.wait_for(PROBLEM, "name or password is wrong");
    browser.wait_for(ROWS, json!([]));
    // The password is gone from the field, the name is not.
    browser.wait_for("document.activeElement.id", "password");
    browser.wait_for("document.activeElement.value", "");
    browser.press(PASSWORD.chars().chain([ENTER]));
    browser.wait_for(ROWS, texts(&["1 a x"]));
    browser.wait_for(ASKS, false);
    store_with(&server, &token, "b");
    browser.wait_for(ROWS, texts(&["2 b x", "1 a x"]));
    browser.wait_for("document.querySelector('#queue').textContent", "0 events");
    // The tokens are nowhere but in memory.
    let kept =
        "[localStorage.length, sessionStorage.length, document.cookie, location.search, location.hash]";
    assert_eq!(browser.run(&format!("return {kept}")), json!([0, 0, "", "", ""]));
    assert!(browser.requested().iter().all(|url| !url.contains(PASSWORD) && !url.contains("wrong")));
    browser.click("#logout");
    browser.wait_for(ASKS, true);
    browser.wait_for(ROWS, json!([]));
    log_in_by_keys(&browser, PASSWORD);
    browser.wait_for(ROWS, texts(&["2 b x", "1 a x"]));
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn whoever_guesses_is_told_how_long_to_wait() {
    let (_directory, server) = start_guarded(&[]);
    let browser = open_guarded(&server);
    for _ in 0..10 {
        let form = super::super::tokens::password_form(USERNAME, "wrong");
        assert_eq!(server.connect().post_form(form).status, 400);
    }
    log_in_by_keys(&browser, "wrong");
    browser.wait_for(&format!("/^too many attempts.*: try again in [1-6] s$/.test({PROBLEM})"), true);
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn tokens_are_renewed_before_they_are_over() {
    let (_directory, server) = start_guarded(&[]);
    let token = log_in(&server).access;
    let browser = Browser::start();
    // The page waits for three quarters of a quarter of an hour; here, for a moment.
    let hurried = "const wait = setTimeout; setTimeout = (then, ms) => wait(then, ms > 60000 ? 300 : ms)";
    browser.command("Page.addScriptToEvaluateOnNewDocument", &json!({"source": hurried}));
    browser.open(&server.url("/"));
    browser.wait_for(ASKS, true);
    log_in_by_keys(&browser, PASSWORD);
    browser.wait_for(&format!("{GRANTS} >= 4"), true);
    store_with(&server, &token, "a");
    browser.wait_for(ROWS, texts(&["1 a x"]));
    browser.wait_for(ASKS, false);
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn a_token_that_is_no_longer_taken_is_renewed_without_a_word() {
    let directory = tempdir().unwrap();
    let mut server = start_guarded_in(directory.path(), &[]);
    let browser = open_guarded(&server);
    log_in_by_keys(&browser, PASSWORD);
    browser.wait_for(STATE, "live");
    server.process.kill();
    write_secret(directory.path(), "key", "a key of thirty-two bytes or more");
    let port = server.address.port().to_string();
    let arguments = ["consume", "--port", &port, "--username", USERNAME, "--password-file", "password"];
    let mut command = eventctl(directory.path());
    let server = Consume::start_command(command.args(arguments).args(["--signing-key-file", "key"]));
    store_with(&server, &log_in(&server).access, "a");
    browser.wait_for(ROWS, texts(&["1 a x"]));
    assert_eq!(browser.run(&format!("return {GRANTS}")), 2);
    assert_eq!(browser.run(&format!("return {ASKS}")), false);
}

#[test]
#[ignore = "needs the browser of .ci/servers"]
fn where_there_is_one_token_it_is_asked_for() {
    let directory = tempdir().unwrap();
    const TOKEN: &str = "a-token-that-never-changes";
    write_secret(directory.path(), "token", TOKEN);
    let server = Consume::start_with(directory.path(), &["--token-file", "token"]);
    store_with(&server, TOKEN, "a");
    let browser = open_guarded(&server);
    browser.wait_for("document.activeElement.id", "token");
    browser.wait_for("document.querySelector('#username').checkVisibility()", false);
    for (token, problem) in [
        ("wrong-but-well-formed", "the token is not valid, or no longer"),
        ("no token ä", "a token consists of letters, digits and punctuation, without spaces"),
    ] {
        browser.press(token.chars().chain([ENTER]));
        browser.wait_for(PROBLEM, problem);
    }
    browser.press(TOKEN.chars().chain([ENTER]));
    browser.wait_for(ROWS, texts(&["1 a x"]));
    browser.wait_for(STATE, "live");
}
