//! What is logged, in which form, and what never is.

mod silence;
mod traces;

use std::io::{BufRead, BufReader, Read, Write};

use std::iter;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::util::http::{Connection, open_stream};
use crate::util::receiver::{Receiver, Reply};
use crate::util::{
    Consume, PATIENCE, Process, assert_eventctl, eventctl, refusal_of, word_after, write_file,
};

/// What one line says in JSON.
fn object(line: &str) -> Value {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert!(value.is_object(), "{line}");
    value
}

/// All lines of a process, which must be JSON.
fn log_of(process: &Process) -> Vec<Value> {
    process.stderr().lines().map(object).collect()
}

fn messages_of(log: &[Value]) -> Vec<&str> {
    log.iter().map(|line| line["message"].as_str().unwrap()).collect()
}

/// Starts `consume` with arguments and variables.
fn consume(arguments: &[&str], variables: &[(&str, &str)]) -> (TempDir, Consume) {
    let directory = tempdir().unwrap();
    let mut command = eventctl(directory.path());
    command.args(["consume", "--port", "0"]).args(arguments).envs(variables.iter().copied());
    let server = Consume::start_command(&mut command);
    (directory, server)
}

/// Whether a time is RFC 3339 with microseconds, in UTC.
fn assert_is_timestamp(text: &str) {
    let pattern: String =
        text.chars().map(|character| if character.is_ascii_digit() { '0' } else { character }).collect();
    assert_eq!(pattern, "0000-00-00T00:00:00.000000Z");
}

// The form.

#[test]
fn a_pipe_gets_json_lines_with_the_whole_message_and_fields_beside_it() {
    let (_directory, mut server) = consume(&[], &[]);
    assert!(server.process.terminate().success());
    let log = log_of(&server.process);
    let listening = log[0].as_object().unwrap();
    let message = format!("listening on http://{} (in a browser: the live page)", server.address);
    assert_eq!((&listening["message"], &listening["store"]), (&message.into(), &"events.db".into()));
    assert_eq!((&listening["level"], &listening["target"]), (&"INFO".into(), &"eventctl::consume".into()));
    assert_is_timestamp(listening["timestamp"].as_str().unwrap());
    assert_eq!(listening.len(), 5, "{listening:?}");
    assert!(messages_of(&log).last().unwrap().starts_with("stopping"), "{log:?}");
}

#[test]
fn text_is_written_where_it_is_asked_for_and_json_where_auto_is() {
    for (arguments, variables) in [
        (&["--log-format", "text"][..], &[][..]),
        (&[], &[("EVENTCTL_LOG_FORMAT", "text")]),
        (&["--log-format", "text"], &[("EVENTCTL_LOG_FORMAT", "json")]),
    ] {
        let (_directory, server) = consume(arguments, variables);
        let stderr = server.process.stderr();
        let (time, rest) = stderr.trim_end().split_once(' ').unwrap();
        assert_is_timestamp(time);
        let address = server.address;
        let expected =
            format!(" INFO listening on http://{address} (in a browser: the live page) store=events.db");
        assert_eq!(rest, expected);
    }
    for arguments in [["--log-format", "auto"], ["--log-format", "json"]] {
        assert_eq!(log_of(&consume(&arguments, &[]).1.process).len(), 1);
    }
    let directory = tempdir().unwrap();
    let (error, _) = refusal_of(eventctl(directory.path()).args(["consume", "--log-format", "xml"]), 2);
    assert_eq!(error, "invalid value `xml` for `--log-format`: expected one of auto, text, json");
}

