//! Alerts on every store: what is kept of them, and what several processes make of one outbox.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::database::{Kind, TestStore, answer_of, on_every_server, on_every_store, store_all};
use crate::alerts::hooks::Hook;
use crate::alerts::{Delivery, post_alert};
use crate::util::http::{Response, event};
use crate::util::receiver::{Arrival, Reply};
use crate::util::{Consume, wait_until};

on_every_store!(
    an_alert_is_shown_with_all_that_became_of_it,
    the_same_alert_is_not_sent_again_for_a_while,
    a_repeated_request_alerts_once,
    of_a_batch_those_that_match_are_sent,
    types_and_payloads_arrive_as_they_were_sent,
    what_a_mail_server_says_is_kept_whatever_it_says,
    a_message_that_fails_is_tried_again_under_the_same_id,
    the_answer_says_whether_all_channels_were_told,
    beyond_its_rate_a_channel_gets_one_digest,
    what_was_given_up_is_sent_again_on_demand,
    a_digest_has_no_more_than_a_mebibyte,
    of_a_digest_only_what_is_too_old_is_given_up,
    a_channel_that_does_not_answer_holds_up_no_other,
    a_channel_that_asks_for_a_pause_gets_nothing_before_and_then_one_message,
    a_channel_that_has_too_many_requests_is_paused_though_it_does_not_say_for_how_long,
    slack_and_discord_get_messages_no_faster_than_they_take_them,
    an_event_and_its_deliveries_are_stored_together_or_not_at_all,
    of_many_alerts_stored_at_once_each_is_told_once,
);

mod shared {
    super::on_every_server!(
        two_processes_send_each_alert_once,
        two_processes_keep_to_one_rate,
        a_pause_binds_all_processes,
        what_a_killed_process_was_sending_is_sent_by_another,
        a_process_that_slept_overwrites_nothing_of_another,
    );

    use super::{
        a_pause_binds_all_processes, a_process_that_slept_overwrites_nothing_of_another,
        two_processes_keep_to_one_rate, two_processes_send_each_alert_once,
        what_a_killed_process_was_sending_is_sent_by_another,
    };
}

/// For how long another process leaves alone what one has claimed.
const LEASE: Duration = Duration::from_secs(30);

/// A receiver that takes every message while its gate is open.
struct Channel {
    receiver: Hook,
    gate: Arc<RwLock<()>>,
}

impl Channel {
    /// Answers 200.
    fn start() -> Channel {
        Channel::answering(|_, _| Reply::status(200, ""))
    }

    fn answering(reply: impl Fn(&Arrival, usize) -> Reply + Send + Sync + 'static) -> Channel {
        let gate = Arc::new(RwLock::new(()));
        let passage = Arc::clone(&gate);
        let receiver = Hook::start(move |arrival, number| {
            drop(passage.read());
            reply(arrival, number)
        });
        Channel { receiver, gate }
    }

    /// What `--alert` takes.
    fn url(&self) -> String {
        self.receiver.url("/alerts")
    }

    /// The messages that have arrived by now.
    fn messages(&self) -> Vec<Message> {
        self.receiver.arrivals().iter().map(Message::of).collect()
    }

    fn wait_for(&self, count: usize) -> Vec<Message> {
        wait_until(|| Some(self.messages()).filter(|messages| messages.len() >= count))
    }

    /// The payloads of all events that have arrived by now, in their order.
    fn payloads(&self) -> Vec<String> {
        self.messages().into_iter().flat_map(|message| message.payloads).collect()
    }
}

/// What a webhook got.
#[derive(Debug, Clone)]
struct Message {
    id: String,
    body: Value,
    payloads: Vec<String>,
}

impl Message {
    fn of(arrival: &Arrival) -> Message {
        let body: Value = serde_json::from_str(&arrival.body).unwrap();
        let events = body.as_array().cloned().unwrap_or_else(|| vec![body.clone()]);
        let payload = |event: &Value| event["event_payload"].as_str().unwrap().to_owned();
        let ids = arrival.headers("webhook-id");
        let [id] = ids[..] else { panic!("{arrival:?}") };
        Message { id: id.to_owned(), payloads: events.iter().map(payload).collect(), body }
    }
}

/// `consume` that alerts these channels of all events of type `alert`.
fn consume(store: &TestStore, channels: &[&Channel], arguments: &[&str]) -> Consume {
    let urls: Vec<String> = channels.iter().map(|channel| channel.url()).collect();
    let mut all = vec!["--alert-allow-private", "--alert-on", "alert"];
    urls.iter().for_each(|url| all.extend(["--alert", url]));
    all.extend(arguments);
    store.consume(&all)
}

/// Far more than there are.
const NO_RATE: [&str; 2] = ["--alert-rate", "1000000"];

fn alert(server: &Consume, payload: &str) {
    server.store("alert", payload);
}

/// Stores alerts with these payloads at once.
fn alert_all(server: &Consume, payloads: &[String]) {
    let events: Vec<(&str, &str)> = payloads.iter().map(|payload| ("alert", payload.as_str())).collect();
    store_all(server, &events);
}

fn numbered(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("alert {number}")).collect()
}

