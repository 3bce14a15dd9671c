//! Settings of the current subcommand from the environment, `.env` and the config file.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context;
use clap::builder::{OsStr, Resettable};
use clap::{Arg, ArgAction, Args, Command};

use super::dotenv::Dotenv;
use super::file::{self, Sections, Value};
use super::redact::{is_secret, redacted_url, redacted_words};
use super::variables::{OWN_PREFIX, default_variable};
use crate::cli::alerts::AlertOptions;
use crate::core::text::{excerpt, without_line_end};
use crate::error::hinted;
use crate::secret::check_private;

/// The section of the config file for settings that subcommands share.
const DEFAULTS: &str = "defaults";

#[derive(Default)]
pub(super) struct Layers {
    values: BTreeMap<String, Layered>,
    /// Environment variables that the parser must not read.
    replaced: BTreeSet<OsString>,
    config_text: String,
    pub(super) warnings: Vec<String>,
}

struct Layered {
    values: Vec<String>,
    source: String,
}

impl Layers {
    /// The parser reads the environment by itself, with these exceptions: empty is unset, the end of a last line is not
    /// part of a value, and a port may be a link to a service.
    pub(super) fn add_environment<'a>(&mut self, arguments: impl Iterator<Item = &'a Arg>) {
        for arg in arguments {
            let Some(variable) = arg.get_env() else { continue };
            let Some(value) = env::var_os(variable) else { continue };
            let name = variable.to_string_lossy();
            let value = value.to_str().unwrap_or("?");
            let line = without_line_end(value);
            if is_service_link(&name, line) {
                let warning = format!(
                    "passed over the environment variable `{name}`: it is the address of a service, as Kubernetes and \
                     Docker set it, not a port"
                );
                self.warnings.push(warning);
            } else if line.len() < value.len() && !line.is_empty() {
                let source = format!("the environment variable `{name}`");
                self.insert(arg, vec![line.to_owned()], source);
            } else if !line.is_empty() {
                continue;
            }
            self.replaced.insert(variable.to_owned());
        }
    }

    /// Warns of variables of the environment that are named like ours and are no setting of any subcommand.
    pub(super) fn warn_of_unknown_variables(&mut self, command: &Command) {
        let settings: Vec<&Arg> = command
            .get_subcommands()
            .chain([command])
            .flat_map(Command::get_arguments)
            .filter(|arg| arg.get_env().is_some())
            .collect();
        for (name, value) in env::vars_os() {
            let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
            let is_known = settings.iter().any(|arg| variable_of(arg) == name)
                || names_service(&name, &value)
                || self.config_text.contains(&format!("${{{name}"));
            if is_known || value.is_empty() || !name.starts_with(OWN_PREFIX) {
                continue;
            }
            // Some settings have a variable of another name: `EVENTCTL_PORT` means `APP_PORT`.
            let distance = |arg: &&&Arg| {
                let own = strsim::damerau_levenshtein(&variable_of(arg), &name);
                let long = arg.get_long().unwrap_or_default();
                own.min(strsim::damerau_levenshtein(&default_variable(long), &name))
            };
            let nearest =
                settings.iter().min_by_key(distance).map(|arg| variable_of(arg)).unwrap_or_default();
            self.warnings.push(format!(
                "unknown environment variable `{}`: did you mean `{nearest}`?",
                excerpt(&name, 100)
            ));
        }
    }

    pub(super) fn add_dotenv(&mut self, running: &Command, dotenv: &Dotenv) -> anyhow::Result<()> {
        for arg in running.get_arguments() {
            let Some(variable) = arg.get_env().and_then(|variable| variable.to_str()) else { continue };
            let Some(value) = dotenv.get(variable)? else { continue };
            if is_secret(arg) {
                check_holder(Path::new(".env"))?;
            }
            self.insert(arg, vec![value.to_owned()], format!("`{variable}` in `.env`"));
        }
        Ok(())
    }

    /// Checks the keys of all sections, but takes only the values of the current subcommand: variables of other sections
    /// need not be set.
    pub(super) fn add_config(
        &mut self,
        command: &Command,
        running: &Command,
        path: &Path,
        dotenv: &Dotenv,
    ) -> anyhow::Result<()> {
        let (text, mut sections) = read_sections(path)?;
        self.config_text = text;
        check_keys(command, &sections)
            .with_context(|| format!("cannot read the config file `{}`", path.display()))?;
        for section in [DEFAULTS, lender(running), running.get_name()] {
            for (key, value) in sections.remove(section).unwrap_or_default() {
                let arg = settings(running).find(|arg| arg.get_long() == Some(key.as_str()));
                let Some(arg) = arg.filter(|arg| section != lender(running) || is_lent(arg)) else {
                    continue;
                };
                let source = format!("`{section}: {key}` in `{}`", path.display());
                if is_secret(arg) && !value.is_references() {
                    check_holder(path)?;
                }
                self.add_value(arg, value, source, dotenv)?;
            }
        }
        Ok(())
    }

    fn add_value(&mut self, arg: &Arg, value: Value, source: String, dotenv: &Dotenv) -> anyhow::Result<()> {
        let values = value.into_values(dotenv).with_context(|| source.clone())?;
        if values.len() > 1 && !matches!(arg.get_action(), ArgAction::Append) {
            return Err(hinted(format!("{source}: expected one value, got a list"), "give a single value"));
        }
        if !values.is_empty() {
            self.insert(arg, values, source);
        }
        Ok(())
    }

    fn insert(&mut self, arg: &Arg, values: Vec<String>, source: String) {
        self.values.insert(arg.get_id().to_string(), Layered { values, source });
    }

    /// Where the value of a setting came from, if not from the command line or the environment.
    pub(super) fn source_of(&self, arg: &Arg) -> Option<&str> {
        self.values.get(arg.get_id().as_str()).map(|layered| layered.source.as_str())
    }

    /// Whether the parser reads the variable of a setting from the environment.
    pub(super) fn leaves_environment(&self, arg: &Arg) -> bool {
        arg.get_env().is_some_and(|variable| !self.replaced.contains(variable))
    }

    /// Makes the values the defaults of their flags.
    pub(super) fn apply(&self, command: Command, running: Option<&Command>) -> Command {
        let prepare = |arg: Arg| {
            let arg = match arg.get_env() {
                Some(variable) if self.replaced.contains(variable) => arg.env(Resettable::Reset),
                _ => arg,
            };
            match self.values.get(arg.get_id().as_str()) {
                Some(layered) => arg.default_values(layered.values.iter().map(OsStr::from)),
                None => arg,
            }
        };
        let command = command.mut_args(prepare);
        match running {
            Some(running) => {
                command.mut_subcommand(running.get_name(), |subcommand| subcommand.mut_args(prepare))
            }
            None => command,
        }
    }
}

