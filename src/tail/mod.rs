//! `eventctl tail`: shows stored events, and follows them.

mod printer;
mod remote;
mod settings;
mod stats;
mod verify;
mod worker;

use std::io::{self, BufWriter, IsTerminal, Write};
use std::process;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, poll};
use tracing::{info, warn};

pub use self::printer::Printer;
use self::remote::{Interruption, Message, Remote};
pub use self::settings::{
    Color, Content, EventFormat, Lines, OutputSettings, ServiceSettings, Settings, SourceSettings,
    VerifySettings, WorkSettings,
};
use crate::core::backoff::Backoff;
use crate::core::event::StoredEvent;
use crate::core::query::Query;
use crate::core::timestamp::LocalTimestamp;
use crate::error::{Hint, Hinted};
use crate::store::backend::EventReader;
use crate::store::{self, ReadError, StoreLocation, outbox};

/// How long a follower waits between two looks: a new event shows well within 100 ms.
const FOLLOW_PAUSE: Duration = Duration::from_millis(25);

/// Waits between two tries to open a stream again.
const RECONNECTION: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

/// How many events are read at once.
const PAGE: usize = 1000;

/// More alerts than there are: the largest number that SQL has.
const ALL: usize = i64::MAX as usize;

/// How many events are shown unless the options say otherwise.
const DEFAULT_LINES: usize = 10;

/// Prints events, or works them off, until there are no more, or for ever where it follows. Returns whether all commands
/// that worked on events succeeded.
///
/// # Errors
/// The store cannot be used, or nothing can be printed.
pub fn run(settings: &Settings) -> anyhow::Result<bool> {
    for (name, when) in [("since", &settings.since), ("until", &settings.until)] {
        if let Some(LocalTimestamp { timestamp, zone: Some(zone) }) = when {
            info!("--{name} is {timestamp}: local time is that of {zone}");
        }
    }
    if let Some(work) = &settings.work {
        return worker::run(settings, work);
    }
    if let Some(verify) = &settings.verify {
        return verify_journal(settings, verify);
    }
    show(settings).map(|()| true)
}

/// Compares a journal with the source, unless a command reads what is stored.
fn verify_journal(settings: &Settings, verify: &VerifySettings) -> anyhow::Result<bool> {
    let (follow, format) = (settings.follow, settings.output.format);
    if verify.read_command.is_some() {
        return verify::run(verify, follow, format, None);
    }
    let mut source = Source::open(&settings.source)?;
    let verified = verify::run(verify, follow, format, Some(source.reader()));
    source.explain(verified)
}

fn show(settings: &Settings) -> anyhow::Result<()> {
    let cannot_show = || format!("cannot show `{}`", settings.source);
    if let (Content::Alerts, SourceSettings::Store(location)) = (settings.output.content, &settings.source) {
        return show_alerts(settings, location).with_context(cannot_show);
    }
    let mut source = Source::open(&settings.source)?;
    let mut printer = printer_to_stdout(settings);
    if settings.output.content == Content::Statistics {
        let shown = show_statistics(settings, source.reader(), &mut printer);
        return source.explain(shown.with_context(cannot_show));
    }
    let mut tail = Tail { settings, source, printer, horizon: None, printed: None };
    let shown = tail.show().with_context(cannot_show);
    tail.source.explain(shown)?;
    if settings.follow {
        end_with_the_reader()?;
        let followed = tail.follow().with_context(|| format!("cannot follow `{}`", settings.source));
        tail.source.explain(followed)?;
    }
    Ok(())
}

fn printer_to_stdout(settings: &Settings) -> Printer<impl Write + use<>> {
    let output = io::stdout().lock();
    Printer::new(settings.output, output.is_terminal(), BufWriter::new(output))
}

/// Ends the process when nobody reads its output any more, as `head` does once it has enough: no event may come whose
/// printing would show it.
fn end_with_the_reader() -> anyhow::Result<()> {
    let watch = || {
        // Without an event to wait for, only errors and the end of a pipe are reported.
        let stdout = io::stdout();
        let mut output = [PollFd::new(&stdout, PollFlags::empty())];
        while poll(&mut output, None).is_err() {}
        process::exit(0);
    };
    thread::Builder::new().name("reader".to_owned()).spawn(watch).context("cannot start a thread")?;
    Ok(())
}

/// Where events come from.
enum Source {
    Store(Box<dyn EventReader>),
    Remote(Box<Remote>),
}

impl Source {
    fn open(settings: &SourceSettings) -> anyhow::Result<Source> {
        Ok(match settings {
            SourceSettings::Store(location) => Source::Store(store::open_reader(location)?),
            SourceSettings::Service(service) => Source::Remote(Box::new(Remote::open(service)?)),
        })
    }

