//! Where a store is, as `--db` and `DATABASE_URL` say it.

mod password;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use url::Url;

use crate::core::secret::Secret;

/// The place of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreLocation {
    /// An SQLite file.
    Sqlite(PathBuf),
    /// A database of a PostgreSQL server.
    Postgres(ServerDatabase),
    /// A database of a MySQL or MariaDB server.
    MySql(ServerDatabase),
}

/// A database of a server, and how to get there.
#[derive(Debug, Clone)]
pub struct ServerDatabase {
    /// The URL without its password.
    shown: String,
    /// A host name or an address; or the path of a socket, or of its directory.
    pub host: String,
    /// The port, if the URL has one.
    pub port: Option<u16>,
    /// Who logs in, if the URL says so.
    pub user: Option<String>,
    password: Option<Secret>,
    /// The name of the database.
    pub database: String,
    /// Encryption.
    pub tls: ServerTls,
}

/// How the connection to a server is encrypted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerTls {
    /// Whether, and what is verified.
    pub mode: TlsMode,
    /// The authorities to trust, instead of those of the web.
    pub authorities: Option<PathBuf>,
    /// A certificate of our own.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

/// What `sslmode` (PostgreSQL) and `ssl-mode` (MySQL) say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Never encrypted.
    Disable,
    /// Encrypted if the server can, and nothing verified.
    #[default]
    Prefer,
    /// Encrypted, and nothing verified.
    Require,
    /// Encrypted, the certificate's authority verified.
    VerifyAuthority,
    /// Encrypted, authority and name verified.
    VerifyFull,
}

impl ServerDatabase {
    /// Whether the host is a path.
    pub fn is_local_socket(&self) -> bool {
        self.host.starts_with('/')
    }
}

// The shown URL stands for all of it but the password.
impl PartialEq for ServerDatabase {
    fn eq(&self, other: &ServerDatabase) -> bool {
        self.shown == other.shown
    }
}

impl Eq for ServerDatabase {}

const EXPECTED: &str = "expected a path such as `events.db`, or a URL such as `sqlite:///events.db`, \
    `postgres://user@host/database` or `mysql://user@host/database`";

/// The schemes of URLs of databases.
const DIALECTS: [&str; 5] = ["sqlite", "postgres", "postgresql", "mysql", "mariadb"];

/// Reads a path or a URL.
///
/// As SQLAlchemy has it, `sqlite:///events.db` is relative, `sqlite:////var/events.db` is absolute, and
/// a `+driver` behind the scheme is ignored.
impl FromStr for StoreLocation {
    type Err = String;

    fn from_str(text: &str) -> Result<StoreLocation, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            // A slash too few makes no path of a URL that may hold a password.
            let scheme = text.split([':', '+']).next().unwrap_or_default();
            if text.contains(':') && DIALECTS.contains(&scheme) {
                return Err(EXPECTED.to_owned());
            }
            return match text {
                "" => Err(EXPECTED.to_owned()),
                ":memory:" => Err(format!("events in memory would be lost; {EXPECTED}")),
                path => Ok(StoreLocation::Sqlite(path.into())),
            };
        };
        // The rest may hold a password: it is not repeated.
        let dialect = scheme.split('+').next().unwrap_or(scheme);
        match dialect {
            "sqlite" => match rest.strip_prefix('/') {
                Some(path) if !path.is_empty() && path != ":memory:" => {
                    Ok(StoreLocation::Sqlite(path.into()))
                }
                _ => Err(EXPECTED.to_owned()),
            },
            "postgres" | "postgresql" => server_database("postgres", rest).map(StoreLocation::Postgres),
            "mysql" | "mariadb" => server_database("mysql", rest).map(StoreLocation::MySql),
            _ => Err(format!("unknown kind of store; {EXPECTED}")),
        }
    }
}

fn server_database(scheme: &str, rest: &str) -> Result<ServerDatabase, String> {
    // Neither scheme is one that the standard knows: hosts are taken as they stand.
    let url = Url::parse(&format!("{scheme}://{rest}")).map_err(|error| format!("{error}; {EXPECTED}"))?;
    let mut database = ServerDatabase {
        shown: String::new(),
        host: decoded(url.host_str().unwrap_or_default())?,
        port: url.port(),
        user: Some(decoded(url.username())?).filter(|user| !user.is_empty()),
        password: url.password().map(decoded).transpose()?.and_then(|password| password.parse().ok()),
        database: decoded(url.path().trim_start_matches('/'))?,
        tls: ServerTls::default(),
    };
    for (name, value) in url.query_pairs() {
        database.set(scheme, &name.replace('_', "-"), &value)?;
    }
    if database.host.is_empty() {
        return Err(format!("the host is missing; {EXPECTED}"));
    }
    if database.database.is_empty() {
        return Err(format!("the name of the database is missing; {EXPECTED}"));
    }
    let mut shown = url;
    let _ = shown.set_password(None);
    database.shown = shown.into();
    Ok(database)
}

