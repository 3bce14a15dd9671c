//! Refresh tokens and the signing key, each change in a transaction of its own.

use super::backend::{RefreshToken, Rotation};
use super::outbox;
use super::statements::{Statements, Value};
use crate::core::timestamp::Timestamp;

/// The key that the store has, or else the candidate, which it has from then on.
///
/// # Errors
/// The database's.
pub fn signing_key<S: Statements>(statements: &mut S, candidate: [u8; 32]) -> Result<Vec<u8>, S::Error> {
    statements.begin()?;
    // Of processes that start at once one alone gives the key, and the others see it.
    outbox::lock(statements)?;
    let known = statements.query::<1>("SELECT signing_key FROM signing_key", &[])?;
    let key = match known.into_iter().next() {
        Some([key]) => key.into_bytes(),
        None => {
            statements.execute(
                "INSERT INTO signing_key (id, signing_key) VALUES (1, ?)",
                &[candidate.as_slice().into()],
            )?;
            candidate.to_vec()
        }
    };
    statements.commit()?;
    Ok(key)
}

/// Keeps a new token, and forgets all that have expired.
///
/// # Errors
/// The database's.
pub fn add<S: Statements>(statements: &mut S, token: &RefreshToken, now: Timestamp) -> Result<(), S::Error> {
    statements.begin()?;
    forget_expired(statements, now)?;
    insert(statements, &token.digest, token.family.as_slice().into(), token.expires_at)?;
    statements.commit()
}

/// Exchanges a token for its successor, or revokes its family where it had been exchanged before; forgets
/// all that have expired.
///
/// # Errors
/// The database's.
pub fn rotate<S: Statements>(
    statements: &mut S,
    digest: [u8; 32],
    successor: ([u8; 32], Timestamp),
    now: Timestamp,
) -> Result<Rotation, S::Error> {
    statements.begin()?;
    // A client that never logs in again leaves a token behind with each exchange.
    forget_expired(statements, now)?;
    // The lock makes a second use wait for the first, and then see it.
    let select = format!(
        "SELECT family, CASE WHEN used THEN 1 ELSE 0 END FROM refresh_tokens WHERE token_digest = ?{}",
        S::FOR_UPDATE
    );
    let digest = [Value::from(digest.as_slice())];
    let rotation = match statements.query::<2>(&select, &digest)?.into_iter().next() {
        None => Rotation::Unknown,
        Some([family, used]) if used.number() == 1 => {
            statements.execute("DELETE FROM refresh_tokens WHERE family = ?", &[family])?;
            Rotation::Reused
        }
        Some([family, _]) => {
            statements.execute("UPDATE refresh_tokens SET used = TRUE WHERE token_digest = ?", &digest)?;
            let (digest, expires_at) = successor;
            insert(statements, &digest, family, expires_at)?;
            Rotation::Rotated
        }
    };
    statements.commit()?;
    Ok(rotation)
}

fn insert<S: Statements>(
    statements: &mut S,
    digest: &[u8],
    family: Value,
    expires_at: Timestamp,
) -> Result<(), S::Error> {
    let insert = "INSERT INTO refresh_tokens (token_digest, family, expires_at) VALUES (?, ?, ?)";
    statements.execute(insert, &[digest.into(), family, expires_at.as_microseconds().into()])
}

fn forget_expired<S: Statements>(statements: &mut S, now: Timestamp) -> Result<(), S::Error> {
    let delete = "DELETE FROM refresh_tokens WHERE expires_at <= ?";
    statements.execute(delete, &[now.as_microseconds().into()])
}
