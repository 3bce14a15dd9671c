//! A consistent copy of a store that may be in use.
//!
//! `VACUUM INTO` reads one state of the store, its log included, whoever writes meanwhile. The copy is made under
//! another name and synced before it gets its own: whenever the process is killed, it is whole or absent.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::open::{open_to_read, sync_directory};
use crate::error::{Hint, hinted};

/// Copies a store into a file that does not exist yet.
///
/// # Errors
/// What is wrong with either, and what to do. There is no copy then.
pub fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    if fs::symlink_metadata(to).is_ok() {
        return Err(exists(to));
    }
    let source = open_to_read(from)?.connection;
    let partial = Partial::create(to)?;
    source
        .execute("VACUUM INTO ?1", [partial.sqlite_path()?])
        .with_context(|| format!("cannot copy `{}` to `{}`", from.display(), to.display()))
        .hint("make room for a second copy, and check that the first can be read")?;
    partial.complete(to)
}

fn exists(to: &Path) -> anyhow::Error {
    hinted(
        format!("cannot create `{}`: it exists", to.display()),
        "name a new file, or remove this one first",
    )
}

fn cannot_create(to: &Path) -> String {
    format!("cannot create `{}`", to.display())
}

/// A copy that is being made. It is removed when it is dropped, and by the next one where the process was killed.
struct Partial {
    path: PathBuf,
    /// Locked for as long as it is being made.
    file: File,
}

impl Partial {
    fn create(to: &Path) -> anyhow::Result<Partial> {
        let mut path = OsString::from(to);
        path.push(".partial");
        let path = PathBuf::from(path);
        remove_abandoned(&path)
            .and_then(|()| OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path))
            .and_then(|file| lock(&file).map(|()| file))
            .map(|file| Partial { path: path.clone(), file })
            .with_context(|| format!("{}: `{}`", cannot_create(to), path.display()))
            .hint("name a file in a directory that exists and that you may write to; one copy is made at a time")
    }

    /// The path as SQLite takes no URL for.
    fn sqlite_path(&self) -> anyhow::Result<String> {
        let absolute = std::path::absolute(&self.path).with_context(|| cannot_create(&self.path))?;
        let path = absolute.into_os_string().into_string();
        path.map_err(|_| hinted(cannot_create(&self.path), "name a file whose whole path is UTF-8"))
    }

    /// Syncs the copy and gives it its name, unless that is taken by now.
    fn complete(self, to: &Path) -> anyhow::Result<()> {
        let named = self.name(to);
        if named.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
            return Err(exists(to));
        }
        named.with_context(|| cannot_create(to)).hint("check the disk, and copy again")
    }

    fn name(&self, to: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        if fs::metadata(&self.path)?.ino() != self.file.metadata()?.ino() {
            return Err(io::Error::other("another copy is being made"));
        }
        match fs::hard_link(&self.path, to) {
            // Some file systems know no links.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists && !to.exists() => {
                fs::rename(&self.path, to)?;
            }
            linked => linked?,
        }
        sync_directory(to)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_file(journal_of(&self.path));
        let _ = fs::remove_file(&self.path);
    }
}

/// The file by which SQLite undoes what it has not finished.
fn journal_of(path: &Path) -> PathBuf {
    let mut journal = OsString::from(path);
    journal.push("-journal");
    journal.into()
}

/// Removes what a killed process has left, which nobody holds a lock on.
fn remove_abandoned(path: &Path) -> io::Result<()> {
    match File::open(path) {
        Ok(abandoned) => {
            lock(&abandoned)?;
            remove(&journal_of(path))?;
            remove(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => remove(&journal_of(path)),
        Err(error) => Err(error),
    }
}

/// Removes a file if there is one.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn lock(file: &File) -> io::Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(io::Error::other("another copy is being made")),
        Err(TryLockError::Error(error)) => Err(error),
        Ok(()) => Ok(()),
    }
}
