//! When the n-th send is due.

use std::time::{Duration, Instant};

/// Ticks at `start` + n × `period` on the monotonic clock, for n from 0.
///
/// A tick that is a whole period late is missed: it is counted and skipped, so that lateness never
/// accumulates and no burst catches up after a pause.
#[derive(Debug)]
pub struct Schedule {
    start: Instant,
    period: Duration,
    next: u64,
}

/// One tick that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// When the tick was to happen.
    pub scheduled: Instant,
    /// How many ticks before it were skipped since the last one that was taken.
    pub missed: u64,
}

impl Schedule {
    /// A schedule whose first tick is due at `start`. The period is above zero.
    pub fn new(start: Instant, period: Duration) -> Schedule {
        Schedule { start, period, next: 0 }
    }

    /// When the next tick is due.
    pub fn next_due(&self) -> Instant {
        self.start + self.offset(self.next)
    }

    /// Takes the newest tick that is due at `now`, skipping those that a later one has overtaken.
    pub fn take(&mut self, now: Instant) -> Option<Tick> {
        let elapsed = now.checked_duration_since(self.start)?;
        let newest = elapsed.as_nanos() / self.period.as_nanos();
        let newest = u64::try_from(newest).unwrap_or(u64::MAX - 1);
        let missed = newest.checked_sub(self.next)?;
        self.next = newest + 1;
        Some(Tick { scheduled: self.start + self.offset(newest), missed })
    }

    /// Skips the ticks that are due at `now`; how many they are.
    pub fn skip(&mut self, now: Instant) -> u64 {
        self.take(now).map_or(0, |tick| tick.missed + 1)
    }

    /// n × period, exact to the nanosecond for 584 years.
    fn offset(&self, tick: u64) -> Duration {
        let nanoseconds = self.period.as_nanos().saturating_mul(u128::from(tick));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(10);

    #[test]
    fn lateness_never_accumulates() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, PERIOD);
        for n in 0..100_000u32 {
            let late = Duration::from_micros(u64::from(n) * 37 % 9_999);
            let tick = schedule.take(schedule.next_due() + late).unwrap();
            assert_eq!(tick, Tick { scheduled: start + PERIOD * n, missed: 0 });
        }
    }

    #[test]
    fn ticks_missed_in_a_pause_are_counted_and_skipped() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, PERIOD);
        assert_eq!(schedule.take(start).map(|tick| tick.missed), Some(0));
        let after_pause = start + PERIOD * 100 + Duration::from_millis(3);
        let tick = schedule.take(after_pause).unwrap();
        assert_eq!(tick, Tick { scheduled: start + PERIOD * 100, missed: 99 });
        assert_eq!(schedule.take(after_pause), None, "no burst catches up");
        assert_eq!(schedule.next_due(), start + PERIOD * 101);
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        let start = Instant::now() + Duration::from_secs(1);
        let mut schedule = Schedule::new(start, PERIOD);
        assert_eq!(schedule.take(start - Duration::from_nanos(1)), None);
        assert!(schedule.take(start).is_some());
        assert_eq!(schedule.take(start + PERIOD - Duration::from_nanos(1)), None);
    }
}
