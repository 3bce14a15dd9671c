//! `eventctl init-db`: prepares a store, and changes nothing where it is prepared; or makes one as a copy of another.

use crate::cli::InitDbOptions;
use crate::store;

/// Makes or upgrades the store, or copies another.
///
/// # Errors
/// Why it cannot be made or used.
pub fn run(options: &InitDbOptions) -> anyhow::Result<()> {
    if let Some(warning) = options.db.warning() {
        eprintln!("warning: {warning}");
    }
    if let Some(from) = &options.from {
        store::copy(from, &options.db)?;
        eprintln!("copied {from} to {}", options.db);
        return Ok(());
    }
    store::prepare(&options.db)?;
    eprintln!("prepared {}", options.db);
    Ok(())
}
