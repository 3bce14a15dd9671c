//! HTTP/2 from clients that break its rules or wear them thin: their connections end, everyone else's go on.

mod clients;

use std::collections::HashSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::util::http::event;
use crate::util::http2::*;
use crate::util::{PATIENCE, SetOnDrop, random, wait_until};

use super::stored;
use super::tls::Secured;

/// What the server's memory never grows beyond, whatever its clients do.
const MEMORY_LIMIT_KIB: u64 = 160 << 10;

// RFC 9113, section 7.
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

const POST: [(&str, &str); 5] = [
    (":method", "POST"),
    (":scheme", "https"),
    (":path", "/event"),
    (":authority", "test"),
    ("content-type", "application/json"),
];
const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":path", "/health"), (":authority", "test")];

/// A head that opens a stream and leaves it open.
fn open_head(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &fields(&POST))
}

/// A request that is whole, for an event of the type `attack`.
fn whole_request(stream: u32) -> Vec<u8> {
    let body = event("attack", &stream.to_string());
    [open_head(stream), frame(DATA, END_STREAM, stream, body.as_bytes())].concat()
}

/// The number of a client's stream, from 0.
fn stream_of(number: u32) -> u32 {
    2 * number + 1
}

/// A server, and what it must come through.
struct Siege(Secured);

impl Siege {
    fn start(arguments: &[&str]) -> Siege {
        Siege(Secured::start(arguments))
    }

    fn frames(&self) -> Frames {
        self.frames_with(&[])
    }

    fn frames_with(&self, settings: &[(u16, u32)]) -> Frames {
        Frames::open_with(&self.0.client, self.0.server.address, settings)
    }

    /// Asserts that a client that keeps the rules is served during an attack and after it; how many
    /// events of type `attack` were stored.
    fn endure(mut self, attack: impl FnOnce(&Siege)) -> usize {
        let over = AtomicBool::new(false);
        let served: usize = thread::scope(|scope| {
            let siege = &self;
            let over = &over;
            let mut client = siege.0.http2();
            assert_eq!(client.post_event("good", "before").status, 201);
            let served = scope.spawn(move || {
                let mut served = 1;
                while !over.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    assert_eq!(client.post_event("good", "during").status, 201);
                    assert!(asked.elapsed() < PATIENCE / 6, "served after {:?}", asked.elapsed());
                    served += 1;
                }
                served
            });
            let _over = SetOnDrop(over);
            attack(siege);
            over.store(true, Ordering::Relaxed);
            served.join().unwrap()
        });
        assert_eq!(self.0.http2().post_event("good", "after").status, 201);
        assert_eq!(self.0.http1().post_event("good", "after").status, 201);
        let status = format!("/proc/{}/status", self.0.server.process.pid().as_raw_nonzero());
        let status = fs::read_to_string(status).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(peak < MEMORY_LIMIT_KIB, "{peak} KiB of memory");
        assert_eq!(self.0.server.process.terminate().code(), Some(0));
        let stderr = self.0.server.process.stderr();
        assert!(!stderr.contains("panicked"), "{stderr}");
        let stored = stored(&self.0.directory);
        let (good, attacks): (Vec<_>, Vec<_>) = stored.into_iter().partition(|(kind, _)| kind == "good");
        assert_eq!(good.len(), served + 2);
        assert!(attacks.iter().all(|(kind, _)| kind == "attack"), "{attacks:?}");
        attacks.len()
    }
}

// Floods.

#[test]
fn rapid_resets_end_the_connection() {
    for reads in [true, false] {
        let stored = Siege::start(&[]).endure(|siege| {
            let sent = siege.frames().flood(reads, |count| {
                let streams = (count * 100..(count + 1) * 100).map(stream_of);
                streams.flat_map(|stream| [open_head(stream), rst_stream(stream)].concat()).collect()
            });
            assert!(sent < 200, "{} resets were taken", sent * 100);
        });
        assert_eq!(stored, 0);
    }
}

#[test]
fn rapid_resets_are_told_to_calm_down() {
    let siege = Siege::start(&[]);
    let mut frames = siege.frames();
    let resets: Vec<u8> = (0..100)
        .flat_map(|number| [open_head(stream_of(number)), rst_stream(stream_of(number))].concat())
        .collect();
    frames.send(&resets).unwrap();
    assert_eq!(frames.wait_for_end(), Some(ENHANCE_YOUR_CALM));
}

