//! A connection to a PostgreSQL server: one of several addresses, deadlines of our own, and a bounded number of
//! prepared statements.
//!
//! The driver is asynchronous. Each connection drives it with a runtime of its own, on the thread that uses it, for as
//! long as something is asked of it.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::lookup_host;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Config, Row, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::super::location::{ServerAddress, ServerDatabase, SessionTarget};
use super::super::server::{self, CONNECT_TIMEOUT, Encryption, WRITE_TIME};
use super::super::statements::{Statements, Value};
use super::error::{PostgresError, cannot_use, gave_up_on_standbys};
use super::values::by_reference;
use crate::core::hint::{hinted, hinted_transient};

/// After how long without an answer the network asks whether the server is still there, and how often.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// How long a process that has stopped in the midst of a transaction keeps its locks.
const STOPPED_TIME: Duration = Duration::from_secs(5);

/// How much later than the server we give a statement up: whoever is asked first answers better.
const GRACE: Duration = Duration::from_secs(3);

/// How long the farewell to a server may take, which need not be there any more.
const FAREWELL_TIME: Duration = Duration::from_millis(100);

/// How many statements stay prepared; there are fewer than that, unless their texts differ.
const STATEMENTS: usize = 64;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Of several servers one that takes writes.
    Write,
    /// Of several servers the first that is there, or as the URL says.
    Read,
}

/// A connection with the statements that it has prepared.
pub struct Connection {
    client: Option<Client>,
    driver: Option<JoinHandle<()>>,
    runtime: Option<Runtime>,
    statements: HashMap<String, (Statement, u64)>,
    uses: u64,
    time_limit: Duration,
    /// What the server said when it gave up waiting for its standbys.
    given_up: Arc<Mutex<Option<String>>>,
    /// Whether an answer is outstanding that nobody waits for any more.
    abandoned: bool,
}

impl Connection {
    /// Connects to the first address that will do.
    ///
    /// # Errors
    /// Why none will, and what to do.
    pub fn connect(
        database: &ServerDatabase,
        purpose: Purpose,
        time_limit: Duration,
    ) -> anyhow::Result<Connection> {
        let runtime =
            Builder::new_current_thread().enable_all().build().context("cannot start a connection")?;
        let given_up = Arc::new(Mutex::new(None));
        let notices = Arc::clone(&given_up);
        let (client, driver) = runtime.block_on(connect_any(database, purpose, notices))?;
        Ok(Connection {
            client: Some(client),
            driver: Some(driver),
            runtime: Some(runtime),
            statements: HashMap::new(),
            uses: 0,
            time_limit: time_limit + GRACE,
            given_up,
            abandoned: false,
        })
    }

    /// Limits what the server does for us in time. Not by what is said when a connection begins, which poolers refuse.
    ///
    /// # Errors
    /// The server's.
    pub fn limit(&mut self) -> Result<(), PostgresError> {
        let statement_timeout = (self.time_limit - GRACE).as_millis();
        self.run(&format!(
            "SET statement_timeout = {statement_timeout}; SET idle_in_transaction_session_timeout = {}",
            STOPPED_TIME.as_millis()
        ))
    }

    /// Whether the connection is of no use any more, as far as is known.
    pub fn is_lost(&self) -> bool {
        self.abandoned || self.client().is_closed()
    }

    /// Has the connection count as lost.
    pub fn give_up(&mut self) {
        self.abandoned = true;
    }

    /// Looks, without waiting, whether the server has closed the connection.
    pub fn has_ended(&mut self) -> bool {
        let runtime = self.runtime.as_ref().expect("it is there until the connection is dropped");
        runtime.block_on(async {
            // The first has the network looked at, the second lets the driver see what is there.
            yield_now().await;
            yield_now().await;
        });
        self.is_lost()
    }

    /// Whether the server answers.
    pub fn is_alive(&mut self) -> bool {
        let answer = self.wait(CONNECT_TIMEOUT, self.client().simple_query(""));
        self.settle(answer).is_ok()
    }

    /// Runs statements that give nothing and take no values.
    pub fn run(&mut self, statements: &str) -> Result<(), PostgresError> {
        let answer = self.wait(self.time_limit, self.client().batch_execute(statements));
        self.settle(answer)
    }

