//! `eventctl completions` and `eventctl man`: generated from the definition of the command line.

pub(super) mod pages;
mod roff;

use std::io::{self, Write};

use anyhow::Context;
use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use self::pages::text_of;
use super::Cli;
use super::config::command;

#[derive(Debug, Args)]
pub struct CompletionsOptions {
    /// Which shell
    #[arg(value_enum)]
    pub(super) shell: Shell,
}

#[derive(Debug, Args)]
pub struct ManOptions {
    /// A subcommand [default: eventctl itself]
    #[arg(value_parser = parse_page)]
    pub(super) subcommand: Option<String>,
}

pub fn print_completions(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut without_secrets(&command()), "eventctl", &mut script);
    io::stdout().write_all(&script).context("cannot print the script")
}

pub fn print_page(subcommand: Option<&str>) -> anyhow::Result<()> {
    let mut command = command();
    // Gives the subcommands their full names.
    command.build();
    let command = match subcommand {
        None => &command,
        Some(name) => command.find_subcommand(name).with_context(|| format!("there is no page `{name}`"))?,
    };
    io::stdout().write_all(&page(command)?).context("cannot print the page")
}

/// A page in roff: the sections of man-pages(7), with the topics between options and examples.
fn page(command: &Command) -> io::Result<Vec<u8>> {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").to_owned();
    // The page has every option, those that `-h` leaves out as well.
    let command = &command.clone().mut_args(|arg| arg.hide_short_help(false)).override_usage(usage);
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    let text = text_of(command.get_name()).lines().skip(1).collect::<Vec<&str>>().join("\n");
    let (description, topics) = text.split_once("\n## ").unwrap_or((&text, ""));
    page.extend(roff::from_markdown(&format!("## Description\n{description}")).bytes());
    page.extend(options(command, &man)?.bytes());
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    if !topics.is_empty() {
        page.extend(roff::from_markdown(&format!("## {topics}")).bytes());
    }
    Ok(page)
}

/// The options, with their groups as subsections.
fn options(command: &Command, man: &Man) -> io::Result<String> {
    let mut options = Vec::new();
    man.render_options_section(&mut options)?;
    let mut options = String::from_utf8_lossy(&options).into_owned();
    for group in command.get_arguments().filter_map(|arg| arg.get_help_heading()) {
        options = options.replace(&format!(".SH {}\n", group.to_uppercase()), &format!(".SS {group}\n"));
    }
    Ok(options)
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

fn parse_page(text: &str) -> Result<String, String> {
    let command = Cli::command();
    if command.find_subcommand(text).is_some() {
        return Ok(text.to_owned());
    }
    let names: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
    Err(format!("expected one of {}", names.join(", ")))
}
