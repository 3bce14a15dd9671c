//! `eventctl alert-test`: sends a sample to each channel, or has alerts sent again that were given up.

use std::io::{self, Write};

use anyhow::Context;

use crate::alert::{Alerts, Failure};
use crate::cli::{AlertTestOptions, Resend};
use crate::core::hint::hinted;
use crate::core::text::printable;
use crate::store::{self, StoreLocation};

/// Sends the sample, and says what became of it.
///
/// # Errors
/// A setting cannot be used, there is no channel, or one of them did not take the sample.
pub fn run(options: AlertTestOptions) -> anyhow::Result<()> {
    let AlertTestOptions { event_type, payload, alerts, resend, db, .. } = options;
    if let Some(which) = resend {
        return send_again(&db, which);
    }
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

/// Puts alerts back into the outbox, for a `consume` to send.
fn send_again(db: &StoreLocation, which: Resend) -> anyhow::Result<()> {
    let event_id = if let Resend::Event(id) = which { Some(id) } else { None };
    let resent = store::resend(db, event_id).with_context(|| format!("cannot use `{db}`"))?;
    let mut output = io::stdout().lock();
    for (id, channel) in &resent.pending {
        writeln!(output, "{id} {}: to be sent again", printable(channel))?;
    }
    for (id, channel) in &resent.without_event {
        writeln!(output, "{id} {}: not sent again, as the event is deleted", printable(channel))?;
    }
    match which {
        Resend::Event(id) if resent.pending.is_empty() => Err(hinted(
            format!("no alert of event {id} that was given up can be sent again"),
            "see which were given up with eventctl tail --alerts -n all",
        )),
        _ => Ok(()),
    }
}
