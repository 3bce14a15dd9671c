//! The HTTP client: http and https, HTTP/1.1 and HTTP/2, bounded in time and in what it reads.

mod connection;
mod connector;
mod endpoint;
mod pool;
mod proxy;
mod request_format;
mod response;
mod settings;
mod webhook;

pub use self::connector::Reach;
pub use self::endpoint::Endpoint;
pub use self::pool::HttpClient;
pub use self::request_format::{RequestFormat, RequestSettings};
pub use self::response::{is_transient, retry_after};
pub use self::settings::TlsSettings;
pub use self::webhook::{DeliveryError, WebhookSender, problem_of_target};

/// The `User-Agent` of all requests.
pub const USER_AGENT: &str = concat!("eventctl/", env!("CARGO_PKG_VERSION"));
