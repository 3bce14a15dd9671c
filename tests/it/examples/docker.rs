//! The image and its compose file: what they say fits the program, and what they run works.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::{TempDir, tempdir};

#[cfg(feature = "postgres")]
use super::database::{Database, run};
use super::{copy_folder, examples, repository, strings, yaml};
use crate::util::eventctl;
#[cfg(feature = "postgres")]
use crate::util::{Consume, Process, free_port, set_mode, wait_until, write_file};

const SERVICES_OF_OURS: [&str; 4] = ["init-db", "consume", "propagate", "tail"];

fn dockerfile() -> String {
    fs::read_to_string(examples().join("docker/Dockerfile")).unwrap()
}

fn compose() -> Value {
    yaml(&fs::read_to_string(examples().join("docker/compose.yaml")).unwrap()).remove(0)
}

/// What follows an instruction of the image's last stage, such as `CMD` in a line.
fn instruction(name: &str) -> String {
    let dockerfile = dockerfile();
    let (_, image) = dockerfile.rsplit_once("\nFROM ").unwrap();
    let found = image.lines().find_map(|line| line.trim_start().strip_prefix(&format!("{name} ")));
    found.unwrap_or_else(|| panic!("there is no {name}")).to_owned()
}

/// A folder as `examples/docker`, with the passwords that its script makes.
fn prepared() -> TempDir {
    let directory = tempdir().unwrap();
    copy_folder(&examples().join("docker"), directory.path());
    prepare(directory.path());
    directory
}

