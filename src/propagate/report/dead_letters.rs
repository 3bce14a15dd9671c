//! The dead-letter file: events that were not delivered.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::error::Hint;

/// A file to which envelopes of events are appended, a line each, for `--file` to read again.
pub struct DeadLetters {
    path: PathBuf,
    file: File,
    /// The file ends with part of a line, which could not be removed.
    torn: bool,
}

impl DeadLetters {
    /// Opens the file, or creates one that only its owner can read.
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

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends an envelope: its whole line or, as far as possible, nothing.
    pub fn append(&mut self, envelope: &str) -> io::Result<()> {
        let line = format!("{}{}\n", if self.torn { "\n" } else { "" }, envelope);
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
                self.torn = written > 0 && self.truncate(written).is_err() || self.torn && written == 0;
                return Err(error);
            }
        }
        self.torn = false;
        Ok(())
    }

    /// Removes the last bytes of the file.
    fn truncate(&self, bytes: usize) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        self.file.set_len(length.saturating_sub(bytes as u64))
    }
}