    fn reader(&mut self) -> &mut dyn EventReader {
        match self {
            Source::Store(reader) => reader.as_mut(),
            Source::Remote(remote) => remote.as_mut(),
        }
    }

    /// Adds what to do about a failure, unless it says so itself.
    fn explain<T>(&self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        let error = match result {
            Err(error) if Hinted::find(&error).is_none() => error,
            result => return result,
        };
        let hint = error.downcast_ref().and_then(ReadError::hint).map(str::to_owned);
        match (hint, self) {
            (Some(hint), _) => Err(error).hint(hint),
            (None, Source::Remote(remote)) => Err(error).hint(remote.hint()),
            (None, Source::Store(_)) => Err(error),
        }
    }
}

fn show_statistics(
    settings: &Settings,
    reader: &mut dyn EventReader,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<()> {
    printer.print_statistics(&reader.statistics(&settings.query())?)?;
    Ok(printer.flush()?)
}

fn show_alerts(settings: &Settings, location: &StoreLocation) -> anyhow::Result<()> {
    let mut reader = store::open_reader(location)?;
    let mut printer = printer_to_stdout(settings);
    let limit = match settings.lines.unwrap_or(Lines::Newest(DEFAULT_LINES)) {
        Lines::Newest(lines) => lines.min(ALL),
        Lines::All => ALL,
    };
    for delivery in outbox::newest_deliveries(reader.as_mut(), limit)? {
        printer.print_delivery(&delivery)?;
    }
    Ok(printer.flush()?)
}

/// Events on their way from a store to the output.
struct Tail<'a, W: Write> {
    settings: &'a Settings,
    source: Source,
    printer: Printer<W>,
    /// The newest event, of whatever type, when the store was last polled.
    horizon: Option<StoredEvent>,
    /// The id up to which events are printed, while those after it and up to the horizon are due. It outlives a
    /// read that fails halfway.
    printed: Option<i64>,
}