fn prepare(directory: &Path) {
    let output = Command::new(directory.join("prepare.sh")).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn the_image_holds_one_program_and_no_user_that_is_root() {
    let dockerfile = dockerfile();
    let (_, image) = dockerfile.rsplit_once("\nFROM ").unwrap();
    assert!(image.starts_with("scratch\n"), "{image}");
    let user = instruction("USER");
    let ids: Vec<u32> = user.split(':').map(|id| id.parse().unwrap()).collect();
    assert!(ids.len() == 2 && !ids.contains(&0), "{user}");
    assert!(image.contains(&format!("--chown={user} /data /data")), "its data is not its own");
    assert_eq!((instruction("STOPSIGNAL").as_str(), instruction("EXPOSE").as_str()), ("SIGTERM", "8000"));
    assert!(instruction("CMD").contains("/ready"), "there is no health check");
}

/// Everything else would be sent to the engine, and be there for every step of the build.
#[test]
fn the_context_of_the_build_is_what_it_needs() {
    let directory = tempdir().unwrap();
    let ignored = fs::read_to_string(repository().join(".dockerignore")).unwrap();
    let mut lines = ignored.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(lines.next(), Some("*"));
    for line in lines {
        match line.strip_prefix('!') {
            Some("examples") => fs::create_dir(directory.path().join("examples")).unwrap(),
            Some(name) if repository().join(name).is_dir() => {
                copy_folder(&repository().join(name), &directory.path().join(name));
            }
            Some(name) => drop(fs::copy(repository().join(name), directory.path().join(name)).unwrap()),
            None => assert_eq!(line, "examples/*"),
        }
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--offline", "--locked", "--format-version", "1"]);
    let output = cargo.current_dir(directory.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    // Cargo builds nothing where a program is missing that the manifest names.
    for name in ["src/main.rs", "examples/bench/main.rs", ".cargo/config.toml", "events.json", "LICENSE"] {
        assert!(directory.path().join(name).exists(), "{name}");
    }
}

#[test]
fn the_services_are_restricted_and_hold_no_password() {
    let compose = compose();
    let services = compose["services"].as_object().unwrap();
    let secrets: BTreeSet<&String> = compose["secrets"].as_object().unwrap().keys().collect();
    let mut used = BTreeSet::new();
    for (name, service) in services {
        assert_eq!(strings(&service["cap_drop"]), ["ALL"], "{name}");
        assert_eq!(strings(&service["security_opt"]), ["no-new-privileges:true"], "{name}");
        if name != "postgres" {
            assert_eq!(service["read_only"], true, "{name}");
            assert!(service["user"].as_str().unwrap().starts_with("${EVENTCTL_USER:?"), "{name}");
            assert!(service["cap_add"].is_null(), "{name}");
        }
        used.extend(service["secrets"].as_array().unwrap().iter().map(|secret| secret.as_str().unwrap()));
        for (variable, value) in service["environment"].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap();
            if variable.contains("PASS") {
                assert!(
                    variable.ends_with("FILE") && value.starts_with("/run/secrets/"),
                    "{name}: {variable}"
                );
            }
            assert!(!value.contains(":@") && !value.contains("password@"), "{name}: {value}");
        }
    }
    assert_eq!(used, secrets.iter().map(|name| name.as_str()).collect());
    let images: BTreeSet<&str> =
        services.values().map(|service| service["image"].as_str().unwrap()).collect();
    assert_eq!(images.into_iter().collect::<Vec<_>>(), ["eventctl", "postgres:17"]);
}

#[test]
fn the_services_start_in_order_and_have_time_to_drain() {
    let compose = compose();
    for (service, needed, condition) in [
        ("init-db", "postgres", "service_healthy"),
        ("roles", "init-db", "service_completed_successfully"),
        ("consume", "roles", "service_completed_successfully"),
        ("propagate", "consume", "service_healthy"),
    ] {
        let found = &compose["services"][service]["depends_on"][needed]["condition"];
        assert_eq!(found, condition, "{service}");
    }
    for name in SERVICES_OF_OURS {
        let period = compose["services"][name]["stop_grace_period"].as_str().unwrap();
        let seconds: u32 = period.strip_suffix('s').unwrap().parse().unwrap();
        let output = eventctl(&examples()).args(["consume", "--help"]).output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        let (_, drain) = help.split_once("--drain-timeout").unwrap();
        let (_, default) = drain.split_once("[default: ").unwrap();
        let default: u32 = default.split_once("s]").unwrap().0.parse().unwrap();
        let command = &compose["services"][name]["command"];
        let lame_duck = command.as_array().unwrap().iter().skip_while(|word| *word != "--lame-duck").nth(1);
        let lame_duck: u32 =
            lame_duck.map_or(0, |time| time.as_str().unwrap().trim_end_matches('s').parse().unwrap());
        assert!(
            seconds > lame_duck + default,
            "{name}: {seconds} is not more than {lame_duck} and {default}"
        );
    }
    assert_eq!(strings(&compose["services"]["consume"]["ports"]), ["127.0.0.1:8000:8000"]);
}

/// The privileges that the manual page names.
#[test]
fn the_role_of_consume_gets_the_privileges_of_the_manual_and_no_others() {
    let page = fs::read_to_string(repository().join("src/cli/manual/init-db.md")).unwrap();
    let grants = |text: &str| -> Vec<String> {
        let lines = text.lines().map(str::trim).filter(|line| line.starts_with("GRANT"));
        lines.filter(|line| line.ends_with(" TO eventctl;")).map(str::to_owned).collect()
    };
    // The deployments delete nothing: what retention needs is the second block.
    let expected = grants(page.split("```sql\n").nth(1).unwrap().split("```").next().unwrap());
    assert!(!expected.is_empty());
    for folder in ["docker", "kubernetes"] {
        let roles = fs::read_to_string(examples().join(folder).join("roles.sql")).unwrap();
        assert_eq!(grants(&roles), expected, "{folder}");
        assert_eq!(roles.matches("GRANT").count(), expected.len(), "{folder}");
    }
}

#[test]
#[ignore = "needs sh and od"]
fn passwords_are_made_once_and_are_their_owner_s_alone() {
    use std::os::unix::fs::MetadataExt;
    let directory = prepared();
    let read = || {
        let mut secrets: Vec<(String, String)> = fs::read_dir(directory.path().join("secrets"))
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                assert_eq!(entry.metadata().unwrap().mode() & 0o7777, 0o600, "{entry:?}");
                let name = entry.file_name().into_string().unwrap();
                (name, fs::read_to_string(entry.path()).unwrap())
            })
            .collect();
        secrets.sort();
        secrets
    };
    let made = read();
    let names: Vec<&str> = made.iter().map(|(name, _)| name.as_str()).collect();
    let compose = compose();
    assert_eq!(names, compose["secrets"].as_object().unwrap().keys().collect::<Vec<_>>());
    let passwords: BTreeSet<&str> = made
        .iter()
        .filter(|(name, _)| name.ends_with("password"))
        .map(|(_, password)| password.as_str())
        .collect();
    assert!(passwords.len() == 3 && passwords.iter().all(|password| password.len() == 48), "{passwords:?}");
    let user = fs::read_to_string(directory.path().join(".env")).unwrap();
    assert!(!user.contains("=0:") && user.starts_with("EVENTCTL_USER="), "{user}");
    // Whoever says otherwise is left alone.
    fs::write(directory.path().join(".env"), "EVENTCTL_USER=0:0\n").unwrap();
    prepare(directory.path());
    assert_eq!(read(), made);
    assert_eq!(fs::read_to_string(directory.path().join(".env")).unwrap(), "EVENTCTL_USER=0:0\n");
}

