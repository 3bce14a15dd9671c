//! When the ticks of a schedule are: at even times, as a rate has it, or at random.

use std::collections::VecDeque;
use std::time::Duration;

use super::rate::RateProfile;

/// When ticks are, relative to the start.
#[derive(Debug)]
pub enum Ticks {
    /// At n × period, for n from 0.
    Every(Duration),
    /// As many as a rate has.
    At(RateProfile),
    /// The same on average, at random: a Poisson process.
    Random(RandomTicks),
}

/// Sums of exponentially distributed gaps with a mean of one event.
#[derive(Debug)]
pub struct RandomTicks {
    rate: RateProfile,
    /// As it was in the beginning.
    seed: fastrand::Rng,
    random: fastrand::Rng,
    /// The number of the first of `positions`.
    first: u64,
    /// From the first tick that may be asked for on.
    positions: VecDeque<f64>,
}

impl RandomTicks {
    pub fn new(rate: RateProfile, random: fastrand::Rng) -> RandomTicks {
        RandomTicks { rate, seed: random.clone(), random, first: 0, positions: VecDeque::from([0.0]) }
    }

    /// Draws a tick more.
    fn draw(&mut self) -> f64 {
        let gap = -(1.0 - self.random.f64()).ln();
        let position = self.positions.back().copied().unwrap_or_default() + gap;
        self.positions.push_back(position);
        position
    }

    /// Tick `n`, which was not dropped.
    fn position(&mut self, n: u64) -> f64 {
        let index = usize::try_from(n.saturating_sub(self.first)).unwrap_or(usize::MAX);
        while self.positions.len() <= index {
            self.draw();
        }
        self.positions[index]
    }

    fn time_of(&mut self, n: u64) -> Option<Duration> {
        let position = self.position(n);
        self.rate.time_of(position)
    }

    /// How many ticks there are up to a time, those included that were dropped.
    fn count_until(&mut self, time: Duration) -> u64 {
        let position = self.rate.count_after(time);
        while self.positions.back().is_none_or(|last| *last <= position) {
            self.draw();
        }
        let mut count = self.first + self.positions.partition_point(|tick| *tick <= position) as u64;
        // Rounding may put a tick on either side of its own time.
        while count > self.first && self.time_of(count - 1).is_none_or(|at| at > time) {
            count -= 1;
        }
        while self.time_of(count).is_some_and(|at| at <= time) {
            count += 1;
        }
        count
    }

    fn drop_before(&mut self, n: u64) {
        while self.first < n && self.positions.len() > 1 {
            self.positions.pop_front();
            self.first += 1;
        }
    }
}

impl Ticks {
    /// Gives the same ticks again, from the first on.
    pub fn restart(&mut self) {
        if let Ticks::Random(ticks) = self {
            *ticks = RandomTicks::new(ticks.rate.clone(), ticks.seed.clone());
        }
    }

    /// No tick before this one is asked for any more.
    pub fn drop_before(&mut self, n: u64) {
        if let Ticks::Random(ticks) = self {
            ticks.drop_before(n);
        }
    }

    /// When tick `n` is; `None` where there are no more.
    pub fn offset(&mut self, n: u64) -> Option<Duration> {
        match self {
            // Exact to the nanosecond for 584 years.
            Ticks::Every(period) => {
                let nanoseconds = period.as_nanos().saturating_mul(u128::from(n));
                Some(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)))
            }
            Ticks::At(rate) => rate.time_of(n as f64),
            Ticks::Random(ticks) => ticks.time_of(n),
        }
    }

    /// How many ticks there are up to a time.
    pub fn count_until(&mut self, time: Duration) -> u64 {
        match self {
            Ticks::Every(period) => {
                u64::try_from(time.as_nanos() / period.as_nanos()).unwrap_or(u64::MAX - 1) + 1
            }
            Ticks::At(rate) => {
                // Rounding may put a tick on either side of its own time.
                let mut count = rate.count_after(time) as u64;
                while count > 0 && rate.time_of(count as f64 - 1.0).is_none_or(|at| at > time) {
                    count -= 1;
                }
                while rate.time_of(count as f64).is_some_and(|at| at <= time) {
                    count += 1;
                }
                count
            }
            Ticks::Random(ticks) => ticks.count_until(time),
        }
    }
}
