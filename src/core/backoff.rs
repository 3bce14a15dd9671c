//! How long to wait before a retry.

use std::time::Duration;

/// Full-jitter exponential backoff: a wait drawn uniformly from zero to `base` × 2ⁿ, at most `cap`.
///
/// Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
}

impl Backoff {
    /// Panics, in constants at compile time, unless 0 < base ≤ cap.
    pub const fn new(base: Duration, cap: Duration) -> Backoff {
        assert!(!base.is_zero() && base.as_nanos() <= cap.as_nanos(), "0 < base <= cap");
        Backoff { base, cap }
    }

    /// The wait before the retry that follows `failures` failed attempts (1 or more).
    pub fn wait(&self, failures: u32, random: &mut fastrand::Rng) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let longest = self.base.saturating_mul(1 << doublings).min(self.cap);
        longest.mul_f64(random.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_fill_their_range() {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let mut random = fastrand::Rng::with_seed(7);
        for (failures, longest) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1000), (400, 1000)] {
            let waits: Vec<Duration> = (0..1000).map(|_| backoff.wait(failures, &mut random)).collect();
            let longest = Duration::from_millis(longest);
            assert!(waits.iter().all(|wait| *wait <= longest));
            assert!(waits.iter().any(|wait| *wait > longest.mul_f64(0.9)));
            assert!(waits.iter().any(|wait| *wait < longest.mul_f64(0.1)));
        }
    }
}
