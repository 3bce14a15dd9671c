//! A running `tail -f`.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use serde_json::Value;

use super::{PATIENCE, Process};

/// A running `tail -f -o json` with the lines that it prints.
pub struct Follower {
    pub process: Process,
    lines: Receiver<String>,
}

impl Follower {
    /// Starts a command that has all other arguments of `tail`.
    pub fn start(command: &mut Command) -> Follower {
        let mut process = Process::start(command.args(["-f", "-o", "json"]).stdout(Stdio::piped()));
        let output = BufReader::new(process.child().stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            output.lines().map_while(Result::ok).take_while(|line| sender.send(line.clone()).is_ok()).count()
        });
        Follower { process, lines }
    }

    /// The next event that it shows.
    pub fn next(&self) -> Value {
        let line = self.lines.recv_timeout(PATIENCE);
        let line = line.unwrap_or_else(|error| panic!("{error}: {}", self.process.stderr()));
        serde_json::from_str(&line).unwrap()
    }

    /// Its payload.
    pub fn next_payload(&self) -> String {
        self.next()["event_payload"].as_str().unwrap().to_owned()
    }

    /// Asserts that it has shown nothing but what was read.
    pub fn assert_nothing_else(mut self) {
        self.process.kill();
        assert_eq!(self.lines.iter().collect::<Vec<_>>(), [] as [&str; 0]);
    }
}
