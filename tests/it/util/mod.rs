//! What tests need to run the program, to talk to it and to look into its store.

pub mod browser;
pub mod disk;
pub mod follower;
pub mod http;
pub mod http2;
pub mod mail;
pub mod receiver;
pub mod relay;
pub mod sse;
pub mod tls;

use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take that takes no time on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program, in an empty environment and in a directory of its own.
pub fn eventctl(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eventctl"));
    command.current_dir(directory).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// The same, with assertions.
pub fn assert_eventctl(directory: &Path) -> assert_cmd::Command {
    assert_cmd::Command::from_std(eventctl(directory))
}

/// A running program that dies with its test.
pub struct Process {
    child: Child,
    stderr: Arc<Mutex<String>>,
    reading: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts a command; what it says on standard error is kept.
    pub fn start(command: &mut Command) -> Process {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(child.stderr.take().unwrap());
        let kept = Arc::clone(&stderr);
        let reading = thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let mut kept = kept.lock().unwrap();
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        Process { child, stderr, reading: Some(reading) }
    }

    /// Starts a command whose standard error goes where the command says.
    pub fn start_unheard(command: &mut Command) -> Process {
        Process { child: command.spawn().unwrap(), stderr: Arc::default(), reading: None }
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// What the program has said on standard error by now.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Waits until standard error has a line with this text; the line.
    pub fn wait_for_stderr(&mut self, text: &str) -> String {
        let found = wait_until(|| {
            let line = self.stderr().lines().find(|line| line.contains(text)).map(str::to_owned);
            line.or_else(|| self.has_ended().then(String::new))
        });
        assert!(!found.is_empty(), "the program ended without saying `{text}`: {}", self.stderr());
        found
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the program to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let status = wait_until(|| self.child.try_wait().unwrap());
        self.reading.take().map(JoinHandle::join);
        status
    }

    /// Asks the program to stop, and waits for it.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Kills the program as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        assert_eq!(self.wait().signal(), Some(9));
    }

    /// All that the program printed, once it has ended.
    pub fn stdout(&mut self) -> String {
        let mut text = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running `eventctl consume`.
pub struct Consume {
    pub process: Process,
    pub address: SocketAddr,
    scheme: String,
}

impl Consume {
    /// Starts it on a free port and `events.db` in a directory.
    pub fn start(directory: &Path) -> Consume {
        Consume::start_with(directory, &[])
    }

    /// The same, with further arguments.
    pub fn start_with(directory: &Path, arguments: &[&str]) -> Consume {
        let mut command = eventctl(directory);
        command.args(["consume", "--port", "0"]).args(arguments);
        Consume::start_command(&mut command)
    }

    /// Starts a command that runs `consume`, for clients that call it `test`.
    pub fn start_command(command: &mut Command) -> Consume {
        Consume::start_as_it_is(command.env("EVENTCTL_ALLOWED_HOST", "test"))
    }

    /// Starts a command that runs `consume`, with no setting but those that it has.
    pub fn start_as_it_is(command: &mut Command) -> Consume {
        let mut process = Process::start(command);
        let line = process.wait_for_stderr("listening on http");
        let url = word_after(&line, "listening on ");
        let (scheme, address) = url.split_once("://").unwrap();
        Consume { process, address: address.parse().unwrap(), scheme: scheme.to_owned() }
    }

    /// A URL of it.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// A connection to it.
    pub fn connect(&self) -> http::Connection {
        http::Connection::open(self.address)
    }

    /// A connection to it from an address of this machine, such as any of 127.0.0.0/8.
    pub fn connect_from(&self, local: impl Into<IpAddr>) -> http::Connection {
        http::Connection::open_from(local.into(), self.address)
    }

    /// Stores an event, which must be acknowledged.
    pub fn store(&self, event_type: &str, event_payload: &str) {
        let response = self.connect().post_event(event_type, event_payload);
        assert_eq!(response.status, 201, "{response:?}");
    }
}

/// What follows a text in a line, up to white space or the end of a string, whether the line is JSON or not.
pub fn word_after<'a>(line: &'a str, text: &str) -> &'a str {
    let (_, after) = line.split_once(text).unwrap_or_else(|| panic!("no `{text}` in `{line}`"));
    after.split([' ', '"']).next().unwrap()
}

/// A port that nothing listens on.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until there is a value, looking often; fails the test after [`PATIENCE`].
pub fn wait_until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain");
        thread::sleep(Duration::from_millis(2));
    }
}

/// What a store holds: id, type, payload, in the order of the ids. Read without the program.
pub fn stored_events(database: &Path) -> Vec<(i64, String, String)> {
    let connection = rusqlite::Connection::open(database).unwrap();
    let mut select =
        connection.prepare("SELECT id, event_type, event_payload FROM events ORDER BY id").unwrap();
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

/// Writes a file and returns its path.
pub fn write_file(directory: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// Writes a file that only its owner has access to, and returns its path.
pub fn write_secret(directory: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = write_file(directory, name, content);
    set_mode(&path, 0o600);
    path
}

/// Copies a file or a folder, so that programs in it can be run.
///
/// By another process: what this one has open for writing a process may inherit that is just being started, and no
/// program runs while it is open for writing.
pub fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").args(["-R", "-p"]).args([from, to]).status().unwrap().success());
}

/// Sets who has access to a file.
pub fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Runs a command that must fail with this code and say why in two lines: those lines, without their labels.
pub fn refusal_of(command: &mut Command, code: i32) -> (String, String) {
    let mut process = Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    let status = process.wait();
    let stderr = process.stderr();
    assert_eq!(status.code(), Some(code), "{command:?}: {stderr}");
    assert_eq!(process.stdout(), "", "{command:?}");
    let lines: Vec<&str> = stderr.lines().collect();
    let [error, hint] = lines[..] else { panic!("expected two lines: {command:?}: {stderr}") };
    let label = |line: &str, label: &str| match line.strip_prefix(label) {
        Some(text) if !text.is_empty() => text.to_owned(),
        _ => panic!("expected `{label}…`, got `{line}`: {command:?}"),
    };
    (label(error, "error: "), label(hint, "hint: "))
}

/// Ends what waits for it, also where the test has failed.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Random numbers whose seed is printed; `TEST_SEED` repeats a run.
pub fn random() -> fastrand::Rng {
    let given = std::env::var("TEST_SEED").ok();
    let seed = given.map_or_else(|| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}