#[cfg(feature = "postgres")]
#[test]
#[ignore = "needs psql and the servers of .ci/servers"]
fn the_commands_of_the_services_work_together() {
    let folder = prepared();
    let secret = |name: &str| fs::read_to_string(folder.path().join("secrets").join(name)).unwrap();
    let database = Database::new(&secret("owner_password"));
    let compose = compose();
    // What the containers call postgres, and where they find files.
    let here = |text: &str| {
        let text = text.replace("/run/secrets/", &format!("{}/secrets/", folder.path().display()));
        let text = text.replace("/roles.sql", &format!("{}/roles.sql", folder.path().display()));
        text.replace("@postgres/events", &format!("@{}/{}", database.address, database.store.name))
    };
    let command = |service: &str| {
        let service = &compose["services"][service];
        let mut words = strings(&service["entrypoint"]);
        words.extend(strings(&service["command"]));
        let mut command = match service["image"].as_str() {
            Some("eventctl") => eventctl(folder.path()),
            _ => database.psql(&words.remove(0)),
        };
        for (variable, value) in service["environment"].as_object().unwrap() {
            if !["PGHOST", "PGDATABASE"].contains(&variable.as_str()) {
                command.env(variable, here(value.as_str().unwrap()));
            }
        }
        command.args(words.iter().map(|word| here(word))).current_dir(database.store.path());
        command
    };
    // Again, as after a restart.
    for service in ["init-db", "roles", "init-db", "roles"] {
        run(&mut command(service));
    }
    let mut server = Consume::start_command(command("consume").args(["--port", "0"]));
    let address = format!("127.0.0.1:{}", server.address.port());
    assert_eq!(server.connect().get("/event").status, 401);
    let health_check = || {
        let words: Vec<String> = serde_json::from_str(&instruction("CMD")).unwrap();
        assert_eq!(words[0], "eventctl");
        let words = words[1..].iter().map(|word| word.replace("127.0.0.1:8000", &address));
        eventctl(database.store.path()).args(words).stdin(Stdio::null()).output().unwrap().status.code()
    };
    assert_eq!(health_check(), Some(0));
    let mut propagate = command("propagate");
    for name in ["HTTP_POST_ENDPOINT", "HEALTH_CHECK_ENDPOINT"] {
        let url = compose["services"]["propagate"]["environment"][name].as_str().unwrap();
        propagate.env(name, url.replace("consume:8000", &address));
    }
    propagate.env("PAYLOAD_FILE_PATH", repository().join("events.json")).env("PERIOD_IN_SECONDS", "0.01");
    propagate.args(["--count", "8", "--order", "sequential"]);
    // One event of the sample is invalid on purpose.
    let mut sending = Process::start(propagate.stdout(Stdio::null()));
    assert_eq!(sending.wait().code(), Some(3), "{}", sending.stderr());
    assert_eq!(run(&mut command("tail")).lines().count(), 7);
    // It may do no more than it has to, and nothing without its password.
    for (passwords, problem) in [("db_pgpass", "permission denied"), ("owner_pgpass", "no password supplied")]
    {
        let mut psql = database.psql("psql");
        psql.env("PGUSER", "eventctl").env("PGPASSFILE", folder.path().join("secrets").join(passwords));
        let output = psql.args(["--no-psqlrc", "--command", "DELETE FROM events"]).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stderr).contains(problem), "{output:?}");
    }
    assert!(server.process.terminate().success());
    assert_eq!(health_check(), Some(1));
}

/// What the image of PostgreSQL has beside the database: whom to become.
const GOSU: &str =
    "#!/bin/sh\nuser=$1; shift\nexec setpriv --reuid=\"$user\" --regid=\"$user\" --clear-groups \"$@\"\n";

