//! `eventctl completions` and `eventctl man`: what the command line's own definition says, for shells and for `man`.

use std::io::{self, Write};

use anyhow::Context;
use clap::Command;
use clap_mangen::Man;

use crate::cli::{CompletionsOptions, ManOptions};
use crate::config;

/// Prints a completion script.
///
/// # Errors
/// The output takes no more.
pub fn print_completions(options: &CompletionsOptions) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut without_secrets(&config::command()), "eventctl", &mut script);
    io::stdout().write_all(&script).context("cannot print the script")
}

/// Prints a page of the manual.
///
/// # Errors
/// The output takes no more.
pub fn print_page(options: &ManOptions) -> anyhow::Result<()> {
    let mut command = config::command();
    // Gives the subcommands their full names.
    command.build();
    let command = match &options.subcommand {
        None => &command,
        Some(name) => command.find_subcommand(name).context("there is no page of that name")?,
    };
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    io::stdout().write_all(&page).context("cannot print the page")
}

/// The same command without the settings that the command line refuses.
fn without_secrets(command: &Command) -> Command {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set()).cloned();
    Command::new(command.get_name().to_owned())
        .about(command.get_about().cloned().unwrap_or_default())
        .version(env!("CARGO_PKG_VERSION"))
        .args(shown)
        .subcommands(command.get_subcommands().map(without_secrets))
}
