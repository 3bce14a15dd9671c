//! Retention: deletes what the settings name, in steps with pauses in which the writer serves others.

use std::convert::Infallible;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::core::byte_size::ByteSize;
use crate::core::duration::in_units;
use crate::core::timestamp::Timestamp;
use crate::core::wall_clock::{ClockChange, HOLD, Reading, WallClock};
use crate::store::retention::{Deleted, Passed, Recount, RetentionLimits, delete_expired, last_known_time};
use crate::store::subscriptions::{has_expired, remove_expired};
use crate::store::{AppendError, Store};

/// The pause between two sweeps: as long as the last sweep took, within these bounds.
const SWEEP_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_SWEEP_PAUSE: Duration = Duration::from_secs(60);

/// After each step, retention pauses for this many times as long as the step took, so that writers get most of the time.
const PAUSE_FACTOR: u32 = 3;

const STEP_PAUSE: Duration = Duration::from_millis(5);

/// How often all events are recounted, because another program may have deleted some.
const RECOUNT_INTERVAL: Duration = Duration::from_secs(86_400);

/// How long the service may have been stopped or without events before a jump of the clock is suspected: as long as
/// events are kept, within these bounds.
const SHORTEST_SUSPECT_PAUSE: Duration = Duration::from_secs(2 * 3600);
const LONGEST_SUSPECT_PAUSE: Duration = Duration::from_secs(86_400);

/// What is kept: everything where nothing is set.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// The maximum age of events.
    pub keep: Option<Duration>,
    /// The maximum number of events.
    pub events: Option<usize>,
    /// The maximum size of all types and payloads.
    pub bytes: Option<ByteSize>,
    /// The minimum age at which idempotency keys of deleted events are deleted.
    pub keys: Option<Duration>,
}

impl Retention {
    /// Whether anything is ever deleted.
    pub fn deletes(&self) -> bool {
        self.keep.is_some() || self.events.is_some() || self.bytes.is_some()
    }

    /// Logs the limits, if there are any.
    pub fn announce(&self) {
        if !self.deletes() {
            return;
        }
        let limits = [
            self.keep.map(|keep| format!("for {} (--keep)", in_units(keep))),
            self.events.map(|events| format!("the newest {events} (--keep-events)")),
            self.bytes.map(|bytes| format!("the newest {bytes} (--keep-bytes)")),
        ];
        let events = limits.into_iter().flatten().collect::<Vec<_>>().join(", and of these ");
        let keys = self
            .keys
            .map_or_else(String::new, |keys| format!(", and at least for {} (--keep-keys)", in_units(keys)));
        info!("retention: events are kept {events}; their idempotency keys as long as they are{keys}");
    }

    pub async fn run(self, store: Store) -> Infallible {
        if !self.deletes() {
            return std::future::pending().await;
        }
        let mut clock = None;
        let mut recounts_at = Instant::now();
        loop {
            let begun = Instant::now();
            let recounts = begun >= recounts_at;
            // The store itself logs that it does not answer.
            if self.sweep(&store, &mut clock, recounts).await.is_ok() && recounts {
                recounts_at = begun + RECOUNT_INTERVAL;
            }
            sleep(begun.elapsed().clamp(SWEEP_PAUSE, LONGEST_SWEEP_PAUSE)).await;
        }
    }

    /// Checks all events that may have to be deleted.
    async fn sweep(
        &self,
        store: &Store,
        clock: &mut Option<WallClock>,
        recounts: bool,
    ) -> Result<(), AppendError> {
        let mut report = Report { retention: *self, sum: Deleted::default() };
        let mut passed = Passed::default();
        let mut recount = if recounts { Recount::Always } else { Recount::IfSmall };
        loop {
            let begun = Instant::now();
            let is_clock_believed = self.believes(store, clock).await?;
            let limits = self.limits(Timestamp::now(), is_clock_believed, recount);
            recount = Recount::Never;
            let step = store.write_that_makes_room(move |backend| delete_expired(backend, &limits, passed));
            let deleted = step.await?;
            report.add(&deleted);
            passed = deleted.passed;
            if !deleted.more {
                return Ok(());
            }
            sleep((begun.elapsed() * PAUSE_FACTOR).max(STEP_PAUSE)).await;
        }
    }

    fn limits(&self, now: Timestamp, is_clock_believed: bool, recount: Recount) -> RetentionLimits {
        RetentionLimits {
            now,
            is_clock_believed,
            received_before: self.keep.map(|keep| now.before(keep)),
            events: self.events.map(as_number),
            bytes: self.bytes.map(|bytes| as_number(bytes.0)),
            keys_before: self.keys.map(|keys| now.before(keys)),
            recount,
        }
    }