/// PostgreSQL's programs, on the path.
#[cfg(feature = "postgres")]
fn path_with_servers(directory: &Path) -> String {
    let versions = fs::read_dir("/usr/lib/postgresql").unwrap();
    let newest = versions.map(|version| version.unwrap().path()).max().unwrap();
    format!("{}:{}:{}", directory.display(), newest.join("bin").display(), env!("PATH"))
}

#[cfg(feature = "postgres")]
#[test]
#[ignore = "needs PostgreSQL and root"]
fn the_scripts_of_the_quorum_make_standbys_that_commits_wait_for() {
    let compose = yaml(&fs::read_to_string(examples().join("docker/compose.quorum.yaml")).unwrap()).remove(0);
    let folder = prepared();
    set_mode(folder.path(), 0o755);
    let secrets = folder.path().join("secrets");
    let password = fs::read_to_string(secrets.join("owner_password")).unwrap();
    set_mode(&write_file(folder.path(), "gosu", GOSU), 0o755);
    let path = path_with_servers(folder.path());
    let ports: Vec<String> = (0..3).map(|_| free_port().to_string()).collect();
    let data = |number: usize| {
        let parent = folder.path().join(number.to_string());
        fs::create_dir_all(&parent).unwrap();
        set_mode(&parent, 0o777);
        parent.join("data")
    };
    let command = |program: &str, number: usize| {
        let mut command = Command::new(program);
        command.env("PATH", &path).env("PGDATA", data(number)).env("PGPORT", &ports[number]);
        command.current_dir("/").stdin(Stdio::null());
        command
    };
    let as_postgres = |number: usize, words: &[&str]| {
        let mut command = command("setpriv", number);
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).args(words);
        command
    };
    let start = |number: usize| {
        let server = Process::start(as_postgres(number, &["postgres"]).stdout(Stdio::null()));
        wait_until(|| as_postgres(number, &["pg_isready", "-q"]).status().unwrap().success().then_some(()));
        server
    };
    // As the image makes a database: a server for the scripts alone, and then the real one.
    run(&mut as_postgres(
        0,
        &["initdb", "--username", "owner", "--auth-host", "scram-sha-256", "--auth-local", "trust"],
    ));
    let mut preparing = start(0);
    for statement in [format!("ALTER ROLE owner PASSWORD '{password}'"), "CREATE DATABASE events".to_owned()]
    {
        run(&mut as_postgres(0, &["psql", "-q", "-U", "owner", "-d", "postgres", "-c", &statement]));
    }
    let script = folder.path().join("primary.sh").display().to_string();
    let mut primary = as_postgres(0, &["sh", &script]);
    run(primary.env("POSTGRES_USER", "owner").env("POSTGRES_DB", "events"));
    preparing.signal(Signal::INT);
    preparing.wait();
    let _primary = start(0);
    let environment = &compose["services"]["standby1"]["environment"];
    let conninfo = environment["PRIMARY"].as_str().unwrap();
    let conninfo = conninfo.replace("host=postgres", &format!("host=127.0.0.1 port={}", ports[0]));
    assert_eq!(environment["PGPASSFILE"], "/run/secrets/owner_pgpass");
    let standbys = [1, 2].map(|number| {
        let script = folder.path().join("standby.sh").display().to_string();
        let mut standby = command(&script, number);
        standby.env("PRIMARY", &conninfo).env("PGPASSFILE", secrets.join("owner_pgpass"));
        Process::start(standby.stdout(Stdio::null()))
    });
    let count = |select: &str| {
        run(&mut as_postgres(0, &["psql", "-qAt", "-U", "owner", "-d", "events", "-c", select]))
            .trim()
            .to_owned()
    };
    wait_until(|| {
        (count("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'") == "2").then_some(())
    });
    let hosts: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let consume = &compose["services"]["consume"];
    let url = consume["environment"]["DATABASE_URL"].as_str().unwrap();
    let url = url.replace("postgres,standby1,standby2", &hosts.join(",")).replace("eventctl@", "owner@");
    let ours = |subcommand: &str| {
        let mut command = eventctl(folder.path());
        command.args([subcommand, "--db", &url]).env("PGPASSFILE", secrets.join("owner_pgpass"));
        command
    };
    run(&mut ours("init-db"));
    let words = strings(&consume["command"]);
    let required = words.iter().position(|word| word == "--require-replicas").unwrap();
    let server =
        Consume::start_command(ours("consume").args(["--port", "0"]).args(&words[required..=required + 1]));
    server.store("a", "b");
    drop(standbys);
}
