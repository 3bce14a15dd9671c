//! From the command line, the environment, `.env` and the config file to one set of settings.
//!
//! `.env` and the config file become the defaults of the flags, so that a value is read by the same
//! rules wherever it stands, and flag, environment, `.env`, config file win in this order.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::ErrorKind as IoErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::builder::OsStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;

use crate::cli::{Cli, Command as CliCommand};
use crate::core::hint::{Hint, hinted};
use crate::core::secret::check_private;
use crate::core::text::excerpt;

/// What reading the settings comes to.
pub enum Settings {
    /// Settings to run with.
    Run(Box<Cli>),
    /// A text that was asked for: help or version, in the terminal's colours.
    Print(clap::Error),
}

/// Reads all settings; `arguments` begin with the program's name.
///
/// # Errors
/// A value that is wrong: which, of what setting, where it came from and what would be right.
pub fn read(arguments: &[OsString]) -> anyhow::Result<Settings> {
    let command = command();
    let dotenv = read_dotenv(Path::new(".env"))?;
    let mut layers = Layers::default();
    let lenient = command.clone().ignore_errors(true).try_get_matches_from(arguments).ok();
    if let Some(path) = config_path(lenient.as_ref(), &dotenv) {
        let running = lenient.as_ref().and_then(ArgMatches::subcommand_name);
        layers.add_config(&command, running, &path, &dotenv)?;
    }
    layers.add_dotenv(&command, &dotenv)?;
    let command = layers.apply(command);
    let matches = command.clone().try_get_matches_from(arguments);
    if let Ok(matches) = &matches {
        refuse_secrets_in_arguments(&command, matches)?;
    }
    let cli = matches.and_then(|matches| Cli::from_arg_matches(&matches).map(|cli| (cli, matches)));
    match cli {
        Ok((mut cli, matches)) => {
            choose_what_to_show(&mut cli, &matches)?;
            Ok(Settings::Run(Box::new(cli)))
        }
        Err(error) if !error.use_stderr() => Ok(Settings::Print(error)),
        Err(error) => Err(explain(&error, arguments, &layers)),
    }
}

/// The command line with all its settings and their environment variables.
pub fn command() -> Command {
    with_environment(Cli::command())
}

/// Gives every setting without an environment variable of its own `EVENTCTL_` and its name.
fn with_environment(command: Command) -> Command {
    let name_variable = |arg: Arg| {
        let arg = arg.hide_env_values(true);
        match arg.get_long() {
            Some("help" | "version") | None => arg,
            Some(_) if arg.get_env().is_some() => arg,
            Some(long) => {
                let variable = format!("EVENTCTL_{}", long.to_ascii_uppercase().replace('-', "_"));
                arg.env(OsStr::from(variable))
            }
        }
    };
    command.mut_args(name_variable).mut_subcommands(move |command| command.mut_args(name_variable))
}

/// The settings that are passwords, keys and tokens.
const SECRETS: [&str; 6] =
    ["--password", "--signing-key", "--previous-signing-key", "--token", "--alert-secret", "--smtp-password"];

/// The settings whose values show a secret, or may.
const NOT_SHOWN: [&str; 3] = ["--header", "--alert", "--alert-on"];

