//! The schedule: when the n-th send is due.

use std::time::{Duration, Instant};

use super::ticks::Ticks;
use super::timestamp::Timestamp;

/// Ticks from a start on, on the monotonic clock.
///
/// A tick that is late by less than `max_lateness` is still taken, and so is the newest tick that is due, however late it
/// is. The others are missed: they are counted and skipped. So lateness never accumulates, and no burst catches up after a
/// pause.
#[derive(Debug)]
pub struct Schedule {
    start: Instant,
    ticks: Ticks,
    max_lateness: Duration,
    next: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    pub scheduled: Instant,
    /// How many ticks were missed between the last one taken and this one.
    pub missed: u64,
}

impl Schedule {
    /// A schedule whose first tick is due at `start`, if not later. A period is above zero.
    pub fn new(start: Instant, ticks: Ticks, max_lateness: Duration) -> Schedule {
        Schedule { start, ticks, max_lateness, next: 0 }
    }

    /// Starts over, with the same ticks.
    pub fn restart(&mut self, start: Instant) {
        self.start = start;
        self.next = 0;
        self.ticks.restart();
    }

    /// When the next tick is due; `None` where there are no more.
    pub fn next_due(&mut self) -> Option<Instant> {
        self.start.checked_add(self.ticks.offset(self.next)?)
    }

    /// Takes the oldest tick that is due at `now` and not missed, if there is one.
    pub fn take(&mut self, now: Instant) -> Option<Tick> {
        let newest = self.newest_due(now)?;
        // The first tick that is not too late.
        let in_time = match now.checked_duration_since(self.start + self.max_lateness) {
            Some(elapsed) => self.ticks.count_until(elapsed),
            None => 0,
        };
        let taken = in_time.max(self.next).min(newest);
        let missed = taken - self.next;
        let scheduled = self.start + self.ticks.offset(taken)?;
        self.go_on_after(taken);
        Some(Tick { scheduled, missed })
    }

    /// Skips all ticks that are due at `now`; returns how many.
    pub fn skip(&mut self, now: Instant) -> u64 {
        let Some(newest) = self.newest_due(now) else { return 0 };
        let skipped = newest + 1 - self.next;
        self.go_on_after(newest);
        skipped
    }

    /// The newest tick that is due, unless it has been taken.
    fn newest_due(&mut self, now: Instant) -> Option<u64> {
        let count = self.ticks.count_until(now.checked_duration_since(self.start)?);
        (count > self.next).then(|| count - 1)
    }

    fn go_on_after(&mut self, tick: u64) {
        self.next = tick + 1;
        self.ticks.drop_before(tick);
    }
}

/// Sends with the gaps between the times at which events were recorded, at a speed. No tick is missed: what comes late is
/// sent late.
#[derive(Debug)]
pub struct RecordedSchedule {
    start: Instant,
    /// 2 is twice as fast.
    speed: f64,
    first: Option<Timestamp>,
    last_due: Instant,
}

impl RecordedSchedule {
    /// The speed is above zero.
    pub fn new(start: Instant, speed: f64) -> RecordedSchedule {
        RecordedSchedule { start, speed, first: None, last_due: start }
    }

    /// Starts over: the first event is due at `start`.
    pub fn restart(&mut self, start: Instant) {
        *self = RecordedSchedule::new(start, self.speed);
    }

