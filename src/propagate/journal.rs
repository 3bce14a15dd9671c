//! The journal (`--journal`): each event is on disk under its key before it is sent, so that a run that dies is continued
//! without a loss, and without sending anything under a second key.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::ValueEnum;
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use tracing::warn;
use uuid::Uuid;

use super::dispatch::Dispatch;
use super::line_file::LineFile;
use super::settings::Settings;
use crate::core::journal::{Header, JournalReader, Outcome, Record, line_of_event, line_of_outcome};
use crate::core::outgoing::Outgoing;
use crate::error::{Hint, hinted};

const HINT: &str = "name a file that you may write to with --journal, and that no other run uses";

/// The writing side of a journal. Another process cannot open it meanwhile.
pub struct Journal {
    header: Header,
    file: Arc<Mutex<LineFile>>,
    next_number: u64,
}

/// A journal as a run finds it.
pub struct Opened {
    pub journal: Journal,
    /// Decides how the events of a file are drawn.
    pub seed: u64,
    /// How many events earlier runs have drawn.
    pub drawn: u64,
    /// Those of them that have no outcome, in their order.
    pub unanswered: Vec<Dispatch>,
}

impl Journal {
    /// Opens a journal, or begins one.
    ///
    /// # Errors
    /// The file cannot be used, belongs to a run with other settings, or is in use.
    pub fn open(path: &Path, settings: &Settings) -> anyhow::Result<Opened> {
        let cannot = || format!("cannot use the journal `{}`", path.display());
        let mut file = LineFile::open(path).with_context(cannot).hint(HINT)?;
        let locked = flock(file.file(), FlockOperation::NonBlockingLockExclusive);
        locked.map_err(|_| hinted(format!("{}: another run uses it", cannot()), HINT))?;
        let reader = File::open(path).with_context(cannot).hint(HINT)?;
        let damaged = |problem: String| {
            hinted(
                format!("{}: {problem}", cannot()),
                "name a journal of eventctl, or a file that does not exist",
            )
        };
        let Some(mut reader) = JournalReader::open(BufReader::new(reader)).map_err(damaged)? else {
            let header = header_of(settings);
            file.file().set_len(0).with_context(cannot).hint(HINT)?;
            let written = file.append(&header.to_line()).and_then(|()| file.file().sync_all());
            written.and_then(|()| sync_folder_of(path)).with_context(cannot).hint(HINT)?;
            let seed = header.seed;
            let journal = Journal { header, file: Arc::new(Mutex::new(file)), next_number: 1 };
            return Ok(Opened { journal, seed, drawn: 0, unanswered: Vec::new() });
        };
        check_settings(&reader.header, settings).map_err(|problem| {
            let hint = "give the settings that the journal was begun with, or another journal";
            hinted(format!("{}: it was begun with {problem}", cannot()), hint)
        })?;
        let mut unanswered = BTreeMap::new();
        let mut last = 0;
        while let Some(record) = reader.next().map_err(damaged)? {
            match record {
                Record::Event { number, body, key } => {
                    last = last.max(number);
                    unanswered.insert(number, (body, key));
                }
                Record::Outcome { number, .. } => drop(unanswered.remove(&number)),
            }
        }
        // A torn last line was acted upon by nobody.
        file.file().set_len(reader.position).with_context(cannot).hint(HINT)?;
        let unanswered = unanswered
            .into_iter()
            .map(|(number, (body, key))| {
                let event = Outgoing::recorded(body).map_err(damaged)?;
                Ok(Dispatch { event: Arc::new(event), key: key.into(), number: Some(number) })
            })
            .collect::<anyhow::Result<_>>()?;
        let header = reader.header;
        Ok(Opened {
            seed: header.seed,
            drawn: last,
            unanswered,
            journal: Journal { header, file: Arc::new(Mutex::new(file)), next_number: last + 1 },
        })
    }

    /// Gives events their numbers and keys, and writes them to disk. Blocks for the disk.
    ///
    /// # Errors
    /// The disk's. Then none of them may be sent.
    pub fn record(&mut self, events: &[Arc<Outgoing>]) -> io::Result<Vec<Dispatch>> {
        let mut lines = String::new();
        let mut dispatches = Vec::with_capacity(events.len());
        for (number, event) in (self.next_number..).zip(events) {
            let own_key = event.envelope.key.clone();
            lines += &line_of_event(number, &event.body, own_key.as_deref());
            let key = own_key.unwrap_or_else(|| self.header.key_of(number)).into();
            dispatches.push(Dispatch { event: Arc::clone(event), key, number: Some(number) });
        }
        let mut file = self.file.lock();
        file.append(&lines)?;
        if let Err(error) = file.file().sync_data() {
            // The next run must not send under their keys what is reported as not sent.
            let _ = file.remove_last(lines.len());
            return Err(error);
        }
        self.next_number += dispatches.len() as u64;
        Ok(dispatches)
    }

    pub fn outcomes(&self) -> OutcomeLog {
        OutcomeLog { file: Arc::clone(&self.file), lines: String::new(), has_failed: false }
    }

    pub fn path(&self) -> PathBuf {
        self.file.lock().path().to_owned()
    }
}

fn header_of(settings: &Settings) -> Header {
    let seed = settings.seed.unwrap_or_else(|| fastrand::u64(..));
    Header::new(Uuid::now_v7().simple().to_string(), name_of(settings.format), name_of(settings.order), seed)
}

/// # Errors
/// What the journal was begun with, where it is something else.
fn check_settings(header: &Header, settings: &Settings) -> Result<(), String> {
    if header.format != name_of(settings.format) {
        return Err(format!("--format {}", header.format));
    }
    if header.order != name_of(settings.order) {
        return Err(format!("--order {}", header.order));
    }
    match settings.seed {
        Some(seed) if seed != header.seed => Err(format!("--seed {}", header.seed)),
        _ => Ok(()),
    }
}

/// A value as the command line names it.
fn name_of(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Makes the name of a new file durable.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Writes the outcomes of events. One that is lost has its event sent again, under its key.
pub struct OutcomeLog {
    file: Arc<Mutex<LineFile>>,
    lines: String,
    has_failed: bool,
}

impl OutcomeLog {
    pub fn note(&mut self, number: u64, outcome: Outcome, status: Option<u16>) {
        self.lines += &line_of_outcome(number, outcome, status);
    }

    /// Writes what was noted. It need not be on disk at once.
    pub fn flush(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        let mut file = self.file.lock();
        if let Err(error) = file.append(&self.lines)
            && !std::mem::replace(&mut self.has_failed, true)
        {
            warn!(
                "cannot write to the journal `{}` what was answered, and sends it again next time: {error}",
                file.path().display()
            );
        }
        self.lines.clear();
    }
}