fn is_secret(arg: &Arg) -> bool {
    arg.is_hide_set()
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

type Variables = BTreeMap<String, String>;

fn read_dotenv(path: &Path) -> anyhow::Result<Variables> {
    let lines = match dotenvy::from_path_iter(path) {
        Ok(lines) => lines,
        Err(error) if error.not_found() => return Ok(Variables::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", path.display())),
    };
    // What dotenvy says of a wrong line repeats it, and it may hold a password.
    let variables: Result<Variables, dotenvy::Error> = lines.collect();
    variables.map_err(|error| {
        let reason = match error {
            dotenvy::Error::Io(error) => error.to_string(),
            _ => "a line is not NAME=value".to_owned(),
        };
        let problem = format!("cannot read `{}`: {reason}", path.display());
        hinted(problem, "write a variable a line, as NAME=value, with quotes around spaces")
    })
}

/// The config file's path: it is needed before the rest can be parsed.
fn config_path(lenient: Option<&ArgMatches>, dotenv: &Variables) -> Option<PathBuf> {
    let given = lenient.and_then(|matches| matches.get_one::<PathBuf>("config").cloned());
    given.or_else(|| dotenv.get("EVENTCTL_CONFIG").map(PathBuf::from))
}

/// Values from `.env` and the config file, by subcommand and setting.
#[derive(Default)]
struct Layers {
    values: BTreeMap<(String, String), Layered>,
}

struct Layered {
    values: Vec<String>,
    source: String,
}

impl Layers {
    fn add_dotenv(&mut self, command: &Command, dotenv: &Variables) -> anyhow::Result<()> {
        for subcommand in command.get_subcommands() {
            for arg in subcommand.get_arguments() {
                let Some(variable) = arg.get_env().and_then(|variable| variable.to_str()) else { continue };
                let Some(value) = dotenv.get(variable) else { continue };
                if is_secret(arg) {
                    check_holder(Path::new(".env"))?;
                }
                let source = format!("`{variable}` in `.env`");
                let layered = Layered { values: vec![value.clone()], source };
                self.values.insert((subcommand.get_name().to_owned(), arg.get_id().to_string()), layered);
            }
        }
        Ok(())
    }

    /// Checks the keys of all sections, and takes the values of the one whose subcommand is to run: the
    /// variables of the others need not be set.
    fn add_config(
        &mut self,
        command: &Command,
        running: Option<&str>,
        path: &Path,
        dotenv: &Variables,
    ) -> anyhow::Result<()> {
        let shown = path.display();
        let cannot = || format!("cannot read the config file `{shown}`");
        let text = fs::read_to_string(path).map_err(|error| {
            let hint = match error.kind() {
                IoErrorKind::NotFound => "check the path that --config or EVENTCTL_CONFIG gives",
                _ => "check the file's permissions; it is UTF-8 text",
            };
            hinted(format!("{}: {error}", cannot()), hint)
        })?;
        let sections: BTreeMap<String, BTreeMap<String, ConfigValue>> = serde_saphyr::from_str(&text)
            .map_err(|error| {
                let problem = one_line(error.to_string().trim_start_matches("error: "));
                anyhow::anyhow!("{}: {}", cannot(), redacted_words(&problem))
            })
            .hint(
                "write a section a subcommand and in it a key a flag, such as `port: 8000` under `consume:`",
            )?;
        for (section, keys) in sections {
            let names = command.get_subcommands().map(Command::get_name);
            let subcommand =
                command.find_subcommand(&section).ok_or_else(|| unknown(&cannot(), &section, names))?;
            for (key, value) in keys {
                let settings = || subcommand.get_arguments().filter(|arg| is_setting(arg));
                let arg = settings().find(|arg| arg.get_long() == Some(key.as_str()));
                let names = settings().filter_map(Arg::get_long);
                let arg = arg.ok_or_else(|| unknown(&format!("{}: `{section}`", cannot()), &key, names))?;
                if running != Some(section.as_str()) {
                    continue;
                }
                if is_secret(arg) && !value.is_references() {
                    check_holder(path)?;
                }
                let source = format!("`{section}: {key}` in `{shown}`");
                let values = value.into_values(dotenv).with_context(|| source.clone())?;
                if values.len() > 1 && !matches!(arg.get_action(), ArgAction::Append) {
                    return Err(hinted(
                        format!("{source}: expected one value, got a list"),
                        "give a single value",
                    ));
                }
                self.values.insert((section.clone(), arg.get_id().to_string()), Layered { values, source });
            }
        }
        Ok(())
    }

    /// Makes the values the defaults of their flags.
    fn apply(&self, command: Command) -> Command {
        let mut command = command;
        for ((section, id), layered) in &self.values {
            command = command.mut_subcommand(section, |subcommand| {
                let defaults: Vec<OsStr> = layered.values.iter().map(OsStr::from).collect();
                // The help would show them as defaults, and one of them may be a password.
                subcommand.mut_arg(id, |arg| {
                    let takes_value = arg.get_action().takes_values();
                    arg.default_values(defaults).hide_default_value(takes_value)
                })
            });
        }
        command
    }
}

/// Whether a value is a variable and nothing else: `${NAME}`, which says nothing of its content.
fn is_reference(value: &str) -> bool {
    let name = value.strip_prefix("${").and_then(|value| value.strip_suffix('}'));
    name.is_some_and(|name| name.chars().all(|character| character.is_alphanumeric() || character == '_'))
}

/// Makes sure that a file of settings that holds a secret is its owner's alone.
fn check_holder(path: &Path) -> anyhow::Result<()> {
    let file = fs::File::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    check_private(path, &file)
}

fn is_setting(arg: &Arg) -> bool {
    !matches!(arg.get_long(), Some("help" | "version" | "config"))
}

fn one_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn unknown<'a>(place: &str, key: &str, known: impl Iterator<Item = &'a str>) -> anyhow::Error {
    let distance = |name: &&str| strsim::damerau_levenshtein(name, key);
    let nearest = known.min_by_key(distance).unwrap_or_default();
    hinted(format!("{place}: unknown key `{}`", redacted_url(key)), format!("did you mean `{nearest}`?"))
}

/// What stands behind a key: a scalar as it would be written behind the flag, a list, or an object, which is
/// written behind the flag as JSON.
enum ConfigValue {
    Scalar(String),
    List(Vec<ConfigValue>),
    Object(BTreeMap<String, ConfigValue>),
}

impl ConfigValue {
    /// Whether it is made of variables and nothing else.
    fn is_references(&self) -> bool {
        match self {
            ConfigValue::Scalar(text) => is_reference(text),
            ConfigValue::List(items) => items.iter().all(ConfigValue::is_references),
            ConfigValue::Object(members) => members.values().all(ConfigValue::is_references),
        }
    }

    /// The values of the flag: several for a list.
    fn into_values(self, dotenv: &Variables) -> anyhow::Result<Vec<String>> {
        let items = match self {
            ConfigValue::List(items) => items,
            single => vec![single],
        };
        let text = |json| match json {
            Json::String(text) => text,
            json => json.to_string(),
        };
        items.into_iter().map(|item| item.into_json(dotenv).map(text)).collect()
    }

    fn into_json(self, dotenv: &Variables) -> anyhow::Result<Json> {
        Ok(match self {
            ConfigValue::Scalar(text) => Json::String(interpolate(&text, dotenv)?),
            ConfigValue::List(items) => {
                Json::Array(items.into_iter().map(|item| item.into_json(dotenv)).collect::<Result<_, _>>()?)
            }
            ConfigValue::Object(members) => {
                let members = members.into_iter().map(|(name, value)| Ok((name, value.into_json(dotenv)?)));
                Json::Object(members.collect::<anyhow::Result<_>>()?)
            }
        })
    }
}

impl<'de> Deserialize<'de> for ConfigValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ConfigValue, D::Error> {
        struct ValueVisitor;
        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = ConfigValue;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a value or a list of values")
            }

            fn visit_str<E>(self, text: &str) -> Result<ConfigValue, E> {
                Ok(ConfigValue::Scalar(text.to_owned()))
            }

            fn visit_bool<E>(self, value: bool) -> Result<ConfigValue, E> {
                Ok(ConfigValue::Scalar(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<ConfigValue, E> {
                Ok(ConfigValue::Scalar(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<ConfigValue, E> {
                Ok(ConfigValue::Scalar(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<ConfigValue, E> {
                Ok(ConfigValue::Scalar(value.to_string()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<ConfigValue, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = items.next_element()? {
                    values.push(value);
                }
                Ok(ConfigValue::List(values))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<ConfigValue, A::Error> {
                let mut values = BTreeMap::new();
                while let Some((name, value)) = members.next_entry()? {
                    values.insert(name, value);
                }
                Ok(ConfigValue::Object(values))
            }
        }
        deserializer.deserialize_any(ValueVisitor)
    }
}

/// Replaces `${NAME}` and `${NAME:-default}` by what the environment or `.env` has; `$$` is a `$`.
fn interpolate(text: &str, dotenv: &Variables) -> anyhow::Result<String> {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        result.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            result.push('$');
            rest = after;
            continue;
        }
        let Some((name, after)) = after.strip_prefix('{').and_then(|after| after.split_once('}')) else {
            result.push('$');
            rest = after;
            continue;
        };
        let (name, default) = match name.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (name, None),
        };
        let value = env::var(name).ok().or_else(|| dotenv.get(name).cloned());
        match (value.filter(|value| !value.is_empty()), default) {
            (Some(value), _) => result.push_str(&value),
            (None, Some(default)) => result.push_str(default),
            (None, None) => {
                let name = redacted("", name);
                let problem = format!("the environment variable `{name}` is not set");
                return Err(hinted(problem, format!("set it, or give a default: ${{{name}:-default}}")));
            }
        }
        rest = after;
    }
    Ok(result + rest)
}

/// Says what is wrong with the command line in one line, and where a wrong value came from.
fn explain(error: &clap::Error, arguments: &[OsString], layers: &Layers) -> anyhow::Error {
    let text_of = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        _ => None,
    };
    let subcommand = Cli::command()
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .find(|name| arguments.iter().any(|argument| argument == name.as_str()));
    let help = match &subcommand {
        Some(name) => format!("run eventctl {name} --help"),
        None => "run eventctl --help".to_owned(),
    };
    let wrong_value = matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue);
    let (Some(flag), Some(value), true) =
        (text_of(ContextKind::InvalidArg), text_of(ContextKind::InvalidValue), wrong_value)
    else {
        let message = match (error.kind(), text_of(ContextKind::InvalidArg)) {
            (ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, _) => "expected a subcommand".to_owned(),
            // What is in the wrong place may be a URL with a password, or one that is a secret as a whole.
            (ErrorKind::UnknownArgument, Some(argument)) => {
                format!("unexpected argument `{}` found", redacted_url(&argument))
            }
            _ => one_line(error.to_string().trim_start_matches("error: ")).replace('\'', "`"),
        };
        let suggestion = text_of(ContextKind::SuggestedArg).or(text_of(ContextKind::SuggestedSubcommand));
        let hint = suggestion.map_or(help.clone(), |name| {
            // A secret itself is not for the command line.
            let name = if SECRETS.contains(&name.as_str()) { format!("{name}-file") } else { name };
            format!("did you mean `{name}`? {help}")
        });
        return hinted(message, hint);
    };
    // Behind the name is what stands for its value, or dots where it counts.
    let flag = flag.split(' ').next().unwrap_or_default().trim_end_matches('.').to_owned();
    let expected = match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => match text_of(ContextKind::ValidValue).filter(|values| !values.is_empty()) {
            Some(values) => format!("expected one of {values}"),
            None => "expected a value".to_owned(),
        },
    };
    let source = source_of(&flag, subcommand.as_deref(), arguments, layers);
    hinted(format!("invalid value `{}` for `{flag}`{source}: {expected}", redacted(&flag, &value)), help)
}

/// Where the value of a flag came from, if not from the command line.
fn source_of(flag: &str, subcommand: Option<&str>, arguments: &[OsString], layers: &Layers) -> String {
    let command = command();
    let subcommand = subcommand.and_then(|name| command.find_subcommand(name)).unwrap_or(&command);
    let long = flag.trim_start_matches('-');
    let Some(arg) = subcommand.get_arguments().find(|arg| arg.get_long() == Some(long)) else {
        return String::new();
    };
    let is_flag = |argument: &OsString| {
        let argument = argument.to_string_lossy();
        let short = arg.get_short().is_some_and(|short| argument.starts_with(&format!("-{short}")));
        short || argument.split('=').next() == Some(flag)
    };
    if arguments.iter().any(is_flag) {
        return String::new();
    }
    let variable = arg.get_env().unwrap_or_default();
    if env::var_os(variable).is_some() {
        return format!(" (from the environment variable `{}`)", variable.to_string_lossy());
    }
    let layered = layers.values.get(&(subcommand.get_name().to_owned(), arg.get_id().to_string()));
    layered.map_or_else(String::new, |layered| format!(" (from {})", layered.source))
}

/// A wrong value without the password that it may hold.
fn redacted(flag: &str, value: &str) -> String {
    if NOT_SHOWN.contains(&flag) || SECRETS.contains(&flag) {
        return "[not shown]".to_owned();
    }
    let Some(at) = value.rfind('@') else { return excerpt(value, 200) };
    let scheme = value[..at].find("://").map_or("", |end| &value[..end + 3]);
    format!("{}…{}", excerpt(scheme, 50), excerpt(&value[at..], 150))
}

/// A text that does not belong where it stands, without the URL that it may be.
fn redacted_url(text: &str) -> String {
    match text.find("://") {
        Some(end) => excerpt(&text[..end + 3], 50) + "…",
        None => redacted("", text),
    }
}

/// A message of someone else's, in which each word may be a wrong value.
fn redacted_words(message: &str) -> String {
    let words = message.split(' ').map(|word| {
        if word.contains('@') || word.contains("://") { redacted_url(word) } else { word.to_owned() }
    });
    excerpt(&words.collect::<Vec<_>>().join(" "), 300)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_interpolated() {
        let dotenv = Variables::from([("EVENTCTL_TEST_NAME".to_owned(), "value".to_owned())]);
        for (text, expected) in [
            ("a ${EVENTCTL_TEST_NAME} b", "a value b"),
            ("${EVENTCTL_TEST_UNSET:-x:-y}", "x:-y"),
            ("$$5 and $5 and ${", "$5 and $5 and ${"),
        ] {
            assert_eq!(interpolate(text, &dotenv).unwrap(), expected);
        }
        let error = interpolate("${EVENTCTL_TEST_UNSET}", &dotenv).unwrap_err();
        assert!(error.to_string().contains("EVENTCTL_TEST_UNSET"));
    }

    #[test]
    fn secrets_are_the_hidden_settings() {
        let mut secrets: Vec<String> = Cli::command()
            .get_subcommands()
            .flat_map(Command::get_arguments)
            .filter(|arg| is_secret(arg))
            .map(|arg| format!("--{}", arg.get_long().unwrap()))
            .collect();
        secrets.sort();
        secrets.dedup();
        let mut expected = SECRETS;
        expected.sort_unstable();
        assert_eq!(secrets, expected);
    }

    #[test]
    fn a_reference_holds_no_secret() {
        assert!(is_reference("${PASSWORD_2}"));
        for literal in
            ["secret", "${NAME:-secret}", "a${NAME}", "${NAME}a", "${A}b${C}", "$${NAME}", "pa$$${X}"]
        {
            assert!(!is_reference(literal), "{literal}");
        }
    }

    #[test]
    fn passwords_are_redacted() {
        assert_eq!(redacted("--db", "redis://user:secret@host/1"), "redis://…@host/1");
        assert_eq!(redacted("--header", "Authorization secret"), "[not shown]");
        assert_eq!(redacted("--port", "80\n"), "80\\n");
        assert_eq!(redacted("--endpoint", "user:secret@host/"), "…@host/");
        assert_eq!(redacted("--endpoint", "\u{1b}://secret@\u{202e}"), "\\u{1b}://…@\\u{202e}");
        assert!(redacted("--db", &format!("x://secret@{}", "h".repeat(100_000))).len() < 300);
        assert_eq!(redacted_words("key a:secret@b is\nwrong"), "key …@b is\\nwrong");
        assert_eq!(redacted_url("slack:https://hooks.slack.com/secret"), "slack:https://…");
    }
}