impl<W: Write> Tail<'_, W> {
    /// Prints what is stored by now.
    fn show(&mut self) -> anyhow::Result<()> {
        self.horizon = self.newest()?;
        let default = match (self.settings.after, &self.settings.since) {
            (None, None) => Lines::Newest(DEFAULT_LINES),
            _ => Lines::All,
        };
        match (self.settings.lines.unwrap_or(default), self.settings.after) {
            (Lines::All, after) => self.print_after(after.unwrap_or(0), usize::MAX)?,
            (Lines::Newest(lines), Some(after)) => self.print_after(after, lines)?,
            (Lines::Newest(lines), None) => self.print_newest(lines)?,
        }
        Ok(self.printer.flush()?)
    }

    /// Prints what is stored from now on. A store that goes away is waited for.
    fn follow(&mut self) -> anyhow::Result<()> {
        if matches!(self.source, Source::Remote(_)) {
            return self.follow_stream();
        }
        let mut away = false;
        loop {
            thread::sleep(FOLLOW_PAUSE);
            match self.print_new() {
                Ok(()) => away = false,
                Err(error) if error.is::<ReadError>() => {
                    if !away {
                        warn!("waiting for `{}`: {error:#}", self.settings.source);
                    }
                    away = true;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Prints what a service tells from now on. A stream that breaks off is opened again where it was.
    fn follow_stream(&mut self) -> anyhow::Result<()> {
        let mut position = self.horizon.as_ref().map_or(0, |horizon| horizon.id);
        let mut failures = 0;
        loop {
            let interrupted = match self.read_stream(&mut position, &mut failures) {
                Ok(()) => "the stream has ended".to_owned(),
                Err(Interruption::Passing(reason)) => reason,
                Err(Interruption::Lasting(error)) => return Err(error),
            };
            failures += 1;
            // The first time is nothing to speak of: services restart, and tokens run out.
            if failures == 2 {
                warn!("waiting for `{}`: {interrupted}", self.settings.source);
            }
            thread::sleep(RECONNECTION.wait(failures, &mut fastrand::Rng::new()));
        }
    }

    /// Prints what a stream has until it ends.
    fn read_stream(&mut self, position: &mut i64, failures: &mut u32) -> Result<(), Interruption> {
        let unavailable = |error: ReadError| Interruption::Passing(format!("{error:#}"));
        if *failures > 0
            && let Some(horizon) = self.horizon.clone()
        {
            let newest = self.newest().map_err(unavailable)?;
            if !self.goes_on_from(&horizon, newest.as_ref()).map_err(unavailable)? {
                warn_of_replacement(&self.settings.source, 0);
                *position = 0;
            }
        }
        let Source::Remote(remote) = &mut self.source else { return Ok(()) };
        let Query { types, since, until, .. } = self.settings.query();
        let mut stream = remote.follow(*position, types.pattern.as_ref())?;
        while let Some(messages) = remote.next_messages(&mut stream)? {
            for message in messages {
                *failures = 0;
                let event = match message {
                    Message::Event(event) => {
                        // A service that was replaced sends what it has.
                        if event.id <= *position {
                            warn_of_replacement(&self.settings.source, 0);
                        }
                        event
                    }
                    Message::Position(id) => {
                        if id < *position {
                            warn_of_replacement(&self.settings.source, id);
                            self.horizon = None;
                        }
                        *position = id;
                        continue;
                    }
                };
                *position = event.id;
                let at = event.received_at;
                if since.is_none_or(|since| at >= since) && until.is_none_or(|until| at < until) {
                    self.printer.print(&event).map_err(|error| Interruption::Lasting(error.into()))?;
                }
                self.horizon = Some(event);
            }
            self.printer.flush().map_err(|error| Interruption::Lasting(error.into()))?;
        }
        Ok(())
    }

    fn print_new(&mut self) -> anyhow::Result<()> {
        let newest = self.newest()?;
        let shown = match self.horizon.clone() {
            Some(horizon) if self.goes_on_from(&horizon, newest.as_ref())? => {
                self.printed.unwrap_or(horizon.id)
            }
            Some(_) => {
                warn_of_replacement(&self.settings.source, 0);
                0
            }
            None => 0,
        };
        // A replica may be behind what was shown.
        if newest.as_ref().is_none_or(|newest| newest.id <= shown) {
            return Ok(());
        }
        self.horizon = newest;
        self.printed = Some(shown);
        self.print_after(shown, usize::MAX)?;
        self.printed = None;
        Ok(self.printer.flush()?)
    }

    /// Whether the store is the one that held the horizon, and not another that took its place.
    fn goes_on_from(
        &mut self,
        horizon: &StoredEvent,
        newest: Option<&StoredEvent>,
    ) -> Result<bool, ReadError> {
        match newest {
            None => Ok(true),
            // A replica is behind, or the newest events were deleted.
            Some(newest) if newest.id < horizon.id => {
                let reader = self.source.reader();
                Ok(reader.is_replica()? || reader.has_given(horizon.id)?)
            }
            Some(newest) if newest.id == horizon.id => Ok(newest == horizon),
            Some(_) => Ok(self.source.reader().get(horizon.id)?.is_none_or(|event| event == *horizon)),
        }
    }

    fn newest(&mut self) -> Result<Option<StoredEvent>, ReadError> {
        let query = Query { limit: 1, ..Query::default() };
        Ok(self.source.reader().page(&query)?.events.pop())
    }

    /// Prints events after an id and up to the horizon, oldest first.
    fn print_after(&mut self, after: i64, lines: usize) -> anyhow::Result<()> {
        let Some(horizon) = &self.horizon else { return Ok(()) };
        let before = horizon.id.saturating_add(1);
        let mut query = Query { after: Some(after), before: Some(before), ..self.settings.query() };
        let mut left = lines;
        loop {
            query.limit = left.min(PAGE);
            let page = self.source.reader().page(&query)?;
            for event in &page.events {
                self.printer.print(event)?;
            }
            left -= page.events.len();
            let Some(last) = page.events.last().filter(|_| page.more && left > 0) else { return Ok(()) };
            query.after = Some(last.id);
            self.printed = self.printed.and(query.after);
        }
    }

    /// Prints the newest events up to the horizon, oldest first.
    fn print_newest(&mut self, lines: usize) -> anyhow::Result<()> {
        let Some(horizon) = &self.horizon else { return Ok(()) };
        let before = horizon.id.saturating_add(1);
        let mut query = Query { before: Some(before), ..self.settings.query() };
        let mut left = lines;
        loop {
            query.limit = left.min(PAGE);
            let page = self.source.reader().page(&query)?;
            left -= page.events.len();
            let Some(first) = page.events.first() else { return Ok(()) };
            let first = first.id;
            if page.more && left > 0 {
                query.before = Some(first);
                continue;
            }
            if query.before == Some(before) {
                return Ok(page.events.iter().try_for_each(|event| self.printer.print(event))?);
            }
            // More than a page: only ids were kept, and the events are read again in their order.
            return self.print_after(first - 1, lines);
        }
    }
}

/// `shared`: the last event that both stores have, or 0.
fn warn_of_replacement(source: &SourceSettings, shared: i64) {
    warn!("`{source}` was replaced by a store with other events: showing those after event {shared}");
}

#[cfg(test)]
mod tests;
