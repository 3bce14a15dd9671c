//! `eventctl init-db`: prepares a store, and changes nothing where it is prepared.

use crate::cli::InitDbOptions;
use crate::store;

/// Makes or upgrades the store.
///
/// # Errors
/// Why it cannot be made or used.
pub fn run(options: &InitDbOptions) -> anyhow::Result<()> {
    if let Some(warning) = options.db.warning() {
        eprintln!("warning: {warning}");
    }
    store::prepare(&options.db)?;
    eprintln!("prepared {}", options.db);
    Ok(())
}
