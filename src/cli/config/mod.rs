//! Merges the command line, the environment, `.env` and the config file.
//!
//! The values of `.env` and of the config file become the defaults of the flags, so that one parser reads all values. The
//! order of precedence is flag, environment, `.env`, config file.

mod dotenv;
mod explain;
mod file;
mod layers;
mod redact;
mod variables;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::OsStr;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};

use self::dotenv::Dotenv;
use self::explain::explain;
use self::layers::Layers;
use self::redact::is_secret;
use self::variables::default_variable;
use crate::cli::help::arranged;
use crate::cli::values::parse_switch;
use crate::cli::{Cli, Options};
use crate::error::hinted;

pub enum Invocation {
    /// The options, and warnings to log.
    Run(Box<Cli>, Vec<String>),
    /// Help or the version, in the terminal's colours.
    Print(clap::Error),
}

/// Reads all settings; `arguments` begin with the program's name.
///
/// # Errors
/// A value is invalid: the error names the setting, the source of the value and what is expected.
pub fn read(arguments: &[OsString]) -> anyhow::Result<Invocation> {
    let command = command();
    let arguments = &without_empty_db(arguments);
    // Help and version work whatever the settings are.
    let texts = [
        ErrorKind::DisplayHelp,
        ErrorKind::DisplayVersion,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
    ];
    if let Err(error) = command.clone().try_get_matches_from(arguments)
        && texts.contains(&error.kind())
    {
        return Ok(Invocation::Print(error));
    }
    let lenient = command.clone().ignore_errors(true).try_get_matches_from(arguments).ok();
    let running = lenient.as_ref().and_then(ArgMatches::subcommand_name);
    let running = running.and_then(|name| command.find_subcommand(name));
    let mut layers = Layers::default();
    // A subcommand without settings needs none.
    if let Some(running) =
        running.filter(|running| running.get_arguments().any(|arg| arg.get_env().is_some()))
    {
        let dotenv = Dotenv::read(Path::new(".env"))?;
        if let Some(path) = config_path(lenient.as_ref(), &dotenv)? {
            layers.add_config(&command, running, &path, &dotenv)?;
        }
        layers.add_dotenv(running, &dotenv)?;
        layers.warn_of_unknown_variables(&command);
    }
    layers
        .add_environment(command.get_arguments().chain(running.into_iter().flat_map(Command::get_arguments)));
    let settled = layers.apply(command.clone(), running);
    let matches = settled.clone().try_get_matches_from(arguments);
    if let Ok(matches) = &matches {
        refuse_secrets_in_arguments(&command, matches)?;
    }
    let cli = matches.and_then(|matches| Cli::from_arg_matches(&matches).map(|cli| (cli, matches)));
    match cli {
        Ok((mut cli, matches)) => {
            if let (Options::Tail(options), Some((_, matches))) = (&mut cli.options, matches.subcommand()) {
                options.choose_source(matches)?;
            }
            Ok(Invocation::Run(Box::new(cli), layers.warnings))
        }
        Err(error) => Err(explain(&error, running, arguments, &layers)),
    }
}

/// `--db ""` is unset, as an empty variable is: a script may pass on an empty value.
fn without_empty_db(arguments: &[OsString]) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut arguments = arguments.iter().peekable();
    while let Some(argument) = arguments.next() {
        let is_empty =
            argument == "--db=" || argument == "--db" && arguments.next_if(|next| next.is_empty()).is_some();
        if !is_empty {
            kept.push(argument.clone());
        }
    }
    kept
}

/// The command line with all its settings and their environment variables.
pub fn command() -> Command {
    let prepare = |arg: Arg| with_environment(with_switch(arg));
    let command = Cli::command().mut_args(prepare);
    arranged(command.mut_subcommands(move |command| arranged(command.mut_args(prepare))))
}

/// A setting without an environment variable of its own has `EVENTCTL_` and its name.
fn with_environment(arg: Arg) -> Arg {
    let arg = arg.hide_env_values(true);
    match arg.get_long() {
        Some("help" | "version") | None => arg,
        Some(_) if arg.get_env().is_some() => arg,
        Some(long) => {
            let variable = default_variable(long);
            arg.env(OsStr::from(variable))
        }
    }
}

/// In the environment and in files a flag without a value has one of several words for on and off.
fn with_switch(arg: Arg) -> Arg {
    if matches!(arg.get_action(), ArgAction::SetTrue) { arg.value_parser(parse_switch) } else { arg }
}

fn refuse_secrets_in_arguments(command: &Command, matches: &ArgMatches) -> anyhow::Result<()> {
    let Some((name, matches)) = matches.subcommand() else { return Ok(()) };
    let mut arguments = command.find_subcommand(name).into_iter().flat_map(Command::get_arguments);
    let given = |arg: &Arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    let Some(secret) = arguments.find(|arg| is_secret(arg) && given(arg)) else { return Ok(()) };
    let long = secret.get_long().unwrap_or_default();
    let variable = secret.get_env().unwrap_or_default().to_string_lossy();
    let problem = format!("`--{long}` on the command line would show it to every user of this machine");
    Err(hinted(problem, format!("give --{long}-file, or set {variable}")))
}

/// The path of the config file, which is needed before the rest can be parsed.
fn config_path(lenient: Option<&ArgMatches>, dotenv: &Dotenv) -> anyhow::Result<Option<PathBuf>> {
    let given = lenient.and_then(|matches| matches.get_one::<PathBuf>("config").cloned());
    match given.filter(|path| !path.as_os_str().is_empty()) {
        Some(path) => Ok(Some(path)),
        None => Ok(dotenv.get("EVENTCTL_CONFIG")?.map(PathBuf::from)),
    }
}
