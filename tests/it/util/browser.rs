//! A headless Chromium that a test drives (WebDriver, W3C), by way of chromedriver.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use super::http::Connection;
use super::{PATIENCE, Process};

/// The name of Enter among the keys of WebDriver; the others are what they type.
pub const ENTER: char = '\u{e007}';
pub const ESCAPE: char = '\u{e00c}';
pub const TAB: char = '\u{e004}';
pub const DOWN: char = '\u{e015}';

/// What Chromium shall leave alone, so that it does nothing but what the test does.
const ARGUMENTS: [&str; 11] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--window-size=1280,900",
    // The browser ends with whoever drives it.
    "--remote-debugging-pipe",
];

/// A browser with one tab, which ends with its test.
pub struct Browser {
    address: SocketAddr,
    session: String,
    _driver: Process,
    _stdout: BufReader<ChildStdout>,
    _profile: TempDir,
}

impl Browser {
    /// Starts one, with a profile that nobody has used. `TEST_CHROMEDRIVER` is its driver.
    pub fn start() -> Browser {
        Browser::start_with(&[])
    }

    /// The same, with further arguments.
    pub fn start_with(arguments: &[&str]) -> Browser {
        let (driver, stdout, port) = (0..10).find_map(|_| start_driver()).expect("the driver finds no port");
        let profile = tempdir().unwrap();
        let profile_argument = format!("--user-data-dir={}", profile.path().display());
        let arguments: Vec<&str> =
            ARGUMENTS.iter().chain(arguments).copied().chain([profile_argument.as_str()]).collect();
        let mut browser = Browser {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            session: String::new(),
            _driver: driver,
            _stdout: stdout,
            _profile: profile,
        };
        let capabilities = json!({
            // Certificates of tests are their own.
            "acceptInsecureCerts": true,
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        });
        let session = browser.post("", &json!({"capabilities": {"alwaysMatch": capabilities}}));
        browser.session = format!("/{}", session["sessionId"].as_str().unwrap());
        // A new tab has a page of its own, whose requests are not those of the test.
        browser.open("about:blank");
        browser.requested();
        browser
    }

    /// Opens a page.
    pub fn open(&self, url: &str) {
        self.post("/url", &json!({"url": url}));
    }

    /// Opens a tab in front of the others, which are hidden then; its handle.
    pub fn open_tab(&self) -> String {
        let tab = self.post("/window/new", &json!({"type": "tab"}));
        let handle = tab["handle"].as_str().unwrap().to_owned();
        self.show_tab(&handle);
        handle
    }

    /// Puts a tab in front of the others, and drives it from now on.
    pub fn show_tab(&self, handle: &str) {
        self.post("/window", &json!({"handle": handle}));
        self.command("Page.bringToFront", &json!({}));
    }

    /// Runs the body of a function in the page; what it returns.
    pub fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({"script": script, "args": []}))
    }

    /// Waits until an expression has a value; one that fails has its error as value.
    #[track_caller]
    pub fn wait_for(&self, expression: &str, expected: impl Into<Value>) {
        let (expected, started) = (expected.into(), Instant::now());
        loop {
            let value =
                self.run(&format!("try {{ return {expression} }} catch (error) {{ return `${{error}}` }}"));
            if value == expected {
                return;
            }
            let lasted = started.elapsed();
            assert!(
                lasted < PATIENCE,
                "{expression} is {value}, expected {expected}: {:?}",
                self.complaints()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Presses keys one after the other, wherever the focus is.
    pub fn press(&self, keys: impl IntoIterator<Item = char>) {
        let strokes = keys
            .into_iter()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key.to_string()})));
        let strokes: Vec<Value> = strokes.collect();
        self.post("/actions", &json!({"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]}));
    }

    /// Clicks on what a selector finds, as a mouse does: it must be there to be seen.
    pub fn click(&self, selector: &str) {
        let element = self.post("/element", &json!({"using": "css selector", "value": selector}));
        let id = element.as_object().unwrap().values().next().unwrap().as_str().unwrap();
        self.post(&format!("/element/{id}/click"), &json!({}));
    }

    /// Clicks into a field and types.
    pub fn type_into(&self, selector: &str, text: &str) {
        self.click(selector);
        self.press(text.chars());
    }

    /// A command of Chromium's own protocol.
    pub fn command(&self, name: &str, parameters: &Value) -> Value {
        self.post("/goog/cdp/execute", &json!({"cmd": name, "params": parameters}))
    }

    /// What the console has in red since the last look: errors, and what a policy has blocked.
    pub fn complaints(&self) -> Vec<String> {
        let entries = self.log("browser").into_iter().filter(|entry| entry["level"] == "SEVERE");
        entries.map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    /// The addresses that the tab has asked for since the last look, whether it reached them or not.
    pub fn requested(&self) -> Vec<String> {
        let messages = self.log("performance").into_iter().map(|entry| {
            let message: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
            message["message"].clone()
        });
        let requests = messages.filter(|message| message["method"] == "Network.requestWillBeSent");
        requests.map(|message| message["params"]["request"]["url"].as_str().unwrap().to_owned()).collect()
    }

    fn log(&self, kind: &str) -> Vec<Value> {
        self.post("/se/log", &json!({"type": kind})).as_array().unwrap().clone()
    }

    #[track_caller]
    fn post(&self, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        // The driver takes requests to this machine by its name alone.
        let head = format!(
            "POST /session{}{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
            self.session,
            body.len()
        );
        let mut connection = Connection::open(self.address);
        connection.send(&[head.as_bytes(), body.as_bytes()].concat()).unwrap();
        let response = connection.receive().unwrap();
        assert_eq!(response.status, 200, "{path} {body}: {}", response.text());
        response.json()["value"].take()
    }
}

/// Starts the driver; none where the port that it chose for IPv4 is taken for IPv6.
fn start_driver() -> Option<(Process, BufReader<ChildStdout>, u16)> {
    let driver =
        std::env::var_os("TEST_CHROMEDRIVER").expect("TEST_CHROMEDRIVER is missing: see .ci/servers");
    let mut driver = Process::start(Command::new(driver).arg("--port=0").stdout(Stdio::piped()));
    let mut stdout = BufReader::new(driver.child().stdout.take().unwrap());
    loop {
        let mut line = String::new();
        if stdout.read_line(&mut line).unwrap() == 0 {
            driver.wait();
            assert!(driver.stderr().contains("Address already in use"), "{}", driver.stderr());
            return None;
        }
        if let Some((_, port)) = line.trim_end().rsplit_once("successfully on port ") {
            return Some((driver, stdout, port.trim_end_matches('.').parse().unwrap()));
        }
    }
}
