//! Each event is delivered once, or reported as not delivered, whatever the receiver does.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::tempdir;

use super::{check_keys, finish, run, start, write_events};
use crate::util::http::Connection;
use crate::util::receiver::{Receiver, Reply, peek_request};
use crate::util::{Consume, PATIENCE, stored_events, wait_until};

/// A receiver that treats the first sends of every event as told, and takes the next.
fn receiver_that_first(times: usize, hostile: impl Fn() -> Reply + Send + Sync + 'static) -> Receiver {
    let seen: Mutex<HashMap<String, usize>> = Mutex::default();
    Receiver::start(move |arrival, _| {
        let sends = {
            let mut seen = seen.lock().unwrap();
            let sends = seen.entry(arrival.body.clone()).or_default();
            *sends += 1;
            *sends
        };
        if sends <= times { hostile() } else { Reply::created() }
    })
}

#[test]
fn every_event_is_delivered_once() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 200);
    let consume = Consume::start(directory.path());
    let run = run(directory.path(), &consume.url("/event"), &["--count", "200"]);
    run.check(0, [200, 0, 0]);
    assert_eq!(run.count("sent"), 200);
    assert_eq!(run.stderr, "");
    assert_eq!(run.responses.len(), 200);
    let stored = stored_events(&directory.path().join("events.db"));
    let mut payloads: Vec<usize> = stored.iter().map(|(_, _, payload)| payload.parse().unwrap()).collect();
    payloads.sort_unstable();
    assert_eq!(payloads, (0..200).collect::<Vec<_>>());
}

#[test]
fn the_sample_is_delivered_but_for_its_invalid_event() {
    let directory = tempdir().unwrap();
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/events.json");
    let consume = Consume::start(directory.path());
    let count: usize = serde_json::from_str::<Value>(&fs::read_to_string(sample).unwrap())
        .unwrap()
        .as_array()
        .unwrap()
        .len();
    let run =
        run(directory.path(), &consume.url("/event"), &["--file", sample, "--count", &count.to_string()]);
    let good = u64::try_from(count).unwrap() - 1;
    run.check(3, [good, 1, 0]);
    let rejected: Vec<_> = run.responses.iter().filter(|line| line["outcome"] == "rejected").collect();
    assert_eq!(rejected.len(), 1);
    assert_eq!((&rejected[0]["status"], &rejected[0]["event_type"]), (&400.into(), &"-".into()));
    assert_eq!(stored_events(&directory.path().join("events.db")).len(), count - 1);
}

#[test]
fn transient_statuses_are_retried_with_the_same_key() {
    for status in [408, 425, 429, 500, 502, 503, 504, 507] {
        let directory = tempdir().unwrap();
        write_events(directory.path(), 5);
        let receiver = receiver_that_first(2, move || Reply::status(status, ""));
        let run = run(directory.path(), &receiver.url("/event"), &["--count", "5"]);
        run.check(0, [5, 0, 0]);
        assert_eq!((run.count("sent"), run.count("retries")), (5, 10));
        assert_eq!(run.responses.iter().filter(|line| line["status"] == status).count(), 10);
        assert_eq!(receiver.arrivals().len(), 15);
        check_keys(&receiver.arrivals());
    }
}

#[test]
fn other_statuses_are_rejected_and_redirects_are_not_followed() {
    for status in [301, 302, 303, 307, 308, 400, 401, 403, 404, 409, 413, 415, 422] {
        let directory = tempdir().unwrap();
        write_events(directory.path(), 2);
        let receiver = Receiver::start(move |arrival, _| match arrival.is_post() {
            true => Reply::status(status, "Location: /elsewhere\r\nRetry-After: 0\r\n"),
            false => Reply::created(),
        });
        let run = run(directory.path(), &receiver.url("/event"), &["--count", "2"]);
        run.check(3, [0, 2, 0]);
        assert_eq!(receiver.arrivals().len(), 2, "{status}");
    }
}

