//! The alerts that the settings describe: rules, channels, and what sends.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tracing::warn;

use super::channel::{Channel, Target};
use super::delivery::DeliveryMetrics;
use super::mail::{MailSettings, Mailer};
use super::render::Templates;
use super::rule::Rule;
use super::webhook::{self, WebhookClient};
use crate::auth::signature::standard::signing_key;
use crate::client::{DeliveryError, Reach};
use crate::core::event::{Event, HEALTH_ALERT, StoredEvent};
use crate::core::text::hex;
use crate::core::timestamp::Timestamp;
use crate::error::hinted;
use crate::secret::Secret;
use crate::store::backend::NewDelivery;
use crate::store::outbox::Message;
use crate::tls::{Trust, client_config, read_ca_certificates};

#[derive(Debug, Clone)]
pub struct AlertSettings {
    pub channels: Vec<Channel>,
    pub rules: Vec<Rule>,
    pub templates: Option<PathBuf>,
    /// How long the same alert is not sent again.
    pub repeat_after: Duration,
    /// The most messages to a channel in a minute.
    pub rate: usize,
    /// How long a message is retried.
    pub give_up_after: Duration,
    /// Where webhooks may be.
    pub reach: Reach,
    /// CA certificates to trust besides the public ones.
    pub ca_file: Option<PathBuf>,
    /// Signs events to webhooks.
    pub webhook_secret: Option<Secret>,
    pub mail: MailSettings,
}

/// Rules and channels, ready to be used.
pub struct Alerts {
    rules: Vec<Rule>,
    channels: Vec<Channel>,
    templates: Templates,
    mailer: Option<Mailer>,
    webhooks: Option<WebhookClient>,
    repeat_after: Duration,
    pub rate: usize,
    pub give_up_after: Duration,
    pub metrics: DeliveryMetrics,
    /// Wakes the workers of all channels.
    pub outbox_changes: watch::Sender<()>,
}

impl Alerts {
    /// Connects to nothing yet.
    pub fn new(settings: AlertSettings) -> anyhow::Result<Alerts> {
        let templates = Templates::load(settings.templates.as_deref())?;
        let ca_certificates = settings.ca_file.as_deref().map(read_ca_certificates).transpose()?;
        let ca_certificates = ca_certificates.unwrap_or_default();
        let signing_key = settings
            .webhook_secret
            .as_ref()
            .map(|secret| signing_key(secret, "--alert-secret-file"))
            .transpose()?;
        let channels = channels_of(&settings);
        channels.iter().try_for_each(|channel| webhook::check(channel, settings.reach))?;
        check_names(&channels)?;
        let mailer = mailer_for(&channels, &settings.mail, &ca_certificates)?;
        let webhooks = if channels.iter().any(|channel| !channel.is_mailbox()) {
            let tls = client_config(Trust::PublicCasAnd(&ca_certificates), None)?;
            Some(WebhookClient::new(tls, settings.reach, signing_key, &channels, &templates)?)
        } else {
            None
        };
        check_templates(&settings.rules, &templates)?;
        Ok(Alerts {
            rules: complete_rules(settings.rules, &settings.channels),
            channels,
            templates,
            mailer,
            webhooks,
            repeat_after: settings.repeat_after,
            rate: settings.rate,
            give_up_after: settings.give_up_after,
            metrics: DeliveryMetrics::default(),
            outbox_changes: watch::Sender::new(()),
        })
    }

    pub fn channels(&self) -> &[Channel] {
        &self.channels
    }

    pub fn metrics(&self) -> &DeliveryMetrics {
        &self.metrics
    }

    /// Which of these events go to which channels.
    pub fn deliveries_of(&self, events: &[Event]) -> Vec<NewDelivery> {
        let mut deliveries: Vec<NewDelivery> = Vec::new();
        if self.channels.is_empty() {
            return deliveries;
        }
        for (position, event) in events.iter().enumerate() {
            let matching = self.rules.iter().filter(|rule| rule.event_type.matches(event.event_type()));
            for channel in matching.filter_map(|rule| rule.channels.as_ref()).flatten() {
                // Two rules may name the same channel: one delivery is enough. A request may have thousands of events,
                // so only the deliveries of this one are searched.
                let mut own = deliveries.iter().rev().take_while(|delivery| delivery.position == position);
                if own.any(|delivery| delivery.channel == *channel.name()) {
                    continue;
                }
                deliveries.push(NewDelivery {
                    position,
                    channel: Arc::clone(channel.name()),
                    digest: digest_of(event),
                    repeat_after: self.repeat_after,
                });
            }
        }
        deliveries
    }

    /// Wakes the channel workers: the outbox has new deliveries.
    pub fn wake_workers(&self) {
        self.outbox_changes.send_replace(());
    }

