//! Refresh tokens and the key that signs access tokens, each change in a transaction of its own.

use super::backend::Backend;
use super::error::{Cause, DatabaseError, WriteError};
use super::outbox;
use super::statements::{Statements, Value};
use crate::core::timestamp::Timestamp;

/// The key that the store has, or else the candidate, which the store keeps from then on.
pub fn signing_key(backend: &mut dyn Backend, candidate: [u8; 32]) -> Result<[u8; 32], WriteError> {
    let key = backend.run(|statements| {
        // Of processes that start at the same time only one sets the key, and the others see it.
        outbox::lock(statements)?;
        let known = statements.query::<1>("SELECT signing_key FROM signing_key", &[])?;
        if let Some([key]) = known.into_iter().next() {
            return Ok(key.into_bytes());
        }
        let insert = "INSERT INTO signing_key (id, signing_key) VALUES (1, ?)";
        statements.execute(insert, &[candidate.as_slice().into()])?;
        Ok(candidate.to_vec())
    })?;
    key.try_into()
        .map_err(|_| WriteError::Refused(Cause::message("the store's signing key is not of 32 bytes")))
}

/// A refresh token (RFC 6749, section 1.5) as a store keeps it.
#[derive(Debug, Clone)]
pub struct RefreshToken {
    pub digest: [u8; 32],
    /// What all tokens that stem from one login have in common.
    pub family: [u8; 16],
    pub expires_at: Timestamp,
}

/// Keeps the first refresh token of a family, and deletes all tokens that have expired.
pub fn add_refresh_token(
    backend: &mut dyn Backend,
    token: &RefreshToken,
    now: Timestamp,
) -> Result<(), WriteError> {
    backend.run(|statements| {
        delete_expired(statements, now)?;
        insert(statements, &token.digest, token.family.as_slice().into(), token.expires_at)
    })
}

/// What became of a refresh token that was presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// Its successor has taken its place.
    Rotated,
    /// It had been exchanged before; its family is revoked.
    Reused,
    /// It was never issued, has expired or was revoked.
    Unknown,
}

/// Exchanges a refresh token for its successor (its digest, and when it expires), and deletes all that have expired. A token
/// that had been exchanged before is known to two parties, one of whom has stolen it: its whole family is revoked.
pub fn rotate_refresh_token(
    backend: &mut dyn Backend,
    digest: [u8; 32],
    successor: ([u8; 32], Timestamp),
    now: Timestamp,
) -> Result<Rotation, WriteError> {
    backend.run(|statements| {
        // A client that never logs in again leaves a token behind with each exchange.
        delete_expired(statements, now)?;
        // The lock makes a second use wait for the first, and then see it.
        let select = format!(
            "SELECT family, CASE WHEN used THEN 1 ELSE 0 END FROM refresh_tokens WHERE token_digest = ?{}",
            statements.for_update()
        );
        let digest = [Value::from(digest.as_slice())];
        match statements.query::<2>(&select, &digest)?.into_iter().next() {
            None => Ok(Rotation::Unknown),
            Some([family, used]) if used.number() == 1 => {
                statements.execute("DELETE FROM refresh_tokens WHERE family = ?", &[family])?;
                Ok(Rotation::Reused)
            }
            Some([family, _]) => {
                statements
                    .execute("UPDATE refresh_tokens SET used = TRUE WHERE token_digest = ?", &digest)?;
                let (successor_digest, expires_at) = successor;
                insert(statements, &successor_digest, family, expires_at)?;
                Ok(Rotation::Rotated)
            }
        }
    })
}

fn insert(
    statements: &mut dyn Statements,
    digest: &[u8],
    family: Value,
    expires_at: Timestamp,
) -> Result<(), DatabaseError> {
    let insert = "INSERT INTO refresh_tokens (token_digest, family, expires_at) VALUES (?, ?, ?)";
    statements.execute(insert, &[digest.into(), family, expires_at.as_microseconds().into()])
}

fn delete_expired(statements: &mut dyn Statements, now: Timestamp) -> Result<(), DatabaseError> {
    let delete = "DELETE FROM refresh_tokens WHERE expires_at <= ?";
    statements.execute(delete, &[now.as_microseconds().into()])
}
