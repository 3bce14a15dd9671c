//! Where a store is, as `--db` and `DATABASE_URL` say it.

mod password;
mod server;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use self::server::{Dialect, server_database};
pub use self::server::{ServerAddress, ServerDatabase};
#[cfg(any(feature = "mysql", feature = "postgres", test))]
pub use self::server::{SessionTarget, TlsMode};
use crate::error::hinted;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreLocation {
    Sqlite(PathBuf),
    Postgres(ServerDatabase),
    MySql(ServerDatabase),
}

const EXPECTED: &str = "expected a path such as `events.db`, or a URL such as `sqlite:///events.db`, \
    `postgres://user@host/database` or `mysql://user@host/database`";

/// What to say of the URLs that SQLite itself knows: it would open another file than the path names.
const NO_SQLITE_URL: &str = "SQLite's own URLs and parameters (`file:`, `?mode=ro`) are not understood; expected a path \
    such as `events.db`, or `sqlite:///events.db`";

/// Whether SQLite takes a text for a URL instead of a path: <https://sqlite.org/uri.html>.
fn is_sqlite_url(text: &str) -> bool {
    text.starts_with("file:")
}

/// The schemes of URLs of databases.
const DIALECTS: [&str; 5] = ["sqlite", "postgres", "postgresql", "mysql", "mariadb"];

/// Why a text names no store. It repeats nothing of the text, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocationError {
    problem: String,
    /// What to do, where there is more to say than to read the help.
    pub hint: Option<&'static str>,
}

impl LocationError {
    fn with_hint(problem: &str, hint: &'static str) -> LocationError {
        LocationError { problem: problem.to_owned(), hint: Some(hint) }
    }
}

impl From<String> for LocationError {
    fn from(problem: String) -> LocationError {
        LocationError { problem, hint: None }
    }
}

impl From<&str> for LocationError {
    fn from(problem: &str) -> LocationError {
        problem.to_owned().into()
    }
}

impl fmt::Display for LocationError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.problem)
    }
}

impl std::error::Error for LocationError {}

/// Reads a path or a URL.
///
/// As SQLAlchemy has it, `sqlite:///events.db` is relative, `sqlite:////var/events.db` is absolute, and
/// a `+driver` behind the scheme is ignored.
impl FromStr for StoreLocation {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<StoreLocation, LocationError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            // A slash or a colon too few makes no path of a URL that may hold a password.
            let scheme = text.split([':', '+', '/']).next().unwrap_or_default();
            if text.contains([':', '@']) && DIALECTS.contains(&scheme) {
                return Err(EXPECTED.into());
            }
            return match text {
                url if is_sqlite_url(url) => Err(NO_SQLITE_URL.into()),
                "" => Err(EXPECTED.into()),
                ":memory:" => Err(format!("events in memory would be lost; {EXPECTED}").into()),
                path => Ok(StoreLocation::Sqlite(path.into())),
            };
        };
        let dialect = scheme.split('+').next().unwrap_or(scheme);
        match dialect {
            "file" => Err(NO_SQLITE_URL.into()),
            "sqlite" => match rest.strip_prefix('/') {
                Some(path) if is_sqlite_url(path) || path.contains('?') => Err(NO_SQLITE_URL.into()),
                Some(path) if !path.is_empty() && path != ":memory:" => {
                    Ok(StoreLocation::Sqlite(path.into()))
                }
                _ => Err(EXPECTED.into()),
            },
            "postgres" | "postgresql" => {
                server_database(Dialect::Postgres, rest).map(StoreLocation::Postgres)
            }
            "mysql" | "mariadb" => server_database(Dialect::MySql, rest).map(StoreLocation::MySql),
            _ => Err(format!("unknown kind of store; {EXPECTED}").into()),
        }
    }
}

impl StoreLocation {
    pub fn not_built_in(&self) -> anyhow::Error {
        let problem = format!("cannot open `{self}`: this build knows no such store");
        hinted(problem, "build eventctl with its default features")
    }

