//! The source of events: a file in some order, or standard input.

mod file;
mod next;
mod stdin;

use std::path::Path;
use std::sync::Arc;

pub use self::file::FILE_HINT;
use self::file::FileEvents;
pub use self::next::Next;
use self::stdin::StdinEvents;
use super::settings::Order;
use super::template::TemplateClock;
use crate::core::outgoing::Outgoing;

pub enum Source {
    /// The events of a file, repeated forever.
    File(FileEvents),
    /// The events of standard input, each once.
    Stdin(StdinEvents),
}

impl Source {
    /// Opens a file, or standard input if the path is `-`; of that at most `count` events are read.
    ///
    /// # Errors
    /// The file cannot be read, or is not a list of objects; names line and column.
    pub fn open(
        path: &Path,
        order: Order,
        seed: Option<u64>,
        count: Option<u64>,
        template: Option<TemplateClock>,
    ) -> anyhow::Result<Source> {
        if path == Path::new("-") {
            return Ok(Source::Stdin(StdinEvents::start(count)?));
        }
        let random = seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        FileEvents::open(path, order, random, template).map(Source::File)
    }

    /// The next event; waits for standard input.
    pub async fn next(&mut self) -> Next {
        match self {
            Source::File(file) => file.next(),
            Source::Stdin(stdin) => stdin.next().await,
        }
    }

    /// The number of events before they repeat; none for standard input.
    pub fn cycle(&self) -> Option<u64> {
        match self {
            Source::File(file) => Some(file.cycle()),
            Source::Stdin(_) => None,
        }
    }

    /// The next event, if there is one without waiting.
    pub fn try_next(&mut self) -> Option<Next> {
        match self {
            Source::File(file) => Some(file.next()),
            Source::Stdin(stdin) => stdin.try_next(),
        }
    }

    /// Draws events that earlier runs have drawn.
    pub fn pass_over(&mut self, events: u64) {
        if let Source::File(file) = self {
            (0..events).for_each(|_| drop(file.next()));
        }
    }

    /// Stops reading standard input. Returns what was read and not sent, and the problems in between.
    pub async fn unsent(&mut self) -> Vec<Result<Arc<Outgoing>, String>> {
        match self {
            Source::File(_) => Vec::new(),
            Source::Stdin(stdin) => stdin.stop().await,
        }
    }
}
