//! `eventctl propagate`: sends events when they are due, whatever becomes of those before them.

mod clock;
mod metrics;
mod reason;
mod report;
mod sender;
mod source;

use std::io::{self, Write};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use hyper::Uri;
use hyper::header::AUTHORIZATION;
use hyper::http::uri::PathAndQuery;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{info, warn};

use self::clock::Clock;
use self::metrics::Metrics;
use self::report::{Report, Reporter};
use self::sender::Sender;
use self::source::{Next, Outgoing, Source};
use crate::auth::client::FetchError;
use crate::cli::{Endpoint, PropagateOptions};
use crate::client::HttpClient;
use crate::core::hint::hinted;
use crate::core::schedule::Schedule;
use crate::exposition;
use crate::login::{self, Authorization};
use crate::shutdown::{Shutdown, StopSignal};

/// How long the last reports may take to be printed once everything is given up.
const REPORT_TIME: Duration = Duration::from_secs(2);

/// How a run ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// All events were delivered.
    Complete,
    /// Some events were rejected or undelivered.
    Incomplete,
}

/// Sends events until there are no more, the run's end has come, or a signal asks to stop.
///
/// # Errors
/// The events cannot be read, the receiver is not healthy, or nothing can be written.
pub fn run(options: PropagateOptions) -> anyhow::Result<Completion> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let completion = runtime.block_on(propagate(options));
    // A look-up of a name may still run: nobody waits for it.
    runtime.shutdown_background();
    completion
}

async fn propagate(options: PropagateOptions) -> anyhow::Result<Completion> {
    let mut source = Source::open(&options.file, options.order, options.seed, options.count)?;
    if options.dry_run {
        print_events(&mut source, options.count).await?;
        return Ok(Completion::Complete);
    }
    let mut shutdown = Shutdown::listen_with_hangup()?;
    let options = &options;
    let http = login::http_client(&options.tls, options.max_in_flight, options.timeout)?;
    let authorization = authorization(options, &http)?;
    let (metrics, registry) = Metrics::new();
    // Ends with this function, too.
    let mut scraping = JoinSet::new();
    if let Some(address) = &options.metrics {
        let (listener, registry) = (exposition::listen(address).await?, Arc::new(registry));
        let expose = move |format| std::future::ready(exposition::text_of(&registry, format));
        scraping.spawn(exposition::serve(listener, expose));
    }
    let (reports, reporter, output_lost) = Reporter::start(options, metrics.clone())?;
    let (tell_hurry, hurry) = watch::channel(false);
    let sender = Sender::new(options, http, authorization.clone(), reports.clone(), hurry);
    if let Some(health) = &options.health {
        tokio::select! {
            healthy = sender.probe(health, options.health_timeout) => healthy.map_err(|problem| {
                let hint = "start the receiver, or give --health-timeout more time";
                hinted(format!("cannot send to an unhealthy receiver: {health}: {problem}"), hint)
            })?,
            _ = shutdown.requested() => return Ok(Completion::Complete),
        }
    }
    tokio::select! {
        logged_in = log_in(&authorization, options.retries) => logged_in?,
        _ = shutdown.requested() => return Ok(Completion::Complete),
    }
    // Ends with this function, when nothing is sent any more.
    let mut renewal = JoinSet::new();
    renewal.spawn(async move { authorization.keep_fresh().await });
    let mut run = Run::new(options, source, sender, reports.clone(), metrics)?;
    let end = options.duration.map(|duration| run.started + duration);
    let ending = tokio::select! {
        () = run.send_events() => Ending::Sent,
        () = sleep_until_some(end) => Ending::Over,
        _ = output_lost => Ending::Hurried,
        signal = shutdown.requested() => Ending::Asked(signal),
    };
    drop(reports);
    let end = End {
        ending,
        shutdown,
        drain_timeout: options.drain_timeout,
        hurry: tell_hurry,
        free_slots: Arc::clone(&run.slots),
        all_slots: options.max_in_flight,
    };
    let finishing = async {
        let missed_ticks = run.finish().await;
        reporter.finish(missed_ticks, options.output).await
    };
    let Some(summary) = end.wait_for(finishing).await else {
        let hint = "read on, or print less with -q";
        return Err(hinted("cannot report: nobody reads standard output", hint));
    };
    let summary = summary.context("cannot report")?;
    Ok(if summary.is_complete() { Completion::Complete } else { Completion::Incomplete })
}

fn authorization(options: &PropagateOptions, http: &HttpClient) -> anyhow::Result<Authorization> {
    let endpoint = &options.endpoint;
    let authorization = Authorization::new(&options.login, endpoint, token_beside(endpoint), http)?;
    let sets_it = options.header.iter().any(|header| header.name == AUTHORIZATION);
    if sets_it && !matches!(authorization, Authorization::None) {
        let problem = "`--header` sets Authorization, and so does the token";
        return Err(hinted(problem, "give one of them"));
    }
    Ok(authorization)
}

