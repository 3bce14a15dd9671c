//! The file of events that were not delivered.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::super::source::Outgoing;
use crate::core::hint::Hint;

/// A file to which events are appended as NDJSON, for `--file` to read again.
pub struct DeadLetters {
    path: PathBuf,
    file: File,
    /// A part of a line stands at the end, which could not be taken back.
    torn: bool,
}

impl DeadLetters {
    /// Opens the file, or makes one that nobody else can read.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn open(path: &Path) -> anyhow::Result<DeadLetters> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("cannot write dead letters to `{}`", path.display()))
            .hint("name a file that you may write to with --dead-letter")?;
        Ok(DeadLetters { path: path.to_owned(), file, torn: false })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends an event: all of its line or, as far as it can be helped, nothing.
    ///
    /// # Errors
    /// The file takes no more.
    pub fn keep(&mut self, event: &Outgoing) -> io::Result<()> {
        let line = format!("{}{}\n", if self.torn { "\n" } else { "" }, event.in_one_line());
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            let result = match self.file.write(rest) {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    rest = &rest[written..];
                    Ok(())
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                let written = line.len() - rest.len();
                self.torn = written > 0 && self.take_back(written).is_err() || self.torn && written == 0;
                return Err(error);
            }
        }
        self.torn = false;
        Ok(())
    }

    /// Cuts so many bytes off the end of the file: room for a part of a line is room for none.
    fn take_back(&self, bytes: usize) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        self.file.set_len(length.saturating_sub(bytes as u64))
    }
}
