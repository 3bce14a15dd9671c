//! From the command line, the environment, `.env` and the config file to one set of settings.
//!
//! `.env` and the config file become the defaults of the flags, so that a value is read by the same
//! rules wherever it stands, and flag, environment, `.env`, config file win in this order.

mod dotenv;
mod explain;
mod file;
mod layers;
mod redact;

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
use crate::cli::{Cli, Command as CliCommand, parse_switch};
use crate::core::hint::hinted;

/// What reading the settings comes to.
pub enum Settings {
    /// Settings to run with, and what to warn of.
    Run(Box<Cli>, Vec<String>),
    /// A text, in the terminal's colours: help or version that was asked for, or help because nothing was.
    Print(clap::Error),
}

/// Reads all settings; `arguments` begin with the program's name.
///
/// # Errors
/// A value that is wrong: which, of what setting, where it came from and what would be right.
pub fn read(arguments: &[OsString]) -> anyhow::Result<Settings> {
    let command = command();
    // Help and version need no settings, so that a wrong one cannot be in their way.
    let texts = [
        ErrorKind::DisplayHelp,
        ErrorKind::DisplayVersion,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
    ];
    if let Err(error) = command.clone().try_get_matches_from(arguments)
        && texts.contains(&error.kind())
    {
        return Ok(Settings::Print(error));
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
            choose_what_to_show(&mut cli, &matches)?;
            Ok(Settings::Run(Box::new(cli), layers.warnings))
        }
        Err(error) => Err(explain(&error, running, arguments, &layers)),
    }
}

/// The command line with all its settings and their environment variables.
pub fn command() -> Command {
    let prepare = |arg: Arg| with_environment(with_switch(arg));
    Cli::command().mut_args(prepare).mut_subcommands(move |command| command.mut_args(prepare))
}

/// Gives a setting without an environment variable of its own `EVENTCTL_` and its name.
fn with_environment(arg: Arg) -> Arg {
    let arg = arg.hide_env_values(true);
    match arg.get_long() {
        Some("help" | "version") | None => arg,
        Some(_) if arg.get_env().is_some() => arg,
        Some(long) => {
            let variable = format!("EVENTCTL_{}", long.to_ascii_uppercase().replace('-', "_"));
            arg.env(OsStr::from(variable))
        }
    }
}

/// Lets a flag without a value be on and off in all the words that people use where it needs one.
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

/// A store has a default, so that the parser cannot tell whether both it and an endpoint are given: of the two, that on
/// the command line wins, and else the endpoint.
fn choose_what_to_show(cli: &mut Cli, matches: &ArgMatches) -> anyhow::Result<()> {
    let CliCommand::Tail(options) = &mut cli.command else { return Ok(()) };
    let Some((_, matches)) = matches.subcommand() else { return Ok(()) };
    let given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    match (given("db"), given("endpoint")) {
        (true, true) => {
            return Err(hinted("both `--db` and `--endpoint` are given", "give one of them"));
        }
        (true, false) => options.endpoint = None,
        (false, _) => {}
    }
    if options.endpoint.is_some() && options.alerts {
        let problem = "`--alerts` cannot be shown by `--endpoint`: alerts are not told over HTTP";
        return Err(hinted(problem, "give --db URL, the store that the consume there uses"));
    }
    Ok(())
}

/// The config file's path: it is needed before the rest can be parsed.
fn config_path(lenient: Option<&ArgMatches>, dotenv: &Dotenv) -> anyhow::Result<Option<PathBuf>> {
    let given = lenient.and_then(|matches| matches.get_one::<PathBuf>("config").cloned());
    match given.filter(|path| !path.as_os_str().is_empty()) {
        Some(path) => Ok(Some(path)),
        None => Ok(dotenv.get("EVENTCTL_CONFIG")?.map(PathBuf::from)),
    }
}
