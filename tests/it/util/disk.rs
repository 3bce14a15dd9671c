//! A disk that records what reaches it and fails on demand, between the program and the system.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::eventctl;

/// What a disk can be made to do.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Writes of the store's files fail for lack of space.
    NoSpace,
    /// Syncs fail.
    BadSync,
    /// Syncs of the database fail, those of its log do not.
    BadDatabaseSync,
    /// Syncs are acknowledged and not done, as with `synchronous=OFF`.
    NoSync,
}

impl Fault {
    /// The name of the file that switches it on.
    fn flag(self) -> &'static str {
        match self {
            Fault::NoSpace => "no-space",
            Fault::BadSync => "bad-sync",
            Fault::BadDatabaseSync => "bad-database-sync",
            Fault::NoSync => "no-sync",
        }
    }
}

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Database,
    Wal,
    Directory,
    Socket,
}

/// Something that the program did.
#[derive(Debug)]
pub enum Operation {
    Write {
        offset: usize,
        data: Vec<u8>,
    },
    Truncate {
        length: usize,
    },
    SyncBegun,
    SyncDone,
    SyncFailed,
    /// The beginning of an HTTP response, before it was sent.
    Response {
        head: String,
    },
}

/// An operation and where it happened. Its position in the log is its time.
#[derive(Debug)]
pub struct Record {
    pub place: Place,
    pub operation: Operation,
}

impl Record {
    pub fn is_sync_done(&self, place: Place) -> bool {
        self.place == place && matches!(self.operation, Operation::SyncDone)
    }

    /// The id of the event that this record acknowledges.
    pub fn acknowledged(&self) -> Option<i64> {
        let Operation::Response { head } = &self.operation else { return None };
        let location = head.strip_prefix("HTTP/1.1 201 ")?.split("location: event/").nth(1)?;
        location.split("\r\n").next()?.parse().ok()
    }
}

/// A disk for one process at a time.
pub struct Disk {
    directory: PathBuf,
}

impl Disk {
    /// A disk that keeps its log and its switches in a directory.
    pub fn new(directory: &Path) -> Disk {
        let directory = directory.join("disk");
        fs::create_dir(&directory).unwrap();
        Disk { directory }
    }

    /// The program on this disk, in a directory of its own.
    pub fn eventctl(&self, directory: &Path) -> Command {
        let mut command = eventctl(directory);
        command.env("LD_PRELOAD", library()).env("DISK_DIRECTORY", &self.directory);
        command
    }

    pub fn switch_on(&self, fault: Fault) {
        File::create(self.directory.join(fault.flag())).unwrap();
    }

    pub fn switch_off(&self, fault: Fault) {
        fs::remove_file(self.directory.join(fault.flag())).unwrap();
    }

    /// What has happened by now.
    pub fn log(&self) -> Vec<Record> {
        self.log_after(&mut 0)
    }

    /// What has happened since the log had so many bytes; adds to them what it has read.
    pub fn log_after(&self, bytes_read: &mut u64) -> Vec<Record> {
        let mut file = File::open(self.directory.join("log")).unwrap();
        file.seek(SeekFrom::Start(*bytes_read)).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        let mut rest = bytes.as_slice();
        let mut records = Vec::new();
        // The last record may be on its way.
        while let Some(record) = read_record(&mut rest) {
            records.push(record);
        }
        *bytes_read += u64::try_from(bytes.len() - rest.len()).unwrap();
        records
    }
}

fn read_record(rest: &mut &[u8]) -> Option<Record> {
    let (head, mut after) = rest.split_at_checked(32)?;
    let number = |n: usize| u64::from_ne_bytes(head[n * 8..][..8].try_into().unwrap());
    let place = match number(1) {
        1 => Place::Database,
        2 => Place::Wal,
        3 => Place::Directory,
        4 => Place::Socket,
        unknown => panic!("unknown file {unknown}"),
    };
    let (offset, length) = (usize::try_from(number(2)).unwrap(), usize::try_from(number(3)).unwrap());
    let mut data = || {
        let (data, rest) = after.split_at_checked(length)?;
        after = rest;
        Some(data.to_vec())
    };
    let operation = match number(0) {
        1 => Operation::Write { offset, data: data()? },
        2 => Operation::Truncate { length: offset },
        3 => Operation::SyncBegun,
        4 => Operation::SyncDone,
        5 => Operation::SyncFailed,
        6 => Operation::Response { head: String::from_utf8_lossy(&data()?).into_owned() },
        unknown => panic!("unknown operation {unknown}"),
    };
    *rest = after;
    Some(Record { place, operation })
}

/// Compiles the library once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/util/disk.c");
        let fresh = directory.join(format!("disk-{}.so", std::process::id()));
        let library = directory.join("disk.so");
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-Wall", "-Wextra", "-shared", "-fPIC", "-o"]).arg(&fresh).arg(source);
        let compiled = compiler.args(["-ldl", "-lpthread"]).output().unwrap();
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        // Another run of the tests may be using the library.
        fs::rename(fresh, &library).unwrap();
        library
    })
}