/// What `tail --alerts` shows.
fn deliveries(store: &TestStore) -> Vec<Delivery> {
    let shown = store.tail(&["--alerts", "-n", "all", "-o", "json"]);
    shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn states(store: &TestStore) -> Vec<String> {
    deliveries(store).into_iter().map(|delivery| delivery.state).collect()
}

/// A number, read without the program.
fn number(store: &TestStore, select: &str) -> i64 {
    match store.kind {
        Kind::Sqlite => {
            let connection = rusqlite::Connection::open(store.path().join(&store.url)).unwrap();
            connection.query_row(select, [], |row| row.get(0)).unwrap()
        }
        #[cfg(feature = "postgres")]
        Kind::Postgres => {
            let mut client = ::postgres::Client::connect(&store.url, ::postgres::NoTls).unwrap();
            client.query_one(select, &[]).unwrap().get(0)
        }
        #[cfg(feature = "mysql")]
        Kind::MySql => {
            use ::mysql::prelude::Queryable;
            ::mysql::Conn::new(store.url.as_str()).unwrap().query_first(select).unwrap().unwrap()
        }
    }
}

fn wait_for_number(store: &TestStore, expected: i64, select: &str) {
    wait_until(|| {
        thread::sleep(Duration::from_millis(20));
        (number(store, select) == expected).then_some(())
    });
}

/// Waits until so many deliveries have this state.
fn wait_for_state(store: &TestStore, count: usize, state: &str) {
    let select = format!("SELECT count(*) FROM deliveries WHERE state = '{state}'");
    wait_for_number(store, i64::try_from(count).unwrap(), &select);
}

fn instant(text: &str) -> jiff::Timestamp {
    text.parse().unwrap()
}

fn an_alert_is_shown_with_all_that_became_of_it(store: &TestStore) {
    store.prepare();
    let taking = Channel::start();
    let refusing = Channel::answering(|_, _| Reply::status(400, ""));
    let hesitating = Channel::answering(|_, _| Reply::status(503, "Retry-After: 3000\r\n"));
    let server = consume(store, &[&taking, &refusing, &hesitating], &[]);
    server.store("other", "nobody is told");
    alert(&server, "first");
    for state in ["sent", "dead", "pending"] {
        wait_until(|| {
            let now = deliveries(store);
            now.iter().find(|delivery| delivery.state == state && delivery.attempts == 1).map(drop)
        });
    }
    let shown = deliveries(store);
    assert_eq!(shown.len(), 3, "{shown:?}");
    assert!(shown.is_sorted_by(|one, next| one.channel < next.channel), "{shown:?}");
    let of = |channel: &Channel| {
        let host = format!("http:{}#", channel.receiver.address);
        shown.iter().find(|delivery| delivery.channel.starts_with(&host)).unwrap()
    };
    for delivery in &shown {
        assert_eq!((delivery.event_id, delivery.event_type.as_deref()), (2, Some("alert")));
        assert_eq!(delivery.repeats, None);
        assert_eq!(delivery.due_at.is_some(), delivery.state == "pending", "{delivery:?}");
        assert_eq!(delivery.settled_at.is_some(), delivery.state != "pending", "{delivery:?}");
    }
    let (sent, dead, pending) = (of(&taking), of(&refusing), of(&hesitating));
    assert_eq!((sent.state.as_str(), &sent.last_error), ("sent", &None));
    assert!(instant(sent.settled_at.as_ref().unwrap()) >= instant(&sent.created_at));
    assert_eq!(dead.state, "dead");
    assert!(dead.last_error.as_ref().unwrap().starts_with("status 400"), "{dead:?}");
    assert!(pending.last_error.as_ref().unwrap().starts_with("status 503"), "{pending:?}");
    let wait = instant(pending.due_at.as_ref().unwrap()).duration_since(instant(&pending.created_at));
    assert!((2990..3100).contains(&wait.as_secs()), "{pending:?}");
    assert_eq!(taking.payloads(), ["first"]);
    let event = server.connect().get("/event/2").json();
    assert_eq!(taking.messages()[0].body, event, "a webhook gets the event as it is read");
}

fn the_same_alert_is_not_sent_again_for_a_while(store: &TestStore) {
    store.prepare();
    let channel = Channel::start();
    let server = consume(store, &[&channel], &[NO_RATE.as_slice(), &["--alert-repeat-after", "1h"]].concat());
    // Of the same batch, too.
    store_all(&server, &[("alert", "a"), ("alert", "b"), ("alert", "a")]);
    alert(&server, "a");
    alert(&server, "A");
    wait_for_state(store, 3, "sent");
    drop(server);
    let server = consume(store, &[&channel], &["--alert-repeat-after", "1h"]);
    alert(&server, "b");
    alert(&server, "a ");
    wait_for_state(store, 4, "sent");
    assert_eq!(channel.payloads(), ["a", "b", "A", "a "]);
    let shown: Vec<(String, Option<i64>, i64)> =
        deliveries(store).into_iter().map(|one| (one.state, one.repeats, one.attempts)).collect();
    let sent = || ("sent".to_owned(), None, 1);
    let repeated = |original| ("repeated".to_owned(), Some(original), 0);
    assert_eq!(shown, [sent(), sent(), repeated(1), repeated(1), sent(), repeated(2), sent()]);
    // The time is over.
    store.execute("UPDATE deliveries SET created_at = created_at - 3600000000");
    alert(&server, "a");
    alert(&server, "a");
    wait_for_state(store, 5, "sent");
    assert_eq!(deliveries(store).last().unwrap().repeats, Some(8));
    drop(server);
    let server = consume(store, &[&channel], &[NO_RATE.as_slice(), &["--alert-repeat-after", "0"]].concat());
    alert(&server, "a");
    alert(&server, "a");
    wait_for_state(store, 7, "sent");
    assert_eq!(channel.payloads().len(), 7);
}

fn a_repeated_request_alerts_once(store: &TestStore) {
    store.prepare();
    let channel = Channel::start();
    // Only the key keeps the same alert from being sent twice.
    let arguments = ["--alert-repeat-after", "0", "--alert-rate", "1000"];
    let mut server = consume(store, &[&channel], &arguments);
    let list = format!("[{},{}]", event("alert", "1"), event("alert", "2"));
    let post = |server: &Consume, key: &str, body: &str| -> Response {
        server.connect().try_post_with_key(key, body).unwrap()
    };
    let first = post(&server, "key", &list);
    assert_eq!(first.status, 201, "{first:?}");
    let post_health = |server: &Consume, issue: &str| {
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "health")];
        let body = json!({"issues": [issue]}).to_string();
        server.connect().request("POST", "/api/v1/health-alert", &headers, body.as_bytes())
    };
    let first_health = post_health(&server, "a");
    assert_eq!(first_health.status, 200, "{first_health:?}");
    wait_for_state(store, 3, "sent");
    for round in 0..2 {
        assert_eq!(answer_of(&post(&server, "key", &list)), answer_of(&first));
        assert_eq!(post(&server, "key", &event("alert", "3")).status, 422);
        assert_eq!(answer_of(&post_health(&server, "a")), answer_of(&first_health));
        assert_eq!(post_health(&server, "b").status, 422);
        if round == 0 {
            // Another process has no other answer.
            server.process.kill();
            server = consume(store, &[&channel], &arguments);
        }
    }
    // Whatever were due would be sent before this.
    alert(&server, "last");
    wait_for_state(store, 4, "sent");
    assert_eq!(channel.payloads(), ["1", "2", r#"["a"]"#, "last"]);
    assert_eq!(deliveries(store).len(), 4);
}

fn of_a_batch_those_that_match_are_sent(store: &TestStore) {
    store.prepare();
    let channel = Channel::start();
    let server = consume(store, &[&channel], &["--alert-on", "[xy]?"]);
    let matching = [(10, "alert"), (500, "x1"), (999, "yé")];
    let types: Vec<&str> = (0..1000)
        .map(|position| matching.iter().find(|(at, _)| *at == position).map_or("x", |(_, kind)| kind))
        .collect();
    let payloads: Vec<String> = (0..1000).map(|position| position.to_string()).collect();
    let events: Vec<(&str, &str)> = types.into_iter().zip(payloads.iter().map(String::as_str)).collect();
    store_all(&server, &events);
    wait_for_state(store, 3, "sent");
    assert_eq!(deliveries(store).len(), 3);
    assert_eq!(channel.payloads(), ["10", "500", "999"]);
    let stored = store.stored();
    assert_eq!(stored.len(), 1000);
    for (delivery, message) in deliveries(store).iter().zip(channel.messages()) {
        let (_, event_type, payload) = stored.iter().find(|(id, ..)| *id == delivery.event_id).unwrap();
        assert_eq!(delivery.event_type.as_ref(), Some(event_type));
        assert_eq!(message.payloads, [payload.as_str()]);
        assert_eq!(message.body["id"], delivery.event_id);
    }
}

fn types_and_payloads_arrive_as_they_were_sent(store: &TestStore) {
    store.prepare();
    let channel = Channel::start();
    let server = consume(store, &[&channel], &[NO_RATE.as_slice(), &["--alert-on", "*"]].concat());
    let longest = "😀".repeat(255);
    let large = "é'\\\u{1b}".repeat(5000);
    let events = [
        ("", ""),
        ("a'b\\c\"d", "?$1{{x}}%s"),
        ("e\u{301} é \u{202e}", "\u{1}\u{7f}\r\n\t"),
        (longest.as_str(), large.as_str()),
        ("A", "a"),
        ("a", "A"),
    ];
    store_all(&server, &events);
    wait_for_state(store, events.len(), "sent");
    let messages = channel.messages();
    let shown = deliveries(store);
    for (position, (event_type, payload)) in events.iter().enumerate() {
        assert_eq!(messages[position].body["event_type"], *event_type);
        assert_eq!(messages[position].payloads, [*payload]);
        assert_eq!(shown[position].event_type.as_deref(), Some(*event_type));
    }
}

/// A mail server that answers every sender with the same line.
fn refuse_mail(line: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let mut stream = BufReader::new(stream.unwrap());
                let mut answer = "220 ready\r\n";
                let mut command = String::new();
                while stream.get_mut().write_all(answer.as_bytes()).is_ok() {
                    command.clear();
                    if stream.read_line(&mut command).unwrap_or_default() == 0 {
                        return;
                    }
                    answer = if command.starts_with("MAIL") { line } else { "250 fine\r\n" };
                }
            });
        }
    });
    address
}

