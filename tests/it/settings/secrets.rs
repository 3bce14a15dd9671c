//! Secrets: where they may stand, and where they must not.

use std::path::Path;
use std::process::Command;

use rustix::process::geteuid;
use tempfile::{TempDir, tempdir};

use crate::util::{Consume, copy, eventctl, refusal_of, set_mode, write_file, write_secret};

const PASSWORD: &str = "s3cret-p4ssword";
const KEY: &str = "s3cret-key-of-32-bytes-and-more-0";
const TOKEN: &str = "s3cret-token-of-more-than-16";

/// A directory with a file of each kind of secret, and a certificate with its key.
fn secrets() -> TempDir {
    let directory = tempdir().unwrap();
    write_secret(directory.path(), "password", PASSWORD);
    write_secret(directory.path(), "key", KEY);
    write_secret(directory.path(), "token", TOKEN);
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    write_file(directory.path(), "cert.pem", certified.cert.pem());
    write_secret(directory.path(), "key.pem", certified.signing_key.serialize_pem());
    directory
}

fn consume(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = eventctl(directory);
    command.args(["consume", "--port", "0"]).args(arguments);
    command
}

/// The two lines with which `consume` refuses to start, neither of which repeats a secret.
fn refusal(command: &mut Command, code: i32) -> (String, String) {
    let (error, hint) = refusal_of(command, code);
    assert!(!error.contains("s3cret") && !hint.contains("s3cret"), "{error} {hint}");
    (error, hint)
}

/// What a refusal is expected to be.
#[track_caller]
fn assert_refusal(command: &mut Command, code: i32, error: &str, hint: &str) {
    assert_eq!(refusal(command, code), (error.to_owned(), hint.to_owned()), "{command:?}");
}

/// All ways to name a file that holds a secret: the file, and the flags.
const FILES: [(&str, &[&str]); 5] = [
    ("password", &["--username", "ada", "--password-file", "password"]),
    ("key", &["--username", "ada", "--password-file", "password", "--signing-key-file", "key"]),
    ("key", &["--username", "ada", "--password-file", "password", "--previous-signing-key-file", "key"]),
    ("token", &["--token-file", "token"]),
    ("key.pem", &["--tls-cert", "cert.pem", "--tls-key", "key.pem"]),
];

#[test]
fn a_secret_that_others_have_access_to_is_refused() {
    for (file, arguments) in FILES {
        let directory = secrets();
        for mode in [0o640, 0o604, 0o660, 0o620, 0o602, 0o610, 0o601, 0o644, 0o440, 0o777] {
            set_mode(&directory.path().join(file), mode);
            let error = format!("cannot use `{file}`: group or others have access to it (mode {mode:04o})");
            assert_refusal(
                &mut consume(directory.path(), arguments),
                1,
                &error,
                &format!("run chmod 600 {file}"),
            );
        }
        assert!(!directory.path().join("events.db").exists(), "a store was made");
    }
}

#[test]
fn a_secret_that_only_its_owner_reads_is_taken() {
    for (file, arguments) in FILES {
        let directory = secrets();
        for mode in [0o600, 0o400] {
            set_mode(&directory.path().join(file), mode);
            let mut process = crate::util::Process::start(&mut consume(directory.path(), arguments));
            process.wait_for_stderr("listening on http");
            assert!(process.terminate().success());
        }
    }
}