#[test]
fn resets_that_the_server_is_made_to_send_end_the_connection() {
    // A window that overflows is an error of the stream, and the server's to reset.
    let stored = Siege::start(&[]).endure(|siege| {
        let sent = siege.frames().flood(true, |count| {
            let streams = (count * 20..(count + 1) * 20).map(stream_of);
            streams
                .flat_map(|stream| [open_head(stream), window_update(stream, (1 << 31) - 1)].concat())
                .collect()
        });
        // The limit is 1024; what the sockets hold beyond it depends on how busy the machine is.
        assert!(sent < 1000, "{} resets were sent", sent * 20);
    });
    assert_eq!(stored, 0);
}

#[test]
fn a_head_without_end_ends_the_connection() {
    let stored = Siege::start(&["--header-timeout", "1h", "--idle-timeout", "1h"]).endure(|siege| {
        let one = fields(&[("x", "y")]);
        for piece in [one.repeat(1000), one, Vec::new()] {
            let mut frames = siege.frames();
            frames.send(&frame(HEADERS, 0, 1, &fields(&POST))).unwrap();
            let sent = frames.flood(true, |_| frame(CONTINUATION, 0, 1, &piece));
            assert!(sent < 100_000, "{sent} pieces of {} bytes were taken", piece.len());
        }
    });
    assert_eq!(stored, 0);
}

#[test]
fn a_head_that_trickles_is_given_up_after_the_header_timeout() {
    const LIMIT: Duration = Duration::from_millis(300);
    let stored = Siege::start(&["--header-timeout", "300ms", "--idle-timeout", "1h"]).endure(|siege| {
        let head =
            frame(HEADERS, END_HEADERS, 1, &fields(&[&POST[..], &[("x", &"y".repeat(5000))]].concat()));
        let pieces =
            [frame(HEADERS, 0, 1, &fields(&POST)), frame(CONTINUATION, 0, 1, &fields(&[("x", "y")]))];
        for wait in [Duration::from_millis(5), Duration::from_millis(100)] {
            let begun = Instant::now();
            let mut frames = siege.frames();
            frames.flood(true, |count| {
                thread::sleep(wait);
                let count = usize::try_from(count).unwrap();
                // A frame byte for byte, and a head frame by frame.
                if wait < LIMIT / 10 { vec![head[count]] } else { pieces[count.min(1)].clone() }
            });
            assert!(begun.elapsed() >= LIMIT, "ended after {:?}", begun.elapsed());
        }
    });
    assert_eq!(stored, 0);
}

#[test]
fn frames_that_ask_for_nothing_do_not_keep_a_connection() {
    let kinds: [fn(u32) -> Vec<u8>; 6] = [
        |_| frame(PING, 0, 0, &[7; 8]),
        |count| settings(&[(4, count % 1000)]),
        |count| frame(PRIORITY, 0, stream_of(count % 5000), &[0, 0, 0, 0, 7]),
        |_| frame(PING, ACK, 0, &[7; 8]),
        // A type that nobody knows is ignored.
        |_| frame(0x77, 0, 0, &[7; 100]),
        |_| window_update(0, 1),
    ];
    let stored = Siege::start(&["--header-timeout", "200ms", "--idle-timeout", "1s"]).endure(|siege| {
        let flood = |mut frames: Frames, reads: bool, kind: fn(u32) -> Vec<u8>| {
            let begun = Instant::now();
            frames.flood(reads, |count| (count * 50..(count + 1) * 50).flat_map(kind).collect());
            assert!(begun.elapsed() < PATIENCE / 6, "the flood went on for {:?}", begun.elapsed());
        };
        for kind in kinds {
            flood(siege.frames(), true, kind);
        }
        for kind in &kinds[..2] {
            flood(siege.frames(), false, *kind);
        }
        // A request does not buy more than the idle time.
        let mut frames = siege.frames();
        frames.send_head(1, END_STREAM, &GET).unwrap();
        assert_eq!(frames.outcome(1).status(), Some(200));
        flood(frames, true, kinds[0]);
    });
    assert_eq!(stored, 0);
}

// Heads.

