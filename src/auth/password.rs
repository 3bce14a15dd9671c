//! The password, as its Argon2id hash alone, checked on a thread of its own.
//!
//! To check a password takes time by intent. One thread of the lowest priority does it, whatever comes
//! in, so that events do not wait for logins.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::Context;
use argon2::{Algorithm, Argon2, Block, Params, Version};
use subtle::{Choice, ConstantTimeEq};
use tokio::sync::oneshot;

use super::grant::Credentials;
use super::{digest_of, random};

/// OWASP's Password Storage Cheat Sheet: 19 MiB, 2 passes, 1 lane.
const MEMORY_KIB: u32 = 19 << 10;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Checks that wait for the thread: about a second's worth.
const WAITING_LIMIT: usize = 32;

/// How much the thread yields to the others of the machine, of at most 19.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 19;

/// The handle of the thread, which ends when it is dropped.
pub struct PasswordChecker {
    questions: SyncSender<Question>,
}

struct Question {
    readings: Vec<Credentials>,
    answer: oneshot::Sender<bool>,
}

/// Too many checks wait already.
#[derive(Debug)]
pub struct Busy;

impl PasswordChecker {
    /// Starts the thread; the password itself is not kept. Beside it a key that is the same wherever name and
    /// password are, and another where either has changed.
    ///
    /// # Errors
    /// The system gives no thread or no random bytes.
    pub fn start(credentials: Credentials) -> anyhow::Result<(PasswordChecker, [u8; 32])> {
        let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("the parameters are in range");
        let mut hasher = Hasher {
            memory: vec![Block::default(); params.block_count()],
            argon2: Argon2::new(Algorithm::Argon2id, Version::V0x13, params),
        };
        let username = digest_of(&credentials.username);
        let key = hasher.hash(credentials.password.expose(), &username);
        let salt: [u8; 16] = random()?;
        let password = hasher.hash(credentials.password.expose(), &salt);
        let expected = Expected { username, password, salt };
        drop(credentials);
        let (questions, asked) = sync_channel(WAITING_LIMIT);
        thread::Builder::new()
            .name("password checker".to_owned())
            .spawn(move || answer_all(&asked, &mut hasher, &expected))
            .context("cannot start the thread that checks passwords")?;
        Ok((PasswordChecker { questions }, key))
    }

    /// Whether name and password are both right in one of the ways to read them. All are tried, so that the time does not
    /// tell which; an unknown name takes as long as a known one.
    ///
    /// # Errors
    /// Too many checks wait already.
    pub async fn check(&self, readings: Vec<Credentials>) -> Result<bool, Busy> {
        let (answer, answered) = oneshot::channel();
        self.questions.try_send(Question { readings, answer }).map_err(|_| Busy)?;
        answered.await.map_err(|_| Busy)
    }
}

struct Expected {
    username: [u8; 32],
    password: [u8; 32],
    salt: [u8; 16],
}

struct Hasher {
    argon2: Argon2<'static>,
    memory: Vec<Block>,
}

impl Hasher {
    fn hash(&mut self, password: &str, salt: &[u8]) -> [u8; 32] {
        let mut hash = [0; 32];
        self.argon2
            .hash_password_into_with_memory(password.as_bytes(), salt, &mut hash, &mut self.memory)
            .expect("a password of less than 4 GiB can be hashed");
        hash
    }
}

fn answer_all(asked: &Receiver<Question>, hasher: &mut Hasher, expected: &Expected) {
    // Without it checks would only be slower for others.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS);
    for Question { readings, answer } in asked {
        // Nobody waits any more.
        if answer.is_closed() {
            continue;
        }
        let right = readings.iter().fold(Choice::from(0), |right, Credentials { username, password }| {
            let username = digest_of(username).ct_eq(&expected.username);
            let password = hasher.hash(password.expose(), &expected.salt).ct_eq(&expected.password);
            right | (username & password)
        });
        let _ = answer.send(right.into());
    }
}
