//! The config file: any text ends in settings or in an error, and no password in a value is repeated.
//!
//! The input is the file. In it `%` stands for a URL with a password.

#![no_main]

use std::path::PathBuf;
use std::{env, fs, process};

use eventctl::{Hinted, read_settings};
use libfuzzer_sys::fuzz_target;

const SUBCOMMANDS: [&str; 3] = ["consume", "propagate", "tail"];

const PASSWORD: &str = "Tr0ub4dor";

thread_local! {
    static FILE: PathBuf = env::temp_dir().join(format!("eventctl-fuzz-{}.yaml", process::id()));
}

fuzz_target!(|text: &str| FILE.with(|file| {
    let text = text.replace('%', &format!("postgres://events:{PASSWORD}@localhost/events"));
    fs::write(file, &text).expect("the folder for temporary files can be written");
    let subcommand = SUBCOMMANDS.into_iter().find(|name| text.contains(name)).unwrap_or("init-db");
    let arguments = ["eventctl".into(), subcommand.into(), "--config".into(), file.clone().into_os_string()];
    let Err(error) = read_settings(&arguments) else { return };
    let error = format!("{error:#}; {}", Hinted::find(&error).unwrap_or_default());
    // Keys and names of variables are no place for a password, and are shown as they are.
    const NAMES: [&str; 3] = ["unknown key `", "duplicate mapping key: ", "the environment variable `"];
    let shows_name = NAMES.iter().any(|name| error.contains(name));
    assert!(shows_name || !error.contains(PASSWORD), "{error}");
}));
