//! `eventctl init-db`: makes or upgrades a store, or makes one as a copy of another.

use crate::store::{self, Copied, StoreLocation};

#[derive(Debug)]
pub struct Settings {
    pub db: StoreLocation,
    pub from: Option<StoreLocation>,
}

/// Changes nothing in a store that is up to date.
///
/// # Errors
/// The store cannot be made or used.
pub fn run(settings: &Settings) -> anyhow::Result<()> {
    let Settings { db, from } = settings;
    if let Some(warning) = db.warning() {
        eprintln!("warning: {warning}");
    }
    if let Some(from) = from {
        match store::copy(from, db)? {
            None => eprintln!("copied {from} to {db}"),
            Some(Copied { events, keys }) => {
                eprintln!("copied {from} to {db}: {events} events, {keys} idempotency keys");
            }
        }
        return Ok(());
    }
    store::prepare(db)?;
    eprintln!("prepared {db}");
    Ok(())
}
