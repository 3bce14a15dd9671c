//! Sleeping until an instant, to within microseconds.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::oneshot;

/// The part of a wait that the thread sleeps: longer than the millisecond to which the runtime's timer is exact.
const FINE: Duration = Duration::from_millis(4);

/// A shorter wait than this spins: a thread switch would take longer.
const SPIN: Duration = Duration::from_micros(20);

type Alarm = (Instant, oneshot::Sender<()>);

/// Sleeps all but the last milliseconds on the runtime's timer, which ticks in milliseconds, and the rest on a thread,
/// which the kernel wakes on time.
pub struct Clock {
    alarms: Option<mpsc::Sender<Alarm>>,
    thread: Option<JoinHandle<()>>,
}

impl Clock {
    pub fn start() -> anyhow::Result<Clock> {
        let (alarms, requested) = mpsc::channel::<Alarm>();
        let run = move || {
            sharpen_sleep();
            for (instant, ring) in requested {
                thread::sleep(instant.saturating_duration_since(Instant::now()));
                let _ = ring.send(());
            }
        };
        let thread = thread::Builder::new()
            .name("clock".to_owned())
            .spawn(run)
            .context("cannot start a thread to keep the schedule")?;
        Ok(Clock { alarms: Some(alarms), thread: Some(thread) })
    }

    /// Returns at the instant or shortly after it, never before it.
    pub async fn sleep_until(&self, instant: Instant) {
        let left = || instant.saturating_duration_since(Instant::now());
        if left() > FINE {
            tokio::time::sleep_until((instant - FINE).into()).await;
        }
        if left() > SPIN
            && let Some(alarms) = &self.alarms
        {
            let (ring, rung) = oneshot::channel();
            if alarms.send((instant, ring)).is_ok() {
                let _ = rung.await;
            }
        }
        while !left().is_zero() {
            std::hint::spin_loop();
        }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.alarms = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Linux lets a sleep end 50 µs late to save wake-ups (timer slack), unless the thread asks for less.
fn sharpen_sleep() {
    #[cfg(target_os = "linux")]
    {
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    }
}
