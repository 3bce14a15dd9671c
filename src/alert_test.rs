//! `eventctl alert-test`: sends a sample to each channel, or queues failed alerts again.

use std::io::{self, Write};
use std::str::FromStr;

use anyhow::Context;

use crate::alert::{AlertSettings, Alerts};
use crate::core::text::printable;
use crate::error::hinted;
use crate::store::{self, StoreLocation};

#[derive(Debug)]
pub enum Settings {
    /// Send a sample to each channel.
    Sample { event_type: String, payload: String, alerts: AlertSettings },
    /// Queue failed alerts again, for a `consume` to send.
    Resend { db: StoreLocation, which: Resend },
}

/// The failed alerts to queue again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resend {
    All,
    /// Those of the event with this id.
    Event(i64),
}

impl FromStr for Resend {
    type Err = String;

    fn from_str(text: &str) -> Result<Resend, String> {
        match text.parse() {
            _ if text == "all" => Ok(Resend::All),
            Ok(id @ 1..) => Ok(Resend::Event(id)),
            _ => Err("expected the id of an event, or `all`".to_owned()),
        }
    }
}

/// # Errors
/// A setting cannot be used, there is no channel, or one of them did not take the sample.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    match settings {
        Settings::Sample { event_type, payload, alerts } => send_sample(&event_type, &payload, alerts),
        Settings::Resend { db, which } => resend(&db, which),
    }
}

fn send_sample(event_type: &str, payload: &str, alerts: AlertSettings) -> anyhow::Result<()> {
    let alerts = Alerts::new(alerts)?;
    if alerts.channels().is_empty() {
        return Err(hinted("there is no channel to test", "give --alert mailto:ops@example.com or the like"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let mut output = io::stdout().lock();
    let mut failures = 0;
    for (channel, sent) in runtime.block_on(alerts.test(event_type, payload)) {
        match sent {
            Ok(()) => writeln!(output, "{channel}: sent")?,
            Err(error) => {
                failures += 1;
                writeln!(output, "{channel}: {error}")?;
            }
        }
    }
    if failures > 0 {
        let problem = format!("{failures} of the channels did not take the sample");
        return Err(hinted(problem, "see what they said above"));
    }
    Ok(())
}

fn resend(db: &StoreLocation, which: Resend) -> anyhow::Result<()> {
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
        Resend::All if resent.pending.is_empty() && resent.without_event.is_empty() => {
            eprintln!("no alert was given up: there is nothing to send again");
            Ok(())
        }
        _ => Ok(()),
    }
}
