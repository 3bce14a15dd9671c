//! `eventctl alert-test`: sends a sample to each channel.

use std::io::{self, Write};

use anyhow::Context;

use crate::alert::{Alerts, Failure};
use crate::cli::AlertTestOptions;
use crate::core::hint::hinted;

/// Sends the sample, and says what became of it.
///
/// # Errors
/// A setting cannot be used, there is no channel, or one of them did not take the sample.
pub fn run(options: AlertTestOptions) -> anyhow::Result<()> {
    let AlertTestOptions { event_type, payload, alerts, .. } = options;
    let alerts = Alerts::new(alerts.into_settings()?)?;
    if alerts.channels().next().is_none() {
        return Err(hinted("there is no channel to test", "give --alert mailto:ops@example.com or the like"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let mut output = io::stdout().lock();
    let mut failures = 0;
    for (channel, sent) in runtime.block_on(alerts.test(&event_type, &payload)) {
        match sent {
            Ok(()) => writeln!(output, "{channel}: sent")?,
            Err(Failure::Transient { reason, .. } | Failure::Permanent { reason }) => {
                failures += 1;
                writeln!(output, "{channel}: {reason}")?;
            }
        }
    }
    if failures > 0 {
        let problem = format!("{failures} of the channels did not take the sample");
        return Err(hinted(problem, "see what they said above"));
    }
    Ok(())
}
