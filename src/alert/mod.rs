//! Alerts: which events are told to whom, in which words, and by which way.
//!
//! ```text
//! rules:       event stored, with a delivery for each channel → outbox
//! dispatcher:  outbox → claim → templates → channel → settle
//! ```

mod channel;
mod dispatch;
mod hello;
mod mail;
mod render;
mod rule;
mod webhook;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tracing::warn;

pub use self::channel::{Channel, Channels, kind_of};
use self::channel::{Target, hex};
pub use self::dispatch::{DeliveryMetrics, Dispatcher};
pub use self::hello::Hello;
use self::mail::Mailer;
pub use self::mail::{MailEncryption, MailSettings};
use self::render::Templates;
pub use self::rule::Rule;
use self::webhook::Poster;
use crate::client::Reach;
use crate::core::event::{Event, HEALTH_ALERT, StoredEvent};
use crate::core::hint::hinted;
use crate::core::secret::Secret;
use crate::core::timestamp::Timestamp;
use crate::store::backend::{Message, NewDelivery};
use crate::tls::{Trust, client_config};

/// What the settings say of alerts.
#[derive(Debug, Clone)]
pub struct AlertSettings {
    /// To whom.
    pub channels: Vec<Channel>,
    /// Which events.
    pub rules: Vec<Rule>,
    /// A folder of templates.
    pub templates: Option<PathBuf>,
    /// For how long the same alert is not sent again.
    pub repeat_after: Duration,
    /// How many messages a minute a channel has at most.
    pub rate: usize,
    /// For how long a message is tried.
    pub give_up_after: Duration,
    /// Which addresses webhooks may have.
    pub reach: Reach,
    /// Which authorities to trust besides those of the web.
    pub authorities: Option<PathBuf>,
    /// What events to webhooks are signed with.
    pub webhook_secret: Option<Secret>,
    /// How mail is sent.
    pub mail: MailSettings,
}

/// Why a message did not get through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It may the next time.
    Transient {
        /// What is wrong.
        reason: String,
        /// How long the channel asks to wait.
        retry_after: Duration,
        /// Whether it asks so for all messages.
        closes: bool,
    },
    /// It never will.
    Permanent {
        /// What is wrong.
        reason: String,
    },
}

/// Rules and channels, ready to be used.
pub struct Alerts {
    rules: Vec<Rule>,
    outlets: Vec<Arc<Outlet>>,
    templates: Templates,
    mailer: Option<Mailer>,
    poster: Poster,
    repeat_after: Duration,
    rate: usize,
    give_up_after: Duration,
    metrics: DeliveryMetrics,
}

/// A channel with the bell that its courier listens to.
struct Outlet {
    channel: Channel,
    news: Notify,
}

impl Failure {
    fn transient(reason: String) -> Failure {
        Failure::Transient { reason, retry_after: Duration::ZERO, closes: false }
    }
}

impl Alerts {
    /// What the settings describe; nothing is connected to yet.
    ///
    /// # Errors
    /// A setting is missing or cannot be used.
    pub fn new(settings: AlertSettings) -> anyhow::Result<Alerts> {
        let authorities = settings.authorities.as_deref();
        let templates = Templates::load(settings.templates.as_deref())?;
        let tls = client_config(authorities.map_or(Trust::Web, Trust::WebAnd), None)?;
        let poster = Poster::new(tls, settings.reach, settings.webhook_secret.as_ref())?;
        let mut channels: Vec<Channel> = Vec::new();
        let named = settings.rules.iter().filter_map(|rule| rule.channels.as_ref()).flatten();
        for channel in settings.channels.iter().chain(named) {
            if !channels.contains(channel) {
                channels.push(channel.clone());
            }
        }
        channels.iter().try_for_each(|channel| poster.check(channel))?;
        let mailer = mailer_for(&channels, &settings)?;
        let unknown = settings.rules.iter().filter_map(|rule| rule.template.as_deref());
        if let Some(unknown) = unknown.into_iter().find(|name| !templates.knows(name)) {
            let problem = format!("there is no template `{unknown}`");
            return Err(hinted(
                problem,
                format!("put {unknown}.txt and the like into --alert-templates DIR"),
            ));
        }
        let all = settings.channels;
        let mut rules = settings.rules;
        // Whoever reports an alert by that name expects it to be told, whatever else is.
        if !rules.iter().any(|rule| rule.event_type.matches(HEALTH_ALERT)) {
            rules.extend(HEALTH_ALERT.parse::<Rule>());
        }
        for rule in &mut rules {
            rule.channels.get_or_insert_with(|| all.clone());
        }
        Ok(Alerts {
            rules,
            outlets: channels
                .into_iter()
                .map(|channel| Arc::new(Outlet { channel, news: Notify::new() }))
                .collect(),
            templates,
            mailer,
            poster,
            repeat_after: settings.repeat_after,
            rate: settings.rate,
            give_up_after: settings.give_up_after,
            metrics: DeliveryMetrics::default(),
        })
    }

