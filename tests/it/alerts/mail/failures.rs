//! Mail servers in trouble: what becomes of the mail, and of that to others.

use std::time::{Duration, Instant};

use super::{MailRoom, error_of, has_failed, is_sent, name_server};
use crate::alerts::{deliveries, post_alert};
use crate::util::http::Connection;
use crate::util::mail::{MailServer, PASSWORD};
use crate::util::receiver::{Receiver, Reply};
use crate::util::{Consume, eventctl, wait_until};

/// Longer than any delivery that waits for nobody, shorter than an attempt that waits for a server.
const SOON: Duration = Duration::from_secs(8);

/// Posts an alert, which another mailbox must soon have.
fn post_and_reach(room: &MailRoom, connection: &mut Connection, mailbox: &str) {
    let before = room.server.mails().iter().filter(|mail| mail.is_for(mailbox)).count();
    let started = Instant::now();
    // A mailbox that relents may do so within the time that the answer takes.
    assert!(matches!(post_alert(connection, "down").status, 200 | 202));
    room.server.wait_for_mails(mailbox, before + 1);
    assert!(started.elapsed() < SOON, "{mailbox} waited for {:?}", started.elapsed());
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_server_that_is_down_is_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    // An address that no outgoing connection takes while the server is down.
    let mut server = MailServer::start_open(directory.path(), "127.0.0.25:0".parse().unwrap());
    let address = server.address;
    server.kill();
    let receiver = Receiver::start(|_, _| Reply::created());
    let mut command = eventctl(directory.path());
    command.args(["consume", "--port", "0", "--alert", "mailto:ops@example.com", "--alert-allow-private"]);
    command.args(["--alert", &receiver.url("/alerts")]);
    let mut consume = Consume::start_command(name_server(&mut command, address));
    let started = Instant::now();
    assert_eq!(post_alert(&mut consume.connect(), "down").status, 202);
    wait_until(|| (!receiver.arrivals().is_empty()).then_some(()));
    assert!(started.elapsed() < SOON);
    let line = consume.process.wait_for_stderr("cannot deliver alerts to mailto:ops@example.com");
    assert!(line.contains("Connection refused"), "{line}");

    let server = MailServer::start_open(directory.path(), address);
    let room = MailRoom { directory, server };
    let delivery = room.wait_for("mailto:ops@example.com", is_sent);
    assert!(delivery.attempts > 1 && delivery.last_error.is_none(), "{delivery:?}");
    consume.process.wait_for_stderr("alerts reach mailto:ops@example.com again");
    assert_eq!(receiver.arrivals().len(), 1);
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_server_that_does_not_answer_is_given_up_in_time_and_delays_nobody() {
    give_up_in_time("hang-rcpt@example.com");
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_server_that_does_not_say_whether_it_took_a_mail_is_given_up_in_time_and_delays_nobody() {
    give_up_in_time("hang-data@example.com");
}

fn give_up_in_time(recipient: &str) {
    let room = MailRoom::open();
    let receiver = Receiver::start(|_, _| Reply::created());
    let consume = room.consume(&[
        "--alert",
        &format!("mailto:{recipient},ops@example.com"),
        "--alert",
        &receiver.url("/alerts"),
        "--alert-allow-private",
        "--alert-repeat-after",
        "0",
    ]);
    let mut connection = consume.connect();
    let started = Instant::now();
    post_and_reach(&room, &mut connection, "ops@example.com");
    wait_until(|| (!receiver.arrivals().is_empty()).then_some(()));
    assert!(started.elapsed() < SOON);
    let delivery = room.wait_for(&format!("mailto:{recipient}"), |delivery| delivery.last_error.is_some());
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    assert!(matches!(delivery.state.as_str(), "pending" | "sending"), "{delivery:?}");
    assert!(error_of(&delivery).contains("took longer than"), "{delivery:?}");
    // What is left of the attempt that was given up is in nobody's way either.
    post_and_reach(&room, &mut connection, "ops@example.com");
    post_and_reach(&room, &mut connection, "ops@example.com");
    let mails = room.server.mails();
    let others = mails.iter().filter(|mail| mail.is_for("ops@example.com"));
    assert!(others.clone().all(|mail| mail.recipients.len() == 1), "{mails:?}");
    assert_eq!(others.count(), 3);
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_greeting_that_does_not_come_is_given_up_in_time() {
    let room = MailRoom::open();
    room.server.refuse("greeting", "hang");
    let receiver = Receiver::start(|_, _| Reply::created());
    let consume = room.consume(&[
        "--alert",
        "mailto:ops@example.com",
        "--alert",
        &receiver.url("/alerts"),
        "--alert-allow-private",
    ]);
    let started = Instant::now();
    assert_eq!(post_alert(&mut consume.connect(), "down").status, 202);
    wait_until(|| (!receiver.arrivals().is_empty()).then_some(()));
    assert!(started.elapsed() < SOON);
    let delivery = room.wait_for("mailto:ops@example.com", |delivery| delivery.last_error.is_some());
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    assert!(error_of(&delivery).contains("took longer than"), "{delivery:?}");
    room.server.relent();
    room.wait_for("mailto:ops@example.com", is_sent);
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_refused_mailbox_does_not_affect_another() {
    let room = MailRoom::open();
    let mut consume = room.consume(&["--alert", "mailto:reject-550@example.com,ops@example.com"]);
    post_and_reach(&room, &mut consume.connect(), "ops@example.com");
    let dead = room.wait_for("mailto:reject-550@example.com", |delivery| delivery.state == "dead");
    assert_eq!((dead.attempts, &dead.due_at), (1, &None), "{dead:?}");
    assert!(dead.settled_at.is_some());
    assert!(error_of(&dead).contains("550") && error_of(&dead).contains("no such mailbox"), "{dead:?}");
    room.wait_for("mailto:ops@example.com", is_sent);
    consume.process.wait_for_stderr("alert 1 to mailto:reject-550@example.com is given up");
    assert_eq!(room.server.replies_to("reject-550@example.com").len(), 1);
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_busy_mailbox_is_retried() {
    let room = MailRoom::open();
    let mut consume = room.consume(&["--alert", "mailto:relent-451-2@example.com,ops@example.com"]);
    post_and_reach(&room, &mut consume.connect(), "ops@example.com");
    let line = consume.process.wait_for_stderr("cannot deliver alerts to mailto:relent-451-2@example.com");
    assert!(line.contains("retrying") && line.contains("come back later"), "{line}");
    let sent = room.wait_for("mailto:relent-451-2@example.com", is_sent);
    assert_eq!((sent.attempts, &sent.last_error), (3, &None));
    assert_eq!(room.server.mails().iter().filter(|mail| mail.is_for("relent-451-2@example.com")).count(), 1);
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_mail_without_an_answer_is_sent_again_under_the_same_id() {
    let room = MailRoom::open();
    let consume = room.consume(&["--alert", "mailto:drop-1@example.com,ops@example.com"]);
    post_and_reach(&room, &mut consume.connect(), "ops@example.com");
    let sent = room.wait_for("mailto:drop-1@example.com", is_sent);
    assert_eq!(sent.attempts, 2);
    let mails = room.server.wait_for_mails("drop-1@example.com", 2);
    let [first, second] = &mails[..] else { panic!("{mails:?}") };
    assert_eq!(first.header("Message-ID"), second.header("Message-ID"));
    assert_eq!((&first.text, &first.html), (&second.text, &second.html));

    post_alert(&mut consume.connect(), "another");
    let other = room.server.wait_for_mails("drop-1@example.com", 3).remove(2);
    assert_ne!(first.header("Message-ID"), other.header("Message-ID"));
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_login_that_is_refused_is_tried_again_and_the_password_is_not_shown() {
    let room = MailRoom::open();
    // Some servers repeat what they were sent.
    room.server.refuse("login", "535 5.7.8 cannot log in with correct-h0rse+battery or {plain}");
    let receiver = Receiver::start(|_, _| Reply::created());
    let mut consume = room.consume(&[
        "--alert",
        "mailto:ops@example.com",
        "--alert",
        &receiver.url("/alerts"),
        "--alert-allow-private",
    ]);
    let started = Instant::now();
    assert_eq!(post_alert(&mut consume.connect(), "down").status, 202);
    wait_until(|| (!receiver.arrivals().is_empty()).then_some(()));
    assert!(started.elapsed() < SOON);
    let delivery =
        room.wait_for("mailto:ops@example.com", |delivery| has_failed(delivery) && delivery.attempts > 1);
    assert!(error_of(&delivery).contains("cannot log in with"), "{delivery:?}");
    consume.process.wait_for_stderr("cannot deliver alerts to mailto:ops@example.com");
    let shown = format!("{delivery:?}{}", consume.process.stderr());
    assert!(!shown.contains(PASSWORD), "{shown}");
    // `correct-h0rse`, at whatever place of a group of four it starts.
    for encoded in ["Y29ycmVjdC1oMHJz", "NvcnJlY3QtaDByc2", "jb3JyZWN0LWgwcnNl"] {
        assert!(!shown.contains(encoded), "{shown}");
    }
    room.server.relent();
    room.wait_for("mailto:ops@example.com", is_sent);
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_refused_connection_is_a_transient_failure() {
    for reply in ["421 4.3.2 closing down", "554 5.3.2 no service here"] {
        let room = MailRoom::open();
        room.server.refuse("greeting", reply);
        let receiver = Receiver::start(|_, _| Reply::created());
        let consume = room.consume(&[
            "--alert",
            "mailto:ops@example.com",
            "--alert",
            &receiver.url("/alerts"),
            "--alert-allow-private",
        ]);
        let started = Instant::now();
        assert_eq!(post_alert(&mut consume.connect(), "down").status, 202);
        wait_until(|| (!receiver.arrivals().is_empty()).then_some(()));
        assert!(started.elapsed() < SOON);
        let delivery = room.wait_for("mailto:ops@example.com", |delivery| delivery.last_error.is_some());
        assert!(matches!(delivery.state.as_str(), "pending" | "sending"), "{delivery:?}");
        assert!(error_of(&delivery).contains(&reply[10..]), "{delivery:?}");
        room.server.relent();
        room.wait_for("mailto:ops@example.com", is_sent);
    }
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_mail_that_is_retried_for_too_long_is_given_up_and_kept() {
    let room = MailRoom::open();
    let mut consume = room.consume(&[
        "--alert",
        "mailto:relent-451-99@example.com,ops@example.com",
        "--alert-give-up-after",
        "1s",
    ]);
    post_and_reach(&room, &mut consume.connect(), "ops@example.com");
    let dead = room.wait_for("mailto:relent-451-99@example.com", |delivery| delivery.state == "dead");
    assert!(error_of(&dead).contains("come back later") && dead.due_at.is_none(), "{dead:?}");
    consume.process.wait_for_stderr("alert 1 to mailto:relent-451-99@example.com is given up");
    let attempts = room.server.replies_to("relent-451-99@example.com").len();
    // It is kept over a restart, and not sent.
    assert!(consume.process.terminate().success());
    room.consume(&["--alert", "mailto:relent-451-99@example.com"]);
    assert_eq!(room.server.replies_to("relent-451-99@example.com").len(), attempts);
    let kept = deliveries(room.path());
    assert_eq!(kept.len(), 2);
    assert!(kept.iter().any(|delivery| delivery.state == "dead"), "{kept:?}");
}
