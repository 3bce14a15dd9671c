//! `completions` and `man`: they say what `--help` says.

use std::process::Command;

use clap::Arg;
use eventctl::testing::command;
use tempfile::tempdir;

use crate::util::{assert_eventctl, eventctl, refusal_of, write_file};

fn printed(arguments: &[&str]) -> String {
    let directory = tempdir().unwrap();
    let assert = assert_eventctl(directory.path()).args(arguments).assert().code(0).stderr("");
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

/// The flags of a subcommand, without their dashes.
fn flags_of(subcommand: &str) -> Vec<String> {
    let help = printed(&[subcommand, "--help"]);
    let options = help.split("\nExamples:\n").next().unwrap();
    let flags = options.lines().filter_map(|line| {
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

/// A text without fonts, escapes and breaks of lines.
fn plain(page: &str) -> String {
    let page = page.replace("\\fB", "").replace("\\fI", "").replace("\\fR", "").replace("\\-", "-");
    page.replace("\\&", "").replace("\\*(Aq", "'").split_whitespace().collect::<Vec<&str>>().join(" ")
}

#[test]
fn every_setting_is_documented_once_and_alike_in_help_and_manual() {
    let mut command = command();
    command.build();
    let global = command.get_arguments().filter_map(Arg::get_long).collect::<Vec<&str>>();
    for subcommand in ["consume", "propagate", "init-db", "tail", "alert-test"] {
        let help = plain(&printed(&[subcommand, "--help"]));
        let page = printed(&["man", subcommand]);
        let options: Vec<&str> = page.split(".TP\n").skip(1).collect();
        let definition = command.find_subcommand(subcommand).unwrap();
        for arg in definition.get_arguments() {
            let long = arg.get_long().unwrap();
            // The command line's library writes it, in other words for each form.
            if long == "help" {
                continue;
            }
            let head = format!("\\fB\\-\\-{}\\fR", long.replace('-', "\\-"));
            let found: Vec<&&str> =
                options.iter().filter(|option| option.lines().next().unwrap().contains(&head)).collect();
            let variable = arg.get_env().map(|name| name.to_str().unwrap()).unwrap_or_default();
            if arg.is_hide_set() {
                // A secret is no option; that of its file names the variable.
                assert_eq!(found.len(), 0, "{subcommand} --{long}");
                assert!(help.contains(&format!("{variable} ")), "{subcommand} does not name {variable}");
                continue;
            }
            let [option] = found[..] else { panic!("{subcommand} --{long}: {} times", found.len()) };
            let text = arg.get_help().unwrap().to_string();
            let text = text.split_whitespace().collect::<Vec<&str>>().join(" ");
            for shown in [plain(option), help.clone()] {
                assert!(shown.contains(&text), "{subcommand} --{long}: {shown}");
                assert!(shown.contains(variable), "{subcommand} --{long}: {variable}");
            }
            assert!(global.contains(&long) || help.matches(&text).count() == 1, "{subcommand} --{long}");
        }
    }
}

#[test]
fn help_ends_with_the_examples_of_the_manual() {
    for subcommand in ["consume", "propagate", "init-db", "tail", "alert-test", "completions", "man"] {
        let help = printed(&[subcommand, "--help"]);
        let (_, examples) = help.split_once("\nExamples:\n").unwrap_or_else(|| panic!("{help}"));
        assert!(examples.lines().all(|line| line.is_empty() || line.starts_with("  ")), "{examples}");
        let page = plain(&printed(&["man", subcommand]).replace("\\e", "\\"));
        let examples = examples.split_whitespace().collect::<Vec<&str>>().join(" ");
        assert!(page.contains(&examples), "{examples}");
    }
}

#[test]
fn short_help_fits_on_a_screen() {
    for (subcommand, lines) in [("consume", 60), ("propagate", 60), ("tail", 60), ("alert-test", 40)] {
        let help = printed(&[subcommand, "-h"]);
        assert!(help.lines().count() <= lines, "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
        assert!(help.contains("see more with '--help'"), "{help}");
    }
}

#[test]
#[ignore = "needs man"]
fn man_formats_every_page_without_a_warning() {
    let directory = tempdir().unwrap();
    for subcommand in ["", "consume", "propagate", "init-db", "tail", "alert-test", "completions", "man"] {
        let arguments = if subcommand.is_empty() { vec!["man"] } else { vec!["man", subcommand] };
        let page = printed(&arguments);
        let path = write_file(directory.path(), "page.1", page);
        let mut man = Command::new("man");
        let output = man
            .args(["--warnings", "-l"])
            .arg(path)
            .env("MANWIDTH", "80")
            .env("MANPAGER", "cat")
            .output()
            .unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{subcommand}: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLES"] {
            assert!(text.lines().any(|line| line == section), "{subcommand} has no {section}: {text}");
        }
    }
}

#[test]
fn a_page_that_does_not_exist_is_an_error_with_those_that_do() {
    let directory = tempdir().unwrap();
    let (error, hint) = refusal_of(eventctl(directory.path()).args(["man", "events"]), 2);
    let expected = "expected one of consume, propagate, init-db, tail, alert-test, completions, man";
    assert_eq!(error, format!("invalid value `events` for `[SUBCOMMAND]`: {expected}"));
    assert_eq!(hint, "run eventctl man --help");
}
