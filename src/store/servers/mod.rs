//! Stores on a database server, which any number of processes share.
//!
//! A kind of server is a [`ServerConnection`]; [`Session`] makes a backend and a reader of each.

mod batch;
#[cfg(feature = "mysql")]
mod mysql;
mod paging;
#[cfg(feature = "postgres")]
mod postgres;
mod session;
mod setup;

use self::session::{Purpose, ServerConnection, Session};
use super::backend::{Backend, StoreReader};
use super::location::{ServerDatabase, StoreLocation};
use super::options::StoreOptions;

/// What a kind of server does for a database.
struct Server<'a> {
    database: &'a ServerDatabase,
    prepare: fn(&ServerDatabase) -> anyhow::Result<()>,
    open: fn(&ServerDatabase, StoreOptions) -> anyhow::Result<Box<dyn Backend>>,
    open_reader: fn(&ServerDatabase, StoreOptions) -> anyhow::Result<Box<dyn StoreReader>>,
}

impl Server<'_> {
    fn at(location: &StoreLocation) -> anyhow::Result<Server<'_>> {
        match location {
            #[cfg(feature = "postgres")]
            StoreLocation::Postgres(database) => Ok(Server::with::<postgres::Connection>(database)),
            #[cfg(feature = "mysql")]
            StoreLocation::MySql(database) => Ok(Server::with::<mysql::MySqlConnection>(database)),
            other => Err(other.not_built_in()),
        }
    }

    fn with<C: ServerConnection>(database: &ServerDatabase) -> Server<'_> {
        Server {
            database,
            prepare: C::prepare,
            open: |database, options| Ok(Box::new(Session::<C>::open(database, Purpose::Write, options)?)),
            open_reader: |database, options| {
                let purpose = if options.reads_primary { Purpose::ReadPrimary } else { Purpose::Read };
                Ok(Box::new(Session::<C>::open(database, purpose, options)?))
            },
        }
    }
}

pub fn prepare(location: &StoreLocation) -> anyhow::Result<()> {
    let server = Server::at(location)?;
    (server.prepare)(server.database)
}

pub fn open(location: &StoreLocation, options: StoreOptions) -> anyhow::Result<Box<dyn Backend>> {
    let server = Server::at(location)?;
    (server.open)(server.database, options)
}

pub fn open_reader(location: &StoreLocation, options: StoreOptions) -> anyhow::Result<Box<dyn StoreReader>> {
    let server = Server::at(location)?;
    (server.open_reader)(server.database, options)
}