/// Where tokens come from unless the settings say otherwise: in the same folder as the endpoint, so that they are behind
/// the same prefix of a proxy.
fn token_beside(endpoint: &Endpoint) -> Endpoint {
    let path = endpoint.0.path().trim_end_matches('/');
    let folder = path.rfind('/').map_or("", |slash| &path[..slash]);
    let mut parts = endpoint.0.clone().into_parts();
    let path_and_query = PathAndQuery::try_from(format!("{folder}/token"));
    parts.path_and_query = Some(path_and_query.expect("a part of a path, and a name behind it, are a path"));
    Endpoint(Uri::from_parts(parts).expect("a scheme, an authority and a path make a URI"))
}

/// Fetches the first token, where tokens are fetched, and tries again where that may help.
async fn log_in(authorization: &Authorization, retries: u32) -> anyhow::Result<()> {
    let mut retry = 0;
    loop {
        let (reason, hint) = match authorization.log_in().await {
            Ok(()) => return Ok(()),
            Err(FetchError::Refused(reason)) => {
                (reason, "check --username, its password, --token-url and --grant")
            }
            Err(FetchError::Transient { reason, .. }) if retry == retries => {
                (reason, "start the server that gives tokens, or name it with --token-url")
            }
            Err(FetchError::Transient { retry_after, .. }) => {
                retry += 1;
                sleep(retry_after + sender::BACKOFF.wait(retry, &mut fastrand::Rng::new())).await;
                continue;
            }
        };
        return Err(hinted(format!("cannot fetch a token: {reason}"), hint));
    }
}

/// Prints the events that a run would send first: as many as it would, or each of the file once.
async fn print_events(source: &mut Source, count: Option<u64>) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    let mut printed = 0;
    let end = count.or(source.cycle()).unwrap_or(u64::MAX);
    while printed < end {
        match source.next().await {
            Next::Event { event, .. } => {
                writeln!(output, "{}", event.in_one_line()).context("cannot print events")?
            }
            Next::Invalid(problem) => {
                return Err(hinted(format!("{problem} of standard input"), source::FILE_HINT));
            }
            Next::End => break,
        }
        printed += 1;
    }
    Ok(())
}

/// Why sending ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// All is sent: what is in flight takes its time.
    Sent,
    /// The time that was given is over: what is in flight has until the deadline.
    Over,
    /// A signal asked for it: the same.
    Asked(StopSignal),
    /// Standard output takes no more: what is in flight is given up.
    Hurried,
}

/// A run of sends.
struct Run {
    started: Instant,
    source: Source,
    /// An event that was taken from the source and waits for its time.
    pending: Option<Arc<Outgoing>>,
    /// How many more events to send.
    left: u64,
    schedule: Schedule,
    clock: Clock,
    slots: Arc<Semaphore>,
    missed_ticks: u64,
    metrics: Metrics,
    sender: Arc<Sender>,
    deliveries: JoinSet<()>,
    reports: mpsc::Sender<Report>,
}

impl Run {
    fn new(
        options: &PropagateOptions,
        source: Source,
        sender: Sender,
        reports: mpsc::Sender<Report>,
        metrics: Metrics,
    ) -> anyhow::Result<Run> {
        let clock = Clock::start()?;
        let started = Instant::now();
        Ok(Run {
            started,
            source,
            pending: None,
            left: options.count.unwrap_or(u64::MAX),
            schedule: Schedule::new(started, options.period, options.max_lateness),
            clock,
            slots: Arc::new(Semaphore::new(options.max_in_flight)),
            missed_ticks: 0,
            metrics,
            sender: Arc::new(sender),
            deliveries: JoinSet::new(),
            reports,
        })
    }

    /// Sends an event at every tick, until there are no more.
    ///
    /// A tick that comes while all slots are taken is missed; the event waits for the next one. No tick
    /// is missed by waiting for standard input. Cancelling loses nothing: see [`Run::finish`].
    async fn send_events(&mut self) {
        // The first line of standard input may be long in coming: the schedule starts with it.
        if self.left > 0 && self.take_event().await {
            self.schedule.restart(Instant::now());
        }
        while self.left > 0 && self.take_event().await {
            let slot = match Arc::clone(&self.slots).try_acquire_owned() {
                Ok(slot) => slot,
                Err(_) => {
                    let slot =
                        Arc::clone(&self.slots).acquire_owned().await.expect("the semaphore is never closed");
                    let missed = self.schedule.skip(Instant::now());
                    self.miss(missed);
                    slot
                }
            };
            let tick = loop {
                self.clock.sleep_until(self.schedule.next_due()).await;
                if let Some(tick) = self.schedule.take(Instant::now()) {
                    break tick;
                }
            };
            self.miss(tick.missed);
            let Some(event) = self.pending.take() else { continue };
            self.left -= 1;
            let sender = Arc::clone(&self.sender);
            self.deliveries.spawn(async move {
                sender.deliver(event, tick.scheduled).await;
                drop(slot);
            });
            while self.deliveries.try_join_next().is_some() {}
        }
    }

