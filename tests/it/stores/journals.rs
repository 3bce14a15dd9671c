//! A sender's journal, and what each store has of it.

use super::database::{TestStore, on_every_store};
use crate::propagate::run;
use crate::util::http::event;
use crate::util::{eventctl, write_file};

on_every_store!(events_of_a_journal_are_stored_once_and_found_by_their_keys);

fn events_of_a_journal_are_stored_once_and_found_by_their_keys(store: &TestStore) {
    let server = store.prepare_and_consume();
    let sender = tempfile::tempdir().unwrap();
    write_file(sender.path(), "events.json", format!("[{},{{\"event_type\":7}}]", event("message", "é 'x'")));
    // Events that another run has stored before are none of this one's.
    let endpoint = server.url("/event");
    run(sender.path(), &endpoint, &["--count", "4"]);
    run(sender.path(), &endpoint, &["--count", "10", "--journal", "journal"]);
    let journal = sender.path().join("journal");
    let verify = |arguments: &[&str]| {
        let mut command = store.command("tail");
        let output = command.args(["--verify", journal.to_str().unwrap()]).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (code, text) = verify(&[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("5 acknowledged and stored once") && text.contains("5 refused and not stored"),
        "{text}"
    );
    let mut remote = eventctl(sender.path());
    let remote =
        remote.args(["tail", "--verify", "journal", "--endpoint", &server.url("")]).output().unwrap();
    assert_eq!(String::from_utf8(remote.stdout).unwrap(), text);

    let text = std::fs::read_to_string(&journal).unwrap();
    let id: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let by_key = |number: u64| {
        let path = format!("/event?key={}-{number}", id["id"].as_str().unwrap());
        server.connect().get(&path).json()
    };
    assert_eq!(by_key(1)[0]["event_payload"], "é 'x'");
    assert_eq!(by_key(2), serde_json::json!([]), "it was refused");
    let deleted = by_key(3)[0]["id"].as_i64().unwrap();
    assert_eq!(server.connect().request("DELETE", &format!("/event/{deleted}"), &[], b"").status, 204);
    server.store("message", "é 'x'");
    server.store("message", "é 'x'");
    let (code, text) = verify(&[]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("-3: acknowledged and missing"), "{text}");
}
