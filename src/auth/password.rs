//! Checks passwords against Argon2id hashes; the passwords themselves are not kept.
//!
//! A check is slow by design. One thread of the lowest priority does them all, so that events do not wait for logins.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::Context;
use argon2::password_hash::phc;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::sync::oneshot;

use super::bytes::{digest_of, random};
use super::grant::Credentials;
use crate::secret::Secret;

/// OWASP's Password Storage Cheat Sheet: 19 MiB, 2 passes, 1 lane.
const MEMORY_KIB: u32 = 19 << 10;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// The most that a hash of a client may cost: this much memory, and some seconds.
const MEMORY_KIB_LIMIT: u32 = 256 << 10;
const PASSES_LIMIT: u32 = 16;

/// Checks that may wait for the thread: about a second's worth.
const WAITING_LIMIT: usize = 32;

/// The lowest priority.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 19;

/// What is known of a password: its hash, and a key that is derived from it.
#[derive(Clone)]
pub struct StoredPassword {
    hash: phc::PasswordHash,
    /// Another password has another key.
    pub derived_key: [u8; 32],
}

impl StoredPassword {
    /// Hashes a password. The same name and password always give the same key.
    pub fn of(credentials: &Credentials) -> anyhow::Result<StoredPassword> {
        let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("the parameters are in range");
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let password = credentials.password.expose().as_bytes();
        let mut derived_key = [0; 32];
        argon2
            .hash_password_into(password, &digest_of(&credentials.username), &mut derived_key)
            .expect("a password of less than 4 GiB can be hashed");
        let salt: [u8; 16] = random()?;
        let hash = argon2.hash_password_with_salt(password, &salt);
        Ok(StoredPassword { hash: hash.expect("a password of less than 4 GiB can be hashed"), derived_key })
    }

    /// Parses a hash in the PHC string format, as `argon2 -e` prints it. Errors do not repeat it.
    pub fn parse(text: &str) -> Result<StoredPassword, String> {
        let expected = || "expected an Argon2id hash such as `$argon2id$v=19$m=19456,t=2,p=1$…$…`".to_owned();
        let hash = phc::PasswordHash::new(text).map_err(|_| expected())?;
        let is_argon2id = hash.algorithm.as_str() == Algorithm::Argon2id.as_str();
        let is_complete = hash.salt.is_some() && hash.hash.is_some();
        if !is_argon2id || !is_complete || hash.version != Some(Version::V0x13.into()) {
            return Err(expected());
        }
        let params = Params::try_from(&hash).map_err(|_| expected())?;
        if params.m_cost() > MEMORY_KIB_LIMIT || params.t_cost() > PASSES_LIMIT {
            return Err(format!(
                "expected a hash of at most {MEMORY_KIB_LIMIT} KiB of memory (m) and {PASSES_LIMIT} passes (t)"
            ));
        }
        let mac = Hmac::<Sha256>::new_from_slice(text.as_bytes()).expect("HMAC takes keys of any length");
        let derived_key = mac.chain_update("derived key").finalize().into_bytes().into();
        Ok(StoredPassword { hash, derived_key })
    }

    fn is_of(&self, password: &Secret) -> bool {
        Argon2::default().verify_password(password.expose().as_bytes(), &self.hash).is_ok()
    }
}

/// The handle of the thread, which ends when this is dropped.
pub struct PasswordChecker {
    checks: SyncSender<Check>,
}

struct Check {
    pairs: Vec<(Secret, StoredPassword)>,
    results: oneshot::Sender<Vec<bool>>,
}

/// Too many checks wait already.
#[derive(Debug)]
pub struct Busy;

impl PasswordChecker {
    /// Starts the thread.
    pub fn start() -> anyhow::Result<PasswordChecker> {
        let (checks, requested) = sync_channel(WAITING_LIMIT);
        thread::Builder::new()
            .name("password checker".to_owned())
            .spawn(move || check_all(&requested))
            .context("cannot start the thread that checks passwords")?;
        Ok(PasswordChecker { checks })
    }

    /// Which of these passwords have their hash. All are checked, so the time reveals nothing.
    pub async fn check(&self, pairs: Vec<(Secret, StoredPassword)>) -> Result<Vec<bool>, Busy> {
        let (results, checked) = oneshot::channel();
        self.checks.try_send(Check { pairs, results }).map_err(|_| Busy)?;
        checked.await.map_err(|_| Busy)
    }
}

fn check_all(requested: &Receiver<Check>) {
    // If this fails, checks slow other threads down, and nothing else happens.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS);
    for Check { pairs, results } in requested {
        // The client has gone.
        if results.is_closed() {
            continue;
        }
        let _ = results.send(pairs.iter().map(|(password, stored)| stored.is_of(password)).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By `printf %s password | argon2 somesalt -id -t 2 -k 65536 -p 1 -e` of the reference implementation.
    const REFERENCE: &str =
        "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";

    #[test]
    fn a_hash_of_the_reference_implementation_is_checked() {
        let stored = StoredPassword::parse(REFERENCE).unwrap();
        assert!(stored.is_of(&Secret::verbatim("password")));
        assert!(!stored.is_of(&Secret::verbatim("Password")));
    }

    #[test]
    fn hashes_that_are_weak_or_too_costly_are_refused() {
        let hash = "c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        for wrong in [
            "s3cret".to_owned(),
            "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ".to_owned(),
            format!("$argon2i$v=19$m=65536,t=2,p=1${hash}"),
            format!("$argon2id$v=16$m=65536,t=2,p=1${hash}"),
            format!("$argon2id$v=19$m=262145,t=2,p=1${hash}"),
            format!("$argon2id$v=19$m=65536,t=17,p=1${hash}"),
        ] {
            let error = StoredPassword::parse(&wrong).err().unwrap_or_else(|| panic!("{wrong}"));
            assert!(error.starts_with("expected") && !error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn the_derived_key_depends_on_name_and_password() {
        let key = |username: &str, password| {
            let username = username.to_owned();
            let credentials = Credentials { username, password: Secret::verbatim(password) };
            let stored = StoredPassword::of(&credentials).unwrap();
            assert!(stored.is_of(&credentials.password));
            stored.derived_key
        };
        assert_eq!(key("ada", "x"), key("ada", "x"));
        assert!(key("ada", "x") != key("ada", "y") && key("ada", "x") != key("bob", "x"));
    }
}
