//! The manifests and the script that deploys them: what they say fits the program, and what they run works.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::{TempDir, tempdir};

#[cfg(feature = "postgres")]
use super::database::{Database, run};
use super::{copy_folder, examples, repository, strings, yaml};
#[cfg(feature = "postgres")]
use crate::util::{Consume, eventctl};
use crate::util::{copy, set_mode, write_file, write_secret};

/// The keys of the secret.
const SECRETS: [&str; 3] = ["owner-password", "db-password", "password"];

/// All documents that are applied, in the order of their files.
fn manifests() -> Vec<Value> {
    let files = strings(&kustomization()["resources"]);
    files.iter().flat_map(|name| yaml(&read(name))).collect()
}

fn read(name: &str) -> String {
    fs::read_to_string(examples().join("kubernetes").join(name)).unwrap()
}

fn kustomization() -> Value {
    yaml(&read("kustomization.yaml")).remove(0)
}

/// The manifest of a kind, and the only one of this name.
fn manifest(kind: &str, name: &str) -> Value {
    let is_it = |manifest: &Value| manifest["kind"] == kind && manifest["metadata"]["name"] == name;
    let mut found: Vec<Value> = manifests().into_iter().filter(is_it).collect();
    assert_eq!(found.len(), 1, "{kind} {name}");
    found.remove(0)
}

/// The templates of pods, with the names of what makes them.
fn pods() -> Vec<(String, Value)> {
    let all = manifests().into_iter();
    let with_pods = all.filter(|manifest| manifest["spec"]["template"].is_object());
    with_pods
        .map(|manifest| (manifest["metadata"]["name"].to_string(), manifest["spec"]["template"].clone()))
        .collect()
}

fn containers(pod: &Value) -> Vec<Value> {
    let kinds = ["initContainers", "containers"];
    kinds.iter().flat_map(|kind| pod["spec"][kind].as_array().cloned().unwrap_or_default()).collect()
}

fn container(kind: &str, name: &str, wanted: &str) -> Value {
    let pod = manifest(kind, name)["spec"]["template"].clone();
    containers(&pod).into_iter().find(|container| container["name"] == wanted).unwrap()
}

/// The values of the variables of a container; secrets are named by their keys, after a `$`.
fn environment(container: &Value) -> BTreeMap<String, String> {
    let variables = container["env"].as_array().unwrap().iter();
    let value = |variable: &Value| match variable["value"].as_str() {
        Some(value) => value.to_owned(),
        None => format!("${}", variable["valueFrom"]["secretKeyRef"]["key"].as_str().unwrap()),
    };
    variables.map(|variable| (variable["name"].as_str().unwrap().to_owned(), value(variable))).collect()
}

#[test]
fn every_manifest_is_applied_and_the_image_is_of_this_version() {
    let listed: BTreeSet<String> = strings(&kustomization()["resources"]).into_iter().collect();
    let files = fs::read_dir(examples().join("kubernetes")).unwrap();
    let names = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let others = ["kustomization.yaml", "eventctl.yaml"];
    let manifests = names.filter(|name| name.ends_with(".yaml") && !others.contains(&name.as_str()));
    assert_eq!(manifests.collect::<BTreeSet<_>>(), listed);
    assert_eq!(kustomization()["images"][0]["newTag"], env!("CARGO_PKG_VERSION"));
    let readme = fs::read_to_string(examples().join("kubernetes/README.md")).unwrap();
    let build =
        concat!("docker build -f examples/docker/Dockerfile -t eventctl:", env!("CARGO_PKG_VERSION"), " .\n");
    assert!(readme.contains(build), "the README of the example builds another version");
}

