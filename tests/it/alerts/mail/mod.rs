//! What reaches a real mail server, and what it does to us.

mod delivery;
mod failures;
mod hostile;
mod postfix;
mod settings;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::{Delivery, wait_for_deliveries};
use crate::util::http::{Connection, Response};
use crate::util::mail::{Encryption, MailServer, PASSWORD, USER};
use crate::util::{Consume, eventctl};

/// A mail server, and a directory for a store whose alerts it is to take.
struct MailRoom {
    directory: TempDir,
    server: MailServer,
}

impl MailRoom {
    /// With a server that wants a login over STARTTLS.
    fn open() -> MailRoom {
        MailRoom::open_with(Encryption::StartTls)
    }

    fn open_with(encryption: Encryption) -> MailRoom {
        let directory = tempfile::tempdir().unwrap();
        let server = MailServer::start(directory.path(), encryption);
        MailRoom { directory, server }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// `consume` that logs in at the server, with these arguments.
    fn consume(&self, arguments: &[&str]) -> Consume {
        let mut command = eventctl(self.path());
        command.args(["consume", "--port", "0"]).args(arguments);
        Consume::start_command(self.login(&mut command))
    }

    /// Sets what a command needs to log in at the server.
    fn login<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let command = name_server(command, self.server.address);
        command.env("SMTP_USER", USER).env("SMTP_PASSWORD", PASSWORD);
        command.env("EVENTCTL_ALERT_CACERT", self.path().join("authority.pem"))
    }

    /// Waits until a channel's only delivery is as a test wants it.
    fn wait_for(&self, channel: &str, wanted: impl Fn(&Delivery) -> bool) -> Delivery {
        let of_channel = |delivery: &&Delivery| delivery.channel == channel;
        let deliveries = wait_for_deliveries(self.path(), |deliveries| {
            deliveries.iter().find(of_channel).is_some_and(&wanted)
        });
        let found: Vec<Delivery> = deliveries.iter().filter(of_channel).cloned().collect();
        let [delivery] = &found[..] else { panic!("{deliveries:?}") };
        delivery.clone()
    }
}

/// Sets the address of a mail server, and who mail is from.
fn name_server(command: &mut Command, address: SocketAddr) -> &mut Command {
    command.env("SMTP_HOST", address.ip().to_string()).env("SMTP_PORT", address.port().to_string());
    command.env("SENDER_ADDR", USER)
}

/// Posts a health alert with these issues.
fn post_issues(connection: &mut Connection, issues: &[&str]) -> Response {
    let body = serde_json::json!({ "issues": issues }).to_string();
    connection.request(
        "POST",
        "/api/v1/health-alert",
        &[("Content-Type", "application/json")],
        body.as_bytes(),
    )
}

fn is_sent(delivery: &Delivery) -> bool {
    delivery.state == "sent"
}

/// What was wrong the last time.
fn error_of(delivery: &Delivery) -> &str {
    delivery.last_error.as_deref().unwrap_or_else(|| panic!("no error: {delivery:?}"))
}

fn has_failed(delivery: &Delivery) -> bool {
    delivery.state == "pending" && delivery.last_error.is_some()
}
