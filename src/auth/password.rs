//! Checks passwords against an Argon2id hash; the password itself is not kept.
//!
//! A check is slow by design. One thread of the lowest priority does them all, so that events do not wait for logins.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::Context;
use argon2::{Algorithm, Argon2, Block, Params, Version};
use subtle::{Choice, ConstantTimeEq};
use tokio::sync::oneshot;

use super::bytes::{digest_of, random};
use super::grant::Credentials;

/// OWASP's Password Storage Cheat Sheet: 19 MiB, 2 passes, 1 lane.
const MEMORY_KIB: u32 = 19 << 10;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Checks that may wait for the thread: about a second's worth.
const WAITING_LIMIT: usize = 32;

/// The lowest priority.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 19;

/// The handle of the thread, which ends when this is dropped.
pub struct PasswordChecker {
    checks: SyncSender<Check>,
}

struct Check {
    readings: Vec<Credentials>,
    result: oneshot::Sender<bool>,
}

/// Too many checks wait already.
#[derive(Debug)]
pub struct Busy;

impl PasswordChecker {
    /// Starts the thread. Also returns a key that is derived from name and password.
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
        let (checks, requested) = sync_channel(WAITING_LIMIT);
        thread::Builder::new()
            .name("password checker".to_owned())
            .spawn(move || check_all(&requested, &mut hasher, &expected))
            .context("cannot start the thread that checks passwords")?;
        Ok((PasswordChecker { checks }, key))
    }

    /// Whether one of the readings has the right name and password. All are tried, and an unknown name takes as long as
    /// a known one, so the time reveals nothing.
    pub async fn check(&self, readings: Vec<Credentials>) -> Result<bool, Busy> {
        let (result, checked) = oneshot::channel();
        self.checks.try_send(Check { readings, result }).map_err(|_| Busy)?;
        checked.await.map_err(|_| Busy)
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

fn check_all(requested: &Receiver<Check>, hasher: &mut Hasher, expected: &Expected) {
    // If this fails, checks slow other threads down, and nothing else happens.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS);
    for Check { readings, result } in requested {
        // The client has gone.
        if result.is_closed() {
            continue;
        }
        let right = readings.iter().fold(Choice::from(0), |right, Credentials { username, password }| {
            let username = digest_of(username).ct_eq(&expected.username);
            let password = hasher.hash(password.expose(), &expected.salt).ct_eq(&expected.password);
            right | (username & password)
        });
        let _ = result.send(right.into());
    }
}
