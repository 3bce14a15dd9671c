//! Whether the wall clock is believed: it is compared with a clock that nobody sets and that runs through suspends.

use std::time::Duration;

use super::timestamp::Timestamp;

/// How far the wall clock may move against the other between two readings. Clocks that are slewed move much less.
const TOLERANCE: Duration = Duration::from_secs(10);

/// How long the wall clock must hold after a step until it is believed again.
pub const HOLD: Duration = Duration::from_secs(3600);

/// What both clocks say at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// The wall clock, which may be set.
    pub wall: Timestamp,
    /// The time since an unknown moment, by a clock that is never set and never stops: `CLOCK_BOOTTIME`.
    pub steady: Duration,
}

impl Reading {
    /// By how many microseconds the wall clock is ahead: the same at all times, unless it is set.
    fn lead(self) -> i64 {
        Timestamp::from_microseconds(0).after(self.steady).microseconds_until(self.wall)
    }
}

/// A wall clock that is watched.
#[derive(Debug)]
pub struct WallClock {
    lead: i64,
    /// Since when, by the steady clock, a clock that has stepped has held.
    holds_since: Option<Duration>,
}

/// What a reading has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockChange {
    /// The clock has jumped by so many microseconds, forward or back, and is not believed from now on.
    Stepped(i64),
    /// It has held for long enough after a step, and is believed again.
    Believed,
}

impl WallClock {
    /// A clock that is believed unless it is before the last time that is known, or further behind it than a pause may
    /// last.
    pub fn new(
        reading: Reading,
        last_known: Option<Timestamp>,
        longest_pause: Duration,
    ) -> (WallClock, Option<ClockChange>) {
        let pause = last_known.map_or(0, |last_known| last_known.microseconds_until(reading.wall));
        let is_believed = Timestamp::from_microseconds(pause)
            >= Timestamp::from_microseconds(0).before(TOLERANCE)
            && Timestamp::from_microseconds(pause) <= Timestamp::from_microseconds(0).after(longest_pause);
        let holds_since = (!is_believed).then_some(reading.steady);
        let change = holds_since.map(|_| ClockChange::Stepped(pause));
        (WallClock { lead: reading.lead(), holds_since }, change)
    }

    /// Whether the clock has held since it stepped, if it has.
    pub fn is_believed(&self) -> bool {
        self.holds_since.is_none()
    }

    /// Takes a reading into account: what has changed with it.
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
            ClockChange::Believed
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
            ClockChange::Believed => 0,
        })
    }

    fn started() -> WallClock {
        let (clock, change) = WallClock::new(reading(0, 0), Some(reading(0, 0).wall), PAUSE);
        assert_eq!(change, None);
        clock
    }

    #[test]
    fn a_clock_that_runs_is_believed_however_long_the_machine_sleeps() {
        let mut clock = started();
        for time in [10, 20, 9 * DAY, 9 * DAY + 5] {
            assert_eq!(clock.observe(reading(time, time as u64)), None);
            assert!(clock.is_believed());
        }
    }

    #[test]
    fn a_clock_that_is_slewed_is_believed() {
        let mut clock = started();
        for tick in 1..1000 {
            assert_eq!(clock.observe(reading(tick * 19, tick as u64 * 10)), None, "{tick}");
        }
        assert!(clock.is_believed());
    }

    #[test]
    fn a_step_in_either_direction_is_believed_once_it_has_held_for_an_hour() {
        for step in [60 * DAY, -60 * DAY, 11, -11] {
            let mut clock = started();
            assert_eq!(seconds(clock.observe(reading(step + 10, 10))), Some(step));
            assert_eq!(clock.observe(reading(step + 3609, 3609)), None);
            assert!(!clock.is_believed(), "{step}");
            assert_eq!(clock.observe(reading(step + 3610, 3610)), Some(ClockChange::Believed));
            assert!(clock.is_believed(), "{step}");
        }
    }

    #[test]
    fn a_step_back_to_where_it_was_has_to_hold_as_well() {
        let mut clock = started();
        assert_eq!(seconds(clock.observe(reading(60 * DAY + 10, 10))), Some(60 * DAY));
        assert_eq!(seconds(clock.observe(reading(2000, 2000))), Some(-60 * DAY));
        assert_eq!(clock.observe(reading(5599, 5599)), None);
        assert!(!clock.is_believed());
        assert_eq!(clock.observe(reading(5600, 5600)), Some(ClockChange::Believed));
    }

    #[test]
    fn at_the_start_the_clock_is_compared_with_the_last_time_that_is_known() {
        for (pause, believed) in
            [(0, true), (-9, true), (-11, false), (DAY, true), (DAY + 1, false), (-60 * DAY, false)]
        {
            let (mut clock, change) = WallClock::new(reading(pause, 7), Some(reading(0, 0).wall), PAUSE);
            assert_eq!(clock.is_believed(), believed, "{pause}");
            assert_eq!(seconds(change), (!believed).then_some(pause));
            assert_eq!(clock.observe(reading(pause + 3600, 3607)).is_some(), !believed);
            assert!(clock.is_believed(), "{pause}");
        }
        let (clock, change) = WallClock::new(reading(0, 0), None, PAUSE);
        assert!(clock.is_believed() && change.is_none());
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