/// Whether a variable that names a port holds the address of a service instead, `tcp://10.0.0.1:80`: for a service
/// called `app` Kubernetes sets `APP_PORT` in every container, and Docker does for a linked one.
fn is_service_link(variable: &str, value: &str) -> bool {
    let schemes = ["tcp://", "udp://", "sctp://"];
    variable.ends_with("_PORT") && schemes.iter().any(|scheme| value.starts_with(scheme))
}

/// Whether a variable is one of those that Kubernetes and Docker set for a service called `eventctl` or
/// `eventctl-metrics`, such as `EVENTCTL_PORT_8000_TCP_ADDR`.
fn names_service(variable: &str, value: &str) -> bool {
    let mut after_port = variable.split("_PORT_").skip(1);
    is_service_link(variable, value)
        || ["_SERVICE_HOST", "_SERVICE_PORT"].iter().any(|part| variable.contains(part))
        || after_port.any(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

fn read_sections(path: &Path) -> anyhow::Result<(String, Sections)> {
    let cannot = || format!("cannot read the config file `{}`", path.display());
    let text = fs::read_to_string(path).map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::NotFound => "check the path that --config or EVENTCTL_CONFIG gives",
            _ => "check the file's permissions; it is UTF-8 text",
        };
        hinted(format!("{}: {error}", cannot()), hint)
    })?;
    let sections = file::parse(&text).map_err(|problem| {
        hinted(
            format!("{}: {}", cannot(), redacted_words(&problem)),
            "write a section a subcommand and in it a key a flag, such as `port: 8000` under `consume:`",
        )
    })?;
    Ok((text, sections))
}

fn check_keys(command: &Command, sections: &Sections) -> anyhow::Result<()> {
    for (section, keys) in sections {
        let names = command.get_subcommands().map(Command::get_name).chain([DEFAULTS]);
        let subcommand = command.find_subcommand(section);
        if subcommand.is_none() && section != DEFAULTS {
            return Err(unknown("", section, names));
        }
        let known = || {
            let commands = command.get_subcommands();
            commands.filter(|one| section == DEFAULTS || one.get_name() == section).flat_map(settings)
        };
        for key in keys.keys() {
            let mut same = known().filter(|arg| arg.get_long() == Some(key.as_str()));
            let Some(first) = same.next() else {
                return Err(unknown(&format!("`{section}`: "), key, known().filter_map(Arg::get_long)));
            };
            if same.any(|other| other.get_env() != first.get_env()) {
                let problem = format!("`{section}`: `{key}` is not the same setting for all subcommands");
                return Err(hinted(problem, "write it in the sections of the subcommands"));
            }
        }
    }
    Ok(())
}

/// The settings of a subcommand that the config file may have.
fn settings(command: &Command) -> impl Iterator<Item = &Arg> {
    command
        .get_arguments()
        .filter(|arg| !matches!(arg.get_long(), Some("help" | "version" | "config") | None))
}

/// The subcommand whose alert settings are the defaults of the current one: `alert-test` tests those of `consume`.
fn lender(running: &Command) -> &str {
    if running.get_name() == "alert-test" { "consume" } else { "" }
}

fn variable_of(arg: &Arg) -> Cow<'_, str> {
    arg.get_env().unwrap_or_default().to_string_lossy()
}

fn is_lent(arg: &Arg) -> bool {
    let alerts = AlertOptions::augment_args(Command::new("alerts"));
    alerts.get_arguments().any(|of_alerts| of_alerts.get_id() == arg.get_id())
}

fn unknown<'a>(place: &str, key: &str, known: impl Iterator<Item = &'a str>) -> anyhow::Error {
    let distance = |name: &&str| strsim::damerau_levenshtein(name, key);
    let nearest = known.min_by_key(distance).unwrap_or_default();
    hinted(format!("{place}unknown key `{}`", redacted_url(key)), format!("did you mean `{nearest}`?"))
}

/// Checks that only the owner can read a settings file that has a secret.
fn check_holder(path: &Path) -> anyhow::Result<()> {
    let file = fs::File::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    check_private(path, &file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_a_service_is_no_port() {
        for (variable, value) in [
            ("APP_PORT", "tcp://10.0.0.1:80"),
            ("SMTP_PORT", "tcp://10.0.0.2:25"),
            ("APP_PORT", "udp://[::1]:53"),
        ] {
            assert!(is_service_link(variable, value), "{variable}={value}");
        }
        for (variable, value) in [("APP_PORT", "80"), ("APP_PORT", "http"), ("APP_HOST", "tcp://10.0.0.1:80")]
        {
            assert!(!is_service_link(variable, value), "{variable}={value}");
        }
    }
}
