//! `GET /openapi.json`: the document says of the server what is so, and all of it.

mod document;
mod generate;
mod situations;
mod values;
mod wire;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread;

use serde_json::{Value, json};
use tempfile::tempdir;

use self::document::{DOCUMENT, Document, Seen};
use self::generate::Generator;
use self::wire::{Client, Request};
use crate::consume::tokens::{log_in, start_guarded};
use crate::util::http::Response;
use crate::util::{Consume, random};

/// A server with a hook, where the heads of requests are given more room, so that one can be too long in more than one way.
const LARGE_HEADS: [&str; 4] = ["--header-limit", "256KiB", "--hook", "hook=none"];

/// Answers that are described, and that no test here can bring about, each with the reason.
const UNSEEN: [(&str, &str, &str); 0] = [];

/// How many requests are made up for each kind of server.
fn requests() -> usize {
    std::env::var("TEST_REQUESTS").map_or(1200, |requests| requests.parse().unwrap())
}

#[test]
fn the_document_is_served_as_it_is_in_the_sources_and_tells_the_version() {
    let (_directory, server) = start_guarded(&[]);
    let response = server.connect().get("/openapi.json");
    assert_eq!((response.status, response.header("content-type")), (200, Some("application/json")));
    assert_eq!(&response.json(), DOCUMENT.root());
    assert_eq!(DOCUMENT.root()["info"]["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn every_reference_leads_somewhere_and_every_component_is_used() {
    let mut targets = BTreeSet::new();
    for_each_value(DOCUMENT.root(), "", &mut |_, value| {
        if let Some(target) = value.get("$ref") {
            targets.insert(target.as_str().unwrap().strip_prefix('#').unwrap().to_owned());
        }
        if let Some(target) = value.get("operationRef") {
            targets.insert(target.as_str().unwrap().strip_prefix('#').unwrap().to_owned());
        }
    });
    for target in &targets {
        assert!(DOCUMENT.root().pointer(target).is_some(), "{target} leads nowhere");
    }
    for kind in ["parameters", "headers", "responses", "schemas"] {
        for name in DOCUMENT.root()["components"][kind].as_object().unwrap().keys() {
            assert!(targets.contains(&format!("/components/{kind}/{name}")), "{kind}/{name} is not used");
        }
    }
}

#[test]
fn every_schema_is_one_and_allows_its_examples() {
    let (mut schemas, mut examples) = (0, 0);
    for_each_value(DOCUMENT.root(), "", &mut |pointer, value| {
        let schema = format!("{pointer}/schema");
        if let Some(object) = value.as_object().filter(|object| object.contains_key("schema")) {
            schemas += 1;
            DOCUMENT.validator(&schema);
            let named = object.get("examples").and_then(Value::as_object).into_iter().flatten();
            let given = named.map(|(_, example)| &example["value"]).chain(object.get("example"));
            for example in given {
                examples += 1;
                DOCUMENT.validate(&schema, example).unwrap();
            }
        }
    });
    for name in DOCUMENT.root()["components"]["schemas"].as_object().unwrap().keys() {
        DOCUMENT.validator(&format!("/components/schemas/{name}"));
    }
    assert!(schemas > 50 && examples > 15, "{schemas} schemas, {examples} examples");
}

#[test]
fn operations_have_names_of_their_own_and_declare_what_their_paths_have() {
    let mut names = BTreeSet::new();
    for operation in DOCUMENT.operations() {
        let described = DOCUMENT.root().pointer(&operation.pointer).unwrap();
        let (Some(path), Some(_)) = (&operation.path, &operation.method) else { continue };
        let name = described["operationId"].as_str().unwrap_or_else(|| panic!("{operation:?}"));
        assert!(names.insert(name.to_owned()), "{name} is not the only one");
        assert!(described["summary"].is_string() && described["tags"].is_array(), "{operation:?}");
        let of_path: Vec<&str> =
            path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        let parameters = DOCUMENT.parameters(&operation);
        let declared: Vec<&str> = parameters
            .iter()
            .filter(|(_, parameter)| parameter["in"] == "path" && parameter["required"] == true)
            .map(|(_, parameter)| parameter["name"].as_str().unwrap())
            .collect();
        assert_eq!(declared, of_path, "{operation:?}");
        for scheme in described["security"].as_array().into_iter().flatten() {
            for name in scheme.as_object().unwrap().keys() {
                assert!(DOCUMENT.root()["components"]["securitySchemes"].get(name).is_some(), "{name}");
            }
        }
    }
}

#[test]
fn every_answer_is_described_and_every_described_answer_is_given() {
    let seen = thread::scope(|scope| {
        let tests = [
            scope.spawn(anyone_asks),
            scope.spawn(someone_with_a_token_asks),
            scope.spawn(situations::everything_is_asked_for_in_turn),
            scope.spawn(situations::events_are_followed),
            scope.spawn(situations::tokens_are_asked_for),
            scope.spawn(situations::some_paths_have_nothing),
            scope.spawn(situations::there_are_too_many_connections),
            scope.spawn(situations::bodies_do_not_arrive),
            scope.spawn(situations::the_store_is_locked),
            scope.spawn(situations::the_disk_is_full),
            scope.spawn(situations::alerts_are_sent),
            scope.spawn(situations::webhooks_are_sent),
            scope.spawn(situations::subscriptions_are_worked_off),
        ];
        let seen = tests.map(|test| test.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        seen.into_iter().flatten().collect::<Seen>()
    });
    let unseen: Vec<_> = DOCUMENT.described().difference(&seen).cloned().collect();
    let expected = UNSEEN.map(|(operation, status, _)| (operation.to_owned(), status.to_owned()));
    let surprising: Vec<_> = unseen
        .iter()
        .filter(|(operation, status, _)| !expected.contains(&(operation.clone(), status.clone())))
        .collect();
    assert!(surprising.is_empty(), "described, and never seen: {surprising:#?}");
}

/// Made-up requests to a server that lets everyone in.
fn anyone_asks() -> Seen {
    let directory = tempdir().unwrap();
    let server = Consume::start_with(directory.path(), &LARGE_HEADS);
    make_up_requests(server.address, None)
}

/// Made-up requests to a server that asks for tokens, and gives them.
fn someone_with_a_token_asks() -> Seen {
    let (_directory, server) = start_guarded(&LARGE_HEADS);
    let token = log_in(&server).access;
    make_up_requests(server.address, Some(token))
}

fn make_up_requests(address: SocketAddr, token: Option<String>) -> Seen {
    let mut generator = Generator::new(random(), token);
    let mut client = Client::new(address);
    let operations = DOCUMENT.operations();
    for number in 0..requests() {
        let operation = &operations[number % operations.len()];
        client.send(&generator.request(operation));
    }
    client.seen
}

#[test]
fn what_is_not_described_is_noticed() {
    let directory = tempdir().unwrap();
    let server = Consume::start(directory.path());
    let operations = DOCUMENT.operations();
    let post = operations.iter().find(|operation| operation.name() == "POST /event").unwrap();
    let body = r#"{"event_type":"a","event_payload":"b"}"#;
    let response = Client::new(server.address)
        .send(&Request::new(post, "POST", "/event").body("application/json", body));
    let check = |document: &Document, response: &Response| document.check(post, "POST", response);
    check(&DOCUMENT, &response).unwrap();

    let altered = |pointer: &str, member: &str, value: Option<Value>| {
        let mut root = DOCUMENT.root().clone();
        let object = root.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
        match value {
            Some(value) => drop(object.insert(member.to_owned(), value)),
            None => assert!(object.remove(member).is_some(), "{pointer}/{member}"),
        }
        Document::new(root)
    };
    let created = "/paths/~1event/post/responses/201";
    let properties = "/components/schemas/StoredOne/properties";
    for (document, error) in [
        (altered("/paths/~1event/post/responses", "201", None), "the status 201 is not described"),
        (altered(&format!("{created}/headers"), "Location", None), "the header `location: event/1` is not"),
        (altered("/components/schemas/EventPath", "pattern", Some(json!("^/events/"))), "event/1"),
        (
            altered(&format!("{created}/headers"), "ETag", Some(json!({"required": true}))),
            "`ETag` is missing",
        ),
        (altered(created, "content", Some(json!({"text/html": {"schema": {}}}))), "the content type"),
        (altered(properties, "status", None), "oneOf"),
        (altered(&format!("{properties}/status"), "const", Some(json!("done"))), "oneOf"),
    ] {
        let found = check(&document, &response).expect_err(error);
        assert!(found.contains(error), "{found}");
    }

    let with_header = |name: &str, value: &str| {
        let mut headers = response.headers.clone();
        headers.push((name.to_owned(), value.to_owned()));
        Response { status: 201, headers, body: response.body.clone() }
    };
    let with_body = |body: &str| Response {
        status: 201,
        headers: response.headers.clone(),
        body: body.as_bytes().to_vec(),
    };
    for (response, error) in [
        (Response { status: 500, ..with_body("") }, "the status 500 is not described"),
        (with_header("x-powered-by", "rust"), "`x-powered-by: rust` is not described"),
        (with_header("location", "event/2"), "given 2 times"),
        (with_header("connection", "upgrade"), "upgrade"),
        (with_body(""), "EOF"),
        (with_body("{\"status\":\"success\""), "EOF"),
        (with_body(r#"{"status":"success","id":1}"#), "oneOf"),
        (with_body("{}"), "oneOf"),
    ] {
        let found = check(&DOCUMENT, &response).expect_err(error);
        assert!(found.contains(error), "{found}");
    }
}

/// Calls a function with everything in a document, and where it is.
fn for_each_value(value: &Value, pointer: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(pointer, value);
    match value {
        Value::Object(members) => members.iter().for_each(|(name, member)| {
            for_each_value(member, &format!("{pointer}/{}", document::escaped(name)), visit);
        }),
        Value::Array(items) => items.iter().enumerate().for_each(|(index, item)| {
            for_each_value(item, &format!("{pointer}/{index}"), visit);
        }),
        _ => {}
    }
}
