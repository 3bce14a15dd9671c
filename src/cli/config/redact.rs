//! Removes secrets from invalid values before an error repeats them.

use clap::Arg;

use crate::core::text::excerpt;

/// The settings that are passwords, keys and tokens.
pub(super) const SECRETS: [&str; 7] = [
    "--password",
    "--signing-key",
    "--previous-signing-key",
    "--token",
    "--sign-secret",
    "--alert-secret",
    "--smtp-password",
];

/// Settings whose values may contain a secret.
const NOT_SHOWN: [&str; 4] = ["--header", "--alert", "--alert-on", "--forward"];

pub(super) fn is_secret(arg: &Arg) -> bool {
    arg.is_hide_set()
}

/// A wrong value without the password that it may hold.
pub(super) fn redacted(flag: &str, value: &str) -> String {
    if NOT_SHOWN.contains(&flag) || SECRETS.contains(&flag) {
        return "[not shown]".to_owned();
    }
    let scheme = value.find("://").map(|end| &value[..end + 3]);
    // The end of the password is uncertain: it may contain an `@` itself.
    match (scheme, value.rfind('@')) {
        (Some(scheme), Some(_)) => format!("{}…", excerpt(scheme, 50)),
        (None, Some(_)) if value.contains(':') => "…".to_owned(),
        (None, Some(at)) => format!("…{}", excerpt(&value[at..], 150)),
        (_, None) => excerpt(value, 200),
    }
}

/// A name that may be a value in the wrong place.
pub(super) fn redacted_name(name: &str) -> String {
    redacted("", name)
}

/// A text that does not belong where it stands, without the URL that it may be.
pub(super) fn redacted_url(text: &str) -> String {
    match text.find("://") {
        Some(end) => excerpt(&text[..end + 3], 50) + "…",
        None => redacted_name(text),
    }
}

/// A message of a library, in which each word may be an invalid value.
pub(super) fn redacted_words(message: &str) -> String {
    let words = message.split(' ').map(|word| {
        if word.contains('@') || word.contains("://") { redacted_url(word) } else { word.to_owned() }
    });
    excerpt(&words.collect::<Vec<_>>().join(" "), 300)
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory};

    use super::*;
    use crate::cli::Cli;

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
    fn passwords_are_redacted() {
        assert_eq!(redacted("--db", "redis://user:secret@host/1"), "redis://…");
        assert_eq!(redacted("--header", "Authorization secret"), "[not shown]");
        assert_eq!(redacted("--port", "80\n"), "80\\n");
        assert_eq!(redacted("--endpoint", "user:secret@host/"), "…");
        assert_eq!(redacted("--sender-addr", "secret@@host"), "…@host");
        assert_eq!(redacted("--endpoint", "\u{1b}://secret@\u{202e}"), "\\u{1b}://…");
        assert!(redacted("--db", &format!("x://secret@{}", "h".repeat(100_000))).len() < 300);
        assert_eq!(redacted_words("key a:secret@b is\nwrong"), "key … is\\nwrong");
        assert_eq!(redacted_url("slack:https://hooks.slack.com/secret"), "slack:https://…");
    }
}
