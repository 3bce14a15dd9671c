//! Whether the wall clock is trusted: it is compared with a clock that cannot be set and that runs during suspends.

use std::time::Duration;

use super::timestamp::Timestamp;

/// How far the wall clock may move against the steady clock between two readings. Slewed clocks move much less.
const TOLERANCE: Duration = Duration::from_secs(10);

/// How long the wall clock must run without a step until it is trusted again.
pub const HOLD: Duration = Duration::from_secs(3600);

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    pub wall: Timestamp,
    /// The time since boot, by a clock that is never set and never stops: `CLOCK_BOOTTIME`.
    pub steady: Duration,
}

impl Reading {
    /// By how many microseconds the wall clock is ahead: constant unless it is set.
    fn lead(self) -> i64 {
        Timestamp::from_microseconds(0).after(self.steady).microseconds_until(self.wall)
    }
}

#[derive(Debug)]
pub struct WallClock {
    lead: i64,
    /// Since when, by the steady clock, a wall clock that stepped has run without another step.
    holds_since: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockChange {
    /// The clock jumped by this many microseconds, forward or back, and is not trusted from now on.
    Stepped(i64),
    /// It has run long enough since its last step, and is trusted again.
    Trusted,
}

impl WallClock {
    /// A clock that is trusted unless it is before the last known time, or after it by more than the longest pause.
    pub fn new(
        reading: Reading,
        last_known: Option<Timestamp>,
        longest_pause: Duration,
    ) -> (WallClock, Option<ClockChange>) {
        let pause = last_known.map_or(0, |last_known| last_known.microseconds_until(reading.wall));
        let is_trusted = Timestamp::from_microseconds(pause)
            >= Timestamp::from_microseconds(0).before(TOLERANCE)
            && Timestamp::from_microseconds(pause) <= Timestamp::from_microseconds(0).after(longest_pause);
        let holds_since = (!is_trusted).then_some(reading.steady);
        let change = holds_since.map(|_| ClockChange::Stepped(pause));
        (WallClock { lead: reading.lead(), holds_since }, change)
    }

    pub fn is_trusted(&self) -> bool {
        self.holds_since.is_none()
    }

    /// Compares the clocks again; returns what has changed.
    pub fn observe(&mut self, reading: Reading) -> Option<ClockChange> {
        let step = reading.lead().saturating_sub(self.lead);
        self.lead = reading.lead();
        if Duration::from_micros(step.unsigned_abs()) > TOLERANCE {
            self.holds_since = Some(reading.steady);
            return Some(ClockChange::Stepped(step));
        }
        let held = reading.steady.saturating_sub(self.holds_since?);
        (held >= HOLD).then(|| {
            self.holds_since = None;
            ClockChange::Trusted
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;
    const PAUSE: Duration = Duration::from_secs(86_400);

    /// The wall clock at so many seconds, so many seconds after the steady one began.
    fn reading(wall: i64, steady: u64) -> Reading {
        Reading {
            wall: Timestamp::from_microseconds((100 * DAY + wall) * 1_000_000),
            steady: Duration::from_secs(steady),
        }
    }

    fn seconds(change: Option<ClockChange>) -> Option<i64> {
        change.map(|change| match change {
            ClockChange::Stepped(microseconds) => microseconds / 1_000_000,
            ClockChange::Trusted => 0,
        })
    }

    fn started() -> WallClock {
        let (clock, change) = WallClock::new(reading(0, 0), Some(reading(0, 0).wall), PAUSE);
        assert_eq!(change, None);
        clock
    }

    #[test]
    fn a_clock_that_runs_is_trusted_however_long_the_machine_sleeps() {
        let mut clock = started();
        for time in [10, 20, 9 * DAY, 9 * DAY + 5] {
            assert_eq!(clock.observe(reading(time, time as u64)), None);
            assert!(clock.is_trusted());
        }
    }

    #[test]
    fn a_clock_that_is_slewed_is_trusted() {
        let mut clock = started();
        for tick in 1..1000 {
            assert_eq!(clock.observe(reading(tick * 19, tick as u64 * 10)), None, "{tick}");
        }
        assert!(clock.is_trusted());
    }

    #[test]
    fn a_step_in_either_direction_is_trusted_once_it_has_held_for_an_hour() {
        for step in [60 * DAY, -60 * DAY, 11, -11] {
            let mut clock = started();
            assert_eq!(seconds(clock.observe(reading(step + 10, 10))), Some(step));
            assert_eq!(clock.observe(reading(step + 3609, 3609)), None);
            assert!(!clock.is_trusted(), "{step}");
            assert_eq!(clock.observe(reading(step + 3610, 3610)), Some(ClockChange::Trusted));
            assert!(clock.is_trusted(), "{step}");
        }
    }

    #[test]
    fn a_step_back_to_where_it_was_has_to_hold_as_well() {
        let mut clock = started();
        assert_eq!(seconds(clock.observe(reading(60 * DAY + 10, 10))), Some(60 * DAY));
        assert_eq!(seconds(clock.observe(reading(2000, 2000))), Some(-60 * DAY));
        assert_eq!(clock.observe(reading(5599, 5599)), None);
        assert!(!clock.is_trusted());
        assert_eq!(clock.observe(reading(5600, 5600)), Some(ClockChange::Trusted));
    }

    #[test]
    fn at_the_start_the_clock_is_compared_with_the_last_time_that_is_known() {
        for (pause, trusted) in
            [(0, true), (-9, true), (-11, false), (DAY, true), (DAY + 1, false), (-60 * DAY, false)]
        {
            let (mut clock, change) = WallClock::new(reading(pause, 7), Some(reading(0, 0).wall), PAUSE);
            assert_eq!(clock.is_trusted(), trusted, "{pause}");
            assert_eq!(seconds(change), (!trusted).then_some(pause));
            assert_eq!(clock.observe(reading(pause + 3600, 3607)).is_some(), !trusted);
            assert!(clock.is_trusted(), "{pause}");
        }
        let (clock, change) = WallClock::new(reading(0, 0), None, PAUSE);
        assert!(clock.is_trusted() && change.is_none());
    }

    #[test]
    fn clocks_at_the_ends_of_time_do_not_overflow() {
        for wall in [i64::MIN, i64::MAX] {
            let wall = Timestamp::from_microseconds(wall);
            let (mut clock, _) = WallClock::new(reading(0, 0), Some(wall), PAUSE);
            assert!(clock.observe(Reading { wall, steady: Duration::MAX }).is_some());
            assert!(clock.observe(reading(0, 1)).is_some());
        }
    }
}
