//! Requests that are cancelled while the store is read for them.

use std::fs;
use std::thread;
use std::time::Duration;

use rustix::process::Pid;

use crate::stores::reading::fill;
use crate::util::http2::*;

use super::tls::Secured;

/// As many reads as run at once.
const READERS: usize = 4;

/// Events that take a while to search.
const EVENTS: usize = 300_000;

/// How many connections to the database a process has open.
fn connections(process: Pid) -> usize {
    let files = fs::read_dir(format!("/proc/{}/fd", process.as_raw_nonzero())).unwrap();
    let targets = files.filter_map(|file| fs::read_link(file.unwrap().path()).ok());
    targets.filter(|target| target.ends_with("events.db")).count()
}

#[test]
fn reads_that_were_cancelled_take_no_further_connections_while_they_run() {
    let secured = Secured::start(&[]);
    let server = &secured.server;
    fill(&secured.directory.path().join("events.db"), EVENTS);
    let mut frames = Frames::open_with(&secured.client, server.address, &[]);
    let get = |path| [(":method", "GET"), (":scheme", "https"), (":path", path), (":authority", "test")];
    let mut stream = 1;
    let mut most = 0;
    for _ in 0..5 {
        let streams: Vec<u32> = (0..READERS).map(|number| stream + 2 * number as u32).collect();
        for stream in &streams {
            frames.send_head(*stream, END_HEADERS | END_STREAM, &get("/event?type=*q*zz*")).unwrap();
        }
        // Long enough for them to begin, if they may.
        for _ in 0..20 {
            most = most.max(connections(server.process.pid()));
            thread::sleep(Duration::from_millis(5));
        }
        frames.send(&streams.iter().flat_map(|stream| rst_stream(*stream)).collect::<Vec<u8>>()).unwrap();
        stream += 2 * READERS as u32;
    }
    assert!(most > 1, "no read had begun");
    assert!(most <= 1 + READERS, "{most} connections");
    frames.send_head(stream, END_HEADERS | END_STREAM, &get("/event?limit=1")).unwrap();
    let Outcome::Answered(200, body) = frames.outcome(stream) else { panic!("no answer") };
    assert!(String::from_utf8(body).unwrap().contains(&format!("message-{EVENTS}")));
}
