//! How a file becomes a connection to a store that is ours and prepared, and what to say where it does not.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::error::hinted;
use crate::store::error::Cause;
use crate::store::schema;

/// `EVNT`: marks a file as ours, for `file` and for ourselves.
const APPLICATION_ID: i32 = 0x4556_4E54;

/// The schemas, in order; a file's `user_version` says how many it has.
const SCHEMAS: [&str; 5] = [
    include_str!("../schema/sqlite-1.sql"),
    include_str!("../schema/sqlite-2.sql"),
    include_str!("../schema/sqlite-3.sql"),
    include_str!("../schema/sqlite-4.sql"),
    include_str!("../schema/sqlite-5.sql"),
];

/// How many statements the writer keeps prepared: all that it has, so that those of workers do not displace those of appends.
const PREPARED_STATEMENTS: usize = 128;

/// How long to wait for another process's lock.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait where SQLite does not.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// The log is copied into the database after this many pages of 4 KiB: 16 MiB.
///
/// SQLite's own default of 1,000 syncs the database four times as often.
const CHECKPOINT_AFTER_PAGES: i64 = 4000;

/// The file of the log is cut to this size where it has grown beyond it, which it does while a reader keeps it from
/// being started anew. Twice the size at which it is copied: a sync costs less where it does not extend the file, so
/// what the steady state needs is kept.
pub const LOG_LIMIT_BYTES: i64 = 2 * CHECKPOINT_AFTER_PAGES * (4096 + 24);

/// Which files the database and its log are, whatever their names: device and inode of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentities {
    pub database: (u64, u64),
    pub log: Option<(u64, u64)>,
}

impl FileIdentities {
    pub fn of(path: &Path) -> io::Result<FileIdentities> {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        Ok(FileIdentities {
            database: identity(fs::metadata(path)?),
            log: fs::metadata(log_of(path)).ok().map(identity),
        })
    }
}

pub fn file_is_gone(error: &io::Error) -> Cause {
    Cause::message(format!("the database file is gone: {error}"))
}

/// The path of a database's log.
pub fn log_of(path: &Path) -> PathBuf {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

/// Makes an empty file of mode 0600 that outlives a power cut, unless there is a file already.
pub fn create_file(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file.sync_all()?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(error),
    }
    sync_directory(path)
}

/// Makes the name of a file outlive a power cut.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

/// Opens a store for writing, and upgrades its schema.
pub fn open_to_write(path: &Path) -> anyhow::Result<Connection> {
    let mut connection = connect_to_write(path)?;
    let version = schema_version(&connection).map_err(|error| cannot_write(path, &error))?;
    check_version(path, version)?;
    patiently(|| set_up(&mut connection)).map_err(|error| cannot_write(path, &error))?;
    Ok(connection)
}

fn connect_to_write(path: &Path) -> anyhow::Result<Connection> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.set_prepared_statement_cache_capacity(PREPARED_STATEMENTS);
    // SQLite takes a file that cannot be written to for one that is to be read.
    if connection.is_readonly("main").map_err(|error| cannot_write(path, &error))? {
        let reason = OpenOptions::new().append(true).open(path).err();
        let reason = reason.map_or_else(|| "it is read-only".to_owned(), |error| error.to_string());
        return Err(hinted(format!("cannot write `{}`: {reason}", path.display()), HINT_TO_WRITE));
    }
    Ok(connection)
}

/// A connection that reads, and what it was opened on.
pub struct ReadConnection {
    pub connection: Connection,
    pub files: FileIdentities,
    /// Where nothing was locked because the file was taken for one that nobody changes: its size and time.
    unchanged_since: Option<(u64, SystemTime)>,
}

/// Opens a store that is prepared.
pub fn open_to_read(path: &Path) -> anyhow::Result<ReadConnection> {
    // SQLite removes a log that lies beside an empty file. Of two processes that do so at once one
    // fails, and it may be the one that is making the store.
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() == 0) {
        return Err(not_prepared(path));
    }
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut version = schema_version(&connection);
    let mut unchanged_since = None;
    if version.as_ref().is_err_and(is_for_lack_of_an_index) && !log_of(path).exists() {
        unchanged_since =
            Some(size_and_time(path).with_context(|| format!("cannot open `{}`", path.display()))?);
        connection = connect_immutable(path)?;
        version = schema_version(&connection);
    }
    let version = version.map_err(|error| cannot_read(path, &error))?;
    check_version(path, version)?;
    if version.is_none_or(|version| version < SCHEMAS.len()) {
        return Err(not_prepared(path));
    }
    let files = FileIdentities::of(path).with_context(|| format!("cannot open `{}`", path.display()))?;
    Ok(ReadConnection { connection, files, unchanged_since })
}

impl ReadConnection {
    /// Whether the file has changed although it was taken for one that does not.
    pub fn has_changed(&self, path: &Path) -> bool {
        self.unchanged_since.is_some_and(|then| size_and_time(path).is_ok_and(|now| now != then))
    }
}

/// What changes with the content of a file.
fn size_and_time(path: &Path) -> io::Result<(u64, SystemTime)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.len(), metadata.modified()?))
}

/// Whether a file was not read because the index of its log, which all readers share, can neither be found nor made.
fn is_for_lack_of_an_index(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly))
}