/// What a run that warns at its start shows on a terminal.
fn on_a_terminal(arguments: &str, variable: (&str, &str)) -> String {
    let directory = tempdir().unwrap();
    write_file(directory.path(), "events.json", r#"[{"event_type": "a", "event_payload": "b"}]"#);
    let receiver = Receiver::start(|_, _| Reply::created());
    let command = format!(
        "stty cols 80; exec '{}' propagate --insecure-skip-verify --period 20ms --endpoint {} {arguments}",
        env!("CARGO_BIN_EXE_eventctl"),
        receiver.url("/event"),
    );
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &command, "/dev/null"]);
    let path = std::env::var_os("PATH").unwrap_or_default();
    script.current_dir(directory.path()).env_clear().env("PATH", path).env(variable.0, variable.1);
    let output = script.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_terminal_gets_text_in_colours_unless_it_is_told_otherwise() {
    const WARNING: &str = "--insecure-skip-verify: anyone";
    let colored = on_a_terminal("--count 1 -q", ("TERM", "xterm"));
    assert!(colored.contains(&format!("\u{1b}[33m WARN\u{1b}[0m {WARNING}")), "{colored}");
    for arguments in ["--count 1 -q", "--count 1 -q --log-format text"] {
        let plain = on_a_terminal(arguments, ("NO_COLOR", "1"));
        let (time, _) = plain.split_once(&format!("  WARN {WARNING}")).unwrap_or_else(|| panic!("{plain}"));
        assert_is_timestamp(time.lines().last().unwrap());
    }
    let json = on_a_terminal("--count 1 -q --log-format json", ("TERM", "xterm"));
    let line = json.lines().find(|line| line.contains(WARNING)).unwrap();
    assert_eq!(object(line)["level"], "WARN");
}

#[test]
fn a_bar_on_the_terminal_makes_room_for_lines() {
    let shown = on_a_terminal("--count 20 -v", ("TERM", "xterm"));
    assert!(shown.contains('░') && shown.contains('█'), "there is no bar: {shown}");
    // Where a time stands, a line begins, or one that was cleared.
    let times = shown.match_indices("\u{1b}[2m20").map(|(at, _)| &shown[..at]);
    let places: Vec<&str> = times.collect();
    assert_eq!(places.len(), 1 + 20, "{shown}");
    assert!(
        places.iter().all(|before| before.ends_with(['\n', '\r', 'K']) || before.is_empty()),
        "{shown:?}"
    );
}

#[test]
fn errors_at_the_end_and_short_answers_are_no_log_lines() {
    let directory = tempdir().unwrap();
    let mut command = assert_eventctl(directory.path());
    command.args(["init-db", "--db", "a.db"]).assert().code(0).stderr("prepared a.db\n");
    let (error, hint) = refusal_of(eventctl(directory.path()).args(["tail", "--db", "none.db", "-vv"]), 1);
    assert!(error.contains("none.db") && !hint.is_empty(), "{error} {hint}");
}

// How much.