    /// The names of all channels.
    pub fn channels(&self) -> impl Iterator<Item = &Channel> {
        self.outlets.iter().map(|outlet| &outlet.channel)
    }

    /// What couriers count.
    pub fn metrics(&self) -> &DeliveryMetrics {
        &self.metrics
    }

    /// Who is to be told of which of these events.
    pub fn deliveries_of(&self, events: &[Event]) -> Vec<NewDelivery> {
        let mut deliveries: Vec<NewDelivery> = Vec::new();
        if self.outlets.is_empty() {
            return deliveries;
        }
        for (position, event) in events.iter().enumerate() {
            let matching = self.rules.iter().filter(|rule| rule.event_type.matches(event.event_type()));
            for channel in matching.filter_map(|rule| rule.channels.as_ref()).flatten() {
                // Two rules may name the same channel: once is enough. A request may have thousands of events, so
                // only the deliveries of this one are looked at.
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

    /// Tells the couriers that there is something to send.
    pub fn ring(&self) {
        self.outlets.iter().for_each(|outlet| outlet.news.notify_one());
    }

    /// Sends a sample to each channel, and says what became of it.
    pub async fn test(&self, event_type: &str, event_payload: &str) -> Vec<(Channel, Result<(), Failure>)> {
        let received_at = Timestamp::now();
        let event = StoredEvent {
            id: 0,
            received_at,
            event_type: event_type.to_owned(),
            event_payload: event_payload.to_owned(),
        };
        let mut results = Vec::new();
        for outlet in &self.outlets {
            let message = Message {
                id: 0,
                channel: Arc::clone(outlet.channel.name()),
                claimant: String::new(),
                claimed_at: received_at,
                event_ids: vec![0],
                created_at: vec![received_at],
                events: vec![event.clone()],
                attempts: 1,
                is_probe: false,
            };
            results.push((outlet.channel.clone(), outlet.send(self, &message).await));
        }
        results
    }

    /// The template that the first rule names which brings such an event to the channel.
    fn template_of(&self, event: &StoredEvent, channel: &Channel) -> Option<&str> {
        let brings = |rule: &&Rule| {
            let channels = rule.channels.as_ref();
            rule.event_type.matches(&event.event_type)
                && channels.is_some_and(|channels| channels.contains(channel))
        };
        self.rules.iter().find(brings)?.template.as_deref()
    }
}

/// What sends mail, where a channel is a mailbox.
fn mailer_for(channels: &[Channel], settings: &AlertSettings) -> anyhow::Result<Option<Mailer>> {
    let mailbox = channels.iter().find(|channel| matches!(channel.target, Target::Mail(_)));
    let Some(mailbox) = mailbox else {
        if settings.mail.host.is_some() {
            warn!(
                "there is a mail server, and nobody receives mail: set HEALTH_ALERT_RECEIVER to an address"
            );
        }
        return Ok(None);
    };
    let mailer = Mailer::new(&settings.mail, settings.authorities.as_deref())?;
    let hint = "set SMTP_HOST, or give --smtp-host HOST";
    let no_server = || hinted(format!("`{mailbox}` has no mail server"), hint);
    mailer.map(Some).ok_or_else(no_server)
}

impl Outlet {
    async fn send(&self, alerts: &Alerts, message: &Message) -> Result<(), Failure> {
        let Some(first) = message.events.first() else {
            return Err(Failure::Permanent { reason: "the event is gone".to_owned() });
        };
        let template = alerts.template_of(first, &self.channel);
        match (&self.channel.target, &alerts.mailer) {
            (Target::Mail(to), Some(mailer)) => mailer.send(to, message, template, &alerts.templates).await,
            (Target::Mail(_), None) => Err(Failure::Permanent { reason: "no mail server".to_owned() }),
            (target, _) => alerts.poster.send(target, message, template, &alerts.templates).await,
        }
    }
}

/// What a receiver can tell a message by that it has had before: events of another store have other times.
fn identity_of(message: &Message) -> String {
    let received_at = message.events.first().map_or(0, |event| event.received_at.as_microseconds());
    match message.event_ids.as_slice() {
        [first, .., last] => format!("events-{first}-{last}-{received_at:x}"),
        _ => format!("event-{}-{received_at:x}", message.id),
    }
}

/// SHA-256 of type and payload, in hex: no type holds U+0000, which so keeps the two apart.
fn digest_of(event: &Event) -> String {
    let digest = Sha256::new()
        .chain_update(event.event_type())
        .chain_update([0])
        .chain_update(event.event_payload())
        .finalize();
    hex(&digest)
}
