//! Mail: one server, one message at a time.

use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{
    AsyncSmtpConnection, Certificate, CertificateStore, Tls, TlsParameters,
};
use lettre::transport::smtp::extension::ClientId;
use lettre::{Address, Message as Mail};
use tokio::time::timeout;
use tracing::warn;

use super::Failure;
use super::hello::Hello;
use super::render::{Part, Templates};
use crate::core::hint::hinted;
use crate::core::network::is_this_machine;
use crate::core::secret::Secret;
use crate::core::text::excerpt;
use crate::store::backend::Message;
use crate::tls::{certificate_problem, read_certificates};

/// How long one of the server's addresses may take to be connected to, so that there is time for the next.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// How long a mail may take: with the farewell, less than an attempt has in all. What is cut off after the
/// server took the mail is sent twice.
const MAIL_TIME: Duration = Duration::from_secs(18);

/// How long the server may take to say good-bye.
const FAREWELL_TIME: Duration = Duration::from_secs(1);

/// How many bytes are in an encoded word: with `Subject: ` before it, it fits into the 76 characters that
/// RFC 2047 gives to a line.
const WORD_BYTES: usize = 39;

/// Refusals of a login (RFC 4954): another password helps.
const LOGIN_CODES: [u16; 4] = [530, 534, 535, 538];

/// Refusals of a command (RFC 5321), such as a HELO with a bare name.
const COMMAND_CODES: [u16; 5] = [500, 501, 502, 503, 504];

/// How mail is sent.
#[derive(Debug, Clone)]
pub struct MailSettings {
    /// The server.
    pub host: Option<String>,
    /// Its port.
    pub port: u16,
    /// Who logs in; the sender, where there is only a password.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// Who the mail is from; the user, where that is an address.
    pub sender: Option<String>,
    /// How the connection is encrypted.
    pub encryption: MailEncryption,
    /// What we call ourselves; this machine's name, where that is qualified, or else an address literal.
    pub hello: Option<Hello>,
}

/// How a connection to a mail server is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailEncryption {
    /// From the start on port 465, by STARTTLS on all others; on this machine only where the server offers it.
    Auto,
    /// By STARTTLS, or not at all sent.
    StartTls,
    /// From the start.
    Implicit,
    /// By STARTTLS where the server offers it, whoever it is.
    Opportunistic,
    /// Not at all.
    None,
}

/// Sends mail, each over a connection of its own: one that an attempt was cut off on is in an unknown state,
/// and must not be met by the next.
pub struct Mailer {
    host: String,
    port: u16,
    hello: ClientId,
    tls: Tls,
    credentials: Option<Credentials>,
    sender: Mailbox,
    /// What no error may repeat, as it is and as it goes over the wire.
    secrets: Vec<Secret>,
}

impl Mailer {
    /// A mailer for a server, which is not yet connected to; none where there is no server.
    ///
    /// # Errors
    /// A setting is missing or cannot be used.
    pub fn new(settings: &MailSettings, authorities: Option<&Path>) -> anyhow::Result<Option<Mailer>> {
        let host = settings.host.as_deref().map(|host| host.trim_matches(['[', ']']));
        let Some(host) = host.filter(|host| !host.is_empty()) else { return Ok(None) };
        let local = is_this_machine(host);
        check_login(settings, host, local)?;
        let sender = sender_of(settings)?;
        let tls = tls_of(settings, host, authorities)?;
        let user = settings.user.clone().unwrap_or_else(|| sender.email.to_string());
        let password = settings.password.as_ref();
        Ok(Some(Mailer {
            host: host.to_owned(),
            port: settings.port,
            hello: settings.hello.clone().unwrap_or_else(Hello::of_this_machine).into(),
            tls,
            credentials: password
                .map(|password| Credentials::new(user.clone(), password.expose().to_owned())),
            sender,
            secrets: password.map(|password| forms_of(&user, password)).unwrap_or_default(),
        }))
    }

    /// Sends a message to a mailbox.
    ///
    /// # Errors
    /// Why not, and whether to try again.
    pub async fn send(
        &self,
        to: &Address,
        message: &Message,
        template: Option<&str>,
        templates: &Templates,
    ) -> Result<(), Failure> {
        let mail = self
            .mail(to, message, template, templates)
            .map_err(|error| Failure::Permanent { reason: format!("cannot write the mail: {error}") })?;
        let sending = timeout(MAIL_TIME, async {
            // Nothing that goes wrong before the mail is named says anything of it, whatever the code.
            let transient = |error| self.transient(&error);
            let mut connection = self.connect().await.map_err(transient)?;
            let sent = connection.send(mail.envelope(), &mail.formatted()).await;
            sent.map_err(|error| self.failure_of(&error))?;
            Ok(connection)
        });
        let late = || format!("the mail server took longer than {} s", MAIL_TIME.as_secs());
        let mut connection = sending.await.unwrap_or_else(|_| Err(Failure::transient(late())))?;
        // The server has the mail; how it takes its leave makes no difference.
        let _ = timeout(FAREWELL_TIME, connection.quit()).await;
        Ok(())
    }

