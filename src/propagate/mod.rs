//! `eventctl propagate`: source → schedule → sender → attempts → report. A slow receiver never delays the schedule.

mod attempt;
mod clock;
mod dispatch;
mod drain;
mod feed;
mod journal;
mod line_file;
mod metrics;
mod reason;
mod report;
mod scheduler;
mod sender;
mod settings;
mod source;
mod template;
mod token;

use std::future;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::Context;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info};

use self::drain::{Drain, StopReason, sleep_until_some};
use self::feed::Feed;
use self::journal::{Journal, Opened, OutcomeLog};
use self::metrics::Metrics;
use self::report::{Reporter, check_files, judge, write_histogram, write_junit};
use self::scheduler::Scheduler;
use self::sender::Sender;
pub use self::settings::{Arrivals, EventFormat, Header, Order, Pace, ReportFormat, Settings};
use self::source::{Next, Source};
pub use self::template::TemplateClock;
use crate::auth::login::Authorization;
use crate::client::HttpClient;
use crate::error::hinted;
use crate::exposition;
use crate::shutdown::Shutdown;

/// Sends events until there are no more, `--duration` has elapsed, or a signal arrives. Returns whether all were
/// delivered.
///
/// # Errors
/// The events cannot be read, the receiver is not healthy, or the output cannot be written.
pub fn run(settings: Settings) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let all_delivered = runtime.block_on(propagate(&settings));
    // A name may still be being resolved: that cannot be cancelled.
    runtime.shutdown_background();
    all_delivered
}

async fn propagate(settings: &Settings) -> anyhow::Result<bool> {
    if settings.dry_run {
        let mut source = open_source(settings, settings.seed, settings.count)?;
        print_events(&mut source, settings.count).await?;
        return Ok(true);
    }
    let mut shutdown = Shutdown::listen_with_hangup()?;
    let mut run = Run::start(settings, Plan::of(settings)?).await?;
    tokio::select! {
        ready = run.wait_until_ready() => ready?,
        _ = shutdown.requested() => return Ok(true),
    }
    let reason = run.send(&mut shutdown).await;
    run.drain(reason, shutdown).await
}

fn open_source(settings: &Settings, seed: Option<u64>, count: Option<u64>) -> anyhow::Result<Source> {
    Source::open(&settings.file, settings.order, seed, count, settings.template)
}

/// Prints the events that a run would send first: `--count` of them, or each of the file once.
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

/// What a run sends, and how much of it.
struct Plan {
    feed: Feed,
    /// `None` for all that there is.
    count: Option<u64>,
    outcomes: Option<OutcomeLog>,
}

impl Plan {
    /// Opens the journal, if there is one, and the source, which goes on where the journal ends.
    fn of(settings: &Settings) -> anyhow::Result<Plan> {
        let Some(path) = &settings.journal else {
            let source = open_source(settings, settings.seed, settings.count)?;
            return Ok(Plan { feed: Feed::unrecorded(source), count: settings.count, outcomes: None });
        };
        let Opened { journal, seed, drawn, unanswered } = Journal::open(path, settings)?;
        let left = settings.count.map(|count| count.saturating_sub(drawn));
        let mut source = open_source(settings, Some(seed), left)?;
        source.pass_over(drawn);
        if drawn > 0 {
            let unanswered = unanswered.len();
            info!("the journal goes on after event {drawn}: {unanswered} without an answer are sent again");
        }
        let count = left.map(|left| left + unanswered.len() as u64);
        let outcomes = Some(journal.outcomes());
        Ok(Plan {
            feed: Feed::recorded(source, journal, unanswered, settings.shortest_gap(), left),
            count,
            outcomes,
        })
    }
}

/// A run of sends: all that lives from its start to its summary.
struct Run<'a> {
    settings: &'a Settings,
    authorization: Authorization,
    scheduler: Scheduler,
    reporter: Reporter,
    abort: watch::Sender<bool>,
    /// The metrics endpoint and the renewal of the token, which end with the run.
    background: JoinSet<()>,
    begun_at: SystemTime,
    /// Why nothing more could be sent.
    failure: Option<anyhow::Error>,
}

