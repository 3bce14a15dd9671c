//! The README: what it tells people to type works.

use std::fmt::Write;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, iter};

use clap::Arg;
use eventctl::config;
use tempfile::tempdir;

use crate::util::Process;

#[test]
#[ignore = "needs bash, curl and openssl"]
fn every_command_of_the_readme_works() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(repository.join("README.md")).unwrap();
    let blocks: Vec<&str> =
        readme.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect();
    assert!(blocks.len() >= 4, "the README has lost its commands");
    let directory = tempdir().unwrap();
    fs::copy(repository.join("events.json"), directory.path().join("events.json")).unwrap();
    // The commands follow each other, and share the receivers that some of them start.
    let [plain, encrypted] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let port_of = |listener: &TcpListener| listener.local_addr().unwrap().port().to_string();
    let script = format!("set -eux\ntrap 'kill $(jobs -p)' EXIT\n{}", blocks.concat());
    let script = script.replace("8000", &port_of(&plain)).replace("8443", &port_of(&encrypted));
    drop([plain, encrypted]);
    let programs = Path::new(env!("CARGO_BIN_EXE_eventctl")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), env::var("PATH").unwrap());
    let mut shell = Command::new("bash");
    shell.args(["-c", &script]).current_dir(directory.path()).env("PATH", path).stdout(Stdio::piped());
    let mut process = Process::start(&mut shell);
    let status = process.wait();
    assert!(status.success(), "{status}\n{}", process.stderr());
    let events = fs::read_to_string(directory.path().join("events.csv")).unwrap();
    assert_eq!(events.lines().count(), 1 + 1 + 5 + 2, "{events}");
}

/// Sits around the table of settings.
const TABLE_MARKS: [&str; 2] =
    ["<!-- settings: EVENTCTL_WRITE_README=1 cargo test readme -->\n", "<!-- end -->"];

#[test]
fn the_table_of_settings_is_what_the_program_has() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(TABLE_MARKS[0]).expect("the table has lost its beginning");
    let (table, after) = rest.split_once(TABLE_MARKS[1]).expect("the table has lost its end");
    let current = table_of_settings();
    if env::var_os("EVENTCTL_WRITE_README").is_some() {
        let [begin, end] = TABLE_MARKS;
        fs::write(&path, format!("{before}{begin}{current}{end}{after}")).unwrap();
        return;
    }
    assert_eq!(table, current, "EVENTCTL_WRITE_README=1 cargo test readme brings the README up to date");
}

/// A row a setting: those that several subcommands have alike stand once.
fn table_of_settings() -> String {
    let mut rows: Vec<(String, Vec<String>)> = Vec::new();
    let mut command = config::command();
    command.build();
    let everywhere = command.get_arguments().map(|arg| ("all".to_owned(), arg.clone()));
    let subcommands = command.get_subcommands().filter(|command| command.get_name() != "help");
    let of_subcommands = subcommands.flat_map(|command| {
        let own = command.get_arguments().filter(|arg| !arg.is_global_set());
        own.map(|arg| (command.get_name().to_owned(), arg.clone()))
    });
    for (name, arg) in everywhere.chain(of_subcommands) {
        let Some(row) = row_of(&arg) else { continue };
        match rows.iter_mut().find(|(known, _)| *known == row) {
            Some((_, names)) => names.push(name),
            None => rows.push((row, vec![name])),
        }
    }
    let mut table =
        "| setting | environment | default | of | meaning |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for (row, names) in rows {
        let (columns, meaning) = row.rsplit_once('\t').expect("a row has columns");
        writeln!(table, "| {} | {} | {meaning} |", columns.replace('\t', " | "), names.join(", ")).unwrap();
    }
    table
}

/// What is known of a setting, with tabs between; nothing of what is no setting.
fn row_of(arg: &Arg) -> Option<String> {
    let long = arg.get_long().filter(|long| !["help", "version"].contains(long))?;
    let code = |text: &str| if text.is_empty() { String::new() } else { format!("`{text}`") };
    let names =
        arg.get_short().map(|short| format!("-{short}")).into_iter().chain(iter::once(format!("--{long}")));
    let names = names.map(|name| code(&name)).collect::<Vec<String>>().join(", ");
    let defaults = arg.get_default_values().iter().map(|value| value.to_str().unwrap());
    // A flag without a value is off where nobody gives it.
    let default = if arg.get_action().takes_values() {
        defaults.collect::<Vec<&str>>().join(" ")
    } else {
        String::new()
    };
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let help = help.split_whitespace().collect::<Vec<&str>>().join(" ").replace('|', "\\|");
    let choices =
        arg.get_possible_values().iter().map(|value| code(value.get_name())).collect::<Vec<String>>();
    let choices = if choices.is_empty() || !arg.get_action().takes_values() {
        String::new()
    } else {
        format!(": {}", choices.join(", "))
    };
    let environment = arg.get_env().map(|name| name.to_str().unwrap()).unwrap_or_default();
    // A secret is no flag.
    let names = if arg.is_hide_set() { String::new() } else { names };
    Some(format!("{names}\t{}\t{}\t{help}{choices}", code(environment), code(&default)))
}