    /// A connection that is encrypted and logged in, as far as it is to be.
    async fn connect(&self) -> Result<AsyncSmtpConnection, SmtpError> {
        let name = &self.hello;
        let wrapper = if let Tls::Wrapper(tls) = &self.tls { Some(tls.clone()) } else { None };
        let server = (self.host.as_str(), self.port);
        let connecting = AsyncSmtpConnection::connect_tokio1(server, Some(CONNECT_TIME), name, wrapper, None);
        let mut connection = connecting.await?;
        match &self.tls {
            Tls::Required(tls) => connection.starttls(tls.clone(), name).await?,
            Tls::Opportunistic(tls) if connection.can_starttls() => {
                connection.starttls(tls.clone(), name).await?;
            }
            _ => {}
        }
        if let Some(credentials) = &self.credentials {
            connection.auth(DEFAULT_MECHANISMS, credentials).await?;
        }
        Ok(connection)
    }

    fn failure_of(&self, error: &SmtpError) -> Failure {
        let about_us = error.status().is_some_and(|code| is_about_us(code.into(), &chain_of(error)));
        match error.is_permanent() && !about_us {
            true => Failure::Permanent { reason: self.reason_of(error) },
            false => self.transient(error),
        }
    }

    fn transient(&self, error: &SmtpError) -> Failure {
        Failure::transient(self.reason_of(error))
    }

    /// What an error says, without the password: some servers repeat what they do not accept.
    fn reason_of(&self, error: &SmtpError) -> String {
        let text = certificate_problem(error, "--alert-cacert").unwrap_or_else(|| chain_of(error));
        let hide = |text: String, secret: &Secret| text.replace(secret.expose(), "[not shown]");
        excerpt(&self.secrets.iter().fold(text, hide), 300)
    }

    fn mail(
        &self,
        to: &Address,
        message: &Message,
        template: Option<&str>,
        templates: &Templates,
    ) -> Result<Mail, lettre::error::Error> {
        let render = |part| templates.render(&message.events, template, part);
        // The library adds carriage returns one by one, each of which moves all text behind it.
        let part = |kind, text: String| SinglePart::builder().header(kind).body(text.replace('\n', "\r\n"));
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
        let subject = render(Part::Subject);
        let mut mail = Mail::builder()
            .message_id(Some(format!("<{}@{}>", super::identity_of(message), self.sender.email.domain())))
            .from(self.sender.clone())
            .to(to.clone().into())
            .subject(subject.clone())
            .multipart(
                MultiPart::alternative()
                    .singlepart(part(ContentType::TEXT_PLAIN, render(Part::Text)))
                    .singlepart(part(ContentType::TEXT_HTML, render(Part::Html))),
            )?;
        // The library loses spaces between words that it encodes, and what looks like an encoded word and is
        // none would be decoded, to line breaks if it likes.
        if !subject.is_ascii() || subject.contains("=?") {
            let name = HeaderName::new_from_ascii_str("Subject");
            let encoded = encoded_words(&subject);
            mail.headers_mut().insert_raw(HeaderValue::dangerous_new_pre_encoded(name, subject, encoded));
        }
        // RFC 3834: nobody answers it by a machine.
        mail.headers_mut().insert_raw(HeaderValue::new(automatic, "auto-generated".to_owned()));
        Ok(mail)
    }
}

/// Makes sure that a login is as complete and as safe as it is meant to be.
fn check_login(settings: &MailSettings, host: &str, local: bool) -> anyhow::Result<()> {
    let shown = excerpt(host, 100);
    let is_chosen = settings.encryption != MailEncryption::Auto;
    match &settings.password {
        None if settings.user.is_some() && !local => {
            let problem = format!("the mail server `{shown}` has no password");
            Err(hinted(problem, "set SMTP_PASSWORD, or give --smtp-password-file FILE"))
        }
        None if !local && !is_chosen => {
            let problem = format!("the mail server `{shown}` has no password");
            let hint = "set SMTP_PASSWORD, or choose --smtp-tls for a server that wants none";
            Err(hinted(problem, hint))
        }
        Some(_) if !local && settings.encryption == MailEncryption::Opportunistic => {
            let problem = format!("the password for `{shown}` could go unencrypted, or to somebody else");
            Err(hinted(problem, "choose --smtp-tls starttls or implicit, or leave the password out"))
        }
        Some(_) if !local && settings.encryption == MailEncryption::None => {
            warn!("the password for `{shown}` goes unencrypted, as --smtp-tls none says");
            Ok(())
        }
        _ => Ok(()),
    }
}

