//! The URL of a database of a server.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::{EXPECTED, LocationError};
use crate::secret::Secret;

/// A database of a server, and how to get there.
#[derive(Debug, Clone)]
pub struct ServerDatabase {
    /// The URL without its password.
    shown: String,
    /// Where the servers are, in the order in which they are tried; not empty.
    pub addresses: Vec<ServerAddress>,
    /// Who logs in, if the URL says so.
    pub user: Option<String>,
    password: Option<Secret>,
    pub database: String,
    pub tls: ServerTls,
    /// How long to wait for a connection to one address, if the URL says so.
    pub connect_timeout: Option<Duration>,
    /// Which of several servers will do.
    pub target: SessionTarget,
    /// What the driver of PostgreSQL takes as it stands, by the driver's names.
    pub driver_parameters: Vec<(String, String)>,
    /// The names of parameters that mean nothing here.
    pub passed_over: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddress {
    /// A host name or an address; or the path of a socket, or of its directory.
    pub host: String,
    pub port: Option<u16>,
}

/// How the connection to a server is encrypted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerTls {
    /// Whether, and what is verified.
    pub mode: TlsMode,
    /// The certificate authorities to trust, instead of those of the web.
    pub authorities: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// What `sslmode` (PostgreSQL) and `ssl-mode` (MySQL) say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsMode {
    Disable,
    /// Encrypted if the server can, and nothing verified.
    #[default]
    Prefer,
    /// Encrypted, and nothing verified but a certificate authority that is named.
    Require,
    /// Encrypted, the certificate's authority verified.
    VerifyAuthority,
    /// Encrypted, authority and name verified.
    VerifyFull,
}

/// What `target_session_attrs` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SessionTarget {
    /// Any server for reading, a writable one for writing.
    #[default]
    Any,
    ReadWrite,
    ReadOnly,
    /// One that takes none, or else any.
    PreferStandby,
}

/// The kind of server, which decides how parameters are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Postgres,
    MySql,
}

const UNCERTAIN: &str = "the URL cannot be read for sure: an `@` or a `#` stands behind the host";
const ENCODE: &str = "percent-encode what is special in user, password, database and parameters: \
    `@` is %40, `/` is %2F, `#` is %23, `?` is %3F, `:` is %3A, `%` is %25";

/// Parameters of other clients that change nothing here, or that say what is so anyway.
const WITHOUT_MEANING: [&str; 7] = [
    "application-name",
    "fallback-application-name",
    "client-encoding",
    "charset",
    "gssencmode",
    "sslcompression",
    "sslsni",
];

/// What a parameter has in its name that must not be passed over: without it the connection would be less safe
/// than was asked for, or lead elsewhere.
const NEVER_PASSED_OVER: [&str; 14] = [
    "ssl", "tls", "pass", "pwd", "auth", "require", "verif", "cert", "key", "user", "host", "port", "schema",
    "database",
];

/// Reads what follows `scheme://`.
pub fn server_database(dialect: Dialect, rest: &str) -> Result<ServerDatabase, LocationError> {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    // A `/`, `?` or `#` of a password that is not encoded would end the authority too early.
    if behind.contains(['@', '#']) {
        return Err(LocationError::with_hint(UNCERTAIN, ENCODE));
    }
    let (user_part, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = match user_part.split_once(':') {
        Some((user, password)) => (user, Some(decoded(password)?)),
        None => (user_part, None),
    };
    let (path, query) = behind.split_once('?').unwrap_or((behind, ""));
    let scheme = match dialect {
        Dialect::Postgres => "postgres",
        Dialect::MySql => "mysql",
    };
    let at = if user.is_empty() { "" } else { "@" };
    let mut database = ServerDatabase {
        shown: format!("{scheme}://{user}{at}{hosts}{behind}"),
        addresses: hosts.split(',').map(address).collect::<Result<_, _>>()?,
        user: Some(decoded(user)?).filter(|user| !user.is_empty()),
        password: password.filter(|password| !password.is_empty()).map(Secret::verbatim),
        database: decoded(path.trim_start_matches('/'))?,
        tls: ServerTls::default(),
        connect_timeout: None,
        target: SessionTarget::default(),
        driver_parameters: Vec::new(),
        passed_over: Vec::new(),
    };
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        database.set(dialect, &name.replace('_', "-"), &value)?;
    }
    if database.addresses.iter().any(|address| address.host.is_empty()) {
        return Err(format!("the host is missing; {EXPECTED}").into());
    }
    if database.database.is_empty() {
        return Err(format!("the name of the database is missing; {EXPECTED}").into());
    }
    Ok(database)
}

