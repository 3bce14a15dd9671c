//! Forgetting old events, in steps between which the writer has time for others.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::core::timestamp::Timestamp;
use crate::store::Store;
use crate::store::backend::Retention;

/// How often to look for events that have grown old.
const SWEEP_PAUSE: Duration = Duration::from_secs(10);

/// How many times as long as a step the pause behind it is.
const PAUSE_SHARE: u32 = 3;

/// The shortest pause between two steps.
const STEP_PAUSE: Duration = Duration::from_millis(5);

/// Forgets events that are too old or too many, for as long as it is polled.
pub async fn keep(store: &Store, keep: Option<Duration>, keep_events: Option<usize>) {
    if keep.is_none() && keep_events.is_none() {
        return std::future::pending().await;
    }
    let events = keep_events.map(|events| i64::try_from(events).unwrap_or(i64::MAX));
    let mut behind = 0;
    loop {
        let received_before = keep.map(|keep| Timestamp::now().before(keep));
        let retention = Retention { received_before, events, behind };
        let begun = Instant::now();
        let forgotten = store.write(move |backend| backend.forget(&retention)).await;
        match forgotten {
            Ok(forgotten) if forgotten.more => {
                behind = forgotten.until;
                sleep((begun.elapsed() * PAUSE_SHARE).max(STEP_PAUSE)).await;
            }
            // What stayed because someone was to be told of it is looked at again. A store that does not
            // answer has said so itself.
            Ok(_) | Err(_) => {
                behind = 0;
                sleep(SWEEP_PAUSE).await;
            }
        }
    }
}