#[test]
fn pods_are_restricted_and_bounded() {
    for (name, pod) in pods() {
        let spec = &pod["spec"];
        assert_eq!(spec["automountServiceAccountToken"], false, "{name}");
        // A service named eventctl would set EVENTCTL_PORT and the like.
        assert_eq!(spec["enableServiceLinks"], false, "{name}");
        let context = &spec["securityContext"];
        assert_eq!(context["runAsNonRoot"], true, "{name}");
        assert!(context["runAsUser"].as_u64().unwrap() > 0, "{name}");
        assert_eq!(context["fsGroup"], context["runAsGroup"], "{name}: it could not read its secrets");
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault", "{name}");
        for container in containers(&pod) {
            let name = format!("{name} {}", container["name"]);
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(strings(&context["capabilities"]["drop"]), ["ALL"], "{name}");
            assert!(container["resources"]["requests"]["cpu"].is_string(), "{name}");
            assert!(container["resources"]["limits"]["memory"].is_string(), "{name}");
            let image = container["image"].as_str().unwrap();
            assert!(["eventctl", "postgres:17"].contains(&image), "{name}");
        }
    }
}

#[test]
fn secrets_come_as_files_or_variables_and_have_no_value_here() {
    let mut keys = BTreeSet::new();
    for (name, pod) in pods() {
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        for secret in volumes.iter().map(|volume| &volume["secret"]).filter(|secret| secret.is_object()) {
            assert_eq!(secret["secretName"], "eventctl", "{name}");
            keys.extend(
                secret["items"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|item| item["key"].as_str().unwrap().to_owned()),
            );
        }
        for container in containers(&pod).iter().filter(|container| container["env"].is_array()) {
            for (variable, value) in environment(container) {
                let key = value.strip_prefix('$').map(str::to_owned);
                let is_path = variable.ends_with("FILE") && value.starts_with("/run/secrets/");
                assert!(!variable.contains("PASS") || key.is_some() || is_path, "{name}: {variable}");
                keys.extend(key);
            }
        }
    }
    assert_eq!(keys, SECRETS.map(str::to_owned).into());
    for file in strings(&kustomization()["resources"]) {
        let text = read(&file);
        assert_eq!(text.matches("secretName:").count(), text.matches("defaultMode: 0440").count(), "{file}");
    }
    assert_eq!(strings(&kustomization()["secretGenerator"][0]["envs"]), ["secret.env"]);
    let ignored = fs::read_to_string(repository().join(".gitignore")).unwrap();
    assert!(ignored.lines().any(|line| line == "/examples/kubernetes/secret.env"), "{ignored}");
}

#[test]
fn ports_and_names_agree() {
    let settings = yaml(&read("eventctl.yaml")).remove(0);
    let consume = container("Deployment", "eventctl", "consume");
    let ports = consume["ports"].as_array().unwrap();
    let port = |name: &str| ports.iter().find(|port| port["name"] == name).unwrap()["containerPort"].clone();
    assert_eq!(port("http"), settings["consume"]["port"]);
    let metrics = settings["consume"]["metrics"].as_str().unwrap();
    assert_eq!(metrics, format!("0.0.0.0:{}", port("metrics")));
    let template = manifest("Deployment", "eventctl")["spec"]["template"].clone();
    let annotated = &template["metadata"]["annotations"]["prometheus.io/port"];
    assert_eq!(annotated.as_str().unwrap(), port("metrics").to_string());
    let service = manifest("Service", "eventctl");
    assert_eq!(service["spec"]["ports"][0]["targetPort"], "http");
    for manifest in manifests() {
        let spec = &manifest["spec"];
        if let Some(labels) = spec["selector"]["matchLabels"].as_object() {
            let of_pods = ["Deployment", "StatefulSet"].contains(&manifest["kind"].as_str().unwrap());
            let template = if of_pods { &spec["template"] } else { &template };
            assert_eq!(
                &template["metadata"]["labels"],
                &Value::from(labels.clone()),
                "{}",
                manifest["metadata"]
            );
        }
    }
    assert_eq!(service["spec"]["selector"], template["metadata"]["labels"]);
    let database = manifest("StatefulSet", "eventctl-postgres");
    let service = manifest("Service", "eventctl-postgres");
    assert_eq!(service["spec"]["selector"], database["spec"]["template"]["metadata"]["labels"]);
    assert_eq!(database["spec"]["serviceName"], service["metadata"]["name"]);
    for (kind, name, part) in [
        ("Deployment", "eventctl", "consume"),
        ("Job", "eventctl-init-db", "init-db"),
        ("Job", "eventctl-init-db", "wait"),
    ] {
        assert_eq!(environment(&container(kind, name, part))["DB_HOST"], "eventctl-postgres", "{part}");
    }
}

