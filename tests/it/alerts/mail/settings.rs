//! Settings of mail: what is refused at start, and that the password is never shown.

use std::path::Path;
use std::process::Command;

use crate::util::mail::PASSWORD;
use crate::util::{Consume, assert_eventctl, eventctl, refusal_of, write_file, write_secret};

/// A variable of the environment.
type Variable = (&'static str, &'static str);

const HOST: Variable = ("SMTP_HOST", "mail.example.com");
const LOGIN: Variable = ("SMTP_PASSWORD", PASSWORD);
const SENDER: Variable = ("SENDER_ADDR", "alerts@example.com");
const RECEIVER: Variable = ("HEALTH_ALERT_RECEIVER", "ops@example.com");

/// Both commands that send mail, with these variables in their environment.
fn commands(directory: &Path, variables: &[(&str, &str)]) -> [Command; 2] {
    [&["consume", "--port", "0"][..], &["alert-test"]].map(|arguments| {
        let mut command = eventctl(directory);
        command.args(arguments).envs(variables.iter().copied());
        command
    })
}

#[test]
fn settings_that_no_mail_can_be_sent_with_are_refused_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let cases: [(&[Variable], &str, &str); 9] = [
        (
            &[HOST, SENDER, RECEIVER],
            "the mail server `mail.example.com` has no password",
            "set SMTP_PASSWORD, or choose --smtp-tls for a server that wants none",
        ),
        (
            &[HOST, SENDER, RECEIVER, ("SMTP_USER", "ops"), ("EVENTCTL_SMTP_TLS", "none")],
            "the mail server `mail.example.com` has no password",
            "set SMTP_PASSWORD, or give --smtp-password-file FILE",
        ),
        (
            &[HOST, SENDER, RECEIVER, ("EVENTCTL_SMTP_TLS", "auto")],
            "the mail server `mail.example.com` has no password",
            "set SMTP_PASSWORD, or choose --smtp-tls for a server that wants none",
        ),
        (
            &[HOST, SENDER, RECEIVER, LOGIN, ("EVENTCTL_SMTP_TLS", "opportunistic")],
            "with `--smtp-tls opportunistic` the password for `mail.example.com` could be sent unencrypted",
            "choose --smtp-tls starttls or implicit, or leave the password out",
        ),
        (
            &[LOGIN, SENDER, RECEIVER],
            "`mailto:ops@example.com` has no mail server",
            "set SMTP_HOST, or give --smtp-host HOST",
        ),
        (
            &[HOST, LOGIN, RECEIVER],
            "mail has no sender",
            "set SENDER_ADDR, or give --sender-addr alerts@example.com",
        ),
        (
            &[HOST, LOGIN, RECEIVER, ("SENDER_ADDR", "alerts")],
            "cannot send mail from `alerts`: it is not an address",
            "set SENDER_ADDR, or give --sender-addr alerts@example.com",
        ),
        (
            &[HOST, LOGIN, RECEIVER, ("SMTP_USER", "apikey")],
            "cannot send mail from `apikey`: it is not an address",
            "set SENDER_ADDR, or give --sender-addr alerts@example.com",
        ),
        (
            &[HOST, LOGIN, RECEIVER, ("SENDER_ADDR", "a@example.com\r\nBcc: b@example.com")],
            r"cannot send mail from `a@example.com\r\nBcc: b@example.com`: it is not an address",
            "set SENDER_ADDR, or give --sender-addr alerts@example.com",
        ),
    ];
    for (variables, error, hint) in cases {
        for mut command in commands(directory.path(), variables) {
            assert_eq!(refusal_of(&mut command, 1), (error.to_owned(), hint.to_owned()), "{command:?}");
        }
    }
    assert!(!directory.path().join("events.db").exists());
}

#[test]
fn an_invalid_address_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for wrong in ["ops", "ops@", "@example.com", "ops@example.com,b", "a b@example.com", "<ops@example.com>"]
    {
        for mut command in commands(directory.path(), &[HOST, LOGIN, SENDER]) {
            let (error, _) = refusal_of(command.env("HEALTH_ALERT_RECEIVER", wrong), 2);
            assert!(error.contains("expected an address such as `ops@example.com`"), "{wrong}: {error}");
            assert!(error.contains("HEALTH_ALERT_RECEIVER"), "{wrong}: {error}");
        }
        for mut command in commands(directory.path(), &[HOST, LOGIN, SENDER]) {
            let (error, _) = refusal_of(command.args(["--alert", &format!("mailto:{wrong}")]), 2);
            assert!(error.contains("expected an address such as `ops@example.com`"), "{wrong}: {error}");
        }
    }
    for injected in
        ["a@example.com\r\nRCPT TO:<b@example.com>", "a@example.com>\nb", "\"a\r\nb\"@example.com"]
    {
        for mut command in commands(directory.path(), &[HOST, LOGIN, SENDER]) {
            refusal_of(command.args(["--alert", &format!("mailto:{injected}")]), 2);
        }
    }
}