impl<'a> Run<'a> {
    /// Sends nothing yet.
    async fn start(settings: &'a Settings, plan: Plan) -> anyhow::Result<Run<'a>> {
        check_files(settings)?;
        let Plan { feed, count, outcomes } = plan;
        let http = HttpClient::from_settings(&settings.tls, settings.max_in_flight, settings.timeout)?;
        let authorization = token::authorization(settings, &http)?;
        let (metrics, registry) = Metrics::new();
        let mut background = JoinSet::new();
        if let Some(address) = &settings.metrics {
            serve_metrics(&mut background, address, registry).await?;
        }
        let (reporter, reports) = Reporter::start(settings, metrics.clone(), outcomes)?;
        let (abort, aborted) = watch::channel(false);
        let sender = Sender::new(settings, http, authorization.clone(), reports.clone(), aborted);
        let scheduler = Scheduler::new(settings, feed, count, sender, reports, metrics)?;
        Ok(Run {
            settings,
            authorization,
            scheduler,
            reporter,
            abort,
            background,
            begun_at: SystemTime::now(),
            failure: None,
        })
    }

    /// Waits for a healthy receiver and for the first token.
    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        if let Some(health) = &self.settings.health {
            let probed = self.scheduler.sender().probe(health, self.settings.health_timeout).await;
            probed.map_err(|problem| {
                let hint = "start the receiver, or give --health-timeout more time";
                hinted(format!("cannot send to an unhealthy receiver: {health}: {problem}"), hint)
            })?;
        }
        token::log_in(&self.authorization, self.settings.retries).await?;
        let authorization = self.authorization.clone();
        self.background.spawn(async move { match authorization.renew().await {} });
        Ok(())
    }

    async fn send(&mut self, shutdown: &mut Shutdown) -> StopReason {
        let begins = self.settings.start_at.map_or_else(Instant::now, |start| start.max(Instant::now()));
        let end = self.settings.duration.map(|duration| begins + duration);
        tokio::select! {
            sent = self.scheduler.send_events() => match sent {
                Ok(()) => StopReason::AllSent,
                Err(error) => {
                    self.failure = Some(error);
                    StopReason::JournalFailed
                }
            },
            () = sleep_until_some(end) => StopReason::DurationElapsed,
            () = self.reporter.output_closed() => StopReason::OutputClosed,
            signal = shutdown.requested() => StopReason::Signal(signal),
        }
    }

    /// Waits for events in flight, and prints the summary.
    async fn drain(self, reason: StopReason, shutdown: Shutdown) -> anyhow::Result<bool> {
        let Run { settings, authorization: _, scheduler, reporter, abort, background, begun_at, failure } =
            self;
        let slots = scheduler.slots().clone();
        let drain = Drain { reason, shutdown, timeout: settings.drain_timeout, abort, slots };
        let finishing = async {
            let missed_ticks = scheduler.finish().await;
            reporter.finish(missed_ticks, settings.output).await
        };
        let Some(summary) = drain.wait_for(finishing).await else {
            let hint = "read on, or print less with -q";
            return Err(hinted("cannot report: nobody reads standard output", hint));
        };
        // Retries of events in flight need fresh tokens.
        drop(background);
        let summary = summary.context("cannot report")?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        if let Some(path) = &settings.histogram {
            write_histogram(path, &summary, begun_at)?;
        }
        let judged = judge(&settings.fail_if, &summary);
        for failed in &judged {
            if let Some(reason) = &failed.reason {
                error!("the run has failed: {}: it is {reason}", failed.condition);
            }
        }
        if let Some(path) = &settings.junit {
            write_junit(path, &judged)?;
        }
        Ok(summary.is_complete() && judged.iter().all(|judged| judged.reason.is_none()))
    }
}

async fn serve_metrics(
    background: &mut JoinSet<()>,
    address: &str,
    registry: Registry,
) -> anyhow::Result<()> {
    let listener = exposition::listen(address).await?;
    let registry = Arc::new(registry);
    let expose = move |format| future::ready(exposition::text_of(&registry, format));
    background.spawn(async move {
        exposition::serve(listener, expose).await;
    });
    Ok(())
}