    /// When the next event is due, by the time at which it was recorded. One without a time, or with an earlier one than an
    /// event before it, is due with that event.
    pub fn due(&mut self, recorded_at: Option<Timestamp>) -> Instant {
        if let Some(at) = recorded_at {
            let gap = at.since(*self.first.get_or_insert(at));
            let due = Duration::try_from_secs_f64(gap.as_secs_f64() / self.speed).ok();
            let due = due.and_then(|offset| self.start.checked_add(offset)).unwrap_or(self.last_due);
            self.last_due = self.last_due.max(due);
        }
        self.last_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::rate::RateProfile;
    use crate::core::ticks::RandomTicks;

    const PERIOD: Duration = Duration::from_millis(10);

    fn schedule(start: Instant, max_lateness_ms: u64) -> Schedule {
        Schedule::new(start, Ticks::Every(PERIOD), Duration::from_millis(max_lateness_ms))
    }

    /// Which ticks are taken at once, by their number, and how many were missed before each.
    fn taken(schedule: &mut Schedule, now: Instant) -> Vec<(u128, u64)> {
        let start = schedule.start;
        let number = |tick: Tick| ((tick.scheduled - start).as_nanos() / PERIOD.as_nanos(), tick.missed);
        std::iter::from_fn(|| schedule.take(now)).map(number).collect()
    }

    #[test]
    fn ticks_that_are_not_too_late_are_all_taken() {
        let start = Instant::now();
        let mut schedule = schedule(start, 100);
        let now = start + Duration::from_millis(95);
        assert_eq!(taken(&mut schedule, now), (0..=9).map(|tick| (tick, 0)).collect::<Vec<_>>());
        assert_eq!(schedule.next_due(), Some(start + PERIOD * 10));
        // Exactly as late as may be is too late.
        let now = start + PERIOD * 10 + Duration::from_millis(100);
        assert_eq!(taken(&mut schedule, now)[0], (11, 1));
        assert_eq!(schedule.next_due(), Some(start + PERIOD * 21));
    }

    #[test]
    fn after_a_pause_what_is_too_late_is_missed_but_for_the_newest() {
        let start = Instant::now();
        let mut schedule = schedule(start, 25);
        assert_eq!(taken(&mut schedule, start), [(0, 0)]);
        let now = start + PERIOD * 100 + Duration::from_millis(3);
        assert_eq!(taken(&mut schedule, now), [(98, 97), (99, 0), (100, 0)]);
        let mut strict = Schedule::new(start, Ticks::Every(PERIOD), Duration::ZERO);
        assert_eq!(taken(&mut strict, now), [(100, 100)], "the newest, however late");
        let mut slow = Schedule::new(start, Ticks::Every(PERIOD * 1000), PERIOD);
        assert_eq!(
            slow.take(start + PERIOD * 1900).map(|tick| (tick.scheduled, tick.missed)),
            Some((start + PERIOD * 1000, 1))
        );
    }

    #[test]
    fn what_finds_no_room_is_skipped_however_late_it_is() {
        let start = Instant::now();
        let mut schedule = schedule(start, 100);
        assert_eq!(schedule.skip(start + Duration::from_millis(35)), 4);
        assert_eq!(schedule.skip(start + Duration::from_millis(35)), 0);
        assert_eq!(schedule.next_due(), Some(start + PERIOD * 4));
    }

    #[test]
    fn lateness_never_accumulates() {
        let start = Instant::now();
        let mut schedule = schedule(start, 0);
        for n in 0..100_000u32 {
            let late = Duration::from_micros(u64::from(n) * 37 % 9_999);
            let due = schedule.next_due().unwrap();
            let tick = schedule.take(due + late).unwrap();
            assert_eq!(tick, Tick { scheduled: start + PERIOD * n, missed: 0 });
        }
    }

    #[test]
    fn ticks_missed_in_a_pause_are_counted_and_skipped() {
        let start = Instant::now();
        let mut schedule = schedule(start, 0);
        assert_eq!(schedule.take(start).map(|tick| tick.missed), Some(0));
        let after_pause = start + PERIOD * 100 + Duration::from_millis(3);
        let tick = schedule.take(after_pause).unwrap();
        assert_eq!(tick, Tick { scheduled: start + PERIOD * 100, missed: 99 });
        assert_eq!(schedule.take(after_pause), None, "no burst catches up");
        assert_eq!(schedule.next_due(), Some(start + PERIOD * 101));
    }

    fn rates(text: &str, seed: Option<u64>) -> Schedule {
        let rate: RateProfile = text.parse().unwrap();
        let ticks = match seed {
            None => Ticks::At(rate),
            Some(seed) => Ticks::Random(RandomTicks::new(rate, fastrand::Rng::with_seed(seed))),
        };
        Schedule::new(Instant::now(), ticks, Duration::from_millis(100))
    }

    /// The times of all ticks, each taken a little late.
    fn offsets(schedule: &mut Schedule) -> Vec<Duration> {
        let start = schedule.start;
        let mut offsets = Vec::new();
        while let Some(due) = schedule.next_due() {
            let tick = schedule.take(due + Duration::from_micros(offsets.len() as u64 % 300)).unwrap();
            assert_eq!(tick, Tick { scheduled: due, missed: 0 });
            offsets.push(due - start);
        }
        offsets
    }

    #[test]
    fn a_rate_has_all_its_ticks_and_ends() {
        let offsets = offsets(&mut rates("0/s..1000/s over 2s, 100/s for 1s", None));
        assert_eq!(offsets.len(), 1100);
        assert!(offsets.is_sorted() && offsets[1099] < Duration::from_secs(3));
        assert_eq!(offsets.partition_point(|at| *at < Duration::from_secs(1)), 250);
    }

    #[test]
    fn random_arrivals_have_the_rate_and_the_spread_of_a_poisson_process() {
        let found = offsets(&mut rates("1000/s for 20s", Some(7)));
        assert!((19_400..20_600).contains(&found.len()), "{}", found.len());
        // Of exponential gaps the standard deviation is the mean.
        let gaps: Vec<f64> = found.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "{mean} {variance}");
        let mut again = rates("1000/s for 20s", Some(7));
        again.skip(again.start + Duration::from_secs(3));
        again.restart(again.start);
        assert_eq!(found, offsets(&mut again));
        assert_ne!(found, offsets(&mut rates("1000/s for 20s", Some(8))));
    }

