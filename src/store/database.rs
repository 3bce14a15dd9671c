//! What databases do each in their own way, and what they do all alike on the writing side.

use super::backend::{
    Append, Backend, Claim, Claimed, Deleted, Message, Outcome, Passed, RefreshToken, Resent,
    RetentionLimits, Rotation, Settlement, StoreError,
};
use super::statements::Statements;
use super::{outbox, retention, tokens};
use crate::core::timestamp::Timestamp;

/// What a database's statements fail with.
pub type ErrorOf<D> = <<D as Database>::Connection as Statements>::Error;

/// The writing connection to a database, as far as one differs from another: [`Backend`] has the rest.
pub trait Database: Send {
    /// What runs statements.
    type Connection: Statements;

    /// What runs statements.
    fn connection(&mut self) -> &mut Self::Connection;

    /// Runs a transaction that begins and commits by itself, and rolls it back where it failed. It runs again
    /// where the database broke it off for the sake of another.
    fn transact<T>(
        &mut self,
        transaction: impl FnMut(&mut Self) -> Result<T, ErrorOf<Self>>,
    ) -> Result<T, StoreError>;

    /// Stores all appends and commits; within [`Self::transact`].
    fn store(&mut self, appends: &[&Append], received_at: Timestamp) -> Result<Vec<Outcome>, ErrorOf<Self>>;

    /// See [`Backend::probe`].
    fn probe(&mut self) -> Result<(), StoreError>;

    /// See [`Backend::recover`].
    fn recover(&mut self) -> Result<(), StoreError>;

    /// See [`Backend::tidy`].
    fn tidy(&mut self) -> Result<bool, StoreError> {
        Ok(true)
    }

    /// See [`Backend::close`].
    fn close(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Refuses what the database could not take, and would not refuse alone.
    fn check(&self, _appends: &[&Append]) -> Result<(), StoreError> {
        Ok(())
    }
}

impl<D: Database> Backend for D {
    fn append(&mut self, appends: &[&Append], received_at: Timestamp) -> Result<Vec<Outcome>, StoreError> {
        self.check(appends)?;
        self.transact(|database| database.store(appends, received_at))
    }

    fn probe(&mut self) -> Result<(), StoreError> {
        Database::probe(self)
    }

    fn signing_key(&mut self, candidate: [u8; 32]) -> Result<[u8; 32], StoreError> {
        let key = self.transact(|database| tokens::signing_key(database.connection(), candidate))?;
        key.try_into()
            .map_err(|_| StoreError::Refused("the store's signing key is not of 32 bytes".to_owned()))
    }

    fn add_refresh_token(&mut self, token: &RefreshToken, now: Timestamp) -> Result<(), StoreError> {
        self.transact(|database| tokens::add(database.connection(), token, now))
    }

    fn rotate_refresh_token(
        &mut self,
        digest: [u8; 32],
        successor: ([u8; 32], Timestamp),
        now: Timestamp,
    ) -> Result<Rotation, StoreError> {
        self.transact(|database| tokens::rotate(database.connection(), digest, successor, now))
    }

    fn claim(&mut self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.transact(|database| outbox::claim(database.connection(), claim))
    }

    fn settle(
        &mut self,
        message: &Message,
        settlement: &Settlement,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.transact(|database| outbox::settle(database.connection(), message, settlement, now))
    }

    fn delete_expired(&mut self, limits: &RetentionLimits, passed: Passed) -> Result<Deleted, StoreError> {
        self.transact(|database| retention::delete_expired(database.connection(), limits, passed))
    }

    fn last_known_time(&mut self) -> Result<Option<Timestamp>, StoreError> {
        self.transact(|database| retention::last_known_time(database.connection()))
    }

    fn resend(&mut self, event_id: Option<i64>, now: Timestamp) -> Result<Resent, StoreError> {
        self.transact(|database| outbox::resend(database.connection(), event_id, now))
    }

    fn recover(&mut self) -> Result<(), StoreError> {
        Database::recover(self)
    }

    fn tidy(&mut self) -> Result<bool, StoreError> {
        Database::tidy(self)
    }

    fn close(&mut self) -> Result<(), StoreError> {
        Database::close(self)
    }
}
