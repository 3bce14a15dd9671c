//! Reads the settings, runs the subcommand, and prints an error with its hint.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use eventctl::cli::Command;
use eventctl::config::{self, Settings};
use eventctl::core::hint::Hinted;
use eventctl::propagate::Completion;
use eventctl::{alert_test, consume, init_db, logging, manual, propagate, shutdown, tail};
use tracing::warn;

const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;
const INCOMPLETE: u8 = 3;

fn main() -> ExitCode {
    if let Err(error) = shutdown::end_process_1_on_signals() {
        return exit_code(Err(error));
    }
    let arguments: Vec<OsString> = env::args_os().collect();
    let (command, warnings) = match config::read(&arguments) {
        Ok(Settings::Run(cli, warnings)) => (cli.command, warnings),
        Ok(Settings::Print(text)) => return print(&text),
        Err(error) => {
            print_error(&error);
            return ExitCode::from(WRONG_USAGE);
        }
    };
    let result = match command.log().map(|settings| logging::start(&settings)).transpose() {
        // Dropped behind it: the last lines are written before the error is.
        Ok(_log) => {
            warnings.iter().for_each(|warning| warn!("{warning}"));
            run(command)
        }
        Err(error) => Err(error),
    };
    exit_code(result)
}

/// Prints help that was asked for, or help to whoever gives no subcommand.
fn print(text: &clap::Error) -> ExitCode {
    let printed = text.print();
    if text.use_stderr() {
        return ExitCode::from(WRONG_USAGE);
    }
    exit_code(printed.map(|()| Completion::Complete).map_err(Into::into))
}

fn run(command: Command) -> anyhow::Result<Completion> {
    shutdown::survive_file_size_limit()?;
    match command {
        Command::Consume(options) => consume::run(options)?,
        Command::Propagate(options) => return propagate::run(options),
        Command::InitDb(options) => init_db::run(&options)?,
        Command::Tail(options) => tail::run(&options)?,
        Command::AlertTest(options) => alert_test::run(options)?,
        Command::Completions(options) => manual::print_completions(&options)?,
        Command::Man(options) => manual::print_page(&options)?,
    }
    Ok(Completion::Complete)
}

fn exit_code(result: anyhow::Result<Completion>) -> ExitCode {
    match result {
        Ok(Completion::Complete) => ExitCode::SUCCESS,
        Ok(Completion::Incomplete) => ExitCode::from(INCOMPLETE),
        // Whoever reads our output has seen enough.
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
    // Where nobody reads it, the exit code has to say it.
    let _ = io::stderr().write_all(text.as_bytes());
}
