//! `tail --subscription`: works events off, with a command for each, and acknowledges what succeeded.
//!
//! Each of `parallel` lanes claims events, runs a command, and says what became of them, before it claims the next: a
//! process that is asked to stop finishes its commands and holds nothing else.

mod claims;
mod command;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep};
use tracing::{debug, info, warn};

use self::claims::{ClaimError, Claimed, Claims};
use self::command::{Outcome, run_command};
use super::settings::{Settings, WorkSettings};
use crate::core::backoff::Backoff;
use crate::shutdown::Shutdown;
use crate::store::subscriptions::Attempt;

/// Waits between two tries to reach the store or the service.
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

/// How long a claim waits for events at once; a process that is asked to stop waits no longer.
const CLAIM_WAIT: Duration = Duration::from_secs(1);

/// How long an event waits whose command asks for another try.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// How often a process that is asked to stop tries to say what became of its events.
const LAST_TRIES: u32 = 5;

/// The part of a lease after which it is prolonged.
const LEASE_SHARE: u32 = 3;

/// Works until there is nothing left, or for ever with `--follow`. Returns whether all commands succeeded.
///
/// # Errors
/// The subscription cannot be used.
pub fn run(settings: &Settings, work: &WorkSettings) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let worked = runtime.block_on(work_off(settings, work));
    runtime.shutdown_timeout(Duration::from_secs(1));
    worked
}

async fn work_off(settings: &Settings, work: &WorkSettings) -> anyhow::Result<bool> {
    let mut shutdown = Shutdown::listen()?;
    let claims = Arc::new(Claims::open(settings, &work.subscription).await?);
    let (stop, stopping) = watch::channel(false);
    let mut lanes = JoinSet::new();
    let has_failed = Arc::new(AtomicBool::new(false));
    for _ in 0..work.parallel {
        let lane = Lane {
            claims: Arc::clone(&claims),
            command: work.command.clone(),
            at_once: work.claim,
            follow: settings.follow,
            stopping: stopping.clone(),
            has_failed: Arc::clone(&has_failed),
        };
        lanes.spawn(lane.run());
    }
    let mut result = Ok(());
    loop {
        tokio::select! {
            ended = lanes.join_next() => match ended {
                None => break,
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => {
                    result = Err(error);
                    stop.send_replace(true);
                }
                Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
            },
            _ = shutdown.requested(), if !*stop.borrow() => {
                info!("stopping: commands that run are finished first");
                stop.send_replace(true);
            }
        }
    }
    drop(lanes);
    if let Some(claims) = Arc::into_inner(claims) {
        claims.close().await;
    }
    result.map(|()| !has_failed.load(Ordering::Relaxed))
}

/// Works on one claim after the other.
struct Lane {
    claims: Arc<Claims>,
    command: String,
    /// How many events a command gets; one by its payload alone where there is no number.
    at_once: Option<usize>,
    follow: bool,
    stopping: watch::Receiver<bool>,
    has_failed: Arc<AtomicBool>,
}

impl Lane {
    async fn run(mut self) -> anyhow::Result<()> {
        let mut failures = 0;
        while !self.is_stopping() {
            let wait = if self.follow { CLAIM_WAIT } else { Duration::ZERO };
            match self.claims.claim(self.at_once.unwrap_or(1), wait).await {
                Ok(None) if !self.follow => return Ok(()),
                Ok(None) => failures = 0,
                Ok(Some(claimed)) => {
                    failures = 0;
                    self.work_on(claimed).await?;
                }
                Err(ClaimError::Lasting(error)) => return Err(error),
                Err(ClaimError::Passing(reason)) => {
                    if failures == 0 {
                        warn!("waiting for `{}`: {reason}", self.claims);
                    }
                    failures += 1;
                    self.pause(RETRY.wait(failures, &mut fastrand::Rng::new())).await;
                }
            }
        }
        Ok(())
    }

    fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    async fn pause(&mut self, time: Duration) {
        tokio::select! {
            () = sleep(time) => {}
            // No error: the other end outlives the lanes.
            _ = self.stopping.wait_for(|stopping| *stopping) => {}
        }
    }

    async fn work_on(&mut self, claimed: Claimed) -> anyhow::Result<()> {
        if self.is_stopping() {
            return self.settle(&claimed, &Outcome::NotRun).await;
        }
        let outcome = {
            let command = run_command(&self.command, &claimed.events, self.at_once.is_some());
            tokio::pin!(command);
            let period = (claimed.lease / LEASE_SHARE).max(Duration::from_millis(50));
            let mut prolong = interval_at(Instant::now() + period, period);
            loop {
                tokio::select! {
                    outcome = &mut command => break outcome,
                    _ = prolong.tick() => match self.claims.extend(&claimed).await {
                        Ok(()) => {}
                        Err(error) => debug!("the lease is not prolonged: {error}"),
                    },
                }
            }
        };
        if let Outcome::Failed(reason) = &outcome {
            self.has_failed.store(true, Ordering::Relaxed);
            let ids: Vec<String> = claimed.events.iter().map(|event| event.event.id.to_string()).collect();
            warn!(event = ids.join(","), "the command has failed: {reason}");
        }
        self.settle(&claimed, &outcome).await
    }

    /// Says what became of the events, again and again until it is heard.
    async fn settle(&mut self, claimed: &Claimed, outcome: &Outcome) -> anyhow::Result<()> {
        let mut failures = 0;
        loop {
            let settled = match outcome {
                Outcome::Done => self.claims.acknowledge(claimed).await,
                Outcome::NotRun => self.claims.reject(claimed, None, Duration::ZERO, Attempt::None).await,
                Outcome::Again => {
                    let reason = "the command asked for another try".to_owned();
                    self.claims.reject(claimed, Some(reason), RETRY_DELAY, Attempt::None).await
                }
                Outcome::Failed(reason) => {
                    self.claims.reject(claimed, Some(reason.clone()), RETRY_DELAY, Attempt::Failed).await
                }
            };
            let reason = match settled {
                Ok(()) => return Ok(()),
                Err(ClaimError::Lasting(error)) => return Err(error),
                Err(ClaimError::Passing(reason)) => reason,
            };
            failures += 1;
            if failures == 1 {
                warn!("waiting for `{}`: {reason}", self.claims);
            }
            if self.is_stopping() && failures >= LAST_TRIES {
                anyhow::bail!("cannot say what became of {} events: {reason}", claimed.events.len());
            }
            sleep(RETRY.wait(failures, &mut fastrand::Rng::new())).await;
        }
    }
}
