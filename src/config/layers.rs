//! The settings of the subcommand that runs, from the environment, `.env` and the config file.

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
use crate::cli::AlertOptions;
use crate::core::hint::{Hint, hinted};
use crate::core::secret::check_private;
use crate::core::text::without_line_end;

/// The section of the config file for what subcommands share.
const DEFAULTS: &str = "defaults";

/// Values from the environment, `.env` and the config file, by setting.
#[derive(Default)]
pub(super) struct Layers {
    values: BTreeMap<String, Layered>,
    /// Variables of the environment that the parser is not to read.
    replaced: BTreeSet<OsString>,
    /// What to tell people about settings that are not used.
    pub(super) warnings: Vec<String>,
}

struct Layered {
    values: Vec<String>,
    source: String,
}

impl Layers {
    /// The parser reads the environment by itself, but for what means something else there than it says: empty
    /// is unset, the end of a last line is not part of a value, and a port may be a link to a service.
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

    /// Checks the keys of all sections, and takes the values that concern the subcommand that runs: the variables
    /// of the others need not be set.
    pub(super) fn add_config(
        &mut self,
        command: &Command,
        running: &Command,
        path: &Path,
        dotenv: &Dotenv,
    ) -> anyhow::Result<()> {
        let mut sections = read_sections(path)?;
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

fn read_sections(path: &Path) -> anyhow::Result<Sections> {
    let cannot = || format!("cannot read the config file `{}`", path.display());
    let text = fs::read_to_string(path).map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::NotFound => "check the path that --config or EVENTCTL_CONFIG gives",
            _ => "check the file's permissions; it is UTF-8 text",
        };
        hinted(format!("{}: {error}", cannot()), hint)
    })?;
    file::parse(&text)
        .map_err(|error| {
            let problem = error.to_string();
            let problem = problem.trim_start_matches("error: ").lines().next().unwrap_or_default();
            anyhow::anyhow!("{}: {}", cannot(), redacted_words(problem))
        })
        .hint("write a section a subcommand and in it a key a flag, such as `port: 8000` under `consume:`")
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

/// The settings of a subcommand that can stand in the config file.
fn settings(command: &Command) -> impl Iterator<Item = &Arg> {
    command
        .get_arguments()
        .filter(|arg| !matches!(arg.get_long(), Some("help" | "version" | "config") | None))
}

/// The subcommand whose alert settings hold where the one that runs has none of its own: `alert-test` tries those of
/// `consume`.
fn lender(running: &Command) -> &str {
    if running.get_name() == "alert-test" { "consume" } else { "" }
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

/// Makes sure that a file of settings that holds a secret is its owner's alone.
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
