//! Refresh tokens and the signing key, each change in a transaction of its own.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use crate::core::timestamp::Timestamp;
use crate::store::backend::{RefreshToken, Rotation};

/// The key that the store has, or else the candidate, which it has from then on.
pub fn signing_key(connection: &mut Connection, candidate: [u8; 32]) -> rusqlite::Result<[u8; 32]> {
    let transaction = immediate(connection)?;
    transaction.execute("INSERT OR IGNORE INTO signing_key VALUES (1, ?1)", [candidate])?;
    let key = transaction.query_row("SELECT signing_key FROM signing_key", [], |row| row.get(0))?;
    transaction.commit()?;
    Ok(key)
}

/// Keeps a new token, and forgets all that have expired.
pub fn add(connection: &mut Connection, token: &RefreshToken, now: Timestamp) -> rusqlite::Result<()> {
    let transaction = immediate(connection)?;
    forget_expired(&transaction, now)?;
    transaction.execute(
        "INSERT INTO refresh_tokens (token_digest, family, expires_at) VALUES (?1, ?2, ?3)",
        params![token.digest, token.family, token.expires_at.as_microseconds()],
    )?;
    transaction.commit()
}

/// Exchanges a token for its successor, or revokes its family where it had been exchanged before; forgets
/// all that have expired.
pub fn rotate(
    connection: &mut Connection,
    digest: [u8; 32],
    successor: ([u8; 32], Timestamp),
    now: Timestamp,
) -> rusqlite::Result<Rotation> {
    let transaction = immediate(connection)?;
    // A client that never logs in again leaves a token behind with each exchange.
    forget_expired(&transaction, now)?;
    let select = "SELECT family, used FROM refresh_tokens WHERE token_digest = ?1";
    let known: Option<([u8; 16], bool)> =
        transaction.query_row(select, [digest], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((family, used)) = known else { return Ok(Rotation::Unknown) };
    let rotation = if used {
        transaction.execute("DELETE FROM refresh_tokens WHERE family = ?1", [family])?;
        Rotation::Reused
    } else {
        let (successor, expires_at) = successor;
        transaction.execute("UPDATE refresh_tokens SET used = 1 WHERE token_digest = ?1", [digest])?;
        transaction.execute(
            "INSERT INTO refresh_tokens (token_digest, family, expires_at) VALUES (?1, ?2, ?3)",
            params![successor, family, expires_at.as_microseconds()],
        )?;
        Rotation::Rotated
    };
    transaction.commit()?;
    Ok(rotation)
}

fn forget_expired(transaction: &Transaction<'_>, now: Timestamp) -> rusqlite::Result<()> {
    let delete = "DELETE FROM refresh_tokens WHERE expires_at <= ?1";
    transaction.execute(delete, [now.as_microseconds()]).map(drop)
}

fn immediate(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}
