//! Names and lists in the environment, and values that look like none.

use std::net::TcpListener;

use tempfile::tempdir;

use crate::util::{Consume, eventctl, refusal_of, write_file};

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn an_unknown_variable_of_ours_is_warned_of_with_the_nearest_setting() {
    let directory = tempdir().unwrap();
    let mut command = eventctl(directory.path());
    command.args(["tail", "--config", "c.yaml"]).envs([
        ("EVENTCTL_BODY_LIMITS", "1MiB"),
        ("EVENTCTL_PORT", "80"),
        ("EVENTCTL_EMPTY", ""),
        ("EVENTCTL_REFERRED", "1"),
        ("EVENTCTL_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("EVENTCTL_METRICS_SERVICE_HOST", "10.0.0.1"),
        ("OTHER_BODY_LIMITS", "1MiB"),
    ]);
    write_file(directory.path(), "c.yaml", "tail:\n  lines: ${EVENTCTL_REFERRED}\n");
    let output = command.output().unwrap();
    let stderr = text(&output.stderr);
    for (unknown, meant) in [("EVENTCTL_BODY_LIMITS", "EVENTCTL_BODY_LIMIT"), ("EVENTCTL_PORT", "APP_PORT")] {
        let warning = format!("unknown environment variable `{unknown}`: did you mean `{meant}`?");
        assert!(stderr.contains(&warning), "{stderr}");
    }
    assert_eq!(stderr.matches("unknown environment variable").count(), 2, "{stderr}");
}

#[test]
fn lists_are_separated_by_commas_or_spaces() {
    let directory = tempdir().unwrap();
    for separator in [",", " ", ", "] {
        let list = |items: [&str; 2]| items.join(separator);
        let mut command = eventctl(directory.path());
        command.arg("consume").envs([
            ("EVENTCTL_LISTEN", list(["127.0.0.1:0", "unix:consume.sock"])),
            ("EVENTCTL_TRUSTED_PROXY", list(["10.0.0.0/8", "unix"])),
            ("EVENTCTL_ALLOWED_HOST", list(["one.example", "two.example"])),
            ("EVENTCTL_ALLOW_ORIGIN", list(["https://one.example", "https://two.example"])),
            ("EVENTCTL_ALERT", list(["https://1.example/a", "https://2.example/b"])),
        ]);
        let mut server = Consume::start_command(&mut command);
        assert!(directory.path().join("consume.sock").exists(), "{separator:?}");
        assert!(server.process.terminate().success(), "{separator:?}");
        let mut command = eventctl(directory.path());
        command.args(["alert-test", "--smtp-tls", "none", "--smtp-host", "127.0.0.1", "--smtp-port", "1"]);
        command.env("HEALTH_ALERT_RECEIVER", list(["a@example.com", "b@example.com"]));
        let output = command.env("SENDER_ADDR", "c@example.com").output().unwrap();
        assert_eq!(text(&output.stdout).matches("mailto:").count(), 2, "{separator:?}: {output:?}");
    }
}

#[test]
fn an_empty_db_on_the_command_line_is_unset() {
    let directory = tempdir().unwrap();
    for empty in [&["--db", ""][..], &["--db="]] {
        let output = eventctl(directory.path()).arg("init-db").args(empty).output().unwrap();
        assert_eq!(text(&output.stderr), "prepared events.db\n");
    }
}

#[test]
fn a_folder_is_no_store_and_the_error_says_so() {
    let directory = tempdir().unwrap();
    for arguments in [&["tail"][..], &["init-db"], &["consume", "--port", "0"]] {
        let (error, hint) = refusal_of(eventctl(directory.path()).args(arguments).args(["--db", "."]), 1);
        assert!(error.contains("cannot open `.`: it is a folder"), "{error}");
        assert_eq!(hint, "name a file in it, such as events.db");
    }
}

#[test]
fn an_address_that_is_taken_is_an_error_about_the_flag_that_gave_it() {
    let directory = tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (error, hint) = refusal_of(eventctl(directory.path()).args(["consume", "--listen", &address]), 1);
    assert!(error.starts_with(&format!("cannot listen on {address}: ")), "{error}");
    assert_eq!(hint, "stop what listens there, or choose another --listen address");
}

#[test]
fn alert_test_says_that_nothing_was_given_up() {
    let directory = tempdir().unwrap();
    assert!(eventctl(directory.path()).arg("init-db").status().unwrap().success());
    let output = eventctl(directory.path()).args(["alert-test", "--resend", "all"]).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty());
    assert_eq!(text(&output.stderr), "no alert was given up: there is nothing to send again\n");
}
