//! Mail: one server, one message at a time.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::transport::smtp::PoolConfig;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::{Address, AsyncSmtpTransport, AsyncTransport, Message as Mail, Tokio1Executor};

use super::Failure;
use super::render::{Part, Templates};
use crate::core::hint::{Hint, hinted};
use crate::core::secret::Secret;
use crate::core::text::excerpt;
use crate::store::backend::Message;
use crate::tls::read_certificates;

/// How long the server may take to answer a command.
const COMMAND_TIME: Duration = Duration::from_secs(10);

/// How long a connection is kept for the next mail.
const IDLE_TIME: Duration = Duration::from_secs(30);

/// Answers that say something about us and not about the mail (RFC 4954): another password helps.
const LOGIN_CODES: [u16; 4] = [530, 534, 535, 538];

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
}

/// Sends mail.
pub struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    sender: Mailbox,
}

impl Mailer {
    /// A mailer for a server, which is not yet connected to; none where there is no server.
    ///
    /// # Errors
    /// A setting is missing or cannot be used.
    pub fn new(settings: &MailSettings, authorities: Option<&Path>) -> anyhow::Result<Option<Mailer>> {
        let Some(host) = settings.host.as_deref().filter(|host| !host.is_empty()) else { return Ok(None) };
        let local = is_loopback(host);
        if settings.password.is_none() && !local {
            let problem = format!("the mail server `{}` has no password", excerpt(host, 100));
            return Err(hinted(problem, "set SMTP_PASSWORD, or give --smtp-password-file FILE"));
        }
        let sender = settings.sender.clone().or_else(|| settings.user.clone());
        let sender = sender.filter(|sender| !sender.is_empty()).unwrap_or_default();
        let sender: Mailbox = sender
            .parse()
            .map_err(|_| anyhow::anyhow!("mail has no sender"))
            .hint("set SENDER_ADDR, or give --sender-addr alerts@example.com")?;
        let tls = TlsParameters::builder(host.to_owned());
        let tls = match authorities {
            None => tls.certificate_store(CertificateStore::WebpkiRoots),
            Some(path) => {
                let mut tls = tls.certificate_store(CertificateStore::None);
                for certificate in read_certificates(path)? {
                    let certificate = Certificate::from_der(certificate.to_vec());
                    let cannot = || format!("cannot use `{}`", path.display());
                    tls = tls.add_root_certificate(certificate.with_context(cannot)?);
                }
                tls
            }
        };
        let tls = tls.build_rustls().context("cannot set TLS up for mail")?;
        let tls = match settings.encryption {
            MailEncryption::Implicit => Tls::Wrapper(tls),
            MailEncryption::Auto if settings.port == 465 => Tls::Wrapper(tls),
            MailEncryption::Auto if local => Tls::Opportunistic(tls),
            MailEncryption::Auto | MailEncryption::StartTls => Tls::Required(tls),
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)
            .port(settings.port)
            .tls(tls)
            .timeout(Some(COMMAND_TIME))
            .pool_config(PoolConfig::new().max_size(4).idle_timeout(IDLE_TIME));
        if let Some(password) = &settings.password {
            let user = settings.user.clone().unwrap_or_else(|| sender.email.to_string());
            builder = builder.credentials(Credentials::new(user, password.expose().to_owned()));
        }
        Ok(Some(Mailer { transport: builder.build(), sender }))
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
        match self.transport.send(mail).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let reason = excerpt(&chain_of(&error), 300);
                let code = error.status().map(u16::from);
                let about_us = code.is_some_and(|code| LOGIN_CODES.contains(&code));
                Err(match error.is_permanent() && !about_us {
                    true => Failure::Permanent { reason },
                    false => Failure::Transient { reason, retry_after: Duration::ZERO },
                })
            }
        }
    }

    fn mail(
        &self,
        to: &Address,
        message: &Message,
        template: Option<&str>,
        templates: &Templates,
    ) -> Result<Mail, lettre::error::Error> {
        let render = |part| templates.render(&message.events, template, part);
        let part = |kind, text| SinglePart::builder().header(kind).body(text);
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
        let mut mail = Mail::builder()
            .message_id(Some(format!("<{}@{}>", super::identity_of(message), self.sender.email.domain())))
            .from(self.sender.clone())
            .to(to.clone().into())
            .subject(render(Part::Subject))
            .multipart(
                MultiPart::alternative()
                    .singlepart(part(ContentType::TEXT_PLAIN, render(Part::Text)))
                    .singlepart(part(ContentType::TEXT_HTML, render(Part::Html))),
            )?;
        // RFC 3834: nobody answers it by a machine.
        mail.headers_mut().insert_raw(HeaderValue::new(automatic, "auto-generated".to_owned()));
        Ok(mail)
    }
}

/// Whether a host is this machine.
fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

fn chain_of(error: &lettre::transport::smtp::Error) -> String {
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
