//! A build without database servers.

use super::backend::{Backend, StoreReader};
use super::location::StoreLocation;
use super::options::StoreOptions;

pub fn prepare(location: &StoreLocation) -> anyhow::Result<()> {
    Err(location.not_built_in())
}

pub fn open(location: &StoreLocation, _: StoreOptions) -> anyhow::Result<Box<dyn Backend>> {
    Err(location.not_built_in())
}

pub fn open_reader(location: &StoreLocation, _: StoreOptions) -> anyhow::Result<Box<dyn StoreReader>> {
    Err(location.not_built_in())
}