    /// Sends a sample to each channel.
    pub async fn test(
        &self,
        event_type: &str,
        event_payload: &str,
    ) -> Vec<(Channel, Result<(), DeliveryError>)> {
        let received_at = Timestamp::now();
        let event = StoredEvent {
            id: 0,
            received_at,
            event_type: event_type.to_owned(),
            event_payload: event_payload.to_owned(),
        };
        let mut results = Vec::new();
        for channel in &self.channels {
            let message = Message {
                id: 0,
                channel: Arc::clone(channel.name()),
                claimant: String::new(),
                claimed_at: received_at,
                event_ids: vec![0],
                created_at: vec![received_at],
                events: vec![event.clone()],
                attempts: 1,
                is_probe: false,
            };
            results.push((channel.clone(), self.send(channel, &message).await));
        }
        results
    }

    pub async fn send(&self, channel: &Channel, message: &Message) -> Result<(), DeliveryError> {
        let Some(first) = message.events.first() else {
            return Err(DeliveryError::Permanent("the event is gone".to_owned()));
        };
        let template = self.template_of(first, channel);
        match &channel.target {
            Target::Mail(to) => {
                let mailer = self.mailer.as_ref().expect("where a channel is a mailbox, there is a mailer");
                mailer.send(to, message, template, &self.templates).await
            }
            Target::Webhook(webhook) => {
                let webhooks =
                    self.webhooks.as_ref().expect("where a channel is a webhook, there is a client");
                webhooks.send(webhook, message, template, &self.templates).await
            }
        }
    }

    /// The template of the first rule that sends such an event to the channel.
    fn template_of(&self, event: &StoredEvent, channel: &Channel) -> Option<&str> {
        let applies = |rule: &&Rule| {
            let channels = rule.channels.as_ref();
            rule.event_type.matches(&event.event_type)
                && channels.is_some_and(|channels| channels.contains(channel))
        };
        self.rules.iter().find(applies)?.template.as_deref()
    }
}

/// The channels of the settings and of their rules, each once.
fn channels_of(settings: &AlertSettings) -> Vec<Channel> {
    let mut channels: Vec<Channel> = Vec::new();
    let of_rules = settings.rules.iter().filter_map(|rule| rule.channels.as_ref()).flatten();
    for channel in settings.channels.iter().chain(of_rules) {
        if !channels.contains(channel) {
            channels.push(channel.clone());
        }
    }
    channels
}

/// Two channels of one URL have one outbox, unless they have names.
fn check_names(channels: &[Channel]) -> anyhow::Result<()> {
    for (position, channel) in channels.iter().enumerate() {
        if channels[..position].iter().any(|other| other.name() == channel.name()) {
            let problem = format!("two channels are `{channel}`, with different settings");
            return Err(hinted(problem, "give one of them a `name`"));
        }
    }
    Ok(())
}

/// Gives each rule its channels, and adds the rule for health alerts.
fn complete_rules(mut rules: Vec<Rule>, all_channels: &[Channel]) -> Vec<Rule> {
    // Health alerts are always sent, whatever other rules there are.
    if !rules.iter().any(|rule| rule.event_type.matches(HEALTH_ALERT)) {
        rules.extend(HEALTH_ALERT.parse::<Rule>());
    }
    for rule in &mut rules {
        rule.channels.get_or_insert_with(|| all_channels.to_vec());
    }
    rules
}

fn check_templates(rules: &[Rule], templates: &Templates) -> anyhow::Result<()> {
    let mut names = rules.iter().filter_map(|rule| rule.template.as_deref());
    let Some(unknown) = names.find(|name| !templates.contains(name)) else { return Ok(()) };
    let hint = format!("put {unknown}.txt and the like into --alert-templates DIR");
    Err(hinted(format!("there is no template `{unknown}`"), hint))
}

/// `None` if no channel is a mailbox.
fn mailer_for(
    channels: &[Channel],
    settings: &MailSettings,
    ca_certificates: &[CertificateDer<'static>],
) -> anyhow::Result<Option<Mailer>> {
    let Some(mailbox) = channels.iter().find(|channel| channel.is_mailbox()) else {
        if settings.host.is_some() {
            warn!(
                "there is a mail server, and nobody receives mail: set HEALTH_ALERT_RECEIVER to an address"
            );
        }
        return Ok(None);
    };
    let hint = "set SMTP_HOST, or give --smtp-host HOST";
    let no_server = || hinted(format!("`{mailbox}` has no mail server"), hint);
    Mailer::new(settings, ca_certificates)?.map(Some).ok_or_else(no_server)
}

/// SHA-256 of type and payload, in hex. U+0000 separates them: no type contains it.
fn digest_of(event: &Event) -> String {
    let digest = Sha256::new()
        .chain_update(event.event_type())
        .chain_update([0])
        .chain_update(event.event_payload())
        .finalize();
    hex(&digest)
}
