//! The settings of mail, and what they mean together.

use anyhow::Context;
use clap::ValueEnum;
use lettre::message::Mailbox;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use rustls::pki_types::CertificateDer;
use tracing::warn;

use super::hello::Hello;
use crate::core::network::is_this_machine;
use crate::core::text::excerpt;
use crate::error::hinted;
use crate::secret::Secret;
use crate::tls::system_ca_certificates;

/// The port for TLS from the start (RFC 8314).
const SUBMISSIONS_PORT: u16 = 465;

#[derive(Debug, Clone)]
pub struct MailSettings {
    pub host: Option<String>,
    pub port: u16,
    /// `None` for the sender, if there is a password.
    pub user: Option<String>,
    pub password: Option<Secret>,
    /// `None` for the user, if that is an address.
    pub sender: Option<String>,
    pub encryption: MailEncryption,
    /// `None` for this machine's name if it is qualified, or else an address literal.
    pub hello: Option<Hello>,
}

/// How the connection to the mail server is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MailEncryption {
    /// TLS from the start on port 465, STARTTLS elsewhere; on this machine only if the server offers it.
    Auto,
    /// STARTTLS; without it no mail is sent.
    #[value(name = "starttls")]
    StartTls,
    /// TLS from the start.
    Implicit,
    /// STARTTLS if the server offers it, with any certificate; without a password.
    Opportunistic,
    None,
}

/// Refuses settings with which a login would fail or expose the password.
pub fn check_login(settings: &MailSettings, host: &str, local: bool) -> anyhow::Result<()> {
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
            let problem = format!(
                "with `--smtp-tls opportunistic` the password for `{shown}` could be sent unencrypted"
            );
            Err(hinted(problem, "choose --smtp-tls starttls or implicit, or leave the password out"))
        }
        Some(_) if !local && settings.encryption == MailEncryption::None => {
            warn!("the password for `{shown}` goes unencrypted, as --smtp-tls none says");
            Ok(())
        }
        _ => Ok(()),
    }
}

pub fn tls_of(
    settings: &MailSettings,
    host: &str,
    ca_certificates: &[CertificateDer<'static>],
) -> anyhow::Result<Tls> {
    let implicit = settings.port == SUBMISSIONS_PORT;
    let local = is_this_machine(host);
    let may_be_unencrypted = match settings.encryption {
        MailEncryption::None => return Ok(Tls::None),
        MailEncryption::Opportunistic => true,
        MailEncryption::Auto => local && !implicit,
        MailEncryption::StartTls | MailEncryption::Implicit => false,
    };
    // Where no encryption is accepted, so is an unverified certificate.
    let verified = !ca_certificates.is_empty() || !may_be_unencrypted;
    let tls = tls_parameters(host, ca_certificates, verified).context("cannot set TLS up for mail")?;
    Ok(match settings.encryption {
        MailEncryption::Implicit => Tls::Wrapper(tls),
        MailEncryption::Auto if implicit => Tls::Wrapper(tls),
        _ if may_be_unencrypted => Tls::Opportunistic(tls),
        _ => Tls::Required(tls),
    })
}

/// Trusts the same CAs as `tls::client_config`: the library takes no configuration that is ready.
fn tls_parameters(
    host: &str,
    ca_certificates: &[CertificateDer<'static>],
    verified: bool,
) -> Result<TlsParameters, lettre::transport::smtp::Error> {
    let mut tls = TlsParameters::builder(host.to_owned());
    let mut store = CertificateStore::None;
    if verified {
        let system = system_ca_certificates();
        if system.is_empty() {
            store = CertificateStore::WebpkiRoots;
        }
        for certificate in system.iter().chain(ca_certificates) {
            tls = tls.add_root_certificate(Certificate::from_der(certificate.to_vec())?);
        }
    } else {
        tls = tls.dangerous_accept_invalid_certs(true).dangerous_accept_invalid_hostnames(true);
    }
    tls.certificate_store(store).build_rustls()
}

pub fn sender_of(settings: &MailSettings) -> anyhow::Result<Mailbox> {
    let hint = "set SENDER_ADDR, or give --sender-addr alerts@example.com";
    let sender = settings.sender.as_ref().or(settings.user.as_ref()).filter(|sender| !sender.is_empty());
    let sender = sender.ok_or_else(|| hinted("mail has no sender", hint))?;
    let problem = || format!("cannot send mail from `{}`: it is not an address", excerpt(sender, 100));
    sender.parse().map_err(|_| hinted(problem(), hint))
}
