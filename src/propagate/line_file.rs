//! A file to which whole lines are appended.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub struct LineFile {
    path: PathBuf,
    file: File,
    /// The file ends with part of a line, which could not be removed.
    torn: bool,
}

impl LineFile {
    /// Opens the file, or creates one that only its owner can read.
    pub fn open(path: &Path) -> io::Result<LineFile> {
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        Ok(LineFile { path: path.to_owned(), file, torn: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Appends lines with their ends: all of them or, as far as possible, nothing.
    pub fn append(&mut self, lines: &str) -> io::Result<()> {
        let lines = format!("{}{lines}", if self.torn { "\n" } else { "" });
        let mut rest = lines.as_bytes();
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
                let written = lines.len() - rest.len();
                self.torn = written > 0 && self.remove_last(written).is_err() || self.torn && written == 0;
                return Err(error);
            }
        }
        self.torn = false;
        Ok(())
    }

    /// Removes what was appended last.
    pub fn remove_last(&self, bytes: usize) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        self.file.set_len(length.saturating_sub(bytes as u64))
    }
}
