//! What a person sees on a terminal.

use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::tempdir;
use unicode_width::UnicodeWidthStr;

use super::{arguments, write_events};
use crate::util::receiver::{Receiver, Reply};
use crate::util::{Process, assert_eventctl, eventctl, refusal_of, write_file};

/// What a run prints on a terminal of so many columns; its standard error goes where `to` says.
fn on_terminal(
    directory: &Path,
    columns: usize,
    to: &str,
    arguments: &[&str],
    variable: (&str, &str),
) -> String {
    let program = eventctl(directory);
    let quoted: Vec<String> = arguments.iter().map(|argument| format!("'{argument}'")).collect();
    let program = program.get_program().to_str().unwrap();
    let line = format!("stty cols {columns} rows 24; '{program}' {} {to}", quoted.join(" "));
    let mut command = Command::new("script");
    command.args(["-q", "-e", "-c", &line, "/dev/null"]).current_dir(directory);
    command.env_remove("NO_COLOR").env("TERM", "xterm").env(variable.0, variable.1);
    let mut process = Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    process.wait();
    process.stdout()
}

/// The text without the escapes that colour it.
fn plain(text: &str) -> String {
    ["\u{1b}[31m", "\u{1b}[33m", "\u{1b}[0m", "\r"]
        .iter()
        .fold(text.to_owned(), |text, escape| text.replace(escape, ""))
}

fn refusing_receiver() -> Receiver {
    Receiver::start(|_, number| match number {
        0 => Reply::created(),
        1 => Reply::status(503, ""),
        _ => {
            let body =
                format!("{{\"detail\":\"{}\"}}", "it does not fit, and that takes long to tell; ".repeat(5));
            Reply::Send(format!("HTTP/1.1 400 Bad\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
        }
    })
}

#[test]
#[ignore = "needs script and stty"]
fn lines_fit_the_terminal_and_what_is_refused_looks_different() {
    for columns in [80, 110, 200] {
        let directory = tempdir().unwrap();
        write_events(directory.path(), 1);
        let receiver = refusing_receiver();
        let endpoint = receiver.url("/event");
        let arguments = arguments(&endpoint, &["--count", "2", "--max-in-flight", "1", "-o", "text"]);
        let text = on_terminal(directory.path(), columns, "2>/dev/null", &arguments, ("A", "a"));
        let (responses, _) = text.split_once("sent=2").unwrap();
        for line in plain(responses).lines() {
            assert!(line.width() <= columns, "{}: {line}", line.width());
        }
        let shown = plain(responses);
        assert!(shown.contains(" ms | status=201 | fail=  0.0% | win=1/1 | total=1"), "{shown}");
        let accepted = responses.find('\u{1b}').unwrap();
        assert!(responses[..accepted].contains("status=201"), "{responses}");
        assert!(responses[accepted..].starts_with("\u{1b}[33m") && shown.contains("retrying"), "{responses}");
        let (_, refused) = responses.split_once("\u{1b}[31m").unwrap();
        assert!(
            refused.contains("status=400") && refused.contains("rejected: it does not fit"),
            "{responses}"
        );
    }
}

#[test]
#[ignore = "needs script and stty"]
fn colour_can_be_forbidden() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 1);
    let receiver = refusing_receiver();
    let endpoint = receiver.url("/event");
    let arguments = arguments(&endpoint, &["--count", "2", "-o", "text"]);
    let text = on_terminal(directory.path(), 80, "2>/dev/null", &arguments, ("NO_COLOR", "1"));
    assert!(text.contains("rejected") && !text.contains('\u{1b}'), "{text}");
}

#[test]
#[ignore = "needs script and stty"]
fn quiet_draws_no_bar() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 1);
    let receiver = Receiver::start(|_, _| Reply::created());
    let endpoint = receiver.url("/event");
    let drawn = |quiet: &[&str]| {
        let arguments =
            [&arguments(&endpoint, &["--count", "20", "-o", "text", "--period", "20ms"]), quiet].concat();
        on_terminal(directory.path(), 80, "", &arguments, ("A", "a"))
    };
    let loud = drawn(&[]);
    assert!(loud.contains("/20 events"), "there is one to be drawn: {loud:?}");
    let quiet = drawn(&["-q"]);
    assert!(quiet.starts_with("sent=20 ") && !quiet.contains('\u{1b}'), "{quiet:?}");
}

#[test]
fn columns_stay_where_they_are_whatever_the_script_of_a_type() {
    let directory = tempdir().unwrap();
    let types = ["message", "消息", "メッセージ", "메시지", "сообщение", "e\u{301}t"];
    let events = types.map(|event_type| format!("{{\"event_type\":\"{event_type}\"}}"));
    write_file(directory.path(), "events.json", format!("[{}]", events.join(",")));
    let receiver = Receiver::start(|_, _| Reply::created());
    let mut command = assert_eventctl(directory.path());
    command.args(arguments(&receiver.url("/event"), &["--count", "6", "-o", "text"]));
    let assert = command.assert().success();
    let text = String::from_utf8_lossy(&assert.get_output().stdout).into_owned();
    let columns: Vec<usize> =
        text.lines().take(6).map(|line| line.split_once(" ms | jitter=").unwrap().0.width()).collect();
    assert!(columns.iter().all(|column| *column == columns[0]), "{text}");
    assert!(types.iter().all(|event_type| text.contains(event_type)), "{text}");
}

#[test]
fn a_url_without_a_scheme_is_answered_with_the_url_that_was_meant() {
    let directory = tempdir().unwrap();
    for flag in ["--endpoint", "--health"] {
        let mut command = eventctl(directory.path());
        let (problem, hint) = refusal_of(command.args(["propagate", flag, "localhost:8000/event"]), 2);
        assert_eq!(problem, format!("invalid value `localhost:8000/event` for `{flag}`: it has no scheme"));
        assert_eq!(hint, "write http://localhost:8000/event");
    }
}
