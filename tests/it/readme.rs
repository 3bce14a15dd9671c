//! The README: what it tells people to type works.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::tempdir;

use crate::util::Process;

#[test]
#[ignore = "needs bash, curl and openssl"]
fn every_command_of_the_readme_works() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(repository.join("README.md")).unwrap();
    let blocks: Vec<&str> =
        readme.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect();
    assert!(blocks.len() >= 4, "the README has lost its commands");
    let directory = tempdir().unwrap();
    fs::copy(repository.join("events.json"), directory.path().join("events.json")).unwrap();
    // The commands follow each other, and share the receivers that some of them start.
    let [plain, encrypted] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let port_of = |listener: &TcpListener| listener.local_addr().unwrap().port().to_string();
    let script = format!("set -eux\ntrap 'kill $(jobs -p)' EXIT\n{}", blocks.concat());
    let script = script.replace("8000", &port_of(&plain)).replace("8443", &port_of(&encrypted));
    drop([plain, encrypted]);
    let programs = Path::new(env!("CARGO_BIN_EXE_eventctl")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("bash");
    shell.args(["-c", &script]).current_dir(directory.path()).env("PATH", path).stdout(Stdio::piped());
    let mut process = Process::start(&mut shell);
    let status = process.wait();
    assert!(status.success(), "{status}\n{}", process.stderr());
    let events = fs::read_to_string(directory.path().join("events.csv")).unwrap();
    assert_eq!(events.lines().count(), 1 + 1 + 5 + 2, "{events}");
}
