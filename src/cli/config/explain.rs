//! Explains what is wrong with the command line, in two lines.

use std::env;
use std::ffi::OsString;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::layers::Layers;
use super::redact::{SECRETS, redacted, redacted_url};
use crate::error::hinted;
use crate::store::LocationError;

pub(super) fn explain(
    error: &clap::Error,
    running: Option<&Command>,
    arguments: &[OsString],
    layers: &Layers,
) -> anyhow::Error {
    let text_of = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        _ => None,
    };
    let help = match running {
        Some(running) => format!("run eventctl {} --help", running.get_name()),
        None => "run eventctl --help".to_owned(),
    };
    let wrong_value = matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue);
    let (Some(flag), Some(value), true) =
        (text_of(ContextKind::InvalidArg), text_of(ContextKind::InvalidValue), wrong_value)
    else {
        let message = match (error.kind(), text_of(ContextKind::InvalidArg)) {
            (ErrorKind::MissingRequiredArgument, Some(arguments)) => format!("expected `{arguments}`"),
            (ErrorKind::MissingSubcommand, _) => "expected a subcommand".to_owned(),
            // A misplaced argument may be a URL that has a password or is a secret as a whole.
            (ErrorKind::UnknownArgument, Some(argument)) => {
                format!("unexpected argument `{}` found", redacted_url(&argument))
            }
            _ => {
                let message = error.to_string();
                let message = message.trim_start_matches("error: ").lines().next().unwrap_or_default();
                message.replace('\'', "`")
            }
        };
        let suggestion = text_of(ContextKind::SuggestedArg).or(text_of(ContextKind::SuggestedSubcommand));
        let hint = suggestion.map_or(help.clone(), |name| {
            // The command line refuses the secret itself.
            let name = if SECRETS.contains(&name.as_str()) { format!("{name}-file") } else { name };
            format!("did you mean `{name}`? {help}")
        });
        return hinted(message, hint);
    };
    // After the name comes the placeholder of its value, or dots for a flag that counts.
    let flag = flag.split(' ').next().unwrap_or_default().trim_end_matches('.').to_owned();
    let expected = match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => match text_of(ContextKind::ValidValue).filter(|values| !values.is_empty()) {
            Some(values) => format!("expected one of {values}"),
            None => "expected a value".to_owned(),
        },
    };
    let source = source_of(&flag, running, arguments, layers);
    let own_hint = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<LocationError>())
        .and_then(|error| error.hint);
    // An error that says what to write needs no pointer to --help.
    let (expected, hint) = match (own_hint, expected.split_once("; write ")) {
        (Some(hint), _) => (expected, hint.to_owned()),
        (None, Some((problem, instead))) => (problem.to_owned(), format!("write {instead}")),
        (None, None) => (expected, help),
    };
    hinted(format!("invalid value `{}` for `{flag}`{source}: {expected}", redacted(&flag, &value)), hint)
}

/// Where the value of a flag came from, if not from the command line.
fn source_of(flag: &str, running: Option<&Command>, arguments: &[OsString], layers: &Layers) -> String {
    let long = flag.trim_start_matches('-');
    let mut settings = running.into_iter().flat_map(Command::get_arguments);
    let Some(arg) = settings.find(|arg| arg.get_long() == Some(long)) else { return String::new() };
    let is_flag = |argument: &OsString| {
        let argument = argument.to_string_lossy();
        let short = arg.get_short().is_some_and(|short| argument.starts_with(&format!("-{short}")));
        short || argument.split('=').next() == Some(flag)
    };
    if arguments.iter().any(is_flag) {
        return String::new();
    }
    match (arg.get_env(), layers.source_of(arg)) {
        (Some(variable), _) if layers.leaves_environment(arg) && env::var_os(variable).is_some() => {
            format!(" (from the environment variable `{}`)", variable.to_string_lossy())
        }
        (_, Some(source)) => format!(" (from {source})"),
        _ => String::new(),
    }
}
