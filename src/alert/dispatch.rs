//! The dispatcher: a task a channel, which sends what the outbox has for it, one message at a time.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};
use uuid::Uuid;

use super::channel::kind_of;
use super::{Alerts, Failure, Outlet};
use crate::core::backoff::Backoff;
use crate::core::timestamp::Timestamp;
use crate::store::Store;
use crate::store::backend::{Claim, Claimed, Message, Settlement};

/// How long a message may take in all.
const ATTEMPT_TIME: Duration = Duration::from_secs(20);

/// After what time another process takes over what one has claimed: an attempt and a store that hesitates.
const LEASE: Duration = Duration::from_secs(30);

/// How often to look for what other processes have stored, or left behind.
const POLL_PAUSE: Duration = Duration::from_secs(5);

/// How long to wait for a store that does not answer.
const STORE_PAUSE: Duration = Duration::from_millis(250);

/// Waits between attempts at a message.
const RETRIES: Backoff = Backoff { base: Duration::from_secs(2), cap: Duration::from_secs(3600) };

/// What couriers count. A clone shares the figures.
#[derive(Debug, Clone, Default)]
pub struct DeliveryMetrics {
    /// Attempts, by kind of channel and outcome.
    pub attempts: Family<AttemptLabels, Counter>,
}

/// What an attempt is counted by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AttemptLabels {
    channel: &'static str,
    outcome: &'static str,
}

/// The tasks that send, for their owner to stop.
pub struct Dispatcher {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Dispatcher {
    /// Starts a task for each channel.
    pub fn start(alerts: &Arc<Alerts>, store: &Store) -> Dispatcher {
        let stop = watch::Sender::new(false);
        let claimant = Uuid::now_v7().to_string();
        let mut tasks = JoinSet::new();
        for outlet in &alerts.outlets {
            let courier = Courier {
                alerts: Arc::clone(alerts),
                outlet: Arc::clone(outlet),
                store: store.clone(),
                claimant: claimant.clone(),
                stop: stop.subscribe(),
                failing: false,
            };
            tasks.spawn(courier.run());
        }
        Dispatcher { tasks, stop }
    }

    /// Lets each task finish the message that it sends, and waits for their ends.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Who serves one channel.
struct Courier {
    alerts: Arc<Alerts>,
    outlet: Arc<Outlet>,
    store: Store,
    claimant: String,
    stop: watch::Receiver<bool>,
    /// Whether the last message failed: it is said once, not with each retry.
    failing: bool,
}

impl Courier {
    async fn run(mut self) {
        while !*self.stop.borrow() {
            match self.claim().await {
                Some(Claimed::Message(message)) => self.deliver(message).await,
                Some(Claimed::Nothing { until }) => {
                    let left = until.map(|until| until.since(Timestamp::now()));
                    self.rest(left.unwrap_or(POLL_PAUSE).min(POLL_PAUSE)).await;
                }
                // The store's own thread has said why.
                None => self.rest(STORE_PAUSE).await,
            }
        }
    }

    async fn claim(&self) -> Option<Claimed> {
        let channel = Arc::clone(self.outlet.channel.name());
        let (claimant, rate) = (self.claimant.clone(), self.alerts.rate);
        let pace = self.outlet.channel.target.pace();
        let claimed = self.store.write(move |backend| {
            // The lease begins when the writer gets there, however long it was busy.
            backend.claim(&Claim { channel, claimant, now: Timestamp::now(), lease: LEASE, rate, pace })
        });
        claimed.await.ok()
    }

    async fn deliver(&mut self, message: Message) {
        let claimed = Instant::now();
        let sending = timeout(ATTEMPT_TIME, self.outlet.send(&self.alerts, &message));
        let sent = sending.await.unwrap_or_else(|_| Err(Failure::transient("it took too long".to_owned())));
        let settlement = self.settlement_of(&message, sent);
        self.tell(&message, &settlement);
        self.count(&message, &settlement);
        // What is not noted would be sent again. However late, nothing of another process is overwritten.
        loop {
            let (message, settlement) = (message.clone(), settlement.clone());
            let settled =
                self.store.write(move |backend| backend.settle(&message, &settlement, Timestamp::now()));
            if settled.await.is_ok() || claimed.elapsed() > LEASE {
                return;
            }
            sleep(STORE_PAUSE).await;
        }
    }

    /// What becomes of a message. Each of its alerts is given up by its own age: one that is new is tried again,
    /// however old those are that it shares a digest with.
    fn settlement_of(&self, message: &Message, sent: Result<(), Failure>) -> Settlement {
        let (reason, retry_after, closes) = match sent {
            Ok(()) => return Settlement::Sent,
            Err(Failure::Permanent { reason }) => return Settlement::Dead { reason },
            Err(Failure::Transient { reason, retry_after, closes }) => (reason, retry_after, closes),
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

    fn tell(&mut self, message: &Message, settlement: &Settlement) {
        let channel = &self.outlet.channel;
        let dead = dead_of(message, settlement);
        let is_tried_again = dead.len() < message.event_ids.len();
        match settlement {
            Settlement::Sent if self.failing => info!(%channel, "alerts reach {channel} again"),
            Settlement::Retry { reason, .. } if !self.failing && is_tried_again => {
                warn!(%channel, "alerts do not reach {channel}, and are tried again: {reason}");
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
        self.failing = matches!(settlement, Settlement::Retry { .. }) && is_tried_again;
    }

    /// Waits until there may be something to send, or for as long.
    async fn rest(&mut self, pause: Duration) {
        tokio::select! {
            () = sleep(pause) => {}
            () = self.outlet.news.notified() => {}
            _ = self.stop.changed() => {}
        }
    }
}

/// The ids of those alerts of a message that are given up.
fn dead_of(message: &Message, settlement: &Settlement) -> Vec<i64> {
    let created_before = match settlement {
        Settlement::Sent => return Vec::new(),
        Settlement::Dead { .. } => return message.event_ids.clone(),
        Settlement::Retry { give_up_before, .. } => give_up_before,
    };
    let ids = message.event_ids.iter().zip(&message.created_at);
    ids.filter(|(_, created_at)| *created_at < created_before).map(|(id, _)| *id).collect()
}
