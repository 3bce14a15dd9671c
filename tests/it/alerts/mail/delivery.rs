//! Mail that is delivered: how, from whom, and with which content.

use std::process::Command;

use super::{MailRoom, error_of, has_failed, is_sent, name_server, post_issues};
use crate::alerts::{deliveries, post_alert};
use crate::util::mail::{Encryption, Login, MailServer, PASSWORD, USER};
use crate::util::tls::{Authority, Identity};
use crate::util::{Consume, assert_eventctl, eventctl};

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn an_environment_alone_is_enough() {
    let room = MailRoom::open();
    let mut command = eventctl(room.path());
    command.args(["consume", "--port", "0"]).env("HEALTH_ALERT_RECEIVER", "ops@example.com");
    let consume = Consume::start_command(room.login(&mut command));
    let response = post_issues(&mut consume.connect(), &["service-a-failure", "disk of b & c is full"]);
    assert_eq!((response.status, response.text().as_str()), (200, r#"{"status":"Health alert email sent"}"#));

    let mails = room.server.mails();
    let [mail] = &mails[..] else { panic!("{mails:?}") };
    assert_eq!((mail.sender.as_str(), &mail.recipients[..]), (USER, &["ops@example.com".to_owned()][..]));
    assert_eq!((mail.header("From"), mail.header("To")), (USER, "ops@example.com"));
    assert_eq!(mail.header("Subject"), "Health alert: service-a-failure, disk of b & c is full");
    assert_eq!(mail.header("Auto-Submitted"), "auto-generated");
    assert!(mail.header("Message-ID").starts_with("<event-1-"), "{:?}", mail.headers);
    assert!(mail.header("Message-ID").ends_with("@eventctl.test>"), "{:?}", mail.headers);
    assert!(mail.header("Content-Type").starts_with("multipart/alternative"), "{:?}", mail.headers);
    assert_eq!(mail.headers.iter().filter(|(name, _)| name == "Date").count(), 1);
    for issue in ["service-a-failure", "disk of b & c is full"] {
        assert!(mail.text.lines().any(|line| line == format!("- {issue}")), "{}", mail.text);
        assert!(mail.html.contains(&format!("<li>{}</li>", issue.replace('&', "&amp;"))), "{}", mail.html);
    }

    let login = Login { user: USER.to_owned(), password: PASSWORD.to_owned(), encrypted: true };
    assert_eq!(room.server.logins(), [login]);
    assert!(mail.encrypted && mail.user == USER);
    // Not every server on the way takes more.
    assert!(mail.raw.is_ascii(), "{}", mail.raw);
    let stored = deliveries(room.path());
    let [delivery] = &stored[..] else { panic!("{stored:?}") };
    assert_eq!((delivery.event_id, delivery.event_type.as_deref()), (1, Some("health_alert")));
    assert_eq!((delivery.channel.as_str(), delivery.attempts), ("mailto:ops@example.com", 1));
    assert!(is_sent(delivery) && delivery.last_error.is_none() && delivery.due_at.is_none(), "{delivery:?}");
    assert!(delivery.settled_at.as_ref() > Some(&delivery.created_at) && delivery.repeats.is_none());
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn each_address_of_a_channel_has_a_mail_of_its_own() {
    let room = MailRoom::open();
    let consume = room.consume(&["--alert", "mailto:a@example.com,b@example.com"]);
    assert_eq!(post_alert(&mut consume.connect(), "down").status, 200);
    let mut mails = room.server.mails();
    mails.sort_by(|one, other| one.recipients.cmp(&other.recipients));
    let recipients: Vec<&str> = mails.iter().map(|mail| mail.header("To")).collect();
    assert_eq!(recipients, ["a@example.com", "b@example.com"]);
    assert!(mails.iter().all(|mail| mail.recipients == [mail.header("To")]), "{mails:?}");
    let channels: Vec<String> =
        deliveries(room.path()).into_iter().map(|delivery| delivery.channel).collect();
    assert_eq!(channels, ["mailto:a@example.com", "mailto:b@example.com"]);
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_sender_may_have_a_name() {
    let room = MailRoom::open();
    let consume = room.consume(&[
        "--alert",
        "mailto:ops@example.com",
        "--sender-addr",
        "\"Störungen, Nord\" <north@eventctl.test>",
    ]);
    assert_eq!(post_alert(&mut consume.connect(), "down").status, 200);
    let mail = &room.server.mails()[0];
    assert_eq!(mail.header("From"), "\"Störungen, Nord\" <north@eventctl.test>");
    assert_eq!((mail.sender.as_str(), mail.user.as_str()), ("north@eventctl.test", USER));
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn encryption_may_start_with_the_connection() {
    let room = MailRoom::open_with(Encryption::Implicit);
    let consume = room.consume(&["--alert", "mailto:ops@example.com", "--smtp-tls", "implicit"]);
    assert_eq!(post_alert(&mut consume.connect(), "down").status, 200);
    let mail = &room.server.mails()[0];
    assert!(mail.encrypted && mail.user == USER);
    assert!(room.server.logins().iter().all(|login| login.encrypted));
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn nothing_is_sent_unencrypted_where_starttls_is_required() {
    // The server would accept the password unencrypted.
    let room = MailRoom::open_with(Encryption::None);
    let consume = room.consume(&["--alert", "mailto:ops@example.com", "--smtp-tls", "starttls"]);
    let response = post_alert(&mut consume.connect(), "down");
    assert_eq!((response.status, response.text().as_str()), (202, r#"{"status":"Health alert queued"}"#));
    let delivery = room.wait_for("mailto:ops@example.com", has_failed);
    assert!(error_of(&delivery).contains("STARTTLS is not supported"), "{delivery:?}");
    assert!(room.server.connections() > 0);
    assert_eq!(room.server.logins(), []);
    assert!(room.server.mails().is_empty());
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn nothing_is_sent_unencrypted_beyond_loopback() {
    let room = MailRoom::open_with(Encryption::None);
    let mut command = eventctl(room.path());
    command.args(["consume", "--port", "0", "--alert", "mailto:ops@example.com"]);
    // The system takes it for 127.0.0.1, which the text does not say.
    let consume = Consume::start_command(room.login(&mut command).env("SMTP_HOST", "127.1"));
    assert_eq!(post_alert(&mut consume.connect(), "down").status, 202);
    let delivery = room.wait_for("mailto:ops@example.com", has_failed);
    assert!(error_of(&delivery).contains("STARTTLS is not supported"), "{delivery:?}");
    assert!(room.server.connections() > 0);
    assert_eq!(room.server.logins(), []);
    assert!(room.server.mails().is_empty());
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_server_with_an_untrusted_certificate_gets_no_password() {
    let authority = Authority::new("mail");
    let wrong = [
        ("signed by an unknown CA: name it with --alert-cacert", Identity::self_signed("127.0.0.1")),
        ("for another name", authority.issue("mail.example.com")),
        ("is a CA certificate (CA:TRUE), not a server's", authority.own_identity()),
    ];
    for (reason, identity) in wrong {
        for encryption in [Encryption::StartTls, Encryption::Implicit] {
            let directory = tempfile::tempdir().unwrap();
            authority.write(directory.path(), "authority");
            let server = MailServer::start_as(directory.path(), encryption, &identity);
            let room = MailRoom { directory, server };
            let how = if encryption == Encryption::Implicit { "implicit" } else { "auto" };
            let consume = room.consume(&["--alert", "mailto:ops@example.com", "--smtp-tls", how]);
            post_alert(&mut consume.connect(), "down");
            let delivery = room
                .wait_for("mailto:ops@example.com", |delivery| has_failed(delivery) && delivery.attempts > 1);
            assert!(error_of(&delivery).contains(reason), "{delivery:?}");
            assert_eq!(room.server.logins(), []);
            assert!(room.server.mails().is_empty());
        }
    }
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_private_ca_is_not_trusted_by_default() {
    let room = MailRoom::open();
    let mut command = eventctl(room.path());
    command.args(["consume", "--port", "0", "--alert", "mailto:ops@example.com", "--smtp-tls", "starttls"]);
    let consume = Consume::start_command(room.login(&mut command).env_remove("EVENTCTL_ALERT_CACERT"));
    post_alert(&mut consume.connect(), "down");
    let delivery = room.wait_for("mailto:ops@example.com", has_failed);
    assert!(error_of(&delivery).contains("unknown CA"), "{delivery:?}");
    assert_eq!(room.server.logins(), []);
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn the_trust_store_of_the_system_counts_for_mail() {
    let room = MailRoom::open();
    let mut command = eventctl(room.path());
    command.args(["consume", "--port", "0", "--alert", "mailto:ops@example.com", "--smtp-tls", "starttls"]);
    let command = room.login(&mut command).env_remove("EVENTCTL_ALERT_CACERT");
    let consume = Consume::start_command(command.env("SSL_CERT_FILE", room.path().join("authority.pem")));
    assert_eq!(post_alert(&mut consume.connect(), "down").status, 200);
    assert_eq!(room.server.mails().len(), 1);
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_server_on_this_machine_may_have_a_self_signed_certificate() {
    let room = MailRoom::open();
    let mut command = eventctl(room.path());
    command.args(["consume", "--port", "0", "--alert", "mailto:ops@example.com"]);
    let consume = Consume::start_command(room.login(&mut command).env_remove("EVENTCTL_ALERT_CACERT"));
    assert_eq!(post_alert(&mut consume.connect(), "down").status, 200);
    assert!(room.server.mails()[0].encrypted);
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_server_on_this_machine_needs_neither_encryption_nor_login() {
    let directory = tempfile::tempdir().unwrap();
    let server = MailServer::start_open(directory.path(), "127.0.0.1:0".parse().unwrap());
    let mut command = eventctl(directory.path());
    command.args(["consume", "--port", "0", "--alert", "mailto:ops@example.com"]);
    let consume = Consume::start_command(name_server(&mut command, server.address));
    assert_eq!(post_alert(&mut consume.connect(), "down").status, 200);
    let mail = &server.mails()[0];
    assert!(!mail.encrypted && mail.user.is_empty(), "{mail:?}");
    assert!(server.logins().is_empty());
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn alert_test_says_what_became_of_each_channel() {
    let room = MailRoom::open();
    let test = |channels: &str| {
        let mut command = eventctl(room.path());
        command.args(["alert-test", "--alert", channels]);
        room.login(&mut command);
        assert_cmd::Command::from_std(command).assert()
    };
    test("mailto:a@example.com,b@example.com")
        .code(0)
        .stdout("mailto:a@example.com: sent\nmailto:b@example.com: sent\n")
        .stderr("");
    let mails = room.server.mails();
    assert_eq!(mails.len(), 2);
    assert!(mails[0].text.contains("this is a test by eventctl alert-test"), "{}", mails[0].text);

    let refused = test("mailto:reject-550@example.com,c@example.com").code(1);
    let stdout = String::from_utf8(refused.get_output().stdout.clone()).unwrap();
    let lines: Vec<&str> = stdout.lines().collect();
    let [line, sent] = lines[..] else { panic!("{stdout}") };
    assert!(
        line.starts_with("mailto:reject-550@example.com: ") && line.contains("no such mailbox"),
        "{line}"
    );
    assert_eq!(sent, "mailto:c@example.com: sent");
    refused.stderr("error: 1 of the channels did not take the sample\nhint: see what they said above\n");

    room.server.refuse("login", "535 5.7.8 who are you");
    let refused = test("mailto:a@example.com").code(1);
    let stdout = String::from_utf8(refused.get_output().stdout.clone()).unwrap();
    assert!(stdout.contains("who are you") && !stdout.contains(PASSWORD), "{stdout}");
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn alert_test_does_not_wait_for_ever() {
    let room = MailRoom::open();
    let mut command = eventctl(room.path());
    command.args(["alert-test", "--alert", "mailto:hang-data@example.com,ops@example.com"]);
    room.login(&mut command);
    let mut command = assert_cmd::Command::from_std(command);
    let assert = command.timeout(crate::util::PATIENCE).assert().code(1);
    let stdout = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
    assert!(stdout.starts_with("mailto:hang-data@example.com: the mail server took longer than"), "{stdout}");
    assert!(stdout.ends_with("\nmailto:ops@example.com: sent\n"), "{stdout}");
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_delivery_survives_a_restart() {
    let room = MailRoom::open();
    room.server.refuse("greeting", "421 4.3.2 not now");
    let mut consume = room.consume(&["--alert", "mailto:ops@example.com"]);
    assert_eq!(post_alert(&mut consume.connect(), "down").status, 202);
    room.wait_for("mailto:ops@example.com", has_failed);
    assert!(consume.process.terminate().success());
    room.server.relent();
    assert!(room.server.mails().is_empty());
    assert_eventctl(room.path()).args(["tail", "--alerts"]).assert().code(0);

    let _consume = room.consume(&["--alert", "mailto:ops@example.com"]);
    let delivery = room.wait_for("mailto:ops@example.com", is_sent);
    assert!(delivery.attempts > 1, "{delivery:?}");
    let mails = room.server.wait_for_mails("ops@example.com", 1);
    assert!(mails.len() == 1 && mails[0].text.contains("- down"), "{mails:?}");
}

/// An address that is this machine, and does not look like it.
fn as_a_relay(command: &mut Command) -> &mut Command {
    command.env("SMTP_HOST", "0.0.0.0").env_remove("SMTP_USER").env_remove("SMTP_PASSWORD")
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn a_relay_without_login_and_encryption_is_used_where_that_is_chosen() {
    for how in ["none", "opportunistic"] {
        let directory = tempfile::tempdir().unwrap();
        let server = MailServer::start_open(directory.path(), "127.0.0.1:0".parse().unwrap());
        let mut command = eventctl(directory.path());
        command.args(["consume", "--port", "0", "--alert", "mailto:ops@example.com", "--smtp-tls", how]);
        let command = as_a_relay(name_server(&mut command, server.address));
        let consume = Consume::start_command(command);
        assert_eq!(post_alert(&mut consume.connect(), "down").status, 200);
        let [mail] = &server.mails()[..] else { panic!("{:?}", server.mails()) };
        assert!(!mail.encrypted && mail.user.is_empty(), "{mail:?}");
        assert_eq!(server.logins(), []);
    }
}

#[test]
#[ignore = "needs the servers of .ci/servers"]
fn opportunistic_encryption_takes_what_the_server_offers_and_none_takes_nothing() {
    for (how, encrypted) in [("none", false), ("opportunistic", true)] {
        let directory = tempfile::tempdir().unwrap();
        let server = MailServer::start_without_login(directory.path());
        let mut command = eventctl(directory.path());
        command.args(["consume", "--port", "0", "--alert", "mailto:ops@example.com", "--smtp-tls", how]);
        let command = as_a_relay(name_server(&mut command, server.address));
        let consume = Consume::start_command(command);
        assert_eq!(post_alert(&mut consume.connect(), "down").status, 200);
        let [mail] = &server.mails()[..] else { panic!("{:?}", server.mails()) };
        assert_eq!(mail.encrypted, encrypted, "{mail:?}");
    }
}
