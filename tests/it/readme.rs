//! The README: what it tells people to type works.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::tempdir;

use crate::util::Process;

#[test]
#[ignore = "needs bash and curl"]
fn every_command_of_the_readme_works() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(repository.join("README.md")).unwrap();
    let blocks: Vec<&str> =
        readme.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect();
    assert!(blocks.len() >= 4, "the README has lost its commands");
    let directory = tempdir().unwrap();
    fs::copy(repository.join("events.json"), directory.path().join("events.json")).unwrap();
    // The commands follow each other, and share the receiver that the first of them starts.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let script = format!("set -eux\ntrap 'kill %1' EXIT\n{}", blocks.concat());
    let script = script.replace("8000", &port.to_string());
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
