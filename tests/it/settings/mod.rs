//! Settings: where they come from, who wins, and what is said of wrong ones.

mod environment;
mod secrets;

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::{TempDir, tempdir};

use crate::util::http::event;
use crate::util::{
    Consume, Process, assert_eventctl, eventctl, refusal_of, stored_events, wait_until, write_file,
};

const SUBCOMMANDS: [&str; 5] = ["consume", "propagate", "init-db", "tail", "alert-test"];

/// What must not be shown.
const SECRET: &str = "hunter2";

fn run(directory: &Path, arguments: &[&str]) -> Output {
    eventctl(directory).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// The two lines with which a wrong use is refused.
fn usage_error(directory: &Path, arguments: &[&str]) -> (String, String) {
    refusal_of(eventctl(directory).args(arguments), 2)
}

/// The two lines with which a config file is refused.
fn config_error(text: impl AsRef<[u8]>) -> (String, String) {
    let directory = tempdir().unwrap();
    write_file(directory.path(), "c.yaml", text);
    usage_error(directory.path(), &["tail", "--config", "c.yaml"])
}

/// A directory with a store of twelve events.
fn twelve_events() -> TempDir {
    let directory = tempdir().unwrap();
    let mut server = Consume::start(directory.path());
    let events: Vec<String> = (1..=12).map(|id| event("a", &id.to_string())).collect();
    assert_eq!(server.connect().post(format!("[{}]", events.join(","))).status, 201);
    assert!(server.process.terminate().success());
    directory
}

#[test]
fn a_flag_beats_the_environment_beats_dotenv_beats_the_config_file_beats_the_default() {
    for (sources, winner) in [
        (&["flag", "environment", "dotenv", "config"][..], "flag.db"),
        (&["flag", "config"], "flag.db"),
        (&["environment", "dotenv", "config"], "environment.db"),
        (&["environment", "config"], "environment.db"),
        (&["dotenv", "config"], "dotenv.db"),
        (&["dotenv"], "dotenv.db"),
        (&["config"], "config.db"),
        (&[], "events.db"),
    ] {
        let directory = tempdir().unwrap();
        let mut command = assert_eventctl(directory.path());
        command.arg("init-db");
        for source in sources {
            match *source {
                "flag" => drop(command.args(["--db", "flag.db"])),
                "environment" => drop(command.env("DATABASE_URL", "environment.db")),
                "dotenv" => drop(write_file(directory.path(), ".env", "DATABASE_URL=dotenv.db\n")),
                _ => {
                    write_file(directory.path(), "c.yaml", "init-db:\n  db: config.db\n");
                    command.args(["--config", "c.yaml"]);
                }
            }
        }
        command.assert().code(0).stderr(format!("prepared {winner}\n"));
        assert!(directory.path().join(winner).exists(), "{sources:?}");
    }
}

#[test]
fn settings_without_a_name_of_their_own_have_the_same_precedence() {
    let directory = twelve_events();
    let lines = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().lines().count()
    };
    let tail = || {
        let mut command = eventctl(directory.path());
        command.arg("tail");
        command
    };
    assert_eq!(lines(&mut tail()), 10);
    write_file(directory.path(), "c.yaml", "tail:\n  lines: 2\n");
    let configured = || {
        let mut command = tail();
        command.args(["--config", "c.yaml"]);
        command
    };
    assert_eq!(lines(&mut configured()), 2);
    write_file(directory.path(), ".env", "EVENTCTL_LINES=3\n");
    assert_eq!(lines(&mut configured()), 3);
    assert_eq!(lines(configured().env("EVENTCTL_LINES", "4")), 4);
    assert_eq!(lines(configured().env("EVENTCTL_LINES", "4").args(["-n", "5"])), 5);
}

#[test]
fn the_config_file_is_found_by_flag_environment_and_dotenv() {
    let directory = twelve_events();
    for lines in 1..=3 {
        write_file(directory.path(), &format!("{lines}.yaml"), format!("tail:\n  lines: {lines}\n"));
    }
    let lines =
        |command: &mut Command| String::from_utf8(command.output().unwrap().stdout).unwrap().lines().count();
    write_file(directory.path(), ".env", "EVENTCTL_CONFIG=3.yaml\n");
    assert_eq!(lines(eventctl(directory.path()).arg("tail")), 3);
    assert_eq!(lines(eventctl(directory.path()).arg("tail").env("EVENTCTL_CONFIG", "2.yaml")), 2);
    let mut command = eventctl(directory.path());
    command.env("EVENTCTL_CONFIG", "2.yaml");
    assert_eq!(lines(command.args(["--config", "1.yaml", "tail"])), 1);
}