#[test]
fn a_pod_has_time_to_serve_on_and_to_drain() {
    let settings = yaml(&read("eventctl.yaml")).remove(0);
    let seconds = |name: &str| -> u64 {
        settings["consume"][name].as_str().unwrap().strip_suffix('s').unwrap().parse().unwrap()
    };
    let (lame_duck, drain) = (seconds("lame-duck"), seconds("drain-timeout"));
    let pod = manifest("Deployment", "eventctl")["spec"]["template"]["spec"].clone();
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(lame_duck > 0 && grace > lame_duck + drain, "{grace} is not more than {lame_duck} and {drain}");
}

#[cfg(feature = "postgres")]
#[test]
#[ignore = "needs psql and the servers of .ci/servers"]
fn the_containers_do_what_they_are_to() {
    let directory = tempdir().unwrap();
    let database = Database::new("of-the-owner-48");
    let secrets =
        [("owner-password", "of-the-owner-48"), ("db-password", "of-the-login"), ("password", "of-the-api")];
    for (name, password) in secrets {
        write_secret(directory.path(), name, password);
    }
    // The ports of others stay theirs.
    let settings =
        read("eventctl.yaml").replace("port: 8000", "port: 0").replace("0.0.0.0:9100", "127.0.0.1:0");
    let folder = directory.path().display().to_string();
    let here = |text: &str| text.replace("/run/secrets", &folder).replace("/etc/eventctl", &folder);
    write_file(
        directory.path(),
        "eventctl.yaml",
        here(&settings).replace("/events\n", &format!("/{}\n", database.store.name)),
    );
    write_file(directory.path(), "roles.sql", read("roles.sql"));
    let command = |kind: &str, name: &str, part: &str| {
        let container = container(kind, name, part);
        let mut words = strings(&container["command"]);
        words.extend(strings(&container["args"]));
        let mut command = match container["image"].as_str() {
            Some("eventctl") => eventctl(directory.path()),
            _ => database.psql(&words.remove(0)),
        };
        for (variable, value) in environment(&container) {
            let secret = value.strip_prefix('$');
            let secret = secret.map(|key| secrets.iter().find(|(name, _)| *name == key).unwrap().1);
            match variable.as_str() {
                "PGHOST" | "PGDATABASE" => continue,
                "DB_HOST" => command.env(variable, &database.address),
                _ => command.env(variable, secret.map_or_else(|| here(&value), str::to_owned)),
            };
        }
        command.args(words.iter().map(|word| here(word)));
        command
    };
    for part in ["init-db", "roles", "init-db", "roles"] {
        run(&mut command("Job", "eventctl-init-db", part));
    }
    let mut servers =
        [(); 2].map(|()| Consume::start_command(&mut command("Deployment", "eventctl", "consume")));
    let consume = container("Deployment", "eventctl", "consume");
    for server in &servers {
        for (probe, path) in
            [("startupProbe", "/health"), ("readinessProbe", "/ready"), ("livenessProbe", "/health")]
        {
            let probe = &consume[probe]["httpGet"];
            assert_eq!((probe["path"].as_str(), probe["port"].as_str()), (Some(path), Some("http")));
            assert_eq!(server.connect().get(path).status, 200, "{path}");
        }
        assert_eq!(server.connect().get("/event").status, 401);
    }
    // As deploy.sh advises.
    write_file(directory.path(), "events.json", r#"[{"event_type":"a","event_payload":"b"}]"#);
    let mut propagate = eventctl(directory.path());
    propagate.args([
        "propagate",
        "--count",
        "5",
        "--period",
        "1ms",
        "--username",
        "operator",
        "--password-file",
        "password",
    ]);
    for server in &servers {
        run(propagate.env("HTTP_POST_ENDPOINT", format!("http://127.0.0.1:{}/event", server.address.port())));
    }
    assert_eq!(database.store.stored().len(), 10);
    for server in &mut servers {
        assert!(server.process.terminate().success());
    }
}

/// The script with a `kubectl` that fails where a call holds some words.
struct Deployment {
    directory: TempDir,
    /// Words of a call that fails, `|` its end, and what it says then.
    failing: (&'static str, &'static str),
}

impl Deployment {
    fn new() -> Deployment {
        let directory = tempdir().unwrap();
        copy_folder(&examples().join("kubernetes"), &directory.path().join("kubernetes"));
        let stub = "#!/bin/sh\necho \"$*\" >> \"$CALLS\"\n\
            case \"$*|\" in *\"$FAILING\"*) [ -z \"$FAILING\" ] || { echo \"$SAYING\" >&2; exit 1; } ;; esac\n";
        let written = write_file(directory.path(), "kubectl.sh", stub);
        set_mode(&written, 0o755);
        copy(&written, &directory.path().join("kubectl"));
        let deployment = Deployment { directory, failing: ("", "") };
        deployment.set_secrets(SECRETS.map(|name| format!("{name}=0123456789abcdef")));
        deployment
    }

    fn set_secrets(&self, lines: impl IntoIterator<Item = String>) {
        let lines: Vec<String> = lines.into_iter().collect();
        write_secret(&self.directory.path().join("kubernetes"), "secret.env", lines.join("\n"));
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.directory.path().join("kubernetes/deploy.sh"));
        let path = format!("{}:{}", self.directory.path().display(), std::env::var("PATH").unwrap());
        command
            .args(arguments)
            .env_clear()
            .env("PATH", path)
            .env("CALLS", self.directory.path().join("calls"));
        command.env("FAILING", self.failing.0).env("SAYING", self.failing.1).stdin(Stdio::null());
        command
    }

    /// The code with which it ends, what it says on standard error, and the calls of `kubectl`.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, Vec<String>) {
        self.run_command(&mut self.command(arguments))
    }

    fn run_command(&self, command: &mut Command) -> (Option<i32>, String, Vec<String>) {
        let output = command.output().unwrap();
        let calls = fs::read_to_string(self.directory.path().join("calls")).unwrap_or_default();
        let stderr = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), stderr, calls.lines().map(str::to_owned).collect())
    }
}

