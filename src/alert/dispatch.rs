//! The dispatcher: one worker task for each channel, which sends the channel's messages from the outbox one by one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};
use uuid::Uuid;

use super::alerts::Alerts;
use super::channel::{Channel, kind_of};
use super::delivery::AttemptLabels;
use crate::client::DeliveryError;
use crate::core::backoff::Backoff;
use crate::core::timestamp::Timestamp;
use crate::store::Store;
use crate::store::outbox::{self, Claim, Claimed, Message, Settlement};

/// How long one attempt may take in all.
const ATTEMPT_TIME: Duration = Duration::from_secs(20);

/// When another process may take a claimed message over: an attempt, and time for a slow store.
const LEASE: Duration = Duration::from_secs(30);

/// How often to poll for deliveries that other processes have stored or abandoned.
const POLL_PAUSE: Duration = Duration::from_secs(5);

/// How long to wait when the store does not answer.
const STORE_PAUSE: Duration = Duration::from_millis(250);

/// Waits between the attempts of a message.
const RETRIES: Backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(3600));

/// Owns the workers.
pub struct Dispatcher {
    workers: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Dispatcher {
    /// Starts a worker for each channel.
    pub fn start(alerts: &Arc<Alerts>, store: &Store) -> Dispatcher {
        let stop = watch::Sender::new(false);
        let claimant = Uuid::now_v7().to_string();
        let mut workers = JoinSet::new();
        for channel in alerts.channels() {
            let worker = ChannelWorker {
                alerts: Arc::clone(alerts),
                channel: channel.clone(),
                store: store.clone(),
                claimant: claimant.clone(),
                outbox_changes: alerts.outbox_changes.subscribe(),
                stop: stop.subscribe(),
                failing: false,
            };
            workers.spawn(worker.run());
        }
        Dispatcher { workers, stop }
    }

    /// Lets each worker finish its current message.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.workers.join_next().await.is_some() {}
    }
}

struct ChannelWorker {
    alerts: Arc<Alerts>,
    channel: Channel,
    store: Store,
    claimant: String,
    outbox_changes: watch::Receiver<()>,
    stop: watch::Receiver<bool>,
    /// Whether the last message failed: the first failure in a row is logged, not each retry.
    failing: bool,
}

impl ChannelWorker {
    async fn run(mut self) {
        while !*self.stop.borrow() {
            match self.claim().await {
                Some(Claimed::Message(message)) => self.deliver(message).await,
                Some(Claimed::Nothing { until }) => {
                    let left = until.map(|until| until.since(Timestamp::now()));
                    self.rest(left.unwrap_or(POLL_PAUSE).min(POLL_PAUSE)).await;
                }
                // The store's writer has logged why.
                None => self.rest(STORE_PAUSE).await,
            }
        }
    }

    async fn claim(&self) -> Option<Claimed> {
        let channel = Arc::clone(self.channel.name());
        let (claimant, rate) = (self.claimant.clone(), self.alerts.rate);
        let pace = self.channel.target.pace();
        let claimed = self.store.write(move |backend| {
            // The lease begins when the writer gets there, however long it was busy.
            let now = Timestamp::now();
            outbox::claim(backend, &Claim { channel, claimant, now, lease: LEASE, rate, pace })
        });
        claimed.await.ok()
    }

    async fn deliver(&mut self, message: Message) {
        let claimed = Instant::now();
        let sending = timeout(ATTEMPT_TIME, self.alerts.send(&self.channel, &message));
        let too_long = || DeliveryError::transient("it took too long".to_owned());
        let sent = sending.await.unwrap_or_else(|_| Err(too_long()));
        let settlement = self.settlement_of(&message, sent);
        self.log(&message, &settlement);
        self.count(&message, &settlement);
        // A settlement that is lost would send the message again. The store ignores one that comes after another
        // process has claimed the message.
        loop {
            let (message, settlement) = (message.clone(), settlement.clone());
            let settled = self
                .store
                .write(move |backend| outbox::settle(backend, &message, &settlement, Timestamp::now()));
            if settled.await.is_ok() || claimed.elapsed() > LEASE {
                return;
            }
            sleep(STORE_PAUSE).await;
        }
    }

    /// Each alert of a digest is given up by its own age: a new one is retried, however old the others are.
    fn settlement_of(&self, message: &Message, sent: Result<(), DeliveryError>) -> Settlement {
        let (reason, retry_after, closes) = match sent {
            Ok(()) => return Settlement::Sent,
            Err(DeliveryError::Permanent(reason) | DeliveryError::Misdirected(reason)) => {
                return Settlement::Dead { reason };
            }
            Err(DeliveryError::Transient { reason, retry_after, pauses_channel }) => {
                (reason, retry_after, pauses_channel)
            }
        };
        let wait = RETRIES.wait(message.attempts, &mut fastrand::Rng::new()).max(retry_after);
        let at = Timestamp::now().after(wait);
        let give_up_before = at.before(self.alerts.give_up_after);
        Settlement::Retry { at, reason, give_up_before, closes }
    }

    fn count(&self, message: &Message, settlement: &Settlement) {
        let dead = dead_of(message, settlement).len();
        let others = message.event_ids.len() - dead;
        let outcome = if *settlement == Settlement::Sent { "sent" } else { "retry" };
        for (outcome, count) in [("dead", dead), (outcome, others)] {
            if count > 0 {
                let labels = AttemptLabels { channel: kind_of(&message.channel), outcome };
                self.alerts.metrics.attempts.get_or_create(&labels).inc_by(count as u64);
            }
        }
    }

    fn log(&mut self, message: &Message, settlement: &Settlement) {
        let channel = &self.channel;
        let dead = dead_of(message, settlement);
        let is_retried = dead.len() < message.event_ids.len();
        match settlement {
            Settlement::Sent if self.failing => info!(%channel, "alerts reach {channel} again"),
            Settlement::Retry { reason, .. } if !self.failing && is_retried => {
                warn!(%channel, "cannot deliver alerts to {channel}, retrying: {reason}");
            }
            Settlement::Sent | Settlement::Retry { .. } | Settlement::Dead { .. } => {}
        }
        if let (Settlement::Retry { reason, .. } | Settlement::Dead { reason }, [first, others @ ..]) =
            (settlement, &dead[..])
        {
            let others =
                if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
            error!(%channel, "alert {first}{others} to {channel} is given up: {reason}");
        }
        self.failing = matches!(settlement, Settlement::Retry { .. }) && is_retried;
    }

    /// Waits until there may be something to send, at most for `pause`.
    async fn rest(&mut self, pause: Duration) {
        tokio::select! {
            () = sleep(pause) => {}
            _ = self.outbox_changes.changed() => {}
            _ = self.stop.changed() => {}
        }
    }
}

/// The ids of the events whose alerts are given up.
fn dead_of(message: &Message, settlement: &Settlement) -> Vec<i64> {
    let created_before = match settlement {
        Settlement::Sent => return Vec::new(),
        Settlement::Dead { .. } => return message.event_ids.clone(),
        Settlement::Retry { give_up_before, .. } => give_up_before,
    };
    let ids = message.event_ids.iter().zip(&message.created_at);
    ids.filter(|(_, created_at)| *created_at < created_before).map(|(id, _)| *id).collect()
}