#[test]
fn one_config_file_serves_sender_and_receiver() {
    let directory = tempdir().unwrap();
    write_file(directory.path(), "events.json", r#"[{"event_type":"a","event_payload":"b"}]"#);
    let config = "consume:\n  port: 0\n  db: ${NAME:-default}.db\n  max-connections: 10\n\
        propagate:\n  endpoint: ${ENDPOINT}\n  period: 10ms\n  count: 3\n  quiet: true\n\
        \x20 header: ['X-First: 1', 'X-Second: 2']\n";
    write_file(directory.path(), "c.yaml", config);
    let mut command = eventctl(directory.path());
    let server = Consume::start_command(
        command.args(["consume", "--config", "c.yaml"]).env("ENDPOINT", "http://nobody/"),
    );
    let mut command = eventctl(directory.path());
    command.args(["propagate", "--config", "c.yaml"]).env("ENDPOINT", server.url("/event"));
    let mut process = Process::start(command.stdout(Stdio::piped()));
    assert_eq!(process.wait().code(), Some(0), "{}", process.stderr());
    assert!(process.stdout().contains("delivered"), "there was no summary");
    assert_eq!(stored_events(&directory.path().join("default.db")).len(), 3);
}

#[test]
fn names_are_replaced_by_the_environment_then_dotenv_then_their_default() {
    let directory = tempdir().unwrap();
    for (db, name) in [
        ("${FROM_ENVIRONMENT}.db", "environment.db"),
        ("${FROM_DOTENV}.db", "dotenv.db"),
        ("${FROM_BOTH:-default}.db", "environment2.db"),
        ("${UNSET:-default}.db", "default.db"),
        ("${EMPTY:-filled}.db", "filled.db"),
        ("${UNSET:-}plain.db", "plain.db"),
        ("a$$b.db", "a$b.db"),
        ("$${UNSET}.db", "${UNSET}.db"),
    ] {
        write_file(directory.path(), "c.yaml", format!("init-db:\n  db: {db}\n"));
        write_file(directory.path(), ".env", "FROM_DOTENV=dotenv\nFROM_BOTH=dotenv\n");
        let mut command = assert_eventctl(directory.path());
        command.envs([("FROM_ENVIRONMENT", "environment"), ("FROM_BOTH", "environment2"), ("EMPTY", "")]);
        command.args(["init-db", "--config", "c.yaml"]).assert().code(0);
        assert!(directory.path().join(name).exists(), "{db}");
    }
}

#[test]
fn a_wrong_use_is_two_lines_and_exit_code_2() {
    let directory = tempdir().unwrap();
    const PERIOD: &str = "expected a duration above zero, such as `5s` or `250ms`";
    const URL: &str = "expected a URL such as `http://127.0.0.1:8000/event`";
    let wrong_period = |value: &str| format!("invalid value `{value}` for `--period`: {PERIOD}");
    let wrong_endpoint =
        |value: &str, why: &str| format!("invalid value `{value}` for `--endpoint`: {why}{URL}");
    for (arguments, error, hint) in [
        (&["--config", "none.yaml"][..], "expected a subcommand".to_owned(), "run eventctl --help"),
        (&["--nope"], "unexpected argument `--nope` found".to_owned(), "run eventctl --help"),
        (&["initdb"], "unrecognized subcommand `initdb`".to_owned(), "did you mean `init-db`? run eventctl --help"),
        (&["frobnicate"], "unrecognized subcommand `frobnicate`".to_owned(), "run eventctl --help"),
        (
            &["tail", "--line", "5"],
            "unexpected argument `--line` found".to_owned(),
            "did you mean `--lines`? run eventctl tail --help",
        ),
        (&["tail", "extra"], "unexpected argument `extra` found".to_owned(), "run eventctl tail --help"),
        (
            &["tail", "--lines"],
            "invalid value `` for `--lines`: expected a value".to_owned(),
            "run eventctl tail --help",
        ),
        (
            &["tail", "-o", "xml"],
            "invalid value `xml` for `--output`: expected one of text, json, ndjson, envelope, csv".to_owned(),
            "run eventctl tail --help",
        ),
        (
            &["tail", "--type", "[a"],
            "invalid value `[a` for `--type`: expected a `]` for every `[` of the pattern".to_owned(),
            "run eventctl tail --help",
        ),
        (&["propagate", "--period", "0"], wrong_period("0"), "run eventctl propagate --help"),
        (&["propagate", "--period", "0s"], wrong_period("0s"), "run eventctl propagate --help"),
        (&["propagate", "--period=0.0"], wrong_period("0.0"), "run eventctl propagate --help"),
        (
            &["propagate", "--period", "-5"],
            "invalid value `-5` for `--period`: expected a number of seconds that is not negative".to_owned(),
            "run eventctl propagate --help",
        ),
        (
            &["propagate", "--period", "fast"],
            "invalid value `fast` for `--period`: expected a duration such as `5s`, `250ms` or `1m 30s`, or a \
             number of seconds"
                .to_owned(),
            "run eventctl propagate --help",
        ),
        (
            &["propagate", "--endpoint", "ftp://host/"],
            wrong_endpoint("ftp://host/", "`ftp` is neither http nor https; "),
            "run eventctl propagate --help",
        ),
        (
            &["propagate", "--endpoint", "nonsense"],
            wrong_endpoint("nonsense", ""),
            "run eventctl propagate --help",
        ),
        (&["completions"], "expected `<SHELL>`".to_owned(), "run eventctl completions --help"),
        (
            &["propagate", "--endpoint", "localhost"],
            "invalid value `localhost` for `--endpoint`: it has no scheme".to_owned(),
            "write http://localhost",
        ),
        (
            &["propagate", "--count", "0"],
            "invalid value `0` for `--count`: expected a number of 1 or more".to_owned(),
            "run eventctl propagate --help",
        ),
        (
            &["consume", "--port", "65536"],
            "invalid value `65536` for `--port`: expected a port from 0 to 65535".to_owned(),
            "run eventctl consume --help",
        ),
        (
            &["consume", "--port", "http"],
            "invalid value `http` for `--port`: expected a port from 0 to 65535".to_owned(),
            "run eventctl consume --help",
        ),
        (
            &["consume", "--body-limit", "1MB"],
            "invalid value `1MB` for `--body-limit`: expected a size such as `64KiB` or `1MiB`".to_owned(),
            "run eventctl consume --help",
        ),
        (
            &["consume", "--keep", "30"],
            "invalid value `30` for `--keep`: expected a unit: `30d` for days, `30s` for seconds".to_owned(),
            "run eventctl consume --help",
        ),
        (
            &["consume", "--keep-keys", "7"],
            "invalid value `7` for `--keep-keys`: expected a unit: `7d` for days, `7s` for seconds".to_owned(),
            "run eventctl consume --help",
        ),
        (
            &["consume", "--alert-give-up-after", "90"],
            "invalid value `90` for `--alert-give-up-after`: expected a unit: `90d` for days, `90s` for seconds"
                .to_owned(),
            "run eventctl consume --help",
        ),
        (
            &["consume", "--keep", "soon"],
            "invalid value `soon` for `--keep`: expected a duration such as `30d`, `12h` or `1h 30m`".to_owned(),
            "run eventctl consume --help",
        ),
        (
            &["consume", "--keep-bytes", "10GB"],
            "invalid value `10GB` for `--keep-bytes`: expected a size such as `64KiB` or `1MiB`".to_owned(),
            "run eventctl consume --help",
        ),
        (
            &["consume", "--db", ":memory:"],
            "invalid value `:memory:` for `--db`: events in memory would be lost; expected a path such as \
             `events.db`, or a URL such as `sqlite:///events.db`, `postgres://user@host/database` or \
             `mysql://user@host/database`"
                .to_owned(),
            "run eventctl consume --help",
        ),
    ] {
        let refused = usage_error(directory.path(), arguments);
        assert_eq!(refused, (error, hint.to_owned()), "{arguments:?}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_wrong_value_is_named_with_its_source() {
    let directory = tempdir().unwrap();
    let expected = "expected a number or `all`";
    let wrong = |source: &str| format!("invalid value `x` for `--lines` (from {source}): {expected}");
    write_file(directory.path(), "c.yaml", "tail:\n  lines: x\n");
    let (error, hint) = usage_error(directory.path(), &["tail", "--config", "c.yaml"]);
    assert_eq!(error, wrong("`tail: lines` in `c.yaml`"));
    assert_eq!(hint, "run eventctl tail --help");
    write_file(directory.path(), ".env", "EVENTCTL_LINES=x\n");
    let (error, _) = usage_error(directory.path(), &["tail", "--config", "c.yaml"]);
    assert_eq!(error, wrong("`EVENTCTL_LINES` in `.env`"));
    let mut command = eventctl(directory.path());
    let (error, _) = refusal_of(command.args(["tail", "--config", "c.yaml"]).env("EVENTCTL_LINES", "x"), 2);
    assert_eq!(error, wrong("the environment variable `EVENTCTL_LINES`"));
    for flag in [&["--lines", "x"][..], &["--lines=x"], &["-n", "x"], &["-nx"]] {
        let mut command = eventctl(directory.path());
        command.env("EVENTCTL_LINES", "5").args(["tail", "--config", "c.yaml"]).args(flag);
        let (error, _) = refusal_of(&mut command, 2);
        assert_eq!(error, format!("invalid value `x` for `--lines`: {expected}"), "{flag:?}");
    }
}

#[test]
fn a_config_file_that_does_not_fit_is_explained() {
    const READING: &str = "cannot read the config file `c.yaml`: ";
    for (text, error, hint) in [
        ("tial:\n  lines: 5\n", format!("{READING}unknown key `tial`"), "did you mean `tail`?"),
        ("tail:\n  line: 5\n", format!("{READING}`tail`: unknown key `line`"), "did you mean `lines`?"),
        ("consume:\n  prot: 5\n", format!("{READING}`consume`: unknown key `prot`"), "did you mean `port`?"),
        (
            "defaults:\n  prot: 5\n",
            format!("{READING}`defaults`: unknown key `prot`"),
            "did you mean `port`?",
        ),
        ("default:\n  db: 5\n", format!("{READING}unknown key `default`"), "did you mean `defaults`?"),
        (
            "defaults:\n  endpoint: http://host/\n",
            format!("{READING}`defaults`: `endpoint` is not the same setting for all subcommands"),
            "write it in the sections of the subcommands",
        ),
        ("init-db:\n  bd: 5\n", format!("{READING}`init-db`: unknown key `bd`"), "did you mean `db`?"),
        (
            "tail:\n  lines: [1, 2]\n",
            "`tail: lines` in `c.yaml`: expected one value, got a list".to_owned(),
            "give a single value",
        ),
        (
            "tail:\n  lines: ${NOT_SET}\n",
            "`tail: lines` in `c.yaml`: the environment variable `NOT_SET` is not set".to_owned(),
            "set it, or give a default: ${NOT_SET:-default}",
        ),
        (
            "tail:\n  follow: maybe\n",
            "invalid value `maybe` for `--follow` (from `tail: follow` in `c.yaml`): \
             expected true or false, yes or no, 1 or 0"
                .to_owned(),
            "run eventctl tail --help",
        ),
    ] {
        assert_eq!(config_error(text), (error, hint.to_owned()), "{text}");
    }
}

#[test]
fn a_config_file_that_cannot_be_read_is_explained() {
    for text in [
        "tail: [\n",
        "tail:\n lines: 5\n  after: 4\n",
        "tail:\n  lines: 1\n  lines: 2\n",
        "tail:\n  lines: 1\ntail:\n  lines: 2\n",
        "- tail\n",
        "tail: 5\n",
    ] {
        let (error, hint) = config_error(text);
        let reason = error.strip_prefix("cannot read the config file `c.yaml`: ").unwrap_or_default();
        assert!(reason.starts_with("line "), "{text}: {error}");
        assert!(hint.starts_with("write a section a subcommand"), "{text}: {hint}");
        assert!(!reason.contains("Options"), "advice for programmers: {error}");
    }
    let (error, hint) = config_error(b"tail:\n  db: \xff\n");
    assert_eq!(error, "cannot read the config file `c.yaml`: stream did not contain valid UTF-8");
    assert_eq!(hint, "check the file's permissions; it is UTF-8 text");
    let directory = tempdir().unwrap();
    let (error, hint) = usage_error(directory.path(), &["tail", "--config", "none.yaml"]);
    assert_eq!(error, "cannot read the config file `none.yaml`: No such file or directory (os error 2)");
    assert_eq!(hint, "check the path that --config or EVENTCTL_CONFIG gives");
}

/// Lines as other programs write them.
const LINES_OF_OTHERS: [&str; 9] = [
    "GREETING=hello world",
    "FOO",
    "it's",
    "export OTHER=1",
    "KEY='-----BEGIN KEY-----\nDATABASE_URL=no.db\n-----END KEY-----'",
    "UNCLOSED=\"a",
    "JSON={\"a\": [1, 2]}",
    "DB_PASSWORD hunter2",
    "1 = hunter2 x",
];

#[test]
fn lines_of_other_programs_in_dotenv_are_passed_over() {
    for line in LINES_OF_OTHERS {
        let directory = tempdir().unwrap();
        write_file(directory.path(), ".env", format!("\u{feff}{line}\nDATABASE_URL=here.db\n"));
        assert_eventctl(directory.path()).arg("init-db").assert().code(0).stderr("prepared here.db\n");
    }
    let directory = tempdir().unwrap();
    let latin_1 = b"NAME=J\xf6rg\nDATABASE_URL=here.db\n";
    write_file(directory.path(), ".env", latin_1);
    assert_eventctl(directory.path()).arg("init-db").assert().code(0).stderr("prepared here.db\n");
    // Python calls a folder so.
    let directory = tempdir().unwrap();
    std::fs::create_dir(directory.path().join(".env")).unwrap();
    assert_eventctl(directory.path()).arg("init-db").assert().code(0).stderr("prepared events.db\n");
}

#[test]
fn a_wrong_line_of_ours_in_dotenv_is_named_and_not_repeated() {
    const HINT: &str = "write NAME=value, or NAME='value' around spaces, quotes and #";
    let directory = tempdir().unwrap();
    for (line, why) in [
        ("EVENTCTL_TYPE hunter2", "expected `=` behind the name"),
        ("export EVENTCTL_TYPE", "expected `=` behind the name"),
        ("EVENTCTL_TYPE='hunter2", "its quote is not closed"),
        ("EVENTCTL_TYPE=\"hunter2\"hunter2", "text follows the closing quote"),
    ] {
        write_file(directory.path(), ".env", format!("FOO\n\nA='b\nc'\n{line}\nD=e\n"));
        let (error, hint) = usage_error(directory.path(), &["tail"]);
        assert_eq!(error, format!("cannot read `EVENTCTL_TYPE` in line 5 of `.env`: {why}"));
        assert_eq!(hint, HINT);
        // Whoever does not ask for it is not concerned.
        assert_eventctl(directory.path()).arg("init-db").assert().code(0);
    }
}

#[test]
fn values_in_dotenv_are_not_expanded() {
    for (line, name) in [
        ("DATABASE_URL=pa$word1.db", "pa$word1.db"),
        ("DATABASE_URL=\"pa${HOME}$$.db\"", "pa${HOME}$$.db"),
        ("export DATABASE_URL='a b.db'   # a comment", "a b.db"),
        ("DATABASE_URL=a b.db # a comment", "a b.db"),
        ("DATABASE_URL=a#b.db", "a#b.db"),
    ] {
        let directory = tempdir().unwrap();
        write_file(directory.path(), ".env", format!("{line}\n"));
        assert_eventctl(directory.path()).arg("init-db").assert().code(0);
        assert!(directory.path().join(name).exists(), "{line}");
    }
}

#[test]
fn help_version_and_what_has_no_settings_work_whatever_the_settings_are() {
    let directory = tempdir().unwrap();
    write_file(directory.path(), ".env", "EVENTCTL_LINES='x\nEVENTCTL_CONFIG=c.yaml\n");
    write_file(directory.path(), "c.yaml", "nonsense: [\n");
    for arguments in [
        &["--version"][..],
        &["--help"],
        &["help", "tail"],
        &["tail", "--help"],
        &["tail", "-h", "--config", "none.yaml"],
        &["--config", "none.yaml", "tail", "--help"],
        &["completions", "bash"],
        &["man"],
        &["man", "consume"],
    ] {
        let mut command = assert_eventctl(directory.path());
        command.env("EVENTCTL_LINES", "y").args(arguments).assert().code(0).stderr("");
    }
    usage_error(directory.path(), &["tail"]);
}

#[test]
fn without_a_subcommand_help_goes_to_standard_error() {
    let directory = tempdir().unwrap();
    write_file(directory.path(), ".env", "EVENTCTL_CONFIG=none.yaml\n");
    let output = run(directory.path(), &[]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), &b""[..]));
    let stderr = String::from_utf8(output.stderr).unwrap();
    for part in ["Usage: eventctl", "propagate", "Exit status:"] {
        assert!(stderr.contains(part), "{stderr}");
    }
}

#[test]
fn scalars_of_the_config_file_are_its_text() {
    for (scalar, name) in [
        ("0123456789", "0123456789"),
        ("1.10", "1.10"),
        ("1e3", "1e3"),
        ("yes", "yes"),
        ("~", "~"),
        ("null", "null"),
        ("2026-01-15", "2026-01-15"),
        ("'007'", "007"),
    ] {
        let directory = tempdir().unwrap();
        write_file(directory.path(), "c.yaml", format!("\u{feff}init-db:\n  db: {scalar} # a comment\n"));
        assert_eventctl(directory.path()).args(["init-db", "--config", "c.yaml"]).assert().code(0);
        assert!(directory.path().join(name).exists(), "{scalar}");
    }
}

#[test]
fn empty_is_unset_wherever_it_stands() {
    let directory = twelve_events();
    for subcommand in SUBCOMMANDS {
        let entries = help_of(subcommand);
        let variables: Vec<&str> = entries.iter().filter_map(HelpEntry::variable).collect();
        // Every one of them would be wrong, or would change what happens.
        let dotenv: String = variables.iter().map(|variable| format!("{variable}=\n")).collect();
        let keys = entries.iter().filter(|entry| !["help", "config"].contains(&entry.long.as_str()));
        let keys: String = keys.map(|entry| format!("  {}: ${{X:-}}\n", entry.long)).collect();
        write_file(directory.path(), "c.yaml", format!("{subcommand}:\n{keys}"));
        for (content, environment, config) in
            [(dotenv.as_str(), false, false), ("", true, false), ("", false, true)]
        {
            write_file(directory.path(), ".env", content);
            let mut command = eventctl(directory.path());
            command.arg(subcommand).args(if config { &["--config", "c.yaml"][..] } else { &[] });
            command.envs(variables.iter().filter(|_| environment).map(|variable| (variable, "")));
            // What each says where nothing is set but this.
            let (arguments, code, said): (&[&str], i32, &str) = match subcommand {
                "consume" => (&["--host", "0.0.0.0"], 1, "cannot listen on 0.0.0.0:8000: anyone"),
                "propagate" => (&[], 1, "cannot read events from `events.json`"),
                "tail" => (&["--after", "11", "-o", "ndjson"], 0, "\"event_payload\":\"12\""),
                "init-db" => (&[], 0, "prepared events.db"),
                _ => (&[], 1, "there is no channel to test"),
            };
            let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
            let shown = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert_eq!(output.status.code(), Some(code), "{subcommand} {environment} {config}: {shown}");
            assert!(shown.contains(said), "{subcommand} {environment} {config}: {shown}");
        }
    }
}

#[test]
fn switches_are_on_and_off_in_all_the_usual_words() {
    let directory = twelve_events();
    let is_on = |word: &str, place: &str| {
        let mut command = eventctl(directory.path());
        command.args(["tail", "--config", "c.yaml"]);
        write_file(directory.path(), ".env", "");
        write_file(directory.path(), "c.yaml", "");
        match place {
            "environment" => drop(command.env("EVENTCTL_STATS", word)),
            "dotenv" => drop(write_file(directory.path(), ".env", format!("EVENTCTL_STATS={word}\n"))),
            _ => drop(write_file(directory.path(), "c.yaml", format!("tail:\n  stats: {word}\n"))),
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{word} in {place}: {output:?}");
        String::from_utf8(output.stdout).unwrap().lines().count() != 10
    };
    for place in ["environment", "dotenv", "config"] {
        for word in ["1", "true", "yes", "on", "TRUE", "Yes"] {
            assert!(is_on(word, place), "{word} in {place}");
        }
        for word in ["0", "false", "no", "off", "FALSE", ""] {
            assert!(!is_on(word, place), "{word} in {place}");
        }
    }
}

#[test]
fn a_link_to_a_service_is_passed_over_with_a_warning() {
    let directory = tempdir().unwrap();
    let mut command = eventctl(directory.path());
    // What Kubernetes sets for services that are called `app`, `smtp` and `eventctl`.
    for service in ["APP", "SMTP", "EVENTCTL"] {
        command.envs([
            (format!("{service}_PORT"), "tcp://10.0.0.1:80"),
            (format!("{service}_PORT_80_TCP"), "tcp://10.0.0.1:80"),
            (format!("{service}_PORT_80_TCP_ADDR"), "10.0.0.1"),
            (format!("{service}_PORT_80_TCP_PORT"), "80"),
            (format!("{service}_SERVICE_HOST"), "10.0.0.1"),
            (format!("{service}_SERVICE_PORT"), "80"),
        ]);
    }
    write_file(directory.path(), ".env", "APP_PORT=0\n");
    let mut server = Consume::start_command(command.arg("consume"));
    assert!(server.process.terminate().success());
    let stderr = server.process.stderr();
    for variable in ["APP_PORT", "SMTP_PORT"] {
        let warning =
            format!("passed over the environment variable `{variable}`: it is the address of a service");
        assert_eq!(stderr.matches(&warning).count(), 1, "{stderr}");
    }
    assert!(!stderr.contains("EVENTCTL_"), "{stderr}");
}

#[test]
fn the_end_of_a_line_is_no_part_of_a_value() {
    let directory = tempdir().unwrap();
    let prepare = |command: &mut Command| {
        let output = command.arg("init-db").output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, stderr) = prepare(eventctl(directory.path()).env("DATABASE_URL", "here.db\n"));
    assert_eq!((code, stderr.as_str()), (Some(0), "prepared here.db\n"));
    write_file(directory.path(), "c.yaml", "defaults:\n  db: ${NAME}.db\n");
    let mut command = eventctl(directory.path());
    let (code, stderr) = prepare(command.args(["--config", "c.yaml"]).env("NAME", "there\r\n"));
    assert_eq!((code, stderr.as_str()), (Some(0), "prepared there.db\n"));
}

#[test]
fn what_subcommands_share_stands_once_in_the_config_file() {
    let directory = twelve_events();
    std::fs::rename(directory.path().join("events.db"), directory.path().join("shared.db")).unwrap();
    let config = "defaults:\n  db: shared.db\n  output: json\n  port: ${TEST_UNSET}\n\
        tail:\n  lines: 2\ninit-db:\n  db: own.db\npropagate:\n";
    write_file(directory.path(), "c.yaml", config);
    let output = run(directory.path(), &["tail", "--config", "c.yaml"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(shown.lines().filter(|line| line.starts_with('{')).count(), 2, "{shown}");
    let mut command = assert_eventctl(directory.path());
    command.args(["init-db", "--config", "c.yaml"]).assert().code(0).stderr("prepared own.db\n");
}

#[test]
fn alert_test_tries_the_channels_of_consume_where_it_has_none() {
    let directory = tempdir().unwrap();
    let consume = "consume:\n  alert: https://consume.invalid/\n  log-level: nonsense=\n  quiet: nonsense\n";
    let own = "alert-test:\n  alert: https://own.invalid/\n";
    let shared = "defaults:\n  alert: https://shared.invalid/\n";
    for (config, host) in [
        (consume.to_owned(), "consume.invalid"),
        (format!("{consume}{own}{shared}"), "own.invalid"),
        (format!("{consume}{shared}"), "consume.invalid"),
        (shared.to_owned(), "shared.invalid"),
    ] {
        write_file(directory.path(), "c.yaml", config);
        let output = run(directory.path(), &["alert-test", "--config", "c.yaml"]);
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(shown.contains(host), "{shown} {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn hints_name_the_subcommand_that_runs() {
    let directory = tempdir().unwrap();
    let (error, hint) = usage_error(directory.path(), &["propagate", "--file", "consume", "--period", "x"]);
    assert!(error.starts_with("invalid value `x` for `--period`"), "{error}");
    assert_eq!(hint, "run eventctl propagate --help");
    let mut command = eventctl(directory.path());
    command.args(["tail", "--type", "init-db"]).env("EVENTCTL_LINES", "x");
    let (error, hint) = refusal_of(&mut command, 2);
    assert!(error.contains("(from the environment variable `EVENTCTL_LINES`)"), "{error}");
    assert_eq!(hint, "run eventctl tail --help");
}

#[test]
fn a_secret_is_never_shown() {
    let directory = tempdir().unwrap();
    write_file(directory.path(), "db.yaml", "tail:\n  db: postgres://user:hunter2@host/db\n");
    write_file(directory.path(), "broken.yaml", "tail:\n  db: postgres://user:hunter2@host/db: x\n");
    write_file(directory.path(), "quote.yaml", "tail:\n  db: \"postgres://user:hunter2@host/db\n");
    write_file(directory.path(), "list.yaml", "tail:\n  db: [postgres://user:hunter2@host/db, b]\n");
    write_file(directory.path(), "header.yaml", "propagate:\n  header: [Authorization hunter2]\n");
    write_file(directory.path(), "name.yaml", "tail:\n  db: postgres://user:${PASSWORD}@host/db\n");
    for arguments in [
        &["tail", "--db", "postgres://user:hunter2@host/db"][..],
        &["tail", "--db=postgres://user:hunter2@host/db"],
        &["consume", "--db", "postgresql+asyncpg://user:hunter2@host/db"],
        &["init-db", "--db", "mysql://user:hunter2@host/db"],
        &["consume", "--db", "postgres://user:p@ss/w#hunter2@host/db"],
        &["tail", "--db", "mysql://user:p@ss/hunter2@host/db"],
        &["tail", "--db", "postgres://user:p@hunter2@host/db"],
        &["tail", "--db", "postgres://user:p@hunter2"],
        &["init-db", "--db", "postgres//user:hunter2@host/db"],
        &["propagate", "--endpoint", "http://user:p@ss/w#hunter2@host/"],
        &["consume", "--alert", "https://user:p@ss/w#hunter2@host/"],
        &["init-db", "--db", "redis://:hunter2@host"],
        &["init-db", "--db", "redis://user:pass@hunter2@host"],
        &["init-db", "postgres://user:hunter2@host/db"],
        &["init-db", "--database=postgres://user:hunter2@host/db"],
        &["propagate", "--header", "Authorization hunter2"],
        &["propagate", "--header", "Idempotency-Key: hunter2"],
        &["propagate", "--header", "Bad Name: hunter2"],
        &["propagate", "--header", "Authorization: hunter2\n"],
        &["propagate", "--header", "Authorization: hunter2", "--file", "none.json"],
        &["propagate", "--endpoint", "http://user:hunter2@host/"],
        &["propagate", "--endpoint", "ftp://user:hunter2@host/"],
        &["propagate", "--health", "http://user:hunter2@host/"],
        &["tail", "--config", "db.yaml"],
        &["tail", "--config", "broken.yaml"],
        &["tail", "--config", "quote.yaml"],
        &["tail", "--config", "list.yaml"],
        &["tail", "--config", "name.yaml"],
        &["propagate", "--config", "header.yaml"],
    ] {
        let mut command = eventctl(directory.path());
        let output = command.args(arguments).env("PASSWORD", SECRET).output().unwrap();
        let shown = format!("{output:?}");
        assert!(!output.status.success() && !shown.contains(SECRET), "{arguments:?}: {shown}");
        assert!(shown.contains("error: "), "{arguments:?}: {shown}");
    }
    for (variable, value) in [
        ("DATABASE_URL", "postgres://user:hunter2@host.invalid/db"),
        ("EVENTCTL_HEADER", "Authorization hunter2"),
        ("HTTP_POST_ENDPOINT", "http://user:hunter2@host/"),
    ] {
        let subcommand = if variable == "DATABASE_URL" { "tail" } else { "propagate" };
        let environment = eventctl(directory.path()).arg(subcommand).env(variable, value).output().unwrap();
        write_file(directory.path(), ".env", format!("{variable}='{value}'\n"));
        let dotenv = run(directory.path(), &[subcommand]);
        let help =
            eventctl(directory.path()).args([subcommand, "--help"]).env(variable, value).output().unwrap();
        for output in [&environment, &dotenv] {
            // The URL of a store is sound, and its host is not there.
            let code = if variable == "DATABASE_URL" { 1 } else { 2 };
            assert_eq!(output.status.code(), Some(code), "{output:?}");
        }
        let shown = format!("{environment:?} {dotenv:?} {help:?}");
        assert!(!shown.contains(SECRET), "{variable}: {shown}");
    }
}

/// A flag as `--help` shows it: its name, and what is said of it, in one line.
struct HelpEntry {
    long: String,
    text: String,
}

impl HelpEntry {
    fn variable(&self) -> Option<&str> {
        self.text.split_once("[env: ")?.1.split(']').next()
    }
}

fn help_of(subcommand: &str) -> Vec<HelpEntry> {
    let directory = tempdir().unwrap();
    let output = run(directory.path(), &[subcommand, "--help"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let help = String::from_utf8(output.stdout).unwrap();
    let mut entries: Vec<HelpEntry> = Vec::new();
    let (_, options) = help.split_once("Options:").unwrap();
    for line in options.split("\nExamples:\n").next().unwrap().lines() {
        let text = line.trim_start();
        let flag = text.starts_with('-') && line.len() - text.len() <= "  -h, ".len();
        let mut words = text.split_whitespace().peekable();
        if flag {
            let long = words.find_map(|word| word.strip_prefix("--")).unwrap();
            entries.push(HelpEntry { long: long.trim_end_matches('.').to_owned(), text: String::new() });
            // What stands for the value is no explanation.
            words.next_if(|word| word.starts_with('<'));
        }
        let Some(entry) = entries.last_mut() else { continue };
        entry.text.extend(words.flat_map(|word| [word, " "]));
    }
    entries
}

#[test]
fn help_fits_into_80_columns_however_wide_the_terminal() {
    let directory = tempdir().unwrap();
    for help in ["-h", "--help"] {
        for subcommand in [&[][..], &["consume"], &["propagate"], &["init-db"], &["tail"]] {
            for columns in ["80", "300"] {
                let mut command = eventctl(directory.path());
                let output = command.args(subcommand).arg(help).env("COLUMNS", columns).output().unwrap();
                assert_eq!(output.status.code(), Some(0), "{output:?}");
                assert_eq!(output.stderr, b"");
                let text = String::from_utf8(output.stdout).unwrap();
                assert!(text.contains("Usage: eventctl"), "{text}");
                for line in text.lines() {
                    assert!(line.chars().count() <= 80, "{subcommand:?} {help}: {line}");
                }
            }
        }
    }
}

#[test]
fn every_flag_has_a_text_and_an_environment_variable() {
    for subcommand in SUBCOMMANDS {
        let entries = help_of(subcommand);
        assert!(entries.len() > 2, "{subcommand}: no flags were found");
        for entry in entries {
            let long = &entry.long;
            let text = &entry.text;
            assert!(text.len() > 8 && !text.starts_with('['), "{subcommand} --{long} has no help: {text}");
            if long != "help" {
                assert!(entry.variable().is_some(), "{subcommand} --{long} has no environment variable");
            }
        }
    }
}

#[test]
fn the_environment_variables_have_the_names_that_the_design_gives_them() {
    const NAMED: [(&str, &str); 15] = [
        ("log-level", "RUST_LOG"),
        ("health-alert-receiver", "HEALTH_ALERT_RECEIVER"),
        ("smtp-host", "SMTP_HOST"),
        ("smtp-port", "SMTP_PORT"),
        ("smtp-user", "SMTP_USER"),
        ("sender-addr", "SENDER_ADDR"),
        ("period", "PERIOD_IN_SECONDS"),
        ("endpoint", "HTTP_POST_ENDPOINT"),
        ("file", "PAYLOAD_FILE_PATH"),
        ("health", "HEALTH_CHECK_ENDPOINT"),
        ("port", "APP_PORT"),
        ("host", "APP_HOST"),
        ("db", "DATABASE_URL"),
        ("body-limit", "EVENTCTL_BODY_LIMIT"),
        ("dead-letter", "EVENTCTL_DEAD_LETTER"),
    ];
    let mut seen = Vec::new();
    for entry in SUBCOMMANDS.iter().flat_map(|subcommand| help_of(subcommand)) {
        let Some(variable) = entry.variable() else { continue };
        // What `tail` reads from is not what `propagate` sends to.
        let own = variable == "EVENTCTL_ENDPOINT";
        let named = NAMED.iter().find(|(long, _)| *long == entry.long && !own);
        let expected = format!("EVENTCTL_{}", entry.long.to_uppercase().replace('-', "_"));
        assert_eq!(variable, named.map_or(expected.as_str(), |(_, variable)| variable), "--{}", entry.long);
        seen.push(entry.long);
    }
    assert!(NAMED.iter().all(|(long, _)| seen.iter().any(|seen| seen == long)), "{seen:?}");
}

#[test]
fn every_setting_is_read_from_its_environment_variable() {
    // No value of these is wrong before it is used.
    const ANYTHING: [&str; 33] = [
        "histogram",
        "junit",
        "journal",
        "verify",
        "read-command",
        "clients",
        "from",
        "scope",
        "audience",
        "metrics",
        "event-type",
        "smtp-host",
        "smtp-user",
        "smtp-password-file",
        "sender-addr",
        "alert-secret-file",
        "sign-secret-file",
        "exec",
        "alert-templates",
        "alert-cacert",
        "payload",
        "host",
        "file",
        "dead-letter",
        "config",
        "username",
        "password-file",
        "signing-key-file",
        "previous-signing-key-file",
        "token-file",
        "cacert",
        "cert",
        "key",
    ];
    let directory = tempdir().unwrap();
    for subcommand in SUBCOMMANDS {
        for entry in help_of(subcommand) {
            let checked = !entry.long.starts_with("tls-") && !ANYTHING.contains(&entry.long.as_str());
            let Some(variable) = entry.variable().filter(|_| checked) else { continue };
            let value = if entry.long == "db" { "nothing://" } else { "[" };
            let mut command = eventctl(directory.path());
            let (error, _) = refusal_of(command.arg(subcommand).env(variable, value), 2);
            let source = format!("for `--{}` (from the environment variable `{variable}`)", entry.long);
            assert!(error.contains(&source), "{subcommand}: {error}");
        }
    }
}

#[test]
fn the_version_is_printed() {
    let directory = tempdir().unwrap();
    for flag in ["--version", "-V"] {
        let version = format!("eventctl {}\n", env!("CARGO_PKG_VERSION"));
        assert_eventctl(directory.path()).arg(flag).assert().code(0).stdout(version).stderr("");
    }
}

#[test]
fn help_that_nobody_reads_is_no_error() {
    let directory = tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = eventctl(directory.path()).args(["propagate", "--help"]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn a_port_that_is_taken_is_an_error_with_a_way_out() {
    let directory = tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let (error, hint) = refusal_of(eventctl(directory.path()).args(["consume", "--port", &port]), 1);
    let taken = format!("cannot listen on 127.0.0.1:{port}: Address already in use");
    assert!(error.starts_with(&taken), "{error}");
    assert_eq!(hint, "stop what listens there, or choose another --port (0 picks a free one)");
    assert!(!directory.path().join("events.db").exists(), "a store was made");
}

#[test]
fn an_address_of_another_machine_is_an_error_with_a_way_out() {
    let directory = tempdir().unwrap();
    // RFC 5737 and RFC 2606: no machine has this address, and no address this name.
    for host in ["192.0.2.1", "no-such-host.invalid"] {
        let mut command = eventctl(directory.path());
        command.args(["consume", "--port", "0", "--host", host, "--insecure-allow-anonymous"]);
        let (error, hint) = refusal_of(&mut command, 1);
        assert!(error.starts_with(&format!("cannot listen on {host}:0: ")), "{error}");
        assert_eq!(hint, "give --host an address of this machine, such as 127.0.0.1");
    }
}

#[test]
fn nobody_listens_beyond_this_machine_by_accident() {
    let directory = tempdir().unwrap();
    for host in ["0.0.0.0", "::", "192.0.2.1"] {
        let mut command = eventctl(directory.path());
        let (error, hint) = refusal_of(command.args(["consume", "--port", "0", "--host", host]), 1);
        assert!(error.starts_with("cannot listen on "), "{error}");
        assert!(error.ends_with(": anyone who reaches it could read and write events"), "{error}");
        let hints = "ask for tokens with --username or --token-file, or for certificates with --tls-client-ca; \
            or listen on 127.0.0.1; or allow it with --insecure-allow-anonymous";
        assert_eq!(hint, hints);
    }
    assert!(!directory.path().join("events.db").exists(), "a store was made");
}

#[test]
fn whoever_insists_listens_beyond_this_machine() {
    let directory = tempdir().unwrap();
    let mut command = eventctl(directory.path());
    command.args(["consume", "--port", "0", "--host", "0.0.0.0"]);
    let mut server = Consume::start_command(command.env("EVENTCTL_INSECURE_ALLOW_ANONYMOUS", "true"));
    assert!(server.process.wait_for_stderr("listening on").contains("http://0.0.0.0:"));
    wait_until(|| (server.connect().get("/health").status == 200).then_some(()));
}

#[test]
fn the_address_that_is_printed_is_the_one_that_listens() {
    let directory = tempdir().unwrap();
    let [first, second] = [(); 2].map(|()| Consume::start(directory.path()));
    assert_ne!(first.address.port(), 0);
    assert_ne!(first.address, second.address);
    for server in [&first, &second] {
        assert_eq!(server.connect().get("/health").status, 200);
    }
}

#[test]
fn variables_of_other_sections_need_not_be_set() {
    let directory = tempdir().unwrap();
    let config = "tail:\n  lines: ${TEST_UNSET}\ninit-db:\n  db: here.db\n";
    write_file(directory.path(), "config.yaml", config);
    assert_eventctl(directory.path()).args(["init-db", "--config", "config.yaml"]).assert().success();
    assert!(directory.path().join("here.db").exists());
    assert_eventctl(directory.path()).args(["tail", "--config", "config.yaml"]).assert().code(2);
}
