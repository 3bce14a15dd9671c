//! `eventctl tail`: shows stored events, and follows them.

mod printer;
mod remote;
mod stats;

use std::io::{self, BufWriter, IsTerminal, Write};
use std::process;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, poll};
use tracing::{info, warn};

use self::printer::Printer;
use self::remote::{Interruption, Message, Remote};
use crate::cli::{Endpoint, Lines, TailOptions};
use crate::core::backoff::Backoff;
use crate::core::event::StoredEvent;
use crate::core::hint::{Hint, Hinted};
use crate::core::query::Query;
use crate::core::timestamp::LocalTimestamp;
use crate::store;
use crate::store::backend::{Reader, StoreError};

/// How long a follower waits between two looks: a new event shows well within 100 ms.
const FOLLOW_PAUSE: Duration = Duration::from_millis(25);

/// Waits between two tries to open a stream again.
const RECONNECTION: Backoff = Backoff { base: Duration::from_millis(200), cap: Duration::from_secs(5) };

/// How many events are read at once.
const PAGE: usize = 1000;

/// More alerts than there are: the largest number that SQL has.
const ALL: usize = i64::MAX as usize;

/// How many events are shown unless the options say otherwise.
const DEFAULT_LINES: usize = 10;

/// Prints events until there are no more, or for ever where it follows.
///
/// # Errors
/// The store cannot be read, or nothing can be printed.
pub fn run(options: &TailOptions) -> anyhow::Result<()> {
    for (name, when) in [("since", &options.since), ("until", &options.until)] {
        if let Some(LocalTimestamp { timestamp, zone: Some(zone) }) = when {
            info!("--{name} is {timestamp}: local time is that of {zone}");
        }
    }
    let mut source = match &options.endpoint {
        Some(endpoint) => Source::Remote(Box::new(Remote::open(options, endpoint)?)),
        None => Source::Store(store::open_reader(&options.db)?),
    };
    let output = io::stdout().lock();
    let mut printer = Printer::new(options, output.is_terminal(), BufWriter::new(output));
    let name = name_of(options);
    if options.stats {
        let shown = show_statistics(options, source.reader(), &mut printer);
        return source.explain(shown.with_context(|| format!("cannot show `{name}`")));
    }
    if options.alerts {
        return show_alerts(options, source.reader(), &mut printer)
            .with_context(|| format!("cannot show `{name}`"));
    }
    let mut tail = Tail { options, source, printer, horizon: None, printed: None };
    let shown = tail.show().with_context(|| format!("cannot show `{name}`"));
    tail.source.explain(shown)?;
    if options.follow {
        end_with_the_reader()?;
        let followed = tail.follow().with_context(|| format!("cannot follow `{name}`"));
        tail.source.explain(followed)?;
    }
    Ok(())
}

/// Ends the process when nobody reads its output any more, as `head` does once it has enough: no event may come whose
/// printing would show it.
fn end_with_the_reader() -> anyhow::Result<()> {
    let watch = || {
        // Without an event to wait for, errors and the end of a pipe alone are told.
        let stdout = io::stdout();
        let mut output = [PollFd::new(&stdout, PollFlags::empty())];
        while poll(&mut output, None).is_err() {}
        process::exit(0);
    };
    thread::Builder::new().name("reader".to_owned()).spawn(watch).context("cannot start a thread")?;
    Ok(())
}

/// What is shown.
fn name_of(options: &TailOptions) -> String {
    options.endpoint.as_ref().map_or_else(|| options.db.to_string(), Endpoint::to_string)
}

/// Where events come from.
enum Source {
    Store(Box<dyn Reader>),
    Remote(Box<Remote>),
}

impl Source {
    fn reader(&mut self) -> &mut dyn Reader {
        match self {
            Source::Store(reader) => reader.as_mut(),
            Source::Remote(remote) => remote.as_mut(),
        }
    }

    /// Adds what to do about a failure that does not say so itself.
    fn explain<T>(&self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        match (result, self) {
            (Err(error), Source::Remote(remote)) if Hinted::find(&error).is_none() => {
                Err(error).hint(remote.hint())
            }
            (result, _) => result,
        }
    }
}

