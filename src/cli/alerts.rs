//! The settings of alerts, and those of `alert-test`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::log::LogOptions;
use super::values::{parse_count, parse_port};
use crate::alert::{AlertSettings, Channel, Channels, Hello, MailEncryption, MailSettings, Rule};
use crate::alert_test::{self, Resend};
use crate::client::Reach;
use crate::core::duration::{parse_duration, parse_duration_with_unit};
use crate::core::event::HEALTH_ALERT;
use crate::secret::Secret;
use crate::store::StoreLocation;

#[derive(Debug, Clone, Args)]
pub struct AlertOptions {
    /// Send alerts to this channel, repeatable: mailto:NAME@HOST,...,
    /// slack:https://..., and likewise discord, mattermost, google-chat, teams,
    /// telegram, pagerduty, ntfy; https://... for events as JSON, or
    /// cloudevents:https://...; in the config file also an object with a method,
    /// headers and a body
    #[arg(long, value_name = "URL")]
    alert: Vec<Channels>,

    /// Send alerts for events whose type matches this glob, repeatable, in addition to
    /// health alerts; in the config file also an object of `type`, `alert` and
    /// `template`
    #[arg(long, value_name = "GLOB", default_value = HEALTH_ALERT)]
    alert_on: Vec<Rule>,

    /// Store a repeated alert, but do not send it, within this time; 0 sends all
    #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = parse_duration)]
    alert_repeat_after: Duration,

    /// Maximum number of messages a minute to a channel; more alerts wait for a digest
    #[arg(long, default_value_t = 30, value_name = "N", value_parser = parse_count)]
    alert_rate: usize,

    /// Time to retry the delivery of an alert: 1d, 6h
    #[arg(long, default_value = "1d", value_name = "DURATION", value_parser = parse_duration_with_unit)]
    alert_give_up_after: Duration,

    /// Folder of templates that replace the built-in ones, such as
    /// health_alert.txt, order_created.slack, event.html
    #[arg(long, value_name = "DIR")]
    alert_templates: Option<PathBuf>,

    /// Allow webhooks on this machine and in private networks, and over http
    #[arg(long)]
    alert_allow_private: bool,

    /// Also trust the CA certificates in this PEM file, for webhooks and mail
    #[arg(long, value_name = "FILE")]
    alert_cacert: Option<PathBuf>,

    /// File with the secret that signs events to webhooks, whsec_ and Base64; or
    /// EVENTCTL_ALERT_SECRET holds it
    #[arg(long, value_name = "FILE")]
    alert_secret_file: Option<PathBuf>,

    #[arg(long, hide = true)]
    alert_secret: Option<Secret>,

    /// Mail alerts to these addresses, as --alert mailto: does
    #[arg(long, env = "HEALTH_ALERT_RECEIVER", value_name = "ADDRESS", value_delimiter = ',', value_parser = parse_receivers)]
    health_alert_receiver: Vec<Channels>,

    /// Mail server
    #[arg(long, env = "SMTP_HOST", value_name = "HOST")]
    smtp_host: Option<String>,

    /// Port of the mail server
    #[arg(long, env = "SMTP_PORT", default_value_t = 587, value_name = "PORT", value_parser = parse_port)]
    smtp_port: u16,

    /// SMTP user name [default: the sender address]
    #[arg(long, env = "SMTP_USER", value_name = "NAME")]
    smtp_user: Option<String>,

    /// File with the SMTP password; or SMTP_PASSWORD holds it
    #[arg(long, value_name = "FILE")]
    smtp_password_file: Option<PathBuf>,

    #[arg(long, env = "SMTP_PASSWORD", hide = true)]
    smtp_password: Option<Secret>,

    /// How to encrypt the connection to the mail server
    #[arg(long, value_enum, default_value_t = MailEncryption::Auto, value_name = "HOW")]
    smtp_tls: MailEncryption,

    /// Name of this machine in HELO: a qualified name, or an address literal
    /// [default: its qualified name, else [127.0.0.1]]
    #[arg(long, value_name = "NAME")]
    smtp_hello: Option<Hello>,

    /// Sender address of mail [default: the SMTP user]
    #[arg(long, env = "SENDER_ADDR", value_name = "ADDRESS")]
    sender_addr: Option<String>,
}

impl AlertOptions {
    /// # Errors
    /// A secret cannot be used.
    pub fn into_settings(self) -> anyhow::Result<AlertSettings> {
        let password = Secret::choose(
            self.smtp_password_file.as_deref(),
            self.smtp_password.as_ref(),
            "--smtp-password-file",
        )?;
        let webhook_secret = Secret::choose(
            self.alert_secret_file.as_deref(),
            self.alert_secret.as_ref(),
            "--alert-secret-file",
        )?;
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok(AlertSettings {
            channels: self
                .alert
                .into_iter()
                .chain(self.health_alert_receiver)
                .flat_map(|list| list.0)
                .collect(),
            rules: self.alert_on,
            templates: self.alert_templates,
            repeat_after: self.alert_repeat_after,
            rate: self.alert_rate,
            give_up_after: self.alert_give_up_after,
            reach: if self.alert_allow_private { Reach::Anywhere } else { Reach::PublicOnly },
            ca_file: self.alert_cacert,
            webhook_secret,
            mail: MailSettings {
                host: given(self.smtp_host),
                port: self.smtp_port,
                user: given(self.smtp_user),
                password,
                sender: given(self.sender_addr),
                encryption: self.smtp_tls,
                hello: self.smtp_hello,
            },
        })
    }
}

#[derive(Debug, Args)]
pub struct AlertTestOptions {
    /// Type of the sample
    #[arg(long, default_value = HEALTH_ALERT, value_name = "TYPE")]
    event_type: String,

    /// Payload of the sample
    #[arg(long, default_value = r#"["this is a test by eventctl alert-test"]"#, value_name = "TEXT")]
    payload: String,

    /// Instead of sending a sample, queue failed alerts again: those of the event with
    /// this id, or all. A consume sends them; see tail --alerts
    #[arg(long, value_name = "ID|all")]
    resend: Option<Resend>,

    /// Store with the failed alerts
    #[arg(long, env = "DATABASE_URL", default_value = "events.db", value_name = "URL")]
    db: StoreLocation,

    #[command(flatten)]
    alerts: AlertOptions,

    #[command(flatten)]
    pub(super) log: LogOptions,

    /// Log only warnings and errors
    #[arg(short, long)]
    pub(super) quiet: bool,
}

impl AlertTestOptions {
    /// # Errors
    /// A secret cannot be used.
    pub(super) fn into_settings(self) -> anyhow::Result<alert_test::Settings> {
        Ok(match self.resend {
            Some(which) => alert_test::Settings::Resend { db: self.db, which },
            None => alert_test::Settings::Sample {
                event_type: self.event_type,
                payload: self.payload,
                alerts: self.alerts.into_settings()?,
            },
        })
    }
}

/// Addresses separated by spaces; none where the variable is blank.
fn parse_receivers(text: &str) -> Result<Channels, String> {
    text.split_whitespace().map(Channel::mail).collect::<Result<_, _>>().map(Channels)
}