/// `host`, `host:port`, `[address]` or `[address]:port`.
fn address(text: &str) -> Result<ServerAddress, LocationError> {
    let (host, port) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').unwrap_or(rest))),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map(|port| port.parse()).transpose();
    let port = port.map_err(|_| format!("expected a port as a number; {EXPECTED}"))?;
    let host = decoded(host)?;
    if host.contains(|character: char| character.is_whitespace() || character.is_control()) {
        return Err(format!("a host has no spaces; {EXPECTED}").into());
    }
    Ok(ServerAddress { host, port })
}

impl ServerDatabase {
    pub fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }

    pub fn is_local_socket(&self) -> bool {
        self.addresses.iter().all(ServerAddress::is_local_socket)
    }

    /// Takes a parameter of the URL, as the client tools of the server name it.
    fn set(&mut self, dialect: Dialect, name: &str, value: &str) -> Result<(), LocationError> {
        use Dialect::{MySql, Postgres};
        let path = || Some(PathBuf::from(value));
        match (dialect, name) {
            (Postgres, "host") => self.set_hosts(value),
            (MySql, "socket" | "unix-socket") => {
                self.addresses = vec![ServerAddress { host: value.to_owned(), port: None }];
            }
            (_, "port") => self.set_ports(value)?,
            (Postgres, "sslmode") => self.tls.mode = postgres_mode(value)?,
            (MySql, "ssl-mode") => self.tls.mode = mysql_mode(value)?,
            (Postgres, "sslrootcert") | (MySql, "ssl-ca") => self.tls.authorities = path(),
            (Postgres, "sslcert") | (MySql, "ssl-cert") => self.tls.certificate = path(),
            (Postgres, "sslkey") | (MySql, "ssl-key") => self.tls.key = path(),
            (_, "connect-timeout") => {
                let seconds: i64 = value.parse().map_err(|_| "expected connect_timeout in seconds")?;
                // As libpq has it, zero and less are no limit; ours is.
                self.connect_timeout =
                    u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
            }
            (Postgres, "target-session-attrs") => self.target = session_target(value)?,
            (Postgres, "keepalives-count") => self.hand_on("keepalives_retries", value)?,
            (Postgres, "keepalives" | "keepalives-idle" | "keepalives-interval") => {
                self.hand_on(&name.replace('-', "_"), value)?;
            }
            (Postgres, "channel-binding" | "sslnegotiation" | "options") => {
                self.driver_parameters.push((name.replace('-', "_"), value.to_owned()));
            }
            // What we say of ourselves and of encodings does not change with the URL, nor how long we wait.
            (_, name) if WITHOUT_MEANING.contains(&name) => {}
            (Postgres, "tcp-user-timeout") => {}
            (_, name) if !value.is_empty() && (name == "load-balance-hosts" || !concerns_safety(name)) => {
                self.passed_over.push(name.replace('-', "_"))
            }
            (Postgres, _) => {
                return Err("unknown parameter of the URL: expected one of host, port, sslmode, sslrootcert, sslcert, \
                    sslkey, channel_binding, connect_timeout, target_session_attrs, keepalives, keepalives_idle, \
                    keepalives_interval, keepalives_count, options"
                    .into());
            }
            (MySql, _) => {
                return Err("unknown parameter of the URL: expected one of socket, port, ssl-mode, ssl-ca, ssl-cert, \
                    ssl-key, connect-timeout"
                    .into());
            }
        }
        Ok(())
    }

    fn set_hosts(&mut self, hosts: &str) {
        let ports: Vec<Option<u16>> = self.addresses.iter().map(|address| address.port).collect();
        let port = |at: usize| ports.get(at).or(ports.last()).copied().flatten();
        self.addresses = hosts
            .split(',')
            .enumerate()
            .map(|(at, host)| ServerAddress { host: host.to_owned(), port: port(at) })
            .collect();
    }

    /// One port for all hosts, or one for each.
    fn set_ports(&mut self, ports: &str) -> Result<(), LocationError> {
        let ports: Result<Vec<u16>, _> = ports.split(',').map(str::parse).collect();
        let ports = ports.map_err(|_| "expected a port as a number")?;
        if ports.len() > self.addresses.len() {
            let host = self.addresses.first().map(|address| address.host.clone()).unwrap_or_default();
            self.addresses.resize(ports.len(), ServerAddress { host, port: None });
        }
        for (at, address) in self.addresses.iter_mut().enumerate() {
            address.port = ports.get(at).or(ports.last()).copied();
        }
        Ok(())
    }

    fn hand_on(&mut self, name: &str, value: &str) -> Result<(), LocationError> {
        let number: u32 = value.parse().map_err(|_| format!("expected {name} as a number"))?;
        self.driver_parameters.push((name.to_owned(), number.to_string()));
        Ok(())
    }
}