#[test]
fn a_head_beyond_the_limit_is_431_and_its_connection_goes_on() {
    let stored = Siege::start(&["--header-limit", "8KiB"]).endure(|siege| {
        let mut frames = siege.frames();
        let long = "x".repeat(9000);
        frames.send_head(1, 0, &[&POST[..], &[("long", long.as_str())]].concat()).unwrap();
        assert_eq!(frames.outcome(1).status(), Some(431));
        let many: Vec<(&str, &str)> = POST.into_iter().chain([("a", "b"); 300]).collect();
        frames.send_head(3, END_STREAM, &many).unwrap();
        assert_eq!(frames.outcome(3).status(), Some(431));
        frames.send_head(5, END_STREAM, &[&GET[..], &[("long", &long[..6000])]].concat()).unwrap();
        assert_eq!(frames.outcome(5).status(), Some(200));
    });
    assert_eq!(stored, 0);
}

#[test]
fn more_than_a_hundred_headers_are_431_as_over_http_1() {
    let siege = Siege::start(&[]);
    let mut frames = siege.frames();
    for (stream, count, status) in [(1, 100, 200), (3, 101, 431)] {
        let head: Vec<(&str, &str)> = GET.into_iter().chain([("a", "b")].repeat(count)).collect();
        frames.send_head(stream, END_STREAM, &head).unwrap();
        assert_eq!(frames.outcome(stream).status(), Some(status), "{count} headers");
        // `Host` is one of them.
        let headers = [("A", "b")].repeat(count - 1);
        assert_eq!(
            siege.0.http1().request("GET", "/health", &headers, b"").status,
            status,
            "{count} headers"
        );
    }
}

#[test]
fn a_small_head_that_stands_for_a_large_one_takes_no_memory() {
    let stored = Siege::start(&[]).endure(|siege| {
        let mut frames = siege.frames();
        // Kept in the table as entry 62, and then named 15 000 times by a byte: 60 MB.
        let mut block = fields(&GET);
        block.extend_from_slice(&[0x40, 1, b'x', 127, 0xa1, 0x1e]);
        block.extend_from_slice(&[b'y'; 4000]);
        block.resize(16_000, 0x80 | 62);
        for number in 0..20 {
            let stream = stream_of(number);
            if frames.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)).is_err() {
                break;
            }
            match frames.outcome(stream) {
                Outcome::Answered(431, _) => {}
                Outcome::GoAway(_) | Outcome::Closed => break,
                other => panic!("{other:?}"),
            }
        }
    });
    assert_eq!(stored, 0);
}

#[test]
fn a_head_that_makes_no_sense_is_refused_and_nothing_is_stored() {
    let body = event("attack", "x");
    let long = (body.len() + 1).to_string();
    let short = (body.len() - 1).to_string();
    let with = |field: (&'static str, &'static str)| [&POST[..], &[field]].concat();
    let without = |name: &str| POST.into_iter().filter(|(field, _)| *field != name).collect::<Vec<_>>();
    let first = |field| [&[field], &POST[..]].concat();
    let heads: Vec<Vec<(&str, &str)>> = vec![
        without(":method"),
        without(":scheme"),
        without(":path"),
        vec![],
        with(("Upper-Case", "x")),
        with(("connection", "close")),
        with(("keep-alive", "1")),
        with(("proxy-connection", "close")),
        with(("upgrade", "h2c")),
        with(("transfer-encoding", "chunked")),
        with(("te", "gzip")),
        with((":path", "/event")),
        with((":method", "POST")),
        with((":status", "200")),
        with((":unknown", "x")),
        with((":protocol", "websocket")),
        vec![(":method", "CONNECT"), (":authority", "test")],
        [&[(":path", "*")], &without(":path")[..]].concat(),
        [&[(":path", "event")], &without(":path")[..]].concat(),
        [&[(":authority", "")], &without(":authority")[..]].concat(),
        with(("", "x")),
        with(("na me", "x")),
        with(("a", "b\r\nc: d")),
        with(("a", "\0")),
        first(("a", "b")),
        [&[(":path", "")], &without(":path")[..]].concat(),
        with(("content-length", "-1")),
        with(("content-length", "x")),
        [&POST[..], &[("content-length", &long), ("content-length", &short)]].concat(),
        [&POST[..], &[("content-length", long.as_str())]].concat(),
        [&POST[..], &[("content-length", short.as_str())]].concat(),
    ];
    let stored = Siege::start(&[]).endure(|siege| {
        for head in &heads {
            let mut frames = siege.frames();
            frames.send_head(1, 0, head).unwrap();
            // The connection may be at its end already.
            let _ = frames.send(&frame(DATA, END_STREAM, 1, body.as_bytes()));
            let outcome = frames.outcome(1);
            let refused = match outcome {
                Outcome::Answered(status, _) => (400..500).contains(&status),
                Outcome::Reset(code) | Outcome::GoAway(code) => code != 0,
                Outcome::Closed => true,
            };
            assert!(refused, "{head:?}: {outcome:?}");
        }
    });
    assert_eq!(stored, 0);
}

