//! Connections that are kept: a receiver may close one at the moment at which an event is sent on it.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tempfile::tempdir;

use super::{check_keys, run, write_events};
use crate::util::receiver::{Arrival, Receiver, Reply, peek_request};
use crate::util::{Process, word_after, write_file};

const CREATED: &[u8] = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";

/// What a receiver does with the second request on a connection, after it has answered the first.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Second {
    /// Reads it and closes the connection.
    Close,
    /// Closes the connection with the request unread, which resets it.
    Reset,
    /// Sends the beginning of a response and closes the connection.
    Begin,
}

fn receiver(second: Second) -> (SocketAddr, Arc<Mutex<Vec<Arrival>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let arrivals = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&arrivals);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let kept = Arc::clone(&kept);
            // How a client ends its connection is its own affair.
            thread::spawn(move || serve(stream?, second, &kept));
        }
    });
    (address, arrivals)
}

fn serve(mut stream: TcpStream, second: Second, arrivals: &Mutex<Vec<Arrival>>) -> std::io::Result<()> {
    for number in 0.. {
        let (arrival, length) = peek_request(&stream)?;
        arrivals.lock().unwrap().push(arrival);
        if number == 1 && second == Second::Reset {
            break;
        }
        stream.read_exact(&mut vec![0; length])?;
        if number == 0 {
            stream.write_all(CREATED)?;
        } else {
            let answer: &[u8] = if second == Second::Begin { b"HTTP/1.1 2" } else { b"" };
            return stream.write_all(answer);
        }
    }
    Ok(())
}

#[test]
fn an_event_on_a_connection_that_closes_is_sent_again_at_once_and_is_no_failure() {
    for second in [Second::Close, Second::Reset] {
        let directory = tempdir().unwrap();
        write_events(directory.path(), 20);
        let (address, arrivals) = receiver(second);
        let further = ["--count", "20", "--max-in-flight", "1", "--retries", "0"];
        let run = run(directory.path(), &format!("http://{address}/event"), &further);
        run.check(0, [20, 0, 0]);
        assert_eq!((run.responses.len(), run.count("retries")), (20, 0));
        assert!(run.responses.iter().all(|line| line["status"] == 201 && line["fail_percent"] == 0.0));
        let arrivals = arrivals.lock().unwrap();
        assert!(arrivals.len() >= 25, "hardly any was closed: {}", arrivals.len());
        check_keys(&arrivals);
    }
}

#[test]
fn an_answer_that_breaks_off_is_a_failure() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 20);
    let (address, _) = receiver(Second::Begin);
    let run =
        run(directory.path(), &format!("http://{address}/event"), &["--count", "20", "--max-in-flight", "1"]);
    run.check(0, [20, 0, 0]);
    assert!(run.count("retries") >= 5, "{}", run.summary);
}

/// On how many connections so many events arrive that are further apart than half of a second.
fn connections_used(keep_alive: &'static str) -> usize {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let clients = Arc::new(Mutex::new(HashSet::new()));
    let kept = Arc::clone(&clients);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let kept = Arc::clone(&kept);
            thread::spawn(move || -> std::io::Result<()> {
                let mut stream = stream?;
                loop {
                    let (_, length) = peek_request(&stream)?;
                    stream.read_exact(&mut vec![0; length])?;
                    kept.lock().unwrap().insert(stream.peer_addr()?);
                    write!(stream, "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n{keep_alive}\r\n")?;
                }
            });
        }
    });
    let further = ["--count", "4", "--period", "800ms"];
    run(directory.path(), &format!("http://{address}/event"), &further).check(0, [4, 0, 0]);
    let clients = clients.lock().unwrap();
    clients.len()
}

#[test]
fn a_connection_is_used_no_longer_than_its_server_keeps_it() {
    assert_eq!(connections_used("Keep-Alive: timeout=1, max=100\r\n"), 4);
    assert_eq!(connections_used("Keep-Alive: timeout=60\r\n"), 1);
    assert_eq!(connections_used(""), 1);
}

#[test]
fn an_answer_is_waited_for_longer_than_an_idle_connection_is_kept() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 1);
    let receiver = Receiver::start(|_, number| {
        if number == 1 {
            thread::sleep(Duration::from_secs(3));
        }
        Reply::status(201, "Keep-Alive: timeout=2\r\n")
    });
    let further = ["--count", "2", "--period", "10ms", "--max-in-flight", "1", "--retries", "0"];
    run(directory.path(), &receiver.url("/event"), &further).check(0, [2, 0, 0]);
    assert_eq!(receiver.arrivals().len(), 2);
}

#[test]
#[ignore = "needs uvicorn"]
fn no_event_fails_because_uvicorn_closes_idle_connections_at_the_pace_of_the_sends() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 5);
    let application = "async def app(scope, receive, send):
    if scope['type'] != 'http':
        return
    await receive()
    await send({'type': 'http.response.start', 'status': 201, 'headers': [(b'content-length', b'0')]})
    await send({'type': 'http.response.body', 'body': b''})
";
    write_file(directory.path(), "receiver.py", application);
    let mut command = Command::new("/usr/bin/python3");
    command.args([
        "-m",
        "uvicorn",
        "receiver:app",
        "--port",
        "0",
        "--timeout-keep-alive",
        "1",
        "--no-access-log",
    ]);
    let mut server = Process::start(command.current_dir(directory.path()));
    let line = server.wait_for_stderr("running on http");
    let endpoint = word_after(&line, "running on ").to_owned() + "/event";
    // It closes a connection somewhat more than a second after its last response.
    let runs = [1001, 1002, 1003, 1004, 1005].map(|milliseconds| {
        let (directory, endpoint) = (directory.path().to_owned(), endpoint.clone());
        let period = format!("{milliseconds}ms");
        thread::spawn(move || {
            run(&directory, &endpoint, &["--count", "20", "--period", &period, "--retries", "0"])
        })
    });
    for run in runs {
        run.join().unwrap().check(0, [20, 0, 0]);
    }
    server.terminate();
}
