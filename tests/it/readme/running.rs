//! Scripts and examples, run as they stand, on ports that are free.

use std::env;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::{TempDir, tempdir};

use super::{Document, repository};
use crate::util::receiver::{Receiver, Reply};
use crate::util::tls::Identity;
use crate::util::{Process, copy, wait_until, write_file, write_secret};

/// The path on which a shell finds this build first.
fn search_path() -> String {
    let programs = Path::new(env!("CARGO_BIN_EXE_eventctl")).parent().unwrap();
    format!("{}:{}", programs.display(), env::var("PATH").unwrap())
}

/// Free ports, as texts.
fn free_ports<const N: usize>() -> [String; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port().to_string())
}

/// A folder with the sample, and some events a line.
fn folder() -> TempDir {
    let directory = tempdir().unwrap();
    copy(&repository().join("events.json"), directory.path());
    write_file(directory.path(), "events.ndjson", r#"{"event_type": "a", "event_payload": "b"}"#);
    directory
}

/// Runs all scripts of a document one after the other: they share the receivers that some of them start.
fn run_scripts(document: &Document, directory: &Path) {
    let scripts = document.blocks().filter(|block| block.language == "sh").map(|block| block.text);
    let script: String = scripts.collect();
    assert!(!script.is_empty(), "{} has lost its commands", document.path.display());
    let [plain, encrypted] = free_ports();
    let script = script.replace("8000", &plain).replace("8443", &encrypted);
    let script = format!("set -eux\ntrap 'kill $(jobs -p)' EXIT\n{script}");
    let mut shell = Command::new("bash");
    shell.args(["-c", &script]).current_dir(directory).env("PATH", search_path()).stdout(Stdio::piped());
    shell.env("APP_PORT", &plain).env("HTTP_POST_ENDPOINT", format!("http://127.0.0.1:{plain}/event"));
    let mut process = Process::start(&mut shell);
    let status = process.wait();
    assert!(status.success(), "{}: {status}\n{}", document.path.display(), process.stderr());
}

#[test]
#[ignore = "needs bash, curl and openssl"]
fn every_command_of_the_readme_works() {
    let directory = folder();
    run_scripts(&Document::read("README.md"), directory.path());
    let events = fs::read_to_string(directory.path().join("events.csv")).unwrap();
    assert_eq!(events.lines().count(), 1 + 1 + 5 + 3 + 7, "{events}");
}

#[test]
#[ignore = "needs bash and curl"]
fn every_command_of_the_shell_scripts_readme_works() {
    let directory = folder();
    copy(&repository().join("examples/shell/."), directory.path());
    run_scripts(&Document::read("examples/shell/README.md"), directory.path());
}

/// The examples of a page of the manual, a command each.
fn examples_of(page: &Document) -> Vec<String> {
    let (_, examples) = page.text.split_once("\n## Examples\n").unwrap();
    let block = examples.split("```").nth(1).and_then(|block| block.strip_prefix("sh\n")).unwrap();
    let lines = block.replace("\\\n", " ");
    let commands = lines.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    commands.map(str::to_owned).collect()
}

/// What the examples of a page run in.
struct Room {
    directory: TempDir,
    ports: [String; 2],
    hook: Receiver,
    running: Vec<Process>,
}

impl Room {
    fn new() -> Room {
        let directory = folder();
        Identity::self_signed("localhost").write(directory.path(), "server");
        for (from, to) in [("server.pem", "cert.pem"), ("server.key", "key.pem")] {
            fs::rename(directory.path().join(from), directory.path().join(to)).unwrap();
        }
        write_secret(directory.path(), "password", "correct horse");
        let hook = Receiver::start(|_, _| Reply::created());
        Room { directory, ports: free_ports(), hook, running: Vec::new() }
    }

    fn start(&self, command: &str) -> Process {
        let command = command.replace("8000", &self.ports[0]).replace("8443", &self.ports[1]);
        let command = command.replace("http://127.0.0.1:9000", &self.hook.url(""));
        let mut shell = Command::new("bash");
        shell.args(["-euc", &command]).current_dir(self.directory.path()).env_clear();
        shell.env("PATH", search_path()).env("HOME", self.directory.path()).env("MANPAGER", "cat");
        shell.env("APP_PORT", &self.ports[0]);
        shell.env("HTTP_POST_ENDPOINT", format!("http://127.0.0.1:{}/event", self.ports[0]));
        Process::start(shell.stdin(Stdio::null()).stdout(Stdio::piped()))
    }

    /// Starts a receiver, which runs until another takes its port.
    fn receive(&mut self, command: &str) {
        self.running.retain_mut(|process| {
            let takes_port = command.contains("8443") == process.stderr().contains("https://");
            if takes_port {
                assert!(process.terminate().success(), "{}", process.stderr());
            }
            !takes_port
        });
        let mut process = self.start(&format!("exec {command}"));
        process.wait_for_stderr("listening on ");
        self.running.push(process);
    }

    /// Runs a command that goes on until it is stopped, until it has printed something.
    fn run_for_a_while(&self, command: &str) {
        let mut process = self.start(&format!("exec {command} > printed"));
        wait_until(|| {
            assert!(process.child().try_wait().unwrap().is_none(), "{command}: {}", process.stderr());
            let printed = fs::metadata(self.directory.path().join("printed"));
            printed.ok().filter(|printed| printed.len() > 0)
        });
        process.terminate();
    }

    fn run(&self, command: &str) {
        let mut process = self.start(command);
        let status = process.wait();
        assert!(status.success(), "{command}: {status}\n{}", process.stderr());
    }
}

#[test]
#[ignore = "needs bash and man"]
fn every_example_of_the_manual_works() {
    for page in Document::manual_pages().into_iter().map(Document::read) {
        let mut room = Room::new();
        room.receive("eventctl consume");
        if page.text.contains("https://localhost:8443") {
            room.receive(
                "eventctl consume --port 8443 --db guarded.db --tls-cert cert.pem --tls-key key.pem \
                 --username operator --password-file password",
            );
        }
        room.run("eventctl propagate --file - --period 1ms < events.ndjson");
        for command in examples_of(&page) {
            let has = |word: &str| command.split(' ').any(|part| part == word);
            // Nobody serves the hosts that are reserved for examples.
            if command.contains(".example") {
            } else if command.starts_with("eventctl consume") {
                room.receive(&command);
            } else if has("-f") || (has("propagate") && !has("--count") && !has("-")) {
                room.run_for_a_while(&command);
            } else {
                room.run(&command);
            }
        }
    }
}
