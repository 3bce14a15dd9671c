//! Defines every setting once: flag, environment variable, default and help, in one file for each subcommand; and turns the
//! options into the settings of the subcommand, which know nothing of the command line.
//!
//! A setting without an environment variable of its own has `EVENTCTL_` and its name. A hidden setting is a secret: it is
//! read from the environment and from files, but refused on the command line, which every user of the machine can see.

mod access;
mod alerts;
pub mod config;
mod consume;
mod help;
mod init_db;
mod log;
mod login;
pub mod manual;
mod propagate;
mod secrets;
mod tail;
mod values;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use self::alerts::AlertTestOptions;
use self::consume::ConsumeOptions;
use self::init_db::InitDbOptions;
use self::manual::{CompletionsOptions, ManOptions};
use self::propagate::PropagateOptions;
use self::tail::TailOptions;
use crate::logging::LogSettings;

/// Send JSON events on a precise schedule, receive them, store them durably
#[derive(Debug, Parser)]
#[command(name = "eventctl", version, max_term_width = 80, after_help = SETTINGS_HELP)]
pub struct Cli {
    #[command(subcommand)]
    options: Options,

    /// Read settings from a YAML file: a section a subcommand, a key a flag; what
    /// subcommands share stands under `defaults:`
    #[arg(long, global = true, value_name = "FILE", display_order = 900)]
    config: Option<PathBuf>,
}

const SETTINGS_HELP: &str = "\
Every setting can be given as a flag, in the environment, in a file `.env` in
the working directory, or in the file that --config names; the first of these
that has it wins. An empty value counts as none. Items of a list are separated
by commas or spaces.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 finished, but some events were
rejected or undelivered.";

#[expect(clippy::large_enum_variant, reason = "there is one of it in a process")]
#[derive(Debug, Subcommand)]
enum Options {
    /// Receive events over HTTP, validate them and store them durably
    Consume(ConsumeOptions),
    /// Send predefined events to an HTTP endpoint on a precise schedule
    Propagate(PropagateOptions),
    /// Prepare a store, or upgrade its schema
    InitDb(InitDbOptions),
    /// Show stored events
    Tail(TailOptions),
    /// Send a sample alert to each channel, and report whether it was accepted
    AlertTest(AlertTestOptions),
    /// Print a script that completes commands in a shell
    Completions(CompletionsOptions),
    /// Print a manual page, for man -l -
    Man(ManOptions),
}

/// A subcommand with its settings.
#[expect(clippy::large_enum_variant, reason = "there is one of it in a process")]
pub enum Command {
    Consume(crate::consume::Settings),
    Propagate(crate::propagate::Settings),
    InitDb(crate::init_db::Settings),
    Tail(crate::tail::Settings),
    AlertTest(crate::alert_test::Settings),
    Completions(Shell),
    /// The page of a subcommand, or of eventctl itself.
    Man(Option<String>),
}

impl Cli {
    /// `None` for subcommands that only print.
    pub fn log(&self) -> Option<LogSettings> {
        match &self.options {
            Options::Consume(options) => Some(options.log.settings(options.quiet)),
            Options::Propagate(options) => Some(options.log.settings(options.quiet)),
            Options::Tail(options) => Some(options.log.settings(options.quiet)),
            Options::AlertTest(options) => Some(options.log.settings(options.quiet)),
            Options::InitDb(_) | Options::Completions(_) | Options::Man(_) => None,
        }
    }

    /// Reads the secrets that are in files.
    ///
    /// # Errors
    /// A secret cannot be used, or settings contradict each other.
    pub fn into_command(self) -> anyhow::Result<Command> {
        Ok(match self.options {
            Options::Consume(options) => Command::Consume(options.into_settings()?),
            Options::Propagate(options) => Command::Propagate(options.into_settings()?),
            Options::InitDb(options) => Command::InitDb(options.into()),
            Options::Tail(options) => Command::Tail(options.into_settings()?),
            Options::AlertTest(options) => Command::AlertTest(options.into_settings()?),
            Options::Completions(options) => Command::Completions(options.shell),
            Options::Man(options) => Command::Man(options.subcommand),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