fn show_statistics(
    options: &TailOptions,
    reader: &mut dyn Reader,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<()> {
    printer.print_statistics(&reader.statistics(&query_of(options))?)?;
    Ok(printer.flush()?)
}

/// The filters of the options.
fn query_of(options: &TailOptions) -> Query {
    Query {
        event_type: options.event_type.clone(),
        since: options.since.as_ref().map(|since| since.timestamp),
        until: options.until.as_ref().map(|until| until.timestamp),
        ..Query::default()
    }
}

fn show_alerts(
    options: &TailOptions,
    reader: &mut dyn Reader,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<()> {
    let limit = match options.lines.unwrap_or(Lines::Newest(DEFAULT_LINES)) {
        Lines::Newest(lines) => lines.min(ALL),
        Lines::All => ALL,
    };
    for delivery in reader.deliveries(limit)? {
        printer.print_delivery(&delivery)?;
    }
    Ok(printer.flush()?)
}

/// Events on their way from a store to the output.
struct Tail<'a, W: Write> {
    options: &'a TailOptions,
    source: Source,
    printer: Printer<W>,
    /// The newest event, of whatever type, when the store was last looked at.
    horizon: Option<StoredEvent>,
    /// The id up to which events are printed, while those after it and up to the horizon are due. It outlives a
    /// read that fails halfway.
    printed: Option<i64>,
}

impl<W: Write> Tail<'_, W> {
    /// Prints what is stored by now.
    fn show(&mut self) -> anyhow::Result<()> {
        self.horizon = self.newest()?;
        let default = match (self.options.after, &self.options.since) {
            (None, None) => Lines::Newest(DEFAULT_LINES),
            _ => Lines::All,
        };
        match (self.options.lines.unwrap_or(default), self.options.after) {
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
                Err(error) if error.is::<StoreError>() => {
                    if !away {
                        warn!("waiting for `{}`: {error}", name_of(self.options));
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
                warn!("waiting for `{}`: {interrupted}", name_of(self.options));
            }
            thread::sleep(RECONNECTION.wait(failures, &mut fastrand::Rng::new()));
        }
    }

    /// Prints what a stream has until it ends.
    fn read_stream(&mut self, position: &mut i64, failures: &mut u32) -> Result<(), Interruption> {
        let unavailable = |error: StoreError| Interruption::Passing(error.to_string());
        if *failures > 0
            && let Some(horizon) = self.horizon.clone()
        {
            let newest = self.newest().map_err(unavailable)?;
            if !self.goes_on_from(&horizon, newest.as_ref()).map_err(unavailable)? {
                *position = 0;
            }
        }
        let Source::Remote(remote) = &mut self.source else { return Ok(()) };
        let Query { event_type, since, until, .. } = query_of(self.options);
        let mut stream = remote.follow(*position, event_type.as_ref())?;
        while let Some(messages) = remote.next_messages(&mut stream)? {
            for message in messages {
                *failures = 0;
                let event = match message {
                    Message::Event(event) => event,
                    Message::Position(id) => {
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
            _ => 0,
        };
        if newest.as_ref().is_none_or(|newest| newest.id == shown) {
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
    ) -> Result<bool, StoreError> {
        match newest {
            None => Ok(true),
            Some(newest) if newest.id < horizon.id => Ok(false),
            Some(newest) if newest.id == horizon.id => Ok(newest == horizon),
            Some(_) => Ok(self.source.reader().get(horizon.id)?.is_none_or(|event| event == *horizon)),
        }
    }

    fn newest(&mut self) -> Result<Option<StoredEvent>, StoreError> {
        let query = Query { limit: 1, ..Query::default() };
        Ok(self.source.reader().page(&query)?.events.pop())
    }

    /// Prints events after an id and up to the horizon, oldest first.
    fn print_after(&mut self, after: i64, lines: usize) -> anyhow::Result<()> {
        let Some(horizon) = &self.horizon else { return Ok(()) };
        let before = horizon.id.saturating_add(1);
        let mut query = Query { after: Some(after), before: Some(before), ..query_of(self.options) };
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
        let mut query = Query { before: Some(before), ..query_of(self.options) };
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

#[cfg(test)]
mod tests;