#[test]
fn a_request_without_authority_needs_a_host() {
    let siege = Siege::start(&[]);
    let mut frames = siege.frames();
    frames.send_head(1, END_STREAM, &GET[..3]).unwrap();
    let Outcome::Answered(400, problem) = frames.outcome(1) else { panic!("expected 400") };
    assert!(String::from_utf8(problem).unwrap().contains("Host"));
    frames.send_head(3, END_STREAM, &[&GET[..3], &[("host", "test")]].concat()).unwrap();
    assert_eq!(frames.outcome(3).status(), Some(200));
    frames.send_head(5, END_STREAM, &[&GET[..3], &[("host", "test"), ("host", "test")]].concat()).unwrap();
    assert_eq!(frames.outcome(5).status(), Some(400));
}

// Bodies.

#[test]
fn a_body_in_single_bytes_is_stored_as_it_was_sent_or_not_at_all() {
    let siege = Siege::start(&[]);
    let body = event("attack", &"x".repeat(100_000));
    let mut stored_one = false;
    let stored = siege.endure(|siege| {
        let mut frames = siege.frames();
        let bytes: Vec<u8> = body.bytes().flat_map(|byte| frame(DATA, 0, 1, &[byte])).collect();
        frames.send(&open_head(1)).unwrap();
        let sent = bytes.chunks(64 << 10).all(|piece| frames.send(piece).is_ok());
        let sent = sent && frames.send(&frame(DATA, END_STREAM, 1, &[])).is_ok();
        let outcome = frames.outcome(1);
        stored_one = outcome.status() == Some(201);
        assert!(
            stored_one || !sent || matches!(outcome, Outcome::GoAway(_) | Outcome::Closed),
            "{outcome:?}"
        );
    });
    assert_eq!(stored, usize::from(stored_one));
}

#[test]
fn a_body_of_empty_frames_ends_the_connection() {
    for reads in [true, false] {
        let stored = Siege::start(&["--body-timeout", "300ms", "--idle-timeout", "2s"]).endure(|siege| {
            let mut frames = siege.frames();
            frames.send(&open_head(1)).unwrap();
            frames.flood(reads, |_| frame(DATA, 0, 1, &[]).repeat(100));
        });
        assert_eq!(stored, 0);
    }
}

