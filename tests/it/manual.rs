//! `completions` and `man`: they say what `--help` says.

use std::process::Command;

use tempfile::tempdir;

use crate::util::{assert_eventctl, eventctl, refusal_of};

fn printed(arguments: &[&str]) -> String {
    let directory = tempdir().unwrap();
    let assert = assert_eventctl(directory.path()).args(arguments).assert().code(0).stderr("");
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

/// The flags of a subcommand, without their dashes.
fn flags_of(subcommand: &str) -> Vec<String> {
    let help = printed(&[subcommand, "--help"]);
    let flags = help.lines().filter_map(|line| {
        let (before, rest) = line.split_once("--")?;
        let starts = before.trim().is_empty() || before.trim_start().starts_with('-');
        let flag: String =
            rest.chars().take_while(|character| character.is_alphanumeric() || *character == '-').collect();
        starts.then_some(flag)
    });
    flags.collect()
}

#[test]
fn completions_offer_every_flag_and_no_secret() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = printed(&["completions", shell]);
        for subcommand in ["consume", "propagate", "init-db", "tail", "alert-test"] {
            assert!(script.contains(subcommand), "{shell} does not know {subcommand}");
            for flag in flags_of(subcommand) {
                assert!(script.contains(&flag), "{shell} does not offer --{flag}");
            }
        }
        for secret in ["smtp-password", "password", "token", "alert-secret", "signing-key"] {
            let ends = |rest: &str| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '-');
            let offered = script.split(&format!("--{secret}")).skip(1).any(ends);
            assert!(!offered, "{shell} offers --{secret}, which is refused");
        }
    }
}

#[test]
#[ignore = "needs bash"]
fn the_completions_work_in_bash() {
    let completed = "source <(cat); COMP_WORDS=(eventctl tail --al); COMP_CWORD=2; \
        _eventctl eventctl --al tail; echo \"${COMPREPLY[@]}\"";
    let directory = tempdir().unwrap();
    let mut script = eventctl(directory.path());
    let mut script =
        script.args(["completions", "bash"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut bash = Command::new("bash");
    let output = bash.args(["-c", completed]).stdin(script.stdout.take().unwrap()).output().unwrap();
    script.wait().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "--alerts\n", "{output:?}");
}

#[test]
fn manual_pages_have_every_flag_with_its_variable() {
    for subcommand in ["consume", "propagate", "init-db", "tail", "alert-test"] {
        let page = printed(&["man", subcommand]).replace("\\-", "-");
        assert!(page.contains(&format!("eventctl-{subcommand}")), "{page}");
        for flag in flags_of(subcommand) {
            assert!(page.contains(&format!("--{flag}")), "--{flag} of {subcommand}");
        }
        assert!(page.contains("EVENTCTL_CONFIG"), "{subcommand} names no variables");
    }
    let page = printed(&["man"]);
    assert!(page.starts_with(".ie") || page.contains(".TH eventctl 1"), "{page}");
}

#[test]
fn a_page_that_does_not_exist_is_an_error_with_those_that_do() {
    let directory = tempdir().unwrap();
    let (error, hint) = refusal_of(eventctl(directory.path()).args(["man", "events"]), 2);
    let expected = "expected one of consume, propagate, init-db, tail, alert-test, completions, man";
    assert_eq!(error, format!("invalid value `events` for `[SUBCOMMAND]`: {expected}"));
    assert_eq!(hint, "run eventctl man --help");
}
