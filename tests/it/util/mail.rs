//! A mail server, and what it has seen.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::tls::{Authority, Identity};
use super::{Process, wait_until};

pub const USER: &str = "alerts@eventctl.test";
pub const PASSWORD: &str = "correct-h0rse+battery";

/// What a client has done.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum Note {
    Connection,
    Login(Login),
    Recipient { address: String, reply: String },
    Mail(Mail),
}

/// A login that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Login {
    pub user: String,
    pub password: String,
    pub encrypted: bool,
}

/// A mail that was read to its end, whatever the server answered.
#[derive(Debug, Clone, Deserialize)]
pub struct Mail {
    pub sender: String,
    pub recipients: Vec<String>,
    /// Who had logged in; nobody is empty.
    pub user: String,
    pub encrypted: bool,
    /// Decoded, in order.
    pub headers: Vec<(String, String)>,
    pub text: String,
    pub html: String,
    /// As it came over the wire, dots unstuffed.
    pub raw: String,
}

impl Mail {
    /// A header, of which there must be one.
    pub fn header(&self, name: &str) -> &str {
        let named = |(header, _): &&(String, String)| header.eq_ignore_ascii_case(name);
        let values: Vec<_> = self.headers.iter().filter(named).collect();
        assert_eq!(values.len(), 1, "{name}: {:?}", self.headers);
        &values[0].1
    }

    pub fn is_for(&self, recipient: &str) -> bool {
        self.recipients.iter().any(|address| address == recipient)
    }
}

/// How a server encrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    StartTls,
    Implicit,
    None,
}

/// A mail server of its own, `tests/it/util/mail_server.py`, which dies with its test.
pub struct MailServer {
    pub address: SocketAddr,
    process: Process,
    log: PathBuf,
    trouble: PathBuf,
}

impl MailServer {
    /// One on this machine that wants a login; `authority.pem` of the directory vouches for it.
    pub fn start(directory: &Path, encryption: Encryption) -> MailServer {
        let authority = Authority::new("mail");
        authority.write(directory, "authority");
        MailServer::start_as(directory, encryption, &authority.issue("127.0.0.1"))
    }

    /// The same, with a certificate.
    pub fn start_as(directory: &Path, encryption: Encryption, identity: &Identity) -> MailServer {
        identity.write(directory, "mail");
        let mut command = MailServer::command(directory, "127.0.0.1:0".parse().unwrap());
        command.arg("--cert").arg(directory.join("mail.pem")).arg("--key").arg(directory.join("mail.key"));
        command.args(["--login", &format!("{USER}:{PASSWORD}"), "--tls"]).arg(match encryption {
            Encryption::StartTls => "starttls",
            Encryption::Implicit => "implicit",
            Encryption::None => "none",
        });
        MailServer::start_command(directory, &mut command)
    }

    /// One that takes mail from everybody, and cannot encrypt.
    pub fn start_open(directory: &Path, address: SocketAddr) -> MailServer {
        MailServer::start_command(directory, &mut MailServer::command(directory, address))
    }

    /// One that takes mail from everybody, and offers STARTTLS with a certificate that nobody vouches for.
    pub fn start_without_login(directory: &Path) -> MailServer {
        Identity::self_signed("mail.example.com").write(directory, "mail");
        let mut command = MailServer::command(directory, "127.0.0.1:0".parse().unwrap());
        command.arg("--cert").arg(directory.join("mail.pem")).arg("--key").arg(directory.join("mail.key"));
        MailServer::start_command(directory, command.args(["--tls", "starttls"]))
    }

    fn command(directory: &Path, address: SocketAddr) -> Command {
        // The system's, for which the system has the library.
        let mut command = Command::new("/usr/bin/python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/util/mail_server.py"));
        command.args(["--host", &address.ip().to_string(), "--port", &address.port().to_string()]);
        command.arg("--log").arg(directory.join("mail.log"));
        command.arg("--trouble").arg(directory.join("mail.trouble"));
        command
    }

    fn start_command(directory: &Path, command: &mut Command) -> MailServer {
        let mut process = Process::start(command);
        let line = process.wait_for_stderr("listening on ");
        let address = line.strip_prefix("listening on ").unwrap().parse().unwrap();
        let (log, trouble) = (directory.join("mail.log"), directory.join("mail.trouble"));
        MailServer { address, process, log, trouble }
    }

    /// Answers `greeting` or `login` so, until [`MailServer::relent`].
    pub fn refuse(&self, place: &str, reply: &str) {
        // In one step: a client must not meet half a file.
        let unfinished = self.trouble.with_extension("unfinished");
        fs::write(&unfinished, format!("{place} {reply}")).unwrap();
        fs::rename(unfinished, &self.trouble).unwrap();
    }

    pub fn relent(&self) {
        fs::remove_file(&self.trouble).unwrap();
    }

    pub fn kill(&mut self) {
        self.process.kill();
    }

    pub fn mails(&self) -> Vec<Mail> {
        let mail = |note| if let Note::Mail(mail) = note { Some(mail) } else { None };
        self.notes().into_iter().filter_map(mail).collect()
    }

    /// Waits for so many mails to a recipient.
    pub fn wait_for_mails(&self, recipient: &str, count: usize) -> Vec<Mail> {
        let mails =
            || -> Vec<Mail> { self.mails().into_iter().filter(|mail| mail.is_for(recipient)).collect() };
        wait_until(|| Some(mails()).filter(|mails| mails.len() >= count))
    }

    pub fn logins(&self) -> Vec<Login> {
        let login = |note| if let Note::Login(login) = note { Some(login) } else { None };
        self.notes().into_iter().filter_map(login).collect()
    }

    /// What a recipient has been answered, each time.
    pub fn replies_to(&self, recipient: &str) -> Vec<String> {
        let reply = |note| match note {
            Note::Recipient { address, reply } if address == recipient => Some(reply),
            _ => None,
        };
        self.notes().into_iter().filter_map(reply).collect()
    }

    pub fn connections(&self) -> usize {
        self.notes().iter().filter(|note| matches!(note, Note::Connection)).count()
    }

    fn notes(&self) -> Vec<Note> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        // The last line may not be whole yet.
        let end = text.rfind('\n').map_or(0, |end| end + 1);
        text[..end].lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}