#[test]
fn a_body_that_trickles_is_408() {
    let stored = Siege::start(&["--body-timeout", "300ms"]).endure(|siege| {
        let mut frames = siege.frames();
        let body = event("attack", "x");
        let (last, body) = body.as_bytes().split_last().unwrap();
        frames.send(&open_head(1)).unwrap();
        for byte in body {
            frames.send(&frame(DATA, 0, 1, &[*byte])).unwrap();
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(frames.outcome(1).status(), Some(408));
        // What comes too late changes nothing.
        let _ = frames.send(&frame(DATA, END_STREAM, 1, &[*last]));
        frames.send_head(3, END_STREAM, &GET).unwrap();
        assert_eq!(frames.outcome(3).status(), Some(200));
    });
    assert_eq!(stored, 0);
}

#[test]
fn a_body_beyond_the_limit_is_413_and_its_connection_goes_on() {
    let body = event("attack", &"x".repeat(20_000));
    let length = body.len().to_string();
    let announced = [&POST[..], &[("content-length", length.as_str())]].concat();
    let stored = Siege::start(&["--body-limit", "16KiB"]).endure(|siege| {
        let mut frames = siege.frames();
        for (stream, head) in [(1, &POST[..]), (3, &announced)] {
            frames.send_head(stream, 0, head).unwrap();
            for piece in body.as_bytes().chunks(10_000) {
                frames.send(&frame(DATA, 0, stream, piece)).unwrap();
            }
            let _ = frames.send(&frame(DATA, END_STREAM, stream, &[]));
            assert_eq!(frames.outcome(stream).status(), Some(413));
        }
        frames.send_head(5, END_STREAM, &GET).unwrap();
        assert_eq!(frames.outcome(5).status(), Some(200));
    });
    assert_eq!(stored, 0);
}

#[test]
fn trailers_end_a_body() {
    let stored = Siege::start(&[]).endure(|siege| {
        let mut frames = siege.frames();
        let body = event("attack", "x");
        frames.send(&open_head(1)).unwrap();
        frames.send(&frame(DATA, 0, 1, body.as_bytes())).unwrap();
        frames.send_head(1, END_STREAM, &[("checksum", "1")]).unwrap();
        assert_eq!(frames.outcome(1).status(), Some(201));
        // Those that do not end it make no sense.
        frames.send(&open_head(3)).unwrap();
        frames.send(&frame(DATA, 0, 3, body.as_bytes())).unwrap();
        frames.send_head(3, 0, &[("checksum", "1")]).unwrap();
        let outcome = frames.outcome(3);
        assert!(matches!(outcome, Outcome::Reset(1..) | Outcome::GoAway(1..)), "{outcome:?}");
    });
    assert_eq!(stored, 1);
}

#[test]
fn a_body_that_is_broken_off_is_not_stored() {
    let lines = format!("{}\n{}\n", event("attack", "1"), event("attack", "2"));
    let ndjson = [&POST[..], &[("content-type", "application/x-ndjson")]].concat();
    let stored = Siege::start(&[]).endure(|siege| {
        // The lines are whole, but more were to come: neither NO_ERROR nor CANCEL is their end.
        for code in [0_u32, 8, 2] {
            let mut frames = siege.frames();
            for stream in (0..20).map(stream_of) {
                frames.send_head(stream, 0, &ndjson).unwrap();
                frames.send(&frame(DATA, 0, stream, lines.as_bytes())).unwrap();
                frames.send(&frame(RST_STREAM, 0, stream, &code.to_be_bytes())).unwrap();
            }
            frames.send_head(stream_of(20), END_STREAM, &GET).unwrap();
            assert_eq!(frames.outcome(stream_of(20)).status(), Some(200));
            // The end of the connection is no end of a body either.
            frames.send_head(stream_of(21), 0, &ndjson).unwrap();
            frames.send(&frame(DATA, 0, stream_of(21), lines.as_bytes())).unwrap();
        }
    });
    assert_eq!(stored, 0);
}

// Streams and windows.

#[test]
fn streams_beyond_the_limit_are_refused_until_there_is_room() {
    let stored = Siege::start(&[]).endure(|siege| {
        let mut frames = siege.frames();
        for number in 0..128 {
            frames.send(&open_head(stream_of(number))).unwrap();
        }
        frames.send(&whole_request(stream_of(128))).unwrap();
        assert_eq!(frames.outcome(stream_of(128)), Outcome::Reset(REFUSED_STREAM));
        let body = event("attack", "1");
        frames.send(&frame(DATA, END_STREAM, 1, body.as_bytes())).unwrap();
        assert_eq!(frames.outcome(1).status(), Some(201));
        frames.send_head(stream_of(129), END_STREAM, &GET).unwrap();
        assert_eq!(frames.outcome(stream_of(129)).status(), Some(200));
    });
    assert_eq!(stored, 1);
}

/// A request for a page of events.
const PAGE: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":path", "/event"), (":authority", "test")];

/// A server with a page of 3.6 MB.
fn siege_with_a_large_page(arguments: &[&str]) -> Siege {
    siege_with_a_page_of(4 * 900_000, arguments)
}

/// A server with a page of four events.
fn siege_with_a_page_of(bytes: usize, arguments: &[&str]) -> Siege {
    let siege = Siege::start(arguments);
    for _ in 0..4 {
        assert_eq!(siege.0.http1().post_event("attack", &"x".repeat(bytes / 4)).status, 201);
    }
    siege
}