    /// What is to be said of a URL with parameters that mean nothing here, and that are passed over.
    pub fn warning(&self) -> Option<String> {
        let names = match self {
            StoreLocation::Sqlite(_) => return None,
            StoreLocation::Postgres(database) | StoreLocation::MySql(database) => &database.passed_over,
        };
        let names = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        (!names.is_empty()).then(|| format!("unknown parameters of the store's URL are passed over: {names}"))
    }
}

impl fmt::Display for StoreLocation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreLocation::Sqlite(path) => path.display().fmt(formatter),
            StoreLocation::Postgres(database) | StoreLocation::MySql(database) => database.fmt(formatter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn postgres(url: &str) -> ServerDatabase {
        match url.parse() {
            Ok(StoreLocation::Postgres(database)) => database,
            other => panic!("{url}: {other:?}"),
        }
    }

    #[test]
    fn paths_and_urls_name_sqlite_files() {
        for (text, path) in [
            ("events.db", "events.db"),
            ("/var/lib/events.db", "/var/lib/events.db"),
            ("sqlite:///events.db", "events.db"),
            ("sqlite:////var/events.db", "/var/events.db"),
            ("sqlite+aiosqlite:///events.db", "events.db"),
        ] {
            assert_eq!(text.parse(), Ok(StoreLocation::Sqlite(path.into())));
        }
    }

    #[test]
    fn what_is_not_a_durable_file_is_refused_without_repeating_it() {
        for text in [
            "",
            ":memory:",
            "sqlite://",
            "sqlite:///:memory:",
            "postgres://u:secret@/d",
            "postgres://u:secret@h",
            "postgres:/u:secret@h/d",
            "mysql+pymysql:u:secret@h/d",
            "postgres//u:secret@h/d",
            "mysql://u:secret@h:x/d",
            "redis://:secret@h",
        ] {
            let message = text.parse::<StoreLocation>().unwrap_err().to_string();
            assert!(message.contains("expected a path"), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn urls_of_sqlites_own_are_refused() {
        for text in [
            "file:events.db",
            "file:events.db?mode=ro",
            "file:///events.db",
            "sqlite:///file:events.db?uri=true",
            "sqlite:///file:events.db",
            "sqlite:///events.db?mode=ro",
        ] {
            assert_eq!(text.parse::<StoreLocation>().unwrap_err().to_string(), NO_SQLITE_URL, "{text}");
        }
        for path in ["./file:events.db", "what?.db"] {
            assert_eq!(path.parse::<StoreLocation>().unwrap(), StoreLocation::Sqlite(path.into()));
        }
    }

    #[test]
    fn urls_name_databases_of_servers_and_never_show_their_password() {
        let url = "postgresql+psycopg2://us%40er:s3%3Acret@db.example:5433/events%20db?sslmode=verify-full&sslrootcert=/ca.pem";
        let location: StoreLocation = url.parse().unwrap();
        assert!(!format!("{location} {location:?}").contains("s3"), "{location:?}");
        let StoreLocation::Postgres(database) = location else { panic!("{location}") };
        assert_eq!(database.addresses, [ServerAddress { host: "db.example".to_owned(), port: Some(5433) }]);
        assert_eq!((database.user.as_deref(), database.database.as_str()), (Some("us@er"), "events db"));
        assert_eq!(database.password().map(Secret::expose), Some("s3:cret"));
        assert_eq!(database.tls.mode, TlsMode::VerifyFull);
        assert_eq!(database.tls.authorities, Some("/ca.pem".into()));
        let location: StoreLocation = "mariadb://u@h/d?ssl_mode=REQUIRED&charset=utf8mb4".parse().unwrap();
        let StoreLocation::MySql(database) = location else { panic!("{location}") };
        assert_eq!((database.tls.mode, database.addresses[0].port), (TlsMode::Require, None));
    }

    #[test]
    fn a_socket_is_a_host() {
        for url in ["postgres:///events?host=/run/postgresql", "postgres://%2Frun%2Fpostgresql/events"] {
            let database = postgres(url);
            assert!(database.is_local_socket(), "{:?}", database.addresses);
        }
    }

    #[test]
    fn parameters_that_concern_security_are_never_passed_over() {
        for parameter in ["passwort=secret", "sslmod=secret", "ssl=secret", "require_auth=secret", "secret"] {
            let error = format!("postgres://u@h/d?{parameter}").parse::<StoreLocation>().unwrap_err();
            let message = error.to_string();
            assert!(message.contains("sslmode") && !message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn the_last_at_sign_of_the_authority_ends_the_user_part() {
        let database = postgres("postgres://u:p@ss@h:1/d");
        assert_eq!(database.password().map(Secret::expose), Some("p@ss"));
        assert_eq!(database.addresses[0].host, "h");
        assert_eq!(database.to_string(), "postgres://u@h:1/d");
        let database = postgres("postgres://u@corp:p@ss@h/d");
        assert_eq!(
            (database.user.as_deref(), database.password().map(Secret::expose)),
            (Some("u@corp"), Some("p@ss"))
        );
        assert_eq!(database.to_string(), "postgres://u@corp@h/d");
    }

    #[test]
    fn a_url_that_can_be_read_in_two_ways_is_refused_without_repeating_it() {
        for url in [
            "postgres://u:p@ss/w#rd@h/d",
            "postgres://u:ss/w#rd@h/d",
            "postgres://u:p?ss@h/d",
            "postgres://u:p@a?ss=1@h/d",
            "postgres://u:p#ss@h/d",
            "postgres://u:1/ss@h/d",
            "postgres://u:p@h/d#ss",
            "mysql://u:p@ss/w#rd@h/d",
        ] {
            let error = url.parse::<StoreLocation>().unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(shown.contains("cannot be read for sure") && !shown.contains("ss@"), "{url}: {shown}");
            assert!(error.hint.unwrap().starts_with("percent-encode"), "{error:?}");
        }
    }

    #[test]
    fn urls_of_managed_databases_are_taken() {
        let database = postgres(
            "postgresql://u:p@one,[2001:db8::2]:5433,three:5434/d?sslmode=require&channel_binding=require\
            &connect_timeout=10&target_session_attrs=read-write&keepalives=1&keepalives_idle=30&\
            keepalives_interval=5&keepalives_count=3&tcp_user_timeout=9000&options=-c%20search_path%3Dx&\
            application_name=a&client_encoding=utf8&pgbouncer=true&fallback_application_name=x",
        );
        let hosts: Vec<(&str, Option<u16>)> =
            database.addresses.iter().map(|address| (address.host.as_str(), address.port)).collect();
        assert_eq!(hosts, [("one", None), ("2001:db8::2", Some(5433)), ("three", Some(5434))]);
        assert_eq!(database.connect_timeout, Some(std::time::Duration::from_secs(10)));
        assert_eq!(database.target, SessionTarget::ReadWrite);
        assert_eq!(database.passed_over, ["pgbouncer"]);
        let names: Vec<&str> = database.driver_parameters.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.contains(&"channel_binding") && names.contains(&"keepalives_retries"), "{names:?}");
        let database = postgres("postgres:///d?host=one,two&port=1,2");
        assert_eq!(database.addresses[1], ServerAddress { host: "two".to_owned(), port: Some(2) });
        let database = postgres("postgres://one,two:5/d?port=7");
        assert_eq!(database.addresses.iter().map(|address| address.port).collect::<Vec<_>>(), [Some(7); 2]);
        for url in ["postgres://u@h/d?connect_timeout=soon", "postgres://u@h/d?target_session_attrs=any1"] {
            url.parse::<StoreLocation>().unwrap_err();
        }
    }
}