    pub fn query_one(
        &mut self,
        statement: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, PostgresError> {
        let prepared = self.prepared(statement)?;
        let exchange = self.client().query_one(&prepared, values);
        let answer = self.wait(self.time_limit, exchange);
        self.settle(answer)
    }

    pub fn query(
        &mut self,
        statement: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, PostgresError> {
        let prepared = self.prepared(statement)?;
        let exchange = self.client().query(&prepared, values);
        let answer = self.wait(self.time_limit, exchange);
        self.settle(answer)
    }

    pub fn execute(&mut self, statement: &str, values: &[&(dyn ToSql + Sync)]) -> Result<u64, PostgresError> {
        let prepared = self.prepared(statement)?;
        let exchange = self.client().execute(&prepared, values);
        let answer = self.wait(self.time_limit, exchange);
        self.settle(answer)
    }

    /// The first column of the first row of a statement without values.
    pub fn text(&mut self, statement: &str) -> Result<String, PostgresError> {
        Ok(self.query_one(statement, &[])?.try_get::<_, Option<String>>(0)?.unwrap_or_default())
    }

    fn prepared(&mut self, statement: &str) -> Result<Statement, PostgresError> {
        self.uses += 1;
        if let Some((prepared, last_use)) = self.statements.get_mut(statement) {
            *last_use = self.uses;
            return Ok(prepared.clone());
        }
        let text = numbered(statement);
        let answer = self.wait(self.time_limit, self.client().prepare(&text));
        let prepared = self.settle(answer)?;
        if self.statements.len() >= STATEMENTS {
            let oldest = self.statements.iter().min_by_key(|(_, (_, last_use))| *last_use);
            let oldest = oldest.map(|(statement, _)| statement.clone());
            // The driver closes what is dropped.
            oldest.and_then(|oldest| self.statements.remove(&oldest));
        }
        self.statements.insert(statement.to_owned(), (prepared.clone(), self.uses));
        Ok(prepared)
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("it is there until the connection is dropped")
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is there until the connection is dropped")
    }

    /// Drives the driver until there is an answer, or for as long as that may take.
    fn wait<T>(&self, limit: Duration, answer: impl Future<Output = T>) -> Result<T, Elapsed> {
        self.runtime().block_on(async { timeout(limit, answer).await })
    }

    fn settle<T>(
        &mut self,
        answer: Result<Result<T, tokio_postgres::Error>, Elapsed>,
    ) -> Result<T, PostgresError> {
        let Ok(answer) = answer else {
            self.abandoned = true;
            return Err(PostgresError::TimedOut(self.time_limit));
        };
        match self.given_up.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(reason) => Err(PostgresError::NotReplicated(reason)),
            None => Ok(answer?),
        }
    }
}

/// Closes the connection, and waits for no server that has gone.
impl Drop for Connection {
    fn drop(&mut self) {
        self.statements.clear();
        drop(self.client.take());
        let Some(runtime) = self.runtime.take() else { return };
        if let Some(driver) = self.driver.take()
            && !self.abandoned
            && !driver.is_finished()
        {
            let _ = runtime.block_on(async { timeout(FAREWELL_TIME, driver).await });
        }
        runtime.shutdown_background();
    }
}

impl Statements for Connection {
    type Error = PostgresError;

    const FOR_UPDATE: &'static str = " FOR UPDATE";

    fn begin(&mut self) -> Result<(), PostgresError> {
        self.run("BEGIN ISOLATION LEVEL READ COMMITTED")
    }

    fn commit(&mut self) -> Result<(), PostgresError> {
        self.run("COMMIT")
    }

    fn execute(&mut self, statement: &str, values: &[Value]) -> Result<(), PostgresError> {
        Connection::execute(self, statement, &by_reference(values)).map(drop)
    }

