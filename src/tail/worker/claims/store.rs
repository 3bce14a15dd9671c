//! Claims in a store, without a `consume`.

use std::time::Duration;

use anyhow::Context;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::claimed::{Claimed, ClaimedEvent, Settled};
use super::error::ClaimError;
use crate::core::timestamp::Timestamp;
use crate::store::subscriptions::{
    Answer, Definition, Refusal, Request, Start, Subscription, Token, may_have_work,
};
use crate::store::{Store, StoreLimits, StoreLocation, StoreOptions, Writer};
use crate::tail::settings::Settings;

/// How often a store is read for new events.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The memory of what waits for the writer: our own few requests.
const LIMITS: StoreLimits = StoreLimits { queue_events: 1, queue_bytes: 1 << 20 };

pub struct StoreClaims {
    name: String,
    store: Store,
    writer: Writer,
}

impl StoreClaims {
    pub async fn open(location: &StoreLocation, name: &str) -> anyhow::Result<StoreClaims> {
        let location = location.clone();
        let opening =
            spawn_blocking(move || Store::open_existing(&location, LIMITS, StoreOptions::default()));
        let (store, writer) = opening.await.context("opening the store has panicked")??;
        Ok(StoreClaims { name: name.to_owned(), store, writer })
    }

    pub async fn close(self) {
        self.writer.close().await;
    }

    /// Makes the subscription unless there is one; whether it is new.
    pub async fn make(&self, settings: &Settings) -> Result<bool, ClaimError> {
        let name = self.name.clone();
        let known =
            self.store.read(move |reader| reader.run(|statements| Subscription::read(statements, &name)));
        if known.await?.is_some() {
            return Ok(false);
        }
        let definition = Definition { event_type: settings.event_type.clone(), ..Definition::default() };
        let start = match (settings.after, &settings.since) {
            (Some(id), _) => Start::Id(id + 1),
            (None, Some(since)) => Start::Time(since.timestamp),
            (None, None) => Start::Beginning,
        };
        let answer = self.ask(Request::Define { definition, start }).await?;
        Ok(matches!(answer, Answer::Defined { is_new: true }))
    }

    pub async fn claim(&self, limit: usize, wait: Duration) -> Result<Option<Claimed>, ClaimError> {
        let deadline = Instant::now() + wait;
        loop {
            let (name, now) = (self.name.clone(), Timestamp::now());
            let read =
                self.store.read(move |reader| reader.run(|statements| may_have_work(statements, &name, now)));
            if read.await?
                && let Answer::Claimed(Some(claim)) = self.ask(Request::Claim { limit }).await?
            {
                let events = claim.events.into_iter();
                let events =
                    events.map(|claimed| ClaimedEvent { event: claimed.event, attempts: claimed.attempts });
                let lease = claim.until.since(Timestamp::now());
                return Ok(Some(Claimed { token: claim.token.to_string(), lease, events: events.collect() }));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    pub async fn settle(
        &self,
        claimed: &Claimed,
        request: impl FnOnce(Token) -> Request,
    ) -> Result<Settled, ClaimError> {
        let Ok(token) = claimed.token.parse() else { return Ok(Settled::Over) };
        match self.ask(request(token)).await? {
            Answer::Refused(Refusal::Stale) => Ok(Settled::Over),
            _ => Ok(Settled::Done),
        }
    }

    async fn ask(&self, request: Request) -> Result<Answer, ClaimError> {
        match self.store.subscription(self.name.clone(), request).await? {
            Answer::NoSubscription => Err(ClaimError::has_ended(&self.name)),
            answer => Ok(answer),
        }
    }
}