fn what_a_mail_server_says_is_kept_whatever_it_says(store: &TestStore) {
    store.prepare();
    let address = refuse_mail("550 ?'$1\\ \"é😀\" %s \u{1b}[31m\u{202e} \0 end\r\n");
    let port = address.port().to_string();
    let server = store.consume(&[
        "--alert",
        "mailto:ops@example.com",
        "--smtp-host",
        "127.0.0.1",
        "--smtp-port",
        &port,
        "--sender-addr",
        "alerts@example.com",
    ]);
    assert_eq!(post_alert(&mut server.connect(), "a").status, 202);
    wait_for_state(store, 1, "dead");
    let shown = deliveries(store);
    let error = shown[0].last_error.as_ref().unwrap();
    for part in ["550", "?'$1\\ \"é😀\" %s", "[31m", "end"] {
        assert!(error.contains(part), "{error:?} without {part}");
    }
    assert!(!error.contains(['\0', '\u{1b}', '\u{202e}']), "{error:?}");
    assert_eq!((shown[0].channel.as_str(), shown[0].attempts), ("mailto:ops@example.com", 1));
}

fn a_message_that_fails_is_tried_again_under_the_same_id(store: &TestStore) {
    store.prepare();
    let channel = Channel::answering(|_, number| Reply::status(if number < 2 { 503 } else { 200 }, ""));
    let mut server = consume(store, &[&channel], &["--alert-repeat-after", "1h"]);
    alert(&server, "first");
    wait_until(|| deliveries(store).iter().any(|delivery| delivery.last_error.is_some()).then_some(()));
    // What is still to be sent is repeated as well.
    alert(&server, "first");
    // Another process goes on with it.
    server.process.kill();
    let _server = consume(store, &[&channel], &[]);
    wait_for_state(store, 1, "sent");
    let shown = deliveries(store);
    assert_eq!((shown[0].attempts, &shown[0].last_error, &shown[0].due_at), (3, &None, &None));
    assert_eq!((shown[1].state.as_str(), shown[1].repeats), ("repeated", Some(shown[0].event_id)));
    let messages = channel.messages();
    assert_eq!(channel.payloads(), ["first"; 3]);
    assert!(messages.iter().all(|message| message.id == messages[0].id), "{messages:?}");
}

