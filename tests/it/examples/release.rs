//! What is published: the archives, and the workflow that makes them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::tempdir;

use super::{repository, strings, yaml};

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn workflow(name: &str) -> Value {
    yaml(&fs::read_to_string(repository().join(".github/workflows").join(name)).unwrap()).remove(0)
}

fn pack(directory: &Path, tag: &str) -> Output {
    let mut command = Command::new(repository().join(".ci/pack"));
    command.args([env!("CARGO_BIN_EXE_eventctl"), "some-target", tag]);
    command.current_dir(directory).stdin(Stdio::null()).output().unwrap()
}

#[test]
#[ignore = "needs bash and tar"]
fn an_archive_holds_the_program_and_what_belongs_to_it() {
    let directory = tempdir().unwrap();
    let output = pack(directory.path(), &format!("v{VERSION}"));
    assert!(output.status.success(), "{output:?}");
    let name = format!("eventctl-{VERSION}-some-target");
    let mut tar = Command::new("tar");
    tar.args(["--list", "--file"]).arg(directory.path().join("dist").join(format!("{name}.tar.gz")));
    let listed = String::from_utf8(tar.output().unwrap().stdout).unwrap();
    let listed: BTreeSet<&str> = listed.lines().filter(|line| !line.ends_with('/')).collect();
    let help = Command::new(env!("CARGO_BIN_EXE_eventctl")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let commands = commands.split("\n\n").next().unwrap().lines();
    let names = commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let pages =
        names.filter(|name| !["", "help"].contains(name)).map(|name| format!("man/eventctl-{name}.1"));
    let mut expected: Vec<String> = pages.collect();
    assert!(expected.len() >= 7, "{expected:?}");
    for file in ["eventctl", "LICENSE", "README.md", "events.json", "man/eventctl.1"] {
        expected.push(file.to_owned());
    }
    expected.extend(["bash", "zsh", "fish"].map(|shell| format!("completions/eventctl.{shell}")));
    let expected: BTreeSet<String> = expected.into_iter().map(|file| format!("{name}/{file}")).collect();
    assert_eq!(listed, expected.iter().map(String::as_str).collect());
}

#[test]
#[ignore = "needs bash"]
fn a_tag_of_another_version_is_not_packed() {
    let directory = tempdir().unwrap();
    for tag in ["v99.0.0", VERSION, "v0.1", "latest"] {
        let output = pack(directory.path(), tag);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let expected = format!("error: the tag is {tag}, but Cargo.toml has version {VERSION}\n");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), expected);
        assert!(!directory.path().join("dist").exists(), "{tag}");
    }
}

#[test]
fn workflows_have_no_more_rights_than_they_need_and_no_actions_of_strangers() {
    for name in ["ci.yml", "release.yml"] {
        let workflow = workflow(name);
        assert_eq!(workflow["permissions"], serde_json::json!({"contents": "read"}), "{name}");
        assert!(workflow["concurrency"]["group"].is_string(), "{name}");
        for (job, steps) in workflow["jobs"].as_object().unwrap() {
            assert!(steps["timeout-minutes"].is_number(), "{name} {job}");
            for step in steps["steps"].as_array().unwrap() {
                let Some(action) = step["uses"].as_str() else { continue };
                assert!(action.starts_with("actions/") && action.contains("@v"), "{name} {job}: {action}");
                let keeps_token = step["with"]["persist-credentials"] != false;
                assert!(!(action.contains("checkout") && keeps_token), "{name} {job}: {action}");
            }
        }
    }
}

#[test]
fn stores_are_tried_on_servers_beside_the_tests() {
    let stores = &workflow("ci.yml")["jobs"]["stores"];
    let services: Vec<&String> = stores["services"].as_object().unwrap().keys().collect();
    assert_eq!(services, ["mariadb", "postgres"]);
    for (variable, service) in [("TEST_POSTGRES_URL", "postgres"), ("TEST_MYSQL_URL", "mariadb")] {
        let port = strings(&stores["services"][service]["ports"])[0].split(':').next().unwrap().to_owned();
        let url = stores["env"][variable].as_str().unwrap();
        assert!(url.contains(&format!("@127.0.0.1:{port}/")), "{url}");
    }
    let targets = workflow("release.yml")["jobs"]["build"]["strategy"]["matrix"]["include"].clone();
    let targets = targets.as_array().unwrap().iter().map(|job| job["target"].as_str().unwrap().to_owned());
    let expected = ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl"];
    assert_eq!(targets.collect::<Vec<_>>(), expected);
}