fn connect(path: &Path, access: OpenFlags) -> anyhow::Result<Connection> {
    if path.is_dir() {
        let problem = format!("cannot open `{}`: it is a folder", path.display());
        return Err(hinted(problem, "name a file in it, such as events.db"));
    }
    let opened = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX);
    opened.and_then(patient).map_err(|error| {
        // SQLite would say no more than "unable to open database file". Where it has opened the file, closing
        // another handle would give up the locks of the whole process.
        match File::open(path) {
            Err(reason) => cannot_open(path, &reason),
            Ok(_) => cannot_read(path, &error),
        }
    })
}

/// A file that nobody writes to, which needs no index of a log.
fn connect_immutable(path: &Path) -> anyhow::Result<Connection> {
    let absolute = std::path::absolute(path).with_context(|| format!("cannot open `{}`", path.display()))?;
    let mut url = String::from("file://");
    for byte in absolute.as_os_str().as_encoded_bytes() {
        match byte {
            b'?' | b'#' | b'%' => url.push_str(&format!("%{byte:02x}")),
            _ if byte.is_ascii() => url.push(char::from(*byte)),
            _ => url.push_str(&format!("%{byte:02x}")),
        }
    }
    url.push_str("?immutable=1");
    let access =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(url, access).map_err(|error| cannot_read(path, &error))
}

fn patient(connection: Connection) -> rusqlite::Result<Connection> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

const HINT_TO_WRITE: &str = "make the file and its directory writable for this user, on a file system that is not \
    read-only";

/// The system does not open the file.
fn cannot_open(path: &Path, error: &io::Error) -> anyhow::Error {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => {
            format!("check the path, or run eventctl init-db --db {}", path.display())
        }
        io::ErrorKind::PermissionDenied => {
            "give this user read access to the file and to the directories above it".to_owned()
        }
        _ => "name a file that is an eventctl database".to_owned(),
    };
    hinted(format!("cannot open `{}`: {error}", path.display()), hint)
}

/// SQLite does not read the file.
fn cannot_read(path: &Path, error: &rusqlite::Error) -> anyhow::Error {
    if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) {
        return not_ours(path);
    }
    let log = log_of(path);
    if is_for_lack_of_an_index(error) && log.exists() {
        let (path, log) = (path.display(), log.display());
        let problem =
            format!("cannot open `{path}`: {error}, as the index of its log `{log}` cannot be made");
        let hint = "copy both to a directory that you may write to; or stop the consume that writes it, which leaves \
            no log";
        return hinted(problem, hint);
    }
    let problem = format!("cannot open `{}`: {error}", path.display());
    hinted(problem, "name a file that is an eventctl database and that this user may read")
}

/// SQLite does not write to the file.
fn cannot_write(path: &Path, error: &rusqlite::Error) -> anyhow::Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => not_ours(path),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly) => {
            hinted(format!("cannot write `{}`: {error}", path.display()), HINT_TO_WRITE)
        }
        Some(ErrorCode::DiskFull) => {
            hinted(format!("cannot write `{}`: {error}", path.display()), "make room on its file system")
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            let hint =
                "end what holds it: another program that writes to it, or a shell with an open transaction";
            hinted(format!("cannot write `{}`: {error}", path.display()), hint)
        }
        _ => {
            let hint = "name a file that is an eventctl database, and check its disk";
            hinted(format!("cannot open `{}`: {error}", path.display()), hint)
        }
    }
}

fn not_ours(path: &Path) -> anyhow::Error {
    let problem = format!("cannot open `{}`: not an eventctl database", path.display());
    hinted(problem, "name another file, or run eventctl init-db --db with a new name")
}

fn not_prepared(path: &Path) -> anyhow::Error {
    let problem = format!("cannot read `{}`: it is not prepared", path.display());
    hinted(problem, format!("run eventctl init-db --db {}", path.display()))
}

/// How many of our schemas the file has; none where it is another program's.
fn schema_version(connection: &Connection) -> rusqlite::Result<Option<usize>> {
    // What marks the file is read last: another process that is making the tables commits all of this at once.
    let objects: usize = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let version: usize = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application_id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let empty = application_id == 0 && version == 0 && objects == 0;
    Ok((application_id == APPLICATION_ID || empty).then_some(version))
}

pub fn check_version(path: &Path, version: Option<usize>) -> anyhow::Result<()> {
    let version = version.ok_or_else(|| not_ours(path))?;
    schema::check_not_too_new(path.display(), version, SCHEMAS.len())
}

/// Repeats what another process is in the way of.
///
/// SQLite itself does not wait where two connections turn on its log at the same time.
fn patiently<T>(mut step: impl FnMut() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match step() {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && Instant::now() < deadline =>
            {
                thread::sleep(BUSY_PAUSE);
            }
            result => return result,
        }
    }
}

/// Turns on durable commits and applies the schemas that the file lacks.
fn set_up(connection: &mut Connection) -> rusqlite::Result<()> {
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let synchronous: i32 = connection.pragma_query_value(None, "synchronous", |row| row.get(0))?;
    if mode != "wal" || synchronous != 2 {
        let message = format!("journal mode is `{mode}` and synchronous is {synchronous}, not wal and 2");
        return Err(rusqlite::Error::ToSqlConversionFailure(message.into()));
    }
    // Where fsync does not reach the disk (macOS), this does; elsewhere it changes nothing.
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_AFTER_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", LOG_LIMIT_BYTES)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version = schema_version(&transaction)?.unwrap_or(SCHEMAS.len());
    for schema in SCHEMAS.iter().skip(version) {
        transaction.execute_batch(schema)?;
    }
    if version < SCHEMAS.len() {
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", SCHEMAS.len())?;
    }
    transaction.commit()
}