fn the_answer_says_whether_all_channels_were_told(store: &TestStore) {
    store.prepare();
    let (channel, other) = (Channel::start(), Channel::start());
    let server = consume(store, &[&channel, &other], &[]);
    let answer = |issue: &str| {
        let response = post_alert(&mut server.connect(), issue);
        (response.status, response.json()["status"].as_str().unwrap().to_owned())
    };
    let sent = (200, "Health alert email sent".to_owned());
    let queued = (202, "Health alert queued".to_owned());
    assert_eq!(answer("both"), sent);
    let closed = other.gate.write().unwrap();
    assert_eq!(answer("one of two"), queued);
    assert_eq!(channel.payloads(), [r#"["both"]"#, r#"["one of two"]"#]);
    // A repetition is as far as what it repeats, and says that it is one.
    let already = (200, "Health alert already sent".to_owned());
    assert_eq!(answer("both"), already);
    assert_eq!(answer("one of two"), queued);
    drop(closed);
    wait_for_state(store, 4, "sent");
    assert_eq!(answer("one of two"), already);
    assert_eq!(channel.messages().len() + other.messages().len(), 4);
    drop(server);
    let refusing = Channel::answering(|_, _| Reply::status(404, ""));
    let server = consume(store, &[&channel, &refusing], &[]);
    let response = post_alert(&mut server.connect(), "refused");
    assert_eq!(
        (response.status, response.json()["status"].as_str()),
        (202, Some("Health alert not delivered"))
    );
}

fn beyond_its_rate_a_channel_gets_one_digest(store: &TestStore) {
    store.prepare();
    let (channel, other) = (Channel::start(), Channel::start());
    let server = consume(store, &[&channel, &other], &["--alert-rate", "3"]);
    let payloads = numbered(0..10);
    alert_all(&server, &payloads);
    wait_for_number(store, 14, "SELECT count(*) FROM deliveries WHERE held = 1 AND state = 'pending'");
    wait_for_state(store, 6, "sent");
    for channel in [&channel, &other] {
        assert_eq!(channel.payloads(), payloads[..3], "each has a rate of its own");
    }
    assert!(states(store)[6..].iter().all(|state| state == "pending"));
    // The minute is over.
    store.execute("UPDATE deliveries SET attempted_at = attempted_at - 60000000");
    for channel in [&channel, &other] {
        channel.wait_for(4);
        assert_eq!(channel.payloads(), payloads);
        assert_eq!(channel.messages()[3].payloads.len(), 7, "a digest");
    }
    wait_for_state(store, 20, "sent");
    // Others go one by one again.
    alert_all(&server, &numbered(10..12));
    wait_for_state(store, 24, "sent");
    assert_eq!(channel.messages().len(), 6);
}

/// What `alert-test --resend` prints, and its exit code.
fn resend(store: &TestStore, which: &str) -> (Option<i32>, String) {
    let output = store.command("alert-test").args(["--resend", which]).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

fn what_was_given_up_is_sent_again_on_demand(store: &TestStore) {
    store.prepare();
    let mends = Arc::new(RwLock::new(false));
    let mended = Arc::clone(&mends);
    let channel = Channel::answering(move |_, _| match *mended.read().unwrap() {
        true => Reply::status(200, ""),
        false => Reply::status(404, ""),
    });
    let other = Channel::start();
    let server = consume(store, &[&channel, &other], &["--alert-give-up-after", "1h"]);
    alert_all(&server, &numbered(0..4));
    wait_for_state(store, 4, "dead");
    wait_for_state(store, 4, "sent");
    *mends.write().unwrap() = true;
    // They are older than what is given up, and are tried for as long again.
    store.execute("UPDATE deliveries SET created_at = created_at - 7200000000");
    store.execute("DELETE FROM events WHERE id = 4");
    let name = deliveries(store).into_iter().find(|one| one.state == "dead").unwrap().channel;
    assert_eq!(resend(store, "2"), (Some(0), format!("2 {name}: to be sent again\n")));
    wait_for_state(store, 5, "sent");
    assert_eq!(channel.payloads()[4..], ["alert 1"]);
    // Nothing else of it was given up, and of the last there is nothing to send.
    assert_eq!(resend(store, "2"), (Some(1), String::new()));
    let deleted = format!("4 {name}: not sent again, as the event is deleted\n");
    assert_eq!(resend(store, "4"), (Some(1), deleted.clone()));
    let again = |id| format!("{id} {name}: to be sent again\n");
    assert_eq!(resend(store, "all"), (Some(0), again(1) + &again(3) + &deleted));
    wait_for_state(store, 7, "sent");
    assert_eq!(channel.payloads()[5..], ["alert 0", "alert 2"]);
    assert_eq!(other.payloads(), numbered(0..4));
    let of_first: Vec<_> = deliveries(store).into_iter().filter(|one| one.event_id == 1).collect();
    assert!(of_first.iter().all(|one| one.attempts == 1 && one.last_error.is_none()), "{of_first:?}");
    assert_eq!(resend(store, "all"), (Some(0), deleted));
}

fn a_digest_has_no_more_than_a_mebibyte(store: &TestStore) {
    store.prepare();
    let channel = Channel::start();
    let server = consume(store, &[&channel], &["--alert-rate", "1"]);
    alert(&server, "first");
    wait_for_state(store, 1, "sent");
    let long = |digit: &str| digit.repeat(600 << 10);
    let held = [long("1"), long("2"), "3".to_owned(), "4".to_owned()];
    held.iter().for_each(|payload| alert(&server, payload));
    wait_for_number(store, 4, "SELECT count(*) FROM deliveries WHERE held = 1 AND state = 'pending'");
    for (round, sent) in [(1, 2), (2, 5)] {
        // The minute is over.
        store.execute("UPDATE deliveries SET attempted_at = attempted_at - 60000000");
        wait_for_state(store, sent, "sent");
        assert_eq!(channel.messages().len(), round + 1);
    }
    let counts: Vec<usize> = channel.messages().iter().map(|message| message.payloads.len()).collect();
    assert_eq!(counts, [1, 1, 3], "two of 600 KiB do not fit into one");
    assert_eq!(channel.payloads()[1..], held);
}

fn of_a_digest_only_what_is_too_old_is_given_up(store: &TestStore) {
    store.prepare();
    // The digest fails once.
    let channel = Channel::answering(|_, number| match number {
        1 => Reply::status(503, ""),
        _ => Reply::status(200, ""),
    });
    let server = consume(store, &[&channel], &["--alert-rate", "1", "--alert-give-up-after", "1h"]);
    alert(&server, "first");
    wait_for_state(store, 1, "sent");
    alert_all(&server, &["old".to_owned(), "older".to_owned(), "new".to_owned()]);
    wait_for_number(store, 3, "SELECT count(*) FROM deliveries WHERE held = 1 AND state = 'pending'");
    store.execute("UPDATE deliveries SET created_at = created_at - 3700000000 WHERE event_id IN (2, 3)");
    store.execute("UPDATE deliveries SET attempted_at = attempted_at - 60000000");
    wait_for_state(store, 2, "dead");
    // The minute after the digest is over.
    store.execute("UPDATE deliveries SET attempted_at = attempted_at - 60000000");
    wait_for_state(store, 2, "sent");
    let shown: Vec<(String, i64)> =
        deliveries(store).into_iter().map(|one| (one.state, one.attempts)).collect();
    let of = |state: &str, attempts| (state.to_owned(), attempts);
    assert_eq!(shown, [of("sent", 1), of("dead", 1), of("dead", 1), of("sent", 2)]);
    let payloads: Vec<Vec<String>> = channel.messages().into_iter().map(|one| one.payloads).collect();
    assert_eq!(payloads, [vec!["first"], vec!["old", "older", "new"], vec!["new"]]);
    let stderr = server.process.stderr();
    let line = stderr.lines().find(|line| line.contains("is given up")).unwrap();
    assert!(line.contains("alert 2 and 1 more to http:") && line.contains("status 503"), "{line}");
}

fn a_channel_that_does_not_answer_holds_up_no_other(store: &TestStore) {
    store.prepare();
    let (silent, channel) = (Channel::start(), Channel::start());
    let closed = silent.gate.write().unwrap();
    let server = consume(store, &[&silent, &channel], &NO_RATE);
    let payloads = numbered(0..20);
    let started = Instant::now();
    alert_all(&server, &payloads);
    channel.wait_for(20);
    println!("after {:?}", started.elapsed());
    assert_eq!(channel.payloads(), payloads);
    assert_eq!(silent.messages().len(), 1, "the others wait for its first");
    drop(closed);
    wait_for_state(store, 40, "sent");
    assert_eq!(silent.payloads(), payloads);
}

/// Takes messages, but for the first and what comes within its pause.
fn pausing(pause: Duration) -> Channel {
    let first = Arc::new(Mutex::new(None::<Instant>));
    Channel::answering(move |arrival, _| {
        let first = *first.lock().unwrap().get_or_insert(arrival.at);
        let left = pause.saturating_sub(arrival.at.duration_since(first));
        match left.is_zero() {
            true => Reply::status(200, ""),
            false => Reply::status(429, &format!("Retry-After: {}\r\n", left.as_secs_f64().ceil())),
        }
    })
}

const PAUSE: Duration = Duration::from_secs(4);

fn a_channel_that_asks_for_a_pause_gets_nothing_before_and_then_one_message(store: &TestStore) {
    store.prepare();
    let channel = pausing(PAUSE);
    let arguments = [NO_RATE.as_slice(), &["--alert-give-up-after", "1h"]].concat();
    let mut server = consume(store, &[&channel], &arguments);
    let payloads = numbered(0..30);
    alert_all(&server, &payloads);
    wait_for_number(store, 30, "SELECT count(*) FROM deliveries WHERE held = 1 AND state = 'pending'");
    let waiting = deliveries(store);
    assert!(waiting[0].last_error.as_ref().unwrap().starts_with("status 429"), "{waiting:?}");
    // Another process has not asked, and knows.
    server.process.kill();
    let server = consume(store, &[&channel], &arguments);
    alert(&server, "late");
    wait_for_state(store, 31, "sent");
    let messages = channel.messages();
    assert_eq!(messages.len(), 2, "one that was refused, and one after the pause");
    assert_eq!(messages[1].payloads, [payloads, vec!["late".to_owned()]].concat());
    let arrivals = channel.receiver.arrivals();
    let paused = arrivals[1].at.duration_since(arrivals[0].at);
    assert!(paused >= PAUSE - Duration::from_millis(50), "{paused:?}");
    // The channel is open again.
    for payload in ["one", "by one"] {
        alert(&server, payload);
        wait_until(|| channel.payloads().contains(&payload.to_owned()).then_some(()));
    }
    assert_eq!(channel.messages().len(), 4);
}

fn a_channel_that_has_too_many_requests_is_paused_though_it_does_not_say_for_how_long(store: &TestStore) {
    store.prepare();
    let channel = Channel::answering(|_, number| Reply::status(if number == 0 { 429 } else { 200 }, ""));
    let server = consume(store, &[&channel], &NO_RATE);
    alert(&server, "a");
    wait_for_state(store, 1, "sent");
    assert_eq!(number(store, "SELECT count(*) FROM alert_channels"), 1);
    assert_eq!(number(store, "SELECT count(*) FROM deliveries WHERE held = 1"), 1);
}

fn a_pause_binds_all_processes(store: &TestStore) {
    store.prepare();
    let channel = pausing(PAUSE);
    let servers = [(); 2].map(|()| consume(store, &[&channel], &NO_RATE));
    thread::scope(|scope| {
        for (server, payloads) in servers.iter().zip(numbered(0..60).chunks(30)) {
            let payloads = payloads.to_vec();
            scope.spawn(move || alert_all(server, &payloads));
        }
    });
    wait_for_state(store, 60, "sent");
    let arrivals = channel.receiver.arrivals();
    let paused = |arrival: &&Arrival| arrival.at.duration_since(arrivals[0].at) < PAUSE;
    // Each may have had a message under way when the other was asked to wait.
    assert!(arrivals.iter().filter(paused).count() <= 2, "{arrivals:?}");
    let probe = Message::of(arrivals.iter().find(|arrival| !paused(arrival)).unwrap());
    assert!(probe.payloads.len() >= 58, "{probe:?}");
}

fn slack_and_discord_get_messages_no_faster_than_they_take_them(store: &TestStore) {
    store.prepare();
    let (slack, discord) = (Hook::taking(), Hook::taking());
    let urls = [format!("slack:{}", slack.url("/")), format!("discord:{}", discord.url("/"))];
    let server = store.consume(&[
        "--alert-allow-private",
        "--alert-on",
        "alert",
        "--alert",
        &urls[0],
        "--alert",
        &urls[1],
    ]);
    alert_all(&server, &numbered(0..7));
    wait_for_state(store, 14, "sent");
    assert_eq!((slack.arrivals().len(), discord.arrivals().len()), (7, 7), "no digest");
    let earlier = |kind: &str, messages: i64, microseconds: i64| {
        number(
            store,
            &format!(
                "SELECT count(*) FROM deliveries earlier JOIN deliveries later \
                    ON later.channel = earlier.channel AND later.event_id = earlier.event_id + {messages} \
                    WHERE earlier.channel LIKE '{kind}:%' \
                    AND later.attempted_at < earlier.attempted_at + {microseconds}"
            ),
        )
    };
    assert_eq!(earlier("slack", 1, 1_000_000), 0);
    assert_eq!(earlier("discord", 5, 2_000_000), 0);
}

fn an_event_and_its_deliveries_are_stored_together_or_not_at_all(store: &TestStore) {
    store.prepare();
    let channel = Channel::start();
    let server = consume(store, &[&channel], &NO_RATE);
    alert(&server, "before");
    wait_for_state(store, 1, "sent");
    let mut acknowledged = vec!["before".to_owned()];
    for (round, table) in ["deliveries", "events"].into_iter().enumerate() {
        store.execute(&format!("ALTER TABLE {table} RENAME TO away"));
        // The dispatcher fails as well, and until the store has recovered nothing is tried: most are.
        for number in 0..10 {
            let response = server.connect().post_event("alert", &format!("lost {round} {number}"));
            assert_eq!(response.status, 503, "{response:?}");
        }
        store.execute(&format!("ALTER TABLE away RENAME TO {table}"));
        let payload = format!("after {table}");
        wait_until(|| (server.connect().post_event("alert", &payload).status == 201).then_some(()));
        acknowledged.push(payload);
    }
    assert_eq!(store.payloads(), acknowledged);
    wait_for_state(store, 3, "sent");
    assert_eq!(deliveries(store).len(), 3);
    assert_eq!(channel.payloads(), acknowledged);
}

/// Asserts that each payload has arrived once, in any order.
fn assert_each_once(channel: &Channel, payloads: &[String]) {
    let (mut arrived, mut expected) = (channel.payloads(), payloads.to_vec());
    arrived.sort();
    expected.sort();
    assert_eq!(arrived, expected);
}

fn two_processes_send_each_alert_once(store: &TestStore) {
    store.prepare();
    let channel = Channel::start();
    let servers = [consume(store, &[&channel], &NO_RATE), consume(store, &[&channel], &NO_RATE)];
    let payloads = numbered(0..400);
    thread::scope(|scope| {
        for (server, payloads) in servers.iter().zip(payloads.chunks(200)) {
            scope.spawn(move || payloads.chunks(10).for_each(|payloads| alert_all(server, payloads)));
        }
    });
    wait_for_state(store, 400, "sent");
    assert_each_once(&channel, &payloads);
    assert_eq!(number(store, "SELECT count(DISTINCT claimed_by) FROM deliveries"), 2);
    assert_eq!(number(store, "SELECT max(attempts) FROM deliveries"), 1);
    for server in servers {
        let stderr = server.process.stderr();
        assert!(!stderr.contains("the store takes no writes"), "{stderr}");
    }
}

fn two_processes_keep_to_one_rate(store: &TestStore) {
    store.prepare();
    let channel = Channel::start();
    let rate = ["--alert-rate", "20"];
    let servers = [consume(store, &[&channel], &rate), consume(store, &[&channel], &rate)];
    let payloads = numbered(0..60);
    thread::scope(|scope| {
        for (server, payloads) in servers.iter().zip(payloads.chunks(30)) {
            scope.spawn(move || alert_all(server, payloads));
        }
    });
    wait_for_number(store, 40, "SELECT count(*) FROM deliveries WHERE held = 1");
    wait_for_state(store, 20, "sent");
    assert_eq!(channel.messages().len(), 20);
}

fn what_a_killed_process_was_sending_is_sent_by_another(store: &TestStore) {
    store.prepare();
    let channel = Channel::start();
    let mut killed = consume(store, &[&channel], &NO_RATE);
    let other = consume(store, &[&channel], &NO_RATE);
    let payloads = numbered(0..300);
    let mut send = payloads.chunks(50);
    for server in [&killed, &other] {
        alert_all(server, send.next().unwrap());
    }
    channel.wait_for(30);
    let closed = channel.gate.write().unwrap();
    // Each has one under way, which arrives and is not answered.
    wait_for_number(store, 2, "SELECT count(DISTINCT claimed_by) FROM deliveries WHERE state = 'sending'");
    let under_way = number(store, "SELECT count(*) FROM deliveries WHERE state <> 'pending'");
    let arrived = channel.wait_for(usize::try_from(under_way).unwrap());
    killed.process.kill();
    let died = Instant::now();
    drop(closed);
    send.for_each(|payloads| alert_all(&other, payloads));
    wait_for_state(store, 300, "sent");
    println!("all is sent {:?} after the kill", died.elapsed());
    assert!(died.elapsed() > LEASE - Duration::from_secs(10), "a claim was not respected");
    let messages = channel.messages();
    assert_eq!(messages.len(), 301, "only the message that was under way arrives twice");
    let again = messages.last().unwrap();
    assert!(arrived.iter().any(|message| message.id == again.id), "{again:?}");
    let mut seen: Vec<String> = channel.payloads();
    seen.sort();
    seen.dedup();
    let mut expected = payloads.clone();
    expected.sort();
    assert_eq!(seen, expected);
    assert_eq!(number(store, "SELECT count(*) FROM deliveries WHERE attempts = 2"), 1);
}

fn a_process_that_slept_overwrites_nothing_of_another(store: &TestStore) {
    store.prepare();
    // The one that sleeps would note that the message is refused for good, the other that it was taken.
    let channel = Channel::answering(|_, number| Reply::status(if number == 0 { 400 } else { 200 }, ""));
    let closed = channel.gate.write().unwrap();
    let mut sleeper = consume(store, &[&channel], &NO_RATE);
    alert(&sleeper, "first");
    channel.wait_for(1);
    sleeper.process.signal(Signal::STOP);
    drop(closed);
    let closed = channel.gate.write().unwrap();
    let slept = Instant::now();
    let other = consume(store, &[&channel], &NO_RATE);
    channel.wait_for(2);
    println!("taken over after {:?}", slept.elapsed());
    assert!(slept.elapsed() > LEASE - Duration::from_secs(10), "a claim was not respected");
    sleeper.process.signal(Signal::CONT);
    // It learns what became of its message, and has tried to note it when it has ended.
    sleeper.process.wait_for_stderr("alert");
    assert_eq!(sleeper.process.terminate().code(), Some(0), "{}", sleeper.process.stderr());
    assert_eq!(states(store), ["sending"], "{}", sleeper.process.stderr());
    drop(closed);
    wait_for_state(store, 1, "sent");
    let messages = channel.messages();
    assert_eq!(messages.len(), 2);
    assert_eq!(messages[0].id, messages[1].id);
    let shown = deliveries(store);
    assert_eq!((shown[0].attempts, &shown[0].last_error), (2, &None));
    assert!(!other.process.stderr().contains("alert"), "{}", other.process.stderr());
}

/// Counts, with a trigger, what the statements on a table do.
#[cfg(feature = "postgres")]
fn note_each(store: &TestStore, what: &str, noted: &str) {
    store.execute(&format!(
        "CREATE TABLE IF NOT EXISTS notes (what text, number bigint); \
            CREATE FUNCTION note_{what}() RETURNS trigger LANGUAGE plpgsql AS \
            $$ BEGIN INSERT INTO notes {noted}; RETURN NULL; END $$; \
            CREATE TRIGGER note_{what} AFTER {what} ON deliveries FOR EACH STATEMENT EXECUTE FUNCTION note_{what}()"
    ));
}

#[cfg(feature = "postgres")]
#[test]
#[ignore = "needs the servers of .ci/servers"]
fn alerts_leave_no_prepared_statements_behind() {
    let store = &TestStore::new(Kind::Postgres);
    store.prepare();
    note_each(store, "update", "SELECT 'prepared', count(*) FROM pg_prepared_statements");
    let channel = Channel::start();
    let server = consume(store, &[&channel], &NO_RATE);
    for number in 0..100 {
        alert(&server, &format!("alert {number}"));
    }
    channel.wait_for(100);
    wait_for_state(store, 100, "sent");
    let most = number(store, "SELECT max(number) FROM notes WHERE what = 'prepared'");
    assert!((1..=64).contains(&most), "{most}");
    // Each claim and each settlement has been one of a few statements.
    let growth = number(store, "SELECT count(DISTINCT number) FROM notes WHERE what = 'prepared'");
    assert!(growth < 30, "{growth}");
}

#[cfg(feature = "postgres")]
#[test]
#[ignore = "needs the servers of .ci/servers"]
fn the_deliveries_of_a_batch_are_inserted_together() {
    let store = &TestStore::new(Kind::Postgres);
    store.prepare();
    note_each(store, "insert", "VALUES ('inserts', 1)");
    let channel = Channel::start();
    let closed = channel.gate.write().unwrap();
    let server = consume(store, &[&channel], &[]);
    alert_all(&server, &numbered(0..2000));
    assert_eq!(number(store, "SELECT count(*) FROM deliveries"), 2000);
    // 256 with each, and what is left over with powers of two.
    assert!(number(store, "SELECT count(*) FROM notes") <= 16);
    drop(closed);
}

fn of_many_alerts_stored_at_once_each_is_told_once(store: &TestStore) {
    store.prepare();
    let channel = Channel::start();
    let closed = channel.gate.write().unwrap();
    let server = consume(store, &[&channel], &NO_RATE);
    alert(&server, "known");
    // 700 events: each payload twice or more, one of them known before, in no order.
    let mut payloads: Vec<String> = numbered(0..300);
    payloads.extend(numbered(0..300));
    payloads.extend((0..100).map(|_| "known".to_owned()));
    fastrand::Rng::with_seed(7).shuffle(&mut payloads);
    alert_all(&server, &payloads);
    assert_eq!(number(store, "SELECT count(*) FROM deliveries"), 701);
    assert_eq!(number(store, "SELECT count(*) FROM deliveries WHERE state = 'repeated'"), 400);
    assert_eq!(number(store, "SELECT count(*) FROM deliveries WHERE repeats = 1"), 100);
    // A repetition names the first event with the same payload.
    let wrong = "SELECT count(*) FROM deliveries AS later JOIN deliveries AS first ON first.event_id = later.repeats \
        WHERE first.digest <> later.digest OR first.state = 'repeated' OR first.event_id >= later.event_id";
    assert_eq!(number(store, wrong), 0);
    drop(closed);
    wait_until(|| {
        thread::sleep(Duration::from_millis(20));
        (number(store, "SELECT count(*) FROM deliveries WHERE state = 'sent'") > 100).then_some(())
    });
}