/// Waits until so many streams have been reset, each with CANCEL.
fn wait_for_resets(frames: &mut Frames, count: usize) {
    let mut reset = HashSet::new();
    while reset.len() < count {
        let received = frames.receive().expect("streams are reset, and their connection goes on");
        assert_ne!(received.kind, GOAWAY, "{received:?}");
        if received.kind == RST_STREAM {
            assert_eq!(received.payload, 8_u32.to_be_bytes());
            assert!(reset.insert(received.stream), "{received:?} twice");
        }
    }
}

#[test]
fn responses_that_are_never_read_are_reset_after_either_timeout() {
    for timeouts in [
        ["--response-timeout", "500ms", "--idle-timeout", "1h"],
        ["--idle-timeout", "500ms", "--response-timeout", "1h"],
    ] {
        // A debug build writes a hundred pages that are much larger for longer than a stream has to end.
        let siege = siege_with_a_page_of(400_000, &timeouts);
        let stored = siege.endure(|siege| {
            // No window at all; and one that opens by some bytes.
            for opened in [0, 3] {
                let mut frames = siege.frames_with(&[(4, 0)]);
                let asked = Instant::now();
                for number in 0..100 {
                    frames.send_head(stream_of(number), END_STREAM, &PAGE).unwrap();
                    for _ in 0..opened {
                        frames.send(&window_update(stream_of(number), 1)).unwrap();
                    }
                }
                if opened == 0 {
                    wait_for_resets(&mut frames, 100);
                } else {
                    // Small responses are out of reach once they are begun: only the connection can be ended.
                    frames.wait_for_end();
                }
                assert!(asked.elapsed() >= Duration::from_millis(500), "reset after {:?}", asked.elapsed());
            }
            // The room in memory that the responses took is given back.
            assert_eq!(siege.0.http1().get("/event").status, 200);
        });
        assert_eq!(stored, 4);
    }
}

#[test]
fn a_response_that_is_not_read_ends_without_the_other_requests_of_its_connection() {
    let siege = siege_with_a_large_page(&["--idle-timeout", "500ms", "--header-timeout", "1h"]);
    let mut frames = siege.frames_with(&[(4, 0)]);
    frames.send_head(1, END_STREAM, &PAGE).unwrap();
    let body = event("good", "");
    frames.send(&open_head(3)).unwrap();
    frames.send(&frame(DATA, 0, 3, &body.as_bytes()[..10])).unwrap();
    wait_for_resets(&mut frames, 1);
    frames.send(&window_update(3, 1000)).unwrap();
    frames.send(&frame(DATA, END_STREAM, 3, &body.as_bytes()[10..])).unwrap();
    assert_eq!(frames.outcome(3).status(), Some(201));
}

#[test]
fn a_connection_that_reads_nothing_at_all_is_cut() {
    let siege = siege_with_a_large_page(&["--idle-timeout", "500ms", "--response-timeout", "1h"]);
    // Windows for all of it, and a socket that nobody reads.
    let mut frames = siege.frames_with(&[(4, (1 << 31) - 1)]);
    frames.send(&window_update(0, (1 << 31) - 1 - 65_535)).unwrap();
    for number in 0..100 {
        if frames.send_head(stream_of(number), END_STREAM, &PAGE).is_err() {
            break;
        }
    }
    wait_until(|| {
        (siege.0.http1().get("/metrics").text().contains("\neventctl_connections 1\n")).then_some(())
    });
}

#[test]
fn a_connection_beyond_the_limit_does_not_stay_to_ask_again() {
    let siege = Siege::start(&["--max-connections", "1", "--header-timeout", "2s", "--idle-timeout", "1h"]);
    let mut admitted = siege.frames();
    admitted.send_head(1, END_STREAM, &GET).unwrap();
    assert_eq!(admitted.outcome(1).status(), Some(200));
    let mut refused = siege.frames();
    refused.send_head(1, END_STREAM, &GET).unwrap();
    assert_eq!(refused.outcome(1).status(), Some(503));
    refused.wait_for_end();
    admitted.send_head(3, END_STREAM, &GET).unwrap();
    assert_eq!(admitted.outcome(3).status(), Some(200));
}

