//! From the source to the sender: an event at every tick of the schedule.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::attempt::Report;
use super::clock::Clock;
use super::dispatch::Dispatch;
use super::feed::{Feed, Next};
use super::metrics::Metrics;
use super::sender::Sender;
use super::settings::{Arrivals, Settings};
use crate::core::rate::RateProfile;
use crate::core::schedule::{RecordedSchedule, Schedule, Tick};
use crate::core::ticks::{RandomTicks, Ticks};

/// Bounds how many events are in flight. Clones share the slots.
#[derive(Clone)]
pub struct Slots {
    free: Arc<Semaphore>,
    total: usize,
}

impl Slots {
    fn new(total: usize) -> Slots {
        Slots { free: Arc::new(Semaphore::new(total)), total }
    }

    pub fn in_flight(&self) -> usize {
        self.total - self.free.available_permits()
    }

    fn try_acquire(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_owned().ok()
    }

    async fn acquire(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.free).acquire_owned().await.expect("the semaphore is never closed")
    }
}

pub struct Scheduler {
    feed: Feed,
    /// An event that was taken from the feed and waits for its tick.
    pending: Option<Dispatch>,
    /// When the schedule begins, if not at once.
    start_at: Option<Instant>,
    /// How many more events to send.
    remaining: u64,
    schedule: Schedule,
    /// In place of the schedule, where events are sent as they were recorded.
    recorded: Option<RecordedSchedule>,
    clock: Clock,
    slots: Slots,
    missed_ticks: u64,
    metrics: Metrics,
    sender: Arc<Sender>,
    deliveries: JoinSet<()>,
    reports: mpsc::Sender<Report>,
}

impl Scheduler {
    /// Sends at most `count` events.
    pub fn new(
        settings: &Settings,
        feed: Feed,
        count: Option<u64>,
        sender: Sender,
        reports: mpsc::Sender<Report>,
        metrics: Metrics,
    ) -> anyhow::Result<Scheduler> {
        Ok(Scheduler {
            feed,
            pending: None,
            start_at: settings.start_at,
            remaining: count.unwrap_or(u64::MAX),
            schedule: Schedule::new(Instant::now(), ticks_of(settings), settings.max_lateness),
            recorded: settings.recorded_speed.map(|speed| RecordedSchedule::new(Instant::now(), speed)),
            clock: Clock::start()?,
            slots: Slots::new(settings.max_in_flight),
            missed_ticks: 0,
            metrics,
            sender: Arc::new(sender),
            deliveries: JoinSet::new(),
            reports,
        })
    }

    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Sends an event at every tick, until there are no more. The first tick is due now.
    ///
    /// A tick that comes while all slots are taken is missed; the event waits for the next one. Of a recorded schedule no
    /// tick is missed. No tick is missed by waiting for standard input. Cancelling loses nothing: see [`Scheduler::finish`].
    ///
    /// # Errors
    /// The journal cannot be written.
    pub async fn send_events(&mut self) -> anyhow::Result<()> {
        // The first line of standard input may be long in coming: the schedule starts with it.
        if self.remaining > 0 && self.take_event().await? {
            let now = self.start_at.map_or_else(Instant::now, |start| start.max(Instant::now()));
            self.schedule.restart(now);
            self.recorded.iter_mut().for_each(|recorded| recorded.restart(now));
        }
        while self.remaining > 0 && self.take_event().await? {
            let slot = self.wait_for_slot().await;
            let Some(tick) = self.wait_for_tick().await else { break };
            let Some(dispatch) = self.pending.take() else { continue };
            self.remaining -= 1;
            let sender = Arc::clone(&self.sender);
            self.deliveries.spawn(async move {
                sender.deliver(dispatch, tick.scheduled).await;
                drop(slot);
            });
            while self.deliveries.try_join_next().is_some() {}
        }
        Ok(())
    }

    /// Makes sure that an event is pending; false where there are no more.
    async fn take_event(&mut self) -> anyhow::Result<bool> {
        while self.pending.is_none() {
            // Room for a report first: what is read and cannot be reported would be lost where this is cancelled.
            let report = self.reports.reserve().await;
            match self.feed.next().await? {
                Next::Event { dispatch, waited } => {
                    self.pending = Some(dispatch);
                    if waited {
                        self.schedule.skip(Instant::now());
                    }
                }
                Next::Invalid(problem) => drop(report.map(|report| report.send(Report::Invalid(problem)))),
                Next::End => return Ok(false),
            }
        }
        Ok(true)
    }

    async fn wait_for_slot(&mut self) -> OwnedSemaphorePermit {
        if let Some(slot) = self.slots.try_acquire() {
            return slot;
        }
        let slot = self.slots.acquire().await;
        if self.recorded.is_some() {
            return slot;
        }
        let missed = self.schedule.skip(Instant::now());
        self.count_missed(missed);
        slot
    }

    /// `None` where there are no more ticks.
    async fn wait_for_tick(&mut self) -> Option<Tick> {
        if let Some(recorded) = &mut self.recorded {
            let recorded_at = self.pending.as_ref().and_then(|pending| pending.event.envelope.received_at);
            let scheduled = recorded.due(recorded_at);
            self.clock.sleep_until(scheduled).await;
            return Some(Tick { scheduled, missed: 0 });
        }
        loop {
            self.clock.sleep_until(self.schedule.next_due()?).await;
            if let Some(tick) = self.schedule.take(Instant::now()) {
                self.count_missed(tick.missed);
                return Some(tick);
            }
        }
    }

    fn count_missed(&mut self, ticks: u64) {
        self.missed_ticks += ticks;
        self.metrics.add_missed_ticks(ticks);
    }

    /// Waits for the events in flight; returns how many ticks were missed.
    ///
    /// What was read from standard input and not sent is reported as undelivered.
    pub async fn finish(mut self) -> u64 {
        for unsent in self.feed.unsent(self.pending.take()).await {
            let _ = self.reports.send(unsent.map_or_else(Report::Invalid, Report::Abandoned)).await;
        }
        while self.deliveries.join_next().await.is_some() {}
        self.missed_ticks
    }
}

fn ticks_of(settings: &Settings) -> Ticks {
    match (&settings.rate, settings.arrivals) {
        (None, Arrivals::Constant) => Ticks::Every(settings.period),
        (Some(rate), Arrivals::Constant) => Ticks::At(rate.clone()),
        (rate, Arrivals::Poisson) => {
            let rate = rate.clone().unwrap_or_else(|| RateProfile::every(settings.period));
            let random = settings.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
            Ticks::Random(RandomTicks::new(rate, random))
        }
    }
}
