//! All that comes over a connection of HTTP/1.1: each answer is a 2xx or a 4xx, and the server lives on.

#![no_main]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::LazyLock;
use std::time::Duration;
use std::{env, process, thread};

use clap::Parser;
use eventctl::testing::{Cli, Command};
use libfuzzer_sys::fuzz_target;

/// No answer takes so long; a connection that has not ended by then hangs.
const PATIENCE: Duration = Duration::from_secs(10);

static SERVER: LazyLock<SocketAddr> = LazyLock::new(|| {
    let address =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let database = env::temp_dir().join(format!("eventctl-fuzz-{}.db", process::id()));
    let cli = Cli::parse_from([
        "eventctl",
        "consume",
        "--port",
        &address.port().to_string(),
        "--db",
        database.to_str().expect("a path in UTF-8"),
        "--header-timeout=2s",
        "--body-timeout=2s",
    ]);
    let Ok(Command::Consume(settings)) = cli.into_command() else { panic!("another subcommand") };
    thread::spawn(move || eventctl::testing::consume(settings).expect("the server goes on"));
    while TcpStream::connect(address).is_err() {
        thread::sleep(Duration::from_millis(10));
    }
    address
});

fuzz_target!(|bytes: &[u8]| {
    let mut stream = TcpStream::connect(*SERVER).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    // The server may have closed the connection after the first half.
    let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answers = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answers) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "hangs");
    }
    // The answer to HEAD has no body, and looks cut off.
    if !bytes.windows(4).any(|window| window == b"HEAD") {
        assert_answers(&answers);
    }
});

fn assert_answers(mut answers: &[u8]) {
    while let Some(end) = answers.windows(4).position(|window| window == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&answers[..end]).to_ascii_lowercase();
        let status: u16 = head.get(9..12).and_then(|status| status.parse().ok()).expect("a status line");
        assert!((200..300).contains(&status) || (400..500).contains(&status) || status == 100, "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().expect("a number"));
        answers = answers.get(end + 4 + length..).unwrap_or_default();
    }
}