#[test]
fn a_response_that_is_read_slowly_is_sent_whole() {
    let siege = siege_with_a_large_page(&["--idle-timeout", "2s"]);
    let mut frames = siege.frames_with(&[(4, 0)]);
    frames.send_head(1, END_STREAM, &PAGE).unwrap();
    let mut read = 0;
    loop {
        let received = frames.receive().unwrap();
        match received.kind {
            HEADERS => frames.send(&window_update(1, 16 << 10)).unwrap(),
            DATA => {
                read += received.payload.len();
                if received.flags & END_STREAM != 0 {
                    break;
                }
                let length = u32::try_from(received.payload.len()).unwrap();
                if length > 0 {
                    // All of it takes longer than a client may pause.
                    thread::sleep(Duration::from_millis(15));
                    frames.send(&[window_update(1, length), window_update(0, length)].concat()).unwrap();
                }
            }
            RST_STREAM | GOAWAY => panic!("{received:?} after {read} bytes"),
            _ => {}
        }
    }
    assert!(read > 3_600_000, "{read} bytes");
}

#[test]
fn a_connection_that_reads_nothing_leaves_room_in_memory_for_others() {
    let siege = siege_with_a_large_page(&["--queue-bytes", "32MiB"]);
    let mut frames = siege.frames_with(&[(4, 0)]);
    for number in 0..128 {
        frames.send_head(stream_of(number), END_STREAM, &PAGE).unwrap();
    }
    // All of them have been answered: one with the page, the others with 503.
    let mut statuses = Vec::new();
    while statuses.len() < 128 {
        let received = frames.receive().unwrap();
        if received.kind == HEADERS {
            statuses.push(status_of(&received.payload));
        }
    }
    statuses.sort_unstable();
    assert_eq!((statuses[0], statuses[1], statuses[127]), (200, 503, 503));
    for _ in 0..3 {
        assert_eq!(siege.0.http1().get("/event").status, 200);
        assert_eq!(siege.0.http2().get("/event").status, 200);
    }
    // What is read makes room again.
    frames.send(&rst_stream(stream_of(0))).unwrap();
    drop(frames);
    assert_eq!(siege.0.http2().get("/event").status, 200);
}

#[test]
fn a_connection_whose_requests_break_off_again_and_again_is_asked_to_go_and_finishes_what_it_has() {
    let siege = Siege::start(&[]);
    let mut frames = siege.frames();
    let body = event("good", "");
    frames.send(&open_head(1)).unwrap();
    frames.send(&frame(DATA, 0, 1, &body.as_bytes()[..10])).unwrap();
    let mut goaway = None;
    for number in 1..1000 {
        // One at a time, so that each is begun: of those that are not, few may wait.
        let stream = stream_of(number);
        frames
            .send(&[open_head(stream), frame(DATA, 0, stream, b"{"), frame(PING, 0, 0, &[1; 8])].concat())
            .unwrap();
        loop {
            let received = frames.receive().unwrap();
            match received.kind {
                GOAWAY => goaway = Some(received),
                PING if received.flags & ACK != 0 => break,
                _ => {}
            }
        }
        if goaway.is_some() {
            break;
        }
        frames.send(&rst_stream(stream)).unwrap();
    }
    let goaway = goaway.expect("the connection is asked to go");
    assert_eq!(goaway.payload[4..8], [0; 4], "without an error");
    frames.send(&frame(DATA, END_STREAM, 1, &body.as_bytes()[10..])).unwrap();
    assert_eq!(frames.outcome(1).status(), Some(201));
}

#[test]
fn a_window_that_overflows_is_an_error_of_its_stream_or_connection() {
    const MOST: u32 = (1 << 31) - 1;
    let stored = Siege::start(&[]).endure(|siege| {
        let outcome = |stream: u32, bytes: &[u8]| {
            let mut frames = siege.frames();
            frames.send(&[&open_head(1), bytes].concat()).unwrap();
            frames.outcome(stream)
        };
        assert_eq!(outcome(1, &window_update(0, MOST)), Outcome::GoAway(FLOW_CONTROL_ERROR));
        assert_eq!(outcome(1, &window_update(1, MOST)), Outcome::Reset(FLOW_CONTROL_ERROR));
        assert_eq!(outcome(1, &window_update(0, 0)), Outcome::GoAway(PROTOCOL_ERROR));
        assert!(matches!(outcome(1, &settings(&[(4, MOST + 1)])), Outcome::GoAway(1..)));
        // More data than the server has made room for.
        let mut frames = siege.frames();
        let sent = frames
            .flood(true, |count| if count == 0 { open_head(1) } else { frame(DATA, 0, 1, &[b' '; 16_000]) });
        assert!(sent < 1000, "{sent} frames were taken");
    });
    assert_eq!(stored, 0);
}

