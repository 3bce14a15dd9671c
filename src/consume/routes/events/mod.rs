//! Events: one file a request.

mod list;
mod show;
mod store;

pub use self::list::list;
pub use self::show::show;
pub use self::store::store;