impl ServerDatabase {
    /// Takes a parameter of the URL, as the client tools of the server name it.
    fn set(&mut self, scheme: &str, name: &str, value: &str) -> Result<(), String> {
        let path = || Some(PathBuf::from(value));
        match (scheme, name) {
            ("postgres", "host") => value.clone_into(&mut self.host),
            ("mysql", "socket" | "unix-socket") => value.clone_into(&mut self.host),
            (_, "port") => self.port = Some(value.parse().map_err(|_| "expected a port as a number")?),
            ("postgres", "sslmode") => self.tls.mode = postgres_mode(value)?,
            ("mysql", "ssl-mode") => self.tls.mode = mysql_mode(value)?,
            ("postgres", "sslrootcert") | ("mysql", "ssl-ca") => self.tls.authorities = path(),
            ("postgres", "sslcert") | ("mysql", "ssl-cert") => self.tls.certificate = path(),
            ("postgres", "sslkey") | ("mysql", "ssl-key") => self.tls.key = path(),
            // What we say of ourselves and of encodings does not change with the URL.
            ("postgres", "application-name" | "client-encoding") | ("mysql", "charset") => {}
            ("postgres", _) => {
                return Err(
                    "unknown parameter of the URL: expected one of host, port, sslmode, sslrootcert, \
                    sslcert, sslkey"
                        .to_owned(),
                );
            }
            _ => {
                return Err("unknown parameter of the URL: expected one of socket, port, ssl-mode, ssl-ca, \
                    ssl-cert, ssl-key"
                    .to_owned());
            }
        }
        Ok(())
    }
}

fn postgres_mode(value: &str) -> Result<TlsMode, String> {
    Ok(match value {
        "disable" => TlsMode::Disable,
        "allow" | "prefer" => TlsMode::Prefer,
        "require" => TlsMode::Require,
        "verify-ca" => TlsMode::VerifyAuthority,
        "verify-full" => TlsMode::VerifyFull,
        _ => {
            return Err(
                "expected sslmode disable, allow, prefer, require, verify-ca or verify-full".to_owned()
            );
        }
    })
}

fn mysql_mode(value: &str) -> Result<TlsMode, String> {
    Ok(match value.to_ascii_uppercase().as_str() {
        "DISABLED" => TlsMode::Disable,
        "PREFERRED" => TlsMode::Prefer,
        "REQUIRED" => TlsMode::Require,
        "VERIFY_CA" => TlsMode::VerifyAuthority,
        "VERIFY_IDENTITY" => TlsMode::VerifyFull,
        _ => {
            return Err(
                "expected ssl-mode DISABLED, PREFERRED, REQUIRED, VERIFY_CA or VERIFY_IDENTITY".to_owned()
            );
        }
    })
}

fn decoded(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| format!("a part of the URL is not UTF-8; {EXPECTED}"))
}

impl fmt::Display for StoreLocation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreLocation::Sqlite(path) => path.display().fmt(formatter),
            StoreLocation::Postgres(database) | StoreLocation::MySql(database) => database.fmt(formatter),
        }
    }
}

impl fmt::Display for ServerDatabase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            "mysql://u:secret@h:x/d",
            "redis://:secret@h",
        ] {
            let message = text.parse::<StoreLocation>().unwrap_err();
            assert!(message.contains("expected a path"), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn urls_name_databases_of_servers_and_never_show_their_password() {
        let url = "postgresql+psycopg2://us%40er:s3%3Acret@db.example:5433/events%20db?sslmode=verify-full&sslrootcert=/ca.pem";
        let location: StoreLocation = url.parse().unwrap();
        assert!(!format!("{location} {location:?}").contains("s3"), "{location:?}");
        let StoreLocation::Postgres(database) = location else { panic!("{location}") };
        assert_eq!((database.host.as_str(), database.port), ("db.example", Some(5433)));
        assert_eq!((database.user.as_deref(), database.database.as_str()), (Some("us@er"), "events db"));
        assert_eq!(database.password.as_ref().map(Secret::expose), Some("s3:cret"));
        assert_eq!(database.tls.mode, TlsMode::VerifyFull);
        assert_eq!(database.tls.authorities, Some("/ca.pem".into()));
        let location: StoreLocation = "mariadb://u@h/d?ssl_mode=REQUIRED&charset=utf8mb4".parse().unwrap();
        let StoreLocation::MySql(database) = location else { panic!("{location}") };
        assert_eq!((database.tls.mode, database.port), (TlsMode::Require, None));
    }

    #[test]
    fn a_socket_is_a_host() {
        for url in ["postgres:///events?host=/run/postgresql", "postgres://%2Frun%2Fpostgresql/events"] {
            let location: StoreLocation = url.parse().unwrap();
            let StoreLocation::Postgres(database) = location else { panic!("{location}") };
            assert!(database.is_local_socket(), "{}", database.host);
        }
    }

    #[test]
    fn unknown_parameters_are_refused_without_repeating_them() {
        let message = "postgres://u@h/d?passwort=secret".parse::<StoreLocation>().unwrap_err();
        assert!(message.contains("sslmode") && !message.contains("secret"), "{message}");
    }
}