    fn query<const COLUMNS: usize>(
        &mut self,
        statement: &str,
        values: &[Value],
    ) -> Result<Vec<[Value; COLUMNS]>, PostgresError> {
        let rows = Connection::query(self, statement, &by_reference(values))?;
        let row = |row: &Row| -> Result<[Value; COLUMNS], PostgresError> {
            let mut values = [const { Value::Null }; COLUMNS];
            for (column, value) in values.iter_mut().enumerate() {
                *value = row.try_get(column)?;
            }
            Ok(values)
        };
        rows.iter().map(row).collect()
    }
}

/// The statement with its values numbered, as PostgreSQL has them.
fn numbered(statement: &str) -> String {
    let mut parts = statement.split('?');
    let mut numbered = parts.next().unwrap_or_default().to_owned();
    for (position, part) in parts.enumerate() {
        numbered.push_str(&format!("${}{part}", position + 1));
    }
    numbered
}

type Notices = Arc<Mutex<Option<String>>>;

/// Where a server may be: an address as the URL has it, and one that its name stands for.
type Place<'a> = (&'a ServerAddress, Option<IpAddr>);

async fn connect_any(
    database: &ServerDatabase,
    purpose: Purpose,
    notices: Notices,
) -> anyhow::Result<(Client, JoinHandle<()>)> {
    let tls = MakeRustlsConnect::new(server::tls_config(database)?);
    let time_limit = database.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
    let mut failures: Vec<(String, PostgresError)> = Vec::new();
    let places = places_of(database, time_limit, &mut failures).await;
    for target in targets_of(database, purpose, places.len()) {
        for (address, resolved) in &places {
            let mut config = config_of(database, address)?;
            config.target_session_attrs(target);
            if let Some(resolved) = resolved {
                config.hostaddr(*resolved);
            }
            let connecting = timeout(time_limit, config.connect(tls.clone())).await;
            let failure = match connecting {
                Ok(Ok((client, connection))) => {
                    return Ok((client, tokio::spawn(drive(connection, notices))));
                }
                Ok(Err(error)) => error.into(),
                Err(_) => PostgresError::TimedOut(time_limit),
            };
            failures.push((shown(address, *resolved), failure));
        }
    }
    Err(cannot_connect(database, &failures))
}

/// Which kinds of server will do, the best first.
fn targets_of(database: &ServerDatabase, purpose: Purpose, places: usize) -> Vec<TargetSessionAttrs> {
    match (database.target, purpose) {
        // The only one says itself that it takes no writes.
        (SessionTarget::Any | SessionTarget::PreferStandby, Purpose::Write) if places > 1 => {
            vec![TargetSessionAttrs::ReadWrite]
        }
        (SessionTarget::ReadWrite, _) => vec![TargetSessionAttrs::ReadWrite],
        (SessionTarget::ReadOnly, _) => vec![TargetSessionAttrs::ReadOnly],
        (SessionTarget::PreferStandby, Purpose::Read) => {
            vec![TargetSessionAttrs::ReadOnly, TargetSessionAttrs::Any]
        }
        (SessionTarget::Any | SessionTarget::PreferStandby, _) => vec![TargetSessionAttrs::Any],
    }
}

/// All addresses that the hosts of the URL stand for.
async fn places_of<'a>(
    database: &'a ServerDatabase,
    time_limit: Duration,
    failures: &mut Vec<(String, PostgresError)>,
) -> Vec<Place<'a>> {
    let mut places = Vec::new();
    for address in &database.addresses {
        if address.is_local_socket() {
            places.push((address, None));
            continue;
        }
        let looked_up = timeout(time_limit, lookup_host((address.host.as_str(), port_of(address)))).await;
        match looked_up {
            Ok(Ok(found)) => places.extend(found.map(|found| (address, Some(found.ip())))),
            // The driver says of it what it would say without us.
            Ok(Err(_)) => places.push((address, None)),
            Err(_) => failures.push((shown(address, None), PostgresError::TimedOut(time_limit))),
        }
    }
    places
}

fn port_of(address: &ServerAddress) -> u16 {
    address.port.unwrap_or(5432)
}

fn shown(address: &ServerAddress, resolved: Option<IpAddr>) -> String {
    match resolved {
        Some(resolved) if resolved.to_string() != address.host => format!("{} ({resolved})", address.host),
        _ => address.host.clone(),
    }
}

