//! Mail: one server, one message at a time.

mod content;
mod hello;
mod refusal;
mod settings;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lettre::Address;
use lettre::message::Mailbox;
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Tls};
use lettre::transport::smtp::extension::ClientId;
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

pub use self::hello::Hello;
use self::refusal::{chain_of, is_about_client};
pub use self::settings::{MailEncryption, MailSettings};
use self::settings::{check_login, sender_of, tls_of};
use super::render::Templates;
use crate::client::DeliveryError;
use crate::core::network::is_this_machine;
use crate::core::text::excerpt;
use crate::secret::Secret;
use crate::store::outbox::Message;
use crate::tls::certificate_problem;

/// The time limit for connecting to one address of the server, which leaves time for the next.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// The time limit of a mail: with QUIT, less than that of an attempt. A mail that is interrupted after the server
/// accepted it is sent twice.
const MAIL_TIME: Duration = Duration::from_secs(18);

const QUIT_TIME: Duration = Duration::from_secs(1);

/// Sends each mail over a connection of its own: after an interrupted attempt the state of a connection is unknown.
pub struct Mailer {
    host: String,
    port: u16,
    hello: ClientId,
    tls: Tls,
    credentials: Option<Credentials>,
    sender: Mailbox,
    /// The password, plain and as encoded on the wire. Errors must not contain them.
    secrets: Vec<Secret>,
}

impl Mailer {
    /// Does not connect yet. `None` if the settings name no server.
    pub fn new(
        settings: &MailSettings,
        ca_certificates: &[CertificateDer<'static>],
    ) -> anyhow::Result<Option<Mailer>> {
        let host = settings.host.as_deref().map(|host| host.trim_matches(['[', ']']));
        let Some(host) = host.filter(|host| !host.is_empty()) else { return Ok(None) };
        check_login(settings, host, is_this_machine(host))?;
        let sender = sender_of(settings)?;
        let tls = tls_of(settings, host, ca_certificates)?;
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

    pub async fn send(
        &self,
        to: &Address,
        message: &Message,
        template: Option<&str>,
        templates: &Templates,
    ) -> Result<(), DeliveryError> {
        let mail = content::mail(&self.sender, to, message, template, templates)
            .map_err(|error| DeliveryError::Permanent(format!("cannot write the mail: {error}")))?;
        let sending = timeout(MAIL_TIME, async {
            // Until the recipient is named, every failure is transient, whatever its code.
            let transient = |error| self.transient(&error);
            let mut connection = self.connect().await.map_err(transient)?;
            let sent = connection.send(mail.envelope(), &mail.formatted()).await;
            sent.map_err(|error| self.delivery_error(&error))?;
            Ok(connection)
        });
        let late = || format!("the mail server took longer than {} s", MAIL_TIME.as_secs());
        let mut connection = sending.await.unwrap_or_else(|_| Err(DeliveryError::transient(late())))?;
        // The server has accepted the mail; a failing QUIT changes nothing.
        let _ = timeout(QUIT_TIME, connection.quit()).await;
        Ok(())
    }

    /// Connects, encrypts and authenticates as the settings say.
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

    fn delivery_error(&self, error: &SmtpError) -> DeliveryError {
        let about_client = error.status().is_some_and(|code| is_about_client(code.into(), &chain_of(error)));
        match error.is_permanent() && !about_client {
            true => DeliveryError::Permanent(self.reason_of(error)),
            false => self.transient(error),
        }
    }

    fn transient(&self, error: &SmtpError) -> DeliveryError {
        DeliveryError::transient(self.reason_of(error))
    }

    /// The text of an error without the password: some servers repeat what they refuse.
    fn reason_of(&self, error: &SmtpError) -> String {
        let text = certificate_problem(error, "--alert-cacert").unwrap_or_else(|| chain_of(error));
        let hide = |text: String, secret: &Secret| text.replace(secret.expose(), "[not shown]");
        excerpt(&self.secrets.iter().fold(text, hide), 300)
    }
}

/// A password, plain and as AUTH PLAIN (RFC 4616) and AUTH LOGIN send it.
fn forms_of(user: &str, password: &Secret) -> Vec<Secret> {
    let plain = format!("\0{user}\0{}", password.expose());
    let encoded = [STANDARD.encode(plain), STANDARD.encode(password.expose())];
    let encoded = encoded.iter().filter_map(|form| form.parse().ok());
    std::iter::once(password.clone()).chain(encoded).collect()
}