fn tls_of(settings: &MailSettings, host: &str, authorities: Option<&Path>) -> anyhow::Result<Tls> {
    let from_start = settings.port == 465;
    let local = is_this_machine(host);
    let may_be_unencrypted = match settings.encryption {
        MailEncryption::Opportunistic => true,
        MailEncryption::Auto => local && !from_start,
        _ => false,
    };
    let mut tls = TlsParameters::builder(host.to_owned());
    if authorities.is_none() && may_be_unencrypted {
        // A certificate that nobody vouches for, or for another name, does no harm then.
        tls = tls.certificate_store(CertificateStore::None);
        tls = tls.dangerous_accept_invalid_certs(true).dangerous_accept_invalid_hostnames(true);
    } else {
        tls = tls.certificate_store(CertificateStore::WebpkiRoots);
    }
    for certificate in authorities.map(read_certificates).transpose()?.into_iter().flatten() {
        let certificate = Certificate::from_der(certificate.to_vec()).map_err(io::Error::other);
        let path = authorities.unwrap_or(Path::new("")).display();
        tls = tls.add_root_certificate(certificate.with_context(|| format!("cannot use `{path}`"))?);
    }
    let tls = tls.build_rustls().context("cannot set TLS up for mail")?;
    Ok(match settings.encryption {
        MailEncryption::None => Tls::None,
        MailEncryption::Implicit => Tls::Wrapper(tls),
        MailEncryption::Auto if from_start => Tls::Wrapper(tls),
        MailEncryption::Auto if local => Tls::Opportunistic(tls),
        MailEncryption::Opportunistic => Tls::Opportunistic(tls),
        MailEncryption::Auto | MailEncryption::StartTls => Tls::Required(tls),
    })
}

/// Whether a server refuses us, our HELO or our sender, and neither the mail nor its recipient: other settings help,
/// here or there.
fn is_about_us(code: u16, text: &str) -> bool {
    // RFC 3463: 5.1.7 and 5.1.8 are of the sender's address, 5.5 of commands, 5.7 of what we are allowed to do.
    match enhanced_code(text) {
        Some([5, 1, 7 | 8] | [5, 5 | 7, _]) => true,
        Some(_) => LOGIN_CODES.contains(&code),
        None => COMMAND_CODES.contains(&code) || LOGIN_CODES.contains(&code),
    }
}

/// The enhanced status code of an answer, such as 5.7.1.
fn enhanced_code(text: &str) -> Option<[u16; 3]> {
    text.split_whitespace().find_map(|word| {
        let numbers: Option<Vec<u16>> = word.split('.').map(|part| part.parse().ok()).collect();
        numbers?.try_into().ok()
    })
}

/// Who mail is from.
fn sender_of(settings: &MailSettings) -> anyhow::Result<Mailbox> {
    let hint = "set SENDER_ADDR, or give --sender-addr alerts@example.com";
    let sender = settings.sender.as_ref().or(settings.user.as_ref()).filter(|sender| !sender.is_empty());
    let sender = sender.ok_or_else(|| hinted("mail has no sender", hint))?;
    let problem = || format!("cannot send mail from `{}`: it is no address", excerpt(sender, 100));
    sender.parse().map_err(|_| hinted(problem(), hint))
}

/// A password, and what SMTP makes of it (RFC 4616, and LOGIN).
fn forms_of(user: &str, password: &Secret) -> Vec<Secret> {
    let plain = format!("\0{user}\0{}", password.expose());
    let encoded = [STANDARD.encode(plain), STANDARD.encode(password.expose())];
    let encoded = encoded.iter().filter_map(|form| form.parse().ok());
    std::iter::once(password.clone()).chain(encoded).collect()
}

/// Text as encoded words of RFC 2047, a line each.
fn encoded_words(text: &str) -> String {
    let mut words = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        // A word holds whole characters.
        let ends = rest.char_indices().map(|(at, character)| at + character.len_utf8());
        let end = ends.take_while(|end| *end <= WORD_BYTES).last().unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        words.push(format!("=?utf-8?b?{}?=", STANDARD.encode(word)));
        rest = behind;
    }
    words.join("\r\n ")
}

fn chain_of(error: &SmtpError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let inner = error.to_string();
        if !text.contains(&inner) {
            text = format!("{text}: {inner}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_refuses_us_refuses_no_mail() {
        for (code, text) in [
            (504, "5.5.2 <host>: Helo command rejected: need fully-qualified hostname"),
            (550, "5.7.1 <unknown[192.0.2.1]>: Client host rejected: cannot find your hostname, [192.0.2.1]"),
            (553, "5.7.1 <a@example.com>: Sender address rejected: not owned by user ops"),
            (550, "5.1.8 <a@invalid>: Sender address rejected: Domain not found"),
            (554, "5.7.1 <b@example.net>: Relay access denied"),
            (530, "authentication required"),
            (504, "need fully-qualified hostname"),
        ] {
            assert!(is_about_us(code, &format!("permanent error ({code}): {text}")), "{code} {text}");
        }
        for (code, text) in [
            (550, "5.1.1 <b@example.com>: Recipient address rejected: User unknown"),
            (552, "5.3.4 Message size exceeds fixed limit"),
            (554, "5.6.0 the mail is malformed"),
            (550, "no such mailbox at 192.0.2.1"),
            (554, "no"),
        ] {
            assert!(!is_about_us(code, &format!("permanent error ({code}): {text}")), "{code} {text}");
        }
    }
}