/// The levels that a server logs when it starts, answers a request and stops.
fn levels(arguments: &[&str], variables: &[(&str, &str)]) -> Vec<String> {
    let directory = tempdir().unwrap();
    // A port that is not told in the log has to be known from elsewhere.
    let socket = std::os::unix::net::UnixDatagram::bind(directory.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = eventctl(directory.path());
    command.args(["consume", "--port", "0"]).args(arguments).envs(variables.iter().copied());
    command.env("EVENTCTL_ALLOWED_HOST", "test").env("NOTIFY_SOCKET", directory.path().join("notify"));
    let mut process = Process::start(&mut command);
    let mut text = [0; 256];
    let length = socket.recv(&mut text).unwrap();
    let address: SocketAddr =
        word_after(str::from_utf8(&text[..length]).unwrap(), "listening on http://").parse().unwrap();
    assert_eq!(Connection::open(address).get("/health").status, 200);
    // Without a channel for alerts.
    let mut connection = Connection::open(address);
    let json = [("Content-Type", "application/json")];
    let alert = connection.request("POST", "/api/v1/health-alert", &json, br#"{"issues":["a"]}"#);
    assert_eq!(alert.status, 503, "{alert:?}");
    assert!(process.terminate().success());
    let mut levels: Vec<String> =
        log_of(&process).iter().map(|line| line["level"].as_str().unwrap().to_owned()).collect();
    levels.sort();
    levels.dedup();
    levels
}

#[test]
fn levels_come_from_flags_then_rust_log_then_the_default() {
    const DEBUG: [&str; 3] = ["DEBUG", "INFO", "WARN"];
    const INFO: [&str; 2] = ["INFO", "WARN"];
    for (arguments, rust_log, expected) in [
        (&[][..], None, &INFO[..]),
        (&["-v"], None, &DEBUG),
        (&["--verbose"], None, &DEBUG),
        (&["-vv"], None, &DEBUG),
        (&["-q"], None, &["WARN"]),
        (&["--quiet", "-v"], None, &INFO),
        (&[], Some("debug"), &DEBUG),
        (&[], Some("warn"), &["WARN"]),
        (&[], Some("off"), &[]),
        (&[], Some(""), &INFO),
        (&[], Some("eventctl::consume::requests=debug"), &DEBUG),
        (&[], Some("error,eventctl::consume::requests=warn"), &["WARN"]),
        (&[], Some("sqlx=trace"), &INFO),
        (&["-q"], Some("trace"), &["WARN"]),
        (&["-v"], Some("off"), &DEBUG),
        (&["--log-level", "warn"], Some("debug"), &["WARN"]),
        (&["--log-level", "warn", "-v"], None, &DEBUG),
    ] {
        let variables: Vec<(&str, &str)> = rust_log.map(|value| ("RUST_LOG", value)).into_iter().collect();
        assert_eq!(levels(arguments, &variables), expected, "{arguments:?} {rust_log:?}");
    }
}

#[test]
fn an_invalid_rust_log_is_refused_with_what_is_expected() {
    let directory = tempdir().unwrap();
    for subcommand in ["consume", "propagate", "tail", "alert-test"] {
        for wrong in ["verbose", "info;debug", "eventctl=loud", "eventctl::store=", "7"] {
            let mut command = eventctl(directory.path());
            let (error, hint) = refusal_of(command.arg(subcommand).env("RUST_LOG", wrong), 2);
            let source =
                "for `--log-level` (from the environment variable `RUST_LOG`): expected a level, off,";
            assert!(error.starts_with(&format!("invalid value `{wrong}` {source}")), "{error}");
            assert_eq!(hint, format!("run eventctl {subcommand} --help"));
        }
    }
    // Who only answers does not read it.
    let mut command = assert_eventctl(directory.path());
    command.args(["init-db"]).env("RUST_LOG", "verbose").assert().code(0).stderr("prepared events.db\n");
}

#[test]
fn quiet_is_a_summary_alone_for_propagate_and_lets_warnings_through() {
    let directory = tempdir().unwrap();
    write_file(directory.path(), "events.json", "{\"event_type\": \"a\"}\n");
    let receiver = Receiver::start(|_, _| Reply::created());
    let endpoint = receiver.url("/event");
    let run = |flags: &[&str]| {
        let mut command = assert_eventctl(directory.path());
        command.args(["propagate", "--count", "3", "--period", "1ms", "--insecure-skip-verify"]);
        let output = command.args(["-o", "json", "--endpoint", &endpoint]).args(flags).output().unwrap();
        let lines =
            |bytes: &[u8]| -> Vec<Value> { str::from_utf8(bytes).unwrap().lines().map(object).collect() };
        (lines(&output.stdout).len(), lines(&output.stderr))
    };
    let (printed, log) = run(&["-q"]);
    assert_eq!((printed, log.len()), (1, 1), "{log:?}");
    assert_eq!(log[0]["level"], "WARN");
    let (printed, log) = run(&["-v"]);
    assert_eq!((printed, log.len()), (4, 4), "{log:?}");
    assert!(log[1..].iter().all(|line| line["message"] == "sent" && line["status"] == 201), "{log:?}");
}

// Who cannot read.

/// Sends requests at once on one connection, and reads the statuses of all answers.
fn flood(address: SocketAddr, requests: usize) {
    let mut stream = open_stream(address).unwrap();
    let request = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100);
    let mut answers = BufReader::new(stream.try_clone().unwrap()).lines();
    for _ in 0..requests / 100 {
        stream.write_all(request.as_bytes()).unwrap();
        // A line ends with the head of the next answer, as bodies end without.
        let lines = answers.by_ref().map(Result::unwrap).filter(|line| line.contains("HTTP/1.1 "));
        assert!(lines.take(100).all(|line| line.ends_with("HTTP/1.1 200 OK")));
    }
}

/// A server that logs every request, and its standard error, read up to the line that tells where it listens.
fn verbose_server(directory: &Path) -> (Process, SocketAddr, BufReader<std::io::PipeReader>) {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = eventctl(directory);
    command.args(["consume", "--port", "0", "-v"]);
    let process = Process::start_unheard(command.stderr(writer));
    let mut log = BufReader::new(reader);
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    let address = word_after(&line, "listening on http://").parse().unwrap();
    (process, address, log)
}

#[test]
fn a_slow_reader_blocks_nothing_and_learns_how_many_lines_were_lost() {
    let directory = tempdir().unwrap();
    let (mut process, address, log) = verbose_server(directory.path());
    // Several times what the pipe and the program keep.
    flood(address, 12_000);
    // A reader that goes on, and does not wait for ever.
    let (tx, rx) = mpsc::channel();
    thread::spawn(move || log.lines().map_while(Result::ok).try_for_each(|line| tx.send(line)));
    let mut lines = iter::from_fn(|| rx.recv_timeout(PATIENCE).ok()).map(|line| object(&line));
    let mut read = 0;
    let lost = lines
        .by_ref()
        .inspect(|line| read += usize::from(line["message"] == "answered 200"))
        .find_map(|line| {
            let message = line["message"].as_str()?.to_owned();
            message.strip_suffix(" log lines were lost: they were not read in time").map(str::to_owned)
        })
        .unwrap();
    let lost: usize = lost.parse().unwrap();
    assert_eq!(read + lost, 12_000);
    flood(address, 100);
    process.signal(Signal::TERM);
    assert_eq!(lines.filter(|line| line["message"] == "answered 200").count(), 100);
    assert!(process.wait().success());
}

#[test]
fn a_stopped_reader_does_not_block_the_shutdown() {
    let directory = tempdir().unwrap();
    let (mut process, address, _log) = verbose_server(directory.path());
    flood(address, 10_000);
    assert!(process.terminate().success());
}

#[test]
fn a_reader_that_is_gone_is_no_error() {
    let directory = tempdir().unwrap();
    let (mut process, address, log) = verbose_server(directory.path());
    drop(log);
    flood(address, 1000);
    assert!(process.terminate().success());
    // Nor is a standard error that was never open.
    write_file(directory.path(), "events.json", "{\"event_type\": \"a\"}\n");
    let receiver = Receiver::start(|_, _| Reply::created());
    let mut command = assert_cmd::Command::new("sh");
    let program = env!("CARGO_BIN_EXE_eventctl");
    command.args(["-c", r#"exec "$0" propagate -vv --count 3 --period 1ms --endpoint "$1" 2>&-"#, program]);
    command.arg(receiver.url("/event")).current_dir(directory.path()).timeout(PATIENCE).assert().code(0);
    assert_eq!(receiver.arrivals().len(), 3);
}

#[test]
fn an_error_that_nobody_reads_still_has_its_exit_code() {
    let directory = tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = eventctl(directory.path()).args(["tail", "--db", "none.db"]).stderr(writer).status();
    assert_eq!(status.unwrap().code(), Some(1));
}

#[test]
fn the_last_lines_are_written_before_the_program_ends() {
    for _ in 0..5 {
        let (_directory, mut server) = consume(&["-v"], &[]);
        flood(server.address, 1000);
        assert!(server.process.terminate().success());
        let log = log_of(&server.process);
        let messages = messages_of(&log);
        assert_eq!(messages.iter().filter(|message| **message == "answered 200").count(), 1000);
        assert!(messages.last().unwrap().starts_with("stopping"), "{messages:?}");
    }
}

// Text from outside.

#[test]
fn text_from_outside_stays_in_its_line() {
    const HOSTILE: &str = "a\n2026 ERROR\r\u{1b}[2Jb\u{202e}\u{9b}.db";
    let directory = tempdir().unwrap();
    for (format, shown) in [
        ("text", r"waiting for `a\n2026 ERROR\r\u{1b}[2Jb\u{202e}\u{9b}.db`"),
        ("json", r"waiting for `a\n2026 ERROR\r\u001b[2Jb\u202e\u009b.db`"),
    ] {
        let mut server = Consume::start_with(directory.path(), &["--db", HOSTILE]);
        server.store("a", "b");
        assert!(server.process.terminate().success());
        let mut command = eventctl(directory.path());
        command.args(["tail", "--follow", "--log-format", format, "--db", HOSTILE]).stdout(Stdio::piped());
        let mut follower = Process::start(&mut command);
        // It has the store open.
        let mut stdout = follower.child().stdout.take().unwrap();
        stdout.read_exact(&mut [0; 10]).unwrap();
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        let line = follower.wait_for_stderr("waiting for");
        assert!(line.contains(shown), "{line:?}");
        assert_eq!(follower.stderr().lines().count(), 1, "{}", follower.stderr());
    }
}