    #[test]
    fn what_a_pause_misses_of_a_rate_is_counted() {
        for seed in [None, Some(3)] {
            let mut schedule = rates("0/s..2000/s over 10s, 1000/s", seed);
            let start = schedule.start;
            let (mut taken, mut missed) = (0, 0);
            for now in [5u64, 5, 9, 15, 16].map(|seconds| start + Duration::from_secs(seconds)) {
                while let Some(tick) = schedule.take(now) {
                    assert!(now - tick.scheduled <= Duration::from_millis(100), "{tick:?}");
                    (taken, missed) = (taken + 1, missed + tick.missed);
                }
            }
            let all = schedule.ticks.count_until(Duration::from_secs(16));
            assert_eq!(taken + missed, all);
            assert!(missed > 10 * taken && taken > 300, "{taken} {missed}");
        }
    }

    #[test]
    fn recorded_gaps_are_kept_at_their_speed() {
        let start = Instant::now();
        let mut schedule = RecordedSchedule::new(start, 10.0);
        let at =
            |seconds: i64| Some(Timestamp::from_microseconds(1_700_000_000_000_000 + seconds * 1_000_000));
        let due: Vec<Duration> = [at(0), at(5), None, at(3), at(60), at(-7)]
            .into_iter()
            .map(|at| schedule.due(at) - start)
            .collect();
        assert_eq!(due, [0, 500, 500, 500, 6000, 6000].map(Duration::from_millis));
        schedule.restart(start + Duration::from_secs(1));
        assert_eq!(schedule.due(at(100)), start + Duration::from_secs(1));
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        let start = Instant::now() + Duration::from_secs(1);
        let mut schedule = schedule(start, 0);
        assert_eq!(schedule.take(start - Duration::from_nanos(1)), None);
        assert!(schedule.take(start).is_some());
        assert_eq!(schedule.take(start + PERIOD - Duration::from_nanos(1)), None);
    }
}
