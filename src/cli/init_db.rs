//! The options of `init-db`.

use clap::Args;

use crate::init_db::Settings;
use crate::store::StoreLocation;

#[derive(Debug, Args)]
pub struct InitDbOptions {
    /// Store to prepare: a path, sqlite:///FILE, postgres://USER@HOST/DATABASE or
    /// mysql://USER@HOST/DATABASE
    #[arg(long, env = "DATABASE_URL", default_value = "events.db", value_name = "URL")]
    db: StoreLocation,

    /// Copy this store, which may be in use, with its ids, times and idempotency
    /// keys. SQLite to SQLite: a consistent backup into a new file. Else: into an
    /// empty store, or on where an earlier copy ended
    #[arg(long, value_name = "URL")]
    from: Option<StoreLocation>,
}

impl From<InitDbOptions> for Settings {
    fn from(options: InitDbOptions) -> Settings {
        Settings { db: options.db, from: options.from }
    }
}
