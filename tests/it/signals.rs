//! What SIGHUP, SIGINT and SIGTERM do, where a terminal closes and where there is no process but ours.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::tempdir;

use crate::propagate::{finish, start, write_events};
use crate::util::receiver::{Receiver, Reply};
use crate::util::{Consume, Process, eventctl, wait_until};

/// The command as process 1 of a PID namespace of its own, as a container has it.
fn as_process_1(command: &Command) -> Command {
    let mut outer = Command::new("unshare");
    outer.args(["--map-root-user", "--pid", "--fork", "--kill-child"]).arg(command.get_program());
    outer.args(command.get_args()).current_dir(command.get_current_dir().unwrap()).env_clear();
    outer.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    outer
}

/// The process that `unshare` started, once it waits for a signal to end it.
fn process_1(outer: &mut Process) -> Pid {
    let pid = outer.pid().as_raw_nonzero();
    let children = format!("/proc/{pid}/task/{pid}/children");
    wait_until(|| {
        assert!(!outer.has_ended(), "it has ended before it was asked to: {}", outer.stderr());
        let child: i32 = fs::read_to_string(&children).ok()?.trim().parse().ok()?;
        let status = fs::read_to_string(format!("/proc/{child}/status")).ok()?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        let caught = u64::from_str_radix(caught.trim(), 16).ok()?;
        let name = status.lines().next()?;
        let all = [Signal::TERM, Signal::INT, Signal::HUP];
        let ready = all.iter().all(|signal| caught & (1 << (signal.as_raw() - 1)) != 0);
        (ready && name.ends_with("eventctl")).then(|| Pid::from_raw(child))?
    })
}

#[test]
#[ignore = "needs unshare"]
fn process_1_ends_on_signals_whatever_it_waits_for() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    for (signal, status) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let directory = tempdir().unwrap();
        let mut prepared = Process::start(eventctl(directory.path()).arg("init-db"));
        assert!(prepared.wait().success());
        let fifo = directory.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let locked = rusqlite::Connection::open(directory.path().join("locked.db")).unwrap();
        locked.execute_batch("PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE").unwrap();
        for arguments in [
            &["tail", "-f"][..],
            &["init-db", "--db", "locked.db"],
            &["alert-test", "--alert", "mailto:ops@example.com"],
            &["propagate", "--dry-run", "--file", "-"],
            &["propagate", "--file", "fifo"],
        ] {
            let mut command = eventctl(directory.path());
            command.args(arguments).env("SMTP_HOST", "127.0.0.1").env("SMTP_PORT", &port);
            command.env("SENDER_ADDR", "eventctl@example.com");
            let mut outer = as_process_1(&command);
            let mut process = Process::start(outer.stdin(Stdio::piped()).stdout(Stdio::null()));
            let child = process_1(&mut process);
            kill_process(child, signal).unwrap();
            assert_eq!(process.wait().code(), Some(status), "{arguments:?}: {}", process.stderr());
        }
    }
}

#[test]
#[ignore = "needs unshare"]
fn process_1_finishes_what_it_began_where_it_promises_to() {
    for signal in [Signal::TERM, Signal::INT] {
        let directory = tempdir().unwrap();
        let mut command = eventctl(directory.path());
        let mut outer = as_process_1(command.args(["consume", "--port", "0"]));
        let mut process = Process::start(&mut outer);
        process.wait_for_stderr("listening on http");
        kill_process(process_1(&mut process), signal).unwrap();
        assert_eq!(process.wait().code(), Some(0), "{}", process.stderr());
        assert!(process.stderr().contains("stopping"), "{}", process.stderr());
    }
}

#[test]
fn other_processes_die_of_a_signal_as_a_shell_expects() {
    let directory = tempdir().unwrap();
    let mut process = Process::start(
        eventctl(directory.path()).args(["propagate", "--file", "-", "--dry-run"]).stdin(Stdio::piped()),
    );
    process.signal(Signal::INT);
    assert_eq!(process.wait().signal(), Some(2));
}

#[test]
fn a_terminal_that_closes_ends_a_run_as_sigterm_does() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 20);
    let receiver = Receiver::start(|_, number| {
        thread::sleep(Duration::from_millis(500));
        if number % 2 == 0 { Reply::created() } else { Reply::status(400, "") }
    });
    let further = ["--count", "1000", "--period", "10ms", "--dead-letter", "dead.ndjson"];
    let process = start(directory.path(), &receiver.url("/event"), &further);
    wait_until(|| (receiver.arrivals().len() >= 20).then_some(()));
    process.signal(Signal::HUP);
    let run = finish(directory.path(), process);
    let (sent, rejected) = (run.count("sent"), run.count("rejected"));
    run.check(3, [sent - rejected, rejected, 0]);
    assert!(sent >= 20 && rejected >= 1, "{}", run.summary);
    let dead = fs::read_to_string(directory.path().join("dead.ndjson")).unwrap();
    assert_eq!(dead.lines().count() as u64, rejected);
}

#[test]
#[ignore = "needs nohup"]
fn a_run_under_nohup_outlives_its_terminal() {
    let directory = tempdir().unwrap();
    write_events(directory.path(), 1);
    let receiver = Receiver::start(|_, _| Reply::created());
    let plain = eventctl(directory.path());
    let mut command = Command::new("nohup");
    command.arg(plain.get_program()).args(["propagate", "--period", "50ms", "-o", "json", "--endpoint"]);
    command.arg(receiver.url("/event")).current_dir(directory.path()).env_clear();
    let mut process = Process::start(command.stdin(Stdio::null()).stdout(Stdio::null()));
    let arrived = || receiver.arrivals().len();
    wait_until(|| (arrived() > 0).then_some(()));
    process.signal(Signal::HUP);
    let before = arrived();
    wait_until(|| (arrived() >= before + 10).then_some(()));
    assert_eq!(process.terminate().code(), Some(0));
}

#[test]
fn a_service_with_nothing_to_read_again_ignores_a_closed_terminal() {
    let directory = tempdir().unwrap();
    let mut consume = Consume::start(directory.path());
    consume.process.signal(Signal::HUP);
    consume.store("message", "after the hangup");
    assert_eq!(consume.process.terminate().code(), Some(0), "{}", consume.process.stderr());
}