/// What changes the cluster; the rest asks and waits.
fn changes(calls: &[String]) -> Vec<&str> {
    let is_change = |call: &&str| {
        let verbs = ["delete", "apply", "patch", "create", "expose"];
        verbs.iter().any(|verb| call.contains(verb)) && !call.contains("--dry-run")
    };
    calls.iter().map(String::as_str).filter(is_change).collect()
}

#[test]
#[ignore = "needs bash"]
fn the_script_checks_removes_applies_waits_and_exposes_in_this_order() {
    let (code, stderr, calls) = Deployment::new().run(&["events"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let expected = [
        "get namespace events",
        "--namespace events delete job eventctl-init-db",
        "--dry-run=server",
        "--namespace events delete deployment eventctl",
        "--namespace events apply --kustomize ",
        "wait --for=condition=complete job/eventctl-init-db",
        "wait --for=condition=available deployment/eventctl",
        r#"patch service eventctl --patch {"spec": {"type": "ClusterIP"}}"#,
        "get service eventctl",
    ];
    let mut calls = calls.iter();
    for call in expected {
        assert!(calls.any(|found| found.contains(call)), "`{call}` is missing or out of order");
    }
    // Without a namespace it is the default one, and another type is taken.
    let deployment = Deployment::new();
    let (code, _, calls) =
        deployment.run_command(deployment.command(&[]).env("SERVICE_TYPE", "LoadBalancer"));
    assert_eq!(code, Some(0));
    assert!(calls.iter().any(|call| call == "get namespace default"), "{calls:?}");
    assert!(calls.iter().any(|call| call.contains("LoadBalancer")), "{calls:?}");
}

#[test]
#[ignore = "needs bash"]
fn nothing_is_removed_where_nothing_can_be_deployed() {
    for (failing, error, hint) in [
        (
            ("version", "x\nno route to host"),
            "cannot reach the cluster: no route to host",
            "kubectl config current-context",
        ),
        (
            ("get namespace", "Error from server (NotFound): namespaces \"events\" not found"),
            "there is no namespace `events`",
            "kubectl create namespace events",
        ),
        (
            ("get namespace", "Error from server (Forbidden): no"),
            "cannot see the namespace `events`: Error from server (Forbidden): no",
            "kubectl auth can-i --list",
        ),
        (
            ("--dry-run=server", "unknown field"),
            "the cluster refuses this: unknown field",
            "--dry-run=server",
        ),
    ] {
        let deployment = Deployment { failing, ..Deployment::new() };
        let (code, stderr, calls) = deployment.run(&["events"]);
        let lines: Vec<&str> = stderr.lines().collect();
        assert_eq!(code, Some(1), "{stderr}");
        assert_eq!(lines[0], format!("error: {error}"));
        assert!(lines.len() == 2 && lines[1].starts_with("hint: ") && lines[1].contains(hint), "{stderr}");
        assert!(!calls.iter().any(|call| call.contains("delete deployment")), "{calls:?}");
    }
}

#[test]
#[ignore = "needs bash"]
fn passwords_are_asked_for_before_the_cluster_is() {
    let long = "0123456789abcdef";
    for (lines, missing) in [
        (vec![], "owner-password"),
        (vec![format!("owner-password={long}"), "db-password=".to_owned()], "db-password"),
        (vec![format!("owner-password={long}"), "db-password=short".to_owned()], "db-password"),
        (vec![format!("owner-password={long}"), format!("db-password={long}")], "password"),
    ] {
        let deployment = Deployment::new();
        deployment.set_secrets(lines);
        let (code, stderr, calls) = deployment.run(&["events"]);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains(&format!("has no {missing} of 16 characters or more\nhint: ")), "{stderr}");
        assert!(calls.is_empty(), "{calls:?}");
        // What is advised makes what is asked for.
        let (_, advice) = stderr.split_once("hint: ").unwrap();
        assert!(Command::new("bash").args(["-c", advice]).status().unwrap().success());
        let (code, stderr, _) = deployment.run(&["events"]);
        assert_eq!(code, Some(0), "{stderr}");
    }
    let deployment = Deployment::new();
    let (code, stderr, calls) =
        deployment.run_command(deployment.command(&[]).env("SERVICE_TYPE", "Ingress"));
    assert_eq!((code, calls.len()), (Some(1), 0));
    assert!(stderr.starts_with("error: SERVICE_TYPE is `Ingress`\nhint: "), "{stderr}");
}

#[test]
#[ignore = "needs bash"]
fn what_does_not_come_up_is_explained_and_not_exposed() {
    for (failing, error, logs) in [
        (
            "wait --for=condition=complete",
            "the database was not prepared within 7s",
            "logs job/eventctl-init-db",
        ),
        (
            "wait --for=condition=available",
            "eventctl did not become available within 7s",
            "logs deployment/eventctl",
        ),
    ] {
        let deployment = Deployment { failing: (failing, "timed out"), ..Deployment::new() };
        let (code, stderr, calls) =
            deployment.run_command(deployment.command(&["events"]).env("TIMEOUT", "7s"));
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains(&format!("error: {error}\nhint: ")), "{stderr}");
        assert!(calls.iter().any(|call| call.contains(logs)), "{calls:?}");
        assert!(calls.iter().any(|call| call.contains("get events")), "{calls:?}");
        assert!(!changes(&calls).iter().any(|call| call.contains("patch")), "{calls:?}");
    }
    // Without anything after the folder: not in the rehearsal.
    let deployment = Deployment { failing: ("/kubernetes|", "refused"), ..Deployment::new() };
    let (code, stderr, calls) = deployment.run(&["events"]);
    assert!(code == Some(1) && stderr.contains("refused"), "{stderr}");
    assert!(!calls.iter().any(|call| call.contains("wait --for")), "{calls:?}");
}