#[test]
#[ignore = "needs root, or sudo that asks for no password"]
fn a_group_reads_a_secret_of_root_s() {
    const SERVICE: u32 = 65534;
    const ITS_GROUP: u32 = 4242;
    let directory = tempdir().unwrap();
    // Nobody has a way through the directories of a developer.
    set_mode(directory.path(), 0o777);
    let program = directory.path().join("eventctl");
    copy(Path::new(env!("CARGO_BIN_EXE_eventctl")), &program);
    let as_root = |arguments: &[&str]| {
        let mut command = Command::new(if geteuid().is_root() { "env" } else { "sudo" });
        if !geteuid().is_root() {
            command.arg("-n");
        }
        let path = std::env::var_os("PATH").unwrap();
        command.args(arguments).current_dir(directory.path()).env_clear().env("PATH", path);
        command
    };
    let as_service = |owner: u32, mode: &str| {
        write_file(directory.path(), "token", TOKEN);
        for change in [["chown", &format!("{owner}:{ITS_GROUP}")], ["chmod", mode]] {
            assert!(as_root(&change).arg("token").status().unwrap().success());
        }
        let identity = format!("--reuid={SERVICE} --regid={SERVICE} --groups={ITS_GROUP}");
        let mut arguments = vec!["setpriv"];
        arguments.extend(identity.split(' '));
        arguments.extend([program.to_str().unwrap(), "propagate", "--token-file", "token"]);
        arguments.extend(["--count", "1", "--retries", "0", "--endpoint", "http://127.0.0.1:1/"]);
        let mut command = as_root(&arguments);
        write_file(directory.path(), "events.json", "[{}]");
        let output = command.output().unwrap();
        std::fs::remove_file(directory.path().join("token")).unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (owner, mode) in [(0, "0440"), (0, "0640"), (0, "0040"), (SERVICE, "0600"), (SERVICE, "0400")] {
        let (code, stderr) = as_service(owner, mode);
        // Nobody listens there: it got so far.
        assert_eq!(code, Some(3), "{owner} {mode}: {stderr}");
    }
    for (owner, mode, problem, most) in [
        (0, "0444", "its group may do more than read it, or others have access to it", "640"),
        (0, "0644", "its group may do more than read it, or others have access to it", "640"),
        (0, "0660", "its group may do more than read it, or others have access to it", "640"),
        (0, "0450", "its group may do more than read it, or others have access to it", "640"),
        (SERVICE, "0640", "group or others have access to it", "600"),
        (SERVICE, "0440", "group or others have access to it", "600"),
        // Whoever else owns it could change it.
        (1, "0440", "group or others have access to it", "600"),
    ] {
        let (code, stderr) = as_service(owner, mode);
        let expected =
            format!("error: cannot use `token`: {problem} (mode {mode})\nhint: run chmod {most} token\n");
        assert_eq!((code, stderr), (Some(1), expected), "{owner} {mode}");
    }
}

#[test]
fn a_file_without_a_secret_is_explained() {
    for (file, arguments) in FILES {
        let directory = secrets();
        let path = directory.path().join(file);
        let expect = |error: &str, hint: &str| {
            let (got, advice) = refusal(&mut consume(directory.path(), arguments), 1);
            assert!(got.starts_with(error), "{got}");
            assert!(hint.is_empty() || advice == hint, "{advice}");
        };
        if file != "key.pem" {
            for empty in ["", "\n", "\r\n"] {
                write_secret(directory.path(), file, empty);
                expect(
                    &format!("cannot use `{file}`: it is empty"),
                    "write the secret into it, and nothing else",
                );
            }
            write_secret(directory.path(), file, b"s3cret \xff of more than thirty-two bytes");
            expect(
                &format!("cannot use `{file}`: it is not UTF-8"),
                "write the secret as text, such as base64",
            );
        }
        write_secret(directory.path(), file, "s3cret ".repeat(100_000));
        expect(
            &format!("cannot use `{file}`: it is larger than 262144 bytes"),
            "name the file that holds the secret",
        );
        std::fs::remove_file(&path).unwrap();
        let missing = format!("cannot read `{file}`: No such file or directory");
        expect(&missing, "check the path, and that this user may read the file");
        std::fs::create_dir(&path).unwrap();
        let error = format!("cannot read `{file}`: Is a directory");
        expect(&error, "name the file that holds the secret");
    }
}

#[test]
fn short_keys_and_tokens_are_refused() {
    let directory = secrets();
    let key = &KEY[..31];
    write_secret(directory.path(), "key", format!("{key}\n"));
    for flag in ["--signing-key-file", "--previous-signing-key-file"] {
        let arguments = ["--username", "ada", "--password-file", "password", flag, "key"];
        let error = format!("the key of `{flag}` is shorter than 32 bytes");
        let hint = "make one with openssl rand -base64 48";
        assert_refusal(&mut consume(directory.path(), &arguments), 1, &error, hint);
    }
    write_secret(directory.path(), "token", &TOKEN[..15]);
    let mut command = consume(directory.path(), &["--token-file", "token"]);
    let error = "the token of `--token-file` is shorter than 16 bytes";
    assert_refusal(&mut command, 1, error, "make one with openssl rand -hex 32");
    write_secret(directory.path(), "key", &KEY[..32]);
    write_secret(directory.path(), "token", &TOKEN[..16]);
    let mut arguments = FILES[1].1.to_vec();
    arguments.extend(["--token-file", "token"]);
    Consume::start_command(&mut consume(directory.path(), &arguments));
}

#[test]
fn a_token_that_no_header_can_hold_is_refused() {
    let directory = secrets();
    for wrong in [
        "s3cret token of many words",
        "s3cret-token-and-space ",
        " s3cret-token-and-space",
        "s3cret-tökeñ-of-unicode",
        "s3cret-token\nand-another-line",
    ] {
        write_secret(directory.path(), "token", wrong);
        let mut command = consume(directory.path(), &["--token-file", "token"]);
        let error = "the token of `--token-file` holds what a header cannot: spaces or other than ASCII";
        assert_refusal(&mut command, 1, error, "make one with openssl rand -hex 32");
    }
}

#[test]
fn a_name_and_its_password_go_together() {
    let directory = secrets();
    let mut command = consume(directory.path(), &["--username", "ada"]);
    let hint = "give --password-file FILE, or set EVENTCTL_PASSWORD";
    assert_refusal(&mut command, 1, "`--username` has no password", hint);
    let mut command = consume(directory.path(), &["--password-file", "password"]);
    assert_refusal(&mut command, 1, "a password has no name", "give --username NAME");
    let mut command = consume(directory.path(), &[]);
    let command = command.env("EVENTCTL_PASSWORD", PASSWORD);
    assert_refusal(command, 1, "a password has no name", "give --username NAME");
    let (error, _) = refusal(&mut consume(directory.path(), &["--username", ""]), 2);
    assert!(error.contains("--username"), "{error}");
}

#[test]
fn a_secret_stands_in_one_place() {
    let directory = secrets();
    for (flag, variable, (_, arguments)) in [
        ("--password-file", "EVENTCTL_PASSWORD", FILES[0]),
        ("--signing-key-file", "EVENTCTL_SIGNING_KEY", FILES[1]),
        ("--previous-signing-key-file", "EVENTCTL_PREVIOUS_SIGNING_KEY", FILES[2]),
        ("--token-file", "EVENTCTL_TOKEN", FILES[3]),
    ] {
        let mut command = consume(directory.path(), arguments);
        let error = format!("both `{flag}` and `{variable}` are given");
        assert_refusal(command.env(variable, KEY), 1, &error, "give one of them");
    }
}

#[test]
fn a_secret_on_the_command_line_is_refused_and_not_repeated() {
    let directory = secrets();
    for (subcommand, name, variable) in [
        ("consume", "password", "EVENTCTL_PASSWORD"),
        ("consume", "signing-key", "EVENTCTL_SIGNING_KEY"),
        ("consume", "previous-signing-key", "EVENTCTL_PREVIOUS_SIGNING_KEY"),
        ("consume", "token", "EVENTCTL_TOKEN"),
        ("propagate", "password", "EVENTCTL_PASSWORD"),
        ("propagate", "token", "EVENTCTL_TOKEN"),
    ] {
        let error = format!("`--{name}` on the command line would show it to every user of this machine");
        let hint = format!("give --{name}-file, or set {variable}");
        let flag = format!("--{name}");
        for arguments in [&[flag.as_str(), KEY][..], &[&format!("{flag}={KEY}")]] {
            let mut command = eventctl(directory.path());
            assert_refusal(command.arg(subcommand).args(arguments), 2, &error, &hint);
        }
        let mut command = eventctl(directory.path());
        refusal(command.args([subcommand, &flag, KEY, "--nothing"]), 2);
        let mut command = eventctl(directory.path());
        refusal(command.args([subcommand, &flag, KEY, "--config", "none.yaml"]), 2);
    }
    assert!(!directory.path().join("events.db").exists(), "a store was made");
}

#[test]
fn a_secret_is_the_same_in_a_variable_and_in_a_file() {
    let directory = secrets();
    for content in [format!("{TOKEN}\n"), format!("{TOKEN}\r\n"), format!("\u{feff}{TOKEN}")] {
        write_secret(directory.path(), "token", &content);
        let mut command = consume(directory.path(), &[]);
        for server in [
            Consume::start_command(&mut consume(directory.path(), &["--token-file", "token"])),
            Consume::start_command(command.env("EVENTCTL_TOKEN", &content)),
        ] {
            let authorization = format!("Bearer {TOKEN}");
            let headers = [("Authorization", authorization.as_str())];
            assert_eq!(server.connect().request("GET", "/event", &headers, b"").status, 200, "{content:?}");
        }
    }
}

#[test]
fn a_dotenv_with_a_secret_is_its_owner_s_alone() {
    for (variable, value) in [
        ("EVENTCTL_PASSWORD", PASSWORD),
        ("EVENTCTL_SIGNING_KEY", KEY),
        ("EVENTCTL_PREVIOUS_SIGNING_KEY", KEY),
        ("EVENTCTL_TOKEN", TOKEN),
    ] {
        let directory = secrets();
        let mut arguments = vec!["--username", "ada"];
        if variable != "EVENTCTL_PASSWORD" {
            arguments.extend(["--password-file", "password"]);
        }
        let dotenv = write_file(directory.path(), ".env", format!("{variable}={value}\n"));
        for mode in [0o644, 0o640, 0o604] {
            set_mode(&dotenv, mode);
            let error = format!("cannot use `.env`: group or others have access to it (mode {mode:04o})");
            let mut command = consume(directory.path(), &arguments);
            assert_refusal(&mut command, 2, &error, "run chmod 600 .env");
        }
        set_mode(&dotenv, 0o600);
        let server = Consume::start_command(&mut consume(directory.path(), &arguments));
        assert_eq!(server.connect().get("/event").status, 401);
    }
    // Without a secret it is as public as it likes to be.
    let directory = secrets();
    set_mode(&write_file(directory.path(), ".env", "EVENTCTL_USERNAME=ada\n"), 0o644);
    Consume::start_command(&mut consume(directory.path(), &["--password-file", "password"]));
}

#[test]
fn a_config_file_with_a_secret_is_its_owner_s_alone() {
    let directory = secrets();
    let config = |text: &str, mode: u32| {
        let path = write_file(directory.path(), "c.yaml", format!("consume:\n  username: ada\n  {text}\n"));
        set_mode(&path, mode);
        let mut command = consume(directory.path(), &["--config", "c.yaml"]);
        command.env("PASSWORD_OF_ADA", PASSWORD);
        command
    };
    let literal = format!("password: {PASSWORD}");
    let error = "cannot use `c.yaml`: group or others have access to it (mode 0644)";
    assert_refusal(&mut config(&literal, 0o644), 2, error, "run chmod 600 c.yaml");
    Consume::start_command(&mut config(&literal, 0o600));
    Consume::start_command(&mut config("password: ${PASSWORD_OF_ADA}", 0o644));
    Consume::start_command(&mut config("password-file: password", 0o644));
}

#[test]
fn help_shows_no_secret_and_no_flag_that_takes_one() {
    let directory = secrets();
    let config =
        format!("consume:\n  password: {PASSWORD}\n  signing-key: {KEY}\npropagate:\n  token: {TOKEN}\n");
    write_secret(directory.path(), "c.yaml", config);
    write_secret(directory.path(), ".env", format!("EVENTCTL_TOKEN={TOKEN}\n"));
    for subcommand in ["consume", "propagate"] {
        for help in ["-h", "--help"] {
            let mut command = eventctl(directory.path());
            command.args([subcommand, help, "--config", "c.yaml"]);
            command.envs([("EVENTCTL_PASSWORD", PASSWORD), ("EVENTCTL_PREVIOUS_SIGNING_KEY", KEY)]);
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(text.contains("--password-file"), "{text}");
            assert!(!text.contains("s3cret"), "{text}");
            for hidden in ["--password ", "--signing-key ", "--previous-signing-key ", "--token "] {
                assert!(!text.contains(hidden), "{text}");
            }
        }
    }
}

#[test]
fn whoever_asks_for_tokens_listens_beyond_this_machine_and_is_warned() {
    let directory = secrets();
    for arguments in [FILES[0].1, FILES[3].1] {
        let mut command = consume(directory.path(), arguments);
        let mut server = Consume::start_command(command.args(["--host", "0.0.0.0"]));
        assert_eq!(server.connect().get("/event").status, 401);
        assert!(server.process.terminate().success());
        let stderr = server.process.stderr();
        let warning = r#""level":"WARN","target":"eventctl::consume","message":"passwords and tokens cross the network"#;
        assert_eq!(stderr.matches(warning).count(), 1, "{stderr}");
        let mut server = Consume::start_command(&mut consume(directory.path(), arguments));
        assert!(server.process.terminate().success());
        assert!(!server.process.stderr().contains("WARN"), "{}", server.process.stderr());
    }
    // A key alone asks for nothing.
    let mut command = consume(directory.path(), &["--signing-key-file", "key", "--host", "0.0.0.0"]);
    let (error, _) = refusal(&mut command, 1);
    assert!(error.ends_with(": anyone who reaches it could read and write events"), "{error}");
}