#[test]
fn events_whose_retries_run_out_are_undelivered() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 3);
    let receiver = receiver_that_first(1000, || Reply::status(503, ""));
    let run = run(directory.path(), &receiver.url("/event"), &["--count", "3", "--retries", "2"]);
    run.check(3, [0, 0, 3]);
    assert_eq!(receiver.arrivals().len(), 9);
    assert_eq!(run.count("retries"), 6);
    check_keys(&receiver.arrivals());
}

#[test]
fn retry_after_is_obeyed() {
    let in_two_seconds = || {
        let date = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(2);
        date.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
    };
    // A date has no fraction of its second.
    for (as_date, least) in [(false, Duration::from_secs(2)), (true, Duration::from_millis(990))] {
        for status in [429, 503] {
            let directory = tempdir().unwrap();
            write_events(directory.path(), 1);
            let receiver = receiver_that_first(1, move || {
                let value = if as_date { in_two_seconds() } else { "2".to_owned() };
                Reply::status(status, &format!("Retry-After: {value}\r\n"))
            });
            run(directory.path(), &receiver.url("/event"), &["--count", "1"]).check(0, [1, 0, 0]);
            let arrivals = receiver.arrivals();
            let waited = arrivals[1].at - arrivals[0].at;
            assert!(waited >= least, "{status}: sent again after {waited:?}");
            check_keys(&arrivals);
        }
    }
}

#[test]
fn broken_connections_and_responses_are_retried_with_the_same_key() {
    let replies: [fn() -> Reply; 8] = [
        || Reply::Reset,
        || Reply::SendAndClose(String::new()),
        || Reply::SendAndClose("HTTP/1.1 201 Created\r\nContent-Le".to_owned()),
        || Reply::SendAndClose("HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\nhalf".to_owned()),
        || Reply::SendAndClose("220 ready for mail\r\n".to_owned()),
        // Responses that announce another one.
        || Reply::SendAndClose("HTTP/1.1 102 Processing\r\n\r\n".repeat(20_000)),
        // Headers without end, and one header without end.
        || Reply::SendAndClose("HTTP/1.1 201 Created\r\n".to_owned() + &"X: y\r\n".repeat(200_000)),
        || Reply::SendAndClose("HTTP/1.1 201 Created\r\nX: ".to_owned() + &"y".repeat(1 << 20)),
    ];
    for reply in replies {
        let directory = tempdir().unwrap();
        write_events(directory.path(), 10);
        let receiver = receiver_that_first(2, reply);
        let run = run(directory.path(), &receiver.url("/event"), &["--count", "10"]);
        run.check(0, [10, 0, 0]);
        assert!(run.responses.iter().any(|line| line["error"].is_string() && line["status"].is_null()));
        check_keys(&receiver.arrivals());
    }
}

#[test]
fn a_receiver_that_does_not_answer_times_out() {
    let replies: [fn() -> Reply; 3] = [
        || {
            thread::sleep(PATIENCE);
            Reply::Reset
        },
        || Reply::Drip("HTTP/1.1 201 Created\r\nX-Endless: ".to_owned(), Duration::from_millis(20)),
        || {
            Reply::Drip(
                "HTTP/1.1 201 Created\r\nContent-Length: 100000\r\n\r\n".to_owned(),
                Duration::from_millis(20),
            )
        },
    ];
    for reply in replies {
        let directory = tempdir().unwrap();
        write_events(directory.path(), 3);
        let receiver = receiver_that_first(1, reply);
        let run = run(directory.path(), &receiver.url("/event"), &["--count", "3", "--timeout", "300ms"]);
        run.check(0, [3, 0, 0]);
        assert_eq!(run.responses[0]["error"], "no response within 300ms");
        check_keys(&receiver.arrivals());
        let arrivals = receiver.arrivals();
        let again = arrivals.iter().rfind(|arrival| arrival.body == arrivals[0].body).unwrap();
        assert!(again.at - arrivals[0].at >= Duration::from_millis(290));
    }
}

#[test]
fn an_endless_response_does_not_hold_up_the_run() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 3);
    let endless =
        || Reply::Drip("HTTP/1.1 201 Created\r\n\r\n".to_owned() + &"x".repeat(1 << 20), Duration::ZERO);
    let receiver = Receiver::start(move |_, _| endless());
    let started = Instant::now();
    let run = run(directory.path(), &receiver.url("/event"), &["--count", "3", "--timeout", "50s"]);
    run.check(0, [3, 0, 0]);
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
}