    /// Whether the clock may be believed; not asked where nothing is deleted by age.
    async fn believes(&self, store: &Store, clock: &mut Option<WallClock>) -> Result<bool, AppendError> {
        if self.keep.is_none() && self.keys.is_none() {
            return Ok(false);
        }
        if let Some(clock) = clock {
            match clock.observe(read_clocks()) {
                Some(ClockChange::Stepped(step)) => warn!(
                    "the wall clock has jumped {} by {}: nothing is deleted by age until it has held for {}",
                    if step < 0 { "back" } else { "forward" },
                    in_units(Duration::from_secs((step.unsigned_abs() + 500_000) / 1_000_000)),
                    in_units(HOLD)
                ),
                Some(ClockChange::Trusted) => {
                    info!("the wall clock has held for {}: events are deleted by age again", in_units(HOLD));
                }
                None => {}
            }
            return Ok(clock.is_trusted());
        }
        let last_known = store.write_that_makes_room(last_known_time).await?;
        let longest_pause =
            self.keep.unwrap_or_default().clamp(SHORTEST_SUSPECT_PAUSE, LONGEST_SUSPECT_PAUSE);
        let (started, change) = WallClock::new(read_clocks(), last_known, longest_pause);
        if let Some(ClockChange::Stepped(pause)) = change {
            warn!(
                "the wall clock is {} {} what the store knows to be the last time: nothing is deleted by age until it \
                    has held for {}",
                in_units(Duration::from_micros(pause.unsigned_abs())),
                if pause < 0 { "behind" } else { "ahead of" },
                in_units(HOLD)
            );
        }
        Ok(clock.insert(started).is_trusted())
    }
}

/// Ends subscriptions that nobody claims from any more, as long as the clock is believed.
pub async fn expire_subscriptions(store: Store) -> Infallible {
    let mut clock: Option<WallClock> = None;
    loop {
        sleep(SWEEP_PAUSE).await;
        // The store itself logs that it does not answer.
        if let Ok(names) = expired_subscriptions(&store, &mut clock).await {
            for name in names {
                warn!(
                    "the subscription `{name}` has ended: nobody has claimed from it for as long as it expires"
                );
            }
        }
    }
}

async fn expired_subscriptions(
    store: &Store,
    clock: &mut Option<WallClock>,
) -> Result<Vec<String>, AppendError> {
    let is_believed = match clock {
        Some(clock) => {
            clock.observe(read_clocks());
            clock.is_trusted()
        }
        None => {
            let last_known = store.write_that_makes_room(last_known_time).await?;
            let (started, _) = WallClock::new(read_clocks(), last_known, LONGEST_SUSPECT_PAUSE);
            clock.insert(started).is_trusted()
        }
    };
    let now = Timestamp::now();
    let read = store.read(move |reader| reader.run(|statements| has_expired(statements, now)));
    if !is_believed || !read.await.unwrap_or(false) {
        return Ok(Vec::new());
    }
    store
        .write_that_makes_room(move |backend| backend.run(|statements| remove_expired(statements, now)))
        .await
}

fn as_number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn read_clocks() -> Reading {
    let steady = clock_gettime(ClockId::Boottime);
    let seconds = Duration::from_secs(u64::try_from(steady.tv_sec).unwrap_or_default());
    let nanoseconds = Duration::from_nanos(u64::try_from(steady.tv_nsec).unwrap_or_default());
    Reading { wall: Timestamp::now(), steady: seconds + nanoseconds }
}

/// What a sweep has deleted. It is logged on drop, because a sweep may be cancelled at the end of the process.
struct Report {
    retention: Retention,
    sum: Deleted,
}

impl Report {
    fn add(&mut self, deleted: &Deleted) {
        self.sum.by_age += deleted.by_age;
        self.sum.by_count += deleted.by_count;
        self.sum.by_bytes += deleted.by_bytes;
        self.sum.keys += deleted.keys;
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let Deleted { by_age, by_count, by_bytes, keys, .. } = self.sum;
        let Retention { keep, events, bytes, .. } = self.retention;
        let reasons = [
            keep.map(|keep| (by_age, format!("by age (--keep {})", in_units(keep)))),
            events.map(|events| (by_count, format!("by count (--keep-events {events})"))),
            bytes.map(|bytes| (by_bytes, format!("by bytes (--keep-bytes {bytes})"))),
        ];
        let reasons: Vec<String> = reasons
            .into_iter()
            .flatten()
            .filter(|(count, _)| *count > 0)
            .map(|(count, reason)| format!("{count} {reason}"))
            .collect();
        let count = by_age + by_count + by_bytes;
        if count > 0 {
            info!("retention: deleted {count} events: {}; idempotency keys: {keys}", reasons.join(", "));
        } else if keys > 0 {
            info!("retention: deleted {keys} idempotency keys of events that were deleted before");
        }
    }
}