#[test]
fn a_server_on_this_machine_needs_no_password() {
    for host in ["127.0.0.1", "localhost", "::1", "[::1]", "127.9.9.9"] {
        let directory = tempfile::tempdir().unwrap();
        let [mut consume, _] = commands(directory.path(), &[("SMTP_HOST", host), SENDER, RECEIVER]);
        Consume::start_command(&mut consume);
    }
    let directory = tempfile::tempdir().unwrap();
    for host in ["localhost.example.com", "127.0.0.1.example.com", "10.0.0.1", "0.0.0.0"] {
        for mut command in commands(directory.path(), &[("SMTP_HOST", host), SENDER, RECEIVER]) {
            let (error, _) = refusal_of(&mut command, 1);
            assert_eq!(error, format!("the mail server `{host}` has no password"));
        }
    }
}

#[test]
fn a_mail_server_that_is_chosen_to_need_no_password_needs_none() {
    for how in ["starttls", "implicit", "opportunistic", "none"] {
        let directory = tempfile::tempdir().unwrap();
        let [mut consume, _] = commands(directory.path(), &[HOST, SENDER, RECEIVER]);
        Consume::start_command(consume.args(["--smtp-tls", how]));
    }
    let directory = tempfile::tempdir().unwrap();
    let [mut consume, _] = commands(directory.path(), &[HOST, SENDER, RECEIVER, LOGIN]);
    let mut consume = Consume::start_command(consume.args(["--smtp-tls", "none"]));
    let line = consume.process.wait_for_stderr("goes unencrypted");
    assert!(line.contains("the password for `mail.example.com` goes unencrypted"), "{line}");
}

#[test]
fn settings_of_mail_that_nobody_receives_are_warned_of_and_stop_nothing() {
    for variables in [&[HOST][..], &[HOST, LOGIN, SENDER], &[HOST, ("SENDER_ADDR", "alerts")]] {
        let directory = tempfile::tempdir().unwrap();
        let [mut consume, mut test] = commands(directory.path(), variables);
        let mut consume = Consume::start_command(&mut consume);
        let line = consume.process.wait_for_stderr("nobody receives mail");
        assert!(line.contains("set HEALTH_ALERT_RECEIVER"), "{line}");
        assert_eq!(crate::alerts::post_alert(&mut consume.connect(), "down").status, 503);
        let output = test.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("there is no channel to test"));
    }
}

#[test]
fn an_invalid_helo_name_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for wrong in ["a b", "[::1]", "mail..example", "a\r\nQUIT"] {
        for mut command in commands(directory.path(), &[HOST, LOGIN, SENDER, RECEIVER]) {
            let (error, _) = refusal_of(command.args(["--smtp-hello", wrong]), 2);
            assert!(error.contains("expected a name such as `mail.example.com`"), "{wrong}: {error}");
        }
    }
}

#[test]
fn an_empty_host_and_receiver_count_as_unset() {
    let directory = tempfile::tempdir().unwrap();
    let empty = [("SMTP_HOST", ""), ("SMTP_USER", ""), ("SENDER_ADDR", ""), ("HEALTH_ALERT_RECEIVER", "")];
    let [mut consume, _] = commands(directory.path(), &empty);
    let consume = Consume::start_command(&mut consume);
    assert_eq!(crate::alerts::post_alert(&mut consume.connect(), "down").status, 503);
}

#[test]
fn the_password_is_taken_from_file_or_environment_and_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    write_secret(path, "secret", PASSWORD);
    write_file(path, "open", PASSWORD);
    let refused = |arguments: &[&str], variables: &[(&str, &str)], code, expected: &str| {
        for mut command in commands(path, variables) {
            let (error, hint) = refusal_of(command.args(arguments), code);
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains(PASSWORD) && !hint.contains(PASSWORD), "{error}\n{hint}");
        }
    };
    let all = [HOST, LOGIN, SENDER, RECEIVER];
    let but_login = [HOST, SENDER, RECEIVER];
    let argument = format!("--smtp-password={PASSWORD}");
    refused(&["--smtp-password", PASSWORD], &but_login, 2, "would show it to every user of this machine");
    refused(&[&argument], &but_login, 2, "would show it to every user of this machine");
    refused(&["--smtp-password-file", "secret"], &all, 1, "`SMTP_PASSWORD` are given");
    refused(&["--smtp-password-file", "open"], &but_login, 1, "group or others have access");
    refused(&["--alert-templates", "missing"], &all, 1, "missing");
    refused(&["--smtp-tls", "never"], &all, 2, "`never`");

    for subcommand in ["consume", "alert-test"] {
        let mut help = assert_eventctl(path);
        let help = help.args([subcommand, "--help"]).envs(all).assert().code(0);
        let help = String::from_utf8(help.get_output().stdout.clone()).unwrap();
        assert!(help.contains("--smtp-password-file") && !help.contains(PASSWORD), "{help}");
        assert!(!help.contains("--smtp-password "), "{help}");
    }
    let mut command = eventctl(path);
    command.args(["consume", "--port", "0", "--smtp-password-file", "secret"]).envs(but_login);
    let mut consume = Consume::start_command(&mut command);
    assert!(consume.process.terminate().success());
    assert!(!consume.process.stderr().contains(PASSWORD));
}
