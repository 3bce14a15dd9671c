//! Events: one file a request.

mod list;
mod remove;
mod show;
mod store;

pub use self::list::list;
pub use self::remove::remove;
pub use self::show::show;
pub use self::store::store;