#[test]
fn frames_where_none_may_be_end_the_connection() {
    let ping = |length| frame(PING, 0, 0, &[0; 9][..length]);
    let whole = frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields(&GET));
    let then = |bytes: Vec<u8>| [whole.clone(), bytes].concat();
    let cases: Vec<Vec<u8>> = vec![
        frame(DATA, END_STREAM, 1, b"idle"),
        rst_stream(1),
        window_update(1, 1),
        frame(CONTINUATION, END_HEADERS, 1, &fields(&GET)),
        frame(HEADERS, END_HEADERS, 0, &fields(&POST)),
        frame(HEADERS, END_HEADERS, 2, &fields(&POST)),
        frame(DATA, 0, 0, b"x"),
        frame(SETTINGS, 0, 1, &[]),
        frame(SETTINGS, 0, 0, &[0; 5]),
        frame(SETTINGS, ACK, 0, &[0; 6]),
        frame(SETTINGS, ACK, 0, &[]),
        ping(7),
        ping(9),
        frame(PING, 0, 1, &[0; 8]),
        // 5: PUSH_PROMISE, which is the server's alone.
        frame(5, END_HEADERS, 1, &[0, 0, 0, 2]),
        frame(HEADERS, 0, 1, &fields(&POST)).into_iter().chain(ping(8)).collect(),
        frame(DATA, 0, 1, &[0; 16_385]),
        // 8: padding, longer than the frame.
        [open_head(1), frame(DATA, 8, 1, &[200, 1])].concat(),
        // An index that no table has, a table larger than allowed, an integer without end.
        frame(HEADERS, END_HEADERS, 1, &[0xff, 0x7f]),
        frame(HEADERS, END_HEADERS, 1, &[0x3f, 0xff, 0xff, 0x7f]),
        frame(HEADERS, END_HEADERS, 1, &[0xff; 64]),
        then(frame(HEADERS, END_HEADERS, 1, &fields(&POST))),
        then(frame(DATA, END_STREAM, 1, b"x")),
    ];
    let stored = Siege::start(&["--idle-timeout", "1s"]).endure(|siege| {
        for bytes in &cases {
            let mut frames = siege.frames();
            frames.send(bytes).unwrap();
            let mut outcome = frames.outcome(1);
            if outcome.status() == Some(200) {
                // The answer may come before the error.
                outcome = frames.outcome(1);
            }
            let refused = matches!(outcome, Outcome::GoAway(1..) | Outcome::Reset(1..) | Outcome::Closed);
            assert!(refused, "{outcome:?}: {bytes:?}");
            frames.wait_for_end();
        }
    });
    assert_eq!(stored, 0);
}

#[test]
fn another_preface_ends_the_connection() {
    let stored = Siege::start(&["--header-timeout", "500ms"]).endure(|siege| {
        for preface in [
            b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n".to_vec(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r".to_vec(),
            vec![0; 1000],
            whole_request(1),
        ] {
            let mut frames = Frames::raw(&siege.0.client, siege.0.server.address);
            frames.send(&preface).unwrap();
            frames.wait_for_end();
        }
    });
    assert_eq!(stored, 0);
}

#[test]
fn random_frames_end_in_an_error_or_a_deadline() {
    let mut random = random();
    Siege::start(&["--header-timeout", "300ms", "--idle-timeout", "1s", "--body-timeout", "300ms"]).endure(
        |siege| {
            for _ in 0..15 {
                let mut frames = siege.frames();
                frames.flood(true, |_| {
                    let mut payload = vec![0; random.usize(..40)];
                    random.fill(&mut payload);
                    if random.bool() {
                        payload = [fields(&POST), payload].concat();
                    }
                    frame(random.u8(..11), random.u8(..), random.u32(..8), &payload)
                });
            }
        },
    );
}
