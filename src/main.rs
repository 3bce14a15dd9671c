//! Parses, runs, and prints an error with its hint.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use eventctl::{Completion, Hinted, Invocation, end_process_1_on_signals, read_settings, run};

const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;
const INCOMPLETE: u8 = 3;

fn main() -> ExitCode {
    if let Err(error) = end_process_1_on_signals() {
        return exit_code(Err(error));
    }
    let arguments: Vec<OsString> = env::args_os().collect();
    match read_settings(&arguments) {
        Ok(Invocation::Run(cli, warnings)) => exit_code(run(*cli, &warnings)),
        Ok(Invocation::Print(text)) => print(&text),
        Err(error) => {
            print_error(&error);
            ExitCode::from(WRONG_USAGE)
        }
    }
}

/// Prints help or the version. Help because no subcommand was given goes to standard error, as wrong usage.
fn print(text: &clap::Error) -> ExitCode {
    let printed = text.print();
    if text.use_stderr() {
        return ExitCode::from(WRONG_USAGE);
    }
    exit_code(printed.map(|()| Completion::Complete).map_err(Into::into))
}

fn exit_code(result: anyhow::Result<Completion>) -> ExitCode {
    match result {
        Ok(Completion::Complete) => ExitCode::SUCCESS,
        Ok(Completion::Incomplete) => ExitCode::from(INCOMPLETE),
        // The reader of our output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error);
            ExitCode::from(FAILED)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

fn print_error(error: &anyhow::Error) {
    let mut text = format!("error: {error:#}\n");
    if let Some(hint) = Hinted::find(error) {
        text += &format!("hint: {hint}\n");
    }
    // If standard error is closed, the exit code must do.
    let _ = io::stderr().write_all(text.as_bytes());
}
