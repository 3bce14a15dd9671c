//! How `--help` and the manual pages arrange the options, and which of them `-h` shows.

use clap::{Arg, Command};

use super::manual::pages::examples_of;

/// Groups of options; those that stand in none are about what the subcommand is for.
const GROUPS: [(&str, &[&str]); 19] = [
    ("Network", &["port", "host", "listen", "trusted-proxy", "allowed-host", "allow-origin"]),
    ("Server", &["endpoint", "header", "health"]),
    ("Store", &["db", "read-db", "from", "require-replicas", "allow-weak-durability", "allow-unordered-ids"]),
    ("Input", &["file", "template", "order", "seed", "count", "duration", "dry-run"]),
    (
        "Schedule",
        &["period", "rate", "arrivals", "start-at", "pace", "speed", "max-in-flight", "max-lateness"],
    ),
    ("Verdict", &["fail-if", "junit", "histogram"]),
    ("Delivery", &["retries", "format", "sign-secret-file", "dead-letter", "journal"]),
    ("Work", &["subscription", "exec", "claim", "parallel"]),
    ("Verification", &["verify", "read-command"]),
    ("Selection", &["lines", "after", "type", "since", "until", "follow", "stats", "alerts"]),
    (
        "Limits",
        &[
            "body-limit",
            "header-limit",
            "max-connections",
            "max-connections-per-address",
            "queue-events",
            "queue-bytes",
        ],
    ),
    (
        "Timeouts",
        &[
            "header-timeout",
            "body-timeout",
            "response-timeout",
            "idle-timeout",
            "store-timeout",
            "lame-duck",
            "drain-timeout",
            "timeout",
            "health-timeout",
        ],
    ),
    ("Retention", &["keep", "keep-events", "keep-bytes", "keep-keys"]),
    (
        "Authentication",
        &[
            "username",
            "password-file",
            "signing-key-file",
            "previous-signing-key-file",
            "token-file",
            "clients",
            "insecure-allow-anonymous",
            "token-url",
            "grant",
            "scope",
            "audience",
        ],
    ),
    ("TLS", &["tls-cert", "tls-key", "tls-client-ca", "cacert", "cert", "key", "insecure-skip-verify"]),
    ("Webhooks", &["hook", "forward"]),
    (
        "Alerts",
        &[
            "alert",
            "alert-on",
            "alert-repeat-after",
            "alert-rate",
            "alert-give-up-after",
            "alert-templates",
            "alert-allow-private",
            "alert-cacert",
            "alert-secret-file",
        ],
    ),
    (
        "Mail",
        &[
            "health-alert-receiver",
            "smtp-host",
            "smtp-port",
            "smtp-user",
            "smtp-password-file",
            "smtp-tls",
            "smtp-hello",
            "sender-addr",
        ],
    ),
    ("Logging", &["log-format", "log-level", "verbose", "quiet", "output", "color", "metrics"]),
];

/// What most people need: `-h` shows these, and `--help` all.
const COMMON: [&str; 35] = [
    "port",
    "host",
    "db",
    "from",
    "endpoint",
    "file",
    "period",
    "count",
    "duration",
    "order",
    "health",
    "dead-letter",
    "dry-run",
    "keep",
    "keep-events",
    "username",
    "password-file",
    "tls-cert",
    "tls-key",
    "cacert",
    "alert",
    "alert-on",
    "lines",
    "follow",
    "after",
    "type",
    "since",
    "stats",
    "alerts",
    "output",
    "quiet",
    "verbose",
    "event-type",
    "payload",
    "resend",
];

/// A command whose help is arranged: groups, a short `-h`, and the examples of the manual page.
pub fn arranged(command: Command) -> Command {
    let examples = examples_of(command.get_name()).replace('\n', "\n  ").replace("\n  \n", "\n\n");
    let rest = command.get_after_help().map(|rest| format!("\n\n{rest}")).unwrap_or_default();
    command.mut_args(in_group).after_long_help(format!("Examples:\n  {examples}{rest}"))
}

fn in_group(arg: Arg) -> Arg {
    let Some(long) = arg.get_long().filter(|long| !["config", "help", "version"].contains(long)) else {
        return arg;
    };
    let group = GROUPS.iter().find(|(_, names)| names.contains(&long)).map(|(group, _)| *group);
    let is_common = COMMON.contains(&long);
    arg.help_heading(group).hide_short_help(!is_common)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn groups_and_short_help_name_options_that_exist() {
        let command = Cli::command();
        let options = command.get_subcommands().flat_map(Command::get_arguments);
        let names: Vec<&str> = options.filter_map(Arg::get_long).collect();
        for name in GROUPS.iter().flat_map(|(_, names)| *names).chain(&COMMON) {
            assert!(names.contains(name), "there is no --{name}");
        }
        // An option that is in no group is about what its subcommand is for.
        let grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let hidden = [
            "password",
            "signing-key",
            "previous-signing-key",
            "token",
            "sign-secret",
            "alert-secret",
            "smtp-password",
        ];
        let others: Vec<&str> =
            names.into_iter().filter(|name| !grouped.contains(name) && !hidden.contains(name)).collect();
        assert_eq!(others, ["event-type", "payload", "resend"]);
    }
}