#[test]
fn refused_connections_are_retried_until_there_is_a_receiver() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 3);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let endpoint = format!("http://{address}/event");
    run(directory.path(), &endpoint, &["--count", "3", "--retries", "1"]).check(3, [0, 0, 3]);
    let process = start(directory.path(), &endpoint, &["--count", "3", "--retries", "50"]);
    wait_until(|| (!fs::read_to_string(directory.path().join("report")).unwrap().is_empty()).then_some(()));
    let receiver = Receiver::start_on(TcpListener::bind(address).unwrap(), |_, _| Reply::created());
    let run = finish(directory.path(), process);
    run.check(0, [3, 0, 0]);
    assert!(run.count("retries") > 0);
    assert!(run.responses[0]["error"].as_str().unwrap().contains("onnect"), "{}", run.responses[0]);
    assert_eq!(receiver.arrivals().len(), 3);
}

// A network that cuts connections.

/// Where a proxy cuts a connection.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cut {
    Nowhere,
    BeforeRequest,
    BeforeResponse,
    WithinResponse,
}

/// A proxy that cuts connections at random, and takes keys away if told to.
pub fn start_proxy(server: SocketAddr, seed: u64, with_keys: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let random = Arc::new(Mutex::new(fastrand::Rng::with_seed(seed)));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let random = Arc::clone(&random);
            thread::spawn(move || stream.and_then(|stream| forward(stream, server, &random, with_keys)));
        }
    });
    address
}

fn forward(
    mut client: TcpStream,
    server: SocketAddr,
    random: &Mutex<fastrand::Rng>,
    with_keys: bool,
) -> io::Result<()> {
    let mut server = Connection::try_open(server)?;
    loop {
        let (request, length) = peek_request(&client)?;
        let cut = match random.lock().unwrap().u8(..6) {
            0 => Cut::BeforeRequest,
            1 => Cut::BeforeResponse,
            2 => Cut::WithinResponse,
            _ => Cut::Nowhere,
        };
        if cut == Cut::BeforeRequest {
            return Ok(());
        }
        client.read_exact(&mut vec![0; length])?;
        let head = if with_keys { request.head } else { request.head.replace("idempotency-key", "x-key") };
        server.send((head + &request.body).as_bytes())?;
        let response = server.receive()?;
        let mut text = format!("HTTP/1.1 {} Status\r\n", response.status);
        for (name, value) in &response.headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += &format!("\r\n{}", response.text());
        match cut {
            Cut::BeforeResponse => return Ok(()),
            Cut::WithinResponse => {
                let end = random.lock().unwrap().usize(..text.len());
                return client.write_all(&text.as_bytes()[..end]);
            }
            _ => client.write_all(text.as_bytes())?,
        }
    }
}

/// How often each of so many events is stored that were sent through a proxy.
fn stored_through_proxy(with_keys: bool) -> Vec<usize> {
    const EVENTS: usize = 150;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let directory = tempdir().unwrap();
    write_events(directory.path(), EVENTS);
    let consume = Consume::start(directory.path());
    let proxy = start_proxy(consume.address, seed, with_keys);
    let run =
        run(directory.path(), &format!("http://{proxy}/event"), &["--count", "150", "--retries", "100"]);
    run.check(0, [150, 0, 0]);
    assert!(run.count("retries") > 20, "the proxy hardly cut");
    let mut times = vec![0; EVENTS];
    for (_, _, payload) in stored_events(&directory.path().join("events.db")) {
        times[payload.parse::<usize>().unwrap()] += 1;
    }
    times
}

#[test]
fn a_retried_event_is_stored_exactly_once() {
    assert_eq!(stored_through_proxy(true), [1; 150]);
    // Without keys the same run stores events twice: the proxy cuts where it hurts.
    assert!(stored_through_proxy(false).iter().any(|times| *times > 1));
}