fn config_of(database: &ServerDatabase, address: &ServerAddress) -> anyhow::Result<Config> {
    let quoted = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
    let parameters =
        database.driver_parameters.iter().map(|(name, value)| format!("{name}='{}' ", quoted(value)));
    let parsed = parameters.collect::<String>().parse();
    let mut config: Config = parsed.map_err(|error: tokio_postgres::Error| {
        let problem = format!("cannot use `{database}`: {}", PostgresError::from(error));
        hinted(
            problem,
            "give each parameter of the URL a value that PostgreSQL's documentation of libpq names",
        )
    })?;
    let is_given = |name: &str| database.driver_parameters.iter().any(|(given, _)| given == name);
    if !is_given("keepalives_idle") {
        config.keepalives_idle(KEEPALIVE);
    }
    if !is_given("keepalives_interval") {
        config.keepalives_interval(KEEPALIVE);
    }
    if !is_given("keepalives_retries") {
        config.keepalives_retries(3);
    }
    let user =
        database.user.clone().or_else(|| std::env::var("PGUSER").ok()).or_else(|| std::env::var("USER").ok());
    config
        .host(&address.host)
        .port(port_of(address))
        .dbname(&database.database)
        .user(user.unwrap_or_else(|| "postgres".to_owned()))
        .application_name("eventctl")
        .tcp_user_timeout(WRITE_TIME)
        .ssl_mode(match server::encryption(database) {
            Encryption::Never => SslMode::Disable,
            Encryption::IfPossible => SslMode::Prefer,
            Encryption::Always => SslMode::Require,
        });
    if let Some(password) = database.postgres_password(address)? {
        config.password(password.expose());
    }
    Ok(config)
}

/// Hands what goes in and out between the client and the network, and keeps what the server says on its own account.
async fn drive<S, T>(mut connection: tokio_postgres::Connection<S, T>, notices: Notices)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    // Whoever asks something hears that the connection has ended.
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notice(notice) = message
            && gave_up_on_standbys(&notice)
        {
            *notices.lock().unwrap_or_else(PoisonError::into_inner) = Some(notice.message().to_owned());
        }
    }
}

fn cannot_connect(database: &ServerDatabase, failures: &[(String, PostgresError)]) -> anyhow::Error {
    let reasons: Vec<String> = match failures {
        [(_, only)] => vec![only.to_string()],
        several => several.iter().map(|(place, failure)| format!("{place}: {failure}")).collect(),
    };
    let problem = format!("cannot connect to `{database}`: {}", reasons.join("; "));
    // Who is not let in lacks no rights on tables.
    let mut hints = failures.iter().rev().filter_map(|(_, failure)| failure.hint());
    let hint = hints.find(|hint| *hint != server::RIGHTS_HINT).unwrap_or(
        "check host, port, user, database and password (PGPASSWORD, PGPASSFILE) of --db, and sslmode",
    );
    if failures.iter().any(|(_, failure)| failure.is_transient()) {
        hinted_transient(problem, hint)
    } else {
        hinted(problem, hint)
    }
}

/// Refuses a pooler that gives the session of one client to others, transaction by transaction: what a session has set
/// and prepared would be theirs, and theirs ours.
///
/// # Errors
/// It is one, or the server does not answer.
pub fn check_session(
    connection: &mut Connection,
    database: &ServerDatabase,
    purpose: Purpose,
) -> anyhow::Result<()> {
    let mark = uuid::Uuid::now_v7().to_string();
    let other = Connection::connect(database, purpose, CONNECT_TIMEOUT);
    // A pooler that has no session left for a second client shares none.
    let Ok(mut other) = other else { return Ok(()) };
    let mut is_shared = || -> Result<bool, PostgresError> {
        // The simple protocol, as poolers may refuse prepared statements.
        connection.run(&format!("SET eventctl.session = '{mark}'"))?;
        let select = "SELECT current_setting('eventctl.session', true)";
        Ok(other.first_text(select)?.as_deref() == Some(&mark)
            || connection.first_text(select)?.as_deref() != Some(&mark))
    };
    if is_shared().map_err(|error| cannot_use(database, &error))? {
        let problem =
            format!("cannot use `{database}`: a pooler gives its sessions to others (transaction pooling)");
        return Err(hinted(problem, server::POOLER_HINT));
    }
    Ok(())
}

impl Connection {
    /// The first value of a statement, by the simple protocol.
    fn first_text(&mut self, statement: &str) -> Result<Option<String>, PostgresError> {
        let answer = self.wait(self.time_limit, self.client().simple_query(statement));
        let messages = self.settle(answer)?;
        Ok(messages.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        }))
    }
}