impl ServerAddress {
    pub fn is_local_socket(&self) -> bool {
        self.host.starts_with('/')
    }
}

fn concerns_safety(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    NEVER_PASSED_OVER.iter().any(|part| name.contains(part))
}

fn postgres_mode(value: &str) -> Result<TlsMode, LocationError> {
    Ok(match value {
        "disable" => TlsMode::Disable,
        "allow" | "prefer" => TlsMode::Prefer,
        "require" => TlsMode::Require,
        "verify-ca" => TlsMode::VerifyAuthority,
        "verify-full" => TlsMode::VerifyFull,
        _ => return Err("expected sslmode disable, allow, prefer, require, verify-ca or verify-full".into()),
    })
}

fn mysql_mode(value: &str) -> Result<TlsMode, LocationError> {
    Ok(match value.to_ascii_uppercase().as_str() {
        "DISABLED" => TlsMode::Disable,
        "PREFERRED" => TlsMode::Prefer,
        "REQUIRED" => TlsMode::Require,
        "VERIFY_CA" => TlsMode::VerifyAuthority,
        "VERIFY_IDENTITY" => TlsMode::VerifyFull,
        _ => {
            return Err(
                "expected ssl-mode DISABLED, PREFERRED, REQUIRED, VERIFY_CA or VERIFY_IDENTITY".into()
            );
        }
    })
}

fn session_target(value: &str) -> Result<SessionTarget, LocationError> {
    Ok(match value {
        "any" => SessionTarget::Any,
        "read-write" | "primary" => SessionTarget::ReadWrite,
        "read-only" | "standby" => SessionTarget::ReadOnly,
        "prefer-standby" => SessionTarget::PreferStandby,
        _ => {
            return Err("expected target_session_attrs any, read-write, read-only, primary, standby or \
                prefer-standby"
                .into());
        }
    })
}

fn decoded(text: &str) -> Result<String, LocationError> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| format!("a part of the URL is not UTF-8; {EXPECTED}").into())
}

// The shown URL stands for all of it but the password.
impl PartialEq for ServerDatabase {
    fn eq(&self, other: &ServerDatabase) -> bool {
        self.shown == other.shown
    }
}

impl Eq for ServerDatabase {}

impl fmt::Display for ServerDatabase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown)
    }
}