    fn miss(&mut self, ticks: u64) {
        self.missed_ticks += ticks;
        self.metrics.missed(ticks);
    }

    /// Makes sure that an event is pending; false where there are no more.
    async fn take_event(&mut self) -> bool {
        while self.pending.is_none() {
            // Room for a report first: what is read and cannot be reported would be lost where this is cancelled.
            let report = self.reports.reserve().await;
            match self.source.next().await {
                Next::Event { event, waited } => {
                    self.pending = Some(event);
                    if waited {
                        self.schedule.skip(Instant::now());
                    }
                }
                Next::Invalid(problem) => drop(report.map(|report| report.send(Report::Invalid(problem)))),
                Next::End => return false,
            }
        }
        true
    }

    /// Waits for what is on its way; returns how many ticks were missed.
    ///
    /// What was read from standard input and not sent is reported as undelivered.
    async fn finish(mut self) -> u64 {
        for unsent in self.source.unsent(self.pending.take()).await {
            let _ = self.reports.send(unsent.map_or_else(Report::Invalid, Report::GivenUp)).await;
        }
        while self.deliveries.join_next().await.is_some() {}
        self.missed_ticks
    }
}

/// What bounds the end of a run.
struct End {
    ending: Ending,
    shutdown: Shutdown,
    drain_timeout: Duration,
    hurry: watch::Sender<bool>,
    /// Each event in flight has one of the slots.
    free_slots: Arc<Semaphore>,
    all_slots: usize,
}

impl End {
    /// Waits for what is in flight, and for all reports to be printed.
    ///
    /// A first signal sets the deadline, if there is none yet; at the deadline or a further signal, what is in flight
    /// is given up. None where even then the reports find no reader: a write to a full pipe cannot be called off.
    async fn wait_for<T>(mut self, finishing: impl Future<Output = T>) -> Option<T> {
        let mut finishing = pin!(finishing);
        let mut hurried = self.ending == Ending::Hurried;
        self.hurry.send_replace(hurried);
        let mut deadline = match self.ending {
            Ending::Sent | Ending::Hurried => None,
            Ending::Over => Some(self.deadline("the time is over")),
            Ending::Asked(signal) => Some(self.deadline(&format!("stopping after {signal}"))),
        };
        loop {
            tokio::select! {
                finished = finishing.as_mut() => return Some(finished),
                () = sleep_until_some(deadline) => {
                    if hurried {
                        return None;
                    }
                    hurried = true;
                    match self.in_flight() {
                        0 => {}
                        events => warn!("giving up {} in flight", counted(events)),
                    }
                    self.hurry.send_replace(true);
                    deadline = Some(Instant::now() + REPORT_TIME);
                }
                signal = self.shutdown.requested() => {
                    deadline = match deadline {
                        None => Some(self.deadline(&format!("stopping after {signal}"))),
                        Some(_) => Some(Instant::now()),
                    };
                }
            }
        }
    }

    /// Says what is waited for, and until when it is.
    fn deadline(&self, why: &str) -> Instant {
        let time = humantime::format_duration(self.drain_timeout);
        match self.in_flight() {
            0 => info!("{why}: nothing is in flight"),
            events => {
                info!("{why}: waiting up to {time} for {} in flight; a signal gives up", counted(events))
            }
        }
        Instant::now() + self.drain_timeout
    }

    fn in_flight(&self) -> usize {
        self.all_slots - self.free_slots.available_permits()
    }
}

fn counted(events: usize) -> String {
    if events == 1 { "1 event".to_owned() } else { format!("{events} events") }
}

/// Sleeps to an instant, or for ever.
async fn sleep_until_some(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_from_beside_the_endpoint() {
        for (endpoint, expected) in [
            ("http://a/event", "http://a/token"),
            ("http://a:8000/event?x=y", "http://a:8000/token"),
            ("https://a/ev/event", "https://a/ev/token"),
            ("https://a/ev/event/", "https://a/ev/token"),
            ("https://a", "https://a/token"),
            ("https://a/", "https://a/token"),
        ] {
            assert_eq!(token_beside(&endpoint.parse().unwrap()).to_string(), expected);
        }
    }
}
